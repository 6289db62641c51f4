//! What relays tell the machine: connections that come and go, answers, messages.

use junto_crypto::CryptoRng;

use super::connection::{Address, Request, Stage, Suspension};
use super::effects::{Effects, Owner, Purpose, Timer};
use super::event::Event;
use super::id::{ConnectionId, RequestId, Tag};
use super::instant::Instant;
use super::machine::Machine;
use super::queue::{ReceiveQueue, Subscription};
use super::relay::{Answer, Refusal, RelayId, RelayNotice, RelayTrouble, Token};
use super::rotation::Place;
use super::step::RowKey;

impl Machine {
    /// A connection to a relay is up. Whatever was in flight on the one before is issued again.
    pub fn handle_relay_up(&mut self, now: Instant, relay: RelayId) {
        self.effects.now = now;
        self.void(relay);
        self.effects.relay_up(relay);
        for connection in self.connections.values_mut() {
            let is_there = connection.receives().any(|(_, it)| it.relay == relay);
            if is_there {
                connection.time_gap_anew(&mut self.effects);
            }
        }
        self.ready_all(relay);
    }

    /// The connection to a relay is down, or could not be made.
    pub fn handle_relay_down(&mut self, now: Instant, relay: RelayId, trouble: RelayTrouble) {
        self.effects.now = now;
        self.void(relay);
        self.effects.relay_down(relay, trouble);
        // What waits for this relay alone may be over.
        self.ready_all(relay);
    }

    /// Forgets what is in flight to a relay.
    fn void(&mut self, relay: RelayId) {
        for address in self.addresses.values_mut() {
            if address.receive.relay == relay {
                address.disconnected();
            }
        }
        for opening in self.openings.values_mut() {
            opening.void(relay);
        }
        for connection in self.connections.values_mut() {
            if connection.receive.relay == relay {
                connection.receive.disconnected();
                connection.suspension = Suspension::Not;
                connection.wait_anew_if_hearing();
            }
            connection.rotation.disconnected(relay);
            connection.parallel.disconnected(relay);
            if let Some(send) = connection.send.as_mut().filter(|send| send.relay == relay) {
                send.disconnected();
            }
        }
    }

    pub(super) fn ready_all(&mut self, relay: RelayId) {
        for (tag, address) in &self.addresses {
            if address.receive.relay == relay {
                self.effects.ready(Owner::Address(*tag));
            }
        }
        for (id, opening) in &self.openings {
            if opening.relay == relay {
                self.effects.ready(Owner::Opening(*id));
            }
        }
        for (id, connection) in &self.connections {
            let sends = connection.sends().any(|send| send.relay == relay);
            let receives = connection.receives().any(|(_, it)| it.relay == relay);
            if sends || receives {
                self.effects.ready(Owner::Connection(*id));
            }
        }
    }

    /// A relay answered a command.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        token: Token,
        answer: Answer,
        rng: &mut impl CryptoRng,
    ) {
        self.effects.now = now;
        let Some(pending) = self.effects.answered(token) else {
            return;
        };
        match pending.owner {
            Owner::Address(tag) => self.address_answered(tag, pending.purpose, answer),
            Owner::Connection(id) => self.connection_answered(id, pending.purpose, answer, rng),
            Owner::Opening(id) => self.opening_answered(id, answer, rng),
            Owner::Next(id) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.next_answered(pending.purpose, answer, &mut self.effects, rng);
                    self.effects.ready(Owner::Connection(id));
                }
            }
            Owner::Parallel(id, slot) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    let effects = &mut self.effects;
                    match pending.purpose {
                        Purpose::Send(number) => {
                            connection.sent(pending.owner, number, &answer, effects, rng);
                        }
                        purpose => {
                            connection.parallel_answered(slot, (purpose, answer), effects, rng);
                        }
                    }
                    effects.ready(Owner::Connection(id));
                }
            }
            Owner::Retired(id, queue) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    let effects = &mut self.effects;
                    connection.retired_answered(queue, pending.purpose, &answer, effects);
                }
            }
        }
        self.sort_queues();
    }

    fn address_answered(&mut self, tag: Tag, purpose: Purpose, answer: Answer) {
        let Some(address) = self.addresses.get_mut(&tag) else {
            return;
        };
        match purpose {
            Purpose::Create => {
                if address.created(answer, &mut self.effects) {
                    if let Some(created) = &address.receive.created {
                        let route = (address.receive.relay, created.recipient_id);
                        self.routes.insert(route, Owner::Address(tag));
                    }
                } else {
                    self.remove_address(tag);
                }
            }
            Purpose::Subscribe if answer == Answer::Refused(Refusal::Auth) => {
                return self.lose_address(tag);
            }
            Purpose::Suspend => match answer {
                Answer::Done => address.suspension = Suspension::Done,
                Answer::Refused(Refusal::Auth) => return self.remove_address(tag),
                Answer::Refused(_) | Answer::Created { .. } | Answer::Link(_) => {
                    address.suspension = Suspension::Not;
                    return retry(&address.receive, &mut self.effects);
                }
            },
            Purpose::Subscribe => subscribed(&mut address.receive, &answer, &mut self.effects),
            Purpose::Delete => match answer {
                Answer::Done | Answer::Refused(Refusal::Auth) => {
                    self.remove_address(tag);
                }
                Answer::Refused(_) | Answer::Created { .. } | Answer::Link(_) => {
                    retry(&address.receive, &mut self.effects)
                }
            },
            Purpose::Publish => {
                if address.receive.link_set(&answer) {
                    self.effects.changed(Owner::Address(tag));
                } else {
                    retry(&address.receive, &mut self.effects);
                }
            }
            Purpose::Secure
            | Purpose::Allow
            | Purpose::Send(_)
            | Purpose::Acknowledge
            | Purpose::Open => {}
        }
        self.effects.ready(Owner::Address(tag));
    }

    fn connection_answered(
        &mut self,
        id: ConnectionId,
        purpose: Purpose,
        answer: Answer,
        rng: &mut impl CryptoRng,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let effects = &mut self.effects;
        match purpose {
            Purpose::Create => {
                if connection.created(answer, effects, rng) {
                    if let Some(created) = &connection.receive.created {
                        let route = (connection.receive.relay, created.recipient_id);
                        self.routes.insert(route, Owner::Connection(id));
                    }
                } else {
                    self.remove_connection(id);
                }
            }
            Purpose::Subscribe if connection.stage == Stage::Deleting => {
                // It was asked before it was to go. Now it is deleted, if it is still there.
                connection.receive.subscription = Subscription::Idle;
                effects.ready(Owner::Connection(id));
            }
            Purpose::Subscribe => {
                if answer == Answer::Refused(Refusal::Auth) {
                    connection.queue_lost(effects, rng);
                } else {
                    subscribed(&mut connection.receive, &answer, effects);
                    effects.ready(Owner::Connection(id));
                }
            }
            Purpose::Secure => connection.secured(&answer, effects, rng),
            Purpose::Send(number) => {
                connection.sent(Owner::Connection(id), number, &answer, effects, rng)
            }
            Purpose::Suspend => connection.suspended(&answer, effects, rng),
            // It may have been the last one.
            Purpose::Acknowledge if connection.stage == Stage::Hearing => {
                effects.ready(Owner::Connection(id));
            }
            Purpose::Acknowledge | Purpose::Allow | Purpose::Open | Purpose::Publish => {}
            Purpose::Delete => match answer {
                Answer::Done | Answer::Refused(Refusal::Auth) => self.remove_connection(id),
                Answer::Refused(_) | Answer::Created { .. } | Answer::Link(_) => {
                    retry(&connection.receive, effects);
                }
            },
        }
    }

    /// A relay sent something by itself.
    pub fn handle_notice(
        &mut self,
        now: Instant,
        relay: RelayId,
        notice: RelayNotice,
        rng: &mut impl CryptoRng,
    ) {
        self.effects.now = now;
        let queue = match &notice {
            RelayNotice::Message { queue, .. }
            | RelayNotice::Ended { queue }
            | RelayNotice::Deleted { queue } => *queue,
        };
        match self.routes.get(&(relay, queue)) {
            Some(Owner::Address(tag)) => {
                let tag = *tag;
                self.address_noticed(tag, notice);
            }
            // What is being opened has no queue yet.
            Some(Owner::Opening(_)) => {}
            Some(Owner::Connection(id)) => {
                let id = *id;
                self.connection_noticed((id, Place::Main), notice, rng);
            }
            Some(Owner::Next(id)) => {
                let id = *id;
                self.connection_noticed((id, Place::Next), notice, rng);
            }
            Some(Owner::Parallel(id, slot)) => {
                let (id, slot) = (*id, *slot);
                self.connection_noticed((id, Place::Parallel(slot)), notice, rng);
            }
            Some(Owner::Retired(id, queue)) => {
                let (id, queue) = (*id, *queue);
                self.connection_noticed((id, Place::Retired(queue)), notice, rng);
            }
            None => {}
        }
        self.sort_queues();
    }

    fn connection_noticed(
        &mut self,
        (id, place): (ConnectionId, Place),
        notice: RelayNotice,
        rng: &mut impl CryptoRng,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let effects = &mut self.effects;
        match (notice, place) {
            (
                RelayNotice::Message {
                    message, sealed, ..
                },
                Place::Next,
            ) => connection.next_delivers(message, &sealed, effects),
            (
                RelayNotice::Message {
                    message, sealed, ..
                },
                Place::Main | Place::Retired(_) | Place::Parallel(_),
            ) => connection.deliver(place, message, &sealed, effects, rng),
            (RelayNotice::Ended { .. }, place) => {
                let queue = connection.queue_mut(place).map(|queue| {
                    queue.subscription = Subscription::Taken;
                    queue.relay_address().clone()
                });
                let was_told = core::mem::replace(&mut connection.taken_over, true);
                let is_ours = !matches!(connection.stage, Stage::Leaving(_));
                if let (Some(relay), false) = (queue, was_told || !is_ours) {
                    let connection = id;
                    effects.event(Event::TakenOver { connection, relay });
                }
                effects.ready(Owner::Connection(id));
            }
            (RelayNotice::Deleted { .. }, Place::Main) => connection.queue_lost(effects, rng),
            (RelayNotice::Deleted { .. }, Place::Next) => {
                connection.give_up_next(effects, rng);
            }
            (RelayNotice::Deleted { .. }, Place::Parallel(slot)) => {
                connection.parallel_lost(slot, effects, rng);
            }
            (RelayNotice::Deleted { .. }, Place::Retired(queue)) => {
                connection.retired_gone(queue, effects);
            }
        }
    }

    fn address_noticed(&mut self, tag: Tag, notice: RelayNotice) {
        let is_message = matches!(notice, RelayNotice::Message { .. });
        let is_full = is_message && !self.admits_request(tag);
        let Some(address) = self.addresses.get_mut(&tag) else {
            return;
        };
        match notice {
            RelayNotice::Message { .. } if is_full => {}
            RelayNotice::Message {
                message, sealed, ..
            } => {
                if let Some((id, request)) = address.deliver(message, &sealed, &mut self.effects) {
                    self.add_request(id, request);
                    self.spend_allowance(tag);
                }
            }
            RelayNotice::Ended { .. } => {
                address.receive.subscription = Subscription::Taken;
                self.effects.ready(Owner::Address(tag));
            }
            RelayNotice::Deleted { .. } => self.lose_address(tag),
        }
    }

    /// The relay no longer has the queue of an address. Its link is dead; a new queue is made, unless it
    /// is being closed, and the application is told when there is another link.
    fn lose_address(&mut self, tag: Tag) {
        if self
            .addresses
            .get(&tag)
            .is_some_and(|address| address.closing)
        {
            return self.remove_address(tag);
        }
        let Some(mut address) = self.addresses.remove(&tag) else {
            return;
        };
        self.unroute(&address.receive);
        address.moved |= address.receive.created.is_some();
        address.receive.forget_created();
        self.addresses.insert(tag, address);
        self.effects.changed(Owner::Address(tag));
    }

    fn add_request(&mut self, id: RequestId, request: Request) {
        if self.requests.contains_key(&id) || self.tags.contains_key(&Tag::of_request(id)) {
            return;
        }
        let Ok(row) = request.to_row() else { return };
        self.effects.delta.put(RowKey::Request(id), row);
        let (tag, info) = (request.address, request.info.clone());
        self.effects.event(Event::Request { id, tag, info });
        self.requests.insert(id, request);
    }
}

impl Address {
    /// Tells the application that the link is another one, if there is one and it does not know it.
    pub(super) fn tell_move(&self, effects: &mut Effects) {
        if self.moved && self.receive.created.is_some() {
            effects.event(Event::AddressMoved { tag: self.tag });
        }
    }
}

fn subscribed(queue: &mut ReceiveQueue, answer: &Answer, effects: &mut Effects) {
    match answer {
        Answer::Done => queue.subscription = Subscription::Live,
        Answer::Refused(_) | Answer::Created { .. } | Answer::Link(_) => retry(queue, effects),
    }
}

fn retry(queue: &ReceiveQueue, effects: &mut Effects) {
    effects.wake_after(super::effects::RETRY_DELAY, Timer::Retry(queue.relay));
}

/// A refused command left its queue `InFlight`, so that it is not repeated at once.
pub(super) fn retry_refused(queue: &mut ReceiveQueue, relay: RelayId) {
    if queue.relay != relay {
        return;
    }
    if queue.subscription == Subscription::InFlight {
        queue.subscription = Subscription::Idle;
    }
    queue.void_link();
}

#[cfg(test)]
mod tests {
    use junto_crypto::x25519;
    use junto_smp::id::{RecipientId, SenderId};
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::proto::{Command, Committed, MachineConfig, Operation, Output, Tag, Ticket};

    const NOW: Instant = Instant::from_millis(1_000_000);
    const RELAY: &str = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example:5223";

    /// What the machine asks of its relay, which is always there.
    fn asked(machine: &mut Machine) -> Vec<(Token, Operation)> {
        let mut asked = Vec::new();
        while let Some(step) = machine.take_step() {
            for output in step.release(Committed::promised()) {
                match output {
                    Output::Dial { relay, .. } => machine.handle_relay_up(NOW, relay),
                    Output::Command {
                        token, operation, ..
                    } => asked.push((token, operation)),
                    _ => {}
                }
            }
        }
        asked
    }

    /// A process that closes a connection as soon as it starts still waits for its subscription then.
    #[test]
    fn what_is_deleted_while_its_subscription_is_under_way_is_deleted_at_its_relay() {
        for answer in [Answer::Done, Answer::Refused(Refusal::Auth)] {
            let mut machine = Machine::restore(MachineConfig::default(), []).unwrap();
            let rng = &mut ChaCha20Rng::from_seed([1; 32]);
            let invite = Command::CreateInvitation {
                tag: Tag::new([1; 32]),
                relay: RELAY.parse().unwrap(),
                info: Vec::new(),
                about: None,
            };
            machine.handle_command(NOW, Ticket(1), invite, rng);
            let (token, _) = asked(&mut machine).remove(0);
            let created = Answer::Created {
                recipient_id: RecipientId([1; 24]),
                sender_id: SenderId([1; 24]),
                relay_key: x25519::SecretKey::generate(rng).public_key(),
                link: None,
            };
            machine.handle_answer(NOW, token, created, rng);
            asked(&mut machine);
            // The relay was away.
            machine.handle_relay_up(NOW, RelayId(0));
            let subscribing = asked(&mut machine);
            let [(token, Operation::Subscribe { .. })] = subscribing[..] else {
                panic!("it is subscribed to again")
            };
            let connection = *machine.connections.keys().next().unwrap();
            machine.handle_command(NOW, Ticket(2), Command::Delete { connection }, rng);
            assert!(asked(&mut machine).is_empty());
            machine.handle_answer(NOW, token, answer, rng);
            let deleting = asked(&mut machine);
            let [(token, Operation::Delete { .. })] = deleting[..] else {
                panic!("it is deleted there")
            };
            machine.handle_answer(NOW, token, Answer::Done, rng);
            assert!(machine.connections.is_empty());
        }
    }
}
