//! Every bound of the core, by name. Traffic cannot make the core grow past them, and each has a counter
//! for when it is hit (`Statistics`).

/// The bounds of an [`Observer`](crate::Observer).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections followed at once; the one idle for longest is evicted first.
    pub connections: usize,
    /// Heap bytes for all connections together, with their streams, HPACK tables and timers. Above it the
    /// connection idle for longest is evicted. Not in it: the names of methods, authorities, and what the caller keeps.
    pub state_bytes: usize,
    /// Open streams followed on one connection; above it new streams are counted as evicted.
    pub streams_per_connection: usize,
    /// Empty windows of streams that are followed on one connection at once; above it stalls are counted, not measured.
    pub stalls_per_connection: usize,
    /// Bytes of a header block that are reassembled over HEADERS and CONTINUATION frames.
    pub header_block_bytes: usize,
    /// Largest HPACK dynamic table that is kept for one direction, whatever SETTINGS allow.
    pub hpack_table_bytes: usize,
    /// Decoded header list: bytes (name + value + 32 each) after which fields are no longer reported.
    pub header_list_bytes: usize,
    /// Decoded header list: fields after which no more are reported.
    pub header_list_fields: usize,
    /// Distinct method names that are kept; further ones are reported as unknown and counted.
    pub methods: usize,
    /// Distinct authorities that are kept; further ones are not reported, and counted.
    pub authorities: usize,
    /// Nanoseconds for which a call that has ended is kept for what still belongs to it: a sender may be
    /// preempted between sending and being seen to send.
    pub ending_ns: u64,
    /// Nanoseconds within which the request of a response that was seen first must be seen.
    pub request_due_ns: u64,
    /// Nanoseconds of silence after which a call of which bytes were lost is given up.
    pub uncertain_call_ns: u64,
    /// Nanoseconds without any byte after which a connection is forgotten.
    pub connection_idle_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 65_536,
            state_bytes: 128 * 1024 * 1024,
            streams_per_connection: 4_096,
            stalls_per_connection: 256,
            header_block_bytes: 128 * 1024,
            hpack_table_bytes: 64 * 1024,
            header_list_bytes: 64 * 1024,
            header_list_fields: 256,
            methods: 10_000,
            authorities: 10_000,
            ending_ns: 100_000_000,
            request_due_ns: 1_000_000_000,
            uncertain_call_ns: 60_000_000_000,
            connection_idle_ns: 3_600_000_000_000,
        }
    }
}
