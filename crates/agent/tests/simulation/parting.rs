//! How connections end: what was said last is heard, and nothing else is said.

use std::time::Duration;

use junto_agent::proto::{
    CallError, Command, ConnectionFault, ConnectionId, Integrity, KeyState, LEAVING_MAX, Lines,
    Misuse, RowKey, Spread,
};
use junto_agent::store::Store;

use crate::parallel::{self, doubled};
use crate::world::{Faults, Pair};
use crate::{connected, seeds};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LAST: &[u8] = b"the last word";
const SECRET: &[u8] = b"said before, and not taken";

/// A pair whose nodes receive on different relays, [`Pair::relay_of`].
fn apart(seed: u64, quota: usize) -> Pair {
    let mut pair = Pair::on((seed, 2), false, quota);
    pair.run(Faults::NONE, 200, 3);
    pair.check();
    // From here on all processes know the same time.
    pair.world.crash(0);
    pair.world.crash(1);
    pair.world.settle();
    pair
}

fn send(pair: &mut Pair, node: usize, body: &[u8]) {
    let connection = pair.connection(node).unwrap();
    let body = body.to_vec();
    pair.world.call(node, Command::Send { connection, body });
}

fn leave(pair: &mut Pair, node: usize) -> ConnectionId {
    let connection = pair.connection(node).unwrap();
    let last = LAST.to_vec();
    let call = pair.world.call(node, Command::Leave { connection, last });
    pair.world.step(node, Faults::NONE);
    let answer = pair.world.nodes[node].answers.remove(&call);
    assert!(matches!(answer, Some(Ok(_))), "{answer:?}");
    connection
}

/// What a node was told of after the first messages, which all tests begin with.
fn heard(pair: &Pair, node: usize) -> Vec<Vec<u8>> {
    let received = pair.world.nodes[node].app.received.values().flatten();
    received.skip(3).map(|(.., body)| body.clone()).collect()
}

fn failed(pair: &Pair, node: usize) -> Vec<ConnectionFault> {
    let failed = pair.world.nodes[node].app.failed.values();
    failed.copied().collect()
}

/// Nothing of the node's connection is left, here or at its relay.
fn is_gone(pair: &mut Pair, node: usize, queues: usize) {
    assert_eq!(pair.world.nodes[node].store.load().unwrap().len(), 0);
    assert_eq!(pair.world.relays[node].1.queue_count(), queues);
}

#[test]
fn what_a_peer_said_before_it_went_is_heard_before_the_connection_fails() {
    for seed in 0..8 {
        let mut pair = apart(seed, 128);
        pair.world.cut_all(1);
        for body in [&b"one"[..], b"two", LAST] {
            send(&mut pair, 0, body);
        }
        pair.world.settle_only(0);
        let connection = pair.connection(0).unwrap();
        pair.world.call(0, Command::Delete { connection });
        pair.world.settle_only(0);
        // The relay that node 1 receives on is out of reach when the other one says that there is nobody.
        pair.world.away = Some(1);
        pair.world.cut_all(1);
        send(&mut pair, 1, b"hello");
        pair.world.rest();
        assert!(failed(&pair, 1).is_empty(), "seed {seed}");
        let connection = pair.connection(1).unwrap();
        let body = vec![1];
        let call = pair.world.call(1, Command::Send { connection, body });
        pair.world.rest();
        let gone = Err(CallError::Connection(ConnectionFault::PeerGone));
        assert_eq!(pair.world.nodes[1].answers.remove(&call), Some(gone));
        // It is known after a restart as well, and days later.
        if seed % 2 == 0 {
            pair.world.crash(1);
        }
        pair.world.wait(DAY);
        pair.world.rest();
        assert!(failed(&pair, 1).is_empty());
        pair.world.away = None;
        pair.world.settle();
        assert_eq!(heard(&pair, 1), [&b"one"[..], b"two", LAST], "seed {seed}");
        assert_eq!(failed(&pair, 1), [ConnectionFault::PeerGone]);
        // And that it has failed.
        pair.world.nodes[1].app.failed.clear();
        pair.world.crash(1);
        pair.world.settle();
        assert_eq!(failed(&pair, 1), [ConnectionFault::PeerGone]);
    }
}

#[test]
fn a_peer_that_went_is_heard_out_whatever_fails_meanwhile() {
    for seed in seeds() {
        for faults in [
            Faults {
                crashes: false,
                ..Faults::ALL
            },
            Faults::ALL,
        ] {
            let mut pair = apart(seed, if seed % 2 == 0 { 4 } else { 128 });
            for number in 0..3_u8 {
                send(&mut pair, 0, &[number]);
            }
            pair.world.step(0, Faults::NONE);
            let left = leave(&mut pair, 0);
            for _ in 0..300 {
                pair.world.act(faults);
                if pair.world.pick(40) == 0 {
                    send(&mut pair, 1, b"hello");
                }
            }
            // Nobody can say anything there any more, and nothing that comes there is told.
            let body = b"too late".to_vec();
            let command = Command::Send {
                connection: left,
                body,
            };
            let call = pair.world.call(0, command);
            pair.world.settle();
            let answer = pair.world.nodes[0].answers.remove(&call);
            assert_eq!(answer, Some(Err(Misuse::NoConnection.into())));
            send(&mut pair, 1, b"is anybody there?");
            pair.world.settle();
            let last = heard(&pair, 1).pop();
            assert_eq!(last.as_deref(), Some(LAST), "seed {seed}");
            assert_eq!(failed(&pair, 1), [ConnectionFault::PeerGone]);
            is_gone(&mut pair, 0, 0);
        }
    }
}

#[test]
fn a_last_word_outlives_days_and_restarts_and_what_waited_does_not_go_with_it() {
    for seed in 0..6 {
        let mut pair = apart(seed, 128);
        // Whose word it is for is away, and its relay as well.
        pair.world.away = Some(1);
        pair.world.cut_all(0);
        pair.world.cut_all(1);
        for _ in 0..3 {
            send(&mut pair, 0, SECRET);
        }
        pair.world.rest();
        leave(&mut pair, 0);
        for _ in 0..3 {
            pair.world.wait(DAY);
            pair.world.crash(0);
            pair.world.rest();
        }
        // What the other one says meanwhile is told to nobody.
        send(&mut pair, 1, b"let me in");
        pair.world.rest();
        pair.world.away = None;
        pair.world.settle();
        assert_eq!(heard(&pair, 1), [LAST], "seed {seed}");
        assert_eq!(heard(&pair, 0).len(), 0);
        is_gone(&mut pair, 0, 0);
        send(&mut pair, 1, b"hello");
        pair.world.settle();
        assert_eq!(failed(&pair, 1), [ConnectionFault::PeerGone]);
        assert_eq!(heard(&pair, 1), [LAST]);
    }
}

#[test]
fn a_last_word_behind_what_was_given_up_is_heard_by_a_process_that_runs_for_a_moment() {
    for seed in 0..6 {
        let mut pair = apart(seed, 128);
        pair.world.away = Some(1);
        pair.world.cut_all(0);
        pair.world.cut_all(1);
        send(&mut pair, 0, SECRET);
        pair.world.rest();
        leave(&mut pair, 0);
        pair.world.away = None;
        pair.world.settle_only(0);
        is_gone(&mut pair, 0, 0);
        let connection = pair.connection(1).unwrap();
        let mut was_settled = Vec::new();
        for _ in 0..4 {
            pair.world.crash(1);
            pair.world.rest();
            // Who waits until all is settled waits for that.
            let machine = &pair.world.nodes[1].machine;
            let lines = Lines {
                connections: [connection].into(),
                ..Lines::default()
            };
            was_settled.push(machine.is_settled(&mut machine.settling(lines)));
            pair.world.wait(Duration::from_millis(1_200));
            pair.world.rest();
        }
        // Not while something is missing and the peer was not asked for it; and in the end.
        assert!(!was_settled[0] && was_settled[3], "{was_settled:?}");
        assert_eq!(heard(&pair, 1), [LAST], "seed {seed}");
        assert_eq!(failed(&pair, 1), [ConnectionFault::PeerGone]);
    }
}

#[test]
fn a_relay_that_drops_messages_has_their_sender_asked_once_a_minute_at_most() {
    let mut pair = connected(2);
    pair.world.receipts = false;
    pair.world.crash(0);
    pair.world.crash(1);
    pair.world.settle();
    let before = pair.world.taken[1];
    for _ in 0..12 {
        pair.world.cut_all(1);
        send(&mut pair, 0, b"dropped");
        send(&mut pair, 0, b"and the one behind it");
        pair.world.settle_only(0);
        for (_, relay) in &mut pair.world.relays {
            relay.drop_every_second();
        }
        for millis in [0, 1_200, 10_000] {
            pair.world.wait(Duration::from_millis(millis));
            pair.world.rest();
        }
    }
    assert_eq!(heard(&pair, 1).len(), 12);
    // It takes a little more than two minutes.
    let asked = pair.world.taken[1] - before;
    assert!((1..=3).contains(&asked), "{asked}");
}

#[test]
fn a_last_word_waits_for_room_in_a_full_queue() {
    for seed in 0..6 {
        let mut pair = apart(seed, 4);
        pair.world.cut_all(1);
        for number in 0..10_u8 {
            send(&mut pair, 0, &[number]);
        }
        pair.world.settle_only(0);
        leave(&mut pair, 0);
        pair.world.settle_only(0);
        pair.world.crash(0);
        pair.world.settle_only(0);
        assert!(!pair.world.nodes[0].store.load().unwrap().is_empty());
        pair.world.settle();
        let heard = heard(&pair, 1);
        let (last, before) = heard.split_last().unwrap();
        assert_eq!(&last[..], LAST);
        // What the relay had taken, and no more.
        let taken: Vec<_> = (0..4).map(|number| vec![number]).collect();
        assert_eq!(before, taken, "seed {seed}");
        is_gone(&mut pair, 0, 0);
    }
}

#[test]
fn a_last_word_that_nobody_takes_ends_with_its_time() {
    let mut pair = apart(2, 128);
    pair.world.away = Some(1);
    pair.world.cut_all(0);
    leave(&mut pair, 0);
    pair.world.rest();
    // A process that runs now and then; the clock goes on meanwhile.
    for _ in 0..29 {
        pair.world.wait(DAY);
        pair.world.crash(0);
        pair.world.rest();
        assert!(!pair.world.nodes[0].store.load().unwrap().is_empty());
    }
    pair.world
        .wait(LEAVING_MAX - 29 * DAY + Duration::from_secs(1));
    pair.world.crash(0);
    pair.world.wait(Duration::from_secs(1));
    pair.world.rest();
    is_gone(&mut pair, 0, 0);
}

fn is_outgoing(key: &RowKey) -> bool {
    matches!(key, RowKey::Outbox(..))
}

#[test]
fn who_has_no_keys_to_say_it_with_ends_without_and_lets_nothing_go_that_waited() {
    for seed in 0..6 {
        let mut pair = apart(seed, 4);
        pair.world.cut_all(1);
        for _ in 0..20 {
            send(&mut pair, 0, SECRET);
        }
        pair.world.settle_only(0);
        // Whoever is about to be revoked begins new keys, and never goes on with them.
        let connection = pair.connection(1).unwrap();
        pair.world.call(1, Command::Resynchronise { connection });
        pair.world.settle_only(1);
        pair.world.cut_all(1);
        pair.world.settle_only(0);
        let view = &pair.world.nodes[0].machine.overview().connections[0];
        assert_eq!(view.keys, KeyState::Renewing);
        let connection = pair.connection(0).unwrap();
        let body = SECRET.to_vec();
        let waits = pair.world.call(0, Command::Send { connection, body });
        pair.world.settle_only(0);
        let taken = pair.world.taken[0];
        let rows = pair.world.nodes[0].store.load().unwrap();
        let waiting = rows.iter().filter(|(key, _)| is_outgoing(key)).count();
        assert!(waiting > 4, "seed {seed}: {waiting}");
        leave(&mut pair, 0);
        let answer = pair.world.nodes[0].answers.remove(&waits);
        assert_eq!(answer, Some(Err(Misuse::NoConnection.into())));
        pair.world.settle();
        assert_eq!(pair.world.taken[0], taken, "seed {seed}");
        is_gone(&mut pair, 0, 0);
    }
}

#[test]
fn a_last_word_that_is_too_long_changes_nothing() {
    let mut pair = connected(7);
    let connection = pair.connection(0).unwrap();
    let last = vec![0; 16_000];
    let call = pair.world.call(0, Command::Leave { connection, last });
    pair.world.settle();
    let refused = Some(Err(Misuse::BodyTooLong.into()));
    assert_eq!(pair.world.nodes[0].answers.remove(&call), refused);
    leave(&mut pair, 0);
    pair.world.settle();
    assert_eq!(heard(&pair, 1), [LAST]);
}

/// As [`doubled`], and all processes know the same time.
fn twice(seed: u64) -> Pair {
    let mut pair = doubled(seed);
    pair.world.crash(0);
    pair.world.crash(1);
    pair.world.settle();
    pair
}

/// What a relay says of its own queue is not said of the others.
#[test]
fn a_relay_that_has_lost_its_queue_hides_no_word_that_another_one_has() {
    for seed in 0..8 {
        let mut pair = twice(seed);
        pair.world.cut_all(1);
        pair.world.away = Some(1);
        pair.world.cut_all(0);
        leave(&mut pair, 0);
        pair.world.settle_only(0);
        pair.world.wait(Duration::from_secs(31));
        pair.world.settle_only(0);
        is_gone(&mut pair, 0, 0);
        // The word lies on the second relay; the first one has subscribed us, and then forgets.
        pair.world.away = Some(3);
        pair.world.crash(1);
        pair.world.rest();
        pair.world.relays[1].1.forget_everything();
        send(&mut pair, 1, b"hello");
        pair.world.rest();
        assert!(failed(&pair, 1).is_empty(), "seed {seed}");
        pair.world.away = None;
        pair.world.settle();
        assert_eq!(heard(&pair, 1), [LAST], "seed {seed}");
        assert_eq!(failed(&pair, 1), [ConnectionFault::PeerGone]);
    }
}

#[test]
fn who_is_heard_out_has_its_other_relays_waited_for_but_not_for_ever() {
    for seed in 0..8 {
        let mut pair = twice(seed);
        pair.world.cut_all(1);
        pair.world.away = Some(1);
        pair.world.cut_all(0);
        leave(&mut pair, 0);
        pair.world.settle_only(0);
        // The word lies on the second relay only; the first one has had its time.
        pair.world.wait(Duration::from_secs(31));
        pair.world.settle_only(0);
        is_gone(&mut pair, 0, 0);
        // Now that one is away, and the first one is there.
        pair.world.away = Some(3);
        pair.world.crash(1);
        send(&mut pair, 1, b"hello");
        pair.world.rest();
        assert!(failed(&pair, 1).is_empty(), "seed {seed}");
        if seed % 4 < 2 {
            pair.world.away = None;
            pair.world.settle();
            assert_eq!(heard(&pair, 1), [LAST], "seed {seed}");
        } else {
            pair.world.wait(Duration::from_secs(31));
            pair.world.rest();
            assert!(heard(&pair, 1).is_empty());
        }
        assert_eq!(failed(&pair, 1), [ConnectionFault::PeerGone]);
    }
}

#[test]
fn a_relay_that_loses_a_last_word_is_not_the_only_one_that_has_it() {
    for seed in 0..8 {
        let mut pair = twice(seed);
        pair.world.cut_all(1);
        pair.world.away = Some(1);
        pair.world.cut_all(0);
        leave(&mut pair, 0);
        pair.world.settle_only(0);
        let kept = |pair: &Pair| [1, 3].map(|at: usize| pair.world.relays[at].1.kept_count());
        let before = kept(&pair);
        // The other one is back in time.
        pair.world.wait(Duration::from_secs(10));
        pair.world.away = None;
        pair.world.settle_only(0);
        is_gone(&mut pair, 0, 0);
        assert_eq!(kept(&pair), [before[0] + 1, before[1]], "seed {seed}");
        pair.world.kill(3);
        send(&mut pair, 1, b"hello");
        pair.world.settle();
        assert_eq!(heard(&pair, 1), [LAST]);
        assert_eq!(failed(&pair, 1), [ConnectionFault::PeerGone]);
    }
}

#[test]
fn who_is_heard_out_on_several_queues_is_heard_in_order() {
    for seed in 0..8 {
        let mut pair = twice(seed);
        let connection = pair.connection(0).unwrap();
        let spread = Spread::Stripes;
        pair.world.call(0, Command::Spread { connection, spread });
        pair.world.settle();
        pair.world.cut_all(1);
        for number in 0..90_u8 {
            send(&mut pair, 0, &[number]);
        }
        pair.world.settle_only(0);
        pair.world.call(0, Command::Delete { connection });
        pair.world.settle_only(0);
        pair.world.away = Some(3);
        pair.world.crash(1);
        send(&mut pair, 1, b"hello");
        pair.world.rest();
        pair.world.away = None;
        pair.world.settle();
        let expected: Vec<_> = (0..90).map(|it| (Integrity::Ok, vec![it])).collect();
        assert_eq!(parallel::heard(&pair, 1)[3..], expected, "seed {seed}");
        assert_eq!(failed(&pair, 1), [ConnectionFault::PeerGone]);
    }
}
