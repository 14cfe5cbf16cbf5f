//! A PostgreSQL server of the test's own: in a temporary folder, on a free port, gone when dropped.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running (or stopped) server. Only processes that it started itself are ever stopped.
pub struct PostgresServer {
    folder: tempfile::TempDir,
    port: u16,
    binaries: PathBuf,
    tls: bool,
    /// The user that the server runs as where we are root, which it refuses to run as.
    user: Option<(u32, u32)>,
}

impl PostgresServer {
    /// Makes a database cluster and starts it. Panics with the reason when there is no PostgreSQL on the machine.
    pub fn start() -> Self {
        Self::start_as(false)
    }

    /// The same, with a certificate of its own for `localhost`, in [`PostgresServer::certificate`].
    pub fn start_with_tls() -> Self {
        Self::start_as(true)
    }

    fn start_as(tls: bool) -> Self {
        let binaries = find_binaries();
        let user = unprivileged();
        let folder = tempfile::tempdir().unwrap();
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { folder, port, binaries, tls, user };
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        if tls {
            let subject = "/CN=localhost";
            let names = "subjectAltName=DNS:localhost";
            let end = "basicConstraints=critical,CA:FALSE";
            let (key, certificate) = (format!("{data}/server.key"), server.certificate());
            let request = ["req", "-new", "-x509", "-days", "1", "-nodes", "-batch", "-subj", subject];
            server.run_program(
                Path::new("openssl"),
                &[&request[..], &["-addext", names, "-addext", end, "-keyout", &key, "-out", &certificate]].concat(),
            );
        }
        server.resume();
        server
    }

    /// Starts a stopped server again, and returns when it takes connections.
    pub fn resume(&self) {
        let folder = self.folder.path().display();
        let tls = if self.tls { "on" } else { "off" };
        let options = format!("-p {} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c ssl={tls}", self.port);
        let log = self.folder.path().join("log");
        self.run("pg_ctl", &["start", "-w", "-D", &self.data(), "-l", log.to_str().unwrap(), "-o", &options]);
    }

    /// Stops the server as a crash would: at once, without a checkpoint.
    pub fn crash(&self) {
        self.run("pg_ctl", &["stop", "-w", "-m", "immediate", "-D", &self.data()]);
    }

    /// Where to connect, as superuser.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The server's own certificate, PEM.
    pub fn certificate(&self) -> String {
        format!("{}/server.crt", self.data())
    }

    /// A connection as superuser.
    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, driver) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(driver);
        client
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        self.run_program(&self.binaries.join(program), arguments);
    }

    fn run_program(&self, program: &Path, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let status = command.status().unwrap();
        let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(status.success(), "{program:?} {arguments:?}: {status}\n{}", log());
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.folder.path().join("data/postmaster.pid").exists() {
            self.crash();
        }
    }
}

fn find_binaries() -> PathBuf {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    folders.sort();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let found = folders.into_iter().rev().find(|folder| folder.join("initdb").exists());
    found.expect("tests of the PostgreSQL sink need the server's programs (apt install postgresql)")
}

/// The user `postgres` when we are root, else None: then the server runs as ourselves.
fn unprivileged() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap();
    let fields: Vec<&str> = users.lines().find(|line| line.starts_with("postgres:"))?.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}
