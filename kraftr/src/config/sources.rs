//! Where a configuration comes from: values, so that tests need no process of their own.

use std::ffi::OsString;
use std::marker::PhantomData;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, FromArgMatches, value_parser};

use super::concerns::fields;
use super::field::{Field, Role};
use super::value::{Form, Secrecy};

/// A flag that was given.
#[derive(Debug, Clone)]
pub struct Given {
    /// Which field it is about.
    pub field: &'static Field,
    /// What it says.
    pub value: String,
}

/// Everything that a configuration is made from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// Where the usual file is looked for.
    pub directory: PathBuf,
    /// Every variable of the process.
    pub environment: Vec<(OsString, OsString)>,
    /// The flags.
    pub flags: Vec<Given>,
}

impl Sources {
    /// Those of this process. This is the one place where the environment is read.
    pub fn of_this_process(file: Option<PathBuf>, flags: Vec<Given>) -> Self {
        Self { file, directory: PathBuf::from("."), environment: std::env::vars_os().collect(), flags }
    }

    /// Adds what a flag says that is not in the role's own list, such as the global `--log`.
    #[must_use]
    pub fn with(mut self, key: &str, value: Option<String>) -> Self {
        let field = fields().find(|field| field.key() == key);
        self.flags.extend(field.zip(value).map(|(field, value)| Given { field, value }));
        self
    }
}

/// Tells which role a type of flags is for.
pub trait Reader {
    /// That role.
    const ROLE: Role;
}

/// `kraftr scheduler`.
#[derive(Debug, Clone, Copy)]
pub enum ForScheduler {}
/// `kraftr worker`.
#[derive(Debug, Clone, Copy)]
pub enum ForWorker {}
/// `kraftr admin`.
#[derive(Debug, Clone, Copy)]
pub enum ForAdmin {}
/// `kraftr model`, `kraftr render` and `kraftr dev`.
#[derive(Debug, Clone, Copy)]
pub enum ForModel {}

/// `kraftr verify`.
#[derive(Debug, Clone, Copy)]
pub enum ForVerify {}

/// `kraftr watermark`.
#[derive(Debug, Clone, Copy)]
pub enum ForWatermark {}

impl Reader for ForScheduler {
    const ROLE: Role = Role::Scheduler;
}
impl Reader for ForWorker {
    const ROLE: Role = Role::Worker;
}
impl Reader for ForAdmin {
    const ROLE: Role = Role::Admin;
}
impl Reader for ForModel {
    const ROLE: Role = Role::Model;
}
impl Reader for ForVerify {
    const ROLE: Role = Role::Verify;
}
impl Reader for ForWatermark {
    const ROLE: Role = Role::Watermark;
}

/// The flags of a role, made from the declarations of its fields, and `--config`.
#[derive(Debug, Clone)]
pub struct Flags<R> {
    /// The file that `--config` names.
    pub config: Option<PathBuf>,
    /// The flags that were given.
    pub given: Vec<Given>,
    role: PhantomData<R>,
}

impl<R> Flags<R> {
    /// These flags over this process's environment.
    pub fn sources(&self) -> Sources {
        Sources::of_this_process(self.config.clone(), self.given.clone())
    }
}

const CONFIG: &str = "config";

/// What `--config` says about itself.
pub(crate) const CONFIG_HELP: &str =
    "Configuration as TOML [env: KRAFTR_CONFIG] [default: kraftr.toml, where it exists]";

/// `--config`.
pub(crate) fn config_argument() -> Arg {
    Arg::new(CONFIG).long(CONFIG).value_name("FILE").value_parser(value_parser!(PathBuf)).help(CONFIG_HELP)
}

fn flags_of(role: Role) -> impl Iterator<Item = (&'static Field, &'static str)> {
    fields()
        .filter(move |field| field.is_read_by(role))
        .filter_map(|field| field.flag.map(|flag| (field, flag)))
}

fn argument(field: &'static Field, flag: &'static str) -> Arg {
    let default = field.default.map_or_else(String::new, |default| format!(" [default: {default}]"));
    let help = format!("{} [env: {}]{default}", field.help.trim().trim_end_matches('.'), field.variable());
    // A value that cannot be shown must not be shown by clap either.
    let hidden = field.secrecy == Secrecy::Secret;
    let argument = Arg::new(flag)
        .long(flag)
        .value_name(field.placeholder)
        .help(help)
        .hide_env_values(hidden)
        .allow_hyphen_values(false);
    match field.form {
        Form::Boolean => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => argument,
    }
}

impl<R: Reader> clap::Args for Flags<R> {
    fn augment_args(command: Command) -> Command {
        let global = matches!(R::ROLE, Role::Admin | Role::Model);
        let arguments = flags_of(R::ROLE).map(|(field, flag)| argument(field, flag));
        command.args(std::iter::once(config_argument()).chain(arguments).map(|arg| arg.global(global)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<R: Reader> FromArgMatches for Flags<R> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = flags_of(R::ROLE).filter_map(|(field, flag)| {
            matches.get_one::<String>(flag).map(|value| Given { field, value: value.clone() })
        });
        let config = matches.get_one::<PathBuf>(CONFIG).cloned();
        Ok(Self { config, given: given.collect(), role: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
