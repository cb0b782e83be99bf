//! Where byte streams come from: the kernel of this machine, or a recording.

pub mod recording;
