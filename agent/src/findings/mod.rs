//! What was found, as people and machines read it: a bounded list of what the detectors say, and each in words.
//!
//! In: [`Finding`](agent_core::detectors::Finding)s with whom they are about. Out: [`Answer`]s for the API, [`Entry`]s for lines.

mod entry;
pub mod explain;
mod list;
pub mod query;
mod recent;

pub use entry::{About, Answer, Entry, Example, Undecided, seconds_of};
pub use list::{Filter, Findings};

#[cfg(test)]
mod tests;
