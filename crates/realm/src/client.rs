//! A client's way to one realm: whichever of its replicas leads, over a channel that the realm's card and evidence vouch for.

use std::{io, sync::Arc, time::Duration};

use junto_crypto::ed25519::SigningKey;
use junto_vault::{
    Account, Answer, CARD_BYTES_MAX, Class, Operation, RealmId, ReplicaId, Seconds, Token,
};
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    AskError, Card, channel,
    evidence::{Accepted, EVIDENCE_BYTES_MAX, Evidence, EvidenceError, Verifier},
    keys::{anybody, no_name, peer},
    links::{Bytes, HELLO, LISTENS, bound, exported},
    read::{Malformed, Reader},
    serve::{ASK, put_ask, read_reply},
};

/// Addresses of one realm at most.
pub const ADDRESSES_MAX: usize = junto_vault::REPLICAS_MAX as usize;
/// Longest wait for one answer of one replica.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// Longest wait for one replica to show who it is: another one may be there.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Between two rounds over all replicas.
const PAUSE: Duration = Duration::from_millis(150);
/// Replicas that point at each other, or at themselves, are not asked for longer: the next address may know better.
const HINTS_MAX: usize = 3;
/// Rounds over all addresses in which none was merely away.
const HOPELESS_MAX: usize = 2;
/// Seconds of the group's time that a token is good for.
const TOKEN_LIFE: u64 = 300;

const WELCOME_BYTES_MAX: usize = 8 + 2 + CARD_BYTES_MAX + 1 + EVIDENCE_BYTES_MAX;

/// Who asks: an account, and the key of its tenant, with which its tokens are made.
pub struct Access {
    /// Whose record it is.
    pub account: Account,
    /// Signs tokens.
    pub tenant: SigningKey,
}

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

/// What went wrong so far, on all ways to a realm.
struct Failures {
    worst: ClientError,
    /// Nothing in this round over all addresses may be different in a moment.
    is_hopeless: bool,
    /// Rounds in a row of which that is true.
    hopeless: usize,
}

impl Failures {
    fn none() -> Self {
        Self {
            worst: ClientError::Absent("nobody is there".to_owned()),
            is_hopeless: true,
            hopeless: 0,
        }
    }

    fn add(&mut self, error: ClientError) {
        self.is_hopeless &= !error.passes();
        if error.gravity() >= self.worst.gravity() {
            self.worst = error;
        }
    }

    /// All addresses had their turn: whether to give up. One bad moment on a channel is no reason to.
    fn round(&mut self) -> bool {
        self.hopeless = if self.is_hopeless {
            self.hopeless + 1
        } else {
            0
        };
        self.is_hopeless = true;
        self.hopeless >= HOPELESS_MAX
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

/// One realm, as a client reaches it.
pub struct RealmClient {
    realm: RealmId,
    addresses: Vec<String>,
    verifier: Arc<dyn Verifier>,
    access: Arc<Access>,
    tls: Arc<ClientConfig>,
    open: Mutex<Option<Channel>>,
}

/// A channel whose other end is a member of the realm's group.
struct Channel {
    stream: TlsStream<TcpStream>,
    card: Card,
    /// What the group's time was, and when it said so.
    time: (Seconds, Instant),
}

impl RealmClient {
    /// # Errors
    /// What the TLS library says of our own settings: not to be expected.
    pub fn new(
        realm: RealmId,
        addresses: Vec<String>,
        accepted: Accepted,
        access: Arc<Access>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            realm,
            addresses,
            verifier: Arc::new(accepted),
            access,
            tls: anybody()?,
            open: Mutex::new(None),
        })
    }

    /// Evidence is judged by that one.
    #[must_use]
    pub fn judged_by(mut self, verifier: Arc<dyn Verifier>) -> Self {
        self.verifier = verifier;
        self
    }

    /// Which realm.
    #[must_use]
    pub fn realm(&self) -> &RealmId {
        &self.realm
    }

    /// Asks until there is an answer, for so long at most. Every operation may be asked again: the realm charges a guess
    /// once, and what is done already is no error.
    ///
    /// # Errors
    /// [`ClientError`], the last one when it gave up.
    pub async fn ask(
        &self,
        operation: &Operation,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        let (bytes, class) = (operation.to_bytes(), operation.class());
        let mut failures = Failures::none();
        let asking = self.ask_on(&bytes, class, &mut failures);
        match timeout(patience, asking).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(failures.worst),
        }
    }

    /// None when it is of no use to go on. One address that leads to somebody else, or to a replica that is not as it
    /// should be, does not hide the others.
    async fn ask_on(
        &self,
        operation: &[u8],
        class: Class,
        failures: &mut Failures,
    ) -> Option<Answer> {
        let mut open = self.open.lock().await;
        let mut turns = self.addresses.iter().cycle().enumerate();
        // Where the leader is said to be, and how often in a row that was believed.
        let (mut hint, mut hints) = (None::<String>, 0);
        loop {
            let channel = match (open.take(), hint.take()) {
                (Some(channel), _) => Ok(channel),
                (None, Some(leader)) => self.connect(&leader).await,
                (None, None) => {
                    let (turn, address) = turns.next()?;
                    hints = 0;
                    if turn > 0 && turn % self.addresses.len() == 0 {
                        if failures.round() {
                            return None;
                        }
                        sleep(PAUSE).await;
                    }
                    self.connect(address).await
                }
            };
            let asked = match channel {
                Ok(channel) => self.ask_at(channel, operation).await,
                Err(error) => Err(error),
            };
            failures.add(match asked {
                Ok((channel, Ok(answer))) => match Answer::from_bytes(&answer, class) {
                    Ok(answer) => {
                        *open = Some(channel);
                        return Some(answer);
                    }
                    Err(_) => ClientError::Nonsense,
                },
                Ok((_, Err(AskError::Unauthorised(_)))) => ClientError::Unauthorised,
                Ok((_, Err(AskError::Foreign))) => ClientError::Nonsense,
                Ok((channel, Err(AskError::Elsewhere(leader)))) => {
                    hints += 1;
                    let said = leader.filter(|_| hints <= HINTS_MAX);
                    hint = said.and_then(|leader| channel.address(leader));
                    sleep(PAUSE / 10).await;
                    ClientError::Absent("it has no leader".to_owned())
                }
                Ok((_, Err(error @ (AskError::Unheld | AskError::Stopped)))) => {
                    ClientError::Absent(error.to_string())
                }
                Err(error) => error,
            });
        }
    }

    async fn connect(&self, address: &str) -> Result<Channel, ClientError> {
        let connecting = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let connector = TlsConnector::from(self.tls.clone());
            let mut stream = connector.connect(no_name(), tcp).await?;
            let exported = exported(&stream)?;
            let welcome = channel::ask(&mut stream, HELLO, b"", WELCOME_BYTES_MAX).await?;
            let mut reader = Reader::new(&welcome);
            let time = Seconds(reader.u64()?);
            let length = usize::from(reader.u16()?);
            let hello = reader.bytes(length)?;
            let card = Card::from_bytes(hello).map_err(|_| ClientError::Stranger)?;
            let known = peer(stream.get_ref().1).map(ReplicaId::from);
            let is_member = card.members().iter().any(|it| Some(it.id) == known);
            if *card.realm() != self.realm || !is_member {
                return Err(ClientError::Stranger);
            }
            let shown = Evidence::from_bytes(reader.rest())?;
            self.verifier
                .verify(&shown, &bound(&exported, LISTENS, hello))?;
            Ok(Channel {
                stream,
                card,
                time: (time, Instant::now()),
            })
        };
        match timeout(CONNECT_MAX, connecting).await {
            Ok(channel) => channel.map_err(ClientError::of_anybody),
            Err(_) => Err(ClientError::Absent("it does not answer in time".to_owned())),
        }
    }

    /// A channel on which something fails is not used again.
    async fn ask_at(
        &self,
        mut channel: Channel,
        operation: &[u8],
    ) -> Result<(Channel, Result<Bytes, AskError>), ClientError> {
        let (Seconds(time), since) = channel.time;
        let life = since.elapsed().as_secs().saturating_add(TOKEN_LIFE);
        let expires = Seconds(time.saturating_add(life));
        let Access { account, tenant } = &*self.access;
        let token = Token::issue(account.clone(), &self.realm, expires, tenant);
        let question = put_ask(&token, operation);
        let most = 1 + Class::View.bytes();
        let asked = channel::ask(&mut channel.stream, ASK, &question, most);
        match timeout(ANSWER_MAX, asked).await {
            Ok(reply) => Ok((channel, read_reply(&reply?)?)),
            Err(_) => Err(ClientError::Absent("it does not answer in time".to_owned())),
        }
    }

    /// When the realm's group began and how large it is, as its card says. Nothing is asked of a record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn card(&self, patience: Duration) -> Result<Card, ClientError> {
        let mut failures = Failures::none();
        let asking = async {
            for address in &self.addresses {
                match self.connect(address).await {
                    Ok(channel) => return Some(channel.card),
                    Err(error) => failures.add(error),
                }
            }
            None
        };
        match timeout(patience, asking).await {
            Ok(Some(card)) => Ok(card),
            Ok(None) | Err(_) => Err(failures.worst),
        }
    }
}

impl Channel {
    fn address(&self, member: ReplicaId) -> Option<String> {
        let members = &mut self.card.members().iter();
        let found = members.find(|found| found.id == member);
        found.map(|found| found.address.clone())
    }
}
