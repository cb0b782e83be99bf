//! What commands have in common that watch the kernel and print until a signal comes.

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::signals::StopSignals;
use crate::capture::kernel::{Counters, KernelCapture};
use crate::exit::Failure;
use crate::pipeline::{self, Listener, Pipeline, Stop, Watched};

/// Who prints what is observed.
pub(in crate::commands) trait Printer: Listener {
    /// What the kernel side has counted by now.
    fn handle_counters(&mut self, counters: &Counters);

    /// The way of capture was changed: what is in [`Changed`].
    fn handle_changed(&mut self, changed: &Changed<'_>);

    /// Nothing follows.
    ///
    /// # Errors
    /// Something could not be written.
    fn finish(&mut self) -> anyhow::Result<()>;
}

/// Watches on a thread of its own until a signal comes, or the printer asks `stop` for the end. `pipeline` is called when
/// signals are handled, right before the ring is read: it may say so.
///
/// # Errors
/// The kernel or the output failed, or a signal came.
pub(in crate::commands) fn watch_and_print<P: Printer>(
    capture: KernelCapture,
    stop: &Stop,
    pipeline: impl FnOnce(&KernelCapture) -> anyhow::Result<Pipeline<P>> + Send + 'static,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime that waits for signals")?;
    let reason = runtime.block_on(async {
        let mut signals = StopSignals::new()?;
        let asked = stop.clone();
        let (ended, mut watcher_ended) = tokio::sync::oneshot::channel();
        let watcher = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                let result = pipeline(&capture).and_then(|pipeline| watch(capture, pipeline, &asked));
                // The receiver is gone only when the process is about to end.
                let _ = ended.send(());
                result
            })
            .context("start the thread that reads the ring")?;
        let signal = tokio::select! {
            signal = signals.next() => Some(signal),
            _ = &mut watcher_ended => None,
        };
        stop.stop();
        match watcher.join() {
            Ok(result) => result.map(|()| signal),
            Err(_) => Err(anyhow::anyhow!("the thread that reads the ring panicked")),
        }
    })?;
    // Without a signal it ended since nobody reads its output any more, which is no failure.
    reason.map_or(Ok(()), |signal| Err(Failure::Signal(signal)))
}

fn watch<P: Printer>(
    mut capture: KernelCapture,
    mut pipeline: Pipeline<P>,
    stop: &Stop,
) -> anyhow::Result<()> {
    pipeline::watch(&mut capture, &mut pipeline, stop, |printer, watched| match watched {
        Watched::Counters(counters) => printer.handle_counters(counters),
        Watched::Changed { from, to, reason } => {
            printer.handle_changed(&Changed { kind: "changed", from: from.name(), to: to.name(), reason });
        }
        _ => {}
    })?;
    pipeline.finish(pipeline::monotonic_now());
    pipeline.listener().finish()
}

/// The line of JSON that says that from now on it is seen by another way of capture. What moved meanwhile was not.
#[derive(Clone, Debug, Serialize)]
pub(in crate::commands) struct Changed<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    from: &'static str,
    to: &'static str,
    reason: &'a str,
}

/// The line of JSON that says that everything from now on is seen.
pub(in crate::commands) fn ready(capture: &KernelCapture) -> Value {
    json!({ "type": "ready", "backend": capture.backend().name(), "reason": capture.reason() })
}

/// What a summary in JSON says of the records from the kernel.
pub(in crate::commands) fn summary_of(counters: &Counters) -> Map<String, Value> {
    let kernel: Map<String, Value> = counters
        .kernel
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(counter, count)| (counter.name().to_owned(), (*count).into()))
        .collect();
    Map::from_iter([
        ("type".to_owned(), "summary".into()),
        ("produced".to_owned(), counters.produced().into()),
        ("received".to_owned(), counters.received.into()),
        ("lost".to_owned(), counters.lost().into()),
        ("missing".to_owned(), counters.missing.into()),
        ("missed_runs".to_owned(), counters.missed_runs.iter().map(|(_, runs)| runs).sum::<u64>().into()),
        ("kernel".to_owned(), kernel.into()),
    ])
}

/// The same for people.
pub(in crate::commands) fn losses_of(counters: &Counters) -> String {
    format!("{} of {} records from the kernel lost", counters.lost(), counters.produced())
}
