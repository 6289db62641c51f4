//! Programs that speak TCP, over sessions in memory.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use junto_crypto::aead::StoreKey;
use junto_session::{
    DisplayName, Members, Params, PartyCount, PartyIndex, Persona, Policy, Session, Sessions,
    adapters::tcp::{Mesh, MeshError, Outcome},
    carrier::memory::Hub,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

/// For what must happen; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(120);

/// One party: its sessions are kept open, as a process would.
struct Party {
    _dir: tempfile::TempDir,
    sessions: Sessions,
    session: Session,
}

async fn parties(count: usize) -> BTreeMap<PartyIndex, Party> {
    let hub = Hub::new();
    let open = |index: usize| {
        let dir = tempfile::tempdir().unwrap();
        let key = StoreKey::from_bytes(&[7; 32]);
        let sessions = Sessions::open(dir.path(), key, hub.open(&index.to_string())).unwrap();
        (dir, sessions)
    };
    let persona = || Persona {
        display_name: DisplayName::new("one").unwrap(),
        ..Persona::default()
    };
    let params = Params {
        name: "programs".to_owned(),
        parties: PartyCount::new(count).unwrap(),
        policy: Policy::Anonymous,
    };
    let (dir, host) = open(0);
    let (forming, link) = host.new_session(params, persona(), PATIENCE).await.unwrap();
    let mut all = vec![(dir, host, forming)];
    for index in 1..count {
        let (dir, joiner) = open(index);
        let forming = joiner.join(link.clone(), persona()).await.unwrap();
        all.push((dir, joiner, forming));
    }
    let mut parties = BTreeMap::new();
    for (dir, sessions, forming) in all {
        let session = forming.formed(PATIENCE).await.unwrap();
        let party = Party {
            _dir: dir,
            sessions,
            session: session.clone(),
        };
        parties.insert(session.me(), party);
    }
    parties
}

/// A port on which a program may listen later.
async fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

async fn all_there(mesh: &Mesh) {
    let mut present = mesh.present();
    while present != mesh.others() {
        present = mesh.more(present, Instant::now() + PATIENCE).await.unwrap();
    }
}

/// Meshes of two parties, and where their programs listen.
async fn two() -> (Vec<Party>, Vec<Mesh>, Vec<SocketAddr>) {
    let parties: Vec<Party> = parties(2).await.into_values().collect();
    let (mut meshes, mut ports) = (Vec::new(), Vec::new());
    for party in &parties {
        let port = free_port().await;
        meshes.push(Mesh::open(&party.session, port).await.unwrap());
        ports.push(port);
    }
    for mesh in &meshes {
        all_there(mesh).await;
        mesh.run(PATIENCE);
    }
    (parties, meshes, ports)
}

fn way(mesh: &Mesh) -> SocketAddr {
    *mesh.ways().values().next().unwrap()
}

async fn read_to_end(mut socket: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    bytes
}

/// A program of party `me` in a mesh in which each dials each: tells its number, hears the others'.
async fn census(me: PartyIndex, port: SocketAddr, ways: BTreeMap<PartyIndex, SocketAddr>) -> u64 {
    let listener = TcpListener::bind(port).await.unwrap();
    let mut calls = Vec::new();
    for way in ways.values() {
        let mut socket = TcpStream::connect(way).await.unwrap();
        socket.write_all(&[me.as_usize() as u8 + 1]).await.unwrap();
        socket.shutdown().await.unwrap();
        calls.push(socket);
    }
    let mut sum = me.as_usize() as u64 + 1;
    for _ in 0..ways.len() {
        let (mut socket, _) = listener.accept().await.unwrap();
        let said = read_to_end(&mut socket).await;
        assert_eq!(said.len(), 1);
        sum += u64::from(said[0]);
        socket.write_all(&said).await.unwrap();
    }
    for call in calls {
        assert_eq!(read_to_end(call).await, [me.as_usize() as u8 + 1]);
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reaches_everybody() {
    let parties = parties(4).await;
    let mut runs = Vec::new();
    for (me, party) in &parties {
        let (me, session) = (*me, party.session.clone());
        runs.push(tokio::spawn(async move {
            let port = free_port().await;
            let mesh = Mesh::open(&session, port).await.unwrap();
            all_there(&mesh).await;
            mesh.run(PATIENCE);
            let sum = census(me, port, mesh.ways().clone()).await;
            mesh.finish(Outcome::Done).await.unwrap();
            // What was said last goes out although this run is over.
            assert!(session.flush(PATIENCE).await.unwrap());
            sum
        }));
    }
    for run in runs {
        assert_eq!(
            timeout(PATIENCE, run).await.unwrap().unwrap(),
            1 + 2 + 3 + 4
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_held_until_the_program_listens() {
    let (_parties, meshes, ports) = two().await;
    let mut early = TcpStream::connect(way(&meshes[0])).await.unwrap();
    early.write_all(b"before anybody listens").await.unwrap();
    early.shutdown().await.unwrap();
    // A second one has come and gone through before the program of the first listens.
    let second = TcpListener::bind(ports[0]).await.unwrap();
    let mut call = TcpStream::connect(way(&meshes[1])).await.unwrap();
    call.write_all(b"x").await.unwrap();
    call.shutdown().await.unwrap();
    let (socket, _) = timeout(PATIENCE, second.accept()).await.unwrap().unwrap();
    assert_eq!(read_to_end(socket).await, b"x");
    let late = TcpListener::bind(ports[1]).await.unwrap();
    let (mut socket, _) = timeout(PATIENCE, late.accept()).await.unwrap().unwrap();
    assert_eq!(read_to_end(&mut socket).await, b"before anybody listens");
    // The other direction was not ended.
    socket.write_all(b"and an answer").await.unwrap();
    drop(socket);
    assert_eq!(read_to_end(early).await, b"and an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn much_goes_through_both_ways_at_once() {
    const BYTES: usize = 5_000_000;
    let (_parties, meshes, ports) = two().await;
    let listener = TcpListener::bind(ports[1]).await.unwrap();
    let near = TcpStream::connect(way(&meshes[0])).await.unwrap();
    let (far, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let bytes = |seed: usize| -> Vec<u8> { (0..BYTES).map(|i| (i * seed % 251) as u8).collect() };
    let talk = |socket: TcpStream, said: Vec<u8>| async move {
        let (reader, mut writer) = socket.into_split();
        let write = async move {
            writer.write_all(&said).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        tokio::join!(read_to_end(reader), write).0
    };
    let (to_near, to_far) = tokio::join!(talk(near, bytes(3)), talk(far, bytes(7)));
    assert!(to_near == bytes(7) && to_far == bytes(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_there_breaks_here() {
    let (_parties, meshes, ports) = two().await;
    let listener = TcpListener::bind(ports[1]).await.unwrap();
    let mut near = TcpStream::connect(way(&meshes[0])).await.unwrap();
    let (far, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    far.set_zero_linger().unwrap();
    drop(far);
    let error = timeout(PATIENCE, near.read_u8())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_program_arrive() {
    let (_parties, mut meshes, ports) = two().await;
    let listener = TcpListener::bind(ports[1]).await.unwrap();
    let far = meshes.pop().unwrap();
    let near = meshes.pop().unwrap();
    let mut socket = TcpStream::connect(way(&near)).await.unwrap();
    let said = vec![5; 2_000_000];
    let reader = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        read_to_end(socket).await
    });
    socket.write_all(&said).await.unwrap();
    drop(socket);
    timeout(PATIENCE, near.finish(Outcome::Done))
        .await
        .unwrap()
        .unwrap();
    assert!(reader.await.unwrap() == said);
    // Nobody listens there any more: a program that dials hears so at once.
    let late = async { TcpStream::connect(way(&far)).await?.read_u8().await };
    assert!(timeout(PATIENCE, late).await.unwrap().is_err());
    far.finish(Outcome::Done).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_program_fails_is_named_and_connections_break() {
    let (_parties, mut meshes, ports) = two().await;
    let listener = TcpListener::bind(ports[1]).await.unwrap();
    let far = meshes.pop().unwrap();
    let near = meshes.pop().unwrap();
    let open = TcpStream::connect(way(&near)).await.unwrap();
    let (mut socket, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    drop(open);
    near.finish(Outcome::Failed).await.unwrap();
    let error = timeout(PATIENCE, far.failed()).await.unwrap();
    let MeshError::Over { party, outcome } = &error else {
        panic!("{error}")
    };
    assert_eq!((party.as_usize(), *outcome), (0, Outcome::Failed));
    assert_eq!(error.parties(), Members::NONE.with(*party));
    let _ = timeout(PATIENCE, socket.read_to_end(&mut Vec::new()))
        .await
        .unwrap();
    assert!(far.finish(Outcome::Stopped).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_takes_does_not_keep_a_run_from_ending() {
    let (_parties, mut meshes, _) = two().await;
    let far = meshes.pop().unwrap();
    let near = meshes.pop().unwrap();
    let mut call = TcpStream::connect(way(&near)).await.unwrap();
    call.write_all(b"is anybody there?").await.unwrap();
    // The program there never listened.
    timeout(PATIENCE, far.finish(Outcome::Done))
        .await
        .unwrap()
        .unwrap();
    assert!(timeout(PATIENCE, call.read_u8()).await.unwrap().is_err());
    timeout(PATIENCE, near.finish(Outcome::Done))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_heard_of_is_named_to_all() {
    let mut parties = parties(3).await;
    let mut meshes = BTreeMap::new();
    for (me, party) in &parties {
        let mesh = Mesh::open(&party.session, free_port().await).await.unwrap();
        meshes.insert(*me, mesh);
    }
    for mesh in meshes.values() {
        all_there(mesh).await;
    }
    let [first, second, gone] = [0, 1, 2].map(|i| PartyIndex::new(i).unwrap());
    // As a process that is killed: it says nothing more.
    drop(meshes.remove(&gone));
    let Party {
        sessions, session, ..
    } = parties.remove(&gone).unwrap();
    drop(session);
    sessions.end().await;
    meshes[&first].run(Duration::ZERO);
    meshes[&second].run(PATIENCE);
    let error = timeout(PATIENCE, meshes[&first].failed()).await.unwrap();
    // Both others are silent for so short a time.
    assert!(matches!(error, MeshError::Silent { .. }), "{error}");
    let named = error.parties();
    let finished = meshes.remove(&first).unwrap().finish(Outcome::Done).await;
    assert!(finished.is_err());
    // It told so to the second, who waits until it sees for itself who is silent.
    assert!(named.contains(second) && named.contains(gone));
    let error = timeout(PATIENCE, meshes[&second].failed()).await.unwrap();
    assert!(matches!(error, MeshError::Silent { .. }), "{error}");
    assert_eq!(error.parties(), Members::NONE.with(gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_a_party_that_is_there_is_named_with_it() {
    let parties = parties(3).await;
    let mut meshes = Vec::new();
    let mut ports = Vec::new();
    for party in parties.values() {
        ports.push(free_port().await);
        let mesh = Mesh::open(&party.session, ports[ports.len() - 1]).await;
        meshes.push(mesh.unwrap());
    }
    for mesh in &meshes {
        all_there(mesh).await;
    }
    let [liar, named, judge] = [0, 1, 2].map(|i| PartyIndex::new(i).unwrap());
    meshes[1].run(PATIENCE);
    meshes[2].run(PATIENCE);
    // Those two talk with each other all the time.
    let listener = TcpListener::bind(ports[2]).await.unwrap();
    let mut near = TcpStream::connect(meshes[1].ways()[&judge]).await.unwrap();
    let talk = tokio::spawn(async move {
        let (mut far, _) = listener.accept().await.unwrap();
        while near.write_u8(1).await.is_ok() && far.read_u8().await.is_ok() {
            far.write_u8(1).await.unwrap();
            near.read_u8().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    meshes[0].run(Duration::ZERO);
    let claim = timeout(PATIENCE, meshes[0].failed()).await.unwrap();
    assert_eq!(claim.parties(), Members::NONE.with(named).with(judge));
    assert!(meshes.remove(0).finish(Outcome::Done).await.is_err());
    let error = timeout(PATIENCE, meshes[1].failed()).await.unwrap();
    let expected = Outcome::GaveUp(claim.parties());
    assert!(
        matches!(&error, MeshError::Over { party, outcome } if *party == liar && *outcome == expected),
        "{error}"
    );
    assert_eq!(error.parties(), claim.parties().with(liar));
    talk.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_of_another_names_that_one() {
    let (_parties, mut meshes, ports) = two().await;
    let listener = TcpListener::bind(ports[1]).await.unwrap();
    let far = meshes.pop().unwrap();
    let near = meshes.pop().unwrap();
    let open = TcpStream::connect(way(&near)).await.unwrap();
    let (mut socket, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    open.set_zero_linger().unwrap();
    drop(open);
    // The connection breaks first, and the program there ends of it before anybody has said why.
    timeout(PATIENCE, socket.read_u8())
        .await
        .unwrap()
        .unwrap_err();
    let far = tokio::spawn(far.finish(Outcome::Failed));
    near.finish(Outcome::Failed).await.unwrap();
    let error = timeout(PATIENCE, far).await.unwrap().unwrap().unwrap_err();
    assert_eq!(
        error.parties(),
        Members::NONE.with(PartyIndex::new(0).unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_anew_ends_the_run_of_the_others() {
    let (parties, mut meshes, ports) = two().await;
    drop(meshes.pop());
    let again = Mesh::open(&parties[1].session, ports[1]).await.unwrap();
    let error = timeout(PATIENCE, meshes[0].failed()).await.unwrap();
    assert!(matches!(error, MeshError::Restarted { party } if party.as_usize() == 1));
    drop(meshes.pop());
    // Both anew: nothing of the first run stands in the way.
    let first = Mesh::open(&parties[0].session, ports[0]).await.unwrap();
    all_there(&first).await;
    all_there(&again).await;
    again.run(PATIENCE);
    first.run(PATIENCE);
    let listener = TcpListener::bind(ports[1]).await.unwrap();
    let mut socket = TcpStream::connect(way(&first)).await.unwrap();
    socket.write_all(b"again").await.unwrap();
    drop(socket);
    let (socket, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    assert_eq!(read_to_end(socket).await, b"again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_begin_is_missing() {
    let parties = parties(3).await;
    let mut present = Vec::new();
    for party in parties.values().take(2) {
        present.push(Mesh::open(&party.session, free_port().await).await.unwrap());
    }
    let second = Members::NONE.with(PartyIndex::new(1).unwrap());
    while present[0].present() != second {
        let _ = present[0]
            .more(present[0].present(), Instant::now() + PATIENCE)
            .await;
    }
    let error = present[0].more(second, Instant::now()).await.unwrap_err();
    let third = Members::NONE.with(PartyIndex::new(2).unwrap());
    assert!(
        matches!(error, MeshError::Absent { missing } if missing == third),
        "{error}"
    );
}
