//! Who may ask: tenants say so, for a short time.

use junto_crypto::ed25519::{SIGNATURE_BYTES, Signature, SigningKey, VerifyingKey};

use crate::{Account, DecodeError, RealmId, Seconds, encoding::Reader};

/// A tenant's word that somebody is one of its users: for one realm, and until a time soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    account: Account,
    expires: Seconds,
    signature: Signature,
}

impl Token {
    /// Longest life of a token, in seconds.
    pub const LIFE_MAX: u64 = 600;
    /// Most bytes of an encoded token.
    pub const BYTES_MAX: usize = 8 + 2 * (1 + Account::NAME_BYTES_MAX) + SIGNATURE_BYTES;

    /// What a tenant gives its user for `realm`.
    #[must_use]
    pub fn issue(account: Account, realm: &RealmId, expires: Seconds, tenant: &SigningKey) -> Self {
        let signature = tenant.sign(&signed(&account, realm, expires));
        Self {
            account,
            expires,
            signature,
        }
    }

    /// The end of its life, both names, the signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.expires.0.to_be_bytes().to_vec();
        out.extend_from_slice(&self.account.encode());
        out.extend_from_slice(self.signature.as_bytes());
        out
    }

    /// # Errors
    /// [`DecodeError`] unless these are the bytes of a token.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let token = Self {
            expires: Seconds(reader.u64()?),
            account: Account::decode(&mut reader)?,
            signature: Signature(reader.array()?),
        };
        reader.finish()?;
        Ok(token)
    }

    /// Whose records it opens.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// When it ends.
    #[must_use]
    pub fn expires(&self) -> Seconds {
        self.expires
    }

    /// Whether `tenant` signed it for `realm`, and it is alive: not over, and not of a longer life than is allowed.
    pub(crate) fn admits(&self, realm: &RealmId, now: Seconds, tenant: &VerifyingKey) -> bool {
        let alive = now < self.expires && self.expires.0 - now.0 <= Self::LIFE_MAX;
        let text = signed(&self.account, realm, self.expires);
        alive && tenant.verify(&text, &self.signature).is_ok()
    }
}

fn signed(account: &Account, realm: &RealmId, expires: Seconds) -> Vec<u8> {
    let expires = expires.0.to_be_bytes();
    [
        b"junto vault token",
        &realm.0[..],
        &expires,
        &account.encode(),
    ]
    .concat()
}
