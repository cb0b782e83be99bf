//! gRPC status codes: as sent, and as mapped from HTTP statuses and RST_STREAM codes (checklist G6–G8).

use crate::http2::frame::error_code as h2;

/// OK.
pub(crate) const OK: u32 = 0;
/// CANCELLED.
pub(crate) const CANCELLED: u32 = 1;
/// UNKNOWN.
pub(crate) const UNKNOWN: u32 = 2;
/// DEADLINE_EXCEEDED.
pub(crate) const DEADLINE_EXCEEDED: u32 = 4;
/// PERMISSION_DENIED.
pub(crate) const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
/// INVALID_ARGUMENT.
pub(crate) const INVALID_ARGUMENT: u32 = 3;
/// NOT_FOUND.
pub(crate) const NOT_FOUND: u32 = 5;
/// ALREADY_EXISTS.
pub(crate) const ALREADY_EXISTS: u32 = 6;
/// FAILED_PRECONDITION.
pub(crate) const FAILED_PRECONDITION: u32 = 9;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
/// UNAVAILABLE.
pub(crate) const UNAVAILABLE: u32 = 14;
/// UNAUTHENTICATED.
pub(crate) const UNAUTHENTICATED: u32 = 16;

/// The value of a `grpc-status` field. What is not a code of the specification is UNKNOWN, and `false`
/// says that it was not well-formed (G6).
pub(crate) fn parse(value: &[u8]) -> (u32, bool) {
    let leading_zero = value.len() > 1 && value.first() == Some(&b'0');
    let mut code = 0u32;
    for digit in value {
        if !digit.is_ascii_digit() {
            return (UNKNOWN, false);
        }
        code = code.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    }
    if value.is_empty() || code > UNAUTHENTICATED {
        return (UNKNOWN, false);
    }
    (code, !leading_zero)
}

/// The status of a response without `grpc-status`, from its HTTP status
/// (gRPC's http-grpc-status-mapping.md). 200 has no mapping of its own.
pub(crate) fn from_http(status: u16) -> Option<u32> {
    match status {
        200 => None,
        400 => Some(INTERNAL),
        401 => Some(UNAUTHENTICATED),
        403 => Some(PERMISSION_DENIED),
        404 => Some(UNIMPLEMENTED),
        429 | 502 | 503 | 504 => Some(UNAVAILABLE),
        _ => Some(UNKNOWN),
    }
}

/// The status that an RST_STREAM from the server stands for (PROTOCOL-HTTP2.md, "Errors").
pub(crate) fn from_rst(code: u32) -> Option<u32> {
    match code {
        h2::NO_ERROR
        | h2::PROTOCOL_ERROR
        | h2::INTERNAL_ERROR
        | h2::FLOW_CONTROL_ERROR
        | h2::SETTINGS_TIMEOUT
        | h2::FRAME_SIZE_ERROR
        | h2::COMPRESSION_ERROR
        | h2::CONNECT_ERROR => Some(INTERNAL),
        h2::REFUSED_STREAM => Some(UNAVAILABLE),
        h2::CANCEL => Some(CANCELLED),
        h2::ENHANCE_YOUR_CALM => Some(RESOURCE_EXHAUSTED),
        h2::INADEQUATE_SECURITY => Some(PERMISSION_DENIED),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g6_odd_statuses_are_unknown_and_not_well_formed() {
        assert_eq!(parse(b"0"), (0, true));
        assert_eq!(parse(b"16"), (16, true));
        assert_eq!(parse(b"17"), (UNKNOWN, false));
        assert_eq!(parse(b"007"), (7, false));
        assert_eq!(parse(b"OK"), (UNKNOWN, false));
        assert_eq!(parse(b""), (UNKNOWN, false));
        assert_eq!(parse(b"99999999999999"), (UNKNOWN, false));
    }

    #[test]
    fn g7_http_statuses_map_as_the_specification_says() {
        assert_eq!(from_http(200), None);
        for (http, grpc) in [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (503, 14), (500, 2)] {
            assert_eq!(from_http(http), Some(grpc), "{http}");
        }
    }

    #[test]
    fn g8_rst_codes_map_as_the_specification_says() {
        for (rst, grpc) in [
            (0, Some(13)),
            (7, Some(14)),
            (8, Some(1)),
            (0xb, Some(8)),
            (0xc, Some(7)),
            (5, None),
            (99, None),
        ] {
            assert_eq!(from_rst(rst), grpc, "{rst}");
        }
    }
}
