//! A root like AMD's, and machines under it.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use junto_evidence::amd::{REPORT_BYTES, pack};

use super::{
    ISSUED, UNTIL, VALID,
    der::{Signer, authority, ec_key, extension, int},
};

pub const ROOT: &str = "ARK-Test";
pub const ASK: &str = "SEV-Test";
pub const ASK_SERIAL: u64 = 65_537;
pub const CHIP: [u8; 64] = [0xc7; 64];
pub const MEASUREMENT: [u8; 48] = [0x3e; 48];
/// bootloader 4, tee 1, snp 24, microcode 219.
pub const TCB: [u8; 8] = [4, 1, 0, 0, 0, 0, 24, 219];

pub struct Mint {
    root: Signer,
    ask: Signer,
    key: EcdsaKeyPair,
}

/// What a key's certificate says.
#[derive(Clone)]
pub struct Key {
    pub name: &'static str,
    pub chip: Option<Vec<u8>>,
    pub cloud: bool,
    pub tcb: [u8; 8],
    pub valid: [&'static str; 2],
    pub more: Vec<u8>,
    pub curve: &'static str,
}

impl Key {
    pub fn vcek() -> Self {
        Self {
            name: "SEV-VCEK",
            chip: Some(CHIP.to_vec()),
            cloud: false,
            tcb: TCB,
            valid: VALID,
            more: Vec::new(),
            curve: "1.3.132.0.34",
        }
    }

    pub fn vlek() -> Self {
        Self {
            name: "SEV-VLEK",
            chip: None,
            cloud: true,
            ..Self::vcek()
        }
    }
}

impl Mint {
    pub fn new() -> Self {
        Self {
            root: Signer::rsa(),
            ask: Signer::rsa(),
            key: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
        }
    }

    pub fn root(&self) -> Vec<u8> {
        let public = self.root.public();
        self.root
            .certify((ROOT, ROOT), 1, &public, VALID, &authority())
    }

    pub fn ask(&self, valid: [&str; 2], extensions: &[u8]) -> Vec<u8> {
        let public = self.ask.public();
        self.root
            .certify((ROOT, ASK), ASK_SERIAL, &public, valid, extensions)
    }

    pub fn crl(&self, serials: &[u64], valid: [&str; 2], extensions: &[u8]) -> Vec<u8> {
        self.root.revoke(ROOT, serials, valid, extensions)
    }

    /// A list that somebody below the root signed in its name.
    pub fn usurped_crl(&self) -> Vec<u8> {
        self.ask.revoke(ROOT, &[], [ISSUED, UNTIL], &[])
    }

    pub fn key(&self, it: &Key) -> Vec<u8> {
        let version = |number: u8, at: usize| {
            let id = format!("1.3.6.1.4.1.3704.1.3.{number}");
            extension(&id, false, &int(it.tcb[at].into()))
        };
        let mut all = [version(1, 0), version(2, 1), version(3, 6), version(8, 7)].concat();
        if let Some(chip) = &it.chip {
            all.extend(extension("1.3.6.1.4.1.3704.1.4", false, chip));
        }
        if it.cloud {
            all.extend(extension("1.3.6.1.4.1.3704.1.5", false, b"cloud"));
        }
        all.extend(&it.more);
        let public = ec_key(it.curve, self.key.public_key().as_ref());
        // AMD gives every key's certificate the number 0.
        self.ask.certify((ASK, it.name), 0, &public, it.valid, &all)
    }

    /// A report, changed before it is signed.
    pub fn report(&self, data: [u8; 64], change: impl FnOnce(&mut [u8; REPORT_BYTES])) -> Vec<u8> {
        let mut report = [0; REPORT_BYTES];
        report[0] = 3;
        report[0x0a] = 3;
        report[0x34] = 1;
        report[0x50..0x90].copy_from_slice(&data);
        report[0x90..0xc0].copy_from_slice(&MEASUREMENT);
        report[0x180..0x188].copy_from_slice(&TCB);
        report[0x1a0..0x1e0].copy_from_slice(&CHIP);
        change(&mut report);
        let (signed, signature) = report.split_at_mut(0x2a0);
        let made = self.key.sign(&SystemRandom::new(), signed).unwrap();
        let (r, s) = made.as_ref().split_at(48);
        for (number, at) in [(r, 0), (s, 72)] {
            let number: Vec<_> = number.iter().rev().copied().collect();
            signature[at..at + 48].copy_from_slice(&number);
        }
        report.to_vec()
    }

    /// All of it, as it should be.
    pub fn evidence(&self, data: [u8; 64]) -> Vec<u8> {
        self.with(&self.report(data, |_| ()), &Key::vcek())
    }

    pub fn with(&self, report: &[u8], key: &Key) -> Vec<u8> {
        let ask = self.ask(VALID, &authority());
        let crl = self.crl(&[7], [ISSUED, UNTIL], &[]);
        pack(report, &self.key(key), &ask, Some(&crl)).unwrap()
    }
}
