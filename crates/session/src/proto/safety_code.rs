//! The safety code: what parties read to each other to exclude a host that swapped keys.

use core::fmt;

use super::{roster::SessionId, statement};

/// Groups of five digits in a code.
const GROUPS: usize = 4;

/// 20 decimal digits, 66.4 bits, the same for all parties of a session.
///
/// A host who sits between parties under different rosters cannot search for two rosters with one
/// code: each party commits to a random share before it knows the roster, and reveals it only
/// afterwards (`docs/spec/session.md` §5.5). So the host has one try, and it succeeds with
/// probability 10^-20.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SafetyCode([u32; GROUPS]);

impl SafetyCode {
    /// `reveals` in order of party index, 32 bytes each.
    pub(crate) fn new(session: &SessionId, reveals: &[u8]) -> Self {
        let digest = statement::safety_code(session, reveals);
        let mut groups = [0; GROUPS];
        for (group, bytes) in groups.iter_mut().zip(digest.as_chunks::<8>().0) {
            // 64 bits modulo 10^5: the bias is below 2^-47.
            *group = u32::try_from(u64::from_be_bytes(*bytes) % 100_000).unwrap_or(0);
        }
        Self(groups)
    }
}

impl fmt::Display for SafetyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, group) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{group:05}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SafetyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SafetyCode({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_four_groups_of_five_digits() {
        let text = SafetyCode::new(&SessionId([1; 32]), &[2; 96]).to_string();
        assert_eq!(text.len(), 23);
        assert!(
            text.split(' ')
                .all(|group| group.len() == 5 && group.bytes().all(|digit| digit.is_ascii_digit()))
        );
        assert_ne!(
            text,
            SafetyCode::new(&SessionId([1; 32]), &[3; 96]).to_string()
        );
    }
}
