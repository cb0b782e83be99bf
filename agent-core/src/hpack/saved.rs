//! A dynamic table outside of its decoder: what is known at one place of a flow, to go on from that place later.

use serde::{Deserialize, Serialize};

/// The state of a [`Decoder`](super::Decoder) between two header blocks.
///
/// Of values it has those that the decoder had kept ([`Decoder::decode_known`](super::Decoder::decode_known)): what
/// nobody wanted is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTable {
    /// The encoder's table is at most this large, in bytes (RFC 7541 §4.2).
    pub maximum: u32,
    /// The encoder has not said so: it is the largest that it may have chosen.
    pub is_maximum_assumed: bool,
    /// Slots older than `entries` may be alive.
    pub has_older: bool,
    /// Runs without gaps before this one.
    pub epoch: u32,
    /// Insertions in this run.
    pub inserted: i64,
    /// What is known, the oldest entry first.
    pub entries: Vec<SavedEntry>,
}

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedEntry {
    /// Its name.
    pub name: SavedName,
    /// Octets of its value.
    pub value_bytes: u32,
    /// Its value, if it was wanted.
    pub value: Option<Box<[u8]>>,
}

/// The name of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedName {
    /// That of an entry of the static table.
    Static(u8),
    /// Its octets.
    Octets(Box<[u8]>),
    /// That of the entry with this ordinal, which is not known.
    Unknown(i64),
}
