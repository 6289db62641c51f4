//! Every round with a party that lies: all honest parties abort and name it, and the evidence
//! convinces a third party. And: evidence that nobody honest can be accused with.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::collections::BTreeMap;

use junto_bls::{
    Abort, Dispute, Evidence, Fault, Inbox, KeyShare, NotProven, Participant, PartyIndex, RunError,
    Setup,
};
use junto_crypto::hash::sha256_of;
use proptest::prelude::*;
use stage::{
    CONFIRM, Cast, DEAL, Letter, Outcome, SHARE, honest, keygen, only, party, refresh_setup,
    reshare_setup, run, seed, signed_text,
};

type Shares = BTreeMap<PartyIndex, KeyShare>;

/// The liar in every test.
const LIAR: u8 = 1;

/// On the curve (x = 4), outside the subgroup.
fn off_subgroup() -> [u8; 48] {
    let mut bytes = [0; 48];
    (bytes[0], bytes[47]) = (0x80, 4);
    bytes
}

/// All honest parties aborted with the same words; returns them.
fn verdict(outcomes: &[Outcome]) -> Abort {
    verdict_without(&[LIAR], outcomes)
}

fn verdict_without(liars: &[u8], outcomes: &[Outcome]) -> Abort {
    let aborts: Vec<&Abort> = outcomes
        .iter()
        .enumerate()
        .filter(|(party, _)| !liars.contains(&(*party as u8)))
        .map(|(party, outcome)| match outcome {
            Err(RunError::Abort(abort)) => abort,
            other => panic!("party {party}: {other:?}"),
        })
        .collect();
    for abort in &aborts {
        assert_eq!(abort, &aborts[0]);
    }
    aborts[0].clone()
}

/// All honest parties blame the liar alone, for this, and can prove it.
fn convicts(setup: &Setup, outcomes: &[Outcome], fault: Fault) -> Evidence {
    let abort = verdict(outcomes);
    assert_eq!(abort.blamed(), [party(LIAR)], "{abort}");
    assert_eq!(abort.disputes, []);
    assert_eq!(abort.blames[0].fault, fault, "{abort}");
    let evidence = abort.blames[0].evidence.clone().unwrap();
    third_party(setup, &evidence, fault);
    evidence
}

/// A third party has the setup and the bytes, nothing else.
fn third_party(setup: &Setup, evidence: &Evidence, fault: Fault) {
    let received = Evidence::from_bytes(evidence.as_bytes().to_vec());
    let known = Setup::decode(&setup.encode()).unwrap();
    assert_eq!(received.verify(&known), Ok((party(LIAR), fault)));
}

/// One of the three tasks, with four parties of whom the liar is a dealer and a holder.
struct Scene {
    cast: Cast,
    setup: Setup,
    old: Shares,
}

impl Scene {
    fn keygen() -> Self {
        let cast = Cast::new(4);
        let setup = cast.keygen(3);
        Self {
            cast,
            setup,
            old: BTreeMap::new(),
        }
    }

    fn refresh() -> Self {
        let cast = Cast::new(4);
        let old = keygen(&cast, 3);
        let setup = refresh_setup(&cast, &old);
        Self { cast, setup, old }
    }

    fn reshare() -> Self {
        let cast = Cast::new(4);
        let old = only(keygen(&cast, 2), &[0, 1]);
        let setup = reshare_setup(&cast, &old, &[0, 1], &[1, 2, 3], 3);
        Self { cast, setup, old }
    }

    fn all() -> [Self; 3] {
        [Self::keygen(), Self::refresh(), Self::reshare()]
    }

    fn run(&self, lie: impl FnMut(&mut Letter<'_>)) -> Vec<Outcome> {
        run(&self.cast, &self.setup, &self.old, lie)
    }

    fn convicts(&self, fault: Fault, lie: impl FnMut(&mut Letter<'_>)) -> Evidence {
        convicts(&self.setup, &self.run(lie), fault)
    }

    /// The liar's wire bytes in an honest run with another seed.
    fn alternative(&self, round: u8, to: u8) -> Vec<u8> {
        let me = Participant::new(
            &self.setup,
            party(LIAR),
            &self.cast.keys[usize::from(LIAR)],
            &[9; 32],
        );
        let (deal_round, deal) = me.unwrap().start(self.old.get(&party(LIAR))).unwrap();
        if round == DEAL {
            return deal;
        }
        let mut inbox = Inbox::new();
        self.run(|letter| {
            if letter.round == DEAL && letter.to == LIAR {
                inbox.insert(party(letter.sender), letter.wire.clone());
            }
        });
        deal_round.receive(&inbox).unwrap().1[&party(to)].to_vec()
    }
}

// Round 1: deals.

#[test]
fn one_commitment_too_many_or_too_few() {
    for scene in Scene::all() {
        scene.convicts(Fault::CommitmentCount, |letter| {
            if letter.is(DEAL, LIAR) {
                letter.edit(|deal| {
                    // A degree too high would raise the threshold: with proof and all, refused.
                    let last: Vec<u8> = deal[2..50].to_vec();
                    deal[1] += 1;
                    deal.splice(2..2, last);
                });
            }
        });
        scene.convicts(Fault::CommitmentCount, |letter| {
            if letter.is(DEAL, LIAR) {
                letter.edit(|deal| {
                    deal[1] -= 1;
                    drop(deal.drain(2..50));
                });
            }
        });
    }
}

#[test]
fn commitments_that_are_no_points() {
    let mut infinity = [0; 48];
    infinity[0] = 0xc0;
    for scene in Scene::all() {
        for bad in [off_subgroup(), infinity, [0; 48], [0xff; 48]] {
            scene.convicts(Fault::InvalidCommitment, |letter| {
                if letter.is(DEAL, LIAR) {
                    letter.edit(|deal| deal[2..50].copy_from_slice(&bad));
                }
            });
        }
    }
}

#[test]
fn a_wrong_proof_of_possession() {
    let scene = Scene::keygen();
    for at in [2 + 3 * 48 + 47, 2 + 4 * 48 + 31] {
        scene.convicts(Fault::Possession, |letter| {
            if letter.is(DEAL, LIAR) {
                letter.edit(|deal| deal[at] ^= 1);
            }
        });
    }
    // No proof at all.
    scene.convicts(Fault::Possession, |letter| {
        if letter.is(DEAL, LIAR) {
            letter.edit(|deal| deal.truncate(2 + 3 * 48));
        }
    });
}

#[test]
fn another_dealers_deal_does_not_pass_as_ones_own() {
    // A rushing dealer copies another's commitments and proof.
    let scene = Scene::keygen();
    let mut stolen = Vec::new();
    scene.run(|letter| {
        if letter.is(DEAL, 0) {
            stolen = letter.payload();
        }
    });
    scene.convicts(Fault::Possession, |letter| {
        if letter.is(DEAL, LIAR) {
            letter.sign(stolen.clone());
        }
    });
}

#[test]
fn a_proof_from_another_session_is_worthless() {
    let scene = Scene::keygen();
    let other = Setup::keygen(&scene.cast.occasion(b"another run"), 3).unwrap();
    let mut earlier = Vec::new();
    run(&scene.cast, &other, &BTreeMap::new(), |letter| {
        if letter.is(DEAL, LIAR) {
            earlier = letter.payload();
        }
    });
    scene.convicts(Fault::Possession, |letter| {
        if letter.is(DEAL, LIAR) {
            letter.sign(earlier.clone());
        }
    });
}

#[test]
fn a_message_replayed_from_another_run_is_not_signed_for_this_one() {
    for scene in Scene::all() {
        let other = Setup::keygen(&scene.cast.occasion(b"another run"), 3).unwrap();
        let mut replay = BTreeMap::new();
        run(&scene.cast, &other, &BTreeMap::new(), |letter| {
            replay.insert(
                (letter.round, letter.sender, letter.to),
                letter.wire.clone(),
            );
        });
        for round in [DEAL, CONFIRM] {
            let outcomes = scene.run(|letter| {
                if letter.is(round, LIAR) {
                    letter.wire = replay[&(round, LIAR, letter.to)].clone();
                }
            });
            let abort = verdict(&outcomes);
            assert_eq!(abort.blamed(), [party(LIAR)]);
            assert_eq!(abort.blames[0].fault, Fault::Unsigned);
            // Only the carrier, which knows who sent the bytes, can prove this.
            assert_eq!(abort.blames[0].evidence, None);
        }
    }
}

#[test]
fn a_reshare_of_something_else_than_the_share() {
    let scene = Scene::reshare();
    let lie = scene.alternative(DEAL, 0);
    let generator = hex::decode(
        "97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac58\
         6c55e83ff97a1aeffb3af00adb22c6bb",
    )
    .unwrap();
    assert_eq!(lie.len(), 2 + 3 * 48 + 64);
    scene.convicts(Fault::WrongConstant, |letter| {
        if letter.is(DEAL, LIAR) {
            letter.edit(|deal| deal[2..50].copy_from_slice(&generator));
        }
    });
}

#[test]
fn garbage_in_a_deal() {
    for scene in Scene::all() {
        for garbage in [vec![], vec![7], vec![0], vec![1]] {
            let fault = if garbage == [1] {
                Fault::CommitmentCount
            } else {
                Fault::Malformed
            };
            scene.convicts(fault, |letter| {
                if letter.is(DEAL, LIAR) {
                    letter.sign(garbage.clone());
                }
            });
        }
        scene.convicts(Fault::Malformed, |letter| {
            if letter.is(DEAL, LIAR) {
                letter.edit(|deal| deal.push(0));
            }
        });
    }
}

#[test]
fn a_deal_from_somebody_who_has_nothing_to_deal() {
    let cast = Cast::new(4);
    let old = only(keygen(&cast, 2), &[0, 2]);
    let setup = reshare_setup(&cast, &old, &[0, 2], &[1, 2, 3], 3);
    let mut deal = Vec::new();
    run(&cast, &setup, &old, |letter| {
        if letter.is(DEAL, 0) {
            deal = letter.payload();
        }
    });
    let outcomes = run(&cast, &setup, &old, |letter| {
        if letter.is(DEAL, LIAR) {
            letter.sign(deal.clone());
        }
    });
    convicts(&setup, &outcomes, Fault::Malformed);
}

// Round 2: shares.

#[test]
fn a_share_that_does_not_match() {
    for scene in Scene::all() {
        for victim in [2, 3] {
            scene.convicts(Fault::ShareMismatch, |letter| {
                if letter.is(SHARE, LIAR) && letter.to == victim {
                    letter.edit(|share| share[32] ^= 1);
                }
            });
        }
    }
}

#[test]
fn wrong_shares_for_everybody() {
    let scene = Scene::keygen();
    scene.convicts(Fault::ShareMismatch, |letter| {
        if letter.is(SHARE, LIAR) {
            letter.edit(|share| share[20] ^= 1);
        }
    });
}

#[test]
fn a_share_that_is_no_scalar() {
    for scene in Scene::all() {
        for garbage in [
            vec![],
            vec![0],
            vec![1; 32],
            vec![1; 34],
            [&[1][..], &[0xff; 32]].concat(),
        ] {
            scene.convicts(Fault::Malformed, |letter| {
                if letter.is(SHARE, LIAR) && letter.to == 2 {
                    letter.sign(garbage.clone());
                }
            });
        }
    }
}

#[test]
fn a_share_for_somebody_else() {
    // Party 3's share, properly signed for party 3, handed to party 2.
    let scene = Scene::keygen();
    let mut other = Vec::new();
    scene.run(|letter| {
        if letter.is(SHARE, LIAR) && letter.to == 3 {
            other = letter.wire.clone();
        }
    });
    let outcomes = scene.run(|letter| {
        if letter.is(SHARE, LIAR) && letter.to == 2 {
            letter.wire = other.clone();
        }
    });
    let abort = verdict(&outcomes);
    assert_eq!(abort.blames, []);
    assert_eq!(
        abort.disputes,
        [Dispute {
            accuser: party(2),
            accused: party(LIAR)
        }]
    );
}

#[test]
fn an_unsigned_share_is_a_dispute_for_all() {
    for scene in Scene::all() {
        let outcomes = scene.run(|letter| {
            if letter.is(SHARE, LIAR) && letter.to == 2 {
                letter.wire.pop();
            }
        });
        let abort = verdict(&outcomes);
        assert_eq!((abort.blames, abort.disputes.len()), (vec![], 1));
        assert_eq!(
            abort.disputes,
            [Dispute {
                accuser: party(2),
                accused: party(LIAR)
            }]
        );
    }
}

// Round 3: confirmations.

#[test]
fn different_deals_for_different_parties() {
    for scene in Scene::all() {
        let deal = scene.alternative(DEAL, 2);
        // Only the deal differs: the victim sees that its share does not fit.
        scene.convicts(Fault::ShareMismatch, |letter| {
            if letter.is(DEAL, LIAR) && letter.to == 2 {
                letter.wire = deal.clone();
            }
        });
        // Deal and share differ: everything fits until the confirmations are compared.
        let share = scene.alternative(SHARE, 2);
        let evidence = scene.convicts(Fault::Equivocation, |letter| {
            if letter.is(DEAL, LIAR) && letter.to == 2 {
                letter.wire = deal.clone();
            }
            if letter.is(SHARE, LIAR) && letter.to == 2 {
                letter.wire = share.clone();
            }
        });
        assert_eq!(
            evidence.as_bytes().len(),
            4 + 2 * 96,
            "proof without any deal"
        );
    }
}

#[test]
fn a_wrong_signature_under_the_certificate() {
    for scene in Scene::all() {
        scene.convicts(Fault::Certificate, |letter| {
            if letter.is(CONFIRM, LIAR) {
                letter.edit(|confirm| *confirm.last_mut().unwrap() ^= 1);
            }
        });
    }
}

#[test]
fn another_key_confirmed() {
    for scene in Scene::all() {
        let n = 4;
        scene.convicts(Fault::WrongKey, |letter| {
            if letter.is(CONFIRM, LIAR) {
                let mut payload = letter.payload();
                let key_at = 1 + n * 96;
                payload[key_at] ^= 1;
                let digests: Vec<u8> = (0..n)
                    .flat_map(|i| payload[1 + i * 96..][..32].to_vec())
                    .collect();
                let transcript =
                    sha256_of(&[b"junto-bls/1 transcript", letter.setup.digest(), &digests]);
                let text = sha256_of(&[
                    b"junto-bls/1 certificate",
                    letter.setup.digest(),
                    &transcript,
                    &payload[key_at..key_at + 32],
                ]);
                let signature = scene.cast.keys[usize::from(LIAR)].sign(&text);
                payload[key_at + 32..].copy_from_slice(&signature.0);
                letter.sign(payload);
            }
        });
    }
}

#[test]
fn a_forged_echo() {
    for scene in Scene::all() {
        // Claims that party 0 dealt something else: cannot be signed by party 0.
        scene.convicts(Fault::ForgedEcho, |letter| {
            if letter.is(CONFIRM, LIAR) {
                letter.edit(|confirm| confirm[1] ^= 1);
            }
        });
        scene.convicts(Fault::ForgedEcho, |letter| {
            if letter.is(CONFIRM, LIAR) {
                letter.edit(|confirm| confirm[40] ^= 1);
            }
        });
    }
}

#[test]
fn garbage_in_a_confirmation() {
    for scene in Scene::all() {
        for garbage in [vec![], vec![1], vec![3, 0], vec![9]] {
            scene.convicts(Fault::Malformed, |letter| {
                if letter.is(CONFIRM, LIAR) {
                    letter.sign(garbage.clone());
                }
            });
        }
        scene.convicts(Fault::Malformed, |letter| {
            if letter.is(CONFIRM, LIAR) {
                letter.edit(|confirm| confirm.push(0));
            }
        });
    }
}

#[test]
fn a_false_complaint_falls_back_on_the_accuser() {
    for scene in Scene::all() {
        for bytes in [vec![], vec![2], vec![2; 300], vec![4, 4, 4]] {
            scene.convicts(Fault::FalseComplaint, |letter| {
                if letter.is(CONFIRM, LIAR) {
                    letter.sign([&[2][..], &bytes].concat());
                }
            });
        }
        // A complaint about a perfectly good share.
        let (deal, share) = wires(&scene, 0, LIAR);
        scene.convicts(Fault::FalseComplaint, |letter| {
            if letter.is(CONFIRM, LIAR) {
                letter.sign([&[2][..], &share_case((0, &deal), (0, LIAR, &share))].concat());
            }
        });
    }
}

#[test]
fn a_dispute_from_somebody_who_expects_no_share() {
    let scene = Scene::reshare();
    let mut seals = Vec::new();
    scene.run(|letter| {
        if letter.is(CONFIRM, LIAR) {
            seals = letter.payload()[1..1 + 4 * 96].to_vec();
        }
    });
    // Party 2 deals nothing, so it owes nobody a share; nobody owes oneself one.
    for accused in [2, 3, LIAR] {
        scene.convicts(Fault::Malformed, |letter| {
            if letter.is(CONFIRM, LIAR) {
                letter.sign([&[3][..], &seals, &[accused]].concat());
            }
        });
    }
}

#[test]
fn an_invented_dispute_names_both() {
    let scene = Scene::keygen();
    let outcomes = scene.run(|letter| {
        if letter.is(CONFIRM, LIAR) {
            letter.edit(|confirm| {
                confirm[0] = 3;
                confirm.truncate(1 + 4 * 96);
                confirm.push(0);
            });
        }
    });
    let abort = verdict(&outcomes);
    assert_eq!(abort.blames, []);
    assert_eq!(
        abort.disputes,
        [Dispute {
            accuser: party(LIAR),
            accused: party(0)
        }]
    );
}

#[test]
fn several_liars_are_all_named() {
    let scene = Scene::keygen();
    let outcomes = scene.run(|letter| {
        if letter.is(DEAL, LIAR) {
            letter.edit(|deal| deal[1] = 9);
        }
        if letter.is(DEAL, 3) {
            letter.edit(|deal| deal[2 + 3 * 48 + 60] ^= 1);
        }
    });
    assert_eq!(
        verdict_without(&[1, 3], &outcomes).blamed(),
        [party(1), party(3)]
    );
}

#[test]
fn success_told_to_some_and_failure_to_others_does_not_split_the_key() {
    // On a carrier without reliable broadcast: party 2 is told garbage, the others the truth.
    let scene = Scene::refresh();
    let mut inboxes = [Inbox::new(), Inbox::new(), Inbox::new()];
    let mut outcomes = scene.run(|letter| {
        if letter.is(CONFIRM, LIAR) && letter.to == 2 {
            letter.sign(vec![9]);
        }
        if letter.to == 2 {
            let inbox = &mut inboxes[usize::from(letter.round) - 1];
            inbox.insert(party(letter.sender), letter.wire.clone());
        }
    });
    let Err(RunError::Abort(abort)) = &outcomes[2] else {
        panic!("{:?}", outcomes[2])
    };
    assert_eq!(abort.blamed(), [party(LIAR)]);
    let (_, certificate) = outcomes.remove(0).unwrap();
    // Party 2 keeps its pending epoch and the old one, until somebody shows it the certificate.
    let me = Participant::new(&scene.setup, party(2), &scene.cast.keys[2], &seed(2)).unwrap();
    let (round, _) = me.start(Some(&scene.old[&party(2)])).unwrap();
    let (round, _) = round.receive(&inboxes[0]).unwrap();
    let (mut round, _) = round.receive(&inboxes[1]).unwrap();
    assert!(round.receive(&inboxes[2]).is_err());
    let epoch = round
        .take_pending()
        .unwrap()
        .activate(&certificate)
        .unwrap();
    assert_eq!(epoch.share.unwrap().public(), certificate.key());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever a party signs and sends: either the run succeeds for all with one key, or all
    /// honest parties abort alike, and no honest party is ever blamed.
    #[test]
    fn no_lie_harms_an_honest_party(
        task in 0usize..3, round in DEAL..=CONFIRM, at: prop::sample::Index, mask in 1u8..,
        cut in proptest::option::of(any::<prop::sample::Index>()), signed in any::<bool>(),
    ) {
        let scene = Scene::all().into_iter().nth(task).unwrap();
        let outcomes = scene.run(|letter| {
            if !letter.is(round, LIAR) {
                return;
            }
            let change = |bytes: &mut Vec<u8>| {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
                if let Some(cut) = &cut {
                    bytes.truncate(cut.index(bytes.len() + 1));
                }
            };
            if signed { letter.edit(change) } else { change(&mut letter.wire) }
        });
        if outcomes[0].is_ok() {
            let keys: Vec<_> = [0, 2, 3].map(|i| outcomes[i].as_ref().unwrap().0.key.digest()).into();
            prop_assert!(keys.iter().all(|key| *key == keys[0]));
        } else {
            let abort = verdict(&outcomes);
            prop_assert!(abort.blamed().iter().all(|blamed| *blamed == party(LIAR)), "{}", abort);
            for blame in &abort.blames {
                match &blame.evidence {
                    Some(evidence) => third_party(&scene.setup, evidence, blame.fault),
                    None => prop_assert_eq!(blame.fault, Fault::Unsigned),
                }
            }
            prop_assert!(abort.disputes.iter().all(|d| d.accused == party(LIAR)));
        }
    }

    /// Bytes that start like evidence never convict anybody who did not sign them.
    #[test]
    fn invented_evidence_proves_nothing(
        kind in 0u8..6, bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let setup = Cast::new(4).keygen(3);
        worthless(&setup, [&[kind][..], &bytes].concat());
    }
}

// Evidence against honest parties.

/// The wire bytes of party `from`: its deal, and its share for `to`.
fn wires(scene: &Scene, from: u8, to: u8) -> (Vec<u8>, Vec<u8>) {
    let (mut deal, mut share) = (Vec::new(), Vec::new());
    scene.run(|letter| {
        if letter.is(DEAL, from) {
            deal = letter.wire.clone();
        }
        if letter.is(SHARE, from) && letter.to == to {
            share = letter.wire.clone();
        }
    });
    (deal, share)
}

fn field(slot: [u8; 3], wire: &[u8]) -> Vec<u8> {
    [&slot[..], &(wire.len() as u32).to_be_bytes(), wire].concat()
}

fn share_case(deal: (u8, &[u8]), share: (u8, u8, &[u8])) -> Vec<u8> {
    let deal = field([DEAL, deal.0, 0xff], deal.1);
    [vec![2], deal, field([SHARE, share.0, share.1], share.2)].concat()
}

fn worthless(setup: &Setup, bytes: Vec<u8>) {
    assert_eq!(Evidence::from_bytes(bytes).verify(setup), Err(NotProven));
}

#[test]
fn honest_messages_prove_nothing() {
    for scene in Scene::all() {
        let mut all = Vec::new();
        scene.run(|letter| {
            let to = if letter.round == SHARE {
                letter.to
            } else {
                0xff
            };
            all.push(([letter.round, letter.sender, to], letter.wire.clone()));
        });
        for (slot, wire) in &all {
            worthless(&scene.setup, [vec![1], field(*slot, wire)].concat());
            // In another place they are not even signed.
            worthless(
                &scene.setup,
                [vec![1], field([slot[0], (slot[1] + 1) % 4, slot[2]], wire)].concat(),
            );
            let digest = junto_crypto::hash::sha256(&wire[..wire.len() - 64]);
            let seal = [&digest[..], &wire[wire.len() - 64..]].concat();
            worthless(&scene.setup, [&[3][..], slot, &seal, &seal].concat());
        }
        let deals: Vec<_> = all.iter().filter(|(slot, _)| slot[0] == DEAL).collect();
        for (slot, share) in all.iter().filter(|(slot, _)| slot[0] == SHARE) {
            for (dealer, deal) in &deals {
                worthless(
                    &scene.setup,
                    share_case((dealer[1], deal), (slot[1], slot[2], share)),
                );
            }
        }
        for (confirm, wire) in all.iter().filter(|(slot, _)| slot[0] == CONFIRM) {
            let mut case = [vec![4], field(*confirm, wire), vec![4]].concat();
            for dealer in 0..4 {
                let (slot, deal) = deals.iter().find(|(slot, _)| slot[1] == dealer).unwrap();
                case.extend(field(*slot, deal));
            }
            worthless(&scene.setup, case);
        }
    }
}

#[test]
fn the_share_of_one_run_does_not_convict_in_another() {
    // The same dealer, two runs: a deal of the one and a share of the other do not match, which
    // proves nothing since neither signature counts in the other run.
    let scene = Scene::keygen();
    let other = Setup::keygen(&scene.cast.occasion(b"other"), 3).unwrap();
    let other = Scene {
        cast: Cast::new(4),
        setup: other,
        old: BTreeMap::new(),
    };
    let (deal, _) = wires(&scene, 0, 2);
    let (_, share) = wires(&other, 0, 2);
    for setup in [&scene.setup, &other.setup] {
        worthless(setup, share_case((0, &deal), (0, 2, &share)));
    }
}

#[test]
fn a_forger_cannot_sign_for_its_victim() {
    let scene = Scene::keygen();
    let payload = vec![9];
    for (forger, victim) in [(LIAR, 0u8), (2, 3)] {
        let text = signed_text(&scene.setup, DEAL, victim, 0xff, &payload);
        let signature = scene.cast.keys[usize::from(forger)].sign(&text).0;
        let wire = [payload.clone(), signature.to_vec()].concat();
        worthless(
            &scene.setup,
            [vec![1], field([DEAL, victim, 0xff], &wire)].concat(),
        );
    }
}

#[test]
fn a_second_deal_does_not_convict_those_who_confirmed_the_first() {
    // The liar signs two deals, shows party 0 the first, and presents party 0's confirmation with
    // the second, from which another key follows.
    let scene = Scene::keygen();
    let (mut confirm, mut deals) = (Vec::new(), vec![Vec::new(); 4]);
    scene.run(|letter| {
        if letter.is(CONFIRM, 0) {
            confirm = letter.wire.clone();
        }
        if letter.round == DEAL {
            deals[usize::from(letter.sender)] = letter.wire.clone();
        }
    });
    deals[usize::from(LIAR)] = scene.alternative(DEAL, 0);
    let case = |deals: &[Vec<u8>]| {
        let mut case = [vec![4], field([CONFIRM, 0, 0xff], &confirm)].concat();
        case.push(deals.len() as u8);
        for (dealer, deal) in (0..).zip(deals) {
            case.extend(field([DEAL, dealer, 0xff], deal));
        }
        case
    };
    worthless(&scene.setup, case(&deals));
    // Nor with fewer deals than it acknowledges.
    worthless(&scene.setup, case(&deals[..1]));
    worthless(&scene.setup, case(&[]));
}

#[test]
fn equivocation_takes_two_genuine_seals() {
    let scene = Scene::keygen();
    let (deal, _) = wires(&scene, 0, 2);
    let (payload, signature) = deal.split_at(deal.len() - 64);
    let genuine = [&sha256_of(&[payload])[..], signature].concat();
    let low = [[0; 32].as_slice(), signature].concat();
    let high = [[0xff; 32].as_slice(), signature].concat();
    for (first, second) in [(&low, &genuine), (&genuine, &high), (&low, &high)] {
        worthless(
            &scene.setup,
            [&[3, DEAL, 0, 0xff][..], first, second].concat(),
        );
    }
}

#[test]
fn complaints_carry_one_kind_of_evidence() {
    // Genuine evidence of another kind, even against oneself, is no complaint: nothing nests.
    let scene = Scene::keygen();
    let other = scene.convicts(Fault::Malformed, |letter| {
        if letter.is(CONFIRM, LIAR) {
            letter.sign(vec![9]);
        }
    });
    let evidence = scene.convicts(Fault::FalseComplaint, |letter| {
        if letter.is(CONFIRM, LIAR) {
            letter.sign([&[2][..], other.as_bytes()].concat());
        }
    });
    scene.convicts(Fault::FalseComplaint, |letter| {
        if letter.is(CONFIRM, LIAR) {
            letter.sign([&[2][..], evidence.as_bytes()].concat());
        }
    });
}

#[test]
fn damaged_evidence_never_accuses_anybody_else() {
    let scene = Scene::keygen();
    let evidence = scene.convicts(Fault::ShareMismatch, |letter| {
        if letter.is(SHARE, LIAR) && letter.to == 2 {
            letter.edit(|share| share[32] ^= 1);
        }
    });
    let bytes = evidence.as_bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x41;
        worthless(&scene.setup, damaged);
        worthless(&scene.setup, bytes[..at].to_vec());
    }
    worthless(&scene.setup, [bytes, &[0]].concat());
    // Nor does it mean anything under another setup.
    worthless(
        &Setup::keygen(&scene.cast.occasion(b"other"), 3).unwrap(),
        bytes.to_vec(),
    );
    worthless(
        &Setup::keygen(&scene.cast.occasion(b"keygen"), 2).unwrap(),
        bytes.to_vec(),
    );
    assert!(
        run(&scene.cast, &scene.setup, &scene.old, honest)
            .iter()
            .all(Result::is_ok)
    );
}
