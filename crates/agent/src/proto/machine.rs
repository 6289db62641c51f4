//! All connections and addresses of one profile, as one machine.
//!
//! Inputs change the machine at once; what they bring about is gathered until [`Machine::take_step`],
//! so one transaction can serve any number of inputs. Nothing leaves before it is stored. A machine
//! that is dropped at any point and restored from the store goes on where the last step that was
//! stored left it.

use std::collections::{BTreeMap, BTreeSet};

use junto_crypto::CryptoRng;
use junto_ratchet::{SkippedId, SkippedKey};
use junto_smp::id::RecipientId;

use super::connection::{Address, Connection, Early, InboxRow, Request, Stage};
use super::effects::{Effects, Owner, PostQuantum, Timer};
use super::event::Event;
use super::id::{ConnectionId, MessageId, RequestId, Tag};
use super::instant::Instant;
use super::opening::{self, Opening};
use super::path::{Route, RoutePolicy};
use super::queue::ReceiveQueue;
use super::relay::{RelayId, Token};
use super::relays::retry_refused;
use super::resync::Resync;
use super::rotation::{Place, Schedule};
use super::step::{Output, Row, RowKey, Step};
use super::wire::Malformed;

/// What the application chose.
#[derive(Clone, Debug, Default)]
pub struct MachineConfig {
    /// Whether senders are told when the application has acknowledged their messages.
    pub receipts: bool,
    /// Which way messages go.
    pub routes: RoutePolicy,
    /// Who may give a connection new keys.
    pub resync: Resync,
    /// When queues are replaced.
    pub schedule: Schedule,
}

/// Some of a profile's addresses and connections; those that are gone by now count for nothing.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// Addresses, by tag.
    pub addresses: BTreeSet<Tag>,
    /// Connections.
    pub connections: BTreeSet<ConnectionId>,
}

/// What a process waits for that wants to end: see [`Machine::settling`].
#[derive(Clone, Debug)]
pub struct Settling {
    lines: Lines,
    /// The last command that had been issued.
    command: Token,
    /// The last message that each connection with noise had; there is always another one.
    rows: BTreeMap<ConnectionId, u64>,
    /// Those of them whose queues may still hold what came before.
    unread: BTreeSet<ConnectionId>,
}

/// A row that is not what this version writes, or rows that do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored {table} {fault}")]
pub struct RestoreError {
    /// Which kind of row.
    pub table: &'static str,
    /// What is wrong with it.
    pub fault: Malformed,
}

/// See the module.
pub struct Machine {
    /// Whether senders are told when the application has acknowledged their messages.
    pub(super) receipts: bool,
    pub(super) addresses: BTreeMap<Tag, Address>,
    pub(super) requests: BTreeMap<RequestId, Request>,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) openings: BTreeMap<ConnectionId, Opening>,
    pub(super) tags: BTreeMap<Tag, ConnectionId>,
    /// Whose queues are whose.
    pub(super) routes: BTreeMap<(RelayId, RecipientId), Owner>,
    pub(super) effects: Effects,
}

impl Machine {
    /// A machine with what the store has, rows in the order of their keys. The first step dials the
    /// relays and repeats the events that the application may not have recorded.
    ///
    /// # Errors
    /// [`RestoreError`] if a row cannot be read.
    pub fn restore(
        config: MachineConfig,
        rows: impl IntoIterator<Item = (RowKey, Row)>,
    ) -> Result<Self, RestoreError> {
        let mut effects = Effects::default();
        effects.routes = config.routes;
        effects.resync = config.resync;
        effects.schedule = config.schedule;
        let mut machine = Self {
            receipts: config.receipts,
            addresses: BTreeMap::new(),
            requests: BTreeMap::new(),
            connections: BTreeMap::new(),
            openings: BTreeMap::new(),
            tags: BTreeMap::new(),
            routes: BTreeMap::new(),
            effects,
        };
        let mut late = BTreeMap::new();
        for (key, row) in rows {
            machine.restore_row(key, &row, &mut late)?;
        }
        for connection in machine.connections.values_mut() {
            connection.count_use(&mut machine.effects);
            connection.time_drain(&mut machine.effects);
            connection.time_switch(&mut machine.effects);
            connection.resume_words(&mut machine.effects);
            connection.resume_slots(&mut machine.effects);
            connection.time_leaving(&mut machine.effects);
        }
        machine.sort_queues();
        Ok(machine)
    }

    /// Chooses for the connections made from now on.
    pub fn set_post_quantum(&mut self, post_quantum: PostQuantum) {
        self.effects.post_quantum = post_quantum;
    }

    /// Restores one row; keys of overtaken messages wait in `late` for their connection.
    fn restore_row(
        &mut self,
        key: RowKey,
        row: &[u8],
        late: &mut BTreeMap<ConnectionId, Vec<SkippedKey>>,
    ) -> Result<(), RestoreError> {
        let table = match key {
            RowKey::Address(_) => "address",
            RowKey::Request(_) => "request",
            RowKey::Connection(_) => "connection",
            RowKey::Renewal(_) => "renewal",
            RowKey::Parallel(_) => "parallel queues",
            RowKey::Noise(_) => "noise",
            RowKey::Invitation(_) => "invitation",
            RowKey::LateKey(..) => "late key",
            RowKey::Outbox(..) => "outgoing message",
            RowKey::Early(..) => "early message",
            RowKey::Inbox(..) => "incoming message",
        };
        let bad = |fault| RestoreError { table, fault };
        let orphan = bad(Malformed::Trailing);
        match key {
            RowKey::Address(tag) => {
                let address = Address::from_row(tag, row, &mut self.effects).map_err(bad)?;
                self.route(&address.receive, Owner::Address(tag));
                address.tell_move(&mut self.effects);
                self.addresses.insert(tag, address);
                self.effects.ready(Owner::Address(tag));
            }
            RowKey::Request(id) => {
                let request = Request::from_row(row).map_err(bad)?;
                let (tag, info) = (request.address, request.info.clone());
                self.effects.event(Event::Request { id, tag, info });
                self.requests.insert(id, request);
            }
            RowKey::Connection(id) if row.first() == Some(&opening::ROW) => {
                self.restore_opening(id, row).map_err(bad)?;
            }
            RowKey::Connection(id) => {
                let late = late.remove(&id).unwrap_or_default();
                self.restore_connection(id, row, late).map_err(bad)?;
            }
            RowKey::Renewal(id) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                let restored = connection.restore_renewal(row, &mut self.effects);
                restored.map_err(bad)?;
                self.effects.queues_changed();
            }
            RowKey::Parallel(id) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                let restored = connection.restore_parallel(row, &mut self.effects);
                restored.map_err(bad)?;
                self.effects.queues_changed();
            }
            RowKey::Noise(id) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                connection.restore_slots(row).map_err(bad)?;
            }
            RowKey::Invitation(id) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                connection.restore_invitation(row).map_err(bad)?;
            }
            RowKey::LateKey(connection, epoch, number) => {
                let key = SkippedKey::decode(SkippedId { epoch, number }, row);
                late.entry(connection)
                    .or_default()
                    .push(key.map_err(|_| bad(Malformed::Key))?);
            }
            RowKey::Outbox(id, number) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                connection.outbox.insert(number, row.to_vec().into());
            }
            RowKey::Early(id, number) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                let plain = Row::new(row.to_vec());
                let early = Early { plain, since: None };
                connection.early.insert(number, early);
            }
            RowKey::Inbox(id, number) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                let InboxRow {
                    receipt,
                    integrity,
                    body,
                } = InboxRow::from_row(row).map_err(bad)?;
                connection.inbox.insert(number, receipt);
                let message = MessageId::new(number);
                self.effects.event(Event::Message {
                    connection: id,
                    id: message,
                    integrity,
                    body,
                });
            }
        }
        Ok(())
    }

    fn restore_connection(
        &mut self,
        id: ConnectionId,
        row: &[u8],
        late: Vec<SkippedKey>,
    ) -> Result<(), Malformed> {
        let mut connection = Connection::from_row(id, row, late, &mut self.effects)?;
        self.route(&connection.receive, Owner::Connection(id));
        match connection.stage {
            Stage::Active | Stage::Hearing => {
                if let Some(event) = connection.connected_event() {
                    self.effects.event(event);
                }
                connection.time_receipts(&mut self.effects);
            }
            Stage::Failed(error) => {
                self.effects.event(Event::Failed {
                    connection: id,
                    tag: connection.tag,
                    error,
                });
            }
            Stage::Inviting
            | Stage::Joining
            | Stage::Confirming
            | Stage::Leaving(_)
            | Stage::Deleting => {}
        }
        if !matches!(connection.stage, Stage::Leaving(_) | Stage::Deleting) {
            self.tags.insert(connection.tag, id);
        }
        self.connections.insert(id, connection);
        self.effects.ready(Owner::Connection(id));
        Ok(())
    }

    /// Names the queues of connections anew, and ends connections to relays that none needs, if some have
    /// changed.
    pub(super) fn sort_queues(&mut self) {
        if !self.effects.take_queues_changed() {
            return;
        }
        self.routes
            .retain(|_, owner| matches!(owner, Owner::Address(_)));
        for (id, connection) in &self.connections {
            for (place, queue) in connection.receives() {
                let owner = match place {
                    Place::Main => Owner::Connection(*id),
                    Place::Next => Owner::Next(*id),
                    Place::Retired(queue) => Owner::Retired(*id, queue),
                    Place::Parallel(slot) => Owner::Parallel(*id, slot),
                };
                if let Some(created) = &queue.created {
                    self.routes
                        .insert((queue.relay, created.recipient_id), owner);
                }
            }
        }
        self.hang_up_unused();
    }

    pub(super) fn route(&mut self, queue: &ReceiveQueue, owner: Owner) {
        if let Some(created) = &queue.created {
            self.routes
                .insert((queue.relay, created.recipient_id), owner);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        self.effects.now = now;
        while let Some(timer) = self.effects.take_due() {
            match timer {
                Timer::Receipts(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.send_receipts(&mut self.effects, rng);
                    }
                }
                Timer::Gap(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.close_gap(&mut self.effects, rng);
                    }
                }
                Timer::Drain(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.drain_timed(&mut self.effects);
                    }
                }
                Timer::Switch(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.switch(&mut self.effects, rng);
                    }
                }
                Timer::Rotation(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.rotation_due(&mut self.effects, rng);
                    }
                }
                Timer::Words(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.words_due(&mut self.effects, rng);
                    }
                }
                Timer::Offers(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.offers_due(&mut self.effects, rng);
                    }
                }
                Timer::Quota(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.unblock(&mut self.effects);
                    }
                }
                Timer::Noise(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.slot_due(&mut self.effects, rng);
                    }
                }
                Timer::Acknowledge(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.acknowledge_held(&mut self.effects);
                    }
                }
                Timer::Parting(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.parting_due(&mut self.effects, rng);
                    }
                }
                Timer::Requests(tag) => self.ask_for_requests(tag),
                Timer::Retry(relay) => {
                    for address in self.addresses.values_mut() {
                        retry_refused(&mut address.receive, relay);
                    }
                    for connection in self.connections.values_mut() {
                        for queue in connection.queues_mut() {
                            retry_refused(queue, relay);
                        }
                        connection.retry_next(relay);
                    }
                    for opening in self.openings.values_mut() {
                        opening.void(relay);
                    }
                    self.ready_all(relay);
                }
            }
        }
        self.sort_queues();
    }

    /// Makes keys that the answer to a message would wait for otherwise, for one connection. `false`
    /// if there are none to make. Changes nothing that is stored; call it when nothing else is due.
    pub fn prepare(&mut self, rng: &mut impl CryptoRng) -> bool {
        let Some(id) = self.effects.take_unprepared() else {
            return false;
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.prepare(rng);
        }
        true
    }

    /// When to call [`Machine::handle_timeout`], and why.
    #[must_use]
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        self.effects.next_timeout()
    }

    /// Whether something waits to leave. If not, changes may wait for company in their transaction.
    pub fn is_urgent(&mut self) -> bool {
        self.pump();
        self.effects.has_outputs()
    }

    /// Whether there is anything to store or to release.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.effects.has_work()
    }

    /// What is to leave on these lines by now, for [`Machine::is_settled`].
    #[must_use]
    pub fn settling(&self, lines: Lines) -> Settling {
        let connections = lines.connections.iter();
        let connections = connections.filter_map(|id| self.connections.get(id));
        let noisy = connections.filter(|it| it.stage == Stage::Active && it.slots.is_noisy());
        let rows: BTreeMap<_, _> = noisy.map(|it| (it.id, it.sent.next_id() - 1)).collect();
        Settling {
            lines,
            command: self.effects.last_token(),
            unread: rows.keys().copied().collect(),
            rows,
        }
    }

    /// Whether everything that was to leave on these lines has been taken by its relay, and the relays
    /// are there to take more: a process that ends now keeps nobody waiting there. What had come is read. Of
    /// connections with noise, everything that was to leave when the waiting began; and their queues have been empty
    /// for a moment since.
    #[must_use]
    pub fn is_settled(&self, settling: &mut Settling) -> bool {
        let is_unread = |id: &ConnectionId| {
            let connection = self.connections.get(id);
            connection.is_some_and(|it| !it.is_read_out(&self.effects))
        };
        settling.unread.retain(is_unread);
        let Settling {
            lines,
            command,
            rows,
            unread,
        } = &*settling;
        let is_sent = |connection: &Connection| {
            // With several queues one that works is enough.
            let mut sends = connection.sends();
            let sends_up =
                connection.send.is_none() || sends.any(|send| self.effects.is_up(send.relay));
            let mut receives = connection.receives();
            let is_up = sends_up && receives.any(|(_, queue)| self.effects.is_up(queue.relay));
            match connection.stage {
                Stage::Failed(_) => true,
                Stage::Hearing => connection.is_held_up(),
                Stage::Leaving(_) | Stage::Deleting => false,
                Stage::Inviting | Stage::Joining | Stage::Confirming | Stage::Active => {
                    let last = rows.get(&connection.id).copied();
                    let is_all_taken = !connection.has_untaken(last.unwrap_or(u64::MAX));
                    is_up && is_all_taken && !connection.owes_probe(&self.effects)
                }
            }
        };
        let is_closed = |address: &Address| {
            let publication = address.receive.publication.as_ref();
            !address.closing
                && self.effects.is_up(address.receive.relay)
                && publication.is_none_or(|it| it.is_sent())
        };
        let is_opened = |id| self.openings.get(id).is_none_or(|it| it.fault.is_some());
        let connections = lines.connections.iter();
        let addresses = lines.addresses.iter();
        self.is_idle()
            && unread.is_empty()
            && !self
                .effects
                .awaits_answer(lines, *command, |id| rows.contains_key(&id))
            && lines.connections.iter().all(is_opened)
            && connections
                .filter_map(|id| self.connections.get(id))
                .all(is_sent)
            && addresses
                .filter_map(|tag| self.addresses.get(tag))
                .all(is_closed)
    }

    /// Which relays these lines use, which way, and whether they are there.
    #[must_use]
    pub fn routes(&self, lines: &Lines) -> BTreeSet<Route> {
        let addresses = lines.addresses.iter();
        let receiving = addresses
            .filter_map(|tag| self.addresses.get(tag))
            .map(|address| (true, address.receive.relay));
        let connections = lines.connections.iter();
        let both = connections
            .filter_map(|id| self.connections.get(id))
            .flat_map(|connection| {
                let sends = connection.sends().map(|send| (false, send.relay));
                let receives = connection.receives();
                receives.map(|(_, queue)| (true, queue.relay)).chain(sends)
            });
        let opening = lines.connections.iter();
        let opening = opening.filter_map(|id| self.openings.get(id));
        receiving
            .chain(both)
            .chain(opening.map(|opening| (false, opening.relay)))
            .filter_map(|(receives, relay)| {
                let (path, reach) = self.effects.way(relay)?;
                let path = path.clone();
                Some(Route {
                    receives,
                    path,
                    reach,
                })
            })
            .collect()
    }

    /// Issues the commands that are due.
    fn pump(&mut self) {
        for owner in self.effects.take_ready() {
            match owner {
                Owner::Address(tag) => {
                    let Some(address) = self.addresses.get_mut(&tag) else {
                        continue;
                    };
                    if address.closing {
                        address.pump_close(&mut self.effects);
                    } else {
                        address.receive.pump(owner, &mut self.effects);
                        address.receive.pump_link(owner, &mut self.effects);
                    }
                }
                Owner::Connection(id)
                | Owner::Next(id)
                | Owner::Retired(id, _)
                | Owner::Parallel(id, _) => {
                    let Some(connection) = self.connections.get_mut(&id) else {
                        continue;
                    };
                    connection.pump(&mut self.effects);
                }
                Owner::Opening(id) => self.pump_opening(id),
            }
        }
    }

    /// What may leave before the next step is stored: messages for the application, and answers to
    /// calls that need not be durable. Should the process die before that, the same comes again after the restart. Whoever
    /// does not ask finds them in the step.
    #[must_use]
    pub fn take_prompt(&mut self) -> Vec<Output> {
        self.effects.take_prompt()
    }

    /// What all inputs since the last step have brought about.
    pub fn take_step(&mut self) -> Option<Step> {
        self.pump();
        for owner in self.effects.take_dirty() {
            self.write_row(owner);
        }
        let delta = core::mem::take(&mut self.effects.delta);
        let mut outputs = self.effects.take_prompt();
        outputs.extend(self.effects.take_outputs());
        (!delta.is_empty() || !outputs.is_empty()).then(|| Step::new(delta, outputs))
    }

    fn write_row(&mut self, owner: Owner) {
        let (key, row) = match owner {
            Owner::Address(tag) => {
                let Some(address) = self.addresses.get(&tag) else {
                    return;
                };
                (RowKey::Address(tag), address.to_row())
            }
            Owner::Connection(id)
            | Owner::Next(id)
            | Owner::Retired(id, _)
            | Owner::Parallel(id, _) => {
                let Some(connection) = self.connections.get(&id) else {
                    return;
                };
                if connection.receive.publication.is_some()
                    && connection.stage == Stage::Inviting
                    && let Ok(row) = connection.invitation_row()
                {
                    self.effects.delta.put(RowKey::Invitation(id), row);
                }
                (RowKey::Connection(id), connection.to_row())
            }
            Owner::Opening(id) => {
                let Some(opening) = self.openings.get(&id) else {
                    return;
                };
                (RowKey::Connection(id), opening.to_row())
            }
        };
        // Every part of a row is bounded below what its length fields can say.
        if let Ok(row) = row {
            self.effects.delta.put(key, row);
        }
    }
}
