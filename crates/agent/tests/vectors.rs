//! What agents say to each other has the bytes that SimpleX's agent gives it: `vectors/agent/messages.txt`, both ways.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use junto_agent::proto::{
    AgentMessage, Body, Envelope, InvitationLink, QueueInfo, QueueName, QueueUri, Receipt,
};
use junto_ratchet::{KemParams, Params};
use junto_smp::key::AuthKey;

const VECTORS: &str = include_str!("../../../vectors/agent/messages.txt");

/// The vectors by name. Each is taken out by the test that reads it, so that none is left unread.
struct Vectors(BTreeMap<&'static str, &'static str>);

impl Vectors {
    fn of(prefixes: &[&str]) -> Self {
        let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
        let all = lines.map(|line| line.split_once(' ').expect(line));
        let wanted = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        Self(all.filter(|(name, _)| wanted(name)).collect())
    }

    fn text(&mut self, name: &str) -> &'static str {
        self.0.remove(name).expect(name)
    }

    fn bytes(&mut self, name: &str) -> Vec<u8> {
        hex::decode(self.text(name)).expect(name)
    }

    fn end(self) {
        assert!(self.0.is_empty(), "not read: {:?}", self.0.keys());
    }
}

fn encoded(message: &AgentMessage<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.put(&mut bytes).unwrap();
    bytes
}

fn check(vector: &[u8], message: &AgentMessage<'_>) {
    assert_eq!(hex::encode(encoded(message)), hex::encode(vector));
    assert_eq!(AgentMessage::read(vector).as_ref(), Ok(message));
}

fn queue() -> QueueUri {
    Vectors::of(&["queue"]).text("queue").parse().unwrap()
}

#[test]
fn connection_information_has_the_bytes_of_the_genuine_agent() {
    let mut vectors = Vectors::of(&["info"]);
    let info = b"about us";
    check(&vectors.bytes("info"), &AgentMessage::Info(info));
    let queues = vec![QueueInfo::new(queue().address)];
    let reply = AgentMessage::InfoReply { queues, info };
    check(&vectors.bytes("info_reply"), &reply);
    let renewed = AgentMessage::RatchetInfo(info);
    check(&vectors.bytes("info_ratchet"), &renewed);
    vectors.end();
}

#[test]
fn messages_receipts_and_words_about_queues_have_the_bytes_of_the_genuine_agent() {
    let mut vectors = Vectors::of(&["numbered_", "queue"]);
    let uri: QueueUri = vectors.text("queue").parse().unwrap();
    assert_eq!(uri.address.relay.hosts().len(), 2);
    let key = AuthKey::from_spki(&vectors.bytes("queue_key")).unwrap();
    let name = || QueueName::of(&uri.address);
    let first = AgentMessage::Numbered {
        id: 1,
        previous_hash: b"",
        body: Body::Hello,
    };
    check(&vectors.bytes("numbered_first"), &first);
    let receipts = [(3, [7; 32], &b""[..]), (4, [8; 32], b"info")];
    let receipts = receipts.map(|(id, hash, info)| Receipt { id, hash, info });
    let continues = vectors.bytes("numbered_continues");
    // Number, hash and tag come first; the rest names the queue as any other word does.
    let named = &continues[1 + 8 + 33 + 2..];
    let bodies = [
        ("hello", Body::Hello),
        ("message", Body::Message(b"hello")),
        ("receipts", Body::Receipts(receipts.into())),
        (
            "queue_add",
            Body::QueueAdd(vec![(uri.clone(), Some(name()))]),
        ),
        ("queue_add_none", Body::QueueAdd(vec![(uri.clone(), None)])),
        (
            "queue_key",
            Body::QueueKey(vec![(QueueInfo::new(uri.address.clone()), key)]),
        ),
        ("queue_use", Body::QueueUse(vec![(name(), true)])),
        ("queue_test", Body::QueueTest(vec![name(), name()])),
        ("ready", Body::Ready(258)),
    ];
    let numbered = |body| AgentMessage::Numbered {
        id: 258,
        previous_hash: &[9; 32],
        body,
    };
    let mut used = Vec::new();
    for (name, body) in bodies {
        let vector = vectors.bytes(&format!("numbered_{name}"));
        check(&vector, &numbered(body));
        if name == "queue_use" {
            used = vector;
        }
    }
    vectors.0.remove("numbered_continues");
    check(&continues, &numbered(Body::QueueContinues(named)));
    let (last, rest) = used.split_last().unwrap();
    assert_eq!((*last, rest.ends_with(named)), (b'T', true));
    vectors.end();
}

#[test]
fn envelopes_have_the_bytes_of_the_genuine_agent() {
    let mut vectors = Vectors::of(&["envelope_"]);
    let link = vectors.text("envelope_invitation_link");
    let parsed: InvitationLink = link.parse().unwrap();
    assert_eq!(parsed.to_string(), link);
    for name in vectors.0.keys().copied().collect::<Vec<_>>() {
        let vector = vectors.bytes(name);
        let envelope = Envelope::read(&vector).expect(name);
        let mut bytes = Vec::new();
        envelope.put(&mut bytes).unwrap();
        assert_eq!(hex::encode(bytes), hex::encode(&vector), "{name}");
        let kem = |offer: &Params| match offer.kem {
            None => "classical",
            Some(KemParams::Proposed(_)) => "proposed",
            Some(KemParams::Accepted(..)) => "accepted",
        };
        let said = match &envelope {
            Envelope::Confirmation { offer, ratcheted } => {
                ('C', offer.as_deref().map(kem), *ratcheted)
            }
            Envelope::Message { ratcheted } => ('M', None, *ratcheted),
            Envelope::Numbered { ratcheted, .. } => ('N', None, *ratcheted),
            Envelope::Invitation { link, info } => {
                assert_eq!(**link, parsed);
                ('I', None, *info)
            }
            Envelope::RatchetKey { offer, info } => ('R', Some(kem(offer)), *info),
        };
        let (inside, info) = (&b"ratcheted"[..], &b"info"[..]);
        let expected = match name {
            "envelope_confirmation_bare" => ('C', None, inside),
            "envelope_confirmation" => ('C', Some("classical"), inside),
            "envelope_confirmation_kem_proposed" => ('C', Some("proposed"), inside),
            "envelope_confirmation_kem_accepted" => ('C', Some("accepted"), inside),
            "envelope_message" => ('M', None, inside),
            "envelope_invitation" => ('I', None, info),
            "envelope_ratchet_key" => ('R', Some("classical"), info),
            "envelope_ratchet_key_kem" => ('R', Some("proposed"), info),
            other => panic!("{other}"),
        };
        assert_eq!(said, expected, "{name}");
    }
    vectors.end();
}
