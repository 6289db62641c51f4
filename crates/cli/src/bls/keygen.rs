//! `junto bls keygen`.

use std::time::Duration;

use junto_bls::{KeyPublic, SetupError};

use super::key_file::{self, KeyFile};
use super::order::Origin;
use super::resume::{Asked, Resumed, conclude, resumed};
use super::run::{Desk, Task, make, setup_failure, small};
use crate::failure::Failure;
use crate::open::Junto;
use crate::output::Output;

pub(crate) async fn keygen(
    junto: &Junto,
    session: &str,
    name: &str,
    threshold: u16,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    key_file::path(name)?;
    let session = junto.session(session, patience).await?;
    let threshold = small(threshold)?;
    let parties = small(session.parties().as_usize())?;
    if threshold > parties {
        return Err(setup_failure(SetupError::Threshold));
    }
    let asked = Asked {
        purpose: format!("bls keygen {name}"),
        session: session.id().to_string(),
        threshold: Some((threshold, parties)),
    };
    let mut key = KeyFile::find(&junto.profile, name)?.unwrap_or_default();
    if let Some(other) = another(&key, &asked) {
        return Err(Failure::usage(format_args!(
            "there is a key `{name}` in this profile, of session {}",
            other.session
        ))
        .help("choose another name with `--name`, the same for all parties"));
    }
    let first = resumed(junto, name, &mut key, &asked, output).await?;
    if let Some(held) = &key.held {
        // A name is taken once: this is the key that the command asks for, however often it does.
        return conclude(junto, name, held, output).await;
    }
    let first = match first {
        Resumed::Nothing | Resumed::Done => 0,
        Resumed::Run(number) => number,
        // Another run would make another key, and this one may be in use at any time.
        Resumed::Broken(failure) => return Err(failure.help(
            "should another party have the key, the same command gets it; to make another key, choose another `--name`",
        )),
    };
    let progress = output.progress("making a key: waiting for the other parties");
    let desk = Desk::new(junto, &session, name, &progress, patience, output);
    let task = Task::Keygen { threshold };
    let held = make(desk, &task, &asked, first, &mut key).await?;
    progress.done();
    conclude(junto, name, held, output).await
}

/// A share of that name that is not what the command asks for.
fn another<'a>(key: &'a KeyFile, asked: &Asked) -> Option<&'a Origin> {
    let held = key.held.iter().map(|it| (it.share.public(), &it.origin));
    let undecided = key.undecided.iter();
    let undecided = undecided.map(|it| (it.pending.key(), &it.origin));
    let other = |(key, origin): &(&KeyPublic, &Origin)| !asked.means(origin, key);
    held.chain(undecided).find(other).map(|(_, origin)| origin)
}
