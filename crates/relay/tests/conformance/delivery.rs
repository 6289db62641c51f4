//! `SEND`, `SUB`, `GET`, `ACK`, `MSG`, `END`: order, quota, expiry, hand-over, batches.

use std::time::Duration;

use junto_relay::RelayConfig;
use junto_relay::bench::{Heard, OwnQueue, Peer, Said};
use junto_smp::client::Request;
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::id::{Entity, MessageId};
use junto_smp::message::{BODY_BYTES_MAX, Delivered, MessageFlags};
use junto_smp::name::Domain;

use crate::site::{self, C, M, acked, heard, opened, refused as refusal};
use crate::world::{World, ask, refused, send, send_notifying, silent};

async fn get(peer: &mut Peer, queue: &OwnQueue) -> Option<(MessageId, Option<Vec<u8>>)> {
    match peer.own(queue, Command::Get).await.unwrap() {
        Said::Message(id, sealed) => Some((id, opened(&queue.delivery, &id, &sealed))),
        Said::Ok => None,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn messages_keep_their_order(world: World) {
    let (mut owner, mut sender) = (world.connect().await, world.connect().await);
    let queue = owner.create(M, true, None).await.unwrap();
    let largest = vec![9; BODY_BYTES_MAX];
    let bodies: Vec<Vec<u8>> = (0..20_u8)
        .map(|n| match n % 4 {
            0 => Vec::new(),
            1 => largest.clone(),
            _ => vec![n; usize::from(n) * 100],
        })
        .collect();
    for body in &bodies {
        ask(&mut sender, &queue.sender().0, None, send(body))
            .await
            .unwrap();
    }
    let mut next = Some(heard(&mut owner, &queue).await);
    for body in &bodies {
        let (id, got) = next.unwrap();
        assert_eq!(&got.unwrap(), body);
        next = acked(&mut owner, &queue, id).await;
    }
    assert_eq!(next, None);
    let too_large = vec![9; BODY_BYTES_MAX + 1];
    let code = refused(&mut sender, &queue.sender().0, None, send(&too_large)).await;
    assert_eq!(code, ErrorCode::LargeMessage);
}

pub(crate) async fn one_message_waits_for_its_acknowledgement(world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(M, true, None).await.unwrap();
    let id = queue.recipient().0;
    let code = refused(&mut peer, &id, Some(&queue.key), Command::Ack(None)).await;
    assert_eq!(code, ErrorCode::NoMessage);
    for body in [b"one", b"two"] {
        ask(&mut peer, &queue.sender().0, None, send(body))
            .await
            .unwrap();
    }
    let (first, _) = heard(&mut peer, &queue).await;
    silent(&mut peer).await;
    let wrong = Command::Ack(Some(MessageId([1; 24])));
    let code = refused(&mut peer, &id, Some(&queue.key), wrong).await;
    assert_eq!(code, ErrorCode::NoMessage);
    // Subscribing again delivers the same again.
    peer.own(&queue, Command::Sub).await.unwrap();
    assert_eq!(heard(&mut peer, &queue).await.0, first);
    // An empty id names whichever was delivered.
    let Said::Message(second, sealed) = peer.own(&queue, Command::Ack(None)).await.unwrap() else {
        panic!("the next message is the answer");
    };
    assert_eq!(opened(&queue.delivery, &second, &sealed).unwrap(), b"two");
    assert_eq!(acked(&mut peer, &queue, second).await, None);
    let again = Command::Ack(Some(second));
    let code = refused(&mut peer, &id, Some(&queue.key), again).await;
    assert_eq!(code, ErrorCode::NoMessage);
}

pub(crate) async fn subscriptions_are_handed_over(world: World) {
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    let queue = first.create(M, true, None).await.unwrap();
    ask(&mut second, &queue.sender().0, None, send(b"m"))
        .await
        .unwrap();
    let (id, _) = heard(&mut first, &queue).await;
    let answer = second.own(&queue, Command::Sub).await.unwrap();
    assert_eq!(answer, Said::Subscribed);
    assert_eq!(heard(&mut second, &queue).await.0, id);
    let end = first.event().await.unwrap();
    assert_eq!(end, Heard::End(queue.recipient()));
    // What the first one had got it can no longer acknowledge.
    let late = Command::Ack(Some(id));
    let code = refused(&mut first, &queue.recipient().0, Some(&queue.key), late).await;
    assert_eq!(code, ErrorCode::NoMessage);
    assert_eq!(acked(&mut second, &queue, id).await, None);
    // Nobody hears END for a subscription that went with its connection.
    drop(second);
    crate::site::until(|| world.relay().stats().connections == 1).await;
    first.own(&queue, Command::Sub).await.unwrap();
    silent(&mut first).await;
}

pub(crate) async fn get_and_sub_exclude_each_other(world: World) {
    let (mut getter, mut subscriber) = (world.connect().await, world.connect().await);
    let queue = getter.create(M, false, None).await.unwrap();
    let (id, key) = (queue.recipient().0, Some(&queue.key));
    assert_eq!(get(&mut getter, &queue).await, None);
    assert_eq!(
        refused(&mut getter, &id, key, Command::Sub).await,
        ErrorCode::PROHIBITED
    );
    subscriber.own(&queue, Command::Sub).await.unwrap();
    assert_eq!(
        refused(&mut subscriber, &id, key, Command::Get).await,
        ErrorCode::PROHIBITED
    );
    // Both read; one acknowledgement is enough, and the other's comes to nothing.
    ask(&mut getter, &queue.sender().0, None, send(b"one"))
        .await
        .unwrap();
    let (by_sub, _) = heard(&mut subscriber, &queue).await;
    let (by_get, _) = get(&mut getter, &queue).await.unwrap();
    assert_eq!(by_sub, by_get);
    assert_eq!(acked(&mut getter, &queue, by_get).await, None);
    ask(&mut getter, &queue.sender().0, None, send(b"two"))
        .await
        .unwrap();
    let (next, body) = acked(&mut subscriber, &queue, by_sub).await.unwrap();
    assert_eq!(body.unwrap(), b"two");
    assert_eq!(acked(&mut subscriber, &queue, next).await, None);
    assert_eq!(get(&mut getter, &queue).await, None);
}

pub(crate) async fn a_full_queue_says_so_and_opens_when_drained(world: World) {
    let world = world
        .with(|config| config.limits.messages_per_queue = 3)
        .await;
    let (mut owner, mut sender) = (world.connect().await, world.connect().await);
    let queue = owner.create(M, false, None).await.unwrap();
    let id = queue.sender().0;
    for _ in 0..3 {
        ask(&mut sender, &id, None, send(b"m")).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(
            refused(&mut sender, &id, None, send(b"m")).await,
            ErrorCode::Quota
        );
    }
    // Not before the marker has been taken too, which there is one of.
    for body in [
        Some(b"m".to_vec()),
        Some(b"m".to_vec()),
        Some(b"m".to_vec()),
        None,
    ] {
        assert_eq!(
            refused(&mut sender, &id, None, send(b"m")).await,
            ErrorCode::Quota
        );
        let (got, content) = get(&mut owner, &queue).await.unwrap();
        assert_eq!(content, body);
        assert_eq!(acked(&mut owner, &queue, got).await, None);
    }
    assert_eq!(get(&mut owner, &queue).await, None);
    assert_eq!(
        ask(&mut sender, &id, None, send(b"m")).await.unwrap(),
        Said::Ok
    );
}

pub(crate) async fn old_messages_go_when_new_ones_come(world: World) {
    fn patient(config: &mut RelayConfig) {
        config.limits.messages_per_queue = 1;
        config.timeouts.sweep = Duration::from_secs(3_600);
    }
    fn impatient(config: &mut RelayConfig) {
        patient(config);
        config.timeouts.message = Duration::from_secs(1);
    }
    let mut world = world.with(patient).await;
    let mut peer = world.connect().await;
    let queue = peer.create(M, false, None).await.unwrap();
    let id = queue.sender().0;
    ask(&mut peer, &id, None, send(b"old")).await.unwrap();
    assert_eq!(
        refused(&mut peer, &id, None, send(b"m")).await,
        ErrorCode::Quota
    );
    // The queue takes no more until what is in it has expired.
    world.reload(impatient);
    site::in_time(async {
        loop {
            match ask(&mut peer, &id, None, send(b"new")).await {
                Ok(said) => break assert_eq!(said, Said::Ok),
                refused => assert_eq!(refusal(refused), ErrorCode::Quota),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // What is new does not expire before it is looked at.
    world.reload(patient);
    let (got, body) = get(&mut peer, &queue).await.unwrap();
    assert_eq!(body.unwrap(), b"new");
    assert_eq!(acked(&mut peer, &queue, got).await, None);
    assert_eq!(get(&mut peer, &queue).await, None);
}

pub(crate) async fn old_messages_go_by_themselves(world: World) {
    let world = world
        .with(|config| {
            config.timeouts.message = Duration::from_secs(1);
            config.timeouts.sweep = Duration::from_millis(50);
        })
        .await;
    let mut peer = world.connect().await;
    let queue = peer.create(M, false, None).await.unwrap();
    ask(&mut peer, &queue.sender().0, None, send(b"old"))
        .await
        .unwrap();
    site::in_time(async {
        loop {
            let Said::Info(json) = peer.own(&queue, Command::Info).await.unwrap() else {
                panic!("no info");
            };
            if json.contains(r#""qiSize":0"#) {
                break;
            }
            assert!(json.contains(r#""qiSize":1"#));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(get(&mut peer, &queue).await, None);
}

pub(crate) async fn flags_and_time_reach_the_recipient(world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(M, true, None).await.unwrap();
    for command in [send(b"m"), send_notifying(b"m")] {
        let Command::Send { flags: sent, .. } = command else {
            unreachable!()
        };
        ask(&mut peer, &queue.sender().0, None, command)
            .await
            .unwrap();
        let Heard::Message(_, id, sealed) = peer.event().await.unwrap() else {
            panic!("no message");
        };
        let opened = queue.delivery.open(&id, &sealed).unwrap();
        match opened.content() {
            Delivered::Message { time, flags, body } => {
                assert_eq!((flags, body), (sent, &b"m"[..]));
                assert!(time.0 > 1_700_000_000);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(acked(&mut peer, &queue, id).await, None);
    }
}

pub(crate) async fn a_block_of_commands_is_answered_in_order(world: World) {
    let (mut owner, mut other) = (world.connect().await, world.connect().await);
    let mut queues = Vec::new();
    for _ in 0..40 {
        queues.push(owner.create(C, false, None).await.unwrap());
    }
    let before = other.blocks();
    let mut numbers = Vec::new();
    for (index, queue) in queues.iter().enumerate() {
        // Every third one is about nothing.
        let unknown = [9; 24];
        let id = if index % 3 == 0 {
            &unknown
        } else {
            &queue.recipient().0
        };
        let request = Request {
            entity: Entity::Queue(id),
            key: Some(&queue.key),
            command: Command::Sub,
        };
        numbers.push(other.ask(&request).await.unwrap());
    }
    other.send().await.unwrap();
    for (index, number) in numbers.into_iter().enumerate() {
        let answer = other.answer(number).await;
        match index % 3 {
            0 => assert_eq!(refusal(answer), ErrorCode::Auth),
            _ => assert_eq!(answer.unwrap(), Said::Subscribed),
        }
    }
    assert_eq!(other.blocks().sent, before.sent + 1);
    for queue in &queues {
        let flags = MessageFlags::default();
        let request = Request {
            entity: Entity::Queue(&queue.sender().0),
            key: None,
            command: Command::Send { flags, body: b"m" },
        };
        owner.ask(&request).await.unwrap();
    }
    owner.send().await.unwrap();
    for (_, queue) in queues
        .iter()
        .enumerate()
        .filter(|(index, _)| index % 3 != 0)
    {
        heard(&mut other, queue).await;
    }
    silent(&mut other).await;
}

pub(crate) async fn names_are_not_resolved(world: World) {
    let mut peer = world.connect().await;
    let request = Request {
        entity: Entity::None,
        key: None,
        command: Command::Resolve(Domain::new("somebody.simplex").unwrap()),
    };
    assert_eq!(refusal(peer.call(&request).await), ErrorCode::Name);
}
