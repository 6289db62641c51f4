//! Devices at work: the words that come on contacts' connections, and what is due after them.
//!
//! What is known is stored before anything is done, and what is due is stored with it: a command that dies leaves the
//! rest to the next one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use junto_agent::{
    Agent, ConnectionId, ConnectionView, Event, Link, MAX_BODY, MessageId, Misuse, Progress, Tag,
};
use junto_devices::{ContactId, Deed, Devices, Frame, Line, MessageName, News, Token};
use junto_smp::address::ServerAddress;

use super::notes::Notes;
use super::{GLANCE, one};
use crate::failure::{Context, Failure};
use crate::open::agent_failure;
use crate::profile::Profile;
use crate::random;

/// The file with what is known of devices.
const FILE: &str = "devices";
/// How long one message may take to be stored, where the agent holds too many already.
const SEND_PATIENCE: Duration = Duration::from_secs(5);
/// Copies of what was sent elsewhere that wait to be shown, of one device. The agent holds 256 messages of a connection
/// and then hears nothing more there, not even that a device is revoked: beyond this the oldest are given up.
const COPIES_MAX: usize = 128;
/// Messages that the agent holds of a connection until they are acknowledged. It hears nothing more there then.
pub(super) const HELD_MAX: usize = 256;
/// Messages to a contact with several devices that may wait for one of them before the next one is refused, beyond
/// those that the agent takes.
pub(super) const POSTS_MAX: usize = 64;
/// How long a deed that failed waits, at first; twice as long each time, to five minutes.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
const RETRY_DOUBLINGS: u32 = 6;

/// See the module.
pub(crate) struct Kin {
    pub(crate) devices: Devices,
    profile: Arc<Profile>,
    agent: Agent,
    /// Where this device receives, unless the state says so.
    relay: Option<ServerAddress>,
    /// What was stored last.
    stored: Vec<u8>,
    /// Connections that stand, by tag, and the tags of all that were heard of.
    standing: BTreeMap<[u8; 32], ConnectionId>,
    tags: BTreeMap<ConnectionId, [u8; 32]>,
    pub(super) running: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Deeds that run, or have failed and wait.
    busy: BTreeSet<u64>,
    /// How often a deed has failed, and when it is tried again, unless it runs.
    failures: BTreeMap<u64, (u32, Option<Instant>)>,
    /// Copies that are not shown yet, oldest first.
    copies: BTreeMap<ConnectionId, VecDeque<MessageId>>,
    /// Connections that were ended: what was heard there before and not looked at is nobody's.
    closed: BTreeSet<ConnectionId>,
    /// Connections that something was said on.
    touched: BTreeSet<ConnectionId>,
    /// The linking that a command attends to: its words are for that.
    pub(crate) linking: Option<[u8; 32]>,
    pub(crate) news: Vec<News>,
}

/// A deed that was tried.
pub(super) enum Ended {
    /// No deed: a message is acknowledged.
    Acknowledged,
    /// It is done, or never will be.
    Done(u64),
    /// It is done: the connection has it.
    Said(u64, ConnectionId),
    /// The connection under this tag is deleted.
    Closed(u64, [u8; 32], ConnectionId),
    /// An invitation is made.
    Made(u64, Token, String),
    /// Not now.
    Later(u64),
}

/// What becomes of an event.
pub(super) enum Fate {
    /// The application gets it.
    Told(Event),
    /// It was about devices only.
    Heard,
}

/// A message that has to do with devices, or not.
pub(crate) enum Reading {
    /// Of a contact; its name if it went to several devices.
    Theirs(Option<MessageName>, Vec<u8>),
    /// Of the user, to that contact, from another device.
    Ours(ContactId, MessageName, Vec<u8>),
}

impl Kin {
    pub(super) async fn open(
        profile: &Arc<Profile>,
        agent: &Agent,
        relay: Option<ServerAddress>,
    ) -> Result<Self, Failure> {
        let stored = profile.read_sealed(FILE)?;
        let devices = match &stored {
            Some(stored) => Devices::open(stored).context("the profile")?,
            None => Devices::default(),
        };
        let stored = devices.to_bytes().context("the devices")?;
        let mut kin = Self {
            devices,
            profile: Arc::clone(profile),
            agent: agent.clone(),
            relay,
            stored,
            standing: BTreeMap::new(),
            tags: BTreeMap::new(),
            running: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            failures: BTreeMap::new(),
            copies: BTreeMap::new(),
            closed: BTreeSet::new(),
            touched: BTreeSet::new(),
            linking: None,
            news: Vec::new(),
        };
        let overview = agent.overview().await.map_err(agent_failure)?;
        for view in overview.connections {
            kin.tags.insert(view.id, *view.tag.as_bytes());
            // Who names no relay receives where it does already.
            let receives = view.receives.first();
            kin.relay = kin
                .relay
                .or_else(|| receives.map(|queue| queue.relay.clone()));
            if view.progress == Progress::Connected {
                kin.standing.insert(*view.tag.as_bytes(), view.id);
            }
        }
        kin.devices.tidy();
        kin.proceed()?;
        Ok(kin)
    }

    /// Stores what is known, and begins what is due.
    pub(crate) fn proceed(&mut self) -> Result<(), Failure> {
        let bytes = self.devices.to_bytes().context("the devices")?;
        if bytes != self.stored {
            self.profile.write_sealed(FILE, &bytes)?;
            self.stored = bytes;
        }
        let mut earlier = BTreeSet::new();
        let mut vain = Vec::new();
        for due in self.devices.due() {
            let tag = due.deed.tag();
            if !earlier.insert(tag) || self.busy.contains(&due.serial) {
                continue;
            }
            let deed = match &due.deed {
                Deed::Send(_, body) => match self.standing.get(&tag) {
                    Some(id) => send(self.agent.clone(), due.serial, *id, body.0.clone()).boxed(),
                    None => {
                        // A connection that is no more, or one that will stand later.
                        if self.devices.line(&tag).is_none()
                            && !self.tags.values().any(|it| *it == tag)
                        {
                            vain.push(due.serial);
                        }
                        continue;
                    }
                },
                Deed::Close(_) => {
                    close(self.agent.clone(), due.serial, Tag::new(tag), GLANCE).boxed()
                }
                Deed::Cut(_) => close(
                    self.agent.clone(),
                    due.serial,
                    Tag::new(tag),
                    Duration::ZERO,
                )
                .boxed(),
                Deed::Leave(_, word) => {
                    let word = word.0.clone();
                    leave(self.agent.clone(), due.serial, Tag::new(tag), word).boxed()
                }
                Deed::Invite(token) => match self.relay() {
                    Some(relay) => invite(self.agent.clone(), due.serial, *token, relay).boxed(),
                    None => continue,
                },
                Deed::Join(token, link) => match self.relay() {
                    Some(relay) => {
                        let link = link.clone();
                        join(self.agent.clone(), due.serial, (*token, link), relay).boxed()
                    }
                    None => continue,
                },
            };
            self.busy.insert(due.serial);
            self.running.push(deed);
        }
        for serial in vain {
            self.devices.done(serial);
        }
        Ok(())
    }

    /// Where this device receives: as it was linked, else where it receives anyway.
    fn relay(&self) -> Option<ServerAddress> {
        let own = self.devices.relay().and_then(|relay| relay.parse().ok());
        own.or_else(|| self.relay.clone())
    }

    /// A deed has ended.
    pub(super) fn ended(&mut self, ended: Ended) -> Result<(), Failure> {
        match ended {
            Ended::Acknowledged => return Ok(()),
            Ended::Later(serial) => {
                let (times, at) = self.failures.entry(serial).or_default();
                let pause = RETRY_PAUSE * (1 << (*times).min(RETRY_DOUBLINGS));
                *at = Some(Instant::now() + pause);
                *times += 1;
                return Ok(());
            }
            Ended::Done(serial) => self.devices.done(serial),
            Ended::Said(serial, connection) => {
                self.touched.insert(connection);
                self.devices.done(serial);
            }
            Ended::Closed(serial, tag, connection) => {
                self.standing.remove(&tag);
                self.tags.remove(&connection);
                self.closed.insert(connection);
                self.touched.insert(connection);
                self.devices.done(serial);
            }
            Ended::Made(serial, token, link) => {
                self.devices.done(serial);
                self.devices.made(token, &link);
            }
        }
        self.proceed()
    }

    /// When a deed that failed is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.failures.values().filter_map(|(_, at)| *at).min()
    }

    /// Tries again what has failed and has waited.
    pub(super) fn retry(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        for (serial, (_, at)) in &mut self.failures {
            if at.take_if(|at| *at <= now).is_some() {
                self.busy.remove(serial);
            }
        }
        self.proceed()
    }

    /// A message is shown, and acknowledged: if it is a copy, it waits no more.
    pub(super) fn shown(&mut self, connection: ConnectionId, message: MessageId) {
        if let Some(copies) = self.copies.get_mut(&connection) {
            copies.retain(|it| *it != message);
        }
    }

    /// Keeps a copy until it is shown. Gives the one that is given up for it.
    fn keep(&mut self, connection: ConnectionId, message: MessageId) -> Option<MessageId> {
        let copies = self.copies.entry(connection).or_default();
        if !copies.contains(&message) {
            copies.push_back(message);
        }
        (copies.len() > COPIES_MAX).then(|| copies.pop_front())?
    }

    /// Connections that something was said on since the last call.
    pub(super) fn take_touched(&mut self) -> BTreeSet<ConnectionId> {
        core::mem::take(&mut self.touched)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Nothing is due, but for connections that do not stand yet.
    pub(crate) fn is_done(&self) -> bool {
        self.is_idle()
            && self
                .devices
                .due()
                .iter()
                .all(|due| matches!(due.deed, Deed::Send(..)))
    }

    /// The connection that stands under a tag.
    pub(crate) fn standing(&self, tag: &[u8; 32]) -> Option<ConnectionId> {
        self.standing.get(tag).copied()
    }

    fn line(&self, connection: ConnectionId) -> Option<Line> {
        let tag = self.tags.get(&connection)?;
        let base = Line::Contact(ContactId(*tag), None);
        Some(self.devices.line(tag).unwrap_or(base))
    }

    /// Looks at an event before the application does.
    pub(super) fn look(&mut self, event: Event, notes: &mut Notes) -> Result<Fate, Failure> {
        match &event {
            Event::Message { connection, .. } | Event::Failed { connection, .. }
                if self.closed.contains(connection) =>
            {
                Ok(Fate::Heard)
            }
            Event::Connected {
                connection,
                tag,
                info,
                ..
            } => {
                let tag = *tag.as_bytes();
                self.standing.insert(tag, *connection);
                self.tags.insert(*connection, tag);
                if self.devices.is_alone() {
                    return Ok(Fate::Told(event));
                }
                match self.devices.line(&tag) {
                    Some(line) => self.devices.connected(line),
                    None if notes.name_of(Tag::new(tag)).is_some() && understands(info) => {
                        self.devices.meet(ContactId(tag));
                    }
                    None => {}
                }
                self.introduce(notes);
                self.proceed()?;
                Ok(Fate::Told(event))
            }
            Event::Failed {
                connection, tag, ..
            } => {
                let tag = *tag.as_bytes();
                self.standing.remove(&tag);
                self.tags.insert(*connection, tag);
                let line = self.devices.line(&tag);
                if self.linking == Some(tag) {
                    return Ok(Fate::Told(event));
                }
                let contact = match line {
                    Some(Line::Contact(contact, _)) => contact,
                    Some(_) | None => ContactId(tag),
                };
                self.devices
                    .failed(line.unwrap_or(Line::Contact(contact, None)));
                self.proceed()?;
                let others = self.devices.targets(contact);
                let is_last = others.is_empty() || others == [tag];
                Ok(match line {
                    None if is_last => Fate::Told(event),
                    _ => Fate::Heard,
                })
            }
            Event::Message {
                connection,
                id,
                body,
                ..
            } => {
                let (connection, id) = (*connection, *id);
                let Some(line) = self.line(connection) else {
                    return Ok(Fate::Told(event));
                };
                let tag = self.tags.get(&connection);
                if tag.is_some_and(|tag| self.devices.ends(tag)) {
                    // Of whoever is revoked nothing is heard, not that others are either.
                    self.acknowledge(connection, id);
                    return Ok(Fate::Heard);
                }
                if matches!(line, Line::Linking(token) if self.linking == Some(token.tag())) {
                    return Ok(Fate::Told(event));
                }
                let is_open = self.devices.is_open(line);
                let is_contacts = matches!(line, Line::Contact(..));
                let frame = Frame::decode(body);
                match &frame {
                    Err(junto_devices::FrameError::Foreign) if is_open && is_contacts => {
                        return Ok(Fate::Told(event));
                    }
                    Ok(Frame::Text { .. }) if is_open && is_contacts => {
                        return Ok(Fate::Told(event));
                    }
                    // Of a contact that is none here nobody could show it.
                    Ok(Frame::Sent { contact, .. })
                        if is_open
                            && !is_contacts
                            && notes.name_of(Tag::new(contact.0)).is_some() =>
                    {
                        if let Some(oldest) = self.keep(connection, id) {
                            self.acknowledge(connection, oldest);
                        }
                        return Ok(Fate::Told(event));
                    }
                    Ok(frame) => {
                        let news = self.devices.hear(line, frame);
                        for it in &news {
                            if let News::Contact(contact, name) = it {
                                notes.welcome(*contact, name)?;
                            }
                        }
                        self.news.extend(news);
                        self.introduce(notes);
                        self.proceed()?;
                    }
                    Err(error) => tracing::debug!("a word about devices is ignored: {error}"),
                }
                self.acknowledge(connection, id);
                Ok(Fate::Heard)
            }
            _ => Ok(Fate::Told(event)),
        }
    }

    pub(crate) fn acknowledge(&mut self, connection: ConnectionId, message: MessageId) {
        let agent = self.agent.clone();
        let acknowledged = async move {
            // If the agent has ended, it comes again.
            let _ = agent.ack(connection, message).await;
            Ended::Acknowledged
        };
        self.running.push(acknowledged.boxed());
    }

    /// Reads the body of a message that an application was told of.
    pub(crate) fn read(&self, body: &[u8]) -> Reading {
        match Frame::decode(body) {
            Ok(Frame::Text { message, body }) => Reading::Theirs(Some(message), body),
            Ok(Frame::Sent {
                message,
                contact,
                body,
            }) => Reading::Ours(contact, message, body),
            _ => Reading::Theirs(None, body.to_vec()),
        }
    }

    /// The contact's connections with its devices that what is sent goes to.
    pub(crate) fn targets(&self, contact: ContactId) -> Vec<ConnectionId> {
        let tags = self.devices.targets(contact).into_iter();
        tags.filter_map(|tag| self.standing(&tag)).collect()
    }

    /// What waits for a contact's devices and is not with the agent yet: the most of one of them.
    pub(super) fn waiting(&self, contact: ContactId) -> usize {
        let targets = self.devices.targets(contact);
        let waiting = |tag: &[u8; 32]| self.devices.waiting(tag);
        targets.iter().map(waiting).max().unwrap_or_default()
    }

    /// Whether something waits for each of a contact's devices, so that none of them gets it now.
    pub(super) fn is_held(&self, contact: ContactId) -> bool {
        let targets = self.devices.targets(contact);
        !targets.is_empty() && targets.iter().all(|tag| self.devices.waiting(tag) > 0)
    }

    /// See [`Devices::post`].
    pub(super) fn post(
        &mut self,
        contact: ContactId,
        body: &[u8],
    ) -> Result<Option<MessageName>, Failure> {
        let is_long = body.len() + junto_devices::BODY_OVERHEAD > MAX_BODY;
        if is_long && self.devices.is_shared(contact) {
            return Err(Failure::usage(format_args!(
                "a message to several devices has at most {} bytes",
                MAX_BODY - junto_devices::BODY_OVERHEAD
            ))
            .help("send it as a file, with `junto file send`"));
        }
        let posted = self.devices.post(contact, body, &mut random());
        self.proceed()?;
        Ok(posted)
    }

    /// All contacts whose connection stands may be told of devices. What they say about themselves tells those of
    /// SimpleX's apps, which would not understand.
    pub(super) async fn meet_all(&mut self, notes: &Notes) -> Result<(), Failure> {
        let overview = self.agent.overview().await.map_err(agent_failure)?;
        for view in overview.connections {
            let stands = view.progress == Progress::Connected;
            if stands && notes.name_of(view.tag).is_some() && understands(&view.info) {
                self.devices.meet(ContactId(*view.tag.as_bytes()));
            }
        }
        self.introduce(notes);
        self.proceed()
    }

    fn introduce(&mut self, notes: &Notes) {
        let name_of = |contact: ContactId| notes.name_of(Tag::new(contact.0)).map(str::to_owned);
        self.devices.introduce(name_of, &mut random());
    }
}

/// The tag that a contact's connection is known by: the contact's.
pub(super) fn home(devices: &Devices, tag: Tag) -> Tag {
    match devices.line(tag.as_bytes()) {
        Some(Line::Contact(contact, _)) => Tag::new(contact.0),
        _ => tag,
    }
}

/// Whether the other side is no application of SimpleX's: those say about themselves an object in JSON, which may be
/// compressed.
fn understands(info: &[u8]) -> bool {
    core::str::from_utf8(info).is_ok_and(|text| !text.starts_with('{'))
}

/// Refuses what only Junto has to a contact that is an application of SimpleX's: it would wait for ever, or see what it cannot read.
pub(crate) fn refuse_apps(contact: &ConnectionView, name: &str, what: &str) -> Result<(), Failure> {
    if understands(&contact.info) {
        return Ok(());
    }
    Err(Failure::refused(format_args!(
        "{name} is an application of SimpleX's, by what it says about itself, and those know no {what}"
    ))
    .help("nothing was sent or changed; between two of Junto it works"))
}

async fn send(agent: Agent, serial: u64, connection: ConnectionId, body: Vec<u8>) -> Ended {
    match tokio::time::timeout(SEND_PATIENCE, agent.send(connection, &body)).await {
        Ok(Ok(_)) => Ended::Said(serial, connection),
        Ok(Err(junto_agent::AgentError::Connection(_) | junto_agent::AgentError::Misuse(_))) => {
            Ended::Done(serial)
        }
        Ok(Err(error)) => {
            tracing::debug!("a word about devices is kept: {error}");
            Ended::Later(serial)
        }
        Err(_) => Ended::Later(serial),
    }
}

async fn close(agent: Agent, serial: u64, tag: Tag, patience: Duration) -> Ended {
    let Ok(overview) = agent.overview().await else {
        return Ended::Later(serial);
    };
    let Some(view) = overview.connections.into_iter().find(|it| it.tag == tag) else {
        return Ended::Done(serial);
    };
    // What was said last may leave; who is not there does not hear it.
    if !patience.is_zero() {
        let _ = tokio::time::timeout(patience, agent.settle(one(view.id))).await;
    }
    match agent.delete(view.id).await {
        Ok(()) => Ended::Closed(serial, *tag.as_bytes(), view.id),
        Err(_) => Ended::Later(serial),
    }
}

/// Ends a connection with a last word, which the agent keeps until it has left.
async fn leave(agent: Agent, serial: u64, tag: Tag, word: Vec<u8>) -> Ended {
    let Ok(overview) = agent.overview().await else {
        return Ended::Later(serial);
    };
    let Some(view) = overview.connections.into_iter().find(|it| it.tag == tag) else {
        return Ended::Done(serial);
    };
    let left = match view.progress {
        Progress::Connected => match agent.leave(view.id, &word).await {
            // It has left already, or is about to.
            Err(junto_agent::AgentError::Misuse(Misuse::NoConnection)) => {
                return Ended::Done(serial);
            }
            // It cannot be said; whoever is revoked gets nothing else either.
            Err(junto_agent::AgentError::Connection(_) | junto_agent::AgentError::Misuse(_)) => {
                agent.delete(view.id).await
            }
            left => left,
        },
        Progress::Inviting | Progress::Joining | Progress::Failed(_) => agent.delete(view.id).await,
    };
    match left {
        Ok(()) => Ended::Closed(serial, *tag.as_bytes(), view.id),
        Err(error) => {
            tracing::debug!("the word to a device that is revoked waits: {error}");
            Ended::Later(serial)
        }
    }
}

async fn invite(agent: Agent, serial: u64, token: Token, relay: ServerAddress) -> Ended {
    match agent
        .create_invitation(Tag::new(token.tag()), &relay, b"")
        .await
    {
        Ok((_, link)) => Ended::Made(serial, token, link.to_string()),
        Err(error) => {
            tracing::debug!("no invitation for a device: {error}");
            Ended::Later(serial)
        }
    }
}

async fn join(
    agent: Agent,
    serial: u64,
    (token, link): (Token, String),
    relay: ServerAddress,
) -> Ended {
    let Ok(link @ Link::Invitation(_)) = link.parse() else {
        return Ended::Done(serial);
    };
    match agent.join(Tag::new(token.tag()), &link, &relay, b"").await {
        Ok(connection) => Ended::Said(serial, connection),
        Err(junto_agent::AgentError::Link(_)) => Ended::Done(serial),
        Err(_) => Ended::Later(serial),
    }
}
