//! One of the two flows of a connection: its frames, its HPACK context, its counts.

use std::collections::VecDeque;

use crate::hpack::Decoder;
use crate::http2::frame::FrameHeader;
use crate::http2::reader::FrameReader;
use crate::input::{Flow, Timestamp};
use crate::observation::{FlowSummary, Sync};
use crate::observer::Shared;

/// One flow, in the order of use like [`Connection`].
#[derive(Debug)]
#[repr(C)]
pub(super) struct FlowState {
    /// End of what was seen; `None` before the first chunk.
    pub(super) next_offset: Option<u64>,
    pub(super) frames: u64,
    pub(super) header_blocks: u64,
    pub(super) bytes: u64,
    /// Largest SETTINGS_MAX_FRAME_SIZE that the other side has ever sent; `None` if that is not known.
    pub(super) frame_size: Option<u32>,
    /// When bytes last passed, or were found missing, that were not read.
    pub(super) unread_at: Option<Timestamp>,
    /// The first chunk was not the flow's first bytes.
    pub(super) joined_late: bool,
    /// What it carried last may not have been seen, and nothing follows that would show it.
    pub(super) end_unseen: bool,
    /// A header block that is being collected (RFC 9113 §4.3).
    pub(super) block: Option<Box<PartialBlock>>,
    pub(super) reader: FrameReader,
    pub(super) hpack: Decoder,
    /// SETTINGS_HEADER_TABLE_SIZE in force for this flow's encoder, if it is known.
    pub(super) table_size: Option<u32>,
    /// The same as sent by the other side and not yet acknowledged in this flow; an entry for each SETTINGS frame.
    pub(super) table_sizes: VecDeque<Unacknowledged>,
    /// SETTINGS of this flow may have been missed.
    pub(super) settings_missed: bool,
    pub(super) hole_bytes: u64,
    pub(super) desyncs: u64,
}

/// A SETTINGS frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unacknowledged {
    /// SETTINGS_HEADER_TABLE_SIZE, if it is in it.
    pub(super) table_size: Option<u32>,
    /// When it was sent; `None` if the next acknowledgement may be that of another frame.
    pub(super) sent: Option<Timestamp>,
}

#[derive(Debug)]
pub(super) struct PartialBlock {
    pub(super) first: FrameHeader,
    pub(super) fragments: Vec<u8>,
    /// A part is missing or did not fit: the block cannot be decoded.
    pub(super) unreadable: bool,
}

/// SETTINGS frames that may be unacknowledged at once before the oldest is taken as acknowledged.
pub(super) const UNACKNOWLEDGED_SETTINGS: usize = 16;

/// Initial value of SETTINGS_MAX_FRAME_SIZE (RFC 9113 §6.5.2), which is also the least.
pub(super) const DEFAULT_FRAME_SIZE: u32 = 16_384;

/// Initial value of SETTINGS_HEADER_TABLE_SIZE (RFC 9113 §6.5.2).
const DEFAULT_TABLE_SIZE: u32 = 4_096;

pub(super) fn index(flow: Flow) -> usize {
    match flow {
        Flow::Sent => 0,
        Flow::Received => 1,
    }
}

impl FlowState {
    pub(super) fn new(shared: &Shared) -> FlowState {
        let limits = &shared.limits;
        FlowState {
            reader: FrameReader::at_start(limits.header_block_bytes),
            hpack: Decoder::synced(limits.hpack_table_bytes),
            next_offset: None,
            unread_at: None,
            joined_late: false,
            end_unseen: false,
            block: None,
            table_size: Some(DEFAULT_TABLE_SIZE),
            table_sizes: VecDeque::new(),
            settings_missed: false,
            frame_size: None,
            frames: 0,
            header_blocks: 0,
            bytes: 0,
            hole_bytes: 0,
            desyncs: 0,
        }
    }

    /// The peer may use a larger table as soon as it has read that it may, and must not use a larger one
    /// than it was told once it has acknowledged that (RFC 9113 §6.5.3): until then both are allowed.
    pub(super) fn apply_table_size(&mut self) {
        if let Some(acknowledged) = self.table_size {
            let largest = self
                .table_sizes
                .iter()
                .filter_map(|settings| settings.table_size)
                .fold(acknowledged, u32::max);
            self.hpack.set_settings_limit(largest);
        }
    }

    /// Heap bytes that are held now.
    pub(super) fn heap_bytes(&self) -> usize {
        self.reader.heap_bytes()
            + self.hpack.heap_bytes()
            + self.block.as_ref().map_or(0, |block| size_of::<PartialBlock>() + block.fragments.capacity())
            + self.table_sizes.capacity() * size_of::<Unacknowledged>()
    }

    /// The frame is longer than the other side ever allowed (RFC 9113 §4.2).
    pub(super) fn is_too_long(&self, header: FrameHeader) -> bool {
        header.length > DEFAULT_FRAME_SIZE && self.frame_size.is_some_and(|largest| header.length > largest)
    }

    /// SETTINGS, or their acknowledgement, may have been missed: how large the table may be is not known.
    pub(super) fn forget_table_size(&mut self) {
        self.table_size = None;
        self.table_sizes.clear();
        self.hpack.forget_settings_limit();
    }

    pub(super) fn sync(&self) -> Sync {
        if self.reader.is_lost() {
            Sync::Desynced
        } else if self.hpack.is_fully_known() {
            Sync::Synced
        } else {
            Sync::Late
        }
    }

    /// All that it carried up to here was seen, as far as anything tells.
    pub(super) fn is_seen_to_its_end(&self) -> bool {
        self.next_offset.is_some() && !self.reader.is_lost() && !self.end_unseen
    }

    pub(super) fn summary(&self, send_window: Option<i64>) -> FlowSummary {
        FlowSummary {
            sync: self.sync(),
            frames: self.frames,
            header_blocks: self.header_blocks,
            bytes: self.bytes,
            hole_bytes: self.hole_bytes,
            desyncs: self.desyncs,
            send_window,
        }
    }
}
