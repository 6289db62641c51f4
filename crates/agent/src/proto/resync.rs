//! New ratchet keys for a connection whose ratchets have parted, because a side went back to an old copy of
//! its database, say.
//!
//! Either side sends `R` with fresh keys, outside of the ratchet; the other one answers with its own. Both
//! make the same new ratchet of the two, the one with the smaller fingerprint receives first, and the other
//! one says `E` in it, which the first answers. If both start at once, neither answers: each takes the other's
//! keys for the answer. From its `R` until it can read what the peer says in the new ratchet, a side says
//! nothing else.
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

/// How long the answer to the first word in a new ratchet may take before the application may ask for another one.
const AGREED_PATIENCE: Duration = Duration::from_secs(60);

/// How long that word itself may take, of a peer that may be SimpleX's agent: a request that crosses it is an error there.
/// Not for ever, since a relay can lose it, and nobody says it again.
const WORD_PATIENCE: u64 = 60 * 60;

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
    /// The peer has been sent the public ones of these.
    Asked(Box<MakerKeys>),
    /// The new ratchet is there; the peer has not said anything in it yet.
    Agreed,
}

/// What is kept of it, beside the connection's row.
pub(super) struct Resynchronisation {
    pub(super) sync: Sync,
    /// Fingerprints of the peer's keys.
    taken: Vec<[u8; 32]>,
    /// Keys answered since the last message that could be read.
    haste: u8,
    /// Outbox rows that everything before them must have passed, and nothing behind them.
    pub(super) barriers: Vec<u64>,
    /// When the last new ratchet was made, in seconds since 1970; 0 if we did not count.
    agreed_at: u64,
}

impl Default for Resynchronisation {
    fn default() -> Self {
        Self {
            sync: Sync::Settled,
            taken: Vec::new(),
            haste: 0,
            barriers: Vec::new(),
            agreed_at: 0,
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
            Sync::Asked(keys) => {
                out.push(b'K');
                put_large(out, &keys.encode())?;
            }
            Sync::Agreed => {
                out.push(b'a');
                out.extend_from_slice(&self.agreed_at.to_be_bytes());
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
        let mut agreed_at = 0;
        let sync = match reader.u8()? {
            b'S' => Sync::Settled,
            b'B' => Sync::Broken(None),
            b'P' => {
                let params = Params::decode(reader.large()?).map_err(|_| Malformed::Key)?;
                Sync::Broken(Some(Box::new(params)))
            }
            b'K' => {
                let keys = MakerKeys::decode(reader.large()?).map_err(|_| Malformed::Key)?;
                Sync::Asked(Box::new(keys))
            }
            b'A' => Sync::Agreed,
            b'a' => {
                agreed_at = reader.u64()?;
                Sync::Agreed
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
            agreed_at,
        })
    }
}

impl Connection {
    /// Whether messages may be sent: not while the peer changes to a new ratchet.
    pub(super) fn may_speak(&self) -> bool {
        match self.resync.sync {
            Sync::Settled | Sync::Broken(_) => true,
            Sync::Asked(_) | Sync::Agreed => false,
        }
    }

    /// Asks the peer for a new ratchet, or gives it the answer that it waits for. Nothing if it was asked
    /// already; refused while both have the new ratchet and its first word is awaited.
    pub(super) fn resynchronise(
        &mut self,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        self.check_active()?;
        match core::mem::replace(&mut self.resync.sync, Sync::Settled) {
            Sync::Asked(keys) => self.resync.sync = Sync::Asked(keys),
            Sync::Agreed if self.awaits_word(effects) => {
                self.resync.sync = Sync::Agreed;
                return Err(Misuse::Renewing.into());
            }
            Sync::Broken(Some(params)) => {
                if self.answer_keys(&params, effects, rng).is_err() {
                    self.resync.sync = Sync::Broken(None);
                }
            }
            Sync::Settled | Sync::Broken(None) | Sync::Agreed => {
                let keys = MakerKeys::generate(true, rng);
                self.send_keys(&keys, Version::MAX, effects, rng)?;
                self.resync.sync = Sync::Asked(Box::new(keys));
            }
        }
        self.store_renewal(effects);
        Ok(())
    }

    /// Whether a request would cross the peer's word, which is on its way. To SimpleX's agent one that comes before ours is an
    /// error, after which both would take each other's next keys for an answer for ever. Who speaks first has said it;
    /// what comes after that is a request like any other, as soon as it makes sense. Of our kind nobody errs.
    fn awaits_word(&self, effects: &Effects) -> bool {
        let is_soon = self.agreed_until.is_some_and(|until| effects.now < until);
        let at = self.resync.agreed_at;
        let may_come = at..at.saturating_add(WORD_PATIENCE);
        let may_err = !self.can_send() && !self.is_of_our_kind();
        is_soon || (may_err && may_come.contains(&effects.unix_seconds()))
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
        let agreed = match core::mem::replace(&mut self.resync.sync, Sync::Settled) {
            Sync::Asked(keys) => match keys.renew(params, Options::default(), rng) {
                Ok(ratchet) => {
                    self.change_to(ratchet, effects, rng);
                    Ok(())
                }
                Err(_) => {
                    self.resync.sync = Sync::Asked(keys);
                    Err(Unusable::Unreadable)
                }
            },
            Sync::Agreed if self.resync.haste >= HASTE_MAX => {
                self.resync.sync = Sync::Broken(Some(Box::new(params.clone())));
                effects.event(Event::RatchetBroken {
                    connection: self.id,
                });
                Ok(())
            }
            before @ (Sync::Settled | Sync::Broken(_) | Sync::Agreed) => {
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

    fn answer_keys(
        &mut self,
        params: &Params,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Unusable> {
        let keys = MakerKeys::generate(true, rng);
        let renewed = keys.renew(params, Options::default(), rng);
        let ratchet = renewed.map_err(|_| Unusable::Unreadable)?;
        self.send_keys(&keys, params.version, effects, rng)
            .map_err(|_| Unusable::Unreadable)?;
        self.resync.haste = self.resync.haste.saturating_add(1);
        self.change_to(ratchet, effects, rng);
        Ok(())
    }

    /// Puts fresh keys for the peer into the outbox.
    fn send_keys(
        &mut self,
        keys: &MakerKeys,
        version: Version,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        const TOO_LONG: CallError = CallError::Defect("new keys do not fit their envelope");
        let send = self.send.as_ref().ok_or(Misuse::NotConnected)?;
        let mut plain = Vec::new();
        let info = AgentMessage::RatchetInfo(&[]);
        info.put(&mut plain).map_err(|_| TOO_LONG)?;
        let mut envelope = Vec::new();
        Envelope::RatchetKey {
            offer: Box::new(keys.params(version)),
            info: &plain,
        }
        .put(&mut envelope)
        .map_err(|_| TOO_LONG)?;
        let sealed = layer::seal(&send.layer_key, None, &envelope, rng).map_err(|_| TOO_LONG)?;
        let number = self.sent.next_id();
        self.sent.push(&plain);
        self.resync.barriers.push(number);
        self.put_outbox(number, sealed, effects);
        Ok(())
    }

    /// Goes over to the new ratchet.
    fn change_to(&mut self, mut ratchet: Ratchet, effects: &mut Effects, rng: &mut impl CryptoRng) {
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
        self.resync.sync = Sync::Agreed;
        self.resync.agreed_at = effects.unix_seconds();
        self.agreed_until = Some(effects.now.after(AGREED_PATIENCE));
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
        let is_first = matches!(self.resync.sync, Sync::Agreed);
        match self.resync.sync {
            Sync::Settled | Sync::Asked(_) => return false,
            Sync::Broken(_) | Sync::Agreed => {}
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
        if reader.u8()? != RENEWAL_VERSION {
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
const RENEWAL_VERSION: u8 = 1;

/// Whether a failed decryption says that the two ratchets have parted.
pub(super) fn is_parting(error: RatchetError) -> bool {
    matches!(
        error,
        RatchetError::UnknownHeader | RatchetError::TooManySkipped
    )
}

#[cfg(test)]
mod tests;
