//! Reads TOML tables field by field, so that every mistake is found, each with its line.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::suggest::did_you_mean;

/// Everything found wrong so far in one document.
pub(super) struct Notes<'a> {
    text: &'a str,
    mistakes: RefCell<Vec<(usize, String)>>,
}

impl<'a> Notes<'a> {
    pub(super) fn on(text: &'a str) -> Self {
        Self { text, mistakes: RefCell::default() }
    }

    /// Notes what is wrong about `key`, or about the document where the key is empty.
    pub(super) fn note(&self, span: Range<usize>, key: &str, what: &str) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let colon = if key.is_empty() { "" } else { ": " };
        self.mistakes.borrow_mut().push((line, format!("line {line}: {key}{colon}{what}")));
    }

    /// All of it, in the order of the lines.
    pub(super) fn into_sentences(self) -> Vec<String> {
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort_by_key(|(line, _)| *line);
        mistakes.into_iter().map(|(_, sentence)| sentence).collect()
    }
}

/// A type that a key can hold.
pub(super) trait Readable: Sized {
    /// What is right, to follow "must be".
    fn expected() -> String;
    /// Reads it; `None` when it is not what is [expected](Self::expected).
    fn read(value: &DeValue<'_>) -> Option<Self>;
}

impl Readable for String {
    fn expected() -> String {
        "text in quotes".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

macro_rules! readable_integers {
    ($($Type:ty = $expected:literal),+) => {$(
        impl Readable for $Type {
            fn expected() -> String {
                $expected.to_owned()
            }

            fn read(value: &DeValue<'_>) -> Option<Self> {
                let number = value.as_integer()?;
                i64::from_str_radix(number.as_str(), number.radix()).ok()?.try_into().ok()
            }
        }
    )+};
}

readable_integers!(
    u32 = "a whole number that is not negative",
    u64 = "a whole number that is not negative",
    i64 = "a whole number"
);

impl Readable for bool {
    fn expected() -> String {
        "true or false".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }
}

impl Readable for f64 {
    fn expected() -> String {
        "a number".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => i64::read(value).map(|number| number as Self),
        }
    }
}

impl<T: Readable> Readable for Vec<T> {
    fn expected() -> String {
        format!("an array, each item of it {}", T::expected())
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_array()?.iter().map(|item| T::read(item.get_ref())).collect()
    }
}

impl<T: Readable, const N: usize> Readable for [T; N] {
    fn expected() -> String {
        format!("an array of {N}, each {}", T::expected())
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        Vec::read(value)?.try_into().ok()
    }
}

/// Reads text by its `FromStr`.
macro_rules! readable_words {
    ($($Type:ty = $expected:expr),+ $(,)?) => {$(
        impl $crate::manifest::read::Readable for $Type {
            fn expected() -> String {
                $expected
            }

            fn read(value: &toml::de::DeValue<'_>) -> Option<Self> {
                value.as_str()?.parse().ok()
            }
        }
    )+};
}

pub(super) use readable_words;

/// A value was wrong, and that has been noted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wrong;

/// One table of the document. Keys that nobody asked for by the time it is [finished](Self::finish) are mistakes.
pub(super) struct Table<'a> {
    /// Its name with a dot behind it, or nothing for the document itself.
    prefix: String,
    span: Range<usize>,
    entries: &'a DeTable<'a>,
    known: Vec<&'static str>,
    notes: &'a Notes<'a>,
}

impl<'a> Table<'a> {
    pub(super) fn document(document: &'a Spanned<DeTable<'a>>, notes: &'a Notes<'a>) -> Self {
        // What is missing is missed at the top, where the line of the first key is.
        Self { prefix: String::new(), span: 0..0, entries: document.get_ref(), known: Vec::new(), notes }
    }

    /// A value that must be there.
    pub(super) fn required<T: Readable>(&mut self, key: &'static str) -> Option<T> {
        self.checked(key, |_| true, "")
    }

    /// A value that must be there and of which `rule` holds; `must` says so in words.
    pub(super) fn checked<T: Readable>(
        &mut self,
        key: &'static str,
        rule: impl Fn(&T) -> bool,
        must: &str,
    ) -> Option<T> {
        if !self.has(key) {
            self.known.push(key);
            self.missing(key, &T::expected());
            return None;
        }
        self.optional(key, rule, must).ok().flatten()
    }

    /// Text that must be there and of which `rule` holds.
    pub(super) fn text(
        &mut self,
        key: &'static str,
        rule: impl Fn(&str) -> bool,
        must: &str,
    ) -> Option<String> {
        self.checked(key, |text: &String| rule(text), must)
    }

    /// Text that may be left out.
    pub(super) fn optional_text(
        &mut self,
        key: &'static str,
        rule: impl Fn(&str) -> bool,
        must: &str,
    ) -> Result<Option<String>, Wrong> {
        self.optional(key, |text: &String| rule(text), must)
    }

    /// A value that may be left out.
    pub(super) fn optional<T: Readable>(
        &mut self,
        key: &'static str,
        rule: impl Fn(&T) -> bool,
        must: &str,
    ) -> Result<Option<T>, Wrong> {
        self.known.push(key);
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        let Some(read) = T::read(value.get_ref()) else {
            self.wrong(key, value.span(), &format!("must be {}", T::expected()));
            return Err(Wrong);
        };
        if rule(&read) {
            return Ok(Some(read));
        }
        self.wrong(key, value.span(), must);
        Err(Wrong)
    }

    /// A table that must be there.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table<'a>> {
        if !self.has(key) {
            self.missing(key, "a table");
        }
        self.optional_table(key)
    }

    /// A table, where it is there.
    pub(super) fn optional_table(&mut self, key: &'static str) -> Option<Table<'a>> {
        self.known.push(key);
        let value = self.entries.get(key)?;
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong(key, value.span(), "must be a table");
            return None;
        };
        let prefix = format!("{}{key}.", self.prefix);
        Some(Table { prefix, span: value.span(), entries, known: Vec::new(), notes: self.notes })
    }

    /// An array of tables; none when it is left out.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Table<'a>> {
        self.known.push(key);
        let Some(value) = self.entries.get(key) else { return Vec::new() };
        let items = value.get_ref().as_array().map(|items| items.iter());
        let items = items.and_then(|items| {
            let tables = items.enumerate().map(|(n, item)| {
                let prefix = format!("{}{key}[{n}].", self.prefix);
                let entries = item.get_ref().as_table()?;
                Some(Table { prefix, span: item.span(), entries, known: Vec::new(), notes: self.notes })
            });
            tables.collect()
        });
        items.unwrap_or_else(|| {
            self.wrong(key, value.span(), "must be an array of tables");
            Vec::new()
        })
    }

    /// Whether that key is given.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Notes what only shows when values are seen together.
    pub(super) fn mistake(&self, key: &str, what: &str) {
        let span = self.entries.get(key).map_or(self.span.clone(), Spanned::span);
        self.wrong(key, span, what);
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.entries.keys().filter(|key| !self.known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let what = match did_you_mean(name, self.known.iter().map(|known| (*known).to_owned())) {
                Some(meant) => format!("there is no such key; did you mean {meant}?"),
                None => format!("there is no such key; there are {}", self.known.join(", ")),
            };
            self.wrong(name, key.span(), &what);
        }
    }

    fn missing(&self, key: &str, expected: &str) {
        self.wrong(key, self.span.clone(), &format!("is missing; it must be {expected}"));
    }

    fn wrong(&self, key: &str, span: Range<usize>, what: &str) {
        self.notes.note(span, &format!("{}{key}", self.prefix), what);
    }
}
