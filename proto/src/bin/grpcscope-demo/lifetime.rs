//! When a process of the demo is asked to end: SIGTERM, SIGINT, or its parent's end of standard input.

use std::io::Read;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Resolves when the process should finish what it does and end.
pub(crate) async fn is_over(while_stdin: bool) {
    // Both can only fail where signals do not exist; then standard input is what is left.
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("cannot wait for signals: {error}; ending now");
                return;
            }
        };
    let stdin_closed = stdin_closed(while_stdin);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stdin_closed => {}
    }
}

async fn stdin_closed(watch: bool) {
    if !watch {
        return std::future::pending().await;
    }
    let (closed, is_closed) = oneshot::channel();
    // A thread, since reads of standard input block; it ends with the process.
    std::thread::spawn(move || {
        let mut ignored = [0_u8; 256];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut ignored), Ok(n) if n > 0) {}
        // The receiver is gone if a signal came first.
        let _ = closed.send(());
    });
    // An error means that the thread died: the same as the end of its input.
    let _ = is_closed.await;
}
