//! The ends of connections as the kernel side sees them. Needs Linux 6.3 (tp_btf).

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use tests::agent::Kernel;
use tests::captured::{self, Seen};

const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingping";

#[test]
fn what_is_read_only_after_both_ends_were_closed_is_seen_and_then_the_end() {
    let Some(_kernel) = Kernel::take("kernel_ends") else { return };
    let mut capture = captured::start().expect("the programs load");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (mut server, _) = listener.accept().expect("a connection");
    let client_port = client.local_addr().expect("an address").port();

    // Both ends have said everything before either of them reads its first byte.
    client.write_all(&[PREFACE_AND_SETTINGS, PING].concat()).expect("the connection stands");
    server.write_all(&[SETTINGS, PING, PING].concat()).expect("the connection stands");
    client.shutdown(Shutdown::Write).expect("the connection stands");
    server.shutdown(Shutdown::Write).expect("the connection stands");
    std::thread::sleep(Duration::from_millis(50)); // the ends cross on loopback
    let (mut heard, mut answered) = (Vec::new(), Vec::new());
    server.read_to_end(&mut heard).expect("the bytes are there");
    client.read_to_end(&mut answered).expect("the bytes are there");

    let mut seen = Seen::default();
    seen.read(&mut capture, |seen| seen.closed(client_port) == 2).expect("the ring is read");
    assert_eq!(seen.flow(client_port, true, true), heard, "what the client sent");
    assert_eq!(seen.flow(client_port, false, false), heard, "what the server received");
    assert_eq!(seen.flow(client_port, false, true), answered, "what the server sent");
    assert_eq!(seen.flow(client_port, true, false), answered, "what the client received");
    assert_eq!(seen.closed(client_port), 2, "both sockets are closed for good");
}

/// A reset came when the process had not read the answer yet, which it can do all the same: the call was said to be aborted.
#[test]
fn a_reset_before_everything_was_read_tells_that_the_end_was_not_seen() {
    let Some(_kernel) = Kernel::take("kernel_ends") else { return };
    let mut capture = captured::start().expect("the programs load");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    for answered in [false, true] {
        let mut client =
            TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (mut server, _) = listener.accept().expect("a connection");
        let client_port = client.local_addr().expect("an address").port();
        client.write_all(PREFACE_AND_SETTINGS).expect("the connection stands");
        server.write_all(SETTINGS).expect("the connection stands");
        let mut settings = [0; SETTINGS.len()];
        client.read_exact(&mut settings).expect("the bytes are there");
        if answered {
            server.write_all(PING).expect("the connection stands");
        }
        drop(server); // with bytes that it has not read, which makes a reset of it
        std::thread::sleep(Duration::from_millis(50)); // it crosses on loopback
        let mut seen = Seen::default();
        seen.read(&mut capture, |seen| seen.closed(client_port) == 2).expect("the ring is read");
        assert_eq!(seen.closed(client_port), 2, "both sockets are closed for good");
        assert_eq!(seen.is_end_unseen(client_port, true, false), answered, "what the client received");
        assert!(!seen.is_end_unseen(client_port, true, true), "what the client sent");
        assert!(!seen.is_end_unseen(client_port, false, true), "what the server sent");
        let mut answer = [0; PING.len()];
        let got = client.read(&mut answer).unwrap_or(0);
        assert_eq!(&answer[..got], if answered { PING } else { b"" }, "what a process reads after a reset");
    }
}
