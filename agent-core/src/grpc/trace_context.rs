//! Trace ids of requests, whoever wrote them: W3C Trace Context (`traceparent`), B3 (`b3`, `x-b3-traceid`), the binary
//! format of OpenCensus (`grpc-trace-bin`); and `x-request-id`.
//!
//! In: values of these fields. Out: hashes with a key of the observer, so that requests of one trace know each other and no
//! id is kept (threat T13). The id of a trace is the same 128 bits in all formats; the 64 bits that B3 also allows are the
//! lower ones, which is how tracers bridge it to the others. What is not by its format, or all zeros, is no id.

use std::hash::BuildHasher;
use std::num::NonZeroU64;

use foldhash::quality::RandomState;

use crate::base64::{Alphabet, sextet};
use crate::observation::{TraceHash, Traces};

/// Hashes ids.
#[derive(Debug, Default)]
pub(crate) struct TraceHasher(RandomState);

/// Which format a trace id is in, the one to believe first last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    OpenCensus,
    B3TraceId,
    B3,
    W3c,
}

/// What a request says of the trace that it belongs to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TraceIds {
    /// What is kept of them.
    pub(crate) hashes: TraceHashes,
    /// Of the trace id.
    format: Option<Format>,
}

/// [`Traces`] in half of the room, which each call that is open takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TraceHashes {
    trace: Option<NonZeroU64>,
    request: Option<NonZeroU64>,
}

impl TraceIds {
    /// A field with a trace id.
    pub(crate) fn handle_trace_id(&mut self, format: Format, value: &[u8], hasher: &TraceHasher) {
        if self.format >= Some(format) {
            return;
        }
        let id = match format {
            Format::OpenCensus => opencensus(value),
            Format::B3TraceId => b3_trace_id(value),
            Format::B3 => b3(value),
            Format::W3c => w3c(value),
        };
        if let Some(id) = id {
            self.hashes.trace = Some(hasher.hash(id));
            self.format = Some(format);
        }
    }

    /// `x-request-id`.
    pub(crate) fn handle_request_id(&mut self, value: &[u8], hasher: &TraceHasher) {
        if !value.is_empty() && self.hashes.request.is_none() {
            self.hashes.request = Some(hasher.hash(value));
        }
    }
}

impl TraceHashes {
    /// As they are reported.
    pub(crate) fn traces(self) -> Traces {
        let hash = |hash: NonZeroU64| TraceHash(hash.get());
        Traces { trace: self.trace.map(hash), request: self.request.map(hash) }
    }
}

impl TraceHasher {
    fn hash(&self, id: impl std::hash::Hash) -> NonZeroU64 {
        NonZeroU64::new(self.0.hash_one(id)).unwrap_or(NonZeroU64::MIN)
    }
}

/// `00-<trace id>-<parent id>-<flags>`; later versions may go on after that (W3C Trace Context §3.2).
fn w3c(value: &[u8]) -> Option<u128> {
    let (version, rest) = value.split_at_checked(2)?;
    let (id, rest) = rest.strip_prefix(b"-")?.split_at_checked(32)?;
    let (parent, rest) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
    let (flags, rest) = rest.strip_prefix(b"-")?.split_at_checked(2)?;
    let version = hex(version)?;
    let ends_well = rest.is_empty() || (version > 0 && rest.starts_with(b"-"));
    (version < 0xff && ends_well && hex(parent)? != 0 && hex(flags).is_some())
        .then(|| hex(id))
        .flatten()
        .filter(|id| *id != 0)
}

/// `<trace id>-<span id>[-<sampling>[-<parent id>]]`, or a sampling decision alone, which has no id.
fn b3(value: &[u8]) -> Option<u128> {
    let mut parts = value.split(|octet| *octet == b'-');
    let id = parts.next().and_then(b3_trace_id)?;
    let span = parts.next()?;
    (span.len() == 16 && hex(span)? != 0).then_some(id)
}

/// 16 or 32 hexadecimal digits.
fn b3_trace_id(value: &[u8]) -> Option<u128> {
    matches!(value.len(), 16 | 32).then(|| hex(value)).flatten().filter(|id| *id != 0)
}

/// Version 0, then fields: field 0 is the trace id, and comes first. In base64 with or without padding, or behind a zero
/// octet as it is where both ends allow raw octets (gRFC G1); base64 has no zero octets.
fn opencensus(value: &[u8]) -> Option<u128> {
    let mut octets = [0; 18];
    match value.strip_prefix(&[0]) {
        Some(raw) => octets = *raw.first_chunk()?,
        None => base64(value.first_chunk()?, &mut octets)?,
    }
    let [0, 0, id @ ..] = octets else { return None };
    Some(u128::from_be_bytes(id)).filter(|id| *id != 0)
}

/// The number of 32 lower-case digits, or of at most 16: lower case is what both specifications ask for.
fn hex(digits: &[u8]) -> Option<u128> {
    // 64 bits at a time, and checked at the end: half the instructions.
    let mut number = 0;
    let mut all = 0;
    for digits in digits.chunks(16) {
        let mut part = 0u64;
        for digit in digits {
            let value = HEX[usize::from(*digit)];
            all |= value;
            part = part << 4 | u64::from(value & 0xf);
        }
        number = number << 64 | u128::from(part);
    }
    (all <= 0xf).then_some(number)
}

/// Values of digits; what is none is larger than a digit's.
const HEX: [u8; 256] = {
    let mut values = [0xff; 256];
    let digits = b"0123456789abcdef";
    let mut value = 0;
    while value < digits.len() {
        values[digits[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// 24 digits of base64, which are 18 octets.
fn base64(digits: &[u8; 24], octets: &mut [u8; 18]) -> Option<()> {
    for (four, three) in digits.chunks_exact(4).zip(octets.chunks_exact_mut(3)) {
        let mut bits = 0u32;
        for digit in four {
            bits = bits << 6 | sextet(*digit, Alphabet::Standard)?;
        }
        three.copy_from_slice(bits.to_be_bytes().get(1..)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

    #[test]
    fn a_trace_id_is_the_same_in_all_formats() {
        assert_eq!(w3c(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), Some(ID));
        assert_eq!(w3c(b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-follows"), Some(ID));
        for rest in ["", "-1", "-d", "-0-05e3ac9a4f6e3b90"] {
            let value = format!("4bf92f3577b34da6a3ce929d0e0e4736-e457b5a2e4d86bd1{rest}");
            assert_eq!(b3(value.as_bytes()), Some(ID));
        }
        assert_eq!(b3_trace_id(b"4bf92f3577b34da6a3ce929d0e0e4736"), Some(ID));
        assert_eq!(b3_trace_id(b"a3ce929d0e0e4736"), Some(0xa3ce_929d_0e0e_4736));
        assert_eq!(
            w3c(b"00-0000000000000000a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            Some(0xa3ce_929d_0e0e_4736)
        );
        // 00 00 <trace id> 01 <span id> 02 <options>.
        for padding in ["", "="] {
            let value = format!("AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE{padding}");
            assert_eq!(opencensus(value.as_bytes()), Some(ID));
        }
        let raw = [&[0, 0, 0], ID.to_be_bytes().as_slice(), &[1, 1, 2, 3, 4, 5, 6, 7, 8, 2, 1]].concat();
        assert_eq!(opencensus(&raw), Some(ID));
    }

    #[test]
    fn what_is_not_by_its_format_is_no_id() {
        for value in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-011",
        ] {
            assert_eq!(w3c(value.as_bytes()), None, "{value}");
        }
        for value in [
            "0",
            "1",
            "d",
            "",
            "0-",
            "4bf92f3577b34da6a3ce929d0e0e4736",
            "4bf92f3577b34da6-",
            "-a3ce929d0e0e4736",
        ] {
            assert_eq!(b3(value.as_bytes()), None, "{value}");
        }
        for value in ["", "0000000000000000", "4bf92f3577b34da6a3ce929d0e0e47", "4bf92f3577b34dag"] {
            assert_eq!(b3_trace_id(value.as_bytes()), None, "{value}");
        }
        for value in [
            "",
            "AAAA",
            "AQBL+S81d7NNpqPOkp0ODkc2",
            "AAFL+S81d7NNpqPOkp0ODkc2",
            "AAAAAAAAAAAAAAAAAAAAAAAA",
            "AABL-S81d7NNpqPOkp0ODkc2",
        ] {
            assert_eq!(opencensus(value.as_bytes()), None, "{value}");
        }
        assert_eq!(opencensus(&[0; 40]), None);
    }

    #[test]
    fn the_formats_have_an_order_and_ids_have_one_hash() {
        let hasher = TraceHasher::default();
        let w3c = |id: &str| format!("00-{id}-00f067aa0ba902b7-01").into_bytes();
        let (one, other) = ("000000000000000000000000000000a1", "000000000000000000000000000000b2");
        let mut ids = TraceIds::default();
        ids.handle_trace_id(Format::B3TraceId, b"00000000000000a1", &hasher);
        let of_one = ids.hashes.traces().trace;
        assert!(of_one.is_some());
        ids.handle_trace_id(Format::OpenCensus, b"AABL+S81d7NNpqPOkp0ODkc2", &hasher);
        assert_eq!(ids.hashes.traces().trace, of_one, "B3 comes first");
        ids.handle_trace_id(Format::W3c, b"00-broken", &hasher);
        assert_eq!(ids.hashes.traces().trace, of_one, "a broken field is none");
        ids.handle_trace_id(Format::W3c, &w3c(other), &hasher);
        let of_other = ids.hashes.traces().trace;
        assert_ne!(of_other, of_one);
        ids.handle_trace_id(Format::W3c, &w3c(one), &hasher);
        assert_eq!(ids.hashes.traces().trace, of_other, "the first of its kind counts");
        assert_eq!(ids.hashes.traces().request, None);
        ids.handle_request_id(b"", &hasher);
        assert_eq!(ids.hashes.traces().request, None);
        ids.handle_request_id(b"9f3c", &hasher);
        assert!(ids.hashes.traces().request.is_some());
        let another = TraceHasher::default();
        let mut again = TraceIds::default();
        again.handle_trace_id(Format::W3c, &w3c(other), &another);
        assert_ne!(again.hashes.traces().trace, of_other, "each observer has a key of its own");
    }
}
