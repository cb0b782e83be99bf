//! The ends of connections as the kernel side sees them. Needs Linux 6.3 (tp_btf).

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use agent::capture::kernel::{BackendChoice, Captured, KernelCapture, LoopChoice, Options};
use agent_core::Flow;
use tests::agent::Kernel;

const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingping";

#[test]
fn what_is_read_only_after_both_ends_were_closed_is_seen_and_then_the_end() {
    let Some(_kernel) = Kernel::take("kernel_ends") else { return };
    let options = Options {
        backend: BackendChoice::TpBtf,
        loops: LoopChoice::Auto,
        ignored_pid: None,
        ..Options::default()
    };
    let mut capture = KernelCapture::start(&options).expect("the programs load");
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

    let mut is_client = BTreeMap::new();
    let mut seen: BTreeMap<(bool, bool), Vec<u8>> = BTreeMap::new();
    let mut finals = 0;
    let deadline = Instant::now() + Duration::from_secs(10);
    while finals < 2 && Instant::now() < deadline {
        capture
            .poll(Duration::from_millis(20), &mut |captured| match captured {
                Captured::Open { connection, endpoints, .. } => {
                    if [endpoints.local_port, endpoints.peer_port].contains(&client_port) {
                        is_client.insert(connection, endpoints.local_port == client_port);
                    }
                }
                Captured::Chunk { chunk, .. } => {
                    if let Some(client) = is_client.get(&chunk.connection) {
                        let flow = seen.entry((*client, chunk.flow == Flow::Sent)).or_default();
                        flow.extend(chunk.bytes);
                    }
                }
                Captured::Close { connection, is_final, .. } => {
                    finals += usize::from(is_final && is_client.contains_key(&connection));
                }
                Captured::Lost { .. } => panic!("nothing is lost"),
            })
            .expect("the ring is read");
    }
    let flow = |client: bool, sent: bool| seen.get(&(client, sent)).cloned().unwrap_or_default();
    assert_eq!(flow(true, true), heard, "what the client sent");
    assert_eq!(flow(false, false), heard, "what the server received");
    assert_eq!(flow(false, true), answered, "what the server sent");
    assert_eq!(flow(true, false), answered, "what the client received");
    assert_eq!(finals, 2, "both sockets are closed for good");
}
