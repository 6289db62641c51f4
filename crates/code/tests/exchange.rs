//! The exchange of a code for a link: honest, with wrong words, and with somebody in between.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

use core::convert::Infallible;
use core::num::NonZeroU8;
use core::time::Duration;

use junto_code::{
    ATTEMPT_LIFE, ATTEMPTS_MAX, Altered, Asking, Code, Frame, HEARD_MAX, Heard, Host, Joiner,
    LINK_BYTES_MAX, Refusal, Turned, Verdict,
};
use junto_smp::address::Fingerprint;
use junto_smp::id::SenderId;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{self, SeedableRng};

const RELAY: Fingerprint = Fingerprint([0x11; 32]);
const LINK: &str = "junto:the-link";
const START: Duration = Duration::ZERO;

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(7)
}

fn code(text: &str) -> Code {
    text.parse().unwrap()
}

fn right() -> Code {
    code("7-crossover-clockwork")
}

fn wrong() -> Code {
    code("7-crossover-chairlift")
}

fn queue(number: u16) -> SenderId {
    let mut bytes = [0; 24];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    SenderId(bytes)
}

fn host(uses: u8) -> Host {
    Host::new(&right(), &RELAY, LINK, NonZeroU8::new(uses).unwrap()).unwrap()
}

/// The one frame that a host sends, to this queue.
fn only(heard: &Heard, to: SenderId) -> Vec<u8> {
    match heard.replies.as_slice() {
        [reply] if reply.to == to => reply.frame.clone(),
        other => panic!("{other:?}"),
    }
}

/// A joiner up to its confirmation, which is not sent yet.
fn ask(host: &mut Host, words: &Code, at: SenderId) -> (Asking, Vec<u8>) {
    let (joiner, hello) = Joiner::start(words, &RELAY, at, &mut rng()).unwrap();
    let heard = host.hear(START, &hello, &mut rng());
    assert_eq!(heard.verdict, None);
    joiner.answer(&only(&heard, at)).unwrap()
}

/// What a frame to the joiner tells it.
fn refusal(frame: &[u8]) -> Refusal {
    match Frame::decode(frame) {
        Ok(Frame::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_knows_the_words_gets_the_link_and_all_of_them() {
    for length in [0, 1, LINK_BYTES_MAX] {
        let link = "x".repeat(length);
        let mut host = Host::new(&right(), &RELAY, &link, NonZeroU8::MIN).unwrap();
        let (asking, confirm) = ask(&mut host, &right(), queue(1));
        let heard = host.hear(START, &confirm, &mut rng());
        assert_eq!(heard.verdict, Some(Verdict::Admitted { left: 0 }));
        assert_eq!(*asking.link(&only(&heard, queue(1))).unwrap(), link);
        assert!(host.is_over());
    }
    let longer = "x".repeat(LINK_BYTES_MAX + 1);
    assert!(Host::new(&right(), &RELAY, &longer, NonZeroU8::MIN).is_none());
}

#[test]
fn two_joiners_at_once_both_get_the_link_and_a_third_hears_why_not() {
    let mut host = host(2);
    let (first, first_confirms) = ask(&mut host, &right(), queue(1));
    let (second, second_confirms) = ask(&mut host, &right(), queue(2));
    let (third, third_confirms) = ask(&mut host, &right(), queue(3));
    let heard = host.hear(START, &second_confirms, &mut rng());
    assert_eq!(heard.verdict, Some(Verdict::Admitted { left: 1 }));
    assert_eq!(*second.link(&only(&heard, queue(2))).unwrap(), LINK);
    let heard = host.hear(START, &first_confirms, &mut rng());
    assert_eq!(heard.verdict, Some(Verdict::Admitted { left: 0 }));
    let [to_first, to_third] = heard.replies.as_slice() else {
        panic!("{heard:?}");
    };
    assert_eq!(*first.link(&to_first.frame).unwrap(), LINK);
    assert_eq!(to_third.to, queue(3));
    let refused = Turned::Refused(Refusal::Spent);
    assert_eq!(third.link(&to_third.frame).unwrap_err(), refused);
    // Nor does it get anything if it goes on all the same.
    let heard = host.hear(START, &third_confirms, &mut rng());
    assert!(heard.replies.is_empty() && heard.verdict.is_none());
}

#[test]
fn a_wrong_guess_kills_the_code_for_all() {
    let mut host = host(3);
    let (friend, friend_confirms) = ask(&mut host, &right(), queue(1));
    let (_, guess) = ask(&mut host, &wrong(), queue(2));
    let heard = host.hear(START, &guess, &mut rng());
    assert_eq!(heard.verdict, Some(Verdict::Wrong));
    let [to_guesser, to_friend] = heard.replies.as_slice() else {
        panic!("{heard:?}");
    };
    assert_eq!(
        (to_guesser.to, refusal(&to_guesser.frame)),
        (queue(2), Refusal::Wrong)
    );
    assert_eq!(
        (to_friend.to, refusal(&to_friend.frame)),
        (queue(1), Refusal::Spent)
    );
    assert!(friend.link(&to_friend.frame).is_err());
    // The friend is too late, and so is who knows the words now.
    assert!(
        host.hear(START, &friend_confirms, &mut rng())
            .replies
            .is_empty()
    );
    let (_, hello) = Joiner::start(&right(), &RELAY, queue(3), &mut rng()).unwrap();
    let heard = host.hear(START, &hello, &mut rng());
    assert_eq!(refusal(&only(&heard, queue(3))), Refusal::Spent);
}

#[test]
fn a_guesser_with_three_guesses_never_gets_the_link() {
    let mut host = host(3);
    // All three are under way before any is shown.
    let guesses = [
        "7-crossover-chairlift",
        "7-crossover-choking",
        "7-crossover-classic",
    ]
    .map(code);
    let begun: Vec<_> = (1..)
        .zip(&guesses)
        .map(|(at, words)| ask(&mut host, words, queue(at)))
        .collect();
    let mut given = Vec::new();
    for (_, confirm) in &begun {
        given.extend(host.hear(START, confirm, &mut rng()).replies);
    }
    assert_eq!(given.len(), 3);
    for reply in given {
        let told = refusal(&reply.frame);
        let first = reply.to == queue(1);
        assert_eq!(
            told,
            if first {
                Refusal::Wrong
            } else {
                Refusal::Spent
            }
        );
        assert!(
            begun
                .iter()
                .all(|(asking, _)| asking.link(&reply.frame).is_err())
        );
    }
    assert!(host.is_over());
}

/// A relay that plays the host to the joiner and the joiner to the host.
#[test]
fn a_relay_in_between_learns_nothing_and_both_sides_are_told() {
    let mut host = host(1);
    let (joiner, _) = Joiner::start(&right(), &RELAY, queue(1), &mut rng()).unwrap();
    // To the host, with a guess of its own.
    let (_, to_host) = ask(&mut host, &wrong(), queue(1));
    // To the joiner, as a host with the same guess.
    let mut posing = Host::new(&wrong(), &RELAY, "junto:trap", NonZeroU8::MIN).unwrap();
    let (_, hello) = Joiner::start(&wrong(), &RELAY, queue(1), &mut rng()).unwrap();
    let answer = only(&posing.hear(START, &hello, &mut rng()), queue(1));
    let (asking, confirm) = joiner.answer(&answer).unwrap();
    let heard = posing.hear(START, &confirm, &mut rng());
    assert_eq!(
        heard.verdict,
        Some(Verdict::Wrong),
        "one guess, and not this one"
    );
    // Neither what the joiner confirms nor a confirmation of its own opens the host.
    for frame in [&confirm, &to_host] {
        let mut host = self::host(1);
        let _ = ask(&mut host, &wrong(), queue(1));
        let heard = host.hear(START, frame, &mut rng());
        assert_eq!(heard.verdict, Some(Verdict::Wrong));
        assert_eq!(refusal(&only(&heard, queue(1))), Refusal::Wrong);
    }
    // A link of its own does not pass for the host's.
    let mut trap = Host::new(&wrong(), &RELAY, "junto:trap", NonZeroU8::MIN).unwrap();
    let (_, confirms) = ask(&mut trap, &wrong(), queue(1));
    let trapped = only(&trap.hear(START, &confirms, &mut rng()), queue(1));
    assert_eq!(
        asking.link(&trapped).unwrap_err(),
        Turned::Altered(Altered::Link)
    );
}

#[test]
fn a_share_that_was_changed_on_its_way_ends_the_exchange_on_both_sides() {
    let mut host = host(1);
    let (joiner, hello) = Joiner::start(&right(), &RELAY, queue(1), &mut rng()).unwrap();
    let (_, other) = Joiner::start(
        &right(),
        &RELAY,
        queue(1),
        &mut ChaCha20Rng::seed_from_u64(8),
    )
    .unwrap();
    assert_ne!(hello, other);
    let answer = only(&host.hear(START, &other, &mut rng()), queue(1));
    let (asking, confirm) = joiner.answer(&answer).unwrap();
    let heard = host.hear(START, &confirm, &mut rng());
    assert_eq!(heard.verdict, Some(Verdict::Wrong));
    let told = asking.link(&only(&heard, queue(1))).unwrap_err();
    assert_eq!(told, Turned::Refused(Refusal::Wrong));
}

#[test]
fn frames_that_are_said_twice_change_nothing() {
    let mut host = host(2);
    let (_, hello) = Joiner::start(&right(), &RELAY, queue(1), &mut rng()).unwrap();
    let _ = host.hear(START, &hello, &mut rng());
    assert!(host.hear(START, &hello, &mut rng()).replies.is_empty());
    let (asking, confirm) = ask(&mut host, &right(), queue(2));
    let heard = host.hear(START, &confirm, &mut rng());
    asking.link(&only(&heard, queue(2))).unwrap();
    let heard = host.hear(START, &confirm, &mut rng());
    assert!(heard.replies.is_empty() && heard.verdict.is_none());
}

#[test]
fn exchanges_are_bounded_and_give_their_place_up() {
    let mut host = host(1);
    let most = u16::try_from(ATTEMPTS_MAX).unwrap();
    for at in 1..=most {
        let _ = ask(&mut host, &right(), queue(at));
    }
    let (_, hello) = Joiner::start(&right(), &RELAY, queue(0), &mut rng()).unwrap();
    let before = ATTEMPT_LIFE - Duration::from_nanos(1);
    let heard = host.hear(before, &hello, &mut rng());
    assert_eq!(refusal(&only(&heard, queue(0))), Refusal::Busy);
    let heard = host.hear(ATTEMPT_LIFE, &hello, &mut rng());
    assert!(matches!(
        Frame::decode(&only(&heard, queue(0))),
        Ok(Frame::Answer { .. })
    ));
}

#[test]
fn who_asks_without_end_ends_the_code() {
    let mut host = host(1);
    let (_, hello) = Joiner::start(&right(), &RELAY, queue(0), &mut rng()).unwrap();
    for asked in 0..=HEARD_MAX {
        let mut hello = hello.clone();
        hello[4..6].copy_from_slice(&asked.to_be_bytes());
        // One at a time.
        let now = ATTEMPT_LIFE * u32::from(asked);
        let heard = host.hear(now, &hello, &mut rng());
        let flooded = (asked == HEARD_MAX).then_some(Verdict::Flooded);
        assert_eq!(heard.verdict, flooded, "{asked}");
    }
    assert!(host.is_over());
}

#[test]
fn code_number_and_relay_are_bound() {
    let other = [code("8-crossover-clockwork"), wrong()];
    for (words, relay) in [
        (&other[0], RELAY),
        (&other[1], RELAY),
        (&right(), Fingerprint([0x12; 32])),
    ] {
        let mut host = host(1);
        let (joiner, hello) = Joiner::start(words, &relay, queue(1), &mut rng()).unwrap();
        let answer = only(&host.hear(START, &hello, &mut rng()), queue(1));
        let (_, confirm) = joiner.answer(&answer).unwrap();
        let heard = host.hear(START, &confirm, &mut rng());
        assert_eq!(heard.verdict, Some(Verdict::Wrong));
    }
}

#[test]
fn debug_output_is_silent() {
    let mut host = host(1);
    let (asking, _) = ask(&mut host, &right(), queue(1));
    assert_eq!(format!("{host:?}"), "Host { left: 1, attempts: 1, .. }");
    assert_eq!(format!("{asking:?}"), "Asking { .. }");
}

/// Gives the 64 bytes that `curve25519-dalek` reduces to this scalar.
struct Scalar([u8; 32]);

impl rand_core::TryRng for Scalar {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        panic!("one draw of 64 bytes");
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        panic!("one draw of 64 bytes");
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        assert_eq!(bytes.len(), 64);
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..].fill(0);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Scalar {}

fn vector(name: &str) -> Vec<u8> {
    let text = include_str!("../../../vectors/code/exchange.txt");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    hex::decode(line.unwrap()).unwrap()
}

#[test]
fn frames_are_those_of_another_implementation() {
    let scalar = |name: &str| Scalar(vector(name).try_into().unwrap());
    let reply = SenderId([0x22; 24]);
    let begun = Joiner::start(&right(), &RELAY, reply, &mut scalar("joiner_scalar"));
    let (joiner, hello) = begun.unwrap();
    assert_eq!(hello, vector("hello"));
    let mut host = host(1);
    let answer = only(&host.hear(START, &hello, &mut scalar("host_scalar")), reply);
    assert_eq!(answer, vector("answer"));
    let (asking, confirm) = joiner.answer(&answer).unwrap();
    assert_eq!(confirm, vector("confirm"));
    let key = junto_crypto::aead::StoreKey::from_bytes(&vector("seal_key").try_into().unwrap());
    let heard = host.hear(START, &confirm, &mut rng());
    let link = only(&heard, reply);
    let padded = key.open(b"junto code 1 link", &link[4..]).unwrap();
    assert_eq!(
        padded[..2 + LINK.len()],
        [&[0, 14], LINK.as_bytes()].concat()
    );
    assert!(padded[2 + LINK.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(*asking.link(&link).unwrap(), LINK);
}

#[test]
fn a_confirmation_that_comes_too_late_is_none() {
    let mut host = host(1);
    let (joiner, hello) = Joiner::start(&right(), &RELAY, queue(1), &mut rng()).unwrap();
    let answer = only(&host.hear(START, &hello, &mut rng()), queue(1));
    let (_, confirm) = joiner.answer(&answer).unwrap();
    let heard = host.hear(ATTEMPT_LIFE, &confirm, &mut rng());
    assert!(heard.replies.is_empty() && heard.verdict.is_none());
    assert!(!host.is_over());
}

#[test]
fn who_is_told_to_come_again_after_confirming_is_told_so_by_nobody_honest() {
    let mut host = host(1);
    let (joiner, hello) = Joiner::start(&right(), &RELAY, queue(1), &mut rng()).unwrap();
    let answer = only(&host.hear(START, &hello, &mut rng()), queue(1));
    let (asking, _) = joiner.answer(&answer).unwrap();
    let busy = Frame::Refused(Refusal::Busy).encode();
    assert_eq!(
        asking.link(&busy).unwrap_err(),
        Turned::Altered(Altered::Link)
    );
}

#[test]
fn what_is_no_frame_counts_as_well() {
    let mut host = host(1);
    for _ in 0..HEARD_MAX {
        let heard = host.hear(START, b"noise", &mut rng());
        assert!(heard.replies.is_empty() && heard.verdict.is_none());
    }
    assert_eq!(
        host.hear(START, b"noise", &mut rng()).verdict,
        Some(Verdict::Flooded)
    );
}

#[test]
fn who_keeps_others_out_is_told_once() {
    let mut host = host(1);
    let mut told = Vec::new();
    for asked in 0..ATTEMPTS_MAX as u16 + 3 {
        let (_, hello) = Joiner::start(&wrong(), &RELAY, queue(asked), &mut rng()).unwrap();
        told.extend(host.hear(START, &hello, &mut rng()).verdict);
    }
    assert_eq!(told, [Verdict::Crowded]);
}

/// What somebody who does not know the words can do next, at one of four queues.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Ask,
    /// Confirms with the key of its own words.
    Guess,
    /// Confirms with this byte throughout.
    Invent(u8),
    /// Says again what was said before: by anybody, at any queue.
    Repeat(u8),
}

fn deeds() -> impl Strategy<Value = Vec<(u8, Deed)>> {
    let deed = prop_oneof![
        4 => Just(Deed::Ask),
        1 => Just(Deed::Guess),
        1 => any::<u8>().prop_map(Deed::Invent),
        2 => any::<u8>().prop_map(Deed::Repeat),
    ];
    proptest::collection::vec((0..4_u8, deed), 0..40)
}

proptest! {
    /// Whatever comes from who does not know the words: nobody is admitted, the first confirmation that is looked at ends
    /// the code, and no more is answered than stated.
    #[test]
    fn nothing_that_comes_gets_the_link(deeds in deeds()) {
        let mut host = host(1);
        let mut asked: std::collections::BTreeMap<u8, Vec<u8>> = std::collections::BTreeMap::new();
        let mut said: Vec<Vec<u8>> = Vec::new();
        let mut over = false;
        for (at, deed) in deeds {
            let reply = queue(u16::from(at));
            let frame = match deed {
                Deed::Ask => {
                    let (joiner, hello) = Joiner::start(&wrong(), &RELAY, reply, &mut rng()).unwrap();
                    let heard = host.hear(START, &hello, &mut rng());
                    prop_assert!(heard.replies.len() <= 1);
                    if let [answer] = heard.replies.as_slice()
                        && let Ok((_, confirm)) = joiner.answer(&answer.frame)
                    {
                        asked.insert(at, confirm);
                    }
                    said.push(hello);
                    continue;
                }
                Deed::Guess => match asked.get(&at) {
                    Some(confirm) => confirm.clone(),
                    None => continue,
                },
                Deed::Invent(byte) => Frame::Confirm { reply, tag: &[byte; 32] }.encode(),
                Deed::Repeat(which) => match said.get(usize::from(which)) {
                    Some(frame) => frame.clone(),
                    None => continue,
                },
            };
            let is_confirmation = matches!(Frame::decode(&frame), Ok(Frame::Confirm { .. }));
            let heard = host.hear(START, &frame, &mut rng());
            let admitted = matches!(heard.verdict, Some(Verdict::Admitted { .. }));
            prop_assert!(!admitted);
            prop_assert!(heard.replies.len() <= 4);
            if is_confirmation && asked.remove(&at).is_some() && !over && !matches!(deed, Deed::Repeat(_)) {
                prop_assert_eq!(heard.verdict, Some(Verdict::Wrong));
            }
            over |= heard.verdict == Some(Verdict::Wrong);
            prop_assert_eq!(host.is_over(), over);
            said.push(frame);
        }
    }
}
