//! Runs that somebody ends before they begin, or again and again, and who is named then.

use junto_crypto::hash::sha256;
use junto_session::Kind;

use super::*;
use crate::bls::announce::{Announcements, CHANNEL};
use crate::bls::run::{Desk, MOVED_ON, Run, Stop, abandon};

const PURPOSE: &str = "bls refresh k";

/// Long beside what the parties take to meet, and what their words take to arrive.
const SOON: Duration = Duration::from_secs(4);

impl Table {
    /// The numbers of parties in a session, as a failure names them.
    async fn numbers(&self, parties: &[usize]) -> String {
        let mut members = Members::NONE;
        for party in parties {
            let session = self.of(*party).session("s", PATIENCE).await.unwrap();
            members = members.with(session.me());
        }
        members.to_string()
    }

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

    /// The liar ends so many runs after all have said what they hold, because it has a newer share, it says.
    async fn liar_moves_on(&self, times: u32) {
        let held = self.key(LIAR).held.unwrap();
        for run in 1..=times {
            let label = format!("{PURPOSE} #{run}");
            let claim = claim(self, LIAR, "s", &label, &held).await;
            let execution = self.follow(&label, claim).await;
            execution.abort(MOVED_ON, Members::NONE).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_were_ended_before_they_began_do_not_count() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    table.end_beforehand(1..=70).await;
    table.all(Command::Refresh).await;
    for party in [HONEST, VICTIM, LIAR] {
        let origin = table.key(party).held.unwrap().origin.clone();
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
    let mut key = table.key(HONEST);
    let Err(Stop::Failed(failure)) = Run::open(&mut desk, PURPOSE, 1, &mut key).await else {
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
    let liar = table.liar_moves_on(9);
    let ((), ()) = tokio::join!(liar, table.refresh_names_the_liar(Exit::Misbehaved));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_excuses_pass_as_others_have_patience_for() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let liar = async {
        table.liar_moves_on(8).await;
        table.command(LIAR, Command::Refresh).await
    };
    let (honest, victim) = (
        table.command(HONEST, Command::Refresh),
        table.command(VICTIM, Command::Refresh),
    );
    let (liar, honest, victim) = tokio::join!(liar, honest, victim);
    liar.and(honest).and(victim).unwrap();
    let origin = table.key(VICTIM).held.unwrap().origin.clone();
    assert_eq!(origin.label, "bls refresh k #9");
}

/// Two honest parties find out at the same time that they have a newer share than the run starts from.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_another_one_has_ended_is_ended() {
    let table = Table::new().await;
    let label = "bls refresh k #1";
    let open = async |party: usize| {
        let session = table.of(party).session("s", PATIENCE).await.unwrap();
        session.execution(label).await.unwrap()
    };
    let (honest, victim) = (open(HONEST).await, open(VICTIM).await);
    abandon(honest, MOVED_ON).await.unwrap();
    table.hears_the_end(VICTIM, "s", label).await;
    abandon(victim, MOVED_ON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_a_run_at_the_same_time_as_another_is_not_named() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let certificate = table.liar_alone_gets_a_refresh(1).await;
    for party in [HONEST, VICTIM] {
        // It said what it held, and died.
        {
            let session = table.of(party).session("s", PATIENCE).await.unwrap();
            let held = table.key(party).held.unwrap();
            let label = "bls refresh k #2";
            let claim = claim(&table, party, "s", label, &held).await;
            let execution = session.execution(label).await.unwrap();
            execution.broadcast(0, claim).await.unwrap();
            session.durable().await.unwrap();
        }
        table.again(party).await;
        // Then it is given a newer share.
        table.hand("s", LIAR, party, &certificate).await;
        table.take(party).await;
    }
    table.take(LIAR).await;
    table.all(Command::Refresh).await;
    for party in [HONEST, VICTIM, LIAR] {
        assert_eq!(table.epoch(party), Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_is_let_in_and_names_those_who_do_not_begin_again() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let refresh = |party: usize, patience| renew::refresh(table.of(party), "k", patience, QUIET);
    let ended = tokio::join!(refresh(HONEST, SOON), refresh(LIAR, SOON));
    let victim = table.number(VICTIM, "s").await;
    for failure in [ended.0.unwrap_err(), ended.1.unwrap_err()] {
        assert_eq!(failure.exit, Exit::Unreachable, "{failure:?}");
        assert!(failure.party.unwrap().contains(&victim));
    }
    let failure = refresh(VICTIM, SOON).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable, "{failure:?}");
    assert!(failure.message.contains("gave up waiting"), "{failure:?}");
    let others = table.numbers(&[HONEST, LIAR]).await;
    assert_eq!(failure.party, Some(others), "{failure:?}");
    // All together it goes well, also if the late one is there before the others try again.
    let mut late = Box::pin(table.command(VICTIM, Command::Refresh));
    let begun = async {
        let session = table.of(VICTIM).session("s", PATIENCE).await.unwrap();
        let running = async || !session.open_executions().await.unwrap().is_empty();
        while !running().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        ended = &mut late => panic!("{ended:?}"),
        begun = tokio::time::timeout(PATIENCE, begun) => begun.unwrap(),
    }
    let others = [HONEST, LIAR].map(|party| table.command(party, Command::Refresh));
    let [honest, liar] = others;
    let ended = tokio::join!(late, honest, liar);
    ended.0.and(ended.1).and(ended.2).unwrap();
}

/// How somebody lies that the others are silent, and says nothing more.
#[derive(Clone, Copy, Debug)]
enum Slander {
    /// Before they come, and without a word of its own.
    AtOnce,
    /// Before they come, but it has spoken itself.
    Spoken,
    /// When all have spoken.
    Late,
    /// The same, and then once more in the next run.
    Twice,
}

impl Table {
    async fn slander(&self, how: Slander, run: u32) {
        let held = self.key(LIAR).held.unwrap();
        let session = self.of(LIAR).session("s", PATIENCE).await.unwrap();
        let label = format!("{PURPOSE} #{run}");
        let execution = session.execution(&label).await.unwrap();
        if !matches!(how, Slander::AtOnce) {
            let claim = claim(self, LIAR, "s", &label, &held).await;
            execution.broadcast(0, claim).await.unwrap();
        }
        if matches!(how, Slander::Late | Slander::Twice) {
            let all = execution.gather(0, Kind::Broadcast, PATIENCE);
            all.await.unwrap();
        }
        // Nobody sends anything of that kind.
        let claimed = execution.gather(0, Kind::P2p, Duration::ZERO).await;
        let claimed = claimed.unwrap_err().blamed();
        assert_eq!(claimed, session.everybody().without(session.me()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_claims_that_all_others_are_silent_and_is_silent_is_named() {
    for how in [
        Slander::AtOnce,
        Slander::Spoken,
        Slander::Late,
        Slander::Twice,
    ] {
        let table = Table::new().await;
        table.all(Command::Keygen).await;
        let liar = async {
            table.slander(how, 1).await;
            if matches!(how, Slander::Twice) {
                table.slander(how, 2).await;
            }
        };
        let honest = async {
            let refresh = |party| renew::refresh(table.of(party), "k", SOON, QUIET);
            tokio::join!(refresh(HONEST), refresh(VICTIM))
        };
        let (one, other) = if matches!(how, Slander::Late | Slander::Twice) {
            tokio::join!(honest, liar).0
        } else {
            liar.await;
            table.arrived("s", &[HONEST, VICTIM]).await;
            honest.await
        };
        let named = Some(table.number(LIAR, "s").await);
        for failure in [one.unwrap_err(), other.unwrap_err()] {
            assert_eq!(failure.exit, Exit::Unreachable, "{how:?}: {failure:?}");
            assert_eq!(failure.party, named, "{how:?}: {failure:?}");
        }
    }
}

/// A party says that another one is silent, and is silent itself after that, or says it once more. That one knows who lies;
/// the third one does not: the accused may have been silent towards that party alone.
#[tokio::test(flavor = "multi_thread")]
async fn who_says_that_one_other_is_silent_is_named_together_with_it_by_who_cannot_know() {
    for times in 1..=2 {
        let table = Table::new().await;
        table.all(Command::Keygen).await;
        let accused = table.of(VICTIM).session("s", PATIENCE).await.unwrap().me();
        let author = async {
            let held = table.key(LIAR).held.unwrap();
            let session = table.of(LIAR).session("s", PATIENCE).await.unwrap();
            for run in 1..=times {
                let label = format!("{PURPOSE} #{run}");
                let claim = claim(&table, LIAR, "s", &label, &held).await;
                let execution = session.execution(&label).await.unwrap();
                execution.broadcast(0, claim).await.unwrap();
                let all = execution.gather(0, Kind::Broadcast, PATIENCE);
                all.await.unwrap();
                let only = Members::NONE.with(accused);
                let claimed = execution.gather_from(0, Kind::P2p, only, Duration::ZERO);
                assert_eq!(claimed.await.unwrap_err().blamed(), only);
            }
        };
        let refresh = |party| renew::refresh(table.of(party), "k", SOON, QUIET);
        let ((), third, accused) = tokio::join!(author, refresh(HONEST), refresh(VICTIM));
        let (third, accused) = (third.unwrap_err(), accused.unwrap_err());
        for failure in [&third, &accused] {
            assert_eq!(failure.exit, Exit::Unreachable, "{times}: {failure:?}");
        }
        let both = table.numbers(&[LIAR, VICTIM]).await;
        assert_eq!(third.party, Some(both), "{times}: {third:?}");
        let author = table.number(LIAR, "s").await;
        assert_eq!(accused.party, Some(author), "{times}: {accused:?}");
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
        heard = tokio::time::timeout(PATIENCE, announced.next()) => heard.unwrap(),
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

/// What nobody listens to any more, as the key has another epoch, must not wait for ever: it would be held
/// against its author.
#[tokio::test(flavor = "multi_thread")]
async fn announcements_about_other_keys_are_read_and_forgotten() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let liar = table.of(LIAR).session("s", PATIENCE).await.unwrap();
    let honest = table.of(HONEST).session("s", PATIENCE).await.unwrap();
    let channel = liar.channel(CHANNEL).await.unwrap();
    let public = table.key(HONEST).held.unwrap();
    let public = public.share.public();
    let of_key = |key: &[u8]| [&key[..16], &[7; 32]].concat();
    let garbage = [vec![], vec![1; 3], vec![1; 100], of_key(&[9; 16])];
    for said in garbage.into_iter().chain([of_key(&public.digest())]) {
        channel.send(honest.me(), said).await.unwrap();
    }
    let begun = Announcements::begin(&honest, public, [8; 32], Members::NONE).await;
    let mut announced = begun.unwrap();
    let heard = tokio::time::timeout(PATIENCE, announced.next()).await;
    assert_eq!(heard.unwrap(), (liar.me(), [7; 32]));
    // All of them waited in one place, in order: those before it are gone.
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_keeps_nobody_from_signing() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let session = table.of(HONEST).session("s", PATIENCE).await.unwrap();
    let liar = table.of(LIAR).session("s", PATIENCE).await.unwrap().me();
    table.parties[LIAR].take().unwrap().end().await;
    // More waits for it than there is room for: whoever sends it anything waits for ten minutes.
    let channel = session.channel("anything").await.unwrap();
    for _ in 0..4 {
        let fed = channel.feed(liar, vec![0; 16 * 1024 * 1024]);
        tokio::time::timeout(PATIENCE, fed).await.unwrap().unwrap();
    }
    assert_eq!(session.full().await.unwrap(), Members::NONE.with(liar));
    let signed = tokio::time::timeout(PATIENCE, table.signs(b"message"));
    signed.await.unwrap();
    // Its part waits for the liar too: nothing is left to be said in these runs.
    let open = session.open_executions().await.unwrap();
    assert!(open.is_empty(), "{open:?}");
    // What all have to hear is not held up either, and nobody else is named.
    let refresh = |party| renew::refresh(table.of(party), "k", SOON, QUIET);
    let refreshed = async { tokio::join!(refresh(HONEST), refresh(VICTIM)) };
    let (one, other) = tokio::time::timeout(PATIENCE, refreshed).await.unwrap();
    for failure in [one.unwrap_err(), other.unwrap_err()] {
        assert_eq!(failure.exit, Exit::Unreachable, "{failure:?}");
        assert_eq!(failure.party, Some(liar.to_string()), "{failure:?}");
    }
    drop((channel, session));
    // It has a part of the other one, and may sign late.
    table.enter(LIAR).await;
    table.sign(LIAR, b"message", PATIENCE).await.unwrap();
}
