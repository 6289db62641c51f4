//! What is done to a store while no agent runs on it: looking for damage, and coming back from a backup.

use std::path::Path;

use junto_crypto::aead::StoreKey;

use super::{SqliteStore, Store, StoreError};
use crate::proto::{Machine, MachineConfig};

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Rows of all kinds.
    pub rows: usize,
    /// Bytes in them, without their seals.
    pub bytes: u64,
    /// Connections, of whatever state.
    pub connections: usize,
}

/// Looks at all of a store: the pages of the file, the seal of every row, what the rows say, and whether they
/// fit together. Changes nothing but the format, if that is older.
///
/// # Errors
/// [`StoreError::Damaged`] with the first thing that does not fit.
pub fn check(path: &Path, key: StoreKey) -> Result<Contents, StoreError> {
    let mut store = SqliteStore::open(path, key)?;
    store.check_pages()?;
    let (machine, contents) = restore(&mut store)?;
    match machine.inconsistency() {
        None => Ok(contents),
        Some(what) => Err(StoreError::Damaged(what)),
    }
}

/// Makes a store that came from a backup fit for use: every key with which its original may have sent something
/// since is given up ([`Machine::came_back`]). Gives the number of connections that it is about.
///
/// # Errors
/// [`StoreError`]; the store is then as it was.
pub fn came_back(path: &Path, key: StoreKey) -> Result<usize, StoreError> {
    let mut store = SqliteStore::open(path, key)?;
    let (mut machine, _) = restore(&mut store)?;
    let count = machine.came_back();
    if let Some(step) = machine.take_step() {
        let committed = store.commit(step.delta())?;
        // Whoever opens the store next hears of the same.
        drop(step.release(committed));
    }
    Ok(count)
}

fn restore(store: &mut SqliteStore) -> Result<(Machine, Contents), StoreError> {
    let rows = store.load()?;
    let mut contents = Contents {
        rows: rows.len(),
        ..Contents::default()
    };
    contents.bytes = rows.iter().map(|(_, row)| row.len() as u64).sum();
    let machine = Machine::restore(MachineConfig::default(), rows);
    let machine = machine.map_err(|_| StoreError::Damaged("its records do not fit together"))?;
    contents.connections = machine.connection_count();
    Ok((machine, contents))
}
