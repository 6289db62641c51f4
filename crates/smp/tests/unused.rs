//! When a queue counts as unused, and what counts as a use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use junto_crypto::x25519;
use junto_smp::{
    command::{Command, NewMode},
    id::Entity,
    message::{MessageFlags, Timestamp},
    queue::{Change, Day, Limits},
};
use support::{Got, Relay, key, newest, one_queue};

const DAY: u64 = 24 * 60 * 60;
const LIMITS: Limits = Limits {
    messages: 8,
    retention_seconds: 1_000 * DAY,
    unused_days: Some(30),
};

/// Whether the only queue is unused `days` after now.
fn is_unused(relay: &Relay, days: u64) -> bool {
    let now = Timestamp(relay.now.0 + days * DAY);
    relay
        .queues
        .values()
        .next()
        .unwrap()
        .is_unused(now, &LIMITS)
}

#[test]
fn a_queue_is_unused_after_the_last_day_that_is_allowed() {
    let (relay, _owner, _) = one_queue(NewMode::Contact(None), false);
    let queue = relay.queues.values().next().unwrap();
    assert_eq!(queue.used(), Some(Day::of(relay.now)));
    assert!(!is_unused(&relay, 30));
    assert!(is_unused(&relay, 31));
    let never = Limits {
        unused_days: None,
        ..LIMITS
    };
    let late = Timestamp(u64::MAX);
    assert!(!queue.is_unused(late, &never));
    assert!(queue.is_unused(late, &LIMITS));
}

#[test]
fn who_listens_or_has_secured_it_keeps_it() {
    let (mut relay, owner, queue) = one_queue(NewMode::Messaging(None), true);
    assert!(!is_unused(&relay, 100));
    relay.disconnect(owner.number);
    assert!(is_unused(&relay, 100));
    // One who takes messages one by one listens as well.
    let mut owner = relay.connect(&newest(&relay)).unwrap();
    let got = owner.own(&mut relay, &queue, Command::Get);
    assert_eq!(got, Got::Ok);
    assert!(!is_unused(&relay, 100));
    relay.disconnect(owner.number);
    assert!(is_unused(&relay, 100));
    // A message waits for its reader.
    let mut sender = relay.connect(&newest(&relay)).unwrap();
    let flags = MessageFlags { notify: false };
    let send = Command::Send { flags, body: b"m" };
    sender.ask_one(&mut relay, queue.sender(), None, send);
    assert!(!is_unused(&relay, 100));
    relay
        .queues
        .values_mut()
        .next()
        .unwrap()
        .expire(Timestamp(u64::MAX), &LIMITS);
    assert!(is_unused(&relay, 100));
    let secure = Command::SenderKey(key(2).public_key());
    let got = sender.ask_one(&mut relay, queue.sender(), Some(&key(2)), secure);
    assert_eq!(got, Got::Ok);
    assert!(!is_unused(&relay, 100));
}

#[test]
fn a_notification_server_keeps_it_while_it_is_there() {
    let (mut relay, mut owner, queue) = one_queue(NewMode::Contact(None), false);
    let mut server = relay.connect(&newest(&relay)).unwrap();
    let secret = x25519::SecretKey::from_bytes(&[3; 32]);
    let ids = owner.set_notifier(&mut relay, &queue, &key(2), &secret);
    assert!(is_unused(&relay, 31));
    let id = Entity::Queue(&ids.id.0);
    server.ask_one(&mut relay, id, Some(&key(2)), Command::NotifierSub);
    assert!(!is_unused(&relay, 31));
    relay.disconnect(server.number);
    assert!(is_unused(&relay, 31));
}

#[test]
fn the_first_use_of_a_day_is_a_change_until_the_queue_is_secured() {
    let (mut relay, _owner, _) = one_queue(NewMode::Contact(None), false);
    let now = relay.now;
    let queue = relay.queues.values_mut().next().unwrap();
    assert_eq!(queue.touch(now), None);
    let tomorrow = Timestamp(now.0 + DAY);
    assert_eq!(queue.touch(tomorrow), Some(Change::Used));
    assert_eq!(queue.touch(tomorrow), None);
    // A clock that goes back changes nothing.
    assert_eq!(queue.touch(now), None);
    assert_eq!(queue.used(), Some(Day::of(tomorrow)));
    queue.restore_sender_key(key(2).public_key());
    assert_eq!(queue.touch(Timestamp(now.0 + 9 * DAY)), None);
    assert_eq!(queue.used(), None);
}
