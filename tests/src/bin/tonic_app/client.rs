//! The client: makes the calls of a plan over one channel.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tests::plan::{self, CallType, Metadata, PlannedCall};
use tests::truth::{ClientCall, Outcome, TruthFile, wall_clock_ns};
use tokio_stream::{Stream, StreamExt as _};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{BinaryMetadataValue, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use proto::raw::Raw;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// HOST:PORT of the server.
    #[arg(long, required_unless_present = "unix")]
    target: Option<String>,
    /// Unix socket of the server.
    #[arg(long)]
    unix: Option<PathBuf>,
    /// File of the plan.
    #[arg(long)]
    plan: PathBuf,
    /// File of the truth.
    #[arg(long)]
    truth: PathBuf,
    /// Calls at once.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// Calls a second.
    #[arg(long)]
    rate: Option<f64>,
    /// Wait for a line on standard input after the first half.
    #[arg(long)]
    hold: bool,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let calls: Arc<[PlannedCall]> = plan::read(&options.plan)?.into();
    let truth = Arc::new(TruthFile::open(&options.truth)?);
    let uri = match (&options.unix, &options.target) {
        (Some(path), _) => format!("unix://{}", path.display()),
        (None, Some(target)) => format!("http://{target}"),
        (None, None) => anyhow::bail!("say --target or --unix"),
    };
    crate::say(&serde_json::json!({"ready": true, "pid": std::process::id()}));
    let channel =
        Endpoint::from_shared(uri.clone())?.connect().await.with_context(|| format!("connect to {uri}"))?;
    let half = if options.hold { calls.len() / 2 } else { calls.len() };
    make_calls(&channel, &truth, &calls, 0..half, &options).await?;
    if options.hold {
        crate::say(&serde_json::json!({"held": true}));
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
        make_calls(&channel, &truth, &calls, half..calls.len(), &options).await?;
    }
    // A reset of the last call shall reach the wire before the connection goes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(channel);
    crate::say(&serde_json::json!({"done": true, "calls": calls.len()}));
    Ok(())
}

async fn make_calls(
    channel: &Channel,
    truth: &Arc<TruthFile>,
    calls: &Arc<[PlannedCall]>,
    range: std::ops::Range<usize>,
    options: &Options,
) -> anyhow::Result<()> {
    let begin = tokio::time::Instant::now();
    let next = Arc::new(AtomicUsize::new(range.start));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..options.concurrency {
        let (channel, truth, calls, next) = (channel.clone(), truth.clone(), calls.clone(), next.clone());
        let (range, rate) = (range.clone(), options.rate);
        workers.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= range.end {
                    return;
                }
                if let Some(rate) = rate {
                    let due = begin + Duration::from_secs_f64((index - range.start) as f64 / rate);
                    tokio::time::sleep_until(due).await;
                }
                truth.write(&make(&channel, &calls[index]).await);
            }
        });
    }
    while let Some(result) = workers.join_next().await {
        result?;
    }
    Ok(())
}

/// What the call has moved so far; shared with the request stream, which tonic consumes on its own.
#[derive(Default)]
struct Counts {
    sent_msgs: AtomicU64,
    sent_bytes: AtomicU64,
    recv_msgs: AtomicU64,
    recv_bytes: AtomicU64,
}

impl Counts {
    fn receive(&self, message: &[u8]) {
        self.recv_msgs.fetch_add(1, Ordering::Relaxed);
        self.recv_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
    }

    fn send(&self, message: &[u8]) {
        self.sent_msgs.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
    }
}

/// Makes one call and returns its truth.
async fn make(channel: &Channel, call: &PlannedCall) -> ClientCall {
    let counts = Arc::new(Counts::default());
    let mut truth = ClientCall::planned(call);
    let over = match call.cancel_after_ms {
        // Dropping the call's future is how a caller of tonic cancels.
        Some(ms) => tokio::time::timeout(Duration::from_millis(ms), exchange(channel, call, &counts)).await,
        None => Ok(exchange(channel, call, &counts).await),
    };
    truth.t1_ns = wall_clock_ns();
    truth.code = match over {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => status.code() as u32,
        Err(_) => 1,
    };
    truth.outcome = Outcome::of(truth.code);
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    truth.sent_msgs = load(&counts.sent_msgs);
    truth.sent_bytes = load(&counts.sent_bytes);
    truth.recv_msgs = load(&counts.recv_msgs);
    truth.recv_bytes = load(&counts.recv_bytes);
    truth
}

async fn exchange(channel: &Channel, call: &PlannedCall, counts: &Arc<Counts>) -> Result<(), Status> {
    let mut grpc =
        Grpc::new(channel.clone()).max_decoding_message_size(1 << 26).max_encoding_message_size(1 << 26);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(format!("/{}/{}", plan::SERVICE, call.method))
        .map_err(|error| Status::internal(error.to_string()))?;
    match call.call_type {
        CallType::Unary => {
            let message = call.send[0].payload();
            counts.send(&message);
            let response: Response<Vec<u8>> = grpc.unary(request(call, message), path, Raw).await?;
            counts.receive(response.get_ref());
            Ok(())
        }
        CallType::ClientStream => {
            let messages = request(call, messages(call, counts));
            let response: Response<Vec<u8>> = grpc.client_streaming(messages, path, Raw).await?;
            counts.receive(response.get_ref());
            Ok(())
        }
        CallType::ServerStream => {
            let message = call.send[0].payload();
            counts.send(&message);
            let response = grpc.server_streaming(request(call, message), path, Raw).await?;
            receive_all(call, counts, response.into_inner()).await
        }
        CallType::Bidi => {
            let response = grpc.streaming(request(call, messages(call, counts)), path, Raw).await?;
            receive_all(call, counts, response.into_inner()).await
        }
    }
}

async fn receive_all(
    call: &PlannedCall,
    counts: &Counts,
    mut replies: Streaming<Vec<u8>>,
) -> Result<(), Status> {
    while let Some(message) = replies.message().await? {
        counts.receive(&message);
        if call.cancel_after_messages == Some(counts.recv_msgs.load(Ordering::Relaxed)) {
            return Err(Status::cancelled("by the plan"));
        }
    }
    Ok(())
}

fn messages(call: &PlannedCall, counts: &Arc<Counts>) -> impl Stream<Item = Vec<u8>> + Send + 'static {
    let counts = counts.clone();
    tokio_stream::iter(call.send.clone()).map(move |message| {
        let payload = message.payload();
        counts.send(&payload);
        payload
    })
}

fn request<T>(call: &PlannedCall, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(ms) = call.timeout_ms {
        request.set_timeout(Duration::from_millis(ms));
    }
    add_metadata(call, request.metadata_mut());
    request
}

fn add_metadata(call: &PlannedCall, metadata: &mut MetadataMap) {
    let value = |text: String| MetadataValue::try_from(text).expect("the text is printable ASCII");
    metadata.insert("x-call-id", value(call.id.to_string()));
    if call.metadata != Metadata::None {
        let trace = u128::from(call.id) * 0x9E37_79B9_7F4A_7C15;
        metadata.insert("traceparent", value(format!("00-{trace:032x}-{:016x}-01", call.id + 1)));
    }
    if call.metadata == Metadata::Full {
        let blob: Vec<u8> = (0..20).collect();
        metadata.insert_bin("k-bin", BinaryMetadataValue::from_bytes(&blob));
        metadata.insert("long", value("v".repeat(300)));
        metadata.insert("user-key", value("user value".to_owned()));
    }
}
