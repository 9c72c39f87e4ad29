//! The command line of `kraftr model`.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};
use kraftr_models::Precision;
use kraftr_protocol::Quality;
use kraftr_protocol::limits::{SAMPLES_MAX, SEED_MAX};

use crate::config::pulling;
use crate::config::sources::{Flags, ForModel};

/// Arguments of `kraftr model`.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// What the configuration takes from flags.
    #[command(flatten)]
    pub flags: Flags<ForModel>,
    /// What to do
    #[command(subcommand)]
    pub command: ModelCommand,
}

/// What `kraftr model` can do.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// List the releases, and whether their weights are there
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a release's manifest, its files, where they were looked for, and how to get them
    Show {
        /// Its name
        release: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch the files of releases into the weights folder, pinned by their digests
    #[command(after_help = pulling::HELP)]
    Pull {
        /// Their names
        #[arg(required_unless_present = "all")]
        releases: Vec<String>,
        /// Every release that names a source for what is missing
        #[arg(long, conflicts_with = "releases")]
        all: bool,
        /// A folder that has the files under their names, instead of what the manifests say
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
    /// Prove a release: digests, tensors, golden outputs; exit code 1 when something is wrong
    Check {
        /// Its name
        release: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure a release on this machine
    Bench(BenchArgs),
    /// Render the same inputs with two releases: a contact sheet and how far apart they are
    #[command(after_help = "\
The set is a JSON file: [{\"person\":\"a.png\",\"garment\":\"b.png\",\"category\":\"tops\"}, …], its paths relative to it.
Columns of the sheet: person, garment, first release, second release, difference times four.

Example: kraftr model compare tryon-7 tryon-8 --set set.json --out sheet.png --json report.json")]
    Compare(CompareArgs),
    /// Write seeded random weights for a release, and a manifest RELEASE-random for them
    #[command(after_help = "\
The network of RELEASE-random is that of RELEASE, so it costs the same time and memory; it paints noise.

Example: kraftr model --manifests m --weights w init fashn-vton-1.5 --seed 7
         kraftr model --manifests m --weights w bench fashn-vton-1.5-random")]
    Init {
        /// Its name
        release: String,
        /// The same seed makes the same files
        #[arg(long, value_name = "S", default_value_t = 0)]
        seed: u64,
    },
    /// Compare our tensors with those recorded from the reference; exit code 1 when one differs
    #[command(after_help = "Prints {\"checks\":[{\"name\":…,\"rel_err\":…}],\"ok\":…}.")]
    Parity(ParityArgs),
}

/// Arguments of `kraftr model parity`.
#[derive(Debug, Args)]
pub struct ParityArgs {
    /// A fixture's JSON file; its tensors lie beside it
    pub fixture: PathBuf,
    /// Where to compute: `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// In what numbers: f32, f16 or bf16 [default: f32 on a CPU, bf16 on a GPU]
    #[arg(long = "dtype", value_name = "DTYPE")]
    pub precision: Option<Precision>,
}

/// Arguments of `kraftr model bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The release
    pub release: String,
    /// Where it runs: `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// In what numbers: f32, f16 or bf16 [default: f32 on a CPU, bf16 on a GPU]
    #[arg(long = "dtype", value_name = "DTYPE")]
    pub precision: Option<Precision>,
    /// Time against fidelity: fast, balanced or best
    #[arg(long, value_name = "QUALITY", default_value_t = Quality::Balanced)]
    pub quality: Quality,
    /// Denoise steps, taken in the way of that quality [default: the release's for it]
    #[arg(long, value_name = "N")]
    pub steps: Option<u32>,
    /// Classifier-free guidance, 1 to 20; 1 is one pass a step [default: the release's]
    #[arg(long, value_name = "SCALE")]
    pub guidance: Option<f64>,
    /// Images in one pass
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=i64::from(SAMPLES_MAX)))]
    pub samples: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `kraftr model compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// One release
    pub first: String,
    /// Another release
    pub second: String,
    /// The inputs [default: the bundled sample]
    #[arg(long, value_name = "FILE")]
    pub set: Option<PathBuf>,
    /// Where the contact sheet goes, a .png
    #[arg(long, value_name = "FILE", default_value = "compare.png")]
    pub out: PathBuf,
    /// Where the figures go [default: beside the sheet, ending in .json]
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Denoise steps [default: each release's for balanced quality]
    #[arg(long, value_name = "N")]
    pub steps: Option<u32>,
    /// Seed of the noise, the same for both
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = value_parser!(u64).range(..=SEED_MAX))]
    pub seed: u64,
    /// Where they run: `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "cpu")]
    pub device: String,
}
