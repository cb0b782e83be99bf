//! Header blocks: collected over CONTINUATION frames, decoded once, in the order of the wire (checklist F3, H1).

use std::sync::Arc;

use super::flow::{PartialBlock, index};
use super::{Connection, Verdict};
use crate::call::{Peer, Unreadable};
use crate::header_block::HeaderBlock;
use crate::hpack::{ListLimits, Text};
use crate::http2::frame::{self, FrameHeader};
use crate::input::{Chunk, Flow};
use crate::observation::{Authority, IntermediarySeen, Observation, Sync};
use crate::observer::Shared;

impl Connection {
    /// Between HEADERS and the end of its block only CONTINUATION of the same stream may come (checklist F3).
    pub(super) fn check_continuation(&mut self, header: FrameHeader, chunk: &Chunk<'_>, shared: &mut Shared) {
        if self.flows[index(chunk.flow)].block.is_some() {
            self.anomaly(header.stream, "header_block_interrupted", chunk, shared);
            self.lose_header_block(chunk, shared);
        }
    }

    pub(super) fn handle_header_fragment(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        whole: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) -> Verdict {
        let at = index(chunk.flow);
        let fragment = match frame::header_block_fragment(header, payload) {
            Ok(fragment) if whole => Some(fragment),
            Ok(_) => None,
            Err(fault) => {
                if whole {
                    self.anomaly(header.stream, fault.kind(), chunk, shared);
                }
                None
            }
        };
        let ends = header.has(frame::END_HEADERS);
        let pending = self.flows[at].block.take();
        let mut block = match (pending, header.kind) {
            (None, frame::CONTINUATION) => {
                // Its HEADERS were not seen, or the block was given up.
                self.flows[at].hpack.start_epoch();
                if self.flows[at].sync() == Sync::Synced {
                    self.anomaly(header.stream, "continuation_without_headers", chunk, shared);
                }
                self.trace(header, payload, None, chunk, shared);
                return Verdict::Fine;
            }
            (Some(block), frame::CONTINUATION) if block.first.stream == header.stream => block,
            (Some(_), _) => {
                self.anomaly(header.stream, "header_block_interrupted", chunk, shared);
                self.lose_header_block(chunk, shared);
                return Verdict::Fine;
            }
            (None, _) if ends => {
                // The usual case, without a copy.
                return self.handle_block(header, header, fragment, chunk, shared);
            }
            (None, _) => Box::new(PartialBlock { first: header, fragments: Vec::new(), unreadable: false }),
        };
        match fragment {
            Some(fragment)
                if !block.unreadable
                    && block.fragments.len() + fragment.len() <= shared.limits.header_block_bytes =>
            {
                block.fragments.extend_from_slice(fragment);
            }
            Some(_) if !block.unreadable => {
                block.unreadable = true;
                block.fragments = Vec::new();
                self.anomaly(header.stream, "header_block_too_long", chunk, shared);
            }
            Some(_) | None => block.unreadable = true,
        }
        if !ends {
            self.trace(header, payload, None, chunk, shared);
            self.flows[at].block = Some(block);
            return Verdict::Fine;
        }
        let fragments = (!block.unreadable).then_some(block.fragments.as_slice());
        self.handle_block(block.first, header, fragments, chunk, shared)
    }

    /// A header block is complete: `first` began it, `last` ended it. Without `fragments` it is unreadable.
    pub(super) fn handle_block(
        &mut self,
        first: FrameHeader,
        last: FrameHeader,
        fragments: Option<&[u8]>,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) -> Verdict {
        let state = &mut self.flows[index(chunk.flow)];
        state.header_blocks += 1;
        let mut block = HeaderBlock::new(shared.trace_frames);
        let list_limits =
            ListLimits { bytes: shared.limits.header_list_bytes, fields: shared.limits.header_list_fields };
        let (known, authority) = (&mut shared.known, self.authority.as_deref());
        let decoded = fragments.map(|fragments| {
            let trace = shared.trace_frames;
            let wants = |kind, _: Text<'_>| trace || HeaderBlock::wants(kind);
            state.hpack.decode_known(fragments, list_limits, HeaderBlock::kind_of, wants, |field| {
                block.handle_field(&field, known, authority);
            })
        });
        if shared.known.methods.take_limit_hit() {
            self.anomaly(first.stream, "methods_limit", chunk, shared);
        }
        if shared.known.authorities.take_limit_hit() {
            self.anomaly(first.stream, "authorities_limit", chunk, shared);
        }
        let end_stream = first.kind == frame::HEADERS && first.has(frame::END_STREAM);
        match decoded {
            Some(Ok(info)) => {
                // What went over the limits of a list may be any field.
                block.has_unknown_names |= info.unreported_fields > 0;
                self.learn_role(&block, chunk.flow);
                self.handle_peers(&mut block, chunk, shared);
                self.trace(last, &[], Some(Ok(block.trace.take().unwrap_or_default())), chunk, shared);
                if first.kind == frame::HEADERS {
                    self.handle_headers(first.stream, &block, end_stream, chunk, shared);
                }
                Verdict::Fine
            }
            Some(Err(error)) => {
                self.trace(last, &[], Some(Err(error.to_string())), chunk, shared);
                self.anomaly(first.stream, "hpack", chunk, shared);
                if !self.recognised {
                    return Verdict::BoundaryWasWrong;
                }
                self.handle_unreadable_headers(first, end_stream, Unreadable::Faulty, chunk, shared);
                Verdict::Fine
            }
            None => {
                self.flows[index(chunk.flow)].hpack.start_epoch();
                self.trace(last, &[], Some(Ok(Vec::new())), chunk, shared);
                self.handle_unreadable_headers(first, end_stream, Unreadable::Incomplete, chunk, shared);
                Verdict::Fine
            }
        }
    }

    /// A header block with pseudo-header fields tells which flow is the client's (checklist C3).
    pub(super) fn learn_role(&mut self, block: &HeaderBlock, flow: Flow) {
        if self.client_flow.is_none() {
            self.client_flow = match (block.is_request, block.is_response) {
                (true, _) => Some(flow),
                (false, true) => Some(flow.opposite()),
                (false, false) => None,
            };
        }
    }

    /// Whom the client asks for, and what stands between it and the server.
    fn handle_peers(&mut self, block: &mut HeaderBlock, chunk: &Chunk<'_>, shared: &mut Shared) {
        if block.authority.is_none() && block.intermediaries.is_empty() {
            return;
        }
        let (connection, time) = (self.id, chunk.time);
        match self.peer(chunk.flow) {
            Some(Peer::Client) => {
                // A name that is not UTF-8 differs from its own text, and yet is the same.
                if let Some(authority) = block.authority.take()
                    && self.authority.as_ref() != Some(&authority)
                {
                    self.authority = Some(Arc::clone(&authority));
                    let authority = Authority { connection, authority, time };
                    shared.observations.push_back(Observation::Authority(authority));
                }
            }
            Some(Peer::Server) => {
                for kind in self.intermediaries.extend(block.intermediaries) {
                    let seen = IntermediarySeen { connection, kind, time };
                    shared.observations.push_back(Observation::Intermediary(seen));
                }
            }
            None => {}
        }
    }

    /// A header block of this flow will never be decoded.
    pub(super) fn lose_header_block(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        let state = &mut self.flows[index(chunk.flow)];
        state.hpack.start_epoch();
        if let Some(block) = state.block.take() {
            let end_stream = block.first.kind == frame::HEADERS && block.first.has(frame::END_STREAM);
            self.handle_unreadable_headers(block.first, end_stream, Unreadable::Incomplete, chunk, shared);
        }
    }
}
