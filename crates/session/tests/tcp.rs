//! Programs that speak TCP, over sessions in memory.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use junto_crypto::aead::StoreKey;
use junto_session::{
    Channel, DisplayName, Members, Params, PartyCount, PartyIndex, Persona, Policy, Session,
    Sessions,
    adapters::tcp::{Greeting, Mesh, MeshError, Outcome},
    carrier::memory::Hub,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
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

/// A mesh for a program whose greeting nobody knows.
async fn begin(session: &Session, port: SocketAddr) -> Mesh {
    let mesh = Mesh::open(session, port, Greeting::Unknown).await;
    mesh.unwrap()
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
        meshes.push(begin(&party.session, port).await);
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

/// A program of party `me` in a mesh in which each dials each: says who it is and whom it wants, hears the same, and
/// answers with its number. Returns who has spoken to it.
async fn census(
    me: PartyIndex,
    port: SocketAddr,
    ways: BTreeMap<PartyIndex, SocketAddr>,
) -> Vec<u8> {
    let number = |party: PartyIndex| u8::try_from(party.as_usize()).unwrap();
    let listener = TcpListener::bind(port).await.unwrap();
    let mut calls = Vec::new();
    for (wanted, way) in &ways {
        let mut socket = TcpStream::connect(way).await.unwrap();
        let said = [number(me), number(*wanted)];
        socket.write_all(&said).await.unwrap();
        socket.shutdown().await.unwrap();
        calls.push((*wanted, socket));
    }
    let mut heard = Vec::new();
    for _ in 0..ways.len() {
        let (mut socket, from) = listener.accept().await.unwrap();
        let said = read_to_end(&mut socket).await;
        assert_eq!(said[1..], [number(me)], "meant for another party");
        if cfg!(target_os = "linux") {
            // Where the program finds a party is where it is called from, by that one only.
            let mut found = ways.iter().filter(|(_, way)| way.ip() == from.ip());
            assert_eq!(found.next().map(|(party, _)| number(*party)), Some(said[0]));
            assert_eq!(found.next(), None);
        }
        heard.push(said[0]);
        socket.write_all(&[number(me)]).await.unwrap();
    }
    for (wanted, call) in calls {
        assert_eq!(read_to_end(call).await, [number(wanted)]);
    }
    heard.sort_unstable();
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reaches_everybody() {
    let parties = parties(4).await;
    let mut runs = Vec::new();
    for (me, party) in &parties {
        let (me, session) = (*me, party.session.clone());
        runs.push(tokio::spawn(async move {
            let port = free_port().await;
            let mesh = begin(&session, port).await;
            all_there(&mesh).await;
            mesh.run(PATIENCE);
            let heard = census(me, port, mesh.ways().clone()).await;
            mesh.finish(Outcome::Done).await.unwrap();
            // What was said last goes out although this run is over.
            assert!(session.flush(PATIENCE).await.unwrap());
            (me, heard)
        }));
    }
    for run in runs {
        let (me, heard) = timeout(PATIENCE, run).await.unwrap().unwrap();
        let others = (0..4_u8).filter(|party| usize::from(*party) != me.as_usize());
        assert_eq!(heard, others.collect::<Vec<_>>());
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
        let (socket, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        read_to_end(socket).await
    });
    socket.write_all(&said).await.unwrap();
    socket.shutdown().await.unwrap();
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
        let mesh = begin(&party.session, free_port().await).await;
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
        let mesh = begin(&party.session, ports[ports.len() - 1]).await;
        meshes.push(mesh);
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
    let again = begin(&parties[1].session, ports[1]).await;
    let error = timeout(PATIENCE, meshes[0].failed()).await.unwrap();
    assert!(matches!(error, MeshError::Restarted { party } if party.as_usize() == 1));
    drop(meshes.pop());
    // Both anew: nothing of the first run stands in the way.
    let first = begin(&parties[0].session, ports[0]).await;
    all_there(&first).await;
    all_there(&again).await;
    again.run(PATIENCE);
    first.run(PATIENCE);
    let listener = TcpListener::bind(ports[1]).await.unwrap();
    let mut socket = TcpStream::connect(way(&first)).await.unwrap();
    socket.write_all(b"again").await.unwrap();
    socket.shutdown().await.unwrap();
    let (taken, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    assert_eq!(read_to_end(taken).await, b"again");
    drop(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_begin_is_missing() {
    let parties = parties(3).await;
    let mut present = Vec::new();
    for party in parties.values().take(2) {
        present.push(begin(&party.session, free_port().await).await);
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

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_of_what_a_program_wrote_is_named() {
    let (parties, mut meshes, ports) = two().await;
    let listener = TcpListener::bind(ports[1]).await.unwrap();
    let mut call = TcpStream::connect(way(&meshes[0])).await.unwrap();
    let (_held, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    // Its program goes on to write what nobody takes.
    let writing = tokio::spawn(async move { while call.write_all(&[7; 65_536]).await.is_ok() {} });
    let mut writer = meshes.remove(0);
    // The other says every ten seconds that it is there: it is not its silence that counts.
    writer.run(Duration::from_secs(20));
    let error = timeout(PATIENCE, writer.drain(Outcome::Done))
        .await
        .unwrap();
    let error = error.unwrap_err();
    assert!(matches!(error, MeshError::Stuck { .. }), "{error}");
    assert_eq!(error.parties(), writer.others());
    assert_eq!(writer.behind(), writer.others());
    writing.abort();
    drop((parties, meshes));
}

/// A party that says whatever it likes about streams to another one.
struct Liar {
    channel: Channel,
    to: PartyIndex,
    /// The other's life.
    theirs: [u8; 16],
    /// It is there all the time.
    alive: JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.alive.abort();
    }
}

/// How a stream begins and what is said on it; the liar has the higher index.
fn open(number: u32) -> Vec<u8> {
    [&[1][..], &(2 * number + 1).to_be_bytes()].concat()
}

fn data(number: u32, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[2][..], &(2 * number + 1).to_be_bytes(), &length, bytes].concat()
}

fn end(number: u32) -> Vec<u8> {
    [&[3][..], &(2 * number + 1).to_be_bytes()].concat()
}

impl Liar {
    /// Meets the mesh of party `to`, as [`Liar::hello`] of life 0 says.
    async fn meet(session: &Session, to: PartyIndex) -> Self {
        let open = async || session.channel("junto streams 1").await.unwrap();
        let (channel, own) = (open().await, open().await);
        let theirs = [0; 16];
        let alive = tokio::spawn(async move {
            while own.send(to, vec![6]).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut liar = Self {
            channel,
            to,
            theirs,
            alive,
        };
        liar.say(&[liar.hello(0)]).await;
        liar.theirs = liar.next_hello().await[1..17].try_into().unwrap();
        liar.say(&[liar.hello(0)]).await;
        liar
    }

    /// The next hello that the other says: its life, and the one that it knows.
    async fn next_hello(&self) -> [u8; 33] {
        self.next(0).await[..33].try_into().unwrap()
    }

    /// The next message of the other that begins with a frame of that kind.
    async fn next(&self, kind: u8) -> Vec<u8> {
        loop {
            let message = timeout(PATIENCE, self.channel.next()).await.unwrap();
            let message = message.unwrap();
            self.channel.done(message.receipt).await.unwrap();
            if message.from == self.to && message.payload[0] == kind {
                return message.payload.to_vec();
            }
        }
    }

    fn hello(&self, life: u8) -> Vec<u8> {
        [&[0][..], &[life; 16], &self.theirs].concat()
    }

    /// One message.
    async fn say(&self, frames: &[Vec<u8>]) {
        let message = frames.concat();
        self.channel.send(self.to, message).await.unwrap();
    }
}

/// A mesh in which party 1 lies to party 0, and where the program of party 0 listens; the others are not there.
async fn lied_to(
    count: usize,
    greeting: Greeting,
) -> (BTreeMap<PartyIndex, Party>, Mesh, SocketAddr, Liar) {
    let parties = parties(count).await;
    let [me, liar] = [0, 1].map(|party| PartyIndex::new(party).unwrap());
    let port = free_port().await;
    let mesh = Mesh::open(&parties[&me].session, port, greeting).await;
    let mesh = mesh.unwrap();
    let liar = Liar::meet(&parties[&liar].session, me).await;
    (parties, mesh, port, liar)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_anew_before_all_are_there_leaves_nothing_behind() {
    let (_parties, _mesh, port, liar) = lied_to(3, Greeting::Unknown).await;
    // The third is waited for; meanwhile this one begins anew again and again.
    for life in 1..100 {
        let before = [liar.hello(life), open(0), data(0, b"of an earlier life")];
        liar.say(&before).await;
    }
    // Once the second of these is heard, all is done that the first one means.
    for life in [100, 101] {
        liar.say(&[liar.hello(life)]).await;
        while liar.next_hello().await[17..] != [life; 16] {}
    }
    let listener = TcpListener::bind(port).await.unwrap();
    let accept = async || {
        let (socket, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        read_to_end(socket).await
    };
    for (number, said) in [(0, b"new"), (1, b"all")] {
        liar.say(&[open(number), data(number, said), end(number)])
            .await;
        assert_eq!(accept().await, said);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_often_that_others_are_there_says_so_as_well() {
    let (_parties, _mesh, _port, liar) = lied_to(2, Greeting::Unknown).await;
    // It says so each second, which is more often than the mesh has to.
    timeout(PATIENCE, liar.next(6)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lives_in_one_message_and_messages_too_long_are_refused() {
    let many: fn(&Liar) -> Vec<Vec<u8>> = |liar| {
        (1..=100)
            .flat_map(|life| [liar.hello(life), open(0)])
            .collect()
    };
    let long = |_: &Liar| vec![open(0), data(0, b"x"), vec![6; 16 << 20 >> 1]];
    for lie in [many, long] {
        let (_parties, mesh, _, liar) = lied_to(2, Greeting::Unknown).await;
        liar.say(&lie(&liar)).await;
        let error = timeout(PATIENCE, mesh.failed()).await.unwrap();
        assert!(
            matches!(&error, MeshError::Lied { party, .. } if party.as_usize() == 1),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_that_greets_a_program_as_another_is_named() {
    let (_parties, mesh, port, liar) = lied_to(2, Greeting::Mpyc).await;
    let listener = TcpListener::bind(port).await.unwrap();
    let accept = async || timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    // Its own number, in pieces, and what follows; one that says too little to be anybody's comes to nothing.
    let short = [open(0), data(0, &[0]), end(0)];
    liar.say(&[&short[..], &[open(1), data(1, &[1])]].concat())
        .await;
    liar.say(&[data(1, &[0]), data(1, b"keys"), end(1)]).await;
    assert_eq!(read_to_end(accept().await.0).await, b"\x01\0keys");
    // MPyC's `--ssl`: nobody's number, so nobody is deceived.
    liar.say(&[open(2), data(2, &[0x16, 3, 1, 0]), end(2)])
        .await;
    assert_eq!(read_to_end(accept().await.0).await, [0x16, 3, 1, 0]);
    assert!(mesh.present().contains(PartyIndex::new(1).unwrap()));
    liar.say(&[open(3), data(3, &[0]), data(3, &[0])]).await;
    let error = timeout(PATIENCE, mesh.failed()).await.unwrap();
    assert!(
        matches!(&error, MeshError::Lied { party, what } if party.as_usize() == 1 && what.0.contains("greeting")),
        "{error}"
    );
}

/// Three parties, of which the second leaves the program of the first by saying `how`; what the first, whose program
/// fails of it, and the third come to.
async fn left_by(how: &'static [u8]) -> (MeshError, MeshError) {
    let (parties, near, port, liar) = lied_to(3, Greeting::Unknown).await;
    let [first, second, third] = [0, 1, 2].map(|party| PartyIndex::new(party).unwrap());
    let far = begin(&parties[&third].session, free_port().await).await;
    let to_far = Liar::meet(&parties[&second].session, third).await;
    for mesh in [&near, &far] {
        all_there(mesh).await;
        mesh.run(PATIENCE);
    }
    let listener = TcpListener::bind(port).await.unwrap();
    liar.say(&[open(0), data(0, b"x")]).await;
    let (mut socket, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    assert_eq!(socket.read_u8().await.unwrap(), b'x');
    liar.say(&[how.to_vec()]).await;
    let broken = timeout(PATIENCE, socket.read_u8()).await.unwrap();
    broken.unwrap_err();
    let near = timeout(PATIENCE, near.finish(Outcome::Failed)).await;
    let far = timeout(PATIENCE, far.failed()).await.unwrap();
    drop(to_far);
    let near = near.unwrap().unwrap_err();
    assert_eq!(near.parties(), Members::NONE.with(second), "{near}");
    assert_eq!(
        far.parties(),
        Members::NONE.with(first).with(second),
        "{far}"
    );
    (near, far)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_off_a_connection_and_stays_is_named_with_whom_it_made_fail() {
    let (near, far) = left_by(&[4, 0, 0, 0, 1]).await;
    assert!(matches!(near, MeshError::Left { .. }), "{near}");
    assert!(matches!(far, MeshError::Over { .. }), "{far}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_done_in_the_middle_is_named_with_whom_it_made_fail() {
    let (near, far) = left_by(&[7, 0]).await;
    assert!(matches!(near, MeshError::Left { .. }), "{near}");
    assert!(matches!(far, MeshError::Over { .. }), "{far}");
}

/// Meshes of the first two of three parties, who have met.
async fn waiting_for_the_third() -> (BTreeMap<PartyIndex, Party>, Mesh, Mesh) {
    let parties = parties(3).await;
    let mut meshes = Vec::new();
    for party in parties.values().take(2) {
        meshes.push(begin(&party.session, free_port().await).await);
    }
    let (second, first) = (meshes.pop().unwrap(), meshes.pop().unwrap());
    let deadline = Instant::now() + PATIENCE;
    for mesh in [&first, &second] {
        mesh.more(Members::NONE, deadline).await.unwrap();
    }
    (parties, first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_waiting_is_not_begun_without() {
    let (parties, first, second) = waiting_for_the_third().await;
    let [gone, _, third] = [0, 1, 2].map(|party| PartyIndex::new(party).unwrap());
    timeout(PATIENCE, first.finish(Outcome::Stopped))
        .await
        .unwrap()
        .unwrap();
    let late = begin(&parties[&third].session, free_port().await).await;
    let deadline = Instant::now() + PATIENCE;
    let mut present = second.present();
    while present != Members::NONE.with(third) {
        assert_ne!(present, second.others(), "without {gone}");
        present = second.more(present, deadline).await.unwrap();
    }
    // It comes back, and all begin.
    let again = begin(&parties[&gone].session, free_port().await).await;
    for mesh in [&again, &second, &late] {
        all_there(mesh).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_while_it_waits_is_not_begun_without() {
    let (parties, first, second) = waiting_for_the_third().await;
    let third = PartyIndex::new(2).unwrap();
    // It says nothing more.
    drop(first);
    let end = Instant::now() + PATIENCE;
    while !second.present().is_empty() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let _late = begin(&parties[&third].session, free_port().await).await;
    let present = second.more(Members::NONE, end).await.unwrap();
    assert_eq!(present, Members::NONE.with(third));
}
