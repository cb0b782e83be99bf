//! The list of findings: equal ones together, bounded, the oldest goes first.
//!
//! ```text
//!   event ───────────► entry, counted
//!   what lasts: fires ► entry, firing while one of its instances is
//!               quiet ► entry, quiet: stays visible for a while
//! ```
//!
//! An entry costs a look-up a finding; words are made only when somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_core::detectors::{End, Finding, Name, ProcessId, Verdict, correlation};
use agent_core::observation::Side;
use agent_core::{ConnectionId, Timestamp};
use indexmap::IndexMap;

use super::entry::{About, Answer, Entry, Undecided, peer_name, seconds_of};
use super::recent::{Equal, Recent};
use crate::metrics::{FindingSeries, Firing, Method, Metrics, Workload};
use crate::pipeline::Subject;

/// Most entries. When one more comes, the oldest eighth goes: what does not fire before what does.
const ENTRIES_MAX: usize = 1_000;
/// Most findings that last and hold at the same time; more of them count, and are in the list, but nothing tells when
/// they end: they are quiet from the beginning.
const FIRING_MAX: usize = 10_000;
/// An entry to which nothing happened for so long is not shown any more, unless it fires.
const VISIBLE_NS: u64 = 3_600_000_000_000;

/// Which entries are asked for; `None` asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Which finding.
    pub finding: Option<Name>,
    /// The workload's name.
    pub service_name: Option<String>,
    /// The verdict.
    pub verdict: Option<Verdict>,
}

impl Filter {
    /// The entry is asked for.
    #[must_use]
    pub fn accepts(&self, entry: &Entry) -> bool {
        let is = |wanted: Option<&str>, text: Option<&str>| wanted.is_none_or(|wanted| text == Some(wanted));
        is(self.finding.map(Name::as_str), Some(&entry.finding))
            && is(self.service_name.as_deref(), entry.service_name.as_deref())
            && is(self.verdict.map(Verdict::as_str), Some(&entry.verdict))
    }
}

/// The list. Share it in an [`Arc`].
#[derive(Debug)]
pub struct Findings {
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    groups: IndexMap<Key, Group, foldhash::quality::RandomState>,
    recent: Recent,
    firing: BTreeMap<Instance, Holds>,
    undecided: BTreeMap<Name, u64>,
    forgotten: u64,
}

/// What equal findings share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    name: Name,
    undecided: bool,
    cause: Option<&'static str>,
    link: Option<correlation::Evidence>,
    pid: Option<u32>,
    service: Option<Arc<str>>,
    side: Option<Side>,
    method: Option<Method>,
    peer: Option<Arc<str>>,
}

#[derive(Debug)]
struct Group {
    latest: Finding,
    about: About,
    count: u64,
    first: Timestamp,
    last: Timestamp,
    /// Instances that hold.
    firing: usize,
    series: FindingSeries,
}

/// What tells one finding that lasts from another. The connection stands first, since all of one are ended with it, and
/// only with a stream: of what is about a process, such as its busiest connection, it may change while it lasts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Instance {
    connection: Option<ConnectionId>,
    stream: Option<u32>,
    name: Name,
    process: Option<ProcessId>,
    side: Option<Side>,
    method: Option<Arc<str>>,
    peer: Option<Arc<str>>,
}

/// An instance that holds: in which entry, and as what it is counted.
#[derive(Debug)]
struct Holds {
    key: Key,
    _series: Firing,
}

impl Findings {
    /// Nothing was found yet. What will be is counted in `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Findings { metrics, inner: Mutex::default() }
    }

    /// Takes a finding; `subject` is the connection that it is about, if that is open.
    pub fn handle(&self, subject: Option<&Subject>, finding: Finding) {
        let mut inner = self.lock();
        match (finding.verdict, finding.lasts()) {
            (Verdict::Quiet, _) => inner.end(&Instance::of(&finding), finding.time),
            (Verdict::Firing, true) => inner.hold(&self.metrics, About::of(subject, &finding), finding),
            (Verdict::Firing, false) => inner.count(&self.metrics, subject, finding),
            (Verdict::Undecided, _) => {
                let of_name = inner.undecided.entry(finding.name()).or_default();
                *of_name = of_name.saturating_add(1);
                inner.count(&self.metrics, subject, finding);
            }
        }
    }

    /// A connection has ended: nothing about it holds any more.
    pub fn end_connection(&self, connection: ConnectionId, time: Timestamp) {
        let mut inner = self.lock();
        let of_connection: Vec<Instance> = inner
            .firing
            .range(Instance::first_of(connection)..)
            .take_while(|(instance, _)| instance.connection == Some(connection))
            .map(|(instance, _)| instance.clone())
            .collect();
        for instance in of_connection {
            inner.end(&instance, time);
        }
    }

    /// What was found until `now`, as the filter asks.
    #[must_use]
    pub fn answer(&self, filter: &Filter, now: Timestamp, unix_offset_ns: i64) -> Answer {
        let inner = self.lock();
        let groups = inner.groups.values();
        let visible = groups.filter(|group| group.firing > 0 || now.since(group.last) <= VISIBLE_NS);
        let mut findings: Vec<Entry> =
            visible.map(|group| group.entry(unix_offset_ns)).filter(|entry| filter.accepts(entry)).collect();
        let undecided = inner.undecided.iter();
        let undecided =
            undecided.map(|(name, count)| Undecided { finding: name.as_str().into(), count: *count });
        let undecided = undecided
            .filter(|undecided| filter.finding.is_none_or(|wanted| wanted.as_str() == undecided.finding))
            .collect();
        let forgotten = inner.forgotten;
        drop(inner);
        // The last ones only make the order the same each time.
        findings.sort_by(|left, right| {
            let rank = |entry: &Entry| (entry.verdict != "firing", entry.level != "problem");
            (
                rank(left),
                right.count,
                &left.finding,
                &left.service_name,
                left.pid,
                &left.rpc_method,
                &left.side,
            )
                .cmp(&(
                    rank(right),
                    left.count,
                    &right.finding,
                    &right.service_name,
                    right.pid,
                    &right.rpc_method,
                    &right.side,
                ))
                .then_with(|| {
                    (&left.cause, &left.link, &left.peer).cmp(&(&right.cause, &right.link, &right.peer))
                })
        });
        Answer { findings, undecided, forgotten }
    }

    /// A thread that panicked while it held the lock left a list that is still a list.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Counts a finding in its entry, which is not looked for if it is that of one of the last findings.
    fn count(&mut self, metrics: &Metrics, subject: Option<&Subject>, finding: Finding) {
        let known = self.recent.place(&finding);
        if let Some((_, group)) = known.and_then(|place| self.groups.get_index_mut(place)) {
            group.add(subject.and_then(|subject| subject.ends), finding);
            group.series.count();
            return;
        }
        let about = About::of(subject, &finding);
        let of = Equal::of(&finding);
        let place = self.place(metrics, about, finding);
        if let Some(of) = of {
            self.recent.remember(of, place);
        }
        if let Some((_, group)) = self.groups.get_index_mut(place) {
            group.series.count();
        }
    }

    /// Adds a finding to its entry, and says where that is.
    fn place(&mut self, metrics: &Metrics, about: About, finding: Finding) -> usize {
        let key = Key::of(&about, &finding);
        if self.groups.len() >= ENTRIES_MAX && !self.groups.contains_key(&key) {
            let forgotten = self.forget_oldest();
            metrics.forget_findings(forgotten);
        }
        match self.groups.entry(key) {
            indexmap::map::Entry::Occupied(mut entry) => {
                let Group { about: of, .. } = entry.get_mut();
                *of = about;
                let ends = of.ends;
                entry.get_mut().add(ends, finding);
                entry.index()
            }
            indexmap::map::Entry::Vacant(place) => {
                let series = place.key().series(metrics, &finding);
                let (first, last) = (finding.time, finding.time);
                let at = place.index();
                place.insert(Group { latest: finding, about, count: 1, first, last, firing: 0, series });
                at
            }
        }
    }

    /// Something that lasts has begun, or goes on.
    fn hold(&mut self, metrics: &Metrics, about: About, finding: Finding) {
        let instance = Instance::of(&finding);
        let key = Key::of(&about, &finding);
        match self.firing.get(&instance) {
            Some(holds) if holds.key == key => {
                if let Some(group) = self.groups.get_mut(&key) {
                    group.about = about;
                    group.update(finding);
                    return;
                }
                // Its entry was forgotten: it begins again.
                self.firing.remove(&instance);
            }
            // The same with another cause.
            Some(_) => self.end(&instance, finding.time),
            None => {}
        }
        let has_room = self.firing.len() < FIRING_MAX;
        let place = self.place(metrics, about, finding);
        let Some((_, group)) = self.groups.get_index_mut(place) else { return };
        if has_room {
            group.firing += 1;
            let series = group.series.begin();
            self.firing.insert(instance, Holds { key, _series: series });
        } else {
            group.series.count();
        }
    }

    fn end(&mut self, instance: &Instance, time: Timestamp) {
        let Some(holds) = self.firing.remove(instance) else { return };
        if let Some(group) = self.groups.get_mut(&holds.key) {
            group.firing = group.firing.saturating_sub(1);
            group.last = group.last.max(time);
        }
    }

    fn forget_oldest(&mut self) -> u64 {
        let mut ages: Vec<(bool, Timestamp)> = self.groups.values().map(Group::age).collect();
        let (_, newest_forgotten, _) = ages.select_nth_unstable(ENTRIES_MAX / 8);
        let newest_forgotten = *newest_forgotten;
        let before = self.groups.len();
        self.groups.retain(|_, group| group.age() > newest_forgotten);
        self.recent = Recent::default();
        let forgotten = (before - self.groups.len()) as u64;
        self.forgotten += forgotten;
        forgotten
    }
}

impl Key {
    fn of(about: &About, finding: &Finding) -> Key {
        let claims = finding.claim.claims();
        let method = match (&finding.about.method, finding.about.stream) {
            (Some(path), _) => Some(Method::of(Some(path))),
            (None, Some(_)) => Some(Method::Unresolved),
            (None, None) => None,
        };
        let peer = finding.about.peer.as_ref();
        Key {
            name: claims.name(),
            undecided: finding.verdict == Verdict::Undecided,
            cause: claims.cause(),
            link: claims.link(),
            pid: about.pid,
            service: about.service.clone(),
            side: finding.about.side,
            method,
            peer: peer.map(|peer| match peer_name(peer) {
                same if same.len() == peer.len() => Arc::clone(peer),
                other => Arc::from(other),
            }),
        }
    }

    fn series(&self, metrics: &Metrics, finding: &Finding) -> FindingSeries {
        let workload = Workload::new(self.service.as_deref().unwrap_or_default());
        let of_calls = (self.side, self.method.clone());
        metrics.findings(workload, of_calls, finding.verdict, (self.name, self.cause), self.link)
    }
}

impl Group {
    /// One more, on a connection with these ends.
    fn add(&mut self, ends: Option<(End, End)>, finding: Finding) {
        self.count = self.count.saturating_add(1);
        self.about.ends = ends;
        self.update(finding);
    }

    fn update(&mut self, finding: Finding) {
        self.last = self.last.max(finding.time);
        self.latest = finding;
    }

    /// Smaller goes first.
    fn age(&self) -> (bool, Timestamp) {
        (self.firing > 0, self.last)
    }

    fn entry(&self, unix_offset_ns: i64) -> Entry {
        let mut entry = Entry::of(&self.latest, &self.about, unix_offset_ns);
        if self.latest.lasts() && self.latest.verdict == Verdict::Firing && self.firing == 0 {
            entry.verdict = Verdict::Quiet.as_str().to_owned();
        }
        entry.count = self.count;
        entry.first_seen = seconds_of(self.first, unix_offset_ns);
        entry.last_seen = seconds_of(self.last, unix_offset_ns);
        entry
    }
}

impl Instance {
    fn of(finding: &Finding) -> Instance {
        let about = &finding.about;
        Instance {
            connection: about.stream.and(about.connection),
            stream: about.stream,
            name: finding.name(),
            process: about.owner.as_ref().map(|owner| owner.process),
            side: about.side,
            method: about.method.clone(),
            peer: about.peer.clone(),
        }
    }

    /// Not after any of this connection.
    fn first_of(connection: ConnectionId) -> Instance {
        let name = Name::ALL[0];
        let (process, side, method, peer) = (None, None, None, None);
        Instance { connection: Some(connection), stream: None, name, process, side, method, peer }
    }
}
