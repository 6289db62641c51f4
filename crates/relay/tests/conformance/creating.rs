//! `NEW` and `DEL`.

use junto_relay::bench::{Heard, Said};
use junto_relay::config::Password;
use junto_smp::command::{Command, NewMode, QueueMode};
use junto_smp::error::ErrorCode;
use junto_smp::key::AuthSecret;

use crate::site::{C, M, heard, refused as refusal};
use crate::world::{World, ask, refused, send, silent, x25519_key};

pub(crate) async fn ids_are_random_and_the_mode_is_told(world: World) {
    let mut peer = world.connect().await;
    let mut ids = Vec::new();
    for (mode, told) in [
        (M, Some(QueueMode::Messaging)),
        (C, Some(QueueMode::Contact)),
        (NewMode::Unspecified, None),
    ] {
        let queue = peer.create(mode, false, None).await.unwrap();
        assert_eq!(queue.ids.mode, told);
        assert_eq!((queue.ids.link, queue.ids.service), (None, None));
        assert_eq!(queue.ids.notifier, None);
        ids.extend([queue.recipient().0, queue.sender().0]);
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

pub(crate) async fn subscribing_at_once_or_later(world: World) {
    let mut peer = world.connect().await;
    for subscribe in [true, false] {
        let queue = peer.create(M, subscribe, None).await.unwrap();
        let sent = ask(&mut peer, &queue.sender().0, None, send(b"m")).await;
        assert_eq!(sent.unwrap(), Said::Ok);
        if !subscribe {
            silent(&mut peer).await;
            let answer = peer.own(&queue, Command::Sub).await.unwrap();
            assert_eq!(answer, Said::Subscribed);
        }
        assert_eq!(heard(&mut peer, &queue).await.1.unwrap(), b"m");
    }
}

pub(crate) async fn a_password_is_demanded_and_compared(world: World) {
    let world = world
        .with(|config| config.password = Password::new("open sesame"))
        .await;
    let mut peer = world.connect().await;
    for wrong in [
        None,
        Some(&b"open sesam"[..]),
        Some(b""),
        Some(b"open sesame "),
    ] {
        let created = peer.create(M, false, wrong).await;
        assert_eq!(refusal(created), ErrorCode::Auth);
    }
    assert_eq!(world.relay().stats().queues, 0);
    let right = Some(&b"open sesame"[..]);
    let queue = peer.create(M, false, right).await.unwrap();
    // Nothing else needs it.
    let sent = ask(&mut peer, &queue.sender().0, None, send(b"m")).await;
    assert_eq!(sent.unwrap(), Said::Ok);
}

pub(crate) async fn every_kind_of_key_may_own_a_queue(world: World) {
    let mut peer = world.connect().await;
    for key in [AuthSecret::generate(peer.rng()), x25519_key(&mut peer)] {
        let queue = peer.create_with(key, M, true, None).await.unwrap();
        for command in [Command::Sub, Command::Off, Command::Delete] {
            assert!(peer.own(&queue, command).await.is_ok());
        }
    }
}

pub(crate) async fn deleting_ends_everything(world: World) {
    let (mut owner, mut other) = (world.connect().await, world.connect().await);
    let queue = owner.create(M, true, None).await.unwrap();
    ask(&mut other, &queue.sender().0, None, send(b"m"))
        .await
        .unwrap();
    heard(&mut owner, &queue).await;
    assert_eq!(other.own(&queue, Command::Delete).await.unwrap(), Said::Ok);
    let told = owner.event().await.unwrap();
    assert_eq!(told, Heard::Deleted(queue.recipient()));
    for command in [Command::Sub, Command::Ack(None), Command::Delete] {
        let code = refused(&mut owner, &queue.recipient().0, Some(&queue.key), command).await;
        assert_eq!(code, ErrorCode::Auth);
    }
    let code = refused(&mut other, &queue.sender().0, None, send(b"m")).await;
    assert_eq!(code, ErrorCode::Auth);
    assert_eq!(world.relay().stats().queues, 0);
    // Whoever deletes by the connection that is subscribed hears only OK.
    let queue = owner.create(M, true, None).await.unwrap();
    owner.own(&queue, Command::Delete).await.unwrap();
    silent(&mut owner).await;
}
