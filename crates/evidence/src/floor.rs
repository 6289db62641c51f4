//! Days before which nothing counts any more. A floor only rises.

use serde::{Deserialize, Serialize};

use crate::{Kind, Refusal, Seconds, Verified};

/// How much older than the newest one may lists of what is revoked be: machines of one set fetch theirs on different days.
const SPREAD: u64 = 7 * 24 * 3600;

/// For each vendor, the newest date that it signed and that came with evidence which held, less a week.
///
/// Without it, who sets back this machine's clock makes lists count again that do not know yet what is broken. The vendors'
/// dates are signed, so that no stranger moves the floor past the true day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    intel: Seconds,
    amd: Seconds,
}

impl Floor {
    fn of(&self, kind: Kind) -> Seconds {
        match kind {
            Kind::Sgx | Kind::Tdx => self.intel,
            Kind::Snp => self.amd,
        }
    }

    /// Whether a clock may be right.
    ///
    /// # Errors
    /// [`Refusal::Clock`].
    pub fn allows(&self, now: Seconds) -> Result<(), Refusal> {
        (now >= self.intel.max(self.amd))
            .then_some(())
            .ok_or(Refusal::Clock)
    }

    /// The floor after such evidence.
    ///
    /// # Errors
    /// [`Refusal::Undated`], [`Refusal::Stale`].
    pub fn raised_by(&self, verified: &Verified) -> Result<Self, Refusal> {
        let issued = verified.issued().ok_or(Refusal::Undated)?;
        let kind = verified.kind();
        if issued < self.of(kind) {
            return Err(Refusal::Stale);
        }
        let new = Seconds(issued.0.saturating_sub(SPREAD));
        let alone = match kind {
            Kind::Sgx | Kind::Tdx => Self {
                intel: new,
                ..Self::default()
            },
            Kind::Snp => Self {
                amd: new,
                ..Self::default()
            },
        };
        Ok(self.joined(alone))
    }

    /// The higher one, for each vendor: what is stored never falls.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self {
            intel: self.intel.max(other.intel),
            amd: self.amd.max(other.amd),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Measurement, Standing, TcbStatus};

    fn shown(kind: Kind, issued: Option<u64>) -> Verified {
        Verified {
            measurement: match kind {
                Kind::Snp => Measurement::Snp([0; 48]),
                _ => Measurement::Sgx([0; 32]),
            },
            report_data: [0; 64],
            node: None,
            standing: Standing::Intel {
                status: TcbStatus::UpToDate,
                evaluation: 0,
                advisories: Vec::new(),
            },
            issued: issued.map(Seconds),
        }
    }

    #[test]
    fn a_floor_rises_and_never_falls() {
        let day = 24 * 3600;
        let floor = Floor::default();
        floor.allows(Seconds(0)).unwrap();
        let high = floor.raised_by(&shown(Kind::Sgx, Some(100 * day))).unwrap();
        assert_eq!(high.intel, Seconds(93 * day));
        // A week's difference is borne; a second more is not.
        let same = high.raised_by(&shown(Kind::Sgx, Some(93 * day))).unwrap();
        assert_eq!(same, high);
        let old = shown(Kind::Tdx, Some(93 * day - 1));
        assert_eq!(high.raised_by(&old), Err(Refusal::Stale));
        // Each vendor has days of its own, and the clock has to be after both.
        let both = high.raised_by(&shown(Kind::Snp, Some(50 * day))).unwrap();
        assert_eq!((both.intel, both.amd), (high.intel, Seconds(43 * day)));
        assert_eq!(both.allows(Seconds(93 * day)), Ok(()));
        assert_eq!(both.allows(Seconds(93 * day - 1)), Err(Refusal::Clock));
        let amd = Floor {
            intel: Seconds(0),
            ..both
        };
        assert_eq!(amd.allows(Seconds(43 * day - 1)), Err(Refusal::Clock));
        assert_eq!(
            floor.raised_by(&shown(Kind::Snp, None)),
            Err(Refusal::Undated)
        );
        // What is read from a file that somebody else wrote meanwhile.
        assert_eq!(both.joined(Floor::default()), both);
        assert_eq!(Floor::default().joined(both), both);
        assert_eq!(high.joined(amd), both);
    }
}
