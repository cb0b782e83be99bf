//! How the calls in flight stand: the oldest, the most silent, and their messages so far, by method.
//!
//! Unlike counters these are looked up every so often, from all open calls, and replaced as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_core::Timestamp;
use agent_core::observation::{OpenCall, Side};

use super::Metrics;
use super::connection::ConnectionSeries;
use super::labels::{Method, Workload};

/// Methods that are told apart in one look; calls of further ones are under `_OTHER` of their workload.
const METHODS: usize = 1_000;
/// With the `_OTHER` of workloads there are at most so many; calls of further workloads are left out.
const GROUPS: usize = 2 * METHODS;

/// Whose calls.
pub(super) type Group = (Arc<Workload>, Side, Method);

/// How the calls of a group stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Age of the oldest call that was seen to start.
    pub(super) oldest_ns: Option<u64>,
    /// Longest time since a frame of a call.
    pub(super) silent_ns: Option<u64>,
    /// Messages from the workload, and to it.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// There may have been more of them, since DATA was left out.
    pub(super) left_out: bool,
}

/// One look at all calls that are open.
#[derive(Clone, Debug, Default)]
pub struct OpenCalls {
    groups: BTreeMap<Group, Standing>,
}

impl OpenCalls {
    /// Takes a call of a connection as it stands at `now`.
    pub fn add(&mut self, connection: &ConnectionSeries, call: &OpenCall, now: Timestamp) {
        // A call that its server has ended is over, whatever its stream does.
        let (Some(side), None) = (connection.side, call.server_ended) else { return };
        let workload = connection.workload();
        let group = (Arc::clone(workload), side, Method::of(call.method.as_ref()));
        let Some(standing) = self.place(group) else { return };
        let age = |since: Timestamp| now.since(since);
        standing.oldest_ns = standing.oldest_ns.max(call.started.map(age));
        let last = call.last_from_client.max(call.last_from_server).max(call.started);
        // Since then nothing that it sent was left out.
        let is_known = call.left_out_until.is_none_or(|until| last.is_some_and(|last| last >= until));
        standing.silent_ns = standing.silent_ns.max(last.filter(|_| is_known).map(age));
        standing.left_out |= call.left_out_until.is_some();
        let (sent, received) = match side {
            Side::Client => (call.request.count, call.response.count),
            Side::Server => (call.response.count, call.request.count),
        };
        standing.sent = standing.sent.saturating_add(sent);
        standing.received = standing.received.saturating_add(received);
    }

    /// What was seen of the calls of all shards, within the same bounds.
    pub(super) fn of_all<'a>(mut shards: impl Iterator<Item = &'a OpenCalls>) -> BTreeMap<Group, Standing> {
        let mut all = shards.next().cloned().unwrap_or_default();
        for (group, of_one) in shards.flat_map(|shard| &shard.groups) {
            let Some(standing) = all.place(group.clone()) else { continue };
            standing.oldest_ns = standing.oldest_ns.max(of_one.oldest_ns);
            standing.silent_ns = standing.silent_ns.max(of_one.silent_ns);
            standing.left_out |= of_one.left_out;
            standing.sent = standing.sent.saturating_add(of_one.sent);
            standing.received = standing.received.saturating_add(of_one.received);
        }
        all.groups
    }

    fn place(&mut self, mut group: Group) -> Option<&mut Standing> {
        if self.groups.len() >= METHODS && !self.groups.contains_key(&group) {
            group.2 = Method::Other;
            if self.groups.len() >= GROUPS && !self.groups.contains_key(&group) {
                return None;
            }
        }
        Some(self.groups.entry(group).or_default())
    }
}

impl Metrics {
    /// Replaces what was said of the calls in flight of a shard.
    pub fn set_open_calls(&self, shard: u32, calls: OpenCalls) {
        self.sources.health.set_open_calls(shard, calls);
    }
}
