//! Ctrl-C and SIGTERM stop cleanly; a second one ends at once.

use tokio::sync::watch;

/// Exit code after an interruption.
pub const INTERRUPTED: i32 = 130;

/// Turns the channel true on the first signal.
pub fn stop_on_signal(stop: watch::Sender<bool>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if asked {
                std::process::exit(INTERRUPTED);
            }
            asked = true;
            stop.send_replace(true);
        }
    });
    Ok(())
}
