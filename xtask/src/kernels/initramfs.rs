//! The initramfs: busybox, an init script, and the program with its files, as a cpio archive (newc).
//!
//! Written here because the format is a 110-byte header per file, and so no cpio program is needed, and because
//! a device node in an archive needs no root, unlike one in a directory.
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Arch, Job, guest_name};
use crate::shell::cmd;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// What init writes on the result port around the program's own lines.
pub(super) const MARK: &str = "@@grpcscope";

/// The archive for these jobs, whose programs are among the files.
pub(super) fn build(
    arch: Arch,
    busybox: &Path,
    files: &[PathBuf],
    jobs: &[Job],
    run_timeout_seconds: u64,
) -> Result<Vec<u8>> {
    let mut archive = Cpio::default();
    for dir in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
        archive.add(dir, DIRECTORY, (0, 0), b"");
    }
    // Init needs a console before devtmpfs is mounted.
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), b"");
    archive.add("bin/busybox", EXECUTABLE, (0, 0), &read(busybox)?);
    archive.add("bin/sh", SYMLINK, (0, 0), b"busybox");
    archive.add("etc/passwd", 0o100_644, (0, 0), b"root:x:0:0:root:/root:/bin/sh\n");
    archive.add("etc/hosts", 0o100_644, (0, 0), b"127.0.0.1 localhost\n::1 localhost\n");
    for file in files {
        archive.add(&guest_name(file)?, EXECUTABLE, (0, 0), &read(file)?);
    }
    let mut directories = BTreeSet::new();
    let mut all_libraries = BTreeSet::new();
    for file in files {
        all_libraries.extend(libraries(file)?);
    }
    for library in all_libraries {
        let name = library.strip_prefix("/").unwrap_or(&library).to_owned();
        // From the outermost directory inwards, each once.
        let parents: Vec<&Path> =
            name.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).collect();
        for parent in parents.into_iter().rev() {
            if directories.insert(parent.to_owned()) {
                archive.add(&parent.to_string_lossy(), DIRECTORY, (0, 0), b"");
            }
        }
        archive.add(&name.to_string_lossy(), EXECUTABLE, (0, 0), &read(&library)?);
    }
    let init = init_script(arch, jobs, run_timeout_seconds);
    archive.add("init", EXECUTABLE, (0, 0), init.as_bytes());
    Ok(archive.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Mounts what a tracing program expects, runs each job with a limit, and turns the machine off.
///
/// Results go to the second serial port, so that no kernel message ever lands inside one.
fn init_script(arch: Arch, jobs: &[Job], run_timeout_seconds: u64) -> String {
    let mut script = format!(
        "#!/bin/sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin HOME=/root\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mount -t debugfs debugfs /sys/kernel/debug\n\
         mount -t tracefs tracefs /sys/kernel/tracing\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t tmpfs tmpfs /tmp\n\
         ip link set lo up\n\
         ulimit -n 65536\n\
         ulimit -l unlimited\n\
         {silence}\
         exec >{port} 2>&1 </dev/null\n\
         stty raw -echo <{port}\n\
         echo '{MARK} booted' $(uname -r)\n",
        port = arch.result_device(),
        silence = if arch.has_result_port() { "" } else { "dmesg -n 1\n" },
    );
    for (number, job) in jobs.iter().enumerate() {
        let arguments: String = job.arguments.iter().map(|arg| format!(" {}", quoted(arg))).collect();
        script += &format!(
            "timeout -k 5 {run_timeout_seconds} {}{arguments}\n\
             code=$?; echo; echo '{MARK} exit {number}' $code\n",
            quoted(&format!("/{}", job.program))
        );
    }
    // With -no-reboot this ends qemu, and it needs no ACPI.
    script + "sleep 1\nreboot -f\n"
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// An archive in the making.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    files: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.files += 1;
        let name_size = name.len() as u32 + 1;
        let fields = [
            self.files, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            content.len() as u32,
            0, // the device the file lies on: major, minor
            0,
            device.0,
            device.1,
            name_size,
            0, // checksum, unused in newc
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The shared libraries that a program needs (none, if it is static or no program), and its loader (`ld.so`), as this machine has them. So the program
/// of an ordinary build runs where there is nothing else, and no second build for a static one is needed.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    match has_interpreter(&read(program)?) {
        Some(true) => {}
        Some(false) => return Ok(Vec::new()),
        // A file of data.
        None => return Ok(Vec::new()),
    }
    let listed = cmd("ldd")
        .arg(program)
        .read()
        .with_context(|| format!("list the libraries of {}", program.display()))?;
    libraries_listed(&listed)
        .with_context(|| format!("{} needs a library that this machine lacks", program.display()))
}

/// Reads what ldd prints: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`, and
/// `linux-vdso.so.1 (0x…)`, which is no file.
fn libraries_listed(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let target = line.split_once("=>").map_or(line, |(_, target)| target).trim();
        if target.starts_with("not found") {
            bail!("{line}");
        }
        if let Some(path) = target.split(' ').next().filter(|path| path.starts_with('/')) {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// Looks for a PT_INTERP header; `None` if this is no 64-bit little-endian ELF file.
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?) as usize;
    let size = u16::from_le_bytes(elf.get(54..56)?.try_into().ok()?) as usize;
    let count = u16::from_le_bytes(elf.get(56..58)?.try_into().ok()?) as usize;
    for number in 0..count {
        let start = table.checked_add(number * size)?;
        let kind = elf.get(start..start.checked_add(4)?)?;
        if u32::from_le_bytes(kind.try_into().ok()?) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpio_entry_is_header_name_and_content_each_padded_to_four_bytes() {
        let mut archive = Cpio::default();
        archive.add("a", EXECUTABLE, (0, 0), b"hello");
        let header = concat!(
            "070701", "00000001", "000081ED", "00000000", "00000000", "00000001", "00000000", "00000005",
            "00000000", "00000000", "00000000", "00000000", "00000002", "00000000"
        );
        assert_eq!(archive.bytes, [header.as_bytes(), b"a\0hello\0\0\0"].concat());
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_file_that_is_none() {
        let this_test = std::env::current_exe().expect("the test is a program");
        let bytes = fs::read(this_test).expect("the test can be read");
        assert_eq!(has_interpreter(&bytes), Some(true));
        assert_eq!(has_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(has_interpreter(b"\x7fELF\x02\x01"), None);
    }

    #[test]
    fn the_libraries_of_a_program_are_those_with_a_path() {
        let listed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        let expected = [PathBuf::from("/lib/x/libc.so.6"), PathBuf::from("/lib64/ld.so")];
        assert_eq!(libraries_listed(listed).expect("all there"), expected);
        assert!(libraries_listed("\tlibfoo.so => not found\n").is_err());
    }

    #[test]
    fn arguments_reach_the_program_as_they_are() {
        let arguments = vec!["it's".into(), "$HOME".into()];
        let jobs = [Job { program: "check".into(), backend: None, arguments }];
        let script = init_script(Arch::X86_64, &jobs, 60);
        assert!(script.contains(r"timeout -k 5 60 '/check' 'it'\''s' '$HOME'"), "{script}");
    }
}
