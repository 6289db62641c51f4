//! Many cores in one thread, for tests: the network is a memory hub, disks are memory stores, and
//! whatever happens is decided by the test.

mod aborts;
mod crashes;
mod liars;
mod nuisances;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use crate::{
    Blame, DisplayName, Kind, Misuse, Mode, Params, PartyCount, PartyIndex, Persona, Policy,
    Purpose, Round, SessionError, Stage,
    carrier::{Carriage, Event, memory::Hub},
    proto::{
        machine::Machine,
        node::Node,
        pipe::Bundle,
        record::Record,
        step::{Effect, LocalId, MemoryStore, Step, Store},
    },
    shell::driver::once,
};

const BODY_BYTES: usize = 13_400;

/// Alters what a liar says: gets all it knows, the record, and whom it goes to.
type Lie = Box<dyn FnMut(&Machine, Option<PartyIndex>, Record) -> Record>;

/// Where a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Crash {
    who: usize,
    /// After how many commits.
    commit: u64,
    /// After how many effects of that commit's step.
    effects: usize,
}

struct Party {
    name: String,
    node: Node,
    store: MemoryStore,
    carriage: Carriage,
    local: Option<LocalId>,
    rng: ChaCha20Rng,
    commits: u64,
    lie: Option<Lie>,
    /// What its application has safely put away: broadcasts and letters of all rounds.
    result: Option<Vec<BTreeMap<PartyIndex, Bytes>>>,
    error: Option<SessionError>,
    /// Round its application is in.
    round: u32,
}

struct World {
    hub: Hub,
    parties: Vec<Party>,
    crash: Option<Crash>,
    crashed: bool,
    /// Commits of everybody, to know where one may crash.
    steps: u64,
    rounds: u32,
    /// Parties whose applications do nothing.
    idle: Vec<usize>,
    link: Option<crate::SessionLink>,
}

impl World {
    fn new(parties: usize, seed: u8) -> Self {
        let hub = Hub::with(BODY_BYTES, crate::carrier::memory::Unkindness::default());
        let parties = (0..parties)
            .map(|index| {
                let name = format!("party {index}");
                let mut rng =
                    ChaCha20Rng::from_seed([seed.wrapping_mul(31).wrapping_add(index as u8); 32]);
                let carriage = hub.open(&name);
                let (node, step) = Node::load(Vec::new(), BODY_BYTES, &mut rng).unwrap();
                assert!(step.is_empty());
                Party {
                    name,
                    node,
                    store: MemoryStore::default(),
                    carriage,
                    local: None,
                    rng,
                    commits: 0,
                    lie: None,
                    result: None,
                    error: None,
                    round: 0,
                }
            })
            .collect();
        Self {
            hub,
            parties,
            crash: None,
            crashed: false,
            steps: 0,
            rounds: 2,
            idle: Vec::new(),
            link: None,
        }
    }

    /// Makes the session and lets all join, without running anything yet but the link.
    fn invite(&mut self) {
        self.invite_some(self.parties.len() - 1);
    }

    /// Makes the session and lets the first so many join.
    fn invite_some(&mut self, joiners: usize) {
        let params = Params {
            name: "world".to_owned(),
            parties: PartyCount::new(self.parties.len()).unwrap(),
            policy: Policy::Anonymous,
        };
        let host = &mut self.parties[0];
        let (local, step) = host
            .node
            .host(params, &persona("host"), &mut host.rng)
            .unwrap();
        host.local = Some(local);
        self.settle(0, step);
        // A host that died while making the link comes back with it.
        if self.summary(0).link.is_none() {
            self.turn(0);
        }
        for index in 1..=joiners {
            self.join(index);
        }
    }

    fn join_rest(&mut self, from: usize) {
        for index in from..self.parties.len() {
            self.join(index);
        }
    }

    fn join(&mut self, index: usize) {
        let link = self.link.get_or_insert_with(|| {
            let host = &self.parties[0];
            let summary = host.node.summary(&host.local.unwrap()).unwrap();
            summary.link.unwrap()
        });
        let link = link.clone();
        let party = &mut self.parties[index];
        let (local, step) = party
            .node
            .join(link, &persona("joiner"), &mut party.rng)
            .unwrap();
        party.local = Some(local);
        self.settle(index, step);
    }

    fn summary(&self, index: usize) -> crate::Summary {
        let party = &self.parties[index];
        party.node.summary(&party.local.unwrap()).unwrap()
    }

    /// Commits a step and does its effects, unless the party dies on the way.
    fn settle(&mut self, index: usize, step: Step) {
        let mut step = step;
        loop {
            if step.is_empty() {
                return;
            }
            let party = &mut self.parties[index];
            let Ok(proof) = party.store.commit(step.delta());
            party.commits += 1;
            self.steps += 1;
            let mut effects = step.release(proof).into_iter();
            let crash = self.crash.filter(|crash| {
                !self.crashed && crash.who == index && crash.commit == party.commits
            });
            step = Step::default();
            for (done, effect) in (&mut effects).enumerate() {
                if crash.is_some_and(|crash| crash.effects == done) {
                    self.reboot(index);
                    return;
                }
                let effect = self.tell_lies(index, effect);
                let party = &mut self.parties[index];
                match once(&*party.carriage.carrier, &effect)
                    .now_or_never()
                    .unwrap()
                {
                    Ok(Some(outcome)) => {
                        step.absorb(party.node.outcome(outcome, &mut party.rng).unwrap());
                    }
                    Ok(None) => {}
                    Err(_) => step.absorb(self.failed(index, &effect)),
                }
            }
            if crash.is_some() {
                self.reboot(index);
                return;
            }
        }
    }

    fn failed(&mut self, index: usize, effect: &Effect) -> Step {
        let party = &mut self.parties[index];
        let (connection, tag) = match effect {
            Effect::Send { connection, .. } => (Some(*connection), crate::carrier::Tag([0; 32])),
            Effect::Join { tag, .. } => (None, *tag),
            _ => return Step::default(),
        };
        let event = Event::Failed {
            connection,
            tag,
            reason: String::new(),
        };
        party.node.event(event, &mut party.rng)
    }

    fn tell_lies(&mut self, index: usize, effect: Effect) -> Effect {
        let party = &mut self.parties[index];
        let (Some(lie), Effect::Send { connection, bodies }) = (&mut party.lie, &effect) else {
            return effect;
        };
        let machine = party.node.machine_of(&party.local.unwrap());
        let to = machine
            .peers
            .iter()
            .find(|(_, peer)| peer.connection == Some(*connection))
            .and_then(|(slot, _)| machine.party_of(*slot));
        let bodies = bodies
            .iter()
            .map(|body| {
                let mut bundle = Bundle::decode(body).unwrap();
                for (more, segment) in &mut bundle.segments {
                    if !*more && let Ok(record) = Record::decode(segment) {
                        *segment = Bytes::from(lie(machine, to, record).encode());
                    }
                }
                Bytes::from(bundle.encode())
            })
            .collect();
        Effect::Send {
            connection: *connection,
            bodies,
        }
    }

    /// The process dies and starts again from its disk.
    fn reboot(&mut self, index: usize) {
        self.crashed = true;
        let party = &mut self.parties[index];
        party.carriage = self.hub.open(&party.name);
        let rows = party.store.load().unwrap();
        let (node, step) = Node::load(rows, BODY_BYTES, &mut party.rng).unwrap();
        party.node = node;
        party.round = 0;
        self.settle(index, step);
    }

    /// One turn of a party: everything that came in, then its application.
    fn turn(&mut self, index: usize) -> bool {
        let mut any = false;
        while let Some(Some(event)) = self.parties[index].carriage.events.next().now_or_never() {
            any = true;
            let party = &mut self.parties[index];
            let step = party.node.event(event, &mut party.rng);
            self.settle(index, step);
        }
        if !self.idle.contains(&index) {
            any |= self.work(index);
        }
        any
    }

    /// The application: in each round broadcasts something derived from its seed and writes to
    /// everybody, gathers both, and puts the results away before it finishes.
    fn work(&mut self, index: usize) -> bool {
        let party = &mut self.parties[index];
        let local = party.local.unwrap();
        if party.result.is_some() || party.error.is_some() {
            return false;
        }
        match party.node.is_formed(&local) {
            Ok(false) => return false,
            Err(error) => {
                party.error = Some(error);
                return false;
            }
            Ok(true) => {}
        }
        let summary = party.node.summary(&local).unwrap();
        let (me, count) = (summary.me.unwrap(), summary.parties);
        let purpose = Purpose {
            label: "work".to_owned(),
            members: crate::Members::all(PartyCount::new(count).unwrap()),
            mode: Mode::Rounds,
        };
        let mut total = Step::default();
        let (opened, step) = party.node.open_execution(&local, purpose, &mut party.rng);
        total.absorb(step);
        let done = opened.and_then(|id| self.play(index, &local, &id, me, &mut total));
        let party = &mut self.parties[index];
        match done {
            Ok(None) => {}
            Ok(Some(result)) => party.result = Some(result),
            Err(error) => party.error = Some(error),
        }
        let any = !total.is_empty();
        self.settle(index, total);
        any
    }

    fn play(
        &mut self,
        index: usize,
        local: &LocalId,
        id: &crate::InstanceId,
        me: PartyIndex,
        total: &mut Step,
    ) -> Result<Option<Vec<BTreeMap<PartyIndex, Bytes>>>, SessionError> {
        let rounds = self.rounds;
        let Party { node, rng, .. } = &mut self.parties[index];
        let seed = *node.seed(local, id)?.as_bytes();
        let mut results = Vec::new();
        let others =
            crate::Members::all(PartyCount::new(node.summary(local)?.parties).unwrap()).without(me);
        for round in (0..rounds).map(Round) {
            let payload = Bytes::from([&seed[..], &round.0.to_be_bytes()].concat());
            let (said, step) = node.broadcast(local, id, round, &payload, rng);
            total.absorb(step);
            said?;
            for to in others.iter() {
                let letter = Bytes::from(format!("{me} to {to} in {round}"));
                let (said, step) = node.send(local, id, round, to, &letter, rng);
                total.absorb(step);
                said?;
            }
            for kind in [Kind::Broadcast, Kind::P2p] {
                let (gathered, step) = node.gather(local, id, round, kind, others, rng);
                total.absorb(step);
                match gathered? {
                    None => return Ok(None),
                    Some(gathered) => results.push(gathered),
                }
            }
        }
        // The result is put away here: `finish` comes after.
        let (finished, step) = node.finish(local, id, rng);
        total.absorb(step);
        match finished {
            Ok(_) | Err(SessionError::Misuse(Misuse::Finished)) => Ok(Some(results)),
            Err(error) => Err(error),
        }
    }

    /// Until nobody has anything to do.
    fn run(&mut self) {
        for _ in 0..10_000 {
            let mut any = false;
            for index in 0..self.parties.len() {
                any |= self.turn(index);
            }
            if !any {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    fn assert_all_succeeded(&self, what: &str) {
        let first = self.parties[0].result.as_ref();
        for (index, party) in self.parties.iter().enumerate() {
            assert!(
                party.error.is_none(),
                "{what}: party {index} failed: {:?}",
                party.error
            );
            let result = party.result.as_ref().unwrap_or_else(|| {
                panic!(
                    "{what}: party {index} got nowhere: {:?}",
                    self.summary(index).stage
                )
            });
            let me = self.summary(index).me.unwrap();
            for (round, pair) in result.chunks(2).enumerate() {
                assert_eq!(pair[0], first.unwrap()[2 * round], "{what}");
                for (from, letter) in &pair[1] {
                    assert_eq!(
                        *letter,
                        format!("{from} to {me} in round {round}"),
                        "{what}"
                    );
                }
            }
            assert_eq!(self.summary(index).stage, Stage::Formed);
        }
    }

    fn by_rank(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.parties.len()).collect();
        order.sort_by_key(|&index| self.summary(index).me);
        order
    }

    fn blame(&self, index: usize) -> Option<&Blame> {
        match &self.parties[index].error {
            Some(SessionError::Peer(blame)) => Some(blame),
            _ => None,
        }
    }
}

fn persona(name: &str) -> Persona {
    Persona {
        display_name: DisplayName::new(name).unwrap(),
        ..Persona::default()
    }
}

#[test]
fn a_kind_world_succeeds() {
    let mut world = World::new(4, 1);
    world.invite();
    world.run();
    world.assert_all_succeeded("kind");
}
