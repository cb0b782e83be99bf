//! What rights the agent needs and what it keeps, by trying: `measure` takes capabilities away, one at a time; `load` does what
//! the agent does up to the moment in which it has given its rights up; `breach` does then what it may not do, or has to.
//!
//! It runs where nothing else is, in an emulated machine: `cargo xtask kernels --program target/debug/rights_check -- measure`.

mod breach;
mod measure;

use agent::capture::kernel::{Backend, BackendChoice, Blind, KernelCapture, LoopChoice, Options};
use agent::rights::{self, LoadingRights, RightsConfig};
use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Load and attach, give up rights, and print what is kept.
    Load {
        #[arg(long, value_enum)]
        backend: Way,
        #[arg(long)]
        user: Option<u32>,
    },
    /// Load the best way of capture, give up rights, and change to another one as if the first had proved blind.
    Change,
    /// Load with the smallest set of capabilities, and with each of them missing, and print what came of it.
    Measure {
        #[arg(long = "backend", value_enum, default_values_t = [Way::Fexit, Way::TpBtf])]
        backends: Vec<Way>,
    },
    /// Give up rights and do something.
    Breach {
        #[arg(value_enum)]
        what: breach::Deed,
    },
}

/// A way of capture.
#[derive(Clone, Copy, ValueEnum)]
enum Way {
    #[value(name = "tp_btf")]
    TpBtf,
    #[value(name = "fexit")]
    Fexit,
    #[value(name = "kprobe")]
    Kprobe,
}

impl Way {
    fn backend(self) -> Backend {
        match self {
            Way::TpBtf => Backend::TpBtf,
            Way::Fexit => Backend::Fexit,
            Way::Kprobe => Backend::Kprobe,
        }
    }
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().role {
        Role::Load { backend, user } => load(backend, user),
        Role::Change => change(),
        Role::Measure { backends } => measure::measure(&backends),
        Role::Breach { what } => breach::commit(what),
    }
}

fn options(backend: BackendChoice) -> Options {
    Options {
        ring_bytes: 256 << 10,
        backend,
        loops: LoopChoice::Auto,
        ignored_pid: None,
        ..Options::default()
    }
}

fn load(way: Way, user: Option<u32>) -> anyhow::Result<()> {
    let capture = KernelCapture::start(&options(BackendChoice::Only(way.backend())))?;
    let read = || capture.counters().map(drop);
    let config = RightsConfig { user, ..RightsConfig::default() };
    let dropped = rights::give_up(config, capture.later(), &read).context("give up rights")?;
    capture.counters().context("read what is attached, afterwards")?;
    println!("{}", json!({ "backend": way.backend().name(), "kept": dropped.kept, "user": dropped.user }));
    Ok(())
}

fn change() -> anyhow::Result<()> {
    let mut capture = KernelCapture::start(&options(BackendChoice::Auto))?;
    let from = capture.backend();
    let read = || capture.counters().map(drop);
    let dropped =
        rights::give_up(RightsConfig::default(), capture.later(), &read).context("give up rights")?;
    let rights = LoadingRights::take()?;
    let changed = capture.change(&Blind { missed: 1_000, records: 1_000 }, &mut |_| {})?;
    rights.give_back(capture.later())?;
    capture.counters().context("read what is attached, afterwards")?;
    let to = capture.backend();
    println!(
        "{}",
        json!({ "from": from.name(), "to": to.name(), "changed": changed, "set_aside": dropped.set_aside, "reason": capture.reason() })
    );
    Ok(())
}
