//! The destination of forwarded commands: opens what a proxy passes on, seals the answers.

use junto_crypto::{
    secretbox::{BoxKey, TAG_BYTES},
    x25519,
};

use super::{Refusal, ReplyWriter, Request, RequestReader};
use crate::{
    block::{Block, BlockFull, OutgoingBlock},
    encoding::{NoRoom, Writer},
    error::{BrokerFault, ErrorCode, ProxyFault, TransportFault},
    id::{CorrelationId, Entity, ID_BYTES},
    proxy::{FORWARDED_BOX_BYTES, decode_relayed, open_box, seal_one, single},
    response::Response,
    transmission::encode_header,
    version::Version,
};

/// Bytes of a correlation id as short string, in front of the inner box.
const CORRELATION_BYTES: usize = 1 + ID_BYTES;

/// What the answer to a client without hello key is: nothing can be sealed for it.
const NO_KEY: ErrorCode = ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Transport(
    TransportFault::NoAuth,
)));

/// A command that came through a proxy.
pub struct Forwarded<'b> {
    /// The command, as if it had come directly; or what to answer, also through `back`.
    pub request: Result<Request<'b>, Refusal<'b>>,
    /// The way back.
    pub back: Back,
}

/// How the answer to a forwarded command reaches its sender.
pub struct Back {
    /// Of `RFWD`: for the proxy.
    relayed: CorrelationId,
    /// Of `PFWD`: for the sender.
    forwarded: CorrelationId,
    /// Between the sender and us.
    key: BoxKey,
    version: Version,
}

impl RequestReader {
    /// Opens the box of an `RFWD` whose correlation id is `correlation`. The inner transmission is
    /// opened in `room`, and covered by authorisations under this connection's session id, like
    /// every other one. Only what [`crate::command::Command::is_forwardable`] allows gets through;
    /// verify it with [`RequestReader::authorise`] like a direct command, so that the work is the
    /// same.
    ///
    /// # Errors
    /// The answer to the proxy, in clear: `CRYPTO` if a box does not open, `BLOCK` unless it holds
    /// one transmission, `CMD SYNTAX` for a malformed envelope or unknown version, `PROXY BROKER
    /// TRANSPORT NO_AUTH` if the client showed no hello key, `BLOCK` if `sealed` exceeds a block.
    pub fn open_forwarded<'b>(
        &self,
        correlation: CorrelationId,
        sealed: &[u8],
        room: &'b mut Block,
    ) -> Result<Forwarded<'b>, ErrorCode> {
        let relay_key = self.proxy_key.as_ref().ok_or(NO_KEY)?;
        let room = room.get_mut(..sealed.len()).ok_or(ErrorCode::Block)?;
        room.copy_from_slice(sealed);
        let text =
            open_box(relay_key, &correlation.nonce(), room).map_err(|_| ErrorCode::Crypto)?;
        let (forwarded, forward) = decode_relayed(text).map_err(|_| ErrorCode::SYNTAX)?;
        let version = Version::new(forward.version).ok_or(ErrorCode::SYNTAX)?;
        let shared =
            (self.hello_key.diffie_hellman(&forward.key)).map_err(|_| ErrorCode::Crypto)?;
        let key = BoxKey::from_shared(&shared);
        let start = text.len() - forward.sealed.len();
        let inner = open_box(&key, &forwarded.nonce(), &mut text[start..])
            .map_err(|_| ErrorCode::Crypto)?;
        let inner = single(inner).map_err(|_| ErrorCode::Block)?;
        let request = Request::decode(inner, version, &self.session).and_then(|request| {
            if request.command().is_forwardable() {
                Ok(request)
            } else {
                Err(Refusal {
                    correlation: Some(request.correlation()),
                    entity: request.entity(),
                    code: ErrorCode::PROHIBITED,
                })
            }
        });
        Ok(Forwarded {
            request,
            back: Back {
                relayed: correlation,
                forwarded,
                key,
                version,
            },
        })
    }
}

impl ReplyWriter {
    /// Adds an `RRES` with the answer to a forwarded command. Takes nearly a whole block, whatever
    /// the answer is.
    ///
    /// # Errors
    /// As [`ReplyWriter::push`].
    pub fn push_forwarded(
        &self,
        block: &mut OutgoingBlock,
        back: &Back,
        correlation: Option<&CorrelationId>,
        entity: Entity<'_>,
        response: &Response<'_>,
    ) -> Result<(), BlockFull> {
        // Without this key no command was opened.
        let Some(relay_key) = &self.proxy_key else {
            return self.push(
                block,
                Some(&back.relayed),
                Entity::None,
                &Response::Error(NO_KEY),
            );
        };
        block.push_with(|room| {
            let mut writer = Writer::new(room);
            super::reply::start(&mut writer, Some(&back.relayed), Entity::None);
            writer.bytes(b"RRES ");
            let sealed = writer
                .reserve(TAG_BYTES + CORRELATION_BYTES + FORWARDED_BOX_BYTES)
                .ok_or(BlockFull)?;
            let (tag, text) = sealed
                .split_first_chunk_mut::<TAG_BYTES>()
                .ok_or(BlockFull)?;
            let (envelope, inner) = text.split_at_mut(CORRELATION_BYTES);
            back.forwarded.encode(&mut Writer::new(envelope));
            let answer = |room: &mut [u8]| {
                let mut writer = Writer::new(room);
                writer.u8(0);
                encode_header(&mut writer, correlation, entity);
                response.encode(&mut writer, back.version);
                writer.finish()
            };
            seal_one(&back.key, &back.forwarded.nonce().reversed(), inner, answer)
                .map_err(|NoRoom| BlockFull)?;
            *tag = relay_key.seal_in_place(&back.relayed.nonce().reversed(), text);
            writer.finish().map_err(|_| BlockFull)
        })
    }
}

/// The key of forwarding boxes on a connection: both sides agree on it from their hello keys.
pub(super) fn relay_keys(shared: &x25519::SharedSecret) -> (BoxKey, BoxKey) {
    (BoxKey::from_shared(shared), BoxKey::from_shared(shared))
}
