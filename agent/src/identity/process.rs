//! Reads a process from `/proc/PID` (proc(5)).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::container::Container;
use super::service_name::{self, NameSource};

/// Most bytes read of a file whose length the process decides.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Who a process is, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot; `None` if the process was gone.
    pub start_ticks: Option<u64>,
    /// The kernel's name of the process, or of the thread that was seen.
    pub comm: String,
    /// Path of the executable, as in the process' own mount namespace.
    pub executable: Option<String>,
    /// Container and pod.
    pub container: Container,
    /// The name to show; empty if nothing is known.
    pub service_name: String,
    /// Where it comes from.
    pub name_source: NameSource,
}

impl Identity {
    /// What is known of a process that cannot be read: the kernel's name, which may be empty.
    pub(super) fn of_comm(pid: u32, comm: &str) -> Identity {
        let name_source = if comm.is_empty() { NameSource::Unknown } else { NameSource::Comm };
        Identity {
            pid,
            start_ticks: None,
            comm: comm.to_owned(),
            executable: None,
            container: Container::default(),
            service_name: comm.to_owned(),
            name_source,
        }
    }
}

/// Start time and name of a process that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) start_ticks: u64,
    pub(super) comm: String,
}

/// Reads `/proc/PID/stat`.
pub(super) fn stat(proc_root: &Path, pid: u32) -> Option<Stat> {
    let bytes = read(&proc_root.join(pid.to_string()).join("stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// The name is in parentheses and may contain some itself; state, behind it, is field 3.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.split_once('(')?;
    let (comm, rest) = rest.rsplit_once(')')?;
    let start_ticks = rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
    Some(Stat { start_ticks, comm: comm.to_owned() })
}

/// Reads everything about a process. `None` if it ended or called execve meanwhile, so that what was read
/// may be of two programs. The flag says that this is final: in the middle of execve the name is already the
/// new one while command line and environment are still empty (the kernel gives both only when both are set,
/// `mm->env_end`, so the command line is read first).
pub(super) fn identity(proc_root: &Path, pid: u32, before: &Stat) -> Option<(Identity, bool)> {
    let folder = proc_root.join(pid.to_string());
    let executable = fs::read_link(folder.join("exe")).ok().map(|path| {
        let path = path.to_string_lossy().into_owned();
        path.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(path)
    });
    let text = |name| read(&folder.join(name)).unwrap_or_default();
    let container = Container::parse(&String::from_utf8_lossy(&text("cgroup")));
    let cmdline = text("cmdline");
    let (service_name, name_source) = name(&text("environ"), &cmdline, executable.as_deref(), &before.comm);
    let identity = Identity {
        pid,
        start_ticks: Some(before.start_ticks),
        comm: before.comm.clone(),
        executable,
        container,
        service_name,
        name_source,
    };
    (stat(proc_root, pid)? == *before).then_some((identity, !cmdline.is_empty()))
}

fn name(environ: &[u8], cmdline: &[u8], executable: Option<&str>, comm: &str) -> (String, NameSource) {
    if let Some(name) = service_name::from_environment(environ) {
        return (name, NameSource::Environment);
    }
    let arguments: Vec<String> = cmdline
        .strip_suffix(b"\0")
        .unwrap_or(cmdline)
        .split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    let first = arguments.first().map(String::as_str).filter(|first| !first.is_empty());
    // Without the right to read the link, the first argument is the next best.
    let Some(program) = executable.or(first) else {
        return (comm.to_owned(), if comm.is_empty() { NameSource::Unknown } else { NameSource::Comm });
    };
    match service_name::from_command_line(program, &arguments) {
        Some(name) => (name, NameSource::Script),
        None => (service_name::file_name(program).to_owned(), NameSource::Executable),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a (b) c) S 1 42 42 0 -1 4194304 9 0 0 0 150 50 0 0 20 0 3 0 700 1000 25 0 0\n";
        assert_eq!(parse_stat(text), Some(Stat { start_ticks: 700, comm: "a (b) c".to_owned() }));
        assert_eq!(parse_stat("42 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_name_comes_from_the_best_source_there_is() {
        /// Environment, command line, executable, kernel's name; expected name and source.
        type Case =
            (&'static [u8], &'static [u8], Option<&'static str>, &'static str, (&'static str, NameSource));
        let cases: [Case; 7] = [
            (
                b"OTEL_SERVICE_NAME=cart\0",
                b"python3\0app.py\0",
                Some("/usr/bin/python3.11"),
                "x",
                ("cart", NameSource::Environment),
            ),
            (b"", b"python3\0app.py\0", Some("/usr/bin/python3.11"), "x", ("app", NameSource::Script)),
            (
                b"",
                b"python3\0-c\0code\0",
                Some("/usr/bin/python3.11"),
                "x",
                ("python3.11", NameSource::Executable),
            ),
            (b"", b"./cart\0--port\x001\0", Some("/srv/cart"), "x", ("cart", NameSource::Executable)),
            (b"", b"/srv/cart\0", None, "x", ("cart", NameSource::Executable)),
            (b"", b"", None, "cart", ("cart", NameSource::Comm)),
            (b"", b"", None, "", ("", NameSource::Unknown)),
        ];
        for (environ, cmdline, executable, comm, (expected, source)) in cases {
            assert_eq!(name(environ, cmdline, executable, comm), (expected.to_owned(), source), "{expected}");
        }
    }
}
