//! Destinations by name (`:authority`, RFC 9113 §8.3.1): which may be shown, and which mean the same to everybody.

use std::net::IpAddr;
use std::sync::Arc;

/// The host of an `:authority` (RFC 3986 §3.2), without its port.
fn host(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

/// A name that means another place for each network namespace.
pub(super) fn is_local(authority: &str) -> bool {
    let host = host(authority);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A destination as findings and metrics may name it: by a name, not by an address.
pub(in crate::detectors) fn shown(authority: &Arc<str>) -> Option<Arc<str>> {
    let is_address = authority.parse::<IpAddr>().is_ok() || host(authority).parse::<IpAddr>().is_ok();
    (!is_address && !authority.is_empty()).then(|| Arc::clone(authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_shown() {
        for address in ["10.0.0.1", "10.0.0.1:80", "[fd00::1]:80", "fd00::1", "[::1]", ""] {
            assert_eq!(shown(&Arc::from(address)), None, "{address}");
        }
        for name in ["shop", "shop:80", "shop.svc.cluster.local:50051", "10.0.0.1.example:80"] {
            assert_eq!(shown(&Arc::from(name)).as_deref(), Some(name));
        }
    }
}
