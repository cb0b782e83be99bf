//! What is remembered of a connection: its calls by the parts of the window, and what else of it says where they go.

use std::sync::Arc;

use super::SLOTS;
use crate::WellKnown;
use crate::input::{Flow, Timestamp};
use crate::observation::{CallStarted, ConnectionStatus, Goaway, GoawayReason, Side, Sync};

/// The calls of a connection, and what else of it says where they go.
///
/// In the order of use.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Load {
    /// Since the end of the last slot.
    pub(super) calls: u32,
    pub(super) slots: [u32; SLOTS],
    /// When it was recognised.
    pub(in crate::detectors) opened: Option<Timestamp>,
    /// It was seen from its first byte.
    pub(in crate::detectors) from_start: bool,
    /// Bytes were missed, so calls, names and proxies may have been.
    pub(super) doubtful: bool,
    authority: Destination,
    pub(super) intermediary: bool,
    /// Either end has said that it will end.
    pub(super) draining: bool,
    /// The server has said so, and not because of what the client did.
    pub(in crate::detectors) graceful: bool,
    /// A stream to a balancer, or of a control plane, was seen on it.
    pub(super) lookaside: bool,
    pub(super) xds: bool,
}

/// Whom the client of a connection asks for.
#[derive(Debug, Default)]
enum Destination {
    #[default]
    Unknown,
    Known(Arc<str>),
    /// Several: the connection is shared, and whose its calls are is not followed.
    Several,
}

impl Load {
    pub(in crate::detectors) fn handle_status(&mut self, status: &ConnectionStatus) {
        let synced = status.sync == Sync::Synced;
        if self.opened.is_none() {
            self.opened = Some(status.time);
            self.from_start = synced;
        }
        self.doubtful |= !synced;
    }

    /// In the path of every call.
    pub(in crate::detectors) fn handle_call_started(&mut self, call: &CallStarted) {
        match call.well_known() {
            None => self.calls = self.calls.saturating_add(1),
            Some(WellKnown::LoadBalancer) => self.lookaside = true,
            Some(WellKnown::Discovery) => self.xds = true,
            Some(
                WellKnown::Health
                | WellKnown::HealthWatch
                | WellKnown::Reflection
                | WellKnown::Channelz
                | WellKnown::LoadReporting
                | WellKnown::LoadMetrics
                | WellKnown::Handshaker
                | WellKnown::Telemetry,
            ) => {}
        }
    }

    pub(in crate::detectors) fn handle_authority(&mut self, authority: &Arc<str>) {
        match &self.authority {
            Destination::Unknown => self.authority = Destination::Known(Arc::clone(authority)),
            Destination::Known(known) if known == authority => {}
            Destination::Known(_) | Destination::Several => self.authority = Destination::Several,
        }
    }

    pub(in crate::detectors) fn handle_goaway(&mut self, goaway: &Goaway, side: Option<Side>) {
        self.draining = true;
        let by_server = match (side, goaway.flow) {
            (Some(Side::Client), Flow::Received) | (Some(Side::Server), Flow::Sent) => true,
            (Some(Side::Client), Flow::Sent) | (Some(Side::Server), Flow::Received) | (None, _) => false,
        };
        self.graceful |= by_server
            && match goaway.reason {
                GoawayReason::GracefulNotice
                | GoawayReason::Graceful
                | GoawayReason::MaxAge
                | GoawayReason::MaxIdle => true,
                GoawayReason::TooManyPings | GoawayReason::TooManyResets | GoawayReason::Error => false,
            };
    }

    pub(in crate::detectors) fn handle_intermediary(&mut self) {
        self.intermediary = true;
    }

    /// Whom its calls go to, if all go to one.
    pub(in crate::detectors) fn destination(&self) -> Option<&Arc<str>> {
        match &self.authority {
            Destination::Known(authority) => Some(authority),
            Destination::Unknown | Destination::Several => None,
        }
    }

    pub(super) fn end_slot(&mut self, slot: usize) {
        self.slots[slot] = std::mem::take(&mut self.calls);
    }

    /// Calls of the window.
    pub(super) fn calls(&self) -> u64 {
        self.slots.iter().map(|calls| u64::from(*calls)).sum()
    }

    /// Nanoseconds since it was first seen.
    pub(super) fn age_ns(&self, now: Timestamp) -> u64 {
        self.opened.map_or(0, |opened| now.since(opened))
    }
}
