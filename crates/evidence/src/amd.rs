//! Reports of AMD SEV-SNP (versions 2 to 5), signed by the key of a chip (VCEK) or of a cloud (VLEK).
//!
//! ```text
//! evidence = report · VCEK or VLEK · ASK or ASVK · CRL, or nothing                   each behind its length
//! root (ARK, compiled in) ─ RSA-PSS ─► ASK ─ RSA-PSS ─► VCEK ─ ECDSA P-384 ─► report
//! ```
//!
//! Layouts: AMD's publications 56860 (the report) and 57230 (the certificates). A key is made for one chip and one set of
//! versions, which its certificate names; the report has to name the same.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use x509_parser::{
    certificate::X509Certificate,
    der_parser::{Oid, oid},
    prelude::FromDer as _,
    revocation_list::CertificateRevocationList,
    x509::X509Name,
};

use crate::{
    Measurement, Node, Refusal, Seconds, Standing, Verified,
    parts::{join, split},
};

/// The root key of each product, in its certificate of itself.
pub(crate) const ROOTS: [(Product, &[u8]); 3] = [
    (Product::Milan, include_bytes!("roots/amd-milan.der")),
    (Product::Genoa, include_bytes!("roots/amd-genoa.der")),
    (Product::Turin, include_bytes!("roots/amd-turin.der")),
];

/// Bytes of a report.
pub const REPORT_BYTES: usize = 0x4a0;
/// Before its signature.
pub(crate) const SIGNED_BYTES: usize = 0x2a0;
/// Bytes of one number of the signature, little end first; a P-384 one takes 48 of them.
const NUMBER_BYTES: usize = 72;
/// Longest certificate: AMD's have less than 2 KB.
const CERTIFICATE_BYTES_MAX: usize = 4 * 1024;
/// Longest revocation list.
const CRL_BYTES_MAX: usize = 32 * 1024;

const PSS: Oid<'_> = oid!(1.2.840.113549.1.1.10);
const P384: Oid<'_> = oid!(1.3.132.0.34);
const COMMON_NAME: Oid<'_> = oid!(2.5.4.3);
const BASIC_CONSTRAINTS: Oid<'_> = oid!(2.5.29.19);
const KEY_USAGE: Oid<'_> = oid!(2.5.29.15);
const BOOTLOADER: Oid<'_> = oid!(1.3.6.1.4.1.3704.1.3.1);
const TEE: Oid<'_> = oid!(1.3.6.1.4.1.3704.1.3.2);
const SNP: Oid<'_> = oid!(1.3.6.1.4.1.3704.1.3.3);
const MICROCODE: Oid<'_> = oid!(1.3.6.1.4.1.3704.1.3.8);
const FMC: Oid<'_> = oid!(1.3.6.1.4.1.3704.1.3.9);
const CHIP: Oid<'_> = oid!(1.3.6.1.4.1.3704.1.4);
const CLOUD: Oid<'_> = oid!(1.3.6.1.4.1.3704.1.5);

/// Families of processors, each with a root of its own. Siena and Bergamo are Genoa's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// Third generation.
    Milan,
    /// Fourth.
    Genoa,
    /// Fifth.
    Turin,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milan => "milan",
            Self::Genoa => "genoa",
            Self::Turin => "turin",
        })
    }
}

/// Versions of what runs beneath the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcb {
    /// Only Turin has one.
    #[serde(default)]
    pub fmc: u8,
    /// Boot loader of the security processor.
    pub bootloader: u8,
    /// Its system.
    pub tee: u8,
    /// SNP's firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl Tcb {
    fn read(product: Product, bytes: [u8; 8]) -> Self {
        match (product, bytes) {
            (Product::Turin, [fmc, bootloader, tee, snp, _, _, _, microcode]) => Self {
                fmc,
                bootloader,
                tee,
                snp,
                microcode,
            },
            (_, [bootloader, tee, _, _, _, _, snp, microcode]) => Self {
                fmc: 0,
                bootloader,
                tee,
                snp,
                microcode,
            },
        }
    }

    /// Whether no version is below.
    #[must_use]
    pub fn reaches(&self, least: &Self) -> bool {
        self.fmc >= least.fmc
            && self.bootloader >= least.bootloader
            && self.tee >= least.tee
            && self.snp >= least.snp
            && self.microcode >= least.microcode
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fmc,
            bootloader,
            tee,
            snp,
            microcode,
        } = self;
        write!(
            f,
            "fmc {fmc}, bootloader {bootloader}, tee {tee}, snp {snp}, microcode {microcode}"
        )
    }
}

/// What of the chain does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not under a root of AMD's, not made to sign others, or not of this day.
    Ask,
    /// The list of what is revoked is not the root's, or not of this day.
    Crl,
    /// The certificate above the key is on that list.
    Revoked,
    /// The key's certificate is of somebody else, of another sort, or not of this day.
    Key,
    /// The report is of another form, or of another chip or versions than its key.
    Report,
    /// The report was changed.
    Signature,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ask => "intermediate certificate",
            Self::Crl => "revocation list",
            Self::Revoked => "revoked certificate",
            Self::Key => "key's certificate",
            Self::Report => "form",
            Self::Signature => "signature",
        })
    }
}

impl From<Link> for Refusal {
    fn from(link: Link) -> Self {
        Self::Amd(link)
    }
}

/// Evidence from a report, the certificate of its key, the one above (both DER), and AMD's revocation list.
///
/// # Errors
/// [`Refusal::Malformed`] if it is too long.
pub fn pack(report: &[u8], key: &[u8], ask: &[u8], crl: Option<&[u8]>) -> Result<Vec<u8>, Refusal> {
    join(&[report, key, ask, crl.unwrap_or_default()])
}

type Root = (Product, Vec<u8>);

pub(crate) fn verify(bytes: &[u8], roots: &[Root], now: Seconds) -> Result<Verified, Refusal> {
    let [report, key, ask, crl] = split(bytes)?;
    let report = Report(report.try_into().map_err(|_| Refusal::Malformed)?);
    let (ask, key) = (certificate(ask)?, certificate(key)?);
    let (product, issued) = authority(roots, &ask, crl, now)?;
    let key = Key::new(&ask, &key, product, now)?;
    report.check(&key)?;
    Ok(Verified {
        measurement: Measurement::Snp(report.bytes(0x90)),
        report_data: report.bytes(0x50),
        node: report.node(&key),
        standing: Standing::Amd {
            product,
            tcb: key.tcb,
        },
        issued,
    })
}

fn certificate(der: &[u8]) -> Result<X509Certificate<'_>, Refusal> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(Refusal::Malformed);
    }
    match X509Certificate::from_der(der) {
        Ok((&[], certificate)) => Ok(certificate),
        _ => Err(Refusal::Malformed),
    }
}

/// RSA-PSS with SHA-384, whatever parameters are named: no other is tried.
fn signed_by(signer: &X509Certificate<'_>, body: &[u8], signature: &[u8]) -> bool {
    let key = &signer.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key)
        .verify(body, signature)
        .is_ok()
}

fn is_issued(signer: &X509Certificate<'_>, it: &X509Certificate<'_>) -> bool {
    it.issuer().as_raw() == signer.subject().as_raw()
        && it.signature_algorithm.algorithm == PSS
        && it.signature_algorithm == it.tbs_certificate.signature
        && signed_by(
            signer,
            it.tbs_certificate.as_ref(),
            &it.signature_value.data,
        )
}

fn is_of(certificate: &X509Certificate<'_>, now: Seconds) -> bool {
    let validity = certificate.validity();
    let now = i64::try_from(now.0).unwrap_or(i64::MAX);
    (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
}

/// Whether the certificate may sign others, and has no demands that are not understood.
fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten();
    let usage = certificate.key_usage().ok().flatten();
    constraints.is_some_and(|it| it.value.ca)
        && usage.is_some_and(|it| it.value.key_cert_sign())
        && certificate
            .extensions()
            .iter()
            .all(|it| !it.critical || it.oid == BASIC_CONSTRAINTS || it.oid == KEY_USAGE)
}

/// The root of this intermediate certificate, and when its list of what is revoked was issued, if there is one.
fn authority(
    roots: &[Root],
    ask: &X509Certificate<'_>,
    crl: &[u8],
    now: Seconds,
) -> Result<(Product, Option<Seconds>), Refusal> {
    for (product, root) in roots {
        let root = certificate(root)?;
        if !is_issued(&root, ask) {
            continue;
        }
        if !is_authority(ask) || !is_of(ask, now) || !is_of(&root, now) {
            break;
        }
        let issued = match crl.is_empty() {
            true => None,
            false => Some(not_revoked(&root, ask, crl, now)?),
        };
        return Ok((*product, issued));
    }
    Err(Link::Ask.into())
}

fn not_revoked(
    root: &X509Certificate<'_>,
    ask: &X509Certificate<'_>,
    crl: &[u8],
    now: Seconds,
) -> Result<Seconds, Refusal> {
    let wrong = Refusal::Amd(Link::Crl);
    if crl.len() > CRL_BYTES_MAX {
        return Err(Refusal::Malformed);
    }
    let Ok((&[], list)) = CertificateRevocationList::from_der(crl) else {
        return Err(Refusal::Malformed);
    };
    let body = list.tbs_cert_list.as_ref();
    let signed = list.signature_algorithm.algorithm == PSS
        && list.issuer().as_raw() == root.subject().as_raw()
        && signed_by(root, body, &list.signature_value.data);
    // A list may say that it is of some certificates only.
    if !signed || list.extensions().iter().any(|it| it.critical) {
        return Err(wrong);
    }
    let date = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
    let issued = date(list.last_update());
    let until = list.next_update().and_then(date);
    let (Some(issued), Some(until)) = (issued, until) else {
        return Err(wrong);
    };
    if !(issued..=until).contains(&now.0) {
        return Err(wrong);
    }
    let mut revoked = list.iter_revoked_certificates();
    // Whatever the reason, also "on hold".
    if revoked.any(|it| it.user_certificate == ask.tbs_certificate.serial) {
        return Err(Link::Revoked.into());
    }
    Ok(Seconds(issued))
}

/// The value of the one extension of that name.
fn extension<'a>(certificate: &'a X509Certificate<'_>, name: &Oid<'_>) -> Option<&'a [u8]> {
    let mut found = certificate.extensions().iter().filter(|it| it.oid == *name);
    match (found.next(), found.next()) {
        (Some(one), None) => Some(one.value),
        _ => None,
    }
}

/// A version: a whole number of DER, one byte and a zero before it if it is large.
fn version(certificate: &X509Certificate<'_>, name: &Oid<'_>) -> Option<u8> {
    match extension(certificate, name)? {
        [2, 1, version @ 0..=0x7f] | [2, 2, 0, version @ 0x80..=0xff] => Some(*version),
        _ => None,
    }
}

fn common_name<'a>(name: &'a X509Name<'_>) -> Option<&'a str> {
    let mut found = name
        .iter_attributes()
        .filter(|it| *it.attr_type() == COMMON_NAME);
    let (one, None) = (found.next()?, found.next()) else {
        return None;
    };
    one.as_str().ok()
}

/// Who signs reports.
struct Key<'a> {
    point: &'a [u8],
    tcb: Tcb,
    product: Product,
    /// The chip's number, of a VCEK; a VLEK is of a cloud, for any of its chips.
    chip: Option<&'a [u8]>,
}

impl<'a> Key<'a> {
    fn new(
        ask: &X509Certificate<'_>,
        certificate: &'a X509Certificate<'_>,
        product: Product,
        now: Seconds,
    ) -> Result<Self, Refusal> {
        let wrong = Link::Key;
        let key = certificate.public_key();
        let curve = key.algorithm.parameters.as_ref();
        let curve = curve.and_then(|it| it.as_oid().ok());
        let demands = certificate.extensions().iter().any(|it| it.critical);
        if !is_issued(ask, certificate)
            || !is_of(certificate, now)
            || demands
            || curve != Some(P384)
        {
            return Err(wrong.into());
        }
        let (chip, cloud) = (
            extension(certificate, &CHIP),
            extension(certificate, &CLOUD),
        );
        let chip = match (common_name(certificate.subject()), chip, cloud) {
            (Some("SEV-VCEK"), Some(chip), None) if chip.len() == product.chip_bytes() => {
                Some(chip)
            }
            (Some("SEV-VLEK"), None, Some(_)) => None,
            _ => return Err(wrong.into()),
        };
        let version = |name: &Oid<'_>| version(certificate, name).ok_or(wrong);
        Ok(Self {
            point: &key.subject_public_key.data,
            tcb: Tcb {
                fmc: match product {
                    Product::Turin => version(&FMC)?,
                    Product::Milan | Product::Genoa => 0,
                },
                bootloader: version(&BOOTLOADER)?,
                tee: version(&TEE)?,
                snp: version(&SNP)?,
                microcode: version(&MICROCODE)?,
            },
            product,
            chip,
        })
    }
}

impl Product {
    /// Bytes of a chip's number in its certificate; the report has zeros behind.
    fn chip_bytes(self) -> usize {
        match self {
            Self::Turin => 8,
            Self::Milan | Self::Genoa => 64,
        }
    }
}

struct Report<'a>(&'a [u8; REPORT_BYTES]);

impl Report<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[at + i])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn check(&self, key: &Key<'_>) -> Result<(), Refusal> {
        let (signed, signature) = self.0.split_at(SIGNED_BYTES);
        let (r, rest) = signature.split_at(NUMBER_BYTES);
        let mut fixed = [0; 96];
        for (number, out) in [r, &rest[..NUMBER_BYTES]]
            .into_iter()
            .zip(fixed.chunks_exact_mut(48))
        {
            let (number, zeros) = number.split_at(48);
            if zeros.iter().any(|byte| *byte != 0) {
                return Err(Link::Signature.into());
            }
            for (to, from) in out.iter_mut().zip(number.iter().rev()) {
                *to = *from;
            }
        }
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key.point)
            .verify(signed, &fixed)
            .map_err(|_| Link::Signature)?;
        let (version, algorithm, level) = (self.u32(0), self.u32(0x34), self.u32(0x30));
        // Bits 2 to 4: which key signed.
        let signer = (self.u32(0x48) >> 2) & 7;
        let tcb = Tcb::read(key.product, self.bytes(0x180));
        // The machine's most privileged level: what runs at others may be somebody else's.
        let form = (2..=5).contains(&version) && algorithm == 1 && level == 0;
        let same_chip = match key.chip {
            Some(chip) => signer == 0 && (self.masked() || self.chip() == padded(chip)),
            None => signer == 1,
        };
        if !form || !same_chip || tcb != key.tcb {
            return Err(Link::Report.into());
        }
        // The guest's policy: a migration agent, or debugging.
        let [_, _, rules, ..] = self.bytes::<8>(8);
        match rules & 0b1100 {
            0 => Ok(()),
            _ => Err(Refusal::Debug),
        }
    }

    fn chip(&self) -> [u8; 64] {
        self.bytes(0x1a0)
    }

    /// Whoever runs the machine may have its reports say no chip.
    fn masked(&self) -> bool {
        self.chip() == [0; 64]
    }

    fn node(&self, key: &Key<'_>) -> Option<Node> {
        let chip = match key.chip {
            Some(chip) => padded(chip),
            None if self.masked() => return None,
            None => self.chip(),
        };
        Some(Node::new(b"amd", &chip))
    }
}

fn padded(chip: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    for (to, from) in out.iter_mut().zip(chip) {
        *to = *from;
    }
    out
}
