//! Commands and transmissions that a proper client does not send, and their exact errors.

use junto_relay::bench::Peer;
use junto_smp::block::{BLOCK_BYTES, Batch, Block, OutgoingBlock, Protection, new_block};
use junto_smp::error::ErrorCode;
use junto_smp::response::Response;
use junto_smp::transmission::Transmission;
use junto_smp::version::{Version, VersionRange};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::World;

const CORRELATION: [u8; 24] = [3; 24];
const QUEUE: [u8; 24] = [9; 24];

/// A connection without block encryption, on which anything can be said.
pub(crate) struct Raw(pub(crate) Peer);

/// An answer or event: its correlation id, and the error if it is one.
type Heard = (Option<[u8; 24]>, Option<ErrorCode>);

impl Raw {
    pub(crate) async fn connect(world: &World, version: Version) -> Self {
        let range = VersionRange::only(version);
        let peer = Peer::connect_with(&world.address(), range, false).await;
        Self(peer.unwrap())
    }

    async fn write(&mut self, block: &Block) {
        self.0.stream().write_all(block).await.unwrap();
        self.0.stream().flush().await.unwrap();
    }

    async fn read(&mut self) -> Vec<Heard> {
        let mut block = new_block();
        self.0.stream().read_exact(&mut *block).await.unwrap();
        let (version, session) = (self.0.version(), self.0.session());
        let text = Protection::Plain.open(&mut block).unwrap();
        let transmissions = Batch::parse(text).unwrap();
        transmissions
            .map(|bytes| {
                let parsed = Transmission::decode(bytes, version, &session).unwrap();
                let code = match Response::decode(parsed.content, version).unwrap() {
                    Response::Error(code) => Some(code),
                    _ => None,
                };
                // What other servers add to it is dropped when it is read.
                if code == Some(ErrorCode::Name) {
                    assert_eq!(parsed.content, b"ERR NAME NO_RESOLVER");
                }
                (parsed.correlation.map(|id| id.0), code)
            })
            .collect()
    }

    /// Sends one transmission; its answer must be one, too.
    pub(crate) async fn say(&mut self, transmission: &[u8]) -> Heard {
        let mut outgoing = OutgoingBlock::new();
        outgoing.push(|writer| writer.bytes(transmission)).unwrap();
        let block = Box::new(*outgoing.seal(&mut Protection::Plain).unwrap());
        self.write(&block).await;
        let heard = self.read().await;
        assert_eq!(heard.len(), 1);
        heard[0]
    }
}

/// A transmission with an authorisation of these bytes.
pub(crate) fn transmission(
    version: Version,
    authorization: &[u8],
    entity: &[u8],
    content: &[u8],
) -> Vec<u8> {
    let short = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let service = match authorization {
        [] => &b""[..],
        _ if version.has_services() => b"0",
        _ => b"",
    };
    [
        &short(authorization),
        service,
        &short(&CORRELATION),
        &short(entity),
        content,
    ]
    .concat()
}

/// Authorisation, entity, content, and the error.
type Case<'a> = (&'a [u8], &'a [u8], Vec<u8>, ErrorCode);

pub(crate) async fn commands_get_their_exact_error(world: World) {
    let none: &[u8] = b"";
    let signed: &[u8] = &[1; 64];
    let key =
        junto_smp::key::AuthSecret::X25519(junto_crypto::x25519::SecretKey::from_bytes(&[1; 32]));
    let mut spki = Vec::new();
    key.public_key().write_spki(&mut spki);
    let with_key = |word: &[u8]| [word, &[44], &spki].concat();
    let blob = |length: u16| [&length.to_be_bytes()[..], &vec![7; length.into()]].concat();
    let set_link = |fixed, user| [&b"LSET \x18"[..], &QUEUE, &blob(fixed), &blob(user)].concat();
    let auth = ErrorCode::Auth;
    let syntax = ErrorCode::SYNTAX;
    let unknown = ErrorCode::UNKNOWN;
    let no_auth = ErrorCode::NO_AUTH;
    let has_auth = ErrorCode::HAS_AUTH;
    let no_entity = ErrorCode::NO_ENTITY;
    let cases: Vec<Case<'_>> = vec![
        (none, none, b"".to_vec(), unknown),
        (none, none, b"ping".to_vec(), unknown),
        (none, none, b"HELLO".to_vec(), unknown),
        (none, none, b"PING ".to_vec(), syntax),
        (signed, none, b"PING".to_vec(), has_auth),
        (none, &QUEUE, b"PING".to_vec(), has_auth),
        (signed, none, b"NEW".to_vec(), syntax),
        (signed, none, b"NEW x".to_vec(), syntax),
        (signed, &QUEUE, b"SUB".to_vec(), auth),
        (signed, &QUEUE, b"SUB ".to_vec(), syntax),
        (none, &QUEUE, b"SUB".to_vec(), no_auth),
        (signed, none, b"SUB".to_vec(), no_auth),
        (signed, &QUEUE, b"ACK".to_vec(), syntax),
        (signed, &QUEUE, b"ACK \x01x".to_vec(), syntax),
        (signed, &QUEUE, b"ACK \x00".to_vec(), auth),
        (none, &QUEUE, b"SEND T hi".to_vec(), auth),
        (none, none, b"SEND T hi".to_vec(), no_entity),
        (none, &QUEUE, b"SEND hi".to_vec(), syntax),
        (none, &QUEUE, b"SEND X hi".to_vec(), syntax),
        (none, &[9; 23], b"SEND T hi".to_vec(), auth),
        (none, &[9; 32], b"SEND T hi".to_vec(), auth),
        (signed, &QUEUE, with_key(b"KEY "), auth),
        (signed, &QUEUE, with_key(b"KEY"), unknown),
        (signed, &QUEUE, b"KEY x".to_vec(), syntax),
        (none, &QUEUE, with_key(b"SKEY "), no_auth),
        (signed, &QUEUE, with_key(b"SKEY "), auth),
        (signed, &QUEUE, with_key(b"LKEY "), auth),
        (signed, &QUEUE, with_key(b"RKEY \x01"), auth),
        (signed, &QUEUE, with_key(b"RKEY \x02"), syntax),
        (signed, &QUEUE, b"RKEY \x00".to_vec(), syntax),
        (none, &QUEUE, b"LGET".to_vec(), auth),
        (signed, &QUEUE, b"LGET".to_vec(), has_auth),
        (none, none, b"LGET".to_vec(), no_entity),
        (signed, &QUEUE, set_link(2_048, 13_824), auth),
        (signed, &QUEUE, set_link(2_049, 1), syntax),
        (signed, &QUEUE, set_link(1, 13_825), syntax),
        (signed, &QUEUE, b"LDEL".to_vec(), auth),
        (none, &QUEUE, b"LDEL".to_vec(), no_auth),
        (signed, &QUEUE, with_key(b"NKEY "), syntax),
        (signed, &QUEUE, b"NDEL".to_vec(), auth),
        (signed, &QUEUE, b"NSUB".to_vec(), auth),
        (none, &QUEUE, b"NSUB".to_vec(), no_auth),
        (none, none, b"RSLV".to_vec(), syntax),
        (none, none, b"RSLV ".to_vec(), syntax),
        (none, none, b"RSLV x".to_vec(), syntax),
        (none, none, b"RSLV x.simplex".to_vec(), ErrorCode::Name),
        (none, none, b"RSLV x.simplex y".to_vec(), ErrorCode::Name),
        (signed, none, b"RSLV x.simplex".to_vec(), has_auth),
        (none, &QUEUE, b"RSLV x.simplex".to_vec(), has_auth),
    ];
    for version in Version::ALL {
        let mut raw = Raw::connect(&world, version).await;
        for (authorization, entity, content, expected) in &cases {
            let sent = transmission(version, authorization, entity, content);
            let heard = raw.say(&sent).await;
            let text = String::from_utf8_lossy(content);
            assert_eq!(
                heard,
                (Some(CORRELATION), Some(*expected)),
                "{version} {text:.9}"
            );
        }
        // The bare command was not at fault: the connection is still good.
        let ping = transmission(version, none, none, b"PING");
        assert_eq!(raw.say(&ping).await, (Some(CORRELATION), None));
    }
}

pub(crate) async fn transmissions_that_do_not_parse_get_block(world: World) {
    let block = Some(ErrorCode::Block);
    for version in Version::ALL {
        let mut raw = Raw::connect(&world, version).await;
        for length in [1, 63, 65, 79, 81, 113, 115, 255] {
            let odd = transmission(version, &vec![1; length], &QUEUE, b"SUB");
            assert_eq!(raw.say(&odd).await, (Some(CORRELATION), block), "{length}");
        }
        assert_eq!(raw.say(b"").await, (None, block));
        assert_eq!(raw.say(&[0, 24, 1]).await, (None, block));
        // No correlation id: the answer would look like an event.
        assert_eq!(raw.say(b"\x00\x00\x00PING").await, (None, block));
        let mut whole = new_block();
        for (head, text) in [
            (&[0, 1][..], &[0][..]),
            (&[0, 4], &[2, 0, 1, 7]),
            (&[0, 4], &[1, 0xff, 0xff, 7]),
        ] {
            *whole = [b'#'; BLOCK_BYTES];
            whole[..2].copy_from_slice(head);
            whole[2..2 + text.len()].copy_from_slice(text);
            raw.write(&whole).await;
            assert_eq!(raw.read().await, [(None, block)], "{text:?}");
        }
        let ping = transmission(version, b"", b"", b"PING");
        assert_eq!(raw.say(&ping).await, (Some(CORRELATION), None));
        // A block that is none is the end: nothing behind it can be trusted.
        *whole = [0xff; BLOCK_BYTES];
        raw.write(&whole).await;
        assert_eq!(raw.read().await, [(None, block)]);
        assert!(raw.0.stream().read_u8().await.is_err());
    }
}

/// What an Ed25519 key signs of a transmission, and the transmission.
pub(crate) fn signed(
    raw: &Raw,
    session: &[u8; 32],
    key: &junto_crypto::ed25519::SigningKey,
    entity: &[u8; 24],
    content: &[u8],
) -> Vec<u8> {
    let rest = [&[24][..], &CORRELATION, &[24], entity, content].concat();
    let signature = key.sign(&[&[32][..], session, &rest].concat());
    transmission(raw.0.version(), signature.as_bytes(), entity, content)
}
