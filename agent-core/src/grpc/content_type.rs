//! Which content types are gRPC (checklist G1, X1).

use crate::observation::Protocol;

/// What a request or response with this `content-type` speaks.
pub(crate) fn protocol(content_type: &[u8]) -> Protocol {
    let is = |prefix: &[u8]| {
        content_type.strip_prefix(prefix).is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    };
    if is(b"application/grpc") {
        Protocol::Grpc
    } else if is(b"application/grpc-web") || is(b"application/grpc-web-text") {
        Protocol::GrpcWeb
    } else {
        Protocol::Http
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g1_only_exact_and_suffixed_types_are_grpc() {
        for (text, expected) in [
            ("application/grpc", Protocol::Grpc),
            ("application/grpc+proto", Protocol::Grpc),
            ("application/grpc;charset=utf-8", Protocol::Grpc),
            ("application/grpc-web", Protocol::GrpcWeb),
            ("application/grpc-web+proto", Protocol::GrpcWeb),
            ("application/grpc-web-text", Protocol::GrpcWeb),
            ("application/grpcfoo", Protocol::Http),
            ("application/connect+proto", Protocol::Http),
            ("application/json", Protocol::Http),
            ("", Protocol::Http),
        ] {
            assert_eq!(protocol(text.as_bytes()), expected, "{text}");
        }
    }
}
