//! A root like Intel's, a platform under it with its quoting enclave, and Intel's lists.

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use junto_evidence::intel::pack;
use serde_json::json;

use super::{
    ISSUED, UNTIL, VALID,
    der::{Signer, authority, ec_key, extension, int, octets, oid, seq, tlv},
};

pub const MEASUREMENT: [u8; 32] = [0x5e; 32];
pub const MACHINE: [[u8; 48]; 5] = [[1; 48], [2; 48], [3; 48], [4; 48], [5; 48]];
const ROOT: &str = "Test SGX Root CA";
const CA: &str = "Intel SGX PCK Platform CA";
const SIGNER: &str = "Test SGX TCB Signing";
const SGX: &str = "1.2.840.113741.1.13.1";
const P256: &str = "1.2.840.10045.3.1.7";
const VENDOR: &str = "939a7233f79c4ca9940a0db3957f0607";
pub const CA_SERIAL: u64 = 11;
pub const SIGNER_SERIAL: u64 = 12;
pub const PCK_SERIAL: u64 = 13;

pub struct Mint {
    root: Signer,
    ca: Signer,
    signer: EcdsaKeyPair,
    pck: EcdsaKeyPair,
    attestation: EcdsaKeyPair,
}

/// What can be wrong with it.
#[derive(Clone)]
pub struct Collateral {
    pub status: &'static str,
    pub advisories: Vec<&'static str>,
    pub enclave_status: &'static str,
    pub evaluation: u32,
    /// `[from, until]` of the TCB info, then of the enclave's identity.
    pub dates: [[&'static str; 2]; 2],
    pub fmspc: &'static str,
    /// Numbers that the root has revoked, then those of the platforms' authority.
    pub revoked: [Vec<u64>; 2],
    pub crl_until: &'static str,
    pub tdx: bool,
    /// Who signs the lists: the one who should, or the platform's key.
    pub usurped: bool,
}

impl Collateral {
    pub fn good(tdx: bool) -> Self {
        let dates = ["2026-01-10T00:00:00Z", "2026-02-10T00:00:00Z"];
        Self {
            status: "UpToDate",
            advisories: Vec::new(),
            enclave_status: "UpToDate",
            evaluation: 20,
            dates: [dates, dates],
            fmspc: "00906ED50000",
            revoked: [vec![99], vec![99]],
            crl_until: UNTIL,
            tdx,
            usurped: false,
        }
    }
}

fn sign(key: &EcdsaKeyPair, body: &[u8]) -> Vec<u8> {
    key.sign(&SystemRandom::new(), body)
        .unwrap()
        .as_ref()
        .to_vec()
}

fn point(key: &EcdsaKeyPair) -> &[u8] {
    key.public_key().as_ref()
}

fn pem(certificates: &[Vec<u8>]) -> String {
    let one = |der: &Vec<u8>| {
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(64)
            .map(|it| std::str::from_utf8(it).unwrap())
            .collect();
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            lines.join("\n")
        )
    };
    certificates.iter().map(one).collect()
}

impl Mint {
    pub fn new() -> Self {
        let key = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self {
            root: Signer::p256(),
            ca: Signer::p256(),
            signer: key(),
            pck: key(),
            attestation: key(),
        }
    }

    pub fn root(&self) -> Vec<u8> {
        self.root
            .certify((ROOT, ROOT), 10, &self.root.public(), VALID, &authority())
    }

    fn pck_chain(&self) -> String {
        let named = |number: &str, value: &[u8]| seq(&[&oid(&format!("{SGX}.{number}")), value]);
        let mut tcb: Vec<_> = (1..=16)
            .map(|i| named(&format!("2.{i}"), &int(5)))
            .collect();
        tcb.push(named("2.17", &int(11)));
        tcb.push(named("2.18", &octets(&[5; 16])));
        let all = seq(&[
            &named("1", &octets(&[0xaa; 16])),
            &named("2", &seq(&[&tcb.concat()])),
            &named("3", &octets(&[0, 0])),
            &named("4", &octets(&[0, 0x90, 0x6e, 0xd5, 0, 0])),
            &named("5", &tlv(10, &[&[0]])),
        ]);
        let extensions = extension(SGX, false, &all);
        let leaf = ec_key(P256, point(&self.pck));
        let names = (CA, "Intel SGX PCK Certificate");
        let leaf = self
            .ca
            .certify(names, PCK_SERIAL, &leaf, VALID, &extensions);
        let ca = self.root.certify(
            (ROOT, CA),
            CA_SERIAL,
            &self.ca.public(),
            VALID,
            &authority(),
        );
        pem(&[leaf, ca, self.root()])
    }

    fn tcb_info(&self, it: &Collateral) -> String {
        let level = |svn: u8, status: &str, advisories: &[&str]| {
            let mut svns = vec![json!({ "svn": svn }); 16];
            let mut tcb = json!({ "sgxtcbcomponents": svns.clone(), "pcesvn": 11 });
            if it.tdx {
                // The number of the module, which is 0 here.
                svns[1] = json!({ "svn": 0 });
                tcb["tdxtcbcomponents"] = json!(svns);
            }
            json!({
                "tcb": tcb, "tcbDate": "2025-08-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": advisories,
            })
        };
        let mut out = json!({
            "id": if it.tdx { "TDX" } else { "SGX" },
            "version": 3,
            "issueDate": it.dates[0][0],
            "nextUpdate": it.dates[0][1],
            "fmspc": it.fmspc,
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": it.evaluation,
            // The machine has 5 of everything: what is newer is not reached.
            "tcbLevels": [level(9, "UpToDate", &[]), level(5, it.status, &it.advisories)],
        });
        if it.tdx {
            out["tdxModule"] = json!({
                "mrsigner": "0".repeat(96), "attributes": "0".repeat(16), "attributesMask": "F".repeat(16),
            });
            out["tdxModuleIdentities"] = json!([]);
        }
        out.to_string()
    }

    /// In the form of `dcap-qvl`, without the root.
    pub fn collateral(&self, it: &Collateral) -> String {
        let identity = json!({
            "id": if it.tdx { "TD_QE" } else { "QE" },
            "version": 2,
            "issueDate": it.dates[1][0],
            "nextUpdate": it.dates[1][1],
            "tcbEvaluationDataNumber": it.evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": "4D".repeat(32),
            "isvprodid": 1,
            "tcbLevels": [{
                "tcb": { "isvsvn": 8 }, "tcbDate": "2025-08-01T00:00:00Z", "tcbStatus": it.enclave_status,
            }],
        })
        .to_string();
        let info = self.tcb_info(it);
        let public = ec_key(P256, point(&self.signer));
        let signer = self
            .root
            .certify((ROOT, SIGNER), SIGNER_SERIAL, &public, VALID, &[]);
        let chain = pem(&[signer, self.root()]);
        let key = if it.usurped { &self.pck } else { &self.signer };
        let days = [ISSUED, it.crl_until];
        json!({
            "pck_crl_issuer_chain": "",
            "root_ca_crl": hex::encode(self.root.revoke(ROOT, &it.revoked[0], days, &[])),
            "pck_crl": hex::encode(self.ca.revoke(CA, &it.revoked[1], days, &[])),
            "tcb_info_issuer_chain": chain,
            "tcb_info_signature": hex::encode(sign(key, info.as_bytes())),
            "tcb_info": info,
            "qe_identity_issuer_chain": chain,
            "qe_identity_signature": hex::encode(sign(key, identity.as_bytes())),
            "qe_identity": identity,
        })
        .to_string()
    }

    /// The quoting enclave's report of the key, by the platform's key; then all that follows a quote's signature and key.
    fn certification(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut report = vec![0; 384];
        report[48] = 0x11;
        report[128..160].fill(0x4d);
        report[256] = 1;
        report[258] = 8;
        let own = [0x0e; 32];
        let named = digest(&SHA256, &[&point(&self.attestation)[1..], &own].concat());
        report[320..352].copy_from_slice(named.as_ref());
        change(&mut report);
        let chain = self.pck_chain();
        [
            &report[..],
            &sign(&self.pck, &report),
            &32_u16.to_le_bytes(),
            &own,
            &5_u16.to_le_bytes(),
            &u32::try_from(chain.len()).unwrap().to_le_bytes(),
            chain.as_bytes(),
        ]
        .concat()
    }

    fn header(version: u16, tee: u32) -> Vec<u8> {
        [
            &version.to_le_bytes()[..],
            &2_u16.to_le_bytes(),
            &tee.to_le_bytes(),
            &[0; 4],
            &hex::decode(VENDOR).unwrap(),
            &[0; 20],
        ]
        .concat()
    }

    fn seal(&self, signed: Vec<u8>, rest: &[u8]) -> Vec<u8> {
        let signature = sign(&self.attestation, &signed);
        let key = &point(&self.attestation)[1..];
        let length = u32::try_from(128 + rest.len()).unwrap().to_le_bytes();
        [&signed, &length[..], &signature, key, rest].concat()
    }

    /// A quote of an enclave, whose report is changed before it is signed; and so is the quoting enclave's.
    pub fn sgx(
        &self,
        data: [u8; 64],
        change: impl FnOnce(&mut [u8]),
        change_enclave: impl FnOnce(&mut [u8]),
    ) -> Vec<u8> {
        let mut report = vec![0; 384];
        report[..16].fill(5);
        report[48] = 5;
        report[64..96].copy_from_slice(&MEASUREMENT);
        report[320..].copy_from_slice(&data);
        change(&mut report);
        let signed = [Self::header(3, 0), report].concat();
        self.seal(signed, &self.certification(change_enclave))
    }

    /// A quote of a machine.
    pub fn tdx(&self, data: [u8; 64], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut report = vec![0; 584];
        report[..16].fill(5);
        // No module of its own number.
        report[1] = 0;
        // SEPT_VE_DISABLE.
        report[123] = 0x10;
        report[136..184].copy_from_slice(&MACHINE[0]);
        report[328..520].copy_from_slice(&MACHINE[1..].concat());
        report[520..].copy_from_slice(&data);
        change(&mut report);
        let signed = [Self::header(4, 0x81), report].concat();
        let inner = self.certification(|_| ());
        let length = u32::try_from(inner.len()).unwrap().to_le_bytes();
        self.seal(
            signed,
            &[&6_u16.to_le_bytes()[..], &length, &inner].concat(),
        )
    }

    /// All of it, as it should be.
    pub fn evidence(&self, data: [u8; 64]) -> Vec<u8> {
        let quote = self.sgx(data, |_| (), |_| ());
        pack(&quote, &self.collateral(&Collateral::good(false))).unwrap()
    }
}
