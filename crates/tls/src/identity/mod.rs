//! A server's identity: an offline certificate authority, and a leaf under it for the running
//! server.
//!
//! The layout is that of the reference server, so that operators find what they know: X.509 v3,
//! Ed25519, the authority with the CA flag, the leaf with `digitalSignature`, `nonRepudiation`,
//! `keyAgreement` and `serverAuth`, both valid for 999,999 days. The authority's key is needed only
//! to issue another leaf; an operator may keep it elsewhere. Rotating the leaf keeps the
//! fingerprint, hence all addresses.

mod files;

use core::fmt;
use core::time::Duration;

use junto_crypto::ed25519::{self, SigningKey};
use rand_core::CryptoRng;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData,
    SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use zeroize::Zeroizing;

use crate::Fingerprint;
use crate::chain::{ChainError, ClientChain, PeerChain, PeerKey};

pub use files::{
    AUTHORITY_CERTIFICATE, AUTHORITY_KEY, IdentityError, IdentityFiles, LEAF_CERTIFICATE, LEAF_KEY,
};

/// How long new certificates are valid, in days. In effect for ever: the identity *is* the server,
/// and a leaf is rotated by its operator, not by a date.
pub const VALIDITY_DAYS: u64 = 999_999;
/// A clock of a client may be behind ours by this much when a server is new, in seconds.
const CLOCK_SKEW_S: u64 = 24 * 60 * 60;
/// Bytes of a serial number; RFC 5280 §4.1.2.2 allows 20 and wants it positive.
const SERIAL_BYTES: usize = 16;
/// PKCS #8 (RFC 8410 §7) before the 32-byte seed of an Ed25519 key, in version 1, which has no
/// public key after it.
const PKCS8_V1_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The certificate authority of a server: who it is. Its key belongs offline.
pub struct OfflineIdentity {
    certificate: CertificateDer<'static>,
    key: CertificateKey,
}

impl OfflineIdentity {
    /// A new identity, valid from (a day before) `now`.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] if `now` is beyond the year 7000.
    pub fn generate(rng: &mut impl CryptoRng, now: UnixTime) -> Result<Self, IdentityError> {
        let key = CertificateKey::generate(rng);
        let mut params = parameters("SMP server CA", rng, now)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // As the reference: key identifiers, no key usage.
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .self_signed(&key)
            .map_err(|_| IdentityError::Certificate)?;
        Ok(Self {
            certificate: own(&certificate),
            key,
        })
    }

    /// Who it is.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The certificate, DER.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A leaf with a new key, for the running server. `name` becomes its common name, which nobody
    /// checks; the reference puts the host there.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] if `name` or `now` cannot be written into a certificate.
    pub fn issue(
        &self,
        name: &str,
        rng: &mut impl CryptoRng,
        now: UnixTime,
    ) -> Result<ServerIdentity, IdentityError> {
        let key = CertificateKey::generate(rng);
        let mut params = parameters(name, rng, now)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::ContentCommitment, // "nonRepudiation" in older texts
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)
            .map_err(|_| IdentityError::Certificate)?;
        let certificate = params
            .signed_by(&key, &issuer)
            .map_err(|_| IdentityError::Certificate)?;
        ServerIdentity::new(vec![own(&certificate), self.certificate.clone()], key, now)
    }
}

impl fmt::Debug for OfflineIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfflineIdentity")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// What a running server needs: its chain, and the key of its leaf.
pub struct ServerIdentity {
    chain: Vec<CertificateDer<'static>>,
    fingerprint: Fingerprint,
    key: CertificateKey,
}

impl ServerIdentity {
    /// A new identity whose authority key is forgotten at once: for embedded and test servers,
    /// which live as long as their process.
    ///
    /// # Errors
    /// As [`OfflineIdentity::issue`].
    pub fn ephemeral(
        name: &str,
        rng: &mut impl CryptoRng,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        OfflineIdentity::generate(rng, now)?.issue(name, rng, now)
    }

    /// Accepts only what our own client would accept, with the key that fits.
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: CertificateKey,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let verified = PeerChain::verify(&chain, now)?;
        if *verified.leaf_key() != PeerKey::Ed25519(key.signing.verifying_key()) {
            return Err(IdentityError::KeyMismatch);
        }
        Ok(Self {
            fingerprint: *verified.identity(),
            chain,
            key,
        })
    }

    /// Who the server is; the part before `@` in its address.
    #[must_use]
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The chain to present: leaf, identity, and what an operator put above.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf's key, for the signature in the server's SMP hello.
    #[must_use]
    pub const fn leaf_key(&self) -> &SigningKey {
        &self.key.signing
    }

    /// The leaf's key as the TLS library wants it.
    pub(crate) fn leaf_pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_pkcs8().to_vec())
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// What a service needs to show who it is to the servers that it uses.
pub struct ServiceIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: CertificateKey,
}

impl ServiceIdentity {
    /// A new one: a single certificate that signs itself, as services of the reference have it.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] if `now` is beyond the year 7000.
    pub fn generate(rng: &mut impl CryptoRng, now: UnixTime) -> Result<Self, IdentityError> {
        let key = CertificateKey::generate(rng);
        let certificate = parameters("SMP service", rng, now)?
            .self_signed(&key)
            .map_err(|_| IdentityError::Certificate)?;
        let chain = vec![own(&certificate)];
        ClientChain::verify(&chain, now)?;
        Ok(Self { chain, key })
    }

    /// Who it is: the hash of the second certificate, or of the only one.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let identity = self.chain.get(1).or(self.chain.first())?;
        Some(Fingerprint::of(identity))
    }

    /// The chain to present.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The key of the first certificate, for the signature in its SMP hello.
    #[must_use]
    pub const fn leaf_key(&self) -> &SigningKey {
        &self.key.signing
    }

    /// That key as the TLS library wants it.
    pub(crate) fn leaf_pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_pkcs8().to_vec())
    }
}

/// A server that is a service of other servers, under its own identity.
impl From<ServerIdentity> for ServiceIdentity {
    fn from(server: ServerIdentity) -> Self {
        let ServerIdentity { chain, key, .. } = server;
        Self { chain, key }
    }
}

impl fmt::Debug for ServiceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceIdentity").finish_non_exhaustive()
    }
}

/// An Ed25519 key that certificates are made with.
struct CertificateKey {
    signing: SigningKey,
    public: [u8; ed25519::KEY_BYTES],
}

impl CertificateKey {
    fn generate(rng: &mut impl CryptoRng) -> Self {
        Self::new(SigningKey::generate(rng))
    }

    fn new(signing: SigningKey) -> Self {
        let public = *signing.verifying_key().as_bytes();
        Self { signing, public }
    }

    fn to_pkcs8(&self) -> Zeroizing<[u8; PKCS8_V1_PREFIX.len() + ed25519::KEY_BYTES]> {
        let mut der = Zeroizing::new([0; PKCS8_V1_PREFIX.len() + ed25519::KEY_BYTES]);
        let (prefix, seed) = der.split_at_mut(PKCS8_V1_PREFIX.len());
        prefix.copy_from_slice(&PKCS8_V1_PREFIX);
        seed.copy_from_slice(self.signing.seed());
        der
    }

    /// Reads version 1, as we and OpenSSL write it.
    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let seed = der.strip_prefix(&PKCS8_V1_PREFIX)?;
        Some(Self::new(SigningKey::from_seed(seed.try_into().ok()?)))
    }
}

impl PublicKeyData for CertificateKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for CertificateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.signing.sign(message).0.to_vec())
    }
}

/// What leaf and authority have in common.
fn parameters(
    name: &str,
    rng: &mut impl CryptoRng,
    now: UnixTime,
) -> Result<CertificateParams, IdentityError> {
    // rcgen's dates panic outside of years ±9999.
    const NOW_MAX_S: u64 = 5_000 * 366 * 24 * 60 * 60;
    if now.as_secs() > NOW_MAX_S {
        return Err(IdentityError::Certificate);
    }
    let epoch = date_time_ymd(1970, 1, 1);
    let start = Duration::from_secs(now.as_secs().saturating_sub(CLOCK_SKEW_S));
    let mut serial = [0; SERIAL_BYTES];
    rng.fill_bytes(&mut serial);
    serial[0] = (serial[0] & 0x7f) | 0x40; // positive, and always as long
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    let mut params = CertificateParams::default();
    params.not_before = epoch + start;
    params.not_after = epoch + start + Duration::from_secs(VALIDITY_DAYS * 24 * 60 * 60);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = subject;
    params.key_identifier_method = KeyIdMethod::Sha256;
    Ok(params)
}

fn own(certificate: &Certificate) -> CertificateDer<'static> {
    certificate.der().clone()
}

impl From<ChainError> for IdentityError {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}
