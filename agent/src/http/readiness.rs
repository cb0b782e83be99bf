//! Whether the agent does its work, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Conditions that must all hold; each begins as not yet met.
#[derive(Debug)]
pub struct Readiness {
    conditions: Mutex<BTreeMap<&'static str, Result<(), String>>>,
}

impl Readiness {
    /// Waits for these conditions. Without any, it is ready.
    #[must_use]
    pub fn new(conditions: &[&'static str]) -> Self {
        let waiting = |name: &&'static str| (*name, Err("has not begun".to_owned()));
        Readiness { conditions: Mutex::new(conditions.iter().map(waiting).collect()) }
    }

    /// The condition holds.
    pub fn ready(&self, condition: &'static str) {
        self.set(condition, Ok(()));
    }

    /// The condition does not hold, for a reason.
    pub fn not_ready(&self, condition: &'static str, reason: impl Into<String>) {
        self.set(condition, Err(reason.into()));
    }

    fn set(&self, condition: &'static str, state: Result<(), String>) {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).insert(condition, state);
    }

    /// Every condition with its state, by name.
    #[must_use]
    pub fn conditions(&self) -> Vec<(&'static str, Result<(), String>)> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.iter().map(|(name, state)| (*name, state.clone())).collect()
    }

    /// All of them hold.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions().iter().all(|(_, state)| state.is_ok())
    }
}
