//! SETTINGS payloads, and when they take effect (RFC 9113 §6.5).

/// SETTINGS_HEADER_TABLE_SIZE.
pub(crate) const HEADER_TABLE_SIZE: u16 = 0x1;
/// SETTINGS_MAX_CONCURRENT_STREAMS.
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
/// SETTINGS_INITIAL_WINDOW_SIZE.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 0x4;
/// SETTINGS_MAX_FRAME_SIZE.
pub(crate) const MAX_FRAME_SIZE: u16 = 0x5;
/// gRPC C-core's GRPC_ALLOW_TRUE_BINARY_METADATA, of its private use.
pub(crate) const ALLOW_TRUE_BINARY_METADATA: u16 = 0xfe03;

/// Identifier and value, in order; a last incomplete entry is left out.
pub(crate) fn entries(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> + '_ {
    payload.chunks_exact(6).filter_map(|entry| match *entry {
        [i0, i1, v0, v1, v2, v3] => {
            Some((u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3])))
        }
        _ => None,
    })
}
