//! The command line of `kraftr model`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, value_parser};
use kraftr_models::Precision;
use kraftr_protocol::Quality;
use kraftr_protocol::limits::{SAMPLES_MAX, SEED_MAX};
use kraftr_protocol::manifest::Method;

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
    /// Render the same inputs in every quality: what each costs, and how far it is from the full result
    #[command(after_help = "\
The full result is that of as many Euler steps as best quality takes, all guided, none reused; a manifest's
[quality.fast] and its like say what else there is. --also tries what a manifest could say.
Columns of the sheet: person, garment, full result, then for each way its picture and the difference times four.

Example: kraftr model qualities demo-tryon --also steps=12,solver=heun --also steps=30,cache=0.1")]
    Qualities(QualitiesArgs),
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

/// Arguments of `kraftr model qualities`.
#[derive(Debug, Args)]
pub struct QualitiesArgs {
    /// The release
    pub release: String,
    /// The inputs, a set as `compare` takes it [default: the bundled sample]
    #[arg(long, value_name = "FILE")]
    pub set: Option<PathBuf>,
    /// Another way to sample: steps=N and, if wanted, solver=NAME, guidance-interval=A..B, cache=X
    #[arg(long, value_name = "WAY")]
    pub also: Vec<Way>,
    /// Where the contact sheet goes, a .png; the figures go beside it, ending in .json
    #[arg(long, value_name = "FILE", default_value = "qualities.png")]
    pub out: PathBuf,
    /// Seed of the noise, the same for all
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = value_parser!(u64).range(..=SEED_MAX))]
    pub seed: u64,
    /// Where it runs: `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// How images are sampled, in words: `steps=12,solver=heun`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// Denoise steps.
    pub steps: u32,
    /// How each is taken.
    pub method: Method,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        let (mut steps, mut method) = (None, Method::default());
        for word in words.split(',') {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("{word:?}: write KEY=VALUE"))?;
            let wrong = |error: &dyn fmt::Display| format!("{key}: {error}");
            match key {
                "steps" => steps = Some(value.parse().map_err(|error| wrong(&error))?),
                "solver" => method.solver = value.parse().map_err(|error| wrong(&error))?,
                "cache" => method.cache = value.parse().map_err(|error| wrong(&error))?,
                "guidance-interval" => {
                    let ends = value.split_once("..").ok_or_else(|| wrong(&"write FROM..TO"))?;
                    let end = |text: &str| text.parse().map_err(|error| wrong(&error));
                    method.guidance_interval = [end(ends.0)?, end(ends.1)?];
                }
                _ => return Err(format!("{key}: use steps, solver, guidance-interval or cache")),
            }
        }
        if let Some((field, rule)) = method.mistakes().first() {
            return Err(format!("{}: {rule}", field.replace('_', "-")));
        }
        Ok(Self { steps: steps.ok_or("steps=N is missing")?, method })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, method: Method { solver, guidance_interval: [from, to], cache } } = self;
        write!(f, "steps={steps},solver={solver}")?;
        if (*from, *to) != (0.0, 1.0) {
            write!(f, ",guidance-interval={from}..{to}")?;
        }
        if *cache > 0.0 {
            write!(f, ",cache={cache}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_read_back() {
        for words in ["steps=12,solver=heun", "steps=30,solver=euler,guidance-interval=0.1..0.75,cache=0.25"]
        {
            assert_eq!(words.parse::<Way>().unwrap().to_string(), words);
        }
        for (words, mistake) in [
            ("solver=heun", "steps=N is missing"),
            ("steps=x", "steps: invalid digit"),
            ("steps=3,solver=rk4", "solver: expected one of: euler"),
            ("steps=3,guidance-interval=0.5", "write FROM..TO"),
            ("steps=3,guidance-interval=0.5..0.2", "guidance-interval: must be two times"),
            ("steps=3,cache=2", "cache: must be 0"),
            ("steps=3,speed=9", "use steps, solver"),
            ("steps", "write KEY=VALUE"),
        ] {
            let told = words.parse::<Way>().unwrap_err();
            assert!(told.contains(mistake), "{words}: {told}");
        }
    }
}
