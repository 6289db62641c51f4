//! What arrives on a connection's queue: opened layer by layer, judged, stored, and only then
//! acknowledged to the relay.

use std::time::Duration;

use bytes::Bytes;
use junto_crypto::CryptoRng;
use junto_crypto::hash::sha256;
use junto_ratchet::RatchetError;
use junto_smp::id::MessageId as QueueMessageId;
use junto_smp::message::Delivered;

use super::chain::Integrity;
use super::connection::{
    AHEAD_MAX, Address, Connection, DueReceipt, EARLY_MAX, EARLY_MAX_OF_SEVERAL, Early,
    Fingerprint, Gap, INBOX_MAX, InboxRow, Keys, RECEIPTS_DUE_MAX, Request, Stage,
};
use super::effects::{Effects, Owner, Timer};
use super::envelope::Envelope;
use super::event::{ConnectionFault, Event};
use super::handshake::Unusable;
use super::id::{MessageId, RequestId};
use super::layer::SealedBody;
use super::message::{AgentMessage, Body, Receipt};
use super::noise::{Word, is_noise};
use super::parting::PROBE_DELAY;
use super::queue::ReceiveQueue;
use super::resync::{Sync, is_parting};
use super::rotation::Place;
use super::step::{Row, RowKey};

/// How long messages wait for one that they overtook: a relay that refused it for a passing reason
/// gets it again sooner.
const GAP_DELAY: Duration = Duration::from_secs(10);

/// The same while a relay is away that may have it.
const GAP_AWAY_DELAY: Duration = Duration::from_secs(30);

/// The same after the queue was full: longer than a sender's longest wait for room.
const GAP_AFTER_QUOTA_DELAY: Duration = Duration::from_secs(120);

/// How long they wait at most, however often a relay comes back in the meantime.
const GAP_MAX: Duration = GAP_AFTER_QUOTA_DELAY;

fn fingerprint(body: &[u8]) -> Fingerprint {
    let mut short = Fingerprint::default();
    short.copy_from_slice(&sha256(body)[..16]);
    short
}

/// The fingerprint of what the ratchet made. With its number, if it says that: so another message of the same
/// number is known for what it is.
fn inner_fingerprint(number: Option<u64>, ratcheted: &[u8]) -> Fingerprint {
    let mut short = fingerprint(ratcheted);
    if let Some(number) = number {
        short[..8].copy_from_slice(&number.to_be_bytes());
    }
    short
}

impl Connection {
    /// Handles a message of one of our queues.
    pub(super) fn deliver(
        &mut self,
        place: Place,
        message: QueueMessageId,
        sealed: &Bytes,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        if matches!(
            self.stage,
            Stage::Leaving(_) | Stage::Failed(_) | Stage::Deleting
        ) {
            return;
        }
        let queue = self.queue(place);
        let Some(created) = queue.and_then(|queue| queue.created.as_ref()) else {
            return;
        };
        let Ok(opened) = created.delivery.open(&message, sealed) else {
            // Not what the relay should make of anything; nothing to lose by letting it go.
            return self.acknowledge(place, message, effects);
        };
        match opened.content() {
            Delivered::QuotaReached { .. } => {
                self.was_full = true;
                effects.changed(self.owner());
                self.send_queue_continues(place, effects, rng);
            }
            Delivered::Message { body, .. } => self.take(place, body, effects, rng),
        }
        self.acknowledge(place, message, effects);
    }

    /// Handles what a sender put into our queue.
    fn take(&mut self, place: Place, body: &[u8], effects: &mut Effects, rng: &mut impl CryptoRng) {
        let fingerprint = fingerprint(body);
        if self.is_repeated(&fingerprint) {
            return;
        }
        let taken = match SealedBody::read(body) {
            Ok(sealed) => self.take_sealed(place, &sealed, effects, rng),
            Err(fault) => Err(fault.into()),
        };
        match taken {
            Ok(()) => {
                self.remember(fingerprint);
                self.hear_more(effects);
                effects.changed(self.owner());
            }
            Err(Unusable::Ignored) => {}
            Err(Unusable::Version) => match self.stage {
                Stage::Inviting | Stage::Confirming => self.fail(ConnectionFault::Version, effects),
                _ => effects.event(Event::Unreadable {
                    connection: self.id,
                }),
            },
            Err(Unusable::Unreadable) => {
                self.remember(fingerprint);
                effects.changed(self.owner());
                effects.event(Event::Unreadable {
                    connection: self.id,
                });
            }
        }
    }

    pub(super) fn take_sealed(
        &mut self,
        place: Place,
        sealed: &SealedBody<'_>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Unusable> {
        match self.stage {
            Stage::Inviting => self.take_joiner(sealed, effects, rng),
            Stage::Confirming if self.receive.sender.is_none() => {
                self.take_maker(sealed, effects, rng)
            }
            Stage::Confirming | Stage::Active | Stage::Hearing => {
                self.take_numbered(place, sealed, effects, rng)
            }
            Stage::Joining | Stage::Leaving(_) | Stage::Failed(_) | Stage::Deleting => {
                Err(Unusable::Ignored)
            }
        }
    }

    /// Handles a numbered message. A peer that changes to another queue sends it in another box; then what is
    /// in the box tells that it came before.
    fn take_numbered(
        &mut self,
        place: Place,
        sealed: &SealedBody<'_>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Unusable> {
        let sender = self.queue(place).and_then(|queue| queue.sender.as_ref());
        let sender = sender.ok_or(Unusable::Ignored)?;
        if sealed.sender_key.is_some_and(|key| key != sender.public) {
            return Err(Unusable::Ignored);
        }
        // Whoever can close this box is the peer: what is wrong inside is its doing.
        let opened = sealed.open(&sender.key).map_err(|_| Unusable::Ignored)?;
        let envelope = Envelope::read(opened.envelope()).map_err(|_| Unusable::Unreadable)?;
        let (number, ratcheted) = match envelope {
            Envelope::Message { ratcheted } => (None, ratcheted),
            Envelope::Numbered { number, ratcheted } => (Some(number), ratcheted),
            // A confirmation again, longer ago than we remember.
            Envelope::Confirmation { .. } => return Err(Unusable::Ignored),
            Envelope::RatchetKey { offer, info } => {
                return self.take_keys((&offer, info), effects, rng);
            }
            Envelope::Invitation { .. } => return Err(Unusable::Unreadable),
        };
        let has_copies = number.is_some() || self.rotation.is_under_way() || self.has_several();
        let inner = inner_fingerprint(number, ratcheted);
        if has_copies && self.is_repeated_inside(&inner) {
            return Err(Unusable::Ignored);
        }
        // Not a copy if it has another one's number: its sender went back in time.
        let is_other = number.is_some_and(|it| self.remembers_number(it));
        let is_copy = !is_other && number.is_some_and(|it| self.is_known(it));
        // Of a message that counts as lost, the first copy is to be read; of others none. In new keys a peer that came
        // back from a backup may begin with any number.
        let is_renewing = matches!(self.resync.sync, Sync::Agreed(_));
        if is_copy && self.late.is_empty() && !is_renewing {
            return Err(Unusable::Ignored);
        }
        let may_repeat = !is_other && (self.has_several() || self.rotation.expects_copies());
        let Keys::Agreed(ratchet) = &mut self.keys else {
            return Err(Unusable::Ignored);
        };
        let was_silent = !ratchet.can_send();
        let opened = match ratchet.decrypt(ratcheted, rng) {
            Ok(opened) => opened,
            Err(_) if is_copy => return Err(Unusable::Ignored),
            // It was read when there were copies, and its sender did not know that its relay had it.
            Err(_) if self.is_repeated_inside(&inner) => return Err(Unusable::Ignored),
            // It came through the other queue as well.
            Err(RatchetError::Duplicate) if may_repeat => return Err(Unusable::Ignored),
            Err(error) => {
                if has_copies {
                    // One message, however many queues it comes by.
                    self.remember(inner);
                }
                if is_parting(error) {
                    self.found_broken(effects, rng);
                }
                return Err(Unusable::Unreadable);
            }
        };
        let plain = opened.plaintext;
        let was_overtaken = opened.delta.is_use();
        self.keep_late(opened.delta, effects);
        if has_copies {
            self.remember(inner);
        }
        // From here on the ratchet has moved: the row is written whatever the plaintext says.
        effects.changed(self.owner());
        if place == Place::Main && self.rotation.copies && !self.rotation.draining {
            self.rotation.copies = false;
            self.store_renewal(effects);
        }
        let Ok(AgentMessage::Numbered { id, .. }) = AgentMessage::read(&plain) else {
            return Err(Unusable::Unreadable);
        };
        if number.is_some_and(|number| number != id) {
            return Err(Unusable::Unreadable);
        }
        self.heard_on(place, id, effects);
        self.heard_before_switch();
        if self.stage == Stage::Confirming {
            // The peer has our confirmation, the relay's word for it was lost.
            self.activate(effects);
        }
        let is_first = self.heard(was_silent, effects, rng);
        if id > self.received.expected_id() && !is_first {
            self.hold(id, plain, effects);
        } else if (number.is_some() || was_overtaken)
            && id < self.received.expected_id()
            && !is_first
        {
            // Its sender is further by now: what comes next follows the last one, not this one.
            let is_missing_one = was_overtaken && !is_other;
            self.act_on_late(&plain, is_missing_one, effects);
        } else {
            self.act_on(&plain, effects, rng);
            self.was_full &= !self.early.is_empty();
        }
        self.release_early(effects, rng);
        self.time_gap(effects);
        if is_first {
            self.resume(effects, rng);
        }
        self.heard_peer(effects, rng);
        Ok(())
    }

    /// Whether we receive on several queues, which one message may come by.
    fn has_several(&self) -> bool {
        // Whoever hears its peer out empties those beside the first one as it does old ones.
        let is_hearing = self.stage == Stage::Hearing && self.rotation.has_retired();
        !self.parallel.ours.is_empty() || is_hearing
    }

    /// Whether what waits may have come by one of several queues.
    fn had_several(&self) -> bool {
        self.has_several() || self.stage == Stage::Hearing
    }

    /// Whether a message of this number has come, or counts as lost.
    fn is_known(&self, number: u64) -> bool {
        number < self.received.expected_id() || self.early.contains_key(&number)
    }

    /// Messages that may wait for earlier ones.
    fn early_max(&self) -> usize {
        if self.had_several() {
            EARLY_MAX_OF_SEVERAL
        } else {
            EARLY_MAX
        }
    }

    /// Whether a relay is to wait before it sends more: the application is too far behind, or the queue too far ahead
    /// of another one.
    pub(super) fn is_to_wait(&self, place: Place) -> bool {
        let last = self.queue(place).map_or(0, |queue| queue.last);
        let ahead = last.saturating_sub(self.received.expected_id());
        self.inbox.len() >= INBOX_MAX || (self.has_several() && ahead >= AHEAD_MAX)
    }

    /// Keeps a message until those that it overtook have come. When a full queue has room again in
    /// the middle of what its sender has in flight, later messages get in before the refused ones
    /// come again.
    fn hold(&mut self, id: u64, plain: Row, effects: &mut Effects) {
        effects.delta.put(RowKey::Early(self.id, id), plain.clone());
        let since = Some(effects.now);
        self.early.insert(id, Early { plain, since });
    }

    /// Gives the messages that are missing now, if any, their time to come.
    pub(super) fn time_gap(&mut self, effects: &mut Effects) {
        let missing = self.received.expected_id();
        match self.gap {
            _ if self.early.is_empty() => self.gap = None,
            // Its time runs already.
            Some(gap) if gap.missing == missing => {}
            Some(_) | None => {
                let began = effects.now;
                let until = began.after(self.gap_delay(effects));
                self.gap = Some(Gap {
                    missing,
                    began,
                    until,
                });
                effects.wake_after(PROBE_DELAY, Timer::Parting(self.id));
            }
        }
        if let (Some(gap), false) = (self.gap, self.gap_timed) {
            self.gap_timed = true;
            effects.wake_at(gap.until, Timer::Gap(self.id));
        }
    }

    fn gap_delay(&self, effects: &Effects) -> Duration {
        let is_away = |(_, queue): (_, &ReceiveQueue)| !effects.is_up(queue.relay);
        if self.was_full {
            GAP_AFTER_QUOTA_DELAY
        } else if self.had_several() && self.receives().any(is_away) {
            GAP_AWAY_DELAY
        } else {
            GAP_DELAY
        }
    }

    /// Acts on messages that wait for nothing any more, or on the first ones if too many wait.
    fn release_early(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        while let Some(first) = self.early.first_entry() {
            let due = *first.key() <= self.received.expected_id();
            if !due && self.early.len() < self.early_max() {
                break;
            }
            self.release_first(effects, rng);
        }
        self.let_go_on(effects);
    }

    /// Relays that waited for earlier messages to come by another one go on.
    fn let_go_on(&mut self, effects: &mut Effects) {
        if self.has_several() {
            self.let_held_go(effects);
        }
    }

    fn let_held_go(&mut self, effects: &mut Effects) {
        if self.rotation.is_held() {
            self.hear_more(effects);
        }
        self.acknowledge_held(effects);
    }

    /// Acts on all messages that wait: nothing that they wait for can come any more.
    pub(super) fn release_all(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        while !self.early.is_empty() {
            self.release_first(effects, rng);
        }
        self.let_go_on(effects);
    }

    fn release_first(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if let Some((id, early)) = self.early.pop_first() {
            effects.delta.delete(RowKey::Early(self.id, id));
            self.act_on(&early.plain, effects, rng);
            effects.changed(self.owner());
        }
    }

    /// As [`Connection::time_gap`], now that our relay is there: what did not come before may be waiting there.
    pub(super) fn time_gap_anew(&mut self, effects: &mut Effects) {
        let until = effects.now.after(self.gap_delay(effects));
        for early in self.early.values_mut() {
            early.since = Some(effects.now);
        }
        if let Some(gap) = &mut self.gap {
            gap.until = until.min(gap.began.after(GAP_MAX));
        }
        self.time_gap(effects);
    }

    /// Stops waiting for messages that others overtook, if they have had their time: they are lost.
    pub(super) fn close_gap(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        self.gap_timed = false;
        if !self.receives().any(|(_, queue)| effects.is_up(queue.relay)) {
            // It begins anew when there is a relay that they could come from.
            self.gap = None;
            return;
        }
        if self.gap.is_some_and(|gap| gap.until <= effects.now) {
            if self.had_several() {
                // What a dead relay had is missing in many places.
                self.release_all(effects, rng);
            } else {
                self.release_overdue(effects, rng);
            }
            self.release_early(effects, rng);
        }
        self.time_gap(effects);
    }

    /// Acts on the first message that waits and on those behind it that have waited for as long: a relay that drops
    /// messages here and there holds up the others by one delay, not by one for each.
    fn release_overdue(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        let delay = self.gap_delay(effects);
        self.release_first(effects, rng);
        self.release_early(effects, rng);
        while let Some((_, first)) = self.early.first_key_value()
            && first
                .since
                .is_some_and(|since| since.after(delay) <= effects.now)
        {
            self.release_first(effects, rng);
            self.release_early(effects, rng);
        }
    }

    /// Judges a message and acts on it.
    fn act_on(&mut self, plain: &[u8], effects: &mut Effects, rng: &mut impl CryptoRng) {
        let Ok(AgentMessage::Numbered {
            id,
            previous_hash,
            body,
        }) = AgentMessage::read(plain)
        else {
            return;
        };
        let integrity = self.received.accept(id, previous_hash, plain);
        // Of messages the event itself says it, of the first word in new keys `Event::Synchronised`.
        let is_told = matches!(body, Body::Message(_) | Body::Ready(_));
        if integrity != Integrity::Ok && !is_told {
            effects.event(Event::Irregular {
                connection: self.id,
                integrity,
            });
        }
        match body {
            Body::Message(body) => self.take_message((id, plain), integrity, body, effects),
            Body::Receipts(receipts) => self.take_receipts(&receipts, effects),
            Body::QueueContinues(_) => self.unblock(effects),
            Body::Ready(_) => self.take_ready(integrity, effects),
            Body::QueueAdd(queues) => self.take_queue(&queues, effects, rng),
            Body::QueueKey(keys) => self.take_queue_key(&keys, effects),
            Body::QueueUse(queues) => self.use_queue(&queues, effects, rng),
            Body::QueueTest(names) => self.take_list(&names, effects, rng),
            // That it came is what counts.
            Body::Hello | Body::Other(_) => {}
        }
    }

    /// Acts on a message with a number that is over; it counted as lost if the key was kept for it. What came after it is
    /// judged already, and what it says of queues may be over.
    fn act_on_late(&mut self, plain: &[u8], is_missing_one: bool, effects: &mut Effects) {
        let Ok(AgentMessage::Numbered { id, body, .. }) = AgentMessage::read(plain) else {
            return;
        };
        let integrity = if is_missing_one {
            Integrity::Late { id }
        } else {
            Integrity::BadId { id }
        };
        if !matches!(body, Body::Message(_)) {
            effects.event(Event::Irregular {
                connection: self.id,
                integrity,
            });
        }
        match body {
            Body::Message(body) => self.take_message((id, plain), integrity, body, effects),
            Body::Receipts(receipts) => self.take_receipts(&receipts, effects),
            Body::QueueContinues(_) => self.unblock(effects),
            Body::Ready(_) => self.take_ready(integrity, effects),
            // Whoever keeps a schedule says so again with its next noise; that it keeps none any more it says once.
            Body::QueueTest(names)
                if is_noise(&names).is_some_and(|word| word != Word::Scheduled) =>
            {
                self.take_late_noise(effects);
            }
            Body::QueueAdd(_)
            | Body::QueueKey(_)
            | Body::QueueUse(_)
            | Body::QueueTest(_)
            | Body::Hello
            | Body::Other(_) => {}
        }
    }

    fn take_message(
        &mut self,
        (id, plain): (u64, &[u8]),
        integrity: Integrity,
        body: &[u8],
        effects: &mut Effects,
    ) {
        let hash = sha256(plain);
        let row = InboxRow {
            receipt: DueReceipt { id, hash },
            integrity,
            body: body.to_vec(),
        };
        self.put_inbox(row, effects);
    }

    /// Stores a message for the application.
    fn put_inbox(&mut self, row: InboxRow, effects: &mut Effects) {
        // The sender's number where it grows: then a number never comes to mean another message, not
        // even if we forget the last ones and the relay loses them.
        self.last_delivered = self.last_delivered.saturating_add(1).max(row.receipt.id);
        let id = MessageId::new(self.last_delivered);
        effects.delta.put(self.inbox_key(id), row.to_row());
        self.inbox.insert(id.number(), row.receipt);
        effects.event(Event::Message {
            connection: self.id,
            id,
            integrity: row.integrity,
            body: row.body,
        });
    }

    fn take_receipts(&mut self, receipts: &[Receipt<'_>], effects: &mut Effects) {
        for receipt in receipts {
            self.take_receipt(receipt.id, &receipt.hash, effects);
        }
    }

    fn take_receipt(&mut self, id: u64, hash: &[u8; 32], effects: &mut Effects) {
        // After a restart the hashes are gone; the ratchet vouches for the peer's word then.
        let known = self.awaiting.remove(&id);
        let fits = known.is_none_or(|known| known == *hash);
        if fits && id > 1 && id < self.sent.next_id() {
            effects.event(Event::Delivered {
                connection: self.id,
                id: MessageId::new(id),
            });
        }
    }

    /// The application has a message durably.
    pub(super) fn acknowledged(
        &mut self,
        message: MessageId,
        receipts: bool,
        effects: &mut Effects,
    ) {
        let Some(receipt) = self.inbox.remove(&message.number()) else {
            return;
        };
        effects.delta.delete(self.inbox_key(message));
        if receipts && self.stage == Stage::Active {
            if self.receipts.len() >= RECEIPTS_DUE_MAX {
                self.receipts.remove(0);
            }
            self.receipts.push(receipt);
            self.time_receipts(effects);
            effects.changed(self.owner());
        }
        self.let_held_go(effects);
    }
}

impl Address {
    /// Handles a message of the address's queue: the request in it, if it is one.
    pub(super) fn deliver(
        &mut self,
        message: QueueMessageId,
        sealed: &Bytes,
        effects: &mut Effects,
    ) -> Option<(RequestId, Request)> {
        let created = self.receive.created.as_ref()?;
        let opened = created.delivery.open(&message, sealed).ok();
        let request = opened.and_then(|opened| match opened.content() {
            Delivered::QuotaReached { .. } => None,
            Delivered::Message { body, .. } => self.take(body, effects),
        });
        self.receive
            .acknowledge(message, Owner::Address(self.tag), effects);
        request
    }

    fn take(&mut self, body: &[u8], effects: &mut Effects) -> Option<(RequestId, Request)> {
        let fingerprint = fingerprint(body);
        if self.recent.contains(&fingerprint) {
            return None;
        }
        let sealed = SealedBody::read(body).ok()?;
        let key = self.receive.layer_key(&sealed.sender_key?)?;
        let opened = sealed.open(&key).ok()?;
        let Ok(Envelope::Invitation { link, info }) = Envelope::read(opened.envelope()) else {
            return None;
        };
        if self.recent.len() == super::connection::RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(fingerprint);
        effects.changed(Owner::Address(self.tag));
        let request = Request {
            address: self.tag,
            link,
            info: info.to_vec(),
        };
        Some((RequestId::new(fingerprint), request))
    }
}
