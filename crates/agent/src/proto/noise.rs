//! Noise: a connection that sends at times which have nothing to do with what its application says.
//!
//! Time is cut into slots. In each, one row of the outbox goes to the relay: the next one that waits, whatever it
//! is, or else noise, a message that says nothing. Whatever happens to it from then on, sending again, waiting for a
//! full queue, copies for other queues, is the same for both, since both are rows of the outbox.
//!
//! | what | when |
//! |---|---|
//! | which row goes is chosen, and noise made and stored | [`LEAD`] before the slot |
//! | it goes, which takes no storing | in the slot |
//! | the slot is left empty | no relay takes anything: for both alike |
//!
//! A peer without a schedule whose user has agreed to it ([`Noise::Answers`]) answers each message of one that has a
//! schedule after the same time, with the receipts that are due or with noise: what causes an answer cannot be told from
//! its absence. Who has chosen nothing says nothing: no peer makes it send.
//!
//! Noise is a `QT`, on which SimpleX's agents do nothing, that names a queue which cannot be. The first one says
//! what its sender does; slots begin when the peer has said that it does something as well.

use std::time::Duration;

use junto_crypto::{CryptoRng, Zeroizing};
use junto_smp::id::SenderId;

use super::address::QueueName;
use super::command::CallError;
use super::connection::{Connection, OUTBOX_MAX, Stage, WINDOW};
use super::effects::{Effects, Timer};
use super::id::ConnectionId;
use super::instant::Instant;
use super::message::Body;
use super::step::RowKey;
use super::wire::{Malformed, Reader};

/// How long before its slot a row is chosen: longer than the shell lets changes wait for a transaction to share
/// (50 ms), and than writing it takes.
const LEAD: Duration = Duration::from_millis(100);

/// The shortest time between two slots, however they are drawn: a row is never chosen in the slot before its own.
const GAP_MIN: Duration = Duration::from_millis(200);
const _: () = assert!(GAP_MIN.as_millis() == 2 * LEAD.as_millis());

/// How long after it came a message is acknowledged to the relay, whatever it is: by then it is stored, as noise is, and
/// what an application that reads at once makes of it as well.
const ACKNOWLEDGED: Duration = LEAD;

/// The shortest interval, or mean, that may be chosen: four times a second two blocks of 16 KiB for the sender, and
/// three for the recipient, for each queue.
pub const NOISE_INTERVAL_MIN: Duration = Duration::from_millis(250);

/// The longest.
pub const NOISE_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);

/// Slots without a word of the peer before the next ones become rarer, each twice as far away as the one before: its
/// queue is not to fill with noise. A relay stores 128 messages of a queue.
const UNHEARD_MAX: u8 = 32;

/// The longest that slots are apart therefore. A relay drops messages after 21 days by the protocol's default; with
/// those of the way to here there are fewer than it stores.
const RARE: Duration = Duration::from_secs(8 * 60 * 60);
const _: () = assert!(UNHEARD_MAX as u64 + 17 + 21 * 24 * 60 * 60 / RARE.as_secs() < 128);

/// The time to the first slot after a start, at least, and from one try to the next until there is a relay to use it: a
/// process that lives for a moment says what it has to before.
const RESUMED: Duration = Duration::from_secs(1);

/// How many of its intervals a random schedule may be said to be away from its next slot, by what is stored.
const RANDOM_MAX: u32 = 8;

/// Noise of a peer that keeps no schedule, while we keep none, until it is told again that we keep none: it answers
/// as if we did.
const STRAYS: u32 = 4;

/// How many times as many each further time, up to 2 to the power of this: a peer that does not hear, or does not want
/// to, has us say it some twenty times.
const STRAYS_DOUBLED_MAX: u8 = 20;

/// Names no queue in a `QT`: the sender keeps a schedule; keeps none, and answers one; or does neither.
const SCHEDULED: SenderId = SenderId(*b"junto noise: scheduled 1");
const UNSCHEDULED: SenderId = SenderId(*b"junto noise: on demand 1");
const NOTHING: SenderId = SenderId(*b"junto noise: is over   1");

/// What a side says that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Scheduled,
    OnDemand,
    Nothing,
}

/// When a connection sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Noise {
    /// When there is something to say.
    #[default]
    Off,
    /// The same, and each message of a peer that keeps a schedule is answered, by noise where nothing else is due: so
    /// answers do not show which of its messages say something. At most four a second.
    Answers,
    /// One message at each interval, noise if there is nothing to say.
    Constant(Pace),
    /// As [`Noise::Constant`], with intervals of 200 ms and an exponentially distributed time, which have this mean.
    Random(Pace),
}

/// An interval of noise: milliseconds, [`NOISE_INTERVAL_MIN`] to [`NOISE_INTERVAL_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(u32);

impl Pace {
    /// `None` if it is too short or too long.
    #[must_use]
    pub fn new(interval: Duration) -> Option<Self> {
        let is_fit = (NOISE_INTERVAL_MIN..=NOISE_INTERVAL_MAX).contains(&interval);
        let millis = u32::try_from(interval.as_millis()).ok()?;
        is_fit.then_some(Self(millis))
    }

    /// The interval, in whole milliseconds.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_millis(self.0.into())
    }
}

impl Noise {
    fn pace(self) -> Option<Pace> {
        match self {
            Self::Off | Self::Answers => None,
            Self::Constant(pace) | Self::Random(pace) => Some(pace),
        }
    }

    /// The time from one slot to the next.
    fn gap(self, rng: &mut impl CryptoRng) -> Option<Duration> {
        let interval = self.pace()?.interval();
        if let Self::Constant(_) = self {
            return Some(interval);
        }
        // 53 random bits, which a float holds; never 0.
        let mut bytes = [0; 8];
        rng.fill_bytes(&mut bytes);
        let uniform = ((u64::from_be_bytes(bytes) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        let rest = interval.saturating_sub(GAP_MIN);
        Some(GAP_MIN + rest.mul_f64(-uniform.ln()))
    }

    fn put(self, out: &mut Vec<u8>) {
        let (letter, millis) = match self {
            Self::Off => (b'0', 0),
            Self::Answers => (b'A', 0),
            Self::Constant(pace) => (b'C', pace.0),
            Self::Random(pace) => (b'R', pace.0),
        };
        out.push(letter);
        out.extend_from_slice(&millis.to_be_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (letter, millis) = (reader.u8()?, reader.u32()?);
        let pace = Pace::new(Duration::from_millis(millis.into()));
        match (letter, pace) {
            (b'0', None) if millis == 0 => Ok(Self::Off),
            (b'A', None) if millis == 0 => Ok(Self::Answers),
            (b'C', Some(pace)) => Ok(Self::Constant(pace)),
            (b'R', Some(pace)) => Ok(Self::Random(pace)),
            _ => Err(Malformed::Tag),
        }
    }
}

/// The next moment to send in.
#[derive(Clone, Copy)]
struct Slot {
    /// When to choose what goes.
    choose: Instant,
    at: Instant,
    is_chosen: bool,
    /// The time to the one after, which is drawn and stored with what goes in this one.
    gap: Option<Duration>,
}

/// What is kept of it.
#[derive(Default)]
pub(super) struct Slots {
    pub(super) noise: Noise,
    /// The peer has said something of noise.
    understood: bool,
    /// It keeps a schedule, or answers ours.
    is_willing: bool,
    /// The peer keeps a slots.
    pub(super) is_peers: bool,
    /// The peer has been told what we do, or that is not due.
    said: bool,
    /// It was ever told anything: that noise is over is said to no other.
    spoken: bool,
    /// The last outbox row whose slot is chosen.
    chosen: u64,
    /// Slots since the peer said anything.
    unheard: u8,
    /// When the first slot comes for which nothing is chosen, in milliseconds since 1970: a process that ends takes
    /// no slot away from the one after it, and gives it none.
    due: u64,

    // Not stored.
    /// No slot has been used since the start.
    is_resumed: bool,
    /// How often a peer without a schedule has sent noise while we have none.
    strays: u32,
    /// How often it was told again therefore.
    told: u8,
    /// The last outbox row whose slot has come.
    open: u64,
    slot: Option<Slot>,
    /// A message of the peer has had no answer.
    owes_answer: bool,
    /// The last row with receipts.
    receipts: u64,
}

const ROW_VERSION: u8 = 3;
/// When who understood was willing.
const ROW_VERSION_OLDEST: u8 = 2;

impl Slots {
    /// Whether the peer has said that it understands.
    pub(super) fn is_understood(&self) -> bool {
        self.understood
    }

    /// Whether messages wait for slots.
    pub(super) fn is_running(&self) -> bool {
        self.slot.is_some()
    }

    /// Whether each message of the peer gets an answer, since it keeps a schedule and we do not: only if our user wants
    /// that.
    pub(super) fn answers(&self) -> bool {
        self.is_peers && self.noise == Noise::Answers
    }

    /// Whether receipts are to be sent soon, or an answer in their place.
    pub(super) fn wants_receipts(&self, are_due: bool) -> bool {
        match (self.is_running(), self.answers()) {
            (true, _) => false,
            (false, true) => self.owes_answer,
            (false, false) => are_due,
        }
    }

    /// Whether messages go whatever is said, in slots or as answers.
    pub(super) fn is_noisy(&self) -> bool {
        self.is_running() || self.answers()
    }

    /// How long after it came a message is acknowledged to the relay.
    pub(super) fn acknowledged_after(&self) -> Duration {
        if self.is_noisy() {
            ACKNOWLEDGED
        } else {
            Duration::ZERO
        }
    }

    /// Takes the answer that is owed.
    pub(super) fn take_answer(&mut self) -> bool {
        core::mem::take(&mut self.owes_answer)
    }

    /// The last outbox row that may go.
    pub(super) fn open(&self) -> u64 {
        if self.is_running() {
            self.open
        } else {
            u64::MAX
        }
    }

    /// Whether there is anything to keep.
    pub(super) fn is_used(&self) -> bool {
        self.understood || self.spoken || self.noise != Noise::Off
    }

    /// What was said of it may be lost: it is said again.
    pub(super) fn say_again(&mut self) {
        self.said = self.noise == Noise::Off && !self.spoken;
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(ROW_VERSION);
        self.noise.put(out);
        let flags = [
            self.understood,
            self.is_peers,
            self.said,
            self.is_willing,
            self.spoken,
        ];
        out.push((0..).zip(flags).map(|(at, it)| u8::from(it) << at).sum());
        out.extend_from_slice(&self.chosen.to_be_bytes());
        out.push(self.unheard);
        out.extend_from_slice(&self.due.to_be_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let version = reader.u8()?;
        if !(ROW_VERSION_OLDEST..=ROW_VERSION).contains(&version) {
            return Err(Malformed::Version);
        }
        let noise = Noise::read(reader)?;
        let mut flags = reader.u8()?;
        let is_old = version == ROW_VERSION_OLDEST;
        if flags > if is_old { 7 } else { 31 } {
            return Err(Malformed::Tag);
        }
        if is_old {
            flags |= (flags & 1) << 3 | (flags & 1 | u8::from(noise != Noise::Off)) << 4;
        }
        let chosen = reader.u64()?;
        Ok(Self {
            noise,
            understood: flags & 1 != 0,
            is_peers: flags & 2 != 0,
            said: flags & 4 != 0,
            is_willing: flags & 8 != 0,
            spoken: flags & 16 != 0,
            chosen,
            unheard: reader.u8()?,
            due: reader.u64()?,
            // What was in flight when the process ended goes again at once, noise and all.
            open: chosen,
            ..Self::default()
        })
    }

    /// Makes the time between two slots longer while the peer says nothing.
    fn rarer(&self, gap: Duration) -> Duration {
        let doublings = self.unheard.saturating_sub(UNHEARD_MAX).min(24);
        gap.saturating_mul(1 << doublings).min(RARE).max(gap)
    }

    /// Draws the time from one slot to the next.
    fn gap(&self, rng: &mut impl CryptoRng) -> Option<Duration> {
        self.noise.gap(rng).map(|gap| self.rarer(gap))
    }

    /// Wakes the machine when there is something to do for the slot.
    fn time(&self, id: ConnectionId, effects: &mut Effects) {
        if let Some(slot) = self.slot {
            let at = if slot.is_chosen { slot.at } else { slot.choose };
            effects.wake_at(at, Timer::Noise(id));
        }
    }

    fn begin(&mut self, from: Instant, gap: Option<Duration>) {
        self.slot = gap.map(|gap| Slot {
            choose: from.after(gap.saturating_sub(LEAD)),
            at: from.after(gap),
            is_chosen: false,
            gap: None,
        });
    }

    /// The first slot of a schedule: one interval from now, for both kinds.
    fn start(&mut self, effects: &Effects) {
        let pace = self.noise.pace().filter(|_| self.is_willing);
        let gap = pace.map(|pace| self.rarer(pace.interval()));
        self.begin(effects.now, gap);
        self.due = self.slot.map_or(0, |slot| effects.unix_millis(slot.at));
    }

    /// The first slot of a process: the one that was next for the process before, as far as the clock can be believed.
    fn resume(&mut self, effects: &Effects) {
        let longest = match self.noise {
            Noise::Off | Noise::Answers => None,
            Noise::Constant(pace) => Some(pace.interval()),
            Noise::Random(pace) => Some(pace.interval().saturating_mul(RANDOM_MAX)),
        };
        let longest = longest.filter(|_| self.is_willing);
        let left = self.due.saturating_sub(effects.unix_millis(effects.now));
        let left = Duration::from_millis(left);
        let gap = longest.map(|longest| left.min(self.rarer(longest)).max(RESUMED));
        self.begin(effects.now, gap);
        self.is_resumed = true;
    }

    /// Noise that brings nothing new: of a peer that answers a schedule which we do not keep any more.
    fn take_stray(&mut self, word: Word) {
        if word != Word::OnDemand || self.noise.pace().is_some() || !self.spoken {
            return;
        }
        self.strays = self.strays.saturating_add(1);
        if self.strays >= STRAYS << self.told {
            // One word of them for so many: two that tell each other come to an end.
            self.strays = 0;
            self.told = self.told.saturating_add(1).min(STRAYS_DOUBLED_MAX);
            self.said = false;
        }
    }

    /// The peer is there again after a long time: the schedule is what it was before.
    fn revive(&mut self, effects: &Effects, rng: &mut impl CryptoRng) {
        let gap = self.gap(rng);
        let Some(slot) = &mut self.slot else { return };
        let from = if slot.is_chosen {
            slot.gap = gap;
            slot.at
        } else {
            self.begin(effects.now, gap);
            effects.now
        };
        self.due = effects.unix_millis(from.after(gap.unwrap_or_default()));
    }
}

/// What a `QT` that is noise says of its sender.
pub(super) fn is_noise(names: &[QueueName]) -> Option<Word> {
    let mut names = names.iter();
    names.find_map(|name| match name.sender_id {
        SCHEDULED => Some(Word::Scheduled),
        UNSCHEDULED => Some(Word::OnDemand),
        NOTHING => Some(Word::Nothing),
        _ => None,
    })
}

impl Connection {
    /// Chooses when to send.
    pub(super) fn set_noise(
        &mut self,
        noise: Noise,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        self.check_active()?;
        let was_running = self.slots.is_running();
        if self.slots.noise == noise {
            return Ok(());
        }
        self.slots.noise = noise;
        self.slots.said = noise == Noise::Off && !self.slots.spoken;
        self.start_slots(was_running, effects);
        self.speak_of_queues(effects, rng);
        self.store_slots(effects);
        Ok(())
    }

    /// Starts slots if there are to be any. What is in the outbox by now does not wait for them.
    fn start_slots(&mut self, was_running: bool, effects: &mut Effects) {
        let slots = &mut self.slots;
        slots.start(effects);
        if slots.is_running() && !was_running {
            slots.chosen = self.sent.next_id() - 1;
            slots.open = slots.chosen;
        }
        slots.time(self.id, effects);
        // Receipts that waited for slots, or for something to answer.
        self.time_receipts(effects);
        effects.ready(self.owner());
    }

    /// After a start of the machine: its clock is new.
    pub(super) fn resume_slots(&mut self, effects: &mut Effects) {
        if matches!(self.stage, Stage::Active | Stage::Leaving(_)) {
            self.slots.resume(effects);
            self.slots.time(self.id, effects);
        }
    }

    /// What is due to be said: what we do. Who has chosen nothing says nothing.
    pub(super) fn speak_of_noise(&mut self) -> Option<Body<'static>> {
        let slots = &mut self.slots;
        if slots.said || slots.noise == Noise::Off && !slots.spoken {
            return None;
        }
        slots.said = true;
        slots.spoken = true;
        self.noise()
    }

    /// A message that says nothing.
    fn noise(&self) -> Option<Body<'static>> {
        let name = QueueName::of(&self.send.as_ref()?.address);
        let sender_id = match self.slots.noise {
            Noise::Off => NOTHING,
            Noise::Answers => UNSCHEDULED,
            Noise::Constant(_) | Noise::Random(_) => SCHEDULED,
        };
        let mark = QueueName {
            relay: name.relay.clone(),
            sender_id,
        };
        Some(Body::QueueTest(vec![name, mark]))
    }

    /// The peer has said what it does.
    pub(super) fn take_noise(&mut self, word: Word, effects: &mut Effects) {
        let was_running = self.slots.is_running();
        let slots = &mut self.slots;
        let is_peers = word == Word::Scheduled;
        let is_willing = word != Word::Nothing;
        let is_same = slots.is_peers == is_peers && slots.is_willing == is_willing;
        if slots.understood && is_same {
            return slots.take_stray(word);
        }
        if !slots.understood {
            match slots.noise {
                // Who has chosen nothing says nothing.
                Noise::Off => {}
                Noise::Answers => slots.said = false,
                // Our slots say it.
                Noise::Constant(_) | Noise::Random(_) => slots.said = true,
            }
        }
        slots.understood = true;
        slots.is_peers = is_peers;
        let was_willing = core::mem::replace(&mut slots.is_willing, is_willing);
        if was_willing != is_willing && slots.noise.pace().is_some() {
            self.start_slots(was_running, effects);
        }
        self.time_receipts(effects);
        self.store_slots(effects);
    }

    /// The peer says, later than something else, that it keeps no schedule any more.
    pub(super) fn take_late_noise(&mut self, effects: &mut Effects) {
        let word = if self.slots.is_willing {
            Word::OnDemand
        } else {
            Word::Nothing
        };
        self.take_noise(word, effects);
    }

    /// Something of the peer has come, whatever it is.
    pub(super) fn heard_peer(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        let slots = &mut self.slots;
        let was_rare = slots.unheard > UNHEARD_MAX;
        slots.unheard = 0;
        if slots.answers() {
            slots.owes_answer = true;
            self.time_receipts(effects);
        }
        if was_rare {
            self.slots.revive(effects, rng);
            self.slots.time(self.id, effects);
            self.store_slots(effects);
        }
    }

    /// A slot may be near, or there.
    pub(super) fn slot_due(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if !matches!(self.stage, Stage::Active | Stage::Leaving(_)) {
            self.slots.slot = None;
        }
        let chooses = |slot: Slot| !slot.is_chosen && slot.choose <= effects.now;
        if self.slots.slot.is_some_and(chooses) {
            self.choose(effects, rng);
        }
        let slots = &mut self.slots;
        let Some(slot) = slots.slot else { return };
        if slot.at > effects.now {
            return slots.time(self.id, effects);
        }
        slots.open = slots.chosen;
        // No slots are made up for when the machine slept.
        let is_late = slot.at.after(GAP_MIN) < effects.now;
        let from = if is_late { effects.now } else { slot.at };
        // Empty if it was the first one and no relay was there yet: it is the next process's, or tried again.
        let again = Some(RESUMED).filter(|_| slots.is_resumed);
        let gap = slot.gap.or(again).or_else(|| slots.gap(rng));
        slots.begin(from, gap);
        slots.time(self.id, effects);
        effects.ready(self.owner());
    }

    /// Chooses what goes in the next slot. Something is stored whatever it is.
    fn choose(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if let Some(slot) = &mut self.slots.slot {
            slot.is_chosen = true;
        }
        if !self.has_slot(effects) {
            return;
        }
        // Not while keys are agreed anew: then what waits goes, such as the keys, and no noise can be made.
        let may_say = self.may_speak() && self.can_send();
        let is_said = self.slots.receipts <= self.slots.chosen;
        if may_say && is_said && !self.receipts.is_empty() && self.untaken() < OUTBOX_MAX {
            self.enqueue_receipts(effects, rng);
            self.slots.receipts = self.sent.next_id() - 1;
        }
        let after = self.slots.chosen.saturating_add(1);
        if may_say
            && self.outbox.range(after..).next().is_none()
            && let Some(noise) = self.noise()
        {
            // The size is a constant.
            let _ = self.enqueue(&noise, effects, rng);
        }
        if let Some((&row, _)) = self.outbox.range(after..).next() {
            let slots = &mut self.slots;
            slots.chosen = row;
            slots.unheard = slots.unheard.saturating_add(1);
            slots.is_resumed = false;
            let gap = slots.gap(rng);
            if let (Some(slot), Some(gap)) = (&mut slots.slot, gap) {
                slot.gap = Some(gap);
                // No slots are made up for when the machine slept.
                slots.due = effects.unix_millis(slot.at.max(effects.now).after(gap));
            }
        }
        self.store_slots(effects);
    }

    /// Whether the next slot is used, by whatever it is. It depends on nothing that the application says.
    fn has_slot(&self, effects: &Effects) -> bool {
        let is_leaving = self.rotation.is_leaving();
        let mut sends = self.sends().enumerate();
        let is_taken = sends.any(|(at, it)| it.may_send(effects) && !(at == 0 && is_leaving));
        let chosen = self.outbox.range(..=self.slots.chosen);
        let unanswered = chosen.filter(|(row, _)| !self.kept.contains(row)).count();
        let is_used = matches!(self.stage, Stage::Active | Stage::Leaving(_));
        is_used && is_taken && unanswered < WINDOW
    }

    /// Answers a peer that keeps a schedule, if an answer is owed and no receipts are due: with noise.
    pub(super) fn answer_with_noise(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if let Some(noise) = self.noise() {
            // The size is a constant.
            let _ = self.enqueue(&noise, effects, rng);
        }
    }

    /// Writes the row of its slots.
    pub(super) fn store_slots(&self, effects: &mut Effects) {
        let mut out = Zeroizing::new(Vec::with_capacity(32));
        self.slots.put(&mut out);
        effects.delta.put(RowKey::Noise(self.id), out);
    }

    /// Reads what [`Connection::store_slots`] wrote.
    pub(super) fn restore_slots(&mut self, row: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(row);
        self.slots = Slots::read(&mut reader)?;
        reader.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::proto::message::AgentMessage;
    use crate::proto::parallel::tests::active;

    fn pace(millis: u64) -> Pace {
        Pace::new(Duration::from_millis(millis)).unwrap()
    }

    #[test]
    fn intervals_have_bounds() {
        let is_fit = |millis| Pace::new(Duration::from_millis(millis)).is_some();
        assert!(is_fit(250) && is_fit(3_600_000));
        assert!(!is_fit(249) && !is_fit(3_600_001) && !is_fit(0));
    }

    #[test]
    fn random_intervals_have_their_mean_and_the_least() {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        for millis in [250, 4_000, 3_600_000] {
            let noise = Noise::Random(pace(millis));
            let gaps: Vec<_> = (0..20_000).map(|_| noise.gap(rng).unwrap()).collect();
            let mean = gaps.iter().sum::<Duration>().as_millis() as f64 / gaps.len() as f64;
            assert!((mean / millis as f64 - 1.0).abs() < 0.03, "{mean}");
            assert!(gaps.iter().all(|gap| *gap >= GAP_MIN));
            // The median of an exponential distribution is the mean times ln 2.
            let rest = (millis - 200) as f64;
            let shorter = gaps
                .iter()
                .filter(|gap| gap.as_millis() as f64 <= 200.0 + rest * core::f64::consts::LN_2);
            let share = shorter.count() as f64 / gaps.len() as f64;
            assert!((share - 0.5).abs() < 0.02, "{share}");
        }
        let fixed = Noise::Constant(pace(300)).gap(rng);
        assert_eq!(fixed, Some(Duration::from_millis(300)));
        assert_eq!(Noise::Off.gap(rng), None);
    }

    #[test]
    fn rows_return() {
        for noise in [
            Noise::Off,
            Noise::Answers,
            Noise::Constant(pace(250)),
            Noise::Random(pace(3_600_000)),
        ] {
            for flags in 0..32_u8 {
                let slots = Slots {
                    noise,
                    understood: flags & 1 != 0,
                    is_peers: flags & 2 != 0,
                    said: flags & 4 != 0,
                    is_willing: flags & 8 != 0,
                    spoken: flags & 16 != 0,
                    chosen: u64::MAX,
                    unheard: 9,
                    due: 1 << 40,
                    ..Slots::default()
                };
                let mut row = Vec::new();
                slots.put(&mut row);
                let read = Slots::read(&mut Reader::new(&row)).unwrap();
                assert_eq!(read.open, u64::MAX);
                let mut again = Vec::new();
                read.put(&mut again);
                assert_eq!(row, again);
                for len in 0..row.len() {
                    assert!(Slots::read(&mut Reader::new(&row[..len])).is_err());
                }
            }
        }
    }

    #[test]
    fn the_words_are_lists_that_name_no_queue() {
        let relay = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example:5223";
        let name = |sender_id| QueueName {
            relay: relay.parse().unwrap(),
            sender_id,
        };
        let ours = name(SenderId([7; 24]));
        assert_eq!(is_noise(core::slice::from_ref(&ours)), None);
        for (mark, word) in [
            (SCHEDULED, Word::Scheduled),
            (UNSCHEDULED, Word::OnDemand),
            (NOTHING, Word::Nothing),
        ] {
            let body = Body::QueueTest(vec![ours.clone(), name(mark)]);
            let message = AgentMessage::Numbered {
                id: 5,
                previous_hash: &[],
                body,
            };
            let mut bytes = Vec::new();
            message.put(&mut bytes).unwrap();
            // `M`, the number, no hash, and a list of two names.
            assert_eq!(&bytes[10..13], b"QT\x02");
            let AgentMessage::Numbered {
                body: Body::QueueTest(names),
                ..
            } = AgentMessage::read(&bytes).unwrap()
            else {
                panic!()
            };
            assert_eq!(is_noise(&names), Some(word));
        }
    }

    #[test]
    fn rows_from_before_answers_were_chosen_are_read() {
        for understood in [0, 1] {
            let mut row = Vec::new();
            Slots::default().put(&mut row);
            row[0] = ROW_VERSION_OLDEST;
            row[6] = understood;
            let read = Slots::read(&mut Reader::new(&row)).unwrap();
            assert_eq!(read.is_willing, understood == 1);
            assert_eq!(read.spoken, understood == 1);
            row[6] = 8;
            assert!(Slots::read(&mut Reader::new(&row)).is_err());
        }
    }

    /// What a peer may say of noise, for ever: the number of messages that it makes us send.
    fn provoked(noise: Noise) -> usize {
        let (mut connection, mut effects, mut rng) = active();
        connection.set_noise(noise, &mut effects, &mut rng).unwrap();
        connection
            .set_noise(Noise::Off, &mut effects, &mut rng)
            .unwrap();
        let before = connection.outbox.len();
        let began = effects.now;
        for second in 0..2_000_u64 {
            effects.now = began.after(Duration::from_secs(second));
            let marks = match second {
                0..500 => [SCHEDULED; 2],
                500..1_000 => [UNSCHEDULED; 2],
                1_000..1_500 => [SCHEDULED, NOTHING],
                _ => [NOTHING, UNSCHEDULED],
            };
            for sender_id in marks {
                let mut name = QueueName::of(&connection.send.as_ref().unwrap().address);
                name.sender_id = sender_id;
                connection.take_list(&[name], &mut effects, &mut rng);
                connection.heard_peer(&mut effects, &mut rng);
            }
            while let Some(timer) = effects.take_due() {
                match timer {
                    Timer::Receipts(_) => connection.send_receipts(&mut effects, &mut rng),
                    Timer::Noise(_) => connection.slot_due(&mut effects, &mut rng),
                    _ => {}
                }
            }
        }
        connection.outbox.len() - before
    }

    #[test]
    fn no_peer_makes_us_send_whose_user_has_chosen_nothing() {
        assert_eq!(provoked(Noise::Off), 0);
    }

    #[test]
    fn a_peer_that_does_not_hear_that_noise_is_over_is_told_so_a_few_times() {
        let said = provoked(Noise::Answers);
        assert!(
            (1..=usize::from(STRAYS_DOUBLED_MAX)).contains(&said),
            "{said}"
        );
    }

    proptest! {
        #[test]
        fn a_damaged_row_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40), version in 0..4_u8) {
            let mut row = vec![version];
            row.extend_from_slice(&bytes);
            if let Ok(read) = Slots::read(&mut Reader::new(&row)) {
                let mut again = Vec::new();
                read.put(&mut again);
                if row[0] == ROW_VERSION {
                    prop_assert_eq!(&again[..], &row[..again.len()]);
                }
            }
        }
    }
}
