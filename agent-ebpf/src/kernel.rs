//! The walker's view of memory in the kernel.

use core::ffi::c_void;
use core::hint::cold_path;

use agent_common::flow::{Flow, Walk};
use agent_common::ring::{FLAG_MORE, FLAG_SHED, FLAG_TENTATIVE, OPEN_WAKES_EVERY_NS};
use agent_common::walk::{self, Memory};
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task_btf};

use crate::config::config;
use crate::maps;

/// bpf_probe_read_user and bpf_probe_read_kernel with a length of 64 bits: the bindings' 32 bits cost
/// shifts after which old verifiers no longer know the bound.
type Copy = unsafe extern "C" fn(*mut u8, u64, u64) -> i64;

/// Copies from user memory.
#[inline(always)]
pub unsafe fn read_user(to: *mut u8, bytes: u64, from: u64) -> i64 {
    // SAFETY: helper 112 has this signature; the caller passes memory that the verifier knows.
    unsafe {
        let copy: Copy = core::mem::transmute(112usize);
        copy(to, bytes, from)
    }
}

/// Copies from kernel memory.
#[inline(always)]
pub unsafe fn read_kernel(to: *mut u8, bytes: u64, from: u64) -> i64 {
    // SAFETY: helper 113 has this signature; the caller passes memory that the verifier knows.
    unsafe {
        let copy: Copy = core::mem::transmute(113usize);
        copy(to, bytes, from)
    }
}

/// A field of a kernel structure behind a pointer whose type the verifier knows.
#[inline(always)]
pub unsafe fn field<T: core::marker::Copy>(base: u64, offset: u64) -> T {
    // SAFETY: the offset is from the kernel's own BTF, and the verifier checks the access.
    unsafe { core::ptr::read_volatile((base + offset) as *const T) }
}

/// The same behind a pointer of which the verifier knows nothing; zeros if it cannot be read.
#[inline(always)]
pub unsafe fn copied<T: core::marker::Copy>(base: u64, offset: u64) -> T {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes to all of `value` or fails; every caller's `T` is a number.
    unsafe {
        read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u64, base + offset);
        value.assume_init()
    }
}

/// The task that makes the call.
#[derive(Clone, Copy)]
pub struct Task {
    /// `struct task_struct`, a pointer that the verifier knows; zero if it was not asked for.
    pub task: u64,
    /// Process in the upper half, thread in the lower, as `bpf_get_current_pid_tgid` has them.
    pub ids: u64,
}

impl Task {
    /// With the task's structure (Linux 5.11), and the ids read from there: each helper costs about 10 ns.
    #[inline(always)]
    pub unsafe fn current() -> Task {
        // SAFETY: the helper returns the current task; the offsets are from the kernel's own BTF.
        unsafe {
            let task = bpf_get_current_task_btf() as u64;
            let (process, thread): (u32, u32) =
                (field(task, config!(TASK_TGID)), field(task, config!(TASK_PID)));
            Task { task, ids: u64::from(process) << 32 | u64::from(thread) }
        }
    }

    /// Without it.
    #[inline(always)]
    pub unsafe fn ids_only() -> Task {
        // SAFETY: no arguments.
        Task { task: 0, ids: unsafe { bpf_get_current_pid_tgid() } }
    }
}

/// User memory of the current task.
pub struct User;

// SAFETY: the pointers are handed on as they came.
unsafe impl Memory for User {
    #[inline(always)]
    unsafe fn read(to: *mut u8, bytes: u64, from: u64) -> i64 {
        // SAFETY: as the trait.
        unsafe { read_user(to, bytes, from) }
    }

    #[inline(always)]
    unsafe fn copy(to: *mut u8, bytes: u64, from: *const u8) -> i64 {
        // SAFETY: as the trait.
        unsafe { read_kernel(to, bytes, from as u64) }
    }

    #[inline(always)]
    fn gathers() -> bool {
        config!(GATHER) != 0
    }

    #[inline(always)]
    unsafe fn read_iovecs(walk: *mut Walk, bytes: u64) -> i64 {
        // SAFETY: as the trait; at most 8 iovecs of 16 bytes.
        unsafe {
            let to = (&raw mut (*walk).iovecs).cast::<u8>();
            let bytes = if bytes > 128 { 128 } else { bytes };
            if core::ptr::read_volatile(&raw const (*walk).iovec_kernel) != 0 {
                read_kernel(to, bytes, core::ptr::read_volatile(&raw const (*walk).iovec_next))
            } else {
                read_user(to, bytes, core::ptr::read_volatile(&raw const (*walk).iovec_next))
            }
        }
    }

    #[inline(always)]
    unsafe fn shift(to: *mut u8, bytes: u64, from: *const u8, room: u64) {
        // SAFETY: as the trait; both places leave room for 64 bytes. The kernel copies upwards, as this does.
        unsafe {
            if bytes <= 16 && room >= 16 {
                shift_words(to, from, 2);
            } else if bytes <= 64 && room >= 64 {
                shift_words(to, from, 8);
            } else {
                read_kernel(to, bytes, from as u64);
            }
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> u64 {
        // SAFETY: the caller leaves room; the machines that BPF tracing runs on load at any alignment, and
        // the verifier refuses the program where that is not so.
        u64::from_be(unsafe { core::ptr::read_volatile(from.cast::<u64>()) })
    }

    #[inline(always)]
    unsafe fn flush(walk: *mut Walk, flow: *mut Flow) {
        // SAFETY: as the trait.
        unsafe { send(walk, flow, FLAG_MORE) };
    }

    #[inline(always)]
    unsafe fn keep_stream(walk: *mut Walk) -> bool {
        // SAFETY: as the trait.
        unsafe { maps::keep_stream(walk) }
    }

    #[inline(always)]
    unsafe fn take_stream(walk: *mut Walk) -> bool {
        // SAFETY: as the trait.
        unsafe { maps::take_stream(walk) }
    }
}

/// Copies words to a lower address; for a few it is cheaper than a helper.
#[inline(always)]
unsafe fn shift_words(to: *mut u8, from: *const u8, words: usize) {
    let mut word = 0;
    while word < words {
        // SAFETY: the caller has room for all words at both places; see `User::load` for the alignment.
        unsafe {
            let value = core::ptr::read_volatile(from.cast::<u64>().add(word));
            core::ptr::write_volatile(to.cast::<u64>().add(word), value);
        }
        word += 1;
    }
}

/// Sends the record in `walk`, and before it the connection's KIND_OPEN if user space does not have it. Wakes the reader when much
/// waits for it or, now and then, for an opening.
#[inline(never)]
pub unsafe fn send(walk: *mut Walk, flow: *mut Flow, flags: u8) {
    // SAFETY: both are map values that the caller owns.
    unsafe {
        let mut wake = false;
        if core::ptr::read_volatile(&raw const (*walk).open_pending) != 0 {
            cold_path();
            let open = &raw mut (*walk).open;
            (*open).header.sequence = next_sequence(flow);
            if maps::output(open.cast::<c_void>(), size_of::<agent_common::ring::OpenRecord>() as u64, 0) {
                core::ptr::write_volatile(&raw mut (*walk).open_pending, 0);
                let now = core::ptr::read_volatile(&raw const (*walk).header.time_ns);
                if now.wrapping_sub(core::ptr::read_volatile(&raw const (*walk).open_woke_ns))
                    >= OPEN_WAKES_EVERY_NS
                {
                    core::ptr::write_volatile(&raw mut (*walk).open_woke_ns, now);
                    wake = true;
                }
            }
        }
        let payload = walk::payload(walk);
        let header = &raw mut (*walk).header;
        (*header).payload = payload as u32;
        let shed = core::ptr::read_volatile(&raw const (*flow).shed) != 0;
        (*header).flags = if shed { flags | FLAG_SHED } else { flags };
        core::ptr::write_volatile(&raw mut (*flow).shed, 0);
        (*header).sequence = if flags & FLAG_TENTATIVE != 0 {
            core::ptr::read_volatile(&raw const (*flow).sequence)
        } else {
            next_sequence(flow)
        };
        core::ptr::write_volatile(&raw mut (*walk).want, payload + 48);
        let bytes = core::ptr::read_volatile(&raw const (*walk).want) & 16383;
        let unread = core::ptr::read_volatile(&raw const (*walk).unread) + bytes;
        wake |= unread >= config!(WATERMARK);
        core::ptr::write_volatile(&raw mut (*walk).unread, if wake { 0 } else { unread });
        maps::output(header.cast::<c_void>(), bytes, if wake { maps::WAKE } else { 0 });
    }
}

/// The number of the next record of a flow; counts also what cannot be sent.
#[inline(always)]
pub unsafe fn next_sequence(flow: *mut Flow) -> u32 {
    // SAFETY: a map value that the caller owns.
    unsafe {
        let sequence = core::ptr::read_volatile(&raw const (*flow).sequence);
        core::ptr::write_volatile(&raw mut (*flow).sequence, sequence.wrapping_add(1));
        sequence
    }
}
