//! What is kept over a restart of the agent: the names that HPACK tables hold, so that connections which go on are not
//! strangers to the next agent.
//!
//! Written on an orderly stop, read and removed by the next start. It holds what the core keeps of header fields anyway
//! ([`SavedConnection`]): names, and the values that it reads (methods, status, timeouts, …), never messages and never values
//! that are not read. Nobody but the agent's user may read it, and it counts for minutes only and for this boot of the
//! machine.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use agent_core::{SavedConnection, Timestamp};
use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

/// The first bytes of the file; another number for what this version cannot read.
const MAGIC: &[u8] = b"grpcscope state 1\n";

/// Names this boot of the machine: clock and socket cookies begin anew with the next.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    boot_id: String,
    written: Timestamp,
    connections: u64,
}

/// Writes the connections to `path`, in place of what was there: as many as make no more than `bytes_max`. Returns how many
/// were written, and how many were not.
///
/// # Errors
/// The folder or the file cannot be made or written.
pub fn write(
    path: &Path,
    connections: impl Iterator<Item = SavedConnection>,
    bytes_max: usize,
    now: Timestamp,
) -> anyhow::Result<(u64, u64)> {
    let mut body = Vec::new();
    let (mut written, mut left_out) = (0, 0);
    for connection in connections {
        let bytes = postcard::to_allocvec(&connection).context("write down a connection")?;
        if body.len() + bytes.len() > bytes_max {
            left_out += 1;
        } else {
            body.extend(bytes);
            written += 1;
        }
    }
    let header = Header { boot_id: boot_id()?, written: now, connections: written };
    let header = postcard::to_allocvec(&header).context("write down the header")?;
    let shown = path.display();
    if let Some(folder) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("make {}", folder.display()))?;
    }
    // Whole or not at all: a reader never sees half of it.
    let new = path.with_extension("new");
    remove(&new)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    let mut file = BufWriter::new(file.with_context(|| format!("make {}", new.display()))?);
    let mut write = || {
        file.write_all(MAGIC)?;
        file.write_all(&header)?;
        file.write_all(&body)?;
        file.flush()
    };
    write().with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("put {shown} in its place"))?;
    Ok((written, left_out))
}

/// Reads what [`write()`] has left at `path` no longer than `ttl` ago, and removes the file. Nothing if there is none.
///
/// # Errors
/// It cannot be read or removed, is not the agent's own, or is not what this version writes.
pub fn take(
    path: &Path,
    bytes_max: usize,
    ttl: Duration,
    now: Timestamp,
) -> anyhow::Result<Vec<SavedConnection>> {
    let shown = path.display();
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("open {shown}")),
    };
    remove(path)?;
    let bytes = read(&file, bytes_max).with_context(|| format!("read {shown}"))?;
    parse(&bytes, &boot_id()?, ttl, now).with_context(|| format!("read {shown}"))
}

fn read(file: &File, bytes_max: usize) -> anyhow::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    // SAFETY: takes no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    ensure!(metadata.is_file(), "it is no file");
    ensure!(metadata.uid() == user || metadata.uid() == 0, "it belongs to user {}", metadata.uid());
    ensure!(metadata.mode() & 0o077 == 0, "others may use it (mode {:o})", metadata.mode() & 0o7777);
    // The header and the magic are small beside a KiB.
    let bytes_max = bytes_max as u64 + 1024;
    ensure!(metadata.len() <= bytes_max, "{} bytes are more than {bytes_max}", metadata.len());
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8], boot_id: &str, ttl: Duration, now: Timestamp) -> anyhow::Result<Vec<SavedConnection>> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else { bail!("another version of the agent wrote it") };
    let (header, mut rest): (Header, &[u8]) = postcard::take_from_bytes(rest).context("its header")?;
    if header.boot_id != boot_id || u128::from(now.since(header.written)) > ttl.as_nanos() {
        return Ok(Vec::new());
    }
    let mut connections = Vec::new();
    for _ in 0..header.connections {
        let connection;
        (connection, rest) = postcard::take_from_bytes(rest).context("a connection")?;
        connections.push(connection);
    }
    ensure!(rest.is_empty(), "{} bytes follow its end", rest.len());
    Ok(connections)
}

fn boot_id() -> anyhow::Result<String> {
    let id = fs::read_to_string(BOOT_ID).with_context(|| format!("read {BOOT_ID}"))?;
    Ok(id.trim().to_owned())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::PathBuf;

    use agent_core::hpack::{SavedEntry, SavedName, SavedTable};
    use agent_core::{ConnectionId, Flow, SavedFlow};
    use proptest::prelude::*;

    use super::*;

    const BYTES_MAX: usize = 1 << 20;
    const TTL: Duration = Duration::from_secs(300);
    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    fn connection(id: u64) -> SavedConnection {
        let entry = |name, value: Option<&[u8]>| SavedEntry {
            name,
            value_bytes: value.map_or(9, |value| value.len() as u32),
            value: value.map(Box::from),
        };
        let table = SavedTable {
            maximum: 4096,
            is_maximum_assumed: false,
            has_older: true,
            epoch: 1,
            inserted: 3,
            entries: vec![
                entry(SavedName::Static(4), Some(b"/a.B/C")),
                entry(SavedName::Octets(b"x-token".as_slice().into()), None),
                entry(SavedName::Unknown(-7), Some(&[0, 255])),
            ],
        };
        let (opened, last_seen) = (Timestamp(1), Timestamp(2));
        let flows = [Some(SavedFlow { offset: 1 << 40, table }), None];
        let client_flow = Some(Flow::Received);
        SavedConnection { connection: ConnectionId(id), opened, last_seen, client_flow, flows }
    }

    /// A folder of the test's own, empty.
    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("grpcscope-restart-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn taken(path: &Path, now: Timestamp) -> anyhow::Result<Vec<SavedConnection>> {
        take(path, BYTES_MAX, TTL, now)
    }

    #[test]
    fn what_is_written_is_read_once_and_nobody_else_may_read_it() {
        let folder = folder("once");
        let path = folder.join("below/state");
        let connections: Vec<SavedConnection> = (0..100).map(connection).collect();
        assert_eq!(write(&path, connections.iter().cloned(), BYTES_MAX, NOW).unwrap(), (100, 0));
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(folder.join("below").metadata().unwrap().mode() & 0o7777, 0o700);
        assert_eq!(taken(&path, NOW).unwrap(), connections);
        assert!(!path.exists());
        assert!(taken(&path, NOW).unwrap().is_empty(), "there is none any more");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_old_or_from_another_boot_counts_for_nothing_and_is_removed() {
        let folder = folder("old");
        let path = folder.join("state");
        for (later, count) in [(TTL.as_nanos() as u64, 1), (TTL.as_nanos() as u64 + 1, 0)] {
            write(&path, [connection(1)].into_iter(), BYTES_MAX, NOW).unwrap();
            assert_eq!(taken(&path, NOW.plus(later)).unwrap().len(), count);
            assert!(!path.exists());
        }
        write(&path, [connection(1)].into_iter(), BYTES_MAX, NOW).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(parse(&bytes, "another boot", TTL, NOW).unwrap().is_empty());
        assert_eq!(parse(&bytes, &boot_id().unwrap(), TTL, NOW).unwrap().len(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn no_more_is_written_than_may_be_read() {
        let folder = folder("bytes");
        let path = folder.join("state");
        let one = postcard::to_allocvec(&connection(1)).unwrap().len();
        assert_eq!(write(&path, (1..=3).map(connection), 2 * one, NOW).unwrap(), (2, 1));
        assert_eq!(take(&path, 2 * one, TTL, NOW).unwrap().len(), 2);
        fs::write(&path, vec![0; 3000]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = format!("{:#}", take(&path, 1000, TTL, NOW).unwrap_err());
        assert!(error.contains("3000 bytes are more than"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_is_not_the_agents_own_is_not_read() {
        let folder = folder("foreign");
        let path = folder.join("state");
        write(&path, [connection(1)].into_iter(), BYTES_MAX, NOW).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = format!("{:#}", taken(&path, NOW).unwrap_err());
        assert!(error.ends_with("others may use it (mode 640)"), "{error}");

        write(&folder.join("elsewhere"), [connection(1)].into_iter(), BYTES_MAX, NOW).unwrap();
        symlink(folder.join("elsewhere"), &path).unwrap();
        taken(&path, NOW).unwrap_err();
        // What stands in the way of writing is replaced, not followed.
        write(&path, [connection(2)].into_iter(), BYTES_MAX, NOW).unwrap();
        assert_eq!(taken(&path, NOW).unwrap(), [connection(2)]);
        assert_eq!(taken(&folder.join("elsewhere"), NOW).unwrap(), [connection(1)]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn another_version_or_a_damaged_file_is_an_error_and_no_panic() {
        let folder = folder("damaged");
        let path = folder.join("state");
        write(&path, (1..=2).map(connection), BYTES_MAX, NOW).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_dir_all(folder).unwrap();
        let boot_id = boot_id().unwrap();
        let error = format!("{:#}", parse(b"grpcscope state 2\n", &boot_id, TTL, NOW).unwrap_err());
        assert!(error.contains("another version"), "{error}");
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end], &boot_id, TTL, NOW).is_err(), "{end} bytes");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(parse(&longer, &boot_id, TTL, NOW).is_err());
        proptest!(|(at in any::<prop::sample::Index>(), octet in any::<u8>())| {
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] = octet;
            let _ = parse(&damaged, &boot_id, TTL, NOW);
        });
    }
}
