//! Random socket calls that move bytes: every kind that the kernel programs claim to see.

use std::io::{Error, ErrorKind};
use std::ptr::null_mut;

use anyhow::{Context as _, Result, bail};

use tests::traffic::Random;

/// Bytes of one call.
fn size(random: &mut Random, left: usize) -> usize {
    let size = match random.below(10) {
        0 => 1 + random.below(9),
        1 | 2 => 1 + random.below(60),
        3 | 4 => 1 + random.below(1500),
        5..=7 => 1 + random.below(16_500),
        _ => 1 + random.below(70_000),
    };
    size.min(left)
}

/// Cuts `len` bytes at `base` into iovecs, some of them empty.
fn pieces(random: &mut Random, base: *mut u8, len: usize) -> Vec<libc::iovec> {
    let mut all = Vec::new();
    let mut at = 0;
    let many = random.once_in(12);
    while at < len && all.len() < 900 {
        if random.once_in(6) {
            all.push(libc::iovec { iov_base: base.wrapping_add(at).cast(), iov_len: 0 });
        }
        let step = match random.below(4) {
            _ if many => 1 + random.below(4),
            0 => 9,
            1 => 5,
            2 => 1 + random.below(40),
            _ => 1 + random.below(20_000),
        }
        .min(len - at);
        all.push(libc::iovec { iov_base: base.wrapping_add(at).cast(), iov_len: step });
        at += step;
        if !many && all.len() >= 40 {
            break;
        }
    }
    all
}

fn message(iovecs: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len() as _;
    message
}

/// Sends all of `bytes` by random calls. `first` is the least that the first call sends.
pub(crate) fn send_all(random: &mut Random, fd: i32, bytes: &[u8], first: usize) -> Result<()> {
    let mut copy = bytes.to_vec();
    let mut sent = 0;
    while sent < copy.len() {
        let left = copy.len() - sent;
        let mut len = size(random, left);
        if sent == 0 {
            len = len.max(first.min(left));
        }
        let base = copy[sent..].as_mut_ptr();
        let mut iovecs = pieces(random, base, len);
        if sent == 0 && first > 1 {
            iovecs = vec![libc::iovec { iov_base: base.cast(), iov_len: len }];
        }
        // A call that does not wait often sends less than it was given.
        let flags = if random.once_in(3) { libc::MSG_DONTWAIT } else { 0 } | libc::MSG_NOSIGNAL;
        // SAFETY: all pointers are into `copy`, within its length.
        let moved = unsafe {
            match random.below(5) {
                0 => libc::write(fd, base.cast(), len),
                1 => libc::writev(fd, iovecs.as_ptr(), iovecs.len() as i32),
                2 => libc::send(fd, base.cast(), len, flags),
                3 => libc::sendto(fd, base.cast(), len, flags, null_mut(), 0),
                _ => libc::sendmsg(fd, &raw const *Box::new(message(&mut iovecs)), flags),
            }
        };
        match usize::try_from(moved) {
            Ok(moved) => sent += moved,
            Err(_) => retry("send")?,
        }
    }
    Ok(())
}

/// Receives exactly `expected` by random calls; with `greedy`, as much as there is.
pub(crate) fn receive_all(random: &mut Random, fd: i32, expected: &[u8], greedy: bool) -> Result<()> {
    let mut buffer = vec![0u8; 70_000];
    let mut received = 0;
    while received < expected.len() {
        let left = expected.len() - received;
        let len = if greedy { left.min(buffer.len()) } else { size(random, left) };
        let base = buffer.as_mut_ptr();
        let mut iovecs = pieces(random, base, len);
        let flags = if random.once_in(4) { libc::MSG_DONTWAIT } else { 0 };
        if random.once_in(6) {
            // SAFETY: the buffer is longer than `len`.
            unsafe { libc::recv(fd, base.cast(), len, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
        }
        if random.once_in(20) {
            // SAFETY: no bytes are asked for.
            unsafe { libc::read(fd, base.cast(), 0) };
        }
        // SAFETY: all pointers are into `buffer`, within its length.
        let moved = unsafe {
            match random.below(5) {
                0 => libc::read(fd, base.cast(), len),
                1 => libc::readv(fd, iovecs.as_ptr(), iovecs.len() as i32),
                2 => libc::recv(fd, base.cast(), len, flags),
                3 => libc::recvfrom(fd, base.cast(), len, flags, null_mut(), null_mut()),
                _ => libc::recvmsg(fd, &raw mut *Box::new(message(&mut iovecs)), flags),
            }
        };
        match usize::try_from(moved) {
            Ok(0) => bail!("end of the flow after {received} of {} bytes", expected.len()),
            Ok(moved) => {
                if buffer[..moved] != expected[received..received + moved] {
                    bail!("the sockets changed the bytes, which cannot be");
                }
                received += moved;
            }
            Err(_) => retry("receive")?,
        }
    }
    Ok(())
}

/// Reads until the peer's end is seen.
pub(crate) fn receive_end(fd: i32) -> Result<()> {
    let mut byte = 0u8;
    // SAFETY: one byte of room.
    match unsafe { libc::read(fd, (&raw mut byte).cast(), 1) } {
        0 => Ok(()),
        moved if moved > 0 => bail!("a byte after the end"),
        _ => Err(Error::last_os_error()).context("read the end"),
    }
}

fn retry(what: &str) -> Result<()> {
    let error = Error::last_os_error();
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => {
            std::thread::yield_now();
            Ok(())
        }
        _ => Err(error).with_context(|| format!("{what} on a socket")),
    }
}
