//! The simulation notices when a rule is broken: each mutation violates an invariant within a few
//! seeds, and it is one of those that the rule exists for.
#![allow(clippy::unwrap_used, clippy::panic)]

use junto_sim::{
    Mutation, Seed,
    dice::Dice,
    faults::Faults,
    messengers,
    post::Post,
    sessions::{self, Plan},
    trace::Trace,
    verdict::{Run, Violation},
};

/// Seeds tried. What needs more luck than that is not worth much as a check.
const SEEDS: u64 = 60;

/// Many crashes, nothing else: what the mutations are about.
const CRASHES: Faults = Faults {
    crash: 120,
    down_ms: 300,
    delay_ms: 30,
    ..Faults::NONE
};

fn first_violation(run: impl Fn(Seed) -> Run) -> Violation {
    let violation = (0..SEEDS).find_map(|seed| {
        // Some mutations make a core stop at once, which is noticing too.
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(Seed(seed))));
        match run {
            Ok(run) => run.result.err(),
            Err(_) => Some(Violation::new("nothing_panics", "")),
        }
    });
    violation.unwrap_or_else(|| panic!("{SEEDS} seeds and nobody noticed"))
}

fn agents(mutation: Mutation) -> Violation {
    first_violation(|seed| messengers::run_with(seed, false, mutation, CRASHES))
}

fn letters(mutation: Mutation) -> Violation {
    sessions(mutation, Plan::letters)
}

fn sessions(mutation: Mutation, plan: fn(&mut Dice) -> Plan) -> Violation {
    first_violation(|seed| {
        let plan = plan(&mut seed.dice("plan"));
        let post = Post::new(seed, plan.parties(), CRASHES, Trace::new(false));
        sessions::run(seed, plan, CRASHES, mutation, post)
    })
}

#[track_caller]
fn assert_among(violation: &Violation, expected: &[&str]) {
    assert!(
        expected.contains(&violation.invariant),
        "another invariant than expected: {violation}"
    );
}

#[test]
fn an_agent_that_sends_before_it_stores_is_noticed() {
    let violation = agents(Mutation::SendBeforeStore);
    assert_among(
        &violation,
        &[
            "nothing_lost",
            "nobody_hangs",
            "no_connection_fails",
            "integrity_is_ok",
            "nothing_twice",
            "both_ends_agree",
        ],
    );
}

#[test]
fn an_agent_that_acknowledges_before_it_stores_is_noticed() {
    let violation = agents(Mutation::AckBeforeStore);
    assert_among(
        &violation,
        &[
            "nothing_lost",
            "nobody_hangs",
            "no_connection_fails",
            "integrity_is_ok",
        ],
    );
}

#[test]
fn an_agent_that_loses_its_outbox_is_noticed() {
    let violation = agents(Mutation::LoseOutbox);
    assert_among(
        &violation,
        &[
            "nothing_lost",
            "nobody_hangs",
            "integrity_is_ok",
            "no_connection_fails",
        ],
    );
}

#[test]
fn an_application_that_does_not_know_its_messages_is_noticed() {
    let violation = agents(Mutation::NoDedup);
    assert_among(&violation, &["nothing_twice"]);
}

#[test]
fn a_session_that_sends_before_it_stores_is_noticed() {
    letters(Mutation::SendBeforeStore);
}

#[test]
fn a_session_that_loses_its_outbox_is_noticed() {
    letters(Mutation::LoseOutbox);
}

#[test]
fn a_listener_that_does_not_know_its_messages_is_noticed() {
    let violation = letters(Mutation::NoDedup);
    assert_among(&violation, &["nothing_twice"]);
}

#[test]
fn a_restarted_protocol_that_says_something_else_is_noticed() {
    let violation = letters(Mutation::ForgetSeed);
    assert_among(&violation, &["nothing_fails_here"]);
}

#[test]
fn a_result_put_away_too_early_is_noticed() {
    let violation = sessions(Mutation::ResultBeforeStore, Plan::bls);
    assert_among(&violation, &["the_culprit_is_named", "nobody_hangs"]);
}

#[test]
fn an_application_that_passes_over_losses_is_noticed() {
    let violation = first_violation(|seed| {
        messengers::run_with_lying_relays(seed, false, Mutation::DeafToLosses)
    });
    assert_among(&violation, &["losses_are_told"]);
}

#[test]
fn relays_that_all_lie_are_noticed() {
    let violation = first_violation(|seed| {
        messengers::run_with_a_liar_of_two(seed, false, Mutation::AllRelaysLie)
    });
    assert_among(
        &violation,
        &["integrity_is_ok", "no_connection_fails", "nobody_hangs"],
    );
}
