//! What a relay reads from its disk.

use std::{path::Path, sync::Arc};

use junto_relay::{
    RelayConfig, backup, simplex,
    store::{JournalStore, Memory, Store},
};
use junto_smp::message::Timestamp;

use crate::input::Input;

/// First line of a journal segment.
const MAGIC: &[u8] = b"junto relay journal 1\n";
const QUEUES_MAX: usize = 1_000;
const MEMORY_BYTES: usize = 1 << 20;

/// `relay.toml`.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return;
    };
    match RelayConfig::parse(text, Path::new("dir")) {
        Ok(config) => {
            assert!((1..=8).contains(&config.hosts.len()));
            assert!(config.limits.connections > 0 && config.limits.queues > 0);
            assert!(!config.timeouts.idle.is_zero());
            let printed = format!("{config:?}");
            assert!(!printed.is_empty());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A relay's export: the first byte says whether the pieces after it are names and contents of
/// entries, whose lengths and checksum are then put right, or the file itself.
pub(crate) fn export(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut file = Vec::new();
    if input.u8() & 1 == 0 {
        file.extend_from_slice(b"junto relay export 1\n");
        while !input.is_empty() {
            let name = input.piece();
            let content = input.piece();
            let Some(length @ 1..) = u8::try_from(name.len()).ok() else {
                continue;
            };
            file.push(length);
            file.extend_from_slice(name);
            file.extend_from_slice(&(content.len() as u64).to_be_bytes());
            file.extend_from_slice(content);
        }
        file.push(0);
        let digest = junto_crypto::hash::sha256(&file);
        file.extend_from_slice(&digest);
    } else {
        file.extend_from_slice(input.0);
    }
    let outer = tempfile::tempdir().unwrap();
    let archive = outer.path().join("export");
    std::fs::write(&archive, &file).unwrap();
    let dir = outer.path().join("relay");
    let imported = backup::import(&archive, &dir);
    // Whatever is in it, nothing is written anywhere else, and nothing stays of what is refused.
    let beside = std::fs::read_dir(outer.path()).unwrap().count();
    assert_eq!(beside, 1 + usize::from(dir.exists()));
    if imported.is_err() && dir.exists() {
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }
}

/// The store log of a reference server.
pub(crate) fn store_log(bytes: &[u8]) {
    let path = Path::new("store.log");
    let strict = simplex::survey(bytes, path, false);
    let lenient = simplex::survey(bytes, path, true).unwrap();
    match strict {
        Ok(moved) => assert_eq!(moved, lenient),
        Err(_) => assert!(lenient.skipped > 0),
    }
    assert!(lenient.queues + lenient.strays + lenient.skipped <= lenient.lines);
}

/// A journal segment: the first byte says whether the pieces after it are bodies of records, whose
/// lengths and checksums are then put right, or the file itself.
pub(crate) fn journal(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut file = Vec::new();
    if input.u8() & 1 == 0 {
        file.extend_from_slice(MAGIC);
        while !input.is_empty() {
            let body = input.piece();
            let length = u32::try_from(body.len()).unwrap();
            file.extend_from_slice(&length.to_be_bytes());
            file.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
            file.extend_from_slice(body);
        }
    } else {
        file.extend_from_slice(input.0);
    }
    let dir = tempfile::tempdir().unwrap();
    let segment = dir.path().join("journal.1");
    std::fs::write(&segment, &file).unwrap();
    let Some(first) = load(dir.path()) else {
        // Nothing is overwritten.
        assert_eq!(std::fs::read(&segment).unwrap(), file);
        return;
    };
    assert_eq!(load(dir.path()), Some(first), "what was read once stays");
}

/// Queues, and bytes of messages; `None` if the journal is refused.
fn load(dir: &Path) -> Option<(usize, usize)> {
    let memory = Memory::new(MEMORY_BYTES);
    let store =
        JournalStore::open(dir, false, QUEUES_MAX, Arc::clone(&memory), Timestamp(0)).ok()?;
    let found = (store.queues(), memory.used_bytes());
    store.close().unwrap();
    Some(found)
}
