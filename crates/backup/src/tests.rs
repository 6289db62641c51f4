//! What is written comes back whole, or is refused.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use junto_crypto::aead::StoreKey;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::writer::Chunks;
use crate::*;

type Files = Vec<(String, Vec<u8>)>;

const STORE_KEY: [u8; 32] = [9; 32];
const HEAD_BYTES: usize = MAGIC.len() + SEALED_KEY_BYTES;
/// Where the parameters of Argon2 are: changed, they may ask for a gigabyte, which `key` tests.
const COST: core::ops::Range<usize> = MAGIC.len() + 3..MAGIC.len() + 15;

fn cheap() -> Cost {
    Cost::new(8, 1, 1).unwrap()
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::from_seed([5; 32])
}

fn written(files: &Files) -> Vec<u8> {
    let key = StoreKey::from_bytes(&STORE_KEY);
    let mut writer = Writer::begin(Vec::new(), &key, b"p", cheap(), rng()).unwrap();
    for (name, bytes) in files {
        let name = Name::new(name).unwrap();
        writer.file(&name, bytes.len() as u64, &bytes[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8], passphrase: &[u8]) -> Result<Files, BackupError> {
    let mut reader = Locked::read(bytes)?.open(passphrase)?;
    assert_eq!(*reader.store_key().as_bytes(), STORE_KEY);
    let mut files = Files::new();
    while let Some((name, length)) = reader.next_file()? {
        let mut content = Vec::new();
        let mut buffer = [0; 777];
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                read => content.extend_from_slice(&buffer[..read]),
            }
        }
        assert_eq!(content.len() as u64, length);
        files.push((name.to_string(), content));
    }
    assert!(reader.next_file()?.is_none(), "its end stays its end");
    Ok(files)
}

/// A backup whose content is this, whatever it is.
fn forged(content: &[u8]) -> Vec<u8> {
    let key = StoreKey::from_bytes(&[1; 32]);
    let sealed = SealedKey::seal(&key, b"p", Purpose::Backup, cheap(), &mut rng()).unwrap();
    let mut chunks = Chunks::new(key, Vec::new(), rng());
    chunks.write_all(content).unwrap();
    let chunks = chunks.finish().unwrap();
    [MAGIC, sealed.as_bytes(), &chunks].concat()
}

fn entry(name: &str, bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_be_bytes();
    [&[name.len() as u8], name.as_bytes(), &length, bytes].concat()
}

fn some_files() -> Files {
    let files = [
        ("agent.db", &[3; 300][..]),
        ("bls/k.key", b"a share"),
        ("identity", b""),
    ];
    files
        .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
        .into()
}

#[test]
fn every_cut_and_every_changed_byte_is_refused() {
    let good = written(&some_files());
    assert_eq!(read(&good, b"p").unwrap(), some_files());
    assert!(matches!(read(&good, b"q"), Err(BackupError::Passphrase)));
    for at in 0..good.len() {
        let cut = read(&good[..at], b"p");
        assert!(matches!(cut, Err(BackupError::Cut)), "cut at {at}: {cut:?}");
        let mut bad = good.clone();
        bad[at] ^= 0x80;
        assert!(read(&bad, b"p").is_err(), "byte {at}");
    }
    let longer = read(&[&good[..], &[0]].concat(), b"p");
    assert!(matches!(longer, Err(BackupError::Surplus)));
}

/// Where the chunks of a backup begin, and its end.
fn starts(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![HEAD_BYTES];
    while let Some(at) = starts.last().copied().filter(|at| *at < bytes.len()) {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        starts.push(at + 4 + length as usize);
    }
    starts
}

#[test]
fn chunks_come_in_their_order_all_of_them_and_once() {
    // The content has 42 bytes beside the file's: the chunks end before, at and after their bound.
    let beside = KEY_BYTES + entry("a", b"").len() + 1;
    for length in [
        0,
        1,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        3 * CHUNK_BYTES,
    ] {
        let content: Vec<u8> = (0..length.max(beside) - beside)
            .map(|at| at as u8)
            .collect();
        let files = vec![("a".to_owned(), content)];
        let bytes = written(&files);
        assert_eq!(read(&bytes, b"p").unwrap(), files);
        let starts = starts(&bytes);
        assert_eq!(
            starts.len() - 1,
            length.max(1).div_ceil(CHUNK_BYTES),
            "{length}"
        );
        for pair in starts.windows(2) {
            let without = [&bytes[..pair[0]], &bytes[pair[1]..]].concat();
            assert!(read(&without, b"p").is_err());
            assert!(read(&bytes[..pair[0]], b"p").is_err());
            let twice = [&bytes[..pair[1]], &bytes[pair[0]..]].concat();
            assert!(read(&twice, b"p").is_err());
        }
    }
}

#[test]
fn a_list_that_lies_is_refused() {
    let end = vec![0];
    let good = [
        STORE_KEY.to_vec(),
        entry("a", b"x"),
        entry("b", b""),
        end.clone(),
    ]
    .concat();
    assert_eq!(read(&forged(&good), b"p").unwrap().len(), 2);
    let of =
        |entries: &[Vec<u8>]| read(&forged(&[&STORE_KEY[..], &entries.concat()].concat()), b"p");
    for name in [
        "../escaped",
        "/tmp/escaped",
        "lock",
        "key",
        "key.sealed",
        "a/b/c/d",
        "a/../c",
        "x-wal",
        "\u{1f}",
    ] {
        let found = of(&[entry(name, b"x"), end.clone()]);
        assert!(matches!(found, Err(BackupError::Name)), "{name}");
    }
    // Out of order, twice, not ended, going on after its end, longer than it is.
    let twice = of(&[entry("b", b""), entry("a", b""), end.clone()]);
    assert!(matches!(twice, Err(BackupError::Name)));
    let twice = of(&[entry("a", b""), entry("a", b""), end.clone()]);
    assert!(matches!(twice, Err(BackupError::Name)));
    assert!(matches!(of(&[entry("a", b"")]), Err(BackupError::Cut)));
    assert!(matches!(
        of(&[end.clone(), end.clone()]),
        Err(BackupError::Surplus)
    ));
    let mut long = entry("a", b"x");
    long[2..10].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(matches!(of(&[long, end]), Err(BackupError::Cut)));
    assert!(matches!(
        read(&forged(&[9; 31]), b"p"),
        Err(BackupError::Cut)
    ));
}

#[test]
fn who_writes_out_of_order_or_too_little_is_told() {
    let key = StoreKey::from_bytes(&STORE_KEY);
    let mut writer = Writer::begin(Vec::new(), &key, b"p", cheap(), rng()).unwrap();
    let (a, b) = (Name::new("a").unwrap(), Name::new("b").unwrap());
    writer.file(&b, 1, &b"xy"[..]).unwrap();
    assert!(writer.file(&a, 0, &b""[..]).is_err());
    assert!(writer.file(&b, 0, &b""[..]).is_err());
    let mut writer = Writer::begin(Vec::new(), &key, b"p", cheap(), rng()).unwrap();
    assert!(writer.file(&a, 2, &b"x"[..]).is_err());
}

fn files() -> impl Strategy<Value = Files> {
    let name = "[a-z]{1,3}(/[a-z0-9_-]{1,3}\\.[a-z]{2})?";
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    proptest::collection::btree_map(name, bytes, 0..5).prop_map(|files| {
        let fit = files
            .into_iter()
            .filter(|(name, _)| Name::new(name).is_some());
        fit.collect()
    })
}

proptest! {
    #[test]
    fn files_come_back_as_they_were(files in files()) {
        prop_assert_eq!(read(&written(&files), b"p").unwrap(), files);
    }

    #[test]
    fn no_changed_bit_and_no_cut_goes_unnoticed(files in files(), at: usize, bit in 0..8, cut: usize) {
        let good = written(&files);
        let mut bad = good.clone();
        let at = at % bad.len();
        bad[at] ^= 1u8 << bit;
        prop_assert!(COST.contains(&at) || read(&bad, b"p").is_err());
        prop_assert!(matches!(read(&good[..cut % good.len()], b"p"), Err(BackupError::Cut)));
    }

    #[test]
    fn reading_survives_anything_that_was_sealed(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let whole = [&STORE_KEY[..], &content].concat();
        if let Ok(files) = read(&forged(&whole), b"p") {
            let entries = files.iter().map(|(name, bytes)| entry(name, bytes));
            let again = [entries.collect::<Vec<_>>().concat(), vec![0]].concat();
            prop_assert_eq!(again, content, "one content for the same files");
        }
    }
}
