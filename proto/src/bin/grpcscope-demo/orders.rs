//! Orders: reserves goods, charges the card, and undoes the one when the other fails.

use std::sync::Arc;
use std::time::Duration;

use proto::shop::inventory_client::InventoryClient;
use proto::shop::orders_server::{Orders, OrdersServer};
use proto::shop::payments_client::PaymentsClient;
use proto::shop::{
    ChargeRequest, GetOrderRequest, ImportSummary, Order, OrderEvent, PlaceOrderRequest, Receipt,
    Reservation, ReserveRequest, Stock, TrackOrderRequest,
};
use tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::budget::{Budget, hand_back};
use crate::dice::Dice;
use crate::ledger::{CallType, Ledger};
use crate::serving::next_hop;
use crate::streams::{Incoming, Outgoing};

/// The most that this service waits for another.
const INVENTORY_TIMEOUT: Duration = Duration::from_secs(2);
const PAYMENTS_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn service(
    ledger: Arc<Ledger>,
    inventory: String,
    payments: String,
) -> anyhow::Result<OrdersServer<OrderDesk>> {
    Ok(OrdersServer::new(OrderDesk {
        ledger,
        dice: Arc::new(Dice::new(3)),
        inventory: InventoryClient::new(next_hop(inventory)?),
        payments: PaymentsClient::new(next_hop(payments)?),
    }))
}

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct OrderDesk {
    ledger: Arc<Ledger>,
    dice: Arc<Dice>,
    inventory: InventoryClient<Channel>,
    payments: PaymentsClient<Channel>,
}

impl OrderDesk {
    async fn place(&self, order: PlaceOrderRequest, budget: Budget) -> Result<Order, Status> {
        let reservation = self.reserve(&order, budget).await?;
        match self.charge(&order, budget).await {
            Ok(receipt) => Ok(Order {
                id: format!("ord-{:06x}", self.dice.roll(1 << 24)),
                customer: order.customer,
                sku: order.sku,
                quantity: order.quantity,
                receipt: receipt.id,
            }),
            Err(status) => {
                // Undone in any case: with the desk's own patience, and also when the shopper is gone meanwhile, which
                // drops this handler but not a task.
                let release = tokio::spawn(self.clone().release(reservation));
                release.await.map_err(|error| Status::internal(error.to_string()))??;
                Err(hand_back(status))
            }
        }
    }

    async fn reserve(&self, order: &PlaceOrderRequest, budget: Budget) -> Result<Reservation, Status> {
        let timeout = budget.hand_on(INVENTORY_TIMEOUT)?;
        let message = ReserveRequest { sku: order.sku.clone(), quantity: order.quantity };
        let (request, entry) =
            self.ledger.calls("/shop.v1.Inventory/Reserve", CallType::Unary, Some(timeout), message);
        entry.answered(self.inventory.clone().reserve(request)).await.map_err(hand_back)
    }

    async fn release(self, reservation: Reservation) -> Result<Stock, Status> {
        let (request, entry) = self.ledger.calls(
            "/shop.v1.Inventory/Release",
            CallType::Unary,
            Some(INVENTORY_TIMEOUT),
            reservation,
        );
        entry.answered(self.inventory.clone().release(request)).await.map_err(hand_back)
    }

    /// Charges the card, and once more if the bank is away.
    async fn charge(&self, order: &PlaceOrderRequest, budget: Budget) -> Result<Receipt, Status> {
        match self.try_charge(order, 0, budget).await {
            Err(status) if status.code() == Code::Unavailable => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.try_charge(order, 1, budget).await
            }
            result => result,
        }
    }

    async fn try_charge(
        &self,
        order: &PlaceOrderRequest,
        attempt: u32,
        budget: Budget,
    ) -> Result<Receipt, Status> {
        let timeout = budget.hand_on(PAYMENTS_TIMEOUT)?;
        let message = ChargeRequest {
            customer: order.customer.clone(),
            amount_cents: order.quantity.saturating_mul(990),
            card: order.card.clone(),
            attempt,
        };
        let (mut request, entry) =
            self.ledger.calls("/shop.v1.Payments/Charge", CallType::Unary, Some(timeout), message);
        if attempt > 0 {
            // What gRPC's own retries send (gRFC A6).
            request.metadata_mut().insert("grpc-previous-rpc-attempts", MetadataValue::from(attempt));
        }
        entry.answered(self.payments.clone().charge(request)).await
    }
}

#[tonic::async_trait]
impl Orders for OrderDesk {
    async fn place_order(&self, request: Request<PlaceOrderRequest>) -> Result<Response<Order>, Status> {
        let entry = self.ledger.serves("/shop.v1.Orders/PlaceOrder", CallType::Unary, &request);
        let budget = entry.budget();
        entry.answers(self.place(request.into_inner(), budget)).await
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<Order>, Status> {
        let entry = self.ledger.serves("/shop.v1.Orders/GetOrder", CallType::Unary, &request);
        entry
            .answers(async {
                self.dice.work_us(200, 1_500).await;
                let id = request.into_inner().id;
                if !id.starts_with("ord-") {
                    return Err(Status::not_found(format!("no order {id:?}")));
                }
                Ok(Order {
                    id,
                    customer: "ada".to_owned(),
                    sku: "tea-assam".to_owned(),
                    quantity: 1,
                    ..Order::default()
                })
            })
            .await
    }

    type TrackOrderStream = Outgoing<OrderEvent>;

    async fn track_order(
        &self,
        request: Request<TrackOrderRequest>,
    ) -> Result<Response<Self::TrackOrderStream>, Status> {
        let entry = self.ledger.serves("/shop.v1.Orders/TrackOrder", CallType::ServerStream, &request);
        let TrackOrderRequest { id, express } = request.into_inner();
        if !id.starts_with("ord-") {
            return Err(entry.refuses(Status::not_found(format!("no order {id:?}"))));
        }
        let states: &[&str] =
            if express { &["placed", "paid", "packed", "delivered"] } else { &["placed", "paid", "packed"] };
        let dice = Arc::clone(&self.dice);
        let events = tokio_stream::iter(states).then(move |state| {
            let (id, dice) = (id.clone(), Arc::clone(&dice));
            async move {
                dice.work_us(1_000, 10_000).await;
                Ok(OrderEvent { id, state: (*state).to_owned() })
            }
        });
        if express {
            return Ok(entry.streams(events));
        }
        // The parcel is with the post now: no news until the watcher loses interest.
        Ok(entry.streams(events.chain(tokio_stream::pending())))
    }

    async fn import_orders(
        &self,
        request: Request<Streaming<Order>>,
    ) -> Result<Response<ImportSummary>, Status> {
        let entry = self.ledger.serves("/shop.v1.Orders/ImportOrders", CallType::ClientStream, &request);
        let mut orders = Incoming::new(&entry, request.into_inner());
        entry
            .answers(async {
                let mut summary = ImportSummary { orders: 0 };
                while orders.next().await?.is_some() {
                    summary.orders += 1;
                }
                Ok(summary)
            })
            .await
    }
}
