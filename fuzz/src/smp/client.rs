//! The client half against a server that says anything.

use junto_crypto::ed25519;
use junto_smp::{
    block::{OutgoingBlock, new_block},
    client::{Client, Event, Incoming, Options, Request},
    command::Command,
    hello::LeafKey,
    id::Entity,
    message::MessageFlags,
    version::{Version, VersionRange},
};

use super::{
    plain,
    server::{self, LEAF_SEED, Relay},
};
use crate::{input::Input, seeds};

/// A client that waits for answers to these, and the block it has sent. Its random numbers are
/// always the same, so genuine answers make good seeds.
pub(crate) fn waiting(version: Version, relay: &mut Relay) -> (Client<usize>, OutgoingBlock) {
    let (mut hello, mut answer) = (new_block(), new_block());
    let handshake = relay.greet(0, &mut hello);
    let options = Options {
        versions: VersionRange::only(version),
        encrypt: false,
        ..Options::new(relay.identity.fingerprint())
    };
    let leaf = LeafKey::Ed25519(ed25519::SigningKey::from_seed(&LEAF_SEED).verifying_key());
    let mut rng = seeds::rng(7);
    let session = server::session(0);
    let mut client =
        Client::open(&options, session, &leaf, &mut hello, &mut answer, &mut rng).unwrap();
    relay.accept(0, handshake, None, &mut answer);
    let secret = server::secret();
    let (recipient, sender) = ([server::FIRST_QUEUE; 24], [server::FIRST_QUEUE + 0x80; 24]);
    let flags = MessageFlags { notify: true };
    let body = b"body".as_slice();
    let commands = [
        (Entity::Queue(&recipient), Command::Sub),
        (Entity::Queue(&sender), Command::Send { flags, body }),
        (Entity::Queue(&recipient), Command::Info),
        (Entity::Queue(&recipient), Command::Ack(None)),
        (Entity::None, Command::New(Box::new(seeds::new_queue()))),
        (Entity::Queue(&recipient), Command::Get),
        (Entity::None, Command::Ping),
        (Entity::Queue(&recipient), Command::Delete),
    ];
    let mut outgoing = OutgoingBlock::new();
    for (ticket, (entity, command)) in commands.into_iter().enumerate() {
        let request = Request {
            entity,
            key: Some(&secret).filter(|_| !matches!(command, Command::Ping)),
            command,
        };
        let pushed = client.push(&mut outgoing, &request, ticket, &mut rng);
        assert!(pushed.is_ok());
    }
    (client, outgoing)
}

/// Blocks that a server sends to a client that waits for answers.
pub(crate) fn client(bytes: &[u8]) {
    let mut input = Input(bytes);
    let version = Version::ALL[usize::from(input.u8()) % Version::ALL.len()];
    let (mut client, _) = waiting(version, &mut Relay::new());
    let mut answered = std::collections::BTreeSet::new();
    while !input.is_empty() {
        let mut block = plain(input.piece());
        let before = client.in_flight();
        let Ok(replies) = client.receive(&mut block) else {
            continue;
        };
        let mut count = 0;
        for incoming in replies {
            match incoming {
                Incoming::Reply { ticket, result } => {
                    assert!(answered.insert(ticket), "answered twice");
                    let _ = result.map(|response| format!("{response:?}"));
                    count += 1;
                }
                Incoming::Event(Event::Message { sealed, .. }) => assert!(sealed.len() < 16_384),
                Incoming::Event(_) | Incoming::Stray => {}
            }
        }
        assert_eq!(client.in_flight() + count, before);
    }
    let waiting = client.in_flight();
    assert_eq!(client.into_tickets().count(), waiting);
    assert_eq!(answered.len() + waiting, 8);
}
