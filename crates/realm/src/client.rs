//! A client's way to one realm: to the group that has its record, wherever that moves.

use std::{sync::Arc, time::Duration};

use junto_crypto::ed25519::SigningKey;
use junto_vault::{Account, Answer, Class, Operation, RealmId, Token};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    Card,
    asking::{ASK, put_ask},
    evidence::{Accepted, Verifier},
    groups::{ANSWER_MAX, Groups},
    links::Bytes,
    reach::{Channel, ClientError, Failures, Question, Reach, Way},
    read::Malformed,
    said::{PASSED, SAID_BYTES_MAX, put_passed, read_said},
};

/// Addresses of one realm at most.
pub const ADDRESSES_MAX: usize = junto_vault::REPLICAS_MAX as usize;
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
    groups: Groups,
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
    const MOST: usize = SAID_BYTES_MAX + Class::View.bytes();
    const LONGEST: Duration = ANSWER_MAX;

    fn put(&self, channel: &Channel) -> (u8, Bytes) {
        let Access { account, tenant } = self.access;
        let expires = channel.in_seconds(TOKEN_LIFE);
        let token = Token::issue(account.clone(), self.realm, expires, tenant);
        let ask = put_ask(&token, self.operation);
        match channel.is_frontend {
            true => (PASSED, put_passed(&ask)),
            false => (ASK, ask),
        }
    }

    fn read(&self, (kind, body): &(u8, Bytes), answer: &[u8]) -> Result<Answer, Malformed> {
        let answer = match *kind {
            PASSED => read_said(answer, self.realm, (PASSED, &body[..]))?.1,
            _ => answer,
        };
        Answer::from_bytes(answer, self.class).map_err(|_| Malformed)
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
        let reach = Reach::new(realm, Arc::new(accepted))?.or_frontends();
        let groups = Groups::new(reach, addresses);
        Ok(Self {
            way: Mutex::new(groups.way()),
            groups,
            access,
        })
    }

    /// Evidence is judged by that one.
    #[must_use]
    pub fn judged_by(mut self, verifier: Arc<dyn Verifier>) -> Self {
        self.groups.reach.judged_by(verifier);
        self
    }

    /// Which realm.
    #[must_use]
    pub fn realm(&self) -> &RealmId {
        self.groups.reach.realm()
    }

    /// Asks until there is an answer, for so long at most. Every operation may be asked again: the realm charges a guess
    /// once, and what is done already is no error. Where the record has moved, or while it is on its way, the group is asked to
    /// which it goes: [`Refusal::Elsewhere`](junto_vault::Refusal::Elsewhere) and [`Refusal::Moving`](junto_vault::Refusal::Moving) are never answers.
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
        let asking = async {
            let mut way = self.way.lock().await;
            let groups = &self.groups;
            groups.follow(&mut way, &question, &mut failures).await
        };
        match timeout(patience, asking).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(failures.worst),
        }
    }

    /// When the realm's group began and how large it is, as its card says. Nothing is asked of a record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn card(&self, patience: Duration) -> Result<Card, ClientError> {
        let mut failures = Failures::none();
        let asking = self.groups.card(&mut failures);
        match timeout(patience, asking).await {
            Ok(Some(card)) => Ok(card),
            Ok(None) | Err(_) => Err(failures.worst),
        }
    }
}

#[cfg(test)]
mod tests;
