//! Where the bytes of a socket call are.
//!
//! After the call they stand in the caller's buffers: behind the registers of the system call (tp_btf), or
//! just before where the iterator stands now (fexit, kretprobe). Either way the result is one buffer, or iovecs.

use core::hint::cold_path;

use agent_common::counter::Counter;
use agent_common::flow::{IOVECS, Walk};
use agent_common::ring::FLOW_SENT;
use aya_ebpf::helpers::generated::bpf_task_pt_regs;

use crate::config::config;
use crate::fields::{get, set};
use crate::kernel::{field, read_kernel, read_user};

/// The buffers are described.
pub const FOUND: u32 = u32::MAX;

/// One buffer.
#[inline(always)]
unsafe fn one(walk: *mut Walk, address: u64, moved: u64) -> u32 {
    // SAFETY: `walk` is a map value that the caller owns.
    unsafe {
        set!(walk.cursor = address);
        set!(walk.segment_left = moved);
        set!(walk.iovec_left = 0);
        set!(walk.iovec_cached = 0);
        set!(walk.iovec_index = 0);
    }
    FOUND
}

/// Iovecs in user memory.
#[inline(always)]
unsafe fn many(walk: *mut Walk, address: u64, count: u64) -> u32 {
    // SAFETY: `walk` is a map value that the caller owns.
    unsafe {
        set!(walk.iovec_next = address);
        set!(walk.iovec_left = count);
        set!(walk.iovec_cached = 0);
        set!(walk.iovec_index = 0);
        set!(walk.iovec_kernel = 0);
    }
    FOUND
}

/// From the registers with which the task entered the kernel; [`FOUND`], or the counter that says why not.
#[inline(always)]
pub unsafe fn of_system_call(walk: *mut Walk, task: u64, flow: u32, moved: u64) -> u32 {
    // SAFETY: task and registers are pointers that the verifier knows; `walk` is a map value that the
    // caller owns.
    unsafe {
        set!(walk.total_left = moved);
        set!(walk.segment_left = 0);
        if u64::from(field::<u32>(task, config!(TASK_STATUS))) & config!(TASK_STATUS_COMPAT) != 0 {
            return Counter::SkippedCompat as u32;
        }
        let regs = bpf_task_pt_regs(task as *mut _) as u64;
        // Not all eight octets: on arm64 the number has four, and what stands behind it is not its own.
        let number: u64 = field::<u32>(regs, config!(REGS_NUMBER)).into();
        let second: u64 = field(regs, config!(REGS_SECOND));
        let third: u64 = field(regs, config!(REGS_THIRD));
        // Those of the flow alone: each comparison is code that has to be fetched.
        let sent = flow == u32::from(FLOW_SENT);
        let (plain, with_address) = if sent {
            (config!(NR_WRITE), config!(NR_SENDTO))
        } else {
            (config!(NR_READ), config!(NR_RECVFROM))
        };
        if number == plain || number == with_address {
            if third < moved {
                cold_path();
                return Counter::ShortBuffers as u32;
            }
            return one(walk, second, moved);
        }
        let message = if sent { config!(NR_SENDMSG) } else { config!(NR_RECVMSG) };
        if number == message {
            // struct user_msghdr: msg_iov and msg_iovlen at 16 on 64-bit machines.
            let to = (&raw mut (*walk).iovecs).cast::<u8>();
            if read_user(to, 16, second + 16) < 0 {
                cold_path();
                return Counter::Fault as u32;
            }
            let words = to.cast::<u64>();
            return many(walk, words.read_volatile(), words.add(1).read_volatile());
        }
        let (vector, at_offset) = if sent {
            (config!(NR_WRITEV), config!(NR_PWRITEV2))
        } else {
            (config!(NR_READV), config!(NR_PREADV2))
        };
        if number == vector || number == at_offset {
            return many(walk, second, third);
        }
        cold_path();
        if number == config!(NR_SENDMMSG) || number == config!(NR_RECVMMSG) {
            return Counter::SkippedMultiMessage as u32;
        }
        if number == config!(NR_SPLICE) || number == config!(NR_SENDFILE) {
            return Counter::SkippedSplice as u32;
        }
        if number == config!(NR_IO_URING_ENTER) {
            return Counter::SkippedIoUring as u32;
        }
        Counter::SkippedOtherSyscall as u32
    }
}

/// From the message's iterator, which stands behind the bytes that were moved.
#[inline(always)]
pub unsafe fn of_message(walk: *mut Walk, message: u64, moved: u64, steps: u64) -> u32 {
    // SAFETY: the iterator is read by helpers that check; `walk` is a map value that the caller owns.
    unsafe {
        set!(walk.total_left = moved);
        set!(walk.segment_left = 0);
        let image = (&raw mut (*walk).iovecs).cast::<u8>();
        if read_kernel(image, 48, message + config!(MSG_ITER)) < 0 {
            return Counter::FaultIovecs as u32;
        }
        let kind = if config!(ITER_TYPE_MASK) != 0 {
            u64::from(image.add(config!(ITER_TYPE) as usize).cast::<u32>().read_volatile())
                & config!(ITER_TYPE_MASK)
        } else {
            u64::from(image.add(config!(ITER_TYPE) as usize).read_volatile())
        };
        let offset = image.add(config!(ITER_OFFSET) as usize).cast::<u64>().read_volatile();
        if kind == config!(ITER_IS_UBUF) {
            let base = image.add(config!(ITER_UBUF) as usize).cast::<u64>().read_volatile();
            return one(walk, base + offset - moved, moved);
        }
        if kind != config!(ITER_IS_IOVEC) {
            if kind == config!(ITER_IS_BVEC) {
                return Counter::SkippedSplice as u32;
            }
            let is_kernel = kind == config!(ITER_IS_KVEC);
            return if is_kernel { Counter::SkippedKernelBuffer } else { Counter::SkippedOtherIterator }
                as u32;
        }
        let current = image.add(config!(ITER_IOV) as usize).cast::<u64>().read_volatile();
        set!(walk.iovec_next = current);
        if offset >= moved {
            if read_kernel(image, 16, current) < 0 {
                return Counter::FaultIovecs as u32;
            }
            return one(walk, image.cast::<u64>().read_volatile() + offset - moved, moved);
        }
        // Backwards, eight at a time, until what was moved before the current iovec is covered. What is read
        // in front of the first iovec is not used, since the iovecs cover what was moved.
        set!(walk.want = moved - offset);
        set!(walk.found = 0);
        set!(walk.iovec_left = 0);
        let mut step = 0;
        while step < steps {
            step += 1;
            let batch = get!(walk.iovec_next) - IOVECS * 16;
            set!(walk.iovec_next = batch);
            if read_kernel(image, IOVECS * 16, batch) < 0 {
                return Counter::FaultIovecs as u32;
            }
            let mut index = IOVECS;
            while index > 0 {
                index -= 1;
                let entry = image.cast::<u64>().add(index as usize * 2);
                let len = entry.add(1).read_volatile();
                let want = get!(walk.want);
                let after = get!(walk.iovec_left) + 1;
                set!(walk.iovec_left = after);
                if len >= want {
                    // What was moved begins inside of it; those behind it in the batch are not read again.
                    entry.write_volatile(entry.read_volatile() + len - want);
                    entry.add(1).write_volatile(want);
                    set!(walk.iovec_index = index);
                    set!(walk.found = after);
                    break;
                }
                set!(walk.want = want - len);
            }
            if get!(walk.found) != 0 {
                break;
            }
        }
        let back = get!(walk.found);
        if back == 0 {
            return Counter::OutOfIovecs as u32;
        }
        set!(walk.iovec_left = back - (IOVECS - 1 - get!(walk.iovec_index)));
        set!(walk.iovec_next = get!(walk.iovec_next) + IOVECS * 16);
        set!(walk.iovec_cached = IOVECS);
        set!(walk.iovec_kernel = 1);
        FOUND
    }
}
