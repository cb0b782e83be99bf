//! A call with what the agent knows of its two ends: what a line of output is made of.

use std::borrow::Cow;

use agent_core::observation::{Call, Outcome, Protocol, STATUS_NAMES, Side, StatusSource, Sync, Timeout};

/// A call, ready to be shown.
#[derive(Clone, Debug)]
pub struct CallLine {
    /// Number of the connection: of a recording in order of appearance, live the socket's cookie.
    pub connection: u64,
    /// Which end the observed process is; `None` for a recording, which is made on the wire.
    pub side: Option<Side>,
    /// Address of the end that sent the request, if it is known.
    pub client: Option<String>,
    /// Address of the other end.
    pub server: Option<String>,
    /// The observed process.
    pub process: Option<ProcessLabel>,
    /// What to add to the core's times to get nanoseconds since the epoch: zero for a recording.
    pub unix_offset_ns: i64,
    /// File that the call comes from, where there are several.
    pub file: Option<String>,
    /// The call.
    pub call: Call,
}

/// A process, as far as a line shows it.
#[derive(Clone, Debug)]
pub struct ProcessLabel {
    /// Process id in the agent's namespace.
    pub pid: u32,
    /// A name that a person recognises.
    pub service: String,
}

impl CallLine {
    /// When the call began or was first noticed, in nanoseconds since the epoch.
    #[must_use]
    pub fn start_unix_ns(&self) -> u64 {
        let start = self.call.started.unwrap_or(self.call.first_seen);
        start.0.saturating_add_signed(self.unix_offset_ns)
    }

    /// How long the call took, if both its start and its end were seen.
    #[must_use]
    pub fn duration_ns(&self) -> Option<u64> {
        Some(self.call.ended?.since(self.call.started?))
    }

    /// What was left of the deadline when the call ended; negative if it had passed.
    #[must_use]
    pub fn deadline_left_ns(&self) -> Option<i64> {
        let Timeout::Ns(timeout) = self.call.timeout else { return None };
        let left = i128::from(timeout) - i128::from(self.duration_ns()?);
        Some(left.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// It did not end well.
    #[must_use]
    pub fn is_error(&self) -> bool {
        match self.call.outcome {
            Outcome::Ok | Outcome::Open | Outcome::Unknown => false,
            Outcome::Error | Outcome::Deadline | Outcome::Cancelled | Outcome::Aborted | Outcome::Refused => {
                true
            }
        }
    }
}

/// The word for an outcome. A refused call is shown as an error, with `"refused": true` in JSON.
#[must_use]
pub fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Error | Outcome::Refused => "error",
        Outcome::Deadline => "deadline",
        Outcome::Cancelled => "cancelled",
        Outcome::Aborted => "aborted",
        Outcome::Open => "open",
        Outcome::Unknown => "unknown",
    }
}

/// The word for a status source.
#[must_use]
pub fn status_source_name(source: StatusSource) -> &'static str {
    match source {
        StatusSource::Trailer => "trailer",
        StatusSource::TrailersOnly => "trailers_only",
        StatusSource::Rst => "rst",
        StatusSource::Http => "http",
        StatusSource::None => "none",
        StatusSource::Unknown => "unknown",
    }
}

/// The word for a connection's or flow's state.
#[must_use]
pub fn sync_name(sync: Sync) -> &'static str {
    match sync {
        Sync::Synced => "synced",
        Sync::Late => "late",
        Sync::Desynced => "desynced",
    }
}

/// The word for what an exchange speaks.
#[must_use]
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Grpc => "grpc",
        Protocol::GrpcWeb => "grpc_web",
        Protocol::Http => "http",
        Protocol::Unknown => "unknown",
    }
}

/// The word for the side of the observed process.
#[must_use]
pub fn side_name(side: Option<Side>) -> &'static str {
    match side {
        Some(side) => side.as_str(),
        None => "unknown",
    }
}

/// The name of a gRPC status code (grpc/doc/statuscodes.md).
#[must_use]
pub fn status_name(status: u32) -> Cow<'static, str> {
    match STATUS_NAMES.get(status as usize) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(format!("STATUS_{status}")),
    }
}

/// Which calls to show.
#[derive(Clone, Debug, Default)]
pub struct CallFilter {
    /// Only methods that match.
    pub method: Option<MethodPattern>,
    /// Only calls of this process.
    pub pid: Option<u32>,
    /// Only calls that did not end well.
    pub errors: bool,
}

impl CallFilter {
    /// The call is to be shown.
    #[must_use]
    pub fn accepts(&self, line: &CallLine) -> bool {
        let method = line.call.method.as_deref().unwrap_or("");
        self.method.as_ref().is_none_or(|pattern| pattern.matches(method))
            && self.pid.is_none_or(|pid| line.process.as_ref().is_some_and(|process| process.pid == pid))
            && (!self.errors || line.is_error())
    }
}

/// A part of a method name, or a pattern with `*` and `?` for the whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodPattern(String);

impl std::str::FromStr for MethodPattern {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(MethodPattern(text.to_owned()))
    }
}

impl MethodPattern {
    /// The pattern fits the method. The slash at the front of the name may be left out.
    #[must_use]
    pub fn matches(&self, method: &str) -> bool {
        if !self.0.contains(['*', '?']) {
            return method.contains(&self.0);
        }
        glob(&self.0, method) || method.strip_prefix('/').is_some_and(|rest| glob(&self.0, rest))
    }
}

/// Matches by remembering only the last star, which takes time in the product of the lengths at most.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            Some(_) | None => {
                let Some((after_star, taken)) = star else { return false };
                star = Some((after_star, taken + 1));
                p = after_star;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_wildcards_is_looked_for_anywhere() {
        let pattern: MethodPattern = "Echo/Un".parse().expect("every text is a pattern");
        assert!(pattern.matches("/corp.test.Echo/Unary"));
        assert!(!pattern.matches("/corp.test.Echo/Bidi"));
    }

    #[test]
    fn a_pattern_with_wildcards_must_fit_the_whole_name() {
        for (pattern, method, fits) in [
            ("*/Unary", "/corp.test.Echo/Unary", true),
            ("corp.*/U*y", "/corp.test.Echo/Unary", true),
            ("/corp.test.Echo/?idi", "/corp.test.Echo/Bidi", true),
            ("*/Una", "/corp.test.Echo/Unary", false),
            ("*a*a*a*b", "/aaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(MethodPattern(pattern.into()).matches(method), fits, "{pattern} on {method}");
        }
    }

    #[test]
    fn statuses_have_the_names_of_the_specification() {
        assert_eq!(status_name(0), "OK");
        assert_eq!(status_name(4), "DEADLINE_EXCEEDED");
        assert_eq!(status_name(16), "UNAUTHENTICATED");
        assert_eq!(status_name(77), "STATUS_77");
    }
}
