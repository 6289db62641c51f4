//! Profiles that came back from a backup, with and without their originals, and what the peer notices.

use junto_agent::proto::{CallError, Command, Integrity, Misuse, Reply, Resync};
use junto_agent::store::MemoryStore;

use crate::connected;
use crate::parallel::doubled;
use crate::world::{Faults, Pair, World};

/// Pairs with one queue each way, and with two.
fn pairs(seeds: u64) -> impl Iterator<Item = Pair> {
    (0..seeds).flat_map(|seed| [connected(seed), doubled(seed)])
}

/// What became of one message of a node.
fn send(world: &mut World, node: usize, body: &[u8]) -> Result<(), CallError> {
    let (connection, ..) = world.nodes[node].app.connected.values().next().unwrap();
    let command = Command::Send {
        connection: *connection,
        body: body.to_vec(),
    };
    let ticket = world.call(node, command);
    world.settle();
    match world.nodes[node].answers.remove(&ticket).unwrap() {
        Ok(Reply::Message(_)) => Ok(()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    }
}

/// Bodies and verdicts of what a node has received after the first messages.
fn received(world: &World, node: usize) -> Vec<(Integrity, Vec<u8>)> {
    let received = world.nodes[node].app.received.values().flatten();
    let received = received.filter(|(_, _, body)| body.len() != 8);
    received
        .map(|(_, integrity, body)| (*integrity, body.clone()))
        .collect()
}

fn backup_of(pair: &Pair, node: usize) -> MemoryStore {
    pair.world.nodes[node].store.clone()
}

#[test]
fn what_came_back_sends_nothing_before_the_peer_answers_with_fresh_keys() {
    for mut pair in pairs(8) {
        send(&mut pair.world, 0, b"a question").unwrap();
        // Our receipt shows a key that the peer has not answered yet: its next message will.
        send(&mut pair.world, 1, b"an answer").unwrap();
        let backup = backup_of(&pair, 0);
        pair.world.come_back(0, backup);
        pair.world.settle();
        for _ in 0..2 {
            let refused = send(&mut pair.world, 0, b"with keys of the original");
            assert_eq!(refused, Err(CallError::Misuse(Misuse::Restored)));
        }
        send(&mut pair.world, 1, b"still there?").unwrap();
        send(&mut pair.world, 0, b"I am back").unwrap();
        send(&mut pair.world, 1, b"welcome").unwrap();
        let ok = |body: &[u8]| (Integrity::Ok, body.to_vec());
        let of_peer = received(&pair.world, 0);
        assert_eq!(of_peer[1..], [ok(b"still there?"), ok(b"welcome")]);
        let of_ours = received(&pair.world, 1);
        assert_eq!(of_ours, [ok(b"a question"), ok(b"I am back")]);
        assert_eq!(pair.world.nodes[1].app.unreadable, 0);
    }
}

/// A pair without receipts, so that nobody answers unasked.
fn without_receipts(mut pair: Pair) -> Pair {
    pair.world.receipts = false;
    for node in 0..2 {
        pair.world.crash(node);
    }
    pair.world.settle();
    pair
}

#[test]
fn a_copy_beside_its_original_is_noticed_on_both_sides() {
    for mut pair in pairs(8).map(without_receipts) {
        send(&mut pair.world, 0, b"a question").unwrap();
        send(&mut pair.world, 1, b"an answer").unwrap();
        let backup = backup_of(&pair, 0);
        // The original goes on, the copy does not know of it.
        for _ in 0..3 {
            send(&mut pair.world, 0, b"of the original").unwrap();
        }
        let original = backup_of(&pair, 0);
        pair.world.come_back(0, backup);
        pair.world.settle();
        let refused = send(&mut pair.world, 0, b"with keys of the original");
        assert_eq!(refused, Err(CallError::Misuse(Misuse::Restored)));
        // The copy reads this, as it has the keys.
        send(&mut pair.world, 1, b"who is there?").unwrap();
        assert_eq!(pair.world.nodes[1].app.unreadable, 0);
        send(&mut pair.world, 0, b"of the copy").unwrap();
        assert!(pair.world.nodes[1].app.unreadable > 0, "not noticed");
        let bodies = received(&pair.world, 1);
        assert!(
            !bodies.iter().any(|(_, body)| body == b"of the copy"),
            "the peer takes the copy for the original"
        );
        // The original is not disturbed, and hears what it did not get.
        pair.world.nodes[0].store = original;
        pair.world.crash(0);
        pair.world.settle();
        send(&mut pair.world, 0, b"of the original again").unwrap();
        let last = received(&pair.world, 1).pop();
        let expected = (Integrity::Ok, b"of the original again".to_vec());
        assert_eq!(last, Some(expected));
        send(&mut pair.world, 1, b"for the original").unwrap();
        let (integrity, body) = received(&pair.world, 0).pop().unwrap();
        assert_eq!(body, b"for the original");
        assert!(
            matches!(integrity, Integrity::Skipped { .. }),
            "{integrity:?}"
        );
    }
}

#[test]
fn a_copy_that_the_peer_has_left_behind_reads_nothing_and_says_nothing() {
    for mut pair in pairs(8) {
        let backup = backup_of(&pair, 0);
        for _ in 0..2 {
            send(&mut pair.world, 0, b"a question").unwrap();
            send(&mut pair.world, 1, b"an answer").unwrap();
        }
        pair.world.come_back(0, backup);
        pair.world.settle();
        let before = received(&pair.world, 0);
        send(&mut pair.world, 1, b"for the original").unwrap();
        assert!(pair.world.nodes[0].app.unreadable > 0, "not noticed");
        assert_eq!(received(&pair.world, 0), before);
        let refused = send(&mut pair.world, 0, b"with keys of the original");
        assert_eq!(refused, Err(CallError::Misuse(Misuse::Restored)));
        assert_eq!(pair.world.nodes[1].app.unreadable, 0);
    }
}

#[test]
fn what_came_back_asks_for_new_keys_by_itself_where_it_may() {
    for mut pair in pairs(8) {
        pair.world.resync = Resync::Automatic;
        let backup = backup_of(&pair, 0);
        for _ in 0..2 {
            send(&mut pair.world, 0, b"a question").unwrap();
            send(&mut pair.world, 1, b"an answer").unwrap();
        }
        pair.world.crash(1);
        pair.world.come_back(0, backup);
        pair.world.settle();
        send(&mut pair.world, 0, b"I am back").unwrap();
        let (_, body) = received(&pair.world, 1).pop().unwrap();
        assert_eq!(body, b"I am back");
        // The peer is told that the keys are others: they are to be verified again.
        assert_eq!(pair.world.nodes[1].app.renewed, 1);
        for node in [0, 1] {
            send(&mut pair.world, node, b"all is well").unwrap();
            let last = received(&pair.world, 1 - node).pop();
            assert_eq!(last, Some((Integrity::Ok, b"all is well".to_vec())));
        }
    }
}

#[test]
fn keys_that_were_asked_with_before_the_backup_are_given_up() {
    for mut pair in pairs(8) {
        let connection = pair.connection(0).unwrap();
        pair.world.call(0, Command::Resynchronise { connection });
        pair.world.step(0, Faults::NONE);
        let backup = backup_of(&pair, 0);
        // The peer answers, and the original sends in the ratchet that follows.
        pair.world.settle();
        send(&mut pair.world, 0, b"of the original").unwrap();
        pair.world.come_back(0, backup);
        pair.world.settle();
        let refused = send(&mut pair.world, 0, b"in the same ratchet");
        assert_eq!(refused, Err(CallError::Misuse(Misuse::Restored)));
    }
}

#[test]
fn a_stolen_copy_that_is_used_as_it_is_is_noticed_by_the_peer() {
    for mut pair in [connected(4), doubled(4)] {
        let stolen = backup_of(&pair, 0);
        send(&mut pair.world, 0, b"of the owner").unwrap();
        let owner = backup_of(&pair, 0);
        // The thief does what the program never does.
        pair.world.nodes[0].store = stolen;
        pair.world.crash(0);
        send(&mut pair.world, 0, b"of the thief").unwrap();
        assert_eq!(pair.world.nodes[1].app.unreadable, 1);
        pair.world.nodes[0].store = owner;
        pair.world.crash(0);
        send(&mut pair.world, 0, b"of the owner again").unwrap();
        let bodies: Vec<_> = received(&pair.world, 1);
        assert_eq!(
            bodies,
            [
                (Integrity::Ok, b"of the owner".to_vec()),
                (Integrity::Ok, b"of the owner again".to_vec())
            ]
        );
    }
}

#[test]
fn what_was_to_leave_when_the_backup_was_made_leaves_once() {
    for mut pair in [connected(6), doubled(6)] {
        pair.world.cut_all(0);
        let connection = pair.connection(0).unwrap();
        let body = b"waits for the relay".to_vec();
        pair.world.call(0, Command::Send { connection, body });
        pair.world.step(0, Faults::NONE);
        let backup = backup_of(&pair, 0);
        // The original gets it out, and so does what came back.
        pair.world.settle();
        pair.world.come_back(0, backup);
        pair.world.settle();
        let bodies: Vec<_> = received(&pair.world, 1);
        assert_eq!(bodies, [(Integrity::Ok, b"waits for the relay".to_vec())]);
        assert_eq!(pair.world.nodes[1].app.unreadable, 0);
    }
}
