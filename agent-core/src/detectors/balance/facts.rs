//! What the connections of some processes show of others: where servers listen, who hands calls on, who asks where for what,
//! and what servers got. Everything else of a look is of one process alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::detectors::ProcessId;

/// What those who look at other connections of the same node have to know of these. It holds an entry for each server and each
/// peer of a client, for a moment: it is made at the end of a slot, and thrown away when it has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Addresses at which server processes have open connections.
    pub(super) listeners: BTreeSet<(SocketAddr, ProcessId)>,
    /// Those at which a process serves a destination that it asks for itself.
    pub(super) proxies: BTreeSet<(SocketAddr, Arc<str>)>,
    /// By client process and destination, without those that are named differently in each network namespace.
    pub(super) asked: Vec<Asked>,
    /// By server process and destination.
    pub(in crate::detectors) served: Vec<ServedBy>,
}

/// Where a client process has connections to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) destination: Arc<str>,
    /// Whether any of the connections to the address goes on.
    pub(super) peers: BTreeMap<SocketAddr, bool>,
}

/// What a server process got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::detectors) struct ServedBy {
    pub(in crate::detectors) process: ProcessId,
    pub(in crate::detectors) workload: Arc<str>,
    pub(in crate::detectors) destination: Arc<str>,
    /// Of the window.
    pub(in crate::detectors) calls: u64,
    /// Age of the oldest connection with such a call.
    pub(in crate::detectors) used_age_ns: u64,
}
