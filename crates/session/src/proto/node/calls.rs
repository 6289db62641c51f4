//! Calls on executions and channels.

use std::collections::BTreeMap;

use bytes::Bytes;
use junto_crypto::CryptoRng;

use super::{
    super::{
        channel::{ChannelMessage, Receipt},
        error::SessionError,
        execution::{Incoming, Kind, Purpose, Seed},
        party::{Members, PartyIndex},
        statement::{InstanceId, Round},
        step::{LocalId, Step},
    },
    Node,
};

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
        self.with(local, rng, |machine, work| {
            machine.open_execution(purpose, work)
        })
    }

    pub fn open_executions(&self, local: &LocalId) -> Result<Vec<Purpose>, SessionError> {
        let executions = self.machine(local)?.executions.values();
        Ok(executions.map(|it| it.purpose.clone()).collect())
    }

    pub fn seed(&mut self, local: &LocalId, id: &InstanceId) -> Result<Seed, SessionError> {
        self.machine_mut(local)?.seed(id)
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
        self.with(local, rng, |machine, work| {
            machine.say(id, round, to, payload, work)
        })
    }

    pub fn broadcast(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        round: Round,
        payload: &Bytes,
        rng: &mut dyn CryptoRng,
    ) -> (Result<(), SessionError>, Step) {
        self.with(local, rng, |machine, work| {
            machine.broadcast(id, round, payload, work)
        })
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
        self.with(local, rng, |machine, work| {
            machine.gather(id, round, kind, from, work)
        })
    }

    pub fn next_message(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        rng: &mut dyn CryptoRng,
    ) -> (Result<Option<Incoming>, SessionError>, Step) {
        self.with(local, rng, |machine, work| machine.next_message(id, work))
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
        self.tell(local, rng, |machine, _| {
            machine.probe_round(id, round, kind, from);
        })
    }

    /// Asks all other parties of a session what they have.
    pub fn probe_all(&mut self, local: &LocalId, rng: &mut dyn CryptoRng) -> Step {
        self.tell(local, rng, |machine, _| machine.probe_all())
    }

    /// Who keeps a round from being complete.
    ///
    /// # Errors
    /// How the execution ended, if it has.
    /// Who keeps a round from being complete, for a caller that ends nothing by giving up waiting.
    ///
    /// # Errors
    /// How the execution ended, if it has: also now, if somebody who is missing has stopped.
    pub fn lapse(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
        rng: &mut dyn CryptoRng,
    ) -> (Result<Members, SessionError>, Step) {
        self.with(local, rng, |machine, work| {
            machine.lapse(id, round, kind, from, work)
        })
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
        self.machine_mut(local)?
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
        self.with(local, rng, |machine, work| {
            machine.expire(id, round, kind, from, work)
        })
    }

    pub fn give_up(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        text: &str,
        accused: Members,
        rng: &mut dyn CryptoRng,
    ) -> (Result<(), SessionError>, Step) {
        self.with(local, rng, |machine, work| {
            machine.give_up(id, text, accused, work)
        })
    }

    pub fn transcript(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
    ) -> Result<[u8; 32], SessionError> {
        self.machine_mut(local)?.transcript(id)
    }

    pub fn finish(
        &mut self,
        local: &LocalId,
        id: &InstanceId,
        rng: &mut dyn CryptoRng,
    ) -> (Result<[u8; 32], SessionError>, Step) {
        self.with(local, rng, |machine, work| machine.finish(id, work))
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
        self.with(local, rng, |machine, work| {
            machine.channel_say(channel, to, payload, work)
        })
    }

    pub fn channel_next(
        &mut self,
        local: &LocalId,
        channel: &InstanceId,
        rng: &mut dyn CryptoRng,
    ) -> (Result<Option<ChannelMessage>, SessionError>, Step) {
        self.with(local, rng, |machine, work| {
            machine.channel_next(channel, work)
        })
    }

    pub fn channel_done(
        &mut self,
        local: &LocalId,
        receipt: &Receipt,
        rng: &mut dyn CryptoRng,
    ) -> Step {
        self.tell(local, rng, |machine, work| {
            machine.channel_done(receipt, work);
        })
    }
}
