//! What must hold between the rows of a store, besides that each can be read.

use super::connection::{Connection, EARLY_MAX_OF_SEVERAL, Stage};
use super::machine::Machine;
use super::requests::REQUESTS_MAX;

impl Machine {
    /// Connections, of whatever state.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// The first thing that does not fit, if anything: no store that only this program wrote has any.
    #[must_use]
    pub fn inconsistency(&self) -> Option<&'static str> {
        if self.requests.len() > REQUESTS_MAX {
            return Some("more requests wait than are ever let in");
        }
        self.connections
            .values()
            .find_map(Connection::inconsistency)
    }
}

impl Connection {
    fn inconsistency(&self) -> Option<&'static str> {
        // The number 0 is that of a request, which has none.
        let last = self.outbox.last_key_value();
        if last.is_some_and(|(&number, _)| number >= self.sent.next_id()) {
            return Some("a message waits to be sent that was never numbered");
        }
        let last = self.inbox.last_key_value();
        if last.is_some_and(|(&number, _)| number > self.last_delivered) {
            return Some("a message waits for the application that was never delivered to it");
        }
        let first = self.early.first_key_value();
        if first.is_some_and(|(&number, _)| number <= self.received.expected_id()) {
            return Some("a message waits for an earlier one that is there");
        }
        if self.early.len() > EARLY_MAX_OF_SEVERAL {
            return Some("more messages wait than are ever let in");
        }
        if self.stage == Stage::Active && self.send.is_none() {
            return Some("a connection that works has no queue to send to");
        }
        None
    }
}
