//! `NKEY`, `NDEL`, `NSUB` and `NMSG`.

use junto_crypto::x25519;
use junto_relay::bench::{Heard, OwnQueue, Peer, Said};
use junto_smp::command::{Command, NewNotifier};
use junto_smp::error::ErrorCode;
use junto_smp::id::{MessageId, NotifierId};
use junto_smp::key::AuthSecret;
use junto_smp::notification::NotificationKey;
use junto_smp::response::NotifierIds;

use crate::site::{M, acked, heard};
use crate::world::{Wishes, World, ask, create, refused, send, send_notifying, silent};

/// A notifier as recipient and notification server know it together.
pub(crate) struct Watch {
    pub(crate) id: NotifierId,
    pub(crate) key: AuthSecret,
    opening: NotificationKey,
}

/// What a recipient sends, and what to make of the answer.
struct Offer {
    key: AuthSecret,
    secret: x25519::SecretKey,
}

impl Offer {
    fn new(peer: &mut Peer) -> Self {
        Self {
            key: AuthSecret::generate(peer.rng()),
            secret: x25519::SecretKey::generate(peer.rng()),
        }
    }

    fn accepted(self, ids: NotifierIds) -> Watch {
        let shared = self.secret.diffie_hellman(&ids.server_dh_key).unwrap();
        Watch {
            id: ids.id,
            key: self.key,
            opening: NotificationKey::new(&shared),
        }
    }
}

impl Watch {
    pub(crate) async fn subscribe(&self, peer: &mut Peer) {
        let answer = ask(peer, &self.id.0, Some(&self.key), Command::NotifierSub).await;
        assert_eq!(answer.unwrap(), Said::Subscribed);
    }

    /// The next event must be a notification; gives its message.
    pub(crate) async fn told(&self, peer: &mut Peer) -> MessageId {
        match peer.event().await.unwrap() {
            Heard::Notification(id, nonce, sealed) => {
                assert_eq!(id, self.id);
                let notification = self.opening.open(&nonce, &sealed).unwrap();
                assert!(notification.time.0 > 1_700_000_000);
                notification.message
            }
            other => panic!("no notification but {other:?}"),
        }
    }
}

/// Has `queue` watched.
pub(crate) async fn watch(owner: &mut Peer, queue: &OwnQueue) -> Watch {
    let offer = Offer::new(owner);
    let set = Command::SetNotifier {
        auth_key: offer.key.public_key(),
        dh_key: offer.secret.public_key(),
    };
    match owner.own(queue, set).await.unwrap() {
        Said::NotifierIds(ids) => offer.accepted(ids),
        other => panic!("no NID but {other:?}"),
    }
}

pub(crate) async fn a_flagged_message_notifies_and_others_do_not(world: World) {
    let (mut owner, mut server) = (world.connect().await, world.connect().await);
    let queue = owner.create(M, true, None).await.unwrap();
    let info = owner.own(&queue, Command::Info).await.unwrap();
    assert!(matches!(info, Said::Info(json) if json.contains(r#""qiNtf":false"#)));
    let watch = watch(&mut owner, &queue).await;
    let info = owner.own(&queue, Command::Info).await.unwrap();
    assert!(matches!(info, Said::Info(json) if json.contains(r#""qiNtf":true"#)));
    watch.subscribe(&mut server).await;
    let sender = queue.sender().0;
    let mut tell = world.connect().await;
    ask(&mut tell, &sender, None, send(b"quiet")).await.unwrap();
    ask(&mut tell, &sender, None, send_notifying(b"loud"))
        .await
        .unwrap();
    let (quiet, body) = heard(&mut owner, &queue).await;
    assert_eq!(body.unwrap(), b"quiet");
    let (loud, body) = acked(&mut owner, &queue, quiet).await.unwrap();
    assert_eq!(body.unwrap(), b"loud");
    assert_eq!(watch.told(&mut server).await, loud);
    silent(&mut server).await;
}

pub(crate) async fn what_came_before_is_told_on_subscribing(world: World) {
    let (mut owner, mut server) = (world.connect().await, world.connect().await);
    let queue = owner.create(M, false, None).await.unwrap();
    let sender = queue.sender().0;
    // Nobody wants to know what came before there was a notifier.
    ask(&mut owner, &sender, None, send_notifying(b"before"))
        .await
        .unwrap();
    let watch = watch(&mut owner, &queue).await;
    for body in [b"one", b"two"] {
        ask(&mut owner, &sender, None, send_notifying(body))
            .await
            .unwrap();
        ask(&mut owner, &sender, None, send(b"quiet"))
            .await
            .unwrap();
    }
    watch.subscribe(&mut server).await;
    let told = [watch.told(&mut server).await, watch.told(&mut server).await];
    silent(&mut server).await;
    // Once is enough.
    watch.subscribe(&mut server).await;
    silent(&mut server).await;
    let mut waiting = Vec::new();
    owner.own(&queue, Command::Sub).await.unwrap();
    let mut next = Some(heard(&mut owner, &queue).await);
    while let Some((id, body)) = next {
        waiting.push((id, body.unwrap()));
        next = acked(&mut owner, &queue, id).await;
    }
    let loud: Vec<_> = waiting
        .iter()
        .filter(|(_, body)| body == b"one" || body == b"two")
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(loud, told);
}

pub(crate) async fn the_last_notification_server_wins(world: World) {
    let mut owner = world.connect().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    let queue = owner.create(M, false, None).await.unwrap();
    let watch = watch(&mut owner, &queue).await;
    watch.subscribe(&mut first).await;
    watch.subscribe(&mut second).await;
    let end = first.event().await.unwrap();
    assert!(matches!(end, Heard::End(id) if id.0 == watch.id.0));
    ask(&mut owner, &queue.sender().0, None, send_notifying(b"m"))
        .await
        .unwrap();
    watch.told(&mut second).await;
    silent(&mut first).await;
    // A wrong key takes nothing over.
    let wrong = AuthSecret::generate(first.rng());
    let code = refused(&mut first, &watch.id.0, Some(&wrong), Command::NotifierSub).await;
    assert_eq!(code, ErrorCode::Auth);
    silent(&mut second).await;
    // A server that is gone is not missed, and one that returns hears what it missed.
    drop(second);
    crate::site::until(|| world.relay().stats().connections == 2).await;
    ask(&mut owner, &queue.sender().0, None, send_notifying(b"m"))
        .await
        .unwrap();
    watch.subscribe(&mut first).await;
    watch.told(&mut first).await;
    silent(&mut first).await;
}

pub(crate) async fn credentials_come_with_the_queue(world: World) {
    let mut server = world.connect().await;
    for version in 17..=20 {
        let mut owner = world.connect_in(version).await;
        let offer = Offer::new(&mut owner);
        let notifier = NewNotifier {
            auth_key: offer.key.public_key(),
            dh_key: offer.secret.public_key(),
        };
        let wishes = Wishes {
            notifier: Some(notifier),
            ..Wishes::default()
        };
        let queue = create(&mut owner, wishes).await.unwrap();
        let watch = offer.accepted(queue.ids.notifier.unwrap());
        watch.subscribe(&mut server).await;
        ask(&mut owner, &queue.sender().0, None, send_notifying(b"m"))
            .await
            .unwrap();
        watch.told(&mut server).await;
    }
}

pub(crate) async fn replaced_and_deleted_notifiers_are_told(world: World) {
    let (mut owner, mut server) = (world.connect().await, world.connect().await);
    let queue = owner.create(M, false, None).await.unwrap();
    let old = watch(&mut owner, &queue).await;
    old.subscribe(&mut server).await;
    let new = watch(&mut owner, &queue).await;
    assert_ne!(old.id, new.id);
    let told = server.event().await.unwrap();
    assert!(matches!(told, Heard::Deleted(id) if id.0 == old.id.0));
    let code = refused(&mut server, &old.id.0, Some(&old.key), Command::NotifierSub).await;
    assert_eq!(code, ErrorCode::Auth);
    new.subscribe(&mut server).await;
    for _ in 0..2 {
        let deleted = owner.own(&queue, Command::DeleteNotifier).await;
        assert_eq!(deleted.unwrap(), Said::Ok);
    }
    let told = server.event().await.unwrap();
    assert!(matches!(told, Heard::Deleted(id) if id.0 == new.id.0));
    let code = refused(&mut server, &new.id.0, Some(&new.key), Command::NotifierSub).await;
    assert_eq!(code, ErrorCode::Auth);
    ask(&mut owner, &queue.sender().0, None, send_notifying(b"m"))
        .await
        .unwrap();
    silent(&mut server).await;
}

pub(crate) async fn deleting_the_queue_ends_the_notifier(world: World) {
    let (mut owner, mut server) = (world.connect().await, world.connect().await);
    let queue = owner.create(M, false, None).await.unwrap();
    let watch = watch(&mut owner, &queue).await;
    watch.subscribe(&mut server).await;
    owner.own(&queue, Command::Delete).await.unwrap();
    let told = server.event().await.unwrap();
    assert!(matches!(told, Heard::Deleted(id) if id.0 == watch.id.0));
    let code = refused(
        &mut server,
        &watch.id.0,
        Some(&watch.key),
        Command::NotifierSub,
    )
    .await;
    assert_eq!(code, ErrorCode::Auth);
}
