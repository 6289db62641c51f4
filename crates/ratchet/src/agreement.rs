//! The first keys: X3DH over X448 with an optional key encapsulation.
//!
//! Both sides have two keys. The joiner's first secret comes from the maker's `k1` and its own
//! `k2`, the second from `k2` and `k1`, the third from both `k2`; a fourth, if the joiner accepted a
//! proposal, is encapsulated. The raw first keys of joiner and maker are the associated data of
//! every message after.

use core::cmp::Ordering;

use junto_crypto::{CryptoRng, kem, x448};
use zeroize::Zeroizing;

use crate::{
    KemParams, Offer, Params, Ratchet, RatchetError, Version, VersionRange,
    chain::{HeaderKey, RootKey, agreed_keys},
    ratchet::{AD_BYTES, OwnKey},
    step::OwnKem,
    wire::Reader,
};

/// What one side wants of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether to negotiate key encapsulation.
    pub pq: bool,
    /// The newest version to speak.
    pub max_version: Version,
}

impl Default for Options {
    /// Key encapsulation, all versions.
    fn default() -> Self {
        Self {
            pq: true,
            max_version: Version::MAX,
        }
    }
}

/// The secret keys behind an [`Offer`] (or, when a conversation is negotiated anew, behind
/// [`Params`]). Stored until the peer answers. Wiped when dropped.
pub struct MakerKeys {
    k1: x448::SecretKey,
    k2: x448::SecretKey,
    kem: Option<kem::SecretKey>,
}

/// First byte of the stored form.
const STORED_VERSION: u8 = 1;

impl MakerKeys {
    /// Fresh keys; with `pq` (some milliseconds of work) also one to encapsulate to.
    pub fn generate(pq: bool, rng: &mut impl CryptoRng) -> Self {
        Self {
            k1: x448::SecretKey::generate(rng),
            k2: x448::SecretKey::generate(rng),
            kem: pq.then(|| kem::SecretKey::generate(rng)),
        }
    }

    /// What goes into the link.
    #[must_use]
    pub fn offer(&self, versions: VersionRange) -> Offer {
        Offer {
            versions,
            k1: self.k1.public_key(),
            k2: self.k2.public_key(),
            kem: self.kem.as_ref().map(kem::SecretKey::public_key),
        }
    }

    /// The same as parameters at one version, for negotiating anew.
    #[must_use]
    pub fn params(&self, version: Version) -> Params {
        let kem = self.kem.as_ref().filter(|_| version >= Version::V3);
        Params {
            version,
            k1: self.k1.public_key(),
            k2: self.k2.public_key(),
            kem: kem.map(|key| KemParams::Proposed(key.public_key())),
        }
    }

    /// The maker's ratchet, after the joiner's answer. It can receive; after the first decrypted
    /// message it can send.
    ///
    /// # Errors
    /// [`RatchetError::Version`] if the joiner chose a version above `options`,
    /// [`RatchetError::KemNotOffered`] if it accepts what was not proposed,
    /// [`RatchetError::WeakKey`] if its keys are of small order.
    pub fn accept(&self, joiner: &Params, options: Options) -> Result<Ratchet, RatchetError> {
        if joiner.version > options.max_version {
            return Err(RatchetError::Version);
        }
        let (secret, kem) = match (&joiner.kem, &self.kem) {
            (Some(KemParams::Accepted(ciphertext, _)), Some(key)) => (
                Some(key.decapsulate(ciphertext)),
                Some(OwnKem::stored(key)?),
            ),
            (Some(KemParams::Accepted(..)), None) => return Err(RatchetError::KemNotOffered),
            // A joiner that only proposes begins the negotiation anew, in its header.
            (Some(KemParams::Proposed(_)) | None, _) => (None, None),
        };
        let agreed = Agreed::new(
            (&joiner.k1, &self.k1.public_key()),
            [
                self.k1.diffie_hellman(&joiner.k2)?,
                self.k2.diffie_hellman(&joiner.k1)?,
                self.k2.diffie_hellman(&joiner.k2)?,
            ],
            secret.as_ref(),
        );
        let own = OwnKey::new(x448::SecretKey::from_bytes(self.k2.as_bytes()));
        let hybrid = secret.is_some();
        Ok(Ratchet {
            hybrid,
            ..Ratchet::receiver(agreed, own, kem, joiner.version, options)
        })
    }

    /// The ratchet of a conversation that is negotiated anew, when both sides have sent [`Params`]. The one
    /// whose keys have the smaller [`Params::fingerprint`] receives first, as the maker of a link does; the
    /// other one can send at once. What both propose for the key encapsulation is taken up by the first
    /// messages.
    ///
    /// # Errors
    /// [`RatchetError::Version`] if the peer chose a version above `options`,
    /// [`RatchetError::KemNotOffered`] if it accepts what nobody proposed,
    /// [`RatchetError::WeakKey`] if its keys are of small order, [`RatchetError::Malformed`] if they are ours.
    pub fn renew(
        &self,
        peer: &Params,
        options: Options,
        rng: &mut impl CryptoRng,
    ) -> Result<Ratchet, RatchetError> {
        if peer.version > options.max_version {
            return Err(RatchetError::Version);
        }
        if matches!(peer.kem, Some(KemParams::Accepted(..))) {
            return Err(RatchetError::KemNotOffered);
        }
        let ours = self.params(peer.version);
        match ours.fingerprint().cmp(&peer.fingerprint()) {
            Ordering::Less => self.accept(peer, options),
            Ordering::Equal => Err(RatchetError::Malformed),
            Ordering::Greater => {
                let kem = match &self.kem {
                    Some(key) if options.pq && peer.version >= Version::V3 => {
                        Some(OwnKem::stored(key)?)
                    }
                    Some(_) | None => None,
                };
                let agreed = Agreed::new(
                    (&ours.k1, &peer.k1),
                    [
                        self.k2.diffie_hellman(&peer.k1)?,
                        self.k1.diffie_hellman(&peer.k2)?,
                        self.k2.diffie_hellman(&peer.k2)?,
                    ],
                    None,
                );
                let own = OwnKey::new(x448::SecretKey::generate(rng));
                Ratchet::sender(agreed, own, &peer.k2, kem, peer.version, options)
            }
        }
    }

    /// The bytes to seal and store.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let kem = self.kem.as_ref().map_or(&[][..], |key| key.as_bytes());
        let mut out = Zeroizing::new(Vec::with_capacity(1 + 2 * x448::KEY_BYTES + kem.len()));
        out.push(STORED_VERSION);
        out.extend_from_slice(self.k1.as_bytes());
        out.extend_from_slice(self.k2.as_bytes());
        out.extend_from_slice(kem);
        out
    }

    /// Reads what [`MakerKeys::encode`] wrote.
    ///
    /// # Errors
    /// [`RatchetError::BadState`] if it did not.
    pub fn decode(bytes: &[u8]) -> Result<Self, RatchetError> {
        let read = || {
            let mut reader = Reader(bytes);
            let version = reader.u8()?;
            let k1 = x448::SecretKey::from_bytes(reader.array()?);
            let k2 = x448::SecretKey::from_bytes(reader.array()?);
            let kem = match reader.0 {
                [] => None,
                key => Some(kem::SecretKey::from_bytes(key)?),
            };
            if version == STORED_VERSION {
                Ok(Self { k1, k2, kem })
            } else {
                Err(RatchetError::Malformed)
            }
        };
        read().map_err(|_: RatchetError| RatchetError::BadState)
    }
}

/// Joins a conversation that somebody offered: the joiner's ratchet, which can send at once, and
/// what the maker needs to follow.
///
/// # Errors
/// [`RatchetError::Version`] without a common version, [`RatchetError::WeakKey`] if the offered keys
/// are of small order.
pub fn join(
    offer: &Offer,
    options: Options,
    rng: &mut impl CryptoRng,
) -> Result<(Ratchet, Params), RatchetError> {
    let version = offer.versions.common(options.max_version)?;
    let (k1, k2) = (
        x448::SecretKey::generate(rng),
        x448::SecretKey::generate(rng),
    );
    let kem = (options.pq && version >= Version::V3).then(|| match &offer.kem {
        None => OwnKem::propose(rng),
        Some(key) => OwnKem::accept(key, rng),
    });
    let params = Params {
        version,
        k1: k1.public_key(),
        k2: k2.public_key(),
        kem: kem.as_ref().map(OwnKem::params),
    };
    let agreed = Agreed::new(
        (&params.k1, &offer.k1),
        [
            k2.diffie_hellman(&offer.k1)?,
            k1.diffie_hellman(&offer.k2)?,
            k2.diffie_hellman(&offer.k2)?,
        ],
        kem.as_ref().and_then(OwnKem::secret),
    );
    let own = OwnKey::new(x448::SecretKey::generate(rng));
    let ratchet = Ratchet::sender(agreed, own, &offer.k2, kem, version, options)?;
    Ok((ratchet, params))
}

/// What both sides know after the agreement.
pub(crate) struct Agreed {
    /// Raw first keys of joiner and maker.
    pub(crate) ad: [u8; AD_BYTES],
    /// Header key of the joiner's first chain.
    pub(crate) header: HeaderKey,
    /// Header key of the maker's first chain.
    pub(crate) next_header: HeaderKey,
    pub(crate) root: RootKey,
}

impl Agreed {
    fn new(
        (joiner, maker): (&x448::PublicKey, &x448::PublicKey),
        secrets: [x448::SharedSecret; 3],
        encapsulated: Option<&kem::SharedSecret>,
    ) -> Self {
        let mut all = Zeroizing::new(Vec::with_capacity(3 * x448::KEY_BYTES + 32));
        for secret in &secrets {
            all.extend_from_slice(secret.as_bytes());
        }
        if let Some(secret) = encapsulated {
            all.extend_from_slice(secret.as_bytes());
        }
        let (header, next_header, root) = agreed_keys(&all);
        let mut ad = [0; AD_BYTES];
        let (first, second) = ad.split_at_mut(x448::KEY_BYTES);
        first.copy_from_slice(joiner.as_bytes());
        second.copy_from_slice(maker.as_bytes());
        Self {
            ad,
            header,
            next_header,
            root,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../../vectors/simplex-ratchet.txt");

    fn vector<const N: usize>(name: &str) -> [u8; N] {
        let line = VECTORS
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        hex::decode(line.expect(name)).unwrap().try_into().unwrap()
    }

    fn secret(name: &str) -> x448::SecretKey {
        x448::SecretKey::from_bytes(&vector(name))
    }

    /// X3DH of the maker with a joiner's public keys.
    fn agree(maker: &MakerKeys, k1: &x448::PublicKey, k2: &x448::PublicKey) -> Agreed {
        let secrets = [
            maker.k1.diffie_hellman(k2).unwrap(),
            maker.k2.diffie_hellman(k1).unwrap(),
            maker.k2.diffie_hellman(k2).unwrap(),
        ];
        Agreed::new((k1, &maker.k1.public_key()), secrets, None)
    }

    fn maker(k1: &str, k2: &str) -> MakerKeys {
        MakerKeys {
            k1: secret(k1),
            k2: secret(k2),
            kem: None,
        }
    }

    #[test]
    fn agreement_step_and_chain_of_the_reference() {
        let maker = maker("x3dh_maker_1", "x3dh_maker_2");
        let (k1, k2) = (secret("x3dh_joiner_1"), secret("x3dh_joiner_2"));
        let agreed = agree(&maker, &k1.public_key(), &k2.public_key());
        assert_eq!(agreed.header.0, vector("x3dh_header_key"));
        assert_eq!(agreed.next_header.0, vector("x3dh_next_header_key"));
        assert_eq!(agreed.root.0, vector("x3dh_root"));
        assert_eq!(agreed.ad[..56], *k1.public_key().as_bytes());
        assert_eq!(agreed.ad[56..], *maker.k1.public_key().as_bytes());

        let shared = secret("step_ratchet_key")
            .diffie_hellman(&maker.k2.public_key())
            .unwrap();
        let (root, chain, header) = agreed.root.step(&shared, None);
        assert_eq!(root.0, vector("step_root"));
        assert_eq!(chain.0, vector("step_chain"));
        assert_eq!(header.0, vector("step_next_header_key"));

        let step = chain.step();
        assert_eq!(step.next.0, vector("chain_next"));
        assert_eq!(step.message.key, vector("chain_message_key"));
        assert_eq!(step.message.iv, vector("chain_message_iv"));
        assert_eq!(step.header_iv, vector("chain_header_iv"));
    }

    #[test]
    fn agreement_with_a_genuine_joiner() {
        let maker = maker("g_maker_1", "g_maker_2");
        let own = Params::decode(&vector::<141>("g_maker_params")).unwrap();
        assert_eq!(own, maker.params(Version::V3));
        let joiner = Params::decode(&vector::<141>("g_joiner_params")).unwrap();
        let agreed = agree(&maker, &joiner.k1, &joiner.k2);
        assert_eq!(agreed.header.0, vector("g_header_key"));
        assert_eq!(agreed.next_header.0, vector("g_next_header_key"));
        assert_eq!(agreed.root.0, vector("g_root"));
    }
}
