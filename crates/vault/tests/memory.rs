//! What a record costs a realm: measured, so that an operator can plan, and bounded.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test's helpers; the figure is worth reading"
)]

use std::collections::BTreeMap;

use junto_crypto::{Zeroizing, ed25519::SigningKey};
use junto_vault::{
    Account, Cost, Genesis, GuessLimit, Operation, Part, Pin, Realm, RealmId, RealmSet, Seconds,
    Token, enrol,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

const REALM: RealmId = RealmId([1; 32]);
const BEGAN: Seconds = Seconds(1_700_000_000);
const RECORDS: usize = 64;

/// Bytes of a record in a set of `n` realms; `worst`: with all that a record can hold.
fn bytes_of_a_record(n: u8, worst: bool) -> u64 {
    let tenant = SigningKey::from_seed(&[1; 32]);
    let mut realm = Realm::new(Genesis {
        realm: REALM,
        secret: Zeroizing::new([2; 32]),
        tenants: BTreeMap::from([("junto".to_owned(), tenant.verifying_key())]),
        records_max: 1000,
        time: BEGAN,
    })
    .unwrap();
    let set = RealmSet::new((1..=n).map(|i| RealmId([i; 32])).collect(), n / 2 + 1).unwrap();
    let account = |user: usize| Account::new("junto", &user.to_string()).unwrap();
    let parts: Vec<_> = (0..3)
        .map(|i| {
            let (_, mut parts) = enrol(
                &Pin::new("2841").unwrap(),
                &account(0),
                &set,
                Cost::new(16 * 1024, 12, 1).unwrap(),
                GuessLimit::new(10, 30).unwrap(),
                &mut ChaCha20Rng::from_seed([i; 32]),
            )
            .unwrap();
            let Part { deposit, auth, .. } = parts.remove(0);
            (deposit.version(), deposit.to_bytes(), auth)
        })
        .collect();
    let measured = allocation_counter::measure(|| {
        for user in 0..RECORDS {
            let token = Token::issue(account(user), &REALM, Seconds(BEGAN.0 + 300), &tenant);
            let mut ask = |operation: &[u8]| {
                let operation = Operation::from_bytes(operation, &REALM).unwrap();
                drop(realm.apply(realm.admit(&token, operation, BEGAN).unwrap()));
            };
            let stage = |i: usize| [&[2][..], &parts[i].1[..]].concat();
            let proof = |kind: u8, i: usize| {
                let mut out = [&[kind][..], &parts[i].0.0, parts[i].2.as_bytes()].concat();
                out.resize(Operation::BYTES, 0);
                out
            };
            ask(&stage(0));
            ask(&proof(3, 0));
            if worst {
                ask(&stage(1));
                ask(&proof(3, 1));
                ask(&stage(2));
                for _ in 0..40 {
                    ask(&proof(6, 1));
                }
            }
        }
    });
    u64::try_from(measured.bytes_current).unwrap() / RECORDS as u64
}

#[test]
fn a_record_has_its_bounds() {
    let usual = bytes_of_a_record(3, false);
    let worst = bytes_of_a_record(32, true);
    eprintln!("2 of 3: {usual} bytes; at worst, 17 of 32: {worst} bytes");
    assert!(usual <= 1_400, "{usual}");
    assert!(worst <= 13_000, "{worst}");
}
