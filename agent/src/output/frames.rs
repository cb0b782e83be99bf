//! Keeps frames in the order in which they were captured until it is known who sent them.
//!
//! The first frames of a connection that was joined late, or of a server that speaks first, are seen before
//! anything tells which end is the client.

use std::collections::{HashSet, VecDeque};

use agent_core::observation::FrameSeen;
use agent_core::{ConnectionId, Flow};

/// Frames that wait at most; when there are more the oldest goes with its direction unknown.
const WAITING_MAX: usize = 4_096;

/// Frames on their way to the output.
#[derive(Debug, Default)]
pub struct FrameQueue {
    waiting: VecDeque<Waiting>,
    /// Connections with frames among them whose sender is not known.
    undecided: HashSet<ConnectionId, foldhash::quality::RandomState>,
}

#[derive(Debug)]
struct Waiting {
    frame: Box<FrameSeen>,
    given_up: bool,
}

impl FrameQueue {
    /// Takes the next frame.
    pub fn push(&mut self, frame: Box<FrameSeen>) {
        match frame.from_client {
            Some(true) => self.learn(frame.connection, frame.flow),
            Some(false) => self.learn(frame.connection, frame.flow.opposite()),
            None => {
                self.undecided.insert(frame.connection);
            }
        }
        self.waiting.push_back(Waiting { frame, given_up: false });
    }

    /// It is known now that the client of `connection` sends in `client_flow`.
    pub fn learn(&mut self, connection: ConnectionId, client_flow: Flow) {
        self.decide(connection, |waiting| {
            waiting.frame.from_client = Some(waiting.frame.flow == client_flow)
        });
    }

    /// It will never be known who is the client of `connection`.
    pub fn give_up(&mut self, connection: ConnectionId) {
        self.decide(connection, |waiting| waiting.given_up = true);
    }

    /// The next frame that need not wait any more.
    pub fn pop(&mut self) -> Option<Box<FrameSeen>> {
        let first = self.waiting.front()?;
        let goes = first.frame.from_client.is_some() || first.given_up || self.waiting.len() > WAITING_MAX;
        goes.then(|| self.waiting.pop_front())?.map(|waiting| waiting.frame)
    }

    fn decide(&mut self, connection: ConnectionId, decision: impl Fn(&mut Waiting)) {
        if self.undecided.remove(&connection) {
            let of_it = |waiting: &&mut Waiting| {
                waiting.frame.connection == connection && waiting.frame.from_client.is_none()
            };
            self.waiting.iter_mut().filter(of_it).for_each(decision);
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_core::Timestamp;

    use super::*;

    fn frame(connection: u64, flow: Flow, from_client: Option<bool>, stream: u32) -> Box<FrameSeen> {
        Box::new(FrameSeen {
            connection: ConnectionId(connection),
            flow,
            from_client,
            time: Timestamp(0),
            frame_type: 0,
            flags: 0,
            stream,
            length: 0,
            settings: None,
            increment: None,
            windows: None,
            code: None,
            headers: None,
            hpack_error: None,
        })
    }

    fn popped(queue: &mut FrameQueue) -> Vec<(u32, Option<bool>)> {
        std::iter::from_fn(|| queue.pop()).map(|frame| (frame.stream, frame.from_client)).collect()
    }

    #[test]
    fn frames_wait_for_their_direction_and_keep_their_order() {
        let mut queue = FrameQueue::default();
        queue.push(frame(0, Flow::Sent, None, 1));
        queue.push(frame(1, Flow::Sent, Some(true), 2));
        queue.push(frame(0, Flow::Received, None, 3));
        assert_eq!(popped(&mut queue), []);
        queue.push(frame(0, Flow::Received, Some(true), 4));
        assert_eq!(popped(&mut queue), [(1, Some(false)), (2, Some(true)), (3, Some(true)), (4, Some(true))]);
    }

    #[test]
    fn what_is_learned_beside_the_frames_is_enough() {
        let mut queue = FrameQueue::default();
        queue.push(frame(0, Flow::Sent, None, 1));
        queue.learn(ConnectionId(0), Flow::Received);
        assert_eq!(popped(&mut queue), [(1, Some(false))]);
    }

    #[test]
    fn a_connection_that_ends_without_an_answer_holds_nobody_up() {
        let mut queue = FrameQueue::default();
        queue.push(frame(0, Flow::Sent, None, 1));
        queue.push(frame(1, Flow::Sent, Some(false), 2));
        queue.give_up(ConnectionId(0));
        assert_eq!(popped(&mut queue), [(1, None), (2, Some(false))]);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = FrameQueue::default();
        for stream in 0..=WAITING_MAX as u32 {
            queue.push(frame(0, Flow::Sent, None, stream));
        }
        assert_eq!(popped(&mut queue), [(0, None)]);
    }
}
