//! Who keeps parts, and whose they are.

use junto_crypto::hash::sha256_of;

use crate::{DecodeError, encoding::Reader};

/// Most realms of one set.
pub const REALMS_MAX: usize = 32;

/// Identifies a realm: 32 bytes that the realm's own configuration fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RealmId(pub [u8; 32]);

/// The n realms that keep parts and how many of them, t, give a secret back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealmSet {
    realms: Vec<RealmId>,
    threshold: u8,
}

/// Why realms do not make a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RealmSetError {
    /// None, or more than [`REALMS_MAX`].
    #[error("a secret has between 1 and {REALMS_MAX} realms")]
    Size,
    /// One realm named twice.
    #[error("a realm is named twice")]
    Twice,
    /// At most half of the realms, or more than all.
    #[error("more than half of the realms must be needed, and at most all")]
    Threshold,
}

impl RealmSet {
    /// More than half of the realms must be needed: so two groups of t always have one in common, and an old
    /// version of a record is never mistaken for the newest.
    ///
    /// # Errors
    /// [`RealmSetError`].
    pub fn new(mut realms: Vec<RealmId>, threshold: u8) -> Result<Self, RealmSetError> {
        if realms.is_empty() || realms.len() > REALMS_MAX {
            return Err(RealmSetError::Size);
        }
        realms.sort_unstable();
        if realms.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(RealmSetError::Twice);
        }
        let needed = usize::from(threshold);
        if 2 * needed <= realms.len() || needed > realms.len() {
            return Err(RealmSetError::Threshold);
        }
        Ok(Self { realms, threshold })
    }

    /// The realms in their order, which is that of their ids.
    #[must_use]
    pub fn realms(&self) -> &[RealmId] {
        &self.realms
    }

    /// How many realms give a secret back.
    #[must_use]
    pub fn threshold(&self) -> usize {
        usize::from(self.threshold)
    }

    /// The place of a realm's share on the polynomials: 1 to n.
    pub(crate) fn place(&self, realm: &RealmId) -> Option<u8> {
        let index = self.realms.binary_search(realm).ok()?;
        u8::try_from(index + 1).ok()
    }

    /// Names the set, order of naming apart: SHA-256, 32 bytes.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut parts: Vec<&[u8]> = vec![
            b"junto vault realms",
            core::slice::from_ref(&self.threshold),
        ];
        parts.extend(self.realms.iter().map(|realm| &realm.0[..]));
        sha256_of(&parts)
    }
}

impl RealmSet {
    /// Names what `account` keeps with these realms, to who has both names and to nobody else: SHA-256, 32 bytes.
    #[must_use]
    pub fn owner(&self, account: &Account) -> [u8; 32] {
        sha256_of(&[b"junto vault owner", &self.digest(), &account.encode()])
    }
}

/// Whose secret it is: the tenant (the service that answers for its users) and the user's name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    tenant: String,
    user: String,
}

/// A tenant's or user's name that is empty or longer than [`Account::NAME_BYTES_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tenant and a user have names of 1 to {} bytes",
    Account::NAME_BYTES_MAX
)]
pub struct AccountError;

impl Account {
    /// Longest name of a tenant or user, in bytes.
    pub const NAME_BYTES_MAX: usize = 255;

    /// # Errors
    /// [`AccountError`].
    pub fn new(tenant: &str, user: &str) -> Result<Self, AccountError> {
        let fits = |name: &str| (1..=Self::NAME_BYTES_MAX).contains(&name.len());
        if !fits(tenant) || !fits(user) {
            return Err(AccountError);
        }
        Ok(Self {
            tenant: tenant.to_owned(),
            user: user.to_owned(),
        })
    }

    /// Both names, each behind its length: no two accounts have the same.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for name in [&self.tenant, &self.user] {
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut name = || {
            let length = usize::from(reader.u8()?);
            core::str::from_utf8(reader.bytes(length)?).map_err(|_| DecodeError)
        };
        Self::new(name()?, name()?).map_err(|AccountError| DecodeError)
    }

    /// Who answers for the user.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let ids = |n: u8| (0..n).map(|i| RealmId([i; 32])).collect::<Vec<_>>();
        assert_eq!(RealmSet::new(ids(0), 1), Err(RealmSetError::Size));
        assert_eq!(RealmSet::new(ids(33), 20), Err(RealmSetError::Size));
        assert_eq!(RealmSet::new(ids(3), 1), Err(RealmSetError::Threshold));
        assert_eq!(RealmSet::new(ids(4), 2), Err(RealmSetError::Threshold));
        assert_eq!(RealmSet::new(ids(3), 4), Err(RealmSetError::Threshold));
        assert_eq!(
            RealmSet::new(vec![RealmId([7; 32]); 2], 2),
            Err(RealmSetError::Twice)
        );
        let set = RealmSet::new(ids(3), 2).unwrap();
        let mut turned = ids(3);
        turned.reverse();
        assert_eq!(set.digest(), RealmSet::new(turned, 2).unwrap().digest());
        assert_ne!(set.digest(), RealmSet::new(ids(3), 3).unwrap().digest());
        assert_eq!(set.place(&RealmId([2; 32])), Some(3));
        assert_eq!(set.place(&RealmId([3; 32])), None);
    }

    #[test]
    fn accounts_are_told_apart() {
        let account = |tenant, user| Account::new(tenant, user).unwrap().encode();
        assert_ne!(account("ab", "c"), account("a", "bc"));
        assert!(Account::new("", "x").is_err() && Account::new("x", &"y".repeat(256)).is_err());
    }
}
