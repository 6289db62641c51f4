//! Certificates that a liar keeps to itself, and shows to whom and when it likes.

use std::collections::BTreeMap;
use std::sync::Arc;

use junto_bls::{DealRound, KeyShare, Pending, Setup};
use junto_crypto::ed25519::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::bls::key_file::{NO_ROOM, Undecided, admit};
use crate::bls::resume::Asked;
use crate::bls::run::{Desk, MOVED_ON, Opened, OwnedOccasion, Run, Task, make, party};

impl Table {
    /// The liar says something where certificates are expected.
    async fn babble(&self, to: usize, bytes: Vec<u8>) {
        let theirs = self.of(to).session("s", PATIENCE).await.unwrap().me();
        let session = self.of(LIAR).session("s", PATIENCE).await.unwrap();
        let public_key = self.key(LIAR).public_key().unwrap();
        let channel = certificate::channel(&session, &public_key).await.unwrap();
        channel.send(theirs, bytes).await.unwrap();
    }
}

/// A certificate with one signature that is none.
fn forged(real: &Certificate) -> Vec<u8> {
    let mut bytes = real.encode();
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proves_nothing_is_not_taken_for_a_certificate() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let made = table.key(LIAR).held.unwrap().certificate.clone();
    let refreshed = table.liar_alone_gets_a_refresh(1).await;
    for lie in [
        made.encode(),
        b"anything".to_vec(),
        Vec::new(),
        forged(&refreshed),
    ] {
        table.babble(VICTIM, lie).await;
    }
    table.arrived("s", &[VICTIM]).await;
    let soon = Duration::from_millis(300);
    let (victim, mut key) = (table.of(VICTIM), table.key(VICTIM));
    assert!(
        !certificate::take_over(victim, "k", &mut key, soon)
            .await
            .unwrap()
    );
    assert_eq!(table.epoch(VICTIM), Some(0));
    table.signs(b"message").await;
    // It has been read, and is forgotten. The same party may tell the truth later.
    table.again(VICTIM).await;
    table.hand("s", LIAR, VICTIM, &refreshed).await;
    table.take(VICTIM).await;
    table.signs(b"another message").await;
    assert_eq!(table.epoch(VICTIM), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_one_party_keeps_nobody_from_taking_a_certificate_of_another() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let certificate = table.liar_alone_gets_a_refresh(1).await;
    // One party fills the place, before another one comes with the certificate.
    for _ in 0..200 {
        table.babble(VICTIM, forged(&certificate)).await;
        table.babble(VICTIM, vec![1; 10_000]).await;
    }
    table.arrived("s", &[VICTIM]).await;
    table.hand("s", LIAR, HONEST, &certificate).await;
    table.take(HONEST).await;
    table.take(VICTIM).await;
    assert_eq!(table.epoch(VICTIM), Some(1));
    table.signs(b"message").await;
}

/// The other signer may have the signature, and be done, before it hears of the newer share.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_shown_a_newer_share_while_it_signs_hears_the_parts_of_before() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let certificate = table.liar_alone_gets_a_refresh(1).await;
    // As if the certificate would arrive there much later.
    let mut key = table.key(VICTIM);
    key.undecided.clear();
    key.store(&table.of(VICTIM).profile, "k").unwrap();
    table.hand("s", LIAR, HONEST, &certificate).await;
    let mut honest = Box::pin(table.sign(HONEST, b"message", PATIENCE));
    until(honest.as_mut(), || table.epoch(HONEST) == Some(1)).await;
    let (honest, victim) = tokio::join!(honest, table.sign(VICTIM, b"message", PATIENCE));
    honest.and(victim).unwrap();
    assert_eq!(table.epoch(VICTIM), Some(0));
    let session = table.of(HONEST).session("s", PATIENCE).await.unwrap();
    let open = session.open_executions().await.unwrap();
    assert!(open.is_empty(), "{open:?}");
}

/// One signer has the older share alone and is done with it; another has the newer one alone.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_signed_with_an_older_share_tells_its_part_under_the_newer_one() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let certificate = table.liar_alone_gets_a_refresh(1).await;
    table.hand("s", LIAR, VICTIM, &certificate).await;
    table.take(VICTIM).await;
    // The liar has said its part under the older share, and no more.
    let soon = Duration::from_millis(300);
    table.sign(LIAR, b"message", soon).await.unwrap_err();
    let (honest, victim) = tokio::join!(
        table.sign(HONEST, b"message", PATIENCE),
        table.sign(VICTIM, b"message", PATIENCE)
    );
    honest.and(victim).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_are_superseded_leave_nothing_open() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    for number in 1..=3 {
        table.liar_alone_gets_a_refresh(number).await;
    }
    table.all(Command::Refresh).await;
    for party in [HONEST, VICTIM, LIAR] {
        assert!(!table.is_undecided(party));
        let session = table.of(party).session("s", PATIENCE).await.unwrap();
        let open = session.open_executions().await.unwrap();
        assert!(open.is_empty(), "{open:?}");
    }
}

/// What the liar has of a run, once it has put together the certificate.
fn held(undecided: Undecided, certificate: &Certificate) -> Held {
    let epoch = undecided.pending.activate(certificate).unwrap();
    Held {
        share: epoch.share.unwrap(),
        certificate: certificate.clone(),
        origin: undecided.origin,
    }
}

/// Nobody could have had the second one when it was shown the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_liar_that_shows_one_certificate_in_each_run_has_nobody_named() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let first = table.liar_alone_gets_a_refresh(1).await;
    let second = table.liar_alone_gets_a_refresh(2).await;
    let mut undecided = table.key(LIAR).undecided.into_iter();
    let shown = [&first, &second].map(|it| held(undecided.next().unwrap(), it));
    let liar = async {
        for (run, held) in (3..).zip(&shown) {
            let label = format!("bls refresh k #{run}");
            let claim = claim(&table, LIAR, "s", &label, held).await;
            let execution = table.follow(&label, claim).await;
            execution.finish().await.unwrap();
        }
        let mut key = table.key(LIAR);
        certificate::adopt(table.of(LIAR), "k", &mut key, &second)
            .await
            .unwrap();
        table.command(LIAR, Command::Refresh).await
    };
    let (honest, victim) = (
        table.command(HONEST, Command::Refresh),
        table.command(VICTIM, Command::Refresh),
    );
    let (liar, honest, victim) = tokio::join!(liar, honest, victim);
    liar.and(honest).and(victim).unwrap();
    for party in [HONEST, VICTIM, LIAR] {
        let origin = table.key(party).held.unwrap().origin.clone();
        assert_eq!(origin.label, "bls refresh k #5");
    }
}

/// The liar's part in the second refresh, by hand.
struct ByHand {
    execution: Execution,
    setup: Setup,
    signer: SigningKey,
    me: PartyIndex,
    held: Arc<Held>,
}

impl ByHand {
    async fn new(table: &Table, label: &str) -> Self {
        let held = table.key(LIAR).held.unwrap();
        let claim = claim(table, LIAR, "s", label, &held).await;
        let execution = table.follow(label, claim).await;
        let session = table.of(LIAR).session("s", PATIENCE).await.unwrap();
        let occasion = OwnedOccasion::new(&session, label);
        let (old, holders) = (held.share.public().clone(), held.holders());
        let setup = Setup::refresh(&occasion.borrow(), old, holders).unwrap();
        ByHand {
            execution,
            setup,
            signer: session.signing_key().await.unwrap(),
            me: party(session.me().as_usize()).unwrap(),
            held,
        }
    }

    async fn heard(&self, round: u32, kind: Kind) -> junto_bls::Inbox {
        let heard = self.execution.gather(round, kind, PATIENCE).await;
        inbox(heard.unwrap())
    }

    fn dealt(&self) -> (DealRound<'_>, Vec<u8>) {
        let seed = self.execution.seed();
        let party = Participant::new(&self.setup, self.me, &self.signer, seed).unwrap();
        party.start(Some(&self.held.share)).unwrap()
    }

    /// Deals, and gives these parties their shares.
    async fn deal(&self, to: &[junto_session::PartyIndex]) {
        let digest = self.setup.digest().to_vec();
        self.execution.broadcast(1, digest).await.unwrap();
        self.heard(1, Kind::Broadcast).await;
        let (deal, said) = self.dealt();
        self.execution.broadcast(2, said).await.unwrap();
        let (_, letters) = deal.receive(&self.heard(2, Kind::Broadcast).await).unwrap();
        for to in to {
            let letter = letters[&party(to.as_usize()).unwrap()].to_vec();
            self.execution.send(3, *to, letter).await.unwrap();
        }
    }

    async fn confirm(&self) {
        let (deal, _) = self.dealt();
        let (round, _) = deal.receive(&self.heard(2, Kind::Broadcast).await).unwrap();
        let (_, said) = round.receive(&self.heard(3, Kind::P2p).await).unwrap();
        self.execution.broadcast(4, said).await.unwrap();
    }
}

/// Whoever has confirmed a refresh waits in it for somebody who does not, when the certificate of a later
/// reshare comes.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_a_run_that_is_superseded_begins_the_next_one() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let all = [table.me(HONEST).await, table.me(VICTIM).await];
    let one = |party| {
        let refresh = table.command(party, Command::Refresh);
        (party, Box::pin(refresh) as Running<'_>)
    };
    let liar = async {
        let by_hand = ByHand::new(&table, Command::Refresh.label()).await;
        by_hand.deal(&all).await;
    };
    drop(tokio::join!(table.confirm([HONEST, VICTIM].map(one).into()), liar).0);
    for party in [HONEST, VICTIM, LIAR] {
        table.again(party).await;
    }
    let reshares = table.all_confirm(Command::Reshare).await;
    let certificate = table.certificate_of_the_liar().await;
    drop(reshares);
    for party in [HONEST, VICTIM, LIAR] {
        table.again(party).await;
    }
    table.hand("s", LIAR, VICTIM, &certificate).await;
    let mut key = table.key(LIAR);
    let taken = certificate::adopt(table.of(LIAR), "k", &mut key, &certificate).await;
    assert!(taken.unwrap());
    // It is in the refresh before it learns of that.
    let victim = async {
        let session = table.of(VICTIM).session("s", PATIENCE).await.unwrap();
        let progress = QUIET.progress("refreshing");
        let desk = Desk::new(table.of(VICTIM), &session, "k", &progress, PATIENCE, QUIET);
        let asked = Asked {
            purpose: "bls refresh k".to_owned(),
            session: session.id().to_string(),
            threshold: None,
        };
        let mut key = table.key(VICTIM);
        assert_eq!(key.undecided.len(), 2);
        make(desk, &Task::Refresh, &asked, 1, &mut key)
            .await
            .map(drop)
    };
    let (honest, liar) = (
        table.command(HONEST, Command::Refresh),
        table.command(LIAR, Command::Refresh),
    );
    let ended = tokio::join!(honest, victim, liar);
    ended.0.and(ended.1).and(ended.2).unwrap();
    for party in [HONEST, VICTIM, LIAR] {
        assert_eq!(table.epoch(party), Some(2));
        assert!(!table.is_undecided(party));
    }
}

impl Table {
    async fn me(&self, party: usize) -> junto_session::PartyIndex {
        self.of(party).session("s", PATIENCE).await.unwrap().me()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_confirmed_a_run_goes_on_with_it_whichever_share_it_holds_by_now() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let certificate = table.liar_alone_gets_a_refresh(1).await;
    let all = [table.me(HONEST).await, table.me(VICTIM).await];
    let by_hand = {
        // Both have confirmed the second refresh; then their processes die.
        let one = |party| {
            (
                party,
                Box::pin(table.command(party, Command::Refresh)) as Running<'_>,
            )
        };
        let liar = async {
            let by_hand = ByHand::new(&table, "bls refresh k #2").await;
            by_hand.deal(&all).await;
            by_hand
        };
        tokio::join!(table.confirm([HONEST, VICTIM].map(one).into()), liar).1
    };
    for party in [HONEST, VICTIM] {
        table.again(party).await;
    }
    // One of them alone is shown the certificate of the first one.
    table.hand("s", LIAR, VICTIM, &certificate).await;
    table.take(VICTIM).await;
    assert_eq!(table.key(VICTIM).held.unwrap().origin.run, 1);
    // Only now the liar confirms, and all hear that from each other.
    let (honest, victim, ()) = tokio::join!(
        table.command(HONEST, Command::Refresh),
        table.command(VICTIM, Command::Refresh),
        by_hand.confirm()
    );
    honest.and(victim).unwrap();
    for party in [HONEST, VICTIM] {
        assert_eq!(table.key(party).held.unwrap().origin.run, 2);
        assert!(!table.is_undecided(party));
    }
    table.signs(b"message").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_confirmed_moves_on_and_takes_along_who_has() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let certificate = table.liar_alone_gets_a_refresh(1).await;
    let honest = [table.me(HONEST).await];
    {
        // One has confirmed; the other one has not got all shares when its process dies.
        let mut victim = Box::pin(table.command(VICTIM, Command::Refresh));
        let liar = async {
            ByHand::new(&table, "bls refresh k #2")
                .await
                .deal(&honest)
                .await
        };
        let one = |party| {
            (
                party,
                Box::pin(table.command(party, Command::Refresh)) as Running<'_>,
            )
        };
        let confirmed = table.confirm([HONEST].map(one).into());
        let (confirmed, (), ()) = tokio::join!(
            confirmed,
            liar,
            until(victim.as_mut(), || table.undecided(HONEST) == 2)
        );
        drop(confirmed);
    }
    assert_eq!(table.undecided(VICTIM), 1);
    for party in [HONEST, VICTIM] {
        table.again(party).await;
    }
    // It is shown the certificate of the first refresh, and cannot go on with the second one.
    table.hand("s", LIAR, VICTIM, &certificate).await;
    table.take(VICTIM).await;
    table.take(LIAR).await;
    let ended = tokio::join!(
        table.command(HONEST, Command::Refresh),
        table.command(VICTIM, Command::Refresh),
        table.command(LIAR, Command::Refresh)
    );
    ended.0.and(ended.1).and(ended.2).unwrap();
    // Who hears of the end before it goes on there may catch up in a run of its own.
    let run = |party| table.key(party).held.unwrap().origin.run;
    for party in [HONEST, VICTIM, LIAR] {
        assert!(run(party) > 2);
        assert_eq!(run(party), run(HONEST));
        assert_eq!(table.epoch(party), Some(2));
    }
}

/// It ends after this party has opened it, and before it has heard the deals once more: another has the
/// certificate by then, and hands it over.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_with_a_run_that_ends_at_that_moment_takes_its_certificate() {
    for opened in [true, false] {
        let mut table = Table::new().await;
        attacked_after(&mut table).await;
        let session = table.of(VICTIM).session("s", PATIENCE).await.unwrap();
        let label = Command::Refresh.label();
        let progress = QUIET.progress("refreshing");
        let mut desk = Desk::new(table.of(VICTIM), &session, "k", &progress, PATIENCE, QUIET);
        let mut key = table.key(VICTIM);
        if !opened {
            table.break_off(label).await;
        }
        let certificate = match Run::open(&mut desk, "bls refresh k", 1, &mut key).await {
            Ok(Opened::Run(run)) if opened => {
                table.break_off(label).await;
                run.go_on(&desk, &mut key).await.ok()
            }
            Ok(Opened::Certified(_, certificate)) if !opened => Some(certificate),
            Ok(_) | Err(_) => None,
        };
        assert_eq!(certificate.unwrap().setup().label(), label.as_bytes());
    }
}

/// The victim has confirmed a refresh, and died; the honest party has the share.
async fn attacked_after(table: &mut Table) {
    table.all(Command::Keygen).await;
    {
        let mut victim: Running<'_> = Box::pin(table.command(VICTIM, Command::Refresh));
        let mut liar = Box::pin(table.command(LIAR, Command::Refresh));
        let (honest, (), ()) = tokio::join!(
            table.command(HONEST, Command::Refresh),
            until(victim.as_mut(), || table.is_undecided(VICTIM)),
            until(liar.as_mut(), || table.is_undecided(LIAR)),
        );
        honest.unwrap();
    }
    table.again(VICTIM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_that_it_has_moved_on_when_others_have_confirmed_shows_why() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    table.liar_alone_gets_a_refresh(1).await;
    let all = [table.me(HONEST).await, table.me(VICTIM).await];
    let liar = async {
        let by_hand = ByHand::new(&table, "bls refresh k #2").await;
        by_hand.deal(&all).await;
        let confirmed = async {
            while [HONEST, VICTIM].iter().any(|it| table.undecided(*it) < 2) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, confirmed).await.unwrap();
        let ended = by_hand.execution.abort(MOVED_ON, Members::NONE);
        ended.await.unwrap();
    };
    let ((), ()) = tokio::join!(liar, table.refresh_names_the_liar(Exit::Misbehaved));
}

impl Table {
    /// Refreshes that all have confirmed and of which the liar alone has the certificates: what `runs` of
    /// them, each broken off at its end, leave behind.
    async fn broken_off(&self, runs: u32) -> Vec<Certificate> {
        let session = self.of(LIAR).session("s", PATIENCE).await.unwrap();
        let mut parties = BTreeMap::new();
        for party in [HONEST, VICTIM, LIAR] {
            let theirs = self.of(party).session("s", PATIENCE).await.unwrap();
            let signer = theirs.signing_key().await.unwrap();
            let key = self.key(party);
            parties.insert(theirs.me(), (party, signer, key));
        }
        let mut keys = Vec::new();
        let mut shares = Vec::new();
        for (_, signer, key) in parties.values() {
            keys.push(SigningKey::from_seed(signer.seed()));
            let share = &key.held.as_ref().unwrap().share;
            shares.push(KeyShare::decode(&share.encode()).unwrap());
        }
        let mut certificates = Vec::new();
        for number in 1..=runs {
            let label = format!("bls refresh k #{number}");
            let occasion = OwnedOccasion::new(&session, &label);
            let old = shares[0].public().clone();
            let setup = order::planned(&occasion.borrow(), &label, Some(old));
            let run = order::honest(&setup, &keys, &shares);
            for ((_, _, key), pending) in parties.values_mut().zip(&run.pending) {
                let pending = Pending::decode(pending).unwrap();
                admit(key.held.as_deref(), &mut key.undecided, pending, false).unwrap();
            }
            certificates.push(run.certificate);
        }
        for (party, _, key) in parties.values() {
            key.store(&self.of(*party).profile, "k").unwrap();
        }
        certificates
    }

    /// Signs after the liar has shown one party alone a certificate.
    async fn signs_after_showing(&self, certificate: &Certificate, to: usize, message: &[u8]) {
        self.hand("s", LIAR, to, certificate).await;
        self.take(to).await;
        self.signs(message).await;
        for party in [HONEST, VICTIM] {
            let held = self.key(party).held.unwrap();
            assert_eq!(held.certificate, *certificate);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_of_all_undecided_runs_is_asked_for() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let certificates = table.broken_off(64).await;
    for (number, to) in [(0, VICTIM), (9, HONEST), (63, VICTIM)] {
        let message = format!("message {number}");
        let certificate = &certificates[number];
        table
            .signs_after_showing(certificate, to, message.as_bytes())
            .await;
        assert_eq!(table.undecided(HONEST), 63 - number);
    }
}

impl Table {
    /// A party ends these runs as if they had come to nothing.
    async fn passes_over(&self, party: usize, runs: core::ops::RangeInclusive<u32>) {
        let session = self.of(party).session("s", PATIENCE).await.unwrap();
        for run in runs {
            let label = format!("bls refresh k #{run}");
            let execution = session.execution(&label).await.unwrap();
            execution.finish().await.unwrap();
        }
    }
}

/// It has confirmed them all, as its own share was right; others had a wrong one, and confirmed none.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_room_for_another_run_says_so_and_is_not_called_a_cheat() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    table.broken_off(64).await;
    for party in [HONEST, LIAR] {
        let mut key = table.key(party);
        key.undecided.clear();
        key.store(&table.of(party).profile, "k").unwrap();
    }
    for party in [HONEST, VICTIM, LIAR] {
        table.passes_over(party, 1..=64).await;
    }
    let ended = tokio::join!(
        table.command(HONEST, Command::Refresh),
        table.command(VICTIM, Command::Refresh),
        table.command(LIAR, Command::Refresh)
    );
    let victim = table.number(VICTIM, "s").await;
    for (failure, named) in [
        (ended.0.unwrap_err(), Some(&victim)),
        (ended.1.unwrap_err(), None),
        (ended.2.unwrap_err(), Some(&victim)),
    ] {
        assert_eq!(failure.exit, Exit::Failed, "{failure:?}");
        assert_eq!(failure.party.as_ref(), named, "{failure:?}");
        assert!(failure.help.unwrap().contains("another session"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_a_run_for_want_of_room_that_it_has_is_named() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let liar = async {
        let held = table.key(LIAR).held.unwrap();
        let label = Command::Refresh.label();
        let claim = claim(&table, LIAR, "s", label, &held).await;
        let execution = table.follow(label, claim).await;
        execution.abort(NO_ROOM, Members::NONE).await.unwrap();
    };
    tokio::join!(liar, table.refresh_names_the_liar(Exit::Failed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// However many runs were broken off one after another, and whichever of them the liar shows to one honest
    /// party alone: the two of them sign with shares of one epoch.
    #[test]
    fn honest_parties_sign_whichever_old_certificate_one_of_them_is_shown(
        runs in 10_u32..=40,
        shown in prop::collection::vec((any::<usize>(), any::<bool>()), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let table = Table::new().await;
            table.all(Command::Keygen).await;
            let certificates = table.broken_off(runs).await;
            let place = |run: usize| run % certificates.len();
            let shown: BTreeMap<_, _> = shown.iter().map(|(run, to)| (place(*run), *to)).collect();
            for (run, to) in shown {
                let to = if to { HONEST } else { VICTIM };
                let message = run.to_be_bytes();
                table.signs_after_showing(&certificates[run], to, &message).await;
            }
        });
    }
}
