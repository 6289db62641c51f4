//! One session of this profile: its state, its stored form, its connections.
//!
//! | phase | left by | to |
//! |---|---|---|
//! | `Meeting` | roster offered (host: all joiners connected) | `Binding` |
//! | `Binding` | every other party bound, and each says that it is bound with all | `Formed` |
//! | `Meeting`, `Binding` | a fault, a refusal | `Failed` |
//! | any | `close` | `Closing`, then gone |

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use junto_crypto::{
    CryptoRng,
    ed25519::{Signature, VerifyingKey},
};

use super::{
    channel::Channels,
    endpoint::{ConnectionId, Lines, MessageId, RequestId, Tag},
    error::{Misuse, SessionError},
    evidence::{Court, Culprit},
    execution::Execution,
    fault::{Blame, Fault},
    identity::{KnownKeys, ProfileBinding},
    limits::{CHANNELS_BEGUN_MAX, INBOX_BYTES, INBOX_MESSAGES, PINNED_MAX},
    link::SessionLink,
    node::{Joiner, Stranger},
    party::{DisplayName, Members, PartyIndex},
    pipe::{Arrived, Bundle, Pipe},
    record::{Record, Refusal},
    roster::{Entry, FormationId, Roster, SessionId, SessionKeys},
    safety_code::SafetyCode,
    statement::InstanceId,
    step::{Delta, Effect, Key, LocalId, PeerSlot, Step},
    wire::{Malformed, Put, Reader},
};

/// Which side of the link we are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We made the link.
    Host,
    /// We came through it.
    Joiner,
}

/// Why a session did not form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Blamed(Blame),
    Refused(Refusal),
    /// It came back from a backup: what we said since then is not known here, and to say something else in its
    /// place would be a lie.
    Restored,
}

impl Failure {
    pub(crate) fn error(&self) -> SessionError {
        match self {
            Self::Blamed(blame) => SessionError::Peer(blame.clone()),
            Self::Refused(refusal) => SessionError::Refused(*refusal),
            Self::Restored => Misuse::Restored.into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Meeting,
    Binding,
    Formed,
    Failed(Failure),
    Closing,
}

/// The roster as agreed, and our place in it.
pub(crate) struct Agreed {
    pub(crate) roster: Roster,
    pub(crate) id: SessionId,
    pub(crate) offer: Signature,
    pub(crate) me: PartyIndex,
}

/// Another party, or a joiner that may become one.
pub(crate) struct Peer {
    pub(crate) key: VerifyingKey,
    /// At the host: what the joiner asked to be.
    pub(crate) entry: Option<Entry>,
    pub(crate) request: Option<RequestId>,
    /// An invitation of the peer's to join.
    pub(crate) invitation: Option<String>,
    /// Whether it was given our invitation.
    pub(crate) introduced: bool,
    pub(crate) connection: Option<ConnectionId>,
    /// Known once connected.
    pub(crate) binding: Option<[u8; 32]>,
    /// Its signature over the roster, and its share of the safety code.
    pub(crate) bound: Option<(Signature, [u8; 32])>,
    /// Whether it said that it is bound with everybody.
    pub(crate) ready: bool,
    /// Whether it said that its user compared the safety code.
    pub(crate) verified: bool,
    pub(crate) broken: Option<Fault>,
    pub(crate) pipe: Pipe,
}

/// What an input may use besides the machine.
pub(crate) struct Work<'a> {
    pub(crate) step: &'a mut Step,
    pub(crate) rng: &'a mut dyn CryptoRng,
    pub(crate) known: &'a mut KnownKeys,
}

pub(crate) struct Machine {
    pub(crate) local: LocalId,
    pub(crate) role: Role,
    /// At the host, the contact is empty until the carrier made it.
    pub(crate) link: SessionLink,
    /// Where we receive.
    pub(crate) relay: String,
    pub(crate) keys: SessionKeys,
    pub(crate) display_name: DisplayName,
    pub(crate) profile: Option<ProfileBinding>,
    pub(crate) phase: Phase,
    pub(crate) agreed: Option<Agreed>,
    pub(crate) verified: bool,
    /// The profile keys that `pinned` admits here; none: all that the profile knows.
    pub(crate) pinned: Vec<VerifyingKey>,
    /// The last of those whom the host turned away as they are not pinned. Not stored.
    pub(crate) strangers: VecDeque<Stranger>,
    pub(crate) peers: BTreeMap<PeerSlot, Peer>,
    /// Those that run.
    pub(crate) executions: BTreeMap<InstanceId, Execution>,
    /// Those that finished or were aborted: their labels are used up.
    pub(crate) ended: BTreeMap<InstanceId, Execution>,
    /// Messages of executions that we have not opened.
    pub(crate) unopened: BTreeMap<InstanceId, Vec<(PeerSlot, PartyIndex, Arrived)>>,
    pub(crate) channels: Channels,
    /// Pairs whose introduction the host has forwarded.
    pub(crate) forwarded: BTreeSet<(PartyIndex, PartyIndex)>,
    pub(crate) refusals: usize,
    /// Requests being refused, with their connections once known.
    pub(crate) refused: BTreeMap<RequestId, Option<ConnectionId>>,
    pub(crate) body_bytes: usize,
    /// What our own relay said when it refused what the session needs, unless it has changed its mind.
    pub(crate) unserved: Option<String>,
}

const PURPOSE_ADDRESS: u8 = 0;
const PURPOSE_PEER: u8 = 1;

impl Machine {
    pub(crate) fn tag_address(&self) -> Tag {
        self.tag(PURPOSE_ADDRESS, 0)
    }

    pub(crate) fn tag_peer(&self, slot: PeerSlot) -> Tag {
        self.tag(PURPOSE_PEER, slot)
    }

    fn tag(&self, purpose: u8, slot: PeerSlot) -> Tag {
        let mut tag = [0; 32];
        tag[..16].copy_from_slice(&self.local.0);
        tag[16] = purpose;
        tag[17] = slot;
        Tag(tag)
    }

    /// Whose tag it is, and of which peer.
    pub(crate) fn read_tag(tag: &Tag) -> Option<(LocalId, Option<PeerSlot>)> {
        let (local, rest) = tag.0.split_first_chunk::<16>()?;
        match rest {
            [PURPOSE_ADDRESS, 0, zeros @ ..] if zeros.iter().all(|&zero| zero == 0) => {
                Some((LocalId(*local), None))
            }
            [PURPOSE_PEER, slot, zeros @ ..] if zeros.iter().all(|&zero| zero == 0) => {
                Some((LocalId(*local), Some(*slot)))
            }
            _ => None,
        }
    }

    /// The formation's name; `None` at a host whose link does not exist yet.
    pub(crate) fn formation(&self) -> Option<FormationId> {
        (!self.link.contact.is_empty()).then(|| self.link.formation())
    }

    pub(crate) fn others(&self) -> Members {
        self.agreed.as_ref().map_or(Members::NONE, |agreed| {
            Members::all(agreed.roster.count()).without(agreed.me)
        })
    }

    pub(crate) fn party_of(&self, slot: PeerSlot) -> Option<PartyIndex> {
        let key = self.peers.get(&slot)?.key;
        self.agreed.as_ref()?.roster.index_of(&key)
    }

    pub(crate) fn slot_of(&self, party: PartyIndex) -> Option<PeerSlot> {
        let key = self.agreed.as_ref()?.roster.entry(party)?.key;
        self.peers
            .iter()
            .find(|(_, peer)| peer.key == key)
            .map(|(&slot, _)| slot)
    }

    pub(crate) fn culprit(&self, slot: PeerSlot) -> Option<Culprit> {
        match self.party_of(slot) {
            Some(party) => Some(Culprit::Party(party)),
            None if self.role == Role::Joiner => Some(Culprit::Host),
            None => None,
        }
    }

    pub(crate) fn court<'a>(&'a self, formation: &'a FormationId) -> Court<'a> {
        Court {
            formation,
            host: &self.link.host,
            roster: self.agreed.as_ref().map(|agreed| &agreed.roster),
        }
    }

    /// Known once the session has formed.
    pub(crate) fn safety_code(&self) -> Option<SafetyCode> {
        let agreed = self
            .agreed
            .as_ref()
            .filter(|_| self.phase == Phase::Formed)?;
        let mut reveals = Vec::with_capacity(32 * agreed.roster.count().as_usize());
        for (party, _) in agreed.roster.iter() {
            if party == agreed.me {
                reveals.put(&self.keys.reveal.0);
            } else {
                let (_, reveal) = self.peers.get(&self.slot_of(party)?)?.bound.as_ref()?;
                reveals.put(reveal);
            }
        }
        Some(SafetyCode::new(&agreed.id, &reveals))
    }

    /// Everybody's signature over the session id, ours included: proof of the agreed roster.
    pub(crate) fn roster_signatures(&self) -> BTreeMap<PartyIndex, Signature> {
        let mut signatures = BTreeMap::new();
        if let Some(agreed) = &self.agreed {
            let statement = super::statement::roster(&agreed.id);
            signatures.insert(agreed.me, self.keys.signing.sign(&statement));
        }
        for (slot, peer) in &self.peers {
            if let (Some(party), Some((signature, _))) = (self.party_of(*slot), peer.bound) {
                signatures.insert(party, signature);
            }
        }
        signatures
    }

    /// Says nothing any more: the session came back from a backup.
    pub(crate) fn is_retired(&self) -> bool {
        self.phase == Phase::Failed(Failure::Restored)
    }

    /// The session came back from a backup: whatever was to be said is dropped, executions end, and it can only be
    /// looked at and closed.
    pub(crate) fn retire(&mut self, delta: &mut Delta) {
        if self.phase == Phase::Closing {
            return;
        }
        self.erase_executions(delta);
        self.erase_unread(delta);
        for peer in self.peers.values_mut() {
            peer.pipe.clear(delta);
        }
        self.phase = Phase::Failed(Failure::Restored);
        self.store(delta);
    }

    pub(crate) fn push(&mut self, slot: PeerSlot, record: &Record, step: &mut Step) {
        if self.is_retired() {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&slot) {
            peer.pipe.push(record.encode(), &mut step.delta);
        }
    }

    pub(crate) fn push_to(&mut self, party: PartyIndex, record: &Record, step: &mut Step) {
        if let Some(slot) = self.slot_of(party) {
            self.push(slot, record, step);
        }
    }

    /// Gives to the carrier whatever it may have now.
    pub(crate) fn pump(&mut self, step: &mut Step) {
        let Some(formation) = self.formation().filter(|_| !self.is_retired()) else {
            return;
        };
        for peer in self.peers.values_mut() {
            if let (Some(connection), Some(_)) = (peer.connection, peer.binding) {
                step.effects.extend(peer.pipe.pump(&formation, connection));
            }
        }
    }

    pub(crate) fn sent(&mut self, slot: PeerSlot) {
        if let Some(peer) = self.peers.get_mut(&slot) {
            peer.pipe.sent();
        }
    }

    pub(crate) fn message(
        &mut self,
        slot: PeerSlot,
        message: MessageId,
        body: Bytes,
        work: &mut Work<'_>,
    ) {
        let behind = self.is_behind(slot);
        let Some(peer) = self.peers.get_mut(&slot) else {
            return;
        };
        if behind || peer.pipe.is_holding() {
            if !peer.pipe.hold(message, body)
                && let Some(connection) = peer.connection
            {
                work.step.effects.push(Effect::Ack {
                    connection,
                    message,
                });
            }
            return;
        }
        self.take(slot, message, &body, work);
        // A broadcast may be what the claims of somebody whose connection is not read waited for.
        self.catch_up(work);
    }

    /// Reads held messages as far as the application has caught up.
    pub(crate) fn catch_up(&mut self, work: &mut Work<'_>) {
        let mut any = true;
        while any {
            any = false;
            let slots: Vec<_> = self
                .peers
                .iter()
                .filter(|(_, peer)| peer.pipe.is_holding())
                .map(|(&slot, _)| slot)
                .collect();
            for slot in slots {
                while !self.is_behind(slot) {
                    let Some((message, body)) = self
                        .peers
                        .get_mut(&slot)
                        .and_then(|peer| peer.pipe.unhold())
                    else {
                        break;
                    };
                    self.take(slot, message, &body, work);
                    any = true;
                }
            }
        }
    }

    /// Whether more of this peer's messages wait for the application than we want to hold.
    pub(crate) fn is_behind(&self, slot: PeerSlot) -> bool {
        let Some(party) = self.party_of(slot) else {
            return false;
        };
        if self.channels.begun(party) >= CHANNELS_BEGUN_MAX {
            return true;
        }
        let mut unread = self.channels.unread(party);
        for execution in self.executions.values() {
            let more = execution.unread(party);
            unread.bytes += more.bytes;
            unread.messages += more.messages;
        }
        for (_, from, arrived) in self.unopened.values().flatten() {
            if *from == party {
                unread.bytes += arrived.record.len();
                unread.messages += 1;
            }
        }
        unread.bytes >= INBOX_BYTES || unread.messages >= INBOX_MESSAGES
    }

    fn take(&mut self, slot: PeerSlot, message: MessageId, body: &Bytes, work: &mut Work<'_>) {
        let Some(formation) = self.formation() else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&slot) else {
            return;
        };
        if let Some(connection) = peer.connection {
            work.step.effects.push(Effect::Ack {
                connection,
                message,
            });
        }
        let broken = peer.broken.is_some();
        let deaf =
            self.phase == Phase::Closing || self.is_retired() || (broken && !self.still_listens());
        if deaf {
            return;
        }
        let Some(peer) = self.peers.get_mut(&slot) else {
            return;
        };
        let arrived = Bundle::decode(body)
            .map_err(Fault::from)
            .and_then(|bundle| peer.pipe.receive(&formation, bundle, &mut work.step.delta));
        match arrived {
            Ok(arrived) => {
                for arrived in arrived {
                    self.dispatch(slot, arrived, work);
                }
            }
            Err(fault) => self.fault(slot, fault, work),
        }
    }

    pub(crate) fn dispatch(&mut self, slot: PeerSlot, arrived: Arrived, work: &mut Work<'_>) {
        let broken = |peer: &Peer| peer.broken.is_some() && !self.still_listens();
        if self.peers.get(&slot).is_none_or(broken) {
            self.drop_rows(slot, &arrived, &mut work.step.delta);
            return;
        }
        let record = match Record::decode(&arrived.record) {
            Ok(record) => record,
            Err(malformed) => {
                self.drop_rows(slot, &arrived, &mut work.step.delta);
                self.fault(slot, malformed.into(), work);
                return;
            }
        };
        match record {
            Record::Offer(_)
            | Record::Introduction(_)
            | Record::Bind(_)
            | Record::Ready
            | Record::Failed(_)
            | Record::Closed
            | Record::Verified(_)
            | Record::Unformed(_) => {
                self.drop_rows(slot, &arrived, &mut work.step.delta);
                if let Err(fault) = self.formation_record(slot, record, work) {
                    self.fault(slot, fault, work);
                }
            }
            Record::P2p { header, .. }
            | Record::Broadcast { header, .. }
            | Record::Echo { header, .. }
            | Record::Abort { header, .. }
            | Record::Channel { header, .. } => {
                if !matches!(self.phase, Phase::Binding | Phase::Formed) {
                    // Nobody will ask for it.
                    self.drop_rows(slot, &arrived, &mut work.step.delta);
                    return;
                }
                if let Err(fault) = self.check_header(slot, header.from, header.to) {
                    self.drop_rows(slot, &arrived, &mut work.step.delta);
                    self.fault(slot, fault, work);
                    return;
                }
                self.payload_record(slot, record, arrived, work);
            }
        }
    }

    /// After a failed formation pairs still connect, so that everybody learns why: even a lying
    /// host's introductions are of use for that.
    fn still_listens(&self) -> bool {
        matches!(self.phase, Phase::Failed(_))
    }

    fn check_header(&self, slot: PeerSlot, from: PartyIndex, to: PartyIndex) -> Result<(), Fault> {
        let (Some(agreed), Some(peer)) = (&self.agreed, self.peers.get(&slot)) else {
            return Err(Fault::OutOfPlace("message"));
        };
        if peer.bound.is_none() {
            return Err(Fault::OutOfPlace("message"));
        }
        if to != agreed.me || self.party_of(slot) != Some(from) {
            return Err(Fault::WrongParty);
        }
        Ok(())
    }

    pub(crate) fn drop_rows(&self, slot: PeerSlot, arrived: &Arrived, delta: &mut Delta) {
        for seq in arrived.first..=arrived.last {
            delta.delete(Key::In(self.local, slot, seq));
        }
    }

    /// A peer broke the rules of its connection: it is out, and with it what needs it.
    pub(crate) fn fault(&mut self, slot: PeerSlot, fault: Fault, work: &mut Work<'_>) {
        let Some(culprit) = self.culprit(slot) else {
            // A joiner that misbehaves before there is a roster just loses its place.
            self.remove_peer(slot, work.step);
            return;
        };
        let blame = Blame {
            culprit,
            fault: fault.clone(),
        };
        if let Some(peer) = self.peers.get_mut(&slot)
            && peer.broken.is_none()
        {
            peer.broken = Some(fault);
            self.store_peer(slot, &mut work.step.delta);
        }
        match self.phase {
            Phase::Meeting | Phase::Binding => self.fail(Failure::Blamed(blame), work),
            Phase::Formed => self.abort_all_with(slot, &blame, work),
            Phase::Failed(_) | Phase::Closing => {}
        }
    }

    pub(crate) fn remove_peer(&mut self, slot: PeerSlot, step: &mut Step) {
        if let Some(peer) = self.peers.remove(&slot) {
            peer.pipe.erase(&mut step.delta);
            step.delta.delete(Key::Peer(self.local, slot));
            if let Some(connection) = peer.connection {
                step.effects.push(Effect::Delete { connection });
            }
        }
    }

    /// The connection will carry nothing any more.
    pub(crate) fn unreachable(&mut self, slot: PeerSlot, work: &mut Work<'_>) {
        if self.phase == Phase::Closing {
            self.remove_peer(slot, work.step);
            self.finish_closing(work.step);
        } else {
            self.fault(slot, Fault::Unreachable, work);
        }
    }

    /// Asks the peers of `parties` what they have, and so finds out what got lost.
    pub(crate) fn probe(&mut self, parties: Members) {
        for party in parties.iter() {
            if let Some(peer) = self
                .slot_of(party)
                .and_then(|slot| self.peers.get_mut(&slot))
            {
                peer.pipe.probe();
            }
        }
    }

    /// Asks everybody. Before there is a roster a joiner asks its host, who may have turned it away.
    pub(crate) fn probe_all(&mut self) {
        if self.role == Role::Joiner && self.phase == Phase::Meeting {
            for peer in self.peers.values_mut() {
                peer.pipe.probe();
            }
        }
        self.probe(self.others());
    }

    /// Tells the others and forgets everything.
    pub(crate) fn close(&mut self, step: &mut Step) {
        if self.phase == Phase::Closing {
            return;
        }
        if self.role == Role::Host {
            step.effects.push(Effect::CloseAddress {
                tag: self.tag_address(),
            });
        }
        let retired = self.is_retired();
        self.phase = Phase::Closing;
        let slots: Vec<_> = self.peers.keys().copied().collect();
        for slot in slots {
            let stands = |peer: &Peer| peer.binding.is_some() && !retired;
            if self.peers.get(&slot).is_some_and(stands) {
                self.push(slot, &Record::Closed, step);
            } else {
                self.remove_peer(slot, step);
            }
        }
        self.erase_executions(&mut step.delta);
        self.erase_unread(&mut step.delta);
        self.store(&mut step.delta);
        self.finish_closing(step);
    }

    /// In `Closing`: lets go of every peer that was told.
    pub(crate) fn after_sent(&mut self, slot: PeerSlot, step: &mut Step) {
        let busy = self
            .peers
            .get(&slot)
            .is_some_and(|peer| peer.pipe.is_sending());
        if self.phase == Phase::Closing && !busy {
            self.remove_peer(slot, step);
            self.finish_closing(step);
        }
    }

    /// Whether the carrier has everything that was said on connections that stand, but to `spared`.
    pub(crate) fn is_given(&self, spared: Members) -> bool {
        self.besides(spared)
            .all(|peer| peer.broken.is_some() || peer.binding.is_none() || peer.pipe.is_given())
    }

    fn besides(&self, spared: Members) -> impl Iterator<Item = &Peer> + Clone {
        let spared = move |slot| self.party_of(slot).is_some_and(|it| spared.contains(it));
        let peers = self.peers.iter();
        peers.filter_map(move |(&slot, peer)| (!spared(slot)).then_some(peer))
    }

    /// At a host whose session forms: who has asked to join.
    pub(crate) fn joiners(&self) -> Vec<Joiner> {
        let binding = self.phase == Phase::Binding;
        if self.role != Role::Host || !(binding || self.phase == Phase::Meeting) {
            return Vec::new();
        }
        let joiner = |(&number, peer): (&PeerSlot, &Peer)| Joiner {
            number,
            name: peer
                .entry
                .as_ref()
                .map_or_else(DisplayName::default, |entry| entry.name.clone()),
            profile: peer
                .entry
                .as_ref()
                .and_then(|entry| Some(entry.profile.as_ref()?.key)),
            connected: if binding {
                peer.bound.is_some()
            } else {
                peer.binding.is_some()
            },
        };
        self.peers.iter().map(joiner).collect()
    }

    /// Whether there are connections that it has asked for and does not know yet; perhaps of
    /// requests only, that it accepts or refuses.
    pub(crate) fn awaits_connection(&self, only_requests: bool) -> bool {
        let mut peers = self.peers.values();
        peers.any(|peer| peer.connection.is_none() && (peer.request.is_some() || !only_requests))
            || !self.refused.is_empty()
    }

    /// What the carrier does for this session, but for its connections with `spared`.
    pub(crate) fn lines(&self, spared: Members) -> Lines {
        let peers = self.besides(spared);
        let requests = peers.clone().filter_map(|peer| peer.request);
        let connections = peers.filter_map(|peer| peer.connection);
        let tags = self.peers.keys().map(|&slot| self.tag_peer(slot));
        Lines {
            tags: tags.chain([self.tag_address()]).collect(),
            connections: connections
                .chain(self.refused.values().copied().flatten())
                .collect(),
            requests: requests.chain(self.refused.keys().copied()).collect(),
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.peers
            .values()
            .all(|peer| peer.broken.is_some() || peer.pipe.is_flushed())
    }

    pub(crate) fn pipe(&mut self, slot: PeerSlot) -> Result<&mut Pipe, Malformed> {
        self.peers
            .get_mut(&slot)
            .map(|peer| &mut peer.pipe)
            .ok_or(Malformed("stored key"))
    }

    fn finish_closing(&mut self, step: &mut Step) {
        if self.peers.is_empty() {
            step.delta.delete(Key::Session(self.local));
        }
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Closing && self.peers.is_empty()
    }
}

/// Stored form.
impl Machine {
    pub(crate) fn store(&self, delta: &mut Delta) {
        let mut bytes = Vec::with_capacity(512);
        bytes
            .put_u8(1)
            .put_flag(self.role == Role::Joiner)
            .put_flag(self.verified)
            .put_long(&self.link.encode())
            .put_long(self.relay.as_bytes())
            .put_short(self.display_name.as_str().as_bytes());
        self.keys.put(&mut bytes);
        bytes.put_flag(self.profile.is_some());
        if let Some(profile) = &self.profile {
            bytes
                .put(profile.key.as_bytes())
                .put(profile.signature.as_bytes());
        }
        match &self.phase {
            Phase::Meeting => {
                bytes.put_u8(0);
            }
            Phase::Binding => {
                bytes.put_u8(1);
            }
            Phase::Formed => {
                bytes.put_u8(2);
            }
            Phase::Failed(Failure::Blamed(blame)) => {
                bytes.put_u8(3);
                blame.put(&mut bytes);
            }
            Phase::Failed(Failure::Refused(refusal)) => {
                bytes.put_u8(4).put_u8(refusal.code() - 1);
            }
            Phase::Failed(Failure::Restored) => {
                bytes.put_u8(6);
            }
            Phase::Closing => {
                bytes.put_u8(5);
            }
        }
        bytes.put_flag(self.agreed.is_some());
        if let Some(agreed) = &self.agreed {
            bytes
                .put(agreed.offer.as_bytes())
                .put(&agreed.roster.encode());
        }
        // Where there are none, nothing: as it was before there could be.
        for key in &self.pinned {
            bytes.put(key.as_bytes());
        }
        delta.put(Key::Session(self.local), bytes);
    }

    pub(crate) fn restore(
        local: LocalId,
        body_bytes: usize,
        bytes: &[u8],
    ) -> Result<Self, Malformed> {
        let mut reader = Reader::new("stored session", bytes);
        if reader.u8()? != 1 {
            return Err(Malformed("stored session version"));
        }
        let role = if reader.flag()? {
            Role::Joiner
        } else {
            Role::Host
        };
        let verified = reader.flag()?;
        let link = SessionLink::decode(reader.long()?)?;
        let relay = reader.long()?;
        let relay = reader.text(relay)?.to_owned();
        let name = reader.short()?;
        let display_name = DisplayName::new(reader.text(name)?)?;
        let keys = SessionKeys::read(&mut reader)?;
        let profile = if reader.flag()? {
            Some(ProfileBinding {
                key: reader.verifying_key()?,
                signature: reader.signature()?,
            })
        } else {
            None
        };
        let phase = match reader.u8()? {
            0 => Phase::Meeting,
            1 => Phase::Binding,
            2 => Phase::Formed,
            3 => Phase::Failed(Failure::Blamed(Blame::read(&mut reader)?)),
            4 => {
                let code = reader.u8()?.saturating_add(1);
                let refusal = Refusal::from_code(code).ok_or(reader.malformed())?;
                Phase::Failed(Failure::Refused(refusal))
            }
            5 => Phase::Closing,
            6 => Phase::Failed(Failure::Restored),
            _ => return Err(reader.malformed()),
        };
        let agreed = if reader.flag()? {
            let offer = reader.signature()?;
            let roster = Roster::read(&mut reader)?;
            let me = roster
                .index_of(&keys.signing.verifying_key())
                .ok_or(Malformed("stored roster"))?;
            Some(Agreed {
                id: roster.session_id(&link.formation()),
                roster,
                offer,
                me,
            })
        } else {
            None
        };
        let mut pinned = Vec::new();
        while !reader.is_empty() {
            if pinned.len() >= PINNED_MAX {
                return Err(reader.malformed());
            }
            pinned.push(reader.verifying_key()?);
        }
        Ok(Self {
            phase,
            agreed,
            verified,
            pinned,
            ..Self::new(
                local,
                role,
                link,
                relay,
                keys,
                display_name,
                profile,
                body_bytes,
            )
        })
    }

    #[expect(clippy::too_many_arguments, reason = "private: all of them are needed")]
    pub(crate) fn new(
        local: LocalId,
        role: Role,
        link: SessionLink,
        relay: String,
        keys: SessionKeys,
        display_name: DisplayName,
        profile: Option<ProfileBinding>,
        body_bytes: usize,
    ) -> Self {
        Self {
            local,
            role,
            link,
            relay,
            keys,
            display_name,
            profile,
            phase: Phase::Meeting,
            agreed: None,
            verified: false,
            pinned: Vec::new(),
            strangers: VecDeque::new(),
            peers: BTreeMap::new(),
            executions: BTreeMap::new(),
            ended: BTreeMap::new(),
            unopened: BTreeMap::new(),
            channels: Channels::default(),
            forwarded: BTreeSet::new(),
            refusals: 0,
            refused: BTreeMap::new(),
            body_bytes,
            unserved: None,
        }
    }

    pub(crate) fn new_peer(&self, slot: PeerSlot, key: VerifyingKey) -> Peer {
        Peer {
            key,
            entry: None,
            request: None,
            invitation: None,
            introduced: false,
            connection: None,
            binding: None,
            bound: None,
            ready: false,
            verified: false,
            broken: None,
            pipe: Pipe::new(self.local, slot, self.body_bytes),
        }
    }

    pub(crate) fn store_peer(&self, slot: PeerSlot, delta: &mut Delta) {
        let Some(peer) = self.peers.get(&slot) else {
            return;
        };
        let mut bytes = Vec::with_capacity(256);
        bytes
            .put(peer.key.as_bytes())
            .put_flag(peer.introduced)
            .put_flag(peer.entry.is_some());
        if let Some(entry) = &peer.entry {
            entry.put(&mut bytes);
        }
        put_option(&mut bytes, peer.request.map(|id| id.0));
        put_option(&mut bytes, peer.connection.map(|id| id.0));
        put_option(&mut bytes, peer.binding);
        bytes.put_long(peer.invitation.as_deref().unwrap_or_default().as_bytes());
        bytes.put_flag(peer.bound.is_some());
        if let Some((signature, reveal)) = &peer.bound {
            bytes.put(signature.as_bytes()).put(reveal);
        }
        bytes.put_flag(peer.ready);
        bytes.put_flag(peer.broken.is_some());
        if let Some(fault) = &peer.broken {
            Blame {
                culprit: Culprit::Host,
                fault: fault.clone(),
            }
            .put(&mut bytes);
        }
        // Where it did not, nothing: as it was before it could.
        if peer.verified {
            bytes.put_flag(true);
        }
        delta.put(Key::Peer(self.local, slot), bytes);
    }

    pub(crate) fn restore_peer(&mut self, slot: PeerSlot, bytes: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new("stored peer", bytes);
        let key = reader.verifying_key()?;
        let introduced = reader.flag()?;
        let entry = if reader.flag()? {
            Some(Entry::read(&mut reader)?)
        } else {
            None
        };
        let request = read_option(&mut reader)?.map(RequestId);
        let connection = read_option(&mut reader)?.map(ConnectionId);
        let binding = read_option(&mut reader)?;
        let invitation = reader.long()?;
        let invitation = reader.text(invitation)?;
        let invitation = (!invitation.is_empty()).then(|| invitation.to_owned());
        let bound = if reader.flag()? {
            Some((reader.signature()?, reader.array()?))
        } else {
            None
        };
        let ready = reader.flag()?;
        let broken = if reader.flag()? {
            Some(Blame::read(&mut reader)?.fault)
        } else {
            None
        };
        let verified = !reader.is_empty();
        if verified && !reader.flag()? {
            return Err(reader.malformed());
        }
        reader.finish()?;
        let peer = Peer {
            entry,
            request,
            invitation,
            introduced,
            connection,
            binding,
            bound,
            ready,
            verified,
            broken,
            ..self.new_peer(slot, key)
        };
        self.peers.insert(slot, peer);
        Ok(())
    }
}

fn put_option(bytes: &mut Vec<u8>, value: Option<[u8; 32]>) {
    bytes.put_flag(value.is_some());
    if let Some(value) = value {
        bytes.put(&value);
    }
}

fn read_option(reader: &mut Reader<'_>) -> Result<Option<[u8; 32]>, Malformed> {
    if reader.flag()? {
        reader.array().map(Some)
    } else {
        Ok(None)
    }
}
