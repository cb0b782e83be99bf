//! Errors: an HTTP status that disagrees with the gRPC status beside it.
//!
//! gRPC answers with HTTP status 200, whatever the call's status is. Another HTTP status comes from something that does not speak
//! gRPC, and clients map it to a status when there is no `grpc-status` (doc/http-grpc-status-mapping.md of the gRPC project;
//! checklist G6, G7). Where a response has both, the `grpc-status` must win, and one that the mapping would not give means that
//! who looks at HTTP (a gateway, its logs, its retries, its alerts) sees another outcome than the client. Not every client keeps
//! to that: grpc-go and grpc-js go by the `grpc-status`, the C-core only where the response has nothing else, and otherwise by
//! the HTTP status, and resets the stream. So nothing is claimed of what the client makes of it, and nothing of a stream that it
//! reset. Silent where one of the two is not known, as after a late join.

use std::fmt;

use super::finding::{Claims, Name, Value};
use super::{Out, Watched};
use crate::grpc::status;
use crate::observation::{Call, STATUS_NAMES, StatusSource};

/// HTTP status of every response of gRPC's own.
const HTTP_OK: u16 = 200;

/// What is claimed of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// HTTP status of the response, not 200.
    pub http_status: u16,
    /// Its `grpc-status`.
    pub status: u32,
    /// What the HTTP status maps to.
    pub mapped: u32,
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::HttpStatusMismatch
    }

    fn cause(&self) -> Option<&'static str> {
        Some(if self.status == status::OK { "ok" } else { "error" })
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        number("http_status", Value::Count(u64::from(self.http_status)));
        number("grpc_status", Value::Word(name(self.status)));
        number("mapped_status", Value::Word(name(self.mapped)));
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (http_status, status, mapped) = (self.http_status, name(self.status), name(self.mapped));
        write!(
            f,
            "was answered with HTTP {http_status}, which means {mapped}, and with grpc-status {status}, which is to count"
        )
    }
}

/// Judges a call that ended.
pub(super) fn handle_call_ended(connection: &Watched, call: &Call, out: &mut Out) {
    let Some(http_status) = call.http_status.filter(|http_status| *http_status != HTTP_OK) else { return };
    let is_sent = matches!(call.status_source, StatusSource::Trailer | StatusSource::TrailersOnly);
    if let (true, Some(status), Some(mapped)) = (is_sent, call.status, status::from_http(http_status))
        && status != mapped
    {
        let time = call.ended.unwrap_or(call.first_seen);
        out.fire(connection.call(call), time, Claim { http_status, status, mapped });
    }
}

fn name(status: u32) -> &'static str {
    usize::try_from(status).ok().and_then(|at| STATUS_NAMES.get(at)).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Scene, s};
    use super::*;
    use crate::observation::{Observation, Sync};

    /// What is said of a call that was answered so.
    fn said(http_status: Option<u16>, status: Option<u32>, source: StatusSource, sync: Sync) -> Vec<String> {
        let mut scene = Scene::client();
        scene.status(sync, s(0));
        let mut call = scene.call(3, "/shop.Orders/Get", s(1), s(2));
        (call.http_status, call.status, call.status_source) = (http_status, status, source);
        scene.observe(&Observation::CallEnded(Box::new(call)));
        scene.said()
    }

    #[test]
    fn a_gateway_that_says_other_than_grpc_is_found() {
        let (synced, only) = (Sync::Synced, StatusSource::TrailersOnly);
        assert_eq!(said(Some(503), Some(7), only, synced), ["firing http_status_mismatch error"]);
        assert_eq!(
            said(Some(404), Some(0), StatusSource::Trailer, synced),
            ["firing http_status_mismatch ok"]
        );
        let claim = Claim { http_status: 503, status: 7, mapped: 14 };
        assert_eq!(
            claim.to_string(),
            "was answered with HTTP 503, which means UNAVAILABLE, and with grpc-status PERMISSION_DENIED, which is to count"
        );
    }

    #[test]
    fn statuses_that_agree_or_are_mapped_or_are_grpcs_own_are_no_finding() {
        let synced = Sync::Synced;
        assert!(said(Some(503), Some(14), StatusSource::TrailersOnly, synced).is_empty());
        assert!(said(Some(503), Some(14), StatusSource::Http, synced).is_empty());
        assert!(said(Some(200), Some(5), StatusSource::TrailersOnly, synced).is_empty());
        assert!(said(Some(502), Some(13), StatusSource::Rst, synced).is_empty());
    }

    #[test]
    fn after_a_late_join_what_is_not_known_is_not_claimed() {
        assert!(said(None, Some(7), StatusSource::Trailer, Sync::Late).is_empty());
        assert!(said(Some(503), None, StatusSource::Unknown, Sync::Late).is_empty());
    }

    #[test]
    fn a_hole_elsewhere_takes_nothing_from_two_statuses_that_were_read() {
        assert_eq!(
            said(Some(503), Some(7), StatusSource::TrailersOnly, Sync::Desynced),
            ["firing http_status_mismatch error"]
        );
    }
}
