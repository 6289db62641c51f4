//! Sessions over a carrier that does no more than carriers promise.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use junto_sim::{
    Mutation, Seed, campaign,
    faults::Faults,
    post::Post,
    sessions::{self, Plan},
    trace::Trace,
    verdict::Run,
};

fn letters(seed: Seed, keep: bool, mutation: Mutation) -> Run {
    let faults = Faults::draw(&mut seed.dice("faults"));
    let plan = Plan::letters(&mut seed.dice("plan"));
    let post = Post::new(seed, plan.parties(), faults, Trace::new(keep));
    sessions::run(seed, plan, faults, mutation, post)
}

fn bls(seed: Seed, keep: bool) -> Run {
    let faults = Faults::draw(&mut seed.dice("faults"));
    let plan = Plan::bls(&mut seed.dice("plan"));
    let post = Post::new(seed, plan.parties(), faults, Trace::new(keep));
    sessions::run(seed, plan, faults, Mutation::Faithful, post)
}

#[test]
fn sessions() {
    let tally = campaign("sessions", 1, |seed, keep| {
        letters(seed, keep, Mutation::Faithful)
    });
    eprintln!("{tally}");
}

#[test]
fn threshold_keys() {
    let tally = campaign("threshold_keys", 5, bls);
    eprintln!("{tally}");
}

#[test]
fn a_seed_decides_everything() {
    for seed in [Seed(3), Seed(4)] {
        let digests = [false, true].map(|keep| letters(seed, keep, Mutation::Faithful).digest);
        assert_eq!(digests[0], digests[1]);
    }
}
