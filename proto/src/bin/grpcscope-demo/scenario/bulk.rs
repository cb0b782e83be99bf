//! Streams that carry much: what a reader of them has to keep up with, and what inventory notices when it does not.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use proto::shop::Stock;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::Stream;
use tonic::Status;

use crate::ledger::{Ledger, Side};
use crate::provoked::{self, Provoked};

/// The beginning of article numbers of which there are endlessly many, sent at a pace that anybody keeps up with.
pub(crate) const PACED: &str = "bulk-paced";
/// The same, beside a stream of which inventory notices that nobody reads it.
pub(crate) const BESIDE: &str = "bulk-beside";
/// The same as [`PACED`], sent as fast as the reader lets it be.
pub(crate) const FAST: &str = "bulk-fast";
/// Octets of a message: nearly 7 MB a second.
const MESSAGE_BYTES: usize = 32 * 1024;
const PACE: Duration = Duration::from_millis(5);

/// A reader that does not ask for so long has stopped: far more than any scheduler takes.
const STOPPED: Duration = Duration::from_secs(1);
/// One that does not ask for so long lets a fast sender wait, whatever the reason is.
const WAITS: Duration = Duration::from_millis(20);
/// So many waits, and the window was too small all the time.
const MANY_WAITS: u32 = 20;

/// Messages without end, and the times during which nobody could take one.
///
/// The transport asks for a message when it may send something. From one that it got to the next question it could not: its
/// window was empty.
#[derive(Debug)]
pub(crate) struct Load {
    ledger: Arc<Ledger>,
    method: &'static str,
    message: Stock,
    pace: Option<Interval>,
    began_ns: u64,
    /// When the last message was taken.
    taken: Option<(Instant, u64)>,
    waits: u32,
    is_beside: bool,
}

impl Load {
    /// What an article number asks for, if it asks for much.
    pub(crate) fn of(prefix: &str, ledger: &Arc<Ledger>, method: &'static str) -> Option<Self> {
        if ![PACED, BESIDE, FAST].contains(&prefix) {
            return None;
        }
        let pace = (prefix != FAST).then(|| {
            let mut pace = tokio::time::interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        Some(Load {
            ledger: Arc::clone(ledger),
            method,
            message: Stock { sku: "b".repeat(MESSAGE_BYTES), units: 1, price_cents: 1 },
            pace,
            began_ns: provoked::now_ns(),
            taken: None,
            waits: 0,
            is_beside: prefix == BESIDE,
        })
    }

    fn note_wait(&mut self) {
        let Some((taken, taken_ns)) = self.taken.take() else { return };
        let waited = taken.elapsed();
        if self.is_beside {
            // The stream that holds up this one writes that down.
        } else if waited >= STOPPED {
            let stall = Provoked::since("flow_control_stall", taken_ns).because("slow_receiver");
            self.ledger.provokes(&stall.by_call(Side::Server, self.method).stalled_for(waited));
        } else if waited >= WAITS {
            self.waits += 1;
        }
    }
}

impl Stream for Load {
    type Item = Result<Stock, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.note_wait();
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_tick(cx));
        }
        self.taken = Some((Instant::now(), provoked::now_ns()));
        Poll::Ready(Some(Ok(self.message.clone())))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if self.pace.is_none() && self.waits >= MANY_WAITS {
            let stalls = Provoked::since("flow_control_stall", self.began_ns).because("small_window");
            self.ledger.provokes(&stalls.by_call(Side::Server, self.method));
        }
    }
}
