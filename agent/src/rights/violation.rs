//! What happens at a system call that is not on the list: one line on the standard error, then the end by SIGSYS (exit code 159 to a
//! shell). When the process is gone, so is everything that it attached.

use std::io::{Error, Result};

/// What the line says before and after the number of the call.
const BEFORE: &[u8] = b"grpcscope: killed at system call ";
const AFTER: &[u8] = b", which is not on its list: a bug or an attack; everything is detached \
    (rights.system_calls: log shows it and goes on; docs/kernel-support.md)\n";

/// Sets the handler that tells.
pub(super) fn tell_when_killed() -> Result<()> {
    // SAFETY: the structure is plain numbers; all zero is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    // The second SIGSYS, which the handler sends itself, has its default effect.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_NODEFER;
    // SAFETY: the handler calls nothing that may not be called in one.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// The kernel's `siginfo_t` up to `si_syscall`; libc has no field for it.
#[repr(C)]
struct SeccompInfo {
    signal: i32,
    errno: i32,
    code: i32,
    _padding: i32,
    _call_address: *const libc::c_void,
    call: i32,
}

/// `SYS_SECCOMP` of the kernel's siginfo.h.
const SYS_SECCOMP: i32 = 1;

extern "C" fn handle(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands the handler a valid siginfo, whose fields for SIGSYS these are.
    let info = unsafe { &*info.cast::<SeccompInfo>() };
    let call = if info.code == SYS_SECCOMP { info.call } else { -1 };
    let mut line = [0_u8; 256];
    let length = write_line(call, &mut line);
    // SAFETY: system calls alone, on memory of this function.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length);
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGSYS);
        libc::_exit(128 + libc::SIGSYS);
    }
}

/// Nothing here allocates, locks or panics: the handler may have interrupted anything.
fn write_line(call: i32, line: &mut [u8; 256]) -> usize {
    let mut digits = [0_u8; 10];
    let mut left = call.unsigned_abs();
    let mut first = digits.len();
    loop {
        first = first.saturating_sub(1);
        if let Some(digit) = digits.get_mut(first) {
            *digit = b'0' + (left % 10) as u8;
        }
        left /= 10;
        if left == 0 {
            break;
        }
    }
    let parts = [BEFORE, if call < 0 { b"-" } else { b"" }, digits.get(first..).unwrap_or_default(), AFTER];
    let mut length = 0;
    for byte in parts.into_iter().flatten() {
        if let Some(place) = line.get_mut(length) {
            *place = *byte;
            length += 1;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits_and_names_the_call() {
        for (call, expected) in [(0, " 0,"), (59, " 59,"), (i32::MAX, " 2147483647,"), (-1, " -1,")] {
            let mut line = [0; 256];
            let length = write_line(call, &mut line);
            let text = std::str::from_utf8(&line[..length]).expect("it is ASCII");
            assert!(text.contains(expected) && text.ends_with("kernel-support.md)\n"), "{text}");
        }
    }
}
