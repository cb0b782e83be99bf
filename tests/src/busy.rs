//! Many HTTP/2 connections in this process that are never idle: each sends a PING, waits for its echo, and compares it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// Connections, and the threads that keep them busy.
#[derive(Debug)]
pub struct Busy {
    rounds: Arc<Vec<AtomicU64>>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<anyhow::Result<()>>>,
}

/// Both ends of a connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Busy {
    /// Opens so many and keeps them busy with so many threads.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn start(connections: usize, threads: usize) -> anyhow::Result<Self> {
        allow_descriptors(2 * connections as u64 + 200)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let mut shares: Vec<Vec<(usize, Pair)>> = (0..threads).map(|_| Vec::new()).collect();
        for number in 0..connections {
            let pair = Pair::open(&listener).with_context(|| format!("open connection {number}"))?;
            shares[number % threads].push((number, pair));
        }
        let rounds: Arc<Vec<AtomicU64>> = Arc::new((0..connections).map(|_| AtomicU64::new(0)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let workers = shares
            .into_iter()
            .map(|mut share| {
                let (rounds, stop) = (Arc::clone(&rounds), Arc::clone(&stop));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        for (number, pair) in &mut share {
                            let round = rounds[*number].load(Ordering::Relaxed);
                            pair.ping((*number as u64) << 32 | round)
                                .with_context(|| format!("connection {number}, round {round}"))?;
                            rounds[*number].store(round + 1, Ordering::Relaxed);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        Ok(Busy { rounds, stop, workers })
    }

    /// Rounds of all connections together.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).sum()
    }

    /// Waits until each connection has made so many rounds more.
    ///
    /// # Errors
    /// When one does not, within `patience`.
    pub fn wait_for_rounds(&self, more: u64, patience: Duration) -> anyhow::Result<()> {
        let before: Vec<u64> = self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect();
        let deadline = Instant::now() + patience;
        loop {
            let behind = self
                .rounds
                .iter()
                .zip(&before)
                .filter(|(now, before)| now.load(Ordering::Relaxed) < *before + more)
                .count();
            if behind == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{behind} connections stand still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends all of them. Returns the rounds that were made.
    ///
    /// # Errors
    /// When an echo was not what was sent, or a connection broke.
    pub fn finish(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).sum())
    }
}

impl Pair {
    fn open(listener: &TcpListener) -> anyhow::Result<Self> {
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        }
        client.write_all(PREFACE_AND_SETTINGS)?;
        server.read_exact(&mut [0; PREFACE_AND_SETTINGS.len()])?;
        server.write_all(SETTINGS)?;
        client.read_exact(&mut [0; SETTINGS.len()])?;
        Ok(Pair { client, server })
    }

    /// A PING there and back (RFC 9113 §6.7).
    fn ping(&mut self, payload: u64) -> anyhow::Result<()> {
        let mut ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        ping[9..].copy_from_slice(&payload.to_be_bytes());
        let mut heard = [0; 17];
        self.client.write_all(&ping)?;
        self.server.read_exact(&mut heard)?;
        ensure!(heard == ping, "{heard:?} came and {ping:?} was sent");
        heard[4] = 1; // ACK
        ping[4] = 1;
        self.server.write_all(&heard)?;
        self.client.read_exact(&mut heard)?;
        ensure!(heard == ping, "{heard:?} came back and {ping:?} was sent");
        Ok(())
    }
}

/// Raises the soft limit of open files, as far as the hard one goes.
///
/// # Errors
/// When that is not far enough.
pub fn allow_descriptors(count: u64) -> anyhow::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place for the limits.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    ensure!(result == 0, "ask for the limit of open files");
    if limit.rlim_cur < count {
        limit.rlim_cur = count.min(limit.rlim_max);
        // SAFETY: a valid limit.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        ensure!(result == 0 && limit.rlim_cur == count, "no more than {} open files", limit.rlim_max);
    }
    Ok(())
}
