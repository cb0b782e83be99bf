//! The series of flow-control stalls of one connection's calls: how many, how long, and what is stalled now.

use std::sync::Arc;

use agent_core::Timestamp;
use agent_core::detectors::flow_control::{Attribution, Cause, SeenAt, Thresholds, attribute};
use agent_core::observation::{Side, Stall, Window};
use agent_core::{Flow, Observation};

use super::connection::ConnectionSeries;
use super::series::{Cell, Distribution, Update};
use super::store::Place;

/// Whose window was empty, why, and who had the credit to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stalled {
    pub(super) window: Window,
    pub(super) cause: Cause,
    pub(super) withheld_by: Side,
}

/// Stalls of one connection that last.
#[derive(Debug, Default)]
pub(super) struct Lasting(Vec<(Flow, Window, u32, Place, Stalled)>);

/// Stalls of one connection that are counted as lasting; the core follows as many.
const LASTING: usize = 258;

impl ConnectionSeries {
    /// A stall that lasts, as of `now`; to be said again every so often while it does.
    pub fn stall_lasts(&mut self, stall: &Stall, thresholds: &Thresholds, now: Timestamp) {
        let Some((side, stalled)) = self.attribute_stall(stall, thresholds, now) else { return };
        let known = self.lasting.position(stall);
        if known.is_some_and(|at| self.lasting.0[at].4 == stalled)
            || (known.is_none() && self.lasting.0.len() >= LASTING)
        {
            return;
        }
        let mut update = Update::default();
        update.add(Cell::StalledNow(stalled), 1);
        let store = Arc::clone(&self.store);
        let mut shard = store.shard(self.shard);
        let place = self.place_call(&mut shard, side, method_of(stall), &update);
        let entry = (stall.flow, stall.window, stall.stream, place, stalled);
        match known {
            Some(at) => {
                let (.., place, before) = std::mem::replace(&mut self.lasting.0[at], entry);
                shard.decrement(place, Cell::StalledNow(before));
            }
            None => self.lasting.0.push(entry),
        }
    }

    /// A stall that is over.
    pub fn stall_over(&mut self, stall: &Stall, thresholds: &Thresholds) {
        let until = stall.until.unwrap_or(stall.from);
        if let Some(at) = self.lasting.position(stall) {
            let (.., place, stalled) = self.lasting.0.swap_remove(at);
            self.store.shard(self.shard).decrement(place, Cell::StalledNow(stalled));
        }
        let Some((side, stalled)) = self.attribute_stall(stall, thresholds, until) else { return };
        let mut update = Update::default();
        if stall.inside_message {
            let ns = stall.lasted_ns(until);
            update.add(Cell::Stalls(stalled), 1);
            update.add(Cell::StallNs(stalled), ns);
            update.observe(Distribution::Stall(stall.window), ns);
        } else {
            update.add(Cell::UncertainStalls(stall.window), 1);
        }
        let store = Arc::clone(&self.store);
        let mut shard = store.shard(self.shard);
        self.place_call(&mut shard, side, method_of(stall), &update);
    }

    /// Takes what ends stalls without a word of their own.
    pub(super) fn observe_end_of_stalls(&mut self, observation: &Observation) {
        if matches!(observation, Observation::Anomaly(anomaly) if anomaly.kind == "stall_end_unknown") {
            self.forget_stalls();
        }
    }

    /// What lasts is said again.
    pub(super) fn forget_stalls(&mut self) {
        if self.lasting.0.is_empty() {
            return;
        }
        let mut shard = self.store.shard(self.shard);
        for (.., place, stalled) in self.lasting.0.drain(..) {
            shard.decrement(place, Cell::StalledNow(stalled));
        }
    }

    fn attribute_stall(
        &self,
        stall: &Stall,
        thresholds: &Thresholds,
        now: Timestamp,
    ) -> Option<(Side, Stalled)> {
        let side = self.side?;
        let client_flow = match side {
            Side::Client => Flow::Sent,
            Side::Server => Flow::Received,
        };
        let Attribution { cause, withheld_by, .. } =
            attribute(stall, client_flow, SeenAt::Socket, now, thresholds);
        Some((side, Stalled { window: stall.window, cause, withheld_by }))
    }
}

impl Lasting {
    fn position(&self, stall: &Stall) -> Option<usize> {
        self.0.iter().position(|(flow, window, stream, ..)| {
            *flow == stall.flow
                && *window == stall.window
                && (*window == Window::Connection || *stream == stall.stream)
        })
    }
}

/// The method that is to blame, or else the one whose DATA came last.
fn method_of(stall: &Stall) -> Option<&Arc<str>> {
    match &stall.holder {
        Some(holder) => holder.method.as_ref(),
        None => stall.method.as_ref(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use agent_core::ConnectionId;
    use agent_core::observation::{ConnectionStatus, Holder, RoundTrips, StallEnd, Sync};

    use super::super::strict::{Dialect, Exposition, read};
    use super::super::{Format, Metrics, SeriesLimits, Workload};
    use super::*;

    fn exported(metrics: &Metrics) -> Exposition {
        let text = String::from_utf8(metrics.encode(Format::Text).expect("it fits")).expect("text");
        read(&text, Dialect::Text).expect("strict 0.0.4")
    }

    /// The workload is a client that is sent to, on a connection with a round trip of a millisecond.
    fn connection(metrics: &Metrics) -> ConnectionSeries {
        let mut connection = metrics.connection(&Arc::new(Workload::new("cart")));
        connection.status(&ConnectionStatus {
            connection: ConnectionId(1),
            client_flow: Some(Flow::Sent),
            sync: Sync::Synced,
            time: Timestamp(0),
        });
        connection
    }

    /// DATA of a server on stream 3.
    pub(in crate::metrics) fn stall(window: Window, lasted_ms: Option<u64>) -> Stall {
        Stall {
            connection: ConnectionId(1),
            flow: Flow::Received,
            window,
            stream: 3,
            method: Some(Arc::from("/a.B/C")),
            from: Timestamp(0),
            until: lasted_ms.map(|ms| Timestamp(ms * 1_000_000)),
            end: lasted_ms.map(|_| StallEnd::WindowUpdate),
            inside_message: true,
            window_bytes: Some(65_535),
            credit_bytes: 1,
            round_trips: RoundTrips { of_sent_ns: Some(1_000_000), ..RoundTrips::default() },
            holder: None,
            siblings: None,
        }
    }

    #[test]
    fn stalls_are_counted_with_their_time_when_they_are_over_and_shown_while_they_last() {
        let metrics = Metrics::new(SeriesLimits::default());
        let mut connection = connection(&metrics);
        let thresholds = Thresholds::default();
        let now = |connection: &mut ConnectionSeries, ns| {
            connection.stall_lasts(&stall(Window::Stream, None), &thresholds, Timestamp(ns));
        };
        // The cause shows with time; it is one stall all the same.
        for (ns, cause) in
            [(2_000_000, "undecided"), (900_000_000, "slow_receiver"), (1_900_000_000, "slow_receiver")]
        {
            now(&mut connection, ns);
            let stalled = exported(&metrics);
            assert_eq!(
                stalled.sum("grpcscope_flow_control_stalled", &[("cause", cause), ("rpc_method", "a.B/C")]),
                1.0
            );
            assert_eq!(stalled.sum("grpcscope_flow_control_stalled", &[]), 1.0);
        }
        connection.stall_over(&stall(Window::Stream, Some(2_500)), &thresholds);
        connection.stall_over(&stall(Window::Stream, Some(1)), &thresholds);
        connection
            .stall_over(&Stall { inside_message: false, ..stall(Window::Stream, Some(9_000)) }, &thresholds);
        let holder = Some(Holder { stream: 1, method: Some(Arc::from("/a.B/Slow")), bytes: 60_000 });
        connection.stall_over(&Stall { holder, ..stall(Window::Connection, Some(400)) }, &thresholds);
        let over = exported(&metrics);
        assert_eq!(over.sum("grpcscope_flow_control_stalled", &[]), 0.0);
        let slow =
            [("window", "stream"), ("cause", "slow_receiver"), ("withheld_by", "client"), ("side", "client")];
        assert_eq!(over.sum("grpcscope_flow_control_stalls_total", &slow), 1.0);
        assert_eq!(over.sum("grpcscope_flow_control_stall_seconds_total", &slow), 2.5);
        let small = [("window", "stream"), ("cause", "small_window")];
        assert_eq!(over.sum("grpcscope_flow_control_stall_seconds_total", &small), 0.001);
        let held = [("window", "connection"), ("rpc_method", "a.B/Slow")];
        assert_eq!(over.sum("grpcscope_flow_control_stall_seconds_total", &held), 0.4);
        assert_eq!(over.sum("grpcscope_flow_control_stall_duration_seconds_count", &[]), 3.0);
        assert_eq!(over.sum("grpcscope_flow_control_uncertain_stalls_total", &[("window", "stream")]), 1.0);
    }

    #[test]
    fn what_is_stalled_ends_with_its_connection_and_with_what_is_known_of_it() {
        let metrics = Metrics::new(SeriesLimits::default());
        let thresholds = Thresholds::default();
        let stalled = |metrics: &Metrics| exported(metrics).sum("grpcscope_flow_control_stalled", &[]);
        let mut first = connection(&metrics);
        let mut second = connection(&metrics);
        for connection in [&mut first, &mut second] {
            for window in [Window::Stream, Window::Connection] {
                connection.stall_lasts(&stall(window, None), &thresholds, Timestamp(1));
            }
        }
        assert_eq!(stalled(&metrics), 4.0);
        let lost = agent_core::observation::Anomaly {
            connection: ConnectionId(1),
            stream: 3,
            kind: "stall_end_unknown",
            time: Timestamp(2),
        };
        first.observe(&Observation::Anomaly(lost));
        assert_eq!(stalled(&metrics), 2.0);
        drop(second);
        assert_eq!(stalled(&metrics), 0.0);
    }
}
