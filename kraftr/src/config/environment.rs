//! The environment's layer. A variable that begins like ours and means nothing is a mistake, not a no-op.

use std::ffi::OsString;
use std::path::PathBuf;

use kraftr_protocol::suggest::did_you_mean;

use super::concerns::fields;
use super::field::{Field, PREFIX};
use super::mistake::{Mistake, Origin};
use super::settings::{Content, Statement};
use super::sources::Sources;
use super::value::Raw;

/// Names the file of the configuration.
pub const FILE: &str = "KRAFTR_CONFIG";

/// Says what to log, also where no other configuration is read.
const LOG: &str = "KRAFTR_LOG";

/// The file that is read when none is named, where it exists.
pub const DEFAULT_FILE: &str = "kraftr.toml";

/// Variables that mean something to others of ours: the examples of the API's page, and tests.
const OTHERS: &[&str] = &["KRAFTR_KEY", "KRAFTR_FIXTURES", "KRAFTR_SIM_SEED", "KRAFTR_SIM_SEEDS"];

/// Ends the name of a variable that names a file.
const FILE_ENDING: &str = "_FILE";

/// What to log, for commands that read no other configuration.
pub fn log_filter() -> Option<String> {
    let value = std::env::vars_os().find_map(|(name, value)| (name == LOG).then_some(value));
    value.and_then(|value| value.into_string().ok()).filter(|filter| !filter.is_empty())
}

/// The configuration's file: named by the flag, else by the variable, else the usual one where it exists.
pub(super) fn path_of_file(sources: &Sources) -> (Option<PathBuf>, Vec<Mistake>) {
    if let Some(path) = &sources.file {
        return (Some(path.clone()), Vec::new());
    }
    let named = sources.environment.iter().find(|(name, value)| name == FILE && !value.is_empty());
    if let Some((_, path)) = named {
        return (Some(PathBuf::from(path)), Vec::new());
    }
    let usual = sources.directory.join(DEFAULT_FILE);
    (usual.is_file().then(|| usual.strip_prefix(".").map(PathBuf::from).unwrap_or(usual)), Vec::new())
}

/// What the variables say. An empty one says nothing: supervisors pass them on that way.
pub(super) fn read(environment: &[(OsString, OsString)]) -> (Vec<Statement>, Vec<Mistake>) {
    let (mut statements, mut mistakes) = (Vec::new(), Vec::new());
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if name == FILE || OTHERS.contains(&name) || value.is_empty() {
            continue;
        }
        match statement(name, value) {
            Ok(statement) => statements.push(statement),
            Err(what) => mistakes.push(Mistake { at: name.to_owned(), what, key: None }),
        }
    }
    (statements, mistakes)
}

fn statement(name: &str, value: &OsString) -> Result<Statement, String> {
    let origin = Origin::Variable(name.to_owned());
    if let Some(field) = fields().find(|field| field.variable() == name) {
        let text = value.to_str().ok_or("the value is not UTF-8 text")?;
        return Ok(Statement { field, content: Content::Value(Raw::new(text)), origin });
    }
    let own_file = name
        .strip_suffix(FILE_ENDING)
        .and_then(|variable| fields().find(|field| field.can_be_a_file() && field.variable() == variable));
    if let Some(field) = own_file {
        return Ok(Statement { field, content: Content::OwnFile(PathBuf::from(value)), origin });
    }
    let known = fields().flat_map(variables_of).chain([FILE.to_owned()]);
    Err(match did_you_mean(name, known) {
        Some(meant) => format!("there is no such variable; did you mean {meant}?"),
        None => "there is no such variable; `kraftr config reference` lists them".to_owned(),
    })
}

fn variables_of(field: &Field) -> Vec<String> {
    let variable = field.variable();
    if field.can_be_a_file() { vec![format!("{variable}{FILE_ENDING}"), variable] } else { vec![variable] }
}
