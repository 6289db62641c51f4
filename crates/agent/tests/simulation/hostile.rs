//! A relay that plays with what it carries, and what the receiver's application is told about it.

use std::time::Duration;

use junto_agent::proto::Integrity;

use junto_agent::proto::Command;

use crate::{connected, last_verdicts, send_and_meddle};

#[test]
fn messages_that_the_relay_drops_here_and_there_are_named_after_one_delay() {
    let mut pair = connected(1);
    pair.world.cut_all(1);
    let connection = pair.connection(0).unwrap();
    for number in 0..12u64 {
        let body = number.to_be_bytes().to_vec();
        pair.world.call(0, Command::Send { connection, body });
    }
    pair.world.settle_only(0);
    for (_, relay) in &mut pair.world.relays {
        relay.drop_every_second();
    }
    pair.world.settle_only(1);
    assert_eq!(last_verdicts(&pair, 1), []);
    pair.world.wait(Duration::from_secs(11));
    pair.world.settle_only(1);
    let verdicts = last_verdicts(&pair, 1);
    assert_eq!(verdicts.len(), 6);
    for verdict in verdicts {
        let Integrity::Skipped { from, to } = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(from, to);
    }
}

#[test]
fn messages_that_the_relay_reorders_come_in_order() {
    for seed in 0..4 {
        let mut pair = connected(seed);
        send_and_meddle(&mut pair, 6, |world| {
            for (_, relay) in &mut world.relays {
                relay.reverse_all();
            }
        });
        assert_eq!(last_verdicts(&pair, 1), [Integrity::Ok; 6], "seed {seed}");
        assert_eq!(pair.world.nodes[1].app.unreadable, 0);
    }
}

#[test]
fn a_message_that_the_relay_keeps_back_is_named_and_so_is_its_coming_late() {
    for seed in 0..4 {
        let mut pair = connected(seed);
        let mut kept = None;
        send_and_meddle(&mut pair, 1, |world| {
            kept = world
                .relays
                .iter_mut()
                .find_map(|(_, relay)| relay.keep_back());
        });
        let kept = kept.unwrap();
        send_and_meddle(&mut pair, 2, |_| {});
        // Those that follow wait for it for a while, and then say what is missing.
        pair.world.wait(Duration::from_secs(11));
        pair.world.settle();
        let verdicts = last_verdicts(&pair, 1);
        let [Integrity::Skipped { from, to }, Integrity::Ok] = verdicts[..] else {
            panic!("{verdicts:?}")
        };
        assert_eq!(from, to);
        send_and_meddle(&mut pair, 0, |world| {
            let (relays, rng) = (&mut world.relays, &mut world.rng);
            let mut relays = relays.iter_mut();
            assert!(relays.any(|(_, relay)| relay.bring_back(&kept, rng)));
        });
        assert_eq!(
            last_verdicts(&pair, 1)[2..],
            [Integrity::Late { id: from }],
            "seed {seed}"
        );
        // All is well after that: nothing more is missing, and nothing waits for what has come already.
        send_and_meddle(&mut pair, 2, |_| {});
        assert_eq!(last_verdicts(&pair, 1)[3..], [Integrity::Ok; 2]);
    }
}
