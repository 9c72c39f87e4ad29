//! `kraftr admin`: orgs, keys, credits, dead letters and repair, straight on the database; and what workers are told.

mod dead_letters;
mod fsck;
mod workers;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kraftr_protocol::OrgId;
use kraftr_scheduler::blobs::directory::DirectoryBlobs;
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_scheduler::domain::invariants::{Audit, Invariant};
use kraftr_scheduler::provenance::development_authority;
use kraftr_scheduler::store::Store;
use kraftr_scheduler::store::sqlite::SqliteStore;

use crate::cli::{AdminArgs, AdminCommand, DATA_DIR, KeyCommand, LedgerCommand, OrgChoice, OrgCommand};
use crate::commands::Outcome;
use crate::config::concerns::{Amqp, Database, S3};
use crate::config::value::{DatabaseKind, Setting};
use crate::config::{Role, Scope, Settings};
use crate::data_dir::DataDir;
use crate::{connect, fleet, output};

/// Runs the command, also beside a running fleet.
pub async fn run(args: AdminArgs) -> Result<Outcome> {
    if let AdminCommand::Worker(command) = &args.command {
        workers::run(&args, command).await?;
        return Ok(Outcome::Done);
    }
    let opened = open(&args).await?;
    let store = &*opened;
    match args.command {
        AdminCommand::Org(OrgCommand::List) => list_orgs(store).await?,
        AdminCommand::Org(OrgCommand::Create { name }) => output::line(store.create_org(&name).await?.id)?,
        AdminCommand::Key(KeyCommand::Create { org, label }) => {
            let (key, secret) =
                fleet::create_key(store, &SystemIds, chosen(store, &org).await?, &label).await?;
            output::note(format_args!("{key}; the secret is shown this once:"))?;
            output::line(secret)?;
        }
        AdminCommand::Key(KeyCommand::List { org }) => list_keys(store, chosen(store, &org).await?).await?,
        AdminCommand::Key(KeyCommand::Revoke { key }) => {
            if !store.revoke_key(key).await? {
                bail!("there is no key {key}: `kraftr admin key list` shows them");
            }
            output::line(format_args!("{key} is revoked"))?;
        }
        AdminCommand::Grant { org, credits, reference } => {
            let org = chosen(store, &org).await?;
            let fresh = store.grant(org, credits, &reference).await?;
            let balance = store.balance(org).await?;
            let what = if fresh { "granted" } else { "was granted before under this reference" };
            output::line(format_args!(
                "{credits} {what}; {org} has {} posted, {} held",
                balance.posted, balance.held
            ))?;
        }
        AdminCommand::Authority => {
            let authority = development_authority(store, &SystemClock).await?;
            output::line(authority.certificate.trim_end())?;
        }
        AdminCommand::Ledger(LedgerCommand::Audit { json }) => {
            let audit = store.audit().await?;
            if json {
                output::json(&AuditReport { ok: audit.ok(), audit: &audit })?;
            } else {
                print_audit(&audit)?;
            }
            return Ok(if audit.ok() { Outcome::Done } else { Outcome::FoundFault });
        }
        AdminCommand::DeadLetters(command) => dead_letters::run(store, command).await?,
        // Needs no database, so it was run before one was opened.
        AdminCommand::Worker(_) => {}
        AdminCommand::Fsck { repair, json } => {
            return fsck::run(sides(&args, opened).await?, repair, json).await;
        }
    }
    Ok(Outcome::Done)
}

/// The database that is meant: of the directory that is named, else the one that is configured, else of the usual
/// directory.
async fn open(args: &AdminArgs) -> Result<Arc<dyn Store>> {
    if let Some(directory) = &args.data_dir {
        return open_directory(directory).await;
    }
    let mut settings = Settings::load(&args.flags.sources(), Scope::Role(Role::Admin));
    if settings.has("database.url") {
        let database = settings.read::<Database>();
        let database = settings.finish(database)?;
        // Opening would make it: an operator who mistyped a path is not looking for an empty database.
        if let DatabaseKind::Sqlite(path) = database.url.kind()
            && !path.is_file()
        {
            bail!("there is no database at {}", path.display());
        }
        let opened = connect::database(&database).await;
        return opened.with_context(|| format!("the database {}", database.url.show()));
    }
    settings.finish(Some(()))?;
    open_directory(Path::new(DATA_DIR)).await
}

/// What `fsck` compares: a directory's own parts, else the services that are configured.
async fn sides(args: &AdminArgs, store: Arc<dyn Store>) -> Result<fsck::Sides> {
    let mut settings = Settings::load(&args.flags.sources(), Scope::Role(Role::Admin));
    if args.data_dir.is_some() || !settings.has("database.url") {
        settings.finish(Some(()))?;
        let directory = args.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR));
        let objects = DataDir::existing(directory)?.blobs();
        let blobs = DirectoryBlobs::beside(objects, Arc::new(SystemClock));
        return Ok(fsck::Sides { store, blobs: Arc::new(blobs), broker: None });
    }
    let broker: Option<Amqp> = if settings.has("amqp.url") { settings.read() } else { None };
    let s3: Option<S3> = settings.read();
    let s3 = settings.finish(s3)?;
    let blobs = connect::objects(&s3);
    blobs.check().await.context("the bucket")?;
    let broker = match broker {
        Some(config) => Some(connect::reach_broker(&config, fsck::PATIENCE).await?),
        None => None,
    };
    Ok(fsck::Sides { store, blobs: Arc::new(blobs), broker })
}

async fn open_directory(directory: &Path) -> Result<Arc<dyn Store>> {
    let file = DataDir::existing(directory)?.database();
    Ok(Arc::new(SqliteStore::open(&file, Arc::new(SystemClock), Arc::new(SystemIds)).await?))
}

#[derive(serde::Serialize)]
struct AuditReport<'a> {
    ok: bool,
    #[serde(flatten)]
    audit: &'a Audit,
}

fn print_audit(audit: &Audit) -> Result<()> {
    let Audit { orgs, renders, entries, violations } = audit;
    for violation in violations {
        output::line(format_args!("{:?}: {}", violation.invariant, violation.detail))?;
    }
    let verdict = if audit.ok() {
        "the books are right".to_owned()
    } else {
        format!("{} violations", violations.len())
    };
    let checks = Invariant::ALL.len();
    output::line(format_args!(
        "{orgs} orgs, {renders} renders, {entries} entries, {checks} invariants: {verdict}"
    ))?;
    Ok(())
}

/// The org that was named, or the only one.
async fn chosen(store: &dyn Store, choice: &OrgChoice) -> Result<OrgId> {
    let orgs = store.orgs().await?;
    match (choice.org, orgs.as_slice()) {
        (Some(id), _) if orgs.iter().any(|org| org.id == id) => Ok(id),
        (Some(id), _) => bail!("there is no org {id}: `kraftr admin org list` shows them"),
        (None, [only]) => Ok(only.id),
        (None, []) => bail!("there is no org yet: `kraftr admin org create NAME` makes one"),
        (None, _) => {
            bail!("there are {} orgs, name one with --org: `kraftr admin org list` shows them", orgs.len())
        }
    }
}

async fn list_orgs(store: &dyn Store) -> Result<()> {
    let mut rows = vec![["ORG", "POSTED", "HELD", "CREATED", "NAME"].map(str::to_owned).to_vec()];
    for org in store.orgs().await? {
        let balance = store.balance(org.id).await.with_context(|| format!("the balance of {}", org.id))?;
        rows.push(vec![
            org.id.to_string(),
            balance.posted.to_string(),
            balance.held.to_string(),
            org.created_at.to_string(),
            org.name,
        ]);
    }
    output::table(&rows)?;
    Ok(())
}

async fn list_keys(store: &dyn Store, org: OrgId) -> Result<()> {
    let mut rows = vec![["KEY", "CREATED", "REVOKED", "LABEL"].map(str::to_owned).to_vec()];
    for key in store.keys(org).await? {
        let revoked = key.revoked_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        rows.push(vec![key.id.to_string(), key.created_at.to_string(), revoked, key.label]);
    }
    output::table(&rows)?;
    Ok(())
}
