//! A relay that plays with what it carries, and what the receiver's application is told about it.

use std::time::Duration;

use junto_agent::proto::Integrity;

use crate::{connected, last_verdicts, send_and_meddle};

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
            [Integrity::BadId { id: from }],
            "seed {seed}"
        );
        // All is well after that.
        send_and_meddle(&mut pair, 1, |_| {});
        let last = last_verdicts(&pair, 1).pop();
        assert!(last.is_some_and(|last| last != Integrity::Ok), "{last:?}");
        send_and_meddle(&mut pair, 1, |_| {});
        assert_eq!(last_verdicts(&pair, 1).pop(), Some(Integrity::Ok));
    }
}
