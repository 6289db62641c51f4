//! `KEY`, `SKEY`, `LKEY` and `RKEY`.

use junto_relay::bench::Said;
use junto_smp::command::{Command, NewMode};
use junto_smp::error::ErrorCode;
use junto_smp::key::AuthSecret;
use junto_smp::queue::RECIPIENT_KEYS_MAX;

use crate::site::{C, M};
use crate::world::{Wishes, World, ask, create, refused, send, x25519_key};

pub(crate) async fn by_the_recipient(world: World) {
    let mut peer = world.connect().await;
    for mode in [M, C, NewMode::Unspecified] {
        let queue = peer.create(mode, false, None).await.unwrap();
        let key = AuthSecret::generate(peer.rng());
        let sender = queue.sender().0;
        ask(&mut peer, &sender, None, send(b"open")).await.unwrap();
        let set = peer.own(&queue, Command::Key(key.public_key())).await;
        assert_eq!(set.unwrap(), Said::Ok);
        let code = refused(&mut peer, &sender, None, send(b"m")).await;
        assert_eq!(code, ErrorCode::Auth);
        ask(&mut peer, &sender, Some(&key), send(b"m"))
            .await
            .unwrap();
    }
}

pub(crate) async fn by_the_sender_in_mode_m_only(world: World) {
    let mut peer = world.connect().await;
    for (mode, may) in [(M, true), (C, false), (NewMode::Unspecified, false)] {
        let queue = peer.create(mode, false, None).await.unwrap();
        let key = x25519_key(&mut peer);
        let secure = Command::SenderKey(key.public_key());
        let answer = ask(&mut peer, &queue.sender().0, Some(&key), secure).await;
        assert_eq!(answer.is_ok(), may);
        let open = ask(&mut peer, &queue.sender().0, None, send(b"m")).await;
        assert_eq!(open.is_ok(), !may);
    }
    // The command must be signed by the very key it brings.
    let queue = peer.create(M, false, None).await.unwrap();
    let (key, other) = (
        AuthSecret::generate(peer.rng()),
        AuthSecret::generate(peer.rng()),
    );
    let secure = Command::SenderKey(key.public_key());
    let code = refused(&mut peer, &queue.sender().0, Some(&other), secure).await;
    assert_eq!(code, ErrorCode::Auth);
}

pub(crate) async fn through_a_link_in_mode_m_only(world: World) {
    let (mut owner, mut sender) = (world.connect().await, world.connect().await);
    let wishes = Wishes {
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    };
    let queue = create(&mut owner, wishes).await.unwrap();
    let link = queue.ids.link.unwrap();
    let key = AuthSecret::generate(sender.rng());
    let secure = || Command::LinkKey(key.public_key());
    // One-time data is not for reading without securing.
    let code = refused(&mut sender, &link.0, None, Command::ReadLink).await;
    assert_eq!(code, ErrorCode::Auth);
    for _ in 0..2 {
        let answer = ask(&mut sender, &link.0, Some(&key), secure())
            .await
            .unwrap();
        let data = Said::Link(queue.sender(), b"fixed".to_vec(), b"user".to_vec());
        assert_eq!(answer, data);
    }
    let other = AuthSecret::generate(sender.rng());
    let late = Command::LinkKey(other.public_key());
    let code = refused(&mut sender, &link.0, Some(&other), late).await;
    assert_eq!(code, ErrorCode::Auth);
    ask(&mut sender, &queue.sender().0, Some(&key), send(b"m"))
        .await
        .unwrap();

    let wishes = Wishes {
        contact: Some(junto_smp::id::LinkId([7; 24])),
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    };
    create(&mut owner, wishes).await.unwrap();
    let code = refused(&mut sender, &[7; 24], Some(&key), secure()).await;
    assert_eq!(code, ErrorCode::Auth);
}

pub(crate) async fn a_key_is_set_once(world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(M, false, None).await.unwrap();
    let (key, other) = (
        AuthSecret::generate(peer.rng()),
        AuthSecret::generate(peer.rng()),
    );
    // As often as answers are lost, and by whichever way.
    for _ in 0..2 {
        let by_sender = Command::SenderKey(key.public_key());
        ask(&mut peer, &queue.sender().0, Some(&key), by_sender)
            .await
            .unwrap();
        peer.own(&queue, Command::Key(key.public_key()))
            .await
            .unwrap();
    }
    let second = Command::Key(other.public_key());
    let code = refused(&mut peer, &queue.recipient().0, Some(&queue.key), second).await;
    assert_eq!(code, ErrorCode::Auth);
    let second = Command::SenderKey(other.public_key());
    let code = refused(&mut peer, &queue.sender().0, Some(&other), second).await;
    assert_eq!(code, ErrorCode::Auth);
}

pub(crate) async fn owners_replace_each_other(world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(C, false, None).await.unwrap();
    let id = queue.recipient().0;
    let second = AuthSecret::generate(peer.rng());
    let third = x25519_key(&mut peer);
    let both = Command::RecipientKeys(vec![second.public_key(), third.public_key()]);
    assert_eq!(peer.own(&queue, both).await.unwrap(), Said::Ok);
    for owner in [&second, &third] {
        ask(&mut peer, &id, Some(owner), Command::Sub)
            .await
            .unwrap();
    }
    // The creator was not on the list.
    let code = refused(&mut peer, &id, Some(&queue.key), Command::Sub).await;
    assert_eq!(code, ErrorCode::Auth);
    let one = Command::RecipientKeys(vec![third.public_key()]);
    ask(&mut peer, &id, Some(&second), one).await.unwrap();
    let code = refused(&mut peer, &id, Some(&second), Command::Sub).await;
    assert_eq!(code, ErrorCode::Auth);
    ask(&mut peer, &id, Some(&third), Command::Delete)
        .await
        .unwrap();
}

pub(crate) async fn owners_are_for_contact_queues_and_bounded(world: World) {
    let mut peer = world.connect().await;
    let key = AuthSecret::generate(peer.rng()).public_key();
    for mode in [M, NewMode::Unspecified] {
        let queue = peer.create(mode, false, None).await.unwrap();
        let keys = Command::RecipientKeys(vec![key.clone()]);
        let code = refused(&mut peer, &queue.recipient().0, Some(&queue.key), keys).await;
        assert_eq!(code, ErrorCode::Auth);
    }
    let queue = peer.create(C, false, None).await.unwrap();
    let too_many = Command::RecipientKeys(vec![key.clone(); RECIPIENT_KEYS_MAX + 1]);
    let code = refused(&mut peer, &queue.recipient().0, Some(&queue.key), too_many).await;
    assert_eq!(code, ErrorCode::PROHIBITED);
    let most = Command::RecipientKeys(vec![key; RECIPIENT_KEYS_MAX]);
    assert_eq!(peer.own(&queue, most).await.unwrap(), Said::Ok);
}
