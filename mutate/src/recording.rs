//! A recording, loaded once: its connections, each with its packets, its flows, its frames, and what is said of its
//! calls when nothing is missing.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use agent::capture::recording::dissect::dissect;
use agent::capture::recording::{Container, Event, Packet, Tracker, source};
use agent_core::observation::{Call, FrameSeen};
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Observer, Timestamp};
use anyhow::Context as _;

use crate::replay;

/// One TCP connection of a recording that speaks gRPC.
#[derive(Debug)]
pub struct Conversation {
    /// The recording's name, and the connection's number in it if it holds several.
    pub name: String,
    /// Which implementation its client is, by its user agent.
    pub client: String,
    /// Its packets.
    pub packets: Vec<RecordedPacket>,
    /// What TCP reassembly makes of them.
    pub steps: Vec<Step>,
    /// The frames of its flows (sent, received); none of a flow that was not seen from its start or has holes.
    pub frames: [Vec<Frame>; 2],
    /// What is said of its calls when nothing is missing, by stream.
    pub reference: BTreeMap<u32, Call>,
    octets: [Vec<u8>; 2],
}

/// A packet.
#[derive(Clone, Debug)]
pub struct RecordedPacket {
    /// When it was captured.
    pub time: Timestamp,
    /// LINKTYPE_ number.
    pub link_type: u16,
    /// What was captured of it.
    pub data: Vec<u8>,
    /// How long it was.
    pub original_bytes: u32,
    /// Which end sent it: a name that is the same for all its packets.
    pub sender: Flow,
    /// Octets of TCP data in it.
    pub payload_bytes: u32,
}

impl RecordedPacket {
    /// As the tracker takes it.
    #[must_use]
    pub fn packet(&self) -> Packet<'_> {
        Packet {
            time: self.time,
            link_type: self.link_type,
            data: &self.data,
            original_bytes: self.original_bytes,
        }
    }
}

/// What happened to a connection, in order.
#[derive(Clone, Debug)]
pub enum Step {
    /// Bytes of a flow. One step is what one packet carried, which is close to what one call of the socket wrote.
    Bytes {
        /// The flow.
        flow: Flow,
        /// Place of the first one in the flow.
        offset: u64,
        /// Where they are, see [`Conversation::bytes`].
        at: Range<usize>,
        /// When.
        time: Timestamp,
    },
    /// A flow carries nothing more.
    Closed(Timestamp),
    /// Neither does.
    Ended(Timestamp),
}

impl Step {
    /// When it happened.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        match self {
            Step::Bytes { time, .. } | Step::Closed(time) | Step::Ended(time) => *time,
        }
    }
}

/// A frame in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where its header begins.
    pub offset: u64,
    /// Where its payload ends.
    pub end: u64,
    /// Type (RFC 9113 §6).
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream id.
    pub stream: u32,
}

/// Octets of a frame header.
pub const FRAME_HEADER_BYTES: u64 = 9;
/// Octets of the client's preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The place of a flow in arrays.
#[must_use]
pub fn index(flow: Flow) -> usize {
    usize::from(flow == Flow::Received)
}

/// The two flows, in the order of arrays.
pub const FLOWS: [Flow; 2] = [Flow::Sent, Flow::Received];

impl Conversation {
    /// The octets of a [`Step::Bytes`].
    #[must_use]
    pub fn bytes(&self, flow: Flow, at: &Range<usize>) -> &[u8] {
        &self.octets[index(flow)][at.clone()]
    }

    fn load(name: String, mut packets: Vec<RecordedPacket>) -> Conversation {
        // A reassembly of its own tells which flow is which: the first packet's sender's is `Sent`.
        let first = packets.first().map(|packet| packet.sender);
        for packet in &mut packets {
            packet.sender = if Some(packet.sender) == first { Flow::Sent } else { Flow::Received };
        }
        let mut conversation = Conversation {
            name,
            client: client_of(&packets),
            steps: Vec::new(),
            frames: [Vec::new(), Vec::new()],
            reference: replay::whole(&packets)
                .calls
                .into_iter()
                .map(|reported| (reported.call.stream, reported.call))
                .collect(),
            octets: [Vec::new(), Vec::new()],
            packets: Vec::new(),
        };
        let mut tracker = Tracker::new(0);
        for packet in &packets {
            tracker.handle_packet(&packet.packet(), &mut |event| conversation.take(&event));
        }
        tracker.finish(&mut |event| conversation.take(&event));
        conversation.packets = packets;
        conversation.frames = FLOWS.map(|flow| conversation.frames_of(flow));
        conversation
    }

    fn take(&mut self, event: &Event<'_>) {
        match *event {
            Event::Chunk(Chunk { flow, offset, time, bytes, .. }) => {
                let octets = &mut self.octets[index(flow)];
                let at = octets.len();
                octets.extend_from_slice(bytes);
                self.steps.push(Step::Bytes { flow, offset, at: at..octets.len(), time });
            }
            Event::Closed { time, .. } => self.steps.push(Step::Closed(time)),
            Event::Ended { time, .. } => self.steps.push(Step::Ended(time)),
            Event::Opened { .. } | Event::Updated { .. } => {}
        }
    }

    /// The frames of a flow that was seen from its start and without holes.
    fn frames_of(&self, of: Flow) -> Vec<Frame> {
        let mut next = 0;
        for step in &self.steps {
            if let Step::Bytes { flow, offset, at, .. } = step
                && *flow == of
            {
                if *offset != next {
                    return Vec::new();
                }
                next += at.len() as u64;
            }
        }
        let octets = &self.octets[index(of)];
        let mut at = if octets.starts_with(PREFACE) { PREFACE.len() } else { 0 };
        let mut frames = Vec::new();
        while let Some(&[l0, l1, l2, kind, flags, s0, s1, s2, s3]) =
            octets.get(at..).and_then(|rest| rest.first_chunk())
        {
            let length = u64::from(u32::from_be_bytes([0, l0, l1, l2]));
            let offset = at as u64;
            let end = offset + FRAME_HEADER_BYTES + length;
            frames.push(Frame { offset, end, kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) });
            at = end as usize;
        }
        frames
    }
}

/// Loads the connections of a recording that speak gRPC.
///
/// # Errors
/// It cannot be read to its end.
pub fn load(path: &Path) -> anyhow::Result<Vec<Conversation>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let input = source::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut container = Container::open(input).with_context(|| format!("read {}", path.display()))?;
    let mut tracker = Tracker::new(0);
    // Of which connection the packets between two ends are just now.
    let mut current = HashMap::new();
    let mut packets: Vec<Vec<RecordedPacket>> = Vec::new();
    while let Some(packet) = container.next_packet().with_context(|| format!("read {}", path.display()))? {
        let mut opened = false;
        tracker.handle_packet(&packet, &mut |event| opened |= matches!(event, Event::Opened { .. }));
        let Ok(segment) = dissect(&packet) else { continue };
        let (low, high) = (segment.source.min(segment.destination), segment.source.max(segment.destination));
        if opened {
            current.insert((low, high), packets.len());
            packets.push(Vec::new());
        }
        let Some(of) = current.get(&(low, high)).and_then(|at| packets.get_mut(*at)) else { continue };
        of.push(RecordedPacket {
            time: packet.time,
            link_type: packet.link_type,
            data: packet.data.to_vec(),
            original_bytes: packet.original_bytes,
            sender: if segment.source == low { Flow::Sent } else { Flow::Received },
            payload_bytes: segment.wire_bytes,
        });
    }
    let several = packets.len() > 1;
    let conversations = packets.into_iter().enumerate().map(|(number, packets)| {
        Conversation::load(if several { format!("{name}#{number}") } else { name.clone() }, packets)
    });
    Ok(conversations.filter(|conversation| !conversation.reference.is_empty()).collect())
}

/// The name of a client, by its user agent.
fn client_of(packets: &[RecordedPacket]) -> String {
    let mut observer = Observer::new(Limits::default());
    observer.trace_frames(true);
    let mut tracker = Tracker::new(0);
    let mut client = None;
    for packet in packets {
        tracker.handle_packet(&packet.packet(), &mut |event| {
            if let Event::Chunk(chunk) = event {
                observer.handle_chunk(Chunk { connection: ConnectionId(0), ..chunk });
            }
        });
        while let Some(observation) = observer.poll_observation() {
            if let Observation::Frame(frame) = observation {
                client = client.or_else(|| user_agent(&frame).map(|agent| implementation(&agent)));
            }
        }
        if let Some(client) = client {
            return client.to_owned();
        }
    }
    "unknown".to_owned()
}

fn user_agent(frame: &FrameSeen) -> Option<Vec<u8>> {
    let is_it = |name: &Option<Vec<u8>>| name.as_deref() == Some(b"user-agent");
    frame.headers.as_ref()?.iter().find(|(name, _)| is_it(name))?.1.clone()
}

/// Which implementation sends this user agent (checklist G13).
fn implementation(user_agent: &[u8]) -> &'static str {
    const KNOWN: [(&[u8], &str); 7] = [
        (b"grpc-python/", "grpcio"),
        (b"grpc-node-js/", "grpc-js"),
        (b"grpc-go/", "grpc-go"),
        (b"tonic/", "tonic"),
        (b"grpc-java", "grpc-java"),
        (b"grpc-c++/", "grpc-c++"),
        (b"grpc-dotnet/", "grpc-dotnet"),
    ];
    let contains = |needle: &[u8]| user_agent.windows(needle.len()).any(|window| window == needle);
    KNOWN.iter().find(|(needle, _)| contains(needle)).map_or("other", |(_, name)| *name)
}
