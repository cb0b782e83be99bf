//! The shoppers and the warehouse: a seeded mix of everything that people do in the shop, good and bad.
//!
//! It stops by starting nothing new and waiting for what is open: each action ends by itself, by an answer, by its
//! deadline, or because somebody lost patience.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use proto::shop::inventory_client::InventoryClient;
use proto::shop::orders_client::OrdersClient;
use proto::shop::storefront_client::StorefrontClient;
use proto::shop::{
    BasketLine, BrowseRequest, CheckoutRequest, GetOrderRequest, GetProductRequest, GetStockRequest, Order,
    Question, Stock, TrackOrderRequest,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::dice::Dice;
use crate::inventory::ARTICLES;
use crate::ledger::{CallType, Ledger};
use crate::{Common, lifetime};

/// The patience of most shoppers.
const PATIENCE: Duration = Duration::from_secs(5);
/// The deadline of those who have little: more than anything healthy takes.
const HURRY: Duration = Duration::from_millis(800);
/// When a shopper walks away from something that hangs: long after the last hop has been reached, also on a busy
/// machine, and long before any deadline.
const BOREDOM: Duration = Duration::from_millis(500);
/// How long a connection is used before a new one takes its place.
const SESSION: Duration = Duration::from_secs(5);

/// Options of `load`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where storefront listens, as `http://ADDRESS:PORT`.
    #[arg(long)]
    storefront: String,
    /// Where orders listens.
    #[arg(long)]
    orders: String,
    /// Where inventory listens.
    #[arg(long)]
    inventory: String,
    /// Actions a second; one action makes up to ten calls, about two and a half on average.
    #[arg(long, default_value_t = 40.0)]
    rate: f64,
    /// Ends after this time, otherwise on SIGTERM.
    #[arg(long)]
    seconds: Option<f64>,
    /// Ends after so many actions; every hundred hold the whole mix.
    #[arg(long)]
    actions: Option<u64>,
    /// Connections to the storefront at a time.
    #[arg(long, default_value_t = 3)]
    connections: usize,
    /// Seed of the mix.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

/// Runs until the time is over or the process is asked to end, then until the last call has ended.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.rate > 0.0 && options.rate <= 1e6, "--rate must be above 0 and at most 1000000");
    anyhow::ensure!(options.connections > 0, "--connections must be at least 1");
    let ledger = Ledger::open("load", options.common.truth.as_deref())?;
    let dice = Arc::new(Dice::new(options.seed));
    let mut doors = Vec::new();
    for _ in 0..options.connections {
        doors.push((Instant::now(), Door::open(&options, &ledger, &dice).await?));
    }

    let end = lifetime::is_over(options.common.while_stdin);
    tokio::pin!(end);
    let time_is_over = async {
        match options.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(time_is_over);
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / options.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut actions = JoinSet::new();
    let mut turn = 0_usize;
    // Dice of its own, so that what the shoppers roll does not change the order of the actions.
    let order = Dice::new(options.seed);
    let mut deck = Vec::new();
    let mut actions_left = options.actions.unwrap_or(u64::MAX);
    while actions_left > 0 {
        tokio::select! {
            () = &mut end => break,
            () = &mut time_is_over => break,
            Some(finished) = actions.join_next() => finished.context("an action of the load failed")?,
            _ = ticks.tick() => {
                turn = (turn + 1) % doors.len();
                let (opened, door) = &mut doors[turn];
                if opened.elapsed() > SESSION {
                    // The old connection closes when the last call on it has ended.
                    *door = Door::open(&options, &ledger, &dice).await?;
                    *opened = Instant::now();
                }
                let door = door.clone();
                if deck.is_empty() {
                    deck = Action::shuffled(&order);
                }
                let Some(action) = deck.pop() else { continue };
                actions_left -= 1;
                actions.spawn(async move { door.act(action).await });
            }
        }
    }
    while let Some(finished) = actions.join_next().await {
        finished.context("an action of the load failed")?;
    }
    Ok(())
}

/// What happens in the shop, and how often.
#[derive(Clone, Copy, Debug)]
enum Action {
    LookAtProduct,
    LookWithoutDeadline,
    LookForUnknownProduct,
    Browse,
    FillBasket,
    Buy,
    BuyTooMuch,
    BuyWithDeclinedCard,
    BuyWhileTheBankIsAway,
    BuyInAHurryAtASlowBank,
    WalkAwayFromASlowBank,
    TrackExpress,
    StopTracking,
    TrackUntilTheDeadline,
    TrackUnknownOrder,
    Chat,
    WaitForAHuman,
    FindOrder,
    ImportOrders,
    CountShelves,
    CountNamelessShelf,
    WatchLevels,
}

impl Action {
    /// Out of a hundred.
    const WEIGHTS: [(Action, usize); 22] = [
        (Action::LookAtProduct, 18),
        (Action::LookWithoutDeadline, 4),
        (Action::LookForUnknownProduct, 4),
        (Action::Browse, 12),
        (Action::FillBasket, 8),
        (Action::Buy, 14),
        (Action::BuyTooMuch, 1),
        (Action::BuyWithDeclinedCard, 3),
        (Action::BuyWhileTheBankIsAway, 3),
        (Action::BuyInAHurryAtASlowBank, 2),
        (Action::WalkAwayFromASlowBank, 2),
        (Action::TrackExpress, 4),
        (Action::StopTracking, 2),
        (Action::TrackUntilTheDeadline, 1),
        (Action::TrackUnknownOrder, 1),
        (Action::Chat, 5),
        (Action::WaitForAHuman, 1),
        (Action::FindOrder, 3),
        (Action::ImportOrders, 3),
        (Action::CountShelves, 3),
        (Action::CountNamelessShelf, 1),
        (Action::WatchLevels, 5),
    ];

    /// A hundred actions in the order of the dice.
    fn shuffled(dice: &Dice) -> Vec<Action> {
        let weighted =
            Self::WEIGHTS.iter().flat_map(|(action, weight)| std::iter::repeat_n(*action, *weight));
        let mut deck: Vec<Action> = weighted.collect();
        for last in (1..deck.len()).rev() {
            deck.swap(last, dice.roll(last as u64 + 1) as usize);
        }
        deck
    }
}

/// One connection to the storefront, and one each to what the warehouse uses.
#[derive(Clone, Debug)]
struct Door {
    ledger: Arc<Ledger>,
    dice: Arc<Dice>,
    storefront: StorefrontClient<Channel>,
    orders: OrdersClient<Channel>,
    inventory: InventoryClient<Channel>,
}

impl Door {
    async fn open(options: &Options, ledger: &Arc<Ledger>, dice: &Arc<Dice>) -> anyhow::Result<Self> {
        Ok(Door {
            ledger: Arc::clone(ledger),
            dice: Arc::clone(dice),
            storefront: StorefrontClient::new(connect(&options.storefront).await?),
            orders: OrdersClient::new(connect(&options.orders).await?),
            inventory: InventoryClient::new(connect(&options.inventory).await?),
        })
    }

    /// Does it. The results of calls are in the ledger already; a shopper shrugs at an error.
    async fn act(mut self, action: Action) {
        match action {
            Action::LookAtProduct => self.look(&self.sku(), Some(PATIENCE)).await,
            Action::LookWithoutDeadline => self.look(&self.sku(), None).await,
            Action::LookForUnknownProduct => self.look("coffee", Some(PATIENCE)).await,
            Action::Browse => self.browse().await,
            Action::FillBasket => self.fill_basket().await,
            Action::Buy => self.buy(1, "visa", PATIENCE).await,
            Action::BuyTooMuch => self.buy(100_000, "visa", PATIENCE).await,
            Action::BuyWithDeclinedCard => self.buy(2, "declined", PATIENCE).await,
            Action::BuyWhileTheBankIsAway => self.buy(3, "flaky", PATIENCE).await,
            Action::BuyInAHurryAtASlowBank => self.buy(1, "slow", HURRY).await,
            Action::WalkAwayFromASlowBank => {
                // An error means that the shopper walked away, which is the point.
                let _ = tokio::time::timeout(BOREDOM, self.buy(1, "slow", PATIENCE)).await;
            }
            Action::TrackExpress => self.track("ord-1", true, PATIENCE, usize::MAX).await,
            Action::StopTracking => self.track("ord-2", false, PATIENCE, 3).await,
            Action::TrackUntilTheDeadline => self.track("ord-3", false, HURRY, usize::MAX).await,
            Action::TrackUnknownOrder => self.track("42", true, PATIENCE, usize::MAX).await,
            Action::Chat => self.chat(false).await,
            Action::WaitForAHuman => self.chat(true).await,
            Action::FindOrder => self.find_orders().await,
            Action::ImportOrders => self.import_orders().await,
            Action::CountShelves => self.count_shelves(false).await,
            Action::CountNamelessShelf => self.count_shelves(true).await,
            Action::WatchLevels => self.watch_levels().await,
        }
    }

    fn sku(&self) -> String {
        ARTICLES[self.dice.roll(ARTICLES.len() as u64) as usize].0.to_owned()
    }

    async fn look(&mut self, sku: &str, timeout: Option<Duration>) {
        let message = GetProductRequest { sku: sku.to_owned() };
        let (request, entry) =
            self.ledger.calls("/shop.v1.Storefront/GetProduct", CallType::Unary, timeout, message);
        let _ = entry.answered(self.storefront.get_product(request)).await;
    }

    async fn browse(&mut self) {
        let message = BrowseRequest { query: "tea-".to_owned(), page_size: 3 + self.dice.roll(10) as u32 };
        let (request, entry) =
            self.ledger.calls("/shop.v1.Storefront/Browse", CallType::ServerStream, Some(PATIENCE), message);
        if let Ok(products) = entry.opened(self.storefront.browse(request)).await {
            read(products, usize::MAX).await;
        }
    }

    async fn fill_basket(&mut self) {
        let lines: Vec<_> =
            (0..2 + self.dice.roll(8)).map(|_| BasketLine { sku: self.sku(), quantity: 1 }).collect();
        let (request, entry) = self.ledger.calls_with(
            "/shop.v1.Storefront/FillBasket",
            CallType::ClientStream,
            Some(PATIENCE),
            tokio_stream::iter(lines),
        );
        let _ = entry.answered(self.storefront.fill_basket(request)).await;
    }

    async fn buy(&mut self, quantity: u32, card: &str, timeout: Duration) {
        let message = CheckoutRequest {
            customer: "ada".to_owned(),
            lines: vec![BasketLine { sku: self.sku(), quantity }],
            card: card.to_owned(),
        };
        let (request, entry) =
            self.ledger.calls("/shop.v1.Storefront/Checkout", CallType::Unary, Some(timeout), message);
        let _ = entry.answered(self.storefront.checkout(request)).await;
    }

    /// Watches an order for at most so many events.
    async fn track(&mut self, id: &str, express: bool, timeout: Duration, events: usize) {
        let message = TrackOrderRequest { id: id.to_owned(), express };
        let (request, entry) = self.ledger.calls(
            "/shop.v1.Storefront/TrackOrder",
            CallType::ServerStream,
            Some(timeout),
            message,
        );
        if let Ok(news) = entry.opened(self.storefront.track_order(request)).await {
            read(news, events).await;
        }
    }

    async fn chat(&mut self, wants_human: bool) {
        let (ask, questions) = mpsc::channel(1);
        let (request, entry) = self.ledger.calls_with(
            "/shop.v1.Storefront/Support",
            CallType::Bidi,
            Some(PATIENCE),
            ReceiverStream::new(questions),
        );
        let Ok(mut answers) = entry.opened(self.storefront.support(request)).await else { return };
        for text in ["is this tea?", "and this?", "how long does it keep?"] {
            // The chat has ended if nobody takes the question; the answer says so.
            let _ = ask.send(Question { text: text.to_owned(), wants_human: false }).await;
            if !matches!(answers.next().await, Some(Ok(_))) {
                return;
            }
        }
        if wants_human {
            let _ = ask.send(Question { text: "may I speak to a human?".to_owned(), wants_human }).await;
            // An error means that nobody came: letting go of the answers cancels the call.
            let _ = tokio::time::timeout(BOREDOM, answers.next()).await;
            return;
        }
        drop(ask);
        read(answers, usize::MAX).await;
    }

    async fn find_orders(&mut self) {
        for id in ["ord-00002a", "42"] {
            let message = GetOrderRequest { id: id.to_owned() };
            let (request, entry) =
                self.ledger.calls("/shop.v1.Orders/GetOrder", CallType::Unary, Some(PATIENCE), message);
            let _ = entry.answered(self.orders.get_order(request)).await;
        }
    }

    async fn import_orders(&mut self) {
        let order = |n| Order { id: format!("ord-old-{n}"), quantity: 1, ..Order::default() };
        let orders: Vec<_> = (0..2 + self.dice.roll(20)).map(order).collect();
        let (request, entry) = self.ledger.calls_with(
            "/shop.v1.Orders/ImportOrders",
            CallType::ClientStream,
            Some(PATIENCE),
            tokio_stream::iter(orders),
        );
        let _ = entry.answered(self.orders.import_orders(request)).await;
    }

    async fn count_shelves(&mut self, forget_one: bool) {
        let mut shelves: Vec<_> = ARTICLES
            .iter()
            .map(|(sku, _, _)| Stock { sku: (*sku).to_owned(), units: 5, price_cents: 0 })
            .collect();
        if forget_one {
            shelves[3].sku.clear();
        }
        let (request, entry) = self.ledger.calls_with(
            "/shop.v1.Inventory/CountShelves",
            CallType::ClientStream,
            Some(PATIENCE),
            tokio_stream::iter(shelves),
        );
        let _ = entry.answered(self.inventory.count_shelves(request)).await;
    }

    async fn watch_levels(&mut self) {
        let asked: Vec<_> = (0..2 + self.dice.roll(6)).map(|_| GetStockRequest { sku: self.sku() }).collect();
        let (request, entry) = self.ledger.calls_with(
            "/shop.v1.Inventory/WatchLevels",
            CallType::Bidi,
            Some(PATIENCE),
            tokio_stream::iter(asked),
        );
        if let Ok(levels) = entry.opened(self.inventory.watch_levels(request)).await {
            read(levels, usize::MAX).await;
        }
    }
}

/// Reads to the end, or to the last message that the reader wants; then lets go of the stream.
async fn read<T>(mut messages: impl Stream<Item = Result<T, Status>> + Unpin, at_most: usize) {
    for _ in 0..at_most {
        if !matches!(messages.next().await, Some(Ok(_))) {
            return;
        }
    }
}

async fn connect(uri: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(uri.to_owned())
        .with_context(|| format!("{uri:?} is no address of a service"))?;
    endpoint.connect().await.with_context(|| format!("cannot reach {uri}: is the service running?"))
}
