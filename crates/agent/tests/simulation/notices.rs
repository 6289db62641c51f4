//! What the application is told of relays: that somebody else reads its queues, that a contact address has moved.

use junto_agent::proto::{Command, Overview};
use junto_agent::store::Store;

use crate::connected;
use crate::world::{Pair, World, relay_address, tag};

fn say(pair: &mut Pair, node: usize) {
    let connection = pair.connection(node).unwrap();
    let body = b"hello".to_vec();
    pair.world.call(node, Command::Send { connection, body });
    pair.world.settle();
}

#[test]
fn a_copy_that_runs_beside_its_original_is_told_of_once_in_each_process() {
    let mut pair = connected(1);
    let told = |pair: &Pair, node: usize| pair.world.nodes[node].app.taken_over;
    say(&mut pair, 1);
    // Connections that die and processes that start again take nothing over.
    for node in [0, 1] {
        pair.world.cut_all(node);
        pair.world.settle();
        pair.world.crash(node);
        pair.world.settle();
    }
    assert_eq!((told(&pair, 0), told(&pair, 1)), (0, 0));
    pair.world.copy(0);
    pair.world.settle();
    assert_eq!((told(&pair, 0), told(&pair, 2)), (1, 0));
    // They take the queue from each other for ever, and it is not told again.
    for node in [0, 2, 0, 2] {
        pair.world.cut_all(node);
        pair.world.settle();
    }
    assert_eq!((told(&pair, 0), told(&pair, 2)), (1, 1));
    assert_eq!(told(&pair, 1), 0);
    pair.world.crash(0);
    pair.world.settle();
    pair.world.cut_all(2);
    pair.world.settle();
    assert_eq!(told(&pair, 0), 2, "by the next process");
}

fn address(world: &World) -> Overview {
    world.nodes[0].machine.overview()
}

#[test]
fn an_address_that_has_another_link_is_told_of_until_the_application_has_seen_it() {
    let mut world = World::new(2, 1, 1, 128);
    let create = Command::CreateAddress {
        tag: tag("door"),
        relay: relay_address(0),
        about: Some(b"me".to_vec()),
    };
    world.call(0, create);
    world.settle();
    let before = address(&world).addresses.remove(0);
    assert!(before.link.is_some() && !before.moved);
    world.crash(0);
    world.settle();
    assert_eq!(world.nodes[0].app.moved, 0);

    world.relays[0].1.forget_everything();
    world.cut_all(0);
    world.settle();
    let after = address(&world).addresses.remove(0);
    assert_ne!(after.short, before.short);
    assert!(after.moved);
    assert_eq!(world.nodes[0].app.moved, 1);
    world.crash(0);
    world.settle();
    assert_eq!(world.nodes[0].app.moved, 2, "again");
    world.call(0, Command::AddressSeen { tag: tag("door") });
    world.settle();
    world.crash(0);
    world.settle();
    assert_eq!(world.nodes[0].app.moved, 2);
    assert!(!address(&world).addresses[0].moved);
    assert_eq!(world.nodes[0].store.load().unwrap().len(), 1);
}
