//! Tables that cost a few nanoseconds a call: entries by number, sets of which only the last member matters, and the open calls
//! of a connection by stream.

use std::collections::VecDeque;

use crate::input::Timestamp;

/// Where an entry of a [`Slab`] is. One that was removed is never found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    pub(super) fn index(self) -> u32 {
        self.index
    }
}

/// Entries that stay where they are, whose places are used again: the last one that was left first, so that few are
/// touched.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Place<T>>,
    free: Vec<u32>,
}

/// At the start of a cache line.
#[derive(Debug)]
#[repr(C, align(64))]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Bytes of an entry.
    #[cfg(test)]
    pub(super) const PLACE_BYTES: usize = size_of::<Place<T>>();

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Nothing is put in above `bound`.
    pub(super) fn insert(&mut self, value: T, bound: usize) -> Option<Key> {
        if let Some(index) = self.free.pop() {
            let place = self.entries.get_mut(index as usize)?;
            place.value = Some(value);
            return Some(Key { index, generation: place.generation });
        }
        if self.entries.len() >= bound {
            return None;
        }
        let index = u32::try_from(self.entries.len()).ok()?;
        self.entries.push(Place { generation: 0, value: Some(value) });
        Some(Key { index, generation: 0 })
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let place = self.entries.get(key.index as usize)?;
        place.value.as_ref().filter(|_| place.generation == key.generation)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.entries.get_mut(key.index as usize)?;
        place.value.as_mut().filter(|_| place.generation == key.generation)
    }

    /// The entry that is at this place now.
    pub(super) fn key_at(&self, index: u32) -> Option<Key> {
        let place = self.entries.get(index as usize)?;
        place.value.is_some().then_some(Key { index, generation: place.generation })
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.entries.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.index);
        if self.free.len() == self.entries.len() && self.entries.len() > KEPT_WHEN_EMPTY {
            // What a burst took is given back. Keys of before are void, since the numbers go on from here.
            let next = generation_after(&self.entries);
            self.entries = vec![Place { generation: next, value: None }];
            self.free = vec![0];
        }
        Some(value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> + Clone {
        self.entries.iter().filter_map(|place| place.value.as_ref())
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|place| place.value.as_mut())
    }
}

/// Places that an empty table keeps.
const KEPT_WHEN_EMPTY: usize = 1_024;

fn generation_after<T>(entries: &[Place<T>]) -> u32 {
    entries.iter().map(|place| place.generation).max().unwrap_or_default().wrapping_add(1)
}

/// How many there are, and which one if it is the only one: the exclusive or of all is the last that is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    count: u32,
    combined: u32,
}

impl Set {
    pub(super) fn add(&mut self, key: Key) {
        self.count += 1;
        self.combined ^= key.index;
    }

    /// Only what was added is removed.
    pub(super) fn remove(&mut self, key: Key) {
        self.count = self.count.saturating_sub(1);
        self.combined ^= key.index;
    }

    pub(super) fn len(self) -> u32 {
        self.count
    }

    /// Place of the only member.
    pub(super) fn only(self) -> Option<u32> {
        (self.count == 1).then_some(self.combined)
    }
}

/// Hashes that were added a moment ago: each is known for one to two turns of the time that it is to be known.
///
/// Two Bloom filters take turns, side by side, so that nothing is ever searched for what is to be forgotten, and a hash costs one
/// cache line. A hash may be taken for another (about one in a thousand when both are full): it is then said to be
/// known, never not to be.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// None before the first hash, and again when nothing was added for two turns.
    lines: Option<Box<[Line; LINES]>>,
    /// When the turn ends.
    until: Timestamp,
    count: u32,
    /// Which half of each line is added to.
    now: u32,
}

/// Halves of a cache line: a hash sets one bit of each word of one half.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([[u32; 8]; 2]);

/// Of each filter: 20 bits for each hash of a full turn. Many processes have such a table, and share the caches.
const LINES: usize = 80;

impl Recent {
    /// Hashes of one turn.
    pub(super) const MOST: u32 = 1_024;

    /// Heap bytes at most.
    #[cfg(test)]
    pub(super) const MOST_BYTES: usize = size_of::<[Line; LINES]>();

    /// Adds a hash. True if others had to be forgotten early, since the turn was full.
    pub(super) fn add(&mut self, hash: u64) -> bool {
        let is_full = self.count >= Recent::MOST;
        if is_full {
            self.turn();
        }
        self.count += 1;
        let lines = self.lines.get_or_insert_with(|| Box::new([Line([[0; 8]; 2]); LINES]));
        let half = &mut lines[place(hash)].0[self.now as usize % 2];
        half.iter_mut().zip(bits(hash)).for_each(|(word, bit)| *word |= bit);
        is_full
    }

    pub(super) fn has(&self, hash: u64) -> bool {
        let Some(lines) = &self.lines else { return false };
        let has = |half: &[u32; 8]| half.iter().zip(bits(hash)).all(|(word, bit)| word & bit != 0);
        lines[place(hash)].0.iter().any(has)
    }

    /// Forgets what was added long enough ago.
    pub(super) fn expire(&mut self, now: Timestamp, known_ns: u64) {
        if now >= self.until {
            self.turn();
            if now >= self.until.plus(known_ns) {
                self.turn();
            }
            self.until = now.plus(known_ns);
        }
    }

    fn turn(&mut self) {
        let Some(lines) = &mut self.lines else { return };
        let is_idle = std::mem::take(&mut self.count) == 0;
        self.now ^= 1;
        let now = self.now as usize % 2;
        lines.iter_mut().for_each(|line| line.0[now] = [0; 8]);
        if is_idle && lines.iter().flat_map(|line| line.0.as_flattened()).all(|bits| *bits == 0) {
            self.lines = None;
        }
    }
}

/// By the first bits of the hash.
fn place(hash: u64) -> usize {
    (((hash >> 32) * LINES as u64) >> 32) as usize
}

/// By the last ones, five for each word.
fn bits(hash: u64) -> [u32; 8] {
    std::array::from_fn(|word| 1 << ((hash >> (5 * word)) % 32))
}

/// What is remembered of an open call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracked {
    /// An inbound call that others may belong to.
    Inbound(Key),
    /// A short call of the infrastructure: nothing belongs to it, but while it is open nothing is the only one.
    Infrastructure,
    /// An inbound call beyond the bound.
    Beyond,
    /// An outbound call that belongs to an inbound one.
    Outbound(Key),
}

/// Open calls of a connection. Ids of streams only grow (RFC 9113 §5.1.1), so they are in order as they come, and an end is found
/// by bisection.
#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    calls: VecDeque<(u32, Option<Tracked>)>,
    gone: u32,
}

impl OpenCalls {
    pub(super) fn insert(&mut self, stream: u32, tracked: Tracked) {
        match self.calls.back() {
            Some((last, _)) if *last >= stream => match self.position(stream) {
                Ok(_) => {}
                Err(at) => self.calls.insert(at, (stream, Some(tracked))),
            },
            _ => self.calls.push_back((stream, Some(tracked))),
        }
    }

    pub(super) fn get(&self, stream: u32) -> Option<Tracked> {
        self.position(stream).ok().and_then(|at| self.calls.get(at)?.1)
    }

    pub(super) fn remove(&mut self, stream: u32) -> Option<Tracked> {
        let at = self.position(stream).ok()?;
        let tracked = self.calls.get_mut(at)?.1.take()?;
        self.gone += 1;
        while let Some((_, None)) = self.calls.front() {
            self.calls.pop_front();
            self.gone -= 1;
        }
        if self.gone > 16 && self.gone as usize > self.calls.len() / 2 {
            self.calls.retain(|(_, tracked)| tracked.is_some());
            self.gone = 0;
        }
        Some(tracked)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Tracked> {
        self.gone = 0;
        self.calls.drain(..).filter_map(|(_, tracked)| tracked)
    }

    fn position(&self, stream: u32) -> Result<usize, usize> {
        self.calls.binary_search_by_key(&stream, |(id, _)| *id)
    }
}

/// Heap bytes of an open call in the list of its connection at most: it may be followed by one that has ended, in a list that has
/// doubled.
#[cfg(test)]
pub(super) fn bytes_of_open_call() -> usize {
    4 * size_of::<(u32, Option<Tracked>)>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_was_removed_is_never_found_again() {
        let mut slab = Slab::default();
        let first = slab.insert("first", 1).expect("room");
        assert_eq!(slab.insert("beyond", 1), None);
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second", 1).expect("room");
        assert_eq!((slab.get(first), slab.get(second), slab.len()), (None, Some(&"second"), 1));
        assert_eq!(slab.remove(first), None);
    }

    #[test]
    fn what_a_burst_took_is_given_back_and_its_keys_stay_void() {
        let mut slab = Slab::default();
        let keys: Vec<Key> = (0..2_000).filter_map(|n| slab.insert(n, 5_000)).collect();
        for key in &keys {
            slab.remove(*key);
        }
        assert!(slab.entries.len() == 1 && slab.len() == 0, "{}", slab.entries.len());
        let again = slab.insert(7, 5_000).expect("room");
        assert!(keys.iter().all(|key| slab.get(*key).is_none()));
        assert_eq!(slab.get(again), Some(&7));
    }

    #[test]
    fn a_set_knows_its_only_member_in_whatever_order_the_others_went() {
        let mut slab = Slab::default();
        let keys: Vec<Key> = (0..3).filter_map(|n| slab.insert(n, 3)).collect();
        let mut set = Set::default();
        keys.iter().for_each(|key| set.add(*key));
        assert_eq!(set.only(), None);
        set.remove(keys[0]);
        set.remove(keys[2]);
        assert_eq!(set.only(), Some(1));
        set.remove(keys[1]);
        assert_eq!((set.only(), set.len()), (None, 0));
    }

    /// The bits of all of them differ, as those of hashes do.
    fn hash(n: u64) -> u64 {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[test]
    fn what_was_added_is_known_for_a_turn_and_forgotten_after_two() {
        let mut recent = Recent::default();
        for n in 1..=1_000 {
            recent.expire(Timestamp(n), 1_000);
            assert!(!recent.add(hash(n)));
        }
        assert!((1..=1_000).all(|n| recent.has(hash(n))));
        recent.expire(Timestamp(1_500), 1_000);
        assert!(recent.has(hash(1_000)), "it was added 500 ago");
        recent.expire(Timestamp(2_600), 1_000);
        assert!((1..=1_000).all(|n| !recent.has(hash(n))));
        recent.expire(Timestamp(10_000), 1_000);
        assert!(recent.lines.is_none(), "an idle process keeps no room");
    }

    #[test]
    fn more_than_a_turn_may_have_end_it_and_few_are_taken_for_others() {
        let mut recent = Recent::default();
        let most = Recent::MOST as u64;
        let early = (1..=2 * most + 1).filter(|n| recent.add(hash(*n))).count();
        assert_eq!(early, 2);
        assert!((most + 1..=2 * most + 1).all(|n| recent.has(hash(n))));
        let mistaken = (1_000_000..1_100_000).filter(|n| recent.has(hash(*n))).count();
        assert!(mistaken < 200, "{mistaken} of 100,000");
    }

    #[test]
    fn open_calls_are_found_whatever_ended_before_and_take_room_for_those_that_are_open() {
        let mut calls = OpenCalls::default();
        calls.insert(3, Tracked::Beyond);
        calls.insert(1, Tracked::Infrastructure);
        assert_eq!((calls.remove(1), calls.remove(1)), (Some(Tracked::Infrastructure), None));
        for stream in (5..2_001).step_by(2) {
            calls.insert(stream, Tracked::Infrastructure);
            assert_eq!(calls.remove(stream), Some(Tracked::Infrastructure));
        }
        assert!(calls.calls.len() < 40, "{}", calls.calls.len());
        assert_eq!((calls.get(3), calls.get(5)), (Some(Tracked::Beyond), None));
    }
}
