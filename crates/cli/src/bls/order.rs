//! Which runs of a key a party confirms, and in which order (`docs/spec/threshold-bls.md` §5.1).
//!
//! Two runs that start from one epoch may both be certified. If honest parties had confirmed them in
//! different order, each would take the other one for the latest, and their shares would not fit
//! together. So there is one order, which nobody has to agree on: within a session it ascends, and
//! whoever has confirmed a run that takes the key to another session confirms nothing in the old one.

use junto_bls::Setup;

use super::key_file::{Held, Undecided};

/// The run behind a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Id of the session whose parties hold the key.
    pub(crate) session: String,
    /// Label of the run's execution.
    pub(crate) label: String,
    /// Number of the run in the session: the next one gets the next number.
    pub(crate) run: u32,
}

impl Origin {
    /// What the setup of a run says of it; none if it is not one of ours.
    pub(crate) fn of(setup: &Setup) -> Option<Self> {
        let label = core::str::from_utf8(setup.label()).ok()?;
        let (_, run) = label.rsplit_once(" #")?;
        Some(Origin {
            session: hex::encode(setup.session()),
            label: label.to_owned(),
            run: run.parse().ok()?,
        })
    }

    /// Place among the runs of its session that make shares of one epoch.
    fn place(&self) -> (u32, &str) {
        (self.run, &self.label)
    }
}

/// Place of a run in its session: later epochs come later.
pub(crate) fn place(setup: &Setup) -> Option<(u64, u32, String)> {
    let origin = Origin::of(setup)?;
    Some((epoch(setup), origin.run, origin.label))
}

/// The epoch of the shares that the run makes.
fn epoch(setup: &Setup) -> u64 {
    let old = setup.old_key();
    old.map_or(0, |old| old.epoch().saturating_add(1))
}

/// Why a party does not confirm a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Barred {
    /// It is no run of a key.
    NoRun,
    /// It has confirmed this one since.
    Past(Origin),
    /// This one takes the key to another session, and is undecided.
    Elsewhere(Origin),
    /// It has a later share than those that the run starts from.
    OlderShare,
}

/// What a party holds of a key, and what it has confirmed since, in that order.
#[derive(Clone, Copy)]
pub(crate) struct Standing<'a> {
    pub(crate) held: Option<&'a Held>,
    pub(crate) undecided: &'a [Undecided],
}

impl Standing<'_> {
    /// The session in which the key is used, or will be once its generation is decided.
    fn home(&self) -> Option<&str> {
        let first = self.undecided.first();
        let made = first.filter(|run| run.pending.setup().old_key().is_none());
        let held = self.held.map(|held| &held.origin);
        held.or(made.map(|run| &run.origin))
            .map(|origin| origin.session.as_str())
    }

    /// Whether this party may confirm runs in `session`. It may leave the session where the key is
    /// used whatever is undecided there, since nobody who has left comes back to it. `abandon` gives
    /// up a run that was to take the key elsewhere; not for the session that the key was to leave,
    /// whose other parties know nothing of that run and would confirm the two the other way round.
    ///
    /// # Errors
    /// [`Barred::Elsewhere`].
    pub(crate) fn meets_in(&self, session: &str, abandon: bool) -> Result<(), Barred> {
        let Some(latest) = self.undecided.last().map(|run| &run.origin) else {
            return Ok(());
        };
        let home = self.home();
        let leaves = home == Some(&latest.session);
        if leaves || latest.session == session || (abandon && home != Some(session)) {
            return Ok(());
        }
        Err(Barred::Elsewhere(latest.clone()))
    }

    /// Whether this party may still confirm the run of that label and number in its session: it may
    /// have done so before, but not with one that comes after it.
    pub(crate) fn admits(&self, new: &Origin) -> bool {
        let known = self.undecided.iter().map(|run| &run.origin);
        let known = known.chain(self.held.map(|held| &held.origin));
        let mut here = known.filter(|it| it.session == new.session);
        self.undecided.iter().any(|run| run.origin == *new)
            || here.all(|it| new.place() > it.place())
    }

    /// Whether this party may confirm the run. It says so before it deals, and asks again when it is
    /// about to store its share: this is its vote.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_confirm(&self, setup: &Setup, abandon: bool) -> Result<(), Barred> {
        let mut known = self.undecided.iter();
        if known.any(|run| run.pending.setup() == setup) {
            return Ok(()); // the same again, after a crash
        }
        let origin = Origin::of(setup).ok_or(Barred::NoRun)?;
        self.meets_in(&origin.session, abandon)?;
        let confirmed = self.undecided.iter().map(|run| run.pending.setup());
        let confirmed = confirmed.chain(self.held.map(|held| held.certificate.setup()));
        for before in confirmed.filter(|it| it.session() == setup.session()) {
            if place(setup) <= place(before) {
                return Err(Origin::of(before).map_or(Barred::NoRun, Barred::Past));
            }
        }
        let newest = self.undecided.iter().map(|run| epoch(run.pending.setup()));
        if newest.max().is_some_and(|newest| newest > epoch(setup)) {
            return Err(Barred::OlderShare);
        }
        let fits = |held: &Held| {
            let own = held.share.public();
            let starts = |old: &junto_bls::KeyPublic| old == own || old.epoch() > own.epoch();
            setup.old_key().is_some_and(starts)
        };
        if self.held.is_some_and(|held| !fits(held)) {
            return Err(Barred::OlderShare);
        }
        Ok(())
    }
}
