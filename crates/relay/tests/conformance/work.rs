//! A refused command costs the same work whatever it was about: the number of signatures and
//! authenticators verified, which is nearly all of it.

use junto_relay::bench::Peer;
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::id::LinkId;
use junto_smp::key::AuthSecret;

use crate::authorisation::{known, of_recipients};
use crate::site::M;
use crate::world::{Wishes, World, create, refused, send, x25519_key};

const UNKNOWN: [u8; 24] = [9; 24];

/// How many verifications a command costs that is refused with `AUTH`.
async fn cost(
    world: &World,
    peer: &mut Peer,
    id: &[u8; 24],
    key: Option<&AuthSecret>,
    command: Command<'_>,
) -> u64 {
    let before = world.relay().stats().verifications;
    assert_eq!(refused(peer, id, key, command).await, ErrorCode::Auth);
    world.relay().stats().verifications - before
}

pub(crate) async fn unknown_names_cost_what_wrong_keys_cost(world: World) {
    let (mut owner, mut stranger) = (world.connect().await, world.connect().await);
    let known = known(&mut owner).await;
    let kinds = [
        AuthSecret::generate(stranger.rng()),
        x25519_key(&mut stranger),
    ];
    for key in &kinds {
        let some = Some(key);
        for command in of_recipients(key) {
            for id in [
                known.contact.recipient().0,
                known.one_time.recipient().0,
                UNKNOWN,
            ] {
                let text = format!("{command:?}");
                let cost = cost(&world, &mut stranger, &id, some, command.clone()).await;
                assert_eq!(cost, 1, "{text}");
            }
        }
        for id in [known.one_time.sender().0, UNKNOWN] {
            let secure = Command::SenderKey(key.public_key());
            for command in [secure, send(b"m")] {
                assert_eq!(cost(&world, &mut stranger, &id, some, command).await, 1);
            }
            assert_eq!(cost(&world, &mut stranger, &id, None, send(b"m")).await, 0);
        }
        for id in [known.one_time.ids.link.unwrap().0, UNKNOWN] {
            let secure = Command::LinkKey(key.public_key());
            assert_eq!(cost(&world, &mut stranger, &id, some, secure).await, 1);
            let read = Command::ReadLink;
            assert_eq!(cost(&world, &mut stranger, &id, None, read).await, 0);
        }
        // An open queue, sent to with a signature that nobody asked for.
        for id in [known.contact.sender().0, UNKNOWN] {
            assert_eq!(cost(&world, &mut stranger, &id, some, send(b"m")).await, 1);
        }
        for id in [known.notifier, UNKNOWN] {
            let subscribe = Command::NotifierSub;
            assert_eq!(cost(&world, &mut stranger, &id, some, subscribe).await, 1);
        }
    }
}

pub(crate) async fn a_queue_that_is_off_costs_what_an_unknown_one_costs(world: World) {
    let (mut owner, mut stranger) = (world.connect().await, world.connect().await);
    let one_time = owner.create(M, false, None).await.unwrap();
    let wishes = Wishes {
        contact: Some(LinkId([6; 24])),
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    };
    let contact = create(&mut owner, wishes).await.unwrap();
    for queue in [&one_time, &contact] {
        owner.own(queue, Command::Off).await.unwrap();
    }
    let key = AuthSecret::generate(stranger.rng());
    for id in [one_time.sender().0, contact.sender().0, UNKNOWN] {
        let secure = Command::SenderKey(key.public_key());
        assert_eq!(
            cost(&world, &mut stranger, &id, Some(&key), secure).await,
            1
        );
        assert_eq!(
            cost(&world, &mut stranger, &id, Some(&key), send(b"m")).await,
            1
        );
        assert_eq!(cost(&world, &mut stranger, &id, None, send(b"m")).await, 0);
    }
    for id in [[6; 24], UNKNOWN] {
        let secure = Command::LinkKey(key.public_key());
        assert_eq!(
            cost(&world, &mut stranger, &id, Some(&key), secure).await,
            1
        );
        assert_eq!(
            cost(&world, &mut stranger, &id, None, Command::ReadLink).await,
            0
        );
    }
}
