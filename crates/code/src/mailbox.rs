//! Mailboxes: queues of a relay that carry the frames of an exchange (`docs/spec/code.md` §2).
//!
//! The host's is a contact queue with link data, since the name that senders know such a queue by follows from a name
//! that its creator chooses: here one that follows from the code's number. Every SMP relay that knows short links has it.

use core::num::NonZeroU8;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use junto_agent::client::{ClientError, ClientOptions, Notice, Notices, Password, RelayClient};
use junto_agent::proto::{Answer, Auth, LinkParts, NewLink, Operation, RelayNotice, Token};
use junto_crypto::x25519;
use junto_smp::address::ServerAddress;
use junto_smp::command::QueueMode;
use junto_smp::id::{LinkId, MessageId, RecipientId, SenderId};
use junto_smp::key::AuthSecret;
use junto_smp::message::{Delivered, DeliveryKey};
use junto_tls::ClientTls;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use zeroize::Zeroizing;

use crate::code::{Code, Number};
use crate::exchange::{Host, Joiner, Reply, Turned, Verdict};

/// How long a code can be used.
pub const LIFE: Duration = Duration::from_secs(10 * 60);
/// How long a joiner waits for each frame of the host.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Numbers that are tried until one is free.
const NUMBERS_TRIED: u8 = 9;
/// Pause before a host connects again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long taking a queue away may take. What is left of it says nothing and leads nowhere.
const FAREWELL: Duration = Duration::from_secs(3);
/// Messages of a queue that a relay may send before they are taken; an honest one sends one and waits.
const INBOX_MAX: usize = 4;

/// A relay, and how to reach it.
pub struct Place {
    /// Its address.
    pub relay: ServerAddress,
    /// SOCKS server and timeouts.
    pub options: ClientOptions,
    /// What it demands of who creates queues.
    pub password: Option<Arc<Password>>,
}

/// Why a code led to nothing.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// No connection to the relay, or it was lost.
    #[error(transparent)]
    Relay(#[from] ClientError),
    /// The relay makes no queue for us.
    #[error("the relay makes no mailbox")]
    NoQueue,
    /// It had the mailbox, and has it no more.
    #[error("the relay has lost the mailbox")]
    Lost,
    /// There is no mailbox of this number.
    #[error("no code with this number is in use on that relay")]
    NoMailbox,
    /// No host answers.
    #[error("nobody answers to the code")]
    Silent,
    /// The exchange failed, at the joiner.
    #[error("the code was refused")]
    Turned(Turned),
    /// The exchange failed, at the host: somebody confirmed another key.
    #[error("somebody tried a wrong code")]
    Wrong,
    /// Too many asked the host.
    #[error("too many asked for the code")]
    Flooded,
    /// Nothing certain came after this side had confirmed: whoever sits there may have had its guess.
    #[error("the exchange broke off after this side had shown that it knows the code")]
    Unfinished,
    /// All numbers that were tried are in use.
    #[error("no number for a code is free on the relay")]
    NoNumber,
    /// Our bug, or no randomness.
    #[error("internal error: {0}")]
    Defect(&'static str),
}

/// What becomes of a code while it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A joiner has the link; the code is used up when none is left.
    Admitted {
        /// How many more may have it.
        left: u8,
    },
    /// Its life is over.
    Expired,
    /// More begin than confirm: others are told to come again.
    Crowded,
    /// Somebody confirmed another key: the code is dead.
    Wrong,
    /// Too many asked: the code is dead.
    Flooded,
}

fn random() -> impl junto_crypto::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// A connection to the relay, with one queue of ours.
struct Line {
    client: RelayClient,
    notices: Notices,
    last: u64,
    inbox: VecDeque<(RecipientId, MessageId, Bytes)>,
}

impl Line {
    async fn open(place: &Place) -> Result<Self, MailboxError> {
        let tls = ClientTls::new().map_err(|_| MailboxError::Defect("TLS"))?;
        let password = place.password.clone();
        let opened = RelayClient::connect(&tls, &place.relay, &place.options, password).await?;
        let (client, notices) = opened;
        Ok(Self {
            client,
            notices,
            last: 0,
            inbox: VecDeque::new(),
        })
    }

    /// The next notice; what is no answer is kept.
    async fn notice(&mut self) -> Result<Option<(Token, Answer)>, ClientError> {
        match self.notices.next().await {
            Some(Notice::Answer { token, answer }) => Ok(Some((token, answer))),
            Some(Notice::Relay(RelayNotice::Message {
                queue,
                message,
                sealed,
            })) => {
                if self.inbox.len() >= INBOX_MAX {
                    return Err(junto_agent::client::ProtocolFault::Answer.into());
                }
                self.inbox.push_back((queue, message, sealed));
                Ok(None)
            }
            Some(Notice::Down(error)) => Err(error),
            // The queue is gone, or nothing more comes on it: connecting again tells which.
            Some(Notice::Relay(RelayNotice::Ended { .. } | RelayNotice::Deleted { .. })) | None => {
                Err(ClientError::Timeout)
            }
        }
    }

    async fn call(&mut self, operation: Operation) -> Result<Answer, ClientError> {
        self.last += 1;
        let token = Token(self.last);
        if self.client.send(token, operation).await.is_err() {
            // The notices tell why.
            while let Some(notice) = self.notices.next().await {
                if let Notice::Down(error) = notice {
                    return Err(error);
                }
            }
            return Err(ClientError::Timeout);
        }
        loop {
            // An answer to a call that was given up is nobody's.
            if let Some((_, answer)) = self.notice().await?.filter(|(it, _)| *it == token) {
                return Ok(answer);
            }
        }
    }

    async fn send(&mut self, to: SenderId, frame: Vec<u8>) -> Result<Answer, ClientError> {
        let body = Bytes::from(frame);
        let send = Operation::Send {
            queue: to,
            auth: None,
            body,
        };
        self.call(send).await
    }

    /// The next message of the queue, acknowledged; nothing for one that the relay garbled.
    async fn message(&mut self, queue: &Queue) -> Result<Option<Vec<u8>>, ClientError> {
        let (name, message, sealed) = loop {
            match self.inbox.pop_front() {
                Some(waiting) => break waiting,
                None => _ = self.notice().await?,
            }
        };
        if name != queue.recipient {
            return Ok(None);
        }
        let opened = queue.delivery.open(&message, &sealed).ok();
        let body = opened.and_then(|opened| match opened.content() {
            Delivered::Message { body, .. } => Some(body.to_vec()),
            Delivered::QuotaReached { .. } => None,
        });
        let acknowledge = Operation::Acknowledge {
            queue: queue.recipient,
            auth: Arc::clone(&queue.auth),
            message,
        };
        self.call(acknowledge).await?;
        Ok(body)
    }

    /// Makes a queue; `None` if the relay refuses.
    async fn create(
        &mut self,
        mode: QueueMode,
        link: Option<Box<NewLink>>,
    ) -> Result<Option<Queue>, MailboxError> {
        let auth: Auth = Arc::new(AuthSecret::generate(&mut random()));
        let secret = x25519::SecretKey::generate(&mut random());
        let create = Operation::Create {
            auth: Arc::clone(&auth),
            delivery_key: secret.public_key(),
            mode,
            link,
        };
        let Answer::Created {
            recipient_id,
            sender_id,
            relay_key,
            ..
        } = self.call(create).await?
        else {
            return Ok(None);
        };
        let shared = secret.diffie_hellman(&relay_key);
        let shared = shared.map_err(|_| MailboxError::NoQueue)?;
        Ok(Some(Queue {
            recipient: recipient_id,
            sender: sender_id,
            auth,
            delivery: DeliveryKey::new(&shared),
        }))
    }

    /// Takes the queue away and ends the connection, if the relay is quick.
    async fn close(mut self, queue: &Queue) {
        let delete = Operation::Delete {
            queue: queue.recipient,
            auth: Arc::clone(&queue.auth),
        };
        let _ = timeout(FAREWELL, self.call(delete)).await;
    }
}

struct Queue {
    recipient: RecipientId,
    sender: SenderId,
    auth: Auth,
    delivery: DeliveryKey,
}

/// A host's mailbox, and the code that leads to it.
pub struct Mailbox {
    place: Place,
    /// None between two connections.
    line: Option<Line>,
    queue: Queue,
    code: Code,
    began: Instant,
    end: Instant,
}

impl Mailbox {
    /// Makes a mailbox with a fresh code, whose life begins: [`LIFE`], where nothing else is needed.
    ///
    /// # Errors
    /// [`MailboxError::Relay`], [`MailboxError::NoQueue`].
    pub async fn open(place: Place, life: Duration) -> Result<Self, MailboxError> {
        let mut line = Line::open(&place).await?;
        for tried in 0..NUMBERS_TRIED {
            let number = Number::random(tried, &mut random());
            let Some(queue) = line
                .create(QueueMode::Contact, new_link(number, &place))
                .await?
            else {
                continue; // taken, or no queues for us at all
            };
            if queue.sender != name_of(number, &place) {
                return Err(MailboxError::NoQueue);
            }
            let code = Code::random(number, &mut random());
            return Ok(Self {
                place,
                line: Some(line),
                queue,
                code,
                began: Instant::now(),
                end: Instant::now() + life,
            });
        }
        Err(MailboxError::NoNumber)
    }

    /// To be told to the joiners.
    #[must_use]
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Gives the link to `uses` joiners that know the code, and tells of each. Once the code is used up or expired it goes on
    /// to turn joiners away, so that they hear why and nobody takes the mailbox's place. May be dropped at any time; then only
    /// [`Mailbox::close`] is left.
    ///
    /// Returns why it had to end: [`MailboxError::Wrong`] at the first wrong guess: the code is dead; whatever the relay does
    /// afterwards, this is said. [`MailboxError::Flooded`], [`MailboxError::Lost`]; [`MailboxError::Relay`] if the relay breaks
    /// the protocol. A relay that is out of reach is tried again.
    pub async fn serve(
        &mut self,
        link: &str,
        uses: NonZeroU8,
        mut tell: impl FnMut(Told),
    ) -> MailboxError {
        let host = Host::new(&self.code, &self.place.relay.fingerprint(), link, uses);
        let Some(mut host) = host else {
            return MailboxError::Defect("the link is too long");
        };
        let end = self.end;
        let mut outbox = VecDeque::new();
        loop {
            let over = host.is_over();
            let pass = self.pass(&mut host, &mut outbox);
            let heard = if over {
                pass.await
            } else if let Ok(heard) = timeout_at(end, pass).await {
                heard
            } else {
                outbox.extend(host.expire());
                tell(Told::Expired);
                continue;
            };
            match heard {
                Ok(None) => {}
                Ok(Some(Verdict::Admitted { left })) => tell(Told::Admitted { left }),
                Ok(Some(Verdict::Crowded)) => tell(Told::Crowded),
                Ok(Some(Verdict::Wrong)) => {
                    tell(Told::Wrong);
                    self.part(&mut host, &mut outbox).await;
                    return MailboxError::Wrong;
                }
                Ok(Some(Verdict::Flooded)) => {
                    tell(Told::Flooded);
                    self.part(&mut host, &mut outbox).await;
                    return MailboxError::Flooded;
                }
                Err(MailboxError::Relay(error)) if error.is_temporary() => self.line = None,
                Err(error) => return error,
            }
        }
    }

    /// Tells the joiners how it ended, if the relay is quick.
    async fn part(&mut self, host: &mut Host, outbox: &mut VecDeque<Reply>) {
        let told = async { while !outbox.is_empty() && self.pass(host, outbox).await.is_ok() {} };
        let _ = timeout(FAREWELL, told).await;
    }

    /// One message in, or one out.
    async fn pass(
        &mut self,
        host: &mut Host,
        outbox: &mut VecDeque<Reply>,
    ) -> Result<Option<Verdict>, MailboxError> {
        let line = match &mut self.line {
            Some(line) => line,
            None => {
                sleep(PAUSE).await;
                let line = resume(&self.place, &self.queue).await?;
                self.line.insert(line)
            }
        };
        if let Some(reply) = outbox.front() {
            // A joiner that is gone refuses nothing to the others.
            line.send(reply.to, reply.frame.clone()).await?;
            outbox.pop_front();
            return Ok(None);
        }
        let Some(body) = line.message(&self.queue).await? else {
            return Ok(None);
        };
        let heard = host.hear(self.began.elapsed(), &body, &mut random());
        outbox.extend(heard.replies);
        Ok(heard.verdict)
    }

    /// Takes the mailbox away: the number is free again.
    pub async fn close(self) {
        if let Some(line) = self.line {
            line.close(&self.queue).await;
        }
    }
}

/// The connection again after it was lost.
async fn resume(place: &Place, queue: &Queue) -> Result<Line, MailboxError> {
    let mut line = Line::open(place).await?;
    let subscribe = Operation::Subscribe {
        queue: queue.recipient,
        auth: Arc::clone(&queue.auth),
    };
    match line.call(subscribe).await? {
        Answer::Refused(_) => Err(MailboxError::Lost),
        Answer::Created { .. } | Answer::Link(_) | Answer::Done => Ok(line),
    }
}

/// The mailbox's name for senders.
fn name_of(number: Number, place: &Place) -> SenderId {
    number
        .correlation(&place.relay.fingerprint())
        .derived_sender_id()
}

/// The link data that a mailbox needs to have a name of our choice. Nobody reads it.
fn new_link(number: Number, place: &Place) -> Option<Box<NewLink>> {
    Some(Box::new(NewLink {
        correlation: number.correlation(&place.relay.fingerprint()),
        id: Some(LinkId::random(&mut random())),
        parts: LinkParts {
            fixed: Bytes::new(),
            user: Bytes::new(),
        },
    }))
}

/// Exchanges a code for the link that it stands for. `keep` has the link before anything else is done: the host has counted
/// this use of the code.
///
/// # Errors
/// [`MailboxError::NoMailbox`], [`MailboxError::Silent`], [`MailboxError::Turned`], [`MailboxError::Relay`],
/// [`MailboxError::NoQueue`].
pub async fn redeem(
    place: &Place,
    code: &Code,
    keep: impl FnOnce(&str),
) -> Result<Zeroizing<String>, MailboxError> {
    let mut line = Line::open(place).await?;
    let queue = line.create(QueueMode::Messaging, None).await?;
    let queue = queue.ok_or(MailboxError::NoQueue)?;
    let link = ask(&mut line, &queue, place, code).await;
    if let Ok(link) = &link {
        keep(link);
    }
    line.close(&queue).await;
    link
}

async fn ask(
    line: &mut Line,
    queue: &Queue,
    place: &Place,
    code: &Code,
) -> Result<Zeroizing<String>, MailboxError> {
    let mailbox = name_of(code.number(), place);
    let relay = place.relay.fingerprint();
    let begun = Joiner::start(code, &relay, queue.sender, &mut random());
    let (joiner, hello) = begun.ok_or(MailboxError::Defect("SPAKE2"))?;
    to_host(line, mailbox, hello).await?;
    let answer = from_host(line, queue).await?;
    let (asking, confirm) = joiner.answer(&answer).map_err(MailboxError::Turned)?;
    // With the confirmation goes our only guess: what breaks off from here on is no reason to try again.
    let unfinished = |_| MailboxError::Unfinished;
    to_host(line, mailbox, confirm).await.map_err(unfinished)?;
    let link = loop {
        let link = from_host(line, queue).await.map_err(unfinished)?;
        // A host whose connection broke says it twice.
        if link != answer {
            break link;
        }
    };
    asking.link(&link).map_err(MailboxError::Turned)
}

async fn to_host(line: &mut Line, mailbox: SenderId, frame: Vec<u8>) -> Result<(), MailboxError> {
    use junto_agent::proto::Refusal;
    match line.send(mailbox, frame).await? {
        Answer::Refused(Refusal::Auth) => Err(MailboxError::NoMailbox),
        // Nobody empties it.
        Answer::Refused(_) => Err(MailboxError::Silent),
        Answer::Created { .. } | Answer::Link(_) | Answer::Done => Ok(()),
    }
}

/// The host's next frame. Who knows the name of our queue is the host, and the relay.
async fn from_host(line: &mut Line, queue: &Queue) -> Result<Vec<u8>, MailboxError> {
    let message = async {
        loop {
            if let Some(body) = line.message(queue).await? {
                return Ok(body);
            }
        }
    };
    let heard = timeout(PATIENCE, message).await;
    heard.unwrap_or(Err(MailboxError::Silent))
}

impl core::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Mailbox")
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}
