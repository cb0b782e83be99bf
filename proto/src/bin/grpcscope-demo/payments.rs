//! Payments: charges cards. What a card does is in its name (`visa`, `declined`, `flaky`, `slow`). It calls nobody.

use std::sync::Arc;

use prost::Message;
use prost_types::{Any, Duration};
use proto::google::rpc::{ErrorInfo, RetryInfo, Status as RichStatus};
use proto::shop::payments_server::{Payments, PaymentsServer};
use proto::shop::{ChargeRequest, Receipt};
use tonic::{Code, Request, Response, Status};

use crate::dice::Dice;
use crate::ledger::{CallType, Ledger};

pub(crate) fn service(ledger: Arc<Ledger>) -> PaymentsServer<Bank> {
    PaymentsServer::new(Bank { ledger, dice: Dice::new(2) })
}

/// The service.
#[derive(Debug)]
pub(crate) struct Bank {
    ledger: Arc<Ledger>,
    dice: Dice,
}

#[tonic::async_trait]
impl Payments for Bank {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<Receipt>, Status> {
        let entry = self.ledger.serves("/shop.v1.Payments/Charge", CallType::Unary, &request);
        entry
            .answers(async {
                let charge = request.into_inner();
                self.dice.work_us(2_000, 12_000).await;
                match charge.card.as_str() {
                    "declined" => Err(declined()),
                    "flaky" if charge.attempt == 0 => Err(bank_is_away()),
                    "slow" => std::future::pending().await,
                    _ => Ok(Receipt { id: format!("rcpt-{:08x}", self.dice.roll(1 << 32)) }),
                }
            })
            .await
    }
}

fn declined() -> Status {
    let reason = ErrorInfo {
        reason: "CARD_DECLINED".to_owned(),
        domain: "payments.shop.example".to_owned(),
        ..ErrorInfo::default()
    };
    rich(Code::FailedPrecondition, "the card was declined", "google.rpc.ErrorInfo", &reason)
}

fn bank_is_away() -> Status {
    let retry = RetryInfo { retry_delay: Some(Duration { seconds: 0, nanos: 5_000_000 }) };
    rich(Code::Unavailable, "the bank is away", "google.rpc.RetryInfo", &retry)
}

/// A status with one detail, as `grpc-status-details-bin` carries it.
fn rich(code: Code, message: &str, type_name: &str, detail: &impl Message) -> Status {
    let detail = Any { type_url: format!("type.googleapis.com/{type_name}"), value: detail.encode_to_vec() };
    let status = RichStatus { code: code as i32, message: message.to_owned(), details: vec![detail] };
    Status::with_details(code, message, status.encode_to_vec().into())
}
