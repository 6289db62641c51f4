//! A frontend: whom clients connect to in place of a realm's replicas. It passes each question on to the group that has the record, over
//! channels of its own, and follows where records move.
//!
//! It keeps nothing that matters: which group answered whom last, cards, open channels. Whoever starts another one, or two, changes
//! nothing. What it passes back is a member's signed word to the bytes of the question (`said`), so it can be silent, and cannot
//! answer. It sees what it passes on: so it shows evidence, as replicas do, and judges theirs.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use junto_crypto::Zeroizing;
use junto_vault::{Account, Answer, Class, GroupId, Pass, RealmId, Refusal, Unauthorised};
use rustls::ServerConfig;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    AskError, Attestation, BootKey, Card, ClientError, Evidence, Verifier,
    asking::{QUESTION_BYTES_MAX, put_reply, read_ask},
    channel::Question as Incoming,
    evidence::proof,
    groups::{ANSWER_MAX, Groups, Heard},
    keys::MemberTls,
    links::{Bytes, HELLO, LISTENS, bound},
    reach::{Channel, Failures, Question, Reach, Way},
    read::Malformed,
    said::{PASSED, SAID_BYTES_MAX, STAMP, STAMP_BYTES_MAX, put_front, read_passed, read_said},
    serve::{CLIENT_MAX, CLIENTS_MAX, IDLE_MAX, admitted, handshake, refused},
};

/// Questions of one connection; a client makes another one then.
const QUESTIONS_MAX: usize = 1000;
/// Tokens that are worth nothing on one connection: whoever made them asks replicas for work.
const UNAUTHORISED_MAX: usize = 3;
/// Questions under way at a time. A replica has places for four such frontends.
const UNDER_WAY_MAX: usize = CLIENTS_MAX / 4;
/// Longest time for one question: less than clients wait for it, so that none is asked for any more when its client asks elsewhere.
const WORK_MAX: Duration = Duration::from_secs(3);
const _: () = assert!(WORK_MAX.as_millis() < ANSWER_MAX.as_millis());
/// Longest wait for a group's time, for a client that waits three seconds.
const STAMP_MAX: Duration = Duration::from_millis(2500);
/// So long a group's time is told to all who come.
const STAMP_LIFE: Duration = Duration::from_secs(10);
/// Channels that are kept while nobody uses them.
const CHANNELS_MAX: usize = 32;
/// Accounts of which it is remembered who answered: some 600 bytes each at most.
const ROUTES_MAX: usize = 4096;
/// Groups whose cards are remembered: 4 KB each at most.
const CARDS_MAX: usize = 64;

/// What a frontend is and knows when it starts.
pub struct Frontend {
    /// Its key of this start.
    pub key: BootKey,
    /// Whose frontend it is.
    pub realm: RealmId,
    /// The realm's word for its key.
    pub pass: Pass,
    /// Where it looks for a group of the realm.
    pub addresses: Vec<String>,
    /// What it shows of its machine.
    pub attestation: Arc<dyn Attestation>,
    /// What it wants to be shown by replicas.
    pub verifier: Arc<dyn Verifier>,
}

impl Frontend {
    /// Serves clients until it is dropped or aborted.
    ///
    /// # Errors
    /// What the system says when it accepts no connection any more, and TLS of our own settings.
    pub async fn serve(self, clients: TcpListener) -> io::Result<()> {
        let front = Arc::new(Front::new(self).map_err(io::Error::other)?);
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        let mut tasks = JoinSet::new();
        loop {
            // What has ended is let go of.
            while tasks.try_join_next().is_some() {}
            if let Some((tcp, place)) = admitted(clients.accept().await, &places).await? {
                let front = front.clone();
                tasks.spawn(async move {
                    let _ = front.client(tcp).await;
                    drop(place);
                });
            }
        }
    }

    /// Whether a replica is there whose evidence will do.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn check(&self, patience: Duration) -> Result<(), ClientError> {
        let reach = Reach::new(self.realm, self.verifier.clone());
        let reach = reach.map_err(|error| ClientError::Absent(error.to_string()))?;
        let mut failures = Failures::none();
        match timeout(patience, reach.card(&self.addresses, &mut failures)).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => Err(failures.worst),
        }
    }
}

/// A question that is passed on.
struct Passed<'a> {
    realm: &'a RealmId,
    body: &'a [u8],
    class: Class,
}

/// What was said to it: passed back as it is.
struct Back {
    bytes: Bytes,
    refusal: Option<Refusal>,
}

impl Heard for Back {
    fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }
}

impl Question for Passed<'_> {
    type Answer = Back;
    const MOST: usize = SAID_BYTES_MAX + Class::View.bytes();
    const LONGEST: Duration = WORK_MAX;

    fn put(&self, _: &Channel) -> (u8, Bytes) {
        (PASSED, Zeroizing::new(self.body.to_vec()))
    }

    fn read(&self, (kind, body): &(u8, Bytes), answer: &[u8]) -> Result<Back, Malformed> {
        let (_, said) = read_said(answer, self.realm, (*kind, &body[..]))?;
        let said = Answer::from_bytes(said, self.class).map_err(|_| Malformed)?;
        Ok(Back {
            bytes: Zeroizing::new(answer.to_vec()),
            refusal: said.refusal(),
        })
    }
}

struct Stamp<'a>(&'a RealmId);

impl Question for Stamp<'_> {
    type Answer = Bytes;
    const MOST: usize = STAMP_BYTES_MAX;
    const LONGEST: Duration = STAMP_MAX;

    fn put(&self, _: &Channel) -> (u8, Bytes) {
        (STAMP, Zeroizing::new(Vec::new()))
    }

    fn read(&self, _: &(u8, Bytes), answer: &[u8]) -> Result<Bytes, Malformed> {
        read_said(answer, self.0, (STAMP, b""))?;
        Ok(Zeroizing::new(answer.to_vec()))
    }
}

/// Soft: each of these may be forgotten at any time.
#[derive(Default)]
struct Memory {
    /// The group that answered last.
    routes: BTreeMap<Account, GroupId>,
    cards: BTreeMap<GroupId, Card>,
    idle: Vec<Way>,
}

struct Front {
    groups: Groups,
    tls: Arc<ServerConfig>,
    pass: Pass,
    attestation: Arc<dyn Attestation>,
    memory: Mutex<Memory>,
    under_way: Semaphore,
    /// A member's word on the group's time, and when it came.
    stamp: tokio::sync::Mutex<Option<(Instant, Bytes)>>,
}

impl Front {
    fn new(settings: Frontend) -> Result<Self, rustls::Error> {
        let reach = Reach::new(settings.realm, settings.verifier)?;
        Ok(Self {
            groups: Groups::new(reach, settings.addresses),
            tls: MemberTls::new(&settings.key, &[])?.clients,
            pass: settings.pass,
            attestation: settings.attestation,
            memory: Mutex::default(),
            under_way: Semaphore::new(UNDER_WAY_MAX),
            stamp: tokio::sync::Mutex::default(),
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing under this lock panics.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To the group that answered that account last, if one did.
    fn way(&self, account: Option<&Account>) -> Way {
        let mut memory = self.memory();
        let group = account.and_then(|account| memory.routes.get(account).copied());
        let fits = |way: &Way| group.is_none() || way.group() == group;
        if let Some(at) = memory.idle.iter().position(fits) {
            return memory.idle.swap_remove(at);
        }
        let card = group.and_then(|group| memory.cards.get(&group));
        card.map_or_else(|| self.groups.way(), |card| self.groups.way_to(card))
    }

    fn remember(&self, account: Option<&Account>, way: Way) {
        let Some(card) = way.card() else { return };
        let (mut memory, group) = (self.memory(), card.group());
        if !memory.cards.contains_key(&group) {
            if memory.cards.len() >= CARDS_MAX {
                memory.cards.clear();
            }
            memory.cards.insert(group, card.clone());
        }
        if let Some(account) = account {
            if memory.routes.len() >= ROUTES_MAX {
                memory.routes.clear();
            }
            memory.routes.insert(account.clone(), group);
        }
        if memory.idle.len() < CHANNELS_MAX {
            memory.idle.push(way);
        }
    }

    /// There was no answer: channels may be dead that look open, and who is asked first may be.
    fn forget(&self, account: Option<&Account>) {
        self.groups.begin_elsewhere();
        let mut memory = self.memory();
        memory.idle.clear();
        if let Some(account) = account {
            memory.routes.remove(account);
        }
    }

    async fn client(&self, tcp: TcpStream) -> io::Result<()> {
        let (mut stream, exported) = handshake(&self.tls, tcp).await?;
        let (mut shown, mut unauthorised) = (None, 0);
        for _ in 0..QUESTIONS_MAX {
            let read = Incoming::read(&mut stream, QUESTION_BYTES_MAX);
            let question = timeout(IDLE_MAX, read).await??;
            let answering = async {
                match question.kind() {
                    HELLO if question.body().is_empty() => self.hello(&exported, &mut shown).await,
                    PASSED => self.passed(question.body(), &mut unauthorised).await,
                    _ => Err(io::ErrorKind::InvalidData.into()),
                }
            };
            let answer = tokio::select! {
                answer = answering => answer?,
                // Whoever asked is gone, or asks twice at a time: what it asked is not asked for any more.
                _ = stream.read_u8() => return Err(io::ErrorKind::ConnectionAborted.into()),
            };
            timeout(CLIENT_MAX, question.answer(&mut stream, &answer)).await??;
            if unauthorised >= UNAUTHORISED_MAX {
                break;
            }
        }
        Ok(())
    }

    async fn hello(&self, exported: &[u8; 32], shown: &mut Option<Evidence>) -> io::Result<Bytes> {
        let stamp = self.stamp().await?;
        // Once for each connection: the hardware has to do with one at a time.
        if shown.is_none() {
            let bound = bound(exported, LISTENS, &self.pass.to_bytes());
            *shown = Some(timeout(CLIENT_MAX, proof(&self.attestation, bound)).await??);
        }
        let shown = shown.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(put_front(&self.pass, &stamp, shown))
    }

    /// One asks for all who come.
    async fn stamp(&self) -> io::Result<Bytes> {
        let mut last = self.stamp.lock().await;
        if let Some((_, stamp)) = last.as_ref().filter(|(at, _)| at.elapsed() < STAMP_LIFE) {
            return Ok(stamp.clone());
        }
        let (mut way, mut failures) = (self.way(None), Failures::none());
        let (question, reach) = (Stamp(self.groups.reach.realm()), &self.groups.reach);
        let asking = reach.ask(&mut way, &question, &mut failures);
        let Ok(Some(stamp)) = timeout(STAMP_MAX, asking).await else {
            self.forget(None);
            return Err(io::Error::other(failures.worst));
        };
        self.remember(None, way);
        *last = Some((Instant::now(), stamp.clone()));
        Ok(stamp)
    }

    async fn passed(&self, body: &[u8], unauthorised: &mut usize) -> io::Result<Bytes> {
        let realm = self.groups.reach.realm();
        let ask = read_passed(body).map_err(refused)?;
        let (token, operation) = read_ask(ask, realm).map_err(refused)?;
        let account = token.account();
        let question = Passed {
            realm,
            body,
            class: operation.class(),
        };
        drop(operation);
        let mut failures = Failures::none();
        let asking = async {
            let _place = self.under_way.acquire().await.ok()?;
            let mut way = self.way(Some(account));
            let groups = &self.groups;
            let answer = groups.follow(&mut way, &question, &mut failures).await;
            Some((way, answer))
        };
        let asked = timeout(WORK_MAX, asking).await;
        Ok(put_reply(match asked {
            // It is not there, or not yet: the next question looks for it anew.
            Ok(Some((way, Some(answer)))) if answer.refusal.is_some() => {
                self.remember(None, way);
                self.memory().routes.remove(account);
                Ok(answer.bytes)
            }
            Ok(Some((way, Some(answer)))) => {
                self.remember(Some(account), way);
                Ok(answer.bytes)
            }
            Ok(Some((way, None))) if matches!(failures.worst, ClientError::Unauthorised) => {
                self.remember(None, way);
                *unauthorised += 1;
                // Whoever comes again is told the time anew.
                *self.stamp.lock().await = None;
                Err(AskError::Unauthorised(Unauthorised))
            }
            _ => {
                self.forget(Some(account));
                Err(AskError::Behind)
            }
        }))
    }
}

#[cfg(test)]
mod tests;
