//! A session that receives on several queues: on several relays, it survives the death of all of them but one; on one relay,
//! much goes faster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use junto_agent::{Agent, ConnectionView, Progress, Route, Spread};
use junto_session::LocalId;
use junto_session::carrier::agent::agents_lines;
use junto_smp::address::ServerAddress;
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::open::{Junto, SETTLE, agent_failure};
use crate::output::Output;

/// How often to look how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// How long a command that forms a session waits for the others to learn of another relay.
const GLANCE: Duration = Duration::from_secs(10);

/// Receives on these relays as well. Who forms the session is there now; what is left goes on with the next command.
pub(super) async fn add_all(
    junto: &Junto,
    session: LocalId,
    relays: &[ServerAddress],
    output: Output,
) -> Result<(), Failure> {
    for relay in relays {
        if !receive(junto, session, relay, GLANCE, output).await? {
            output.say(format_args!(
                "Not all parties know of {relay} yet; that goes on whenever you and they run a command in the session."
            ));
        }
    }
    Ok(())
}

/// Receives on one more relay, and waits until all parties know.
pub(super) async fn add(
    junto: &Junto,
    name: &str,
    session: LocalId,
    relay: &ServerAddress,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    if !receive(junto, session, relay, patience, output).await? {
        return Err(Failure::new(
            Exit::Unreachable,
            format_args!("not all parties of {name} have learnt of {relay} in time"),
        )
        .help(
            "it is stored and goes on with each command in the session, once they run one as well",
        ));
    }
    let views = connections(junto, session).await?;
    let value = json!({ "session": name, "receives": json_of(&receives(&views)) });
    output.result(&value, || {
        format!("Session {name}: every party sends what it says to you to {relay} as well.")
    })
}

/// Receives on one relay less.
pub(super) async fn remove(
    junto: &Junto,
    name: &str,
    session: LocalId,
    relay: &ServerAddress,
    output: Output,
) -> Result<(), Failure> {
    let mut found = false;
    for view in connections(junto, session).await? {
        let on_it = view.receives.iter().filter(|it| is_one(&it.relay, relay));
        for number in 0..on_it.count() {
            match junto.agent().remove_queue(view.id, relay).await {
                // The last queue of all stays.
                Err(_) if number > 0 => break,
                removed => removed.map_err(agent_failure)?,
            }
            found = true;
        }
    }
    if !found {
        return Err(Failure::usage(format_args!(
            "nobody in {name} sends what it says to you to {relay}"
        ))
        .help("`junto session show NAME` lists the relays of a session"));
    }
    // The others hear of it, and the relay, now or with a later command.
    let _ = junto.settle(GLANCE).await;
    let views = connections(junto, session).await?;
    let value = json!({ "session": name, "receives": json_of(&receives(&views)) });
    let stays = views.iter().flat_map(|view| &view.receives);
    let stays = stays.filter(|it| is_one(&it.relay, relay)).count();
    output.result(&value, || match stays {
        0 => format!("Session {name}: you receive on {relay} no more."),
        _ => format!("Session {name}: you receive on one queue of {relay} and no other, which stays until you receive elsewhere as well."),
    })
}

/// Whether all parties know of it now.
async fn receive(
    junto: &Junto,
    session: LocalId,
    relay: &ServerAddress,
    patience: Duration,
    output: Output,
) -> Result<bool, Failure> {
    let standing = connections(junto, session).await?;
    if standing.is_empty() {
        return Err(Failure::failed(
            "no party of the session is connected with this one any more",
        ));
    }
    for view in standing {
        if is_striped(view.receives.iter().map(|it| &it.relay)) {
            return Err(Failure::refused(
                "this party receives on several queues of one relay in this session, for speed: a further relay would save nothing",
            )
            .help("receive on several relays in another session, without `junto run --stripes`"));
        }
        if !view.receives.iter().any(|it| is_one(&it.relay, relay)) {
            let added = junto.agent().add_queue(view.id, relay).await;
            added.map_err(agent_failure)?;
        }
    }
    let is_open = |view: &ConnectionView| {
        let mut queues = view.receives.iter();
        queues.any(|it| it.is_open && is_one(&it.relay, relay))
    };
    learnt(junto, session, is_open, patience, output).await
}

/// Waits until the peer of each connection knows what `is_open` looks for.
async fn learnt(
    junto: &Junto,
    session: LocalId,
    is_open: impl Fn(&ConnectionView) -> bool,
    patience: Duration,
    output: Output,
) -> Result<bool, Failure> {
    let end = Instant::now() + patience;
    let progress = output.progress("waiting for the others to learn of the new queues".to_owned());
    while !connections(junto, session).await?.iter().all(&is_open) {
        if Instant::now() >= end {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
    progress.done();
    junto.settle(SETTLE).await?;
    Ok(true)
}

/// Receives on so many queues of the relay that it receives on: what comes is taken side by side. Waits for the others to
/// know, and says so if they do not in time.
pub(crate) async fn stripe(
    junto: &Junto,
    session: LocalId,
    stripes: usize,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let views = connections(junto, session).await?;
    add_stripes(junto.agent(), &views, stripes).await?;
    let is_open =
        |view: &ConnectionView| view.receives.iter().filter(|it| it.is_open).count() >= stripes;
    if !learnt(junto, session, is_open, patience, output).await? {
        output.say("Not all parties know of the further queues yet: what they send comes over those that they know.");
    }
    Ok(())
}

/// Makes queues until each of these connections receives on so many, all on one relay.
pub(crate) async fn add_stripes(
    agent: &Agent,
    views: &[ConnectionView],
    stripes: usize,
) -> Result<(), Failure> {
    for view in views {
        let mut queues = view.receives.iter();
        let Some(relay) = queues.next().map(|queue| &queue.relay) else {
            continue;
        };
        if queues.any(|queue| queue.relay != *relay) {
            return Err(Failure::refused(
                "this party receives on several relays in this session, and everything is sent to all of them: more queues would make nothing faster",
            )
            .help("leave out `--stripes`, or use a session in which you receive on one relay"));
        }
        for _ in view.receives.len()..stripes {
            let added = agent.add_queue(view.id, relay).await;
            added.map_err(agent_failure)?;
        }
    }
    Ok(())
}

/// Sends to the others as the queues that they receive on are meant: over several of one relay in turn, as copies there would
/// all die with it; otherwise to all.
pub(crate) async fn follow(junto: &Junto, session: LocalId) -> Result<(), Failure> {
    let views = connections(junto, session).await?;
    choose_spread(junto.agent(), &views).await
}

/// The same of these connections.
pub(crate) async fn choose_spread(agent: &Agent, views: &[ConnectionView]) -> Result<(), Failure> {
    for view in views.iter().filter(|view| view.sends.len() > 1) {
        let spread = match is_striped(&view.sends) {
            true => Spread::Stripes,
            false => Spread::Copies,
        };
        let set = agent.set_spread(view.id, spread).await;
        set.map_err(agent_failure)?;
    }
    Ok(())
}

/// Whether two of the queues are on one relay.
fn is_striped<'a>(relays: impl IntoIterator<Item = &'a ServerAddress>) -> bool {
    let mut seen = BTreeSet::new();
    let mut relays = relays.into_iter();
    relays.any(|relay| !seen.insert(relay.fingerprint()))
}

/// Whether two addresses lead to one relay, which its certificate tells.
fn is_one(one: &ServerAddress, other: &ServerAddress) -> bool {
    one.fingerprint() == other.fingerprint()
}

/// The first relay that is named twice, if one is.
pub(super) fn repeated(relays: &[ServerAddress]) -> Option<&ServerAddress> {
    let before = |at: usize| relays.iter().take(at);
    let mut all = relays.iter().enumerate();
    all.find(|(at, relay)| before(*at).any(|it| is_one(it, relay)))
        .map(|(_, relay)| relay)
}

/// The relays that a session uses, and which way.
pub(crate) async fn routes(junto: &Junto, session: LocalId) -> Result<BTreeSet<Route>, Failure> {
    let lines = agents_lines(junto.lines(session).await?.lines());
    junto.routes(lines).await
}

/// The session's connections with the other parties.
async fn connections(junto: &Junto, session: LocalId) -> Result<Vec<ConnectionView>, Failure> {
    let lines = agents_lines(junto.lines(session).await?.lines());
    let overview = junto.agent().overview().await.map_err(agent_failure)?;
    let all = overview.connections.into_iter();
    Ok(all
        .filter(|it| lines.connections.contains(&it.id) && it.progress == Progress::Connected)
        .collect())
}

/// What the connections of a session go through: the queues in both directions.
pub(super) async fn queues(junto: &Junto, session: LocalId) -> Result<Queues, Failure> {
    let views = connections(junto, session).await?;
    let (receives, sends) = (receives(&views), sends(&views));
    Ok(Queues { receives, sends })
}

/// For each relay, how many parties and queues there are.
pub(super) struct Queues {
    receives: Counts,
    sends: Counts,
}

type Counts = BTreeMap<String, (usize, usize)>;

impl Queues {
    pub(super) fn json(&self) -> Value {
        json!({ "receives": json_of(&self.receives), "sends": json_of(&self.sends) })
    }

    /// Only what is out of the ordinary.
    pub(super) fn text(&self) -> Vec<String> {
        let line = |what: &str, (relay, (parties, queues)): (&String, &(usize, usize))| {
            (queues > parties).then(|| {
                format!("{what:<12} over {queues} queues for {parties} parties, for speed: {relay}")
            })
        };
        let receives = self.receives.iter().filter_map(|it| line("receives", it));
        let sends = self.sends.iter().filter_map(|it| line("sends", it));
        receives.chain(sends).collect()
    }
}

fn json_of(counts: &Counts) -> Value {
    let one = |(relay, (parties, queues)): (&String, &(usize, usize))| json!({ "relay": relay, "parties": parties, "queues": queues });
    counts.iter().map(one).collect()
}

/// Relays that parties send to us through.
fn receives(views: &[ConnectionView]) -> Counts {
    let open = |view: &ConnectionView| -> Vec<String> {
        let open = view.receives.iter().filter(|queue| queue.is_open);
        open.map(|queue| queue.relay.to_string()).collect()
    };
    count(views.iter().map(open))
}

/// Relays that we send to them through.
fn sends(views: &[ConnectionView]) -> Counts {
    let all = |view: &ConnectionView| view.sends.iter().map(ToString::to_string).collect();
    count(views.iter().map(all))
}

/// Counts the relays of each party's queues.
fn count(parties: impl Iterator<Item = Vec<String>>) -> Counts {
    let mut counts = Counts::new();
    for relays in parties {
        for relay in relays.iter().collect::<BTreeSet<_>>() {
            let count = counts.entry(relay.clone()).or_default();
            count.0 += 1;
            count.1 += relays.iter().filter(|it| *it == relay).count();
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(number: u8) -> ServerAddress {
        let pin = junto_smp::address::Fingerprint([number; 32]);
        ServerAddress::new(pin, vec!["relay.example".parse().unwrap()], 5223).unwrap()
    }

    #[test]
    fn queues_of_one_relay_are_stripes_and_those_of_several_are_copies() {
        assert!(!is_striped(&[relay(1)]));
        assert!(!is_striped(&[relay(1), relay(2), relay(3)]));
        assert!(is_striped(&[relay(1), relay(2), relay(1)]));
    }

    #[test]
    fn parties_and_queues_are_counted_for_each_relay() {
        let parties = [vec!["x", "x", "y"], vec!["x"], vec![]];
        let parties = parties.map(|relays| relays.iter().map(ToString::to_string).collect());
        let counts = count(parties.into_iter());
        assert_eq!(counts["x"], (2, 3));
        assert_eq!(counts["y"], (1, 1));
        let queues = Queues {
            receives: counts,
            sends: Counts::new(),
        };
        assert_eq!(queues.text().len(), 1);
        assert_eq!(queues.json()["receives"][0]["queues"], 3);
    }
}
