//! HTTP/2 framing (RFC 9113 §4–§6), read passively: from bytes with holes to frames.

pub(crate) mod frame;
pub(crate) mod reader;
pub(crate) mod resync;
pub(crate) mod settings;
pub(crate) mod upgrade;
