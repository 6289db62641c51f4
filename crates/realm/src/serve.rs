//! A replica's two doors: for the other members of its group, and for clients.
//!
//! At the members' door nobody gets through the handshake whose key is not on the list of the group. At the clients' door
//! everybody does: a client sees the realm's card and evidence first, and shows a token with each question.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::future::join_all;
use junto_vault::{Seconds, Step};
use openraft::Raft;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    AskError, Card, Name, Replica, Types, Verifier,
    asking::{
        ASK, CARD, GROUND, Moved, PARCEL, QUESTION_BYTES_MAX, STEP, put_ground, put_maybe,
        put_moved, put_reply, read_ask, read_group, read_parcel_wanted,
    },
    channel::{Question, random},
    evidence::{EVIDENCE_BYTES_MAX, Evidence, proof},
    keys::peer,
    links::{
        Bytes, CHANNELS_MAX, DIALS, EXPORTER, HANDSHAKE_MAX, HELD_MAX, HELLO, LISTENS,
        PEER_FRAME_MAX, Wire, bound,
    },
    reach::Reach,
    said::{PASSED, STAMP, put_said, put_welcome, read_passed},
    store::Store,
    wire::{Request, Response},
};

/// Connections of clients at a time.
pub(crate) const CLIENTS_MAX: usize = 256;
/// Connections of each other member at a time: what it uses, and as much that it has given up and that has not ended yet.
const PEER_MAX: usize = 2 * CHANNELS_MAX;
/// Connections at the members' door that have not shown yet whose they are.
const HANDSHAKES_MAX: usize = 32;
/// A connection on which nothing is asked for so long ends.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);
/// Longest that a client may take to send a question and to take the answer.
pub(crate) const CLIENT_MAX: Duration = Duration::from_secs(10);
/// Longest that consensus may take over a question.
const WORK_MAX: Duration = Duration::from_secs(30);
/// A group's time goes on at least so often.
const TICK: Duration = Duration::from_secs(5);

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
    let room = |places: usize| Arc::new(Semaphore::new(places));
    let door = Arc::new(Door {
        places: wire.others().map(|it| (it, room(PEER_MAX))).collect(),
        raft: replica.raft().clone(),
        store: replica.store().clone(),
        hello: card.to_bytes(),
        looking: Mutex::new(()),
        card,
        replica,
        wire,
    });
    let for_members = room(HANDSHAKES_MAX);
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
                        let _ = door.member(tcp, place).await;
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
pub(crate) async fn admitted(
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
    /// Each member has its own: none takes another one's, and strangers take none.
    places: BTreeMap<Name, Arc<Semaphore>>,
    card: Card,
    hello: Vec<u8>,
    /// Who looks at another group: one at a time.
    looking: Mutex<()>,
}

pub(crate) type Stream = TlsStream<TcpStream>;

pub(crate) async fn handshake(
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

pub(crate) fn refused(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, error)
}

impl Door {
    async fn member(&self, tcp: TcpStream, shaking: OwnedSemaphorePermit) -> io::Result<()> {
        let (mut stream, exported) = handshake(&self.wire.tls.peers, tcp).await?;
        // The handshake let members through alone.
        let from = peer(stream.get_ref().1).and_then(|name| Some((name, self.places.get(&name)?)));
        let (from, places) = from.ok_or(io::ErrorKind::PermissionDenied)?;
        let _place = places.try_acquire().map_err(io::Error::other)?;
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
        drop(shaking);
        loop {
            let read = Question::read(&mut stream, PEER_FRAME_MAX);
            let question = timeout(IDLE_MAX, read).await??;
            let request = Request::from_bytes(question.kind(), question.body()).map_err(refused)?;
            let response = timeout(WORK_MAX, self.work(from, request))
                .await??
                .to_bytes();
            let answer = question.answer(&mut stream, &response);
            timeout(WORK_MAX, answer).await??;
        }
    }

    async fn work(&self, from: Name, request: Request) -> io::Result<Response> {
        let speaks_for = match &request {
            Request::Append(rpc) => Some(rpc.vote),
            Request::Vote(rpc) => Some(rpc.vote),
            Request::Snapshot(vote, _) => Some(*vote),
            Request::Held(_) | Request::Vouch(_) => None,
        };
        // Who leads, or wants to, says so itself.
        if speaks_for.is_some_and(|vote| vote.leader_id.node_id != from) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
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
            // Who asked waits no longer.
            Request::Held(id) => Response::Held(timeout(HELD_MAX, self.store.held(&id)).await?),
            Request::Vouch(id) => {
                let (head, word) = timeout(HELD_MAX, self.store.vouched(&id)).await?;
                let signature = word.vouch(&self.card.group(), &head.0, &self.wire.key.0);
                Response::Vouched(head, signature)
            }
        })
    }

    async fn client(&self, tcp: TcpStream) -> io::Result<()> {
        let (mut stream, exported) = handshake(&self.wire.tls.clients, tcp).await?;
        // Once for each connection: the hardware has to do with one at a time.
        let mut shown = None;
        loop {
            let read = Question::read(&mut stream, QUESTION_BYTES_MAX);
            let question = timeout(IDLE_MAX, read).await??;
            let answer = match question.kind() {
                HELLO if question.body().is_empty() => {
                    let own = match shown.take() {
                        Some(own) => own,
                        None => self.shown(&exported).await?,
                    };
                    let welcome = put_welcome(self.replica.time(), &self.hello, &own);
                    shown = Some(own);
                    welcome
                }
                ASK => put_reply(self.asked(question.body()).await?),
                PASSED => self.passed(question.body()).await?,
                STAMP => self.stamp(question.body())?,
                STEP => self.step(question.body()).await?,
                PARCEL => self.parcel(question.body())?,
                GROUND => self.ground(question.body())?,
                CARD => self.card_of(question.body())?,
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

    async fn asked(&self, body: &[u8]) -> io::Result<Result<Bytes, AskError>> {
        let (token, operation) = read_ask(body, self.card.realm()).map_err(refused)?;
        let asked = self
            .replica
            .ask(&token, operation, now(), &mut random())
            .await;
        Ok(asked)
    }

    /// Asked through a frontend: whoever asked sees that it was a member who said this, and to this question.
    async fn passed(&self, body: &[u8]) -> io::Result<Bytes> {
        let asked = self.asked(read_passed(body).map_err(refused)?).await?;
        let said =
            asked.map(|answer| put_said(&self.card, &self.wire.key, (PASSED, body), &answer));
        Ok(put_reply(said))
    }

    fn stamp(&self, body: &[u8]) -> io::Result<Bytes> {
        if !body.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // The time of one that has fallen behind is an old one.
        let said = self.leads().map(|()| {
            let time = self.replica.time().0.to_be_bytes();
            put_said(&self.card, &self.wire.key, (STAMP, b""), &time)
        });
        Ok(put_reply(said))
    }

    /// Whoever asks for a step shows the realm's own order: nobody else gets anything into the log by that.
    async fn step(&self, body: &[u8]) -> io::Result<Bytes> {
        let step = Step::from_bytes(body).map_err(refused)?;
        let taken = self.taken(step).await;
        Ok(put_reply(taken.map(|moved| put_moved(&moved))))
    }

    async fn taken(&self, step: Step) -> Result<Moved, AskError> {
        let (order, ours) = (step.order(), self.card.group());
        let concerns = [order.from().0, order.to().0].contains(&ours);
        if order.realm() != self.card.realm() || !concerns {
            return Err(AskError::Foreign);
        }
        self.leads()?;
        if let Some(wanted) = &self.wire.successors {
            // Of all that a stranger may show, only what would let a range go now has us dial anybody.
            match self.replica.lets_go(&step) {
                Ok(Some(to)) => self.prove(to, wanted).await?,
                Ok(None) => {}
                // It may pass before the step is taken, and nobody has looked.
                Err(hindrance) => return Ok((Err(hindrance), None)),
            }
        }
        let mut random = random();
        let taken = self.replica.take(step, &self.card, now(), &mut random);
        taken.await
    }

    /// Only who leads knows what the group has come to.
    fn leads(&self) -> Result<(), AskError> {
        match self.replica.leader() {
            Some(leader) if leader == self.replica.id() => Ok(()),
            leader => Err(AskError::Elsewhere(leader)),
        }
    }

    /// Before the group lets a range go: every member of the other one shows what is wanted of it, on a channel by its own key.
    /// All of them get the records, so it does not do that most are as they should be.
    async fn prove(&self, to: &Card, wanted: &Arc<dyn Verifier>) -> Result<(), AskError> {
        let _one = self.looking.lock().await;
        let reach = Reach::new(*self.card.realm(), wanted.clone());
        let reach = reach.map_err(|_| AskError::Unproven)?;
        let shown = to.members().iter().map(|member| async {
            let channel = reach.connect(&member.address).await;
            channel.is_ok_and(|it| it.member == member.id && it.card == *to)
        });
        let all = join_all(shown).await.into_iter().all(|shown| shown);
        all.then_some(()).ok_or(AskError::Unproven)
    }

    fn parcel(&self, body: &[u8]) -> io::Result<Bytes> {
        let (order, number) = read_parcel_wanted(body).map_err(refused)?;
        let parcel = self.leads().map(|()| self.replica.parcel(&order, number));
        Ok(put_reply(parcel.map(|it| put_maybe(it.as_deref()))))
    }

    fn ground(&self, body: &[u8]) -> io::Result<Bytes> {
        if !body.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let ground = self.leads().and_then(|()| {
            let turn = self.replica.turn().ok_or(AskError::Foreign)?;
            Ok(put_ground(turn, &self.replica.spans()))
        });
        Ok(put_reply(ground))
    }

    fn card_of(&self, body: &[u8]) -> io::Result<Bytes> {
        let group = read_group(body).map_err(refused)?;
        let card = self.replica.card_of(&group);
        let card = card.map(|card| card.to_bytes());
        Ok(put_reply(Ok(put_maybe(card.as_deref()))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use junto_crypto::{Zeroizing, ed25519::SigningKey};
    use junto_vault::{Genesis, Quorum, Realm, RealmId};
    use openraft::{CommittedLeaderId, Vote, raft::VoteRequest};
    use tokio::time::Instant;

    use super::*;
    use crate::{Accepted, BootKey, LogId, Member, Membership, Peer, Simulated};

    fn membership(key: BootKey, members: &[Peer], simulated: bool) -> Membership {
        Membership {
            key,
            members: members.to_vec(),
            attestation: Arc::new(Simulated),
            verifier: Arc::new(Accepted { simulated }),
            successors: None,
        }
    }

    fn key() -> BootKey {
        BootKey::generate(&mut random())
    }

    fn again(key: &BootKey) -> BootKey {
        BootKey(SigningKey::from_seed(key.0.seed()))
    }

    fn peer_of(key: &BootKey, address: &str) -> Peer {
        Peer {
            id: key.id(),
            address: address.to_owned(),
        }
    }

    /// A replica of a group of two that serves, and the other member's key.
    struct Served {
        group: [Peer; 2],
        member: BootKey,
        serving: tokio::task::JoinHandle<io::Result<()>>,
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.serving.abort();
        }
    }

    impl Served {
        /// It accepts simulated evidence of members, or not.
        async fn new(simulated: bool) -> Self {
            let bind = || TcpListener::bind("127.0.0.1:0");
            let (inner, outer) = (bind().await.unwrap(), bind().await.unwrap());
            let (here, member) = (key(), key());
            let there = peer_of(&here, &inner.local_addr().unwrap().to_string());
            let group = [there, peer_of(&member, "127.0.0.1:1")];
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
            let replica =
                Replica::join(realm.unwrap(), quorum, membership(here, &group, simulated));
            let replica = Arc::new(replica.await.unwrap());
            Self {
                group,
                member,
                serving: tokio::spawn(serve(replica, card, inner, outer)),
            }
        }

        fn to(&self) -> Name {
            self.group[0].id.into()
        }

        fn wire(&self, simulated: bool) -> Wire {
            Wire::new(membership(again(&self.member), &self.group, simulated)).unwrap()
        }
    }

    fn candidate(name: junto_vault::ReplicaId) -> Request {
        Request::Vote(VoteRequest::new(Vote::new(1, Name::from(name)), None))
    }

    /// A member's door opens to the keys of this start of this group alone; both ends want evidence that they accept; and nobody
    /// speaks for somebody else.
    #[tokio::test]
    async fn a_members_door_is_shut_for_strangers() {
        let served = Served::new(true).await;
        let asked =
            async |wire: Wire, name| wire.ask(served.to(), &candidate(name), HANDSHAKE_MAX).await;
        let stranger = key();
        let others = [served.group[0].clone(), peer_of(&stranger, "127.0.0.1:1")];
        let id = stranger.id();
        let wire = Wire::new(membership(stranger, &others, true)).unwrap();
        assert!(asked(wire, id).await.is_err());
        let own = served.member.id();
        let answer = asked(served.wire(true), own).await.unwrap();
        assert!(matches!(answer, Response::Vote(_)));
        assert!(asked(served.wire(true), served.group[0].id).await.is_err());
        assert!(asked(served.wire(false), own).await.is_err());
        // The same the other way round: who listens judges, too.
        let careful = Served::new(false).await;
        let (wire, request) = (careful.wire(true), candidate(careful.member.id()));
        assert!(
            wire.ask(careful.to(), &request, HANDSHAKE_MAX)
                .await
                .is_err()
        );
    }

    /// A member that lags answers none of many questions of clients: those of consensus find a place all the same, at once.
    #[tokio::test]
    async fn many_questions_to_one_that_lags_leave_consensus_its_places() {
        let served = Served::new(true).await;
        let wire = Arc::new(served.wire(true));
        let never = LogId::new(CommittedLeaderId::new(9, Name::from(served.member.id())), 9);
        let to = served.to();
        let mut asking = JoinSet::new();
        for _ in 0..100 {
            let wire = wire.clone();
            asking.spawn(async move { wire.held(to, never).await });
        }
        // Some of them have got through.
        while wire.dialled() == 0 {
            tokio::task::yield_now().await;
        }
        let begun = Instant::now();
        let request = candidate(served.member.id());
        let answer = wire.ask(to, &request, HANDSHAKE_MAX).await.unwrap();
        assert!(matches!(answer, Response::Vote(_)));
        assert!(begun.elapsed() < HELD_MAX, "{:?}", begun.elapsed());
        assert!(wire.dialled() <= CHANNELS_MAX, "{}", wire.dialled());
        while let Some(held) = asking.join_next().await {
            assert!(held.unwrap().is_none());
        }
        // And those that nobody waits for any more keep no place.
        let again = wire.ask(to, &request, HANDSHAKE_MAX).await;
        assert!(again.is_ok());
    }
}
