//! Random commands of clients and two services to one queue; a model of a few lines predicts them.

use std::collections::VecDeque;

use bytes::Bytes;
use junto_smp::{
    command::Command,
    error::ErrorCode,
    message::MessageFlags,
    queue::{Answer, Change, ConnectionId, Content, Delivery, Event, Queue},
    service::ServiceRole,
    version::Version,
};
use proptest::prelude::*;

use crate::pair::Pair;
use crate::queues::{carry_out, queue};

/// Connections: two clients, two connections of the first service, two of the second.
const CONNECTIONS: u64 = 6;

#[derive(Clone, Copy, Debug)]
enum Step {
    Subscribe(u64),
    /// `SUBS` of a service: its connection reads, and is given what waits.
    SubscribeAll(u64),
    Take(u64),
    Acknowledge(u64),
    Send,
    Gone(u64),
}

/// The service of a connection.
fn service_of(connection: u64) -> Option<usize> {
    match connection {
        0 | 1 => None,
        2 | 3 => Some(0),
        _ => Some(1),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let any = || 0..CONNECTIONS;
    prop_oneof![
        3 => any().prop_map(Step::Subscribe),
        3 => (2..CONNECTIONS).prop_map(Step::SubscribeAll),
        1 => any().prop_map(Step::Take),
        4 => any().prop_map(Step::Acknowledge),
        3 => Just(Step::Send),
        1 => any().prop_map(Step::Gone),
    ]
}

/// Who reads, and the number of what it has to acknowledge.
#[derive(Clone, Copy, Debug)]
struct Reading {
    connection: u64,
    delivered: Option<u64>,
}

#[derive(Default)]
struct Model {
    messages: VecDeque<u64>,
    sent: u64,
    owner: Option<usize>,
    readers: [Option<u64>; 2],
    subscriber: Option<Reading>,
    getter: Option<Reading>,
}

/// What is seen of a step: the answer, and who was told.
#[derive(Debug, PartialEq)]
struct Seen {
    /// A message with the answer, or the kind of answer.
    answer: Result<Option<u64>, ErrorCode>,
    told: Option<(u64, Option<u64>)>,
    owner: Option<usize>,
}

impl Model {
    fn follow(&mut self) {
        let Some(owner) = self.owner else { return };
        let gets = |c: &u64| self.getter.is_some_and(|getter| getter.connection == *c);
        let reader = self.readers[owner].filter(|c| !gets(c));
        if self.subscriber.map(|s| s.connection) != reader {
            self.subscriber = reader.map(|connection| Reading {
                connection,
                delivered: None,
            });
        }
    }

    fn deliver(&mut self) -> Option<u64> {
        let subscriber = self.subscriber.as_mut().filter(|s| s.delivered.is_none())?;
        subscriber.delivered = self.messages.front().copied();
        subscriber.delivered
    }

    fn step(&mut self, step: Step) -> Seen {
        self.follow();
        let mut told = None;
        let answer = match step {
            Step::Subscribe(c) if self.getter.is_some_and(|g| g.connection == c) => {
                Err(ErrorCode::PROHIBITED)
            }
            Step::Subscribe(connection) => {
                let own = service_of(connection);
                let moved = own.is_some() && own == self.owner;
                let before = self
                    .subscriber
                    .filter(|s| s.connection != connection && !moved);
                told = before.map(|before| (before.connection, None));
                self.owner = own;
                self.subscriber = Some(Reading {
                    connection,
                    delivered: None,
                });
                if let Some(own) = own {
                    self.readers[own] = Some(connection);
                }
                Ok(self.deliver())
            }
            Step::SubscribeAll(connection) => {
                let own = service_of(connection).unwrap();
                self.readers[own] = Some(connection);
                self.follow();
                let reads = self.owner == Some(own)
                    && self.subscriber.is_some_and(|s| s.connection == connection);
                Ok(if reads { self.deliver() } else { None })
            }
            Step::Take(c) if self.subscriber.is_some_and(|s| s.connection == c) => {
                Err(ErrorCode::PROHIBITED)
            }
            Step::Take(connection) => {
                let delivered = self.messages.front().copied();
                self.getter = Some(Reading {
                    connection,
                    delivered,
                });
                Ok(delivered)
            }
            Step::Acknowledge(connection) => self.acknowledge(connection),
            Step::Send => {
                self.messages.push_back(self.sent);
                self.sent += 1;
                let to = self.subscriber.map(|s| s.connection);
                told = self.deliver().and_then(|number| Some((to?, Some(number))));
                Ok(None)
            }
            Step::Gone(connection) => {
                let gets = self.getter.is_some_and(|g| g.connection == connection);
                if let Some(own) = service_of(connection)
                    && self.readers[own] == Some(connection)
                {
                    self.readers[own] = None;
                }
                if gets || service_of(connection).is_none() {
                    self.subscriber = self.subscriber.filter(|s| s.connection != connection);
                    self.getter = self.getter.filter(|g| g.connection != connection);
                }
                Ok(None)
            }
        };
        Seen {
            answer,
            told,
            owner: self.owner,
        }
    }

    fn acknowledge(&mut self, connection: u64) -> Result<Option<u64>, ErrorCode> {
        let mine = |reading: &&mut Reading| reading.connection == connection;
        let subscribed = self.subscriber.as_mut().filter(mine).is_some();
        let reading = match subscribed {
            true => self.subscriber.as_mut(),
            false => self.getter.as_mut().filter(mine),
        };
        let number = reading
            .and_then(|reading| reading.delivered.take())
            .ok_or(ErrorCode::NoMessage)?;
        if self.messages.front() == Some(&number) {
            self.messages.pop_front();
        }
        Ok(if subscribed { self.deliver() } else { None })
    }
}

/// The number of a message, which is in its box.
fn number_of(delivery: &Delivery<Bytes>) -> u64 {
    match &delivery.message.content {
        Content::Body { body, .. } => u64::from_be_bytes(body.as_ref().try_into().unwrap()),
        Content::QuotaReached => panic!("no quota here"),
    }
}

struct System {
    queue: Queue<Bytes>,
    services: [Pair; 2],
    plain: Pair,
    readers: [Option<u64>; 2],
    /// The last that took a message by `GET`.
    getter: Option<u64>,
    sent: u64,
}

impl System {
    fn new() -> Self {
        let service = |n| Pair::service_with(Version::MAX, ServiceRole::Messaging, n);
        Self {
            queue: queue(),
            services: [service(1), service(2)],
            plain: Pair::client(Version::MAX),
            readers: [None; 2],
            getter: None,
            sent: 0,
        }
    }

    fn owning(&self) -> Option<usize> {
        let own = self.queue.service()?.id;
        let is = |pair: &Pair| pair.service.as_ref().unwrap().id == own;
        self.services.iter().position(is)
    }

    /// As a relay does before everything.
    fn follow(&mut self) {
        let reader = self.owning().and_then(|own| self.readers[own]);
        self.queue.follow_services(reader.map(ConnectionId), None);
    }

    fn step(&mut self, step: Step) -> Seen {
        self.follow();
        let seen = match step {
            Step::Subscribe(c) => self.give(c, Command::Sub),
            Step::Take(c) => {
                let seen = self.give(c, Command::Get);
                if seen.0.is_ok() {
                    self.getter = Some(c);
                }
                seen
            }
            Step::Acknowledge(c) => self.give(c, Command::Ack(None)),
            Step::Send => {
                let body = self.sent.to_be_bytes();
                self.sent += 1;
                let flags = MessageFlags { notify: false };
                self.give(0, Command::Send { flags, body: &body })
            }
            Step::SubscribeAll(c) => {
                let own = service_of(c).unwrap();
                self.readers[own] = Some(c);
                self.follow();
                let connection = ConnectionId(c);
                let delivery = match self.owning() == Some(own) {
                    true => self.queue.deliver_waiting(connection),
                    false => None,
                };
                (Ok(delivery.as_ref().map(number_of)), None)
            }
            Step::Gone(c) => {
                let own = service_of(c);
                if let Some(own) = own
                    && self.readers[own] == Some(c)
                {
                    self.readers[own] = None;
                }
                if own.is_none() || self.getter == Some(c) {
                    self.queue.disconnect(ConnectionId(c));
                }
                (Ok(None), None)
            }
        };
        Seen {
            answer: seen.0,
            told: seen.1,
            owner: self.owning(),
        }
    }

    #[allow(clippy::type_complexity)] // The parts of `Seen`.
    fn give(
        &mut self,
        connection: u64,
        command: Command<'_>,
    ) -> (Result<Option<u64>, ErrorCode>, Option<(u64, Option<u64>)>) {
        let before = self.owning();
        let subscribes = command == Command::Sub;
        let pair = match service_of(connection) {
            Some(own) => &mut self.services[own],
            None => &mut self.plain,
        };
        let outcome = carry_out(&mut self.queue, pair, connection, command);
        let answer = match &outcome.answer {
            Answer::Message(delivery) => Ok(Some(number_of(delivery))),
            Answer::Error(code) => Err(*code),
            Answer::Subscribed(service) => {
                let own = self.queue.service().map(|service| service.id);
                assert_eq!(*service, own);
                Ok(outcome.then.as_ref().map(number_of))
            }
            _ => Ok(None),
        };
        // Who owns it is stored exactly when it changes.
        let stored = matches!(outcome.change, Some(Change::Service { .. }));
        assert_eq!(stored, before != self.owning());
        if subscribes
            && answer.is_ok()
            && let Some(own) = service_of(connection)
        {
            self.readers[own] = Some(connection);
        }
        let told = outcome.notify.map(|(to, event)| match event {
            Event::Message(delivery) => (to.0, Some(number_of(&delivery))),
            Event::End | Event::Deleted => (to.0, None),
        });
        (answer, told)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_queue_does_what_the_model_says_whoever_reads_it(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (mut system, mut model) = (System::new(), Model::default());
        for step in steps {
            let seen = system.step(step);
            prop_assert_eq!(seen, model.step(step), "{:?}", step);
            prop_assert_eq!(system.queue.messages().len(), model.messages.len());
        }
    }
}
