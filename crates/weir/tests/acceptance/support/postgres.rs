//! A real PostgreSQL server of the test's own, on a free port, gone with the test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::process::finish;
use super::{Rows, Running, rows};

/// A running server.
pub struct Postgres {
    server: Option<Running>,
    folder: TempDir,
    port: u16,
}

impl Postgres {
    /// Makes a database cluster and starts it.
    #[track_caller]
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("weir-postgres-").tempdir().expect("a temporary folder");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        if is_root() {
            succeed(Command::new("chown").arg("postgres:").arg(folder.path()));
        }
        let cluster = folder.path().join("cluster");
        let mut initdb = as_owner("initdb");
        initdb.arg("-D").arg(&cluster).args(["-U", "weir", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        succeed(&mut initdb);
        let mut postgres = Self { server: None, folder, port };
        postgres.go_on();
        postgres
    }

    /// Starts the server again after [`Postgres::kill`].
    #[track_caller]
    pub fn go_on(&mut self) {
        let mut command = as_owner("postgres");
        command.arg("-D").arg(self.folder.path().join("cluster")).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        command.arg("-k").arg(self.folder.path());
        let mut server = Running::start(&mut command);
        let port = self.port;
        server.wait_until("PostgreSQL listening", || {
            let finished = finish(&mut psql(port, "SELECT 1"), None);
            finished.code == Some(0)
        });
        self.server = Some(server);
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// How to connect to it.
    pub fn url(&self) -> String {
        format!("postgres://weir@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs a statement.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        let finished = finish(&mut psql(self.port, sql), None);
        assert!(finished.code == Some(0), "{sql}: {finished:?}");
    }

    /// Rows of a query.
    #[track_caller]
    pub fn query(&self, sql: &str) -> Rows {
        let wrapped = format!("SELECT coalesce(json_agg(rows), '[]') FROM ({sql}) rows");
        let finished = finish(&mut psql(self.port, &wrapped), None);
        assert!(finished.code == Some(0), "{sql}: {finished:?}");
        rows(&serde_json::from_str(&finished.stdout).expect("PostgreSQL's JSON"))
    }
}

fn psql(port: u16, sql: &str) -> Command {
    let mut command = Command::new(program("psql"));
    command.args(["-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-p", &port.to_string()]);
    command.args(["-U", "weir", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    command
}

fn is_root() -> bool {
    finish(Command::new("id").arg("-u"), None).stdout.trim() == "0"
}

/// A program of PostgreSQL, which refuses to run as root; ends with the test, also when the test is killed.
fn as_owner(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.current_dir("/").args(["--pdeathsig", "INT"]);
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    }
    command.arg(program(name));
    command
}

#[track_caller]
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut packaged: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    packaged.retain(|path| path.exists());
    packaged.sort();
    packaged.pop().unwrap_or_else(|| PathBuf::from(name))
}

#[track_caller]
fn succeed(command: &mut Command) {
    let finished = finish(command, None);
    assert!(finished.code == Some(0), "{command:?} (`cargo xtask test` installs PostgreSQL): {finished:?}");
}
