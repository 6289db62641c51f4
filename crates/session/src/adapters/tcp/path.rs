//! Direct paths beside the queues: which way each message goes, and what becomes of it when a way ends.
//!
//! All begins over the queues. As soon as both ends have told each other, inside the session, how they are reached, their
//! messages are numbered; a path that comes up takes what is said from then on, and what it had on its way when it ends
//! goes once more over the next one, or over the queues. The streams above notice nothing of it.

use std::{
    any::Any,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::mpsc,
    time::{Instant, interval, sleep, timeout},
};

use super::{
    mesh::{Hub, Peer, take},
    silence::Heard,
};
pub use crate::proto::paths::{Contact, PLACES_MAX};
use crate::{
    Channel, PartyIndex,
    proto::{
        Malformed,
        paths::{Offer, PACKET_MAX, Sequence},
        streams::Link,
    },
};

/// What has come over a path is acknowledged after this at the latest.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(10);
/// A path is given up on which for so long nothing of what is under way is acknowledged.
const STALLED: Duration = Duration::from_secs(10);
/// The same, while the other end still waits for what went over the queues before: these may be slow, or away.
const BEHIND_QUEUES: Duration = Duration::from_secs(30);
/// How long one attempt may take.
const CALL: Duration = Duration::from_secs(10);
/// Between two attempts: at first, and at most. A path that lasted for the latter begins anew.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A party may come up with another path so often.
const COMES_EVERY: Duration = Duration::from_secs(10);
/// Paths with one party: one that each has made.
const LINES_MAX: usize = 2;
/// Packets handed to a path and not yet on it.
const LINE_QUEUE: usize = 4;

/// Which ways what a program writes may go from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Over the queues alone. Nobody learns an address from us.
    #[default]
    RelayOnly,
    /// Directly where the other end wants it as well and it works, else over the queues.
    PreferDirect,
    /// Directly or not at all. Words about the run go over the queues, too: who is there, how to be reached, the end.
    DirectOnly,
}

/// Both directions of a path that leads to the right party and nowhere else.
pub struct Line {
    /// From the other end.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// To the other end.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Dropped, it ends the path.
    pub guard: Box<dyn Any + Send>,
}

/// What makes direct paths.
pub trait Ways: Send + Sync + 'static {
    /// How `party` can reach us, for it alone.
    ///
    /// # Errors
    /// If it cannot.
    fn contact(&self, party: PartyIndex) -> io::Result<Contact>;
    /// How `party` is reached, by its own word; the last one counts.
    fn know(&self, party: PartyIndex, contact: Contact);
    /// Makes a path to a party that is known.
    fn call(&self, party: PartyIndex) -> BoxFuture<'_, io::Result<Line>>;
    /// The next path that a known party has made to us. Pending for ever once nothing comes any more.
    fn accept(&self) -> BoxFuture<'_, (PartyIndex, Line)>;
}

/// The ways of a run that has others than the queues.
pub(super) struct Paths {
    pub(super) policy: Policy,
    pub(super) ways: Arc<dyn Ways>,
    /// For offers.
    pub(super) channel: Channel,
}

/// The ways with one other party.
pub(super) struct Pair {
    pub(super) sequence: Sequence,
    /// What we say is numbered from now on.
    numbered: bool,
    /// The last that it made.
    offer: Option<Offer>,
    lines: Vec<(LineId, mpsc::Sender<Bytes>)>,
    /// What is under way from this number on did not go over the first line yet.
    again: u64,
    /// Since when it is not told of all that has come.
    owes: Option<Instant>,
    /// When it last came up with a path.
    came: Option<Instant>,
    /// When there was last a path, or nothing to say.
    reached: Heard,
}

type LineId = u64;

/// What is next to be said, and which way.
pub(super) enum Word {
    Queue(Bytes),
    /// A queue is to take what was under way.
    Again(u64, Bytes),
    Line(mpsc::Sender<Bytes>, Bytes),
}

impl Pair {
    pub(super) fn new() -> Self {
        Self {
            sequence: Sequence::default(),
            numbered: false,
            offer: None,
            lines: Vec::new(),
            again: 0,
            owes: None,
            came: None,
            reached: Heard::at(Instant::now()),
        }
    }

    /// The other end began anew. What it has offered since is kept.
    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            offer: self.offer.take(),
            came: self.came,
            ..Self::new()
        };
    }

    pub(super) fn has_line(&self) -> bool {
        !self.lines.is_empty()
    }

    pub(super) fn has(&self, id: LineId) -> bool {
        self.lines.iter().any(|(line, _)| *line == id)
    }

    /// How the other end is reached, if it has said so in the present lives.
    fn agreed(&self, link: &Link) -> Option<&Contact> {
        let (here, there) = link.lives()?;
        let offer = self.offer.as_ref()?;
        (offer.life == there && offer.named == here).then_some(&offer.contact)
    }

    /// What is next to be said.
    pub(super) fn word(
        &mut self,
        link: &mut Link,
        policy: Policy,
        closing: bool,
        now: Instant,
    ) -> Option<Word> {
        if let Some(hello) = link.hello_next() {
            return Some(Word::Queue(hello));
        }
        if closing {
            // All that it has to come after is acknowledged, or of no use any more.
            return link.last_words().map(Word::Queue);
        }
        let queues = policy != Policy::DirectOnly;
        if !self.numbered {
            if self.agreed(link).is_some() {
                self.numbered = true;
                // What went before it without a number is heard before it.
                return Some(Word::Queue(self.sequence.send(Bytes::new(), false)));
            }
            return queues.then(|| link.message()).flatten().map(Word::Queue);
        }
        let Some((_, line)) = self.lines.first() else {
            if !queues {
                return None;
            }
            if let Some((number, packet)) = self.sequence.again(0) {
                return Some(Word::Again(number, packet));
            }
            return self.over_queues(link);
        };
        let line = line.clone();
        if let Some((number, packet)) = self.sequence.again(self.again) {
            self.again = number + 1;
            return Some(Word::Line(line, packet));
        }
        if self.sequence.has_room() {
            if let Some(message) = link.message() {
                let packet = self.sequence.send(message, true);
                self.again = self.sequence.next();
                return Some(Word::Line(line, packet));
            }
        } else if queues && self.sequence.is_settled() {
            // What went over the queues is not acknowledged yet.
            return self.over_queues(link);
        }
        self.is_due(now)
            .then(|| Word::Line(line, self.sequence.acknowledgement()))
    }

    fn over_queues(&mut self, link: &mut Link) -> Option<Word> {
        let message = link.message()?;
        Some(Word::Queue(self.sequence.send(message, false)))
    }

    fn is_due(&mut self, now: Instant) -> bool {
        if !self.sequence.owes() {
            self.owes = None;
            return false;
        }
        let since = *self.owes.get_or_insert(now);
        let due = self.sequence.owes_much() || now >= since + ACKNOWLEDGE_AFTER;
        if due {
            self.owes = None;
        }
        due
    }

    /// When the other end is to hear of what has come.
    pub(super) fn due(&self) -> Option<Instant> {
        let since = self.owes.filter(|_| self.has_line())?;
        Some(since + ACKNOWLEDGE_AFTER)
    }

    fn attach(&mut self, id: LineId, line: mpsc::Sender<Bytes>) {
        if self.lines.len() == LINES_MAX {
            self.lines.remove(0);
        }
        self.lines.push((id, line));
        if self.lines.len() == 1 {
            self.again = 0;
        }
    }

    fn detach(&mut self, id: LineId) {
        let first = self.lines.first().is_some_and(|(line, _)| *line == id);
        self.lines.retain(|(line, _)| *line != id);
        if first {
            self.again = 0;
        }
    }

    /// Whether a path that the party has made is wanted now.
    fn comes(&mut self, now: Instant) -> bool {
        let early = self.came.is_some_and(|last| now < last + COMES_EVERY);
        if !early {
            self.came = Some(now);
        }
        !early
    }

    /// For how long something was to be said and there was no path for it.
    pub(super) fn unreached(&mut self, link: &Link, now: Instant) -> Duration {
        if self.has_line() || link.is_said() {
            self.reached = Heard::at(now);
        }
        self.reached.silence(now)
    }

    pub(super) fn forgive(&mut self, lost: Duration, now: Instant) {
        self.reached.forgive(lost, now);
    }
}

/// How long to wait before the next attempt. Nothing that anybody says shortens it.
struct Pace(Duration);

impl Pace {
    fn new() -> Self {
        Self(Duration::ZERO)
    }

    /// An attempt has ended, or the path that it made, which has lasted for so long.
    fn ended(&mut self, lasted: Duration) {
        let (first, most) = PAUSE;
        self.0 = match lasted < most {
            true => (self.0 * 2).clamp(first, most),
            false => first,
        };
    }
}

/// Tells `party` how to reach us in the present lives.
pub(super) async fn offer(hub: Arc<Hub>, party: PartyIndex) {
    let (Some(paths), Some(peer)) = (&hub.paths, hub.peer(party)) else {
        return;
    };
    let Some((life, named)) = peer.with(|state| state.link.lives()) else {
        return;
    };
    let contact = match paths.ways.contact(party) {
        Ok(contact) => contact,
        Err(error) => return tracing::warn!(%party, %error, "no direct path is offered"),
    };
    let offer = Offer {
        life,
        named,
        contact,
    };
    if let Err(error) = paths.channel.send(party, offer.encode()).await {
        hub.fail(error);
    }
    agree(&hub, peer);
}

/// Hears how others are reached.
pub(super) async fn hear_offers(hub: Arc<Hub>) {
    let Some(paths) = &hub.paths else { return };
    loop {
        let message = match paths.channel.next().await {
            Ok(message) => message,
            Err(error) => return hub.fail(error),
        };
        if let Err(error) = paths.channel.done(message.receipt).await {
            return hub.fail(error);
        }
        let party = message.from;
        let Some(peer) = hub.peer(party) else {
            continue;
        };
        match Offer::decode(&message.payload) {
            Ok(offer) => peer.with(|state| state.pair.offer = Some(offer)),
            Err(what) => return hub.lied(party, what),
        }
        agree(&hub, peer);
    }
}

/// Both ends may have told each other now.
fn agree(hub: &Hub, peer: &Peer) {
    let contact = peer.with(|state| state.pair.agreed(&state.link).cloned());
    if let (Some(paths), Some(contact)) = (&hub.paths, contact) {
        paths.ways.know(peer.party, contact);
        peer.woken.notify_one();
        hub.touch();
    }
}

/// Makes a path to `party` whenever there is none.
pub(super) async fn keep(hub: Arc<Hub>, party: PartyIndex) {
    let (Some(paths), Some(peer)) = (&hub.paths, hub.peer(party)) else {
        return;
    };
    let mut pace = Pace::new();
    let mut changed = hub.changed.subscribe();
    loop {
        let is_wanted = || {
            peer.with(|state| {
                let agreed = state.pair.agreed(&state.link).is_some();
                agreed && !state.pair.has_line() && state.link.over().is_none()
            })
        };
        while !is_wanted() {
            if changed.changed().await.is_err() {
                return;
            }
        }
        let began = match timeout(CALL, paths.ways.call(party)).await {
            Ok(Ok(line)) => {
                let began = Instant::now();
                hold(&hub, peer, line).await;
                Some(began)
            }
            Ok(Err(error)) => {
                tracing::debug!(%party, %error, "no direct path");
                None
            }
            Err(_) => None,
        };
        pace.ended(began.map_or(Duration::ZERO, |began| began.elapsed()));
        sleep(pace.0).await;
    }
}

/// Takes the paths that others make.
pub(super) async fn accept(hub: Arc<Hub>) {
    let Some(paths) = &hub.paths else { return };
    loop {
        let (party, line) = paths.ways.accept().await;
        let Some(peer) = hub.peer(party) else {
            continue;
        };
        let wanted = peer.with(|state| {
            let agreed = state.pair.agreed(&state.link).is_some();
            agreed && state.pair.comes(Instant::now())
        });
        if wanted {
            let hub = hub.clone();
            hub.clone().spawn(async move {
                if let Some(peer) = hub.peer(party) {
                    hold(&hub, peer, line).await;
                }
            });
        }
    }
}

/// Uses a path until it ends.
async fn hold(hub: &Arc<Hub>, peer: &Peer, line: Line) {
    let (sender, packets) = mpsc::channel(LINE_QUEUE);
    let id = hub.lines.fetch_add(1, Ordering::Relaxed);
    peer.with(|state| state.pair.attach(id, sender));
    peer.woken.notify_one();
    hub.touch();
    tokio::select! {
        () = inward(hub, peer, id, line.reader) => {}
        _ = outward(line.writer, packets) => {}
        () = stalled(peer) => {}
    }
    drop(line.guard);
    peer.with(|state| state.pair.detach(id));
    peer.woken.notify_one();
    hub.touch();
}

/// Takes packets: four bytes of length before each.
async fn inward(
    hub: &Arc<Hub>,
    peer: &Peer,
    id: LineId,
    reader: Box<dyn AsyncRead + Send + Unpin>,
) {
    let mut reader = BufReader::with_capacity(1 << 16, reader);
    while let Ok(length) = reader.read_u32().await {
        let length = length as usize;
        if length > PACKET_MAX {
            return hub.lied(peer.party, Malformed("packet: it is too long"));
        }
        let mut packet = Vec::new();
        // What is claimed to come takes no memory before it has.
        let mut claimed = (&mut reader).take(length as u64);
        match claimed.read_to_end(&mut packet).await {
            Ok(count) if count == length => {}
            Ok(_) | Err(_) => return,
        }
        take(hub, peer, &packet.into(), Some(id)).await;
    }
}

async fn outward(
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
    mut packets: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    while let Some(packet) = packets.recv().await {
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let packet = [&length.to_be_bytes(), &packet[..]].concat();
        // Who does not read holds up nothing else.
        timeout(STALLED, writer.write_all(&packet)).await??;
        if packets.is_empty() {
            writer.flush().await?;
        }
    }
    Ok(())
}

/// Returns once the other end has not acknowledged anything for too long.
async fn stalled(peer: &Peer) {
    let mut every = interval(Duration::from_secs(1));
    let (mut last, mut count, mut most) = (0, 0, STALLED);
    while count < most.as_secs() {
        every.tick().await;
        let (settled, acknowledged, behind) = peer.with(|state| {
            let sequence = &state.pair.sequence;
            let behind = sequence.waits_for_queues();
            (sequence.is_settled(), sequence.acknowledged(), behind)
        });
        count = match settled || acknowledged != last {
            true => 0,
            false => count + 1,
        };
        most = if behind { BEHIND_QUEUES } else { STALLED };
        last = acknowledged;
    }
    tracing::debug!(party = %peer.party, "a direct path is given up: nothing is acknowledged");
}
