//! The queue protocol: its decoders, then its machines.

mod client;
mod forward;
mod queue;
pub(crate) mod server;

pub(crate) use client::{client, waiting};
pub(crate) use forward::{forward, seeds_of_forward};
use junto_crypto::{ed25519, pad, x25519};
use junto_smp::{
    address::ServerAddress,
    block::{Batch, Block, BlockFault, OutgoingBlock, Protection, SessionId, new_block},
    command::Command,
    encoding::Writer,
    hello::{ClientHello, LeafKey, ServerHello, SignedKey},
    id::MessageId,
    key::AuthKey,
    message::{Delivered, DeliveryKey, SEALED_BYTES},
    notification::{self, NotificationKey, NotificationNonce},
    response::Response,
    service::ServiceAnswer,
    transmission::{Authorization, Transmission},
    version::{Version, VersionRange},
};
pub(crate) use queue::queue;
pub(crate) use server::server;

/// What an encoder writes.
pub(crate) fn written(encode: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = vec![0; 128 * 1024];
    let mut writer = Writer::new(&mut buffer);
    encode(&mut writer);
    let used = writer.finish().expect("room for what was decoded");
    buffer.truncate(used);
    buffer
}

/// A plain block around `text`, cut to what fits.
pub(crate) fn plain(text: &[u8]) -> Box<Block> {
    let text = &text[..text
        .len()
        .min(junto_smp::block::BLOCK_BYTES - pad::OVERHEAD_BYTES)];
    let mut padded = Vec::new();
    pad::pad(text, &mut padded, junto_smp::block::BLOCK_BYTES).unwrap();
    let mut block = new_block();
    block.copy_from_slice(&padded);
    block
}

/// `smp://…`
pub(crate) fn address(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(address) = text.parse::<ServerAddress>() {
        // The port and the padding of the fingerprint may be left out.
        let printed = address.to_string();
        assert_eq!(printed.parse::<ServerAddress>(), Ok(address));
        assert!(printed.len() >= text.len());
    }
}

/// Keys as DER.
pub(crate) fn keys(bytes: &[u8]) {
    if let Ok(key) = AuthKey::from_spki(bytes) {
        let mut spki = Vec::new();
        key.write_spki(&mut spki);
        assert_eq!(spki, bytes);
    }
    let leaf = LeafKey::from_spki(bytes);
    // The key of a service, in place of a server's.
    if let Ok(signed) = SignedKey::<ed25519::VerifyingKey>::from_der(bytes) {
        assert_eq!(signed.to_der(), bytes);
        assert!(SignedKey::<x25519::PublicKey>::from_der(bytes).is_err());
    }
    if let Ok(signed) = SignedKey::<x25519::PublicKey>::from_der(bytes) {
        assert_eq!(signed.to_der(), bytes);
        let known = ed25519::SigningKey::from_seed(&[1; 32]).verifying_key();
        for leaf in [leaf, Ok(LeafKey::Ed25519(known))].into_iter().flatten() {
            let _ = signed.verify(&leaf);
        }
    }
}

/// The server's hello: whatever follows it is ignored.
pub(crate) fn server_hello(bytes: &[u8]) {
    let Ok(hello) = ServerHello::decode(bytes) else {
        return;
    };
    let mut block = new_block();
    if hello.encode(&mut block).is_ok() {
        let encoded = pad::unpad(block.as_slice()).unwrap();
        assert!(bytes.starts_with(encoded));
    }
    let leaf = LeafKey::Ed25519(ed25519::SigningKey::from_seed(&[1; 32]).verifying_key());
    let identity = hello.chain.get(1).expect("two certificates at least");
    let pin = junto_smp::address::Fingerprint::of_certificate(identity);
    let _ = hello.verify(&hello.session, pin, &leaf);
}

/// The client's hello: whatever follows it is ignored.
pub(crate) fn client_hello(bytes: &[u8]) {
    for offered in [VersionRange::SUPPORTED, VersionRange::new(15, 16).unwrap()] {
        let Ok(hello) = ClientHello::decode(bytes, offered) else {
            continue;
        };
        assert!(offered.contains(hello.version.number()));
        let mut block = new_block();
        // It fits, as it came in a block; here it may be longer.
        if hello.encode(&mut block).is_ok() {
            let encoded = pad::unpad(block.as_slice()).unwrap();
            assert!(bytes.starts_with(encoded));
        }
    }
    // The third block, by which a server answers a service.
    let mut block = plain(bytes);
    if let Ok(answer @ ServiceAnswer::Accepted(_)) = ServiceAnswer::decode(&mut block) {
        let mut again = new_block();
        answer.encode(&mut again).unwrap();
        assert!(bytes.starts_with(pad::unpad(again.as_slice()).unwrap()));
    }
}

/// A received block: its padding, its batch, and its seal.
pub(crate) fn block(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else {
        return;
    };
    let mut block = plain(rest);
    if kind & 1 == 1 {
        // Padding and all.
        let length = rest.len().min(block.len());
        block[..length].copy_from_slice(&rest[..length]);
    }
    let mut sealed = block.clone();
    let text = match Protection::Plain.open(&mut block) {
        Ok(text) => text.to_vec(),
        Err(fault) => return assert_eq!(fault, BlockFault::Padding),
    };
    let mut parsed = text.clone();
    if let Ok(batch) = Batch::parse(&mut parsed) {
        let mut outgoing = OutgoingBlock::new();
        let all = batch
            .map(|transmission| outgoing.push(|writer| writer.bytes(transmission)))
            .collect::<Vec<_>>();
        assert!((1..=255).contains(&all.len()));
        // Sealed blocks hold 16 bytes less, and we keep to that.
        if all.iter().all(Result::is_ok) {
            let again = outgoing.seal(&mut Protection::Plain).unwrap();
            assert_eq!(pad::unpad(again.as_slice()).unwrap(), text);
        }
    }
    assert_eq!(
        server::chain().open(&mut sealed),
        Err(BlockFault::Sealed),
        "nobody can seal"
    );
}

/// A transmission, of a command or an answer.
pub(crate) fn transmission(bytes: &[u8]) {
    let session = SessionId([0xab; 32]);
    for version in Version::ALL {
        let mut received = bytes.to_vec();
        let Ok(parsed) = Transmission::decode(&mut received, version, &session) else {
            continue;
        };
        let correlation = parsed.correlation.map(|id| id.0);
        let tail = written(|writer| {
            writer.short(correlation.as_ref().map_or(&[], |id| id.as_slice()));
            writer.short(parsed.entity.as_bytes());
            writer.bytes(parsed.content);
        });
        let head = bytes.strip_suffix(tail.as_slice()).unwrap();
        let authorization = match &parsed.authorization {
            Authorization::None => &[][..],
            Authorization::Ed25519(signature) => signature.as_bytes(),
            Authorization::Ed448(signature) => signature.as_bytes(),
            Authorization::Authenticator(bytes) => bytes,
        };
        let service: &[u8] = match (authorization.is_empty(), version.has_services()) {
            (true, _) | (_, false) => &[],
            (false, true) if parsed.service_signature.is_some() => &head[head.len() - 66..],
            (false, true) => b"0",
        };
        let expected = written(|writer| {
            writer.short(authorization);
            writer.bytes(service);
        });
        assert_eq!(head, expected);
        if authorization.is_empty() {
            assert!(parsed.authorised().is_empty());
        } else {
            let covered = [&[32][..], &session.0, &tail].concat();
            assert_eq!(parsed.authorised(), covered);
        }
        let nobody = junto_smp::transmission::verify(
            &parsed,
            None,
            &junto_crypto::x25519::SecretKey::from_bytes(&[4; 32]),
        );
        assert!(!nobody);
    }
}

/// Commands of every version.
pub(crate) fn command(bytes: &[u8]) {
    for version in Version::ALL {
        match Command::decode(bytes, version) {
            Ok(command) => {
                let encoded = written(|writer| command.encode(writer, version));
                if let Command::Proxy(_) | Command::Resolve(_) = command {
                    // The port may be left out, and IPv6 addresses come with or without brackets; what a later
                    // version may add behind a name is passed over.
                    assert_eq!(Command::decode(&encoded, version).as_ref(), Ok(&command));
                } else {
                    assert_eq!(encoded, bytes);
                }
                let _ = command.check_credentials(true, junto_smp::id::Entity::from_bytes(bytes));
            }
            // Every refusal can be said.
            Err(code) => {
                let said = Response::Error(code);
                let text = written(|writer| said.encode(writer, version));
                assert_eq!(Response::decode(&text, version), Ok(said));
            }
        }
    }
}

/// Answers and events of every version.
pub(crate) fn response(bytes: &[u8]) {
    for version in Version::ALL {
        let Ok(response) = Response::decode(bytes, version) else {
            continue;
        };
        let encoded = written(|writer| response.encode(writer, version));
        if let Response::Error(_) = response {
            // Texts in errors are dropped, and before version 18 notices: what is left stays.
            let again = Response::decode(&encoded, version).unwrap();
            assert_eq!(written(|writer| again.encode(writer, version)), encoded);
            if version.has_notices() {
                assert_eq!(again, response);
            }
        } else {
            assert_eq!(encoded, bytes);
        }
    }
}

/// What a `MSG` holds, closed and opened.
pub(crate) fn message(bytes: &[u8]) {
    if let Ok(delivered) = Delivered::decode(bytes) {
        let encoded = match delivered {
            Delivered::Message { time, flags, body } => written(|writer| {
                writer.u64(time.0);
                writer.bool(flags.notify);
                writer.u8(b' ');
                writer.bytes(body);
            }),
            Delivered::QuotaReached { time } => written(|writer| {
                writer.bytes(b"QUOTA ");
                writer.u64(time.0);
            }),
        };
        assert_eq!(encoded, bytes);
    }
    let key = DeliveryKey::from_bytes(&[6; 32]);
    let mut sealed = bytes.to_vec();
    sealed.resize(SEALED_BYTES, 0);
    for boxed in [bytes, &sealed] {
        assert!(key.open(&MessageId([1; 24]), boxed).is_err());
    }
    let key = NotificationKey::from_bytes(&[6; 32]);
    sealed.resize(notification::SEALED_BYTES, 0);
    for boxed in [bytes, &sealed] {
        assert!(key.open(&NotificationNonce([1; 24]), boxed).is_err());
    }
}
