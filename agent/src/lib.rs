//! The agent: loads, attaches, reads, runs the core, publishes, and the commands around that.
//!
//! The modules stand in the order in which the data flows; what follows them is the frame: settings, logs,
//! exit codes and the commands.

pub mod capture;
pub mod rights;
pub mod identity;
mod own_process;
pub mod budget;
pub mod pipeline;
pub mod restart;
pub mod findings;
pub mod metrics;
pub mod http;
pub mod output;
pub mod config;
pub mod logging;
pub mod exit;
pub mod cli;
pub mod commands;
