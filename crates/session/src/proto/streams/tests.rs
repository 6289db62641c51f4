use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn life(number: u8) -> Life {
    Life([number; 16])
}

/// The session in which they are.
const THREE: Members = Members::from_bits(0b111);

/// Two ends and what they hear.
struct Pair {
    ends: [Link; 2],
    heard: [Vec<Event>; 2],
}

impl Pair {
    fn new() -> Self {
        Self {
            ends: [
                Link::new(life(1), true, THREE),
                Link::new(life(2), false, THREE),
            ],
            heard: [Vec::new(), Vec::new()],
        }
    }

    fn met() -> Self {
        let mut pair = Self::new();
        pair.settle();
        assert_eq!(pair.heard, [vec![Event::Met], vec![Event::Met]]);
        pair.heard = [Vec::new(), Vec::new()];
        pair
    }

    /// Carries one message of `from`; `false` if it says nothing.
    fn carry(&mut self, from: usize) -> bool {
        let Some(message) = self.ends[from].message() else {
            return false;
        };
        let events = self.ends[1 - from].receive(&message).unwrap();
        self.heard[1 - from].extend(events);
        true
    }

    fn settle(&mut self) {
        while self.carry(0) | self.carry(1) {}
    }
}

fn frames(frames: &[Frame]) -> Bytes {
    let mut message = Vec::new();
    for frame in frames {
        frame.put(&mut message);
    }
    message.into()
}

#[test]
fn two_ends_meet_whoever_begins() {
    Pair::met();
    let mut pair = Pair::new();
    // All that one says comes before the other says anything.
    while pair.carry(1) {}
    pair.settle();
    assert!(pair.ends.iter().all(Link::is_met));
}

#[test]
fn what_an_earlier_run_left_means_nothing() {
    let mut earlier = Pair::met();
    let id = earlier.ends[0].open().unwrap();
    earlier.ends[0].send(id, Bytes::from_static(b"old"));
    let left = earlier.ends[0].message().unwrap();
    // Both begin anew; what lies in the channel comes first.
    let mut pair = Pair::new();
    pair.ends[0] = Link::new(life(3), true, THREE);
    pair.ends[1] = Link::new(life(4), false, THREE);
    assert_eq!(pair.ends[1].receive(&left), Ok(vec![]));
    pair.settle();
    assert_eq!(pair.heard, [vec![Event::Met], vec![Event::Met]]);
}

#[test]
fn who_begins_anew_is_noticed_and_what_it_left_means_nothing() {
    let mut pair = Pair::met();
    let id = pair.ends[0].open().unwrap();
    pair.settle();
    pair.ends[1].send(id, Bytes::from_static(b"before"));
    let left = pair.ends[1].message().unwrap();
    pair.ends[1] = Link::new(life(9), false, THREE);
    pair.heard = [Vec::new(), Vec::new()];
    // On its way before the restart.
    assert_eq!(pair.ends[0].receive(&left).unwrap().len(), 1);
    // Our words for the run that is gone do not reach the new one.
    pair.ends[0].send(id, Bytes::from_static(b"to nobody"));
    pair.settle();
    assert_eq!(pair.heard[0], [Event::Restarted, Event::Met]);
    assert_eq!(pair.heard[1], [Event::Met]);
    assert_eq!(pair.ends[0].room(id), None);
    assert_eq!(pair.ends[1].room(id), None);
}

#[test]
fn a_stream_of_an_earlier_life_is_none_of_a_later_one() {
    let mut pair = Pair::met();
    let before = pair.ends[1].open().unwrap();
    pair.settle();
    assert_eq!(pair.heard[0], [Event::Opened(before)]);
    let stale = pair.ends[0].id(before.number);
    pair.ends[1] = Link::new(life(9), false, THREE);
    pair.settle();
    let after = pair.ends[1].open().unwrap();
    assert_eq!(after.number, before.number);
    pair.settle();
    let fresh = pair.ends[0].id(after.number);
    assert_eq!(pair.heard[0].last(), Some(&Event::Opened(fresh)));
    // A task that has not ended yet does as it did.
    let end = &mut pair.ends[0];
    assert_eq!(end.room(stale), None);
    end.taken(stale, WINDOW);
    end.send(stale, Bytes::from_static(b"of before"));
    end.end(stale);
    end.reset(stale);
    assert_eq!(end.message(), None);
    assert_eq!(end.room(fresh), Some(WINDOW));
}

#[test]
fn a_message_is_bounded_and_of_one_life() {
    let hello = |number| Frame::Hello {
        life: life(number),
        named: life(1),
    };
    let message = frames(&[hello(7), Frame::Open(1)]);
    assert!(Pair::met().ends[0].receive(&message).is_ok());
    for lie in [
        &[hello(7), Frame::Open(1), hello(8), Frame::Open(1)][..],
        &[hello(7), hello(7)],
        &[Frame::Alive, hello(2)],
    ] {
        assert!(Pair::met().ends[0].receive(&frames(lie)).is_err());
        assert!(
            Link::new(life(1), true, THREE)
                .receive(&frames(lie))
                .is_err()
        );
    }
    let alive = |count| frames(&vec![Frame::Alive; count]);
    assert!(Pair::met().ends[0].receive(&alive(MESSAGE_MAX)).is_ok());
    assert!(
        Pair::met().ends[0]
            .receive(&alive(MESSAGE_MAX + 1))
            .is_err()
    );
}

#[test]
fn the_longest_message_is_taken() {
    let mut pair = Pair::met();
    let id = pair.ends[0].open().unwrap();
    pair.settle();
    // One byte less than would end the message, then a largest piece.
    for piece in [
        PIECE_MAX,
        PIECE_MAX,
        PIECE_MAX,
        PIECE_MAX - 4 * 9 - 1,
        PIECE_MAX,
    ] {
        pair.ends[0].send(id, vec![1; piece].into());
    }
    let message = pair.ends[0].message().unwrap();
    assert_eq!(message.len(), MESSAGE_MAX - 1);
    assert_eq!(pair.ends[0].message(), None);
    assert!(pair.ends[1].receive(&message).is_ok());
}

#[test]
fn bytes_come_in_order_and_both_directions_end_apart() {
    let mut pair = Pair::met();
    let id = pair.ends[1].open().unwrap();
    pair.ends[1].send(id, Bytes::from_static(b"one"));
    pair.ends[1].send(id, Bytes::from_static(b"two"));
    pair.ends[1].end(id);
    pair.settle();
    assert_eq!(
        pair.heard[0],
        [
            Event::Opened(id),
            Event::Data(id, Bytes::from_static(b"one")),
            Event::Data(id, Bytes::from_static(b"two")),
            Event::Ended(id)
        ]
    );
    // The other direction is still open.
    pair.ends[0].send(id, Bytes::from_static(b"answer"));
    pair.ends[0].end(id);
    pair.settle();
    assert_eq!(
        pair.heard[1],
        [
            Event::Data(id, Bytes::from_static(b"answer")),
            Event::Ended(id)
        ]
    );
    assert!(pair.ends.iter().all(|end| end.flows.is_empty()));
}

#[test]
fn a_stream_holds_what_its_reader_does_not_take() {
    let mut pair = Pair::met();
    let id = pair.ends[0].open().unwrap();
    let mut sent = 0;
    while let Some(room @ 1..) = pair.ends[0].room(id) {
        let piece = vec![7; room.min(PIECE_MAX)];
        sent += piece.len();
        pair.ends[0].send(id, piece.into());
    }
    assert_eq!(sent, WINDOW);
    pair.settle();
    pair.ends[1].taken(id, WINDOW);
    pair.settle();
    assert_eq!(pair.heard[0], [Event::Room(id)]);
    assert_eq!(pair.ends[0].room(id), Some(WINDOW));
}

#[test]
fn who_is_over_leaves_what_it_ended_readable() {
    let mut pair = Pair::met();
    let (ended, open) = (pair.ends[0].open().unwrap(), pair.ends[0].open().unwrap());
    pair.ends[0].send(ended, Bytes::from_static(b"last words"));
    pair.ends[0].end(ended);
    pair.ends[0].finish(Outcome::Done);
    pair.settle();
    assert_eq!(
        pair.heard[1][2..],
        [
            Event::Data(ended, Bytes::from_static(b"last words")),
            Event::Ended(ended),
            Event::Room(ended),
            Event::Broken(open),
            Event::Over(Outcome::Done)
        ]
    );
    // What the program here still says goes nowhere, and is no error.
    assert_eq!(pair.ends[1].room(ended), Some(PIECE_MAX));
    pair.ends[1].send(ended, Bytes::from_static(b"?"));
    pair.ends[1].end(ended);
    assert_eq!(pair.ends[1].message(), None);
    assert!(pair.ends[1].is_drained());
    assert_eq!(pair.ends[1].open(), None);
}

#[test]
fn who_leaves_before_the_program_here_had_ended_is_told_from_who_ends() {
    let left = |act: &dyn Fn(&mut Pair, StreamId)| {
        let mut pair = Pair::met();
        let id = pair.ends[1].open().unwrap();
        pair.settle();
        act(&mut pair, id);
        pair.settle();
        let left = pair.ends[0].has_left();
        assert!(!pair.ends[0].has_left());
        left
    };
    assert!(left(&|pair, id| pair.ends[1].reset(id)));
    assert!(left(&|pair, _| pair.ends[1].finish(Outcome::Done)));
    assert!(left(&|pair, id| {
        pair.ends[1].end(id);
        pair.ends[1].finish(Outcome::Done);
    }));
    // One direction has ended: the other may go on.
    assert!(!left(&|pair, id| pair.ends[1].end(id)));
    // The program here was the first.
    let ended_here = |pair: &mut Pair, id| pair.ends[0].end(id);
    assert!(!left(&|pair, id| {
        ended_here(pair, id);
        pair.ends[1].finish(Outcome::Done);
    }));
    assert!(!left(&|pair, id| {
        ended_here(pair, id);
        pair.ends[1].reset(id);
    }));
    assert!(!left(&|pair, id| pair.ends[0].reset(id)));
}

#[test]
fn lies_are_refused() {
    let refused = |lie: &[Frame]| {
        let mut pair = Pair::met();
        let own = pair.ends[0].open().unwrap();
        assert_eq!(own.number, 0);
        pair.settle();
        let heard = |frame: &Frame| pair.ends[0].receive(&frames(std::slice::from_ref(frame)));
        lie.iter().map(heard).any(|heard| heard.is_err())
    };
    let piece = |length: usize| Bytes::from(vec![0; length]);
    assert!(!refused(&[Frame::Data(0, piece(1)), Frame::End(0)]));
    assert!(!refused(&[Frame::Break(0), Frame::Data(0, piece(1))]));
    assert!(refused(&[Frame::Data(2, piece(1))]), "never opened by us");
    assert!(refused(&[Frame::Data(1, piece(1))]), "never opened by it");
    assert!(refused(&[Frame::Open(0)]), "ours to open");
    assert!(refused(&[Frame::Open(3)]), "out of turn");
    assert!(refused(&[Frame::Open(1), Frame::Open(1)]), "twice");
    assert!(refused(&[Frame::End(0), Frame::End(0)]), "two ends");
    assert!(refused(&[Frame::End(0), Frame::Data(0, piece(1))]));
    assert!(refused(&[Frame::Credit(0, 1)]), "more than the window");
    let mut flood = vec![Frame::Data(0, piece(PIECE_MAX)); WINDOW / PIECE_MAX];
    assert!(!refused(&flood));
    flood.push(Frame::Data(0, piece(1)));
    assert!(refused(&flood), "past the window");
    let open = |count: u32| {
        (0..count)
            .map(|i| Frame::Open(2 * i + 1))
            .collect::<Vec<_>>()
    };
    let most = u32::try_from(STREAMS_MAX).unwrap();
    assert!(!refused(&open(most)));
    assert!(refused(&open(most + 1)));
    let gave_up = |bits| [Frame::Over(Outcome::GaveUp(Members::from_bits(bits)))];
    assert!(!refused(&gave_up(0)), "the cause is its own");
    assert!(!refused(&gave_up(0b111)));
    assert!(refused(&gave_up(0b1000)), "there is no such party");
    assert!(refused(&gave_up(1 << 63 | 1)));
    for bytes in [
        &[8][..],
        &[7, 4],
        &[7, 3, 0],
        &[1, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let message = Bytes::copy_from_slice(bytes);
        assert!(Pair::met().ends[0].receive(&message).is_err());
    }
}

#[test]
fn streams_are_bounded() {
    let mut pair = Pair::met();
    let first = pair.ends[0].open().unwrap();
    for _ in 1..STREAMS_MAX {
        assert!(pair.ends[0].open().is_some());
    }
    assert_eq!(pair.ends[0].open(), None);
    pair.ends[0].reset(first);
    assert!(pair.ends[0].open().is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    Send(usize, u8, u16),
    End(usize, u8),
    Reset(usize, u8),
    Take(usize, u8),
    Carry(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0..2_usize;
    prop_oneof![
        1 => side.clone().prop_map(Step::Open),
        6 => (side.clone(), any::<u8>(), any::<u16>()).prop_map(|(s, i, n)| Step::Send(s, i, n)),
        1 => (side.clone(), any::<u8>()).prop_map(|(s, i)| Step::End(s, i)),
        1 => (side.clone(), any::<u8>()).prop_map(|(s, i)| Step::Reset(s, i)),
        4 => (side.clone(), any::<u8>()).prop_map(|(s, i)| Step::Take(s, i)),
        8 => side.prop_map(Step::Carry),
    ]
}

proptest! {
    /// Whatever two honest ends do in whatever order: neither ever calls the other a liar, and of each
    /// direction of each stream the other end hears a prefix of what was sent, all of it once it ended.
    #[test]
    fn honest_ends_agree(steps in prop::collection::vec(step(), 1..300)) {
        let mut pair = Pair::met();
        let mut next = 0_u8;
        let mut sent: BTreeMap<(usize, StreamId), Vec<u8>> = BTreeMap::new();
        let mut ended: Vec<(usize, StreamId)> = Vec::new();
        let pick = |end: &Link, i: u8| {
            let count = end.flows.len().max(1);
            let number = end.flows.keys().nth(usize::from(i) % count);
            number.map(|number| end.id(*number))
        };
        for step in steps {
            match step {
                Step::Open(s) => drop(pair.ends[s].open()),
                Step::Send(s, i, n) => {
                    let Some(id) = pick(&pair.ends[s], i) else { continue };
                    if pair.ends[s].flows[&id.number].ended_here {
                        continue;
                    }
                    let room = pair.ends[s].room(id).unwrap_or(0).min(usize::from(n));
                    if room > 0 {
                        next = next.wrapping_add(1);
                        sent.entry((s, id)).or_default().extend(vec![next; room]);
                        pair.ends[s].send(id, vec![next; room].into());
                    }
                }
                Step::End(s, i) => {
                    let Some(id) = pick(&pair.ends[s], i) else { continue };
                    if !pair.ends[s].flows[&id.number].ended_here {
                        pair.ends[s].end(id);
                        ended.push((s, id));
                    }
                }
                Step::Reset(s, i) => {
                    if let Some(id) = pick(&pair.ends[s], i) {
                        pair.ends[s].reset(id);
                    }
                }
                Step::Take(s, i) => {
                    let Some(id) = pick(&pair.ends[s], i) else { continue };
                    let flow = &pair.ends[s].flows[&id.number];
                    let count = WINDOW - flow.window - flow.taken;
                    pair.ends[s].taken(id, count);
                }
                Step::Carry(s) => drop(pair.carry(s)),
            }
        }
        pair.settle();
        for s in 0..2 {
            let mut got: BTreeMap<StreamId, Vec<u8>> = BTreeMap::new();
            for event in &pair.heard[1 - s] {
                if let Event::Data(id, piece) = event {
                    got.entry(*id).or_default().extend(piece);
                }
                if let Event::Ended(id) = event {
                    prop_assert!(ended.contains(&(s, *id)));
                    prop_assert_eq!(got.get(id), sent.get(&(s, *id)));
                }
            }
            for (id, bytes) in got {
                prop_assert!(sent[&(s, id)].starts_with(&bytes));
            }
        }
    }
}
