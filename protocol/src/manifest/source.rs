//! Where a file of a release can be fetched.

use std::fmt;

use serde::Serialize;

use super::read::Table;

/// Where a file can be fetched. Whatever is fetched must have the digest that the manifest names, so a source needs
/// no trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Source {
    /// A file of a repository on the Hugging Face hub, or on a mirror of it.
    Hub(Hub),
    /// An object of a bucket.
    S3 {
        /// `s3://bucket/key`.
        s3: String,
    },
    /// Any web server.
    Url {
        /// An https URL, or an http one.
        url: String,
    },
}

/// A file of a repository on the hub, at one revision for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hub {
    /// `owner/name`.
    #[serde(rename = "hub")]
    pub repository: String,
    /// The commit: 40 hexadecimal digits. Branches and tags move, a release does not.
    pub revision: String,
    /// Path in the repository.
    pub path: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(Hub { repository, revision, path }) => {
                write!(f, "{repository} on the hub, {path} at {revision}")
            }
            Self::S3 { s3 } => f.write_str(s3),
            // What follows the question mark of a presigned URL is a secret.
            Self::Url { url } => f.write_str(url.split(['?', '#']).next().unwrap_or_default()),
        }
    }
}

impl Source {
    pub(super) fn read(mut table: Table<'_>) -> Option<Self> {
        let kinds = ["hub", "s3", "url"].into_iter().filter(|kind| table.has(kind)).count();
        if kinds != 1 {
            table.mistake("", "name one of hub (with revision and path), s3 and url");
            return None;
        }
        let source = if table.has("hub") {
            let repository = table.text("hub", is_repository, "must be owner/name");
            let revision = table.text(
                "revision",
                |text| text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit()),
                "must be a commit of 40 hexadecimal digits: branches and tags move, a release does not",
            );
            let path =
                table.text("path", is_path, "must be a path in the repository, without .. and leading /");
            hub(repository, revision, path)
        } else if table.has("s3") {
            let s3 = table.text("s3", |s3| bucket_and_key(s3).is_some(), "must be s3://bucket/key");
            s3.map(|s3| Self::S3 { s3 })
        } else {
            let url = table.text("url", is_url, "must be an http or https URL");
            url.map(|url| Self::Url { url })
        };
        table.finish();
        source
    }
}

fn hub(repository: Option<String>, revision: Option<String>, path: Option<String>) -> Option<Source> {
    Some(Source::Hub(Hub { repository: repository?, revision: revision?, path: path? }))
}

/// The two parts of `s3://bucket/key`.
pub fn bucket_and_key(url: &str) -> Option<(&str, &str)> {
    let (bucket, key) = url.strip_prefix("s3://")?.split_once('/')?;
    (!bucket.is_empty() && !key.is_empty()).then_some((bucket, key))
}

fn is_repository(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name))
}

fn is_path(text: &str) -> bool {
    !text.contains(char::is_control) && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.starts_with('/') && !rest.is_empty())
        && !text.contains(|c: char| c.is_control() || c == ' ')
}
