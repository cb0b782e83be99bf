//! What hostile traffic cannot do to the core; docs/threats.md lists the threats by their numbers.
//!
//! Memory is what the allocator of this program has handed out (`memory.rs`), so that the figures are the same in
//! each run. Time is processor time of the thread, and only compared with itself: the end of a flood may not cost more
//! than its beginning. What a frame takes is measured by `cargo xtask bench floods`.

mod corpora;
mod disorder;
mod floods;
mod load;
mod memory;
mod processor;
mod wire;

#[global_allocator]
static ALLOCATOR: memory::Counted = memory::Counted;
