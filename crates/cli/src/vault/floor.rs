//! How far the days have gone, for who judges realms by a set file: `SET.floor`, beside it. It only rises.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use junto_evidence::Floor;
use junto_realm::Keep;
use junto_tls::files::{self, Mode};

use crate::failure::{Context, Failure};

/// Two numbers and their names.
const FILE_MAX: u64 = 1024;

fn beside(set: &Path) -> PathBuf {
    let mut name = set.as_os_str().to_owned();
    name.push(".floor");
    name.into()
}

fn read(path: &Path) -> io::Result<Floor> {
    let mut text = String::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Floor::default()),
        Err(error) => return Err(error),
        Ok(file) => file.take(FILE_MAX).read_to_string(&mut text)?,
    };
    serde_json::from_str(&text).map_err(io::Error::other)
}

/// What is stored, and how more of it is stored.
pub(super) fn of(set: &Path) -> Result<(Floor, Keep), Failure> {
    let (set, path) = (set.to_owned(), beside(set));
    let floor = read(&path).context(format_args!("cannot read {}", path.display()))?;
    let keep = move |floor: Floor| {
        // Two that store at the same time store one after the other.
        let set = File::open(&set)?;
        set.lock()?;
        let stored = read(&path)?;
        let highest = stored.joined(floor);
        if highest != stored {
            let text = serde_json::to_string(&highest).map_err(io::Error::other)?;
            files::replace(&path, text.as_bytes(), Mode::Private)?;
        }
        Ok(highest)
    };
    Ok((floor, Box::new(keep)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn floor(intel: u64, amd: u64) -> Floor {
        serde_json::from_value(serde_json::json!({ "intel": intel, "amd": amd })).unwrap()
    }

    #[test]
    fn what_is_stored_never_falls() {
        let dir = tempfile::tempdir().unwrap();
        let set = dir.path().join("set.json");
        std::fs::write(&set, "{}").unwrap();
        let (first, keep) = of(&set).unwrap();
        assert_eq!(first, Floor::default());
        let (_, other) = of(&set).unwrap();
        assert_eq!(keep(floor(20, 1)).unwrap(), floor(20, 1));
        // Another process, which has not seen that.
        assert_eq!(other(floor(10, 5)).unwrap(), floor(20, 5));
        assert_eq!(of(&set).unwrap().0, floor(20, 5));
        for text in ["", "{}", "{\"intel\":1}", "{\"intel\":-1,\"amd\":0}"] {
            std::fs::write(beside(&set), text).unwrap();
            assert!(of(&set).is_err() && keep(floor(1, 1)).is_err(), "{text}");
        }
    }
}
