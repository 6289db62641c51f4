//! Rows in memory: for simulations and tests.

use std::collections::BTreeMap;

use super::{Store, StoreError};
use crate::proto::{Committed, Delta, Row, RowKey};

/// A store that lives as long as its value. A clone is a backup.
#[derive(Clone, Default)]
pub struct MemoryStore {
    rows: BTreeMap<RowKey, Row>,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Vec<(RowKey, Row)>, StoreError> {
        Ok(self
            .rows
            .iter()
            .map(|(key, row)| (*key, row.clone()))
            .collect())
    }

    fn commit(&mut self, delta: &Delta) -> Result<Committed, StoreError> {
        for (key, row) in delta.rows() {
            match row {
                Some(row) => self.rows.insert(*key, row.clone()),
                None => self.rows.remove(key),
            };
        }
        Ok(Committed::promised())
    }
}
