//! Threshold BLS: keys, setups, certificates, evidence, and rounds among liars.

use std::{collections::BTreeMap, sync::LazyLock};

use junto_bls::{
    Certificate, Epoch, Evidence, Holding, Inbox, KeyPublic, KeyShare, Occasion, PartialSignature,
    Participant, PartyIndex, Pending, PublicKey, RunError, Setup, Signature, combine, partial_sign,
    verify,
};
use junto_crypto::{
    ed25519::{SigningKey, VerifyingKey},
    hash::{sha256, sha256_of},
};

use crate::input::{Input, piece};

const PARTIES: u8 = 3;

pub(crate) fn signers() -> Vec<SigningKey> {
    (0..PARTIES)
        .map(|index| SigningKey::from_seed(&[index + 1; 32]))
        .collect()
}

fn roster() -> Vec<VerifyingKey> {
    signers().iter().map(SigningKey::verifying_key).collect()
}

pub(crate) fn occasion<T>(use_it: impl FnOnce(&Occasion<'_>) -> T) -> T {
    use_it(&Occasion {
        session: [7; 32],
        label: b"keygen",
        roster: &roster(),
    })
}

fn party(index: u8) -> PartyIndex {
    PartyIndex::new(index).unwrap()
}

/// An honest run of key generation, two of three.
pub(crate) struct Honest {
    pub(crate) setup: Setup,
    /// By round, sender, receiver; broadcasts by receiver as well.
    wires: BTreeMap<(u8, u8, u8), Vec<u8>>,
    pub(crate) certificate: Certificate,
    pub(crate) epochs: Vec<Epoch>,
    /// What each party stored before it confirmed.
    pub(crate) pendings: Vec<Vec<u8>>,
}

pub(crate) static HONEST: LazyLock<Honest> = LazyLock::new(honest);

fn honest() -> Honest {
    let setup = occasion(|occasion| Setup::keygen(occasion, 2)).unwrap();
    let keys = signers();
    let mut wires = BTreeMap::new();
    let mut broadcast = |round: u8, from: u8, wire: &[u8]| {
        for to in (0..PARTIES).filter(|to| *to != from) {
            wires.insert((round, from, to), wire.to_vec());
        }
    };
    let mut rounds = Vec::new();
    for (me, key) in (0..).zip(&keys) {
        let participant = Participant::new(&setup, party(me), key, &[me; 32]).unwrap();
        let (round, wire) = participant.start(None).unwrap();
        broadcast(1, me, &wire);
        rounds.push(round);
    }
    let mut next = Vec::new();
    for (me, round) in (0..).zip(rounds) {
        let (round, letters) = round.receive(&inbox(&wires, 1, me)).unwrap();
        for (to, letter) in letters {
            wires.insert((2, me, to.value()), letter.to_vec());
        }
        next.push(round);
    }
    let mut last = Vec::new();
    for (me, round) in (0..).zip(next) {
        let (round, wire) = round.receive(&inbox(&wires, 2, me)).unwrap();
        for to in (0..PARTIES).filter(|to| *to != me) {
            wires.insert((3, me, to), wire.clone());
        }
        last.push(round);
    }
    let (mut epochs, mut certificate, mut pendings) = (Vec::new(), None, Vec::new());
    for (me, mut round) in (0..).zip(last) {
        let signed = round.receive(&inbox(&wires, 3, me)).unwrap();
        let pending = round.take_pending().unwrap();
        pendings.push(pending.encode().to_vec());
        let epoch = pending.activate(&signed);
        epochs.push(epoch.map_err(|(_, error)| error).unwrap());
        certificate = Some(signed);
    }
    Honest {
        wires,
        certificate: certificate.unwrap(),
        epochs,
        pendings,
        setup: setup.clone(),
    }
}

fn inbox(wires: &BTreeMap<(u8, u8, u8), Vec<u8>>, round: u8, me: u8) -> Inbox {
    wires
        .iter()
        .filter(|((of, _, to), _)| *of == round && *to == me)
        .map(|((_, from, _), wire)| (party(*from), wire.clone()))
        .collect()
}

/// Points, key descriptions, shares.
pub(crate) fn keys(bytes: &[u8]) {
    if let Ok(key) = PublicKey::from_bytes(bytes) {
        assert_eq!(key.to_bytes(), *bytes);
        if let Some(share) = &HONEST.epochs[0].share {
            let part = partial_sign(share, b"message").to_bytes();
            let signature = Signature::from_bytes(&part).unwrap();
            let real = share.public().public_share(share.index());
            assert_eq!(verify(&key, b"message", &signature), key == real);
        }
    }
    if let Ok(signature) = Signature::from_bytes(bytes) {
        assert_eq!(signature.to_bytes(), *bytes);
        let key = HONEST.epochs[0].key.public_key();
        assert!(!verify(&key, b"another message", &signature));
    }
    if let Ok(part) = PartialSignature::from_bytes(bytes) {
        assert_eq!(part.to_bytes(), *bytes);
        let key = &HONEST.epochs[0].key;
        let index = HONEST.epochs[0].share.as_ref().unwrap().index();
        assert!(!part.verify(key, index, b"another message"));
        let parts = [(index, part)].into_iter().collect();
        assert!(combine(key, b"another message", &parts).is_err());
    }
    if let Ok(key) = KeyPublic::decode(bytes) {
        assert_eq!(key.encode(), bytes);
        for index in key.threshold().indices() {
            let share = key.public_share(index).to_bytes();
            // Infinity is the one value that is no key.
            if share[0] != 0xc0 {
                assert!(PublicKey::from_bytes(&share).is_ok());
            }
        }
    }
    if let Ok(share) = KeyShare::decode(bytes) {
        assert_eq!(share.encode()[..], *bytes);
        let part = partial_sign(&share, b"message");
        assert!(part.verify(share.public(), share.index(), b"message"));
    }
}

/// What a run is about.
pub(crate) fn setup(bytes: &[u8]) {
    let Ok(setup) = Setup::decode(bytes) else {
        return;
    };
    assert_eq!(setup.encode(), bytes);
    assert!(setup.parties().count() <= 64);
    for party in setup.dealers().keys().chain(setup.holders().keys()) {
        assert!(setup.parties().any(|known| known == *party));
    }
}

/// The end of a run.
pub(crate) fn certificate(bytes: &[u8]) {
    let Ok(certificate) = Certificate::decode(bytes) else {
        return;
    };
    assert_eq!(certificate.encode(), bytes);
    if certificate.verify().is_ok() && certificate.setup().roster() == roster() {
        assert_eq!(certificate, HONEST.certificate, "a forged certificate");
    }
}

/// A share that waits for its certificate: no other certificate makes it usable.
pub(crate) fn pending(bytes: &[u8]) {
    let Ok(pending) = Pending::decode(bytes) else {
        return;
    };
    assert_eq!(pending.encode()[..], *bytes);
    if pending.check(&HONEST.certificate).is_ok() {
        assert_eq!(pending.key(), HONEST.certificate.key());
        assert!(pending.activate(&HONEST.certificate).is_ok());
    } else {
        assert!(pending.activate(&HONEST.certificate).is_err());
    }
}

/// A claim to a share: what says something else than an honest party's claim convinces nobody.
pub(crate) fn holding(bytes: &[u8]) {
    let Ok(holding) = Holding::decode(bytes) else {
        return;
    };
    assert_eq!(holding.encode(), bytes);
    let honest = holdings();
    for (index, claim) in (0..).zip(&honest) {
        let believed = occasion(|occasion| holding.verify(occasion, party(index))).is_ok();
        assert_eq!(believed, claim == bytes, "party {index}");
    }
}

/// What the parties of [`HONEST`] claim.
pub(crate) fn holdings() -> Vec<Vec<u8>> {
    let shares = HONEST.epochs.iter().map(|epoch| epoch.share.as_ref());
    let claims = (0..).zip(shares).map(|(index, share)| {
        occasion(|occasion| {
            Holding::new(occasion, party(index), share.unwrap(), &HONEST.certificate).encode()
        })
    });
    claims.collect()
}

/// A case against somebody. With a first byte of 1 everything that looks signed is signed by whom
/// it names: then guilt can be proven, but never against the one party that did not sign.
pub(crate) fn evidence(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else {
        return;
    };
    let mut case = rest.to_vec();
    if kind & 1 == 1 {
        sign_case(&mut case);
    }
    let evidence = Evidence::from_bytes(case.clone());
    assert_eq!(evidence.as_bytes(), case);
    if let Ok((guilty, _)) = evidence.verify(&HONEST.setup) {
        assert!(kind & 1 == 1, "convicted without a signature");
        assert_ne!(guilty, party(0), "party 0 is innocent");
    }
}

/// What a sender signs (`docs/spec/threshold-bls.md` §3).
fn text(slot: [u8; 3], digest: &[u8; 32]) -> [u8; 32] {
    let setup = &HONEST.setup;
    sha256_of(&[b"junto-bls/1 message", setup.digest(), &slot, digest])
}

fn sign(slot: [u8; 3], digest: &[u8; 32]) -> [u8; 64] {
    // Party 0 is honest: it signs nothing that it would not say.
    let signers = signers();
    let signer = signers.get(usize::from(slot[1])).filter(|_| slot[1] != 0);
    signer.map_or([0; 64], |signer| signer.sign(&text(slot, digest)).0)
}

/// Signs the messages of a case in their places.
fn sign_case(case: &mut [u8]) {
    let Some((kind, mut rest)) = case.split_first_mut() else {
        return;
    };
    if *kind == 3 {
        // A slot and two seals.
        if let Some((slot, seals)) = rest.split_first_chunk_mut::<3>() {
            for seal in seals.chunks_exact_mut(96) {
                let digest: [u8; 32] = seal[..32].try_into().unwrap();
                let signature = sign(*slot, &digest);
                if signature != [0; 64] {
                    seal[32..].copy_from_slice(&signature);
                }
            }
        }
        return;
    }
    let mut number = 0;
    while let Some((slot, tail)) = rest.split_first_chunk_mut::<3>() {
        let Some((length, tail)) = tail.split_first_chunk_mut::<4>() else {
            return;
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
        let Some((wire, tail)) = tail.split_at_mut_checked(length) else {
            return;
        };
        if let Some(payload) = length.checked_sub(64) {
            let digest = sha256(&wire[..payload]);
            let signature = sign(*slot, &digest);
            if signature != [0; 64] {
                wire[payload..].copy_from_slice(&signature);
            }
        }
        rest = tail;
        number += 1;
        if *kind == 4 && number == 1 && !rest.is_empty() {
            // How many deals follow.
            rest = &mut rest[1..];
        }
    }
}

/// What party 0 hears in each round from party 1: the rest is honest. Whatever that is, it is either
/// accepted, or party 1 alone is blamed, with evidence.
pub(crate) fn round(bytes: &[u8]) {
    let mut input = Input(bytes);
    let honest = &*HONEST;
    let key = &signers()[0];
    let signed = input.u8() & 1 == 0;
    let participant = Participant::new(&honest.setup, party(0), key, &[0; 32]).unwrap();
    let (round, _) = participant.start(None).unwrap();
    let hear = |number: u8, input: &mut Input<'_>| {
        let mut inbox = inbox(&honest.wires, number, 0);
        let lie = input.piece();
        if !lie.is_empty() {
            let mut wire = lie.to_vec();
            if signed {
                let receiver = if number == 2 { 0 } else { 0xff };
                let signature = sign([number, 1, receiver], &sha256(&wire));
                wire.extend_from_slice(&signature);
            }
            inbox.insert(party(1), wire);
        }
        inbox
    };
    let round = match round.receive(&hear(1, &mut input)) {
        Ok((round, _)) => round,
        Err(error) => return blames(&error),
    };
    let Ok((mut round, _)) = round.receive(&hear(2, &mut input)) else {
        panic!("its own mistake")
    };
    match round.receive(&hear(3, &mut input)) {
        Ok(certificate) => {
            assert!(certificate.verify().is_ok());
            assert!(round.take_pending().is_some());
        }
        Err(error) => blames(&error),
    }
}

fn blames(error: &RunError) {
    match error {
        RunError::Abort(abort) => {
            for blame in &abort.blames {
                assert_eq!(blame.party, party(1), "{error}");
                if let Some(evidence) = &blame.evidence {
                    let verdict = evidence.verify(&HONEST.setup);
                    assert_eq!(verdict, Ok((blame.party, blame.fault)));
                }
            }
        }
        other => panic!("{other}"),
    }
}

/// For seeds: payloads of party 1 in the honest run, without signatures.
pub(crate) fn seeds_of_round() -> Vec<Vec<u8>> {
    let payload = |round| {
        let wire = &HONEST.wires[&(round, 1, 0)];
        wire[..wire.len() - 64].to_vec()
    };
    let run = |lies: [&[u8]; 3]| {
        let mut out = vec![0];
        lies.iter().for_each(|lie| piece(&mut out, lie));
        out
    };
    let (deal, share, confirm) = (payload(1), payload(2), payload(3));
    vec![
        run([&deal, &share, &confirm]),
        run([&deal, b"", b""]),
        run([b"", &share, b""]),
        run([b"", b"", &confirm]),
        run([b"", b"\x00", b"\x00"]),
        vec![1, 0, 1, 9],
    ]
}

/// For seeds: cases of every kind against party 1, which signs anything, and against party 0, which
/// said these things and is innocent.
pub(crate) fn seeds_of_evidence() -> Vec<Vec<u8>> {
    let wire = |round: u8, from: u8| &HONEST.wires[&(round, from, u8::from(from == 0))];
    let message = |round: u8, from: u8| {
        let receiver = if round == 2 {
            u8::from(from == 0)
        } else {
            0xff
        };
        let mut out = vec![round, from, receiver];
        let wire = wire(round, from);
        out.extend_from_slice(&u32::try_from(wire.len()).unwrap().to_be_bytes());
        out.extend_from_slice(wire);
        out
    };
    let deals: Vec<u8> = (0..PARTIES).flat_map(|from| message(1, from)).collect();
    let seal = |from: u8| {
        let (payload, signature) = wire(1, from).split_last_chunk::<64>().unwrap();
        [&sha256(payload)[..], signature].concat()
    };
    let other = [[2; 32].as_slice(), &[0; 64]].concat();
    let mut all = Vec::new();
    for accused in [0, 1] {
        let (deal, share, confirm) = (
            message(1, accused),
            message(2, accused),
            message(3, accused),
        );
        all.push([&[1, 1][..], &deal].concat());
        all.push([&[1, 1][..], &confirm].concat());
        all.push([&[1, 2][..], &deal, &share].concat());
        all.push(
            [
                &[1, 3, 1, accused, 0xff][..],
                &seal(accused),
                &seal(accused),
            ]
            .concat(),
        );
        all.push([&[1, 3, 1, accused, 0xff][..], &seal(accused), &other].concat());
        all.push([&[1, 4][..], &confirm, &[PARTIES], &deals].concat());
    }
    all.push([&[0, 1][..], &message(1, 1)].concat());
    all
}
