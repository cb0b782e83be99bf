//! The shop with faults: services and a shopper who do one thing wrong, on purpose, and write down what they provoke.
//!
//! A scenario waits for conditions and keeps far from every threshold, so that it provokes the same on a slow machine.
//! What an end of a call can see of its deadline by itself, the ledger writes down; whatever else is provoked is written
//! down where it is done.

pub(crate) mod inventory;
pub(crate) mod storefront;

pub(crate) mod reader;
pub(crate) mod shopper;

pub(crate) mod hop;

mod bulk;

mod trace;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Scenario {
    /// Calls without a deadline, or with a grpc-timeout that is not by the grammar.
    NoDeadline,
    /// Unary calls with a deadline of hours.
    DeadlineAbsurd,
    /// A callee that does not answer before the deadline.
    DeadlineExceeded,
    /// The server completes calls after their deadline, and the client waits for that.
    LateCompletion,
    /// The storefront sets the deadline anew.
    DeadlineReset,
    /// The storefront does not hand the deadline on.
    DeadlineDropped,
    /// The storefront goes on calling when nothing is left of the deadline.
    DeadlineExhausted,
    /// The storefront goes on calling when the shopper has gone.
    IgnoresCancellation,
    /// The shopper tries again while the storefront still works on the first attempt.
    RetryAmplification,
    /// Long streams of inventory, which `reader` reads well or badly.
    LongStreams,
    /// The shopper tries again what cannot succeed.
    RetryNotRetryable,
    /// The storefront dies with open streams.
    ServerDies,
    /// The storefront never ends streams, and the shopper does not mind.
    LeakedStream,
    /// Nothing: everything is done right.
    Healthy,
}

impl Scenario {
    pub(crate) fn is_healthy(self) -> bool {
        self == Scenario::Healthy
    }
}
