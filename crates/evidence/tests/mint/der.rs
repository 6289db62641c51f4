//! Certificates and revocation lists, written by hand.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as Rsa, KeySize},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA384},
};

pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![tag];
    let length = body.len();
    match length {
        0..=0x7f => out.push(u8::try_from(length).unwrap()),
        _ => {
            let bytes: Vec<_> = length
                .to_be_bytes()
                .into_iter()
                .skip_while(|it| *it == 0)
                .collect();
            out.push(0x80 | u8::try_from(bytes.len()).unwrap());
            out.extend(bytes);
        }
    }
    out.extend(body);
    out
}

pub fn seq(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

pub fn octets(bytes: &[u8]) -> Vec<u8> {
    tlv(4, &[bytes])
}

pub fn int(value: u64) -> Vec<u8> {
    let mut bytes: Vec<_> = value
        .to_be_bytes()
        .into_iter()
        .skip_while(|it| *it == 0)
        .collect();
    if bytes.first().is_none_or(|first| *first >= 0x80) {
        bytes.insert(0, 0);
    }
    tlv(2, &[&bytes])
}

pub fn oid(text: &str) -> Vec<u8> {
    let numbers: Vec<u64> = text.split('.').map(|it| it.parse().unwrap()).collect();
    let mut out = vec![u8::try_from(numbers[0] * 40 + numbers[1]).unwrap()];
    for number in &numbers[2..] {
        let mut sevens = vec![u8::try_from(number % 128).unwrap()];
        let mut rest = number / 128;
        while rest > 0 {
            sevens.insert(0, 0x80 | u8::try_from(rest % 128).unwrap());
            rest /= 128;
        }
        out.extend(sevens);
    }
    tlv(6, &[&out])
}

fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(3, &[&[0], bytes])
}

fn time(text: &str) -> Vec<u8> {
    tlv(0x17, &[text.as_bytes()])
}

pub fn name(common: &str) -> Vec<u8> {
    let one = seq(&[&oid("2.5.4.3"), &tlv(12, &[common.as_bytes()])]);
    seq(&[&tlv(0x31, &[&one])])
}

pub fn extension(id: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let flag = if critical {
        tlv(1, &[&[0xff]])
    } else {
        Vec::new()
    };
    seq(&[&oid(id), &flag, &octets(value)])
}

/// May sign certificates and lists.
pub fn authority() -> Vec<u8> {
    let constraints = seq(&[&tlv(1, &[&[0xff]])]);
    let usage = tlv(3, &[&[1, 0b0000_0110]]);
    [
        extension("2.5.29.19", true, &constraints),
        extension("2.5.29.15", true, &usage),
    ]
    .concat()
}

pub fn ec_key(curve: &str, point: &[u8]) -> Vec<u8> {
    seq(&[
        &seq(&[&oid("1.2.840.10045.2.1"), &oid(curve)]),
        &bits(point),
    ])
}

pub enum Signer {
    Rsa(Rsa),
    P256(EcdsaKeyPair),
}

impl Signer {
    pub fn rsa() -> Self {
        Self::Rsa(Rsa::generate(KeySize::Rsa2048).unwrap())
    }

    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    pub fn public(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => seq(&[
                &seq(&[&oid("1.2.840.113549.1.1.1"), &tlv(5, &[])]),
                &bits(key.public_key().as_ref()),
            ]),
            Self::P256(key) => ec_key("1.2.840.10045.3.1.7", key.public_key().as_ref()),
        }
    }

    fn algorithm(&self) -> Vec<u8> {
        match self {
            Self::Rsa(_) => seq(&[&oid("1.2.840.113549.1.1.10"), &seq(&[])]),
            Self::P256(_) => seq(&[&oid("1.2.840.10045.4.3.2")]),
        }
    }

    fn sign(&self, body: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PSS_SHA384, &random, body, &mut out).unwrap();
                out
            }
            Self::P256(key) => key.sign(&random, body).unwrap().as_ref().to_vec(),
        }
    }

    fn seal(&self, body: Vec<u8>) -> Vec<u8> {
        seq(&[&body, &self.algorithm(), &bits(&self.sign(&body))])
    }

    /// A certificate of the key `public`, named `subject`, by this signer, named `issuer`.
    pub fn certify(
        &self,
        (issuer, subject): (&str, &str),
        serial: u64,
        public: &[u8],
        valid: [&str; 2],
        extensions: &[u8],
    ) -> Vec<u8> {
        let extensions = match extensions.is_empty() {
            true => Vec::new(),
            false => tlv(0xa3, &[&seq(&[extensions])]),
        };
        self.seal(seq(&[
            &tlv(0xa0, &[&int(2)]),
            &int(serial),
            &self.algorithm(),
            &name(issuer),
            &seq(&[&time(valid[0]), &time(valid[1])]),
            &name(subject),
            public,
            &extensions,
        ]))
    }

    /// A list of certificates that do not count any more.
    pub fn revoke(
        &self,
        issuer: &str,
        serials: &[u64],
        valid: [&str; 2],
        extensions: &[u8],
    ) -> Vec<u8> {
        let one = |serial: &u64| seq(&[&int(*serial), &time(valid[0])]);
        let revoked = match serials.is_empty() {
            true => Vec::new(),
            false => seq(&[&serials.iter().flat_map(one).collect::<Vec<_>>()]),
        };
        let number = extension("2.5.29.20", false, &int(1));
        self.seal(seq(&[
            &int(1),
            &self.algorithm(),
            &name(issuer),
            &time(valid[0]),
            &time(valid[1]),
            &revoked,
            &tlv(0xa0, &[&seq(&[&number, extensions])]),
        ]))
    }
}
