//! Queues that the operator has blocked.

use junto_relay::bench::{Heard, OwnQueue, Peer, Said};
use junto_smp::blocking::{Blocking, BlockingReason, ClientNotice};
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::id::LinkId;
use junto_smp::key::AuthSecret;
use junto_smp::link::LinkBlobs;
use junto_smp::service::{ServiceQueues, ServiceRole};

use crate::services;
use crate::site::{C, M, acked, heard, in_time, refused as refusal};
use crate::world::{Wishes, World, ask, create, refused, send, silent};

const NOTICE: Blocking = Blocking {
    reason: BlockingReason::Content,
    notice: Some(ClientNotice {
        ttl_seconds: Some(86_400),
    }),
};

pub(crate) async fn senders_and_owners_are_told_with_the_reason(mut world: World) {
    let mut peer = world.connect().await;
    let wishes = Wishes {
        contact: Some(LinkId([6; 24])),
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    };
    let queue = create(&mut peer, wishes).await.unwrap();
    let spam = Some(BlockingReason::Spam.into());
    // By whatever name the operator was told of it.
    for id in [queue.recipient().0, queue.sender().0, [6; 24]] {
        world.block(&id, None);
        ask(&mut peer, &queue.sender().0, None, send(b"m"))
            .await
            .unwrap();
        world.block(&id, spam);
        let code = refused(&mut peer, &queue.sender().0, None, send(b"m")).await;
        assert_eq!(code, ErrorCode::Blocked(BlockingReason::Spam.into()));
    }
    // A list that names no queue of this relay changes nothing for the others.
    let other = peer.create(C, false, None).await.unwrap();
    ask(&mut peer, &other.sender().0, None, send(b"m"))
        .await
        .unwrap();
    let blocked = ErrorCode::Blocked(BlockingReason::Spam.into());
    let code = refused(&mut peer, &[6; 24], None, Command::ReadLink).await;
    assert_eq!(code, blocked);
    let (id, key) = (queue.recipient().0, Some(&queue.key));
    for command in [
        Command::Sub,
        Command::Get,
        Command::Info,
        Command::DeleteLink,
    ] {
        assert_eq!(refused(&mut peer, &id, key, command).await, blocked);
    }
    // Whoever has no key does not learn that.
    let wrong = AuthSecret::generate(peer.rng());
    let code = refused(&mut peer, &id, Some(&wrong), Command::Sub).await;
    assert_eq!(code, ErrorCode::Auth);
}

pub(crate) async fn notices_begin_with_version_18(mut world: World) {
    let mut owner = world.connect().await;
    let queue = owner.create(C, false, None).await.unwrap();
    world.block(&queue.sender().0, Some(NOTICE));
    for version in 15..=20 {
        let mut peer = world.connect_in(version).await;
        let code = refused(&mut peer, &queue.sender().0, None, send(b"m")).await;
        let expected = match version {
            ..18 => BlockingReason::Content.into(),
            _ => NOTICE,
        };
        assert_eq!(code, ErrorCode::Blocked(expected), "{version}");
    }
}

pub(crate) async fn a_blocked_queue_can_be_left_and_unblocked(mut world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(C, true, None).await.unwrap();
    let id = queue.recipient().0;
    world.block(&id, Some(NOTICE));
    world.block(&id, None);
    let sent = ask(&mut peer, &queue.sender().0, None, send(b"m")).await;
    assert_eq!(sent.unwrap(), Said::Ok);
    world.block(&id, Some(NOTICE));
    for command in [Command::Off, Command::Delete] {
        assert_eq!(peer.own(&queue, command).await.unwrap(), Said::Ok);
    }
    // Its link does not come back under another queue.
    world.block(&[6; 24], Some(NOTICE));
    let wishes = Wishes {
        contact: Some(LinkId([6; 24])),
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    };
    let code = refusal(create(&mut peer, wishes).await);
    assert_eq!(code, ErrorCode::Blocked(NOTICE));
    assert_eq!(world.relay().stats().queues, 0);
    let other = peer.create(C, false, None).await.unwrap();
    let set = Command::SetLink {
        link: LinkId([6; 24]),
        blobs: LinkBlobs::new(b"fixed", b"user").unwrap(),
    };
    let code = refused(&mut peer, &other.recipient().0, Some(&other.key), set).await;
    assert_eq!(code, ErrorCode::Blocked(NOTICE));
}

/// Two messages wait in `queue`, and the reader has heard of neither or of the first; then it is unblocked.
async fn both_come(reader: &mut Peer, queue: &OwnQueue) {
    let (first, body) = heard(reader, queue).await;
    assert_eq!(body.unwrap(), b"one");
    let (second, body) = acked(reader, queue, first).await.unwrap();
    assert_eq!(body.unwrap(), b"two");
    assert_eq!(acked(reader, queue, second).await, None);
    silent(reader).await;
}

pub(crate) async fn what_waits_is_delivered_when_its_queue_is_unblocked(mut world: World) {
    let spam = Some(BlockingReason::Spam.into());
    let mut sender = world.connect().await;
    let mut say = async |queue: &OwnQueue| {
        for body in [b"one", b"two"] {
            let said = ask(&mut sender, &queue.sender().0, None, send(body)).await;
            assert_eq!(said.unwrap(), Said::Ok);
        }
    };
    // What a client has heard of and cannot acknowledge meanwhile comes again.
    let mut owner = world.connect().await;
    let queue = owner.create(M, true, None).await.unwrap();
    say(&queue).await;
    let (first, _) = heard(&mut owner, &queue).await;
    world.block(&queue.recipient().0, spam);
    let code = refusal(owner.own(&queue, Command::Ack(Some(first))).await);
    assert_eq!(code, ErrorCode::Blocked(BlockingReason::Spam.into()));
    // Another reason is none to deliver.
    world.block(&queue.recipient().0, Some(NOTICE));
    silent(&mut owner).await;
    world.block(&queue.recipient().0, None);
    both_come(&mut owner, &queue).await;
    // Nothing changes for a queue that is not blocked.
    world.block(&queue.recipient().0, None);
    silent(&mut owner).await;

    // A service subscribes to all of its queues also while one of them is blocked.
    let identity = services::own_identity();
    let mut service = services::connect(&world, &identity, ServiceRole::Messaging).await;
    let queue = service.create(M, true, None).await.unwrap();
    drop(service);
    crate::site::until(|| world.relay().stats().connections == 2).await;
    say(&queue).await;
    world.block(&queue.recipient().0, spam);
    let mut service = services::connect(&world, &identity, ServiceRole::Messaging).await;
    let mut all = ServiceQueues {
        count: 1,
        ..ServiceQueues::default()
    };
    all.hash.toggle(&queue.recipient().0);
    let said = services::subscribe_all(&mut service, ServiceRole::Messaging, Some(all)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(all));
    let next = in_time(service.event()).await.unwrap();
    assert_eq!(next, Heard::AllDelivered);
    silent(&mut service).await;
    world.block(&queue.recipient().0, None);
    both_come(&mut service, &queue).await;
}
