//! Other traffic, which is no HTTP/2 and makes many more socket calls a second than gRPC does: on a machine that is emulated the
//! calls of clients alone are too few for the agent to judge by.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;

/// Connections, each with a thread at both ends.
const CONNECTIONS: usize = 4;
/// Of a message; nothing that could be the start of a frame.
const BYTES: [u8; 64] = [b'x'; 64];

/// Runs until it is dropped.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Starts it.
    pub(crate) fn begin() -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for echoes")?;
        let address = listener.local_addr().context("ask for the port")?;
        let mut threads = Vec::new();
        for _ in 0..CONNECTIONS {
            let asking = TcpStream::connect(address).context("connect for echoes")?;
            let (answering, _) = listener.accept().context("accept")?;
            asking.set_nodelay(true).and_then(|()| answering.set_nodelay(true)).context("set TCP_NODELAY")?;
            let asks = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || ask(asking, &asks)));
            threads.push(std::thread::spawn(move || answer(answering)));
        }
        Ok(Echo { stop, threads })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn ask(mut stream: TcpStream, stop: &AtomicBool) {
    let mut bytes = BYTES;
    while !stop.load(Ordering::Relaxed) {
        if stream.write_all(&bytes).and_then(|()| stream.read_exact(&mut bytes)).is_err() {
            return;
        }
    }
}

/// Until the other end is dropped.
fn answer(mut stream: TcpStream) {
    let mut bytes = BYTES;
    while stream.read_exact(&mut bytes).and_then(|()| stream.write_all(&bytes)).is_ok() {}
}
