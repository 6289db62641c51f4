//! `junto connect` and `junto contact`: peers that one talks with outside of sessions, and an address where strangers ask.
//!
//! Contacts have an agent and a database of their own, apart from those of sessions: neither sees what is the other's.

mod kin;
mod messages;
mod noise;
mod notes;
mod upkeep;
mod verdict;

pub(crate) use kin::{Kin, Reading, refuse_apps};
pub(crate) use messages::{message_json, recv, refuse_frame, send, warn};
pub(crate) use noise::noise_json;
pub(crate) use upkeep::show_json;
pub(crate) use verdict::{Noted, Verdict};

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use junto_agent::{
    Agent, ConnectionId, ConnectionView, Event, Events, InvitationLink, Lines, Link, Overview,
    Progress, RequestView, Resync, ShortLink, Tag,
};
use junto_code::Code;
use junto_devices::{ContactId, MessageName, News};
use junto_files::Line;
use junto_smp::address::ServerAddress;
use serde_json::json;

use self::kin::Fate;
use self::notes::{Entry, Notes};
use crate::args::{
    AddressCommand, Connect, ContactCommand, Global, NewContact, OfferCode, Patience,
};
use crate::code::{self, Offer};
use crate::failure::{Context, Exit, Failure};
use crate::open::{END, SETTLE, agent_failure, open_agent};
use crate::output::{Output, qr_code};
use crate::profile::{Profile, Succession};
use crate::relay::parse_address;
use crate::session::no_relay;
use crate::talk::printable;
use crate::{file, input, random, way};

/// The file with the contacts' names.
const BOOK: &str = "contacts";
/// Longest name of a contact, in bytes.
const NAME_MAX: usize = 64;
/// What the profile's one address is called within its agent.
const ADDRESS: &[u8] = b"junto contact address";
/// How long relays may take where only the newest state is asked for.
const GLANCE: Duration = Duration::from_secs(3);

/// A connection that is offered, and the two links that lead to it.
type Invitation = (ConnectionId, InvitationLink, ShortLink);

/// The contacts of a profile in use.
pub(crate) struct Contacts {
    pub(crate) profile: Arc<Profile>,
    pub(crate) agent: Agent,
    pub(crate) events: Events,
    pub(crate) kin: Kin,
    notes: Notes,
    socks: Option<junto_agent::client::SocksServer>,
}

impl Contacts {
    pub(crate) async fn with(
        global: &Global,
        command: impl AsyncFnOnce(&mut Contacts) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut contacts = Self::open(global).await?;
        let result = command(&mut contacts).await;
        contacts.attend().await;
        contacts.tell_news(global.output());
        let told = contacts.end().await;
        for (name, verdict) in &contacts.notes.untold {
            global.output().say(verdict.warning(name));
        }
        for remark in contacts.take_remarks() {
            global.output().say(remark);
        }
        result.and(told)
    }

    /// Stops the agent, and notes what it has told and nobody has looked at: it says such things once.
    pub(crate) async fn end(&mut self) -> Result<(), Failure> {
        let _ = tokio::time::timeout(END, self.agent.clone().close()).await;
        while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, self.events.next()).await {
            let devices = &self.kin.devices;
            self.notes.note(&event, |tag| kin::home(devices, tag));
        }
        match self.notes.save_at {
            Some(_) => self.notes.save(),
            None => Ok(()),
        }
    }

    /// A connection, for files to go over. What its events, and those of all other contacts, say about something lost or
    /// altered is noted and told as they come: the agent says such things once.
    pub(crate) async fn line(
        &mut self,
        connection: ConnectionId,
        output: Output,
    ) -> Result<Line<'_>, Failure> {
        for known in self.overview().await?.connections {
            let tag = kin::home(&self.kin.devices, known.tag);
            self.notes.tags.insert(known.id, tag);
        }
        let Self {
            agent,
            events,
            notes,
            kin,
            ..
        } = self;
        let devices = &kin.devices;
        let line = Line::new(agent, events, connection);
        Ok(line.watched(move |event| {
            notes.note(event, |tag| kin::home(devices, tag));
            for (name, verdict) in notes.untold.drain(..) {
                let _ = warn(&name, &verdict, output);
            }
            for remark in notes.remarks.drain(..) {
                output.say(remark);
            }
        }))
    }

    async fn open(global: &Global) -> Result<Self, Failure> {
        let profile = Profile::open(&global.profile_dir()?, &global.passphrase())?;
        Self::on(Arc::new(profile), global).await
    }

    /// The contacts of a profile that is open.
    pub(crate) async fn on(profile: Arc<Profile>, global: &Global) -> Result<Self, Failure> {
        let book = match profile.read_sealed(BOOK)? {
            Some(bytes) => serde_json::from_slice(&bytes).context("the names of the contacts")?,
            None => Vec::new(),
        };
        let succession = Succession::begin(&profile, Succession::CONTACTS)?;
        let resync = Resync::default();
        let opened = open_agent(&profile, global, "contacts.db", &succession, resync).await?;
        let (agent, events, socks) = opened;
        succession.finish(&profile)?;
        let notes = Notes::new(Arc::clone(&profile), book);
        let relay = profile.config.relays.first();
        let relay = relay.and_then(|relay| relay.parse().ok());
        let kin = Kin::open(&profile, &agent, relay).await?;
        Ok(Self {
            kin,
            profile,
            agent,
            events,
            notes,
            socks,
        })
    }

    pub(crate) fn relay(&self, given: Option<&str>) -> Result<ServerAddress, Failure> {
        let own = self.profile.config.relays.first().map(String::as_str);
        let relay = parse_address(given.or(own).ok_or_else(no_relay)?)?;
        way::check_onion(&relay, self.socks.as_ref())?;
        Ok(relay)
    }

    async fn overview(&self) -> Result<Overview, Failure> {
        self.agent.overview().await.map_err(agent_failure)
    }

    pub(crate) fn tag_of(&self, name: &str) -> Option<Tag> {
        let entry = self.notes.book.iter().find(|entry| entry.name == name)?;
        Some(Tag::new(entry.tag))
    }

    pub(crate) fn name_of(&self, tag: Tag) -> Option<&str> {
        self.notes.name_of(tag)
    }

    /// A name that is free, and fit to be typed and shown.
    fn new_name(&self, given: Option<&str>) -> Result<String, Failure> {
        let Some(name) = given else {
            let mut numbered = (1..).map(|number: u32| format!("contact-{number}"));
            let free = numbered.find(|name| self.tag_of(name).is_none());
            return free.ok_or_else(|| Failure::failed("no name is free"));
        };
        if !is_fit(name) {
            return Err(Failure::usage(
                "a contact's name has 1 to 64 bytes of printable text",
            ));
        }
        if self.tag_of(name).is_some() {
            return Err(Failure::usage(format_args!("there is a contact `{name}`"))
                .help("choose another `--name`, or end that one by `junto contact close`"));
        }
        Ok(name.to_owned())
    }

    /// Writes a name down, before the connection is made: a crash in between leaves a name without one.
    fn enter(&mut self, name: String, tag: Tag) -> Result<(), Failure> {
        self.notes.book.push(Entry::new(name, *tag.as_bytes()));
        self.notes.save()
    }

    pub(crate) fn fresh_tag() -> Tag {
        use rand_core::Rng;
        let mut bytes = [0; 32];
        random().fill_bytes(&mut bytes);
        Tag::new(bytes)
    }

    /// The tag of a contact, by its name.
    pub(crate) fn known(&self, name: &str) -> Result<Tag, Failure> {
        self.tag_of(name).ok_or_else(|| unknown(name))
    }

    /// The connection of a contact.
    pub(crate) async fn contact(&self, name: &str) -> Result<ConnectionView, Failure> {
        let tag = self.known(name)?;
        let connections = self.overview().await?.connections;
        let found = self.best(&connections, tag).cloned();
        found.ok_or_else(|| match self.kin.devices.revoked_by() {
            Some(by) => Failure::refused(format_args!(
                "this device was revoked by `{}`: it has no connection with {name} any more",
                printable(by)
            ))
            .help("`junto device link` makes it a device of the profile again, if you want that"),
            None => unknown(name),
        })
    }

    /// The connection that an ordinary message to a contact goes on: with the device that it prefers, or its only one.
    pub(crate) async fn target(&self, name: &str) -> Result<ConnectionView, Failure> {
        let best = self.contact(name).await?;
        let contact = ContactId(*self.known(name)?.as_bytes());
        let [only] = self.kin.targets(contact)[..] else {
            return Ok(best);
        };
        let all = self.overview().await?.connections;
        Ok(all.into_iter().find(|it| it.id == only).unwrap_or(best))
    }

    /// Sends a message to all devices of a contact, and copies to those of ours, if there are several: it is stored.
    /// Gives its name, and how many devices of the contact it goes to.
    ///
    /// # Errors
    /// Also if there may be word, behind messages that nobody has read, of a device that is revoked; and if too much waits
    /// for a device that is away.
    pub(crate) async fn post(
        &mut self,
        name: &str,
        body: &[u8],
    ) -> Result<Option<(MessageName, usize)>, Failure> {
        let tag = self.known(name)?;
        let contact = ContactId(*tag.as_bytes());
        if !self.kin.devices.takes_part(contact) {
            return Ok(None);
        }
        let all = self.overview().await?.connections;
        let devices = &self.kin.devices;
        let is_deaf =
            |it: &ConnectionView| kin::home(devices, it.tag) == tag && it.unread >= kin::HELD_MAX;
        if all.iter().any(is_deaf) {
            return Err(Failure::new(
                Exit::Unreachable,
                format_args!("{} messages of a device of {name} wait to be read, and word of a revoked one may wait behind them", kin::HELD_MAX),
            )
            .help(format_args!("read them first: `junto recv --contact {name}`")));
        }
        if self.kin.waiting(contact) >= kin::POSTS_MAX {
            return Err(Failure::new(
                Exit::Unreachable,
                format_args!("too many messages wait for a device of {name}"),
            )
            .help("send it again later"));
        }
        let posted = self.kin.post(contact, body)?;
        Ok(posted.map(|message| (message, self.kin.targets(contact).len())))
    }

    /// Of the connections with a contact, one that stands, if there is one.
    fn best<'a>(&self, all: &'a [ConnectionView], contact: Tag) -> Option<&'a ConnectionView> {
        let links = self.kin.devices.links_of(ContactId(*contact.as_bytes()));
        let tags: Vec<Tag> = core::iter::once(contact)
            .chain(links.map(Tag::new))
            .collect();
        let found = tags
            .iter()
            .filter_map(|tag| all.iter().find(|it| it.tag == *tag));
        let found: Vec<_> = found.collect();
        let mut standing = found.iter().filter(|it| it.progress == Progress::Connected);
        standing.next().or(found.first()).copied()
    }

    /// Whether a connection is with this contact, whichever of its devices.
    pub(crate) fn is_with(&self, connection: ConnectionId, contact: Tag) -> bool {
        self.notes.tags.get(&connection) == Some(&contact)
    }

    /// Hears what has come, and does what is due, for a moment.
    pub(crate) async fn attend(&mut self) {
        let attending = async {
            loop {
                let mut heard = false;
                while let Ok(event) = tokio::time::timeout(Duration::ZERO, self.next_event()).await
                {
                    event?;
                    heard = true;
                }
                let idle = self.kin.is_idle();
                if !idle {
                    let next = self.kin.running.next().await;
                    next.map_or(Ok(()), |ended| self.kin.ended(ended))?;
                    continue;
                }
                let connections = self.kin.take_touched();
                if connections.is_empty() && !heard {
                    return Ok::<_, Failure>(());
                }
                let lines = Lines {
                    connections,
                    ..Lines::default()
                };
                self.agent.settle(lines).await.map_err(agent_failure)?;
            }
        };
        if let Ok(Err(failure)) = tokio::time::timeout(GLANCE, attending).await {
            tracing::error!(
                "what is due is left to the next command: {}",
                failure.message
            );
        }
    }

    /// Tells the user what there is to know about devices.
    pub(crate) fn tell_news(&mut self, output: Output) {
        for news in core::mem::take(&mut self.kin.news) {
            let name = |contact: ContactId| {
                let name = self.notes.name_of(Tag::new(contact.0));
                name.unwrap_or("a contact").to_owned()
            };
            let text = match news {
                News::Contact(contact, _) => {
                    format!(
                        "{}: a contact of your other device, here as well",
                        name(contact)
                    )
                }
                News::Joined(contact, device) => format!(
                    "{0} has another device ({1:.8}), says {0}: what you send goes there as well",
                    name(contact),
                    device.to_string()
                ),
                News::Left(contact, device) => format!(
                    "{} has revoked its device {:.8}: nothing goes there any more",
                    name(contact),
                    device.to_string()
                ),
                News::Linked(device) => format!("your device {} is linked", printable(&device)),
                News::Revoked(device, by) => format!(
                    "your device {} was revoked by your device {}",
                    printable(&device),
                    printable(&by)
                ),
                News::RevokedHere(by) => format!(
                    "THIS device was revoked by your device {}: it gets nothing new",
                    printable(&by)
                ),
                News::AskedAll => continue,
            };
            output.say(text);
        }
    }

    /// How many contacts there are.
    pub(crate) fn count(&self) -> usize {
        self.notes.book.len()
    }

    /// Gets what the relays have, if they are there.
    pub(crate) async fn settle_all(&self) -> Result<(), Failure> {
        let connections = self.overview().await?.connections;
        let lines = Lines {
            connections: connections.iter().map(|it| it.id).collect(),
            ..Lines::default()
        };
        let _ = self.settle(lines, GLANCE).await;
        Ok(())
    }

    /// All contacts may be told of a device that is new.
    pub(crate) async fn meet_all(&mut self) -> Result<(), Failure> {
        self.kin.meet_all(&self.notes).await
    }

    /// What has come from a contact's devices is heard before something is sent to them.
    pub(crate) async fn catch_up(&mut self, contact: Tag) {
        let contact = ContactId(*contact.as_bytes());
        if self.kin.devices.takes_part(contact) {
            self.glance_at(Tag::new(contact.0)).await;
            self.attend().await;
        }
    }

    /// Gets what the relays have of a contact, from all its devices, if they are there.
    pub(crate) async fn glance_at(&self, contact: Tag) {
        let links = self.kin.devices.links_of(ContactId(*contact.as_bytes()));
        let tags: Vec<Tag> = core::iter::once(contact)
            .chain(links.map(Tag::new))
            .collect();
        if let Ok(overview) = self.overview().await {
            let all = overview.connections.iter();
            let connections = all
                .filter(|it| tags.contains(&it.tag))
                .map(|it| it.id)
                .collect();
            let lines = Lines {
                connections,
                ..Lines::default()
            };
            let _ = self.settle(lines, GLANCE).await;
        }
    }

    /// Waits until relays have taken what is to leave for these.
    pub(crate) async fn settle(&self, lines: Lines, patience: Duration) -> Result<(), Failure> {
        match tokio::time::timeout(patience, self.agent.settle(lines)).await {
            Ok(settled) => settled.map_err(agent_failure),
            Err(_) => Err(Failure::new(
                Exit::Unreachable,
                "not everything could be handed to the relays yet",
            )
            .help("it is stored and goes out with the next command about contacts")),
        }
    }

    /// The next event until `end`.
    pub(crate) async fn event(&mut self, end: Instant) -> Result<Option<Event>, Failure> {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, self.next_event()).await {
            Ok(event) => event.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The next event. Safe to cancel.
    pub(crate) async fn next_event(&mut self) -> Result<Event, Failure> {
        loop {
            let save_at = self.notes.save_at;
            let saving = async {
                match save_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => core::future::pending().await,
                }
            };
            let retry_at = self.kin.retry_at();
            let retrying = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => core::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = saving => self.notes.save_noted(),
                () = retrying => self.kin.retry()?,
                Some(ended) = self.kin.running.next(), if !self.kin.is_idle() => self.kin.ended(ended)?,
                event = self.events.next() => {
                    let event = event.ok_or_else(|| Failure::failed("the agent has ended"))?;
                    let devices = &self.kin.devices;
                    self.notes.note(&event, |tag| kin::home(devices, tag));
                    if let Fate::Told(event) = self.kin.look(event, &mut self.notes)? {
                        return Ok(event);
                    }
                }
            }
        }
    }

    /// What was noted since the last call: the contact's name, and what was lost or altered.
    pub(crate) fn take_untold(&mut self) -> Vec<(String, Verdict)> {
        core::mem::take(&mut self.notes.untold)
    }

    /// What there is to be said about the profile itself since the last call.
    pub(crate) fn take_remarks(&mut self) -> Vec<String> {
        core::mem::take(&mut self.notes.remarks)
    }

    /// The agent of all contacts.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The tags of all contacts.
    pub(crate) fn tags(&self) -> Vec<Tag> {
        let book = self.notes.book.iter();
        book.map(|entry| Tag::new(entry.tag)).collect()
    }

    /// The contact at the other end of a connection that stands, or cannot go on, and its name.
    pub(crate) fn contact_at(&self, connection: ConnectionId) -> Option<(Tag, String)> {
        let tag = *self.notes.tags.get(&connection)?;
        Some((tag, self.name_of(tag)?.to_owned()))
    }

    /// See [`Notes::place`].
    pub(crate) fn place(
        &mut self,
        contact: Tag,
        connection: ConnectionId,
    ) -> Result<usize, Failure> {
        self.notes.place(contact, connection)
    }

    /// See [`Notes::line_at`].
    pub(crate) fn line_at(&self, contact: Tag, place: usize) -> Option<ConnectionId> {
        self.notes.line_at(contact, place)
    }

    /// All contacts by name.
    pub(crate) async fn listed(&self) -> Result<Vec<(String, ConnectionView)>, Failure> {
        let connections = self.overview().await?.connections;
        let named = self.notes.book.iter().filter_map(|entry| {
            let best = self.best(&connections, Tag::new(entry.tag))?;
            Some((entry.name.clone(), best.clone()))
        });
        let mut named: Vec<_> = named.collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(named)
    }

    /// Names a new contact, and gives its name and what makes the link for it.
    pub(crate) fn invitation(
        &mut self,
        new: &NewContact,
        patience: Duration,
    ) -> Result<(String, BoxFuture<'static, Result<Invitation, Failure>>), Failure> {
        let relay = self.relay(new.relay.as_deref())?;
        let name = self.new_name(new.name.as_deref())?;
        let tag = Self::fresh_tag();
        self.enter(name.clone(), tag)?;
        let (agent, info) = (self.agent.clone(), new.nickname.clone().into_bytes());
        let making = async move {
            let made = agent.publish_invitation(tag, &relay, &info, &info);
            let made = tokio::time::timeout(patience, made).await;
            made.map_err(|_| unreachable(&relay))?
                .map_err(agent_failure)
        };
        Ok((name, making.boxed()))
    }

    /// Names a contact, and gives its name and what follows the link. Through the same link again it is the same
    /// contact, and no second request.
    pub(crate) fn joining(
        &mut self,
        link: &Link,
        new: &NewContact,
    ) -> Result<(String, BoxFuture<'static, Result<ConnectionId, Failure>>), Failure> {
        let relay = self.relay(new.relay.as_deref())?;
        let tag = Tag::named(&[b"junto connect", link.to_string().as_bytes()]);
        let known = self.name_of(tag).map(str::to_owned);
        let name = match known {
            Some(name) => name,
            None => {
                let name = self.new_name(new.name.as_deref())?;
                self.enter(name.clone(), tag)?;
                name
            }
        };
        let (agent, info) = (self.agent.clone(), new.nickname.clone().into_bytes());
        let link = link.clone();
        let joining = async move {
            let joined = agent.join(tag, &link, &relay, &info).await;
            joined.map_err(agent_failure)
        };
        Ok((name, joining.boxed()))
    }

    /// The link that a code stands for.
    async fn redeem(
        &self,
        code: &Code,
        arguments: &Connect,
        output: Output,
    ) -> Result<Link, Failure> {
        let listed = || self.profile.config.relays.first().cloned();
        let own = arguments.new.relay.clone().or_else(listed);
        let relay = code::relay_for(code, &arguments.code, own, output).await?;
        let visitor = (&*self.profile, self.socks.as_ref());
        let link = code::redeem(visitor, relay.as_deref(), code, output).await?;
        if link.starts_with("junto:") {
            return Err(
                Failure::usage("the code is for a session, not for a contact")
                    .help("ask for another one, and use it with `junto session join CODE`"),
            );
        }
        read_contact_link(&link)
    }

    /// Waits until messages flow.
    pub(crate) async fn connected(
        &mut self,
        id: ConnectionId,
        end: Instant,
    ) -> Result<(), Failure> {
        let connections = self.overview().await?.connections;
        let known = connections.iter().find(|it| it.id == id);
        match known.map(|it| it.progress) {
            Some(Progress::Connected) => return Ok(()),
            Some(Progress::Failed(fault)) => return Err(failed(fault)),
            Some(Progress::Inviting | Progress::Joining) | None => {}
        }
        loop {
            match self.event(end).await? {
                Some(Event::Connected { connection, .. }) if connection == id => return Ok(()),
                Some(Event::Failed {
                    connection, error, ..
                }) if connection == id => return Err(failed(error)),
                Some(_) => {}
                None => {
                    return Err(Failure::new(
                        Exit::Unreachable,
                        "the other side has not connected in time",
                    )
                    .help("nothing is lost: `junto recv --contact NAME` goes on waiting; `junto contact list` shows the names"));
                }
            }
        }
    }
}

/// Whether a name can be typed and shown.
fn is_fit(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.trim() == name
        && printable(name) == name
        && !name.contains('\t')
}

fn unknown(name: &str) -> Failure {
    Failure::usage(format_args!("there is no contact `{name}`"))
        .help("`junto contact list` shows the contacts of this profile")
}

/// A connection that cannot go on.
pub(crate) fn failed(fault: junto_agent::ConnectionFault) -> Failure {
    use junto_agent::ConnectionFault as Fault;
    let exit = match fault {
        Fault::LinkForged => Exit::Misbehaved,
        Fault::LinkUsed
        | Fault::LinkGone
        | Fault::PeerGone
        | Fault::QueueGone
        | Fault::QueueRefused
        | Fault::Restored
        | Fault::Version => Exit::Failed,
    };
    Failure::new(exit, fault).help("end it by `junto contact close NAME`, and ask for another link")
}

pub(crate) fn one(connection: ConnectionId) -> Lines {
    Lines {
        connections: [connection].into(),
        ..Lines::default()
    }
}

fn address_lines() -> Lines {
    Lines {
        addresses: [Tag::named(&[ADDRESS])].into(),
        ..Lines::default()
    }
}

/// What a stranger says about itself, for people.
fn shown(info: &[u8]) -> String {
    match std::str::from_utf8(info) {
        Ok("") => "(says nothing)".to_owned(),
        Ok(text) => printable(text),
        Err(_) => format!("({} bytes)", info.len()),
    }
}

fn show_link(link: &ShortLink, hint: &str, output: Output) {
    show_link_code(&link.to_string(), hint, output);
}

/// Shows a link as QR code, on a terminal.
pub(crate) fn show_link_code(link: &str, hint: &str, output: Output) {
    if !output.json && std::io::stderr().is_terminal() {
        if let Some(code) = qr_code(link) {
            output.say(code);
        }
        output.say(hint);
    }
}

/// What a user gives to connect.
enum Given {
    Link(Box<Link>),
    Code(Code),
}

pub(crate) async fn connect(
    arguments: Connect,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    let text = match arguments.link.as_str() {
        "-" => String::from_utf8(input::read_stdin()?)
            .map_err(|_| Failure::usage("the link on standard input is not text"))?,
        link => link.to_owned(),
    };
    let given = match code::read(&text) {
        Some(code) => Given::Code(code?),
        None => Given::Link(Box::new(read_contact_link(&text)?)),
    };
    Contacts::with(global, async |contacts| {
        let link = match given {
            Given::Link(link) => *link,
            Given::Code(code) => contacts.redeem(&code, &arguments, output).await?,
        };
        connect_with(contacts, &arguments, &link, output).await
    })
    .await
}

/// Reads a link of a contact, of any kind.
pub(crate) fn read_contact_link(text: &str) -> Result<Link, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(format_args!("that is no link of a contact: {error}")).help(
            "it begins with simplex:/ or https://; copy all of it, in quotes. A session's link begins with junto: and is for `junto session join`",
        )
    })
}

async fn connect_with(
    contacts: &mut Contacts,
    arguments: &Connect,
    link: &Link,
    output: Output,
) -> Result<(), Failure> {
    let (name, joining) = contacts.joining(link, &arguments.new)?;
    let id = joining.await?;
    let end = Instant::now() + arguments.wait.patience();
    let progress = output.progress("connecting");
    let asks = match link {
        Link::Contact(_) => true,
        Link::Invitation(_) => false,
        Link::Short(link) => matches!(link.kind(), junto_agent::ShortKind::Contact(_)),
    };
    if asks {
        contacts.settle(one(id), arguments.wait.patience()).await?;
    } else {
        contacts.connected(id, end).await?;
    }
    progress.done();
    report(contacts, &name, output).await
}

/// Says how far a contact is.
async fn report(contacts: &Contacts, name: &str, output: Output) -> Result<(), Failure> {
    let contact = contacts.contact(name).await?;
    if let Progress::Failed(fault) = contact.progress {
        return Err(failed(fault));
    }
    output.result(&json_of(name, &contact), || text_of(name, &contact))
}

fn state(progress: Progress) -> &'static str {
    match progress {
        Progress::Inviting => "waiting",
        Progress::Joining => "connecting",
        Progress::Connected => "connected",
        Progress::Failed(_) => "failed",
    }
}

pub(crate) fn json_of(name: &str, contact: &ConnectionView) -> serde_json::Value {
    let fault = match contact.progress {
        Progress::Failed(fault) => Some(fault.to_string()),
        _ => None,
    };
    json!({
        "contact": name,
        "state": state(contact.progress),
        "says": std::str::from_utf8(&contact.info).ok(),
        "unread": contact.unread,
        "fault": fault,
    })
}

fn text_of(name: &str, contact: &ConnectionView) -> String {
    match contact.progress {
        Progress::Inviting => format!("{name}: waiting for the other side"),
        Progress::Joining => format!("{name}: connecting"),
        Progress::Connected => {
            let unread = match contact.unread {
                0 => String::new(),
                count => format!(", {count} unread"),
            };
            format!("{name}: connected, {}{unread}", shown(&contact.info))
        }
        Progress::Failed(fault) => format!("{name}: failed, {fault}"),
    }
}

pub(crate) async fn run(
    command: ContactCommand,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    Contacts::with(global, async |contacts| match command {
        ContactCommand::Invite { new, code, wait } => {
            code.check()?;
            invite(contacts, &new, &code, wait, output).await
        }
        ContactCommand::List => list(contacts, output).await,
        ContactCommand::Address(command) => address(contacts, command, output).await,
        ContactCommand::Requests { timeout } => requests(contacts, timeout, output).await,
        ContactCommand::Accept { request, new, wait } => {
            accept(contacts, &request, &new, wait, output).await
        }
        ContactCommand::Reject { request } => reject(contacts, &request, output).await,
        ContactCommand::Show { name } => upkeep::show(contacts, &name, output).await,
        ContactCommand::Rotate { name, relay, wait } => {
            upkeep::rotate(contacts, &name, relay.as_deref(), wait, output).await
        }
        ContactCommand::Queue(command) => upkeep::queue(contacts, command, output).await,
        ContactCommand::Noise { name, how } => noise::choose(contacts, &name, &how, output).await,
        ContactCommand::Resync { name, wait } => {
            upkeep::resync(contacts, &name, wait, output).await
        }
        ContactCommand::Close { name } => close(contacts, &name, output).await,
    })
    .await
}

async fn invite(
    contacts: &mut Contacts,
    new: &NewContact,
    code: &OfferCode,
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let end = Instant::now() + wait.patience();
    let (name, making) = contacts.invitation(new, wait.patience())?;
    let (id, full, link) = making.await?;
    let mut value =
        json!({ "contact": name, "link": link.to_string(), "full_link": full.to_string() });
    let mut offer = None;
    if code.code {
        let relay = contacts.relay(new.relay.as_deref())?.to_string();
        let relay = code.relay.code_relay.as_deref().unwrap_or(&relay);
        let visitor = (&*contacts.profile, contacts.socks.as_ref());
        offer = Offer::make_or_say(visitor, relay, link.to_string(), 1, code, output).await;
    }
    if let Some(made) = &offer {
        value["code"] = json!(made.text().as_str());
        output.result(&value, || made.text().to_string())?;
        made.show("junto connect {}", output);
    } else {
        output.result(&value, || link.to_string())?;
        let hint = "Give this link to one peer. It runs: junto connect 'LINK'";
        show_link(&link, hint, output);
    }
    let progress = output.progress("waiting for the other side");
    let connected = tokio::select! {
        connected = contacts.connected(id, end) => connected,
        failure = code::betrayed(offer.as_mut(), output) => Err(failure),
    };
    if let Some(offer) = offer {
        offer.close().await;
    }
    connected?;
    // Ours is the last word of the handshake.
    contacts.settle(one(id), SETTLE).await?;
    progress.done();
    report(contacts, &name, output).await
}

fn unreachable(relay: &ServerAddress) -> Failure {
    Failure::new(
        Exit::Unreachable,
        format_args!("the relay {relay} has not answered"),
    )
    .help("check it with `junto relay status ADDRESS`")
}

async fn list(contacts: &Contacts, output: Output) -> Result<(), Failure> {
    // What came meanwhile, if the relays are there.
    contacts.settle_all().await?;
    let all = contacts.listed().await?;
    for (name, contact) in &all {
        output.result(&json_of(name, contact), || text_of(name, contact))?;
    }
    if all.is_empty() {
        output.say("No contacts. `junto contact invite` makes a link for one, `junto connect LINK` opens one.");
    }
    Ok(())
}

async fn address(
    contacts: &Contacts,
    command: AddressCommand,
    output: Output,
) -> Result<(), Failure> {
    let tag = Tag::named(&[ADDRESS]);
    let none = || {
        Failure::usage("this profile has no contact address")
            .help("`junto contact address new` makes one")
    };
    match command {
        AddressCommand::New { about, relay } => {
            let relay = contacts.relay(relay.as_deref())?;
            let made = contacts
                .agent
                .publish_address(tag, &relay, about.as_bytes());
            let made = tokio::time::timeout(SETTLE, made).await;
            made.map_err(|_| unreachable(&relay))?
                .map_err(agent_failure)?;
            contacts.settle(address_lines(), SETTLE).await?;
        }
        AddressCommand::Show => {}
        AddressCommand::Describe { about } => {
            let described = contacts.agent.describe_address(tag, about.as_bytes()).await;
            described.map_err(|error| match error {
                junto_agent::AgentError::Misuse(junto_agent::Misuse::NoAddress) => none(),
                error => agent_failure(error),
            })?;
            contacts.settle(address_lines(), SETTLE).await?;
        }
        AddressCommand::Close => {
            let addresses = contacts.overview().await?.addresses;
            if !addresses.iter().any(|it| it.tag == tag) {
                return Err(none());
            }
            let closed = contacts.agent.close_address(tag).await;
            closed.map_err(agent_failure)?;
            contacts.settle(address_lines(), SETTLE).await?;
            return output.result(&json!({ "closed": true }), || "Closed.".to_owned());
        }
    }
    let overview = contacts.overview().await?;
    let address = overview.addresses.iter().find(|it| it.tag == tag);
    let Some((link, full)) = address.and_then(|it| it.short.as_ref().zip(it.link.as_ref())) else {
        return Err(none());
    };
    let about = address
        .and_then(|it| it.about.as_deref())
        .unwrap_or_default();
    let waiting = overview.requests.len();
    let has_moved = address.is_some_and(|it| it.moved);
    let value = json!({
        "link": link.to_string(),
        "full_link": full.to_string(),
        "about": std::str::from_utf8(about).ok(),
        "requests": waiting,
        "changed": has_moved,
    });
    output.result(&value, || link.to_string())?;
    if has_moved {
        // What has changed stands in the remark that the event makes.
        let seen = contacts.agent.address_seen(tag).await;
        seen.map_err(agent_failure)?;
    }
    let hint = "Give this link to anybody. They run: junto connect 'LINK'; you see them by: junto contact requests";
    show_link(link, hint, output);
    Ok(())
}

async fn requests(contacts: &mut Contacts, timeout: u64, output: Output) -> Result<(), Failure> {
    let end = Instant::now() + Duration::from_secs(timeout);
    // Who is not reached has nothing new; what is stored is shown all the same.
    let _ = contacts.settle(address_lines(), GLANCE).await;
    while contacts.overview().await?.requests.is_empty() {
        if contacts.event(end).await?.is_none() {
            break;
        }
    }
    let _ = contacts.settle(address_lines(), GLANCE).await;
    let waiting = contacts.overview().await?.requests;
    for request in &waiting {
        let id = request.id.to_string();
        let value = json!({ "request": id, "says": std::str::from_utf8(&request.info).ok() });
        output.result(&value, || format!("{id}  {}", shown(&request.info)))?;
    }
    if waiting.is_empty() {
        output.say("Nobody asks.");
    }
    Ok(())
}

/// The request whose name begins so.
async fn find_request(contacts: &Contacts, text: &str) -> Result<RequestView, Failure> {
    let requests = contacts.overview().await?.requests;
    let is_meant = |it: &RequestView| !text.is_empty() && it.id.to_string().starts_with(text);
    let mut meant = requests.into_iter().filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(request), None) => Ok(request),
        (Some(_), Some(_)) => Err(Failure::usage(format_args!(
            "more than one request begins with `{text}`"
        ))),
        (None, _) => Err(Failure::usage(format_args!("there is no request `{text}`"))
            .help("`junto contact requests` shows those that wait")),
    }
}

async fn accept(
    contacts: &mut Contacts,
    request: &str,
    new: &NewContact,
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let request = find_request(contacts, request).await?;
    let relay = contacts.relay(new.relay.as_deref())?;
    let tag = Tag::of_request(request.id);
    let known = contacts.name_of(tag).map(str::to_owned);
    let name = match known {
        Some(name) => name,
        None => {
            // What it calls itself, if that will do.
            let said = std::str::from_utf8(&request.info).ok();
            let said = said.filter(|said| contacts.new_name(Some(said)).is_ok());
            let name = contacts.new_name(new.name.as_deref().or(said))?;
            contacts.enter(name.clone(), tag)?;
            name
        }
    };
    let info = new.nickname.as_bytes();
    let accepted = contacts.agent.accept(request.id, &relay, info).await;
    let id = accepted.map_err(agent_failure)?;
    let progress = output.progress("answering");
    contacts.settle(one(id), wait.patience()).await?;
    progress.done();
    report(contacts, &name, output).await
}

async fn reject(contacts: &Contacts, request: &str, output: Output) -> Result<(), Failure> {
    let request = find_request(contacts, request).await?;
    let rejected = contacts.agent.reject(request.id).await;
    rejected.map_err(agent_failure)?;
    let id = request.id.to_string();
    output.result(&json!({ "rejected": id }), || format!("Rejected {id}."))
}

async fn close(contacts: &mut Contacts, name: &str, output: Output) -> Result<(), Failure> {
    let tag = contacts.contact(name).await.map(|it| (it.id, it.tag));
    match tag {
        Ok((id, tag)) => {
            file::forget(&contacts.profile, tag)?;
            contacts.agent.delete(id).await.map_err(agent_failure)?;
            // The queue goes when its relay is there, now or with a later command.
            let _ = contacts.settle(one(id), GLANCE).await;
        }
        // A name that a crash left without a connection goes as well.
        Err(_) if contacts.tag_of(name).is_some() => {}
        Err(unknown) => return Err(unknown),
    }
    if let Some(tag) = contacts.tag_of(name) {
        contacts.kin.devices.forget(ContactId(*tag.as_bytes()));
        contacts.kin.proceed()?;
    }
    contacts.notes.book.retain(|entry| entry.name != name);
    contacts.notes.save()?;
    output.result(&json!({ "closed": name }), || format!("Closed {name}."))
}
