//! Nanoseconds of the kernel programs for each kind of call, by the kernel's own statistics.
//!
//! Beside them, in the same rounds, what the least program at the same hook takes on this machine (`tests::peer`): the ratio
//! to it can be compared between machines, the nanoseconds cannot.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use agent::capture::kernel::KernelCapture;
use agent::capture::kernel::load::LoadedProgram;
use anyhow::{Context as _, Result};
use serde_json::json;
use tests::peer::Peer;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// Medians of this many rounds over all cases.
const ROUNDS: usize = 9;
/// Calls of each case in a round.
const CALLS: u64 = 4_000;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn message(bytes: usize) -> Vec<u8> {
    let mut all = vec![0];
    all.extend((bytes as u32).to_be_bytes());
    all.resize(5 + bytes, 0x55);
    all
}

/// A kind of call, and a connection of its own to make it on.
struct Case {
    name: &'static str,
    buffers: Vec<Vec<u8>>,
    client: TcpStream,
    server: TcpStream,
}

impl Case {
    fn new(name: &'static str, http2: bool, buffers: Vec<Vec<u8>>) -> Result<Case> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        client.set_nodelay(true)?;
        if http2 {
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
            client.write_all(&frame(4, 0, 0, &[]))?;
            server.read_exact(&mut [0; 33])?;
        }
        Ok(Case { name, buffers, client, server })
    }

    /// Moves the bytes from one end to the other: one buffer by write and read, several by writev and readv.
    fn run(&self, capture: &mut KernelCapture) -> Result<()> {
        let total: usize = self.buffers.iter().map(Vec::len).sum();
        let mut sink = vec![0; total];
        let mut rest = &mut sink[..];
        let mut from: Vec<libc::iovec> = Vec::new();
        let mut into: Vec<libc::iovec> = Vec::new();
        for buffer in &self.buffers {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(buffer.len());
            rest = tail;
            from.push(libc::iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() });
            into.push(libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() });
        }
        let (client, server, count) = (self.client.as_raw_fd(), self.server.as_raw_fd(), from.len() as i32);
        for call in 0..CALLS {
            // SAFETY: the iovecs describe buffers that live for the whole loop.
            let (sent, received) = unsafe {
                if count == 1 {
                    let sent = libc::write(client, from[0].iov_base, total);
                    (sent, libc::read(server, into[0].iov_base, total))
                } else {
                    let sent = libc::writev(client, from.as_ptr(), count);
                    (sent, libc::readv(server, into.as_ptr(), count))
                }
            };
            anyhow::ensure!(
                sent == total as isize && received == sent,
                "a call moved {sent} and {received} of {total} bytes"
            );
            if call % 64 == 0 {
                capture.poll(Duration::ZERO, &mut |_| {})?;
            }
        }
        Ok(())
    }
}

/// Nanoseconds by case and program, one of each round.
type Figures = BTreeMap<(usize, String), Vec<u64>>;

/// Runs each case; the last line is JSON.
pub(crate) fn run(capture: &mut KernelCapture) -> Result<bool> {
    let before = std::fs::read_to_string(SWITCH).unwrap_or_default();
    std::fs::write(SWITCH, "1").with_context(|| format!("switch on {SWITCH}"))?;
    let measured = measure(capture);
    std::fs::write(SWITCH, before.trim()).ok();
    let (cases, figures) = measured?;
    let median = |case: usize, program: &str| {
        let mut all = figures.get(&(case, program.to_owned())).cloned().unwrap_or_default();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    };
    let least = median(cases.len() + 1, "peer").context("a peer was measured")?;
    let empty = median(cases.len(), "peer").context("a peer was measured")?;
    eprintln!("an empty program {empty} ns; registers and one read of nine bytes {least} ns\n");
    let mut results = Vec::new();
    for (number, name) in cases.iter().enumerate() {
        let programs = capture.programs().iter().filter_map(|program| {
            let ns = median(number, &program.name)?;
            let ratio = (ns as f64 / least as f64 * 100.0).round() / 100.0;
            Some((program.name.clone(), json!({"ns": ns, "ratio": ratio})))
        });
        let programs: serde_json::Map<String, serde_json::Value> = programs.collect();
        let shown: Vec<String> = programs
            .iter()
            .map(|(name, figure)| format!("{name} {} ns ({}×)", figure["ns"], figure["ratio"]))
            .collect();
        eprintln!("{name:<28} {}", shown.join("  "));
        results.push(json!({"case": name, "programs": programs}));
    }
    println!(
        "{}",
        json!({
            "ok": true,
            "backend": capture.backend().name(),
            "empty_ns": empty,
            "one_read_ns": least,
            "cases": results,
        })
    );
    Ok(true)
}

fn measure(capture: &mut KernelCapture) -> Result<(Vec<&'static str>, Figures)> {
    let one = frame(0, 0, 1, &message(50));
    let unary = [frame(1, 4, 1, &[0x82; 40]), one.clone(), frame(1, 5, 1, &[0xbf; 20])].concat();
    // As C-core cuts an answer: its slices end wherever one of its parts does.
    let answer = [
        frame(1, 4, 1, &[0xbf; 5]),
        frame(0, 0, 1, &message(64)),
        frame(1, 5, 1, &[0xbe; 16]),
        frame(8, 0, 0, &[0; 4]),
    ];
    let mut answer = &answer.concat()[..];
    let mut slices = Vec::new();
    for len in [23, 5, 64, 12, 13, 13] {
        let (slice, rest) = answer.split_at(len);
        slices.push(slice.to_vec());
        answer = rest;
    }
    anyhow::ensure!(answer.is_empty(), "{} bytes are left over", answer.len());
    let eight: Vec<Vec<u8>> = (0..8).map(|_| one.clone()).collect();
    let cases = [
        Case::new("not HTTP/2", false, vec![vec![0x55; 64]])?,
        Case::new("HEADERS 64 B", true, vec![frame(1, 4, 1, &[0x82; 55])])?,
        Case::new("DATA, one message", true, vec![one])?,
        Case::new("HEADERS, DATA, trailers", true, vec![unary])?,
        Case::new("16 KiB DATA, one message", true, vec![frame(0, 0, 1, &message(16_379))])?,
        Case::new("8 DATA in one buffer", true, vec![eight.concat()])?,
        Case::new("8 DATA in 8 iovecs", true, eight)?,
        Case::new("C-core's answer in 6 iovecs", true, slices)?,
    ];
    let mut figures = Figures::new();
    for _ in 0..ROUNDS {
        for (number, case) in cases.iter().enumerate() {
            let programs = capture.programs().to_vec();
            let before = statistics(&programs);
            case.run(capture)?;
            note(&mut figures, number, &before, &statistics(&programs));
        }
        // The peers see the calls that are not HTTP/2, beside our program and not instead of it.
        for (number, attach) in [Peer::nothing, Peer::one_read].into_iter().enumerate() {
            let peer = attach()?;
            let programs = [peer.program()];
            let before = statistics(&programs);
            cases[0].run(capture)?;
            note(&mut figures, cases.len() + number, &before, &statistics(&programs));
        }
    }
    Ok((cases.map(|case| case.name).to_vec(), figures))
}

/// Nanoseconds and runs by program.
type Statistics = BTreeMap<String, (u64, u64)>;

fn note(figures: &mut Figures, case: usize, before: &Statistics, after: &Statistics) {
    for (program, (time, runs)) in after {
        let (time0, runs0) = before.get(program).copied().unwrap_or_default();
        if runs - runs0 >= CALLS {
            figures.entry((case, program.clone())).or_default().push((time - time0) / (runs - runs0));
        }
    }
}

fn statistics(programs: &[LoadedProgram]) -> Statistics {
    let field = |text: &str, name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    };
    programs
        .iter()
        .map(|program| {
            let text =
                std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.fd)).unwrap_or_default();
            (program.name.clone(), (field(&text, "run_time_ns:"), field(&text, "run_cnt:")))
        })
        .collect()
}
