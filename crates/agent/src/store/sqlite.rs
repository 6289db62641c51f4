//! Rows in one SQLite file, each body sealed under the profile's key.
//!
//! Write-ahead log, `synchronous = FULL`: a commit is on the disk when it returns. One process at a
//! time, by a lock on a file beside the database.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use junto_crypto::aead::StoreKey;
use rand_chacha::ChaCha20Rng;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction};

use super::schema::{self, APPLICATION_ID, FORMAT};
use super::{Store, StoreError};
use crate::proto::{Committed, ConnectionId, Delta, RequestId, Row, RowKey, Tag};
use crate::random::generator;

/// What the row that checks the key says.
const CHECK: &[u8] = b"junto agent profile";

/// See the module.
pub struct SqliteStore {
    database: Connection,
    key: StoreKey,
    rng: ChaCha20Rng,
    /// Held as long as the store is open.
    _lock: File,
}

impl SqliteStore {
    /// Opens the database of a profile, or makes it.
    ///
    /// # Errors
    /// [`StoreError`]; a file that is not ours, damaged, newer or of another key is left as it is.
    pub fn open(path: &Path, key: StoreKey) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let exists = path.metadata().is_ok_and(|file| file.len() > 0);
        if !exists {
            private_file(path)?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let flags = if exists {
            flags
        } else {
            flags | OpenFlags::SQLITE_OPEN_CREATE
        };
        let mut database = Connection::open_with_flags(path, flags).map_err(fault)?;
        let from = if exists { format_of(&database)? } else { 0 };
        configure(&database).map_err(fault)?;
        if from < FORMAT {
            schema::migrate(&mut database, from).map_err(fault)?;
        }
        let rng = generator().map_err(|_| std::io::Error::other("no randomness"))?;
        let mut store = Self {
            database,
            key,
            rng,
            _lock: lock,
        };
        store.check_key()?;
        Ok(store)
    }

    /// Checks the key against the sealed text, or seals it if the profile is new.
    fn check_key(&mut self) -> Result<(), StoreError> {
        let sql = "SELECT body FROM profile WHERE name = 'check'";
        let found = self
            .database
            .query_row(sql, [], |row| row.get::<_, Vec<u8>>(0));
        match found {
            Ok(body) => match self.key.open(b"profile check", &body) {
                Ok(text) if **text == *CHECK => Ok(()),
                Ok(_) | Err(_) => Err(StoreError::WrongKey),
            },
            Err(rusqlite::Error::QueryReturnedNoRows) => {
                let sealed = self.key.seal(b"profile check", CHECK, &mut self.rng);
                let sealed = sealed.map_err(|_| StoreError::Damaged("key check"))?;
                let sql = "INSERT INTO profile (name, body) VALUES ('check', ?1)";
                self.database.execute(sql, [sealed]).map_err(fault)?;
                Ok(())
            }
            Err(error) => Err(fault(error)),
        }
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
        const CONTEXT: &[u8] = b"profile mark";
        let sql = "SELECT body FROM profile WHERE name = 'mark'";
        let found: Option<Vec<u8>> = self
            .database
            .query_row(sql, [], |row| row.get(0))
            .optional()
            .map_err(fault)?;
        let found = match found {
            None => None,
            Some(body) => {
                let opened = self.key.open(CONTEXT, &body);
                let mark = opened.ok().and_then(|mark| mark.as_slice().try_into().ok());
                Some(mark.ok_or(StoreError::Damaged("its mark is forged"))?)
            }
        };
        let next = succeed(found).ok_or(StoreError::Outdated)?;
        if found == Some(next) {
            return Ok(());
        }
        let sealed = self.key.seal(CONTEXT, &next, &mut self.rng);
        let sealed = sealed.map_err(|_| StoreError::Damaged("mark"))?;
        let sql = "INSERT OR REPLACE INTO profile (name, body) VALUES ('mark', ?1)";
        self.database.execute(sql, [sealed]).map_err(fault)?;
        Ok(())
    }

    /// Looks at every page of the file and at the order of every index.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub(super) fn check_pages(&self) -> Result<(), StoreError> {
        for check in ["integrity_check(1)", "foreign_key_check"] {
            let verdict = self
                .database
                .query_row(&format!("PRAGMA {check}"), [], |row| {
                    row.get::<_, String>(0)
                })
                .optional()
                .map_err(fault)?;
            if verdict.is_some_and(|verdict| verdict != "ok") {
                return Err(StoreError::Damaged("its pages do not fit together"));
            }
        }
        Ok(())
    }

    fn rows_of<K>(
        &self,
        sql: &str,
        key: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<K>,
        name: impl Fn(K) -> RowKey,
        out: &mut Vec<(RowKey, Row)>,
    ) -> Result<(), StoreError> {
        let mut statement = self.database.prepare(sql).map_err(fault)?;
        let mut rows = statement.query([]).map_err(fault)?;
        while let Some(row) = rows.next().map_err(fault)? {
            let body: Vec<u8> = row.get("body").map_err(fault)?;
            let key = name(key(row).map_err(fault)?);
            let opened = self.key.open(&sealing_context(&key), &body);
            out.push((
                key,
                opened.map_err(|_| StoreError::Damaged("a record is forged"))?,
            ));
        }
        Ok(())
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Vec<(RowKey, Row)>, StoreError> {
        let mut out = Vec::new();
        let id = |row: &rusqlite::Row<'_>| row.get::<_, [u8; 16]>("id");
        let connection = |row: &rusqlite::Row<'_>| row.get::<_, [u8; 16]>("connection");
        let numbered = |row: &rusqlite::Row<'_>| {
            Ok((
                row.get::<_, [u8; 16]>("connection")?,
                row.get::<_, i64>("number")?.cast_unsigned(),
            ))
        };
        let late = |row: &rusqlite::Row<'_>| {
            Ok((
                row.get("connection")?,
                row.get::<_, u32>("chain")?,
                row.get::<_, u32>("number")?,
            ))
        };
        self.rows_of(
            "SELECT tag, body FROM address ORDER BY tag",
            |row| row.get::<_, [u8; 32]>("tag"),
            |tag| RowKey::Address(Tag::new(tag)),
            &mut out,
        )?;
        self.rows_of(
            "SELECT id, body FROM request ORDER BY id",
            id,
            |id| RowKey::Request(RequestId::new(id)),
            &mut out,
        )?;
        self.rows_of(
            "SELECT connection, chain, number, body FROM late_key ORDER BY connection, chain, number",
            late,
            |(id, chain, number)| RowKey::LateKey(ConnectionId::new(id), chain, number),
            &mut out,
        )?;
        self.rows_of(
            "SELECT id, body FROM connection ORDER BY id",
            id,
            |id| RowKey::Connection(ConnectionId::new(id)),
            &mut out,
        )?;
        self.rows_of(
            "SELECT connection, body FROM renewal ORDER BY connection",
            connection,
            |id| RowKey::Renewal(ConnectionId::new(id)),
            &mut out,
        )?;
        self.rows_of(
            "SELECT connection, body FROM parallel ORDER BY connection",
            connection,
            |id| RowKey::Parallel(ConnectionId::new(id)),
            &mut out,
        )?;
        self.rows_of(
            "SELECT connection, body FROM noise ORDER BY connection",
            connection,
            |id| RowKey::Noise(ConnectionId::new(id)),
            &mut out,
        )?;
        self.rows_of(
            "SELECT connection, body FROM invitation ORDER BY connection",
            connection,
            |id| RowKey::Invitation(ConnectionId::new(id)),
            &mut out,
        )?;
        self.rows_of(
            "SELECT connection, number, body FROM outbox ORDER BY connection, number",
            numbered,
            |(id, number)| RowKey::Outbox(ConnectionId::new(id), number),
            &mut out,
        )?;
        self.rows_of(
            "SELECT connection, number, body FROM early ORDER BY connection, number",
            numbered,
            |(id, number)| RowKey::Early(ConnectionId::new(id), number),
            &mut out,
        )?;
        self.rows_of(
            "SELECT connection, number, body FROM inbox ORDER BY connection, number",
            numbered,
            |(id, number)| RowKey::Inbox(ConnectionId::new(id), number),
            &mut out,
        )?;
        Ok(out)
    }

    fn commit(&mut self, delta: &Delta) -> Result<Committed, StoreError> {
        let transaction = self.database.transaction().map_err(fault)?;
        for (key, row) in delta.rows() {
            match row {
                Some(row) => {
                    let sealed = self.key.seal(&sealing_context(key), row, &mut self.rng);
                    let sealed = sealed.map_err(|_| StoreError::Damaged("a record is too long"))?;
                    put(&transaction, key, &sealed).map_err(fault)?;
                }
                None => delete(&transaction, key).map_err(fault)?,
            }
        }
        transaction.commit().map_err(fault)?;
        Ok(Committed::promised())
    }
}

fn put(transaction: &Transaction<'_>, key: &RowKey, body: &[u8]) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        transaction.prepare_cached(sql)?.execute(values).map(|_| ())
    };
    match key {
        RowKey::Address(tag) => run(
            "INSERT OR REPLACE INTO address (tag, body) VALUES (?1, ?2)",
            &[tag.as_bytes(), &body],
        ),
        RowKey::Request(id) => run(
            "INSERT OR REPLACE INTO request (id, body) VALUES (?1, ?2)",
            &[id.as_bytes(), &body],
        ),
        RowKey::Connection(id) => run(
            "INSERT INTO connection (id, body) VALUES (?1, ?2)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            &[id.as_bytes(), &body],
        ),
        RowKey::Renewal(id) => run(
            "INSERT INTO renewal (connection, body) VALUES (?1, ?2)
             ON CONFLICT (connection) DO UPDATE SET body = excluded.body",
            &[id.as_bytes(), &body],
        ),
        RowKey::Parallel(id) => run(
            "INSERT INTO parallel (connection, body) VALUES (?1, ?2)
             ON CONFLICT (connection) DO UPDATE SET body = excluded.body",
            &[id.as_bytes(), &body],
        ),
        RowKey::Noise(id) => run(
            "INSERT INTO noise (connection, body) VALUES (?1, ?2)
             ON CONFLICT (connection) DO UPDATE SET body = excluded.body",
            &[id.as_bytes(), &body],
        ),
        RowKey::Invitation(id) => run(
            "INSERT OR REPLACE INTO invitation (connection, body) VALUES (?1, ?2)",
            &[id.as_bytes(), &body],
        ),
        RowKey::LateKey(id, chain, number) => run(
            "INSERT OR REPLACE INTO late_key (connection, chain, number, body) VALUES (?1, ?2, ?3, ?4)",
            &[id.as_bytes(), chain, number, &body],
        ),
        RowKey::Outbox(id, number) => run(
            "INSERT OR REPLACE INTO outbox (connection, number, body) VALUES (?1, ?2, ?3)",
            &[id.as_bytes(), &number.cast_signed(), &body],
        ),
        RowKey::Early(id, number) => run(
            "INSERT OR REPLACE INTO early (connection, number, body) VALUES (?1, ?2, ?3)",
            &[id.as_bytes(), &number.cast_signed(), &body],
        ),
        RowKey::Inbox(id, number) => run(
            "INSERT OR REPLACE INTO inbox (connection, number, body) VALUES (?1, ?2, ?3)",
            &[id.as_bytes(), &number.cast_signed(), &body],
        ),
    }
}

fn delete(transaction: &Transaction<'_>, key: &RowKey) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        transaction.prepare_cached(sql)?.execute(values).map(|_| ())
    };
    match key {
        RowKey::Address(tag) => run("DELETE FROM address WHERE tag = ?1", &[tag.as_bytes()]),
        RowKey::Request(id) => run("DELETE FROM request WHERE id = ?1", &[id.as_bytes()]),
        RowKey::Connection(id) => run("DELETE FROM connection WHERE id = ?1", &[id.as_bytes()]),
        RowKey::Renewal(id) => run(
            "DELETE FROM renewal WHERE connection = ?1",
            &[id.as_bytes()],
        ),
        RowKey::Parallel(id) => run(
            "DELETE FROM parallel WHERE connection = ?1",
            &[id.as_bytes()],
        ),
        RowKey::Noise(id) => run("DELETE FROM noise WHERE connection = ?1", &[id.as_bytes()]),
        RowKey::Invitation(id) => run(
            "DELETE FROM invitation WHERE connection = ?1",
            &[id.as_bytes()],
        ),
        RowKey::LateKey(id, chain, number) => run(
            "DELETE FROM late_key WHERE connection = ?1 AND chain = ?2 AND number = ?3",
            &[id.as_bytes(), chain, number],
        ),
        RowKey::Outbox(id, number) => run(
            "DELETE FROM outbox WHERE connection = ?1 AND number = ?2",
            &[id.as_bytes(), &number.cast_signed()],
        ),
        RowKey::Early(id, number) => run(
            "DELETE FROM early WHERE connection = ?1 AND number = ?2",
            &[id.as_bytes(), &number.cast_signed()],
        ),
        RowKey::Inbox(id, number) => run(
            "DELETE FROM inbox WHERE connection = ?1 AND number = ?2",
            &[id.as_bytes(), &number.cast_signed()],
        ),
    }
}

/// Binds a sealed body to its table and row.
fn sealing_context(key: &RowKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    match key {
        RowKey::Address(tag) => {
            out.push(b'A');
            out.extend_from_slice(tag.as_bytes());
        }
        RowKey::Request(id) => {
            out.push(b'R');
            out.extend_from_slice(id.as_bytes());
        }
        RowKey::Connection(id) => {
            out.push(b'C');
            out.extend_from_slice(id.as_bytes());
        }
        RowKey::Renewal(id) => {
            out.push(b'N');
            out.extend_from_slice(id.as_bytes());
        }
        RowKey::Parallel(id) => {
            out.push(b'P');
            out.extend_from_slice(id.as_bytes());
        }
        RowKey::Noise(id) => {
            out.push(b'S');
            out.extend_from_slice(id.as_bytes());
        }
        RowKey::Invitation(id) => {
            out.push(b'L');
            out.extend_from_slice(id.as_bytes());
        }
        RowKey::LateKey(id, chain, number) => {
            out.push(b'K');
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&chain.to_be_bytes());
            out.extend_from_slice(&number.to_be_bytes());
        }
        RowKey::Outbox(id, number) => {
            out.push(b'O');
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&number.to_be_bytes());
        }
        RowKey::Early(id, number) => {
            out.push(b'E');
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&number.to_be_bytes());
        }
        RowKey::Inbox(id, number) => {
            out.push(b'I');
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
    out
}

/// How often a lock is tried, and the pause in between: whoever has just ended, or a child of another
/// program between fork and exec, lets go within moments.
const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock file beside the database. It stays there; only the lock on it counts.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = OsString::from(path.as_os_str());
    name.push(".lock");
    let file = private_file(&PathBuf::from(name))?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(StoreError::Busy)
}

/// Opens a file, or makes one that other users cannot read. SQLite gives the files beside it the same
/// rights.
fn private_file(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    Ok(options.open(path)?)
}

/// The format of an existing file, which must be one of ours and whole.
fn format_of(database: &Connection) -> Result<i64, StoreError> {
    let number = |pragma: &str| {
        database
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(fault)
    };
    if number("application_id")? == 0 && number("page_count")? <= 1 {
        // Whoever made the file died before the first transaction: there is nothing in it.
        return Ok(0);
    }
    if number("application_id")? != APPLICATION_ID {
        return Err(StoreError::Damaged("not an agent's database"));
    }
    let found = number("user_version")?;
    if found > FORMAT {
        return Err(StoreError::Newer {
            found,
            known: FORMAT,
        });
    }
    let check = "quick_check(1)";
    let verdict = database.query_row(&format!("PRAGMA {check}"), [], |row| {
        row.get::<_, String>(0)
    });
    match verdict.map_err(fault)?.as_str() {
        "ok" => Ok(found),
        _ => Err(StoreError::Damaged("its pages do not fit together")),
    }
}

fn configure(database: &Connection) -> rusqlite::Result<()> {
    // With the lock held there is nobody to share memory with.
    database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    // A 16 KiB message then takes three pages.
    database.pragma_update(None, "page_size", 8192)?;
    database.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    database.pragma_update(None, "synchronous", "FULL")?;
    // Sealed bodies of deleted rows are overwritten.
    database.pragma_update(None, "secure_delete", "FAST")?;
    database.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn fault(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(ErrorCode::NotADatabase) => StoreError::Damaged("not a database"),
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged("its pages do not fit together"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
        _ => StoreError::Database(error),
    }
}
