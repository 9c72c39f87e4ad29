//! A fleet of processes on private services.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::program::{LOOK_AGAIN, PATIENCE, arg, kraftr, stdout_of};
use crate::proxy::Proxy;

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

/// One deployment at a time: several would only wait for each other's processors.
static TURN: Mutex<()> = Mutex::const_new(());

/// Processes that share services.
pub(crate) struct Deployment {
    services: Services,
    /// What schedulers and workers are told, where that differs from what `services` says.
    scheduler_variables: BTreeMap<String, String>,
    worker_variables: BTreeMap<String, String>,
    scratch: PathBuf,
    started: u32,
    _turn: MutexGuard<'static, ()>,
}

/// What stands between the processes of a deployment and its services.
pub(crate) struct Proxies {
    pub(crate) database: Proxy,
    pub(crate) scheduler_broker: Proxy,
    pub(crate) worker_broker: Proxy,
    /// Of schedulers and workers: links that a scheduler signs lead where it goes itself.
    pub(crate) s3: Proxy,
}

/// One process; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    ready_file: PathBuf,
    log: PathBuf,
}

impl Deployment {
    pub(crate) async fn new(scratch: &Path) -> Self {
        let turn = TURN.lock().await;
        let services = Services::up(scratch.join("services"));
        let scheduler_variables = services.variables.clone();
        let amqp = |name: &String, _: &mut String| name == "KRAFTR_AMQP_URL";
        let worker_variables = services.variables.clone().extract_if(.., amqp).collect();
        Self {
            services,
            scheduler_variables,
            worker_variables,
            scratch: scratch.to_owned(),
            started: 0,
            _turn: turn,
        }
    }

    /// Puts a proxy between every process that is started from now on and every service.
    pub(crate) async fn proxied(&mut self) -> Proxies {
        let variables = &self.services.variables;
        let [database, amqp, s3] = ["KRAFTR_DATABASE_URL", "KRAFTR_AMQP_URL", "KRAFTR_S3_ENDPOINT"]
            .map(|name| variables[name].as_str());
        let proxies = Proxies {
            database: Proxy::before(database).await,
            scheduler_broker: Proxy::before(amqp).await,
            worker_broker: Proxy::before(amqp).await,
            s3: Proxy::before(s3).await,
        };
        self.scheduler_variables.extend([
            ("KRAFTR_DATABASE_URL".to_owned(), proxies.database.lead(database)),
            ("KRAFTR_AMQP_URL".to_owned(), proxies.scheduler_broker.lead(amqp)),
            ("KRAFTR_S3_ENDPOINT".to_owned(), proxies.s3.lead(s3)),
        ]);
        self.worker_variables.insert("KRAFTR_AMQP_URL".to_owned(), proxies.worker_broker.lead(amqp));
        proxies
    }

    pub(crate) const fn services(&self) -> &Services {
        &self.services
    }

    /// The broker, straight.
    pub(crate) fn amqp_url(&self) -> &str {
        &self.services.variables["KRAFTR_AMQP_URL"]
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
        let variables = self.scheduler_variables.clone();
        let flags = ["--listen", "127.0.0.1:0", "--allow-private-webhooks=true", "--offer-noop=true"];
        self.start(&["scheduler", "--log", "info"], &flags, &variables)
    }

    /// Starts a worker, which is told about the broker and nothing else.
    pub(crate) fn worker(&mut self, slots: u32) -> Process {
        self.worker_for("demo-tryon", slots)
    }

    /// Starts a worker for one release; its log names the stages of each render.
    pub(crate) fn worker_for(&mut self, release: &str, slots: u32) -> Process {
        let variables = self.worker_variables.clone();
        let flags = ["--slots", &slots.to_string(), "--releases", release];
        self.start(&["worker", "--log", "info,kraftr_worker=debug"], &flags, &variables)
    }

    fn start(&mut self, role: &[&str], flags: &[&str], variables: &BTreeMap<String, String>) -> Process {
        self.started += 1;
        let ready_file = self.scratch.join(format!("ready-{}.json", self.started));
        let log = self.scratch.join(format!("{}-{}.log", role[0], self.started));
        let child = kraftr()
            .args(role)
            .args(flags)
            .args(["--ready-file", arg(&ready_file)])
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
