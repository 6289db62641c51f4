//! A realm: all its records, the time that its replicas agree on, and who may ask.
//!
//! It is a state machine without any consensus of its own: replicas apply the same entries in the same order and come
//! to the same state. What an entry came to is [`Pending`], which nobody can look into; it becomes an [`Answer`] only
//! with the proof that enough replicas hold the log up to it ([`Released`]). So nothing is evaluated, given or
//! refused before its charge can no longer be lost, and nothing outside depends on what will be said.
//!
//! State lives in memory only. [`Realm::snapshot`] is for another replica, over a channel.

mod answer;
mod entry;
mod estate;
mod grounds;
mod moving;
mod step;
mod token;

use std::collections::{BTreeMap, btree_map::Entry as Slot};

use junto_crypto::{Zeroizing, ed25519::VerifyingKey, hash::sha256_of, kdf::hmac_sha256};
use rand_core::CryptoRng;

pub use answer::{Answer, Class};
use entry::Asked;
pub use entry::{Entry, Operation, Request};
use estate::{Estate, read_records, records_room, write_records};
use grounds::Holder;
pub use moving::{Hindrance, Progress};
pub use step::Step;
pub use token::Token;

use crate::{
    Account, BlindedElement, Card, Charged, DecodeError, Given, GroupId, Position, RealmId,
    Receipt, Record, Refusal, Released, Span, View, Word, encoding::Reader,
};

/// Seconds since 1970, as far as a group agrees on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u64);

/// Names a record inside of one realm, by its tenant's rank and 30 bytes: nobody who lacks the realm's secret finds out
/// which user's it is, nor which record of another realm is the same user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordId([u8; 32]);

impl RecordId {
    /// Of no tenant: what is asked of a group that does not know the names yet.
    const NOWHERE: Self = Self([u8::MAX; 32]);

    fn tenant(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }

    fn rank(&self) -> u16 {
        u16::from_be_bytes(self.tenant())
    }

    /// Where it stands among those that ranges divide, tenants apart.
    fn place(&self) -> u64 {
        let mut place = [0; 8];
        place.copy_from_slice(&self.0[2..10]);
        u64::from_be_bytes(place)
    }
}

/// With what a realm begins. All replicas have the same.
pub struct Genesis {
    /// Which realm.
    pub realm: RealmId,
    /// 32 random bytes that only its replicas know: from which the names of records come.
    pub secret: Zeroizing<[u8; 32]>,
    /// Who answers for users, and the keys of their tokens: at most [`Realm::TENANTS_MAX`].
    pub tenants: BTreeMap<String, VerifyingKey>,
    /// Records that it keeps at most for each tenant: none takes another one's place.
    pub records_max: u32,
    /// Time to begin with.
    pub time: Seconds,
}

/// Too many tenants, or one without a name or with a longer one than accounts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a realm has at most {} tenants, with names of 1 to {} bytes",
    Realm::TENANTS_MAX,
    Account::NAME_BYTES_MAX
)]
pub struct GenesisError;

/// Everything that one replica of a realm knows.
pub struct Realm {
    genesis: Genesis,
    time: Seconds,
    position: Position,
    /// In boxes: a record that moves leaves no copy of its secrets behind.
    records: BTreeMap<RecordId, Box<Record>>,
    /// How many of them each tenant has.
    shares: BTreeMap<[u8; 2], u32>,
    /// None for a realm of one group, of which nothing can move.
    estate: Option<Box<Estate>>,
}

/// What an entry came to, not yet to be known.
pub struct Pending {
    position: Position,
    class: Class,
    outcome: Outcome,
}

enum Outcome {
    Done,
    View(View),
    Receipts(Vec<Receipt>),
    Charged(RecordId, Charged, BlindedElement),
    Given(Given),
    Refused(Refusal),
    Moved(Result<Progress, Hindrance>),
}

/// The token does not allow this, or not any more. It does not say why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token does not allow this")]
pub struct Unauthorised;

impl Pending {
    /// Where its entry stands in the log: what has to be released.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// What the group says to another one since that entry, if it was a step of an order and says something. A member that holds
    /// the log up to it may vouch for it ([`Word::vouch`]); who asked hears it when it is released.
    #[must_use]
    pub fn says(&self) -> Option<&Word> {
        match &self.outcome {
            Outcome::Moved(Ok(Progress::Said(word))) => Some(word),
            _ => None,
        }
    }

    /// The size that its answer will have.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }
}

impl Genesis {
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let names: usize = self.tenants.keys().map(String::len).sum();
        let size = 32 + 32 + 8 + 4 + 4 + names + 33 * self.tenants.len();
        let mut out = Zeroizing::new(Vec::with_capacity(size));
        out.extend_from_slice(&self.realm.0);
        out.extend_from_slice(&self.secret[..]);
        out.extend_from_slice(&self.time.0.to_be_bytes());
        out.extend_from_slice(&self.records_max.to_be_bytes());
        out.extend_from_slice(&self.tenants_bytes());
        out
    }

    fn tenants_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // At most [`Realm::TENANTS_MAX`], with names of at most [`Account::NAME_BYTES_MAX`].
        let count = u32::try_from(self.tenants.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for (name, key) in &self.tenants {
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(key.as_bytes());
        }
        out
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let realm = RealmId(reader.array()?);
        let secret = Zeroizing::new(reader.array()?);
        let (time, records_max) = (Seconds(reader.u64()?), reader.u32()?);
        let mut tenants = BTreeMap::<String, VerifyingKey>::new();
        for _ in 0..bounded(reader.u32()?, Realm::TENANTS_MAX)? {
            let length = usize::from(reader.u8()?);
            let name = core::str::from_utf8(reader.bytes(length)?).map_err(|_| DecodeError)?;
            let key = VerifyingKey::from_bytes(&reader.array()?).map_err(|_| DecodeError)?;
            if tenants
                .last_key_value()
                .is_some_and(|(last, _)| **last >= *name)
            {
                return Err(DecodeError);
            }
            tenants.insert(name.to_owned(), key);
        }
        Ok(Self {
            realm,
            secret,
            tenants,
            records_max,
            time,
        })
    }
}

impl Realm {
    /// Most tenants of a realm.
    pub const TENANTS_MAX: usize = 1024;
    /// Seconds that one entry can move time: whoever turns a leader's clock forward gets no further at once.
    pub const STEP_MAX: u64 = 60;

    /// An empty realm of one group, which serves everything and stays so.
    ///
    /// # Errors
    /// [`GenesisError`].
    pub fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        let named = |name: &String| (1..=Account::NAME_BYTES_MAX).contains(&name.len());
        if genesis.tenants.len() > Self::TENANTS_MAX || !genesis.tenants.keys().all(named) {
            return Err(GenesisError);
        }
        let head = sha256_of(&[b"junto vault genesis", &genesis.to_bytes()]);
        Ok(Self {
            time: genesis.time,
            genesis,
            position: Position { sequence: 0, head },
            records: BTreeMap::new(),
            shares: BTreeMap::new(),
            estate: None,
        })
    }

    /// One group of a realm of several: the first, which serves everything, or one that serves nothing and knows no secret of
    /// names until its first range comes.
    ///
    /// # Errors
    /// [`GenesisError`].
    pub fn of_group(
        mut genesis: Genesis,
        group: GroupId,
        everything: bool,
    ) -> Result<Self, GenesisError> {
        if !everything {
            genesis.secret = Zeroizing::new([0; 32]);
        }
        let mut realm = Self::new(genesis)?;
        let parts: [&[u8]; 4] = [
            b"junto vault group genesis",
            &realm.position.head,
            &group.0,
            &[u8::from(everything)],
        ];
        realm.position.head = sha256_of(&parts);
        realm.estate = Some(Box::new(Estate::new(group, everything)));
        Ok(realm)
    }

    /// Which realm.
    #[must_use]
    pub fn id(&self) -> &RealmId {
        &self.genesis.realm
    }

    /// The time that the group agrees on. It never goes back.
    #[must_use]
    pub fn time(&self) -> Seconds {
        self.time
    }

    /// How far this replica has come.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Records that it keeps.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Orders that this group has begun: what the next one has to name. None for a realm of one group.
    #[must_use]
    pub fn turn(&self) -> Option<u64> {
        self.estate.as_ref().map(|estate| estate.turn)
    }

    /// What this group serves.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        match &self.estate {
            Some(estate) => estate.grounds.here(),
            None => vec![Span::WHOLE],
        }
    }

    /// The card of a group to which this one sends clients.
    #[must_use]
    pub fn card_of(&self, group: &GroupId) -> Option<&Card> {
        let estate = self.estate.as_ref()?;
        let found = estate.grounds.groups().find(|card| card.group() == *group);
        found.map(|card| &**card)
    }

    /// Makes an entry for the log of what somebody with `token` asks. `reading` is the leader's clock; what counts for
    /// the token is the time of the group.
    ///
    /// # Errors
    /// [`Unauthorised`].
    pub fn admit(
        &self,
        token: &Token,
        operation: Operation,
        reading: Seconds,
    ) -> Result<Entry, Unauthorised> {
        let tenant = self.genesis.tenants.get(token.account().tenant());
        let tenant = tenant.ok_or(Unauthorised)?;
        let record = self.record_of(token.account()).ok_or(Unauthorised)?;
        if !token.admits(self.id(), self.time, tenant) {
            return Err(Unauthorised);
        }
        let named = self.estate.as_ref().is_none_or(|estate| estate.named);
        Ok(Entry {
            reading,
            asked: Asked::Request(Box::new(Request {
                record: if named { record } else { RecordId::NOWHERE },
                expires: token.expires(),
                operation,
            })),
        })
    }

    /// The next entry of the log, which is committed. What is refused counts as an entry like any other.
    #[must_use]
    pub fn apply(&mut self, entry: Entry) -> Pending {
        self.position = self.position.after(&entry.to_bytes());
        let furthest = Seconds(self.time.0.saturating_add(Self::STEP_MAX));
        self.time = self.time.max(entry.reading.min(furthest));
        let (class, outcome) = match entry.asked {
            Asked::Nothing => (Class::Small, Ok(Outcome::Done)),
            Asked::Request(request) if request.expires <= self.time => {
                (request.operation.class(), Err(Refusal::Late))
            }
            Asked::Request(request) => (
                request.operation.class(),
                self.operate(request.record, request.operation),
            ),
            Asked::Step(step) => (Class::Small, Ok(Outcome::Moved(self.take(*step)))),
        };
        Pending {
            position: self.position,
            class,
            outcome: outcome.unwrap_or_else(Outcome::Refused),
        }
    }

    /// The next entry of the log, if nobody can read it: it counts, and changes nothing.
    pub fn skip(&mut self, entry: &[u8]) {
        self.position = self.position.after(entry);
    }

    /// Whether this group serves the record; if not, who may.
    fn serves(&self, id: RecordId) -> Result<(), Refusal> {
        let Some(estate) = &self.estate else {
            return Ok(());
        };
        if id == RecordId::NOWHERE {
            return Err(match estate.coming.is_empty() {
                true => Refusal::Elsewhere(None),
                false => Refusal::Moving,
            });
        }
        match estate.grounds.holder(id.place()) {
            Holder::Here => Ok(()),
            Holder::Coming => Err(Refusal::Moving),
            Holder::Group(card) => Err(Refusal::Elsewhere(Some(card.group()))),
            Holder::Unknown => Err(Refusal::Elsewhere(None)),
        }
    }

    fn operate(&mut self, id: RecordId, operation: Operation) -> Result<Outcome, Refusal> {
        self.serves(id)?;
        let share = self.shares.entry(id.tenant()).or_default();
        match self.records.entry(id) {
            Slot::Occupied(mut record) => {
                let outcome = operate(record.get_mut(), id, operation);
                if record.get().is_unused() {
                    record.remove();
                    *share = share.saturating_sub(1);
                }
                outcome
            }
            Slot::Vacant(slot) => match operation {
                Operation::Stage(_) if *share >= self.genesis.records_max => Err(Refusal::Full),
                Operation::Stage(deposit) => {
                    let mut record = Box::<Record>::default();
                    record.stage(deposit)?;
                    slot.insert(record);
                    *share += 1;
                    Ok(Outcome::Done)
                }
                // As an empty record would.
                other => operate(&mut Record::default(), id, other),
            },
        }
    }

    /// What `pending` came to, for the client. None without the proof for its own position: also when its entry was
    /// given up for another leader's.
    #[must_use]
    pub fn answer(
        &self,
        pending: Pending,
        released: &Released,
        rng: &mut impl CryptoRng,
    ) -> Option<Answer> {
        if *released.position() != pending.position {
            return None;
        }
        Some(match pending.outcome {
            Outcome::Done => Answer::Done,
            Outcome::View(view) => Answer::View(view),
            Outcome::Receipts(receipts) => Answer::Receipts(receipts),
            Outcome::Given(given) => Answer::Given(given),
            Outcome::Refused(refusal) => Answer::Refused(refusal),
            // Not for a client: [`Realm::moved`].
            Outcome::Moved(_) => return None,
            Outcome::Charged(id, charged, element) => {
                // It may have left meanwhile: who has it now answers the same element for nothing.
                if let Err(refusal) = self.serves(id) {
                    return Some(Answer::Refused(refusal));
                }
                let record = self.records.get(&id);
                match record.and_then(|record| record.evaluate(&charged, &element, rng)) {
                    Some(evaluation) => Answer::Evaluation(evaluation),
                    None => Answer::Refused(Refusal::Overtaken),
                }
            }
        })
    }

    /// What a step of an order came to, for who carries the words. None without the proof for its own position.
    #[must_use]
    pub fn moved(
        &self,
        pending: Pending,
        released: &Released,
    ) -> Option<Result<Progress, Hindrance>> {
        match pending.outcome {
            Outcome::Moved(moved) if *released.position() == pending.position => Some(moved),
            _ => None,
        }
    }

    /// Everything, for a replica that has fallen behind: over a channel that hides it, never to a disk.
    #[must_use]
    pub fn snapshot(&self) -> Zeroizing<Vec<u8>> {
        let genesis = self.genesis.to_bytes();
        let estate = self.estate.as_ref().map_or(0, |estate| estate.room());
        // Sized first: a buffer that grows leaves copies.
        let room = 64 + genesis.len() + records_room(&self.records) + estate;
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        out.extend_from_slice(&genesis);
        for number in [self.time.0, self.position.sequence] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.position.head);
        write_records(&self.records, &mut out);
        out.push(u8::from(self.estate.is_some()));
        if let Some(estate) = &self.estate {
            estate.write(&mut out);
        }
        out
    }

    /// # Errors
    /// [`DecodeError`] unless these are the bytes of a snapshot.
    pub fn restore(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let genesis = Genesis::read(&mut reader)?;
        let (time, sequence, head) = (Seconds(reader.u64()?), reader.u64()?, reader.array()?);
        if time < genesis.time {
            return Err(DecodeError);
        }
        let records = read_records(&mut reader, &genesis.realm)?;
        let estate = match reader.flag()? {
            true => Some(Box::new(Estate::read(&mut reader, &genesis.realm)?)),
            false => None,
        };
        reader.finish()?;
        let mut realm = Self {
            genesis,
            time,
            position: Position { sequence, head },
            records,
            shares: BTreeMap::new(),
            estate,
        };
        realm.count_shares();
        // What came from another group is kept, whatever places there are; without one, there is no more than that.
        let full = |share: &u32| *share > realm.genesis.records_max;
        let too_many = realm.estate.is_none() && realm.shares.values().any(full);
        let served = realm.records.keys().all(|id| realm.serves(*id).is_ok());
        (served && !too_many).then_some(realm).ok_or(DecodeError)
    }

    /// None for a tenant that the realm does not have.
    fn record_of(&self, account: &Account) -> Option<RecordId> {
        let tenants = &mut self.genesis.tenants.keys();
        let rank = tenants.position(|name| name == account.tenant())?;
        let parts: [&[u8]; 2] = [b"junto vault record", &account.encode()];
        let mut id = *hmac_sha256(&self.genesis.secret[..], &parts);
        id[..2].copy_from_slice(&u16::try_from(rank).ok()?.to_be_bytes());
        Some(RecordId(id))
    }
}

fn operate(record: &mut Record, id: RecordId, operation: Operation) -> Result<Outcome, Refusal> {
    let done = |()| Outcome::Done;
    match operation {
        Operation::View => Ok(Outcome::View(record.view())),
        Operation::Receipts => Ok(Outcome::Receipts(record.receipts().to_vec())),
        Operation::Stage(deposit) => record.stage(deposit).map(done),
        Operation::Activate {
            version,
            auth,
            former,
        } => {
            let former = former.as_ref().map(|(version, auth)| (version, auth));
            record.activate(&version, &auth, former).map(done)
        }
        Operation::Settle { version, auth } => record.settle(&version, &auth).map(done),
        Operation::Evaluate { version, element } => {
            let charged = record.charge(&version, element.digest())?;
            Ok(Outcome::Charged(id, charged, element))
        }
        Operation::Claim { version, auth } => record.claim(&version, &auth).map(Outcome::Given),
        Operation::Delete => {
            record.delete();
            Ok(Outcome::Done)
        }
    }
}

fn bounded(count: u32, most: usize) -> Result<usize, DecodeError> {
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= most)
        .ok_or(DecodeError)
}

#[cfg(test)]
mod tests;
