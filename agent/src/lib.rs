//! The agent: reads what the kernel side captured, runs the core, publishes what was understood.

pub mod http;
pub mod identity;
pub mod metrics;
