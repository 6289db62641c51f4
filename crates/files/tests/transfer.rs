//! Files between two agents through a real relay: interruptions, and whoever lies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod stage;

use std::io;
use std::sync::Arc;

use junto_files::frame::{Body, MAGIC, VERSION};
use junto_files::{
    Book, CHUNK_BYTES, Direction, Fault, FilesError, Limits, PENDING_MAX, Reason, Report,
    TransferId, cancel, receive, send,
};
use stage::{LIMITS, PATIENCE, Stage, content, ignore, offer};

const CHUNK: usize = CHUNK_BYTES as usize;
const ID: TransferId = TransferId([1; 16]);

#[tokio::test(flavor = "multi_thread")]
async fn files_and_messages_share_a_connection() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let mut between = Vec::new();
    for (number, length) in [0, 1, CHUNK, 100 * CHUNK + 1].into_iter().enumerate() {
        let name = format!("file {number}.bin");
        let bytes = content(length);
        let path = alice.file(&name, &bytes);
        alice.say_bytes(format!("before {number}").as_bytes()).await;
        bob.say_bytes(format!("answer {number}").as_bytes()).await;
        let (mut books, into) = ((alice.book(), bob.book()), bob.dir.clone());
        let (sender, receiver) = (alice.agent.clone(), bob.agent.clone());
        let (from, to) = (alice.connection, bob.connection);
        let (moved, mut moves) = tokio::sync::mpsc::unbounded_channel();
        let mut talk = |report| {
            if let Report::Moved(_) = report {
                moved.send(()).unwrap();
            }
        };
        // While chunks are on their way, in both directions.
        let talking = tokio::spawn(async move {
            let mut said = Vec::new();
            while moves.recv().await.is_some() {
                let text = format!("in between {number} {}", said.len());
                sender.send(from, text.as_bytes()).await.unwrap();
                receiver.send(to, text.as_bytes()).await.unwrap();
                said.push(text);
            }
            said
        });
        let (mut near, mut far) = (alice.line(), bob.line());
        let (sent, received) = tokio::join!(
            send(&mut near, &mut books.0, &path, PATIENCE, &mut talk),
            receive(&mut far, &mut books.1, &into, LIMITS, ignore),
        );
        let received = received.unwrap();
        assert_eq!(sent.unwrap().sha256, received.sha256);
        assert_eq!(received.path, into.canonicalize().unwrap().join(&name));
        assert!(std::fs::read(received.path).unwrap() == bytes);
        assert!(books.0.pending().is_empty() && books.1.pending().is_empty());
        drop(moved);
        let said = talking.await.unwrap();
        // After 32, 64 and 96 chunks of the large one.
        assert_eq!(said.len(), if length > CHUNK { 3 } else { 0 });
        between.extend(said);
    }
    let mut alice = stage.reopen(alice).await;
    let mut bob = stage.reopen(bob).await;
    // Nobody has read the messages: they are there, in order.
    for (party, word) in [(&mut bob, "before"), (&mut alice, "answer")] {
        let mut heard = Vec::new();
        let first = (0..4).map(|number| format!("{word} {number}"));
        let expected: Vec<_> = first.chain(between.clone()).collect();
        while heard.len() < expected.len() {
            heard.push(String::from_utf8(party.message().await.1).unwrap());
        }
        assert_eq!(heard, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_interrupted_goes_on_from_what_both_have() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let bytes = content(300 * CHUNK + 7);
    let path = alice.file("large", &bytes);
    let into = bob.dir.clone();
    let mut least = 0;
    for _ in 0..3 {
        let mut books = (alice.book(), bob.book());
        let (moved, mut stop) = tokio::sync::mpsc::unbounded_channel();
        let mut accepted = 0;
        let mut note = |report| match report {
            Report::Accepted(progress) => accepted = accepted.max(progress.bytes),
            Report::Moved(progress) => drop(moved.send(progress.bytes)),
            Report::Offering(_) | Report::Refused(..) | Report::Stuck(..) => panic!("{report:?}"),
        };
        {
            let (mut near, mut far) = (alice.line(), bob.line());
            tokio::select! {
                sent = send(&mut near, &mut books.0, &path, PATIENCE, ignore) => panic!("{sent:?}"),
                received = receive(&mut far, &mut books.1, &into, LIMITS, &mut note) => panic!("{received:?}"),
                bytes = stop.recv() => least = bytes.unwrap(),
            }
        }
        drop(books);
        alice = stage.reopen(alice).await;
        bob = stage.reopen(bob).await;
        let pending = bob.book().pending();
        assert_eq!(pending[0].direction, Direction::Incoming);
        assert!(pending[0].progress.bytes >= least);
    }
    let mut books = (alice.book(), bob.book());
    let mut accepted = 0;
    let mut note = |report| {
        if let Report::Accepted(progress) = report {
            accepted = progress.bytes.max(accepted);
        }
    };
    let (mut near, mut far) = (alice.line(), bob.line());
    let (sent, received) = tokio::join!(
        send(&mut near, &mut books.0, &path, PATIENCE, ignore),
        receive(&mut far, &mut books.1, &into, LIMITS, &mut note),
    );
    sent.unwrap();
    assert!(
        accepted >= least && least >= 3 * 32 * CHUNK as u64,
        "{least}"
    );
    assert!(std::fs::read(received.unwrap().path).unwrap() == bytes);
    assert_eq!(stage::names(&into), ["large"]);
}

/// The receiver dies at each of its records in turn, before or after it is on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_dies_at_any_record_gets_the_file_once() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let into = bob.dir.clone();
    let mut deaths = 0;
    let records = (0..6).flat_map(|death| [(death, false), (death, true)]);
    let all = records.flat_map(|(death, late)| [(death, late, 0), (death, late, 40 * CHUNK)]);
    for (death, late, length) in all {
        let bytes = content(length);
        let name = format!("{death} {late} {length}");
        let path = alice.file(&name, &bytes);
        let (mut saves, stored) = (0, Arc::clone(&bob.stored));
        let dying = bob.book_kept(move |bytes| {
            saves += 1;
            let dies = saves == death + 1;
            if !dies || late {
                *stored.lock().unwrap() = Some(bytes.to_vec());
            }
            match dies {
                true => Err(io::Error::other("dead")),
                false => Ok(()),
            }
        });
        let first = until_sent(&mut alice, &path, &mut bob, dying).await;
        alice = stage.reopen(alice).await;
        bob = stage.reopen(bob).await;
        if let Err(error) = first {
            assert!(matches!(error, FilesError::Local { .. }), "{error}");
            deaths += 1;
            let book = bob.book();
            until_sent(&mut alice, &path, &mut bob, book).await.unwrap();
        }
        assert_eq!(stage::names(&into), [name.as_str()]);
        let file = into.join(&name);
        assert!(std::fs::read(&file).unwrap() == bytes);
        std::fs::remove_file(file).unwrap();
    }
    // An empty file has three records, this one five.
    assert_eq!(deaths, 16);
}

/// What was given its name, of which the last record was not kept, and then taken away or altered, is not said to be
/// here.
#[tokio::test(flavor = "multi_thread")]
async fn done_is_said_of_no_file_that_is_not_there() {
    for length in [0, 7] {
        let stage = Stage::new().await;
        let (mut alice, mut bob) = stage.pair().await;
        let (bytes, into) = (content(length), bob.dir.clone());
        let path = alice.file("a", &bytes);
        let stored = Arc::clone(&bob.stored);
        let file = into.join("a");
        let seen = file.clone();
        let dying = bob.book_kept(move |bytes| {
            if seen.exists() {
                return Err(io::Error::other("dead"));
            }
            *stored.lock().unwrap() = Some(bytes.to_vec());
            Ok(())
        });
        let died = until_sent(&mut alice, &path, &mut bob, dying).await;
        assert!(matches!(died, Err(FilesError::Local { .. })), "{died:?}");
        std::fs::remove_file(&file).unwrap();
        let mut book = bob.book();
        let why = stuck(&mut bob, &mut book, &into).await;
        assert!(
            why.contains("give the transfer up") && why.contains("/a: "),
            "{why}"
        );
        std::fs::write(&file, content(length + 1)).unwrap();
        stuck(&mut bob, &mut book, &into).await;
        std::fs::write(&file, vec![1; length.max(1)]).unwrap();
        stuck(&mut bob, &mut book, &into).await;
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        stuck(&mut bob, &mut book, &into).await;
        assert_eq!(book.pending().len(), 1);
        std::fs::remove_dir(&file).unwrap();
        // Alice has not been told anything; when it is there again, she is.
        std::fs::write(&file, &bytes).unwrap();
        until_sent(&mut alice, &path, &mut bob, book).await.unwrap();
        assert_eq!(stage::names(&into), ["a"]);
    }
}

/// Receives until a transfer is said to be stuck, and why.
async fn stuck(bob: &mut stage::Party, book: &mut Book<'_>, into: &std::path::Path) -> String {
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let note = |report| {
        if let Report::Stuck(_, why) = report {
            said.send(why).unwrap();
        }
    };
    let mut line = bob.line();
    tokio::select! {
        received = receive(&mut line, book, into, LIMITS, note) => panic!("{received:?}"),
        why = heard.recv() => why.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_stands_in_no_others_way() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let (first, second) = (bob.dir.join("first"), bob.dir.join("second"));
    std::fs::create_dir(&first).unwrap();
    std::fs::create_dir(&second).unwrap();
    let large = alice.file("large", &content(100 * CHUNK));
    let mut books = (alice.book(), bob.book());
    let (moved, mut stop) = tokio::sync::mpsc::unbounded_channel();
    let note = |report| {
        if let Report::Moved(_) = report {
            let _ = moved.send(());
        }
    };
    {
        let (mut near, mut far) = (alice.line(), bob.line());
        tokio::select! {
            sent = send(&mut near, &mut books.0, &large, PATIENCE, ignore) => panic!("{sent:?}"),
            received = receive(&mut far, &mut books.1, &first, LIMITS, note) => panic!("{received:?}"),
            _ = stop.recv() => {}
        }
    }
    let part = books.1.pending()[0].path.clone();
    let aside = bob.dir.join("aside");
    std::fs::rename(&part, &aside).unwrap();
    std::fs::create_dir(&part).unwrap();
    let why = stuck(&mut bob, &mut books.1, &first).await;
    assert!(why.contains(part.to_str().unwrap()), "{why}");
    // Another one comes all the same, and so does the first when it can.
    let small = alice.file("small", &content(7));
    {
        let (mut near, mut far) = (alice.line(), bob.line());
        let (sent, received) = tokio::join!(
            send(&mut near, &mut books.0, &small, PATIENCE, ignore),
            receive(&mut far, &mut books.1, &second, LIMITS, ignore),
        );
        sent.unwrap();
        assert!(received.unwrap().path.ends_with("second/small"));
    }
    std::fs::remove_dir(&part).unwrap();
    std::fs::rename(&aside, &part).unwrap();
    let (mut near, mut far) = (alice.line(), bob.line());
    let (sent, received) = tokio::join!(
        send(&mut near, &mut books.0, &large, PATIENCE, ignore),
        receive(&mut far, &mut books.1, &second, LIMITS, ignore),
    );
    sent.unwrap();
    assert!(received.unwrap().path.ends_with("first/large"));
}

/// Accepted into a folder that goes before anything of the file is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_which_nothing_is_here_comes_into_the_folder_of_now() {
    for length in [0, 40 * CHUNK] {
        let stage = Stage::new().await;
        let (mut alice, mut bob) = stage.pair().await;
        let path = alice.file("a", &content(length));
        let home = bob.dir.clone();
        bob.dir = home.join("gone");
        std::fs::create_dir(&bob.dir).unwrap();
        let stored = Arc::clone(&bob.stored);
        let dying = bob.book_kept(move |bytes| {
            *stored.lock().unwrap() = Some(bytes.to_vec());
            Err(io::Error::other("dead"))
        });
        until_sent(&mut alice, &path, &mut bob, dying)
            .await
            .unwrap_err();
        std::fs::remove_dir_all(&bob.dir).unwrap();
        bob.dir = home.join("new");
        std::fs::create_dir(&bob.dir).unwrap();
        let book = bob.book();
        until_sent(&mut alice, &path, &mut bob, book).await.unwrap();
        assert_eq!(bob.names(), ["a"]);
    }
}

/// The sender is honest: its chunks continue what was here.
#[tokio::test(flavor = "multi_thread")]
async fn a_partial_file_that_is_gone_is_not_the_senders_fault() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let bytes = content(100 * CHUNK);
    let chunk = |n: usize| Body::Chunk {
        offset: (n * CHUNK) as u64,
        data: &bytes[n * CHUNK..(n + 1) * CHUNK],
    };
    let mut offered = offer(&bytes, "a");
    alice.say(ID, Body::Offer(offered.clone())).await;
    for n in 0..32 {
        alice.say(ID, chunk(n)).await;
    }
    let (mut book, into) = (bob.book(), bob.dir.clone());
    let granted = |frame: junto_files::frame::Frame<'_>| match frame.body {
        Body::Grant { attempt, have, .. } => (attempt, have),
        other => panic!("{other:?}"),
    };
    {
        let mut line = bob.line();
        let grants = async {
            assert_eq!(alice.hear(granted).await, (1, 0));
            assert_eq!(alice.hear(granted).await, (1, 32 * CHUNK as u64));
        };
        tokio::select! {
            received = receive(&mut line, &mut book, &into, LIMITS, ignore) => panic!("{received:?}"),
            () = grants => {}
        }
    }
    drop(book);
    std::fs::remove_file(into.join(&bob.names()[0])).unwrap();
    // Twice: it is still known after another death.
    for _ in 0..2 {
        let mut book = bob.book();
        let mut line = bob.line();
        let missing = alice.hear(|frame| frame.body == Body::Missing { attempt: 1 });
        tokio::select! {
            received = receive(&mut line, &mut book, &into, LIMITS, ignore) => panic!("{received:?}"),
            missing = missing => assert!(missing),
        }
    }
    let mut book = bob.book();
    let mut line = bob.line();
    let sending = async {
        for n in 32..96 {
            alice.say(ID, chunk(n)).await;
        }
        assert!(
            alice
                .hear(|frame| frame.body == Body::Missing { attempt: 1 })
                .await
        );
        offered.attempt = 2;
        alice.say(ID, Body::Offer(offered)).await;
        assert_eq!(alice.hear(granted).await, (2, 0));
        for n in 0..100 {
            alice.say(ID, chunk(n)).await;
            if n % 32 == 31 {
                let have = ((n + 1) * CHUNK) as u64;
                assert_eq!(alice.hear(granted).await, (2, have));
            }
        }
        assert!(alice.hear(|frame| frame.body == Body::Done).await);
    };
    let (received, ()) = tokio::join!(
        receive(&mut line, &mut book, &into, LIMITS, ignore),
        sending
    );
    assert!(std::fs::read(received.unwrap().path).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_arrived_is_not_sent_again_unasked() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let path = alice.file("a", &content(7)).canonicalize().unwrap();
    let book = bob.book();
    until_sent(&mut alice, &path, &mut bob, book).await.unwrap();
    // Nobody receives; and it is remembered.
    let mut book = alice.book();
    let again = send(&mut alice.line(), &mut book, &path, PATIENCE, ignore).await;
    assert!(again.unwrap().before);
    let (offering, mut offered) = tokio::sync::mpsc::unbounded_channel();
    for change in [false, true] {
        let mut book = alice.book();
        if change {
            std::fs::write(&path, content(8)).unwrap();
        } else {
            book.send_again(&path);
        }
        let note = |report| drop(offering.send(report));
        let mut line = alice.line();
        tokio::select! {
            sent = send(&mut line, &mut book, &path, PATIENCE, note) => panic!("{sent:?}"),
            report = offered.recv() => assert!(matches!(report, Some(Report::Offering(_)))),
        }
    }
}

/// It claims to have much, and that something is missing, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_does_not_keep_a_sender_for_ever() {
    let stage = Stage::new().await;
    let (mut alice, mut liar) = stage.pair().await;
    let path = alice.file("a", &content(100 * CHUNK));
    let mut moves = 0;
    let note = |report| moves += u32::from(matches!(report, Report::Moved(_)));
    let mut book = alice.book();
    let mut line = alice.line();
    let lying = async {
        loop {
            let offered = liar.hear(|frame| match frame.body {
                Body::Offer(offer) => Some((frame.id, offer.attempt)),
                _ => None,
            });
            let Some((id, attempt)) = offered.await else {
                return;
            };
            let have = 64 * CHUNK as u64;
            let (until, attempt) = (have, attempt);
            liar.say(
                id,
                Body::Grant {
                    attempt,
                    have,
                    until,
                },
            )
            .await;
            liar.say(id, Body::Missing { attempt }).await;
        }
    };
    let (sent, ()) = tokio::join!(send(&mut line, &mut book, &path, PATIENCE, note), lying);
    assert!(
        matches!(sent, Err(FilesError::Peer(Fault::Flood))),
        "{sent:?}"
    );
    assert_eq!(moves, 1);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn paths_that_cannot_be_recorded_are_refused_with_words() {
    use std::os::unix::ffi::OsStrExt as _;
    let stage = Stage::new().await;
    let (mut alice, _bob) = stage.pair().await;
    let dir = alice.dir.join(std::ffi::OsStr::from_bytes(b"b\xffd"));
    if std::fs::create_dir(&dir).is_err() {
        // A file system that knows UTF-8 only.
        return;
    }
    let file = dir.join("a");
    std::fs::write(&file, b"x").unwrap();
    let mut book = alice.book();
    let mut line = alice.line();
    let sent = send(&mut line, &mut book, &file, PATIENCE, ignore).await;
    assert!(sent.unwrap_err().to_string().contains("not UTF-8"));
    let received = receive(&mut line, &mut book, &dir, LIMITS, ignore).await;
    assert!(received.unwrap_err().to_string().contains("not UTF-8"));
    assert!(book.pending().is_empty());
}

/// Receives whatever comes until the sender knows that its file is there, or the receiver fails.
async fn until_sent(
    alice: &mut stage::Party,
    path: &std::path::Path,
    bob: &mut stage::Party,
    mut book: Book<'_>,
) -> Result<(), FilesError> {
    let (mut near_book, into) = (alice.book(), bob.dir.clone());
    let (mut near, mut far) = (alice.line(), bob.line());
    let receiving = async {
        loop {
            if let Err(error) = receive(&mut far, &mut book, &into, LIMITS, ignore).await {
                return error;
            }
        }
    };
    tokio::select! {
        biased;
        error = receiving => Err(error),
        sent = send(&mut near, &mut near_book, path, PATIENCE, ignore) => {
            sent.unwrap();
            Ok(())
        }
    }
}

/// What a liar says, and what it is found guilty of.
async fn lie(frames: Vec<Body<'_>>, fault: Fault) {
    let stage = Stage::new().await;
    let (mut liar, mut bob) = stage.pair().await;
    for body in frames {
        liar.say(ID, body).await;
    }
    let (mut book, into) = (bob.book(), bob.dir.clone());
    let received = receive(&mut bob.line(), &mut book, &into, LIMITS, ignore).await;
    match received {
        Err(FilesError::Peer(found)) => assert_eq!(found, fault),
        other => panic!("{fault}: {other:?}"),
    }
    assert!(book.pending().is_empty());
    assert!(stage::names(&into).is_empty());
    let refused = async {
        loop {
            let reason = liar.hear(|frame| match frame.body {
                Body::Refuse(reason) => Some(reason),
                _ => None,
            });
            if let Some(reason) = reason.await {
                return reason;
            }
        }
    };
    assert_eq!(refused.await, Reason::FAULTY);
    // The same offer again is not taken either: it is answered as before.
    liar.say(ID, Body::Offer(offer(b"x", "x"))).await;
    let mut line = bob.line();
    let receiving = receive(&mut line, &mut book, &into, LIMITS, ignore);
    tokio::select! {
        received = receiving => panic!("{received:?}"),
        reason = refused_again(&mut liar) => assert_eq!(reason, Some(Reason::FAULTY)),
    }
}

async fn refused_again(liar: &mut stage::Party) -> Option<Reason> {
    liar.hear(|frame| match frame.body {
        Body::Refuse(reason) => Some(reason),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_lies_about_the_hash_is_found_out() {
    let bytes = content(2 * CHUNK);
    let mut offer = offer(&bytes, "a");
    offer.sha256 = [0; 32];
    let chunks = bytes.chunks(CHUNK).enumerate();
    let chunks = chunks.map(|(n, data)| Body::Chunk {
        offset: (n * CHUNK) as u64,
        data,
    });
    let frames = std::iter::once(Body::Offer(offer)).chain(chunks);
    lie(frames.collect(), Fault::Hash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_lies_about_the_size_is_found_out() {
    let bytes = content(CHUNK);
    let offered = Body::Offer(offer(&bytes[..100], "a"));
    let whole = Body::Chunk {
        offset: 0,
        data: &bytes,
    };
    lie(vec![offered.clone(), whole], Fault::Length).await;
    let behind = Body::Chunk {
        offset: CHUNK as u64,
        data: &bytes,
    };
    lie(vec![offered.clone(), behind], Fault::OutOfRange).await;
    let aside = Body::Chunk {
        offset: 1,
        data: &bytes,
    };
    lie(vec![offered.clone(), aside], Fault::OutOfRange).await;
    // And by offering another file under the same name of a transfer.
    let another = Body::Offer(offer(&bytes, "a"));
    lie(vec![offered, another], Fault::Changed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_chunks_ends_at_the_credit() {
    let bytes = content(CHUNK);
    let mut offered = offer(&bytes, "a");
    offered.size = 1_000 * CHUNK as u64;
    let chunk = |n: usize| Body::Chunk {
        offset: (n * CHUNK) as u64,
        data: &bytes,
    };
    // The first is missing, so nothing becomes durable and the credit does not grow.
    let flood = std::iter::once(Body::Offer(offered)).chain((1..=64).map(chunk));
    lie(flood.collect(), Fault::BeyondCredit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_offers_take_no_more_than_their_places() {
    let stage = Stage::new().await;
    let (mut liar, mut bob) = stage.pair().await;
    const OFFERS: usize = 100;
    for number in 0..OFFERS {
        let id = TransferId([number as u8; 16]);
        liar.say(id, Body::Offer(offer(b"something", "a"))).await;
    }
    let (mut book, into) = (bob.book(), bob.dir.clone());
    {
        let mut line = bob.line();
        let receiving = receive(&mut line, &mut book, &into, LIMITS, ignore);
        let answers = async {
            let mut refused = 0;
            for _ in 0..OFFERS {
                let body = liar.hear(|frame| match frame.body {
                    Body::Grant { .. } => 0,
                    Body::Refuse(Reason::BUSY) => 1,
                    other => panic!("{other:?}"),
                });
                refused += body.await;
            }
            refused
        };
        tokio::select! {
            received = receiving => panic!("{received:?}"),
            refused = answers => assert_eq!(refused, OFFERS - PENDING_MAX),
        }
    }
    assert_eq!(book.pending().len(), PENDING_MAX);
    assert_eq!(bob.names().len(), PENDING_MAX);
    for pending in book.pending() {
        let id = pending.progress.id;
        assert!(cancel(&bob.line(), &mut book, id, PATIENCE).await.unwrap());
    }
    assert!(bob.names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_advice_and_overwrites_nothing() {
    let stage = Stage::new().await;
    let (liar, mut bob) = stage.pair().await;
    let into = bob.dir.clone();
    let before = bob.file("passwd", b"before");
    let outside = stage::names(stage.folder.path());
    let long = "n".repeat(255);
    let cases = [
        ("../../etc/passwd", "passwd-2"),
        ("/etc/passwd", "passwd-3"),
        ("..", "file"),
        (".ssh/authorized\0_keys", "authorized_keys"),
        (&long, &long[..200]),
    ];
    let mut book = bob.book();
    for (number, (name, expected)) in cases.into_iter().enumerate() {
        let id = TransferId([number as u8; 16]);
        let data = name.as_bytes();
        liar.say(id, Body::Offer(offer(data, name))).await;
        liar.say(id, Body::Chunk { offset: 0, data }).await;
        let received = receive(&mut bob.line(), &mut book, &into, LIMITS, ignore).await;
        let path = received.unwrap().path;
        assert_eq!(path, into.canonicalize().unwrap().join(expected));
        assert_eq!(std::fs::read(path).unwrap(), data);
    }
    assert_eq!(std::fs::read(before).unwrap(), b"before");
    assert_eq!(bob.names().len(), 6);
    assert_eq!(stage::names(stage.folder.path()), outside);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_the_receiver_or_its_disk_is_refused() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let path = alice.file("a", &content(1001));
    let into = bob.dir.clone();
    let (mut near_book, mut book) = (alice.book(), bob.book());
    let limits = Limits {
        size: 1000,
        ..LIMITS
    };
    let mut refused = Vec::new();
    let mut note = |report| {
        if let Report::Refused(progress, reason) = report {
            refused.push((progress.name, reason));
        }
    };
    {
        let (mut near, mut far) = (alice.line(), bob.line());
        tokio::select! {
            received = receive(&mut far, &mut book, &into, limits, &mut note) => panic!("{received:?}"),
            sent = send(&mut near, &mut near_book, &path, PATIENCE, ignore) => {
                assert!(matches!(sent, Err(FilesError::Refused(Reason::TOO_LARGE))), "{sent:?}");
            }
        }
    }
    assert_eq!(refused, [("a".to_owned(), Reason::TOO_LARGE)]);
    assert!(near_book.pending().is_empty());
    let mut vast = offer(b"", "vast");
    vast.size = u64::MAX;
    alice.say(ID, Body::Offer(vast)).await;
    let limits = Limits {
        size: u64::MAX,
        ..LIMITS
    };
    let mut far = bob.line();
    tokio::select! {
        received = receive(&mut far, &mut book, &into, limits, ignore) => panic!("{received:?}"),
        reason = refused_again(&mut alice) => assert_eq!(reason, Some(Reason::NO_ROOM)),
    }
    assert!(stage::names(&into).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gets_lost_on_the_way_is_asked_for_again() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let bytes = content(3 * CHUNK);
    let (mut book, into) = (bob.book(), bob.dir.clone());
    let chunk = |n: usize| Body::Chunk {
        offset: (n * CHUNK) as u64,
        data: &bytes[n * CHUNK..(n + 1) * CHUNK],
    };
    let sending = async {
        let mut offered = offer(&bytes, "a");
        alice.say(ID, Body::Offer(offered.clone())).await;
        alice.say(ID, chunk(0)).await;
        alice.say(ID, chunk(2)).await;
        let grant = |frame: junto_files::frame::Frame<'_>| match frame.body {
            Body::Grant { attempt, have, .. } => (attempt, have),
            other => panic!("{other:?}"),
        };
        assert_eq!(alice.hear(grant).await, (1, 0));
        let missing =
            |frame: junto_files::frame::Frame<'_>| frame.body == Body::Missing { attempt: 1 };
        assert!(alice.hear(missing).await);
        offered.attempt = 2;
        alice.say(ID, Body::Offer(offered)).await;
        assert_eq!(alice.hear(grant).await, (2, CHUNK as u64));
        alice.say(ID, chunk(1)).await;
        alice.say(ID, chunk(2)).await;
        let done = |frame: junto_files::frame::Frame<'_>| frame.body == Body::Done;
        assert!(alice.hear(done).await);
    };
    let mut line = bob.line();
    let (received, ()) = tokio::join!(
        receive(&mut line, &mut book, &into, LIMITS, ignore),
        sending
    );
    assert!(std::fs::read(received.unwrap().path).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_can_cancel() {
    for receiver_cancels in [false, true] {
        let stage = Stage::new().await;
        let (mut alice, mut bob) = stage.pair().await;
        let path = alice.file("a", &content(200 * CHUNK));
        let (mut books, into) = ((alice.book(), bob.book()), bob.dir.clone());
        {
            let (moved, mut stop) = tokio::sync::mpsc::unbounded_channel();
            let mut note = |report| {
                if let Report::Moved(_) = report {
                    let _ = moved.send(());
                }
            };
            let (mut near, mut far) = (alice.line(), bob.line());
            tokio::select! {
                sent = send(&mut near, &mut books.0, &path, PATIENCE, ignore) => panic!("{sent:?}"),
                received = receive(&mut far, &mut books.1, &into, LIMITS, &mut note) => panic!("{received:?}"),
                _ = stop.recv() => {}
            }
        }
        if receiver_cancels {
            let id = books.1.pending()[0].progress.id;
            assert!(
                cancel(&bob.line(), &mut books.1, id, PATIENCE)
                    .await
                    .unwrap()
            );
            assert!(
                !cancel(&bob.line(), &mut books.1, id, PATIENCE)
                    .await
                    .unwrap()
            );
            let sent = send(&mut alice.line(), &mut books.0, &path, PATIENCE, ignore).await;
            assert!(
                matches!(sent, Err(FilesError::Refused(Reason::CANCELLED))),
                "{sent:?}"
            );
        } else {
            let id = books.0.pending()[0].progress.id;
            assert!(
                cancel(&alice.line(), &mut books.0, id, PATIENCE)
                    .await
                    .unwrap()
            );
            let received = receive(&mut bob.line(), &mut books.1, &into, LIMITS, ignore).await;
            assert!(
                matches!(received, Err(FilesError::Withdrawn(Reason::CANCELLED))),
                "{received:?}"
            );
        }
        assert!(books.0.pending().is_empty() && books.1.pending().is_empty());
        assert!(stage::names(&into).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_a_later_version_is_refused_politely() {
    let stage = Stage::new().await;
    let (mut later, mut bob) = stage.pair().await;
    let mut frame = [&MAGIC[..], &[VERSION + 1, 1], &ID.0, b"whatever"].concat();
    later.say_bytes(&frame).await;
    // What ends something is not answered.
    frame[13] = 6;
    later.say_bytes(&frame).await;
    later
        .say(TransferId([2; 16]), Body::Offer(offer(b"", "empty")))
        .await;
    let (mut book, into) = (bob.book(), bob.dir.clone());
    let received = receive(&mut bob.line(), &mut book, &into, LIMITS, ignore).await;
    assert_eq!(received.unwrap().path.file_name().unwrap(), "empty");
    assert_eq!(refused_again(&mut later).await, Some(Reason::UNSUPPORTED));
    assert!(later.hear(|frame| frame.body == Body::Done).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_what_was_not_offered_is_found_out() {
    let stage = Stage::new().await;
    let (mut alice, mut liar) = stage.pair().await;
    let path = alice.file("a", &content(3 * CHUNK));
    let mut book = alice.book();
    let mut line = alice.line();
    let lying = async {
        let (id, attempt) = liar
            .hear(|frame| match frame.body {
                Body::Offer(offer) => (frame.id, offer.attempt),
                other => panic!("{other:?}"),
            })
            .await;
        let (have, until) = (0, 4 * CHUNK as u64);
        liar.say(
            id,
            Body::Grant {
                attempt,
                have,
                until,
            },
        )
        .await;
        liar.hear(|frame| frame.body == Body::Withdraw(Reason::FAULTY))
            .await
    };
    let (sent, withdrawn) =
        tokio::join!(send(&mut line, &mut book, &path, PATIENCE, ignore), lying);
    assert!(
        matches!(sent, Err(FilesError::Peer(Fault::Grant))),
        "{sent:?}"
    );
    assert!(withdrawn && book.pending().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_what_is_not_sent_any_more_is_told() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let path = alice.file("a", &content(CHUNK));
    let (attempt, have, until) = (3, 0, 1);
    let stale = Body::Grant {
        attempt,
        have,
        until,
    };
    bob.say(ID, stale.clone()).await;
    let mut book = alice.book();
    let mut line = alice.line();
    let withdrawn = async {
        let offer = bob.hear(|frame| matches!(frame.body, Body::Offer(_)));
        assert!(offer.await);
        let gone = |frame: junto_files::frame::Frame<'_>| {
            (frame.id, frame.body == Body::Withdraw(Reason::CANCELLED))
        };
        assert_eq!(bob.hear(gone).await, (ID, true));
    };
    tokio::select! {
        sent = send(&mut line, &mut book, &path, PATIENCE, ignore) => panic!("{sent:?}"),
        () = withdrawn => {}
    }
    drop(line);
    // And by who receives files meanwhile.
    bob.say(ID, stale).await;
    let into = alice.dir.clone();
    let mut line = alice.line();
    tokio::select! {
        received = receive(&mut line, &mut book, &into, LIMITS, ignore) => panic!("{received:?}"),
        gone = bob.hear(|frame| frame.body == Body::Withdraw(Reason::CANCELLED)) => assert!(gone),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_sent_is_withdrawn() {
    let stage = Stage::new().await;
    let (mut alice, mut bob) = stage.pair().await;
    let path = alice.file("a", &content(2 * CHUNK));
    let mut book = alice.book();
    let mut line = alice.line();
    let receiving = async {
        let (id, attempt) = bob
            .hear(|frame| match frame.body {
                Body::Offer(offer) => (frame.id, offer.attempt),
                other => panic!("{other:?}"),
            })
            .await;
        std::fs::write(&path, content(CHUNK)).unwrap();
        let (have, until) = (0, 2 * CHUNK as u64);
        bob.say(
            id,
            Body::Grant {
                attempt,
                have,
                until,
            },
        )
        .await;
        bob.hear(|frame| frame.body == Body::Withdraw(Reason::CHANGED))
            .await
    };
    let (sent, withdrawn) = tokio::join!(
        send(&mut line, &mut book, &path, PATIENCE, ignore),
        receiving
    );
    assert!(matches!(sent, Err(FilesError::Changed)), "{sent:?}");
    assert!(withdrawn && book.pending().is_empty());
}
