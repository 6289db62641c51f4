//! Databases as earlier versions left them.
//!
//! `tests/formats/N.sql` is one of format N, made by a version whose newest format that was. When the format changes,
//! add the one that was the newest until then, and its contents below:
//! `cargo test -p junto-agent --test simulation write_the_newest_format -- --ignored` writes it.

use std::fmt::Write as _;
use std::path::Path;

use junto_agent::proto::Command;
use junto_agent::store::{Contents, SqliteStore, Store, StoreError, check};
use junto_crypto::aead::StoreKey;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::world::{Faults, Pair, relay_address, tag};

/// Each format with what its database holds.
const FORMATS: [(i64, &str, Contents); 3] = [
    (
        1,
        include_str!("../formats/1.sql"),
        Contents {
            rows: 6,
            bytes: 0,
            connections: 2,
        },
    ),
    (
        2,
        include_str!("../formats/2.sql"),
        Contents {
            rows: 6,
            bytes: 0,
            connections: 2,
        },
    ),
    (
        3,
        include_str!("../formats/3.sql"),
        Contents {
            rows: 6,
            bytes: 0,
            connections: 2,
        },
    ),
];

fn key() -> StoreKey {
    StoreKey::from_bytes(&[9; 32])
}

fn schema(path: &Path) -> Vec<String> {
    let database = Connection::open(path).unwrap();
    let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
    let mut statement = database.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0));
    let flat = |sql: String| sql.split_whitespace().collect::<Vec<_>>().join(" ");
    rows.unwrap().map(Result::unwrap).map(flat).collect()
}

#[test]
fn a_database_of_each_format_opens_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let fresh = folder.path().join("fresh.db");
    drop(SqliteStore::open(&fresh, key()).unwrap());
    for (format, sql, expected) in FORMATS {
        let path = folder.path().join(format!("{format}.db"));
        let database = Connection::open(&path).unwrap();
        database.execute_batch(sql).unwrap();
        let found = database.pragma_query_value(None, "user_version", |row| row.get(0));
        assert_eq!(found, Ok(format));
        drop(database);
        let mut found = check(&path, key()).unwrap();
        assert!(found.bytes > 1_000);
        found.bytes = 0;
        assert_eq!(found, expected, "format {format}");
        assert_eq!(schema(&path), schema(&fresh), "format {format}");
        // Opened again, nothing is left to do.
        assert_eq!(check(&path, key()).unwrap().rows, expected.rows);
    }
}

#[test]
fn a_database_of_a_later_format_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    drop(SqliteStore::open(&path, key()).unwrap());
    let database = Connection::open(&path).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let before = std::fs::read(&path).unwrap();
    let refused = SqliteStore::open(&path, key()).err();
    assert!(matches!(refused, Some(StoreError::Newer { found: 99, .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// A node with a row of most kinds.
fn made() -> Pair {
    let mut pair = Pair::new(0, true, 128);
    pair.run(Faults::NONE, 200, 3);
    let world = &mut pair.world;
    let command = Command::CreateInvitation {
        tag: tag("another"),
        relay: relay_address(0),
        info: b"for whoever comes".to_vec(),
        about: None,
    };
    world.call(0, command);
    world.settle_only(0);
    let connection = |world: &crate::world::World, node: usize| {
        let (id, ..) = world.nodes[node].app.connected.values().next().unwrap();
        *id
    };
    let (of_zero, of_one) = (connection(world, 0), connection(world, 1));
    let send = |connection, body: &[u8]| Command::Send {
        connection,
        body: body.to_vec(),
    };
    // One waits for the application, one for the relay.
    world.call(1, send(of_one, b"not acknowledged"));
    world.settle_only(1);
    world.settle_only(0);
    world.cut_all(0);
    world.call(0, send(of_zero, b"not sent"));
    world.step(0, Faults::NONE);
    pair
}

fn dump(database: &Connection) -> String {
    let number = |pragma: &str| -> i64 {
        let found = database.pragma_query_value(None, pragma, |row| row.get(0));
        found.unwrap()
    };
    let mut out = String::new();
    for pragma in ["application_id", "user_version"] {
        writeln!(out, "PRAGMA {pragma} = {};", number(pragma)).unwrap();
    }
    let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
    let mut statement = database.prepare(sql).unwrap();
    let tables = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let tables: Vec<(String, String)> = tables.unwrap().map(Result::unwrap).collect();
    for (name, sql) in tables {
        writeln!(out, "{sql};").unwrap();
        let mut statement = database.prepare(&format!("SELECT * FROM {name}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values = (0..columns).map(|at| match row.get(at).unwrap() {
                Value::Integer(number) => number.to_string(),
                Value::Text(text) => format!("'{text}'"),
                Value::Blob(bytes) => {
                    bytes.iter().fold("x'".to_owned(), |mut hex, byte| {
                        write!(hex, "{byte:02x}").unwrap();
                        hex
                    }) + "'"
                }
                other => panic!("{other:?}"),
            });
            let values: Vec<_> = values.collect();
            writeln!(out, "INSERT INTO {name} VALUES ({});", values.join(", ")).unwrap();
        }
    }
    out
}

#[test]
#[ignore = "writes a file into the sources"]
fn write_the_newest_format() {
    let mut pair = made();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let mut store = SqliteStore::open(&path, key()).unwrap();
    let mut delta = junto_agent::proto::Delta::default();
    for (key, row) in pair.world.nodes[0].store.load().unwrap() {
        delta.put(key, row);
    }
    let _ = store.commit(&delta).unwrap();
    drop(store);
    let database = Connection::open(&path).unwrap();
    let format: i64 = database
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    let target = format!("{}/tests/formats/{format}.sql", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(target, dump(&database)).unwrap();
    drop(database);
    panic!("{:?}", check(&path, key()).unwrap());
}
