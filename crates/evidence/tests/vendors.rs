//! Evidence that real hardware made, as others published it (`vectors/README.md` says where), at a day on which it was good.
#![allow(clippy::unwrap_used)]

use junto_evidence::{
    Kind, Measurement, Policy, Refusal, Roots, Seconds, Standing, TcbStatus, Verified,
    amd::{self, Link, Product, Tcb},
    intel, judge, report_data, verify,
};

macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("../../../vectors/evidence/", $name))
    };
}

/// A quote, its collateral, and a second of the day on which that was published.
type Sample = (Kind, &'static [u8], &'static [u8], u64);

const SGX: Sample = (
    Kind::Sgx,
    vector!("sgx_quote"),
    vector!("sgx_quote_collateral.json"),
    1_750_334_400,
);
const TDX: Sample = (
    Kind::Tdx,
    vector!("tdx_quote"),
    vector!("tdx_quote_collateral.json"),
    1_750_334_400,
);
const TDX_OLD: Sample = (
    Kind::Tdx,
    vector!("tdx_quote_outdated"),
    vector!("tdx_quote_outdated_collateral.json"),
    1_771_416_000,
);
/// Version 5, with the body of TDX 1.5ex.
const TDX_15: Sample = (
    Kind::Tdx,
    vector!("tdx_quote_td15ex"),
    vector!("tdx_quote_td15ex_collateral.json"),
    1_791_500_000,
);
const SNP_DAY: Seconds = Seconds(1_700_000_000);

fn packed(sample: &Sample) -> Vec<u8> {
    intel::pack(sample.1, std::str::from_utf8(sample.2).unwrap()).unwrap()
}

fn at(sample: &Sample, bytes: &[u8], now: u64) -> Result<Verified, Refusal> {
    verify(sample.0, bytes, &Roots::vendors(), Seconds(now))
}

fn standing(it: &Verified) -> (TcbStatus, u32, Vec<&str>) {
    match it.standing() {
        Standing::Intel {
            status,
            evaluation,
            advisories,
        } => {
            let advisories = advisories.iter().map(String::as_str).collect();
            (*status, *evaluation, advisories)
        }
        Standing::Amd { .. } => unreachable!(),
    }
}

fn says(refusal: &Result<Verified, Refusal>, what: &str) -> bool {
    matches!(refusal, Err(Refusal::Intel(text)) if text.contains(what))
}

#[test]
fn quotes_of_sgx_and_tdx_hold() {
    let sgx = at(&SGX, &packed(&SGX), SGX.3).unwrap();
    let (status, evaluation, advisories) = standing(&sgx);
    assert_eq!(status, TcbStatus::ConfigurationAndSWHardeningNeeded);
    assert_eq!(evaluation, 17);
    assert!(advisories.contains(&"INTEL-SA-00615"), "{advisories:?}");
    // Fields as the layout has them: MRENCLAVE at 48 + 64, the caller's data at 48 + 320.
    assert_eq!(
        *sgx.measurement(),
        Measurement::Sgx(SGX.1[112..144].try_into().unwrap())
    );
    assert_eq!(sgx.report_data()[..], SGX.1[368..432]);
    // The older of the two lists.
    assert_eq!(sgx.issued(), Some(Seconds(1_750_327_278)));
    let tdx = at(&TDX, &packed(&TDX), TDX.3).unwrap();
    assert_eq!(standing(&tdx), (TcbStatus::UpToDate, 17, vec![]));
    let Measurement::Tdx(all) = tdx.measurement() else {
        unreachable!()
    };
    // MRTD at 48 + 136, RTMR at 48 + 328.
    assert_eq!(all[0][..], TDX.1[184..232]);
    assert_eq!(all[1..].concat(), TDX.1[376..568]);
    assert_eq!(tdx.report_data()[..], TDX.1[568..632]);
    let new = at(&TDX_15, &packed(&TDX_15), TDX_15.3).unwrap();
    assert_eq!(new.kind(), Kind::Tdx);
    assert_eq!(new.report_data()[..], TDX_15.1[574..638]);
    assert!(sgx.node().is_some() && tdx.node().is_some() && new.node().is_some());
    assert_ne!(tdx.node(), new.node());
}

/// A machine so far behind that Intel lists no level for it. `tests/minted.rs` has those that are merely out of date.
#[test]
fn a_machine_below_every_level_is_refused() {
    let old = at(&TDX_OLD, &packed(&TDX_OLD), TDX_OLD.3);
    assert!(says(&old, "No matching TCB level"));
}

#[test]
fn an_altered_quote_does_not_hold() {
    for sample in [&SGX, &TDX, &TDX_15] {
        let good = packed(sample);
        let quote = sample.1.len();
        let body = match (sample.0, sample.1[0]) {
            (Kind::Sgx, _) => 48 + 384,
            (_, 4) => 48 + 584,
            _ => 48 + 6 + 885,
        };
        // Every byte of the report, then the signature, the key, the report of the quoting enclave with its own.
        let first = (0..body).step_by(7);
        let then = (body + 4..body + 4 + 128).step_by(5);
        let rest = (body + 140..(body + 4 + 128 + 384).min(quote)).step_by(11);
        for byte in first.chain(then).chain(rest) {
            let mut bad = good.clone();
            bad[4 + byte] ^= 1;
            assert!(at(sample, &bad, sample.3).is_err(), "{:?} {byte}", sample.0);
        }
        for cut in (0..good.len()).step_by(97) {
            assert!(at(sample, &good[..cut], sample.3).is_err());
        }
    }
}

#[test]
fn altered_collateral_does_not_hold() {
    for sample in [&SGX, &TDX] {
        let good = packed(sample);
        let mut part = 4 + sample.1.len();
        // The other nine parts: each byte is under somebody's signature, or is one, but for the spelling of PEM.
        for number in 1..9 {
            let length = u32::from_be_bytes(good[part..part + 4].try_into().unwrap());
            let length = usize::try_from(length).unwrap();
            part += 4;
            let step = (length / 24).max(1);
            for byte in (part..part + length).step_by(step) {
                let mut bad = good.clone();
                bad[byte] ^= 1;
                let held = at(sample, &bad, sample.3).is_ok();
                let is_chain = number == 5 || number == 8;
                assert!(!held || is_chain, "part {number}, byte {}", byte - part);
            }
            part += length;
        }
    }
}

#[test]
fn collateral_has_its_days() {
    for sample in [&SGX, &TDX] {
        let good = packed(sample);
        let month = 31 * 24 * 3600;
        assert!(says(&at(sample, &good, sample.3 + month), "xpired"));
        assert!(says(&at(sample, &good, sample.3 - month), "future"));
        assert!(at(sample, &good, 0).is_err() && at(sample, &good, u64::MAX).is_err());
    }
}

#[test]
fn a_chain_is_of_its_own_root_and_platform() {
    // Another root, with as good a certificate.
    let other = Roots::for_tests(
        rest_of_chain(SGX.2),
        (Product::Milan, vector!("ask_genoa.der").to_vec()),
    );
    assert!(verify(Kind::Sgx, &packed(&SGX), &other, Seconds(SGX.3)).is_err());
    let snp = snp(vector!("vcek_milan.der"), vector!("ask_milan.der"));
    let refused = verify(Kind::Snp, &snp, &other, SNP_DAY);
    assert_eq!(refused, Err(Refusal::Amd(Link::Ask)));
    // The collateral of another platform of the same day, and of another kind.
    let crossed = (TDX.0, TDX.1, SGX.2, SGX.3);
    assert!(at(&crossed, &packed(&crossed), SGX.3).is_err());
    let crossed = (TDX.0, TDX.1, TDX_OLD.2, TDX_OLD.3);
    assert!(says(&at(&crossed, &packed(&crossed), TDX_OLD.3), "Fmspc"));
    // A quote is of the kind that it is.
    let mut named = TDX;
    named.0 = Kind::Sgx;
    assert_eq!(at(&named, &packed(&TDX), TDX.3), Err(Refusal::OtherKind));
    named.0 = Kind::Snp;
    assert_eq!(at(&named, &packed(&TDX), TDX.3), Err(Refusal::Malformed));
}

/// The certificate that signs TCB info: under the root, and none itself.
fn rest_of_chain(collateral: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(collateral).unwrap();
    let start = text.find("-----BEGIN CERTIFICATE-----").unwrap() + 27;
    let end = start + text[start..].find("-----END").unwrap();
    let digits = text[start..end].replace("\\n", "");
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(digits.trim()).unwrap()
}

fn report() -> Vec<u8> {
    hex::decode(vector!("report_milan.hex").trim_ascii()).unwrap()
}

fn snp(key: &[u8], ask: &[u8]) -> Vec<u8> {
    amd::pack(&report(), key, ask, None).unwrap()
}

fn snp_at(bytes: &[u8], now: Seconds) -> Result<Verified, Refusal> {
    verify(Kind::Snp, bytes, &Roots::vendors(), now)
}

#[test]
fn a_report_of_sev_snp_holds_and_an_altered_one_does_not() {
    let (key, ask) = (vector!("vcek_milan.der"), vector!("ask_milan.der"));
    let good = snp(key, ask);
    let held = snp_at(&good, SNP_DAY).unwrap();
    let tcb = Tcb {
        fmc: 0,
        bootloader: 3,
        tee: 0,
        snp: 8,
        microcode: 115,
    };
    assert_eq!(
        *held.standing(),
        Standing::Amd {
            product: Product::Milan,
            tcb
        }
    );
    let report = report();
    let measured = Measurement::Snp(report[0x90..0xc0].try_into().unwrap());
    assert_eq!(*held.measurement(), measured);
    assert_eq!(held.report_data()[..], report[0x50..0x90]);
    assert!(held.node().is_some());
    // Nobody published a list with it; so it holds, and nothing will rest on it.
    assert_eq!(held.issued(), None);
    for byte in (0..0x2a0 + 144).step_by(3) {
        let mut bad = good.clone();
        bad[4 + byte] ^= 1;
        assert_eq!(
            snp_at(&bad, SNP_DAY),
            Err(Refusal::Amd(Link::Signature)),
            "{byte}"
        );
    }
    let certificates = 4 + report.len() + 4;
    for byte in (certificates..good.len() - 4).step_by(13) {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        assert!(snp_at(&bad, SNP_DAY).is_err(), "{}", byte - certificates);
    }
    for cut in (0..good.len()).step_by(41) {
        assert_eq!(snp_at(&good[..cut], SNP_DAY), Err(Refusal::Malformed));
    }
}

#[test]
fn the_chain_of_a_report_is_its_own_and_has_its_days() {
    let (key, ask) = (vector!("vcek_milan.der"), vector!("ask_milan.der"));
    let key_refused = Err(Refusal::Amd(Link::Key));
    assert_eq!(
        snp_at(&snp(key, vector!("ask_genoa.der")), SNP_DAY),
        key_refused
    );
    assert_eq!(
        snp_at(&snp(vector!("vcek_turin.der"), ask), SNP_DAY),
        key_refused
    );
    // A real key of another product, under its real chain: it did not sign this.
    let other = snp(vector!("vcek_turin.der"), vector!("ask_turin.der"));
    let refused = snp_at(&other, Seconds(1_760_000_000));
    assert_eq!(refused, Err(Refusal::Amd(Link::Signature)));
    // What is below may not stand above.
    assert_eq!(
        snp_at(&snp(key, key), SNP_DAY),
        Err(Refusal::Amd(Link::Ask))
    );
    assert_eq!(snp_at(&snp(ask, ask), SNP_DAY), key_refused);
    let good = snp(key, ask);
    // 2023-04-03 to 2030-04-03; the one above from 2020.
    assert_eq!(snp_at(&good, Seconds(1_680_549_822)), key_refused);
    assert!(snp_at(&good, Seconds(1_680_549_823)).is_ok());
    assert!(snp_at(&good, Seconds(1_901_474_623)).is_ok());
    assert_eq!(snp_at(&good, Seconds(1_901_474_624)), key_refused);
    assert_eq!(
        snp_at(&good, Seconds(1_500_000_000)),
        Err(Refusal::Amd(Link::Ask))
    );
    assert_eq!(
        snp_at(&good, Seconds(u64::MAX)),
        Err(Refusal::Amd(Link::Ask))
    );
}

#[test]
fn evidence_without_a_list_of_what_is_revoked_admits_nobody() {
    let good = snp(vector!("vcek_milan.der"), vector!("ask_milan.der"));
    let held = snp_at(&good, SNP_DAY).unwrap();
    let Standing::Amd { product, tcb } = *held.standing() else {
        unreachable!()
    };
    let mut policy = Policy {
        measurements: [held.measurement().clone()].into(),
        nodes: held.node().into_iter().collect(),
        ..Policy::default()
    };
    policy.amd.least = [(product, tcb)].into();
    policy.admit(&held).unwrap();
    let floor = Default::default();
    let roots = Roots::vendors();
    // This report is of nobody's channel.
    let bound = held.report_data()[..32].try_into().unwrap();
    assert_ne!(report_data(&bound), *held.report_data());
    let judged = judge(Kind::Snp, &good, &bound, (&policy, &roots), &floor, SNP_DAY);
    assert_eq!(judged, Err(Refusal::Unbound));
    assert_eq!(floor.raised_by(&held), Err(Refusal::Undated));
}
