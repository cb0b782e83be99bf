//! The tonic test application: see `tests/apps/README.md` for its command lines, plan and truth.

mod client;
mod server;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve until killed.
    Server {
        /// Port on 127.0.0.1, zero for any.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Unix socket to serve on instead.
        #[arg(long)]
        unix: Option<PathBuf>,
        /// File of the truth.
        #[arg(long)]
        truth: PathBuf,
    },
    /// Make the calls of a plan.
    Client(client::Options),
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().role {
        Role::Server { port, unix, truth } => server::serve(port, unix, &truth).await,
        Role::Client(options) => client::run(options).await,
    }
}

fn say(record: &serde_json::Value) {
    println!("{record}");
}
