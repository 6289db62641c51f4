//! All sessions of a profile over one carrier: the machine that a shell drives.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use junto_crypto::{
    CryptoRng,
    ed25519::{SigningKey, VerifyingKey},
    hash,
};

use super::{
    channel::{ChannelMessage, Receipt},
    endpoint::{ConnectionId, Event, Lines, Tag},
    error::{Misuse, SessionError},
    execution::{Execution, Incoming, Kind, Purpose, Seed},
    identity::{KnownKeys, Policy, ProfileBinding},
    limits::{ORPHANS_MAX, RELAY_BYTES_MAX, SESSIONS_MAX},
    link::{Params, SessionLink},
    machine::{Machine, Phase, Role, Work},
    party::{DisplayName, Members, PartyIndex},
    roster::{FormationId, Roster, SessionId, SessionKeys},
    safety_code::SafetyCode,
    statement::{InstanceId, Round},
    step::{Delta, Effect, Key, LocalId, Outcome, PeerSlot, Rows, Step},
    wire::{Malformed, Put, Reader},
};

/// What a party brings into a session.
#[derive(Clone, Default)]
pub struct Persona {
    /// What it calls itself; proves nothing.
    pub display_name: DisplayName,
    /// Its profile key, for the policies `tofu` and `pinned` only.
    pub profile: Option<Arc<SigningKey>>,
    /// Where it receives; empty for a joiner that takes what the link proposes.
    pub relay: String,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The host's contact address is being made.
    Preparing,
    /// Parties are joining.
    Meeting,
    /// The roster stands; pairs are connecting.
    Binding,
    /// Ready for use.
    Formed,
    /// It will never form.
    Failed,
    /// It is being closed.
    Closing,
}

/// What there is to say about a session.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its name in this profile.
    pub local: LocalId,
    /// The host's name for it.
    pub name: String,
    /// What its link names: tells whether a link was joined before.
    pub formation: FormationId,
    /// Which side we were on.
    pub role: Role,
    /// Where it stands.
    pub stage: Stage,
    /// How many parties it has or will have.
    pub parties: usize,
    /// How many are connected (before the roster) or bound (after), this one included.
    pub connected: usize,
    /// Once formed.
    pub id: Option<SessionId>,
    /// Once the roster stands: our index.
    pub me: Option<PartyIndex>,
    /// Once formed.
    pub safety_code: Option<SafetyCode>,
    /// Whether the user compared the code and marked it.
    pub verified: bool,
    /// What it asks of identities.
    pub policy: Policy,
    /// The link, at a host whose session still waits for parties.
    pub link: Option<SessionLink>,
    /// The roster, once it stands.
    pub roster: Option<Roster>,
    /// Why it will never form, for people; if so.
    pub failure: Option<String>,
}

/// The core: see the module.
pub struct Node {
    sessions: BTreeMap<LocalId, Machine>,
    connections: BTreeMap<ConnectionId, (LocalId, PeerSlot)>,
    known: KnownKeys,
    /// Events of connections that no session claims yet.
    orphans: VecDeque<(ConnectionId, Event)>,
    body_bytes: usize,
}

/// Opens a machine for one call, and pumps it afterwards.
macro_rules! with_machine {
    ($node:ident, $local:expr, $rng:ident, |$machine:ident, $work:ident| $body:expr) => {{
        let mut step = Step::default();
        let result = match $node.sessions.get_mut($local) {
            None => Err(SessionError::Misuse(Misuse::NoSuchSession)),
            Some($machine) => {
                let mut work = Work {
                    step: &mut step,
                    rng: $rng,
                    known: &mut $node.known,
                };
                let $work = &mut work;
                let result = $body;
                $machine.pump(&mut step);
                result
            }
        };
        (result, step)
    }};
}

impl Node {
    /// Takes up everything stored, for a carrier whose messages hold up to `body_bytes`. The step
    /// repeats what a crash may have interrupted.
    ///
    /// # Errors
    /// [`Malformed`] if the rows are not what this version stores.
    pub fn load(
        rows: Rows,
        body_bytes: usize,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, Step), Malformed> {
        let mut node = Self {
            sessions: BTreeMap::new(),
            connections: BTreeMap::new(),
            known: KnownKeys::default(),
            orphans: VecDeque::new(),
            body_bytes,
        };
        let mut stored = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            stored.push((Key::decode(&key).ok_or(Malformed("stored key"))?, value));
        }
        // Later kinds rest on earlier ones.
        stored.sort_by_key(|(key, _)| (order(key), *key));
        let mut step = Step::default();
        for (key, value) in stored {
            node.load_row(key, &value, &mut step, rng)?;
        }
        let locals: Vec<_> = node.sessions.keys().copied().collect();
        for local in locals {
            let Some(machine) = node.sessions.get_mut(&local) else {
                continue;
            };
            for peer in machine.peers.values_mut() {
                peer.pipe.restored()?;
            }
            machine.begin(&mut step);
            machine.pump(&mut step);
        }
        Ok((node, step))
    }

    fn load_row(
        &mut self,
        key: Key,
        value: &Bytes,
        step: &mut Step,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), Malformed> {
        const BAD: Malformed = Malformed("stored key");
        if let Key::Known(_) = key {
            let mut reader = Reader::new("stored profile key", value);
            let known = reader.verifying_key()?;
            let name = reader.rest();
            self.known.insert(reader.text(name)?, known);
            return Ok(());
        }
        if let Key::Session(local) = key {
            let machine = Machine::restore(local, self.body_bytes, value)?;
            self.sessions.insert(local, machine);
            return Ok(());
        }
        let (Key::Peer(local, _)
        | Key::Pipe(local, _)
        | Key::Out(local, _, _)
        | Key::In(local, _, _)
        | Key::Execution(local, _)
        | Key::Sent(local, _, _, _)
        | Key::Session(local)) = key
        else {
            return Err(BAD);
        };
        let machine = self.sessions.get_mut(&local).ok_or(BAD)?;
        match key {
            Key::Known(_) | Key::Session(_) => {}
            Key::Peer(_, slot) => {
                machine.restore_peer(slot, value)?;
                if let Some(connection) = machine.peers.get(&slot).and_then(|peer| peer.connection)
                {
                    self.connections.insert(connection, (local, slot));
                }
            }
            Key::Pipe(_, slot) => machine.pipe(slot)?.restore(value)?,
            Key::Out(_, slot, seq) => machine.pipe(slot)?.restore_out(seq, value)?,
            Key::Execution(_, id) => {
                let agreed = machine.agreed.as_ref().ok_or(BAD)?;
                let execution = Execution::decode(agreed.id, agreed.me, value)?;
                if execution.is_running() {
                    machine.executions.insert(id, execution);
                } else {
                    machine.ended.insert(id, execution);
                }
            }
            Key::Sent(_, id, round, position) => {
                let digest = value[..].try_into().map_err(|_| BAD)?;
                machine
                    .executions
                    .get_mut(&id)
                    .ok_or(BAD)?
                    .restore_sent(round, position, digest);
            }
            Key::In(_, slot, seq) => {
                if let Some(arrived) = machine.pipe(slot)?.restore_in(seq, value)? {
                    let mut work = Work {
                        step,
                        rng,
                        known: &mut self.known,
                    };
                    machine.dispatch(slot, arrived, &mut work);
                }
            }
        }
        Ok(())
    }

    /// Makes a session as its host. Its link is in its [`Summary`] once the carrier has made the
    /// contact address.
    ///
    /// # Errors
    /// [`SessionError::Misuse`] for invalid parameters.
    pub fn host(
        &mut self,
        params: Params,
        persona: &Persona,
        mut rng: &mut dyn CryptoRng,
    ) -> Result<(LocalId, Step), SessionError> {
        params.check().map_err(Misuse::from)?;
        if persona.relay.len() > RELAY_BYTES_MAX {
            return Err(Misuse::Argument("relay").into());
        }
        let keys = SessionKeys::generate(&mut rng);
        let mut nonce = [0; 32];
        rng.fill_bytes(&mut nonce);
        let link = SessionLink {
            params,
            nonce,
            host: keys.signing.verifying_key(),
            relay: persona.relay.clone(),
            contact: String::new(),
        };
        self.add(Role::Host, link, persona, keys, rng)
    }

    /// Joins a session by its link.
    ///
    /// # Errors
    /// [`SessionError::Misuse`] if the persona does not fit the link's policy.
    pub fn join(
        &mut self,
        link: SessionLink,
        persona: &Persona,
        mut rng: &mut dyn CryptoRng,
    ) -> Result<(LocalId, Step), SessionError> {
        if link.contact.is_empty() {
            return Err(Misuse::Argument("session link").into());
        }
        let keys = SessionKeys::generate(&mut rng);
        self.add(Role::Joiner, link, persona, keys, rng)
    }

    fn add(
        &mut self,
        role: Role,
        link: SessionLink,
        persona: &Persona,
        keys: SessionKeys,
        rng: &mut dyn CryptoRng,
    ) -> Result<(LocalId, Step), SessionError> {
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Misuse::TooMany("sessions").into());
        }
        let profile = match (link.params.policy, &persona.profile) {
            (Policy::Anonymous, None) => None,
            (Policy::Tofu, Some(_)) if persona.display_name.as_str().is_empty() => {
                return Err(Misuse::Policy.into());
            }
            (Policy::Tofu | Policy::Pinned, Some(profile)) => Some(ProfileBinding::sign(
                profile,
                &link.nonce,
                &keys.signing.verifying_key(),
            )),
            (Policy::Anonymous, Some(_)) | (Policy::Tofu | Policy::Pinned, None) => {
                return Err(Misuse::Policy.into());
            }
        };
        let relay = if persona.relay.is_empty() {
            link.relay.clone()
        } else {
            persona.relay.clone()
        };
        let mut local = LocalId([0; 16]);
        rng.fill_bytes(&mut local.0);
        let host = link.host;
        let mut machine = Machine::new(
            local,
            role,
            link,
            relay,
            keys,
            persona.display_name.clone(),
            profile,
            self.body_bytes,
        );
        let mut step = Step::default();
        if role == Role::Joiner {
            let peer = machine.new_peer(0, host);
            machine.peers.insert(0, peer);
            machine.store_peer(0, &mut step.delta);
        }
        machine.store(&mut step.delta);
        machine.begin(&mut step);
        self.sessions.insert(local, machine);
        Ok((local, step))
    }

    /// How an effect ended.
    ///
    /// # Errors
    /// [`SessionError::Defect`] if the carrier gave something that no session can use.
    pub fn outcome(
        &mut self,
        outcome: Outcome,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step, SessionError> {
        let mut claimed = None;
        let mut step = match outcome {
            Outcome::Address { tag, link } => {
                let Some((local, None)) = Machine::read_tag(&tag) else {
                    return Ok(Step::default());
                };
                let (result, step) = with_machine!(self, &local, rng, |machine, work| machine
                    .address(link, work.step)
                    .map_err(SessionError::Defect));
                gone_is_fine(result)?;
                step
            }
            Outcome::Invitation {
                tag,
                connection,
                link,
            } => {
                let Some((local, Some(slot))) = Machine::read_tag(&tag) else {
                    return Ok(Step::default());
                };
                claimed = Some((connection, local, slot));
                let (result, step) = with_machine!(self, &local, rng, |machine, work| machine
                    .invitation(slot, connection, &link, work)
                    .map_err(SessionError::Defect));
                gone_is_fine(result)?;
                step
            }
            Outcome::Joined { tag, connection } => {
                let Some((local, Some(slot))) = Machine::read_tag(&tag) else {
                    return Ok(Step::default());
                };
                claimed = Some((connection, local, slot));
                let (_, step) = with_machine!(self, &local, rng, |machine, work| {
                    machine.attach(slot, connection, work.step);
                    Ok::<_, SessionError>(())
                });
                step
            }
            Outcome::Accepted {
                request,
                connection,
            } => {
                let mut step = Step::default();
                for (local, machine) in &mut self.sessions {
                    if let Some(slot) = machine.accepted(request, connection, &mut step) {
                        claimed = Some((connection, *local, slot));
                        break;
                    }
                }
                step
            }
            Outcome::Sent { connection } => {
                let Some(&(local, slot)) = self.connections.get(&connection) else {
                    return Ok(Step::default());
                };
                let (_, mut step) = with_machine!(self, &local, rng, |machine, _work| {
                    machine.sent(slot);
                    Ok::<_, SessionError>(())
                });
                if let Some(machine) = self.sessions.get_mut(&local) {
                    machine.after_sent(slot, &mut step);
                }
                self.sweep(&local);
                step
            }
        };
        if let Some((connection, local, slot)) = claimed {
            self.connections.insert(connection, (local, slot));
            step.absorb(self.adopt(connection, rng));
        }
        self.drop_refused(&mut step);
        Ok(step)
    }

    /// Replays what came for a connection before we knew whose it was.
    fn adopt(&mut self, connection: ConnectionId, rng: &mut dyn CryptoRng) -> Step {
        let (ours, others) = core::mem::take(&mut self.orphans)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(orphan, _)| *orphan == connection);
        self.orphans = others;
        let mut step = Step::default();
        for (_, event) in ours {
            step.absorb(self.event(event, rng));
        }
        step
    }

    /// Something the carrier reports.
    pub fn event(&mut self, event: Event, rng: &mut dyn CryptoRng) -> Step {
        match event {
            Event::Request { id, tag, info } => {
                let Some((local, None)) = Machine::read_tag(&tag) else {
                    return Step::default();
                };
                let (result, mut step) = with_machine!(self, &local, rng, |machine, work| {
                    machine.request(id, &info, work.step);
                    Ok::<_, SessionError>(())
                });
                if result.is_err() {
                    step.effects.push(Effect::Reject { request: id });
                }
                step
            }
            Event::Connected {
                connection,
                tag,
                ref info,
                binding,
            } => {
                let Some((local, slot)) = self.owner(connection, Some(tag)) else {
                    return self.orphan(connection, event);
                };
                let (_, step) = with_machine!(self, &local, rng, |machine, work| {
                    machine.attach(slot, connection, work.step);
                    machine.connected(slot, binding, info, work);
                    Ok::<_, SessionError>(())
                });
                step
            }
            Event::Message {
                connection,
                id,
                ref body,
            } => {
                let Some((local, slot)) = self.owner(connection, None) else {
                    return self.orphan(connection, event);
                };
                let (_, step) = with_machine!(self, &local, rng, |machine, work| {
                    machine.message(slot, id, body.clone(), work);
                    Ok::<_, SessionError>(())
                });
                self.sweep(&local);
                step
            }
            Event::Failed {
                connection, tag, ..
            } => {
                let by_tag = || Machine::read_tag(&tag).and_then(|(l, s)| Some((l, s?)));
                let owner = connection
                    .and_then(|connection| self.connections.get(&connection).copied())
                    .or_else(by_tag);
                let Some((local, slot)) = owner else {
                    return Step::default();
                };
                let (_, step) = with_machine!(self, &local, rng, |machine, work| {
                    machine.unreachable(slot, work);
                    Ok::<_, SessionError>(())
                });
                self.sweep(&local);
                step
            }
            Event::Relay { .. } => Step::default(),
        }
    }

    fn owner(&mut self, connection: ConnectionId, tag: Option<Tag>) -> Option<(LocalId, PeerSlot)> {
        if let Some(owner) = self.connections.get(&connection) {
            return Some(*owner);
        }
        let (local, slot) = Machine::read_tag(&tag?)?;
        let owner = (local, slot?);
        self.sessions.get(&local)?.peers.get(&owner.1)?;
        self.connections.insert(connection, owner);
        Some(owner)
    }

    fn orphan(&mut self, connection: ConnectionId, event: Event) -> Step {
        let mut step = Step::default();
        if self.is_of_nobody(&event) {
            step.effects.push(Effect::Delete { connection });
            return step;
        }
        let refused = matches!(event, Event::Connected { .. })
            && self
                .sessions
                .values()
                .any(|machine| machine.refused.values().any(|c| *c == Some(connection)));
        // Beyond the bound an event waits in the carrier for the next restart.
        if self.orphans.len() < ORPHANS_MAX {
            self.orphans.push_back((connection, event));
        }
        if refused {
            self.drop_refused(&mut step);
        }
        step
    }

    /// Whether a connection came to stand that no session will claim: a process that died left it over.
    fn is_of_nobody(&self, event: &Event) -> bool {
        let Event::Connected { tag, .. } = event else {
            return false;
        };
        match Machine::read_tag(tag) {
            // Its place in the session is gone, or the session is: `owner`.
            Some((_, Some(_))) => true,
            // It is of an accepted request, unless an answer of the carrier is to say so.
            Some((_, None)) | None => {
                let awaits = |machine: &Machine| machine.awaits_connection();
                !self.sessions.values().any(awaits)
            }
        }
    }

    /// Ends connections that only served to say no, once they have said it.
    fn drop_refused(&mut self, step: &mut Step) {
        for machine in self.sessions.values_mut() {
            machine.refused.retain(|_, connection| {
                let Some(connection) = *connection else {
                    return true;
                };
                let said = self.orphans.iter().any(|(orphan, event)| {
                    *orphan == connection && matches!(event, Event::Connected { .. })
                });
                if said {
                    step.effects.push(Effect::Delete { connection });
                    self.orphans.retain(|(orphan, _)| *orphan != connection);
                }
                !said
            });
        }
    }

    fn sweep(&mut self, local: &LocalId) {
        if self.sessions.get(local).is_some_and(Machine::is_gone) {
            self.sessions.remove(local);
            self.connections.retain(|_, (owner, _)| owner != local);
        }
    }

    /// All sessions.
    pub fn summaries(&self) -> impl Iterator<Item = Summary> {
        self.sessions.values().map(summary)
    }

    /// One session.
    ///
    /// # Errors
    /// [`Misuse::NoSuchSession`].
    pub fn summary(&self, local: &LocalId) -> Result<Summary, SessionError> {
        self.machine(local).map(summary)
    }

    fn machine(&self, local: &LocalId) -> Result<&Machine, SessionError> {
        self.sessions
            .get(local)
            .ok_or(SessionError::Misuse(Misuse::NoSuchSession))
    }

    /// Whether the session has formed; an error if it never will.
    ///
    /// # Errors
    /// [`SessionError::Peer`] or [`SessionError::Refused`] if formation failed.
    pub fn is_formed(&self, local: &LocalId) -> Result<bool, SessionError> {
        let machine = self.machine(local)?;
        match &machine.phase {
            Phase::Formed => Ok(true),
            Phase::Meeting | Phase::Binding => Ok(false),
            Phase::Failed(failure) => Err(failure.error()),
            Phase::Closing => Err(Misuse::Closed.into()),
        }
    }

    /// Whether the other parties have everything that was said in a session, and know that we have
    /// what they said.
    ///
    /// # Errors
    /// [`Misuse::NoSuchSession`].
    pub fn is_flushed(&self, local: &LocalId) -> Result<bool, SessionError> {
        self.machine(local).map(Machine::is_flushed)
    }

    /// Whether the carrier has everything that was said in a session; of one that is gone it has.
    #[must_use]
    pub fn is_given(&self, local: &LocalId) -> bool {
        self.sessions.get(local).is_none_or(Machine::is_given)
    }

    /// What the carrier does for a session; nothing for one that is gone.
    #[must_use]
    pub fn lines(&self, local: &LocalId) -> Lines {
        let machine = self.sessions.get(local);
        machine.map(Machine::lines).unwrap_or_default()
    }

    /// For a caller whose patience ended before the session formed.
    ///
    /// # Errors
    /// Always: [`SessionError::Incomplete`], or why it never will.
    pub fn incomplete(&self, local: &LocalId) -> SessionError {
        match self.machine(local) {
            Err(error) => error,
            Ok(machine) => {
                let (have, missing) = machine.unbound();
                SessionError::Incomplete {
                    have,
                    want: machine.link.params.parties.as_usize(),
                    missing,
                }
            }
        }
    }

    /// Marks the session as compared by safety code, or takes the mark back.
    ///
    /// # Errors
    /// [`Misuse::NotFormed`] before there is a code.
    pub fn verify(&mut self, local: &LocalId, verified: bool) -> Result<Step, SessionError> {
        let machine = self
            .sessions
            .get_mut(local)
            .ok_or(SessionError::Misuse(Misuse::NoSuchSession))?;
        machine.formed()?;
        machine.verified = verified;
        let mut step = Step::default();
        machine.store(&mut step.delta);
        Ok(step)
    }

    /// Closes a session: tells the others, forgets all of it, keys first.
    ///
    /// # Errors
    /// [`Misuse::NoSuchSession`].
    pub fn close(
        &mut self,
        local: &LocalId,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step, SessionError> {
        let (result, step) = with_machine!(self, local, rng, |machine, work| {
            machine.close(work.step);
            Ok::<_, SessionError>(())
        });
        result?;
        self.sweep(local);
        Ok(step)
    }

    /// The profile keys met or listed so far.
    #[must_use]
    pub fn known_keys(&self) -> &KnownKeys {
        &self.known
    }

    /// Lists a profile key under a name (for `pinned`, or to accept a changed key of `tofu`).
    pub fn trust(&mut self, name: &str, key: VerifyingKey) -> Step {
        let mut step = Step::default();
        remember(&mut self.known, name, key, &mut step.delta);
        step
    }

    /// Everybody's signatures over the session id.
    ///
    /// # Errors
    /// [`Misuse::NotFormed`].
    pub fn roster_signatures(
        &self,
        local: &LocalId,
    ) -> Result<BTreeMap<PartyIndex, junto_crypto::ed25519::Signature>, SessionError> {
        let machine = self.machine(local)?;
        machine.formed()?;
        Ok(machine.roster_signatures())
    }

    #[cfg(test)]
    pub(crate) fn machine_of(&self, local: &LocalId) -> &Machine {
        &self.sessions[local]
    }

    /// Our session key, for a protocol that signs its own transcript under labels of its own.
    ///
    /// # Errors
    /// [`Misuse::NoSuchSession`].
    pub fn signing_key(&self, local: &LocalId) -> Result<SigningKey, SessionError> {
        let machine = self.machine(local)?;
        Ok(SigningKey::from_seed(machine.keys.signing.seed()))
    }

    /// Whether a message to `to` (`None`: to all) may be queued now, or has to wait.
    #[must_use]
    pub fn has_room(&self, local: &LocalId, to: Option<PartyIndex>) -> bool {
        self.sessions
            .get(local)
            .is_none_or(|machine| machine.has_room(to))
    }
}

/// Executions and channels of formed sessions: each call is that of [`crate::Execution`] or
/// [`crate::Channel`].
#[expect(
    missing_docs,
    reason = "documented at the shell's methods of the same names"
)]
#[expect(
    clippy::missing_errors_doc,
    reason = "documented at the shell's methods of the same names"
)]
impl Node {
    pub fn open_execution(
        &mut self,
        local: &LocalId,
        purpose: Purpose,
        rng: &mut dyn CryptoRng,
    ) -> (Result<InstanceId, SessionError>, Step) {
        with_machine!(self, local, rng, |machine, work| machine
            .open_execution(purpose, work))
    }

    pub fn seed(&mut self, local: &LocalId, id: &InstanceId) -> Result<Seed, SessionError> {
        self.sessions
            .get_mut(local)
            .ok_or(SessionError::Misuse(Misuse::NoSuchSession))?
            .seed(id)
    }

    pub fn send(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        round: Round,
        to: PartyIndex,
        payload: &Bytes,
        rng: &mut dyn CryptoRng,
    ) -> (Result<(), SessionError>, Step) {
        with_machine!(self, local, rng, |machine, work| machine
            .say(id, round, to, payload, work))
    }

    pub fn broadcast(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        round: Round,
        payload: &Bytes,
        rng: &mut dyn CryptoRng,
    ) -> (Result<(), SessionError>, Step) {
        with_machine!(self, local, rng, |machine, work| machine
            .broadcast(id, round, payload, work))
    }

    pub fn gather(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
        rng: &mut dyn CryptoRng,
    ) -> (
        Result<Option<BTreeMap<PartyIndex, Bytes>>, SessionError>,
        Step,
    ) {
        with_machine!(self, local, rng, |machine, work| machine
            .gather(id, round, kind, from, work))
    }

    pub fn next_message(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        rng: &mut dyn CryptoRng,
    ) -> (Result<Option<Incoming>, SessionError>, Step) {
        with_machine!(self, local, rng, |machine, work| machine
            .next_message(id, work))
    }

    pub fn probe(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
        rng: &mut dyn CryptoRng,
    ) -> Step {
        let (_, step) = with_machine!(self, local, rng, |machine, _work| {
            machine.probe_round(id, round, kind, from);
            Ok::<_, SessionError>(())
        });
        step
    }

    /// Asks all other parties of a session what they have.
    pub fn probe_all(&mut self, local: &LocalId, rng: &mut dyn CryptoRng) -> Step {
        let (_, step) = with_machine!(self, local, rng, |machine, _work| {
            machine.probe(machine.others());
            Ok::<_, SessionError>(())
        });
        step
    }

    /// Who keeps a round from being complete.
    ///
    /// # Errors
    /// How the execution ended, if it has.
    pub fn missing(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
    ) -> Result<Members, SessionError> {
        self.sessions
            .get_mut(local)
            .ok_or(SessionError::Misuse(Misuse::NoSuchSession))?
            .missing(id, round, kind, from)
    }

    /// Whether a round lacks nothing but echoes: then whoever echoes not may itself be waiting for the
    /// value, and should be given the time to say so.
    ///
    /// # Errors
    /// How the execution ended, if it has.
    pub fn lacks_echoes_only(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
    ) -> Result<bool, SessionError> {
        self.sessions
            .get_mut(local)
            .ok_or(SessionError::Misuse(Misuse::NoSuchSession))?
            .lacks_echoes_only(id, round, kind, from)
    }

    pub fn expire(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
        rng: &mut dyn CryptoRng,
    ) -> (Result<(), SessionError>, Step) {
        with_machine!(self, local, rng, |machine, work| machine
            .expire(id, round, kind, from, work))
    }

    pub fn give_up(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        text: &str,
        accused: Members,
        rng: &mut dyn CryptoRng,
    ) -> (Result<(), SessionError>, Step) {
        with_machine!(self, local, rng, |machine, work| machine
            .give_up(id, text, accused, work))
    }

    pub fn transcript(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
    ) -> Result<[u8; 32], SessionError> {
        self.sessions
            .get_mut(local)
            .ok_or(SessionError::Misuse(Misuse::NoSuchSession))?
            .transcript(id)
    }

    pub fn finish(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        rng: &mut dyn CryptoRng,
    ) -> (Result<[u8; 32], SessionError>, Step) {
        with_machine!(self, local, rng, |machine, work| machine.finish(id, work))
    }

    pub fn channel(&self, local: &LocalId, label: &str) -> Result<InstanceId, SessionError> {
        self.machine(local)?.channel(label)
    }

    pub fn channel_send(
        &mut self,
        local: &LocalId,
        channel: &InstanceId,
        to: PartyIndex,
        payload: Bytes,
        rng: &mut dyn CryptoRng,
    ) -> (Result<(), SessionError>, Step) {
        with_machine!(self, local, rng, |machine, work| machine
            .channel_say(channel, to, payload, work))
    }

    pub fn channel_next(
        &mut self,
        local: &LocalId,
        channel: &InstanceId,
        rng: &mut dyn CryptoRng,
    ) -> (Result<Option<ChannelMessage>, SessionError>, Step) {
        with_machine!(self, local, rng, |machine, work| machine
            .channel_next(channel, work))
    }

    pub fn channel_done(
        &mut self,
        local: &LocalId,
        receipt: &Receipt,
        rng: &mut dyn CryptoRng,
    ) -> Step {
        let (_, step) = with_machine!(self, local, rng, |machine, work| {
            machine.channel_done(receipt, work);
            Ok::<_, SessionError>(())
        });
        step
    }
}

/// A session that is gone needs no outcome any more.
fn gone_is_fine(result: Result<(), SessionError>) -> Result<(), SessionError> {
    match result {
        Err(SessionError::Misuse(Misuse::NoSuchSession)) => Ok(()),
        result => result,
    }
}

fn order(key: &Key) -> u8 {
    match key {
        Key::Known(_) => 0,
        Key::Session(_) => 1,
        Key::Peer(..) => 2,
        Key::Pipe(..) => 3,
        Key::Out(..) => 4,
        Key::Execution(..) => 5,
        Key::Sent(..) => 6,
        Key::In(..) => 7,
    }
}

pub(crate) fn remember(known: &mut KnownKeys, name: &str, key: VerifyingKey, delta: &mut Delta) {
    known.insert(name, key);
    let mut bytes = key.as_bytes().to_vec();
    bytes.put(name.as_bytes());
    delta.put(Key::Known(hash::sha256(name.as_bytes())), bytes);
}

fn summary(machine: &Machine) -> Summary {
    let stage = match &machine.phase {
        Phase::Meeting if machine.link.contact().is_empty() => Stage::Preparing,
        Phase::Meeting => Stage::Meeting,
        Phase::Binding => Stage::Binding,
        Phase::Formed => Stage::Formed,
        Phase::Failed(_) => Stage::Failed,
        Phase::Closing => Stage::Closing,
    };
    let formed = stage == Stage::Formed;
    let agreed = machine.agreed.as_ref();
    Summary {
        local: machine.local,
        name: machine.link.params.name.clone(),
        formation: machine.link.formation(),
        role: machine.role,
        stage,
        parties: machine.link.params.parties.as_usize(),
        connected: machine.unbound().0,
        id: agreed.filter(|_| formed).map(|agreed| agreed.id),
        me: agreed.map(|agreed| agreed.me),
        safety_code: machine.safety_code(),
        verified: machine.verified,
        policy: machine.link.params.policy,
        link: (machine.role == Role::Host && stage == Stage::Meeting).then(|| machine.link.clone()),
        roster: agreed.map(|agreed| agreed.roster.clone()),
        failure: match &machine.phase {
            Phase::Failed(failure) => Some(failure.error().to_string()),
            Phase::Meeting | Phase::Binding | Phase::Formed | Phase::Closing => None,
        },
    }
}
