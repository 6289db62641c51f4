//! A disk that fails, and what the journal makes of it.
//!
//! Every operation of the journal on the disk is numbered, and a test lets any of them fail in the
//! ways in which disks do: full, short, broken, a confirmation that does not come, the machine gone
//! between two operations. After a loss of power the disk has what it confirmed, and of the rest
//! whatever the seed chooses: a part of a write, with holes, and any of the changes of names.
//! Nothing here depends on a thread or a clock, so a case replays exactly.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use junto_smp::id::{ID_BYTES, LinkId};
use junto_smp::link::LinkBlobs;
use junto_smp::message::Timestamp;
use junto_smp::queue::{Change, Limits, Link};
use proptest::prelude::*;

use super::conformance::{KEY, delete, messages, queue, recipient, send, take};
use super::disk::{Disk, Segment};
use super::{JournalError, JournalStore, Memory, Name, Store};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The machine stops: neither this nor any later operation is carried out.
    Stop,
    /// It is not carried out.
    Refused,
    /// It is carried out, in part if it is a write, and reported as failed. What a failed
    /// confirmation was about, the system forgets: part of it reaches the disk, and a later
    /// confirmation is about later writes only.
    Broken,
    /// From now on, until the restart, nothing can be written: the disk is full.
    Full,
    /// A write takes only a part, and says so.
    Short,
    /// A write is interrupted and wants to be repeated.
    Interrupted,
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// `kill -9`: the system still has everything.
    Process,
    /// The system forgets what the disk does not have.
    Power,
}

#[derive(Default)]
struct FileState {
    /// What the system says is in it.
    text: Vec<u8>,
    /// What the disk has.
    durable: Vec<u8>,
    /// From here on the system still has to write.
    dirty: usize,
}

enum NameChange {
    Bind(String, usize),
    Unbind(String),
    Move(String, String, usize),
}

#[derive(Default)]
struct State {
    files: Vec<FileState>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending: Vec<NameChange>,
    seed: u64,
    operation: usize,
    faults: BTreeMap<usize, Fault>,
    stopped: bool,
    full: bool,
}

impl State {
    /// The next number of the seed (splitmix64), below `below`.
    fn random(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % (below as u64).max(1)).unwrap()
    }

    /// The fate of the next operation.
    fn next(&mut self) -> io::Result<Option<Fault>> {
        let fault = self.faults.get(&self.operation).copied();
        self.operation += 1;
        match fault {
            _ if self.stopped => Err(broken()),
            Some(Fault::Stop) => {
                self.stopped = true;
                Err(broken())
            }
            Some(Fault::Refused) => Err(broken()),
            Some(Fault::Full) => {
                self.full = true;
                Ok(fault)
            }
            fault => Ok(fault),
        }
    }

    /// Carries out a change of names.
    fn rename(&mut self, change: NameChange) -> io::Result<()> {
        let fault = self.next()?;
        bind(&mut self.names, &change);
        self.pending.push(change);
        match fault {
            Some(Fault::Broken) => Err(broken()),
            _ => Ok(()),
        }
    }

    /// Some of the pending changes of names reach the disk, each on its own.
    fn leak_names(&mut self) {
        for change in core::mem::take(&mut self.pending) {
            if self.random(2) == 0 {
                bind(&mut self.durable_names, &change);
            }
        }
    }

    /// Some of what the system has of a file reaches the disk.
    fn leak_file(&mut self, file: usize) {
        let FileState { text, dirty, .. } = &self.files[file];
        let (dirty, length) = (*dirty, text.len());
        let reached = dirty + self.random(length - dirty + 1);
        let (holes, further) = (self.random(3) == 0, self.random(length - reached + 1));
        let hole = self.random(further + 1);
        let file = &mut self.files[file];
        file.durable.resize(dirty, 0);
        file.durable.extend_from_slice(&file.text[dirty..reached]);
        if holes {
            // The file is longer already, and what is further behind came first.
            file.durable.resize(reached + hole, 0);
            let rest = &file.text[reached + hole..reached + further];
            file.durable.extend_from_slice(rest);
        }
        file.dirty = file.text.len();
    }

    fn end(&mut self, end: End) {
        if end == End::Power {
            self.leak_names();
            (0..self.files.len()).for_each(|file| self.leak_file(file));
            self.names.clone_from(&self.durable_names);
            for file in &mut self.files {
                file.text.clone_from(&file.durable);
                file.dirty = file.text.len();
            }
        }
        self.stopped = false;
        self.full = false;
    }
}

fn bind(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Bind(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Unbind(name) => {
            names.remove(name);
        }
        NameChange::Move(from, to, file) => {
            names.remove(from);
            names.insert(to.clone(), *file);
        }
    }
}

fn broken() -> io::Error {
    io::Error::other("injected")
}

/// Called before every operation.
type Meddler = Box<dyn FnMut() + Send>;

#[derive(Default)]
struct FaultyDisk {
    state: Mutex<State>,
    meddler: Mutex<Option<Meddler>>,
}

impl FaultyDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        let meddler = self.meddler.lock().unwrap().take();
        if let Some(mut meddler) = meddler {
            meddler();
            *self.meddler.lock().unwrap() = Some(meddler);
        }
        self.quietly()
    }

    fn quietly(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The disk as the store holds it.
struct Handle(Arc<FaultyDisk>);

impl Disk for Handle {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut state = self.0.state();
        state.next()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn io::Read + '_>> {
        let mut state = self.0.state();
        state.next()?;
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(state.files[file].text.clone())))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Segment>> {
        let mut state = self.0.state();
        let file = state.files.len();
        state.files.push(FileState::default());
        state.rename(NameChange::Bind(name.into(), file))?;
        let disk = Arc::clone(&self.0);
        Ok(Box::new(FaultyFile { disk, file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.state();
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.rename(NameChange::Move(from.into(), to.into(), file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.state();
        state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        state.rename(NameChange::Unbind(name.into()))
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.0.state();
        if state.next()? == Some(Fault::Broken) {
            state.leak_names();
            return Err(broken());
        }
        for change in core::mem::take(&mut state.pending) {
            bind(&mut state.durable_names, &change);
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        name.into()
    }

    fn release(&self) {}
}

struct FaultyFile {
    disk: Arc<FaultyDisk>,
    file: usize,
}

impl Segment for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        let fault = state.next()?;
        let full = state.full && fault != Some(Fault::Full);
        let count = match fault {
            _ if full => 0,
            Some(Fault::Broken | Fault::Full | Fault::Short) => state.random(bytes.len()),
            Some(Fault::Interrupted) => return Err(io::ErrorKind::Interrupted.into()),
            _ => bytes.len(),
        };
        let count = match fault {
            Some(Fault::Short) => count.max(1),
            _ => count,
        };
        state.files[self.file]
            .text
            .extend_from_slice(&bytes[..count]);
        match fault {
            _ if state.full => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Broken) => Err(broken()),
            _ => Ok(count),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.next()? == Some(Fault::Broken) {
            state.leak_file(self.file);
            return Err(broken());
        }
        let file = &mut state.files[self.file];
        file.durable.resize(file.dirty, 0);
        file.durable.extend_from_slice(&file.text[file.dirty..]);
        file.dirty = file.text.len();
        Ok(())
    }
}

/// Queues that the stories are about.
const QUEUES: u8 = 4;

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held(BTreeMap<u8, HeldQueue>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HeldQueue {
    messages: Vec<u32>,
    secured: bool,
    off: bool,
    link: Option<u8>,
}

/// Links that the queues share: at any time one queue at most has one.
const LINKS: u8 = 2;

fn link_id(n: u8) -> LinkId {
    LinkId([200 + n % LINKS; ID_BYTES])
}

fn held(store: &dyn Store) -> Held {
    let one = |n| {
        let messages = messages(store, n)?;
        let cell = store.find(Name::Recipient, &recipient(n))?;
        let queue = cell.lock();
        let (secured, off) = (queue.sender_key().is_some(), queue.is_suspended());
        let link = queue.link().map(|link| {
            let found = store.find(Name::Link, &link.id().0);
            assert!(Arc::ptr_eq(&found.unwrap(), &cell));
            let blobs = link.blobs();
            assert_eq!((blobs.fixed(), blobs.user()), (&[n; 20][..], &[n; 50][..]));
            link.id().0[0] - 200
        });
        let held = HeldQueue {
            messages,
            secured,
            off,
            link,
        };
        Some((n, held))
    };
    let held = Held((0..QUEUES).filter_map(one).collect());
    for n in 0..LINKS {
        let linked = held.0.values().any(|queue| queue.link == Some(n));
        let found = store.find(Name::Link, &link_id(n).0).is_some();
        assert_eq!(found, linked, "link {n}");
    }
    held
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Create(u8),
    Send(u8),
    Large(u8),
    Take(u8),
    Secure(u8),
    Off(u8),
    Link(u8),
    Unlink(u8),
    Delete(u8),
    /// Everything so far is acknowledged if the store says so.
    Commit,
    /// These acts happen during it, each before another operation of the disk.
    Compact,
}

/// A life of a store: every state that it was in, and since when it has acknowledged.
struct Life {
    store: Arc<JournalStore>,
    states: Mutex<Vec<Held>>,
    next_message: Mutex<u32>,
}

impl Life {
    /// Carries out what happens to a queue.
    fn act(&self, act: Act) {
        let store = &*self.store;
        let (Act::Create(n)
        | Act::Send(n)
        | Act::Large(n)
        | Act::Take(n)
        | Act::Secure(n)
        | Act::Off(n)
        | Act::Link(n)
        | Act::Unlink(n)
        | Act::Delete(n)) = act
        else {
            return;
        };
        let mut states = self.states.lock().unwrap();
        let mut state = states.last().unwrap().clone();
        let cell = store.find(Name::Sender, &super::conformance::sender(n));
        let Some(cell) = cell else {
            if matches!(act, Act::Create(_)) {
                store.create(queue(n)).unwrap();
                state.0.insert(n, HeldQueue::default());
                states.push(state);
            }
            return;
        };
        let held = state.0.get_mut(&n).unwrap();
        match act {
            Act::Send(_) | Act::Large(_) => {
                let mut next = self.next_message.lock().unwrap();
                *next += 1;
                if act == Act::Send(n) {
                    send(store, &cell, *next);
                } else {
                    let mut queue = cell.lock();
                    let mut body = next.to_be_bytes().to_vec();
                    body.resize(3_000, 7);
                    let message = super::conformance::message(store.memory(), *next, &body);
                    let id = message.id;
                    queue.restore_message(message);
                    store.record(&queue, Change::Stored(id));
                }
                held.messages.push(*next);
            }
            Act::Take(_) => {
                take(store, &cell);
                if !held.messages.is_empty() {
                    held.messages.remove(0);
                }
            }
            Act::Secure(_) => {
                let mut queue = cell.lock();
                queue.restore_sender_key(KEY.clone());
                held.secured = true;
                store.record(&queue, Change::Secured);
            }
            Act::Off(_) => {
                let mut queue = cell.lock();
                queue.restore_suspension();
                held.off = true;
                store.record(&queue, Change::Suspended);
            }
            Act::Link(_) => {
                let mut queue = cell.lock();
                let id = link_id(*self.next_message.lock().unwrap() as u8);
                if queue.link().is_some() || !store.claim_link(&id.0, &cell) {
                    return;
                }
                let (fixed, user) = ([n; 20], [n; 50]);
                let blobs = LinkBlobs::new(&fixed, &user).unwrap();
                let link = Link::new(id, &blobs, |bytes| store.memory().store(bytes));
                queue.restore_link(Some(link));
                held.link = Some(id.0[0] - 200);
                store.record(&queue, Change::Linked);
            }
            Act::Unlink(_) => {
                let mut queue = cell.lock();
                let Some(id) = queue.link().map(Link::id) else {
                    return;
                };
                queue.restore_link(None);
                held.link = None;
                store.record(&queue, Change::Unlinked(id));
            }
            Act::Delete(_) => {
                delete(store, &cell);
                state.0.remove(&n);
            }
            Act::Create(_) | Act::Commit | Act::Compact => return,
        }
        states.push(state);
    }

    fn now(&self) -> usize {
        self.states.lock().unwrap().len() - 1
    }
}

fn open(disk: &Arc<FaultyDisk>) -> Result<JournalStore, JournalError> {
    open_at(disk, Timestamp(0))
}

fn open_at(disk: &Arc<FaultyDisk>, now: Timestamp) -> Result<JournalStore, JournalError> {
    let handle = Arc::new(Handle(Arc::clone(disk)));
    JournalStore::open_on(handle, true, 100, Memory::new(usize::MAX), now)
}

/// Lives through `acts` with `faults`, and gives the states that may be found afterwards.
fn live(disk: &Arc<FaultyDisk>, store: JournalStore, acts: &[Act], next: &mut u32) -> Vec<Held> {
    let life = Arc::new(Life {
        states: Mutex::new(vec![held(&store)]),
        store: Arc::new(store),
        next_message: Mutex::new(*next),
    });
    let mut acknowledged = 0;
    let mut acts: VecDeque<_> = acts.iter().copied().collect();
    while let Some(act) = acts.pop_front() {
        match act {
            Act::Commit => {
                let now = life.now();
                if life.store.log().commit().is_ok() {
                    assert!(life.store.durable() >= life.store.position());
                    acknowledged = now;
                }
            }
            Act::Compact => {
                // The acts up to the next commit happen meanwhile, one every few operations.
                let until = acts.iter().position(|act| matches!(act, Act::Commit));
                let mut during: VecDeque<_> = acts.drain(..until.unwrap_or(acts.len())).collect();
                let (meddling, mut turn) = (Arc::clone(&life), 0);
                *disk.meddler.lock().unwrap() = Some(Box::new(move || {
                    turn += 1;
                    if turn % 2 == 0
                        && let Some(act) = during.pop_front()
                    {
                        meddling.act(act);
                    }
                }));
                life.store.compact();
                *disk.meddler.lock().unwrap() = None;
            }
            act => life.act(act),
        }
    }
    *next = *life.next_message.lock().unwrap();
    let states = life.states.lock().unwrap();
    states[acknowledged..].to_vec()
}

/// Opens until it works: a failed opening must change nothing, however often.
fn open_again(disk: &Arc<FaultyDisk>, ends: &[End]) -> JournalStore {
    for end in ends {
        match open(disk) {
            Ok(store) => return store,
            Err(JournalError::Io { .. }) => disk.quietly().end(*end),
            Err(other) => panic!("{other}"),
        }
    }
    disk.quietly().faults.clear();
    open(disk).unwrap()
}

fn act() -> impl Strategy<Value = Act> {
    let n = 0..QUEUES;
    prop_oneof![
        3 => n.clone().prop_map(Act::Create),
        8 => n.clone().prop_map(Act::Send),
        2 => n.clone().prop_map(Act::Large),
        5 => n.clone().prop_map(Act::Take),
        1 => n.clone().prop_map(Act::Secure),
        1 => n.clone().prop_map(Act::Off),
        2 => n.clone().prop_map(Act::Link),
        1 => n.clone().prop_map(Act::Unlink),
        1 => n.prop_map(Act::Delete),
        6 => Just(Act::Commit),
        1 => Just(Act::Compact),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![
        Fault::Stop,
        Fault::Refused,
        Fault::Broken,
        Fault::Full,
        Fault::Short,
        Fault::Interrupted,
    ])
}

fn end() -> impl Strategy<Value = End> {
    prop::sample::select(vec![End::Process, End::Power])
}

/// More cases by `JUNTO_FAULT_CASES`.
fn cases() -> u32 {
    let more = std::env::var("JUNTO_FAULT_CASES").ok();
    more.and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// Whatever fails, and wherever it stops: reopening gives a state that the store was in after
    /// the last acknowledgement. So nothing acknowledged is lost, nothing taken comes back, and
    /// nothing appears that was never sent.
    #[test]
    fn what_was_acknowledged_is_there_after_any_failure(
        seed: u64,
        lives in prop::collection::vec(
            (
                prop::collection::vec(act(), 1..40),
                prop::collection::btree_map(0..60_usize, fault(), 0..3),
                prop::collection::vec(end(), 1..4),
            ),
            1..4,
        ),
    ) {
        let disk = Arc::new(FaultyDisk::default());
        disk.quietly().seed = seed;
        let mut possible = vec![Held::default()];
        let mut next = 0;
        for (acts, faults, ends) in &lives {
            {
                let mut state = disk.quietly();
                state.operation = 0;
                state.faults.clone_from(faults);
            }
            let store = open_again(&disk, &ends[1..]);
            let found = held(&store);
            prop_assert!(possible.contains(&found), "{found:?} is none of {possible:?}");
            possible = live(&disk, store, acts, &mut next);
            disk.quietly().end(ends[0]);
        }
        disk.quietly().faults.clear();
        for _ in 0..2 {
            let found = held(&open(&disk).unwrap());
            prop_assert!(possible.contains(&found), "{found:?} is none of {possible:?}");
            possible = vec![found];
            disk.quietly().end(End::Power);
        }
    }
}

/// A store with one message in each of its queues, acknowledged.
fn filled(disk: &Arc<FaultyDisk>) -> JournalStore {
    let store = open(disk).unwrap();
    for n in 0..QUEUES {
        let cell = store.create(queue(n)).unwrap();
        send(&store, &cell, n.into());
    }
    store.log().commit().unwrap();
    store
}

/// Stops the machine before every single operation of `work` in turn, and calls `check` with what
/// is found.
fn stop_everywhere(work: impl Fn(&JournalStore), check: impl Fn(&Held)) {
    let everything = 1_000;
    for stop in 0..everything {
        for (seed, end) in [
            (1, End::Process),
            (2, End::Power),
            (3, End::Power),
            (4, End::Power),
        ] {
            let disk = Arc::new(FaultyDisk::default());
            let store = filled(&disk);
            {
                let mut state = disk.quietly();
                state.seed = seed;
                state.operation = 0;
                state.faults = BTreeMap::from([(stop, Fault::Stop)]);
            }
            work(&store);
            let stopped = disk.quietly().stopped;
            drop(store);
            disk.quietly().faults.clear();
            disk.quietly().end(end);
            check(&held(&open(&disk).unwrap()));
            if !stopped {
                assert!(stop > 5, "hardly anything was done");
                return;
            }
        }
    }
    panic!("it never ends");
}

#[test]
fn compaction_may_stop_anywhere() {
    let before = held(&filled(&Arc::default()));
    stop_everywhere(JournalStore::compact, |found| assert_eq!(*found, before));
}

#[test]
fn a_start_may_stop_anywhere() {
    let before = held(&filled(&Arc::default()));
    for stop in 0..100 {
        for (seed, end) in [(1, End::Process), (2, End::Power), (3, End::Power)] {
            let disk = Arc::new(FaultyDisk::default());
            drop(filled(&disk));
            {
                let mut state = disk.quietly();
                state.seed = seed;
                state.operation = 0;
                state.faults = BTreeMap::from([(stop, Fault::Stop)]);
            }
            let opened = open(&disk).is_ok();
            let stopped = disk.quietly().stopped;
            disk.quietly().faults.clear();
            disk.quietly().end(end);
            assert_eq!(held(&open(&disk).unwrap()), before);
            if opened && !stopped {
                assert!(stop > 5, "hardly anything was done");
                return;
            }
        }
    }
    panic!("it never ends");
}

#[test]
fn a_start_after_an_absence_may_stop_anywhere_and_leaves_it_out_once() {
    let on = |day: u32| Timestamp(u64::from(day) * 86_400);
    let used = |store: &JournalStore| {
        let used = |n| store.find(Name::Recipient, &recipient(n))?.lock().used();
        (0..QUEUES).map(|n| used(n).unwrap().0).collect::<Vec<_>>()
    };
    let before: Vec<_> = (0..QUEUES).map(|n| 100 + u32::from(n)).collect();
    let (stood, came_back) = (110, 475);
    let after: Vec<_> = before.iter().map(|day| day + came_back - stood).collect();
    for stop in 0..100 {
        for (seed, end) in [(1, End::Process), (2, End::Power), (3, End::Power)] {
            let disk = Arc::new(FaultyDisk::default());
            let store = open_at(&disk, on(90)).unwrap();
            for (n, day) in (0..QUEUES).zip(&before) {
                let cell = store.create(queue(n)).unwrap();
                let mut queue = cell.lock();
                let change = queue.touch(on(*day)).unwrap();
                store.record(&queue, change);
            }
            store.sweep(on(stood), &Limits::default());
            store.log().commit().unwrap();
            assert_eq!(used(&store), before);
            drop(store);
            {
                let mut state = disk.quietly();
                state.seed = seed;
                state.operation = 0;
                state.faults = BTreeMap::from([(stop, Fault::Stop)]);
            }
            if let Ok(store) = open_at(&disk, on(came_back)) {
                assert_eq!(used(&store), after);
                store.sweep(on(came_back), &Limits::default());
                let _ = store.log().flush();
            }
            let stopped = disk.quietly().stopped;
            disk.quietly().faults.clear();
            disk.quietly().end(end);
            for _ in 0..2 {
                assert_eq!(used(&open_at(&disk, on(came_back)).unwrap()), after);
            }
            if !stopped {
                assert!(stop > 5, "hardly anything was done");
                return;
            }
        }
    }
    panic!("it never ends");
}

#[test]
fn a_confirmation_that_failed_is_not_asked_for_again() {
    let disk = Arc::new(FaultyDisk::default());
    let store = filled(&disk);
    let acknowledged = held(&store);
    let cell = store.find(Name::Recipient, &[1; ID_BYTES]).unwrap();
    send(&store, &cell, 100);
    let position = store.position();
    {
        let mut state = disk.quietly();
        state.operation = 0;
        // A write, and then its confirmation.
        state.faults = BTreeMap::from([(1, Fault::Broken)]);
    }
    assert!(store.log().commit().is_err());
    let operations = disk.quietly().operation;
    send(&store, &cell, 101);
    for _ in 0..3 {
        assert!(store.log().commit().is_err());
        assert!(store.log().flush().is_err());
    }
    assert_eq!(
        disk.quietly().operation,
        operations,
        "the disk was asked again"
    );
    assert!(store.durable() < position);
    assert!(store.close().is_err());
    // The next start must not believe what only the system remembers either: what it found is
    // written anew, and survives a loss of power from then on.
    disk.quietly().end(End::Process);
    let reopened = open(&disk).unwrap();
    let found = held(&reopened);
    drop(reopened);
    disk.quietly().end(End::Power);
    assert_eq!(held(&open(&disk).unwrap()), found);
    assert!(
        found.0[&1]
            .messages
            .starts_with(&acknowledged.0[&1].messages)
    );
}

#[test]
fn a_full_disk_stops_the_store_and_loses_nothing_acknowledged() {
    let disk = Arc::new(FaultyDisk::default());
    let store = filled(&disk);
    let acknowledged = held(&store);
    // A compaction that finds no room does no harm.
    disk.quietly().full = true;
    store.compact();
    disk.quietly().full = false;
    let cell = store.find(Name::Recipient, &[1; ID_BYTES]).unwrap();
    send(&store, &cell, 100);
    store.log().commit().unwrap();
    for n in 101..110 {
        disk.quietly().full = n > 104;
        send(&store, &cell, n);
        let committed = store.log().commit();
        assert_eq!(committed.is_err(), n > 104);
    }
    drop(store);
    // The next start says so, as often as it is tried, and changes nothing.
    for _ in 0..3 {
        assert!(matches!(open(&disk), Err(JournalError::Io { .. })));
    }
    disk.quietly().end(End::Process);
    let found = held(&open(&disk).unwrap());
    let mut expected = acknowledged;
    expected.0.get_mut(&1).unwrap().messages.extend(100..105);
    assert_eq!(found, expected);
}

#[test]
fn damage_behind_what_was_confirmed_is_cut_and_before_it_refused() {
    let disk = Arc::new(FaultyDisk::default());
    let store = filled(&disk);
    let cell = store.find(Name::Recipient, &[1; ID_BYTES]).unwrap();
    let mut confirmed = 0;
    for n in 100..103 {
        confirmed = disk.quietly().files[0].text.len();
        send(&store, &cell, n);
        store.log().commit().unwrap();
    }
    let original = disk.quietly().files[0].text.clone();
    let mut cut = 0;
    for byte in 0..original.len() {
        let disk = Arc::new(FaultyDisk::default());
        let mut text = original.clone();
        text[byte] ^= 0x10;
        {
            let mut state = disk.quietly();
            state.files.push(FileState {
                dirty: text.len(),
                durable: text.clone(),
                text,
            });
            state.names.insert("base.0".into(), 0);
            state.durable_names.insert("base.0".into(), 0);
        }
        match open(&disk) {
            // The last batch, and the mark behind it.
            Ok(store) => {
                assert!(byte >= confirmed, "byte {byte} was confirmed");
                assert!(messages(&store, 1).unwrap().len() >= 3);
                cut += 1;
            }
            Err(JournalError::Damaged { .. }) => assert_eq!(disk.quietly().names.len(), 1),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(cut, original.len() - confirmed);
}
