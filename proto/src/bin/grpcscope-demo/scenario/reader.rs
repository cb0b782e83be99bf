//! One who reads streams that carry much, and now and then does not.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use proto::shop::inventory_client::InventoryClient;
use proto::shop::{ListStockRequest, Stock};
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};

use super::bulk::{BESIDE, FAST, PACED};
use crate::Common;
use crate::ledger::{CallType, Ledger, Side};
use crate::provoked::{self, Provoked};
use crate::streams::Answers;

/// How it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Reading {
    /// It stops reading its stream now and then.
    SlowReader,
    /// It does so with one of several streams, which gets the whole window of their connection.
    HeadOfLine,
    /// It reads as fast as it can, with a window that is too small for the way.
    SmallWindow,
    /// It keeps up.
    KeepingUp,
}

/// Options of `reader`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to do.
    #[arg(long)]
    scenario: Reading,
    /// Where inventory listens, as `http://ADDRESS:PORT`.
    #[arg(long)]
    inventory: String,
    #[command(flatten)]
    common: Common,
}

const LIST_STOCK: &str = "/shop.v1.Inventory/ListStock";
const WATCH_LEVELS: &str = "/shop.v1.Inventory/WatchLevels";

/// More than any scenario takes.
const GENEROUS: Duration = Duration::from_secs(120);
/// How long a reader stops: long beside the moment in which a window fills.
const STOP: Duration = Duration::from_secs(3);
/// And how long it reads in between.
const READ: Duration = Duration::from_millis(700);
const ROUNDS: usize = 3;
const GOOD_BYE: Duration = Duration::from_millis(300);

/// Windows in octets: of a stream, and of the connection. Smaller ones are full sooner after the reader stops.
const SMALL: u32 = 65_535;
const MIDDLING: u32 = 128 * 1024;
const LARGE: u32 = 4 * 1024 * 1024;

/// Reads, and ends.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let ledger = Ledger::open("reader", options.common.truth.as_deref())?;
    let (of_stream, of_connection) = match options.scenario {
        Reading::SlowReader | Reading::KeepingUp => (MIDDLING, LARGE),
        // A stream can take the whole window of its connection, and it is most of its own: so it shows which one does.
        Reading::HeadOfLine => (MIDDLING + MIDDLING / 4, MIDDLING),
        Reading::SmallWindow => (SMALL, LARGE),
    };
    let endpoint = Endpoint::from_shared(options.inventory)
        .context("no address of a service")?
        .initial_stream_window_size(of_stream)
        .initial_connection_window_size(of_connection);
    let reader = Reader { ledger: &ledger, inventory: InventoryClient::new(endpoint.connect().await?) };
    let result = reader.read(options.scenario).await;
    // Whoever lets go of a stream says so; it takes a moment until that is sent.
    tokio::time::sleep(GOOD_BYE).await;
    result
}

struct Reader<'a> {
    ledger: &'a std::sync::Arc<Ledger>,
    inventory: InventoryClient<Channel>,
}

impl Reader<'_> {
    /// Reads as it is told, and lets go.
    async fn read(&self, how: Reading) -> anyhow::Result<()> {
        let (reader, ledger) = (self, self.ledger);
        match how {
            Reading::SlowReader => {
                let mut stocks = reader.list(PACED).await?;
                for _ in 0..ROUNDS {
                    read(&mut stocks, READ).await?;
                    stop(ledger, LIST_STOCK, &mut stocks).await?;
                }
                read(&mut stocks, READ).await
            }
            Reading::HeadOfLine => {
                let mut siblings = tokio::task::JoinSet::new();
                for _ in 0..3 {
                    let mut stocks = reader.list(BESIDE).await?;
                    siblings.spawn(async move { while let Some(Ok(_)) = stocks.next().await {} });
                }
                let mut levels = reader.watch().await?;
                for _ in 0..ROUNDS {
                    read(&mut levels, READ).await?;
                    stop(ledger, WATCH_LEVELS, &mut levels).await?;
                }
                read(&mut levels, READ).await
            }
            Reading::SmallWindow => read(&mut reader.list(FAST).await?, 6 * READ).await,
            Reading::KeepingUp => read(&mut reader.list(PACED).await?, 6 * READ).await,
        }
    }

    async fn list(&self, prefix: &str) -> anyhow::Result<Answers<Stock>> {
        let message = ListStockRequest { prefix: prefix.to_owned(), limit: 0 };
        let (request, entry) = self.ledger.calls(LIST_STOCK, CallType::ServerStream, Some(GENEROUS), message);
        Ok(entry.opened(self.inventory.clone().list_stock(request)).await?)
    }

    async fn watch(&self) -> anyhow::Result<Answers<Stock>> {
        let questions = tokio_stream::empty();
        let (request, entry) =
            self.ledger.calls_with(WATCH_LEVELS, CallType::Bidi, Some(GENEROUS), questions);
        Ok(entry.opened(self.inventory.clone().watch_levels(request)).await?)
    }
}

/// Reads for a while.
async fn read(stocks: &mut Answers<Stock>, time: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        stocks.next().await.context("a stream without end has ended")??;
    }
    Ok(())
}

/// Does not read for a while, and writes down for how long.
async fn stop(ledger: &Ledger, method: &'static str, stocks: &mut Answers<Stock>) -> anyhow::Result<()> {
    let (since, since_ns) = (Instant::now(), provoked::now_ns());
    tokio::time::sleep(STOP).await;
    let stopped = since.elapsed();
    // Until the next message has come, the window may not have been opened.
    read(stocks, READ).await?;
    let stall = Provoked::since("flow_control_stall", since_ns).because("slow_receiver");
    ledger.provokes(&stall.by_call(Side::Client, method).stalled_for(stopped));
    Ok(())
}
