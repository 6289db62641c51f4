//! Two agents and relays in memory, with a seed that decides what happens when and what fails.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test"
)]

mod again;
mod formats;
mod growth;
mod hostile;
mod noise;
mod notices;
mod parallel;
mod parting;
mod relay;
mod restored;
mod resync;
mod rotation;
mod world;

use std::collections::BTreeSet;

use junto_agent::proto::{
    CallError, Command, ConnectionFault, HEAL_INTERVAL, Integrity, Lines, MAX_BODY, Reply,
};
use junto_agent::store::Store;
use world::{Faults, Pair, World, relay_address, tag};

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("JUNTO_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let first = std::env::var("JUNTO_FIRST_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let first = first.unwrap_or(0);
    first..first + count.unwrap_or(5)
}

fn run(contact: bool, faults: Faults, quota: usize) {
    for seed in seeds() {
        let result = std::panic::catch_unwind(|| {
            let mut pair = Pair::new(seed, contact, quota);
            pair.run(faults, 3_000, 25);
            pair.check();
            let [zero, one] = &pair.confirmed;
            assert!(faults.crashes || (zero.len() == 25 && one.len() == 25));
        });
        if let Err(panic) = result {
            eprintln!("seed {seed} (contact: {contact})");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_quiet_world_delivers_everything() {
    run(false, Faults::NONE, 128);
    run(true, Faults::NONE, 128);
}

#[test]
fn nothing_is_lost_twice_or_out_of_order_when_connections_die() {
    run(
        false,
        Faults {
            crashes: false,
            ..Faults::ALL
        },
        128,
    );
    run(
        true,
        Faults {
            crashes: false,
            ..Faults::ALL
        },
        128,
    );
}

#[test]
fn nothing_is_lost_twice_or_out_of_order_when_processes_crash() {
    run(false, Faults::ALL, 128);
    run(true, Faults::ALL, 128);
}

#[test]
fn full_queues_keep_the_order() {
    run(false, Faults::NONE, 3);
    run(false, Faults::ALL, 3);
}

fn connected(seed: u64) -> Pair {
    let mut pair = Pair::new(seed, false, 128);
    pair.run(Faults::NONE, 200, 3);
    pair.check();
    pair
}

fn last_verdicts(pair: &Pair, node: usize) -> Vec<Integrity> {
    let received = &pair.world.nodes[node].app.received;
    received
        .values()
        .flatten()
        .skip(3)
        .map(|(_, integrity, _)| *integrity)
        .collect()
}

/// Sends from node 0 up to the relay, no further; then the relay does something.
fn send_and_meddle(pair: &mut Pair, count: u64, meddle: impl FnOnce(&mut World)) {
    pair.world.cut_all(1);
    let connection = pair.connection(0).unwrap();
    for number in 0..count {
        let body = number.to_be_bytes().to_vec();
        pair.world.call(0, Command::Send { connection, body });
    }
    pair.world.settle_only(0);
    meddle(&mut pair.world);
    pair.world.settle();
}

#[test]
fn a_message_that_the_relay_drops_is_named_by_the_next_one() {
    let mut pair = connected(1);
    send_and_meddle(&mut pair, 1, |world| {
        assert!(world.relays.iter_mut().any(|r| r.1.drop_last()))
    });
    assert_eq!(last_verdicts(&pair, 1), []);
    send_and_meddle(&mut pair, 2, |_| {});
    let Integrity::Skipped { from, to } = last_verdicts(&pair, 1)[0] else {
        panic!()
    };
    assert_eq!(from, to);
    assert_eq!(last_verdicts(&pair, 1)[1..], [Integrity::Ok]);
}

#[test]
fn a_message_that_is_missing_before_a_receipt_is_told_all_the_same() {
    let mut pair = connected(1);
    send_and_meddle(&mut pair, 1, |world| {
        assert!(world.relays.iter_mut().any(|r| r.1.drop_last()))
    });
    // What node 0 says next is a receipt, which its application has no part in.
    let connection = pair.connection(1).unwrap();
    let body = b"hello".to_vec();
    pair.world.call(1, Command::Send { connection, body });
    pair.world.settle();
    let app = &pair.world.nodes[1].app;
    let [Integrity::Skipped { from, to }] = app.irregular[..] else {
        panic!("{:?}", app.irregular)
    };
    assert_eq!(from, to);
    send_and_meddle(&mut pair, 1, |_| {});
    assert_eq!(last_verdicts(&pair, 1), [Integrity::Ok]);
}

#[test]
fn what_relays_have_shows_nothing_of_what_was_said_nor_how_much() {
    let mut pair = connected(1);
    let text = b"what nobody is to read";
    let connection = pair.connection(0).unwrap();
    for body in [text.to_vec(), text.repeat(600), vec![b'a'; MAX_BODY]] {
        pair.world.call(0, Command::Send { connection, body });
    }
    pair.world.settle();
    assert_eq!(last_verdicts(&pair, 1), [Integrity::Ok; 3]);
    let relays = pair.world.relays.iter();
    let kept: Vec<_> = relays.flat_map(|(_, relay)| relay.kept()).collect();
    // Ours, the handshake's, and receipts for all.
    assert!(kept.len() > 8, "{}", kept.len());
    let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|it| it == part);
    assert!(has(&text.repeat(2), text), "this would find it");
    for sent in &kept {
        for part in [
            &text[..8],
            &text[8..16],
            b"aaaaaaaa",
            b"from zero",
            b"from one",
        ] {
            assert!(!has(sent, part));
        }
    }
    // Those of the handshake, which show themselves by the commands around them, and all others.
    let sizes: BTreeSet<usize> = kept.iter().map(|sent| sent.len()).collect();
    assert_eq!(sizes.len(), 2, "{sizes:?}");
}

#[test]
fn a_message_that_the_relay_repeats_comes_once() {
    let mut pair = connected(2);
    send_and_meddle(&mut pair, 4, |world| {
        for (_, relay) in &mut world.relays {
            relay.duplicate_all(&mut world.rng);
        }
    });
    assert_eq!(last_verdicts(&pair, 1), [Integrity::Ok; 4]);
    assert_eq!(pair.world.nodes[1].app.unreadable, 0);
}

#[test]
fn a_message_that_the_relay_alters_is_not_taken() {
    // The first two bytes are a version, which nothing protects and nothing rests on.
    for at in [2, 3, 26, 30, 100, 15_000] {
        let mut pair = connected(3);
        send_and_meddle(&mut pair, 1, |world| {
            world
                .relays
                .iter_mut()
                .for_each(|(_, relay)| relay.tamper_all(at));
        });
        assert_eq!(last_verdicts(&pair, 1), [], "byte {at}");
        // The one after it says what is missing.
        send_and_meddle(&mut pair, 1, |_| {});
        assert!(
            matches!(last_verdicts(&pair, 1)[..], [Integrity::Skipped { .. }]),
            "byte {at}"
        );
    }
}

#[test]
fn a_peer_that_went_back_to_an_old_database_is_noticed() {
    let mut pair = connected(4);
    let backup = pair.world.nodes[0].store.clone();
    send_and_meddle(&mut pair, 3, |_| {});
    assert_eq!(last_verdicts(&pair, 1), [Integrity::Ok; 3]);
    pair.world.nodes[0].store = backup;
    pair.world.crash(0);
    send_and_meddle(&mut pair, 1, |_| {});
    assert_eq!(
        pair.world.nodes[1].app.unreadable, 1,
        "its keys were used before"
    );
    assert_eq!(last_verdicts(&pair, 1).len(), 3);
}

#[test]
fn our_own_old_database_shows_in_what_the_peer_sends() {
    let mut pair = connected(5);
    let backup = pair.world.nodes[1].store.clone();
    send_and_meddle(&mut pair, 3, |_| {});
    pair.world.nodes[1].store = backup;
    pair.world.nodes[1].app.received.clear();
    pair.world.crash(1);
    send_and_meddle(&mut pair, 1, |_| {});
    let received = pair.world.nodes[1].app.received.values().flatten();
    let verdicts: Vec<_> = received.map(|(_, integrity, _)| *integrity).collect();
    // Which of the two depends on whether the peer's keys have moved on since.
    let skipped = matches!(verdicts[..], [Integrity::Skipped { .. }]);
    let unreadable = pair.world.nodes[1].app.unreadable == 1 && verdicts.is_empty();
    assert!(skipped || unreadable, "{verdicts:?}");
}

#[test]
fn receipts_arrive_for_what_the_application_has() {
    let pair = connected(6);
    for node in 0..2 {
        let delivered: usize = pair.world.nodes[node]
            .app
            .delivered
            .values()
            .map(Vec::len)
            .sum();
        assert_eq!(delivered, 3);
    }
}

#[test]
fn a_link_can_be_used_once() {
    let mut world = World::new(7, 3, 1, 128);
    let relay = relay_address(0);
    let command = Command::CreateInvitation {
        tag: tag("a"),
        relay: relay.clone(),
        info: vec![],
        about: None,
    };
    let call = world.call(0, command);
    world.settle();
    let Some(Ok(Reply::Invitation(_, link, _))) = world.nodes[0].answers.remove(&call) else {
        panic!()
    };
    for node in [1, 2] {
        let (link, relay) = ((*link).clone().into(), relay.clone());
        world.call(
            node,
            Command::Join {
                tag: tag("b"),
                link,
                relay,
                info: vec![],
            },
        );
        world.settle();
    }
    assert_eq!(world.nodes[1].app.connected.len(), 1);
    let failed: Vec<_> = world.nodes[2].app.failed.values().collect();
    assert_eq!(failed, [&ConnectionFault::LinkUsed]);
    // It says so after a restart as well, until the connection is deleted.
    world.nodes[2].app.failed.clear();
    world.crash(2);
    world.settle();
    let connection = *world.nodes[2].app.failed.keys().next().unwrap();
    world.call(2, Command::Delete { connection });
    world.settle();
    world.nodes[2].app.failed.clear();
    world.crash(2);
    world.settle();
    assert!(world.nodes[2].app.failed.is_empty());
}

#[test]
fn deleting_leaves_nothing_behind() {
    let mut pair = connected(8);
    let queues = |world: &World| {
        world
            .relays
            .iter()
            .map(|(_, relay)| relay.queue_count())
            .sum()
    };
    let before: usize = queues(&pair.world);
    for node in 0..2 {
        let connection = pair.connection(node).unwrap();
        pair.world.call(node, Command::Delete { connection });
        pair.world.settle();
        assert_eq!(pair.world.nodes[node].store.load().unwrap().len(), 0);
        assert!(
            pair.world.nodes[node].wires.is_empty(),
            "relays that nothing needs"
        );
    }
    let after: usize = queues(&pair.world);
    assert_eq!(before - after, 2);
}

#[test]
fn a_sender_finds_out_that_the_peer_is_gone() {
    let mut pair = connected(9);
    let connection = pair.connection(1).unwrap();
    pair.world.call(1, Command::Delete { connection });
    pair.world.settle();
    send_and_meddle(&mut pair, 1, |_| {});
    let failed: Vec<_> = pair.world.nodes[0].app.failed.values().collect();
    assert_eq!(failed, [&ConnectionFault::PeerGone]);
    let connection = pair.connection(0).unwrap();
    let call = pair.world.call(
        0,
        Command::Send {
            connection,
            body: vec![1],
        },
    );
    pair.world.settle();
    let answer = pair.world.nodes[0].answers.remove(&call);
    assert_eq!(
        answer,
        Some(Err(CallError::Connection(ConnectionFault::PeerGone)))
    );
}

#[test]
fn an_address_serves_many_and_closes() {
    let mut world = World::new(10, 4, 2, 128);
    let relay = relay_address(0);
    let call = world.call(
        0,
        Command::CreateAddress {
            tag: tag("door"),
            relay: relay.clone(),
            about: None,
        },
    );
    world.settle();
    let Some(Ok(Reply::Address(link, _))) = world.nodes[0].answers.remove(&call) else {
        panic!()
    };
    for node in 1..4 {
        let (link, relay) = (link.clone().into(), relay_address(1));
        let info = vec![node as u8];
        world.call(
            node,
            Command::Join {
                tag: tag("knock"),
                link,
                relay,
                info,
            },
        );
    }
    world.settle();
    let requests: Vec<_> = world.nodes[0].app.requests.clone().into_iter().collect();
    assert_eq!(requests.len(), 3);
    for (request, info) in requests {
        let relay = relay.clone();
        match info[..] {
            [3] => world.call(0, Command::Reject { request }),
            _ => world.call(
                0,
                Command::Accept {
                    request,
                    relay,
                    info: vec![9],
                },
            ),
        };
    }
    world.settle();
    let connected = |node: usize, world: &World| world.nodes[node].app.connected.len();
    assert_eq!(
        [0, 1, 2, 3].map(|node| connected(node, &world)),
        [2, 1, 1, 0]
    );
    world.call(0, Command::CloseAddress { tag: tag("door") });
    world.settle();
    let (link, relay) = (link.into(), relay_address(1));
    world.call(
        3,
        Command::Join {
            tag: tag("late"),
            link,
            relay,
            info: vec![],
        },
    );
    world.settle();
    assert!(
        world.nodes[3]
            .app
            .failed
            .values()
            .all(|fault| *fault == ConnectionFault::PeerGone)
    );
    assert_eq!(world.nodes[3].app.failed.len(), 1);
}

#[test]
fn whoever_asked_before_an_address_was_closed_is_heard() {
    let mut world = World::new(11, 4, 2, 128);
    let relay = relay_address(0);
    let call = world.call(
        0,
        Command::CreateAddress {
            tag: tag("door"),
            relay: relay.clone(),
            about: None,
        },
    );
    world.settle();
    let Some(Ok(Reply::Address(link, _))) = world.nodes[0].answers.remove(&call) else {
        panic!()
    };
    // They ask while the host is away.
    world.cut_all(0);
    for node in 1..4 {
        let command = Command::Join {
            tag: tag("knock"),
            link: link.clone().into(),
            relay: relay_address(1),
            info: vec![node as u8],
        };
        world.call(node, command);
        world.settle_only(node);
    }
    world.call(0, Command::CloseAddress { tag: tag("door") });
    world.settle();
    let requests = world.nodes[0].app.requests.clone();
    assert_eq!(requests.len(), 3);
    // The queue is gone, and what was asked stays until it is answered.
    let gone = Lines {
        addresses: [tag("door")].into(),
        ..Lines::default()
    };
    let machine = &world.nodes[0].machine;
    assert!(machine.is_settled(&mut machine.settling(gone)));
    world.nodes[0].app.requests.clear();
    world.crash(0);
    world.settle();
    assert_eq!(world.nodes[0].app.requests, requests);
    for request in requests.into_keys() {
        let command = Command::Accept {
            request,
            relay: relay.clone(),
            info: vec![],
        };
        world.call(0, command);
    }
    world.settle();
    for node in 1..4 {
        assert_eq!(world.nodes[node].app.connected.len(), 1, "{node}");
    }
}

#[test]
fn an_address_that_its_relay_has_lost_gets_a_new_queue() {
    let mut world = World::new(12, 2, 1, 128);
    let command = || Command::CreateAddress {
        tag: tag("door"),
        relay: relay_address(0),
        about: None,
    };
    let link_of = |world: &mut World| {
        let call = world.call(0, command());
        world.settle();
        match world.nodes[0].answers.remove(&call) {
            Some(Ok(Reply::Address(link, _))) => link,
            answer => panic!("{answer:?}"),
        }
    };
    let first = link_of(&mut world);
    world.relays[0].1.forget_everything();
    world.cut_all(0);
    world.settle();
    let second = link_of(&mut world);
    assert_ne!(first, second);
    let (link, relay) = (second.into(), relay_address(0));
    world.call(
        1,
        Command::Join {
            tag: tag("knock"),
            link,
            relay,
            info: vec![],
        },
    );
    world.settle();
    assert_eq!(world.nodes[0].app.requests.len(), 1);
}

#[test]
fn secrets_are_renewed_without_anybody_noticing() {
    for seed in [1, 4] {
        let mut pair = connected(seed);
        for round in 0..6 {
            pair.world.wait(HEAL_INTERVAL);
            for (sender, receiver) in [(0, 1), (1, 0)] {
                let connection = pair.connection(sender).unwrap();
                pair.world.call(
                    sender,
                    Command::Send {
                        connection,
                        body: vec![round],
                    },
                );
                pair.world.settle();
                let received = &pair.world.nodes[receiver].app.received;
                let last = received.values().flatten().next_back().unwrap();
                assert_eq!((last.1, &last.2[..]), (Integrity::Ok, &[round][..]));
            }
            if round == 3 {
                pair.world.crash(1);
            }
        }
    }
}

/// Node 0 makes a short link, the relay does something to its data, node 1 opens the link.
fn open_short(contact: bool, meddle: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(20, 2, 1, 128);
    let (tag_of_link, relay, about) = (tag("link"), relay_address(0), Some(b"about us".to_vec()));
    let command = if contact {
        Command::CreateAddress {
            tag: tag_of_link,
            relay,
            about,
        }
    } else {
        Command::CreateInvitation {
            tag: tag_of_link,
            relay,
            info: vec![],
            about,
        }
    };
    let call = world.call(0, command);
    world.settle();
    let link = match world.nodes[0].answers.remove(&call) {
        Some(Ok(Reply::Address(_, Some(link)) | Reply::Invitation(_, _, Some(link)))) => link,
        answer => panic!("{answer:?}"),
    };
    meddle(&mut world);
    let command = Command::Join {
        tag: tag("open"),
        link: (*link).into(),
        relay: relay_address(0),
        info: vec![1],
    };
    world.call(1, command);
    world.settle();
    world
}

fn fault_of(world: &World) -> Option<ConnectionFault> {
    world.nodes[1].app.failed.values().next().copied()
}

#[test]
fn short_links_lead_where_full_ones_do() {
    for contact in [false, true] {
        let world = open_short(contact, |_| {});
        let [maker, opener] = &world.nodes[..] else {
            panic!()
        };
        assert_eq!(opener.app.opened, [b"about us"]);
        assert_eq!(fault_of(&world), None);
        assert_eq!(maker.app.requests.len(), usize::from(contact));
        assert_eq!(opener.app.connected.len(), usize::from(!contact));
        assert_eq!(maker.app.connected.len(), usize::from(!contact));
    }
}

#[test]
fn a_relay_that_changes_or_replaces_what_is_behind_a_short_link_is_noticed() {
    for contact in [false, true] {
        for at in [0, 30, 1_000] {
            for part in 0..2 {
                let world = open_short(contact, |world| {
                    for (_, fixed, user) in world.relays[0].1.link_data() {
                        let part = if part == 0 { fixed } else { user };
                        let mut bytes = part.to_vec();
                        bytes[at] ^= 1;
                        *part = bytes.into();
                    }
                });
                assert_eq!(fault_of(&world), Some(ConnectionFault::LinkForged));
                assert!(world.nodes[0].app.requests.is_empty());
                assert!(world.nodes[0].app.connected.is_empty());
            }
        }
        // Another of its links.
        let world = open_short(contact, |world| {
            let command = Command::CreateAddress {
                tag: tag("other"),
                relay: relay_address(0),
                about: Some(b"about others".to_vec()),
            };
            world.call(1, command);
            world.settle();
            let relay = &mut world.relays[0].1;
            let mut all: Vec<_> = relay.link_data().collect();
            let [one, other] = &mut all[..] else { panic!() };
            std::mem::swap(&mut one.1, &mut other.1);
            std::mem::swap(&mut one.2, &mut other.2);
        });
        assert_eq!(fault_of(&world), Some(ConnectionFault::LinkForged));
    }
}

#[test]
fn a_short_link_of_a_relay_that_has_forgotten_it_leads_nowhere() {
    for contact in [false, true] {
        let mut world = open_short(contact, |world| world.relays[0].1.forget_everything());
        assert_eq!(fault_of(&world), Some(ConnectionFault::LinkGone));
        // Told again after a restart, until it is deleted.
        let connection = *world.nodes[1].app.failed.keys().next().unwrap();
        world.nodes[1].app.failed.clear();
        world.crash(1);
        world.settle();
        assert_eq!(fault_of(&world), Some(ConnectionFault::LinkGone));
        world.call(1, Command::Delete { connection });
        world.settle();
        world.nodes[1].app.failed.clear();
        world.crash(1);
        world.settle();
        assert_eq!(fault_of(&world), None);
        assert!(world.nodes[1].store.load().unwrap().is_empty());
    }
}

#[test]
fn a_short_invitation_can_be_opened_once() {
    let mut world = World::new(21, 3, 1, 128);
    let create = || Command::CreateInvitation {
        tag: tag("link"),
        relay: relay_address(0),
        info: vec![],
        about: Some(vec![]),
    };
    let call = world.call(0, create());
    world.settle();
    let Some(Ok(Reply::Invitation(_, _, Some(link)))) = world.nodes[0].answers.remove(&call) else {
        panic!()
    };
    for node in [1, 2] {
        let command = Command::Join {
            tag: tag("open"),
            link: (*link).clone().into(),
            relay: relay_address(0),
            info: vec![],
        };
        world.call(node, command);
        world.settle();
    }
    assert_eq!(world.nodes[1].app.connected.len(), 1);
    let failed: Vec<_> = world.nodes[2].app.failed.values().collect();
    assert_eq!(failed, [&ConnectionFault::LinkGone]);
    // Who asks for the same once more hears the same, although the keys behind it have gone with its use.
    world.crash(0);
    world.settle();
    let call = world.call(0, create());
    world.settle();
    match world.nodes[0].answers.remove(&call) {
        Some(Ok(Reply::Invitation(_, _, Some(again)))) => assert_eq!(again, link),
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn what_an_address_says_can_be_changed_and_survives_crashes() {
    for seed in seeds() {
        let mut world = World::new(100 + seed, 2, 1, 128);
        let create = || Command::CreateAddress {
            tag: tag("door"),
            relay: relay_address(0),
            about: Some(b"first".to_vec()),
        };
        let call = world.call(0, create());
        world.settle();
        let Some(Ok(Reply::Address(_, Some(link)))) = world.nodes[0].answers.remove(&call) else {
            panic!()
        };
        for about in [&b"second"[..], b"third"] {
            // Until it is durable; then whatever crashes, it reaches the relay.
            loop {
                let command = Command::Describe {
                    tag: tag("door"),
                    about: about.to_vec(),
                };
                let (call, crashes) = (world.call(0, command), world.nodes[0].crashes);
                while world.nodes[0].crashes == crashes
                    && !world.nodes[0].answers.contains_key(&call)
                {
                    world.act(Faults::ALL);
                }
                if world.nodes[0].answers.remove(&call) == Some(Ok(Reply::Done)) {
                    break;
                }
            }
            for _ in 0..world.pick(60) {
                world.act(Faults::ALL);
            }
        }
        world.settle();
        let again = world.call(0, create());
        world.settle();
        let reply = world.nodes[0].answers.remove(&again);
        assert!(matches!(reply, Some(Ok(Reply::Address(_, Some(same)))) if same == link));
        let command = Command::Join {
            tag: tag("open"),
            link: (*link).into(),
            relay: relay_address(0),
            info: vec![],
        };
        world.call(1, command);
        world.settle();
        assert_eq!(world.nodes[1].app.opened, [b"third"], "{seed}");
        assert_eq!(world.nodes[0].app.requests.len(), 1);
    }
}
