//! What is done to a store while no sessions run on it: looking for damage, and coming back from a backup.

use std::path::Path;

use junto_crypto::aead::StoreKey;

use super::{SqliteStore, StoreError};
use crate::proto::{
    limits::WINDOW_BYTES,
    node::Node,
    step::{Rows, Store as _},
};
use crate::shell::driver::generator;

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Rows of all kinds.
    pub rows: usize,
    /// Bytes in them, without their seals.
    pub bytes: u64,
    /// Sessions, of whatever state.
    pub sessions: usize,
    /// What the last opening left to tell it from older copies.
    pub mark: Option<[u8; 16]>,
}

/// Looks at all of `session.db` in `dir`: the pages of the file, the seal of every row, what the rows say, and
/// whether they fit together. Changes nothing but the schema, if that is older.
///
/// # Errors
/// [`StoreError::Damaged`] with the first thing that does not fit.
pub fn check(dir: &Path, key: StoreKey) -> Result<Contents, StoreError> {
    let mut store = open(dir, key)?;
    store.check_pages()?;
    let rows = store.load()?;
    let mut contents = Contents {
        rows: rows.len(),
        bytes: rows.iter().map(|(_, row)| row.len() as u64).sum(),
        sessions: 0,
        mark: None,
    };
    // It stays as it is.
    let looked = store.exchange_mark(|found| {
        contents.mark = found;
        found
    });
    match looked {
        // There is none.
        Err(StoreError::Outdated(_)) => {}
        looked => looked?,
    }
    contents.sessions = node(&store, rows)?.summaries().count();
    Ok(contents)
}

/// Makes a store that came from a backup fit for use: nothing is said any more in its sessions, as their original
/// may have said something else in the same place ([`Node::came_back`]). Gives their number.
///
/// # Errors
/// [`StoreError`]; the store is then as it was.
pub fn came_back(dir: &Path, key: StoreKey) -> Result<usize, StoreError> {
    let mut store = open(dir, key)?;
    let rows = store.load()?;
    let (count, step) = node(&store, rows)?.came_back();
    store.commit(step.delta())?;
    Ok(count)
}

fn open(dir: &Path, key: StoreKey) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(dir, key, generator().map_err(|_| StoreError::Seal)?)
}

fn node(store: &SqliteStore, rows: Rows) -> Result<Node, StoreError> {
    // What loading would have the carrier do is not done, and comes again at the next opening.
    let mut rng = generator().map_err(|_| StoreError::Seal)?;
    let loaded = Node::load(rows, WINDOW_BYTES, &mut rng);
    loaded
        .map(|(node, _)| node)
        .map_err(|malformed| store.damaged(&malformed.to_string()))
}
