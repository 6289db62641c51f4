//! Keys of messages that were overtaken by later ones.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::{
    RatchetError,
    chain::{HeaderKey, IV_BYTES, KEY_BYTES, MessageKey},
};

/// Messages that may be missing before one in a chain: the protocol's limit, and what bounds the
/// work that one message can cause (about 2.5 µs each, twice if it also ends the chain before).
pub const SKIPPED_MAX: u32 = 512;
/// Keys kept for late messages of one conversation; beyond that the oldest are dropped. Two full
/// gaps on each side of a step: 164 KiB of keys at most.
pub const RETAINED_MAX: usize = 2_048;
/// Chains for which keys are kept, since a message of unknown origin is tried against the header key
/// of each.
pub const EPOCHS_MAX: usize = 32;
/// Bytes of a stored key: header key, message key, initialisation vector.
const STORED_BYTES: usize = KEY_BYTES + KEY_BYTES + IV_BYTES;
const _: () = assert!(RETAINED_MAX * STORED_BYTES == 160 * 1024);
// One message adds at most two gaps in two epochs, so what is dropped is never what it added.
const _: () = assert!(RETAINED_MAX >= 4 * 512 && EPOCHS_MAX > 2);

/// Names the key of one late message within a conversation. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SkippedId {
    /// Which receiving chain, counted from 1.
    pub epoch: u32,
    /// Number of the message in its chain.
    pub number: u32,
}

/// The key of one late message, to be stored beside the state.
pub struct SkippedKey {
    id: SkippedId,
    header: HeaderKey,
    message: MessageKey,
}

impl SkippedKey {
    /// Which key.
    #[must_use]
    pub fn id(&self) -> SkippedId {
        self.id
    }

    /// The bytes to seal and store under [`SkippedKey::id`]; 80.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(STORED_BYTES));
        out.extend_from_slice(&self.header.0);
        out.extend_from_slice(&self.message.key);
        out.extend_from_slice(&self.message.iv);
        out
    }

    /// Reads what [`SkippedKey::encode`] wrote for `id`.
    ///
    /// # Errors
    /// [`RatchetError::BadState`] if it did not.
    pub fn decode(id: SkippedId, bytes: &[u8]) -> Result<Self, RatchetError> {
        let (header, rest) = bytes.split_first_chunk().ok_or(RatchetError::BadState)?;
        let (key, rest) = rest.split_first_chunk().ok_or(RatchetError::BadState)?;
        let iv = rest.try_into().map_err(|_| RatchetError::BadState)?;
        Ok(Self {
            id,
            header: HeaderKey(*header),
            message: MessageKey { key: *key, iv },
        })
    }
}

/// What one decryption changed among the stored keys of late messages. Commit it together with the
/// state.
#[derive(Default)]
#[must_use]
pub struct SkippedDelta {
    /// Keys of messages now known to be late.
    pub added: Vec<SkippedKey>,
    /// Keys that were used, or dropped because of [`RETAINED_MAX`] or [`EPOCHS_MAX`]; never one of
    /// `added`.
    pub removed: Vec<SkippedId>,
}

impl SkippedDelta {
    /// Whether nothing changed: the normal case.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// Whether the message was opened with a key that was kept for it: others had overtaken it.
    #[must_use]
    pub fn is_use(&self) -> bool {
        self.added.is_empty() && !self.removed.is_empty()
    }
}

struct Epoch {
    header: HeaderKey,
    keys: BTreeMap<u32, MessageKey>,
}

/// All kept keys of one conversation. No epoch in it is empty.
#[derive(Default)]
pub(crate) struct Skipped {
    epochs: BTreeMap<u32, Epoch>,
    count: usize,
}

/// Keys that a message would skip, before it is known to be authentic.
pub(crate) struct Gap {
    pub(crate) first: u32,
    pub(crate) keys: Vec<MessageKey>,
}

impl Skipped {
    pub(crate) fn load(keys: impl IntoIterator<Item = SkippedKey>) -> Result<Self, RatchetError> {
        let mut skipped = Self::default();
        for key in keys {
            let epoch = skipped.epochs.entry(key.id.epoch).or_insert_with(|| Epoch {
                header: key.header.duplicate(),
                keys: BTreeMap::new(),
            });
            let fresh = epoch.keys.insert(key.id.number, key.message).is_none();
            if !fresh || epoch.header.0 != key.header.0 {
                return Err(RatchetError::BadState);
            }
            skipped.count += 1;
        }
        if skipped.count > RETAINED_MAX || skipped.epochs.len() > EPOCHS_MAX {
            return Err(RatchetError::BadState);
        }
        Ok(skipped)
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Epochs and their header keys, newest first.
    pub(crate) fn header_keys(&self) -> impl Iterator<Item = (u32, &HeaderKey)> {
        let newest_first = self.epochs.iter().rev();
        newest_first.map(|(epoch, kept)| (*epoch, &kept.header))
    }

    pub(crate) fn key(&self, id: SkippedId) -> Option<&MessageKey> {
        self.epochs.get(&id.epoch)?.keys.get(&id.number)
    }

    /// Forgets a used key.
    pub(crate) fn remove(&mut self, id: SkippedId) -> SkippedDelta {
        let mut delta = SkippedDelta::default();
        if let Some(epoch) = self.epochs.get_mut(&id.epoch)
            && epoch.keys.remove(&id.number).is_some()
        {
            self.count -= 1;
            delta.removed.push(id);
            if epoch.keys.is_empty() {
                self.epochs.remove(&id.epoch);
            }
        }
        delta
    }

    /// Keeps the keys of `gap`, then drops the oldest ones above the limits.
    pub(crate) fn insert(
        &mut self,
        epoch: u32,
        header: &HeaderKey,
        gap: Gap,
        delta: &mut SkippedDelta,
    ) {
        if gap.keys.is_empty() {
            return;
        }
        let kept = self.epochs.entry(epoch).or_insert_with(|| Epoch {
            header: header.duplicate(),
            keys: BTreeMap::new(),
        });
        for (number, message) in (gap.first..).zip(gap.keys) {
            let copy = MessageKey {
                key: message.key,
                iv: message.iv,
            };
            delta.added.push(SkippedKey {
                id: SkippedId { epoch, number },
                header: header.duplicate(),
                message: copy,
            });
            self.count += usize::from(kept.keys.insert(number, message).is_none());
        }
        self.drop_oldest(delta);
    }

    fn drop_oldest(&mut self, delta: &mut SkippedDelta) {
        while self.count > RETAINED_MAX || self.epochs.len() > EPOCHS_MAX {
            let whole_epoch = self.epochs.len() > EPOCHS_MAX;
            let Some(mut oldest) = self.epochs.first_entry() else {
                return;
            };
            let epoch = *oldest.key();
            while let Some((number, _)) = oldest.get_mut().keys.pop_first() {
                self.count -= 1;
                let id = SkippedId { epoch, number };
                delta.removed.push(id);
                if !whole_epoch && self.count <= RETAINED_MAX {
                    break;
                }
            }
            if oldest.get().keys.is_empty() {
                oldest.remove();
            }
        }
    }
}
