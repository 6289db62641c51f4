//! One duplex connection: what is kept of it, and how it is stored.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use junto_crypto::{CryptoRng, Zeroizing};
use junto_ratchet::{MakerKeys, Params, Ratchet, SkippedDelta, SkippedId, SkippedKey};

use super::chain::{MessageHash, ReceiveChain, SendChain};
use super::command::Ticket;
use super::effects::{Effects, HEAL_INTERVAL, Owner};
use super::event::{ConnectionFault, Event};
use super::id::{ConnectionId, MessageId, Tag};
use super::instant::Instant;
use super::link::InvitationLink;
use super::noise::Slots;
use super::offers::Offers;
use super::parallel::{Parallel, QUEUES_MAX};
use super::publication::Publication;
use super::queue::{ReceiveQueue, SendQueue};
use super::requests::Allowance;
use super::resync::Resynchronisation;
use super::rotation::Rotation;
use super::step::{Row, RowKey};
use super::wire::{Malformed, Reader, put_large};

/// Queue messages of one connection that may be unanswered at a time. A relay stores 128 a queue.
pub(super) const WINDOW: usize = 32;

/// Messages of one connection that may wait for its relay: 16 KiB each, 4 MiB a connection.
/// Further calls wait.
pub(super) const OUTBOX_MAX: usize = 256;

/// Messages of one connection that may wait for the application: 14 KiB each, 3.5 MiB a
/// connection. Further ones stay with the relay.
pub(super) const INBOX_MAX: usize = 256;

/// Fingerprints of received queue messages kept to recognise repetitions, 16 B each. A peer repeats
/// what was in flight when its connection died: at most [`WINDOW`]. While queues change, messages have two
/// fingerprints.
pub(super) const RECENT_MAX: usize = 4 * WINDOW;
const _: () = assert!(RECENT_MAX > 2 * WINDOW && RECENT_MAX < 256);

/// Messages that may wait for one that they overtook, 14 KiB each. A sender has no more in flight to one queue.
pub(super) const EARLY_MAX: usize = WINDOW;

/// The same when there are several queues, one of which may be far ahead of another.
pub(super) const EARLY_MAX_OF_SEVERAL: usize = 4 * WINDOW;

/// How far the numbers that come by one of several queues may be ahead of the first one that is missing, before its
/// relay waits for the others. A sender's are never that far ahead of one that it has not got rid of
/// ([`STRIPES_AHEAD_MAX`]): so a missing one is not behind a message that waits for it.
pub(super) const AHEAD_MAX: u64 = 3 * WINDOW as u64;

/// How far the numbers that a sender of stripes has sent may be ahead of one that no relay has taken.
pub(super) const STRIPES_AHEAD_MAX: u64 = 2 * WINDOW as u64;
const _: () = assert!(STRIPES_AHEAD_MAX < AHEAD_MAX);
const _: () = assert!(AHEAD_MAX as usize + QUEUES_MAX < EARLY_MAX_OF_SEVERAL);

/// Receipts that may be due, 40 B each in the connection's row: for messages that were acknowledged while the peer
/// takes nothing. The oldest are forgotten beyond that; a receipt is a courtesy.
pub(super) const RECEIPTS_DUE_MAX: usize = 1_024;

/// Hashes of messages that await a receipt, kept in memory only.
pub(super) const AWAITING_MAX: usize = 4_096;

/// The first bytes of a queue message's SHA-256.
pub(super) type Fingerprint = [u8; 16];

/// How the connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// We made an invitation.
    Maker,
    /// We followed an invitation.
    Joiner,
    /// We asked at a contact address, with an invitation inside.
    Requester,
}

/// How far it is. Only ever forward, in this order, but for failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Maker, requester: nobody has answered our invitation.
    Inviting,
    /// Joiner: our queue is not made yet, so our confirmation is not either.
    Joining,
    /// Our confirmation is on its way; a joiner also waits for the peer's.
    Confirming,
    /// Messages flow.
    Active,
    /// The peer has gone, and what it said before is heard: see [`super::parting`].
    Hearing,
    /// Our last word is on its way, until then at most, in seconds since 1970; the application has deleted it.
    Leaving(u64),
    /// It cannot go on; kept until the application deletes it.
    Failed(ConnectionFault),
    /// Deleted by the application; our queue is not deleted from its relay yet.
    Deleting,
}

/// Keys of the end-to-end encryption.
pub(super) enum Keys {
    /// Those that our invitation offers.
    Offered(Box<MakerKeys>),
    /// The ratchet.
    Agreed(Box<Ratchet>),
}

/// The application has these, their sender is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DueReceipt {
    /// The sender's number.
    pub(super) id: u64,
    /// Hash of the agent message.
    pub(super) hash: MessageHash,
}

/// Messages that others overtook.
#[derive(Clone, Copy)]
pub(super) struct Gap {
    /// The sender's number of the first one.
    pub(super) missing: u64,
    /// Since when others wait for it.
    pub(super) began: Instant,
    /// When it counts as lost.
    pub(super) until: Instant,
}

/// A message that came before one that precedes it.
pub(super) struct Early {
    pub(super) plain: Row,
    /// Since when it waits, as far as this process knows.
    pub(super) since: Option<Instant>,
}

/// See the module.
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) tag: Tag,
    pub(super) role: Role,
    pub(super) stage: Stage,
    pub(super) our_info: Vec<u8>,
    pub(super) peer_info: Vec<u8>,
    pub(super) sent: SendChain,
    pub(super) received: ReceiveChain,
    /// The number of the last message handed to the application.
    pub(super) last_delivered: u64,
    pub(super) receive: ReceiveQueue,
    /// The queue of the peer; for a requester first the contact queue.
    pub(super) send: Option<SendQueue>,
    pub(super) keys: Keys,
    /// Joiner: our public keys, until our confirmation carries them.
    pub(super) reply_offer: Option<Box<Params>>,
    pub(super) recent: VecDeque<Fingerprint>,
    /// Whether our queue was full since the last message that came in order.
    pub(super) was_full: bool,
    pub(super) receipts: Vec<DueReceipt>,

    // Rows of their own.
    /// How far a change to new keys is.
    pub(super) resync: Resynchronisation,
    /// How far a change to other queues is.
    pub(super) rotation: Rotation,
    /// Queues beside the first ones.
    pub(super) parallel: Parallel,
    /// When it sends.
    pub(super) slots: Slots,
    /// Encrypted queue messages by number.
    pub(super) outbox: BTreeMap<u64, Bytes>,
    /// Messages that the application has not acknowledged, with their receipts.
    pub(super) inbox: BTreeMap<u64, DueReceipt>,
    /// Decrypted messages that overtook an earlier one, by the sender's number.
    pub(super) early: BTreeMap<u64, Early>,
    pub(super) link: Option<Box<InvitationLink>>,
    /// Keys of overtaken messages that the ratchet keeps.
    pub(super) late: BTreeSet<SkippedId>,

    // Not stored.
    /// Outbox rows that a relay has, and that wait for another one.
    pub(super) kept: BTreeSet<u64>,
    /// Calls that wait for the link.
    pub(super) callers: Vec<Ticket>,
    /// Calls that wait for room in the outbox.
    pub(super) waiting: VecDeque<(Ticket, Vec<u8>)>,
    /// Our messages that await a receipt.
    pub(super) awaiting: BTreeMap<u64, MessageHash>,
    /// The messages that others overtook.
    pub(super) gap: Option<Gap>,
    /// Whether a timer for such messages runs; it may be one for earlier ones.
    pub(super) gap_timed: bool,
    /// The application was told that somebody else reads a queue of ours.
    pub(super) taken_over: bool,
    /// Whether the peer is kept out of our queue, since it has gone.
    pub(super) suspension: Suspension,
    /// Since when the other relays of a connection that ends are waited for.
    pub(super) parting_since: Option<Instant>,
    /// When the peer may be asked again for a message that others overtook.
    pub(super) probe_at: Option<Instant>,
    /// How often the peer has offered queues.
    pub(super) offers: Offers,
    /// When to mix in a fresh post-quantum secret.
    pub(super) heal_at: Instant,
    /// Whether the timer for receipts runs.
    pub(super) receipts_timed: bool,
    /// From when on the agent may ask for new keys by itself again.
    pub(super) resync_at: Option<Instant>,
    /// Until when what we said about keys may be answered before it is said again.
    pub(super) keys_said_until: Option<Instant>,
}

impl Connection {
    pub(super) fn owner(&self) -> Owner {
        Owner::Connection(self.id)
    }

    /// A connection at its start.
    pub(super) fn new(
        (id, tag): (ConnectionId, Tag),
        (role, stage): (Role, Stage),
        our_info: Vec<u8>,
        receive: ReceiveQueue,
        keys: Keys,
    ) -> Self {
        Self {
            id,
            tag,
            role,
            stage,
            our_info,
            peer_info: Vec::new(),
            sent: SendChain::default(),
            received: ReceiveChain::default(),
            last_delivered: 0,
            receive,
            send: None,
            keys,
            reply_offer: None,
            recent: VecDeque::new(),
            receipts: Vec::new(),
            resync: Resynchronisation::default(),
            rotation: Rotation::default(),
            parallel: Parallel::default(),
            slots: Slots::default(),
            kept: BTreeSet::new(),
            outbox: BTreeMap::new(),
            inbox: BTreeMap::new(),
            early: BTreeMap::new(),
            link: None,
            late: BTreeSet::new(),
            callers: Vec::new(),
            waiting: VecDeque::new(),
            awaiting: BTreeMap::new(),
            was_full: false,
            gap: None,
            gap_timed: false,
            taken_over: false,
            suspension: Suspension::Not,
            parting_since: None,
            probe_at: None,
            offers: Offers::default(),
            heal_at: Instant::default(),
            receipts_timed: false,
            resync_at: None,
            keys_said_until: None,
        }
    }

    /// The event that says that messages flow.
    pub(super) fn connected_event(&self) -> Option<Event> {
        let Keys::Agreed(ratchet) = &self.keys else {
            return None;
        };
        Some(Event::Connected {
            connection: self.id,
            tag: self.tag,
            info: self.peer_info.clone(),
            binding: ratchet.binding(),
        })
    }

    /// Whether this queue message was handled before; remembers it otherwise.
    pub(super) fn is_repeated(&self, fingerprint: &Fingerprint) -> bool {
        self.recent.contains(fingerprint)
    }

    /// Whether these ratcheted bytes came before. A copy by another queue may say its number outside the ratchet,
    /// or not.
    pub(super) fn is_repeated_inside(&self, inner: &Fingerprint) -> bool {
        self.recent.iter().any(|it| it[8..] == inner[8..])
    }

    /// Whether a fingerprint is of a message with this number.
    pub(super) fn remembers_number(&self, number: u64) -> bool {
        let number = number.to_be_bytes();
        self.recent.iter().any(|it| it[..8] == number)
    }

    pub(super) fn remember(&mut self, fingerprint: Fingerprint) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(fingerprint);
    }

    /// The row to store.
    pub(super) fn to_row(&self) -> Result<Row, Malformed> {
        let mut out = Zeroizing::new(Vec::with_capacity(8 * 1024));
        out.push(ROW_VERSION);
        out.extend_from_slice(self.tag.as_bytes());
        out.push(match self.role {
            Role::Maker => b'M',
            Role::Joiner => b'J',
            Role::Requester => b'R',
        });
        out.extend_from_slice(&stage_letters(self.stage));
        if let Stage::Leaving(until) = self.stage {
            out.extend_from_slice(&until.to_be_bytes());
        }
        put_large(&mut out, &self.our_info)?;
        put_large(&mut out, &self.peer_info)?;
        self.sent.put(&mut out)?;
        self.received.put(&mut out)?;
        out.extend_from_slice(&self.last_delivered.to_be_bytes());
        self.receive.put(&mut out)?;
        match &self.send {
            None => out.push(b'0'),
            Some(send) => {
                out.push(b'1');
                send.put(&mut out)?;
            }
        }
        match &self.keys {
            Keys::Offered(secrets) => {
                out.push(b'O');
                put_large(&mut out, &secrets.encode())?;
            }
            Keys::Agreed(ratchet) => {
                out.push(b'R');
                let bytes = ratchet.encode();
                let len = u32::try_from(bytes.len()).map_err(|_| Malformed::Long)?;
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(&bytes);
            }
        }
        match &self.reply_offer {
            None => out.push(b'0'),
            Some(offer) => {
                out.push(b'1');
                put_large(&mut out, &offer.encode())?;
            }
        }
        out.push(if self.was_full { b'T' } else { b'F' });
        out.push(self.recent.len() as u8);
        self.recent
            .iter()
            .for_each(|fingerprint| out.extend_from_slice(fingerprint));
        let receipts = u16::try_from(self.receipts.len()).map_err(|_| Malformed::Long)?;
        out.extend_from_slice(&receipts.to_be_bytes());
        self.receipts
            .iter()
            .for_each(|receipt| receipt.put(&mut out));
        Ok(out)
    }

    /// Reads what [`Connection::to_row`] wrote.
    pub(super) fn from_row(
        id: ConnectionId,
        row: &[u8],
        late_keys: Vec<SkippedKey>,
        effects: &mut Effects,
    ) -> Result<Self, Malformed> {
        let mut reader = Reader::new(row);
        if !(ROW_VERSION_OLDEST..=ROW_VERSION).contains(&reader.u8()?) {
            return Err(Malformed::Version);
        }
        let late = late_keys.iter().map(SkippedKey::id).collect();
        let tag = Tag::new(reader.array()?);
        let role = match reader.u8()? {
            b'M' => Role::Maker,
            b'J' => Role::Joiner,
            b'R' => Role::Requester,
            _ => return Err(Malformed::Tag),
        };
        let stage = read_stage(&mut reader)?;
        let our_info = reader.large()?.to_vec();
        let peer_info = reader.large()?.to_vec();
        let sent = SendChain::read(&mut reader)?;
        let received = ReceiveChain::read(&mut reader)?;
        let last_delivered = reader.u64()?;
        let receive = ReceiveQueue::read(&mut reader, effects)?;
        let send = reader.optional(|reader| SendQueue::read(reader, &receive, effects))?;
        let keys = match reader.u8()? {
            b'O' => {
                let keys = MakerKeys::decode(reader.large()?).map_err(|_| Malformed::Key)?;
                Keys::Offered(Box::new(keys))
            }
            b'R' => {
                let len = usize::try_from(reader.u32()?).map_err(|_| Malformed::Long)?;
                let ratchet = Ratchet::decode(reader.bytes(len)?, late_keys);
                Keys::Agreed(Box::new(ratchet.map_err(|_| Malformed::Key)?))
            }
            _ => return Err(Malformed::Tag),
        };
        let reply_offer = reader.optional(|reader| {
            let params = Params::decode(reader.large()?).map_err(|_| Malformed::Key)?;
            Ok(Box::new(params))
        })?;
        let was_full = match reader.u8()? {
            b'T' => true,
            b'F' => false,
            _ => return Err(Malformed::Tag),
        };
        let recent = usize::from(reader.u8()?);
        let recent = (0..recent)
            .map(|_| reader.array())
            .collect::<Result<_, _>>()?;
        let receipts = usize::from(reader.u16()?);
        let receipts = (0..receipts)
            .map(|_| DueReceipt::read(&mut reader))
            .collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self {
            peer_info,
            sent,
            received,
            last_delivered,
            send,
            reply_offer,
            recent,
            was_full,
            receipts,
            late,
            ..Self::new((id, tag), (role, stage), our_info, receive, keys)
        })
    }

    /// Stores what a decryption changed among the keys of overtaken messages.
    pub(super) fn keep_late(&mut self, delta: SkippedDelta, effects: &mut Effects) {
        effects.unprepared(self.id);
        for id in delta.removed {
            self.late.remove(&id);
            effects.delta.delete(self.late_key(id));
        }
        for key in delta.added {
            self.late.insert(key.id());
            effects.delta.put(self.late_key(key.id()), key.encode());
        }
    }

    /// Deletes the keys of overtaken messages: those of another ratchet.
    pub(super) fn forget_late(&mut self, effects: &mut Effects) {
        for id in core::mem::take(&mut self.late) {
            effects.delta.delete(self.late_key(id));
        }
    }

    fn late_key(&self, id: SkippedId) -> RowKey {
        RowKey::LateKey(self.id, id.epoch, id.number)
    }

    /// Has the ratchet mix in a fresh post-quantum secret now and then. Nothing happens if it does in
    /// every step.
    pub(super) fn heal_if_due(&mut self, effects: &mut Effects) {
        if effects.now < self.heal_at {
            return;
        }
        // The first time after a start counts from there.
        let first = self.heal_at == Instant::default();
        self.heal_at = effects.now.after(HEAL_INTERVAL);
        if let (Keys::Agreed(ratchet), false) = (&mut self.keys, first) {
            ratchet.heal();
            effects.unprepared(self.id);
        }
    }

    /// Makes keys for the next step of the ratchet ahead of time.
    pub(super) fn prepare(&mut self, rng: &mut impl CryptoRng) {
        if let Keys::Agreed(ratchet) = &mut self.keys {
            ratchet.prepare(rng);
        }
    }

    /// Marks the row for writing and the connection for another look.
    pub(super) fn changed(&self, effects: &mut Effects) {
        effects.changed(self.owner());
    }

    /// The key of one of its outbox rows.
    pub(super) fn outbox_key(&self, number: u64) -> RowKey {
        RowKey::Outbox(self.id, number)
    }

    /// The key of one of its inbox rows.
    pub(super) fn inbox_key(&self, message: MessageId) -> RowKey {
        RowKey::Inbox(self.id, message.number())
    }
}

/// Format of a connection's row. The second one knows of last words.
const ROW_VERSION: u8 = 2;
/// The oldest one that is still read.
const ROW_VERSION_OLDEST: u8 = 1;

impl DueReceipt {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.hash);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            id: reader.u64()?,
            hash: reader.array()?,
        })
    }
}

fn stage_letters(stage: Stage) -> [u8; 2] {
    match stage {
        Stage::Inviting => *b"I ",
        Stage::Joining => *b"J ",
        Stage::Confirming => *b"C ",
        Stage::Active => *b"A ",
        Stage::Hearing => *b"H ",
        Stage::Leaving(_) => *b"L ",
        Stage::Deleting => *b"D ",
        Stage::Failed(fault) => fault_letters(fault),
    }
}

pub(super) fn fault_letters(fault: ConnectionFault) -> [u8; 2] {
    match fault {
        ConnectionFault::LinkUsed => *b"FL",
        ConnectionFault::LinkGone => *b"FG",
        ConnectionFault::LinkForged => *b"FX",
        ConnectionFault::PeerGone => *b"FP",
        ConnectionFault::QueueGone => *b"FQ",
        ConnectionFault::QueueRefused => *b"FR",
        ConnectionFault::Version => *b"FV",
        ConnectionFault::Restored => *b"FB",
    }
}

pub(super) fn read_fault(letters: &[u8; 2]) -> Result<ConnectionFault, Malformed> {
    Ok(match letters {
        b"FL" => ConnectionFault::LinkUsed,
        b"FG" => ConnectionFault::LinkGone,
        b"FX" => ConnectionFault::LinkForged,
        b"FP" => ConnectionFault::PeerGone,
        b"FQ" => ConnectionFault::QueueGone,
        b"FR" => ConnectionFault::QueueRefused,
        b"FV" => ConnectionFault::Version,
        b"FB" => ConnectionFault::Restored,
        _ => return Err(Malformed::Tag),
    })
}

fn read_stage(reader: &mut Reader<'_>) -> Result<Stage, Malformed> {
    Ok(match &reader.array()? {
        b"I " => Stage::Inviting,
        b"J " => Stage::Joining,
        b"C " => Stage::Confirming,
        b"A " => Stage::Active,
        b"H " => Stage::Hearing,
        b"L " => Stage::Leaving(reader.u64()?),
        b"D " => Stage::Deleting,
        letters => Stage::Failed(read_fault(letters)?),
    })
}

/// A message in the inbox, as stored.
pub(super) struct InboxRow {
    pub(super) receipt: DueReceipt,
    pub(super) integrity: super::chain::Integrity,
    pub(super) body: Vec<u8>,
}

impl InboxRow {
    pub(super) fn to_row(&self) -> Row {
        use super::chain::Integrity;
        let mut out = Zeroizing::new(Vec::with_capacity(64 + self.body.len()));
        self.receipt.put(&mut out);
        let (letter, first, second) = match self.integrity {
            Integrity::Ok => (b'O', 0, 0),
            Integrity::Skipped { from, to } => (b'S', from, to),
            Integrity::Late { id } => (b'L', id, 0),
            Integrity::BadId { id } => (b'I', id, 0),
            Integrity::Duplicate => (b'D', 0, 0),
            Integrity::BadHash => (b'H', 0, 0),
        };
        out.push(letter);
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&second.to_be_bytes());
        out.extend_from_slice(&self.body);
        out
    }

    pub(super) fn from_row(row: &[u8]) -> Result<Self, Malformed> {
        use super::chain::Integrity;
        let mut reader = Reader::new(row);
        let receipt = DueReceipt::read(&mut reader)?;
        let (letter, first, second) = (reader.u8()?, reader.u64()?, reader.u64()?);
        let integrity = match letter {
            b'O' => Integrity::Ok,
            b'S' => Integrity::Skipped {
                from: first,
                to: second,
            },
            b'L' => Integrity::Late { id: first },
            b'I' => Integrity::BadId { id: first },
            b'D' => Integrity::Duplicate,
            b'H' => Integrity::BadHash,
            _ => return Err(Malformed::Tag),
        };
        Ok(Self {
            receipt,
            integrity,
            body: reader.tail().to_vec(),
        })
    }
}

impl Connection {
    /// The row of an invitation: its link, once there is one, and after a line end what is kept of a short one.
    pub(super) fn invitation_row(&self) -> Result<Row, Malformed> {
        let mut out = Zeroizing::new(Vec::new());
        if let Some(link) = &self.link {
            out.extend_from_slice(link.to_string().as_bytes());
        }
        if let Some(publication) = &self.receive.publication {
            out.push(b'\n');
            publication.put(&mut out)?;
        }
        Ok(out)
    }

    /// Takes what [`Connection::invitation_row`] gave.
    pub(super) fn restore_invitation(&mut self, row: &[u8]) -> Result<(), Malformed> {
        let end = row.iter().position(|&byte| byte == b'\n');
        let (text, rest) = row.split_at(end.unwrap_or(row.len()));
        if !text.is_empty() {
            let text = core::str::from_utf8(text).map_err(|_| Malformed::Text)?;
            let link = text.parse().map_err(|_| Malformed::Text)?;
            self.link = Some(Box::new(link));
        }
        if let Some((_, rest)) = rest.split_first() {
            let mut reader = Reader::new(rest);
            let mut publication = Publication::read(&mut reader)?;
            reader.end()?;
            // The keys are gone once the peer has answered, and may be offered otherwise by a later version: what
            // the full link says is what the short one was made with.
            match (&self.link, &self.keys) {
                (Some(link), _) => publication.set_offer(link.offer().clone()),
                (None, Keys::Offered(secrets)) => {
                    publication.set_offer(secrets.offer(junto_ratchet::VersionRange::OURS));
                }
                (None, _) => {}
            }
            self.receive.publication = Some(Box::new(publication));
        }
        Ok(())
    }
}

/// Whether senders are kept out of a queue, while we are connected to its relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspension {
    Not,
    InFlight,
    /// Whatever was in the queue by then and is not acknowledged has been delivered.
    Done,
}

/// A contact address of ours.
pub(super) struct Address {
    pub(super) tag: Tag,
    pub(super) receive: ReceiveQueue,
    pub(super) closing: bool,
    /// Its link is not the one that the application knows.
    pub(super) moved: bool,
    pub(super) recent: VecDeque<Fingerprint>,

    // Not stored.
    pub(super) allowance: Allowance,
    pub(super) suspension: Suspension,
    /// Calls that wait for the link.
    pub(super) callers: Vec<Ticket>,
}

impl Address {
    pub(super) fn new(tag: Tag, receive: ReceiveQueue) -> Self {
        Self {
            tag,
            receive,
            closing: false,
            moved: false,
            recent: VecDeque::new(),
            allowance: Allowance::default(),
            suspension: Suspension::Not,
            callers: Vec::new(),
        }
    }

    /// Issues the next command of a closing address. Who asked already is heard.
    pub(super) fn pump_close(&mut self, effects: &mut Effects) {
        let owner = Owner::Address(self.tag);
        self.receive
            .pump_close(&mut self.suspension, owner, effects);
    }

    /// The connection to the relay died: everything in flight is void.
    pub(super) fn disconnected(&mut self) {
        self.receive.disconnected();
        self.suspension = Suspension::Not;
    }

    pub(super) fn to_row(&self) -> Result<Row, Malformed> {
        let mut out = Zeroizing::new(Vec::with_capacity(512));
        out.push(ROW_VERSION);
        out.push(match (self.closing, self.moved) {
            (true, _) => b'C',
            (false, true) => b'M',
            (false, false) => b'O',
        });
        self.receive.put(&mut out)?;
        out.push(self.recent.len() as u8);
        self.recent
            .iter()
            .for_each(|fingerprint| out.extend_from_slice(fingerprint));
        // The rows of addresses without one end here.
        if let Some(publication) = &self.receive.publication {
            publication.put(&mut out)?;
        }
        Ok(out)
    }

    pub(super) fn from_row(tag: Tag, row: &[u8], effects: &mut Effects) -> Result<Self, Malformed> {
        let mut reader = Reader::new(row);
        if !(ROW_VERSION_OLDEST..=ROW_VERSION).contains(&reader.u8()?) {
            return Err(Malformed::Version);
        }
        let (closing, moved) = match reader.u8()? {
            b'C' => (true, false),
            b'M' => (false, true),
            b'O' => (false, false),
            _ => return Err(Malformed::Tag),
        };
        let mut receive = ReceiveQueue::read(&mut reader, effects)?;
        let recent = usize::from(reader.u8()?);
        let recent = (0..recent)
            .map(|_| reader.array())
            .collect::<Result<_, _>>()?;
        if reader.peek().is_some() {
            receive.publication = Some(Box::new(Publication::read(&mut reader)?));
        }
        reader.end()?;
        Ok(Self {
            closing,
            moved,
            recent,
            ..Self::new(tag, receive)
        })
    }
}

/// A request that the application has neither accepted nor rejected.
pub(super) struct Request {
    pub(super) address: Tag,
    pub(super) link: Box<InvitationLink>,
    pub(super) info: Vec<u8>,
}

impl Request {
    pub(super) fn to_row(&self) -> Result<Row, Malformed> {
        let mut out = Zeroizing::new(Vec::new());
        out.extend_from_slice(self.address.as_bytes());
        put_large(&mut out, self.link.to_string().as_bytes())?;
        out.extend_from_slice(&self.info);
        Ok(out)
    }

    pub(super) fn from_row(row: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(row);
        let address = Tag::new(reader.array()?);
        let text = core::str::from_utf8(reader.large()?).map_err(|_| Malformed::Text)?;
        let link = Box::new(text.parse().map_err(|_| Malformed::Text)?);
        Ok(Self {
            address,
            link,
            info: reader.tail().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use junto_crypto::CryptoRng;
    use junto_smp::command::QueueMode;
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::proto::chain::Integrity;
    use crate::proto::{ContactLink, QueueAddress};

    const RELAY: &str = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example:5223";

    fn queue(effects: &mut Effects, rng: &mut impl CryptoRng) -> ReceiveQueue {
        let mut queue =
            ReceiveQueue::new(RELAY.parse().unwrap(), QueueMode::Messaging, effects, rng);
        let key = junto_crypto::x25519::SecretKey::generate(rng).public_key();
        let recipient = junto_smp::id::RecipientId::random(rng);
        let sender = junto_smp::id::SenderId::random(rng);
        queue.set_created(recipient, sender, key).unwrap();
        queue
    }

    /// A maker, a requester and a joiner.
    fn samples() -> Vec<Connection> {
        let rng = &mut ChaCha20Rng::from_seed([3; 32]);
        let effects = &mut Effects::default();
        let (id, tag) = (ConnectionId::new([1; 16]), Tag::new([2; 32]));
        let maker = Connection::invite(id, tag, vec![1; 9], queue(effects, rng), rng);
        let Keys::Offered(keys) = &maker.keys else {
            panic!()
        };
        let offer = keys.offer(junto_ratchet::VersionRange::OURS);
        let address = maker.receive.address().unwrap();
        let link = InvitationLink::new(address.clone(), offer);
        let receive = queue(effects, rng);
        let mut joiner = Connection::join(id, tag, &link, vec![], receive, (effects, rng)).unwrap();
        joiner.remember([5; 16]);
        joiner.receipts.push(DueReceipt {
            id: 7,
            hash: [8; 32],
        });
        let mode = Some(QueueMode::Contact);
        let contact = ContactLink::new(QueueAddress { mode, ..address });
        let receive = queue(effects, rng);
        let requester =
            Connection::request(id, tag, &contact, vec![2], receive, (effects, rng)).unwrap();
        vec![maker, joiner, requester]
    }

    fn restored(row: &[u8]) -> Result<Connection, Malformed> {
        Connection::from_row(
            ConnectionId::new([1; 16]),
            row,
            Vec::new(),
            &mut Effects::default(),
        )
    }

    #[test]
    fn rows_return() {
        for connection in samples() {
            let row = connection.to_row().unwrap();
            assert_eq!(*restored(&row).unwrap().to_row().unwrap(), *row);
            for len in 0..row.len() {
                assert!(restored(&row[..len]).is_err());
            }
        }
    }

    #[test]
    fn inbox_rows_return() {
        let all = [
            Integrity::Ok,
            Integrity::Skipped { from: 3, to: 9 },
            Integrity::Late { id: 4 },
            Integrity::BadId { id: 2 },
            Integrity::Duplicate,
            Integrity::BadHash,
        ];
        for integrity in all {
            let receipt = DueReceipt {
                id: 4,
                hash: [6; 32],
            };
            let row = InboxRow {
                receipt,
                integrity,
                body: b"body".to_vec(),
            }
            .to_row();
            let back = InboxRow::from_row(&row).unwrap();
            assert_eq!((back.integrity, &back.body[..]), (integrity, &b"body"[..]));
            assert_eq!(*back.to_row(), *row);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn a_damaged_row_never_panics(which in 0..3_usize, at in any::<prop::sample::Index>(), byte: u8) {
            let mut row = samples().swap_remove(which).to_row().unwrap().to_vec();
            let at = at.index(row.len());
            row[at] = byte;
            let _ = restored(&row);
        }
    }
}
