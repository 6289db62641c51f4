//! A pipe: records in order, once, over a connection that may repeat or lose
//! (`docs/spec/session.md` §6.1).
//!
//! Records are cut into numbered segments, and as many segments as fit travel in one bundle, the
//! carrier's message. Segments stay in the outbox until the peer acknowledges them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{
    endpoint::{ConnectionId, MessageId},
    fault::Fault,
    limits::{
        ACK_BYTES, ACK_SEGMENTS, BUNDLES_PER_SEND, HELD_BYTES, RECORD_BYTES_MAX, WINDOW_BYTES,
        WINDOW_SEGMENTS,
    },
    roster::FormationId,
    step::{Delta, Effect, Key, LocalId, PeerSlot},
    wire::{Malformed, Put, Reader},
};

const VERSION: u8 = 1;
/// Version, flags, formation, acknowledgement, first sequence number.
const BUNDLE_HEADER_BYTES: usize = 1 + 1 + 32 + 8 + 8;
const SEGMENT_HEADER_BYTES: usize = 2;
/// In a segment's length field: the record goes on in the next segment.
const MORE: u16 = 0x8000;
/// Longest segment, bytes: what the length field holds.
const SEGMENT_BYTES_MAX: usize = 0x7fff;

const FLAG_ANSWER: u8 = 1;
const FLAG_GAP: u8 = 2;

/// The carrier's message, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) formation: FormationId,
    /// The sender asks for an acknowledgement.
    pub(crate) answer: bool,
    /// The sender missed something: everything from `ack` on has to come again.
    pub(crate) gap: bool,
    /// The sender has all segments below this one.
    pub(crate) ack: u64,
    /// Number of the first segment.
    pub(crate) first: u64,
    /// Each with whether its record goes on.
    pub(crate) segments: Vec<(bool, Bytes)>,
}

impl Bundle {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = header(&self.formation, self.answer, self.gap, self.ack, self.first);
        for (more, segment) in &self.segments {
            put_segment(&mut bytes, *more, segment);
        }
        bytes
    }

    pub(crate) fn decode(body: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new("bundle", body);
        if reader.u8()? != VERSION {
            return Err(Malformed("bundle version"));
        }
        let flags = reader.u8()?;
        if flags & !(FLAG_ANSWER | FLAG_GAP) != 0 {
            return Err(reader.malformed());
        }
        let formation = FormationId(reader.array()?);
        let ack = reader.u64()?;
        let first = reader.u64()?;
        let mut segments = Vec::new();
        let mut offset = BUNDLE_HEADER_BYTES;
        while !reader.is_empty() {
            let length = reader.u16()?;
            let bytes = usize::from(length & !MORE);
            if bytes == 0 {
                return Err(reader.malformed());
            }
            reader.bytes(bytes)?;
            offset += SEGMENT_HEADER_BYTES;
            segments.push((length & MORE != 0, body.slice(offset..offset + bytes)));
            offset += bytes;
        }
        Ok(Self {
            formation,
            answer: flags & FLAG_ANSWER != 0,
            gap: flags & FLAG_GAP != 0,
            ack,
            first,
            segments,
        })
    }
}

fn header(formation: &FormationId, answer: bool, gap: bool, ack: u64, first: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes
        .put_u8(VERSION)
        .put_u8((u8::from(answer) * FLAG_ANSWER) | (u8::from(gap) * FLAG_GAP))
        .put(&formation.0)
        .put_u64(ack)
        .put_u64(first);
    bytes
}

fn put_segment(bytes: &mut Vec<u8>, more: bool, segment: &[u8]) {
    let length = u16::try_from(segment.len()).unwrap_or(0) | if more { MORE } else { 0 };
    bytes.put_u16(length).put(segment);
}

/// A record with the segments it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) record: Bytes,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// One direction each way of a connection.
pub(crate) struct Pipe {
    local: LocalId,
    slot: PeerSlot,
    /// Largest body the carrier takes.
    body_bytes: usize,
    // Durable:
    /// Number of the next new segment.
    send_next: u64,
    /// Number of the next segment wanted from the peer.
    receive_next: u64,
    /// Unacknowledged segments; the last one has number `send_next - 1`.
    outbox: VecDeque<(bool, Bytes)>,
    // Volatile:
    outbox_bytes: usize,
    /// Number of the next segment to give to the carrier.
    give_next: u64,
    given_bytes: usize,
    sending: bool,
    partial: BytesMut,
    partial_first: u64,
    /// What we told the peer last.
    acknowledged: u64,
    unacknowledged_bytes: usize,
    must_answer: bool,
    ask: bool,
    /// The gap reported last, so that it is reported once.
    gap_reported: Option<u64>,
    must_report_gap: bool,
    /// Messages not yet looked at, while the application is behind.
    held: VecDeque<(MessageId, Bytes)>,
    held_bytes: usize,
    /// Whether some came that there was no room for.
    overflowed: bool,
}

impl Pipe {
    pub(crate) fn new(local: LocalId, slot: PeerSlot, body_bytes: usize) -> Self {
        Self {
            local,
            slot,
            body_bytes,
            send_next: 0,
            receive_next: 0,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            give_next: 0,
            given_bytes: 0,
            sending: false,
            partial: BytesMut::new(),
            partial_first: 0,
            acknowledged: 0,
            unacknowledged_bytes: 0,
            must_answer: false,
            ask: false,
            gap_reported: None,
            must_report_gap: false,
            held: VecDeque::new(),
            held_bytes: 0,
            overflowed: false,
        }
    }

    /// Restores the counters stored by [`Pipe::store`]; outbox rows follow in order.
    pub(crate) fn restore(&mut self, counters: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new("stored pipe", counters);
        self.send_next = reader.u64()?;
        self.receive_next = reader.u64()?;
        self.acknowledged = self.receive_next;
        self.give_next = self.send_next;
        // The peer may have acknowledged what we lost sight of, and we may owe it one.
        self.ask = true;
        self.must_answer = true;
        reader.finish()
    }

    pub(crate) fn restore_out(&mut self, seq: u64, row: &Bytes) -> Result<(), Malformed> {
        let (more, segment) = stored_segment(row)?;
        if seq + 1 > self.send_next || (!self.outbox.is_empty() && seq != self.give_next) {
            return Err(Malformed("stored outbox"));
        }
        if self.outbox.is_empty() {
            self.give_next = seq;
        }
        self.outbox_bytes += segment.len();
        self.outbox.push_back((more, segment));
        self.give_next += 1;
        Ok(())
    }

    /// After all outbox rows: everything unacknowledged goes out again.
    pub(crate) fn restored(&mut self) -> Result<(), Malformed> {
        if self.base() + self.outbox.len() as u64 != self.send_next
            || self.give_next != self.send_next
        {
            return Err(Malformed("stored outbox"));
        }
        self.give_next = self.base();
        Ok(())
    }

    /// A stored segment of an incomplete or still needed record, in order.
    pub(crate) fn restore_in(
        &mut self,
        seq: u64,
        row: &Bytes,
    ) -> Result<Option<Arrived>, Malformed> {
        let (more, segment) = stored_segment(row)?;
        self.assemble(seq, more, &segment)
    }

    pub(crate) fn store(&self, delta: &mut Delta) {
        let mut bytes = Vec::with_capacity(16);
        bytes.put_u64(self.send_next).put_u64(self.receive_next);
        delta.put(Key::Pipe(self.local, self.slot), bytes);
    }

    /// Number of the oldest unacknowledged segment.
    fn base(&self) -> u64 {
        self.send_next - self.outbox.len() as u64
    }

    pub(crate) fn outbox_bytes(&self) -> usize {
        self.outbox_bytes
    }

    /// Queues a record.
    pub(crate) fn push(&mut self, record: Vec<u8>, delta: &mut Delta) {
        let room =
            (self.body_bytes - BUNDLE_HEADER_BYTES - SEGMENT_HEADER_BYTES).min(SEGMENT_BYTES_MAX);
        let mut rest = Bytes::from(record);
        loop {
            let segment = rest.split_to(rest.len().min(room));
            let more = !rest.is_empty();
            let mut row = Vec::with_capacity(1 + segment.len());
            row.put_flag(more).put(&segment);
            delta.put(Key::Out(self.local, self.slot, self.send_next), row);
            self.outbox_bytes += segment.len();
            self.outbox.push_back((more, segment));
            self.send_next += 1;
            if !more {
                break;
            }
        }
        self.store(delta);
    }

    /// Asks the peer what it has, so that it or we can repeat what got lost.
    pub(crate) fn probe(&mut self) {
        self.ask = true;
        self.gap_reported = None;
    }

    /// The carrier took what we gave it last.
    pub(crate) fn sent(&mut self) {
        self.sending = false;
    }

    /// Whether the carrier still works on what we gave it.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Whether the carrier has everything: nothing waits for room in the window.
    pub(crate) fn is_given(&self) -> bool {
        self.give_next == self.send_next && !self.sending
    }

    /// Whether the peer has everything, and was told what we have.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
            && !self.sending
            && self.acknowledged == self.receive_next
            && !self.must_answer
    }

    /// What to give to the carrier now, if anything.
    pub(crate) fn pump(
        &mut self,
        formation: &FormationId,
        connection: ConnectionId,
    ) -> Option<Effect> {
        if self.sending {
            return None;
        }
        let mut bodies = Vec::new();
        while bodies.len() < BUNDLES_PER_SEND {
            let Some(body) = self.bundle(formation) else {
                break;
            };
            bodies.push(body);
        }
        if bodies.is_empty() {
            return None;
        }
        self.sending = true;
        Some(Effect::Send { connection, bodies })
    }

    fn may_give(&self) -> Option<&(bool, Bytes)> {
        let base = self.base();
        let position = self.give_next - base;
        let segment = self.outbox.get(usize::try_from(position).ok()?)?;
        let fits = position < WINDOW_SEGMENTS && self.given_bytes + segment.1.len() <= WINDOW_BYTES;
        fits.then_some(segment)
    }

    fn bundle(&mut self, formation: &FormationId) -> Option<Bytes> {
        let acknowledge = self.must_answer
            || self.unacknowledged_bytes >= ACK_BYTES
            || self.receive_next - self.acknowledged >= ACK_SEGMENTS;
        if self.may_give().is_none() && !acknowledge && !self.ask && !self.must_report_gap {
            return None;
        }
        let mut body = header(
            formation,
            self.ask,
            self.must_report_gap,
            self.receive_next,
            self.give_next,
        );
        while let Some((more, segment)) = self.may_give() {
            if body.len() + SEGMENT_HEADER_BYTES + segment.len() > self.body_bytes {
                break;
            }
            put_segment(&mut body, *more, segment);
            let bytes = segment.len();
            self.given_bytes += bytes;
            self.give_next += 1;
        }
        self.ask = false;
        self.must_answer = false;
        self.must_report_gap = false;
        self.acknowledged = self.receive_next;
        self.unacknowledged_bytes = 0;
        Some(Bytes::from(body))
    }

    /// Takes a bundle in: frees what the peer has, stores what is new, returns whole records.
    pub(crate) fn receive(
        &mut self,
        formation: &FormationId,
        bundle: Bundle,
        delta: &mut Delta,
    ) -> Result<Vec<Arrived>, Fault> {
        if bundle.formation != *formation {
            return Err(Fault::WrongSession);
        }
        self.acknowledged_by_peer(bundle.ack, bundle.gap, delta)?;
        self.must_answer |= bundle.answer;
        let mut arrived = Vec::new();
        if bundle.first > self.receive_next {
            // Even an empty bundle shows a gap: carriers keep order, so whatever was given before
            // it should be here. A peer that asks did not get the report.
            if bundle.answer || self.gap_reported != Some(self.receive_next) {
                self.gap_reported = Some(self.receive_next);
                self.must_report_gap = true;
            }
            return Ok(arrived);
        }
        let mut seq = bundle.first;
        for (more, segment) in bundle.segments {
            if seq == self.receive_next {
                let mut row = Vec::with_capacity(1 + segment.len());
                row.put_flag(more).put(&segment);
                delta.put(Key::In(self.local, self.slot, seq), row);
                self.receive_next += 1;
                self.unacknowledged_bytes += segment.len();
                arrived.extend(self.assemble(seq, more, &segment)?);
            }
            seq = seq.checked_add(1).ok_or(Fault::Malformed("bundle"))?;
        }
        self.store(delta);
        Ok(arrived)
    }

    fn acknowledged_by_peer(
        &mut self,
        ack: u64,
        gap: bool,
        delta: &mut Delta,
    ) -> Result<(), Fault> {
        if ack > self.send_next {
            return Err(Fault::Malformed("acknowledgement"));
        }
        while self.base() < ack {
            let seq = self.base();
            let Some((_, segment)) = self.outbox.pop_front() else {
                break;
            };
            self.outbox_bytes -= segment.len();
            if seq < self.give_next {
                self.given_bytes = self.given_bytes.saturating_sub(segment.len());
            }
            delta.delete(Key::Out(self.local, self.slot, seq));
        }
        self.give_next = self.give_next.max(self.base());
        if gap && ack >= self.base() {
            self.give_next = self.base();
            self.given_bytes = 0;
        }
        Ok(())
    }

    fn assemble(
        &mut self,
        seq: u64,
        more: bool,
        segment: &Bytes,
    ) -> Result<Option<Arrived>, Malformed> {
        if self.partial.is_empty() {
            self.partial_first = seq;
            if !more {
                return Ok(Some(Arrived {
                    record: segment.clone(),
                    first: seq,
                    last: seq,
                }));
            }
        }
        if self.partial.len() + segment.len() > RECORD_BYTES_MAX {
            return Err(Malformed("record length"));
        }
        self.partial.extend_from_slice(segment);
        if more {
            return Ok(None);
        }
        Ok(Some(Arrived {
            record: self.partial.split().freeze(),
            first: self.partial_first,
            last: seq,
        }))
    }

    /// Keeps a message for later. False if there is no room for it: it is as lost on the way, and asked
    /// for when those that are kept have been read. Nobody is at fault: a peer that respects the window
    /// repeats it with each start of its process.
    pub(crate) fn hold(&mut self, message: MessageId, body: Bytes) -> bool {
        if self.held_bytes + body.len() > HELD_BYTES {
            self.overflowed = true;
            return false;
        }
        self.held_bytes += body.len();
        self.held.push_back((message, body));
        true
    }

    /// Segments that have come so far.
    pub(crate) fn received(&self) -> u64 {
        self.receive_next
    }

    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    pub(crate) fn unhold(&mut self) -> Option<(MessageId, Bytes)> {
        let (message, body) = self.held.pop_front()?;
        self.held_bytes -= body.len();
        if self.held.is_empty() {
            self.must_report_gap |= core::mem::take(&mut self.overflowed);
        }
        Some((message, body))
    }

    /// Forgets all rows of this pipe.
    pub(crate) fn erase(&self, delta: &mut Delta) {
        self.erase_segments(delta);
        delta.delete(Key::Pipe(self.local, self.slot));
    }

    /// Drops what is on its way; the counters stay.
    pub(crate) fn clear(&mut self, delta: &mut Delta) {
        self.erase_segments(delta);
        self.outbox.clear();
        self.outbox_bytes = 0;
        self.give_next = self.send_next;
        self.given_bytes = 0;
        self.partial.clear();
        self.held.clear();
        self.held_bytes = 0;
    }

    fn erase_segments(&self, delta: &mut Delta) {
        for seq in self.base()..self.send_next {
            delta.delete(Key::Out(self.local, self.slot, seq));
        }
        if !self.partial.is_empty() {
            for seq in self.partial_first..self.receive_next {
                delta.delete(Key::In(self.local, self.slot, seq));
            }
        }
    }
}

fn stored_segment(row: &Bytes) -> Result<(bool, Bytes), Malformed> {
    let more = Reader::new("stored segment", row).flag()?;
    Ok((more, row.slice(1..)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMATION: FormationId = FormationId([9; 32]);
    const CONNECTION: ConnectionId = ConnectionId([1; 32]);

    fn pipe() -> Pipe {
        Pipe::new(LocalId([0; 16]), 0, 200)
    }

    fn bodies(pipe: &mut Pipe) -> Vec<Bytes> {
        let mut all = Vec::new();
        while let Some(Effect::Send { bodies, .. }) = pipe.pump(&FORMATION, CONNECTION) {
            all.extend(bodies);
            pipe.sent();
        }
        all
    }

    fn take(pipe: &mut Pipe, body: &Bytes) -> Vec<Bytes> {
        let mut delta = Delta::default();
        pipe.receive(&FORMATION, Bundle::decode(body).unwrap(), &mut delta)
            .unwrap()
            .into_iter()
            .map(|arrived| arrived.record)
            .collect()
    }

    #[test]
    fn small_records_share_a_bundle_and_large_ones_are_cut() {
        let (mut a, mut b) = (pipe(), pipe());
        let mut delta = Delta::default();
        for n in 0..5u8 {
            a.push(vec![n; 10], &mut delta);
        }
        assert_eq!(bodies(&mut a).len(), 1);
        a.push(vec![7; 1000], &mut delta);
        let cut = bodies(&mut a);
        assert!(cut.len() > 5);
        assert!(cut.iter().all(|body| body.len() <= 200));
        let (mut a2, mut delta) = (pipe(), Delta::default());
        a2.push(vec![7; 1000], &mut delta);
        let records: Vec<_> = bodies(&mut a2)
            .iter()
            .flat_map(|body| take(&mut b, body))
            .collect();
        assert_eq!(records, [Bytes::from(vec![7; 1000])]);
    }

    #[test]
    fn nothing_is_sent_when_there_is_nothing_to_say() {
        assert!(bodies(&mut pipe()).is_empty());
    }

    #[test]
    fn a_gap_is_reported_and_filled() {
        let (mut a, mut b) = (pipe(), pipe());
        let mut delta = Delta::default();
        a.push(vec![1; 10], &mut delta);
        let lost = bodies(&mut a);
        a.push(vec![2; 10], &mut delta);
        let seen = bodies(&mut a);
        assert_eq!((lost.len(), seen.len()), (1, 1));
        assert!(take(&mut b, &seen[0]).is_empty());
        let report = bodies(&mut b);
        assert_eq!(report.len(), 1);
        take(&mut a, &report[0]);
        let again = bodies(&mut a);
        assert_eq!(
            again
                .iter()
                .flat_map(|body| take(&mut b, body))
                .collect::<Vec<_>>(),
            [vec![1; 10], vec![2; 10]]
        );
    }

    #[test]
    fn a_lost_report_of_a_gap_is_made_again_when_the_peer_asks() {
        let (mut a, mut b) = (pipe(), pipe());
        let mut delta = Delta::default();
        a.push(vec![1; 10], &mut delta);
        assert_eq!(bodies(&mut a).len(), 1, "lost");
        a.push(vec![2; 10], &mut delta);
        let seen = bodies(&mut a);
        assert!(take(&mut b, &seen[0]).is_empty());
        assert_eq!(bodies(&mut b).len(), 1, "the report, lost as well");
        a.probe();
        for body in bodies(&mut a) {
            take(&mut b, &body);
        }
        for body in bodies(&mut b) {
            take(&mut a, &body);
        }
        let again: Vec<_> = bodies(&mut a)
            .iter()
            .flat_map(|body| take(&mut b, body))
            .collect();
        assert_eq!(again, [vec![1; 10], vec![2; 10]]);
    }

    #[test]
    fn acknowledgements_empty_the_outbox() {
        let (mut a, mut b) = (pipe(), pipe());
        let mut delta = Delta::default();
        a.push(vec![1; 10], &mut delta);
        a.probe();
        for body in bodies(&mut a) {
            take(&mut b, &body);
        }
        for body in bodies(&mut b) {
            take(&mut a, &body);
        }
        assert_eq!(a.outbox_bytes(), 0);
        assert!(a.outbox.is_empty());
    }

    #[test]
    fn the_window_stops_a_sender() {
        let mut a = Pipe::new(LocalId([0; 16]), 0, 13_000);
        let mut delta = Delta::default();
        a.push(vec![1; 3 * WINDOW_BYTES], &mut delta);
        let bytes: usize = bodies(&mut a).iter().map(Bytes::len).sum();
        assert!(bytes < WINDOW_BYTES + WINDOW_BYTES / 8);
    }

    #[test]
    fn an_acknowledgement_of_the_unsent_is_refused() {
        let bundle = Bundle {
            formation: FORMATION,
            answer: false,
            gap: false,
            ack: 1,
            first: 0,
            segments: Vec::new(),
        };
        assert_eq!(
            pipe().receive(&FORMATION, bundle, &mut Delta::default()),
            Err(Fault::Malformed("acknowledgement"))
        );
    }

    #[test]
    fn a_bundle_of_another_session_is_refused() {
        let mut a = pipe();
        a.push(vec![1], &mut Delta::default());
        let body = bodies(&mut a).remove(0);
        assert_eq!(
            pipe().receive(
                &FormationId([8; 32]),
                Bundle::decode(&body).unwrap(),
                &mut Delta::default()
            ),
            Err(Fault::WrongSession)
        );
    }

    proptest! {
        #[test]
        fn decoding_is_canonical(mut bytes in proptest::collection::vec(any::<u8>(), 48..200), flags in 0u8..5) {
            bytes[0] = VERSION;
            bytes[1] = flags;
            let body = Bytes::from(bytes);
            if let Ok(bundle) = Bundle::decode(&body) {
                prop_assert_eq!(bundle.encode(), body);
            }
        }

        /// Whatever is repeated or lost on the way, records arrive once and in order as long as
        /// both sides go on talking.
        #[test]
        fn records_arrive_once_in_order(sizes in proptest::collection::vec(1usize..500, 1..20), fate in proptest::collection::vec(0u8..4, 200)) {
            let (mut a, mut b) = (pipe(), pipe());
            let mut delta = Delta::default();
            let mut fate = fate.into_iter();
            let mut got = Vec::new();
            let expected: Vec<_> = sizes.iter().enumerate().map(|(n, &size)| vec![u8::try_from(n).unwrap(); size]).collect();
            for record in &expected {
                a.push(record.clone(), &mut delta);
                for body in bodies(&mut a) {
                    for _ in 0..match fate.next() { Some(0) => 0, Some(1) => 2, _ => 1 } {
                        got.extend(take(&mut b, &body));
                    }
                }
                for body in bodies(&mut b) {
                    if fate.next() != Some(0) { take(&mut a, &body); }
                }
            }
            // A loss-free network from here on: a probe makes up for everything.
            for _ in 0..4 {
                b.probe();
                for body in bodies(&mut b) { take(&mut a, &body); }
                for body in bodies(&mut a) { got.extend(take(&mut b, &body)); }
            }
            prop_assert_eq!(got, expected);
        }
    }
}
