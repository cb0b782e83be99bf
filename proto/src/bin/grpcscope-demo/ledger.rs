//! What a process did, call by call, as its own code knows it: the truth that an observer is compared with.
//!
//! One JSON object a line, written when a call is over for this process:
//! `{"service","pid","side","method","call_type","timeout_ns","outcome","status","given_up","elapsed_ns",
//! "request_messages","response_messages"}`.
//!
//! - `timeout_ns` is what `grpc-timeout` says, after the encoder's rounding.
//! - `status` is what this process got from, or gave to, the other end; null if it got or gave none.
//! - `given_up` means that this process ended the call without a word of the other end (a client's timer or its
//!   cancellation), or was told to stop working on it (a server's handler that is dropped). The other end's answer
//!   may have crossed it on the wire.
//!
//! Between them stand the findings that a process provokes, for those who look for findings and not for calls (`provoked`).

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status};

use crate::budget::{Budget, timeout_of};
use crate::provoked::{self, Provoked};
use crate::streams::{Answers, Outgoing};

/// Share of its timeout after which a call that was given up was given up because of it. Shoppers lose patience in the
/// first tenth or never, so on this side of the middle it was the deadline, whichever clock says so a little early.
const DEADLINE_PERCENT: u32 = 50;

/// The book of one process.
#[derive(Debug)]
pub(crate) struct Ledger {
    service: String,
    file: Option<Mutex<File>>,
}

/// The four kinds of gRPC methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallType {
    Unary,
    ClientStream,
    ServerStream,
    Bidi,
}

/// Which side of a call this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
        }
    }
}

/// A call that is not over yet. Dropped without an end, it was given up.
#[derive(Debug)]
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    side: Side,
    method: &'static str,
    call_type: CallType,
    timeout: Option<Duration>,
    /// It has a `grpc-timeout`, by the grammar or not.
    has_timeout: bool,
    started: Instant,
    started_ns: u64,
    requests: Counter,
    responses: u64,
    /// How long after the deadline this process lets go of a stream of responses; `None`: never.
    lets_go_after: Option<Duration>,
    over: bool,
}

/// A count that a stream keeps for the entry it belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Ledger {
    /// Opens the book; without a file nothing is written. The process is called as its environment calls it, since that is
    /// how others tell processes of one program apart.
    pub(crate) fn open(service: &str, truth: Option<&Path>) -> anyhow::Result<Arc<Self>> {
        let file = match truth {
            None => None,
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Some(Mutex::new(
                    file.with_context(|| format!("cannot write the truth to {}", path.display()))?,
                ))
            }
        };
        let service = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| service.to_owned());
        Ok(Arc::new(Ledger { service, file }))
    }

    /// A call with one request message that this process makes.
    pub(crate) fn calls<T>(
        self: &Arc<Self>,
        method: &'static str,
        call_type: CallType,
        timeout: Option<Duration>,
        message: T,
    ) -> (Request<T>, Entry) {
        let (request, entry) = self.opens(method, call_type, timeout, message);
        entry.requests.add_one();
        (request, entry)
    }

    /// A call with a stream of request messages that this process makes.
    pub(crate) fn calls_with<S: Stream>(
        self: &Arc<Self>,
        method: &'static str,
        call_type: CallType,
        timeout: Option<Duration>,
        messages: S,
    ) -> (Request<impl Stream<Item = S::Item> + use<S>>, Entry) {
        let requests = Counter::default();
        let counter = requests.clone();
        let messages = messages.map(move |message| {
            counter.add_one();
            message
        });
        let (request, mut entry) = self.opens(method, call_type, timeout, messages);
        entry.requests = requests;
        (request, entry)
    }

    fn opens<T>(
        self: &Arc<Self>,
        method: &'static str,
        call_type: CallType,
        timeout: Option<Duration>,
        body: T,
    ) -> (Request<T>, Entry) {
        let mut request = Request::new(body);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let timeout = timeout_of(request.metadata());
        let has_timeout = timeout.is_some();
        (request, self.entry(Side::Client, method, call_type, timeout, has_timeout))
    }

    /// A call that this process answers.
    pub(crate) fn serves<T>(
        self: &Arc<Self>,
        method: &'static str,
        call_type: CallType,
        request: &Request<T>,
    ) -> Entry {
        let has_timeout = request.metadata().contains_key("grpc-timeout");
        let entry = self.entry(Side::Server, method, call_type, timeout_of(request.metadata()), has_timeout);
        if matches!(call_type, CallType::Unary | CallType::ServerStream) {
            entry.requests.add_one();
        }
        entry
    }

    fn entry(
        self: &Arc<Self>,
        side: Side,
        method: &'static str,
        call_type: CallType,
        timeout: Option<Duration>,
        has_timeout: bool,
    ) -> Entry {
        Entry {
            ledger: Arc::clone(self),
            side,
            method,
            call_type,
            timeout,
            has_timeout,
            started: Instant::now(),
            started_ns: provoked::now_ns(),
            requests: Counter::default(),
            responses: 0,
            lets_go_after: Some(Duration::ZERO),
            over: false,
        }
    }

    /// Writes down what this process provokes.
    pub(crate) fn provokes(&self, provoked: &Provoked) {
        self.write(&provoked.line(&self.service));
    }

    /// Writes down what this process provokes at the other end of its connection, which cannot know it.
    pub(crate) fn provokes_at(&self, service: &str, provoked: &Provoked) {
        self.write(&provoked.line(service));
    }

    fn write(&self, line: &serde_json::Value) {
        let Some(file) = &self.file else { return };
        let line = format!("{line}\n");
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            eprintln!("{}: cannot write the truth: {error}", self.service);
        }
    }
}

impl Entry {
    /// What the caller leaves.
    pub(crate) fn budget(&self) -> Budget {
        Budget::until(self.deadline())
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timeout.and_then(|timeout| self.started.checked_add(timeout))
    }

    /// The counter of request messages, for a stream that reads them.
    pub(crate) fn requests(&self) -> Counter {
        self.requests.clone()
    }

    /// Something that this call provokes; whoever reads the truth finds it on this process and side.
    pub(crate) fn provokes(&self, finding: &'static str) -> Provoked {
        Provoked::since(finding, self.started_ns).by_call(self.side, self.method)
    }

    /// Client: the request was given a `grpc-timeout` that is none.
    pub(crate) fn has_invalid_timeout(&mut self) {
        (self.timeout, self.has_timeout) = (None, true);
    }

    /// Client: lets go of a stream of responses so long after the deadline, or never.
    pub(crate) fn lets_go_after(mut self, deadline: Option<Duration>) -> Self {
        self.lets_go_after = deadline;
        self
    }

    pub(crate) fn count_response(&mut self) {
        self.responses += 1;
    }

    /// Server: runs the handler of a method with one response message.
    pub(crate) async fn answers<T>(
        mut self,
        handler: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let result = handler.await;
        match &result {
            Ok(_) => {
                self.count_response();
                self.ends_with(Code::Ok);
            }
            Err(status) => self.ends_with(status.code()),
        }
        result.map(Response::new)
    }

    /// Server: sends a stream of response messages.
    pub(crate) fn streams<T>(
        self,
        messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<Outgoing<T>> {
        Response::new(Outgoing::new(self, messages))
    }

    /// Server: the handler fails before the first response message.
    pub(crate) fn refuses(mut self, status: Status) -> Status {
        self.ends_with(status.code());
        status
    }

    /// Client: waits for a call with one response message.
    pub(crate) async fn answered<T>(
        mut self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        match call.await {
            Ok(response) => {
                self.count_response();
                self.ends_with(Code::Ok);
                Ok(response.into_inner())
            }
            Err(status) => {
                self.ends_with_error(&status);
                Err(status)
            }
        }
    }

    /// Client: waits for the response of a call with a stream of response messages.
    pub(crate) async fn opened<T>(
        mut self,
        call: impl Future<Output = Result<Response<tonic::Streaming<T>>, Status>>,
    ) -> Result<Answers<T>, Status> {
        let deadline = self.deadline().zip(self.lets_go_after).map(|(deadline, after)| deadline + after);
        match call.await {
            Ok(response) => Ok(Answers::new(self, response.into_inner(), deadline)),
            Err(status) => {
                self.ends_with_error(&status);
                Err(status)
            }
        }
    }

    /// The other end's status, or this end's to the other.
    pub(crate) fn ends_with(&mut self, code: Code) {
        let outcome = match code {
            Code::Ok => "ok",
            Code::DeadlineExceeded => "deadline",
            Code::Cancelled => self.outcome_of_giving_up(),
            _ => "error",
        };
        self.write(outcome, Some(code), false);
    }

    /// The error of a call that this process made: the other end's status, or one that was made here.
    pub(crate) fn ends_with_error(&mut self, status: &Status) {
        let Some(source) = std::error::Error::source(status) else { return self.ends_with(status.code()) };
        if source.is::<tonic::TimeoutExpired>() || status.message() == "Timeout expired" {
            return self.write("deadline", None, true);
        }
        eprintln!("{}: {} was lost: {status}: {source}", self.ledger.service, self.method);
        self.write("aborted", None, false);
    }

    /// This process's own timer ended the call.
    pub(crate) fn ends_by_deadline(&mut self) {
        self.write("deadline", None, true);
    }

    fn outcome_of_giving_up(&self) -> &'static str {
        match self.timeout {
            Some(timeout) if self.started.elapsed() >= timeout * DEADLINE_PERCENT / 100 => "deadline",
            Some(_) | None => "cancelled",
        }
    }

    fn write(&mut self, outcome: &str, status: Option<Code>, given_up: bool) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let elapsed = self.started.elapsed();
        self.provoked_by_its_deadline(outcome, elapsed);
        self.ledger.write(&serde_json::json!({
            "service": self.ledger.service,
            "pid": std::process::id(),
            "side": self.side.as_str(),
            "method": self.method,
            "call_type": match self.call_type {
                CallType::Unary => "unary",
                CallType::ClientStream => "client_stream",
                CallType::ServerStream => "server_stream",
                CallType::Bidi => "bidi",
            },
            "timeout_ns": self.timeout.map(|timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)),
            "outcome": outcome,
            "status": status.map(|code| code as i32),
            "given_up": given_up,
            "elapsed_ns": u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            "request_messages": self.requests.0.load(Ordering::Relaxed),
            "response_messages": self.responses,
        }));
    }

    /// What is to be found of the call itself: each end writes down its own.
    fn provoked_by_its_deadline(&self, outcome: &str, elapsed: Duration) {
        let Some(timeout) = self.timeout else {
            let cause = if self.has_timeout { "invalid" } else { "absent" };
            return self.ledger.provokes(&self.provokes("deadline_missing").because(cause));
        };
        if self.call_type == CallType::Unary && timeout > provoked::LONGEST_DEADLINE {
            self.ledger.provokes(&self.provokes("deadline_absurd").because("too_long"));
        }
        if outcome == "deadline" {
            self.ledger.provokes(&self.provokes("deadline_exceeded"));
        }
        if matches!(outcome, "ok" | "error") && elapsed > timeout + provoked::LATE {
            self.ledger.provokes(&self.provokes("deadline_late_completion"));
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.write(self.outcome_of_giving_up(), None, true);
    }
}
