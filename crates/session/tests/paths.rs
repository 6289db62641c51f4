//! Programs that speak TCP, over sessions in memory with direct paths that come, die, lie and come back.

#![allow(clippy::unwrap_used, clippy::panic)]

mod wires;

use std::{sync::Arc, time::Duration};

use junto_session::{
    Members,
    adapters::tcp::{Greeting, Mesh, MeshError, Outcome, Policy, Ways},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use wires::{Party, Wires, parties};

/// For what must happen; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two parties that run, and what is between them.
struct Two {
    parties: Vec<Party>,
    meshes: Vec<Mesh>,
    /// Where their programs listen.
    programs: Vec<TcpListener>,
    wires: Arc<Wires>,
}

async fn two(policies: [Policy; 2], silence: Duration) -> Two {
    let wires = Wires::new();
    let parties = parties(2).await;
    let (mut meshes, mut programs) = (Vec::new(), Vec::new());
    for (party, policy) in parties.iter().zip(policies) {
        let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ways: Arc<dyn Ways> = wires.of(party.session.me());
        let place = program.local_addr().unwrap();
        let mesh = Mesh::open_with(
            &party.session,
            place,
            Greeting::Unknown,
            Some((policy, ways)),
        );
        meshes.push(mesh.await.unwrap());
        programs.push(program);
    }
    for mesh in &meshes {
        let mut present = mesh.present();
        while present != mesh.others() {
            present = mesh.more(present, Instant::now() + PATIENCE).await.unwrap();
        }
        mesh.run(silence);
    }
    Two {
        parties,
        meshes,
        programs,
        wires,
    }
}

impl Two {
    /// A connection from the first program to the second.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let way = *self.meshes[0].ways().values().next().unwrap();
        let from = TcpStream::connect(way).await.unwrap();
        let (to, _) = timeout(PATIENCE, self.programs[1].accept())
            .await
            .unwrap()
            .unwrap();
        (from, to)
    }

    /// Bytes from one program to the other: how many were written, and how many went over paths meanwhile.
    async fn transfer(&self) -> (usize, usize) {
        let before = self.wires.carried();
        let (mut from, mut to) = self.connect().await;
        let sent = bytes(3 << 20);
        let expected = sent.clone();
        let write = tokio::spawn(async move {
            from.write_all(&sent).await.unwrap();
            from.shutdown().await.unwrap();
            from
        });
        let mut read = Vec::new();
        timeout(PATIENCE, to.read_to_end(&mut read))
            .await
            .unwrap()
            .unwrap();
        assert!(read == expected);
        to.shutdown().await.unwrap();
        drop((write.await.unwrap(), to));
        (expected.len(), self.wires.carried() - before)
    }

    /// Bytes that have gone over queues.
    fn queued(&self) -> usize {
        self.parties.iter().map(Party::queued).sum()
    }

    async fn until_direct(&self) {
        self.until(|| self.meshes.iter().all(|mesh| !mesh.direct().is_empty()))
            .await;
    }

    async fn until(&self, is: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is() {
            assert!(Instant::now() < end, "it never came to that");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Both programs have ended well.
    async fn finish(self) -> Vec<Result<(), MeshError>> {
        let ends = self
            .meshes
            .into_iter()
            .map(|mesh| mesh.finish(Outcome::Done));
        futures::future::join_all(ends).await
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count as u64)
        .map(|at| ((at * 0x9E37_79B9) >> 16) as u8)
        .collect()
}

const PREFER: [Policy; 2] = [Policy::PreferDirect; 2];
const ONLY: [Policy; 2] = [Policy::DirectOnly; 2];

#[tokio::test(flavor = "multi_thread")]
async fn all_arrives_in_order_while_paths_die_and_come_back() {
    let two = two(PREFER, PATIENCE).await;
    two.until_direct().await;
    let (mut from, mut to) = two.connect().await;
    let sent = bytes(24 << 20);
    let expected = sent.clone();
    let write = tokio::spawn(async move {
        from.write_all(&sent).await.unwrap();
        from.shutdown().await.unwrap();
        from
    });
    let read = tokio::spawn(async move {
        let mut read = Vec::new();
        to.read_to_end(&mut read).await.unwrap();
        to.shutdown().await.unwrap();
        read
    });
    for cuts in 1..4 {
        let before = two.wires.carried();
        two.until(|| two.wires.carried() > before + (1 << 20) || read.is_finished())
            .await;
        two.wires.cut();
        if cuts < 3 {
            two.until_direct().await;
        } else {
            two.wires.close();
        }
    }
    assert!(timeout(PATIENCE, read).await.unwrap().unwrap() == expected);
    drop(write.await.unwrap());
    let carried = two.wires.carried();
    // Both ways had their part.
    assert!((1 << 20..expected.len()).contains(&carried), "{carried}");
    for end in two.finish().await {
        end.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_called_unless_both_want_it() {
    let two = two([Policy::PreferDirect, Policy::RelayOnly], PATIENCE).await;
    let (mut from, mut to) = two.connect().await;
    from.write_all(b"over the queues").await.unwrap();
    from.shutdown().await.unwrap();
    let mut read = Vec::new();
    timeout(PATIENCE, to.read_to_end(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read, b"over the queues");
    to.shutdown().await.unwrap();
    let wires = two.wires.clone();
    drop((from, to));
    for end in two.finish().await {
        end.unwrap();
    }
    assert_eq!((wires.calls(), wires.carried()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_direct_paths_alone_and_who_takes_none_are_named_to_all() {
    let wires = Wires::new();
    let parties = parties(3).await;
    let policies = [Policy::DirectOnly, Policy::RelayOnly, Policy::PreferDirect];
    let mut meshes = Vec::new();
    for (party, policy) in parties.iter().zip(policies) {
        let ways: Arc<dyn Ways> = wires.of(party.session.me());
        let place = "127.0.0.1:1".parse().unwrap();
        let ways = Some((policy, ways));
        let mesh = Mesh::open_with(&party.session, place, Greeting::Unknown, ways);
        meshes.push(mesh.await.unwrap());
    }
    let [first, second] = [0, 1].map(|at: usize| Members::NONE.with(parties[at].session.me()));
    for mesh in &meshes {
        let error = timeout(PATIENCE, mesh.failed()).await.unwrap();
        assert!(
            matches!(error, MeshError::Apart { direct, relays } if direct == first && relays == second),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_wish_is_named_and_one_of_another_life_means_nothing() {
    let two = two([Policy::RelayOnly; 2], PATIENCE).await;
    let other = &two.parties[1].session;
    let says = other.channel("junto wish 1").await.unwrap();
    let to = two.parties[0].session.me();
    // An earlier run has left it, say.
    let stale = [&[7; 16][..], &[1]].concat();
    says.send(to, stale).await.unwrap();
    two.transfer().await;
    says.send(to, vec![2; 17]).await.unwrap();
    let error = timeout(PATIENCE, two.meshes[0].failed()).await.unwrap();
    assert!(
        matches!(error, MeshError::Lied { party, .. } if party == other.me()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_written_goes_over_the_path() {
    for policy in [ONLY, PREFER] {
        let two = two(policy, PATIENCE).await;
        two.until_direct().await;
        let end = Instant::now() + PATIENCE;
        loop {
            let before = two.queued();
            let (written, carried) = two.transfer().await;
            if carried >= written {
                // Once and not twice: the queues have words about the run at most.
                let queued = two.queued() - before;
                assert!(queued < written / 8, "{policy:?}: {queued} over the queues");
                break;
            }
            // Whoever merely prefers it goes on over the queues while a path ends and the next one comes.
            assert!(policy == PREFER && Instant::now() < end, "{carried}");
            two.until_direct().await;
        }
        for end in two.finish().await {
            end.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_on_which_nothing_comes_through_any_more_holds_up_nothing_for_long() {
    // Less than it takes to give up the path: both show meanwhile that they are there.
    let two = two(PREFER, Duration::from_secs(20)).await;
    two.until_direct().await;
    let (mut from, mut to) = two.connect().await;
    // It stays up, and takes what fits into it.
    two.wires.swallow();
    from.write_all(&bytes(3 << 20)).await.unwrap();
    from.shutdown().await.unwrap();
    let mut read = Vec::new();
    timeout(PATIENCE, to.read_to_end(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert!(read == bytes(3 << 20));
    to.shutdown().await.unwrap();
    drop((from, to));
    for end in timeout(PATIENCE, two.finish()).await.unwrap() {
        end.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_a_path_that_says_nothing_and_loses_no_last_words() {
    let two = two(PREFER, PATIENCE).await;
    two.until_direct().await;
    let (mut from, mut to) = two.connect().await;
    two.wires.swallow();
    from.write_all(b"the last words").await.unwrap();
    drop(from);
    let mut meshes = two.meshes.into_iter();
    let (first, second) = (meshes.next().unwrap(), meshes.next().unwrap());
    let first = tokio::spawn(first.finish(Outcome::Done));
    let mut read = Vec::new();
    timeout(PATIENCE, to.read_to_end(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read, b"the last words");
    drop(to);
    timeout(PATIENCE, first).await.unwrap().unwrap().unwrap();
    timeout(PATIENCE, second.finish(Outcome::Done))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_go_directly_only_loses_nothing_and_calls_it_well() {
    let silence = Duration::from_secs(15);
    let two = two(ONLY, silence).await;
    two.until_direct().await;
    let (mut from, _to) = two.connect().await;
    two.wires.close();
    two.wires.cut();
    from.write_all(b"the last words").await.unwrap();
    drop(from);
    let me = two.meshes[1].others();
    let mut meshes = two.meshes.into_iter();
    let (first, other) = (meshes.next().unwrap(), meshes.next().unwrap());
    let end = timeout(PATIENCE, first.finish(Outcome::Done))
        .await
        .unwrap();
    let error = end.unwrap_err();
    assert!(matches!(error, MeshError::Unreached { .. }), "{error}");
    // It says so itself, over the queues.
    let heard = timeout(PATIENCE, other.failed()).await.unwrap();
    assert!(heard.parties().covers(me), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_go_directly_only_does_not_wait_for_ever_for_what_was_on_its_way() {
    let silence = Duration::from_secs(15);
    let two = two(ONLY, silence).await;
    two.until_direct().await;
    let (mut from, mut to) = two.connect().await;
    // It leaves, and does not arrive. Then the path is gone for good, and both programs wait for each other. (Were it cut
    // before it leaves, the end would be the same.)
    two.wires.swallow();
    from.write_all(b"the last words").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    two.wires.cut();
    let mut said = [0; 1];
    let failed = async {
        tokio::select! {
            error = two.meshes[0].failed() => error,
            _ = to.read(&mut said) => panic!("it came"),
        }
    };
    let error = timeout(PATIENCE, failed).await.unwrap();
    assert!(matches!(error, MeshError::Unreached { .. }), "{error}");
    assert_eq!(error.parties(), two.meshes[0].others());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_go_directly_only_waits_for_a_path_to_come_back() {
    let two = two(ONLY, PATIENCE).await;
    two.until_direct().await;
    let (mut from, mut to) = two.connect().await;
    two.wires.cut();
    from.write_all(b"the last words").await.unwrap();
    drop(from);
    let mut read = Vec::new();
    timeout(PATIENCE, to.read_to_end(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read, b"the last words");
    drop(to);
    for end in two.finish().await {
        end.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lies_on_a_path_is_named() {
    let taken = |number: u64| [&[0x81][..], &number.to_be_bytes()].concat();
    let numbered = |number: u64| [&[0x80][..], &number.to_be_bytes(), &[0; 8], &[6]].concat();
    let hello = [&[0x80][..], &[0; 16], &[0; 33]].concat();
    for lie in [
        taken(1 << 40),
        numbered(1 << 40),
        vec![6],
        vec![0; 33],
        vec![0x82; 17],
        hello,
    ] {
        let two = two(PREFER, PATIENCE).await;
        two.until_direct().await;
        let to = two.meshes[1].others().iter().next().unwrap();
        two.wires
            .inject(to, &[&(lie.len() as u32).to_be_bytes()[..], &lie].concat())
            .await;
        let error = timeout(PATIENCE, two.meshes[0].failed()).await.unwrap();
        assert!(matches!(error, MeshError::Lied { .. }), "{lie:?}: {error}");
        assert_eq!(error.parties(), two.meshes[0].others());
    }
    // A length that no packet has.
    let two = two(PREFER, PATIENCE).await;
    two.until_direct().await;
    let to = two.meshes[1].others().iter().next().unwrap();
    two.wires.inject(to, &[0xff; 4]).await;
    let error = timeout(PATIENCE, two.meshes[0].failed()).await.unwrap();
    assert!(matches!(error, MeshError::Lied { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_said_shortens_the_pause_between_calls() {
    let two = two(PREFER, PATIENCE).await;
    two.wires.close();
    two.wires.cut();
    let began = Instant::now();
    let before = two.wires.calls();
    let (mut from, mut to) = two.connect().await;
    // Many messages, in both directions.
    for _ in 0..500 {
        from.write_all(b"ping").await.unwrap();
        let mut said = [0; 4];
        timeout(PATIENCE, to.read_exact(&mut said))
            .await
            .unwrap()
            .unwrap();
        to.write_all(b"pong").await.unwrap();
        timeout(PATIENCE, from.read_exact(&mut said))
            .await
            .unwrap()
            .unwrap();
    }
    // Each of the two waits for a second at least.
    let most = 2 * (2 + began.elapsed().as_secs() as usize);
    let calls = two.wires.calls() - before;
    assert!(calls <= most, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_and_again_is_let_in_rarely() {
    let two = two(PREFER, PATIENCE).await;
    two.until_direct().await;
    let (from, to) = {
        let mut all = two
            .meshes
            .iter()
            .map(|mesh| mesh.others().iter().next().unwrap());
        (all.next().unwrap(), all.next().unwrap())
    };
    let began = Instant::now();
    let mut let_in = 0;
    for _ in 0..200 {
        let_in += usize::from(two.wires.knock(from, to).await);
    }
    let most = 1 + began.elapsed().as_secs() as usize / 10;
    assert!(let_in <= most, "{let_in} of 200");
}
