//! Frames, as `replay --frames` shows them.

use crate::input::{ConnectionId, Flow, Timestamp};

/// Name and value of a header field; `None` where they refer to an entry from before the join.
pub type FieldSeen = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A frame, with what `replay --frames` shows of it.
#[derive(Clone, Debug)]
pub struct FrameSeen {
    /// The connection.
    pub connection: ConnectionId,
    /// The flow it was in.
    pub flow: Flow,
    /// True if this flow comes from the client; `None` while that is not known.
    pub from_client: Option<bool>,
    /// When its last byte was seen.
    pub time: Timestamp,
    /// Type, RFC 9113 §6.
    pub frame_type: u8,
    /// Flags as sent.
    pub flags: u8,
    /// Stream id without the reserved bit.
    pub stream: u32,
    /// Payload length as sent.
    pub length: u32,
    /// SETTINGS: identifier and value, in order.
    pub settings: Option<Vec<(u16, u32)>>,
    /// WINDOW_UPDATE: increment.
    pub increment: Option<u32>,
    /// DATA: windows of its sender after it. WINDOW_UPDATE: windows of its receiver after it.
    pub windows: Option<WindowsSeen>,
    /// RST_STREAM and GOAWAY: error code.
    pub code: Option<u32>,
    /// The frame that ends a header block: its fields, names and values that are not known as `None`.
    pub headers: Option<Vec<FieldSeen>>,
    /// The block could not be decoded: why.
    pub hpack_error: Option<String>,
}

/// What an end of a connection may still send, in octets of DATA payload (RFC 9113 §5.2). Below zero after
/// SETTINGS took back what was sent already; `None` where a frame that counts may have been missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowsSeen {
    /// On the connection.
    pub connection: Option<i64>,
    /// On the frame's stream; `None` also on a stream that is not open.
    pub stream: Option<i64>,
}
