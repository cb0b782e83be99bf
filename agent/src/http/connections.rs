//! Takes connections, few of them and not for ever.
//!
//! A connection waits for a request, or has one. When all places are taken, the one that waits longest makes
//! room, so that a thousand idle connections keep no scraper out; one that has a request is given
//! [`Limits::request`] to take the answer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

/// Bounds of the HTTP server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Time for the headers of a request to arrive.
    pub headers: Duration,
    /// Time from a request to the last byte of its answer.
    pub request: Duration,
    /// Time that a connection may wait for its next request.
    pub idle: Duration,
    /// Bytes of a request's headers.
    pub header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 64,
            headers: Duration::from_secs(5),
            request: Duration::from_secs(20),
            // More than the usual scrape intervals, so that scrapers keep their connection.
            idle: Duration::from_secs(180),
            header_bytes: 16 * 1024,
        }
    }
}

/// Header fields of a request.
const HEADER_FIELDS_MAX: usize = 64;
/// Pieces in which an answer is handed over, so that its end is near the end of its way.
const PIECE_BYTES: usize = 64 * 1024;
/// Time for answers that were begun, at the end.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections until `shutdown` is done.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut shutdown = pin!(shutdown);
    let mut open = Open { connections: VecDeque::new(), limits };
    let mut tick = tokio::time::interval(limits.headers.min(Duration::from_secs(1)));
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            _ = tick.tick() => open.close_overdue(Instant::now()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => open.take(stream, &router),
                Err(error) => {
                    warn!("cannot take an HTTP connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let end = Instant::now() + FAREWELL;
    while open.has_requests() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The connections, oldest first. Dropping it closes them.
struct Open {
    connections: VecDeque<Connection>,
    limits: Limits,
}

struct Connection {
    task: AbortHandle,
    activity: Arc<Activity>,
}

impl Open {
    fn take(&mut self, stream: TcpStream, router: &Router) {
        self.connections.retain(|connection| !connection.task.is_finished());
        if self.connections.len() >= self.limits.connections {
            let waiting = self.connections.iter().enumerate();
            let waiting = waiting.filter(|(_, connection)| !connection.activity.has_request());
            let waiting = waiting.map(|(at, connection)| (connection.activity.since(), at));
            match waiting.min() {
                Some((_, at)) => {
                    if let Some(connection) = self.connections.remove(at) {
                        connection.task.abort();
                    }
                }
                None => {
                    debug!("HTTP connection refused: all {} have a request", self.limits.connections);
                    return;
                }
            }
        }
        let activity = Arc::new(Activity::new());
        let task = tokio::spawn(talk(stream, router.clone(), Arc::clone(&activity), self.limits));
        self.connections.push_back(Connection { task: task.abort_handle(), activity });
    }

    fn close_overdue(&mut self, now: Instant) {
        let limits = self.limits;
        self.connections.retain(|connection| {
            let limit = if connection.activity.has_request() { limits.request } else { limits.idle };
            let overdue = now.saturating_duration_since(connection.activity.since()) > limit;
            if overdue {
                connection.task.abort();
            }
            !overdue && !connection.task.is_finished()
        });
    }

    fn has_requests(&self) -> bool {
        self.connections
            .iter()
            .any(|connection| connection.activity.has_request() && !connection.task.is_finished())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        for connection in &self.connections {
            connection.task.abort();
        }
    }
}

/// Whether a connection has a request, and since when it has or has not.
struct Activity {
    has_request: AtomicBool,
    since: Mutex<Instant>,
}

impl Activity {
    fn new() -> Self {
        Activity { has_request: AtomicBool::new(false), since: Mutex::new(Instant::now()) }
    }

    fn set(&self, has_request: bool) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.has_request.store(has_request, Ordering::Release);
    }

    fn has_request(&self) -> bool {
        self.has_request.load(Ordering::Acquire)
    }

    fn since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a request when its answer has gone.
struct Request(Arc<Activity>);

impl Request {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.set(true);
        Request(Arc::clone(activity))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

async fn talk(stream: TcpStream, router: Router, activity: Arc<Activity>, limits: Limits) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let guard = Request::begin(&activity);
        let answer = router.call(request);
        async move {
            let response = answer.await?;
            Ok::<_, Infallible>(response.map(|body| Answer { body, rest: Bytes::new(), _request: guard }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(limits.header_bytes)
        .max_headers(HEADER_FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!("HTTP connection ended: {error}");
    }
}

/// A body that is handed over in pieces, and knows when it is gone.
struct Answer {
    body: Body,
    rest: Bytes,
    _request: Request,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        let mut with_rest = SizeHint::new();
        with_rest.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            with_rest.set_upper(upper + rest);
        }
        with_rest
    }
}
