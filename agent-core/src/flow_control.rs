//! Flow-control windows of both directions, as granted and used on the wire (RFC 9113 §5.2, §6.9; checklist W1–W8).
//!
//! In: DATA, WINDOW_UPDATE and SETTINGS frames in the order in which they were seen, and every loss. Out: what each
//! sender may still send, on the connection and on each stream; `None` where a frame that counts may have been missed.
//!
//! A window is kept apart from the part of it that SETTINGS move: a stream keeps only its [`Credit`], that is
//! increments less DATA, and its window is the credit plus the SETTINGS_INITIAL_WINDOW_SIZE now in force. A
//! change of that setting is thereby one store, whatever the number of streams, and applies to all of them
//! retroactively (§6.9.2). Every frame costs a few additions.
//!
//! SETTINGS count from when they are seen, not from their acknowledgement: until then the sender may not know of them.
//! When a window is empty and its sender has to wait is followed in `connection/stalls.rs`.

use crate::input::Flow;

/// Initial value of both windows (RFC 9113 §6.9.2). SETTINGS never change that of the connection.
const INITIAL_WINDOW: i64 = 65_535;

/// Largest window (§6.9.1).
pub(crate) const LARGEST_WINDOW: u32 = 0x7fff_ffff;

/// What a sender may send, in octets: below zero after SETTINGS took back what was sent already.
pub(crate) type Window = i64;

/// What one stream adds to the initial window of its sender: increments less the DATA that was sent. `None`: unknown.
pub(crate) type Credit = Option<i64>;

/// Windows of one connection, but for the credits of its streams.
#[derive(Debug)]
pub(crate) struct FlowControl {
    /// By the flow that DATA is sent in.
    senders: [Sender; 2],
    /// Credits for streams whose first frames are still to come: the two flows may be seen out of step.
    early: Vec<(u32, Flow, u32)>,
    /// Streams up to this id may have had credits that were not remembered.
    early_forgotten: u32,
}

#[derive(Clone, Copy, Debug)]
struct Sender {
    /// SETTINGS_INITIAL_WINDOW_SIZE as sent by its peer.
    initial: Option<i64>,
    /// Window of the connection.
    connection: Option<Window>,
    /// The largest that it has been.
    connection_largest: Window,
    /// Its peer has made SETTINGS_INITIAL_WINDOW_SIZE smaller, and it may not know yet: it may send more than it may.
    has_shrunk: bool,
}

/// Early credits that are remembered.
const REMEMBERED_CREDITS: usize = 16;

/// What an increment did wrong (RFC 9113 §6.9, §6.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WindowFault {
    /// WINDOW_UPDATE of zero: PROTOCOL_ERROR.
    Zero,
    /// A window above 2^31-1: FLOW_CONTROL_ERROR.
    TooLarge,
}

impl WindowFault {
    /// The anomaly's name.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            WindowFault::Zero => "window_update_zero",
            WindowFault::TooLarge => "window_too_large",
        }
    }
}

fn index(flow: Flow) -> usize {
    match flow {
        Flow::Sent => 0,
        Flow::Received => 1,
    }
}

impl FlowControl {
    /// A connection that is seen from its start.
    pub(crate) fn new() -> FlowControl {
        let sender = Sender {
            initial: Some(INITIAL_WINDOW),
            connection: Some(INITIAL_WINDOW),
            connection_largest: INITIAL_WINDOW,
            has_shrunk: false,
        };
        FlowControl { senders: [sender; 2], early: Vec::new(), early_forgotten: 0 }
    }

    /// A DATA frame of this payload length, padding included, is sent in `flow`: on whatever stream it is, also on
    /// one that was reset, it counts for the connection (W2, W6). What is left of that window, and what streams start with.
    pub(crate) fn handle_data(&mut self, flow: Flow, length: u32) -> (Option<Window>, Option<i64>) {
        let sender = self.sender(flow);
        if let Some(window) = &mut sender.connection {
            *window = window.saturating_sub(i64::from(length));
        }
        (sender.connection, sender.initial)
    }

    /// WINDOW_UPDATE on stream 0, seen in `flow`: its receiver may send more.
    pub(crate) fn handle_connection_update(&mut self, flow: Flow, increment: u32) -> Option<WindowFault> {
        let sender = self.sender(flow.opposite());
        let fault = grant(sender.connection.as_mut(), 0, increment);
        sender.connection_largest = sender.connection_largest.max(sender.connection.unwrap_or_default());
        fault
    }

    /// WINDOW_UPDATE on a stream, seen in `flow`; `credit` is that of the other flow's sender.
    pub(crate) fn handle_stream_update(
        &mut self,
        flow: Flow,
        credit: &mut Credit,
        increment: u32,
    ) -> Option<WindowFault> {
        let initial = self.sender(flow.opposite()).initial;
        match initial {
            Some(initial) => grant(credit.as_mut(), initial, increment),
            None => grant(credit.as_mut(), 0, increment).filter(|fault| *fault == WindowFault::Zero),
        }
    }

    /// WINDOW_UPDATE on a stream of which nothing else was seen yet.
    pub(crate) fn handle_early_update(&mut self, flow: Flow, stream: u32, increment: u32) {
        if self.early.len() < REMEMBERED_CREDITS {
            self.early.push((stream, flow.opposite(), increment));
        } else {
            self.early_forgotten = self.early_forgotten.max(stream);
        }
    }

    /// The credits of a new stream, by the flow that DATA is sent in. `is_known` says that no frame of it can have
    /// been missed.
    pub(crate) fn open_stream(&mut self, stream: u32, is_known: bool) -> [Credit; 2] {
        if !is_known || stream <= self.early_forgotten {
            return [None, None];
        }
        let mut credits = [Some(0), Some(0)];
        if !self.early.is_empty() {
            self.early.retain(|(id, flow, increment)| {
                if *id == stream
                    && let Some(Some(credit)) = credits.get_mut(index(*flow))
                {
                    *credit += i64::from(*increment);
                }
                *id > stream
            });
        }
        credits
    }

    /// SETTINGS_INITIAL_WINDOW_SIZE, seen in `flow`: for the streams that the other flow's sender sends on (W3, W4).
    pub(crate) fn handle_initial_window(&mut self, flow: Flow, value: u32) -> Option<WindowFault> {
        if value > LARGEST_WINDOW {
            return Some(WindowFault::TooLarge);
        }
        let sender = self.sender(flow.opposite());
        sender.has_shrunk |= sender.initial.is_none_or(|before| i64::from(value) < before);
        sender.initial = Some(i64::from(value));
        None
    }

    /// SETTINGS of `flow` were missed, or a part of them.
    pub(crate) fn forget_initial_window(&mut self, flow: Flow) {
        self.sender(flow.opposite()).initial = None;
    }

    /// A WINDOW_UPDATE of `flow` for the connection was missed.
    pub(crate) fn forget_connection_update(&mut self, flow: Flow) {
        self.sender(flow.opposite()).connection = None;
    }

    /// Any frames of `flow` may have been missed: DATA of its sender, and what it granted to the other. The credits
    /// of open streams are unknown too; new streams are known once SETTINGS are (W8).
    pub(crate) fn handle_loss(&mut self, flow: Flow) {
        self.sender(flow).connection = None;
        self.forget_connection_update(flow);
        self.forget_initial_window(flow);
        self.early.clear();
    }

    /// DATA and WINDOW_UPDATE of both flows may be missing, and nothing else.
    pub(crate) fn leave_out_data(&mut self) {
        self.forget_connection_update(Flow::Sent);
        self.forget_connection_update(Flow::Received);
        self.early.clear();
    }

    /// What the sender of `flow` may send on the connection.
    pub(crate) fn connection_window(&self, flow: Flow) -> Option<Window> {
        let [sent, received] = &self.senders;
        match flow {
            Flow::Sent => sent.connection,
            Flow::Received => received.connection,
        }
    }

    /// What the sender of `flow` may send on a stream with these credits.
    pub(crate) fn stream_window(&self, flow: Flow, credits: &[Credit; 2]) -> Option<Window> {
        let [sent, received] = &self.senders;
        let (sender, credit) = match flow {
            Flow::Sent => (sent, credits[0]),
            Flow::Received => (received, credits[1]),
        };
        Some(sender.initial?.saturating_add(credit?))
    }

    /// The largest that the connection's window of the sender of `flow` has been, if it is known now.
    pub(crate) fn largest_connection_window(&self, flow: Flow) -> Option<Window> {
        let sender = self.senders.get(index(flow))?;
        sender.connection.map(|_| sender.connection_largest)
    }

    /// What streams of the sender of `flow` start with.
    pub(crate) fn initial_window(&self, flow: Flow) -> Option<Window> {
        self.senders.get(index(flow))?.initial
    }

    /// The sender of `flow` has acknowledged all SETTINGS.
    pub(crate) fn handle_settings_acknowledged(&mut self, flow: Flow) {
        self.sender(flow).has_shrunk = false;
    }

    /// The sender of `flow` may not know yet that windows of streams have become smaller.
    pub(crate) fn has_shrunk(&self, flow: Flow) -> bool {
        self.senders.get(index(flow)).is_some_and(|sender| sender.has_shrunk)
    }

    /// Heap bytes that are held now.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.early.capacity() * size_of::<(u32, Flow, u32)>()
    }

    fn sender(&mut self, flow: Flow) -> &mut Sender {
        let [sent, received] = &mut self.senders;
        match flow {
            Flow::Sent => sent,
            Flow::Received => received,
        }
    }
}

/// Adds `increment` to what stands `base` below a window.
fn grant(credit: Option<&mut i64>, base: i64, increment: u32) -> Option<WindowFault> {
    if increment == 0 {
        return Some(WindowFault::Zero);
    }
    let credit = credit?;
    *credit = credit.saturating_add(i64::from(increment));
    (base.saturating_add(*credit) > i64::from(LARGEST_WINDOW)).then_some(WindowFault::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flow of the sender in these tests, and the one that its peer grants in.
    const SENDER: Flow = Flow::Sent;
    const GRANTER: Flow = Flow::Received;

    #[test]
    fn w1_both_windows_start_at_65535_and_settings_move_that_of_streams_only() {
        let mut windows = FlowControl::new();
        let stream = windows.open_stream(1, true);
        for flow in [SENDER, GRANTER] {
            assert_eq!(windows.connection_window(flow), Some(65_535));
            assert_eq!(windows.stream_window(flow, &stream), Some(65_535));
        }
        assert_eq!(windows.handle_initial_window(GRANTER, 4_194_304), None);
        assert_eq!(windows.connection_window(SENDER), Some(65_535));
        assert_eq!(windows.stream_window(SENDER, &stream), Some(4_194_304));
        assert_eq!(windows.stream_window(GRANTER, &stream), Some(65_535), "the other direction has its own");
        assert_eq!(windows.handle_connection_update(GRANTER, 4_128_769), None);
        assert_eq!(windows.connection_window(SENDER), Some(4_194_304));
    }

    #[test]
    fn w3_a_window_is_the_initial_one_plus_increments_less_data_and_may_be_negative() {
        let mut windows = FlowControl::new();
        let mut stream = windows.open_stream(1, true);
        windows.handle_data(SENDER, 60_000);
        stream[0] = stream[0].map(|credit| credit - 60_000);
        assert_eq!(windows.handle_stream_update(GRANTER, &mut stream[0], 1_000), None);
        assert_eq!(windows.stream_window(SENDER, &stream), Some(6_535));
        assert_eq!(windows.handle_initial_window(GRANTER, 100), None);
        assert_eq!(windows.stream_window(SENDER, &stream), Some(-58_900));
    }

    #[test]
    fn w4_a_changed_initial_window_applies_its_difference_to_every_stream_that_is_open() {
        let mut windows = FlowControl::new();
        let (mut first, second) = (windows.open_stream(1, true), windows.open_stream(3, true));
        first[0] = Some(-65_535);
        // The steps that grpc-go's estimation of the bandwidth-delay product took.
        let mut before = 65_535;
        for size in [131_070, 196_608, 360_444, 589_816, 1_179_632, 0, 65_535] {
            let of_first = windows.stream_window(SENDER, &first).expect("it is known");
            assert_eq!(windows.handle_initial_window(GRANTER, size), None);
            let difference = i64::from(size) - before;
            assert_eq!(windows.stream_window(SENDER, &first), Some(of_first + difference));
            assert_eq!(windows.stream_window(SENDER, &second), Some(i64::from(size)));
            before = i64::from(size);
        }
        let later = windows.open_stream(5, true);
        assert_eq!(windows.stream_window(SENDER, &later), Some(65_535));
    }

    #[test]
    fn w5_zero_and_too_large_increments_are_faults_and_counting_saturates() {
        let mut windows = FlowControl::new();
        let mut stream = windows.open_stream(1, true);
        assert_eq!(windows.handle_connection_update(GRANTER, 0), Some(WindowFault::Zero));
        assert_eq!(windows.handle_stream_update(GRANTER, &mut stream[0], 0), Some(WindowFault::Zero));
        // Up to 2^31-1 is allowed, one more is not.
        let most = LARGEST_WINDOW - 65_535;
        assert_eq!(windows.handle_connection_update(GRANTER, most), None);
        assert_eq!(windows.handle_connection_update(GRANTER, 1), Some(WindowFault::TooLarge));
        assert_eq!(windows.handle_stream_update(GRANTER, &mut stream[0], most), None);
        assert_eq!(windows.handle_stream_update(GRANTER, &mut stream[0], 1), Some(WindowFault::TooLarge));
        assert_eq!(
            windows.handle_initial_window(GRANTER, LARGEST_WINDOW + 1),
            Some(WindowFault::TooLarge),
            "SETTINGS cannot say more either"
        );
        stream[0] = Some(i64::MAX);
        assert_eq!(windows.handle_stream_update(GRANTER, &mut stream[0], 1), Some(WindowFault::TooLarge));
        assert_eq!(windows.stream_window(SENDER, &stream), Some(i64::MAX));
    }

    #[test]
    fn w8_after_a_loss_windows_are_unknown_until_settings_and_a_new_stream_are_seen() {
        let mut windows = FlowControl::new();
        let old = windows.open_stream(1, true);
        windows.handle_loss(GRANTER);
        assert_eq!(windows.connection_window(SENDER), None);
        assert_eq!(windows.connection_window(GRANTER), None, "DATA of it was lost as well");
        assert_eq!(windows.stream_window(SENDER, &old), None);
        let new = windows.open_stream(3, true);
        assert_eq!(windows.stream_window(SENDER, &new), None, "SETTINGS may have been lost");
        assert_eq!(
            windows.stream_window(GRANTER, &new),
            Some(65_535),
            "those of the other direction were not"
        );
        assert_eq!(windows.handle_initial_window(GRANTER, 1_000), None);
        assert_eq!(windows.stream_window(SENDER, &new), Some(1_000));
        assert_eq!(windows.handle_connection_update(GRANTER, 1_000), None);
        assert_eq!(windows.connection_window(SENDER), None, "nothing says what the sum is");
    }

    #[test]
    fn w3_increments_that_are_seen_before_the_stream_count_for_it() {
        let mut windows = FlowControl::new();
        windows.handle_early_update(GRANTER, 5, 10);
        windows.handle_early_update(GRANTER, 5, 20);
        windows.handle_early_update(SENDER, 5, 40);
        let early = windows.open_stream(5, true);
        assert_eq!(windows.stream_window(SENDER, &early), Some(65_565));
        assert_eq!(windows.stream_window(GRANTER, &early), Some(65_575));
        for _ in 0..=REMEMBERED_CREDITS {
            windows.handle_early_update(GRANTER, 7, 1);
        }
        let forgotten = windows.open_stream(7, true);
        assert_eq!(windows.stream_window(SENDER, &forgotten), None, "more than are remembered");
        let later = windows.open_stream(9, true);
        assert_eq!(windows.stream_window(SENDER, &later), Some(65_535));
    }
}
