//! Short links and their data: `NEW` with data, `LSET`, `LGET`, `LKEY`, `LDEL`.

use junto_relay::bench::{Peer, Said};
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::id::{LinkId, SenderId};
use junto_smp::key::AuthSecret;
use junto_smp::link::{FIXED_BYTES_MAX, LinkBlobs, USER_BYTES_MAX};

use crate::site::{C, M, refused as refusal};
use crate::world::{Wishes, World, ask, create, refused, send};

const LINK: LinkId = LinkId([7; 24]);

fn set(link: LinkId, fixed: &'static [u8], user: &'static [u8]) -> Command<'static> {
    let blobs = LinkBlobs::new(fixed, user).unwrap();
    Command::SetLink { link, blobs }
}

fn contact(link: LinkId) -> Wishes<'static> {
    Wishes {
        contact: Some(link),
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    }
}

async fn read(peer: &mut Peer, link: LinkId) -> Result<Said, ErrorCode> {
    match ask(peer, &link.0, None, Command::ReadLink).await {
        Ok(said) => Ok(said),
        refused => Err(refusal(refused)),
    }
}

fn data(sender: SenderId, fixed: &[u8], user: &[u8]) -> Result<Said, ErrorCode> {
    Ok(Said::Link(sender, fixed.to_vec(), user.to_vec()))
}

pub(crate) async fn one_time_data_comes_with_the_queue_and_goes_with_the_first_message(
    world: World,
) {
    let (mut owner, mut sender) = (world.connect().await, world.connect().await);
    let wishes = Wishes {
        blobs: Some((b"fixed", b"user")),
        ..Wishes::default()
    };
    let queue = create(&mut owner, wishes).await.unwrap();
    let link = queue.ids.link.unwrap();
    let key = AuthSecret::generate(sender.rng());
    // A message before the queue is secured does not touch the data.
    ask(&mut sender, &queue.sender().0, None, send(b"open"))
        .await
        .unwrap();
    let secure = || Command::LinkKey(key.public_key());
    ask(&mut sender, &link.0, Some(&key), secure())
        .await
        .unwrap();
    ask(&mut sender, &link.0, Some(&key), secure())
        .await
        .unwrap();
    ask(&mut sender, &queue.sender().0, Some(&key), send(b"m"))
        .await
        .unwrap();
    let code = refused(&mut sender, &link.0, Some(&key), secure()).await;
    assert_eq!(code, ErrorCode::Auth);
    // A secured queue takes no new data.
    let again = set(link, b"fixed", b"user");
    let code = refused(&mut owner, &queue.recipient().0, Some(&queue.key), again).await;
    assert_eq!(code, ErrorCode::Auth);
}

pub(crate) async fn contact_data_is_open_to_readers(world: World) {
    let (mut owner, mut reader) = (world.connect().await, world.connect().await);
    assert_eq!(read(&mut reader, LINK).await, Err(ErrorCode::Auth));
    let queue = create(&mut owner, contact(LINK)).await.unwrap();
    assert_eq!(queue.ids.link, Some(LINK));
    for _ in 0..2 {
        let said = read(&mut reader, LINK).await;
        assert_eq!(said, data(queue.sender(), b"fixed", b"user"));
        ask(&mut reader, &queue.sender().0, None, send(b"m"))
            .await
            .unwrap();
    }
    let off = owner.own(&queue, Command::Off).await;
    assert_eq!(off.unwrap(), Said::Ok);
    assert_eq!(read(&mut reader, LINK).await, Err(ErrorCode::Auth));
}

pub(crate) async fn sender_ids_follow_from_the_correlation_id(world: World) {
    let mut peer = world.connect().await;
    for contact in [None, Some(LINK)] {
        let wishes = Wishes {
            contact,
            blobs: Some((b"fixed", b"user")),
            sender: Some(SenderId([1; 24])),
            ..Wishes::default()
        };
        let created = create(&mut peer, wishes).await;
        assert_eq!(refusal(created), ErrorCode::PROHIBITED);
    }
    assert_eq!(world.relay().stats().queues, 0);
    // And its link is still free.
    create(&mut peer, contact(LINK)).await.unwrap();
}

pub(crate) async fn names_belong_to_one_queue(world: World) {
    let mut peer = world.connect().await;
    let first = create(&mut peer, contact(LINK)).await.unwrap();
    let second = create(&mut peer, contact(LINK)).await;
    assert_eq!(refusal(second), ErrorCode::Auth);
    assert_eq!(world.relay().stats().queues, 1);
    let other = peer.create(C, false, None).await.unwrap();
    let steal = set(LINK, b"fixed", b"mine");
    let code = refused(&mut peer, &other.recipient().0, Some(&other.key), steal).await;
    assert_eq!(code, ErrorCode::Auth);
    let said = read(&mut peer, LINK).await;
    assert_eq!(said, data(first.sender(), b"fixed", b"user"));
}

pub(crate) async fn data_may_change_but_not_its_fixed_part(world: World) {
    let mut peer = world.connect().await;
    let queue = peer.create(C, false, None).await.unwrap();
    let id = queue.recipient().0;
    for user in [&b"one"[..], b"two"] {
        let set = Command::SetLink {
            link: LINK,
            blobs: LinkBlobs::new(b"fixed", user).unwrap(),
        };
        assert_eq!(peer.own(&queue, set).await.unwrap(), Said::Ok);
        let said = read(&mut peer, LINK).await;
        assert_eq!(said, data(queue.sender(), b"fixed", user));
    }
    for wrong in [
        set(LINK, b"other", b"two"),
        set(LinkId([8; 24]), b"fixed", b"two"),
    ] {
        let code = refused(&mut peer, &id, Some(&queue.key), wrong).await;
        assert_eq!(code, ErrorCode::Auth);
    }
    assert_eq!(read(&mut peer, LinkId([8; 24])).await, Err(ErrorCode::Auth));
    let said = read(&mut peer, LINK).await;
    assert_eq!(said, data(queue.sender(), b"fixed", b"two"));
    // What was refused holds no name.
    let other = peer.create(C, false, None).await.unwrap();
    let free = set(LinkId([8; 24]), b"fixed", b"two");
    assert_eq!(peer.own(&other, free).await.unwrap(), Said::Ok);
}

pub(crate) async fn deleting_the_data_frees_its_name(world: World) {
    let mut peer = world.connect().await;
    let queue = create(&mut peer, contact(LINK)).await.unwrap();
    for _ in 0..2 {
        let deleted = peer.own(&queue, Command::DeleteLink).await;
        assert_eq!(deleted.unwrap(), Said::Ok);
    }
    assert_eq!(read(&mut peer, LINK).await, Err(ErrorCode::Auth));
    let heir = create(&mut peer, contact(LINK)).await.unwrap();
    peer.own(&heir, Command::Delete).await.unwrap();
    let last = peer.create(M, false, None).await.unwrap();
    let set = set(LINK, b"fixed", b"user");
    assert_eq!(peer.own(&last, set).await.unwrap(), Said::Ok);
}

pub(crate) async fn the_largest_data_fits(world: World) {
    let mut peer = world.connect().await;
    let (fixed, user) = (vec![1; FIXED_BYTES_MAX], vec![2; USER_BYTES_MAX]);
    let wishes = Wishes {
        contact: Some(LINK),
        blobs: Some((&fixed, &user)),
        ..Wishes::default()
    };
    let before = world.relay().stats().message_bytes;
    let queue = create(&mut peer, wishes).await.unwrap();
    let said = read(&mut peer, LINK).await;
    assert_eq!(said, data(queue.sender(), &fixed, &user));
    // It counts as memory, and only as long as it is there.
    assert!(world.relay().stats().message_bytes >= before + fixed.len() + user.len());
    peer.own(&queue, Command::DeleteLink).await.unwrap();
    crate::site::until(|| world.relay().stats().message_bytes == before).await;
}
