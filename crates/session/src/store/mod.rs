//! The sessions of a profile in one SQLite file, sealed.
//!
//! Keys of rows tell kinds and counts, values are sealed and bound to their key: without the
//! [`StoreKey`] the file shows how many sessions and messages there are, and no more.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use junto_crypto::aead::StoreKey;
use rand_chacha::ChaCha20Rng;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::proto::step::{Committed, Delta, Rows, Store};

mod schema;
mod upkeep;

pub use upkeep::{Contents, came_back, check};

/// Name of the file in the profile's folder.
pub const FILE_NAME: &str = "session.db";
/// Version of the tables; an older one is brought up to it, a newer one refused.
const SCHEMA_VERSION: i64 = schema::VERSION;
/// Sealed under the key at creation: tells a wrong key from a damaged file.
const CHECK: &[u8] = b"junto session store";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The key is not the one it was made with.
    #[error("{0} was made with another key")]
    WrongKey(PathBuf),
    /// Its contents are not what this program wrote. Nothing was overwritten.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// It is an older copy, restored from a backup, say. Nothing was overwritten.
    #[error("{0} is an older copy than the one in use; it was left as it is")]
    Outdated(PathBuf),
    /// A newer version of this program made it.
    #[error(
        "{path} was made by a newer version (schema {found}, this version reads {SCHEMA_VERSION})"
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: i64,
    },
    /// The file cannot be made.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite failed: disk full, no permission.
    #[error("{path}: {source}")]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// A value could not be sealed.
    #[error("sealing failed")]
    Seal,
}

/// The store: one writer, WAL, every commit synced to disk.
pub struct SqliteStore {
    path: PathBuf,
    connection: Connection,
    key: StoreKey,
    rng: ChaCha20Rng,
}

impl SqliteStore {
    /// Opens or makes `session.db` in `dir`.
    ///
    /// # Errors
    /// See [`StoreError`]. A file that does not open is left as it is.
    pub fn open(dir: &Path, key: StoreKey, rng: ChaCha20Rng) -> Result<Self, StoreError> {
        let path = dir.join(FILE_NAME);
        let fail = |source| failure(&path, source);
        make_private(&path)?;
        let connection = Connection::open(&path).map_err(fail)?;
        // Exclusive from the first lock on: a second process is refused, and WAL needs no shared
        // memory file.
        connection
            .execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA busy_timeout = 0;
                 BEGIN IMMEDIATE; COMMIT;",
            )
            .map_err(fail)?;
        let mut store = Self {
            path: path.clone(),
            connection,
            key,
            rng,
        };
        store.prepare()?;
        Ok(store)
    }

    fn prepare(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        let fail = |source| failure(&path, source);
        let version: i64 = self
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(fail)?;
        if version == 0 {
            let tables: i64 = self
                .connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
                .map_err(fail)?;
            if tables != 0 {
                return Err(self.damaged("it holds tables of something else"));
            }
            let check = self
                .key
                .seal(b"check", CHECK, &mut self.rng)
                .map_err(|_| StoreError::Seal)?;
            let transaction = self.connection.transaction().map_err(fail)?;
            schema::migrate(&transaction, 0).map_err(fail)?;
            transaction
                .execute("INSERT INTO meta VALUES ('check', ?1)", params![check])
                .map_err(fail)?;
            return transaction.commit().map_err(fail);
        }
        if !(0..=SCHEMA_VERSION).contains(&version) {
            return Err(StoreError::Version {
                path,
                found: version,
            });
        }
        let check: Option<Vec<u8>> = self
            .connection
            .query_row("SELECT value FROM meta WHERE name = 'check'", [], |row| {
                row.get(0)
            })
            .optional()
            .map_err(fail)?;
        let Some(check) = check else {
            return Err(self.damaged("its check value is missing"));
        };
        match self.key.open(b"check", &check) {
            Ok(plain) if plain.as_slice() == CHECK => {}
            Ok(_) | Err(_) => return Err(StoreError::WrongKey(path)),
        }
        if version < SCHEMA_VERSION {
            let transaction = self.connection.transaction().map_err(fail)?;
            schema::migrate(&transaction, version).map_err(fail)?;
            transaction.commit().map_err(fail)?;
        }
        Ok(())
    }

    /// Looks at every page of the file and at the order of every index.
    fn check_pages(&self) -> Result<(), StoreError> {
        for check in ["integrity_check(1)", "foreign_key_check"] {
            let verdict = self
                .connection
                .query_row(&format!("PRAGMA {check}"), [], |row| {
                    row.get::<_, String>(0)
                })
                .optional()
                .map_err(|source| failure(&self.path, source))?;
            if let Some(verdict) = verdict.filter(|verdict| verdict != "ok") {
                return Err(self.damaged(&verdict));
            }
        }
        Ok(())
    }

    /// Exchanges the mark that the last opening left for another one, if `succeed` knows it. With the
    /// marks kept elsewhere as well, an older copy of the file is told from the one in use.
    ///
    /// # Errors
    /// [`StoreError::Outdated`] if `succeed` gives none for it; the file is then left as it is.
    pub fn exchange_mark(
        &mut self,
        succeed: impl FnOnce(Option<[u8; 16]>) -> Option<[u8; 16]>,
    ) -> Result<(), StoreError> {
        let fail = |source| failure(&self.path, source);
        let found: Option<Vec<u8>> = self
            .connection
            .query_row("SELECT value FROM meta WHERE name = 'mark'", [], |row| {
                row.get(0)
            })
            .optional()
            .map_err(fail)?;
        let found = match found {
            None => None,
            Some(sealed) => {
                let opened = self.key.open(b"mark", &sealed);
                let mark = opened.ok().and_then(|mark| mark.as_slice().try_into().ok());
                Some(mark.ok_or_else(|| self.damaged("its mark does not open"))?)
            }
        };
        let next = succeed(found).ok_or_else(|| StoreError::Outdated(self.path.clone()))?;
        if found == Some(next) {
            return Ok(());
        }
        let sealed = self
            .key
            .seal(b"mark", &next, &mut self.rng)
            .map_err(|_| StoreError::Seal)?;
        self.connection
            .execute(
                "INSERT OR REPLACE INTO meta VALUES ('mark', ?1)",
                params![sealed],
            )
            .map_err(|source| failure(&self.path, source))?;
        Ok(())
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store for SqliteStore {
    type Error = StoreError;

    fn commit(&mut self, delta: &Delta) -> Result<Committed, StoreError> {
        if delta.is_empty() {
            return Ok(Committed::new());
        }
        let fail = |source| failure(&self.path, source);
        let transaction = self.connection.transaction().map_err(fail)?;
        {
            let mut put = transaction
                .prepare_cached("INSERT OR REPLACE INTO record (key, value) VALUES (?1, ?2)")
                .map_err(fail)?;
            let mut delete = transaction
                .prepare_cached("DELETE FROM record WHERE key = ?1")
                .map_err(fail)?;
            for (key, value) in delta.rows() {
                match value {
                    Some(value) => {
                        let sealed = self
                            .key
                            .seal(&key, value, &mut self.rng)
                            .map_err(|_| StoreError::Seal)?;
                        put.execute(params![key, sealed]).map_err(fail)?;
                    }
                    None => {
                        delete.execute(params![key]).map_err(fail)?;
                    }
                }
            }
        }
        transaction.commit().map_err(fail)?;
        Ok(Committed::new())
    }

    fn load(&mut self) -> Result<Rows, StoreError> {
        let fail = |source| failure(&self.path, source);
        let mut statement = self
            .connection
            .prepare("SELECT key, value FROM record ORDER BY key")
            .map_err(fail)?;
        let mut found = statement.query([]).map_err(fail)?;
        let mut rows = Rows::new();
        while let Some(row) = found.next().map_err(fail)? {
            let key: Vec<u8> = row.get(0).map_err(fail)?;
            let sealed: Vec<u8> = row.get(1).map_err(fail)?;
            let value = self
                .key
                .open(&key, &sealed)
                .map_err(|_| self.damaged("a record does not open"))?;
            rows.push((key, Bytes::copy_from_slice(&value)));
        }
        Ok(rows)
    }
}

/// Makes the file, if there is none, so that other users cannot read it. SQLite gives the files beside it
/// the same rights.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .map(drop)
        .map_err(|source| StoreError::File {
            path: path.to_owned(),
            source,
        })
}

fn failure(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::InUse(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged {
            path,
            what: source.to_string(),
        },
        _ => StoreError::Sqlite { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::proto::step::{Key, LocalId};

    fn open(dir: &Path, key: u8) -> Result<SqliteStore, StoreError> {
        SqliteStore::open(
            dir,
            StoreKey::from_bytes(&[key; 32]),
            ChaCha20Rng::from_seed([key; 32]),
        )
    }

    fn key(n: u64) -> Key {
        Key::Out(LocalId([1; 16]), 2, n)
    }

    #[test]
    fn rows_survive_and_are_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), 1).unwrap();
        let mut delta = Delta::default();
        delta.put(key(1), b"a secret never seen in the file".to_vec());
        delta.put(key(2), b"two".to_vec());
        store.commit(&delta).unwrap();
        let mut delta = Delta::default();
        delta.delete(key(2));
        store.commit(&delta).unwrap();
        drop(store);
        let rows = open(dir.path(), 1).unwrap().load().unwrap();
        assert_eq!(
            rows,
            [(
                key(1).encode(),
                Bytes::from_static(b"a secret never seen in the file")
            )]
        );
        for entry in fs::read_dir(dir.path()).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(12).any(|window| window == b"secret never"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn other_users_cannot_read_the_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), 1).unwrap();
        let mut delta = Delta::default();
        delta.put(key(1), b"one".to_vec());
        store.commit(&delta).unwrap();
        let mut names = Vec::new();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{entry:?}");
            names.push(entry.file_name().into_string().unwrap());
        }
        assert!(names.contains(&format!("{FILE_NAME}-wal")), "{names:?}");
    }

    #[test]
    fn a_second_opener_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path(), 1).unwrap();
        assert!(matches!(open(dir.path(), 1), Err(StoreError::InUse(_))));
    }

    #[test]
    fn a_wrong_key_is_told_from_damage() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), 1).unwrap());
        assert!(matches!(open(dir.path(), 2), Err(StoreError::WrongKey(_))));
        drop(open(dir.path(), 1).unwrap());
    }

    #[test]
    fn damage_is_reported_and_nothing_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, b"this is no database, but it is long enough to be looked at ........................................................").unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(
            open(dir.path(), 1),
            Err(StoreError::Damaged { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_swapped_value_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), 1).unwrap();
        let mut delta = Delta::default();
        delta.put(key(1), b"one".to_vec());
        delta.put(key(2), b"two".to_vec());
        store.commit(&delta).unwrap();
        store
            .connection
            .execute(
                "UPDATE record SET value = (SELECT value FROM record WHERE key = ?1) WHERE key = ?2",
                params![key(1).encode(), key(2).encode()],
            )
            .unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged { .. })));
    }
}
