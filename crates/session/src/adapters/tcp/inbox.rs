//! What came for a stream and is not taken yet.

use std::{collections::VecDeque, task::Poll};

use crate::proto::streams::PIECE_MAX;

/// What comes for a stream, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    Data(Vec<u8>),
    End,
    Break,
}

/// Bytes of a stream, and how it ended. It holds as many as came and no more: a byte that came in a message of its own,
/// or in a long one, costs no more than others.
#[derive(Default)]
pub(super) struct Inbox {
    /// Each but the last is [`PIECE_MAX`] long.
    pieces: VecDeque<Vec<u8>>,
    last: Option<Last>,
}

#[derive(Clone, Copy)]
enum Last {
    End,
    Break,
}

impl Inbox {
    pub(super) fn fill(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.pieces.back_mut().filter(|last| last.len() < PIECE_MAX) {
                None => self.pieces.push_back(Vec::new()),
                Some(last) => {
                    let (now, later) = bytes.split_at(bytes.len().min(PIECE_MAX - last.len()));
                    last.extend_from_slice(now);
                    bytes = later;
                }
            }
        }
    }

    /// No more bytes come.
    pub(super) fn end(&mut self) {
        self.last = Some(Last::End);
    }

    /// Nothing comes, and nobody hears us.
    pub(super) fn break_off(&mut self) {
        self.last = Some(Last::Break);
    }

    /// The first bytes, once they are here; `None` if fewer come. They stay.
    pub(super) fn head<const N: usize>(&self) -> Poll<Option<[u8; N]>> {
        // A piece is filled before the next one begins.
        let head = self.pieces.front().and_then(|piece| piece.first_chunk());
        match (head, self.last) {
            (Some(head), _) => Poll::Ready(Some(*head)),
            (None, Some(_)) => Poll::Ready(None),
            (None, None) => Poll::Pending,
        }
    }

    /// What is next, if it is here.
    pub(super) fn next(&mut self) -> Option<Inbound> {
        let last = || {
            Some(match self.last? {
                Last::End => Inbound::End,
                Last::Break => Inbound::Break,
            })
        };
        self.pieces.pop_front().map(Inbound::Data).or_else(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::tcp::WINDOW;

    #[test]
    fn single_bytes_cost_no_more_than_long_pieces() {
        let mut inbox = Inbox::default();
        for count in 0..WINDOW {
            inbox.fill(&[count as u8]);
        }
        let held: usize = inbox.pieces.iter().map(Vec::capacity).sum();
        assert!(held <= WINDOW + PIECE_MAX, "{held}");
        assert_eq!(inbox.pieces.len(), WINDOW / PIECE_MAX);
        let mut bytes = Vec::new();
        while let Some(Inbound::Data(piece)) = inbox.next() {
            bytes.extend(piece);
        }
        assert!(bytes == (0..WINDOW).map(|count| count as u8).collect::<Vec<_>>());
    }

    #[test]
    fn the_head_is_seen_when_it_is_whole_and_stays() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.head::<2>(), Poll::Pending);
        inbox.fill(b"a");
        assert_eq!(inbox.head::<2>(), Poll::Pending);
        let mut short = Inbox::default();
        short.fill(b"a");
        short.end();
        assert_eq!(short.head::<2>(), Poll::Ready(None));
        inbox.fill(b"bc");
        inbox.end();
        assert_eq!(inbox.head(), Poll::Ready(Some(*b"ab")));
        assert_eq!(inbox.next(), Some(Inbound::Data(b"abc".to_vec())));
    }

    #[test]
    fn bytes_come_before_the_end() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.next(), None);
        let long: Vec<u8> = (0..PIECE_MAX + 3).map(|count| count as u8).collect();
        inbox.fill(&long);
        inbox.fill(b"x");
        inbox.end();
        assert_eq!(
            inbox.next(),
            Some(Inbound::Data(long[..PIECE_MAX].to_vec()))
        );
        assert_eq!(
            inbox.next(),
            Some(Inbound::Data([&long[PIECE_MAX..], b"x"].concat()))
        );
        assert_eq!(inbox.next(), Some(Inbound::End));
        inbox.break_off();
        assert_eq!(inbox.next(), Some(Inbound::Break));
    }
}
