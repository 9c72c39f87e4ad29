//! Reads the fields of a JSON object or a query one by one and collects everything that is wrong with
//! them, so that a caller learns all mistakes at once.

use std::borrow::Cow;
use std::fmt;

use axum::http::{HeaderMap, header};
use kraftr_protocol::limits::JSON_DEPTH_MAX;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::problem::{Code, FieldError, Problem, echo};

/// The fields that are not read yet, and what was wrong with those that were.
#[derive(Debug, Default)]
pub(super) struct Fields {
    unread: Vec<(String, Value)>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

/// An object's fields in the order sent, repetitions included.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Fields {
    /// The fields of a JSON object, which is the whole body.
    pub(super) fn from_json(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        require_json(headers)?;
        if depth(body) > JSON_DEPTH_MAX {
            let message = format!("is nested more than {JSON_DEPTH_MAX} levels deep; flatten it");
            return Err(Problem::field(Code::JsonTooDeep, "body", message));
        }
        let Object(unread) = serde_json::from_slice(body).map_err(|error| {
            let message = format!("expected a JSON object: {error}");
            Problem::field(Code::MalformedJson, "body", message)
        })?;
        let mut fields = Self { unread, ..Self::default() };
        fields.refuse_repetitions();
        Ok(fields)
    }

    /// The parameters of a query string.
    pub(super) fn from_query(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let unread =
            pairs.map(|(name, value)| (name.into_owned(), Value::String(value.into_owned()))).collect();
        let mut fields = Self { unread, ..Self::default() };
        fields.refuse_repetitions();
        fields
    }

    fn refuse_repetitions(&mut self) {
        let mut names: Vec<String> = self.unread.iter().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        let mut repeated: Vec<String> =
            names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone()).collect();
        repeated.dedup();
        for name in repeated {
            self.refuse(Code::InvalidField, &name, "is given more than once; give it once");
        }
    }

    /// Takes a field out; `null` is the same as absent.
    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        let mut found = None;
        self.unread.retain_mut(|(other, value)| {
            let hit = other == name;
            if hit {
                found = Some(value.take());
            }
            !hit
        });
        found.filter(|value| !value.is_null())
    }

    /// A field that may be absent. `read` says what is wrong with a value.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        match read(self.take(name)?) {
            Ok(value) => Some(value),
            Err(Wrong(code, message)) => {
                self.refuse(code, name, message);
                None
            }
        }
    }

    /// A field that must be there.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        let present = self.unread.iter().any(|(other, value)| other == name && !value.is_null());
        if !present {
            self.refuse(Code::MissingField, name, "is missing; it is required");
        }
        self.optional(name, read)
    }

    /// Notes that a field is wrong.
    pub(super) fn refuse(&mut self, code: Code, field: &str, message: impl Into<String>) {
        self.errors.push(FieldError { field: echo(field), code, message: message.into() });
    }

    /// Every mistake so far, and every field that nobody asked for.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        let known = self.known.join(", ");
        for (name, _) in std::mem::take(&mut self.unread) {
            self.refuse(Code::UnknownField, &name, format!("is not known here; remove it. Known: {known}"));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::fields(self.errors)) }
    }
}

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong(pub Code, pub Cow<'static, str>);

/// A value that is not acceptable for a reason that needs no code of its own.
pub(super) fn wrong(message: impl Into<Cow<'static, str>>) -> Wrong {
    Wrong(Code::InvalidField, message.into())
}

/// A text.
pub(super) fn text(value: Value) -> Result<String, Wrong> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong("must be a string")),
    }
}

/// One of a few words; `allowed` lists them for the message.
pub(super) fn word<T: std::str::FromStr<Err: fmt::Display>>(value: Value) -> Result<T, Wrong> {
    let text = text(value)?;
    text.parse().map_err(|expected| wrong(format!("{:?} is not allowed; {expected}", echo(&text))))
}

/// One of the words of `all`, for types that do not read themselves.
pub(super) fn word_of<T: Copy>(value: Value, all: &[T], name: fn(T) -> &'static str) -> Result<T, Wrong> {
    let text = text(value)?;
    all.iter().copied().find(|known| name(*known) == text).ok_or_else(|| {
        let allowed: Vec<&str> = all.iter().copied().map(name).collect();
        wrong(format!("{:?} is not allowed; expected one of: {}", echo(&text), allowed.join(", ")))
    })
}

/// A whole number within bounds.
pub(super) fn whole(value: &Value, bounds: std::ops::RangeInclusive<u64>) -> Result<u64, Wrong> {
    value
        .as_u64()
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| wrong(format!("must be a whole number from {} to {}", bounds.start(), bounds.end())))
}

/// The body must be announced as JSON.
fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let announced = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence =
        announced.and_then(|value| value.split(';').next()).map_or("", str::trim).to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let message = "must be application/json; send the header `Content-Type: application/json`";
    Err(Problem::field(Code::UnsupportedMediaType, "Content-Type", message))
}

/// How deeply brackets are nested outside of strings; counted without recursion, before anything is parsed.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn parse(body: &str) -> Result<Fields, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        Fields::from_json(&headers, body.as_bytes())
    }

    fn errors(fields: Fields) -> Vec<(String, Code)> {
        let problem = fields.finish().unwrap_err();
        problem.document(None).errors.into_iter().map(|error| (error.field, error.code)).collect()
    }

    #[test]
    fn every_mistake_is_collected() {
        let mut fields = parse(r#"{"a": 1, "a": 2, "n": 1.5, "x": 0, "z": null}"#).unwrap();
        fields.optional("a", text);
        fields.required("n", |value| whole(&value, 1..=4));
        fields.required("m", text);
        fields.required("z", text);
        assert_eq!(
            errors(fields),
            [
                ("a".into(), Code::InvalidField),
                ("a".into(), Code::InvalidField),
                ("n".into(), Code::InvalidField),
                ("m".into(), Code::MissingField),
                ("z".into(), Code::MissingField),
                ("x".into(), Code::UnknownField),
            ]
        );
    }

    #[test]
    fn null_is_the_same_as_absent() {
        let mut fields = parse(r#"{"a": null}"#).unwrap();
        assert_eq!(fields.optional("a", text), None);
        fields.finish().unwrap();
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for body in ["", "[]", "1", "{", "{\"a\":}", "{\"a\":1}}", "\u{feff}{}", "{\"a\":1e999}"] {
            assert_eq!(parse(body).unwrap_err().code(), Code::MalformedJson, "{body:?}");
        }
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        assert_eq!(depth(br#"{"a": [["\"[[[["]]}"#), 3);
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&deep(JSON_DEPTH_MAX - 1)).is_ok());
        assert_eq!(parse(&deep(JSON_DEPTH_MAX)).unwrap_err().code(), Code::JsonTooDeep);
        assert_eq!(parse(&"[".repeat(100_000)).unwrap_err().code(), Code::JsonTooDeep);
    }

    #[test]
    fn the_media_type_must_be_json() {
        for announced in ["text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(announced).unwrap());
            let problem = Fields::from_json(&headers, b"{}").unwrap_err();
            assert_eq!(problem.code(), Code::UnsupportedMediaType, "{announced}");
        }
        assert_eq!(
            Fields::from_json(&HeaderMap::new(), b"{}").unwrap_err().code(),
            Code::UnsupportedMediaType
        );
    }

    #[test]
    fn a_query_is_read_like_a_body() {
        let mut fields = Fields::from_query(Some("limit=5&limit=6&status=a%20b&x"));
        assert_eq!(fields.optional("status", text), Some("a b".into()));
        fields.optional("limit", text);
        assert_eq!(errors(fields), [("limit".into(), Code::InvalidField), ("x".into(), Code::UnknownField)]);
    }
}
