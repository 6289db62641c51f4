//! What clients get for malformed, forged, replayed and prohibited input: the exact error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use junto_crypto::{ed448, ed25519, x25519};
use junto_smp::{
    block::{Block, BlockFault, OutgoingBlock, Protection, SessionId, new_block},
    client::{Event, Incoming, Options, Request as ClientRequest},
    command::{Command, NewMode},
    error::ErrorCode,
    hello::{ClientHello, HelloFault},
    id::{CorrelationId, Entity},
    key::{AuthKey, AuthSecret},
    queue::Credential,
    server::{Handshake, Refusal, Request},
    version::{Version, VersionRange},
};
use support::{Got, Relay, create, newest};

const SESSION: SessionId = SessionId([0; 32]);
const CORRELATION: CorrelationId = CorrelationId([5; 24]);
const QUEUE: [u8; 24] = [6; 24];

/// A transmission as a client without scruples would write it.
fn raw(authorization: &[u8], marker: &[u8], entity: &[u8], content: &[u8]) -> Vec<u8> {
    let short = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    [
        short(authorization).as_slice(),
        marker,
        &short(&CORRELATION.0),
        &short(entity),
        content,
    ]
    .concat()
}

fn refusal(mut bytes: Vec<u8>, version: Version) -> (bool, Option<ErrorCode>) {
    match Request::decode(&mut bytes, version, &SESSION) {
        Ok(request) => (request.correlation() == CORRELATION, None),
        Err(refusal) => (refusal.correlation == Some(CORRELATION), Some(refusal.code)),
    }
}

/// Authorisation, entity, command, expected error.
type Case<'a> = (&'a [u8], &'a [u8], Vec<u8>, Option<ErrorCode>);

#[test]
fn malformed_commands_get_their_exact_error() {
    let signed = [1; 64];
    let (none, marker): (&[u8], &[u8]) = (&[], b"0");
    let spki = x25519::SecretKey::from_bytes(&[1; 32])
        .public_key()
        .to_spki();
    let key = |word: &str| [word.as_bytes(), &[44], &spki].concat();
    let syntax = Some(ErrorCode::SYNTAX);
    let unknown = Some(ErrorCode::UNKNOWN);
    let no_auth = Some(ErrorCode::NO_AUTH);
    let has_auth = Some(ErrorCode::HAS_AUTH);
    let no_entity = Some(ErrorCode::NO_ENTITY);
    let set_link = |fixed: u16, user: u16| {
        let blob = |length: u16| [&length.to_be_bytes()[..], &vec![7; length.into()]].concat();
        [&b"LSET \x18"[..], &QUEUE, &blob(fixed), &blob(user)].concat()
    };
    let prxy = |server: &[u8], password: &[u8]| [b"PRXY ", server, &[7; 32], password].concat();
    let pfwd = {
        let key = x25519::SecretKey::from_bytes(&[1; 32]).public_key();
        [&b"PFWD \0\x11\x2c"[..], &key.to_spki(), b"box"].concat()
    };
    let cases: Vec<Case<'_>> = vec![
        (none, none, b"PING".to_vec(), None),
        (none, none, b"PING ".to_vec(), syntax),
        (none, none, b"ping".to_vec(), unknown),
        (none, none, b"".to_vec(), unknown),
        (none, none, b"HELLO world".to_vec(), unknown),
        (&signed, none, b"PING".to_vec(), has_auth),
        (none, &QUEUE, b"PING".to_vec(), has_auth),
        (&signed, &QUEUE, b"SUB".to_vec(), None),
        (&signed, &QUEUE, b"SUB x".to_vec(), syntax),
        (&signed, none, b"SUB".to_vec(), no_auth),
        (none, &QUEUE, b"SUB".to_vec(), no_auth),
        (none, &QUEUE, b"SEND T hi".to_vec(), None),
        (&signed, &QUEUE, b"SEND F ".to_vec(), None),
        (none, &QUEUE, b"SEND".to_vec(), syntax),
        (none, &QUEUE, b"SEND T".to_vec(), syntax),
        (none, &QUEUE, b"SEND X hi".to_vec(), syntax),
        (none, none, b"SEND T hi".to_vec(), no_entity),
        (&signed, &QUEUE, b"ACK \x00".to_vec(), None),
        (&signed, &QUEUE, b"ACK".to_vec(), syntax),
        (&signed, &QUEUE, b"ACK \x03abc".to_vec(), syntax),
        (none, &QUEUE, b"ACK \x00".to_vec(), no_auth),
        (&signed, &QUEUE, key("KEY "), None),
        (&signed, &QUEUE, key("SKEY "), None),
        (&signed, &QUEUE, [key("KEY "), vec![0]].concat(), syntax),
        (&signed, &QUEUE, b"KEY \x2cxyz".to_vec(), syntax),
        (none, &QUEUE, key("SKEY "), no_auth),
        (&signed, none, key("KEY "), no_auth),
        (&signed, none, b"NEW ".to_vec(), syntax),
        (none, &QUEUE, b"LGET".to_vec(), None),
        (&signed, &QUEUE, b"LGET".to_vec(), has_auth),
        (none, none, b"LGET".to_vec(), no_entity),
        (none, &QUEUE, b"LGET x".to_vec(), syntax),
        (&signed, &QUEUE, key("LKEY "), None),
        (none, &QUEUE, key("LKEY "), no_auth),
        (&signed, &QUEUE, b"LKEY x".to_vec(), syntax),
        (&signed, &QUEUE, b"NSUB".to_vec(), None),
        (none, &QUEUE, b"NSUB".to_vec(), no_auth),
        (&signed, none, b"NSUB".to_vec(), no_auth),
        (&signed, &QUEUE, key("RKEY \x01"), None),
        (&signed, &QUEUE, key("RKEY \x02"), syntax),
        (&signed, &QUEUE, b"RKEY \x00".to_vec(), syntax),
        (none, &QUEUE, key("RKEY \x01"), no_auth),
        (&signed, &QUEUE, set_link(2_048, 13_824), None),
        (&signed, &QUEUE, set_link(0, 0), None),
        (&signed, &QUEUE, set_link(2_049, 0), syntax),
        (&signed, &QUEUE, set_link(0, 13_825), syntax),
        (none, &QUEUE, set_link(0, 0), no_auth),
        (&signed, &QUEUE, b"LSET x".to_vec(), syntax),
        (&signed, &QUEUE, b"LDEL".to_vec(), None),
        (&signed, &QUEUE, b"NKEY x".to_vec(), syntax),
        (&signed, &QUEUE, b"NDEL".to_vec(), None),
        (none, &QUEUE, b"NDEL".to_vec(), no_auth),
        (&signed, &QUEUE, b"SUBS x".to_vec(), syntax),
        (none, none, b"RSLV x.y".to_vec(), None),
        (none, none, b"RSLV x".to_vec(), syntax),
        (none, none, b"RSLV ".to_vec(), syntax),
        (none, none, b"RSLV".to_vec(), syntax),
        (&signed, none, b"RSLV x.y".to_vec(), has_auth),
        (none, none, b"RFWD x".to_vec(), None),
        (none, none, b"RFWD".to_vec(), syntax),
        (&signed, none, b"RFWD x".to_vec(), has_auth),
        (none, &QUEUE, b"RFWD x".to_vec(), has_auth),
        (none, &[9; 32], pfwd.clone(), None),
        (none, none, pfwd.clone(), no_entity),
        (&signed, &[9; 32], pfwd.clone(), has_auth),
        (none, &[9; 32], pfwd[..40].to_vec(), syntax),
        (none, none, prxy(b"\x01\x05h.tld\x045223\x20", b"0"), None),
        // Without a port, with an IPv6 address as others write it, with a password.
        (none, none, prxy(b"\x01\x03::1\0\x20", b"1\x02pw"), None),
        (none, none, prxy(b"\0\x045223\x20", b"0"), syntax),
        (
            none,
            none,
            prxy(
                b"\x09\x01h\x01h\x01h\x01h\x01h\x01h\x01h\x01h\x01h\0\x20",
                b"0",
            ),
            syntax,
        ),
        (none, none, prxy(b"\x01\x05h tld\x045223\x20", b"0"), syntax),
        (none, none, prxy(b"\x01\x05h.tld\x010\x20", b"0"), syntax),
        (
            none,
            none,
            prxy(b"\x01\x05h.tld\x0565536\x20", b"0"),
            syntax,
        ),
        (
            none,
            none,
            prxy(b"\x01\x05h.tld\x0505223\x20", b"0"),
            syntax,
        ),
        (none, none, prxy(b"\x01\x05h.tld\x045223\x1f", b"0"), syntax),
        (none, none, prxy(b"\x01\x05h.tld\x045223\x20", b""), syntax),
        (
            none,
            none,
            prxy(b"\x01\x05h.tld\x045223\x20", b"00"),
            syntax,
        ),
        (
            &signed,
            none,
            prxy(b"\x01\x05h.tld\x045223\x20", b"0"),
            has_auth,
        ),
        (
            none,
            &QUEUE,
            prxy(b"\x01\x05h.tld\x045223\x20", b"0"),
            has_auth,
        ),
    ];
    for version in Version::ALL {
        for (authorization, entity, content, expected) in &cases {
            let mark = version.has_services() && !authorization.is_empty();
            let bytes = raw(
                authorization,
                if mark { marker } else { none },
                entity,
                content,
            );
            let (named, code) = refusal(bytes, version);
            let text = String::from_utf8_lossy(content);
            assert_eq!(code, *expected, "{version} {text}");
            assert!(named, "{version} {text}");
        }
    }
}

#[test]
fn new_without_authorisation_or_with_entity() {
    let key = AuthSecret::X25519(x25519::SecretKey::from_bytes(&[1; 32]));
    let new = junto_smp::command::NewQueue {
        auth_key: key.public_key(),
        dh_key: x25519::SecretKey::from_bytes(&[1; 32]).public_key(),
        password: None,
        subscribe: false,
        mode: NewMode::Unspecified,
        notifier: None,
    };
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut alice = relay.connect(&newest(&relay)).unwrap();
    let new = || Command::New(Box::new(new.clone()));
    let got = alice.ask_one(&mut relay, Entity::None, None, new());
    assert_eq!(got, Got::Error(ErrorCode::NO_AUTH));
    let got = alice.ask_one(&mut relay, Entity::Queue(&QUEUE), Some(&key), new());
    assert_eq!(got, Got::Error(ErrorCode::HAS_AUTH));
}

#[test]
fn weak_delivery_keys_and_link_data_are_refused() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut alice = relay.connect(&newest(&relay)).unwrap();
    let key = AuthSecret::generate(&mut alice.rng);
    let new = |dh_key, mode| {
        Command::New(Box::new(junto_smp::command::NewQueue {
            auth_key: key.public_key(),
            dh_key,
            password: None,
            subscribe: false,
            mode,
            notifier: None,
        }))
    };
    let zero = x25519::PublicKey::from_bytes(&[0; 32]);
    let command = new(zero, NewMode::Messaging(None));
    let got = alice.ask_one(&mut relay, Entity::None, Some(&key), command);
    assert_eq!(got, Got::Error(ErrorCode::Crypto));
    let link = junto_smp::link::LinkData {
        sender: junto_smp::id::SenderId([1; 24]),
        blobs: junto_smp::link::LinkBlobs::new(b"fixed", b"user").unwrap(),
    };
    let good = x25519::SecretKey::from_bytes(&[1; 32]).public_key();
    let command = new(good, NewMode::Messaging(Some(link)));
    let got = alice.ask_one(&mut relay, Entity::None, Some(&key), command);
    assert_eq!(got, Got::Error(ErrorCode::PROHIBITED));
}

/// Trap 2: the byte after a non-empty authorisation exists from version 16 on only.
#[test]
fn the_service_marker_belongs_to_version_16_and_later() {
    let with = raw(&[1; 64], b"0", &QUEUE, b"SUB");
    let without = raw(&[1; 64], b"", &QUEUE, b"SUB");
    for version in Version::ALL {
        let marked = version.has_services();
        assert_eq!(refusal(with.clone(), version).1.is_none(), marked);
        assert_eq!(refusal(without.clone(), version).1.is_none(), !marked);
    }
}

/// The keys that stand in for unknown queues are in the source: what they authorise is refused.
#[test]
fn dummy_keys_authorise_nothing() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut alice = relay.connect(&newest(&relay)).unwrap();
    for dummy in [
        AuthSecret::Ed25519(ed25519::SigningKey::from_seed(&[0x4a; 32])),
        AuthSecret::X25519(x25519::SecretKey::from_bytes(&[0x4a; 32])),
    ] {
        let unknown = Entity::Queue(&QUEUE);
        let got = alice.ask_one(&mut relay, unknown, Some(&dummy), Command::Sub);
        assert_eq!(got, Got::Error(ErrorCode::Auth));
        let key = AuthSecret::generate(&mut alice.rng);
        let queue = create(&mut alice, &mut relay, key, NewMode::Contact(None), false);
        let flags = junto_smp::message::MessageFlags::default();
        for command in [Command::Sub, Command::Send { flags, body: b"x" }] {
            let recipient = matches!(command, Command::Sub);
            let entity = if recipient {
                queue.recipient()
            } else {
                queue.sender()
            };
            let got = alice.ask_one(&mut relay, entity, Some(&dummy), command);
            assert_eq!(got, Got::Error(ErrorCode::Auth));
        }
    }
}

#[test]
fn service_signatures_are_refused() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut handshake_block = new_block();
    let handshake = Handshake::start(
        &relay.identity,
        SESSION,
        &mut relay.rng,
        &mut handshake_block,
    )
    .unwrap();
    let connection = handshake
        .finish(&relay.identity, &mut plain_hello(&relay, Version::MAX))
        .unwrap();
    let marker = [b"1\x40".as_slice(), &[2; 64]].concat();
    let mut bytes = raw(&[1; 64], &marker, &QUEUE, b"SUB");
    let request = Request::decode(&mut bytes, Version::MAX, &SESSION).unwrap();
    let refusal = connection
        .requests
        .authorise(request, &Credential::Nobody)
        .unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Service);
}

fn plain_hello(relay: &Relay, version: Version) -> Box<Block> {
    let mut block = new_block();
    ClientHello {
        version,
        identity: relay.identity.fingerprint(),
        key: None,
        proxy: false,
        service: None,
    }
    .encode(&mut block)
    .unwrap();
    block
}

#[test]
fn services_that_say_nothing_of_themselves_are_none() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    for version in Version::ALL {
        let mut first = new_block();
        let handshake =
            Handshake::start(&relay.identity, SESSION, &mut relay.rng, &mut first).unwrap();
        let mut hello = plain_hello(&relay, version);
        // The last byte of the hello says whether a service follows.
        let length = usize::from(u16::from_be_bytes([hello[0], hello[1]]));
        hello[1 + length] = b'1';
        let refused = handshake.finish(&relay.identity, &mut hello).err();
        assert_eq!(refused, Some(HelloFault::Syntax), "{version}");
    }
}

/// Queue keys of old clients: Ed448. Also with the wrong kind of key, and none.
#[test]
fn ed448_signatures_authorise() {
    let secret = ed448_goldilocks::SigningKey::try_from([7; 57].as_slice()).unwrap();
    let public = secret.verifying_key().to_bytes();
    let public = ed448::VerifyingKey::from_bytes(&public).unwrap();
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut first = new_block();
    let handshake = Handshake::start(&relay.identity, SESSION, &mut relay.rng, &mut first).unwrap();
    let connection = handshake
        .finish(&relay.identity, &mut plain_hello(&relay, Version::MAX))
        .unwrap();
    let header = raw(&[], &[], &QUEUE, b"SUB");
    let authorised = [[32].as_slice(), &SESSION.0, &header[1..]].concat();
    let signature = secret.sign_raw(&authorised).to_bytes();
    let check = |signature: &[u8], credential: &Credential| {
        let mut bytes = raw(signature, b"0", &QUEUE, b"SUB");
        let request = Request::decode(&mut bytes, Version::MAX, &SESSION).unwrap();
        connection.requests.authorise(request, credential).is_ok()
    };
    let right = Credential::Key(AuthKey::Ed448(Box::new(public)));
    assert!(check(&signature, &right));
    let mut forged = signature;
    forged[3] ^= 1;
    assert!(!check(&forged, &right));
    let other = ed25519::SigningKey::from_seed(&[1; 32]).verifying_key();
    assert!(!check(
        &signature,
        &Credential::Key(AuthKey::Ed25519(other))
    ));
    assert!(!check(&signature, &Credential::Nobody));
    assert!(!check(&signature, &Credential::Open));
}

#[test]
fn authorisations_do_not_survive_their_session() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let plain = Options {
        encrypt: false,
        ..newest(&relay)
    };
    let mut alice = relay.connect(&plain).unwrap();
    let other = relay.connect(&plain).unwrap();
    let key = AuthSecret::generate(&mut alice.rng);
    let queue = create(&mut alice, &mut relay, key, NewMode::Messaging(None), false);
    let request = ClientRequest {
        entity: queue.recipient(),
        key: Some(&queue.key),
        command: Command::Delete,
    };
    alice
        .client
        .push(&mut alice.outgoing, &request, 0, &mut alice.rng)
        .unwrap();
    let block = Box::new(*alice.client.seal(&mut alice.outgoing).unwrap());
    // The same bytes in another session: the answer names an unknown request, the queue stays.
    relay.block(other.number, &mut block.clone()).unwrap();
    assert_eq!(relay.queues.len(), 1);
    relay.block(alice.number, &mut block.clone()).unwrap();
    assert!(relay.queues.is_empty());
}

#[test]
fn sealed_blocks_do_not_come_twice() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut alice = relay.connect(&newest(&relay)).unwrap();
    let ping = ClientRequest {
        entity: Entity::None,
        key: None,
        command: Command::Ping,
    };
    alice
        .client
        .push(&mut alice.outgoing, &ping, 0, &mut alice.rng)
        .unwrap();
    let block = Box::new(*alice.client.seal(&mut alice.outgoing).unwrap());
    relay.block(alice.number, &mut block.clone()).unwrap();
    let fault = relay.block(alice.number, &mut block.clone()).unwrap_err();
    assert_eq!(fault, BlockFault::Sealed);
    assert!(fault.is_fatal());
}

#[test]
fn bad_framing_is_answered_and_survived() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let plain = Options {
        encrypt: false,
        ..newest(&relay)
    };
    let mut alice = relay.connect(&plain).unwrap();
    let mut block = new_block();
    block.fill(b'#');
    block[..5].copy_from_slice(&[0, 3, 1, 0, 9]);
    let fault = relay.block(alice.number, &mut block).unwrap_err();
    assert_eq!(fault, BlockFault::Batch);
    assert!(!fault.is_fatal());
    let events = alice.take_events(&mut relay);
    assert_eq!(events, [(None, Got::Unexpected)], "ERR BLOCK to nobody");
    let got = alice.ask_one(&mut relay, Entity::None, None, Command::Ping);
    assert_eq!(got, Got::Pong);
}

/// One bad transmission does not spoil the others of its block.
#[test]
fn refusals_stay_apart_in_a_batch() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let plain = Options {
        encrypt: false,
        ..newest(&relay)
    };
    let alice = relay.connect(&plain).unwrap();
    let mut outgoing = OutgoingBlock::new();
    for bytes in [
        raw(&[], &[], &[], b"PING"),
        vec![200, 1, 2],
        raw(&[1; 63], &[], &[], b"PING"),
        raw(&[], &[], &[], b"WHAT"),
        raw(&[], &[], &QUEUE, b"SEND T x"),
    ] {
        outgoing.push(|writer| writer.bytes(&bytes)).unwrap();
    }
    let mut block = Box::new(*outgoing.seal(&mut Protection::Plain).unwrap());
    relay.block(alice.number, &mut block).unwrap();
    let mut sent = relay.take_sent(alice.number);
    assert_eq!(sent.len(), 1);
    let text = Protection::Plain.open(&mut sent[0]).unwrap();
    let batch = junto_smp::block::Batch::parse(text).unwrap();
    let answers: Vec<String> = batch
        .map(|bytes| {
            let parsed =
                junto_smp::transmission::Transmission::decode(bytes, Version::MAX, &SESSION)
                    .unwrap();
            let to = if parsed.correlation.is_some() {
                ""
            } else {
                "? "
            };
            format!("{to}{}", String::from_utf8_lossy(parsed.content))
        })
        .collect();
    assert_eq!(
        answers,
        [
            "PONG",
            "? ERR BLOCK",
            // 63 bytes and a missing marker: the correlation id is out of reach.
            "? ERR BLOCK",
            "ERR CMD UNKNOWN",
            "ERR AUTH"
        ]
    );
    assert_eq!(Refusal::BLOCK.code, ErrorCode::Block);
}

/// A server that lies to its client.
#[test]
fn clients_notice_answers_that_do_not_fit() {
    use junto_smp::response::Response;
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let plain = Options {
        encrypt: false,
        ..newest(&relay)
    };
    let mut alice = relay.connect(&plain).unwrap();
    let key = AuthSecret::generate(&mut alice.rng);
    let mut ask = |answer: Response<'_>, entity: Entity<'_>, known: bool| {
        let request = ClientRequest {
            entity: Entity::Queue(&QUEUE),
            key: Some(&key),
            command: Command::Sub,
        };
        alice
            .client
            .push(&mut alice.outgoing, &request, 0, &mut alice.rng)
            .unwrap();
        let mut sent = Box::new(*alice.client.seal(&mut alice.outgoing).unwrap());
        let text = Protection::Plain.open(&mut sent).unwrap();
        let transmission = junto_smp::block::Batch::parse(text)
            .unwrap()
            .next()
            .unwrap();
        // Behind the signature and its marker stands the correlation id.
        let correlation = if known {
            &transmission[67..91]
        } else {
            &[1; 24]
        };
        let mut outgoing = OutgoingBlock::new();
        outgoing
            .push(|writer| {
                writer.short(&[]);
                writer.short(correlation);
                writer.short(entity.as_bytes());
                answer.encode(writer, Version::MAX);
            })
            .unwrap();
        let mut block = Box::new(*outgoing.seal(&mut Protection::Plain).unwrap());
        let mut replies = alice.client.receive(&mut block).unwrap();
        match replies.next().unwrap() {
            Incoming::Reply { result, .. } => format!("{result:?}"),
            Incoming::Event(Event::Fault) => "fault".into(),
            Incoming::Event(event) => format!("{event:?}"),
            Incoming::Stray => "stray".into(),
        }
    };
    let queue = Entity::Queue(&QUEUE);
    assert_eq!(ask(Response::Ok, queue, true), "Ok(Ok)");
    assert_eq!(ask(Response::Pong, Entity::None, true), "Err(Unexpected)");
    assert_eq!(ask(Response::Info(b"{}"), queue, true), "Err(Unexpected)");
    assert_eq!(ask(Response::End, queue, true), "Err(Unexpected)");
    assert_eq!(
        ask(Response::Ok, Entity::Queue(&[9; 24]), true),
        "Err(Unexpected)"
    );
    assert_eq!(ask(Response::Ok, Entity::None, true), "Err(Unexpected)");
    assert_eq!(
        ask(Response::Error(ErrorCode::Auth), Entity::None, true),
        "Err(Refused(Auth))"
    );
    assert_eq!(ask(Response::Ok, queue, false), "stray");
}
