//! A client's way to one realm: to the group that has its record, wherever that moves.

use std::{sync::Arc, time::Duration};

use junto_crypto::{Zeroizing, ed25519::SigningKey};
use junto_vault::{Account, Answer, Class, GroupId, Operation, RealmId, Refusal, Token};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::{
    Card,
    asking::{ASK, CARD, CARD_ANSWER_BYTES_MAX, put_ask, read_card},
    evidence::{Accepted, Verifier},
    links::Bytes,
    reach::{Channel, ClientError, Failures, PAUSE, Question, Reach, Way},
    read::Malformed,
};

/// Addresses of one realm at most.
pub const ADDRESSES_MAX: usize = junto_vault::REPLICAS_MAX as usize;
/// Longest wait for one answer of one replica.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// How often in one question a client lets itself be sent on by the group that it was sent to. There are as many on the way as ranges
/// moved since it asked last; more are groups that point at each other.
const REDIRECTS_MAX: usize = 32;
/// So many are followed without a pause.
const REDIRECTS_FREE: usize = 3;
/// So often in a row a group is asked for what is on its way there, before others are asked.
const WAITS_MAX: usize = 3;
/// Seconds of the group's time that a token is good for.
const TOKEN_LIFE: u64 = 300;

/// Who asks: an account, and the key of its tenant, with which its tokens are made.
pub struct Access {
    /// Whose record it is.
    pub account: Account,
    /// Signs tokens.
    pub tenant: SigningKey,
}

/// One realm, as a client reaches it.
pub struct RealmClient {
    reach: Reach,
    addresses: Vec<String>,
    access: Arc<Access>,
    /// To the group that served it last.
    way: Mutex<Way>,
}

/// An operation on a record.
struct Asked<'a> {
    access: &'a Access,
    realm: &'a RealmId,
    operation: &'a [u8],
    class: Class,
}

impl Question for Asked<'_> {
    type Answer = Answer;
    // The largest of them.
    const MOST: usize = Class::View.bytes();
    const LONGEST: Duration = ANSWER_MAX;

    fn put(&self, channel: &Channel) -> (u8, Bytes) {
        let Access { account, tenant } = self.access;
        let expires = channel.in_seconds(TOKEN_LIFE);
        let token = Token::issue(account.clone(), self.realm, expires, tenant);
        (ASK, put_ask(&token, self.operation))
    }

    fn read(&self, answer: &[u8]) -> Result<Answer, Malformed> {
        Answer::from_bytes(answer, self.class).map_err(|_| Malformed)
    }
}

/// The card of a group, asked of the one that sends us there.
struct CardOf<'a> {
    group: GroupId,
    realm: &'a RealmId,
}

impl Question for CardOf<'_> {
    type Answer = Option<Card>;
    const MOST: usize = CARD_ANSWER_BYTES_MAX;
    const LONGEST: Duration = ANSWER_MAX;

    fn put(&self, _: &Channel) -> (u8, Bytes) {
        (CARD, Zeroizing::new(self.group.0.to_vec()))
    }

    fn read(&self, answer: &[u8]) -> Result<Option<Card>, Malformed> {
        read_card(answer, &self.group, self.realm)
    }
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
            reach: Reach::new(realm, Arc::new(accepted))?,
            way: Mutex::new(Way::new(addresses.clone())),
            addresses,
            access,
        })
    }

    /// Evidence is judged by that one.
    #[must_use]
    pub fn judged_by(mut self, verifier: Arc<dyn Verifier>) -> Self {
        self.reach.judged_by(verifier);
        self
    }

    /// Which realm.
    #[must_use]
    pub fn realm(&self) -> &RealmId {
        self.reach.realm()
    }

    /// Asks until there is an answer, for so long at most. Every operation may be asked again: the realm charges a guess
    /// once, and what is done already is no error. Where the record has moved, or while it is on its way, the group is asked to
    /// which it goes: [`Refusal::Elsewhere`] and [`Refusal::Moving`] are never answers.
    ///
    /// # Errors
    /// [`ClientError`], the last one when it gave up.
    pub async fn ask(
        &self,
        operation: &Operation,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        let bytes = operation.to_bytes();
        let question = Asked {
            access: &self.access,
            realm: self.realm(),
            operation: &bytes,
            class: operation.class(),
        };
        let mut failures = Failures::none();
        let asking = self.follow(&question, &mut failures);
        match timeout(patience, asking).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(failures.worst),
        }
    }

    /// None when it is of no use to go on.
    async fn follow(&self, question: &Asked<'_>, failures: &mut Failures) -> Option<Answer> {
        let mut way = self.way.lock().await;
        let (mut waited, mut followed, mut sent_to) = (0, 0, None);
        loop {
            let group = match self.reach.ask(&mut way, question, failures).await? {
                Answer::Refused(Refusal::Moving) => {
                    failures.add(absent("what it keeps for us is on its way"));
                    waited += 1;
                    // It may never leave: then whoever had it has it still.
                    if waited % WAITS_MAX == 0 {
                        way.skip();
                    }
                    sleep(PAUSE).await;
                    continue;
                }
                Answer::Refused(Refusal::Elsewhere(Some(group))) => group,
                // The next address may be one of a group that knows. There is a pause behind the last one.
                Answer::Refused(refusal @ Refusal::Elsewhere(None)) => {
                    failures.add(absent(&refusal.to_string()));
                    way.skip();
                    continue;
                }
                answer => return Some(answer),
            };
            // Groups that send us on are counted; a group that is away, so that others are asked in its place, is waited for.
            let is_there = sent_to.is_none() || sent_to == way.group();
            followed += usize::from(is_there);
            if followed == REDIRECTS_MAX {
                failures.add(absent("its groups send us to each other"));
                return None;
            }
            if !is_there || followed > REDIRECTS_FREE {
                sleep(PAUSE).await;
            }
            let realm = self.realm();
            match self
                .reach
                .ask(&mut way, &CardOf { group, realm }, failures)
                .await?
            {
                Some(card) => {
                    *way = self.way_to(&card);
                    sent_to = Some(group);
                }
                // It was another leader's word, which has not come so far.
                None => {
                    failures.add(absent("it does not say where its records are"));
                    way.skip();
                }
            }
        }
    }

    /// To that group; and if it is not there, to those that were known before.
    fn way_to(&self, card: &Card) -> Way {
        let members = card.members().iter().map(|member| &member.address);
        let known = self.addresses.iter();
        let known = known.filter(|it| card.members().iter().all(|member| member.address != **it));
        Way::new(members.chain(known).cloned().collect())
    }

    /// When the realm's group began and how large it is, as its card says. Nothing is asked of a record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn card(&self, patience: Duration) -> Result<Card, ClientError> {
        let mut failures = Failures::none();
        let asking = self.reach.card(&self.addresses, &mut failures);
        match timeout(patience, asking).await {
            Ok(Some(card)) => Ok(card),
            Ok(None) | Err(_) => Err(failures.worst),
        }
    }
}

fn absent(why: &str) -> ClientError {
    ClientError::Absent(why.to_owned())
}

#[cfg(test)]
mod tests;
