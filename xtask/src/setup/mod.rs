//! `cargo xtask setup`: installs what is missing, says what it does, and does nothing the second time.
//!
//! A need is a question (is it there?) and a remedy. Debian packages go where apt puts them, `bpf-linker` where
//! cargo puts programs, and everything else into the cache of the repository.

mod applications;
mod apt;
mod benches;
mod toolchain;
mod vm;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::kernels::Arch;

/// What to set up.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Set up only what this needs; may be given several times.
    #[arg(long = "for", value_enum, default_values_t = [Purpose::All])]
    purposes: Vec<Purpose>,
}

/// What the set-up is for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Building the agent and its kernel object.
    Builds,
    /// The applications that the live tests watch, and what scrapes and checks.
    Tests,
    /// Debian's kernels, and qemu to boot them.
    Kernels,
    /// The peers of the benches; not a part of `all`.
    Benches,
    /// What records traffic for mutations; not a part of `all`.
    Recordings,
    All,
}

/// One thing that has to be on the machine.
trait Need {
    /// The name in the log.
    fn name(&self) -> String;
    /// What is there already, in a few words, or `None` if it has to be installed.
    fn present(&self) -> Result<Option<String>>;
    /// Installs it.
    fn install(&self) -> Result<()>;
}

/// Runs `cargo xtask setup`.
pub(crate) fn run(args: &Args) -> Result<()> {
    set_up(&args.purposes)
}

/// Makes everything present that the purposes need, and says so.
pub(crate) fn set_up(purposes: &[Purpose]) -> Result<()> {
    let started = Instant::now();
    let is_for = |purpose| purposes.contains(&Purpose::All) || purposes.contains(&purpose);
    let mut needs = Vec::new();
    // The applications of the tests are put there by a program of the tests, which has to be built first.
    if is_for(Purpose::Builds) || is_for(Purpose::Tests) {
        needs.extend(toolchain::needs());
    }
    if is_for(Purpose::Kernels) {
        needs.extend(vm::needs());
    }
    if is_for(Purpose::Tests) {
        needs.push(benches::counter());
    }
    if purposes.contains(&Purpose::Benches) {
        needs.extend(benches::peers());
    }

    if purposes.contains(&Purpose::Recordings) {
        needs.push(benches::recorder());
    }

    let mut installed = 0;
    let mut missing = Vec::new();
    for need in needs {
        match provide(need.as_ref()) {
            Ok(true) => installed += 1,
            Ok(false) => {}
            Err(error) => {
                eprintln!("setup: {}: NOT installed: {error:#}", need.name());
                missing.push(need.name());
            }
        }
    }
    if is_for(Purpose::Tests)
        && missing.is_empty()
        && let Err(error) = applications::provision()
    {
        eprintln!("setup: {error:#}");
        missing.push("applications of the tests".into());
    }
    if !missing.is_empty() {
        bail!("set-up is not complete, still missing: {}", missing.join(", "));
    }
    eprintln!("setup: complete, {installed} installed ({:.1} s)", started.elapsed().as_secs_f32());
    Ok(())
}

/// Makes everything present that booting kernels of an architecture needs, but for the kernels; says only what is installed.
pub(crate) fn set_up_machine(arch: Arch) -> Result<()> {
    for need in vm::needs_of(arch) {
        if need.present()?.is_none() {
            provide(need.as_ref())?;
        }
    }
    Ok(())
}

/// Whether something had to be installed.
fn provide(need: &dyn Need) -> Result<bool> {
    if let Some(found) = need.present()? {
        eprintln!("setup: {}: {found}", need.name());
        return Ok(false);
    }
    eprintln!("setup: {}: installing", need.name());
    need.install()?;
    let found = need.present()?.context("still not found after its installation")?;
    eprintln!("setup: {}: {found}", need.name());
    Ok(true)
}
