//! What people and machines read: calls, connections, frames and sums, as lines of text or of JSON.
//!
//! Used by `replay` and by `calls`. Everything that comes from the wire passes [`escape`] or [`json`] on its way.

pub mod call;
pub mod escape;
pub mod findings;
pub mod json;
pub mod frames;
pub mod table;
pub mod terminal;
pub mod units;
