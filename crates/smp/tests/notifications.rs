//! How long a notification is worth sending.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use junto_crypto::x25519;
use junto_smp::{
    command::{Command, NewMode},
    id::Entity,
    message::MessageFlags,
    notification::NotificationKey,
    queue::NOTIFICATION_SECONDS,
};
use support::{Got, key, newest, one_queue};

/// What a notification server hears that subscribes `later` seconds after the only message came.
fn told_after(later: u64) -> usize {
    let (mut relay, mut owner, queue) = one_queue(NewMode::Contact(None), false);
    let mut server = relay.connect(&newest(&relay)).unwrap();
    let secret = x25519::SecretKey::from_bytes(&[3; 32]);
    let ids = owner.set_notifier(&mut relay, &queue, &key(2), &secret);
    let shared = secret.diffie_hellman(&ids.server_dh_key).unwrap();
    let opening = NotificationKey::new(&shared);
    let sent_at = relay.now;
    let flags = MessageFlags { notify: true };
    let send = Command::Send { flags, body: b"m" };
    let got = owner.ask_one(&mut relay, queue.sender(), None, send);
    assert_eq!(got, Got::Ok);
    relay.now.0 += later;
    for _ in 0..2 {
        let subscribe = Command::NotifierSub;
        let id = Entity::Queue(&ids.id.0);
        let got = server.ask_one(&mut relay, id, Some(&key(2)), subscribe);
        assert_eq!(got, Got::Subscribed);
    }
    let events = server.take_events(&mut relay);
    for (name, event) in &events {
        let Got::Notification(nonce, sealed) = event else {
            panic!("no NMSG but {event:?}");
        };
        assert_eq!(name.unwrap().0, ids.id.0);
        assert_eq!(opening.open(nonce, sealed).unwrap().time, sent_at);
    }
    events.len()
}

#[test]
fn a_notification_is_worth_a_day() {
    assert_eq!(told_after(0), 1);
    assert_eq!(told_after(NOTIFICATION_SECONDS), 1);
    assert_eq!(told_after(NOTIFICATION_SECONDS + 1), 0);
}
