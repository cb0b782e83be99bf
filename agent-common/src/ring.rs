//! The records of the ring: byte streams with holes.
//!
//! A record is one [`RecordHeader`] and, for [`KIND_DATA`], a list of chunks. A chunk is a [`ChunkHeader`],
//! its bytes, and padding to a multiple of eight. What lies between the end of one chunk and the start of
//! the next was left out on purpose, or lost: it is a hole, and user space decides whether it can step over it.
//!
//! All integers are in the byte order of the machine, since both sides run on it.

/// A record with chunks of one flow of one connection.
pub const KIND_DATA: u8 = 1;
/// The connection was seen for the first time as HTTP/2: the payload is one [`Endpoints`].
pub const KIND_OPEN: u8 = 2;
/// The connection ended, or half of it: [`RecordHeader::flow`] says whose end ([`FLOW_SENT`]: this side
/// closed; [`FLOW_RECEIVED`]: the peer closed), [`FLAG_RESET`] that it was not orderly and
/// [`FLAG_FINAL`] that nothing follows.
pub const KIND_CLOSE: u8 = 3;

/// Bytes of the flow moved and were not walked: `offset` is the first of them, `moved` how many. Those that were left
/// out on purpose are none of them.
pub const KIND_UNSEEN: u8 = 4;

/// Where a flow without sequence numbers starts when it was joined in the middle.
pub const UNKNOWN_START: u64 = 1 << 32;

/// Bytes that the observed process sent.
pub const FLOW_SENT: u8 = 0;
/// Bytes that the observed process received.
pub const FLOW_RECEIVED: u8 = 1;

/// The connection was reset or timed out.
pub const FLAG_RESET: u8 = 1;
/// The socket is closed; its id will not be used again.
pub const FLAG_FINAL: u8 = 2;

/// More records of the same socket call follow; they repeat `offset` and `moved`.
pub const FLAG_MORE: u8 = 4;

/// The flow's place in the frames is still a guess: the record counts only if the next one of the flow
/// goes on exactly where its call ended. It does not take a number, and may come before [`KIND_OPEN`].
pub const FLAG_TENTATIVE: u8 = 8;

/// Of [`KIND_CLOSE`]: what the flow carried last may not have been seen. Bytes of it were guessed at, or TCP has counted more than
/// was seen when the connection was reset: calls that were missed, a call that the process was inside of and that is not followed
/// any more, or what it had not read.
pub const FLAG_UNSEEN_END: u8 = 16;

/// Socket calls before this one were left out for [`SHED_DATA`]: whatever lies between the flow's record before and the
/// first chunk of this one (the end of its call, if it has none) is the rest of a DATA frame, whole DATA frames without
/// END_STREAM and whole WINDOW_UPDATE frames.
pub const FLAG_SHED: u8 = 32;

/// Asked of the kernel side by the agent: DATA is left out but for its frame headers, and a call that moves nothing
/// but DATA without END_STREAM and WINDOW_UPDATE makes no record at all.
pub const SHED_DATA: u64 = 1;
/// Asked likewise: sockets that are recognised from now on are not followed.
pub const SHED_CONNECTIONS: u64 = 2;

/// What every record begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// `CLOCK_MONOTONIC` at the end of the socket call, in nanoseconds.
    pub time_ns: u64,
    /// Names the socket; never used again for another one while the host is up.
    pub connection: u64,
    /// Position, in the flow, of the first byte that the socket call moved. Zero is the first byte of the
    /// flow; a first record with any other offset means that what lies before it was not seen. Sockets
    /// without sequence numbers (Unix, MPTCP, kTLS) start at [`UNKNOWN_START`] when they were not seen from
    /// their first byte.
    pub offset: u64,
    /// Bytes that the socket call moved. Of [`KIND_CLOSE`] with [`FLAG_FINAL`], how many records [`FLOW_RECEIVED`] has had: none follows
    /// that would show that the last of them were lost.
    pub moved: u32,
    /// Counts the records of this flow of this connection, of all kinds but tentative ones, from zero, sent or
    /// lost: a step of more than one is a loss of known size.
    pub sequence: u32,
    /// Process (thread group) that made the call; of [`KIND_CLOSE`], the one that was seen last.
    pub pid: u32,
    /// Thread that made the call, zero for [`KIND_CLOSE`].
    pub thread: u32,
    /// Bytes of payload that follow this header.
    pub payload: u32,
    /// One of the `KIND_` constants.
    pub kind: u8,
    /// One of the `FLOW_` constants.
    pub flow: u8,
    /// `FLAG_` bits.
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
}
const _: () = assert!(size_of::<RecordHeader>() == 48);

/// What every chunk begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Position of the chunk's first byte, counted from [`RecordHeader::offset`].
    pub delta: u32,
    /// Bytes of the chunk, without padding.
    pub len: u16,
    /// `CHUNK_` bits.
    pub flags: u16,
}
const _: () = assert!(size_of::<ChunkHeader>() == 8);

/// The chunk starts with a frame header; the kernel side is sure of it.
pub const CHUNK_BOUNDARY: u16 = 1;

/// The two ends of a connection, as the observed process sees them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Address of the observed process's end; IPv4 as `::ffff:a.b.c.d`, zero for a Unix socket.
    pub local_address: [u8; 16],
    /// Address of the peer, likewise.
    pub peer_address: [u8; 16],
    /// Port of the observed process's end, zero for a Unix socket.
    pub local_port: u16,
    /// Port of the peer.
    pub peer_port: u16,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: u16,
    /// Zero.
    pub reserved: u16,
    /// Network namespace of the socket (inode number), zero if it is unknown.
    pub network_namespace: u32,
    /// How the connection was recognised, one of the `RECOGNISED_` constants.
    pub recognised: u32,
    /// The process's cgroup in the v2 hierarchy, zero if it is unknown.
    pub cgroup: u64,
    /// `comm` of the thread that made the call.
    pub comm: [u8; 16],
}
const _: () = assert!(size_of::<Endpoints>() == 72);

/// A connection that is opened wakes the reader, which looks in /proc for a process that may be gone soon; on each CPU not more
/// often than this, and the reader, once woken, looks again so soon for those that wake nobody.
pub const OPEN_WAKES_EVERY_NS: u64 = 5_000_000;

/// Recognised by the client preface (RFC 9113 §3.4).
pub const RECOGNISED_PREFACE: u32 = 1;
/// Recognised by a SETTINGS frame as the first bytes of the server's flow; to be confirmed by the preface.
pub const RECOGNISED_SETTINGS: u32 = 2;
/// Recognised by frames that chain, in the middle of the connection.
pub const RECOGNISED_CHAIN: u32 = 3;

/// A KIND_OPEN record: a header and its payload.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRecord {
    /// The header.
    pub header: RecordHeader,
    /// The payload.
    pub endpoints: Endpoints,
}
const _: () = assert!(size_of::<OpenRecord>() == 120);
