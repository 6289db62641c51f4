//! Storing: everything that the realms get is made here, on the user's device.

use curve25519_dalek::{ristretto::RistrettoPoint, scalar::Scalar};
use junto_crypto::{Zeroizing, kdf::hkdf_sha256};
use rand_core::CryptoRng;
use zeroize::Zeroize;

use crate::{
    Account, AuthKey, Cost, DecodeError, GuessLimit, MasterKey, Pin, RealmId, RealmSet, Roster,
    Stretched, Version,
    encoding::{Reader, scalar},
    oprf::{is_identity, output},
    roster::{Commitment, wrapped_digest},
    schedule::CostError,
    sharing::{random_scalar, share},
};

/// What one realm keeps for one version.
pub struct Deposit {
    pub(crate) roster: Roster,
    pub(crate) key_share: Zeroizing<Scalar>,
    pub(crate) verifier: [u8; 32],
    pub(crate) share: Zeroizing<Scalar>,
    pub(crate) wrapped: [u8; 32],
    pub(crate) limit: GuessLimit,
}

impl Deposit {
    const FIXED: usize = 4 * 32 + 4;
    /// Most bytes of an encoded deposit.
    pub const BYTES_MAX: usize = Self::FIXED + Roster::BYTES_MAX;

    /// The share of the OPRF key, the verifier, the share of the secret, the wrapped c2, the two limits, the roster.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(Self::BYTES_MAX));
        for field in [
            self.key_share.as_bytes(),
            &self.verifier,
            self.share.as_bytes(),
            &self.wrapped,
        ] {
            out.extend_from_slice(field);
        }
        out.extend_from_slice(&self.limit.each.to_be_bytes());
        out.extend_from_slice(&self.limit.lifetime.to_be_bytes());
        out.extend_from_slice(&self.roster.to_bytes());
        out
    }

    /// As `realm` receives it.
    ///
    /// # Errors
    /// [`DecodeError`] unless these are the bytes of a deposit, and everything in it fits what the roster says of this
    /// realm: it would otherwise be called a liar for what a client sent.
    pub fn from_bytes(bytes: &[u8], realm: &RealmId) -> Result<Self, DecodeError> {
        let (fixed, rest) = bytes
            .split_first_chunk::<{ Self::FIXED }>()
            .ok_or(DecodeError)?;
        let mut reader = Reader::new(fixed);
        let deposit = Self {
            key_share: Zeroizing::new(scalar(reader.array()?)?),
            verifier: reader.array()?,
            share: Zeroizing::new(scalar(reader.array()?)?),
            wrapped: reader.array()?,
            limit: GuessLimit::new(
                u16::from_be_bytes(reader.array()?),
                u16::from_be_bytes(reader.array()?),
            )
            .map_err(|_| DecodeError)?,
            roster: Roster::from_bytes(rest)?,
        };
        reader.finish()?;
        let (_, commitment) = deposit.roster.commitment(realm).ok_or(DecodeError)?;
        let fits = RistrettoPoint::mul_base(&deposit.key_share).compress() == commitment.key
            && RistrettoPoint::mul_base(&deposit.share).compress() == commitment.share
            && wrapped_digest(&deposit.wrapped) == deposit.roster.wrapped_digest;
        fits.then_some(deposit).ok_or(DecodeError)
    }

    /// Which storing of the secret it belongs to.
    #[must_use]
    pub fn version(&self) -> Version {
        self.roster.version
    }
}

impl Drop for Deposit {
    fn drop(&mut self) {
        self.verifier.zeroize();
        self.wrapped.zeroize();
    }
}

/// What goes to one realm.
pub struct Part {
    /// Which.
    pub realm: RealmId,
    /// What it keeps.
    pub deposit: Deposit,
    /// With what the client activates it there.
    pub auth: AuthKey,
}

/// c2, hidden under the shared secret.
pub(crate) fn wrap(secret: &Scalar, c2: &[u8; 32]) -> [u8; 32] {
    let pad = hkdf_sha256::<32>(b"", secret.as_bytes(), b"c2 wrap");
    core::array::from_fn(|i| c2[i] ^ pad[i])
}

/// Makes a master key and what each realm of `set` keeps of it, in the set's order. Every realm also gets the key with
/// which the client activates the deposit there. Nothing counts before that.
///
/// # Errors
/// [`CostError`] when the PIN cannot be stretched here.
pub fn enrol(
    pin: &Pin,
    account: &Account,
    set: &RealmSet,
    cost: Cost,
    limit: GuessLimit,
    rng: &mut impl CryptoRng,
) -> Result<(MasterKey, Vec<Part>), CostError> {
    let mut version = Version([0; 16]);
    rng.fill_bytes(&mut version.0);
    let stretched = Stretched::new(pin, account, set, &version, cost)?;
    let mut c2 = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut c2[..]);
    let (threshold, count) = (set.threshold(), set.realms().len());
    let (key_shares, shares, key, secret) = loop {
        let (key, secret) = (random_scalar(rng), random_scalar(rng));
        let key_shares = share(&key, threshold, count, rng);
        let shares = share(&secret, threshold, count, rng);
        // A share of zero, once in 2^252: its commitment would be the identity, which nobody accepts.
        let zero = |share: &Zeroizing<Scalar>| is_identity(&RistrettoPoint::mul_base(share));
        if !key_shares.iter().chain(&shares).any(zero) {
            break (key_shares, shares, key, secret);
        }
    };
    let output = output(&stretched.oprf_input(), &key);
    let wrapped = wrap(&secret, &c2);
    let roster = Roster {
        version,
        cost,
        set: set.clone(),
        commitments: key_shares
            .iter()
            .zip(&shares)
            .map(|(key, share)| Commitment {
                key: RistrettoPoint::mul_base(key).compress(),
                share: RistrettoPoint::mul_base(share).compress(),
            })
            .collect(),
        wrapped_digest: wrapped_digest(&wrapped),
    };
    let deposits = set
        .realms()
        .iter()
        .zip(key_shares.into_iter().zip(shares))
        .map(|(realm, (key_share, share))| {
            let auth = AuthKey::derive(&output, realm, &version);
            let deposit = Deposit {
                roster: roster.clone(),
                key_share,
                verifier: auth.verifier(),
                share,
                wrapped,
                limit,
            };
            Part {
                realm: *realm,
                deposit,
                auth,
            }
        })
        .collect();
    Ok((stretched.master_key(&c2), deposits))
}
