//! What a restart must not lose.

use junto_relay::bench::{Heard, Said};
use junto_smp::blocking::{Blocking, BlockingReason, ClientNotice};
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::id::LinkId;
use junto_smp::key::AuthSecret;
use junto_smp::link::LinkBlobs;

use crate::notifications::watch;
pub(crate) use crate::services::services_come_back;
use crate::site::{C, M, acked, heard, refused as refusal};
use crate::world::{Wishes, World, ask, create, refused, send, send_notifying, silent, x25519_key};

const LINK: LinkId = LinkId([7; 24]);

fn contact() -> Wishes<'static> {
    Wishes {
        contact: Some(LINK),
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    }
}

pub(crate) async fn queues_and_messages_come_back(mut world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(M, false, None).await.unwrap();
    let key = AuthSecret::generate(peer.rng());
    peer.secure(queue.sender(), &key).await.unwrap();
    for body in [b"one", b"two"] {
        ask(&mut peer, &queue.sender().0, Some(&key), send(body))
            .await
            .unwrap();
    }
    let off = peer.create(M, false, None).await.unwrap();
    peer.own(&off, Command::Off).await.unwrap();
    let gone = peer.create(M, false, None).await.unwrap();
    peer.own(&gone, Command::Delete).await.unwrap();
    for _ in 0..2 {
        world.restart().await;
        let mut peer = world.connect().await;
        peer.own(&queue, Command::Sub).await.unwrap();
        assert_eq!(heard(&mut peer, &queue).await.1.unwrap(), b"one");
        let code = refused(&mut peer, &queue.sender().0, None, send(b"m")).await;
        assert_eq!(code, ErrorCode::Auth);
        let code = refused(&mut peer, &off.sender().0, None, send(b"m")).await;
        assert_eq!(code, ErrorCode::Auth);
        let code = refused(
            &mut peer,
            &gone.recipient().0,
            Some(&gone.key),
            Command::Sub,
        )
        .await;
        assert_eq!(code, ErrorCode::Auth);
    }
    let mut peer = world.connect().await;
    peer.own(&queue, Command::Sub).await.unwrap();
    let (id, _) = heard(&mut peer, &queue).await;
    acked(&mut peer, &queue, id).await.unwrap();
    world.restart().await;
    let mut peer = world.connect().await;
    peer.own(&queue, Command::Sub).await.unwrap();
    assert_eq!(heard(&mut peer, &queue).await.1.unwrap(), b"two");
}

pub(crate) async fn links_come_back(mut world: World) {
    let mut peer = world.connect().await;
    let queue = create(&mut peer, contact()).await.unwrap();
    let changed = Command::SetLink {
        link: LINK,
        blobs: LinkBlobs::new(b"fixed", b"changed").unwrap(),
    };
    let wishes = Wishes {
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    };
    let one_time = create(&mut peer, wishes).await.unwrap();
    let link = one_time.ids.link.unwrap();
    let key = AuthSecret::generate(peer.rng());
    world.restart().await;
    let mut peer = world.connect().await;
    assert_eq!(peer.own(&queue, changed).await.unwrap(), Said::Ok);
    // Twice: once from the changes, once from what the first start made of them.
    for _ in 0..2 {
        world.restart().await;
        let mut peer = world.connect().await;
        let said = ask(&mut peer, &LINK.0, None, Command::ReadLink)
            .await
            .unwrap();
        let data = |user: &[u8]| Said::Link(queue.sender(), b"fixed".to_vec(), user.to_vec());
        assert_eq!(said, data(b"changed"));
        let secure = Command::LinkKey(key.public_key());
        let said = ask(&mut peer, &link.0, Some(&key), secure).await.unwrap();
        assert_eq!(
            said,
            Said::Link(one_time.sender(), b"fixed".to_vec(), b"user".to_vec())
        );
    }
    let mut peer = world.connect().await;
    ask(&mut peer, &one_time.sender().0, Some(&key), send(b"m"))
        .await
        .unwrap();
    peer.own(&queue, Command::DeleteLink).await.unwrap();
    world.restart().await;
    let mut peer = world.connect().await;
    let code = refused(&mut peer, &LINK.0, None, Command::ReadLink).await;
    assert_eq!(code, ErrorCode::Auth);
    let secure = Command::LinkKey(key.public_key());
    let code = refused(&mut peer, &link.0, Some(&key), secure).await;
    assert_eq!(code, ErrorCode::Auth);
}

pub(crate) async fn owners_come_back(mut world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(C, false, None).await.unwrap();
    let owners = [AuthSecret::generate(peer.rng()), x25519_key(&mut peer)];
    let keys = owners.iter().map(AuthSecret::public_key).collect();
    peer.own(&queue, Command::RecipientKeys(keys))
        .await
        .unwrap();
    for _ in 0..2 {
        world.restart().await;
        let mut peer = world.connect().await;
        let id = queue.recipient().0;
        for owner in &owners {
            ask(&mut peer, &id, Some(owner), Command::Sub)
                .await
                .unwrap();
        }
        let code = refused(&mut peer, &id, Some(&queue.key), Command::Sub).await;
        assert_eq!(code, ErrorCode::Auth);
    }
}

pub(crate) async fn notifiers_come_back_and_tell_what_waits(mut world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(M, false, None).await.unwrap();
    let old = watch(&mut peer, &queue).await;
    let watch = watch(&mut peer, &queue).await;
    ask(&mut peer, &queue.sender().0, None, send_notifying(b"m"))
        .await
        .unwrap();
    for _ in 0..2 {
        world.restart().await;
        let mut server = world.connect().await;
        watch.subscribe(&mut server).await;
        watch.told(&mut server).await;
        silent(&mut server).await;
        let code = refused(&mut server, &old.id.0, Some(&old.key), Command::NotifierSub).await;
        assert_eq!(code, ErrorCode::Auth);
    }
    let mut peer = world.connect().await;
    peer.own(&queue, Command::DeleteNotifier).await.unwrap();
    world.restart().await;
    let mut server = world.connect().await;
    let code = refused(
        &mut server,
        &watch.id.0,
        Some(&watch.key),
        Command::NotifierSub,
    )
    .await;
    assert_eq!(code, ErrorCode::Auth);
}

pub(crate) async fn blocked_queues_stay_blocked(mut world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(C, false, None).await.unwrap();
    let blocking = Blocking {
        reason: BlockingReason::Spam,
        notice: Some(ClientNotice { ttl_seconds: None }),
    };
    let id = queue.sender().0;
    world.block(&id, Some(blocking));
    // Also when the settings say no more of it.
    world.blocked.clear();
    for _ in 0..2 {
        world.restart().await;
        let mut peer = world.connect().await;
        let code = refused(&mut peer, &id, None, send(b"m")).await;
        assert_eq!(code, ErrorCode::Blocked(blocking));
    }
    world.block(&id, None);
    world.restart().await;
    let mut peer = world.connect().await;
    ask(&mut peer, &id, None, send(b"m")).await.unwrap();
}

pub(crate) async fn names_stay_taken_and_free_ones_free(mut world: World) {
    let mut peer = world.connect().await;
    let queue = create(&mut peer, contact()).await.unwrap();
    world.restart().await;
    let mut peer = world.connect().await;
    let second = create(&mut peer, contact()).await;
    assert_eq!(refusal(second), ErrorCode::Auth);
    peer.own(&queue, Command::Sub).await.unwrap();
    let mut other = world.connect().await;
    other.own(&queue, Command::Delete).await.unwrap();
    let told = peer.event().await.unwrap();
    assert_eq!(told, Heard::Deleted(queue.recipient()));
    world.restart().await;
    let mut peer = world.connect().await;
    create(&mut peer, contact()).await.unwrap();
    assert_eq!(world.relay().stats().queues, 1);
}
