//! Storefront of the scenarios: where most goes wrong, since it stands in the middle.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::shop::inventory_client::InventoryClient;
use proto::shop::storefront_server::{Storefront, StorefrontServer};
use proto::shop::{
    Answer, Basket, BasketLine, BrowseRequest, CheckoutRequest, GetProductRequest, GetStockRequest,
    ListStockRequest, Order, OrderEvent, Product, Question, Stock, TrackOrderRequest,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::inventory::{SLOW, TEA};
use super::{Scenario, trace};
use crate::budget::{Budget, hand_back};
use crate::ledger::{CallType, Ledger};
use crate::serving::next_hop;
use crate::streams::Outgoing;

/// The most that it waits for inventory: more than any shopper leaves.
const PATIENCE: Duration = Duration::from_secs(60);
/// How far past a deadline it goes on: far beyond what clocks and a busy machine account for.
const LATENESS: Duration = Duration::from_millis(300);
/// After the end of its caller it is still at work when everybody has had the time to tell it.
const STUBBORNNESS: Duration = Duration::from_millis(400);
/// It lets go of an outbound stream a little after the deadline, so that it is the deadline by everybody's clock.
pub(super) const A_LITTLE_LATE: Duration = Duration::from_millis(20);
/// What the shopper browses for if the storefront itself shall never finish the list.
pub(super) const ENDLESS_HERE: &str = "endless-here";

/// Work that goes on whatever becomes of the calls that it was begun for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ghosts(Arc<Mutex<JoinSet<()>>>);

impl Ghosts {
    fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(work);
    }

    /// Waits until all of it is done.
    pub(crate) async fn come_to_rest(self) {
        let work = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        work.join_all().await;
    }
}

pub(crate) fn service(
    scenario: Scenario,
    ledger: Arc<Ledger>,
    inventory: String,
) -> anyhow::Result<(StorefrontServer<Shop>, Ghosts)> {
    let ghosts = Ghosts::default();
    let shop = Shop {
        scenario,
        ledger,
        inventory: InventoryClient::new(next_hop(inventory)?),
        calls: Arc::default(),
        tried_again: Arc::default(),
        ghosts: ghosts.clone(),
    };
    Ok((StorefrontServer::new(shop), ghosts))
}

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Shop {
    scenario: Scenario,
    ledger: Arc<Ledger>,
    inventory: InventoryClient<Channel>,
    /// Calls to inventory so far.
    calls: Arc<AtomicU64>,
    /// The shopper has tried again.
    tried_again: Arc<Notify>,
    ghosts: Ghosts,
}

fn product(stock: Stock) -> Product {
    Product { sku: stock.sku, price_cents: stock.price_cents, in_stock: stock.units, ..Product::default() }
}

impl Shop {
    /// About `duration`, and never twice the same: a round constant is a finding of its own.
    fn about(&self, duration: Duration) -> Duration {
        duration + Duration::from_millis(1 + 7 * self.calls.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks inventory for an article, on behalf of a caller with `inbound` metadata; `wrongly` names what this provokes.
    async fn stock(
        &self,
        inbound: &MetadataMap,
        timeout: Option<Duration>,
        sku: &str,
        wrongly: Option<&'static str>,
    ) -> Result<Stock, Status> {
        let message = GetStockRequest { sku: sku.to_owned() };
        let (mut request, entry) =
            self.ledger.calls("/shop.v1.Inventory/GetStock", CallType::Unary, timeout, message);
        trace::hand_on(inbound, &mut request);
        let provoked = wrongly.map(|finding| entry.provokes(finding));
        let result = entry.answered(self.inventory.clone().get_stock(request)).await.map_err(hand_back);
        if let Some(provoked) = provoked {
            self.ledger.provokes(&provoked);
        }
        result
    }

    async fn product(&self, metadata: &MetadataMap, budget: Budget, sku: &str) -> Result<Product, Status> {
        let in_time = || budget.hand_on(self.about(PATIENCE)).map(Some);
        let (timeout, wrongly) = match self.scenario {
            Scenario::DeadlineReset => (Some(self.about(PATIENCE)), Some("deadline_reset")),
            Scenario::DeadlineDropped => (None, Some("deadline_dropped")),
            Scenario::NoDeadline
            | Scenario::DeadlineAbsurd
            | Scenario::DeadlineExceeded
            | Scenario::LateCompletion
            | Scenario::DeadlineExhausted
            | Scenario::IgnoresCancellation
            | Scenario::RetryAmplification
            | Scenario::RetryNotRetryable
            | Scenario::ServerDies
            | Scenario::LeakedStream
            | Scenario::LongStreams
            | Scenario::Healthy => (in_time()?, None),
        };
        self.stock(metadata, timeout, sku, wrongly).await.map(product)
    }

    /// The list of what matches, from inventory.
    async fn list(
        &self,
        metadata: &MetadataMap,
        budget: Budget,
        prefix: String,
    ) -> Result<Messages<Product>, Status> {
        let timeout = budget.hand_on(self.about(PATIENCE))?;
        let message = ListStockRequest { prefix, limit: 1 };
        let (mut request, entry) =
            self.ledger.calls("/shop.v1.Inventory/ListStock", CallType::ServerStream, Some(timeout), message);
        trace::hand_on(metadata, &mut request);
        let entry = entry.lets_go_after(Some(A_LITTLE_LATE));
        let stocks = entry.opened(self.inventory.clone().list_stock(request)).await.map_err(hand_back)?;
        Ok(Box::pin(stocks.map(|stock| stock.map(product).map_err(hand_back))))
    }

    /// One product at once, and nothing more until `deadline` has long passed.
    fn list_too_slowly(self, metadata: MetadataMap, deadline: Option<Instant>) -> Messages<Product> {
        let (send, products) = mpsc::channel(2);
        self.ghosts.clone().begin(async move {
            // A receiver that is gone is a caller that is gone, and nobody else is told.
            let _ = send.send(Ok(product(Stock { sku: TEA.to_owned(), ..Stock::default() }))).await;
            if let Some(deadline) = deadline {
                tokio::time::sleep_until((deadline + LATENESS).into()).await;
            }
            if self.scenario == Scenario::DeadlineExhausted {
                let timeout = self.about(Duration::from_secs(1));
                let stock = self.stock(&metadata, Some(timeout), TEA, Some("deadline_exhausted")).await;
                let _ = send.send(stock.map(product)).await;
            }
        });
        Box::pin(ReceiverStream::new(products))
    }

    /// One product at once, and work that does not end with the caller.
    async fn list_stubbornly(
        self,
        metadata: MetadataMap,
        budget: Budget,
    ) -> Result<Messages<Product>, Status> {
        let (send, products) = mpsc::channel(1);
        // This opens the connection, and nobody has gone yet.
        let first = self.product(&metadata, budget, TEA).await;
        self.ghosts.clone().begin(async move {
            let in_time = || budget.hand_on(self.about(PATIENCE)).ok();
            let wrongly = Some("uncancelled_call");
            let open = self.stock(&metadata, in_time(), SLOW, wrongly);
            let shows_and_goes_on = async {
                // The call above is on its way when the caller goes.
                tokio::time::sleep(A_LITTLE_LATE).await;
                let _ = send.send(first).await;
                send.closed().await;
                tokio::time::sleep(STUBBORNNESS).await;
                for _ in 0..3 {
                    // Whatever the answer is, there is nobody to tell.
                    let _ = self.stock(&metadata, in_time(), TEA, wrongly).await;
                }
            };
            let (_, ()) = tokio::join!(open, shows_and_goes_on);
        });
        Ok(Box::pin(ReceiverStream::new(products)))
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Storefront for Shop {
    async fn get_product(&self, request: Request<GetProductRequest>) -> Result<Response<Product>, Status> {
        let entry = self.ledger.serves("/shop.v1.Storefront/GetProduct", CallType::Unary, &request);
        let budget = entry.budget();
        let is_retry = request.metadata().contains_key("grpc-previous-rpc-attempts");
        let is_useless = self.scenario == Scenario::RetryNotRetryable;
        let finding = if is_useless { "retry_not_retryable" } else { "retry_amplification" };
        let provoked = is_retry.then(|| entry.provokes(finding));
        entry
            .answers(async {
                let (metadata, _, message) = request.into_parts();
                if let Some(provoked) = provoked {
                    let product = self.product(&metadata, budget, &message.sku).await;
                    self.ledger.provokes(&provoked);
                    self.tried_again.notify_one();
                    return product;
                }
                let product = self.product(&metadata, budget, &message.sku).await;
                if message.sku == SLOW && self.scenario == Scenario::RetryAmplification {
                    self.tried_again.notified().await;
                }
                product
            })
            .await
    }

    type BrowseStream = Outgoing<Product>;

    async fn browse(&self, request: Request<BrowseRequest>) -> Result<Response<Self::BrowseStream>, Status> {
        let served = self.ledger.serves("/shop.v1.Storefront/Browse", CallType::ServerStream, &request);
        let (budget, deadline) = (served.budget(), served.deadline());
        let (metadata, _, message) = request.into_parts();
        let products = match self.scenario {
            Scenario::LateCompletion | Scenario::DeadlineExhausted => {
                Ok(self.clone().list_too_slowly(metadata, deadline))
            }
            Scenario::IgnoresCancellation => self.clone().list_stubbornly(metadata, budget).await,
            Scenario::NoDeadline
            | Scenario::DeadlineAbsurd
            | Scenario::DeadlineExceeded
            | Scenario::DeadlineReset
            | Scenario::DeadlineDropped
            | Scenario::RetryAmplification
            | Scenario::RetryNotRetryable
            | Scenario::ServerDies
            | Scenario::LeakedStream
            | Scenario::LongStreams
            | Scenario::Healthy => match message.query.as_str() {
                ENDLESS_HERE if self.scenario == Scenario::ServerDies => {
                    // It will not come to saying so later.
                    let lost = served.provokes("abrupt_end").because("connection_lost");
                    self.ledger.provokes(&lost.at_any_time_after());
                    Ok(Box::pin(tokio_stream::pending()) as Messages<Product>)
                }
                ENDLESS_HERE if self.scenario == Scenario::LeakedStream => {
                    let leaked = served.provokes("half_closed_leak").lasting();
                    self.ledger.provokes(&leaked.at_any_time_after());
                    Ok(Box::pin(tokio_stream::pending()) as Messages<Product>)
                }
                ENDLESS_HERE => Ok(Box::pin(tokio_stream::pending()) as Messages<Product>),
                _ => self.list(&metadata, budget, message.query).await,
            },
        };
        match products {
            Ok(products) => Ok(served.streams(products)),
            Err(status) => Err(served.refuses(status)),
        }
    }

    async fn fill_basket(&self, _: Request<Streaming<BasketLine>>) -> Result<Response<Basket>, Status> {
        Err(Status::unimplemented("no scenario fills baskets"))
    }

    async fn checkout(&self, _: Request<CheckoutRequest>) -> Result<Response<Order>, Status> {
        Err(Status::unimplemented("no scenario checks out"))
    }

    type TrackOrderStream = Outgoing<OrderEvent>;

    async fn track_order(
        &self,
        _: Request<TrackOrderRequest>,
    ) -> Result<Response<Self::TrackOrderStream>, Status> {
        Err(Status::unimplemented("no scenario tracks orders"))
    }

    type SupportStream = Outgoing<Answer>;

    async fn support(
        &self,
        _: Request<Streaming<Question>>,
    ) -> Result<Response<Self::SupportStream>, Status> {
        Err(Status::unimplemented("no scenario asks questions"))
    }
}
