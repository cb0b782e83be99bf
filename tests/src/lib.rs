//! Real processes, a real kernel, a real scrape: what the live tests are made of.
//!
//! The modules follow the way of a test: where things are, what is provisioned, what the clients shall do, what
//! the applications say that they did, the processes.

pub mod agent;
pub mod apps;
pub mod captured;
pub mod busy;
pub mod compare;
pub mod http;
pub mod kernel_objects;
pub mod observed;
pub mod peer;
pub mod plan;
pub mod process;
pub mod prometheus;
pub mod promql;
pub mod provision;
pub mod traffic;
pub mod truth;
pub mod workspace;
