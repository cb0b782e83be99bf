//! tshark on the same recording.

use std::io::{BufRead, BufReader};
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What it did.
pub struct Run {
    /// Calls that it saw the end of.
    pub calls: u64,
    /// Processor time.
    pub time: Duration,
    /// Most memory that it had.
    pub rss_mb: f64,
}

/// Its version, or why there is none.
pub fn version() -> Result<String, String> {
    let output =
        Command::new("tshark").arg("--version").output().map_err(|error| format!("tshark: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Reads a recording, and prints the names of all header fields, of which `grpc-status` is there once a call. The
/// port has to be given: tshark does not look for HTTP/2 on ports that it does not know.
pub fn run(path: &Path, port: u16) -> Result<Run, String> {
    let mut child = Command::new("tshark")
        .arg("-r")
        .arg(path)
        .args(["-d", &format!("tcp.port=={port},http2"), "-T", "fields", "-e", "http2.header.name"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("tshark: {error}"))?;
    let stdout = child.stdout.take().ok_or("tshark has no output")?;
    let mut calls = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|error| format!("tshark: {error}"))?;
        calls += line.split(',').filter(|name| *name == "grpc-status").count() as u64;
    }
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let mut status = 0;
    // SAFETY: the pointers are to a status and an rusage; the child is ours and nobody has waited for it.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
    if waited != child.id() as libc::pid_t || status != 0 {
        return Err(format!("tshark ended with {status}"));
    }
    // SAFETY: zeroes are an rusage, and wait4 has filled it in.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    Ok(Run {
        calls,
        time: time(usage.ru_utime) + time(usage.ru_stime),
        rss_mb: usage.ru_maxrss as f64 / 1024.0,
    })
}
