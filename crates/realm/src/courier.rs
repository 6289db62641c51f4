//! A group of a realm as it is reached by who carries orders between groups. Nothing secret goes over these channels, and nothing is
//! believed that is not proven: parcels are sealed, words certified.

use std::{sync::Arc, time::Duration};

use junto_crypto::Zeroizing;
use junto_vault::{Certificate, Hindrance, OrderId, Progress, RealmId, Span, Step};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::{
    Bound, Card, Evidence, EvidenceError, Verifier,
    asking::{
        GROUND, GROUND_BYTES_MAX, MOVED_BYTES_MAX, Moved, PARCEL, PARCEL_BYTES_MAX, STEP,
        put_parcel_wanted, read_ground, read_maybe, read_moved,
    },
    links::Bytes,
    reach::{Channel, ClientError, Failures, PAUSE, Question, Reach, Way},
    read::Malformed,
};

/// Longest wait for one replica's answer: it may look at evidence of the other group first.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Who carries tells nobody anything: it does not matter on which machines they are.
struct Whatever;

impl Verifier for Whatever {
    fn verify(&self, _: &Evidence, _: &Bound) -> Result<(), EvidenceError> {
        Ok(())
    }
}

/// One group.
pub struct GroupClient {
    reach: Reach,
    addresses: Vec<String>,
    way: Mutex<Way>,
}

struct Take<'a>(&'a Step);

impl Question for Take<'_> {
    type Answer = Moved;
    const MOST: usize = MOVED_BYTES_MAX;
    const LONGEST: Duration = ANSWER_MAX;

    fn put(&self, _: &Channel) -> (u8, Bytes) {
        (STEP, Zeroizing::new(self.0.to_bytes()))
    }

    fn read(&self, _: &(u8, Bytes), answer: &[u8]) -> Result<Moved, Malformed> {
        read_moved(answer)
    }
}

struct Parcel<'a>(&'a OrderId, u32);

impl Question for Parcel<'_> {
    type Answer = Option<Vec<u8>>;
    const MOST: usize = PARCEL_BYTES_MAX;
    const LONGEST: Duration = ANSWER_MAX;

    fn put(&self, _: &Channel) -> (u8, Bytes) {
        (PARCEL, put_parcel_wanted(self.0, self.1))
    }

    fn read(&self, _: &(u8, Bytes), answer: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        read_maybe(answer)
    }
}

struct Ground;

impl Question for Ground {
    type Answer = (u64, Vec<Span>);
    const MOST: usize = GROUND_BYTES_MAX;
    const LONGEST: Duration = ANSWER_MAX;

    fn put(&self, _: &Channel) -> (u8, Bytes) {
        (GROUND, Zeroizing::new(Vec::new()))
    }

    fn read(&self, _: &(u8, Bytes), answer: &[u8]) -> Result<(u64, Vec<Span>), Malformed> {
        read_ground(answer)
    }
}

impl GroupClient {
    /// The group of `realm` that is at these addresses.
    ///
    /// # Errors
    /// What the TLS library says of our own settings: not to be expected.
    pub fn new(realm: RealmId, addresses: Vec<String>) -> Result<Self, rustls::Error> {
        Ok(Self {
            reach: Reach::new(realm, Arc::new(Whatever))?,
            way: Mutex::new(Way::new(addresses.clone())),
            addresses,
        })
    }

    async fn ask<Q: Question>(
        &self,
        question: Q,
        patience: Duration,
    ) -> Result<Q::Answer, ClientError> {
        let mut failures = Failures::none();
        let asking = async {
            let mut way = self.way.lock().await;
            self.reach.ask(&mut way, &question, &mut failures).await
        };
        match timeout(patience, asking).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(failures.worst),
        }
    }

    /// The group's card, as soon as one of its members is there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn card(&self, patience: Duration) -> Result<Card, ClientError> {
        let mut failures = Failures::none();
        let asking = async {
            loop {
                let card = self.reach.card(&self.addresses, &mut failures).await;
                if card.is_some() || failures.round() {
                    return card;
                }
                sleep(PAUSE).await;
            }
        };
        match timeout(patience, asking).await {
            Ok(Some(card)) => Ok(card),
            Ok(None) | Err(_) => Err(failures.worst),
        }
    }

    /// How many orders the group has begun, and what it serves.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ground(&self, patience: Duration) -> Result<(u64, Vec<Span>), ClientError> {
        self.ask(Ground, patience).await
    }

    /// Has it take a step, and gives what came of it with the proof of what the group says.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn take(
        &self,
        step: &Step,
        patience: Duration,
    ) -> Result<(Result<Progress, Hindrance>, Option<Certificate>), ClientError> {
        self.ask(Take(step), patience).await
    }

    /// A parcel of what leaves by that order; none if nothing does.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn parcel(
        &self,
        order: &OrderId,
        number: u32,
        patience: Duration,
    ) -> Result<Option<Vec<u8>>, ClientError> {
        self.ask(Parcel(order, number), patience).await
    }
}
