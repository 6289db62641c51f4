//! A relay with a folder, which outlives it.

use std::path::{Path, PathBuf};

use junto_relay::bench::{OwnQueue, Peer, Said};
use junto_relay::{Relay, RelayError, RunningRelay, Storage, init_dir, load_dir};
use junto_smp::command::Command;

use super::{acked, opened};

/// A relay in `dir` on any free port. Without waiting for the disk: `kill -9` does not need it, and
/// tests are many.
pub(crate) async fn open(dir: &Path) -> Result<RunningRelay, RelayError> {
    let (mut config, identity) = load_dir(dir).unwrap();
    config.bind = "127.0.0.1:0".parse().unwrap();
    if let Storage::Journal { sync, .. } = &mut config.storage {
        *sync = false;
    }
    Relay::start(config, identity).await
}

pub(crate) fn relay_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    init_dir(dir.path(), "127.0.0.1", 5223).unwrap();
    dir
}

/// The files of the journal that count, in order of their numbers.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(dir.join("journal"))
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let number = path.extension()?.to_str()?.parse().ok()?;
            Some((number, path))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Takes everything that waits in `queue`.
pub(crate) async fn drained(peer: &mut Peer, queue: &OwnQueue) -> Vec<Option<Vec<u8>>> {
    let mut bodies = Vec::new();
    let mut next = match peer.own(queue, Command::Get).await.unwrap() {
        Said::Message(id, sealed) => Some((id, sealed)),
        Said::Ok => None,
        other => panic!("{other:?}"),
    };
    while let Some((id, sealed)) = next {
        bodies.push(opened(&queue.delivery, &id, &sealed));
        assert_eq!(acked(peer, queue, id).await, None);
        next = match peer.own(queue, Command::Get).await.unwrap() {
            Said::Message(id, sealed) => Some((id, sealed)),
            _ => None,
        };
    }
    bodies
}
