//! Relays that a contact needs and that are not there: told as what they are, rather than as silence of the contact.

use std::collections::BTreeSet;

use junto_agent::{ConnectionId, Event, Lines, Reach, RelayTrouble, Route};

use super::{Contacts, one};
use crate::failure::{Exit, Failure};
use crate::open::agent_failure;
use crate::output::Output;

/// Which relays of a connection a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Those that we receive on.
    Receiving,
    /// Both.
    Both,
}

/// Relays that were not there when it was looked.
#[derive(Debug)]
pub(crate) struct Missing {
    routes: Vec<Route>,
    /// Whether no other relay does what one of these should.
    is_all: bool,
}

impl Contacts {
    /// The relays of these lines that are needed and not there, or have not answered so far.
    pub(crate) async fn missing(&self, lines: Lines, need: Need) -> Result<Missing, Failure> {
        let routes = self.agent.routes(lines).await.map_err(agent_failure)?;
        Ok(Missing::of(routes, need))
    }

    /// Why something did not happen in time: a relay that is not there, if that is so.
    pub(crate) async fn late(&self, id: ConnectionId, need: Need, failure: Failure) -> Failure {
        match self.missing(one(id), need).await {
            Ok(missing) => missing.explain(failure),
            Err(_) => failure,
        }
    }

    /// What comes of a question to a relay. Meanwhile the user is told if one is not there.
    pub(crate) async fn asking<T>(
        &mut self,
        name: &str,
        asked: impl Future<Output = Result<T, Failure>>,
        output: Output,
    ) -> Result<T, Failure> {
        tokio::pin!(asked);
        loop {
            let event = tokio::select! {
                biased;
                answer = &mut asked => match (answer, self.contact(name).await) {
                    (Err(failure), Ok(contact)) if failure.exit == Exit::Unreachable => {
                        return Err(self.late(contact.id, Need::Both, failure).await);
                    }
                    (answer, _) => return answer,
                },
                event = self.next_event() => event?,
            };
            if matches!(event, Event::RelayDown { .. })
                && let Ok(contact) = self.contact(name).await
            {
                let missing = self.missing(one(contact.id), Need::Both).await?;
                if missing.is_dead_end() {
                    let failure = Failure::new(Exit::Unreachable, "no queue can be made");
                    return Err(missing.explain(failure));
                }
                self.tell_missing(&missing, output);
            }
        }
    }

    /// Tells who waits that a relay of the connection is not there.
    pub(crate) async fn notice(
        &mut self,
        event: &Event,
        id: ConnectionId,
        need: Need,
        output: Output,
    ) -> Result<(), Failure> {
        if matches!(event, Event::RelayDown { .. }) {
            let missing = self.missing(one(id), need).await?;
            self.tell_missing(&missing, output);
        }
        Ok(())
    }

    /// Tells of each relay once.
    pub(crate) fn tell_missing(&mut self, missing: &Missing, output: Output) {
        for (relay, text) in missing.down() {
            if self.told.insert(relay) {
                output.say(format_args!("{text}; it is tried again and again"));
            }
        }
    }
}

impl Missing {
    pub(crate) fn of(routes: BTreeSet<Route>, need: Need) -> Self {
        let is_needed = |route: &Route| match need {
            Need::Receiving => route.receives,
            Need::Both => true,
        };
        let needed: Vec<_> = routes.into_iter().filter(is_needed).collect();
        let is_up = |receives: bool| {
            let mut these = needed.iter().filter(|it| it.receives == receives);
            let first = these.next();
            first.is_none_or(|it| it.reach == Reach::Up) || these.any(|it| it.reach == Reach::Up)
        };
        let is_all = !is_up(true) || !is_up(false);
        let routes = needed.into_iter().filter(|it| it.reach != Reach::Up);
        Self {
            routes: routes.collect(),
            is_all,
        }
    }

    /// Whether waiting is in vain: nobody but the user, or whoever runs a relay, can change it.
    pub(crate) fn is_dead_end(&self) -> bool {
        let is_final = |route: &Route| {
            matches!(
                route.reach,
                Reach::Down(
                    RelayTrouble::NoWayThrough | RelayTrouble::OnionOnly | RelayTrouble::Impostor
                )
            )
        };
        self.is_all && self.routes.iter().any(is_final)
    }

    /// Those that are known not to be there, and what is the matter with each.
    pub(super) fn down(&self) -> impl Iterator<Item = (String, String)> {
        let down = self.routes.iter().filter(|it| it.reach != Reach::Unknown);
        down.map(|it| (it.path.relay.to_string(), plight(it)))
    }

    /// The failure, with what is the matter with the relays: that comes first if nothing works without them.
    pub(crate) fn explain(self, failure: Failure) -> Failure {
        if self.routes.is_empty() {
            return failure;
        }
        let plights: BTreeSet<_> = self.routes.iter().map(plight).collect();
        let plights = plights.into_iter().collect::<Vec<_>>().join("; ");
        let troubles = || self.routes.iter().map(|it| it.reach);
        let exit = match () {
            () if !self.is_all => failure.exit,
            () if troubles().any(|it| {
                matches!(
                    it,
                    Reach::Down(RelayTrouble::Impostor | RelayTrouble::OnionOnly)
                )
            }) =>
            {
                Exit::Refused
            }
            () => Exit::Unreachable,
        };
        let what = failure.message.clone();
        let help = match self.help() {
            help if self.is_all => help,
            help => failure
                .help
                .as_deref()
                .map_or(help.clone(), |own| format!("{own}; {help}")),
        };
        let message = match self.is_all {
            true => format!("{plights}: {what}"),
            false => format!("{what}; {plights}"),
        };
        Failure {
            exit,
            message,
            ..failure
        }
        .help(help)
    }

    /// What to do about it.
    fn help(&self) -> String {
        let has = |trouble| {
            self.routes
                .iter()
                .any(|it| it.reach == Reach::Down(trouble))
        };
        if has(RelayTrouble::NoWayThrough) {
            return "nothing is lost. Run it again with `--routing never` (for good: `routing_fallback = true`, or `routing = \"never\"`, in the profile's profile.toml): \
                then you connect to that relay directly, and it sees your network address, for which a hostile relay can bring this about. Or let the relay in between connect there, if it is yours: \
                it refuses private networks without `allow_private = true` in its relay.toml, and its own machine without `allow_own = true`. docs/guides/routing.md has more"
                .to_owned();
        }
        if has(RelayTrouble::OnionOnly) {
            return "nothing is lost: with Tor running, add `--socks 127.0.0.1:9050`, or write it into the profile's profile.toml".to_owned();
        }
        if has(RelayTrouble::Impostor) {
            return "somebody else answers in the relay's place, or it has another key than before: ask who runs it, by other means; `junto relay status ADDRESS` tells whether it is so still".to_owned();
        }
        "nothing is lost, and it goes on with the next command once the relay is there; `junto relay status ADDRESS` tells whether it is".to_owned()
    }
}

/// What is the matter with a relay, in words.
pub(crate) fn plight(route: &Route) -> String {
    let relay = &route.path.relay;
    let through: Vec<_> = route.path.through.iter().map(ToString::to_string).collect();
    let through = through.join(" or ");
    match (route.reach, through.as_str()) {
        (Reach::Up, _) => format!("the relay {relay} is there"),
        (Reach::Unknown, _) => format!("the relay {relay} has not answered so far"),
        (Reach::Down(RelayTrouble::NoWayThrough), through) => {
            format!(
                "the relay {relay} is to be reached through {through}, which refuses to pass anything on to it"
            )
        }
        (Reach::Down(RelayTrouble::Unreachable), through) if !through.is_empty() => {
            format!("the relay {relay} is out of reach through {through}")
        }
        (Reach::Down(trouble), _) => format!("the relay {relay} {trouble}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use junto_agent::RelayPath;

    use super::*;

    fn route(number: u8, receives: bool, reach: Reach) -> Route {
        let pin = junto_smp::address::Fingerprint([number; 32]);
        let at = |host: &str| {
            junto_smp::address::ServerAddress::new(pin, vec![host.parse().unwrap()], 5223).unwrap()
        };
        let mut path = RelayPath::direct(at("relay.example"));
        if reach == Reach::Down(RelayTrouble::NoWayThrough) {
            path.through.push(at("between.example"));
        }
        Route {
            receives,
            path,
            reach,
        }
    }

    const GONE: Reach = Reach::Down(RelayTrouble::Unreachable);
    const NO_WAY: Reach = Reach::Down(RelayTrouble::NoWayThrough);

    fn late() -> Failure {
        Failure::new(Exit::Unreachable, "nothing came").help("wait")
    }

    #[test]
    fn one_of_two_relays_that_is_gone_is_told_and_no_dead_end() {
        let routes = [route(1, true, Reach::Up), route(2, true, NO_WAY)];
        let missing = Missing::of(routes.into(), Need::Both);
        assert!(!missing.is_dead_end());
        let failure = missing.explain(late());
        assert!(
            failure.message.starts_with("nothing came; the relay"),
            "{failure:?}"
        );
        assert!(failure.help.unwrap().starts_with("wait; "));
    }

    #[test]
    fn the_only_relay_comes_before_the_silence_that_it_causes() {
        let routes = [route(1, true, GONE), route(2, false, Reach::Up)];
        let missing = Missing::of(routes.into(), Need::Both);
        assert!(!missing.is_dead_end(), "it may come back");
        let failure = missing.explain(late());
        assert!(
            failure.message.ends_with("is out of reach: nothing came"),
            "{failure:?}"
        );
        // Who only receives does not care for the relays of others.
        let routes = [route(1, true, Reach::Up), route(2, false, GONE)];
        let missing = Missing::of(routes.into(), Need::Receiving);
        assert_eq!(missing.explain(late()).message, "nothing came");
    }

    #[test]
    fn a_relay_in_between_that_refuses_is_a_dead_end_with_what_to_do() {
        let routes = [route(1, true, Reach::Up), route(2, false, NO_WAY)];
        let missing = Missing::of(routes.into(), Need::Both);
        assert!(missing.is_dead_end());
        let help = missing.explain(late()).help.unwrap();
        for word in ["--routing never", "routing_fallback", "allow_private"] {
            assert!(help.contains(word), "{help}");
        }
        assert!(!help.contains("  "), "{help}");
    }
}
