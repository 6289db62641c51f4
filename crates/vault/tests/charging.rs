//! A model of charging in a group whose replicas may be turned back, searched exhaustively within bounds.
//!
//! It is the consensus of `openraft` as far as it decides which log survives (ballots are a term and a name, a vote is
//! given to a ballot no lower and a log no older, a follower cuts off what conflicts and keeps what carries the same
//! ballot at the same place), and upon it the release step of `junto_vault::Holders`: a guess is evaluated when enough
//! replicas have acknowledged a log that has it. Steps are coarse where that hides nothing: an election takes the votes
//! of exactly as many as it needs at once, and what has been released is evaluated at once.
//!
//! A replica that is turned back gets a memory of its own that somebody has put aside, at any time, as often as they
//! like: its votes, its log, and its leadership with what was acknowledged to it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test's helpers; what a search finds is worth reading"
)]

use junto_vault::Quorum;
use stateright::{Checker, Model, Property};

/// What the group goes by. Tests break one each.
#[derive(Clone)]
struct Rules {
    replicas: usize,
    /// Votes that make a leader.
    votes: usize,
    /// Replicas that must hold what is evaluated, the leader among them.
    release: usize,
    /// An acknowledgement names everything in the log, not only its last ballot.
    chained: bool,
    /// An acknowledgement names what is charged for, and not under which ballots.
    contents_only: bool,
    /// A leader begins with an entry that charges for nothing, as openraft's does.
    blanks: bool,
    /// Replicas that may be turned back.
    fickle: Vec<usize>,
    /// Replicas that come back after a crash with nothing in memory and their old name.
    forgetful: Vec<usize>,
    /// Elections go up to this term.
    terms: u8,
    /// Entries that a log takes.
    entries: usize,
}

/// Guesses that the record grants.
const LIMIT: usize = 1;
/// Guesses that somebody tries.
const TRIED: u8 = 2;

/// A term and who leads in it.
type Ballot = (u8, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Entry {
    ballot: Ballot,
    /// The element that is charged for; none in the entry with which a reign begins.
    element: Option<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    vote: Ballot,
    log: Vec<Entry>,
    /// While it leads: how much of its log each replica has acknowledged.
    leads: Option<Vec<u8>>,
}

impl Replica {
    fn last(&self) -> (Ballot, usize) {
        let last = self.log.last().map_or((0, 0), |entry| entry.ballot);
        (last, self.log.len())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    replicas: Vec<Replica>,
    /// What was put aside of each replica.
    aside: Vec<Replica>,
    /// Elements that were evaluated.
    evaluated: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Elect {
        leader: usize,
        voters: u16,
    },
    Charge {
        leader: usize,
        element: u8,
    },
    Replicate {
        leader: usize,
        follower: usize,
    },
    /// Whether the follower holds the leader's log, without sending it what it lacks.
    Ask {
        leader: usize,
        follower: usize,
    },
    PutAside(usize),
    TurnBack(usize),
    Restart(usize),
}

impl Rules {
    /// As the product has them.
    fn of(replicas: u8, rollbacks: u8) -> Self {
        let quorum = Quorum::new(replicas, rollbacks).unwrap();
        Self {
            replicas: quorum.replicas(),
            votes: quorum.majority(),
            release: quorum.release(),
            chained: true,
            contents_only: false,
            blanks: false,
            fickle: (0..usize::from(rollbacks)).collect(),
            forgetful: Vec::new(),
            terms: 2,
            entries: 2,
        }
    }

    /// Evaluates what enough replicas hold, if the leader's own reign has added to it.
    fn release(&self, group: &mut Group, leader: usize) {
        let replica = &group.replicas[leader];
        let Some(acknowledged) = &replica.leads else {
            return;
        };
        let held = |length: usize| {
            let others = acknowledged.iter().enumerate();
            let others = others.filter(|(i, held)| *i != leader && usize::from(**held) >= length);
            others.count() + 1
        };
        let released = (1..=replica.log.len())
            .rev()
            .find(|i| replica.log[i - 1].ballot == replica.vote && held(*i) >= self.release);
        let Some(released) = released else { return };
        // The record charges in the order of the log; the same element again is free.
        let mut charged = Vec::new();
        for element in replica.log[..released]
            .iter()
            .filter_map(|entry| entry.element)
        {
            if charged.len() < LIMIT && !charged.contains(&element) {
                charged.push(element);
            }
        }
        group.evaluated.extend(charged);
        group.evaluated.sort_unstable();
        group.evaluated.dedup();
    }

    fn elect(&self, group: &mut Group, leader: usize, voters: u16) -> Option<()> {
        let ballot = (
            group.replicas[leader].vote.0 + 1,
            u8::try_from(leader).ok()?,
        );
        let last = group.replicas[leader].last();
        for voter in (0..self.replicas).filter(|i| voters & (1 << i) != 0) {
            let replica = &mut group.replicas[voter];
            if ballot < replica.vote || last < replica.last() {
                return None;
            }
            replica.vote = ballot;
            replica.leads = None;
        }
        let leader = &mut group.replicas[leader];
        leader.leads = Some(vec![0; self.replicas]);
        if self.blanks {
            let element = None;
            leader.log.push(Entry { ballot, element });
        }
        Some(())
    }

    /// What [`Rules::replicate`] ends with, alone. A follower that says yes by the product's rules would say so there as
    /// well, so the search goes without.
    fn ask(&self, group: &mut Group, leader: usize, follower: usize) -> Option<()> {
        let Replica { vote, log, .. } = group.replicas[leader].clone();
        let replica = &group.replicas[follower];
        let said = |log: &[Entry]| log.iter().filter_map(|e| e.element).collect::<Vec<_>>();
        let holds = match self.contents_only {
            true => said(&replica.log).starts_with(&said(&log)),
            false => replica.log.starts_with(&log),
        };
        if replica.vote != vote || !holds {
            return None;
        }
        let acknowledged = group.replicas[leader].leads.as_mut()?;
        acknowledged[follower] = u8::try_from(log.len()).ok()?;
        Some(())
    }

    fn replicate(&self, group: &mut Group, leader: usize, follower: usize) -> Option<()> {
        let Replica { vote, log, .. } = group.replicas[leader].clone();
        let replica = &mut group.replicas[follower];
        if vote < replica.vote {
            return None;
        }
        replica.vote = vote;
        replica.leads = None;
        for (i, entry) in log.iter().enumerate() {
            // Consensus takes the same ballot at the same place for the same entry.
            if replica
                .log
                .get(i)
                .is_none_or(|own| own.ballot != entry.ballot)
            {
                replica.log.truncate(i);
                replica.log.push(*entry);
            }
        }
        if !self.chained || replica.log[..log.len()] == log {
            let acknowledged = group.replicas[leader].leads.as_mut()?;
            acknowledged[follower] = u8::try_from(log.len()).ok()?;
        }
        Some(())
    }
}

impl Model for Rules {
    type State = Group;
    type Action = Step;

    fn init_states(&self) -> Vec<Group> {
        vec![Group {
            replicas: vec![Replica::default(); self.replicas],
            aside: vec![Replica::default(); self.replicas],
            evaluated: Vec::new(),
        }]
    }

    fn actions(&self, group: &Group, steps: &mut Vec<Step>) {
        for leader in 0..self.replicas {
            let replica = &group.replicas[leader];
            if replica.leads.is_some() {
                if replica.log.len() < self.entries {
                    steps.extend((0..TRIED).map(|element| Step::Charge { leader, element }));
                }
                let others = (0..self.replicas).filter(|other| *other != leader);
                steps.extend(others.map(|follower| Step::Replicate { leader, follower }));
            } else if replica.vote.0 < self.terms {
                let sets = (0..1_u16 << self.replicas).filter(|set| {
                    set & (1 << leader) != 0 && set.count_ones() as usize == self.votes
                });
                steps.extend(sets.map(|voters| Step::Elect { leader, voters }));
            }
        }
        for i in &self.fickle {
            if group.aside[*i] != group.replicas[*i] {
                steps.extend([Step::PutAside(*i), Step::TurnBack(*i)]);
            }
        }
        steps.extend(self.forgetful.iter().map(|i| Step::Restart(*i)));
    }

    fn next_state(&self, group: &Group, step: Step) -> Option<Group> {
        let mut next = group.clone();
        match step {
            Step::Elect { leader, voters } => self.elect(&mut next, leader, voters)?,
            Step::Charge { leader, element } => {
                let ballot = next.replicas[leader].vote;
                let element = Some(element);
                next.replicas[leader].log.push(Entry { ballot, element });
                self.release(&mut next, leader);
            }
            Step::Replicate { leader, follower } => {
                self.replicate(&mut next, leader, follower)?;
                self.release(&mut next, leader);
            }
            Step::Ask { leader, follower } => {
                self.ask(&mut next, leader, follower)?;
                self.release(&mut next, leader);
            }
            Step::PutAside(i) => next.aside[i] = next.replicas[i].clone(),
            Step::TurnBack(i) => next.replicas[i] = next.aside[i].clone(),
            Step::Restart(i) => next.replicas[i] = Replica::default(),
        }
        (next != *group).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("no guess too many", |_, group: &Group| {
            group.evaluated.len() <= LIMIT
        })]
    }
}

/// Whether there is a way to one guess too many within the bounds.
fn broken(rules: Rules) -> bool {
    let checker = rules.checker().threads(2).spawn_bfs().join();
    eprintln!("{} states", checker.unique_state_count());
    let found = checker.discovery("no guess too many");
    if let Some(path) = &found {
        eprintln!("{:#?}", path.clone().into_actions());
    }
    found.is_some()
}

/// The rule of the product: a vote of the majority, and a release by the least w with w + majority > n + r replicas
/// that name the whole log. `JUNTO_MODEL_ENTRIES=2` searches logs of two entries, which takes minutes and gigabytes.
#[test]
fn a_super_majority_holds_whichever_replica_is_turned_back() {
    let entries = std::env::var("JUNTO_MODEL_ENTRIES");
    let entries = entries.map_or(1, |entries| entries.parse().unwrap());
    for (n, r) in [(3, 0), (3, 1), (4, 1)] {
        // The order of names decides between ballots, so who is turned back matters.
        for fickle in [0, usize::from(n) - 1] {
            let mut rules = Rules::of(n, r);
            rules.fickle = vec![fickle; usize::from(r)];
            rules.entries = entries;
            assert!(!broken(rules), "{n} replicas, {r} turned back");
        }
    }
}

/// With logs of two entries, where an entry of an earlier reign stands below one of the own.
#[test]
fn a_super_majority_holds_over_longer_logs() {
    let mut rules = Rules::of(3, 0);
    rules.terms = 3;
    assert!(!broken(rules));
}

#[test]
fn a_majority_is_too_few_when_one_is_turned_back() {
    let mut rules = Rules::of(3, 1);
    rules.release = rules.votes;
    rules.entries = 1;
    assert!(broken(rules));
}

/// The arithmetic is exact: one release too few, or one replica turned back too many, is a guess too many.
#[test]
fn the_bound_is_tight() {
    let mut fewer = Rules::of(4, 1);
    fewer.release -= 1;
    fewer.entries = 1;
    assert!(broken(fewer));
    let mut more = Rules::of(4, 1);
    more.fickle = vec![0, 1];
    more.entries = 1;
    assert!(broken(more));
}

/// Consensus takes two entries with one ballot at one place for the same. A leader that is turned back, still leading,
/// puts another guess where the first was, and all followers acknowledge it: no quorum is large enough, unless what is
/// acknowledged names the contents.
#[test]
fn without_the_chain_no_quorum_is_enough() {
    let mut rules = Rules::of(3, 1);
    rules.release = rules.replicas;
    rules.chained = false;
    rules.entries = 1;
    assert!(broken(rules));
}

/// The guess that stands in a follower's log says what the leader's says, but it was written in an earlier reign: another
/// one that has neither is elected over it. Too long a way to be searched for, so it is walked.
#[test]
fn a_stale_entry_with_the_same_contents_is_not_the_leaders() {
    let [a, b, c] = [0, 1, 2];
    let by = |voters: [usize; 2]| voters.iter().fold(0, |set, i| set | 1 << i);
    let elect = |leader, with| Step::Elect {
        leader,
        voters: by([leader, with]),
    };
    let charge = |leader, element| Step::Charge { leader, element };
    let send = |leader, follower| Step::Replicate { leader, follower };
    let way = || {
        vec![
            elect(a, b),
            charge(a, 0),
            elect(c, b),
            send(c, b),
            Step::PutAside(c),
            elect(b, a),
            charge(b, 0),
            send(b, c),
            Step::Ask {
                leader: b,
                follower: a,
            },
            Step::TurnBack(c),
            elect(c, a),
            charge(c, 1),
            send(c, a),
            send(c, b),
        ]
    };
    let evaluated = |contents_only| {
        let mut rules = Rules::of(3, 1);
        rules.blanks = true;
        rules.contents_only = contents_only;
        let mut group = rules.init_states().remove(0);
        let mut refused = Vec::new();
        for step in way() {
            match rules.next_state(&group, step.clone()) {
                Some(next) => group = next,
                None => refused.push(step),
            }
        }
        (group.evaluated, refused)
    };
    assert_eq!(evaluated(true), (vec![0, 1], vec![]));
    let (others, refused) = evaluated(false);
    assert_eq!(others, [1]);
    assert!(matches!(refused[..], [Step::Ask { .. }]));
}

#[test]
fn evaluating_before_commit_is_found() {
    let mut rules = Rules::of(3, 0);
    rules.release = 1;
    assert!(broken(rules));
}

/// Nobody is turned back, and yet: a replica that comes back empty under its old name is one that was.
#[test]
fn a_restart_under_the_old_name_is_found() {
    let mut rules = Rules::of(3, 0);
    rules.forgetful = vec![0];
    assert!(broken(rules));
    // The super-majority bears that too, since it does not matter who turns a replica back.
    let mut rules = Rules::of(4, 1);
    rules.fickle = Vec::new();
    rules.forgetful = vec![0];
    rules.entries = 1;
    assert!(!broken(rules));
}
