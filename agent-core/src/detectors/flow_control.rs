//! Stalls of flow control: who makes whom wait, and why.
//!
//! A sender has data, and its window is empty: the call takes as long as its peer wants. Evidence: the
//! [`Stall`](crate::observation::Stall)s of the core, exact to the frames' times, of senders that were inside a message and so had
//! more to send. Stalls at the end of a message may be none: they are counted as undecided. On a connection that was joined late
//! windows are not known, and nothing is said.
//!
//! The cause is told from how long the credit took, compared with the round trip. Credit that comes back within about one
//! round trip was not withheld: the window is too small for the delay (`small_window`), if the sender uses it up again and again.
//! Credit that takes far longer was withheld by an application that does not read (`slow_receiver`). Between these, and where no
//! round trip was seen, the cause is `undecided`; the stall is certain all the same.
//!
//! Where the stall was seen matters. At the sender's socket it is as long as the sender had to wait. At the receiver's socket it
//! begins when the receiver has read the data and ends when it sends the credit: only what was withheld, without the
//! round trip. A receiver that gives credit early (most do at half of the window) sees no stall at all where the window is too
//! small, since in its own count it never was empty. So both ends of one stall do not say the same number.
//!
//! Short stalls are normal in every transfer that is faster than its receiver. They are counted, and said only if they keep a
//! sender waiting for a good part of the time, with a delay that is not that of a local network.

use std::fmt;

use super::finding::{About, Claims, Name, Value, seconds};
use super::{Out, Watched};
use crate::input::{Flow, Timestamp};
use crate::observation::{Side, Stall, StallEnd, Window};

/// When to speak.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// A stall that is as long is said by itself: a person would notice it, and no scheduler makes a receiver that late.
    pub long_ns: u64,
    /// One that has lasted for so long is said although it is not over.
    pub lasting_ns: u64,
    /// And again every so often.
    pub again_ns: u64,
    /// Credit that takes more round trips than this was withheld.
    pub withheld_round_trips: u64,
    /// Credit that takes at most so many round trips was not: it may have been asked for just after the last one was sent, and
    /// receivers collect credit before they send it.
    pub prompt_round_trips: u64,
    /// Windows are too small for a delay only if there is one: shorter round trips are those of a local network.
    pub delay_ns: u64,
    /// Shorter stalls of a slow receiver are those of any transfer, and only counted.
    pub short_ns: u64,
    /// So many stalls in a row, with the same window, are a pattern. grpc-go, whose windows grow with the delay, gets by with
    /// fewer of each size.
    pub row: u32,
    /// A row in which the sender waits for less than this share of the time, or for less than `long_ns` in all, costs nobody
    /// much.
    pub share: f64,
    /// A row ends when there was no stall for so long.
    pub row_ends_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            long_ns: 250_000_000,
            lasting_ns: 10_000_000_000,
            again_ns: 60_000_000_000,
            withheld_round_trips: 4,
            prompt_round_trips: 2,
            delay_ns: 5_000_000,
            short_ns: 50_000_000,
            row: 5,
            share: 0.25,
            row_ends_ns: 2_000_000_000,
        }
    }
}

/// Why a sender had to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Its peer withheld the credit.
    SlowReceiver,
    /// The credit came at once; it is the window that is smaller than the bandwidth-delay product.
    SmallWindow,
    /// No round trip was seen, or the delay is between the two.
    Undecided,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 3] = [Cause::SlowReceiver, Cause::SmallWindow, Cause::Undecided];

    /// `slow_receiver`, `small_window`, `undecided`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::SlowReceiver => "slow_receiver",
            Cause::SmallWindow => "small_window",
            Cause::Undecided => "undecided",
        }
    }
}

/// Where a stall was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenAt {
    /// At the socket of one end: the flow [`Sent`](Flow::Sent) is its own.
    Socket,
    /// In a recording, from wherever that is.
    Recording,
}

/// What a stall comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// Why.
    pub cause: Cause,
    /// The receiver of the DATA, which has the credit to give.
    pub withheld_by: Side,
    /// The round trip that it was compared with, in nanoseconds.
    pub round_trip_ns: Option<u64>,
}

/// A sender that is held up by the delay waits at least for this part of the round trip: its receiver may give credit for the
/// first half of a window when the second is still on its way.
const SOONEST: u64 = 4;

/// Why a stall is, or was, and who gives the credit; `client_flow` is the flow of the connection's client.
#[must_use]
pub fn attribute(
    stall: &Stall,
    client_flow: Flow,
    seen_at: SeenAt,
    now: Timestamp,
    thresholds: &Thresholds,
) -> Attribution {
    let lasted_ns = stall.lasted_ns(now);
    let trips = &stall.round_trips;
    let (round_trip_ns, is_receivers) = match seen_at {
        SeenAt::Socket => (trips.of_sent_ns, stall.flow == Flow::Received),
        SeenAt::Recording => {
            (trips.of_sent_ns.zip(trips.of_received_ns).map(|(one, other)| one + other), false)
        }
    };
    let withheld = thresholds.withheld_round_trips;
    let prompt = if is_receivers {
        thresholds.prompt_round_trips.saturating_sub(1)
    } else {
        thresholds.prompt_round_trips
    };
    let was_credited =
        matches!(stall.end, Some(StallEnd::WindowUpdate | StallEnd::Settings | StallEnd::Data));
    let cause = match round_trip_ns {
        Some(trip_ns) if lasted_ns > trip_ns.saturating_mul(withheld) => Cause::SlowReceiver,
        // What the receiver's own socket shows has no round trip in it.
        _ if is_receivers && lasted_ns >= thresholds.long_ns => Cause::SlowReceiver,
        // Credit that came sooner was on its way already, or the round trip that was seen was one of a busy moment.
        Some(trip_ns) if !is_receivers && lasted_ns < trip_ns / SOONEST => Cause::Undecided,
        Some(trip_ns) if was_credited && lasted_ns <= trip_ns.saturating_mul(prompt) => Cause::SmallWindow,
        Some(_) => Cause::Undecided,
        None if is_receivers => Cause::Undecided,
        // No round trip is longer than the fastest credit.
        None => match trips.of_credit_ns {
            Some(credit_ns) if lasted_ns > credit_ns.saturating_mul(withheld) => Cause::SlowReceiver,
            Some(_) | None => Cause::Undecided,
        },
    };
    let sender = if stall.flow == client_flow { Side::Client } else { Side::Server };
    let withheld_by = match sender {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    };
    Attribution { cause, withheld_by, round_trip_ns }
}

/// What is claimed of a sender.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Which window was empty.
    pub window: Window,
    /// Why.
    pub cause: Cause,
    /// Who gives the credit.
    pub withheld_by: Side,
    /// How long the sender could not send, in nanoseconds; in a row of stalls all of them together.
    pub stalled_ns: u64,
    /// Stalls in the row; 1 for a long one.
    pub stalls: u32,
    /// From the beginning of the first one to the end of the last one.
    pub over_ns: u64,
    /// It is not over.
    pub lasts: bool,
    /// The window when everything is credited, in octets.
    pub window_bytes: Option<u64>,
    /// The round trip that it was compared with, in nanoseconds.
    pub round_trip_ns: Option<u64>,
    /// The finding is about the stream that holds the connection's window: octets of it that were not credited.
    pub holder_bytes: Option<u64>,
    /// Streams that were open beside it, and had to wait with it.
    pub siblings: Option<u32>,
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::FlowControlStall
    }

    fn cause(&self) -> Option<&'static str> {
        Some(self.cause.as_str())
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        number("window", Value::Word(self.window.as_str()));
        number("withheld_by", Value::Word(self.withheld_by.as_str()));
        number("stalled_seconds", Value::Ns(self.stalled_ns));
        number("stalls", Value::Count(self.stalls.into()));
        number("over_seconds", Value::Ns(self.over_ns));
        if let Some(bytes) = self.window_bytes {
            number("window_bytes", Value::Bytes(i64::try_from(bytes).unwrap_or(i64::MAX)));
        }
        if let Some(ns) = self.round_trip_ns {
            number("round_trip_seconds", Value::Ns(ns));
        }
        if let Some(bytes) = self.holder_bytes {
            number("holder_bytes", Value::Bytes(i64::try_from(bytes).unwrap_or(i64::MAX)));
        }
        if let Some(siblings) = self.siblings {
            number("siblings", Value::Count(siblings.into()));
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (window, by) = (self.window.as_str(), self.withheld_by.as_str());
        let stalled = seconds(self.stalled_ns);
        match (self.stalls, self.lasts) {
            (0 | 1, false) => write!(f, "had an empty {window} window for {stalled}")?,
            (0 | 1, true) => write!(f, "has had an empty {window} window for {stalled} now")?,
            (stalls, _) => {
                let over = seconds(self.over_ns);
                write!(f, "had an empty {window} window {stalls} times in {over}, {stalled} of it")?;
            }
        }
        match (self.cause, self.round_trip_ns, self.window_bytes) {
            (Cause::SlowReceiver, _, _) => write!(f, ": the {by} does not read")?,
            (Cause::SmallWindow, Some(trip_ns), Some(bytes)) => {
                write!(f, ": {bytes} octets are too few for a round trip of {}", seconds(trip_ns))?;
            }
            (Cause::SmallWindow, _, _) => write!(f, ": it is too small for the round trip")?,
            (Cause::Undecided, _, _) => write!(f, ", for credit of the {by}")?,
        }
        match (self.holder_bytes, self.siblings) {
            (Some(bytes), Some(siblings)) if siblings > 0 => {
                write!(f, "; this stream holds {bytes} octets of it, and {siblings} others wait")
            }
            _ => Ok(()),
        }
    }
}

/// What is remembered of a connection on which a sender was stalled.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// Rows of short stalls, by the flow of the sender and the cause.
    rows: [[Option<Row>; 2]; 2],
    /// Stalls that were said while they last: of which window since when, and when that was said.
    said: Vec<(Flow, Window, Timestamp, Timestamp)>,
}

#[derive(Clone, Debug)]
struct Row {
    from: Timestamp,
    until: Timestamp,
    stalls: u32,
    stalled_ns: u64,
    window_bytes: Option<u64>,
    said: Option<Timestamp>,
}

/// Stalls of one connection that are said while they last; more are said when they are over.
const SAID_WHILE_LASTING: usize = 16;

impl Remembered {
    /// Adds a stall to its row. The row if it is to be said.
    fn add(
        &mut self,
        stall: &Stall,
        cause: Cause,
        until: Timestamp,
        thresholds: &Thresholds,
    ) -> Option<&Row> {
        let flow = usize::from(stall.flow == Flow::Received);
        let slot = &mut self.rows[flow][usize::from(cause == Cause::SmallWindow)];
        let goes_on = |row: &Row| {
            stall.from.since(row.until) <= thresholds.row_ends_ns && row.window_bytes == stall.window_bytes
        };
        if !slot.as_ref().is_some_and(goes_on) {
            *slot = None;
        }
        let row = slot.get_or_insert(Row {
            from: stall.from,
            until,
            stalls: 0,
            stalled_ns: 0,
            window_bytes: stall.window_bytes,
            said: None,
        });
        // Both windows may be empty at once: time counts once.
        let from = if row.stalls == 0 { stall.from } else { stall.from.max(row.until) };
        row.stalled_ns = row.stalled_ns.saturating_add(until.since(from));
        row.until = row.until.max(until);
        row.stalls = row.stalls.saturating_add(1);
        let share = row.stalled_ns as f64 / row.until.since(row.from).max(1) as f64;
        let is_due = row.said.is_none_or(|said| until.since(said) >= thresholds.again_ns);
        let is_much = row.stalled_ns >= thresholds.long_ns && share >= thresholds.share;
        if row.stalls < thresholds.row || !is_much || !is_due {
            return None;
        }
        row.said = Some(until);
        Some(row)
    }

    /// Whether a stall that lasts is to be said, which is remembered.
    fn says(&mut self, stall: &Stall, now: Timestamp, thresholds: &Thresholds) -> bool {
        if let Some((.., said)) = self.said.iter_mut().find(|said| is_of(said, stall)) {
            let is_due = now.since(*said) >= thresholds.again_ns;
            if is_due {
                *said = now;
            }
            return is_due;
        }
        let has_room = self.said.len() < SAID_WHILE_LASTING;
        if has_room {
            self.said.push((stall.flow, stall.window, stall.from, now));
        }
        has_room
    }

    /// Whether it was said while it lasted, which is forgotten.
    fn take_said(&mut self, stall: &Stall) -> bool {
        let before = self.said.len();
        self.said.retain(|said| !is_of(said, stall));
        self.said.len() < before
    }
}

fn is_of(said: &(Flow, Window, Timestamp, Timestamp), stall: &Stall) -> bool {
    let (flow, window, from, _) = *said;
    (flow, window, from) == (stall.flow, stall.window, stall.from)
}

/// Judges a stall that is over.
pub(super) fn handle_stalled(
    thresholds: &Thresholds,
    connection: &mut Watched,
    stall: &Stall,
    out: &mut Out,
) {
    let Some(until) = stall.until else { return };
    let Some((about, claim)) = claim(thresholds, connection, stall, until) else { return };
    if !stall.inside_message {
        if claim.stalled_ns >= thresholds.long_ns {
            out.leave_undecided(about, until, claim);
        }
        return;
    }
    let remembered = connection.flow_control.get_or_insert_default();
    if remembered.take_said(stall) {
        return;
    }
    let is_small = claim.cause == Cause::SmallWindow;
    if claim.stalled_ns >= thresholds.long_ns && !is_small {
        out.fire(about, until, claim);
        return;
    }
    let counts = match claim.cause {
        Cause::SmallWindow => claim.round_trip_ns.is_some_and(|trip_ns| trip_ns >= thresholds.delay_ns),
        Cause::SlowReceiver => claim.stalled_ns >= thresholds.short_ns,
        Cause::Undecided => false,
    };
    if counts && let Some(row) = remembered.add(stall, claim.cause, until, thresholds) {
        let (stalls, stalled_ns, over_ns) = (row.stalls, row.stalled_ns, row.until.since(row.from));
        out.fire(about, until, Claim { stalls, stalled_ns, over_ns, ..claim });
    }
}

/// Judges a stall that lasts.
pub(super) fn handle_open_stall(
    thresholds: &Thresholds,
    connection: &mut Watched,
    stall: &Stall,
    now: Timestamp,
    out: &mut Out,
) {
    if stall.lasted_ns(now) < thresholds.lasting_ns {
        return;
    }
    let Some((about, claim)) = claim(thresholds, connection, stall, now) else { return };
    if connection.flow_control.get_or_insert_default().says(stall, now, thresholds) {
        out.fire(about, now, Claim { lasts: true, ..claim });
    }
}

/// What is to be said of one stall, and of whom.
fn claim(
    thresholds: &Thresholds,
    connection: &Watched,
    stall: &Stall,
    now: Timestamp,
) -> Option<(About, Claim)> {
    let client_flow = match connection.side? {
        Side::Client => Flow::Sent,
        Side::Server => Flow::Received,
    };
    let seen_at = if connection.party.owner.is_some() { SeenAt::Socket } else { SeenAt::Recording };
    let Attribution { cause, withheld_by, round_trip_ns } =
        attribute(stall, client_flow, seen_at, now, thresholds);
    // Who holds a window that is given back at once holds nothing.
    let holder = stall.holder.as_ref().filter(|_| cause == Cause::SlowReceiver);
    // Whose DATA used up the connection's window says nothing of whose fault that is.
    let (stream, method) = match (stall.window, holder) {
        (Window::Connection, None) => (None, None),
        (Window::Connection, Some(holder)) => (Some(holder.stream), holder.method.as_ref()),
        (Window::Stream, _) => (Some(stall.stream), stall.method.as_ref()),
    };
    let about = About {
        owner: connection.party.owner.clone(),
        connection: Some(connection.connection),
        stream,
        side: connection.side,
        method: method.cloned(),
        peer: None,
    };
    let stalled_ns = stall.lasted_ns(now);
    let claim = Claim {
        window: stall.window,
        cause,
        withheld_by,
        stalled_ns,
        stalls: 1,
        over_ns: stalled_ns,
        lasts: stall.end == Some(StallEnd::ObservationEnded),
        window_bytes: stall.window_bytes,
        round_trip_ns,
        holder_bytes: holder.map(|holder| holder.bytes),
        siblings: stall.siblings,
    };
    Some((about, claim))
}

/// Heap bytes of a connection at most.
#[cfg(test)]
pub(super) fn bytes_of_connection() -> usize {
    type Said = (Flow, Window, Timestamp, Timestamp);
    size_of::<Remembered>() + super::memory::of_list::<Said>(SAID_WHILE_LASTING)
}
