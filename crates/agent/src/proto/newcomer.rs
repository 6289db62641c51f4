//! A queue on its way into use: made by its recipient, told to the sender (`QA`), given the sender's keys (`QK`,
//! `KEY`), opened to it (`QU`). It takes the place of another queue, or stands beside those that there are.

use std::sync::Arc;

use junto_crypto::{CryptoRng, x25519};
use junto_smp::address::ServerAddress;
use junto_smp::command::QueueMode;
use junto_smp::key::{AuthKey, AuthSecret};

use super::address::{QueueAddress, QueueInfo, QueueName, QueueUri};
use super::effects::{Effects, Owner, Purpose, RETRY_DELAY, Timer};
use super::message::Body;
use super::queue::{ReceiveQueue, SendQueue, Sender, Subscription, put_auth, read_auth};
use super::relay::{Answer, Auth, Operation, Refusal, RelayId};
use super::version;
use super::wire::{Malformed, Reader, put_short};

/// How far a new queue of ours is.
pub(super) enum Step {
    /// It is made, or its peer is yet to be told of it.
    Making,
    /// The peer has been told.
    Added,
    /// The peer has given this key, the relay does not have it yet.
    Keyed(AuthKey),
    /// The relay has it; the peer is yet to be told.
    Allowed,
    /// The peer has been told to use it.
    Used,
    /// The peer has used it.
    Live,
}

/// What the answer to a command about it means for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing.
    None,
    /// There is something to say to the peer.
    Speaks,
    /// The queue is none, or not any more.
    Lost,
}

/// A new queue of ours.
pub(super) struct Newcomer {
    pub(super) queue: ReceiveQueue,
    pub(super) step: Step,
    /// `KEY` is in flight. Not stored.
    allowing: bool,
}

impl Newcomer {
    /// A queue that is in use already.
    pub(super) fn live(queue: ReceiveQueue) -> Self {
        let (step, allowing) = (Step::Live, false);
        Self {
            queue,
            step,
            allowing,
        }
    }

    /// A queue yet to be made on this relay.
    pub(super) fn new(
        relay: ServerAddress,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Self {
        Self {
            queue: ReceiveQueue::new(relay, QueueMode::Messaging, effects, rng),
            step: Step::Making,
            allowing: false,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.push(match &self.step {
            Step::Making => b'M',
            Step::Added => b'A',
            Step::Keyed(_) => b'K',
            Step::Allowed => b'L',
            Step::Used => b'U',
            Step::Live => b'V',
        });
        if let Step::Keyed(key) = &self.step {
            let mut spki = Vec::new();
            key.write_spki(&mut spki);
            put_short(out, &spki)?;
        }
        self.queue.put(out)
    }

    pub(super) fn read(reader: &mut Reader<'_>, effects: &mut Effects) -> Result<Self, Malformed> {
        let step = match reader.u8()? {
            b'M' => Step::Making,
            b'A' => Step::Added,
            b'K' => {
                let key = AuthKey::from_spki(reader.short()?).map_err(|_| Malformed::Key)?;
                Step::Keyed(key)
            }
            b'L' => Step::Allowed,
            b'U' => Step::Used,
            b'V' => Step::Live,
            _ => return Err(Malformed::Tag),
        };
        Ok(Self {
            queue: ReceiveQueue::read(reader, effects)?,
            step,
            allowing: false,
        })
    }

    /// Whether the peer may send there by now, and knows it or is about to be told.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.step, Step::Allowed | Step::Used | Step::Live)
    }

    /// What was said of it may be lost: it is said again.
    pub(super) fn say_again(&mut self) {
        match self.step {
            Step::Added => self.step = Step::Making,
            Step::Used => self.step = Step::Allowed,
            Step::Making | Step::Keyed(_) | Step::Allowed | Step::Live => {}
        }
    }

    /// The connection to its relay died.
    pub(super) fn disconnected(&mut self) {
        self.queue.disconnected();
        self.allowing = false;
    }

    /// A relay refused something for a reason that may have passed.
    pub(super) fn retry(&mut self, relay: RelayId) {
        if self.queue.relay == relay {
            self.allowing = false;
        }
    }

    /// Issues what is due.
    pub(super) fn pump(&mut self, owner: Owner, effects: &mut Effects) {
        self.queue.pump(owner, effects);
        if let (Step::Keyed(key), false, Some(created), true) = (
            &self.step,
            self.allowing,
            &self.queue.created,
            effects.is_up(self.queue.relay),
        ) {
            self.allowing = true;
            let operation = Operation::Allow {
                queue: created.recipient_id,
                auth: self.queue.auth(),
                key: Box::new(key.clone()),
            };
            effects.command(self.queue.relay, owner, Purpose::Allow, operation);
        }
    }

    /// Takes the answer to a command.
    pub(super) fn answered(
        &mut self,
        purpose: Purpose,
        answer: Answer,
        effects: &mut Effects,
    ) -> Progress {
        match (purpose, answer) {
            (
                Purpose::Create,
                Answer::Created {
                    recipient_id,
                    sender_id,
                    relay_key,
                    ..
                },
            ) => {
                let made = self.queue.created.is_some()
                    || self
                        .queue
                        .set_created(recipient_id, sender_id, relay_key)
                        .is_some();
                if made {
                    effects.queues_changed();
                    Progress::Speaks
                } else {
                    Progress::Lost
                }
            }
            (Purpose::Create, Answer::Refused(Refusal::Auth | Refusal::Quota))
            | (Purpose::Subscribe | Purpose::Allow, Answer::Refused(Refusal::Auth)) => {
                Progress::Lost
            }
            (Purpose::Subscribe, Answer::Done) => {
                self.queue.subscription = Subscription::Live;
                Progress::None
            }
            (Purpose::Allow, Answer::Done) => {
                self.allowing = false;
                if matches!(self.step, Step::Keyed(_)) {
                    self.step = Step::Allowed;
                }
                Progress::Speaks
            }
            (Purpose::Acknowledge, _) => Progress::None,
            (_, Answer::Refused(_)) => {
                effects.wake_after(RETRY_DELAY, Timer::Retry(self.queue.relay));
                Progress::None
            }
            (_, Answer::Done | Answer::Created { .. } | Answer::Link(_)) => Progress::None,
        }
    }

    /// Takes the peer's keys for it. `false` if they are for another queue, or come too early or too late.
    pub(super) fn take_key(&mut self, info: &QueueInfo, key: &AuthKey) -> bool {
        let ours = self.queue.address();
        let is_ours = ours.is_some_and(|ours| QueueName::of(&info.address).names(&ours));
        if !matches!(self.step, Step::Added) || !is_ours {
            return false;
        }
        let public = info.address.recipient_key;
        let Some(layer_key) = self.queue.layer_key(&public) else {
            return false;
        };
        self.queue.sender = Some(Sender {
            public,
            key: layer_key,
        });
        self.step = Step::Keyed(key.clone());
        true
    }

    /// What is due to be said of it: where it is, in the place of `replaced` if of any, or that it may be used, as
    /// the first choice if it replaces one.
    pub(super) fn speak(&mut self, replaced: Option<&QueueName>) -> Option<Body<'static>> {
        let address = self.queue.address()?;
        match self.step {
            Step::Making => {
                self.step = Step::Added;
                let uri = QueueUri {
                    versions: version::QUEUE_RANGE,
                    address,
                };
                Some(Body::QueueAdd(vec![(uri, replaced.cloned())]))
            }
            Step::Allowed => {
                self.step = Step::Used;
                let is_first = replaced.is_some();
                Some(Body::QueueUse(vec![(QueueName::of(&address), is_first)]))
            }
            Step::Added | Step::Keyed(_) | Step::Used | Step::Live => None,
        }
    }
}

/// A queue that the peer wants us to use.
pub(super) struct Offered {
    pub(super) address: QueueAddress,
    auth: Auth,
    layer_secret: x25519::SecretKey,
    /// Whether it has been given our keys.
    pub(super) answered: bool,
    /// Whether we were told to use it.
    pub(super) usable: bool,
}

impl Offered {
    /// What the peer offers, with fresh keys of ours.
    pub(super) fn new(address: &QueueAddress, rng: &mut impl CryptoRng) -> Self {
        Self {
            address: QueueAddress {
                mode: Some(QueueMode::Messaging),
                ..address.clone()
            },
            auth: Arc::new(AuthSecret::generate(rng)),
            layer_secret: x25519::SecretKey::generate(rng),
            answered: false,
            usable: false,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.push(match (self.usable, self.answered) {
            (true, _) => b'U',
            (false, true) => b'A',
            (false, false) => b'O',
        });
        QueueInfo::new(self.address.clone()).put(out)?;
        put_auth(out, &self.auth);
        out.extend_from_slice(self.layer_secret.as_bytes());
        Ok(())
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (answered, usable) = match reader.u8()? {
            b'O' => (false, false),
            b'A' => (true, false),
            b'U' => (true, true),
            _ => return Err(Malformed::Tag),
        };
        Ok(Self {
            address: QueueInfo::read(reader)?.address,
            auth: read_auth(reader)?,
            layer_secret: x25519::SecretKey::from_bytes(&reader.array()?),
            answered,
            usable,
        })
    }

    /// Our answer may be lost: it is said again, unless the peer has heard it.
    pub(super) fn say_again(&mut self) {
        if !self.usable {
            self.answered = false;
        }
    }

    /// Our keys for it, if they are due to be said.
    pub(super) fn speak(&mut self) -> Option<Body<'static>> {
        if core::mem::replace(&mut self.answered, true) {
            return None;
        }
        let address = QueueAddress {
            recipient_key: self.layer_secret.public_key(),
            ..self.address.clone()
        };
        let key = self.auth.public_key();
        Some(Body::QueueKey(vec![(QueueInfo::new(address), key)]))
    }

    /// `QU` names it. `true` if that is news.
    pub(super) fn take_use(&mut self, name: &QueueName) -> bool {
        let is_news = self.answered && !self.usable && name.names(&self.address);
        self.usable |= is_news;
        is_news
    }

    /// The queue to send to, of a connection that receives on `receive`.
    pub(super) fn into_queue(
        self,
        receive: &ReceiveQueue,
        effects: &mut Effects,
    ) -> Option<SendQueue> {
        let keys = (self.auth, self.layer_secret);
        SendQueue::with_keys(self.address, keys, true, receive, effects)
    }
}
