//! Nanoseconds of the kernel programs for each kind of call, by the kernel's own statistics.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use agent::capture::kernel::KernelCapture;
use anyhow::{Context as _, Result};
use serde_json::json;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
const CALLS: usize = 20_000;

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

/// Runs each case; the last line is JSON.
pub(crate) fn run(capture: &mut KernelCapture) -> Result<bool> {
    let before = std::fs::read_to_string(SWITCH).unwrap_or_default();
    std::fs::write(SWITCH, "1").with_context(|| format!("switch on {SWITCH}"))?;
    let headers = frame(1, 4, 1, &[0x82; 55]);
    let one = frame(0, 0, 1, &message(50));
    let unary = [frame(1, 4, 1, &[0x82; 40]), one.clone(), frame(1, 5, 1, &[0xbf; 20])].concat();
    let eight: Vec<Vec<u8>> = (0..8).map(|_| one.clone()).collect();
    let cases: Vec<(&str, bool, Vec<Vec<u8>>)> = vec![
        ("not HTTP/2", false, vec![vec![0x55; 64]]),
        ("HEADERS 64 B", true, vec![headers]),
        ("DATA, one message", true, vec![one.clone()]),
        ("HEADERS, DATA, trailers", true, vec![unary]),
        ("16 KiB DATA, one message", true, vec![frame(0, 0, 1, &message(16_379))]),
        ("8 DATA in one buffer", true, vec![eight.concat()]),
        ("8 DATA in 8 iovecs", true, eight),
    ];
    let mut results = Vec::new();
    for (name, http2, buffers) in cases {
        let (mut client, mut server) = pair()?;
        if http2 {
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
            client.write_all(&frame(4, 0, 0, &[]))?;
            server.read_exact(&mut [0; 33])?;
        }
        let total: usize = buffers.iter().map(Vec::len).sum();
        let mut sink = vec![0; total];
        let iovecs: Vec<libc::iovec> = buffers
            .iter()
            .map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() })
            .collect();
        let mut into: Vec<libc::iovec> = Vec::new();
        let mut at = 0;
        for buffer in &buffers {
            into.push(libc::iovec { iov_base: sink[at..].as_mut_ptr().cast(), iov_len: buffer.len() });
            at += buffer.len();
        }
        let start = statistics(capture);
        for call in 0..CALLS {
            // SAFETY: the iovecs describe buffers that live for the whole loop.
            let (sent, received) = unsafe {
                if let [one] = iovecs.as_slice() {
                    (
                        libc::write(client.as_raw_fd(), one.iov_base, one.iov_len),
                        libc::read(server.as_raw_fd(), into[0].iov_base, total),
                    )
                } else {
                    (
                        libc::writev(client.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32),
                        libc::readv(server.as_raw_fd(), into.as_ptr(), into.len() as i32),
                    )
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
        let end = statistics(capture);
        let mut line = serde_json::Map::new();
        for (program, (time, runs)) in &end {
            let (time0, runs0) = start.iter().find(|(p, _)| p == program).map_or((0, 0), |(_, v)| *v);
            if runs - runs0 >= CALLS as u64 {
                line.insert(program.clone(), json!((time - time0) / (runs - runs0)));
            }
        }
        eprintln!("{name:<28} {}", serde_json::Value::Object(line.clone()));
        results.push(json!({"case": name, "ns": line}));
    }
    std::fs::write(SWITCH, before.trim()).ok();
    println!("{}", json!({"ok": true, "backend": capture.backend().name(), "ns_per_run": results}));
    Ok(true)
}

fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    Ok((client, server))
}

fn statistics(capture: &KernelCapture) -> Vec<(String, (u64, u64))> {
    let field = |text: &str, name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    };
    capture
        .programs()
        .iter()
        .map(|program| {
            let text =
                std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.fd)).unwrap_or_default();
            (program.name.clone(), (field(&text, "run_time_ns:"), field(&text, "run_cnt:")))
        })
        .collect()
}
