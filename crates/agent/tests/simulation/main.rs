//! Two agents and relays in memory, with a seed that decides what happens when and what fails.

mod relay;
mod world;

use world::{Faults, Pair};

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("JUNTO_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let first = std::env::var("JUNTO_FIRST_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let first = first.unwrap_or(0);
    first..first + count.unwrap_or(5)
}

fn run(contact: bool, faults: Faults, quota: usize) {
    for seed in seeds() {
        let result = std::panic::catch_unwind(|| {
            let mut pair = Pair::new(seed, contact, quota);
            pair.run(faults, 3_000, 25);
            pair.check();
            let [zero, one] = &pair.confirmed;
            assert!(faults.crashes || (zero.len() == 25 && one.len() == 25));
        });
        if let Err(panic) = result {
            eprintln!("seed {seed} (contact: {contact})");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_quiet_world_delivers_everything() {
    run(false, Faults::NONE, 128);
    run(true, Faults::NONE, 128);
}

#[test]
fn nothing_is_lost_twice_or_out_of_order_when_connections_die() {
    run(
        false,
        Faults {
            crashes: false,
            ..Faults::ALL
        },
        128,
    );
    run(
        true,
        Faults {
            crashes: false,
            ..Faults::ALL
        },
        128,
    );
}

#[test]
fn nothing_is_lost_twice_or_out_of_order_when_processes_crash() {
    run(false, Faults::ALL, 128);
    run(true, Faults::ALL, 128);
}

#[test]
fn full_queues_keep_the_order() {
    run(false, Faults::NONE, 3);
    run(false, Faults::ALL, 3);
}
