//! What goes wrong in a run, and how often.

use crate::dice::Dice;

/// Rates in thousandths of each occasion, delays in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A party's process dies: before or after a commit, or between two things that follow it.
    pub crash: u64,
    /// Longest time that a dead party stays dead.
    pub down_ms: u64,
    /// A connection to a relay dies, with everything that is under way on it.
    pub hang_up: u64,
    /// A block arrives with a wrong byte.
    pub garble: u64,
    /// A relay restarts when it receives a block.
    pub relay_restart: u64,
    /// A restarting relay has forgotten its last acknowledgement, so it delivers again.
    pub forget_ack: u64,
    /// A carrier delivers a message twice.
    pub duplicate: u64,
    /// A carrier loses a message.
    pub drop: u64,
    /// Longest time that anything is under way. Different for everything, so that whatever has no
    /// order of its own is reordered.
    pub delay_ms: u64,
}

impl Faults {
    /// The network and the processes do what they should.
    pub const NONE: Self = Self {
        crash: 0,
        down_ms: 0,
        hang_up: 0,
        garble: 0,
        relay_restart: 0,
        forget_ack: 0,
        duplicate: 0,
        drop: 0,
        delay_ms: 2,
    };

    /// Everything at once.
    pub const ALL: Self = Self {
        crash: 60,
        down_ms: 400,
        hang_up: 40,
        garble: 15,
        relay_restart: 12,
        forget_ack: 500,
        duplicate: 100,
        drop: 30,
        delay_ms: 60,
    };

    /// Some of [`Faults::ALL`], each more or less often: runs with few kinds of faults reach states
    /// that runs with all of them do not.
    #[must_use]
    pub fn draw(dice: &mut Dice) -> Self {
        let mut rate = |most: u64| {
            let (on, rate) = (dice.chance(650), dice.between(most / 4, most));
            if on { rate } else { 0 }
        };
        Self {
            crash: rate(Self::ALL.crash),
            down_ms: rate(Self::ALL.down_ms),
            hang_up: rate(Self::ALL.hang_up),
            garble: rate(Self::ALL.garble),
            relay_restart: rate(Self::ALL.relay_restart),
            forget_ack: rate(Self::ALL.forget_ack),
            duplicate: rate(Self::ALL.duplicate),
            drop: rate(Self::ALL.drop),
            delay_ms: Self::NONE.delay_ms + rate(Self::ALL.delay_ms),
        }
    }
}

/// Where a process dies while it carries out a step: the script that all simulated shells follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Nothing is stored, nothing has left.
    BeforeCommit,
    /// All is stored, nothing has left.
    AfterCommit,
    /// All is stored, some of it has left.
    Between,
}

impl Death {
    /// Whether a process dies with this step, and where. Always draws as often.
    #[must_use]
    pub fn draw(dice: &mut Dice, faults: &Faults) -> Option<Self> {
        let dies = dice.chance(faults.crash);
        let place = match dice.below(3) {
            0 => Self::BeforeCommit,
            1 => Self::AfterCommit,
            _ => Self::Between,
        };
        dies.then_some(place)
    }

    /// How many of `count` effects leave.
    #[must_use]
    pub fn limit(death: Option<Self>, dice: &mut Dice, count: usize) -> usize {
        match death {
            None => count,
            Some(Self::BeforeCommit | Self::AfterCommit) => 0,
            Some(Self::Between) => dice.index(count + 1),
        }
    }
}
