//! How a call ended: from its first terminal event to outcome and status (checklist G6–G9, D4–D6).

use super::{End, Stream};
use crate::grpc::status;
use crate::http2::frame::error_code;
use crate::input::Timestamp;
use crate::observation::{EndedBy, Outcome, StatusSource, Timeout};

impl Stream {
    pub(super) fn status_without_trailers(&self) -> (Option<u32>, StatusSource) {
        match self.http_status {
            Some(http) if http != 200 => (status::from_http(http), StatusSource::Http),
            _ => (None, StatusSource::None),
        }
    }

    pub(super) fn finish(
        &mut self,
        time: Timestamp,
        status: Option<u32>,
        status_source: StatusSource,
        ended_by: EndedBy,
        rst_code: Option<u32>,
    ) {
        if self.end.is_some() {
            return;
        }
        if self.may_have_ended_before(ended_by, status, rst_code) {
            self.end = Some(End { rst_code, ..End::unseen(time) });
            return;
        }
        let mut end = End {
            time,
            outcome: Outcome::Unknown,
            status,
            status_source,
            ended_by,
            rst_code,
            is_late: false,
            is_final: rst_code.is_some()
                || ended_by == EndedBy::Connection
                || self.response_due.get().is_some(),
        };
        end.outcome = self.outcome_of(end);
        if ended_by == EndedBy::Client {
            end.status = match end.outcome {
                Outcome::Deadline => Some(status::DEADLINE_EXCEEDED),
                Outcome::Cancelled => Some(status::CANCELLED),
                _ => None,
            };
        }
        self.end = Some(end);
    }

    /// Among what was not seen may be a frame that ended the call before this end did, which then says nothing of
    /// it: a server may answer a call that its client has reset (D5, G9), and both ends may reset a stream after the
    /// response has ended (S3, G9).
    pub(super) fn may_have_ended_before(
        &self,
        by: EndedBy,
        status: Option<u32>,
        rst_code: Option<u32>,
    ) -> bool {
        let (client, server) = (self.client.end_may_be_missed, self.server.end_may_be_missed);
        match (by, rst_code, status) {
            (EndedBy::Server, None, _) => client,
            (EndedBy::Client, _, _) => server,
            (EndedBy::Server, Some(_), _) | (EndedBy::Connection, _, Some(_)) => client || server,
            (EndedBy::Connection, _, None) => self.uncertain,
        }
    }

    pub(super) fn outcome_of(&self, end: End) -> Outcome {
        let by_reset = end.rst_code.is_some();
        match (end.ended_by, end.status, end.rst_code) {
            (EndedBy::Connection, Some(_), _) | (EndedBy::Server, _, Some(error_code::REFUSED_STREAM)) => {
                Outcome::Refused
            }
            (EndedBy::Connection, None, _) => Outcome::Aborted,
            (EndedBy::Client, _, Some(error_code::CANCEL)) => self.cancelled_or_deadline(end.time),
            (EndedBy::Client, _, Some(error_code::NO_ERROR)) => Outcome::Unknown,
            (EndedBy::Client, _, _) => Outcome::Error,
            (EndedBy::Server, Some(status::OK), _) => Outcome::Ok,
            (EndedBy::Server, Some(status::CANCELLED), _) => self.cancelled_or_deadline(end.time),
            (EndedBy::Server, Some(status::DEADLINE_EXCEEDED), _) if !by_reset => Outcome::Deadline,
            (EndedBy::Server, Some(_), _) => Outcome::Error,
            (EndedBy::Server, None, _) if end.status_source == StatusSource::Unknown => Outcome::Unknown,
            (EndedBy::Server, None, _) => Outcome::Error,
        }
    }

    /// The same frames end a call that was cancelled and one whose deadline passed; the time tells (D4, D5).
    fn cancelled_or_deadline(&self, end: Timestamp) -> Outcome {
        let Some(request) = &self.request else { return Outcome::Unknown };
        match (request.timeout, request.time.get()) {
            (Timeout::Unknown, _) | (Timeout::Ns(_), None) => Outcome::Unknown,
            (Timeout::Absent | Timeout::Invalid, _) => Outcome::Cancelled,
            (Timeout::Ns(timeout), Some(started)) => {
                let left = timeout.saturating_sub(end.since(started));
                if left <= certain_early_ns(timeout) {
                    Outcome::Deadline
                } else if left <= possible_early_ns(timeout) {
                    Outcome::Unknown
                } else {
                    Outcome::Cancelled
                }
            }
        }
    }
}

/// A client's timer fires before the timeout that it sent has passed as seen here: the timer runs while the
/// request waits to be written, and encoders round up (C-core by up to a fiftieth; checklist D2, D4).
/// Measured with deadlines of 50 ms: at most 1 ms early on an idle machine, up to 9 ms with 100 calls at once on a
/// machine that was busy with other things.
fn certain_early_ns(timeout_ns: u64) -> u64 {
    MILLISECOND.max(timeout_ns / 50).max((10 * MILLISECOND).min(timeout_ns / 5))
}

/// This close to its deadline a call may have been cancelled as well as have run out of time, after a
/// request that waited for long: what it was is not known.
fn possible_early_ns(timeout_ns: u64) -> u64 {
    certain_early_ns(timeout_ns).max((25 * MILLISECOND).min(timeout_ns / 5 * 2))
}

const MILLISECOND: u64 = 1_000_000;
