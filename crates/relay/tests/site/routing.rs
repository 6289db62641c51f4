//! Senders, proxies, and what they say to each other.

use std::time::Duration;

use junto_relay::RelayConfig;
use junto_relay::bench::{Peer, PeerError, Said};
use junto_smp::address::{Fingerprint, Host, ServerAddress};
use junto_smp::client::Request;
use junto_smp::command::Command;
use junto_smp::error::{BrokerFault, ErrorCode, ProxyFault};
use junto_smp::id::{Entity, SenderId};
use junto_smp::key::AuthSecret;
use junto_smp::message::MessageFlags;
use junto_smp::proxy::{Destination, ProxyRequest};

use super::{config, in_time};

/// A relay that may connect to this machine.
pub(crate) fn proxy_config() -> RelayConfig {
    let mut config = config();
    config.proxy.allow_private = true;
    config.proxy.allow_own = true;
    config
}

/// One whose limits by source hold for this machine, too.
pub(crate) fn strict_proxy() -> RelayConfig {
    let mut config = proxy_config();
    config.exempt_sources = Vec::new();
    config
}

/// One that tries again at once.
pub(crate) fn eager_proxy() -> RelayConfig {
    let mut config = proxy_config();
    config.proxy.timeouts.retry = Duration::ZERO;
    config
}

pub(crate) const PING: Request<'static> = Request {
    entity: Entity::None,
    key: None,
    command: Command::Ping,
};

/// A queue that no relay has.
pub(crate) const NOWHERE: SenderId = SenderId([1; 24]);

pub(crate) fn broker(fault: BrokerFault) -> ErrorCode {
    ErrorCode::Proxy(ProxyFault::Broker(fault))
}

/// Error of the proxy, in answer to a forwarded command.
pub(crate) fn refused_by_proxy<T>(result: Result<T, PeerError>) -> ErrorCode {
    match result {
        Err(PeerError::Proxy(code)) => code,
        Err(other) => panic!("failed otherwise: {other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

pub(crate) fn send<'a>(
    to: &'a SenderId,
    key: Option<&'a AuthSecret>,
    body: &'a [u8],
) -> Request<'a> {
    let flags = MessageFlags::default();
    Request {
        entity: Entity::Queue(&to.0),
        key,
        command: Command::Send { flags, body },
    }
}

pub(crate) async fn through(
    sender: &mut Peer,
    destination: &Destination,
    request: &Request<'_>,
) -> Result<Said, PeerError> {
    in_time(sender.call_through(destination, request)).await
}

/// Sends a command through the proxy and does not wait for the answer, whose number it gives.
pub(crate) async fn pass_on(sender: &mut Peer, destination: &Destination) -> u64 {
    let request = send(&NOWHERE, None, b"x");
    let number = sender.ask_through(destination, &request).await.unwrap();
    sender.send().await.unwrap();
    number
}

/// The same relay under another name.
pub(crate) fn at(address: &ServerAddress, host: &str) -> ServerAddress {
    let hosts = vec![host.parse::<Host>().unwrap()];
    ServerAddress::new(address.fingerprint(), hosts, address.port()).unwrap()
}

/// Another relay at the same place.
pub(crate) fn other_than(address: &ServerAddress, pin: u8) -> ServerAddress {
    let hosts = address.hosts().to_vec();
    ServerAddress::new(Fingerprint([pin; 32]), hosts, address.port()).unwrap()
}

pub(crate) fn connect_request(server: &ServerAddress) -> Request<'static> {
    let request = ProxyRequest {
        server: server.clone(),
        password: None,
    };
    Request {
        entity: Entity::None,
        key: None,
        command: Command::Proxy(Box::new(request)),
    }
}
