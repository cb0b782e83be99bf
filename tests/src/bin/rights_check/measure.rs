//! Loads in children that hold some capabilities and no others.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use agent::capture::kernel::probe;
use agent::rights::Capability;
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Way;

/// What loading came to.
struct Tried {
    works: bool,
    said: String,
}

/// Prints a line for each attempt and one of JSON at the end.
pub(super) fn measure(ways: &[Way]) -> anyhow::Result<()> {
    let mut all: Vec<Value> = Vec::new();
    for way in ways {
        let needed = Capability::to_load(way.backend(), probe::restricts_perf_events());
        let mut sets = vec![("only what is needed".to_owned(), needed.to_vec())];
        let usual = Capability::to_load(way.backend(), false);
        if usual != needed {
            sets.push(("what is needed elsewhere".to_owned(), usual.to_vec()));
        }
        for missing in needed {
            let others = needed.iter().copied().filter(|one| one != missing).collect();
            sets.push((format!("without {}", missing.name()), others));
        }
        let names = [needed, &Capability::OF_NAMES].concat();
        sets.push(("and what reads names".to_owned(), names));
        let mut attempts: Vec<Value> = Vec::new();
        for (what, set) in &sets {
            attempts.push(attempt(*way, what, set, None)?);
        }
        // What a service gets by default, where maps count as locked memory (before 5.11).
        let limit = Some(64 << 10);
        attempts.push(attempt(*way, "only what is needed, 64 KiB of locked memory", needed, limit)?);
        let resource = [needed, &[Capability::SysResource]].concat();
        attempts.push(attempt(*way, "and SYS_RESOURCE, 64 KiB of locked memory", &resource, limit)?);
        all.push(json!({ "backend": way.backend().name(), "attempts": attempts }));
    }
    println!("{}", json!({ "rights": all }));
    Ok(())
}

fn attempt(way: Way, what: &str, set: &[Capability], locked: Option<u64>) -> anyhow::Result<Value> {
    let tried = load_with(way, set, locked)?;
    let name = way.backend().name();
    println!("{name}, {what}: {}: {}", if tried.works { "works" } else { "refused" }, tried.said);
    Ok(json!({ "what": what, "works": tried.works, "said": tried.said }))
}

fn load_with(way: Way, set: &[Capability], locked: Option<u64>) -> anyhow::Result<Tried> {
    let kept: u64 = set.iter().map(|capability| 1_u64 << number(*capability)).sum();
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(["load", "--backend", way.backend().name()]).env("RUST_BACKTRACE", "0");
    let restrict = move || restrict(kept, locked);
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(restrict) };
    let output = command.output().context("start a child")?;
    let said = if output.status.success() { output.stdout } else { output.stderr };
    let said = String::from_utf8_lossy(&said).lines().last().unwrap_or_default().to_owned();
    ensure!(output.status.code().is_some(), "the child was killed ({}): {said}", output.status);
    Ok(Tried { works: output.status.success(), said })
}

/// Root has after exec what the bounding set has.
fn restrict(kept: u64, locked: Option<u64>) -> io::Result<()> {
    if let Some(bytes) = locked {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: a valid limit.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for bit in (0..u64::BITS).filter(|bit| kept >> bit & 1 == 0) {
        // SAFETY: prctl with numbers touches no memory.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit), 0, 0, 0) };
        let error = io::Error::last_os_error();
        // Of numbers that it does not know the kernel says EINVAL.
        if result != 0 && error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    Ok(())
}

/// linux/capability.h.
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::DacReadSearch => 2,
        Capability::SysPtrace => 19,
        Capability::SysAdmin => 21,
        Capability::SysResource => 24,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
    }
}
