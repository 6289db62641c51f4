//! All honest parties have the same session, the same safety code, the same broadcasts, the same
//! result.

use std::collections::BTreeMap;

use crate::verdict::Violation;

/// Compares what each party says of itself.
///
/// # Errors
/// The violation.
pub fn check<T: PartialEq + core::fmt::Debug>(
    what: &str,
    views: &BTreeMap<usize, T>,
) -> Result<(), Violation> {
    let mut views = views.iter();
    let Some((first, ours)) = views.next() else {
        return Ok(());
    };
    for (party, theirs) in views {
        if ours != theirs {
            let text = format!("{what}: party {first} has {ours:?}, party {party} has {theirs:?}");
            return Err(Violation::new("honest_parties_agree", text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_seen() {
        assert_eq!(check("x", &BTreeMap::from([(0, 1), (1, 1)])), Ok(()));
        assert!(check("x", &BTreeMap::from([(0, 1), (1, 1), (2, 0)])).is_err());
    }
}
