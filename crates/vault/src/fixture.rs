//! Deposits that tests share: making one takes Argon2.

use std::sync::LazyLock;

use junto_crypto::ed25519::SigningKey;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use crate::{
    Account, AuthKey, Cost, Deposit, GuessLimit, Part, Pin, RealmId, RealmSet, Version, enrol,
};

pub(crate) const EACH: u16 = 3;
pub(crate) const LIFETIME: u16 = 7;
/// The public half of [`operator`].
pub(crate) const REALM: RealmId = RealmId([
    0xe9, 0x2e, 0xb6, 0x05, 0x4f, 0xe9, 0xbc, 0x68, 0x2a, 0x1b, 0xcf, 0x3b, 0x75, 0x9f, 0x65, 0xab,
    0x38, 0xa4, 0xcf, 0xbd, 0x81, 0xc4, 0xd1, 0xf3, 0x34, 0x2e, 0x4c, 0xc9, 0xcd, 0xed, 0x8b, 0x0b,
]);

/// The realm's key.
pub(crate) fn operator() -> SigningKey {
    let key = SigningKey::from_seed(&[40; 32]);
    assert_eq!(REALM.0, *key.verifying_key().as_bytes());
    key
}

/// A deposit, the key that proves its PIN, its version. There are four.
type Stored = (Vec<u8>, [u8; 32], Version);

static DEPOSITS: LazyLock<Vec<Stored>> = LazyLock::new(|| {
    let set = RealmSet::new(vec![REALM], 1).unwrap();
    (0..4)
        .map(|i| {
            let (_, mut deposits) = enrol(
                &Pin::new("2841").unwrap(),
                &Account::new("junto", "ada").unwrap(),
                &set,
                Cost::new(16 * 1024, 12, 1).unwrap(),
                GuessLimit::new(EACH, LIFETIME).unwrap(),
                &mut ChaCha20Rng::from_seed([i; 32]),
            )
            .unwrap();
            let Part { deposit, auth, .. } = deposits.remove(0);
            (
                deposit.to_bytes().to_vec(),
                *auth.as_bytes(),
                deposit.version(),
            )
        })
        .collect()
});

pub(crate) fn deposit(i: usize) -> Box<Deposit> {
    Box::new(Deposit::from_bytes(&DEPOSITS[i].0, &REALM).unwrap())
}

pub(crate) fn auth(i: usize) -> AuthKey {
    AuthKey::from_bytes(&DEPOSITS[i].1)
}

pub(crate) fn version(i: usize) -> Version {
    DEPOSITS[i].2
}
