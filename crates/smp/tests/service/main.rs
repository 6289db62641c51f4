//! Services: their hello, their signatures, and what becomes of their queues.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model;
mod pair;
mod queues;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;

use junto_crypto::{ed25519, x25519};
use junto_smp::{
    block::new_block,
    client::{Request, ServiceCredentials},
    command::{Command, NewMode, NewQueue},
    error::ErrorCode,
    hello::HelloFault,
    id::Entity,
    key::AuthSecret,
    message::MessageFlags,
    name::Domain,
    queue::Credential,
    server::{Applicant, ClientCertificates, Greeted},
    service::{ServiceFault, ServiceRole, fingerprint_of_chain},
    version::{Version, VersionRange},
};

use pair::{Opening, Pair, certificates, credentials, greeted};
use support::{identity, key};

/// A queue that only its name is needed of.
const ID: [u8; 24] = [8; 24];

fn new_queue(key: &AuthSecret, subscribe: bool) -> Command<'static> {
    Command::New(Box::new(NewQueue {
        auth_key: key.public_key(),
        dh_key: x25519::SecretKey::from_bytes(&[5; 32]).public_key(),
        password: None,
        subscribe,
        mode: NewMode::Messaging(None),
        notifier: None,
    }))
}

fn service_versions() -> impl Iterator<Item = Version> {
    Version::ALL.into_iter().filter(|v| v.has_services())
}

#[test]
fn services_are_accepted_with_one_to_four_certificates_in_every_version_that_has_them() {
    let relay = identity(VersionRange::SUPPORTED);
    for version in Version::ALL {
        for count in 1..=4 {
            let shown = certificates(count);
            let credentials = credentials(ServiceRole::Notifier, count);
            let made = greeted(&relay, version, &credentials, Some(&shown));
            match version.has_services() {
                true => {
                    let (greeted, _) = made.unwrap();
                    assert!(matches!(greeted, Greeted::Service(_)), "{version} {count}");
                }
                false => assert_eq!(made.err(), Some(HelloFault::Version)),
            }
        }
    }
}

#[test]
fn what_a_service_shows_must_be_what_it_shows_in_tls() {
    let relay = identity(VersionRange::SUPPORTED);
    let version = Version::MAX;
    let refused = |credentials: &ServiceCredentials, shown: Option<&ClientCertificates>| {
        greeted(&relay, version, credentials, shown).err()
    };
    let right = credentials(ServiceRole::Messaging, 2);
    assert_eq!(refused(&right, Some(&certificates(2))), None);
    assert_eq!(refused(&right, None), Some(HelloFault::Service));
    for count in [1, 3] {
        let shown = certificates(count);
        assert_eq!(refused(&right, Some(&shown)), Some(HelloFault::Service));
    }
    let mut other = certificates(2);
    other.chain[1][0] ^= 1;
    assert_eq!(refused(&right, Some(&other)), Some(HelloFault::Service));
    let unsigned = ServiceCredentials {
        leaf: ed25519::SigningKey::from_seed(&[4; 32]),
        ..credentials(ServiceRole::Messaging, 2)
    };
    assert_eq!(
        refused(&unsigned, Some(&certificates(2))),
        Some(HelloFault::Service)
    );
    // No relay without services takes one.
    let mut opening = Opening::new(&relay, VersionRange::SUPPORTED);
    opening.service(&right).unwrap();
    let refused = opening.finish(&relay).err();
    assert_eq!(refused, Some(HelloFault::Service));
    assert!(fingerprint_of_chain::<Vec<u8>>(&[]).is_none());
}

#[test]
fn a_refused_service_learns_why() {
    let relay = identity(VersionRange::SUPPORTED);
    let credentials = credentials(ServiceRole::Messaging, 1);
    let shown = certificates(1);
    for (fault, text) in [
        (ServiceFault::Refused, b"EHANDSHAKE BAD_SERVICE".as_slice()),
        (ServiceFault::Unauthentic, b"EHANDSHAKE BAD_AUTH"),
    ] {
        let (_, applying) = greeted(&relay, Version::MAX, &credentials, Some(&shown)).unwrap();
        let mut third = new_block();
        Applicant::refuse(&mut third, fault).unwrap();
        assert_eq!(third[2..2 + text.len()], *text);
        let refused = applying.accepted(&mut third).err();
        assert_eq!(refused, Some(HelloFault::NoService(fault)));
    }
}

#[test]
fn a_service_signs_what_makes_queues_its_own_and_nothing_else() {
    for version in service_versions() {
        let owner = key(1);
        let credential = Credential::Key(owner.public_key());
        let mut messaging = Pair::service(version, ServiceRole::Messaging);
        let own = messaging.service.clone();
        let new = Request {
            entity: Entity::None,
            ..owned(&owner, new_queue(&owner, true))
        };
        let sub = owned(&owner, Command::Sub);
        for request in [&new, &sub] {
            let service = messaging.ask(request, &credential, |c| c.service().cloned());
            assert_eq!(service, Ok(own.clone()), "{version}");
            // With the wrong key of the queue, and for a queue that is not there.
            let wrong = Credential::Key(key(2).public_key());
            for credential in [wrong, Credential::Nobody] {
                let refused = messaging.ask(request, &credential, |_| ());
                assert_eq!(refused, Err(ErrorCode::Auth));
            }
        }
        for command in [Command::Ack(None), Command::Get, Command::Delete] {
            let request = owned(&owner, command);
            let service = messaging.ask(&request, &credential, |c| c.service().cloned());
            assert_eq!(service, Ok(None));
        }
        let mut notifier = Pair::service(version, ServiceRole::Notifier);
        let request = owned(&owner, Command::NotifierSub);
        let service = notifier.ask(&request, &credential, |c| c.service().cloned());
        assert_eq!(service, Ok(notifier.service.clone()));
    }
}

/// A command about [`ID`], signed by `owner`.
fn owned<'a>(owner: &'a AuthSecret, command: Command<'a>) -> Request<'a> {
    Request {
        entity: Entity::Queue(&ID),
        key: Some(owner),
        command,
    }
}

/// The end of a session that signs as `from` does, at the relay's end of `to`: as if somebody
/// between them had put one in the place of the other.
fn swapped(from: &mut Pair, to: &mut Pair, request: &Request<'_>) -> Result<(), ErrorCode> {
    let AuthSecret::Ed25519(owner) = request.key.unwrap() else {
        panic!("another kind of key");
    };
    let credential = Credential::Key(
        AuthSecret::Ed25519(ed25519::SigningKey::from_seed(owner.seed())).public_key(),
    );
    let mut block = from.sealed(request);
    to.open(&mut block, &credential, |_| ())
}

#[test]
fn missing_and_foreign_service_signatures_are_told_apart_from_wrong_keys() {
    let owner = key(1);
    let request = |command| owned(&owner, command);
    let version = Version::MAX;
    // A service that does not sign as one.
    let mut to = Pair::service(version, ServiceRole::Messaging);
    let refused = swapped(&mut Pair::client(version), &mut to, &request(Command::Sub));
    assert_eq!(refused, Err(ErrorCode::Service));
    // A client that signs as a service.
    let mut from = Pair::service(version, ServiceRole::Messaging);
    let refused = swapped(
        &mut from,
        &mut Pair::client(version),
        &request(Command::Sub),
    );
    assert_eq!(refused, Err(ErrorCode::Service));
    // Nobody signs other commands as a service; but what is not signed so does not matter.
    let mut plain = Pair::client(version);
    assert_eq!(
        swapped(
            &mut plain,
            &mut Pair::service(version, ServiceRole::Messaging),
            &request(Command::Get)
        ),
        Ok(())
    );
}

#[test]
fn no_changed_byte_of_a_service_signature_passes() {
    let owner = key(1);
    let credential = Credential::Key(owner.public_key());
    let request = owned(&owner, Command::Sub);
    let mut pair = Pair::service(Version::MAX, ServiceRole::Messaging);
    let block = pair.sealed(&request);
    // Padding, count, length, and the queue's signature; then the marker and the length of this one.
    let start = 2 + 1 + 2 + 1 + 64;
    assert_eq!(block[start..start + 2], [b'1', 64]);
    for position in start + 2..start + 66 {
        let mut changed = block.clone();
        changed[position] ^= 1;
        let refused = pair.open(&mut changed, &credential, |_| ());
        assert_eq!(refused, Err(ErrorCode::Service), "byte {position}");
    }
    let mut block = block;
    assert_eq!(pair.open(&mut block, &credential, |_| ()), Ok(()));
}

#[test]
fn only_the_service_itself_asks_for_its_queues() {
    for version in service_versions() {
        for (role, command) in [
            (ServiceRole::Messaging, Command::ServiceSub(None)),
            (ServiceRole::Notifier, Command::NotifierServiceSub(None)),
        ] {
            let mut pair = Pair::service(version, role);
            let own = pair.service.clone().unwrap();
            let request = |id| Request {
                entity: Entity::Queue(id),
                key: None,
                command: command.clone(),
            };
            let (right, wrong) = (own.id.0, [1; 24]);
            // The credential does not matter: no queue is named.
            for credential in [Credential::Nobody, Credential::Open] {
                let service = pair.ask(&request(&right), &credential, |c| c.service().cloned());
                assert_eq!(service, Ok(Some(Arc::clone(&own))), "{version}");
                let refused = pair.ask(&request(&wrong), &credential, |_| ());
                assert_eq!(refused, Err(ErrorCode::Service));
            }
            // Somebody else with its id, and a key of his own.
            let stranger = key(4);
            let request = Request {
                key: Some(&stranger),
                ..request(&right)
            };
            let mut client = Pair::client(version);
            let refused = client.ask(&request, &Credential::Nobody, |_| ());
            assert_eq!(refused, Err(ErrorCode::Service));
            let mut block = client.sealed(&request);
            let refused = pair.open(&mut block, &Credential::Nobody, |_| ());
            assert_eq!(refused, Err(ErrorCode::Service));
        }
    }
}

#[test]
fn a_service_gives_the_commands_of_its_role_only() {
    use ServiceRole::{Messaging, Notifier, Proxy};
    let owner = key(1);
    let credential = Credential::Key(owner.public_key());
    let send = Command::Send {
        flags: MessageFlags { notify: false },
        body: b"m",
    };
    let cases = [
        (new_queue(&owner, true), true, Some(Messaging)),
        (Command::Sub, true, Some(Messaging)),
        (send, true, Some(Messaging)),
        (Command::ServiceSub(None), true, Some(Messaging)),
        (Command::NotifierSub, true, Some(Notifier)),
        (Command::NotifierServiceSub(None), true, Some(Notifier)),
        (Command::RelayForward(b"box"), false, Some(Proxy)),
        (
            Command::Resolve(Domain::new("name.simplex").unwrap()),
            false,
            Some(Messaging),
        ),
        (Command::Ping, false, None),
    ];
    for role in [Messaging, Notifier, Proxy] {
        let mut pair = Pair::service(Version::MAX, role);
        let own = pair.service.clone().unwrap().id;
        for (command, keyed, of) in &cases {
            let entity = match command {
                Command::New(_) => Entity::None,
                Command::ServiceSub(_) | Command::NotifierServiceSub(_) => Entity::Queue(&own.0),
                _ if *keyed => Entity::Queue(&ID),
                _ => Entity::None,
            };
            let request = Request {
                entity,
                key: keyed.then_some(&owner),
                command: command.clone(),
            };
            let credential = match keyed {
                true => credential.clone(),
                false => Credential::Open,
            };
            let got = pair.ask(&request, &credential, |_| ());
            match of.is_none_or(|of| of == role) {
                true => assert_eq!(got, Ok(()), "{role:?} {command:?}"),
                false => assert_eq!(got, Err(ErrorCode::PROHIBITED), "{role:?} {command:?}"),
            }
        }
    }
}
