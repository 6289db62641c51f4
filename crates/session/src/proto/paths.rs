//! One sequence of messages between two parties, over more ways than one (`docs/spec/session.md` §13).
//!
//! What two parties say to each other goes over queues, and over direct paths as long as there are any. Each message has
//! a number then: what went over a path and was not acknowledged goes once more over the next way, and whoever has it
//! already passes over it.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    streams::{Life, MESSAGE_MAX},
    wire::{Malformed, Put, Reader},
};

/// Label of the channel on which parties say how they are reached. The number at its end is the version of this format.
pub(crate) const LABEL: &str = "junto paths 1";
/// Label of the channel on which parties say which ways they want, where others have to know. The number at its end is the
/// version of this format.
pub(crate) const WISH_LABEL: &str = "junto wish 1";
/// Addresses at which one party says that it is reached.
pub const PLACES_MAX: usize = 16;
/// Numbers that may be under way beyond what was acknowledged.
pub(crate) const AHEAD_MAX: u64 = 1024;
/// Bytes under way on a direct path beyond what was acknowledged; a last message may go beyond.
pub(crate) const AHEAD_BYTES: usize = 8 * 1024 * 1024;
/// Longest packet, bytes.
pub(crate) const PACKET_MAX: usize = HEAD + MESSAGE_MAX;
/// After so many messages or bytes the other end hears at once what has come.
const OWED_MAX: u64 = 64;
const OWED_BYTES: usize = 256 * 1024;

/// First bytes of packets: none of a message that has no number begins so.
const NUMBERED: u8 = 0x80;
const TAKEN: u8 = 0x81;
/// Bytes of a numbered packet before its message.
const HEAD: usize = 17;
/// What no numbered message begins with: lives begin outside of any sequence.
const HELLO: u8 = 0;

/// How one end of a direct path is reached, as it tells one party.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Contact {
    /// Its public key for this run.
    #[zeroize(skip)]
    pub key: [u8; 32],
    /// Who does not know this word is not heard. For that party alone.
    pub word: [u8; 32],
    /// Where, at most [`PLACES_MAX`].
    #[zeroize(skip)]
    pub places: Vec<SocketAddr>,
}

/// A contact, and the two lives between which it holds.
pub(crate) struct Offer {
    pub(crate) life: Life,
    pub(crate) named: Life,
    pub(crate) contact: Contact,
}

impl Offer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let places = &self.contact.places[..self.contact.places.len().min(PLACES_MAX)];
        out.put(&self.life.0).put(&self.named.0);
        out.put(&self.contact.key).put(&self.contact.word);
        out.put_u8(places.len() as u8);
        for place in places {
            match place.ip() {
                IpAddr::V4(ip) => out.put_u8(4).put(&ip.octets()),
                IpAddr::V6(ip) => out.put_u8(6).put(&ip.octets()),
            };
            out.put_u16(place.port());
        }
        out
    }

    /// # Errors
    /// [`Malformed`], also for places that nobody can be at.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("offer of a direct path", bytes);
        let (life, named) = (Life(reader.array()?), Life(reader.array()?));
        let (key, word) = (reader.array()?, reader.array()?);
        let count = usize::from(reader.u8()?);
        let mut places = Vec::new();
        for _ in 0..count {
            let ip = match reader.u8()? {
                4 => IpAddr::from(reader.array::<4>()?),
                6 => IpAddr::from(reader.array::<16>()?),
                _ => return Err(reader.malformed()),
            };
            let place = SocketAddr::new(ip, reader.u16()?);
            let nowhere = ip.is_unspecified() || ip.is_multicast() || place.port() == 0;
            let twice = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
            if nowhere || twice || count > PLACES_MAX || places.contains(&place) {
                return Err(reader.malformed());
            }
            places.push(place);
        }
        reader.finish()?;
        let contact = Contact { key, word, places };
        Ok(Self {
            life,
            named,
            contact,
        })
    }
}

/// What a party wants, so that another one may not meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// No direct paths.
    RelayOnly,
    /// Direct paths alone.
    DirectOnly,
}

/// A wish, and the life of whose party it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) life: Life,
    pub(crate) wish: Wish,
}

impl Told {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put(&self.life.0).put_u8(match self.wish {
            Wish::RelayOnly => 0,
            Wish::DirectOnly => 1,
        });
        out
    }

    /// # Errors
    /// [`Malformed`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("wish about paths", bytes);
        let life = Life(reader.array()?);
        let wish = match reader.u8()? {
            0 => Wish::RelayOnly,
            1 => Wish::DirectOnly,
            _ => return Err(reader.malformed()),
        };
        reader.finish()?;
        Ok(Self { life, wish })
    }
}

/// One party's end of the sequences with another, in one pair of lives.
#[derive(Default)]
pub(crate) struct Sequence {
    /// Number of the next message that we send.
    next: u64,
    /// All below it have come at the other end.
    acknowledged: u64,
    /// What went over a direct path and may be lost, in order.
    under_way: VecDeque<(u64, Bytes)>,
    /// Lengths of what went over a direct path and is not acknowledged, in order, and their sum. The other end may hold all
    /// of it, also what a queue has taken since.
    lengths: VecDeque<(u64, usize)>,
    bytes: usize,
    /// Number of the next message for our program.
    expected: u64,
    /// What came before those that precede it.
    held: BTreeMap<u64, Bytes>,
    held_bytes: usize,
    /// What the other end has heard of `expected`.
    told: u64,
    owed_bytes: usize,
}

impl Sequence {
    /// Whether another message may go over a direct path.
    pub(crate) fn has_room(&self) -> bool {
        self.next - self.acknowledged < AHEAD_MAX && self.bytes < AHEAD_BYTES
    }

    /// The next packet. It stays under way until it is acknowledged if it may be lost.
    pub(crate) fn send(&mut self, message: Bytes, may_be_lost: bool) -> Bytes {
        let number = self.next;
        self.next += 1;
        let packet = self.packet(number, &message);
        if may_be_lost {
            self.bytes += message.len();
            self.lengths.push_back((number, message.len()));
            self.under_way.push_back((number, message));
        }
        packet
    }

    /// The number of the next message.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Whether nothing that was sent may be lost.
    pub(crate) fn is_settled(&self) -> bool {
        self.under_way.is_empty()
    }

    /// All below this number have come at the other end.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The first packet under way with `number` or a higher one.
    pub(crate) fn again(&mut self, number: u64) -> Option<(u64, Bytes)> {
        let at = self.under_way.partition_point(|(other, _)| *other < number);
        let (number, message) = self.under_way.get(at)?.clone();
        Some((number, self.packet(number, &message)))
    }

    /// What has that number, and all below it, cannot be lost any more.
    fn is_safe(&mut self, number: u64) {
        let is_safe = |(first, _): &mut (u64, Bytes)| *first <= number;
        while self.under_way.pop_front_if(is_safe).is_some() {}
    }

    /// A queue has taken what has that number, and all below it.
    pub(crate) fn is_queued(&mut self, number: u64) {
        // Of an earlier life.
        if number >= self.next {
            return;
        }
        self.is_safe(number);
    }

    /// Whether the other end does not know of all that has come.
    pub(crate) fn owes(&self) -> bool {
        self.told < self.expected
    }

    /// Whether so much of it that it has to be told at once.
    pub(crate) fn owes_much(&self) -> bool {
        self.expected - self.told >= OWED_MAX || (self.owes() && self.owed_bytes >= OWED_BYTES)
    }

    /// Tells what has come.
    pub(crate) fn acknowledgement(&mut self) -> Bytes {
        let mut out = Vec::new();
        self.tell();
        out.put_u8(TAKEN).put_u64(self.expected);
        out.into()
    }

    /// Takes a packet; what is next for our program comes out in order.
    ///
    /// # Errors
    /// [`Malformed`]: the other party breaks the rules.
    pub(crate) fn receive(&mut self, packet: &Bytes) -> Result<Vec<Bytes>, Malformed> {
        let mut reader = Reader::new("numbered message", packet);
        let kind = reader.u8()?;
        let number = match kind {
            NUMBERED => Some(reader.u64()?),
            TAKEN => None,
            _ => return Err(reader.malformed()),
        };
        self.is_taken(reader.u64()?)
            .ok_or(Malformed("acknowledgement: of what was never sent"))?;
        let message = packet.slice_ref(reader.rest());
        match number {
            None if message.is_empty() => Ok(Vec::new()),
            None => Err(Malformed("acknowledgement: more than one")),
            Some(number) => self.take(number, message),
        }
    }

    fn is_taken(&mut self, taken: u64) -> Option<()> {
        if taken > self.next {
            return None;
        }
        // One that overtook it has said more already.
        if taken > self.acknowledged {
            self.acknowledged = taken;
            self.is_safe(taken - 1);
            let has_come = |(number, _): &mut (u64, usize)| *number < taken;
            while let Some((_, length)) = self.lengths.pop_front_if(has_come) {
                self.bytes -= length;
            }
        }
        Some(())
    }

    fn take(&mut self, number: u64, message: Bytes) -> Result<Vec<Bytes>, Malformed> {
        if message.first() == Some(&HELLO) {
            return Err(Malformed("numbered message: a life does not begin in one"));
        }
        let Some(ahead) = number.checked_sub(self.expected) else {
            // It came another way, or the other end does not know: what told it may have been lost.
            self.told = self.told.min(self.expected - 1);
            return Ok(Vec::new());
        };
        if ahead >= AHEAD_MAX {
            return Err(Malformed("numbered message: too far ahead"));
        }
        // What came first counts: an honest party says the same again.
        if let Entry::Vacant(place) = self.held.entry(number) {
            self.held_bytes += message.len();
            place.insert(message);
        }
        let mut ready = Vec::new();
        while let Some(message) = self.held.remove(&self.expected) {
            self.expected += 1;
            self.held_bytes -= message.len();
            self.owed_bytes += message.len();
            ready.push(message);
        }
        if self.held_bytes > AHEAD_BYTES + MESSAGE_MAX {
            return Err(Malformed("numbered message: too much ahead"));
        }
        Ok(ready)
    }

    fn packet(&mut self, number: u64, message: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(HEAD + message.len());
        self.tell();
        out.put_u8(NUMBERED).put_u64(number).put_u64(self.expected);
        out.put(message);
        out.into()
    }

    fn tell(&mut self) {
        self.told = self.expected;
        self.owed_bytes = 0;
    }
}

/// Whether that is a packet of a sequence, not a message without a number.
pub(crate) fn is_packet(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(&(NUMBERED | TAKEN)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand_chacha::ChaCha20Rng;
    use rand_core::{Rng, SeedableRng};

    use super::*;

    fn word(number: u64) -> Bytes {
        Bytes::copy_from_slice(&[&[1][..], &number.to_be_bytes()].concat())
    }

    fn taken(number: u64) -> Bytes {
        [&[TAKEN][..], &number.to_be_bytes()].concat().into()
    }

    fn numbered(number: u64, message: &[u8]) -> Bytes {
        [&[NUMBERED][..], &number.to_be_bytes(), &[0; 8], message]
            .concat()
            .into()
    }

    /// Ways that drop, delay and repeat: whatever they do, all comes once and in order.
    #[test]
    fn all_comes_once_and_in_order_whatever_paths_do() {
        for seed in 0..200 {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let (mut here, mut there) = (Sequence::default(), Sequence::default());
            let (mut path, mut queue) = (VecDeque::new(), VecDeque::new());
            let (mut sent, mut came, mut direct) = (0, 0, false);
            while came < 3_000 {
                match rng.next_u32() % 8 {
                    // The path dies with all that is on it, or comes up.
                    0 if rng.next_u32() % 16 == 0 => {
                        direct = !direct;
                        path.clear();
                        let mut first = 0;
                        while let Some((number, packet)) = here.again(first) {
                            first = number + 1;
                            if direct {
                                path.push_back(packet);
                            } else {
                                queue.push_back(packet);
                                here.is_queued(number);
                            }
                        }
                    }
                    1 | 2 if direct && here.has_room() => {
                        path.push_back(here.send(word(sent), true));
                        sent += 1;
                    }
                    1 | 2 if !direct => {
                        queue.push_back(here.send(word(sent), false));
                        sent += 1;
                    }
                    3 | 4 => {
                        for message in path
                            .pop_front()
                            .map_or(vec![], |packet| there.receive(&packet).unwrap())
                        {
                            assert_eq!(message, word(came), "seed {seed}");
                            came += 1;
                        }
                    }
                    5 | 6 => {
                        for message in queue
                            .pop_front()
                            .map_or(vec![], |packet| there.receive(&packet).unwrap())
                        {
                            assert_eq!(message, word(came), "seed {seed}");
                            came += 1;
                        }
                    }
                    _ if direct => {
                        let acknowledgement = there.acknowledgement();
                        here.receive(&acknowledgement).unwrap();
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn acknowledgements_that_lie_are_refused_and_late_ones_passed_over() {
        let mut sequence = Sequence::default();
        for number in 0..3 {
            sequence.send(word(number), true);
        }
        assert!(sequence.receive(&taken(4)).is_err());
        assert!(sequence.receive(&taken(u64::MAX)).is_err());
        assert!(!sequence.is_settled());
        sequence.receive(&taken(2)).unwrap();
        sequence.receive(&taken(1)).unwrap();
        assert_eq!(sequence.acknowledged(), 2);
        assert_eq!(sequence.again(0).unwrap().0, 2);
        sequence.receive(&taken(3)).unwrap();
        assert!(sequence.is_settled() && sequence.bytes == 0);
        let long = [&taken(3)[..], b"x"].concat().into();
        assert!(sequence.receive(&long).is_err());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut sequence = Sequence::default();
        assert!(sequence.receive(&numbered(AHEAD_MAX, b"\x01")).is_err());
        assert!(sequence.receive(&numbered(u64::MAX, b"\x01")).is_err());
        let long = vec![1; MESSAGE_MAX];
        let lied = (1..AHEAD_MAX).find(|number| {
            let packet = numbered(*number, &long);
            let lied = sequence.receive(&packet).is_err();
            assert!(sequence.held_bytes <= AHEAD_BYTES + 2 * MESSAGE_MAX);
            lied
        });
        assert!(lied.unwrap() * (MESSAGE_MAX as u64) > AHEAD_BYTES as u64);
        // The same number twice counts once, and what it said first: also if it is said longer or shorter.
        for [first, again] in [
            [MESSAGE_MAX, MESSAGE_MAX],
            [1, MESSAGE_MAX],
            [MESSAGE_MAX, 1],
        ] {
            let mut sequence = Sequence::default();
            for number in 1..9 {
                sequence.receive(&numbered(number, &long[..first])).unwrap();
                sequence.receive(&numbered(number, &long[..again])).unwrap();
            }
            let held: usize = sequence.held.values().map(Bytes::len).sum();
            assert_eq!([held, sequence.held_bytes], [8 * first; 2]);
            let ready = sequence.receive(&numbered(0, b"\x01")).unwrap();
            assert_eq!((ready.len(), sequence.held_bytes), (9, 0));
        }
    }

    #[test]
    fn who_sends_stops_before_the_other_has_to_hold_too_much() {
        let mut sequence = Sequence::default();
        let mut count = 0;
        while sequence.has_room() {
            sequence.send(vec![1; MESSAGE_MAX].into(), true);
            count += 1;
        }
        assert!(count * MESSAGE_MAX <= AHEAD_BYTES + MESSAGE_MAX);
        let mut sequence = Sequence::default();
        while sequence.has_room() {
            sequence.send(word(0), true);
        }
        assert_eq!(sequence.next, AHEAD_MAX);
    }

    /// A relay that stands still keeps back what was said first, while path after path carries more.
    #[test]
    fn an_honest_sender_goes_never_too_far_ahead_whatever_a_queue_has_taken() {
        let (mut here, mut there) = (Sequence::default(), Sequence::default());
        let mut kept_back = vec![here.send(word(0), false)];
        for _ in 0..4 {
            while here.has_room() {
                let packet = here.send(vec![1; MESSAGE_MAX].into(), true);
                assert!(there.receive(&packet).unwrap().is_empty());
            }
            // The path ends: a queue of that relay takes all.
            while let Some((number, packet)) = here.again(0) {
                here.is_queued(number);
                kept_back.push(packet);
            }
            assert!(here.is_settled());
        }
        let mut came = 0;
        for packet in &kept_back {
            came += there.receive(packet).unwrap().len() as u64;
        }
        assert_eq!(came, here.next());
        let acknowledgement = there.acknowledgement();
        here.receive(&acknowledgement).unwrap();
        assert!(here.has_room() && here.bytes == 0);
    }

    #[test]
    fn who_says_again_what_has_come_hears_again_that_it_has() {
        let (mut here, mut there) = (Sequence::default(), Sequence::default());
        let packet = here.send(word(0), true);
        there.receive(&packet).unwrap();
        // It is lost with the path.
        there.acknowledgement();
        assert!(!there.owes());
        let (_, again) = here.again(0).unwrap();
        assert!(there.receive(&again).unwrap().is_empty());
        assert!(there.owes());
        let acknowledgement = there.acknowledgement();
        here.receive(&acknowledgement).unwrap();
        assert!(here.is_settled());
    }

    #[test]
    fn what_a_queue_took_in_an_earlier_life_is_nothing_in_this_one() {
        let mut sequence = Sequence::default();
        sequence.send(word(0), true);
        sequence.is_queued(7);
        assert!(!sequence.is_settled());
    }

    #[test]
    fn lives_do_not_begin_within_a_sequence() {
        let mut sequence = Sequence::default();
        assert!(sequence.receive(&numbered(0, &[HELLO; 33])).is_err());
    }

    #[test]
    fn offers_have_one_encoding_and_bounds() {
        let place = |text: &str| text.parse().unwrap();
        let offer = |places: Vec<SocketAddr>| Offer {
            life: Life([1; 16]),
            named: Life([2; 16]),
            contact: Contact {
                key: [3; 32],
                word: [4; 32],
                places,
            },
        };
        let good = vec![place("192.0.2.1:1"), place("[2001:db8::1]:65535")];
        let bytes = offer(good.clone()).encode();
        let read = Offer::decode(&bytes).unwrap();
        assert_eq!(read.contact.places, good);
        assert_eq!(read.encode(), bytes);
        let many = |count: u16| (1..=count).map(|port| place(&format!("192.0.2.1:{port}")));
        assert!(Offer::decode(&offer(many(16).collect()).encode()).is_ok());
        let mut more = offer(many(16).collect()).encode();
        more[96] = 17;
        more.extend([4, 1, 2, 3, 4, 0, 99]);
        assert!(Offer::decode(&more).is_err());
        for bad in [
            "0.0.0.0:1",
            "224.0.0.1:1",
            "192.0.2.1:0",
            "[::]:1",
            "[ff02::1]:1",
            "[::ffff:192.0.2.1]:1",
        ] {
            assert!(
                Offer::decode(&offer(vec![place(bad)]).encode()).is_err(),
                "{bad}"
            );
        }
        let twice = vec![good[0], good[0]];
        assert!(Offer::decode(&offer(twice).encode()).is_err());
        assert!(Offer::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Offer::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn wishes_have_one_encoding() {
        for wish in [Wish::RelayOnly, Wish::DirectOnly] {
            let life = Life([1; 16]);
            let told = Told { life, wish };
            let bytes = told.encode();
            assert_eq!(Told::decode(&bytes).unwrap(), told);
            assert!(Told::decode(&bytes[..16]).is_err());
            assert!(Told::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        assert!(Told::decode(&[2; 17]).is_err());
    }
}
