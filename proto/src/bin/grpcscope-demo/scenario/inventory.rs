//! Inventory of the scenarios: what it does is in the article that it is asked for.

use std::sync::Arc;
use std::time::Duration;

use proto::shop::inventory_server::{Inventory, InventoryServer};
use proto::shop::{GetStockRequest, ListStockRequest, Reservation, ReserveRequest, Stock, Stocktake};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::bulk::{Load, PACED};
use crate::ledger::{CallType, Ledger};
use crate::streams::Outgoing;

/// An article that inventory has.
pub(crate) const TEA: &str = "tea-assam";
/// One about which it has to ask somebody who does not answer in time.
pub(crate) const SPENT: &str = "tea-spent";
/// One that takes it so long that nobody should wait.
pub(crate) const SLOW: &str = "tea-slow";
/// What [`SLOW`] takes.
pub(crate) const SLOW_WORK: Duration = Duration::from_millis(600);
/// One that inventory does not have.
pub(crate) const UNKNOWN: &str = "coffee";
/// The beginning of article numbers of which it never finishes the list.
pub(crate) const ENDLESS: &str = "endless";

pub(crate) fn service(ledger: Arc<Ledger>) -> InventoryServer<Shelves> {
    InventoryServer::new(Shelves { ledger })
}

/// The service.
#[derive(Debug)]
pub(crate) struct Shelves {
    ledger: Arc<Ledger>,
}

fn stock(sku: &str) -> Stock {
    Stock { sku: sku.to_owned(), units: 5, price_cents: 890 }
}

#[tonic::async_trait]
impl Inventory for Shelves {
    async fn get_stock(&self, request: Request<GetStockRequest>) -> Result<Response<Stock>, Status> {
        let entry = self.ledger.serves("/shop.v1.Inventory/GetStock", CallType::Unary, &request);
        entry
            .answers(async {
                let sku = request.into_inner().sku;
                match sku.as_str() {
                    SPENT => return Err(Status::deadline_exceeded("the warehouse did not answer in time")),
                    UNKNOWN => return Err(Status::not_found("no such article")),
                    SLOW => tokio::time::sleep(SLOW_WORK).await,
                    _ => {}
                }
                Ok(stock(&sku))
            })
            .await
    }

    type ListStockStream = Outgoing<Stock>;

    async fn list_stock(
        &self,
        request: Request<ListStockRequest>,
    ) -> Result<Response<Self::ListStockStream>, Status> {
        let entry = self.ledger.serves("/shop.v1.Inventory/ListStock", CallType::ServerStream, &request);
        let prefix = request.into_inner().prefix;
        let stocks = tokio_stream::iter([Ok(stock(TEA))]);
        if let Some(load) = Load::of(&prefix, &self.ledger, "/shop.v1.Inventory/ListStock") {
            return Ok(entry.streams(load));
        }
        if prefix == ENDLESS {
            return Ok(entry.streams(stocks.chain(tokio_stream::pending())));
        }
        Ok(entry.streams(stocks))
    }

    async fn reserve(&self, _: Request<ReserveRequest>) -> Result<Response<Reservation>, Status> {
        Err(Status::unimplemented("no scenario reserves"))
    }

    async fn release(&self, _: Request<Reservation>) -> Result<Response<Stock>, Status> {
        Err(Status::unimplemented("no scenario releases"))
    }

    async fn count_shelves(&self, _: Request<Streaming<Stock>>) -> Result<Response<Stocktake>, Status> {
        Err(Status::unimplemented("no scenario takes stock"))
    }

    type WatchLevelsStream = Outgoing<Stock>;

    async fn watch_levels(
        &self,
        request: Request<Streaming<GetStockRequest>>,
    ) -> Result<Response<Self::WatchLevelsStream>, Status> {
        let method = "/shop.v1.Inventory/WatchLevels";
        let entry = self.ledger.serves(method, CallType::Bidi, &request);
        match Load::of(PACED, &self.ledger, method) {
            Some(load) => Ok(entry.streams(load)),
            None => Err(entry.refuses(Status::internal("there is always much to send"))),
        }
    }
}
