//! One run of a protocol: rounds, private messages, reliable broadcast (`docs/spec/session.md` §7).

mod broadcast;
mod ending;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use junto_crypto::{
    CryptoRng,
    ed25519::{Signature, SigningKey},
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use self::broadcast::Broadcast;
pub(crate) use self::ending::Ending;
use super::{
    error::Misuse,
    evidence::Court,
    fault::{Blame, Fault},
    limits::{LABEL_BYTES_MAX, MESSAGE_BYTES_MAX, ROUNDS_AHEAD},
    party::{Members, PartyIndex, check_text},
    record::{Abort, Header, Record},
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
    /// Highest round gathered; none if none was.
    gathered: Option<u32>,
    /// Whether rounds are gathered at all, so that somebody may be missing in them.
    gathers: bool,
    /// Claims of silence that stand until this party's own patience is over, by author.
    claims: BTreeMap<PartyIndex, Abort>,
    /// Who has stopped because of one of them, and passed it on.
    followers: Members,
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
            gathered: None,
            gathers: false,
            claims: BTreeMap::new(),
            followers: Members::NONE,
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
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub(crate) fn others(&self) -> Members {
        self.purpose.members.without(self.me)
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
            && round.0 > self.gathered.unwrap_or(0).saturating_add(ROUNDS_AHEAD)
        {
            return Err(Misuse::RoundsAhead(round));
        }
        Ok(Some(digest))
    }

    /// Whether we have said something of our own in `round`.
    fn has_spoken(&self, round: Round) -> bool {
        let mut said = self.sent.range((round, 0)..=(round, SENT_BROADCAST));
        said.next().is_some()
    }

    /// Whether a message of `party` is here.
    fn spoke(&self, round: Round, kind: Kind, party: PartyIndex) -> bool {
        match kind {
            Kind::P2p => self.p2p.contains_key(&(round, party)),
            Kind::Broadcast => self.has_value(round, party),
        }
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

    /// Takes in a message of another member.
    pub(crate) fn receive(
        &mut self,
        from: PartyIndex,
        record: Record,
        court: &Court<'_>,
        key: &SigningKey,
    ) -> Result<Vec<Said>, Ending> {
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
            Record::Abort { abort, .. } => {
                self.receive_abort(from, abort, court)?;
                Ok(Vec::new())
            }
            Record::Offer(_)
            | Record::Introduction(_)
            | Record::Bind(_)
            | Record::Failed(_)
            | Record::Ready
            | Record::Closed
            | Record::Verified(_)
            | Record::Unformed(_)
            | Record::Channel { .. } => Err(Blame::party(from, Fault::OutOfPlace("record")).into()),
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
            } => entries.iter().all(|entry| {
                self.broadcast_of(header.round, entry.sender)
                    .is_some_and(|broadcast| broadcast.claims.contains_key(&header.from))
            }),
            Record::Abort { header, abort } => {
                self.claims.contains_key(&abort.author)
                    && (header.from == abort.author || self.followers.contains(header.from))
            }
            Record::Offer(_)
            | Record::Introduction(_)
            | Record::Bind(_)
            | Record::Failed(_)
            | Record::Ready
            | Record::Closed
            | Record::Verified(_)
            | Record::Unformed(_)
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
                Kind::Broadcast => self.has_value(before, header.from),
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

    fn payload(&self, round: Round, kind: Kind, sender: PartyIndex) -> Option<&Bytes> {
        match kind {
            Kind::P2p => self.p2p.get(&(round, sender)),
            Kind::Broadcast => {
                let (_, _, payload) = self.broadcast_of(round, sender)?.value.as_ref()?;
                Some(payload)
            }
        }
    }

    /// The messages of `from` in `round`, once all are there; for broadcasts ours is among them.
    pub(crate) fn gather(
        &mut self,
        round: Round,
        kind: Kind,
        from: Members,
    ) -> Option<BTreeMap<PartyIndex, Bytes>> {
        self.gathers = true;
        if !self.missing(round, kind, from).is_empty() {
            return None;
        }
        let mut gathered = BTreeMap::new();
        for party in from.with(self.me).iter() {
            if let Some(payload) = self.payload(round, kind, party) {
                gathered.insert(party, payload.clone());
                self.note_read(party, kind, round);
            }
        }
        if round != Round::CONFIRM {
            self.gathered = self.gathered.max(Some(round.0));
        }
        Some(gathered)
    }

    /// Who keeps `round` from being complete: who did not send, or if all did, who did not
    /// confirm.
    pub(crate) fn missing(&self, round: Round, kind: Kind, from: Members) -> Members {
        let from = from.without(self.me);
        let silent: Members = from
            .iter()
            .filter(|&party| !self.spoke(round, kind, party))
            .collect();
        if !silent.is_empty() || kind == Kind::P2p {
            return silent;
        }
        let mut unconfirmed = Members::NONE;
        for sender in from.iter() {
            let broadcast = self.broadcast_of(round, sender);
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
        let payload = self.payload(round, kind, sender)?.clone();
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
        self.claims.clear();
        Ended {
            sent: core::mem::take(&mut self.sent).into_keys().collect(),
            rows: core::mem::take(&mut self.rows),
        }
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
