//! The command line: what was typed, and which command it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::commands::calls::CallsArgs;
use crate::commands::check::CheckArgs;
use crate::commands::explain::ExplainArgs;
use crate::commands::findings::FindingsArgs;
use crate::commands::replay::ReplayArgs;
use crate::commands::run::RunArgs;
use crate::commands::{calls, check, explain, findings, replay, run};
use crate::config::values::{ByteSize, Cpu, LogFilter};
use crate::config::{Backend, Config, FlagLayer, LogFormat};
use crate::exit::Failure;
use crate::logging;
use crate::output::terminal::ColorChoice;

const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nlicense: ",
    env!("CARGO_PKG_LICENSE"),
    "\nminimum rust: ",
    env!("CARGO_PKG_RUST_VERSION"),
);

const AFTER_HELP: &str = "Settings come from flags, then the environment (GRPCSCOPE_SECTION_KEY, for example \
    GRPCSCOPE_HTTP_LISTEN), then the configuration file, then defaults.\n\n\
    Exit codes: 0 done, 1 it failed while it ran, 2 wrong command line, 77 a permission is missing, \
    78 wrong configuration, 130 and 143 stopped by a signal.";

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "grpcscope",
    about = "Watches the gRPC of every process on a Linux node without touching any of them",
    version,
    long_version = LONG_VERSION,
    after_long_help = AFTER_HELP,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Flags of all commands.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// Configuration file (YAML) [default: /etc/grpcscope/config.yaml if it is there]
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print the settings as they were resolved, and end
    #[arg(long, global = true)]
    print_config: bool,

    /// Log more: -v debug, -vv trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with_all = ["quiet", "log_level"])]
    verbose: u8,

    /// Log errors only
    #[arg(short, long, global = true, conflicts_with = "log_level")]
    quiet: bool,

    /// error, warn, info, debug, trace, or a filter like info,agent=debug
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LogFilter>,

    /// Form of the log, which goes to the standard error
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// When to colour [default: auto]
    #[arg(long, global = true, value_name = "WHEN")]
    color: Option<ColorChoice>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch this node and serve metrics
    Run(RunArgs),
    /// Say what this kernel and these privileges allow, and what to do about the rest
    Check(CheckArgs),
    /// Show a line for each call as it ends
    Calls(CallsArgs),
    /// Show what is wrong on this node, as the running agent knows it or, with --live, as it is found
    Findings(FindingsArgs),
    /// Say what a finding means, why it hurts, and what to change
    Explain(ExplainArgs),
    /// Show the gRPC of recordings (pcap, pcapng); needs no privileges
    Replay(ReplayArgs),
}

/// Flags of the commands that watch the kernel.
#[derive(Clone, Debug, Default, Args)]
pub struct CaptureArgs {
    /// How socket calls are seen
    #[arg(long, value_name = "BACKEND")]
    pub capture: Option<Backend>,

    /// User and group to go on as once the kernel programs are attached
    #[arg(long, value_name = "UID")]
    pub user: Option<u32>,
}

/// Flags of `run` about what it may take.
#[derive(Clone, Debug, Default, Args)]
pub struct BudgetArgs {
    /// CPU on average over five seconds, like 500m or 0.5: over it new connections are not followed
    #[arg(long, value_name = "CPU")]
    pub max_cpu: Option<Cpu>,

    /// Memory, like 192MiB: over it new connections are not followed
    #[arg(long, value_name = "SIZE")]
    pub max_memory: Option<ByteSize>,
}

/// Flags of the commands that serve.
#[derive(Clone, Debug, Default, Args)]
pub struct ListenArgs {
    /// Address of /metrics, /healthz and /readyz [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

/// Parses the command line of this process, runs the command and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` are errors of this kind too, with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    let config = Config::resolve(&cli.flag_layer(), &|name| std::env::var_os(name))?;
    if cli.global.print_config {
        print!("{}", config.to_yaml()?);
        return Ok(());
    }
    logging::start(&config.log)?;
    match &cli.command {
        Command::Run(args) => run::execute(args, &config),
        Command::Check(args) => check::execute(args, &config),
        Command::Findings(args) => findings::execute(args, &config),
        Command::Explain(args) => explain::execute(args, &config),
        Command::Calls(args) => calls::execute(args, &config),
        Command::Replay(args) => replay::execute(args, &config),
    }
}

impl Cli {
    fn flag_layer(&self) -> FlagLayer {
        let global = &self.global;
        let level = match (global.quiet, global.verbose) {
            (true, _) => Some("error"),
            (false, 0) => None,
            (false, 1) => Some("debug"),
            (false, _) => Some("trace"),
        };
        let (listen, capture) = match &self.command {
            Command::Run(args) => (args.listen.listen, Some(&args.capture)),
            Command::Check(args) => (None, Some(&args.capture)),
            Command::Calls(args) => (None, Some(&args.capture)),
            Command::Findings(args) => (None, Some(&args.capture)),
            Command::Explain(_) | Command::Replay(_) => (None, None),
        };
        let budget = match &self.command {
            Command::Run(args) => Some(&args.budget),
            Command::Check(_)
            | Command::Calls(_)
            | Command::Findings(_)
            | Command::Explain(_)
            | Command::Replay(_) => None,
        };
        FlagLayer {
            max_cpu: budget.and_then(|budget| budget.max_cpu),
            max_memory: budget.and_then(|budget| budget.max_memory),
            file: global.config.clone(),
            listen,
            backend: capture.and_then(|capture| capture.capture),
            shards: if let Command::Run(args) = &self.command { args.shards } else { None },
            user: capture.and_then(|capture| capture.user),
            log_level: global.log_level.clone().or_else(|| level.and_then(|level| level.parse().ok())),
            log_format: global.log_format,
            color: global.color,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn verbosity_flags_become_levels_and_an_explicit_level_stands_alone() {
        let level = |args: &[&str]| {
            let args = [&["grpcscope", "check"], args].concat();
            Cli::try_parse_from(args).map(|cli| cli.flag_layer().log_level.map(|level| level.to_string()))
        };
        assert_eq!(level(&[]).expect("fine"), None);
        assert_eq!(level(&["-q"]).expect("fine").as_deref(), Some("error"));
        assert_eq!(level(&["-v"]).expect("fine").as_deref(), Some("debug"));
        assert_eq!(level(&["-vv"]).expect("fine").as_deref(), Some("trace"));
        assert_eq!(level(&["--log-level", "warn"]).expect("fine").as_deref(), Some("warn"));
        assert!(level(&["-v", "-q"]).is_err());
        assert!(level(&["--log-level", "inof"]).is_err());
    }
}
