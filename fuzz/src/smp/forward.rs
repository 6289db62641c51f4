//! Private routing: what a destination opens from a proxy, and what a sender opens from a
//! destination. The target knows all keys and seals what the fuzzer invents, so that it gets behind
//! both boxes.

use junto_crypto::{pad, secretbox::BoxKey, x25519};
use junto_smp::{
    block::{BATCH_BYTES_MAX, Block, OutgoingBlock, SessionId, new_block},
    client::{Client, Incoming, Options, Request},
    command::Command,
    hello::{LeafKey, ServerHello},
    id::{CorrelationId, Entity},
    message::MessageFlags,
    proxy::{Destination, Forward, Introduction, decode_relayed, single},
    queue::Credential,
    response::Response,
    server::{Connection, Forwarded, Handshake},
    version::{Version, VersionRange},
};

use super::{
    server::{LEAF_SEED, identity, session},
    written,
};
use crate::{input::Input, seeds};

/// A client with a server, and the server's secret hello key.
struct Line {
    client: Client<u8>,
    server: Connection,
    secret: x25519::SecretKey,
    introduction: Introduction,
}

fn leaf() -> LeafKey {
    LeafKey::Ed25519(junto_crypto::ed25519::SigningKey::from_seed(&LEAF_SEED).verifying_key())
}

fn line(proxy: bool, version: Version) -> Line {
    let identity = identity();
    let options = Options {
        versions: VersionRange::only(version),
        encrypt: false,
        proxy,
        ..Options::new(identity.fingerprint())
    };
    let mut rng = seeds::rng(5);
    // The handshake draws this key first.
    let secret = x25519::SecretKey::generate(&mut seeds::rng(5));
    let (mut hello, mut answer) = (new_block(), new_block());
    let handshake = Handshake::start(&identity, session(0), &mut rng, &mut hello).unwrap();
    let client = Client::open(
        &options,
        session(0),
        &leaf(),
        &mut hello,
        &mut answer,
        &mut rng,
    )
    .unwrap();
    let said = ServerHello::decode(pad::unpad(hello.as_slice()).unwrap()).unwrap();
    Line {
        client,
        secret,
        introduction: Introduction::new(&said).unwrap(),
        server: handshake.finish(&identity, &mut answer).unwrap(),
    }
}

fn destination(line: &Line) -> Destination {
    let pin = identity().fingerprint();
    let answer = line.introduction.answer();
    Destination::verify(&answer, pin, &leaf(), VersionRange::SUPPORTED).unwrap()
}

/// The decoders, then one of the two machines.
pub(crate) fn forward(bytes: &[u8]) {
    relayed(bytes);
    let mut text = bytes.to_vec();
    if let Ok(one) = single(&mut text) {
        let one = one.to_vec();
        let inner = pad::unpad(bytes).unwrap();
        assert_eq!((inner[0], &inner[3..]), (1, one.as_slice()));
    }
    let mut input = Input(bytes);
    let kind = input.u8();
    let version = Version::ALL[usize::from(input.u8()) % Version::ALL.len()];
    if kind & 1 == 0 {
        at_destination(&mut input, version);
    } else {
        at_sender(input.0, version);
    }
}

fn relayed(bytes: &[u8]) {
    if let Ok((correlation, forward)) = decode_relayed(bytes) {
        let again = written(|writer| {
            writer.short(&correlation.0);
            writer.u16(forward.version);
            writer.short(&forward.key.to_spki());
            writer.bytes(forward.sealed);
        });
        assert_eq!(again, bytes);
    }
}

/// Every piece is the text of an inner box, in a valid envelope; a last byte chooses how valid.
fn at_destination(input: &mut Input<'_>, version: Version) {
    let mut line = line(true, version);
    let mut outgoing = OutgoingBlock::new();
    let mut rng = seeds::rng(6);
    while !input.is_empty() {
        let inner_version = input.u16();
        let text = input.piece();
        let sender = x25519::SecretKey::generate(&mut rng);
        let correlation = CorrelationId::random(&mut rng);
        let key = BoxKey::from_shared(&sender.diffie_hellman(&line.secret.public_key()).unwrap());
        let mut sealed = Vec::new();
        key.seal(&correlation.nonce(), text, &mut sealed);
        sealed.truncate(BATCH_BYTES_MAX - 200);
        let forward = Forward {
            version: inner_version,
            key: sender.public_key(),
            sealed: &sealed,
        };
        let pushed = line
            .client
            .push_relayed(&mut outgoing, &correlation, &forward, 0, &mut rng);
        assert!(pushed.is_ok());
        let mut block = Box::new(*line.client.seal(&mut outgoing).unwrap());
        carry_out(&mut line.server, &mut outgoing, &mut block);
        let mut block = Box::new(*line.server.replies.seal(&mut outgoing).unwrap());
        let mut replies = line.client.receive(&mut block).unwrap();
        let Some(Incoming::Reply { result, .. }) = replies.next() else {
            panic!("an answer to each command");
        };
        // If there is a box, it opens for the sender.
        if let Ok(response) = result {
            let Response::ProxyAnswer(sealed) = response else {
                panic!("an answer of the wrong kind");
            };
            let text = key.open(&correlation.nonce().reversed(), sealed).unwrap();
            assert!(single(&mut text.to_vec()).is_ok());
        }
    }
}

fn carry_out(server: &mut Connection, outgoing: &mut OutgoingBlock, block: &mut Block) {
    let Connection { requests, replies } = server;
    let batch: Vec<_> = requests.open(block).unwrap().collect();
    for request in batch {
        let command = requests
            .authorise(request.unwrap(), &Credential::Open)
            .unwrap();
        let Command::RelayForward(sealed) = command.command() else {
            panic!("nothing else was sent");
        };
        let mut room = new_block();
        let outer = command.correlation();
        let pushed = match requests.open_forwarded(outer, sealed, &mut room) {
            Err(code) => replies.push(outgoing, Some(&outer), Entity::None, &Response::Error(code)),
            Ok(Forwarded { request, back }) => {
                let refusal = match request {
                    Err(refusal) => refusal,
                    Ok(request) => {
                        assert!(request.command().is_forwardable());
                        requests
                            .authorise(request, &Credential::Nobody)
                            .unwrap_err()
                    }
                };
                let response = Response::Error(refusal.code);
                let correlation = refusal.correlation.as_ref();
                replies.push_forwarded(outgoing, &back, correlation, refusal.entity, &response)
            }
        };
        pushed.expect("an empty block takes everything");
    }
}

/// The bytes are the text of the box in a `PRES`.
fn at_sender(text: &[u8], version: Version) {
    let mut line = line(false, version);
    let destination = destination(&line);
    let mut outgoing = OutgoingBlock::new();
    let mut rng = seeds::rng(6);
    let queue = [2; 24];
    let request = Request {
        entity: Entity::Queue(&queue),
        key: None,
        command: Command::Send {
            flags: MessageFlags::default(),
            body: b"body",
        },
    };
    let pushed = line
        .client
        .push_forwarded(&mut outgoing, &destination, &request, 0, &mut rng);
    assert!(pushed.is_ok());
    let mut block = Box::new(*line.client.seal(&mut outgoing).unwrap());
    let request = line
        .server
        .requests
        .open(&mut block)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let Command::ProxyForward(forward) = request.command() else {
        panic!("nothing else was sent");
    };
    let correlation = request.correlation();
    let key = BoxKey::from_shared(&line.secret.diffie_hellman(&forward.key).unwrap());
    let mut sealed = Vec::new();
    key.seal(&correlation.nonce().reversed(), text, &mut sealed);
    sealed.truncate(BATCH_BYTES_MAX - 200);
    let SessionId(name) = destination.session();
    let entity = Entity::Other(&name);
    let said = Response::ProxyAnswer(&sealed);
    line.server
        .replies
        .push(&mut outgoing, Some(&correlation), entity, &said)
        .unwrap();
    let mut block = Box::new(*line.server.replies.seal(&mut outgoing).unwrap());
    let mut replies = line.client.receive(&mut block).unwrap();
    let Some(Incoming::Reply { result, .. }) = replies.next() else {
        panic!("an answer");
    };
    let _ = result.map(|response| assert_eq!(response, Response::Ok));
}

/// Commands and answers, valid and nearly so.
pub(crate) fn seeds_of_forward() -> Vec<Vec<u8>> {
    let one = |content: &[u8]| {
        let transmission = written(|writer| {
            writer.short(&[]);
            writer.short(&[1; 24]);
            writer.short(&[2; 24]);
            writer.bytes(content);
        });
        let batch = written(|writer| {
            writer.u8(1);
            writer.large(&transmission);
        });
        let mut padded = Vec::new();
        pad::pad(&batch, &mut padded, batch.len() + 2).unwrap();
        padded
    };
    let mut all = Vec::new();
    for content in [&b"SEND T hi"[..], b"LGET", b"SUB", b"PING", b""] {
        let mut seed = vec![0, 2, 0, 17];
        crate::input::piece(&mut seed, &one(content));
        all.push(seed);
    }
    for content in [&b"OK"[..], b"ERR AUTH", b"ERR PROXY NO_SESSION", b"PONG"] {
        all.push([&[1, 2][..], &one(content)].concat());
    }
    all.push(one(b"SEND T hi"));
    all.push(written(|writer| {
        writer.short(&[1; 24]);
        writer.u16(17);
        writer.short(
            &x25519::SecretKey::from_bytes(&[9; 32])
                .public_key()
                .to_spki(),
        );
        writer.bytes(b"box");
    }));
    all
}
