//! Direct paths on loopback, between parties that know each other, and with those who should not get in.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stranger;

use std::{io, sync::Arc, time::Duration};

use junto_direct::{Direct, Reach};
use junto_session::{
    PartyIndex,
    adapters::tcp::{Contact, Line, Ways},
};
use stranger::Stranger;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    time::timeout,
};

/// For what must happen; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

fn party(number: usize) -> PartyIndex {
    PartyIndex::new(number).unwrap()
}

async fn parties<const N: usize>() -> [Arc<Direct>; N] {
    let mut all = Vec::new();
    for number in 0..N {
        all.push(Arc::new(
            Direct::open(party(number), Reach::Loopback).await.unwrap(),
        ));
    }
    // All tell all others, each something else.
    for (here, end) in all.iter().enumerate() {
        for (there, other) in all.iter().enumerate().filter(|(there, _)| *there != here) {
            end.know(party(there), other.contact(party(here)).unwrap());
        }
    }
    all.try_into().ok().unwrap()
}

/// A path from the first to the second, which are those parties.
async fn path(from: &Direct, to: &Direct, numbers: [usize; 2]) -> (Line, Line) {
    let both = async {
        let (called, accepted) = tokio::join!(from.call(party(numbers[1])), to.accept());
        assert_eq!(accepted.0, party(numbers[0]));
        (called.unwrap(), accepted.1)
    };
    timeout(PATIENCE, both).await.unwrap()
}

/// Whether nobody has come in by the time that a party gets through.
async fn lets_in_nobody_else(to: &Direct, from: &Direct, numbers: [usize; 2]) {
    path(from, to, numbers).await;
    let more = timeout(Duration::from_millis(100), to.accept()).await;
    assert!(more.is_err(), "somebody came in");
}

#[tokio::test]
async fn what_one_party_says_the_other_hears() {
    let [one, two] = parties().await;
    for (from, to, numbers) in [(&one, &two, [0, 1]), (&two, &one, [1, 0])] {
        let (mut here, mut there) = path(from, to, numbers).await;
        let bytes: Vec<u8> = (0..8 << 20)
            .map(|at: u64| ((at * 7919) >> 8) as u8)
            .collect();
        let expected = bytes.clone();
        let write = tokio::spawn(async move {
            here.writer.write_all(&bytes).await.unwrap();
            here
        });
        let mut read = vec![0; expected.len()];
        timeout(PATIENCE, there.reader.read_exact(&mut read))
            .await
            .unwrap()
            .unwrap();
        assert!(read == expected);
        let mut here = write.await.unwrap();
        there.writer.write_all(b"back").await.unwrap();
        let mut read = [0; 4];
        timeout(PATIENCE, here.reader.read_exact(&mut read))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&read, b"back");
        // What one end gives up ends at the other.
        drop(here);
        let end = timeout(PATIENCE, there.reader.read(&mut read))
            .await
            .unwrap();
        assert!(!matches!(end, Ok(1..)));
    }
}

#[tokio::test]
async fn a_stranger_sees_nothing_of_this_end_and_gets_nowhere() {
    let [one, two] = parties().await;
    let contact = two.contact(party(0)).unwrap();
    let place = contact.places[0];
    // Without a word, with a wrong one, and with one that is too short.
    for word in [None, Some(vec![9; 32]), Some(contact.word[..31].to_vec())] {
        let stranger = Stranger::new(word);
        let error = stranger.call(place).await.unwrap_err();
        assert!(!stranger.has_seen_a_key(), "{error}");
    }
    // Who has overheard the word sees a key of this run, and nothing comes of it.
    let stranger = Stranger::new(Some(contact.word.to_vec()));
    let error = stranger.call_and_listen(place).await;
    assert!(error.is_err(), "it was heard");
    lets_in_nobody_else(&two, &one, [0, 1]).await;
}

#[tokio::test]
async fn whatever_else_comes_to_the_port_is_answered_with_no_more_than_it_costs() {
    let [one, two] = parties().await;
    let place = two.contact(party(0)).unwrap().places[0];
    for length in [0, 1, 20, 50, 1200] {
        for first in [0x00, 0x40, 0x80, 0xc0, 0xff] {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            for _ in 0..10 {
                socket.send_to(&vec![first; length], place).await.unwrap();
            }
            let (mut answered, mut answer) = (0, [0; 1500]);
            let moment = Duration::from_millis(20);
            while let Ok(Ok(length)) = timeout(moment, socket.recv(&mut answer)).await {
                answered += length;
            }
            assert!(answered <= 10 * length, "{answered} for 10 of {length}");
        }
    }
    lets_in_nobody_else(&two, &one, [0, 1]).await;
}

#[tokio::test]
async fn a_party_cannot_come_in_as_another() {
    let [one, two, third] = parties().await;
    let (honest, own) = (
        one.contact(party(1)).unwrap(),
        third.contact(party(1)).unwrap(),
    );
    // It says of itself that it is reached as the first one is, and where that one is.
    let forged = Contact {
        key: honest.key,
        word: own.word,
        places: honest.places.clone(),
    };
    two.know(party(2), forged);
    // The first one is reached and comes in as before.
    path(&two, &one, [1, 0]).await;
    path(&one, &two, [0, 1]).await;
    // The liar is not there, nor let in.
    assert!(
        timeout(PATIENCE, two.call(party(2)))
            .await
            .unwrap()
            .is_err()
    );
    assert!(
        timeout(PATIENCE, third.call(party(1)))
            .await
            .unwrap()
            .is_err()
    );
    lets_in_nobody_else(&two, &one, [0, 1]).await;
}

#[tokio::test]
async fn a_word_is_for_one_party_alone() {
    let [one, two, third] = parties().await;
    let (first, other) = (
        two.contact(party(0)).unwrap(),
        two.contact(party(2)).unwrap(),
    );
    assert!(first.word != other.word);
    // The third has got hold of the word of the first.
    let overheard = Contact {
        word: first.word,
        key: first.key,
        places: first.places.clone(),
    };
    third.know(party(1), overheard);
    assert!(
        timeout(PATIENCE, third.call(party(1)))
            .await
            .unwrap()
            .is_err()
    );
    lets_in_nobody_else(&two, &one, [0, 1]).await;
}

#[tokio::test]
async fn who_calls_says_whom_it_means() {
    let [one, two] = parties().await;
    // The same end under another number.
    one.know(party(3), two.contact(party(0)).unwrap());
    assert!(
        timeout(PATIENCE, one.call(party(3)))
            .await
            .unwrap()
            .is_err()
    );
    lets_in_nobody_else(&two, &one, [0, 1]).await;
}

#[tokio::test]
async fn handshakes_that_idle_keep_nobody_out() {
    let [one, two] = parties().await;
    let contact = two.contact(party(2)).unwrap();
    let place = contact.places[0];
    let third = Stranger::new(Some(contact.word.to_vec()));
    two.know(party(2), third.contact());
    // A party that comes in many times and never greets, and many that stop after the first packet, from where nobody
    // answers.
    let (mut silent, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..70 {
        silent.push(third.call(place).await.unwrap());
    }
    for _ in 0..20 {
        let stranger = Stranger::new(Some(contact.word.to_vec()));
        idle.push(stranger.begin(place).await);
    }
    lets_in_nobody_else(&two, &one, [0, 1]).await;
    drop((silent, idle));
}

#[tokio::test]
async fn the_end_does_not_wait_for_who_does_not_read() {
    let [one, two] = parties().await;
    let (mut here, there) = path(&one, &two, [0, 1]).await;
    // More than fits on its way.
    let much = vec![1; 32 << 20];
    let stuck = timeout(Duration::from_millis(500), here.writer.write_all(&much));
    let stuck = stuck.await;
    assert!(stuck.is_err(), "{stuck:?}");
    timeout(Duration::from_secs(5), one.close()).await.unwrap();
    drop(there);
    timeout(Duration::from_secs(5), two.close()).await.unwrap();
}

#[tokio::test]
async fn nobody_is_called_who_has_told_nothing() {
    let one = Direct::open(party(0), Reach::Loopback).await.unwrap();
    let error = one.call(party(1)).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
