//! The files of a journal: their names, and which of them count.
//!
//! | name | what |
//! |---|---|
//! | `base.N` | everything alive when it was begun, and the changes since: nothing before it counts |
//! | `journal.N` | the changes after segment N-1 |
//! | `base.N.new` | a base that was not finished |
//! | `….torn` | what a crash left of a segment, for whoever wants to look |

use std::io;

use super::disk::Disk;
use super::log::Opened;
use super::record;

/// First line of a segment.
pub(super) const MAGIC: &[u8] = b"junto relay journal 1\n";

/// The name of a segment, ordered by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    pub(super) number: u64,
    pub(super) base: bool,
}

impl SegmentName {
    fn parse(name: &str) -> Option<Self> {
        let (kind, number) = name.split_once('.')?;
        let number = number.parse().ok()?;
        let base = match kind {
            "base" => true,
            "journal" => false,
            _ => return None,
        };
        let parsed = Self { number, base };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl core::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let kind = if self.base { "base" } else { "journal" };
        write!(f, "{kind}.{}", self.number)
    }
}

/// The segments of a journal in order.
pub(super) fn segments(disk: &dyn Disk) -> io::Result<Vec<SegmentName>> {
    let names = disk.names()?;
    let mut found: Vec<_> = names
        .iter()
        .filter_map(|name| SegmentName::parse(name))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// The first of the segments that counts.
pub(super) fn first_that_counts(segments: &[SegmentName]) -> usize {
    segments.iter().rposition(|name| name.base).unwrap_or(0)
}

/// Begins a segment.
pub(super) fn begin(disk: &dyn Disk, name: &str, token: u64) -> io::Result<Opened> {
    let mut file = disk.create(name)?;
    let mut head = MAGIC.to_vec();
    record::append_mark(&mut head, token, 0);
    file.append_all(&head)?;
    let bytes = head.len() as u64;
    Ok(Opened { file, bytes })
}

/// Removes all segments before number `before`. They count for nothing, so one that stays for now
/// does no harm but take room.
pub(super) fn remove_before(disk: &dyn Disk, before: u64) {
    for name in segments(disk).unwrap_or_default() {
        if name.number < before && disk.remove(&name.to_string()).is_err() {
            tracing::debug!("an old segment of the journal could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_no_others() {
        for name in ["base.0", "journal.7", "journal.18446744073709551615"] {
            assert_eq!(SegmentName::parse(name).unwrap().to_string(), name);
        }
        for name in [
            "base.1.new",
            "journal.7.torn",
            "journal.07",
            "journal.+7",
            "lock",
            "x.1",
        ] {
            assert_eq!(SegmentName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn nothing_counts_before_the_last_base() {
        let names = |text: &str| {
            let mut names: Vec<_> = text.split(' ').filter_map(SegmentName::parse).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(first_that_counts(&names("journal.0 journal.1")), 0);
        assert_eq!(
            first_that_counts(&names("base.0 journal.1 base.2 journal.3")),
            2
        );
        assert_eq!(first_that_counts(&[]), 0);
    }
}
