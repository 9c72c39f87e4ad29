//! Holds answers against the OpenAPI document.

use axum::http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;

/// `/openapi.json`, as it was served.
pub(super) struct Contract(Value);

impl Contract {
    pub(super) fn new(document: Value) -> Self {
        Self(document)
    }

    /// Panics unless the answer is one that the document describes. Routes outside of it pass.
    pub(super) fn check(
        &self,
        method: &Method,
        path: &str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) {
        let media_type =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default();
        let what = format!("{method} {path} -> {status} {media_type}");
        let refused = status.is_client_error() || status.is_server_error();
        if refused {
            assert_eq!(media_type, "application/problem+json", "{what}");
            let document: Value =
                serde_json::from_slice(body).unwrap_or_else(|error| panic!("{what}: {error}"));
            self.matches(&self.0["components"]["schemas"]["Problem"], &document, &what);
            assert_eq!(document["status"], status.as_u16(), "{what}");
            assert_eq!(document["request_id"], headers["x-request-id"].to_str().unwrap(), "{what}");
        }
        let Some(operation) = self.operation(method, path) else { return };
        let response = &operation["responses"][status.as_str()];
        assert!(response.is_object(), "{what} is not documented");
        let content = &response["content"];
        if content.is_null() {
            assert!(body.is_empty(), "{what} has a body that is not documented");
            return;
        }
        let described = &content[media_type];
        assert!(described.is_object(), "{what}: the media type is not documented");
        if !media_type.ends_with("json") {
            return;
        }
        let document: Value = serde_json::from_slice(body).unwrap_or_else(|error| panic!("{what}: {error}"));
        self.matches(&described["schema"], &document, &what);
        if refused {
            let code = document["code"].as_str().unwrap();
            assert!(described["examples"][code].is_object(), "{what}: {code} is not documented");
        }
    }

    /// The operation whose path template fits.
    fn operation(&self, method: &Method, path: &str) -> Option<&Value> {
        let path = path.split('?').next().unwrap_or_default();
        let fits = |template: &str| {
            let (mut template, mut path) = (template.split('/'), path.split('/'));
            loop {
                match (template.next(), path.next()) {
                    (None, None) => return true,
                    (Some(slot), Some(given)) if slot.starts_with('{') && !given.is_empty() => {}
                    (Some(one), Some(other)) if one == other => {}
                    _ => return false,
                }
            }
        };
        let paths = self.0["paths"].as_object().unwrap();
        let (_, item) = paths.iter().find(|(template, _)| fits(template))?;
        item.get(method.as_str().to_ascii_lowercase())
    }

    /// Panics unless `value` is of `schema`: types, words, and properties neither missing nor unknown.
    fn matches(&self, schema: &Value, value: &Value, at: &str) {
        if let Some(reference) = schema["$ref"].as_str() {
            let target =
                self.0.pointer(&reference[1..]).unwrap_or_else(|| panic!("{at}: {reference} leads nowhere"));
            return self.matches(target, value, at);
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[key].as_array() {
                let null = |choice: &&Value| choice["type"] == "null";
                if value.is_null() {
                    assert!(choices.iter().any(|choice| null(&choice)), "{at} is null");
                    return;
                }
                let other =
                    choices.iter().find(|choice| !null(choice)).unwrap_or_else(|| panic!("{at}: only null"));
                return self.matches(other, value, at);
            }
        }
        if let Some(words) = schema["enum"].as_array() {
            assert!(words.contains(value), "{at}: {value} is none of {words:?}");
            return;
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            other => panic!("{at}: the schema has type {other}: {schema}"),
        };
        let fits = types.iter().any(|name| match *name {
            "null" => value.is_null(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{at}: unknown type {other}"),
        });
        assert!(fits, "{at}: {value} is no {types:?}");
        for item in value.as_array().into_iter().flatten() {
            self.matches(&schema["items"], item, &format!("{at}[]"));
        }
        if let (Some(object), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
            for (name, value) in object {
                let property =
                    properties.get(name).unwrap_or_else(|| panic!("{at}.{name} is not documented"));
                self.matches(property, value, &format!("{at}.{name}"));
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(object.contains_key(name.as_str().unwrap()), "{at}.{name} is missing");
            }
        }
    }
}
