//! Storefront: what shoppers call. It knows little itself and asks inventory and orders.

use std::sync::Arc;
use std::time::Duration;

use proto::shop::inventory_client::InventoryClient;
use proto::shop::orders_client::OrdersClient;
use proto::shop::storefront_server::{Storefront, StorefrontServer};
use proto::shop::{
    Answer, Basket, BasketLine, BrowseRequest, CheckoutRequest, GetProductRequest, GetStockRequest,
    ListStockRequest, Order, OrderEvent, PlaceOrderRequest, Product, Question, Stock, TrackOrderRequest,
};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::budget::hand_back;
use crate::inventory::ARTICLES;
use crate::ledger::{CallType, Ledger};
use crate::scenario::Scenario;
use crate::serving::next_hop;
use crate::streams::{Incoming, Outgoing};

/// The most that this service waits for inventory.
pub(crate) fn patience(scenario: Option<Scenario>) -> Duration {
    // With load, what the caller leaves is the one thing that counts.
    Duration::from_secs(if scenario == Some(Scenario::Healthy) { 60 } else { 2 })
}

/// The most that this service waits for orders.
const ORDERS_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) fn service(
    ledger: Arc<Ledger>,
    inventory: String,
    orders: String,
    patience: Duration,
) -> anyhow::Result<StorefrontServer<Shop>> {
    Ok(StorefrontServer::new(Shop {
        ledger,
        patience,
        inventory: InventoryClient::new(next_hop(inventory)?),
        orders: OrdersClient::new(next_hop(orders)?),
    }))
}

/// The service.
#[derive(Debug)]
pub(crate) struct Shop {
    ledger: Arc<Ledger>,
    /// The most that it waits for inventory.
    patience: Duration,
    inventory: InventoryClient<Channel>,
    orders: OrdersClient<Channel>,
}

fn product(stock: Stock) -> Product {
    let article = ARTICLES.iter().find(|(sku, _, _)| *sku == stock.sku);
    let title = article.map_or("?", |(_, title, _)| title).to_owned();
    Product { sku: stock.sku, title, price_cents: stock.price_cents, in_stock: stock.units }
}

#[tonic::async_trait]
impl Storefront for Shop {
    async fn get_product(&self, request: Request<GetProductRequest>) -> Result<Response<Product>, Status> {
        let entry = self.ledger.serves("/shop.v1.Storefront/GetProduct", CallType::Unary, &request);
        let budget = entry.budget();
        entry
            .answers(async {
                let timeout = budget.hand_on(self.patience)?;
                let message = GetStockRequest { sku: request.into_inner().sku };
                let (request, entry) =
                    self.ledger.calls("/shop.v1.Inventory/GetStock", CallType::Unary, Some(timeout), message);
                let stock =
                    entry.answered(self.inventory.clone().get_stock(request)).await.map_err(hand_back)?;
                Ok(product(stock))
            })
            .await
    }

    type BrowseStream = Outgoing<Product>;

    async fn browse(&self, request: Request<BrowseRequest>) -> Result<Response<Self::BrowseStream>, Status> {
        let served = self.ledger.serves("/shop.v1.Storefront/Browse", CallType::ServerStream, &request);
        let timeout = match served.budget().hand_on(self.patience) {
            Ok(timeout) => timeout,
            Err(status) => return Err(served.refuses(status)),
        };
        let BrowseRequest { query, page_size } = request.into_inner();
        let message = ListStockRequest { prefix: query, limit: page_size };
        let (request, entry) =
            self.ledger.calls("/shop.v1.Inventory/ListStock", CallType::ServerStream, Some(timeout), message);
        match entry.opened(self.inventory.clone().list_stock(request)).await {
            Ok(stocks) => Ok(served.streams(stocks.map(|stock| stock.map(product).map_err(hand_back)))),
            Err(status) => Err(served.refuses(hand_back(status))),
        }
    }

    async fn fill_basket(&self, request: Request<Streaming<BasketLine>>) -> Result<Response<Basket>, Status> {
        let entry = self.ledger.serves("/shop.v1.Storefront/FillBasket", CallType::ClientStream, &request);
        let mut lines = Incoming::new(&entry, request.into_inner());
        entry
            .answers(async {
                let mut basket = Basket { lines: 0, total_cents: 0 };
                while let Some(line) = lines.next().await? {
                    let article = ARTICLES.iter().find(|(sku, _, _)| *sku == line.sku);
                    let price_cents = article.map_or(0, |(_, _, price_cents)| *price_cents);
                    basket.lines += 1;
                    basket.total_cents =
                        basket.total_cents.saturating_add(price_cents.saturating_mul(line.quantity));
                }
                Ok(basket)
            })
            .await
    }

    async fn checkout(&self, request: Request<CheckoutRequest>) -> Result<Response<Order>, Status> {
        let entry = self.ledger.serves("/shop.v1.Storefront/Checkout", CallType::Unary, &request);
        let budget = entry.budget();
        entry
            .answers(async {
                let CheckoutRequest { customer, lines, card } = request.into_inner();
                let Some(line) = lines.into_iter().next() else {
                    return Err(Status::invalid_argument("the basket is empty"));
                };
                let timeout = budget.hand_on(ORDERS_TIMEOUT)?;
                let message = PlaceOrderRequest { customer, sku: line.sku, quantity: line.quantity, card };
                let (request, entry) =
                    self.ledger.calls("/shop.v1.Orders/PlaceOrder", CallType::Unary, Some(timeout), message);
                entry.answered(self.orders.clone().place_order(request)).await.map_err(hand_back)
            })
            .await
    }

    type TrackOrderStream = Outgoing<OrderEvent>;

    async fn track_order(
        &self,
        request: Request<TrackOrderRequest>,
    ) -> Result<Response<Self::TrackOrderStream>, Status> {
        let served = self.ledger.serves("/shop.v1.Storefront/TrackOrder", CallType::ServerStream, &request);
        let timeout = match served.budget().hand_on(ORDERS_TIMEOUT) {
            Ok(timeout) => timeout,
            Err(status) => return Err(served.refuses(status)),
        };
        let (request, entry) = self.ledger.calls(
            "/shop.v1.Orders/TrackOrder",
            CallType::ServerStream,
            Some(timeout),
            request.into_inner(),
        );
        match entry.opened(self.orders.clone().track_order(request)).await {
            Ok(events) => Ok(served.streams(events.map(|event| event.map_err(hand_back)))),
            Err(status) => Err(served.refuses(hand_back(status))),
        }
    }

    type SupportStream = Outgoing<Answer>;

    async fn support(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<Self::SupportStream>, Status> {
        let entry = self.ledger.serves("/shop.v1.Storefront/Support", CallType::Bidi, &request);
        let answers = Incoming::new(&entry, request.into_inner()).then(|question| async move {
            let question = question?;
            if question.wants_human {
                // Nobody is there; the chat stays open.
                return std::future::pending().await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(Answer { text: format!("You asked: {}", question.text) })
        });
        Ok(entry.streams(answers))
    }
}
