//! What the core wants to know of a decoded header block, and nothing else: values of other fields are
//! never kept, and of trace ids only their hashes are (threat T13).

use std::sync::Arc;

use crate::grpc::trace_context::{Format, TraceHasher, TraceIds};
use crate::grpc::{content_type, retry, timeout};
use crate::hpack::{EntryId, Field, NameKind, Text};
use crate::names::Names;
use crate::observation::{FieldSeen, Intermediary, Protocol, RetryPushback, Timeout};

/// Facts of one header block.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderBlock {
    /// Has a request pseudo-header field (RFC 9113 §8.3.1).
    pub(crate) is_request: bool,
    /// Has `:status`.
    pub(crate) is_response: bool,
    /// Its value, if it is known.
    pub(crate) http_status: Option<u16>,
    /// `:authority`, if it is another one than that of the connection's request before.
    pub(crate) authority: Option<Arc<str>>,
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
    /// Trace ids of all known formats.
    pub(crate) trace_ids: TraceIds,
    /// Things between client and server that left their fields here.
    pub(crate) intermediaries: Intermediaries,
    /// A field that only gRPC sends.
    pub(crate) has_grpc_field: bool,
    /// At least one field's name is not known: what seems absent may be there.
    pub(crate) has_unknown_names: bool,
    /// Table entries from before the join that stand for whole fields.
    pub(crate) unknown_fields: Vec<EntryId>,
    /// There is a `:path`, known or not.
    pub(crate) has_path: bool,
    /// How many of `unknown_fields` stand before all fields that are known to be regular ones.
    pub(crate) unknown_at_head: usize,
    /// A field that is known to be a regular one was seen.
    has_regular_field: bool,
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

/// What header blocks share with all others of an observer.
#[derive(Debug)]
pub(crate) struct Known {
    /// Names of methods.
    pub(crate) methods: Names,
    /// Authorities.
    pub(crate) authorities: Names,
    /// Hashes of trace ids.
    pub(crate) traces: TraceHasher,
}

/// A set of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intermediaries(u8);

impl Intermediaries {
    const ALL: [Intermediary; 3] = [Intermediary::Envoy, Intermediary::Linkerd, Intermediary::Via];

    fn insert(&mut self, kind: Intermediary) {
        self.0 |= 1 << kind as u8;
    }

    /// Adds those of `others`; returns those that are new.
    pub(crate) fn extend(&mut self, others: Intermediaries) -> impl Iterator<Item = Intermediary> + use<> {
        let new = others.0 & !self.0;
        self.0 |= others.0;
        Intermediaries::ALL.into_iter().filter(move |kind| new & (1 << *kind as u8) != 0)
    }

    /// There is none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl HeaderBlock {
    /// An empty block; with `trace`, all fields are kept for display.
    pub(crate) fn new(trace: bool) -> HeaderBlock {
        HeaderBlock { trace: trace.then(Vec::new), ..HeaderBlock::default() }
    }

    /// What the field with this name is to us.
    pub(crate) fn kind_of(name: Text<'_>) -> NameKind {
        let Some(name) = name.known() else { return kind::OTHER };
        match name {
            b":method" | b":scheme" => kind::REQUEST_PSEUDO,
            b":authority" => kind::AUTHORITY,
            b":path" => kind::PATH,
            b":status" => kind::HTTP_STATUS,
            b"content-type" => kind::CONTENT_TYPE,
            b"grpc-timeout" => kind::TIMEOUT,
            b"grpc-status" => kind::GRPC_STATUS,
            b"grpc-previous-rpc-attempts" => kind::PREVIOUS_ATTEMPTS,
            b"grpc-retry-pushback-ms" => kind::RETRY_PUSHBACK,
            b"grpc-trace-bin" => kind::GRPC_TRACE,
            b"traceparent" => kind::TRACEPARENT,
            b"b3" => kind::B3,
            b"x-b3-traceid" => kind::B3_TRACE_ID,
            b"x-request-id" => kind::REQUEST_ID,
            b"server" => kind::SERVER,
            b"via" => kind::VIA,
            _ if name.starts_with(b"grpc-") => kind::OTHER_GRPC,
            _ if name.starts_with(b"x-envoy-") => kind::OF_ENVOY,
            _ if name.starts_with(b"l5d-") => kind::OF_LINKERD,
            _ => kind::OTHER,
        }
    }

    /// Of a request whose `:path` refers to an entry from before the join: the unknown entries of which it is one.
    pub(crate) fn unknown_head(&self) -> &[EntryId] {
        let count = if self.has_path { 0 } else { self.unknown_at_head };
        self.unknown_fields.get(..count).unwrap_or_default()
    }

    /// The fields whose value is read; of all others only the name is.
    pub(crate) fn wants(kind: NameKind) -> bool {
        matches!(
            kind,
            kind::AUTHORITY
                | kind::PATH
                | kind::HTTP_STATUS
                | kind::CONTENT_TYPE
                | kind::TIMEOUT
                | kind::GRPC_STATUS
                | kind::PREVIOUS_ATTEMPTS
                | kind::RETRY_PUSHBACK
                | kind::GRPC_TRACE
                | kind::TRACEPARENT
                | kind::B3
                | kind::B3_TRACE_ID
                | kind::REQUEST_ID
                | kind::SERVER
        )
    }

    /// Takes the next field. `authority` is that of the connection's request before.
    pub(crate) fn handle_field(&mut self, field: &Field<'_>, known: &mut Known, authority: Option<&str>) {
        if let Some(trace) = &mut self.trace {
            trace.push((field.name.known().map(<[u8]>::to_vec), field.value.known().map(<[u8]>::to_vec)));
        }
        if let Text::Unknown(name) = field.name {
            self.has_unknown_names = true;
            if field.value == Text::Unknown(name) {
                self.unknown_fields.push(name);
                if !self.has_regular_field {
                    self.unknown_at_head = self.unknown_fields.len();
                }
            }
            return;
        }
        self.has_regular_field |= field.kind >= kind::CONTENT_TYPE;
        let value = field.value.known();
        match field.kind {
            kind::REQUEST_PSEUDO => self.is_request = true,
            kind::AUTHORITY => {
                self.is_request = true;
                // Nearly always the same: compared, so that no request costs a hash.
                if let Some(value) = value
                    && authority.map(str::as_bytes) != Some(value)
                {
                    self.authority = known.authorities.intern(value);
                }
            }
            kind::PATH => {
                self.is_request = true;
                self.has_path = true;
                self.path = value.and_then(|path| known.methods.intern(path));
            }
            kind::HTTP_STATUS => {
                self.is_response = true;
                self.http_status = value.and_then(http_status);
            }
            kind::CONTENT_TYPE => {
                self.protocol = Some(value.map_or(Protocol::Unknown, content_type::protocol));
            }
            kind::TIMEOUT => self.timeout = Some(value.map_or(Timeout::Unknown, timeout::parse)),
            kind::GRPC_STATUS => {
                self.repeated_status |= self.grpc_status.is_some();
                self.grpc_status = Some(value.map_or(GrpcStatus::Unknown, |value| {
                    let (code, well_formed) = crate::grpc::status::parse(value);
                    GrpcStatus::Known(code, well_formed)
                }));
            }
            kind::PREVIOUS_ATTEMPTS => {
                self.previous_attempts = value.and_then(retry::previous_attempts);
            }
            kind::RETRY_PUSHBACK => self.retry_pushback = value.map(retry::pushback),
            kind::SERVER if value == Some(b"envoy") => self.intermediaries.insert(Intermediary::Envoy),
            kind::OF_ENVOY => self.intermediaries.insert(Intermediary::Envoy),
            kind::OF_LINKERD => self.intermediaries.insert(Intermediary::Linkerd),
            kind::VIA => self.intermediaries.insert(Intermediary::Via),
            kind::TRACEPARENT => self.handle_trace_id(Format::W3c, value, known),
            kind::B3 => self.handle_trace_id(Format::B3, value, known),
            kind::B3_TRACE_ID => self.handle_trace_id(Format::B3TraceId, value, known),
            kind::GRPC_TRACE => self.handle_trace_id(Format::OpenCensus, value, known),
            kind::REQUEST_ID => {
                if let Some(value) = value {
                    self.trace_ids.handle_request_id(value, &known.traces);
                }
            }
            _ => {}
        }
        self.has_grpc_field |= field.kind >= kind::FIRST_OF_GRPC;
    }

    fn handle_trace_id(&mut self, format: Format, value: Option<&[u8]>, known: &Known) {
        if let Some(value) = value {
            self.trace_ids.handle_trace_id(format, value, &known.traces);
        }
    }
}

/// What names are to [`HeaderBlock`]: the decoder keeps these numbers with its entries.
mod kind {
    use crate::hpack::NameKind;

    /// Nothing, or not known.
    pub(super) const OTHER: NameKind = 1;
    /// `:method`, `:scheme`.
    pub(super) const REQUEST_PSEUDO: NameKind = 2;
    pub(super) const AUTHORITY: NameKind = 3;
    pub(super) const PATH: NameKind = 4;
    pub(super) const HTTP_STATUS: NameKind = 5;
    /// From here on fields are regular ones.
    pub(super) const CONTENT_TYPE: NameKind = 6;
    pub(super) const TRACEPARENT: NameKind = 7;
    pub(super) const B3: NameKind = 8;
    pub(super) const B3_TRACE_ID: NameKind = 9;
    pub(super) const REQUEST_ID: NameKind = 10;
    pub(super) const SERVER: NameKind = 11;
    /// Names that start with `x-envoy-`.
    pub(super) const OF_ENVOY: NameKind = 12;
    /// Names that start with `l5d-`.
    pub(super) const OF_LINKERD: NameKind = 13;
    pub(super) const VIA: NameKind = 14;
    /// From here on names start with `grpc-`.
    pub(super) const FIRST_OF_GRPC: NameKind = OTHER_GRPC;
    pub(super) const OTHER_GRPC: NameKind = 15;
    pub(super) const TIMEOUT: NameKind = 16;
    pub(super) const GRPC_STATUS: NameKind = 17;
    pub(super) const PREVIOUS_ATTEMPTS: NameKind = 18;
    pub(super) const RETRY_PUSHBACK: NameKind = 19;
    pub(super) const GRPC_TRACE: NameKind = 20;
}

fn http_status(value: &[u8]) -> Option<u16> {
    match *value {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}
