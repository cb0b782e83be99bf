//! What the benches share: what is decoded and observed, the peers, times and a count of allocations.

pub mod traffic;
pub mod encoder;
#[cfg(feature = "peers")]
pub mod nghttp2;
#[cfg(feature = "peers")]
pub mod blocks;
#[cfg(feature = "peers")]
pub mod decoders;
#[cfg(feature = "peers")]
pub mod recording;
#[cfg(feature = "peers")]
pub mod replay;
#[cfg(feature = "peers")]
pub mod tshark;
pub mod cpu_time;
pub mod allocations;

/// Two digits.
pub fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
