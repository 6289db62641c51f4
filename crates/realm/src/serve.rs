//! A replica's two doors: for the other members of its group, and for clients.
//!
//! At the members' door nobody gets through the handshake whose key is not on the list of the group. At the clients' door
//! everybody does: a client sees the realm's card and evidence first, and shows a token with each question.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use junto_crypto::Zeroizing;
use junto_vault::{Operation, RealmId, Seconds, Token};
use openraft::Raft;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    AskError, Card, Replica, Types,
    channel::{Question, random},
    evidence::{EVIDENCE_BYTES_MAX, Evidence, proof},
    keys::peer,
    links::{Bytes, DIALS, EXPORTER, HANDSHAKE_MAX, HELLO, LISTENS, PEER_FRAME_MAX, Wire, bound},
    read::{Malformed, Reader},
    store::Store,
    wire::{Request, Response},
};

/// Connections of clients at a time.
const CLIENTS_MAX: usize = 256;
/// Connections of each other member at a time.
const CHANNELS_MAX: usize = 16;
/// A connection on which nothing is asked for so long ends.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Longest that a client may take to send a question and to take the answer.
const CLIENT_MAX: Duration = Duration::from_secs(10);
/// Longest that consensus may take over a question.
const WORK_MAX: Duration = Duration::from_secs(30);
/// A group's time goes on at least so often.
const TICK: Duration = Duration::from_secs(5);

/// Kind of question: what a client asks of a record.
pub(crate) const ASK: u8 = 1;
/// Most bytes of what a client asks.
pub(crate) const ASK_BYTES_MAX: usize = 2 + Token::BYTES_MAX + Operation::BYTES_MAX;

/// What this machine's clock says.
#[must_use]
pub fn now() -> Seconds {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Seconds(since.map_or(0, |since| since.as_secs()))
}

/// Serves a replica's group and its clients until it is dropped or aborted; lets the group's time go on.
///
/// # Errors
/// What the system says when it accepts no connection any more.
pub async fn serve(
    replica: Arc<Replica>,
    card: Card,
    members: TcpListener,
    clients: TcpListener,
) -> io::Result<()> {
    let Some(wire) = replica.wire() else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let door = Arc::new(Door {
        raft: replica.raft().clone(),
        store: replica.store().clone(),
        hello: card.to_bytes(),
        card,
        replica,
        wire,
    });
    let room = |places: usize| Arc::new(Semaphore::new(places));
    let for_members = room(CHANNELS_MAX * door.wire.members());
    let for_clients = room(CLIENTS_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(tick(door.replica.clone()));
    loop {
        // What has ended is let go of.
        while tasks.try_join_next().is_some() {}
        tokio::select! {
            accepted = members.accept() => {
                if let Some((tcp, place)) = admitted(accepted, &for_members).await? {
                    let door = door.clone();
                    tasks.spawn(async move {
                        let _ = door.member(tcp).await;
                        drop(place);
                    });
                }
            }
            accepted = clients.accept() => {
                if let Some((tcp, place)) = admitted(accepted, &for_clients).await? {
                    let door = door.clone();
                    tasks.spawn(async move {
                        let _ = door.client(tcp).await;
                        drop(place);
                    });
                }
            }
        }
    }
}

/// A connection for which there is a place. The others are closed at once.
async fn admitted(
    accepted: io::Result<(TcpStream, std::net::SocketAddr)>,
    room: &Arc<Semaphore>,
) -> io::Result<Option<(TcpStream, OwnedSemaphorePermit)>> {
    match accepted {
        Ok((tcp, _)) => {
            let place = room.clone().try_acquire_owned().ok();
            Ok(place.map(|place| (tcp, place)))
        }
        // Of this connection, or of a machine that is short of something for now.
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected => Err(error),
            _ => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(None)
            }
        },
    }
}

async fn tick(replica: Arc<Replica>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        // Only the leader's counts.
        let _ = replica.tick(now(), &mut random()).await;
    }
}

struct Door {
    replica: Arc<Replica>,
    raft: Raft<Types>,
    store: Store,
    wire: Arc<Wire>,
    card: Card,
    hello: Vec<u8>,
}

type Stream = TlsStream<TcpStream>;

async fn handshake(
    tls: &Arc<rustls::ServerConfig>,
    tcp: TcpStream,
) -> io::Result<(Stream, [u8; 32])> {
    tcp.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(tls.clone());
    let stream = timeout(HANDSHAKE_MAX, acceptor.accept(tcp)).await??;
    let (_, connection) = stream.get_ref();
    let exported = connection
        .export_keying_material([0; 32], EXPORTER, None)
        .map_err(io::Error::other)?;
    Ok((stream, exported))
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, error)
}

impl Door {
    async fn member(&self, tcp: TcpStream) -> io::Result<()> {
        let (mut stream, exported) = handshake(&self.wire.tls.peers, tcp).await?;
        // The handshake let members through alone.
        if peer(stream.get_ref().1).is_none_or(|name| name == self.wire.me) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let read = Question::read(&mut stream, EVIDENCE_BYTES_MAX + 1);
        let hello = timeout(HANDSHAKE_MAX, read).await??;
        if hello.kind() != HELLO {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let shown = Evidence::from_bytes(hello.body()).map_err(refused)?;
        let judged = self
            .wire
            .verifier
            .verify(&shown, &bound(&exported, DIALS, b""));
        judged.map_err(refused)?;
        let own = bound(&exported, LISTENS, b"");
        let own = timeout(HANDSHAKE_MAX, proof(&self.wire.attestation, own)).await??;
        hello.answer(&mut stream, &own.to_bytes()).await?;
        loop {
            let read = Question::read(&mut stream, PEER_FRAME_MAX);
            let question = timeout(IDLE_MAX, read).await??;
            let request = Request::from_bytes(question.kind(), question.body()).map_err(refused)?;
            let response = timeout(WORK_MAX, self.work(request)).await??.to_bytes();
            let answer = question.answer(&mut stream, &response);
            timeout(WORK_MAX, answer).await??;
        }
    }

    async fn work(&self, request: Request) -> io::Result<Response> {
        let stopped = io::ErrorKind::BrokenPipe;
        Ok(match request {
            Request::Append(rpc) => {
                let done = self.raft.append_entries(rpc).await;
                Response::Append(done.map_err(|_| stopped)?)
            }
            Request::Vote(rpc) => {
                let done = self.raft.vote(rpc).await;
                Response::Vote(done.map_err(|_| stopped)?)
            }
            Request::Snapshot(vote, snapshot) => {
                let done = self.raft.install_full_snapshot(vote, snapshot).await;
                Response::Snapshot(done.map_err(|_| stopped)?)
            }
            Request::Held(id) => Response::Held(self.store.held(&id).await),
        })
    }

    async fn client(&self, tcp: TcpStream) -> io::Result<()> {
        let (mut stream, exported) = handshake(&self.wire.tls.clients, tcp).await?;
        // Once for each connection: the hardware has to do with one at a time.
        let mut shown = None;
        loop {
            let read = Question::read(&mut stream, ASK_BYTES_MAX);
            let question = timeout(IDLE_MAX, read).await??;
            let answer = match question.kind() {
                HELLO if question.body().is_empty() => {
                    let own = match shown.take() {
                        Some(own) => own,
                        None => self.shown(&exported).await?,
                    };
                    let welcome = self.welcome(&own);
                    shown = Some(own);
                    welcome
                }
                ASK => self.asked(question.body()).await?,
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            let answer = question.answer(&mut stream, &answer);
            timeout(CLIENT_MAX, answer).await??;
        }
    }

    /// Evidence for this channel and the card.
    async fn shown(&self, exported: &[u8; 32]) -> io::Result<Evidence> {
        let bound = bound(exported, LISTENS, &self.hello);
        timeout(CLIENT_MAX, proof(&self.wire.attestation, bound)).await?
    }

    /// The group's time, its card, and that evidence.
    fn welcome(&self, shown: &Evidence) -> Bytes {
        let time = self.replica.time().0.to_be_bytes();
        let length = u16::try_from(self.hello.len()).unwrap_or(u16::MAX);
        let mut out = Zeroizing::new(time.to_vec());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.hello);
        out.extend_from_slice(&shown.to_bytes());
        out
    }

    async fn asked(&self, body: &[u8]) -> io::Result<Bytes> {
        let (token, operation) = read_ask(body, self.card.realm()).map_err(refused)?;
        let asked = self
            .replica
            .ask(&token, operation, now(), &mut random())
            .await;
        Ok(put_reply(asked))
    }
}

/// What a client asks: its token behind its length, then the operation.
pub(crate) fn put_ask(token: &Token, operation: &[u8]) -> Bytes {
    let token = token.to_bytes();
    let mut out = Zeroizing::new(Vec::with_capacity(ASK_BYTES_MAX));
    out.extend_from_slice(&u16::try_from(token.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(&token);
    out.extend_from_slice(operation);
    out
}

pub(crate) fn read_ask(body: &[u8], realm: &RealmId) -> Result<(Token, Operation), Malformed> {
    let mut reader = Reader::new(body);
    let length = usize::from(reader.u16()?);
    let token = Token::from_bytes(reader.bytes(length)?).map_err(|_| Malformed)?;
    let operation = Operation::from_bytes(reader.rest(), realm).map_err(|_| Malformed)?;
    Ok((token, operation))
}

/// 0 and the realm's answer, or why there is none.
fn put_reply(asked: Result<Bytes, AskError>) -> Bytes {
    let mut out = Zeroizing::new(Vec::new());
    match asked {
        Ok(answer) => {
            out.reserve_exact(1 + answer.len());
            out.push(0);
            out.extend_from_slice(&answer);
        }
        Err(AskError::Unauthorised(_)) => out.push(1),
        Err(AskError::Elsewhere(leader)) => {
            out.extend_from_slice(&[2, u8::from(leader.is_some())]);
            out.extend(leader.iter().flat_map(|leader| leader.0));
        }
        Err(AskError::Foreign) => out.push(3),
        Err(AskError::Unheld) => out.push(4),
        Err(AskError::Stopped) => out.push(5),
    }
    out
}

/// What the realm answered, of `bytes` bytes.
pub(crate) fn read_reply(reply: &[u8]) -> Result<Result<Bytes, AskError>, Malformed> {
    let mut reader = Reader::new(reply);
    let error = match reader.u8()? {
        0 => return Ok(Ok(Zeroizing::new(reader.rest().to_vec()))),
        1 => AskError::Unauthorised(junto_vault::Unauthorised),
        2 => {
            AskError::Elsewhere(reader.option(|reader| reader.array().map(junto_vault::ReplicaId))?)
        }
        3 => AskError::Foreign,
        4 => AskError::Unheld,
        5 => AskError::Stopped,
        _ => return Err(Malformed),
    };
    reader.finish()?;
    Ok(Err(error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use junto_crypto::ed25519::SigningKey;
    use junto_vault::{Genesis, Quorum, Realm};
    use openraft::{Vote, raft::VoteRequest};

    use super::*;
    use crate::{Accepted, BootKey, Member, Membership, Name, Peer, Simulated};

    fn membership(key: BootKey, members: &[Peer], simulated: bool) -> Membership {
        Membership {
            key,
            members: members.to_vec(),
            attestation: Arc::new(Simulated),
            verifier: Arc::new(Accepted { simulated }),
        }
    }

    /// A member's door opens to the keys of this start of this group alone, and a member talks to nobody whose evidence it does
    /// not accept.
    #[tokio::test]
    async fn a_members_door_is_shut_for_strangers() {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (inner, outer) = (bind().await.unwrap(), bind().await.unwrap());
        let key = || BootKey::generate(&mut random());
        let (here, member, stranger) = (key(), key(), key());
        let peer = |key: &BootKey, address: &str| Peer {
            id: key.id(),
            address: address.to_owned(),
        };
        let there = peer(&here, &inner.local_addr().unwrap().to_string());
        let group = [there.clone(), peer(&member, "127.0.0.1:1")];
        let signing = SigningKey::from_seed(&[1; 32]);
        let realm = Realm::new(Genesis {
            realm: RealmId(*signing.verifying_key().as_bytes()),
            secret: Zeroizing::new([2; 32]),
            tenants: BTreeMap::new(),
            records_max: 1,
            time: Seconds(1),
        });
        let quorum = Quorum::new(2, 0).unwrap();
        let mut members = group.clone().map(|peer| Member {
            id: peer.id,
            address: peer.address,
        });
        members.sort_by_key(|member| member.id);
        let card = Card::sign(&signing, Seconds(1), quorum, members.to_vec()).unwrap();
        let replica = Replica::join(realm.unwrap(), quorum, membership(here, &group, true));
        let replica = Arc::new(replica.await.unwrap());
        let serving = tokio::spawn(serve(replica, card, inner, outer));
        let to = Name::from(there.id);
        let asked = async |key: BootKey, members: &[Peer], simulated: bool| {
            let request = Request::Vote(VoteRequest::new(Vote::new(1, Name::from(key.id())), None));
            let wire = Wire::new(membership(key, members, simulated)).unwrap();
            wire.ask(to, &request, HANDSHAKE_MAX).await
        };
        let others = [there.clone(), peer(&stranger, "127.0.0.1:1")];
        assert!(asked(stranger, &others, true).await.is_err());
        let again = BootKey(SigningKey::from_seed(member.0.seed()));
        let answer = asked(member, &group, true).await.unwrap();
        assert!(matches!(answer, Response::Vote(_)));
        assert!(asked(again, &group, false).await.is_err());
        serving.abort();
    }
}
