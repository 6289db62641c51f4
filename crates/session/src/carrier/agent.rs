//! The default carrier: SMP queues, through `junto-agent`.

use std::sync::Arc;

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, FuturesOrdered},
};
use junto_agent::{self as agent, Agent, AgentError};

use super::{
    Carriage, Carrier, CarrierError, ConnectionId, Event, Events, Lines, MessageId, RequestId, Tag,
    TroubleKind,
};

/// An opened agent as a carrier. The `relay` of each call is a server address (`smp://…`).
///
/// Sessions acknowledge by themselves, so the agent's receipts may be switched off
/// (`AgentConfig::receipts`).
#[must_use]
pub fn carriage(agent: Agent, events: agent::Events) -> Carriage {
    Carriage {
        carrier: Arc::new(AgentCarrier { agent }),
        events: translate(events),
    }
}

struct AgentCarrier {
    agent: Agent,
}

fn translate(events: agent::Events) -> Events {
    stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        let both = [irregularity_of(&event), event_of(event)];
        Some((stream::iter(both.into_iter().flatten()), events))
    })
    .flatten()
    .boxed()
}

/// What an event of the agent tells of something lost or altered; comes before what [`event_of`] makes of it.
#[must_use]
pub fn irregularity_of(event: &agent::Event) -> Option<Event> {
    let (connection, what) = match event {
        agent::Event::Message {
            connection,
            integrity,
            ..
        }
        | agent::Event::Irregular {
            connection,
            integrity,
        } => (connection, verdict(*integrity)?),
        agent::Event::Unreadable { connection } => {
            (connection, "sent something that cannot be read".to_owned())
        }
        agent::Event::TakenOver { connection, relay } => {
            let what = format!(
                "is read by somebody else, too: on {relay} another connection with this profile's keys takes what it sends (a copy of the profile?)"
            );
            (connection, what)
        }
        agent::Event::RatchetBroken { connection } => {
            (connection, "encrypts with other keys than ours".to_owned())
        }
        agent::Event::Request { .. }
        | agent::Event::Opened { .. }
        | agent::Event::Connected { .. }
        | agent::Event::Delivered { .. }
        | agent::Event::Renewed { .. }
        | agent::Event::Synchronised { .. }
        | agent::Event::Rotated { .. }
        | agent::Event::RotationFailed { .. }
        | agent::Event::AddressMoved { .. }
        | agent::Event::RelayDown { .. }
        | agent::Event::RelayUp { .. }
        | agent::Event::Failed { .. } => return None,
    };
    Some(Event::Irregular {
        connection: connection_of(*connection),
        what,
    })
}

/// What the hash chain says, to follow the name of the peer.
fn verdict(integrity: agent::Integrity) -> Option<String> {
    Some(match integrity {
        agent::Integrity::Ok => return None,
        agent::Integrity::Skipped { from, to } => {
            let count = (to - from).saturating_add(1);
            format!("sent {count} messages that did not arrive ({from} to {to} by its count)")
        }
        agent::Integrity::Late { id } => {
            format!("sent message {id}, which counted as missing and came after all")
        }
        agent::Integrity::BadId { id } => {
            format!("went back to message {id}: it may use an old copy of its profile")
        }
        agent::Integrity::Duplicate => {
            "sent another message in the place of the last one".to_owned()
        }
        agent::Integrity::BadHash => {
            "sent a message that follows another one than what arrived before it".to_owned()
        }
    })
}

/// What an event of the agent is to a session; `None` if it is nothing to it.
#[must_use]
pub fn event_of(event: agent::Event) -> Option<Event> {
    Some(match event {
        agent::Event::Request { id, tag, info } => Event::Request {
            id: request_of(id),
            tag: Tag(*tag.as_bytes()),
            info,
        },
        agent::Event::Connected {
            connection,
            tag,
            info,
            binding,
        } => Event::Connected {
            connection: connection_of(connection),
            tag: Tag(*tag.as_bytes()),
            info,
            binding,
        },
        // What the hash chain says changes nothing: the session counts by itself, and makes up for what is
        // missing. Its user is told by `irregularity_of`.
        agent::Event::Message {
            connection,
            id,
            body,
            ..
        } => Event::Message {
            connection: connection_of(connection),
            id: MessageId(id.number()),
            body: Bytes::from(body),
        },
        agent::Event::Failed {
            connection,
            tag,
            error,
        } => Event::Failed {
            connection: Some(connection_of(connection)),
            tag: Tag(*tag.as_bytes()),
            reason: error.to_string(),
        },
        agent::Event::RelayDown { relay, trouble } => Event::Relay {
            relay: relay.to_string(),
            trouble: Some(trouble.to_string()),
        },
        agent::Event::RelayUp { relay } => Event::Relay {
            relay: relay.to_string(),
            trouble: None,
        },
        // All that the parties have said rests on the keys that the connection began with: who shares the new
        // ones nobody has signed. Better to have no connection than one with somebody else.
        agent::Event::Renewed {
            connection, tag, ..
        } => Event::Failed {
            connection: Some(connection_of(connection)),
            tag: Tag(*tag.as_bytes()),
            reason: "the peer has other keys than when the session was formed".to_owned(),
        },
        agent::Event::Delivered { .. }
        | agent::Event::Unreadable { .. }
        | agent::Event::Irregular { .. }
        | agent::Event::RatchetBroken { .. }
        | agent::Event::Synchronised { .. }
        | agent::Event::Rotated { .. }
        | agent::Event::RotationFailed { .. }
        | agent::Event::TakenOver { .. }
        | agent::Event::AddressMoved { .. }
        | agent::Event::Opened { .. } => return None,
    })
}

/// The agent's identifiers have 16 bytes; ours leave room for other carriers.
fn widen(id: &[u8; 16]) -> [u8; 32] {
    let mut wide = [0; 32];
    wide[..16].copy_from_slice(id);
    wide
}

fn narrow(id: &[u8; 32]) -> [u8; 16] {
    let mut narrow = [0; 16];
    narrow.copy_from_slice(&id[..16]);
    narrow
}

/// A session's name for a connection of the agent.
#[must_use]
pub fn connection_of(id: agent::ConnectionId) -> ConnectionId {
    ConnectionId(widen(id.as_bytes()))
}

/// The agent's name for it.
#[must_use]
pub fn agents_connection(id: ConnectionId) -> agent::ConnectionId {
    agent::ConnectionId::new(narrow(&id.0))
}

fn request_of(id: agent::RequestId) -> RequestId {
    RequestId(widen(id.as_bytes()))
}

/// The agent's name for a request.
#[must_use]
pub fn agents_request(id: RequestId) -> agent::RequestId {
    agent::RequestId::new(narrow(&id.0))
}

/// The agent's names for what it does for some sessions.
#[must_use]
pub fn agents_lines(lines: &Lines) -> agent::Lines {
    let tags = lines.tags.iter().map(|tag| agent::Tag::new(tag.0));
    let connections = lines.connections.iter().copied();
    agent::Lines {
        addresses: tags.collect(),
        connections: connections.map(agents_connection).collect(),
    }
}

fn failed(error: AgentError) -> CarrierError {
    // The agent waits for relays by itself. What it reports is final, except a full or missing
    // disk, and a refusal.
    let kind = match &error {
        AgentError::Store(_) => TroubleKind::Storage,
        AgentError::Relay { .. } => TroubleKind::Refused,
        AgentError::Misuse(_)
        | AgentError::Link(_)
        | AgentError::Connection(_)
        | AgentError::Closed
        | AgentError::Defect(_) => TroubleKind::Final,
    };
    CarrierError {
        kind,
        source: Box::new(error),
    }
}

fn invalid(what: &'static str) -> CarrierError {
    CarrierError {
        kind: TroubleKind::Final,
        source: what.into(),
    }
}

fn server(relay: &str) -> Result<junto_smp::address::ServerAddress, CarrierError> {
    relay
        .parse()
        .map_err(|_| invalid("not the address of a relay (smp://…)"))
}

impl Carrier for AgentCarrier {
    fn body_bytes(&self) -> usize {
        agent::MAX_BODY
    }

    fn create_address<'a>(
        &'a self,
        tag: Tag,
        relay: &'a str,
    ) -> BoxFuture<'a, Result<String, CarrierError>> {
        async move {
            let relay = server(relay)?;
            let link = self
                .agent
                .create_address(agent::Tag::new(tag.0), &relay)
                .await;
            link.map(|link| link.to_string()).map_err(failed)
        }
        .boxed()
    }

    fn close_address(&self, tag: Tag) -> BoxFuture<'_, Result<(), CarrierError>> {
        async move {
            self.agent
                .close_address(agent::Tag::new(tag.0))
                .await
                .map_err(failed)
        }
        .boxed()
    }

    fn create_invitation<'a>(
        &'a self,
        tag: Tag,
        relay: &'a str,
    ) -> BoxFuture<'a, Result<(ConnectionId, String), CarrierError>> {
        async move {
            let relay = server(relay)?;
            let (id, link) = self
                .agent
                .create_invitation(agent::Tag::new(tag.0), &relay, &[])
                .await
                .map_err(failed)?;
            Ok((connection_of(id), link.to_string()))
        }
        .boxed()
    }

    fn join<'a>(
        &'a self,
        tag: Tag,
        link: &'a str,
        relay: &'a str,
        info: &'a [u8],
    ) -> BoxFuture<'a, Result<ConnectionId, CarrierError>> {
        async move {
            let relay = server(relay)?;
            let link: agent::Link = link.parse().map_err(|_| invalid("not a connection link"))?;
            let id = self
                .agent
                .join(agent::Tag::new(tag.0), &link, &relay, info)
                .await
                .map_err(failed)?;
            Ok(connection_of(id))
        }
        .boxed()
    }

    fn accept<'a>(
        &'a self,
        request: RequestId,
        relay: &'a str,
        info: &'a [u8],
    ) -> BoxFuture<'a, Result<ConnectionId, CarrierError>> {
        async move {
            let relay = server(relay)?;
            let request = agents_request(request);
            let id = self.agent.accept(request, &relay, info).await;
            id.map(connection_of).map_err(failed)
        }
        .boxed()
    }

    fn reject(&self, request: RequestId) -> BoxFuture<'_, Result<(), CarrierError>> {
        async move {
            self.agent
                .reject(agents_request(request))
                .await
                .map_err(failed)
        }
        .boxed()
    }

    fn send(
        &self,
        id: ConnectionId,
        bodies: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<(), CarrierError>> {
        async move {
            // All at once, so that the agent stores them in one commit; in order, as the first poll
            // of each goes in order and the agent's queue is fair.
            let sends: FuturesOrdered<_> = bodies
                .iter()
                .map(|body| self.agent.send(agents_connection(id), body))
                .collect();
            sends
                .try_for_each(|_| async { Ok(()) })
                .await
                .map_err(failed)
        }
        .boxed()
    }

    fn ack(&self, id: ConnectionId, message: MessageId) -> BoxFuture<'_, Result<(), CarrierError>> {
        async move {
            self.agent
                .ack(agents_connection(id), agent::MessageId::new(message.0))
                .await
                .map_err(failed)
        }
        .boxed()
    }

    fn settle<'a>(&'a self, lines: &'a Lines) -> BoxFuture<'a, Result<(), CarrierError>> {
        let lines = agents_lines(lines);
        async move { self.agent.settle(lines).await.map_err(failed) }.boxed()
    }

    fn delete(&self, id: ConnectionId) -> BoxFuture<'_, Result<(), CarrierError>> {
        async move {
            self.agent
                .delete(agents_connection(id))
                .await
                .map_err(failed)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hash_chain_says_reaches_the_session_beside_the_message() {
        let connection = agent::ConnectionId::new([1; 16]);
        let message = |integrity| agent::Event::Message {
            connection,
            id: agent::MessageId::new(4),
            integrity,
            body: Vec::new(),
        };
        assert!(irregularity_of(&message(agent::Integrity::Ok)).is_none());
        let skipped = message(agent::Integrity::Skipped { from: 2, to: 3 });
        let Some(Event::Irregular {
            connection: at,
            what,
        }) = irregularity_of(&skipped)
        else {
            panic!("a silent loss")
        };
        assert_eq!(at, connection_of(connection));
        assert!(what.contains("2 messages"), "{what}");
        assert!(matches!(event_of(skipped), Some(Event::Message { .. })));
        let unreadable = agent::Event::Unreadable { connection };
        assert!(irregularity_of(&unreadable).is_some());
    }

    #[test]
    fn a_connection_with_other_keys_is_lost_to_a_session() {
        let (id, tag) = ([1; 16], [2; 32]);
        let renewed = agent::Event::Renewed {
            connection: agent::ConnectionId::new(id),
            tag: agent::Tag::new(tag),
            binding: [3; 32],
        };
        let Some(Event::Failed {
            connection, tag, ..
        }) = event_of(renewed)
        else {
            panic!("the session goes on")
        };
        assert_eq!(
            (connection, tag),
            (Some(ConnectionId(widen(&id))), Tag([2; 32]))
        );
    }
}
