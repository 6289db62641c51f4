//! Figures: what each operation costs against the blst calls that no implementation can avoid.
//!
//! Both are timed in turn in the same run and the fastest of several rounds counts, so that the
//! ratio means something on a busy machine. One thread.

use std::{collections::BTreeMap, hint::black_box, time::Instant};

use blst::{MultiPoint, min_pk};
use junto_crypto::ed25519::SigningKey;

use crate::{
    Inbox, KeyPublic, KeyShare, Occasion, PartialSignature, Participant, PartyIndex, RunError,
    Setup, ShareIndex, Signature, Threshold, combine,
    group::{generate, little_endian},
    lagrange::Interpolation,
    partial_sign,
    scalar::{Scalar, SecretScalar},
    signature::CIPHERSUITE,
    verify,
};

const MESSAGE: &[u8] = b"figures for a message of ordinary length";

/// What to measure, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds of each operation; the fastest counts.
    pub rounds: u32,
    /// Thresholds to combine for, each among `2t - 1` holders (at most 64).
    pub combine: Vec<u8>,
    /// (t, n) of key generations.
    pub keygen: Vec<(u8, u8)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 40,
            combine: vec![2, 3, 5, 11, 34],
            keygen: vec![(2, 3), (3, 5), (7, 10), (11, 20)],
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figure {
    /// The operation.
    pub operation: &'static str,
    /// Signers needed; 0 where it does not matter.
    pub required: u8,
    /// Holders; 0 where it does not matter.
    pub holders: u8,
    /// Microseconds of one thread.
    pub microseconds: f64,
    /// Microseconds of the floor.
    pub floor_microseconds: f64,
    /// Ours divided by the floor's; below 1 where ours is the faster way.
    pub ratio: f64,
    /// What the floor is.
    pub floor: &'static str,
}

/// All figures.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// The ciphersuite.
    pub suite: &'static str,
    /// One for each operation and size.
    pub figures: Vec<Figure>,
}

/// Measures.
///
/// # Errors
/// [`RunError`] if a run among honest parties fails, which would be a defect.
pub fn run(options: &Options) -> Result<Report, RunError> {
    let mut figures = vec![signing(options), verifying(options)];
    for &required in &options.combine {
        figures.extend(combining(options, required));
    }
    figures.extend(naming(options));
    for &(required, holders) in &options.keygen {
        figures.push(generating(options, required, holders)?);
    }
    Ok(Report {
        suite: CIPHERSUITE,
        figures,
    })
}

/// Times both in turn.
fn race(rounds: u32, mut ours: impl FnMut(), mut floor: impl FnMut()) -> (f64, f64) {
    let time = |operation: &mut dyn FnMut()| {
        let start = Instant::now();
        operation();
        start.elapsed().as_secs_f64() * 1e6
    };
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds.max(1) {
        best.0 = best.0.min(time(&mut ours));
        best.1 = best.1.min(time(&mut floor));
    }
    best
}

fn figure(
    operation: &'static str,
    size: (u8, u8),
    floor: &'static str,
    (ours, bare): (f64, f64),
) -> Figure {
    let (required, holders) = size;
    Figure {
        operation,
        required,
        holders,
        microseconds: ours,
        floor_microseconds: bare,
        ratio: ours / bare,
        floor,
    }
}

/// A key shared by a dealer; only for figures.
fn dealt(threshold: Threshold) -> Vec<KeyShare> {
    let polynomial: Vec<SecretScalar> = (0..threshold.required())
        .map(|k| SecretScalar::hash(&[b"figures", &[k]]))
        .collect();
    let commitments = polynomial.iter().map(generate).collect();
    let Some(public) = KeyPublic::new(0, threshold, commitments) else {
        return Vec::new();
    };
    threshold
        .indices()
        .filter_map(|index| {
            let x = Scalar::from_u64(index.value().into());
            let mut value = SecretScalar::zero();
            polynomial
                .iter()
                .rev()
                .for_each(|c| value.mul_add_assign(x, c));
            KeyShare::new(public.clone(), index, value)
        })
        .collect()
}

fn small_key() -> Option<KeyShare> {
    dealt(Threshold::new(2, 3)?).into_iter().next()
}

fn signing(options: &Options) -> Figure {
    let share = small_key();
    let bytes = SecretScalar::hash(&[b"floor"]).to_bytes();
    let key = min_pk::SecretKey::from_bytes(bytes.as_ref()).unwrap_or_default();
    let times = race(
        options.rounds,
        || {
            black_box(
                share
                    .as_ref()
                    .map(|share| partial_sign(share, MESSAGE).to_bytes()),
            );
        },
        || {
            black_box(key.sign(MESSAGE, CIPHERSUITE.as_bytes(), &[]).compress());
        },
    );
    figure("partial signature", (0, 0), "blst sign + compress", times)
}

fn verifying(options: &Options) -> Figure {
    let bytes = SecretScalar::hash(&[b"floor"]).to_bytes();
    let key = min_pk::SecretKey::from_bytes(bytes.as_ref()).unwrap_or_default();
    let public = key.sk_to_pk().compress();
    let signature = key.sign(MESSAGE, CIPHERSUITE.as_bytes(), &[]).compress();
    let times = race(
        options.rounds,
        || {
            let key = crate::PublicKey::from_bytes(&public);
            if let (Ok(key), Ok(signature)) = (key, Signature::from_bytes(&signature)) {
                black_box(verify(&key, MESSAGE, &signature));
            }
        },
        || {
            let key = min_pk::PublicKey::uncompress(&public);
            if let (Ok(key), Ok(signature)) = (key, min_pk::Signature::uncompress(&signature)) {
                black_box(signature.verify(true, MESSAGE, CIPHERSUITE.as_bytes(), &[], &key, true));
            }
        },
    );
    figure(
        "verify from bytes, all checks",
        (0, 0),
        "blst decode + verify, all checks",
        times,
    )
}

/// The parts of the last t of 2t-1 holders: no run of small coefficients as {1..t} would have.
fn parts(shares: &[KeyShare], required: u8) -> Vec<(ShareIndex, [u8; 96])> {
    let skipped = shares.len() - usize::from(required);
    shares[skipped..]
        .iter()
        .map(|s| (s.index(), partial_sign(s, MESSAGE).to_bytes()))
        .collect()
}

fn combining(options: &Options, required: u8) -> Option<Figure> {
    let holders = (required.saturating_mul(2) - 1).clamp(3, 64);
    let shares = dealt(Threshold::new(required, holders)?);
    let key = shares.first()?.public().clone();
    let parts = parts(&shares, required);
    let indices: Vec<u8> = parts.iter().map(|(index, _)| index.value()).collect();
    let coefficients: Vec<u8> = Interpolation::at_zero(&indices)?
        .coefficients()
        .into_iter()
        .flat_map(little_endian)
        .collect();
    let public = min_pk::PublicKey::from_bytes(&key.public_key().to_bytes()).ok()?;
    let times = race(
        options.rounds,
        || {
            let given: BTreeMap<_, _> = parts
                .iter()
                .filter_map(|(index, bytes)| {
                    Some((*index, PartialSignature::from_bytes(bytes).ok()?))
                })
                .collect();
            black_box(combine(&key, MESSAGE, &given).map(|c| c.signature.to_bytes())).ok();
        },
        || {
            let points: Vec<min_pk::Signature> = parts
                .iter()
                .filter_map(|(_, bytes)| min_pk::Signature::uncompress(bytes).ok())
                .collect();
            let signature = points.as_slice().mult(&coefficients, 255).to_signature();
            let suite = CIPHERSUITE.as_bytes();
            black_box(signature.verify(true, MESSAGE, suite, &[], &public, false));
            black_box(signature.compress());
        },
    );
    let floor = "blst decode t, multi-scalar with ready coefficients, verify once";
    Some(figure(
        "combine from bytes, verified",
        (required, holders),
        floor,
        times,
    ))
}

/// A wrong part among many: name the culprit and sign all the same.
fn naming(options: &Options) -> Option<Figure> {
    let threshold = Threshold::new(34, 64)?;
    let shares = dealt(threshold);
    let key = shares.first()?.public().clone();
    let mut given: BTreeMap<ShareIndex, PartialSignature> = shares
        .iter()
        .map(|share| (share.index(), partial_sign(share, MESSAGE)))
        .collect();
    given.insert(
        ShareIndex::new(9)?,
        partial_sign(&shares[8], b"another message"),
    );
    let publics: Vec<_> = shares.iter().map(|s| key.public_share(s.index())).collect();
    let times = race(
        options.rounds.div_ceil(10),
        || drop(black_box(combine(&key, MESSAGE, &given))),
        || {
            for (public, part) in publics.iter().zip(given.values()) {
                let point = min_pk::Signature::uncompress(&part.to_bytes());
                let suite = CIPHERSUITE.as_bytes();
                black_box(point.map(|p| p.verify(true, MESSAGE, suite, &[], &public.0, false)))
                    .ok();
            }
        },
    );
    Some(figure(
        "name 1 culprit of 64 and sign",
        (34, 64),
        "blst verify one by one",
        times,
    ))
}

/// One party's work in a key generation, from its start to the certificate.
fn generating(options: &Options, required: u8, holders: u8) -> Result<Figure, RunError> {
    let keys: Vec<SigningKey> = (0..holders)
        .map(|i| SigningKey::from_seed(&[i; 32]))
        .collect();
    let roster: Vec<_> = keys.iter().map(SigningKey::verifying_key).collect();
    let occasion = Occasion {
        session: [0; 32],
        label: b"figures",
        roster: &roster,
    };
    let Ok(setup) = Setup::keygen(&occasion, required) else {
        return Err(RunError::Degenerate);
    };
    let inboxes = record(&setup, &keys)?;
    let times = race(
        options.rounds.div_ceil(4),
        || drop(black_box(replay(&setup, &keys[0], &inboxes))),
        || bare_keygen(&keys[0], required, holders),
    );
    let floor = "blst: t + 2 generator multiples, (n-1)(t+1) points decoded and checked, n-1 \
                 proofs of two multiplications; Ed25519: n + 2 signed, 4(n-1) verified";
    Ok(figure(
        "key generation, one party",
        (required, holders),
        floor,
        times,
    ))
}

/// What party 0 receives in each round.
fn record(setup: &Setup, keys: &[SigningKey]) -> Result<[Inbox; 3], RunError> {
    let mut inboxes = [Inbox::new(), Inbox::new(), Inbox::new()];
    let (mut rounds, mut deals) = (Vec::new(), Inbox::new());
    for (party, key) in setup.parties().zip(keys) {
        let seed = [party.value(); 32];
        let (round, wire) = Participant::new(setup, party, key, &seed)?.start(None)?;
        deals.insert(party, wire);
        rounds.push((party, round));
    }
    inboxes[0] = deals;
    let mut letters: BTreeMap<PartyIndex, Inbox> = BTreeMap::new();
    let mut next = Vec::new();
    for (party, round) in rounds {
        let (round, outbox) = round.receive(&inboxes[0])?;
        for (to, wire) in outbox {
            letters.entry(to).or_default().insert(party, wire.to_vec());
        }
        next.push((party, round));
    }
    for (party, round) in next {
        let inbox = letters.remove(&party).unwrap_or_default();
        let (_, wire) = round.receive(&inbox)?;
        inboxes[2].insert(party, wire);
        if party.value() == 0 {
            inboxes[1] = inbox;
        }
    }
    Ok(inboxes)
}

fn replay(setup: &Setup, key: &SigningKey, inboxes: &[Inbox; 3]) -> Result<(), RunError> {
    let Some(party) = PartyIndex::new(0) else {
        return Err(RunError::Degenerate);
    };
    let (round, _) = Participant::new(setup, party, key, &[0; 32])?.start(None)?;
    let (round, _) = round.receive(&inboxes[0])?;
    let (mut round, _) = round.receive(&inboxes[1])?;
    let certificate = round.receive(&inboxes[2])?;
    drop(black_box(
        round
            .take_pending()
            .map(|pending| pending.activate(&certificate)),
    ));
    Ok(())
}

/// The operations that any implementation of this protocol must do.
fn bare_keygen(key: &SigningKey, required: u8, holders: u8) {
    let bytes = SecretScalar::hash(&[b"floor"]).to_bytes();
    let secret = min_pk::SecretKey::from_bytes(bytes.as_ref()).unwrap_or_default();
    let scalar = little_endian(Scalar::hash(&[b"floor"]));
    let point = secret.sk_to_pk();
    let encoded = point.compress();
    let others = u32::from(holders) - 1;
    for _ in 0..required + 2 {
        black_box(secret.sk_to_pk().compress());
    }
    for _ in 0..others {
        for _ in 0..=required {
            black_box(min_pk::PublicKey::key_validate(&encoded)).ok();
        }
        black_box(secret.sk_to_pk());
        black_box([point].as_slice().mult(&scalar, 255).to_public_key());
    }
    let signature = key.sign(&encoded);
    for _ in 0..others + 2 {
        black_box(key.sign(&encoded));
    }
    for _ in 0..4 * others {
        black_box(key.verifying_key().verify(&encoded, &signature)).ok();
    }
}
