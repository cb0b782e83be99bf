//! The agent's HTTP server: `/metrics`, `/api/v1/findings`, `/healthz`, `/readyz`, `/`.
//!
//! It is made for a scraper and a person, not for the world: few connections, short limits, no path that
//! is not written here.

mod connections;
mod negotiation;
mod pages;
mod readiness;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

pub use connections::Limits;
pub use readiness::Readiness;

use crate::findings::Findings;
use crate::metrics::Metrics;

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
    /// Everything that was found.
    pub findings: Arc<Findings>,
    /// Whether the agent does its work.
    pub readiness: Arc<Readiness>,
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => f.write_str("the address is in use; choose another with --listen"),
            io::ErrorKind::AddrNotAvailable => {
                f.write_str("no interface of this machine has the address; choose another with --listen")
            }
            io::ErrorKind::PermissionDenied => f.write_str(
                "not permitted (ports below 1024 need CAP_NET_BIND_SERVICE); choose another with --listen",
            ),
            _ => write!(f, "{}", self.error),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Listens on an address.
///
/// # Errors
/// The address is in use, not of this machine, or not permitted.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|error| BindError { address, error })
}

/// Answers until `shutdown` is done, then finishes what was begun, for at most a second.
///
/// # Errors
/// The listener's address is not known, which the kernel does not do.
pub async fn serve(
    listener: TcpListener,
    shared: Shared,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    serve_with(listener, shared, Limits::default(), shutdown).await
}

/// The same with other limits.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with(
    listener: TcpListener,
    shared: Shared,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let only_local = listener.local_addr()?.ip().is_loopback();
    connections::serve(listener, router(shared, only_local), limits, shutdown).await;
    Ok(())
}

fn router(shared: Shared, only_local: bool) -> Router {
    Router::new()
        .route("/", get(pages::index))
        .route("/metrics", get(pages::metrics))
        .route("/api/v1/findings", get(pages::findings))
        .route("/healthz", get(pages::healthz))
        .route("/livez", get(pages::healthz))
        .route("/readyz", get(pages::readyz))
        .fallback(pages::not_found)
        .layer(middleware::from_fn_with_state(only_local, check_host))
        .with_state(shared)
}

/// A page in a browser may point a name of its own at 127.0.0.1 and read what listens there (DNS rebinding).
/// So a server that only this machine can reach answers only to this machine's names.
async fn check_host(State(only_local): State<bool>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or(""));
    if only_local && !host.is_none_or(is_local_name) {
        let text = "this address answers to localhost, 127.0.0.1 and [::1] only; see --listen\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    next.run(request).await
}

fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let is_loopback = address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let name = name.to_ascii_lowercase();
    is_loopback || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
