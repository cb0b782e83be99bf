//! W3C trace context, as far as the scenarios need it: made by who calls first, handed on unread by everybody else.

use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::dice::Dice;

/// Begins a trace.
pub(crate) fn begin<T>(request: &mut Request<T>, dice: &Dice) {
    let trace = format!("{:08x}{:08x}{:08x}{:08x}", roll(dice), roll(dice), roll(dice), roll(dice));
    let text = format!("00-{trace}-{:08x}{:08x}-01", roll(dice), roll(dice));
    if let Ok(value) = MetadataValue::try_from(text) {
        request.metadata_mut().insert("traceparent", value);
    }
}

/// Never zero, which no id may be.
fn roll(dice: &Dice) -> u64 {
    1 + dice.roll(u64::from(u32::MAX) - 1)
}

/// Hands the trace of an inbound call on to an outbound one.
pub(crate) fn hand_on<T>(inbound: &MetadataMap, outbound: &mut Request<T>) {
    if let Some(value) = inbound.get("traceparent") {
        outbound.metadata_mut().insert("traceparent", value.clone());
    }
}
