//! The examples of RFC 7541 Appendix C, all of them, with the table after each.

mod hpack_support;

use agent_core::hpack::Decoder;
use hpack_support::{CAP, collect, dynamic_entries, hex, pairs, text_fields};

/// Names and values.
type Pairs<'a> = &'a [(&'a str, &'a str)];

/// One decoder through several blocks (hex, fields, table after it): after each its fields and the whole dynamic
/// table are compared.
fn check(decoder: &mut Decoder, blocks: &[(&str, Pairs<'_>, Pairs<'_>)]) {
    for (number, (block, fields, table)) in blocks.iter().enumerate() {
        assert_eq!(text_fields(decoder, &hex(block)), pairs(fields), "fields of block {}", number + 1);
        let entries = dynamic_entries(decoder, table.len() as u8);
        assert_eq!(entries, pairs(table), "table after block {}", number + 1);
    }
    // And nothing is beyond the last table.
    let (_, beyond) = collect(decoder, &[0x80 | (62 + blocks.last().unwrap().2.len() as u8)]);
    assert!(beyond.is_err());
}

#[test]
fn c_2_1_literal_with_indexing() {
    let custom = ("custom-key", "custom-header");
    check(
        &mut Decoder::synced(CAP),
        &[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &[custom], &[custom])],
    );
}

#[test]
fn c_2_2_literal_without_indexing() {
    check(
        &mut Decoder::synced(CAP),
        &[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], &[])],
    );
}

#[test]
fn c_2_3_literal_never_indexed() {
    let block = "1008 7061 7373 776f 7264 0673 6563 7265 74";
    let (seen, _) = collect(&mut Decoder::synced(CAP), &hex(block));
    assert!(seen[0].sensitive);
    check(&mut Decoder::synced(CAP), &[(block, &[("password", "secret")], &[])]);
}

#[test]
fn c_2_4_indexed() {
    check(&mut Decoder::synced(CAP), &[("82", &[(":method", "GET")], &[])]);
}

const REQUEST_1: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const REQUEST_2: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const REQUEST_3: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];
const REQUEST_TABLE_1: &[(&str, &str)] = &[(":authority", "www.example.com")];
const REQUEST_TABLE_2: &[(&str, &str)] = &[("cache-control", "no-cache"), (":authority", "www.example.com")];
const REQUEST_TABLE_3: &[(&str, &str)] =
    &[("custom-key", "custom-value"), ("cache-control", "no-cache"), (":authority", "www.example.com")];

#[test]
fn c_3_requests_without_huffman() {
    check(
        &mut Decoder::synced(CAP),
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", REQUEST_1, REQUEST_TABLE_1),
            ("8286 84be 5808 6e6f 2d63 6163 6865", REQUEST_2, REQUEST_TABLE_2),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                REQUEST_3,
                REQUEST_TABLE_3,
            ),
        ],
    );
}

#[test]
fn c_4_requests_with_huffman() {
    check(
        &mut Decoder::synced(CAP),
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUEST_1, REQUEST_TABLE_1),
            ("8286 84be 5886 a8eb 1064 9cbf", REQUEST_2, REQUEST_TABLE_2),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", REQUEST_3, REQUEST_TABLE_3),
        ],
    );
}

const DATE_1: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
const DATE_2: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
const PRIVATE: (&str, &str) = ("cache-control", "private");
const LOCATION: (&str, &str) = ("location", "https://www.example.com");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
const COOKIE: (&str, &str) = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");

const RESPONSE_1: &[(&str, &str)] = &[(":status", "302"), PRIVATE, DATE_1, LOCATION];
const RESPONSE_2: &[(&str, &str)] = &[(":status", "307"), PRIVATE, DATE_1, LOCATION];
const RESPONSE_3: &[(&str, &str)] = &[(":status", "200"), PRIVATE, DATE_2, LOCATION, GZIP, COOKIE];
const RESPONSE_TABLE_1: &[(&str, &str)] = &[LOCATION, DATE_1, PRIVATE, (":status", "302")];
const RESPONSE_TABLE_2: &[(&str, &str)] = &[(":status", "307"), LOCATION, DATE_1, PRIVATE];
const RESPONSE_TABLE_3: &[(&str, &str)] = &[COOKIE, GZIP, DATE_2];

/// The examples of C.5 and C.6 have a table of 256 octets, so that entries are evicted.
fn decoder_of_256_bytes() -> Decoder {
    let mut decoder = Decoder::synced(CAP);
    assert_eq!(collect(&mut decoder, &hex("3fe101")), (vec![], Ok(())));
    decoder
}

#[test]
fn c_5_responses_without_huffman() {
    check(
        &mut decoder_of_256_bytes(),
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a
                 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                RESPONSE_1,
                RESPONSE_TABLE_1,
            ),
            ("4803 3330 37c1 c0bf", RESPONSE_2, RESPONSE_TABLE_2),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04
                 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49
                 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
                RESPONSE_3,
                RESPONSE_TABLE_3,
            ),
        ],
    );
}

#[test]
fn c_6_responses_with_huffman() {
    check(
        &mut decoder_of_256_bytes(),
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e
                 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                RESPONSE_1,
                RESPONSE_TABLE_1,
            ),
            ("4883 640e ffc1 c0bf", RESPONSE_2, RESPONSE_TABLE_2),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7
                 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed
                 4ee5 b106 3d50 07",
                RESPONSE_3,
                RESPONSE_TABLE_3,
            ),
        ],
    );
}
