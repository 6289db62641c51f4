//! Who is there while a run goes on, whatever its program does meanwhile.
//!
//! Each party says every few seconds that it is there, and lastly that it has said all. Whoever has said so much as once, and of whom nothing
//! comes for longer than the program here allows, ends the run. What a party says to its program counts as well: a sign of life stands
//! behind it. Of whom so much waits unread here that no more is taken, nobody can tell.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use junto_session::{Channel, Execution, Members, PartyIndex, Session, SessionError};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// One for all runs of a session: what came too late for one is dropped in the next.
const LABEL: &str = "junto alive 1";
/// How often a party says that it is there.
const SAID_EVERY: Duration = Duration::from_secs(5);
/// How often the silent are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Nobody whose network and machine work is silent for so long: no program may allow less.
pub(crate) const OVERDUE: Duration = Duration::from_secs(15);

const THERE: u8 = 0;
const OVER: u8 = 1;

/// Where all say that they are there.
pub(crate) async fn channel(session: &Session) -> Result<Channel, SessionError> {
    session.channel(LABEL).await
}

/// What is said in a run of that name.
fn sign(kind: u8, run: &str) -> Bytes {
    [&[kind], run.as_bytes()].concat().into()
}

/// Says that we are there, and once `closing` holds, and as long as it does, nothing more.
pub(crate) async fn speak(
    channel: Channel,
    to: PartyIndex,
    run: String,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let over = *closing.borrow_and_update();
        let kind = if over { OVER } else { THERE };
        // Whoever says anything else to a party that takes nothing hears why not.
        if channel.feed(to, sign(kind, &run)).await.is_err() {
            return;
        }
        let changed = tokio::select! {
            changed = closing.changed() => changed,
            () = sleep(SAID_EVERY), if !over => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Returns with those of whom nothing came for longer than `limit`, and what ended it otherwise.
pub(crate) async fn silent(
    session: Session,
    channel: Channel,
    run: String,
    limit: Duration,
) -> Result<Members, SessionError> {
    let mut watch = Watch::new(limit, Instant::now());
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut next = pin!(channel.next());
        let message = loop {
            tokio::select! {
                message = &mut next => break message?,
                _ = every.tick() => {
                    let silent = watch.look(&session.heard().await?, Instant::now());
                    if !silent.is_empty() {
                        return Ok(silent);
                    }
                }
            }
        };
        let (party, now) = (message.from, Instant::now());
        match &message.payload {
            said if *said == sign(THERE, &run) => watch.is_there(party, now),
            said if *said == sign(OVER, &run) => watch.is_over(party),
            // Of another run.
            _ => {}
        }
        channel.done(message.receipt).await?;
    }
}

/// Ends the run in the name of the silent.
pub(crate) async fn end(execution: Execution, silent: Members) {
    let _ = execution.abort("nothing came of others", silent).await;
}

/// Of whom something was heard, and when.
struct Watch {
    parties: BTreeMap<PartyIndex, Heard>,
    looked: Instant,
    limit: Duration,
}

struct Heard {
    at: Instant,
    /// How much had come by then.
    count: Option<u64>,
}

impl Watch {
    fn new(limit: Duration, now: Instant) -> Self {
        Self {
            parties: BTreeMap::new(),
            looked: now,
            limit,
        }
    }

    /// From now on it is missed.
    fn is_there(&mut self, party: PartyIndex, now: Instant) {
        let heard = Heard {
            at: now,
            count: None,
        };
        self.parties.entry(party).or_insert(heard).at = now;
    }

    /// It has said all, and is not missed any more.
    fn is_over(&mut self, party: PartyIndex) {
        self.parties.remove(&party);
    }

    /// Who is silent for too long, and who went along with the first of them, as all do if it is our own network. Only time in which this
    /// process ran counts.
    fn look(&mut self, counts: &[(PartyIndex, Option<u64>)], now: Instant) -> Members {
        let passed = now.saturating_duration_since(self.looked);
        let lost = passed.saturating_sub(LOOK_EVERY);
        self.looked = now;
        for heard in self.parties.values_mut() {
            heard.at = (heard.at + lost).min(now);
        }
        for (party, count) in counts {
            if let Some(heard) = self.parties.get_mut(party)
                && (count.is_none() || heard.count != *count)
            {
                (heard.at, heard.count) = (now, *count);
            }
        }
        let silent = |limit: Duration| {
            let silent = self
                .parties
                .iter()
                .filter(|(_, heard)| now.saturating_duration_since(heard.at) > limit);
            silent.map(|(party, _)| *party).collect::<Members>()
        };
        if silent(self.limit).is_empty() {
            return Members::NONE;
        }
        silent(self.limit.saturating_sub(OVERDUE).max(OVERDUE))
    }
}
