//! Parties that end an execution towards some, at a bad moment, or in several ways at once: all honest
//! parties name the one that ended it, and none of those that stopped because of it.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;

use super::{
    Crash, World,
    nuisances::{formed, inbox_rows, open, open_as, party, send},
};
use crate::{
    Blame, Culprit, Evidence, Fault, InstanceId, Kind, Members, Misuse, Mode, Reason, Round,
    SessionError,
    proto::{
        machine::Machine,
        record::{Abort, Header, Record},
        statement,
    },
};

/// What a party signs to end an execution.
pub(super) fn abort(machine: &Machine, instance: &InstanceId, reason: Reason) -> Abort {
    let agreed = machine.agreed.as_ref().unwrap();
    let statement = statement::abort(&agreed.id, instance, agreed.me, &reason.digest());
    Abort {
        author: agreed.me,
        signature: machine.keys.signing.sign(&statement),
        reason,
    }
}

fn all_of(parties: usize) -> Vec<usize> {
    (0..parties).collect()
}

fn members(of: impl IntoIterator<Item = usize>) -> Members {
    of.into_iter().map(party).collect()
}

/// A formed world in which everybody has opened the same execution.
fn begun(parties: usize) -> (World, Vec<usize>, InstanceId) {
    let (mut world, order) = formed(parties);
    let mut id = None;
    for &place in &order {
        id = Some(open(&mut world, place, "work", &all_of(parties)));
    }
    (world, order, id.unwrap())
}

/// The party of that index says this to another, and to nobody else; its own core knows nothing of it.
fn slip(world: &mut World, order: &[usize], from: usize, to: usize, id: &InstanceId, abort: Abort) {
    let place = order[from];
    let speaker = &mut world.parties[place];
    let header = Header {
        instance: *id,
        round: Round::CONFIRM,
        from: party(from),
        to: party(to),
    };
    let record = Record::Abort { header, abort };
    let local = speaker.local.unwrap();
    let step = speaker
        .node
        .slip(&local, party(to), &record, &mut speaker.rng);
    world.settle(place, step);
}

fn signed(world: &World, order: &[usize], author: usize, id: &InstanceId, reason: Reason) -> Abort {
    let author = &world.parties[order[author]];
    abort(author.node.machine_of(&author.local.unwrap()), id, reason)
}

fn gave_up(accused: Members) -> Reason {
    Reason::gave_up("enough", accused)
}

fn silent(round: u32, accused: usize) -> Reason {
    Reason::Silent {
        round: Round(round),
        accused: members([accused]),
    }
}

fn broadcast(world: &mut World, place: usize, id: &InstanceId, round: u32) {
    let speaker = &mut world.parties[place];
    let local = speaker.local.unwrap();
    let payload = Bytes::from(format!("{place} in {round}"));
    let (said, step) = speaker
        .node
        .broadcast(&local, id, Round(round), &payload, &mut speaker.rng);
    world.settle(place, step);
    match said {
        Ok(()) | Err(SessionError::Peer(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Whether all broadcasts of a round are there.
fn gather(
    world: &mut World,
    order: &[usize],
    who: usize,
    id: &InstanceId,
    round: u32,
) -> Result<bool, SessionError> {
    let others = members(all_of(order.len())).without(party(who));
    let hearer = &mut world.parties[order[who]];
    let (gathered, step) = hearer.node.gather(
        &hearer.local.unwrap(),
        id,
        Round(round),
        Kind::Broadcast,
        others,
        &mut hearer.rng,
    );
    world.settle(order[who], step);
    gathered.map(|all| all.is_some())
}

/// The patience of a party with a round is over.
fn expire(world: &mut World, order: &[usize], who: usize, id: &InstanceId, round: u32) {
    let others = members(all_of(order.len())).without(party(who));
    let impatient = &mut world.parties[order[who]];
    let (expired, step) = impatient.node.expire(
        &impatient.local.unwrap(),
        id,
        Round(round),
        Kind::Broadcast,
        others,
        &mut impatient.rng,
    );
    world.settle(order[who], step);
    expired.unwrap();
}

/// How the execution ended for a party; nothing if it runs.
fn end(world: &mut World, place: usize, id: &InstanceId) -> Option<SessionError> {
    let party = &mut world.parties[place];
    party.node.seed(&party.local.unwrap(), id).err()
}

#[track_caller]
fn blame(world: &mut World, place: usize, id: &InstanceId) -> Blame {
    match end(world, place, id) {
        Some(SessionError::Peer(blame)) => blame,
        other => panic!("party at {place}: {other:?}"),
    }
}

/// All these name the culprit alone, for having given up.
#[track_caller]
fn assert_named(world: &mut World, order: &[usize], honest: &[usize], id: &InstanceId, who: usize) {
    for &index in honest {
        let blame = blame(world, order[index], id);
        assert_eq!(
            blame.culprit,
            Culprit::Party(party(who)),
            "{index}: {blame:?}"
        );
        assert!(
            matches!(blame.fault, Fault::GaveUp(_)),
            "{index}: {blame:?}"
        );
        assert_eq!(blame.parties(), members([who]), "{index}: {blame:?}");
    }
}

#[test]
fn an_abort_told_to_one_member_reaches_all() {
    for parties in 3..=5 {
        for rounds in [0, 1, 2] {
            for victim in 1..parties {
                let (mut world, order, id) = begun(parties);
                for round in 0..rounds {
                    for &place in &order {
                        broadcast(&mut world, place, &id, round);
                    }
                    world.run();
                    for who in 0..parties {
                        assert!(gather(&mut world, &order, who, &id, round).unwrap());
                    }
                }
                // The rest is in the middle of the next round, and the culprit goes on with them.
                let abort = signed(&world, &order, 0, &id, gave_up(Members::NONE));
                slip(&mut world, &order, 0, victim, &id, abort);
                for index in (0..parties).filter(|&index| index != victim) {
                    broadcast(&mut world, order[index], &id, rounds);
                }
                world.run();
                let honest: Vec<_> = (1..parties).collect();
                assert_named(&mut world, &order, &honest, &id, 0);
            }
        }
    }
}

#[test]
fn a_receiver_of_an_abort_may_die_before_it_has_passed_it_on() {
    let mut crashes = 0;
    for later in 1..=3 {
        for effects in [0, 1, 2, usize::MAX] {
            let (mut world, order, id) = begun(4);
            let who = order[2];
            world.crash = Some(Crash {
                who,
                commit: world.parties[who].commits + later,
                effects,
            });
            let abort = signed(&world, &order, 0, &id, gave_up(Members::NONE));
            slip(&mut world, &order, 0, 2, &id, abort);
            world.run();
            crashes += u32::from(world.crashed);
            assert_named(&mut world, &order, &[1, 2, 3], &id, 0);
        }
    }
    assert!(crashes >= 8, "{crashes} crashes only");
}

#[test]
fn a_reason_that_would_hide_something_is_told_and_stored_without_it() {
    let hiding = [
        '\0', '\u{85}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{2028}', '\u{202e}', '\u{2060}',
        '\u{206f}', '\u{feff}',
    ];
    for c in hiding {
        let (mut world, order, id) = begun(3);
        let teller = &mut world.parties[order[0]];
        let text = format!("{c}not{c}now{c}");
        let local = teller.local.unwrap();
        let (told, step) = teller
            .node
            .give_up(&local, &id, &text, Members::NONE, &mut teller.rng);
        told.unwrap();
        world.settle(order[0], step);
        world.run();
        for &place in &order {
            world.reboot(place);
            let blame = blame(&mut world, place, &id);
            assert_eq!(blame.culprit, Culprit::Party(party(0)), "{c:?}");
            assert_eq!(blame.fault.to_string(), "gave up: not now", "{c:?}");
        }
    }
}

#[test]
fn an_abort_finds_those_who_open_the_execution_later_and_leaves_those_who_have_finished() {
    let (mut world, order) = formed(4);
    let all = all_of(4);
    let id = open(&mut world, order[0], "work", &all);
    for index in [1, 2] {
        open(&mut world, order[index], "work", &all);
    }
    let done = &mut world.parties[order[2]];
    let (finished, step) = done.node.finish(&done.local.unwrap(), &id, &mut done.rng);
    finished.unwrap();
    world.settle(order[2], step);
    let abort = signed(&world, &order, 0, &id, gave_up(Members::NONE));
    slip(&mut world, &order, 0, 1, &id, abort);
    world.run();
    assert_named(&mut world, &order, &[1], &id, 0);
    assert!(matches!(
        end(&mut world, order[2], &id),
        Some(SessionError::Misuse(Misuse::Finished))
    ));
    // The last one hears of it from the first that heard it, also in another process.
    assert!(matches!(
        end(&mut world, order[3], &id),
        Some(SessionError::Misuse(Misuse::NotOpen))
    ));
    world.reboot(order[3]);
    open(&mut world, order[3], "work", &all);
    assert_named(&mut world, &order, &[3], &id, 0);
}

#[test]
fn different_aborts_for_different_members_name_their_author() {
    for parties in [3, 4, 5] {
        let (mut world, order, id) = begun(parties);
        for victim in 1..parties {
            // Each accuses the next one; some say that it is silent.
            let next = victim % (parties - 1) + 1;
            let reason = if victim % 2 == 0 {
                gave_up(members([next]))
            } else {
                silent(0, next)
            };
            let abort = signed(&world, &order, 0, &id, reason);
            slip(&mut world, &order, 0, victim, &id, abort);
        }
        world.run();
        for &place in &order[1..] {
            let blame = blame(&mut world, place, &id);
            assert_eq!(blame.culprit, Culprit::Party(party(0)), "{blame:?}");
            // Whoever has heard a claim of silence first, and then another of them, has proof.
            let fits = matches!(blame.fault, Fault::GaveUp(_) | Fault::Proven(_));
            assert!(fits, "{blame:?}");
        }
    }
}

#[test]
fn an_abort_is_passed_on_once() {
    let parties = 5;
    let (mut world, order, id) = begun(parties);
    let said = Rc::new(Cell::new(0));
    for &place in &order[1..] {
        let said = said.clone();
        world.parties[place].lie = Some(Box::new(move |_, _, record| {
            if matches!(record, Record::Abort { .. }) {
                said.set(said.get() + 1);
            }
            record
        }));
    }
    for _ in 0..20 {
        for victim in 1..parties {
            let abort = signed(&world, &order, 0, &id, gave_up(Members::NONE));
            slip(&mut world, &order, 0, victim, &id, abort);
        }
        world.run();
    }
    assert_named(&mut world, &order, &[1, 2, 3, 4], &id, 0);
    // Each of four tells the other three.
    assert_eq!(said.get(), 12);
}

#[test]
fn whoever_makes_up_the_abort_of_another_is_named() {
    for author in [1, 2] {
        let (mut world, order, id) = begun(3);
        let mut abort = signed(&world, &order, 0, &id, gave_up(Members::NONE));
        abort.author = party(author);
        slip(&mut world, &order, 0, 1, &id, abort);
        world.run();
        let seen = blame(&mut world, order[1], &id);
        let expected = Blame::party(party(0), Fault::BadSignature("abort"));
        assert_eq!(seen, expected);
        let told = blame(&mut world, order[2], &id);
        assert!(told.parties().contains(party(0)), "{told:?}");
    }
    // Nor can an outsider of the execution end it.
    let (mut world, order) = formed(3);
    let id = open(&mut world, order[0], "of two", &[0, 1]);
    open(&mut world, order[1], "of two", &[0, 1]);
    let abort = signed(&world, &order, 2, &id, gave_up(Members::NONE));
    slip(&mut world, &order, 0, 1, &id, abort);
    world.run();
    let seen = blame(&mut world, order[1], &id);
    assert_eq!(seen.culprit, Culprit::Party(party(0)));
}

/// The culprit tells all but the accused that the accused is silent, before anybody can know.
fn slandered(parties: usize) -> (World, Vec<usize>, InstanceId) {
    let (mut world, order, id) = begun(parties);
    for victim in 2..parties {
        let claim = signed(&world, &order, 0, &id, silent(0, 1));
        slip(&mut world, &order, 0, victim, &id, claim);
    }
    world.run();
    for victim in 2..parties {
        assert!(!gather(&mut world, &order, victim, &id, 0).unwrap());
    }
    (world, order, id)
}

/// Nobody but that party is silent in that round, as far as these know.
#[track_caller]
fn assert_silent(
    world: &mut World,
    order: &[usize],
    honest: &[usize],
    id: &InstanceId,
    who: &[usize],
) {
    for &index in honest {
        let blame = blame(world, order[index], id);
        let all = members(who.iter().copied());
        let fault = Fault::Silent {
            round: Round(0),
            all,
        };
        assert_eq!(blame, Blame::party(party(who[0]), fault), "{index}");
    }
}

#[test]
fn a_claim_of_silence_made_early_names_its_author_if_the_accused_speaks() {
    for parties in 3..=5 {
        let (mut world, order, id) = slandered(parties);
        for &place in &order[1..] {
            broadcast(&mut world, place, &id, 0);
        }
        world.run();
        // Who has said nothing itself has not waited for anybody: its claim explains nothing.
        let honest: Vec<_> = (1..parties).collect();
        for &index in &honest {
            assert!(!gather(&mut world, &order, index, &id, 0).unwrap());
        }
        for &index in &honest {
            expire(&mut world, &order, index, &id, 0);
            world.run();
        }
        assert_silent(&mut world, &order, &honest, &id, &[0]);
    }
}

#[test]
fn who_has_spoken_and_claims_silence_early_is_named_by_those_who_wait_for_it_later() {
    for parties in 3..=5 {
        let (mut world, order, id) = slandered(parties);
        for &place in &order {
            broadcast(&mut world, place, &id, 0);
        }
        world.run();
        for &place in &order[1..] {
            broadcast(&mut world, place, &id, 1);
        }
        world.run();
        // Whoever has heard the accused misses nobody but the slanderer, and waits no longer for it.
        for victim in 2..parties {
            assert!(gather(&mut world, &order, victim, &id, 1).is_err());
        }
        world.run();
        assert!(gather(&mut world, &order, 1, &id, 1).is_err());
        for &place in &order[1..] {
            let blame = blame(&mut world, place, &id);
            let told = Box::new(silent(0, 1));
            assert_eq!(blame, Blame::party(party(0), Fault::GaveUp(told)));
        }
    }
}

#[test]
fn who_claims_silence_and_has_said_nothing_itself_is_silent_like_the_accused() {
    let (mut world, order, id) = slandered(4);
    for index in [2, 3] {
        broadcast(&mut world, order[index], &id, 0);
    }
    world.run();
    for index in [2, 3] {
        assert!(!gather(&mut world, &order, index, &id, 0).unwrap());
        expire(&mut world, &order, index, &id, 0);
        world.run();
    }
    assert_silent(&mut world, &order, &[2, 3], &id, &[0, 1]);
}

/// The protocol begins in round 1. The culprit claims that all are silent there or in a round that there is
/// not, and has whispered something in one of them, but has not said what they wait for.
#[test]
fn what_nobody_waits_for_excuses_no_claim_of_silence() {
    for (claimed, whispered) in [
        (0, None),
        (0, Some(0)),
        (0, Some(1)),
        (1, None),
        (1, Some(0)),
        (1, Some(1)),
    ] {
        let (mut world, order, id) = begun(4);
        for victim in 1..4 {
            if let Some(round) = whispered {
                send(&mut world, order[0], &id, round, victim, "x");
            }
            let reason = Reason::Silent {
                round: Round(claimed),
                accused: members([1, 2, 3]),
            };
            let claim = signed(&world, &order, 0, &id, reason);
            slip(&mut world, &order, 0, victim, &id, claim);
        }
        for &place in &order[1..] {
            broadcast(&mut world, place, &id, 1);
        }
        world.run();
        for victim in 1..4 {
            let gathered = gather(&mut world, &order, victim, &id, 1);
            assert!(!gathered.unwrap(), "{claimed}, {whispered:?}");
        }
        for victim in 1..4 {
            expire(&mut world, &order, victim, &id, 1);
            let all = members([0]);
            let round = Round(1);
            let fault = Fault::Silent { round, all };
            let blame = blame(&mut world, order[victim], &id);
            let expected = Blame::party(party(0), fault);
            assert_eq!(blame, expected, "{claimed}, {whispered:?}");
        }
    }
}

/// One party gathers what all send it in round 0, and answers in round 1.
#[test]
fn who_gathers_what_others_send_need_not_have_spoken_to_claim_silence() {
    let (mut world, order, id) = begun(4);
    for index in [2, 3] {
        send(&mut world, order[index], &id, 0, 0, "x");
    }
    let claim = signed(&world, &order, 0, &id, silent(0, 1));
    slip(&mut world, &order, 0, 2, &id, claim);
    world.run();
    let waiting = &mut world.parties[order[2]];
    let (gathered, step) = waiting.node.gather(
        &waiting.local.unwrap(),
        &id,
        Round(1),
        Kind::P2p,
        members([0]),
        &mut waiting.rng,
    );
    world.settle(order[2], step);
    assert_eq!(gathered.unwrap_err().blamed(), members([0, 1]));
}

#[test]
fn who_claims_silence_and_speaks_all_the_same_ends_nothing() {
    let (mut world, order, id) = slandered(4);
    for &place in &order {
        broadcast(&mut world, place, &id, 0);
    }
    world.run();
    for who in 0..4 {
        assert!(gather(&mut world, &order, who, &id, 0).unwrap());
    }
}

#[test]
fn a_claim_of_silence_is_believed_by_whoever_has_waited_as_long() {
    let (mut world, order, id) = slandered(4);
    for index in [0, 2, 3] {
        broadcast(&mut world, order[index], &id, 0);
    }
    world.run();
    assert!(!gather(&mut world, &order, 2, &id, 0).unwrap());
    expire(&mut world, &order, 2, &id, 0);
    // It names who is silent, and not who has said why it stopped.
    let fault = Fault::Silent {
        round: Round(0),
        all: members([1]),
    };
    assert_eq!(
        blame(&mut world, order[2], &id),
        Blame::party(party(1), fault)
    );
    world.run();
    assert!(end(&mut world, order[3], &id).is_none());
    expire(&mut world, &order, 3, &id, 0);
    assert_eq!(blame(&mut world, order[3], &id).parties(), members([1]));
}

#[test]
fn who_is_called_silent_goes_on_and_waits_for_nobody_who_has_stopped() {
    for (round, speaks) in [(0, true), (0, false), (7, true), (7, false)] {
        let (mut world, order, id) = begun(4);
        let claim = signed(&world, &order, 0, &id, silent(round, 1));
        slip(&mut world, &order, 0, 1, &id, claim);
        world.run();
        assert!(end(&mut world, order[1], &id).is_none());
        // The slanderer keeps its message from the accused alone, or from all.
        for &place in &order[1..] {
            broadcast(&mut world, place, &id, 0);
        }
        if speaks {
            world.parties[order[0]].lie = Some(Box::new(|_, to, record| match record {
                Record::Broadcast {
                    mut header,
                    signature,
                    payload,
                } => {
                    if to == Some(party(1)) {
                        header.instance = InstanceId([9; 32]);
                    }
                    Record::Broadcast {
                        header,
                        signature,
                        payload,
                    }
                }
                record => record,
            }));
            broadcast(&mut world, order[0], &id, 0);
        }
        world.run();
        assert!(!gather(&mut world, &order, 1, &id, 0).unwrap());
        expire(&mut world, &order, 1, &id, 0);
        assert_silent(&mut world, &order, &[1], &id, &[0]);
        world.run();
        for index in [2, 3] {
            if speaks {
                // The accused has told why it did not echo.
                assert!(gather(&mut world, &order, index, &id, 0).is_err());
                let blame = blame(&mut world, order[index], &id);
                let told = Fault::GaveUp(Box::new(silent(0, 0)));
                assert_eq!(blame, Blame::party(party(1), told), "{index}");
            } else {
                expire(&mut world, &order, index, &id, 0);
                assert_silent(&mut world, &order, &[index], &id, &[0]);
            }
        }
    }
}

#[test]
fn who_is_silent_is_not_excused_by_passing_on_that_it_is() {
    let (mut world, order, id) = begun(4);
    let claim = signed(&world, &order, 2, &id, silent(0, 1));
    slip(&mut world, &order, 1, 3, &id, claim);
    for index in [0, 2, 3] {
        broadcast(&mut world, order[index], &id, 0);
    }
    world.run();
    assert!(!gather(&mut world, &order, 3, &id, 0).unwrap());
    expire(&mut world, &order, 3, &id, 0);
    assert_eq!(blame(&mut world, order[3], &id).parties(), members([1]));
}

#[test]
fn two_who_come_late_do_not_wait_for_each_other() {
    let (mut world, order) = formed(4);
    let all = all_of(4);
    let mut id = None;
    for index in [0, 1] {
        id = Some(open(&mut world, order[index], "work", &all));
        broadcast(&mut world, order[index], &id.unwrap(), 0);
    }
    let id = id.unwrap();
    world.run();
    expire(&mut world, &order, 0, &id, 0);
    world.run();
    expire(&mut world, &order, 1, &id, 0);
    world.run();
    open(&mut world, order[2], "work", &all);
    broadcast(&mut world, order[2], &id, 0);
    assert!(gather(&mut world, &order, 2, &id, 0).is_err());
    let late = blame(&mut world, order[2], &id);
    let Fault::GaveUp(reason) = late.fault else {
        panic!("{late:?}");
    };
    assert_eq!(reason.accused(), members([2, 3]));
}

#[test]
fn claims_of_silence_survive_a_restart_and_fill_no_disk() {
    let (mut world, order, id) = slandered(4);
    let rows = inbox_rows(&mut world, order[2]);
    for _ in 1..50 {
        let claim = signed(&world, &order, 0, &id, silent(0, 1));
        slip(&mut world, &order, 0, 2, &id, claim);
    }
    world.run();
    assert_eq!(inbox_rows(&mut world, order[2]), rows);
    world.reboot(order[2]);
    for &place in &order {
        broadcast(&mut world, place, &id, 0);
    }
    world.run();
    for &place in &order[1..] {
        broadcast(&mut world, place, &id, 1);
    }
    world.run();
    assert!(gather(&mut world, &order, 2, &id, 1).is_err());
    let blame = blame(&mut world, order[2], &id);
    let first = Box::new(silent(0, 1));
    assert_eq!(blame, Blame::party(party(0), Fault::GaveUp(first)));
}

#[test]
fn whoever_claims_one_thing_and_then_another_is_convicted_by_all() {
    let others = [silent(0, 2), silent(1, 1), gave_up(Members::NONE)];
    for (reason, direct) in others
        .into_iter()
        .flat_map(|it| [(it.clone(), true), (it, false)])
    {
        let (mut world, order, id) = begun(4);
        let first = signed(&world, &order, 0, &id, silent(0, 1));
        let second = signed(&world, &order, 0, &id, reason.clone());
        slip(&mut world, &order, 0, 3, &id, first);
        // The other one comes from itself, or is passed on by somebody who stops because of it.
        slip(
            &mut world,
            &order,
            if direct { 0 } else { 2 },
            3,
            &id,
            second,
        );
        world.run();
        for &place in &order[1..] {
            let blame = blame(&mut world, place, &id);
            assert_eq!(blame.culprit, Culprit::Party(party(0)), "{reason:?}");
            let Fault::Proven(evidence) = blame.fault else {
                panic!("{reason:?}: {blame:?}");
            };
            assert!(matches!(*evidence, Evidence::TwoAborts { .. }));
            // As bytes it convinces whoever knows the roster, and nothing like it convicts anybody else.
            let evidence = Evidence::decode(&evidence.encode()).unwrap();
            let machine = &world.parties[order[3]];
            let machine = machine.node.machine_of(&machine.local.unwrap());
            let formation = machine.formation().unwrap();
            let court = machine.court(&formation);
            assert_eq!(evidence.convict(&court), Some(Culprit::Party(party(0))));
            for changed in forgeries(&evidence) {
                assert_eq!(changed.convict(&court), None, "{changed:?}");
            }
        }
    }
}

/// Evidence of two aborts in which something is not as it was signed.
fn forgeries(evidence: &Evidence) -> Vec<Evidence> {
    let Evidence::TwoAborts {
        session,
        instance,
        author,
        first,
        second,
    } = *evidence
    else {
        panic!("{evidence:?}");
    };
    let make = |session, instance, author, first, second| Evidence::TwoAborts {
        session,
        instance,
        author,
        first,
        second,
    };
    let swapped = ((first.0, second.1), (second.0, first.1));
    vec![
        make(session, instance, author, first, first),
        make(session, instance, author, swapped.0, swapped.1),
        make(session, instance, party(1), first, second),
        make(session, InstanceId([7; 32]), author, first, second),
        make(crate::SessionId([7; 32]), instance, author, first, second),
    ]
}

#[test]
fn a_claim_about_oneself_or_nobody_is_an_end() {
    for accused in [members([0]), Members::NONE, members([63])] {
        let (mut world, order, id) = begun(3);
        let reason = Reason::Silent {
            round: Round(0),
            accused,
        };
        let claim = signed(&world, &order, 0, &id, reason);
        slip(&mut world, &order, 0, 1, &id, claim);
        world.run();
        for index in [1, 2] {
            let blame = blame(&mut world, order[index], &id);
            assert_eq!(blame.culprit, Culprit::Party(party(0)));
        }
    }
}

#[test]
fn where_nobody_gathers_a_claim_of_silence_is_an_end() {
    let (mut world, order) = formed(3);
    let mut id = None;
    for &place in &order {
        id = Some(open_as(
            &mut world,
            place,
            "stream",
            &[0, 1, 2],
            Mode::Messages,
        ));
    }
    let id = id.unwrap();
    let claim = signed(&world, &order, 0, &id, silent(0, 1));
    slip(&mut world, &order, 0, 2, &id, claim);
    world.run();
    for index in [1, 2] {
        let blame = blame(&mut world, order[index], &id);
        assert_eq!(blame.culprit, Culprit::Party(party(0)));
        assert!(matches!(blame.fault, Fault::GaveUp(_)));
    }
}

#[test]
fn patience_without_end_ends_when_somebody_has_stopped_who_is_missing() {
    let (mut world, order, id) = slandered(3);
    let others = members([0, 1]);
    for &place in &order {
        broadcast(&mut world, place, &id, 0);
    }
    world.run();
    let lapse = |world: &mut World| {
        let waiting = &mut world.parties[order[2]];
        let (missing, step) = waiting.node.lapse(
            &waiting.local.unwrap(),
            &id,
            Round(1),
            Kind::Broadcast,
            others,
            &mut waiting.rng,
        );
        world.settle(order[2], step);
        missing
    };
    assert!(lapse(&mut world).is_err());
    assert_eq!(blame(&mut world, order[2], &id).parties(), members([1]));
    // Without any claim it ends nothing.
    let (mut world, _, _) = begun(3);
    assert_eq!(lapse(&mut world).unwrap(), others);
    assert!(end(&mut world, order[2], &id).is_none());
}

#[test]
fn a_late_end_of_somebody_who_has_said_all_hurts_nobody_who_has_finished() {
    let (mut world, order, id) = begun(3);
    for index in 1..3 {
        send(&mut world, order[0], &id, 0, index, "all that there is");
    }
    world.run();
    let done = &mut world.parties[order[1]];
    let (finished, step) = done.node.finish(&done.local.unwrap(), &id, &mut done.rng);
    finished.unwrap();
    world.settle(order[1], step);
    let abort = signed(&world, &order, 0, &id, gave_up(members([1])));
    slip(&mut world, &order, 0, 2, &id, abort);
    world.run();
    let told = blame(&mut world, order[2], &id);
    assert_eq!(told.culprit, Culprit::Party(party(0)));
    assert!(matches!(
        end(&mut world, order[1], &id),
        Some(SessionError::Misuse(Misuse::Finished))
    ));
}
