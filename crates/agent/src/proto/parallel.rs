//! Queues beside the first one, on either side: so that messages survive a relay that dies, or so that they go
//! faster.
//!
//! | recipient of the queue | sender |
//! |---|---|
//! | `QT`: the queues that I receive on | |
//! | | `QT`: mine; both know now that the other one understands |
//! | `NEW`; `QA`: a queue that replaces none | |
//! | | `QK`: its keys for it |
//! | `KEY`; `QU`: it may be used, too | |
//! | | messages go there as well (see [`Spread`]), each with its number outside the ratchet |
//!
//! SimpleX's agent takes a `QA` that replaces nothing for an error, which it shows to its user, and does nothing on a
//! `QT` whatever that says. So we say `QT` first, and nothing else of this to whoever does not answer. A later `QT`
//! says which queues there still are: what it does not name is not used any more.
//!
//! The relay of each queue sees one more queue, and nothing that belongs together: a copy has other keys, another
//! nonce, and other bytes.

use junto_crypto::{CryptoRng, Zeroizing};
use junto_smp::address::ServerAddress;
use junto_smp::id::RecipientId;
use junto_smp::key::AuthKey;

use super::address::{QueueAddress, QueueInfo, QueueMode, QueueName};
use super::again::{Again, Heard, Repeated};
use super::command::{CallError, Misuse};
use super::connection::{Connection, Stage};
use super::effects::{Effects, Owner, Purpose};
use super::event::ConnectionFault;
use super::message::Body;
use super::newcomer::{Newcomer, Offered, Progress, Step};
use super::noise::is_noise;
use super::offers::Offer;
use super::queue::{ReceiveQueue, SendQueue};
use super::relay::{Answer, RelayId};
use super::rotation::Place;
use super::step::RowKey;
use super::wire::{Malformed, Reader};

/// Queues that a connection uses in one direction, at most, with the first one: each costs its relay a subscription,
/// and the sender of copies a copy of each message.
pub const QUEUES_MAX: usize = 4;

/// How messages go to a peer that receives on several queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Each goes to all queues; whichever copy comes first counts. A message is lost only if all of their relays lose
    /// it.
    #[default]
    Copies,
    /// Each goes to one queue, in turn among those whose relays answer: faster, since a relay gives a recipient one
    /// message of a queue at a time. What a relay took and lost is lost, as with one queue, and the recipient is
    /// told what is missing.
    Stripes,
}

/// Names a queue beside the first one, ours or the peer's; never twice in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u32);

/// What is kept of them.
#[derive(Default)]
pub(super) struct Parallel {
    /// The peer has said that it understands.
    pub(super) understood: bool,
    /// It has been told which queues we receive on, or that is not due.
    pub(super) said: bool,
    pub(super) spread: Spread,
    last_slot: u32,
    /// Ours, in the order in which they came.
    pub(super) ours: Vec<(Slot, Newcomer)>,
    /// The peer's that are in use.
    pub(super) theirs: Vec<(Slot, SendQueue)>,
    /// The peer's that are not yet.
    offered: Vec<Offered>,
    /// When words about queues, on either way of changing them, are said again.
    pub(super) again: Again,
}

impl Parallel {
    fn slot(&mut self) -> Slot {
        self.last_slot = self.last_slot.wrapping_add(1);
        Slot(self.last_slot)
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.push(ROW_VERSION);
        out.push(u8::from(self.understood) | u8::from(self.said) << 1);
        out.push(match self.spread {
            Spread::Copies => b'C',
            Spread::Stripes => b'S',
        });
        out.extend_from_slice(&self.last_slot.to_be_bytes());
        put_all(out, &self.ours, |(slot, ours), out| {
            out.extend_from_slice(&slot.0.to_be_bytes());
            ours.put(out)
        })?;
        put_all(out, &self.theirs, |(slot, send), out| {
            out.extend_from_slice(&slot.0.to_be_bytes());
            send.put(out)
        })?;
        put_all(out, &self.offered, Offered::put)?;
        self.again.put(out);
        Ok(())
    }

    fn read(
        reader: &mut Reader<'_>,
        receive: &ReceiveQueue,
        effects: &mut Effects,
    ) -> Result<Self, Malformed> {
        let version = reader.u8()?;
        if !(ROW_VERSION_OLDEST..=ROW_VERSION).contains(&version) {
            return Err(Malformed::Version);
        }
        let flags = reader.u8()?;
        if flags > 3 {
            return Err(Malformed::Tag);
        }
        Ok(Self {
            understood: flags & 1 != 0,
            said: flags & 2 != 0,
            spread: match reader.u8()? {
                b'C' => Spread::Copies,
                b'S' => Spread::Stripes,
                _ => return Err(Malformed::Tag),
            },
            last_slot: reader.u32()?,
            ours: read_all(reader, |reader| {
                Ok((Slot(reader.u32()?), Newcomer::read(reader, effects)?))
            })?,
            theirs: read_all(reader, |reader| {
                let slot = Slot(reader.u32()?);
                Ok((slot, SendQueue::read(reader, receive, effects)?))
            })?,
            offered: read_all(reader, Offered::read)?,
            again: match version {
                ROW_VERSION_OLDEST => Again::default(),
                _ => Again::read(reader)?,
            },
        })
    }

    /// Whether the peer has said that it understands.
    pub(super) fn is_understood(&self) -> bool {
        self.understood
    }

    /// Whether there is anything to keep.
    pub(super) fn is_used(&self) -> bool {
        self.understood
            || self.said
            || self.last_slot > 0
            || !self.offered.is_empty()
            || self.again.is_used()
    }

    /// Our queues, with their places.
    pub(super) fn queues(&self) -> impl Iterator<Item = (Place, &ReceiveQueue)> {
        let ours = self.ours.iter();
        ours.map(|(slot, ours)| (Place::Parallel(*slot), &ours.queue))
    }

    pub(super) fn ours(&self, slot: Slot) -> Option<&Newcomer> {
        let found = self.ours.iter().find(|(known, _)| *known == slot);
        found.map(|(_, ours)| ours)
    }

    pub(super) fn ours_mut(&mut self, slot: Slot) -> Option<&mut Newcomer> {
        let found = self.ours.iter_mut().find(|(known, _)| *known == slot);
        found.map(|(_, ours)| ours)
    }

    /// The connection to a relay died.
    pub(super) fn disconnected(&mut self, relay: RelayId) {
        let ours = self.ours.iter_mut().map(|(_, ours)| ours);
        ours.filter(|ours| ours.queue.relay == relay)
            .for_each(Newcomer::disconnected);
        let theirs = self.theirs.iter_mut().map(|(_, send)| send);
        theirs
            .filter(|send| send.relay == relay)
            .for_each(SendQueue::disconnected);
    }

    /// What was said about queues may be lost: it is said again.
    pub(super) fn say_again(&mut self) {
        self.said = false;
        self.again.first.say_again();
        for (_, ours) in &mut self.ours {
            ours.say_again();
        }
        self.offered.iter_mut().for_each(Offered::say_again);
    }

    /// Whether the peer has offered this queue beside its others.
    pub(super) fn is_offered(&self, name: &QueueName) -> bool {
        let mut offered = self.offered.iter();
        offered.any(|it| name.names(&it.address))
    }

    /// What the peer was told and has not acted on is said again.
    pub(super) fn say_ours_again(&mut self) {
        // Whoever does not know our list believes nothing else.
        self.said = false;
        self.again.first.say_again();
        for (_, ours) in &mut self.ours {
            ours.say_again();
        }
    }
}

const ROW_VERSION: u8 = 2;
/// Without what is to be said again.
const ROW_VERSION_OLDEST: u8 = 1;

fn put_all<T>(
    out: &mut Vec<u8>,
    items: &[T],
    put: impl Fn(&T, &mut Vec<u8>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    out.push(u8::try_from(items.len()).map_err(|_| Malformed::Long)?);
    items.iter().try_for_each(|item| put(item, out))
}

fn read_all<T>(
    reader: &mut Reader<'_>,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = usize::from(reader.u8()?);
    if count >= QUEUES_MAX {
        return Err(Malformed::Long);
    }
    (0..count).map(|_| read(reader)).collect()
}

impl Connection {
    /// All queues that we receive on, the first one first.
    pub(super) fn receives(&self) -> impl Iterator<Item = (Place, &ReceiveQueue)> {
        core::iter::once((Place::Main, &self.receive))
            .chain(self.rotation.queues())
            .chain(self.parallel.queues())
    }

    /// All queues that we send to, the first one first.
    pub(super) fn sends(&self) -> impl Iterator<Item = &SendQueue> {
        let theirs = self.parallel.theirs.iter().map(|(_, send)| send);
        self.send.iter().chain(theirs)
    }

    /// As [`Connection::sends`].
    pub(super) fn sends_mut(&mut self) -> impl Iterator<Item = &mut SendQueue> {
        let theirs = self.parallel.theirs.iter_mut().map(|(_, send)| send);
        self.send.iter_mut().chain(theirs)
    }

    /// The queue that this owner's commands send to.
    pub(super) fn send_queue(&mut self, owner: Owner) -> Option<&mut SendQueue> {
        let Owner::Parallel(_, slot) = owner else {
            return self.send.as_mut();
        };
        let mut theirs = self.parallel.theirs.iter_mut();
        let found = theirs.find(|(known, _)| *known == slot);
        found.map(|(_, send)| send)
    }

    /// Writes the row of its queues beside the first ones.
    pub(super) fn store_parallel(&self, effects: &mut Effects) {
        let mut out = Zeroizing::new(Vec::with_capacity(512));
        // Every part is bounded below what its length field can say.
        if self.parallel.put(&mut out).is_ok() {
            effects.delta.put(RowKey::Parallel(self.id), out);
        }
        effects.ready(self.owner());
    }

    /// Reads what [`Connection::store_parallel`] wrote.
    pub(super) fn restore_parallel(
        &mut self,
        row: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Malformed> {
        let mut reader = Reader::new(row);
        self.parallel = Parallel::read(&mut reader, &self.receive, effects)?;
        reader.end()
    }

    /// Receives on one more queue, on this relay, as soon as the peer says that it understands that.
    pub(super) fn add_queue(
        &mut self,
        relay: ServerAddress,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        self.check_active()?;
        if self.parallel.ours.len() + 1 >= QUEUES_MAX {
            return Err(Misuse::TooManyQueues.into());
        }
        let slot = self.parallel.slot();
        let queue = Newcomer::new(relay, effects, rng);
        self.parallel.ours.push((slot, queue));
        self.speak_of_queues(effects, rng);
        self.store_parallel(effects);
        Ok(())
    }

    /// Receives no longer on this relay, but for what lies there: on the queue there that came last.
    pub(super) fn remove_queue(
        &mut self,
        relay: &ServerAddress,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        self.check_active()?;
        let is_there =
            |queue: &ReceiveQueue| queue.relay_address().fingerprint() == relay.fingerprint();
        let mut ours = self.parallel.ours.iter();
        let mut at = ours.rposition(|(_, ours)| is_there(&ours.queue));
        let is_first = at.is_none();
        if is_first && is_there(&self.receive) && self.put_another_first(false, effects) {
            at = self.parallel.ours.len().checked_sub(1);
        }
        let at = at.ok_or(Misuse::NoQueue)?;
        let (slot, ours) = self.parallel.ours.remove(at);
        if is_first {
            self.put_next_beside_unless_on(relay, effects);
        }
        effects.forget_receives(Owner::Parallel(self.id, slot));
        self.retire_unread(ours.queue, effects);
        self.parallel.said = false;
        self.say_what_is_left(effects, rng);
        self.acknowledge_held(effects);
        effects.queues_changed();
        self.store_renewal(effects);
        self.store_parallel(effects);
        Ok(())
    }

    /// Chooses how messages go to several queues of the peer.
    pub(super) fn set_spread(
        &mut self,
        spread: Spread,
        effects: &mut Effects,
    ) -> Result<(), CallError> {
        self.check_active()?;
        self.parallel.spread = spread;
        self.drop_taken(effects);
        self.store_parallel(effects);
        Ok(())
    }

    /// Whether messages flow.
    pub(super) fn check_active(&self) -> Result<(), CallError> {
        match self.stage {
            Stage::Active => Ok(()),
            Stage::Hearing => Err(ConnectionFault::PeerGone.into()),
            Stage::Failed(fault) => Err(fault.into()),
            Stage::Leaving(_) | Stage::Deleting => Err(Misuse::NoConnection.into()),
            Stage::Inviting | Stage::Joining | Stage::Confirming => {
                Err(Misuse::NotConnected.into())
            }
        }
    }

    /// Issues what is due for our queues beside the first one. None is made for a peer that may not understand.
    pub(super) fn pump_parallel(&mut self, effects: &mut Effects) {
        for (slot, ours) in &mut self.parallel.ours {
            if self.parallel.understood || ours.queue.created.is_some() {
                ours.pump(Owner::Parallel(self.id, *slot), effects);
            }
        }
    }

    /// Takes the answer to a command about one of ours.
    pub(super) fn parallel_answered(
        &mut self,
        slot: Slot,
        (purpose, answer): (Purpose, Answer),
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let Some(ours) = self.parallel.ours_mut(slot) else {
            return;
        };
        match ours.answered(purpose, answer, effects) {
            Progress::None => {}
            Progress::Speaks => {
                self.speak_of_queues(effects, rng);
                self.store_parallel(effects);
            }
            Progress::Lost => self.parallel_lost(slot, effects, rng),
        }
    }

    /// The relay has none of this queue, or no longer.
    pub(super) fn parallel_lost(
        &mut self,
        slot: Slot,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let Some(at) = self.parallel.ours.iter().position(|it| it.0 == slot) else {
            return;
        };
        let (_, ours) = self.parallel.ours.remove(at);
        let relay = ours.queue.relay_address().clone();
        self.tell(effects, |connection| super::event::Event::RotationFailed {
            connection,
            relay,
        });
        effects.forget_receives(Owner::Parallel(self.id, slot));
        // With one queue left, it waits for none.
        self.acknowledge_held(effects);
        effects.queues_changed();
        if !matches!(ours.step, Step::Making) {
            self.say_what_is_left(effects, rng);
        }
        self.store_parallel(effects);
    }

    /// A message with this number has come on a queue of ours.
    pub(super) fn heard_on(&mut self, place: Place, number: u64, effects: &mut Effects) {
        if let Some(queue) = self.queue_mut(place) {
            queue.last = number;
        }
        if place == Place::Main && self.parallel.again.first != Heard::Yes {
            self.parallel.again.first = Heard::Yes;
            self.store_parallel(effects);
        }
        if let Place::Parallel(slot) = place
            && let Some(ours) = self.parallel.ours_mut(slot)
            && !matches!(ours.step, Step::Live)
        {
            ours.step = Step::Live;
            self.store_parallel(effects);
        }
    }

    /// What is due to be said about queues beside the first ones.
    pub(super) fn speak_of_parallel(&mut self) -> Vec<Body<'static>> {
        let mut bodies = Vec::new();
        let parallel = &self.parallel;
        let is_heard =
            parallel.understood || !parallel.ours.is_empty() || parallel.again.left_out();
        let is_due = !parallel.said && is_heard;
        if is_due {
            bodies.push(self.list_of_queues());
            self.parallel.said = true;
        }
        let ours = self.parallel.ours.iter_mut();
        bodies.extend(ours.filter_map(|(_, ours)| ours.speak(None)));
        bodies.extend(self.parallel.offered.iter_mut().filter_map(Offered::speak));
        bodies
    }

    /// `QT`: which queues the peer receives on, if it names one of those that we send to. Otherwise it is the sender's
    /// word that it uses a new queue of ours, and that it came is what counts; or it is noise.
    pub(super) fn take_list(
        &mut self,
        names: &[QueueName],
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        if let Some(word) = is_noise(names) {
            let was_known = self.is_of_our_kind();
            self.take_noise(word, effects);
            if !was_known && self.is_of_our_kind() {
                self.hasten_words(effects);
            }
            return self.speak_of_queues(effects, rng);
        }
        let is_named = |address: &QueueAddress| names.iter().any(|name| name.names(address));
        let mut answered = self.answered_offers();
        if !self.sends().any(|send| is_named(&send.address))
            && !answered.any(|it| is_named(&it.address))
        {
            return;
        }
        drop(answered);
        let was_known = core::mem::replace(&mut self.parallel.understood, true);
        if !was_known {
            self.hasten_words(effects);
        }
        self.keep_offers(is_named);
        if self.rotation.keep_offered(is_named) {
            self.store_renewal(effects);
        }
        self.parallel.offered.retain(|it| is_named(&it.address));
        // The first one is open, whatever became of the word that says so.
        if let Some(first) = names.first()
            && self.answered_offers().any(|it| first.names(&it.address))
        {
            self.use_queue(&[(first.clone(), true)], effects, rng);
        }
        let theirs = self.parallel.theirs.iter();
        let gone: Vec<_> = theirs
            .filter(|(_, send)| !is_named(&send.address))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in gone {
            self.leave_send(Owner::Parallel(self.id, slot), effects, rng);
        }
        if self.send.as_ref().is_some_and(|it| !is_named(&it.address))
            && !self.rotation.is_leaving()
        {
            self.leave_send(self.owner(), effects, rng);
        }
        if !self.is_answer(names) && was_known && self.parallel.said {
            self.answer_list(names, effects, rng);
        }
        self.speak_of_queues(effects, rng);
        self.store_parallel(effects);
    }

    /// `QA` that replaces nothing: one more queue of the peer.
    pub(super) fn take_addition(
        &mut self,
        offer: &Offer,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let Some(address) = offer.0.negotiated() else {
            return;
        };
        let name = QueueName::of(address);
        let is_known = self.sends().any(|send| name.names(&send.address));
        // Nobody offers one who has not named those that there are.
        if !self.parallel.understood || is_known || address.mode == Some(QueueMode::Contact) {
            return;
        }
        // It was to replace one that the peer has not any more.
        if let Some(offered) = self.rotation.take_back(&name) {
            self.put_offered_beside(offered);
            self.store_renewal(effects);
            self.store_parallel(effects);
        }
        if self.parallel.is_offered(&name) {
            // It did not hear the answer.
            if !self.may_answer(Repeated::Offer, effects) {
                return;
            }
            let mut offered = self.parallel.offered.iter_mut();
            if let Some(offered) = offered.find(|it| name.names(&it.address)) {
                offered.answered = false;
            }
        } else if self.admits_offer(offer, effects) {
            // A peer that goes on offering takes back what it offered first.
            self.put_offered_beside(Offered::new(address, rng));
        } else {
            return;
        }
        self.speak_of_queues(effects, rng);
        self.store_parallel(effects);
    }

    /// `QK` for queues of ours beside the first one.
    pub(super) fn take_parallel_key(
        &mut self,
        info: &QueueInfo,
        key: &AuthKey,
        effects: &mut Effects,
    ) {
        let mut ours = self.parallel.ours.iter_mut();
        if ours.any(|(_, ours)| ours.take_key(info, key)) {
            self.store_parallel(effects);
        }
    }

    /// `QU`: a queue of the peer may be used beside the others. `false` if none was waiting for that.
    pub(super) fn use_addition(
        &mut self,
        name: &QueueName,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> bool {
        let mut offered = self.parallel.offered.iter_mut();
        let Some(at) = offered.position(|it| it.take_use(name)) else {
            return false;
        };
        if self.parallel.theirs.len() + 1 >= QUEUES_MAX {
            // The peer may have given up one on a relay that is away, which cannot say so.
            let theirs = self.parallel.theirs.iter();
            let mut away = theirs.filter(|(_, send)| !effects.is_up(send.relay));
            let Some(slot) = away.next().map(|(slot, _)| *slot) else {
                // It says so again when it has said which ones it has given up.
                self.parallel.offered[at].usable = false;
                return false;
            };
            self.leave_send(Owner::Parallel(self.id, slot), effects, rng);
        }
        let offered = self.parallel.offered.remove(at);
        if let Some(send) = offered.into_queue(&self.receive, effects) {
            let is_first = self.parallel.theirs.is_empty();
            let slot = self.parallel.slot();
            self.parallel.theirs.push((slot, send));
            self.opened();
            if is_first {
                // From now on copies may come late: they say which they are.
                self.seal_outbox_anew(None, effects, rng);
            }
            effects.queues_changed();
        }
        self.store_parallel(effects);
        true
    }

    /// Queues that the peer offers, which it has our keys for or soon will.
    fn answered_offers(&self) -> impl Iterator<Item = &Offered> {
        self.offers_taken().filter(|offered| offered.answered)
    }

    fn offers_taken(&self) -> impl Iterator<Item = &Offered> {
        let offered = self.rotation.offered().into_iter();
        offered.chain(&self.parallel.offered)
    }

    /// All queues that the peer offers, with those that wait.
    pub(super) fn all_offers(&self) -> impl Iterator<Item = &QueueAddress> {
        let taken = self.offers_taken().map(|offered| &offered.address);
        taken.chain(self.offers.waiting())
    }

    /// Whether the peer is yet to open a queue to us.
    fn is_to_be_opened(&self) -> bool {
        self.answered_offers().next().is_some()
    }

    /// Whether the peer's queue that this owner's commands send to is the last one, but for what it is yet to open:
    /// what waits is kept then, even if the queue is no more.
    pub(super) fn waits_for_another(&self, owner: Owner) -> bool {
        let is_last = !matches!(owner, Owner::Parallel(..)) && self.parallel.theirs.is_empty();
        is_last && !self.rotation.is_leaving() && self.is_to_be_opened()
    }

    /// A queue of the peer is no more: the others go on, if there are any.
    pub(super) fn leave_send(
        &mut self,
        owner: Owner,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        match owner {
            Owner::Parallel(_, slot) => self.parallel.theirs.retain(|(known, _)| *known != slot),
            // The one that was to take its place does so now.
            _ if self.rotation.is_leaving() && self.leave_for_offered(effects, rng) => return,
            // What waits goes there, when it may.
            _ if self.parallel.theirs.is_empty() && self.is_to_be_opened() => {
                return effects.ready(self.owner());
            }
            _ if self.parallel.theirs.is_empty() => {
                return self.lose_peer(effects);
            }
            _ => {
                self.send_first_to(0, effects, rng);
                self.parallel.theirs.pop();
                if let Some(offered) = self.rotation.take_offered() {
                    self.put_offered_beside(offered);
                    self.store_renewal(effects);
                }
            }
        }
        effects.forget_sends(owner);
        effects.queues_changed();
        effects.changed(self.owner());
        self.drop_taken(effects);
        self.store_parallel(effects);
    }

    /// Makes one of the peer's queues the first one, which goes behind the others.
    pub(super) fn send_first_to(
        &mut self,
        at: usize,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        if at >= self.parallel.theirs.len() {
            return;
        }
        let (slot, mut first) = self.parallel.theirs.remove(at);
        first.disconnected();
        let Some(mut old) = self.send.replace(first) else {
            return;
        };
        old.disconnected();
        self.seal_outbox_anew(Some(&old.layer_key), effects, rng);
        effects.forget_sends(self.owner());
        effects.forget_sends(Owner::Parallel(self.id, slot));
        let slot = self.parallel.slot();
        self.parallel.theirs.push((slot, old));
        effects.changed(self.owner());
        self.store_parallel(effects);
    }

    /// Makes the queue of ours that has waited longest the first one, which goes behind the others: one that the peer
    /// uses, or any that is open to it if there is need. `false` if none can be.
    pub(super) fn put_another_first(&mut self, is_used: bool, effects: &mut Effects) -> bool {
        let ours = || self.parallel.ours.iter();
        let used = ours().position(|(_, ours)| matches!(ours.step, Step::Live));
        let open = ours().position(|(_, ours)| ours.is_open() && !is_used);
        let Some(at) = used.or(open) else {
            return false;
        };
        // What comes before on another queue is put in order as with all others.
        self.end_drain(effects);
        let (slot, mut first) = self.parallel.ours.remove(at);
        first.disconnected();
        let heard = Heard::of(&first.step);
        let mut old = core::mem::replace(&mut self.receive, first.queue);
        old.disconnected();
        let mut old = Newcomer::live(old);
        old.step = core::mem::replace(&mut self.parallel.again.first, heard).step();
        effects.forget_receives(self.owner());
        effects.forget_receives(Owner::Parallel(self.id, slot));
        let slot = self.parallel.slot();
        self.parallel.ours.push((slot, old));
        effects.queues_changed();
        effects.changed(self.owner());
        self.store_parallel(effects);
        true
    }

    /// The queue that another one was to replace is gone, and none is to be replaced in its stead: the new one stands
    /// beside the others.
    fn put_next_beside(&mut self, effects: &mut Effects) {
        let Some(next) = self.rotation.next.take() else {
            return;
        };
        let slot = self.parallel.slot();
        effects.rename(Owner::Next(self.id), Owner::Parallel(self.id, slot));
        self.parallel.ours.push((slot, *next));
        effects.queues_changed();
        self.store_renewal(effects);
        self.store_parallel(effects);
    }

    /// The same, but nothing is to be received on this relay.
    fn put_next_beside_unless_on(&mut self, relay: &ServerAddress, effects: &mut Effects) {
        let is_there = |next: &mut Box<Newcomer>| {
            next.queue.relay_address().fingerprint() == relay.fingerprint()
        };
        match self.rotation.next.take_if(is_there) {
            Some(next) => {
                effects.forget_receives(Owner::Next(self.id));
                self.retire_unread(next.queue, effects);
            }
            None => self.put_next_beside(effects),
        }
    }

    /// The same for a queue of the peer.
    fn put_offered_beside(&mut self, offered: Offered) {
        if self.parallel.offered.len() + 1 >= QUEUES_MAX {
            self.parallel.offered.remove(0);
        }
        self.parallel.offered.push(offered);
    }

    /// The relay no longer has our first queue; another one takes its place. `false` if there is none.
    pub(super) fn outlives(&mut self, lost: Option<RecipientId>, effects: &mut Effects) -> bool {
        if self.stage != Stage::Active || !self.put_another_first(false, effects) {
            return false;
        }
        self.parallel.ours.retain(|(_, ours)| {
            let created = ours.queue.created.as_ref();
            created.map(|created| created.recipient_id) != lost
        });
        self.put_next_beside(effects);
        self.acknowledge_held(effects);
        self.store_parallel(effects);
        true
    }
}

#[cfg(test)]
pub(super) mod tests;
