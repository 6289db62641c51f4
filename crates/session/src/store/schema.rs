//! Versions of the database file and the way from each to the next.

use rusqlite::Connection;

/// Each entry leads from the version of its index to the next one. What they make together stands in
/// `schema.sql`.
const MIGRATIONS: [&str; 1] = [
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
     CREATE TABLE record (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;",
];

/// The newest version.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// What brings a database from version `from` to [`VERSION`].
pub(super) fn migrations(from: i64) -> impl Iterator<Item = &'static str> {
    let done = usize::try_from(from).unwrap_or(usize::MAX);
    MIGRATIONS.into_iter().skip(done)
}

/// Runs them and sets the version, within the caller's transaction.
pub(super) fn migrate(database: &Connection, from: i64) -> rusqlite::Result<()> {
    migrations(from).try_for_each(|migration| database.execute_batch(migration))?;
    database.pragma_update(None, "user_version", VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(database: &Connection) -> Vec<(String, String)> {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
        let mut statement = database.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
        let flat = |(name, sql): (String, String)| {
            let sql = sql
                .lines()
                .filter(|line| !line.trim_start().starts_with("--"));
            let words: Vec<_> = sql.flat_map(str::split_whitespace).collect();
            (name, words.join(" ").replace("( ", "(").replace(" )", ")"))
        };
        rows.unwrap().map(Result::unwrap).map(flat).collect()
    }

    #[test]
    fn a_database_of_each_version_gets_the_schema_in_the_file() {
        let written = Connection::open_in_memory().unwrap();
        written.execute_batch(include_str!("schema.sql")).unwrap();
        assert_eq!(tables(&written).len(), 2);
        for from in 0..=VERSION {
            let database = Connection::open_in_memory().unwrap();
            for migration in &MIGRATIONS[..usize::try_from(from).unwrap()] {
                database.execute_batch(migration).unwrap();
            }
            migrate(&database, from).unwrap();
            assert_eq!(tables(&database), tables(&written), "from {from}");
            let version = database.pragma_query_value(None, "user_version", |row| row.get(0));
            assert_eq!(version, Ok(VERSION));
        }
    }
}
