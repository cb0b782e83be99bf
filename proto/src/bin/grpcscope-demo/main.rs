//! A small shop of gRPC services, to have something true to look at.
//!
//! Each service is a process of its own: `load` (the shoppers and the warehouse) calls `storefront`, that calls
//! `orders` and `inventory`, `orders` calls `inventory` and `payments`. `all` starts the five, lets them work for a
//! while and stops them in an order in which every call comes to its own end.
//!
//! With `--truth` each process writes down every call that it made and every call that it answered (`ledger`), so
//! that what an observer saw can be compared call by call.

mod ledger;
mod provoked;

mod budget;
mod streams;

mod inventory;
mod payments;

mod orders;
mod storefront;

mod load;

mod scenario;

mod all;
mod dice;
mod lifetime;
mod serving;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::ledger::Ledger;
use crate::scenario::Scenario;

/// The demo system of grpcscope: a shop of small gRPC services that write down what they do.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the four services and the shoppers, and stops them again so that every call is finished.
    All(all::Options),
    /// The end of the chain: articles and how many are left.
    Inventory(Service),
    /// The end of the chain: charges cards.
    Payments(Service),
    /// The middle of the chain: calls inventory and payments.
    Orders {
        #[command(flatten)]
        service: Service,
        /// Where inventory listens, as `http://ADDRESS:PORT`.
        #[arg(long)]
        inventory: String,
        /// Where payments listens.
        #[arg(long)]
        payments: String,
    },
    /// The front door: calls orders and inventory.
    Storefront {
        #[command(flatten)]
        service: Service,
        /// Where inventory listens, as `http://ADDRESS:PORT`; several with commas between them share the calls.
        #[arg(long)]
        inventory: String,
        /// Where orders listens.
        #[arg(long)]
        orders: String,
    },
    /// The shoppers and the warehouse: make the calls.
    Load(load::Options),
    /// A shopper who makes the calls of a scenario, and ends.
    Shopper(scenario::shopper::Options),
    /// One who reads long streams of a scenario, and ends.
    Reader(scenario::reader::Options),
    /// The caller, a hop or the callee of a scenario that programs in other languages play, too.
    Hop(scenario::hop::Options),
}

/// What every service takes.
#[derive(Debug, Args)]
struct Service {
    /// Address to listen on; port 0 takes a free one. The address is printed as a line of JSON.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(flatten)]
    common: Common,
    /// Misbehaves as this scenario has it.
    #[arg(long)]
    scenario: Option<Scenario>,
}

/// What every process takes.
#[derive(Debug, Args)]
struct Common {
    /// File to append a line of JSON to for every call made or answered.
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Ends, as on SIGTERM, when standard input is closed: so a parent never leaves it behind.
    #[arg(long)]
    while_stdin: bool,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    // One thread each: the processes share small machines with what watches them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.command {
        Command::All(options) => all::run(&options),
        Command::Inventory(service) => runtime.block_on(async {
            let ledger = Ledger::open("inventory", service.common.truth.as_deref())?;
            match service.scenario {
                Some(scenario) if !scenario.is_healthy() => {
                    let inventory = scenario::inventory::service(ledger);
                    serving::serve("inventory", &service, inventory).await
                }
                Some(_) | None => serving::serve("inventory", &service, inventory::service(ledger)).await,
            }
        }),
        Command::Payments(service) => runtime.block_on(async {
            let ledger = Ledger::open("payments", service.common.truth.as_deref())?;
            serving::serve("payments", &service, payments::service(ledger)).await
        }),
        Command::Orders { service, inventory, payments } => runtime.block_on(async {
            let ledger = Ledger::open("orders", service.common.truth.as_deref())?;
            let orders = orders::service(ledger, inventory, payments)?;
            serving::serve("orders", &service, orders).await
        }),
        Command::Storefront { service, inventory, orders } => runtime.block_on(async {
            let ledger = Ledger::open("storefront", service.common.truth.as_deref())?;
            match service.scenario {
                Some(scenario) if !scenario.is_healthy() => {
                    let (storefront, ghosts) = scenario::storefront::service(scenario, ledger, inventory)?;
                    serving::serve("storefront", &service, storefront).await?;
                    ghosts.come_to_rest().await;
                    Ok(())
                }
                Some(_) | None => {
                    let patience = storefront::patience(service.scenario);
                    let storefront = storefront::service(ledger, inventory, orders, patience)?;
                    serving::serve("storefront", &service, storefront).await
                }
            }
        }),
        Command::Load(options) => runtime.block_on(load::run(options)),
        Command::Shopper(options) => runtime.block_on(scenario::shopper::run(options)),
        Command::Reader(options) => runtime.block_on(scenario::reader::run(options)),
        Command::Hop(options) => runtime.block_on(scenario::hop::run(options)),
    }
}
