//! A project in a temporary folder, and the binary at work on it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Finished, finish};
use super::{Rows, Running, rows};

/// A project's folder with listeners on free ports.
pub struct Project {
    folder: TempDir,
    /// Where queries and lookups are answered while it runs.
    pub server: u16,
    /// Where events are taken while it runs.
    pub beacon: u16,
}

impl Project {
    /// An empty project.
    pub fn new() -> Self {
        Self::with_settings("")
    }

    /// An empty project whose weir.toml has more than the listeners.
    pub fn with_settings(settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("weir-acceptance-").tempdir().expect("a temporary folder");
        // Both are held until both are known, so that they differ.
        let ports = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
        let [server, beacon] = ports.each_ref().map(|port| port.local_addr().expect("it is bound").port());
        let project = Self { folder, server, beacon };
        project.write(
            "weir.toml",
            format!("{settings}\n[server]\nlisten = \"127.0.0.1:{server}\"\nbeacon_listen = \"127.0.0.1:{beacon}\"\n"),
        );
        project
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file in it.
    pub fn file(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }

    /// Writes a file, so that nobody sees half of it.
    #[track_caller]
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> &Self {
        let path = self.file(path);
        let folder = path.parent().expect("a file in the project");
        std::fs::create_dir_all(folder).expect("a folder");
        let name = path.file_name().expect("a file's name").to_string_lossy().into_owned();
        let temporary = folder.join(format!(".{name}.tmp"));
        std::fs::write(&temporary, contents).expect("a file");
        std::fs::rename(&temporary, &path).expect("a rename");
        self
    }

    /// Puts a copy of a file into the project, so that nobody sees half of it.
    #[track_caller]
    pub fn copy(&self, from: &Path, path: &str) -> &Self {
        self.write(path, std::fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())))
    }

    /// The binary with arguments, at work on this folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(arguments).current_dir(self.path()).env("NO_COLOR", "1");
        command
    }

    /// Runs the binary to its end.
    #[track_caller]
    pub fn weir(&self, arguments: &[&str]) -> Finished {
        finish(&mut self.command(arguments), None)
    }

    /// Runs the binary to its end; it must succeed.
    #[track_caller]
    pub fn weir_ok(&self, arguments: &[&str]) -> String {
        let finished = self.weir(arguments);
        assert!(finished.code == Some(0), "weir {arguments:?}: {finished:#?}");
        finished.stdout
    }

    /// Takes in everything that is there.
    #[track_caller]
    pub fn run_once(&self) -> String {
        self.weir_ok(&["run", "--once"])
    }

    /// Starts `weir run` and waits until it says that it runs, which it says when all listeners are open.
    #[track_caller]
    pub fn start(&self) -> Running {
        let mut running = Running::start(&mut self.command(&["run"]));
        running.wait_for_line("running");
        running
    }

    /// Answers of `weir query`.
    #[track_caller]
    pub fn query(&self, sql: &str) -> Rows {
        let answer = self.weir_ok(&["query", "--format", "json", sql]);
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"));
        rows(&answer)
    }

    /// The one value that a query answers.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        let answer = self.query(sql);
        match answer.as_slice() {
            [row] if row.len() == 1 => row.values().next().expect("there is one").clone(),
            other => panic!("{sql}: not one value: {other:?}"),
        }
    }

    /// `weir verify` must say that everything is equal.
    #[track_caller]
    pub fn verify(&self) {
        let finished = self.weir(&["verify"]);
        assert!(finished.code == Some(0), "verify: {finished:#?}");
    }
}
