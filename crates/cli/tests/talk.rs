//! Plain messages between processes: order, size, absence, chat.

#![allow(clippy::unwrap_used)]

mod stage;
use stage::{Ended, Stage, wait_all};

/// The messages of a `recv`, as bytes.
fn messages(ended: &Ended) -> Vec<Vec<u8>> {
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let bytes = |line: &serde_json::Value| hex::decode(line["hex"].as_str().unwrap()).unwrap();
    ended.lines.iter().map(bytes).collect()
}

#[test]
fn a_message_reaches_all_or_the_one_it_is_for() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 3);
    let index = |party: usize| formed[party - 1]["me"].as_u64().unwrap();
    let sent = stage.run("p1", &["send", "--session", "s", "to all"]);
    assert_eq!(sent.ok()["to"].as_array().unwrap().len(), 2);
    let third = index(3).to_string();
    stage
        .run("p2", &["send", "--session", "s", "--to", &third, "to one"])
        .ok();
    let at_second = stage.run("p2", &["recv", "--session", "s"]);
    assert_eq!(at_second.text("text"), "to all");
    assert_eq!(at_second.ok()["from"], index(1));
    let at_third = stage.run("p3", &["recv", "--session", "s", "--count", "2"]);
    let mut from: Vec<_> = at_third
        .lines
        .iter()
        .map(|l| (l["from"].as_u64(), l["text"].as_str()))
        .collect();
    from.sort();
    let mut expected = vec![
        (Some(index(1)), Some("to all")),
        (Some(index(2)), Some("to one")),
    ];
    expected.sort();
    assert_eq!(from, expected);
    // What was received once does not come again.
    let nothing = stage.run("p3", &["recv", "--session", "s", "--timeout", "1"]);
    nothing.failed(3);
    // Nobody is party 7, or talks to itself.
    let own = index(1).to_string();
    for to in ["7", &own] {
        stage
            .run("p1", &["send", "--session", "s", "--to", to, "x"])
            .failed(2);
    }
    stage
        .run("p1", &["send", "--session", "nowhere", "x"])
        .failed(2);
}

#[test]
fn bytes_arrive_as_they_were() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let every: Vec<u8> = (0..=255).collect();
    let samples: [&[u8]; 5] = [&every, b"", b"line\nline\r\n", "\u{1f512}".as_bytes(), &[0]];
    for sample in samples {
        stage.run_with_input("p1", &["send", "--session", "s"], sample);
    }
    let received = stage.run("p2", &["recv", "--session", "s", "--count", "5"]);
    assert_eq!(messages(&received), samples);
    assert!(
        received.lines[0]["text"].is_null(),
        "bytes that are no text"
    );
}

#[test]
fn two_hundred_messages_keep_their_order() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let lines: String = (0..200).map(|n| format!("message {n}\n")).collect();
    // Two speak at once, line by line.
    let speakers = ["p1", "p2"].map(|party| {
        let mut chat = stage.start_with_input(party, &["chat", "--session", "s"]);
        chat.say(lines.as_bytes());
        chat.end_input();
        chat
    });
    let listener = stage.start("p3", &["recv", "--session", "s", "--count", "400"]);
    let received = listener.wait();
    for speaker in wait_all(Vec::from(speakers)) {
        assert_eq!(speaker.code, Some(0), "{speaker:#?}");
    }
    assert_eq!(received.code, Some(0), "{}", received.stderr);
    let senders: std::collections::BTreeSet<_> = received
        .lines
        .iter()
        .map(|line| line["from"].as_u64())
        .collect();
    assert_eq!(senders.len(), 2);
    for sender in senders {
        let texts: Vec<_> = received
            .lines
            .iter()
            .filter(|l| l["from"].as_u64() == sender)
            .collect();
        assert_eq!(texts.len(), 200);
        for (n, line) in texts.iter().enumerate() {
            assert_eq!(line["text"], format!("message {n}"));
        }
    }
}

#[test]
fn megabytes_arrive_in_one_piece() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    // Neither a multiple of a block nor compressible.
    let mut state = 1_u32;
    let payload: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(3 * 1024 * 1024 + 7)
    .collect();
    let receiver = stage.start("p2", &["recv", "--session", "s", "--count", "2"]);
    let sent = stage.run_with_input("p1", &["send", "--session", "s"], &payload);
    assert_eq!(sent.ok()["bytes"], payload.len());
    stage
        .run("p1", &["send", "--session", "s", "and a small one"])
        .ok();
    let received = messages(&receiver.wait());
    assert!(received[0] == payload, "the payload changed on its way");
    assert_eq!(received[1], b"and a small one");
}

#[test]
fn more_than_the_limit_is_refused_before_anything_is_sent() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let file = stage.file("large", &vec![0; 16 * 1024 * 1024 + 1]);
    let input = std::fs::File::open(file).unwrap();
    let output = stage
        .command("p1", &["send", "--session", "s"])
        .stdin(input)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("16 MiB"));
}

#[test]
fn who_was_away_gets_everything_later() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    for n in 0..5 {
        stage
            .run(
                "p1",
                &["send", "--session", "s", &format!("while away {n}")],
            )
            .ok();
    }
    // One by one, each in a process of its own.
    for n in 0..5 {
        let received = stage.run("p2", &["recv", "--session", "s"]);
        assert_eq!(received.text("text"), format!("while away {n}"));
    }
}

#[test]
fn people_chat() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let mut chats =
        ["p1", "p2", "p3"].map(|party| stage.start_with_input(party, &["chat", "--session", "s"]));
    for speaker in 0..3 {
        let text = format!("hello from {speaker}");
        chats[speaker].say(format!("{text}\n").as_bytes());
        for (listener, chat) in chats.iter_mut().enumerate() {
            if listener != speaker {
                assert_eq!(chat.line()["text"], text);
            }
        }
    }
    for mut chat in chats {
        chat.end_input();
        let ended = chat.wait();
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert!(ended.lines.is_empty(), "{ended:#?}");
    }
}
