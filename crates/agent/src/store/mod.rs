//! Where the core's state survives: rows of sealed bytes, changed by whole transactions.

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
    /// A newer version of the program made it.
    #[error("the profile was made by a newer version (format {found}, this version reads {known})")]
    Newer {
        /// Format of the file.
        found: u32,
        /// Newest format that we read.
        known: u32,
    },
    /// No room on the disk. Nothing was changed.
    #[error("the disk is full")]
    Full,
    /// The disk or the database refuses.
    #[error("the profile's database cannot be used: {0}")]
    Database(#[from] rusqlite::Error),
    /// The lock file cannot be made.
    #[error("the profile cannot be locked: {0}")]
    Lock(#[from] std::io::Error),
}
