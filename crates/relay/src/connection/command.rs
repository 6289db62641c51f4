//! What a client asks for in its blocks: each command is verified, and then carried out on its queue.

use std::sync::Arc;

use junto_smp::block::Block;
use junto_smp::command::{Command, NewMode, Party};
use junto_smp::error::ErrorCode;
use junto_smp::id::{Entity, NotifierId};
use junto_smp::link::{FIXED_BYTES_MAX, USER_BYTES_MAX};
use junto_smp::message::Timestamp;
use junto_smp::queue::{self, Answer, Change, Credential, Outcome};
use junto_smp::server::{Authorised, Refusal, Request};

use super::outbox::{Reply, What};
use super::{Connection, Ended, now};
use crate::config::Limits;
use crate::relay::Shared;
use crate::sources::{Act, Made, Portion};
use crate::store::{Body, Cell, CreateFault, Name, Queue};

/// Bytes of the largest data behind a link.
const LINK_BYTES_MAX: usize = FIXED_BYTES_MAX + USER_BYTES_MAX;

impl Connection {
    /// Answers the commands of one block, in order.
    pub(super) fn answer_block(&mut self, block: &mut Block) {
        let now = now();
        let requests = match self.requests.open(block) {
            Ok(requests) => requests,
            Err(fault) => {
                self.refuse(&Refusal::BLOCK);
                if fault.is_fatal() {
                    self.closing = Some(Ended::Block);
                }
                return;
            }
        };
        let limit = self.settings.limits.commands_per_block;
        for (index, request) in requests.enumerate() {
            match request {
                // Not verified: that would be the expensive part.
                Ok(request) if index >= limit => self.refuse(&Refusal {
                    correlation: Some(request.correlation()),
                    entity: request.entity(),
                    code: ErrorCode::Quota,
                }),
                Ok(request) => self.answer(request, now),
                Err(refusal) => self.refuse(&refusal),
            }
        }
        let verifications = self.requests.take_verifications();
        self.shared.metrics.verified(verifications);
    }

    /// Verifies one request and carries it out.
    pub(super) fn answer(&mut self, request: Request<'_>, now: Timestamp) {
        let name = match request.party() {
            Party::Recipient => Some(Name::Recipient),
            Party::Sender => Some(Name::Sender),
            Party::LinkReader => Some(Name::Link),
            Party::Notifier => Some(Name::Notifier),
            Party::Creator | Party::Service | Party::Nobody => None,
        };
        let id = request.queue_id();
        let cell = name
            .zip(id)
            .and_then(|(name, id)| self.shared.store.find(name, id));
        let credential = match (&cell, name) {
            (Some(cell), _) => cell.lock().credential(request.command()),
            (None, Some(_)) => Credential::Nobody,
            (None, None) => Credential::without_queue(request.command()),
        };
        // The expensive part; no lock is held.
        let command = match self.requests.authorise(request, &credential) {
            Ok(command) => command,
            Err(refusal) => return self.refuse(&refusal),
        };
        let context = queue::Context {
            connection: self.id,
            now,
            limits: self.settings.queue_limits,
        };
        match (cell, command.command()) {
            (Some(cell), _) => self.carry_out(&cell, &command, &context),
            (None, Command::New(_)) => self.create(&command, &context),
            (None, Command::Ping) => self.reply(&command, What::Pong),
            // We have no source of names.
            (None, Command::Resolve(_)) => self.reply(&command, What::Refused(ErrorCode::Name)),
            (None, Command::Proxy(_) | Command::ProxyForward(_)) => self.ask_proxy(&command),
            (None, Command::RelayForward(sealed)) => self.answer_forwarded(&command, sealed, now),
            (None, Command::ServiceSub(_) | Command::NotifierServiceSub(_)) => {
                self.subscribe_service(&command);
            }
            // An unknown queue passes no authorisation.
            (None, _) => self.reply(&command, What::Refused(ErrorCode::Auth)),
        }
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal<'_>) {
        self.shared.metrics.refused(&refusal.code);
        self.outbox.push(Reply::refusal(refusal));
    }

    /// Answers `command`, resting on everything that has happened in the store.
    pub(super) fn reply(&mut self, command: &Authorised<'_>, what: What) {
        if let What::Refused(code) | What::Answer(Answer::Error(code)) = &what {
            self.shared.metrics.refused(code);
        }
        self.outbox.push(Reply {
            correlation: Some(command.correlation()),
            whose: command.entity().into(),
            position: match what {
                // Nobody may tell from its delay why a command was not authorised.
                What::Pong | What::Refused(_) | What::Answer(Answer::Error(ErrorCode::Auth)) => {
                    Default::default()
                }
                _ => self.shared.store.position(),
            },
            what,
        });
    }

    fn create(&mut self, command: &Authorised<'_>, context: &queue::Context) {
        let Command::New(new) = command.command() else {
            return self.reply(command, What::Refused(ErrorCode::PROHIBITED));
        };
        let allowed = match &self.settings.password {
            Some(password) => password.matches(new.password.unwrap_or_default()),
            None => true,
        };
        if !allowed {
            return self.reply(command, What::Refused(ErrorCode::Auth));
        }
        let limits = &self.settings.limits;
        let subscribed = match command.service() {
            Some(_) => self.is_service_full(None),
            None => new.subscribe && self.subscriptions.len() >= limits.subscriptions,
        };
        if subscribed || self.queues_created >= limits.queues_per_connection {
            return self.reply(command, What::Refused(ErrorCode::Quota));
        }
        // Given back unless the queue is made.
        let Some(portion) = self.may_create(limits) else {
            return self.reply(command, What::Refused(ErrorCode::Quota));
        };
        if let NewMode::Contact(Some((link, _))) = new.mode
            && let Some(code) = self.settings.blocked(link)
        {
            return self.reply(command, What::Refused(code));
        }
        let memory = self.shared.store.memory();
        if new.has_link_data() && !memory.has_room(LINK_BYTES_MAX) {
            return self.reply(command, What::Refused(ErrorCode::Quota));
        }
        let keep = |link: &[u8]| memory.store(link);
        let (queue, ids) = match Queue::create(command, context, &mut self.rng, keep) {
            Ok(created) => created,
            Err(code) => return self.reply(command, What::Refused(code)),
        };
        let code = match self.shared.store.create(queue) {
            Ok(cell) => {
                portion.made();
                self.queues_created += 1;
                self.shared.metrics.queue_created();
                if command.service().is_some() {
                    self.read_for_service();
                } else if new.subscribe {
                    self.subscriptions.insert(ids.recipient.0, cell);
                }
                return self.reply(command, What::Ids(Box::new(ids)));
            }
            Err(CreateFault::Full) => ErrorCode::Quota,
            Err(CreateFault::Taken) => ErrorCode::Auth,
        };
        self.reply(command, What::Refused(code));
    }

    /// One more queue for the client's source, if it may have one now.
    fn may_create(&self, limits: &Limits) -> Option<Portion> {
        let now = std::time::Instant::now();
        let source = self.seat.source();
        if !source.may(Act::NewQueue, limits.queues_per_second_per_source, now) {
            return None;
        }
        source.today(Made::Queue, limits.queues_per_day_per_source, now)
    }

    /// Carries out a command on its queue.
    fn carry_out(&mut self, cell: &Arc<Cell>, command: &Authorised<'_>, context: &queue::Context) {
        if let Some(code) = self.beyond_limits(command) {
            return self.reply(command, What::Refused(code));
        }
        let shared = &self.shared;
        let mut queue = cell.lock();
        if cell.is_deleted() || !claim_link(shared, command, cell) {
            drop(queue);
            return self.reply(command, What::Refused(ErrorCode::Auth));
        }
        let [reader, notifier] = shared.store.services().readers(&queue);
        queue.follow_services(reader, notifier);
        let memory = shared.store.memory();
        let outcome = queue.handle(command, context, &mut self.rng, |body| memory.store(body));
        let done = !matches!(outcome.answer, Answer::Error(_));
        record(shared, cell, &mut queue, command, &outcome, context.now);
        let served = done && command.service().is_some();
        if served {
            self.read_for_service();
        }
        if let Some(told) = outcome.notify {
            shared.registry.tell_reader(&*shared.store, &queue, told);
        }
        if let Some(told) = outcome.notify_notifier {
            shared.registry.tell_notifier(&*shared.store, told);
        }
        drop(queue);
        let metrics = &shared.metrics;
        metrics.expired(outcome.expired);
        metrics.carried_out(command.command(), outcome.change.as_ref(), &outcome.answer);
        // A service knows its queues.
        if done && !served {
            self.follow(command, cell);
        }
        self.reply(command, What::Answer(outcome.answer));
        if let Some(delivery) = outcome.then {
            self.reply(command, What::Delivery(delivery));
        }
        if let Some(alert) = outcome.alert {
            let notifier = alert.notifier;
            self.reply(command, What::Alert(alert));
            self.next_notification(notifier);
        }
    }

    /// Keeps in mind which queues know this connection, after a command that was carried out.
    fn follow(&mut self, command: &Authorised<'_>, cell: &Arc<Cell>) {
        match (command.command(), command.entity()) {
            (Command::Sub | Command::Get | Command::NotifierSub, Entity::Queue(id)) => {
                self.subscriptions.insert(*id, Arc::clone(cell));
            }
            (Command::Delete, Entity::Queue(id)) => {
                self.subscriptions.remove(id);
            }
            _ => {}
        }
    }

    /// A notification of this queue is on its way to the client: the next may wait in the mailbox.
    pub(super) fn next_notification(&mut self, notifier: NotifierId) {
        let Some(cell) = self.shared.store.find(Name::Notifier, &notifier.0) else {
            return;
        };
        let mut queue = cell.lock();
        let [reader, server] = self.shared.store.services().readers(&queue);
        queue.follow_services(reader, server);
        if let Some(news) = queue.notified(self.id, now(), &mut self.rng) {
            let told = (self.id, news);
            self.shared
                .registry
                .tell_notifier(&*self.shared.store, told);
        }
    }

    /// Whether this command would take more than this relay gives.
    fn beyond_limits(&self, command: &Authorised<'_>) -> Option<ErrorCode> {
        if let Command::SetLink { link, .. } = command.command()
            && let Some(code) = self.settings.blocked(*link)
        {
            return Some(code);
        }
        let memory = self.shared.store.memory();
        let beyond = match (command.command(), command.entity()) {
            (Command::Send { body, .. }, _) => !memory.has_room(body.len()),
            (Command::SetLink { .. }, _) => !memory.has_room(LINK_BYTES_MAX),
            (_, Entity::Queue(id)) if command.service().is_some() => self.is_service_full(Some(id)),
            (Command::Sub | Command::Get | Command::NotifierSub, Entity::Queue(id)) => {
                self.subscriptions.len() >= self.settings.limits.subscriptions
                    && !self.subscriptions.contains_key(id)
            }
            _ => false,
        };
        beyond.then_some(ErrorCode::Quota)
    }
}

/// Reserves the name of a link that is about to be set; `false` if another queue has it.
fn claim_link(shared: &Shared, command: &Authorised<'_>, cell: &Arc<Cell>) -> bool {
    match command.command() {
        Command::SetLink { link, .. } => shared.store.claim_link(&link.0, cell),
        _ => true,
    }
}

/// Makes what a command did to its queue durable; under the lock of the queue.
fn record(
    shared: &Shared,
    cell: &Cell,
    queue: &mut Queue,
    command: &Authorised<'_>,
    outcome: &Outcome<Body>,
    now: Timestamp,
) {
    let store = &shared.store;
    if let Command::SetLink { link, .. } = command.command()
        && queue.link().map(|set| set.id()) != Some(*link)
    {
        store.release_link(&link.0);
    }
    if let Some(link) = outcome.unlinked {
        store.record(queue, Change::Unlinked(link));
    }
    if let Some(change) = outcome.change {
        if change == Change::Deleted {
            cell.set_deleted();
        }
        store.record(queue, change);
    }
    // A notification server that comes back by itself keeps no queue that its owner has left.
    let used = !matches!(outcome.answer, Answer::Error(_))
        && !matches!(command.command(), Command::NotifierSub | Command::Delete);
    if used && let Some(change) = queue.touch(now) {
        store.record(queue, change);
    }
}
