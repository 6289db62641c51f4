//! Pinned parties: who may sit in a session, by profile key, from a file that all parties can share.

use std::path::Path;

use junto_crypto::ed25519::VerifyingKey;
use serde::Deserialize;

use crate::failure::Failure;
use crate::profile::Profile;

/// Longest file, in bytes: 64 parties with names need a tenth of it.
const FILE_MAX: u64 = 64 * 1024;

/// What a parties file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(default)]
    party: Vec<Party>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Party {
    name: String,
    key: String,
}

/// Who may sit in a session besides the profile itself: those of the file, else those of the profile's settings.
pub(crate) fn read(profile: &Profile, file: Option<&Path>) -> Result<Vec<VerifyingKey>, Failure> {
    let listed = match file {
        Some(file) => read_file(file)?,
        None => {
            let keys = profile.config.pinned.iter();
            keys.map(|key| key_of(key, "profile.toml"))
                .collect::<Result<_, _>>()?
        }
    };
    // One file serves all parties.
    let own = profile.identity()?.verifying_key();
    let others: Vec<_> = listed.into_iter().filter(|key| *key != own).collect();
    if others.is_empty() {
        return Err(Failure::usage("the session is for pinned parties, and nobody else is listed").help(
            "list the others' profile keys in a file for `--parties-file`, or in `pinned` of profile.toml; `junto profile key` prints the key of a profile",
        ));
    }
    Ok(others)
}

fn read_file(path: &Path) -> Result<Vec<VerifyingKey>, Failure> {
    let shown = path.display();
    let text = crate::input::read_short(path, FILE_MAX)?;
    let listed: Listed = toml::from_str(&text).map_err(|error| {
        Failure::usage(format_args!("{shown}: {error}"))
            .help("a `[[party]]` for each, with `name = \"…\"` and `key = \"…\"`, as `junto profile key` prints it")
    })?;
    let mut parties: Vec<(String, VerifyingKey)> = Vec::new();
    for Party { name, key } in listed.party {
        let key = key_of(&key, &shown.to_string())?;
        if let Some((before, _)) = parties
            .iter()
            .find(|(other, it)| *it == key || *other == name)
        {
            return Err(Failure::usage(format_args!(
                "{shown}: `{name}` and `{before}` have one name or one key"
            )));
        }
        parties.push((name, key));
    }
    Ok(parties.into_iter().map(|(_, key)| key).collect())
}

pub(crate) fn key_of(text: &str, place: &str) -> Result<VerifyingKey, Failure> {
    let wrong = || {
        Failure::usage(format_args!(
            "{place}: `{text}` is not a profile key (64 hexadecimal digits)"
        ))
        .help("`junto profile key` prints the key of a profile")
    };
    let bytes: [u8; 32] = hex::decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(wrong)?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| wrong())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::fs;

    use super::*;

    fn listed(text: &str) -> Result<Vec<VerifyingKey>, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parties.toml");
        fs::write(&path, text).unwrap();
        read_file(&path)
    }

    fn key(seed: u8) -> String {
        let key = junto_crypto::ed25519::SigningKey::from_seed(&[seed; 32]);
        hex::encode(key.verifying_key().as_bytes())
    }

    #[test]
    fn a_file_lists_names_and_keys() {
        let (one, two) = (key(1), key(2));
        let party =
            |name: &str, key: &str| format!("[[party]]\nname = \"{name}\"\nkey = \"{key}\"\n");
        let both = listed(&[party("Ada", &one), party("Bob", &two)].concat()).unwrap();
        let [first, second] = both.as_slice() else {
            panic!("{both:?}");
        };
        let both = [first, second];
        assert_eq!(
            both.map(|key| hex::encode(key.as_bytes())),
            [one.clone(), two.clone()]
        );
        assert!(listed("").unwrap().is_empty());
        let too_long = format!("# {}\n", "x".repeat(usize::try_from(FILE_MAX).unwrap()));
        for wrong in [
            party("Ada", &one[1..]),
            party("Ada", "") + &party("Bob", &two),
            [party("Ada", &one), party("Bob", &one)].concat(),
            [party("Ada", &one), party("Ada", &two)].concat(),
            "[[party]]\nname = \"Ada\"\n".to_owned(),
            party("Ada", &one) + "admin = true\n",
            "parties = 3\n".to_owned(),
            too_long,
        ] {
            let failure = listed(&wrong).unwrap_err();
            assert_eq!(failure.exit, crate::failure::Exit::Usage, "{failure:?}");
        }
    }
}
