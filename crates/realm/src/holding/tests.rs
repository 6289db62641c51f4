#![allow(clippy::unwrap_used, reason = "a test's helpers")]

use std::collections::BTreeSet;

use futures::future::join_all;
use junto_crypto::Zeroizing;
use junto_vault::{Genesis, Quorum, Realm, RealmId, ReplicaId, Seconds};
use openraft::{Entry, EntryPayload};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rand_core::Rng as _;

use super::*;
use crate::{AskError, Fabric, Proposal, Replica, Types};

const ME: Name = Name([9; 32]);

/// An entry of a log, and the digest of that log up to it.
#[derive(Clone)]
struct Logged {
    id: LogId,
    words: [u8; 8],
    head: Head,
}

impl Logged {
    fn push(log: &mut Vec<Self>, id: LogId, words: [u8; 8]) {
        let entry = Entry::<Types> {
            log_id: id,
            payload: EntryPayload::Normal(Proposal(Arc::new(Zeroizing::new(words.to_vec())))),
        };
        let before = log.last().map_or(Head([0; 32]), |last| last.head);
        let head = before.after(&entry);
        log.push(Self { id, words, head });
    }
}

/// A member that is asked.
#[derive(Clone, Default)]
struct Follower {
    log: Vec<Logged>,
    follows: Option<Reign>,
}

/// What was asked, and what was said to it.
struct Said {
    member: Name,
    id: LogId,
    own: Head,
    said: Head,
}

/// How an answer is taken. Tests put in one that breaks a rule.
type Take = fn(&mut Ledger, Said, &[Logged]);

fn rightly(ledger: &mut Ledger, it: Said, _: &[Logged]) {
    ledger.said(it.member, &it.id, it.own, it.said);
}

/// Each with what it is about.
const BROKEN: [(&str, Take); 4] = [
    ("another digest counts", |ledger, it, _| {
        ledger.said(it.member, &it.id, it.own, it.own);
    }),
    ("an earlier reign counts", |ledger, it, log| {
        let reign = log.last().map_or(it.id.leader_id, |last| last.id.leader_id);
        let id = LogId::new(reign, it.id.index);
        ledger.said(it.member, &id, it.own, it.said);
    }),
    (
        "what was written after the question counts",
        |ledger, it, log| {
            let last = log.last().map_or(it.id, |last| last.id);
            ledger.said(it.member, &last, it.own, it.said);
        },
    ),
    ("one more counts than was asked for", |ledger, it, _| {
        let id = LogId::new(it.id.leader_id, it.id.index + 1);
        ledger.said(it.member, &id, it.own, it.said);
    }),
];

/// A leader, three members of which the first is turned back and lies, and answers that come late and in any order.
struct World {
    rng: ChaCha20Rng,
    ledger: Ledger,
    take: Take,
    reign: Reign,
    log: Vec<Logged>,
    followers: Vec<Follower>,
    aside: Follower,
    /// What this replica knew some time ago.
    before: (Reign, Vec<Logged>, Ledger),
    under_way: Vec<Said>,
    /// What members truly held while they followed its leader.
    held: BTreeSet<(usize, LogId, [u8; 32])>,
}

fn name(i: usize) -> Name {
    Name([u8::try_from(i).unwrap(); 32])
}

impl World {
    fn new(seed: u64, take: Take) -> Self {
        Self {
            rng: ChaCha20Rng::seed_from_u64(seed),
            ledger: Ledger::default(),
            take,
            reign: Reign::new(1, ME),
            log: Vec::new(),
            followers: vec![Follower::default(); 3],
            aside: Follower::default(),
            before: (Reign::new(1, ME), Vec::new(), Ledger::default()),
            under_way: Vec::new(),
            held: BTreeSet::new(),
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.rng.next_u32() as usize % end.max(1)
    }

    /// No two entries say the same.
    fn write(&mut self) {
        let mut words = [0; 8];
        self.rng.fill_bytes(&mut words);
        let id = LogId::new(self.reign, self.log.len() as u64);
        Logged::push(&mut self.log, id, words);
    }

    /// A follower gets a part of what it lacks, and loses what conflicts. Consensus goes by ids.
    fn replicate(&mut self, i: usize) {
        let upto = match self.below(2) {
            0 => self.log.len(),
            _ => self.below(self.log.len() + 1),
        };
        let follower = &mut self.followers[i];
        follower.follows = Some(self.reign);
        for (at, logged) in self.log[..upto].iter().enumerate() {
            if follower.log.get(at).is_none_or(|own| own.id != logged.id) {
                follower.log.truncate(at);
                Logged::push(&mut follower.log, logged.id, logged.words);
            }
        }
        let of_reign = follower
            .log
            .iter()
            .filter(|it| it.id.leader_id == self.reign);
        self.held.extend(of_reign.map(|it| (i, it.id, it.head.0)));
    }

    fn ask(&mut self, i: usize) {
        let last = self.log.last().filter(|it| it.id.leader_id == self.reign);
        let Some((id, own)) = last.map(|last| (last.id, last.head)) else {
            return;
        };
        let follower = &self.followers[i];
        let honest = follower.log.iter().find(|it| it.id == id);
        let honest = honest.filter(|_| follower.follows == Some(id.leader_id));
        // It says whatever it likes: what it was asked for, or something.
        let said = match (i, self.rng.next_u32() % 3) {
            (0, 0) => Some(own),
            (0, 1) => Some(Head([7; 32])),
            _ => honest.map(|it| it.head),
        };
        let member = name(i);
        self.under_way.extend(said.map(|said| Said {
            member,
            id,
            own,
            said,
        }));
    }

    /// Somebody else led for a while: its log is that of a member, with entries of its own.
    fn lose_and_lead_again(&mut self) {
        let i = self.below(3);
        let other = Reign::new(self.reign.term + 1, name(i));
        let own = std::mem::replace(&mut self.reign, other);
        self.log = self.followers[i].log.clone();
        self.write();
        self.followers[i].log = self.log.clone();
        self.followers[i].follows = Some(other);
        self.reign = Reign::new(own.term + 2, ME);
    }

    /// This replica is turned back, all of what it knows with it; what is said to questions that it has forgotten is no answer.
    fn turn_back(&mut self) {
        (self.reign, self.log, self.ledger) = self.before.clone();
        self.under_way.clear();
    }

    fn step(&mut self) -> Result<(), String> {
        let i = self.below(3);
        match self.rng.next_u32() % 20 {
            0..5 => self.write(),
            5..9 => self.replicate(i),
            9..13 => self.ask(i),
            13..17 if !self.under_way.is_empty() => {
                let at = self.below(self.under_way.len());
                let said = self.under_way.swap_remove(at);
                (self.take)(&mut self.ledger, said, &self.log);
            }
            17 => self.aside = self.followers[0].clone(),
            18 => self.followers[0] = self.aside.clone(),
            19 => match self.below(12) {
                0..3 => self.lose_and_lead_again(),
                3..6 => self.before = (self.reign, self.log.clone(), self.ledger.clone()),
                6 => self.turn_back(),
                _ => {}
            },
            _ => {}
        }
        for Logged { id, head, .. } in &self.log {
            if id.leader_id != self.reign {
                continue;
            }
            for member in self.ledger.holders(id) {
                let member = usize::from(member.0[0]);
                if member != 0 && !self.held.contains(&(member, *id, head.0)) {
                    return Err(format!("{member} never held {id}"));
                }
            }
        }
        Ok(())
    }
}

fn search(take: Take, seeds: u64) -> Result<usize, String> {
    let mut counted = 0;
    for seed in 0..seeds {
        let mut world = World::new(seed, take);
        for _ in 0..300 {
            world.step()?;
            let mut log = world.log.iter();
            counted += usize::from(log.any(|it| world.ledger.holders(&it.id).len() > 1));
        }
    }
    Ok(counted)
}

/// Whatever is asked when, and however late answers come: who is counted for an entry held it in the reign in which it was written.
#[test]
fn who_is_counted_has_held_it() {
    let counted = search(rightly, 300).unwrap();
    assert!(counted > 1000, "hardly anything is ever counted: {counted}");
}

#[test]
fn every_broken_rule_of_counting_is_noticed() {
    for (what, take) in BROKEN {
        assert!(search(take, 300).is_err(), "{what}");
    }
}

/// Replicas in one process, with a clock that stands still while anything can go on.
struct Group {
    fabric: Fabric,
    replicas: Vec<Replica>,
}

impl Group {
    async fn of(n: u8, rollbacks: u8) -> Self {
        let fabric = Fabric::default();
        let quorum = Quorum::new(n, rollbacks).unwrap();
        let mut rng = ChaCha20Rng::from_seed([n; 32]);
        let mut replicas = Vec::new();
        for _ in 0..n {
            let genesis = Genesis {
                realm: RealmId([1; 32]),
                secret: Zeroizing::new([2; 32]),
                tenants: [].into(),
                records_max: 1,
                time: Seconds(0),
            };
            let realm = Realm::new(genesis).unwrap();
            let replica = Replica::start(realm, quorum, &fabric, &mut rng).await;
            replicas.push(replica.unwrap());
        }
        let members: Vec<ReplicaId> = replicas.iter().map(Replica::id).collect();
        replicas[0].begin(&members).await.unwrap();
        while replicas[0].leader() != Some(replicas[0].id()) {
            sleep(Duration::from_millis(10)).await;
        }
        Self { fabric, replicas }
    }

    /// So many entries at the same time, and what came of each.
    async fn many(&self, count: u64) -> Vec<Result<(), AskError>> {
        let leader = &self.replicas[0];
        let ticks = (0..count).map(|reading| async move {
            let mut rng = ChaCha20Rng::from_seed([0; 32]);
            leader.tick(Seconds(reading), &mut rng).await
        });
        join_all(ticks).await
    }
}

/// Many at once wait for the same few answers, also while one member holds another log: three of four are enough. Two that do
/// are too many, and nobody is answered.
#[tokio::test(start_paused = true)]
async fn one_question_serves_all_that_wait() {
    let group = Group::of(4, 1).await;
    let before = group.fabric.questions();
    let all = group.many(400).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let asked = group.fabric.questions() - before;
    assert!(asked < 400, "{asked} questions for 400 entries");
    for (liars, answered) in [(1, true), (2, false)] {
        for replica in &group.replicas[1..=liars] {
            group.fabric.diverge(replica.id());
        }
        let all = group.many(100).await;
        assert!(
            all.iter().all(|it| it.is_ok() == answered),
            "{liars}: {all:?}"
        );
        assert!(answered || all.contains(&Err(AskError::Unheld)));
    }
}

/// Members are asked while somebody waits and not otherwise; one that does not answer is asked again while they do.
#[tokio::test(start_paused = true)]
async fn who_was_away_for_a_moment_is_asked_again() {
    let group = Group::of(3, 1).await;
    let ids: Vec<_> = group.replicas.iter().map(Replica::id).collect();
    assert!(group.many(1).await[0].is_ok());
    let before = group.fabric.questions();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(group.fabric.questions(), before);
    // All three have to hold what is answered.
    group.fabric.hush(ids[2], true);
    let (all, ()) = tokio::join!(group.many(10), async {
        sleep(Duration::from_millis(600)).await;
        group.fabric.hush(ids[2], false);
    });
    assert!(all.iter().all(Result::is_ok), "{all:?}");
}
