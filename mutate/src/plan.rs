//! What one replay does: from numbers to a part of a conversation and the damage that is done to it.

use std::ops::Range;

use crate::random::Random;
use crate::recording::Conversation;

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// Bytes in other pieces than they were sent in; nothing is missing.
    Pieces,
    /// Both flows begin at one moment, anywhere in a packet.
    FrontTogether,
    /// Each flow begins at a byte of its own.
    FrontEach,
    /// The flows end early.
    Tail,
    /// A piece of a flow is missing.
    Hole,
    /// Many small pieces are missing.
    SmallHoles,
    /// Holes that begin or end inside header blocks.
    HeaderHoles,
    /// Whole frames are missing.
    FrameHoles,
    /// One packet is lost.
    PacketLost,
    /// Many packets are lost.
    PacketsLost,
    /// All packets of a stretch are lost.
    StretchLost,
    /// Packets come again.
    PacketsRepeated,
    /// Packets come in another order.
    PacketsSwapped,
    /// Packets are captured to a certain length only.
    PacketsCut,
    /// The kernel side's view, whole.
    KernelWhole,
    /// The kernel side's view, joined late.
    KernelJoin,
    /// The kernel side's view, records of which are lost.
    KernelRecordsLost,
    /// The kernel side's view, of which all records of a stretch are lost.
    KernelStretchLost,
}

/// Where the damage is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// To the flows' bytes, which the core takes directly.
    Bytes,
    /// To packets, which take the way through TCP reassembly.
    Packets,
    /// To records, as the kernel side makes them.
    Kernel,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 18] = [
        Mutation::Pieces,
        Mutation::FrontTogether,
        Mutation::FrontEach,
        Mutation::Tail,
        Mutation::Hole,
        Mutation::SmallHoles,
        Mutation::HeaderHoles,
        Mutation::FrameHoles,
        Mutation::PacketLost,
        Mutation::PacketsLost,
        Mutation::StretchLost,
        Mutation::PacketsRepeated,
        Mutation::PacketsSwapped,
        Mutation::PacketsCut,
        Mutation::KernelWhole,
        Mutation::KernelJoin,
        Mutation::KernelRecordsLost,
        Mutation::KernelStretchLost,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mutation::Pieces => "pieces",
            Mutation::FrontTogether => "front_together",
            Mutation::FrontEach => "front_each",
            Mutation::Tail => "tail",
            Mutation::Hole => "hole",
            Mutation::SmallHoles => "small_holes",
            Mutation::HeaderHoles => "header_holes",
            Mutation::FrameHoles => "frame_holes",
            Mutation::PacketLost => "packet_lost",
            Mutation::PacketsLost => "packets_lost",
            Mutation::StretchLost => "stretch_lost",
            Mutation::PacketsRepeated => "packets_repeated",
            Mutation::PacketsSwapped => "packets_swapped",
            Mutation::PacketsCut => "packets_cut",
            Mutation::KernelWhole => "kernel_whole",
            Mutation::KernelJoin => "kernel_join",
            Mutation::KernelRecordsLost => "kernel_records_lost",
            Mutation::KernelStretchLost => "kernel_stretch_lost",
        }
    }

    /// Where it does its damage.
    #[must_use]
    pub fn view(self) -> View {
        match self {
            Mutation::Pieces
            | Mutation::FrontTogether
            | Mutation::FrontEach
            | Mutation::Tail
            | Mutation::Hole
            | Mutation::SmallHoles
            | Mutation::HeaderHoles
            | Mutation::FrameHoles => View::Bytes,
            Mutation::PacketLost
            | Mutation::PacketsLost
            | Mutation::StretchLost
            | Mutation::PacketsRepeated
            | Mutation::PacketsSwapped
            | Mutation::PacketsCut => View::Packets,
            Mutation::KernelWhole
            | Mutation::KernelJoin
            | Mutation::KernelRecordsLost
            | Mutation::KernelStretchLost => View::Kernel,
        }
    }

    /// It is a beginning in the middle by itself.
    fn is_front(self) -> bool {
        matches!(self, Mutation::FrontTogether | Mutation::FrontEach | Mutation::KernelJoin)
    }

    /// Nothing may be missing before it: it has to change nothing, but for what the window leaves out.
    fn is_harmless(self) -> bool {
        matches!(self, Mutation::Pieces | Mutation::KernelWhole | Mutation::PacketsRepeated)
    }
}

/// One replay.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Place of the conversation in the list.
    pub conversation: usize,
    /// What is done.
    pub mutation: Mutation,
    /// The part that is replayed: packets, or steps.
    pub window: Range<usize>,
    /// Numbers for the details of the damage.
    pub random: Random,
}

/// A conversation longer than this is seldom replayed as a whole.
const LONG: usize = 4_000;

/// Plans replay `index` of the run with `seed`.
#[must_use]
pub fn plan(conversations: &[Conversation], seed: u64, index: u64) -> Plan {
    let mut random = Random::new(seed, index);
    let mutation = Mutation::ALL[(index % Mutation::ALL.len() as u64) as usize];
    let conversation = choose(conversations, index / Mutation::ALL.len() as u64, &mut random);
    let count = match mutation.view() {
        View::Packets => conversations[conversation].packets.len(),
        View::Bytes | View::Kernel => conversations[conversation].steps.len(),
    };
    let late = mutation.is_front() || (!mutation.is_harmless() && random.once_in(2));
    let start = if late { random.below(count) } else { 0 };
    let whole = random.once_in(if count > LONG { 1_000 } else { 20 });
    let len = if whole { count } else { 8 + random.of_any_size(600) as usize };
    Plan { conversation, mutation, window: start..(start + len).min(count), random }
}

/// Each implementation of clients is as likely as any other, however many recordings there are of it.
fn choose(conversations: &[Conversation], turn: u64, random: &mut Random) -> usize {
    let mut clients: Vec<&str> = conversations.iter().map(|each| each.client.as_str()).collect();
    clients.sort_unstable();
    clients.dedup();
    let client = clients[(turn % clients.len().max(1) as u64) as usize];
    let of_client: Vec<usize> =
        (0..conversations.len()).filter(|at| conversations[*at].client == client).collect();
    of_client[random.below(of_client.len())]
}
