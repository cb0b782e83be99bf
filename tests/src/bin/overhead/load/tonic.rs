//! gRPC with tonic: unary echoes, and streams of the server that never end. One thread on each side.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use proto::raw::Raw;
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, BoxStream, Service, http};
use tonic::server::{NamedService, ServerStreamingService, UnaryService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::{ECHO_BYTES, Kind, Made, STREAM_BYTES, Shape, Turns, WARM_UP};

const ECHO: &str = "/bench.Echo/Unary";
const STREAM: &str = "/bench.Echo/Stream";

pub(super) fn serve(ready: impl Fn(u16) -> Result<()>) -> Result<()> {
    tests::busy::allow_descriptors(4096)?;
    one_thread()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listen")?;
        ready(listener.local_addr()?.port())?;
        tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(Echo)
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .context("serve")
    })
}

fn one_thread() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                ECHO => grpc.unary(Echo, request).await,
                STREAM => grpc.server_streaming(Echo, request).await,
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

impl UnaryService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl ServerStreamingService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type ResponseStream = BoxStream<Vec<u8>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, _: Request<Vec<u8>>) -> Self::Future {
        let messages = std::iter::repeat_with(|| Ok(vec![0x73; STREAM_BYTES]));
        let messages: Self::ResponseStream = Box::pin(tokio_stream::iter(messages));
        Box::pin(async move { Ok(Response::new(messages)) })
    }
}

pub(super) fn load(
    kind: Kind,
    server: SocketAddr,
    shape: Shape,
    time: Duration,
    interval: Option<Duration>,
) -> Result<Made> {
    tests::busy::allow_descriptors(4096)?;
    LocalSet::new().block_on(&one_thread()?, async {
        let endpoint = Endpoint::from_shared(format!("http://{server}"))?.tcp_nodelay(true);
        let mut channels = Vec::new();
        for _ in 0..shape.connections {
            channels.push(endpoint.connect().await.with_context(|| format!("connect to {server}"))?);
        }
        match kind {
            Kind::Stream => streams(&channels, shape, time).await,
            Kind::Tonic | Kind::Http1 => calls(channels.into(), shape, time, interval).await,
        }
    })
}

async fn calls(
    channels: Rc<[Channel]>,
    shape: Shape,
    time: Duration,
    interval: Option<Duration>,
) -> Result<Made> {
    // Each call takes the next connection, so that all of them are used with fewer callers.
    let turn = Rc::new(Cell::new(0));
    let round = async |time| -> Result<Vec<Duration>> {
        let begin = Instant::now();
        let callers: Vec<_> = (0..shape.concurrency)
            .map(|place| {
                let turns = Turns::new(begin, time, interval, place, shape.concurrency);
                tokio::task::spawn_local(one_caller(channels.clone(), turn.clone(), turns))
            })
            .collect();
        let mut times = Vec::new();
        for caller in callers {
            times.extend(caller.await??);
        }
        Ok(times)
    };
    measured(round, time).await
}

/// Calls that do not count, and then, for `time`, those that do.
async fn measured(
    mut round: impl AsyncFnMut(Duration) -> Result<Vec<Duration>>,
    time: Duration,
) -> Result<Made> {
    let warm_up = round(WARM_UP).await?.len() as u64;
    super::say_begin()?;
    let begin = Instant::now();
    let times = round(time).await?;
    Ok(Made { times, warm_up, took: begin.elapsed() })
}

async fn one_caller(
    channels: Rc<[Channel]>,
    turn: Rc<Cell<usize>>,
    mut turns: Turns,
) -> Result<Vec<Duration>> {
    let path = PathAndQuery::from_static(ECHO);
    let mut callers: Vec<Grpc<Channel>> = channels.iter().cloned().map(Grpc::new).collect();
    let mut times = Vec::new();
    while let Some(pause) = turns.pause() {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let begin = turns.begin(pause);
        let place = turn.get() % callers.len();
        turn.set(place + 1);
        let caller = &mut callers[place];
        caller.ready().await?;
        let answer: Response<Vec<u8>> =
            caller.unary(Request::new(vec![0x78; ECHO_BYTES]), path.clone(), Raw).await?;
        times.push(begin.elapsed());
        anyhow::ensure!(answer.get_ref().len() == ECHO_BYTES, "the answer is another than was sent");
    }
    Ok(times)
}

/// The time of a message is that since the one before it on its stream.
async fn streams(channels: &[Channel], shape: Shape, time: Duration) -> Result<Made> {
    let mut open = Vec::new();
    for place in 0..shape.concurrency {
        let mut caller = Grpc::new(channels[place % channels.len()].clone());
        caller.ready().await?;
        let request = Request::new(Vec::new());
        let answer = caller.server_streaming(request, PathAndQuery::from_static(STREAM), Raw).await?;
        open.push(Some(answer.into_inner()));
    }
    let round = async |time: Duration| -> Result<Vec<Duration>> {
        let until = Instant::now() + time;
        let readers: Vec<_> = open
            .iter_mut()
            .filter_map(Option::take)
            .map(|stream| tokio::task::spawn_local(one_reader(stream, until)))
            .collect();
        let mut times = Vec::new();
        for (reader, place) in readers.into_iter().zip(&mut open) {
            let (stream, read) = reader.await??;
            *place = Some(stream);
            times.extend(read);
        }
        Ok(times)
    };
    measured(round, time).await
}

type Read = (Streaming<Vec<u8>>, Vec<Duration>);

async fn one_reader(mut stream: Streaming<Vec<u8>>, until: Instant) -> Result<Read> {
    let mut times = Vec::new();
    let mut last = Instant::now();
    while last < until {
        let message = stream.message().await?.context("the stream has ended")?;
        anyhow::ensure!(message.len() == STREAM_BYTES, "a message is another than was sent");
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    Ok((stream, times))
}
