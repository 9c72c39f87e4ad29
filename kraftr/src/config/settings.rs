//! The layers over each other: file, then environment, then flags; and the values that come out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::concerns::fields;
use super::field::{Concern, Field, Role};
use super::mistake::{Mistake, Mistakes, Origin};
use super::sources::{Given, Sources};
use super::value::{Raw, Setting};
use super::{environment, file};

/// Who is going to read the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One role: what it requires must be there, and what is not its own is not read.
    Role(Role),
    /// Nobody in particular: whatever is there must be right.
    Everybody,
}

impl Scope {
    fn reads(self, field: &Field) -> bool {
        match self {
            Self::Role(role) => field.is_read_by(role),
            Self::Everybody => true,
        }
    }

    fn requires(self, field: &Field) -> bool {
        match self {
            Self::Role(Role::Admin | Role::Model | Role::Verify | Role::Watermark) | Self::Everybody => false,
            Self::Role(role) => field.required && field.is_read_by(role),
        }
    }
}

/// What a layer says about a field.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// The value.
    Value(Raw),
    /// The file that holds the value.
    OwnFile(PathBuf),
}

/// What a layer says, and where.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) field: &'static Field,
    pub(crate) content: Content,
    pub(crate) origin: Origin,
}

/// The merged configuration, before its values are read.
#[derive(Debug)]
pub struct Settings {
    scope: Scope,
    merged: BTreeMap<String, Merged>,
    unread: Vec<(&'static Field, Origin)>,
    warnings: Vec<String>,
    mistakes: Vec<Mistake>,
}

#[derive(Debug, Clone)]
struct Merged {
    raw: Raw,
    origin: Origin,
}

/// A value as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// The key.
    pub key: String,
    /// The value; none when nobody gave one.
    pub value: Option<String>,
    /// Where it comes from; none when nobody gave one.
    pub origin: Option<String>,
}

impl Settings {
    /// Reads every layer for `scope`. Mistakes are kept until [`finish`](Self::finish).
    pub fn load(sources: &Sources, scope: Scope) -> Self {
        let mut settings = Self {
            scope,
            merged: BTreeMap::new(),
            unread: Vec::new(),
            warnings: Vec::new(),
            mistakes: Vec::new(),
        };
        let (path, mut mistakes) = environment::path_of_file(sources);
        settings.mistakes.append(&mut mistakes);
        let file = path.map(|path| file::read(&path)).unwrap_or_default();
        settings.warnings.extend(file.warning);
        for (statements, mistakes) in
            [(file.statements, file.mistakes), environment::read(&sources.environment), flags(&sources.flags)]
        {
            settings.mistakes.extend(mistakes);
            settings.lay_over(statements);
        }
        settings
    }

    /// Reads a concern; `None` when something about it is wrong.
    pub fn read<C: Concern>(&mut self) -> Option<C> {
        C::read(self)
    }

    /// True when somebody gave that field a value.
    pub fn has(&self, key: &str) -> bool {
        self.merged.contains_key(key)
    }

    /// That field's value, given or default, where there is one and it is right; nothing is noted.
    pub fn peek<T: Setting>(&self, key: &str) -> Option<T> {
        let given = self.merged.get(key).map(|merged| merged.raw.text());
        let default = || fields().find(|field| field.key() == key).and_then(|field| field.default);
        given.or_else(default).and_then(T::parse)
    }

    /// Where that field's value comes from.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.merged.get(key).map(|merged| &merged.origin)
    }

    /// Notes a mistake that only shows when values are seen together.
    pub fn mistake(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.mistakes.push(Mistake { at: at.into(), what: what.into(), key: None });
    }

    /// `value`, unless there was a mistake anywhere.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Mistakes> {
        match value {
            Some(value) if self.mistakes.is_empty() => Ok(value),
            _ => Err(Mistakes(self.mistakes)),
        }
    }

    /// What was given and is not read, since it is another role's.
    pub fn unread(&self) -> &[(&'static Field, Origin)] {
        &self.unread
    }

    /// What is not wrong, and should not be so all the same.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every value of the scope as it may be shown. What cannot be shown is noted as a mistake.
    pub fn show(&mut self) -> Vec<Shown> {
        let scope = self.scope;
        fields().filter(|field| scope.reads(field)).map(|field| self.show_one(field)).collect()
    }

    fn show_one(&mut self, field: &'static Field) -> Shown {
        let key = field.key();
        let given = self.merged.get(&key).map(|merged| (merged.raw.text().to_owned(), merged.origin.clone()));
        let (text, origin) = match (given, field.default) {
            (Some((text, origin)), _) => (text, origin),
            (None, Some(default)) => (default.to_owned(), Origin::Default),
            (None, None) => {
                if self.scope.requires(field) {
                    self.missing(field);
                }
                return Shown { key, value: None, origin: None };
            }
        };
        let value = (field.show)(&text);
        if value.is_none() {
            self.wrong(field, &origin, &text);
        }
        Shown { key, value, origin: Some(origin.to_string()) }
    }

    /// The value of a field, or a mistake more.
    pub(crate) fn value<T: Setting>(&mut self, field: &'static Field) -> Option<T> {
        let Some(Merged { raw, origin }) = self.merged.get(&field.key()).cloned() else {
            let value = field.default.map_or_else(T::absent, T::parse);
            if value.is_none() {
                self.missing(field);
            }
            return value;
        };
        let value = T::parse(raw.text());
        if value.is_none() {
            self.wrong(field, &origin, raw.text());
        }
        value
    }

    fn missing(&mut self, field: &Field) {
        let key = Some(field.key());
        // It was given, and its giver has been told what is wrong.
        if self.mistakes.iter().any(|mistake| mistake.key == key) {
            return;
        }
        let variable = field.variable();
        let by_flag = field.flag.map_or_else(String::new, |flag| format!(", as --{flag}"));
        let by_own_file = if field.can_be_a_file() {
            format!(", or in a file that {variable}_FILE names")
        } else {
            String::new()
        };
        let expected = (field.expected)();
        let what = format!(
            "is missing; set it in the file, as {variable}{by_flag}{by_own_file}; it must be {expected}"
        );
        self.note(Mistake { at: field.key(), what, key });
    }

    fn wrong(&mut self, field: &Field, origin: &Origin, text: &str) {
        let what = if field.can_be_a_file() {
            format!("{} must be {}; what is there is not shown", field.key(), (field.expected)())
        } else {
            format!("{} is {text:?}, it must be {}", field.key(), (field.expected)())
        };
        self.note(Mistake { at: origin.to_string(), what, key: Some(field.key()) });
    }

    /// The same field may be read twice; its mistake is one.
    fn note(&mut self, mistake: Mistake) {
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }

    /// Puts a layer on top. A value and its file in one layer contradict each other.
    fn lay_over(&mut self, statements: Vec<Statement>) {
        let mut layer: BTreeMap<String, Statement> = BTreeMap::new();
        for statement in statements {
            let (key, origin) = (statement.field.key(), statement.origin.clone());
            if let Some(earlier) = layer.insert(key.clone(), statement) {
                let what = format!("{key} is given here and by {}; keep one of them", earlier.origin);
                self.note(Mistake { at: origin.to_string(), what, key: Some(key) });
            }
        }
        for (key, Statement { field, content, origin }) in layer {
            if !self.scope.reads(field) {
                self.unread.push((field, origin));
                continue;
            }
            let merged = match content {
                Content::Value(raw) => Ok(Merged { raw, origin }),
                Content::OwnFile(path) => read_own_file(&key, &path, origin),
            };
            match merged {
                Ok(merged) => {
                    self.merged.insert(key, merged);
                }
                Err(mistake) => self.note(mistake),
            }
        }
    }
}

/// The content of the file without the line break at its end, which editors leave there.
fn read_own_file(key: &str, path: &Path, named_by: Origin) -> Result<Merged, Mistake> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let origin = Origin::OwnFile { path: path.to_owned(), named_by: Box::new(named_by) };
            Ok(Merged { raw: Raw::new(text.trim_end_matches(['\n', '\r'])), origin })
        }
        Err(error) => Err(Mistake {
            at: named_by.to_string(),
            what: format!("cannot read {}: {error}", path.display()),
            key: Some(key.to_owned()),
        }),
    }
}

fn flags(given: &[Given]) -> (Vec<Statement>, Vec<Mistake>) {
    let statements = given.iter().map(|given| Statement {
        field: given.field,
        content: Content::Value(Raw::new(given.value.clone())),
        origin: Origin::Flag(format!("--{}", given.field.flag.unwrap_or(given.field.name))),
    });
    (statements.collect(), Vec::new())
}
