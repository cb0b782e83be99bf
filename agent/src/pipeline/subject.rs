//! Whose connection it is: a process and two addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use agent_common::ring::Endpoints;
use agent_core::detectors::{End, Owner, Party, ProcessId};
use agent_core::{ConnectionId, Flow};

use crate::identity::{Identities, Identity};

/// Process ids are below 2^22 (proc_pid_max(5), `kernel.pid_max`).
const PID_BITS: u32 = 22;

/// The process id that is in the detectors' number of a process.
#[must_use]
pub fn pid(process: ProcessId) -> u32 {
    (process.0 & ((1 << PID_BITS) - 1)) as u32
}

/// A connection's process and addresses, as the observed socket sees them.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The connection.
    pub connection: ConnectionId,
    /// The process that was seen first to use the socket.
    pub process: Arc<Identity>,
    /// This end and the other one, if they are known.
    pub ends: Option<(End, End)>,
}

impl Subject {
    pub(super) fn new(
        connection: ConnectionId,
        pid: u32,
        endpoints: Option<&Endpoints>,
        identities: &Identities,
    ) -> Subject {
        let comm = endpoints.map(|ends| comm(&ends.comm)).unwrap_or_default();
        Subject { connection, process: identities.identify(pid, &comm), ends: endpoints.map(ends) }
    }

    /// The same, as the detectors want to know it. A process that had gone before it could be looked at has no number that
    /// would never be used again.
    pub(super) fn party(&self) -> Party {
        let process = &self.process;
        let owner = process.start_ticks.map(|start_ticks| {
            Arc::new(Owner {
                process: ProcessId(start_ticks << PID_BITS | u64::from(process.pid)),
                workload: Arc::from(process.service_name.as_str()),
            })
        });
        Party { owner, ends: self.ends }
    }

    /// The client's end and the server's, once it is known which is which.
    #[must_use]
    pub fn client_and_server(&self, client_flow: Option<Flow>) -> Option<(End, End)> {
        let (local, peer) = self.ends?;
        Some(match client_flow? {
            Flow::Sent => (local, peer),
            Flow::Received => (peer, local),
        })
    }
}

fn ends(endpoints: &Endpoints) -> (End, End) {
    if i32::from(endpoints.family) == libc::AF_UNIX {
        return (End::Unix, End::Unix);
    }
    (end(endpoints.local_address, endpoints.local_port), end(endpoints.peer_address, endpoints.peer_port))
}

fn end(address: [u8; 16], port: u16) -> End {
    let address = Ipv6Addr::from(address);
    let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
    End::Address(SocketAddr::new(address, port))
}

fn comm(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_people_write_them() {
        let mut v4 = [0; 16];
        v4[10..].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
        assert_eq!(end(v4, 80).to_string(), "127.0.0.1:80");
        let mut v6 = [0; 16];
        v6[15] = 1;
        assert_eq!(end(v6, 443).to_string(), "[::1]:443");
        assert_eq!(comm(b"python3\0\0\0"), "python3");
    }
}
