//! What a reload does to private routing: links to where the proxy may not go any more, and limits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod rogue;
mod site;

use junto_relay::bench::Peer;
use junto_relay::{Relay, RelayConfig, RunningRelay};
use junto_smp::address::ServerAddress;
use junto_smp::error::{BrokerFault, ErrorCode, Forwarded, ProxyFault};
use junto_smp::proxy::Destination;
use junto_tls::ServerIdentity;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustls::pki_types::UnixTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use rogue::{Answer, Rogue};
use site::routing::{
    NOWHERE, broker, connect_request, eager_proxy, pass_on, refused_by_proxy, send, through,
};
use site::{connect, in_time, refused, start, until};

/// A proxy whose settings change while it runs.
struct Changing {
    proxy: RunningRelay,
    since: UnixTime,
}

fn server(since: UnixTime) -> ServerIdentity {
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    ServerIdentity::ephemeral("127.0.0.1", &mut rng, since).unwrap()
}

impl Changing {
    async fn start() -> Self {
        let since = UnixTime::now();
        let proxy = Relay::start(eager_proxy(), server(since)).await.unwrap();
        Self { proxy, since }
    }

    fn reload(&self, change: impl FnOnce(&mut RelayConfig)) {
        let mut config = eager_proxy();
        change(&mut config);
        let reloaded = self.proxy.reload(config, &server(self.since)).unwrap();
        assert!(reloaded.waiting.is_empty());
    }
}

/// A relay at another address of this machine; Linux has all of 127.0.0.0/8.
async fn relay_at(host: [u8; 4]) -> RunningRelay {
    let mut config = site::config();
    config.bind.set_ip(host.into());
    config.hosts = vec![std::net::Ipv4Addr::from(host).to_string().parse().unwrap()];
    start(config).await
}

async fn link_to(client: &mut Peer, address: &ServerAddress) -> Destination {
    in_time(client.proxy_to(address, None)).await.unwrap()
}

/// A command over a link that is there: the relay behind it has no such queue.
async fn serves(client: &mut Peer, destination: &Destination) {
    let answer = through(client, destination, &send(&NOWHERE, None, b"x")).await;
    assert_eq!(refused(answer), ErrorCode::Auth);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_to_where_the_proxy_may_not_go_any_more_are_cut() {
    let changing = Changing::start().await;
    let proxy = &changing.proxy;
    let (near, far) = (
        relay_at([127, 0, 0, 1]).await,
        relay_at([127, 0, 0, 2]).await,
    );
    let mut client = connect(proxy).await;
    let to_far = link_to(&mut client, &far.address()).await;
    type Change = fn(&mut RelayConfig);
    let changes: [(Change, bool); 4] = [
        (
            |c| c.proxy.refuse = vec!["127.0.0.1/32".parse().unwrap()],
            true,
        ),
        (
            |c| c.proxy.refuse = vec!["127.0.0.0/8".parse().unwrap()],
            false,
        ),
        (|c| c.proxy.allow_private = false, false),
        (|c| c.proxy.allow_own = false, false),
    ];
    for (change, far_stays) in changes {
        let mut rogue = Rogue::start().await;
        let to_near = link_to(&mut client, &near.address()).await;
        let to_far_now = link_to(&mut client, &far.address()).await;
        if far_stays {
            assert_eq!(to_far_now, to_far);
        }
        let busy = link_to(&mut client, &rogue.address).await;
        let number = pass_on(&mut client, &busy).await;
        rogue.hear().await;
        assert_eq!(proxy.stats().proxy_destinations, 3);
        // With nothing changed nothing is cut.
        changing.reload(|_| {});
        serves(&mut client, &to_near).await;

        changing.reload(change);
        // What was on its way may have arrived; nobody knows.
        let said = refused_by_proxy(in_time(client.answer(number)).await);
        assert_eq!(said, broker(BrokerFault::Network));
        let answer = through(&mut client, &to_near, &send(&NOWHERE, None, b"x")).await;
        let no_session = ErrorCode::Proxy(ProxyFault::NoSession);
        assert_eq!(refused_by_proxy(answer), no_session);
        let answer = in_time(client.proxy_to(&near.address(), None)).await;
        assert_eq!(refused(answer), broker(BrokerFault::Host));
        let left = usize::from(far_stays);
        until(|| proxy.stats().proxy_destinations == left).await;
        until(|| near.stats().connections == 0).await;
        if far_stays {
            serves(&mut client, &to_far).await;
        } else {
            until(|| far.stats().connections == 0).await;
        }
        // It was no failure of theirs: they are reached again at once.
        changing.reload(|_| {});
    }
    assert_eq!(proxy.stats().proxy_failed, 4);
}

/// A door that holds a connection back until it is told to pass it on.
async fn slow_door(relay: &RunningRelay) -> (ServerAddress, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = relay.address();
    let hosts = address.hosts().to_vec();
    let at_door = ServerAddress::new(address.fingerprint(), hosts, port).unwrap();
    (at_door, listener)
}

/// Whoever is connecting while the rules change connects under the old ones: that becomes no link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_connected_to_during_a_reload_becomes_no_link_under_other_rules() {
    let changing = Changing::start().await;
    let proxy = &changing.proxy;
    let relay = start(site::config()).await;
    let to = relay.local_addr();
    for other_rules in [true, false] {
        let (address, listener) = slow_door(&relay).await;
        let mut client = connect(proxy).await;
        let asked = client.ask(&connect_request(&address)).await.unwrap();
        client.send().await.unwrap();
        let (mut outside, _) = in_time(listener.accept()).await.unwrap();
        changing.reload(|config| {
            if other_rules {
                config.proxy.refuse = vec!["127.0.0.1/32".parse().unwrap()];
            }
        });
        let (end, ended) = oneshot::channel::<()>();
        let piping = tokio::spawn(async move {
            let mut inside = TcpStream::connect(to).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut outside, &mut inside) => {}
                _ = ended => {}
            }
        });
        let said = in_time(client.answer(asked)).await;
        if other_rules {
            assert_eq!(refused(said), broker(BrokerFault::Network));
            assert_eq!(proxy.stats().proxy_destinations, 0);
            let answer = in_time(client.proxy_to(&address, None)).await;
            assert_eq!(refused(answer), broker(BrokerFault::Host));
        } else {
            said.unwrap();
            assert_eq!(proxy.stats().proxy_destinations, 1);
        }
        drop(end);
        in_time(piping).await.unwrap();
        changing.reload(|_| {});
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_one_destination_holds_at_once_for_links_that_are_there() {
    let changing = Changing::start().await;
    let proxy = &changing.proxy;
    let most = |limit| {
        changing.reload(|c| {
            // Those who share an address have only three quarters of it.
            c.exempt_sources.clear();
            c.proxy.limits.forwards_per_destination = limit;
        });
    };
    most(1);
    let mut rogue = Rogue::start().await;
    let mut client = connect(proxy).await;
    let busy = link_to(&mut client, &rogue.address).await;
    let mut asked = vec![pass_on(&mut client, &busy).await];
    rogue.hear().await;
    for limit in [1, 3, 2] {
        most(limit);
        while asked.len() < limit {
            asked.push(pass_on(&mut client, &busy).await);
            rogue.hear().await;
        }
        let answer = through(&mut client, &busy, &send(&NOWHERE, None, b"x")).await;
        assert_eq!(refused_by_proxy(answer), broker(BrokerFault::Timeout));
    }
    // With two allowed and three on their way, the second answer makes room for one.
    for number in asked.drain(..2) {
        rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
        let said = refused_by_proxy(in_time(client.answer(number)).await);
        assert_eq!(
            said,
            ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::Crypto))
        );
    }
    pass_on(&mut client, &busy).await;
    rogue.hear().await;
    let answer = through(&mut client, &busy, &send(&NOWHERE, None, b"x")).await;
    assert_eq!(refused_by_proxy(answer), broker(BrokerFault::Timeout));
}
