//! New ratchet keys for a connection whose ratchets have parted, because a side went back to an old copy of
//! its database, say.
//!
//! Either side sends `R` with fresh keys, outside of the ratchet; the other one answers with its own. Both
//! make the same new ratchet of the two, the one with the smaller fingerprint receives first, and the other
//! one says `E` in it, which the first answers. If both start at once, neither answers: each takes the other's
//! keys for the answer. From its `R` until it can read what the peer says in the new ratchet, a side says
//! nothing else.
//!
//! Relays lose things. So a side that waits says *the same* again when it is asked to: keys that the other one has
//! heard already change nothing there, and to ours they say what is missed: it says its own last word again. Never
//! other keys, which SimpleX's agent would take for an error or for an answer. An answer of ours names the keys that it
//! answers, in the part of `R` that SimpleX's agent does not read: one that a side cannot know any more, since it came
//! back from a backup, is not taken for another one.
//!
//! What was encrypted with the old ratchet and not read before the peer's `R` is lost; the number of the `E`
//! shows how much: `R` takes one of the chain. Nobody sends it again, neither does the protocol's own agent.
//!
//! `R` is authenticated by the keys of the queue alone. So the binding changes, and the application is told:
//! whatever was verified with the old one is to be verified again.

use std::time::Duration;

use junto_crypto::{CryptoRng, Zeroizing};
use junto_ratchet::{MakerKeys, Options, Params, Ratchet, RatchetError, Version};

use super::chain::Integrity;
use super::command::{CallError, Misuse};
use super::connection::{Connection, Keys, Stage};
use super::effects::{Effects, Timer};
use super::envelope::Envelope;
use super::event::Event;
use super::handshake::{Unusable, set_pace};
use super::layer;
use super::message::{AgentMessage, Body};
use super::rotation::Rotation;
use super::step::RowKey;
use super::wire::{Malformed, Reader, put_large};

/// Keys of the peer that one connection takes in its life, 32 B each: all are remembered, so that a relay
/// that delivers one again brings nothing about.
pub(super) const KEYS_MAX: usize = 256;

/// Keys that are answered although the answer to the ones before is not used yet. More would let two
/// agents that misunderstand each other answer each other for ever.
const HASTE_MAX: u8 = 3;

/// How long what was said about keys may take to be answered before it is said again.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the agent starts by itself at most: a relay can cause it, with a message from long ago.
pub const RESYNC_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Who may give a connection new keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resync {
    /// Nobody: for applications that rest on the binding that the connection began with. A peer's attempt
    /// is an [`Event::Unreadable`].
    Refused,
    /// The peer, and the application.
    OnDemand,
    /// The agent as well, when it finds that what the peer sends cannot be read, once in [`RESYNC_PAUSE`].
    #[default]
    Automatic,
}

/// How far the two sides are.
pub(super) enum Sync {
    /// As far as we know they have the same ratchet.
    Settled,
    /// They have not. The peer's keys, if it has sent some that we did not answer.
    Broken(Option<Box<Params>>),
    /// The peer has been sent these.
    Asked(Box<Own>),
    /// The new ratchet is there; the peer has not said anything in it yet. With our keys in it, unless a version before
    /// this one has not kept them.
    Agreed(Option<Box<Own>>),
}

/// Keys of ours that the peer has been sent, and may be sent again.
pub(super) struct Own {
    keys: MakerKeys,
    version: Version,
    /// Whose fingerprint they are the answer to.
    answers: Option<Fingerprint>,
    /// Which of our messages they are. A version before this one has not kept it.
    number: Option<u64>,
}

type Fingerprint = [u8; 32];

impl Own {
    fn generate(version: Version, answers: Option<Fingerprint>, rng: &mut impl CryptoRng) -> Self {
        Self {
            keys: MakerKeys::generate(true, rng),
            version,
            answers,
            number: None,
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        self.keys.params(self.version).fingerprint()
    }

    fn put(&self, out: &mut Zeroizing<Vec<u8>>) -> Result<(), Malformed> {
        put_large(out, &self.keys.encode())?;
        out.extend_from_slice(&self.version.number().to_be_bytes());
        out.extend_from_slice(&self.answers.unwrap_or_default());
        out.extend_from_slice(&self.number.unwrap_or(0).to_be_bytes());
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Box<Self>, Malformed> {
        let keys = MakerKeys::decode(reader.large()?).map_err(|_| Malformed::Key)?;
        let version = Version::from_number(reader.u16()?).map_err(|_| Malformed::Version)?;
        let (answers, number) = (reader.array()?, reader.u64()?);
        Ok(Box::new(Self {
            keys,
            version,
            answers: (answers != Fingerprint::default()).then_some(answers),
            number: (number != 0).then_some(number),
        }))
    }
}

/// What is kept of it, beside the connection's row.
pub(super) struct Resynchronisation {
    pub(super) sync: Sync,
    /// Fingerprints of the peer's keys.
    taken: Vec<Fingerprint>,
    /// Keys answered since the last message that could be read.
    haste: u8,
    /// Outbox rows that everything before them must have passed, and nothing behind them.
    pub(super) barriers: Vec<u64>,
}

impl Default for Resynchronisation {
    fn default() -> Self {
        Self {
            sync: Sync::Settled,
            taken: Vec::new(),
            haste: 0,
            barriers: Vec::new(),
        }
    }
}

impl Resynchronisation {
    /// Whether the connection's keys are not the first ones.
    pub(super) fn is_renewed(&self) -> bool {
        !self.taken.is_empty()
    }

    pub(super) fn put(&self, out: &mut Zeroizing<Vec<u8>>) -> Result<(), Malformed> {
        match &self.sync {
            Sync::Settled => out.push(b'S'),
            Sync::Broken(None) => out.push(b'B'),
            Sync::Broken(Some(params)) => {
                out.push(b'P');
                put_large(out, &params.encode())?;
            }
            Sync::Asked(own) => {
                out.push(b'Q');
                own.put(out)?;
            }
            Sync::Agreed(None) => out.push(b'A'),
            Sync::Agreed(Some(own)) => {
                out.push(b'G');
                own.put(out)?;
            }
        }
        let taken = u16::try_from(self.taken.len()).map_err(|_| Malformed::Long)?;
        out.extend_from_slice(&taken.to_be_bytes());
        self.taken.iter().for_each(|it| out.extend_from_slice(it));
        out.push(self.haste);
        let barriers = u16::try_from(self.barriers.len()).map_err(|_| Malformed::Long)?;
        out.extend_from_slice(&barriers.to_be_bytes());
        let numbers = self.barriers.iter();
        numbers.for_each(|it| out.extend_from_slice(&it.to_be_bytes()));
        Ok(())
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let sync = match reader.u8()? {
            b'S' => Sync::Settled,
            b'B' => Sync::Broken(None),
            b'P' => {
                let params = Params::decode(reader.large()?).map_err(|_| Malformed::Key)?;
                Sync::Broken(Some(Box::new(params)))
            }
            // Of versions before this one, as is `a`, which has a time.
            b'K' => {
                let keys = MakerKeys::decode(reader.large()?).map_err(|_| Malformed::Key)?;
                Sync::Asked(Box::new(Own {
                    keys,
                    version: Version::MAX,
                    answers: None,
                    number: None,
                }))
            }
            b'Q' => Sync::Asked(Own::read(reader)?),
            b'G' => Sync::Agreed(Some(Own::read(reader)?)),
            b'A' => Sync::Agreed(None),
            b'a' => {
                reader.u64()?;
                Sync::Agreed(None)
            }
            _ => return Err(Malformed::Tag),
        };
        let count = usize::from(reader.u16()?);
        if count > KEYS_MAX {
            return Err(Malformed::Long);
        }
        let taken = (0..count)
            .map(|_| reader.array())
            .collect::<Result<_, _>>()?;
        let haste = reader.u8()?;
        let count = reader.u16()?;
        let barriers = (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        Ok(Self {
            sync,
            taken,
            haste,
            barriers,
        })
    }
}

impl Connection {
    /// Whether messages may be sent: not while the peer changes to a new ratchet.
    pub(super) fn may_speak(&self) -> bool {
        match self.resync.sync {
            Sync::Settled | Sync::Broken(_) => true,
            Sync::Asked(_) | Sync::Agreed(_) => false,
        }
    }

    /// Asks the peer for a new ratchet, or gives it the answer that it waits for. What was said already and not answered is
    /// said again, after a while; refused until then if both have the new ratchet.
    pub(super) fn resynchronise(
        &mut self,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        self.check_active()?;
        match &self.resync.sync {
            Sync::Asked(_) if self.is_soon(effects) => {}
            Sync::Agreed(_) if self.is_soon(effects) => return Err(Misuse::Renewing.into()),
            Sync::Asked(_) | Sync::Agreed(Some(_)) => self.say_again(effects, rng)?,
            Sync::Broken(Some(params)) => {
                let params = params.clone();
                if self.answer_keys(&params, effects, rng).is_err() {
                    self.resync.sync = Sync::Broken(None);
                }
            }
            Sync::Settled | Sync::Broken(None) | Sync::Agreed(None) => {
                let own = Own::generate(Version::MAX, None, rng);
                let own = self.send_keys(own, effects, rng)?;
                self.resync.sync = Sync::Asked(own);
            }
        }
        self.store_renewal(effects);
        Ok(())
    }

    /// Whether what we said about keys may still be answered.
    fn is_soon(&self, effects: &Effects) -> bool {
        self.keys_said_until
            .is_some_and(|until| effects.now < until)
    }

    /// Says our keys again, and our first word in the new ratchet. Nothing while a relay has not taken what was said.
    fn say_again(
        &mut self,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        let (own, is_agreed) = match core::mem::replace(&mut self.resync.sync, Sync::Settled) {
            Sync::Asked(own) => (own, false),
            Sync::Agreed(Some(own)) => (own, true),
            other => {
                self.resync.sync = other;
                return Ok(());
            }
        };
        let mut own = own;
        let said = match self.has_untaken(u64::MAX) {
            true => Ok(()),
            false => self.put_keys(&mut own, effects, rng),
        };
        let speaks = is_agreed && said.is_ok() && self.can_send();
        self.resync.sync = match is_agreed {
            true => Sync::Agreed(Some(own)),
            false => Sync::Asked(own),
        };
        if speaks {
            self.say_ready(effects, rng);
        }
        said
    }

    /// Something of the peer cannot be read for a reason that parted ratchets have.
    pub(super) fn found_broken(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        // Messages in the old ratchet may still come in the middle of a change.
        if !self.may_speak() || self.stage != Stage::Active {
            return;
        }
        if matches!(self.resync.sync, Sync::Settled) {
            self.resync.sync = Sync::Broken(None);
            effects.event(Event::RatchetBroken {
                connection: self.id,
            });
            self.store_renewal(effects);
        }
        if effects.resync == Resync::Automatic && self.resync_at.is_none_or(|at| at <= effects.now)
        {
            self.resync_at = Some(effects.now.after(RESYNC_PAUSE));
            // The sizes are constants: nothing can go wrong that waiting would not bring again.
            let _ = self.resynchronise(effects, rng);
        }
    }

    /// Takes keys of the peer, and the agent message that travels beside them.
    pub(super) fn take_keys(
        &mut self,
        (params, plain): (&Params, &[u8]),
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Unusable> {
        if self.stage != Stage::Active {
            return Err(Unusable::Ignored);
        }
        if effects.resync == Resync::Refused {
            return Err(Unusable::Unreadable);
        }
        let fingerprint = params.fingerprint();
        if self.resync.taken.last() == Some(&fingerprint) {
            return self.hear_again(effects, rng);
        }
        if self.resync.taken.contains(&fingerprint) {
            return Err(Unusable::Ignored);
        }
        if self.resync.taken.len() >= KEYS_MAX {
            return Err(Unusable::Unreadable);
        }
        self.resync.taken.push(fingerprint);
        // What others overtook was encrypted before, and would have come before.
        self.release_all(effects, rng);
        self.received.count(plain);
        let answers = answered(plain);
        let is_ours = |own: &Own| answers.is_none_or(|it| it == own.fingerprint());
        let is_answer = |own: &Own| answers.is_some() && is_ours(own);
        let agreed = match core::mem::replace(&mut self.resync.sync, Sync::Settled) {
            // What it answers was said by a copy of this profile.
            Sync::Asked(own) if !is_ours(&own) => {
                self.resync.sync = Sync::Asked(own);
                Ok(())
            }
            Sync::Asked(mut own) => {
                let is_late = !self.is_soon(effects) && !self.has_untaken(u64::MAX);
                if answers.is_none() && is_late {
                    // Not an answer, perhaps: ours was lost. Sizes are constants.
                    let _ = self.put_keys(&mut own, effects, rng);
                }
                self.use_answer((own, false), params, effects, rng)
            }
            // To the peer they were new when they were said again: it came back from a backup.
            Sync::Agreed(Some(own)) if is_answer(&own) => {
                self.use_answer((own, true), params, effects, rng)
            }
            Sync::Agreed(_) if self.resync.haste >= HASTE_MAX => {
                self.resync.sync = Sync::Broken(Some(Box::new(params.clone())));
                effects.event(Event::RatchetBroken {
                    connection: self.id,
                });
                Ok(())
            }
            before @ (Sync::Settled | Sync::Broken(_) | Sync::Agreed(_)) => {
                let agreed = self.answer_keys(params, effects, rng);
                if agreed.is_err() {
                    self.resync.sync = before;
                }
                agreed
            }
        };
        self.store_renewal(effects);
        agreed
    }

    /// Makes the new ratchet of keys that answer ours.
    fn use_answer(
        &mut self,
        (own, was_agreed): (Box<Own>, bool),
        params: &Params,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Unusable> {
        match own.keys.renew(params, Options::default(), rng) {
            Ok(ratchet) => {
                self.change_to(ratchet, own, effects, rng);
                Ok(())
            }
            Err(_) => {
                self.resync.sync = match was_agreed {
                    true => Sync::Agreed(Some(own)),
                    false => Sync::Asked(own),
                };
                Err(Unusable::Unreadable)
            }
        }
    }

    /// The peer says its last keys again: it waits for something that we have said. Or a relay repeats them.
    fn hear_again(
        &mut self,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Unusable> {
        if self.is_soon(effects) {
            return Err(Unusable::Ignored);
        }
        match self.resync.sync {
            Sync::Agreed(_) => self
                .say_again(effects, rng)
                .map_err(|_| Unusable::Unreadable)?,
            Sync::Settled => self.say_ready(effects, rng),
            Sync::Asked(_) | Sync::Broken(_) => return Err(Unusable::Ignored),
        }
        self.keys_said_until = Some(effects.now.after(PATIENCE));
        self.store_renewal(effects);
        Ok(())
    }

    fn answer_keys(
        &mut self,
        params: &Params,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Unusable> {
        let answers = Some(params.fingerprint());
        let own = Own::generate(params.version, answers, rng);
        let renewed = own.keys.renew(params, Options::default(), rng);
        let ratchet = renewed.map_err(|_| Unusable::Unreadable)?;
        let own = self
            .send_keys(own, effects, rng)
            .map_err(|_| Unusable::Unreadable)?;
        self.resync.haste = self.resync.haste.saturating_add(1);
        self.change_to(ratchet, own, effects, rng);
        Ok(())
    }

    /// Puts fresh keys for the peer into the outbox.
    fn send_keys(
        &mut self,
        own: Own,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<Box<Own>, CallError> {
        let mut own = Box::new(own);
        self.put_keys(&mut own, effects, rng)?;
        Ok(own)
    }

    /// The same for keys that the peer may have been sent before. They count as one message, however often they go.
    fn put_keys(
        &mut self,
        own: &mut Own,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        const TOO_LONG: CallError = CallError::Defect("new keys do not fit their envelope");
        let send = self.send.as_ref().ok_or(Misuse::NotConnected)?;
        let mut plain = Vec::new();
        let answers = own.answers.as_ref().map_or(&[][..], |it| &it[..]);
        let info = AgentMessage::RatchetInfo(answers);
        info.put(&mut plain).map_err(|_| TOO_LONG)?;
        let mut envelope = Vec::new();
        Envelope::RatchetKey {
            offer: Box::new(own.keys.params(own.version)),
            info: &plain,
        }
        .put(&mut envelope)
        .map_err(|_| TOO_LONG)?;
        let sealed = layer::seal(&send.layer_key, None, &envelope, rng).map_err(|_| TOO_LONG)?;
        let number = own.number.unwrap_or_else(|| {
            let number = self.sent.next_id();
            self.sent.push(&plain);
            number
        });
        own.number = Some(number);
        self.resync.barriers.push(number);
        self.put_outbox(number, sealed, effects);
        self.keys_said_until = Some(effects.now.after(PATIENCE));
        Ok(())
    }

    /// Goes over to the new ratchet.
    fn change_to(
        &mut self,
        mut ratchet: Ratchet,
        own: Box<Own>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        set_pace(&mut ratchet, effects.post_quantum);
        let (binding, is_first) = (ratchet.binding(), ratchet.can_send());
        self.keys = Keys::Agreed(Box::new(ratchet));
        self.forget_late(effects);
        self.rotation.say_again();
        self.parallel.say_again();
        if self.parallel.is_used() {
            self.store_parallel(effects);
        }
        self.slots.say_again();
        if self.slots.is_used() {
            self.store_slots(effects);
        }
        self.resync.sync = Sync::Agreed(Some(own));
        self.keys_said_until = Some(effects.now.after(PATIENCE));
        effects.event(Event::Renewed {
            connection: self.id,
            tag: self.tag,
            binding,
        });
        if is_first {
            self.say_ready(effects, rng);
        }
        effects.changed(self.owner());
    }

    fn say_ready(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        let last = self.received.expected_id() - 1;
        // Sizes are constants.
        let _ = self.enqueue(&Body::Ready(last), effects, rng);
    }

    /// The peer has said something that can be read, in a ratchet that could not send before if `was_silent`.
    /// `true` if it is the first thing in a new one.
    pub(super) fn heard(
        &mut self,
        was_silent: bool,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> bool {
        let is_first = matches!(self.resync.sync, Sync::Agreed(_));
        match self.resync.sync {
            Sync::Settled | Sync::Asked(_) => return false,
            Sync::Broken(_) | Sync::Agreed(_) => {}
        }
        self.resync.sync = Sync::Settled;
        self.resync.haste = 0;
        if is_first && was_silent {
            self.say_ready(effects, rng);
        }
        if !is_first {
            // It was not broken after all.
            effects.event(Event::Synchronised {
                connection: self.id,
                missing: 0,
            });
        }
        self.store_renewal(effects);
        is_first
    }

    /// The peer has the new ratchet.
    pub(super) fn take_ready(&mut self, integrity: Integrity, effects: &mut Effects) {
        let missing = match integrity {
            Integrity::Skipped { from, to } => (to - from).saturating_add(1),
            _ => 0,
        };
        effects.event(Event::Synchronised {
            connection: self.id,
            missing,
        });
    }

    /// Goes on with what waited for the ratchet.
    pub(super) fn resume(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if self.may_speak() && self.stage == Stage::Active {
            self.speak_of_queues(effects, rng);
            self.admit_waiting(effects, rng);
            if self.slots.wants_receipts(!self.receipts.is_empty()) && !self.receipts_timed {
                self.receipts_timed = true;
                effects.wake_after(Duration::ZERO, Timer::Receipts(self.id));
            }
        }
    }

    /// A row that nothing may overtake has arrived.
    pub(super) fn passed(&mut self, number: u64, effects: &mut Effects) {
        if let Some(at) = self.resync.barriers.iter().position(|it| *it == number) {
            self.resync.barriers.swap_remove(at);
            self.store_renewal(effects);
        }
    }

    /// Writes the row that changes beside the connection's.
    pub(super) fn store_renewal(&self, effects: &mut Effects) {
        let mut out = Zeroizing::new(Vec::with_capacity(512));
        out.push(RENEWAL_VERSION);
        // Every part is bounded below what its length field can say.
        if self.resync.put(&mut out).is_ok() && self.rotation.put(&mut out).is_ok() {
            effects.delta.put(RowKey::Renewal(self.id), out);
        }
    }

    /// Reads what [`Connection::store_renewal`] wrote.
    pub(super) fn restore_renewal(
        &mut self,
        row: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Malformed> {
        let mut reader = Reader::new(row);
        if !(RENEWAL_VERSION_OLDEST..=RENEWAL_VERSION).contains(&reader.u8()?) {
            return Err(Malformed::Version);
        }
        self.resync = Resynchronisation::read(&mut reader)?;
        self.rotation = Rotation::read(&mut reader, effects)?;
        reader.end()?;
        if let (true, Stage::Active, Keys::Agreed(ratchet)) =
            (self.resync.is_renewed(), self.stage, &self.keys)
        {
            effects.event(Event::Renewed {
                connection: self.id,
                tag: self.tag,
                binding: ratchet.binding(),
            });
        }
        Ok(())
    }
}

/// Format of the row beside a connection's.
const RENEWAL_VERSION: u8 = 2;
/// The oldest one that is still read.
const RENEWAL_VERSION_OLDEST: u8 = 1;

/// The fingerprint of the keys that others answer, if they say so.
fn answered(plain: &[u8]) -> Option<Fingerprint> {
    match AgentMessage::read(plain) {
        Ok(AgentMessage::RatchetInfo(info)) => info.try_into().ok(),
        Ok(_) | Err(_) => None,
    }
}

/// Whether a failed decryption says that the two ratchets have parted.
pub(super) fn is_parting(error: RatchetError) -> bool {
    matches!(
        error,
        RatchetError::UnknownHeader | RatchetError::TooManySkipped
    )
}

#[cfg(test)]
mod tests;
