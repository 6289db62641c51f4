//! The memory that records take.

use std::time::{Duration, Instant};

use junto_crypto::Zeroizing;
use junto_vault::{AuthKey, Deposit, Part, Realm, RealmId, enrol};

use super::{Alone, BenchError, account, cost, done, limit, pin, rng, set, storing};

pub(super) struct Memory {
    pub(super) record_bytes: Option<f64>,
    pub(super) snapshot_bytes: f64,
    pub(super) per_second: (f64, f64),
}

pub(super) fn memory(records: u32) -> Result<Memory, BenchError> {
    let records = records.max(1);
    let id = RealmId([1; 32]);
    let mut alone = Alone::with_room(id, records)?;
    let stored = stored(id)?;
    let empty = alone.realm.snapshot().len();
    let before = resident();
    fill(&mut alone, &stored, records)?;
    let grown = before.zip(resident()).map(|(before, after)| after - before);
    let begun = Instant::now();
    let snapshot = alone.realm.snapshot();
    let out = begun.elapsed();
    let begun = Instant::now();
    Realm::restore(&snapshot).map_err(|_| BenchError::Answer("a snapshot is one"))?;
    let back = begun.elapsed();
    let records = f64::from(records);
    let rate = |time: Duration| records / time.as_secs_f64();
    Ok(Memory {
        record_bytes: grown.map(|bytes| bytes / records),
        snapshot_bytes: (snapshot.len() - empty) as f64 / records,
        per_second: (rate(out), rate(back)),
    })
}

/// What users store, as it stands.
pub(super) struct Stored(Zeroizing<Vec<u8>>, AuthKey);

pub(super) fn stored(id: RealmId) -> Result<Stored, BenchError> {
    let set = set(&[id, RealmId([2; 32]), RealmId([3; 32])], 2)?;
    let (_, parts) = enrol(&pin()?, &account(0)?, &set, cost()?, limit()?, &mut rng())?;
    let part = parts.into_iter().find(|part| part.realm == id);
    let part = part.ok_or(BenchError::Answer("a set has its realms"))?;
    Ok(Stored(part.deposit.to_bytes(), part.auth))
}

/// So many users store that.
pub(super) fn fill(
    alone: &mut Alone,
    Stored(deposit, auth): &Stored,
    records: u32,
) -> Result<(), BenchError> {
    let id = alone.id;
    for user in 0..records as usize {
        let part = Part {
            realm: id,
            deposit: Deposit::from_bytes(deposit, &id)
                .map_err(|_| BenchError::Answer("a deposit is one"))?,
            auth: AuthKey::from_bytes(auth.as_bytes()),
        };
        for operation in storing(part)? {
            done(alone.ask_for(account(user)?, operation)?)?;
        }
    }
    Ok(())
}

/// Resident memory of this process, in bytes.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u32 = line.split_whitespace().next()?.parse().ok()?;
    Some(f64::from(kib) * 1024.0)
}
