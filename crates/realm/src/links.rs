//! Ways from one member of a group to the others, over TCP.
//!
//! A way keeps some channels open and asks one question at a time on each. Whatever does not come to its end in time costs
//! its channel; every question of consensus may be asked twice. There are few channels, and those of consensus are not the ones
//! on which clients' questions wait: however many of these there are, the group goes on.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use junto_crypto::{Zeroizing, ed25519::Signature, hash::sha256_of};
use openraft::error::Unreachable;
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    LogId, Name,
    channel::{self, DIGEST_BYTES},
    evidence::{Attestation, Bound, EVIDENCE_BYTES_MAX, Evidence, Verifier, proof},
    keys::{BootKey, MemberTls, no_name},
    log::Head,
    wire::{RESPONSE_BYTES_MAX, Request, Response},
};

/// Longest time until a channel stands.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Longest wait for another member's word on what it holds.
pub(crate) const HELD_MAX: Duration = Duration::from_secs(2);
/// Channels to one member on which it is asked what it holds.
const HELD_CHANNELS: usize = 5;
/// Channels to one member for consensus: an append, a vote, a snapshot.
const CONSENSUS_CHANNELS: usize = 3;
/// Channels to one member at a time. It has places for twice as many: some may be given up and not gone yet.
pub(crate) const CHANNELS_MAX: usize = HELD_CHANNELS + CONSENSUS_CHANNELS;
/// Channels to one member that are kept while nobody uses them.
const IDLE_MAX: usize = 4;
/// The first question on every channel: evidence for evidence.
pub(crate) const HELLO: u8 = 0;
/// Which end of a channel shows evidence.
pub(crate) const DIALS: u8 = 0;
pub(crate) const LISTENS: u8 = 1;

/// A member of a group for the others: its name, and where it is reached by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The public half of its key of this start.
    pub id: junto_vault::ReplicaId,
    /// `host:port`.
    pub address: String,
}

/// What a member of a group is and knows: itself, the others, what it shows and what it wants to be shown.
pub struct Membership {
    /// Its key of this start.
    pub key: BootKey,
    /// All members of the group, itself among them.
    pub members: Vec<Peer>,
    /// What it shows of its machine.
    pub attestation: Arc<dyn Attestation>,
    /// What it wants to be shown by other members.
    pub verifier: Arc<dyn Verifier>,
    /// What it wants to be shown by every member of a group before it lets a range go there; none: nothing.
    pub successors: Option<Arc<dyn Verifier>>,
}

/// One member's ends of all its channels.
pub(crate) struct Wire {
    pub(crate) me: Name,
    /// Signs what the realm says to other groups.
    pub(crate) key: BootKey,
    pub(crate) tls: MemberTls,
    pub(crate) attestation: Arc<dyn Attestation>,
    pub(crate) verifier: Arc<dyn Verifier>,
    pub(crate) successors: Option<Arc<dyn Verifier>>,
    ways: BTreeMap<Name, Arc<Way>>,
}

/// What one end of a channel shows evidence for: `exported` is known to both ends of this channel alone.
pub(crate) fn bound(exported: &[u8; 32], end: u8, about: &[u8]) -> Bound {
    let about = sha256_of(&[about]);
    Bound(sha256_of(&[
        b"junto realm evidence",
        exported,
        &[end],
        &about,
    ]))
}

pub(crate) const EXPORTER: &[u8] = b"EXPORTER-junto-realm-evidence";

impl Wire {
    pub(crate) fn new(membership: Membership) -> Result<Self, rustls::Error> {
        let Membership {
            key,
            members,
            attestation,
            verifier,
            successors,
        } = membership;
        let names: Vec<Name> = members.iter().map(|member| member.id.into()).collect();
        let tls = MemberTls::new(&key, &names)?;
        let me = Name::from(key.id());
        let others = members
            .into_iter()
            .filter(|member| Name::from(member.id) != me);
        let ways = others.map(|member| {
            let name = Name::from(member.id);
            let way = Way {
                tls: tls.to(name)?,
                address: member.address,
                idle: Mutex::default(),
                #[cfg(test)]
                made: Default::default(),
                for_held: Arc::new(Semaphore::new(HELD_CHANNELS)),
                for_consensus: Arc::new(Semaphore::new(CONSENSUS_CHANNELS)),
                attestation: attestation.clone(),
                verifier: verifier.clone(),
            };
            Ok((name, Arc::new(way)))
        });
        Ok(Self {
            me,
            key,
            ways: ways.collect::<Result<_, rustls::Error>>()?,
            tls,
            attestation,
            verifier,
            successors,
        })
    }

    /// The other members.
    pub(crate) fn others(&self) -> impl Iterator<Item = Name> {
        self.ways.keys().copied()
    }

    /// Channels that were made to others so far.
    #[cfg(test)]
    pub(crate) fn dialled(&self) -> usize {
        let made = |way: &Arc<Way>| way.made.load(std::sync::atomic::Ordering::Relaxed);
        self.ways.values().map(made).sum()
    }

    /// Asks a member, for so long at most.
    pub(crate) async fn ask(
        &self,
        to: Name,
        request: &Request,
        longest: Duration,
    ) -> Result<Response, Unreachable> {
        let asked = async {
            let way = self.ways.get(&to).ok_or(io::ErrorKind::NotFound)?;
            timeout(longest, way.ask(request)).await?
        };
        asked
            .await
            .map_err(|error: io::Error| Unreachable::new(&error))
    }

    /// What `to` holds up to that entry, once it holds it. None when it cannot be asked or cannot say.
    pub(crate) async fn held(&self, to: Name, id: LogId) -> Option<Head> {
        match self.ask(to, &Request::Held(id), HELD_MAX).await {
            Ok(Response::Held(head)) => Some(head),
            Ok(_) | Err(_) => None,
        }
    }

    /// `to`'s signature under what the realm said by that entry, and the digest of its log up to there.
    pub(crate) async fn vouch(&self, to: Name, id: LogId) -> Option<(Head, Signature)> {
        match self.ask(to, &Request::Vouch(id), HELD_MAX).await {
            Ok(Response::Vouched(head, signature)) => Some((head, signature)),
            Ok(_) | Err(_) => None,
        }
    }
}

type Stream = TlsStream<TcpStream>;
type Place = OwnedSemaphorePermit;

struct Way {
    tls: Arc<ClientConfig>,
    address: String,
    idle: Mutex<Vec<Stream>>,
    /// Channels that were made.
    #[cfg(test)]
    made: std::sync::atomic::AtomicUsize,
    for_held: Arc<Semaphore>,
    for_consensus: Arc<Semaphore>,
    attestation: Arc<dyn Attestation>,
    verifier: Arc<dyn Verifier>,
}

impl Way {
    fn idle(&self) -> MutexGuard<'_, Vec<Stream>> {
        // Nothing under this lock panics.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(self: &Arc<Self>, request: &Request) -> io::Result<Response> {
        // Waits in turn. Who gives up takes no place.
        let places = match request {
            Request::Held(_) | Request::Vouch(_) => &self.for_held,
            Request::Append(_) | Request::Vote(_) | Request::Snapshot(..) => &self.for_consensus,
        };
        let place = places.clone().acquire_owned().await;
        let mut place = place.map_err(io::Error::other)?;
        let (kind, body) = (request.kind(), request.to_bytes());
        loop {
            let kept = self.idle().pop();
            let fresh = kept.is_none();
            let mut stream = match kept {
                Some(stream) => stream,
                None => {
                    let stream;
                    (stream, place) = self.dialled(place).await?;
                    stream
                }
            };
            match channel::ask(&mut stream, kind, &body, RESPONSE_BYTES_MAX).await {
                Ok(answer) => {
                    let answer = Response::from_bytes(kind, &answer)
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    self.keep(stream);
                    return Ok(answer);
                }
                Err(error) if fresh => return Err(error),
                // The other end may have closed it long ago.
                Err(_) => {}
            }
        }
    }

    fn keep(&self, stream: Stream) {
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(stream);
        }
    }

    /// A new channel. Who asked may have given up before it stands: it is kept then, and its place taken until then.
    async fn dialled(self: &Arc<Self>, place: Place) -> io::Result<(Stream, Place)> {
        let (me, (taken, got)) = (self.clone(), tokio::sync::oneshot::channel());
        tokio::spawn(async move {
            let dialled = timeout(HANDSHAKE_MAX, me.dial()).await;
            let dialled = dialled.unwrap_or_else(|elapsed| Err(elapsed.into()));
            if let Err((Ok(stream), _)) = taken.send((dialled, place)) {
                me.keep(stream);
            }
        });
        let (dialled, place) = got.await.map_err(io::Error::other)?;
        Ok((dialled?, place))
    }

    async fn dial(&self) -> io::Result<Stream> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(self.tls.clone());
        let mut stream = connector.connect(no_name(), tcp).await?;
        let exported = exported(&stream)?;
        let shown = proof(&self.attestation, bound(&exported, DIALS, b"")).await?;
        let most = EVIDENCE_BYTES_MAX + 1;
        let answer = channel::ask(&mut stream, HELLO, &shown.to_bytes(), most).await?;
        Evidence::from_bytes(&answer)
            .and_then(|shown| {
                let bound = bound(&exported, LISTENS, b"");
                self.verifier.verify(&shown, &bound)
            })
            .map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?;
        #[cfg(test)]
        self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(stream)
    }
}

pub(crate) fn exported<S>(stream: &TlsStream<S>) -> io::Result<[u8; DIGEST_BYTES]> {
    let (_, connection) = stream.get_ref();
    connection
        .export_keying_material([0; DIGEST_BYTES], EXPORTER, None)
        .map_err(io::Error::other)
}

/// Most bytes of a question to another member: a snapshot, with everything that the realm keeps.
pub(crate) const PEER_FRAME_MAX: usize = 64 * 1024 * 1024;

/// Bytes that are wiped when they are let go of.
pub(crate) type Bytes = Zeroizing<Vec<u8>>;
