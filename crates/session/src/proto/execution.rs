//! One run of a protocol: rounds, private messages, reliable broadcast (`docs/spec/session.md` §7).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use junto_crypto::{
    CryptoRng,
    ed25519::{Signature, SigningKey},
    hash,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    error::Misuse,
    evidence::{Court, Evidence},
    fault::{Blame, Fault, Reason},
    limits::{EARLY_CLAIM_BYTES, LABEL_BYTES_MAX, MESSAGE_BYTES_MAX, ROUNDS_AHEAD},
    party::{Members, PartyIndex, check_text},
    record::{EchoEntry, Header, Record},
    roster::{Roster, SessionId},
    statement::{self, InstanceId, PayloadHash, Round, Slot},
    step::PeerSlot,
    wire::{Malformed, Put, Reader},
};

/// How a message was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// To one party, privately.
    P2p,
    /// To all, and all are sure that all got the same.
    Broadcast,
}

/// How an execution counts and echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// The protocol names its rounds, and in a round with broadcasts every member broadcasts: one
    /// echo per member and round.
    Rounds,
    /// Nobody names rounds: messages are counted per sender, and each broadcast is echoed by
    /// itself. For protocols of other ecosystems.
    Messages,
}

impl Mode {
    fn code(self) -> u8 {
        match self {
            Self::Rounds => 0,
            Self::Messages => 1,
        }
    }
}

/// What an execution is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// Names it within the session, once and for all: 1 to 255 bytes without control characters.
    pub label: String,
    /// Who takes part; at least two.
    pub members: Members,
    /// How it counts.
    pub mode: Mode,
}

impl Purpose {
    pub(crate) fn check(&self, me: PartyIndex, all: Members) -> Result<(), Misuse> {
        check_text(&self.label, LABEL_BYTES_MAX, "label")?;
        if self.label.is_empty() {
            return Err(Misuse::Argument("label"));
        }
        if !all.covers(self.members) || self.members.len() < 2 {
            return Err(Misuse::Argument("member set"));
        }
        if !self.members.contains(me) {
            return Err(Misuse::NotMember(me));
        }
        Ok(())
    }

    pub(crate) fn instance(&self, session: &SessionId) -> InstanceId {
        statement::instance(session, self.members, self.mode.code(), &self.label)
    }
}

/// 32 random bytes of one execution, the same after a restart, wiped when it ends.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Seed(pub(crate) [u8; 32]);

impl Seed {
    /// The bytes, for a deterministic generator.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// How far an execution is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Aborted(Blame),
    Finished { transcript: [u8; 32] },
}

/// Positions in the sent log of a round: a receiver's index, or one of these.
const SENT_BROADCAST: u8 = 64;
const SENT_ECHO: u8 = 65;
/// Plus the index of the sender whose single broadcast was echoed.
const SENT_ECHO_OF: u8 = 128;

#[derive(Default)]
struct Broadcast {
    value: Option<(PayloadHash, Signature, Bytes)>,
    /// What each echoer says the sender signed.
    claims: BTreeMap<PartyIndex, (PayloadHash, Signature)>,
    delivered: bool,
}

/// Bytes and messages that arrived and were asked for by nobody yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) bytes: usize,
    pub(crate) messages: usize,
}

impl Unread {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.messages += 1;
    }

    fn remove(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.messages -= 1;
    }
}

/// Messages for others, in order, with the sent-log entry that each batch makes.
pub(crate) struct Said {
    pub(crate) log: (Round, u8, PayloadHash),
    pub(crate) records: Vec<(PartyIndex, Record)>,
}

/// What [`crate::Execution::next`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Who sent it.
    pub sender: PartyIndex,
    /// How.
    pub kind: Kind,
    /// Its number among the sender's messages of that kind.
    pub round: Round,
    /// The message.
    pub payload: Bytes,
}

pub(crate) struct Execution {
    pub(crate) session: SessionId,
    pub(crate) instance: InstanceId,
    pub(crate) purpose: Purpose,
    pub(crate) me: PartyIndex,
    pub(crate) seed: Seed,
    pub(crate) state: State,
    p2p: BTreeMap<(Round, PartyIndex), Bytes>,
    broadcasts: BTreeMap<Round, BTreeMap<PartyIndex, Broadcast>>,
    sent: BTreeMap<(Round, u8), PayloadHash>,
    /// Highest round gathered, highest round spoken in, and highest round asked for.
    gathered: u32,
    spoken: u32,
    asked: Option<u32>,
    ready: VecDeque<(PartyIndex, Kind, Round)>,
    /// Messages nobody asked for yet, with their bytes; and their sums by sender, which count the
    /// claims about broadcasts that are not here as well.
    unread: BTreeMap<(PartyIndex, Kind, Round), usize>,
    unread_sums: BTreeMap<PartyIndex, Unread>,
    /// Inbox rows that this execution needs until it ends.
    pub(crate) rows: Vec<(PeerSlot, u64, u64)>,
}

impl Execution {
    pub(crate) fn new(
        session: SessionId,
        purpose: Purpose,
        me: PartyIndex,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let mut seed = Seed([0; 32]);
        rng.fill_bytes(&mut seed.0);
        Self::with(session, purpose, me, seed, State::Running)
    }

    fn with(
        session: SessionId,
        purpose: Purpose,
        me: PartyIndex,
        seed: Seed,
        state: State,
    ) -> Self {
        Self {
            session,
            instance: purpose.instance(&session),
            purpose,
            me,
            seed,
            state,
            p2p: BTreeMap::new(),
            broadcasts: BTreeMap::new(),
            sent: BTreeMap::new(),
            gathered: 0,
            spoken: 0,
            asked: None,
            ready: VecDeque::new(),
            unread: BTreeMap::new(),
            unread_sums: BTreeMap::new(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes
            .put_u64(self.purpose.members.bits())
            .put_u8(self.purpose.mode.code())
            .put_short(self.purpose.label.as_bytes());
        match &self.state {
            State::Running => {
                bytes.put_u8(0).put(&self.seed.0);
            }
            State::Aborted(blame) => {
                bytes.put_u8(1);
                blame.put(&mut bytes);
            }
            State::Finished { transcript } => {
                bytes.put_u8(2).put(transcript);
            }
        }
        bytes
    }

    pub(crate) fn decode(
        session: SessionId,
        me: PartyIndex,
        bytes: &[u8],
    ) -> Result<Self, Malformed> {
        let mut reader = Reader::new("stored execution", bytes);
        let members = Members::from_bits(reader.u64()?);
        let mode = if reader.flag()? {
            Mode::Messages
        } else {
            Mode::Rounds
        };
        let label = reader.short()?;
        let label = reader.text(label)?.to_owned();
        let mut seed = Seed([0; 32]);
        let state = match reader.u8()? {
            0 => {
                seed.0 = reader.array()?;
                State::Running
            }
            1 => State::Aborted(Blame::read(&mut reader)?),
            2 => State::Finished {
                transcript: reader.array()?,
            },
            _ => return Err(reader.malformed()),
        };
        reader.finish()?;
        let purpose = Purpose {
            label,
            members,
            mode,
        };
        Ok(Self::with(session, purpose, me, seed, state))
    }

    pub(crate) fn restore_sent(&mut self, round: Round, position: u8, payload: PayloadHash) {
        self.sent.insert((round, position), payload);
        self.note_spoken(round);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub(crate) fn others(&self) -> Members {
        self.purpose.members.without(self.me)
    }

    fn note_spoken(&mut self, round: Round) {
        if round != Round::CONFIRM {
            self.spoken = self.spoken.max(round.0);
        }
    }

    fn slot(&self, round: Round, sender: PartyIndex) -> Slot {
        Slot {
            session: self.session,
            instance: self.instance,
            round,
            sender,
        }
    }

    fn header(&self, round: Round, to: PartyIndex) -> Header {
        Header {
            instance: self.instance,
            round,
            from: self.me,
            to,
        }
    }

    /// Whether `payload` may be said at `position` of `round`, and whether it was already.
    fn may_say(
        &self,
        round: Round,
        position: u8,
        payload: &[u8],
    ) -> Result<Option<PayloadHash>, Misuse> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(Misuse::TooLong);
        }
        let digest = statement::payload(payload);
        match self.sent.get(&(round, position)) {
            Some(before) if *before == digest => return Ok(None),
            Some(_) => return Err(Misuse::DifferentBytes(round)),
            None => {}
        }
        if self.purpose.mode == Mode::Rounds
            && round != Round::CONFIRM
            && round.0 > self.gathered.saturating_add(ROUNDS_AHEAD)
        {
            return Err(Misuse::RoundsAhead(round));
        }
        Ok(Some(digest))
    }

    /// A private message; `None` if it was said before.
    pub(crate) fn say(
        &mut self,
        round: Round,
        to: PartyIndex,
        payload: &Bytes,
    ) -> Result<Option<Said>, Misuse> {
        if !self.others().contains(to) {
            return Err(Misuse::NotMember(to));
        }
        let Some(digest) = self.may_say(round, to.as_u8(), payload)? else {
            return Ok(None);
        };
        self.sent.insert((round, to.as_u8()), digest);
        self.note_spoken(round);
        Ok(Some(Said {
            log: (round, to.as_u8(), digest),
            records: vec![(
                to,
                Record::P2p {
                    header: self.header(round, to),
                    payload: payload.clone(),
                },
            )],
        }))
    }

    /// A broadcast; the records are empty if it was made before.
    pub(crate) fn broadcast(
        &mut self,
        round: Round,
        payload: &Bytes,
        key: &SigningKey,
    ) -> Result<Option<Said>, Misuse> {
        let said = self.may_say(round, SENT_BROADCAST, payload)?;
        let digest = said.unwrap_or_else(|| statement::payload(payload));
        let signature = key.sign(&self.slot(round, self.me).broadcast(&digest));
        let mine = self
            .broadcasts
            .entry(round)
            .or_default()
            .entry(self.me)
            .or_default();
        let is_new = mine.value.is_none();
        mine.value = Some((digest, signature, payload.clone()));
        mine.delivered = true;
        if is_new {
            self.note_no_longer_early(round, self.me);
        }
        if said.is_none() {
            return Ok(None);
        }
        self.sent.insert((round, SENT_BROADCAST), digest);
        self.note_spoken(round);
        let records = self
            .others()
            .iter()
            .map(|to| {
                let record = Record::Broadcast {
                    header: self.header(round, to),
                    signature,
                    payload: payload.clone(),
                };
                (to, record)
            })
            .collect();
        Ok(Some(Said {
            log: (round, SENT_BROADCAST, digest),
            records,
        }))
    }

    /// Takes in a message of another member.
    pub(crate) fn receive(
        &mut self,
        from: PartyIndex,
        record: Record,
        court: &Court<'_>,
        key: &SigningKey,
    ) -> Result<Vec<Said>, Blame> {
        match record {
            Record::P2p { header, payload } => {
                self.check_order(&header, Kind::P2p)?;
                self.receive_p2p(header, payload)?;
                Ok(Vec::new())
            }
            Record::Broadcast {
                header,
                signature,
                payload,
            } => {
                self.check_order(&header, Kind::Broadcast)?;
                self.receive_broadcast(&header, signature, payload, court)?;
                Ok(self.echo(header.round, from, key))
            }
            Record::Echo {
                header,
                signature,
                entries,
            } => {
                self.receive_echo(&header, signature, &entries, court)?;
                Ok(Vec::new())
            }
            Record::Abort {
                header,
                signature,
                reason,
            } => Err(self.receive_abort(&header, &signature, reason, court)),
            Record::Offer(_)
            | Record::Introduction(_)
            | Record::Bind(_)
            | Record::Failed(_)
            | Record::Ready
            | Record::Closed
            | Record::Unformed(_)
            | Record::Channel { .. } => Err(Blame::party(from, Fault::OutOfPlace("record"))),
        }
    }

    /// Whether a message says again what its sender has said before, so that nothing of it needs
    /// to be kept: repetition must not fill anybody's disk.
    pub(crate) fn knows(&self, record: &Record) -> bool {
        match record {
            Record::P2p { header, .. } => self.p2p.contains_key(&(header.round, header.from)),
            Record::Broadcast { header, .. } => self.has_value(header.round, header.from),
            Record::Echo {
                header, entries, ..
            } => {
                let round = self.broadcasts.get(&header.round);
                entries.iter().all(|entry| {
                    round
                        .and_then(|round| round.get(&entry.sender))
                        .is_some_and(|broadcast| broadcast.claims.contains_key(&header.from))
                })
            }
            Record::Offer(_)
            | Record::Introduction(_)
            | Record::Bind(_)
            | Record::Failed(_)
            | Record::Ready
            | Record::Closed
            | Record::Unformed(_)
            | Record::Abort { .. }
            | Record::Channel { .. } => false,
        }
    }

    /// How far ahead somebody is breaks no rule: who gathers from some members only may be far ahead of
    /// the others. What nobody reads is bounded instead ([`Execution::unread`]).
    fn check_order(&self, header: &Header, kind: Kind) -> Result<(), Blame> {
        // In message mode numbers are the sender's count: nothing may be left out.
        if self.purpose.mode == Mode::Messages
            && header.round != Round::CONFIRM
            && header.round.0 > 0
        {
            let before = Round(header.round.0 - 1);
            let known = match kind {
                Kind::P2p => self.p2p.contains_key(&(before, header.from)),
                Kind::Broadcast => self
                    .broadcasts
                    .get(&before)
                    .and_then(|round| round.get(&header.from))
                    .is_some_and(|broadcast| broadcast.value.is_some()),
            };
            if !known {
                return Err(Blame::party(
                    header.from,
                    Fault::TooFarAhead {
                        round: header.round,
                    },
                ));
            }
        }
        Ok(())
    }

    fn receive_p2p(&mut self, header: Header, payload: Bytes) -> Result<(), Blame> {
        let place = (header.round, header.from);
        if let Some(before) = self.p2p.get(&place) {
            return if *before == payload {
                Ok(())
            } else {
                Err(Blame::party(
                    header.from,
                    Fault::Conflict {
                        round: header.round,
                    },
                ))
            };
        }
        self.note_unread(header.from, Kind::P2p, header.round, payload.len());
        if header.round != Round::CONFIRM {
            self.ready.push_back((header.from, Kind::P2p, header.round));
        }
        self.p2p.insert(place, payload);
        Ok(())
    }

    fn receive_broadcast(
        &mut self,
        header: &Header,
        signature: Signature,
        payload: Bytes,
        court: &Court<'_>,
    ) -> Result<(), Blame> {
        let digest = statement::payload(&payload);
        let slot = self.slot(header.round, header.from);
        if !verify(
            court.roster,
            header.from,
            &slot.broadcast(&digest),
            &signature,
        ) {
            return Err(Blame::party(header.from, Fault::BadSignature("broadcast")));
        }
        let broadcast = self
            .broadcasts
            .entry(header.round)
            .or_default()
            .entry(header.from)
            .or_default();
        let mine = (digest, signature);
        let conflict = broadcast
            .value
            .as_ref()
            .map(|(digest, signature, _)| (*digest, *signature))
            .into_iter()
            .chain(broadcast.claims.values().copied())
            .find(|(other, _)| *other != digest);
        if let Some(other) = conflict {
            return Err(equivocation(slot, mine, other));
        }
        if broadcast.value.is_some() {
            return Ok(()); // the same again
        }
        let bytes = payload.len();
        broadcast.value = Some((digest, signature, payload));
        self.note_unread(header.from, Kind::Broadcast, header.round, bytes);
        self.note_no_longer_early(header.round, header.from);
        self.deliver(header.round, header.from);
        Ok(())
    }

    /// Marks a broadcast as delivered once everybody else confirmed it.
    fn deliver(&mut self, round: Round, sender: PartyIndex) {
        let echoers = self.others().without(sender);
        let Some(broadcast) = self
            .broadcasts
            .get_mut(&round)
            .and_then(|round| round.get_mut(&sender))
        else {
            return;
        };
        if broadcast.delivered || broadcast.value.is_none() {
            return;
        }
        // Claims that differ from the value never get here: they end the execution.
        if echoers
            .iter()
            .all(|echoer| broadcast.claims.contains_key(&echoer))
        {
            broadcast.delivered = true;
            self.ready.push_back((sender, Kind::Broadcast, round));
        }
    }

    fn echo(&mut self, round: Round, sender: PartyIndex, key: &SigningKey) -> Vec<Said> {
        if self.purpose.members.len() == 2 {
            return Vec::new(); // there is nobody to tell
        }
        let (position, senders) = match self.purpose.mode {
            Mode::Rounds => (SENT_ECHO, self.others()),
            Mode::Messages => (SENT_ECHO_OF + sender.as_u8(), Members::NONE.with(sender)),
        };
        if self.sent.contains_key(&(round, position)) {
            return Vec::new();
        }
        let received = self.broadcasts.get(&round);
        let entries: Vec<_> = senders
            .iter()
            .filter_map(|sender| {
                let (payload, signature, _) = received?.get(&sender)?.value.as_ref()?;
                Some(EchoEntry {
                    sender,
                    payload: *payload,
                    signature: *signature,
                })
            })
            .collect();
        if entries.len() < senders.len() {
            return Vec::new();
        }
        let bytes = EchoEntry::encode_all(&entries);
        let signature = key.sign(&self.slot(round, self.me).echo(&bytes));
        let digest = hash::sha256(&bytes);
        self.sent.insert((round, position), digest);
        let records = self
            .others()
            .iter()
            .map(|to| {
                let record = Record::Echo {
                    header: self.header(round, to),
                    signature,
                    entries: entries.clone(),
                };
                (to, record)
            })
            .collect();
        vec![Said {
            log: (round, position, digest),
            records,
        }]
    }

    fn receive_echo(
        &mut self,
        header: &Header,
        signature: Signature,
        entries: &[EchoEntry],
        court: &Court<'_>,
    ) -> Result<(), Blame> {
        let slot = self.slot(header.round, header.from);
        let bytes = EchoEntry::encode_all(entries);
        if !verify(court.roster, header.from, &slot.echo(&bytes), &signature) {
            return Err(Blame::party(header.from, Fault::BadSignature("echo")));
        }
        let senders: Members = entries.iter().map(|entry| entry.sender).collect();
        let echoable = self.purpose.members.without(header.from);
        let complete = match self.purpose.mode {
            Mode::Rounds => senders == echoable,
            Mode::Messages => senders.len() == 1 && echoable.covers(senders),
        };
        if !complete {
            return Err(Blame::party(header.from, Fault::Malformed("echo")));
        }
        for (position, entry) in (0u8..).zip(entries) {
            let false_echo = || {
                Blame::party(
                    header.from,
                    Fault::Proven(Box::new(Evidence::FalseEcho {
                        slot,
                        entries: entries.to_vec(),
                        signature,
                        entry: position,
                    })),
                )
            };
            self.receive_claim(header, entry, court, false_echo)?;
        }
        Ok(())
    }

    fn receive_claim(
        &mut self,
        header: &Header,
        entry: &EchoEntry,
        court: &Court<'_>,
        false_echo: impl Fn() -> Blame,
    ) -> Result<(), Blame> {
        let slot = self.slot(header.round, entry.sender);
        let claim = (entry.payload, entry.signature);
        let broadcast = self
            .broadcasts
            .entry(header.round)
            .or_default()
            .entry(entry.sender)
            .or_default();
        let known = broadcast
            .value
            .as_ref()
            .map(|(digest, signature, _)| (*digest, *signature))
            .into_iter()
            .chain(broadcast.claims.values().copied());
        let mut conflict = None;
        let mut verified = false;
        for other in known {
            verified |= other == claim;
            if other.0 != claim.0 {
                conflict = Some(other);
            }
        }
        if !verified
            && !verify(
                court.roster,
                entry.sender,
                &slot.broadcast(&entry.payload),
                &entry.signature,
            )
        {
            return Err(false_echo());
        }
        if entry.sender == self.me && broadcast.value.is_none() {
            // Signed by us, yet not said in this run: only a restarted protocol that has not
            // spoken yet gets here, and its sent log says what it will say.
            let said = self.sent.get(&(header.round, SENT_BROADCAST));
            if said != Some(&entry.payload) {
                return Err(false_echo());
            }
        }
        if let Some(other) = conflict {
            return Err(equivocation(slot, claim, other));
        }
        let is_early = broadcast.value.is_none();
        let is_new = broadcast.claims.insert(header.from, claim).is_none();
        if is_early && is_new {
            self.unread_sums
                .entry(header.from)
                .or_default()
                .add(EARLY_CLAIM_BYTES);
        }
        self.deliver(header.round, entry.sender);
        Ok(())
    }

    fn receive_abort(
        &self,
        header: &Header,
        signature: &Signature,
        reason: Reason,
        court: &Court<'_>,
    ) -> Blame {
        let statement =
            statement::abort(&self.session, &self.instance, header.from, &reason.encode());
        if !verify(court.roster, header.from, &statement, signature) {
            return Blame::party(header.from, Fault::BadSignature("abort"));
        }
        match reason {
            Reason::Proven(evidence) => match evidence.convict(court) {
                Some(culprit) => Blame {
                    culprit,
                    fault: Fault::Proven(evidence),
                },
                None => Blame::party(header.from, Fault::FalseAccusation),
            },
            // Nobody is named on hearsay; but whom we have not heard either, we may name: in a round
            // that we wait for ourselves. In one that nobody has come to yet all are silent.
            Reason::Silent { round, accused } if self.waits_for(round) => {
                let silent_here: Members = accused
                    .iter()
                    .filter(|&party| self.others().contains(party) && !self.spoke(round, party))
                    .collect();
                match silent_here.without(header.from).iter().next() {
                    Some(first) => Blame::party(
                        first,
                        Fault::Silent {
                            round,
                            all: silent_here.without(header.from),
                        },
                    ),
                    None => Blame::party(
                        header.from,
                        Fault::GaveUp(Box::new(Reason::Silent { round, accused })),
                    ),
                }
            }
            reason @ (Reason::GaveUp { .. } | Reason::Silent { .. } | Reason::Observed { .. }) => {
                Blame::party(header.from, Fault::GaveUp(Box::new(reason)))
            }
        }
    }

    fn waits_for(&self, round: Round) -> bool {
        self.asked.is_some_and(|asked| round.0 <= asked)
    }

    fn spoke(&self, round: Round, party: PartyIndex) -> bool {
        self.p2p.contains_key(&(round, party)) || self.has_value(round, party)
    }

    fn has_value(&self, round: Round, party: PartyIndex) -> bool {
        self.broadcasts
            .get(&round)
            .and_then(|round| round.get(&party))
            .is_some_and(|broadcast| broadcast.value.is_some())
    }

    /// The messages of `from` in `round`, once all are there; for broadcasts ours is among them.
    pub(crate) fn gather(
        &mut self,
        round: Round,
        kind: Kind,
        from: Members,
    ) -> Option<BTreeMap<PartyIndex, Bytes>> {
        self.asked = self.asked.max(Some(round.0));
        if !self.missing(round, kind, from).is_empty() {
            return None;
        }
        let mut gathered = BTreeMap::new();
        for party in from.with(self.me).iter() {
            let payload = match kind {
                Kind::P2p => self.p2p.get(&(round, party)),
                Kind::Broadcast => self
                    .broadcasts
                    .get(&round)
                    .and_then(|round| round.get(&party))
                    .and_then(|broadcast| broadcast.value.as_ref())
                    .map(|(_, _, payload)| payload),
            };
            if let Some(payload) = payload {
                gathered.insert(party, payload.clone());
                self.note_read(party, kind, round);
            }
        }
        if round != Round::CONFIRM {
            self.gathered = self.gathered.max(round.0);
        }
        Some(gathered)
    }

    /// Who keeps `round` from being complete: who did not send, or if all did, who did not
    /// confirm.
    pub(crate) fn missing(&self, round: Round, kind: Kind, from: Members) -> Members {
        let from = from.without(self.me);
        let silent: Members = from
            .iter()
            .filter(|&party| match kind {
                Kind::P2p => !self.p2p.contains_key(&(round, party)),
                Kind::Broadcast => !self.has_value(round, party),
            })
            .collect();
        if !silent.is_empty() || kind == Kind::P2p {
            return silent;
        }
        let mut unconfirmed = Members::NONE;
        for sender in from.iter() {
            let broadcast = self.broadcasts.get(&round).and_then(|r| r.get(&sender));
            for echoer in self.others().without(sender).iter() {
                if !broadcast.is_some_and(|b| b.claims.contains_key(&echoer)) {
                    unconfirmed = unconfirmed.with(echoer);
                }
            }
        }
        unconfirmed
    }

    /// Whether all have spoken in `round` and only echoes are missing: a party may lack the value that
    /// it ought to echo, and the fault is then with whoever kept it back.
    pub(crate) fn lacks_echoes_only(&self, round: Round, kind: Kind, from: Members) -> bool {
        kind == Kind::Broadcast
            && from
                .without(self.me)
                .iter()
                .all(|party| self.has_value(round, party))
    }

    /// The next message that is complete, in order of completion.
    pub(crate) fn next_message(&mut self) -> Option<Incoming> {
        let (sender, kind, round) = self.ready.pop_front()?;
        let payload = match kind {
            Kind::P2p => self.p2p.get(&(round, sender)),
            Kind::Broadcast => self
                .broadcasts
                .get(&round)
                .and_then(|round| round.get(&sender))
                .and_then(|broadcast| broadcast.value.as_ref())
                .map(|(_, _, payload)| payload),
        }?
        .clone();
        self.note_read(sender, kind, round);
        Some(Incoming {
            sender,
            kind,
            round,
            payload,
        })
    }

    pub(crate) fn unread(&self, party: PartyIndex) -> Unread {
        self.unread_sums.get(&party).copied().unwrap_or_default()
    }

    fn note_unread(&mut self, party: PartyIndex, kind: Kind, round: Round, bytes: usize) {
        self.unread.insert((party, kind, round), bytes);
        self.unread_sums.entry(party).or_default().add(bytes);
    }

    fn note_read(&mut self, party: PartyIndex, kind: Kind, round: Round) {
        if let Some(bytes) = self.unread.remove(&(party, kind, round)) {
            self.unread_sums.entry(party).or_default().remove(bytes);
        }
    }

    /// A broadcast is here: what was claimed about it before is not early any more.
    fn note_no_longer_early(&mut self, round: Round, sender: PartyIndex) {
        let claims = self
            .broadcasts
            .get(&round)
            .and_then(|round| round.get(&sender))
            .map(|broadcast| &broadcast.claims);
        for echoer in claims.into_iter().flat_map(BTreeMap::keys) {
            if let Some(sum) = self.unread_sums.get_mut(echoer) {
                sum.remove(EARLY_CLAIM_BYTES);
            }
        }
    }

    /// Hash of all broadcasts delivered so far, ours included.
    pub(crate) fn transcript(&self) -> [u8; 32] {
        if let State::Finished { transcript } = &self.state {
            return *transcript;
        }
        let mut bytes = Vec::new();
        for (round, senders) in &self.broadcasts {
            for (sender, broadcast) in senders {
                if let (true, Some((payload, _, _))) = (broadcast.delivered, &broadcast.value) {
                    bytes.put_u32(round.0).put_u8(sender.as_u8()).put(payload);
                }
            }
        }
        statement::transcript(&self.session, &self.instance, &bytes)
    }

    /// Ends the execution: forgets everything but how it ended. Returns what is to be erased.
    pub(crate) fn end(&mut self, state: State) -> Ended {
        self.state = state;
        self.seed.zeroize();
        self.p2p.clear();
        self.broadcasts.clear();
        self.ready.clear();
        self.unread.clear();
        self.unread_sums.clear();
        Ended {
            sent: core::mem::take(&mut self.sent).into_keys().collect(),
            rows: core::mem::take(&mut self.rows),
        }
    }

    /// The signed abort for each other member.
    pub(crate) fn aborts(&self, reason: &Reason, key: &SigningKey) -> Vec<(PartyIndex, Record)> {
        let signature = key.sign(&statement::abort(
            &self.session,
            &self.instance,
            self.me,
            &reason.encode(),
        ));
        self.others()
            .iter()
            .map(|to| {
                let record = Record::Abort {
                    header: self.header(Round::CONFIRM, to),
                    signature,
                    reason: reason.clone(),
                };
                (to, record)
            })
            .collect()
    }
}

/// What an ended execution leaves to be erased.
pub(crate) struct Ended {
    pub(crate) sent: Vec<(Round, u8)>,
    pub(crate) rows: Vec<(PeerSlot, u64, u64)>,
}

fn verify(
    roster: Option<&Roster>,
    party: PartyIndex,
    statement: &[u8],
    signature: &Signature,
) -> bool {
    roster.is_some_and(|roster| roster.verify(party, statement, signature))
}

fn equivocation(
    slot: Slot,
    first: (PayloadHash, Signature),
    second: (PayloadHash, Signature),
) -> Blame {
    Blame::party(
        slot.sender,
        Fault::Proven(Box::new(Evidence::Equivocation {
            slot,
            first,
            second,
        })),
    )
}
