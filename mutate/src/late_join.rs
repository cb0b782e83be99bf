//! What a join in the middle leaves: of the calls that start after a third of a conversation, the share whose
//! method and whose status are known to an observer that joined there.

use std::collections::BTreeMap;

use agent_core::{Chunk, ConnectionId, Timestamp};
use serde_json::{Value, json};

use crate::plan::View;
use crate::recording::{Conversation, Step};
use crate::replay::Watch;
use crate::verdict::{Judgement, Says, judge};

/// Calls after late joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AfterLateJoin {
    /// Calls of the reference that start after the join.
    pub calls: u64,
    /// They were reported.
    pub reported: u64,
    /// Their method is known.
    pub method: u64,
    /// Their method is known, or they can be told from those of other methods by a number.
    pub grouped: u64,
    /// Their status is known.
    pub status: u64,
}

impl AfterLateJoin {
    /// Joins a conversation after a third of its calls, and judges what is said of the rest.
    #[must_use]
    pub fn measure(conversation: &Conversation) -> (AfterLateJoin, Judgement) {
        let mut starts: Vec<Timestamp> =
            conversation.reference.values().map(|call| call.started.unwrap_or(call.first_seen)).collect();
        starts.sort_unstable();
        let join = starts.get(starts.len() / 3).copied().unwrap_or_default();
        let mut watch = Watch::default();
        for step in conversation.steps.iter().filter(|step| step.time() >= join) {
            let connection = ConnectionId(0);
            match step {
                Step::Bytes { flow, offset, at, time } => watch.handle_chunk(Chunk {
                    connection,
                    flow: *flow,
                    offset: *offset,
                    time: *time,
                    boundary: false,
                    thread: 0,
                    bytes: conversation.bytes(*flow, at),
                }),
                Step::Closed(time) => watch.handle_close(connection, *time),
                Step::Ended(time) => watch.handle_end(connection, *time),
            }
            watch.handle_time(step.time());
        }
        let watch = watch.finish();
        let judgement = judge(conversation, &watch, View::Bytes);
        let mut counts = AfterLateJoin {
            calls: starts.iter().filter(|start| **start >= join).count() as u64,
            ..AfterLateJoin::default()
        };
        let calls = watch.calls.iter().map(|reported| &reported.call);
        let existing = calls.filter(|call| conversation.reference.contains_key(&call.stream));
        for (call, verdict) in existing.zip(&judgement.verdicts) {
            let reference = &conversation.reference[&call.stream];
            if reference.started.unwrap_or(reference.first_seen) >= join {
                counts.reported += 1;
                counts.method += u64::from(verdict.method == Says::Right);
                counts.grouped += u64::from(verdict.method == Says::Right || call.method_ref.is_some());
                counts.status += u64::from(verdict.status == Says::Right);
            }
        }
        (counts, judgement)
    }

    /// Adds another measurement.
    pub fn add(&mut self, other: AfterLateJoin) {
        self.calls += other.calls;
        self.reported += other.reported;
        self.method += other.method;
        self.grouped += other.grouped;
        self.status += other.status;
    }

    /// A line of a table.
    #[must_use]
    pub fn row(&self, client: &str) -> String {
        let percent = |part: u64| share(part, self.calls) * 100.0;
        format!(
            "{client:<22} {:>8} {:>9.1}% {:>7.1}% {:>9.1}% {:>7.1}%",
            self.calls,
            percent(self.reported),
            percent(self.method),
            percent(self.grouped),
            percent(self.status)
        )
    }

    fn json(&self) -> Value {
        json!({
            "calls": self.calls,
            "reported": share(self.reported, self.calls),
            "method": share(self.method, self.calls),
            "method_or_number": share(self.grouped, self.calls),
            "status": share(self.status, self.calls),
        })
    }
}

/// The head of a table of [`AfterLateJoin::row`]s.
#[must_use]
pub fn head() -> String {
    format!(
        "{:<22} {:>8} {:>10} {:>8} {:>10} {:>8}",
        "joined at a third", "calls", "reported", "method", "or number", "status"
    )
}

/// The measurements of all clients as JSON.
#[must_use]
pub fn json(by_client: &BTreeMap<String, AfterLateJoin>) -> Value {
    by_client.iter().map(|(client, counts)| (client.clone(), counts.json())).collect()
}

/// A share to four places.
#[must_use]
pub fn share(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64 * 10_000.0).round() / 10_000.0
}
