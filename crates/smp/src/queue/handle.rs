//! Commands carried out on a queue.

use std::{collections::VecDeque, sync::Arc};

use junto_crypto::{CryptoRng, x25519};

use super::{
    Alert, Answer, Change, ConnectionId, Content, Context, Delivery, Event, Link, LinkCopy,
    Message, Notifier, NotifierEvent, NotifierParts, Outcome, Queue, QueueInfo, RECIPIENT_KEYS_MAX,
    Reader,
};
use crate::{
    command::{Command, QueueMode},
    error::ErrorCode,
    id::{Entity, LinkId, MessageId, ServiceId},
    key::AuthKey,
    link::LinkBlobs,
    message::{BODY_BYTES_MAX, MessageFlags},
    server::Authorised,
    service::Service,
};

impl<B: Clone + AsRef<[u8]>> Queue<B> {
    /// Carries out an authorised command. `keep` stores the body of an accepted `SEND`.
    ///
    /// The caller has looked this queue up by the command's entity and checked the credential it
    /// demanded; state that may have changed since is checked again here.
    pub fn handle(
        &mut self,
        command: &Authorised<'_>,
        context: &Context,
        rng: &mut impl CryptoRng,
        keep: impl FnOnce(&[u8]) -> B,
    ) -> Outcome<B> {
        if let Some(code) = self.refusal(command) {
            return Outcome::error(code);
        }
        match command.command() {
            Command::Sub => self.subscribe(command.service(), context),
            Command::Get => self.take_one(context),
            Command::Ack(id) => self.acknowledge(*id, context),
            Command::Key(key) => self.secure(key),
            Command::SenderKey(key) => self.secure(key),
            Command::Send { flags, body } => self.send(*flags, body, context, rng, keep),
            Command::Off => {
                let change = (!self.suspended).then_some(Change::Suspended);
                self.suspended = true;
                Outcome::ok(change)
            }
            Command::Delete => self.delete(context),
            Command::Info => Outcome::answer(Answer::Info(self.info(context))),
            Command::RecipientKeys(keys) => self.set_recipient_keys(keys),
            Command::SetLink { link, blobs } => self.set_link(*link, blobs, keep),
            Command::DeleteLink => Outcome::ok(self.drop_link().map(Change::Unlinked)),
            Command::LinkKey(key) => self.secure_by_link(key, command.entity()),
            Command::ReadLink => match self.link_copy(command.entity()) {
                Some(copy) => Outcome::answer(Answer::Link(copy)),
                None => Outcome::error(ErrorCode::Auth),
            },
            Command::SetNotifier { auth_key, dh_key } => {
                self.set_notifier(auth_key, dh_key, context, rng)
            }
            Command::DeleteNotifier => self.delete_notifier(context),
            Command::NotifierSub => self.subscribe_notifier(command.service(), context, rng),
            Command::New(_)
            | Command::ServiceSub(_)
            | Command::NotifierServiceSub(_)
            | Command::Resolve(_)
            | Command::Ping
            | Command::Proxy(_)
            | Command::ProxyForward(_)
            | Command::RelayForward(_) => Outcome::error(ErrorCode::PROHIBITED),
        }
    }

    /// Why `command` is refused for the state that the queue is in, which may have changed since
    /// its authorisation was verified.
    fn refusal(&self, command: &Authorised<'_>) -> Option<ErrorCode> {
        let auth = match command.command() {
            Command::Send { .. } => {
                self.suspended || (command.is_open() && self.sender_key.is_some())
            }
            Command::SenderKey(_) | Command::LinkKey(_) | Command::ReadLink => self.suspended,
            Command::NotifierSub => {
                let id = self.notifier.as_ref().map(|notifier| notifier.id());
                command.entity() != id.as_ref().map_or(Entity::None, |id| Entity::Queue(&id.0))
            }
            // What an owner may do also with a blocked queue.
            Command::Off | Command::Delete => return None,
            _ => false,
        };
        if auth {
            return Some(ErrorCode::Auth);
        }
        match (command.command(), self.blocking) {
            (Command::NotifierSub, _) | (_, None) => None,
            (_, Some(blocking)) => Some(ErrorCode::Blocked(blocking)),
        }
    }

    /// What whoever reads it hears once the operator blocks it no more: its first message, again if it
    /// was delivered before, since it could not be acknowledged meanwhile.
    pub fn deliver_unblocked(&mut self) -> Option<(ConnectionId, Event<B>)> {
        let reader = self.subscriber.as_mut()?;
        let connection = reader.connection;
        if self.blocking.is_none() {
            reader.delivered = None;
        }
        self.deliver_waiting(connection)
            .map(|delivery| (connection, Event::Message(delivery)))
    }

    /// What a service learns of a queue without asking for it by name: the first message, unless
    /// one is still to be acknowledged. Only for the connection that reads for the service.
    pub fn deliver_waiting(&mut self, connection: ConnectionId) -> Option<Delivery<B>> {
        if self.blocking.is_some() || self.subscriber() != Some(connection) {
            return None;
        }
        self.deliver_next()
    }

    /// The same for its notifier: the next notification, unless one is still under way.
    pub fn notify_waiting(&mut self, context: &Context, rng: &mut impl CryptoRng) -> Option<Alert> {
        let notifier = self.notifier.as_mut()?;
        if notifier.subscriber != Some(context.connection) {
            return None;
        }
        notifier.next(self.messages.iter(), context.now, rng)
    }

    fn subscribe(&mut self, service: Option<&Arc<Service>>, context: &Context) -> Outcome<B> {
        let connection = context.connection;
        if self.getter.is_some_and(|r| r.connection == connection) {
            return Outcome::error(ErrorCode::PROHIBITED);
        }
        let before = self.subscriber.replace(Reader {
            connection,
            delivered: None,
        });
        let (change, handed_on) = changed(&mut self.service, service);
        Outcome {
            change: change.map(|before| Change::Service { before }),
            then: self.deliver_next(),
            notify: before
                .filter(|reader| reader.connection != connection && !handed_on)
                .map(|reader| (reader.connection, Event::End)),
            ..Outcome::answer(Answer::Subscribed(service.map(|service| service.id)))
        }
    }

    fn take_one(&mut self, context: &Context) -> Outcome<B> {
        let connection = context.connection;
        if self.subscriber.is_some_and(|r| r.connection == connection) {
            return Outcome::error(ErrorCode::PROHIBITED);
        }
        let delivery = self.delivery();
        self.getter = Some(Reader {
            connection,
            delivered: delivery.as_ref().map(|delivery| delivery.message.id),
        });
        Outcome::answer(delivery.map_or(Answer::Ok, Answer::Message))
    }

    fn acknowledge(&mut self, id: Option<MessageId>, context: &Context) -> Outcome<B> {
        let of_connection = |reader: &&mut Reader| reader.connection == context.connection;
        let (reader, subscribed) = if let Some(r) = self.subscriber.as_mut().filter(of_connection) {
            (r, true)
        } else if let Some(r) = self.getter.as_mut().filter(of_connection) {
            (r, false)
        } else {
            return Outcome::error(ErrorCode::NoMessage);
        };
        let Some(delivered) = reader
            .delivered
            .filter(|delivered| id.is_none_or(|id| id == *delivered))
        else {
            return Outcome::error(ErrorCode::NoMessage);
        };
        reader.delivered = None;
        // It is gone if it has expired, or was taken through the other way of reading.
        let first = self.messages.front().map(|message| message.id);
        let removed = first == Some(delivered) && self.messages.pop_front().is_some();
        self.release_memory();
        let next = if subscribed {
            self.deliver_next()
        } else {
            None
        };
        Outcome {
            answer: next.map_or(Answer::Ok, Answer::Message),
            ..Outcome::ok(removed.then_some(Change::Removed(delivered)))
        }
    }

    fn secure(&mut self, key: &AuthKey) -> Outcome<B> {
        match &self.sender_key {
            Some(set) if set == key => Outcome::ok(None),
            Some(_) => Outcome::error(ErrorCode::Auth),
            None => {
                self.sender_key = Some(key.clone());
                Outcome::ok(Some(Change::Secured))
            }
        }
    }

    fn set_recipient_keys(&mut self, keys: &[AuthKey]) -> Outcome<B> {
        if self.mode != Some(QueueMode::Contact) {
            return Outcome::error(ErrorCode::Auth);
        }
        if keys.len() > RECIPIENT_KEYS_MAX {
            return Outcome::error(ErrorCode::PROHIBITED);
        }
        let changed = self.recipient_keys() != keys;
        self.restore_recipient_keys(keys);
        Outcome::ok(changed.then_some(Change::RecipientKeys))
    }

    fn set_link(
        &mut self,
        id: LinkId,
        blobs: &LinkBlobs<'_>,
        keep: impl FnOnce(&[u8]) -> B,
    ) -> Outcome<B> {
        let fits = match self.link() {
            Some(link) => link.id() == id && link.blobs().fixed() == blobs.fixed(),
            None => true,
        };
        if !fits || self.is_secured_for_one() {
            return Outcome::error(ErrorCode::Auth);
        }
        self.link = Some(Box::new(Link::new(id, blobs, keep)));
        Outcome::ok(Some(Change::Linked))
    }

    fn drop_link(&mut self) -> Option<LinkId> {
        self.link.take().map(|link| link.id())
    }

    /// The link data, if `entity` is still its name.
    fn link_copy(&self, entity: Entity<'_>) -> Option<LinkCopy<B>> {
        let link = self.link()?;
        (entity == Entity::Queue(&link.id().0)).then(|| LinkCopy {
            sender: self.sender,
            link: link.clone(),
        })
    }

    fn secure_by_link(&mut self, key: &AuthKey, entity: Entity<'_>) -> Outcome<B> {
        let Some(copy) = self.link_copy(entity) else {
            return Outcome::error(ErrorCode::Auth);
        };
        let secured = self.secure(key);
        match secured.answer {
            Answer::Ok => Outcome {
                answer: Answer::Link(copy),
                ..secured
            },
            _ => secured,
        }
    }

    fn set_notifier(
        &mut self,
        auth_key: &AuthKey,
        dh_key: &x25519::PublicKey,
        context: &Context,
        rng: &mut impl CryptoRng,
    ) -> Outcome<B> {
        let (parts, ids) = match NotifierParts::create(auth_key, dh_key, rng) {
            Ok(created) => created,
            Err(code) => return Outcome::error(code),
        };
        // Messages that came before are not told.
        let told = self.messages.back().map(|message| message.id);
        let new = Box::new(Notifier::new(parts, told));
        let mut before = self.notifier.replace(new);
        let replaced = before.as_ref().map(|notifier| notifier.former());
        Outcome {
            notify_notifier: before
                .as_mut()
                .and_then(|old| old.end(NotifierEvent::Deleted, context.connection)),
            change: Some(Change::Notifier { replaced }),
            ..Outcome::answer(Answer::NotifierIds(ids))
        }
    }

    fn delete_notifier(&mut self, context: &Context) -> Outcome<B> {
        let Some(mut notifier) = self.notifier.take() else {
            return Outcome::ok(None);
        };
        Outcome {
            notify_notifier: notifier.end(NotifierEvent::Deleted, context.connection),
            ..Outcome::ok(Some(Change::NotifierDeleted(notifier.former())))
        }
    }

    fn subscribe_notifier(
        &mut self,
        service: Option<&Arc<Service>>,
        context: &Context,
        rng: &mut impl CryptoRng,
    ) -> Outcome<B> {
        let Some(notifier) = &mut self.notifier else {
            return Outcome::error(ErrorCode::Auth);
        };
        let (change, handed_on) = changed(&mut notifier.service, service);
        let ended = notifier.subscribe(context.connection);
        Outcome {
            notify_notifier: ended.filter(|_| !handed_on),
            alert: notifier.next(self.messages.iter(), context.now, rng),
            change: change.map(|before| Change::NotifierService { before }),
            ..Outcome::answer(Answer::Subscribed(service.map(|service| service.id)))
        }
    }

    fn send(
        &mut self,
        flags: MessageFlags,
        body: &[u8],
        context: &Context,
        rng: &mut impl CryptoRng,
        keep: impl FnOnce(&[u8]) -> B,
    ) -> Outcome<B> {
        if body.len() > BODY_BYTES_MAX {
            return Outcome::error(ErrorCode::LargeMessage);
        }
        let unlinked = if self.is_secured_for_one() {
            self.drop_link()
        } else {
            None
        };
        let expired = self.expire(context.now, &context.limits);
        if self.is_full() {
            return Outcome {
                unlinked,
                expired,
                ..Outcome::error(ErrorCode::Quota)
            };
        }
        let full = self.messages.len() >= context.limits.messages;
        let id = MessageId::random(rng);
        self.messages.push_back(Message {
            id,
            time: context.now,
            content: if full {
                Content::QuotaReached
            } else {
                let body = keep(body);
                Content::Body { flags, body }
            },
        });
        let answer = if full {
            Answer::Error(ErrorCode::Quota)
        } else {
            Answer::Ok
        };
        let notify_notifier = self
            .notifier
            .as_mut()
            .zip(self.messages.back())
            .and_then(|(notifier, message)| notifier.tell(message, context.now, rng));
        Outcome {
            notify_notifier,
            unlinked,
            notify: self
                .subscriber()
                .zip(self.deliver_next())
                .map(|(connection, delivery)| (connection, Event::Message(delivery))),
            change: Some(Change::Stored(id)),
            expired,
            ..Outcome::answer(answer)
        }
    }

    fn delete(&mut self, context: &Context) -> Outcome<B> {
        let subscriber = self.subscriber.take();
        self.getter = None;
        self.suspended = true;
        self.messages = VecDeque::new();
        Outcome {
            notify_notifier: self
                .notifier
                .as_mut()
                .and_then(|notifier| notifier.end(NotifierEvent::Deleted, context.connection)),
            notify: subscriber
                .filter(|reader| reader.connection != context.connection)
                .map(|reader| (reader.connection, Event::Deleted)),
            ..Outcome::ok(Some(Change::Deleted))
        }
    }

    fn info(&self, context: &Context) -> QueueInfo {
        let mine = |reader: &Reader| reader.connection == context.connection;
        let subscribed = self.subscriber.filter(mine);
        let reader = subscribed.or(self.getter.filter(mine));
        QueueInfo {
            secured: self.sender_key.is_some(),
            notifier: self.notifier.is_some(),
            reader: reader.map(|reader| (subscribed.is_some(), reader.delivered)),
            size: self.messages.len(),
            first: self.messages.front().map(|message| {
                let quota = matches!(message.content, Content::QuotaReached);
                (message.id, message.time, quota)
            }),
        }
    }

    /// The first message, if any.
    fn delivery(&self) -> Option<Delivery<B>> {
        self.messages.front().map(|message| Delivery {
            queue: self.recipient,
            key: Arc::clone(&self.delivery_key),
            message: message.clone(),
        })
    }

    /// The first message for the subscriber, unless one is still to be acknowledged.
    fn deliver_next(&mut self) -> Option<Delivery<B>> {
        self.subscriber
            .filter(|reader| reader.delivered.is_none())?;
        let delivery = self.delivery()?;
        if let Some(reader) = &mut self.subscriber {
            reader.delivered = Some(delivery.message.id);
        }
        Some(delivery)
    }
}

/// Puts `service` in the place of `own`. Gives the service before, if it is another one; and whether
/// it is the same one, whose queues are read by another connection now, all of them: of that it is
/// told by `ENDS`, not of each by `END`.
fn changed(
    own: &mut Option<Arc<Service>>,
    service: Option<&Arc<Service>>,
) -> (Option<Option<ServiceId>>, bool) {
    let id = |service: &Arc<Service>| service.id;
    let before = own.as_ref().map(id);
    let same = before == service.map(id);
    if !same {
        *own = service.cloned();
    }
    ((!same).then_some(before), same && before.is_some())
}
