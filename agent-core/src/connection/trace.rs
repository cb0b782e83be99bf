//! What `replay --frames` shows of a frame.

use super::Connection;
use crate::http2::frame::{self, FrameHeader};
use crate::http2::settings;
use crate::input::Chunk;
use crate::observation::{FieldSeen, FrameSeen, Observation};
use crate::observer::Shared;

impl Connection {
    pub(super) fn trace(
        &self,
        header: FrameHeader,
        payload: &[u8],
        block: Option<Result<Vec<FieldSeen>, String>>,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        if !shared.trace_frames {
            return;
        }
        let (headers, hpack_error) = match block {
            Some(Ok(fields)) => (Some(fields), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        shared.observations.push_back(Observation::Frame(Box::new(FrameSeen {
            connection: self.id,
            flow: chunk.flow,
            from_client: self.client_flow.map(|client| client == chunk.flow),
            time: chunk.time,
            frame_type: header.kind,
            flags: header.flags,
            stream: header.stream,
            length: header.length,
            settings: (header.kind == frame::SETTINGS).then(|| settings::entries(payload).collect()),
            increment: (header.kind == frame::WINDOW_UPDATE)
                .then(|| frame::u32_at(payload, 0).map(|increment| increment & 0x7fff_ffff))
                .flatten(),
            windows: self.windows_after(header, chunk.flow),
            code: match header.kind {
                frame::RST_STREAM => frame::u32_at(payload, 0),
                frame::GOAWAY => frame::u32_at(payload, 4),
                _ => None,
            },
            headers,
            hpack_error,
        })));
    }
}
