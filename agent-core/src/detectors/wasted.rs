//! Work that nobody waits for, in amounts that can be added up: what the findings of [`super::uncancelled`] say once a call
//! is said here as it happens, so that a call that goes on for an hour counts an hour.
//!
//! In: outbound calls that belong to a call which was given up, and what a server sends on a stream after its client has reset
//! it. Out: [`Wasted`]. The evidence and the grace are those of the findings: what ends within
//! [`Thresholds::grace_ns`](super::uncancelled::Thresholds::grace_ns) after the end of the inbound call is not counted at all,
//! what goes on for longer is counted from that end.
//!
//! An outbound call that lasts is counted at each look up to that moment, if the observer is sure then that it is open, and at
//! its end from there: no moment twice. Where its end was not seen nothing is added after the last look that was sure.

use std::sync::Arc;

use super::correlation::{Evidence, Outbound, Processes, State};
use super::{Connections, Out, uncancelled};
use crate::input::{ConnectionId, Timestamp};
use crate::observation::{Call, LateWork};
use crate::observer::Observer;

/// An amount of work that nobody waited for. To be added to what was said of the same call before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wasted {
    /// Connection of the call that it was done for.
    pub connection: ConnectionId,
    /// Its stream.
    pub stream: u32,
    /// Its method, if it is known.
    pub method: Option<Arc<str>>,
    /// What was done.
    pub work: Work,
}

/// What was done for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// An outbound call was open, after the inbound call that it belongs to was given up.
    Outbound {
        /// For so many nanoseconds more.
        ns: u64,
        /// How it is known to which inbound call it belongs.
        link: Evidence,
    },
    /// A server went on sending on a stream that its client has reset.
    AfterEnd {
        /// From the reset to the last frame, in nanoseconds.
        ns: u64,
        /// DATA payload after it.
        bytes: u64,
    },
}

/// Adds what an outbound call that has ended ran on for, and was not added yet.
pub(super) fn handle_outbound_ended(
    thresholds: &uncancelled::Thresholds,
    call: &Call,
    mut link: Outbound,
    inbound: State,
    out: &mut Out,
) {
    let State::GivenUp(at, _) = inbound else { return };
    let Some(ended) = call.ended else { return };
    // What was counted before went on for longer than that, by a look.
    if link.counted_until.is_some() || ended.since(at) > thresholds.grace_ns {
        add(&mut link, call.method.as_ref(), at, ended, out);
    }
}

/// Adds what open calls have run on for.
pub(super) fn handle_tick(
    thresholds: &uncancelled::Thresholds,
    processes: &mut Processes,
    connections: &Connections,
    observer: &Observer,
    now: Timestamp,
    out: &mut Out,
) {
    for process in processes.values_mut() {
        process.visit_going_on(|link, method, at, _| {
            let is_known = connections.get(link.connection).is_some();
            if is_known
                && now.since(at) > thresholds.grace_ns
                && observer.is_call_open(link.connection, link.stream)
            {
                add(link, method, at, now, out);
            }
        });
    }
}

fn add(link: &mut Outbound, method: Option<&Arc<str>>, at: Timestamp, until: Timestamp, out: &mut Out) {
    let from = link.counted_until.unwrap_or(at.max(link.started));
    let ns = until.since(from);
    link.counted_until = Some(from.max(until));
    if ns > 0 {
        let work = Work::Outbound { ns, link: link.evidence };
        out.waste(Wasted { connection: link.connection, stream: link.stream, method: method.cloned(), work });
    }
}

/// Adds what was sent on a stream after its end: of what the finding says, since the two are judged alike.
pub(super) fn handle_late_work(work: &LateWork, ran_on_ns: u64, out: &mut Out) {
    out.waste(Wasted {
        connection: work.connection,
        stream: work.stream,
        method: work.method.clone(),
        work: Work::AfterEnd { ns: ran_on_ns, bytes: work.bytes },
    });
}
