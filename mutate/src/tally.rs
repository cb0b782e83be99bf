//! Adds up judgements: by client, by mutation, and in all.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::verdict::{Judgement, Says};

/// What was said in some replays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Replays.
    pub replays: u64,
    /// Calls whose method and status are right.
    pub right: u64,
    /// Calls of which one of them, or both, are not known.
    pub unknown: u64,
    /// Calls whose method or status is something else.
    pub wrong: u64,
    /// Calls that do not exist.
    pub invented: u64,
    /// False claims of other things, by what they are about.
    pub other_lies: BTreeMap<&'static str, u64>,
    /// Claims that were false because of a loss that nothing had told of yet.
    pub before_loss_was_told: u64,
    /// Calls whose method is right.
    pub method_right: u64,
    /// Calls whose status is right.
    pub status_right: u64,
}

impl Tally {
    /// Takes the judgement of one replay.
    pub fn add(&mut self, judgement: &Judgement) {
        self.replays += 1;
        self.invented += judgement.invented as u64;
        for verdict in &judgement.verdicts {
            match verdict.method_and_status() {
                Says::Right => self.right += 1,
                Says::Unknown => self.unknown += 1,
                Says::Wrong => self.wrong += 1,
            }
            self.before_loss_was_told += verdict.unaware as u64;
            self.method_right += u64::from(verdict.method == Says::Right);
            self.status_right += u64::from(verdict.status == Says::Right);
        }
        for lie in &judgement.lies {
            for what in &lie.what {
                if !matches!(*what, "method" | "status" | "invented") {
                    *self.other_lies.entry(what).or_default() += 1;
                }
            }
        }
    }

    /// Calls that were judged.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.right + self.unknown + self.wrong
    }

    /// Everything false that was said.
    #[must_use]
    pub fn lies(&self) -> u64 {
        self.wrong + self.invented + self.other_lies.values().sum::<u64>()
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Map<String, Value> {
        let lies = |what: &str| self.other_lies.get(what).copied().unwrap_or(0);
        let others: u64 = self.other_lies.values().sum::<u64>() - lies("outcome") - lies("messages");
        let value = json!({
            "replays": self.replays,
            "calls": self.calls(),
            "right": self.right,
            "unknown": self.unknown,
            "wrong": self.wrong,
            "invented": self.invented,
            "wrong_outcome": lies("outcome"),
            "wrong_messages": lies("messages"),
            "wrong_other": others,
            "false_before_loss_was_told": self.before_loss_was_told,
        });
        let Value::Object(map) = value else { return Map::new() };
        map
    }

    /// A line of a table.
    #[must_use]
    pub fn row(&self, name: &str) -> String {
        let percent = |part: u64| part as f64 * 100.0 / self.calls().max(1) as f64;
        format!(
            "{name:<22} {:>8} {:>10} {:>7.1}% {:>7.1}% {:>7.1}% {:>6} {:>8} {:>7}",
            self.replays,
            self.calls(),
            percent(self.right),
            percent(self.method_right),
            percent(self.status_right),
            self.wrong,
            self.invented,
            self.other_lies.values().sum::<u64>(),
        )
    }
}

/// The head of a table of [`Tally::row`]s.
#[must_use]
pub fn head(what: &str) -> String {
    format!(
        "{what:<22} {:>8} {:>10} {:>8} {:>8} {:>8} {:>6} {:>8} {:>7}",
        "replays", "calls", "right", "method", "status", "wrong", "invented", "others"
    )
}
