//! Calls to the next hop, over one connection or several, with a retry layer where the scenario has one.

use std::time::Duration;

use anyhow::Context;
use tonic::client::Grpc;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::{SERVICE, Scenario};
use proto::raw::Raw;

/// All backends of a service go by one name, whatever their addresses are.
const AUTHORITY: &str = "http://hop.test";
/// Any server has had enough of PINGs without data at this interval.
const PINGS: Duration = Duration::from_secs(1);
/// How often a call is made at most where calls are tried again.
const ATTEMPTS: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(50);

/// The next hop.
#[derive(Clone, Debug)]
pub(super) struct Next {
    channel: Channel,
    tries_again: bool,
}

impl Next {
    /// `addresses` have commas between them. Connections are opened with the first calls.
    pub(super) fn of(scenario: Scenario, addresses: &str) -> anyhow::Result<Self> {
        let endpoint = |address: &str| -> anyhow::Result<Endpoint> {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .with_context(|| format!("{address:?} is no address"))?
                .origin(Uri::from_static(AUTHORITY));
            Ok(match scenario {
                Scenario::TooManyPings => {
                    endpoint.http2_keep_alive_interval(PINGS).keep_alive_while_idle(true)
                }
                _ => endpoint,
            })
        };
        let mut endpoints =
            addresses.split(',').map(endpoint).collect::<anyhow::Result<Vec<_>>>()?.into_iter();
        let channel = if scenario == Scenario::Balanced {
            Channel::balance_list(endpoints)
        } else {
            endpoints.next().context("no address")?.connect_lazy()
        };
        Ok(Next { channel, tries_again: scenario == Scenario::RetryStorm })
    }

    /// Makes a call of a method of the service. `prepare` gets the request of each attempt, to add metadata.
    pub(super) async fn call(
        &self,
        method: &str,
        text: &str,
        timeout: Duration,
        prepare: impl Fn(&mut Request<Vec<u8>>),
    ) -> Result<String, Status> {
        let path = PathAndQuery::try_from(format!("/{SERVICE}/{method}"))
            .map_err(|error| Status::internal(error.to_string()))?;
        let attempts = if self.tries_again { ATTEMPTS } else { 1 };
        let mut before = 0;
        loop {
            let mut request = Request::new(text.as_bytes().to_vec());
            request.set_timeout(timeout);
            prepare(&mut request);
            if before > 0 {
                // gRFC A6: how many attempts there were before this one.
                request.metadata_mut().insert("grpc-previous-rpc-attempts", before.into());
            }
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            match grpc.unary(request, path.clone(), Raw).await {
                Ok(reply) => return Ok(String::from_utf8_lossy(reply.get_ref()).into_owned()),
                Err(status) if status.code() == Code::Unavailable && before + 1 < attempts => {
                    before += 1;
                    tokio::time::sleep(BACKOFF * before).await;
                }
                Err(status) => return Err(status),
            }
        }
    }
}
