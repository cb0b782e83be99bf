//! Judges one call of a damaged recording by the same call of the unharmed one.

use agent_core::observation::{Call, Messages, Outcome, Timeout};
use agent_core::{Limits, Timestamp, observation::Protocol};

use crate::plan::View;
use crate::recording::Conversation;
use crate::replay::{Reported, Watch};
use crate::segments::SWAPPED_WITHIN_NS;

/// What a call says of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The same as the reference.
    Right,
    /// Nothing.
    Unknown,
    /// Something else.
    Wrong,
}

/// The judgement of one call.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Method name.
    pub method: Says,
    /// Status code.
    pub status: Says,
    /// Everything that it says and is not so.
    pub lies: Vec<&'static str>,
    /// Claims that were not so because of a loss that nothing had told of when the call was reported. Nobody can
    /// own up to such a loss; they are counted apart.
    pub unaware: usize,
}

impl Verdict {
    /// Method and status together.
    #[must_use]
    pub fn method_and_status(&self) -> Says {
        match (self.method, self.status) {
            (Says::Wrong, _) | (_, Says::Wrong) => Says::Wrong,
            (Says::Right, Says::Right) => Says::Right,
            (Says::Unknown | Says::Right, Says::Unknown | Says::Right) => Says::Unknown,
        }
    }
}

/// Something wrong, for people.
#[derive(Clone, Debug)]
pub struct Lie {
    /// In what: `method`, `status`, `outcome`, …
    pub what: Vec<&'static str>,
    /// The two calls.
    pub detail: String,
}

/// What the judgement of a replay found.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Verdicts of calls that exist.
    pub verdicts: Vec<Verdict>,
    /// Calls that do not exist, or were told twice.
    pub invented: usize,
    /// Everything wrong.
    pub lies: Vec<Lie>,
}

/// Judges everything that was said of a conversation.
#[must_use]
pub fn judge(conversation: &Conversation, watch: &Watch, view: View) -> Judgement {
    let mut judgement = Judgement::default();
    let mut streams = std::collections::HashSet::new();
    let mut numbers = std::collections::HashMap::new();
    for Reported { call, unaware } in &watch.calls {
        let reference = conversation.reference.get(&call.stream);
        let Some(reference) = reference.filter(|_| streams.insert(call.stream)) else {
            judgement.invented += 1;
            let what = vec!["invented"];
            judgement
                .lies
                .push(Lie { what, detail: format!("ours      {call:?}\n  reference {reference:?}") });
            continue;
        };
        let mut verdict = verdict(call, reference, watch.latest(), view);
        if let (Some(number), Some(method)) = (call.method_ref, &reference.method)
            && *numbers.entry(number).or_insert(method) != method
        {
            verdict.method = Says::Wrong;
            verdict.lies.push("method");
        }
        if *unaware {
            let before = verdict.lies.len();
            verdict.lies.retain(|lie| matches!(*lie, "method" | "status"));
            verdict.unaware = before - verdict.lies.len();
        }
        if !verdict.lies.is_empty() {
            let detail = format!("ours      {call:?}\n  reference {reference:?}");
            judgement.lies.push(Lie { what: verdict.lies.clone(), detail });
        }
        judgement.verdicts.push(verdict);
    }
    for exchange in &watch.exchanges {
        // What is not known to be gRPC is fine, what is said to be something else is not.
        let is_claim = exchange.protocol != Protocol::Unknown;
        if is_claim && conversation.reference.contains_key(&exchange.stream) {
            judgement.lies.push(Lie { what: vec!["protocol"], detail: format!("ours      {exchange:?}") });
        }
    }
    judgement
}

fn verdict(call: &Call, reference: &Call, latest: Timestamp, view: View) -> Verdict {
    let mut lies = Vec::new();
    let mut lie_if = |what: &'static str, is_lie: bool| {
        if is_lie {
            lies.push(what);
        }
    };
    let method = match (&call.method, &reference.method) {
        (None, _) | (_, None) => Says::Unknown,
        (Some(ours), Some(theirs)) if ours == theirs => Says::Right,
        (Some(_), Some(_)) => Says::Wrong,
    };
    lie_if("method", method == Says::Wrong);
    let claims = |call: &Call| !matches!(call.outcome, Outcome::Unknown | Outcome::Open);
    // The recording ends before the call does.
    let is_cut = call.outcome == Outcome::Open && reference.ended.is_none_or(|ended| ended >= latest);
    let status = match (call.status, reference.status) {
        (ours, theirs) if ours == theirs && (ours.is_some() || call.outcome == reference.outcome) => {
            Says::Right
        }
        (None, _) if is_cut => Says::Right,
        (None, _) => Says::Unknown,
        (Some(_), None) if !claims(reference) => Says::Unknown,
        (Some(_), _) => Says::Wrong,
    };
    lie_if("status", status == Says::Wrong);
    lie_if("outcome", claims(call) && claims(reference) && call.outcome != reference.outcome);
    let known = |timeout| timeout != Timeout::Unknown;
    lie_if("timeout", known(call.timeout) && known(reference.timeout) && call.timeout != reference.timeout);
    // What a client goes on to send after the end counts until the call is reported; here nothing follows.
    let may_go_on = call.ended.is_some_and(|ended| latest.since(ended) < Limits::default().ending_ns);
    let has_end = call.ended.is_some();
    lie_if("messages", !may_go_on && !fits(call.request, reference.request, has_end));
    lie_if("messages", !fits(call.response, reference.response, has_end));
    let http = call.http_status.zip(reference.http_status);
    lie_if("http_status", http.is_some_and(|(ours, theirs)| ours != theirs));
    lie_if("rst_code", claims(call) && call.rst_code.is_some() && call.rst_code != reference.rst_code);
    lie_if(
        "attempts",
        call.previous_attempts.is_some() && call.previous_attempts != reference.previous_attempts,
    );
    // Reassembly may hand bytes on later than they came; a packet that was swapped came a little earlier.
    let same_time = |ours: Option<Timestamp>, theirs: Option<Timestamp>| match (ours, theirs) {
        (Some(ours), Some(theirs)) if view == View::Packets => ours.plus(SWAPPED_WITHIN_NS) >= theirs,
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => true,
    };
    lie_if("start", !same_time(call.started, reference.started));
    lie_if("start", call.first_seen.plus(SWAPPED_WITHIN_NS) < reference.first_seen);
    lie_if("end", !same_time(call.ended, reference.ended));
    Verdict { method, status, lies, unaware: 0 }
}

/// A count that is exact is that of the reference, once the end was seen: what a client sends after an end that was
/// missed is not part of the call, but nobody can know that.
fn fits(ours: Messages, theirs: Messages, has_end: bool) -> bool {
    !(ours.exact && theirs.exact && has_end) || (ours.count, ours.bytes) == (theirs.count, theirs.bytes)
}
