//! The configuration as operators meet it: all mistakes at once, one order of layers, no secret shown.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use kraftr::config::reference;
use serde_json::Value;

use crate::program::{failure_of, kraftr, stdout_of};

/// Stands for every secret: it must never be printed.
const SECRET: &str = "hunter2";

/// A directory with a `kraftr.toml`, in which the program is run.
struct Place(tempfile::TempDir);

impl Place {
    fn with(file: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("kraftr.toml", file);
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    fn run(&self, variables: &[(&str, &str)], arguments: &str) -> Output {
        let mut command = kraftr();
        command.current_dir(self.path()).args(arguments.split_whitespace());
        let output = command.envs(variables.iter().copied()).output().unwrap();
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            assert!(!text.contains(SECRET), "a secret is shown: {text}");
        }
        output
    }

    /// What `config show` says about each key: value and origin.
    fn shown(&self, variables: &[(&str, &str)], key: &str) -> (Value, Value) {
        let shown = stdout_of(&self.run(variables, "config show --json"));
        let shown: Vec<Value> = serde_json::from_str(&shown).unwrap();
        let row = shown.into_iter().find(|row| row["key"] == key).expect(key);
        (row["value"].clone(), row["origin"].clone())
    }
}

/// A configuration that a scheduler could start with.
const SCHEDULER: &[(&str, &str)] = &[
    ("KRAFTR_DATABASE_URL", "postgres://kraftr:hunter2@db:5432/kraftr"),
    ("KRAFTR_AMQP_URL", "amqp://kraftr:hunter2@broker:5672/kraftr"),
    ("KRAFTR_S3_BUCKET", "kraftr"),
    ("KRAFTR_S3_ACCESS_KEY_ID", "hunter2"),
    ("KRAFTR_S3_SECRET_ACCESS_KEY", "hunter2"),
];

#[test]
fn every_mistake_is_listed_at_once_with_where_it_stands() {
    let place = Place::with(
        "log = 'kraftr=loud,,['\ncolour = 'red'\n[http]\nlistne = '127.0.0.1:1'\nlisten = 'localhost'\n\
         [worker]\nslots = '2'\n[databse]\nurl = 'postgres://u:hunter2@h/d'\n\
         [amqp]\nurl = 'amqp://u:hunter2@h'\nurl_file = 'hidden'\n[s3]\naccess_key_id = 7\nbucket = 'b\n",
    );
    let variables = [
        ("KRAFTR_AMQP_ULR", "amqp://u:hunter2@h"),
        ("KRAFTR_DATABASE_URL", "mysql://u:hunter2@h"),
        ("KRAFTR_S3_SECRET_ACCESS_KEY_FILE", "nowhere"),
        ("KRAFTR_DATABASE_CONNECTIONS", "none"),
        ("KRAFTR_FLAVOUR", "vanilla"),
    ];
    let said = failure_of(&place.run(&variables, "config check --role scheduler"), 1);
    for expected in [
        "the configuration has 15 mistakes",
        "kraftr.toml:1: log is \"kraftr=loud,,[\", it must be a filter such as",
        "kraftr.toml:2: there is no key colour; `kraftr config reference`",
        "kraftr.toml:4: there is no key http.listne; did you mean http.listen?",
        "kraftr.toml:5: http.listen is \"localhost\", it must be an IP address and a port",
        "kraftr.toml:7: worker.slots is of type string; it must be digits without quotes",
        "kraftr.toml:8: there is no key databse; did you mean database?",
        "amqp.url is given here and by kraftr.toml:11; keep one of them",
        "kraftr.toml:14: s3.access_key_id is of type integer; it must be text in quotes",
        "kraftr.toml:15: not TOML",
        "KRAFTR_AMQP_ULR: there is no such variable; did you mean KRAFTR_AMQP_URL?",
        "KRAFTR_FLAVOUR: there is no such variable",
        "KRAFTR_DATABASE_CONNECTIONS: database.connections is \"none\", it must be a whole number from 2 to 200",
        "KRAFTR_S3_SECRET_ACCESS_KEY_FILE: cannot read nowhere",
        "KRAFTR_DATABASE_URL: database.url must be postgres://",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
}

#[test]
fn what_is_missing_is_said_with_the_ways_to_give_it() {
    let place = Place::with("");
    let said = failure_of(&place.run(&[], "config check --role scheduler"), 1);
    for key in ["database.url", "amqp.url", "s3.bucket", "s3.access_key_id", "s3.secret_access_key"] {
        let variable = format!("KRAFTR_{}", key.replace('.', "_").to_uppercase());
        assert!(said.contains(&format!("{key}: is missing; set it in the file, as {variable}")), "{said}");
    }
    let said = failure_of(&place.run(&[], "config check --role worker"), 1);
    assert!(said.contains("amqp.url: is missing") && !said.contains("database.url"), "{said}");
    stdout_of(&place.run(&[], "config check"));
    stdout_of(&place.run(SCHEDULER, "config check --role scheduler"));
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let place = Place::with("[http]\nlisten = '127.0.0.1:1'\npublic_url = 'https://file.example'\n");
    let shown = place.shown(&[("KRAFTR_HTTP_LISTEN", "127.0.0.1:2")], "http.listen");
    assert_eq!(shown, ("127.0.0.1:2".into(), "KRAFTR_HTTP_LISTEN".into()));
    let shown = place.shown(&[("KRAFTR_HTTP_LISTEN", "")], "http.listen");
    assert_eq!(shown, ("127.0.0.1:1".into(), "kraftr.toml:2".into()), "an empty variable says nothing");
    let shown = place.shown(&[], "http.public_url");
    assert_eq!(shown, ("https://file.example".into(), "kraftr.toml:3".into()));
    assert_eq!(place.shown(&[], "worker.slots"), ("2".into(), "default".into()));
    assert_eq!(place.shown(&[], "worker.releases"), (Value::Null, Value::Null));
}

#[test]
fn the_file_is_named_by_a_flag_or_a_variable_or_is_the_usual_one() {
    let place = Place::with("[worker]\nslots = 3\n");
    place.write("four.toml", "[worker]\nslots = 4\n");
    place.write("five.toml", "[worker]\nslots = 5\n");
    let variables = [("KRAFTR_CONFIG", "four.toml")];
    assert_eq!(place.shown(&[], "worker.slots"), ("3".into(), "kraftr.toml:2".into()));
    assert_eq!(place.shown(&variables, "worker.slots"), ("4".into(), "four.toml:2".into()));
    let said = stdout_of(&place.run(&variables, "config show --config five.toml"));
    assert!(said.contains("five.toml:2"), "{said}");
    let said = failure_of(&place.run(&[], "config check --config six.toml"), 1);
    assert!(said.contains("six.toml: cannot be read"), "{said}");
}

#[test]
fn secrets_come_from_files_of_their_own_and_are_never_shown() {
    let place = Place::with("[s3]\naccess_key_id_file = 'id'\n");
    place.write("id", "hunter2\n");
    place.write("ring", &format!("2026-11={}\n", "ab".repeat(32)));
    let shown = place.shown(SCHEDULER, "database.url");
    assert_eq!(shown, ("postgres://kraftr:***@db:5432/kraftr".into(), "KRAFTR_DATABASE_URL".into()));
    let shown = place.shown(&[], "s3.access_key_id");
    assert_eq!(shown, ("***".into(), "id (kraftr.toml:2)".into()));
    let shown = place.shown(&[("KRAFTR_WATERMARK_KEYS_FILE", "ring")], "watermark.keys");
    assert_eq!(shown, ("***".into(), "ring (KRAFTR_WATERMARK_KEYS_FILE)".into()));
}

#[test]
fn a_secret_in_a_file_that_everybody_can_read_is_warned_about() {
    let place = Place::with("[s3]\naccess_key_id = 'hunter2'\n");
    fs::set_permissions(place.path().join("kraftr.toml"), Permissions::from_mode(0o644)).unwrap();
    let output = place.run(&[], "config check");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("kraftr.toml:2: s3.access_key_id can be read by every user"), "{said}");
    stdout_of(&output);
}

#[test]
fn a_worker_does_not_read_what_is_not_its_own() {
    let place = Place::with("[database]\nurl_file = 'not-there'\n");
    let output = place.run(SCHEDULER, "config check --role worker");
    let said = String::from_utf8_lossy(&output.stderr);
    for expected in [
        "KRAFTR_S3_SECRET_ACCESS_KEY: s3.secret_access_key is set, and a worker does not read it",
        "KRAFTR_DATABASE_URL: database.url is set, and a worker does not read it",
        "kraftr.toml:2: database.url is set, and a worker does not read it",
        "watermark.keys is not set: pictures are marked with the development key",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
    stdout_of(&output);
    let shown = stdout_of(&place.run(SCHEDULER, "config show --role worker"));
    assert!(shown.contains("amqp.url") && !shown.contains("database.url"), "{shown}");
}

#[test]
fn an_address_that_nobody_can_call_needs_a_public_url() {
    let place = Place::with("[http]\nlisten = '0.0.0.0:8080'\n");
    let said = failure_of(&place.run(SCHEDULER, "config check --role scheduler"), 1);
    assert!(
        said.contains("kraftr.toml:2: http.listen is 0.0.0.0:8080") && said.contains("--public-url"),
        "{said}"
    );
}

#[test]
fn a_chain_and_what_signs_under_it_belong_together() {
    let place = Place::with("");
    place.write("leaf.key", "hunter2");
    let check =
        |more: &[(&str, &str)]| place.run(&[SCHEDULER, more].concat(), "config check --role scheduler");
    let chain = ("KRAFTR_CREDENTIALS_CHAIN", "chain.pem");
    let key = ("KRAFTR_CREDENTIALS_KEY_FILE", "leaf.key");
    let command = ("KRAFTR_CREDENTIALS_SIGN_COMMAND", "ask-kms");
    for (given, expected) in [
        (&[chain][..], "set credentials.key_file or credentials.sign_command too"),
        (&[key], "set credentials.chain too"),
        (&[command], "set credentials.chain too"),
        (&[chain, key, command], "keep one of them"),
    ] {
        let said = failure_of(&check(given), 1);
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
    for given in [&[chain, key], &[chain, command]] {
        stdout_of(&check(given));
    }
    let said = check(&[]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("a certificate for development"), "{said:?}");
}

#[test]
fn the_reference_in_the_documents_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    let text = fs::read_to_string(path).unwrap();
    assert!(
        text == reference::markdown(),
        "docs/config.md is not current: kraftr config reference > docs/config.md"
    );
}

#[test]
fn a_start_is_refused_with_every_mistake_of_its_flags_too() {
    let place = Place::with("");
    let variables = [("KRAFTR_AMQP_URL", "amqp://u:hunter2@h"), ("KRAFTR_WORKER_GRACE", "20")];
    let said = failure_of(&place.run(&variables, "worker --slots 0 --releases demo-tyron,noop --log [["), 1);
    for expected in [
        "the configuration has 4 mistakes",
        "--log: log is \"[[\", it must be",
        "--slots: worker.slots is \"0\", it must be a whole number from 1 to 256",
        "--releases: there is no release demo-tyron; did you mean demo-tryon?",
        "KRAFTR_WORKER_GRACE: worker.grace is \"20\", it must be a time with its unit",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
    let said = failure_of(&place.run(SCHEDULER, "scheduler --listen here --offer-noop=maybe"), 1);
    assert!(said.contains("--listen: http.listen is \"here\"") && said.contains("--offer-noop: "), "{said}");
}
