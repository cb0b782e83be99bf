//! The server: one generic service, its handlers by method name.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use tests::plan::SERVICE;
use tests::truth::{ServerCall, TruthFile};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::{BinaryMetadataValue, MetadataMap, MetadataValue};
use tonic::server::{ClientStreamingService, Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Code, Request, Response, Status, Streaming};

use proto::raw::Raw;

const FAILURE: &str = "bad thing: 100% \u{fc}n\u{ef}code\nline2";
const MAX_MESSAGE_BYTES: usize = 1 << 26;

pub(crate) async fn serve(port: u16, unix: Option<PathBuf>, truth: &Path) -> anyhow::Result<()> {
    let router =
        tonic::transport::Server::builder().add_service(Calls { truth: Arc::new(TruthFile::open(truth)?) });
    let ready = |port: u16| {
        crate::say(&serde_json::json!({"ready": true, "port": port, "pid": std::process::id()}));
    };
    if let Some(path) = unix {
        let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
        ready(0);
        router.serve_with_incoming(UnixListenerStream::new(listener)).await?;
    } else {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("listen")?;
        ready(listener.local_addr()?.port());
        router.serve_with_incoming(TcpListenerStream::new(listener)).await?;
    }
    Ok(())
}

/// The service.
#[derive(Clone)]
struct Calls {
    truth: Arc<TruthFile>,
}

impl NamedService for Calls {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let handler = Handler { truth: self.truth.clone(), method };
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            Ok(match handler.method.as_str() {
                "Unary" | "Big" | "Slow" | "Fail" | "Metadata" => grpc.unary(handler, request).await,
                "ClientStream" | "Early" | "EarlyOk" => grpc.client_streaming(handler, request).await,
                "ServerStream" | "FailAfter" | "Bidi" => grpc.streaming(handler, request).await,
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

/// One call as its handler sees it; written when it is dropped, so a handler that is cancelled is written too.
struct Handled {
    truth: Arc<TruthFile>,
    record: ServerCall,
}

impl Handled {
    fn received(&mut self, message: &[u8]) {
        self.record.recv_msgs += 1;
        self.record.recv_bytes += message.len() as u64;
    }

    fn sent(&mut self, message: &[u8]) {
        self.record.sent_msgs += 1;
        self.record.sent_bytes += message.len() as u64;
    }

    fn ended(&mut self, code: u32) {
        self.record.code = Some(code);
        self.record.cancelled = false;
    }

    /// Ends the call with one message.
    fn ok(mut self, message: Vec<u8>) -> Response<Vec<u8>> {
        self.sent(&message);
        self.ended(0);
        Response::new(message)
    }

    fn failed(&mut self, code: u32, message: &str) -> Status {
        self.ended(code);
        Status::new(Code::from(code as i32), message)
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        self.truth.write(&self.record);
    }
}

#[derive(Clone)]
struct Handler {
    truth: Arc<TruthFile>,
    method: String,
}

impl Handler {
    fn handled(&self, metadata: &MetadataMap) -> Handled {
        let id = metadata.get("x-call-id").and_then(|value| value.to_str().ok()?.parse().ok());
        Handled {
            truth: self.truth.clone(),
            record: ServerCall {
                side: "server".to_owned(),
                id: id.unwrap_or(-1),
                method: format!("/{SERVICE}/{}", self.method),
                code: None,
                recv_msgs: 0,
                recv_bytes: 0,
                sent_msgs: 0,
                sent_bytes: 0,
                cancelled: true,
            },
        }
    }
}

impl UnaryService<Vec<u8>> for Handler {
    type Response = Vec<u8>;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let mut call = self.handled(request.metadata());
        let method = self.method.clone();
        Box::pin(async move {
            let message = request.into_inner();
            call.received(&message);
            match method.as_str() {
                "Big" => Ok(call.ok(vec![b'b'; number(&message) as usize])),
                "Slow" => {
                    tokio::time::sleep(Duration::from_millis(number(&message))).await;
                    Ok(call.ok(message))
                }
                "Fail" => {
                    let mut status = call.failed(number(&message) as u32, FAILURE);
                    status.metadata_mut().insert("x-detail", MetadataValue::from_static("nope"));
                    let blob = BinaryMetadataValue::from_bytes(&[0, 1, 255]);
                    status.metadata_mut().insert_bin("blob-bin", blob);
                    Err(status)
                }
                "Metadata" => {
                    let mut response = call.ok(message);
                    response.metadata_mut().insert("x-init", MetadataValue::from_static("1"));
                    let blob = BinaryMetadataValue::from_bytes(&[0, 254]);
                    response.metadata_mut().insert_bin("x-init-bin", blob);
                    Ok(response)
                }
                _ => Ok(call.ok(message)),
            }
        })
    }
}

impl ClientStreamingService<Vec<u8>> for Handler {
    type Response = Vec<u8>;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let mut call = self.handled(request.metadata());
        let method = self.method.clone();
        Box::pin(async move {
            let mut messages = request.into_inner();
            if method == "ClientStream" {
                while let Some(message) = messages.message().await? {
                    call.received(&message);
                }
                let total = call.record.recv_bytes.to_string().into_bytes();
                return Ok(call.ok(total));
            }
            let first = messages.message().await?.unwrap_or_default();
            call.received(&first);
            if method == "Early" { Err(call.failed(8, "enough")) } else { Ok(call.ok(first)) }
        })
    }
}

impl StreamingService<Vec<u8>> for Handler {
    type Response = Vec<u8>;
    type ResponseStream = ReceiverStream<Result<Vec<u8>, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let call = self.handled(request.metadata());
        let method = self.method.clone();
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            // An error here means that the call is over; its truth says so.
            let _ = if method == "Bidi" {
                echo(call, request.into_inner(), sender).await
            } else {
                send_many(call, request.into_inner(), sender, method == "FailAfter").await
            };
        });
        Box::pin(async move { Ok(Response::new(ReceiverStream::new(receiver))) })
    }
}

type Replies = mpsc::Sender<Result<Vec<u8>, Status>>;

/// The call ended before its handler did.
struct Over;

async fn echo(mut call: Handled, mut messages: Streaming<Vec<u8>>, replies: Replies) -> Result<(), Over> {
    while let Some(message) = messages.message().await.map_err(|_| Over)? {
        call.received(&message);
        call.sent(&message);
        replies.send(Ok(message)).await.map_err(|_| Over)?;
    }
    call.ended(0);
    Ok(())
}

async fn send_many(
    mut call: Handled,
    mut messages: Streaming<Vec<u8>>,
    replies: Replies,
    fails: bool,
) -> Result<(), Over> {
    let request = messages.message().await.map_err(|_| Over)?.ok_or(Over)?;
    call.received(&request);
    let text = String::from_utf8_lossy(&request).into_owned();
    let numbers: Vec<u64> = text.split(',').map(|part| number(part.as_bytes())).collect();
    let [count, bytes, last] = numbers[..] else { return Err(Over) };
    for _ in 0..count {
        let message = vec![b's'; bytes as usize];
        replies.send(Ok(message.clone())).await.map_err(|_| Over)?;
        call.sent(&message);
        if !fails && last > 0 {
            tokio::time::sleep(Duration::from_millis(last)).await;
        }
    }
    if fails {
        let status = call.failed(last as u32, FAILURE);
        replies.send(Err(status)).await.map_err(|_| Over)?;
    } else {
        call.ended(0);
    }
    Ok(())
}

fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}
