//! Counts the heap allocations of a thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

// Of a thread, since the benches have but one: shared counters would cost more than the allocations that they count.
thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counted.
pub struct Counted;

// SAFETY: all calls go to the system's allocator unchanged. The counters need no allocation: they are of a constant
// value at first, and have nothing to drop.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        LIVE_BYTES.set(LIVE_BYTES.get().wrapping_add(layout.size() as u64));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.set(LIVE_BYTES.get().wrapping_sub(layout.size() as u64));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Allocations since the start, reallocations among them.
pub fn count() -> u64 {
    ALLOCATIONS.get()
}

/// Bytes that are allocated now, as they were asked for.
pub fn live_bytes() -> u64 {
    LIVE_BYTES.get()
}
