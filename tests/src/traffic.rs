//! Random HTTP/2 with gRPC messages, and for each byte whether the kernel side has to ship it.

/// A small generator of random numbers (SplitMix64): the same seed gives the same traffic everywhere.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit.max(1) as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// Small frames, each in a call of its own, at the start of traffic that is joined there.
pub const ANCHORS: usize = 6;
/// Bytes of each: a PING.
pub const ANCHOR_BYTES: usize = 17;

/// One flow: what goes over the wire, and what has to be shipped of it.
#[derive(Default)]
pub struct Traffic {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// For each byte: it has to be shipped.
    pub ship: Vec<bool>,
    /// Where frames start.
    pub frames: Vec<usize>,
}

struct Stream {
    id: u32,
    /// Bytes of the current message's prefix that were not sent yet.
    prefix: Vec<u8>,
    /// Bytes of its body that were not sent yet.
    body: usize,
}

impl Traffic {
    /// About `size` bytes: the start of a flow (if `stream_base` is 1), then frames. Messages never go on
    /// after the last byte, and with `whole` not after their frame.
    pub fn generate(
        random: &mut Random,
        size: usize,
        from_client: bool,
        stream_base: u32,
        whole: bool,
    ) -> Traffic {
        let mut traffic = Traffic::default();
        if stream_base == 1 {
            if from_client {
                traffic.push(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true);
            }
            let settings = vec![0; 6 * random.below(7)];
            traffic.frame(4, 0, 0, &settings);
        }
        for _ in 0..if whole { ANCHORS } else { 0 } {
            traffic.frame(6, 0, 0, &random.number().to_be_bytes());
        }
        let mut streams: Vec<Stream> = Vec::new();
        let mut next_id = stream_base;
        while traffic.bytes.len() < size || !streams.is_empty() {
            let ending = traffic.bytes.len() >= size;
            match random.below(20) {
                0..=3 if !ending => {
                    streams.push(Stream { id: next_id, prefix: Vec::new(), body: 0 });
                    traffic.headers(random, next_id);
                    next_id += 2;
                }
                4 => {
                    let increment = random.number().to_be_bytes();
                    traffic.frame(8, 0, random.below(9) as u32, &increment[..4]);
                }
                5 => traffic.frame(6, random.below(2) as u8, 0, &random.number().to_be_bytes()),
                6 => traffic.frame(2, 0, 1 + random.below(9) as u32, &[0, 0, 0, 0, 7]),
                7 => traffic.frame(4, 1, 0, &[]),
                8 if random.once_in(4) => {
                    let debug: Vec<u8> = (0..8 + random.below(300)).map(|_| random.number() as u8).collect();
                    traffic.frame(7, 0, 0, &debug);
                }
                9 if random.once_in(4) && !from_client => {
                    let promised: Vec<u8> =
                        (0..4 + random.below(60)).map(|_| random.number() as u8).collect();
                    traffic.frame(5, 4, 1 + 2 * random.below(5) as u32, &promised);
                }
                10 if random.once_in(6) => {
                    // An unknown type: its header alone.
                    let payload: Vec<u8> = (0..random.below(200)).map(|_| random.number() as u8).collect();
                    traffic.header(0x20, 0, 0, payload.len());
                    traffic.push(&payload, false);
                }
                11 if !streams.is_empty() && random.once_in(3) => {
                    let stream = streams.swap_remove(random.below(streams.len()));
                    traffic.frame(3, 0, stream.id, &[0, 0, 0, 8]);
                }
                _ if !streams.is_empty() => {
                    let index = random.below(streams.len());
                    if traffic.data(random, &mut streams[index], ending, whole) {
                        let id = streams.swap_remove(index).id;
                        if random.once_in(2) && !from_client {
                            traffic.headers(random, id);
                        }
                    }
                }
                _ => {}
            }
        }
        traffic
    }

    /// Adds `other` behind this.
    pub fn append(&mut self, other: &Traffic) {
        let base = self.bytes.len();
        self.bytes.extend(&other.bytes);
        self.ship.extend(&other.ship);
        self.frames.extend(other.frames.iter().map(|at| at + base));
    }

    /// Adds one frame, of whose payload the first `ship` bytes have to be shipped.
    pub fn frame_of(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], ship: usize) {
        self.header(kind, flags, stream, payload.len());
        self.push(&payload[..ship], true);
        self.push(&payload[ship..], false);
    }

    fn push(&mut self, bytes: &[u8], ship: bool) {
        self.bytes.extend(bytes);
        self.ship.resize(self.bytes.len(), ship);
    }

    fn header(&mut self, kind: u8, flags: u8, stream: u32, length: usize) {
        self.frames.push(self.bytes.len());
        let [_, a, b, c] = (length as u32).to_be_bytes();
        let [d, e, f, g] = stream.to_be_bytes();
        self.push(&[a, b, c, kind, flags, d, e, f, g], true);
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.header(kind, flags, stream, payload.len());
        self.push(payload, true);
    }

    /// HEADERS, sometimes padded, sometimes with CONTINUATION, sometimes over 16 KiB in one frame.
    fn headers(&mut self, random: &mut Random, stream: u32) {
        let size = match random.below(12) {
            0 => 2 + random.below(8),
            1 => 10_000 + random.below(30_000),
            _ => 20 + random.below(300),
        };
        let block: Vec<u8> = (0..size).map(|_| random.number() as u8).collect();
        let pieces = if size > 100 && random.once_in(3) { 1 + random.below(4) } else { 1 };
        let step = size.div_ceil(pieces);
        let count = block.chunks(step).count();
        for (index, piece) in block.chunks(step).enumerate() {
            let last = if index + 1 == count { 4 } else { 0 };
            if index > 0 {
                self.frame(9, last, stream, piece);
            } else if random.once_in(5) {
                let padding = random.below(40);
                let mut padded = vec![padding as u8];
                padded.extend(piece);
                padded.resize(padded.len() + padding, 0);
                self.frame(1, last | 8, stream, &padded);
            } else {
                self.frame(1, last, stream, piece);
            }
        }
    }

    /// One DATA frame; true if it was the stream's last one.
    fn data(&mut self, random: &mut Random, stream: &mut Stream, ending: bool, whole: bool) -> bool {
        let limit = match random.below(8) {
            0 => 0,
            1 => 1 + random.below(12),
            2 | 3 => 16_384,
            4 => 40_000,
            _ => 1 + random.below(600),
        };
        let mut content: Vec<(Vec<u8>, bool)> = Vec::new();
        let mut length = 0;
        while length < limit || (whole && (!stream.prefix.is_empty() || stream.body > 0)) {
            let room = if whole { usize::MAX } else { limit - length };
            if !stream.prefix.is_empty() {
                let rest = stream.prefix.split_off(room.min(stream.prefix.len()));
                length += stream.prefix.len();
                content.push((std::mem::replace(&mut stream.prefix, rest), true));
            } else if stream.body > 0 {
                let take = stream.body.min(room);
                stream.body -= take;
                length += take;
                content.push(((0..take).map(|_| random.number() as u8).collect(), false));
            } else if ending || (length > 0 && random.once_in(3)) {
                break;
            } else {
                stream.body = match random.below(10) {
                    0 => 0,
                    1 => 1 + random.below(60_000),
                    2 => 1,
                    _ => random.below(400),
                };
                stream.prefix = vec![random.below(2) as u8];
                stream.prefix.extend((stream.body as u32).to_be_bytes());
            }
        }
        let complete = stream.prefix.is_empty() && stream.body == 0;
        let end = complete && (ending || random.once_in(4));
        let padding = random.once_in(5).then(|| random.below(256));
        let flags = u8::from(end) | if padding.is_some() { 8 } else { 0 };
        self.header(0, flags, stream.id, length + padding.map_or(0, |padding| padding + 1));
        if let Some(padding) = padding {
            self.push(&[padding as u8], true);
        }
        for (bytes, ship) in content {
            self.push(&bytes, ship);
        }
        self.push(&vec![0; padding.unwrap_or(0)], false);
        end
    }
}
