//! From pieces of one flow to frames.
//!
//! In: bytes and holes, in order. Out: [`Event`]s. A hole is stepped over where it lies inside the payload
//! of a frame whose header was seen; any other hole loses the frame boundary, and the reader says so and
//! looks for it again at the start of each chunk ([`resync`](super::resync)). DATA payload is handed on in
//! pieces and never collected; other payloads are collected only if they are split over pieces.

use super::frame::{DATA, FrameHeader, HEADER_LEN, PADDED, PREFACE, SETTINGS};
use super::resync;
use super::upgrade::{self, Head};
use crate::steps;

/// A part of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece<'a> {
    /// Bytes that were seen.
    Bytes(&'a [u8]),
    /// As many bytes that were not.
    Hole(u64),
}

impl Piece<'_> {
    fn is_empty(self) -> bool {
        match self {
            Piece::Bytes(bytes) => bytes.is_empty(),
            Piece::Hole(len) => len == 0,
        }
    }
}

/// What the reader found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// The client's connection preface: this flow comes from the client.
    Preface,
    /// A frame other than DATA, whole.
    Frame(FrameHeader, &'a [u8]),
    /// A frame other than DATA that was not seen or kept whole; the bytes are what precedes the missing part.
    PartialFrame(FrameHeader, &'a [u8]),
    /// A DATA frame begins.
    DataStart(FrameHeader),
    /// Payload of it, without padding.
    Data(FrameHeader, &'a [u8]),
    /// As many bytes of its payload were not seen.
    DataHole(FrameHeader, u64),
    /// All its payload has passed.
    DataEnd(FrameHeader),
    /// The padding of a DATA frame is longer than its payload.
    BadPadding(FrameHeader),
    /// The frame boundary is lost: frames may have been missed.
    BoundaryLost,
    /// The frame boundary was found again.
    BoundaryFound,
    /// An HTTP/1.1 request that asks for HTTP/2: its head.
    UpgradeRequest(&'a [u8]),
    /// Octets of that request's body.
    UpgradeBody(&'a [u8]),
    /// As many octets of it were not seen.
    UpgradeBodyHole(u64),
    /// An HTTP/1.1 response that agrees to HTTP/2.
    UpgradeAccepted,
    /// The flow was seen from its start, and is not HTTP/2.
    NotHttp2,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// At the first byte of the flow; so many octets are equal to the preface's.
    Start { matched: usize },
    /// In the head of an HTTP/1.1 message, which is in the buffer.
    Http1Head,
    /// In the body of an HTTP/1.1 request that asks for HTTP/2.
    Http1Body { remaining: u64 },
    /// Before a frame; so many octets of its header are in `header_octets`.
    Header { have: usize },
    /// In the payload of a frame other than DATA. `whole` is false once a part of it is missing.
    Control { header: FrameHeader, remaining: u32, whole: bool },
    /// In the payload of a DATA frame; `padding` is what lies at its end, unknown until its length was read.
    Data { header: FrameHeader, remaining: u32, padding: Padding },
    /// The frame boundary is unknown.
    Lost,
    /// Nothing of this flow is of interest.
    NotHttp2,
}

#[derive(Clone, Copy, Debug)]
enum Padding {
    /// The pad length octet comes next.
    LengthNext,
    /// So many octets at the end.
    Octets(u32),
    /// The pad length was in a hole.
    Unknown,
}

/// What one step found, without borrowing.
enum Step {
    Event(Event<'static>),
    /// A frame whose payload is the next `n` bytes of the piece.
    Inline(FrameHeader, usize),
    /// A frame whose payload is in the buffer.
    Buffered(FrameHeader, bool),
    /// An HTTP/1.1 request is in the buffer.
    UpgradeRequest,
    /// Body of it: the next `n` bytes of the piece.
    BodyBytes(usize),
    /// DATA payload: the next `n` bytes of the piece.
    DataBytes(FrameHeader, usize),
    /// Bytes were consumed, go on.
    Again,
    /// The piece is used up.
    Done,
}

/// A buffer that one large frame has made larger than this is given back.
const BUFFER_KEPT_BYTES: usize = 16 * 1024;

/// Reads the frames of one flow.
#[derive(Debug)]
pub(crate) struct FrameReader {
    state: State,
    header_octets: [u8; HEADER_LEN],
    buffer: Vec<u8>,
    payload_limit: usize,
    /// The boundary was found by guessing, so an implausible header means that the guess was wrong.
    guessed: bool,
    /// The first frame of a flow must be SETTINGS (RFC 9113 §3.4).
    expect_settings: bool,
}

impl FrameReader {
    /// A reader at the first byte of a flow. Payloads beyond `payload_limit` are not kept.
    pub(crate) fn at_start(payload_limit: usize) -> FrameReader {
        FrameReader {
            state: State::Start { matched: 0 },
            header_octets: [0; HEADER_LEN],
            buffer: Vec::new(),
            payload_limit,
            guessed: false,
            expect_settings: true,
        }
    }

    /// A reader that joins a flow in the middle.
    pub(crate) fn in_the_middle(payload_limit: usize) -> FrameReader {
        FrameReader {
            state: State::Lost,
            guessed: true,
            expect_settings: false,
            ..FrameReader::at_start(payload_limit)
        }
    }

    /// Heap bytes that are held now.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Frames were read, and the next byte begins another one.
    pub(crate) fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header { have: 0 }) && !self.expect_settings
    }

    /// Octets that are left of the DATA frame that is read, zero between two frames; `None` anywhere else.
    pub(crate) fn left_of_data(&self) -> Option<u64> {
        match self.state {
            State::Data { remaining, .. } => Some(remaining.into()),
            State::Header { have: 0 } if !self.expect_settings => Some(0),
            State::Start { .. }
            | State::Http1Head
            | State::Http1Body { .. }
            | State::Header { .. }
            | State::Control { .. }
            | State::Lost
            | State::NotHttp2 => None,
        }
    }

    /// The frame boundary is unknown.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Nothing more is read from this flow.
    pub(crate) fn is_not_http2(&self) -> bool {
        matches!(self.state, State::NotHttp2)
    }

    /// A chunk begins: the place where a lost boundary is looked for. `boundary` says that the capturing
    /// side is sure that a frame starts here.
    pub(crate) fn start_chunk(&mut self, boundary: bool, bytes: &[u8]) -> Option<Event<'static>> {
        if !self.is_lost() || bytes.is_empty() || !(boundary || resync::starts_a_frame(bytes)) {
            return None;
        }
        self.guessed = true;
        self.state = State::Header { have: 0 };
        Some(Event::BoundaryFound)
    }

    /// Gives up the frame boundary: what follows made no sense.
    pub(crate) fn lose_boundary(&mut self) {
        self.state = State::Lost;
        self.guessed = true;
        // The flow's first frame, if that is what was being read, has passed.
        self.expect_settings = false;
    }

    /// The next event of `piece`, or none when it is used up. Each call consumes at least a byte, changes
    /// the state towards one that does, or ends.
    pub(crate) fn next<'s, 'i: 's>(&'s mut self, piece: &mut Piece<'i>) -> Option<Event<'s>> {
        loop {
            match self.step(piece) {
                Step::Again => {}
                Step::Done => return None,
                Step::Event(event) => return Some(event),
                Step::Inline(header, len) => return Some(Event::Frame(header, take(piece, len))),
                Step::UpgradeRequest => return Some(Event::UpgradeRequest(&self.buffer)),
                Step::BodyBytes(len) => return Some(Event::UpgradeBody(take(piece, len))),
                Step::DataBytes(header, len) => return Some(Event::Data(header, take(piece, len))),
                Step::Buffered(header, true) => return Some(Event::Frame(header, &self.buffer)),
                Step::Buffered(header, false) => return Some(Event::PartialFrame(header, &self.buffer)),
            }
        }
    }

    fn step(&mut self, piece: &mut Piece<'_>) -> Step {
        steps::count();
        match self.state {
            State::Start { matched } => self.step_start(matched, piece),
            State::Http1Head => self.step_http1_head(piece),
            State::Http1Body { remaining } => self.step_http1_body(remaining, piece),
            State::Header { have } => self.step_header(have, piece),
            State::Control { header, remaining, whole } => self.step_control(header, remaining, whole, piece),
            State::Data { header, remaining, padding } => self.step_data(header, remaining, padding, piece),
            State::Lost | State::NotHttp2 => {
                *piece = Piece::Bytes(&[]);
                Step::Done
            }
        }
    }

    fn step_start(&mut self, matched: usize, piece: &mut Piece<'_>) -> Step {
        let bytes = match *piece {
            Piece::Hole(0) => return Step::Done,
            Piece::Hole(_) => return self.lost(piece),
            Piece::Bytes(bytes) => bytes,
        };
        let Some(&first) = bytes.first() else { return Step::Done };
        let wanted = PREFACE.get(matched..).unwrap_or_default();
        let n = wanted.iter().zip(bytes).take_while(|(wanted, octet)| wanted == octet).count();
        if matched == 0 && n == 0 && !first.is_ascii_uppercase() {
            // The server's flow: no preface, SETTINGS first. No length of SETTINGS begins with a letter.
            self.state = State::Header { have: 0 };
            return Step::Again;
        }
        take(piece, n);
        if n < wanted.len() && n < bytes.len() {
            self.buffer.clear();
            self.buffer.extend_from_slice(PREFACE.get(..matched + n).unwrap_or_default());
            self.state = State::Http1Head;
            return Step::Again;
        }
        if n == wanted.len() {
            self.state = State::Header { have: 0 };
            return Step::Event(Event::Preface);
        }
        self.state = State::Start { matched: matched + n };
        Step::Done
    }

    /// Collects the head of an HTTP/1.1 message, of which the buffer has the beginning, and looks what follows it.
    fn step_http1_head(&mut self, piece: &mut Piece<'_>) -> Step {
        let bytes = match *piece {
            Piece::Hole(0) => return Step::Done,
            Piece::Hole(_) => return self.not_http2(),
            Piece::Bytes(bytes) => bytes,
        };
        let had = self.buffer.len();
        let room = upgrade::LONGEST_HEAD.saturating_sub(had);
        self.buffer.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        let seen = had.saturating_sub(3);
        let end =
            self.buffer.get(seen..).and_then(|rest| rest.windows(4).position(|four| four == b"\r\n\r\n"));
        let Some(end) = end.map(|at| seen + at + 4) else {
            if self.buffer.len() >= upgrade::LONGEST_HEAD || !Head::may_begin(&self.buffer) {
                return self.not_http2();
            }
            take(piece, bytes.len());
            return Step::Done;
        };
        self.buffer.truncate(end);
        take(piece, end.saturating_sub(had));
        match Head::parse(&self.buffer) {
            Head::UpgradeRequest { body } => {
                self.state = State::Http1Body { remaining: body };
                Step::UpgradeRequest
            }
            Head::SwitchingProtocols => {
                self.state = State::Header { have: 0 };
                Step::Event(Event::UpgradeAccepted)
            }
            Head::Informational => {
                self.buffer.clear();
                Step::Again
            }
            Head::Other => self.not_http2(),
        }
    }

    fn step_http1_body(&mut self, remaining: u64, piece: &mut Piece<'_>) -> Step {
        if remaining == 0 {
            self.state = State::Start { matched: 0 };
            return Step::Again;
        }
        match *piece {
            Piece::Bytes([]) | Piece::Hole(0) => Step::Done,
            Piece::Bytes(bytes) => {
                let n = bytes.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
                self.state = State::Http1Body { remaining: remaining - n as u64 };
                Step::BodyBytes(n)
            }
            Piece::Hole(len) if len <= remaining => {
                *piece = Piece::Hole(0);
                self.state = State::Http1Body { remaining: remaining - len };
                Step::Event(Event::UpgradeBodyHole(len))
            }
            Piece::Hole(_) => self.lost(piece),
        }
    }

    fn not_http2(&mut self) -> Step {
        self.buffer = Vec::new();
        self.state = State::NotHttp2;
        Step::Event(Event::NotHttp2)
    }

    fn step_header(&mut self, have: usize, piece: &mut Piece<'_>) -> Step {
        let bytes = match *piece {
            Piece::Hole(0) => return Step::Done,
            Piece::Hole(_) => return self.lost(piece),
            Piece::Bytes(bytes) => bytes,
        };
        let header = if have == 0 && bytes.len() >= HEADER_LEN {
            let Some(octets) = bytes.first_chunk::<HEADER_LEN>() else { return Step::Done };
            let header = FrameHeader::parse(octets);
            take(piece, HEADER_LEN);
            header
        } else {
            let n = (HEADER_LEN - have).min(bytes.len());
            if n == 0 {
                return Step::Done;
            }
            let part = take(piece, n);
            if let Some(room) = self.header_octets.get_mut(have..have + n) {
                room.copy_from_slice(part);
            }
            if have + n < HEADER_LEN {
                self.state = State::Header { have: have + n };
                return Step::Done;
            }
            FrameHeader::parse(&self.header_octets)
        };
        if self.expect_settings {
            self.expect_settings = false;
            if header.kind != SETTINGS || header.flags & 1 != 0 || header.fault().is_some() {
                self.state = State::NotHttp2;
                return Step::Event(Event::NotHttp2);
            }
        }
        if self.guessed && !resync::is_plausible(header) && header.kind <= super::frame::CONTINUATION {
            return self.lost(piece);
        }
        self.enter(header, piece)
    }

    fn enter(&mut self, header: FrameHeader, piece: &Piece<'_>) -> Step {
        if header.kind == DATA {
            let padding = if header.has(PADDED) && header.length > 0 {
                Padding::LengthNext
            } else {
                Padding::Octets(0)
            };
            self.state = State::Data { header, remaining: header.length, padding };
            return Step::Event(Event::DataStart(header));
        }
        let length = header.length as usize;
        if let Piece::Bytes(bytes) = *piece
            && bytes.len() >= length
            && length <= self.payload_limit
        {
            self.state = State::Header { have: 0 };
            return Step::Inline(header, length);
        }
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        self.state = State::Control { header, remaining: header.length, whole: length <= self.payload_limit };
        Step::Again
    }

    fn step_control(
        &mut self,
        header: FrameHeader,
        remaining: u32,
        whole: bool,
        piece: &mut Piece<'_>,
    ) -> Step {
        if remaining == 0 {
            self.state = State::Header { have: 0 };
            return Step::Buffered(header, whole);
        }
        match *piece {
            Piece::Bytes(bytes) => {
                let n = bytes.len().min(remaining as usize);
                if n == 0 {
                    return Step::Done;
                }
                let part = take(piece, n);
                if whole {
                    self.buffer.extend_from_slice(part);
                }
                self.state = State::Control { header, remaining: remaining - n as u32, whole };
                Step::Again
            }
            Piece::Hole(0) => Step::Done,
            Piece::Hole(len) if len <= u64::from(remaining) => {
                *piece = Piece::Hole(0);
                self.state = State::Control { header, remaining: remaining - len as u32, whole: false };
                Step::Again
            }
            Piece::Hole(_) => self.lost(piece),
        }
    }

    fn step_data(
        &mut self,
        header: FrameHeader,
        remaining: u32,
        padding: Padding,
        piece: &mut Piece<'_>,
    ) -> Step {
        if remaining == 0 {
            self.state = State::Header { have: 0 };
            return Step::Event(Event::DataEnd(header));
        }
        if piece.is_empty() {
            return Step::Done;
        }
        match (*piece, padding) {
            (Piece::Bytes(bytes), Padding::LengthNext) => {
                let octets = u32::from(bytes.first().copied().unwrap_or(0));
                take(piece, 1);
                let rest = remaining - 1;
                self.state =
                    State::Data { header, remaining: rest, padding: Padding::Octets(octets.min(rest)) };
                if octets > rest { Step::Event(Event::BadPadding(header)) } else { Step::Again }
            }
            (Piece::Bytes(bytes), Padding::Octets(octets)) => {
                let payload = remaining.saturating_sub(octets);
                let n = if payload > 0 { payload } else { remaining }.min(bytes.len() as u32);
                self.state = State::Data { header, remaining: remaining - n, padding };
                if payload > 0 {
                    Step::DataBytes(header, n as usize)
                } else {
                    take(piece, n as usize);
                    Step::Again
                }
            }
            (Piece::Bytes(bytes), Padding::Unknown) => {
                let n = remaining.min(bytes.len() as u32);
                take(piece, n as usize);
                self.state = State::Data { header, remaining: remaining - n, padding };
                Step::Event(Event::DataHole(header, u64::from(n)))
            }
            (Piece::Hole(len), _) if len <= u64::from(remaining) => {
                *piece = Piece::Hole(0);
                let rest = remaining - len as u32;
                let (hole, padding) = match padding {
                    Padding::LengthNext => (len - 1, Padding::Unknown),
                    Padding::Octets(octets) => {
                        (len.min(u64::from(remaining.saturating_sub(octets))), padding)
                    }
                    Padding::Unknown => (len, padding),
                };
                self.state = State::Data { header, remaining: rest, padding };
                if hole == 0 { Step::Again } else { Step::Event(Event::DataHole(header, hole)) }
            }
            (Piece::Hole(_), _) => self.lost(piece),
        }
    }

    fn lost(&mut self, piece: &mut Piece<'_>) -> Step {
        *piece = Piece::Bytes(&[]);
        self.lose_boundary();
        Step::Event(Event::BoundaryLost)
    }
}

/// Takes up to `n` bytes off the front of `piece`.
fn take<'a>(piece: &mut Piece<'a>, n: usize) -> &'a [u8] {
    match *piece {
        Piece::Bytes(bytes) => {
            let (head, tail) = bytes.split_at_checked(n).unwrap_or((bytes, &[]));
            *piece = Piece::Bytes(tail);
            head
        }
        Piece::Hole(_) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frame::{END_STREAM, HEADERS, PING, WINDOW_UPDATE};

    const LIMIT: usize = 1024;

    /// What the reader says of a flow that is cut as given; `None` in a place stands for a hole.
    fn read(reader: &mut FrameReader, pieces: &[Piece<'_>]) -> Vec<String> {
        let mut said = Vec::new();
        for piece in pieces {
            let mut piece = *piece;
            if let Piece::Bytes(bytes) = piece
                && let Some(event) = reader.start_chunk(false, bytes)
            {
                said.push(describe(&event));
            }
            while let Some(event) = reader.next(&mut piece) {
                said.push(describe(&event));
            }
        }
        said
    }

    fn describe(event: &Event<'_>) -> String {
        match event {
            Event::Frame(h, p) => format!("frame {} {} {:?}", h.kind, h.stream, p),
            Event::PartialFrame(h, p) => format!("partial {} {} {:?}", h.kind, h.stream, p),
            Event::DataStart(h) => format!("data start {} of {}", h.stream, h.length),
            Event::Data(_, bytes) => format!("data {bytes:?}"),
            Event::DataHole(_, n) => format!("data hole {n}"),
            Event::DataEnd(_) => "data end".to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn client_flow() -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes.extend(frame(HEADERS, 4, 1, b"block"));
        bytes.extend(frame(DATA, END_STREAM | PADDED, 1, &[2, b'x', b'y', 0, 0]));
        bytes.extend(frame(PING, 0, 0, b"12345678"));
        bytes
    }

    #[test]
    fn c1_the_preface_may_be_split_and_frames_follow_it() {
        let bytes = client_flow();
        let whole = read(&mut FrameReader::at_start(LIMIT), &[Piece::Bytes(&bytes)]);
        assert_eq!(
            whole,
            [
                "Preface",
                "frame 4 0 []",
                "frame 1 1 [98, 108, 111, 99, 107]",
                "data start 1 of 5",
                "data [120, 121]",
                "data end",
                "frame 6 0 [49, 50, 51, 52, 53, 54, 55, 56]"
            ]
        );
        let single: Vec<Piece<'_>> = bytes.chunks(1).map(Piece::Bytes).collect();
        let cut = read(&mut FrameReader::at_start(LIMIT), &single);
        let joined: Vec<String> = cut.into_iter().filter(|line| !line.starts_with("data [")).collect();
        let expected: Vec<String> = whole.into_iter().filter(|line| !line.starts_with("data [")).collect();
        assert_eq!(joined, expected);
    }

    #[test]
    fn a_hole_inside_data_is_stepped_over() {
        let bytes = frame(DATA, 0, 3, &[7; 100]);
        let next = frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1]);
        let mut reader = FrameReader::at_start(LIMIT);
        read(&mut reader, &[Piece::Bytes(&frame(SETTINGS, 0, 0, &[]))]);
        let said = read(&mut reader, &[Piece::Bytes(&bytes[..12]), Piece::Hole(97), Piece::Bytes(&next)]);
        assert_eq!(
            said,
            ["data start 3 of 100", "data [7, 7, 7]", "data hole 97", "data end", "frame 8 3 [0, 0, 0, 1]"]
        );
    }

    #[test]
    fn c4_a_hole_past_the_frame_loses_the_boundary_until_frames_chain_again() {
        let mut reader = FrameReader::at_start(LIMIT);
        read(&mut reader, &[Piece::Bytes(&frame(SETTINGS, 0, 0, &[]))]);
        let mut chain = frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1]);
        chain.extend(frame(PING, 0, 0, b"12345678"));
        let said = read(
            &mut reader,
            &[
                Piece::Bytes(&frame(DATA, 0, 3, &[7; 100])[..12]),
                Piece::Hole(98),
                Piece::Bytes(b"no frame starts here"),
                Piece::Bytes(&chain),
            ],
        );
        assert_eq!(said[2..4], ["BoundaryLost", "BoundaryFound"]);
        assert_eq!(said[4], "frame 8 3 [0, 0, 0, 1]");
    }

    #[test]
    fn a_flow_that_starts_with_something_else_is_not_http2() {
        let start = |bytes: &[u8]| read(&mut FrameReader::at_start(LIMIT), &[Piece::Bytes(bytes)]);
        assert_eq!(start(b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"), ["NotHttp2"]);
        assert_eq!(start(b"GET / HTTP/1.1\r\n\r\n"), ["NotHttp2"]);
        assert_eq!(start(b"SET key 1\r\n"), ["NotHttp2"], "not even a head");
        assert_eq!(start(&frame(PING, 0, 0, b"12345678")), ["NotHttp2"]);
    }

    #[test]
    fn a_payload_above_the_limit_is_reported_as_partial() {
        let mut reader = FrameReader::at_start(16);
        let mut bytes = frame(SETTINGS, 0, 0, &[]);
        bytes.extend(frame(HEADERS, 4, 1, &[1; 100]));
        bytes.extend(frame(PING, 0, 0, b"12345678"));
        let said = read(&mut reader, &[Piece::Bytes(&bytes)]);
        assert!(said[1].starts_with("partial 1 1"), "{said:?}");
        assert!(said[2].starts_with("frame 6"), "{said:?}");
    }
}
