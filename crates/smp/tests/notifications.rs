//! How long a notification is worth sending.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use junto_crypto::{ed25519, x25519};
use junto_smp::{
    command::{Command, NewMode},
    id::Entity,
    key::AuthSecret,
    message::MessageFlags,
    notification::NotificationKey,
    queue::NOTIFICATION_SECONDS,
    version::VersionRange,
};
use support::{Got, Relay, create, newest};

fn key(seed: u8) -> AuthSecret {
    AuthSecret::Ed25519(ed25519::SigningKey::from_seed(&[seed; 32]))
}

/// What a notification server hears that subscribes `later` seconds after the only message came.
fn told_after(later: u64) -> usize {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let options = newest(&relay);
    let mut owner = relay.connect(&options).unwrap();
    let mut server = relay.connect(&options).unwrap();
    let queue = create(
        &mut owner,
        &mut relay,
        key(1),
        NewMode::Contact(None),
        false,
    );
    let secret = x25519::SecretKey::from_bytes(&[3; 32]);
    let set = Command::SetNotifier {
        auth_key: key(2).public_key(),
        dh_key: secret.public_key(),
    };
    let got = owner.ask_one(&mut relay, queue.recipient(), Some(&queue.key), set);
    let Got::NotifierIds(ids) = got else {
        panic!("no NID but {got:?}");
    };
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
