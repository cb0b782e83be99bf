//! Damage to packets, which then take the way through TCP reassembly: lost, repeated, swapped, cut short.

use agent::capture::recording::Packet;

use crate::plan::{Mutation, Plan};
use crate::random::Random;
use crate::recording::{Conversation, RecordedPacket};
use crate::replay::{self, Sent, Watch};

/// Packets further apart than this are not swapped: a deadline may lie between them.
pub const SWAPPED_WITHIN_NS: u64 = 100_000;

/// Replays what the plan leaves.
#[must_use]
pub fn replay(conversation: &Conversation, plan: &Plan) -> Watch {
    let mut random = plan.random.clone();
    let recorded = &conversation.packets[plan.window.clone()];
    replay::packets(damage(recorded, plan.mutation, &mut random))
}

fn damage<'a>(recorded: &'a [RecordedPacket], mutation: Mutation, random: &mut Random) -> Vec<Sent<'a>> {
    let seen = |packet: &'a RecordedPacket| Sent::Seen(packet.packet(), packet.sender);
    let lose = |is_lost: &mut dyn FnMut(usize) -> bool| -> Vec<Sent<'a>> {
        let packets = recorded.iter().enumerate();
        packets.map(|(at, packet)| if is_lost(at) { Sent::Lost(packet) } else { seen(packet) }).collect()
    };
    match mutation {
        Mutation::PacketLost => {
            let lost = random.below(recorded.len());
            lose(&mut |at| at == lost)
        }
        Mutation::PacketsLost => {
            let share = random.between(3, 200) as usize;
            lose(&mut |_| random.once_in(share))
        }
        Mutation::StretchLost => {
            let from = random.below(recorded.len());
            let lost = from..from + random.of_any_size(60) as usize;
            lose(&mut |at| lost.contains(&at))
        }
        Mutation::PacketsRepeated => {
            let share = random.between(2, 30) as usize;
            let times = |random: &mut Random| if random.once_in(share) { 2 } else { 1 };
            recorded.iter().flat_map(|packet| std::iter::repeat_n(seen(packet), times(random))).collect()
        }
        Mutation::PacketsSwapped => swap(recorded, random),
        Mutation::PacketsCut => {
            let snap_bytes = 54 + random.of_any_size(1_500) as usize;
            let cut = |packet: &'a RecordedPacket| {
                let data = &packet.data[..packet.data.len().min(snap_bytes)];
                Sent::Seen(Packet { data, ..packet.packet() }, packet.sender)
            };
            recorded.iter().map(cut).collect()
        }
        // Damage of the other views.
        _ => recorded.iter().map(seen).collect(),
    }
}

/// Packets of one end, so close that no deadline lies between them; the recording's clock goes on.
fn swap<'a>(recorded: &'a [RecordedPacket], random: &mut Random) -> Vec<Sent<'a>> {
    let share = random.between(1, 20) as usize;
    let mut order: Vec<usize> = (0..recorded.len()).collect();
    for at in 1..order.len() {
        let (one, other) = (&recorded[order[at - 1]], &recorded[order[at]]);
        let close = other.time.0.abs_diff(one.time.0) < SWAPPED_WITHIN_NS;
        if close && one.sender == other.sender && random.once_in(share) {
            order.swap(at - 1, at);
        }
    }
    let sent = |(at, from): (usize, &usize)| {
        Sent::Seen(Packet { time: recorded[at].time, ..recorded[*from].packet() }, recorded[*from].sender)
    };
    order.iter().enumerate().map(sent).collect()
}
