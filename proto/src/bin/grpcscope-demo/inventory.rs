//! Inventory: articles, and how many of each are left. It calls nobody.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::shop::inventory_server::{Inventory, InventoryServer};
use proto::shop::{GetStockRequest, ListStockRequest, Reservation, ReserveRequest, Stock, Stocktake};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use crate::dice::Dice;
use crate::ledger::{CallType, Ledger};
use crate::streams::{Incoming, Outgoing};

/// What the shop sells: article number, title, price in cents.
pub(crate) const ARTICLES: [(&str, &str, u32); 12] = [
    ("tea-assam", "Assam, second flush", 890),
    ("tea-ceylon", "Ceylon, high grown", 790),
    ("tea-darjeeling", "Darjeeling, first flush", 1890),
    ("tea-gunpowder", "Gunpowder, Temple of Heaven", 690),
    ("tea-jasmine", "Jasmine pearls", 1290),
    ("tea-keemun", "Keemun, Hao Ya A", 1490),
    ("tea-matcha", "Matcha, ceremonial", 2990),
    ("tea-oolong", "Oolong, Ti Kuan Yin", 1590),
    ("tea-puerh", "Pu-erh, ripe", 1190),
    ("tea-rooibos", "Rooibos, which is not tea", 490),
    ("tea-sencha", "Sencha, Uji", 1390),
    ("tea-silver", "Silver needle", 2490),
];

/// What a full shelf holds, and what every shelf starts with.
const SHELF: u32 = 500;

pub(crate) fn service(ledger: Arc<Ledger>) -> InventoryServer<Shelves> {
    let units = Mutex::new([SHELF; ARTICLES.len()]);
    InventoryServer::new(Shelves { ledger, dice: Arc::new(Dice::new(1)), shared: Arc::new(units) })
}

/// The service: one shelf an article.
#[derive(Clone, Debug)]
pub(crate) struct Shelves {
    ledger: Arc<Ledger>,
    dice: Arc<Dice>,
    shared: Arc<Mutex<[u32; ARTICLES.len()]>>,
}

impl Shelves {
    fn stock(&self, sku: &str) -> Result<Stock, Status> {
        let shelf = shelf_of(sku)?;
        let units = self.shared.lock().unwrap_or_else(PoisonError::into_inner)[shelf];
        Ok(Stock { sku: sku.to_owned(), units, price_cents: ARTICLES[shelf].2 })
    }

    fn take(&self, sku: &str, quantity: u32) -> Result<(), Status> {
        let shelf = shelf_of(sku)?;
        if quantity > SHELF {
            return Err(Status::resource_exhausted(format!("a shelf holds {SHELF} units, not {quantity}")));
        }
        let mut shelves = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        // An empty shelf is filled over night, and nights are short here.
        shelves[shelf] = shelves[shelf].checked_sub(quantity).unwrap_or(SHELF - quantity);
        Ok(())
    }

    fn put_back(&self, sku: &str, quantity: u32) -> Result<(), Status> {
        let shelf = shelf_of(sku)?;
        let mut shelves = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shelves[shelf] = shelves[shelf].saturating_add(quantity).min(SHELF);
        Ok(())
    }
}

fn shelf_of(sku: &str) -> Result<usize, Status> {
    let shelf = ARTICLES.iter().position(|(known, _, _)| *known == sku);
    shelf.ok_or_else(|| Status::not_found(format!("no article {sku:?}")))
}

#[tonic::async_trait]
impl Inventory for Shelves {
    async fn get_stock(&self, request: Request<GetStockRequest>) -> Result<Response<Stock>, Status> {
        let entry = self.ledger.serves("/shop.v1.Inventory/GetStock", CallType::Unary, &request);
        entry
            .answers(async {
                self.dice.work_us(200, 2_000).await;
                self.stock(&request.get_ref().sku)
            })
            .await
    }

    type ListStockStream = Outgoing<Stock>;

    async fn list_stock(
        &self,
        request: Request<ListStockRequest>,
    ) -> Result<Response<Self::ListStockStream>, Status> {
        let entry = self.ledger.serves("/shop.v1.Inventory/ListStock", CallType::ServerStream, &request);
        let ListStockRequest { prefix, limit } = request.into_inner();
        let shelves = self.clone();
        let matching =
            ARTICLES.iter().filter(move |(sku, _, _)| sku.starts_with(&prefix)).take(limit as usize);
        let stocks = tokio_stream::iter(matching).then(move |(sku, _, _)| {
            let shelves = shelves.clone();
            async move {
                shelves.dice.work_us(50, 800).await;
                shelves.stock(sku)
            }
        });
        Ok(entry.streams(stocks))
    }

    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<Reservation>, Status> {
        let entry = self.ledger.serves("/shop.v1.Inventory/Reserve", CallType::Unary, &request);
        entry
            .answers(async {
                self.dice.work_us(500, 4_000).await;
                let ReserveRequest { sku, quantity } = request.into_inner();
                self.take(&sku, quantity)?;
                Ok(Reservation { id: format!("res-{:06x}", self.dice.roll(1 << 24)), sku, quantity })
            })
            .await
    }

    async fn release(&self, request: Request<Reservation>) -> Result<Response<Stock>, Status> {
        let entry = self.ledger.serves("/shop.v1.Inventory/Release", CallType::Unary, &request);
        entry
            .answers(async {
                let Reservation { sku, quantity, .. } = request.into_inner();
                self.put_back(&sku, quantity)?;
                self.stock(&sku)
            })
            .await
    }

    async fn count_shelves(&self, request: Request<Streaming<Stock>>) -> Result<Response<Stocktake>, Status> {
        let entry = self.ledger.serves("/shop.v1.Inventory/CountShelves", CallType::ClientStream, &request);
        let mut shelves = Incoming::new(&entry, request.into_inner());
        entry
            .answers(async {
                let mut total = Stocktake { shelves: 0, units: 0 };
                let mut nameless = 0;
                while let Some(shelf) = shelves.next().await? {
                    total.shelves += 1;
                    total.units = total.units.saturating_add(shelf.units);
                    nameless += u32::from(shelf.sku.is_empty());
                }
                if nameless > 0 {
                    return Err(Status::invalid_argument(format!("{nameless} shelves have no article")));
                }
                Ok(total)
            })
            .await
    }

    type WatchLevelsStream = Outgoing<Stock>;

    async fn watch_levels(
        &self,
        request: Request<Streaming<GetStockRequest>>,
    ) -> Result<Response<Self::WatchLevelsStream>, Status> {
        let entry = self.ledger.serves("/shop.v1.Inventory/WatchLevels", CallType::Bidi, &request);
        let shelves = self.clone();
        let levels = Incoming::new(&entry, request.into_inner()).then(move |asked| {
            let shelves = shelves.clone();
            async move {
                tokio::time::sleep(Duration::from_micros(300)).await;
                shelves.stock(&asked?.sku)
            }
        });
        Ok(entry.streams(levels))
    }
}
