//! Names of files in a profile.

use core::fmt;

/// Most bytes in the name of a file: a key's name alone has up to 64, and what its key signed as many for each message.
pub const NAME_MAX: usize = 160;
/// Folders in folders, and the file itself.
const PARTS_MAX: usize = 3;
/// Files that belong to one machine, or that a backup has in another form.
const LEFT_OUT: [&str; 3] = ["lock", "key", "key.sealed"];
/// Endings of files that belong to a moment: locks, what a crash left half written, what SQLite keeps beside a database.
const ENDINGS_LEFT_OUT: [&str; 4] = [".lock", ".new", "-shm", "-wal"];

/// What a file in a backup is called: one name, or one in a folder, or in a folder in it; nothing that leads elsewhere, no lock and no key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name, if it is one: up to [`NAME_MAX`] bytes of ASCII letters, digits, `-`, `_` and `.`, with at most two `/`;
    /// no part is empty or begins with a `.`.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_part =
            |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(fit);
        let is_name = name.len() <= NAME_MAX
            && name.split('/').count() <= PARTS_MAX
            && name.split('/').all(is_part)
            && !is_left_out(name);
        is_name.then(|| Self(name.to_owned()))
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a file of that name, below the profile, has no place in a backup.
#[must_use]
pub fn is_left_out(name: &str) -> bool {
    LEFT_OUT.contains(&name) || ENDINGS_LEFT_OUT.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for good in [
            "agent.db",
            "bls/treasury.key",
            "identity",
            "a-b_c",
            "bls/key",
            "bls/treasury.signatures/4f67",
        ] {
            assert!(
                Name::new(good).is_some_and(|name| name.as_str() == good),
                "{good}"
            );
        }
        for bad in [
            "",
            "/",
            "..",
            "../x",
            "a/..",
            "/etc",
            "a//b",
            "a/b/c/d",
            "a/../c",
            "a//c",
            "a/.b/c",
            ".x",
            "a/.x",
            "a b",
            "a\\b",
            "C:x",
            "ä",
            "a\0",
            "lock",
            "key",
            "key.sealed",
            "agent.db-wal",
            "agent.db-shm",
            "devices.new",
        ] {
            assert!(Name::new(bad).is_none(), "{bad}");
        }
        assert!(Name::new(&"a".repeat(NAME_MAX)).is_some());
        assert!(Name::new(&"a".repeat(NAME_MAX + 1)).is_none());
    }
}
