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
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    mesh::{Hub, Peer, take},
    pair::{LineId, Lives, STALLED},
    silence::LOOK_EVERY,
};
pub use crate::proto::paths::{Contact, PLACES_MAX};
use crate::{
    Channel, PartyIndex,
    proto::{
        Malformed,
        paths::{Offer, PACKET_MAX},
    },
};

/// How long one attempt may take.
const CALL: Duration = Duration::from_secs(10);
/// Between two attempts: at first, and at most. A path that lasted for the latter begins anew.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Packets handed to a path and not yet on it.
const LINE_QUEUE: usize = 2;

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
    /// Returns when others are to be told anew how they can reach us. What it has said once is not lost if it is given up.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(core::future::pending())
    }
}

/// The ways of a run that has others than the queues.
pub(super) struct Paths {
    pub(super) policy: Policy,
    pub(super) ways: Arc<dyn Ways>,
    /// For offers.
    pub(super) channel: Channel,
    /// Somebody has been met, and is owed one.
    pub(super) met: Notify,
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

impl Paths {
    /// `peer` has been met: it is told how to reach us.
    pub(super) fn met(&self, peer: &Peer) {
        peer.with(|state| state.pair.owed = true);
        self.met.notify_one();
    }
}

/// Tells others how to reach us in the present lives, and again when that changes. One after the other, so that none
/// hears of the past last.
pub(super) async fn offer(hub: Arc<Hub>) {
    let Some(paths) = &hub.paths else { return };
    // What changes all the time is told as rarely as is called what does not answer.
    let mut pace = Pace::new();
    let mut told = Instant::now();
    loop {
        let changed = async {
            sleep_until(told + pace.0).await;
            paths.ways.changed().await;
        };
        tokio::select! {
            () = paths.met.notified() => {}
            () = changed => {
                pace.ended(told.elapsed());
                told = Instant::now();
                hub.each(|state| state.pair.owed = true);
            }
        }
        for peer in hub.peers() {
            if peer.with(|state| core::mem::take(&mut state.pair.owed)) {
                tell(&hub, paths, peer).await;
            }
        }
    }
}

async fn tell(hub: &Hub, paths: &Paths, peer: &Peer) {
    let party = peer.party;
    // Who is not met yet is told then.
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
    agree(hub, peer);
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
        let lives = loop {
            if let Some(lives) = peer.with(|state| state.pair.wants(&state.link)) {
                break lives;
            }
            if changed.changed().await.is_err() {
                return;
            }
        };
        let began = match timeout(CALL, paths.ways.call(party)).await {
            Ok(Ok(line)) => {
                let began = Instant::now();
                hold(&hub, peer, line, lives).await;
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
            let lives = state.pair.may(&state.link)?;
            state.pair.comes(Instant::now()).then_some(lives)
        });
        if let Some(lives) = wanted {
            let hub = hub.clone();
            hub.clone().spawn(async move {
                if let Some(peer) = hub.peer(party) {
                    hold(&hub, peer, line, lives).await;
                }
            });
        }
    }
}

/// Uses a path that was made between those lives until it ends.
async fn hold(hub: &Arc<Hub>, peer: &Peer, line: Line, lives: Lives) {
    let (sender, packets) = mpsc::channel(LINE_QUEUE);
    let id = hub.lines.fetch_add(1, Ordering::Relaxed);
    if !peer.with(|state| state.pair.attach(&state.link, lives, id, sender)) {
        return;
    }
    peer.woken.notify_one();
    hub.touch();
    tokio::select! {
        () = inward(hub, peer, id, line.reader) => {}
        _ = outward(peer, line.writer, packets) => {}
    }
    drop(line.guard);
    peer.with(|state| state.pair.detach(id, Instant::now()));
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
    peer: &Peer,
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
    mut packets: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    while let Some(packet) = packets.recv().await {
        // There is room for another one.
        peer.woken.notify_one();
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

/// Gives up paths that carry nothing.
pub(super) async fn look(hub: Arc<Hub>) {
    let Some(paths) = &hub.paths else { return };
    let mut every = interval(LOOK_EVERY);
    // In what this process sleeps nothing can come through.
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    loop {
        every.tick().await;
        let now = Instant::now();
        let slept = now
            .saturating_duration_since(looked)
            .saturating_sub(2 * LOOK_EVERY);
        looked = now;
        for peer in hub.peers() {
            if peer.with(|state| state.pair.look_after(slept, paths.policy, now)) {
                tracing::debug!(party = %peer.party, "direct paths are given up for a while, or had again");
                peer.woken.notify_one();
                hub.touch();
            }
        }
    }
}
