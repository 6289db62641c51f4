//! The order in which runs are confirmed, against somebody who holds all certificates that there can be
//! and hands them over when it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use junto_bls::{
    Certificate, KeyPublic, KeyShare, Occasion, Participant, PartyIndex, Pending, Setup,
};
use junto_crypto::ed25519::SigningKey;
use proptest::prelude::*;

use crate::bls::key_file::{Held, KeyFile, admit};
use crate::bls::order::{Barred, Origin, place};

/// Three parties, the last of them a liar, meet in three sessions; two of them must sign.
const PARTIES: u8 = 3;
const HONEST: [usize; 2] = [0, 1];

/// A run that all three would confirm, if the honest ones do.
pub(super) struct Run {
    pub(super) certificate: Certificate,
    /// What each party stores before it confirms.
    pub(super) pending: Vec<Vec<u8>>,
}

fn parties() -> impl Iterator<Item = PartyIndex> {
    (0..PARTIES).map_while(PartyIndex::new)
}

/// What a run starts from, in which session, and what it is called there.
type Plan = (Option<&'static str>, u8, &'static str);

/// By name: a key generation, and all that may follow it.
const PLANS: [(&str, Plan); 11] = [
    ("made", (None, 1, "bls keygen k #0")),
    ("refreshed", (Some("made"), 1, "bls refresh k #1")),
    ("refreshed again", (Some("made"), 1, "bls refresh k #2")),
    ("left", (Some("made"), 2, "bls reshare k #0")),
    ("left again", (Some("made"), 2, "bls reshare k #1")),
    ("left elsewhere", (Some("made"), 3, "bls reshare k #0")),
    (
        "refreshed, refreshed",
        (Some("refreshed"), 1, "bls refresh k #3"),
    ),
    (
        "refreshed again, left",
        (Some("refreshed again"), 2, "bls reshare k #2"),
    ),
    ("left, refreshed", (Some("left"), 2, "bls refresh k #1")),
    ("left, came back", (Some("left"), 1, "bls reshare k #1")),
    (
        "left, left elsewhere",
        (Some("left"), 3, "bls reshare k #1"),
    ),
];

static RUNS: LazyLock<Vec<Run>> = LazyLock::new(|| {
    let mut runs: Vec<Run> = Vec::new();
    for (name, (from, session, label)) in PLANS {
        let from = from.map(|from| &runs[index(from)]);
        let keys: Vec<SigningKey> = (0..PARTIES)
            .map(|i| SigningKey::from_seed(&[i; 32]))
            .collect();
        let roster: Vec<_> = keys.iter().map(SigningKey::verifying_key).collect();
        let occasion = Occasion {
            session: [session; 32],
            label: label.as_bytes(),
            roster: &roster,
        };
        let old = from.map(|run| run.certificate.key().clone());
        let shares: Vec<KeyShare> = from.map_or_else(Vec::new, |run| {
            let share = |pending: &Vec<u8>| {
                let pending = Pending::decode(pending).unwrap();
                pending.activate(&run.certificate).unwrap().share.unwrap()
            };
            run.pending.iter().map(share).collect()
        });
        let setup = planned(&occasion, label, old);
        assert_eq!(index(name), runs.len());
        runs.push(honest(&setup, &keys, &shares));
    }
    runs
});

fn index(name: &str) -> usize {
    PLANS.iter().position(|(it, _)| *it == name).unwrap()
}

pub(super) fn planned(occasion: &Occasion<'_>, label: &str, old: Option<KeyPublic>) -> Setup {
    let Some(old) = old else {
        return Setup::keygen(occasion, 2).unwrap();
    };
    let indices = old.threshold().indices();
    let holders: BTreeMap<_, _> = parties().zip(indices).collect();
    if label.contains("refresh") {
        return Setup::refresh(occasion, old, holders).unwrap();
    }
    let dealers = holders.into_iter().take(2).collect();
    Setup::reshare(occasion, old, dealers, parties().collect(), 2).unwrap()
}

/// All rounds of a run.
pub(super) fn honest(setup: &Setup, keys: &[SigningKey], shares: &[KeyShare]) -> Run {
    let mut inbox = BTreeMap::new();
    let mut dealing = Vec::new();
    for (me, key) in parties().zip(keys) {
        let seed = [me.value() + 1; 32];
        let deals = setup.old_key().is_some() && setup.dealers().contains_key(&me);
        let old = deals.then(|| &shares[usize::from(me.value())]);
        let party = Participant::new(setup, me, key, &seed).unwrap();
        let (round, said) = party.start(old).unwrap();
        inbox.insert(me, said);
        dealing.push(round);
    }
    let mut letters: BTreeMap<PartyIndex, BTreeMap<_, _>> = BTreeMap::new();
    let mut sharing = Vec::new();
    for (me, round) in parties().zip(dealing) {
        let (round, sent) = round.receive(&inbox).unwrap();
        for (to, letter) in sent {
            letters.entry(to).or_default().insert(me, letter.to_vec());
        }
        sharing.push(round);
    }
    let mut inbox = BTreeMap::new();
    let mut confirming = Vec::new();
    for (me, round) in parties().zip(sharing) {
        let (round, said) = round.receive(&letters[&me]).unwrap();
        inbox.insert(me, said);
        confirming.push(round);
    }
    let pending = confirming
        .iter_mut()
        .map(|round| round.take_pending().unwrap());
    let pending = pending.map(|pending| pending.encode().to_vec()).collect();
    Run {
        certificate: confirming[0].receive(&inbox).unwrap(),
        pending,
    }
}

/// An honest party, and what it has said.
struct Honest {
    me: usize,
    key: KeyFile,
    confirmed: BTreeSet<usize>,
}

impl Honest {
    /// A party that holds the key in its first epoch.
    fn new(me: usize) -> Self {
        let mut key = KeyFile::default();
        let made = &RUNS[0];
        let pending = Pending::decode(&made.pending[me]).unwrap();
        key.held = Some(Arc::new(Held {
            share: pending.activate(&made.certificate).unwrap().share.unwrap(),
            certificate: made.certificate.clone(),
            origin: Origin::of(made.certificate.setup()).unwrap(),
        }));
        Honest {
            me,
            key,
            confirmed: BTreeSet::from([0]),
        }
    }

    fn confirm(&mut self, run: usize, abandon: bool) -> bool {
        let pending = Pending::decode(&RUNS[run].pending[self.me]).unwrap();
        let confirmed = admit(
            self.key.held.as_deref(),
            &mut self.key.undecided,
            pending,
            abandon,
        );
        if confirmed.is_ok() {
            self.confirmed.insert(run);
        }
        confirmed.is_ok()
    }

    fn barred(&self, name: &str, abandon: bool) -> Option<Barred> {
        let setup = RUNS[index(name)].certificate.setup();
        self.key.standing().may_confirm(setup, abandon).err()
    }

    fn take(&mut self, run: usize) -> bool {
        self.key.activate(&RUNS[run].certificate).is_some()
    }

    fn share(&self) -> &KeyPublic {
        self.key.held.as_ref().unwrap().share.public()
    }
}

/// What somebody does.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The user of an honest party has it take part in a run to the end, giving up what is undecided if
    /// the run is one into the third session.
    Confirm(usize, usize),
    /// The liar hands an honest party a certificate, if there is one.
    HandOver(usize, usize),
}

fn event() -> impl Strategy<Value = Event> {
    let any = || (0..HONEST.len(), 1..PLANS.len());
    prop_oneof![
        3 => any().prop_map(|(party, run)| Event::Confirm(party, run)),
        2 => any().prop_map(|(party, run)| Event::HandOver(party, run)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the users of honest parties do in whatever order, and whichever certificates are handed
    /// to whom and when: once all have been handed to all, the shares fit together.
    #[test]
    fn honest_parties_end_with_shares_of_one_epoch(events in prop::collection::vec(event(), 1..40)) {
        let mut honest = HONEST.map(Honest::new);
        for event in events {
            match event {
                Event::Confirm(party, run) => {
                    let (_, (_, session, _)) = PLANS[run];
                    honest[party].confirm(run, session == 3);
                }
                Event::HandOver(party, run) if honest.iter().all(|it| it.confirmed.contains(&run)) => {
                    honest[party].take(run);
                }
                Event::HandOver(..) => {}
            }
        }
        let all: BTreeSet<usize> = &honest[0].confirmed & &honest[1].confirmed;
        for party in &mut honest {
            while all.iter().any(|run| party.take(*run)) {}
        }
        prop_assert_eq!(honest[0].share(), honest[1].share());
    }
}

/// The attack that the order is for: one honest party is stopped before it has confirmed a reshare that
/// the other one has, and the key is refreshed in the old session meanwhile.
#[test]
fn a_key_that_may_have_left_is_not_refreshed_in_the_session_that_it_left() {
    let [mut one, mut other] = HONEST.map(Honest::new);
    assert!(one.confirm(index("left"), false));
    let left = Origin::of(RUNS[index("left")].certificate.setup()).unwrap();
    for abandon in [false, true] {
        assert_eq!(
            one.barred("refreshed", abandon),
            Some(Barred::Elsewhere(left.clone()))
        );
    }
    // The one that was stopped can refresh with nobody, and go on with the reshare.
    assert!(other.confirm(index("refreshed"), false));
    assert!(other.confirm(index("left"), false));
    assert!(other.take(index("left")) && one.take(index("left")));
    assert_eq!(one.share(), other.share());
}

#[test]
fn nobody_votes_for_two_ways_out_unless_its_user_gives_one_up() {
    let [mut one, _] = HONEST.map(Honest::new);
    assert!(one.confirm(index("left"), false));
    assert!(
        one.confirm(index("left again"), false),
        "the same way out, once more"
    );
    let left = Origin::of(RUNS[index("left again")].certificate.setup()).unwrap();
    let barred = one.barred("left elsewhere", false);
    assert_eq!(barred, Some(Barred::Elsewhere(left)));
    assert!(one.confirm(index("left elsewhere"), true));
    // And not back again: somebody else may have given it up for this one.
    let later = Origin::of(RUNS[index("left elsewhere")].certificate.setup()).unwrap();
    assert_eq!(
        one.barred("left, refreshed", false),
        Some(Barred::Elsewhere(later))
    );
    // The certificate of what was given up is one all the same, until the other one comes.
    assert!(one.take(index("left again")));
    assert!(one.take(index("left elsewhere")));
    assert_eq!(one.share(), RUNS[index("left elsewhere")].certificate.key());
}

#[test]
fn nothing_starts_from_an_older_share_than_this_party_holds() {
    let [mut one, _] = HONEST.map(Honest::new);
    assert!(one.confirm(index("refreshed"), false) && one.take(index("refreshed")));
    assert_eq!(one.barred("left", false), Some(Barred::OlderShare));
    // Nor from another one of the same epoch: its certificate comes first, and makes it this party's.
    assert_eq!(
        one.barred("refreshed again, left", false),
        Some(Barred::OlderShare)
    );
    assert!(one.confirm(index("refreshed, refreshed"), false));
    let since = Origin::of(RUNS[index("refreshed, refreshed")].certificate.setup()).unwrap();
    assert_eq!(
        one.barred("refreshed again", false),
        Some(Barred::Past(since))
    );
}

#[test]
fn no_older_epoch_is_made_after_a_later_one() {
    let [mut one, _] = HONEST.map(Honest::new);
    // The others have proven that they hold the first refresh, and start the second one from it.
    assert!(one.confirm(index("refreshed, refreshed"), false));
    assert_eq!(one.barred("left", false), Some(Barred::OlderShare));
    // A key that has come back goes on where it is, whatever was numbered how before it left.
    let at = |name: &str| place(RUNS[index(name)].certificate.setup());
    assert!(at("left, came back") > at("refreshed again"));
    assert!(at("refreshed again") > at("refreshed"));
    // Its number is lower than that of a run before it, and it comes later all the same.
    let [mut one, mut other] = HONEST.map(Honest::new);
    assert!(one.confirm(index("refreshed again"), false));
    assert_eq!(one.barred("left, came back", false), None);
    assert!(one.confirm(index("left, came back"), false));
    assert!(other.confirm(index("left, came back"), false));
    let since = Origin::of(RUNS[index("left, came back")].certificate.setup()).unwrap();
    let barred = other.barred("refreshed again", false);
    assert_eq!(barred, Some(Barred::Past(since)));
}

#[test]
fn broken_runs_fill_their_session_and_no_other() {
    let [mut one, _] = HONEST.map(Honest::new);
    let here = Origin::of(RUNS[0].certificate.setup()).unwrap().session;
    let keys: Vec<SigningKey> = (0..PARTIES)
        .map(|i| SigningKey::from_seed(&[i; 32]))
        .collect();
    let roster: Vec<_> = keys.iter().map(SigningKey::verifying_key).collect();
    let shares = RUNS[0].pending.iter().map(|pending| {
        let pending = Pending::decode(pending).unwrap();
        pending.activate(&RUNS[0].certificate).unwrap().share
    });
    let shares: Vec<KeyShare> = shares.map(Option::unwrap).collect();
    for number in 1..=65 {
        assert_eq!(one.key.has_room(&here).is_ok(), number < 65);
        let label = format!("bls refresh k #{number}");
        let occasion = Occasion {
            session: [1; 32],
            label: label.as_bytes(),
            roster: &roster,
        };
        let setup = planned(&occasion, &label, Some(shares[0].public().clone()));
        let run = honest(&setup, &keys, &shares);
        let pending = Pending::decode(&run.pending[0]).unwrap();
        let admitted = admit(
            one.key.held.as_deref(),
            &mut one.key.undecided,
            pending,
            false,
        );
        assert_eq!(admitted.is_ok(), number < 65);
    }
    assert!(
        one.confirm(index("left"), false),
        "it can be taken elsewhere"
    );
}
