//! Groups of replicas, of which some are turned back or lie, and couriers between them that lose, repeat and mix up what
//! they carry. The rules of consensus are those of `tests/charging.rs`; what replicas come to is the product's.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use junto_crypto::{Zeroizing, ed25519::SigningKey, hash::sha256_of};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng as _;

use super::super::super::{Entry, Genesis, Realm, Seconds};
use crate::{
    Account, Card, Certificate, GroupId, Hindrance, Holders, Member, Pending, Position, Progress,
    Quorum, Released, ReplicaId, Span, Word,
    fixture::{REALM, operator},
};

pub(super) const BEGAN: Seconds = Seconds(1_700_000_000);
pub(super) const USERS: [&str; 3] = ["ada", "bob", "eve"];

pub(super) type Head = [u8; 32];
type Ballot = (u8, u8);

pub(super) fn tenant() -> SigningKey {
    SigningKey::from_seed(&[41; 32])
}

pub(super) fn account(user: usize) -> Account {
    Account::new("junto", USERS[user]).unwrap()
}

/// A log up to an entry, and what replicas come to by it.
pub(super) struct Node {
    pub(super) parent: Option<Head>,
    depth: usize,
    entry: Rc<Vec<u8>>,
    pub(super) state: Zeroizing<Vec<u8>>,
    pub(super) position: Position,
    pub(super) here: Vec<Span>,
    pub(super) turn: u64,
    pub(super) word: Option<Word>,
    pub(super) moved: Option<Result<Progress, Hindrance>>,
}

impl Node {
    fn of(realm: &Realm, parent: Option<Head>, depth: usize, entry: Rc<Vec<u8>>) -> Self {
        Self {
            parent,
            depth,
            entry,
            state: realm.snapshot(),
            position: realm.position(),
            here: realm.spans(),
            turn: realm.turn().unwrap(),
            word: None,
            moved: None,
        }
    }

    pub(super) fn realm(&self) -> Realm {
        Realm::restore(&self.state).unwrap()
    }

    pub(super) fn serves(&self, place: u64) -> bool {
        self.here.iter().any(|span| span.contains(place))
    }
}

#[derive(Clone)]
struct Logged {
    ballot: Ballot,
    entry: Rc<Vec<u8>>,
    head: Head,
}

#[derive(Clone, Default)]
pub(super) struct Replica {
    vote: Ballot,
    /// Whether it follows the leader of that ballot, and has not only voted for it.
    follows: bool,
    pub(super) leads: bool,
    log: Vec<Logged>,
    pub(super) gone: bool,
}

impl Replica {
    fn last(&self) -> (Ballot, usize) {
        let last = self.log.last().map_or((0, 0), |logged| logged.ballot);
        (last, self.log.len())
    }
}

/// What an entry makes of a realm. Tests put in one that breaks a rule.
pub(super) type Apply = fn(&mut Realm, Entry) -> Pending;

pub(super) struct Group {
    pub(super) card: Card,
    keys: Vec<SigningKey>,
    pub(super) quorum: Quorum,
    pub(super) replicas: Vec<Replica>,
    aside: Vec<Replica>,
    /// That may be turned back, and say that they hold what they do not.
    pub(super) fickle: Vec<usize>,
    genesis: Head,
    pub(super) nodes: BTreeMap<Head, Node>,
    acks: BTreeMap<Head, BTreeSet<usize>>,
    /// The furthest that is released.
    pub(super) tip: Head,
    /// Words that are proven, or seem to be.
    pub(super) proven: Vec<(Word, Certificate)>,
    certified: BTreeSet<Head>,
    apply: Apply,
}

pub(super) struct Setup {
    pub(super) replicas: u8,
    pub(super) rollbacks: u8,
    /// What the card says of rollbacks: another number is a broken rule.
    pub(super) carded: u8,
    pub(super) apply: Apply,
}

impl Group {
    pub(super) fn new(number: u8, setup: &Setup, rng: &mut ChaCha20Rng) -> Self {
        let n = setup.replicas;
        let mut keys: Vec<_> = (0..n)
            .map(|i| SigningKey::from_seed(&[number * 16 + i + 1; 32]))
            .collect();
        keys.sort_by_key(|key| *key.verifying_key().as_bytes());
        let members = keys.iter().map(|key| Member {
            id: ReplicaId(*key.verifying_key().as_bytes()),
            address: format!("127.0.0.1:{number}"),
        });
        let quorum = Quorum::new(n, setup.rollbacks).unwrap();
        let carded = Quorum::new(n, setup.carded).unwrap();
        let began = Seconds(BEGAN.0 + 1000 * u64::from(number));
        let card = Card::sign(&operator(), began, carded, members.collect()).unwrap();
        let genesis = Genesis {
            realm: REALM,
            secret: Zeroizing::new([7; 32]),
            tenants: [("junto".to_owned(), tenant().verifying_key())].into(),
            // What comes is kept, whatever places there are.
            records_max: if number == 0 { 3 } else { 1 },
            // Each has a time of its own.
            time: Seconds(BEGAN.0 + 40 * u64::from(number)),
        };
        let realm = Realm::of_group(genesis, card.group(), number == 0).unwrap();
        let head = realm.position().head;
        let node = Node::of(&realm, None, 0, Rc::default());
        let fickle = rng.next_u32() % u32::from(n);
        Self {
            card,
            keys,
            quorum,
            replicas: vec![Replica::default(); usize::from(n)],
            aside: vec![Replica::default(); usize::from(n)],
            fickle: (0..u32::from(setup.rollbacks))
                .map(|i| ((fickle + i) % u32::from(n)) as usize)
                .collect(),
            genesis: head,
            nodes: [(head, node)].into(),
            acks: BTreeMap::new(),
            tip: head,
            proven: Vec::new(),
            certified: BTreeSet::new(),
            apply: setup.apply,
        }
    }

    pub(super) fn id(&self) -> GroupId {
        self.card.group()
    }

    pub(super) fn tip(&self) -> &Node {
        &self.nodes[&self.tip]
    }

    /// The log `parent` with one entry more.
    fn child(&mut self, parent: Head, ballot: Ballot, entry: &Rc<Vec<u8>>) -> Head {
        let head = sha256_of(&[&parent, &[ballot.0, ballot.1], entry]);
        if !self.nodes.contains_key(&head) {
            let mut realm = self.nodes[&parent].realm();
            let read = Entry::from_bytes(entry, &REALM).unwrap();
            let pending = (self.apply)(&mut realm, read);
            let depth = self.nodes[&parent].depth + 1;
            let mut node = Node::of(&realm, Some(parent), depth, entry.clone());
            node.word = pending.says().cloned();
            node.moved = realm.moved(pending, &released(node.position));
            self.nodes.insert(head, node);
        }
        head
    }

    fn push(&mut self, i: usize, ballot: Ballot, entry: &Rc<Vec<u8>>) -> Head {
        let last = self.replicas[i].log.last();
        let parent = last.map_or(self.genesis, |logged| logged.head);
        let head = self.child(parent, ballot, entry);
        let entry = entry.clone();
        self.replicas[i].log.push(Logged {
            ballot,
            entry,
            head,
        });
        head
    }

    pub(super) fn leaders(&self) -> Vec<usize> {
        let leads = |i: &usize| self.replicas[*i].leads && !self.replicas[*i].gone;
        (0..self.replicas.len()).filter(leads).collect()
    }

    /// What that leader's log comes to.
    pub(super) fn state(&self, leader: usize) -> &Node {
        let last = self.replicas[leader].log.last();
        &self.nodes[&last.map_or(self.genesis, |logged| logged.head)]
    }

    pub(super) fn propose(&mut self, leader: usize, entry: &Entry) -> Result<Head, String> {
        let ballot = self.replicas[leader].vote;
        let head = self.push(leader, ballot, &Rc::new(entry.to_bytes().to_vec()));
        self.acknowledge(leader)?;
        Ok(head)
    }

    pub(super) fn elect(&mut self, leader: usize, voters: &[usize]) -> Result<(), String> {
        let ballot = (self.replicas[leader].vote.0 + 1, leader as u8);
        let last = self.replicas[leader].last();
        let refuses = |i: &usize| {
            let voter = &self.replicas[*i];
            voter.gone || ballot < voter.vote || last < voter.last()
        };
        if voters.iter().any(refuses) {
            // It learns of a later reign by that.
            let there = voters.iter().filter(|i| !self.replicas[**i].gone);
            let latest = there.map(|i| self.replicas[*i].vote).max();
            let candidate = &mut self.replicas[leader];
            if latest.is_some_and(|latest| latest > ballot) {
                candidate.vote = latest.unwrap_or(candidate.vote);
                (candidate.follows, candidate.leads) = (false, false);
            }
            return Ok(());
        }
        for i in voters {
            let voter = &mut self.replicas[*i];
            (voter.vote, voter.follows, voter.leads) = (ballot, false, false);
        }
        let elected = &mut self.replicas[leader];
        (elected.follows, elected.leads) = (true, true);
        self.propose(leader, &Entry::tick(BEGAN)).map(drop)
    }

    pub(super) fn replicate(&mut self, leader: usize, follower: usize) -> Result<(), String> {
        let Replica { vote, log, .. } = self.replicas[leader].clone();
        let replica = &mut self.replicas[follower];
        if vote < replica.vote || replica.gone {
            return Ok(());
        }
        (replica.vote, replica.follows, replica.leads) = (vote, true, false);
        for (i, logged) in log.iter().enumerate() {
            let own = self.replicas[follower].log.get(i);
            // Consensus takes the same ballot at the same place for the same entry.
            if own.is_none_or(|own| own.ballot != logged.ballot) {
                self.replicas[follower].log.truncate(i);
                self.push(follower, logged.ballot, &logged.entry);
            }
        }
        self.acknowledge(follower)
    }

    /// Says that it holds what was written in the reign that it follows. Nothing of that is forgotten by who hears it.
    fn acknowledge(&mut self, i: usize) -> Result<(), String> {
        let replica = &self.replicas[i];
        if !replica.follows {
            return Ok(());
        }
        let reign = replica.log.iter();
        let reign = reign.filter(|logged| logged.ballot == replica.vote);
        let heads: Vec<_> = reign.map(|logged| logged.head).collect();
        heads
            .into_iter()
            .try_for_each(|head| self.acknowledged(i, head))
    }

    fn acknowledged(&mut self, i: usize, head: Head) -> Result<(), String> {
        if !self.acks.entry(head).or_default().insert(i) {
            return Ok(());
        }
        self.certify(head);
        if !self.is_released(&head) {
            return Ok(());
        }
        let (one, other) = (self.tip, head);
        let (low, high) = match self.nodes[&one].depth < self.nodes[&other].depth {
            true => (one, other),
            false => (other, one),
        };
        if !self.is_below(&low, &high) {
            return Err("two logs of one group are released".to_owned());
        }
        self.tip = high;
        Ok(())
    }

    pub(super) fn is_released(&self, head: &Head) -> bool {
        let held = self.acks.get(head);
        held.is_some_and(|held| held.len() >= self.quorum.release())
    }

    /// Whether the log `low` is the beginning of `high`.
    fn is_below(&self, low: &Head, high: &Head) -> bool {
        let depth = self.nodes[low].depth;
        let mut at = *high;
        while self.nodes[&at].depth > depth {
            at = self.nodes[&at].parent.unwrap();
        }
        at == *low
    }

    fn certify(&mut self, head: Head) {
        let Some(word) = &self.nodes[&head].word else {
            return;
        };
        let group = self.card.group();
        let signed = self.acks[&head].iter().map(|i| {
            let key = &self.keys[*i];
            let id = ReplicaId(*key.verifying_key().as_bytes());
            (id, word.vouch(&group, &head, key))
        });
        let certificate = Certificate::gather(&self.card, word, head, signed);
        if let Ok(certificate) = certificate
            && self.certified.insert(head)
        {
            self.proven.push((word.clone(), certificate));
        }
    }

    pub(super) fn proof(&self, head: &Head) -> Option<Certificate> {
        let word = self.nodes[head].word.as_ref()?;
        let mut proven = self.proven.iter();
        let found = proven.find(|(said, it)| said == word && it.proves(&self.card, word).is_ok());
        found.map(|(_, certificate)| certificate.clone())
    }

    pub(super) fn put_aside(&mut self, i: usize) {
        self.aside[i] = self.replicas[i].clone();
    }

    pub(super) fn turn_back(&mut self, i: usize) {
        let gone = self.replicas[i].gone;
        self.replicas[i] = self.aside[i].clone();
        self.replicas[i].gone = gone;
    }

    /// A member that lies says that it holds whatever there is.
    pub(super) fn lie(&mut self, i: usize, rng: &mut ChaCha20Rng) -> Result<(), String> {
        let at = rng.next_u32() as usize % self.nodes.len();
        let head = *self.nodes.keys().nth(at).unwrap();
        match head == self.genesis {
            true => Ok(()),
            false => self.acknowledged(i, head),
        }
    }

    /// What the realm that has applied that entry last makes of it, again.
    pub(super) fn again(&self, head: &Head) -> (Realm, Pending) {
        let node = &self.nodes[head];
        let mut realm = self.nodes[&node.parent.unwrap()].realm();
        let entry = Entry::from_bytes(&node.entry, &REALM).unwrap();
        let pending = realm.apply(entry);
        (realm, pending)
    }
}

/// The proof for a position, of a group of one. Whether it is one is for [`Group::is_released`] to say.
pub(super) fn released(position: Position) -> Released {
    let me = ReplicaId([0; 32]);
    let mut holders = Holders::new(Quorum::new(1, 0).unwrap(), &[me], me, position).unwrap();
    holders.applied(position);
    holders.released(&position).unwrap()
}
