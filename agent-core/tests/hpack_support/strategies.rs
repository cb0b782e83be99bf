//! What the property tests draw from.

use proptest::collection::vec;
use proptest::prelude::*;

use super::encoder::{How, Step};

/// Names and values that a receiver of HTTP accepts (`valid_http`), or any octets now and then.
pub(crate) fn steps(valid_http: bool, maximum: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        30 => field(valid_http),
        8 => Just(Step::EndBlock),
        1 => (0..=maximum).prop_map(Step::SizeUpdate),
        1 => prop_oneof![Just(0), Just(31), Just(32), 33_u32..300].prop_map(Step::SizeUpdate),
        1 => Just(Step::SizeUpdate(maximum)),
    ];
    vec(step, 1..150)
}

fn field(valid_http: bool) -> impl Strategy<Value = Step> {
    (name(valid_http), value(valid_http), how(), any::<bool>(), any::<bool>()).prop_map(
        |(name, value, how, name_by_index, huffman)| Step::Field { name, value, how, name_by_index, huffman },
    )
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![4 => Just(How::Indexed), 3 => Just(How::Incremental), 1 => Just(How::Without), 1 => Just(How::Never)]
}

fn name(valid_http: bool) -> BoxedStrategy<Vec<u8>> {
    let regular = proptest::sample::select(vec![
        "content-type",
        "cookie",
        "user-agent",
        "date",
        "grpc-status",
        "grpc-timeout",
        "traceparent",
        "x-request-id",
        "a-bin",
    ])
    .prop_map(|name| name.as_bytes().to_vec());
    if valid_http {
        return regular.boxed();
    }
    let pseudo = proptest::sample::select(vec![":method", ":path", ":scheme", ":authority", ":status"])
        .prop_map(|name| name.as_bytes().to_vec());
    prop_oneof![6 => regular, 3 => pseudo, 1 => vec(any::<u8>(), 0..12)].boxed()
}

fn value(valid_http: bool) -> BoxedStrategy<Vec<u8>> {
    let common =
        proptest::sample::select(vec!["", "/", "0", "POST", "200", "application/grpc", "trailers", "49999u"])
            .prop_map(|value| value.as_bytes().to_vec());
    let visible = vec(0x21_u8..0x7f, 0..80);
    // Larger than many of the tables: these are never inserted, and empty them.
    let large = (200_usize..5000).prop_map(|length| vec![b'l'; length]);
    if valid_http {
        return prop_oneof![6 => common, 6 => visible, 1 => large].boxed();
    }
    prop_oneof![6 => common, 4 => visible, 2 => vec(any::<u8>(), 0..80), 1 => large].boxed()
}
