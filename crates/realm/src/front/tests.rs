#![allow(clippy::unwrap_used, reason = "a test's helpers")]

use std::sync::atomic::{AtomicUsize, Ordering};

use junto_crypto::ed25519::SigningKey;
use junto_vault::{Genesis, Member, Operation, Quorum, Realm, ReplicaId, Seconds, State, View};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    Accepted, Access, EvidenceError, Membership, Peer, RealmClient, Replica, Simulated,
    channel::random,
    now,
    said::{put_said, put_welcome},
    serve,
};

const PATIENCE: Duration = Duration::from_secs(60);
const OPTED_IN: Accepted = Accepted { simulated: true };

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn id() -> RealmId {
    RealmId(*key(3).verifying_key().as_bytes())
}

/// Ends when it is dropped, as a process does that is killed.
struct Task(JoinHandle<io::Result<()>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn bound_here() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// An honest group of one.
async fn group() -> (Card, Task) {
    let own = BootKey::generate(&mut random());
    let ((inner, peers), (outer, address)) = (bound_here().await, bound_here().await);
    let (member, quorum, began) = (own.id(), Quorum::new(1, 0).unwrap(), now());
    let members = vec![Member {
        id: member,
        address,
    }];
    let card = Card::sign(&key(3), began, quorum, members).unwrap();
    let realm = Realm::new(Genesis {
        realm: id(),
        secret: Zeroizing::new([6; 32]),
        tenants: BTreeMap::from([("junto".to_owned(), key(5).verifying_key())]),
        records_max: 10,
        time: began,
    });
    let membership = Membership {
        key: own,
        members: vec![Peer {
            id: member,
            address: peers,
        }],
        attestation: Arc::new(Simulated),
        verifier: Arc::new(OPTED_IN),
        successors: None,
    };
    let replica = Replica::join(realm.unwrap(), quorum, membership).await;
    let replica = Arc::new(replica.unwrap());
    let serving = tokio::spawn(serve(replica.clone(), card.clone(), inner, outer));
    replica.begin(&[member]).await.unwrap();
    (card, Task(serving))
}

/// A frontend of the realm before these addresses, with that pass for its key.
fn frontend(addresses: Vec<String>, pass: impl Fn(&ReplicaId) -> Pass) -> Frontend {
    let own = BootKey::generate(&mut random());
    Frontend {
        pass: pass(&own.id()),
        key: own,
        realm: id(),
        addresses,
        attestation: Arc::new(Simulated),
        verifier: Arc::new(OPTED_IN),
    }
}

fn of_the_realm(id: &ReplicaId) -> Pass {
    Pass::sign(&key(3), id)
}

fn of(card: &Card) -> Vec<String> {
    let members = card.members().iter();
    members.map(|member| member.address.clone()).collect()
}

async fn served(frontend: Frontend) -> (String, Task) {
    let (listener, address) = bound_here().await;
    (address, Task(tokio::spawn(frontend.serve(listener))))
}

fn client(addresses: Vec<String>) -> RealmClient {
    let access = Access {
        account: Account::new("junto", "ada").unwrap(),
        tenant: key(5),
    };
    RealmClient::new(id(), addresses, OPTED_IN, Arc::new(access)).unwrap()
}

async fn seen(client: &RealmClient) -> Result<State, ClientError> {
    match client.ask(&Operation::View, PATIENCE).await? {
        Answer::View(view) => Ok(view.state),
        _ => Err(ClientError::Nonsense),
    }
}

/// Questions come through two frontends, one of which is dead, and a group's card too; a frontend takes none before another one, and
/// none whose replicas do not show what it wants.
#[tokio::test(flavor = "multi_thread")]
async fn questions_come_through_and_a_frontend_judges_who_is_behind_it() {
    let (card, _serving) = group().await;
    let (first, one) = served(frontend(of(&card), of_the_realm)).await;
    let (second, _other) = served(frontend(of(&card), of_the_realm)).await;
    let both = client(vec![first.clone(), second.clone()]);
    assert_eq!(seen(&both).await.unwrap(), State::Absent);
    assert_eq!(both.card(PATIENCE).await.unwrap(), card);
    drop(one);
    assert_eq!(seen(&both).await.unwrap(), State::Absent);
    assert_eq!(both.card(PATIENCE).await.unwrap(), card);

    let longest = Duration::from_secs(4);
    let (outer, _outer) = served(frontend(vec![second], of_the_realm)).await;
    let through_two = client(vec![outer]).ask(&Operation::View, longest).await;
    assert!(matches!(through_two, Err(ClientError::Absent(_))));

    let mut careful = frontend(of(&card), of_the_realm);
    careful.verifier = Arc::new(Accepted::default());
    let refused = careful.check(PATIENCE).await;
    let simulated = EvidenceError::Simulated;
    assert!(matches!(refused, Err(ClientError::Evidence(it)) if it == simulated));
    let (careful, _careful) = served(careful).await;
    let refused = client(vec![careful]).ask(&Operation::View, longest).await;
    assert!(matches!(refused, Err(ClientError::Absent(_))));
}

/// Who has no pass of the realm for its own key is a stranger, and no member of a group by a pass.
#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_the_realm_did_not_sign_is_a_stranger() {
    let (card, _serving) = group().await;
    let passes: [fn(&ReplicaId) -> Pass; 3] = [
        |_| Pass::sign(&key(3), &ReplicaId([7; 32])),
        |id| Pass::sign(&key(4), id),
        |_| Pass::from_bytes([0; Pass::BYTES]),
    ];
    for pass in passes {
        let (address, _task) = served(frontend(of(&card), pass)).await;
        let refused = seen(&client(vec![address])).await;
        assert!(matches!(refused, Err(ClientError::Stranger)));
    }
    // Who asks for members alone takes no frontend for one.
    let (address, _task) = served(frontend(of(&card), of_the_realm)).await;
    let reach = Reach::new(id(), Arc::new(OPTED_IN)).unwrap();
    let refused = reach.connect(&address).await.err();
    assert!(matches!(refused, Some(ClientError::Stranger)));
    // And one who does not accept its evidence does not talk to it.
    let reach = Reach::new(id(), Arc::new(Accepted::default())).unwrap();
    let refused = reach.or_frontends().connect(&address).await.err();
    assert!(matches!(refused, Some(ClientError::Evidence(_))));
}

/// The question, and what an honest frontend would have said to it.
type Lie = Box<dyn Fn(&[u8], Bytes) -> Bytes + Send + Sync>;

/// A frontend with a pass of the realm and an honest group behind it, that says what it likes.
async fn lying(card: &Card, lie: Lie) -> (String, Task) {
    let (listener, address) = bound_here().await;
    let front = Front::new(frontend(of(card), of_the_realm)).unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await?;
            let (mut stream, exported) = handshake(&front.tls, tcp).await?;
            while let Ok(heard) = Incoming::read(&mut stream, QUESTION_BYTES_MAX).await {
                let said = match heard.kind() {
                    HELLO => front.hello(&exported, &mut None).await?,
                    _ => lie(heard.body(), front.passed(heard.body(), &mut 0).await?),
                };
                heard.answer(&mut stream, &said).await?;
            }
        }
    });
    (address, Task(task))
}

/// As it is, with another text: that everything is erased.
fn erased(reply: &[u8]) -> (Vec<u8>, Bytes) {
    let text = reply.len() - Class::View.bytes();
    let view = Answer::View(View {
        state: State::Exhausted,
        versions: Vec::new(),
        head: [9; 32],
    });
    (reply[..text].to_vec(), view.to_bytes(Class::View))
}

/// A frontend cannot say anything in a member's place: not another answer, not one from before, not under a name of its own, not
/// for a group that the realm did not sign, not without a signature.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lying_frontend_says_is_no_answer() {
    let (card, _serving) = group().await;
    let (honest, _task) = lying(&card, Box::new(|_, reply| reply)).await;
    assert_eq!(seen(&client(vec![honest])).await.unwrap(), State::Absent);

    let (of_realm, of_other) = (card.clone(), key(4));
    let own = || BootKey::generate(&mut random());
    let lies: Vec<Lie> = vec![
        Box::new(|_, reply| {
            let (head, text) = erased(&reply);
            Zeroizing::new([&head, &text[..]].concat())
        }),
        Box::new(move |body, reply| {
            let said = put_said(&of_realm, &own(), (PASSED, body), &erased(&reply).1);
            put_reply(Ok(said))
        }),
        Box::new(move |body, reply| {
            let (own, quorum) = (own(), Quorum::new(1, 0).unwrap());
            let member = Member {
                id: own.id(),
                address: "127.0.0.1:1".to_owned(),
            };
            let card = Card::sign(&of_other, Seconds(1), quorum, vec![member]).unwrap();
            put_reply(Ok(put_said(&card, &own, (PASSED, body), &erased(&reply).1)))
        }),
        Box::new(|_, reply| put_reply(Ok(erased(&reply).1))),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let (address, _task) = lying(&card, lie).await;
        let told = seen(&client(vec![address])).await;
        assert!(
            matches!(told, Err(ClientError::Nonsense)),
            "{number}: {told:?}"
        );
    }
    // Whatever it says in the place of an answer, others are asked.
    let (other, _other) = served(frontend(of(&card), of_the_realm)).await;
    let nobody = Some(BootKey::generate(&mut random()).id());
    for error in [
        AskError::Unauthorised(Unauthorised),
        AskError::Elsewhere(nobody),
        AskError::Elsewhere(None),
        AskError::Unheld,
        AskError::Stopped,
        AskError::Behind,
        AskError::Foreign,
        AskError::Unproven,
    ] {
        let said = format!("{error:?}");
        let reply = put_reply(Err(error));
        let (address, _task) = lying(&card, Box::new(move |_, _| reply.clone())).await;
        let told = seen(&client(vec![address, other.clone()])).await;
        assert!(matches!(told, Ok(State::Absent)), "{said}: {told:?}");
    }
    // The answer to the first question, to each one.
    let first = Mutex::new(None);
    let again: Lie = Box::new(move |_, reply| first.lock().unwrap().get_or_insert(reply).clone());
    let (address, _task) = lying(&card, again).await;
    let asking = client(vec![address]);
    assert_eq!(seen(&asking).await.unwrap(), State::Absent);
    assert!(matches!(seen(&asking).await, Err(ClientError::Nonsense)));
}

/// Clients date their tokens by what a member signed: a frontend gets none for a later time than the group's.
#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_does_not_make_up_the_time() {
    let (card, _serving) = group().await;
    for (at, forged) in [(7, true), (6, true), (7, false)] {
        let front = Front::new(frontend(of(&card), of_the_realm)).unwrap();
        let mut stamp = front.stamp().await.unwrap();
        let end = stamp.len();
        stamp[end - 8 + at] ^= u8::from(forged);
        *front.stamp.lock().await = Some((Instant::now(), stamp));
        let (listener, address) = bound_here().await;
        let serving = tokio::spawn(async move {
            loop {
                front.client(listener.accept().await?.0).await.ok();
            }
        });
        let _task = Task(serving);
        let told = seen(&client(vec![address])).await;
        assert_eq!(
            matches!(told, Err(ClientError::Stranger)),
            forged,
            "{told:?}"
        );
    }
}

/// As long as something is watched that is not to happen.
const WATCH: Duration = Duration::from_secs(1);

/// A member that never has an answer is asked again and again for a client that waits, and not for one that has left.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_for_who_has_left() {
    let own = BootKey::generate(&mut random());
    let (listener, address) = bound_here().await;
    let member = Member {
        id: own.id(),
        address,
    };
    let card = Card::sign(&key(3), now(), Quorum::new(1, 0).unwrap(), vec![member]).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (there, counted) = (card.clone(), asked.clone());
    let serving = tokio::spawn(async move {
        let tls = MemberTls::new(&own, &[]).map_err(io::Error::other)?.clients;
        loop {
            let (tcp, _) = listener.accept().await?;
            let (mut stream, exported) = handshake(&tls, tcp).await?;
            while let Ok(heard) = Incoming::read(&mut stream, QUESTION_BYTES_MAX).await {
                let bytes = there.to_bytes();
                let said = match heard.kind() {
                    HELLO => {
                        let shown = Simulated.prove(&bound(&exported, LISTENS, &bytes))?;
                        put_welcome(Seconds(7), &bytes, &shown)
                    }
                    STAMP => {
                        let time = 7_u64.to_be_bytes();
                        put_reply(Ok(put_said(&there, &own, (STAMP, b""), &time)))
                    }
                    _ => {
                        counted.fetch_add(1, Ordering::Relaxed);
                        put_reply(Err(AskError::Unheld))
                    }
                };
                heard.answer(&mut stream, &said).await?;
            }
        }
    });
    let _serving = Task(serving);
    let (address, _task) = served(frontend(of(&card), of_the_realm)).await;
    let waiting = client(vec![address]);
    let asking = waiting.ask(&Operation::View, PATIENCE);
    let several = async {
        while asked.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = asking => unreachable!("there is no answer"),
        () = several => {}
    }
    drop(waiting);
    // One may be on its way.
    let most = asked.load(Ordering::Relaxed) + 1;
    tokio::time::sleep(WATCH).await;
    assert!(asked.load(Ordering::Relaxed) <= most);
}
