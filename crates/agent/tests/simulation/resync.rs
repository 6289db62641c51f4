//! New keys for a connection: asked for by either side or both, in the middle of everything, and by the agent
//! itself when the two ratchets have parted.

use junto_agent::proto::{CallError, Command, Integrity, Misuse, RESYNC_PAUSE, Reply, Resync};
use junto_agent::store::Store;

use crate::world::{Faults, Pair};
use crate::{connected, seeds};

fn ask(pair: &mut Pair, node: usize) {
    let connection = pair.connection(node).unwrap();
    pair.world.call(node, Command::Resynchronise { connection });
}

/// Sends from a node and lets everything come to rest; what the other side made of it.
fn say(pair: &mut Pair, node: usize, count: u8) -> Vec<(Integrity, Vec<u8>)> {
    let connection = pair.connection(node).unwrap();
    let heard = |pair: &Pair| {
        let received = &pair.world.nodes[1 - node].app.received;
        let all = received.values().flatten();
        all.map(|(_, integrity, body)| (*integrity, body.clone()))
            .collect::<Vec<_>>()
    };
    let before = heard(pair).len();
    for number in 0..count {
        let body = vec![number];
        pair.world.call(node, Command::Send { connection, body });
    }
    pair.world.settle();
    heard(pair).split_off(before)
}

fn good(count: u8) -> Vec<(Integrity, Vec<u8>)> {
    (0..count)
        .map(|number| (Integrity::Ok, vec![number]))
        .collect()
}

/// Both have other keys than at first, the same ones, and talk.
fn assert_renewed(pair: &mut Pair, missing: [&[u64]; 2]) {
    for (node, missing) in missing.into_iter().enumerate() {
        let app = &pair.world.nodes[node].app;
        assert_eq!((app.renewed, &app.missing[..]), (1, missing), "node {node}");
    }
    for node in [0, 1] {
        assert_eq!(say(pair, node, 3), good(3));
        assert_eq!(say(pair, node, 1), good(1));
    }
    let bindings = [0, 1].map(|node| {
        let app = &pair.world.nodes[node].app;
        app.connected.values().next().unwrap().2
    });
    assert_eq!(bindings[0], bindings[1]);
}

#[test]
fn either_side_or_both_can_ask_for_new_keys() {
    for seed in 0..12 {
        for askers in [&[0][..], &[1], &[0, 1], &[1, 1]] {
            let mut pair = connected(seed);
            let before = pair.world.nodes[0].app.connected.clone();
            for node in askers {
                ask(&mut pair, *node);
            }
            pair.world.settle();
            assert_ne!(before, pair.world.nodes[0].app.connected, "the binding");
            assert_renewed(&mut pair, [&[0], &[0]]);
        }
    }
}

#[test]
fn new_keys_in_the_middle_of_traffic_and_crashes_lose_nothing() {
    for seed in seeds() {
        for faults in [
            Faults::NONE,
            Faults {
                crashes: false,
                ..Faults::ALL
            },
            Faults::ALL,
        ] {
            let mut pair = Pair::new(seed, false, if seed % 3 == 0 { 4 } else { 128 });
            pair.run(faults, 600, 5);
            for _ in 0..3 {
                for _ in 0..400 {
                    pair.drive(40);
                    pair.world.act(faults);
                    if pair.world.pick(150) == 0 {
                        let node = pair.world.pick(2);
                        ask(&mut pair, node);
                    }
                }
            }
            pair.run(faults, 400, 40);
            pair.check();
            for node in &pair.world.nodes {
                assert!(
                    node.app.missing.iter().all(|missing| *missing == 0),
                    "{seed}"
                );
                assert!(node.app.broken.is_empty());
            }
            assert!(pair.world.nodes.iter().any(|node| node.app.renewed > 0));
            assert!(faults.crashes || pair.confirmed.iter().all(|sent| sent.len() == 40));
        }
    }
}

/// Both are ours: whoever is asked brings them together, whichever word of the four a relay has lost.
#[test]
fn a_lost_word_about_new_keys_is_said_again_by_whoever_is_asked() {
    let mut dropped = [0; 4];
    for seed in 0..8 {
        for (lost, again) in (0..4).flat_map(|lost| [0, 1].map(|again| (lost, again))) {
            let mut pair = connected(seed);
            ask(&mut pair, 0);
            for turn in 0..4 {
                let node = turn % 2;
                pair.world.cut_all(1 - node);
                pair.world.settle_only(node);
                while turn == lost && pair.world.relays.iter_mut().any(|it| it.1.drop_last()) {
                    dropped[lost] += 1;
                }
            }
            pair.world.settle();
            pair.world.wait(std::time::Duration::from_secs(61));
            ask(&mut pair, again);
            pair.world.settle();
            for node in [0, 1] {
                let heard = say(&mut pair, node, 3);
                let bodies: Vec<_> = heard.iter().map(|(_, body)| body[0]).collect();
                assert_eq!(bodies, [0, 1, 2], "{seed} {lost} {again} {node}");
                assert_eq!(say(&mut pair, node, 2), good(2));
            }
            let bindings = [0, 1].map(|node| {
                let app = &pair.world.nodes[node].app;
                assert!(app.renewed > 0 && app.broken.is_empty());
                app.connected.values().next().unwrap().2
            });
            assert_eq!(bindings[0], bindings[1]);
        }
    }
    assert!(dropped.iter().all(|count| *count > 4), "{dropped:?}");
}

/// A node goes back to a copy of its store from before both sides said something.
fn part(pair: &mut Pair, node: usize) {
    let backup = pair.world.nodes[node].store.clone();
    for _ in 0..3 {
        say(pair, 0, 1);
        say(pair, 1, 1);
    }
    pair.world.nodes[node].store = backup;
    pair.world.crash(node);
    pair.world.settle();
}

#[test]
fn a_broken_ratchet_is_found_and_repaired_by_whoever_cannot_read() {
    for seed in 0..8 {
        let mut pair = connected(seed);
        pair.world.resync = Resync::Automatic;
        pair.world.crash(0);
        pair.world.crash(1);
        part(&mut pair, 0);
        // Lost, and what shows that the keys differ.
        let connection = pair.connection(1).unwrap();
        let body = vec![7];
        pair.world.call(1, Command::Send { connection, body });
        pair.world.settle();
        let [zero, one] = &pair.world.nodes[..] else {
            panic!()
        };
        assert_eq!(zero.app.unreadable, 1);
        assert_eq!(zero.app.broken.len(), 1);
        assert_eq!((zero.app.renewed, one.app.renewed), (1, 1));
        // Node 0 has forgotten three messages as well as their receipts, and could not read one.
        assert!(zero.app.missing[0] >= 1, "{:?}", zero.app.missing);
        pair.world.nodes[0].app.received.clear();
        for node in [0, 1] {
            // The hash chain of who went back does not fit any more, once.
            let heard = say(&mut pair, node, 2);
            let bodies: Vec<_> = heard.iter().map(|(_, body)| body[0]).collect();
            assert_eq!(bodies, [0, 1]);
            assert_eq!(heard[1].0, Integrity::Ok);
        }
    }
}

#[test]
fn a_side_that_is_told_to_wait_repairs_nothing_until_asked() {
    let mut pair = connected(3);
    part(&mut pair, 0);
    say(&mut pair, 1, 2);
    let app = &pair.world.nodes[0].app;
    assert_eq!((app.unreadable, app.broken.len()), (2, 1), "told once");
    assert_eq!(app.renewed, 0);
    ask(&mut pair, 0);
    pair.world.settle();
    assert_eq!(pair.world.nodes[0].app.renewed, 1);
    assert!(pair.world.nodes[0].app.missing[0] >= 2);
    assert_eq!(say(&mut pair, 1, 2).len(), 2);
}

#[test]
fn the_agent_asks_by_itself_once_in_a_while_only() {
    let mut pair = connected(2);
    pair.world.resync = Resync::Automatic;
    pair.world.crash(0);
    pair.world.crash(1);
    pair.world.settle();
    for round in 0..4 {
        // Long ago the relay has delivered something that the agent has forgotten.
        // Few pauses: each lets the simulated clock run, and the agent asks again after an hour.
        for _ in 0..5 {
            assert_eq!(say(&mut pair, 1, 28), good(28));
            say(&mut pair, 0, 1);
        }
        for (_, relay) in &mut pair.world.relays {
            relay.repeat_first(4, &mut pair.world.rng);
        }
        say(&mut pair, 1, 1);
        let expected = [1, 1, 2, 2][round];
        assert_eq!(pair.world.nodes[0].app.renewed, expected, "round {round}");
        if round == 1 {
            pair.world.wait(RESYNC_PAUSE);
        }
    }
    assert_eq!(say(&mut pair, 1, 3), good(3));
}

#[test]
fn keys_that_a_relay_delivers_again_change_nothing() {
    let mut pair = connected(5);
    ask(&mut pair, 0);
    pair.world.settle();
    assert_renewed(&mut pair, [&[0], &[0]]);
    for node in [0, 1] {
        say(&mut pair, node, 100);
    }
    let before = pair.world.nodes[0].app.connected.clone();
    for (_, relay) in &mut pair.world.relays {
        relay.repeat_first(usize::MAX, &mut pair.world.rng);
    }
    pair.world.settle();
    let nodes = &pair.world.nodes;
    assert_eq!((nodes[0].app.renewed, nodes[1].app.renewed), (1, 1));
    assert_eq!(before, pair.world.nodes[0].app.connected);
    for node in [0, 1] {
        assert_eq!(say(&mut pair, node, 2), good(2));
    }
}

#[test]
fn a_profile_that_refuses_new_keys_keeps_its_own() {
    let mut pair = connected(6);
    pair.world.resync = Resync::Refused;
    pair.world.crash(1);
    pair.world.settle();
    let before = pair.world.nodes[1].app.connected.clone();
    ask(&mut pair, 0);
    pair.world.settle();
    let app = &pair.world.nodes[1].app;
    assert_eq!((app.unreadable, app.renewed), (1, 0));
    assert_eq!(app.connected, before);
    let connection = pair.connection(1).unwrap();
    let call = pair.world.call(1, Command::Resynchronise { connection });
    pair.world.settle();
    let refused = Err(CallError::Misuse(Misuse::FixedKeys));
    assert_eq!(pair.world.nodes[1].answers.remove(&call), Some(refused));
}

#[test]
fn calls_wait_for_the_answer_and_deleting_leaves_nothing_behind() {
    let mut pair = connected(7);
    pair.world.cut_all(1);
    ask(&mut pair, 0);
    let connection = pair.connection(0).unwrap();
    let body = vec![1];
    let call = pair.world.call(0, Command::Send { connection, body });
    pair.world.settle_only(0);
    assert!(!pair.world.nodes[0].answers.contains_key(&call));
    pair.world.settle();
    let answer = pair.world.nodes[0].answers.remove(&call);
    assert!(matches!(answer, Some(Ok(Reply::Message(_)))), "{answer:?}");
    for node in 0..2 {
        let connection = pair.connection(node).unwrap();
        pair.world.call(node, Command::Delete { connection });
        pair.world.settle();
        assert_eq!(pair.world.nodes[node].store.load().unwrap().len(), 0);
    }
}
