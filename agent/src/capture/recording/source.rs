//! Opens a recording: a file or the standard input, plain or gzip, told apart by content and not by name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Opens `path`, or the standard input for `-`.
///
/// # Errors
/// What the system says, or that the file is compressed in a way that is not understood.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return decompress(BufReader::with_capacity(BUFFER_BYTES, io::stdin()));
    }
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    decompress(BufReader::with_capacity(BUFFER_BYTES, file))
}

/// Undoes gzip where the content starts with its magic number (RFC 1952 §2.3.1).
///
/// # Errors
/// As [`open`].
pub fn decompress(mut input: impl BufRead + 'static) -> io::Result<Box<dyn Read>> {
    // A pipe may give its first bytes one by one.
    let mut head = Vec::new();
    (&mut input).take(6).read_to_end(&mut head)?;
    let tool = match head[..] {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x1f, 0x8b, ..] => {
            let plain = MultiGzDecoder::new(Cursor::new(head).chain(input));
            return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, plain)));
        }
        _ => return Ok(Box::new(Cursor::new(head).chain(input))),
    };
    let advice = format!("it is compressed with {tool}; use: {tool} -dc FILE | grpcscope replay -");
    Err(io::Error::new(io::ErrorKind::InvalidData, advice))
}
