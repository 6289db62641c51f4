//! Which way a profile's commands go to relays: `--routing`, `--socks`, and what `profile.toml` says.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use junto_agent::client::{NoSocksServer, SocksServer};
use junto_agent::{AgentConfig, Fallback, Reach, RelayPath, Route};
use junto_smp::address::ServerAddress;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::Global;
use crate::contact::plight;
use crate::failure::Failure;
use crate::profile::ProfileConfig;
use crate::relay::parse_address;

/// When what is sent goes through a relay of one's own, so that the relays of others do not see one's address.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Routing {
    /// Never: everybody's relays see it.
    Never,
    /// As `unknown`, unless a SOCKS server hides the address already.
    Unprotected,
    /// To relays that this profile did not choose.
    #[default]
    Unknown,
    /// To all relays, as long as there is another one to go through.
    Always,
}

impl From<Routing> for junto_agent::Routing {
    fn from(routing: Routing) -> Self {
        match routing {
            Routing::Never => Self::Never,
            Routing::Unprotected => Self::WhenUnprotected,
            Routing::Unknown => Self::WhenUnknown,
            Routing::Always => Self::Always,
        }
    }
}

/// A SOCKS server, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socks(pub(crate) Option<SocksServer>);

impl FromStr for Socks {
    type Err = NoSocksServer;

    fn from_str(text: &str) -> Result<Self, NoSocksServer> {
        match text {
            "none" | "" => Ok(Self(None)),
            _ => text.parse().map(|server| Self(Some(server))),
        }
    }
}

/// The SOCKS server that the command line names, else the profile.
pub(crate) fn socks(
    global: &Global,
    profile: &ProfileConfig,
) -> Result<Option<SocksServer>, Failure> {
    if let Some(Socks(server)) = &global.socks {
        return Ok(server.clone());
    }
    let Socks(server) = profile
        .socks
        .parse()
        .map_err(|error| Failure::usage(format_args!("profile.toml: `socks`: {error}")))?;
    Ok(server)
}

/// Has the agent go the way that the command line says, else the profile.
pub(crate) fn set(
    config: &mut AgentConfig,
    global: &Global,
    profile: &ProfileConfig,
) -> Result<(), Failure> {
    config.routing = global.routing.unwrap_or(profile.routing).into();
    config.fallback = if profile.routing_fallback {
        Fallback::WhenUnsupported
    } else {
        Fallback::Never
    };
    config.client.socks = socks(global, profile)?;
    config.own_relays = profile
        .relays
        .iter()
        .map(|relay| parse_address(relay))
        .collect::<Result<_, _>>()?;
    Ok(())
}

/// Refuses a relay that only Tor knows, if there is no way to it.
pub(crate) fn check_onion(
    relay: &ServerAddress,
    socks: Option<&SocksServer>,
) -> Result<(), Failure> {
    if socks.is_some() || !relay.hosts().iter().all(|host| host.is_onion()) {
        return Ok(());
    }
    let failure = Failure::refused(format_args!(
        "the relay {relay} is reached through Tor only"
    ));
    Err(failure.help(
        "with Tor running, add `--socks 127.0.0.1:9050`, or write it into the profile's profile.toml",
    ))
}

/// What the relays of some sessions or contacts see.
pub(crate) struct Views(BTreeMap<String, View>);

#[derive(Default)]
struct View {
    /// We receive on it.
    receives: bool,
    /// It has queues that we send to.
    sends: bool,
    /// Through which relays at most.
    through: Vec<String>,
    /// It passes on what we send to these.
    passes_on_to: Vec<String>,
    direct: bool,
    /// Why it is not there for us, if that is so.
    troubles: BTreeSet<String>,
}

impl Views {
    pub(crate) fn of(routes: BTreeSet<Route>) -> Self {
        let mut views = BTreeMap::<String, View>::new();
        for route in routes {
            let trouble = matches!(route.reach, Reach::Down(_)).then(|| plight(&route));
            let Route { receives, path, .. } = route;
            let RelayPath { relay, through } = path;
            let (relay, direct) = (relay.to_string(), through.is_empty());
            for proxy in &through {
                let proxy = views.entry(proxy.to_string()).or_default();
                proxy.passes_on_to.push(relay.clone());
            }
            let view = views.entry(relay).or_default();
            view.receives |= receives;
            view.sends |= !receives;
            view.direct |= direct;
            view.troubles.extend(trouble);
            view.through.extend(through.iter().map(ToString::to_string));
        }
        Self(views)
    }

    pub(crate) fn json(&self) -> Value {
        let view = |(relay, view): (&String, &View)| {
            json!({
                "relay": relay,
                "receives": view.receives,
                "sends": view.sends,
                "through": view.through,
                "passes_on_to": view.passes_on_to,
                "sees_address": view.sees_address(),
                "trouble": view.trouble(),
            })
        };
        self.0.iter().map(view).collect()
    }

    /// Lines for people; `hidden`: a SOCKS server stands in between.
    pub(crate) fn text(&self, hidden: bool) -> Vec<String> {
        let line = |(relay, view): (&String, &View)| {
            let mut known = Vec::new();
            if view.receives {
                known.push("your queues".to_owned());
            }
            if view.sends {
                known.push("queues that you send to".to_owned());
            }
            if !view.passes_on_to.is_empty() {
                known.push("that you send to other relays, not what or to which queue".to_owned());
            }
            let address = match (view.sees_address(), hidden) {
                (true, false) => "your network address",
                (true, true) => "the SOCKS server's way out, not your network address",
                (false, _) => "your relay's network address, not yours",
            };
            known.push(address.to_owned());
            let trouble = view
                .trouble()
                .map(|it| format!("\n             NOT THERE: {it}"));
            format!(
                "relay        {relay}\n             sees {}{}",
                known.join("; "),
                trouble.unwrap_or_default()
            )
        };
        self.0.iter().map(line).collect()
    }
}

impl View {
    fn trouble(&self) -> Option<String> {
        let troubles: Vec<_> = self.troubles.iter().map(String::as_str).collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }

    /// Unless a SOCKS server is in between.
    fn sees_address(&self) -> bool {
        self.direct || !self.passes_on_to.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socks_server_can_be_switched_off() {
        assert_eq!("none".parse(), Ok(Socks(None)));
        assert!("127.0.0.1:9050".parse::<Socks>().unwrap().0.is_some());
        assert!("9050".parse::<Socks>().is_err());
    }
}
