//! The least that any program at this hook can do, to compare with: nothing at all, and one look at the caller's
//! registers and nine bytes of its memory. Written in BPF instructions, since no product needs them.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use agent::capture::kernel::btf::Btf;
use agent::capture::kernel::{load::LoadedProgram, probe};
use anyhow::{Context as _, Result, ensure};

const BPF_PROG_LOAD: i64 = 5;
const BPF_RAW_TRACEPOINT_OPEN: i64 = 17;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_RAW_TP: u32 = 23;

/// One instruction: operation, registers (destination low, source high), offset, immediate.
const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    code as u64 | (registers as u64) << 8 | (offset as u16 as u64) << 16 | (immediate as u32 as u64) << 32
}

const RETURN_ZERO: [u64; 2] = [instruction(0xb7, 0, 0, 0), instruction(0x95, 0, 0, 0)];

/// A program that is attached until this is dropped.
#[derive(Debug)]
pub struct Peer {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Peer {
    /// A program that does nothing.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn nothing() -> Result<Peer> {
        with_types(|types| Self::attach(types, &RETURN_ZERO))
    }

    /// A program that finds the registers of the system call and reads nine bytes of the buffer.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn one_read() -> Result<Peer> {
        with_types(|types| {
            let buffer = types.sized_member("pt_regs", "si", 8).context("find the second argument")?;
            let mut program = vec![
                instruction(0x85, 0x00, 0, 158),           // r0 = bpf_get_current_task_btf()
                instruction(0xbf, 0x01, 0, 0),             // r1 = r0
                instruction(0x85, 0x00, 0, 175),           // r0 = bpf_task_pt_regs(r1)
                instruction(0x79, 0x03, buffer as i16, 0), // r3 = r0->si
                instruction(0xbf, 0xa1, 0, 0),             // r1 = r10
                instruction(0x07, 0x01, 0, -16),           // r1 -= 16
                instruction(0xb7, 0x02, 0, 9),             // r2 = 9
                instruction(0x85, 0x00, 0, 112),           // bpf_probe_read_user(r1, r2, r3)
            ];
            program.extend(RETURN_ZERO);
            Self::attach(types, &program)
        })
    }

    /// The program, as the statistics want it.
    #[must_use]
    pub fn program(&self) -> LoadedProgram {
        LoadedProgram { name: "peer".into(), fd: self.program.as_raw_fd(), verified: None }
    }

    fn attach(types: &Btf<'_>, instructions: &[u64]) -> Result<Peer> {
        let tracepoint =
            types.tracepoint("sock_send_length").context("find the tracepoint sock_send_length")?;
        let license = c"GPL";
        // union bpf_attr, as far as BPF_PROG_LOAD reads it here (include/uapi/linux/bpf.h).
        let mut attributes = [0u32; 36];
        let mut pointer = |at: usize, address: u64| {
            attributes[at] = address as u32;
            attributes[at + 1] = (address >> 32) as u32;
        };
        pointer(2, instructions.as_ptr() as u64);
        pointer(4, license.as_ptr() as u64);
        attributes[0] = BPF_PROG_TYPE_TRACING;
        attributes[1] = instructions.len() as u32;
        attributes[17] = BPF_TRACE_RAW_TP;
        attributes[27] = tracepoint;
        let program = bpf(BPF_PROG_LOAD, &attributes).context("load a peer")?;
        let mut attributes = [0u32; 36];
        attributes[2] = program.as_raw_fd() as u32;
        let link = bpf(BPF_RAW_TRACEPOINT_OPEN, &attributes).context("attach a peer")?;
        Ok(Peer { program, _link: link })
    }
}

fn with_types<T>(use_them: impl FnOnce(&Btf<'_>) -> Result<T>) -> Result<T> {
    let bytes = std::fs::read(probe::BTF_PATH).context("read the kernel's type information")?;
    use_them(&Btf::parse(&bytes).context("read the kernel's type information")?)
}

fn bpf(command: i64, attributes: &[u32; 36]) -> Result<OwnedFd> {
    // SAFETY: the attributes and what they point to live over the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    ensure!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
