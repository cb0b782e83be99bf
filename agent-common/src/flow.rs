//! What the kernel keeps: the state of each flow between socket calls, and of one call while it is walked.

use crate::ring::{OpenRecord, RecordHeader};

/// Nothing is known: the flow's next call is its first.
pub const PHASE_START: u32 = 0;
/// Inside the client preface.
pub const PHASE_PREFACE: u32 = 1;
/// At or inside a frame header.
pub const PHASE_HEADER: u32 = 2;
/// Inside a payload that is shipped whole.
pub const PHASE_COPY: u32 = 3;
/// Inside the payload of DATA.
pub const PHASE_DATA: u32 = 4;
/// At the pad length octet of DATA.
pub const PHASE_PAD: u32 = 5;
/// Inside a payload that is left out.
pub const PHASE_SKIP: u32 = 6;
/// The frame boundary is lost.
pub const PHASE_UNSYNCED: u32 = 7;

/// A flow between two socket calls.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Offset of the next byte.
    pub next: u64,
    /// The bytes of a header (or of the preface's count) that have been seen so far, the last eight of them.
    pub header: u64,
    /// The bytes of a message prefix that have been seen so far.
    pub prefix: u64,
    /// Bytes left of the current message of stream `stream`.
    pub message: u32,
    /// Bytes left of the current frame's payload.
    pub left: u32,
    /// Stream that `message` and `prefix` belong to.
    pub stream: u32,
    /// TCP sequence number of the flow's first byte.
    pub zero: u32,
    /// Number of the next record.
    pub sequence: u32,
    /// Bytes moved unseen on a socket without sequence numbers.
    pub unseen: u32,
    /// Entries of other streams in the stream map, or a little more.
    pub saved: u32,
    /// One of the `PHASE_` constants.
    pub phase: u8,
    /// Bytes of the header (or preface) seen so far.
    pub header_have: u8,
    /// Bytes of the prefix seen so far.
    pub prefix_have: u8,
    /// Type of the current frame.
    pub kind: u8,
    /// Flags of the current frame.
    pub flags: u8,
    /// Trailing padding of the current DATA frame.
    pub padding: u8,
    /// Not zero: the next frame has to be SETTINGS.
    pub first: u8,
    /// Not zero: the place in the frames is a guess that earlier calls did not refute; see
    /// [`tentative`](crate::walk::tentative).
    pub tentative: u8,
    /// Not zero: calls were left out since the last record; see [`FLAG_SHED`](crate::ring::FLAG_SHED).
    pub shed: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<Flow>() == 64);

/// A socket that speaks HTTP/2.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection {
    /// Its two flows, by the `FLOW_` constants.
    pub flows: [Flow; 2],
    /// See [`RecordHeader::connection`]; zero until it is set.
    pub id: u64,
    /// Process that was seen last.
    pub pid: u32,
    /// How it was recognised.
    pub recognised: u32,
    /// Not zero: user space was told of it. Bytes and not bits, since both flows write at once.
    pub opened: u8,
    /// Not zero: TCP sequence numbers count its bytes.
    pub sequenced: u8,
    /// Not zero, by flow: its end was told.
    pub ended: [u8; 2],
    /// Not zero: the socket is closed, but the process has not read everything yet.
    pub final_pending: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<Connection>() == 152);

/// Key of the map of messages that go on in another frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// The connection.
    pub connection: u64,
    /// Stream identifier; the highest bit is the flow.
    pub stream: u64,
}

/// Where a stream is inside its messages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// Bytes of a prefix seen so far.
    pub prefix: u64,
    /// Bytes left of the current message.
    pub message: u32,
    /// How many bytes `prefix` holds.
    pub prefix_have: u32,
}

/// Iovecs that are read at once.
pub const IOVECS: u64 = 8;
/// Room for what is put together of small buffers: twice what is kept there, so that one more read always fits.
pub const GATHER_BYTES: usize = 1024;
/// Room for the chunks of a record: twice what the position mask allows, so that one more read always fits.
pub const OUT_BYTES: usize = 16384;

/// One socket call while it is walked, in memory of the CPU. Every number that the walker decides goes
/// through here: what is read back is unknown to the verifier again, so its paths meet (kernel.md of the
/// project's notes calls it "join through memory").
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// How many claim this memory; whoever raised it from zero to one has it.
    pub busy: u64,
    /// Thread that has it.
    pub owner: u64,
    /// Bytes of records since the reader was woken from here.
    pub unread: u64,
    /// When a connection that was opened woke the reader from here.
    pub open_woke_ns: u64,
    /// Address of the next byte; see `gathered`.
    pub cursor: u64,
    /// Bytes from there that are in this buffer.
    pub segment_left: u64,
    /// Bytes from there that the call moved.
    pub total_left: u64,
    /// Address of the next iovec that is not in `iovecs` yet.
    pub iovec_next: u64,
    /// How many there are.
    pub iovec_left: u64,
    /// How many are in `iovecs`.
    pub iovec_cached: u64,
    /// The next one of `iovecs`.
    pub iovec_index: u64,
    /// Not zero: the iovecs (not the data) are in kernel memory.
    pub iovec_kernel: u64,
    /// Not zero: `cursor` is not an address but a place in `gather`.
    pub gathered: u64,

    /// Bytes of the call before `cursor`.
    pub at: u64,
    /// End of what is in `out`.
    pub position: u64,
    /// Bytes that the current step wants.
    pub want: u64,
    /// Bytes of `out` from `ahead` on that are the flow's next ones already.
    pub window: u64,
    /// Where in `out` the flow's next byte is, if `window` is not zero: at `position`, or behind it where
    /// something was left out.
    pub ahead: u64,
    /// Bytes of the current frame that are left out.
    pub skip: u64,
    /// Where the current chunk's header is in `out`.
    pub chunk: u64,
    /// Bytes of the current chunk.
    pub chunk_len: u64,
    /// `at` of the current chunk's end; [`NO_CHUNK`] if there is none.
    pub chunk_end: u64,
    /// `CHUNK_` bits of the current chunk.
    pub chunk_flags: u64,
    /// What the step found, see `walk/`.
    pub found: u64,

    /// Frame headers seen whole in this call.
    pub frames: u64,
    /// A DATA frame ended in this call.
    pub data_ended: u64,
    /// Not zero: the boundary is a guess, nothing may be sent yet.
    pub probing: u64,
    /// Not zero: why the walk ended before the end of the call, one of the `STOP_` constants.
    pub stop: u64,
    /// Steps made.
    pub steps: u64,
    /// Which flow is walked.
    pub flow: u64,
    /// Not zero: `open` has to be sent before anything else.
    pub open_pending: u64,
    /// How it was recognised just now, zero if it was known.
    pub recognised: u64,
    /// `SHED_` bits, read once a call.
    pub control: u64,
    /// [`WHOLE`](crate::walk::WHOLE) if DATA is left out but for its frame headers, zero if not.
    pub shed: u64,
    /// Of the frame headers in this call those that need not be told; or [`NOT_PLAIN`](crate::walk::NOT_PLAIN) and more.
    pub plain: u64,

    /// Key of the stream map.
    pub stream_key: StreamKey,
    /// Value for the stream map.
    pub stream_state: StreamState,
    /// Iovecs read ahead: address, length.
    pub iovecs: [[u64; 2]; IOVECS as usize],
    /// Small buffers that follow each other, put together.
    pub gather: [u8; GATHER_BYTES],
    /// The KIND_OPEN record to send first.
    pub open: OpenRecord,
    /// The record: its header, and its chunks right behind.
    pub header: RecordHeader,
    /// Chunks.
    pub out: [u8; OUT_BYTES],
}

/// No chunk is open.
pub const NO_CHUNK: u64 = u64::MAX;

/// Memory could not be read.
pub const STOP_FAULT: u64 = 1;
/// A header that no peer may send.
pub const STOP_BAD_FRAME: u64 = 2;
/// The buffers hold less than was moved.
pub const STOP_SHORT: u64 = 3;
/// What looked like HTTP/2 is not.
pub const STOP_NOT_HTTP2: u64 = 4;
/// A guessed boundary could not be confirmed within the room of one record.
pub const STOP_UNCONFIRMED: u64 = 5;
