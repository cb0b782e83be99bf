//! Connections that were followed before this observer was made: what is known is taken up again where nothing can have
//! been missed.
//!
//! Only the HPACK tables and the directions are kept. Calls that were open are not: the connection is joined in the
//! middle like any other that is older than the observer, but fields that refer to what was sent before are read.

use serde::{Deserialize, Serialize};

use super::Connection;
use super::flow::{FlowState, index};
use crate::header_block::HeaderBlock;
use crate::hpack::{Decoder, SavedEntry, SavedName, SavedTable};
use crate::http2::frame::HEADER_LEN;
use crate::input::{Chunk, ConnectionId, Flow, Timestamp};
use crate::observer::Shared;

/// What is known of a connection when the observation of it ends while it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedConnection {
    /// The connection. Must name the same one for the next observer.
    pub connection: ConnectionId,
    /// When its first byte was seen.
    pub opened: Timestamp,
    /// When its last byte was seen.
    pub last_seen: Timestamp,
    /// Which flow comes from the client, if that is known.
    pub client_flow: Option<Flow>,
    /// Its flows, [`Flow::Sent`] first: those that are between two frames, with a decoder that knows something.
    pub flows: [Option<SavedFlow>; 2],
}

/// What is known of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFlow {
    /// Where the next frame begins.
    pub offset: u64,
    /// Its encoder's table there.
    pub table: SavedTable,
}

/// Of flows that were saved, how many were seen again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Nothing was missed: what was known is known again.
    pub taken_up: u64,
    /// Something was missed, or may have been: joined in the middle.
    pub missed: u64,
}

impl SavedFlow {
    /// The flow goes on here. Between two frames nothing or a whole frame can be missing, so less than a frame header is
    /// none: the kernel side counts the SYN of a connection that it joins late (`bytes_acked` of `tcp(7)` does).
    fn goes_on_with(&self, chunk: &Chunk<'_>) -> bool {
        chunk.boundary
            && !chunk.bytes.is_empty()
            && chunk.offset.checked_sub(self.offset).is_some_and(|missing| missing < HEADER_LEN as u64)
    }
}

impl Connection {
    /// What can be taken up later, if there is anything.
    pub(crate) fn save(&self) -> Option<SavedConnection> {
        let unseen = |at: usize| self.saved.as_ref().and_then(|saved| saved.flows[at].clone());
        let flows = [0, 1].map(|at| self.flows[at].save().or_else(|| unseen(at)));
        flows.iter().any(Option::is_some).then_some(SavedConnection {
            connection: self.id,
            opened: self.opened,
            last_seen: self.last_seen,
            client_flow: self.client_flow,
            flows,
        })
    }

    /// It was followed before.
    pub(crate) fn resume(&mut self, saved: SavedConnection) {
        self.saved = Some(Box::new(saved));
    }

    /// The decoder for a flow that is joined in the middle with this chunk.
    pub(super) fn joined_decoder(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) -> Decoder {
        let limit = shared.limits.hpack_table_bytes;
        let Some(saved) = &mut self.saved else { return Decoder::late(limit) };
        let Some(flow) = saved.flows[index(chunk.flow)].take() else { return Decoder::late(limit) };
        self.remembered_changed = true;
        let decoder = flow
            .goes_on_with(chunk)
            .then(|| Decoder::restore(&flow.table, limit, HeaderBlock::kind_of))
            .flatten();
        if let Some(decoder) = decoder {
            shared.resumed.taken_up += 1;
            self.client_flow = self.client_flow.or(saved.client_flow);
            self.opened = self.opened.min(saved.opened);
            decoder
        } else {
            shared.resumed.missed += 1;
            Decoder::late(limit)
        }
    }
}

impl SavedConnection {
    pub(super) fn heap_bytes(&self) -> usize {
        let in_entry = |entry: &SavedEntry| {
            let name = if let SavedName::Octets(octets) = &entry.name { octets.len() } else { 0 };
            size_of::<SavedEntry>() + name + entry.value.as_ref().map_or(0, |value| value.len())
        };
        let in_flows = self.flows.iter().flatten().flat_map(|flow| &flow.table.entries).map(in_entry);
        size_of::<SavedConnection>() + in_flows.sum::<usize>()
    }
}

impl FlowState {
    fn save(&self) -> Option<SavedFlow> {
        let offset = self.next_offset.filter(|_| self.block.is_none() && self.reader.is_between_frames())?;
        let table = self.hpack.save();
        let is_worth_it = self.hpack.is_fully_known() || !table.entries.is_empty();
        is_worth_it.then_some(SavedFlow { offset, table })
    }
}
