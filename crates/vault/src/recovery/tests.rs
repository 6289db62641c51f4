use super::*;
use crate::{
    Account, Cost, Deposit, GuessLimit, Part, Pin, RealmSet, Record, Refusal, State, enrol,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use subtle::ConstantTimeEq;

const CHEAP: (u32, u32, u32) = (16 * 1024, 12, 1);

struct World {
    set: RealmSet,
    account: Account,
    records: BTreeMap<RealmId, Record>,
    rng: ChaCha20Rng,
}

impl World {
    fn new(n: u8, t: u8) -> Self {
        let set = RealmSet::new((1..=n).map(|i| RealmId([i; 32])).collect(), t).unwrap();
        Self {
            records: set
                .realms()
                .iter()
                .map(|realm| (*realm, Record::default()))
                .collect(),
            set,
            account: Account::new("junto", "ada").unwrap(),
            rng: ChaCha20Rng::from_seed([n; 32]),
        }
    }

    /// Stages everywhere; activates at the first `activated` realms.
    fn store(&mut self, pin: &str, activated: usize) -> MasterKey {
        let (memory, passes, lanes) = CHEAP;
        let (master, deposits) = enrol(
            &Pin::new(pin).unwrap(),
            &self.account,
            &self.set,
            Cost::new(memory, passes, lanes).unwrap(),
            GuessLimit::new(3, 9).unwrap(),
            &mut self.rng,
        )
        .unwrap();
        for (i, part) in deposits.into_iter().enumerate() {
            let Part {
                realm,
                deposit,
                auth,
            } = part;
            let record = self.records.get_mut(&realm).unwrap();
            let deposit = Deposit::from_bytes(&deposit.to_bytes(), &realm).unwrap();
            let version = deposit.version();
            record.stage(Box::new(deposit)).unwrap();
            if i < activated {
                record.activate(&version, &auth, None).unwrap();
            }
        }
        master
    }

    fn told(&self) -> BTreeMap<RealmId, Vec<Roster>> {
        let told = |record: &Record| {
            let rosters = record.view().versions.into_iter().map(|(roster, _)| roster);
            rosters
                .map(|roster| Roster::from_bytes(&roster.to_bytes()).unwrap())
                .collect()
        };
        self.records
            .iter()
            .map(|(realm, record)| (*realm, told(record)))
            .collect()
    }

    fn attempt(&mut self, pin: &str) -> Attempt {
        let seed = Seed::new(&mut self.rng);
        self.attempt_again(pin, &seed)
    }

    fn attempt_again(&self, pin: &str, seed: &Seed) -> Attempt {
        let roster = Roster::agreed(&self.set, &self.told()).unwrap();
        let pin = Pin::again(pin).unwrap();
        let stretched = Stretched::new(
            &pin,
            &self.account,
            &self.set,
            &roster.version(),
            roster.cost(),
        )
        .unwrap();
        Attempt::again(stretched, roster, seed)
    }

    fn evaluations(
        &mut self,
        attempt: &Attempt,
        realms: &[RealmId],
    ) -> BTreeMap<RealmId, Evaluation> {
        let element = BlindedElement::from_bytes(&attempt.element().to_bytes()).unwrap();
        let version = attempt.roster.version();
        let mut answers = BTreeMap::new();
        for realm in realms {
            let record = self.records.get_mut(realm).unwrap();
            if let Ok(charged) = record.charge(&version, element.digest()) {
                let evaluation = record.evaluate(&charged, &element, &mut self.rng).unwrap();
                answers.insert(
                    *realm,
                    Evaluation::from_bytes(&evaluation.to_bytes()).unwrap(),
                );
            }
        }
        answers
    }

    fn claim(
        &mut self,
        claims: &Claims,
        realms: &[RealmId],
    ) -> BTreeMap<RealmId, Result<Given, Refusal>> {
        let version = claims.roster.version();
        realms
            .iter()
            .map(|realm| {
                let record = self.records.get_mut(realm).unwrap();
                let given = record.claim(&version, &claims.auth_key(realm));
                (
                    *realm,
                    given.map(|given| Given::from_bytes(&given.to_bytes()).unwrap()),
                )
            })
            .collect()
    }

    fn recover(&mut self, pin: &str, realms: &[RealmId]) -> Result<MasterKey, RecoveryError> {
        let attempt = self.attempt(pin);
        let answers = self.evaluations(&attempt, realms);
        let claims = attempt.claims(&answers)?;
        let given = self.claim(&claims, realms);
        let given = given
            .into_iter()
            .filter_map(|(realm, given)| Some((realm, given.ok()?)))
            .collect();
        claims.open(&given)
    }
}

fn same(a: &MasterKey, b: &MasterKey) -> bool {
    a.ct_eq(b).into()
}

/// R1: any t realms give back what was stored, and fewer do not.
#[test]
fn any_t_realms_recover_and_fewer_do_not() {
    let mut world = World::new(3, 2);
    let master = world.store("2841", 3);
    let realms = world.set.realms().to_vec();
    for pair in [[0, 1], [0, 2], [1, 2]] {
        let pair = pair.map(|i| realms[i]);
        assert!(same(&world.recover("2841", &pair).unwrap(), &master));
    }
    let few = world.recover("2841", &realms[..1]).err();
    assert!(matches!(
        few,
        Some(RecoveryError::Few {
            needed: 2,
            sound: 1,
            ..
        })
    ));
}

/// D2: wrong PINs count, a right one gives all guesses again, and running out erases and says so.
#[test]
fn guesses_run_out_and_everything_is_erased() {
    let mut world = World::new(3, 2);
    let master = world.store("2841", 3);
    let realms = world.set.realms().to_vec();
    let wrong = |world: &mut World, pin: &str| {
        let attempt = world.attempt(pin);
        let answers = world.evaluations(&attempt, &realms);
        let claims = attempt.claims(&answers).unwrap();
        let mut outcomes: Vec<_> = world
            .claim(&claims, &realms)
            .into_values()
            .map(Result::err)
            .collect();
        outcomes.dedup();
        assert_eq!(outcomes.len(), 1, "all realms count alike");
        outcomes.remove(0).unwrap()
    };
    assert_eq!(wrong(&mut world, "2842"), Refusal::Wrong { left: 2 });
    assert_eq!(wrong(&mut world, "2843"), Refusal::Wrong { left: 1 });
    assert!(same(&world.recover("2841", &realms).unwrap(), &master));
    for left in [2, 1] {
        assert_eq!(wrong(&mut world, "7777x"), Refusal::Wrong { left });
    }
    assert_eq!(wrong(&mut world, "2844"), Refusal::Exhausted);
    for record in world.records.values() {
        assert_eq!(record.view().state, State::Exhausted);
        assert!(record.view().versions.is_empty());
    }
}

/// R1: a realm that lies, in either step, is named, and the others suffice.
#[test]
fn a_lying_realm_is_named() {
    let mut world = World::new(3, 2);
    let master = world.store("2841", 3);
    let realms = world.set.realms().to_vec();
    let attempt = world.attempt("2841");
    let mut answers = world.evaluations(&attempt, &realms);
    // Realm 0 answers for another element: sound in itself, but not what was asked.
    let stray = {
        let other = world.attempt("2841");
        world.evaluations(&other, &realms)
    };
    answers.insert(realms[0], stray[&realms[0]]);
    let claims = attempt.claims(&answers).unwrap();
    assert_eq!(claims.liars(), [realms[0]]);
    let mut given: BTreeMap<_, _> = world
        .claim(&claims, &realms)
        .into_iter()
        .map(|(realm, given)| (realm, given.unwrap()))
        .collect();
    *given.get_mut(&realms[1]).unwrap().share += curve25519_dalek::Scalar::ONE;
    assert!(same(&claims.open(&given).unwrap(), &master));
    given.get_mut(&realms[2]).unwrap().wrapped[0] ^= 1;
    let Err(RecoveryError::Few {
        needed: 2,
        sound: 1,
        liars,
    }) = claims.open(&given)
    else {
        panic!("two of three lied");
    };
    assert_eq!(liars, realms[1..]);
}

/// A device that fails between two realms loses neither the old secret nor the new.
#[test]
fn a_new_version_on_its_way_loses_nothing() {
    for activated in 0..=5 {
        let mut world = World::new(5, 4);
        let old = world.store("2841", 5);
        let new = world.store("7305", activated);
        let realms = world.set.realms().to_vec();
        // All realms still have the old one; the new one counts from four on.
        let (pin, master) = if activated >= 4 {
            ("7305", &new)
        } else {
            ("2841", &old)
        };
        assert!(
            same(&world.recover(pin, &realms).unwrap(), master),
            "{activated}"
        );
    }
}

/// The last guess, and whoever made it is gone before there is an answer: with the seed the same PIN is the same guess, and
/// gives back; another PIN is another guess, and one too many.
#[test]
fn a_guess_that_was_broken_off_is_asked_again_for_nothing() {
    let mut world = World::new(3, 2);
    let master = world.store("2841", 3);
    let realms = world.set.realms().to_vec();
    for wrong in ["2842", "2843"] {
        assert!(world.recover(wrong, &realms).is_err());
    }
    let seed = Seed::new(&mut world.rng);
    let last = world.attempt_again("2841", &seed);
    assert_eq!(world.evaluations(&last, &realms).len(), 3);
    drop(last);
    let left = |world: &World| world.records[&realms[0]].view().versions[0].1;
    assert_eq!(left(&world), 0);
    let kept = Seed::from_bytes(seed.as_bytes());
    let again = world.attempt_again("2841", &kept);
    let answers = world.evaluations(&again, &realms);
    assert_eq!((again.sound(&answers), left(&world)), (3, 0));
    let other = world.attempt_again("2842", &kept);
    assert_ne!(other.element(), again.element());
    let claims = again.claims(&answers).unwrap();
    let given = world.claim(&claims, &realms).into_iter();
    let given = given
        .map(|(realm, given)| (realm, given.unwrap()))
        .collect();
    assert!(same(&claims.open(&given).unwrap(), &master));
    assert_eq!(claims.true_parts(&given), realms);
    assert_eq!(left(&world), 3);
    // Without the seed it is a guess like any other.
    for _ in 0..3 {
        let fresh = world.attempt("2841");
        world.evaluations(&fresh, &realms);
    }
    let fresh = world.attempt("2841");
    assert!(world.evaluations(&fresh, &realms).is_empty());
    assert_eq!(world.records[&realms[0]].view().state, State::Exhausted);
}

#[test]
fn realms_that_disagree_are_no_quorum() {
    let mut world = World::new(3, 2);
    world.store("2841", 3);
    let mut told = world.told();
    let realms = world.set.realms().to_vec();
    told.remove(&realms[0]);
    told.insert(realms[1], Vec::new());
    let disagreement = Roster::agreed(&world.set, &told).unwrap_err();
    assert_eq!((disagreement.needed, disagreement.agreed), (2, 1));
    // A realm that is no member has no vote.
    let stranger = told[&realms[2]].clone();
    told.insert(RealmId([9; 32]), stranger);
    assert!(Roster::agreed(&world.set, &told).is_err());
}

/// A deposit says the same to whoever decodes it, and one that would make its realm a liar is refused.
#[test]
fn deposits_fit_their_realm() {
    let world = World::new(3, 2);
    let (memory, passes, lanes) = CHEAP;
    let (_, deposits) = enrol(
        &Pin::new("2841").unwrap(),
        &world.account,
        &world.set,
        Cost::new(memory, passes, lanes).unwrap(),
        GuessLimit::new(3, 9).unwrap(),
        &mut ChaCha20Rng::from_seed([1; 32]),
    )
    .unwrap();
    let Part { realm, deposit, .. } = &deposits[0];
    let bytes = deposit.to_bytes();
    assert!(bytes.len() <= Deposit::BYTES_MAX);
    assert_eq!(
        *Deposit::from_bytes(&bytes, realm).unwrap().to_bytes(),
        *bytes
    );
    assert!(Deposit::from_bytes(&bytes, &deposits[1].realm).is_err());
    for length in [0, bytes.len() - 1] {
        assert!(Deposit::from_bytes(&bytes[..length], realm).is_err());
    }
    for place in (0..bytes.len()).filter(|place| !(32..64).contains(place)) {
        let mut altered = bytes.to_vec();
        altered[place] ^= 1;
        // Some bytes are anybody's choice (limits, version, others' commitments); what is bound to this realm is not.
        if let Ok(deposit) = Deposit::from_bytes(&altered, realm) {
            assert_eq!(*deposit.to_bytes(), altered);
            assert!(place >= 128, "byte {place} is this realm's");
        }
    }
}
