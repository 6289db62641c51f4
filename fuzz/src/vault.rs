//! What realms and clients of the vault send each other.

use std::sync::LazyLock;

use junto_vault::{
    Account, BlindedElement, Cost, Deposit, Evaluation, Given, GuessLimit, Part, Pin, RealmId,
    RealmSet, Record, Roster, enrol,
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

const REALMS: u8 = 3;

fn realm(number: u8) -> RealmId {
    RealmId([number; 32])
}

/// The first byte tells what the others are meant to be.
pub(crate) fn messages(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    match kind {
        0 => {
            if let Ok(roster) = Roster::from_bytes(bytes) {
                assert_eq!(roster.to_bytes(), bytes);
            }
        }
        1 => {
            for number in 1..=REALMS {
                if let Ok(deposit) = Deposit::from_bytes(bytes, &realm(number)) {
                    assert_eq!(*deposit.to_bytes(), bytes);
                    let mut record = Record::default();
                    record.stage(deposit).unwrap();
                }
            }
        }
        2 => {
            if let Ok(bytes) = bytes.try_into()
                && let Ok(element) = BlindedElement::from_bytes(bytes)
            {
                assert_eq!(element.to_bytes(), *bytes);
            }
        }
        3 => {
            if let Ok(bytes) = bytes.try_into()
                && let Ok(evaluation) = Evaluation::from_bytes(bytes)
            {
                assert_eq!(evaluation.to_bytes(), *bytes);
            }
        }
        _ => {
            if let Ok(bytes) = bytes.try_into()
                && let Ok(given) = Given::from_bytes(bytes)
            {
                assert_eq!(*given.to_bytes(), *bytes);
            }
        }
    }
}

static STORED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut rng = ChaCha8Rng::from_seed([1; 32]);
    let set = RealmSet::new((1..=REALMS).map(realm).collect(), 2).unwrap();
    let account = Account::new("junto", "ada").unwrap();
    let pin = Pin::new("2841").unwrap();
    let cost = Cost::new(16 * 1024, 12, 1).unwrap();
    let limit = GuessLimit::new(3, 9).unwrap();
    let (_, mut deposits) = enrol(&pin, &account, &set, cost, limit, &mut rng).unwrap();
    let Part {
        realm: id,
        deposit,
        auth,
    } = deposits.remove(0);
    let bytes = deposit.to_bytes();
    let version = deposit.version();
    let mut record = Record::default();
    record.stage(deposit).unwrap();
    record.activate(&version, &auth, None).unwrap();
    let (roster, _) = record.view().versions.remove(0);
    // Any point does for a blinded element: a realm cannot tell.
    let point = &roster.to_bytes()[62..94];
    let element = BlindedElement::from_bytes(point.try_into().unwrap()).unwrap();
    let charged = record.charge(&version, element.digest()).unwrap();
    let evaluation = record.evaluate(&charged, &element, &mut rng).unwrap();
    let given = record.claim(&version, &auth).unwrap();
    assert_eq!(id, realm(1));
    [
        (0, roster.to_bytes()),
        (1, bytes.to_vec()),
        (2, element.to_bytes().to_vec()),
        (3, evaluation.to_bytes().to_vec()),
        (4, given.to_bytes().to_vec()),
    ]
    .into_iter()
    .map(|(kind, bytes)| [vec![kind], bytes].concat())
    .collect()
});

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    STORED.clone()
}
