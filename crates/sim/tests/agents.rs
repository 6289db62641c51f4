//! Agents over relays: nothing lost, nothing twice, in order, the chain never breaks.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use junto_sim::{Mutation, Seed, campaign, messengers};

#[test]
fn agents() {
    let tally = campaign("agents", 1, |seed, keep| {
        messengers::run(seed, keep, Mutation::Faithful)
    });
    eprintln!("{tally}");
    assert!(tally.of("rotations") > 0);
}

#[test]
fn a_seed_decides_everything() {
    for seed in [Seed(3), Seed(4)] {
        let digests =
            [false, true].map(|keep| messengers::run(seed, keep, Mutation::Faithful).digest);
        assert_eq!(digests[0], digests[1]);
    }
}

#[test]
fn lost_relays() {
    let tally = campaign("lost_relays", 1, messengers::run_with_lost_relays);
    eprintln!("{tally}");
}

/// Relays that lie about anything, to anybody: nothing altered, foreign or repeated comes to an application, what is
/// lost is told with its numbers, what works goes on, nothing panics, and no lie makes much work.
#[test]
fn lying_relays() {
    let tally = campaign("lying_relays", 1, |seed, keep| {
        messengers::run_with_lying_relays(seed, keep, Mutation::Faithful)
    });
    eprintln!("{tally}");
    assert!(tally.of("rotations") > 0);
}

/// Seeds that have found a fault: a message in a new queue before that is anybody's, one that comes once more after its queue
/// was replaced.
#[test]
fn seeds_that_found_something() {
    for seed in [0, 466] {
        let run = messengers::run(Seed(seed), false, Mutation::Faithful);
        run.result.unwrap();
    }
    for seed in [32, 599] {
        let run = messengers::run_with_lying_relays(Seed(seed), false, Mutation::Faithful);
        run.result.unwrap();
    }
}

/// With an honest relay beside the one that lies, nothing is lost at all.
#[test]
fn a_liar_of_two() {
    let tally = campaign("a_liar_of_two", 3, |seed, keep| {
        messengers::run_with_a_liar_of_two(seed, keep, Mutation::Faithful)
    });
    eprintln!("{tally}");
}
