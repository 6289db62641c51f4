//! Certificate chains made by OpenSSL, good and bad.

use junto_tls::Fingerprint;
use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameRef};

/// What a chain should be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) leaf: &'static str,
    pub(crate) authority: &'static str,
    /// Certificates above the identity.
    pub(crate) extra: usize,
    pub(crate) authority_is_ca: bool,
    pub(crate) leaf_is_ca: bool,
    pub(crate) usage: &'static str,
    pub(crate) expired: bool,
    pub(crate) unknown_critical: bool,
    /// The leaf is signed by somebody else with the same name.
    pub(crate) foreign_leaf: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            leaf: "ed25519",
            authority: "ed25519",
            extra: 0,
            authority_is_ca: true,
            leaf_is_ca: false,
            usage: "serverAuth",
            expired: false,
            unknown_critical: false,
            foreign_leaf: false,
        }
    }
}

/// Leaf first.
pub(crate) struct Chain {
    pub(crate) certificates: Vec<X509>,
    pub(crate) leaf_key: PKey<Private>,
}

impl Chain {
    pub(crate) fn make(shape: &Shape) -> Self {
        let identity_key = key(shape.authority);
        let leaf_key = key(shape.leaf);
        let above: Vec<_> = (0..shape.extra).map(|_| key("ed25519")).collect();
        let mut certificates = Vec::new();
        let foreign = key(shape.authority);
        let signer = if shape.foreign_leaf {
            &foreign
        } else {
            &identity_key
        };
        certificates.push(leaf(shape, &leaf_key, signer));
        let mut keys = vec![&identity_key];
        keys.extend(&above);
        for (level, own) in keys.iter().enumerate() {
            let signer = keys.get(level + 1).unwrap_or(own);
            let signed_by = if level + 1 < keys.len() {
                level + 1
            } else {
                level
            };
            let mut builder = builder(&ca_name(level), &ca_name(signed_by), own);
            let mut constraints = BasicConstraints::new();
            if shape.authority_is_ca {
                constraints.ca();
            }
            builder
                .append_extension(constraints.critical().build().unwrap())
                .unwrap();
            certificates.push(sign(builder, signer));
        }
        Self {
            certificates,
            leaf_key,
        }
    }

    pub(crate) fn pin(&self) -> Fingerprint {
        Fingerprint::of(&self.certificates[1].to_der().unwrap())
    }
}

fn leaf(shape: &Shape, own: &PKey<Private>, signer: &PKey<Private>) -> X509 {
    let mut builder = builder(&name("host"), &ca_name(0), own);
    if shape.expired {
        let past = Asn1Time::from_unix(1_600_000_000).unwrap();
        builder.set_not_after(&past).unwrap();
    }
    let mut constraints = BasicConstraints::new();
    if shape.leaf_is_ca {
        constraints.ca();
    }
    builder
        .append_extension(constraints.build().unwrap())
        .unwrap();
    let usage = KeyUsage::new()
        .digital_signature()
        .non_repudiation()
        .key_agreement()
        .build();
    builder.append_extension(usage.unwrap()).unwrap();
    let purpose = ExtendedKeyUsage::new().other(shape.usage).build().unwrap();
    builder.append_extension(purpose).unwrap();
    if shape.unknown_critical {
        let oid = openssl::asn1::Asn1Object::from_str("1.2.3.4.5").unwrap();
        let value = openssl::asn1::Asn1OctetString::new_from_bytes(b"\x05\x00").unwrap();
        let extension = X509Extension::new_from_der(&oid, true, &value).unwrap();
        builder.append_extension(extension).unwrap();
    }
    sign(builder, signer)
}

fn key(kind: &str) -> PKey<Private> {
    match kind {
        "ed25519" => PKey::generate_ed25519().unwrap(),
        "ed448" => PKey::generate_ed448().unwrap(),
        other => panic!("no such key: {other}"),
    }
}

fn name(text: &str) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, text).unwrap();
    name.build()
}

fn ca_name(level: usize) -> X509Name {
    name(&format!("SMP server CA {level}"))
}

fn builder(subject: &X509NameRef, issuer: &X509NameRef, own: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = Asn1Integer::from_bn(&BigNum::from_u32(77).unwrap()).unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(own).unwrap();
    builder
        .set_not_before(&Asn1Time::from_unix(1_500_000_000).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::days_from_now(999_999).unwrap())
        .unwrap();
    builder
}

fn sign(mut builder: X509Builder, signer: &PKey<Private>) -> X509 {
    builder.sign(signer, MessageDigest::null()).unwrap();
    builder.build()
}
