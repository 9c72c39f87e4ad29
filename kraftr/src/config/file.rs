//! The TOML file's layer.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kraftr_protocol::suggest::did_you_mean;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::concerns::fields;
use super::field::Field;
use super::mistake::{Mistake, Origin};
use super::settings::{Content, Statement};
use super::value::{Form, Raw};

/// Ends the name of a key that names a file.
const FILE_ENDING: &str = "_file";

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) statements: Vec<Statement>,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warning: Option<String>,
}

/// Reads a file; every mistake in it is found.
pub(super) fn read(path: &Path) -> File {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let what = format!("cannot be read: {error}; --config and KRAFTR_CONFIG name another");
            let mistake = Mistake { at: path.display().to_string(), what, key: None };
            return File { mistakes: vec![mistake], ..File::default() };
        }
    };
    let mut reader = Reader { path, text: &text, file: File::default(), mistakes: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        // Only the message: the error's own text quotes the line, and a line may hold a secret.
        reader.mistake(error.span().unwrap_or(0..0), format!("not TOML: {}", error.message()));
    }
    reader.table("", table.get_ref());
    let Reader { mut file, mut mistakes, .. } = reader;
    mistakes.sort_by_key(|(line, _)| *line);
    file.mistakes = mistakes.into_iter().map(|(_, mistake)| mistake).collect();
    file.warning = readable_secret(path, &file.statements);
    file
}

/// A word when others of the machine can read secrets in the file.
fn readable_secret(path: &Path, statements: &[Statement]) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let secret = statements.iter().find(|statement| {
        statement.field.can_be_a_file() && matches!(statement.content, Content::Value(_))
    })?;
    (mode & 0o044 != 0).then(|| {
        format!(
            "{}: {} can be read by every user of the machine; chmod 600 the file, or name another with {}_file",
            secret.origin,
            secret.field.key(),
            secret.field.name
        )
    })
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    file: File,
    /// By line.
    mistakes: Vec<(usize, Mistake)>,
}

impl Reader<'_> {
    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let name_span = name.span();
            let name = name.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Table(inner) if section.is_empty() && is_section(name) => self.table(name, inner),
                _ if section.is_empty() && is_section(name) => {
                    let what = format!("{name} is a table; write [{name}] and its keys below it");
                    self.mistake(name_span, what);
                }
                _ => self.entry(section, name, name_span, value),
            }
        }
    }

    fn entry(&mut self, section: &str, name: &str, span: Range<usize>, value: &Spanned<DeValue<'_>>) {
        if let Some(field) = find(section, name) {
            match raw(field, value.get_ref()) {
                Ok(raw) => self.statement(field, Content::Value(raw), span),
                Err(what) => self.mistake_about(Some(field), span, what),
            }
            return;
        }
        let own = name.strip_suffix(FILE_ENDING).and_then(|name| find(section, name));
        if let Some(field) = own.filter(|field| field.can_be_a_file()) {
            if let Some(path) = value.get_ref().as_str().filter(|path| !path.is_empty()) {
                self.statement(field, Content::OwnFile(self.beside(path)), span);
            } else {
                let what = format!("{}_file must be a path in quotes", field.key());
                self.mistake_about(Some(field), span, what);
            }
            return;
        }
        let key = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        let what = match did_you_mean(&key, fields().flat_map(keys_of).chain(sections())) {
            Some(meant) => format!("there is no key {key}; did you mean {meant}?"),
            None => format!("there is no key {key}; `kraftr config reference` lists them"),
        };
        self.mistake(span, what);
    }

    /// A relative path is relative to the file that names it, wherever the process was started.
    fn beside(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn statement(&mut self, field: &'static Field, content: Content, span: Range<usize>) {
        let origin = Origin::File { path: self.path.to_owned(), line: self.line(span) };
        self.file.statements.push(Statement { field, content, origin });
    }

    fn mistake(&mut self, span: Range<usize>, what: String) {
        self.mistake_about(None, span, what);
    }

    fn mistake_about(&mut self, field: Option<&Field>, span: Range<usize>, what: String) {
        let line = self.line(span);
        let at = format!("{}:{line}", self.path.display());
        self.mistakes.push((line, Mistake { at, what, key: field.map(Field::key) }));
    }

    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }
}

fn find(section: &str, name: &str) -> Option<&'static Field> {
    fields().find(|field| field.section == section && field.name == name)
}

fn is_section(name: &str) -> bool {
    !name.is_empty() && fields().any(|field| field.section == name)
}

fn sections() -> impl Iterator<Item = String> {
    fields().map(|field| field.section.to_owned()).filter(|section| !section.is_empty())
}

fn keys_of(field: &Field) -> Vec<String> {
    let key = field.key();
    if field.can_be_a_file() { vec![format!("{key}{FILE_ENDING}"), key] } else { vec![key] }
}

/// The text of a value that is written as its field wants it.
fn raw(field: &Field, value: &DeValue<'_>) -> Result<Raw, String> {
    let text = match (field.form, value) {
        (Form::Text, DeValue::String(text)) => Some(text.to_string()),
        (Form::Integer, DeValue::Integer(number)) if number.radix() == 10 => {
            Some(number.as_str().replace('_', ""))
        }
        (Form::Boolean, DeValue::Boolean(truth)) => Some(truth.to_string()),
        (Form::List, DeValue::Array(items)) => {
            let items: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            items.map(|items| items.join(","))
        }
        _ => None,
    };
    text.map(Raw::new).ok_or_else(|| {
        let (is, want) = (value.type_str(), written(field.form));
        format!("{} is of type {is}; it must be {want}: {}", field.key(), (field.expected)())
    })
}

const fn written(form: Form) -> &'static str {
    match form {
        Form::Text => "text in quotes",
        Form::Integer => "digits without quotes",
        Form::Boolean => "a boolean without quotes",
        Form::List => "an array of text, [\"…\", \"…\"]",
    }
}
