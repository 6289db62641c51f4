//! A carrier that is nothing but the contract of carriers: what it has taken is durable and arrives
//! in order, late, perhaps repeated; and, beyond the contract, perhaps not at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use junto_crypto::hash::sha256_of;
use junto_session::proto::{
    endpoint::{ConnectionId, Event, MessageId, RequestId, Tag},
    step::{Effect, Outcome},
};

use crate::{
    carrier::{Carrier, News},
    dice::{Dice, Seed},
    faults::Faults,
    timeline::Timeline,
    trace::Trace,
    verdict::Tally,
};

/// Small, so that a roster takes several messages.
const BODY_BYTES: usize = 1_500;

enum Happening {
    Start(usize),
    Perform(usize, u64, Effect),
    /// The first message under way on a connection arrives.
    Arrive(usize, ConnectionId),
    Connect(usize, ConnectionId),
    Request(usize, RequestId),
}

/// One end of a connection.
struct End {
    tag: Tag,
    peer: Option<(usize, ConnectionId)>,
    peer_info: Vec<u8>,
    binding: [u8; 32],
    connected: bool,
    under_way: VecDeque<Bytes>,
    /// Handed over and not acknowledged.
    inbox: BTreeMap<u64, Bytes>,
    taken: u64,
}

struct Request {
    tag: Tag,
    info: Vec<u8>,
    from: (usize, ConnectionId),
    arrived: bool,
    /// The connection that accepting it made; `Some(None)` if rejected.
    settled: Option<Option<ConnectionId>>,
}

#[derive(Default)]
struct Party {
    up: bool,
    gone: bool,
    run: u64,
    addresses: BTreeSet<Tag>,
    connections: BTreeMap<Tag, ConnectionId>,
    ends: BTreeMap<ConnectionId, End>,
    requests: BTreeMap<RequestId, Request>,
}

/// See the module.
pub struct Post {
    faults: Faults,
    timeline: Timeline<Happening>,
    dice: Dice,
    parties: Vec<Party>,
    news: VecDeque<(usize, News)>,
    names: u64,
    tally: Tally,
    trace: Trace,
}

impl Post {
    /// A post for `parties`, whose processes start soon.
    #[must_use]
    pub fn new(seed: Seed, parties: usize, faults: Faults, trace: Trace) -> Self {
        let mut dice = seed.dice("post");
        let mut timeline = Timeline::new(seed.dice("post's ties"));
        for party in 0..parties {
            timeline.after(dice.below(50), Happening::Start(party));
        }
        Self {
            faults,
            timeline,
            dice,
            parties: (0..parties).map(|_| Party::default()).collect(),
            news: VecDeque::new(),
            names: 0,
            tally: Tally::default(),
            trace,
        }
    }

    fn name(&mut self, kind: &str) -> [u8; 32] {
        self.names += 1;
        sha256_of(&[kind.as_bytes(), &self.names.to_be_bytes()])
    }

    fn delay(&mut self) -> u64 {
        self.dice.below(self.faults.delay_ms + 1)
    }

    fn later(&mut self, happening: Happening) {
        let delay = self.delay();
        self.timeline.after(delay, happening);
    }

    fn tell(&mut self, party: usize, news: News) {
        if self.parties[party].up {
            let now_ms = self.timeline.now_ms();
            self.trace.note(now_ms, &[party as u8], || match &news {
                News::Event(event) => format!("party {party} hears {}", brief(event)),
                News::Outcome(outcome) => format!("party {party} hears {outcome:?}"),
                News::Crashed | News::Started => String::new(),
            });
            self.news.push_back((party, news));
        }
    }

    fn start(&mut self, number: usize) {
        let party = &mut self.parties[number];
        if party.up || party.gone {
            return;
        }
        party.up = true;
        party.run += 1;
        let mut events = Vec::new();
        for (id, request) in &party.requests {
            if request.arrived && request.settled.is_none() {
                events.push(request_event(*id, request));
            }
        }
        for (connection, end) in &party.ends {
            if end.connected {
                events.push(connected_event(*connection, end));
            }
            for (id, body) in &end.inbox {
                events.push(message_event(*connection, *id, body));
            }
        }
        self.news.push_back((number, News::Started));
        for event in events {
            self.tell(number, News::Event(event));
        }
    }

    fn arrive(&mut self, party: usize, connection: ConnectionId) {
        let (lost, again) = (
            self.dice.chance(self.faults.drop),
            self.dice.chance(self.faults.duplicate),
        );
        let Some(end) = self.parties[party].ends.get_mut(&connection) else {
            return;
        };
        let Some(body) = end.under_way.pop_front() else {
            return;
        };
        if lost {
            return self.tally.count("messages dropped");
        }
        end.taken += 1;
        let id = end.taken;
        end.inbox.insert(id, body.clone());
        let mut events = Vec::new();
        if !core::mem::replace(&mut end.connected, true) {
            events.push(connected_event(connection, end));
        }
        events.push(message_event(connection, id, &body));
        if again {
            // As after a new subscription: all that is not acknowledged, in order.
            self.tally.count("messages repeated");
            events.extend(
                end.inbox
                    .iter()
                    .map(|(id, body)| message_event(connection, *id, body)),
            );
        }
        for event in events {
            self.tell(party, News::Event(event));
        }
    }

    fn connect(&mut self, party: usize, connection: ConnectionId) {
        if let Some(end) = self.parties[party].ends.get_mut(&connection)
            && !core::mem::replace(&mut end.connected, true)
        {
            let event = connected_event(connection, end);
            self.tell(party, News::Event(event));
        }
    }

    fn do_effect(&mut self, party: usize, effect: Effect) {
        match effect {
            Effect::Address { tag, .. } => {
                self.parties[party].addresses.insert(tag);
                let link = format!("post://{party}/address/{}", hex(&tag.0));
                self.tell(party, News::Outcome(Outcome::Address { tag, link }));
            }
            Effect::CloseAddress { tag } => {
                self.parties[party].addresses.remove(&tag);
            }
            Effect::Invite { tag, .. } => {
                let connection = self.connection(party, tag);
                let link = format!("post://{party}/invitation/{}", hex(&connection.0));
                let outcome = Outcome::Invitation {
                    tag,
                    connection,
                    link,
                };
                self.tell(party, News::Outcome(outcome));
            }
            Effect::Join {
                tag, link, info, ..
            } => {
                let known = self.parties[party].connections.contains_key(&tag);
                let connection = self.connection(party, tag);
                if !known {
                    self.join(party, connection, &link, info);
                }
                self.tell(party, News::Outcome(Outcome::Joined { tag, connection }));
            }
            Effect::Accept { request, info, .. } => self.accept(party, request, info),
            Effect::Reject { request } => {
                if let Some(request) = self.parties[party].requests.get_mut(&request) {
                    request.settled.get_or_insert(None);
                }
            }
            Effect::Send { connection, bodies } => self.send(party, connection, bodies),
            Effect::Ack {
                connection,
                message,
            } => {
                if let Some(end) = self.parties[party].ends.get_mut(&connection) {
                    end.inbox.remove(&message.0);
                }
            }
            Effect::Delete { connection } => {
                self.parties[party].ends.remove(&connection);
            }
        }
    }

    fn send(&mut self, party: usize, connection: ConnectionId, bodies: Vec<Bytes>) {
        let peer = self.parties[party]
            .ends
            .get(&connection)
            .and_then(|end| end.peer);
        for body in bodies {
            assert!(
                body.len() <= BODY_BYTES,
                "a body longer than the carrier takes"
            );
            let Some((other, theirs)) = peer else {
                continue;
            };
            if let Some(end) = self.parties[other].ends.get_mut(&theirs) {
                end.under_way.push_back(body);
                self.later(Happening::Arrive(other, theirs));
            }
        }
        self.tell(party, News::Outcome(Outcome::Sent { connection }));
    }

    /// The connection of a tag, made if there is none.
    fn connection(&mut self, party: usize, tag: Tag) -> ConnectionId {
        if let Some(connection) = self.parties[party].connections.get(&tag) {
            return *connection;
        }
        let connection = ConnectionId(self.name("connection"));
        self.parties[party].connections.insert(tag, connection);
        self.add_end(party, connection, tag);
        connection
    }

    fn add_end(&mut self, party: usize, connection: ConnectionId, tag: Tag) {
        let end = End {
            tag,
            peer: None,
            peer_info: Vec::new(),
            binding: [0; 32],
            connected: false,
            under_way: VecDeque::new(),
            inbox: BTreeMap::new(),
            taken: 0,
        };
        self.parties[party].ends.insert(connection, end);
    }

    fn join(&mut self, party: usize, ours: ConnectionId, link: &str, info: Vec<u8>) {
        let mut parts = link.trim_start_matches("post://").split('/');
        let (maker, kind, name) = (parts.next(), parts.next(), parts.next());
        let maker: usize = maker
            .and_then(|text| text.parse().ok())
            .expect("a link of ours");
        let name = name.and_then(unhex).expect("a link of ours");
        if kind == Some("address") {
            let id = RequestId(self.name("request"));
            let request = Request {
                tag: Tag(name),
                info,
                from: (party, ours),
                arrived: false,
                settled: None,
            };
            self.parties[maker].requests.insert(id, request);
            return self.later(Happening::Request(maker, id));
        }
        self.marry((party, ours, info), (maker, ConnectionId(name), Vec::new()));
    }

    fn request(&mut self, party: usize, id: RequestId) {
        let Party {
            requests,
            addresses,
            ..
        } = &mut self.parties[party];
        if let Some(request) = requests.get_mut(&id)
            && addresses.contains(&request.tag)
        {
            request.arrived = true;
            let event = request_event(id, request);
            self.tell(party, News::Event(event));
        }
    }

    fn accept(&mut self, party: usize, id: RequestId, info: Vec<u8>) {
        let Some(request) = self.parties[party].requests.get(&id) else {
            return;
        };
        let (tag, from, theirs) = (request.tag, request.from, request.info.clone());
        let connection = match request.settled {
            Some(Some(connection)) => connection,
            Some(None) => return,
            None => {
                let connection = ConnectionId(self.name("connection"));
                self.add_end(party, connection, tag);
                if let Some(request) = self.parties[party].requests.get_mut(&id) {
                    request.settled = Some(Some(connection));
                }
                self.marry((from.0, from.1, theirs), (party, connection, info));
                connection
            }
        };
        let outcome = Outcome::Accepted {
            request: id,
            connection,
        };
        self.tell(party, News::Outcome(outcome));
    }

    /// Joins two ends: each with what it says about itself.
    fn marry(
        &mut self,
        one: (usize, ConnectionId, Vec<u8>),
        other: (usize, ConnectionId, Vec<u8>),
    ) {
        let binding = self.name("binding");
        let pairs = [(one.clone(), other.clone()), (other, one)];
        for ((party, ours, _), (peer, theirs, info)) in pairs {
            if let Some(end) = self.parties[party].ends.get_mut(&ours) {
                end.peer = Some((peer, theirs));
                end.peer_info = info;
                end.binding = binding;
                self.later(Happening::Connect(party, ours));
            }
        }
    }
}

impl Carrier for Post {
    fn body_bytes(&self) -> usize {
        BODY_BYTES
    }

    fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    fn now_ms(&self) -> u64 {
        self.timeline.now_ms()
    }

    fn next_ms(&self) -> Option<u64> {
        self.timeline.next_ms()
    }

    fn wait_until(&mut self, now_ms: u64) {
        self.timeline.wait_until(now_ms);
    }

    fn run_one(&mut self) {
        match self.timeline.take_next() {
            None => {}
            Some(Happening::Start(party)) => self.start(party),
            Some(Happening::Perform(party, run, effect))
                if self.parties[party].up && self.parties[party].run == run =>
            {
                self.do_effect(party, effect);
            }
            // The process that was to do it is dead.
            Some(Happening::Perform(..)) => {}
            Some(Happening::Arrive(party, connection)) => self.arrive(party, connection),
            Some(Happening::Connect(party, connection)) => self.connect(party, connection),
            Some(Happening::Request(party, request)) => self.request(party, request),
        }
    }

    fn take_news(&mut self) -> VecDeque<(usize, News)> {
        core::mem::take(&mut self.news)
    }

    fn perform(&mut self, party: usize, effect: Effect, at_once: bool) {
        if at_once {
            return self.do_effect(party, effect);
        }
        let run = self.parties[party].run;
        self.later(Happening::Perform(party, run, effect));
    }

    fn home(&self, party: usize) -> String {
        format!("post://{party}")
    }

    fn crash(&mut self, number: usize, for_good: bool) {
        let party = &mut self.parties[number];
        party.gone |= for_good;
        if !core::mem::replace(&mut party.up, false) {
            return;
        }
        self.tally.count("crashes");
        let now_ms = self.timeline.now_ms();
        self.trace
            .note(now_ms, b"X", || format!("party {number} CRASHES"));
        self.news.push_back((number, News::Crashed));
        let down = self.dice.below(self.faults.down_ms + 1);
        self.timeline.after(down, Happening::Start(number));
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    fn trace(&mut self) -> &mut Trace {
        &mut self.trace
    }
}

fn request_event(id: RequestId, request: &Request) -> Event {
    Event::Request {
        id,
        tag: request.tag,
        info: request.info.clone(),
    }
}

fn connected_event(connection: ConnectionId, end: &End) -> Event {
    Event::Connected {
        connection,
        tag: end.tag,
        info: end.peer_info.clone(),
        binding: end.binding,
    }
}

fn message_event(connection: ConnectionId, id: u64, body: &Bytes) -> Event {
    Event::Message {
        connection,
        id: MessageId(id),
        body: body.clone(),
    }
}

fn brief(event: &Event) -> String {
    match event {
        Event::Message {
            connection,
            id,
            body,
        } => {
            format!("{id:?} on {connection:?}: {} bytes", body.len())
        }
        Event::Request { id, .. } => format!("{id:?}"),
        Event::Connected { connection, .. } => format!("connected {connection:?}"),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(bytes)
}
