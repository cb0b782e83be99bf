//! `grpcscope check`: says what this kernel and these privileges allow.

use crate::cli::CaptureArgs;
use crate::config::Config;
use crate::exit::Failure;

/// Arguments of `check`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CheckArgs {
    /// How the kernel is watched.
    #[command(flatten)]
    pub capture: CaptureArgs,
}

/// Looks at the kernel and says what was found.
///
/// # Errors
/// Checking is not part of this build.
pub fn execute(_args: &CheckArgs, _config: &Config) -> Result<(), Failure> {
    Err(Failure::Runtime(anyhow::anyhow!("`check` is not part of this build; `replay` is")))
}
