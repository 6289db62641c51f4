//! What parties do in their sessions: protocols that start from the beginning after each crash and
//! rely on the session to make that the same run.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use junto_bls::{
    Inbox, KeyShare, Occasion, Participant, PartyIndex as BlsParty, RunError, Setup, ShareIndex,
};
use junto_crypto::{ed25519::VerifyingKey, hash::sha256_of};
use junto_session::{
    Blame, Culprit, Fault, InstanceId, Kind, LocalId, Members, Misuse, Mode, PartyIndex, Purpose,
    Reason, Round, SessionError,
    proto::{node::Node, step::Step},
};
use rand_chacha::ChaCha8Rng;

use crate::{mutation::Mutation, verdict::Violation};

/// How long a party waits for the messages of a round; a little longer in each later round, so that
/// whoever waits for a party that waits for the culprit hears of it first.
const PATIENCE_MS: u64 = 60_000;
const MORE_PATIENCE_MS: u64 = 2_000;
/// And this much longer if only echoes are missing: those who lack the message itself speak first.
const GRACE_MS: u64 = 10_000;

/// How a run ended for a party.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeded; all honest parties have the same here.
    Done(Vec<u8>),
    /// Parties are at fault, or silent.
    Named {
        /// Indices in the roster; in a session that did not form, too.
        parties: BTreeSet<usize>,
        /// Whose word it is that they are, or nobody's.
        by: Option<usize>,
        /// There is evidence that they signed.
        proven: bool,
        /// In the session's words.
        why: String,
    },
    /// The session did not form in time; whom it waited for, as far as it knew.
    Incomplete(BTreeSet<usize>),
}

impl Verdict {
    fn named(blame: &Blame) -> Self {
        // What a party tells of others stays its word; whom it means is what we want to know.
        let parties = match &blame.fault {
            Fault::GaveUp(reason)
                if matches!(**reason, Reason::Silent { .. } | Reason::Gone { .. }) =>
            {
                reason.accused()
            }
            _ => blame.parties(),
        };
        let mut parties: BTreeSet<_> = parties.iter().map(PartyIndex::as_usize).collect();
        if parties.is_empty() && blame.culprit == Culprit::Host {
            parties.insert(usize::MAX);
        }
        let by = match (&blame.fault, blame.culprit) {
            (Fault::GaveUp(_), Culprit::Party(by)) => Some(by.as_usize()),
            _ => None,
        };
        Self::Named {
            parties,
            by,
            proven: matches!(blame.fault, Fault::Proven(_)),
            why: format!("{:?} {}", blame.culprit, blame.fault),
        }
    }

    /// From how a session ended a call.
    ///
    /// # Errors
    /// A violation if it is no party's fault.
    pub fn of(error: &SessionError) -> Result<Self, Violation> {
        match error {
            SessionError::Peer(blame) => Ok(Self::named(blame)),
            SessionError::Incomplete { missing, .. } => Ok(Self::Incomplete(
                missing.iter().map(PartyIndex::as_usize).collect(),
            )),
            other => Err(Violation::new("nothing_fails_here", format!("{other:?}"))),
        }
    }
}

/// What a party's application keeps in its own store.
#[derive(Default)]
pub struct Notebook {
    /// How it ended.
    pub verdict: Option<Verdict>,
    /// When it began to wait in a round.
    since_ms: BTreeMap<(String, u32), u64>,
    /// All that it gathered, to compare after a restart.
    gathered: BTreeMap<(String, u32, Kind), BTreeMap<PartyIndex, Bytes>>,
    /// What came out of the executions.
    yields: BTreeMap<&'static str, Vec<u8>>,
    /// Rounds in which it has spoken, in all executions.
    pub rounds_begun: u32,
}

impl Notebook {
    /// Puts away what came out of an execution.
    pub fn put_away(&mut self, stash: Stash) {
        self.yields.insert(stash.label, stash.bytes);
    }
}

/// What comes out of an execution, to be put away once the step is stored that it came out of, and
/// before the execution is finished. Earlier, a crash would leave a party that has its result but
/// has not said what the others need for theirs; later, one that has finished without a result.
pub struct Stash {
    label: &'static str,
    bytes: Vec<u8>,
}

/// What a program works with.
pub struct Desk<'a> {
    /// The core.
    pub node: &'a mut Node,
    /// Of this process.
    pub rng: &'a mut ChaCha8Rng,
    /// Everything that is to be stored.
    pub step: &'a mut Step,
    /// The session.
    pub local: LocalId,
    /// Us.
    pub me: PartyIndex,
    /// All parties' session keys, in the order of their indices.
    pub roster: &'a [VerifyingKey],
    /// What survives a crash.
    pub notebook: &'a mut Notebook,
    /// What to put into it after the next commit.
    pub stash: &'a mut Option<Stash>,
    /// The time.
    pub now_ms: u64,
    /// Rules broken on purpose.
    pub mutation: Mutation,
    /// Round before which to stop: the liar prepares.
    pub hold: Option<u32>,
}

/// One execution, as far as this process knows.
#[derive(Default)]
struct Run {
    id: Option<InstanceId>,
    waiting: Option<(Round, Kind)>,
}

type Played<T> = Result<T, Stop>;

/// Why a program does not go on.
enum Stop {
    /// Not everything is there yet.
    Wait,
    /// It is over.
    End(Verdict),
    /// The execution finished before.
    Finished,
    Broken(Violation),
}

impl From<SessionError> for Stop {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Misuse(Misuse::Finished) => Self::Finished,
            error => Verdict::of(&error).map_or_else(Self::Broken, Self::End),
        }
    }
}

fn broken(text: impl core::fmt::Debug) -> Stop {
    Stop::Broken(Violation::new("nothing_fails_here", format!("{text:?}")))
}

impl Desk<'_> {
    fn others(&self) -> Members {
        (0..self.roster.len())
            .filter_map(PartyIndex::new)
            .filter(|party| *party != self.me)
            .collect()
    }

    fn open(&mut self, run: &mut Run, label: &str) -> Played<InstanceId> {
        if let Some(id) = run.id {
            return Ok(id);
        }
        let purpose = Purpose {
            label: label.to_owned(),
            members: self.others().with(self.me),
            mode: Mode::Rounds,
        };
        let (opened, step) = self.node.open_execution(&self.local, purpose, self.rng);
        self.step.absorb(step);
        let id = opened?;
        run.id = Some(id);
        Ok(id)
    }

    fn seed(&mut self, id: &InstanceId) -> Played<[u8; 32]> {
        if self.mutation == Mutation::ForgetSeed {
            let mut seed = [0; 32];
            rand_chacha::rand_core::Rng::fill_bytes(self.rng, &mut seed);
            return Ok(seed);
        }
        Ok(*self.node.seed(&self.local, id)?.as_bytes())
    }

    fn broadcast(&mut self, id: &InstanceId, round: u32, payload: &Bytes) -> Played<()> {
        let round = Round(round);
        let (said, step) = self
            .node
            .broadcast(&self.local, id, round, payload, self.rng);
        self.step.absorb(step);
        Ok(said?)
    }

    fn send(&mut self, id: &InstanceId, round: u32, to: PartyIndex, payload: &Bytes) -> Played<()> {
        let (said, step) = self
            .node
            .send(&self.local, id, Round(round), to, payload, self.rng);
        self.step.absorb(step);
        Ok(said?)
    }

    fn gather(
        &mut self,
        run: &mut Run,
        label: &str,
        round: u32,
        kind: Kind,
    ) -> Played<BTreeMap<PartyIndex, Bytes>> {
        let Some(id) = run.id else {
            return Err(Stop::Wait);
        };
        let others = self.others();
        let (gathered, step) =
            self.node
                .gather(&self.local, &id, Round(round), kind, others, self.rng);
        self.step.absorb(step);
        let Some(gathered) = gathered? else {
            run.waiting = Some((Round(round), kind));
            let now_ms = self.now_ms;
            self.notebook
                .since_ms
                .entry((label.to_owned(), round))
                .or_insert(now_ms);
            return Err(Stop::Wait);
        };
        run.waiting = None;
        // Our own part may have been forgotten with a step that was never stored; nobody saw it.
        let me = self.me;
        let of_others = |gathered: &BTreeMap<PartyIndex, Bytes>| {
            let mut others = gathered.clone();
            others.remove(&me);
            others
        };
        let place = (label.to_owned(), round, kind);
        let before = self.notebook.gathered.insert(place, gathered.clone());
        if before.is_some_and(|before| of_others(&before) != of_others(&gathered)) {
            let text = format!("{label} {round} {kind:?}: not what it was before the restart");
            return Err(Stop::Broken(Violation::new("honest_parties_agree", text)));
        }
        Ok(gathered)
    }

    /// Asks the silent what they have, or gives them up.
    fn tick(&mut self, run: &Run, label: &str) -> Result<(), Violation> {
        let (Some(id), Some((round, kind))) = (run.id, run.waiting) else {
            return Ok(());
        };
        let since = self
            .notebook
            .since_ms
            .get(&(label.to_owned(), round.0))
            .copied();
        let others = self.others();
        let echoes_only = self
            .node
            .lacks_echoes_only(&self.local, &id, round, kind, others);
        let grace = if matches!(echoes_only, Ok(true)) {
            GRACE_MS
        } else {
            0
        };
        let patience = PATIENCE_MS + MORE_PATIENCE_MS * u64::from(round.0) + grace;
        if since.is_some_and(|since| self.now_ms > since + patience) {
            let (result, step) = self
                .node
                .expire(&self.local, &id, round, kind, others, self.rng);
            self.step.absorb(step);
            match result {
                Ok(()) | Err(SessionError::Peer(_)) => Ok(()),
                Err(error) => Err(Violation::new("nothing_fails_here", format!("{error:?}"))),
            }
        } else {
            let step = self
                .node
                .probe(&self.local, &id, round, kind, others, self.rng);
            self.step.absorb(step);
            Ok(())
        }
    }

    /// Finishes an execution whose yield is put away.
    fn finish(&mut self, id: &InstanceId) -> Played<()> {
        let (finished, step) = self.node.finish(&self.local, id, self.rng);
        self.step.absorb(step);
        match finished {
            Ok(_) | Err(SessionError::Misuse(Misuse::Finished)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until what came out of an execution is put away.
    fn put_away(&mut self, label: &'static str, bytes: Vec<u8>) -> Stop {
        let stash = Stash { label, bytes };
        if self.mutation == Mutation::ResultBeforeStore {
            self.notebook.put_away(stash);
        } else {
            *self.stash = Some(stash);
        }
        Stop::Wait
    }

    /// What came out of an execution before; it is finished then.
    fn taken_up(&mut self, run: &mut Run, label: &'static str) -> Played<Option<Vec<u8>>> {
        let Some(bytes) = self.notebook.yields.get(label).cloned() else {
            return Ok(None);
        };
        match self.open(run, label) {
            Ok(id) => self.finish(&id)?,
            Err(Stop::Finished) => {}
            Err(stop) => return Err(stop),
        }
        run.waiting = None;
        Ok(Some(bytes))
    }
}

/// A protocol.
pub enum Program {
    /// Rounds of broadcasts and private letters.
    Letters(Letters),
    /// Threshold key generation, then a signature.
    Bls(Bls),
}

impl Program {
    /// Plays as far as it goes.
    ///
    /// # Errors
    /// A violation.
    pub fn play(&mut self, desk: &mut Desk<'_>) -> Result<Option<Verdict>, Violation> {
        let played = match self {
            Self::Letters(letters) => letters.play(desk),
            Self::Bls(bls) => bls.play(desk),
        };
        match played {
            Ok(verdict) | Err(Stop::End(verdict)) => Ok(Some(verdict)),
            Err(Stop::Wait) => Ok(None),
            Err(Stop::Finished) => Err(Violation::new("nothing_lost", "finished without a result")),
            Err(Stop::Broken(violation)) => Err(violation),
        }
    }

    /// Time has passed.
    ///
    /// # Errors
    /// A violation.
    pub fn tick(&mut self, desk: &mut Desk<'_>) -> Result<(), Violation> {
        match self {
            Self::Letters(letters) => desk.tick(&letters.run, LETTERS),
            Self::Bls(bls) => {
                desk.tick(&bls.keygen, KEYGEN)?;
                desk.tick(&bls.sign, SIGN)
            }
        }
    }

    /// What it waits for.
    #[must_use]
    pub fn waits_for(&self) -> Option<(Round, Kind)> {
        match self {
            Self::Letters(letters) => letters.run.waiting,
            Self::Bls(bls) => bls.sign.waiting.or(bls.keygen.waiting),
        }
    }

    /// Rounds in which a party speaks.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        match self {
            Self::Letters(letters) => letters.rounds,
            Self::Bls(_) => 4,
        }
    }
}

/// Label of [`Letters`].
pub const LETTERS: &str = "letters";
const KEYGEN: &str = "keygen";
const SIGN: &str = "sign";

/// See [`Program::Letters`].
pub struct Letters {
    rounds: u32,
    round: u32,
    said: bool,
    run: Run,
}

impl Letters {
    /// So many rounds.
    #[must_use]
    pub fn new(rounds: u32) -> Self {
        Self {
            rounds,
            round: 0,
            said: false,
            run: Run::default(),
        }
    }

    /// Whether it stops before this round.
    #[must_use]
    pub fn is_before(&self, round: u32) -> bool {
        self.round == round && !self.said
    }

    fn play(&mut self, desk: &mut Desk<'_>) -> Played<Verdict> {
        if let Some(result) = desk.taken_up(&mut self.run, LETTERS)? {
            return Ok(Verdict::Done(result));
        }
        let id = desk.open(&mut self.run, LETTERS)?;
        while self.round < self.rounds {
            let round = self.round;
            if !self.said {
                if desk.hold == Some(round) {
                    return Err(Stop::Wait);
                }
                let seed = desk.seed(&id)?;
                desk.notebook.rounds_begun = desk.notebook.rounds_begun.max(round + 1);
                desk.broadcast(&id, round, &speech(&seed, round))?;
                for to in desk.others().iter() {
                    desk.send(&id, round, to, &letter(desk.me, to, round))?;
                }
                self.said = true;
            }
            desk.gather(&mut self.run, LETTERS, round, Kind::Broadcast)?;
            for (from, text) in desk.gather(&mut self.run, LETTERS, round, Kind::P2p)? {
                if text != letter(from, desk.me, round) {
                    return Err(broken(format!("a strange letter from {from} in {round}")));
                }
            }
            self.round += 1;
            self.said = false;
        }
        let speeches = desk
            .notebook
            .gathered
            .iter()
            .filter(|((.., kind), _)| *kind == Kind::Broadcast);
        let mut result = Vec::new();
        for ((_, round, _), texts) in speeches {
            for (from, text) in texts {
                result.extend(sha256_of(&[
                    &round.to_be_bytes(),
                    &[from.as_usize() as u8],
                    text,
                ]));
            }
        }
        Err(desk.put_away(LETTERS, result))
    }
}

/// A broadcast that only somebody with the same seed makes again; every third is long.
#[must_use]
pub fn speech(seed: &[u8; 32], round: u32) -> Bytes {
    let text = sha256_of(&[seed, &round.to_be_bytes()]);
    let len = if round % 3 == 1 { 4_000 } else { 40 };
    text.iter().cycle().take(len).copied().collect()
}

fn letter(from: PartyIndex, to: PartyIndex, round: u32) -> Bytes {
    let text = format!("{from} to {to} in {round}. ");
    let len = if round % 3 == 2 { 3_000 } else { text.len() };
    text.bytes().cycle().take(len).collect()
}

/// See [`Program::Bls`].
#[derive(Default)]
pub struct Bls {
    keygen: Run,
    sign: Run,
    inboxes: Vec<Inbox>,
}

fn bls_party(party: PartyIndex) -> Played<BlsParty> {
    BlsParty::new(party.as_usize() as u8).ok_or_else(|| broken("party index"))
}

fn run_failed(error: RunError) -> Stop {
    match error {
        RunError::Abort(abort) => broken(abort),
        other => broken(other),
    }
}

impl Bls {
    fn play(&mut self, desk: &mut Desk<'_>) -> Played<Verdict> {
        let Some(share) = desk.taken_up(&mut self.keygen, KEYGEN)? else {
            return Err(self.make_key(desk)?);
        };
        if let Some(result) = desk.taken_up(&mut self.sign, SIGN)? {
            return Ok(Verdict::Done(result));
        }
        Err(self.make_signature(desk, &share)?)
    }

    /// The next inbox, unless it is not complete yet.
    fn inbox(&mut self, desk: &mut Desk<'_>, round: u32, kind: Kind) -> Played<Inbox> {
        if let Some(inbox) = self.inboxes.get(round as usize) {
            return Ok(inbox.clone());
        }
        let mut inbox = Inbox::new();
        for (from, wire) in desk.gather(&mut self.keygen, KEYGEN, round, kind)? {
            inbox.insert(bls_party(from)?, wire.to_vec());
        }
        self.inboxes.push(inbox.clone());
        Ok(inbox)
    }

    /// Runs the whole key generation again whenever one more of its inboxes is complete.
    fn make_key(&mut self, desk: &mut Desk<'_>) -> Played<Stop> {
        let id = desk.open(&mut self.keygen, KEYGEN)?;
        if let Some((round, kind)) = self.keygen.waiting {
            self.inbox(desk, round.0, kind)?;
        }
        let occasion = Occasion {
            session: id.0,
            label: b"key",
            roster: desk.roster,
        };
        let required = (desk.roster.len() as u8 / 2 + 1).max(2);
        let setup = Setup::keygen(&occasion, required).map_err(broken)?;
        let signer = desk.node.signing_key(&desk.local)?;
        let seed = desk.seed(&id)?;
        let me = bls_party(desk.me)?;
        let party = Participant::new(&setup, me, &signer, &seed).map_err(broken)?;
        let (deal, wire) = party.start(None).map_err(broken)?;
        desk.notebook.rounds_begun = desk.notebook.rounds_begun.max(1);
        desk.broadcast(&id, 0, &wire.into())?;
        let inbox = self.inbox(desk, 0, Kind::Broadcast)?;
        let (share, outbox) = deal.receive(&inbox).map_err(run_failed)?;
        desk.notebook.rounds_begun = desk.notebook.rounds_begun.max(2);
        for (to, wire) in outbox {
            let to = PartyIndex::new(usize::from(to.value())).ok_or_else(|| broken("index"))?;
            desk.send(&id, 1, to, &Bytes::copy_from_slice(&wire))?;
        }
        let inbox = self.inbox(desk, 1, Kind::P2p)?;
        let (mut confirm, wire) = share.receive(&inbox).map_err(broken)?;
        desk.notebook.rounds_begun = desk.notebook.rounds_begun.max(3);
        desk.broadcast(&id, 2, &wire.into())?;
        let inbox = self.inbox(desk, 2, Kind::Broadcast)?;
        let certificate = confirm.receive(&inbox).map_err(run_failed)?;
        let pending = confirm
            .take_pending()
            .ok_or_else(|| broken("no pending key"))?;
        let epoch = pending
            .activate(&certificate)
            .map_err(|(_, error)| broken(error))?;
        let share = epoch.share.ok_or_else(|| broken("no share"))?;
        Ok(desk.put_away(KEYGEN, share.encode().to_vec()))
    }

    fn make_signature(&mut self, desk: &mut Desk<'_>, share: &[u8]) -> Played<Stop> {
        let id = desk.open(&mut self.sign, SIGN)?;
        if self.sign.waiting.is_some() {
            desk.gather(&mut self.sign, SIGN, 0, Kind::Broadcast)?;
        }
        let share = KeyShare::decode(share).map_err(broken)?;
        let occasion = Occasion {
            session: id.0,
            label: b"sign",
            roster: desk.roster,
        };
        let mut signers = BTreeMap::new();
        for place in 0..desk.roster.len() as u8 {
            let party = BlsParty::new(place).zip(ShareIndex::new(place + 1));
            signers.extend(party);
        }
        const MESSAGE: &[u8] = b"signed in a simulation";
        let setup =
            Setup::sign(&occasion, share.public().clone(), signers, MESSAGE).map_err(broken)?;
        let signer = desk.node.signing_key(&desk.local)?;
        let seed = desk.seed(&id)?;
        let party =
            Participant::new(&setup, bls_party(desk.me)?, &signer, &seed).map_err(broken)?;
        let (round, wire) = party.sign(Some(&share)).map_err(broken)?;
        desk.notebook.rounds_begun = 4;
        if let Some(wire) = wire {
            desk.broadcast(&id, 0, &wire.into())?;
        }
        let mut inbox = Inbox::new();
        for (from, wire) in desk.gather(&mut self.sign, SIGN, 0, Kind::Broadcast)? {
            inbox.insert(bls_party(from)?, wire.to_vec());
        }
        let outcome = round.receive(&inbox).map_err(broken)?;
        let key = share.public().public_key();
        if !outcome.blames.is_empty() || !junto_bls::verify(&key, MESSAGE, &outcome.signature) {
            return Err(broken(outcome));
        }
        let result = [&key.to_bytes()[..], &outcome.signature.to_bytes()].concat();
        Ok(desk.put_away(SIGN, result))
    }
}
