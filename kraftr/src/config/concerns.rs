//! Everything that can be configured. This is the only list: the parser, the flags, `kraftr config` and
//! docs/config.md come from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kraftr_scheduler::blobs::s3::Encryption;

use super::field::{Concern, Field, concern};
use super::folder::Folder;
use super::value::{AmqpUrl, DatabaseUrl, HttpUrl, LogFilter, Name, Secret, WatermarkKeys, Within};

concern! {
    /// What every process does.
    pub struct Process = "", read by [Scheduler Worker] {
        /// What to log to standard error, such as `info` or `kraftr_worker=debug,warn`.
        log: LogFilter = "info";
    }
}

concern! {
    /// How a process starts.
    pub struct Startup = "startup", read by [Scheduler Worker] {
        /// How long to wait for services that are not up yet; then the process gives up and says what is missing.
        patience: Duration = "1m";
    }
}

concern! {
    /// The HTTP API.
    pub struct Http = "http", read by [Scheduler] {
        /// Address to listen on; port 0 takes a free one.
        listen: SocketAddr = "127.0.0.1:8080", flag "listen";
        /// Where clients reach the API, when that is not the address it listens on.
        public_url: Option<HttpUrl>, flag "public-url";
        /// How long requests under way may go on once it stops.
        grace: Duration = "20s";
        /// How many proxies of yours every request comes through. Each must add to `X-Forwarded-For` whom it heard; then
        /// limits for an address count clients, not the proxy.
        proxies: Within<0, 8> = "0";
        /// Accept webhooks to private addresses and over plain HTTP: for development.
        allow_private_webhooks: bool = "false", flag "allow-private-webhooks";
    }
}

concern! {
    /// The database, the only source of truth.
    pub struct Database = "database", read by [Scheduler Admin] {
        /// Where it is: PostgreSQL, or an SQLite file. Every user of the machine can read flags: a URL with a password
        /// belongs into a file or the environment.
        url: DatabaseUrl, flag "database-url";
        /// Connections that one process opens at most.
        connections: Within<2, 200> = "10";
    }
}

concern! {
    /// The broker between scheduler and workers.
    pub struct Amqp = "amqp", read by [Scheduler Worker Admin] {
        /// Where it is.
        url: AmqpUrl;
        /// What the names of all its queues and exchanges begin with: one fleet, one namespace.
        namespace: Name = "kraftr.v1";
    }
}

concern! {
    /// The object store.
    pub struct S3 = "s3", read by [Scheduler Admin] {
        /// Where it is, as scheduler and workers reach it.
        endpoint: Option<HttpUrl>;
        /// Its region.
        region: String = "us-east-1";
        /// The bucket that holds everything; it must be there.
        bucket: String;
        /// Who we are to it.
        access_key_id: Secret;
        /// How we prove it.
        secret_access_key: Secret;
        /// Whether the bucket stands in the path (`endpoint/bucket/key`) instead of the host name.
        path_style: bool = "false";
        /// What every key begins with, where the bucket is shared.
        prefix: Option<Name>;
        /// How objects are encrypted at rest: as the bucket says, with the store's keys, or with a key of KMS.
        encryption: Encryption = "bucket";
    }
}

concern! {
    /// How renders are handed out.
    pub struct Dispatch = "dispatch", read by [Scheduler] {
        /// The pool of workers that renders go to.
        pool: Name = "default", flag "pool";
        /// Accept renders of the `noop` release, which makes empty pictures: for load tests.
        offer_noop: bool = "false", flag "offer-noop";
    }
}

concern! {
    /// The releases, and where their weights lie.
    pub struct Models = "models", read by [Scheduler Worker Model] {
        /// The folder of manifests: every `*.toml` in it is a release beside those that are compiled in.
        manifests: Option<Folder>, flag "manifests";
        /// The folder of weights, under the names that manifests give them. A scheduler that has none offers every
        /// release: the weights are where the workers are.
        weights: Option<Folder>, flag "weights";
        /// Use releases with files whose licence forbids commercial use. Without it they are not offered, not loaded and
        /// not rendered with.
        allow_noncommercial: bool = "false", flag "allow-noncommercial";
    }
}

concern! {
    /// One worker.
    pub struct Worker = "worker", read by [Worker] {
        /// Its pool: workers of one hardware class.
        pool: Name = "default", flag "pool";
        /// Where its models run: `cpu`, `cuda` or `cuda:N`.
        device: String = "cpu", flag "device";
        /// Renders it holds at once; more than `max_batch` keeps the engine busy while others are fetched and uploaded.
        slots: Within<1, 256> = "2", flag "slots";
        /// Releases it loads and takes renders for; without any, every release whose weights are there. It takes renders
        /// with scenes where a release's painter is there too; `release+painter` insists on that.
        releases: Option<Vec<String>>, flag "releases";
        /// Pull the weights of `releases` that are missing before it starts; see `kraftr model pull`.
        pull: bool = "false", flag "pull";
        /// How long running renders may go on once it drains; then they are handed back.
        grace: Duration = "20s", flag "grace";
        /// Samples in one forward pass.
        max_batch: Within<1, 64> = "4";
        /// Steps between two previews of a render; 0 makes none.
        preview_every: Within<0, 1000> = "4";
    }
}

concern! {
    /// The invisible mark in every picture.
    pub struct Watermark = "watermark", read by [Scheduler Worker Verify Watermark] {
        /// The key ring: `id=64 hexadecimal digits`, one a line or with commas between them, the newest first.
        /// Without one the development key is used, with a warning: anybody can forge and erase its marks.
        keys: Option<WatermarkKeys>;
    }
}

concern! {
    /// Content Credentials (C2PA): who signs what is delivered, and whose signatures are trusted.
    pub struct Credentials = "credentials", read by [Scheduler Verify] {
        /// The file of certificates in PEM form: the signer's (ES256, issued by a CA), then who issued it. Without one an
        /// authority for development is made once and kept in the database: what it signs is valid and nobody trusts it.
        chain: Option<PathBuf>;
        /// The signer's private key of the curve P-256 in PEM form.
        key: Option<Secret>;
        /// A shell command that signs instead, such as one that asks a key management service: it reads the bytes to
        /// sign from standard input and writes the ES256 signature over them, raw or in DER.
        sign_command: Option<String>;
        /// The file of certificates in PEM form whose signatures are trusted when pictures are verified.
        anchors: Option<PathBuf>, flag "anchors";
    }
}

/// A table of the file: its name, what it is about, its fields.
pub type Section = (&'static str, &'static [Field]);

const fn section<C: Concern>() -> Section {
    (C::ABOUT, C::FIELDS)
}

/// Every table, in the order in which they are documented.
pub const SECTIONS: &[Section] = &[
    section::<Process>(),
    section::<Startup>(),
    section::<Http>(),
    section::<Database>(),
    section::<Amqp>(),
    section::<S3>(),
    section::<Dispatch>(),
    section::<Models>(),
    section::<Worker>(),
    section::<Watermark>(),
    section::<Credentials>(),
];

/// Every field.
pub fn fields() -> impl Iterator<Item = &'static Field> {
    SECTIONS.iter().flat_map(|(_, fields)| *fields)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::field::Role;

    #[test]
    fn defaults_are_values_and_shown_as_they_are_written() {
        for field in fields() {
            if let Some(default) = field.default {
                assert_eq!((field.show)(default).as_deref(), Some(default), "{}", field.key());
            }
        }
    }

    #[test]
    fn names_are_different_and_follow_the_key() {
        let variables: BTreeSet<String> = fields().map(Field::variable).collect();
        assert_eq!(variables.len(), fields().count());
        for name in [
            "DATABASE_URL",
            "AMQP_URL",
            "S3_ENDPOINT",
            "S3_REGION",
            "S3_BUCKET",
            "S3_ACCESS_KEY_ID",
            "S3_SECRET_ACCESS_KEY",
            "S3_PATH_STYLE",
            "HTTP_LISTEN",
            "WORKER_SLOTS",
            "WORKER_POOL",
            "WORKER_RELEASES",
            "WORKER_GRACE",
            "DISPATCH_OFFER_NOOP",
            "LOG",
        ] {
            assert!(variables.contains(&format!("KRAFTR_{name}")), "{name}");
        }
    }

    #[test]
    fn a_worker_reads_no_credentials_but_the_brokers_and_the_watermarks() {
        let secrets = fields().filter(|field| field.is_read_by(Role::Worker) && field.can_be_a_file());
        assert_eq!(secrets.map(Field::key).collect::<Vec<_>>(), ["amqp.url", "watermark.keys"]);
    }
}
