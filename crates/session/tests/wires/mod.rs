//! Direct paths in memory, which can be cut, closed, and made to swallow what goes into them.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture};
use junto_crypto::aead::StoreKey;
use junto_session::{
    DisplayName, Params, PartyCount, PartyIndex, Persona, Policy, Session, Sessions,
    adapters::tcp::{Contact, Line, Ways},
    carrier::{Carriage, Event, memory::Hub},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

const PATIENCE: Duration = Duration::from_secs(120);
const WIRE: usize = 1 << 16;

/// One party: its sessions are kept open, as a process would.
pub(crate) struct Party {
    _dir: tempfile::TempDir,
    _sessions: Sessions,
    pub(crate) session: Session,
    queued: Arc<AtomicUsize>,
}

impl Party {
    /// Bytes that have come for it over queues.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
}

/// Counts what comes over queues.
fn counted(carriage: Carriage, count: &Arc<AtomicUsize>) -> Carriage {
    let (carrier, count) = (carriage.carrier, count.clone());
    let events = carriage.events.inspect(move |event| {
        if let Event::Message { body, .. } = event {
            count.fetch_add(body.len(), Ordering::Relaxed);
        }
    });
    Carriage {
        carrier,
        events: events.boxed(),
    }
}

/// Parties of a session, in order.
pub(crate) async fn parties(count: usize) -> Vec<Party> {
    let hub = Hub::new();
    let open = |index: usize| {
        let dir = tempfile::tempdir().unwrap();
        let key = StoreKey::from_bytes(&[7; 32]);
        let queued = Arc::default();
        let carriage = counted(hub.open(&index.to_string()), &queued);
        let sessions = Sessions::open(dir.path(), key, carriage).unwrap();
        ((dir, queued), sessions)
    };
    let persona = || Persona {
        display_name: DisplayName::new("one").unwrap(),
        ..Persona::default()
    };
    let params = Params {
        name: "paths".to_owned(),
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
    for ((dir, queued), sessions, forming) in all {
        let session = forming.formed(PATIENCE).await.unwrap();
        let party = Party {
            _dir: dir,
            _sessions: sessions,
            session: session.clone(),
            queued,
        };
        parties.insert(session.me(), party);
    }
    parties.into_values().collect()
}

type Ready = (PartyIndex, Line);
type Written = Arc<tokio::sync::Mutex<WriteHalf<DuplexStream>>>;

/// What is between all parties.
pub(crate) struct Wires {
    doors: Mutex<BTreeMap<PartyIndex, mpsc::UnboundedSender<Ready>>>,
    lines: Mutex<Vec<AbortHandle>>,
    /// Who reads, and where what it reads is written.
    ends: Mutex<Vec<(PartyIndex, Written)>>,
    tasks: Mutex<JoinSet<()>>,
    closed: AtomicBool,
    swallows: Arc<AtomicBool>,
    carried: Arc<AtomicUsize>,
    calls: AtomicUsize,
}

impl Wires {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            doors: Mutex::default(),
            lines: Mutex::default(),
            ends: Mutex::default(),
            tasks: Mutex::default(),
            closed: AtomicBool::new(false),
            swallows: Arc::default(),
            carried: Arc::default(),
            calls: AtomicUsize::new(0),
        })
    }

    pub(crate) fn of(self: &Arc<Self>, me: PartyIndex) -> Arc<dyn Ways> {
        let (door, ready) = mpsc::unbounded_channel();
        self.doors.lock().unwrap().insert(me, door);
        Arc::new(End {
            wires: self.clone(),
            me,
            ready: tokio::sync::Mutex::new(ready),
        })
    }

    /// Everything on its way is lost, and both ends see it.
    pub(crate) fn cut(&self) {
        for line in self.lines.lock().unwrap().drain(..) {
            line.abort();
        }
        self.ends.lock().unwrap().clear();
    }

    /// Nobody gets through any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// What goes into them does not come out, and nobody is told.
    pub(crate) fn swallow(&self) {
        self.close();
        self.swallows.store(true, Ordering::Relaxed);
    }

    pub(crate) fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed)
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Says something on a path, in the name of its other end.
    pub(crate) async fn inject(&self, to: PartyIndex, bytes: &[u8]) {
        let ends = self.ends.lock().unwrap().clone();
        for (_, end) in ends.iter().filter(|(reader, _)| *reader == to) {
            let _ = end.lock().await.write_all(bytes).await;
        }
    }

    /// Whether a path that a party makes is used.
    pub(crate) async fn knock(&self, from: PartyIndex, to: PartyIndex) -> bool {
        // It has come to nothing new so far.
        let packet = [&9_u32.to_be_bytes()[..], &[0x81], &[0; 8]].concat();
        let (mut ours, theirs) = duplex(packet.len());
        let door = self.doors.lock().unwrap()[&to].clone();
        door.send((from, line(theirs))).ok().unwrap();
        // There is room for a second one when the first is read; who does not want the path drops it.
        let both = async {
            ours.write_all(&packet).await?;
            ours.write_all(&packet).await
        };
        let both = tokio::time::timeout(PATIENCE, both).await;
        both.unwrap().is_ok()
    }

    fn connect(&self, from: PartyIndex, to: PartyIndex) -> io::Result<Line> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.closed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let ((here, left), (right, there)) = (duplex(WIRE), duplex(WIRE));
        let ((left_out, left_in), (right_out, right_in)) = (split(left), split(right));
        let shared = |end| Arc::new(tokio::sync::Mutex::new(end));
        let (left_in, right_in) = (shared(left_in), shared(right_in));
        let carry = |out, end| carry(out, end, self.swallows.clone(), self.carried.clone());
        let (forth, back) = (
            carry(left_out, right_in.clone()),
            carry(right_out, left_in.clone()),
        );
        let mut tasks = self.tasks.lock().unwrap();
        let last = [left_in.clone(), right_in.clone()];
        let task = tasks.spawn(async move {
            tokio::select! { () = forth => {}, () = back => {} }
            // Either end that lets go is seen at the other one: those who inject hold on to both.
            for end in last {
                let _ = end.lock().await.shutdown().await;
            }
        });
        self.lines.lock().unwrap().push(task);
        let mut ends = self.ends.lock().unwrap();
        ends.extend([(from, left_in), (to, right_in)]);
        let door = self.doors.lock().unwrap()[&to].clone();
        door.send((from, line(there))).ok().unwrap();
        Ok(line(here))
    }
}

async fn carry(
    mut out: ReadHalf<DuplexStream>,
    end: Written,
    swallows: Arc<AtomicBool>,
    carried: Arc<AtomicUsize>,
) {
    let mut piece = vec![0; 1 << 14];
    while let Ok(count @ 1..) = out.read(&mut piece).await {
        if swallows.load(Ordering::Relaxed) {
            core::future::pending::<()>().await;
        }
        if end.lock().await.write_all(&piece[..count]).await.is_err() {
            return;
        }
        carried.fetch_add(count, Ordering::Relaxed);
    }
}

fn line(end: DuplexStream) -> Line {
    let (reader, writer) = split(end);
    Line {
        reader: Box::new(reader),
        writer: Box::new(writer),
        guard: Box::new(()),
    }
}

struct End {
    wires: Arc<Wires>,
    me: PartyIndex,
    ready: tokio::sync::Mutex<mpsc::UnboundedReceiver<Ready>>,
}

impl Ways for End {
    fn contact(&self, _party: PartyIndex) -> io::Result<Contact> {
        Ok(Contact {
            key: [self.me.as_u16() as u8; 32],
            word: [1; 32],
            places: Vec::new(),
        })
    }

    fn know(&self, _party: PartyIndex, _contact: Contact) {}

    fn call(&self, party: PartyIndex) -> BoxFuture<'_, io::Result<Line>> {
        let line = self.wires.connect(self.me, party);
        async { line }.boxed()
    }

    fn accept(&self) -> BoxFuture<'_, Ready> {
        async {
            match self.ready.lock().await.recv().await {
                Some(ready) => ready,
                None => core::future::pending().await,
            }
        }
        .boxed()
    }
}
