use rand_chacha::ChaCha20Rng;

use super::*;
use crate::proto::parallel::tests::{active, created, offer, relay, used};

fn is_list(body: &Body<'_>) -> bool {
    matches!(body, Body::QueueTest(_))
}

#[test]
fn who_may_be_an_agent_of_another_kind_hears_nothing_again_but_lists() {
    let (mut connection, mut effects, mut rng) = active();
    connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
    let next = connection.rotation.next.as_mut().unwrap();
    created(&mut next.queue, &mut rng);
    assert!(!connection.is_of_our_kind());
    for step in [Step::Added, Step::Used] {
        connection.rotation.next.as_mut().unwrap().step = step;
        assert!(connection.awaits_words());
        let words = connection.words_again();
        assert!(words.len() == 1 && is_list(&words[0]), "{words:?}");
        let next = connection.rotation.next.as_ref().unwrap();
        assert!(awaits(next), "what was said counts as said");
    }
    // Nor when it says something that theirs says, too: which queue it uses.
    let ours = QueueName::of(&connection.receive.address().unwrap());
    connection.take_list(&[ours], &mut effects, &mut rng);
    assert!(!connection.is_of_our_kind());
    assert!(connection.words_again().iter().all(is_list));
    // By its list of queues it is one of ours.
    let theirs = QueueName::of(&connection.send.as_ref().unwrap().address);
    connection.take_list(&[theirs], &mut effects, &mut rng);
    let words = connection.words_again();
    assert!(
        words.iter().any(|it| matches!(it, Body::QueueUse(_))),
        "{words:?}"
    );
}

#[test]
fn a_peer_that_says_the_same_for_ever_is_answered_now_and_then() {
    // Lists, that a queue may be used, that there is one beside the others or in place of one, and all of it: none
    // takes the answer to another one.
    for words in [0b0001, 0b0010, 0b0100, 0b1000, 0b0111] {
        let (mut connection, mut effects, mut rng) = active();
        let second = used(&mut connection, 1, (&mut effects, &mut rng));
        let second = QueueName::of(&second);
        let first = QueueName::of(&connection.send.as_ref().unwrap().address);
        let replaced = (words == 0b1000).then(|| first.clone());
        let third = [(offer(&connection, 2, &mut rng), replaced)];
        connection.take_queue(&third, &mut effects, &mut rng);
        let list = [first, second.clone(), QueueName::of(&third[0].0.address)];
        connection.take_list(&list, &mut effects, &mut rng);
        let before = connection.outbox.len();
        let began = effects.now;
        for second_later in 0..300 {
            effects.now = began.after(Duration::from_secs(second_later));
            for _ in 0..10 {
                if words & 0b0001 != 0 {
                    connection.take_list(&list, &mut effects, &mut rng);
                }
                if words & 0b0010 != 0 {
                    let words = [(second.clone(), false)];
                    connection.use_queue(&words, &mut effects, &mut rng);
                }
                if words & 0b1100 != 0 {
                    connection.take_queue(&third, &mut effects, &mut rng);
                }
            }
        }
        let said = connection.outbox.len() - before;
        let each = u32::count_ones(words) as usize * 10;
        assert!(
            (each - 3..=each + 3).contains(&said),
            "{said} in 300 s: {words:b}"
        );
    }
}

/// Lets that much time pass; the number of timers for words that went off.
fn pass(
    seconds: u64,
    connection: &mut Connection,
    (effects, rng): (&mut Effects, &mut impl CryptoRng),
) -> usize {
    effects.now = effects.now.after(Duration::from_secs(seconds));
    let mut count = 0;
    while let Some(timer) = effects.take_due() {
        if timer == Timer::Words(connection.id) {
            count += 1;
            connection.words_due(effects, rng);
        }
    }
    count
}

#[test]
fn a_clock_that_was_set_back_keeps_no_word_waiting() {
    let (mut connection, mut effects, mut rng) = active();
    connection.parallel.understood = true;
    connection.parallel.again.leave_out();
    connection.parallel.again.due = effects.unix_seconds() + 100 * 365 * 24 * 60 * 60;
    connection.resume_words(&mut effects);
    let before = connection.outbox.len();
    pass(PAUSE - 1, &mut connection, (&mut effects, &mut rng));
    assert_eq!(connection.outbox.len(), before);
    pass(1, &mut connection, (&mut effects, &mut rng));
    assert!(connection.outbox.len() > before);
}

#[test]
fn words_from_before_they_were_said_again_are_said_again() {
    let (mut connection, mut effects, mut rng) = active();
    connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
    let next = connection.rotation.next.as_mut().unwrap();
    created(&mut next.queue, &mut rng);
    next.step = Step::Used;
    assert_eq!(connection.parallel.again, Again::default());
    connection.resume_words(&mut effects);
    let before = connection.outbox.len();
    pass(PAUSE, &mut connection, (&mut effects, &mut rng));
    assert!(connection.outbox.len() > before);
    // Nothing is awaited: nothing is said.
    let (mut connection, mut effects, _) = active();
    connection.resume_words(&mut effects);
    assert!(!connection.parallel.again.is_used());
}

#[test]
fn many_words_have_one_timer() {
    let (mut connection, mut effects, mut rng) = active();
    connection.parallel.again.leave_out();
    for _ in 0..50 {
        pass(1, &mut connection, (&mut effects, &mut rng));
        connection.said_of_queues(&mut effects);
    }
    let mut count = 0;
    for _ in 0..PAUSE * GROWTH {
        count += pass(1, &mut connection, (&mut effects, &mut rng));
    }
    assert!((1..=4).contains(&count), "{count}");
}

#[test]
fn a_peer_that_shows_its_kind_late_hears_all_of_it() {
    let (mut connection, mut effects, mut rng) = active();
    connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
    let next = connection.rotation.next.as_mut().unwrap();
    created(&mut next.queue, &mut rng);
    next.step = Step::Used;
    connection.parallel.again.tries = TRIES_MAX;
    connection.parallel.said = true;
    let theirs = QueueName::of(&connection.send.as_ref().unwrap().address);
    connection.take_list(&[theirs], &mut effects, &mut rng);
    let before = connection.outbox.len();
    pass(1, &mut connection, (&mut effects, &mut rng));
    assert_eq!(connection.outbox.len(), before + 2, "the list and QU");
}

#[test]
fn who_may_be_of_another_kind_is_not_told_twice_to_use_a_queue() {
    for is_known in [false, true] {
        let (mut connection, mut effects, mut rng) = active();
        connection.parallel.understood = is_known;
        connection.parallel.said = true;
        connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
        let next = connection.rotation.next.as_mut().unwrap();
        created(&mut next.queue, &mut rng);
        next.step = Step::Used;
        let before = connection.outbox.len();
        connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
        assert_eq!(connection.outbox.len() - before, usize::from(is_known));
    }
}

#[test]
fn of_a_queue_that_is_gone_nothing_is_said() {
    let uses = |body: &Body<'_>| matches!(body, Body::QueueUse(_) | Body::QueueAdd(_));
    for (is_removed, step) in [(true, Step::Used), (true, Step::Added), (false, Step::Used)] {
        let (mut connection, mut effects, mut rng) = active();
        connection.parallel.understood = true;
        let added = connection.add_queue(relay(1), &mut effects, &mut rng);
        added.unwrap();
        let (slot, ours) = &mut connection.parallel.ours[0];
        created(&mut ours.queue, &mut rng);
        ours.step = step;
        let slot = *slot;
        assert!(
            connection.words_again().iter().any(uses),
            "this would see it"
        );
        let before = connection.outbox.len();
        if is_removed {
            let removed = connection.remove_queue(&relay(1), &mut effects, &mut rng);
            removed.unwrap();
        } else {
            connection.parallel_lost(slot, &mut effects, &mut rng);
        }
        assert_eq!(connection.outbox.len(), before + 1, "the list says so");
        let words = connection.words_again();
        assert!(words.len() == 1 && is_list(&words[0]), "{words:?}");
    }
}

#[test]
fn a_first_queue_that_the_peer_has_not_heard_of_is_spoken_of() {
    for (step, is_next) in [
        (Step::Allowed, false),
        (Step::Used, false),
        (Step::Allowed, true),
        (Step::Used, true),
    ] {
        let (mut connection, mut effects, mut rng) = active();
        connection.parallel.understood = true;
        connection.parallel.said = true;
        let ours = if is_next {
            connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
            &mut **connection.rotation.next.as_mut().unwrap()
        } else {
            let added = connection.add_queue(relay(1), &mut effects, &mut rng);
            added.unwrap();
            &mut connection.parallel.ours[0].1
        };
        created(&mut ours.queue, &mut rng);
        ours.step = step;
        let address = ours.queue.address().unwrap();
        let sent = |connection: &Connection| connection.outbox.len();
        let before = sent(&connection);
        connection.queue_lost(&mut effects, &mut rng);
        assert_eq!(connection.stage, Stage::Active);
        assert_eq!(connection.receive.address().unwrap(), address);
        assert!(sent(&connection) > before, "the list at least");
        assert!(connection.awaits_words());
        // A process that starts anew knows it, too.
        let mut row = Vec::new();
        connection.parallel.again.put(&mut row);
        connection.parallel.again = Again::read(&mut Reader::new(&row)).unwrap();
        let name = QueueName::of(&address);
        let said = |words: Vec<Body<'_>>| {
            let is_it = |(used, _): &(QueueName, bool)| *used == name;
            let mut words = words.into_iter();
            words.any(|body| matches!(body, Body::QueueUse(used) if used.iter().any(is_it)))
        };
        assert!(said(connection.words_again()));
        // What comes there says that it was heard.
        connection.heard_on(Place::Main, 1, &mut effects);
        assert!(!said(connection.words_again()));
    }
}

#[test]
fn answers_are_not_answered() {
    let (mut connection, mut effects, mut rng) = active();
    let theirs = QueueName::of(&connection.send.as_ref().unwrap().address);
    let ours = QueueName::of(&connection.receive.address().unwrap());
    connection.take_list(std::slice::from_ref(&theirs), &mut effects, &mut rng);
    let before = connection.outbox.len();
    effects.now = effects.now.after(ANSWER_PAUSE);
    connection.take_list(&[theirs, ours], &mut effects, &mut rng);
    assert_eq!(connection.outbox.len(), before);
}

/// A connection whose peer is told again and again of a queue that it does not use.
fn telling() -> (Connection, Effects, ChaCha20Rng) {
    let (mut connection, mut effects, mut rng) = active();
    connection.parallel.understood = true;
    connection.parallel.said = true;
    connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
    let next = connection.rotation.next.as_mut().unwrap();
    created(&mut next.queue, &mut rng);
    next.step = Step::Allowed;
    connection.speak_of_queues(&mut effects, &mut rng);
    (connection, effects, rng)
}

/// All rows are with relays, which wait for nothing.
fn all_taken(connection: &mut Connection) {
    let rows: Vec<_> = connection.outbox.keys().copied().collect();
    connection.kept.extend(rows);
}

#[test]
fn a_peer_that_is_away_for_longer_than_relays_keep_messages_hears_of_it_when_it_is_back() {
    let (mut connection, mut effects, mut rng) = telling();
    let mut said = Vec::new();
    let began = effects.now;
    while let Some((at, _)) = effects.next_timeout() {
        all_taken(&mut connection);
        effects.now = at;
        let before = connection.outbox.len();
        pass(0, &mut connection, (&mut effects, &mut rng));
        if connection.outbox.len() > before {
            said.push(at.as_millis() - began.as_millis());
        }
        assert!(said.len() < 20);
    }
    assert!(said[0] <= 61_000, "a minute later at first: {said:?}");
    let pauses: Vec<_> = said.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.is_sorted_by(|a, b| a < b), "{pauses:?}");
    // A relay keeps them for 21 days.
    let days = said.last().unwrap() / (24 * 60 * 60 * 1_000);
    assert!((22..60).contains(&days), "{days}");
}

#[test]
fn a_process_that_starts_hears_what_waits_before_it_says_anything_again() {
    let (mut connection, mut effects, mut rng) = telling();
    all_taken(&mut connection);
    effects.now = effects.now.after(Duration::from_secs(40 * 24 * 60 * 60));
    while effects.take_due().is_some() {}
    connection.parallel.again.wakes = None;
    let before = connection.outbox.len();
    // A program that runs for a few seconds a day.
    for _ in 0..20 {
        connection.parallel.again.wakes = None;
        connection.resume_words(&mut effects);
        let seconds = START_PAUSE - 1;
        pass(seconds, &mut connection, (&mut effects, &mut rng));
        assert_eq!(connection.outbox.len(), before);
        assert_eq!(connection.parallel.again.tries, 0);
        let day = Duration::from_secs(24 * 60 * 60);
        effects.now = effects.now.after(day);
        while effects.take_due().is_some() {}
    }
    connection.parallel.again.wakes = None;
    connection.resume_words(&mut effects);
    pass(START_PAUSE, &mut connection, (&mut effects, &mut rng));
    assert!(connection.outbox.len() > before);
}

#[test]
fn a_list_that_leaves_a_queue_out_is_said_until_the_peer_knows() {
    let (mut connection, mut effects, mut rng) = active();
    // Who may not understand it is not told.
    let added = connection.add_queue(relay(1), &mut effects, &mut rng);
    added.unwrap();
    let removed = connection.remove_queue(&relay(1), &mut effects, &mut rng);
    removed.unwrap();
    assert!(!connection.awaits_words());
    connection.parallel.understood = true;
    let added = connection.add_queue(relay(1), &mut effects, &mut rng);
    added.unwrap();
    let (_, ours) = connection.parallel.ours.last_mut().unwrap();
    created(&mut ours.queue, &mut rng);
    let gone = QueueName::of(&ours.queue.address().unwrap());
    let removed = connection.remove_queue(&relay(1), &mut effects, &mut rng);
    removed.unwrap();
    assert!(connection.awaits_words());
    // The peer offers queues itself, more than are taken up at once.
    let ours = QueueName::of(&connection.receive.address().unwrap());
    let theirs = QueueName::of(&connection.send.as_ref().unwrap().address);
    for _ in 0..6 {
        let uri = offer(&connection, 9, &mut rng);
        connection.take_queue(&[(uri, None)], &mut effects, &mut rng);
    }
    let offered: Vec<_> = connection.all_offers().map(QueueName::of).collect();
    assert!(offered.len() > connection.offers.waiting().count());
    assert!(connection.offers.waiting().next().is_some());
    connection.is_answer(&[ours.clone(), theirs.clone(), gone]);
    assert!(connection.awaits_words(), "it does not know yet");
    connection.is_answer(&[vec![ours, theirs], offered].concat());
    assert!(!connection.awaits_words(), "its own queues are no sign");
}

#[test]
fn an_answer_with_many_queues_leaves_out_what_the_peer_knows_to_be_known() {
    let (mut connection, mut effects, mut rng) = active();
    for number in 1..4 {
        used(&mut connection, number, (&mut effects, &mut rng));
        let added = connection.add_queue(relay(number), &mut effects, &mut rng);
        added.unwrap();
        let (_, ours) = connection.parallel.ours.last_mut().unwrap();
        created(&mut ours.queue, &mut rng);
    }
    connection.rotate(relay(4), &mut effects, &mut rng).unwrap();
    let next = connection.rotation.next.as_mut().unwrap();
    created(&mut next.queue, &mut rng);
    let sends: Vec<_> = connection
        .sends()
        .map(|it| QueueName::of(&it.address))
        .collect();
    // It names all but the last one, which it has given up.
    let answer = connection.list_and_sends(&sends[..3]);
    assert_eq!(answer.len(), REPLY_QUEUES_MAX);
    for (_, queue) in connection.receives() {
        let ours = QueueName::of(&queue.address().unwrap());
        assert!(
            answer.contains(&ours),
            "what it does not name it has no more"
        );
    }
    assert!(answer.contains(&sends[3]), "the peer waits to hear of it");
}
