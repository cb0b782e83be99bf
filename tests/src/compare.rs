//! Compares what grpcscope saw with what the applications say that they did, call by call.
//!
//! Every call of the truth must be matched with exactly one observed call that fits it, and nothing may be left
//! over. Which observed call fits which call of the truth is decided by all fields together, the times
//! included ([`misfits`]); the matching is a maximum one, so its order does not matter.
//!
//! Not everything is determined by what the applications know:
//! * A call that its client gave up (deadline, cancel) before its server's handler ran may never have reached
//!   the wire: it may be missing, but only then.
//! * Of a call that was given up, the response may have gone further than the client read: messages are bounded
//!   by what the client read and what the server was going to send; every message has the same size, so bytes
//!   follow from the count. No status needs to have been sent.
//! * Of a call that its server ended early, the client may have sent any part of its messages before the end.
//! * A busy client writes its request later than it computed the timeout that it carries (measured: grpc-js gave
//!   up 39 ms after it had written `50m`), and a busy server reads it later still. Where less than the timeout,
//!   but for a small tolerance, passes between the request and its end, the observer cannot know that this was
//!   the deadline, so `cancelled` and `unknown` fit there.
//! * To one that joined late, or that missed bytes and says so, fields may be unknown, never wrong.

use std::collections::BTreeMap;

use crate::observed::Call;
use crate::plan::{CODES, CallType, SERVICE};
use crate::truth::{ClientCall, ServerCall};

/// Clocks of the applications are read in milliseconds by some of them, and the wall clock may be adjusted.
pub const CLOCK_SLACK_NS: u64 = 100_000_000;

/// What the observer can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It saw the connection from its first byte.
    FromTheStart,
    /// It was started in the middle of the connection, or missed a part of it.
    Late,
}

/// What both applications say of one call.
#[derive(Clone, Debug)]
pub struct Truth {
    /// The client's record.
    pub made: ClientCall,
    /// The server's record, if its handler ran.
    pub handled: Option<ServerCall>,
}

/// Puts the two truths together by the id that the calls carry.
///
/// # Panics
/// When the server handled a call twice, or one that the client did not make: then the applications are wrong.
#[must_use]
pub fn join(made: Vec<ClientCall>, handled: &[ServerCall]) -> Vec<Truth> {
    let mut by_id: BTreeMap<i64, ServerCall> = BTreeMap::new();
    for call in handled {
        let twice = by_id.insert(call.id, call.clone());
        assert!(twice.is_none(), "the server handled call {} twice", call.id);
    }
    let truths: Vec<Truth> =
        made.into_iter().map(|made| Truth { handled: by_id.remove(&(made.id as i64)), made }).collect();
    assert!(by_id.is_empty(), "the server handled calls that nobody made: {:?}", by_id.keys());
    truths
}

/// How the comparison went.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Calls of the truth that were matched.
    pub matched: usize,
    /// Calls that were given up before they were sent, and are not on the wire.
    pub never_sent: usize,
    /// Matched calls whose method is not known.
    pub without_method: usize,
    /// Matched calls whose type is not known.
    pub without_type: usize,
    /// Matched calls that missed their deadline and were seen to.
    pub deadlines: usize,
    /// Calls of the truth that nothing fits, each with what is wrong with the nearest observed call.
    pub missing: Vec<String>,
    /// Observed calls that nobody made.
    pub invented: Vec<String>,
}

impl Comparison {
    /// Fails with the first few differences if there are any.
    ///
    /// # Errors
    /// When the two differ.
    pub fn check(&self, what: &str) -> anyhow::Result<()> {
        if self.missing.is_empty() && self.invented.is_empty() {
            return Ok(());
        }
        let list =
            |calls: &[String]| calls.iter().take(5).map(|call| format!("\n    {call}")).collect::<String>();
        anyhow::bail!(
            "{what}: {} calls match, {} are missing or wrong, {} were not made\n  missing or wrong:{}\n  not made:{}",
            self.matched,
            self.missing.len(),
            self.invented.len(),
            list(&self.missing),
            list(&self.invented)
        )
    }
}

/// Matches the calls of the truth with the observed ones.
#[must_use]
pub fn compare(truths: &[Truth], observed: &[Call], joined: Joined) -> Comparison {
    compare_within(truths, observed, joined, CLOCK_SLACK_NS)
}

/// The same where times of the applications and of the observer may lie further apart than [`CLOCK_SLACK_NS`]: by as many
/// nanoseconds.
#[must_use]
pub fn compare_within(truths: &[Truth], observed: &[Call], joined: Joined, slack_ns: u64) -> Comparison {
    let fits: Vec<Vec<usize>> = truths
        .iter()
        .map(|truth| {
            let fit = |call: &Call| misfits(truth, call, joined, slack_ns).is_empty();
            (0..observed.len()).filter(|&index| fit(&observed[index])).collect()
        })
        .collect();
    let mut matching = Matching { fits: &fits, truth_of: vec![None; observed.len()] };
    // Those that must be there come first: what is matched once stays matched.
    let (certain, given_up): (Vec<usize>, Vec<usize>) =
        (0..truths.len()).partition(|&index| was_certainly_sent(&truths[index]));
    let mut unmatched = Vec::new();
    let mut comparison = Comparison::default();
    for index in certain {
        if !matching.place(index) {
            unmatched.push(index);
        }
    }
    for index in given_up {
        if !matching.place(index) {
            comparison.never_sent += 1;
        }
    }
    let left: Vec<&Call> = observed
        .iter()
        .zip(&matching.truth_of)
        .filter(|(_, truth)| truth.is_none())
        .map(|(call, _)| call)
        .collect();
    comparison.matched = observed.len() - left.len();
    let pairs = || observed.iter().zip(&matching.truth_of);
    let count = |is: fn(&Call) -> bool| pairs().filter(|(call, truth)| truth.is_some() && is(call)).count();
    comparison.without_method = count(|call| call.method.is_none());
    comparison.without_type = count(|call| call.call_type == "unknown");
    comparison.deadlines = count(|call| call.outcome == "deadline");
    comparison.missing =
        unmatched.into_iter().map(|index| explain(&truths[index], &left, joined, slack_ns)).collect();
    comparison.invented = left.iter().map(|call| format!("{call:?}")).collect();
    comparison
}

/// How many of the calls must be on the wire; the others may be, see above.
#[must_use]
pub fn certainly_sent(truths: &[Truth]) -> usize {
    truths.iter().filter(|truth| was_certainly_sent(truth)).count()
}

/// A maximum matching of a bipartite graph by augmenting paths (Kuhn).
struct Matching<'a> {
    fits: &'a [Vec<usize>],
    truth_of: Vec<Option<usize>>,
}

impl Matching<'_> {
    fn place(&mut self, truth: usize) -> bool {
        let mut tried = vec![false; self.truth_of.len()];
        self.augment(truth, &mut tried)
    }

    fn augment(&mut self, truth: usize, tried: &mut [bool]) -> bool {
        let fits = self.fits;
        // A free one first: then most calls need no path at all.
        if let Some(&free) = fits[truth].iter().find(|&&index| self.truth_of[index].is_none()) {
            self.truth_of[free] = Some(truth);
            return true;
        }
        for &index in &fits[truth] {
            if !std::mem::replace(&mut tried[index], true)
                && let Some(other) = self.truth_of[index]
                && self.augment(other, tried)
            {
                self.truth_of[index] = Some(truth);
                return true;
            }
        }
        false
    }
}

/// Calls that ended with a status that their server sent, by its name.
#[must_use]
pub fn sent_statuses(truths: &[Truth]) -> BTreeMap<&'static str, f64> {
    let mut counts = BTreeMap::new();
    for truth in truths {
        let made = &truth.made;
        if !made.cancelled_by_client && !made.method.ends_with("/Slow") {
            *counts.entry(CODES[made.code as usize]).or_insert(0.0) += 1.0;
        }
    }
    // A call that its client cancels has this code in one implementation and none in another.
    counts.remove("CANCELLED");
    counts
}

/// The client gave the call up by itself: a deadline or a cancel of the plan, not a status that was sent.
fn was_given_up(truth: &Truth) -> bool {
    let made = &truth.made;
    made.cancelled_by_client && made.code != 0
        || made.timeout_ns.is_some() && is_slow(truth) && made.code != 0
}

fn is_slow(truth: &Truth) -> bool {
    name(&truth.made) == "Slow"
}

fn was_certainly_sent(truth: &Truth) -> bool {
    truth.handled.is_some() || !was_given_up(truth)
}

fn name(made: &ClientCall) -> &str {
    made.method.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE)).map_or("", |path| &path[1..])
}

/// Everything in which an observed call differs from the truth; empty if it fits.
#[must_use]
pub fn misfits(truth: &Truth, seen: &Call, joined: Joined, slack_ns: u64) -> Vec<String> {
    let late = joined == Joined::Late;
    let made = &truth.made;
    let mut misfits = Vec::new();
    let mut check = |fits: bool, what: &dyn Fn() -> String| {
        if !fits {
            misfits.push(what());
        }
    };

    let method_fits = seen.method.as_deref() == Some(&made.method) || late && seen.method.is_none();
    check(method_fits, &|| format!("method {:?}", seen.method));
    if !method_fits {
        return misfits;
    }

    let given_up = was_given_up(truth);
    let start = seen.start_ns;
    let end = start.saturating_add(seen.duration_ns.unwrap_or(0));
    check(start + slack_ns >= made.t0_ns, &|| format!("starts {} ns early", made.t0_ns - start));
    if !given_up {
        check(end <= made.t1_ns + slack_ns, &|| format!("ends {} ns late", end - made.t1_ns));
    }
    // Unknown where the beginning or the end of the call was not seen.
    check(seen.duration_ns.is_some() || late, &|| "no duration".to_owned());

    match (made.timeout_ns, seen.timeout_ns) {
        (None, None) => {}
        (Some(asked), Some(sent)) => {
            // The budget that was left when the request was written, rounded up by at most a hundredth (D2).
            let passed = start.saturating_sub(made.t0_ns) + slack_ns;
            let range = asked.saturating_sub(passed)..=asked + asked / 50 + 10_000_000;
            check(range.contains(&sent), &|| format!("timeout {sent} is not in {range:?}"));
        }
        (asked, sent) => check(late && sent.is_none(), &|| format!("timeout {sent:?}, not {asked:?}")),
    }

    let unknown_fits = |value: &str| late && value == "unknown";
    let outcome = if !given_up {
        match made.code {
            0 => "ok",
            1 => "cancelled",
            4 => "deadline",
            _ => "error",
        }
    } else if made.cancelled_by_client {
        "cancelled"
    } else {
        "deadline"
    };
    let undecidable = passed_too_little(seen) || late && seen.timeout_ns.is_none();
    let seen_as_cancel = outcome == "deadline"
        && given_up
        && undecidable
        && matches!(seen.outcome.as_str(), "cancelled" | "unknown");
    check(seen.outcome == outcome || seen_as_cancel || unknown_fits(&seen.outcome), &|| {
        format!("outcome {}, not {outcome}", seen.outcome)
    });

    if given_up {
        check(matches!(seen.status, None | Some(1 | 4)), &|| format!("status {:?}", seen.status));
    } else {
        let status_fits = seen.status == Some(made.code) || late && seen.status.is_none();
        check(status_fits, &|| format!("status {:?}, not {}", seen.status, made.code));
        let source_fits = matches!(seen.status_source.as_str(), "trailer" | "trailers_only");
        check(source_fits || unknown_fits(&seen.status_source), &|| {
            format!("status from {}", seen.status_source)
        });
    }

    let (request, response) = (request_messages(truth), response_messages(truth));
    let exact = !late || seen.messages_exact;
    check(!exact || request.fits(seen.request_messages, seen.request_bytes), &|| {
        format!("request {} messages {} bytes, not {request:?}", seen.request_messages, seen.request_bytes)
    });
    check(!exact || response.fits(seen.response_messages, seen.response_bytes), &|| {
        format!(
            "response {} messages {} bytes, not {response:?}",
            seen.response_messages, seen.response_bytes
        )
    });

    let own = match made.call_type {
        CallType::Unary => "unary",
        CallType::ClientStream => "client_stream",
        CallType::ServerStream => "server_stream",
        CallType::Bidi => "bidi",
    };
    // A server may answer one message before it has seen the end of the request; then the wire does not tell.
    let has_many = matches!(made.call_type, CallType::ClientStream | CallType::Bidi);
    let wire_tells = made.code == 0 && has_many && name(made) != "EarlyOk" && !late;
    let is_early = name(made) == "EarlyOk" && seen.call_type == "unary";
    check(seen.call_type == own || is_early || !wire_tells && seen.call_type == "unknown", &|| {
        format!("call type {}, not {own}", seen.call_type)
    });
    misfits
}

/// Less than the timeout passed on the wire: by more than 1 ms and 2 % of it, which is what an observer forgives
/// (checklist D4).
fn passed_too_little(seen: &Call) -> bool {
    let (Some(timeout), Some(duration)) = (seen.timeout_ns, seen.duration_ns) else { return false };
    duration + (timeout / 50).max(1_000_000) < timeout
}

/// How many messages, and how many bytes, one direction of a call may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Exactly so many messages with so many bytes.
    Exactly(u64, u64),
    /// A number of messages in these bounds, each with so many bytes.
    Between(u64, u64, u64),
}

impl Expected {
    fn fits(self, messages: u64, bytes: u64) -> bool {
        match self {
            Expected::Exactly(count, total) => (messages, bytes) == (count, total),
            Expected::Between(least, most, each) => {
                (least..=most).contains(&messages) && bytes == messages * each
            }
        }
    }
}

fn request_messages(truth: &Truth) -> Expected {
    let made = &truth.made;
    let handled = truth.handled.as_ref().map_or(0, |handled| handled.recv_msgs);
    match name(made) {
        // The server may answer before it has read the message.
        "Missing" => Expected::Between(0, 1, made.sent_bytes),
        // All messages of a plan's early call have the same size, and there are 200 at most. The client may go
        // on sending after the application was given the answer, so its own count says nothing.
        "Early" | "EarlyOk" => {
            let bytes = truth.handled.as_ref().map_or(0, |handled| handled.recv_bytes);
            Expected::Between(handled, 200, bytes.checked_div(handled).unwrap_or(0))
        }
        _ if was_given_up(truth) => Expected::Between(handled, 1, made.sent_bytes),
        _ => Expected::Exactly(made.sent_msgs, made.sent_bytes),
    }
}

fn response_messages(truth: &Truth) -> Expected {
    let made = &truth.made;
    if was_given_up(truth) {
        let each = made.recv_bytes.checked_div(made.recv_msgs).unwrap_or(0);
        // The plan's longest stream has 800 messages, and some of what was sent may not have been read.
        return Expected::Between(made.recv_msgs, if each == 0 { 0 } else { 800 }, each);
    }
    match &truth.handled {
        Some(handled) if made.code != 0 => Expected::Exactly(handled.sent_msgs, handled.sent_bytes),
        _ => Expected::Exactly(made.recv_msgs, made.recv_bytes),
    }
}

fn explain(truth: &Truth, left: &[&Call], joined: Joined, slack_ns: u64) -> String {
    let made = &truth.made;
    let nearest = left
        .iter()
        .filter(|call| call.method.as_deref() == Some(&made.method) || call.method.is_none())
        .map(|call| misfits(truth, call, joined, slack_ns))
        .min_by_key(Vec::len);
    match nearest {
        Some(misfits) => {
            format!("call {} ({} code {}): {}", made.id, made.method, made.code, misfits.join("; "))
        }
        None => format!("call {} ({} code {}): not seen", made.id, made.method, made.code),
    }
}

#[cfg(test)]
mod tests;
