//! Random commands to one queue; a model of a few lines predicts every answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::VecDeque;

use junto_crypto::{ed25519, x25519};
use junto_smp::{
    blocking::{Blocking, BlockingReason},
    command::{Command, NewMode},
    error::ErrorCode,
    id::{Entity, LinkId, MessageId, NotifierId, RecipientId},
    key::AuthSecret,
    link::LinkBlobs,
    message::{Delivered, MessageFlags, Timestamp},
    notification::NotificationKey,
    version::VersionRange,
};
use proptest::prelude::*;
use support::{Got, Owned, Peer, Relay, create, newest};

const LIMIT: usize = 4;
const CONNECTIONS: usize = 3;
const LINK: LinkId = LinkId([0x77; 24]);
const BLOCKING: Blocking = Blocking {
    reason: BlockingReason::Spam,
    notice: None,
};

#[derive(Clone, Debug)]
enum Step {
    Send {
        key: Option<u8>,
        notify: bool,
    },
    Secure {
        by: By,
        key: u8,
    },
    Subscribe,
    Take,
    Acknowledge(AckOf),
    Off,
    SetLink {
        user: u8,
        other_id: bool,
        other_fixed: bool,
    },
    DeleteLink,
    ReadLink,
    SetOwners(u8),
    SetNotifier,
    DeleteNotifier,
    Watch,
    Block(bool),
    Reconnect,
    Wait(u64),
}

/// Who sets the sender's key.
#[derive(Clone, Copy, Debug)]
enum By {
    Recipient,
    Sender,
    Link,
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
        8 => (prop::option::of(key()), any::<bool>())
            .prop_map(|(key, notify)| Step::Send { key, notify }),
        1 => (proptest::sample::select(vec![By::Recipient, By::Sender, By::Link]), key())
            .prop_map(|(by, key)| Step::Secure { by, key }),
        2 => (any::<u8>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
            |(user, other_id, other_fixed)| Step::SetLink { user, other_id, other_fixed }
        ),
        1 => Just(Step::DeleteLink),
        2 => Just(Step::ReadLink),
        1 => (1_u8..4).prop_map(Step::SetOwners),
        2 => Just(Step::SetNotifier),
        1 => Just(Step::DeleteNotifier),
        4 => Just(Step::Watch),
        1 => any::<bool>().prop_map(Step::Block),
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
    /// The notification server should hear of it and has not.
    untold: bool,
}

/// Link data: whether its name and its fixed part are the usual ones, and the user part.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Linked {
    other_id: bool,
    other_fixed: bool,
    user: u8,
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
    blocked: bool,
    link: Option<Linked>,
    notifier: bool,
    watcher: Option<usize>,
    subscriber: Option<Reading>,
    getter: Option<Reading>,
}

/// A predicted answer; messages by number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Predicted {
    Ok,
    Subscribed,
    Message(Option<u64>),
    Link(Linked),
    NotifierSet,
    /// A notification, with the model's serial of its message.
    Told(u64),
    WatchEnd,
    WatchDeleted,
    Error(ErrorCode),
}

type Events = Vec<(usize, Predicted)>;

impl Model {
    fn deliver(&mut self) -> Option<(usize, Option<u64>)> {
        let reader = self.subscriber.as_mut().filter(|r| r.delivered.is_none())?;
        let (serial, entry) = self.entries.front()?;
        reader.delivered = Some(*serial);
        Some((reader.connection, entry.number))
    }

    /// The watcher is one no longer; it hears so unless it asked for that itself.
    fn end_watch(&mut self, connection: usize, event: Predicted) -> Events {
        let watcher = self.watcher.take().filter(|w| *w != connection);
        watcher
            .into_iter()
            .map(|watcher| (watcher, event))
            .collect()
    }

    /// What the watcher is told now.
    fn tell(&mut self) -> Events {
        let Some(watcher) = self.watcher else {
            return Vec::new();
        };
        let untold = self.entries.iter_mut().filter(|(_, entry)| entry.untold);
        untold
            .map(|(serial, entry)| {
                entry.untold = false;
                (watcher, Predicted::Told(*serial))
            })
            .collect()
    }

    /// The data under the usual name.
    fn readable(&self) -> Option<Linked> {
        self.link.filter(|link| !link.other_id)
    }

    /// Whether nobody without the recipient's key may find this queue.
    fn hidden(&self, step: &Step) -> bool {
        match step {
            Step::Send { key, .. } => self.off || *key != self.sender_key,
            Step::Secure {
                by: By::Recipient, ..
            } => false,
            Step::Secure { by, key } => {
                self.off
                    || !self.messaging
                    || self.sender_key.is_some_and(|set| set != *key)
                    || matches!(by, By::Link) && self.readable().is_none()
            }
            Step::ReadLink => self.off || self.messaging || self.readable().is_none(),
            Step::Watch => !self.notifier,
            _ => false,
        }
    }

    /// The answer, and events with their connections.
    fn step(&mut self, connection: usize, step: &Step) -> (Predicted, Events) {
        let auth = Predicted::Error(ErrorCode::Auth);
        let none = Vec::new();
        if self.hidden(step) {
            return (auth, none);
        }
        if self.blocked && !matches!(step, Step::Off | Step::Watch) {
            return (Predicted::Error(ErrorCode::Blocked(BLOCKING)), none);
        }
        match step {
            Step::Send { notify, .. } => {
                if self.messaging && self.sender_key.is_some() {
                    self.link = None;
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
                let entry = Entry {
                    number: (!full).then_some(self.sent),
                    time: now,
                    untold: *notify && !full && self.notifier,
                };
                self.entries.push_back((self.serial, entry));
                let mut events = self.tell();
                events.extend(self.deliver().map(|(to, n)| (to, Predicted::Message(n))));
                if full {
                    return (Predicted::Error(ErrorCode::Quota), events);
                }
                self.sent += 1;
                (Predicted::Ok, events)
            }
            Step::Secure { by, key } => {
                if *self.sender_key.get_or_insert(*key) != *key {
                    return (auth, none);
                }
                match (by, self.link) {
                    (By::Link, Some(link)) => (Predicted::Link(link), none),
                    _ => (Predicted::Ok, none),
                }
            }
            Step::SetLink {
                user,
                other_id,
                other_fixed,
            } => {
                let secured = self.messaging && self.sender_key.is_some();
                let new = Linked {
                    other_id: *other_id,
                    other_fixed: *other_fixed,
                    user: *user,
                };
                let same = |old: Linked| Linked { user: *user, ..old } == new;
                if secured || !self.link.is_none_or(same) {
                    return (auth, none);
                }
                self.link = Some(new);
                (Predicted::Ok, none)
            }
            Step::DeleteLink => {
                self.link = None;
                (Predicted::Ok, none)
            }
            Step::ReadLink => (self.link.map_or(auth, Predicted::Link), none),
            Step::SetOwners(_) if self.messaging => (auth, none),
            Step::SetOwners(_) => (Predicted::Ok, none),
            Step::SetNotifier => {
                self.notifier = true;
                for (_, entry) in &mut self.entries {
                    entry.untold = false;
                }
                let events = self.end_watch(connection, Predicted::WatchDeleted);
                (Predicted::NotifierSet, events)
            }
            Step::DeleteNotifier => {
                self.notifier = false;
                let events = self.end_watch(connection, Predicted::WatchDeleted);
                (Predicted::Ok, events)
            }
            Step::Watch => {
                let mut events = self.end_watch(connection, Predicted::WatchEnd);
                self.watcher = Some(connection);
                events.extend(self.tell());
                (Predicted::Subscribed, events)
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
            Step::Block(_) | Step::Reconnect | Step::Wait(_) => unreachable!("no command"),
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
    notifier: Option<NotifierId>,
    /// Opens its notifications.
    opening: Option<NotificationKey>,
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
            notifier: None,
            opening: None,
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
            Step::Send { key, notify } => {
                let key = key.map(Self::sender_key);
                let command = Command::Send {
                    flags: MessageFlags { notify: *notify },
                    body: &body,
                };
                peer.ask_one(&mut self.relay, queue.sender(), key.as_ref(), command)
            }
            Step::Secure { by, key } => {
                let key = Self::sender_key(*key);
                let (entity, command) = match by {
                    By::Recipient => {
                        let command = Command::Key(key.public_key());
                        return recipient(peer, &mut self.relay, command);
                    }
                    By::Sender => (queue.sender(), Command::SenderKey(key.public_key())),
                    By::Link => (Entity::Queue(&LINK.0), Command::LinkKey(key.public_key())),
                };
                peer.ask_one(&mut self.relay, entity, Some(&key), command)
            }
            Step::SetLink {
                user,
                other_id,
                other_fixed,
            } => {
                let blobs = [*user];
                let fixed = if *other_fixed { b"other" } else { b"fixed" };
                let command = Command::SetLink {
                    link: if *other_id { LinkId([1; 24]) } else { LINK },
                    blobs: LinkBlobs::new(fixed, &blobs).unwrap(),
                };
                recipient(peer, &mut self.relay, command)
            }
            Step::DeleteLink => recipient(peer, &mut self.relay, Command::DeleteLink),
            Step::ReadLink => {
                let link = Entity::Queue(&LINK.0);
                peer.ask_one(&mut self.relay, link, None, Command::ReadLink)
            }
            Step::SetOwners(count) => {
                // The one that everything is signed with is the last to be tried.
                let others = (1..*count).map(|n| Self::sender_key(n + 50).public_key());
                let keys = others.chain([queue.key.public_key()]).collect();
                recipient(peer, &mut self.relay, Command::RecipientKeys(keys))
            }
            Step::SetNotifier => {
                let command = Command::SetNotifier {
                    auth_key: Self::sender_key(99).public_key(),
                    dh_key: notifier_secret().public_key(),
                };
                recipient(peer, &mut self.relay, command)
            }
            Step::DeleteNotifier => recipient(peer, &mut self.relay, Command::DeleteNotifier),
            Step::Watch => {
                let id = self.notifier.unwrap_or(NotifierId([2; 24]));
                let key = Self::sender_key(99);
                let command = Command::NotifierSub;
                peer.ask_one(&mut self.relay, Entity::Queue(&id.0), Some(&key), command)
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
            Step::Block(_) | Step::Reconnect | Step::Wait(_) => unreachable!("no command"),
        }
    }

    fn observed(&mut self, connection: usize, got: &Got) -> Predicted {
        match got {
            Got::Ok => Predicted::Ok,
            Got::Subscribed => Predicted::Subscribed,
            Got::Error(code) => Predicted::Error(*code),
            Got::Link(sender, fixed, user) => {
                assert_eq!(*sender, self.queue.ids.sender);
                Predicted::Link(Linked {
                    other_id: false,
                    other_fixed: fixed != b"fixed",
                    user: user[0],
                })
            }
            Got::NotifierIds(ids) => {
                let shared = notifier_secret()
                    .diffie_hellman(&ids.server_dh_key)
                    .unwrap();
                self.notifier = Some(ids.id);
                self.opening = Some(NotificationKey::new(&shared));
                Predicted::NotifierSet
            }
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

    /// An event, by the queue's name in it.
    fn heard(
        &mut self,
        connection: usize,
        name: Option<RecipientId>,
        got: &Got,
        model: &Model,
    ) -> Predicted {
        let watched = name != Some(self.queue.ids.recipient);
        match got {
            Got::End if watched => Predicted::WatchEnd,
            Got::Deleted if watched => Predicted::WatchDeleted,
            Got::End => Predicted::Ok,
            Got::Notification(nonce, sealed) => {
                assert_eq!(name.map(|name| name.0), self.notifier.map(|id| id.0));
                let opening = self.opening.as_ref().unwrap();
                let told = opening.open(nonce, sealed).unwrap().message;
                let mut messages = self.relay.queues.values().next().unwrap().messages();
                let index = messages.position(|message| message.id == told).unwrap();
                Predicted::Told(model.entries[index].0)
            }
            message => self.observed(connection, message),
        }
    }
}

fn notifier_secret() -> x25519::SecretKey {
    x25519::SecretKey::from_bytes(&[0x42; 32])
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
                if model.watcher == Some(connection) {
                    model.watcher = None;
                }
                continue;
            }
            Step::Block(blocked) => {
                let queue = system.relay.queues.values_mut().next().unwrap();
                let changed = queue.set_blocking(blocked.then_some(BLOCKING)).is_some();
                assert_eq!(changed, model.blocked != *blocked);
                model.blocked = *blocked;
                continue;
            }
            _ => {}
        }
        let before = model.subscriber;
        let got = system.step(connection, step, model.sent);
        let (predicted, mut events) = model.step(connection, step);
        let ended = before.filter(|reading| {
            matches!(step, Step::Subscribe)
                && predicted == Predicted::Subscribed
                && reading.connection != connection
        });
        // END, to whoever was subscribed before.
        events.extend(ended.map(|reading| (reading.connection, Predicted::Ok)));
        let observed = system.observed(connection, &got);
        assert_eq!(observed, predicted, "{connection} {step:?}");
        for number in 0..CONNECTIONS {
            let got = system.peers[number].take_events(&mut system.relay);
            let observed: Vec<Predicted> = got
                .iter()
                .map(|(name, got)| system.heard(number, *name, got, &model))
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
