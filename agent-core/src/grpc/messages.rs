//! Counts length-prefixed messages in the DATA of one direction of a stream (checklist G3).
//!
//! A message is an octet of flags, four octets of length, and the message. Prefix and message may be cut
//! anywhere. Bodies may be holes; a hole that takes a part of a prefix ends what can be counted exactly.

use crate::observation::Messages;

const PREFIX_LEN: usize = 5;

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many octets of the prefix were seen; the length so far.
    Prefix { have: u8, length: u32 },
    /// So many octets of the body are to come.
    Body { length: u32, remaining: u32 },
    /// The position of the next prefix is not known.
    Lost,
}

/// Counts the messages of one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageCounter {
    state: State,
    count: u64,
    bytes: u64,
    well_formed: bool,
}

impl MessageCounter {
    /// A direction seen from its first byte.
    pub(crate) fn new() -> MessageCounter {
        MessageCounter { state: State::Prefix { have: 0, length: 0 }, count: 0, bytes: 0, well_formed: true }
    }

    /// A direction joined in the middle: where the next message begins is not known.
    pub(crate) fn joined_late() -> MessageCounter {
        MessageCounter { state: State::Lost, ..MessageCounter::new() }
    }

    /// Payload bytes of DATA.
    pub(crate) fn handle_bytes(&mut self, mut bytes: &[u8]) {
        loop {
            match self.state {
                State::Lost => return,
                State::Body { length, remaining } => {
                    let n = (remaining as usize).min(bytes.len());
                    bytes = bytes.get(n..).unwrap_or_default();
                    self.advance_body(length, remaining - n as u32);
                    if bytes.is_empty() {
                        return;
                    }
                }
                State::Prefix { have: 0, .. } if bytes.len() >= PREFIX_LEN => {
                    let Some(([flags, l0, l1, l2, l3], rest)) = bytes.split_first_chunk::<PREFIX_LEN>()
                    else {
                        return;
                    };
                    self.well_formed &= *flags <= 1;
                    bytes = rest;
                    let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]);
                    self.advance_body(length, length);
                }
                State::Prefix { have, length } => {
                    let Some((octet, rest)) = bytes.split_first() else { return };
                    bytes = rest;
                    if have == 0 {
                        self.well_formed &= *octet <= 1;
                        self.state = State::Prefix { have: 1, length: 0 };
                    } else {
                        let length = length << 8 | u32::from(*octet);
                        if usize::from(have) + 1 < PREFIX_LEN {
                            self.state = State::Prefix { have: have + 1, length };
                        } else {
                            self.advance_body(length, length);
                        }
                    }
                }
            }
        }
    }

    /// Payload bytes of DATA that were not seen.
    pub(crate) fn handle_hole(&mut self, len: u64) {
        self.state = match self.state {
            State::Body { length, remaining } if len <= u64::from(remaining) => {
                return self.advance_body(length, remaining - len as u32);
            }
            unchanged @ State::Prefix { .. } if len == 0 => unchanged,
            State::Body { .. } | State::Prefix { .. } | State::Lost => State::Lost,
        };
    }

    /// Bytes that may have held DATA of this direction are missing.
    pub(crate) fn handle_loss(&mut self) {
        self.state = State::Lost;
    }

    /// What was counted.
    pub(crate) fn messages(&self) -> Messages {
        Messages { count: self.count, bytes: self.bytes, exact: !matches!(self.state, State::Lost) }
    }

    /// At least one message, and all of them well-formed: what gRPC looks like, also when it is cut short.
    pub(crate) fn looks_like_grpc(&self) -> bool {
        self.well_formed && self.count > 0
    }

    /// A message has begun and is not complete.
    pub(crate) fn is_inside_a_message(&self) -> bool {
        match self.state {
            State::Prefix { have, .. } => have > 0,
            State::Body { .. } => true,
            State::Lost => false,
        }
    }

    /// Nothing was seen.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && matches!(self.state, State::Prefix { have: 0, .. })
    }

    fn advance_body(&mut self, length: u32, remaining: u32) {
        self.state = if remaining == 0 {
            self.count += 1;
            self.bytes = self.bytes.saturating_add(u64::from(length));
            State::Prefix { have: 0, length: 0 }
        } else {
            State::Body { length, remaining }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_messages() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, 3, 1, 2, 3];
        bytes.extend([0, 0, 0, 0, 0]);
        bytes.extend([1, 0, 0, 1, 0]);
        bytes.extend([9; 256]);
        bytes
    }

    #[test]
    fn g3_messages_are_counted_however_they_are_cut() {
        let bytes = three_messages();
        for size in 1..bytes.len() {
            let mut counter = MessageCounter::new();
            for part in bytes.chunks(size) {
                counter.handle_bytes(part);
            }
            assert_eq!(counter.messages(), Messages { count: 3, bytes: 259, exact: true }, "cut at {size}");
            assert!(counter.looks_like_grpc());
        }
    }

    #[test]
    fn g3_a_hole_in_a_body_changes_nothing_and_one_in_a_prefix_is_owned_up_to() {
        let bytes = three_messages();
        let mut counter = MessageCounter::new();
        counter.handle_bytes(&bytes[..6]);
        counter.handle_hole(2);
        counter.handle_bytes(&bytes[8..18]);
        counter.handle_hole(256);
        assert_eq!(counter.messages(), Messages { count: 3, bytes: 259, exact: true });

        let mut counter = MessageCounter::new();
        counter.handle_bytes(&bytes[..8]);
        counter.handle_hole(1);
        counter.handle_bytes(&bytes[9..]);
        assert_eq!(counter.messages(), Messages { count: 1, bytes: 3, exact: false });
    }

    #[test]
    fn g3_a_message_that_is_not_complete_is_not_counted() {
        let mut counter = MessageCounter::new();
        counter.handle_bytes(&[0, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(counter.messages(), Messages { count: 0, bytes: 0, exact: true });
        assert!(!counter.is_empty());
        assert!(!counter.looks_like_grpc());
    }
}
