//! pcap and pcapng: a stream of bytes in, packets with a time out.
//!
//! Formats: draft-ietf-opsawg-pcap (microseconds and nanoseconds, either byte order) and
//! draft-ietf-opsawg-pcapng (section, interface, enhanced, simple and the obsolete packet blocks; the others
//! are stepped over). Written here because every length comes from the file and each of them needs a clear
//! answer; `pcap-parser` is what the tests compare it with.

use std::fmt;
use std::io::{self, Read};

use agent_core::Timestamp;

/// Largest packet that is believed: twice what BIG TCP makes. A larger one means a corrupt file.
const PACKET_BYTES_MAX: u32 = 1 << 20;
/// Largest pcapng block that is read into memory: a packet, and options.
const BLOCK_BYTES_MAX: u32 = PACKET_BYTES_MAX + (1 << 16);
/// Interfaces of one pcapng section.
const INTERFACES_MAX: usize = 65_536;
const NS_PER_SECOND: u128 = 1_000_000_000;

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// When it was captured, in nanoseconds since the epoch.
    pub time: Timestamp,
    /// LINKTYPE_ number: how its first bytes are to be read.
    pub link_type: u16,
    /// What was captured of it.
    pub data: &'a [u8],
    /// How long it was.
    pub original_bytes: u32,
}

/// Why no further packet can be read.
#[derive(Debug)]
pub enum ContainerError {
    /// The content is no recording.
    NotARecording,
    /// Nothing is in it.
    Empty,
    /// It ends in the middle of a packet or block.
    Truncated {
        /// Packets before.
        packets: u64,
    },
    /// A length or a reference in it makes no sense.
    Corrupt {
        /// Packets before.
        packets: u64,
        /// What.
        what: &'static str,
    },
    /// It could not be read.
    Io(io::Error),
}

impl fmt::Display for ContainerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContainerError::NotARecording => f.write_str(
                "no recording: neither pcap nor pcapng (write one with: tcpdump -s 0 -w FILE tcp)",
            ),
            ContainerError::Empty => f.write_str("no recording: it is empty"),
            ContainerError::Truncated { packets } => {
                write!(f, "the recording is truncated after packet {packets}; what stands before it was used")
            }
            ContainerError::Corrupt { packets, what } => write!(
                f,
                "the recording is corrupt after packet {packets} ({what}); what stands before it was used"
            ),
            ContainerError::Io(error) => write!(f, "cannot read: {error}"),
        }
    }
}

impl std::error::Error for ContainerError {}

/// A recording that is being read.
pub struct Container<R> {
    input: R,
    order: ByteOrder,
    format: Format,
    packets: u64,
    buffer: Vec<u8>,
    last_time: Timestamp,
}

#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            ByteOrder::Little => u16::from_le_bytes(bytes),
            ByteOrder::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            ByteOrder::Little => u32::from_le_bytes(bytes),
            ByteOrder::Big => u32::from_be_bytes(bytes),
        }
    }

    fn u16_at(self, bytes: &[u8], at: usize) -> Option<u16> {
        Some(self.u16(bytes.get(at..at + 2)?.try_into().ok()?))
    }

    fn u32_at(self, bytes: &[u8], at: usize) -> Option<u32> {
        Some(self.u32(bytes.get(at..at + 4)?.try_into().ok()?))
    }
}

enum Format {
    Pcap { link_type: u16, nanoseconds: bool },
    Pcapng { interfaces: Vec<Interface> },
}

/// What a packet needs to know of the interface that it was captured on.
#[derive(Clone, Copy)]
struct Interface {
    link_type: u16,
    snap_bytes: u32,
    units_per_second: u128,
    offset_seconds: i64,
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// pcapng options of an interface description.
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;

impl<R: Read> Container<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`ContainerError::NotARecording`] and its kin.
    pub fn open(mut input: R) -> Result<Self, ContainerError> {
        let mut magic = [0; 4];
        match read_full(&mut input, &mut magic)? {
            0 => return Err(ContainerError::Empty),
            4 => {}
            _ => return Err(ContainerError::NotARecording),
        }
        let (order, nanoseconds) = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => (ByteOrder::Little, false),
            [0xa1, 0xb2, 0xc3, 0xd4] => (ByteOrder::Big, false),
            [0x4d, 0x3c, 0xb2, 0xa1] => (ByteOrder::Little, true),
            [0xa1, 0xb2, 0x3c, 0x4d] => (ByteOrder::Big, true),
            [0x0a, 0x0d, 0x0d, 0x0a] => {
                let format = Format::Pcapng { interfaces: Vec::new() };
                let mut container = Container::new(input, ByteOrder::Little, format);
                container.read_section_header()?;
                return Ok(container);
            }
            _ => return Err(ContainerError::NotARecording),
        };
        let mut rest = [0; 20];
        if read_full(&mut input, &mut rest)? != rest.len() {
            return Err(ContainerError::Truncated { packets: 0 });
        }
        // The link type is the low half of the last field; the high half tells of frame check sequences.
        let link_type = order.u32([rest[16], rest[17], rest[18], rest[19]]) as u16;
        Ok(Container::new(input, order, Format::Pcap { link_type, nanoseconds }))
    }

    fn new(input: R, order: ByteOrder, format: Format) -> Self {
        Container { input, order, format, packets: 0, buffer: Vec::new(), last_time: Timestamp(0) }
    }

    /// Packets read so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// The next packet, or nothing at the end.
    ///
    /// # Errors
    /// The recording ends in the middle of something, or makes no sense from here on.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_>>, ContainerError> {
        match self.format {
            Format::Pcap { link_type, nanoseconds } => self.next_pcap(link_type, nanoseconds),
            Format::Pcapng { .. } => self.next_pcapng(),
        }
    }

    fn next_pcap(&mut self, link_type: u16, nanoseconds: bool) -> Result<Option<Packet<'_>>, ContainerError> {
        let mut header = [0; 16];
        match read_full(&mut self.input, &mut header).map_err(|error| self.truncated_gzip(error))? {
            0 => return Ok(None),
            16 => {}
            _ => return Err(self.truncated()),
        }
        let field = |at: usize| self.order.u32_at(&header, at).unwrap_or(0);
        let (seconds, fraction, captured, original) = (field(0), field(4), field(8), field(12));
        if captured > PACKET_BYTES_MAX {
            return Err(self.corrupt("a packet of more than 1 MiB"));
        }
        let unit = if nanoseconds { 1 } else { 1_000 };
        let time = Timestamp(u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit);
        self.fill(captured)?;
        self.packets += 1;
        let original_bytes = original.max(captured);
        Ok(Some(Packet { time, link_type, data: &self.buffer, original_bytes }))
    }

    fn next_pcapng(&mut self) -> Result<Option<Packet<'_>>, ContainerError> {
        loop {
            let mut header = [0; 8];
            match read_full(&mut self.input, &mut header[..4]).map_err(|error| self.truncated_gzip(error))? {
                0 => return Ok(None),
                4 => {}
                _ => return Err(self.truncated()),
            }
            let kind = self.order.u32([header[0], header[1], header[2], header[3]]);
            // The section header's type reads the same in both byte orders.
            if kind == SECTION_HEADER {
                self.read_section_header()?;
                continue;
            }
            self.read_exact(&mut header[4..])?;
            let total = self.order.u32([header[4], header[5], header[6], header[7]]);
            if total < 12 || !total.is_multiple_of(4) {
                return Err(self.corrupt("a block of impossible length"));
            }
            let known =
                matches!(kind, INTERFACE_DESCRIPTION | OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET);
            if !known {
                self.skip(total - 8)?;
                continue;
            }
            if total > BLOCK_BYTES_MAX {
                return Err(self.corrupt("a packet of more than 1 MiB"));
            }
            self.fill(total - 8)?;
            // The block repeats its length at its end.
            self.buffer.truncate(total as usize - 12);
            if kind == INTERFACE_DESCRIPTION {
                self.add_interface()?;
                continue;
            }
            let Some((time, link_type, range, original_bytes)) = self.packet_of_block(kind) else {
                return Err(self.corrupt("a packet block that contradicts itself"));
            };
            self.packets += 1;
            self.last_time = time;
            return Ok(Some(Packet { time, link_type, data: &self.buffer[range], original_bytes }));
        }
    }

    /// Time, link type, position of the data and original length of the packet in the block in the buffer.
    fn packet_of_block(&self, kind: u32) -> Option<(Timestamp, u16, std::ops::Range<usize>, u32)> {
        let Format::Pcapng { interfaces } = &self.format else { return None };
        let (block, order) = (&self.buffer, self.order);
        if kind == SIMPLE_PACKET {
            // It carries no time: it gets that of the packet before it.
            let interface = interfaces.first()?;
            let original = order.u32_at(block, 0)?;
            let room = u32::try_from(block.len() - 4).ok()?;
            let snap = if interface.snap_bytes == 0 { u32::MAX } else { interface.snap_bytes };
            let captured = original.min(snap).min(room);
            return Some((self.last_time, interface.link_type, 4..4 + captured as usize, original));
        }
        let id = match kind {
            OBSOLETE_PACKET => usize::from(order.u16_at(block, 0)?),
            _ => usize::try_from(order.u32_at(block, 0)?).ok()?,
        };
        let interface = interfaces.get(id)?;
        let units = u64::from(order.u32_at(block, 4)?) << 32 | u64::from(order.u32_at(block, 8)?);
        let captured = order.u32_at(block, 12)? as usize;
        let original = order.u32_at(block, 16)?;
        block.get(20..20usize.checked_add(captured)?)?;
        let original = original.max(captured as u32);
        Some((interface.time(units), interface.link_type, 20..20 + captured, original))
    }

    /// Reads a section header block after its type; a new section forgets the interfaces.
    fn read_section_header(&mut self) -> Result<(), ContainerError> {
        let mut head = [0; 8];
        self.read_exact(&mut head)?;
        self.order = match [head[4], head[5], head[6], head[7]] {
            [0x4d, 0x3c, 0x2b, 0x1a] => ByteOrder::Little,
            [0x1a, 0x2b, 0x3c, 0x4d] => ByteOrder::Big,
            _ if self.packets == 0 => return Err(ContainerError::NotARecording),
            _ => return Err(self.corrupt("a section without byte order")),
        };
        let total = self.order.u32([head[0], head[1], head[2], head[3]]);
        if total < 28 || !total.is_multiple_of(4) {
            return Err(self.corrupt("a block of impossible length"));
        }
        self.format = Format::Pcapng { interfaces: Vec::new() };
        self.skip(total - 12)
    }

    fn add_interface(&mut self) -> Result<(), ContainerError> {
        let (order, block) = (self.order, &self.buffer);
        let (Some(link_type), Some(snap_bytes)) = (order.u16_at(block, 0), order.u32_at(block, 4)) else {
            return Err(self.corrupt("an interface without link type"));
        };
        let mut interface =
            Interface { link_type, snap_bytes, units_per_second: 1_000_000, offset_seconds: 0 };
        let mut at = 8;
        while let (Some(code), Some(bytes)) = (order.u16_at(block, at), order.u16_at(block, at + 2)) {
            let bytes = usize::from(bytes);
            let Some(value) = block.get(at + 4..at + 4 + bytes) else { break };
            match (code, value) {
                (0, _) => break,
                (IF_TSRESOL, &[resolution]) => interface.units_per_second = units_per_second(resolution),
                (IF_TSOFFSET, value) => {
                    if let Ok(value) = <[u8; 8]>::try_from(value) {
                        interface.offset_seconds = match order {
                            ByteOrder::Little => i64::from_le_bytes(value),
                            ByteOrder::Big => i64::from_be_bytes(value),
                        };
                    }
                }
                _ => {}
            }
            at += 4 + bytes.next_multiple_of(4);
        }
        match &mut self.format {
            Format::Pcapng { interfaces } if interfaces.len() < INTERFACES_MAX => interfaces.push(interface),
            Format::Pcapng { .. } | Format::Pcap { .. } => return Err(self.corrupt("too many interfaces")),
        }
        Ok(())
    }

    /// Reads `bytes` bytes into the buffer.
    fn fill(&mut self, bytes: u32) -> Result<(), ContainerError> {
        self.buffer.clear();
        let mut limited = (&mut self.input).take(u64::from(bytes));
        match limited.read_to_end(&mut self.buffer) {
            Ok(read) if read == bytes as usize => Ok(()),
            Ok(_) => Err(self.truncated()),
            Err(error) => Err(self.truncated_gzip(ContainerError::Io(error))),
        }
    }

    fn skip(&mut self, bytes: u32) -> Result<(), ContainerError> {
        let mut limited = (&mut self.input).take(u64::from(bytes));
        match io::copy(&mut limited, &mut io::sink()) {
            Ok(copied) if copied == u64::from(bytes) => Ok(()),
            Ok(_) => Err(self.truncated()),
            Err(error) => Err(self.truncated_gzip(ContainerError::Io(error))),
        }
    }

    fn read_exact(&mut self, into: &mut [u8]) -> Result<(), ContainerError> {
        match read_full(&mut self.input, into) {
            Ok(read) if read == into.len() => Ok(()),
            Ok(_) => Err(self.truncated()),
            Err(error) => Err(self.truncated_gzip(error)),
        }
    }

    fn truncated(&self) -> ContainerError {
        ContainerError::Truncated { packets: self.packets }
    }

    fn corrupt(&self, what: &'static str) -> ContainerError {
        ContainerError::Corrupt { packets: self.packets, what }
    }

    /// A gzip stream that ends early is an error of the reader below, and the same to the user.
    fn truncated_gzip(&self, error: ContainerError) -> ContainerError {
        match error {
            ContainerError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.truncated(),
            ContainerError::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) =>
            {
                self.corrupt("broken gzip data")
            }
            error => error,
        }
    }
}

impl Interface {
    fn time(&self, units: u64) -> Timestamp {
        let ns = u128::from(units).saturating_mul(NS_PER_SECOND) / self.units_per_second;
        let offset = i128::from(self.offset_seconds) * NS_PER_SECOND as i128;
        let ns = i128::try_from(ns).unwrap_or(i128::MAX).saturating_add(offset);
        Timestamp(u64::try_from(ns.max(0)).unwrap_or(u64::MAX))
    }
}

/// `if_tsresol`: a negative power of ten, or of two if the highest bit is set.
fn units_per_second(resolution: u8) -> u128 {
    match resolution {
        0..=38 => 10u128.pow(u32::from(resolution)),
        0x80.. => 1u128 << (resolution & 0x7f),
        // Finer than any clock, and than the integers here.
        39..0x80 => u128::MAX,
    }
}

/// Reads until `into` is full or the input ends.
fn read_full(input: &mut impl Read, into: &mut [u8]) -> Result<usize, ContainerError> {
    let mut read = 0;
    while read < into.len() {
        match input.read(&mut into[read..]) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ContainerError::Io(error)),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
