//! `NEW`: a queue as its creator asks for it.

use junto_crypto::{CryptoRng, x25519};

use super::{Context, Link, Notifier, NotifierParts, Queue, QueueParts, Reader};
use crate::{
    command::{Command, NewMode, NewQueue},
    error::ErrorCode,
    id::{CorrelationId, LinkId, RecipientId, SenderId},
    link::LinkBlobs,
    message::DeliveryKey,
    response::QueueIds,
    server::Authorised,
};

impl<B: AsRef<[u8]>> Queue<B> {
    /// Makes the queue that an authorised `NEW` asks for. Ids are random, except those that a
    /// creator chooses for a short link; the caller must make sure that they are not taken. `keep`
    /// stores the link data.
    ///
    /// # Errors
    /// The code to answer with: `CMD PROHIBITED` for another command, for a sender id that does not
    /// follow from the correlation id, or for a queue of a service that does not subscribe to it;
    /// `CRYPTO` for a weak key.
    pub fn create(
        command: &Authorised<'_>,
        context: &Context,
        rng: &mut impl CryptoRng,
        keep: impl FnOnce(&[u8]) -> B,
    ) -> Result<(Self, QueueIds), ErrorCode> {
        let Command::New(new) = command.command() else {
            return Err(ErrorCode::PROHIBITED);
        };
        if command.service().is_some() && !new.subscribe {
            return Err(ErrorCode::PROHIBITED);
        }
        let (sender, link) = names(new, &command.correlation(), rng)?;
        let secret = x25519::SecretKey::generate(rng);
        let shared = secret
            .diffie_hellman(&new.dh_key)
            .map_err(|_| ErrorCode::Crypto)?;
        let notifier = match &new.notifier {
            Some(new) => Some(NotifierParts::create(&new.auth_key, &new.dh_key, rng)?),
            None => None,
        };
        let mut queue = Self::restore(QueueParts {
            recipient: RecipientId::random(rng),
            sender,
            mode: new.queue_mode(),
            recipient_key: new.auth_key.clone(),
            sender_key: None,
            delivery_key: DeliveryKey::new(&shared),
            suspended: false,
        });
        queue.touch(context.now);
        queue.subscriber = new.subscribe.then_some(Reader {
            connection: context.connection,
            delivered: None,
        });
        queue.service = command.service().cloned();
        queue.link = link.map(|(id, blobs)| Box::new(Link::new(id, &blobs, keep)));
        let mut ids = QueueIds {
            recipient: queue.recipient,
            sender: queue.sender,
            server_dh_key: secret.public_key(),
            mode: queue.mode,
            link: queue.link().map(Link::id),
            service: command.service().map(|service| service.id),
            notifier: None,
        };
        if let Some((parts, notifier_ids)) = notifier {
            queue.notifier = Some(Box::new(Notifier::new(parts, None)));
            ids.notifier = Some(notifier_ids);
        }
        Ok((queue, ids))
    }
}

/// The sender id, and link id with data, of a new queue.
fn names<'a>(
    new: &NewQueue<'a>,
    correlation: &CorrelationId,
    rng: &mut impl CryptoRng,
) -> Result<(SenderId, Option<(LinkId, LinkBlobs<'a>)>), ErrorCode> {
    let (link, data) = match new.mode {
        NewMode::Messaging(Some(data)) => (LinkId::random(rng), data),
        NewMode::Contact(Some((link, data))) => (link, data),
        NewMode::Unspecified | NewMode::Messaging(None) | NewMode::Contact(None) => {
            return Ok((SenderId::random(rng), None));
        }
    };
    // Otherwise one could ask for any id and learn whether it exists.
    if data.sender != correlation.derived_sender_id() {
        return Err(ErrorCode::PROHIBITED);
    }
    Ok((data.sender, Some((link, data.blobs))))
}
