//! gRPC over HTTP/2 (PROTOCOL-HTTP2.md of the gRPC project): content types, timeouts, statuses, messages.

pub(crate) mod content_type;
pub(crate) mod messages;
pub(crate) mod retry;
pub(crate) mod status;
pub(crate) mod timeout;
pub(crate) mod trace_context;
pub(crate) mod well_known;
