//! Runs a program for each message, with the message on its standard input; it has taken the message when it ends with 0.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use weir_pipeline::notify::{Message, Messenger};

/// A program that takes longer is ended, and has not taken the message.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A program with its arguments. No shell stands between.
pub struct ProgramMessenger {
    command: Vec<String>,
    folder: PathBuf,
}

impl ProgramMessenger {
    /// Runs `command` in `folder`.
    pub fn new(command: Vec<String>, folder: PathBuf) -> Self {
        Self { command, folder }
    }
}

#[async_trait]
impl Messenger for ProgramMessenger {
    async fn deliver(&self, message: &Message) -> Result<(), String> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(()) };
        let mut command = Command::new(program);
        // What it prints is its own affair, and may hold what no log of ours should.
        command.args(arguments).current_dir(&self.folder).env("WEIR_MESSAGE_ID", &message.id);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("`{program}` cannot be started: {error}"))?;
        let run = async {
            if let Some(mut input) = child.stdin.take() {
                // A program that does not want to read may end before.
                let _ = input.write_all(message.body.to_string().as_bytes()).await;
            }
            child.wait().await
        };
        match tokio::time::timeout(TIME_MAX, run).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("`{program}` ended with {status}")),
            Ok(Err(error)) => Err(format!("`{program}`: {error}")),
            Err(_) => Err(format!("`{program}` did not end within {} s", TIME_MAX.as_secs())),
        }
    }
}
