//! The command line: what can be asked for, and how each command explains itself.

mod admin;
mod model;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};
use kraftr_protocol::limits::{SAMPLES_MAX, SCENE_CHARS_MAX, SEED_MAX};
use kraftr_protocol::spec::Prompt;
use kraftr_protocol::{Category, GarmentPhoto, Quality, WatermarkRef};

pub use self::admin::*;
pub use self::model::*;

use crate::config::Role;
use crate::config::sources::{
    CONFIG_HELP, Flags, ForAdmin, ForModel, ForScheduler, ForVerify, ForWatermark, ForWorker,
};

/// Product photos from a person, a garment and a GPU.
#[derive(Debug, Parser)]
#[command(name = "kraftr", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to log to standard error.
    #[arg(long, global = true, value_name = "FILTER", help = LOG_HELP)]
    pub log: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const LOG_HELP: &str =
    "What to log to standard error, such as `info` or `kraftr_worker=debug,warn` [env: KRAFTR_LOG]";

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 it failed, or a check found what must not be (model check, model parity, config check, admin ledger audit); \
2 the command line is wrong.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole path once: upload, render, watermark, ledger
    #[command(after_help = "\
Examples:
  kraftr demo
  kraftr demo --person me.png --garment shirt.png --category tops
  kraftr demo --serve --data-dir demo-data")]
    Demo(DemoArgs),
    /// Run the fleet as a server whose data survive restarts
    #[command(after_help = "\
Everything lies under --data-dir; stop it in any way, also with SIGKILL, and start it again.
The first start of a data directory makes an org with 1,000 credits and one API key, shown once.

Examples:
  kraftr dev
  kraftr dev --listen 127.0.0.1:0 --data-dir /tmp/fleet --ready-file /tmp/fleet.json

The ready file holds {\"url\":…,\"api_key\":…} and appears whole; api_key is null unless it is a new one.")]
    Dev(DevArgs),
    /// Run a scheduler: HTTP API, dispatcher and books, on PostgreSQL, RabbitMQ and S3
    #[command(after_help = "\
Run as many as you like against the same services: any of them serves requests, one leads the dispatching, and another
takes over within seconds when that one is gone. `kraftr config reference` lists everything that can be configured.

Examples:
  kraftr config check --role scheduler
  kraftr scheduler --listen 0.0.0.0:8080 --public-url https://render.example.com
  KRAFTR_DATABASE_URL_FILE=/run/secrets/database kraftr scheduler --config /etc/kraftr.toml

SIGTERM and SIGINT finish the requests under way and resign; a second one ends at once.
The ready file holds {\"url\":…,\"api_key\":null} and appears whole once it serves.")]
    Scheduler(SchedulerArgs),
    /// Run a worker: it needs the broker, and no other credentials
    #[command(after_help = "\
Examples:
  kraftr config check --role worker
  kraftr worker --pool h100 --device cuda:0 --slots 4
  KRAFTR_AMQP_URL=amqp://… kraftr worker --releases demo-tryon --grace 5m

SIGTERM and SIGINT drain it: it takes nothing new, running renders finish within the grace or are handed back and count
for nothing; a second one ends at once. The ready file holds {\"worker\":\"wrk_…\"} and appears whole once it takes renders.")]
    Worker(WorkerArgs),
    /// Look at the configuration of scheduler and workers
    #[command(after_help = "\
Examples:
  kraftr config check --role scheduler
  kraftr config show --role worker --config /etc/kraftr.toml
  kraftr config reference")]
    Config(ConfigArgs),
    /// Render with the model and the watermark alone, without a server
    #[command(after_help = "\
Examples:
  kraftr render --person person.png --garment tee.png --category tops --out out.png
  kraftr render --person person.png --garment tee.png --category tops --out out.jpg --samples 4 --seed 7
  kraftr render --model stable-diffusion-1.5 --prompt 'a beach' --keep person.png --matte matte.png --out out.png")]
    Render(RenderArgs),
    /// Look at releases, fetch their weights, prove and measure them
    #[command(after_help = "\
Releases are the compiled-in ones and the *.toml of --manifests; their weights lie in --weights.

Examples:
  kraftr model list
  kraftr model --manifests manifests --weights weights pull tryon-7
  kraftr model --manifests manifests --weights weights check tryon-7 --json")]
    Model(ModelArgs),
    /// Look after orgs, keys, credits and dead letters, also while the fleet runs
    #[command(after_help = "\
Works on the database that is configured (--database-url, KRAFTR_DATABASE_URL, [database] url), else on a data directory.

Examples:
  kraftr admin org list
  kraftr admin --data-dir fleet key create --label laptop
  kraftr admin grant --credits 500 --reference invoice-17
  kraftr admin ledger audit --json")]
    Admin(AdminArgs),
    /// Read and write the invisible watermark of a picture
    #[command(subcommand)]
    Watermark(WatermarkCommand),
    /// Say where a picture comes from: by its mark and its Content Credentials
    #[command(after_help = "\
Without --url it looks with the keys and anchors of this machine's configuration ([watermark] keys, [credentials]
anchors), and cannot say what a mark leads to. Exit code 1 when the picture has neither a mark nor a manifest that
somebody who is trusted signed.

Examples:
  kraftr verify result.png
  kraftr verify --url http://127.0.0.1:8080 result.jpg --json
  kraftr verify --anchors ca.pem result.png")]
    Verify(VerifyArgs),
    /// Measure this machine
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// What `kraftr bench` can measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// How many renders a second the control plane carries when its model takes no time
    #[command(after_help = "\
Submissions, holds, dispatch, claims, events and captures are real and durable; pictures are neither made nor
stored. Each phase has --jobs renders: accepted one by one, accepted in batches, and carried from submission to
capture. --rate adds an open loop of ten seconds: how long acceptance, dispatch and completion take.
The last pass counts what a render costs in round trips, commits and messages.

Without configuration it runs on an SQLite file and inside one process. A database or broker that is configured
(KRAFTR_DATABASE_URL, KRAFTR_AMQP_URL) is used instead; it should be nobody else's meanwhile. The database keeps
the rows, for `kraftr admin ledger audit`.

Examples:
  kraftr bench control-plane --json
  kraftr bench control-plane --jobs 2000 --orgs 20 --workers 4 --rate 100
  kraftr bench control-plane --bare --rate 400")]
    ControlPlane(ControlPlaneArgs),
}

/// Arguments of `kraftr bench control-plane`.
#[derive(Debug, Args)]
pub struct ControlPlaneArgs {
    /// Renders of each phase
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub jobs: u32,
    /// Orgs that submit in turn
    #[arg(long, value_name = "M", default_value_t = 10, value_parser = value_parser!(u32).range(1..=10_000))]
    pub orgs: u32,
    /// Workers
    #[arg(long, value_name = "W", default_value_t = 4, value_parser = value_parser!(u32).range(1..=256))]
    pub workers: u32,
    /// Renders that a worker holds at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..=256))]
    pub slots: u32,
    /// Renders a second of the open loop [default: no open loop]
    #[arg(long, value_name = "R", value_parser = value_parser!(u32).range(1..=100_000))]
    pub rate: Option<u32>,
    /// Renders that wait all the time, in a lane that no worker takes
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u32).range(0..=10_000_000))]
    pub backlog: u32,
    /// Only the way between scheduler and workers: no store, no claims
    #[arg(long, conflicts_with = "backlog")]
    pub bare: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// What the configuration takes from flags.
    #[command(flatten)]
    pub flags: Flags<ForAdmin>,
}

/// Arguments of `kraftr demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Picture of a person [default: the bundled sample]
    #[arg(long, value_name = "FILE")]
    pub person: Option<PathBuf>,
    /// Picture of a garment [default: the bundled sample]
    #[arg(long, value_name = "FILE", requires = "category")]
    pub garment: Option<PathBuf>,
    /// Where the garment is worn: tops, bottoms or one-pieces
    #[arg(long, requires = "garment")]
    pub category: Option<Category>,
    /// Where database, objects and pictures go [default: a fresh temporary directory, which stays]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Keep serving afterwards, until Ctrl-C
    #[arg(long)]
    pub serve: bool,
}

/// Arguments of `kraftr dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where database and objects lie
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,
    /// Address of the HTTP API; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where to write the URL and a new API key, as JSON, once it serves
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Accept webhooks to private addresses and over plain HTTP
    #[arg(long)]
    pub allow_private_webhooks: bool,
    /// Where the releases are.
    #[command(flatten)]
    pub flags: Flags<ForModel>,
}

/// The data directory of `dev` and `admin` unless another is named.
pub(crate) const DATA_DIR: &str = "kraftr-data";

/// Arguments of `kraftr scheduler`.
#[derive(Debug, Args)]
pub struct SchedulerArgs {
    /// Where to write the URL, as JSON, once it serves
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// What the configuration takes from flags.
    #[command(flatten)]
    pub flags: Flags<ForScheduler>,
}

/// Arguments of `kraftr worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Where to write its id, as JSON, once it takes renders
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// What the configuration takes from flags.
    #[command(flatten)]
    pub flags: Flags<ForWorker>,
}

/// Arguments of `kraftr config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Configuration as TOML.
    #[arg(long, value_name = "FILE", global = true, help = CONFIG_HELP)]
    pub config: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `kraftr config` can do.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// List every mistake; exit code 1 when there is one
    Check {
        /// Whose configuration: what that process requires must be there [default: whatever is there must be right]
        #[arg(long)]
        role: Option<Role>,
    },
    /// Print every value and where it comes from; secrets are shown as ***
    Show {
        /// Only what that process reads
        #[arg(long)]
        role: Option<Role>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what can be configured, as Markdown
    Reference,
}

/// A scene as the API takes it.
fn scene(words: &str) -> Result<Prompt, String> {
    match words.chars().count() {
        _ if words.trim().is_empty() => Err("must describe something".to_owned()),
        1..=SCENE_CHARS_MAX => Ok(Prompt::new(words)),
        _ => Err(format!("must have at most {SCENE_CHARS_MAX} characters")),
    }
}

/// Arguments of `kraftr render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// Picture of a person
    #[arg(long, value_name = "FILE", required_unless_present = "prompt")]
    pub person: Option<PathBuf>,
    /// Picture of a garment
    #[arg(long, value_name = "FILE", required_unless_present = "prompt")]
    pub garment: Option<PathBuf>,
    /// Where the garment is worn: tops, bottoms or one-pieces
    #[arg(long, required_unless_present = "prompt")]
    pub category: Option<Category>,
    /// How the garment was photographed: flat-lay or model (worn by somebody)
    #[arg(long, value_name = "HOW", default_value_t = GarmentPhoto::FlatLay, conflicts_with = "prompt")]
    pub garment_photo: GarmentPhoto,
    /// What is to be seen, instead of a garment on a person: for releases of text-to-image
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["person", "garment", "category"])]
    pub prompt: Option<String>,
    /// Picture of which a part stays, of the size that the release paints
    #[arg(long, value_name = "FILE", requires = "prompt", requires = "matte")]
    pub keep: Option<PathBuf>,
    /// Which part: where this picture is white the other one stays, where it is black is painted
    #[arg(long, value_name = "FILE", requires = "keep")]
    pub matte: Option<PathBuf>,
    /// Where the picture goes: .png, .jpg or .webp; several samples go to out-1.png, out-2.png, …
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// A release that `kraftr model list` shows [default: the first]
    #[arg(long, value_name = "RELEASE")]
    pub model: Option<String>,
    /// What the person is put in front of, in words: for releases whose manifest names a `scene` release
    #[arg(long, value_name = "WORDS", conflicts_with = "prompt", value_parser = scene)]
    pub scene: Option<Prompt>,
    /// Time against fidelity: fast, balanced or best
    #[arg(long, value_name = "QUALITY", default_value_t = Quality::Balanced)]
    pub quality: Quality,
    /// Denoise steps, taken in the way of that quality [default: the release's for it]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<u32>,
    /// Where it runs: `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Seed of the noise; sample n uses seed + n - 1
    #[arg(long, value_name = "S", default_value_t = 0, allow_negative_numbers = true, value_parser = value_parser!(u64).range(..=SEED_MAX))]
    pub seed: u64,
    /// Pictures to make
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = value_parser!(u32).range(1..=i64::from(SAMPLES_MAX)))]
    pub samples: u32,
    /// Where the releases are.
    #[command(flatten)]
    pub flags: Flags<ForModel>,
}

/// What `kraftr verify` is told.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A picture: PNG, JPEG or WebP
    pub picture: PathBuf,
    /// Ask this scheduler, such as `http://127.0.0.1:8080`
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// With --url: the file of an API key, to learn which render of its own organisation it was
    #[arg(long, value_name = "PATH", requires = "url")]
    pub api_key_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which keys and whose signatures count.
    #[command(flatten)]
    pub flags: Flags<ForVerify>,
}

/// What `kraftr watermark` can do.
#[derive(Debug, Subcommand)]
pub enum WatermarkCommand {
    /// Look for the mark; prints {"found":…,"payload":…,"score":…,"key":…,"bound":…}
    #[command(after_help = "\
score is how well the picture agrees with the mark, in deviations of what chance agrees; bound is how probable it is at
most that a picture without a mark is said to have one. The keys are those of the configuration ([watermark] keys);
without any it is the development key, which is public.

Example: kraftr watermark detect picture.jpg")]
    Detect {
        /// A picture: PNG, JPEG or WebP
        picture: PathBuf,
        /// Which keys count.
        #[command(flatten)]
        flags: Flags<ForWatermark>,
    },
    /// Mark a picture with the first of the configured keys, or the development key
    #[command(after_help = "Example: kraftr watermark embed --payload 0123456789abcdef in.png out.png")]
    Embed {
        /// The 64 bits to carry, as 16 hexadecimal digits
        #[arg(long, value_name = "HEX")]
        payload: WatermarkRef,
        /// A picture: PNG, JPEG or WebP
        picture: PathBuf,
        /// Where the marked picture goes: .png, .jpg or .webp
        out: PathBuf,
        /// Which key it is marked with.
        #[command(flatten)]
        flags: Flags<ForWatermark>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_right() {
        let render = "kraftr render --person p.png --garment g.png --out o.png";
        for (line, hint) in [
            (format!("{render} --category hats"), "tops, bottoms, one-pieces"),
            (format!("{render} --category tops --garment-photo worn"), "flat-lay, model"),
            (format!("{render} --category tops --samples 5"), "1..=4"),
            (format!("{render} --category tops --samples 0"), "1..=4"),
            (format!("{render} --category tops --seed 9007199254740992"), "9007199254740991"),
            (format!("{render} --category tops --steps -1"), "--steps"),
            ("kraftr demo --garment shirt.png".into(), "--category"),
            ("kraftr demo --category tops".into(), "--garment"),
            ("kraftr dev --listen localhost".into(), "--listen"),
            ("kraftr admin grant --credits 0 --reference x".into(), "whole number from 1"),
            (format!("kraftr admin org create {}", "x".repeat(201)), "1 to 200 characters"),
            ("kraftr admin key revoke org_1".into(), "key_"),
            ("kraftr watermark embed --payload 12 a.png b.png".into(), "--payload"),
        ] {
            let error = parse(&line).unwrap_err();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }

    #[test]
    fn the_data_directory_can_be_named_before_and_after_the_command() {
        for line in ["kraftr admin --data-dir d org list", "kraftr admin org list --data-dir d"] {
            let Ok(Cli { command: Command::Admin(args), .. }) = parse(line) else { panic!("{line}") };
            assert_eq!(args.data_dir, Some(PathBuf::from("d")));
        }
    }
}
