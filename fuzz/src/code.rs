//! Short codes: their text, their frames, and the two sides of an exchange.

use core::num::NonZeroU8;
use core::time::Duration;

use junto_code::nearby::Nearby;
use junto_code::{
    ATTEMPTS_MAX, Code, Frame, Host, Joiner, Refusal, SEALED_BYTES, SHARE_BYTES, TAG_BYTES, Verdict,
};
use junto_smp::address::Fingerprint;
use junto_smp::id::SenderId;

use crate::input::{Input, piece};
use crate::seeds::rng;

const RELAY: Fingerprint = Fingerprint([1; 32]);
const REPLY: SenderId = SenderId([2; 24]);

/// One encoding per frame; a text that is a code stays the same one.
pub(crate) fn frame(bytes: &[u8]) {
    if let Ok(frame) = Frame::decode(bytes) {
        assert_eq!(frame.encode(), bytes);
    }
    if let Some(code) = core::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse::<Code>().ok())
    {
        let text = code.text();
        assert_eq!(*text.parse::<Code>().unwrap().text(), *text);
    }
}

/// Attributes of an announcement in the local network: what is read is short, of printable ASCII, and reads the same again.
pub(crate) fn nearby(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let parts = ["v", "n", "relay"].map(|name| (name, parts.next()));
    let of = |wanted: &str| {
        let mut found = parts.iter().filter(|(name, _)| *name == wanted);
        found.next().and_then(|(_, value)| *value)
    };
    if let Ok(read) = Nearby::read(of) {
        let said = read.attributes();
        for (name, value) in &said {
            assert!(name.len() + 1 + value.len() <= 255);
            assert!(value.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        let of = |wanted: &str| {
            let mut found = said.iter().filter(|(name, _)| *name == wanted);
            found.next().map(|(_, value)| value.as_bytes())
        };
        assert_eq!(Nearby::read(of), Ok(read));
    }
}

pub(crate) fn announcements() -> Vec<Vec<u8>> {
    let relay = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=";
    ["relay.example.org:5223", "[::1]", "a,b.onion:1"]
        .map(|host| format!("1\0{}\0{relay}@{host}", host.len()).into_bytes())
        .into()
}

/// Pieces that come to the host's mailbox, and to a joiner: neither gives anything to who does not know the words.
pub(crate) fn exchange(bytes: &[u8]) {
    let mut input = Input(bytes);
    let code: Code = "7-crossover-clockwork".parse().unwrap();
    let mut host = Host::new(&code, &RELAY, "junto:link", NonZeroU8::MIN).unwrap();
    let (joiner, _) = Joiner::start(&code, &RELAY, REPLY, &mut rng(1)).unwrap();
    let mut joiner = Some(joiner);
    let mut asking = None;
    let mut now = Duration::ZERO;
    while !input.is_empty() {
        let frame = input.piece();
        now += Duration::from_secs(7);
        let heard = host.hear(now, frame, &mut rng(2));
        assert!(heard.replies.len() <= ATTEMPTS_MAX);
        assert!(
            !matches!(heard.verdict, Some(Verdict::Admitted { .. })),
            "guessed"
        );
        match (joiner.take(), &asking) {
            (Some(before), _) => asking = before.answer(frame).ok().map(|(asking, _)| asking),
            (None, Some(asking)) => assert!(asking.link(frame).is_err(), "sealed"),
            (None, None) => {}
        }
    }
}

pub(crate) fn frames() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        Frame::Hello {
            reply: REPLY,
            share: &[3; SHARE_BYTES],
        },
        Frame::Answer {
            share: &[4; SHARE_BYTES],
        },
        Frame::Confirm {
            reply: REPLY,
            tag: &[5; TAG_BYTES],
        },
        Frame::Link {
            sealed: &[6; SEALED_BYTES],
        },
        Frame::Refused(Refusal::Wrong),
        Frame::Refused(Refusal::Busy),
        Frame::Refused(Refusal::Spent),
    ]
    .iter()
    .map(Frame::encode)
    .collect();
    all.extend(["7-crossover-clockwork", "9999 Aardvark"].map(|text| text.as_bytes().to_vec()));
    all
}

pub(crate) fn exchanges() -> Vec<Vec<u8>> {
    let wrong: Code = "7-crossover-chairlift".parse().unwrap();
    let mut host = Host::new(&wrong, &RELAY, "junto:trap", NonZeroU8::MIN).unwrap();
    let (joiner, hello) = Joiner::start(&wrong, &RELAY, REPLY, &mut rng(3)).unwrap();
    let answer = host
        .hear(Duration::ZERO, &hello, &mut rng(4))
        .replies
        .remove(0)
        .frame;
    let (_, confirm) = joiner.answer(&answer).unwrap();
    let link = host
        .hear(Duration::ZERO, &confirm, &mut rng(5))
        .replies
        .remove(0)
        .frame;
    let pieces = |frames: &[&[u8]]| {
        let mut all = Vec::new();
        for frame in frames {
            piece(&mut all, frame);
        }
        all
    };
    vec![
        // A guesser at the host, and one in the host's place.
        pieces(&[&hello, &confirm, &confirm]),
        pieces(&[&answer, &link]),
    ]
}
