//! What the carrier reports, and whose connections are whose.

use std::collections::VecDeque;

use junto_crypto::CryptoRng;

use super::{
    super::{
        endpoint::{ConnectionId, Event, Tag},
        error::{Misuse, SessionError},
        limits::ORPHANS_MAX,
        machine::Machine,
        party::PartyIndex,
        step::{Effect, LocalId, Outcome, PeerSlot, Step},
    },
    Node,
};

impl Node {
    /// How an effect ended.
    ///
    /// # Errors
    /// [`SessionError::Defect`] if the carrier gave something that no session can use.
    pub fn outcome(
        &mut self,
        outcome: Outcome,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step, SessionError> {
        if let Outcome::Address { tag, .. }
        | Outcome::Invitation { tag, .. }
        | Outcome::Joined { tag, .. } = &outcome
        {
            self.serve(tag, None);
        }
        let mut claimed = None;
        let mut step = match outcome {
            Outcome::Address { tag, link } => {
                let Some((local, None)) = Machine::read_tag(&tag) else {
                    return Ok(Step::default());
                };
                let (result, step) = self.with(&local, rng, |machine, work| {
                    machine
                        .address(link, work.step)
                        .map_err(SessionError::Defect)
                });
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
                let (result, step) = self.with(&local, rng, |machine, work| {
                    machine
                        .invitation(slot, connection, &link, work)
                        .map_err(SessionError::Defect)
                });
                gone_is_fine(result)?;
                step
            }
            Outcome::Joined { tag, connection } => {
                let Some((local, Some(slot))) = Machine::read_tag(&tag) else {
                    return Ok(Step::default());
                };
                claimed = Some((connection, local, slot));
                self.tell(&local, rng, |machine, work| {
                    machine.attach(slot, connection, work.step);
                })
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
                let mut step = self.tell(&local, rng, |machine, _| machine.sent(slot));
                if let Some(machine) = self.sessions.get_mut(&local) {
                    machine.after_sent(slot, &mut step);
                }
                self.sweep(&local);
                step
            }
        };
        if let Some((connection, local, slot)) = claimed {
            let peer = self
                .sessions
                .get(&local)
                .and_then(|machine| machine.peers.get(&slot));
            if peer.is_some_and(|peer| peer.connection == Some(connection)) {
                self.connections.insert(connection, (local, slot));
                step.absorb(self.adopt(connection, rng));
            } else {
                // Its place, or the session, has gone meanwhile.
                self.orphans.retain(|(orphan, _)| *orphan != connection);
                step.effects.push(Effect::Delete { connection });
            }
        }
        self.drop_refused(&mut step);
        Ok(step)
    }

    /// Our own relay refuses what an operation needs. Whether it is still needed.
    pub fn refused(&mut self, tag: &Tag, reason: String) -> bool {
        self.serve(tag, Some(reason))
    }

    fn serve(&mut self, tag: &Tag, refusal: Option<String>) -> bool {
        let machine = Machine::read_tag(tag).and_then(|(local, _)| self.sessions.get_mut(&local));
        machine.is_some_and(|machine| {
            machine.unserved = refusal;
            true
        })
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
                let (result, mut step) = self.with(&local, rng, |machine, work| {
                    machine.request(id, &info, work);
                    Ok(())
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
                self.tell(&local, rng, |machine, work| {
                    machine.attach(slot, connection, work.step);
                    machine.connected(slot, binding, info, work);
                })
            }
            Event::Message {
                connection,
                id,
                ref body,
            } => {
                let Some((local, slot)) = self.owner(connection, None) else {
                    return self.orphan(connection, event);
                };
                let step = self.tell(&local, rng, |machine, work| {
                    machine.message(slot, id, body.clone(), work);
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
                let step = self.tell(&local, rng, |machine, work| {
                    machine.unreachable(slot, work);
                });
                self.sweep(&local);
                step
            }
            Event::Relay { .. } | Event::Irregular { .. } => Step::default(),
        }
    }

    /// The session that a connection belongs to, by name, and the party at its other end once that is known.
    #[must_use]
    pub fn peer_at(&self, connection: ConnectionId) -> Option<(&str, Option<PartyIndex>)> {
        let (local, slot) = self.connections.get(&connection)?;
        let machine = self.sessions.get(local)?;
        Some((machine.link.params().name.as_str(), machine.party_of(*slot)))
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

    /// Whether an event is of a connection that no session will claim: a process that died left it over, or
    /// whoever is at its other end was turned away.
    fn is_of_nobody(&self, event: &Event) -> bool {
        let is_joiners = match event {
            Event::Connected { tag, .. } => match Machine::read_tag(tag) {
                // Its place in the session is gone, or the session is: `owner`.
                Some((_, Some(_))) => return true,
                Some((_, None)) | None => true,
            },
            _ => false,
        };
        // It is of an accepted request, or what was said on it, unless an answer of the carrier is to say so.
        let mut sessions = self.sessions.values();
        !sessions.any(|machine| machine.awaits_connection(is_joiners))
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
}

/// A session that is gone needs no outcome any more.
fn gone_is_fine(result: Result<(), SessionError>) -> Result<(), SessionError> {
    match result {
        Err(SessionError::Misuse(Misuse::NoSuchSession)) => Ok(()),
        result => result,
    }
}
