//! What the agent may do: the least that loading needs, and after it almost nothing.
//!
//! loading (`capability`: what each way of capture needs) → [`give_up`] → capabilities dropped (`drop`) → the list of
//! system calls (`system_calls`), whose breach ends the process with one clear line (`violation`).
//!
//! The figures behind it are in `docs/kernel-support.md`, and tests hold them: each capability was taken away alone, and
//! the list is what the commands call, from the first line that they print to the last.

mod capability;
mod drop;
mod system_calls;
mod violation;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

pub use capability::{Capability, Held, kubernetes};
pub use drop::{Dropped, LoadingRights};

/// What is given up once the kernel programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RightsConfig {
    /// User and group, by the same number, to go on as; nothing if the agent stays who it is.
    pub user: Option<u32>,
    /// What happens at a system call that is not on the list.
    pub system_calls: SystemCalls,
}

/// What happens at a system call that is not on the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum SystemCalls {
    /// The process ends with a line that names the call. An error instead would go unseen: files that are not read are names
    /// that are missing, and nobody asks why.
    #[default]
    Kill,
    /// It is made, and the kernel's audit log has it: to find out what a strange C library calls.
    Log,
    /// There is no list.
    Any,
}

/// What is done later and takes more than reading does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Later {
    /// Another way of capture may have to be loaded: what that takes is set aside and not in force, and the list of system calls
    /// has it.
    pub change: bool,
    /// It may have to be kprobes, where perf events are restricted: that takes `CAP_SYS_ADMIN`, which is set aside too if it is
    /// held.
    pub restricted_kprobes: bool,
    /// A file is written for the next agent, and one of the last removed. The list knows no paths.
    pub keep_file: bool,
}

/// Gives up everything that the running agent does not need, for good. `works` says whether what was attached can be read
/// still: kernels before 5.19 may ask for a capability even for that, and so it is found out.
///
/// Threads of their own would keep what they have, so it is called before there is a second one.
///
/// # Errors
/// There are other threads already, or the kernel refuses what it refuses to nobody.
pub fn give_up(config: RightsConfig, later: Later, works: &dyn Fn() -> Result<()>) -> Result<Dropped> {
    ensure!(threads() <= 1, "rights are given up before the first thread is started");
    let dropped = drop::everything_but_names(config.user, later, works).context("drop capabilities")?;
    system_calls::restrict(config.system_calls, later).context("restrict system calls")?;
    works().context("read what is attached, with what rights are left")?;
    Ok(dropped)
}

fn threads() -> usize {
    // One that cannot be counted is not there: without /proc nothing works anyway.
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}
