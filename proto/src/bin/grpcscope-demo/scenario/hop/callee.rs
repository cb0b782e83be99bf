//! The end of the chain, or a hop that hands each call on: what it does is in the text of the request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use super::next::Next;
use super::{LIMIT, SERVICE, Scenario};
use crate::budget::{Budget, hand_back, timeout_of};
use crate::scenario::trace;
use crate::serving;
use proto::raw::Raw;

/// How old a connection gets. Without a grace: with one, tonic 0.14.9 sends no GOAWAY, and drops the connection after both.
const AGE: Duration = Duration::from_secs(1);
/// No call has longer than that, whatever its caller leaves.
const LONGEST: Duration = Duration::from_secs(60);

/// Serves until the process is asked to end.
pub(super) async fn serve(
    scenario: Scenario,
    listen: SocketAddr,
    while_stdin: bool,
    next: Option<Next>,
) -> anyhow::Result<()> {
    let server = match scenario {
        Scenario::StreamLimit => Server::builder().max_concurrent_streams(LIMIT),
        Scenario::MaxConnectionAge => Server::builder().max_connection_age(AGE),
        Scenario::Pinned
        | Scenario::Balanced
        | Scenario::ScaleUp
        | Scenario::TooManyPings
        | Scenario::RetryStorm
        | Scenario::Chain => Server::builder(),
    };
    serving::serve_by(server, "hop", listen, while_stdin, Hop { next }).await
}

/// The service: any method is unary.
#[derive(Clone, Debug)]
struct Hop {
    next: Option<Next>,
}

impl NamedService for Hop {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for Hop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let handler = Handler { next: self.next.clone(), method };
        Box::pin(async move { Ok(Grpc::new(Raw).unary(handler, request).await) })
    }
}

/// A call.
struct Handler {
    next: Option<Next>,
    method: String,
}

impl UnaryService<Vec<u8>> for Handler {
    type Response = Vec<u8>;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let (next, method) = (self.next.take(), std::mem::take(&mut self.method));
        Box::pin(async move {
            let text = String::from_utf8_lossy(request.get_ref()).into_owned();
            let reply = match next {
                Some(next) => hand_on(&next, &method, &text, request.metadata()).await?,
                None => answer(text, &request).await?,
            };
            Ok(Response::new(reply.into_bytes()))
        })
    }
}

/// Calls the next hop with what is left of the deadline, and in the same trace.
async fn hand_on(next: &Next, method: &str, text: &str, inbound: &MetadataMap) -> Result<String, Status> {
    let deadline = timeout_of(inbound).and_then(|timeout| Instant::now().checked_add(timeout));
    let left = Budget::until(deadline).hand_on(LONGEST)?;
    next.call(method, text, left, |outbound| trace::hand_on(inbound, outbound)).await.map_err(hand_back)
}

async fn answer(text: String, request: &Request<Vec<u8>>) -> Result<String, Status> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let number = |word: &str| word.parse().map_err(|_| Status::invalid_argument("no number"));
    match words[..] {
        ["slow", ms] => {
            let ms: u32 = number(ms)?;
            tokio::time::sleep(Duration::from_millis(ms.into())).await;
        }
        ["flaky", failures, code] => {
            let before = request.metadata().get("grpc-previous-rpc-attempts");
            let before = before.and_then(|before| before.to_str().ok()?.parse().ok()).unwrap_or(0);
            if before < number(failures)? {
                let code: u32 = number(code)?;
                return Err(Status::new(Code::from(code.cast_signed()), "try again"));
            }
        }
        ["peer"] => {
            let peer =
                request.remote_addr().ok_or_else(|| Status::internal("a caller without an address"))?;
            return Ok(peer.to_string());
        }
        ["ok"] => {}
        _ => return Err(Status::unimplemented("no such text")),
    }
    Ok(text)
}
