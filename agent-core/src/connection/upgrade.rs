//! A connection that begins with HTTP/1.1 and goes on with HTTP/2 (checklist C5): the request that asked for it is
//! stream 1, and its SETTINGS are the client's first.

use super::Connection;
use super::flow::index;
use crate::call::Stream;
use crate::grpc::messages::MessageCounter;
use crate::header_block::HeaderBlock;
use crate::hpack::{Field, Text};
use crate::http2::{settings, upgrade};
use crate::input::{Chunk, Timestamp};
use crate::observer::Shared;

/// What is known of an upgrade before both ends have agreed on it.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    request: Option<UpgradeRequest>,
    accepted: bool,
}

#[derive(Debug)]
struct UpgradeRequest {
    block: HeaderBlock,
    settings: Vec<u8>,
    messages: MessageCounter,
    thread: u32,
    time: Timestamp,
}

/// The stream of the request (RFC 7540 §3.2).
const STREAM: u32 = 1;

impl Upgrade {
    /// Heap bytes that are held now.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Upgrade>() + self.request.as_ref().map_or(0, |request| request.settings.capacity())
    }
}

impl Connection {
    /// A request that asks for HTTP/2; `head` is all of it up to its body.
    pub(super) fn handle_upgrade_request(&mut self, head: &[u8], chunk: &Chunk<'_>, shared: &mut Shared) {
        let Some(settings) = upgrade::settings(head) else { return };
        let Some((method, target)) = upgrade::request_target(head) else { return };
        let mut block = HeaderBlock::new(false);
        let mut take = |name: &[u8], value: &[u8]| {
            let name = Text::Known(name);
            let kind = HeaderBlock::kind_of(name);
            let field = Field { name, value: Text::Known(value), sensitive: false, kind };
            block.handle_field(&field, &mut shared.known, None);
        };
        take(b":method", method);
        take(b":path", target);
        for (name, value) in upgrade::fields(head) {
            take(&name.to_ascii_lowercase(), value);
        }
        self.client_flow = Some(chunk.flow);
        self.remembered_changed = true;
        let upgrade = self.upgrade.get_or_insert_default();
        upgrade.request = Some(UpgradeRequest {
            block,
            settings,
            messages: MessageCounter::new(),
            thread: chunk.thread,
            time: chunk.time,
        });
        self.upgrade_if_agreed(chunk, shared);
    }

    /// Octets of that request's body.
    pub(super) fn handle_upgrade_body(&mut self, bytes: &[u8]) {
        if let Some(messages) = self.upgrade_messages() {
            messages.handle_bytes(bytes);
        }
    }

    /// As many octets of it were not seen.
    pub(super) fn handle_upgrade_body_hole(&mut self, len: u64) {
        if let Some(messages) = self.upgrade_messages() {
            messages.handle_hole(len);
        }
    }

    /// 101: the server agrees.
    pub(super) fn handle_upgrade_accepted(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        self.remembered_changed = true;
        self.upgrade.get_or_insert_default().accepted = true;
        self.upgrade_if_agreed(chunk, shared);
    }

    /// The messages of the request's body go to its stream once there is one.
    fn upgrade_messages(&mut self) -> Option<&mut MessageCounter> {
        match self.upgrade.as_mut().and_then(|upgrade| upgrade.request.as_mut()) {
            Some(request) => Some(&mut request.messages),
            None => self.streams.get_mut(&STREAM).map(Stream::request_messages),
        }
    }

    fn upgrade_if_agreed(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.accepted) else { return };
        let Some(request) = upgrade.request.take() else { return };
        self.remembered_changed = true;
        let Some(client_flow) = self.client_flow else { return };
        self.upgrade = None;
        self.recognised = true;
        // These SETTINGS are not acknowledged: 101 says as much (RFC 7540 §3.2.1).
        for (id, value) in settings::entries(&request.settings) {
            if id == settings::HEADER_TABLE_SIZE {
                let server = &mut self.flows[index(client_flow.opposite())];
                server.table_size = Some(value);
                server.apply_table_size();
                self.handle_changed_flow(client_flow.opposite());
            }
        }
        let client = Chunk { flow: client_flow, ..*chunk };
        self.handle_advertised(&request.settings, true, &client, shared);
        if self.streams.contains_key(&STREAM) || self.unseen.is_new(STREAM) {
            if !self.streams.contains_key(&STREAM) {
                self.note_opened(STREAM);
            }
            self.remembered_changed = true;
            self.unseen.handle_request(STREAM);
            self.handle_stream_opened(request.time, shared);
            let credits = self.open_credits(STREAM, false);
            let stream =
                self.streams.entry(STREAM).or_insert_with(|| Stream::new(request.time, false, credits));
            stream.counts_as_open = true;
            stream.handle_request(&request.block, None, request.thread, request.time);
            *stream.request_messages() = request.messages;
            stream.handle_end_of_request(request.time);
            self.settle(STREAM, chunk.time, shared);
        }
    }
}
