//! Where bytes come from: the kernel, or a recording.

pub mod kernel;
pub mod recording;
