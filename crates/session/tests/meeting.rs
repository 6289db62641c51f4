//! Sessions over the carrier in memory, through the public interface.

mod table;

use std::time::Duration;

use junto_session::{
    Kind, PartyIndex,
    carrier::memory::{Hub, Unkindness},
};
use table::{PATIENCE, Table};

#[tokio::test]
async fn three_strangers_meet_and_agree() {
    let table = Table::of(3, &Hub::new()).await;
    let codes: Vec<_> = table.sessions.iter().map(|s| s.safety_code()).collect();
    assert!(codes.iter().all(|code| *code == codes[0]));
    assert!(
        table
            .sessions
            .iter()
            .all(|s| s.id() == table.sessions[0].id())
    );
    let mut ranks: Vec<_> = table.sessions.iter().map(|s| s.me().as_usize()).collect();
    ranks.sort_unstable();
    assert_eq!(ranks, [0, 1, 2]);
    assert_eq!(
        table.sessions[0].roster_signatures().await.unwrap().len(),
        3
    );
}

#[tokio::test]
async fn two_and_seven_can_meet() {
    Table::of(2, &Hub::new()).await;
    let unkind = Unkindness {
        repeat_every: 3,
        delay_max: Duration::from_millis(2),
    };
    Table::of(7, &Hub::with(2000, unkind)).await;
}

#[tokio::test]
async fn everybody_gathers_the_same_broadcasts_and_its_own_letters() {
    let unkind = Unkindness {
        repeat_every: 2,
        delay_max: Duration::from_millis(2),
    };
    let table = Table::of(4, &Hub::with(1500, unkind)).await;
    let runs = table.sessions.iter().map(|session| async move {
        let run = session.execution("demo").await.unwrap();
        let me = session.me();
        for round in 0..3u32 {
            run.broadcast(round, vec![me.as_usize() as u8; 100])
                .await
                .unwrap();
            for to in run.others().iter() {
                run.send(round, to, format!("{me}->{to} in {round}"))
                    .await
                    .unwrap();
            }
            let all = run.gather(round, Kind::Broadcast, PATIENCE).await.unwrap();
            assert_eq!(all.len(), 4);
            for (party, payload) in &all {
                assert_eq!(payload[..], vec![party.as_usize() as u8; 100]);
            }
            let mine = run.gather(round, Kind::P2p, PATIENCE).await.unwrap();
            assert_eq!(mine.len(), 3);
            for (from, payload) in mine {
                assert_eq!(payload, format!("{from}->{me} in {round}"));
            }
        }
        run.finish_confirmed(PATIENCE).await.unwrap()
    });
    let transcripts = futures::future::join_all(runs).await;
    assert!(transcripts.iter().all(|t| *t == transcripts[0]));
    for session in &table.sessions {
        assert!(matches!(
            session.execution("demo").await,
            Err(junto_session::SessionError::Misuse(
                junto_session::Misuse::Finished
            ))
        ));
    }
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let table = Table::of(2, &Hub::new()).await;
    let payload: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let sender = table.sessions[0].execution("large").await.unwrap();
    let receiver = table.sessions[1].execution("large").await.unwrap();
    sender
        .send(0, table.sessions[1].me(), payload.clone())
        .await
        .unwrap();
    let got = receiver.gather(0, Kind::P2p, PATIENCE).await.unwrap();
    assert_eq!(got[&table.sessions[0].me()], payload);
}

#[tokio::test]
async fn the_silent_are_named() {
    let table = Table::of(3, &Hub::new()).await;
    let silent = table.sessions[2].me();
    let runs = table.sessions[..2].iter().map(|session| async move {
        let run = session.execution("silence").await.unwrap();
        let others = run.others().without(silent);
        for to in others.iter() {
            run.send(0, to, vec![1]).await.unwrap();
        }
        // Whoever speaks has spoken before anybody's patience is over.
        let spoken = run.gather_from(0, Kind::P2p, others, PATIENCE);
        spoken.await.unwrap();
        run.gather(0, Kind::P2p, Duration::from_millis(100))
            .await
            .unwrap_err()
    });
    for error in futures::future::join_all(runs).await {
        assert_eq!(
            error.blamed().iter().collect::<Vec<_>>(),
            [silent],
            "{error}"
        );
        assert!(error.is_silence());
    }
    // The silent one comes back and learns that it is over.
    let late = table.sessions[2].execution("silence").await;
    let error = match late {
        Ok(run) => run.gather(0, Kind::P2p, PATIENCE).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(!error.blamed().is_empty(), "{error}");
}

#[tokio::test]
async fn an_abort_reaches_everybody() {
    let table = Table::of(3, &Hub::new()).await;
    let runs = futures::future::join_all(table.sessions.iter().map(|s| s.execution("x"))).await;
    let mut runs: Vec<_> = runs.into_iter().map(Result::unwrap).collect();
    let quitter = runs.remove(0);
    let who = quitter.me();
    quitter
        .abort("no more", junto_session::Members::NONE)
        .await
        .unwrap();
    for run in runs {
        let error = run.gather(0, Kind::P2p, PATIENCE).await.unwrap_err();
        assert_eq!(error.blamed().iter().collect::<Vec<_>>(), [who], "{error}");
        assert!(error.to_string().contains("no more"), "{error}");
    }
}

#[tokio::test]
async fn channels_carry_messages_in_order() {
    let table = Table::of(2, &Hub::new()).await;
    let a = table.sessions[0].channel("chat").await.unwrap();
    let b = table.sessions[1].channel("chat").await.unwrap();
    for n in 0..100u8 {
        a.feed(table.sessions[1].me(), vec![n]).await.unwrap();
    }
    for n in 0..100u8 {
        let message = b.next().await.unwrap();
        assert_eq!(message.payload[..], [n]);
        b.done(message.receipt).await.unwrap();
    }
    let (flushed, _) = tokio::join!(
        table.sessions[0].flush(PATIENCE),
        table.sessions[1].flush(PATIENCE)
    );
    assert!(flushed.unwrap());
}

#[tokio::test]
async fn subsets_run_by_themselves() {
    let table = Table::of(4, &Hub::new()).await;
    let members: junto_session::Members =
        [0, 2, 3].into_iter().filter_map(PartyIndex::new).collect();
    let runs = table
        .by_rank()
        .into_iter()
        .filter(|s| members.contains(s.me()))
        .map(|session| async move {
            let run = session
                .execution_as(junto_session::Purpose {
                    label: "some".to_owned(),
                    members,
                    mode: junto_session::Mode::Rounds,
                })
                .await
                .unwrap();
            run.broadcast(0, vec![7]).await.unwrap();
            assert_eq!(
                run.gather(0, Kind::Broadcast, PATIENCE)
                    .await
                    .unwrap()
                    .len(),
                3
            );
        });
    futures::future::join_all(runs).await;
}

#[tokio::test]
async fn an_execution_that_nobody_takes_is_closed_without_a_word() {
    let hub = Hub::new();
    let mut table = Table::of(3, &hub).await;
    let labels = async |session: &junto_session::Session| {
        let open = session.open_executions().await.unwrap();
        open.into_iter().map(|it| it.label).collect::<Vec<_>>()
    };
    // Far more than the 1,024 that may be open at once.
    for number in 0..1_100 {
        let run = table.sessions[0].execution(&format!("{number}")).await;
        run.unwrap().finish().await.unwrap();
    }
    assert!(labels(&table.sessions[0]).await.is_empty());
    drop(table.sessions[0].execution("left over").await.unwrap());
    let again = table.reopen(0, &hub).await;
    assert_eq!(labels(&again).await, ["left over"]);
    for purpose in again.open_executions().await.unwrap() {
        let run = again.execution_as(purpose).await.unwrap();
        run.finish().await.unwrap();
    }
    assert!(labels(&again).await.is_empty());
    assert!(matches!(
        again.execution("left over").await,
        Err(junto_session::SessionError::Misuse(
            junto_session::Misuse::Finished
        ))
    ));
    // Nobody heard of it.
    let run = table.sessions[1].execution("left over").await.unwrap();
    run.send(0, table.sessions[2].me(), vec![1]).await.unwrap();
    let other = table.sessions[2].execution("left over").await.unwrap();
    let from = junto_session::Members::NONE.with(table.sessions[1].me());
    let got = other.gather_from(0, Kind::P2p, from, PATIENCE).await;
    assert_eq!(got.unwrap().len(), 1);
}

#[tokio::test]
async fn a_whole_id_means_its_session_whatever_others_are_called() {
    let table = Table::of(2, &Hub::new()).await;
    let sessions = &table.homes[1].sessions;
    let id = table.sessions[1].id().to_string();
    // A host of another session names it like this one.
    for name in [&id[..], &id[..8]] {
        let params = junto_session::Params {
            name: name.to_owned(),
            ..table::params(2)
        };
        let host = &table.homes[0].sessions;
        let made = host.new_session(params, table::persona("host"), PATIENCE);
        let (_, link) = made.await.unwrap();
        sessions.join(link, table::persona("joiner")).await.unwrap();
    }
    assert_eq!(sessions.find(&id).await.unwrap().name, "test");
    assert!(matches!(
        sessions.find(&id[..8]).await,
        Err(junto_session::SessionError::Misuse(
            junto_session::Misuse::Ambiguous
        ))
    ));
    assert_eq!(sessions.find(&id[..9]).await.unwrap().name, "test");
    for summary in sessions.list().await.unwrap() {
        let found = sessions.find(&summary.local.to_string()).await.unwrap();
        assert_eq!(found.name, summary.name);
    }
}

#[tokio::test]
async fn a_late_joiner_is_refused_politely() {
    let hub = Hub::new();
    let mut table = Table::prepared(2, &hub).await;
    let late = table.latecomer(&hub, "late").await;
    let error = late.formed(PATIENCE).await.unwrap_err();
    // Refused in words while the address is open; by the closed address afterwards.
    assert!(
        matches!(
            error,
            junto_session::SessionError::Refused(_) | junto_session::SessionError::Peer(_)
        ),
        "{error}"
    );
}

#[tokio::test]
async fn closing_tells_the_others() {
    let table = Table::of(2, &Hub::new()).await;
    let run = table.sessions[1].execution("x").await.unwrap();
    table.homes[0].sessions.close("test").await.unwrap();
    let error = run.gather(0, Kind::P2p, PATIENCE).await.unwrap_err();
    assert_eq!(error.blamed().len(), 1, "{error}");
}

#[tokio::test]
async fn sessions_resume_after_reopening() {
    let hub = Hub::new();
    let mut table = Table::of(3, &hub).await;
    let code = table.sessions[0].safety_code();
    let run = table.sessions[0].execution("resumed").await.unwrap();
    let seed = *run.seed();
    run.broadcast(0, vec![1, 2, 3]).await.unwrap();
    drop(run);
    let again = table.reopen(0, &hub).await;
    assert_eq!(again.safety_code(), code);
    let run = again.execution("resumed").await.unwrap();
    assert_eq!(*run.seed(), seed);
    let other = run.broadcast(0, vec![9]).await.unwrap_err();
    assert!(matches!(
        other,
        junto_session::SessionError::Misuse(junto_session::Misuse::DifferentBytes(_))
    ));
    run.broadcast(0, vec![1, 2, 3]).await.unwrap();
    let others = table.sessions[1..].iter().map(|session| async move {
        let run = session.execution("resumed").await.unwrap();
        run.broadcast(0, vec![4]).await.unwrap();
        run.gather(0, Kind::Broadcast, PATIENCE).await.unwrap()
    });
    let (mine, theirs) = tokio::join!(
        run.gather(0, Kind::Broadcast, PATIENCE),
        futures::future::join_all(others)
    );
    let mine = mine.unwrap();
    assert_eq!(mine.len(), 3);
    assert!(theirs.iter().all(|all| *all == mine));
}

#[tokio::test]
async fn messages_have_a_limit() {
    let table = Table::of(2, &Hub::new()).await;
    let run = table.sessions[0].execution("limit").await.unwrap();
    let to = table.sessions[1].me();
    let longest = 16 * 1024 * 1024;
    let error = run.send(0, to, vec![0; longest + 1]).await.unwrap_err();
    assert!(matches!(
        error,
        junto_session::SessionError::Misuse(junto_session::Misuse::TooLong)
    ));
    run.send(0, to, vec![5; longest]).await.unwrap();
    let other = table.sessions[1].execution("limit").await.unwrap();
    let got = other.gather(0, Kind::P2p, PATIENCE).await.unwrap();
    assert_eq!(got[&table.sessions[0].me()].len(), longest);
}
