//! A fleet of processes on private services.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::program::{LOOK_AGAIN, PATIENCE, arg, kraftr, stdout_of};

/// PostgreSQL, RabbitMQ and S3 of one test; they go with this value.
pub(crate) struct Services {
    directory: PathBuf,
    variables: BTreeMap<String, String>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/services")
}

impl Services {
    /// Starts them under `directory`.
    pub(crate) fn up(directory: PathBuf) -> Self {
        let said = Command::new(script()).args(["up", "--dir", arg(&directory)]).output().unwrap();
        let lines = stdout_of(&said);
        let variables = lines.lines().map(|line| {
            let (name, value) = line.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('\'').to_owned())
        });
        Self { directory, variables: variables.collect() }
    }

    /// SIGKILL for one of them, and a new start with the same data and port.
    pub(crate) fn restart(&self, name: &str) {
        for command in ["kill", "start"] {
            let arguments = [command, name, "--dir", arg(&self.directory)];
            let said = Command::new(script()).args(arguments).output().unwrap();
            assert!(said.status.success(), "{command} {name}: {said:?}");
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        Command::new(script()).args(["down", "--dir", arg(&self.directory)]).output().ok();
    }
}

/// Processes that share services.
pub(crate) struct Deployment {
    services: Services,
    scratch: PathBuf,
    started: u32,
}

/// One process; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    ready_file: PathBuf,
    log: PathBuf,
}

impl Deployment {
    pub(crate) fn new(scratch: &Path) -> Self {
        let services = Services::up(scratch.join("services"));
        Self { services, scratch: scratch.to_owned(), started: 0 }
    }

    pub(crate) const fn services(&self) -> &Services {
        &self.services
    }

    /// Runs `kraftr admin …` to its end.
    pub(crate) fn admin(&self, arguments: &[&str]) -> String {
        stdout_of(&kraftr().arg("admin").args(arguments).envs(&self.services.variables).output().unwrap())
    }

    /// The books must be right.
    pub(crate) fn audit(&self) {
        let said = self.admin(&["ledger", "audit", "--json"]);
        assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["ok"], true, "{said}");
    }

    /// Starts a scheduler; it listens on a free port.
    pub(crate) fn scheduler(&mut self) -> Process {
        let variables = self.services.variables.clone();
        self.start(&["scheduler", "--listen", "127.0.0.1:0", "--allow-private-webhooks=true"], &variables)
    }

    /// Starts a worker, which is told about the broker and nothing else.
    pub(crate) fn worker(&mut self, slots: u32) -> Process {
        let slots = slots.to_string();
        let broker = ("KRAFTR_AMQP_URL".to_owned(), self.services.variables["KRAFTR_AMQP_URL"].clone());
        self.start(&["worker", "--slots", &slots, "--releases", "demo-tryon"], &BTreeMap::from([broker]))
    }

    fn start(&mut self, arguments: &[&str], variables: &BTreeMap<String, String>) -> Process {
        self.started += 1;
        let ready_file = self.scratch.join(format!("ready-{}.json", self.started));
        let log = self.scratch.join(format!("{}-{}.log", arguments[0], self.started));
        let child = kraftr()
            .args(arguments)
            .args(["--log", "info", "--ready-file", arg(&ready_file)])
            .envs(variables)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, ready_file, log }
    }
}

impl Process {
    /// What it wrote into its ready file, once it has.
    pub(crate) fn wait_ready(&mut self) -> Value {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}:\n{}", self.log());
            }
            if let Ok(bytes) = fs::read(&self.ready_file) {
                return serde_json::from_slice(&bytes).unwrap();
            }
            assert!(started.elapsed() < PATIENCE, "it does not get ready:\n{}", self.log());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal: KILL, STOP, CONT, TERM.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// SIGTERM, and waits; it must end well.
    pub(crate) fn terminate(mut self) {
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "it ended with {status}:\n{}", self.log());
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead in most tests; one that panics must not leave a process behind.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
