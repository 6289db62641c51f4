//! Formats of the database file and the way from each to the next.

use rusqlite::Connection;

/// Marks the file as an agent's database: "JUNT".
pub(super) const APPLICATION_ID: i64 = 0x4a55_4e54;

/// Each entry leads from the format of its index to the next one.
const MIGRATIONS: [&str; 4] = [
    "CREATE TABLE profile (name TEXT NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE address (tag BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE request (id BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;
     CREATE TABLE connection (id BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;
     CREATE TABLE invitation (connection BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;
     CREATE TABLE late_key (
         connection BLOB NOT NULL,
         chain INTEGER NOT NULL,
         number INTEGER NOT NULL,
         body BLOB NOT NULL,
         PRIMARY KEY (connection, chain, number)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE outbox (
         connection BLOB NOT NULL,
         number INTEGER NOT NULL,
         body BLOB NOT NULL,
         PRIMARY KEY (connection, number)
     ) STRICT;
     CREATE TABLE early (
         connection BLOB NOT NULL,
         number INTEGER NOT NULL,
         body BLOB NOT NULL,
         PRIMARY KEY (connection, number)
     ) STRICT;
     CREATE TABLE inbox (
         connection BLOB NOT NULL,
         number INTEGER NOT NULL,
         body BLOB NOT NULL,
         PRIMARY KEY (connection, number)
     ) STRICT;",
    "CREATE TABLE renewal (connection BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;",
    "CREATE TABLE parallel (connection BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;",
    "CREATE TABLE noise (connection BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;",
];

/// The newest format.
pub(super) const FORMAT: i64 = MIGRATIONS.len() as i64;

/// Brings the database from format `from` to [`FORMAT`], in one transaction.
pub(super) fn migrate(database: &mut Connection, from: i64) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    for migration in MIGRATIONS
        .iter()
        .skip(usize::try_from(from).unwrap_or(usize::MAX))
    {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(database: &Connection) -> Vec<(String, String)> {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
        let mut statement = database.prepare(sql).unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        rows.map(Result::unwrap)
            .map(|(name, sql): (String, String)| {
                (name, sql.split_whitespace().collect::<Vec<_>>().join(" "))
            })
            .collect()
    }

    #[test]
    fn migrations_make_the_schema_in_the_file() {
        let mut migrated = Connection::open_in_memory().unwrap();
        migrate(&mut migrated, 0).unwrap();
        let written = Connection::open_in_memory().unwrap();
        written.execute_batch(include_str!("schema.sql")).unwrap();
        assert_eq!(tables(&migrated), tables(&written));
        assert_eq!(tables(&migrated).len(), 12);
    }
}
