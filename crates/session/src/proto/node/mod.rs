//! All sessions of a profile over one carrier: the machine that a shell drives.

mod calls;
mod carried;
mod load;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use junto_crypto::{
    CryptoRng,
    ed25519::{SigningKey, VerifyingKey},
    hash,
};

use super::{
    conduct::Room,
    endpoint::{ConnectionId, Event, Lines},
    error::{LocalError, Misuse, SessionError},
    identity::{self, KnownKeys, Policy, ProfileBinding},
    limits::{PINNED_MAX, RELAY_BYTES_MAX, SESSIONS_MAX},
    link::{Params, SessionLink},
    machine::{Machine, Phase, Role, Work},
    party::{DisplayName, Members, PartyIndex},
    roster::{FormationId, Roster, SessionId, SessionKeys},
    safety_code::SafetyCode,
    step::{Delta, Effect, Key, LocalId, PeerSlot, Step},
    wire::Put,
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
    /// For the policy `pinned`: the profile keys of the others, at most [`PINNED_MAX`]. None: all that the profile
    /// knows ([`Node::trust`]).
    pub pinned: Vec<VerifyingKey>,
}

/// Somebody whom the host turned away, as `pinned` does not admit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// What it calls itself; proves nothing.
    pub name: DisplayName,
    /// Its profile key, which it has proved.
    pub key: VerifyingKey,
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

/// Somebody who asked to join a session of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joiner {
    /// The host's number for it.
    pub number: u8,
    /// What it calls itself; proves nothing.
    pub name: DisplayName,
    /// Its profile key, if the policy asks for one.
    pub profile: Option<VerifyingKey>,
    /// Whether it came after it was let in; once the roster stands, whether it has proved itself to us.
    pub connected: bool,
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
    /// Which of the others say the same of their users.
    pub verified_by: Members,
    /// What it asks of identities.
    pub policy: Policy,
    /// The link, at a host whose session still waits for parties.
    pub link: Option<SessionLink>,
    /// Who has asked to join, at a host whose session has not formed yet.
    pub joiners: Vec<Joiner>,
    /// The last few whom a host turned away since it started, as they are not pinned.
    pub strangers: Vec<Stranger>,
    /// For the policy `pinned`: the profile keys that it was opened or joined with. None: all that the profile knows.
    pub pinned: Vec<VerifyingKey>,
    /// The roster, once it stands.
    pub roster: Option<Roster>,
    /// Why it will never form, for people; if so.
    pub failure: Option<String>,
}

impl Summary {
    /// Whether this session, under the policy `pinned`, admits a profile key; `known` are those of the profile.
    #[must_use]
    pub fn admits(&self, key: &VerifyingKey, known: &KnownKeys) -> bool {
        identity::is_pinned(key, &self.pinned, known)
    }

    /// Whether who watches a session has nothing new to see.
    pub(crate) fn shows_the_same(&self, before: &Self) -> bool {
        self.stage == before.stage
            && self.connected == before.connected
            && self.joiners == before.joiners
            && self.strangers == before.strangers
            && self.verified_by == before.verified_by
    }
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

impl Node {
    /// Opens a machine for one call, and pumps it afterwards.
    fn with<T>(
        &mut self,
        local: &LocalId,
        rng: &mut dyn CryptoRng,
        call: impl FnOnce(&mut Machine, &mut Work<'_>) -> Result<T, SessionError>,
    ) -> (Result<T, SessionError>, Step) {
        let mut step = Step::default();
        let Some(machine) = self.sessions.get_mut(local) else {
            return (Err(Misuse::NoSuchSession.into()), step);
        };
        let mut work = Work {
            step: &mut step,
            rng,
            known: &mut self.known,
        };
        let result = call(machine, &mut work);
        machine.pump(&mut step);
        // A place may be given to somebody else, whose connection is another one.
        for effect in &step.effects {
            if let Effect::Delete { connection } = effect {
                self.connections.remove(connection);
            }
        }
        (result, step)
    }

    /// The same for what cannot fail; nothing happens to a session that is gone.
    fn tell(
        &mut self,
        local: &LocalId,
        rng: &mut dyn CryptoRng,
        call: impl FnOnce(&mut Machine, &mut Work<'_>),
    ) -> Step {
        let (_, step) = self.with(local, rng, |machine, work| {
            call(machine, work);
            Ok(())
        });
        step
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
        if persona.pinned.len() > PINNED_MAX {
            return Err(Misuse::TooMany("pinned parties").into());
        }
        if link.params.policy != Policy::Pinned && !persona.pinned.is_empty() {
            return Err(Misuse::Policy.into());
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
        machine.pinned = persona.pinned.clone();
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

    /// The store is a copy from a backup: nothing is said any more in any of its sessions. Gives their number.
    pub fn came_back(&mut self) -> (usize, Step) {
        let mut step = Step::default();
        for machine in self.sessions.values_mut() {
            machine.retire(&mut step.delta);
        }
        (self.sessions.len(), step)
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

    fn machine_mut(&mut self, local: &LocalId) -> Result<&mut Machine, SessionError> {
        self.sessions
            .get_mut(local)
            .ok_or(SessionError::Misuse(Misuse::NoSuchSession))
    }

    /// Whether the session has formed; an error if it never will.
    ///
    /// # Errors
    /// [`SessionError::Peer`] or [`SessionError::Refused`] if formation failed; [`LocalError::Carrier`] while
    /// our own relay refuses what it takes.
    pub fn is_formed(&self, local: &LocalId) -> Result<bool, SessionError> {
        let machine = self.machine(local)?;
        match &machine.phase {
            Phase::Formed => Ok(true),
            Phase::Meeting | Phase::Binding => match &machine.unserved {
                Some(reason) => Err(LocalError::Carrier(reason.as_str().into()).into()),
                None => Ok(false),
            },
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

    /// Whether the carrier has everything that was said in a session, but to the parties `spared`; of one
    /// that is gone it has.
    #[must_use]
    pub fn is_given(&self, local: &LocalId, spared: Members) -> bool {
        let machine = self.sessions.get(local);
        machine.is_none_or(|machine| machine.is_given(spared))
    }

    /// What the carrier does for a session, but for its connections with the parties `spared`; nothing for
    /// one that is gone.
    #[must_use]
    pub fn lines(&self, local: &LocalId, spared: Members) -> Lines {
        let machine = self.sessions.get(local);
        machine.map_or_else(Lines::default, |machine| machine.lines(spared))
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
    pub fn verify(
        &mut self,
        local: &LocalId,
        verified: bool,
        rng: &mut dyn CryptoRng,
    ) -> (Result<(), SessionError>, Step) {
        self.with(local, rng, |machine, work| {
            machine.formed()?;
            machine.verify(verified, work.step);
            Ok(())
        })
    }

    /// Frees the place of somebody who asked to join and never comes; once the roster stands, ends the
    /// formation in its name.
    ///
    /// # Errors
    /// [`Misuse::NotMeeting`], [`Misuse::NoJoiner`].
    pub fn turn_away(
        &mut self,
        local: &LocalId,
        joiner: u8,
        rng: &mut dyn CryptoRng,
    ) -> (Result<(), SessionError>, Step) {
        self.with(local, rng, |machine, work| {
            Ok(machine.turn_away(joiner, work)?)
        })
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
        let (result, step) = self.with(local, rng, |machine, work| {
            machine.close(work.step);
            Ok(())
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
    pub(crate) fn memory(&self) -> (usize, usize) {
        (self.connections.len(), self.orphans.len())
    }

    #[cfg(test)]
    pub(crate) fn machine_of(&self, local: &LocalId) -> &Machine {
        &self.sessions[local]
    }

    /// Says something that the core itself would not say.
    #[cfg(test)]
    pub(crate) fn slip(
        &mut self,
        local: &LocalId,
        to: PartyIndex,
        record: &super::record::Record,
        rng: &mut dyn CryptoRng,
    ) -> Step {
        self.tell(local, rng, |machine, work| {
            machine.push_to(to, record, work.step);
        })
    }

    /// Our session key, for a protocol that signs its own transcript under labels of its own.
    ///
    /// # Errors
    /// [`Misuse::NoSuchSession`].
    pub fn signing_key(&self, local: &LocalId) -> Result<SigningKey, SessionError> {
        let machine = self.machine(local)?;
        Ok(SigningKey::from_seed(machine.keys.signing.seed()))
    }

    /// How much has come of each other party; nothing is known of those who are not read for now.
    #[must_use]
    pub fn heard(&self, local: &LocalId) -> Vec<(PartyIndex, Option<u64>)> {
        let machine = self.sessions.get(local);
        machine.map_or_else(Vec::new, |machine| machine.heard())
    }

    /// For whom a message has to wait, as there is no room for it now.
    #[must_use]
    pub fn without_room(&self, local: &LocalId, room: Room) -> Members {
        let machine = self.sessions.get(local);
        machine.map_or(Members::NONE, |machine| machine.without_room(room))
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
    // What has formed keeps its name, also if nothing can be said in it any more.
    let formed = stage == Stage::Formed || machine.is_retired();
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
        verified_by: machine.verified_by(),
        policy: machine.link.params.policy,
        link: (machine.role == Role::Host && stage == Stage::Meeting).then(|| machine.link.clone()),
        joiners: machine.joiners(),
        strangers: machine.strangers.iter().cloned().collect(),
        pinned: machine.pinned.clone(),
        roster: agreed.map(|agreed| agreed.roster.clone()),
        failure: match &machine.phase {
            Phase::Failed(failure) => Some(failure.error().to_string()),
            Phase::Meeting | Phase::Binding | Phase::Formed | Phase::Closing => None,
        },
    }
}
