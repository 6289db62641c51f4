//! Where the core's state survives: rows of sealed bytes, changed by whole transactions.

mod memory;
mod schema;
mod sqlite;
mod upkeep;

pub use memory::MemoryStore;
pub use sqlite::SqliteStore;
pub use upkeep::{Contents, came_back, check};

use crate::proto::{Committed, Delta, Row, RowKey};

/// Keeps rows.
///
/// After a crash at any moment, [`Store::load`] gives what some commit left: the last one that
/// returned, or the one under way.
pub trait Store: Send {
    /// All rows, in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    fn load(&mut self) -> Result<Vec<(RowKey, Row)>, StoreError>;

    /// Applies all changes or none. When it returns, they are durable.
    ///
    /// # Errors
    /// [`StoreError`] if they could not be applied; nothing has changed then, and the same commit
    /// may be tried again.
    fn commit(&mut self, delta: &Delta) -> Result<Committed, StoreError>;
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the profile open.
    #[error("another process is using this profile")]
    Busy,
    /// The key does not open this store.
    #[error("the key does not open this profile")]
    WrongKey,
    /// The file is not an agent store, or it is damaged. It was left as it is.
    #[error("the profile's database is damaged or not one of ours ({0}); it was left as it is")]
    Damaged(&'static str),
    /// It is an older copy, restored from a backup, say. It was left as it is.
    #[error("the profile's database is an older copy than the one in use; it was left as it is")]
    Outdated,
    /// A newer version of the program made it.
    #[error("the profile was made by a newer version (format {found}, this version reads {known})")]
    Newer {
        /// Format of the file.
        found: i64,
        /// Newest format that we read.
        known: i64,
    },
    /// No room on the disk. Nothing was changed.
    #[error("the disk is full")]
    Full,
    /// The disk or the database refuses.
    #[error("the profile's database cannot be used: {0}")]
    Database(#[source] rusqlite::Error),
    /// The file or its lock cannot be used.
    #[error("the profile's files cannot be used: {0}")]
    File(#[from] std::io::Error),
}

impl StoreError {
    /// The same error for one more caller, without its source.
    pub(crate) fn same_kind(&self) -> Self {
        match self {
            Self::Busy => Self::Busy,
            Self::WrongKey => Self::WrongKey,
            Self::Outdated => Self::Outdated,
            Self::Damaged(what) => Self::Damaged(what),
            Self::Newer { found, known } => Self::Newer {
                found: *found,
                known: *known,
            },
            Self::Full => Self::Full,
            Self::Database(error) => Self::File(std::io::Error::other(error.to_string())),
            Self::File(error) => Self::File(std::io::Error::new(error.kind(), error.to_string())),
        }
    }
}
