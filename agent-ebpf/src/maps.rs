//! The maps, and the few ways in which they are touched.

use core::arch::asm;
use core::ffi::c_void;
use core::hint::cold_path;
use core::ptr::null_mut;

use agent_common::counter::{COUNTER_SLOTS, Counter};
use agent_common::flow::{Connection, StreamKey, StreamState, Walk};
use aya_ebpf::btf_maps::{Array, LruHashMap, PerCpuArray, ProgramArray, RingBuf, SkStorage};
use aya_ebpf::helpers::generated::{
    bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem, bpf_ringbuf_output, bpf_sk_storage_delete,
    bpf_sk_storage_get,
};
use aya_ebpf::macros::btf_map;

use crate::config::config;
use crate::fields::{get, set};

/// What is known of a stream socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Class {
    /// One of the `CLASS_` constants.
    pub class: u32,
    /// Of a new socket: tries to recognise it; of another: calls since it was given up.
    pub count: u32,
}

/// Not decided yet.
pub const CLASS_NEW: u32 = 0;
/// Not HTTP/2.
pub const CLASS_OTHER: u32 = 1;
/// HTTP/2.
pub const CLASS_HTTP2: u32 = 2;
/// Looks like HTTP/2, and is not followed as long as the agent asks for that.
pub const CLASS_LEFT_OUT: u32 = 3;

#[btf_map]
static CLASSES: SkStorage<Class> = SkStorage::new();
#[btf_map]
static CONNECTIONS: SkStorage<Connection> = SkStorage::new();
#[btf_map]
static CLASSES_BY_ADDRESS: LruHashMap<u64, Class, 65536> = LruHashMap::new();
#[btf_map]
static CONNECTIONS_BY_ADDRESS: LruHashMap<u64, Connection, 16384> = LruHashMap::new();
#[btf_map]
static STREAMS: LruHashMap<StreamKey, StreamState, 65536> = LruHashMap::new();
#[btf_map]
static RING: RingBuf<u64, 8388608> = RingBuf::new();
#[btf_map]
static COUNTERS: PerCpuArray<[u64; COUNTER_SLOTS], 1> = PerCpuArray::new();
/// What the agent asks to be left out: `SHED_` bits. The agent has it mapped (BPF_F_MMAPABLE, 5.5), so that it takes no right to
/// change it.
#[btf_map]
static CONTROL: Array<u64, 1, 1024> = Array::new();
/// Two for what is sent, two for what is received: the second is for a task that preempts another.
#[btf_map]
static SCRATCH: PerCpuArray<Walk, 4> = PerCpuArray::new();

/// A socket call that a thread is in, from its entry to its return; kprobes only, since their returns know nothing
/// of the arguments.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Entered {
    /// The socket; zero while the thread is in no call, [`NOT_STREAM`] in one that does not matter.
    pub sk: u64,
    /// The message.
    pub message: u64,
    /// Flags of a receiving call.
    pub flags: u64,
    /// The socket that is walked, for programs that go on after a tail call.
    pub walked: u64,
}

/// In place of a socket.
pub const NOT_STREAM: u64 = 1;

/// By thread and flow. A thread's place stays when the call is over: the next call then costs one look-up. LRU, since
/// threads end without a word.
#[btf_map]
static ENTERED: LruHashMap<u64, Entered, 32768> = LruHashMap::new();

macro_rules! continuations {
    ($($name:ident),*) => { $(
        #[btf_map]
        pub static $name: ProgramArray<1> = ProgramArray::new();
    )* };
}
// The kernel demands that all programs of such an array are attached to the same function.
continuations!(CONT_T_SEND, CONT_T_RECV, CONT_F_INET_SEND, CONT_F_INET_RECV);
continuations!(CONT_F_INET6_SEND, CONT_F_INET6_RECV, CONT_F_UNIX_SEND, CONT_F_UNIX_RECV);
continuations!(CONT_K_SEND, CONT_K_RECV);

/// A value of zeros to insert, so that none has to be built on the stack.
static ZEROS: [u64; 19] = [0; 19];
const _: () = assert!(size_of::<[u64; 19]>() >= size_of::<Connection>());

fn raw<T>(map: &T) -> *mut c_void {
    core::ptr::from_ref(map).cast_mut().cast()
}

/// BPF_XADD, which every kernel has; `core` offers no atomic addition for this target.
#[inline(always)]
unsafe fn atomic_add(to: *mut u64, value: u64) {
    // SAFETY: the caller passes an aligned number in a map value.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) to, in(reg) value, options(nostack)) };
}

/// Adds to a counter of this CPU.
#[inline(always)]
pub fn add(counter: Counter, value: u64) {
    // SAFETY: a counter's place is inside of the array.
    unsafe { add_slot(counter as u64, value) };
}

/// Adds one to the counter at a place that the caller has masked to the array.
#[inline(always)]
pub unsafe fn count_slot(slot: u64) {
    // SAFETY: as the caller says.
    unsafe { add_slot(slot, 1) };
}

#[inline(always)]
unsafe fn add_slot(slot: u64, value: u64) {
    let key = 0u32;
    // SAFETY: the helper returns null or the whole element.
    unsafe {
        let slots = bpf_map_lookup_elem(raw(&COUNTERS), (&raw const key).cast()).cast::<u64>();
        if !slots.is_null() {
            atomic_add(slots.add(slot as usize), value);
        }
    }
}

/// What the agent asks to be left out.
#[inline(always)]
pub fn control() -> u64 {
    let key = 0u32;
    // SAFETY: the helper returns null or the whole element.
    unsafe {
        let control = bpf_map_lookup_elem(raw(&CONTROL), (&raw const key).cast()).cast::<u64>();
        if control.is_null() { 0 } else { control.read_volatile() }
    }
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    add(counter, 1);
}

/// The value of a socket in one of the two stores; null if there is none (and, with `create`, no memory).
#[inline(always)]
unsafe fn of_socket(storage: *mut c_void, by_address: *mut c_void, sk: u64, create: bool) -> *mut c_void {
    // SAFETY: `sk` is the trusted socket of the hook; the maps are those of this program.
    unsafe {
        if config!(HAVE_SK_STORAGE) != 0 {
            let get = || bpf_sk_storage_get(storage, sk as *mut c_void, null_mut(), u64::from(create));
            let found = get();
            if !found.is_null() || !create {
                return found;
            }
            cold_path();
            // The kernel allocates without waiting, and gives nothing while another CPU holds its lock
            // (seen on 6.18 for about one new socket in a thousand under load): a moment later it does.
            let found = get();
            if !found.is_null() {
                return found;
            }
            return get();
        }
        let key = sk;
        let found = bpf_map_lookup_elem(by_address, (&raw const key).cast());
        if !found.is_null() || !create {
            return found;
        }
        bpf_map_update_elem(by_address, (&raw const key).cast(), (&raw const ZEROS).cast(), 0);
        bpf_map_lookup_elem(by_address, (&raw const key).cast())
    }
}

/// The class of a socket, made if there is none.
#[inline(always)]
pub unsafe fn class_of(sk: u64) -> *mut Class {
    // SAFETY: as `of_socket`.
    unsafe { of_socket(raw(&CLASSES), raw(&CLASSES_BY_ADDRESS), sk, true).cast() }
}

/// The class of a socket if it has one.
#[inline(always)]
pub unsafe fn known_class_of(sk: u64) -> *mut Class {
    // SAFETY: as `of_socket`.
    unsafe { of_socket(raw(&CLASSES), raw(&CLASSES_BY_ADDRESS), sk, false).cast() }
}

/// The connection of an HTTP/2 socket.
#[inline(always)]
pub unsafe fn connection_of(sk: u64, create: bool) -> *mut Connection {
    // SAFETY: as `of_socket`.
    unsafe { of_socket(raw(&CONNECTIONS), raw(&CONNECTIONS_BY_ADDRESS), sk, create).cast() }
}

/// Forgets the connection of a socket, and its class if `whole`.
#[inline(always)]
pub unsafe fn forget(sk: u64, whole: bool) {
    // SAFETY: as `of_socket`.
    unsafe {
        if config!(HAVE_SK_STORAGE) != 0 {
            // The class goes with the socket.
            bpf_sk_storage_delete(raw(&CONNECTIONS), sk as *mut c_void);
        } else {
            let key = sk;
            bpf_map_delete_elem(raw(&CONNECTIONS_BY_ADDRESS), (&raw const key).cast());
            if whole {
                bpf_map_delete_elem(raw(&CLASSES_BY_ADDRESS), (&raw const key).cast());
            }
        }
    }
}

/// The place of a thread's call; null if there is none (and, with `create`, no memory).
#[inline(always)]
pub unsafe fn entered(thread: u64, flow: u32, create: bool) -> *mut Entered {
    // Process identifiers have 22 bits, so the highest one is free.
    let key = thread | u64::from(flow) << 63;
    // SAFETY: the helper returns null or the whole element.
    unsafe {
        let found = bpf_map_lookup_elem(raw(&ENTERED), (&raw const key).cast());
        if !found.is_null() || !create {
            return found.cast();
        }
        bpf_map_update_elem(raw(&ENTERED), (&raw const key).cast(), (&raw const ZEROS).cast(), 0);
        bpf_map_lookup_elem(raw(&ENTERED), (&raw const key).cast()).cast()
    }
}

/// Scratch memory `slot` of this CPU.
#[inline(always)]
unsafe fn scratch(slot: u32) -> *mut Walk {
    let key = slot;
    // SAFETY: the helper returns null or the whole element.
    unsafe { bpf_map_lookup_elem(raw(&SCRATCH), (&raw const key).cast()).cast() }
}

/// Takes scratch memory of this CPU, or null if tasks that were preempted hold it all.
///
/// Whoever raises `busy` from zero to one has it. Two that meet between raising and reading both see more
/// than one and both go without, which is safe and counted.
#[inline(always)]
pub unsafe fn claim(flow: u32, owner: u64) -> *mut Walk {
    // SAFETY: `scratch` returns null or a whole element.
    unsafe {
        let walk = scratch(flow * 2);
        if walk.is_null() {
            return null_mut();
        }
        if try_claim(walk) {
            set!(walk.owner = owner);
            return walk;
        }
        cold_path();
        let walk = scratch(flow * 2 + 1);
        if walk.is_null() {
            return null_mut();
        }
        if try_claim(walk) {
            set!(walk.owner = owner);
            return walk;
        }
        null_mut()
    }
}

/// The scratch memory that the program before this one claimed, after a tail call.
#[inline(always)]
pub unsafe fn claimed(flow: u32, owner: u64) -> *mut Walk {
    // SAFETY: as `claim`.
    unsafe {
        let walk = scratch(flow * 2);
        if walk.is_null() {
            return null_mut();
        }
        if get!(walk.busy) != 0 && get!(walk.owner) == owner {
            return walk;
        }
        scratch(flow * 2 + 1)
    }
}

#[inline(always)]
unsafe fn try_claim(walk: *mut Walk) -> bool {
    // SAFETY: `walk` is a whole element; `busy` is only touched by atomics and volatile reads.
    unsafe {
        let busy = &raw mut (*walk).busy;
        atomic_add(busy, 1);
        if core::ptr::read_volatile(busy) == 1 {
            return true;
        }
        atomic_add(busy, u64::MAX);
        false
    }
}

/// Gives scratch memory back.
#[inline(always)]
pub unsafe fn release(walk: *mut Walk) {
    // SAFETY: as `try_claim`.
    unsafe {
        set!(walk.owner = 0);
        atomic_add(&raw mut (*walk).busy, u64::MAX);
    }
}

/// Of [`output`]: the reader is to be woken. Otherwise it comes by itself after a while.
pub const WAKE: u64 = 2; // BPF_RB_FORCE_WAKEUP
const NO_WAKEUP: u64 = 1; // BPF_RB_NO_WAKEUP

/// Puts a record into the ring; counts it, and if there was no room, its loss. `wake` is [`WAKE`] or zero.
#[inline(always)]
pub unsafe fn output(record: *mut c_void, bytes: u64, wake: u64) -> bool {
    count(Counter::Produced);
    let flags = if wake == 0 { NO_WAKEUP } else { wake };
    // SAFETY: the caller passes memory that the verifier knows.
    if unsafe { bpf_ringbuf_output(raw(&RING), record, bytes, flags) } < 0 {
        cold_path();
        count(Counter::LostRingFull);
        add(Counter::LostRingFullBytes, bytes);
        return false;
    }
    true
}

/// Keeps `walk.stream_state` under `walk.stream_key`.
#[inline(always)]
pub unsafe fn keep_stream(walk: *mut Walk) -> bool {
    // SAFETY: key and value are in a map value of the right size.
    let error = unsafe {
        bpf_map_update_elem(
            raw(&STREAMS),
            (&raw const (*walk).stream_key).cast(),
            (&raw const (*walk).stream_state).cast(),
            0,
        )
    };
    if error != 0 {
        count(Counter::StreamState);
    }
    error == 0
}

/// Takes out what is kept under `walk.stream_key`.
#[inline(always)]
pub unsafe fn take_stream(walk: *mut Walk) -> bool {
    // SAFETY: as `keep_stream`.
    unsafe {
        let key = (&raw const (*walk).stream_key).cast::<c_void>();
        let kept = bpf_map_lookup_elem(raw(&STREAMS), key.cast_mut().cast()).cast::<StreamState>();
        if kept.is_null() {
            return false;
        }
        (*walk).stream_state = *kept;
        bpf_map_delete_elem(raw(&STREAMS), key.cast_mut().cast());
    }
    true
}
