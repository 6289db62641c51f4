//! Valid inputs made by our own encoders, from which a search starts. `cargo run -p junto-fuzz
//! --example seeds` writes them into the corpus.

use junto_agent::proto::{AgentMessage, Body, Envelope, Link, QueueMode, Receipt, RowKey};
use junto_bls::{Setup, partial_sign};
use junto_crypto::{ed25519::SigningKey, kem, pad, x448, x25519};
use junto_ratchet::{MakerKeys, Options, Params, VersionRange as RatchetVersions, join};
use junto_smp::{
    address::Fingerprint,
    block::{Block, OutgoingBlock, Protection, SessionId, new_block},
    blocking::{Blocking, BlockingReason, ClientNotice},
    command::{Command, NewMode, NewNotifier, NewQueue},
    error::{CommandFault, ErrorCode, ProxyFault},
    hello::{ClientHello, ServerHello, SignedKey},
    id::{LinkId, MessageId, NotifierId, RecipientId, SenderId, ServiceId},
    key::AuthKey,
    link::{LinkBlobs, LinkData},
    message::MessageFlags,
    name::Domain,
    notification::NotificationNonce,
    proxy::{Forward, ProxyRequest},
    response::{NotifierIds, QueueIds, Response},
    service::{QueuesHash, ServiceAnswer, ServiceFault, ServiceHello, ServiceQueues, ServiceRole},
    version::{Version, VersionRange},
};
use junto_tls::OfflineIdentity;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::{
    agent, bls, daemon,
    input::piece,
    ratchet, session,
    smp::{
        server,
        server::{FIRST_QUEUE, Relay},
        waiting, written,
    },
    tls,
};

const INVITATION: &str = include_str!("../../vectors/agent/invitation.txt");
pub(crate) const ADDRESS: &str = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=";

/// The random numbers of targets and seeds: always the same.
pub(crate) fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// The seeds of a target.
///
/// # Panics
/// If there is no such target.
#[must_use]
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "agent_envelope" => envelopes(),
        "agent_link" => links(),
        "agent_link_data" => link_data(),
        "agent_machine" => agent::deliverable(),
        "agent_message" => agent_messages(),
        "agent_queue_layer" => vec![queue_message()],
        "agent_rows" => agent_rows(),
        "backup_file" => crate::backup::seeds(),
        "bls_certificate" => vec![bls::HONEST.certificate.encode()],
        "bls_evidence" => bls::seeds_of_evidence(),
        "bls_keys" => bls_keys(),
        "bls_holding" => bls::holdings(),
        "bls_pending" => bls::HONEST.pendings.clone(),
        "bls_round" => bls::seeds_of_round(),
        "bls_setup" => bls_setups(),
        "crypto_boxes" => vec![vec![7; 80], padded(b"text", 64), Vec::new()],
        "crypto_kem" => kem_values(),
        "crypto_keys" | "smp_keys" => spkis(),
        "daemon_request" => daemon::seeds(),
        "code_exchange" => crate::code::exchanges(),
        "code_frame" => crate::code::frames(),
        "code_nearby" => crate::code::announcements(),
        "devices_frame" => crate::devices::frames(),
        "devices_words" => crate::devices::conversations(),
        "evidence_shown" => crate::evidence::seeds(),
        "files_frame" => crate::files::frames(),
        "files_transfer" => crate::files::transfers(),
        "ratchet_conversation" => conversations(),
        "ratchet_message" => ratchet_messages(),
        "ratchet_params" => ratchet_params(),
        "ratchet_state" => ratchet_states(),
        "relay_config" => configs(),
        "relay_export" => exports(),
        "relay_journal" => journals(),
        "relay_store_log" => store_logs(),
        "session_evidence" => evidence(),
        "session_link" => session::seeds_of_links(),
        "session_node" => session::seeds_of_node(),
        "session_records" => session::seeds_of_records(),
        "session_rows" => session::seeds_of_rows(),
        "session_streams" => session::seeds_of_streams(),
        "smp_address" => addresses(),
        "smp_block" => blocks(),
        "smp_client" => answers(),
        "smp_client_hello" => client_hellos(),
        "smp_command" => commands(Version::MAX),
        "smp_forward" => crate::smp::seeds_of_forward(),
        "smp_message" => vec![
            b"\0\0\0\0\x65\0\0\0T hello".to_vec(),
            b"QUOTA \0\0\0\0\x65\0\0\0".to_vec(),
        ],
        "smp_queue" => queues(),
        "smp_response" => responses(Version::MAX),
        "smp_server" => conversations_with_server(),
        "smp_server_hello" => server_hellos(),
        "smp_transmission" => transmissions(),
        "tls_chain" => chains(),
        "vault_channels" => crate::vault::channel_seeds(),
        "vault_messages" => crate::vault::seeds(),
        "vault_realm" => crate::vault::realm_seeds(),
        other => panic!("no seeds for {other}"),
    }
}

fn padded(text: &[u8], length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    pad::pad(text, &mut out, length).unwrap();
    out
}

fn dh_key() -> x25519::PublicKey {
    x25519::SecretKey::from_bytes(&[9; 32]).public_key()
}

fn spkis() -> Vec<Vec<u8>> {
    let ed25519 = server::signer();
    let ed448 = b"\x30\x43\x30\x05\x06\x03\x2b\x65\x71\x03\x3a\x00".as_slice();
    // RFC 8032 §7.4, first test.
    let point = [
        0x5f, 0xd7, 0x44, 0x9b, 0x59, 0xb4, 0x61, 0xfd, 0x2c, 0xe7, 0x87, 0xec, 0x61, 0x6a, 0xd4,
        0x6a, 0x1d, 0xa1, 0x34, 0x24, 0x85, 0xa7, 0x0e, 0x1f, 0x8a, 0x0e, 0xa7, 0x5d, 0x80, 0xe9,
        0x67, 0x78, 0xed, 0xf1, 0x24, 0x76, 0x9b, 0x46, 0xc7, 0x06, 0x1b, 0xd6, 0x78, 0x3d, 0xf1,
        0xe5, 0x0f, 0x6c, 0xd1, 0xfa, 0x1a, 0xbe, 0xaf, 0xe8, 0x25, 0x61, 0x80,
    ];
    vec![
        dh_key().to_spki().to_vec(),
        x448::SecretKey::from_bytes(&[9; 56])
            .public_key()
            .to_spki()
            .to_vec(),
        ed25519.verifying_key().to_spki().to_vec(),
        ed25519.verifying_key().as_bytes().to_vec(),
        [ed448, &point].concat(),
        point.to_vec(),
        SignedKey::sign(dh_key(), &ed25519).to_der(),
        SignedKey::sign(ed25519.verifying_key(), &ed25519).to_der(),
    ]
}

fn kem_values() -> Vec<Vec<u8>> {
    let secret = kem::SecretKey::generate(&mut rng(21));
    let public = secret.public_key();
    let (ciphertext, _) = public.encapsulate(&mut rng(22));
    vec![
        secret.as_bytes().to_vec(),
        public.as_bytes().to_vec(),
        ciphertext.as_bytes().to_vec(),
    ]
}

// The queue protocol.

/// A whole export with an identity of its own, and one of nothing.
fn exports() -> Vec<Vec<u8>> {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("relay");
    junto_relay::init_dir(&dir, "relay.example", 5223).unwrap();
    let mut out = vec![0];
    for name in ["relay.toml", "ca.crt", "server.crt", "server.key"] {
        piece(&mut out, name.as_bytes());
        let content = std::fs::read(dir.join(name)).unwrap();
        piece(&mut out, &content);
    }
    piece(&mut out, b"journal/journal.0");
    piece(&mut out, b"junto relay journal 1\n");
    vec![out, b"\x01junto relay export 1\n\0".to_vec()]
}

/// Every record of the reference server's store log.
fn store_logs() -> Vec<Vec<u8>> {
    let key = format!("MCowBQYDK2VwAyEAWGZm{}ZmY=", "ZmZm".repeat(9)); // the base point
    let id = |c: char| c.to_string().repeat(32);
    let (a, b, c) = (id('A'), id('B'), id('C'));
    let secret = "A".repeat(43) + "=";
    let create = format!("CREATE rid={a} rk={key} rdh={secret} sid={b} sk=");
    let log = format!(
        "{create} sndSecure=T\nSECURE {a} {key}\nKEYS {a} {key},{key}\nLINK {a} {c} AAAA BBBB\n\
         LDELETE {a}\nNOTIFIER {a} {c} {key} {secret} nsrv={c}\nNDELETE {a}\nSUSPEND {a}\n\
         BLOCK {a} reason=spam,notice={{\"ttl\":60}}\nUNBLOCK {a}\nTIME {a} 86400\n\
         NEW_SERVICE service_id={c} role=M cert=AAAA cert_hash={secret} created_at=1\n\
         QUEUE_SERVICE {a} R {c}\nQUEUE_SERVICE {a} N {c}\nQUEUE_SERVICE {a} R \nDELETE {a}\n"
    );
    let full = format!(
        "{create}{key} queue_mode=C link_id={c} queue_data=AAAA BBBB notifier={c} {key} {secret} \
         updated_at=86400 status=blocked,reason=content rsrv={c}\nDELETE {a}"
    );
    vec![log.into_bytes(), full.into_bytes()]
}

fn addresses() -> Vec<Vec<u8>> {
    let hosts = [
        "relay.example",
        "a.example,b.onion:443",
        "[::1]:5223",
        "127.0.0.1",
    ];
    let mut all: Vec<_> = hosts
        .iter()
        .map(|host| format!("{ADDRESS}@{host}").into_bytes())
        .collect();
    all.push(format!("{}@h", ADDRESS.trim_end_matches('=')).into_bytes());
    all
}

fn text_of(block: &Block) -> Vec<u8> {
    pad::unpad(block.as_slice()).unwrap().to_vec()
}

fn server_hellos() -> Vec<Vec<u8>> {
    let leaf = SigningKey::from_seed(&[1; 32]);
    [2, 4]
        .map(|count| {
            let mut block = new_block();
            ServerHello {
                versions: VersionRange::SUPPORTED,
                session: SessionId([4; 32]),
                chain: vec![b"certificate"; count],
                signed_key: SignedKey::sign(dh_key(), &leaf),
            }
            .encode(&mut block)
            .unwrap();
            text_of(&block)
        })
        .to_vec()
}

fn client_hellos() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let leaf = SigningKey::from_seed(&[1; 32]);
    for version in Version::ALL {
        for (key, role) in [
            (None, Some(ServiceRole::Notifier)),
            (None, None),
            (Some(dh_key()), None),
            (Some(dh_key()), Some(ServiceRole::Messaging)),
        ] {
            let mut block = new_block();
            ClientHello {
                version,
                identity: Fingerprint([9; 32]),
                key,
                proxy: false,
                service: role.map(|role| ServiceHello {
                    role,
                    chain: vec![b"certificate"],
                    key: SignedKey::sign(server::signer().verifying_key(), &leaf),
                }),
            }
            .encode(&mut block)
            .unwrap();
            all.push(text_of(&block));
        }
    }
    for answer in [
        ServiceAnswer::Accepted(ServiceId([7; 24])),
        ServiceAnswer::Refused(ServiceFault::Refused),
    ] {
        let mut block = new_block();
        answer.encode(&mut block).unwrap();
        all.push(text_of(&block));
    }
    all
}

/// A request for a queue with the usual key.
pub(crate) fn new_queue<'a>() -> NewQueue<'a> {
    NewQueue {
        auth_key: AuthKey::Ed25519(server::signer().verifying_key()),
        dh_key: dh_key(),
        password: None,
        subscribe: true,
        mode: NewMode::Messaging(None),
        notifier: None,
    }
}

fn service_queues() -> ServiceQueues {
    ServiceQueues {
        count: 2,
        hash: QueuesHash([8; 16]),
    }
}

fn blobs() -> LinkBlobs<'static> {
    LinkBlobs::new(b"fixed", b"user").unwrap()
}

fn every_command() -> Vec<Command<'static>> {
    let key = || AuthKey::Ed25519(server::signer().verifying_key());
    let link = LinkData {
        sender: SenderId([1; 24]),
        blobs: blobs(),
    };
    let new = |mode, password, notifier| {
        Command::New(Box::new(NewQueue {
            mode,
            password,
            notifier,
            ..new_queue()
        }))
    };
    let notifier = NewNotifier {
        auth_key: AuthKey::X25519(dh_key()),
        dh_key: dh_key(),
    };
    vec![
        new(NewMode::Unspecified, None, None),
        new(NewMode::Messaging(None), Some(b"password"), None),
        new(NewMode::Messaging(Some(link)), None, Some(notifier)),
        new(NewMode::Contact(Some((LinkId([2; 24]), link))), None, None),
        Command::Sub,
        Command::Key(key()),
        Command::SenderKey(key()),
        Command::Send {
            flags: MessageFlags { notify: true },
            body: b"body",
        },
        Command::Ack(Some(MessageId([3; 24]))),
        Command::Ack(None),
        Command::Get,
        Command::Off,
        Command::Delete,
        Command::Info,
        Command::RecipientKeys(vec![key(), AuthKey::X25519(dh_key())]),
        Command::SetLink {
            link: LinkId([2; 24]),
            blobs: blobs(),
        },
        Command::DeleteLink,
        Command::LinkKey(key()),
        Command::ReadLink,
        Command::SetNotifier {
            auth_key: key(),
            dh_key: dh_key(),
        },
        Command::DeleteNotifier,
        Command::NotifierSub,
        Command::ServiceSub(Some(service_queues())),
        Command::NotifierServiceSub(Some(service_queues())),
        Command::Resolve(Domain::new("name.simplex").unwrap()),
        Command::Ping,
        Command::Proxy(Box::new(ProxyRequest {
            server: "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example,[::1]:443"
                .parse()
                .unwrap(),
            password: Some(b"password"),
        })),
        Command::ProxyForward(Forward {
            version: 17,
            key: dh_key(),
            sealed: b"box",
        }),
        Command::RelayForward(b"box"),
    ]
}

fn commands(version: Version) -> Vec<Vec<u8>> {
    let commands = every_command();
    let encoded = commands
        .iter()
        .map(|command| written(|writer| command.encode(writer, version)));
    let refused = ["LSET x", "RKEY x", "NSUBS", "PRXY", "RSLV"];
    encoded
        .chain(refused.iter().map(|word| word.as_bytes().to_vec()))
        .collect()
}

fn responses(version: Version) -> Vec<Vec<u8>> {
    let ids = QueueIds {
        recipient: RecipientId([1; 24]),
        sender: SenderId([2; 24]),
        server_dh_key: dh_key(),
        mode: Some(QueueMode::Contact),
        link: Some(LinkId([3; 24])),
        service: Some(ServiceId([4; 24])),
        notifier: Some(NotifierIds {
            id: NotifierId([5; 24]),
            server_dh_key: dh_key(),
        }),
    };
    let id = MessageId([6; 24]);
    let errors = [
        ErrorCode::Command(CommandFault::Syntax),
        ErrorCode::Proxy(ProxyFault::BasicAuth),
        ErrorCode::Blocked(Blocking {
            reason: BlockingReason::Spam,
            notice: Some(ClientNotice {
                ttl_seconds: Some(60),
            }),
        }),
        ErrorCode::Name,
        ErrorCode::Store,
        ErrorCode::Auth,
    ];
    let responses = [
        Response::Ids(ids),
        Response::Subscribed(None),
        Response::Subscribed(Some(ServiceId([4; 24]))),
        Response::Message { id, sealed: b"box" },
        Response::Ok,
        Response::Link(LinkData {
            sender: SenderId([7; 24]),
            blobs: blobs(),
        }),
        Response::NotifierIds(NotifierIds {
            id: NotifierId([5; 24]),
            server_dh_key: dh_key(),
        }),
        Response::Notification {
            nonce: NotificationNonce([9; 24]),
            sealed: &[1; 144],
        },
        Response::ServiceSubscribed(service_queues()),
        Response::AllDelivered,
        Response::ServiceEnd(service_queues()),
        Response::Info(b"{}"),
        Response::Pong,
        Response::End,
        Response::Deleted,
        Response::ProxyAnswer(b"box"),
        Response::RelayAnswer(b"box"),
    ];
    let key = SignedKey::sign(dh_key(), &server::signer()).to_der();
    let introduction = written(|writer| {
        writer.bytes(b"PKEY ");
        writer.short(&[3; 32]);
        writer.bytes(&[0, 15, 0, 17, 2]);
        writer.large(b"leaf");
        writer.large(b"identity");
        writer.large(&key);
    });
    let texts = [
        "ERR STORE text",
        "ERR PROXY PROTOCOL CMD SYNTAX",
        "ERR PROXY BROKER TIMEOUT x",
        "ERR PROXY BROKER TRANSPORT HANDSHAKE IDENTITY",
        "ERR PROXY BROKER RESPONSE \u{5}BLOCK",
        "ERR BLOCKED reason=content,notice={}",
    ];
    responses
        .into_iter()
        .chain(errors.map(Response::Error))
        .map(|response| written(|writer| response.encode(writer, version)))
        .chain(texts.map(|text| text.as_bytes().to_vec()))
        .chain([introduction])
        .collect()
}

fn transmissions() -> Vec<Vec<u8>> {
    let (old, new) = (Version::MIN, Version::MAX);
    let mut all = vec![
        server::unsigned(old, 1, &[2; 24], &Command::Sub, false),
        server::unsigned(new, 1, &[2; 24], &Command::Sub, false),
    ];
    all.push(written(|writer| {
        writer.short(&[]);
        writer.short(&[1; 24]);
        writer.short(&[]);
        Command::Ping.encode(writer, new);
    }));
    for length in [80, 114] {
        all.push(written(|writer| {
            writer.short(&vec![0; length]);
            writer.u8(b'1');
            writer.short(&[0; 64]);
            writer.short(&[]);
            writer.short(&[2; 24]);
            Command::Get.encode(writer, new);
        }));
    }
    all
}

fn batch(transmissions: &[Vec<u8>]) -> Vec<u8> {
    let mut outgoing = OutgoingBlock::new();
    for transmission in transmissions {
        outgoing
            .push(|writer| writer.bytes(transmission))
            .expect("seeds fit");
    }
    text_of(outgoing.seal(&mut Protection::Plain).unwrap())
}

fn blocks() -> Vec<Vec<u8>> {
    let text = batch(&transmissions());
    let plain = [&[0][..], &text].concat();
    let raw = [&[1][..], &padded(&text, 2_000)].concat();
    vec![
        plain,
        raw,
        vec![0, 1, 0, 0],
        vec![0, 0],
        vec![1, 0xff, 0xff],
    ]
}

fn conversations_with_server() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (number, version) in Version::ALL.into_iter().enumerate() {
        let (recipient, sender) = ([FIRST_QUEUE; 24], [FIRST_QUEUE + 0x80; 24]);
        let signed: Vec<_> = every_command()
            .iter()
            .zip(1..)
            .map(|(command, correlation)| {
                let entity: &[u8] = match command {
                    Command::New(_)
                    | Command::Resolve(_)
                    | Command::Ping
                    | Command::Proxy(_)
                    | Command::RelayForward(_) => &[],
                    Command::Send { .. } | Command::SenderKey(_) => &sender,
                    _ => &recipient,
                };
                server::unsigned(version, correlation, entity, command, false)
            })
            .collect();
        let mut one_by_one = vec![server::opening(number, 0)];
        for transmission in &signed {
            one_by_one.push(0);
            piece(&mut one_by_one, &batch(std::slice::from_ref(transmission)));
        }
        all.push(one_by_one);
        let mut at_once = vec![server::opening(number, 0), 1];
        piece(&mut at_once, &batch(&signed));
        all.push(at_once);
        if version.has_services() {
            all.push(services_with_server(number, version));
        }
    }
    all
}

/// A service and its notification server: one queue each way of getting one, a message, all of it again.
fn services_with_server(number: usize, version: Version) -> Vec<u8> {
    let id = |role| {
        let certified = server::Certified { role, number: 0 };
        certified.service().id.0
    };
    let (own, server) = (id(ServiceRole::Messaging), id(ServiceRole::Notifier));
    let (recipient, sender) = ([FIRST_QUEUE; 24], [FIRST_QUEUE + 0x80; 24]);
    let counted = |queues: ServiceQueues| version.has_service_counts().then_some(queues);
    let send = Command::Send {
        flags: MessageFlags { notify: true },
        body: b"body",
    };
    let notifier = [server::NOTIFIER; 24];
    let new = Command::New(Box::new(NewQueue {
        subscribe: true,
        ..new_queue()
    }));
    let queues = service_queues();
    let said: [(u8, &[u8], Command<'_>, bool); 9] = [
        (0, &recipient, Command::Sub, true),
        (1, &notifier, Command::NotifierSub, true),
        (0, &sender, send.clone(), false),
        (0, &own, Command::ServiceSub(counted(queues)), false),
        (
            1,
            &server,
            Command::NotifierServiceSub(counted(queues)),
            false,
        ),
        (0, &recipient, Command::Ack(None), false),
        (0, &[], new, true),
        (0, &sender, send, false),
        // The wrong one.
        (1, &own, Command::NotifierServiceSub(counted(queues)), false),
    ];
    // The first is a service for messages, the second one for notifications.
    let mut out = vec![server::opening(number, 0b1001)];
    for ((connection, entity, command, by_service), correlation) in said.into_iter().zip(1..) {
        let transmission = server::unsigned(version, correlation, entity, &command, by_service);
        out.push(connection);
        piece(&mut out, &batch(&[transmission]));
    }
    out
}

/// Genuine answers to the requests of the client's target.
fn answers() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (number, version) in Version::ALL.into_iter().enumerate() {
        let mut relay = Relay::new();
        relay.add_queues();
        let (mut client, mut outgoing) = waiting(version, &mut relay);
        let mut block = Box::new(*client.seal(&mut outgoing).unwrap());
        relay.block(0, &mut block);
        // Each block by itself: a message fills one.
        for block in relay.take_sent(0) {
            let mut out = vec![u8::try_from(number).unwrap()];
            piece(&mut out, &text_of(&block));
            all.push(out);
        }
    }
    all
}

fn queues() -> Vec<Vec<u8>> {
    vec![
        vec![
            0, 3, 4, 0x10, 0x21, 0x32, 0x42, 0x52, 6, 7, 8, 9, 6, 6, 0x62, 6,
        ],
        vec![1, 0x84, 0x10, 0x21, 0x86, 13, 0x8d, 5, 7, 0x85, 0x86, 10],
        vec![2, 0x10, 5, 6, 0x7b, 0x10, 0x7c, 4, 5, 6, 10],
        vec![0, 14, 4, 6, 3, 14, 0x10, 6],
        // A service with two connections, a plain client that takes over, and a notification server.
        vec![
            3 * 3,
            0x11,
            0x0f,
            6,
            0x8f,
            0x86,
            0x11,
            0x84,
            0x0f,
            0x86,
            13,
            0x0f,
            0x8d,
            0x8f,
            5,
        ],
        vec![
            1 + 3 * 5,
            0x2f,
            0x11,
            0x4f,
            0x5f,
            0x11,
            4,
            0x84,
            0x6f,
            0x5f,
            0x3f,
            0x11,
            0x4f,
        ],
        vec![
            2 + 3 * 15,
            0x11,
            0x8f,
            0x84,
            0x11,
            0x0f,
            4,
            0x2f,
            0x4f,
            0x11,
            6,
            6,
            0x2f,
            0x7c,
            0x4f,
        ],
    ]
}

// Certificates.

fn chains() -> Vec<Vec<u8>> {
    let mut rng = rng(31);
    let offline = OfflineIdentity::generate(&mut rng, tls::now()).unwrap();
    let identity = offline
        .issue("relay.example", &mut rng, tls::now())
        .unwrap();
    let genuine: Vec<&[u8]> = identity.chain().iter().map(AsRef::as_ref).collect();
    let write = |certificates: &[&[u8]]| {
        let mut out = Vec::new();
        certificates.iter().for_each(|c| piece(&mut out, c));
        out
    };
    vec![
        write(&genuine),
        write(&[genuine[0], genuine[1], b"network", b"operator"]),
        write(&[genuine[1], genuine[0]]),
        write(&[genuine[1], genuine[1]]),
    ]
}

// A relay's disk.

fn configs() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("relay");
    junto_relay::init_dir(&home, "relay.example", 5223).unwrap();
    let template = std::fs::read_to_string(home.join("relay.toml")).unwrap();
    // All defaults written out, then as they are.
    let uncommented = template
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") => setting,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    let small = "hosts = [\"a\", \"[::1]\"]\npassword = \"p\"\n[storage]\nmode = \"memory\"\n";
    vec![
        template.into_bytes(),
        uncommented.into_bytes(),
        small.into(),
    ]
}

fn journals() -> Vec<Vec<u8>> {
    let key = {
        let mut out = vec![44];
        AuthKey::Ed25519(server::signer().verifying_key()).write_spki(&mut out);
        out
    };
    let (recipient, message) = ([1; 24], [3; 24]);
    let queue = |flags: u8, count: u32| {
        let keys = key.repeat(1 + usize::from(flags >> 1));
        let head = [&b"Q"[..], &recipient, &[2; 24], b"M", &[flags], &[4; 32]].concat();
        [&head[..], &count.to_be_bytes(), &keys].concat()
    };
    let said = |tag: &[u8], rest: &[u8]| [tag, &recipient, rest].concat();
    let text = |id: [u8; 24]| said(b"M", &[&id[..], &7_u64.to_be_bytes(), b"Thello"].concat());
    let marker = said(b"F", &[&[5; 24][..], &7_u64.to_be_bytes()].concat());
    let owners = said(b"R", &[&[2][..], &key, &key].concat());
    let link = said(b"L", &[&[7; 24][..], b"\0\x05fixeduser"].concat());
    let notifier = said(b"N", &[&[8; 24][..], &[9; 32], &key].concat());
    let told = notifier.clone();
    let served =
        |tag: &[u8], id: [u8; 24], role: u8| said(tag, &[&id[..], &[role], &[id[0]; 32]].concat());
    let write = |bodies: &[Vec<u8>]| {
        let mut out = vec![0];
        bodies.iter().for_each(|body| piece(&mut out, body));
        out
    };
    let mut raw = vec![1];
    raw.extend_from_slice(b"junto relay journal 1\n");
    vec![
        write(&[
            queue(0, 0),
            text(message),
            said(b"K", &key),
            marker.clone(),
            said(b"A", &message),
            said(b"O", b""),
        ]),
        write(&[queue(3, 2), text([6; 24]), marker, said(b"D", b"")]),
        write(&[queue(2, 3), text(message)]),
        write(&[
            queue(0, 4),
            owners.clone(),
            link.clone(),
            notifier.clone(),
            text(message),
            said(b"B", b"ST\0\0\0\0\0\0\0\x3c"),
            said(b"U", b""),
            said(b"l", b""),
            said(b"n", b""),
        ]),
        write(&[
            queue(1, 0),
            notifier,
            link,
            owners,
            said(b"B", b"C"),
            said(b"B", b"CF"),
        ]),
        write(&[
            queue(0, 3),
            told.clone(),
            served(b"W", [5; 24], b'M'),
            served(b"X", [6; 24], b'N'),
            said(b"w", b""),
            said(b"x", b""),
            served(b"W", [5; 24], b'P'),
        ]),
        write(&[
            queue(0, 0),
            served(b"W", [5; 24], b'P'),
            told,
            served(b"X", [6; 24], b'N'),
        ]),
        raw,
        vec![1],
    ]
}

// The ratchet.

fn ratchet_params() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for pq in [false, true] {
        let mut rng = rng(41);
        let keys = MakerKeys::generate(pq, &mut rng);
        let offer = keys.offer(RatchetVersions::OURS);
        let options = Options {
            pq,
            ..Options::default()
        };
        let (_, params) = join(&offer, options, &mut rng).unwrap();
        all.push(offer.encode());
        all.push(params.encode());
        all.push(
            Params {
                version: junto_ratchet::Version::V2,
                kem: None,
                ..params
            }
            .encode(),
        );
    }
    all
}

fn ratchet_states() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for pq in [false, true] {
        for maker in [false, true] {
            all.push([&[0][..], &ratchet::restored(pq, maker).encode()].concat());
        }
        let keys = MakerKeys::generate(pq, &mut rng(42));
        all.push([&[1][..], &keys.encode()].concat());
    }
    let late = [[1, 0], [1, 1], [2, 0]].map(|id| [&id[..], &[id[0]; 80]].concat());
    all.push([&[2][..], &late.concat()].concat());
    all
}

fn ratchet_messages() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for pq in [false, true] {
        // Of another conversation: genuine in everything but the key.
        let mut stranger = ratchet::restored(pq, true);
        all.push(stranger.encrypt(b"body", 100).unwrap());
    }
    let key = x448::SecretKey::from_bytes(&[8; 56]).public_key().to_spki();
    let kem = kem::SecretKey::generate(&mut rng(43)).public_key();
    let numbers = [0, 0, 0, 1, 0, 0, 0, 2];
    let proposed = [&b"1P\x04\x86"[..], kem.as_bytes()].concat();
    for option in [&b""[..], b"0", &proposed] {
        let header = [&[0, 3, 68][..], &key, option, &numbers].concat();
        all.push(padded(&header, 88.max(header.len() + 2)));
    }
    all
}

fn conversations() -> Vec<Vec<u8>> {
    vec![
        vec![0, 0, 0, 0x80, 2, 0x82, 2, 0, 2, 7, 0x87],
        vec![0, 0, 0, 0, 0, 4, 3, 4, 0, 2, 2, 0x80, 0x82, 0, 2, 2],
        vec![0, 0, 6, 0, 70, 1, 0x42, 2, 0, 6, 1, 1, 2, 2, 7],
        vec![1, 0, 2, 0x80, 0x82, 0, 0, 4, 1, 2, 7],
    ]
}

// The agent.

fn links() -> Vec<Vec<u8>> {
    let link: Link = INVITATION.parse().unwrap();
    let contact = INVITATION.trim_end().replace("/invitation#", "/contact#");
    let web = INVITATION.replace("simplex:/", "https://simplex.chat/");
    let id = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let key = "MCowBQYDK2VuAyEACQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk%3D";
    let queue = format!("{ADDRESS}@relay.example/{id}#/?v=1-4&dh={key}&q=m&k=s");
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
    let pin = "LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI";
    let short = format!("simplex:/i#{id}/{key}?h=relay.example%2Cabc.onion&p=5223&c={pin}");
    let short_web = format!("https://relay.example/a#{key}?p=443&c={pin}");
    let host_only = format!("https://relay.example/g#{key}");
    let more = [queue, "2-7".to_owned(), short, short_web, host_only];
    [link.to_string(), contact, web]
        .into_iter()
        .chain(more)
        .map(String::into_bytes)
        .collect()
}

fn link_data() -> Vec<Vec<u8>> {
    let Ok(Link::Invitation(link)) = INVITATION.parse() else {
        panic!("the vector is an invitation")
    };
    let (_, offer) = link.negotiated().unwrap();
    agent::seeds_of_link_data(&offer.encode())
}

fn envelopes() -> Vec<Vec<u8>> {
    let params = &ratchet_params()[1];
    let offer = || Box::new(Params::decode(params).unwrap());
    let Ok(Link::Invitation(link)) = INVITATION.parse() else {
        panic!("not an invitation")
    };
    let info = b"info".as_slice();
    [
        Envelope::Confirmation {
            offer: Some(offer()),
            ratcheted: info,
        },
        Envelope::Confirmation {
            offer: None,
            ratcheted: info,
        },
        Envelope::Message { ratcheted: info },
        Envelope::Invitation { link, info },
        Envelope::RatchetKey {
            offer: offer(),
            info,
        },
    ]
    .iter()
    .map(|envelope| {
        let mut out = Vec::new();
        envelope.put(&mut out).unwrap();
        out
    })
    .collect()
}

fn agent_messages() -> Vec<Vec<u8>> {
    let numbered = |body| AgentMessage::Numbered {
        id: 2,
        previous_hash: &[7; 32],
        body,
    };
    let receipt = Receipt {
        id: 1,
        hash: [3; 32],
        info: b"info",
    };
    let mut all: Vec<Vec<u8>> = [
        AgentMessage::Info(b"info"),
        AgentMessage::RatchetInfo(b"info"),
        numbered(Body::Hello),
        numbered(Body::Message(b"hello")),
        numbered(Body::Receipts(vec![receipt.clone(), receipt])),
        numbered(Body::QueueContinues(b"address")),
        numbered(Body::Other(b"QA")),
    ]
    .iter()
    .map(|message| {
        let mut out = Vec::new();
        message.put(&mut out).unwrap();
        out
    })
    .collect();
    all.push(agent::seed_of_reply());
    all
}

fn queue_message() -> Vec<u8> {
    let mut out = b"\0\x041\x2c".to_vec();
    out.extend_from_slice(&dh_key().to_spki());
    out.extend_from_slice(&[1; 24 + 16 + 40]);
    out
}

fn agent_rows() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (key, row) in agent::rows_of_setup() {
        let (kind, name) = match key {
            RowKey::Address(tag) => (0, tag.as_bytes()[0]),
            RowKey::Connection(_) => (3, 4),
            RowKey::Invitation(_) => (4, 4),
            _ => continue,
        };
        out.extend_from_slice(&[kind, name, 0]);
        piece(&mut out, &row);
    }
    // Messages of that connection, and a request.
    let mut more = out.clone();
    for (kind, row) in [(5, &b"message"[..]), (6, b"early"), (7, b"\0\0")] {
        more.extend_from_slice(&[kind, 4, 2]);
        piece(&mut more, row);
    }
    let link = INVITATION.trim_end().as_bytes();
    let mut request = vec![1; 32];
    piece(&mut request, link);
    request.extend_from_slice(b"info");
    more.extend_from_slice(&[1, 9, 0]);
    piece(&mut more, &request);
    let noise = [
        &b"\x01C"[..],
        &2_000_u32.to_be_bytes(),
        &[7],
        &2_u64.to_be_bytes(),
        &[3],
    ];
    more.extend_from_slice(&[19, 4, 0]);
    piece(&mut more, &noise.concat());
    let mut late = vec![2, 1, 0, 4];
    piece(&mut late, &[5; 80]);
    late.extend_from_slice(&out);
    vec![out, more, late]
}

// Sessions.

fn evidence() -> Vec<Vec<u8>> {
    let (id, signature) = ([1; 32], [2; 64]);
    let slot = [&id[..], &id, &[0, 0, 0, 1, 2]].concat();
    let pair = [&id[..], &signature].concat();
    let entries = [&[2, 0][..], &pair, &[1], &pair].concat();
    vec![
        [&[0][..], &pair, &pair].concat(),
        [&[1][..], &slot, &pair, &pair].concat(),
        [&[2][..], &slot, &signature, &[1], &entries].concat(),
    ]
}

// Threshold BLS.

fn bls_keys() -> Vec<Vec<u8>> {
    let epoch = &bls::HONEST.epochs[0];
    let share = epoch.share.as_ref().unwrap();
    vec![
        epoch.key.encode(),
        share.encode().to_vec(),
        epoch.key.public_key().to_bytes().to_vec(),
        share
            .public()
            .public_share(share.index())
            .to_bytes()
            .to_vec(),
        partial_sign(share, b"message").to_bytes().to_vec(),
    ]
}

fn bls_setups() -> Vec<Vec<u8>> {
    let key = || bls::HONEST.epochs[0].key.clone();
    let holders = || bls::HONEST.setup.holders();
    let some = || holders().keys().copied().take(2).collect();
    let dealers = || holders().into_iter().take(2).collect();
    bls::occasion(|occasion| {
        [
            Setup::keygen(occasion, 2),
            Setup::refresh(occasion, key(), holders()),
            Setup::reshare(occasion, key(), dealers(), some(), 2),
            Setup::sign(occasion, key(), holders(), b"message"),
        ]
    })
    .into_iter()
    .map(|setup| setup.unwrap().encode())
    .collect()
}
