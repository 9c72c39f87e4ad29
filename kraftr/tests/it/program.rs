//! The program as a process.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// How long anything may take before a test gives up; never what a test measures.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
/// How often a test looks again at something that it waits for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The program, ready for its arguments. It sees nothing of the configuration that the tests themselves run under.
pub(crate) fn kraftr() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kraftr"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"KRAFTR_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Output {
    kraftr().args(arguments).output().unwrap()
}

/// Standard output of a run that must have succeeded.
pub(crate) fn stdout_of(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error of a run that must have failed with this code.
pub(crate) fn failure_of(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What `kraftr dev --ready-file` writes.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Ready {
    pub(crate) url: String,
    pub(crate) api_key: Option<String>,
}

/// A `kraftr dev` under way; killed when it is dropped.
pub(crate) struct Dev {
    child: Child,
    ready_file: PathBuf,
}

impl Dev {
    /// Starts it on a directory without waiting for anything.
    pub(crate) fn spawn(directory: &Path) -> Self {
        Self::spawn_as(kraftr(), directory)
    }

    /// The same with releases of its own.
    pub(crate) fn spawn_with_models(directory: &Path, manifests: &Path, weights: &Path) -> Self {
        let mut program = kraftr();
        program.env("KRAFTR_MODELS_MANIFESTS", manifests).env("KRAFTR_MODELS_WEIGHTS", weights);
        Self::spawn_as(program, directory)
    }

    /// The same where releases may forbid commercial use.
    pub(crate) fn spawn_allowing_noncommercial(directory: &Path, manifests: &Path, weights: &Path) -> Self {
        let mut program = kraftr();
        program.env("KRAFTR_MODELS_MANIFESTS", manifests).env("KRAFTR_MODELS_WEIGHTS", weights);
        program.env("KRAFTR_MODELS_ALLOW_NONCOMMERCIAL", "true");
        Self::spawn_as(program, directory)
    }

    /// The same where none of its files may have more than that many blocks of 1,024 bytes. A write beyond that
    /// is an error, as on a full disk, and not the signal that it is otherwise.
    pub(crate) fn spawn_with_files_of(directory: &Path, blocks_max: u32) -> Self {
        let program = kraftr();
        let mut shell = Command::new("bash");
        let limited = r#"trap '' XFSZ; ulimit -f "$1"; shift; exec "$@""#;
        shell.args(["-c", limited, "bash", &blocks_max.to_string()]).arg(program.get_program());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.stdin(Stdio::null());
        Self::spawn_as(shell, directory)
    }

    fn spawn_as(mut program: Command, directory: &Path) -> Self {
        let ready_file = directory.with_extension("ready.json");
        // One that was killed has left its own, which the next may not have removed when we look.
        if ready_file.exists() {
            fs::remove_file(&ready_file).unwrap();
        }
        let child = program
            .args(["dev", "--listen", "127.0.0.1:0", "--log", "warn"])
            .args(["--data-dir", arg(directory), "--ready-file", arg(&ready_file)])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, ready_file }
    }

    /// What it has written into its ready file, if anything.
    pub(crate) fn ready(&self) -> Option<Ready> {
        match fs::read(&self.ready_file) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until it serves.
    pub(crate) fn wait_ready(&mut self) -> Ready {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("kraftr dev ended: {status}");
            }
            if let Some(ready) = self.ready() {
                return ready;
            }
            assert!(started.elapsed() < PATIENCE, "kraftr dev does not get ready");
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits; it must end well.
    pub(crate) fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "kraftr dev ended with {status}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Already dead in most tests; one that panics must not leave a server behind.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
