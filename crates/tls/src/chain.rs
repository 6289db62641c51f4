//! The certificate chain of an SMP server, or of a service that is its client, checked.
//!
//! A server sends 2, 3 or 4 certificates: leaf, identity, and possibly certificates of an operator
//! or a network above the identity. The identity is always the second; its hash is the pin. We
//! require the leaf to be signed by the identity directly. What stands above the identity carries
//! no trust for somebody who pinned it, and is ignored.
//!
//! Host names are not checked: a relay may have several, or be an onion service.
//!
//! A service shows such a chain too, or a single certificate that signs itself. Nobody pins it: who
//! it is, is its fingerprint, and what it may do follows from that.

use core::fmt;

use junto_crypto::{ed448, ed25519};
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use crate::Fingerprint;

/// Least certificates in a chain: leaf and identity.
pub const CHAIN_MIN: usize = 2;
/// Most certificates in a chain: leaf, identity, network, operator.
pub const CHAIN_MAX: usize = 4;
/// Most bytes of one certificate that we look at. Genuine ones have 400 to 700.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

/// DER tag of a certificate.
const SEQUENCE_TAG: u8 = 0x30;

/// Why a server's chain is refused. All are the server's (or an attacker's) fault, except
/// [`ChainError::WrongIdentity`], which may also mean an outdated address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Not 2, 3 or 4 certificates.
    #[error("the server sent {0} certificates; 2 to 4 are valid")]
    Length(usize),
    /// Not DER X.509 v3, oversized, or with a critical extension that we do not know.
    #[error("a certificate of the server is malformed")]
    Encoding,
    /// A key or signature that is neither Ed25519 nor Ed448.
    #[error("a certificate of the server uses another algorithm than Ed25519 or Ed448")]
    Algorithm,
    /// The second certificate may not sign others.
    #[error("the identity certificate of the server is not a certificate authority")]
    NotAuthority,
    /// The leaf may not authenticate a TLS server.
    #[error("the leaf certificate of the server is not made for servers")]
    Purpose,
    /// Leaf or identity is expired or not valid yet, by our clock.
    #[error("a certificate of the server is not valid at this time")]
    Time,
    /// The leaf names another issuer, or its signature does not verify.
    #[error("the leaf certificate of the server is not signed by its identity")]
    Unsigned,
    /// The identity is not the pinned one.
    #[error("the server has another identity than its address says")]
    WrongIdentity,
}

/// A public key of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PeerKey {
    /// What servers use by default.
    Ed25519(ed25519::VerifyingKey),
    /// What older servers use.
    Ed448(ed448::VerifyingKey),
}

impl PeerKey {
    /// Reads DER `SubjectPublicKeyInfo` (RFC 8410).
    fn from_spki(spki: &[u8]) -> Result<Self, ChainError> {
        ed25519::VerifyingKey::from_spki(spki)
            .map(Self::Ed25519)
            .or_else(|_| ed448::VerifyingKey::from_spki(spki).map(Self::Ed448))
            .map_err(|_| ChainError::Algorithm)
    }

    /// Whether `signature` over `message` was made by this key. A signature of the wrong length
    /// was not.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => <[u8; ed25519::SIGNATURE_BYTES]>::try_from(signature)
                .is_ok_and(|s| key.verify(message, &ed25519::Signature(s)).is_ok()),
            Self::Ed448(key) => <[u8; ed448::SIGNATURE_BYTES]>::try_from(signature)
                .is_ok_and(|s| key.verify(message, &ed448::Signature(s)).is_ok()),
        }
    }

    /// Object identifier of the key and its signatures, as DER content (RFC 8410 §3).
    const fn oid(&self) -> &'static [u8] {
        match self {
            Self::Ed25519(_) => &[0x2b, 0x65, 0x70],
            Self::Ed448(_) => &[0x2b, 0x65, 0x71],
        }
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519(_) => "PeerKey::Ed25519(..)",
            Self::Ed448(_) => "PeerKey::Ed448(..)",
        })
    }
}

/// A chain that passed [`PeerChain::verify`]: its leaf belongs to its identity.
#[derive(Clone)]
pub struct PeerChain {
    certificates: Vec<CertificateDer<'static>>,
    identity: Fingerprint,
    leaf_key: PeerKey,
}

impl PeerChain {
    /// Checks `certificates`, in the order in which the server sent them, at the time `now`.
    ///
    /// # Errors
    /// [`ChainError`], but never [`ChainError::WrongIdentity`]: that is for
    /// [`PeerChain::expect`].
    pub fn verify(certificates: &[CertificateDer<'_>], now: UnixTime) -> Result<Self, ChainError> {
        let ([leaf, identity] | [leaf, identity, _] | [leaf, identity, _, _]) = certificates else {
            return Err(ChainError::Length(certificates.len()));
        };
        let leaf_key = check(leaf, identity, now, Purpose::Server)?;
        Ok(Self {
            identity: Fingerprint::of(identity),
            leaf_key,
            certificates: certificates
                .iter()
                .map(|c| c.clone().into_owned())
                .collect(),
        })
    }

    /// Requires the pinned identity, comparing in constant time.
    ///
    /// # Errors
    /// [`ChainError::WrongIdentity`].
    pub fn expect(self, pin: &Fingerprint) -> Result<Self, ChainError> {
        if self.identity.matches(pin) {
            Ok(self)
        } else {
            Err(ChainError::WrongIdentity)
        }
    }

    /// The certificates as received: leaf, identity, others.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Hash of the second certificate: who the server is.
    #[must_use]
    pub const fn identity(&self) -> &Fingerprint {
        &self.identity
    }

    /// The key of the leaf, which also signs the server's SMP hello.
    #[must_use]
    pub const fn leaf_key(&self) -> &PeerKey {
        &self.leaf_key
    }
}

impl fmt::Debug for PeerChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerChain")
            .field("identity", &self.identity)
            .field("leaf_key", &self.leaf_key)
            .finish_non_exhaustive()
    }
}

/// A chain that passed [`ClientChain::verify`].
#[derive(Clone)]
pub struct ClientChain {
    certificates: Vec<CertificateDer<'static>>,
    leaf_key: PeerKey,
}

impl ClientChain {
    /// Checks `certificates`, in the order in which a client sent them, at the time `now`: as for a
    /// server, but a single one may sign itself, and the leaf may be made for servers or clients.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn verify(certificates: &[CertificateDer<'_>], now: UnixTime) -> Result<Self, ChainError> {
        let leaf_key = match certificates {
            [own] => check_own(own, now)?,
            [leaf, identity] | [leaf, identity, _] | [leaf, identity, _, _] => {
                check(leaf, identity, now, Purpose::Client)?
            }
            _ => return Err(ChainError::Length(certificates.len())),
        };
        Ok(Self {
            leaf_key,
            certificates: certificates
                .iter()
                .map(|c| c.clone().into_owned())
                .collect(),
        })
    }

    /// The certificates as received: leaf, identity, others; or the only one.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The key of the first, which also signs in the client's SMP hello.
    #[must_use]
    pub const fn leaf_key(&self) -> &PeerKey {
        &self.leaf_key
    }
}

impl fmt::Debug for ClientChain {
    /// Who it is belongs in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientChain")
            .field("leaf_key", &self.leaf_key)
            .finish_non_exhaustive()
    }
}

/// Whom a leaf is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Server,
    Client,
}

/// Reads the key of a leaf that a verified handshake presented.
pub(crate) fn leaf_key(leaf: &[u8]) -> Result<PeerKey, ChainError> {
    PeerKey::from_spki(parse(leaf)?.public_key().raw)
}

/// The rules for leaf and identity; gives the leaf's key.
fn check(
    leaf: &[u8],
    identity: &[u8],
    now: UnixTime,
    purpose: Purpose,
) -> Result<PeerKey, ChainError> {
    let leaf = parse(leaf)?;
    let identity = parse(identity)?;
    let leaf_key = PeerKey::from_spki(leaf.public_key().raw)?;
    let identity_key = PeerKey::from_spki(identity.public_key().raw)?;
    check_authority(&identity)?;
    check_leaf(&leaf, purpose)?;
    check_time(&[&leaf, &identity], now)?;
    if leaf.issuer().as_raw() != identity.subject().as_raw() {
        return Err(ChainError::Unsigned);
    }
    check_signature(&leaf, &identity_key)?;
    Ok(leaf_key)
}

/// The rules for a certificate that stands alone; gives its key.
fn check_own(own: &[u8], now: UnixTime) -> Result<PeerKey, ChainError> {
    let own = parse(own)?;
    let key = PeerKey::from_spki(own.public_key().raw)?;
    check_time(&[&own], now)?;
    if own.issuer().as_raw() != own.subject().as_raw() {
        return Err(ChainError::Unsigned);
    }
    check_signature(&own, &key)?;
    Ok(key)
}

fn check_time(certificates: &[&X509Certificate<'_>], now: UnixTime) -> Result<(), ChainError> {
    let seconds = i64::try_from(now.as_secs()).map_err(|_| ChainError::Time)?;
    let now = ASN1Time::from_timestamp(seconds).map_err(|_| ChainError::Time)?;
    let valid = |certificate: &&X509Certificate<'_>| certificate.validity().is_valid_at(now);
    match certificates.iter().all(valid) {
        true => Ok(()),
        false => Err(ChainError::Time),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, ChainError> {
    // The parser does not look at the outermost tag, the one byte that nothing else covers.
    if der.len() > CERTIFICATE_BYTES_MAX || der.first() != Some(&SEQUENCE_TAG) {
        return Err(ChainError::Encoding);
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| ChainError::Encoding)?;
    let unknown = certificate.extensions().iter().any(|extension| {
        extension.critical
            && matches!(
                extension.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. }
                    | ParsedExtension::ParseError { .. }
                    | ParsedExtension::Unparsed
            )
    });
    if !rest.is_empty() || unknown || certificate.version() != X509Version::V3 {
        return Err(ChainError::Encoding);
    }
    Ok(certificate)
}

/// RFC 5280 §4.2.1.9 and §4.2.1.3: CA flag; and if key usages are listed, signing certificates is
/// among them (genuine identities list none).
fn check_authority(identity: &X509Certificate<'_>) -> Result<(), ChainError> {
    let constraints = identity
        .basic_constraints()
        .map_err(|_| ChainError::Encoding)?;
    let usage = identity.key_usage().map_err(|_| ChainError::Encoding)?;
    let is_ca = constraints.is_some_and(|c| c.value.ca);
    if is_ca && usage.is_none_or(|u| u.value.key_cert_sign()) {
        Ok(())
    } else {
        Err(ChainError::NotAuthority)
    }
}

/// The leaf is no CA; if usages are listed, `digitalSignature` is among them, and `serverAuth`, for
/// which a client may have `clientAuth` instead.
fn check_leaf(leaf: &X509Certificate<'_>, purpose: Purpose) -> Result<(), ChainError> {
    let constraints = leaf.basic_constraints().map_err(|_| ChainError::Encoding)?;
    let usage = leaf.key_usage().map_err(|_| ChainError::Encoding)?;
    let purposes = leaf
        .extended_key_usage()
        .map_err(|_| ChainError::Encoding)?;
    if constraints.is_none_or(|c| !c.value.ca)
        && usage.is_none_or(|u| u.value.digital_signature())
        && purposes.is_none_or(|p| {
            let client = purpose == Purpose::Client && p.value.client_auth;
            p.value.server_auth || client || p.value.any
        })
    {
        Ok(())
    } else {
        Err(ChainError::Purpose)
    }
}

fn check_signature(leaf: &X509Certificate<'_>, key: &PeerKey) -> Result<(), ChainError> {
    // RFC 8410 §3: the parameters must be absent.
    let algorithm = &leaf.tbs_certificate.signature;
    if algorithm.algorithm.as_bytes() != key.oid() || algorithm.parameters.is_some() {
        return Err(ChainError::Algorithm);
    }
    // What follows the signed part is not signed itself, so it is compared whole with the one way
    // to write it: the same algorithm again (RFC 5280 §4.1.1.2), and the signature.
    let signed = leaf.tbs_certificate.as_ref();
    let signature: &[u8] = &leaf.signature_value.data;
    let bits = u8::try_from(signature.len() + 1).map_err(|_| ChainError::Encoding)?;
    let tail = [&[0x30, 5, 6, 3], key.oid(), &[3, bits, 0], signature].concat();
    let before = leaf.as_raw().strip_suffix(tail.as_slice());
    if !before.is_some_and(|before| before.ends_with(signed)) {
        return Err(ChainError::Encoding);
    }
    if !key.verifies(signed, signature) {
        return Err(ChainError::Unsigned);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OfflineIdentity, ServerIdentity};
    use core::time::Duration;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    const NOW: u64 = 1_800_000_000;

    fn chain() -> Vec<CertificateDer<'static>> {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let identity = ServerIdentity::ephemeral("host", &mut rng, at(NOW)).unwrap();
        identity.chain().to_vec()
    }

    #[test]
    fn no_changed_byte_passes_for_the_same_server() {
        let chain = chain();
        let pin = Fingerprint::of(&chain[1]);
        assert!(
            PeerChain::verify(&chain, at(NOW))
                .unwrap()
                .expect(&pin)
                .is_ok()
        );
        for certificate in 0..2 {
            for position in 0..chain[certificate].len() {
                for bit in [1, 0x80] {
                    let mut changed = chain.clone();
                    let mut der = changed[certificate].to_vec();
                    der[position] ^= bit;
                    changed[certificate] = der.into();
                    let verified = PeerChain::verify(&changed, at(NOW));
                    let accepted = verified.and_then(|chain| chain.expect(&pin));
                    assert!(
                        accepted.is_err(),
                        "certificate {certificate}, byte {position}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_client_may_sign_for_itself_and_nobody_else_may() {
        let mut rng = ChaCha20Rng::seed_from_u64(6);
        let own = OfflineIdentity::generate(&mut rng, at(NOW)).unwrap();
        let own = own.certificate().clone();
        let verify = |chain: &[CertificateDer<'static>]| {
            ClientChain::verify(chain, at(NOW)).map(|chain| chain.certificates().len())
        };
        assert_eq!(verify(core::slice::from_ref(&own)), Ok(1));
        let chain = chain();
        assert_eq!(verify(&chain), Ok(2));
        assert_eq!(verify(&chain[..1]), Err(ChainError::Unsigned));
        assert_eq!(verify(&[]), Err(ChainError::Length(0)));
        assert_eq!(verify(&vec![own.clone(); 5]), Err(ChainError::Length(5)));
        assert!(verify(&[own.clone(), chain[1].clone()]).is_err());
        let late = ClientChain::verify(core::slice::from_ref(&own), at(u64::MAX));
        assert_eq!(late.unwrap_err(), ChainError::Time);
        for position in 0..own.len() {
            let mut changed = own.to_vec();
            changed[position] ^= 1;
            // Nothing pins it, so only what it says itself must be right.
            assert!(verify(&[changed.into()]).is_err(), "byte {position}");
        }
    }

    #[test]
    fn cut_and_lengthened_certificates_are_malformed() {
        let chain = chain();
        let leaf = chain[0].to_vec();
        let longer = [leaf.as_slice(), &[0]].concat();
        for bad in (0..leaf.len())
            .map(|cut| leaf[..cut].to_vec())
            .chain([longer])
        {
            let changed = [bad.into(), chain[1].clone()];
            let error = PeerChain::verify(&changed, at(NOW)).unwrap_err();
            assert_eq!(error, ChainError::Encoding);
        }
        let huge = [
            vec![0x30; CERTIFICATE_BYTES_MAX + 1].into(),
            chain[1].clone(),
        ];
        assert_eq!(
            PeerChain::verify(&huge, at(NOW)).unwrap_err(),
            ChainError::Encoding
        );
    }

    #[test]
    fn certificates_have_a_beginning_and_in_effect_no_end() {
        const DAY: u64 = 86_400;
        let chain = chain();
        let verdict = |now| PeerChain::verify(&chain, at(now)).map(drop);
        assert_eq!(verdict(NOW - 2 * DAY), Err(ChainError::Time));
        assert_eq!(verdict(NOW - DAY + 1), Ok(()));
        assert_eq!(verdict(NOW + 999_990 * DAY), Ok(()));
        assert_eq!(verdict(NOW + 1_000_001 * DAY), Err(ChainError::Time));
        assert_eq!(verdict(u64::MAX), Err(ChainError::Time));
    }
}
