//! Sessions over agents over relays: every layer's real core, one process each.
#![allow(clippy::print_stderr)]

use junto_sim::{
    Mutation, Seed, campaign,
    faults::Faults,
    sessions::{self, Plan},
    stack::Stack,
    trace::Trace,
    verdict::Run,
};

fn run(seed: Seed, keep: bool, plan: Plan) -> Run {
    let faults = Faults::draw(&mut seed.dice("faults"));
    let stack = Stack::new(seed, plan.parties(), faults, Trace::new(keep));
    sessions::run(seed, plan, faults, Mutation::Faithful, stack)
}

#[test]
fn stack() {
    let tally = campaign("stack", 5, |seed, keep| {
        run(seed, keep, Plan::letters(&mut seed.dice("plan")))
    });
    eprintln!("{tally}");
}

#[test]
fn threshold_keys_over_the_stack() {
    let tally = campaign("threshold_keys_over_the_stack", 20, |seed, keep| {
        run(seed, keep, Plan::bls(&mut seed.dice("plan")))
    });
    eprintln!("{tally}");
}
