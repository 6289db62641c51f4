//! What every carrier must do: one suite for all of them.

#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "part of tests"
)]

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use junto_session::carrier::{Carriage, ConnectionId, Event, MessageId, Tag};

/// Opens the carrier of a name: for the first time, or again after the earlier one was dropped.
pub trait World {
    async fn open(&self, name: &str) -> Carriage;
    fn relay(&self) -> String;
}

/// The next event that is not about relays.
async fn next(carriage: &mut Carriage) -> Event {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(60), carriage.events.next())
            .await
            .expect("an event in time")
            .expect("a carrier that goes on");
        if !matches!(event, Event::Relay { .. }) {
            return event;
        }
    }
}

async fn connected(carriage: &mut Carriage) -> (ConnectionId, Vec<u8>, [u8; 32]) {
    match next(carriage).await {
        Event::Connected {
            connection,
            info,
            binding,
            ..
        } => (connection, info, binding),
        other => panic!("not connected: {other:?}"),
    }
}

async fn message(carriage: &mut Carriage) -> (ConnectionId, MessageId, Bytes) {
    match next(carriage).await {
        Event::Message {
            connection,
            id,
            body,
        } => (connection, id, body),
        other => panic!("no message: {other:?}"),
    }
}

/// A pair connected by invitation: both carriages with their connections.
async fn pair(
    world: &impl World,
    a: &mut Carriage,
    b: &mut Carriage,
) -> (ConnectionId, ConnectionId) {
    let tag = Tag([1; 32]);
    let (at_a, link) = a
        .carrier
        .create_invitation(tag, &world.relay())
        .await
        .unwrap();
    let at_b = b
        .carrier
        .join(tag, &link, &world.relay(), b"about b")
        .await
        .unwrap();
    let (connection, info, binding) = connected(a).await;
    assert_eq!((connection, &info[..]), (at_a, &b"about b"[..]));
    let (connection, _, other) = connected(b).await;
    assert_eq!(connection, at_b);
    assert_eq!(binding, other);
    (at_a, at_b)
}

pub async fn tags_make_calls_repeatable(world: &impl World) {
    let a = world.open("a").await;
    let relay = world.relay();
    let first = a
        .carrier
        .create_address(Tag([1; 32]), &relay)
        .await
        .unwrap();
    let again = a
        .carrier
        .create_address(Tag([1; 32]), &relay)
        .await
        .unwrap();
    let other = a
        .carrier
        .create_address(Tag([2; 32]), &relay)
        .await
        .unwrap();
    assert_eq!(first, again);
    assert_ne!(first, other);
    let first = a
        .carrier
        .create_invitation(Tag([3; 32]), &relay)
        .await
        .unwrap();
    let again = a
        .carrier
        .create_invitation(Tag([3; 32]), &relay)
        .await
        .unwrap();
    assert_eq!(first, again);
    let b = world.open("b").await;
    let join = || b.carrier.join(Tag([4; 32]), &first.1, &relay, b"");
    assert_eq!(join().await.unwrap(), join().await.unwrap());
}

pub async fn an_address_takes_many_requests(world: &impl World) {
    let relay = world.relay();
    let mut host = world.open("host").await;
    let address = host
        .carrier
        .create_address(Tag([9; 32]), &relay)
        .await
        .unwrap();
    let mut bindings = Vec::new();
    for name in ["one", "two"] {
        let mut joiner = world.open(name).await;
        let at_joiner = joiner
            .carrier
            .join(Tag([5; 32]), &address, &relay, name.as_bytes())
            .await
            .unwrap();
        let Event::Request { id, tag, info } = next(&mut host).await else {
            panic!("no request");
        };
        assert_eq!((tag, &info[..]), (Tag([9; 32]), name.as_bytes()));
        let at_host = host.carrier.accept(id, &relay, b"welcome").await.unwrap();
        assert_eq!(
            host.carrier.accept(id, &relay, b"welcome").await.unwrap(),
            at_host
        );
        let (connection, info, binding) = connected(&mut joiner).await;
        assert_eq!((connection, &info[..]), (at_joiner, &b"welcome"[..]));
        let (connection, _, other) = connected(&mut host).await;
        assert_eq!((connection, binding), (at_host, other));
        bindings.push(binding);
    }
    assert_ne!(bindings[0], bindings[1]);
}

pub async fn messages_come_in_order_until_acknowledged(world: &impl World) {
    let (mut a, mut b) = (world.open("a").await, world.open("b").await);
    let (at_a, at_b) = pair(world, &mut a, &mut b).await;
    let longest = Bytes::from(vec![7; a.carrier.body_bytes()]);
    let bodies: Vec<Bytes> = (0..20u8)
        .map(|n| Bytes::from(vec![n]))
        .chain([longest])
        .collect();
    a.carrier.send(at_a, bodies.clone()).await.unwrap();
    for expected in &bodies[..10] {
        let (connection, id, body) = message(&mut b).await;
        assert_eq!((connection, &body), (at_b, expected));
        b.carrier.ack(connection, id).await.unwrap();
    }
    // What is not acknowledged comes again, after the connection itself.
    drop(b);
    let mut b = world.open("b").await;
    assert_eq!(connected(&mut b).await.0, at_b);
    for expected in &bodies[10..] {
        let (connection, id, body) = message(&mut b).await;
        assert_eq!((connection, &body), (at_b, expected));
        b.carrier.ack(connection, id).await.unwrap();
    }
    b.carrier
        .send(at_b, vec![Bytes::from_static(b"back")])
        .await
        .unwrap();
    assert_eq!(message(&mut a).await.2, "back");
}

/// One test for each requirement and carrier.
#[macro_export]
macro_rules! carrier_conformance {
    ($name:ident, $world:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "what the expression needs")]
            use super::*;

            #[tokio::test]
            async fn tags_make_calls_repeatable() {
                $crate::conformance::tags_make_calls_repeatable(&$world).await;
            }

            #[tokio::test]
            async fn an_address_takes_many_requests() {
                $crate::conformance::an_address_takes_many_requests(&$world).await;
            }

            #[tokio::test]
            async fn messages_come_in_order_until_acknowledged() {
                $crate::conformance::messages_come_in_order_until_acknowledged(&$world).await;
            }
        }
    };
}
