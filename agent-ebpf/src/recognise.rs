//! Whether a socket speaks HTTP/2, by the first bytes of a call: the client's preface, the server's SETTINGS, or, where the
//! connection is older than the agent, what may be the header of a frame.

use agent_common::counter::Counter;
use agent_common::flow::Walk;
use agent_common::frame::{FrameHeader, HEADER_BYTES, PREFACE_BYTES, SETTINGS};
use agent_common::ring::{
    FLOW_RECEIVED, RECOGNISED_CHAIN, RECOGNISED_PREFACE, RECOGNISED_SETTINGS, SHED_CONNECTIONS,
};
use agent_common::walk::{self, Memory};

use crate::call::Call;
use crate::config::config;
use crate::fields::{get, set};
use crate::kernel::{self, User};
use crate::maps::{self, CLASS_LEFT_OUT, CLASS_OTHER, Class};
use crate::socket;

/// Calls in which a connection that is older than the agent may show frames that chain.
pub const TRIES: u32 = 16;

/// Looks at the first bytes of a call on a socket that is not classified. True if the call is to be walked.
#[inline(always)]
pub unsafe fn recognise(walk: *mut Walk, class: *mut Class, call: Call, pid: u32) -> bool {
    // SAFETY: as `call::prepare`.
    unsafe {
        if config!(IGNORED_PID) == u64::from(pid) {
            give_up(class);
            return false;
        }
        walk::begin(walk, false);
        let mut buffers = 0;
        while buffers < 4 && get!(walk.segment_left) == 0 {
            if !walk::next_segment::<User>(walk) {
                return false;
            }
            buffers += 1;
        }
        let tcp = socket::tcp(call.sk);
        let sequenced = tcp.at != 0 && !socket::has_upper_protocol(tcp);
        let mut from_start = true;
        if sequenced {
            let start = socket::stream_end(call.sk, tcp, call.flow).wrapping_sub(call.moved);
            // See `locate`: a flow that is sent may seem to start at one.
            from_start = start == 0 || (start == 1 && call.flow != u32::from(FLOW_RECEIVED));
        }
        set!(
            walk.want =
                if get!(walk.segment_left) < PREFACE_BYTES { get!(walk.segment_left) } else { PREFACE_BYTES }
        );
        let bytes = get!(walk.want) & 31;
        let seen = (&raw mut (*walk).out).cast::<u8>();
        if bytes == 0 || kernel::read_user(seen, bytes, get!(walk.cursor)) < 0 {
            return false;
        }
        let first = User::load(seen);
        let preface = u64::from_be_bytes(*b"PRI * HT");
        let shift = if bytes < 8 { (64 - bytes * 8) & 63 } else { 0 };
        let mut recognised = 0;
        if from_start && first >> shift == preface >> shift {
            recognised = RECOGNISED_PREFACE;
        } else if bytes >= HEADER_BYTES {
            let frame = FrameHeader::from_parts(first >> 56, User::load(seen.add(1)));
            let settings = frame.kind == SETTINGS && frame.flags == 0 && frame.length <= 240;
            if frame.is_credible() {
                if from_start && settings {
                    recognised = RECOGNISED_SETTINGS;
                } else if !(sequenced && from_start) {
                    recognised = RECOGNISED_CHAIN;
                }
            }
        } else if !(sequenced && from_start) && first >> 56 == 0 && (bytes < 4 || first >> 32 & 0xff <= 9) {
            // A piece of a header of a frame below 64 KiB: the next call shows the rest of it.
            recognised = RECOGNISED_CHAIN;
        }
        set!(walk.recognised = u64::from(recognised));
        let recognised = get!(walk.recognised) as u32;
        if recognised == 0 {
            // What starts otherwise will not become HTTP/2, unless too little of it was seen.
            let tries = get!(class.count) + 1;
            set!(class.count = tries);
            if tries >= TRIES || (sequenced && from_start && bytes >= HEADER_BYTES) {
                give_up(class);
            }
            return false;
        }
        // Not where the other flow of the socket is followed already.
        if get!(walk.control) & SHED_CONNECTIONS != 0 && maps::connection_of(call.sk.at, false).is_null() {
            set!(class.class = CLASS_LEFT_OUT);
            let certain = recognised != RECOGNISED_CHAIN;
            maps::count(if certain { Counter::LeftOut } else { Counter::LeftOutGuessed });
            return false;
        }
        if recognised == RECOGNISED_PREFACE {
            maps::count(Counter::ClassPreface);
        } else if recognised == RECOGNISED_SETTINGS {
            maps::count(Counter::ClassSettings);
        }
        true
    }
}

/// The socket is not HTTP/2.
#[inline(always)]
pub unsafe fn give_up(class: *mut Class) {
    // SAFETY: as `call::prepare`.
    unsafe {
        set!(class.class = CLASS_OTHER);
        set!(class.count = 0);
        maps::count(Counter::ClassOther);
    }
}
