//! Private routing for clients whom no address tells apart, such as an onion service's: they leave room
//! for the sources that limits hold for, and each of them for the rest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod rogue;
mod site;

use junto_smp::error::BrokerFault;

use rogue::Rogue;
use site::routing::{
    NOWHERE, broker, pass_on, proxy_config, refused_by_proxy, send, strict_proxy, through,
};
use site::{A, B, in_time, peer_from, refused, start};

#[cfg(target_os = "linux")] // It has all of 127.0.0.0/8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_shared_address_leave_room_for_each_other_and_for_other_addresses() {
    let mut config = strict_proxy();
    config.exempt_sources = vec!["127.0.0.1/32".parse().unwrap()];
    config.proxy.limits.forwards = 4;
    config.proxy.limits.forwards_per_source = 2;
    let proxy = start(config).await;
    let mut rogue = Rogue::start().await;
    let full = broker(BrokerFault::Timeout);
    // Three of the four are theirs. The first takes as many as it leaves, the second what is left.
    let mut crowd = Vec::new();
    for allowed in [2, 1, 0] {
        let mut client = peer_from(A, &proxy).await.unwrap();
        let to = in_time(client.proxy_to(&rogue.address, None))
            .await
            .unwrap();
        for _ in 0..allowed {
            pass_on(&mut client, &to).await;
            rogue.hear().await;
        }
        let answer = through(&mut client, &to, &send(&NOWHERE, None, b"x")).await;
        assert_eq!(refused_by_proxy(answer), full, "{allowed}");
        crowd.push(client);
    }
    let mut other = peer_from(B, &proxy).await.unwrap();
    let to = in_time(other.proxy_to(&rogue.address, None)).await.unwrap();
    pass_on(&mut other, &to).await;
    rogue.hear().await;
}

#[cfg(target_os = "linux")] // As above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_shared_address_leave_room_on_the_way_to_each_destination() {
    let mut config = strict_proxy();
    config.exempt_sources = vec!["127.0.0.1/32".parse().unwrap()];
    config.proxy.limits.forwards_per_destination = 4;
    let proxy = start(config).await;
    let mut rogue = Rogue::start().await;
    let full = broker(BrokerFault::Timeout);
    let mut crowd = Vec::new();
    for allowed in [2, 1, 0] {
        let mut client = peer_from(A, &proxy).await.unwrap();
        let to = in_time(client.proxy_to(&rogue.address, None))
            .await
            .unwrap();
        for _ in 0..allowed {
            pass_on(&mut client, &to).await;
            rogue.hear().await;
        }
        let answer = through(&mut client, &to, &send(&NOWHERE, None, b"x")).await;
        assert_eq!(refused_by_proxy(answer), full, "{allowed}");
        crowd.push(client);
    }
    // The fourth is another address's.
    let mut other = peer_from(B, &proxy).await.unwrap();
    let to = in_time(other.proxy_to(&rogue.address, None)).await.unwrap();
    pass_on(&mut other, &to).await;
    rogue.hear().await;
    let answer = through(&mut other, &to, &send(&NOWHERE, None, b"x")).await;
    assert_eq!(refused_by_proxy(answer), full);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_for_a_shared_address_take_each_others_places_and_leave_a_quarter() {
    let mut config = proxy_config();
    config.exempt_sources = vec!["127.0.0.1/32".parse().unwrap()];
    config.proxy.limits.destinations = 4;
    let proxy = start(config).await;
    let mut client = peer_from(A, &proxy).await.unwrap();
    let mut rogues = Vec::new();
    for _ in 0..3 {
        let mut rogue = Rogue::start().await;
        let to = in_time(client.proxy_to(&rogue.address, None))
            .await
            .unwrap();
        pass_on(&mut client, &to).await;
        rogue.hear().await;
        rogues.push(rogue);
    }
    // All of theirs are busy.
    let fourth = Rogue::start().await;
    let answer = in_time(client.proxy_to(&fourth.address, None)).await;
    assert_eq!(refused(answer), broker(BrokerFault::Network));
    let mut other = peer_from(B, &proxy).await.unwrap();
    in_time(other.proxy_to(&fourth.address, None))
        .await
        .unwrap();
    assert_eq!(proxy.stats().proxy_destinations, 4);
}
