//! The shopper of a scenario: makes its calls, and ends when all of them have ended.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use proto::shop::storefront_client::StorefrontClient;
use proto::shop::{BasketLine, BrowseRequest, GetProductRequest, Product, Question};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::inventory::{ENDLESS, SLOW, SPENT, TEA, UNKNOWN};
use super::storefront::{A_LITTLE_LATE, ENDLESS_HERE};
use super::{Scenario, trace};
use crate::dice::Dice;
use crate::ledger::{CallType, Entry, Ledger};
use crate::provoked::Provoked;
use crate::serving::next_hop;
use crate::streams::Answers;
use crate::{Common, lifetime};

/// Options of `shopper`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to do.
    #[arg(long)]
    scenario: Scenario,
    /// Where the storefront listens, as `http://ADDRESS:PORT`; several with commas between them share the calls.
    #[arg(long)]
    storefront: String,
    /// Actions a second of `healthy`.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// How long `healthy` goes on.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    #[command(flatten)]
    common: Common,
}

/// More than anything needs, on any machine.
const GENEROUS: Duration = Duration::from_secs(20);
/// Long enough for every hop to have begun on a busy machine, for calls that shall exceed it.
const SHORT: Duration = Duration::from_secs(1);
const ABSURD: Duration = Duration::from_secs(2 * 3600);
/// Longer than the scenarios' agents take for nothing.
const A_WHILE: Duration = Duration::from_secs(5);
/// How often a shopper does what a scenario is about.
const ROUNDS: usize = 10;
/// Healthy shoppers at a time: if the machine is too slow for the rate, there are fewer calls and not longer ones.
const HEALTHY_AT_A_TIME: usize = 24;

/// Makes the calls.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let ledger = Ledger::open("shopper", options.common.truth.as_deref())?;
    let storefront = StorefrontClient::new(next_hop(options.storefront.clone())?);
    let shopper = Shopper { ledger, dice: Arc::new(Dice::new(11)), storefront };
    match options.scenario {
        Scenario::NoDeadline => {
            for _ in 0..ROUNDS {
                shopper.look(TEA, None).await;
                shopper.look_with_invalid_timeout().await;
                shopper.look(TEA, Some(GENEROUS)).await;
            }
        }
        Scenario::DeadlineAbsurd => {
            for _ in 0..ROUNDS {
                shopper.look(TEA, Some(ABSURD)).await;
                shopper.look(TEA, Some(GENEROUS)).await;
            }
        }
        Scenario::DeadlineExceeded => {
            let mut all = JoinSet::new();
            for _ in 0..ROUNDS {
                let shopper = shopper.clone();
                all.spawn(async move {
                    shopper.browse(ENDLESS_HERE, SHORT, Some(A_LITTLE_LATE), usize::MAX).await;
                    shopper.browse(ENDLESS, SHORT, Some(A_LITTLE_LATE), usize::MAX).await;
                    shopper.look(SPENT, Some(GENEROUS)).await;
                    shopper.look(TEA, Some(GENEROUS)).await;
                });
            }
            all.join_all().await;
        }
        Scenario::LateCompletion | Scenario::DeadlineExhausted => {
            let mut all = JoinSet::new();
            for _ in 0..ROUNDS {
                let shopper = shopper.clone();
                all.spawn(async move { shopper.browse("tea", SHORT, None, usize::MAX).await });
            }
            all.join_all().await;
        }
        Scenario::DeadlineReset | Scenario::DeadlineDropped => {
            for _ in 0..2 * ROUNDS {
                shopper.look(TEA, Some(GENEROUS)).await;
            }
        }
        Scenario::IgnoresCancellation => {
            for _ in 0..ROUNDS / 2 {
                shopper.browse("tea", GENEROUS, Some(Duration::ZERO), 1).await;
                shopper.look(TEA, Some(GENEROUS)).await;
            }
        }
        Scenario::RetryAmplification => {
            for _ in 0..ROUNDS / 2 {
                shopper.look(TEA, Some(GENEROUS)).await;
                shopper.look_twice().await;
            }
        }
        Scenario::LongStreams => anyhow::bail!("a `reader` reads these, no shopper"),
        Scenario::RetryNotRetryable => {
            for _ in 0..ROUNDS {
                // Most calls are no retries.
                for _ in 0..ROUNDS {
                    shopper.look(TEA, Some(GENEROUS)).await;
                }
                shopper.insist().await;
            }
        }
        Scenario::ServerDies => shopper.watches_it_die().await?,
        Scenario::LeakedStream => {
            shopper.does_not_mind(ROUNDS, |entry| entry.provokes("half_closed_leak").lasting()).await?
        }
        Scenario::Healthy => shopper.is_healthy(&options).await?,
    }
    Ok(())
}

/// One who calls the storefront.
#[derive(Clone, Debug)]
struct Shopper {
    ledger: Arc<Ledger>,
    dice: Arc<Dice>,
    storefront: StorefrontClient<Channel>,
}

impl Shopper {
    /// What comes of a call is in the ledger; a shopper shrugs at an error.
    async fn look(&self, sku: &str, timeout: Option<Duration>) {
        let message = GetProductRequest { sku: sku.to_owned() };
        let (mut request, entry) =
            self.ledger.calls("/shop.v1.Storefront/GetProduct", CallType::Unary, timeout, message);
        trace::begin(&mut request, &self.dice);
        let _ = entry.answered(self.storefront.clone().get_product(request)).await;
    }

    async fn look_with_invalid_timeout(&self) {
        let message = GetProductRequest { sku: TEA.to_owned() };
        let (mut request, mut entry) =
            self.ledger.calls("/shop.v1.Storefront/GetProduct", CallType::Unary, None, message);
        // Seconds have a capital S.
        request.metadata_mut().insert("grpc-timeout", MetadataValue::from_static("5s"));
        entry.has_invalid_timeout();
        let _ = entry.answered(self.storefront.clone().get_product(request)).await;
    }

    /// Tries again while the first attempt is open. The storefront answers the first when it has the second.
    async fn look_twice(&self) {
        let attempt = || {
            let message = GetProductRequest { sku: SLOW.to_owned() };
            self.ledger.calls("/shop.v1.Storefront/GetProduct", CallType::Unary, Some(GENEROUS), message)
        };
        let (mut first, first_entry) = attempt();
        trace::begin(&mut first, &self.dice);
        let (mut second, second_entry) = attempt();
        trace::hand_on(first.metadata(), &mut second);
        second.metadata_mut().insert("grpc-previous-rpc-attempts", MetadataValue::from_static("1"));
        let mut storefront = self.storefront.clone();
        let first = first_entry.answered(storefront.get_product(first));
        let second = async {
            // The first is on its way; should it not be, the storefront still gets both while both are open.
            tokio::time::sleep(Duration::from_millis(50)).await;
            second_entry.answered(self.storefront.clone().get_product(second)).await
        };
        let _ = tokio::join!(first, second);
    }

    /// Tries again what was not found, as if that could help.
    async fn insist(&self) {
        let attempt = || {
            let message = GetProductRequest { sku: UNKNOWN.to_owned() };
            self.ledger.calls("/shop.v1.Storefront/GetProduct", CallType::Unary, Some(GENEROUS), message)
        };
        let (mut first, first_entry) = attempt();
        trace::begin(&mut first, &self.dice);
        let metadata = first.metadata().clone();
        let _ = first_entry.answered(self.storefront.clone().get_product(first)).await;
        let (mut second, second_entry) = attempt();
        trace::hand_on(&metadata, &mut second);
        second.metadata_mut().insert("grpc-previous-rpc-attempts", MetadataValue::from_static("1"));
        let provoked = second_entry.provokes("retry_not_retryable");
        let _ = second_entry.answered(self.storefront.clone().get_product(second)).await;
        self.ledger.provokes(&provoked);
    }

    /// Opens streams that the storefront never ends; each with what it provokes.
    async fn opens(
        &self,
        count: usize,
        provokes: impl Fn(&Entry) -> Provoked,
    ) -> anyhow::Result<Vec<(Provoked, Answers<Product>)>> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let message = BrowseRequest { query: ENDLESS_HERE.to_owned(), page_size: 8 };
            let (mut request, entry) = self.ledger.calls(
                "/shop.v1.Storefront/Browse",
                CallType::ServerStream,
                Some(GENEROUS * 3),
                message,
            );
            trace::begin(&mut request, &self.dice);
            let provoked = provokes(&entry);
            let products = entry.opened(self.storefront.clone().browse(request)).await;
            streams.push((provoked, products.context("open a stream")?));
        }
        Ok(streams)
    }

    /// Opens streams, and lets go of them after a while.
    async fn does_not_mind(&self, count: usize, provokes: impl Fn(&Entry) -> Provoked) -> anyhow::Result<()> {
        let streams = self.opens(count, provokes).await?;
        tokio::time::sleep(A_WHILE).await;
        for (provoked, products) in streams {
            drop(products);
            self.ledger.provokes(&provoked);
        }
        // When this is answered, the storefront has been told of all of them.
        self.look(TEA, Some(GENEROUS)).await;
        Ok(())
    }

    /// Opens streams, says so, and waits for what becomes of them.
    async fn watches_it_die(&self) -> anyhow::Result<()> {
        let streams =
            self.opens(ROUNDS, |entry| entry.provokes("abrupt_end").because("connection_lost")).await?;
        println!("{}", serde_json::json!({"open": streams.len()}));
        std::io::stdout().flush()?;
        for (provoked, mut products) in streams {
            anyhow::ensure!(!matches!(products.next().await, Some(Ok(_))), "nobody sends products");
            self.ledger.provokes(&provoked);
        }
        Ok(())
    }

    /// Reads at most so many products, and lets go so long after the deadline.
    async fn browse(&self, query: &str, timeout: Duration, lets_go_after: Option<Duration>, at_most: usize) {
        let message = BrowseRequest { query: query.to_owned(), page_size: 8 };
        let (mut request, entry) =
            self.ledger.calls("/shop.v1.Storefront/Browse", CallType::ServerStream, Some(timeout), message);
        trace::begin(&mut request, &self.dice);
        let entry = entry.lets_go_after(lets_go_after);
        let Ok(mut products) = entry.opened(self.storefront.clone().browse(request)).await else { return };
        for _ in 0..at_most {
            if !matches!(products.next().await, Some(Ok(_))) {
                return;
            }
        }
    }

    async fn fill_basket(&self) {
        let lines: Vec<_> =
            (0..2 + self.dice.roll(8)).map(|_| BasketLine { sku: TEA.to_owned(), quantity: 1 }).collect();
        let (mut request, entry) = self.ledger.calls_with(
            "/shop.v1.Storefront/FillBasket",
            CallType::ClientStream,
            Some(GENEROUS),
            tokio_stream::iter(lines),
        );
        trace::begin(&mut request, &self.dice);
        let _ = entry.answered(self.storefront.clone().fill_basket(request)).await;
    }

    async fn chat(&self) {
        let question = |n| Question { text: format!("question {n}"), wants_human: false };
        let (mut request, entry) = self.ledger.calls_with(
            "/shop.v1.Storefront/Support",
            CallType::Bidi,
            Some(GENEROUS),
            tokio_stream::iter(0..4).map(question),
        );
        trace::begin(&mut request, &self.dice);
        let Ok(mut answers) = entry.opened(self.storefront.clone().support(request)).await else { return };
        while let Some(Ok(_)) = answers.next().await {}
    }

    /// Everything that people do, and nothing wrong, until the time is over; says so, and keeps its connections until the
    /// storefronts have said good-bye.
    async fn is_healthy(&self, options: &Options) -> anyhow::Result<()> {
        anyhow::ensure!(
            options.rate > 0.0 && options.rate <= 1e6,
            "--rate must be above 0 and at most 1000000"
        );
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / options.rate));
        let time_is_over = tokio::time::sleep(Duration::from_secs_f64(options.seconds.clamp(0.0, 1e9)));
        tokio::pin!(time_is_over);
        let mut actions = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = &mut time_is_over => break,
                Some(finished) = actions.join_next(), if actions.len() >= HEALTHY_AT_A_TIME => {
                    finished.context("a shopper failed")?;
                }
                _ = ticks.tick(), if actions.len() < HEALTHY_AT_A_TIME => {
                    while let Some(finished) = actions.try_join_next() {
                        finished.context("a shopper failed")?;
                    }
                    let shopper = self.clone();
                    actions.spawn(async move {
                        match shopper.dice.roll(20) {
                            0 => shopper.fill_basket().await,
                            1 => shopper.chat().await,
                            // Seen enough: the storefront lets go of inventory, too.
                            2 => shopper.browse("tea-", GENEROUS, Some(Duration::ZERO), 1).await,
                            3..6 => shopper.browse("tea-", GENEROUS, Some(Duration::ZERO), usize::MAX).await,
                            _ => shopper.look(TEA, Some(GENEROUS)).await,
                        }
                    });
                }
            }
        }
        actions.join_all().await;
        println!("{}", serde_json::json!({"done": true}));
        std::io::stdout().flush()?;
        if options.common.while_stdin {
            lifetime::is_over(true).await;
        }
        Ok(())
    }
}
