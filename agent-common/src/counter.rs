//! What the kernel side counts, one number per CPU and [`Counter`].

/// Declares the counters with their names, so that no name can be forgotten.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One counter. The number is its place in the kernel's array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            /// All of them, in the order of their places.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// A stable name, usable as a label.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }
        }
    };
}

counters! {
    /// Records made, of all kinds: `produced = received + lost`, exactly.
    Produced = "produced",
    /// Records that did not fit into the ring.
    LostRingFull = "ring_full",
    /// Their bytes.
    LostRingFullBytes = "ring_full_bytes",

    /// HTTP/2 socket calls that were not walked since the scratch memory of the CPU was taken (preemption).
    SkippedScratchBusy = "scratch_busy",
    /// Calls through io_uring.
    SkippedIoUring = "io_uring",
    /// splice, sendfile and the like: bytes without an address in user memory.
    SkippedSplice = "splice",
    /// sendmmsg and recvmmsg.
    SkippedMultiMessage = "mmsg",
    /// 32-bit tasks.
    SkippedCompat = "compat",
    /// Other system calls.
    SkippedOtherSyscall = "other_syscall",
    /// Bytes thrown away by MSG_TRUNC.
    SkippedTruncated = "msg_trunc",
    /// Data of kernel threads.
    SkippedKernelBuffer = "kernel_buffer",
    /// Data in another kind of iterator.
    SkippedOtherIterator = "other_iterator",
    /// Calls whose return was not seen (kprobe): more threads were inside of the function than the kernel keeps
    /// return probes for.
    MissedReturns = "missed_returns",
    /// Calls whose entry was not seen (kprobe).
    MissedEntries = "missed_entries",

    /// Calls whose bytes did not follow the last ones that were seen.
    Gaps = "gaps",
    /// Bytes in those gaps, of flows that the process sends.
    GapBytesSent = "gap_bytes_sent",
    /// Bytes in those gaps, of flows that it receives.
    GapBytesReceived = "gap_bytes_received",
    /// Calls whose bytes lie before the last ones that were seen: two threads at once.
    Backwards = "backwards",
    /// Data that could not be read.
    Fault = "fault",
    /// Descriptions of buffers that could not be read.
    FaultIovecs = "fault_iovecs",
    /// Calls with more pieces than the walker has steps for.
    OutOfSteps = "out_of_steps",
    /// Calls with more buffers than the way back through the iterator has steps for.
    OutOfIovecs = "out_of_iovecs",
    /// More bytes moved than the call's buffers hold.
    ShortBuffers = "short_buffers",
    /// Frame headers that no peer may send: the boundary is lost.
    BadFrame = "bad_frame",
    /// Calls on an HTTP/2 socket of which nothing could be used since the boundary is not known.
    Unsynced = "unsynced",
    /// Times that the boundary was found again.
    Resynced = "resynced",
    /// The state of a message that goes on in another frame could not be kept.
    StreamState = "stream_state",
    /// Socket storage that the kernel did not give.
    Storage = "storage",

    /// Sockets recognised by the client preface.
    ClassPreface = "preface",
    /// Sockets recognised by SETTINGS as the server's first bytes.
    ClassSettings = "settings",
    /// Sockets recognised in the middle of the connection.
    ClassChain = "chain",
    /// Sockets that are not HTTP/2.
    ClassOther = "not_http2",
    /// Sockets taken for HTTP/2 that turned out not to be.
    ClassRevoked = "revoked",
    /// Connections that were recognised by their first bytes and not followed, for the budgets.
    LeftOut = "left_out",
    /// Sockets likewise that look like the middle of a connection; they may be none.
    LeftOutGuessed = "left_out_guessed",
    /// Calls on followed connections that moved nothing but DATA and WINDOW_UPDATE, and made no record, for the budgets.
    ShedCalls = "shed_calls",
    /// Their bytes.
    ShedBytes = "shed_bytes",
    /// Frames that begin in them.
    ShedFrames = "shed_frames",
}

/// Places in the kernel's array.
pub const COUNTER_SLOTS: usize = 64;
const _: () = assert!(Counter::ALL.len() <= COUNTER_SLOTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_names_are_distinct() {
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, place);
            assert!(Counter::ALL.iter().filter(|other| other.name() == counter.name()).count() == 1);
        }
    }
}
