//! What only a vendor could sign, under roots of our own: everything right, and then one thing wrong at a time.
#![allow(clippy::unwrap_used)]

mod mint;

use junto_evidence::{
    Floor, Kind, Measurement, Node, Policy, Refusal, Seconds, Standing, TcbStatus, Verified,
    amd::{self, Link, Product, Tcb},
    intel::pack,
    judge, report_data, verify,
};
use mint::{
    AMD, INTEL, ISSUED, ISSUED_AT, NOW, UNTIL, VALID,
    amd::{ASK_SERIAL, Key},
    der::{authority, extension},
    intel::{CA_SERIAL, Collateral, PCK_SERIAL, SIGNER_SERIAL},
    roots,
};

const BOUND: [u8; 32] = [0xb0; 32];

fn snp(bytes: &[u8]) -> Result<Verified, Refusal> {
    verify(Kind::Snp, bytes, &roots(), NOW)
}

fn link(link: Link) -> Result<Verified, Refusal> {
    Err(Refusal::Amd(link))
}

fn data() -> [u8; 64] {
    report_data(&BOUND)
}

/// The mint makes what holds: so each of the others is refused for the one thing that is wrong with it.
#[test]
fn what_the_mint_makes_holds() {
    let held = snp(&AMD.evidence(data())).unwrap();
    assert_eq!(
        *held.measurement(),
        Measurement::Snp(mint::amd::MEASUREMENT)
    );
    assert_eq!(*held.report_data(), data());
    assert_eq!(held.issued(), Some(ISSUED_AT));
    let tcb = Tcb {
        fmc: 0,
        bootloader: 4,
        tee: 1,
        snp: 24,
        microcode: 219,
    };
    let product = Product::Milan;
    assert_eq!(*held.standing(), Standing::Amd { product, tcb });
    let held = verify(Kind::Sgx, &INTEL.evidence(data()), &roots(), NOW).unwrap();
    assert_eq!(
        *held.measurement(),
        Measurement::Sgx(mint::intel::MEASUREMENT)
    );
    assert_eq!(held.issued(), Some(ISSUED_AT));
    assert!(held.node().is_some());
    let held = tdx(|_| (), &Collateral::good(true)).unwrap();
    assert_eq!(
        *held.measurement(),
        Measurement::Tdx(Box::new(mint::intel::MACHINE))
    );
    assert_eq!(*held.report_data(), data());
}

fn reported(change: impl FnOnce(&mut [u8; amd::REPORT_BYTES])) -> Result<Verified, Refusal> {
    snp(&AMD.with(&AMD.report(data(), change), &Key::vcek()))
}

#[test]
fn a_report_is_of_one_form_of_its_keys_chip_and_versions() {
    let form = || link(Link::Report);
    for version in [2, 5] {
        assert!(reported(|it| it[0] = version).is_ok());
    }
    for version in [0, 1, 6] {
        assert_eq!(reported(|it| it[0] = version), form());
    }
    assert_eq!(reported(|it| it[0x34] = 2), form());
    // Another level of privilege in the same machine.
    assert_eq!(reported(|it| it[0x30] = 1), form());
    // It says that another key signed: a cloud's, none.
    assert_eq!(reported(|it| it[0x48] = 1 << 2), form());
    assert_eq!(reported(|it| it[0x48] = 7 << 2), form());
    assert_eq!(reported(|it| it[0x1a0] ^= 1), form());
    for version in [0, 1, 6, 7] {
        assert_eq!(reported(|it| it[0x180 + version] += 1), form(), "{version}");
    }
    // The key is of one chip, also when reports are told not to say which.
    let masked = reported(|it| it[0x1a0..0x1e0].fill(0)).unwrap();
    assert_eq!(masked.node(), reported(|_| ()).unwrap().node());
    assert!(masked.node().is_some());
}

#[test]
fn a_machine_that_can_be_looked_into_is_refused() {
    // Debugging; a migration agent. The bit between them, and those around, are harmless.
    assert_eq!(reported(|it| it[0x0a] |= 0b1000), Err(Refusal::Debug));
    assert_eq!(reported(|it| it[0x0a] |= 0b0100), Err(Refusal::Debug));
    assert!(reported(|it| it[0x0a] |= 0b1_0000).is_ok());
    let good = [Collateral::good(false), Collateral::good(true)];
    assert!(says(&sgx(|it| it[48] |= 2, |_| (), &good[0]), "Debug"));
    assert!(says(&sgx(|_| (), |it| it[48] |= 2, &good[0]), "Debug"));
    assert!(says(&tdx(|it| it[120] |= 1, &good[1]), "Debug"));
    assert!(says(&tdx(|it| it[120] |= 0x10, &good[1]), "profiling"));
    assert!(says(&tdx(|it| it[123] |= 0x20, &good[1]), "migration"));
}

#[test]
fn a_cloud_s_key_is_of_no_chip_of_its_own() {
    let report = |change: fn(&mut [u8; amd::REPORT_BYTES])| {
        AMD.report(data(), |it| {
            it[0x48] = 1 << 2;
            change(it);
        })
    };
    let held = snp(&AMD.with(&report(|_| ()), &Key::vlek())).unwrap();
    assert_eq!(held.node(), snp(&AMD.evidence(data())).unwrap().node());
    let masked = report(|it| it[0x1a0..0x1e0].fill(0));
    let held = snp(&AMD.with(&masked, &Key::vlek())).unwrap();
    assert_eq!(held.node(), None);
    let vcek = AMD.report(data(), |_| ());
    assert_eq!(snp(&AMD.with(&vcek, &Key::vlek())), link(Link::Report));
}

#[test]
fn a_key_s_certificate_is_of_one_sort() {
    let report = AMD.report(data(), |_| ());
    let with = |change: fn(&mut Key)| {
        let mut key = Key::vcek();
        change(&mut key);
        snp(&AMD.with(&report, &key))
    };
    let key = || link(Link::Key);
    assert!(with(|_| ()).is_ok());
    assert_eq!(with(|it| it.name = "SEV-VLEK"), key());
    assert_eq!(with(|it| it.name = "SEV-Test"), key());
    assert_eq!(with(|it| it.cloud = true), key());
    assert_eq!(with(|it| it.chip = None), key());
    assert_eq!(with(|it| it.chip = Some(vec![0xc7; 8])), key());
    // Of another chip; of other versions than the report.
    assert_eq!(
        with(|it| it.chip = Some(vec![0xc8; 64])),
        link(Link::Report)
    );
    assert_eq!(with(|it| it.tcb[7] -= 1), link(Link::Report));
    // Twice the same, a demand that is not understood, another curve.
    let twice = |it: &mut Key| it.more = extension("1.3.6.1.4.1.3704.1.4", false, &[0xc7; 64]);
    assert_eq!(with(twice), key());
    let twice = |it: &mut Key| it.more = extension("1.3.6.1.4.1.3704.1.3.8", false, &[2, 1, 1]);
    assert_eq!(with(twice), key());
    assert_eq!(
        with(|it| it.more = extension("1.2.3", true, &[5, 0])),
        key()
    );
    assert!(with(|it| it.more = extension("1.2.3", false, &[5, 0])).is_ok());
    assert_eq!(with(|it| it.curve = "1.3.132.0.35"), key());
    assert_eq!(with(|it| it.valid = [VALID[0], ISSUED]), key());
    assert_eq!(with(|it| it.valid = [UNTIL, VALID[1]]), key());
}

#[test]
fn what_stands_above_a_key_may_sign_and_is_of_its_day() {
    let report = AMD.report(data(), |_| ());
    let key = AMD.key(&Key::vcek());
    let crl = AMD.crl(&[], [ISSUED, UNTIL], &[]);
    let with = |ask: &[u8]| snp(&amd::pack(&report, &key, ask, Some(&crl)).unwrap());
    assert!(with(&AMD.ask(VALID, &authority())).is_ok());
    let refused = || link(Link::Ask);
    assert_eq!(with(&AMD.ask(VALID, &[])), refused());
    let usage = extension("2.5.29.15", true, &[3, 2, 1, 6]);
    assert_eq!(with(&AMD.ask(VALID, &usage)), refused());
    let more = [authority(), extension("2.5.29.30", true, &[0x30, 0])].concat();
    assert_eq!(with(&AMD.ask(VALID, &more)), refused());
    assert_eq!(with(&AMD.ask([VALID[0], ISSUED], &authority())), refused());
    assert_eq!(with(&AMD.ask([UNTIL, VALID[1]], &authority())), refused());
    // A machine's own key signs no certificates.
    assert_eq!(with(&key), refused());
}

#[test]
fn a_revoked_chain_of_amd_does_not_hold_and_the_list_is_the_roots() {
    let (report, key) = (AMD.report(data(), |_| ()), AMD.key(&Key::vcek()));
    let ask = AMD.ask(VALID, &authority());
    let with = |crl: &[u8]| snp(&amd::pack(&report, &key, &ask, Some(crl)).unwrap());
    let days = [ISSUED, UNTIL];
    assert!(with(&AMD.crl(&[], days, &[])).is_ok());
    assert_eq!(
        with(&AMD.crl(&[3, ASK_SERIAL], days, &[])),
        link(Link::Revoked)
    );
    let wrong = || link(Link::Crl);
    assert_eq!(
        with(&AMD.crl(&[], ["260101000000Z", "260114000000Z"], &[])),
        wrong()
    );
    assert_eq!(with(&AMD.crl(&[], ["260116000000Z", UNTIL], &[])), wrong());
    assert_eq!(with(&AMD.usurped_crl()), wrong());
    // A list of some certificates only says nothing of the others.
    let scope = extension("2.5.29.28", true, &[0x30, 0]);
    assert_eq!(with(&AMD.crl(&[], days, &scope)), wrong());
    let good = AMD.crl(&[3, ASK_SERIAL], days, &[]);
    for at in (0..good.len()).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(with(&bad).is_err(), "{at}");
    }
    // Without one: it holds, and says no day.
    assert_eq!(with(&[]).unwrap().issued(), None);
}

fn sgx(
    change: impl FnOnce(&mut [u8]),
    enclave: impl FnOnce(&mut [u8]),
    collateral: &Collateral,
) -> Result<Verified, Refusal> {
    let quote = INTEL.sgx(data(), change, enclave);
    let bytes = pack(&quote, &INTEL.collateral(collateral)).unwrap();
    verify(Kind::Sgx, &bytes, &roots(), NOW)
}

fn tdx(change: impl FnOnce(&mut [u8]), collateral: &Collateral) -> Result<Verified, Refusal> {
    let quote = INTEL.tdx(data(), change);
    let bytes = pack(&quote, &INTEL.collateral(collateral)).unwrap();
    verify(Kind::Tdx, &bytes, &roots(), NOW)
}

fn says(refusal: &Result<Verified, Refusal>, what: &str) -> bool {
    matches!(refusal, Err(Refusal::Intel(text)) if text.contains(what))
}

fn sgx_with(change: impl FnOnce(&mut Collateral)) -> Result<Verified, Refusal> {
    let mut collateral = Collateral::good(false);
    change(&mut collateral);
    sgx(|_| (), |_| (), &collateral)
}

#[test]
fn what_intel_revoked_does_not_hold() {
    assert!(sgx_with(|_| ()).is_ok());
    assert!(says(
        &sgx_with(|it| it.revoked[1] = vec![PCK_SERIAL]),
        "CertRevoked"
    ));
    assert!(says(
        &sgx_with(|it| it.revoked[0] = vec![CA_SERIAL]),
        "CertRevoked"
    ));
    assert!(says(
        &sgx_with(|it| it.revoked[0] = vec![SIGNER_SERIAL]),
        "CertRevoked"
    ));
    // Each authority's list is of its own certificates.
    assert!(sgx_with(|it| it.revoked[0] = vec![PCK_SERIAL]).is_ok());
    assert!(says(&sgx_with(|it| it.status = "Revoked"), "Revoked"));
    assert!(says(
        &sgx_with(|it| it.enclave_status = "Revoked"),
        "Revoked"
    ));
}

#[test]
fn intels_lists_have_their_days_and_their_signer() {
    let old = ["2026-01-01T00:00:00Z", "2026-01-14T00:00:00Z"];
    let next = ["2026-01-16T00:00:00Z", "2026-02-14T00:00:00Z"];
    for list in [0, 1] {
        assert!(says(&sgx_with(|it| it.dates[list] = old), "xpired"));
        assert!(says(&sgx_with(|it| it.dates[list] = next), "future"));
    }
    assert!(says(
        &sgx_with(|it| it.crl_until = "260114000000Z"),
        "xpired"
    ));
    assert!(says(&sgx_with(|it| it.usurped = true), "Signature"));
    assert!(says(&sgx_with(|it| it.fmspc = "00906ED50001"), "Fmspc"));
    let crossed = tdx(|_| (), &Collateral::good(false));
    assert!(crossed.is_err());
    // The older list dates the evidence.
    let dates = ["2026-01-02T00:00:00Z", "2026-02-10T00:00:00Z"];
    for list in [0, 1] {
        let held = sgx_with(|it| it.dates[list] = dates).unwrap();
        assert_eq!(held.issued(), Some(Seconds(ISSUED_AT.0 - 8 * 24 * 3600)));
    }
}

#[test]
fn the_quoting_enclave_is_intels() {
    let good = Collateral::good(false);
    let enclave = |change: fn(&mut [u8])| sgx(|_| (), change, &good);
    assert!(enclave(|_| ()).is_ok());
    assert!(says(&enclave(|it| it[128] ^= 1), "MRSIGNER"));
    assert!(says(&enclave(|it| it[256] ^= 2), "ISVPRODID"));
    assert!(says(&enclave(|it| it[258] = 7), "ISVSVN"));
    // The key that signs quotes is the one that it vouches for.
    assert!(says(&enclave(|it| it[320] ^= 1), "hash"));
}

fn policy(verified: &Verified) -> Policy {
    let mut policy = Policy {
        measurements: [verified.measurement().clone()].into(),
        nodes: verified.node().into_iter().collect(),
        ..Policy::default()
    };
    if let Standing::Amd { product, tcb } = *verified.standing() {
        policy.amd.least = [(product, tcb)].into();
    }
    policy
}

#[test]
fn a_machine_out_of_date_is_told_and_refused() {
    let good = policy(&sgx_with(|_| ()).unwrap());
    for (status, enclave, found) in [
        ("OutOfDate", "UpToDate", TcbStatus::OutOfDate),
        ("UpToDate", "OutOfDate", TcbStatus::OutOfDate),
        (
            "SWHardeningNeeded",
            "UpToDate",
            TcbStatus::SWHardeningNeeded,
        ),
    ] {
        let held = sgx_with(|it| {
            it.status = status;
            it.enclave_status = enclave;
        });
        let held = held.unwrap();
        let refused = Refusal::Standing(found.to_string());
        assert_eq!(good.admit(&held), Err(refused));
        let mut lenient = good.clone();
        lenient.intel.statuses = vec![found];
        assert_eq!(lenient.admit(&held), Ok(()));
    }
    let listed = sgx_with(|it| it.advisories = vec!["INTEL-SA-00001"]).unwrap();
    assert!(matches!(good.admit(&listed), Err(Refusal::Standing(text)) if text.contains("00001")));
    let mut newer = good.clone();
    newer.intel.evaluation = 21;
    let held = sgx_with(|_| ()).unwrap();
    assert!(matches!(newer.admit(&held), Err(Refusal::Standing(_))));
    // Lower versions than the level that is up to date: the report's own do not matter, the platform key's do.
    assert!(sgx(|it| it[..16].fill(9), |_| (), &Collateral::good(false)).is_ok());
}

#[test]
fn all_three_questions_are_asked_and_the_floor_rises() {
    for (kind, bytes) in [
        (Kind::Snp, AMD.evidence(data())),
        (Kind::Sgx, INTEL.evidence(data())),
    ] {
        let held = verify(kind, &bytes, &roots(), NOW).unwrap();
        let (policy, roots) = (policy(&held), roots());
        let floor = Floor::default();
        let ask = |bound: &[u8; 32], policy: &Policy, floor: &Floor, now| {
            judge(kind, &bytes, bound, (policy, &roots), floor, now)
        };
        let (again, higher) = ask(&BOUND, &policy, &floor, NOW).unwrap();
        assert_eq!(again, held);
        assert_ne!(higher, floor);
        // The same evidence does again; that of another channel does not.
        assert_eq!(ask(&BOUND, &policy, &higher, NOW).unwrap().1, higher);
        let other = ask(&[0xb1; 32], &policy, &floor, NOW);
        assert_eq!(other, Err(Refusal::Unbound));
        // Another program; no roster, another chip on it.
        let mut wrong = policy.clone();
        wrong.measurements = [Measurement::Sgx([0; 32]), Measurement::Snp([0; 48])].into();
        let measured = Refusal::Measurement(held.measurement().clone());
        assert_eq!(ask(&BOUND, &wrong, &floor, NOW), Err(measured));
        for nodes in [vec![], vec!["07".repeat(32).parse::<Node>().unwrap()]] {
            let mut wrong = policy.clone();
            wrong.nodes = nodes.into_iter().collect();
            let refused = ask(&BOUND, &wrong, &floor, NOW);
            assert_eq!(refused, Err(Refusal::Node(held.node())));
        }
        // Somebody has seen lists of three weeks later: ours are too old, and so is a clock of before.
        let later: Floor = serde_json::from_value(serde_json::json!({
            "intel": ISSUED_AT.0 + 1, "amd": ISSUED_AT.0 + 1,
        }))
        .unwrap();
        assert_eq!(ask(&BOUND, &policy, &later, NOW), Err(Refusal::Stale));
        let before = Seconds(ISSUED_AT.0);
        assert_eq!(ask(&BOUND, &policy, &later, before), Err(Refusal::Clock));
        assert_eq!(later.joined(higher), later);
    }
    let held = snp(&AMD.evidence(data())).unwrap();
    let mut newer = policy(&held);
    if let Some(least) = newer.amd.least.get_mut(&Product::Milan) {
        least.microcode += 1;
    }
    assert!(matches!(newer.admit(&held), Err(Refusal::Standing(_))));
    newer.amd.least.clear();
    assert!(matches!(newer.admit(&held), Err(Refusal::Standing(_))));
}
