//! What is seen of calls across a hop: hands the calls of all processes to [`super::correlation`], and what it links to the detectors
//! that judge links.

use super::correlation::{Correlated, Correlation, Processes};
use super::{Connections, Out, Thresholds, Watched, amplification, fixed, propagation, uncancelled, wasted};
use crate::input::Timestamp;
use crate::observation::{Call, CallStarted, ConnectionStatus, LateWork, RequestEnded, Side};
use crate::observer::Observer;

/// All processes, and what was found out of the last outbound call.
#[derive(Debug, Default)]
pub(super) struct Hops {
    processes: Processes,
    correlated: Option<Correlated>,
}

impl Hops {
    pub(super) fn enter(&mut self, connection: &mut Watched) {
        connection.correlation.process = self.processes.enter(&connection.party);
    }

    pub(super) fn leave(&mut self, connection: &mut Watched) {
        self.processes.leave(connection);
    }

    pub(super) fn handle_status(
        &mut self,
        thresholds: &Thresholds,
        connection: &mut Watched,
        status: &ConnectionStatus,
    ) {
        self.processes.handle_status(&thresholds.correlation, connection, status.time);
    }

    pub(super) fn handle_call_started(
        &mut self,
        thresholds: &Thresholds,
        connection: &mut Watched,
        call: &CallStarted,
        out: &mut Out,
    ) {
        match connection.side {
            Some(Side::Server) => {
                if let Some(process) = self.processes.of(connection) {
                    amplification::handle_inbound_started(process, connection, call, out);
                }
                self.processes.handle_inbound_started(&thresholds.correlation, connection, call);
            }
            Some(Side::Client) => self.handle_outbound_started(thresholds, connection, call, out),
            None => {}
        }
    }

    fn handle_outbound_started(
        &mut self,
        thresholds: &Thresholds,
        connection: &mut Watched,
        call: &CallStarted,
        out: &mut Out,
    ) {
        let origin = self.processes.handle_outbound_started(&thresholds.correlation, connection, call);
        let Some((correlation, inbound)) = origin else { return };
        let propagation = match (correlation, inbound) {
            (Correlation::Linked(link), Some(inbound)) => {
                propagation::handle_linked(&thresholds.propagation, connection, call, inbound, link, out)
            }
            (Correlation::Linked(_), None)
            | (Correlation::Ambiguous | Correlation::None | Correlation::Undecided, _) => None,
        };
        self.correlated = Some(Correlated {
            connection: call.connection,
            stream: call.stream,
            time: call.time,
            correlation,
            inbound: inbound.map(|inbound| (inbound.connection, inbound.stream)),
            propagation,
        });
    }

    pub(super) fn handle_request_ended(&mut self, connection: &Watched, ended: &RequestEnded) {
        if connection.side == Some(Side::Server) {
            self.processes.handle_request_ended(connection, ended.stream, ended.thread);
        }
    }

    pub(super) fn handle_call_ended(
        &mut self,
        thresholds: &Thresholds,
        connection: &mut Watched,
        call: &Call,
        out: &mut Out,
    ) {
        let (correlation, uncancelled) = (&thresholds.correlation, &thresholds.uncancelled);
        match connection.side {
            Some(Side::Server) => {
                let given_up = uncancelled::given_up(call);
                self.processes.handle_inbound_ended(correlation, connection, call, given_up);
            }
            Some(Side::Client) => {
                let ended = self.processes.handle_outbound_ended(connection, call, uncancelled.grace_ns);
                if let Some((link, inbound)) = ended {
                    uncancelled::handle_outbound_ended(uncancelled, connection, call, &link, inbound, out);
                    wasted::handle_outbound_ended(uncancelled, call, link, inbound, out);
                }
            }
            None => {}
        }
    }

    pub(super) fn handle_late_work(
        &mut self,
        thresholds: &Thresholds,
        connection: &Watched,
        work: &LateWork,
        out: &mut Out,
    ) {
        uncancelled::handle_late_work(&thresholds.uncancelled, connection, work, out);
    }

    pub(super) fn handle_tick(
        &mut self,
        thresholds: &Thresholds,
        connections: &Connections,
        observer: &Observer,
        now: Timestamp,
        out: &mut Out,
    ) {
        self.processes.expire(&thresholds.correlation, now);
        uncancelled::handle_tick(&thresholds.uncancelled, &mut self.processes, connections, now, out);
        wasted::handle_tick(&thresholds.uncancelled, &mut self.processes, connections, observer, now, out);
        fixed::handle_tick(&thresholds.fixed, &mut self.processes, now, out);
    }

    pub(super) fn take_correlated(&mut self) -> Option<Correlated> {
        self.correlated.take()
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.processes.forgotten()
    }
}
