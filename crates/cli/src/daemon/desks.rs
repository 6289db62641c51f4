//! Which client reads the messages of which contact, and what it gets next. No input or output.

use std::collections::BTreeMap;

use serde_json::Value;

use super::client::ClientId;

/// Messages of one contact that a client may have without having acknowledged them; the next ones come when it has.
pub(super) const WINDOW: usize = 32;
/// The same of all contacts together. With it a client that reads is never behind, however many contacts it has.
pub(super) const CLIENT_WINDOW: usize = 128;

/// The messages of all contacts, each named by a `C`.
pub(super) struct Desks<C> {
    all: BTreeMap<C, Desk>,
    /// Who reads what no other client reads.
    everything: Option<ClientId>,
    /// Messages given so far.
    turn: u64,
}

/// The messages of one contact.
#[derive(Default)]
struct Desk {
    /// Those that are not acknowledged, as they came: their number, and as they are told. The agent holds as many: 256
    /// of each connection.
    held: BTreeMap<u64, (u64, Value)>,
    /// Messages that have come.
    came: u64,
    /// Who reads them.
    reader: Option<ClientId>,
    /// Whether the reader asked for this contact by its name.
    by_name: bool,
    /// Which the reader was given last: what came as the how manieth.
    given: u64,
    /// When it was given.
    turn: u64,
    /// The connection stands since, which the reader has not been told yet.
    connected: Option<Value>,
    /// Why the connection cannot go on. Each reader is told.
    fault: Option<Value>,
    fault_is_told: bool,
}

impl Desk {
    /// Messages that the reader has and has not acknowledged.
    fn out(&self) -> usize {
        self.held.range(..=self.given).count()
    }

    fn next(&self) -> Option<u64> {
        let next = self.given.saturating_add(1);
        self.held.range(next..).next().map(|(place, _)| *place)
    }

    fn give_to(&mut self, reader: Option<ClientId>, by_name: bool) {
        self.reader = reader;
        self.by_name = by_name;
        self.given = 0;
        self.fault_is_told = false;
        if reader.is_none() {
            self.connected = None;
        }
    }
}

impl<C: Copy + Ord> Desks<C> {
    pub(super) fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            everything: None,
            turn: 0,
        }
    }

    fn desk(&mut self, contact: C) -> &mut Desk {
        let reader = self.everything;
        self.all.entry(contact).or_insert_with(|| Desk {
            reader,
            ..Desk::default()
        })
    }

    /// Who reads a contact's messages.
    pub(super) fn reader(&mut self, contact: C) -> Option<ClientId> {
        self.desk(contact).reader
    }

    /// Holds a message until it is acknowledged; one that is held keeps its place.
    pub(super) fn hold(&mut self, contact: C, number: u64, message: Value) {
        let desk = self.desk(contact);
        let known = desk.held.iter().find(|(_, (held, _))| *held == number);
        let place = known.map(|(place, _)| *place);
        desk.came += u64::from(place.is_none());
        let place = place.unwrap_or(desk.came);
        desk.held.insert(place, (number, message));
    }

    /// A message is acknowledged.
    pub(super) fn release(&mut self, contact: C, number: u64) {
        self.desk(contact)
            .held
            .retain(|_, (held, _)| *held != number);
    }

    /// The connection stands. Who reads its messages is to hear of it.
    pub(super) fn connected(&mut self, contact: C, says: Value) {
        let desk = self.desk(contact);
        desk.connected = desk.reader.map(|_| says);
    }

    /// The connection cannot go on. Who reads its messages, now or later, is to hear of it.
    pub(super) fn failed(&mut self, contact: C, fault: Value) {
        let desk = self.desk(contact);
        desk.fault = Some(fault);
        desk.fault_is_told = false;
    }

    /// The next thing but a message that a client is to be told: the method, and the parameters.
    pub(super) fn next_notice(&mut self, client: ClientId) -> Option<(&'static str, Value)> {
        let mut own = self.all.values_mut();
        own.find_map(|desk| {
            if desk.reader != Some(client) {
                return None;
            }
            if let Some(says) = desk.connected.take() {
                return Some(("connected", says));
            }
            let fault = desk.fault.as_ref().filter(|_| !desk.fault_is_told)?.clone();
            desk.fault_is_told = true;
            Some(("failed", fault))
        })
    }

    /// The next message for a client, if it may have one more: of those contacts of which it has the fewest, the
    /// one that has waited longest.
    pub(super) fn next_message(&mut self, client: ClientId) -> Option<&Value> {
        let own = self.all.values_mut();
        let mut out = 0;
        let mut best: Option<((usize, u64), u64, &mut Desk)> = None;
        for desk in own.filter(|desk| desk.reader == Some(client)) {
            let its = desk.out();
            out += its;
            let Some(place) = desk.next().filter(|_| its < WINDOW) else {
                continue;
            };
            let rank = (its, desk.turn);
            if best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                best = Some((rank, place, desk));
            }
        }
        let (_, place, desk) = best.filter(|_| out < CLIENT_WINDOW)?;
        self.turn += 1;
        desk.turn = self.turn;
        desk.given = place;
        desk.held.get(&place).map(|(_, message)| message)
    }

    /// From now on this client reads a contact's messages, all that are not acknowledged to begin with. Gives who
    /// read them before, if that was another one.
    pub(super) fn subscribe(&mut self, client: ClientId, contact: C) -> Option<ClientId> {
        let desk = self.desk(contact);
        let before = desk.reader.filter(|before| *before != client);
        desk.give_to(Some(client), true);
        before
    }

    /// The same of all contacts for which no other client has asked by name. `known` are contacts of which nothing
    /// may have come yet. Gives who did so before, if that was another one.
    pub(super) fn subscribe_all(
        &mut self,
        client: ClientId,
        known: impl IntoIterator<Item = C>,
    ) -> Option<ClientId> {
        let before = self.everything.replace(client);
        for contact in known {
            self.desk(contact);
        }
        for desk in self.all.values_mut() {
            let is_own = desk.reader == Some(client);
            if is_own || !desk.by_name {
                desk.give_to(Some(client), is_own && desk.by_name);
            }
        }
        before.filter(|before| *before != client)
    }

    /// A client reads nothing more. Gives who reads it in its place.
    pub(super) fn leave(&mut self, client: ClientId) -> Option<ClientId> {
        if self.everything == Some(client) {
            self.everything = None;
        }
        let heir = self.everything;
        let own = self.all.values_mut();
        for desk in own.filter(|desk| desk.reader == Some(client)) {
            desk.give_to(heir, false);
        }
        heir
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn full(contacts: u32, each: u64) -> Desks<u32> {
        let mut desks = Desks::new();
        for contact in 0..contacts {
            for number in 1..=each {
                desks.hold(contact, number, json!([contact, number]));
            }
        }
        desks
    }

    fn given(desks: &mut Desks<u32>, client: ClientId) -> Vec<(u32, u64)> {
        let mut all = Vec::new();
        while let Some(message) = desks.next_message(client) {
            let number = |at: usize| message[at].as_u64().unwrap_or_default();
            all.push((u32::try_from(number(0)).unwrap_or_default(), number(1)));
        }
        all
    }

    #[test]
    fn a_client_has_a_bounded_number_and_gets_all_contacts_in_turn() {
        for contacts in [1, 3, 12, 200] {
            let mut desks = full(contacts, 40);
            desks.subscribe_all(1, []);
            let bound = CLIENT_WINDOW.min(WINDOW * contacts as usize);
            let mut waiting: std::collections::VecDeque<_> = given(&mut desks, 1).into();
            assert_eq!(waiting.len(), bound);
            let mut last = BTreeMap::new();
            let mut seen = 0;
            let mut begun = BTreeSet::new();
            while let Some((contact, number)) = waiting.pop_front() {
                seen += 1;
                begun.insert(contact);
                // In order, none left out.
                assert_eq!(last.insert(contact, number).unwrap_or(0) + 1, number);
                desks.release(contact, number);
                waiting.extend(given(&mut desks, 1));
                assert!(waiting.len() <= bound);
                if seen == contacts as usize {
                    assert_eq!(begun.len(), seen, "somebody waits while others are served");
                }
            }
            assert_eq!(seen, contacts as usize * 40);
        }
    }

    #[test]
    fn messages_come_as_they_came_whatever_their_numbers_are() {
        let mut desks = Desks::new();
        desks.subscribe_all(1, []);
        for number in [1 << 32, 7, (1 << 32) + 1] {
            desks.hold(0, number, json!([0, number]));
        }
        assert_eq!(
            given(&mut desks, 1),
            [(0, 1 << 32), (0, 7), (0, (1 << 32) + 1)]
        );
        // Told again by the agent, it is no other one; acknowledged, it is gone.
        desks.hold(0, 7, json!([0, 7]));
        assert_eq!(given(&mut desks, 1), []);
        desks.release(0, 1 << 32);
        desks.subscribe(2, 0);
        assert_eq!(given(&mut desks, 2), [(0, 7), (0, (1 << 32) + 1)]);
    }

    #[test]
    fn who_reads_all_reads_also_what_nobody_reads_by_name_any_more() {
        let mut desks = full(1, 1);
        // Contact 7 is asked for by name before anything is known of it.
        assert_eq!(desks.subscribe(1, 7), None);
        assert_eq!(desks.subscribe_all(2, [0]), None);
        assert_eq!(desks.subscribe_all(3, [0]), Some(2));
        assert_eq!((desks.reader(0), desks.reader(7)), (Some(3), Some(1)));
        assert_eq!(desks.leave(1), Some(3));
        assert_eq!(desks.reader(7), Some(3));
        // What has come to a later one who reads all goes on to the next one, though it is not listed.
        assert_eq!(desks.subscribe_all(4, []), Some(3));
        assert_eq!((desks.reader(0), desks.reader(7)), (Some(4), Some(4)));
        // Who reads all, and one by name, keeps that one.
        assert_eq!(desks.subscribe(4, 0), None);
        assert_eq!(desks.subscribe_all(5, []), Some(4));
        assert_eq!((desks.reader(0), desks.reader(7)), (Some(4), Some(5)));
    }

    #[test]
    fn each_reader_hears_of_a_fault_once() {
        let mut desks = full(0, 0);
        desks.failed(0, json!("gone"));
        desks.connected(1, json!("nobody hears"));
        desks.subscribe_all(1, []);
        desks.connected(1, json!("hello"));
        assert_eq!(desks.next_notice(1), Some(("failed", json!("gone"))));
        assert_eq!(desks.next_notice(1), Some(("connected", json!("hello"))));
        assert_eq!(desks.next_notice(1), None);
        desks.subscribe(2, 0);
        assert_eq!(desks.next_notice(2), Some(("failed", json!("gone"))));
        assert_eq!((desks.next_notice(2), desks.next_notice(1)), (None, None));
    }
}
