//! Heap bytes of the running thread: the core has no threads of its own, and tests that run side by side do not
//! count each other's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
pub(crate) struct Counted;

fn add(bytes: isize) {
    // At the end of a thread its counters are gone already; nobody asks for them any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: all calls go to the system's allocator unchanged. `realloc` is the provided one: it allocates the new
// block before it frees the old one, which is the worst that memory can see.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Heap bytes of this thread now.
pub(crate) fn live() -> isize {
    LIVE.get()
}

/// Runs `run` and returns by how many heap bytes this thread grew at the most while it ran.
pub(crate) fn growth_during(run: impl FnOnce()) -> isize {
    let before = live();
    PEAK.set(before);
    run();
    PEAK.get() - before
}
