//! Agents over relays: nothing lost, nothing twice, in order, the chain never breaks.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use junto_sim::{Mutation, Seed, campaign, messengers};

#[test]
fn agents() {
    let tally = campaign("agents", 1, |seed, keep| {
        messengers::run(seed, keep, Mutation::Faithful)
    });
    eprintln!("{tally}");
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
