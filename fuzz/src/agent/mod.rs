//! The agent protocol: links, layers, messages, stored rows, and the machine behind them.

mod link_data;
mod machine;

use junto_agent::proto::{
    AgentMessage, Body, Command, ConnectionId, Envelope, Link, Machine, MachineConfig, MessageId,
    Output, QueueUri, RequestId, Resync, RoutePolicy, RowKey, Schedule, SealedBody, Tag, Ticket,
    VersionRange,
};
use junto_agent::proto::{Instant, RestoreError, Row};
use junto_crypto::secretbox::BoxKey;
pub(crate) use link_data::{link_data, seeds_of_link_data};
pub(crate) use machine::{deliverable, machine, rows_of_setup, seed_of_reply};

use crate::{input::Input, seeds};

/// Links and queue addresses as text, which may be spelled in several ways.
pub(crate) fn link(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(link) = text.parse::<Link>() {
        let printed = link.to_string();
        let again: Link = printed.parse().expect("links read what they print");
        assert_eq!(again.to_string(), printed);
        assert_eq!(again, link);
        match &link {
            Link::Invitation(link) => drop(link.negotiated()),
            Link::Contact(link) => drop(link.negotiated()),
            Link::Short(link) => {
                assert_eq!(link.web().parse::<Link>(), Ok(Link::Short(link.clone())));
                drop(link.relay(&[]));
            }
        }
    }
    if let Ok(queue) = text.parse::<QueueUri>() {
        let printed = queue.to_string();
        assert_eq!(printed.parse::<QueueUri>(), Ok(queue));
    }
    if let Ok(range) = text.parse::<VersionRange>() {
        assert_eq!(range.to_string().parse::<VersionRange>(), Ok(range));
    }
}

/// What lies in a queue, closed.
pub(crate) fn queue_layer(bytes: &[u8]) {
    if let Ok(sealed) = SealedBody::read(bytes) {
        assert!(sealed.open(&BoxKey::from_symmetric(&[8; 32])).is_err());
    }
}

/// What lies in a queue message, opened.
pub(crate) fn envelope(bytes: &[u8]) {
    let Ok(envelope) = Envelope::read(bytes) else {
        return;
    };
    let mut encoded = Vec::new();
    if envelope.put(&mut encoded).is_err() {
        // A link grows when it is written as we write it.
        return assert!(matches!(envelope, Envelope::Invitation { .. }));
    }
    if let Envelope::Invitation { .. } = envelope {
        assert_eq!(Envelope::read(&encoded), Ok(envelope));
    } else {
        // Any version from ours on is read, ours is written.
        assert_eq!(encoded[2..], bytes[2..]);
    }
}

/// What the ratchet protects.
pub(crate) fn message(bytes: &[u8]) {
    let Ok(message) = AgentMessage::read(bytes) else {
        return;
    };
    let mut encoded = Vec::new();
    message.put(&mut encoded).expect("what was read fits");
    if let AgentMessage::InfoReply { .. } = message {
        // A port may be left out.
        assert_eq!(AgentMessage::read(&encoded), Ok(message));
        return;
    }
    assert_eq!(encoded, bytes);
    if let AgentMessage::Numbered {
        body: Body::Receipts(receipts),
        ..
    } = message
    {
        assert!((1..=255).contains(&receipts.len()));
    }
}

fn read_rows(bytes: &[u8]) -> Vec<(RowKey, Row)> {
    let mut input = Input(bytes);
    let mut rows = Vec::new();
    while !input.is_empty() {
        let (kind, name, number) = (input.u8(), input.u8(), u64::from(input.u8()));
        let (connection, small) = (ConnectionId::new([name; 16]), u32::from(name));
        let key = match kind % 10 {
            _ if kind == 19 => RowKey::Noise(connection),
            0 => RowKey::Address(Tag::new([name; 32])),
            1 => RowKey::Request(RequestId::new([name; 16])),
            2 => RowKey::LateKey(ConnectionId::new([input.u8(); 16]), small, small),
            3 => RowKey::Connection(connection),
            4 => RowKey::Invitation(connection),
            5 => RowKey::Outbox(connection, number),
            6 => RowKey::Early(connection, number),
            7 => RowKey::Inbox(connection, number),
            8 => RowKey::Parallel(connection),
            _ => RowKey::Renewal(connection),
        };
        rows.push((key, Row::new(input.piece().to_vec())));
    }
    rows
}

/// Rows of a store, in any order: kind, name, number, and a piece. Then everything that an
/// application may ask is asked.
pub(crate) fn rows(bytes: &[u8]) {
    let rows = read_rows(bytes);
    let mut stored: std::collections::BTreeMap<RowKey, Row> = rows.iter().cloned().collect();
    let restore = |rows| {
        Machine::restore(
            MachineConfig {
                receipts: true,
                routes: RoutePolicy::default(),
                resync: Resync::default(),
                schedule: Schedule::default(),
            },
            rows,
        )
    };
    let restored: Result<Machine, RestoreError> = restore(rows);
    let Ok(mut machine) = restored else {
        return;
    };
    let mut rng = seeds::rng(9);
    let now = Instant::from_millis(5);
    let connections = stored.keys().filter_map(|key| match key {
        RowKey::Connection(id) => Some(*id),
        _ => None,
    });
    for (connection, number) in connections.collect::<Vec<_>>().into_iter().zip(1..4) {
        let (message, body) = (MessageId::new(2), b"body".to_vec());
        for command in [
            Command::Send { connection, body },
            Command::Acknowledge {
                connection,
                message,
            },
        ] {
            machine.handle_command(now, Ticket(number), command, &mut rng);
        }
    }
    // Whatever was stored, it can be taken up, and what that changes can be stored.
    for _ in 0..4 {
        let Some(step) = machine.take_step() else {
            break;
        };
        for (key, row) in step.delta().rows() {
            match row {
                Some(row) => stored.insert(*key, row.clone()),
                None => stored.remove(key),
            };
        }
        let proof = junto_agent::proto::Committed::promised();
        for output in step.release(proof) {
            if let Output::Dial { relay, .. } = output {
                machine.handle_relay_up(now, relay);
            }
        }
        machine.handle_timeout(Instant::from_millis(60_000), &mut rng);
    }
    let _ = machine.take_step();
    let again = restore(stored.into_iter().collect());
    assert!(again.is_ok(), "it does not read what it wrote");
}
