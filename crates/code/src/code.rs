//! A code as people say it: `7-crossover-clockwork`.

use core::fmt;
use core::str::FromStr;

use junto_crypto::CryptoRng;
use junto_crypto::kdf::hkdf_sha256;
use junto_smp::address::Fingerprint;
use junto_smp::id::{CorrelationId, ID_BYTES};
use zeroize::Zeroizing;

use crate::words::{LONG, SHORT};

/// Largest number of a mailbox.
pub const NUMBER_MAX: u16 = 9_999;
/// Words of a code that we make: 8 bits each, so that one guess is right once in 65,536 times.
pub const WORDS: usize = 2;
/// Fewest and most words of a code that we take.
const WORDS_TAKEN: core::ops::RangeInclusive<usize> = WORDS..=4;
/// Longest text that can be a code, in bytes: number and four words of at most eleven letters, with hyphens.
const TEXT_MAX: usize = 4 + 4 * 12;

/// The number of a mailbox on a relay, and the words that open it. The number is no secret; the words are, until
/// they have been used.
pub struct Code {
    number: Number,
    words: Zeroizing<String>,
}

/// The number of a mailbox: 1 to [`NUMBER_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(u16);

/// Why a text is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCode {
    /// It does not look like one.
    #[error("a code is a number and words, with hyphens between them: 7-crossover-clockwork")]
    Shape,
    /// A word that no code has at this place.
    #[error("no code has the word `{0}` at this place; look for a slip of the pen")]
    Word(String),
}

impl Number {
    /// A number below 100, 1,000 or 10,000: the more often one was taken already, the longer.
    pub(crate) fn random(taken: u8, rng: &mut impl CryptoRng) -> Self {
        let most: u16 = match taken {
            0..=2 => 99,
            3..=5 => 999,
            6.. => NUMBER_MAX,
        };
        let mut bytes = [0; 8];
        rng.fill_bytes(&mut bytes);
        // The remainder of 64 bits is even enough, and the number is no secret.
        let number = u64::from_le_bytes(bytes) % u64::from(most) + 1;
        Self(u16::try_from(number).unwrap_or(most))
    }

    /// Names the request for the mailbox of this number on a relay; the queue's name for senders follows from it,
    /// and so everybody finds the mailbox by its number.
    pub(crate) fn correlation(self, relay: &Fingerprint) -> CorrelationId {
        let bytes =
            hkdf_sha256::<ID_BYTES>(b"junto code 1 mailbox", &relay.0, &self.0.to_be_bytes());
        CorrelationId(*bytes)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Number {
    type Err = NoCode;

    /// Digits only and no leading zero, so that a number has one spelling.
    fn from_str(text: &str) -> Result<Self, NoCode> {
        let plain = text.bytes().all(|digit| digit.is_ascii_digit()) && !text.starts_with('0');
        let number = text.parse().ok().filter(|_| plain);
        number
            .filter(|number| *number <= NUMBER_MAX)
            .map(Self)
            .ok_or(NoCode::Shape)
    }
}

impl Code {
    /// Fresh words for a mailbox.
    pub(crate) fn random(number: Number, rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; WORDS]);
        rng.fill_bytes(bytes.as_mut_slice());
        let mut words = Zeroizing::new(String::with_capacity(TEXT_MAX));
        for (position, byte) in bytes.iter().enumerate() {
            if position > 0 {
                words.push('-');
            }
            words.push_str(list(position)[usize::from(*byte)]);
        }
        Self { number, words }
    }

    /// Whether a text is meant to be a code and not a link: it begins with a digit.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.trim_start()
            .starts_with(|first: char| first.is_ascii_digit())
    }

    /// The mailbox.
    #[must_use]
    pub fn number(&self) -> Number {
        self.number
    }

    /// As it is told to others. Whoever learns of it before they have used it can take their place.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}-{}", self.number.0, self.words.as_str()))
    }

    /// What both sides of an exchange must have in common.
    pub(crate) fn password(&self, relay: &Fingerprint) -> Zeroizing<Vec<u8>> {
        let mut password = Zeroizing::new(Vec::with_capacity(64 + TEXT_MAX));
        password.extend_from_slice(b"junto code 1 password");
        password.extend_from_slice(&relay.0);
        password.extend_from_slice(&self.number.0.to_be_bytes());
        password.extend_from_slice(self.words.as_bytes());
        password
    }
}

/// The list that a code's word at this position comes from.
fn list(position: usize) -> &'static [&'static str; 256] {
    if position.is_multiple_of(2) {
        &LONG
    } else {
        &SHORT
    }
}

impl FromStr for Code {
    type Err = NoCode;

    /// Case, and spaces for hyphens, do not matter: codes are read out.
    fn from_str(text: &str) -> Result<Self, NoCode> {
        let text = text.trim();
        if text.len() > TEXT_MAX || !text.is_ascii() {
            return Err(NoCode::Shape);
        }
        let text = Zeroizing::new(text.to_ascii_lowercase());
        let mut parts = text.split(['-', ' ']);
        let number: Number = parts.next().unwrap_or_default().parse()?;
        let mut words = Zeroizing::new(String::with_capacity(TEXT_MAX));
        let mut count = 0;
        for word in parts {
            if list(count).binary_search(&word).is_err() {
                return Err(if word.is_empty() {
                    NoCode::Shape
                } else {
                    NoCode::Word(word.to_owned())
                });
            }
            if count > 0 {
                words.push('-');
            }
            words.push_str(word);
            count += 1;
        }
        if !WORDS_TAKEN.contains(&count) {
            return Err(NoCode::Shape);
        }
        Ok(Self { number, words })
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_people_write_them() {
        for text in [
            "7-crossover-clockwork",
            " 7-Crossover-CLOCKWORK\n",
            "7 crossover clockwork",
        ] {
            let code: Code = text.parse().unwrap();
            assert_eq!(*code.text(), "7-crossover-clockwork");
            assert!(Code::is_meant(text));
        }
        assert!(!Code::is_meant("junto:abc"));
    }

    #[test]
    fn what_is_no_code_is_told_before_it_costs_an_attempt() {
        for text in [
            "",
            "7",
            "7-crossover",
            "crossover-clockwork",
            "0-crossover-clockwork",
            "07-crossover-clockwork",
            "10000-crossover-clockwork",
            "+7-crossover-clockwork",
            "7--crossover-clockwork",
            "7-crossover-clockwork-",
            "7-crossover-clockwork-crossover-clockwork-crossover",
        ] {
            assert_eq!(text.parse::<Code>().unwrap_err(), NoCode::Shape, "{text}");
        }
        // The words swapped, and one misspelt.
        for (text, word) in [
            ("7-clockwork-crossover", "clockwork"),
            ("7-crossover-clockwerk", "clockwerk"),
        ] {
            assert_eq!(
                text.parse::<Code>().unwrap_err(),
                NoCode::Word(word.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn debug_output_keeps_the_words() {
        let code: Code = "7-crossover-clockwork".parse().unwrap();
        assert_eq!(format!("{code:?}"), "Code { number: Number(7), .. }");
    }

    #[test]
    fn numbers_get_longer_where_short_ones_are_taken() {
        let mut rng = rand_core::UnwrapErr(getrandom::SysRng);
        for (taken, most) in [(0, 99), (3, 999), (9, NUMBER_MAX)] {
            for _ in 0..200 {
                assert!((1..=most).contains(&Number::random(taken, &mut rng).0));
            }
        }
    }
}
