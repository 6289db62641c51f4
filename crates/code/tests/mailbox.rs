//! Codes through a relay over real TLS.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

use core::num::NonZeroU8;
use core::time::Duration;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use junto_agent::client::ClientOptions;
use junto_code::mailbox::{LIFE, Mailbox, MailboxError, Place, Told, redeem};
use junto_code::{Code, Refusal, Turned};
use junto_relay::{Relay, RelayConfig, RunningRelay};
use junto_smp::address::ServerAddress;
use junto_tls::ServerIdentity;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rustls::pki_types::UnixTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const LINK: &str = "junto:the-link";

async fn relay() -> RunningRelay {
    relay_made(UnixTime::now()).await
}

/// Relays of one moment have one identity.
async fn relay_made(now: UnixTime) -> RunningRelay {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let identity = ServerIdentity::ephemeral("localhost", &mut rng, now).unwrap();
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
    Relay::start(config, identity).await.unwrap()
}

fn place(relay: &ServerAddress) -> Place {
    Place {
        relay: relay.clone(),
        options: ClientOptions::default(),
        password: None,
    }
}

fn uses(number: u8) -> NonZeroU8 {
    NonZeroU8::new(number).unwrap()
}

/// The same number with other words.
fn guess(code: &Code) -> Code {
    let text = code.text();
    let number = text.split('-').next().unwrap();
    let wrong =
        ["crossover-clockwork", "chambermaid-choking"].map(|words| format!("{number}-{words}"));
    let wrong = wrong.iter().find(|wrong| **wrong != *text).unwrap();
    wrong.parse().unwrap()
}

fn copy(code: &Code) -> Code {
    code.text().parse().unwrap()
}

/// What `other` comes to, while the host serves the link to so many.
async fn while_served<T>(
    host: &mut Mailbox,
    number: u8,
    told: &mut Vec<Told>,
    other: impl Future<Output = T>,
) -> T {
    tokio::select! {
        error = Box::pin(host.serve(LINK, uses(number), |it| told.push(it))) => panic!("{error}"),
        value = Box::pin(other) => value,
    }
}

#[tokio::test]
async fn two_joiners_at_once_get_the_link_and_then_the_code_is_used_up() {
    let relay = relay().await;
    let place = place(&relay.address());
    let mut host = Mailbox::open(self::place(&relay.address()), LIFE)
        .await
        .unwrap();
    let code = copy(host.code());
    let mut told = Vec::new();
    let all = async {
        let (first, second) =
            tokio::join!(redeem(&place, &code, |_| ()), redeem(&place, &code, |_| ()));
        assert_eq!(
            (first.unwrap().as_str(), second.unwrap().as_str()),
            (LINK, LINK)
        );
        // While the host is there, it says why.
        let late = redeem(&place, &code, |_| ()).await.unwrap_err();
        let spent = Turned::Refused(Refusal::Spent);
        assert!(
            matches!(late, MailboxError::Turned(told) if told == spent),
            "{late:?}"
        );
    };
    Box::pin(while_served(&mut host, 2, &mut told, all)).await;
    assert_eq!(
        told,
        [Told::Admitted { left: 1 }, Told::Admitted { left: 0 }]
    );
    host.close().await;
    let late = redeem(&place, &code, |_| ()).await.unwrap_err();
    assert!(matches!(late, MailboxError::NoMailbox), "{late:?}");
}

#[tokio::test]
async fn a_wrong_code_fails_both_sides_and_the_right_one_is_dead_afterwards() {
    let relay = relay().await;
    let place = place(&relay.address());
    let mut host = Mailbox::open(self::place(&relay.address()), LIFE)
        .await
        .unwrap();
    let code = copy(host.code());
    let wrong = guess(&code);
    let (served, guessed) = tokio::join!(
        host.serve(LINK, uses(3), |told| assert_eq!(told, Told::Wrong)),
        redeem(&place, &wrong, |_| ())
    );
    assert!(matches!(served, MailboxError::Wrong));
    let guessed = guessed.unwrap_err();
    let wrong = Turned::Refused(Refusal::Wrong);
    assert!(
        matches!(guessed, MailboxError::Turned(told) if told == wrong),
        "{guessed:?}"
    );
    host.close().await;
    let friend = redeem(&place, &code, |_| ()).await.unwrap_err();
    assert!(matches!(friend, MailboxError::NoMailbox), "{friend:?}");
}

#[tokio::test]
async fn a_code_expires() {
    let relay = relay().await;
    let place = place(&relay.address());
    let life = Duration::from_millis(200);
    let mut host = Mailbox::open(self::place(&relay.address()), life)
        .await
        .unwrap();
    let code = copy(host.code());
    let mut told = Vec::new();
    tokio::time::sleep(life).await;
    let late = redeem(&place, &code, |_| ());
    let late = Box::pin(while_served(&mut host, 1, &mut told, late)).await;
    let spent = Turned::Refused(Refusal::Spent);
    assert!(
        matches!(late, Err(MailboxError::Turned(told)) if told == spent),
        "{late:?}"
    );
    assert_eq!(told, [Told::Expired]);
    host.close().await;
    let late = redeem(&place, &code, |_| ()).await.unwrap_err();
    assert!(matches!(late, MailboxError::NoMailbox), "{late:?}");
}

#[tokio::test]
async fn mailboxes_of_one_relay_have_different_numbers() {
    let relay = relay().await;
    let mut numbers = BTreeSet::new();
    let mut open = Vec::new();
    // More than there are numbers of two digits.
    for _ in 0..120 {
        let mailbox = Mailbox::open(place(&relay.address()), LIFE).await.unwrap();
        let code = mailbox.code().text();
        assert!(numbers.insert(code.split('-').next().unwrap().to_owned()));
        open.push(mailbox);
    }
}

#[tokio::test]
async fn a_relay_that_is_gone_is_told() {
    let relay = relay().await;
    let place = place(&relay.address());
    relay.shutdown().await.unwrap();
    let gone = Mailbox::open(self::place(&place.relay), LIFE)
        .await
        .unwrap_err();
    assert!(matches!(gone, MailboxError::Relay(_)), "{gone:?}");
}

/// Passes on connections to the relay at this port; each change of it breaks those that there are.
async fn wire(to: watch::Receiver<u16>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut to = to.clone();
            let relay = *to.borrow_and_update();
            tokio::spawn(async move {
                let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, relay))
                    .await
                    .unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = to.changed() => {}
                }
            });
        }
    });
    port
}

fn through(wire: u16, relay: &RunningRelay) -> Place {
    let address = relay.address();
    let hosts = address.hosts().to_vec();
    place(&ServerAddress::new(address.fingerprint(), hosts, wire).unwrap())
}

#[tokio::test]
async fn a_host_whose_connection_breaks_comes_back_to_its_mailbox() {
    let relay = relay().await;
    let port = relay.address().port();
    let (at, to) = watch::channel(port);
    let wire = wire(to).await;
    let mut host = Mailbox::open(through(wire, &relay), LIFE).await.unwrap();
    let code = copy(host.code());
    at.send(port).unwrap();
    let place = place(&relay.address());
    let mut told = Vec::new();
    let mut kept = String::new();
    let link = redeem(&place, &code, |link| link.clone_into(&mut kept));
    let link = Box::pin(while_served(&mut host, 1, &mut told, link)).await;
    assert_eq!(told, [Told::Admitted { left: 0 }]);
    assert_eq!((link.unwrap().as_str(), kept.as_str()), (LINK, LINK));
}

#[tokio::test]
async fn a_host_whose_mailbox_the_relay_lost_is_told() {
    let now = UnixTime::now();
    let (before, after) = (relay_made(now).await, relay_made(now).await);
    assert_eq!(
        before.address().fingerprint(),
        after.address().fingerprint()
    );
    let (at, to) = watch::channel(before.address().port());
    let wire = wire(to).await;
    let mut host = Mailbox::open(through(wire, &before), LIFE).await.unwrap();
    // The same relay, with nothing in its store.
    at.send(after.address().port()).unwrap();
    let served = host.serve(LINK, uses(1), |_| ()).await;
    assert!(matches!(served, MailboxError::Lost), "{served:?}");
}

#[tokio::test]
async fn a_relay_that_guesses_and_is_gone_does_not_hide_it() {
    let relay = relay().await;
    let place = place(&relay.address());
    let (at, to) = watch::channel(relay.address().port());
    let wire = wire(to).await;
    let mut host = Mailbox::open(through(wire, &relay), LIFE).await.unwrap();
    let wrong = guess(host.code());
    // From then on nothing of the host's arrives: nobody listens there.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let nowhere = nobody.local_addr().unwrap().port();
    let mut told = Vec::new();
    let (served, guessed) = tokio::join!(
        host.serve(LINK, uses(1), |it| {
            at.send(nowhere).unwrap();
            told.push(it);
        }),
        tokio::time::timeout(Duration::from_secs(5), redeem(&place, &wrong, |_| ()))
    );
    assert!(matches!(served, MailboxError::Wrong), "{served:?}");
    assert_eq!(told, [Told::Wrong]);
    assert!(!matches!(guessed, Ok(Ok(_))));
}
