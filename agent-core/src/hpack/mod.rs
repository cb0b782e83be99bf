//! HPACK (RFC 7541): header blocks in, fields out, for an observer that may have joined late.
//!
//! One [`Decoder`] a direction of a connection. It is given every header block of that direction in wire
//! order (also those of streams that nobody cares about: each may change the dynamic table), reports their
//! fields, and says [`Text::Unknown`] for what was inserted before it joined or inside a gap. It never
//! guesses: what it reports as known is what a decoder that saw everything would have said.
//!
//! It does not reassemble header blocks from frames, and does not judge header lists (RFC 9113 §8).
//!
//! # Joining late
//!
//! A reference counts from the newest entry (RFC 7541 §2.3.3), so what it means does not depend on what is
//! at the old end of the table. After `n` insertions since the join, index 61 + k is the k-th newest of them if
//! k ≤ n, and the (k - n)-th newest of those from before if k is larger: exact in both cases. Evictions, size
//! updates and oversize entries only ever remove entries from the old end, and an encoder never refers to
//! what is gone. Hence an observer that does not know the encoder's table size cannot say which
//! entries are gone, but it does know what each index that is used refers to. Only a gap that may have held
//! insertions breaks the count: [`Decoder::start_epoch`] then makes everything unknown again.

mod integer;
mod huffman_code;
mod huffman;
mod static_table;
mod table;
mod decoder;
mod saved;
mod error;

pub use decoder::{BlockInfo, Decoder, Field, ListLimits, NameKind, Text};
pub use error::HpackError;
pub use saved::{SavedEntry, SavedName, SavedTable};
pub use table::EntryId;
