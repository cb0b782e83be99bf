//! Streams of messages that keep the ledger: what a server reads and sends, and what a client receives.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming};

use crate::ledger::{Counter, Entry};

/// Server: the request messages of a call, counted.
#[derive(Debug)]
pub(crate) struct Incoming<T> {
    messages: Streaming<T>,
    requests: Counter,
}

impl<T> Incoming<T> {
    pub(crate) fn new(entry: &Entry, messages: Streaming<T>) -> Self {
        Incoming { messages, requests: entry.requests() }
    }

    /// The next message; `None` when the client has sent its last.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Status> {
        let message = self.messages.message().await?;
        if message.is_some() {
            self.requests.add_one();
        }
        Ok(message)
    }
}

impl<T> Stream for Incoming<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.messages).poll_next(cx);
        if let Poll::Ready(Some(Ok(_))) = &next {
            self.requests.add_one();
        }
        next
    }
}

/// Server: the response messages of a call. Dropped before its end, the call was given up.
pub(crate) struct Outgoing<T> {
    entry: Entry,
    messages: Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>,
}

impl<T> Outgoing<T> {
    pub(crate) fn new(
        entry: Entry,
        messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Self {
        Outgoing { entry, messages: Box::pin(messages) }
    }
}

impl<T> Stream for Outgoing<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.messages.as_mut().poll_next(cx);
        match &next {
            Poll::Ready(Some(Ok(_))) => self.entry.count_response(),
            Poll::Ready(Some(Err(status))) => self.entry.ends_with(status.code()),
            Poll::Ready(None) => self.entry.ends_with(Code::Ok),
            Poll::Pending => {}
        }
        next
    }
}

impl<T> fmt::Debug for Outgoing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// Client: the response messages of a call, until its deadline. Dropped before its end, the call is cancelled.
///
/// tonic's own timer ends with the response's header block, so a stream needs one of its own.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    entry: Entry,
    messages: Option<Streaming<T>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<T> Answers<T> {
    pub(crate) fn new(entry: Entry, messages: Streaming<T>, deadline: Option<Instant>) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
        Answers { entry, messages: Some(messages), deadline }
    }
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        match Pin::new(messages).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => {
                self.entry.count_response();
                return Poll::Ready(Some(Ok(message)));
            }
            Poll::Ready(Some(Err(status))) => {
                self.messages = None;
                self.entry.ends_with_error(&status);
                return Poll::Ready(Some(Err(status)));
            }
            Poll::Ready(None) => {
                self.messages = None;
                self.entry.ends_with(Code::Ok);
                return Poll::Ready(None);
            }
            Poll::Pending => {}
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        std::task::ready!(deadline.as_mut().poll(cx));
        // Letting go of the stream is what sends RST_STREAM.
        self.messages = None;
        self.entry.ends_by_deadline();
        Poll::Ready(Some(Err(Status::deadline_exceeded("the stream went on past its deadline"))))
    }
}
