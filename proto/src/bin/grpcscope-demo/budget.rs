//! Deadlines, handed on from hop to hop as gRPC means it: what a caller leaves is what a callee may spend, less a
//! reserve to answer in.

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// What a service keeps for itself of the time that its caller leaves, so that the innermost call gives up first and
/// each hop can still say so to the one before it.
const RESERVE: Duration = Duration::from_millis(50);

/// The time that the caller of a call leaves for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    deadline: Option<Instant>,
}

impl Budget {
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Budget { deadline }
    }

    /// The timeout of an outbound call: `at_most`, or less if the caller leaves less.
    pub(crate) fn hand_on(self, at_most: Duration) -> Result<Duration, Status> {
        let Some(deadline) = self.deadline else { return Ok(at_most) };
        let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(RESERVE);
        if left.is_zero() {
            return Err(Status::deadline_exceeded("no time is left for the next hop"));
        }
        Ok(left.min(at_most))
    }
}

/// `grpc-timeout` of a request, as sent (gRPC over HTTP/2: at most 8 digits and a unit).
pub(crate) fn timeout_of(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// An error of a call to the next hop, as it is handed back: a deadline stays a deadline, whoever's timer noticed it
/// first. (tonic's own timers say CANCELLED, "Timeout expired".)
pub(crate) fn hand_back(status: Status) -> Status {
    if status.code() == Code::Cancelled && status.message() == "Timeout expired" {
        return Status::deadline_exceeded("the next hop did not answer in time");
    }
    let details = status.details().to_vec();
    Status::with_details(status.code(), status.message(), details.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(text: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().expect("the test's own header value"));
        metadata
    }

    #[test]
    fn a_timeout_is_read_by_the_grammar_and_by_nothing_else() {
        assert_eq!(timeout_of(&metadata("300000u")), Some(Duration::from_millis(300)));
        assert_eq!(timeout_of(&metadata("2S")), Some(Duration::from_secs(2)));
        for wrong in ["", "S", "5", "5s", "-5S", "+5S", "123456789u", " 5S"] {
            assert_eq!(timeout_of(&metadata(wrong)), None, "{wrong:?}");
        }
        assert_eq!(timeout_of(&MetadataMap::new()), None);
    }

    #[test]
    fn a_hop_hands_on_less_than_it_was_left_and_nothing_when_nothing_is_left() {
        let second = Duration::from_secs(1);
        assert_eq!(Budget::until(None).hand_on(second).expect("no deadline"), second);
        let budget = Budget::until(Some(Instant::now() + Duration::from_secs(10)));
        assert_eq!(budget.hand_on(second).expect("ten seconds are left"), second);
        let left = budget.hand_on(Duration::from_secs(60)).expect("ten seconds are left");
        assert!(left <= Duration::from_secs(10) - RESERVE);
        let spent = Budget::until(Some(Instant::now()));
        assert_eq!(spent.hand_on(second).expect_err("nothing is left").code(), Code::DeadlineExceeded);
    }
}
