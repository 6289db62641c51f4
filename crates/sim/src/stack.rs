//! The whole stack as a carrier: sessions over agents over relays. A process holds an agent and a
//! session core, each with a store of its own, and dies with both at any commit of either.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use junto_agent::proto::{self as agent, CallError, Command, Reply, Ticket};
use junto_session::{
    carrier::agent::{agents_connection, agents_request, connection_of, event_of},
    proto::{
        endpoint::{ConnectionId, RequestId, Tag},
        step::{Effect, Outcome},
    },
};

use crate::{
    agents::{Agents, Report},
    carrier::{Carrier, News},
    dice::Seed,
    faults::Faults,
    mutation::Mutation,
    trace::Trace,
    verdict::Tally,
};

/// What a call was for.
enum Call {
    Address(Tag),
    Invite(Tag),
    Join(Tag),
    Accept(RequestId),
    /// One of the bodies of a send.
    Send(u64),
    Other,
}

/// What a process forgets when it dies.
#[derive(Default)]
struct Memory {
    calls: BTreeMap<Ticket, Call>,
    /// Sends with the bodies that the agent has not taken yet.
    sends: BTreeMap<u64, (ConnectionId, usize)>,
}

/// See the module.
pub struct Stack {
    agents: Agents,
    memories: Vec<Memory>,
    homes: Vec<usize>,
    tickets: u64,
    news: VecDeque<(usize, News)>,
}

impl Stack {
    /// Agents and relays for `parties`.
    #[must_use]
    pub fn new(seed: Seed, parties: usize, faults: Faults, trace: Trace) -> Self {
        let mut dice = seed.dice("stack");
        let relays = dice.between(1, 2) as usize;
        let faults = Self::shared(faults);
        let shape = (parties, relays);
        Self {
            agents: Agents::new(seed, shape, faults, Mutation::Faithful, trace),
            memories: (0..parties).map(|_| Memory::default()).collect(),
            homes: (0..parties).map(|_| dice.index(relays)).collect(),
            tickets: 0,
            news: VecDeque::new(),
        }
    }

    /// Agents commit several times as often as sessions: they need fewer occasions to die.
    fn shared(faults: Faults) -> Faults {
        Faults {
            crash: faults.crash / 8,
            ..faults
        }
    }

    fn call(&mut self, party: usize, call: Call, command: Command) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.memories[party].calls.insert(ticket, call);
        self.agents.command(party, ticket, command);
    }

    fn send(&mut self, party: usize, connection: ConnectionId, bodies: Vec<Bytes>) {
        self.tickets += 1;
        let group = self.tickets;
        self.memories[party]
            .sends
            .insert(group, (connection, bodies.len()));
        for body in bodies {
            let command = Command::Send {
                connection: agents_connection(connection),
                body: body.to_vec(),
            };
            self.call(party, Call::Send(group), command);
        }
    }

    fn hear(&mut self, party: usize, report: Report) {
        let news = match report {
            Report::Started => Some(News::Started),
            Report::Crashed => {
                self.memories[party] = Memory::default();
                Some(News::Crashed)
            }
            Report::Event(agent::Event::Unreadable { connection }) => {
                panic!("a message on {connection:?} cannot be read")
            }
            Report::Event(event) => event_of(event).map(News::Event),
            Report::Answer(ticket, answer) => {
                let call = self.memories[party].calls.remove(&ticket);
                call.and_then(|call| self.answered(party, call, answer))
                    .map(News::Outcome)
            }
        };
        self.news.extend(news.map(|news| (party, news)));
    }

    fn answered(
        &mut self,
        party: usize,
        call: Call,
        answer: Result<Reply, CallError>,
    ) -> Option<Outcome> {
        let reply = answer.unwrap_or_else(|error| panic!("agent of party {party}: {error}"));
        match (call, reply) {
            (Call::Address(tag), Reply::Address(link, _)) => {
                let link = link.to_string();
                Some(Outcome::Address { tag, link })
            }
            (Call::Invite(tag), Reply::Invitation(id, link, _)) => Some(Outcome::Invitation {
                tag,
                connection: connection_of(id),
                link: link.to_string(),
            }),
            (Call::Join(tag), Reply::Connection(id)) => {
                let connection = connection_of(id);
                Some(Outcome::Joined { tag, connection })
            }
            (Call::Accept(request), Reply::Connection(id)) => {
                let connection = connection_of(id);
                Some(Outcome::Accepted {
                    request,
                    connection,
                })
            }
            (Call::Send(group), Reply::Message(_)) => {
                let sends = &mut self.memories[party].sends;
                let (connection, left) = sends.get_mut(&group)?;
                let connection = *connection;
                *left -= 1;
                if *left > 0 {
                    return None;
                }
                sends.remove(&group);
                Some(Outcome::Sent { connection })
            }
            (Call::Other, _) => None,
            _ => panic!("an agent gives another reply than was asked for"),
        }
    }

    fn command(&self, party: usize, effect: Effect) -> (Call, Command) {
        let relay = self.agents.relay_address(self.homes[party]);
        match effect {
            Effect::Address { tag, .. } => {
                let name = agent::Tag::new(tag.0);
                (
                    Call::Address(tag),
                    Command::CreateAddress {
                        tag: name,
                        relay,
                        about: None,
                    },
                )
            }
            Effect::CloseAddress { tag } => {
                let tag = agent::Tag::new(tag.0);
                (Call::Other, Command::CloseAddress { tag })
            }
            Effect::Invite { tag, .. } => {
                let name = agent::Tag::new(tag.0);
                let command = Command::CreateInvitation {
                    tag: name,
                    relay,
                    info: Vec::new(),
                    about: None,
                };
                (Call::Invite(tag), command)
            }
            Effect::Join {
                tag, link, info, ..
            } => {
                let name = agent::Tag::new(tag.0);
                let link = link.parse().expect("a link of an agent");
                let command = Command::Join {
                    tag: name,
                    link,
                    relay,
                    info,
                };
                (Call::Join(tag), command)
            }
            Effect::Accept { request, info, .. } => {
                let id = agents_request(request);
                let command = Command::Accept {
                    request: id,
                    relay,
                    info,
                };
                (Call::Accept(request), command)
            }
            Effect::Reject { request } => {
                let request = agents_request(request);
                (Call::Other, Command::Reject { request })
            }
            Effect::Ack {
                connection,
                message,
            } => {
                let command = Command::Acknowledge {
                    connection: agents_connection(connection),
                    message: agent::MessageId::new(message.0),
                };
                (Call::Other, command)
            }
            Effect::Delete { connection } => {
                let connection = agents_connection(connection);
                (Call::Other, Command::Delete { connection })
            }
            Effect::Send { .. } => unreachable!("sends are many commands"),
        }
    }
}

impl Carrier for Stack {
    fn body_bytes(&self) -> usize {
        agent::MAX_BODY
    }

    fn set_faults(&mut self, faults: Faults) {
        self.agents.faults = Self::shared(faults);
    }

    fn now_ms(&self) -> u64 {
        self.agents.now_ms()
    }

    fn next_ms(&self) -> Option<u64> {
        self.agents.next_ms()
    }

    fn wait_until(&mut self, now_ms: u64) {
        self.agents.wait_until(now_ms);
    }

    fn run_one(&mut self) {
        self.agents.run_one();
    }

    fn take_news(&mut self) -> VecDeque<(usize, News)> {
        for (party, report) in self.agents.take_reports() {
            self.hear(party, report);
        }
        core::mem::take(&mut self.news)
    }

    fn perform(&mut self, party: usize, effect: Effect, _at_once: bool) {
        // Agents do not hear the dead.
        if !self.agents.is_up(party) {
            return;
        }
        if let Effect::Send { connection, bodies } = effect {
            return self.send(party, connection, bodies);
        }
        let (call, command) = self.command(party, effect);
        self.call(party, call, command);
    }

    fn home(&self, party: usize) -> String {
        self.agents.relay_address(self.homes[party]).to_string()
    }

    fn crash(&mut self, party: usize, for_good: bool) {
        if for_good {
            self.agents.bury(party);
        } else {
            self.agents.crash(party);
        }
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.agents.tally
    }

    fn trace(&mut self) -> &mut Trace {
        &mut self.agents.trace
    }
}
