//! Two sockets that talk, one thread for each end and direction, and the verdict on what was seen of them.
//!
//! A thread serves one flow of one socket only, so the thread that a chunk names says which flow it has to
//! be compared with.

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

use agent::capture::kernel::{Captured, KernelCapture};
use agent_core::Flow;
use anyhow::{Context as _, Result};

use crate::calls::{receive_all, receive_end, send_all};
use tests::traffic::{ANCHOR_BYTES, ANCHORS, Random, Traffic};

/// What the sockets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// Unix stream sockets.
    Unix,
}

impl Transport {
    /// All of them.
    pub(crate) const ALL: [Transport; 3] = [Transport::Tcp4, Transport::Tcp6, Transport::Unix];

    /// A new pair of them.
    pub(crate) fn connect(self) -> Result<[OwnedFd; 2]> {
        let address = match self {
            Transport::Tcp4 => "127.0.0.1:0",
            Transport::Tcp6 => "[::1]:0",
            Transport::Unix => {
                let (a, b) = UnixStream::pair().context("make a pair of Unix sockets")?;
                return Ok([a.into(), b.into()]);
            }
        };
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let client = TcpStream::connect(listener.local_addr()?).context("connect")?;
        let (server, _) = listener.accept().context("accept")?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        Ok([client.into(), server.into()])
    }
}

/// Everything that was captured, by thread.
#[derive(Default)]
pub(crate) struct Seen {
    chunks: HashMap<u32, Vec<(u64, bool, Vec<u8>)>>,
    connections: HashMap<u32, u64>,
    /// By connection: ends of the flow received, orderly final ends, anything else.
    closes: HashMap<u64, [u32; 3]>,
    opened: HashMap<u64, u32>,
    lost: u64,
}

/// The judgement on one or many conversations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Flows, each counted on both ends.
    pub(crate) flows: u64,
    /// Flows without any fault.
    pub(crate) exact_flows: u64,
    /// Bytes moved.
    pub(crate) bytes: u64,
    /// Bytes shipped.
    pub(crate) shipped: u64,
    /// Bytes that had to be shipped and were not.
    pub(crate) missing: u64,
    /// Bytes shipped that had to be left out.
    pub(crate) extra: u64,
    /// Bytes that differ from those sent, or lie outside of the flow.
    pub(crate) wrong: u64,
    /// Chunks said to start a frame that do not.
    pub(crate) boundaries_wrong: u64,
    /// Ends and beginnings of connections that were not told, or not once.
    pub(crate) closes_missing: u64,
    /// Records lost.
    pub(crate) lost: u64,
    /// What was told of the ends instead.
    pub(crate) note: String,
}

impl Verdict {
    /// No fault at all.
    pub(crate) fn is_exact(&self) -> bool {
        self.flows > 0 && self.exact_flows == self.flows && self.closes_missing == 0 && self.lost == 0
    }

    /// Nothing that is wrong, whatever is missing.
    pub(crate) fn is_true(&self) -> bool {
        self.flows > 0 && self.wrong == 0 && self.extra == 0 && self.boundaries_wrong == 0
    }

    /// Sums up.
    pub(crate) fn add(&mut self, other: &Verdict) {
        self.flows += other.flows;
        self.exact_flows += other.exact_flows;
        self.bytes += other.bytes;
        self.shipped += other.shipped;
        self.missing += other.missing;
        self.extra += other.extra;
        self.wrong += other.wrong;
        self.boundaries_wrong += other.boundaries_wrong;
        self.closes_missing += other.closes_missing;
        self.lost += other.lost;
    }
}

struct Served {
    thread: u32,
    flow: Flow,
    /// Index of `traffic`.
    direction: usize,
}

/// One pair of sockets at work.
pub(crate) struct Conversation {
    transport: Transport,
    late: bool,
    traffic: [Arc<Traffic>; 2],
    /// Bytes of each direction that were moved before the capture began.
    unseen: [usize; 2],
    threads: Vec<JoinHandle<Result<Served>>>,
    served: Vec<Served>,
    go: Option<Arc<Barrier>>,
}

impl Conversation {
    /// Starts the threads. With `late`, half of the bytes have been moved when this returns, and the rest
    /// waits for [`finish_all`]; otherwise nothing waits.
    pub(crate) fn begin(seed: u64, transport: Transport, bytes: usize, late: bool) -> Result<Conversation> {
        let mut random = Random::new(seed << 8 | transport as u64);
        let sockets: Vec<Arc<OwnedFd>> = transport.connect()?.into_iter().map(Arc::new).collect();
        let mut unseen = [0; 2];
        let traffic = [0, 1].map(|direction| {
            let mut traffic = Traffic::generate(&mut random, bytes / 2, direction == 0, 1, false);
            if late {
                unseen[direction] = traffic.bytes.len();
            }
            let rest = Traffic::generate(&mut random, bytes / 2, direction == 0, 100_001, late);
            traffic.append(&rest);
            Arc::new(traffic)
        });
        let halfway = Arc::new(Barrier::new(5));
        let go = Arc::new(Barrier::new(5));
        // The client's first bytes come before the client reads; servers may speak first.
        let (client_spoke, client_may_read) = channel::<()>();
        let (server_heard, server_may_speak) = channel::<()>();
        let server_first = random.once_in(3);
        let mut gates = [Some(client_may_read), if server_first { None } else { Some(server_may_speak) }];
        let mut signals: [Option<Sender<()>>; 2] = [Some(client_spoke), Some(server_heard)];
        let mut threads = Vec::new();
        for direction in 0..2 {
            for sends in [true, false] {
                let socket = Arc::clone(&sockets[if sends { direction } else { 1 - direction }]);
                let traffic = Arc::clone(&traffic[direction]);
                let mut random = Random::new(random.number());
                let (halfway, go) = (Arc::clone(&halfway), Arc::clone(&go));
                let half = unseen[direction];
                // Direction 0 sends: the client speaks; received: the server hears. Direction 1 sends: the
                // server speaks; received: the client reads.
                let signal = if direction == 0 { signals[usize::from(!sends)].take() } else { None };
                let gate = if direction == 1 { gates[usize::from(sends)].take() } else { None };
                let least = if direction == 1 && sends && server_first { 64 } else { 1 };
                threads.push(std::thread::spawn(move || {
                    let fd = socket.as_raw_fd();
                    if let Some(gate) = gate {
                        let _ = gate.recv();
                    }
                    let mut at = 0;
                    let mut until = |to: usize, least: usize, signal: Option<&Sender<()>>| -> Result<()> {
                        // The first piece on its own, so that who waits for it can go on.
                        let first = if signal.is_some() { (at + 40).min(to) } else { at };
                        for end in [first, to] {
                            let piece = &traffic.bytes[at..end];
                            if sends {
                                send_all(&mut random, fd, piece, least)?;
                            } else {
                                receive_all(&mut random, fd, piece, half > 0)?;
                            }
                            at = end;
                            if let Some(signal) = signal {
                                let _ = signal.send(());
                            }
                        }
                        Ok(())
                    };
                    if half > 0 {
                        until(half, least, signal.as_ref())?;
                        halfway.wait();
                        go.wait();
                        let ends = if sends { groups(&traffic, half) } else { vec![traffic.bytes.len()] };
                        for (index, end) in ends.into_iter().enumerate() {
                            until(end, usize::MAX, None)?;
                            if index < ANCHORS {
                                // So that the reader gets each of them on its own, as from a quiet peer.
                                std::thread::sleep(Duration::from_millis(2));
                            }
                        }
                    } else {
                        until(traffic.bytes.len(), least, signal.as_ref())?;
                    }
                    if sends {
                        // SAFETY: an open socket.
                        unsafe { libc::shutdown(fd, libc::SHUT_WR) };
                    } else {
                        receive_end(fd)?;
                    }
                    // SAFETY: no arguments.
                    let thread = unsafe { libc::gettid() } as u32;
                    let flow = if sends { Flow::Sent } else { Flow::Received };
                    Ok(Served { thread, flow, direction })
                }));
            }
        }
        let go = late.then(|| {
            halfway.wait();
            go
        });
        Ok(Conversation { transport, late, traffic, unseen, threads, served: Vec::new(), go })
    }

    fn is_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Compares what was seen with what had to be.
    pub(crate) fn judge(&self, seen: &Seen) -> Verdict {
        let mut verdict = Verdict { lost: seen.lost, ..Verdict::default() };
        for served in &self.served {
            self.judge_flow(seen, served, &mut verdict);
        }
        for served in self.served.iter().filter(|served| served.flow == Flow::Received) {
            let Some(connection) = seen.connections.get(&served.thread) else {
                verdict.closes_missing += 1;
                continue;
            };
            let closes = seen.closes.get(connection).copied().unwrap_or_default();
            // The final end of a TCP socket may come before the process reads the peer's.
            let fine = match self.transport {
                Transport::Unix => closes == [1, 0, 0],
                Transport::Tcp4 | Transport::Tcp6 => closes == [1, 1, 0] || closes == [0, 1, 0],
            };
            if !fine || seen.opened.get(connection) != Some(&1) {
                verdict.closes_missing += 1;
                verdict.note = format!("ends {closes:?}, begun {:?}", seen.opened.get(connection));
            }
        }
        verdict
    }

    fn judge_flow(&self, seen: &Seen, served: &Served, verdict: &mut Verdict) {
        let traffic = &self.traffic[served.direction];
        let unseen = self.unseen[served.direction];
        let chunks = seen.chunks.get(&served.thread).map_or(&[][..], Vec::as_slice);
        // Where the flow's first byte is: sockets without sequence numbers count from when they were seen,
        // and what is sent by who connected may seem to start one byte later (its SYN).
        let mut zero = 0u64;
        if self.late {
            if self.transport == Transport::Unix {
                zero = chunks.first().map_or(0, |(offset, _, bytes)| {
                    let starts = traffic.frames.iter().filter(|start| **start >= unseen);
                    let mut same = starts.filter(|start| traffic.bytes[**start..].starts_with(bytes));
                    offset.wrapping_sub(*same.next().unwrap_or(&0) as u64)
                });
            } else if served.flow == Flow::Sent && served.direction == 0 {
                zero = 1;
            }
        }
        let mut shipped = vec![false; traffic.bytes.len()];
        let mut one =
            Verdict { flows: 1, bytes: (traffic.bytes.len() - unseen) as u64, ..Verdict::default() };
        for (offset, boundary, bytes) in chunks {
            let start = offset.wrapping_sub(zero) as usize;
            if *boundary && traffic.frames.binary_search(&start).is_err() {
                one.boundaries_wrong += 1;
            }
            for (index, byte) in bytes.iter().enumerate() {
                let at = start.wrapping_add(index);
                one.shipped += 1;
                if traffic.bytes.get(at) != Some(byte) {
                    one.wrong += 1;
                } else if shipped[at] || !traffic.ship[at] {
                    one.extra += 1;
                } else {
                    shipped[at] = true;
                }
            }
        }
        // A connection that was joined late is followed after a few small frames.
        let from = unseen + if self.late { ANCHORS * ANCHOR_BYTES } else { 0 };
        let expected = traffic.ship.iter().zip(&shipped).skip(from);
        one.missing += expected.filter(|(wanted, is_there)| **wanted && !**is_there).count() as u64;
        let faults = one.missing + one.extra + one.wrong + one.boundaries_wrong;
        one.exact_flows = u64::from(faults == 0);
        verdict.add(&one);
    }
}

/// Where a program that writes whole frames, some at once, would end its writes after `from`.
fn groups(traffic: &Traffic, from: usize) -> Vec<usize> {
    let mut random = Random::new(from as u64);
    let mut left = 0;
    let mut all = Vec::new();
    for start in traffic.frames.iter().copied().filter(|start| *start > from) {
        if left == 0 || all.len() < ANCHORS {
            all.push(start);
            left = random.below(5);
        } else {
            left -= 1;
        }
    }
    all.push(traffic.bytes.len());
    all
}

/// Lets all conversations run to their end while the ring is read, and then until it stays empty.
pub(crate) fn finish_all(running: &mut [Conversation], capture: &mut KernelCapture) -> Result<Seen> {
    for go in running.iter_mut().filter_map(|conversation| conversation.go.take()) {
        go.wait();
    }
    let mut seen = Seen::default();
    let mut quiet = 0;
    while quiet < 3 {
        let done = running.iter().all(Conversation::is_done);
        if done {
            for conversation in running.iter_mut() {
                for thread in conversation.threads.drain(..) {
                    let served = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
                    conversation.served.push(served);
                }
            }
        }
        let records = capture.poll(Duration::from_millis(20), &mut |captured| match captured {
            Captured::Open { connection, .. } => *seen.opened.entry(connection.0).or_default() += 1,
            Captured::Chunk { chunk, .. } => {
                seen.connections.insert(chunk.thread, chunk.connection.0);
                let chunks = seen.chunks.entry(chunk.thread).or_default();
                chunks.push((chunk.offset, chunk.boundary, chunk.bytes.to_vec()));
            }
            // Says more of an end that was told.
            Captured::Close { is_final: false, unseen: true, .. } => {}
            Captured::Close { connection, flow, reset, is_final, .. } => {
                let kind = match (flow, reset, is_final) {
                    (Flow::Received, false, false) => 0,
                    (_, false, true) => 1,
                    (Flow::Sent, false, false) => return,
                    _ => 2,
                };
                seen.closes.entry(connection.0).or_default()[kind] += 1;
            }
            // Not asked for.
            Captured::LeftOut { .. } => seen.lost += 1,
            Captured::Moved { .. } => {}
            Captured::Lost { records, .. } => seen.lost += u64::from(records),
        })?;
        quiet = if done && records == 0 { quiet + 1 } else { 0 };
    }
    Ok(seen)
}
