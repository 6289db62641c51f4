//! What realms and clients of the vault send each other.

use std::{collections::BTreeMap, sync::LazyLock};

use junto_crypto::{Zeroizing, ed25519::SigningKey};
use junto_realm::{BootKey, Card, Member, fuzzing};
use junto_vault::{
    Account, Answer, BlindedElement, Certificate, Class, Cost, Deposit, Entry, Evaluation, Genesis,
    Given, GuessLimit, Operation, Order, Part, Pin, Quorum, Realm, RealmId, RealmSet, Record,
    ReplicaId, Roster, Seconds, Span, Step, Token, Word, enrol,
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
                    record.stage(Box::new(deposit)).unwrap();
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
        5 => {
            if let Ok(word) = Word::from_bytes(bytes) {
                assert_eq!(word.to_bytes(), bytes);
            }
        }
        6 => {
            if let Ok(certificate) = Certificate::from_bytes(bytes) {
                assert_eq!(certificate.to_bytes(), bytes);
            }
        }
        7 => {
            if let Ok(order) = Order::from_bytes(bytes) {
                assert_eq!(order.to_bytes(), bytes);
            }
            // What is in it, signed: a fuzzer finds no signature.
            let mut signed = tenant().verifying_key().as_bytes().to_vec();
            signed.extend_from_slice(bytes.get(32..).unwrap_or_default());
            let signature = tenant().sign(&[b"junto vault order", &signed[..]].concat());
            signed.extend_from_slice(signature.as_bytes());
            if let Ok(order) = Order::from_bytes(&signed) {
                assert_eq!(order.to_bytes(), signed);
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
    record.stage(Box::new(deposit)).unwrap();
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

/// Two groups, one of which has said what moving a range begins with, its proof without signatures, and the order.
struct Moving {
    order: Order,
    entry: Vec<u8>,
    word: Word,
    snapshot: Vec<u8>,
}

static MOVING: LazyLock<Moving> = LazyLock::new(|| {
    let mut rng = ChaCha8Rng::from_seed([2; 32]);
    let quorum = Quorum::new(1, 0).unwrap();
    let card = |id| {
        let member = Member {
            id: ReplicaId([id; 32]),
            address: format!("127.0.0.1:{id}"),
        };
        Card::sign(&tenant(), BEGAN, quorum, vec![member]).unwrap()
    };
    let (from, to) = (card(1), card(2));
    let sides = ((from.group(), 0), (to.group(), 0));
    let order = Order::sign(&tenant(), sides.0, sides.1, Span::WHOLE).unwrap();
    let genesis = Genesis {
        realm: *from.realm(),
        secret: Zeroizing::new([8; 32]),
        tenants: BTreeMap::new(),
        records_max: 4,
        time: BEGAN,
    };
    let mut realm = Realm::of_group(genesis, to.group(), false).unwrap();
    let step = Step::prepare(order.clone(), from);
    let entry = Entry::step(step, BEGAN, &mut rng).unwrap();
    let bytes = entry.to_bytes().to_vec();
    let word = realm.apply(entry).says().unwrap().clone();
    Moving {
        order,
        entry: bytes,
        word,
        snapshot: realm.snapshot().to_vec(),
    }
});

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let order = MOVING.order.to_bytes();
    let unsigned = order.split_last_chunk::<64>().unwrap().0;
    let order_id = MOVING.order.id();
    let mut seeds = STORED.clone();
    seeds.extend([
        [&[5][..], &MOVING.word.to_bytes()].concat(),
        [&[5][..], &Word::Accepted { order: order_id }.to_bytes()].concat(),
        [&[6][..], &[7; 32], &[1, 0], &[9; 64]].concat(),
        [&[7][..], &order].concat(),
        [&[7][..], unsigned].concat(),
    ]);
    seeds
}

const BEGAN: Seconds = Seconds(1_700_000_000);

fn tenant() -> SigningKey {
    SigningKey::from_seed(&[9; 32])
}

fn new_realm() -> Realm {
    Realm::new(Genesis {
        realm: realm(1),
        secret: Zeroizing::new([8; 32]),
        tenants: BTreeMap::from([("junto".to_owned(), tenant().verifying_key())]),
        records_max: 4,
        time: BEGAN,
    })
    .unwrap()
}

fn token() -> Token {
    let account = Account::new("junto", "ada").unwrap();
    Token::issue(account, &realm(1), Seconds(BEGAN.0 + 300), &tenant())
}

/// What replicas and clients of a realm send each other; the first byte tells what the others are meant to be.
pub(crate) fn realm_messages(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    match kind {
        0 => {
            if let Ok(entry) = Entry::from_bytes(bytes, &realm(1)) {
                assert_eq!(*entry.to_bytes(), bytes);
                // Whatever is in a log, two replicas come to the same.
                let (mut one, mut other) = (new_realm(), new_realm());
                let _ = one.apply(entry);
                let _ = other.apply(Entry::from_bytes(bytes, &realm(1)).unwrap());
                assert_eq!(*one.snapshot(), *other.snapshot());
            }
        }
        1 => {
            if let Ok(realm) = Realm::restore(bytes) {
                assert_eq!(*realm.snapshot(), bytes);
            }
        }
        2 => {
            if let Ok(token) = Token::from_bytes(bytes) {
                assert_eq!(token.to_bytes(), bytes);
                let admitted = new_realm().admit(&token, Operation::View, BEGAN).is_ok();
                assert_eq!(admitted, token == self::token());
            }
        }
        kind => {
            let class = [Class::Small, Class::View, Class::Receipts][usize::from(kind % 3)];
            let mut bytes = bytes.to_vec();
            bytes.resize(class.bytes(), 0);
            if let Ok(answer) = Answer::from_bytes(&bytes, class) {
                assert_eq!(*answer.to_bytes(class), bytes);
            }
        }
    }
}

/// What goes over the channels of a realm; the first byte tells what the others are meant to be.
pub(crate) fn channels(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    match kind {
        0..=7 => {
            if let Some(again) = fuzzing::request(*kind, bytes) {
                assert_eq!(*again, bytes);
            }
        }
        8..=15 => {
            if let Some(again) = fuzzing::response(kind - 8, bytes) {
                assert_eq!(again, bytes);
            }
        }
        16 => {
            if let Some(again) = fuzzing::ask(bytes, &realm(1)) {
                assert_eq!(*again, bytes);
            }
        }
        17 => {
            if let Some(again) = fuzzing::card(bytes) {
                assert_eq!(again, bytes);
            }
            // What is in it, signed: a fuzzer finds no signature.
            let mut signed = tenant().verifying_key().as_bytes().to_vec();
            signed.extend_from_slice(bytes.get(32..).unwrap_or_default());
            let signature = tenant().sign(&[b"junto realm card", &signed[..]].concat());
            signed.extend_from_slice(signature.as_bytes());
            if let Some(again) = fuzzing::card(&signed) {
                assert_eq!(again, signed);
            }
        }
        128..=130 => {
            if let Some(again) = fuzzing::heard(kind - 128, bytes) {
                assert_eq!(*again, bytes);
            }
        }
        131 => {
            let realm = realm_of_cards();
            if let Some(again) = fuzzing::said(bytes, &realm) {
                assert_eq!(again, bytes);
            }
            // What a member says: a fuzzer finds no signature.
            let (card, member) = group_of_one();
            let said = fuzzing::signed(&card, &member, bytes);
            assert_eq!(fuzzing::said(&said, &realm).as_deref(), Some(&said[..]));
        }
        132 => {
            let member = group_of_one().1.id();
            if let Some(again) = fuzzing::welcome(bytes, &realm_of_cards(), member) {
                assert_eq!(*again, bytes);
            }
        }
        _ => {
            if let Some(again) = fuzzing::evidence(bytes) {
                assert_eq!(again, bytes);
            }
        }
    }
}

/// What who carries an order hears: what a step came to, a ground, and what may be there.
fn heard_seeds() -> Vec<Vec<u8>> {
    let piece = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    let word = piece(&MOVING.word.to_bytes());
    let proof = piece(&[&[7; 32][..], &[1, 0], &[9; 64]].concat());
    let spans = [[0_u64, 4], [9, u64::MAX]].concat();
    let spans: Vec<u8> = spans.into_iter().flat_map(u64::to_be_bytes).collect();
    vec![
        [&[128, 0][..], &word, &proof].concat(),
        vec![128, 1, 0, 0, 0, 7],
        vec![128, 2],
        vec![128, 3, 6],
        [&[129, 0, 0, 0, 0, 0, 0, 0, 3, 0, 2][..], &spans].concat(),
        vec![130, 0],
        vec![130, 1, 7, 7],
    ]
}

fn realm_of_cards() -> RealmId {
    RealmId(*tenant().verifying_key().as_bytes())
}

fn group_of_one() -> (Card, BootKey) {
    let member = BootKey::generate(&mut ChaCha8Rng::from_seed([9; 32]));
    let members = vec![Member {
        id: member.id(),
        address: "127.0.0.1:1".to_owned(),
    }];
    let card = Card::sign(&tenant(), BEGAN, Quorum::new(1, 0).unwrap(), members);
    (card.unwrap(), member)
}

pub(crate) fn channel_seeds() -> Vec<Vec<u8>> {
    let place = [
        &[0, 0, 0, 0, 0, 0, 0, 3][..],
        &[2; 32],
        &[0, 0, 0, 0, 0, 0, 0, 6],
    ]
    .concat();
    let vote = [&[0, 0, 0, 0, 0, 0, 0, 3][..], &[2; 32], &[1]].concat();
    let names = [&[2][..], &[1; 32], &[2; 32]].concat();
    let entries = [
        &[0, 0, 0, 3][..],
        &place,
        &[0],
        &place,
        &[1, 0, 0, 0, 2, 7, 7],
        &place,
        &[2],
        &names,
    ]
    .concat();
    let token = token().to_bytes();
    let length = u16::try_from(token.len()).unwrap().to_be_bytes();
    let ask = [&[16][..], &length, &token, &Operation::View.to_bytes()].concat();
    let member = |id| Member {
        id: ReplicaId([id; 32]),
        address: format!("127.0.0.1:{id}"),
    };
    let quorum = Quorum::new(4, 1).unwrap();
    let card = Card::sign(&tenant(), BEGAN, quorum, (1..=4).map(member).collect()).unwrap();
    let mut seeds = vec![
        [&[1][..], &vote, &[1], &place, &[0], &entries].concat(),
        [&[2][..], &vote, &[1], &place].concat(),
        [
            &[3][..],
            &vote,
            &[1],
            &place,
            &[1],
            &place,
            &names,
            &[1, b'6'],
            &[9; 40],
        ]
        .concat(),
        [&[4][..], &place].concat(),
        vec![9, 0],
        [&[9, 1, 1][..], &place].concat(),
        vec![9, 2],
        [&[9, 3][..], &vote].concat(),
        [&[10][..], &vote, &[1, 1], &place].concat(),
        [&[11][..], &vote].concat(),
        [&[12][..], &[7; 32]].concat(),
        ask,
        [&[17][..], &card.to_bytes()].concat(),
        // Without its signature, which the target makes.
        [
            &[17][..],
            card.to_bytes().split_last_chunk::<64>().unwrap().0,
        ]
        .concat(),
        [&[18, 0][..], &[5; 32]].concat(),
    ];
    seeds.extend(heard_seeds());
    seeds
}

pub(crate) fn realm_seeds() -> Vec<Vec<u8>> {
    let mut realm = new_realm();
    let deposit = &STORED[1][1..];
    let stage = Operation::from_bytes(&[&[2], deposit].concat(), &self::realm(1)).unwrap();
    let mut seeds = vec![[&[2][..], &token().to_bytes()].concat()];
    for operation in [stage, Operation::View, Operation::Delete] {
        let entry = realm.admit(&token(), operation, BEGAN).unwrap();
        seeds.push([&[0][..], &entry.to_bytes()].concat());
        let _ = realm.apply(entry);
        seeds.push([&[1][..], &realm.snapshot()].concat());
    }
    seeds.push([&[0][..], &Entry::tick(BEGAN).to_bytes()].concat());
    seeds.push([&[0][..], &MOVING.entry].concat());
    let mut rng = ChaCha8Rng::from_seed([3; 32]);
    let step = Entry::step(Step::accept(MOVING.order.clone()), BEGAN, &mut rng).unwrap();
    seeds.push([&[0][..], &step.to_bytes()].concat());
    seeds.push([&[1][..], &MOVING.snapshot].concat());
    // Refusals that send elsewhere: to a group, to nobody, to later.
    seeds.push([&[3, 5, 7, 0, 0, 1][..], &[6; 32]].concat());
    seeds.push(vec![3, 5, 7, 0, 0, 0]);
    seeds.push(vec![3, 5, 8, 0, 0]);
    // An evaluation, a part, and a refusal.
    seeds.push([&[3, 3][..], &STORED[3][1..]].concat());
    seeds.push([&[3, 4][..], &STORED[4][1..]].concat());
    seeds.push(vec![3, 5, 1, 0, 2]);
    // A view of what is active, one of nothing, one receipt.
    let roster = &STORED[0][1..];
    let length = u16::try_from(roster.len()).unwrap().to_be_bytes();
    seeds.push([&[4, 1, 1][..], &[7; 32], &[1, 0, 3], &length, roster].concat());
    seeds.push(vec![4, 1]);
    seeds.push(vec![5, 2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 3]);
    seeds
}
