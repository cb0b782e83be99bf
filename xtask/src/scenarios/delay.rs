//! A proxy that hands bytes on a little later, as a long way does: it limits no bandwidth.
//!
//! It is a part of this process, so that it is none of the scenario's: the findings on it, which sees the credit come late
//! like the sender does, are nobody's.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A proxy to one address; its threads end with their connections.
pub(super) struct Delay {
    address: SocketAddr,
}

/// Octets that are taken at once.
const PIECE: usize = 64 * 1024;

impl Delay {
    /// Listens; hands on to `to` what comes, `one_way` later, and the answers too.
    pub(super) fn start(to: &str, one_way: Duration) -> Result<Self> {
        let to: SocketAddr = to.parse().with_context(|| format!("{to:?} is no address"))?;
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for the delaying proxy")?;
        let address = listener.local_addr().context("ask where the delaying proxy listens")?;
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // Whom it cannot reach, it hangs up on.
                let Ok(far) = TcpStream::connect(to) else { continue };
                if let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) {
                    hand_on(near, far_too, one_way);
                    hand_on(far, near_too, one_way);
                }
            }
        });
        Ok(Delay { address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let _ = to.set_nodelay(true);
    let (hand, handed) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while let Ok(len @ 1..) = from.read(&mut piece) {
            let bytes = piece.get(..len).unwrap_or_default().to_vec();
            if hand.send((Instant::now() + delay, bytes)).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in handed {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_unchanged_and_late_in_both_directions() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let to = listener.local_addr().expect("it has an address").to_string();
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("all of it");
            stream.write_all(&bytes).expect("and back");
        });
        let delay = Delay::start(&to, Duration::from_millis(20)).expect("it listens");
        let began = Instant::now();
        let mut stream = TcpStream::connect(delay.address()).expect("it answers");
        let sent: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let mut writer = stream.try_clone().expect("a second handle");
        let copy = sent.clone();
        let write = thread::spawn(move || {
            writer.write_all(&copy).expect("it takes everything");
            writer.shutdown(Shutdown::Write).expect("the end");
        });
        let mut came = Vec::new();
        stream.read_to_end(&mut came).expect("all of it");
        assert!(came == sent);
        assert!(began.elapsed() >= Duration::from_millis(40), "{:?}", began.elapsed());
        write.join().expect("written");
        echo.join().expect("echoed");
    }
}
