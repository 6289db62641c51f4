//! Settings of private message routing.

use core::str::FromStr;
use core::time::Duration;

use ipnet::IpNet;
use junto_smp::address::Host;

use crate::config::Rate;

/// Whether and how this relay passes commands on to other relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Off: `PRXY` is refused with `PROXY BASIC_AUTH`, as if with a wrong password.
    pub enabled: bool,
    /// Connect into private address ranges too. Only for tests and closed networks: with it, every
    /// user can make this relay knock at every door of the network that it stands in.
    pub allow_private: bool,
    /// Connect to this machine too, under any address that one of its interfaces has. With it,
    /// every user can make this relay knock at its other services.
    pub allow_own: bool,
    /// Never connect into these networks, whatever else is allowed, nor to what wraps an IPv4
    /// address in them.
    pub refuse: Vec<IpNet>,
    /// SOCKS5 server for `.onion` relays, or for all.
    pub socks: Option<Endpoint>,
    /// When to use it.
    pub socks_mode: SocksMode,
    /// Bounds.
    pub limits: ProxyLimits,
    /// Waiting times.
    pub timeouts: ProxyTimeouts,
}

/// Which outgoing connections go through the SOCKS5 server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocksMode {
    /// Those to relays that have only `.onion` names.
    #[default]
    Onion,
    /// All. Then that server resolves names, and must itself keep out of private networks.
    Always,
}

impl FromStr for SocksMode {
    type Err = NoSetting;

    fn from_str(text: &str) -> Result<Self, NoSetting> {
        match text {
            "onion" => Ok(Self::Onion),
            "always" => Ok(Self::Always),
            _ => Err(NoSetting),
        }
    }
}

/// Host and port of a SOCKS5 server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or address.
    pub host: Host,
    /// Not 0.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = NoSetting;

    /// `host:port`, nothing else.
    fn from_str(text: &str) -> Result<Self, NoSetting> {
        let (host, port) = text.rsplit_once(':').ok_or(NoSetting)?;
        Ok(Self {
            host: host.parse().map_err(|_| NoSetting)?,
            port: port
                .parse()
                .ok()
                .filter(|&port| port > 0)
                .ok_or(NoSetting)?,
        })
    }
}

/// A text that is no value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no value of this setting")]
pub struct NoSetting;

/// What all users of the proxy together, one of them, and one destination may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyLimits {
    /// Other relays that we are connected to or remember as unreachable; up to 120 KiB each while
    /// connected. Then the one that was not needed for longest is given up.
    pub destinations: usize,
    /// Connections being made, one thread each while a name is resolved.
    pub connecting: usize,
    /// Of these, for one client. Further ones wait.
    pub connecting_per_client: usize,
    /// Of these, for one source, whatever becomes of its clients. Then `PRXY` is refused with
    /// `PROXY BROKER NETWORK`.
    pub connecting_per_source: usize,
    /// Connections to other relays that were made for one source. Then the one of these that was not
    /// needed for longest is given up.
    pub destinations_per_source: usize,
    /// Attempts of one source to have us connect that fail, or have not succeeded yet. Then `PRXY`
    /// is refused with `PROXY BROKER NETWORK`.
    pub failures_per_second_per_source: Rate,
    /// Commands on their way, 16 KiB each.
    pub forwards: usize,
    /// Of these, to one destination.
    pub forwards_per_destination: usize,
    /// Requests of one client that are under way. Then it is not heard until one is done.
    pub forwards_per_client: usize,
    /// Commands of one source on their way. Then `PFWD` is refused with `PROXY BROKER TIMEOUT`.
    pub forwards_per_source: usize,
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self {
            destinations: 512,
            connecting: 64,
            connecting_per_client: 8,
            connecting_per_source: 16,
            destinations_per_source: 64,
            failures_per_second_per_source: Rate::per_second(2),
            forwards: 4_096,
            forwards_per_destination: 128,
            forwards_per_client: 32,
            forwards_per_source: 64,
        }
    }
}

/// Waiting times of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyTimeouts {
    /// From the name of a destination to the end of its handshake.
    pub connect: Duration,
    /// For the answer to a command. A destination that says nothing for so long is cut off.
    pub answer: Duration,
    /// After which an unused connection to a destination is closed.
    pub idle: Duration,
    /// Before a destination that could not be reached is tried again: at first, doubled each time.
    pub retry: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
}

impl Default for ProxyTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(15),
            idle: Duration::from_secs(30 * 60),
            retry: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
        }
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            allow_private: false,
            allow_own: false,
            refuse: Vec::new(),
            socks: None,
            socks_mode: SocksMode::default(),
            limits: ProxyLimits::default(),
            timeouts: ProxyTimeouts::default(),
        }
    }
}

impl ProxyConfig {
    /// What a running relay keeps until its next start: the rest is as by default.
    pub(crate) fn fixed(&self) -> Self {
        let limits = ProxyLimits {
            destinations: self.limits.destinations,
            connecting: self.limits.connecting,
            forwards: self.limits.forwards,
            ..ProxyLimits::default()
        };
        Self {
            enabled: self.enabled,
            socks: self.socks.clone(),
            socks_mode: self.socks_mode,
            timeouts: self.timeouts,
            limits,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socks_servers_have_host_and_port() {
        for text in ["127.0.0.1:9050", "tor:1", "[::1]:65535"] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(format!("{}:{}", endpoint.host, endpoint.port), text);
        }
        for text in [
            "9050",
            "tor:0",
            "tor:65536",
            "socks5://tor:1",
            ":1",
            "tor:",
            "::1:1",
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(NoSetting), "{text}");
        }
    }
}
