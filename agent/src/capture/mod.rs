//! Where bytes come from.

pub mod kernel;
