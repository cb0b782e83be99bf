//! The demo's tonic in those scenarios that other implementations of gRPC play, too (`tests/apps/README.md` has the command line,
//! the methods and what their text asks for): one program that is the caller, a hop, or the callee.
//!
//! It plays what belongs to connections and to load. Its calls have generous deadlines, so nothing is to be found of these.

mod callee;
mod next;

mod caller;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use clap::Args;

use crate::Common;
use crate::ledger::Ledger;

/// All methods are below it.
const SERVICE: &str = "scenario.v1.Hop";
/// The one that is called where the name says nothing.
const GET: &str = "/scenario.v1.Hop/Get";
/// Streams that a server allows, and calls that are made at once.
const LIMIT: u32 = 10;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Scenario {
    /// The caller takes the first of the addresses for all calls.
    Pinned,
    /// Nothing: the caller takes all addresses in turn.
    Balanced,
    /// The caller calls once, and then no more.
    ScaleUp,
    /// More calls at once than the server allows streams.
    StreamLimit,
    /// The client's keepalive asks more often than a server allows; tonic's server does not mind.
    TooManyPings,
    /// The server ends connections at an age.
    MaxConnectionAge,
    /// The client tries again, and most calls need it.
    RetryStorm,
    /// Nothing: numbered calls over a hop.
    Chain,
}

/// Options of `hop`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to do.
    #[arg(long)]
    scenario: Scenario,
    /// Serve: as the callee, or with `--next` as a hop.
    #[arg(long)]
    serve: bool,
    /// Whom to call: ADDRESS:PORT, several with commas between them.
    #[arg(long, required_unless_present = "serve")]
    next: Option<String>,
    /// The callee's name in what the caller writes down for it.
    #[arg(long, default_value = "callee")]
    callee: String,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    common: Common,
}

/// The load of a caller.
#[derive(Debug, Args)]
struct Load {
    /// So many calls, each with its number for a method.
    #[arg(long)]
    calls: Option<usize>,
    /// After so many the numbers begin again.
    #[arg(long)]
    methods: Option<usize>,
    /// Or calls for so long.
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// Calls a second, if not as many as there can be.
    #[arg(long)]
    rate: Option<f64>,
    /// Calls at once.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// Calls belong to no trace.
    #[arg(long)]
    no_trace: bool,
}

/// Plays its part.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let next = options.next.as_deref().map(|next| next::Next::of(options.scenario, next)).transpose()?;
    match (options.serve, next) {
        (true, next) => {
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            callee::serve(options.scenario, listen, options.common.while_stdin, next).await
        }
        (false, Some(next)) => {
            let ledger = Ledger::open("caller", options.common.truth.as_deref())?;
            caller::call(&options, Arc::new(next), &ledger).await
        }
        (false, None) => anyhow::bail!("a caller needs somebody to call"),
    }
}
