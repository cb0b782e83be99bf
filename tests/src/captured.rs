//! What the kernel side captures of a connection that a test drives by itself, byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use agent::capture::kernel::{Backend, BackendChoice, Captured, KernelCapture, LoopChoice, Options};
use agent_core::{ConnectionId, Flow};

/// How long a capture may take for what has been moved already.
const PATIENCE: Duration = Duration::from_secs(10);

/// A capture by tp_btf (Linux 6.3), which sees the test's own process.
///
/// # Errors
/// When the programs do not load.
pub fn start() -> anyhow::Result<KernelCapture> {
    let options = Options {
        backend: BackendChoice::Only(Backend::TpBtf),
        loops: LoopChoice::Auto,
        ignored_pid: None,
        count_instructions: false,
        ..Options::default()
    };
    KernelCapture::start(&options)
}

/// What was captured of connections whose both ends are sockets of the test. A connection is named by the port
/// of its client.
#[derive(Debug, Default)]
pub struct Seen {
    /// The sockets: local port, port of the peer.
    sockets: BTreeMap<ConnectionId, (u16, u16)>,
    /// Their bytes, sent or not.
    flows: BTreeMap<(ConnectionId, bool), Vec<u8>>,
    closed: BTreeSet<ConnectionId>,
    /// Flows, sent or not, of which the end may not have been seen.
    unseen_ends: BTreeSet<(ConnectionId, bool)>,
}

impl Seen {
    /// The bytes of the client's or the server's socket, sent or received.
    #[must_use]
    pub fn flow(&self, client_port: u16, client: bool, sent: bool) -> &[u8] {
        let socket = self.socket(client_port, client);
        socket.and_then(|socket| self.flows.get(&(socket, sent))).map_or(&[], Vec::as_slice)
    }

    /// It was told that the end of a flow of the client's or the server's socket may not have been seen.
    #[must_use]
    pub fn is_end_unseen(&self, client_port: u16, client: bool, sent: bool) -> bool {
        let socket = self.socket(client_port, client);
        socket.is_some_and(|socket| self.unseen_ends.contains(&(socket, sent)))
    }

    fn socket(&self, client_port: u16, client: bool) -> Option<ConnectionId> {
        let is_wanted = |(local, peer): (u16, u16)| client_port == if client { local } else { peer };
        self.sockets.iter().find(|(_, ports)| is_wanted(**ports)).map(|(socket, _)| *socket)
    }

    /// How many sockets of the connection are closed for good.
    #[must_use]
    pub fn closed(&self, client_port: u16) -> usize {
        let ports = |socket| self.sockets.get(socket).copied().unwrap_or_default();
        self.closed.iter().filter(|socket| [ports(socket).0, ports(socket).1].contains(&client_port)).count()
    }

    /// Reads the ring until `done`, or until it has taken too long.
    ///
    /// # Errors
    /// When the ring cannot be read.
    ///
    /// # Panics
    /// When something is lost.
    pub fn read(&mut self, capture: &mut KernelCapture, done: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) && Instant::now() < deadline {
            capture.poll(Duration::from_millis(20), &mut |captured| match captured {
                Captured::Open { connection, endpoints, .. } => {
                    self.sockets.insert(connection, (endpoints.local_port, endpoints.peer_port));
                }
                Captured::Chunk { chunk, .. } => {
                    let flow = self.flows.entry((chunk.connection, chunk.flow == Flow::Sent)).or_default();
                    flow.extend(chunk.bytes);
                }
                Captured::Close { connection, flow, is_final, unseen, .. } => {
                    if unseen {
                        self.unseen_ends.insert((connection, flow == Flow::Sent));
                    }
                    if is_final {
                        self.closed.insert(connection);
                    }
                }
                Captured::LeftOut { .. } => panic!("nothing is left out"),
                Captured::Moved { .. } => {}
                Captured::Lost { .. } => panic!("nothing is lost"),
            })?;
        }
        Ok(())
    }
}
