//! Who may do what, and that nobody else learns anything.

use junto_crypto::ed25519::SigningKey;
use junto_relay::bench::{OwnQueue, Peer, Said};
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::id::LinkId;
use junto_smp::key::AuthSecret;
use junto_smp::link::LinkBlobs;
use junto_smp::version::Version;

use crate::malformed::{Raw, signed};
use crate::notifications::watch;
use crate::site::{C, M, acked, heard};
use crate::world::{Wishes, World, ask, create, refused, send, x25519_key};

/// Every command that a recipient may give.
pub(crate) fn of_recipients(key: &AuthSecret) -> Vec<Command<'static>> {
    let dh_key = junto_crypto::x25519::SecretKey::from_bytes(&[1; 32]).public_key();
    vec![
        Command::Sub,
        Command::Get,
        Command::Ack(None),
        Command::Key(key.public_key()),
        Command::RecipientKeys(vec![key.public_key()]),
        Command::SetLink {
            link: LinkId([5; 24]),
            blobs: LinkBlobs::new(b"fixed", b"user").unwrap(),
        },
        Command::DeleteLink,
        Command::SetNotifier {
            auth_key: key.public_key(),
            dh_key,
        },
        Command::DeleteNotifier,
        Command::Info,
        Command::Off,
        Command::Delete,
    ]
}

/// A contact queue with link and notifier, and a secured one-time queue with link data.
pub(crate) struct Known {
    pub(crate) contact: OwnQueue,
    pub(crate) one_time: OwnQueue,
    pub(crate) notifier: [u8; 24],
}

pub(crate) async fn known(owner: &mut Peer) -> Known {
    let wishes = Wishes {
        contact: Some(LinkId([6; 24])),
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    };
    let contact = create(owner, wishes).await.unwrap();
    let notifier = watch(owner, &contact).await.id.0;
    let wishes = Wishes {
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    };
    let one_time = create(owner, wishes).await.unwrap();
    let sender = AuthSecret::generate(owner.rng());
    let secure = Command::Key(sender.public_key());
    owner.own(&one_time, secure).await.unwrap();
    Known {
        contact,
        one_time,
        notifier,
    }
}

pub(crate) async fn every_kind_of_key_on_both_sides(world: World) {
    let (mut owner, mut sender) = (world.connect().await, world.connect().await);
    for recipient_key in 0..2 {
        for sender_key in 0..2 {
            let own = match recipient_key {
                0 => AuthSecret::generate(owner.rng()),
                _ => x25519_key(&mut owner),
            };
            let key = match sender_key {
                0 => AuthSecret::generate(sender.rng()),
                _ => x25519_key(&mut sender),
            };
            let queue = owner.create_with(own, M, true, None).await.unwrap();
            sender.secure(queue.sender(), &key).await.unwrap();
            ask(&mut sender, &queue.sender().0, Some(&key), send(b"m"))
                .await
                .unwrap();
            let (id, body) = heard(&mut owner, &queue).await;
            assert_eq!(body.unwrap(), b"m");
            assert_eq!(acked(&mut owner, &queue, id).await, None);
        }
    }
}

pub(crate) async fn wrong_keys_and_unknown_names_look_the_same(world: World) {
    let (mut owner, mut stranger) = (world.connect().await, world.connect().await);
    let known = known(&mut owner).await;
    let wrong = [
        AuthSecret::generate(stranger.rng()),
        x25519_key(&mut stranger),
    ];
    for key in &wrong {
        for id in [
            &known.contact.recipient().0,
            &known.one_time.recipient().0,
            &[9; 24],
        ] {
            for command in of_recipients(key) {
                let code = refused(&mut stranger, id, Some(key), command).await;
                assert_eq!(code, ErrorCode::Auth);
            }
        }
        for id in [&known.one_time.sender().0, &[9; 24]] {
            let secure = Command::SenderKey(key.public_key());
            assert_eq!(
                refused(&mut stranger, id, Some(key), secure).await,
                ErrorCode::Auth
            );
            let code = refused(&mut stranger, id, Some(key), send(b"m")).await;
            assert_eq!(code, ErrorCode::Auth);
            let code = refused(&mut stranger, id, None, send(b"m")).await;
            assert_eq!(code, ErrorCode::Auth);
        }
        for id in [&known.one_time.ids.link.unwrap().0, &[9; 24]] {
            let secure = Command::LinkKey(key.public_key());
            assert_eq!(
                refused(&mut stranger, id, Some(key), secure).await,
                ErrorCode::Auth
            );
            let code = refused(&mut stranger, id, None, Command::ReadLink).await;
            assert_eq!(code, ErrorCode::Auth);
        }
        for id in [&known.notifier, &[9; 24]] {
            let code = refused(&mut stranger, id, Some(key), Command::NotifierSub).await;
            assert_eq!(code, ErrorCode::Auth);
        }
    }
    // None of it did anything.
    for queue in [&known.contact, &known.one_time] {
        assert_eq!(
            owner.own(queue, Command::Sub).await.unwrap(),
            Said::Subscribed
        );
    }
}

pub(crate) async fn a_queue_that_is_off_looks_like_none(world: World) {
    let (mut owner, mut stranger) = (world.connect().await, world.connect().await);
    let contact = create(
        &mut owner,
        Wishes {
            contact: Some(LinkId([6; 24])),
            blobs: Some((b"fixed", b"user")),
            ..Wishes::default()
        },
    )
    .await
    .unwrap();
    let one_time = owner.create(M, false, None).await.unwrap();
    for queue in [&contact, &one_time] {
        owner.own(queue, Command::Off).await.unwrap();
        owner.own(queue, Command::Off).await.unwrap();
    }
    let key = AuthSecret::generate(stranger.rng());
    for id in [&contact.sender().0, &one_time.sender().0, &[9; 24]] {
        let largest = vec![0; 16_200];
        for command in [send(b"m"), send(&largest)] {
            assert_eq!(
                refused(&mut stranger, id, None, command).await,
                ErrorCode::Auth
            );
        }
        let secure = Command::SenderKey(key.public_key());
        assert_eq!(
            refused(&mut stranger, id, Some(&key), secure).await,
            ErrorCode::Auth
        );
    }
    let code = refused(&mut stranger, &[6; 24], None, Command::ReadLink).await;
    assert_eq!(code, ErrorCode::Auth);
}

pub(crate) async fn entities_of_one_party_mean_nothing_to_another(world: World) {
    let (mut owner, mut other) = (world.connect().await, world.connect().await);
    let queue = owner.create(C, false, None).await.unwrap();
    let watch = watch(&mut owner, &queue).await;
    let code = refused(&mut other, &queue.recipient().0, None, send(b"m")).await;
    assert_eq!(code, ErrorCode::Auth);
    for id in [&queue.sender().0, &watch.id.0] {
        let code = refused(&mut other, id, Some(&queue.key), Command::Sub).await;
        assert_eq!(code, ErrorCode::Auth);
    }
    for id in [&queue.sender().0, &queue.recipient().0] {
        let code = refused(&mut other, id, Some(&watch.key), Command::NotifierSub).await;
        assert_eq!(code, ErrorCode::Auth);
        let code = refused(&mut other, id, None, Command::ReadLink).await;
        assert_eq!(code, ErrorCode::Auth);
    }
    // Nor does the notification server's key open the queue.
    let code = refused(
        &mut other,
        &queue.recipient().0,
        Some(&watch.key),
        Command::Sub,
    )
    .await;
    assert_eq!(code, ErrorCode::Auth);
}

pub(crate) async fn signatures_do_not_travel_between_sessions(world: World) {
    let mut owner = world.connect().await;
    let seed = [0x5a; 32];
    let key = || SigningKey::from_seed(&seed);
    let queue = owner
        .create_with(AuthSecret::Ed25519(key()), M, false, None)
        .await
        .unwrap();
    let id = queue.recipient().0;
    let mut first = Raw::connect(&world, Version::MAX).await;
    let mut second = Raw::connect(&world, Version::MAX).await;
    let session = first.0.session();
    let captured = signed(&first, &session.0, &key(), &id, b"OFF");
    let (_, code) = second.say(&captured).await;
    assert_eq!(code, Some(ErrorCode::Auth));
    // Nor do they cover another command or another queue.
    for wrong in [
        signed(&first, &session.0, &key(), &id, b"DEL").replacen(b"DEL", b"GET"),
        signed(&first, &session.0, &key(), &[9; 24], b"GET").replacen(&[9; 24], &id),
    ] {
        assert_eq!(first.say(&wrong).await.1, Some(ErrorCode::Auth));
    }
    assert_eq!(first.say(&captured).await.1, None);
}

trait Replacen {
    /// The same bytes with the last occurrence of `from` replaced.
    fn replacen(self, from: &[u8], to: &[u8]) -> Self;
}

impl Replacen for Vec<u8> {
    fn replacen(mut self, from: &[u8], to: &[u8]) -> Self {
        let at = self.windows(from.len()).rposition(|window| window == from);
        self[at.unwrap()..][..to.len()].copy_from_slice(to);
        self
    }
}
