//! What a run is about: everything that all its parties must agree on before it starts.

use std::collections::{BTreeMap, BTreeSet};

use junto_crypto::{ed25519::VerifyingKey, hash::sha256_of};

use crate::{
    encoding::{DecodeError, Reader, Writer},
    group::G1,
    key::KeyPublic,
    lagrange::Interpolation,
    party::{PARTIES_MAX, PartyIndex, ShareIndex, Threshold},
    scalar::Scalar,
};

/// Bytes of a session id.
pub const SESSION_BYTES: usize = 32;

/// Most bytes of the label that tells the runs of one session apart.
pub const LABEL_MAX_BYTES: usize = 255;

/// Most bytes of a message to be signed: 16 MiB, the session's limit.
pub const MESSAGE_MAX_BYTES: usize = 16 << 20;

/// First byte of an encoded [`Setup`].
const FORMAT: u8 = 1;

/// Most bytes of an encoded [`KeyPublic`].
const KEY_MAX_BYTES: usize = 11 + 48 * PARTIES_MAX as usize;

/// The session, the run's label, the parties and the task. Its [`digest`](Setup::digest) stands in
/// every signature of the run, so that nothing signed in one run means anything in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    session: [u8; SESSION_BYTES],
    label: Vec<u8>,
    roster: Vec<VerifyingKey>,
    task: Task,
    digest: [u8; 32],
}

/// Session, label and roster of a run.
#[derive(Clone, Debug)]
pub struct Occasion<'a> {
    /// The session's id: fixes who the parties are.
    pub session: [u8; SESSION_BYTES],
    /// Tells the runs of one session apart. **Never used twice in a session**: a party that runs
    /// one label twice with different randomness signs contradicting messages and gets blamed.
    pub label: &'a [u8],
    /// The parties' session keys, in the order of their indices.
    pub roster: &'a [VerifyingKey],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Keygen {
        threshold: Threshold,
    },
    Refresh {
        key: KeyPublic,
        holders: BTreeMap<PartyIndex, ShareIndex>,
    },
    Reshare {
        key: KeyPublic,
        dealers: BTreeMap<PartyIndex, ShareIndex>,
        holders: BTreeSet<PartyIndex>,
        threshold: Threshold,
    },
    Sign {
        key: KeyPublic,
        signers: BTreeMap<PartyIndex, ShareIndex>,
        message: Vec<u8>,
    },
}

/// What the constant term of a dealer's polynomial must be.
pub(crate) enum Constant {
    /// The dealer's own contribution, proven to be known.
    Free,
    /// Zero, so it has no commitment.
    Zero,
    /// The dealer's old share, whose public half is known.
    Share(G1),
}

/// Why a run of this shape is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Not 2 to 64 parties with distinct keys.
    #[error("a run needs 2 to 64 parties with distinct keys")]
    Roster,
    /// The label is longer than [`LABEL_MAX_BYTES`], or the message than [`MESSAGE_MAX_BYTES`].
    #[error("label or message too long")]
    TooLong,
    /// Not 2 ≤ t ≤ n ≤ 64 for the holders given.
    #[error("the threshold must be at least 2 and at most the number of holders")]
    Threshold,
    /// A party outside the roster, a holder outside the key, a holder twice or missing, or too few
    /// dealers for the old threshold.
    #[error("parties and holders do not fit the key")]
    Holders,
}

impl Setup {
    /// A new key, `required` of all parties; party i becomes holder i + 1.
    ///
    /// # Errors
    /// [`SetupError`] if the parts do not fit together.
    pub fn keygen(occasion: &Occasion<'_>, required: u8) -> Result<Self, SetupError> {
        let holders = u8::try_from(occasion.roster.len()).map_err(|_| SetupError::Roster)?;
        let threshold = Threshold::new(required, holders).ok_or(SetupError::Threshold)?;
        Self::new(occasion, Task::Keygen { threshold })
    }

    /// New shares of the same key for the same holders; old shares become useless to a thief.
    /// `holders` says which party is which holder: all of them, each once.
    ///
    /// # Errors
    /// [`SetupError`] if the parts do not fit together.
    pub fn refresh(
        occasion: &Occasion<'_>,
        key: KeyPublic,
        holders: BTreeMap<PartyIndex, ShareIndex>,
    ) -> Result<Self, SetupError> {
        let present: BTreeSet<ShareIndex> = holders.values().copied().collect();
        let all = key.threshold().indices().eq(present.iter().copied());
        if !all || holders.len() != present.len() {
            return Err(SetupError::Holders);
        }
        Self::new(occasion, Task::Refresh { key, holders })
    }

    /// The same key for another set of holders with another threshold.
    ///
    /// `dealers` are at least t old holders (party and old index); `holders` are the new holders,
    /// of whom `required` must sign. The new holder's index is its place among `holders`, from 1.
    ///
    /// # Errors
    /// [`SetupError`] if the parts do not fit together.
    pub fn reshare(
        occasion: &Occasion<'_>,
        key: KeyPublic,
        dealers: BTreeMap<PartyIndex, ShareIndex>,
        holders: BTreeSet<PartyIndex>,
        required: u8,
    ) -> Result<Self, SetupError> {
        let count = u8::try_from(holders.len()).map_err(|_| SetupError::Holders)?;
        let threshold = Threshold::new(required, count).ok_or(SetupError::Threshold)?;
        if dealers.len() < usize::from(key.threshold().required()) || !holds(&key, &dealers) {
            return Err(SetupError::Holders);
        }
        Self::new(
            occasion,
            Task::Reshare {
                key,
                dealers,
                holders,
                threshold,
            },
        )
    }

    /// A signature of `message` by the holders among the parties.
    ///
    /// # Errors
    /// [`SetupError`] if the parts do not fit together.
    pub fn sign(
        occasion: &Occasion<'_>,
        key: KeyPublic,
        signers: BTreeMap<PartyIndex, ShareIndex>,
        message: &[u8],
    ) -> Result<Self, SetupError> {
        if !holds(&key, &signers) {
            return Err(SetupError::Holders);
        }
        if message.len() > MESSAGE_MAX_BYTES {
            return Err(SetupError::TooLong);
        }
        Self::new(
            occasion,
            Task::Sign {
                key,
                signers,
                message: message.to_vec(),
            },
        )
    }

    fn new(occasion: &Occasion<'_>, task: Task) -> Result<Self, SetupError> {
        let roster = occasion.roster;
        let distinct: BTreeSet<&VerifyingKey> = roster.iter().collect();
        if !(2..=usize::from(PARTIES_MAX)).contains(&roster.len()) || distinct.len() != roster.len()
        {
            return Err(SetupError::Roster);
        }
        if occasion.label.len() > LABEL_MAX_BYTES {
            return Err(SetupError::TooLong);
        }
        if task.parties().any(|party| party.place() >= roster.len()) {
            return Err(SetupError::Holders);
        }
        let mut setup = Self {
            session: occasion.session,
            label: occasion.label.to_vec(),
            roster: roster.to_vec(),
            task,
            digest: [0; 32],
        };
        setup.digest = sha256_of(&[b"junto-bls/1 setup", &setup.encode()]);
        Ok(setup)
    }

    /// Names the run: SHA-256 over the encoding.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The session's id.
    #[must_use]
    pub fn session(&self) -> &[u8; SESSION_BYTES] {
        &self.session
    }

    /// Tells the runs of the session apart.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        &self.label
    }

    /// The parties' session keys, in the order of their indices.
    #[must_use]
    pub fn roster(&self) -> &[VerifyingKey] {
        &self.roster
    }

    /// All parties.
    pub fn parties(&self) -> impl Iterator<Item = PartyIndex> {
        PartyIndex::all(self.roster.len())
    }

    /// Who deals (or signs), and as which holder.
    #[must_use]
    pub fn dealers(&self) -> BTreeMap<PartyIndex, ShareIndex> {
        match &self.task {
            Task::Keygen { .. } => self.everyone(),
            Task::Refresh {
                holders: dealers, ..
            }
            | Task::Reshare { dealers, .. }
            | Task::Sign {
                signers: dealers, ..
            } => dealers.clone(),
        }
    }

    /// Who will hold a share, and which.
    #[must_use]
    pub fn holders(&self) -> BTreeMap<PartyIndex, ShareIndex> {
        match &self.task {
            Task::Keygen { .. } => self.everyone(),
            Task::Refresh { holders, .. }
            | Task::Sign {
                signers: holders, ..
            } => holders.clone(),
            Task::Reshare { holders, .. } => holders
                .iter()
                .copied()
                .zip((1..).map_while(ShareIndex::new))
                .collect(),
        }
    }

    fn everyone(&self) -> BTreeMap<PartyIndex, ShareIndex> {
        self.parties()
            .zip((1..).map_while(ShareIndex::new))
            .collect()
    }

    pub(crate) fn task(&self) -> &Task {
        &self.task
    }

    pub(crate) fn key_of(&self, party: PartyIndex) -> Option<&VerifyingKey> {
        self.roster.get(party.place())
    }

    /// The key that the run starts from.
    #[must_use]
    pub fn old_key(&self) -> Option<&KeyPublic> {
        match &self.task {
            Task::Keygen { .. } => None,
            Task::Refresh { key, .. } | Task::Reshare { key, .. } | Task::Sign { key, .. } => {
                Some(key)
            }
        }
    }

    /// Threshold and epoch of the key that the run ends with.
    pub(crate) fn result(&self) -> (Threshold, u64) {
        match &self.task {
            Task::Keygen { threshold } => (*threshold, 0),
            Task::Refresh { key, .. } => (key.threshold(), key.epoch().saturating_add(1)),
            Task::Reshare { key, threshold, .. } => (*threshold, key.epoch().saturating_add(1)),
            Task::Sign { key, .. } => (key.threshold(), key.epoch()),
        }
    }

    /// What `dealer` must have as its constant term.
    pub(crate) fn constant(&self, dealer: ShareIndex) -> Constant {
        match &self.task {
            Task::Keygen { .. } => Constant::Free,
            Task::Refresh { .. } | Task::Sign { .. } => Constant::Zero,
            Task::Reshare { key, .. } => Constant::Share(key.public_share(dealer).0),
        }
    }

    /// How many commitments a dealer sends: exactly these.
    pub(crate) fn commitment_count(&self) -> u8 {
        let required = self.result().0.required();
        match &self.task {
            Task::Refresh { .. } => required - 1,
            Task::Keygen { .. } | Task::Reshare { .. } | Task::Sign { .. } => required,
        }
    }

    /// How the dealers' sharings add up, in the order of [`Setup::dealers`]: `None` means a plain
    /// sum, otherwise the interpolation of the old shares.
    pub(crate) fn interpolation(&self) -> Option<Interpolation> {
        match &self.task {
            Task::Reshare { dealers, .. } => {
                let indices: Vec<u8> = dealers.values().map(|index| index.value()).collect();
                Interpolation::at_zero(&indices)
            }
            _ => None,
        }
    }

    /// The factor of each dealer's share in a new share.
    pub(crate) fn weights(&self) -> Vec<Scalar> {
        match self.interpolation() {
            Some(interpolation) => interpolation.coefficients(),
            None => vec![Scalar::ONE; self.dealers().len()],
        }
    }

    /// Version 1, as `docs/spec/threshold-bls.md` §2 says.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new()
            .u8(FORMAT)
            .fixed(&self.session)
            .variable(&self.label)
            .u8(self.roster.len() as u8);
        for key in &self.roster {
            writer = writer.fixed(key.as_bytes());
        }
        match &self.task {
            Task::Keygen { threshold } => writer.u8(1).u8(threshold.required()),
            Task::Refresh { key, holders } => {
                write_map(writer.u8(2).variable(&key.encode()), holders)
            }
            Task::Reshare {
                key,
                dealers,
                holders,
                threshold,
            } => {
                let writer = write_map(writer.u8(3).variable(&key.encode()), dealers);
                holders.iter().fold(
                    writer.u8(threshold.required()).u8(holders.len() as u8),
                    |w, party| w.u8(party.value()),
                )
            }
            Task::Sign {
                key,
                signers,
                message,
            } => write_map(writer.u8(4).variable(&key.encode()), signers).variable(message),
        }
        .finish()
    }

    /// Reads [`Setup::encode`].
    ///
    /// # Errors
    /// [`DecodeError`] for another version, anything [`SetupError`] refuses, unordered sets, and
    /// any missing or trailing byte.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(DecodeError);
        }
        let session = reader.array()?;
        let label = reader.variable(LABEL_MAX_BYTES)?;
        let count = reader.u8()?;
        let roster = (0..count)
            .map(|_| VerifyingKey::from_bytes(&reader.array()?).map_err(|_| DecodeError))
            .collect::<Result<Vec<_>, _>>()?;
        let occasion = Occasion {
            session,
            label,
            roster: &roster,
        };
        let setup = Self::read_task(&mut reader, &occasion)?;
        reader.finish()?;
        Ok(setup)
    }

    fn read_task(reader: &mut Reader<'_>, occasion: &Occasion<'_>) -> Result<Self, DecodeError> {
        let kind = reader.u8()?;
        if kind == 1 {
            return Self::keygen(occasion, reader.u8()?).map_err(|_| DecodeError);
        }
        let key = KeyPublic::decode(reader.variable(KEY_MAX_BYTES)?)?;
        let map = read_map(reader)?;
        match kind {
            2 => Self::refresh(occasion, key, map),
            3 => {
                let required = reader.u8()?;
                let parties = read_parties(reader)?;
                Self::reshare(occasion, key, map, parties, required)
            }
            4 => Self::sign(occasion, key, map, reader.variable(MESSAGE_MAX_BYTES)?),
            _ => return Err(DecodeError),
        }
        .map_err(|_| DecodeError)
    }
}

impl Task {
    /// Every party that the task names.
    fn parties(&self) -> impl Iterator<Item = PartyIndex> {
        let (map, set) = match self {
            Self::Keygen { .. } => (None, None),
            Self::Refresh { holders, .. } => (Some(holders), None),
            Self::Reshare {
                dealers, holders, ..
            } => (Some(dealers), Some(holders)),
            Self::Sign { signers, .. } => (Some(signers), None),
        };
        map.into_iter()
            .flat_map(BTreeMap::keys)
            .chain(set.into_iter().flatten())
            .copied()
    }
}

/// Distinct holders of `key`.
fn holds(key: &KeyPublic, parties: &BTreeMap<PartyIndex, ShareIndex>) -> bool {
    let indices: BTreeSet<&ShareIndex> = parties.values().collect();
    indices.len() == parties.len()
        && indices
            .iter()
            .all(|index| index.value() <= key.threshold().holders())
}

fn write_map(writer: Writer, map: &BTreeMap<PartyIndex, ShareIndex>) -> Writer {
    map.iter()
        .fold(writer.u8(map.len() as u8), |writer, (party, index)| {
            writer.u8(party.value()).u8(index.value())
        })
}

fn read_map(reader: &mut Reader<'_>) -> Result<BTreeMap<PartyIndex, ShareIndex>, DecodeError> {
    let mut map = BTreeMap::new();
    for _ in 0..reader.u8()? {
        let party = PartyIndex::new(reader.u8()?).ok_or(DecodeError)?;
        let index = ShareIndex::new(reader.u8()?).ok_or(DecodeError)?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= party) {
            return Err(DecodeError);
        }
        map.insert(party, index);
    }
    Ok(map)
}

fn read_parties(reader: &mut Reader<'_>) -> Result<BTreeSet<PartyIndex>, DecodeError> {
    let mut set = BTreeSet::new();
    for _ in 0..reader.u8()? {
        let party = PartyIndex::new(reader.u8()?).ok_or(DecodeError)?;
        if set.last().is_some_and(|last| *last >= party) {
            return Err(DecodeError);
        }
        set.insert(party);
    }
    Ok(set)
}
