//! Taking up what is stored.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use junto_crypto::CryptoRng;

use super::{
    super::{
        execution::Execution,
        identity::KnownKeys,
        machine::{Machine, Work},
        step::{Key, Rows, Step},
        wire::{Malformed, Reader},
    },
    Node,
};

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
