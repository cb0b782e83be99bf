//! Serves one service until the process is asked to end, and then finishes every call that is open.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{Service as TowerService, http};
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use crate::Service;
use crate::lifetime;

/// Listens, says where as a line of JSON, serves.
pub(crate) async fn serve<S>(name: &str, options: &Service, service: S) -> anyhow::Result<()>
where
    S: TowerService<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    serve_by(Server::builder(), name, options.listen, options.common.while_stdin, service).await
}

/// The same by a server with settings of its own.
pub(crate) async fn serve_by<S>(
    mut server: Server,
    name: &str,
    listen: SocketAddr,
    while_stdin: bool,
    service: S,
) -> anyhow::Result<()>
where
    S: TowerService<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("{name} cannot listen on {}", listen))?;
    let address = listener.local_addr()?;
    println!(
        "{}",
        serde_json::json!({"ready": name, "address": address.to_string(), "pid": std::process::id()})
    );
    std::io::stdout().flush()?;
    server
        .add_service(service)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            lifetime::is_over(while_stdin),
        )
        .await
        .with_context(|| format!("{name} failed"))
}

/// Connections to the next hop, opened with the first calls: one to each of `uris`, which have commas between them and
/// share the calls.
pub(crate) fn next_hop(uris: String) -> anyhow::Result<Channel> {
    let endpoint = |uri: &str| {
        Endpoint::from_shared(uri.to_owned()).with_context(|| format!("{uri:?} is no address of a service"))
    };
    if !uris.contains(',') {
        return Ok(endpoint(&uris)?.connect_lazy());
    }
    let endpoints: anyhow::Result<Vec<Endpoint>> = uris.split(',').map(endpoint).collect();
    Ok(Channel::balance_list(endpoints?.into_iter()))
}
