//! What a value may be: how each type is read, refused and shown.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kraftr_provenance::{Key, KeyRing};
use kraftr_scheduler::blobs::s3::Encryption;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// How a value is written in a TOML file. Variables and flags are always text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In quotes.
    Text,
    /// Digits.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// An array of strings; with commas between them in a variable or flag.
    List,
}

/// Whether a value may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// It may.
    Open,
    /// It may not, and it can come from a file of its own (`…_file`).
    Secret,
}

/// A type that a field of the configuration can have.
pub trait Setting: Sized {
    /// How TOML writes it.
    const FORM: Form = Form::Text;
    /// Whether it may be shown.
    const SECRECY: Secrecy = Secrecy::Open;
    /// True when it may be left out.
    const OPTIONAL: bool = false;
    /// What stands for a value in help texts.
    const PLACEHOLDER: &'static str;

    /// What is right, to follow "must be".
    fn expected() -> String;
    /// Reads it; `None` when the text is not what is [expected](Self::expected).
    fn parse(text: &str) -> Option<Self>;
    /// How it may be shown to anybody.
    fn show(&self) -> String;
    /// The value when nobody gave one, where that is a value.
    fn absent() -> Option<Self> {
        None
    }
}

/// A field that may be left out.
impl<T: Setting> Setting for Option<T> {
    const FORM: Form = T::FORM;
    const SECRECY: Secrecy = T::SECRECY;
    const OPTIONAL: bool = true;
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;

    fn expected() -> String {
        T::expected()
    }

    fn parse(text: &str) -> Option<Self> {
        T::parse(text).map(Some)
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, T::show)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl Setting for String {
    const PLACEHOLDER: &'static str = "TEXT";

    fn expected() -> String {
        "text that is not empty".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        (!text.trim().is_empty()).then(|| text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for bool {
    const FORM: Form = Form::Boolean;
    const PLACEHOLDER: &'static str = "true|false";

    fn expected() -> String {
        "true or false".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for SocketAddr {
    const PLACEHOLDER: &'static str = "ADDR";

    fn expected() -> String {
        "an IP address and a port, such as 127.0.0.1:8080".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for PathBuf {
    const PLACEHOLDER: &'static str = "FILE";

    fn expected() -> String {
        "a path".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for Duration {
    const PLACEHOLDER: &'static str = "TIME";

    fn expected() -> String {
        "a time with its unit, such as 500ms, 20s, 5m or 1h".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = (text[..digits].parse::<u64>().ok()?, &text[digits..]);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        number.checked_mul(millis).map(Self::from_millis)
    }

    fn show(&self) -> String {
        let millis = self.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        match units.iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit)) {
            Some((unit, name)) => format!("{}{name}", millis / unit),
            None => format!("{millis}ms"),
        }
    }
}

/// Names in their order.
impl Setting for Vec<String> {
    const FORM: Form = Form::List;
    const PLACEHOLDER: &'static str = "NAMES";

    fn expected() -> String {
        "names with commas between them".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let names: Self = text.split(',').map(|name| name.trim().to_owned()).collect();
        names.iter().all(|name| !name.is_empty()).then_some(names)
    }

    fn show(&self) -> String {
        self.join(",")
    }
}

/// A whole number between two bounds, both allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Within<MIN, MAX> {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Setting for Within<MIN, MAX> {
    const FORM: Form = Form::Integer;
    const PLACEHOLDER: &'static str = "N";

    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|n| (MIN..=MAX).contains(n)).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Setting for Encryption {
    const PLACEHOLDER: &'static str = "HOW";

    fn expected() -> String {
        "bucket, aes256, kms, or kms:KEY with the id or ARN of a key".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None => match text {
                "bucket" => Some(Self::BucketDefault),
                "aes256" => Some(Self::Store),
                "kms" => Some(Self::Kms { key: None }),
                _ => None,
            },
            Some(("kms", key)) if !key.is_empty() => Some(Self::Kms { key: Some(key.to_owned()) }),
            Some(_) => None,
        }
    }

    fn show(&self) -> String {
        match self {
            Self::BucketDefault => "bucket".to_owned(),
            Self::Store => "aes256".to_owned(),
            Self::Kms { key: None } => "kms".to_owned(),
            Self::Kms { key: Some(key) } => format!("kms:{key}"),
        }
    }
}

/// The name of a part of a queue's name: a pool or a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for Name {
    const PLACEHOLDER: &'static str = "NAME";

    fn expected() -> String {
        "1 to 64 of the characters a-z 0-9 - _ .".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        ((1..=64).contains(&text.len()) && text.chars().all(allowed)).then(|| Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// An http or https URL without a trailing slash, query or password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl(String);

impl HttpUrl {
    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for HttpUrl {
    const PLACEHOLDER: &'static str = "URL";

    fn expected() -> String {
        "a URL such as https://render.example.com, without user, query or fragment".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        (matches!(url.scheme(), "http" | "https") && url.has_host() && plain)
            .then(|| Self(text.trim_end_matches('/').to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// What to log, as `tracing` filters say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for LogFilter {
    const PLACEHOLDER: &'static str = "FILTER";

    fn expected() -> String {
        "a filter such as info or kraftr_worker=debug,warn".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        tracing_subscriber::EnvFilter::try_new(text).ok().map(|_| Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A secret as it is.
#[derive(Debug, Clone)]
pub struct Secret(pub SecretString);

impl Setting for Secret {
    const SECRECY: Secrecy = Secrecy::Secret;
    const PLACEHOLDER: &'static str = "SECRET";

    fn expected() -> String {
        "text that is not empty".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        (!text.trim().is_empty()).then(|| Self(text.into()))
    }

    fn show(&self) -> String {
        MASK.to_owned()
    }
}

/// Shown instead of a secret.
const MASK: &str = "***";

/// A URL that may carry a password: shown, also by `Debug`, without it.
#[derive(Clone)]
struct Masked {
    url: SecretString,
    shown: String,
}

impl Masked {
    fn new(text: &str, schemes: &[&str]) -> Option<Self> {
        let mut url = Url::parse(text).ok()?;
        if !schemes.contains(&url.scheme()) {
            return None;
        }
        if url.password().is_some() {
            url.set_password(Some(MASK)).ok()?;
        }
        // A driver's parameters may carry passwords as well (`?password=…`, `?sslkey=…`).
        if url.query().is_some() {
            url.set_query(Some(MASK));
        }
        Some(Self { url: text.into(), shown: url.to_string() })
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Where the database is.
#[derive(Debug, Clone)]
pub struct DatabaseUrl(DatabaseAt);

/// What a database URL leads to.
#[derive(Debug, Clone)]
enum DatabaseAt {
    Postgres(Masked),
    Sqlite(PathBuf),
}

/// A database by its kind.
#[derive(Debug, Clone)]
pub enum DatabaseKind {
    /// PostgreSQL, by its whole URL.
    Postgres(SecretString),
    /// An SQLite file.
    Sqlite(PathBuf),
}

impl DatabaseUrl {
    /// Where to connect.
    pub fn kind(&self) -> DatabaseKind {
        match &self.0 {
            DatabaseAt::Postgres(masked) => DatabaseKind::Postgres(masked.url.clone()),
            DatabaseAt::Sqlite(path) => DatabaseKind::Sqlite(path.clone()),
        }
    }
}

impl Setting for DatabaseUrl {
    const SECRECY: Secrecy = Secrecy::Secret;
    const PLACEHOLDER: &'static str = "URL";

    fn expected() -> String {
        "postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite://PATH".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("sqlite://") {
            return (!path.is_empty()).then(|| Self(DatabaseAt::Sqlite(path.into())));
        }
        Masked::new(text, &["postgres", "postgresql"]).map(DatabaseAt::Postgres).map(Self)
    }

    fn show(&self) -> String {
        match &self.0 {
            DatabaseAt::Postgres(masked) => masked.shown.clone(),
            DatabaseAt::Sqlite(path) => format!("sqlite://{}", path.display()),
        }
    }
}

/// Where the broker is.
#[derive(Debug, Clone)]
pub struct AmqpUrl(Masked);

impl AmqpUrl {
    /// The whole URL.
    pub fn secret(&self) -> SecretString {
        self.0.url.clone()
    }
}

impl Setting for AmqpUrl {
    const SECRECY: Secrecy = Secrecy::Secret;
    const PLACEHOLDER: &'static str = "URL";

    fn expected() -> String {
        "amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Masked::new(text, &["amqp", "amqps"]).filter(|_| text.len() > "amqps://".len()).map(Self)
    }

    fn show(&self) -> String {
        self.0.shown.clone()
    }
}

/// Keys of the watermark, newest first: `id=64 hexadecimal digits`, one a line or with commas between them. Lines
/// that begin with `#` are comments.
#[derive(Debug, Clone)]
pub struct WatermarkKeys(pub KeyRing);

impl Setting for WatermarkKeys {
    const SECRECY: Secrecy = Secrecy::Secret;
    const PLACEHOLDER: &'static str = "KEYS";

    fn expected() -> String {
        "lines `id=64 hexadecimal digits` with different ids, the newest first".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let entries = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty());
        let keys = entries.map(|entry| {
            let (id, secret) = entry.split_once('=')?;
            Key::from_hex(id.trim(), secret.trim()).ok()
        });
        KeyRing::new(keys.collect::<Option<Vec<Key>>>()?).ok().map(Self)
    }

    fn show(&self) -> String {
        MASK.to_owned()
    }
}

/// Text that may be a secret: its `Debug` says nothing.
#[derive(Debug, Clone)]
pub(crate) struct Raw(SecretString);

impl Raw {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    pub(crate) fn text(&self) -> &str {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Setting>(text: &str, shown: Option<&str>) {
        assert_eq!(T::parse(text).map(|value| value.show()).as_deref(), shown, "{text:?}");
    }

    #[test]
    fn values_are_read_and_shown() {
        check::<Duration>("20s", Some("20s"));
        check::<Duration>("90s", Some("90s"));
        check::<Duration>("120s", Some("2m"));
        check::<Duration>("1500ms", Some("1500ms"));
        check::<Duration>("0s", Some("0ms"));
        for wrong in ["20", "s", "-1s", "1 s", "", "1d", "99999999999999999999s", "9999999999999999999h"] {
            check::<Duration>(wrong, None);
        }
        check::<Within<1, 256>>("256", Some("256"));
        for wrong in ["0", "257", "1.0", "", "-1"] {
            check::<Within<1, 256>>(wrong, None);
        }
        check::<Vec<String>>("a, b", Some("a,b"));
        check::<Vec<String>>("a,,b", None);
        check::<HttpUrl>("https://a.example/", Some("https://a.example"));
        for wrong in ["a.example", "ftp://a", "https://u:p@a", "https://a?b", ""] {
            check::<HttpUrl>(wrong, None);
        }
        check::<Name>("kraftr.v1", Some("kraftr.v1"));
        check::<Name>("Kraftr", None);
        check::<LogFilter>("kraftr=loud,,[", None);
        check::<bool>("yes", None);
    }

    #[test]
    fn passwords_are_masked() {
        check::<DatabaseUrl>("postgres://u:hunter2@h:5432/d", Some("postgres://u:***@h:5432/d"));
        check::<DatabaseUrl>("postgres://u@h/d?password=hunter2", Some("postgres://u@h/d?***"));
        check::<DatabaseUrl>("sqlite://a/b.db", Some("sqlite://a/b.db"));
        check::<DatabaseUrl>("mysql://u@h", None);
        check::<AmqpUrl>("amqp://u:hunter2@h:5672/%2f", Some("amqp://u:***@h:5672/%2f"));
        check::<AmqpUrl>("http://h", None);
        check::<Secret>("hunter2", Some("***"));
        let debug = format!(
            "{:?} {:?} {:?}",
            DatabaseUrl::parse("postgres://u:hunter2@h/d").unwrap(),
            AmqpUrl::parse("amqps://u:hunter2@h").unwrap(),
            Secret::parse("hunter2").unwrap()
        );
        assert!(!debug.contains("hunter2"), "{debug}");
    }

    #[test]
    fn key_rings_are_lines_or_a_list() {
        let (old, new) = ("ab".repeat(32), "cd".repeat(32));
        for text in [format!("# rotated\nnew={new}\n\nold = {old}\n"), format!("new={new},old={old}")] {
            assert_eq!(WatermarkKeys::parse(&text).unwrap().0.first().id(), "new");
        }
        for wrong in [String::new(), "new".into(), format!("a={new},a={old}"), "a=00".into()] {
            assert!(WatermarkKeys::parse(&wrong).is_none(), "{wrong}");
        }
    }
}
