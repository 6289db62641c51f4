//! How a connection comes to be.
//!
//! | maker (or requester) | joiner |
//! |---|---|
//! | `NEW`; the link goes out (a requester sends it to a contact queue) | |
//! | | `SKEY` on the maker's queue, `NEW`, `SEND` confirmation: keys, own queue, information |
//! | `SKEY` on the joiner's queue, `SEND` confirmation: information; connected | connected |
//!
//! Every command may be lost with its answer and is issued again on the next connection: relays
//! take the same key twice, recipients recognise a repeated message, and a queue made twice is one
//! that nobody uses.

use junto_crypto::{CryptoRng, Zeroizing, x25519};
use junto_ratchet::{MakerKeys, Options, Params, Ratchet, VersionRange as RatchetVersions};
use junto_smp::command::QueueMode;
use junto_smp::id::{LinkId, RecipientId, SenderId};

use super::address::QueueInfo;
use super::chain::ReceiveChain;
use super::command::{CallError, Misuse, Reply};
use super::connection::{Address, Connection, Keys, Role, Stage};
use super::effects::{Effects, PostQuantum, Timer};
use super::envelope::Envelope;
use super::event::{ConnectionFault, Event};
use super::id::{ConnectionId, Tag};
use super::layer::{self, SealedBody};
use super::link::{ContactLink, InvitationLink, LinkError};
use super::message::{AgentMessage, info_padding};
use super::queue::{ReceiveQueue, SendQueue, Sender};
use super::relay::{Answer, Refusal};
use super::step::RowKey;
use super::wire::Malformed;

/// The number of a request in the outbox of its connection; numbered messages start at 1.
const REQUEST: u64 = 0;

/// Why something that arrived is not acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Not what is expected at this point, from whoever has the link: as if it had not come.
    Ignored,
    /// From the peer, but of a version that we do not speak.
    Version,
    /// From the peer, but unreadable.
    Unreadable,
}

impl From<Malformed> for Unusable {
    fn from(fault: Malformed) -> Self {
        match fault {
            Malformed::Version => Self::Version,
            _ => Self::Ignored,
        }
    }
}

impl Connection {
    /// A connection that waits for somebody to follow our invitation.
    pub(super) fn invite(
        id: ConnectionId,
        tag: Tag,
        info: Vec<u8>,
        receive: ReceiveQueue,
        rng: &mut impl CryptoRng,
    ) -> Self {
        let keys = Keys::Offered(Box::new(MakerKeys::generate(true, rng)));
        Self::new(
            (id, tag),
            (Role::Maker, Stage::Inviting),
            info,
            receive,
            keys,
        )
    }

    /// A connection that asks at a contact address.
    pub(super) fn request(
        id: ConnectionId,
        tag: Tag,
        link: &ContactLink,
        info: Vec<u8>,
        receive: ReceiveQueue,
        (effects, rng): (&mut Effects, &mut impl CryptoRng),
    ) -> Result<Self, LinkError> {
        let contact = link.negotiated()?.clone();
        let send = SendQueue::new(contact, &receive, effects, rng).ok_or(Malformed::Key)?;
        let invited = Self::invite(id, tag, info, receive, rng);
        Ok(Self {
            role: Role::Requester,
            send: Some(send),
            ..invited
        })
    }

    /// A connection that follows an invitation.
    pub(super) fn join(
        id: ConnectionId,
        tag: Tag,
        link: &InvitationLink,
        info: Vec<u8>,
        receive: ReceiveQueue,
        (effects, rng): (&mut Effects, &mut impl CryptoRng),
    ) -> Result<Self, LinkError> {
        let (address, offer) = link.negotiated()?;
        let send = SendQueue::new(address.clone(), &receive, effects, rng).ok_or(Malformed::Key)?;
        let (mut ratchet, ours) =
            junto_ratchet::join(offer, Options::default(), rng).map_err(|_| Malformed::Key)?;
        set_pace(&mut ratchet, effects.post_quantum);
        let keys = Keys::Agreed(Box::new(ratchet));
        let mut connection = Self::new(
            (id, tag),
            (Role::Joiner, Stage::Joining),
            info,
            receive,
            keys,
        );
        connection.send = Some(send);
        connection.reply_offer = Some(Box::new(ours));
        Ok(connection)
    }

    /// Takes the relay's answer to `NEW`. `false` if the connection came to nothing and nobody
    /// knows of it.
    pub(super) fn created(
        &mut self,
        answer: Answer,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> bool {
        match answer {
            Answer::Created {
                recipient_id,
                sender_id,
                relay_key,
                link,
            } => {
                self.queue_made((recipient_id, sender_id, relay_key), link, effects, rng);
                true
            }
            Answer::Refused(Refusal::Auth | Refusal::Quota) => {
                let relay = effects.path(self.receive.relay).map(|it| it.relay.clone());
                if self.callers.is_empty() {
                    self.fail(ConnectionFault::QueueRefused, effects);
                    return true;
                }
                for ticket in self.callers.drain(..) {
                    let error = match &relay {
                        Some(relay) => CallError::QueueRefused(Box::new(relay.clone())),
                        None => CallError::Defect("a queue without a relay"),
                    };
                    effects.answer(ticket, Err(error));
                }
                false
            }
            Answer::Refused(_) | Answer::Done | Answer::Link(_) => {
                effects.wake_after(
                    super::effects::RETRY_DELAY,
                    Timer::Retry(self.receive.relay),
                );
                true
            }
        }
    }

    fn queue_made(
        &mut self,
        (recipient, sender, key): (RecipientId, SenderId, x25519::PublicKey),
        link: Option<LinkId>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        if self.receive.created.is_some() {
            return;
        }
        let created = self.receive.set_created(recipient, sender, key);
        if created
            .and_then(|()| self.receive.published(sender, link))
            .is_none()
        {
            // A relay whose key is no key makes no queues, nor one that gives other names than it must.
            return self.fail(ConnectionFault::QueueRefused, effects);
        }
        effects.changed(self.owner());
        let done = match self.stage {
            Stage::Inviting => self.publish_invitation(effects, rng),
            Stage::Joining => self.confirm_as_joiner(effects, rng),
            Stage::Confirming
            | Stage::Active
            | Stage::Hearing
            | Stage::Leaving(_)
            | Stage::Failed(_)
            | Stage::Deleting => Some(()),
        };
        if done.is_none() {
            self.fail(ConnectionFault::QueueRefused, effects);
        }
    }

    /// Gives the link to whoever waits for it: our caller, or the owner of a contact address.
    fn publish_invitation(
        &mut self,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Option<()> {
        let Keys::Offered(secrets) = &self.keys else {
            return None;
        };
        let link = Box::new(InvitationLink::new(
            self.receive.address()?,
            secrets.offer(RatchetVersions::OURS),
        ));
        if let (Role::Requester, Some(contact)) = (self.role, &self.send) {
            let mut envelope = Vec::new();
            let request = Envelope::Invitation {
                link: link.clone(),
                info: &self.our_info,
            };
            request.put(&mut envelope).ok()?;
            let public = contact.layer_public();
            let sealed = layer::seal(&contact.layer_key, Some(&public), &envelope, rng).ok()?;
            self.put_outbox(REQUEST, sealed, effects);
        } else {
            self.link = Some(link);
            effects
                .delta
                .put(RowKey::Invitation(self.id), self.invitation_row().ok()?);
            let reply = self.invitation()?;
            for ticket in self.callers.drain(..) {
                effects.answer(ticket, Ok(reply.clone()));
            }
        }
        Some(())
    }

    /// The answer to who asked for our invitation, once there is one.
    pub(super) fn invitation(&self) -> Option<Reply> {
        let short = self.receive.short_link().map(Box::new);
        Some(Reply::Invitation(self.id, self.link.clone()?, short))
    }

    fn confirm_as_joiner(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) -> Option<()> {
        let queue = QueueInfo::new(self.receive.address()?);
        let offer = self.reply_offer.take();
        let info = core::mem::take(&mut self.our_info);
        let message = AgentMessage::InfoReply {
            queues: vec![queue],
            info: &info,
        };
        self.confirm(&message, offer, effects, rng)
    }

    /// Puts our confirmation, our message number 1, into the outbox.
    fn confirm(
        &mut self,
        message: &AgentMessage<'_>,
        offer: Option<Box<Params>>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Option<()> {
        let (Keys::Agreed(ratchet), Some(send)) = (&mut self.keys, &self.send) else {
            return None;
        };
        let mut plain = Zeroizing::new(Vec::new());
        message.put(&mut plain).ok()?;
        let ratcheted = ratchet.encrypt(&plain, info_padding(ratchet)).ok()?;
        let mut envelope = Vec::new();
        Envelope::Confirmation {
            offer,
            ratcheted: &ratcheted,
        }
        .put(&mut envelope)
        .ok()?;
        let public = send.layer_public();
        let sealed = layer::seal(&send.layer_key, Some(&public), &envelope, rng).ok()?;
        let number = self.sent.next_id();
        self.sent.push(&plain);
        self.stage = Stage::Confirming;
        self.put_outbox(number, sealed, effects);
        Some(())
    }

    /// The relay has a message of ours: if it is the maker's confirmation, we are connected.
    pub(super) fn confirmed_by_relay(&mut self, number: u64, effects: &mut Effects) {
        let is_maker = matches!(self.role, Role::Maker | Role::Requester);
        if self.stage == Stage::Confirming && is_maker && number == 1 {
            self.activate(effects);
        }
    }

    /// Messages flow from now on.
    pub(super) fn activate(&mut self, effects: &mut Effects) {
        self.stage = Stage::Active;
        self.count_use(effects);
        if let Some(event) = self.connected_event() {
            effects.event(event);
        }
        effects.changed(self.owner());
    }

    /// Maker: takes the joiner's confirmation.
    pub(super) fn take_joiner(
        &mut self,
        sealed: &SealedBody<'_>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Unusable> {
        let public = sealed.sender_key.ok_or(Unusable::Ignored)?;
        let key = self.receive.layer_key(&public).ok_or(Unusable::Ignored)?;
        let opened = sealed.open(&key).map_err(|_| Unusable::Ignored)?;
        let Envelope::Confirmation {
            offer: Some(offer),
            ratcheted,
        } = Envelope::read(opened.envelope())?
        else {
            return Err(Unusable::Ignored);
        };
        let Keys::Offered(secrets) = &self.keys else {
            return Err(Unusable::Ignored);
        };
        let agreed = secrets.accept(&offer, Options::default());
        let mut ratchet = agreed.map_err(|_| Unusable::Ignored)?;
        set_pace(&mut ratchet, effects.post_quantum);
        let opened = ratchet
            .decrypt(ratcheted, rng)
            .map_err(|_| Unusable::Ignored)?;
        let plain = opened.plaintext;
        let AgentMessage::InfoReply { queues, info } = AgentMessage::read(&plain)? else {
            return Err(Unusable::Ignored);
        };
        let mut reply = queues.into_iter().map(|queue| queue.address);
        let reply = reply.find(|queue| queue.mode == Some(QueueMode::Messaging));
        let send = reply.and_then(|queue| SendQueue::new(queue, &self.receive, effects, rng));
        self.send = Some(send.ok_or(Unusable::Ignored)?);
        self.keys = Keys::Agreed(Box::new(ratchet));
        self.keep_late(opened.delta, effects);
        self.receive.sender = Some(Sender { public, key });
        self.received = ReceiveChain::after_handshake(&plain);
        self.peer_info = info.to_vec();
        // A request that its owner has answered need not go again.
        if self.outbox.remove(&REQUEST).is_some() {
            effects.delta.delete(self.outbox_key(REQUEST));
        }
        let info = core::mem::take(&mut self.our_info);
        if self
            .confirm(&AgentMessage::Info(&info), None, effects, rng)
            .is_none()
        {
            self.fail(ConnectionFault::PeerGone, effects);
        }
        Ok(())
    }

    /// Joiner: takes the maker's confirmation.
    pub(super) fn take_maker(
        &mut self,
        sealed: &SealedBody<'_>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Unusable> {
        let public = sealed.sender_key.ok_or(Unusable::Ignored)?;
        let key = self.receive.layer_key(&public).ok_or(Unusable::Ignored)?;
        let opened = sealed.open(&key).map_err(|_| Unusable::Ignored)?;
        let Envelope::Confirmation {
            offer: None,
            ratcheted,
        } = Envelope::read(opened.envelope())?
        else {
            return Err(Unusable::Ignored);
        };
        let Keys::Agreed(ratchet) = &mut self.keys else {
            return Err(Unusable::Ignored);
        };
        let opened = ratchet
            .decrypt(ratcheted, rng)
            .map_err(|_| Unusable::Ignored)?;
        let plain = opened.plaintext;
        self.keep_late(opened.delta, effects);
        effects.changed(self.owner());
        let AgentMessage::Info(info) = AgentMessage::read(&plain)? else {
            return Err(Unusable::Ignored);
        };
        self.receive.sender = Some(Sender { public, key });
        self.received = ReceiveChain::after_handshake(&plain);
        self.peer_info = info.to_vec();
        self.activate(effects);
        Ok(())
    }

    /// Gives the connection up; the application is told now and after each restart.
    pub(super) fn fail(&mut self, fault: ConnectionFault, effects: &mut Effects) {
        if matches!(
            self.stage,
            Stage::Leaving(_) | Stage::Failed(_) | Stage::Deleting
        ) {
            return;
        }
        self.stage = Stage::Failed(fault);
        self.answer_waiting(&fault.into(), effects);
        self.drop_outbox(effects);
        effects.event(Event::Failed {
            connection: self.id,
            tag: self.tag,
            error: fault,
        });
        effects.changed(self.owner());
    }

    /// Ends the connection for the application. `true` if nothing is left to do with the relay.
    pub(super) fn delete(&mut self, effects: &mut Effects) -> bool {
        self.stage = Stage::Deleting;
        self.answer_waiting(&Misuse::NoConnection.into(), effects);
        self.drop_outbox(effects);
        self.drop_incoming(effects);
        effects.changed(self.owner());
        self.receive.created.is_none()
    }

    /// Forgets what has come and is not acknowledged.
    pub(super) fn drop_incoming(&mut self, effects: &mut Effects) {
        for number in core::mem::take(&mut self.inbox).into_keys() {
            effects.delta.delete(RowKey::Inbox(self.id, number));
        }
        self.forget_late(effects);
        for number in core::mem::take(&mut self.early).into_keys() {
            effects.delta.delete(RowKey::Early(self.id, number));
        }
        effects.delta.delete(RowKey::Invitation(self.id));
    }

    pub(super) fn drop_outbox(&mut self, effects: &mut Effects) {
        for number in core::mem::take(&mut self.outbox).into_keys() {
            effects.delta.delete(RowKey::Outbox(self.id, number));
        }
        self.kept.clear();
        self.sends_mut().for_each(|send| send.taken.clear());
    }

    pub(super) fn answer_waiting(&mut self, error: &CallError, effects: &mut Effects) {
        let waiting = self.waiting.drain(..).map(|(ticket, _)| ticket);
        for ticket in self.callers.drain(..).chain(waiting) {
            effects.answer(ticket, Err(error.clone()));
        }
    }
}

/// Tells a fresh ratchet how often to encapsulate.
pub(super) fn set_pace(ratchet: &mut Ratchet, post_quantum: PostQuantum) {
    match post_quantum {
        PostQuantum::EachStep => {}
        PostQuantum::Sparing => ratchet.set_pq_sparing(),
    }
}

impl Address {
    /// The link, once the queue is made.
    pub(super) fn link(&self) -> Option<ContactLink> {
        self.receive.address().map(ContactLink::new)
    }

    /// The answer to who asked for the address, once it is made.
    pub(super) fn reply(&self) -> Option<Reply> {
        let short = self.receive.short_link().map(Box::new);
        Some(Reply::Address(self.link()?, short))
    }

    /// Takes the relay's answer to `NEW`. `false` if the address came to nothing.
    pub(super) fn created(&mut self, answer: Answer, effects: &mut Effects) -> bool {
        match answer {
            Answer::Created {
                recipient_id,
                sender_id,
                relay_key,
                link,
            } => {
                let receive = &mut self.receive;
                let made = receive.created.is_some()
                    || receive
                        .set_created(recipient_id, sender_id, relay_key)
                        .and_then(|()| receive.published(sender_id, link))
                        .is_some();
                if let (true, Some(reply)) = (made, self.reply()) {
                    for ticket in self.callers.drain(..) {
                        effects.answer(ticket, Ok(reply.clone()));
                    }
                    self.tell_move(effects);
                    effects.changed(super::effects::Owner::Address(self.tag));
                }
                made
            }
            Answer::Refused(Refusal::Auth | Refusal::Quota) => {
                let relay = effects.path(self.receive.relay).map(|it| it.relay.clone());
                for ticket in self.callers.drain(..) {
                    let error = match &relay {
                        Some(relay) => CallError::QueueRefused(Box::new(relay.clone())),
                        None => CallError::Defect("a queue without a relay"),
                    };
                    effects.answer(ticket, Err(error));
                }
                false
            }
            Answer::Refused(_) | Answer::Done | Answer::Link(_) => {
                effects.wake_after(
                    super::effects::RETRY_DELAY,
                    Timer::Retry(self.receive.relay),
                );
                true
            }
        }
    }
}
