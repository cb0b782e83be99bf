//! The upgrade from HTTP/1.1 to HTTP/2 in clear text (h2c, RFC 7540 §3.2; checklist C5): heads of HTTP/1.1 messages, read only
//! as far as to tell whether HTTP/2 follows them.

use crate::base64::{Alphabet, sextet};

/// A head may be this long; a longer one is not looked at.
pub(crate) const LONGEST_HEAD: usize = 8 * 1024;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A request that asks for HTTP/2, with a body of so many octets; then the client's preface, if the server agrees.
    UpgradeRequest { body: u64 },
    /// 101: HTTP/2 follows at once.
    SwitchingProtocols,
    /// Another interim response: the head of the final one follows.
    Informational,
    /// HTTP/1.1, or something else altogether.
    Other,
}

impl Head {
    /// Reads a head up to and including its empty line.
    pub(crate) fn parse(head: &[u8]) -> Head {
        let Some(start) = start_line(head) else { return Head::Other };
        if let Some(status) = start.strip_prefix(b"HTTP/1.1 ") {
            return match status {
                [b'1', b'0', b'1', b' ', ..] | b"101" if asks_for_h2c(head) => Head::SwitchingProtocols,
                [b'1', b'0', b'1', ..] => Head::Other,
                [b'1', ..] => Head::Informational,
                _ => Head::Other,
            };
        }
        let mut body = 0;
        for (name, value) in fields(head) {
            if name.eq_ignore_ascii_case(b"transfer-encoding") {
                // Where a body of chunks ends is not worth knowing: no gRPC client sends one.
                return Head::Other;
            }
            if name.eq_ignore_ascii_case(b"content-length") {
                match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
                    Some(length) => body = length,
                    None => return Head::Other,
                }
            }
        }
        let asks = request_target(head).is_some() && asks_for_h2c(head) && settings(head).is_some();
        if asks { Head::UpgradeRequest { body } } else { Head::Other }
    }

    /// The beginning of a head can still become one of HTTP/1.1.
    pub(crate) fn may_begin(octets: &[u8]) -> bool {
        let text =
            octets.iter().all(|octet| !octet.is_ascii_control() || matches!(octet, b'\r' | b'\n' | b'\t'));
        text && start_line(octets)
            .is_none_or(|line| line.ends_with(b" HTTP/1.1") || line.starts_with(b"HTTP/1.1 "))
    }
}

/// The payload of the SETTINGS frame in the one HTTP2-Settings field (RFC 7540 §3.2.1).
pub(crate) fn settings(head: &[u8]) -> Option<Vec<u8>> {
    let mut values = fields(head).filter(|(name, _)| name.eq_ignore_ascii_case(b"http2-settings"));
    let (_, value) = values.next()?;
    let payload = base64url(value)?;
    (values.next().is_none() && payload.len().is_multiple_of(6)).then_some(payload)
}

/// Method and target of a request.
pub(crate) fn request_target(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = start_line(head)?.split(|octet| *octet == b' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    (version == b"HTTP/1.1" && parts.next().is_none() && !method.is_empty()).then_some((method, target))
}

/// Names and values, without the white space around these.
pub(crate) fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|octet| *octet == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|octet| *octet == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        Some((name, value.get(1..)?.trim_ascii()))
    })
}

/// The first line without its end, if that is there.
fn start_line(head: &[u8]) -> Option<&[u8]> {
    let end = head.windows(2).position(|pair| pair == b"\r\n")?;
    head.get(..end)
}

fn asks_for_h2c(head: &[u8]) -> bool {
    fields(head)
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"upgrade"))
        .flat_map(|(_, value)| value.split(|octet| *octet == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

/// Decodes base64url (RFC 4648 §5). Padding is not sent, but a server may let it pass.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut octets = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut have) = (0u32, 0);
    for symbol in text {
        bits = bits << 6 | sextet(*symbol, Alphabet::Url)?;
        have += 6;
        if have >= 8 {
            have -= 8;
            octets.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    (have < 6 && bits == 0).then_some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] =
        b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";

    #[test]
    fn c5_the_settings_of_an_upgrade_are_base64url() {
        // MAX_CONCURRENT_STREAMS 100, INITIAL_WINDOW_SIZE 10,485,760, ENABLE_PUSH 0: what curl sends.
        assert_eq!(Head::parse(REQUEST), Head::UpgradeRequest { body: 0 });
        assert_eq!(
            settings(REQUEST).as_deref(),
            Some(&[0, 3, 0, 0, 0, 100, 0, 4, 0, 160, 0, 0, 0, 2, 0, 0, 0, 0][..])
        );
        assert_eq!(base64url(b"-_8"), Some(vec![0xfb, 0xff]));
        assert_eq!(base64url(b"-_8="), Some(vec![0xfb, 0xff]));
        assert_eq!(base64url(b""), Some(vec![]));
        for wrong in [&b"A"[..], b"AAB", b"AA===", b"A=A", b"+/8", b"AA AA"] {
            assert_eq!(base64url(wrong), None);
        }
    }

    #[test]
    fn c5_only_a_request_that_asks_for_h2c_with_settings_is_an_upgrade() {
        let with = |from: &str, to: &str| {
            let text = std::str::from_utf8(REQUEST).expect("it is text");
            assert!(text.contains(from));
            Head::parse(text.replace(from, to).as_bytes())
        };
        assert_eq!(with("Upgrade: h2c", "upgrade: websocket, H2C"), Head::UpgradeRequest { body: 0 });
        assert_eq!(with("Host: a", "Content-Length: 12"), Head::UpgradeRequest { body: 12 });
        assert_eq!(with("Upgrade: h2c", "Upgrade: websocket"), Head::Other);
        assert_eq!(with("HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", "HTTP2-Settings: AAMA"), Head::Other);
        assert_eq!(with("Host: a", "HTTP2-Settings: "), Head::Other, "one field, not two");
        assert_eq!(with("Host: a", "Transfer-Encoding: chunked"), Head::Other);
        assert_eq!(with("HTTP/1.1", "HTTP/1.0"), Head::Other);
        let response = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
        assert_eq!(Head::parse(response), Head::SwitchingProtocols);
        assert_eq!(Head::parse(b"HTTP/1.1 101 \r\nUpgrade: websocket\r\n\r\n"), Head::Other);
        assert_eq!(Head::parse(b"HTTP/1.1 100 Continue\r\n\r\n"), Head::Informational);
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\n\r\n"), Head::Other);
    }
}
