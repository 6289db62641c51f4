use junto_crypto::x25519;
use junto_smp::id::SenderId;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;
use crate::proto::address::QueueUri;
use crate::proto::connection::{AHEAD_MAX, Keys, OUTBOX_MAX, STRIPES_AHEAD_MAX};
use crate::proto::effects::Timer;
use crate::proto::link::InvitationLink;
use crate::proto::queue::Held;
use crate::proto::{ConnectionId, Tag, layer, version};

pub(in crate::proto) fn relay(number: u8) -> ServerAddress {
    let host = format!("relay{number}.example").parse().unwrap();
    let pin = junto_smp::address::Fingerprint([number; 32]);
    ServerAddress::new(pin, vec![host], 5223).unwrap()
}

pub(in crate::proto) fn created(queue: &mut ReceiveQueue, rng: &mut impl CryptoRng) {
    let key = x25519::SecretKey::generate(rng).public_key();
    let (recipient, sender) = (RecipientId::random(rng), SenderId::random(rng));
    queue.set_created(recipient, sender, key).unwrap();
}

/// A connection in use that may send.
pub(in crate::proto) fn active() -> (Connection, Effects, ChaCha20Rng) {
    let mut rng = ChaCha20Rng::from_seed([4; 32]);
    let mut effects = Effects::default();
    let (id, tag) = (ConnectionId::new([1; 16]), Tag::new([2; 32]));
    let queue = |effects: &mut Effects, rng: &mut ChaCha20Rng| {
        let mut queue = ReceiveQueue::new(relay(0), QueueMode::Messaging, effects, rng);
        created(&mut queue, rng);
        queue
    };
    let maker = queue(&mut effects, &mut rng);
    let maker = Connection::invite(id, tag, vec![], maker, &mut rng);
    let Keys::Offered(keys) = &maker.keys else {
        panic!()
    };
    let offer = keys.offer(junto_ratchet::VersionRange::OURS);
    let link = InvitationLink::new(maker.receive.address().unwrap(), offer);
    let receive = queue(&mut effects, &mut rng);
    let parts = (&mut effects, &mut rng);
    let mut joiner = Connection::join(id, tag, &link, vec![], receive, parts).unwrap();
    joiner.stage = Stage::Active;
    (joiner, effects, rng)
}

pub(in crate::proto) fn offer(
    connection: &Connection,
    number: u8,
    rng: &mut impl CryptoRng,
) -> QueueUri {
    let current = &connection.send.as_ref().unwrap().address;
    QueueUri {
        versions: version::QUEUE_RANGE,
        address: QueueAddress {
            relay: relay(number),
            sender_id: SenderId::random(rng),
            ..current.clone()
        },
    }
}

/// A queue of the peer, offered and used.
pub(in crate::proto) fn used(
    connection: &mut Connection,
    number: u8,
    (effects, rng): (&mut Effects, &mut ChaCha20Rng),
) -> QueueAddress {
    let uri = offer(connection, number, rng);
    connection.parallel.understood = true;
    connection.take_queue(&[(uri.clone(), None)], effects, rng);
    let name = QueueName::of(&uri.address);
    connection.use_queue(&[(name, false)], effects, rng);
    uri.address
}

#[test]
fn a_peer_that_adds_queues_for_ever_gets_as_many_as_there_may_be() {
    let (mut connection, mut effects, mut rng) = active();
    connection.parallel.understood = true;
    let mut longest = 0;
    for number in 1..200_u8 {
        effects.now = effects.now.after(core::time::Duration::from_secs(600));
        // Half of them are never used.
        let uri = offer(&connection, number, &mut rng);
        connection.take_queue(&[(uri, None)], &mut effects, &mut rng);
        used(&mut connection, number, (&mut effects, &mut rng));
        // No relay takes the answers.
        assert!(connection.untaken() <= OUTBOX_MAX + QUEUES_MAX);
        assert!(connection.sends().count() <= QUEUES_MAX);
        assert!(connection.parallel.offered.len() < QUEUES_MAX);
        let mut row = Vec::new();
        connection.parallel.put(&mut row).unwrap();
        longest = longest.max(row.len());
    }
    assert!(longest < 2_000, "{longest}");
    // They are said when there is room again.
    let is_due =
        |connection: &Connection| connection.parallel.offered.iter().any(|it| !it.answered);
    assert!(connection.untaken() >= OUTBOX_MAX && is_due(&connection));
    let owner = connection.owner();
    for number in connection
        .outbox
        .keys()
        .copied()
        .take(QUEUES_MAX)
        .collect::<Vec<_>>()
    {
        connection.sent(owner, number, &Answer::Done, &mut effects, &mut rng);
    }
    assert!(!is_due(&connection));
}

#[test]
fn a_peer_that_names_wrong_queues_changes_nothing() {
    let (mut connection, mut effects, mut rng) = active();
    let good = offer(&connection, 1, &mut rng);
    let mut contact = good.clone();
    contact.address.mode = Some(QueueMode::Contact);
    let mut newer = good.clone();
    newer.versions = crate::proto::VersionRange::new(5, 9).unwrap();
    let same = QueueUri {
        address: connection.send.as_ref().unwrap().address.clone(),
        ..good.clone()
    };
    // As long as it has not named those that it has, a good one is none.
    connection.take_queue(&[(good.clone(), None)], &mut effects, &mut rng);
    assert!(connection.parallel.offered.is_empty());
    connection.parallel.understood = true;
    for lie in [contact, newer, same] {
        connection.take_queue(&[(lie, None)], &mut effects, &mut rng);
        assert!(connection.parallel.offered.is_empty());
    }
    connection.parallel.understood = false;
    // One that was not offered, and lists that name none of those that there are.
    let name = QueueName::of(&good.address);
    connection.use_queue(&[(name.clone(), true)], &mut effects, &mut rng);
    connection.take_list(std::slice::from_ref(&name), &mut effects, &mut rng);
    assert!(!connection.parallel.understood);
    assert_eq!(connection.sends().count(), 1);
    used(&mut connection, 2, (&mut effects, &mut rng));
    connection.take_list(&[name], &mut effects, &mut rng);
    assert_eq!(connection.sends().count(), 2);
    // A list with the second one only: it is the first one now, and the last.
    let second = connection.sends().last().unwrap().address.clone();
    let name = QueueName::of(&second);
    connection.take_list(&[name], &mut effects, &mut rng);
    let left: Vec<_> = connection.sends().map(|it| it.address.clone()).collect();
    assert_eq!(left, [second]);
    assert_eq!(connection.stage, Stage::Active);
}

#[test]
fn copies_for_two_queues_have_nothing_in_common() {
    let (mut connection, mut effects, mut rng) = active();
    for number in [1, 2] {
        used(&mut connection, number, (&mut effects, &mut rng));
    }
    let envelope = [7; 15_000];
    let copies: Vec<_> = connection
        .sends()
        .map(|it| layer::seal_copy(&it.layer_key, &it.address.sender_id, &envelope).unwrap())
        .collect();
    // Beyond version and tag, 8 bytes anywhere.
    let windows = |copy: &Vec<u8>| {
        let all = copy[3..].windows(8).map(<[u8]>::to_vec);
        all.collect::<std::collections::BTreeSet<_>>()
    };
    for (at, copy) in copies.iter().enumerate() {
        assert_eq!(copy.len(), copies[0].len());
        for other in &copies[at + 1..] {
            assert!(windows(copy).is_disjoint(&windows(other)));
        }
    }
    // The same one again is the same, and can be opened.
    let send = connection.sends().last().unwrap();
    let name = &send.address.sender_id;
    let again = layer::seal_copy(&send.layer_key, name, &envelope).unwrap();
    assert_eq!(again, copies[2]);
    let opened = layer::SealedBody::read(&again).unwrap();
    let opened = opened.open(&send.layer_key).unwrap();
    assert_eq!(opened.envelope(), envelope);
}

#[test]
fn stripes_run_ahead_of_a_row_that_no_relay_has_by_so_much_only() {
    let (mut connection, mut effects, mut rng) = striped();
    for _ in 0..200 {
        let body = Body::Message(b"one of many");
        connection.enqueue(&body, &mut effects, &mut rng).unwrap();
    }
    let missing = *connection.outbox.keys().next().unwrap();
    let (slot, _) = connection.parallel.theirs[0];
    let owner = Owner::Parallel(connection.id, slot);
    // The first relay takes its time; the second one takes all that it gets.
    let mut last = 0;
    loop {
        connection.pump(&mut effects);
        let sent = connection.parallel.theirs[0].1.in_flight.clone();
        let Some(&newest) = sent.last() else { break };
        last = last.max(newest);
        for number in sent {
            connection.sent(owner, number, &Answer::Done, &mut effects, &mut rng);
        }
    }
    let ahead = last - missing;
    assert!(
        (STRIPES_AHEAD_MAX - 1..=STRIPES_AHEAD_MAX).contains(&ahead),
        "{ahead}"
    );
}

/// A connection that sends stripes to two queues, whose relays are up.
fn striped() -> (Connection, Effects, ChaCha20Rng) {
    let (mut connection, mut effects, mut rng) = active();
    used(&mut connection, 1, (&mut effects, &mut rng));
    connection.parallel.spread = Spread::Stripes;
    connection.send.as_mut().unwrap().secured = true;
    let relays: Vec<_> = connection.sends().map(|send| send.relay).collect();
    for relay in relays {
        effects.relay_up(relay);
    }
    (connection, effects, rng)
}

#[test]
fn new_keys_leave_when_all_stripes_before_them_have_arrived() {
    let (mut connection, mut effects, mut rng) = striped();
    for _ in 0..6 {
        let body = Body::Message(b"in the old keys");
        connection.enqueue(&body, &mut effects, &mut rng).unwrap();
    }
    connection.resynchronise(&mut effects, &mut rng).unwrap();
    let keys = *connection.outbox.keys().last().unwrap();
    let other = Owner::Parallel(connection.id, connection.parallel.theirs[0].0);
    let owners = [connection.owner(), other];
    let in_flight = |connection: &mut Connection, owner| {
        let send = connection.send_queue(owner).unwrap();
        send.in_flight.clone()
    };
    // One relay takes its part at once, the other one takes its time.
    connection.pump(&mut effects);
    for owner in owners {
        for number in in_flight(&mut connection, owner) {
            for owner in owners {
                assert!(
                    !in_flight(&mut connection, owner).contains(&keys),
                    "they pass {number}"
                );
            }
            connection.sent(owner, number, &Answer::Done, &mut effects, &mut rng);
            connection.pump(&mut effects);
        }
    }
    for owner in owners {
        assert!(in_flight(&mut connection, owner).contains(&keys));
    }
}

#[test]
fn what_a_relay_refuses_does_not_go_there_again_at_once() {
    let (mut connection, mut effects, mut rng) = striped();
    connection.parallel.spread = Spread::Copies;
    let owner = Owner::Parallel(connection.id, connection.parallel.theirs[0].0);
    for owner in [owner, connection.owner()] {
        connection.pump(&mut effects);
        let send = connection.send_queue(owner).unwrap();
        let number = *send.in_flight.first().unwrap();
        for number in send.in_flight.clone() {
            let refused = Answer::Refused(super::super::relay::Refusal::Other);
            connection.sent(owner, number, &refused, &mut effects, &mut rng);
        }
        connection.pump(&mut effects);
        let send = connection.send_queue(owner).unwrap();
        assert!(send.in_flight.is_empty(), "it waits");
        connection.unblock(&mut effects);
        connection.pump(&mut effects);
        let send = connection.send_queue(owner).unwrap();
        assert_eq!(send.in_flight.iter().collect::<Vec<_>>(), [&number]);
    }
}

#[test]
fn a_connection_that_fails_with_rows_kept_for_a_relay_counts_on() {
    let (mut connection, mut effects, mut rng) = striped();
    connection.parallel.spread = Spread::Copies;
    connection.pump(&mut effects);
    let owner = connection.owner();
    for number in connection.send.as_ref().unwrap().in_flight.clone() {
        connection.sent(owner, number, &Answer::Done, &mut effects, &mut rng);
    }
    assert!(!connection.kept.is_empty());
    connection.fail(ConnectionFault::PeerGone, &mut effects);
    assert_eq!(connection.untaken(), 0);
    assert!(connection.kept.is_empty());
    assert!(connection.sends().all(|send| send.taken.is_empty()));
}

/// The relay of the peer's first queue has it no more.
fn refuse(connection: &mut Connection, effects: &mut Effects, rng: &mut ChaCha20Rng) {
    let number = *connection.outbox.keys().next().unwrap();
    connection.send.as_mut().unwrap().secured = true;
    let refused = Answer::Refused(super::super::relay::Refusal::Auth);
    let owner = connection.owner();
    connection.sent(owner, number, &refused, effects, rng);
}

#[test]
fn a_peer_that_is_yet_to_open_a_queue_is_not_gone() {
    for is_beside in [true, false] {
        let (mut connection, mut effects, mut rng) = active();
        connection.parallel.understood = true;
        let first = connection.send.as_ref().unwrap().address.clone();
        let replaced = (!is_beside).then(|| QueueName::of(&first));
        let uri = offer(&connection, 1, &mut rng);
        let name = QueueName::of(&uri.address);
        connection.take_queue(&[(uri, replaced)], &mut effects, &mut rng);
        for _ in 0..3 {
            refuse(&mut connection, &mut effects, &mut rng);
            assert_eq!(connection.stage, Stage::Active);
            let send = connection.send.as_ref().unwrap();
            assert!(send.blocked, "it goes there again after a pause");
            connection.unblock(&mut effects);
        }
        // The list that says so may come before as well.
        let other = QueueName::of(&offer(&connection, 2, &mut rng).address);
        connection.take_list(&[other, name.clone()], &mut effects, &mut rng);
        assert_eq!(connection.stage, Stage::Active);
        assert!(connection.parallel.theirs.is_empty() && !connection.rotation.is_leaving());
        let rows = connection.outbox.len();
        connection.use_queue(&[(name.clone(), true)], &mut effects, &mut rng);
        connection.leave_for_offered(&mut effects, &mut rng);
        if is_beside {
            refuse(&mut connection, &mut effects, &mut rng);
        }
        let left: Vec<_> = connection.sends().map(|it| it.address.clone()).collect();
        assert!(left.len() == 1 && name.names(&left[0]), "{is_beside}");
        assert!(connection.outbox.len() >= rows, "what waited goes there");
        // With no other one it is the end.
        refuse(&mut connection, &mut effects, &mut rng);
        assert_eq!(connection.stage, Stage::Hearing);
    }
}

#[test]
fn a_peer_that_opens_no_queue_is_gone_in_the_end() {
    let (mut connection, mut effects, mut rng) = active();
    connection.parallel.understood = true;
    let uri = offer(&connection, 1, &mut rng);
    connection.take_queue(&[(uri, None)], &mut effects, &mut rng);
    let began = effects.now;
    let mut count = 0;
    while connection.stage == Stage::Active {
        refuse(&mut connection, &mut effects, &mut rng);
        let relay = connection.send.as_ref().unwrap().relay;
        // That its relay comes and goes meanwhile is no sign of anything.
        for _ in 0..20 {
            if connection.stage == Stage::Active {
                connection.send.as_mut().unwrap().disconnected();
                connection.parallel.disconnected(relay);
                effects.now = effects.now.after(core::time::Duration::from_secs(1));
                refuse(&mut connection, &mut effects, &mut rng);
                assert!(connection.send.as_ref().unwrap().blocked);
            }
        }
        while connection.stage == Stage::Active && connection.send.as_ref().unwrap().blocked {
            effects.now = effects.next_timeout().unwrap().0;
            while let Some(timer) = effects.take_due() {
                if timer == Timer::Quota(connection.id) {
                    connection.unblock(&mut effects);
                }
            }
        }
        count += 1;
        assert!(count < 20);
    }
    assert_eq!(connection.stage, Stage::Hearing);
    let days = (effects.now.as_millis() - began.as_millis()) / (24 * 60 * 60 * 1_000);
    assert!((22..60).contains(&days), "{days}");
}

#[test]
fn an_offer_that_cannot_be_used_keeps_no_connection_from_going_on_or_ending() {
    for others in [0, 1] {
        let (mut connection, mut effects, mut rng) = active();
        if others > 0 {
            used(&mut connection, 2, (&mut effects, &mut rng));
        }
        connection.parallel.understood = true;
        let first = QueueName::of(&connection.send.as_ref().unwrap().address);
        let mut uri = offer(&connection, 1, &mut rng);
        // All secrets come to the same with this one.
        uri.address.recipient_key = x25519::PublicKey::from_bytes(&[0; 32]);
        let name = QueueName::of(&uri.address);
        connection.take_queue(&[(uri, Some(first))], &mut effects, &mut rng);
        connection.use_queue(&[(name, true)], &mut effects, &mut rng);
        assert!(connection.rotation.is_leaving());
        refuse(&mut connection, &mut effects, &mut rng);
        if others > 0 {
            assert_eq!(connection.stage, Stage::Active);
            let now = connection.send.as_ref().unwrap().address.relay.clone();
            assert_eq!(now.fingerprint(), relay(2).fingerprint());
        } else {
            assert_eq!(connection.stage, Stage::Hearing);
        }
    }
}

#[test]
fn nothing_is_received_any_more_on_a_relay_that_is_left() {
    for step in [Step::Making, Step::Added, Step::Allowed, Step::Used] {
        for is_there in [true, false] {
            let (mut connection, mut effects, mut rng) = active();
            connection.parallel.understood = true;
            let added = connection.add_queue(relay(1), &mut effects, &mut rng);
            added.unwrap();
            let (_, ours) = connection.parallel.ours.last_mut().unwrap();
            created(&mut ours.queue, &mut rng);
            ours.step = Step::Live;
            let next = if is_there { relay(0) } else { relay(2) };
            connection.rotate(next, &mut effects, &mut rng).unwrap();
            let next = connection.rotation.next.as_mut().unwrap();
            created(&mut next.queue, &mut rng);
            let is_made = !matches!(step, Step::Making);
            next.step = match step {
                Step::Making => Step::Making,
                Step::Added => Step::Added,
                Step::Allowed => Step::Allowed,
                _ => Step::Used,
            };
            let removed = connection.remove_queue(&relay(0), &mut effects, &mut rng);
            removed.unwrap();
            let queues = connection.receives();
            let left = queues.filter(|(place, queue)| {
                let is_retired = matches!(place, Place::Retired(_));
                !is_retired && queue.relay_address().fingerprint() == relay(0).fingerprint()
            });
            assert_eq!(left.count(), 0, "{is_made} {is_there}");
            // On another relay it stands beside the others.
            let open = 1 + usize::from(!is_there);
            assert_eq!(1 + connection.parallel.ours.len(), open);
            let retired = connection.rotation.queues().count();
            assert_eq!(retired, 1 + usize::from(is_there), "they are deleted");
        }
    }
}

#[test]
fn what_the_peer_names_no_more_is_forgotten() {
    let (mut connection, mut effects, mut rng) = active();
    connection.parallel.understood = true;
    let first = QueueName::of(&connection.send.as_ref().unwrap().address);
    let next = offer(&connection, 1, &mut rng);
    let beside = offer(&connection, 2, &mut rng);
    let names = [&next, &beside].map(|uri| QueueName::of(&uri.address));
    connection.take_queue(&[(next, Some(first.clone()))], &mut effects, &mut rng);
    connection.take_queue(&[(beside, None)], &mut effects, &mut rng);
    let [next, beside] = names.clone();
    let all = [first.clone(), next.clone(), beside.clone()];
    connection.take_list(&all, &mut effects, &mut rng);
    assert!(connection.rotation.offered().is_some());
    assert!(connection.parallel.is_offered(&beside));
    // It was told to go there, and is told in time that there is none.
    connection.use_queue(&[(next, true)], &mut effects, &mut rng);
    assert!(connection.rotation.is_leaving());
    connection.take_list(std::slice::from_ref(&first), &mut effects, &mut rng);
    connection.switch(&mut effects, &mut rng);
    assert!(first.names(&connection.send.as_ref().unwrap().address));
    assert!(connection.rotation.offered().is_none());
    assert!(!connection.parallel.is_offered(&beside));
}

#[test]
fn a_queue_that_finds_no_room_comes_into_use_when_there_is_some() {
    let (mut connection, mut effects, mut rng) = active();
    for number in 1..4 {
        used(&mut connection, number, (&mut effects, &mut rng));
    }
    let relays: Vec<_> = connection.sends().map(|send| send.relay).collect();
    for relay in relays {
        effects.relay_up(relay);
    }
    let mut names: Vec<_> = connection
        .sends()
        .map(|it| QueueName::of(&it.address))
        .collect();
    let uri = offer(&connection, 4, &mut rng);
    let fifth = QueueName::of(&uri.address);
    effects.now = effects.now.after(core::time::Duration::from_secs(600));
    connection.take_queue(&[(uri, None)], &mut effects, &mut rng);
    let word = [(fifth.clone(), false)];
    connection.use_queue(&word, &mut effects, &mut rng);
    assert_eq!(connection.sends().count(), QUEUES_MAX);
    names[1] = fifth.clone();
    connection.take_list(&names, &mut effects, &mut rng);
    connection.use_queue(&word, &mut effects, &mut rng);
    let is_used = connection.sends().any(|it| fifth.names(&it.address));
    assert!(is_used && connection.sends().count() == QUEUES_MAX);
}

#[test]
fn no_queue_gives_place_to_one_that_the_peer_does_not_use_without_need() {
    let (mut connection, mut effects, mut rng) = active();
    let first = connection.receive.address();
    for (number, step) in [(1, Step::Used), (2, Step::Allowed)] {
        let added = connection.add_queue(relay(number), &mut effects, &mut rng);
        added.unwrap();
        let (_, ours) = connection.parallel.ours.last_mut().unwrap();
        created(&mut ours.queue, &mut rng);
        ours.step = step;
    }
    effects.schedule.every = Some(core::time::Duration::from_secs(3_600));
    effects.schedule.epoch = core::time::Duration::from_secs(1_000_000);
    connection.count_use(&mut effects);
    effects.now = effects.now.after(core::time::Duration::from_secs(7_200));
    connection.rotation_due(&mut effects, &mut rng);
    assert!(connection.rotation.next.is_some());
    assert_eq!(connection.receive.address(), first);
    // One that it does use is better, even if it came later.
    connection.parallel.ours[1].1.step = Step::Live;
    assert!(connection.put_another_first(false, &mut effects));
    let now = connection.receive.relay_address().clone();
    assert_eq!(now.fingerprint(), relay(2).fingerprint());
}

#[test]
fn a_relay_that_waits_for_a_queue_that_is_lost_goes_on() {
    let (mut connection, mut effects, mut rng) = active();
    let added = connection.add_queue(relay(1), &mut effects, &mut rng);
    added.unwrap();
    let (slot, ours) = &mut connection.parallel.ours[0];
    created(&mut ours.queue, &mut rng);
    ours.step = Step::Live;
    let slot = *slot;
    // Far ahead of what the other one is to bring.
    connection.receive.last = connection.received.expected_id() + AHEAD_MAX;
    connection.receive.held = Some(Held {
        message: junto_smp::id::MessageId::random(&mut rng),
        until: effects.now,
    });
    connection.acknowledge_held(&mut effects);
    assert!(connection.receive.held.is_some());
    connection.parallel_lost(slot, &mut effects, &mut rng);
    assert!(connection.receive.held.is_none());
}

fn rows() -> Vec<Vec<u8>> {
    let (mut connection, mut effects, mut rng) = active();
    let mut rows = Vec::new();
    for number in 1..4 {
        let mut row = Vec::new();
        connection.parallel.put(&mut row).unwrap();
        rows.push(row);
        connection
            .add_queue(relay(number), &mut effects, &mut rng)
            .unwrap();
        used(&mut connection, number, (&mut effects, &mut rng));
        let uri = offer(&connection, 9, &mut rng);
        connection.take_queue(&[(uri, None)], &mut effects, &mut rng);
        let (_, ours) = connection.parallel.ours.last_mut().unwrap();
        created(&mut ours.queue, &mut rng);
        ours.step = vec![Step::Live, Step::Used, Step::Added].remove(usize::from(number) - 1);
        connection.parallel.spread = Spread::Stripes;
    }
    rows
}

#[test]
fn rows_return() {
    let (connection, mut effects, _) = active();
    for row in rows() {
        let mut reader = Reader::new(&row);
        let back = Parallel::read(&mut reader, &connection.receive, &mut effects).unwrap();
        reader.end().unwrap();
        let mut again = Vec::new();
        back.put(&mut again).unwrap();
        assert_eq!(row, again);
        for len in 0..row.len() {
            let mut reader = Reader::new(&row[..len]);
            assert!(Parallel::read(&mut reader, &connection.receive, &mut effects).is_err());
        }
    }
}

/// A row as version 1 wrote it: two queues of ours, one of the peer, two that it offers.
const ROW_1: &str = include_str!("../../../tests/formats/queues-1.hex");

/// What version 2 wrote behind it before it knew of a first queue that the peer may not have heard of.
const AGAIN_2: &str = "03010000000067748580000000000000002a";

fn check_row(row: &[u8]) -> Parallel {
    let (connection, mut effects, _) = active();
    let mut reader = Reader::new(row);
    let back = Parallel::read(&mut reader, &connection.receive, &mut effects).unwrap();
    reader.end().unwrap();
    assert!(back.understood && back.said);
    assert_eq!((back.spread, back.last_slot), (Spread::Stripes, 3));
    let hosts = |address: &ServerAddress| address.fingerprint();
    let ours: Vec<_> = back
        .ours
        .iter()
        .map(|(slot, ours)| (slot.0, hosts(ours.queue.relay_address())))
        .collect();
    let expected = [(1, relay(1).fingerprint()), (3, relay(2).fingerprint())];
    assert_eq!(ours, expected);
    assert!(matches!(back.ours[0].1.step, Step::Live));
    assert!(matches!(back.ours[1].1.step, Step::Used));
    assert!(
        back.ours
            .iter()
            .all(|(_, ours)| ours.queue.created.is_some())
    );
    let [(Slot(2), theirs)] = &back.theirs[..] else {
        panic!()
    };
    assert!(theirs.secured && hosts(&theirs.address.relay) == relay(1).fingerprint());
    let offered: Vec<_> = back
        .offered
        .iter()
        .map(|it| (it.answered, it.usable))
        .collect();
    assert_eq!(offered, [(true, false), (false, false)]);
    back
}

#[test]
fn rows_of_former_versions_are_read() {
    let row = hex::decode(ROW_1.split_whitespace().collect::<String>()).unwrap();
    assert_eq!(row[0], 1);
    let back = check_row(&row);
    assert_eq!(back.again, Again::default());
    let again = hex::decode(AGAIN_2).unwrap();
    let newer = [&[2], &row[1..], &again].concat();
    let back = check_row(&newer);
    assert!(back.again.left_out() && back.again.first == Heard::Yes);
    // It is written as it was.
    let mut row = Vec::new();
    back.put(&mut row).unwrap();
    assert_eq!(row, newer);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_damaged_row_never_panics(at in any::<prop::sample::Index>(), byte: u8) {
        let (connection, mut effects, _) = active();
        let mut row = rows().pop().unwrap();
        let at = at.index(row.len());
        row[at] = byte;
        let _ = Parallel::read(&mut Reader::new(&row), &connection.receive, &mut effects);
    }
}
