//! What the core wants to know of a decoded header block, and nothing else: values of other fields are
//! never kept (threat T13).

use std::sync::Arc;

use crate::grpc::{content_type, retry, timeout};
use crate::hpack::{EntryId, Field, Text};
use crate::methods::Methods;
use crate::observation::{FieldSeen, Protocol, RetryPushback, Timeout};

/// Facts of one header block.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderBlock {
    /// Has a request pseudo-header field (RFC 9113 §8.3.1).
    pub(crate) is_request: bool,
    /// Has `:status`.
    pub(crate) is_response: bool,
    /// Its value, if it is known.
    pub(crate) http_status: Option<u16>,
    /// `:path`.
    pub(crate) path: Option<Arc<str>>,
    /// What `content-type` says, `Unknown` if its value is not known; `None` if there is no such field.
    pub(crate) protocol: Option<Protocol>,
    /// `grpc-timeout`, if there is one.
    pub(crate) timeout: Option<Timeout>,
    /// `grpc-status`: the last one wins.
    pub(crate) grpc_status: Option<GrpcStatus>,
    /// `grpc-status` occurred more than once.
    pub(crate) repeated_status: bool,
    /// `grpc-previous-rpc-attempts`.
    pub(crate) previous_attempts: Option<u32>,
    /// `grpc-retry-pushback-ms`.
    pub(crate) retry_pushback: Option<RetryPushback>,
    /// A field that only gRPC sends.
    pub(crate) has_grpc_field: bool,
    /// At least one field's name is not known: what seems absent may be there.
    pub(crate) has_unknown_names: bool,
    /// Table entries from before the join that stand for whole fields.
    pub(crate) unknown_fields: Vec<EntryId>,
    /// Names and values, for [`Observation::Frame`](crate::Observation::Frame).
    pub(crate) trace: Option<Vec<FieldSeen>>,
}

/// A `grpc-status` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcStatus {
    /// Its code, and whether it was well-formed.
    Known(u32, bool),
    /// There is one, but its value refers to an entry from before the join.
    Unknown,
}

impl HeaderBlock {
    /// An empty block; with `trace`, all fields are kept for display.
    pub(crate) fn new(trace: bool) -> HeaderBlock {
        HeaderBlock { trace: trace.then(Vec::new), ..HeaderBlock::default() }
    }

    /// The fields whose value is read; of all others only the name is.
    pub(crate) fn wants(name: &[u8]) -> bool {
        matches!(
            name,
            b":path"
                | b":status"
                | b"content-type"
                | b"grpc-timeout"
                | b"grpc-status"
                | b"grpc-previous-rpc-attempts"
                | b"grpc-retry-pushback-ms"
        )
    }

    /// Takes the next field.
    pub(crate) fn handle_field(&mut self, field: &Field<'_>, methods: &mut Methods) {
        if let Some(trace) = &mut self.trace {
            trace.push((field.name.known().map(<[u8]>::to_vec), field.value.known().map(<[u8]>::to_vec)));
        }
        let Some(name) = field.name.known() else {
            self.has_unknown_names = true;
            if let (Text::Unknown(name), Text::Unknown(value)) = (field.name, field.value)
                && name == value
            {
                self.unknown_fields.push(name);
            }
            return;
        };
        let value = field.value.known();
        match name {
            b":method" | b":scheme" | b":authority" => self.is_request = true,
            b":path" => {
                self.is_request = true;
                self.path = value.and_then(|path| methods.intern(path));
            }
            b":status" => {
                self.is_response = true;
                self.http_status = value.and_then(http_status);
            }
            b"content-type" => {
                self.protocol = Some(value.map_or(Protocol::Unknown, content_type::protocol));
            }
            b"grpc-timeout" => self.timeout = Some(value.map_or(Timeout::Unknown, timeout::parse)),
            b"grpc-status" => {
                self.repeated_status |= self.grpc_status.is_some();
                self.grpc_status = Some(value.map_or(GrpcStatus::Unknown, |value| {
                    let (code, well_formed) = crate::grpc::status::parse(value);
                    GrpcStatus::Known(code, well_formed)
                }));
            }
            b"grpc-previous-rpc-attempts" => {
                self.previous_attempts = value.and_then(retry::previous_attempts);
            }
            b"grpc-retry-pushback-ms" => self.retry_pushback = value.map(retry::pushback),
            _ => {}
        }
        self.has_grpc_field |= name.starts_with(b"grpc-");
    }
}

fn http_status(value: &[u8]) -> Option<u16> {
    match *value {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}
