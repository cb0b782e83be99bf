//! Passive observation of HTTP/2 and gRPC: byte streams with holes in, calls out.
//!
//! Pure code: no I/O, no clock, no threads, no panics. What happens outside enters through
//! [`Observer`]'s `handle_…` functions with a time; what was understood is drained with
//! [`Observer::poll_observation`]. The modules stand in the order in which the data flows.
#![forbid(unsafe_code)]

pub mod input;
pub mod limits;
mod bytes;
mod base64;
mod moment;
mod http2;
pub mod hpack;
mod names;
mod methods;
mod header_block;
mod grpc;
mod grpc_requests;
mod method_refs;
mod unseen;
mod flow_control;
mod call;
mod connection;
mod waiting;
pub mod observer;
pub mod observation;
pub mod detectors;
mod steps;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use connection::{Resumed, SavedConnection, SavedFlow};
pub use grpc::well_known::WellKnown;
pub use input::{Chunk, ConnectionId, Flow, Timestamp};
pub use limits::Limits;
pub use observation::Observation;
pub use observer::Observer;

/// Whether the core reads the value of a header field with this name. Of all other fields it has only the name, and
/// their values are not even decoded where the table does not need it.
#[must_use]
pub fn reads_value_of(name: &[u8]) -> bool {
    header_block::HeaderBlock::wants(header_block::HeaderBlock::kind_of(hpack::Text::Known(name)))
}
