//! What the user remembers.

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// Fewest characters of a PIN.
pub const PIN_CHARS_MIN: usize = 4;
/// Most bytes of a PIN as typed, in UTF-8.
pub const PIN_BYTES_MAX: usize = 256;

/// A PIN or passphrase in its one spelling: Unicode normal form KD, no white space at either end.
/// Wiped when dropped, never shown.
pub struct Pin(Zeroizing<String>);

/// Why a PIN is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Fewer than [`PIN_CHARS_MIN`] characters.
    #[error("a PIN has at least {PIN_CHARS_MIN} characters")]
    Short,
    /// More than [`PIN_BYTES_MAX`] bytes.
    #[error("a PIN has at most {PIN_BYTES_MAX} bytes")]
    Long,
    /// One character repeated, or a run of neighbours such as 1234 or dcba: the first guesses of anybody.
    #[error("that PIN is among everybody's first guesses")]
    Obvious,
}

impl Pin {
    /// For storing: refuses what a handful of guesses would find.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn new(typed: &str) -> Result<Self, PinError> {
        let pin = Self::again(typed)?;
        if obvious(&pin.0) {
            return Err(PinError::Obvious);
        }
        Ok(pin)
    }

    /// For getting back: whatever was good enough when it was stored.
    ///
    /// # Errors
    /// [`PinError::Short`] and [`PinError::Long`].
    pub fn again(typed: &str) -> Result<Self, PinError> {
        if typed.len() > PIN_BYTES_MAX {
            return Err(PinError::Long);
        }
        // The normal form takes up to 18 times the characters: room for it, so that nothing is left behind unwiped.
        let mut normal = Zeroizing::new(String::with_capacity(typed.len() * 18 * 4));
        normal.extend(typed.trim().nfkd());
        if normal.chars().count() < PIN_CHARS_MIN {
            return Err(PinError::Short);
        }
        Ok(Self(normal))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn obvious(pin: &str) -> bool {
    let steps = || {
        pin.chars()
            .zip(pin.chars().skip(1))
            .map(|(a, b)| i64::from(u32::from(b)) - i64::from(u32::from(a)))
    };
    [-1, 0, 1]
        .into_iter()
        .any(|step| steps().all(|found| found == step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        // Full-width digits; a ligature; an accent composed and not; white space around.
        for (one, other) in [
            ("２８４１", "2841"),
            ("oﬃce", "office"),
            ("caf\u{e9}", "cafe\u{301}"),
            (" 7301\n", "7301"),
        ] {
            let (one, other) = (Pin::new(one).unwrap(), Pin::new(other).unwrap());
            assert_eq!(one.as_bytes(), other.as_bytes());
        }
    }

    #[test]
    fn limits() {
        let refused = |typed: &str| Pin::new(typed).err();
        assert_eq!(refused("123"), Some(PinError::Short));
        assert_eq!(refused("   1   "), Some(PinError::Short));
        assert_eq!(refused(&"x".repeat(257)), Some(PinError::Long));
        for typed in ["1234", "4321", "0000", "abcdef", "zzzzzz"] {
            assert_eq!(refused(typed), Some(PinError::Obvious), "{typed}");
            assert!(Pin::again(typed).is_ok());
        }
        for typed in ["1235", "2841", "correct horse", &"ab".repeat(128)] {
            assert_eq!(refused(typed), None, "{typed}");
        }
    }

    #[test]
    fn the_longest_normal_form_fits() {
        // U+FDFA: 18 characters in normal form KD, the most of any.
        let pin = Pin::again(&"\u{fdfa}".repeat(PIN_BYTES_MAX / 3)).unwrap();
        assert!(pin.0.len() <= pin.0.capacity() && pin.0.capacity() <= PIN_BYTES_MAX * 72);
    }
}
