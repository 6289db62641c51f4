#![allow(clippy::unwrap_used, reason = "a test's helpers")]

use std::sync::atomic::{AtomicUsize, Ordering};

use junto_vault::{GroupId, Member, Quorum, Refusal, Seconds};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    BootKey, GroupClient, Name, Simulated,
    asking::{CARD, put_maybe, put_reply},
    channel::{Question as Heard, random},
    evidence::Attestation as _,
    groups::{REDIRECTS_MAX, WAITS_MAX},
    keys::MemberTls,
    links::{EXPORTER, HELLO, LISTENS, bound},
    said::put_welcome,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn key() -> SigningKey {
    SigningKey::from_seed(&[3; 32])
}

fn id() -> RealmId {
    RealmId(*key().verifying_key().as_bytes())
}

/// A group of one that is not honest: it says of every record what it likes.
struct Liar {
    key: BootKey,
    listener: TcpListener,
    card: Card,
}

impl Liar {
    async fn new() -> Self {
        Self::of(&self::key()).await
    }

    /// Of the realm of that key.
    async fn of(realm: &SigningKey) -> Self {
        let key = BootKey::generate(&mut random());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = Member {
            id: key.id(),
            address: listener.local_addr().unwrap().to_string(),
        };
        let quorum = Quorum::new(1, 0).unwrap();
        let card = Card::sign(realm, Seconds(1), quorum, vec![member]).unwrap();
        Self {
            key,
            listener,
            card,
        }
    }

    fn address(&self) -> String {
        self.card.members()[0].address.clone()
    }

    /// It says the same always.
    async fn serve(self, says: Refusal, other: Option<Card>, asked: Arc<AtomicUsize>) {
        self.say(move |_| says, other, asked).await;
    }

    /// What it says depends on how often it was asked before.
    async fn say(
        self,
        says: impl Fn(usize) -> Refusal + Copy + Send + 'static,
        other: Option<Card>,
        asked: Arc<AtomicUsize>,
    ) {
        let tls = MemberTls::new(&self.key, &[Name::from(self.key.id())]).unwrap();
        let acceptor = TlsAcceptor::from(tls.clients);
        let mut tasks = JoinSet::new();
        loop {
            let (tcp, _) = self.listener.accept().await.unwrap();
            let mut stream = acceptor.accept(tcp).await.unwrap();
            let (card, other, asked) = (self.card.to_bytes(), other.clone(), asked.clone());
            tasks.spawn(async move {
                while let Ok(heard) = Heard::read(&mut stream, 64 * 1024).await {
                    let said = match heard.kind() {
                        HELLO => {
                            let (_, connection) = stream.get_ref();
                            let exported =
                                connection.export_keying_material([0; 32], EXPORTER, None);
                            let bound = bound(&exported.unwrap(), LISTENS, &card);
                            let shown = Simulated.prove(&bound).unwrap();
                            put_welcome(Seconds(7), &card, &shown)
                        }
                        CARD => {
                            let card = other.as_ref().map(Card::to_bytes);
                            put_reply(Ok(put_maybe(card.as_deref())))
                        }
                        _ => {
                            let says = says(asked.fetch_add(1, Ordering::Relaxed));
                            put_reply(Ok(Answer::Refused(says).to_bytes(Class::View)))
                        }
                    };
                    if heard.answer(&mut stream, &said).await.is_err() {
                        return;
                    }
                }
            });
        }
    }
}

fn client(address: &str) -> RealmClient {
    client_of(vec![address.to_owned()])
}

fn client_of(addresses: Vec<String>) -> RealmClient {
    let access = Access {
        account: Account::new("junto", "ada").unwrap(),
        tenant: SigningKey::from_seed(&[5; 32]),
    };
    let accepted = Accepted { simulated: true };
    RealmClient::new(id(), addresses, accepted, Arc::new(access)).unwrap()
}

/// Two groups that send their clients to each other keep nobody for ever; nor do they get asked without end.
#[tokio::test]
async fn groups_that_point_at_each_other_end_in_an_error() {
    let (one, other) = (Liar::new().await, Liar::new().await);
    let asked = Arc::new(AtomicUsize::new(0));
    let (first, second) = (one.card.clone(), other.card.clone());
    let to = |card: &Card| Refusal::Elsewhere(Some(card.group()));
    let client = client(&first.members()[0].address);
    let mut serving = JoinSet::new();
    serving.spawn(one.serve(to(&second), Some(second.clone()), asked.clone()));
    serving.spawn(other.serve(to(&first), Some(first), asked.clone()));
    let said = client.ask(&Operation::View, PATIENCE).await;
    assert!(matches!(said, Err(ClientError::Absent(_))));
    assert_eq!(asked.load(Ordering::Relaxed), REDIRECTS_MAX);
}

/// A group that has not got the card of the one that it names, or shows another one's, leads nowhere; a client that waits for what
/// moves waits as long as it was told to, and does not ask without a pause.
#[tokio::test]
async fn who_is_sent_nowhere_or_told_to_wait_waits_no_longer_than_it_wants_to() {
    let patience = Duration::from_millis(800);
    let stranger = Liar::new().await.card;
    let named = Refusal::Elsewhere(Some(GroupId([7; 32])));
    for (says, card) in [
        (Refusal::Moving, None),
        (Refusal::Elsewhere(None), None),
        (named, None),
        (named, Some(stranger)),
    ] {
        let liar = Liar::new().await;
        let client = client(&liar.card.members()[0].address);
        let asked = Arc::new(AtomicUsize::new(0));
        let mut serving = JoinSet::new();
        serving.spawn(liar.serve(says, card, asked.clone()));
        let said = client.ask(&Operation::View, patience).await;
        assert!(
            matches!(said, Err(ClientError::Absent(_) | ClientError::Nonsense)),
            "{says:?}"
        );
        let asked = asked.load(Ordering::Relaxed);
        assert!((1..=REDIRECTS_MAX).contains(&asked), "{says:?}: {asked}");
    }
}

/// A group that does not know whose a record is, or waits for it in vain, does not keep clients from the one that has it.
#[tokio::test]
async fn a_group_that_cannot_help_does_not_hide_the_one_that_can() {
    for says in [Refusal::Elsewhere(None), Refusal::Moving] {
        let (new, old) = (Liar::new().await, Liar::new().await);
        let client = client_of(vec![new.address(), old.address()]);
        let asked = Arc::new(AtomicUsize::new(0));
        let mut serving = JoinSet::new();
        serving.spawn(new.serve(says, None, asked.clone()));
        serving.spawn(old.serve(Refusal::Full, None, Arc::default()));
        let said = client.ask(&Operation::View, PATIENCE).await;
        assert!(
            matches!(said, Ok(Answer::Refused(Refusal::Full))),
            "{says:?}: {:?}",
            said.err()
        );
        let asked = asked.load(Ordering::Relaxed);
        assert!((1..=WAITS_MAX).contains(&asked), "{says:?}: {asked}");
    }
}

/// A group that is away is waited for as long as its client wants to, however often others send it there meanwhile.
#[tokio::test]
async fn a_group_that_is_away_is_waited_for() {
    let (old, away) = (Liar::new().await, Liar::new().await.card);
    let client = client(&old.address());
    let asked = Arc::new(AtomicUsize::new(0));
    let group = away.group();
    let says = move |before| match before <= REDIRECTS_MAX {
        true => Refusal::Elsewhere(Some(group)),
        false => Refusal::Full,
    };
    let mut serving = JoinSet::new();
    serving.spawn(old.say(says, Some(away), asked.clone()));
    let said = client.ask(&Operation::View, PATIENCE).await;
    assert!(
        matches!(said, Ok(Answer::Refused(Refusal::Full))),
        "{:?}",
        said.err()
    );
    assert_eq!(asked.load(Ordering::Relaxed), REDIRECTS_MAX + 2);
}

/// A group that is away for a moment is waited for by who carries orders, too.
#[tokio::test]
async fn a_card_is_waited_for() {
    let liar = Liar::new().await;
    let card = liar.card.clone();
    let reached = GroupClient::new(id(), vec![liar.address()]).unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        // Twice there is nobody who would say anything.
        for _ in 0..2 {
            drop(liar.listener.accept().await.unwrap());
        }
        liar.serve(Refusal::Full, None, Arc::default()).await;
    });
    assert_eq!(reached.card(PATIENCE).await.unwrap(), card);
}

/// Anybody can sign a card: one of another realm leads nobody to its addresses.
#[tokio::test]
async fn a_card_of_another_realm_leads_nowhere() {
    let (liar, other) = (
        Liar::new().await,
        Liar::of(&SigningKey::from_seed(&[4; 32])).await,
    );
    let client = client(&liar.address());
    let named = Refusal::Elsewhere(Some(other.card.group()));
    let mut serving = JoinSet::new();
    serving.spawn(liar.serve(named, Some(other.card.clone()), Arc::default()));
    let said = client
        .ask(&Operation::View, Duration::from_millis(800))
        .await;
    assert!(said.is_err());
    let dialled = timeout(Duration::from_millis(50), other.listener.accept()).await;
    assert!(dialled.is_err(), "a client dialled another realm's machine");
}
