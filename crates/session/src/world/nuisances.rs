//! Parties that keep to the letter of the rules and are a nuisance: what they do must not fill a disk,
//! end what they have no part in, or put the blame on somebody honest.

use bytes::Bytes;

use super::{Lie, World};
use crate::{
    InstanceId, Kind, Members, Mode, PartyIndex, Purpose, Round,
    carrier::{ConnectionId, Event, Tag},
    proto::{
        execution::Unread,
        limits::{
            CHANNELS_BEGUN_MAX, EARLY_CLAIM_BYTES, HELD_BYTES, ROUNDS_AHEAD, UNOPENED_MAX,
            WINDOW_BYTES,
        },
        record::Record,
        step::{Effect, Key, Store},
    },
};

/// A formed world in which no application does anything, and its parties by index.
pub(super) fn formed(parties: usize) -> (World, Vec<usize>) {
    let mut world = World::new(parties, 11);
    world.idle = (0..parties).collect();
    world.invite();
    world.run();
    let order = world.by_rank();
    (world, order)
}

pub(super) fn party(index: usize) -> PartyIndex {
    PartyIndex::new(index).unwrap()
}

pub(super) fn open(world: &mut World, place: usize, label: &str, members: &[usize]) -> InstanceId {
    open_as(world, place, label, members, Mode::Rounds)
}

pub(super) fn open_as(
    world: &mut World,
    place: usize,
    label: &str,
    members: &[usize],
    mode: Mode,
) -> InstanceId {
    let party = &mut world.parties[place];
    let purpose = Purpose {
        label: label.to_owned(),
        members: members
            .iter()
            .copied()
            .filter_map(PartyIndex::new)
            .collect(),
        mode,
    };
    let local = party.local.unwrap();
    let (id, step) = party.node.open_execution(&local, purpose, &mut party.rng);
    world.settle(place, step);
    id.unwrap()
}

pub(super) fn send(
    world: &mut World,
    place: usize,
    id: &InstanceId,
    round: u32,
    to: usize,
    text: &str,
) {
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
    letter_of(world, place, id, 0, from)
}

fn letter_of(
    world: &mut World,
    place: usize,
    id: &InstanceId,
    round: u32,
    from: usize,
) -> Option<Bytes> {
    let receiver = &mut world.parties[place];
    let local = receiver.local.unwrap();
    let from = Members::NONE.with(party(from));
    let (gathered, step) =
        receiver
            .node
            .gather(&local, id, Round(round), Kind::P2p, from, &mut receiver.rng);
    world.settle(place, step);
    gathered.unwrap()?.into_values().next()
}

pub(super) fn inbox_rows(world: &mut World, place: usize) -> usize {
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

/// Says something in a channel to the first party.
fn say(world: &mut World, place: usize, label: &str, payload: Bytes) {
    let sender = &mut world.parties[place];
    let local = sender.local.unwrap();
    let channel = sender.node.channel(&local, label).unwrap();
    let (said, step) =
        sender
            .node
            .channel_send(&local, &channel, party(0), payload, &mut sender.rng);
    world.settle(place, step);
    said.unwrap();
    world.run();
}

/// What waits first in a channel; the application has dealt with it.
fn hear(world: &mut World, place: usize, label: &str) -> Option<(PartyIndex, Bytes)> {
    let hearer = &mut world.parties[place];
    let local = hearer.local.unwrap();
    let channel = hearer.node.channel(&local, label).unwrap();
    let (next, mut step) = hearer.node.channel_next(&local, &channel, &mut hearer.rng);
    let message = next.unwrap();
    if let Some(message) = &message {
        step.absorb(
            hearer
                .node
                .channel_done(&local, &message.receipt, &mut hearer.rng),
        );
    }
    world.settle(place, step);
    message.map(|message| (message.from, message.payload))
}

/// Signers of a key announce themselves to holders who never listen, in one epoch after the other.
#[test]
fn channels_that_nobody_reads_hold_up_who_fills_them_and_convict_nobody() {
    let (mut world, order) = formed(3);
    let hello = Bytes::from_static(b"hello");
    let channels = CHANNELS_BEGUN_MAX + 5;
    for n in 0..channels {
        say(&mut world, order[1], &n.to_string(), hello.clone());
    }
    say(&mut world, order[2], "another", hello.clone());
    let heard = hear(&mut world, order[0], "another").unwrap();
    assert_eq!(heard, (party(2), hello.clone()));
    assert!(inbox_rows(&mut world, order[0]) < channels, "it is read on");
    for n in 0..channels {
        let heard = hear(&mut world, order[0], &n.to_string());
        world.run();
        assert_eq!(heard, Some((party(1), hello.clone())), "{n}");
    }
}

#[test]
fn who_is_not_read_and_starts_again_and_again_loses_nothing_and_is_not_named() {
    let (mut world, order) = formed(2);
    for n in 0..CHANNELS_BEGUN_MAX {
        say(&mut world, order[1], &n.to_string(), Bytes::new());
    }
    let long = Bytes::from(vec![7; WINDOW_BYTES * 3 / 4]);
    say(&mut world, order[1], "long", long.clone());
    // Each process of the sender's says again what has not been acknowledged.
    for _ in 0..2 * HELD_BYTES / long.len() {
        world.reboot(order[1]);
        world.run();
    }
    say(&mut world, order[1], "long", Bytes::from_static(b"end"));
    assert_eq!(hear(&mut world, order[0], "long"), None);
    for n in 0..CHANNELS_BEGUN_MAX {
        hear(&mut world, order[0], &n.to_string()).unwrap();
    }
    world.run();
    assert_eq!(hear(&mut world, order[0], "long").unwrap().1, long);
    assert_eq!(hear(&mut world, order[0], "long").unwrap().1, "end");
}

#[test]
fn whoever_goes_on_without_us_is_far_ahead_and_breaks_no_rule() {
    let (mut world, order) = formed(3);
    let id = open(&mut world, order[0], "work", &[0, 1, 2]);
    open(&mut world, order[1], "work", &[0, 1, 2]);
    open(&mut world, order[2], "work", &[0, 1, 2]);
    // Two go from round to round by themselves; what is meant for the third waits for it.
    let rounds = 3 * ROUNDS_AHEAD;
    for round in 0..rounds {
        for (from, to) in [(1, 2), (2, 1), (1, 0)] {
            send(&mut world, order[from], &id, round, to, "step");
        }
        world.run();
        for (at, from) in [(1, 2), (2, 1)] {
            letter_of(&mut world, order[at], &id, round, from).unwrap();
        }
    }
    for round in 0..rounds {
        assert_eq!(
            letter_of(&mut world, order[0], &id, round, 1).unwrap(),
            "step"
        );
    }
}

/// A world of three in message mode, in which the second party alters what it says.
fn talking(lie: Lie) -> (World, Vec<usize>, InstanceId) {
    let (mut world, order) = formed(3);
    world.parties[order[1]].lie = Some(lie);
    let open = |place| open_as(&mut world, place, "work", &[0, 1, 2], Mode::Messages);
    let ids: Vec<_> = order.iter().copied().map(open).collect();
    (world, order, ids[0])
}

fn broadcast(world: &mut World, place: usize, id: &InstanceId, round: u32) {
    let sender = &mut world.parties[place];
    let local = sender.local.unwrap();
    let (said, step) = sender.node.broadcast(
        &local,
        id,
        Round(round),
        &Bytes::from_static(b"news"),
        &mut sender.rng,
    );
    world.settle(place, step);
    said.unwrap();
    world.run();
}

/// What `from` has said at `place` that nobody has asked for yet.
fn unread(world: &World, place: usize, id: &InstanceId, from: usize) -> Unread {
    let owner = &world.parties[place];
    let machine = owner.node.machine_of(&owner.local.unwrap());
    machine.executions[id].unread(party(from))
}

#[test]
fn claims_about_what_never_came_are_bounded_like_what_nobody_reads() {
    // The first party hears of the second's broadcasts from the third alone.
    let (mut world, order, id) = talking(Box::new(|_, to, record| match record {
        Record::Broadcast { .. } if to == Some(party(0)) => Record::Ready,
        record => record,
    }));
    for round in 0..20 {
        broadcast(&mut world, order[1], &id, round);
    }
    let claims = unread(&world, order[0], &id, 2);
    assert_eq!(
        (claims.messages, claims.bytes),
        (20, 20 * EARLY_CLAIM_BYTES)
    );
    // It is the same after a restart.
    world.reboot(order[0]);
    open_as(&mut world, order[0], "work", &[0, 1, 2], Mode::Messages);
    assert_eq!(unread(&world, order[0], &id, 2), claims);
}

#[test]
fn claims_count_no_more_once_the_broadcast_is_here() {
    // The second party tells the first each time what it should have told the last time.
    let mut late = None;
    let (mut world, order, id) = talking(Box::new(move |_, to, record| match record {
        Record::Broadcast { .. } if to == Some(party(0)) => {
            late.replace(record).unwrap_or(Record::Ready)
        }
        record => record,
    }));
    for round in 0..20 {
        broadcast(&mut world, order[1], &id, round);
        assert_eq!(unread(&world, order[0], &id, 2).messages, 1, "{round}");
    }
    assert_eq!(unread(&world, order[0], &id, 1).messages, 19);
}

#[test]
fn what_others_claim_of_us_counts_until_we_have_said_it_again() {
    let (mut world, order, id) = talking(Box::new(|_, _, record| record));
    for round in 0..20 {
        broadcast(&mut world, order[0], &id, round);
    }
    assert_eq!(unread(&world, order[0], &id, 1), Unread::default());
    world.reboot(order[0]);
    open_as(&mut world, order[0], "work", &[0, 1, 2], Mode::Messages);
    assert_eq!(unread(&world, order[0], &id, 1).messages, 20);
    for round in 0..20 {
        broadcast(&mut world, order[0], &id, round);
    }
    assert_eq!(unread(&world, order[0], &id, 1), Unread::default());
}

#[test]
fn a_connection_that_a_dead_process_left_over_is_ended() {
    let (mut world, order) = formed(2);
    let owner = &mut world.parties[order[0]];
    let local = owner.local.unwrap();
    let mut gone = [0; 32];
    gone[..16].copy_from_slice(&local.0);
    (gone[16], gone[17]) = (1, 40);
    // Of a request that was refused, of a place that is empty, of a session that is no more.
    for tag in [[9; 32], gone, {
        gone[0] ^= 1;
        gone
    }] {
        let connection = ConnectionId([9; 32]);
        let event = Event::Connected {
            connection,
            tag: Tag(tag),
            info: vec![],
            binding: [0; 32],
        };
        let step = owner.node.event(event, &mut owner.rng);
        assert!(
            matches!(step.effects[..], [Effect::Delete { connection: ended }] if ended == connection),
            "{tag:?}"
        );
    }
}

#[test]
fn who_was_turned_away_is_forgotten_and_does_not_speak_for_the_next() {
    let mut world = World::new(4, 12);
    world.idle = vec![0, 1, 2, 3];
    world.invite_some(1);
    world.run();
    let local = world.parties[0].local.unwrap();
    let old = connection(&world);
    for _ in 0..3 {
        let host = &mut world.parties[0];
        assert_eq!(host.node.memory(), (1, 0));
        let (done, step) = host.node.turn_away(&local, 0, &mut host.rng);
        done.unwrap();
        world.settle(0, step);
        assert_eq!(world.parties[0].node.memory(), (0, 0));
        // The place, and its number, are given to somebody else.
        world.join(2);
        world.run();
        assert_ne!(connection(&world), old);
        // What the first one says finds nobody, and is not kept for anybody.
        let late = Event::Message {
            connection: old,
            id: crate::carrier::MessageId(7),
            body: Bytes::from_static(b"nonsense"),
        };
        let host = &mut world.parties[0];
        let step = host.node.event(late, &mut host.rng);
        world.settle(0, step);
        assert_eq!(world.parties[0].node.memory(), (1, 0));
        assert_eq!(world.summary(0).joiners.len(), 1);
    }
}

#[test]
fn who_vanishes_once_the_roster_stands_can_be_dropped_and_all_hear_of_it() {
    let mut world = World::new(4, 13);
    world.idle = vec![0, 1, 2, 3];
    world.invite();
    // The last one comes and is never seen again.
    let mut turns = 0;
    while world.summary(0).stage != crate::Stage::Binding {
        for place in [1, 2, 3, 0] {
            world.turn(place);
        }
        turns += 1;
        assert!(turns < 100, "no roster");
    }
    world.hub.absent("party 3");
    for _ in 0..20 {
        for place in 0..3 {
            world.turn(place);
        }
    }
    assert_eq!(world.summary(0).stage, crate::Stage::Binding);
    let joiners = world.summary(0).joiners;
    let absent: Vec<_> = joiners.iter().filter(|joiner| !joiner.connected).collect();
    assert_eq!(absent.len(), 1, "{joiners:?}");
    let host = &mut world.parties[0];
    let local = host.local.unwrap();
    let (done, step) = host.node.turn_away(&local, absent[0].number, &mut host.rng);
    done.unwrap();
    world.settle(0, step);
    for _ in 0..20 {
        for place in 0..3 {
            world.turn(place);
        }
    }
    let roster = world.summary(0).roster.unwrap();
    let key = world.parties[3]
        .node
        .machine_of(&world.parties[3].local.unwrap())
        .keys
        .signing
        .verifying_key();
    let gone = roster.index_of(&key).unwrap();
    for place in 0..3 {
        assert_eq!(world.summary(place).stage, crate::Stage::Failed, "{place}");
        let error = world.parties[place]
            .node
            .is_formed(&world.parties[place].local.unwrap());
        assert!(error.unwrap_err().blamed().contains(gone), "{place}");
    }
}

/// Of the host with its first joiner.
fn connection(world: &World) -> ConnectionId {
    let host = &world.parties[0];
    host.node.machine_of(&host.local.unwrap()).peers[&0]
        .connection
        .unwrap()
}
