//! What a process provokes: a line of its truth for each finding that somebody who watches it has to come to.
//!
//! `{"finding","cause","service","side","rpc_method","from_ns","until_ns","lasts","stalled_seconds"}`, times by the clock on the wall. What
//! is left out may be anything. Each process writes down what is to be found on itself, so that the name and the side of
//! the line are always its own. Only the caller of a `hop` writes for its callee, too: of a connection it knows what both see.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::ledger::Side;

/// A unary call with a longer timeout has none to speak of.
pub(crate) const LONGEST_DEADLINE: Duration = Duration::from_secs(3600);
/// A call that is completed more than this after its deadline is late. Scenarios stay far from it on either side.
pub(crate) const LATE: Duration = Duration::from_millis(5);

/// One finding to come to.
#[derive(Clone, Debug)]
pub(crate) struct Provoked {
    finding: &'static str,
    cause: Option<&'static str>,
    side: Option<Side>,
    method: Option<&'static str>,
    from_ns: u64,
    is_open_ended: bool,
    lasts: bool,
    stalled: Option<Duration>,
}

impl Provoked {
    /// A finding whose time is not before `from_ns` and not after it is written down.
    pub(crate) fn since(finding: &'static str, from_ns: u64) -> Self {
        Provoked {
            finding,
            cause: None,
            side: None,
            method: None,
            from_ns,
            is_open_ended: false,
            lasts: false,
            stalled: None,
        }
    }

    pub(crate) fn because(mut self, cause: &'static str) -> Self {
        self.cause = Some(cause);
        self
    }

    /// How long a sender had to wait, as this end knows it.
    pub(crate) fn stalled_for(mut self, stalled: Duration) -> Self {
        self.stalled = Some(stalled);
        self
    }

    pub(crate) fn by_call(mut self, side: Side, method: &'static str) -> Self {
        (self.side, self.method) = (Some(side), Some(method));
        self
    }

    /// Found on this side, whatever the call is.
    pub(crate) fn on(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }

    /// Found at any later time: for a process that cannot say when, since it will be dead.
    pub(crate) fn at_any_time_after(mut self) -> Self {
        self.is_open_ended = true;
        self
    }

    /// It may be said again while it lasts.
    pub(crate) fn lasting(mut self) -> Self {
        self.lasts = true;
        self
    }

    /// The line, as of now.
    pub(crate) fn line(&self, service: &str) -> Value {
        let mut line = json!({
            "finding": self.finding,
            "service": service,
            "from_ns": self.from_ns,
            "lasts": self.lasts,
            "until_ns": (!self.is_open_ended).then(now_ns),
        });
        if let Some(cause) = self.cause {
            line["cause"] = json!(cause);
        }
        if let Some(stalled) = self.stalled {
            line["stalled_seconds"] = json!(stalled.as_secs_f64());
        }
        if let Some(side) = self.side {
            line["side"] = json!(side.as_str());
        }
        if let Some(method) = self.method {
            line["rpc_method"] = json!(method.trim_start_matches('/'));
        }
        line
    }
}

/// Nanoseconds since 1970 (CLOCK_REALTIME).
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
