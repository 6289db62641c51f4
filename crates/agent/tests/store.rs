//! Every store keeps rows the same way; the one on disk also survives what disks and users do.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

use std::path::Path;

use junto_agent::proto::{ConnectionId, Delta, RequestId, Row, RowKey, Tag};
use junto_agent::store::{MemoryStore, SqliteStore, Store, StoreError};
use junto_crypto::aead::StoreKey;

fn row(bytes: &[u8]) -> Row {
    Row::new(bytes.to_vec())
}

fn every_kind() -> Vec<RowKey> {
    let id = ConnectionId::new([3; 16]);
    vec![
        RowKey::Address(Tag::new([1; 32])),
        RowKey::Request(RequestId::new([2; 16])),
        RowKey::LateKey(id, 1, 7),
        RowKey::LateKey(id, u32::MAX, u32::MAX),
        RowKey::Connection(id),
        RowKey::Connection(ConnectionId::new([4; 16])),
        RowKey::Renewal(id),
        RowKey::Invitation(id),
        RowKey::Outbox(id, 0),
        RowKey::Outbox(id, 2),
        RowKey::Outbox(id, 10),
        RowKey::Early(id, 5),
        RowKey::Inbox(id, 1),
        RowKey::Inbox(ConnectionId::new([4; 16]), 1),
    ]
}

fn contents(store: &mut dyn Store) -> Vec<(RowKey, Vec<u8>)> {
    let rows = store.load().unwrap();
    rows.into_iter()
        .map(|(key, row)| (key, row.to_vec()))
        .collect()
}

fn keeps_rows_of_every_kind_in_order(store: &mut dyn Store) {
    assert_eq!(contents(store), []);
    let mut delta = Delta::default();
    for (number, key) in every_kind().into_iter().enumerate().rev() {
        delta.put(key, row(&vec![number as u8; number * 2_000]));
    }
    let _ = store.commit(&delta).unwrap();
    let expected: Vec<_> = every_kind()
        .into_iter()
        .enumerate()
        .map(|(number, key)| (key, vec![number as u8; number * 2_000]))
        .collect();
    assert_eq!(contents(store), expected);
}

fn replaces_and_deletes(store: &mut dyn Store) {
    for key in every_kind() {
        let mut delta = Delta::default();
        delta.put(key, row(b"first"));
        let _ = store.commit(&delta).unwrap();
        delta.put(key, row(b"second"));
        let _ = store.commit(&delta).unwrap();
        assert_eq!(contents(store), [(key, b"second".to_vec())]);
        delta.delete(key);
        let _ = store.commit(&delta).unwrap();
        assert_eq!(contents(store), []);
        // Deleting what is not there is no error: a step may make and delete.
        let _ = store.commit(&delta).unwrap();
    }
}

fn takes_empty_rows_and_deltas(store: &mut dyn Store) {
    let _ = store.commit(&Delta::default()).unwrap();
    let mut delta = Delta::default();
    delta.put(every_kind()[0], row(b""));
    let _ = store.commit(&delta).unwrap();
    assert_eq!(contents(store), [(every_kind()[0], Vec::new())]);
}

macro_rules! store_conformance {
    ($name:ident, $with:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn keeps_rows_of_every_kind_in_order() {
                $with(&mut |store| super::keeps_rows_of_every_kind_in_order(store));
            }

            #[test]
            fn replaces_and_deletes() {
                $with(&mut |store| super::replaces_and_deletes(store));
            }

            #[test]
            fn takes_empty_rows_and_deltas() {
                $with(&mut |store| super::takes_empty_rows_and_deltas(store));
            }
        }
    };
}

store_conformance!(memory, |test: &mut dyn FnMut(&mut dyn Store)| test(
    &mut MemoryStore::default()
));
store_conformance!(sqlite, |test: &mut dyn FnMut(&mut dyn Store)| {
    let folder = tempfile::tempdir().unwrap();
    test(&mut open(&folder.path().join("agent.db"), 1).unwrap());
});

fn open(path: &Path, key: u8) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, StoreKey::from_bytes(&[key; 32]))
}

/// A database with one row, closed.
fn filled(path: &Path) {
    let mut delta = Delta::default();
    delta.put(every_kind()[4], row(b"the keys of a connection"));
    let _ = open(path, 1).unwrap().commit(&delta).unwrap();
}

fn error(result: Result<SqliteStore, StoreError>) -> StoreError {
    match result {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[test]
fn rows_are_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    filled(&path);
    assert_eq!(contents(&mut open(&path, 1).unwrap()).len(), 1);
}

#[test]
fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let first = open(&path, 1).unwrap();
    assert!(matches!(error(open(&path, 1)), StoreError::Busy));
    drop(first);
    open(&path, 1).unwrap();
}

#[test]
fn a_wrong_key_is_told_from_damage_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    filled(&path);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(error(open(&path, 2)), StoreError::WrongKey));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(contents(&mut open(&path, 1).unwrap()).len(), 1);
}

#[test]
fn a_file_that_is_not_ours_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("letter.txt");
    std::fs::write(&text, "Dear Ada, ".repeat(1_000)).unwrap();
    assert!(matches!(error(open(&text, 1)), StoreError::Damaged(_)));
    assert_eq!(
        std::fs::read_to_string(&text).unwrap(),
        "Dear Ada, ".repeat(1_000)
    );

    let other = folder.path().join("other.db");
    let database = rusqlite::Connection::open(&other).unwrap();
    database
        .execute_batch("CREATE TABLE songs (name TEXT)")
        .unwrap();
    drop(database);
    let before = std::fs::read(&other).unwrap();
    assert!(matches!(error(open(&other, 1)), StoreError::Damaged(_)));
    assert_eq!(std::fs::read(&other).unwrap(), before);
}

#[test]
fn a_damaged_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    filled(&path);
    let whole = std::fs::read(&path).unwrap();
    for at in (100..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        for byte in damaged.iter_mut().skip(at).take(64) {
            *byte ^= 0x55;
        }
        std::fs::write(&path, &damaged).unwrap();
        // Damage in free space is none; any other is seen when opening or when reading.
        let rows = open(&path, 1).and_then(|mut store| store.load());
        match rows {
            Ok(rows) => assert_eq!(&**rows[0].1, b"the keys of a connection", "at {at}"),
            Err(StoreError::Damaged(_) | StoreError::WrongKey) => {
                assert_eq!(std::fs::read(&path).unwrap(), damaged, "at {at}");
            }
            Err(error) => panic!("at {at}: {error}"),
        }
    }
}

#[test]
fn sealed_rows_cannot_change_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    filled(&path);
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute("UPDATE connection SET id = ?1", [[9_u8; 16]])
        .unwrap();
    drop(database);
    let loaded = open(&path, 1).unwrap().load();
    assert!(matches!(loaded, Err(StoreError::Damaged(_))));
}

#[test]
fn a_newer_format_is_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    filled(&path);
    let database = rusqlite::Connection::open(&path).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    assert!(matches!(
        error(open(&path, 1)),
        StoreError::Newer {
            found: 99,
            known: 4
        }
    ));
}

#[test]
fn nothing_readable_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    filled(&path);
    let bytes = std::fs::read(&path).unwrap();
    let secret = b"the keys of a connection";
    assert!(!bytes.windows(secret.len()).any(|window| window == secret));
}

#[cfg(unix)]
#[test]
fn other_users_cannot_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let mut store = open(&path, 1).unwrap();
    let _ = store.commit(&Delta::default()).unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}

/// A file system of one megabyte, if this machine lets us make one; otherwise nothing is tested.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_changes_nothing_and_may_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(folder.path())
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let mut store = open(&folder.path().join("agent.db"), 1).unwrap();
        let id = ConnectionId::new([1; 16]);
        let mut kept = 0;
        let refused = loop {
            let mut delta = Delta::default();
            delta.put(RowKey::Outbox(id, kept), row(&[7; 16_000]));
            delta.put(RowKey::Connection(id), row(&kept.to_be_bytes()));
            match store.commit(&delta) {
                Ok(_) => kept += 1,
                Err(error) => break error,
            }
            assert!(kept < 1_000);
        };
        assert!(matches!(refused, StoreError::Full), "{refused}");
        let rows = contents(&mut store);
        assert_eq!(rows.len() as u64, kept + 1);
        assert_eq!(rows[0].1, (kept - 1).to_be_bytes());
        let mut delta = Delta::default();
        for number in 0..kept {
            delta.delete(RowKey::Outbox(id, number));
        }
        let _ = store.commit(&delta);
        let mut delta = Delta::default();
        delta.put(RowKey::Connection(id), row(b"again"));
        let _ = store.commit(&delta);
        contents(&mut store);
    });
    let unmounted = std::process::Command::new("umount")
        .arg(folder.path())
        .status();
    assert!(unmounted.unwrap().success());
    result.unwrap();
}

#[test]
fn a_file_whose_maker_died_at_once_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let begun = rusqlite::Connection::open(&path).unwrap();
    begun
        .pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
        .unwrap();
    drop(begun);
    assert!(path.metadata().unwrap().len() > 0);
    filled(&path);
    assert_eq!(open(&path, 1).unwrap().load().unwrap().len(), 1);
}

#[test]
fn the_files_do_not_grow_with_what_has_passed_through() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("agent.db"), 1).unwrap();
    let id = ConnectionId::new([1; 16]);
    let size = || -> u64 {
        let files = std::fs::read_dir(folder.path()).unwrap();
        let files = files.map(|file| file.unwrap().metadata().unwrap().len());
        files.sum()
    };
    // A window of 64 messages moves on by as many in each commit.
    let mut pass = |from: u64, to: u64| {
        for number in from..to {
            let mut delta = Delta::default();
            for at in 0..64 {
                delta.put(RowKey::Outbox(id, (number + 1) * 64 + at), row(&[7; 2_000]));
                delta.delete(RowKey::Outbox(id, number * 64 + at));
            }
            let _ = store.commit(&delta).unwrap();
        }
    };
    // Long enough for the log to have been written back and begun anew.
    pass(0, 100);
    let before = size();
    pass(100, 400);
    assert!(size() <= before + before / 8, "{before} to {}", size());
    assert!(before < 32 << 20, "{before}");
}
