//! A party whose packets come from elsewhere all of a sudden.

#![allow(clippy::unwrap_used, clippy::panic)]

mod between;

use std::time::Duration;

use between::Between;
use junto_direct::{Direct, Reach};
use junto_session::{
    PartyIndex,
    adapters::tcp::{Contact, Line, Ways},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// For what must happen; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

fn party(number: usize) -> PartyIndex {
    PartyIndex::new(number).unwrap()
}

async fn path(from: &Direct, to: &Direct) -> (Line, Line) {
    let both = async { tokio::join!(from.call(party(1)), to.accept()) };
    let (called, (_, accepted)) = timeout(PATIENCE, both).await.unwrap();
    (called.unwrap(), accepted)
}

#[tokio::test]
async fn who_moves_calls_anew_and_where_it_moved_to_hears_nothing_before() {
    let one = Direct::open(party(0), Reach::Loopback).await.unwrap();
    let two = Direct::open(party(1), Reach::Loopback).await.unwrap();
    two.know(party(0), one.contact(party(1)).unwrap());
    let contact = two.contact(party(0)).unwrap();
    let mut between = Between::new(contact.places[0]).await;
    let through = Contact {
        key: contact.key,
        word: contact.word,
        places: vec![between.place],
    };
    one.know(party(1), through);
    let (mut here, mut there) = path(&one, &two).await;
    let mut read = [0; 6];
    here.writer.write_all(b"before").await.unwrap();
    timeout(PATIENCE, there.reader.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert!(between.answers() > 0);

    between.rebind().await;
    here.writer.write_all(b"after!").await.unwrap();
    here.writer.flush().await.unwrap();
    // Nothing else comes, and so the path ends in time.
    let end = timeout(PATIENCE, there.reader.read(&mut read)).await;
    assert!(
        !matches!(end.unwrap(), Ok(1..)),
        "heard from where no handshake came from"
    );
    assert_eq!(between.answers(), 0, "said to where anybody may be");

    let (mut here, mut there) = path(&one, &two).await;
    here.writer.write_all(b"after!").await.unwrap();
    timeout(PATIENCE, there.reader.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&read, b"after!");
    one.close().await;
    two.close().await;
}
