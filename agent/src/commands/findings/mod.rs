//! `grpcscope findings`: what is wrong on this node, as the running agent knows it or as it is found.

mod ask;
mod links;
mod live;

use agent_core::detectors::{Name, Verdict};
use axum::http::Uri;

use crate::cli::CaptureArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::findings::{Filter, query};

/// Arguments of `findings`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FindingsArgs {
    /// Watch, and print each finding when it is made, instead of asking the running agent
    #[arg(long)]
    pub live: bool,

    /// The running agent's address [default: that of http.listen]
    #[arg(long, value_name = "URL", conflicts_with = "live")]
    pub from: Option<Uri>,

    /// Only this finding: deadline_missing, flow_control_stall, …
    #[arg(long, value_name = "NAME", value_parser = query::name)]
    pub finding: Option<Name>,

    /// Only what is found on this workload
    #[arg(long, value_name = "NAME")]
    pub service_name: Option<String>,

    /// firing, quiet or undecided
    #[arg(long, value_name = "VERDICT", value_parser = query::verdict)]
    pub verdict: Option<Verdict>,

    /// Print also what each call that a process makes belongs to: which call that it serves, and how that is known
    #[arg(long, requires = "live")]
    pub links: bool,

    /// Print JSON: the agent's answer, or with --live one object a line
    #[arg(long)]
    pub json: bool,

    /// How the kernel is watched, with --live.
    #[command(flatten)]
    pub capture: CaptureArgs,
}

impl FindingsArgs {
    fn filter(&self) -> Filter {
        Filter { finding: self.finding, service_name: self.service_name.clone(), verdict: self.verdict }
    }
}

/// Shows findings.
///
/// # Errors
/// No agent answers; with `--live` a permission is missing, the kernel cannot be watched, or a signal came.
pub fn execute(args: &FindingsArgs, config: &Config) -> Result<(), Failure> {
    if args.live { live::execute(args, config) } else { ask::execute(args, config) }
}
