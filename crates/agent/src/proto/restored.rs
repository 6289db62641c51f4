//! A profile that came back from a backup. What its original sent since then is not known here, so no key
//! that the original may have used is used again.
//!
//! | stage | what becomes of it |
//! |---|---|
//! | inviting | nothing: what an invitation offers is only for receiving, and what follows begins with a fresh key |
//! | joining | failed: the first key to send with was agreed already |
//! | confirming, active | receives as before; sends again once the peer has answered with fresh keys, for which it is asked |
//!
//! Messages that wait for their relay were encrypted before the backup; they go out as they are, byte for byte,
//! as they do after a crash, and whoever has them already drops them.

use junto_crypto::CryptoRng;

use super::command::{Misuse, Ticket};
use super::connection::{Connection, Keys, Stage};
use super::effects::Effects;
use super::event::ConnectionFault;
use super::machine::Machine;
use super::resync::{Resync, Sync};

impl Machine {
    /// The store is a copy from a backup: gives up every key that its original may have used to send.
    /// To be stored before anything else happens. Gives the number of connections that it is about.
    pub fn came_back(&mut self) -> usize {
        let Self {
            connections,
            effects,
            ..
        } = self;
        let connections = connections.values_mut();
        connections.fold(0, |count, connection| {
            count + usize::from(connection.came_back(effects))
        })
    }
}

impl Connection {
    fn came_back(&mut self, effects: &mut Effects) -> bool {
        match self.stage {
            Stage::Inviting
            | Stage::Hearing
            | Stage::Leaving(_)
            | Stage::Failed(_)
            | Stage::Deleting => return false,
            Stage::Joining => self.fail(ConnectionFault::Restored, effects),
            Stage::Confirming | Stage::Active => {
                if let Keys::Agreed(ratchet) = &mut self.keys {
                    ratchet.retire_sending();
                }
                // The original may have made a ratchet of those that we asked with.
                if !self.may_speak() {
                    self.resync.sync = Sync::Broken(None);
                    self.store_renewal(effects);
                }
                self.changed(effects);
            }
        }
        true
    }

    /// A message for a connection that has no keys to send with: the peer is asked for new ones, if the agent may
    /// do that by itself.
    pub(super) fn send_renewed(
        &mut self,
        (ticket, body): (Ticket, Vec<u8>),
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let asked = match effects.resync {
            Resync::Automatic => self.resynchronise(effects, rng),
            Resync::OnDemand | Resync::Refused => Err(Misuse::Restored.into()),
        };
        match asked {
            Ok(()) => self.waiting.push_back((ticket, body)),
            Err(error) => effects.answer(ticket, Err(error)),
        }
    }

    /// Whether there are keys to send with: always, but after the profile came back from a backup.
    pub(super) fn can_send(&self) -> bool {
        match &self.keys {
            Keys::Agreed(ratchet) => ratchet.can_send(),
            Keys::Offered(_) => false,
        }
    }
}
