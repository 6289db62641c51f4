//! Resharing a key into another session, with somebody there who does not want it to succeed.

use super::*;

/// The label of the first reshare into a session.
const RESHARE: &str = "bls reshare k #0";

impl Table {
    /// A key in `s`, and all its parties with a newcomer in another session.
    async fn with_another_session() -> Self {
        let table = Table::new().await;
        table.all(Command::Keygen).await;
        table.meet("t", &[HONEST, VICTIM, LIAR, NEWCOMER]).await;
        table
    }

    /// Everybody confirms a reshare into `t`, the liar gets all confirmations, and breaks it off.
    async fn liar_alone_gets_the_reshare(&self) -> Certificate {
        let one = |party| {
            (
                party,
                Box::pin(self.reshare(party, into(Some("t")))) as Running<'_>,
            )
        };
        let ways = [HONEST, VICTIM, NEWCOMER, LIAR].map(one);
        let ways = self.confirm(ways.into()).await;
        let certificate = self.certificate_of_the_liar().await;
        drop(ways);
        self.break_off_in("t", RESHARE, &[HONEST, VICTIM, NEWCOMER])
            .await;
        certificate
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_have_left_signs_and_is_not_refreshed_until_that_is_decided() {
    let mut table = Table::with_another_session().await;
    let certificate = table.liar_alone_gets_the_reshare().await;
    for party in [HONEST, VICTIM] {
        table.again(party).await;
        let failure = table.command(party, Command::Refresh).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Refused, "{failure:?}");
        assert!(failure.message.contains(RESHARE), "{failure:?}");
        assert!(failure.help.unwrap().contains("--abandon-pending"));
        // Nor is it reshared among the old parties, whatever its user gives up.
        let back = Reshare {
            abandon: true,
            ..into(Some("s"))
        };
        let failure = table.reshare(party, back).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Refused, "{failure:?}");
    }
    table.signs(b"before").await;
    // The liar thinks better of it: the same command completes the reshare.
    let (liar, mut key) = (table.of(LIAR), table.key(LIAR));
    let adopted = certificate::adopt(liar, "k", &mut key, &certificate).await;
    assert!(adopted.unwrap());
    let session = table.of(LIAR).session("t", PATIENCE).await.unwrap();
    table.arrived("t", &[HONEST, VICTIM, NEWCOMER]).await;
    let reshared = table.reshare(NEWCOMER, into(Some("t"))).await;
    reshared.unwrap();
    assert_eq!(table.epoch(NEWCOMER), Some(1));
    // The others find the certificate when they refresh, and do that where the key is now.
    let one = |party: usize| table.command(party, Command::Refresh);
    let ended = tokio::join!(one(HONEST), one(VICTIM), one(LIAR), one(NEWCOMER));
    ended.0.and(ended.1).and(ended.2).and(ended.3).unwrap();
    let t = session.id().to_string();
    for party in [HONEST, VICTIM, LIAR, NEWCOMER] {
        assert!(!table.is_undecided(party));
        assert_eq!(table.epoch(party), Some(2));
        assert_eq!(table.key(party).held.unwrap().origin.session, t);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_keeps_the_others_from_taking_the_key_elsewhere() {
    let mut table = Table::with_another_session().await;
    let certificate = table.liar_alone_gets_the_reshare().await;
    for party in [HONEST, VICTIM, NEWCOMER] {
        table.again(party).await;
    }
    table.meet("v", &[HONEST, VICTIM, NEWCOMER]).await;
    let wanted = |abandon| Reshare {
        abandon,
        ..into(Some("v"))
    };
    for party in [HONEST, VICTIM, NEWCOMER] {
        let failure = table.reshare(party, wanted(false)).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Refused, "{failure:?}");
    }
    let one = |party: usize| table.reshare(party, wanted(true));
    // All die when they have confirmed the way out.
    let ways = [HONEST, VICTIM, NEWCOMER].map(|party| (party, Box::pin(one(party)) as Running<'_>));
    drop(table.confirm(ways.into()).await);
    // Now the liar shows the certificate, to one of them.
    table.hand("t", LIAR, VICTIM, &certificate).await;
    for party in [HONEST, VICTIM, NEWCOMER] {
        table.again(party).await;
    }
    let ended = tokio::join!(
        table.reshare(HONEST, wanted(false)),
        table.reshare(VICTIM, wanted(false)),
        table.reshare(NEWCOMER, wanted(false))
    );
    ended.0.and(ended.1).and(ended.2).unwrap();
    let v = table.of(HONEST).session("v", PATIENCE).await.unwrap().id();
    let shares = [HONEST, VICTIM, NEWCOMER].map(|party| table.key(party).held.unwrap());
    for held in &shares {
        assert_eq!(held.origin.session, v.to_string());
        assert_eq!(held.share.public(), shares[0].share.public());
    }
    let message = b"without the liar";
    let signed = tokio::join!(
        table.sign(HONEST, message, PATIENCE),
        table.sign(VICTIM, message, PATIENCE),
        table.sign(NEWCOMER, message, PATIENCE),
    );
    signed.0.and(signed.1).and(signed.2).unwrap();
}

/// The victim's process dies again and again during a reshare, each time a little later.
#[tokio::test(flavor = "multi_thread")]
async fn a_party_may_die_at_any_point_of_a_reshare() {
    let mut table = Table::with_another_session().await;
    let home = table.of(VICTIM).session("s", PATIENCE).await.unwrap().id();
    let public_key = table.key(VICTIM).public_key();
    let others: Vec<_> = [HONEST, LIAR, NEWCOMER]
        .into_iter()
        .map(|party| {
            let junto = table.parties[party].take().unwrap();
            tokio::spawn(async move {
                let wanted = Reshare {
                    public_key,
                    ..into(Some("t"))
                };
                renew::reshare(&junto, "k", wanted, PATIENCE, QUIET)
                    .await
                    .unwrap();
                (party, junto)
            })
        })
        .collect();
    let mut deaths = 0;
    let mut before = false;
    loop {
        let mut left = deaths;
        let mut victim = Box::pin(table.reshare(VICTIM, into(Some("t"))));
        let ended = poll_fn(|context| match victim.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        });
        let ended = ended.await;
        drop(victim);
        if let Some(result) = ended {
            result.unwrap();
            break;
        }
        deaths += 1;
        table.again(VICTIM).await;
        let key = table.key(VICTIM);
        // From its vote on, and not before, it refreshes the key no more in the old session.
        let voted = !key.undecided.is_empty() || table.epoch(VICTIM) == Some(1);
        assert!(voted || !before, "what it has confirmed is gone");
        let stays = key.standing().meets_in(&home.to_string(), false).is_ok();
        assert_eq!(stays, key.undecided.is_empty());
        before = voted;
        if table.epoch(VICTIM) == Some(1) {
            break; // the same command again would be another reshare
        }
    }
    for other in others {
        let (party, junto) = other.await.unwrap();
        table.parties[party] = Some(junto);
    }
    assert!(deaths > 3, "it died {deaths} times");
    for party in [HONEST, VICTIM, LIAR, NEWCOMER] {
        assert_eq!(table.epoch(party), Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_no_share_says_which_key_it_means() {
    let table = Table::with_another_session().await;
    let nobody = renew::reshare(table.of(NEWCOMER), "k", into(Some("t")), PATIENCE, QUIET).await;
    let failure = nobody.unwrap_err();
    assert_eq!(failure.exit, Exit::Usage, "{failure:?}");
    assert!(failure.message.contains("--public-key"), "{failure:?}");
    // It means another one than all the others, who are in the majority: it does not take theirs.
    table.meet("u", &[LIAR, NEWCOMER]).await;
    let own = |party: usize| keygen::keygen(table.of(party), "u", "own", 2, PATIENCE, QUIET);
    let made = tokio::join!(own(LIAR), own(NEWCOMER));
    made.0.and(made.1).unwrap();
    let other = KeyFile::load(&table.of(NEWCOMER).profile, "own").unwrap();
    let wanted = Reshare {
        public_key: other.public_key(),
        ..into(Some("t"))
    };
    let number = table.number(NEWCOMER, "t").await;
    let one = |party: usize| table.reshare(party, into(Some("t")));
    let ended = tokio::join!(
        renew::reshare(table.of(NEWCOMER), "k", wanted, PATIENCE, QUIET),
        one(HONEST),
        one(VICTIM),
        one(LIAR)
    );
    let failure = ended.0.unwrap_err();
    assert_eq!(failure.exit, Exit::Refused, "{failure:?}");
    assert!(!table.is_undecided(NEWCOMER));
    for failure in [
        ended.1.unwrap_err(),
        ended.2.unwrap_err(),
        ended.3.unwrap_err(),
    ] {
        assert_eq!(failure.exit, Exit::Refused, "{failure:?}");
        assert_eq!(failure.party.as_ref(), Some(&number), "{failure:?}");
    }
}
