//! What the labels of a series can say: closed sets, and the few strings from outside, checked and bounded.

use std::fmt;
use std::sync::Arc;

use agent_core::WellKnown;
use agent_core::observation::{
    Call, CallStarted, EndedBy, GoawayReason, Outcome, Protocol, STATUS_NAMES, Side, StatusSource, Sync,
    Timeout,
};

/// Beyond a limit (OpenTelemetry's word for it).
pub(super) const OTHER: &str = "_OTHER";
/// Not known.
pub(super) const UNRESOLVED: &str = "unresolved";
/// Not a gRPC method name.
const INVALID: &str = "invalid";
/// Longest method name that becomes a label, with its leading slash.
pub(super) const METHOD_BYTES_MAX: usize = 256;
/// Longest service name that becomes a label.
pub(super) const SERVICE_BYTES_MAX: usize = 128;

/// Label value of a side that may be unknown.
pub(super) fn side_label(side: Option<Side>) -> &'static str {
    side.map_or(UNRESOLVED, Side::as_str)
}

/// Whose connections: the labels that all series of a connection share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    service_name: Arc<str>,
    container_id: Option<Arc<str>>,
    server: Option<(Arc<str>, u16)>,
}

impl Workload {
    /// A workload by its service name; empty means that it is not known. Characters that do not print are
    /// replaced, and what is too long is cut.
    #[must_use]
    pub fn new(service_name: &str) -> Self {
        let name = printable(service_name.trim(), SERVICE_BYTES_MAX);
        let service_name = if name.is_empty() { UNRESOLVED.into() } else { name.into() };
        Workload { service_name, container_id: None, server: None }
    }

    /// Adds the container, for those who want a series for each.
    #[must_use]
    pub fn with_container_id(mut self, container_id: &str) -> Self {
        self.container_id = Some(printable(container_id, SERVICE_BYTES_MAX).into());
        self
    }

    /// Adds the server that a client talks to, for those who want a series for each.
    #[must_use]
    pub fn with_server(mut self, address: &str, port: u16) -> Self {
        self.server = Some((printable(address, SERVICE_BYTES_MAX).into(), port));
        self
    }

    /// The service name as it is exported.
    #[must_use]
    pub fn service_name(&self) -> &str {
        &self.service_name
    }

    /// Where the workloads go that are beyond the limit.
    pub(super) fn other() -> Self {
        Workload { service_name: OTHER.into(), container_id: None, server: None }
    }

    /// Adds its labels.
    pub(super) fn append(&self, labels: &mut Vec<(&'static str, String)>) {
        labels.push(("service_name", self.service_name.to_string()));
        if let Some(container_id) = &self.container_id {
            labels.push(("container_id", container_id.to_string()));
        }
        if let Some((address, port)) = &self.server {
            labels.push(("server_address", address.to_string()));
            labels.push(("server_port", port.to_string()));
        }
    }
}

/// Replaces what does not print, and cuts at a character's boundary.
pub(super) fn printable(text: &str, bytes_max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bytes_max));
    for character in text.chars() {
        let character = if character.is_control() { '\u{fffd}' } else { character };
        if out.len() + character.len_utf8() > bytes_max {
            break;
        }
        out.push(character);
    }
    out
}

/// The method of a call, as far as a label may say it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Method {
    /// As on the wire, with its leading slash; checked.
    Named(Arc<str>),
    /// Beyond a limit.
    Other,
    /// Not known.
    Unresolved,
    /// Known, but not a name that a gRPC method can have.
    Invalid,
}

impl Method {
    /// Checks a path from the wire.
    #[must_use]
    pub(crate) fn of(path: Option<&Arc<str>>) -> Method {
        match path {
            None => Method::Unresolved,
            Some(path) if is_method(path) => Method::Named(Arc::clone(path)),
            Some(_) => Method::Invalid,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Named(path) => path.strip_prefix('/').unwrap_or(path),
            Method::Other => OTHER,
            Method::Unresolved => UNRESOLVED,
            Method::Invalid => INVALID,
        })
    }
}

/// `/Service/Method` of letters, digits and `_ . $ -`; the method is what follows the last slash, and neither
/// part is empty. The words that this module uses itself have no slash, so no method can pass for one.
fn is_method(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let Some((service, method)) = rest.rsplit_once('/') else { return false };
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.$-/".contains(byte);
    path.len() <= METHOD_BYTES_MAX
        && !service.is_empty()
        && !method.is_empty()
        && rest.as_bytes().iter().all(allowed)
}

/// Status of an ended call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Status {
    /// One of gRPC's seventeen.
    Code(u8),
    /// A number that gRPC does not know.
    Other,
    /// The call ended without one.
    None,
    /// There was one, or may have been, that was not read.
    Unresolved,
}

impl Status {
    /// Status of a call.
    #[must_use]
    pub(super) fn of(call: &Call) -> Status {
        match (call.status, call.status_source, call.outcome) {
            (Some(code), _, _) if (code as usize) < STATUS_NAMES.len() => Status::Code(code as u8),
            (Some(_), _, _) => Status::Other,
            (None, StatusSource::Unknown, _) | (None, _, Outcome::Unknown | Outcome::Open) => {
                Status::Unresolved
            }
            (None, _, _) => Status::None,
        }
    }

    /// Label value.
    #[must_use]
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Status::Code(code) => STATUS_NAMES.get(usize::from(code)).copied().unwrap_or(OTHER),
            Status::Other => OTHER,
            Status::None => "none",
            Status::Unresolved => UNRESOLVED,
        }
    }
}

/// `error_type` of an ended call, `None` for a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ErrorType {
    /// The status says it.
    Status(Status),
    /// The connection went away.
    ConnectionLost,
}

impl ErrorType {
    /// OpenTelemetry's rule, which counts fewer statuses as errors of a server than of a client. A deadline
    /// that passed is one on both sides whatever status the libraries sent for it (checklist D4).
    #[must_use]
    pub(super) fn of(side: Side, status: Status, outcome: Outcome) -> Option<ErrorType> {
        match (outcome, side, status) {
            (Outcome::Deadline, _, _) => Some(ErrorType::Status(Status::Code(4))),
            (_, _, Status::Code(0)) => None,
            (_, Side::Server, Status::Code(2 | 4 | 12..=15)) | (_, Side::Client, Status::Code(_)) => {
                Some(ErrorType::Status(status))
            }
            (_, Side::Server, Status::Code(_)) => None,
            (_, _, Status::Other) => Some(ErrorType::Status(Status::Other)),
            (Outcome::Aborted, _, Status::None | Status::Unresolved) => Some(ErrorType::ConnectionLost),
            (Outcome::Cancelled, Side::Client, Status::None | Status::Unresolved) => {
                Some(ErrorType::Status(Status::Code(1)))
            }
            (Outcome::Refused, _, Status::None | Status::Unresolved) => {
                Some(ErrorType::Status(Status::Code(14)))
            }
            (Outcome::Error, _, Status::None | Status::Unresolved) => Some(ErrorType::Status(Status::Other)),
            (
                Outcome::Cancelled | Outcome::Ok | Outcome::Open | Outcome::Unknown,
                _,
                Status::None | Status::Unresolved,
            ) => None,
        }
    }

    /// Label value.
    #[must_use]
    pub(super) fn as_str(self) -> &'static str {
        match self {
            ErrorType::Status(status) => status.as_str(),
            ErrorType::ConnectionLost => "connection_lost",
        }
    }
}

/// Label value of an outcome.
pub(super) fn outcome_label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Error => "error",
        Outcome::Deadline => "deadline",
        Outcome::Cancelled => "cancelled",
        Outcome::Aborted => "aborted",
        Outcome::Refused => "refused",
        Outcome::Open => "evicted",
        Outcome::Unknown => UNRESOLVED,
    }
}

/// Label value of where a status was read.
pub(super) fn source_label(source: StatusSource) -> &'static str {
    match source {
        StatusSource::Trailer => "trailer",
        StatusSource::TrailersOnly => "trailers_only",
        StatusSource::Rst => "rst",
        StatusSource::Http => "http",
        StatusSource::None => "none",
        StatusSource::Unknown => UNRESOLVED,
    }
}

/// Label value of why a connection is to end.
pub(super) fn goaway_label(reason: GoawayReason) -> &'static str {
    match reason {
        GoawayReason::GracefulNotice => "notice",
        GoawayReason::Graceful => "graceful",
        GoawayReason::MaxAge => "max_age",
        GoawayReason::MaxIdle => "max_idle",
        GoawayReason::TooManyPings => "too_many_pings",
        GoawayReason::TooManyResets => "too_many_resets",
        GoawayReason::Error => "error",
    }
}

/// Label value of who ended a call.
pub(super) fn ended_by_label(ended_by: Option<EndedBy>) -> &'static str {
    match ended_by {
        Some(EndedBy::Client) => "client",
        Some(EndedBy::Server) => "server",
        Some(EndedBy::Connection) => "connection",
        None => UNRESOLVED,
    }
}

/// Label value of a connection's state.
pub(super) fn state_label(sync: Sync) -> &'static str {
    match sync {
        Sync::Synced => "synced",
        Sync::Late => "late",
        Sync::Desynced => "desynced",
    }
}

/// Label value of an exchange that is not gRPC.
pub(super) fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Grpc => "grpc",
        Protocol::GrpcWeb => "grpc_web",
        Protocol::Http => "http",
        Protocol::Unknown => UNRESOLVED,
    }
}

/// What a request says about its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    /// It has one.
    Set,
    /// It has none.
    None,
    /// It has none, and needs none: a stream of the infrastructure that is meant to stay open.
    LongLived,
    /// It has something that is not one.
    Invalid,
    /// Not known.
    Unresolved,
}

impl Deadline {
    pub(super) fn of(started: &CallStarted) -> Deadline {
        match started.timeout {
            Timeout::Ns(_) => Deadline::Set,
            Timeout::Absent if started.well_known().is_some_and(WellKnown::is_long_lived) => {
                Deadline::LongLived
            }
            Timeout::Absent => Deadline::None,
            Timeout::Invalid => Deadline::Invalid,
            Timeout::Unknown => Deadline::Unresolved,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Deadline::Set => "set",
            Deadline::None => "none",
            Deadline::LongLived => "long_lived",
            Deadline::Invalid => "invalid",
            Deadline::Unresolved => UNRESOLVED,
        }
    }
}

/// Error codes of RFC 9113 §7.
const RST_CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// Error code of an RST_STREAM, all unknown ones in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RstCode(u8);

impl RstCode {
    pub(super) fn of(code: u32) -> RstCode {
        RstCode(code.min(RST_CODES.len() as u32) as u8)
    }

    pub(super) fn as_str(self) -> &'static str {
        RST_CODES.get(usize::from(self.0)).copied().unwrap_or(OTHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(path: &str) -> String {
        Method::of(Some(&Arc::from(path))).to_string()
    }

    #[test]
    fn a_method_loses_its_leading_slash() {
        assert_eq!(label("/shop.v1.Cart/Add"), "shop.v1.Cart/Add");
        assert_eq!(label("/a/b/c$d-e_F9"), "a/b/c$d-e_F9");
    }

    #[test]
    fn g2_whatever_is_no_method_is_invalid() {
        let long = format!("/a/{}", "b".repeat(METHOD_BYTES_MAX));
        for path in [
            "",
            "/",
            "//",
            "/a",
            "a/b",
            "/a/",
            "/a b/c",
            "/a/b\n",
            "/a/b\"",
            "/a/b\u{1b}[31m",
            "/ä/b",
            "/a/b\0",
            &long,
        ] {
            assert_eq!(label(path), "invalid", "{path:?}");
        }
    }

    #[test]
    fn no_method_can_pass_for_a_word_of_ours() {
        for path in ["/_OTHER", "/unresolved", "_OTHER", "unresolved", "/invalid"] {
            assert_eq!(label(path), "invalid");
        }
    }

    #[test]
    fn a_service_name_is_printable_and_bounded() {
        assert_eq!(Workload::new("shop\n\u{1b}[31m").service_name(), "shop\u{fffd}\u{fffd}[31m");
        assert_eq!(Workload::new("  ").service_name(), UNRESOLVED);
        assert!(Workload::new(&"ü".repeat(500)).service_name().len() <= SERVICE_BYTES_MAX);
    }

    #[test]
    fn errors_follow_the_rule_of_their_side() {
        let not_found = Status::Code(5);
        assert_eq!(ErrorType::of(Side::Server, not_found, Outcome::Error), None);
        assert_eq!(
            ErrorType::of(Side::Client, not_found, Outcome::Error).map(ErrorType::as_str),
            Some("NOT_FOUND")
        );
        for code in 0..17u8 {
            let is_error = ErrorType::of(Side::Server, Status::Code(code), Outcome::Error).is_some();
            assert_eq!(is_error, [2, 4, 12, 13, 14, 15].contains(&code), "{code}");
        }
    }

    #[test]
    fn a_passed_deadline_is_an_error_whatever_status_was_sent() {
        for status in [Status::Code(1), Status::Code(4), Status::None] {
            let error = ErrorType::of(Side::Server, status, Outcome::Deadline).map(ErrorType::as_str);
            assert_eq!(error, Some("DEADLINE_EXCEEDED"));
        }
    }

    #[test]
    fn unknown_error_codes_share_a_label() {
        assert_eq!(RstCode::of(8).as_str(), "CANCEL");
        assert_eq!(RstCode::of(14).as_str(), OTHER);
        assert_eq!(RstCode::of(u32::MAX).as_str(), OTHER);
    }
}
