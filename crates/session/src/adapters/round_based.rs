//! Protocols written against `round-based` 0.4, over a session.
//!
//! Such protocols see an incoming stream and an outgoing sink and know nothing of sessions. Here
//! their broadcasts are reliable (each is echoed), their indices are ranks among the members of the
//! execution, and their execution identifier is [`crate::Execution::id`].

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt, sink, stream};
pub use round_based_04 as round_based;
use round_based_04::{Incoming, MessageDestination, MessageType, Outgoing};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Execution, Kind, Members, Mode, PartyIndex, Purpose, Session, SessionError, proto::Malformed,
};

/// Why the delivery ended.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The session, or a party in it.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A party sent something that is no message of the protocol.
    #[error("party {party} sent what is no message of this protocol")]
    Foreign {
        /// Which party.
        party: PartyIndex,
    },
    /// No message came for as long as the caller was willing to wait.
    #[error("nothing came for {waited:?}; party {quietest} sent the fewest messages")]
    Silence {
        /// How long.
        waited: Duration,
        /// Who sent the fewest messages so far: who is likely to be missing.
        quietest: Members,
    },
    /// The protocol addressed a party that does not exist.
    #[error("there is no party of rank {0}")]
    NoParty(u16),
    /// Our message could not be encoded.
    #[error("a message of the protocol cannot be encoded")]
    Encoding,
}

/// What comes in.
pub type Receive<M> = Pin<Box<dyn Stream<Item = Result<Incoming<M>, DeliveryError>> + Send>>;
/// What goes out.
pub type Give<M> = Pin<Box<dyn Sink<Outgoing<M>, Error = DeliveryError> + Send>>;

/// A run of a protocol: its delivery, and the execution behind it.
pub struct Run<M> {
    /// For `round_based::MpcParty::connected`.
    pub delivery: (Receive<M>, Give<M>),
    /// To be finished or aborted by the caller when the protocol has ended.
    pub execution: Execution,
    /// Our index in the protocol.
    pub index: u16,
    /// How many parties it has.
    pub parties: u16,
}

impl Session {
    /// Opens an execution among all parties for a protocol over `round-based` 0.4. `patience`
    /// bounds how long it waits for any next message.
    ///
    /// # Errors
    /// As [`Session::execution`].
    pub async fn round_based<M>(
        &self,
        label: &str,
        patience: Duration,
    ) -> Result<Run<M>, SessionError>
    where
        M: Serialize + DeserializeOwned + Send + 'static,
    {
        self.round_based_among(label, self.everybody(), patience)
            .await
    }

    /// As [`Session::round_based`], among some parties.
    ///
    /// # Errors
    /// As [`Session::execution_as`].
    pub async fn round_based_among<M>(
        &self,
        label: &str,
        members: Members,
        patience: Duration,
    ) -> Result<Run<M>, SessionError>
    where
        M: Serialize + DeserializeOwned + Send + 'static,
    {
        let execution = self
            .execution_as(Purpose {
                label: label.to_owned(),
                members,
                mode: Mode::Messages,
            })
            .await?;
        let delivery = (
            receive(execution.clone(), patience),
            send(execution.clone()),
        );
        Ok(Run {
            delivery,
            index: rank(members, self.me()),
            parties: u16::try_from(members.len()).unwrap_or(u16::MAX),
            execution,
        })
    }
}

fn rank(members: Members, party: PartyIndex) -> u16 {
    u16::try_from(members.rank(party)).unwrap_or(u16::MAX)
}

fn receive<M>(execution: Execution, patience: Duration) -> Receive<M>
where
    M: DeserializeOwned + Send + 'static,
{
    struct Inbox {
        execution: Execution,
        heard: BTreeMap<PartyIndex, u64>,
        next_id: u64,
        ended: bool,
    }
    let inbox = Inbox {
        heard: execution.others().iter().map(|party| (party, 0)).collect(),
        execution,
        next_id: 0,
        ended: false,
    };
    stream::unfold(inbox, move |mut inbox| async move {
        if inbox.ended {
            return None;
        }
        let item = match inbox.execution.next(patience).await {
            Ok(incoming) => {
                if let Some(heard) = inbox.heard.get_mut(&incoming.sender) {
                    *heard += 1;
                }
                let id = inbox.next_id;
                inbox.next_id += 1;
                let members = inbox.execution.purpose().members;
                decode(&incoming.payload)
                    .map(|msg| Incoming {
                        id,
                        sender: rank(members, incoming.sender),
                        msg_type: match incoming.kind {
                            Kind::P2p => MessageType::P2P,
                            Kind::Broadcast => MessageType::Broadcast,
                        },
                        msg,
                    })
                    .map_err(|_| DeliveryError::Foreign {
                        party: incoming.sender,
                    })
            }
            Err(SessionError::Incomplete { .. }) => {
                let fewest = inbox.heard.values().min().copied().unwrap_or(0);
                let quietest = inbox.heard.iter().filter(|(_, count)| **count == fewest);
                Err(DeliveryError::Silence {
                    waited: patience,
                    quietest: quietest.map(|(&party, _)| party).collect(),
                })
            }
            Err(error) => Err(error.into()),
        };
        inbox.ended = item.is_err();
        Some((item, inbox))
    })
    .boxed()
}

fn send<M>(execution: Execution) -> Give<M>
where
    M: Serialize + Send + 'static,
{
    struct Outbox {
        execution: Execution,
        broadcasts: u32,
        letters: BTreeMap<PartyIndex, u32>,
    }
    let outbox = Outbox {
        execution,
        broadcasts: 0,
        letters: BTreeMap::new(),
    };
    Box::pin(
        sink::unfold(outbox, |mut outbox, outgoing: Outgoing<M>| async move {
            let payload = encode(&outgoing.msg)?;
            match outgoing.recipient {
                MessageDestination::AllParties => {
                    let round = outbox.broadcasts;
                    outbox.broadcasts += 1;
                    outbox.execution.broadcast(round, payload).await?;
                }
                MessageDestination::OneParty(rank) => {
                    let members = outbox.execution.purpose().members;
                    let to = members
                        .nth(usize::from(rank))
                        .ok_or(DeliveryError::NoParty(rank))?;
                    let count = outbox.letters.entry(to).or_insert(0);
                    let round = *count;
                    *count += 1;
                    outbox.execution.send(round, to, payload).await?;
                }
            }
            Ok(outbox)
        })
        .sink_map_err(|error: DeliveryError| error),
    )
}

fn encode<M: Serialize>(message: &M) -> Result<Bytes, DeliveryError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(message, &mut bytes).map_err(|_| DeliveryError::Encoding)?;
    Ok(bytes.into())
}

/// The guide, whose code runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/guides/round-based.md")]
struct Guide;

/// CBOR is not canonical, and need not be: what was signed and echoed are these bytes.
fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, Malformed> {
    let mut rest = bytes;
    let message =
        ciborium::from_reader(&mut rest).map_err(|_| Malformed("message of the protocol"))?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(Malformed("message of the protocol"))
    }
}
