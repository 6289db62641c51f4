//! Parties that keep to the letter of the rules and are a nuisance: what they do must not fill a disk,
//! end what they have no part in, or put the blame on somebody honest.

use bytes::Bytes;

use super::World;
use crate::{
    Fault, InstanceId, Kind, Members, Mode, PartyIndex, Purpose, Reason, Round,
    proto::{
        limits::{EXECUTIONS_OPEN_MAX, UNOPENED_MAX},
        record::Record,
        statement,
        step::{Key, Store},
    },
};

/// A formed world in which no application does anything, and its parties by index.
fn formed(parties: usize) -> (World, Vec<usize>) {
    let mut world = World::new(parties, 11);
    world.idle = (0..parties).collect();
    world.invite();
    world.run();
    let order = world.by_rank();
    (world, order)
}

fn party(index: usize) -> PartyIndex {
    PartyIndex::new(index).unwrap()
}

fn open(world: &mut World, place: usize, label: &str, members: &[usize]) -> InstanceId {
    let party = &mut world.parties[place];
    let purpose = Purpose {
        label: label.to_owned(),
        members: members
            .iter()
            .copied()
            .filter_map(PartyIndex::new)
            .collect(),
        mode: Mode::Rounds,
    };
    let local = party.local.unwrap();
    let (id, step) = party.node.open_execution(&local, purpose, &mut party.rng);
    world.settle(place, step);
    id.unwrap()
}

fn send(world: &mut World, place: usize, id: &InstanceId, round: u32, to: usize, text: &str) {
    let sender = &mut world.parties[place];
    let local = sender.local.unwrap();
    let payload = Bytes::copy_from_slice(text.as_bytes());
    let (said, step) = sender.node.send(
        &local,
        id,
        Round(round),
        party(to),
        &payload,
        &mut sender.rng,
    );
    world.settle(place, step);
    said.unwrap();
}

fn letter(world: &mut World, place: usize, id: &InstanceId, from: usize) -> Option<Bytes> {
    let receiver = &mut world.parties[place];
    let local = receiver.local.unwrap();
    let from = Members::NONE.with(party(from));
    let (gathered, step) =
        receiver
            .node
            .gather(&local, id, Round(0), Kind::P2p, from, &mut receiver.rng);
    world.settle(place, step);
    gathered.unwrap()?.into_values().next()
}

fn inbox_rows(world: &mut World, place: usize) -> usize {
    let Ok(rows) = world.parties[place].store.load();
    rows.iter()
        .filter(|(key, _)| matches!(Key::decode(key), Some(Key::In(..))))
        .count()
}

#[test]
fn saying_the_same_again_fills_no_disk() {
    let (mut world, order) = formed(2);
    world.parties[order[1]].lie = Some(Box::new(|_, _, record| match record {
        Record::P2p {
            mut header,
            payload,
        } => {
            header.round = Round(0);
            Record::P2p { header, payload }
        }
        record => record,
    }));
    open(&mut world, order[0], "work", &[0, 1]);
    let id = open(&mut world, order[1], "work", &[0, 1]);
    for round in 0..50 {
        send(&mut world, order[1], &id, round, 0, "again");
    }
    world.run();
    assert_eq!(inbox_rows(&mut world, order[0]), 1);
    assert_eq!(letter(&mut world, order[0], &id, 1).unwrap(), "again");
}

#[test]
fn a_party_may_do_without_us_what_it_likes() {
    let (mut world, order) = formed(2);
    let labels: Vec<_> = (0..UNOPENED_MAX + 5).map(|n| n.to_string()).collect();
    for label in &labels {
        let id = open(&mut world, order[1], label, &[0, 1]);
        send(&mut world, order[1], &id, 0, 0, label);
        let sender = &mut world.parties[order[1]];
        let local = sender.local.unwrap();
        let (done, step) = sender.node.finish(&local, &id, &mut sender.rng);
        world.settle(order[1], step);
        done.unwrap();
        world.run();
    }
    assert_eq!(inbox_rows(&mut world, order[0]), UNOPENED_MAX);
    // The newest are all there, the oldest is forgotten, and the other party is still one of us.
    for label in &labels[5..10] {
        let id = open(&mut world, order[0], label, &[0, 1]);
        assert_eq!(letter(&mut world, order[0], &id, 1).unwrap(), label);
    }
    let id = open(&mut world, order[0], &labels[4], &[0, 1]);
    assert_eq!(letter(&mut world, order[0], &id, 1), None);
}

#[test]
fn whoever_fills_the_channels_is_named_and_not_who_comes_next() {
    let (mut world, order) = formed(3);
    let say = |world: &mut World, from: usize, label: &str| {
        let place = order[from];
        let sender = &mut world.parties[place];
        let local = sender.local.unwrap();
        let channel = sender.node.channel(&local, label).unwrap();
        let (said, step) = sender.node.channel_send(
            &local,
            &channel,
            party(0),
            Bytes::from_static(b"hello"),
            &mut sender.rng,
        );
        world.settle(place, step);
        said.unwrap();
        world.run();
        channel
    };
    for n in 0..EXECUTIONS_OPEN_MAX {
        say(&mut world, 1, &n.to_string());
    }
    let channel = say(&mut world, 2, "honest");
    let receiver = &mut world.parties[order[0]];
    let local = receiver.local.unwrap();
    let (next, _) = receiver
        .node
        .channel_next(&local, &channel, &mut receiver.rng);
    assert_eq!(next.unwrap().unwrap().from, party(2));
}

#[test]
fn nobody_is_silent_in_a_round_that_nobody_has_come_to() {
    let (mut world, order) = formed(3);
    // The liar says at once that the third party has been silent for too long.
    world.parties[order[1]].lie = Some(Box::new(|machine, _, record| match record {
        Record::P2p { mut header, .. } => {
            let reason = Reason::Silent {
                round: Round(7),
                accused: Members::NONE.with(party(2)),
            };
            header.round = Round::CONFIRM;
            let session = machine.agreed.as_ref().unwrap().id;
            let statement =
                statement::abort(&session, &header.instance, header.from, &reason.encode());
            Record::Abort {
                header,
                signature: machine.keys.signing.sign(&statement),
                reason,
            }
        }
        record => record,
    }));
    let id = open(&mut world, order[0], "work", &[0, 1, 2]);
    open(&mut world, order[1], "work", &[0, 1, 2]);
    assert_eq!(letter(&mut world, order[0], &id, 2), None);
    send(&mut world, order[1], &id, 0, 0, "lie");
    world.run();
    let victim = &mut world.parties[order[0]];
    let error = victim.node.seed(&victim.local.unwrap(), &id).err().unwrap();
    let crate::SessionError::Peer(blame) = &error else {
        panic!("{error}");
    };
    assert_eq!(blame.culprit, crate::Culprit::Party(party(1)));
    assert!(matches!(blame.fault, Fault::GaveUp(_)), "{blame:?}");
}
