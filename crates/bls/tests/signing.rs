//! Signing with parties that send wrong parts, and agreement with published signatures.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::collections::BTreeMap;

use junto_bls::{
    CombineError, Evidence, Fault, Inbox, KeyShare, NotProven, PartialSignature, Participant,
    PartyIndex, PublicKey, Setup, ShareIndex, SignError, SignOutcome, Signature, combine,
    partial_sign, verify,
};
use proptest::prelude::*;
use stage::{Cast, SIGN, holder, keygen, party, seed, signed_text};

type Shares = BTreeMap<PartyIndex, KeyShare>;

fn parts(shares: &Shares, message: &[u8]) -> BTreeMap<ShareIndex, PartialSignature> {
    shares
        .values()
        .map(|share| (share.index(), partial_sign(share, message)))
        .collect()
}

#[test]
fn culprits_are_found_and_the_signature_made_anyway() {
    let shares = keygen(&Cast::new(7), 3);
    let key = shares[&party(0)].public();
    let right = parts(&shares, b"m");
    let expected = combine(key, b"m", &right).unwrap().signature;
    let other = parts(&shares, b"another message");
    // Every set of wrong parts.
    for set in 0u8..1 << 7 {
        let culprits: Vec<ShareIndex> = (1..=7)
            .filter(|i| set >> (i - 1) & 1 == 1)
            .map(holder)
            .collect();
        let mut given = right.clone();
        for culprit in &culprits {
            given.insert(*culprit, other[culprit]);
        }
        let result = combine(key, b"m", &given);
        if culprits.iter().all(|i| i.value() > 3) {
            // The first three were enough; nobody looked further.
            assert_eq!(result.unwrap().culprits, []);
        } else if culprits.len() <= 4 {
            let combined = result.unwrap();
            assert_eq!(
                (combined.signature, combined.culprits),
                (expected, culprits)
            );
        } else {
            let valid = 7 - culprits.len();
            assert_eq!(
                result,
                Err(CombineError::TooFew {
                    valid,
                    required: 3,
                    culprits
                })
            );
        }
    }
}

#[test]
fn parts_that_cancel_each_other_out() {
    // Two holders swap their parts: their sum is right, each part is wrong.
    let shares = keygen(&Cast::new(5), 3);
    let key = shares[&party(0)].public();
    let mut given = parts(&shares, b"m");
    let (first, second) = (given[&holder(1)], given[&holder(2)]);
    given.insert(holder(1), second);
    given.insert(holder(2), first);
    let combined = combine(key, b"m", &given).unwrap();
    assert_eq!(combined.culprits, [holder(1), holder(2)]);
}

#[test]
fn points_outside_the_group_and_infinity() {
    let shares = keygen(&Cast::new(4), 2);
    let key = shares[&party(0)].public();
    let mut given = parts(&shares, b"m");
    let stray = PartialSignature::from_bytes(&off_subgroup()).unwrap();
    assert!(Signature::from_bytes(&off_subgroup()).is_err());
    given.insert(holder(1), stray);
    assert_eq!(combine(key, b"m", &given).unwrap().culprits, [holder(1)]);
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    assert!(PartialSignature::from_bytes(&infinity).is_err());
    let bytes = given[&holder(2)].to_bytes();
    for wrong in [
        &bytes[..95],
        &[&bytes[..], &[0]].concat(),
        &[0; 96],
        &[0xff; 96],
        &[],
    ] {
        assert!(PartialSignature::from_bytes(wrong).is_err());
        assert!(Signature::from_bytes(wrong).is_err());
    }
}

#[test]
fn a_right_part_with_a_stray_component_is_a_wrong_part() {
    use blst::{MultiPoint, blst_p2_affine, min_pk, min_sig};
    // r times a stray point lies wholly outside G2; a pairing may not see it.
    let mut order =
        hex::decode("73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001").unwrap();
    order.reverse();
    let stray = min_sig::PublicKey::from(blst_p2_affine::from(
        min_pk::Signature::from_bytes(&off_subgroup()).unwrap(),
    ));
    let mut sum = [stray].as_slice().mult(&order, 255);
    let shares = keygen(&Cast::new(5), 3);
    let mut given = parts(&shares, b"m");
    let right = min_pk::Signature::from_bytes(&given[&holder(2)].to_bytes()).unwrap();
    sum.add_public_key(
        &min_sig::PublicKey::from(blst_p2_affine::from(right)),
        false,
    )
    .unwrap();
    let wrong = min_pk::Signature::from(blst_p2_affine::from(sum.to_public_key())).compress();
    assert_ne!(wrong, right.compress());
    given.insert(holder(2), PartialSignature::from_bytes(&wrong).unwrap());
    let key = shares[&party(0)].public();
    let combined = combine(key, b"m", &given).unwrap();
    assert_eq!(combined.culprits, [holder(2)]);
    assert!(!given[&holder(2)].verify(key, holder(2), b"m"));
    assert!(given[&holder(3)].verify(key, holder(3), b"m"));
}

/// A point of E2 outside G2: the first small x that lies on the curve.
fn off_subgroup() -> [u8; 96] {
    (1u8..)
        .map(|x| {
            let mut bytes = [0; 96];
            (bytes[0], bytes[95]) = (0x80, x);
            bytes
        })
        .find(|bytes| {
            blst::min_pk::Signature::from_bytes(bytes).is_ok_and(|point| !point.subgroup_check())
        })
        .unwrap()
}

struct Scene {
    cast: Cast,
    shares: Shares,
    setup: Setup,
}

impl Scene {
    fn new() -> Self {
        let cast = Cast::new(5);
        let shares = keygen(&cast, 3);
        // Party 4 only listens.
        let signers = (0..4).map(|i| (party(i), holder(i + 1))).collect();
        let key = shares[&party(0)].public().clone();
        let setup = Setup::sign(&cast.occasion(b"sign"), key, signers, b"message").unwrap();
        Self {
            cast,
            shares,
            setup,
        }
    }

    fn participant(&self, me: u8) -> Participant<'_> {
        Participant::new(
            &self.setup,
            party(me),
            &self.cast.keys[usize::from(me)],
            &seed(me),
        )
        .unwrap()
    }

    fn broadcasts(&self) -> Inbox {
        (0..4)
            .map(|me| {
                let share = Some(&self.shares[&party(me)]);
                (
                    party(me),
                    self.participant(me).sign(share).unwrap().1.unwrap(),
                )
            })
            .collect()
    }

    /// Everybody's result.
    fn results(&self, inbox: &Inbox) -> Vec<Result<SignOutcome, SignError>> {
        (0..5)
            .map(|me| {
                let share = (me < 4).then(|| &self.shares[&party(me)]);
                self.participant(me).sign(share).unwrap().0.receive(inbox)
            })
            .collect()
    }

    fn resign(&self, who: u8, payload: &[u8]) -> Vec<u8> {
        let text = signed_text(&self.setup, SIGN, who, 0xff, payload);
        [payload, &self.cast.keys[usize::from(who)].sign(&text).0].concat()
    }
}

#[test]
fn one_hop_for_signers_and_listeners() {
    let scene = Scene::new();
    let mut inbox = scene.broadcasts();
    let key = scene.shares[&party(0)].public().public_key();
    for result in scene.results(&inbox) {
        let outcome = result.unwrap();
        assert!(verify(&key, b"message", &outcome.signature));
        assert!(outcome.blames.is_empty());
    }
    // Any t messages are enough: one's own and two more.
    inbox.retain(|party, _| party.value() < 2);
    let results = scene.results(&inbox);
    assert!(results[2].is_ok() && results[3].is_ok());
    let too_few = SignError::TooFew {
        valid: 2,
        required: 3,
        blames: vec![],
    };
    assert_eq!(results[0], Err(too_few.clone()));
    assert_eq!(results[4], Err(too_few));
}

#[test]
fn a_wrong_part_is_named_with_evidence_and_does_not_stop_the_rest() {
    let scene = Scene::new();
    let wrong = partial_sign(&scene.shares[&party(1)], b"another message").to_bytes();
    for (payload, fault) in [
        (wrong.to_vec(), Fault::PartialSignature),
        (off_subgroup().to_vec(), Fault::PartialSignature),
        (
            partial_sign(&scene.shares[&party(2)], b"message")
                .to_bytes()
                .to_vec(),
            Fault::PartialSignature,
        ),
        (vec![0; 96], Fault::Malformed),
        (vec![], Fault::Malformed),
    ] {
        let mut inbox = scene.broadcasts();
        inbox.insert(party(1), scene.resign(1, &payload));
        for (me, result) in scene
            .results(&inbox)
            .into_iter()
            .enumerate()
            .filter(|(me, _)| *me != 1)
        {
            let outcome = result.unwrap();
            let [blame] = &outcome.blames[..] else {
                panic!("party {me}: {:?}", outcome.blames)
            };
            assert_eq!((blame.party, blame.fault), (party(1), fault));
            let evidence = blame.evidence.as_ref().unwrap().as_bytes().to_vec();
            let known = Setup::decode(&scene.setup.encode()).unwrap();
            assert_eq!(
                Evidence::from_bytes(evidence).verify(&known),
                Ok((party(1), fault))
            );
        }
    }
    let mut inbox = scene.broadcasts();
    inbox.insert(party(1), scene.broadcasts()[&party(2)].clone());
    let outcome = scene.results(&inbox)[0].clone().unwrap();
    assert_eq!(
        (outcome.blames[0].party, outcome.blames[0].fault),
        (party(1), Fault::Unsigned)
    );
}

#[test]
fn a_right_part_proves_nothing_and_one_for_another_message_counts_only_there() {
    let scene = Scene::new();
    let evidence = |wire: &[u8]| {
        let length = (wire.len() as u32).to_be_bytes();
        Evidence::from_bytes([&[1, SIGN, 1, 0xff][..], &length, wire].concat())
    };
    assert_eq!(
        evidence(&scene.broadcasts()[&party(1)]).verify(&scene.setup),
        Err(NotProven)
    );
    let signers = (0..4).map(|i| (party(i), holder(i + 1))).collect();
    let key = scene.shares[&party(0)].public().clone();
    let other = Setup::sign(&scene.cast.occasion(b"sign"), key, signers, b"other").unwrap();
    let me = Participant::new(&other, party(1), &scene.cast.keys[1], &seed(1)).unwrap();
    let wire = me.sign(Some(&scene.shares[&party(1)])).unwrap().1.unwrap();
    assert_eq!(evidence(&wire).verify(&scene.setup), Err(NotProven));
    assert_eq!(evidence(&wire).verify(&other), Err(NotProven));
}

/// Known answers of the Ethereum consensus test vectors (bls/sign, bls/verify; public facts), from
/// `vectors/bls/ethereum.json`.
#[derive(serde::Deserialize)]
struct Known {
    secret: String,
    public_key: String,
    message: String,
    signature: String,
}

#[test]
fn published_signatures() {
    let known: Vec<Known> =
        serde_json::from_str(include_str!("../../../vectors/bls/ethereum.json")).unwrap();
    assert!(known.len() >= 3);
    for Known {
        secret,
        public_key,
        message,
        signature,
    } in known
    {
        let bytes = |text: &str| hex::decode(text.trim_start_matches("0x")).unwrap();
        let key = PublicKey::from_bytes(&bytes(&public_key)).unwrap();
        let signature = Signature::from_bytes(&bytes(&signature)).unwrap();
        let mut message = bytes(&message);
        assert!(verify(&key, &message, &signature));
        let direct = blst::min_pk::SecretKey::from_bytes(&bytes(&secret)).unwrap();
        assert_eq!(direct.sk_to_pk().to_bytes(), key.to_bytes());
        let suite = junto_bls::CIPHERSUITE.as_bytes();
        assert_eq!(
            direct.sign(&message, suite, &[]).to_bytes(),
            signature.to_bytes()
        );
        message[0] ^= 1;
        assert!(!verify(&key, &message, &signature));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_wrong_parts_are_the_culprits(wrong: u16, t in 2u8..=6) {
        let n = 11;
        let shares = keygen(&Cast::new(n), t);
        let key = shares[&party(0)].public();
        let other = parts(&shares, b"x");
        let mut given = parts(&shares, b"m");
        let culprits: Vec<_> = (1..=n).filter(|i| wrong >> i & 1 == 1).map(holder).collect();
        for culprit in &culprits {
            given.insert(*culprit, other[culprit]);
        }
        match combine(key, b"m", &given) {
            Ok(combined) => {
                prop_assert!(verify(&key.public_key(), b"m", &combined.signature));
                let seen = culprits.iter().any(|i| i.value() <= t);
                prop_assert_eq!(combined.culprits, if seen { culprits } else { vec![] });
            }
            Err(error) => {
                let valid = usize::from(n) - culprits.len();
                prop_assert!(valid < usize::from(t));
                prop_assert_eq!(error, CombineError::TooFew { valid, required: t.into(), culprits });
            }
        }
    }
}
