//! Header blocks of encoders that this project did not write: the stories of hpack-test-case.
//!
//! They lie outside of the repository; without them these tests say so and pass.

mod hpack_support;

use std::fs;
use std::path::{Path, PathBuf};

use agent_core::hpack::{Decoder, Text};
use hpack_support::{ALL, CAP, Seen, collect, hex, text_fields};
use serde_json::Value;

const ENCODERS: [&str; 5] =
    ["go-hpack", "haskell-http2-linear-huffman", "nghttp2", "node-http2-hpack", "python-hpack"];

/// One connection of hpack-test-case.
struct Story {
    path: PathBuf,
    blocks: Vec<Block>,
}

struct Block {
    wire: Vec<u8>,
    /// What the receiver's SETTINGS say before the block.
    table_size: Option<u32>,
    fields: Vec<(String, String)>,
}

/// The stories of one encoder; `None`, said aloud, if the corpora are not there.
fn stories(encoder: &str) -> Option<Vec<Story>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora/hpack").join(encoder);
    let Ok(files) = fs::read_dir(&folder) else {
        println!("SKIPPED: no HPACK corpus at ../shared/corpora/hpack/{encoder}");
        return None;
    };
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    Some(paths.into_iter().map(story).collect())
}

fn story(path: PathBuf) -> Story {
    let json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut cases = json["cases"].as_array().unwrap().clone();
    cases.sort_by_key(|case| case["seqno"].as_u64());
    let blocks = cases
        .iter()
        .map(|case| Block {
            wire: hex(case["wire"].as_str().unwrap()),
            table_size: case["header_table_size"].as_u64().map(|size| size as u32),
            fields: case["headers"].as_array().unwrap().iter().map(field).collect(),
        })
        .collect();
    Story { path, blocks }
}

fn field(object: &Value) -> (String, String) {
    let (name, value) = object.as_object().unwrap().iter().next().unwrap();
    (name.clone(), value.as_str().unwrap().to_owned())
}

fn announce(decoder: &mut Decoder, block: &Block) {
    if let Some(bytes) = block.table_size {
        decoder.set_settings_limit(bytes);
    }
}

#[test]
fn every_block_of_five_encoders_decodes_to_its_fields() {
    for encoder in ENCODERS {
        let Some(stories) = stories(encoder) else { continue };
        let mut blocks = 0;
        for story in stories {
            let mut decoder = Decoder::synced(CAP);
            for (number, block) in story.blocks.iter().enumerate() {
                announce(&mut decoder, block);
                let fields = text_fields(&mut decoder, &block.wire);
                assert_eq!(fields, block.fields, "{} block {number}", story.path.display());
                blocks += 1;
            }
            assert!(decoder.is_fully_known());
        }
        println!("{encoder}: {blocks} blocks");
        assert!(blocks > 0);
    }
}

#[test]
fn h8_joined_at_every_25th_block_nothing_known_is_wrong() {
    for encoder in ENCODERS {
        let Some(stories) = stories(encoder) else { continue };
        let (mut known, mut unknown) = (0, 0);
        for story in stories {
            for join in (0..story.blocks.len()).step_by(25) {
                let mut decoder = Decoder::late(CAP);
                for (number, block) in story.blocks.iter().enumerate().skip(join) {
                    announce(&mut decoder, block);
                    let (seen, result) = collect(&mut decoder, &block.wire);
                    let place = format!("{} joined at {join}, block {number}", story.path.display());
                    assert_eq!(result, Ok(()), "{place}");
                    assert_eq!(seen.len(), block.fields.len(), "{place}");
                    for (seen, (name, value)) in seen.iter().zip(&block.fields) {
                        for (seen, truth) in [(&seen.name, name), (&seen.value, value)] {
                            if matches!(seen, Seen::Unknown(_)) {
                                unknown += 1;
                            } else {
                                assert_eq!(*seen, Seen::known(truth), "{place}");
                                known += 1;
                            }
                        }
                    }
                }
            }
        }
        println!("{encoder}: {known} known, {unknown} unknown, 0 wrong");
        assert!(known > 0);
        // go-hpack's stories use no dynamic table; all others leave something unknown.
        assert_eq!(unknown > 0, encoder != "go-hpack");
    }
}

#[test]
fn values_that_nobody_wants_leave_the_table_as_it_is() {
    for encoder in ENCODERS {
        let Some(stories) = stories(encoder) else { continue };
        for story in stories {
            let mut decoder = Decoder::synced(CAP);
            for (number, block) in story.blocks.iter().enumerate() {
                announce(&mut decoder, block);
                let mut at = 0;
                let wants = |name: Text<'_>| name.known().is_some_and(|name| name.starts_with(b":"));
                let info = decoder.decode_wanted(&block.wire, ALL, wants, |field| {
                    let (name, value) = &block.fields[at];
                    let place = format!("{} block {number} field {at}", story.path.display());
                    assert_eq!(field.name, Text::Known(name.as_bytes()), "{place}");
                    if name.starts_with(':') || field.value != Text::Unwanted {
                        assert_eq!(field.value, Text::Known(value.as_bytes()), "{place}");
                    }
                    at += 1;
                });
                assert_eq!(info.map(|info| info.fields), Ok(block.fields.len()));
            }
        }
    }
}

/// Bytes of the `parse` strings in a text of C-core's HPACK fuzzer, in which every octet is written as `\x..`.
fn parsed(text: &str) -> Vec<Vec<u8>> {
    let strings = text.lines().filter_map(|line| line.trim().strip_prefix("parse: \"")?.strip_suffix('"'));
    strings.map(|octets| hex(&octets.replace("\\x", ""))).collect()
}

#[test]
fn t1_the_blocks_of_c_cores_hpack_fuzzer_are_read_without_a_panic() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora/grpc-core/hpack_parser_corpus");
    let Ok(files) = fs::read_dir(&folder) else {
        println!("SKIPPED: no HPACK fuzz corpus at ../shared/corpora/grpc-core");
        return;
    };
    let (mut blocks, mut read) = (0, 0);
    for file in files {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let (mut synced, mut late) = (Decoder::synced(CAP), Decoder::late(CAP));
        for block in parsed(&text) {
            let whole = synced.decode(&block, ALL, |_| {});
            let joined = late.decode(&block, ALL, |_| {});
            // What is right with full knowledge is right without it.
            assert!(joined.is_ok() || whole.is_err(), "{block:02x?}");
            read += usize::from(whole.is_ok());
            blocks += 1;
        }
    }
    assert!(blocks >= 160 && read > 0 && read < blocks, "{blocks} blocks, {read} of them right");
}
