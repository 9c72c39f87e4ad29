//! The command line of `kraftr admin`.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};
use kraftr_protocol::limits::PAGE_MAX;
use kraftr_protocol::{ApiKeyId, Credits, OrgId, RenderId, WorkerId};

use crate::config::sources::{Flags, ForAdmin};

/// Characters of a name, label or reference.
const NAME_CHARS_MAX: usize = 200;

/// Credits of one grant: far below what sums of 64 bits can hold, far above what anybody buys.
const CREDITS_MAX: i64 = 1_000_000_000;

/// Arguments of `kraftr admin`.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// The data directory of a `kraftr dev` [default: kraftr-data, where no database is configured]
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "database-url")]
    pub data_dir: Option<PathBuf>,
    /// What the configuration takes from flags.
    #[command(flatten)]
    pub flags: Flags<ForAdmin>,
    /// What to do
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// What `kraftr admin` can do.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Orgs
    #[command(subcommand)]
    Org(OrgCommand),
    /// API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Give an org credits; the same reference never gives twice
    Grant {
        /// Which org
        #[command(flatten)]
        org: OrgChoice,
        /// How many
        #[arg(long, value_name = "N", value_parser = parse_credits)]
        credits: Credits,
        /// What they were paid with, such as an invoice number
        #[arg(long, value_name = "TEXT", value_parser = parse_name)]
        reference: String,
    },
    /// Print the certificate of the development authority, for `credentials.anchors` of those who trust it
    Authority,
    /// The ledger
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Tell workers what to do, over the broker
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Compare rows, objects and queues with each other; exit code 1 when they disagree
    Fsck {
        /// Erase objects that no row refers to
        #[arg(long)]
        repair: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Renders that took workers down: they ended, and the credits went back
    #[command(subcommand)]
    DeadLetters(DeadLetterCommand),
}

/// What workers can be told.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// Take no more renders, finish or hand back what runs, and end
    Drain {
        /// Whom it concerns
        #[command(flatten)]
        whom: WorkerChoice,
    },
    /// Load a release and take its renders from then on, until the worker ends
    Load {
        /// The release
        #[arg(long, value_name = "RELEASE")]
        release: String,
        /// Whom it concerns
        #[command(flatten)]
        whom: WorkerChoice,
    },
}

/// Which workers a command is about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct WorkerChoice {
    /// One worker; its log and its ready file say its id
    #[arg(long, value_name = "WORKER")]
    pub worker: Option<WorkerId>,
    /// Every worker that is there now
    #[arg(long)]
    pub all: bool,
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// List those that wait for a decision, newest first
    List {
        /// Rows at most
        #[arg(long, value_name = "N", default_value_t = PAGE_MAX, value_parser = value_parser!(u32).range(1..=i64::from(PAGE_MAX)))]
        limit: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one with everything that happened to it
    Show {
        /// The render
        render: RenderId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Render it again, as a new render with a new hold; prints its id
    Replay {
        /// The render
        render: RenderId,
    },
    /// Decide that nothing is to be done about it
    Discard {
        /// The render
        render: RenderId,
    },
}

/// Which org a command is about.
#[derive(Debug, Args)]
pub struct OrgChoice {
    /// The org's id [default: the only org there is]
    #[arg(long, value_name = "ORG")]
    pub org: Option<OrgId>,
}

/// What can be done with orgs.
#[derive(Debug, Subcommand)]
pub enum OrgCommand {
    /// List orgs with their credits
    List,
    /// Make an org without credits
    Create {
        /// Its name, for operators
        #[arg(value_parser = parse_name)]
        name: String,
    },
}

/// What can be done with API keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print its secret, once
    Create {
        /// Which org
        #[command(flatten)]
        org: OrgChoice,
        /// What it is for
        #[arg(long, value_name = "TEXT", value_parser = parse_name, default_value = "made by an operator")]
        label: String,
    },
    /// List an org's keys
    List {
        /// Which org
        #[command(flatten)]
        org: OrgChoice,
    },
    /// Revoke a key at once and for good
    Revoke {
        /// The key's id
        key: ApiKeyId,
    },
}

/// What can be done with the ledger.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Check every invariant of the books; exit code 1 when one does not hold
    Audit {
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

fn parse_credits(text: &str) -> Result<Credits, String> {
    match text.parse::<i64>() {
        Ok(credits) if (1..=CREDITS_MAX).contains(&credits) => Ok(Credits(credits)),
        _ => Err(format!("use a whole number from 1 to {CREDITS_MAX}")),
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    let text = text.trim();
    if (1..=NAME_CHARS_MAX).contains(&text.chars().count()) {
        Ok(text.to_owned())
    } else {
        Err(format!("use 1 to {NAME_CHARS_MAX} characters"))
    }
}
