//! Backups of profiles, and keys under a passphrase. The target holds the passphrase: it seals what the fuzzer invents.

use std::sync::LazyLock;

use junto_backup::{Cost, Locked, MAGIC, NAME_MAX, Name, Purpose, SealedKey, Writer};
use junto_crypto::aead::StoreKey;

use crate::seeds::rng;

const PASSPHRASE: &[u8] = b"p";
const STORE_KEY: [u8; 32] = [9; 32];
/// Files with their content, by name.
type Files = Vec<(String, Vec<u8>)>;

/// The least that Argon2 can cost.
fn cheap() -> Cost {
    Cost::new(8, 1, 1).unwrap()
}

fn is_cheap(cost: Cost) -> bool {
    cost.memory_kib() <= 256 && cost.passes() <= 4
}

/// The first byte tells what the others are meant to be.
pub(crate) fn file(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    match kind {
        0 => whole(bytes),
        1 => sealed(bytes),
        _ => key(bytes),
    }
}

/// A file from a stranger.
fn whole(bytes: &[u8]) {
    let Ok(locked) = Locked::read(bytes) else {
        return;
    };
    // What it may cost at most is tested in the crate.
    if is_cheap(locked.cost()) {
        let _ = read(bytes);
    }
}

/// What the files of a backup are, if it is one.
fn read(bytes: &[u8]) -> Option<Files> {
    let mut backup = Locked::read(bytes).ok()?.open(PASSPHRASE).ok()?;
    let mut files = Files::new();
    while let Some((name, length)) = backup.next_file().ok()? {
        assert!(Name::new(name.as_str()).is_some() && name.as_str().len() <= NAME_MAX);
        assert!(files.last().is_none_or(|(last, _)| **last < *name.as_str()));
        let mut content = Vec::new();
        let mut piece = [0; 100];
        loop {
            match backup.read(&mut piece).ok()? {
                0 => break,
                read => content.extend_from_slice(&piece[..read]),
            }
        }
        assert_eq!(content.len() as u64, length);
        files.push((name.to_string(), content));
    }
    Some(files)
}

/// Content that was sealed under the passphrase, in one chunk. What is read from it makes the same backup again.
fn sealed(content: &[u8]) {
    let content = [&STORE_KEY[..], content].concat();
    let key = StoreKey::from_bytes(&[1; 32]);
    let place = [MAGIC, &0u64.to_be_bytes(), &[1]].concat();
    let chunk = key.seal(&place, &content, &mut rng(2)).unwrap();
    let length = u32::try_from(chunk.len()).unwrap().to_be_bytes();
    let backup = [MAGIC, UNDER_PASSPHRASE.as_slice(), &length, &chunk].concat();
    if let Some(files) = read(&backup) {
        let entries = files.iter().flat_map(|(name, bytes)| {
            let length = (bytes.len() as u64).to_be_bytes();
            [
                &[u8::try_from(name.len()).unwrap()],
                name.as_bytes(),
                &length,
                bytes,
            ]
            .concat()
        });
        let again: Vec<u8> = STORE_KEY.into_iter().chain(entries).chain([0]).collect();
        assert_eq!(again, content);
        assert_eq!(read(&written(&files)), Some(files));
    }
}

/// The key that [`sealed`] seals with, as it is in a backup.
static UNDER_PASSPHRASE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = StoreKey::from_bytes(&[1; 32]);
    let sealed = SealedKey::seal(&key, PASSPHRASE, Purpose::Backup, cheap(), &mut rng(1));
    sealed.unwrap().as_bytes().to_vec()
});

fn written(files: &Files) -> Vec<u8> {
    let key = StoreKey::from_bytes(&STORE_KEY);
    let mut writer = Writer::begin(Vec::new(), &key, PASSPHRASE, cheap(), rng(3)).unwrap();
    for (name, bytes) in files {
        let name = Name::new(name).unwrap();
        writer.file(&name, bytes.len() as u64, &bytes[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// A sealed key, of a profile or a backup.
fn key(bytes: &[u8]) {
    for purpose in [Purpose::Profile, Purpose::Backup] {
        if let Ok(key) = SealedKey::parse(bytes, purpose) {
            assert_eq!(key.as_bytes(), bytes);
            if is_cheap(key.cost()) {
                let _ = key.open(PASSPHRASE);
            }
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let files: Files = [
        ("agent.db", &[3; 90][..]),
        ("bls/k.key", b"a share"),
        ("identity", b""),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
    .into();
    // As `sealed` wants it: without the store key.
    let content = b"\x08agent.db\0\0\0\0\0\0\0\x03abc\x09bls/k.key\0\0\0\0\0\0\0\0\0";
    [
        (0, written(&files)),
        (0, written(&Files::new())),
        (1, content.to_vec()),
        (1, b"\0".to_vec()),
        (2, UNDER_PASSPHRASE.clone()),
    ]
    .into_iter()
    .map(|(kind, bytes)| [vec![kind], bytes].concat())
    .collect()
}
