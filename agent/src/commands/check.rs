//! `grpcscope check`: says what this kernel and these privileges allow, and what to do about the rest.

use std::io::{self, Write};

use anyhow::Context;

use crate::capture::kernel::{KernelCapture, preemption, probe};
use crate::cli::CaptureArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::pipeline;

/// Arguments of `check`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CheckArgs {
    /// How the kernel is watched.
    #[command(flatten)]
    pub capture: CaptureArgs,
}

/// Looks at the kernel, tries each backend, and says what was found. Nothing stays attached.
///
/// # Errors
/// A permission is missing, or nothing works here; the text says what would help.
pub fn execute(_args: &CheckArgs, config: &Config) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let mut say =
        |name: &str, text: &str| writeln!(out, "{name:<13} {text}").context("write to the standard output");
    say("kernel", &probe::kernel_release())?;
    let btf = if probe::has_btf() {
        format!("yes, {}", probe::BTF_PATH)
    } else {
        format!("no: {} is missing; a kernel with CONFIG_DEBUG_INFO_BTF is needed", probe::BTF_PATH)
    };
    say("BTF", &btf)?;
    let (preemption, source) = preemption::of_this_kernel();
    say("preemption", &format!("{} ({source})", preemption.name()))?;
    if let Err(error) = probe::privileges() {
        say("privileges", &format!("{error:#}"))?;
        return Err(Failure::NoPermission("the kernel cannot be watched: permissions are missing".into()));
    }
    say("privileges", "enough to load and attach")?;
    probe::raise_memory_limit();
    for backend in probe::backends() {
        match backend.result {
            Ok(_) => say(backend.name, "works")?,
            Err(error) => say(backend.name, &format!("does not work: {}", one_line(&error)))?,
        }
    }
    let capture = KernelCapture::start(&pipeline::capture_options(&config.capture)).map_err(|error| {
        anyhow::anyhow!("the kernel cannot be watched: {}", one_line(&format!("{error:#}")))
    })?;
    say("chosen", &format!("{}: {}", capture.backend().name(), capture.reason()))?;
    for program in capture.programs() {
        let verified =
            program.verified.map_or_else(|| "loaded".to_owned(), |n| format!("{n} instructions verified"));
        say("program", &format!("{}: {verified}", program.name))?;
    }
    Ok(())
}

/// Verifier logs have many lines; the last one says what is wrong.
fn one_line(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match (lines.pop(), lines.first()) {
        (Some(last), Some(first)) => format!("{first} … {last}"),
        (Some(only), None) => only.to_owned(),
        (None, _) => String::new(),
    }
}
