//! The release binary at work on a project in a temporary folder.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::Connection;

/// Longest time until the binary answers, or a condition comes true.
const PATIENCE: Duration = Duration::from_secs(900);

/// A project's folder.
pub struct Project {
    folder: TempDir,
    server: u16,
    beacon: u16,
}

impl Project {
    /// An empty project with more settings.
    pub fn new(settings: &str, server_settings: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("weir-bench-").tempdir()?;
        let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let (server, beacon) = (listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port());
        let project = Self { folder, server, beacon };
        project.write(
            "weir.toml",
            &format!(
                "{settings}\n[server]\nlisten = \"127.0.0.1:{server}\"\nbeacon_listen = \"127.0.0.1:{beacon}\"\n{server_settings}\n"
            ),
        )?;
        Ok(project)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path().join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, text)?)
    }

    /// Runs the binary to its end; what it printed.
    pub fn weir(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(binary()?).args(arguments).current_dir(self.path()).output()?;
        ensure!(
            output.status.success(),
            "weir {arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts `weir run` and waits until it answers.
    pub fn start(&self) -> Result<Live> {
        let log = std::fs::File::create(self.path().join("run.log"))?;
        let child = Command::new(binary()?)
            .arg("run")
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut live = Live { child, server: self.server, beacon: self.beacon };
        live.wait_until("listening", |live| Ok(live.connect().is_ok() && live.beacon().is_ok()))?;
        Ok(live)
    }

    /// Bytes of files below `.weir`, by its folders.
    pub fn bytes_on_disk(&self) -> Result<Vec<(String, u64)>> {
        let mut stores = Vec::new();
        for entry in std::fs::read_dir(self.path().join(".weir"))? {
            let entry = entry?;
            if entry.path().is_dir() {
                stores.push((entry.file_name().to_string_lossy().into_owned(), bytes_below(&entry.path())?));
            }
        }
        stores.sort();
        Ok(stores)
    }
}

fn bytes_below(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        sum += if entry.path().is_dir() { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

/// The binary beside this one.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let binary = own.with_file_name("weir");
    ensure!(binary.exists(), "{} is missing; `cargo xtask bench` builds it", binary.display());
    Ok(binary)
}

/// A running `weir run`; stopped when dropped.
pub struct Live {
    child: Child,
    server: u16,
    beacon: u16,
}

impl Live {
    /// A connection for lookups and queries.
    pub fn connect(&self) -> Result<Connection> {
        Ok(Connection::open(self.server)?)
    }

    /// A connection for events.
    pub fn beacon(&self) -> Result<Connection> {
        Ok(Connection::open(self.beacon)?)
    }

    /// Rows of a query.
    pub fn query(&self, sql: &str) -> Result<Vec<Value>> {
        let mut server = self.connect()?;
        let reply = server.post("/query", serde_json::json!({ "sql": sql }).to_string().as_bytes())?;
        ensure!(reply.is_success(), "{sql}: {} {}", reply.status, reply.text());
        let answer: Value = serde_json::from_str(&reply.text()).with_context(|| reply.text())?;
        let rows = answer.get("rows").unwrap_or(&answer).as_array().cloned();
        rows.with_context(|| format!("not rows: {}", reply.text()))
    }

    /// Looks until something is so.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !done(self)? {
            if let Some(status) = self.child.try_wait()? {
                bail!("{what}: the process ended with {status}");
            }
            ensure!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Bytes of memory that the process holds now.
    pub fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        let kibibytes: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
        Ok(kibibytes * 1024)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let interrupt = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        if interrupt.is_err() {
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}
