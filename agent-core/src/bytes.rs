//! Heap bytes of collections, from what they say of themselves: the memory that is held, not only what is used.

/// Bytes of a hash table with room for `capacity` entries: the standard library's keeps an eighth of the buckets
/// free, and an octet of control for each.
pub(crate) fn of_table<Entry>(capacity: usize) -> usize {
    if capacity == 0 { 0 } else { (capacity + 1).next_power_of_two().max(4) * (size_of::<Entry>() + 1) + 16 }
}

/// A collection that was much larger once; its memory is given back.
pub(crate) fn is_mostly_empty(len: usize, capacity: usize) -> bool {
    capacity > 64 && len < capacity / 8
}
