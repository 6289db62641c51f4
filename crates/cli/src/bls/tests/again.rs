//! Commands that are run again: by a newer version, for something else, or when what they are for is done.

use junto_bls::Pending;

use super::*;

/// The same as versions stored it that did not keep this party's deal.
fn without_deal(pending: &Pending) -> Pending {
    let bytes = pending.encode();
    let variable = |at: usize| {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        at + 4 + usize::try_from(length).unwrap()
    };
    let deal = variable(variable(1) + 32);
    let rest = variable(deal + 3);
    let old = [&[1], &bytes[1..deal], &bytes[rest..]].concat();
    let pending = Pending::decode(&old).unwrap();
    assert_eq!(*pending.encode(), old);
    pending
}

impl Table {
    /// What an earlier version left behind.
    async fn came_from_an_earlier_version(&mut self, party: usize) {
        let mut key = self.key(party);
        for run in &mut key.undecided {
            run.pending = without_deal(&run.pending);
            assert!(!run.pending.can_resume());
        }
        key.store(&self.of(party).profile, "k").unwrap();
        self.again(party).await;
    }

    /// All have a share of that run.
    fn all_have(&self, label: &str) {
        for party in [HONEST, VICTIM, LIAR] {
            assert_eq!(self.key(party).held.unwrap().origin.label, label);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_confirmed_is_read_and_comes_to_its_end() {
    for command in [Command::Keygen, Command::Refresh] {
        let mut table = Table::new().await;
        if matches!(command, Command::Refresh) {
            table.all(Command::Keygen).await;
        }
        drop(table.all_confirm(command).await);
        for party in [HONEST, VICTIM, LIAR] {
            table.came_from_an_earlier_version(party).await;
        }
        table.all(command).await;
        table.all_have(command.label());
        table.signs(b"message").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_confirmed_takes_its_certificate() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let certificate = table.liar_alone_gets_a_refresh(1).await;
    table.came_from_an_earlier_version(VICTIM).await;
    table.signs(b"before").await;
    table.hand("s", LIAR, VICTIM, &certificate).await;
    table.take(VICTIM).await;
    assert_eq!(table.epoch(VICTIM), Some(1));
    table.signs(b"after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reshare_for_another_threshold_does_not_end_with_that_of_before() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    // All confirm that three must sign, and nobody knows what became of it.
    drop(table.all_confirm(Command::Reshare).await);
    for party in [HONEST, VICTIM, LIAR] {
        table.again(party).await;
    }
    let two = |party| {
        let wanted = Reshare {
            threshold: 2,
            ..into(None)
        };
        table.reshare(party, wanted)
    };
    let ended = tokio::join!(two(HONEST), two(VICTIM), two(LIAR));
    ended.0.and(ended.1).and(ended.2).unwrap();
    for party in [HONEST, VICTIM, LIAR] {
        let held = table.key(party).held.unwrap();
        assert_eq!(held.share.public().threshold().required(), 2);
    }
    table.signs(b"message").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_interrupted_goes_along_in_a_later_run_that_it_knows_of() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    drop(table.all_confirm(Command::Refresh).await);
    for party in [HONEST, VICTIM, LIAR] {
        table.again(party).await;
    }
    {
        let mut victim = Box::pin(table.command(VICTIM, Command::Refresh));
        let (honest, liar, ()) = tokio::join!(
            table.command(HONEST, Command::Refresh),
            table.command(LIAR, Command::Refresh),
            until(victim.as_mut(), || table.epoch(VICTIM) == Some(1)),
        );
        honest.and(liar).unwrap();
    }
    table.again(VICTIM).await;
    // It died once more, in the next run.
    let session = table.of(VICTIM).session("s", PATIENCE).await.unwrap();
    drop(session.execution("bls refresh k #2").await.unwrap());
    table.all(Command::Refresh).await;
    table.all_have("bls refresh k #2");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_confirmed_a_run_goes_on_with_it_after_it_has_confirmed_to_leave() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    drop(table.all_confirm(Command::Refresh).await);
    for party in [HONEST, VICTIM, LIAR] {
        table.again(party).await;
    }
    table.meet("t", &[HONEST, VICTIM, LIAR]).await;
    let leave = |party| {
        let wanted = table.reshare(party, into(Some("t")));
        (party, Box::pin(wanted) as Running<'_>)
    };
    drop(
        table
            .confirm([HONEST, VICTIM, LIAR].map(leave).into())
            .await,
    );
    for party in [HONEST, VICTIM, LIAR] {
        table.again(party).await;
    }
    table.all(Command::Refresh).await;
    table.all_have(Command::Refresh.label());
    for party in [HONEST, VICTIM, LIAR] {
        assert_eq!(table.undecided(party), 1, "the way out is forgotten");
        let failure = table.command(party, Command::Refresh).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Refused, "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_of_a_file_tells_the_public_key() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let junto = table.of(HONEST);
    let held = table.key(HONEST).held.unwrap();
    let public_key = hex::encode(held.share.public().public_key().to_bytes());
    let telling = certificate::handed_file(&public_key);
    junto.profile.write_sealed(&telling, b"of before").unwrap();
    certificate::hand_out(junto, "k", &held.certificate).await;
    let files = std::fs::read_dir(junto.profile.dir().join("bls")).unwrap();
    let mut names: Vec<_> = files
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["k.handed", "k.key"]);
}
