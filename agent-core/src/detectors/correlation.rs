//! Which outbound call of a process belongs to which of its inbound calls.
//!
//! ```text
//!   inbound call (server side) ──┐
//!                                ├─ same process, by trace, thread, or as the only one ─► link
//!   outbound call (client side) ─┘
//! ```

/// How it is known that an outbound call belongs to an inbound one, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evidence {
    /// Both requests carry the same trace id, and no other inbound call of the process does.
    Trace,
    /// The thread that wrote the outbound request had read the end of the inbound one, and no other since.
    Thread,
    /// The inbound call was the only one that was open in the process.
    Sole,
}

impl Evidence {
    /// `trace`, `thread`, `sole`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Evidence::Trace => "trace",
            Evidence::Thread => "thread",
            Evidence::Sole => "sole",
        }
    }
}
