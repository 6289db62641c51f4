//! What a store takes after many thousand messages, and while a peer misbehaves.

use std::time::Duration;

use junto_agent::proto::{Command, Reply};
use junto_agent::store::Store;

use crate::connected;
use crate::world::{Pair, World};

/// Rows and bytes of a node's store.
fn size(world: &mut World, node: usize) -> (usize, usize) {
    let rows = world.nodes[node].store.load().unwrap();
    (rows.len(), rows.iter().map(|(_, row)| row.len()).sum())
}

fn send_many(pair: &mut Pair, node: usize, count: usize) {
    let connection = pair.connection(node).unwrap();
    let body = b"one of many".to_vec();
    for _ in 0..count {
        let body = body.clone();
        pair.world.call(node, Command::Send { connection, body });
    }
    pair.world.settle();
    let answers = core::mem::take(&mut pair.world.nodes[node].answers);
    let sent = answers
        .values()
        .filter(|answer| matches!(answer, Ok(Reply::Message(_))));
    assert!(sent.count() >= count);
    // What the applications keep is their own.
    for node in &mut pair.world.nodes {
        node.app.received.clear();
        node.app.delivered.clear();
    }
}

#[test]
fn ten_thousand_messages_leave_nothing_behind() {
    let mut pair = connected(3);
    send_many(&mut pair, 0, 100);
    send_many(&mut pair, 1, 100);
    let before = [size(&mut pair.world, 0), size(&mut pair.world, 1)];
    for _ in 0..50 {
        send_many(&mut pair, 0, 100);
        send_many(&mut pair, 1, 100);
    }
    for (node, (rows, bytes)) in before.into_iter().enumerate() {
        let (rows_after, bytes_after) = size(&mut pair.world, node);
        assert_eq!(rows_after, rows);
        // The connection's row has a list or two of bounded length.
        assert!(bytes_after <= bytes + 8 * 1024, "{bytes} to {bytes_after}");
    }
}

#[test]
fn messages_that_are_lost_leave_a_bounded_number_of_keys_behind() {
    let mut pair = connected(5);
    let mut most = 0;
    for _ in 0..150 {
        pair.world.cut_all(1);
        let connection = pair.connection(0).unwrap();
        for _ in 0..20 {
            let body = b"never arrives".to_vec();
            pair.world.call(0, Command::Send { connection, body });
        }
        pair.world.settle_only(0);
        while pair
            .world
            .relays
            .iter_mut()
            .any(|(_, relay)| relay.drop_last())
        {}
        send_many(&mut pair, 0, 1);
        most = most.max(size(&mut pair.world, 1).0);
    }
    // 3,000 were lost, in 150 chains; those of 32 chains are kept, and some rows of other kinds.
    assert!((32 * 20..32 * 20 + 10).contains(&most), "{most}");
}

#[test]
fn a_peer_that_sends_and_takes_nothing_does_not_fill_the_store() {
    let mut pair = connected(5);
    // The peer's queue takes nothing any more; it goes on sending, and each time a receipt is due.
    pair.world.relays[1].1.quota = 0;
    let before = size(&mut pair.world, 0);
    let connection = pair.connection(1).unwrap();
    for _ in 0..300 {
        let body = b"take this".to_vec();
        pair.world.call(1, Command::Send { connection, body });
        pair.world.settle_only(1);
        pair.world.settle_only(0);
        while !pair.world.nodes[0].app.unacknowledged.is_empty() {
            pair.world.acknowledge(0);
        }
        pair.world.wait(Duration::from_millis(300));
    }
    pair.world.settle_only(0);
    let after = size(&mut pair.world, 0);
    // As many as may wait in the outbox, which the first receipts fill.
    assert_eq!(after.0, before.0 + 256, "{before:?} to {after:?}");
    // The receipts come when it takes them.
    pair.world.relays[1].1.quota = 128;
    for (_, relay) in &mut pair.world.relays {
        relay.make_room();
    }
    pair.world.settle();
    let delivered = pair.world.nodes[1].app.delivered.values().flatten();
    assert!(delivered.count() >= 256);
    assert_eq!(size(&mut pair.world, 0).0, before.0);
}
