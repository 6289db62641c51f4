//! Words about queues that get lost, or come late.

use std::time::Duration;

use junto_agent::proto::Command;

use crate::connected;
use crate::parallel::{add, check_quiet, doubled, heard, met, open_queues, say};
use crate::world::{Faults, Pair, relay_address};

fn rotate(pair: &mut Pair, node: usize, relay: usize) {
    let connection = pair.connection(node).unwrap();
    let relay = Some(relay_address(relay));
    pair.world.call(node, Command::Rotate { connection, relay });
}

fn remove(pair: &mut Pair, node: usize, relay: usize) {
    let connection = pair.connection(node).unwrap();
    let relay = relay_address(relay);
    pair.world
        .call(node, Command::RemoveQueue { connection, relay });
}

/// Both say something, and it comes; what was lost before may show there for the first time.
fn talk(pair: &mut Pair) {
    pair.world.forgotten = None;
    for node in [0, 1] {
        let connection = pair.connection(node).unwrap();
        let body = b"something".to_vec();
        pair.world.call(node, Command::Send { connection, body });
    }
    pair.world.settle();
    for node in [0, 1] {
        let (_, last) = heard(pair, node).pop().unwrap();
        assert_eq!(last, b"something");
    }
    for node in [0, 1] {
        say(pair, node, 3);
    }
    check_quiet(pair);
}

#[test]
fn a_word_that_a_relay_loses_is_said_again_until_the_queue_is_used() {
    for which in 0..8 {
        for seed in [1, 2] {
            let mut pair = met(seed);
            pair.world.forgotten = Some(which);
            add(&mut pair, 0, 2);
            pair.world.settle();
            assert_eq!(open_queues(&pair, 0), (vec![0, 2], vec![1]), "{which}");
            assert_eq!(open_queues(&pair, 1), (vec![1], vec![0, 2]), "{which}");
            talk(&mut pair);
        }
    }
}

#[test]
fn a_word_that_a_relay_loses_keeps_no_queue_from_being_replaced() {
    for which in 0..6 {
        let mut pair = connected(1);
        let before = pair.world.relays[1].1.queue_count();
        pair.world.forgotten = Some(which);
        rotate(&mut pair, 0, 1);
        pair.world.settle();
        talk(&mut pair);
        let rotated = |node: usize| pair.world.nodes[node].app.rotated.len();
        assert_eq!((rotated(0), rotated(1)), (1, 1), "{which}");
        assert_eq!(pair.world.relays[1].1.queue_count(), before + 1);
    }
}

#[test]
fn a_process_that_starts_anew_says_its_words_again() {
    for which in 0..4 {
        let mut pair = met(1);
        pair.world.forgotten = Some(which);
        add(&mut pair, 0, 2);
        for _ in 0..6 {
            pair.world.rest();
            for node in [0, 1] {
                pair.world.crash(node);
            }
        }
        pair.world.settle();
        assert_eq!(open_queues(&pair, 1), (vec![1], vec![0, 2]), "{which}");
        talk(&mut pair);
    }
}

#[test]
fn a_process_that_starts_anew_waits_on_with_its_words() {
    let mut pair = met(1);
    // From here on the clock is the same.
    pair.world.crash(0);
    pair.world.settle();
    pair.world.forgotten = Some(2);
    add(&mut pair, 0, 2);
    pair.world.rest();
    let said = pair.world.taken[0];
    for _ in 0..10 {
        pair.world.crash(0);
        pair.world.rest();
        pair.world.wait(Duration::from_secs(5));
        pair.world.rest();
    }
    assert_eq!(pair.world.taken[0], said, "not a minute has passed");
    pair.world.wait(Duration::from_secs(10));
    pair.world.rest();
    assert!(pair.world.taken[0] > said);
    pair.world.settle();
    assert_eq!(open_queues(&pair, 1), (vec![1], vec![0, 2]));
}

#[test]
fn a_clock_that_is_set_back_keeps_no_queue_out_of_use() {
    for which in 0..4 {
        let mut pair = met(1);
        pair.world.epoch = Duration::from_secs(2_000_000_000);
        pair.world.crash(0);
        pair.world.settle();
        pair.world.forgotten = Some(which);
        add(&mut pair, 0, 2);
        pair.world.rest();
        pair.world.epoch = Duration::from_secs(1_000_000_000);
        pair.world.crash(0);
        pair.world.settle();
        assert_eq!(open_queues(&pair, 1), (vec![1], vec![0, 2]), "{which}");
        talk(&mut pair);
    }
}

#[test]
fn nothing_is_said_again_of_a_queue_that_was_removed_or_lost_meanwhile() {
    for (which, is_removed) in [(2, true), (3, true), (4, true), (2, false), (4, false)] {
        let mut pair = met(1);
        pair.world.forgotten = Some(which);
        add(&mut pair, 0, 2);
        pair.world.rest();
        if is_removed {
            remove(&mut pair, 0, 2);
        } else {
            pair.world.relays[2].1.forget_everything();
            pair.world.cut_all(0);
            pair.world.cut_all(1);
        }
        pair.world.settle();
        assert_eq!(open_queues(&pair, 0), (vec![0], vec![1]), "{which}");
        assert_eq!(open_queues(&pair, 1), (vec![1], vec![0]), "{which}");
        talk(&mut pair);
        // Nothing is awaited any more, and nothing said.
        let said = pair.world.taken;
        for _ in 0..8 {
            pair.world.wait(Duration::from_secs(40 * 24 * 60 * 60));
            pair.world.settle();
        }
        assert_eq!(pair.world.taken, said, "{which}, {is_removed}");
    }
}

#[test]
fn a_list_that_is_lost_leaves_out_in_the_end_what_it_was_to_leave_out() {
    let mut pair = doubled(1);
    // The peer cannot hear from the relay that the queue is gone.
    pair.world.kill(2);
    pair.world.unheard = Some(0);
    remove(&mut pair, 0, 2);
    pair.world.rest();
    pair.world.unheard = None;
    assert_eq!(open_queues(&pair, 1), (vec![1, 3], vec![0, 2]));
    pair.world.settle();
    assert_eq!(open_queues(&pair, 1), (vec![1, 3], vec![0]));
    talk(&mut pair);
}

#[test]
fn a_word_that_comes_after_it_was_given_up_disturbs_nothing() {
    for which in 0..6 {
        let mut pair = met(1);
        pair.world.cut_all(1);
        pair.world.cut_all(0);
        // What one says while the other one is away is taken from its relay, and brought back in the end.
        let mut kept = Vec::new();
        add(&mut pair, 0, 2);
        for step in 0..=which {
            let node = step % 2;
            pair.world.settle_only(node);
            pair.world.cut_all(0);
            pair.world.cut_all(1);
            if step < which {
                continue;
            }
            for (at, (_, relay)) in pair.world.relays.iter_mut().enumerate() {
                while let Some(message) = relay.keep_back() {
                    kept.push((at, message));
                }
            }
        }
        assert!(!kept.is_empty(), "{which}");
        pair.world.settle();
        assert_eq!(open_queues(&pair, 1), (vec![1], vec![0, 2]), "{which}");
        let rng = &mut pair.world.rng;
        for (at, message) in kept {
            let _ = pair.world.relays[at].1.bring_back(&message, rng);
        }
        pair.world.cut_all(0);
        pair.world.cut_all(1);
        pair.world.settle();
        assert_eq!(open_queues(&pair, 1), (vec![1], vec![0, 2]), "{which}");
        talk(&mut pair);
    }
}

#[test]
fn words_are_said_again_a_bounded_number_of_times() {
    let mut pair = doubled(1);
    let before = pair.world.taken[0];
    pair.world.unheard = Some(0);
    add(&mut pair, 0, 3);
    for _ in 0..12 {
        pair.world.settle();
        pair.world.crash(0);
        pair.world.wait(Duration::from_secs(40 * 24 * 60 * 60));
    }
    pair.world.settle();
    // To two queues: `QA`, and seven times the list and `QA`.
    let said = pair.world.taken[0] - before;
    assert_eq!(said, 2 * (1 + 2 * 7));
}

/// A queue goes while the one that is to replace it is on its way, and relays lose all from some word on until then.
fn replaced_one_goes(pair: Pair, which: usize, is_removed: bool, is_sender_first: bool) -> Pair {
    let replace = |pair: &mut Pair| rotate(pair, 0, 3);
    first_one_goes(pair, replace, which, (is_removed, is_sender_first))
}

/// The same while something is done with queues.
fn first_one_goes(
    mut pair: Pair,
    begin: impl Fn(&mut Pair),
    which: usize,
    (is_removed, is_sender_first): (bool, bool),
) -> Pair {
    let said: usize = pair.world.taken.iter().sum();
    pair.world.forgotten_from = Some(said + which);
    begin(&mut pair);
    pair.world.rest();
    if is_sender_first {
        pair.world.cut_all(0);
    }
    if is_removed {
        remove(&mut pair, 0, 0);
    } else {
        pair.world.relays[0].1.forget_everything();
        pair.world.cut_all(0);
        pair.world.cut_all(1);
    }
    pair.world.forgotten_from = None;
    if is_sender_first {
        let connection = pair.connection(1).unwrap();
        let body = b"on its way".to_vec();
        pair.world.call(1, Command::Send { connection, body });
        pair.world.settle_only(1);
    }
    pair.world.settle();
    pair
}

#[test]
fn a_queue_that_was_to_replace_one_that_goes_stands_beside_the_others() {
    // `QA`, `QK`, `QU`, `QT`, to two queues each.
    for which in 0..8 {
        for (is_removed, is_sender_first) in
            [(true, false), (true, true), (false, false), (false, true)]
        {
            let pair = doubled(1);
            let mut pair = replaced_one_goes(pair, which, is_removed, is_sender_first);
            talk(&mut pair);
            let run = (which, is_removed, is_sender_first);
            assert_eq!(open_queues(&pair, 0).0, [2, 3], "{run:?}");
            assert_eq!(open_queues(&pair, 1).1, [2, 3], "{run:?}");
        }
    }
}

#[test]
fn a_queue_that_was_to_replace_the_only_one_is_used_when_that_one_goes() {
    // From `QU` on; before, there is none that the peer may use.
    for which in 2..5 {
        for is_sender_first in [false, true] {
            let pair = met(1);
            let mut pair = replaced_one_goes(pair, which, false, is_sender_first);
            check_quiet(&pair);
            talk(&mut pair);
            assert_eq!(open_queues(&pair, 0).0, [3], "{which}, {is_sender_first}");
            assert_eq!(open_queues(&pair, 1).1, [3], "{which}, {is_sender_first}");
        }
    }
}

#[test]
fn a_queue_that_becomes_the_first_one_unheard_of_is_used_and_can_be_replaced() {
    // Two lists, `QA`, `QK`, `QU`: from that one on; before, there is none that the peer may use.
    for which in 4..8 {
        for how in [(true, false), (true, true), (false, false), (false, true)] {
            let add = |pair: &mut Pair| add(pair, 0, 2);
            let mut pair = first_one_goes(met(1), add, which, how);
            check_quiet(&pair);
            talk(&mut pair);
            assert_eq!(open_queues(&pair, 0).0, [2], "{which}, {how:?}");
            assert_eq!(open_queues(&pair, 1).1, [2], "{which}, {how:?}");
            rotate(&mut pair, 0, 3);
            pair.world.settle();
            talk(&mut pair);
            assert_eq!(open_queues(&pair, 0).0, [3], "{which}, {how:?}");
            assert_eq!(open_queues(&pair, 1).1, [3], "{which}, {how:?}");
        }
    }
}

#[test]
fn a_rotation_that_is_begun_anew_elsewhere_takes_no_answer_of_the_relay_before() {
    let mut pair = met(1);
    let count = |pair: &Pair| [0, 3].map(|relay| pair.world.relays[relay].1.queue_count());
    let before = count(&pair);
    rotate(&mut pair, 0, 0);
    // The first relay is asked for a queue, and has not answered yet.
    for _ in 0..5 {
        pair.world.step(0, Faults::NONE);
    }
    assert_eq!(count(&pair), before);
    rotate(&mut pair, 0, 3);
    pair.world.settle();
    talk(&mut pair);
    assert_eq!(open_queues(&pair, 0).0, [3]);
    assert_eq!(open_queues(&pair, 1).1, [3]);
    assert_eq!((before, count(&pair)), ([1, 0], [1, 1]));
    // Its relay has one in place of ours that nobody knows of, and drops it some day.
}
