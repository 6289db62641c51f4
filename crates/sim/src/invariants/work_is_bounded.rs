//! What an agent does and keeps is bounded by what it was given, however strange that was.

use crate::{agents::Work, verdict::Violation};

/// Commands for each thing that a relay says, and for each call and time that the agent was woken.
const COMMANDS: u64 = 1;
/// Commands for each connection that comes up: all that waits is said again.
const COMMANDS_ANEW: u64 = 40;
/// Rows in the store.
const ROWS: usize = 700;

/// To be asked at any time.
///
/// # Errors
/// The violation.
pub fn check(party: usize, work: Work) -> Result<(), Violation> {
    let most = COMMANDS * (work.heard + work.called) + COMMANDS_ANEW * work.greeted;
    if work.commands <= most && work.rows <= ROWS {
        return Ok(());
    }
    let text = format!("party {party}: {work:?}");
    Err(Violation::new("work_is_bounded", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_agent_is_seen() {
        let work = Work {
            heard: 10,
            commands: 10,
            ..Work::default()
        };
        assert_eq!(check(0, work), Ok(()));
        let busy = Work {
            commands: 11,
            ..work
        };
        assert!(check(0, busy).is_err());
        let full = Work { rows: 701, ..work };
        assert!(check(0, full).is_err());
    }
}
