//! The groups of a realm, for who starts from some addresses: on to the one that has a record, wherever that moves.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use junto_crypto::Zeroizing;
use junto_vault::{Answer, GroupId, RealmId, Refusal};
use tokio::time::sleep;

use crate::{
    Card,
    asking::{CARD, CARD_ANSWER_BYTES_MAX, read_card},
    links::Bytes,
    reach::{Channel, ClientError, Failures, PAUSE, Question, Reach, Way},
    read::Malformed,
};

/// Longest wait for one answer of one replica, or of one frontend.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(4);
/// How often in one question a client lets itself be sent on by the group that it was sent to. There are as many on the way as ranges
/// moved since it asked last; more are groups that point at each other.
pub(crate) const REDIRECTS_MAX: usize = 32;
/// So many are followed without a pause.
const REDIRECTS_FREE: usize = 3;
/// So often in a row a group is asked for what is on its way there, before others are asked.
pub(crate) const WAITS_MAX: usize = 3;

/// What was said of a record.
pub(crate) trait Heard {
    /// Why there is nothing else.
    fn refusal(&self) -> Option<Refusal>;
}

impl Heard for Answer {
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(refusal) => Some(*refusal),
            _ => None,
        }
    }
}

pub(crate) struct Groups {
    pub(crate) reach: Reach,
    addresses: Vec<String>,
    /// At which address of a group it begins.
    first: AtomicUsize,
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

    fn read(&self, _: &(u8, Bytes), answer: &[u8]) -> Result<Option<Card>, Malformed> {
        read_card(answer, &self.group, self.realm)
    }
}

impl Groups {
    pub(crate) fn new(reach: Reach, addresses: Vec<String>) -> Self {
        Self {
            reach,
            addresses,
            first: AtomicUsize::new(0),
        }
    }

    /// Who was asked first did not help: another one is, from now on.
    pub(crate) fn begin_elsewhere(&self) {
        self.first.fetch_add(1, Ordering::Relaxed);
    }

    fn turned(&self, mut addresses: Vec<String>) -> Vec<String> {
        let first = self.first.load(Ordering::Relaxed);
        let at = first.checked_rem(addresses.len()).unwrap_or(0);
        addresses.rotate_left(at);
        addresses
    }

    /// To where it starts from.
    pub(crate) fn way(&self) -> Way {
        Way::new(self.turned(self.addresses.clone()))
    }

    /// To that group; and if it is not there, to those that were known before.
    pub(crate) fn way_to(&self, card: &Card) -> Way {
        let members = card.members().iter().map(|member| member.address.clone());
        let mut addresses = self.turned(members.collect());
        let known = self.addresses.iter();
        let known = known.filter(|it| card.members().iter().all(|member| member.address != **it));
        addresses.extend(known.cloned());
        Way::new(addresses)
    }

    /// The card that somebody shows where it starts from.
    pub(crate) async fn card(&self, failures: &mut Failures) -> Option<Card> {
        self.reach.card(&self.addresses, failures).await
    }

    /// None when it is of no use to go on.
    pub(crate) async fn follow<Q>(
        &self,
        way: &mut Way,
        question: &Q,
        failures: &mut Failures,
    ) -> Option<Q::Answer>
    where
        Q: Question,
        Q::Answer: Heard,
    {
        let (mut waited, mut followed, mut sent_to) = (0, 0, None);
        loop {
            let answer = self.reach.ask(way, question, failures).await?;
            let group = match answer.refusal() {
                // Whoever asks a frontend has other addresses, and time of its own to wait.
                Some(Refusal::Moving | Refusal::Elsewhere(None)) if self.reach.is_frontends() => {
                    return Some(answer);
                }
                Some(Refusal::Moving) => {
                    failures.add(absent("what it keeps for us is on its way"));
                    waited += 1;
                    // It may never leave: then whoever had it has it still.
                    if waited % WAITS_MAX == 0 {
                        way.skip();
                    }
                    sleep(PAUSE).await;
                    continue;
                }
                // It is a frontend's to go there: this one does not.
                Some(refusal @ Refusal::Elsewhere(Some(_))) if way.is_frontend() => {
                    failures.add(absent(&refusal.to_string()));
                    way.skip();
                    continue;
                }
                Some(Refusal::Elsewhere(Some(group))) => group,
                // The next address may be one of a group that knows. There is a pause behind the last one.
                Some(refusal @ Refusal::Elsewhere(None)) => {
                    failures.add(absent(&refusal.to_string()));
                    way.skip();
                    continue;
                }
                _ => return Some(answer),
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
            let realm = self.reach.realm();
            let asked = CardOf { group, realm };
            match self.reach.ask(way, &asked, failures).await? {
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
}

fn absent(why: &str) -> ClientError {
    ClientError::Absent(why.to_owned())
}
