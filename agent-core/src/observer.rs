//! Takes chunks, keeps the connections, hands out observations.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};

use foldhash::quality::RandomState;

use crate::bytes;
use crate::connection::{Connection, Finish, LeftOut, Resumed, SavedConnection};
use crate::grpc::trace_context::TraceHasher;
use crate::header_block::Known;
use crate::input::{Chunk, ConnectionId, Flow, Timestamp};
use crate::limits::Limits;
use crate::names::Names;
use crate::observation::{Anomaly, AtStreamLimit, Observation, OpenCall, Stall};
use crate::waiting::Waiting;

/// Follows any number of connections.
///
/// After each `handle_…` call, drain [`Observer::poll_observation`], then ask [`Observer::poll_timeout`]. After
/// [`Observer::handle_chunk`] the drain may wait until [`Observer::is_drain_due`], which makes it cheaper.
#[derive(Debug)]
pub struct Observer {
    connections: HashMap<ConnectionId, Box<Connection>, RandomState>,
    /// Heap bytes of all connections, as each of them counted when it was last touched.
    connection_bytes: usize,
    /// Bytes of the connections, and room for timers, when the budget was last looked at.
    checked_sizes: (usize, usize),
    /// The connections in the order in which they are looked at when one must go; each with the time at
    /// which it was last looked at.
    by_age: VecDeque<(ConnectionId, Timestamp)>,
    /// Connections that an observer before this one knew, and that were not seen yet.
    saved: HashMap<ConnectionId, SavedConnection, RandomState>,
    shared: Shared,
}

/// More timers than this are looked through for those whose stream or connection has gone.
const TIMERS_FIRST_LOOK: usize = 1_024;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) known: Known,
    pub(crate) observations: Waiting,
    pub(crate) trace_frames: bool,
    pub(crate) left_out: LeftOut,
    /// What became of connections that an observer before this one knew.
    pub(crate) resumed: Resumed,
    /// Connections with an empty window.
    pub(crate) stalled: BTreeSet<ConnectionId>,
    /// Connections whose clients may have as many streams open as their servers allow.
    pub(crate) at_stream_limit: BTreeSet<ConnectionId>,
    timers: BinaryHeap<Reverse<(Timestamp, Timer)>>,
    /// When there are more timers than this, those that have become void are thrown away.
    timers_bound: usize,
}

/// What is to be done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Look at a stream that is ending, or of which bytes were lost.
    Stream(ConnectionId, u32),
    /// Look for the request of a stream whose response came first.
    Request(ConnectionId, u32),
    /// Look at a stream that was reset, and on which its server went on.
    LateWork(ConnectionId, u32),
    /// Look for PINGs without an answer.
    Pings(ConnectionId),
    /// Forget a connection that has ended.
    End(ConnectionId),
    /// Forget a connection if it is idle.
    Idle(ConnectionId),
    /// Forget the connections of an earlier observer that were not seen.
    Saved,
}

impl Shared {
    pub(crate) fn set_timer(&mut self, at: Timestamp, timer: Timer) {
        self.timers.push(Reverse((at, timer)));
    }
}

impl Observer {
    /// An observer that has seen nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Observer {
            connections: HashMap::default(),
            connection_bytes: 0,
            checked_sizes: (0, 0),
            by_age: VecDeque::new(),
            saved: HashMap::default(),
            shared: Shared {
                known: Known {
                    methods: Names::new(limits.methods),
                    authorities: Names::new(limits.authorities),
                    traces: TraceHasher::default(),
                },
                limits,
                observations: Waiting::default(),
                trace_frames: false,
                left_out: LeftOut::default(),
                resumed: Resumed::default(),
                stalled: BTreeSet::new(),
                at_stream_limit: BTreeSet::new(),
                timers: BinaryHeap::new(),
                timers_bound: TIMERS_FIRST_LOOK,
            },
        }
    }

    /// Reports every frame as well ([`Observation::Frame`]), with all header fields.
    pub fn trace_frames(&mut self, on: bool) {
        self.shared.trace_frames = on;
    }

    /// What is known of the connections, for the observer that comes after this one ([`Observer::resume`]).
    pub fn save(&self) -> impl Iterator<Item = SavedConnection> {
        let followed = self.connections.values().filter_map(|connection| connection.save());
        followed.chain(self.saved.values().cloned())
    }

    /// Connections that an observer before this one knew. Each is taken up when it is seen again, where nothing was
    /// missed. As many as this observer may follow, until [`Limits::connection_idle_ns`] after `now`.
    pub fn resume(&mut self, saved: impl IntoIterator<Item = SavedConnection>, now: Timestamp) {
        let idle_ns = self.shared.limits.connection_idle_ns;
        let saved = saved.into_iter().filter(|saved| saved.last_seen.plus(idle_ns) > now);
        let saved = saved.take(self.shared.limits.connections);
        self.saved.extend(saved.map(|saved| (saved.connection, saved)));
        self.shared.set_timer(now.plus(idle_ns), Timer::Saved);
    }

    /// What became of them so far.
    #[must_use]
    pub fn resumed(&self) -> Resumed {
        self.shared.resumed
    }

    /// Takes a piece of a flow.
    pub fn handle_chunk(&mut self, chunk: Chunk<'_>) {
        self.shared.observations.count_chunk();
        if self.shared.timers.peek().is_some_and(|Reverse((at, _))| *at <= chunk.time) {
            self.handle_timeout(chunk.time);
        }
        if !self.connections.contains_key(&chunk.connection) {
            self.open(chunk.connection, chunk.time);
        }
        self.update(chunk.connection, |connection, shared| connection.handle_chunk(&chunk, shared));
        if self.shared.timers.len() > self.shared.timers_bound {
            self.drop_void_timers();
        }
        // Most chunks change no size.
        let sizes = (self.connection_bytes, self.shared.timers.capacity());
        if sizes != self.checked_sizes {
            while self.state_bytes() > self.shared.limits.state_bytes && !self.connections.is_empty() {
                self.evict("memory_limit", chunk.connection, chunk.time);
            }
            self.checked_sizes = (self.connection_bytes, self.shared.timers.capacity());
        }
    }

    /// From `now` on the capturing side leaves DATA out on purpose, or does so no more: what it may leave out is said at
    /// [`Observer::handle_left_out`]. To be said before the first chunk from which something is missing, and after the last; what was
    /// captured for a second more is still taken to miss something. Takes a step for every stream.
    pub fn leave_out_data(&mut self, leaves_out: bool, now: Timestamp) {
        if !self.shared.left_out.set(leaves_out, now) {
            return;
        }
        let mut ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.update(id, |connection, shared| connection.lose_data(now, shared));
        }
    }

    /// Up to `offset` a flow carried, since its last chunk, only the rest of a DATA frame, whole DATA frames that ended no stream,
    /// and whole WINDOW_UPDATE frames, which were left out on purpose.
    pub fn handle_left_out(&mut self, connection: ConnectionId, flow: Flow, offset: u64, time: Timestamp) {
        let chunk = Chunk::empty(connection, flow, offset, time);
        self.update(connection, |connection, shared| connection.handle_left_out(&chunk, shared));
    }

    /// One end of a connection was closed, so that one of its flows will carry nothing more.
    pub fn handle_close(&mut self, connection: ConnectionId, time: Timestamp) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.handle_close(time);
        }
    }

    /// What a flow carried last may not have been seen, and nothing that follows would show it: to be said before
    /// [`Observer::handle_end`].
    pub fn handle_unseen_end(&mut self, connection: ConnectionId, flow: Flow) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.handle_unseen_end(flow);
        }
    }

    /// Both ends are closed: once what is on its way has arrived, the connection is forgotten.
    pub fn handle_end(&mut self, connection: ConnectionId, time: Timestamp) {
        self.saved.remove(&connection);
        if let Some(state) = self.connections.get_mut(&connection) {
            state.handle_end(time);
            let due = time.plus(self.shared.limits.ending_ns);
            self.shared.set_timer(due, Timer::End(connection));
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(Reverse((at, timer))) = self.shared.timers.peek().copied() {
            if at > now {
                return;
            }
            self.shared.timers.pop();
            match timer {
                Timer::Stream(id, stream) => {
                    self.update(id, |connection, shared| {
                        connection.handle_stream_timeout(stream, at, shared)
                    });
                }
                Timer::Request(id, stream) => {
                    self.update(id, |connection, shared| {
                        connection.handle_request_overdue(stream, at, shared);
                    });
                }
                Timer::LateWork(id, stream) => {
                    self.update(id, |connection, shared| {
                        connection.handle_late_work_timeout(stream, at, shared);
                    });
                }
                Timer::Pings(id) => {
                    self.update(id, |connection, shared| connection.handle_pings_timeout(at, shared));
                }
                Timer::End(id) => self.finish_connection(id, at, Finish::Ended),
                Timer::Idle(id) => self.handle_idle(id, at),
                Timer::Saved => self.saved = HashMap::default(),
            }
        }
    }

    /// Ends every connection, as at the end of a recording: open calls are reported as open.
    pub fn finish(&mut self, now: Timestamp) {
        let mut ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.finish_connection(id, now, Finish::EndOfObservation);
        }
        self.shared.timers.clear();
        self.by_age.clear();
    }

    /// The next observation, oldest first.
    pub fn poll_observation(&mut self) -> Option<Observation> {
        self.shared.observations.pop_front()
    }

    /// Whether what waits is to be drained before the next chunk: after some tens of chunks or observations, and whenever a
    /// connection has ended, since its id may stand for another one from the next chunk on.
    ///
    /// Until then observations may wait, in their order, so that those who take them find their code and data in the
    /// caches. Not while time passes, nor while something is asked that they would have told: drain before.
    #[must_use]
    pub fn is_drain_due(&self) -> bool {
        self.shared.observations.is_drain_due()
    }

    /// gRPC calls that are open now, by connection and stream, and those whose server has ended them while the client has not
    /// closed the stream ([`OpenCall::server_ended`]). Takes a step for every connection and a sort: not for each chunk.
    pub fn visit_open_calls(&self, mut visit: impl FnMut(&OpenCall)) {
        let mut with_calls: Vec<(&ConnectionId, &Connection)> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.has_open_streams())
            .map(|(id, connection)| (id, &**connection))
            .collect();
        with_calls.sort_unstable_by_key(|(id, _)| **id);
        for (_, connection) in with_calls {
            connection.visit_open_calls(self.shared.left_out.until(), &mut visit);
        }
    }

    /// Whether a call is open for certain: neither end has ended it, no bytes were lost that may have, and its connection is
    /// not closing. Unlike all open calls, one costs a look-up.
    #[must_use]
    pub fn is_call_open(&self, connection: ConnectionId, stream: u32) -> bool {
        self.connections.get(&connection).is_some_and(|connection| connection.is_call_open(stream))
    }

    /// Stalls that last: of senders that certainly have something to send. Costs nothing where there are none.
    pub fn visit_open_stalls(&self, mut visit: impl FnMut(Stall)) {
        for id in &self.shared.stalled {
            if let Some(connection) = self.connections.get(id) {
                connection.visit_open_stalls(&mut visit);
            }
        }
    }

    /// Connections whose clients have as many streams open as their servers allow, in order. Costs nothing where there
    /// are none.
    pub fn visit_stream_limits(&self, mut visit: impl FnMut(AtStreamLimit)) {
        for id in &self.shared.at_stream_limit {
            if let Some(connection) = self.connections.get(id) {
                connection.visit_stream_limit(&mut visit);
            }
        }
    }

    /// When [`Observer::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.shared.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Whether this connection is followed.
    #[must_use]
    pub fn is_following(&self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection)
    }

    /// Connections that are followed now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Heap bytes that are counted against [`Limits::state_bytes`].
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.connection_bytes
            + bytes::of_table::<(ConnectionId, Box<Connection>)>(self.connections.capacity())
            + self.by_age.capacity() * size_of::<(ConnectionId, Timestamp)>()
            + self.shared.timers.capacity() * size_of::<Reverse<(Timestamp, Timer)>>()
    }

    /// Every change of a connection goes through here, so that its bytes stay counted.
    fn update(&mut self, id: ConnectionId, change: impl FnOnce(&mut Connection, &mut Shared)) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        change(connection, &mut self.shared);
        let before = connection.counted_bytes;
        connection.counted_bytes = connection.heap_bytes();
        self.connection_bytes = self.connection_bytes - before + connection.counted_bytes;
    }

    fn open(&mut self, id: ConnectionId, time: Timestamp) {
        while self.connections.len() >= self.shared.limits.connections.max(1) {
            self.evict("connections_limit", id, time);
        }
        // Connections that have ended are still in the line. It is cleared of them when they are the greater part.
        if self.by_age.len() > 2 * self.connections.len() + 64 {
            let mut left: HashSet<ConnectionId, RandomState> = self.connections.keys().copied().collect();
            self.by_age.retain(|(id, _)| left.remove(id));
            self.by_age.shrink_to(2 * self.by_age.len());
        }
        let mut connection = Box::new(Connection::new(id, time, &self.shared));
        if self.shared.left_out.may_miss(time) {
            connection.forget_windows();
        }
        if let Some(saved) = self.saved.remove(&id) {
            connection.resume(saved);
        }
        self.connections.insert(id, connection);
        self.by_age.push_back((id, time));
        self.shared.set_timer(time.plus(self.shared.limits.connection_idle_ns), Timer::Idle(id));
    }

    /// Second chance: the first connection in line that was idle since it was last looked at goes.
    fn evict(&mut self, limit: &'static str, newcomer: ConnectionId, now: Timestamp) {
        while let Some((id, looked_at)) = self.by_age.pop_front() {
            let Some(connection) = self.connections.get(&id) else { continue };
            if connection.last_seen > looked_at {
                self.by_age.push_back((id, connection.last_seen));
                continue;
            }
            self.finish_connection(id, now, Finish::Evicted);
            self.shared.observations.push_back(Observation::Anomaly(Anomaly {
                connection: newcomer,
                stream: 0,
                kind: limit,
                time: now,
            }));
            return;
        }
        // The line holds every connection; should it not, start over rather than loop.
        self.by_age.extend(self.connections.keys().map(|id| (*id, Timestamp(u64::MAX))));
    }

    fn handle_idle(&mut self, id: ConnectionId, now: Timestamp) {
        let Some(connection) = self.connections.get(&id) else { return };
        // A long-lived stream may be silent for long; a connection without streams is of no use.
        let factor = if connection.open_streams() > 0 { 24 } else { 1 };
        let idle_ns = self.shared.limits.connection_idle_ns.saturating_mul(factor);
        let due = connection.last_seen.plus(idle_ns);
        if due > now {
            self.shared.set_timer(due, Timer::Idle(id));
        } else {
            self.finish_connection(id, now, Finish::Evicted);
        }
    }

    fn finish_connection(&mut self, id: ConnectionId, time: Timestamp, how: Finish) {
        if let Some(mut connection) = self.connections.remove(&id) {
            self.connection_bytes -= connection.counted_bytes;
            connection.finish(time, how, &mut self.shared);
        }
        if bytes::is_mostly_empty(self.connections.len(), self.connections.capacity()) {
            self.connections.shrink_to(2 * self.connections.len());
        }
    }

    /// Timers are not taken back when their stream or connection goes, which would need a search for each. They are
    /// thrown away together once they are the greater part; of several for one purpose the first is enough, since
    /// what it finds there decides if there is another.
    fn drop_void_timers(&mut self) {
        let connections = &self.connections;
        let mut timers = std::mem::take(&mut self.shared.timers).into_vec();
        timers.retain(|Reverse((_, timer))| match timer {
            Timer::Stream(id, stream) | Timer::Request(id, stream) => {
                connections.get(id).is_some_and(|connection| connection.follows(*stream))
            }
            Timer::LateWork(id, stream) => {
                connections.get(id).is_some_and(|connection| connection.has_reset(*stream))
            }
            Timer::Pings(id) | Timer::End(id) | Timer::Idle(id) => connections.contains_key(id),
            Timer::Saved => true,
        });
        timers.sort_unstable_by_key(|Reverse((at, timer))| (*timer, *at));
        timers.dedup_by_key(|Reverse((_, timer))| *timer);
        timers.shrink_to(2 * timers.len());
        self.shared.timers_bound = (2 * timers.len()).max(TIMERS_FIRST_LOOK);
        self.shared.timers = BinaryHeap::from(timers);
    }
}
