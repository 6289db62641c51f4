//! Random commands to one queue; a model of a few lines predicts every answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::VecDeque;

use junto_crypto::ed25519;
use junto_smp::{
    command::{Command, NewMode},
    error::ErrorCode,
    id::MessageId,
    key::AuthSecret,
    message::{Delivered, MessageFlags, Timestamp},
    version::VersionRange,
};
use proptest::prelude::*;
use support::{Got, Owned, Peer, Relay, create, newest};

const LIMIT: usize = 4;
const CONNECTIONS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Send { key: Option<u8> },
    Secure { by_sender: bool, key: u8 },
    Subscribe,
    Take,
    Acknowledge(AckOf),
    Off,
    Reconnect,
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
enum AckOf {
    Right,
    Wrong,
    Empty,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let key = || 0u8..2;
    let step = prop_oneof![
        8 => prop::option::of(key()).prop_map(|key| Step::Send { key }),
        1 => (any::<bool>(), key()).prop_map(|(by_sender, key)| Step::Secure { by_sender, key }),
        4 => Just(Step::Subscribe),
        2 => Just(Step::Take),
        8 => proptest::sample::select(vec![AckOf::Right, AckOf::Right, AckOf::Wrong, AckOf::Empty])
            .prop_map(Step::Acknowledge),
        1 => Just(Step::Off),
        1 => Just(Step::Reconnect),
        2 => (0u64..60).prop_map(Step::Wait),
    ];
    (0..CONNECTIONS, step)
}

/// An entry of the model's queue: the number of a message, or the marker.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    number: Option<u64>,
    time: u64,
}

/// What a connection has to acknowledge: the model's serial of the entry.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reading {
    connection: usize,
    delivered: Option<u64>,
}

#[derive(Default)]
struct Model {
    entries: VecDeque<(u64, Entry)>,
    serial: u64,
    sent: u64,
    now: u64,
    retention: u64,
    sender_key: Option<u8>,
    messaging: bool,
    off: bool,
    subscriber: Option<Reading>,
    getter: Option<Reading>,
}

/// A predicted answer; messages by number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Predicted {
    Ok,
    Subscribed,
    Message(Option<u64>),
    Error(ErrorCode),
}

impl Model {
    fn deliver(&mut self) -> Option<(usize, Option<u64>)> {
        let reader = self.subscriber.as_mut().filter(|r| r.delivered.is_none())?;
        let (serial, entry) = self.entries.front()?;
        reader.delivered = Some(*serial);
        Some((reader.connection, entry.number))
    }

    /// The answer, and an event with its connection.
    fn step(&mut self, connection: usize, step: &Step) -> (Predicted, Vec<(usize, Predicted)>) {
        let auth = Predicted::Error(ErrorCode::Auth);
        let none = Vec::new();
        match step {
            Step::Send { key } => {
                if self.off || *key != self.sender_key {
                    return (auth, none);
                }
                let (now, retention) = (self.now, self.retention);
                while self
                    .entries
                    .front()
                    .is_some_and(|(_, e)| e.time + retention < now)
                {
                    self.entries.pop_front();
                }
                if self.entries.back().is_some_and(|(_, e)| e.number.is_none()) {
                    return (Predicted::Error(ErrorCode::Quota), none);
                }
                let full = self.entries.len() >= LIMIT;
                self.serial += 1;
                let number = (!full).then_some(self.sent);
                self.entries
                    .push_back((self.serial, Entry { number, time: now }));
                let event = self.deliver().map(|(to, n)| (to, Predicted::Message(n)));
                if full {
                    return (
                        Predicted::Error(ErrorCode::Quota),
                        event.into_iter().collect(),
                    );
                }
                self.sent += 1;
                (Predicted::Ok, event.into_iter().collect())
            }
            Step::Secure { by_sender, key } => {
                if *by_sender && (!self.messaging || self.off) {
                    return (auth, none);
                }
                if *self.sender_key.get_or_insert(*key) == *key {
                    (Predicted::Ok, none)
                } else {
                    (auth, none)
                }
            }
            Step::Subscribe => {
                if self.getter.is_some_and(|r| r.connection == connection) {
                    return (Predicted::Error(ErrorCode::PROHIBITED), none);
                }
                self.subscriber = Some(Reading {
                    connection,
                    delivered: None,
                });
                let event = self.deliver().map(|(to, n)| (to, Predicted::Message(n)));
                (Predicted::Subscribed, event.into_iter().collect())
            }
            Step::Take => {
                if self.subscriber.is_some_and(|r| r.connection == connection) {
                    return (Predicted::Error(ErrorCode::PROHIBITED), none);
                }
                let first = self.entries.front().copied();
                self.getter = Some(Reading {
                    connection,
                    delivered: first.map(|(serial, _)| serial),
                });
                let answer = first.map_or(Predicted::Ok, |(_, e)| Predicted::Message(e.number));
                (answer, none)
            }
            Step::Acknowledge(which) => (self.acknowledge(connection, *which), none),
            Step::Off => {
                self.off = true;
                (Predicted::Ok, none)
            }
            Step::Reconnect | Step::Wait(_) => unreachable!("no command"),
        }
    }

    fn acknowledge(&mut self, connection: usize, which: AckOf) -> Predicted {
        let mine = |r: &&mut Reading| r.connection == connection;
        let subscribed = self.subscriber.is_some_and(|r| r.connection == connection);
        let reader = match self.subscriber.as_mut().filter(mine) {
            Some(reader) => Some(reader),
            None => self.getter.as_mut().filter(mine),
        };
        let Some((reader, serial)) = reader.and_then(|r| r.delivered.map(|serial| (r, serial)))
        else {
            return Predicted::Error(ErrorCode::NoMessage);
        };
        if matches!(which, AckOf::Wrong) {
            return Predicted::Error(ErrorCode::NoMessage);
        }
        reader.delivered = None;
        if self
            .entries
            .front()
            .is_some_and(|(first, _)| *first == serial)
        {
            self.entries.pop_front();
        }
        let next = if subscribed { self.deliver() } else { None };
        next.map_or(Predicted::Ok, |(_, number)| Predicted::Message(number))
    }
}

/// The system: a relay with a queue and some connections.
struct System {
    relay: Relay,
    peers: Vec<Peer>,
    queue: Owned,
    /// The last message that each connection got.
    last: Vec<MessageId>,
}

impl System {
    fn new(messaging: bool) -> Self {
        let mut relay = Relay::new(VersionRange::SUPPORTED);
        relay.limits.messages = LIMIT;
        relay.limits.retention_seconds = 100;
        let options = newest(&relay);
        let mut peers: Vec<Peer> = (0..CONNECTIONS)
            .map(|_| relay.connect(&options).unwrap())
            .collect();
        let mode = if messaging {
            NewMode::Messaging(None)
        } else {
            NewMode::Contact(None)
        };
        let key = AuthSecret::Ed25519(ed25519::SigningKey::from_seed(&[1; 32]));
        let queue = create(&mut peers[0], &mut relay, key, mode, false);
        Self {
            relay,
            peers,
            queue,
            last: vec![MessageId([0; 24]); CONNECTIONS],
        }
    }

    fn sender_key(number: u8) -> AuthSecret {
        AuthSecret::Ed25519(ed25519::SigningKey::from_seed(&[number + 10; 32]))
    }

    fn step(&mut self, connection: usize, step: &Step, sent: u64) -> Got {
        let body = sent.to_be_bytes();
        let (queue, peer) = (&self.queue, &mut self.peers[connection]);
        let recipient = |peer: &mut Peer, relay: &mut Relay, command| {
            peer.ask_one(relay, queue.recipient(), Some(&queue.key), command)
        };
        match step {
            Step::Send { key } => {
                let key = key.map(Self::sender_key);
                let command = Command::Send {
                    flags: MessageFlags { notify: false },
                    body: &body,
                };
                peer.ask_one(&mut self.relay, queue.sender(), key.as_ref(), command)
            }
            Step::Secure { by_sender, key } => {
                let key = Self::sender_key(*key);
                if *by_sender {
                    let command = Command::SenderKey(key.public_key());
                    peer.ask_one(&mut self.relay, queue.sender(), Some(&key), command)
                } else {
                    recipient(peer, &mut self.relay, Command::Key(key.public_key()))
                }
            }
            Step::Subscribe => recipient(peer, &mut self.relay, Command::Sub),
            Step::Take => recipient(peer, &mut self.relay, Command::Get),
            Step::Acknowledge(which) => {
                let id = match which {
                    AckOf::Right => Some(self.last[connection]),
                    AckOf::Wrong => Some(MessageId([0xee; 24])),
                    AckOf::Empty => None,
                };
                recipient(peer, &mut self.relay, Command::Ack(id))
            }
            Step::Off => recipient(peer, &mut self.relay, Command::Off),
            Step::Reconnect | Step::Wait(_) => unreachable!("no command"),
        }
    }

    fn observed(&mut self, connection: usize, got: &Got) -> Predicted {
        match got {
            Got::Ok => Predicted::Ok,
            Got::Subscribed => Predicted::Subscribed,
            Got::Error(code) => Predicted::Error(*code),
            Got::Message(id, sealed) => {
                self.last[connection] = *id;
                let opened = self.queue.delivery.open(id, sealed).unwrap();
                Predicted::Message(match opened.content() {
                    Delivered::Message { body, .. } => {
                        Some(u64::from_be_bytes(body.try_into().unwrap()))
                    }
                    Delivered::QuotaReached { .. } => None,
                })
            }
            other => panic!("{other:?}"),
        }
    }
}

fn run(messaging: bool, steps: &[(usize, Step)]) {
    let mut system = System::new(messaging);
    let mut model = Model {
        messaging,
        retention: system.relay.limits.retention_seconds,
        now: system.relay.now.0,
        ..Model::default()
    };
    for (connection, step) in steps {
        let connection = *connection;
        match step {
            Step::Wait(seconds) => {
                model.now += seconds;
                system.relay.now = Timestamp(model.now);
                continue;
            }
            Step::Reconnect => {
                let options = newest(&system.relay);
                system.relay.disconnect(system.peers[connection].number);
                system.peers[connection] = system.relay.connect(&options).unwrap();
                for reading in [&mut model.subscriber, &mut model.getter] {
                    if reading.is_some_and(|r| r.connection == connection) {
                        *reading = None;
                    }
                }
                continue;
            }
            _ => {}
        }
        let before = model.subscriber;
        let got = system.step(connection, step, model.sent);
        let (predicted, mut events) = model.step(connection, step);
        let ended = before.filter(|reading| {
            predicted == Predicted::Subscribed && reading.connection != connection
        });
        // END, to whoever was subscribed before.
        events.extend(ended.map(|reading| (reading.connection, Predicted::Ok)));
        let observed = system.observed(connection, &got);
        assert_eq!(observed, predicted, "{connection} {step:?}");
        for number in 0..CONNECTIONS {
            let got = system.peers[number].take_events(&mut system.relay);
            let observed: Vec<Predicted> = got
                .iter()
                .map(|(_, got)| match got {
                    Got::End => Predicted::Ok,
                    message => system.observed(number, message),
                })
                .collect();
            let expected: Vec<Predicted> = events
                .iter()
                .filter(|(to, _)| *to == number)
                .map(|(_, event)| *event)
                .collect();
            assert_eq!(observed, expected, "events of {number} after {step:?}");
        }
        let queue = system.relay.queues.values().next().unwrap();
        assert_eq!(queue.messages().len(), model.entries.len());
        assert!(queue.messages().len() <= LIMIT + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_queue_does_what_the_model_says(
        messaging in any::<bool>(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        run(messaging, &steps);
    }
}
