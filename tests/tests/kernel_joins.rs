//! Connections that are older than the capture, as the kernel side joins them. Needs Linux 6.3 (tp_btf).

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use tests::agent::Kernel;
use tests::captured::{self, Seen};

const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingping";

/// A frame of HEADERS with END_HEADERS. Its payload could not pass for the header of a frame anywhere.
fn headers(stream: u8, payload: u8) -> Vec<u8> {
    let mut frame = vec![0, 0, payload, 1, 4, 0, 0, 0, stream];
    frame.extend(std::iter::repeat_n(0xc1, payload.into()));
    frame
}

/// A connection whose both ends have said something before the capture begins.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (mut server, _) = listener.accept().expect("a connection");
    client.write_all(PREFACE_AND_SETTINGS).expect("the connection stands");
    server.write_all(SETTINGS).expect("the connection stands");
    server.read_exact(&mut [0; PREFACE_AND_SETTINGS.len()]).expect("the bytes are there");
    client.read_exact(&mut [0; SETTINGS.len()]).expect("the bytes are there");
    (client, server)
}

/// A buffer of h2 that was nearly full took 27 bytes of the first request after the capture began: this request
/// and those that came before another read began with a frame were not seen, and not counted.
#[test]
fn a_read_that_ends_inside_the_first_frame_after_a_late_join_loses_nothing() {
    let Some(_kernel) = Kernel::take("kernel_joins") else { return };
    // Inside of a payload, right behind a header, inside of a header, and several times.
    for cuts in [&[27][..], &[9], &[5], &[1], &[20, 11, 12], &[3, 4]] {
        let (mut client, mut server) = connection();
        let client_port = client.local_addr().expect("an address").port();
        let mut capture = captured::start().expect("the programs load");
        let sent = [headers(5, 60), headers(7, 40), PING.to_vec()].concat();
        client.write_all(&sent).expect("the connection stands");
        let mut heard = vec![0; sent.len()];
        let mut at = 0;
        for cut in cuts {
            server.read_exact(&mut heard[at..at + cut]).expect("the bytes are there");
            at += cut;
        }
        server.read_exact(&mut heard[at..]).expect("the bytes are there");

        let mut seen = Seen::default();
        seen.read(&mut capture, |seen| {
            seen.flow(client_port, true, true).len() >= sent.len()
                && seen.flow(client_port, false, false).len() >= sent.len()
        })
        .expect("the ring is read");
        assert_eq!(
            seen.flow(client_port, true, true),
            sent,
            "what the client sent, read in pieces: {cuts:?}"
        );
        assert_eq!(
            seen.flow(client_port, false, false),
            sent,
            "what the server received in pieces: {cuts:?}"
        );
    }
}

#[test]
fn what_only_begins_like_a_frame_is_no_connection() {
    let Some(_kernel) = Kernel::take("kernel_joins") else { return };
    let (mut client, mut server) = connection();
    let client_port = client.local_addr().expect("an address").port();
    let mut capture = captured::start().expect("the programs load");
    // The header of a frame that never ends as it says, and pieces of one.
    for piece in [&headers(5, 60)[..27], b"\0\0\x01\x01", b"not a frame, and no other one either"] {
        client.write_all(piece).expect("the connection stands");
        server.read_exact(&mut vec![0; piece.len()]).expect("the bytes are there");
    }
    // What is recognised comes through, and shows that the ring has been read up to here.
    let (mut other, mut other_server) = connection();
    let other_port = other.local_addr().expect("an address").port();
    other.write_all(PING).expect("the connection stands");
    other_server.read_exact(&mut [0; PING.len()]).expect("the bytes are there");

    let mut seen = Seen::default();
    seen.read(&mut capture, |seen| seen.flow(other_port, false, false).ends_with(PING))
        .expect("the ring is read");
    assert!(seen.flow(other_port, false, false).ends_with(PING), "the other connection is seen");
    assert_eq!(
        (seen.flow(client_port, true, true), seen.flow(client_port, false, false)),
        (&[][..], &[][..])
    );
}
