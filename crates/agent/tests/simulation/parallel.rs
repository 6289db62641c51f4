//! Several queues side by side: relays that die, and messages that survive them.

use std::time::Duration;

use junto_agent::proto::{
    CallError, Command, ConnectionFault, Integrity, Misuse, QUEUES_MAX, Resync, Spread,
};
use junto_agent::store::Store;

use crate::seeds;
use crate::world::{Faults, Pair, relay_address};

const RELAYS: usize = 4;

pub fn met(seed: u64) -> Pair {
    let mut pair = Pair::on((seed, RELAYS), false, 128);
    pair.run(Faults::NONE, 200, 3);
    pair.check();
    pair
}

pub fn add(pair: &mut Pair, node: usize, relay: usize) {
    let connection = pair.connection(node).unwrap();
    let relay = relay_address(relay);
    pair.world
        .call(node, Command::AddQueue { connection, relay });
}

fn spread(pair: &mut Pair, node: usize, spread: Spread) {
    let connection = pair.connection(node).unwrap();
    pair.world
        .call(node, Command::Spread { connection, spread });
}

/// The open queues of a node, by relay, and those that it sends to.
pub fn open_queues(pair: &Pair, node: usize) -> (Vec<usize>, Vec<usize>) {
    let index = |relay: &_| (0..RELAYS).find(|at| relay_address(*at) == *relay).unwrap();
    let overview = pair.world.nodes[node].machine.overview();
    let view = &overview.connections[0];
    let open = view.receives.iter().filter(|queue| queue.is_open);
    let mut receives: Vec<_> = open.map(|queue| index(&queue.relay)).collect();
    let mut sends: Vec<_> = view.sends.iter().map(index).collect();
    receives.sort_unstable();
    sends.sort_unstable();
    (receives, sends)
}

/// Two nodes that receive on two queues each, on all four relays: 0 and 2, 1 and 3.
pub fn doubled(seed: u64) -> Pair {
    let mut pair = met(seed);
    add(&mut pair, 0, 2);
    add(&mut pair, 1, 3);
    pair.world.settle();
    assert_eq!(open_queues(&pair, 0), (vec![0, 2], vec![1, 3]));
    assert_eq!(open_queues(&pair, 1), (vec![1, 3], vec![0, 2]));
    pair
}

pub fn heard(pair: &Pair, node: usize) -> Vec<(Integrity, Vec<u8>)> {
    let received = pair.world.nodes[node].app.received.values();
    let received = received.flatten().cloned();
    received
        .map(|(_, integrity, body)| (integrity, body))
        .collect()
}

/// Sends some messages from a node, which arrive as they should.
pub fn say(pair: &mut Pair, node: usize, count: u8) {
    let connection = pair.connection(node).unwrap();
    let before = heard(pair, 1 - node).len();
    for number in 0..count {
        let body = vec![number];
        pair.world.call(node, Command::Send { connection, body });
    }
    pair.world.settle();
    let expected: Vec<_> = (0..count).map(|it| (Integrity::Ok, vec![it])).collect();
    assert_eq!(heard(pair, 1 - node)[before..], expected);
}

pub fn check_quiet(pair: &Pair) {
    pair.check_all_but_bodies();
    for node in &pair.world.nodes {
        assert!(node.app.broken.is_empty());
        assert_eq!(node.machine.inconsistency(), None);
    }
}

#[test]
fn each_message_goes_to_all_queues_and_comes_once() {
    for seed in 0..6 {
        let mut pair = doubled(seed);
        for _ in 0..3 {
            say(&mut pair, 0, 5);
            say(&mut pair, 1, 5);
        }
        for node in [0, 1] {
            pair.world.crash(node);
        }
        pair.world.settle();
        say(&mut pair, 0, 5);
        say(&mut pair, 1, 5);
        assert_eq!(open_queues(&pair, 0), (vec![0, 2], vec![1, 3]));
        check_quiet(&pair);
    }
}

#[test]
fn messages_survive_whichever_relay_dies_with_them() {
    for seed in 0..4 {
        for dying in [1, 3] {
            let mut pair = doubled(seed);
            // Both relays of node 1 have them, and it has not.
            pair.world.cut_all(1);
            let connection = pair.connection(0).unwrap();
            let before = heard(&pair, 1).len();
            for number in 0..20_u8 {
                let body = vec![number];
                pair.world.call(0, Command::Send { connection, body });
            }
            pair.world.settle_only(0);
            pair.world.kill(dying);
            pair.world.settle();
            let expected: Vec<_> = (0..20).map(|it| (Integrity::Ok, vec![it])).collect();
            assert_eq!(heard(&pair, 1)[before..], expected);
            for _ in 0..3 {
                say(&mut pair, 0, 5);
                say(&mut pair, 1, 5);
            }
            check_quiet(&pair);
        }
    }
}

#[test]
fn what_one_relay_took_and_lost_comes_by_the_one_that_was_away() {
    for seed in 0..4 {
        let mut pair = doubled(seed);
        let before = heard(&pair, 1).len();
        // The second relay is away while the first one takes them all, and dies.
        pair.world.away = Some(3);
        pair.world.cut_all(0);
        pair.world.cut_all(1);
        let connection = pair.connection(0).unwrap();
        for number in 0..100_u8 {
            let body = vec![number];
            pair.world.call(0, Command::Send { connection, body });
            if number % 10 == 0 {
                for _ in 0..30 {
                    pair.world.step(0, Faults::NONE);
                    pair.world.act(Faults::NONE);
                    pair.world.cut_all(1);
                }
            }
        }
        pair.world.step(0, Faults::NONE);
        pair.world.kill(1);
        pair.world.away = None;
        // Nor does it take a process that goes on.
        pair.world.crash(0);
        pair.world.settle();
        let expected: Vec<_> = (0..100).map(|it| (Integrity::Ok, vec![it])).collect();
        let heard = heard(&pair, 1).split_off(before);
        assert_eq!(heard, expected);
        check_quiet(&pair);
    }
}

#[test]
fn a_relay_that_stays_away_for_long_brings_nothing_twice_and_breaks_nothing() {
    for (seed, away) in [(0, 1), (1, 3), (2, 1), (3, 3)] {
        let mut pair = doubled(seed);
        pair.world.resync = Resync::Automatic;
        // Node 0 reaches it and fills the queue there; node 1 does not.
        pair.world.away = Some(away);
        pair.world.cut_all(1);
        for _ in 0..12 {
            say(&mut pair, 0, 6);
            say(&mut pair, 1, 2);
        }
        pair.world.away = None;
        pair.world.settle();
        say(&mut pair, 0, 6);
        say(&mut pair, 1, 6);
        check_quiet(&pair);
        assert_eq!(pair.world.nodes[1].app.renewed, 0);
        let rows = pair.world.nodes[0].store.load().unwrap().len();
        assert!(rows < 10, "nothing waits any more: {rows}");
    }
}

#[test]
fn a_dead_relay_takes_a_bounded_place_in_the_store() {
    let mut pair = doubled(1);
    pair.world.kill(3);
    for _ in 0..100 {
        say(&mut pair, 0, 10);
    }
    let rows = pair.world.nodes[0].store.load().unwrap().len();
    assert!((256..270).contains(&rows), "{rows}");
    // Its owner gives it up, and all of it goes.
    let connection = pair.connection(1).unwrap();
    let relay = relay_address(3);
    pair.world
        .call(1, Command::RemoveQueue { connection, relay });
    pair.world.settle();
    assert_eq!(open_queues(&pair, 0), (vec![0, 2], vec![1]));
    let rows = pair.world.nodes[0].store.load().unwrap().len();
    assert!(rows < 10, "{rows}");
    say(&mut pair, 0, 5);
    say(&mut pair, 1, 5);
    check_quiet(&pair);
}

#[test]
fn queues_are_replaced_one_after_the_other_while_relays_die() {
    for seed in 0..4 {
        let mut pair = doubled(seed);
        pair.world.kill(1);
        say(&mut pair, 0, 4);
        // The dead one gives place to one elsewhere.
        let connection = pair.connection(1).unwrap();
        let relay = Some(relay_address(2));
        pair.world.call(1, Command::Rotate { connection, relay });
        pair.world.settle();
        assert_eq!(open_queues(&pair, 0).1, [2, 3]);
        pair.world.kill(3);
        say(&mut pair, 0, 4);
        say(&mut pair, 1, 4);
        check_quiet(&pair);
    }
}

#[test]
fn a_relay_that_forgets_its_queues_ends_nothing_as_long_as_there_is_another_one() {
    for (seed, forgetful) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
        let mut pair = doubled(seed);
        pair.world.relays[forgetful].1.forget_everything();
        for node in [0, 1] {
            pair.world.cut_all(node);
        }
        pair.world.settle();
        say(&mut pair, 0, 4);
        say(&mut pair, 1, 4);
        check_quiet(&pair);
        let count = |node| open_queues(&pair, node).0.len();
        assert_eq!(count(0) + count(1), 3, "one is gone");
        // It can be replaced; without the other one all is over.
        let node = forgetful % 2;
        add(&mut pair, node, forgetful);
        pair.world.settle();
        say(&mut pair, 1 - node, 4);
        for relay in [forgetful, (forgetful + 2) % 4] {
            pair.world.relays[relay].1.forget_everything();
        }
        for node in [0, 1] {
            pair.world.cut_all(node);
        }
        pair.world.settle();
        let failed: Vec<_> = pair.world.nodes[node].app.failed.values().collect();
        assert_eq!(failed, [&ConnectionFault::QueueGone]);
    }
}

#[test]
fn keys_change_over_several_queues() {
    for seed in 0..6 {
        let mut pair = doubled(seed);
        pair.world.resync = Resync::Automatic;
        for (node, dying) in [(0, None), (1, Some(3)), (0, None), (1, None)] {
            if let Some(dying) = dying {
                pair.world.kill(dying);
            }
            let connection = pair.connection(node).unwrap();
            pair.world.call(node, Command::Resynchronise { connection });
            pair.world.settle();
            say(&mut pair, 0, 3);
            say(&mut pair, 1, 3);
        }
        assert_eq!(pair.world.nodes[0].app.renewed, 4);
        check_quiet(&pair);
    }
}

/// Everything at once: traffic, crashes at every step, dying connections, queues that come, go and are replaced, new
/// keys; and half way one relay of each side dies with all that it has.
#[test]
fn nothing_is_lost_twice_or_out_of_order_while_relays_die() {
    for seed in seeds() {
        for faults in [
            Faults {
                crashes: false,
                ..Faults::ALL
            },
            Faults::ALL,
        ] {
            for quota in [4, 128] {
                let mut pair = Pair::on((seed, RELAYS), false, quota);
                pair.run(faults, 600, 5);
                add(&mut pair, 0, 2);
                add(&mut pair, 1, 3);
                for _ in 0..600 {
                    pair.drive(20);
                    pair.world.act(faults);
                }
                // From when both ends use them on: what came before had one relay. A call may have died with its process.
                pair.world.settle();
                for node in [0, 1] {
                    while open_queues(&pair, node).0.len() < 2 {
                        add(&mut pair, node, node + 2);
                        pair.world.settle();
                    }
                }
                for round in 0..1_000 {
                    pair.drive(60);
                    pair.world.act(faults);
                    if round == 300 {
                        let dying = pair.world.pick(2) * 2;
                        pair.world.kill(dying);
                        let dying = 1 + pair.world.pick(2) * 2;
                        pair.world.kill(dying);
                    }
                    let node = pair.world.pick(2);
                    let connection = pair.connection(node).unwrap();
                    match pair.world.pick(300) {
                        0 if seed % 2 == 0 => {
                            pair.world.call(node, Command::Resynchronise { connection });
                        }
                        1 | 2 => {
                            // Never both queues on one relay while they may die.
                            let relay = pair.world.pick(RELAYS);
                            let overview = pair.world.nodes[node].machine.overview();
                            let first = overview.connections[0].receives[0].relay.clone();
                            let is_there = !pair.world.dead.contains(&relay);
                            let relay = match round > 300 && is_there {
                                true => relay_address(relay),
                                false => first,
                            };
                            let relay = Some(relay);
                            pair.world.call(node, Command::Rotate { connection, relay });
                        }
                        _ => {}
                    }
                }
                pair.run(faults, 400, 60);
                pair.check();
                check_quiet(&pair);
                assert!(faults.crashes || pair.confirmed.iter().all(|sent| sent.len() == 60));
            }
        }
    }
}

#[test]
fn striped_messages_come_in_order_whatever_dies_but_a_relay() {
    for seed in seeds() {
        for (faults, quota) in [(Faults::NONE, 128), (Faults::ALL, 128), (Faults::ALL, 4)] {
            let mut pair = Pair::on((seed, RELAYS), false, quota);
            pair.run(Faults::NONE, 300, 5);
            for (node, relay) in [(0, 2), (0, 3), (1, 3)] {
                add(&mut pair, node, relay);
                spread(&mut pair, node, Spread::Stripes);
            }
            pair.world.settle();
            assert_eq!(open_queues(&pair, 0), (vec![0, 2, 3], vec![1, 3]));
            for _ in 0..800 {
                pair.drive(60);
                pair.world.act(faults);
            }
            pair.run(faults, 400, 80);
            pair.check();
            check_quiet(&pair);
        }
    }
}

#[test]
fn striped_messages_come_in_order_to_a_reader_who_is_far_behind() {
    for seed in 0..4 {
        let mut pair = doubled(seed);
        spread(&mut pair, 0, Spread::Stripes);
        pair.world.settle();
        pair.world.cut_all(1);
        let connection = pair.connection(0).unwrap();
        let before = heard(&pair, 1).len();
        for number in 0..700_u16 {
            let body = number.to_be_bytes().to_vec();
            pair.world.call(0, Command::Send { connection, body });
        }
        // More than both queues hold.
        pair.world.settle_only(0);
        for _ in 0..4_000 {
            pair.world.act(Faults::NONE);
        }
        pair.world.settle();
        let heard = heard(&pair, 1).split_off(before);
        let numbers = (0..700_u16).map(|it| (Integrity::Ok, it.to_be_bytes().to_vec()));
        assert_eq!(heard, numbers.collect::<Vec<_>>(), "seed {seed}");
        check_quiet(&pair);
    }
}

#[test]
fn striped_messages_go_around_a_relay_that_does_not_answer() {
    for seed in 0..4 {
        let mut pair = doubled(seed);
        for node in [0, 1] {
            spread(&mut pair, node, Spread::Stripes);
        }
        say(&mut pair, 0, 60);
        let kept = pair.world.relays[3].1.kept_count();
        assert!(kept >= 30, "{kept} went there");
        pair.world.kill(3);
        say(&mut pair, 0, 60);
        say(&mut pair, 1, 60);
        check_quiet(&pair);
    }
}

#[test]
fn what_a_relay_took_and_lost_of_a_striped_connection_is_named() {
    let mut pair = doubled(1);
    spread(&mut pair, 0, Spread::Stripes);
    pair.world.settle();
    pair.world.cut_all(1);
    let connection = pair.connection(0).unwrap();
    let before = heard(&pair, 1).len();
    for number in 0..20_u8 {
        let body = vec![number];
        pair.world.call(0, Command::Send { connection, body });
    }
    pair.world.settle_only(0);
    pair.world.kill(3);
    pair.world.settle();
    let body = b"last".to_vec();
    pair.world.call(0, Command::Send { connection, body });
    pair.world.settle();
    let heard = heard(&pair, 1).split_off(before);
    let missing: u64 = heard
        .iter()
        .map(|(integrity, _)| match integrity {
            Integrity::Ok => 0,
            Integrity::Skipped { from, to } => to - from + 1,
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(heard.len() as u64 + missing, 21);
    assert!((8..=12).contains(&missing), "{missing}");
}

#[test]
fn a_relay_that_comes_and_goes_does_not_keep_messages_back_for_ever() {
    let mut pair = doubled(1);
    spread(&mut pair, 0, Spread::Stripes);
    pair.world.settle();
    pair.world.cut_all(1);
    let connection = pair.connection(0).unwrap();
    let before = heard(&pair, 1).len();
    for number in 0..20_u8 {
        let body = vec![number];
        pair.world.call(0, Command::Send { connection, body });
    }
    pair.world.settle_only(0);
    pair.world.kill(3);
    // The other relay has its part, and is there for a few seconds each time.
    for _ in 0..40 {
        pair.world.settle_only(1);
        pair.world.wait(Duration::from_secs(5));
        pair.world.settle_only(1);
        pair.world.cut_all(1);
    }
    let heard = heard(&pair, 1).split_off(before);
    assert!(heard.len() >= 8, "{heard:?}");
}

#[test]
fn striped_messages_that_come_after_they_were_given_up_disturb_nothing() {
    for seed in 0..4 {
        let mut pair = doubled(seed);
        spread(&mut pair, 0, Spread::Stripes);
        pair.world.settle();
        pair.world.cut_all(1);
        let connection = pair.connection(0).unwrap();
        let before = heard(&pair, 1).len();
        for number in 0..20_u8 {
            let body = vec![number];
            pair.world.call(0, Command::Send { connection, body });
        }
        pair.world.settle_only(0);
        // The relay has its part, and nobody reaches it for so long that this counts as lost.
        pair.world.cut_all(0);
        pair.world.away = Some(3);
        pair.world.settle();
        let without = heard(&pair, 1).len();
        assert!(without < before + 20, "{without}");
        pair.world.away = None;
        pair.world.settle();
        let late = heard(&pair, 1).split_off(without);
        let is_late = |it: &(Integrity, _)| matches!(it.0, Integrity::Late { .. });
        // Behind the last one nothing has come.
        assert!(late[..late.len() - 1].iter().all(is_late), "{late:?}");
        let all = heard(&pair, 1).split_off(before);
        let bodies: std::collections::BTreeSet<_> = all.iter().map(|(_, body)| body).collect();
        assert_eq!((all.len(), bodies.len()), (20, 20));
        for _ in 0..3 {
            say(&mut pair, 0, 10);
            say(&mut pair, 1, 10);
        }
        assert_eq!(open_queues(&pair, 0), (vec![0, 2], vec![1, 3]));
        check_quiet(&pair);
    }
}

#[test]
fn a_peer_that_does_not_understand_is_told_nothing_that_it_could_take_for_an_error() {
    // A peer that never answers a list of queues: as SimpleX's agent, which only notes it down.
    let mut pair = met(1);
    pair.world.unheard = Some(0);
    let before = pair.world.taken[0];
    add(&mut pair, 0, 2);
    for _ in 0..4 {
        pair.world.settle();
        pair.world.crash(0);
    }
    pair.world.wait(Duration::from_secs(90 * 24 * 60 * 60));
    pair.world.settle();
    assert_eq!(open_queues(&pair, 0), (vec![0], vec![1]));
    assert_eq!(
        pair.world.taken[0] - before,
        1 + 7,
        "the list, and no end of it"
    );
    let made: usize = pair.world.relays.iter().map(|it| it.1.queue_count()).sum();
    assert_eq!(made, 2, "no queue is made for it");
}

#[test]
fn there_is_a_limit_and_the_last_queue_stays() {
    let mut pair = met(2);
    let connection = pair.connection(0).unwrap();
    for number in 1..=QUEUES_MAX {
        let relay = relay_address(number % RELAYS);
        let call = pair.world.call(0, Command::AddQueue { connection, relay });
        pair.world.settle();
        let answer = pair.world.nodes[0].answers.remove(&call).unwrap();
        let too_many = Err(CallError::Misuse(Misuse::TooManyQueues));
        assert_eq!(answer == too_many, number == QUEUES_MAX, "{answer:?}");
    }
    assert_eq!(open_queues(&pair, 0).0, [0, 1, 2, 3]);
    say(&mut pair, 1, 5);
    for relay in [0, 2, 1, 3] {
        let removed = relay;
        let relay = relay_address(relay);
        let call = pair
            .world
            .call(0, Command::RemoveQueue { connection, relay });
        pair.world.settle();
        let answer = pair.world.nodes[0].answers.remove(&call).unwrap();
        let none = Err(CallError::Misuse(Misuse::NoQueue));
        assert_eq!(answer == none, removed == 3, "{answer:?}");
        say(&mut pair, 1, 5);
    }
    assert_eq!(open_queues(&pair, 1).1, [3]);
    let left: usize = pair.world.relays.iter().map(|it| it.1.queue_count()).sum();
    assert_eq!(left, 2, "the others are deleted");
    check_quiet(&pair);
}

#[test]
fn deleting_a_connection_deletes_all_its_queues() {
    for steps in 0..30 {
        let mut pair = met(u64::from(steps % 3 == 0));
        add(&mut pair, 0, 2);
        add(&mut pair, 0, 3);
        add(&mut pair, 1, 3);
        for _ in 0..steps * 6 {
            pair.world.act(Faults::NONE);
        }
        for node in 0..2 {
            let connection = pair.connection(node).unwrap();
            pair.world.call(node, Command::Delete { connection });
            pair.world.settle();
            assert_eq!(pair.world.nodes[node].store.load().unwrap().len(), 0);
            assert!(pair.world.nodes[node].wires.is_empty());
        }
        let left: usize = pair.world.relays.iter().map(|it| it.1.queue_count()).sum();
        assert_eq!(left, 0, "after {steps}");
    }
}
