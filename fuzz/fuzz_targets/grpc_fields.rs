//! The values of gRPC's header fields, and length-prefixed messages.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    agent_core::fuzzing::check_field_values(data);
    let Some(([cut, hole], bytes)) = data.split_first_chunk::<2>() else { return };
    agent_core::fuzzing::check_messages(bytes, usize::from(*cut), u64::from(*hole));
});
