//! Processes under a deadline: one that runs to its end, and one that runs until it is stopped or killed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest time for anything that a test waits for. Generous, since machines that test are busy.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks at something outside.
const PACE: Duration = Duration::from_millis(20);

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; None when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Runs a command to its end, at most [`PATIENCE`].
#[track_caller]
pub fn finish(command: &mut Command, input: Option<&str>) -> Finished {
    let shown = format!("{command:?}");
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    if let Some(input) = input {
        let mut stdin = child.stdin.take().expect("it is piped");
        std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap_or_else(|error| panic!("{shown}: {error}"));
    }
    let stdout = all_of(child.stdout.take().expect("it is piped"));
    let stderr = all_of(child.stderr.take().expect("it is piped"));
    let deadline = Instant::now() + PATIENCE;
    let mut wait = |output: Receiver<String>| {
        output.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap_or_else(|_| {
            child.kill().ok();
            panic!("{shown} did not end within {PATIENCE:?}")
        })
    };
    let (stdout, stderr) = (wait(stdout), wait(stderr));
    let status = child.wait().unwrap_or_else(|error| panic!("{shown}: {error}"));
    Finished { code: status.code(), stdout, stderr }
}

fn all_of(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).ok();
        sender.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
    });
    receiver
}

/// A process that runs beside the test; killed when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<()>,
    output: Arc<Mutex<String>>,
}

impl Running {
    /// Starts a command and collects what it prints.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = mpsc::channel();
        let collect = |pipe: Box<dyn Read + Send>| {
            let (sender, output) = (sender.clone(), output.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    let mut output = output.lock().expect("nobody panics with it");
                    output.push_str(&String::from_utf8_lossy(&line));
                    output.push('\n');
                    sender.send(()).ok();
                }
            });
        };
        collect(Box::new(child.stdout.take().expect("it is piped")));
        collect(Box::new(child.stderr.take().expect("it is piped")));
        Self { child, lines, output }
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        self.output.lock().expect("nobody panics with it").clone()
    }

    /// Waits until it has printed a line with these words.
    #[track_caller]
    pub fn wait_for_line(&mut self, words: &str) {
        let output = self.output.clone();
        self.wait_until(words, || output.lock().expect("nobody panics with it").contains(words));
    }

    /// Looks again and again, with every line that the process prints and now and then, until `done`.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}\n{}", self.output());
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{what}: the process ended with {status}\n{}", self.output());
            }
            self.rest(PACE);
        }
    }

    /// Waits for the next line that it prints, `longest` at most.
    fn rest(&self, longest: Duration) {
        if self.lines.recv_timeout(longest) == Err(RecvTimeoutError::Disconnected) {
            std::thread::park_timeout(longest);
        }
    }

    /// Lets it run for a time.
    pub fn pass(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.rest(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Lets it run for a time, then `kill -9`.
    pub fn kill_after(mut self, delay: Duration) -> String {
        self.pass(delay);
        self.kill()
    }

    /// `kill -9`; what it printed.
    pub fn kill(&mut self) -> String {
        self.child.kill().ok();
        self.child.wait().ok();
        self.output()
    }

    /// Asks it to stop, as Ctrl-C does, and waits for its end.
    #[track_caller]
    pub fn stop(mut self) -> (ExitStatus, String) {
        let signal = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(signal.is_ok_and(|status| status.success()), "the process is gone already:\n{}", self.output());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return (status, self.output());
            }
            assert!(Instant::now() < deadline, "it does not stop\n{}", self.output());
            self.rest(PACE);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
