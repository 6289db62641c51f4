//! What replicas of a group ask each other, as bytes.
//!
//! ```text
//! vote     = term u64 · leader (32) · committed u8
//! place    = term u64 · leader (32) · index u64
//! entry    = place · 0 | place · 1 · length u32 · entry of the realm | place · 2 · count u8 · name (32)*
//! append   = vote · place? · place? · count u32 · entry*          after which; committed up to which
//! election = vote · place?                                        the candidate's last
//! snapshot = vote · place? · place? · count u8 · name* · length u8 · id · digest of the log and realm
//! held     = place
//! vouch    = place
//! ```
//!
//! Something that may be absent is 0, or 1 and then itself.

use std::{collections::BTreeSet, sync::Arc};

use junto_crypto::{Zeroizing, ed25519::Signature};
use junto_vault::{Entry as RealmEntry, REPLICAS_MAX};
use openraft::{
    CommittedLeaderId, Entry, EntryPayload, Membership, Snapshot, SnapshotMeta, StoredMembership,
    Vote,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};

use crate::{
    LogId, Name, Proposal, Types,
    log::Head,
    read::{Malformed, Reader},
};

/// Longest name of a snapshot: a number of an entry.
const SNAPSHOT_ID_BYTES_MAX: usize = 20;

type Bytes = Zeroizing<Vec<u8>>;

/// A question of one replica to another.
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Name>),
    Snapshot(Vote<Name>, Snapshot<Types>),
    Held(LogId),
    /// For what the realm said by that entry.
    Vouch(LogId),
}

/// What there is to say to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Response {
    Append(AppendEntriesResponse<Name>),
    Vote(VoteResponse<Name>),
    Snapshot(SnapshotResponse<Name>),
    Held(Head),
    /// The digest of the log up to the entry, and the signature under that and the word.
    Vouched(Head, Signature),
}

pub(crate) const APPEND: u8 = 1;
pub(crate) const VOTE: u8 = 2;
pub(crate) const SNAPSHOT: u8 = 3;
pub(crate) const HELD: u8 = 4;
pub(crate) const VOUCH: u8 = 5;

/// Most bytes of an answer to another replica.
pub(crate) const RESPONSE_BYTES_MAX: usize = 1 + 2 * (1 + 8 + 32 + 8) + 1;

impl Request {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Append(_) => APPEND,
            Self::Vote(_) => VOTE,
            Self::Snapshot(..) => SNAPSHOT,
            Self::Held(_) => HELD,
            Self::Vouch(_) => VOUCH,
        }
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = Zeroizing::new(Vec::with_capacity(self.room()));
        match self {
            Self::Append(rpc) => {
                put_vote(&mut out, &rpc.vote);
                put_option(&mut out, rpc.prev_log_id.as_ref(), put_place);
                put_option(&mut out, rpc.leader_commit.as_ref(), put_place);
                let count = u32::try_from(rpc.entries.len()).unwrap_or(u32::MAX);
                out.extend_from_slice(&count.to_be_bytes());
                rpc.entries
                    .iter()
                    .for_each(|entry| put_entry(&mut out, entry));
            }
            Self::Vote(rpc) => {
                put_vote(&mut out, &rpc.vote);
                put_option(&mut out, rpc.last_log_id.as_ref(), put_place);
            }
            Self::Snapshot(vote, snapshot) => {
                put_vote(&mut out, vote);
                let meta = &snapshot.meta;
                put_option(&mut out, meta.last_log_id.as_ref(), put_place);
                put_option(&mut out, meta.last_membership.log_id().as_ref(), put_place);
                put_names(&mut out, meta.last_membership.membership());
                out.push(u8::try_from(meta.snapshot_id.len()).unwrap_or(u8::MAX));
                out.extend_from_slice(meta.snapshot_id.as_bytes());
                out.extend_from_slice(&snapshot.snapshot);
            }
            Self::Held(place) | Self::Vouch(place) => put_place(&mut out, place),
        }
        out
    }

    /// Enough: a buffer that grows leaves copies of what is in it.
    fn room(&self) -> usize {
        1024 + match self {
            Self::Append(rpc) => rpc.entries.iter().map(entry_room).sum(),
            Self::Snapshot(_, snapshot) => snapshot.snapshot.len(),
            Self::Vote(_) | Self::Held(_) | Self::Vouch(_) => 0,
        }
    }

    pub(crate) fn from_bytes(kind: u8, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let request = match kind {
            APPEND => Self::Append(AppendEntriesRequest {
                vote: vote(&mut reader)?,
                prev_log_id: reader.option(place)?,
                leader_commit: reader.option(place)?,
                entries: {
                    let count = reader.u32()?;
                    (0..count)
                        .map(|_| entry(&mut reader))
                        .collect::<Result<_, _>>()?
                },
            }),
            VOTE => Self::Vote(VoteRequest {
                vote: vote(&mut reader)?,
                last_log_id: reader.option(place)?,
            }),
            SNAPSHOT => return snapshot(reader),
            HELD => Self::Held(place(&mut reader)?),
            VOUCH => Self::Vouch(place(&mut reader)?),
            _ => return Err(Malformed),
        };
        reader.finish()?;
        Ok(request)
    }
}

fn snapshot(mut reader: Reader<'_>) -> Result<Request, Malformed> {
    let vote = vote(&mut reader)?;
    let (last, at) = (reader.option(place)?, reader.option(place)?);
    let members = names(&mut reader)?;
    let length = usize::from(reader.u8()?);
    if length > SNAPSHOT_ID_BYTES_MAX {
        return Err(Malformed);
    }
    let id = core::str::from_utf8(reader.bytes(length)?).map_err(|_| Malformed)?;
    let meta = SnapshotMeta {
        last_log_id: last,
        last_membership: StoredMembership::new(at, members),
        snapshot_id: id.to_owned(),
    };
    let snapshot = Box::new(Zeroizing::new(reader.rest().to_vec()));
    Ok(Request::Snapshot(vote, Snapshot { meta, snapshot }))
}

impl Response {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Append(AppendEntriesResponse::Success) => out.push(0),
            Self::Append(AppendEntriesResponse::PartialSuccess(upto)) => {
                out.push(1);
                put_option(&mut out, upto.as_ref(), put_place);
            }
            Self::Append(AppendEntriesResponse::Conflict) => out.push(2),
            Self::Append(AppendEntriesResponse::HigherVote(vote)) => {
                out.push(3);
                put_vote(&mut out, vote);
            }
            Self::Vote(answer) => {
                put_vote(&mut out, &answer.vote);
                out.push(u8::from(answer.vote_granted));
                put_option(&mut out, answer.last_log_id.as_ref(), put_place);
            }
            Self::Snapshot(answer) => put_vote(&mut out, &answer.vote),
            Self::Held(Head(head)) => out.extend_from_slice(head),
            Self::Vouched(Head(head), signature) => {
                out.extend_from_slice(head);
                out.extend_from_slice(signature.as_bytes());
            }
        }
        out
    }

    /// The answer to a question of that kind.
    pub(crate) fn from_bytes(kind: u8, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let response = match kind {
            APPEND => Self::Append(match reader.u8()? {
                0 => AppendEntriesResponse::Success,
                1 => AppendEntriesResponse::PartialSuccess(reader.option(place)?),
                2 => AppendEntriesResponse::Conflict,
                3 => AppendEntriesResponse::HigherVote(vote(&mut reader)?),
                _ => return Err(Malformed),
            }),
            VOTE => Self::Vote(VoteResponse {
                vote: vote(&mut reader)?,
                vote_granted: reader.flag()?,
                last_log_id: reader.option(place)?,
            }),
            SNAPSHOT => Self::Snapshot(SnapshotResponse::new(vote(&mut reader)?)),
            HELD => Self::Held(Head(reader.array()?)),
            VOUCH => Self::Vouched(Head(reader.array()?), Signature(reader.array()?)),
            _ => return Err(Malformed),
        };
        reader.finish()?;
        Ok(response)
    }
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_vote(out: &mut Vec<u8>, vote: &Vote<Name>) {
    out.extend_from_slice(&vote.leader_id.term.to_be_bytes());
    out.extend_from_slice(&vote.leader_id.node_id.0);
    out.push(u8::from(vote.committed));
}

fn vote(reader: &mut Reader<'_>) -> Result<Vote<Name>, Malformed> {
    let (term, leader) = (reader.u64()?, Name(reader.array()?));
    Ok(match reader.flag()? {
        true => Vote::new_committed(term, leader),
        false => Vote::new(term, leader),
    })
}

fn put_place(out: &mut Vec<u8>, place: &LogId) {
    out.extend_from_slice(&place.leader_id.term.to_be_bytes());
    out.extend_from_slice(&place.leader_id.node_id.0);
    out.extend_from_slice(&place.index.to_be_bytes());
}

fn place(reader: &mut Reader<'_>) -> Result<LogId, Malformed> {
    let (term, leader) = (reader.u64()?, Name(reader.array()?));
    let index = reader.u64()?;
    // The log counts on from it.
    if index == u64::MAX {
        return Err(Malformed);
    }
    Ok(LogId::new(CommittedLeaderId::new(term, leader), index))
}

fn put_names(out: &mut Vec<u8>, members: &Membership<Name, ()>) {
    let names: Vec<Name> = members.voter_ids().collect();
    // At most [`REPLICAS_MAX`].
    out.push(u8::try_from(names.len()).unwrap_or(u8::MAX));
    names.iter().for_each(|name| out.extend_from_slice(&name.0));
}

/// A group, as it is set once; or none yet.
fn names(reader: &mut Reader<'_>) -> Result<Membership<Name, ()>, Malformed> {
    let count = reader.u8()?;
    if count > REPLICAS_MAX {
        return Err(Malformed);
    }
    let mut names = BTreeSet::<Name>::new();
    for _ in 0..count {
        let name = Name(reader.array()?);
        if names.last().is_some_and(|last| *last >= name) {
            return Err(Malformed);
        }
        names.insert(name);
    }
    Ok(match names.is_empty() {
        true => Membership::default(),
        false => Membership::new(vec![names.clone()], names),
    })
}

fn entry_room(entry: &Entry<Types>) -> usize {
    64 + match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(Proposal(bytes)) => bytes.len(),
        EntryPayload::Membership(_) => 32 * usize::from(REPLICAS_MAX),
    }
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry<Types>) {
    put_place(out, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => out.push(0),
        EntryPayload::Normal(Proposal(bytes)) => {
            out.push(1);
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        EntryPayload::Membership(members) => {
            out.push(2);
            put_names(out, members);
        }
    }
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry<Types>, Malformed> {
    let log_id = place(reader)?;
    let payload = match reader.u8()? {
        0 => EntryPayload::Blank,
        1 => {
            let length = usize::try_from(reader.u32()?).map_err(|_| Malformed)?;
            if length > RealmEntry::BYTES_MAX {
                return Err(Malformed);
            }
            let bytes = Zeroizing::new(reader.bytes(length)?.to_vec());
            EntryPayload::Normal(Proposal(Arc::new(bytes)))
        }
        2 => EntryPayload::Membership(names(reader)?),
        _ => return Err(Malformed),
    };
    Ok(Entry { log_id, payload })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    fn at(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(3, Name([2; 32])), index)
    }

    /// One of every kind, with everything in it.
    pub(crate) fn requests() -> Vec<Request> {
        let names = BTreeSet::from([Name([1; 32]), Name([2; 32])]);
        let members = Membership::new(vec![names.clone()], names);
        let normal =
            |bytes: &[u8]| EntryPayload::Normal(Proposal(Arc::new(Zeroizing::new(bytes.to_vec()))));
        let payloads = [
            EntryPayload::Blank,
            normal(b"an entry"),
            EntryPayload::Membership(members.clone()),
        ];
        let entries = (4..).zip(payloads);
        let entries = entries.map(|(index, payload)| Entry {
            log_id: at(index),
            payload,
        });
        vec![
            Request::Append(AppendEntriesRequest {
                vote: Vote::new_committed(3, Name([2; 32])),
                prev_log_id: Some(at(3)),
                leader_commit: None,
                entries: entries.collect(),
            }),
            Request::Vote(VoteRequest::new(Vote::new(4, Name([1; 32])), Some(at(6)))),
            Request::Snapshot(
                Vote::new_committed(3, Name([2; 32])),
                Snapshot {
                    meta: SnapshotMeta {
                        last_log_id: Some(at(6)),
                        last_membership: StoredMembership::new(Some(at(1)), members),
                        snapshot_id: "6".to_owned(),
                    },
                    snapshot: Box::new(Zeroizing::new(vec![9; 40])),
                },
            ),
            Request::Held(at(6)),
            Request::Vouch(at(6)),
        ]
    }

    pub(crate) fn responses() -> Vec<(u8, Response)> {
        let vote = Vote::new(4, Name([1; 32]));
        let granted = VoteResponse::new(vote, Some(at(5)), true);
        let append = [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(at(4))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote),
        ];
        let append = append.map(|answer| (APPEND, Response::Append(answer)));
        let mut all = Vec::from(append);
        all.push((VOTE, Response::Vote(granted)));
        all.push((SNAPSHOT, Response::Snapshot(SnapshotResponse::new(vote))));
        all.push((HELD, Response::Held(Head([7; 32]))));
        let signature = Signature([8; 64]);
        all.push((VOUCH, Response::Vouched(Head([7; 32]), signature)));
        all
    }

    #[test]
    fn every_question_and_answer_has_one_encoding() {
        for request in requests() {
            let bytes = request.to_bytes();
            let read = Request::from_bytes(request.kind(), &bytes).unwrap();
            assert_eq!(*read.to_bytes(), *bytes);
            assert!(bytes.capacity() == request.room(), "it grew");
            if let (Request::Append(one), Request::Append(other)) = (&request, &read) {
                assert_eq!(format!("{one:?}"), format!("{other:?}"));
            }
            if request.kind() != SNAPSHOT {
                for at in 0..bytes.len() {
                    assert!(Request::from_bytes(request.kind(), &bytes[..at]).is_err());
                }
                let more = [&bytes[..], &[0]].concat();
                assert!(Request::from_bytes(request.kind(), &more).is_err());
            }
        }
        for (kind, response) in responses() {
            let bytes = response.to_bytes();
            assert!(bytes.len() <= RESPONSE_BYTES_MAX);
            assert_eq!(Response::from_bytes(kind, &bytes), Ok(response));
        }
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let entry = |length: usize| {
            let payload = vec![0; length];
            let request = Request::Append(AppendEntriesRequest {
                vote: Vote::new(1, Name([1; 32])),
                prev_log_id: None,
                leader_commit: None,
                entries: vec![Entry {
                    log_id: at(1),
                    payload: EntryPayload::Normal(Proposal(Arc::new(Zeroizing::new(payload)))),
                }],
            });
            Request::from_bytes(APPEND, &request.to_bytes()).is_ok()
        };
        assert!(entry(RealmEntry::BYTES_MAX));
        assert!(!entry(RealmEntry::BYTES_MAX + 1));
        // Many entries are promised, and none are there.
        let empty = Request::Append(AppendEntriesRequest {
            vote: Vote::new(1, Name([1; 32])),
            prev_log_id: None,
            leader_commit: None,
            entries: Vec::new(),
        });
        let mut bytes = empty.to_bytes();
        let end = bytes.len() - 4;
        bytes[end..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(Request::from_bytes(APPEND, &bytes).is_err());
        assert!(Request::from_bytes(HELD, &[0xff; 48]).is_err());
    }
}
