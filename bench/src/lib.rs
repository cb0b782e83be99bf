//! What the benchmarks share: the blocks that are decoded, the peers that decode them, and a count of allocations.

pub mod nghttp2;
pub mod blocks;
pub mod decoders;
pub mod allocations;
