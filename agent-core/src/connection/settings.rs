//! SETTINGS: what each end allows the other (RFC 9113 §6.5; checklist F6).

use super::Connection;
use super::flow::{DEFAULT_FRAME_SIZE, UNACKNOWLEDGED_SETTINGS, Unacknowledged, index};
use crate::http2::frame::{self, FrameHeader};
use crate::http2::settings;
use crate::input::{Chunk, Flow};
use crate::observation::Window;
use crate::observer::Shared;

impl Connection {
    /// A SETTINGS frame; not `whole` if a part of its payload is missing.
    pub(super) fn handle_settings(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        whole: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        if !header.has(frame::ACK) {
            self.handle_advertised(payload, whole, chunk, shared);
        }
        if whole {
            self.handle_table_size(header, payload, chunk);
        } else {
            self.flows[index(chunk.flow.opposite())].forget_table_size();
        }
    }

    /// What `payload` says besides the table size, which has rules of its own: it counts from when it is seen.
    pub(super) fn handle_advertised(
        &mut self,
        payload: &[u8],
        whole: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let at = index(chunk.flow);
        if !whole {
            self.forget_settings(chunk.flow);
            let sender = chunk.flow.opposite();
            self.lose_stalls(|flow, window| flow == sender && window == Window::Stream, chunk, shared);
            return;
        }
        if !self.flows[at].settings_missed {
            // Until SETTINGS were seen nothing is too long: the two flows may be seen out of step.
            self.flows[index(chunk.flow.opposite())].frame_size.get_or_insert(DEFAULT_FRAME_SIZE);
        }
        let initial_window = self.flow_control.initial_window(chunk.flow.opposite());
        for (id, value) in settings::entries(payload) {
            match id {
                settings::MAX_FRAME_SIZE => {
                    let largest = &mut self.flows[index(chunk.flow.opposite())].frame_size;
                    *largest = largest.map(|largest| largest.max(value));
                }
                settings::MAX_CONCURRENT_STREAMS => {
                    self.handle_max_concurrent_streams(chunk.flow, value, chunk.time, shared);
                }
                settings::INITIAL_WINDOW_SIZE => {
                    if let Some(fault) = self.flow_control.handle_initial_window(chunk.flow, value) {
                        self.anomaly(0, fault.kind(), chunk, shared);
                    }
                }
                settings::ALLOW_TRUE_BINARY_METADATA => self.binary_metadata[at] = Some(value == 1),
                _ => {}
            }
        }
        self.handle_initial_window_changed(initial_window, chunk, shared);
    }

    /// SETTINGS of `flow` may have been missed.
    pub(super) fn forget_settings(&mut self, flow: Flow) {
        self.flow_control.forget_initial_window(flow);
        self.stream_limit.lose();
        self.binary_metadata[index(flow)] = None;
        self.flows[index(flow)].settings_missed = true;
        self.flows[index(flow.opposite())].frame_size = None;
    }

    /// Both ends have said that values of `-bin` fields may be raw octets (checklist G12); `None` if what one of them
    /// said may have been missed.
    pub(super) fn has_binary_metadata(&self) -> Option<bool> {
        match self.binary_metadata {
            [Some(true), Some(true)] => Some(true),
            [Some(false), _] | [_, Some(false)] => Some(false),
            [None, _] | [_, None] => None,
        }
    }

    fn handle_table_size(&mut self, header: FrameHeader, payload: &[u8], chunk: &Chunk<'_>) {
        if self.client_flow == Some(chunk.flow) {
            self.recognised = true;
        }
        if header.has(frame::ACK) {
            let state = &mut self.flows[index(chunk.flow)];
            let Some(acknowledged) = state.table_sizes.pop_front() else { return };
            if state.table_sizes.is_empty() {
                self.flow_control.handle_settings_acknowledged(chunk.flow);
            }
            if let Some(size) = acknowledged.table_size {
                state.table_size = Some(size);
                state.apply_table_size();
            }
            // It is the first that is open (RFC 9113 §6.5.3), if neither of them was missed.
            if let Some(sent) = acknowledged.sent
                && self.flows.iter().all(|flow| !flow.settings_missed)
            {
                self.stall_notes.round_trips.note(chunk.flow.opposite(), chunk.time.since(sent));
            }
            return;
        }
        let size = settings::entries(payload)
            .filter(|(id, _)| *id == settings::HEADER_TABLE_SIZE)
            .last()
            .map(|(_, size)| size);
        let other = &mut self.flows[index(chunk.flow.opposite())];
        if other.table_sizes.len() >= UNACKNOWLEDGED_SETTINGS {
            other.table_sizes.pop_front();
            other.table_sizes.iter_mut().for_each(|settings| settings.sent = None);
        }
        // With one that was forgotten, acknowledgements are one off until all have come.
        let is_in_order = other.table_sizes.iter().all(|settings| settings.sent.is_some());
        let sent = is_in_order.then_some(chunk.time);
        other.table_sizes.push_back(Unacknowledged { table_size: size, sent });
        if size.is_some() {
            other.apply_table_size();
        }
        self.handle_changed_flow(chunk.flow.opposite());
    }
}
