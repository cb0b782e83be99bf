//! A ring that is full: nothing waits for the reader, and the loss is known to the record. Needs Linux 6.3 (tp_btf).

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use agent::capture::kernel::{Backend, BackendChoice, Captured, KernelCapture, LoopChoice, Options};
use tests::agent::Kernel;

const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

/// What came out of the ring that belongs to the two sockets of the test.
#[derive(Default)]
struct Seen {
    connections: Vec<u64>,
    chunks: usize,
    lost: u64,
}

fn read_all(capture: &mut KernelCapture, seen: &mut Seen, ports: [u16; 2]) {
    while capture
        .poll(Duration::from_millis(50), &mut |captured| match captured {
            Captured::Open { connection, endpoints, .. } => {
                if ports == [endpoints.local_port, endpoints.peer_port]
                    || ports == [endpoints.peer_port, endpoints.local_port]
                {
                    seen.connections.push(connection.0);
                }
            }
            Captured::Chunk { chunk, .. } => {
                let ours = seen.connections.contains(&chunk.connection.0) && !chunk.bytes.is_empty();
                seen.chunks += usize::from(ours);
            }
            Captured::Lost { records, .. } => seen.lost += u64::from(records),
            Captured::LeftOut { .. } | Captured::Close { .. } | Captured::Moved { .. } => {}
        })
        .expect("the ring is read")
        > 0
    {}
}

#[test]
fn records_that_do_not_fit_are_counted_and_every_one_of_them_is_missed_by_the_reader() {
    let Some(_kernel) = Kernel::take("ring_full") else { return };
    let mut capture = KernelCapture::start(&Options {
        ring_bytes: 256 << 10,
        backend: BackendChoice::Only(Backend::TpBtf),
        loops: LoopChoice::Auto,
        ignored_pid: None,
        count_instructions: false,
    })
    .expect("the programs load");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (mut server, _) = listener.accept().expect("a connection");
    client.set_nodelay(true).expect("an open socket");
    let ports =
        [client.local_addr().expect("an address").port(), client.peer_addr().expect("an address").port()];
    let mut seen = Seen::default();
    let mut move_over = |bytes: &[u8]| {
        client.write_all(bytes).expect("the connection stands");
        server.read_exact(&mut vec![0; bytes.len()]).expect("the connection stands");
    };
    move_over(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    move_over(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    move_over(&PING);
    read_all(&mut capture, &mut seen, ports);
    assert_eq!(seen.connections.len(), 2, "both sockets of the connection are seen");
    let before = capture.counters().expect("counters are read");
    assert_eq!(before.lost(), 0, "{before:?}");

    // 8,000 records of 80 bytes or more do not fit into 256 KiB, and nobody reads them.
    for _ in 0..4_000 {
        move_over(&PING);
    }
    let full = capture.counters().expect("counters are read");
    assert!(full.lost() > 0, "{full:?}");

    // One more of each flow, so that the reader sees how many it missed.
    read_all(&mut capture, &mut seen, ports);
    move_over(&PING);
    read_all(&mut capture, &mut seen, ports);
    let after = capture.counters().expect("counters are read");
    assert_eq!(after.produced(), after.received + after.lost(), "{after:?}");
    assert_eq!(after.missing, after.lost(), "{after:?}");
    assert_eq!(seen.lost, after.lost(), "the reader says as much of the connections");
    assert_eq!(after.malformed, 0);
    assert!(seen.chunks < 8_000, "{} of 8,000 pieces cannot all have fit", seen.chunks);
}
