//! Runs in which nobody lies: every t of n, signatures, refresh, reshare, restarts.

#![allow(clippy::unwrap_used)]

mod stage;

use std::collections::{BTreeMap, BTreeSet};

use junto_bls::{
    CIPHERSUITE, Certificate, CertificateError, CombineError, Inbox, KeyPublic, KeyShare, Misuse,
    Participant, PartyIndex, Pending, Setup, SetupError, Threshold, combine, partial_sign, verify,
};
use proptest::prelude::*;
use stage::{
    Cast, holder, honest, keygen, only, party, refresh_setup, reshare_setup, run, seed, succeed,
};

type Shares = BTreeMap<PartyIndex, KeyShare>;

/// Signs with the shares of `signers` and checks the result as an outsider.
fn sign(shares: &Shares, signers: &[u8], message: &[u8]) -> [u8; 96] {
    let key = shares.values().next().unwrap().public();
    let parts = signers
        .iter()
        .map(|i| &shares[&party(*i)])
        .map(|share| (share.index(), partial_sign(share, message)))
        .collect();
    let combined = combine(key, message, &parts).unwrap();
    assert!(combined.culprits.is_empty());
    assert!(verify(&key.public_key(), message, &combined.signature));
    assert!(!verify(
        &key.public_key(),
        b"another message",
        &combined.signature
    ));
    let outside = blst::min_pk::PublicKey::key_validate(&key.public_key().to_bytes()).unwrap();
    let bytes = combined.signature.to_bytes();
    let result = blst::min_pk::Signature::sig_validate(&bytes, true)
        .unwrap()
        .verify(true, message, CIPHERSUITE.as_bytes(), &[], &outside, true);
    assert_eq!(result, blst::BLST_ERROR::BLST_SUCCESS);
    bytes
}

#[test]
fn every_threshold_up_to_five() {
    for n in 2..=5u8 {
        let cast = Cast::new(n);
        for t in 2..=n {
            let shares = keygen(&cast, t);
            assert_eq!(shares.len(), usize::from(n));
            let keys: BTreeSet<_> = shares.values().map(|s| s.public().digest()).collect();
            assert_eq!(keys.len(), 1);
            let mut signatures = BTreeSet::new();
            for set in 1u8..1 << n {
                let signers: Vec<u8> = (0..n).filter(|i| set >> i & 1 == 1).collect();
                if signers.len() >= usize::from(t) {
                    signatures.insert(sign(&shares, &signers, b"message"));
                }
            }
            assert_eq!(
                signatures.len(),
                1,
                "every set of signers makes the same signature"
            );
        }
    }
}

#[test]
fn too_few_parts_sign_nothing() {
    let shares = keygen(&Cast::new(4), 3);
    let parts: BTreeMap<_, _> = shares
        .values()
        .take(2)
        .map(|share| (share.index(), partial_sign(share, b"m")))
        .collect();
    let key = shares[&party(0)].public();
    let expected = CombineError::TooFew {
        valid: 2,
        required: 3,
        culprits: vec![],
    };
    assert_eq!(combine(key, b"m", &parts), Err(expected));
    let stranger = BTreeMap::from([(holder(5), *parts.values().next().unwrap())]);
    assert_eq!(
        combine(key, b"m", &stranger),
        Err(CombineError::UnknownHolder(holder(5)))
    );
}

#[test]
fn largest_group() {
    let cast = Cast::new(64);
    let shares = keygen(&cast, 2);
    sign(&shares, &[0, 63], b"message");
    sign(&shares, &[40, 17], b"message");
}

#[test]
fn a_wide_threshold() {
    let cast = Cast::new(12);
    let shares = keygen(&cast, 11);
    sign(&shares, &[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11], b"message");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let cast = Cast::new(3);
    let setup = cast.keygen(2);
    let record = || {
        let mut messages = Vec::new();
        run(&cast, &setup, &BTreeMap::new(), |letter| {
            messages.push(letter.wire.clone())
        });
        messages
    };
    assert_eq!(record(), record());
    // Another label: nothing is the same but the empty places.
    let other = Setup::keygen(&cast.occasion(b"again"), 2).unwrap();
    let mut seen: BTreeSet<Vec<u8>> = record().into_iter().collect();
    run(&cast, &other, &BTreeMap::new(), |letter| {
        assert!(!seen.contains(&letter.wire))
    });
    seen.clear();
}

/// What a party stored before it confirmed takes up that run, with those deals, and no other.
#[test]
fn a_run_is_taken_up_with_the_deals_that_were_confirmed() {
    let cast = Cast::new(2);
    let setup = cast.keygen(2);
    let start = |me: u8, seed: u8| {
        let key = &cast.keys[usize::from(me)];
        let party = Participant::new(&setup, party(me), key, &[seed; 32]).unwrap();
        party.start(None).unwrap()
    };
    let from = |me: u8, wire: &[u8]| Inbox::from([(party(me), wire.to_vec())]);
    let ((one, one_deal), (other, deal)) = (start(0, 1), start(1, 2));
    let (one, _) = one.receive(&from(1, &deal)).unwrap();
    let (_, shares) = other.receive(&from(0, &one_deal)).unwrap();
    let (mut one, confirms) = one.receive(&from(1, &shares[&party(0)])).unwrap();
    let pending = one.take_pending().unwrap();
    let again = |setup: &Setup, me: u8, deals: &Inbox| {
        let key = &cast.keys[usize::from(me)];
        let party = Participant::new(setup, party(me), key, &[0; 32]).unwrap();
        party.resume(&pending, deals).map(|(_, said)| said)
    };
    assert_eq!(again(&setup, 0, &from(1, &deal)), Ok(confirms));
    let missing = Err(Misuse::Missing(party(1)));
    assert_eq!(again(&setup, 0, &Inbox::new()), missing);
    let (_, another) = start(1, 3);
    for wrong in [&another[..], &one_deal, &deal[..deal.len() - 1], b""] {
        assert_eq!(again(&setup, 0, &from(1, wrong)), Err(Misuse::Deals));
    }
    assert_eq!(again(&setup, 1, &from(0, &one_deal)), Err(Misuse::Deals));
    let other = Setup::keygen(&cast.occasion(b"again"), 2).unwrap();
    assert_eq!(again(&other, 0, &from(1, &deal)), Err(Misuse::Deals));
}

#[test]
fn refresh_keeps_the_key_and_replaces_every_share() {
    let cast = Cast::new(4);
    let old = keygen(&cast, 3);
    let before = sign(&old, &[0, 1, 2], b"message");
    let setup = refresh_setup(&cast, &old);
    let new = succeed(&cast, &setup, &old);
    assert_eq!(new[&party(0)].public().epoch(), 1);
    assert_eq!(
        new[&party(0)].public().public_key(),
        old[&party(0)].public().public_key()
    );
    assert_eq!(sign(&new, &[1, 2, 3], b"message"), before);
    for (party, share) in &new {
        assert_ne!(*share.encode(), *old[party].encode());
    }
    // Shares of two epochs do not mix.
    let parts = BTreeMap::from([
        (holder(1), partial_sign(&old[&party(0)], b"message")),
        (holder(2), partial_sign(&new[&party(1)], b"message")),
        (holder(3), partial_sign(&new[&party(2)], b"message")),
    ]);
    let expected = CombineError::TooFew {
        valid: 2,
        required: 3,
        culprits: vec![holder(1)],
    };
    assert_eq!(
        combine(new[&party(0)].public(), b"message", &parts),
        Err(expected)
    );
    // And once more.
    let again = succeed(&cast, &refresh_setup(&cast, &new), &new);
    assert_eq!(sign(&again, &[0, 2, 3], b"message"), before);
}

#[test]
fn reshare_to_other_parties_and_thresholds() {
    let cast = Cast::new(6);
    let trio = {
        // A key of parties 0..3 among six: made by three, then used in the session of six.
        let three = Cast::new(3);
        keygen(&three, 2)
    };
    let before = sign(&trio, &[0, 2], b"message");
    for (dealers, holders, required) in [
        (&[0u8, 2][..], &[1u8, 3, 4, 5][..], 3u8),
        (&[0, 1, 2], &[0, 1, 2, 3, 4, 5], 4),
        (&[1, 2], &[4, 5], 2),
        (&[0, 1], &[0, 1, 2], 3),
    ] {
        let setup = reshare_setup(&cast, &trio, dealers, holders, required);
        let old = only(copy(&trio), dealers);
        let new = succeed(&cast, &setup, &old);
        assert_eq!(new.keys().map(|p| p.value()).collect::<Vec<_>>(), holders);
        let signers = &holders[holders.len() - usize::from(required)..];
        assert_eq!(sign(&new, signers, b"message"), before);
        let threshold = Threshold::new(required, holders.len() as u8).unwrap();
        assert_eq!(new[&party(holders[0])].public().threshold(), threshold);
    }
}

fn copy(shares: &Shares) -> Shares {
    shares
        .iter()
        .map(|(p, s)| (*p, KeyShare::decode(&s.encode()).unwrap()))
        .collect()
}

#[test]
fn stored_values_come_back_and_nothing_else_does() {
    let cast = Cast::new(3);
    let setup = cast.keygen(2);
    let (epoch, certificate) = run(&cast, &setup, &BTreeMap::new(), honest)
        .remove(0)
        .unwrap();
    let share = epoch.share.unwrap();
    let bytes = share.encode();
    let back = KeyShare::decode(&bytes).unwrap();
    assert_eq!(*back.encode(), *bytes);
    assert_eq!(KeyPublic::decode(&epoch.key.encode()).unwrap(), epoch.key);
    assert_eq!(Setup::decode(&setup.encode()).unwrap(), setup);
    assert_eq!(
        Certificate::decode(&certificate.encode()).unwrap(),
        certificate
    );
    for at in 0..bytes.len() {
        let mut wrong = bytes.to_vec();
        wrong[at] ^= 1;
        // Only the epoch and the number of holders are not bound to the rest.
        let free = (1..9).contains(&at) || at == 10;
        assert!(KeyShare::decode(&wrong).is_err() || free, "byte {at}");
        assert!(KeyShare::decode(&bytes[..at]).is_err());
    }
    assert!(KeyShare::decode(&[&bytes[..], &[0]].concat()).is_err());
    let encoded = certificate.encode();
    for cut in 0..encoded.len() {
        assert!(Certificate::decode(&encoded[..cut]).is_err());
    }
}

#[test]
fn a_certificate_convinces_outsiders_and_latecomers() {
    let cast = Cast::new(3);
    let setup = cast.keygen(2);
    let (_, certificate) = run(&cast, &setup, &BTreeMap::new(), honest)
        .remove(2)
        .unwrap();
    certificate.verify().unwrap();
    assert_eq!(certificate.setup().roster(), cast.roster);
    let mut bytes = certificate.encode();
    *bytes.last_mut().unwrap() ^= 1;
    let forged = Certificate::decode(&bytes).unwrap();
    assert_eq!(forged.verify(), Err(CertificateError::Signature(party(2))));
    // One of another run.
    let other = Setup::keygen(&cast.occasion(b"other"), 2).unwrap();
    let (_, foreign) = run(&cast, &other, &BTreeMap::new(), honest)
        .remove(0)
        .unwrap();

    // Party 0 misses the last messages, keeps its pending epoch, and is given the certificate.
    let mut inboxes = [Inbox::new(), Inbox::new()];
    run(&cast, &setup, &BTreeMap::new(), |letter| {
        if letter.to == 0 && letter.round < stage::CONFIRM {
            let inbox = &mut inboxes[usize::from(letter.round) - 1];
            inbox.insert(party(letter.sender), letter.wire.clone());
        }
    });
    let participant = Participant::new(&setup, party(0), &cast.keys[0], &seed(0)).unwrap();
    let (round, _) = participant.start(None).unwrap();
    let (round, _) = round.receive(&inboxes[0]).unwrap();
    let (mut round, _) = round.receive(&inboxes[1]).unwrap();
    assert!(matches!(
        round.receive(&Inbox::new()),
        Err(junto_bls::RunError::Misuse(Misuse::Missing(p))) if p == party(1)
    ));
    // It was stored before party 0 confirmed, and comes back after a crash.
    let stored = round.take_pending().unwrap().encode();
    drop(round);
    let pending = Pending::decode(&stored).unwrap();
    assert_eq!(pending.setup(), &setup);
    assert_eq!(pending.key(), certificate.key());
    let (pending, error) = pending.activate(&foreign).unwrap_err();
    assert_eq!(error, CertificateError::Other);
    let (pending, error) = pending.activate(&forged).unwrap_err();
    assert_eq!(error, CertificateError::Signature(party(2)));
    let epoch = pending.activate(&certificate).unwrap();
    assert_eq!(&epoch.key, certificate.key());
    assert_eq!(epoch.share.unwrap().index(), holder(1));
    for at in 0..stored.len() {
        assert!(Pending::decode(&stored[..at]).is_err());
        let mut wrong = stored.to_vec();
        wrong[at] ^= 1;
        // What comes back of another one is never made usable by this certificate.
        if let Ok(pending) = Pending::decode(&wrong) {
            assert!(pending.activate(&certificate).is_err(), "byte {at}");
        }
    }
    assert!(Pending::decode(&[&stored[..], &[0]].concat()).is_err());

    // Earlier versions did not keep the deal: what they stored is read, and takes the certificate.
    let variable = |at: usize| {
        let length = u32::from_be_bytes(stored[at..at + 4].try_into().unwrap());
        at + 4 + usize::try_from(length).unwrap()
    };
    let deal = variable(variable(1) + 32);
    let rest = variable(deal + 3);
    let old = [&[1], &stored[1..deal], &stored[rest..]].concat();
    let pending = Pending::decode(&old).unwrap();
    assert_eq!(*pending.encode(), old);
    assert!(!pending.can_resume());
    let party_0 = Participant::new(&setup, party(0), &cast.keys[0], &seed(0)).unwrap();
    let resumed = party_0.resume(&pending, &inboxes[0]).map(drop);
    assert_eq!(resumed, Err(Misuse::Deals));
    let epoch = pending.activate(&certificate).unwrap();
    assert_eq!(epoch.share.unwrap().index(), holder(1));
}

#[test]
fn setups_that_cannot_work_are_refused() {
    let cast = Cast::new(3);
    let occasion = cast.occasion(b"x");
    assert_eq!(Setup::keygen(&occasion, 1), Err(SetupError::Threshold));
    assert_eq!(Setup::keygen(&occasion, 4), Err(SetupError::Threshold));
    let mut twice = cast.occasion(b"x");
    let roster = [cast.roster[0], cast.roster[0], cast.roster[1]];
    twice.roster = &roster;
    assert_eq!(Setup::keygen(&twice, 2), Err(SetupError::Roster));
    let label = [0; 256];
    assert_eq!(
        Setup::keygen(&cast.occasion(&label), 2),
        Err(SetupError::TooLong)
    );

    let shares = keygen(&cast, 2);
    let key = shares[&party(0)].public().clone();
    let map = |pairs: &[(u8, u8)]| pairs.iter().map(|(p, i)| (party(*p), holder(*i))).collect();
    let refresh = |pairs: &[(u8, u8)]| Setup::refresh(&occasion, key.clone(), map(pairs));
    assert!(refresh(&[(0, 3), (1, 1), (2, 2)]).is_ok());
    assert_eq!(refresh(&[(0, 1), (1, 2)]), Err(SetupError::Holders));
    assert_eq!(refresh(&[(0, 1), (1, 2), (2, 2)]), Err(SetupError::Holders));
    assert_eq!(refresh(&[(0, 1), (1, 2), (3, 3)]), Err(SetupError::Holders));
    let holders = BTreeSet::from([party(0), party(1)]);
    let reshare = |dealers: &[(u8, u8)], required| {
        Setup::reshare(
            &occasion,
            key.clone(),
            map(dealers),
            holders.clone(),
            required,
        )
    };
    assert!(reshare(&[(0, 1), (2, 3)], 2).is_ok());
    assert_eq!(reshare(&[(0, 1)], 2), Err(SetupError::Holders));
    assert_eq!(reshare(&[(0, 1), (1, 1)], 2), Err(SetupError::Holders));
    assert_eq!(reshare(&[(0, 1), (1, 4)], 2), Err(SetupError::Holders));
    assert_eq!(reshare(&[(0, 1), (1, 2)], 3), Err(SetupError::Threshold));
}

#[test]
fn a_driver_cannot_mix_things_up() {
    let cast = Cast::new(3);
    let setup = cast.keygen(2);
    let wrong = Participant::new(&setup, party(0), &cast.keys[1], &seed(0));
    assert!(matches!(wrong, Err(Misuse::SigningKey)));
    let shares = keygen(&cast, 2);
    let of =
        |setup, me: u8| Participant::new(setup, party(me), &cast.keys[usize::from(me)], &seed(me));
    let refresh = refresh_setup(&cast, &shares);
    assert!(matches!(
        of(&refresh, 0).unwrap().start(None),
        Err(Misuse::Share)
    ));
    assert!(matches!(
        of(&refresh, 0).unwrap().start(Some(&shares[&party(1)])),
        Err(Misuse::Share)
    ));
    assert!(matches!(
        of(&setup, 0).unwrap().start(Some(&shares[&party(0)])),
        Err(Misuse::Share)
    ));
    assert!(matches!(
        of(&setup, 0).unwrap().sign(None),
        Err(Misuse::Task)
    ));
}

#[test]
fn secrets_stay_silent() {
    let shares = keygen(&Cast::new(2), 2);
    let shown = format!("{:?}", shares[&party(0)]);
    let secret = hex::encode(&shares[&party(0)].encode()[107..]);
    assert!(!shown.contains(&secret));
    let key = hex::encode(shares[&party(0)].public().public_key().to_bytes());
    assert_eq!(
        shown,
        format!(
            "KeyShare {{ public: KeyPublic {{ public_key: bls:{key}, epoch: 0, required: 2, \
             holders: 2, .. }}, index: ShareIndex(1), .. }}"
        )
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_subset_of_any_group_signs(
        n in 2u8..=9, t_seed: u8, pick: u64, message: Vec<u8>,
    ) {
        let t = 2 + t_seed % (n - 1);
        let shares = keygen(&Cast::new(n), t);
        let mut parties: Vec<u8> = (0..n).collect();
        parties.sort_by_key(|p| pick.rotate_left(u32::from(*p) * 7));
        sign(&shares, &parties[..usize::from(t)], &message);
    }

    #[test]
    fn decoders_survive_anything(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = KeyShare::decode(&bytes);
        let _ = KeyPublic::decode(&bytes);
        let _ = Certificate::decode(&bytes);
        let _ = Setup::decode(&bytes);
        let _ = Pending::decode(&bytes);
        let _ = junto_bls::Signature::from_bytes(&bytes);
        let _ = junto_bls::PublicKey::from_bytes(&bytes);
    }
}
