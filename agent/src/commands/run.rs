//! `grpcscope run`: watches this node and serves metrics.

use crate::cli::{CaptureArgs, ListenArgs};
use crate::config::Config;
use crate::exit::Failure;

/// Arguments of `run`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunArgs {
    /// What is served.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// How the kernel is watched.
    #[command(flatten)]
    pub capture: CaptureArgs,
}

/// Watches until a signal asks for the end.
///
/// # Errors
/// Watching is not part of this build.
pub fn execute(_args: &RunArgs, _config: &Config) -> Result<(), Failure> {
    Err(Failure::Runtime(anyhow::anyhow!("`run` is not part of this build; `replay` is")))
}
