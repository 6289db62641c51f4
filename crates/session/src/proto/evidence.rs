//! Proof of misbehaviour that anyone can check who knows the roster (`docs/spec/session.md` §7).

use junto_crypto::ed25519::{Signature, VerifyingKey};

use super::{
    party::PartyIndex,
    record::EchoEntry,
    roster::{FormationId, Roster, SessionId},
    statement::{self, InstanceId, Round, Slot},
    wire::{Malformed, Put, Reader},
};

/// Two contradictory statements signed by one party, or one that a party signed without basis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The host signed two rosters for one link.
    SplitRoster {
        /// One session id and the host's signature over it.
        first: (SessionId, Signature),
        /// Another.
        second: (SessionId, Signature),
    },
    /// A party signed two payloads for one broadcast.
    Equivocation {
        /// Whose, and where.
        slot: Slot,
        /// Hash of one payload and the signature over it.
        first: ([u8; 32], Signature),
        /// Another.
        second: ([u8; 32], Signature),
    },
    /// A party signed an echo that holds a signature nobody made.
    FalseEcho {
        /// The echoer (as `sender`), and where.
        slot: Slot,
        /// Everything it claims to have received.
        entries: Vec<EchoEntry>,
        /// Its signature over that.
        signature: Signature,
        /// Which entry is false.
        entry: u8,
    },
    /// A party gave two reasons for its end of one execution: it signs an abort once, together with storing
    /// that the execution is over.
    TwoAborts {
        /// The session.
        session: SessionId,
        /// The execution.
        instance: InstanceId,
        /// Who.
        author: PartyIndex,
        /// SHA-256 of one reason and the signature over it.
        first: ([u8; 32], Signature),
        /// Another.
        second: ([u8; 32], Signature),
    },
}

/// What evidence is judged against.
#[derive(Clone, Copy)]
pub struct Court<'a> {
    /// The formation the session came from.
    pub formation: &'a FormationId,
    /// The host's session key, from the link.
    pub host: &'a VerifyingKey,
    /// The roster, once there is one.
    pub roster: Option<&'a Roster>,
}

/// Whom evidence convicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Culprit {
    /// The host, before its index is known.
    Host,
    /// The party of that index.
    Party(PartyIndex),
}

impl Evidence {
    /// Whom the evidence convicts, if it is sound.
    #[must_use]
    pub fn convict(&self, court: &Court<'_>) -> Option<Culprit> {
        match self {
            Self::SplitRoster { first, second } => {
                let signed = |(id, signature): &(SessionId, Signature)| {
                    court
                        .host
                        .verify(&statement::offer(court.formation, id), signature)
                        .is_ok()
                };
                (first.0 != second.0 && signed(first) && signed(second)).then(|| court.host())
            }
            Self::Equivocation {
                slot,
                first,
                second,
            } => {
                let roster = court.roster_of(&slot.session)?;
                let signed = |(payload, signature): &([u8; 32], Signature)| {
                    roster.verify(slot.sender, &slot.broadcast(payload), signature)
                };
                (first.0 != second.0 && signed(first) && signed(second))
                    .then_some(Culprit::Party(slot.sender))
            }
            Self::FalseEcho {
                slot,
                entries,
                signature,
                entry,
            } => {
                let roster = court.roster_of(&slot.session)?;
                let bytes = EchoEntry::encode_all(entries);
                if !roster.verify(slot.sender, &slot.echo(&bytes), signature) {
                    return None;
                }
                let entry = entries.get(usize::from(*entry))?;
                let claimed = Slot {
                    sender: entry.sender,
                    ..*slot
                };
                let sound = roster.verify(
                    entry.sender,
                    &claimed.broadcast(&entry.payload),
                    &entry.signature,
                );
                (!sound).then_some(Culprit::Party(slot.sender))
            }
            Self::TwoAborts {
                session,
                instance,
                author,
                first,
                second,
            } => {
                let roster = court.roster_of(session)?;
                let signed = |(reason, signature): &([u8; 32], Signature)| {
                    let statement = statement::abort(session, instance, *author, reason);
                    roster.verify(*author, &statement, signature)
                };
                (first.0 != second.0 && signed(first) && signed(second))
                    .then_some(Culprit::Party(*author))
            }
        }
    }

    pub(crate) fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::SplitRoster { first, second } => {
                bytes.put_u8(0);
                for (id, signature) in [first, second] {
                    bytes.put(&id.0).put(signature.as_bytes());
                }
            }
            Self::Equivocation {
                slot,
                first,
                second,
            } => {
                bytes.put_u8(1);
                put_slot(bytes, slot);
                for (payload, signature) in [first, second] {
                    bytes.put(payload).put(signature.as_bytes());
                }
            }
            Self::FalseEcho {
                slot,
                entries,
                signature,
                entry,
            } => {
                bytes.put_u8(2);
                put_slot(bytes, slot);
                bytes
                    .put(signature.as_bytes())
                    .put_u8(*entry)
                    .put(&EchoEntry::encode_all(entries));
            }
            Self::TwoAborts {
                session,
                instance,
                author,
                first,
                second,
            } => {
                bytes
                    .put_u8(3)
                    .put(&session.0)
                    .put(&instance.0)
                    .put_u8(author.as_u8());
                for (reason, signature) in [first, second] {
                    bytes.put(reason).put(signature.as_bytes());
                }
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u8()? {
            0 => {
                let mut pair = || Ok((SessionId(reader.array()?), reader.signature()?));
                Ok(Self::SplitRoster {
                    first: pair()?,
                    second: pair()?,
                })
            }
            1 => {
                let slot = read_slot(reader)?;
                let mut pair = || Ok((reader.array()?, reader.signature()?));
                Ok(Self::Equivocation {
                    slot,
                    first: pair()?,
                    second: pair()?,
                })
            }
            2 => Ok(Self::FalseEcho {
                slot: read_slot(reader)?,
                signature: reader.signature()?,
                entry: reader.u8()?,
                entries: EchoEntry::read_all(reader)?,
            }),
            3 => Ok(Self::TwoAborts {
                session: SessionId(reader.array()?),
                instance: InstanceId(reader.array()?),
                author: PartyIndex::decode(reader.u8()?)?,
                first: (reader.array()?, reader.signature()?),
                second: (reader.array()?, reader.signature()?),
            }),
            _ => Err(reader.malformed()),
        }
    }

    /// The bytes of this evidence, to hand to somebody else.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        bytes
    }

    /// Reads what [`Evidence::encode`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("evidence", bytes);
        let evidence = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(evidence)
    }
}

impl<'a> Court<'a> {
    fn host(&self) -> Culprit {
        self.roster
            .and_then(|roster| roster.index_of(self.host))
            .map_or(Culprit::Host, Culprit::Party)
    }

    fn roster_of(&self, session: &SessionId) -> Option<&'a Roster> {
        self.roster
            .filter(|roster| roster.session_id(self.formation) == *session)
    }
}

fn put_slot(bytes: &mut Vec<u8>, slot: &Slot) {
    bytes
        .put(&slot.session.0)
        .put(&slot.instance.0)
        .put_u32(slot.round.0)
        .put_u8(slot.sender.as_u8());
}

fn read_slot(reader: &mut Reader<'_>) -> Result<Slot, Malformed> {
    Ok(Slot {
        session: SessionId(reader.array()?),
        instance: InstanceId(reader.array()?),
        round: Round(reader.u32()?),
        sender: PartyIndex::decode(reader.u8()?)?,
    })
}
