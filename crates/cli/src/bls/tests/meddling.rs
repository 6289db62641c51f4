//! Runs that somebody ends before they begin, or again and again, and who is named then.

use junto_crypto::hash::sha256;

use super::*;
use crate::bls::announce::Announcements;
use crate::bls::run::{Desk, MOVED_ON, Run};

const PURPOSE: &str = "bls refresh k";

impl Table {
    /// The liar ends runs before the others begin them, and they know.
    async fn end_beforehand(&self, numbers: core::ops::RangeInclusive<u32>) {
        let liar = self.of(LIAR).session("s", PATIENCE).await.unwrap();
        for number in numbers {
            let execution = liar.execution(&format!("{PURPOSE} #{number}")).await;
            let ended = execution.unwrap().abort("no", Members::NONE);
            ended.await.unwrap();
        }
        self.arrived("s", &[HONEST, VICTIM]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_were_ended_before_they_began_do_not_count() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    table.end_beforehand(1..=70).await;
    table.all(Command::Refresh).await;
    for party in [HONEST, VICTIM, LIAR] {
        let origin = table.key(party).held.unwrap().origin;
        assert_eq!(origin.label, "bls refresh k #71");
    }
    table.signs(b"message").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_ends_every_run_is_named() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    table.end_beforehand(1..=3).await;
    let session = table.of(HONEST).session("s", PATIENCE).await.unwrap();
    let progress = QUIET.progress("");
    // It waits for nobody.
    let mut desk = Desk::new(
        table.of(HONEST),
        &session,
        "k",
        &progress,
        Duration::ZERO,
        QUIET,
    );
    let key = table.key(HONEST);
    let Err(failure) = Run::open(&mut desk, PURPOSE, 1, &key).await else {
        panic!("it opened a run");
    };
    assert_eq!(failure.exit, Exit::Misbehaved, "{failure:?}");
    assert_eq!(
        failure.party,
        Some(table.number(LIAR, "s").await),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn excuses_are_counted_for_each_party() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let held = table.key(LIAR).held.unwrap();
    let liar = async {
        let session = table.of(LIAR).session("s", PATIENCE).await.unwrap();
        for run in 1..=9 {
            let label = format!("{PURPOSE} #{run}");
            let claim = claim(&table, LIAR, "s", &label, &held).await;
            let execution = session.execution(&label).await.unwrap();
            execution.broadcast(0, claim).await.unwrap();
            let all = execution.gather(0, junto_session::Kind::Broadcast, PATIENCE);
            all.await.unwrap();
            execution.abort(MOVED_ON, Members::NONE).await.unwrap();
        }
    };
    let ((), ()) = tokio::join!(liar, table.refresh_names_the_liar(Exit::Misbehaved));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_late_names_nobody_who_has_not_begun_again() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    // Long beside what the two take to meet, and what their word takes to arrive.
    let soon = Duration::from_secs(2);
    let refresh = |party: usize, patience| renew::refresh(table.of(party), "k", patience, QUIET);
    let ended = tokio::join!(refresh(HONEST, soon), refresh(LIAR, soon));
    let victim = table.number(VICTIM, "s").await;
    for failure in [ended.0.unwrap_err(), ended.1.unwrap_err()] {
        assert_eq!(failure.exit, Exit::Unreachable, "{failure:?}");
        assert!(failure.party.unwrap().contains(&victim));
    }
    let failure = refresh(VICTIM, soon).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable, "{failure:?}");
    assert_eq!(failure.party, None, "{failure:?}");
    // All together it goes well.
    table.all(Command::Refresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_one_party_keeps_nobody_from_taking_a_certificate_of_another() {
    let mut table = Table::new().await;
    drop(attacked(&table, Command::Refresh).await);
    table.again(VICTIM).await;
    // The place in which the liar would hand it over is taken by something else.
    let run = table.key(VICTIM).undecided.pop().unwrap().pending;
    let label = format!("bls certificate {}", hex::encode(run.setup().digest()));
    let session = table.of(VICTIM).session("s", PATIENCE).await.unwrap();
    let liar = table.of(LIAR).session("s", PATIENCE).await.unwrap().me();
    let mut taken = sign::between(&label, session.me(), liar);
    taken.mode = junto_session::Mode::Rounds;
    session.execution_as(taken).await.unwrap();
    table.signs(b"message").await;
    assert_eq!(table.epoch(VICTIM), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_superseded_leaves_nothing_open() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let mut victim = Box::pin(table.command(VICTIM, Command::Refresh));
    let mut liar = Box::pin(table.command(LIAR, Command::Refresh));
    let mut honest = Box::pin(table.command(HONEST, Command::Refresh));
    tokio::join!(
        until(victim.as_mut(), || table.is_undecided(VICTIM)),
        until(liar.as_mut(), || table.is_undecided(LIAR)),
        until(honest.as_mut(), || table.is_undecided(HONEST)),
    );
    drop((victim, liar, honest));
    table.break_off(Command::Refresh.label()).await;
    for party in [HONEST, VICTIM, LIAR] {
        table.again(party).await;
    }
    let run = table.key(VICTIM).undecided.pop().unwrap().pending;
    table.all(Command::Refresh).await;
    let label = format!("bls certificate {}", hex::encode(run.setup().digest()));
    for party in [HONEST, VICTIM, LIAR] {
        let session = table.of(party).session("s", PATIENCE).await.unwrap();
        for other in session.everybody().without(session.me()).iter() {
            let pair = session.execution_as(sign::between(&label, session.me(), other));
            let ended = pair.await.map(drop);
            assert!(
                matches!(
                    ended,
                    Err(SessionError::Misuse(junto_session::Misuse::Finished))
                ),
                "{ended:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signers_of_different_messages_find_out() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let victim = table.of(VICTIM).session("s", PATIENCE).await.unwrap();
    let honest = table.of(HONEST).session("s", PATIENCE).await.unwrap().me();
    let key = table.key(VICTIM);
    let others = victim.everybody().without(victim.me());
    let own = sha256(b"another message");
    let public = key.held.as_ref().unwrap().share.public();
    let begun = Announcements::begin(&victim, public, own, others).await;
    let mut announced = begun.unwrap();
    let signs = table.sign(HONEST, b"message", PATIENCE);
    let (party, digest) = tokio::select! {
        _ = signs => panic!("signed by one alone"),
        heard = tokio::time::timeout(PATIENCE, announced.next(&own)) => heard.unwrap(),
    };
    assert_eq!((party, digest), (honest, sha256(b"message")));
    let others = announced.others();
    assert!(others.contains(&hex::encode(digest)), "{others}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signings_that_nobody_takes_part_in_leave_room_for_others() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let session = table.of(HONEST).session("s", PATIENCE).await.unwrap();
    let others = session.everybody().without(session.me());
    for message in 0..260 {
        for other in others.iter() {
            let label = format!("bls sign {:032x} {message:064x}", 7);
            let purpose = sign::between(&label, session.me(), other);
            session.execution_as(purpose).await.unwrap();
        }
    }
    assert!(session.open_executions().await.unwrap().len() >= 520);
    table.signs(b"message").await;
    assert!(session.open_executions().await.unwrap().len() < 20);
}
