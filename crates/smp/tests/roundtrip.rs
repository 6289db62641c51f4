//! Every decoder undoes its encoder, and nothing else decodes: one encoding per value.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use junto_crypto::{ed25519, x25519};
use junto_smp::{
    address::{Fingerprint, Host, ServerAddress},
    block::{BATCH_BYTES_MAX, Batch, OutgoingBlock, Protection, SessionId},
    blocking::{Blocking, BlockingReason, ClientNotice},
    command::{Command, NewMode, NewNotifier, NewQueue, QueueMode},
    encoding::Writer,
    error::{BrokerFault, CommandFault, ErrorCode, Forwarded, ProxyFault, TransportFault},
    hello::{ClientHello, HelloFault, LeafKey, ServerHello, SignedKey},
    id::{Entity, LinkId, MessageId, NotifierId, RecipientId, SenderId, ServiceId},
    key::AuthKey,
    link::{LinkBlobs, LinkData},
    message::{Delivered, MessageFlags},
    name::Domain,
    notification::NotificationNonce,
    proxy::{
        CHAIN_BYTES_MAX, Destination, FORWARDED_VERSION_MAX, Forward, Introduction, ProxyRequest,
    },
    response::{NotifierIds, QueueIds, Response},
    service::{QueuesHash, ServiceQueues},
    transmission::Transmission,
    version::{Version, VersionRange},
};
use proptest::prelude::*;

fn written(encode: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let mut writer = Writer::new(&mut buffer);
    encode(&mut writer);
    let used = writer.finish().unwrap();
    buffer.truncate(used);
    buffer
}

fn version() -> impl Strategy<Value = Version> {
    proptest::sample::select(Version::ALL.as_slice())
}

fn dh_key() -> impl Strategy<Value = x25519::PublicKey> {
    any::<[u8; 32]>().prop_map(|bytes| x25519::PublicKey::from_bytes(&bytes))
}

fn auth_key() -> impl Strategy<Value = AuthKey> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(|seed| AuthKey::Ed25519(
            ed25519::SigningKey::from_seed(&seed).verifying_key()
        )),
        dh_key().prop_map(AuthKey::X25519),
        any::<[u8; 57]>().prop_map(|seed| {
            let key = ed448_goldilocks::SigningKey::try_from(seed.as_slice()).unwrap();
            let public = key.verifying_key().to_bytes();
            AuthKey::Ed448(Box::new(
                junto_crypto::ed448::VerifyingKey::from_bytes(&public).unwrap(),
            ))
        }),
    ]
}

/// Owned parts of a command; the command borrows them.
#[derive(Clone, Debug)]
struct Parts {
    key: AuthKey,
    dh_key: x25519::PublicKey,
    bytes: Vec<u8>,
    short: Option<Vec<u8>>,
    id: [u8; 24],
    flag: bool,
    notifier: Option<(AuthKey, x25519::PublicKey)>,
}

fn parts() -> impl Strategy<Value = Parts> {
    (
        auth_key(),
        dh_key(),
        prop::collection::vec(any::<u8>(), 0..300),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..255)),
        any::<[u8; 24]>(),
        any::<bool>(),
        prop::option::of((auth_key(), dh_key())),
    )
        .prop_map(|(key, dh_key, bytes, short, id, flag, notifier)| Parts {
            key,
            dh_key,
            bytes,
            short,
            id,
            flag,
            notifier,
        })
}

impl Parts {
    fn new_queue<'a>(&'a self, mode: NewMode<'a>, version: Version) -> Command<'a> {
        Command::New(Box::new(NewQueue {
            auth_key: self.key.clone(),
            dh_key: self.dh_key,
            password: self.short.as_deref(),
            subscribe: self.flag,
            mode,
            notifier: self
                .notifier
                .clone()
                .filter(|_| version.has_notifier_in_new())
                .map(|(auth_key, dh_key)| NewNotifier { auth_key, dh_key }),
        }))
    }

    fn blobs(&self) -> LinkBlobs<'_> {
        LinkBlobs::new(&self.bytes, self.short.as_deref().unwrap_or_default()).unwrap()
    }

    fn queues(&self, version: Version) -> ServiceQueues {
        let hash = [self.id[0]; 16];
        ServiceQueues {
            count: self.bytes.len() as u64,
            hash: QueuesHash(if version.has_service_counts() {
                hash
            } else {
                [0; 16]
            }),
        }
    }

    fn commands(&self, version: Version) -> Vec<Command<'_>> {
        let link = LinkData {
            sender: SenderId(self.id),
            blobs: self.blobs(),
        };
        let queues = Some(self.queues(version)).filter(|_| version.has_service_counts());
        let flags = MessageFlags { notify: self.flag };
        vec![
            self.new_queue(NewMode::Unspecified, version),
            self.new_queue(NewMode::Messaging(None), version),
            self.new_queue(NewMode::Messaging(Some(link)), version),
            self.new_queue(NewMode::Contact(None), version),
            self.new_queue(NewMode::Contact(Some((LinkId(self.id), link))), version),
            Command::Sub,
            Command::Key(self.key.clone()),
            Command::SenderKey(self.key.clone()),
            Command::Send {
                flags,
                body: &self.bytes,
            },
            Command::Ack(Some(MessageId(self.id))),
            Command::Ack(None),
            Command::Get,
            Command::Off,
            Command::Delete,
            Command::Info,
            Command::RecipientKeys(vec![self.key.clone(); 1 + self.bytes.len() % 255]),
            Command::SetLink {
                link: LinkId(self.id),
                blobs: self.blobs(),
            },
            Command::DeleteLink,
            Command::LinkKey(self.key.clone()),
            Command::ReadLink,
            Command::SetNotifier {
                auth_key: self.key.clone(),
                dh_key: self.dh_key,
            },
            Command::DeleteNotifier,
            Command::NotifierSub,
            Command::ServiceSub(queues),
            Command::NotifierServiceSub(queues),
            Command::Resolve(Domain::new("some-name.simplex").unwrap()),
            Command::Ping,
            Command::Proxy(Box::new(ProxyRequest {
                server: self.server(),
                password: self.short.as_deref(),
            })),
            Command::ProxyForward(Forward {
                version: u16::from(self.id[0]),
                key: self.dh_key,
                sealed: &self.bytes,
            }),
            Command::RelayForward(&self.bytes),
        ]
    }

    fn server(&self) -> ServerAddress {
        let hosts = ["relay.example", "[::1]", "abc.onion"][..usize::from(self.id[1] % 3) + 1]
            .iter()
            .map(|host| host.parse().unwrap())
            .collect();
        let mut pin = [0; 32];
        pin[..24].copy_from_slice(&self.id);
        let port = u16::from_be_bytes([self.id[2], self.id[3]]).max(1);
        ServerAddress::new(Fingerprint(pin), hosts, port).unwrap()
    }

    fn responses(&self, version: Version) -> Vec<Response<'_>> {
        let mut responses = vec![
            Response::Message {
                id: MessageId(self.id),
                sealed: &self.bytes,
            },
            Response::Ok,
            Response::Info(&self.bytes),
            Response::Pong,
            Response::End,
            Response::Deleted,
            Response::Link(LinkData {
                sender: SenderId(self.id),
                blobs: self.blobs(),
            }),
            Response::NotifierIds(NotifierIds {
                id: NotifierId(self.id),
                server_dh_key: self.dh_key,
            }),
            Response::Notification {
                nonce: NotificationNonce(self.id),
                sealed: self.short.as_deref().unwrap_or_default(),
            },
            Response::ServiceSubscribed(self.queues(version)),
            Response::AllDelivered,
            Response::ServiceEnd(self.queues(version)),
            Response::ProxyAnswer(&self.bytes),
            Response::RelayAnswer(&self.bytes),
        ];
        for (mode, link) in [
            (None, None),
            (Some(QueueMode::Messaging), Some(LinkId(self.id))),
            (Some(QueueMode::Contact), None),
        ] {
            responses.push(Response::Ids(QueueIds {
                recipient: RecipientId(self.id),
                sender: SenderId([1; 24]),
                server_dh_key: self.dh_key,
                mode,
                link,
                service: (self.flag && version.has_services()).then_some(ServiceId(self.id)),
                notifier: (self.flag && version.has_notifier_in_new()).then_some(NotifierIds {
                    id: NotifierId(self.id),
                    server_dh_key: self.dh_key,
                }),
            }));
        }
        if version.has_services() {
            responses.push(Response::Subscribed(None));
            responses.push(Response::Subscribed(Some(ServiceId(self.id))));
        }
        responses
    }
}

fn error_code() -> impl Strategy<Value = ErrorCode> {
    let commands = [
        CommandFault::Unknown,
        CommandFault::Syntax,
        CommandFault::Prohibited,
        CommandFault::NoAuth,
        CommandFault::HasAuth,
        CommandFault::NoEntity,
    ];
    let plain = proptest::sample::select(vec![
        ErrorCode::Block,
        ErrorCode::Session,
        ErrorCode::Auth,
        ErrorCode::Service,
        ErrorCode::Crypto,
        ErrorCode::Quota,
        ErrorCode::Store,
        ErrorCode::Expired,
        ErrorCode::NoMessage,
        ErrorCode::LargeMessage,
        ErrorCode::Internal,
        ErrorCode::Name,
        ErrorCode::Duplicate,
        ErrorCode::Blocked(BlockingReason::Spam.into()),
        ErrorCode::Blocked(BlockingReason::Content.into()),
        ErrorCode::Proxy(ProxyFault::BasicAuth),
        ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Timeout)),
        ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Response)),
        ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Transport(
            TransportFault::Version,
        ))),
        ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Transport(
            TransportFault::Handshake,
        ))),
        ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::Crypto)),
        ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::Auth)),
    ]);
    let commands = proptest::sample::select(commands.map(ErrorCode::Command).to_vec());
    let notices = any::<Option<u64>>().prop_map(|ttl_seconds| {
        ErrorCode::Blocked(Blocking {
            reason: BlockingReason::Spam,
            notice: Some(ClientNotice { ttl_seconds }),
        })
    });
    prop_oneof![plain, commands, notices]
}

/// Beginnings that lead random bytes deep into the command parser.
fn command_like() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "NEW ",
        "SUB",
        "KEY ",
        "SKEY ",
        "SEND ",
        "SEND T ",
        "ACK ",
        "ACK \u{18}",
        "GET",
        "OFF",
        "DEL",
        "QUE",
        "PING",
        "LGET",
        "LSET \u{18}",
        "LKEY ",
        "RKEY ",
        "NKEY ",
        "NSUB",
        "SUBS ",
        "NSUBS",
        "RSLV ",
        "PRXY ",
        "PRXY \u{1}\u{1}h\u{4}5223\u{20}",
        "PFWD ",
        "RFWD ",
        "",
        " ",
    ];
    (
        proptest::sample::select(words.to_vec()),
        prop::collection::vec(any::<u8>(), 0..100),
    )
        .prop_map(|(word, rest)| [word.as_bytes(), &rest].concat())
}

fn response_like() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "IDS ",
        "SOK ",
        "SOK 0",
        "MSG ",
        "MSG \u{18}",
        "OK",
        "INFO ",
        "PONG",
        "END",
        "DELD",
        "ERR ",
        "LNK \u{18}",
        "NID \u{18}",
        "NMSG ",
        "SOKS ",
        "ALLS",
        "ENDS ",
        "LNK ",
        "PKEY ",
        "PRES ",
        "RRES ",
        "",
    ];
    (
        proptest::sample::select(words.to_vec()),
        prop::collection::vec(any::<u8>(), 0..100),
    )
        .prop_map(|(word, rest)| [word.as_bytes(), &rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn commands(parts in parts(), version in version(), cut in any::<prop::sample::Index>()) {
        for command in parts.commands(version) {
            let bytes = written(|writer| command.encode(writer, version));
            prop_assert_eq!(Command::decode(&bytes, version), Ok(command));
            // Cut short it is another value or none, and never a panic.
            let cut = &bytes[..cut.index(bytes.len())];
            if let Ok(other) = Command::decode(cut, version) {
                prop_assert_eq!(written(|writer| other.encode(writer, version)), cut);
            }
        }
    }

    #[test]
    fn commands_have_one_encoding(bytes in command_like(), version in version()) {
        if let Ok(command) = Command::decode(&bytes, version) {
            prop_assert_eq!(written(|writer| command.encode(writer, version)), bytes);
        }
    }

    #[test]
    fn responses(parts in parts(), version in version(), cut in any::<prop::sample::Index>()) {
        for response in parts.responses(version) {
            let bytes = written(|writer| response.encode(writer, version));
            prop_assert_eq!(Response::decode(&bytes, version), Ok(response));
            let cut = &bytes[..cut.index(bytes.len())];
            if let Ok(other) = Response::decode(cut, version) {
                prop_assert_eq!(written(|writer| other.encode(writer, version)), cut);
            }
        }
    }

    #[test]
    fn responses_have_one_encoding(bytes in response_like(), version in version()) {
        match Response::decode(&bytes, version) {
            // Texts in errors of other servers are dropped on purpose.
            Ok(Response::Error(_)) | Err(_) => {}
            Ok(response) => {
                prop_assert_eq!(written(|writer| response.encode(writer, version)), bytes);
            }
        }
    }

    #[test]
    fn errors(code in error_code(), version in version()) {
        let bytes = written(|writer| Response::Error(code).encode(writer, version));
        // Old clients get no notices.
        let expected = match code {
            ErrorCode::Blocked(blocking) if !version.has_notices() => {
                ErrorCode::Blocked(blocking.reason.into())
            }
            code => code,
        };
        prop_assert_eq!(Response::decode(&bytes, version), Ok(Response::Error(expected)));
    }

    #[test]
    fn transmissions(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        length in proptest::sample::select(vec![0u8, 63, 64, 80, 114]),
        version in version(),
    ) {
        // An authorisation of a known length, then whatever comes.
        let mut bytes = [vec![length; usize::from(length) + 1], b"0".to_vec(), bytes].concat();
        let length = bytes.len();
        if let Ok(parsed) = Transmission::decode(&mut bytes, version, &SessionId([0; 32])) {
            prop_assert!(parsed.content.len() < length);
            prop_assert_eq!(parsed.authorised().is_empty(), parsed.authorization.is_none());
            if !parsed.authorised().is_empty() {
                prop_assert_eq!(&parsed.authorised()[..33], [&[32][..], &[0; 32]].concat());
            }
        }
    }

    #[test]
    fn batches(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 1..255),
    ) {
        let mut outgoing = OutgoingBlock::new();
        let pushed = contents
            .iter()
            .take_while(|content| outgoing.push(|writer| writer.bytes(content)).is_ok())
            .count();
        prop_assume!(pushed > 0);
        let mut block = Box::new(*outgoing.seal(&mut Protection::Plain).unwrap());
        let mut protection = Protection::Plain;
        let text = protection.open(&mut block).unwrap();
        let batch = Batch::parse(text).unwrap();
        prop_assert!(batch.eq(contents[..pushed].iter()));
    }

    #[test]
    fn batches_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(batch) = Batch::parse(&mut bytes) {
            prop_assert!(batch.count() > 0);
        }
    }

    #[test]
    fn hellos_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), number in 15u16..21) {
        let _ = ServerHello::decode(&bytes);
        let text = [number.to_be_bytes().as_slice(), &[32], &[7; 32], &bytes].concat();
        let _ = ClientHello::decode(&text, VersionRange::SUPPORTED);
    }

    #[test]
    fn introductions(
        chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2_500), 2..5),
        session in any::<[u8; 32]>(),
        (min, max) in (6u16..22, 6u16..22),
        version in version(),
    ) {
        let leaf = ed25519::SigningKey::from_seed(&[1; 32]);
        let hello = ServerHello {
            versions: VersionRange::new(min.min(max), min.max(max)).unwrap(),
            session: SessionId(session),
            chain: chain.iter().map(Vec::as_slice).collect(),
            signed_key: SignedKey::sign(x25519::SecretKey::from_bytes(&session).public_key(), &leaf),
        };
        let length: usize = chain.iter().map(|certificate| certificate.len() + 2).sum();
        let introduction = Introduction::new(&hello);
        let speaks = min.min(max) <= FORWARDED_VERSION_MAX && min.max(max) >= 15;
        if !speaks {
            prop_assert_eq!(introduction, Err(HelloFault::Version));
            return Ok(());
        }
        if length + 1 > CHAIN_BYTES_MAX {
            prop_assert_eq!(introduction, Err(HelloFault::Syntax));
            return Ok(());
        }
        let introduction = introduction.unwrap();
        let answer = Response::ProxyKey(introduction.answer());
        let bytes = written(|writer| answer.encode(writer, version));
        // It fits into a block with everything around it.
        prop_assert!(bytes.len() + 64 < BATCH_BYTES_MAX);
        prop_assert_eq!(Response::decode(&bytes, version), Ok(answer));
        prop_assert!(Response::decode(&bytes[..bytes.len() - 1], version).is_err());
        prop_assert!(introduction.answer().chain.iter().eq(chain.iter()));
        let pin = Fingerprint::of_certificate(&chain[1]);
        let key = LeafKey::Ed25519(leaf.verifying_key());
        let verify = |pin, key| {
            Destination::verify(&introduction.answer(), pin, key, VersionRange::SUPPORTED)
        };
        let destination = verify(pin, &key).unwrap();
        prop_assert_eq!(destination.session(), SessionId(session));
        let agreed = min.max(max).min(FORWARDED_VERSION_MAX);
        prop_assert_eq!(destination.version().number(), agreed);
        prop_assert_eq!(verify(Fingerprint([1; 32]), &key), Err(HelloFault::Identity));
        let other = ed25519::SigningKey::from_seed(&[2; 32]).verifying_key();
        let other = LeafKey::Ed25519(other);
        prop_assert_eq!(verify(pin, &other), Err(HelloFault::Signature));
    }

    #[test]
    fn signed_keys(key in dh_key(), seed in any::<[u8; 32]>(), at in 0usize..122, flip in 1u8..) {
        let signed = SignedKey::sign(key, &ed25519::SigningKey::from_seed(&seed));
        let mut der = signed.to_der();
        prop_assert_eq!(SignedKey::from_der(&der), Ok(signed));
        der[at] ^= flip;
        if let Ok(other) = SignedKey::<x25519::PublicKey>::from_der(&der) {
            prop_assert_eq!(other.to_der(), der);
        }
    }

    #[test]
    fn delivered_content(bytes in prop::collection::vec(any::<u8>(), 0..100), quota in any::<bool>()) {
        let text = if quota { [b"QUOTA ", bytes.as_slice()].concat() } else { bytes };
        if let Ok(Delivered::Message { time, flags, body }) = Delivered::decode(&text) {
            let again = written(|writer| {
                writer.u64(time.0);
                writer.bool(flags.notify);
                writer.u8(b' ');
                writer.bytes(body);
            });
            prop_assert_eq!(again, text);
        }
    }

    #[test]
    fn addresses(
        pin in any::<[u8; 32]>(),
        hosts in prop::collection::vec("[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", 1..8),
        port in 1u16..,
    ) {
        let hosts: Vec<Host> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        let address = ServerAddress::new(Fingerprint(pin), hosts, port).unwrap();
        prop_assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn addresses_never_panic(text in "(smp://)?[A-Za-z0-9_=-]{0,50}@?[a-z0-9:,.\\[\\]-]{0,40}") {
        if let Ok(address) = text.parse::<ServerAddress>() {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn entities(bytes in prop::collection::vec(any::<u8>(), 0..255)) {
        prop_assert_eq!(Entity::from_bytes(&bytes).as_bytes(), &bytes);
    }
}
