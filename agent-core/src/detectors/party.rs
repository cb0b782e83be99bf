//! Whose connection it is, as far as the caller knows: the core sees bytes, not processes.

use std::net::SocketAddr;
use std::sync::Arc;

/// A process: the same number means the same process, and is never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u64);

/// A process and the workload that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process.
    pub process: ProcessId,
    /// Name of the workload.
    pub workload: Arc<str>,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// TCP.
    Address(SocketAddr),
    /// A Unix stream socket.
    Unix,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Address(address) => address.fmt(f),
            End::Unix => f.write_str("unix"),
        }
    }
}

/// Who is at the observed end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The process that uses the socket; `None` in a recording.
    pub owner: Option<Arc<Owner>>,
    /// This end and the other one, if they are known.
    pub ends: Option<(End, End)>,
}
