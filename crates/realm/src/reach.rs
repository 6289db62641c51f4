//! Ways to the replicas of a realm for whoever is none of them: whichever of a group leads, over a channel that the realm's card
//! and evidence vouch for.

use std::{io, sync::Arc, time::Duration};

use junto_vault::{GroupId, RealmId, ReplicaId, Seconds};
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    AskError, Card,
    asking::read_reply,
    channel,
    evidence::{EvidenceError, Verifier},
    keys::{anybody, no_name, peer},
    links::{Bytes, HELLO, LISTENS, bound, exported},
    read::Malformed,
    said::{WELCOME_BYTES_MAX, Welcome},
};

/// Longest wait for one replica to show who it is: another one may be there.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Between two rounds over all replicas.
pub(crate) const PAUSE: Duration = Duration::from_millis(150);
/// Replicas that point at each other, or at themselves, are not asked for longer: the next address may know better.
const HINTS_MAX: usize = 3;
/// Rounds over all addresses in which none was merely away.
const HOPELESS_MAX: usize = 2;

/// Why a realm gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No replica of it answers, or too few of them hold the question.
    #[error("it does not answer: {0}")]
    Absent(String),
    /// Somebody else is at its addresses.
    #[error("who answers there is not that realm")]
    Stranger,
    /// What it shows of its machine does not suffice.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// It does not know the tenant, or has other words with it.
    #[error("it does not accept our token")]
    Unauthorised,
    /// It says what no realm says.
    #[error("it answers what makes no sense")]
    Nonsense,
    /// It lets nothing go to a group whose members do not all show what it wants to be shown.
    #[error("{}", AskError::Unproven)]
    Unproven,
}

impl ClientError {
    /// Whether it may be different in a moment.
    fn passes(&self) -> bool {
        matches!(self, Self::Absent(_))
    }

    /// What is reported when no address led to an answer: what does not pass by itself, and of that, what a user can act on.
    fn gravity(&self) -> u8 {
        match self {
            Self::Absent(_) => 0,
            Self::Stranger => 1,
            Self::Nonsense => 2,
            Self::Unauthorised => 3,
            Self::Evidence(_) => 4,
            Self::Unproven => 5,
        }
    }

    /// Of somebody who has not shown that he is of the realm: what he says is nobody's fault whom we know.
    fn of_anybody(self) -> Self {
        match self {
            Self::Nonsense => Self::Stranger,
            other => other,
        }
    }
}

impl From<Malformed> for ClientError {
    fn from(_: Malformed) -> Self {
        Self::Nonsense
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Nonsense,
            _ => Self::Absent(error.to_string()),
        }
    }
}

/// What went wrong so far, on all ways to a realm.
pub(crate) struct Failures {
    pub(crate) worst: ClientError,
    /// Nothing in this round over all addresses may be different in a moment.
    is_hopeless: bool,
    /// Rounds in a row of which that is true.
    hopeless: usize,
}

impl Failures {
    pub(crate) fn none() -> Self {
        Self {
            worst: ClientError::Absent("nobody is there".to_owned()),
            is_hopeless: true,
            hopeless: 0,
        }
    }

    pub(crate) fn add(&mut self, error: ClientError) {
        self.is_hopeless &= !error.passes();
        if error.gravity() >= self.worst.gravity() {
            self.worst = error;
        }
    }

    /// All addresses had their turn: whether to give up. One bad moment on a channel is no reason to.
    pub(crate) fn round(&mut self) -> bool {
        self.hopeless = if self.is_hopeless {
            self.hopeless + 1
        } else {
            0
        };
        self.is_hopeless = true;
        self.hopeless >= HOPELESS_MAX
    }
}

/// What is asked of whoever leads a group. It may be asked again.
pub(crate) trait Question {
    /// What is said to it.
    type Answer;
    /// Most bytes of that.
    const MOST: usize;
    /// Longest wait for one replica's answer.
    const LONGEST: Duration;

    /// Its kind and its body, for that channel.
    fn put(&self, channel: &Channel) -> (u8, Bytes);

    /// # Errors
    /// [`Malformed`] unless these are the bytes of an answer to what was `put`.
    fn read(&self, put: &(u8, Bytes), answer: &[u8]) -> Result<Self::Answer, Malformed>;
}

/// Where a group is reached, and the channel that is open.
pub(crate) struct Way {
    addresses: Vec<String>,
    open: Option<Channel>,
    /// The address whose turn it is.
    turn: usize,
    /// The one behind that which was dialled last.
    after: usize,
}

impl Way {
    pub(crate) fn new(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            open: None,
            turn: 0,
            after: 0,
        }
    }

    /// The card of the group whose channel is open.
    pub(crate) fn card(&self) -> Option<&Card> {
        self.open.as_ref().map(|channel| &channel.card)
    }

    /// The group whose channel is open.
    pub(crate) fn group(&self) -> Option<GroupId> {
        self.card().map(Card::group)
    }

    /// Whether the channel that is open leads to a frontend.
    pub(crate) fn is_frontend(&self) -> bool {
        self.open.as_ref().is_some_and(|it| it.is_frontend)
    }

    /// Who answered cannot help. The next address is one of another group, as far as its card says which are its own.
    pub(crate) fn skip(&mut self) {
        self.turn = self.after;
        if let Some(channel) = self.open.take() {
            let members = channel.card.members();
            let own = |address: &&String| members.iter().any(|it| it.address == **address);
            let rest = self.addresses.iter().skip(self.turn);
            self.turn += rest.take_while(own).count();
        }
    }

    /// The next address; none when it is of no use to go on.
    async fn next(&mut self, failures: &mut Failures) -> Option<String> {
        if self.turn >= self.addresses.len() {
            if failures.round() {
                return None;
            }
            sleep(PAUSE).await;
            self.turn = 0;
        }
        let next = self.addresses.get(self.turn)?.clone();
        self.turn += 1;
        self.after = self.turn;
        Some(next)
    }
}

/// A channel whose other end is a member of a group of the realm, or a frontend of the realm.
pub(crate) struct Channel {
    stream: TlsStream<TcpStream>,
    /// Of the member's group, or of one that the frontend reached.
    pub(crate) card: Card,
    /// Whose key the channel has.
    pub(crate) member: ReplicaId,
    pub(crate) is_frontend: bool,
    /// What the group's time was, and when it said so.
    time: (Seconds, Instant),
}

impl Channel {
    fn address(&self, member: ReplicaId) -> Option<String> {
        let members = &mut self.card.members().iter();
        let found = members.find(|found| found.id == member);
        found.map(|found| found.address.clone())
    }

    /// So many seconds from now, by the group's time.
    pub(crate) fn in_seconds(&self, seconds: u64) -> Seconds {
        let (Seconds(time), since) = self.time;
        let ahead = since.elapsed().as_secs().saturating_add(seconds);
        Seconds(time.saturating_add(ahead))
    }

    /// A channel on which something fails is not used again.
    async fn ask<Q: Question>(
        mut self,
        question: &Q,
    ) -> Result<(Self, Result<Q::Answer, AskError>), ClientError> {
        let put = question.put(&self);
        let asked = channel::ask(&mut self.stream, put.0, &put.1, 1 + Q::MOST);
        match timeout(Q::LONGEST, asked).await {
            Ok(reply) => Ok(match read_reply(&reply?)? {
                Ok(answer) => (self, Ok(question.read(&put, &answer)?)),
                Err(error) => (self, Err(error)),
            }),
            Err(_) => Err(ClientError::Absent("it does not answer in time".to_owned())),
        }
    }
}

/// Who is wanted at the other end.
pub(crate) struct Reach {
    realm: RealmId,
    verifier: Arc<dyn Verifier>,
    tls: Arc<ClientConfig>,
    /// A frontend will do.
    frontends: bool,
}

impl Reach {
    pub(crate) fn new(realm: RealmId, verifier: Arc<dyn Verifier>) -> Result<Self, rustls::Error> {
        Ok(Self {
            realm,
            verifier,
            tls: anybody()?,
            frontends: false,
        })
    }

    /// Whether a frontend asks, which none other stands before.
    pub(crate) const fn is_frontends(&self) -> bool {
        !self.frontends
    }

    /// A frontend of the realm will do, too.
    pub(crate) fn or_frontends(self) -> Self {
        Self {
            frontends: true,
            ..self
        }
    }

    pub(crate) fn realm(&self) -> &RealmId {
        &self.realm
    }

    pub(crate) fn judged_by(&mut self, verifier: Arc<dyn Verifier>) {
        self.verifier = verifier;
    }

    /// Asks whoever leads. None when it is of no use to go on: the caller bounds the time. One address that leads to somebody else,
    /// or to a replica that is not as it should be, does not hide the others.
    pub(crate) async fn ask<Q: Question>(
        &self,
        way: &mut Way,
        question: &Q,
        failures: &mut Failures,
    ) -> Option<Q::Answer> {
        // Where the leader is said to be, and how often in a row that was believed.
        let (mut hint, mut hints) = (None::<String>, 0);
        loop {
            let channel = match (way.open.take(), hint.take()) {
                (Some(channel), _) => Ok(channel),
                (None, Some(leader)) => self.connect(&leader).await,
                (None, None) => {
                    hints = 0;
                    let next = way.next(failures).await?;
                    self.connect(&next).await
                }
            };
            let asked = match channel {
                Ok(channel) => channel.ask(question).await,
                Err(error) => Err(error),
            };
            failures.add(match asked {
                Ok((channel, Ok(answer))) => {
                    way.open = Some(channel);
                    way.turn = 0;
                    return Some(answer);
                }
                // Who only passes a token on does not try it everywhere, and any stranger can have made it: the channel stays.
                Ok((channel, Err(AskError::Unauthorised(_)))) if !self.frontends => {
                    way.open = Some(channel);
                    failures.add(ClientError::Unauthorised);
                    return None;
                }
                Ok((_, Err(AskError::Unauthorised(_)))) => ClientError::Unauthorised,
                Ok((_, Err(AskError::Foreign))) => ClientError::Nonsense,
                // Nobody has signed these, and they would end the question, or have us dial whoever is named.
                Ok((channel, Err(AskError::Unproven | AskError::Elsewhere(_))))
                    if channel.is_frontend =>
                {
                    ClientError::Nonsense
                }
                // Who leads has looked: to ask it again at once would only have it look again.
                Ok((_, Err(AskError::Unproven))) => {
                    failures.add(ClientError::Unproven);
                    return None;
                }
                Ok((channel, Err(AskError::Elsewhere(leader)))) => {
                    hints += 1;
                    let said = leader.filter(|_| hints <= HINTS_MAX);
                    hint = said.and_then(|leader| channel.address(leader));
                    sleep(PAUSE / 10).await;
                    ClientError::Absent("it has no leader".to_owned())
                }
                Ok((_, Err(error @ (AskError::Unheld | AskError::Stopped | AskError::Behind)))) => {
                    ClientError::Absent(error.to_string())
                }
                Err(error) => error,
            });
        }
    }

    /// The card that somebody shows at these addresses. Each is asked once.
    pub(crate) async fn card(&self, addresses: &[String], failures: &mut Failures) -> Option<Card> {
        for address in addresses {
            match self.connect(address).await {
                Ok(channel) => return Some(channel.card),
                Err(error) => failures.add(error),
            }
        }
        None
    }

    pub(crate) async fn connect(&self, address: &str) -> Result<Channel, ClientError> {
        match timeout(CONNECT_MAX, self.connected(address)).await {
            Ok(channel) => channel.map_err(ClientError::of_anybody),
            Err(_) => Err(ClientError::Absent("it does not answer in time".to_owned())),
        }
    }

    async fn connected(&self, address: &str) -> Result<Channel, ClientError> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(self.tls.clone());
        let mut stream = connector.connect(no_name(), tcp).await?;
        let exported = exported(&stream)?;
        let welcome = channel::ask(&mut stream, HELLO, b"", WELCOME_BYTES_MAX).await?;
        let key = peer(stream.get_ref().1).map(ReplicaId::from);
        let member = key.ok_or(ClientError::Stranger)?;
        let welcome = Welcome::read(&welcome, &self.realm, member)?;
        // A frontend before a frontend would hide who answers, or lead round in a ring.
        if welcome.is_frontend && !self.frontends {
            return Err(ClientError::Stranger);
        }
        let bound = bound(&exported, LISTENS, &welcome.about);
        self.verifier.verify(&welcome.shown, &bound)?;
        Ok(Channel {
            stream,
            card: welcome.card,
            member,
            is_frontend: welcome.is_frontend,
            time: (welcome.time, Instant::now()),
        })
    }
}
