//! Queues that give place to others, in the middle of everything.

use std::time::Duration;

use junto_agent::proto::{Command, Integrity, Resync};
use junto_agent::store::Store;

use crate::world::{Faults, Pair, relay_address};
use crate::{connected, seeds};

fn rotate(pair: &mut Pair, node: usize, relay: Option<usize>) {
    let connection = pair.connection(node).unwrap();
    let relay = relay.map(relay_address);
    pair.world.call(node, Command::Rotate { connection, relay });
}

/// Sends some messages from a node; they arrive as they should.
fn say(pair: &mut Pair, node: usize, count: u8) {
    let connection = pair.connection(node).unwrap();
    let heard = |pair: &Pair| {
        let received = pair.world.nodes[1 - node].app.received.values();
        received.flatten().cloned().collect::<Vec<_>>()
    };
    let before = heard(pair).len();
    for number in 0..count {
        let body = vec![number];
        pair.world.call(node, Command::Send { connection, body });
    }
    pair.world.settle();
    let new: Vec<_> = heard(pair)
        .drain(before..)
        .map(|(_, integrity, body)| (integrity, body))
        .collect();
    let expected: Vec<_> = (0..count).map(|it| (Integrity::Ok, vec![it])).collect();
    assert_eq!(new, expected);
}

fn queues(pair: &Pair) -> Vec<usize> {
    let relays = pair.world.relays.iter();
    relays.map(|(_, relay)| relay.queue_count()).collect()
}

#[test]
fn either_side_or_both_can_have_another_queue() {
    for seed in 0..12 {
        for nodes in [&[0][..], &[1], &[0, 1], &[0, 0], &[1, 0, 1]] {
            let mut pair = connected(seed);
            let relays = pair.world.relays.len();
            let bindings = pair.world.nodes[0].app.connected.clone();
            for node in nodes {
                let relay = pair.world.pick(relays);
                rotate(&mut pair, *node, Some(relay));
            }
            pair.world.settle();
            for node in [0, 1] {
                let rotated: Vec<_> = pair.world.nodes[node].app.rotated.iter().collect();
                let ours = rotated.iter().filter(|(receives, _)| *receives).count();
                assert_eq!(ours, usize::from(nodes.contains(&node)));
                let theirs = rotated.len() - ours;
                assert_eq!(theirs, usize::from(nodes.contains(&(1 - node))));
                assert_eq!(pair.world.nodes[node].app.rotations_failed, 0);
            }
            assert_eq!(bindings, pair.world.nodes[0].app.connected);
            for _ in 0..2 {
                say(&mut pair, 0, 3);
                say(&mut pair, 1, 3);
            }
            assert_eq!(queues(&pair).iter().sum::<usize>(), 2, "old ones are gone");
            for node in [0, 1] {
                pair.world.crash(node);
            }
            pair.world.settle();
            say(&mut pair, 0, 1);
            say(&mut pair, 1, 1);
            pair.check_all_but_bodies();
        }
    }
}

#[test]
fn queues_change_in_the_middle_of_traffic_and_crashes_and_nothing_is_lost() {
    for seed in seeds() {
        for faults in [
            Faults::NONE,
            Faults {
                crashes: false,
                ..Faults::ALL
            },
            Faults::ALL,
        ] {
            for quota in [4, 128] {
                let mut pair = Pair::new(seed, false, quota);
                let relays = pair.world.relays.len();
                pair.run(faults, 600, 5);
                for _ in 0..1_500 {
                    pair.drive(50);
                    pair.world.act(faults);
                    let node = pair.world.pick(2);
                    match pair.world.pick(200) {
                        0..2 => {
                            let relay = pair.world.pick(relays);
                            rotate(&mut pair, node, Some(relay));
                        }
                        2 if seed % 2 == 0 => {
                            let connection = pair.connection(node).unwrap();
                            let again = Command::Resynchronise { connection };
                            pair.world.call(node, again);
                        }
                        _ => {}
                    }
                }
                pair.run(faults, 400, 50);
                pair.check();
                assert!(faults.crashes || pair.confirmed.iter().all(|sent| sent.len() == 50));
                let rotated = |node: usize| !pair.world.nodes[node].app.rotated.is_empty();
                assert!(faults.crashes || rotated(0) || rotated(1));
                for node in &pair.world.nodes {
                    assert!(node.app.broken.is_empty());
                    assert!(node.app.missing.iter().all(|missing| *missing == 0));
                }
            }
        }
    }
}

#[test]
fn what_waits_in_the_old_queue_comes_first() {
    for seed in [1, 3, 5] {
        let mut pair = connected(seed);
        rotate(&mut pair, 0, Some(1));
        // Up to where node 0 has told its peer to use the new queue.
        for _ in 0..2 {
            pair.world.settle_only(0);
            pair.world.settle_only(1);
        }
        pair.world.settle_only(0);
        pair.world.cut_all(0);
        let connection = pair.connection(1).unwrap();
        for number in 0..120_u8 {
            let body = vec![number];
            pair.world.call(1, Command::Send { connection, body });
            if number % 7 == 0 {
                pair.world.settle_only(1);
            }
        }
        pair.world.settle_only(1);
        pair.world.settle();
        let received = pair.world.nodes[0].app.received.values();
        let new: Vec<_> = received.flatten().skip(3).collect();
        assert_eq!(new.len(), 120);
        for ((_, integrity, body), number) in new.into_iter().zip(0_u8..) {
            assert_eq!((integrity, &body[..]), (&Integrity::Ok, &[number][..]));
        }
        assert_eq!(pair.world.nodes[0].app.unreadable, 0);
        assert_eq!(queues(&pair).iter().sum::<usize>(), 2);
    }
}

/// Seconds until a queue of node 1 is left by node 0, while node 1 goes on speaking or does not.
fn seconds_until_left(pair: &mut Pair, is_speaking: bool) -> u32 {
    let connection = pair.connection(1).unwrap();
    rotate(pair, 1, None);
    pair.world.rest();
    for second in 0..60 {
        let rotated = &pair.world.nodes[0].app.rotated;
        if rotated.iter().any(|(receives, _)| !receives) {
            return second;
        }
        if is_speaking {
            let body = vec![1];
            pair.world.call(1, Command::Send { connection, body });
            pair.world.rest();
        }
        pair.world.wait(Duration::from_secs(1));
        pair.world.rest();
    }
    panic!("the queue is never left");
}

#[test]
fn a_peer_that_still_speaks_is_given_more_time_with_its_old_queue() {
    // It may be of those that read both queues at once, and be behind with the old one.
    for seed in [1, 3, 5, 7] {
        let mut pair = connected(seed);
        assert_eq!(seconds_until_left(&mut pair, false), 2);
        let mut pair = connected(seed);
        assert_eq!(seconds_until_left(&mut pair, true), 12);
        pair.world.settle();
        say(&mut pair, 0, 3);
        pair.check_all_but_bodies();
        // One of our kind, as its words about several queues have shown, reads the old one first.
        let mut pair = connected(seed);
        let connection = pair.connection(1).unwrap();
        let relay = relay_address(1);
        pair.world.call(1, Command::AddQueue { connection, relay });
        pair.world.settle();
        assert_eq!(seconds_until_left(&mut pair, true), 2);
    }
}

#[test]
fn an_old_relay_that_stays_away_holds_up_nothing_for_long() {
    let mut pair = connected(1);
    rotate(&mut pair, 1, Some(0));
    while pair.world.nodes[1].app.rotated.is_empty() {
        pair.world.act(Faults::NONE);
    }
    pair.world.away = Some(1);
    pair.world.cut_all(1);
    say(&mut pair, 0, 3);
    // It comes back, and the queue is deleted.
    pair.world.away = None;
    pair.world.settle();
    assert_eq!(queues(&pair), [2, 0]);
    say(&mut pair, 0, 3);
    assert_eq!(pair.world.nodes[1].app.unreadable, 0);
}

#[test]
fn an_old_relay_that_loses_the_queue_does_not_end_the_connection() {
    let mut pair = connected(1);
    rotate(&mut pair, 1, Some(0));
    while pair.world.nodes[0].app.rotated.is_empty() {
        pair.world.act(Faults::NONE);
    }
    pair.world.relays[1].1.forget_everything();
    pair.world.cut_all(1);
    pair.world.settle();
    assert!(pair.world.nodes[1].app.failed.is_empty());
    say(&mut pair, 0, 3);
    say(&mut pair, 1, 3);
}

#[test]
fn queues_are_replaced_on_schedule() {
    const EVERY: Duration = Duration::from_secs(60 * 60);
    let mut pair = connected(3);
    pair.world.every = Some(EVERY);
    for node in [0, 1] {
        pair.world.crash(node);
    }
    // Time never comes to rest here.
    let go_on = |pair: &mut Pair| {
        for _ in 0..2_000 {
            pair.world.act(Faults::NONE);
        }
    };
    go_on(&mut pair);
    let count = |pair: &Pair| pair.world.nodes[0].app.rotated.len();
    assert_eq!(count(&pair), 0);
    pair.world.wait(EVERY / 2);
    pair.world.crash(0);
    go_on(&mut pair);
    pair.world.wait(EVERY / 3);
    go_on(&mut pair);
    assert_eq!(count(&pair), 0, "restarts begin no new count");
    for times in 1..4 {
        pair.world.wait(EVERY / 2);
        go_on(&mut pair);
        assert_eq!(count(&pair), 2 * times);
        pair.world.wait(EVERY * 4 / 5);
        go_on(&mut pair);
        assert_eq!(count(&pair), 2 * times, "not before it is time");
    }
    pair.world.every = None;
    for node in [0, 1] {
        pair.world.crash(node);
    }
    for node in [0, 1] {
        say(&mut pair, node, 2);
    }
    assert_eq!(queues(&pair).iter().sum::<usize>(), 2);
}

#[test]
fn deleting_in_the_middle_of_a_change_leaves_nothing_behind() {
    for steps in 0..40 {
        let mut pair = connected(u64::from(steps % 3 == 0));
        rotate(&mut pair, 0, Some(0));
        for _ in 0..steps * 4 {
            pair.world.act(Faults::NONE);
        }
        for node in 0..2 {
            let connection = pair.connection(node).unwrap();
            pair.world.call(node, Command::Delete { connection });
            pair.world.settle();
            assert_eq!(pair.world.nodes[node].store.load().unwrap().len(), 0);
            assert!(pair.world.nodes[node].wires.is_empty());
        }
        assert_eq!(queues(&pair).iter().sum::<usize>(), 0, "after {steps}");
    }
}

#[test]
fn keys_and_queues_change_at_the_same_time() {
    for seed in 0..6 {
        let mut pair = connected(seed);
        pair.world.resync = Resync::Automatic;
        for (node, other) in [(0, 1), (1, 0), (0, 0)] {
            rotate(&mut pair, node, Some(0));
            let connection = pair.connection(other).unwrap();
            let again = Command::Resynchronise { connection };
            pair.world.call(other, again);
            pair.world.settle();
            say(&mut pair, 0, 2);
            say(&mut pair, 1, 2);
        }
        let nodes = &pair.world.nodes;
        assert_eq!(nodes[0].app.rotated.len(), 3);
        assert_eq!((nodes[0].app.renewed, nodes[1].app.renewed), (3, 3));
    }
}
