//! The frame walker of the kernel programs, run in this process against plain memory.
//!
//! The same code as in the kernel, so that a wrong step shows here within milliseconds, under overflow checks, and with
//! the smallest call that provokes it. What only the kernel can show (the verifier, preemption, how buffers are
//! found) is the matter of `walker.rs`.
#![expect(unsafe_code, reason = "the walker works on raw pointers, since it is written for map values")]

mod shedding;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use agent_common::flow::{Flow, PHASE_HEADER, PHASE_PREFACE, StreamKey, StreamState, Walk};
use agent_common::ring::CHUNK_BOUNDARY;
use agent_common::walk::{self, Memory};
use proptest::prelude::*;
use tests::traffic::{Random, Traffic};

/// A piece that was shipped: its place in the call, whether it starts a frame, its bytes.
type Shipped = (u64, bool, Vec<u8>);

thread_local! {
    static STREAMS: RefCell<HashMap<StreamKey, StreamState>> = RefCell::default();
    static SHIPPED: RefCell<Vec<Shipped>> = RefCell::default();
    static GATHERS: Cell<bool> = const { Cell::new(true) };
}

/// Memory of this process, and maps of this thread.
struct Host;

// SAFETY: the pointers are handed on as they came.
unsafe impl Memory for Host {
    unsafe fn read(to: *mut u8, bytes: u64, from: u64) -> i64 {
        // SAFETY: the walker reads what the call described, which lives.
        unsafe { std::ptr::copy(from as *const u8, to, bytes as usize) };
        0
    }

    unsafe fn copy(to: *mut u8, bytes: u64, from: *const u8) -> i64 {
        // SAFETY: the walker copies what it has.
        unsafe { Host::read(to, bytes, from as u64) }
    }

    fn gathers() -> bool {
        GATHERS.get()
    }

    unsafe fn read_iovecs(walk: *mut Walk, bytes: u64) -> i64 {
        // SAFETY: as `read`; at most eight iovecs of 16 bytes.
        unsafe {
            let to = (&raw mut (*walk).iovecs).cast::<u8>();
            Host::read(to, bytes.min(128), (*walk).iovec_next)
        }
    }

    unsafe fn shift(to: *mut u8, bytes: u64, from: *const u8, room: u64) {
        // Everything that may be overwritten is: what the kernel side leaves whole by luck is broken here.
        // SAFETY: both places are in `out`.
        unsafe {
            let kept = std::slice::from_raw_parts(from, bytes as usize).to_vec();
            std::ptr::write_bytes(to, 0xee, room.min(64) as usize);
            std::ptr::copy(kept.as_ptr(), to, kept.len());
        }
    }

    unsafe fn load(from: *const u8) -> u64 {
        // SAFETY: the walker leaves room behind what it looks at.
        u64::from_be(unsafe { from.cast::<u64>().read_unaligned() })
    }

    unsafe fn flush(walk: *mut Walk, _flow: *mut Flow) {
        // SAFETY: the walk is ours.
        unsafe { ship(walk) };
    }

    unsafe fn keep_stream(walk: *mut Walk) -> bool {
        // SAFETY: the walk is ours.
        let (key, state) = unsafe { ((*walk).stream_key, (*walk).stream_state) };
        STREAMS.with_borrow_mut(|streams| streams.insert(key, state));
        true
    }

    unsafe fn take_stream(walk: *mut Walk) -> bool {
        // SAFETY: the walk is ours.
        let key = unsafe { (*walk).stream_key };
        let Some(state) = STREAMS.with_borrow_mut(|streams| streams.remove(&key)) else { return false };
        // SAFETY: as above.
        unsafe { (*walk).stream_state = state };
        true
    }
}

/// Takes the chunks out of `walk.out`, as the reader of the ring does.
unsafe fn ship(walk: *mut Walk) {
    // SAFETY: the walk is ours.
    let payload = unsafe { (&(*walk).out)[..walk::payload(walk) as usize].to_vec() };
    let mut rest = &payload[..];
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let delta = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
        let len = usize::from(u16::from_ne_bytes([head[4], head[5]]));
        let flags = u16::from_ne_bytes([head[6], head[7]]);
        let chunk = (u64::from(delta), flags & CHUNK_BOUNDARY != 0, tail[..len].to_vec());
        SHIPPED.with_borrow_mut(|shipped| shipped.push(chunk));
        rest = tail.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
}

/// The next call of a flow is described to the walker: buffers of these lengths, from `at` on. Where it ends, and the iovecs,
/// which have to live as long as it is walked.
unsafe fn describe(walk: *mut Walk, bytes: &[u8], at: usize, call: &[usize]) -> (usize, Vec<[u64; 2]>) {
    let mut iovecs: Vec<[u64; 2]> = Vec::new();
    let mut end = at;
    for len in call {
        let len = (*len).min(bytes.len() - end);
        iovecs.push([bytes[end..].as_ptr() as u64, len as u64]);
        end += len;
    }
    // SAFETY: the walk is ours.
    unsafe {
        (*walk).total_left = (end - at) as u64;
        (*walk).segment_left = 0;
        (*walk).iovec_next = iovecs.as_ptr() as u64;
        (*walk).iovec_left = iovecs.len() as u64;
        (*walk).iovec_cached = 0;
        (*walk).iovec_index = 0;
    }
    (end, iovecs)
}

/// Walks the call to its end, which takes no more steps than it may.
unsafe fn walk_call(walk: *mut Walk, flow: *mut Flow, bytes: usize, buffers: usize) -> Result<(), String> {
    let mut steps = 0;
    // SAFETY: both live, and nobody else uses them.
    unsafe {
        while walk::step::<Host>(walk, flow) == walk::AGAIN {
            steps += 1;
            if steps > 2 * bytes + 4 * buffers + 8 {
                return Err("it does not end".to_owned());
            }
        }
        if (*walk).stop != 0 || (*walk).total_left != 0 {
            let Walk { stop, total_left, .. } = *walk;
            return Err(format!("it stopped ({stop}) {total_left} bytes before its end"));
        }
    }
    Ok(())
}

/// Walks one flow call by call; each call is a list of buffers by their lengths.
fn walk_flow(traffic: &Traffic, from_client: bool, calls: &[Vec<usize>]) -> Result<(), String> {
    STREAMS.with_borrow_mut(HashMap::clear);
    SHIPPED.take();
    let mut flow = Flow { first: 1, ..Flow::default() };
    flow.phase = (if from_client { PHASE_PREFACE } else { PHASE_HEADER }) as u8;
    // SAFETY: all zeros is a valid `Walk`.
    let mut walk: Box<Walk> = unsafe { Box::new(std::mem::zeroed()) };
    let mut shipped = vec![false; traffic.bytes.len()];
    let mut at = 0;
    for call in calls {
        let start = at;
        let walk: *mut Walk = &raw mut *walk;
        let flow: *mut Flow = &raw mut flow;
        // SAFETY: both live, and nobody else uses them.
        unsafe {
            let (end, _iovecs) = describe(walk, &traffic.bytes, start, call);
            at = end;
            walk::begin(walk, false);
            walk_call(walk, flow, at - start, call.len())
                .map_err(|fault| format!("the call at {start}: {fault}"))?;
            ship(walk);
        }
        for (delta, boundary, bytes) in SHIPPED.take() {
            let first = start + delta as usize;
            if boundary && traffic.frames.binary_search(&first).is_err() {
                return Err(format!("no frame starts at {first}"));
            }
            for (place, byte) in (first..).zip(bytes) {
                match traffic.bytes.get(place) {
                    Some(sent) if *sent == byte && traffic.ship[place] && !shipped[place] => {
                        shipped[place] = true;
                    }
                    _ => return Err(format!("byte {place}, shipped with the call at {start}, is wrong")),
                }
            }
        }
    }
    match shipped.iter().zip(&traffic.ship).take(at).position(|(is_there, wanted)| *wanted && !is_there) {
        Some(place) => Err(format!("byte {place} was not shipped")),
        None => Ok(()),
    }
}

fn buffers() -> impl Strategy<Value = Vec<usize>> {
    let len = prop_oneof![
        1 => Just(0usize),
        6 => 1..16usize,
        3 => 1..200usize,
        3 => 1..2_000usize,
        2 => 1..40_000usize
    ];
    prop_oneof![3 => prop::collection::vec(len.clone(), 1..2), 1 => prop::collection::vec(len, 1..40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_the_walker_ships_is_everything_but_payload_however_the_calls_cut_it(
        seed in any::<u64>(),
        from_client in any::<bool>(),
        size in 200..60_000usize,
        calls in prop::collection::vec(buffers(), 1..200),
        gathers in any::<bool>(),
    ) {
        GATHERS.set(gathers);
        let traffic = Traffic::generate(&mut Random::new(seed), size, from_client, 1, false);
        if let Err(fault) = walk_flow(&traffic, from_client, &calls) {
            return Err(TestCaseError::fail(fault));
        }
    }
}

#[test]
fn small_buffers_are_put_together_wherever_they_are_cut() {
    let traffic = Traffic::generate(&mut Random::new(7), 3_000, false, 1, false);
    GATHERS.set(true);
    for len in (1..80).chain([250, 503, 504, 505, 511, 512]) {
        for count in 1..12 {
            for last in [1, 13, 64, 5_000] {
                let call: Vec<usize> = std::iter::repeat_n(len, count).chain([last]).collect();
                let calls = vec![call; traffic.bytes.len() / (len * count + last) + 1];
                assert_eq!(
                    walk_flow(&traffic, false, &calls),
                    Ok(()),
                    "{count} buffers of {len}, one of {last}"
                );
            }
        }
    }
}

#[test]
fn frames_that_move_down_in_the_record_do_not_overwrite_those_behind_them() {
    // Small messages of every length, so that what follows moves by a few bytes and by many.
    let mut bytes = Traffic::default();
    for length in 0..200usize {
        let mut message = vec![0, 0, 0, 0, length as u8];
        message.extend((0..length).map(|byte| byte as u8 ^ 0x5a));
        bytes.frame_of(0, 0, 1, &message, 5);
        bytes.frame_of(1, 4, 3, &vec![0x82; length], length);
        bytes.frame_of(8, 0, 0, &[0, 0, 0, 9], 4);
    }
    let mut flow = Traffic::default();
    flow.frame_of(4, 0, 0, &[], 0);
    flow.append(&bytes);
    for step in [1, 9, 14, 64, 500, 512, 700, 5_000, 100_000] {
        let calls: Vec<Vec<usize>> = (0..flow.bytes.len().div_ceil(step)).map(|_| vec![step]).collect();
        assert_eq!(walk_flow(&flow, false, &calls), Ok(()), "calls of {step} bytes");
    }
}
