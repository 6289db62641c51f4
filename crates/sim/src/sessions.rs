//! Parties that form a session and run a protocol in it: the session layer under test, over any
//! [`Carrier`].
//!
//! Plays the shell of `junto-session`: stores steps, then has the carrier do what they release; dies
//! at any commit. In some runs one party lies: it runs as two processes with the same keys, and
//! each tells another half of the parties another story.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use junto_crypto::ed25519::VerifyingKey;
use junto_session::{
    InstanceId, Kind, LocalId, Members, Mode, Params, PartyCount, PartyIndex, Persona, Policy,
    Purpose, Round, SessionError, SessionLink, Stage,
    proto::{
        endpoint::{ConnectionId, Event},
        node::Node,
        step::{Effect, MemoryStore, Outcome, Step, Store},
    },
};
use rand_chacha::ChaCha8Rng;

use crate::{
    carrier::{Carrier, News},
    dice::{Dice, Seed},
    faults::{Death, Faults},
    invariants::{
        honest_parties_agree, in_order, nobody_hangs, nothing_invented, nothing_lost,
        nothing_twice, the_culprit_is_named,
    },
    mutation::Mutation,
    program::{Bls, Desk, LETTERS, Letters, Notebook, Program, Stash, Verdict, speech},
    stream::Stream,
    timeline::Timeline,
    verdict::{Run, Violation},
};

/// When the faults stop.
const FAULTS_MS: u64 = 3_000;
/// How long a party waits for its session.
const FORMING_MS: u64 = 90_000;
/// The label of the channel on which parties chat while the protocol runs.
const CHANNEL: &str = "chat";

type Checked = Result<(), Violation>;

/// Who makes trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Tells some another story than the others, from a round on. If it is deaf from then on, it says
    /// nothing more.
    Liar {
        party: usize,
        round: u32,
        deaf: bool,
        lie: Lie,
    },
    /// Dies at this time and never comes back.
    Vanishes {
        party: usize,
        at_ms: u64,
    },
}

/// What a liar tells some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Another value than the others.
    Value,
    /// That it ends the run; it goes on with the others.
    End,
    /// That those are silent who have not spoken yet, though it has not waited; perhaps it has spoken itself.
    Silence { spoken: bool },
}

/// What a run is about.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    parties: usize,
    rounds: u32,
    bls: bool,
    trouble: Trouble,
    chats: u64,
}

impl Plan {
    /// A protocol of letters, perhaps with trouble.
    pub fn letters(dice: &mut Dice) -> Self {
        let parties = dice.between(2, 5) as usize;
        let rounds = dice.between(1, 3) as u32;
        let party = dice.index(parties);
        let round = dice.below(u64::from(rounds)) as u32;
        let deaf = dice.chance(600);
        let vanishes = Trouble::Vanishes {
            party,
            at_ms: dice.below(FAULTS_MS),
        };
        let what = dice.below(10);
        let chats = dice.below(8);
        let liar = Trouble::Liar {
            party,
            round,
            deaf,
            lie: match dice.below(10) {
                0..3 => Lie::Value,
                3..6 => Lie::End,
                6..8 => Lie::Silence { spoken: false },
                _ => Lie::Silence { spoken: true },
            },
        };
        let trouble = match what {
            0..3 if parties > 2 => liar,
            3..5 => vanishes,
            _ => Trouble::None,
        };
        Self {
            parties,
            rounds,
            bls: false,
            trouble,
            chats,
        }
    }

    /// Threshold key generation and a signature; sometimes somebody vanishes.
    pub fn bls(dice: &mut Dice) -> Self {
        let parties = dice.between(2, 4) as usize;
        let vanishes = dice.chance(200);
        let (party, at_ms) = (dice.index(parties), dice.below(FAULTS_MS));
        let trouble = if vanishes {
            Trouble::Vanishes { party, at_ms }
        } else {
            Trouble::None
        };
        Self {
            parties,
            rounds: 4,
            bls: true,
            trouble,
            chats: 0,
        }
    }

    /// How many parties it needs.
    #[must_use]
    pub fn parties(&self) -> usize {
        self.parties
    }

    /// Whether one of them lies.
    #[must_use]
    pub fn has_liar(&self) -> bool {
        matches!(self.trouble, Trouble::Liar { .. })
    }

    /// The faults under which the plan makes sense: who is deaf repeats nothing.
    fn possible(&self, faults: Faults) -> Faults {
        match self.trouble {
            Trouble::Liar { deaf: true, .. } => Faults { drop: 0, ..faults },
            _ => faults,
        }
    }

    fn program(&self) -> Program {
        if self.bls {
            Program::Bls(Bls::default())
        } else {
            Program::Letters(Letters::new(self.rounds))
        }
    }
}

enum Happening {
    Tick(usize),
    Vanish(usize),
}

/// A formed session as a party sees it.
#[derive(Clone, PartialEq, Eq)]
struct View {
    id: [u8; 32],
    safety_code: String,
    roster: Vec<VerifyingKey>,
    me: PartyIndex,
}

/// The liar's other process.
struct Twin {
    node: Node,
    disk: MemoryStore,
    rng: ChaCha8Rng,
}

struct Party {
    disk: MemoryStore,
    node: Option<Node>,
    rng: ChaCha8Rng,
    notebook: Notebook,
    program: Program,
    view: Option<View>,
    twin: Option<Twin>,
    /// Chat messages dealt with: (sender, number); those of this process, and those for good.
    seen: BTreeSet<(usize, u64)>,
    done: BTreeSet<(usize, u64)>,
}

struct World<C> {
    carrier: C,
    faults: Faults,
    timeline: Timeline<Happening>,
    dice: Dice,
    plan: Plan,
    mutation: Mutation,
    parties: Vec<Party>,
    link: Option<SessionLink>,
    /// Who is who in the roster.
    who: BTreeMap<PartyIndex, usize>,
    /// Ends of connections by their bindings.
    bindings: BTreeMap<[u8; 32], BTreeSet<usize>>,
    ends: BTreeMap<(usize, ConnectionId), [u8; 32]>,
    streams: BTreeMap<(usize, usize), Stream>,
    /// Outcomes of effects that a liar keeps from the carrier: for it, or for its twin.
    pretended: VecDeque<(usize, bool, Outcome)>,
}

/// Runs a plan over a carrier.
pub fn run<C: Carrier>(
    seed: Seed,
    plan: Plan,
    faults: Faults,
    mutation: Mutation,
    mut carrier: C,
) -> Run {
    let faults = plan.possible(faults);
    carrier.set_faults(faults);
    let parties = (0..plan.parties).map(|party| Party {
        disk: MemoryStore::default(),
        node: None,
        rng: seed.stream(&format!("session {party}")),
        notebook: Notebook::default(),
        program: plan.program(),
        view: None,
        twin: None,
        seen: BTreeSet::new(),
        done: BTreeSet::new(),
    });
    let pairs = (0..plan.parties).flat_map(|a| {
        (0..plan.parties)
            .filter(move |b| a != *b)
            .map(move |b| (a, b))
    });
    let mut world = World {
        carrier,
        faults,
        timeline: Timeline::new(seed.dice("sessions' ties")),
        dice: seed.dice("sessions"),
        plan,
        mutation,
        parties: parties.collect(),
        link: None,
        who: BTreeMap::new(),
        bindings: BTreeMap::new(),
        ends: BTreeMap::new(),
        streams: pairs.map(|(a, b)| ((a, b), Stream::new(a, b))).collect(),
        pretended: VecDeque::new(),
    };
    for party in 0..plan.parties {
        world.timeline.after(0, Happening::Tick(party));
    }
    if let Trouble::Vanishes { party, at_ms } = plan.trouble {
        world.timeline.after(at_ms, Happening::Vanish(party));
    }
    let result = world.play();
    Run {
        tally: world.carrier.tally().clone(),
        digest: world.carrier.trace().digest(),
        lines: world.carrier.trace().lines().map(str::to_owned).collect(),
        result,
    }
}

impl<C: Carrier> World<C> {
    fn play(&mut self) -> Checked {
        self.until(|_, now_ms| now_ms >= FAULTS_MS)?;
        self.faults = Faults::NONE;
        self.carrier.set_faults(Faults::NONE);
        self.until(|world, _| world.is_done())?;
        self.judge()
    }

    fn now_ms(&self) -> u64 {
        self.carrier.now_ms().max(self.timeline.now_ms())
    }

    fn note(&mut self, party: usize, line: impl FnOnce() -> String) {
        let now_ms = self.now_ms();
        self.carrier.trace().note(now_ms, &[party as u8, b's'], || {
            format!("session {party}: {}", line())
        });
    }

    fn is_honest(&self, party: usize) -> bool {
        match self.plan.trouble {
            Trouble::None => true,
            Trouble::Liar { party: other, .. } | Trouble::Vanishes { party: other, .. } => {
                party != other
            }
        }
    }

    fn honest(&self) -> impl Iterator<Item = (usize, &Party)> {
        self.parties
            .iter()
            .enumerate()
            .filter(|(party, _)| self.is_honest(*party))
    }

    fn is_done(&self) -> bool {
        // A host that vanishes before anybody has its link leaves nothing to wait for.
        let unborn = self.link.is_none() && !self.is_honest(0);
        let over = unborn
            || self
                .honest()
                .all(|(_, party)| party.notebook.verdict.is_some());
        let chats = self.plan.trouble != Trouble::None
            || self
                .streams
                .values()
                .all(|stream| stream.issued == self.plan.chats && stream.is_complete());
        over && chats
    }

    fn until(&mut self, done: impl Fn(&Self, u64) -> bool) -> Checked {
        while !done(self, self.now_ms()) {
            let healed_for = self.now_ms().saturating_sub(FAULTS_MS);
            nobody_hangs::check(healed_for, || self.waiting())?;
            let (theirs, ours) = (self.carrier.next_ms(), self.timeline.next_ms());
            if ours.is_none() || theirs.is_some_and(|theirs| Some(theirs) <= ours) {
                self.carrier.run_one();
            } else if let Some(happening) = self.timeline.take_next() {
                self.carrier.wait_until(self.timeline.now_ms());
                match happening {
                    Happening::Tick(party) => {
                        let next = self.dice.between(150, 450);
                        self.timeline.after(next, Happening::Tick(party));
                        self.tick(party)?;
                    }
                    Happening::Vanish(party) => {
                        self.note(party, || "VANISHES".into());
                        self.carrier.crash(party, true);
                    }
                }
            }
            self.timeline.wait_until(self.carrier.now_ms());
            self.listen()?;
        }
        Ok(())
    }

    fn waiting(&self) -> String {
        let mut text = String::new();
        for (number, party) in self.honest() {
            let stage = party.node.as_ref().and_then(|node| node.summaries().next());
            let stage = stage.map(|summary| (summary.stage, summary.connected));
            text += &format!(
                "party {number}: {stage:?}, verdict {:?}; ",
                party.notebook.verdict.is_some()
            );
        }
        for stream in self.streams.values() {
            text += &format!("{stream}; ");
        }
        text
    }

    fn listen(&mut self) -> Checked {
        loop {
            while let Some((party, twin, outcome)) = self.pretended.pop_front() {
                self.outcome(party, twin, outcome)?;
            }
            let mut news = self.carrier.take_news();
            if news.is_empty() && self.pretended.is_empty() {
                return Ok(());
            }
            while let Some((party, item)) = news.pop_front() {
                match item {
                    News::Started => self.start(party)?,
                    News::Crashed => self.forget(party),
                    News::Event(event) => self.event(party, event)?,
                    News::Outcome(outcome) => {
                        let other = match &outcome {
                            Outcome::Sent { connection } => self.is_twins(party, *connection),
                            _ => false,
                        };
                        self.outcome(party, other, outcome)?;
                    }
                }
            }
        }
    }

    fn start(&mut self, number: usize) -> Checked {
        let body_bytes = self.carrier.body_bytes();
        let forgetful = self.mutation == Mutation::LoseOutbox;
        let party = &mut self.parties[number];
        let mut rows = party.disk.load().unwrap_or_default();
        if forgetful {
            rows.retain(|(key, _)| key.first() != Some(&b'O'));
        }
        let (node, step) = Node::load(rows, body_bytes, &mut party.rng).map_err(|error| {
            let text = format!("party {number} cannot read its own store: {error:?}");
            Violation::new("nothing_fails_here", text)
        })?;
        party.node = Some(node);
        self.note(number, || "starts".into());
        self.settle(number, step);
        self.work(number)
    }

    /// What a dead process takes with it.
    fn forget(&mut self, number: usize) {
        let program = self.plan.program();
        let party = &mut self.parties[number];
        party.node = None;
        party.program = program;
        party.view = None;
        party.seen = party.done.clone();
    }

    fn event(&mut self, number: usize, event: Event) -> Checked {
        if let Event::Connected {
            connection,
            binding,
            ..
        } = &event
        {
            self.bindings.entry(*binding).or_default().insert(number);
            self.ends.insert((number, *connection), *binding);
        }
        if let Event::Failed { reason, .. } = &event {
            let text = format!("party {number}: {reason}");
            return Err(Violation::new("no_connection_fails", text));
        }
        let deaf = matches!(self.plan.trouble, Trouble::Liar { deaf: true, .. });
        if let Some(twin) = &mut self.parties[number].twin {
            if deaf {
                return Ok(());
            }
            let step = twin.node.event(event.clone(), &mut twin.rng);
            self.settle_twin(number, step);
        }
        let party = &mut self.parties[number];
        let Some(node) = &mut party.node else {
            return Ok(());
        };
        let step = node.event(event, &mut party.rng);
        self.react(number, step)
    }

    fn outcome(&mut self, number: usize, twin: bool, outcome: Outcome) -> Checked {
        let party = &mut self.parties[number];
        let defect = |error: SessionError| {
            Violation::new("nothing_fails_here", format!("party {number}: {error:?}"))
        };
        if twin {
            if let Some(twin) = &mut party.twin {
                let step = twin.node.outcome(outcome, &mut twin.rng).map_err(defect)?;
                self.settle_twin(number, step);
            }
            return Ok(());
        }
        let Some(node) = &mut party.node else {
            return Ok(());
        };
        let step = node.outcome(outcome, &mut party.rng).map_err(defect)?;
        self.react(number, step)
    }

    /// Stores what an input changed, sometimes together with what the application makes of it.
    fn react(&mut self, number: usize, step: Step) -> Checked {
        if self.dice.chance(500) {
            return self.work_with(number, step);
        }
        self.settle(number, step);
        self.work(number)
    }

    /// Stores a step, then lets the carrier do what it asks for. False if the process dies.
    fn settle(&mut self, number: usize, step: Step) -> bool {
        if step.is_empty() {
            return self.parties[number].node.is_some();
        }
        let is_liar = matches!(self.plan.trouble, Trouble::Liar { party, .. } if party == number);
        let death = Death::draw(&mut self.dice, &self.faults).filter(|_| !is_liar);
        let early = self.mutation == Mutation::SendBeforeStore;
        if death == Some(Death::BeforeCommit) && !early {
            return self.die(number, "crashes before a commit");
        }
        let mut disk = self.parties[number].disk.clone();
        let Ok(proof) = disk.commit(step.delta());
        let effects = step.release(proof);
        if early {
            for effect in effects {
                self.perform(number, false, effect, true);
            }
            if death.is_some() {
                return self.die(number, "crashes before a commit");
            }
            self.parties[number].disk = disk;
            return true;
        }
        self.parties[number].disk = disk;
        let limit = Death::limit(death, &mut self.dice, effects.len());
        for effect in effects.into_iter().take(limit) {
            self.perform(number, false, effect, false);
        }
        death.is_none() || self.die(number, "crashes after a commit")
    }

    /// A party's process dies with the step that it was carrying out; false, as nothing goes on there.
    fn die(&mut self, number: usize, when: &'static str) -> bool {
        self.carrier.tally().count(when);
        self.carrier.crash(number, false);
        self.parties[number].node = None;
        false
    }

    fn settle_twin(&mut self, number: usize, step: Step) {
        let Some(twin) = &mut self.parties[number].twin else {
            return;
        };
        let Ok(proof) = twin.disk.commit(step.delta());
        for effect in step.release(proof) {
            self.perform(number, true, effect, false);
        }
    }

    /// Whether the liar's twin speaks on this connection: with every second party.
    fn is_twins(&self, party: usize, connection: ConnectionId) -> bool {
        if self.parties[party].twin.is_none() {
            return false;
        }
        let ends = self
            .ends
            .get(&(party, connection))
            .and_then(|name| self.bindings.get(name));
        let other = ends.and_then(|ends| ends.iter().find(|end| **end != party));
        let honest: Vec<_> = (0..self.plan.parties)
            .filter(|other| *other != party)
            .collect();
        other.is_some_and(|other| {
            honest
                .iter()
                .position(|party| party == other)
                .is_some_and(|place| place % 2 == 1)
        })
    }

    fn perform(&mut self, party: usize, twin: bool, effect: Effect, at_once: bool) {
        if self.parties[party].twin.is_some() {
            let theirs = match &effect {
                Effect::Send { connection, .. } => self.is_twins(party, *connection),
                _ => false,
            };
            if theirs != twin {
                if let Effect::Send { connection, .. } = effect {
                    self.pretended
                        .push_back((party, twin, Outcome::Sent { connection }));
                }
                return;
            }
        }
        self.carrier.perform(party, effect, at_once);
    }

    fn work(&mut self, number: usize) -> Checked {
        self.work_with(number, Step::default())
    }

    /// Lets a party's application do what it can.
    fn work_with(&mut self, number: usize, mut step: Step) -> Checked {
        let Some(local) = self.join(number, &mut step) else {
            self.settle(number, step);
            return Ok(());
        };
        let party = &mut self.parties[number];
        let Some(node) = &mut party.node else {
            return Ok(());
        };
        if party.view.is_none() {
            match node.is_formed(&local) {
                Ok(true) => party.view = view(node, &local),
                Ok(false) => {}
                Err(error) => {
                    let verdict = Verdict::of(&error)?;
                    party.notebook.verdict.get_or_insert(verdict);
                }
            }
            if let Some(view) = self.parties[number].view.clone() {
                self.compare(number, &view)?;
            }
        }
        let Some(view) = self.parties[number].view.clone() else {
            self.settle(number, step);
            return Ok(());
        };
        let (mut verdict, mut stash, mut receipts) = (None, None, Vec::new());
        if self.parties[number].notebook.verdict.is_none() {
            verdict = self.program(number, &local, &view, &mut step, &mut stash)?;
        }
        self.listen_to_chat(number, &local, &mut step, &mut receipts)?;
        if self.settle(number, step) {
            self.parties[number].done.extend(receipts);
            if let Some(verdict) = verdict {
                self.note(number, || format!("{verdict:?}"));
                self.parties[number].notebook.verdict = Some(verdict);
            }
            if let Some(stash) = stash {
                self.parties[number].notebook.put_away(stash);
                return self.work(number);
            }
        }
        self.split(number, &local)
    }

    /// The party's session, made or joined if there is none.
    fn join(&mut self, number: usize, step: &mut Step) -> Option<LocalId> {
        let home = self.carrier.home(number);
        let party = &mut self.parties[number];
        let node = party.node.as_mut()?;
        if let Some(summary) = node.summaries().next() {
            if let Some(me) = summary.me {
                self.who.entry(me).or_insert(number);
            }
            return Some(summary.local);
        }
        let persona = Persona {
            relay: home,
            ..Persona::default()
        };
        let made = if number == 0 {
            let params = Params {
                name: "simulation".to_owned(),
                parties: PartyCount::new(self.plan.parties).expect("2 to 5"),
                policy: Policy::Anonymous,
            };
            node.host(params, &persona, &mut party.rng)
        } else {
            node.join(self.link.clone()?, &persona, &mut party.rng)
        };
        let (local, more) = made.expect("a valid persona");
        step.absorb(more);
        Some(local)
    }

    fn compare(&mut self, number: usize, view: &View) -> Checked {
        self.note(number, || format!("formed, as {}", view.me));
        let before = *self.who.entry(view.me).or_insert(number);
        honest_parties_agree::check(
            "owner of an index",
            &BTreeMap::from([(0, before), (1, number)]),
        )?;
        let views = self.parties.iter().enumerate();
        let views: BTreeMap<_, _> = views
            .filter_map(|(party, state)| {
                let view = state.view.as_ref()?;
                let keys: Vec<_> = view.roster.iter().map(VerifyingKey::as_bytes).collect();
                Some((party, (view.id, &view.safety_code, keys)))
            })
            .collect();
        honest_parties_agree::check("session", &views)
    }

    fn program(
        &mut self,
        number: usize,
        local: &LocalId,
        view: &View,
        step: &mut Step,
        stash: &mut Option<Stash>,
    ) -> Result<Option<Verdict>, Violation> {
        let hold = match self.plan.trouble {
            Trouble::Liar { party, round, .. } if party == number => {
                self.parties[number].twin.is_none().then_some(round)
            }
            _ => None,
        };
        self.desk((number, local, view), step, stash, hold, Program::play)
            .unwrap_or(Ok(None))
    }

    fn desk<T>(
        &mut self,
        (number, local, view): (usize, &LocalId, &View),
        step: &mut Step,
        stash: &mut Option<Stash>,
        hold: Option<u32>,
        work: impl FnOnce(&mut Program, &mut Desk<'_>) -> T,
    ) -> Option<T> {
        let (now_ms, mutation) = (self.now_ms(), self.mutation);
        let party = &mut self.parties[number];
        let mut desk = Desk {
            node: party.node.as_mut()?,
            rng: &mut party.rng,
            step,
            local: *local,
            me: view.me,
            roster: &view.roster,
            notebook: &mut party.notebook,
            stash,
            now_ms,
            mutation,
            hold,
        };
        Some(work(&mut party.program, &mut desk))
    }

    /// The liar becomes two, once it is where it wants to lie; one of them tells its lie.
    fn split(&mut self, number: usize, local: &LocalId) -> Checked {
        let Trouble::Liar {
            party: liar,
            round,
            lie,
            ..
        } = self.plan.trouble
        else {
            return Ok(());
        };
        let body_bytes = self.carrier.body_bytes();
        let party = &mut self.parties[number];
        let ready = matches!(&party.program, Program::Letters(letters) if letters.is_before(round));
        if liar != number || party.twin.is_some() || !ready || party.view.is_none() {
            return Ok(());
        }
        let Some(view) = party.view.clone() else {
            return Ok(());
        };
        let mut disk = party.disk.clone();
        let rows = disk.load().unwrap_or_default();
        let mut rng = party.rng.clone();
        let (mut node, mut step) = Node::load(rows, body_bytes, &mut rng).expect("the same disk");
        let purpose = Purpose {
            label: LETTERS.to_owned(),
            members: (0..view.roster.len()).filter_map(PartyIndex::new).collect(),
            mode: Mode::Rounds,
        };
        let (opened, more) = node.open_execution(local, purpose, &mut rng);
        step.absorb(more);
        // The program may not have come far enough to open it.
        if let Ok(id) = opened {
            let what = tell(
                lie,
                &mut node,
                (local, &id, view.me),
                round,
                &mut rng,
                &mut step,
            );
            party.twin = Some(Twin { node, disk, rng });
            self.carrier.tally().count(what);
            self.note(number, || "SPLITS".into());
            self.settle_twin(number, step);
            return self.work(number);
        }
        Ok(())
    }

    fn tick(&mut self, number: usize) -> Checked {
        let Some(node) = &mut self.parties[number].node else {
            return Ok(());
        };
        let Some(summary) = node.summaries().next() else {
            return self.work(number);
        };
        // Everything so far is stored, so the link may be given to others.
        if summary.stage == Stage::Meeting && summary.link.is_some() && self.link.is_none() {
            self.link = summary.link;
        }
        let local = summary.local;
        let mut step = Step::default();
        if let Some(view) = self.parties[number].view.clone() {
            let waits = self.parties[number].program.waits_for();
            self.note(number, || format!("waits for {waits:?}"));
            if let Some(ticked) = self.desk(
                (number, &local, &view),
                &mut step,
                &mut None,
                None,
                Program::tick,
            ) {
                ticked?;
            }
            self.chat(number, &local, &view, &mut step);
        } else {
            let patience_over = self.now_ms() > FORMING_MS;
            let party = &mut self.parties[number];
            if let Some(node) = &mut party.node {
                step.absorb(node.probe_all(&local, &mut party.rng));
                if patience_over && party.notebook.verdict.is_none() {
                    let verdict = Verdict::of(&node.incomplete(&local))?;
                    party.notebook.verdict = Some(verdict);
                }
            }
        }
        self.work_with(number, step)
    }

    fn chat_channel(&self, number: usize, local: &LocalId) -> Option<InstanceId> {
        self.parties[number]
            .node
            .as_ref()?
            .channel(local, CHANNEL)
            .ok()
    }

    /// Says something to somebody, and asks whether all has arrived.
    fn chat(&mut self, number: usize, local: &LocalId, view: &View, step: &mut Step) {
        let Some(channel) = self.chat_channel(number, local) else {
            return;
        };
        let party = &mut self.parties[number];
        let Some(node) = &mut party.node else { return };
        if !matches!(node.is_flushed(local), Ok(true)) {
            step.absorb(node.probe_all(local, &mut party.rng));
        }
        let place = self.dice.index(view.roster.len());
        let Some(to) = PartyIndex::new(place).filter(|to| *to != view.me) else {
            return;
        };
        let Some(other) = self.who.get(&to).copied() else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&(number, other)) else {
            return;
        };
        if stream.issued >= self.plan.chats || self.parties[number].twin.is_some() {
            return;
        }
        let number_of = stream.issued;
        stream.issued += 1;
        let len = if self.dice.chance(100) { 5_000 } else { 60 };
        let body = Bytes::from(stream.body(number_of, len));
        let party = &mut self.parties[number];
        let Some(node) = &mut party.node else { return };
        let (said, more) = node.channel_send(local, &channel, to, body, &mut party.rng);
        // Stored before the application hears that it was taken.
        let mut all = core::mem::take(step);
        all.absorb(more);
        if self.settle(number, all)
            && said.is_ok()
            && let Some(stream) = self.streams.get_mut(&(number, other))
        {
            stream.confirmed.insert(number_of);
        }
    }

    /// Records what others said; the receipts hold once the step is stored.
    fn listen_to_chat(
        &mut self,
        number: usize,
        local: &LocalId,
        step: &mut Step,
        receipts: &mut Vec<(usize, u64)>,
    ) -> Checked {
        let Some(channel) = self.chat_channel(number, local) else {
            return Ok(());
        };
        let forgetful = self.mutation == Mutation::NoDedup;
        let party = &mut self.parties[number];
        let Some(node) = &mut party.node else {
            return Ok(());
        };
        loop {
            let (next, more) = node.channel_next(local, &channel, &mut party.rng);
            step.absorb(more);
            let Ok(Some(message)) = next else {
                return Ok(());
            };
            let Some(from) = self.who.get(&message.from).copied() else {
                return Ok(());
            };
            let Some(stream) = self.streams.get_mut(&(from, number)) else {
                return Ok(());
            };
            let sent = nothing_invented::check(stream, &message.payload)?;
            let known = stream.received.contains(&sent);
            if party.seen.contains(&(from, sent)) || !known || forgetful {
                nothing_twice::check(stream, sent)?;
                in_order::check(stream, sent)?;
                stream.received.push(sent);
            }
            party.seen.insert((from, sent));
            receipts.push((from, sent));
            step.absorb(node.channel_done(local, &message.receipt, &mut party.rng));
        }
    }

    fn judge(&mut self) -> Checked {
        let index = |party: usize| {
            let place = self.who.iter().find(|(_, owner)| **owner == party);
            // Who never learnt its index has the one that is left.
            let left = (0..self.plan.parties).filter(|place| {
                PartyIndex::new(*place).is_some_and(|index| !self.who.contains_key(&index))
            });
            place.map_or_else(
                || left.min().unwrap_or(usize::MAX),
                |(index, _)| index.as_usize(),
            )
        };
        let culprit = match self.plan.trouble {
            Trouble::None => the_culprit_is_named::Culprit::Nobody,
            // It may not have come to it: then nobody may be named.
            Trouble::Liar { party, .. } if self.parties[party].twin.is_none() => {
                the_culprit_is_named::Culprit::Nobody
            }
            Trouble::Liar {
                party,
                lie: Lie::End,
                ..
            } => the_culprit_is_named::Culprit::Quitter(index(party)),
            Trouble::Liar {
                party,
                lie: Lie::Silence { .. },
                ..
            } => the_culprit_is_named::Culprit::Claimer(index(party)),
            Trouble::Liar {
                party, deaf: true, ..
            } => the_culprit_is_named::Culprit::Liar(index(party)),
            Trouble::Liar { party, .. } => the_culprit_is_named::Culprit::Slanderer(index(party)),
            Trouble::Vanishes { party, .. } => {
                let outside = (0..self.plan.parties)
                    .filter(|other| self.parties[*other].view.is_none())
                    .map(index)
                    .collect();
                let begun = self.parties[party].notebook.rounds_begun;
                let had_said_all = begun >= self.plan.program().rounds();
                let party = index(party);
                let names_it = |verdict: &Verdict| matches!(verdict, Verdict::Named { parties, .. } if parties.contains(&party));
                let kept_waiting = self
                    .honest()
                    .filter(|(_, other)| other.notebook.verdict.as_ref().is_some_and(names_it))
                    .map(|(other, _)| index(other))
                    .collect();
                the_culprit_is_named::Culprit::Vanished {
                    party,
                    had_said_all,
                    outside,
                    kept_waiting,
                }
            }
        };
        let mut results = BTreeMap::new();
        let mut ends = Vec::new();
        for (number, party) in self.honest() {
            let Some(verdict) = &party.notebook.verdict else {
                continue;
            };
            ends.push(match verdict {
                Verdict::Done(_) => "successes",
                Verdict::Named { proven: true, .. } => "proven culprits named",
                Verdict::Named { .. } => "silent parties named",
                Verdict::Incomplete(_) => "sessions given up",
            });
            the_culprit_is_named::check(number, verdict, &culprit)?;
            if let Verdict::Done(result) = verdict {
                results.insert(number, result);
            }
        }
        honest_parties_agree::check("result", &results)?;
        if self.plan.trouble == Trouble::None {
            self.streams.values().try_for_each(nothing_lost::check)?;
        }
        for end in ends {
            self.carrier.tally().count(end);
        }
        Ok(())
    }
}

/// The liar's twin tells its lie; returns what to call it.
fn tell(
    lie: Lie,
    node: &mut Node,
    (local, id, me): (&LocalId, &InstanceId, PartyIndex),
    round: u32,
    rng: &mut ChaCha8Rng,
    step: &mut Step,
) -> &'static str {
    let round = Round(round);
    let others: Members = node.summary(local).map_or(Members::NONE, |summary| {
        let all = (0..summary.parties).filter_map(PartyIndex::new);
        all.filter(|party| *party != me).collect()
    });
    let say = |node: &mut Node, value: &Bytes, rng: &mut ChaCha8Rng, step: &mut Step| {
        let (said, more) = node.broadcast(local, id, round, value, rng);
        step.absorb(more);
        said.expect("the liar has not spoken in this round");
    };
    match lie {
        Lie::Value => {
            say(node, &speech(&[b'L'; 32], round.0), rng, step);
            "lies"
        }
        Lie::End => {
            let (said, more) = node.give_up(local, id, "enough", Members::NONE, rng);
            step.absorb(more);
            said.expect("the execution runs");
            "ends towards some"
        }
        Lie::Silence { spoken } => {
            if spoken {
                let seed = node.seed(local, id).map(|seed| *seed.as_bytes());
                let value = speech(&seed.expect("the execution runs"), round.0);
                say(node, &value, rng, step);
            }
            let (said, more) = node.expire(local, id, round, Kind::P2p, others, rng);
            step.absorb(more);
            said.expect("the execution runs");
            if spoken {
                "early claims of silence by who has spoken"
            } else {
                "early claims of silence"
            }
        }
    }
}

fn view(node: &Node, local: &LocalId) -> Option<View> {
    let summary = node.summary(local).ok()?;
    let roster = summary.roster?;
    Some(View {
        id: summary.id?.0,
        safety_code: summary.safety_code?.to_string(),
        roster: roster.iter().map(|(_, entry)| entry.key).collect(),
        me: summary.me?,
    })
}
