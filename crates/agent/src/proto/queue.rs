//! The two queues of a connection as our side keeps them.

use std::collections::BTreeSet;
use std::sync::Arc;

use junto_crypto::secretbox::BoxKey;
use junto_crypto::{CryptoRng, ed25519, x25519};
use junto_smp::address::ServerAddress;
use junto_smp::command::QueueMode;
use junto_smp::id::{MessageId as QueueMessageId, RecipientId, SenderId};
use junto_smp::key::AuthSecret;
use junto_smp::message::DeliveryKey;

use super::address::{QueueAddress, put_relay, read_relay};
use super::connection::Suspension;
use super::effects::{Effects, Owner, Purpose};
use super::instant::Instant;
use super::publication::Publication;
use super::relay::{Auth, Operation, RelayId};
use super::wire::{Malformed, Reader, put_fixed};

/// Where we stand with the relay about one of our queues, while connected to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Subscription {
    #[default]
    Idle,
    /// `NEW`, `SUB` or `DEL` is in flight.
    InFlight,
    Live,
    /// Somebody else with our keys subscribed: not fought over until the next connection.
    Taken,
}

/// The queue as its relay made it.
pub(super) struct Created {
    pub(super) recipient_id: RecipientId,
    pub(super) sender_id: SenderId,
    relay_key: x25519::PublicKey,
    pub(super) delivery: DeliveryKey,
}

/// The sender of our queue, by its key for the per-queue layer.
pub(super) struct Sender {
    pub(super) public: x25519::PublicKey,
    pub(super) key: BoxKey,
}

/// A message whose acknowledgement waits: the application is too far behind, or there is noise, and what a message
/// takes longer than noise is not to be seen.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) message: QueueMessageId,
    pub(super) until: Instant,
}

/// A queue that we receive on.
pub(super) struct ReceiveQueue {
    pub(super) relay: RelayId,
    address: ServerAddress,
    mode: QueueMode,
    auth: Auth,
    delivery_secret: x25519::SecretKey,
    pub(super) layer_secret: x25519::SecretKey,
    pub(super) created: Option<Created>,
    pub(super) sender: Option<Sender>,
    pub(super) subscription: Subscription,
    /// Received but not acknowledged to the relay.
    pub(super) held: Option<Held>,
    /// The number of the last message that came on it. Not stored.
    pub(super) last: u64,
    /// The short link that leads to it.
    pub(super) publication: Option<Box<Publication>>,
}

pub(super) fn read_auth(reader: &mut Reader<'_>) -> Result<Auth, Malformed> {
    Ok(Arc::new(match reader.u8()? {
        b'E' => AuthSecret::Ed25519(ed25519::SigningKey::from_seed(&reader.array()?)),
        b'X' => AuthSecret::X25519(x25519::SecretKey::from_bytes(&reader.array()?)),
        _ => return Err(Malformed::Tag),
    }))
}

pub(super) fn put_auth(out: &mut Vec<u8>, auth: &AuthSecret) {
    match auth {
        AuthSecret::Ed25519(key) => {
            out.push(b'E');
            out.extend_from_slice(key.seed());
        }
        AuthSecret::X25519(key) => {
            out.push(b'X');
            out.extend_from_slice(key.as_bytes());
        }
    }
}

impl ReceiveQueue {
    /// A queue yet to be made on this relay.
    pub(super) fn new(
        address: ServerAddress,
        mode: QueueMode,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Self {
        Self {
            relay: effects.relay(&address),
            address,
            mode,
            auth: Arc::new(AuthSecret::generate(rng)),
            delivery_secret: x25519::SecretKey::generate(rng),
            layer_secret: x25519::SecretKey::generate(rng),
            created: None,
            sender: None,
            subscription: Subscription::Idle,
            held: None,
            last: 0,
            publication: None,
        }
    }

    /// Takes the relay's answer to `NEW`. `None` if its key is no key.
    pub(super) fn set_created(
        &mut self,
        recipient_id: RecipientId,
        sender_id: SenderId,
        relay_key: x25519::PublicKey,
    ) -> Option<()> {
        let shared = self.delivery_secret.diffie_hellman(&relay_key).ok()?;
        let delivery = DeliveryKey::new(&shared);
        self.created = Some(Created {
            recipient_id,
            sender_id,
            relay_key,
            delivery,
        });
        self.subscription = Subscription::Live;
        Some(())
    }

    /// The relay has lost the queue; another is to be made.
    pub(super) fn forget_created(&mut self) {
        self.created = None;
        self.subscription = Subscription::Idle;
        self.held = None;
        self.forget_link();
    }

    /// Where senders reach the queue, once made.
    pub(super) fn address(&self) -> Option<QueueAddress> {
        let created = self.created.as_ref()?;
        Some(self.address_as(created.sender_id))
    }

    /// Where senders reach the queue, if this is its name for them.
    pub(super) fn address_as(&self, sender_id: SenderId) -> QueueAddress {
        QueueAddress {
            relay: self.address.clone(),
            sender_id,
            recipient_key: self.layer_secret.public_key(),
            mode: Some(self.mode),
        }
    }

    /// The queue's name for us, once made, and the key that goes with it.
    pub(super) fn recipient(&self) -> Option<(RecipientId, Auth)> {
        let created = self.created.as_ref()?;
        Some((created.recipient_id, Arc::clone(&self.auth)))
    }

    /// Issues `NEW` or `SUB` if it is time.
    pub(super) fn pump(&mut self, owner: Owner, effects: &mut Effects) {
        if self.subscription != Subscription::Idle || !effects.is_up(self.relay) {
            return;
        }
        self.subscription = Subscription::InFlight;
        let (purpose, operation) = match &self.created {
            None => {
                let link = self.new_link();
                if link.is_some() {
                    // The names that it asks for are stored first.
                    effects.changed(owner);
                }
                let create = Operation::Create {
                    auth: Arc::clone(&self.auth),
                    delivery_key: self.delivery_secret.public_key(),
                    mode: self.mode,
                    link,
                };
                (Purpose::Create, create)
            }
            Some(created) => {
                let queue = created.recipient_id;
                (
                    Purpose::Subscribe,
                    Operation::Subscribe {
                        queue,
                        auth: Arc::clone(&self.auth),
                    },
                )
            }
        };
        effects.command(self.relay, owner, purpose, operation);
    }

    /// Whether `NEW` is in flight.
    pub(super) fn is_being_made(&self) -> bool {
        self.created.is_none() && self.subscription == Subscription::InFlight
    }

    /// Where its relay is.
    pub(super) fn relay_address(&self) -> &ServerAddress {
        &self.address
    }

    /// The recipient's key.
    pub(super) fn auth(&self) -> Auth {
        Arc::clone(&self.auth)
    }

    /// Issues the next command on the way to the queue's end: nobody may send any more, what is there is heard, and
    /// only then the queue goes. Else something would be lost that its sender believes delivered.
    pub(super) fn pump_close(
        &mut self,
        suspension: &mut Suspension,
        owner: Owner,
        effects: &mut Effects,
    ) {
        match (self.subscription, *suspension) {
            (Subscription::Idle, _) => self.pump(owner, effects),
            (Subscription::Live, Suspension::Not) => {
                if self.suspend(owner, effects) {
                    *suspension = Suspension::InFlight;
                }
            }
            (Subscription::Live, Suspension::Done)
                if self.held.is_none() && !effects.awaits_message(owner) =>
            {
                self.pump_delete(owner, effects);
            }
            (Subscription::Taken, _) => self.pump_delete(owner, effects),
            (Subscription::InFlight | Subscription::Live, _) => {}
        }
    }

    /// Issues `OFF` if the relay is there.
    pub(super) fn suspend(&self, owner: Owner, effects: &mut Effects) -> bool {
        let Some(created) = &self.created else {
            return false;
        };
        if !effects.is_up(self.relay) {
            return false;
        }
        let operation = Operation::Suspend {
            queue: created.recipient_id,
            auth: Arc::clone(&self.auth),
        };
        effects.command(self.relay, owner, Purpose::Suspend, operation);
        true
    }

    /// Issues `DEL` if it is time.
    pub(super) fn pump_delete(&mut self, owner: Owner, effects: &mut Effects) {
        let Some(created) = &self.created else { return };
        if self.subscription == Subscription::InFlight || !effects.is_up(self.relay) {
            return;
        }
        self.subscription = Subscription::InFlight;
        let operation = Operation::Delete {
            queue: created.recipient_id,
            auth: Arc::clone(&self.auth),
        };
        effects.command(self.relay, owner, Purpose::Delete, operation);
    }

    /// Tells the relay that a message is ours.
    pub(super) fn acknowledge(&self, message: QueueMessageId, owner: Owner, effects: &mut Effects) {
        let Some(created) = &self.created else { return };
        if !effects.is_up(self.relay) {
            return;
        }
        let auth = Arc::clone(&self.auth);
        let operation = Operation::Acknowledge {
            queue: created.recipient_id,
            auth,
            message,
        };
        effects.command(self.relay, owner, Purpose::Acknowledge, operation);
    }

    /// The connection to the relay died: everything in flight is void.
    pub(super) fn disconnected(&mut self) {
        self.subscription = Subscription::Idle;
        self.held = None;
        self.void_link();
    }

    /// The box key shared with a sender's key. `None` if it is no key.
    pub(super) fn layer_key(&self, sender: &x25519::PublicKey) -> Option<BoxKey> {
        let shared = self.layer_secret.diffie_hellman(sender).ok()?;
        Some(BoxKey::from_shared(&shared))
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        put_relay(out, &self.address)?;
        out.push(match self.mode {
            QueueMode::Messaging => b'M',
            QueueMode::Contact => b'C',
        });
        put_auth(out, &self.auth);
        out.extend_from_slice(self.delivery_secret.as_bytes());
        out.extend_from_slice(self.layer_secret.as_bytes());
        match &self.created {
            None => out.push(b'0'),
            Some(created) => {
                out.push(b'1');
                out.extend_from_slice(created.recipient_id.as_bytes());
                out.extend_from_slice(created.sender_id.as_bytes());
                put_fixed(out, &created.relay_key.to_spki());
            }
        }
        match &self.sender {
            None => out.push(b'0'),
            Some(sender) => {
                out.push(b'1');
                put_fixed(out, &sender.public.to_spki());
            }
        }
        Ok(())
    }

    pub(super) fn read(reader: &mut Reader<'_>, effects: &mut Effects) -> Result<Self, Malformed> {
        let address = read_relay(reader)?;
        let mode = match reader.u8()? {
            b'M' => QueueMode::Messaging,
            b'C' => QueueMode::Contact,
            _ => return Err(Malformed::Tag),
        };
        let mut queue = Self {
            relay: effects.relay(&address),
            address,
            mode,
            auth: read_auth(reader)?,
            delivery_secret: x25519::SecretKey::from_bytes(&reader.array()?),
            layer_secret: x25519::SecretKey::from_bytes(&reader.array()?),
            created: None,
            sender: None,
            subscription: Subscription::Idle,
            held: None,
            last: 0,
            publication: None,
        };
        let created = reader.optional(|reader| {
            let (recipient, sender) = (reader.array()?, reader.array()?);
            Ok((RecipientId(recipient), SenderId(sender), reader.x25519()?))
        })?;
        if let Some((recipient, sender, key)) = created {
            queue
                .set_created(recipient, sender, key)
                .ok_or(Malformed::Key)?;
            queue.subscription = Subscription::Idle;
        }
        if let Some(public) = reader.optional(Reader::x25519)? {
            let key = queue.layer_key(&public).ok_or(Malformed::Key)?;
            queue.sender = Some(Sender { public, key });
        }
        Ok(queue)
    }
}

/// The peer's queue, that we send to.
pub(super) struct SendQueue {
    pub(super) relay: RelayId,
    pub(super) address: QueueAddress,
    auth: Auth,
    layer_secret: x25519::SecretKey,
    pub(super) layer_key: BoxKey,
    pub(super) secured: bool,
    pub(super) securing: bool,
    /// Numbers of outbox rows that the relay has not answered.
    pub(super) in_flight: BTreeSet<u64>,
    /// Numbers of outbox rows that the relay has and that wait for another one. Not stored.
    pub(super) taken: BTreeSet<u64>,
    /// The queue is full, or the way to it overloaded; nothing is sent until woken.
    pub(super) blocked: bool,
    /// The first message that was refused therefore, until it is taken.
    pub(super) refused: Option<u64>,
    /// How often in a row.
    pub(super) refusals: u32,
}

impl SendQueue {
    /// The queue at this address, of a connection that receives on `receive`. `None` if its key is no key.
    pub(super) fn new(
        address: QueueAddress,
        receive: &ReceiveQueue,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Option<Self> {
        let auth = Arc::new(AuthSecret::generate(rng));
        let layer_secret = x25519::SecretKey::generate(rng);
        Self::with_keys(address, (auth, layer_secret), false, receive, effects)
    }

    /// As [`SendQueue::new`], with the keys that the peer knows.
    pub(super) fn with_keys(
        address: QueueAddress,
        (auth, layer_secret): (Auth, x25519::SecretKey),
        secured: bool,
        receive: &ReceiveQueue,
        effects: &mut Effects,
    ) -> Option<Self> {
        let shared = layer_secret.diffie_hellman(&address.recipient_key).ok()?;
        Some(Self {
            relay: effects.peers_relay(&address.relay, &receive.address),
            address,
            auth,
            layer_secret,
            layer_key: BoxKey::from_shared(&shared),
            secured,
            securing: false,
            in_flight: BTreeSet::new(),
            taken: BTreeSet::new(),
            blocked: false,
            refused: None,
            refusals: 0,
        })
    }

    /// The queue was secured with this key already.
    pub(super) fn secured_by(&mut self, auth: Auth) {
        self.auth = auth;
        self.secured = true;
    }

    /// Our key for the per-queue layer, sent along with the first message.
    pub(super) fn layer_public(&self) -> x25519::PublicKey {
        self.layer_secret.public_key()
    }

    /// Whether anybody may send there: a contact address.
    pub(super) fn is_open(&self) -> bool {
        self.address.mode != Some(QueueMode::Messaging)
    }

    /// The key that authorises our messages.
    pub(super) fn send_auth(&self) -> Option<Auth> {
        if self.is_open() {
            None
        } else {
            Some(Arc::clone(&self.auth))
        }
    }

    /// Issues `SKEY` if it is time.
    pub(super) fn pump_secure(&mut self, owner: Owner, effects: &mut Effects) {
        if self.secured || self.securing || self.is_open() || !effects.is_up(self.relay) {
            return;
        }
        self.securing = true;
        let operation = Operation::Secure {
            queue: self.address.sender_id,
            auth: Arc::clone(&self.auth),
        };
        effects.command(self.relay, owner, Purpose::Secure, operation);
    }

    /// Whether `SEND` may follow now: commands on one connection keep their order, so it may be
    /// right behind `SKEY`.
    pub(super) fn may_send(&self, effects: &Effects) -> bool {
        let secured = self.secured || self.securing || self.is_open();
        secured && !self.blocked && effects.is_up(self.relay)
    }

    /// The connection to the relay died: everything in flight is void.
    pub(super) fn disconnected(&mut self) {
        self.securing = false;
        self.in_flight.clear();
        self.blocked = false;
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        put_relay(out, &self.address.relay)?;
        out.extend_from_slice(self.address.sender_id.as_bytes());
        put_fixed(out, &self.address.recipient_key.to_spki());
        out.push(match self.address.mode {
            Some(QueueMode::Messaging) => b'M',
            Some(QueueMode::Contact) | None => b'C',
        });
        put_auth(out, &self.auth);
        out.extend_from_slice(self.layer_secret.as_bytes());
        out.push(if self.secured { b'T' } else { b'F' });
        Ok(())
    }

    /// Reads what [`SendQueue::put`] wrote.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        receive: &ReceiveQueue,
        effects: &mut Effects,
    ) -> Result<Self, Malformed> {
        let relay = read_relay(reader)?;
        let sender_id = SenderId(reader.array()?);
        let recipient_key = reader.x25519()?;
        let mode = match reader.u8()? {
            b'M' => Some(QueueMode::Messaging),
            b'C' => Some(QueueMode::Contact),
            _ => return Err(Malformed::Tag),
        };
        let auth = read_auth(reader)?;
        let layer_secret = x25519::SecretKey::from_bytes(&reader.array()?);
        let secured = match reader.u8()? {
            b'T' => true,
            b'F' => false,
            _ => return Err(Malformed::Tag),
        };
        let address = QueueAddress {
            relay,
            sender_id,
            recipient_key,
            mode,
        };
        Self::with_keys(address, (auth, layer_secret), secured, receive, effects)
            .ok_or(Malformed::Key)
    }
}
