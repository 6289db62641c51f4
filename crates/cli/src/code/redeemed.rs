//! Links that this profile was given for codes.
//!
//! Who is given the link has used the code up. If that process dies before it has done anything with the link, the user has
//! nothing but the code: so the link is kept under it for a while, and the same command goes on from there.
//!
//! The sealed file `codes`: a line for each, the newest last: `seconds since 1970 · relay's fingerprint · code · link`, with
//! spaces between them.

use std::time::SystemTime;

use junto_code::Code;
use junto_smp::address::Fingerprint;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::profile::Profile;

const FILE: &str = "codes";
/// How long a link is kept, in seconds. The same number with the same words is another code's, after this many, about once
/// in 65,536 times that the number is.
const KEPT: u64 = 24 * 60 * 60;
/// Most links that are kept.
const MOST: usize = 32;

/// The link that `code` was redeemed for on this relay, if that was lately.
pub(super) fn find(
    profile: &Profile,
    relay: &Fingerprint,
    code: &Code,
) -> Result<Option<Zeroizing<String>>, Failure> {
    let known = read(profile)?;
    let name = name(relay, code);
    let mut links = current(&known, now()).filter_map(|line| link_of(line, &name));
    Ok(links
        .next_back()
        .map(|link| Zeroizing::new(link.to_owned())))
}

/// Keeps the link; the oldest ones make room for it.
pub(super) fn keep(
    profile: &Profile,
    relay: &Fingerprint,
    code: &Code,
    link: &str,
) -> Result<(), Failure> {
    let (known, now) = (read(profile)?, now());
    let lines: Vec<&str> = current(&known, now).collect();
    let mut text = Zeroizing::new(String::new());
    for line in &lines[lines.len().saturating_sub(MOST - 1)..] {
        text.push_str(line);
        text.push('\n');
    }
    let name = name(relay, code);
    for part in [now.to_string().as_str(), " ", &name, " ", link, "\n"] {
        text.push_str(part);
    }
    profile.write_sealed(FILE, text.as_bytes())
}

fn read(profile: &Profile) -> Result<Zeroizing<String>, Failure> {
    let bytes = profile.read_sealed(FILE)?.unwrap_or_default();
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::failed(format_args!("the profile's file {FILE} is damaged")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn name(relay: &Fingerprint, code: &Code) -> Zeroizing<String> {
    Zeroizing::new(format!("{relay} {}", code.text().as_str()))
}

/// The lines that are not too old. A clock that went back makes none older.
fn current(text: &str, now: u64) -> impl DoubleEndedIterator<Item = &str> {
    text.lines().filter(move |line| {
        let when = line.split(' ').next().and_then(|when| when.parse().ok());
        when.is_some_and(|when: u64| now.saturating_sub(when) < KEPT)
    })
}

fn link_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(' ')?;
    rest.strip_prefix(name)?.strip_prefix(' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Source;

    const RELAY: Fingerprint = Fingerprint([1; 32]);

    fn code(text: &str) -> Code {
        text.parse().unwrap()
    }

    #[test]
    fn a_link_is_found_by_its_code_and_relay_alone() {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::open(dir.path(), &Source::None).unwrap();
        let found = |relay, text| {
            let found = find(&profile, &relay, &code(text)).unwrap();
            found.map(|link| link.to_string())
        };
        assert_eq!(found(RELAY, "7-crossover-clockwork"), None);
        keep(&profile, &RELAY, &code("7-crossover-clockwork"), "junto:1").unwrap();
        keep(&profile, &RELAY, &code("77-crossover-clockwork"), "junto:2").unwrap();
        // As it is typed.
        assert_eq!(
            found(RELAY, "7 Crossover Clockwork").as_deref(),
            Some("junto:1")
        );
        assert_eq!(
            found(RELAY, "77-crossover-clockwork").as_deref(),
            Some("junto:2")
        );
        assert_eq!(found(RELAY, "7-crossover-choking"), None);
        assert_eq!(found(Fingerprint([2; 32]), "7-crossover-clockwork"), None);
        // The number and the words again, by chance: the newer one counts.
        keep(&profile, &RELAY, &code("7-crossover-clockwork"), "junto:3").unwrap();
        assert_eq!(
            found(RELAY, "7-crossover-clockwork").as_deref(),
            Some("junto:3")
        );
        let sealed = std::fs::read(dir.path().join(FILE)).unwrap();
        let is_there = |text: &[u8]| sealed.windows(text.len()).any(|part| part == text);
        assert!(!is_there(b"junto:") && !is_there(b"crossover"));
    }

    #[test]
    fn old_links_go() {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::open(dir.path(), &Source::None).unwrap();
        for number in 1..=MOST + 1 {
            let code = code(&format!("{number}-crossover-clockwork"));
            keep(&profile, &RELAY, &code, "junto:").unwrap();
        }
        let kept = |number: usize| {
            let code = code(&format!("{number}-crossover-clockwork"));
            find(&profile, &RELAY, &code).unwrap().is_some()
        };
        assert!(!kept(1) && kept(2) && kept(MOST + 1));

        let text = "100 a 1-b junto:1\n200 a 2-b junto:2\n";
        assert_eq!(current(text, 100 + KEPT - 1).count(), 2);
        assert_eq!(current(text, 100 + KEPT).count(), 1);
        assert_eq!(current(text, 0).count(), 2);
        assert_eq!(current(text, u64::MAX).count(), 0);
        assert_eq!(current("\nx a 1-b junto:1\n", 0).count(), 0);
    }
}
