//! The dynamic table (RFC 7541 §2.3.2, §4), of which a part may be unknown.
//!
//! Entries are kept newest at the back, above an unknown number of *older* slots that may still be alive: those
//! from before a late join or a gap, and those that our own memory cap made us forget. An entry is only
//! taken away when it is gone for certain, that is when it and the newer ones are larger than the largest
//! table that the encoder can have, counting every entry by the least size that it can have. What is uncertain
//! stays: nobody refers to it if it is gone, and its position is right if somebody does (see the parent module).
//!
//! The octets live in one arena, in the order of the entries. New strings are staged behind the live octets
//! first, so that a name can be copied from an entry that the insertion itself evicts (§4.4), and so that
//! literals that are not inserted need no other buffer. Octets of evicted entries and of staged strings that
//! are not inserted are overwritten with zeros, since they may be secrets.

use std::collections::VecDeque;
use std::hint::black_box;
use std::ops::Range;

use super::decoder::NameKind;
use super::saved::{SavedEntry, SavedName, SavedTable};
use super::static_table::{self, STATIC_ENTRIES};

/// What each entry costs besides its name and value (§4.1).
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 32;

/// Table size before any SETTINGS or size update (RFC 9113 §6.5.2).
pub(super) const DEFAULT_TABLE_BYTES: u32 = 4096;

/// The first arena, and the first entries: enough for the table of most gRPC connections, so that a connection
/// costs two allocations a direction.
const ARENA_FIRST_BYTES: usize = 512;
const ENTRIES_FIRST: usize = 16;

/// An arena that is larger than this and nearly empty is given back.
const ARENA_KEPT_BYTES: usize = 16 * 1024;

/// Identity of an entry of the dynamic table whose content is not known: the same for every reference to
/// that entry, never used for another one on this decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// Which run without gaps it belongs to, from 0.
    pub epoch: u32,
    /// Place in the order of insertion: entries from before the epoch have -1, -2, … from the newest on.
    /// Entries that the memory cap made us forget have the number, from 0, with which they were inserted.
    pub ordinal: i64,
}

/// Where an entry's name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// In the static table.
    Static(u8),
    /// In the arena, this many octets.
    Stored(u32),
    /// It is the name of the entry with this ordinal in the same epoch, which is not known.
    Unknown(i64),
}

/// Sixteen octets, so that four entries share a cache line: with 100,000 connections no table is in any cache, and an
/// indexed field costs little else than bringing its entry there.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where its octets start in the arena: the name if it is stored, then the value if it is kept.
    start: u32,
    value_bytes: u32,
    /// Static index, octets or ordinal of the [`Name`], as 48 bits.
    name_low: u32,
    name_high: i16,
    /// Which name it is, and [`VALUE_KEPT`].
    form: u8,
    /// What the caller knows the name as.
    kind: NameKind,
}

const NAME_STATIC: u8 = 0;
const NAME_STORED: u8 = 1;
const NAME_UNKNOWN: u8 = 2;
/// The octets of the value are there. Otherwise nobody wanted them, and only their number counts.
const VALUE_KEPT: u8 = 0x80;

impl Entry {
    /// None for an ordinal of more than 47 bits: no connection lives that long.
    fn new(start: u32, name: Name, kind: NameKind, value_bytes: u32, value_kept: bool) -> Option<Entry> {
        let (form, number) = match name {
            Name::Static(index) => (NAME_STATIC, i64::from(index)),
            Name::Stored(bytes) => (NAME_STORED, i64::from(bytes)),
            Name::Unknown(ordinal) => (NAME_UNKNOWN, ordinal),
        };
        let form = form | if value_kept { VALUE_KEPT } else { 0 };
        let name_high = i16::try_from(number >> 32).ok()?;
        Some(Entry { start, value_bytes, name_low: number as u32, name_high, form, kind })
    }

    fn name(&self) -> Name {
        match self.form & !VALUE_KEPT {
            NAME_STATIC => Name::Static(self.name_low as u8),
            NAME_STORED => Name::Stored(self.name_low),
            _ => Name::Unknown(i64::from(self.name_high) << 32 | i64::from(self.name_low)),
        }
    }

    fn value_kept(&self) -> bool {
        self.form & VALUE_KEPT != 0
    }

    fn stored_bytes(&self) -> usize {
        let name = if let Name::Stored(bytes) = self.name() { bytes as usize } else { 0 };
        name + if self.value_kept() { self.value_bytes as usize } else { 0 }
    }

    fn size_min(&self) -> usize {
        entry_size_min(self.name(), self.value_bytes as usize)
    }
}

/// Size of an entry (§4.1), without the name if that is not known.
pub(super) fn entry_size_min(name: Name, value_bytes: usize) -> usize {
    let name_bytes = match name {
        Name::Static(index) => static_table::name(index).len(),
        Name::Stored(bytes) => bytes as usize,
        Name::Unknown(_) => 0,
    };
    ENTRY_OVERHEAD_BYTES.saturating_add(name_bytes).saturating_add(value_bytes)
}

/// What an index stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// A retained entry: its place from the oldest one on.
    Retained(usize),
    /// An entry that is not known.
    Unknown(EntryId),
}

/// The dynamic table of one direction.
#[derive(Debug)]
pub(super) struct Table {
    /// Live octets at `live`, staged ones from its end up to `staged_end`.
    arena: Vec<u8>,
    live: Range<usize>,
    staged_end: usize,
    entries: VecDeque<Entry>,
    /// How many of `entries` have an unknown name.
    unknown_names: usize,
    /// Sum of the least sizes of `entries`.
    size_min: usize,
    /// The encoder's table is at most this large.
    maximum: usize,
    /// Memory cap: entries beyond it are forgotten.
    cap: usize,
    /// Slots older than `entries` may be alive.
    has_older: bool,
    epoch: u32,
    /// Insertions in this epoch.
    inserted: i64,
}

impl Table {
    /// An empty table of at most `maximum` bytes.
    pub(super) fn empty(maximum: u32, cap: usize) -> Self {
        Table {
            arena: Vec::new(),
            live: 0..0,
            staged_end: 0,
            entries: VecDeque::new(),
            unknown_names: 0,
            size_min: 0,
            maximum: maximum as usize,
            cap,
            has_older: false,
            epoch: 0,
            inserted: 0,
        }
    }

    /// A table with any content, of at most `maximum` bytes.
    pub(super) fn unknown(maximum: u32, cap: usize) -> Self {
        let mut table = Table::empty(maximum, cap);
        table.has_older = table.has_room_for_older();
        table
    }

    /// Forgets everything; the table now has any content, of at most `maximum` bytes.
    pub(super) fn start_epoch(&mut self, maximum: u32) {
        self.discard_staged();
        self.clear();
        self.maximum = maximum as usize;
        self.has_older = self.has_room_for_older();
        self.epoch = self.epoch.wrapping_add(1);
        self.inserted = 0;
    }

    /// The table as it is between two blocks. What the caller knows names as is left out: another version of the caller
    /// may know them as something else.
    pub(super) fn save(&self, is_maximum_assumed: bool) -> SavedTable {
        let entry = |place: usize| {
            let name = match self.entries[place].name() {
                Name::Static(index) => SavedName::Static(index),
                Name::Stored(_) => SavedName::Octets(self.name_octets(place).unwrap_or_default().into()),
                Name::Unknown(ordinal) => SavedName::Unknown(ordinal),
            };
            let value = self.value_octets(place).map(Box::from);
            SavedEntry { name, value_bytes: self.entries[place].value_bytes, value }
        };
        SavedTable {
            maximum: u32::try_from(self.maximum).unwrap_or(u32::MAX),
            is_maximum_assumed,
            has_older: self.has_older,
            epoch: self.epoch,
            inserted: self.inserted,
            entries: (0..self.entries.len()).map(entry).collect(),
        }
    }

    /// The table that was saved; `None` if there can be no such table within `cap` bytes.
    pub(super) fn restore(
        saved: &SavedTable,
        cap: usize,
        mut kind_of: impl FnMut(Result<&[u8], EntryId>) -> NameKind,
    ) -> Option<Self> {
        let mut table = Table::empty(saved.maximum, cap);
        table.epoch = saved.epoch;
        for entry in &saved.entries {
            let (name, kind) = match &entry.name {
                SavedName::Static(index) if (1..=STATIC_ENTRIES).contains(&u32::from(*index)) => {
                    (Name::Static(*index), kind_of(Ok(static_table::name(*index))))
                }
                SavedName::Static(_) => return None,
                SavedName::Octets(octets) => {
                    table.stage(octets);
                    (Name::Stored(u32::try_from(octets.len()).ok()?), kind_of(Ok(octets)))
                }
                SavedName::Unknown(ordinal) => {
                    let id = EntryId { epoch: saved.epoch, ordinal: *ordinal };
                    (Name::Unknown(*ordinal), kind_of(Err(id)))
                }
            };
            if let Some(value) = &entry.value {
                if value.len() != entry.value_bytes as usize {
                    return None;
                }
                table.stage(value);
            }
            table.insert_staged(name, kind, entry.value_bytes as usize, entry.value.is_some());
        }
        // Less than all of them fits into no table of this size, or into no table that we may keep.
        if table.entries.len() != saved.entries.len() || saved.inserted < saved.entries.len() as i64 {
            return None;
        }
        table.inserted = saved.inserted;
        table.has_older = saved.has_older && table.has_room_for_older();
        Some(table)
    }

    /// No slot that may be alive has unknown content.
    pub(super) fn is_fully_known(&self) -> bool {
        !self.has_older && self.unknown_names == 0
    }

    /// Heap bytes that are held.
    pub(super) fn heap_bytes(&self) -> usize {
        self.arena.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Sets the largest table that the encoder can have: by a size update (§4.3), or because it became known.
    pub(super) fn set_maximum(&mut self, maximum: u32) {
        self.maximum = maximum as usize;
        self.evict_down_to(self.maximum);
        self.has_older &= self.has_room_for_older();
    }

    /// What stands at `position`, counted from 0 for the newest; `None` if nothing can be there.
    #[inline]
    pub(super) fn slot(&self, position: u32) -> Option<Slot> {
        let position = position as usize;
        if position < self.entries.len() {
            return Some(Slot::Retained(self.entries.len() - 1 - position));
        }
        // If an older slot is referred to, everything newer is alive, and leaves this much room.
        let room = if self.has_older { self.maximum.saturating_sub(self.size_min) } else { 0 };
        if position - self.entries.len() < room / ENTRY_OVERHEAD_BYTES {
            let ordinal = self.inserted - 1 - position as i64;
            Some(Slot::Unknown(EntryId { epoch: self.epoch, ordinal }))
        } else {
            None
        }
    }

    /// Where the name of a retained entry is.
    #[inline]
    pub(super) fn name(&self, place: usize) -> Name {
        self.entries[place].name()
    }

    /// What the caller knows the name of the retained entry `place` as.
    #[inline]
    pub(super) fn kind(&self, place: usize) -> NameKind {
        self.entries[place].kind
    }

    /// The octets of the name of the retained entry `place`, or whose name it is if they are not known.
    #[inline]
    pub(super) fn name_octets(&self, place: usize) -> Result<&[u8], EntryId> {
        let entry = &self.entries[place];
        match entry.name() {
            Name::Static(index) => Ok(static_table::name(index)),
            Name::Stored(bytes) => Ok(&self.arena[entry.start as usize..][..bytes as usize]),
            Name::Unknown(ordinal) => Err(EntryId { epoch: self.epoch, ordinal }),
        }
    }

    /// The value of the retained entry `place`; `None` if nobody wanted it.
    #[inline]
    pub(super) fn value_octets(&self, place: usize) -> Option<&[u8]> {
        let entry = &self.entries[place];
        let end = entry.start as usize + entry.stored_bytes();
        entry.value_kept().then(|| &self.arena[end - entry.value_bytes as usize..end])
    }

    /// Size of the retained entry `place`, without its name if that is not known.
    #[inline]
    pub(super) fn entry_size_min(&self, place: usize) -> usize {
        self.entries[place].size_min()
    }

    // Staging: strings of the field that is being decoded.

    /// Room for `bytes` more octets behind what is staged. It is not staged by this alone.
    pub(super) fn stage_room(&mut self, bytes: usize) -> &mut [u8] {
        self.reserve(bytes);
        &mut self.arena[self.staged_end..][..bytes]
    }

    /// Stages the first `bytes` octets of the last [`stage_room`](Self::stage_room).
    pub(super) fn stage_from_room(&mut self, bytes: usize) {
        self.staged_end = (self.staged_end + bytes).min(self.arena.len());
    }

    /// Stages a copy of `octets`.
    pub(super) fn stage(&mut self, octets: &[u8]) {
        self.stage_room(octets.len()).copy_from_slice(octets);
        self.stage_from_room(octets.len());
    }

    /// Stages a copy of the stored name of the retained entry `place`.
    pub(super) fn stage_name_of(&mut self, place: usize) {
        let Name::Stored(bytes) = self.entries[place].name() else { return };
        self.reserve(bytes as usize);
        let start = self.entries[place].start as usize;
        self.arena.copy_within(start..start + bytes as usize, self.staged_end);
        self.stage_from_room(bytes as usize);
    }

    /// What is staged.
    pub(super) fn staged(&self) -> &[u8] {
        &self.arena[self.live.end..self.staged_end]
    }

    /// Forgets what is staged.
    pub(super) fn discard_staged(&mut self) {
        self.arena[self.live.end..self.staged_end].fill(0);
        self.staged_end = self.live.end;
    }

    /// Inserts an entry whose stored name and kept value are exactly what is staged (§4.4).
    pub(super) fn insert_staged(&mut self, name: Name, kind: NameKind, value_bytes: usize, value_kept: bool) {
        let size_min = entry_size_min(name, value_bytes);
        if size_min > self.maximum {
            // Larger than the table: empties it and is not inserted, which is no error.
            self.discard_staged();
            self.clear();
            self.has_older = false;
            return;
        }
        self.evict_down_to(self.maximum - size_min);
        self.inserted += 1;
        let entry = Entry::new(self.live.end as u32, name, kind, value_bytes as u32, value_kept);
        let Some(entry) = entry.filter(|_| size_min <= self.cap) else {
            // In the encoder's table, but more than we may keep: it and what is older is forgotten.
            self.discard_staged();
            self.clear();
            self.has_older = true;
            return;
        };
        let retained = self.entries.len();
        self.evict_down_to(self.cap - size_min);
        self.has_older |= self.entries.len() < retained;
        if self.entries.capacity() == 0 {
            self.entries.reserve(ENTRIES_FIRST);
        }
        self.entries.push_back(entry);
        self.live.end = self.staged_end;
        self.size_min += size_min;
        self.unknown_names += usize::from(matches!(name, Name::Unknown(_)));
        self.has_older &= self.has_room_for_older();
    }

    /// Gives an arena back that one large block has blown up. To be called between blocks.
    pub(super) fn shrink(&mut self) {
        let live = self.live.len();
        if self.arena.len() > ARENA_KEPT_BYTES && live < self.arena.len() / 8 {
            self.reallocate((live * 2).next_power_of_two().max(ARENA_KEPT_BYTES / 2));
        }
    }

    /// Even the smallest older entry would still fit beside the retained ones.
    fn has_room_for_older(&self) -> bool {
        self.size_min + ENTRY_OVERHEAD_BYTES <= self.maximum
    }

    /// Removes the oldest entries until the rest is at most `bytes` large.
    fn evict_down_to(&mut self, bytes: usize) {
        while self.size_min > bytes {
            let Some(oldest) = self.entries.pop_front() else { return };
            let end = oldest.start as usize + oldest.stored_bytes();
            self.arena[oldest.start as usize..end].fill(0);
            self.live.start = end;
            self.size_min -= oldest.size_min();
            self.unknown_names -= usize::from(matches!(oldest.name(), Name::Unknown(_)));
            // What is older than an evicted entry is gone as well; the cap's caller says otherwise after.
            self.has_older = false;
        }
    }

    /// Removes all entries.
    fn clear(&mut self) {
        self.arena[self.live.clone()].fill(0);
        self.live.start = self.live.end;
        self.entries.clear();
        self.size_min = 0;
        self.unknown_names = 0;
    }

    /// Makes room for `bytes` octets behind what is staged.
    #[inline]
    fn reserve(&mut self, bytes: usize) {
        if self.arena.len() - self.staged_end < bytes {
            self.make_room(bytes);
        }
    }

    /// Moves everything to the start of the arena if it is then at most three quarters full, so that each move
    /// is paid for by as many octets as a quarter of the arena; takes a larger one otherwise.
    #[cold]
    fn make_room(&mut self, bytes: usize) {
        let needed = self.staged_end - self.live.start + bytes;
        if needed <= self.arena.len() / 4 * 3 {
            let used = self.staged_end;
            self.arena.copy_within(self.live.start..used, 0);
            self.rebase();
            self.arena[self.staged_end..used].fill(0);
        } else {
            self.reallocate((needed + needed / 2).next_power_of_two().max(ARENA_FIRST_BYTES));
        }
    }

    /// Moves everything to a new arena; the old one is overwritten.
    fn reallocate(&mut self, bytes: usize) {
        let mut arena = vec![0; bytes];
        let used = self.live.start..self.staged_end;
        arena[..used.len()].copy_from_slice(&self.arena[used]);
        std::mem::swap(&mut self.arena, &mut arena);
        overwrite(&mut arena);
        self.rebase();
    }

    /// Counts all places from the start of the live octets.
    fn rebase(&mut self) {
        let moved = self.live.start;
        for entry in &mut self.entries {
            entry.start -= moved as u32;
        }
        self.live = 0..self.live.end - moved;
        self.staged_end -= moved;
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        overwrite(&mut self.arena);
    }
}

const _: () = assert!(size_of::<Entry>() == 16);

/// Overwrites octets that may be secrets before their memory is given back. `black_box` keeps the compiler
/// from leaving out stores that nobody reads.
fn overwrite(octets: &mut [u8]) {
    octets.fill(0);
    black_box(octets);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"canary";

    fn insert(table: &mut Table, value: &[u8]) {
        table.stage(value);
        table.insert_staged(Name::Static(23), 0, value.len(), true);
    }

    /// Whether a trace of the secret is anywhere in the arena, also where nothing is live.
    fn holds_secret(table: &Table) -> bool {
        table.arena.windows(3).any(|octets| octets == &SECRET[..3] || octets == &SECRET[3..])
    }

    #[test]
    fn an_entry_keeps_its_name_whatever_it_is() {
        let names = [Name::Static(61), Name::Stored(u32::MAX), Name::Unknown(-1), Name::Unknown(-(1 << 47))];
        for name in names.into_iter().chain([Name::Unknown((1 << 47) - 1), Name::Unknown(1 << 31)]) {
            for kept in [false, true] {
                let entry = Entry::new(7, name, 3, 5, kept).unwrap();
                assert_eq!((entry.name(), entry.kind, entry.value_kept()), (name, 3, kept));
            }
        }
        assert!(Entry::new(0, Name::Unknown(1 << 47), 0, 0, true).is_none());
    }

    #[test]
    fn an_entry_whose_name_cannot_be_told_is_forgotten_with_what_is_older() {
        let mut table = Table::empty(4096, 4096);
        insert(&mut table, b"older");
        table.insert_staged(Name::Unknown(1 << 47), 0, 0, true);
        assert_eq!(table.slot(0), Some(Slot::Unknown(EntryId { epoch: 0, ordinal: 1 })));
        assert_eq!(table.slot(1), Some(Slot::Unknown(EntryId { epoch: 0, ordinal: 0 })));
        insert(&mut table, b"newer");
        assert_eq!(table.slot(0), Some(Slot::Retained(0)));
        assert!(!table.is_fully_known());
    }

    #[test]
    fn t13_evicted_octets_are_overwritten() {
        let mut table = Table::empty(4096, 4096);
        insert(&mut table, SECRET);
        assert!(holds_secret(&table));
        table.set_maximum(0);
        assert!(!holds_secret(&table));
    }

    #[test]
    fn t13_octets_that_churn_moves_and_evicts_are_overwritten() {
        let mut table = Table::empty(300, 4096);
        for round in 0..2000 {
            insert(&mut table, if round % 7 == 0 { SECRET } else { b"harmless" });
            let live = table.entries.iter().any(|entry| entry.value_bytes as usize == SECRET.len());
            assert_eq!(holds_secret(&table), live, "round {round}");
        }
    }

    #[test]
    fn t13_staged_octets_that_are_not_inserted_are_overwritten() {
        let mut table = Table::empty(40, 4096);
        table.stage(SECRET);
        table.discard_staged();
        assert!(!holds_secret(&table));
        // Too large for the table of 40 bytes.
        insert(&mut table, SECRET);
        assert!(table.entries.is_empty() && !holds_secret(&table));
    }

    #[test]
    fn t13_a_new_epoch_overwrites_everything() {
        let mut table = Table::empty(4096, 4096);
        insert(&mut table, SECRET);
        table.start_epoch(4096);
        assert!(!holds_secret(&table));
    }

    #[test]
    fn t13_nothing_outside_of_the_live_octets_remains_after_any_block() {
        let mut table = Table::empty(4096, 4096);
        for length in [1, 100, 1000, 30_000, 3, 900] {
            table.stage(&vec![1; length]);
            table.discard_staged();
            insert(&mut table, &vec![2; length]);
            table.shrink();
            let live = table.live.clone();
            let outside = table.arena[..live.start].iter().chain(&table.arena[live.end..]);
            assert!(outside.copied().all(|octet| octet == 0), "after {length}");
        }
    }
}
