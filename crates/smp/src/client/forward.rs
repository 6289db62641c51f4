//! Commands through a proxy: as the sender, and as the proxy.

use junto_crypto::{
    CryptoRng,
    secretbox::{BoxKey, TAG_BYTES},
    x25519,
};

use super::{
    Client, IN_FLIGHT_MAX, RejectReason, Rejected, Request, authoriser, rejected,
    reply::{Opener, Pending},
};
use crate::{
    block::{BlockFull, OutgoingBlock},
    encoding::Writer,
    id::{CorrelationId, Entity, ID_BYTES},
    key::encode_x25519,
    proxy::{Destination, FORWARDED_BOX_BYTES, Forward, seal_one},
    transmission::encode_header,
};

/// Bytes of the envelope in front of the inner box of `RFWD`: correlation id, version, key.
const ENVELOPE_BYTES: usize = 1 + ID_BYTES + 2 + 1 + x25519::SPKI_BYTES;

impl<T> Client<T> {
    /// Adds `request` for `destination` to `block`, as a `PFWD` to this server, a proxy. The
    /// authorisation is bound to the proxy's session with the destination.
    ///
    /// The answer that comes with `ticket` is the destination's, whom it authenticates. What the
    /// proxy says itself comes as [`super::ReplyFault::Proxy`], and must not be believed about the
    /// queue.
    ///
    /// # Errors
    /// As [`Client::push`]; also [`RejectReason::TooLarge`] for what may not be forwarded.
    pub fn push_forwarded(
        &mut self,
        block: &mut OutgoingBlock,
        destination: &Destination,
        request: &Request<'_>,
        ticket: T,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Rejected<T>> {
        let refuse = |reason, ticket| Err(Rejected { reason, ticket });
        if self.pending.len() >= IN_FLIGHT_MAX {
            return refuse(RejectReason::Busy, ticket);
        }
        let authoriser = match authoriser(request.key, &destination.key) {
            Ok(authoriser) => authoriser,
            Err(reason) => return refuse(reason, ticket),
        };
        let secret = x25519::SecretKey::generate(rng);
        let Ok(shared) = secret.diffie_hellman(&destination.key) else {
            return refuse(RejectReason::WeakKey, ticket);
        };
        let key = BoxKey::from_shared(&shared);
        let correlation = CorrelationId::random(rng);
        let pushed = block.push_with(|room| {
            let mut writer = Writer::new(room);
            writer.u8(0);
            let session = Entity::Other(&destination.session.0);
            encode_header(&mut writer, Some(&correlation), session);
            writer.bytes(b"PFWD ");
            writer.u16(destination.version.number());
            encode_x25519(&secret.public_key(), &mut writer);
            let sealed = writer.reserve(FORWARDED_BOX_BYTES).ok_or(BlockFull)?;
            seal_one(&key, &correlation.nonce(), sealed, |room| {
                authoriser.encode(
                    room,
                    destination.version,
                    &destination.session,
                    &correlation,
                    request.entity,
                    |writer| request.command.encode(writer, destination.version),
                )
            })
            .map_err(|_| BlockFull)?;
            writer.finish().map_err(|_| BlockFull)
        });
        if let Err(full) = pushed {
            return Err(rejected(block, full, ticket));
        }
        let opener = Opener::Destination {
            key,
            version: destination.version,
            session: destination.session,
        };
        let pending = Pending::sealed(request, opener, ticket);
        self.pending.insert(correlation, pending);
        Ok(())
    }

    /// Adds `forward`, which a sender sent to us, a proxy, with `correlation`, to `block`, as an
    /// `RFWD` to this server. The answer that comes with `ticket` is
    /// [`crate::response::Response::ProxyAnswer`], ready to be passed on.
    ///
    /// # Errors
    /// As [`Client::push`]; [`RejectReason::WeakKey`] if [`super::Options::proxy`] was not set.
    pub fn push_relayed(
        &mut self,
        block: &mut OutgoingBlock,
        correlation: &CorrelationId,
        forward: &Forward<'_>,
        ticket: T,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Rejected<T>> {
        if self.pending.len() >= IN_FLIGHT_MAX {
            let reason = RejectReason::Busy;
            return Err(Rejected { reason, ticket });
        }
        let Some(key) = &self.relay_key else {
            let reason = RejectReason::WeakKey;
            return Err(Rejected { reason, ticket });
        };
        let relayed = CorrelationId::random(rng);
        let pushed = block.push_with(|room| {
            let mut writer = Writer::new(room);
            writer.u8(0);
            encode_header(&mut writer, Some(&relayed), Entity::None);
            writer.bytes(b"RFWD ");
            let sealed = writer
                .reserve(TAG_BYTES + ENVELOPE_BYTES + forward.sealed.len())
                .ok_or(BlockFull)?;
            let (tag, text) = sealed
                .split_first_chunk_mut::<TAG_BYTES>()
                .ok_or(BlockFull)?;
            let mut envelope = Writer::new(text);
            correlation.encode(&mut envelope);
            forward.encode(&mut envelope);
            envelope.finish().map_err(|_| BlockFull)?;
            *tag = key.seal_in_place(&relayed.nonce(), text);
            writer.finish().map_err(|_| BlockFull)
        });
        if let Err(full) = pushed {
            return Err(rejected(block, full, ticket));
        }
        let opener = Opener::Relay {
            correlation: *correlation,
        };
        self.pending
            .insert(relayed, Pending::relayed(opener, ticket));
        Ok(())
    }
}
