//! `junto connect` and `junto contact`: peers that one talks with outside of sessions, and an address where strangers ask.
//!
//! Contacts have an agent and a database of their own, apart from those of sessions: neither sees what is the other's.

mod address;
mod kin;
mod meeting;
mod messages;
mod noise;
mod notes;
mod reach;
mod shown;
mod upkeep;
mod verdict;

pub(crate) use kin::{Kin, Reading, refuse_apps};
pub(crate) use meeting::{connect, read_contact_link};
pub(crate) use messages::{message_json, recv, refuse_frame, send, warn};
pub(crate) use noise::noise_json;
pub(crate) use reach::{Need, plight};
pub(crate) use shown::{json_of, show_link_code};
pub(crate) use upkeep::show_json;
pub(crate) use verdict::{Noted, Verdict};

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use junto_agent::{
    Agent, ConnectionFault, ConnectionId, ConnectionView, Event, Events, Lines, NoiseView,
    Overview, Progress, Resync, Tag,
};
use junto_devices::{ContactId, MessageName, News};
use junto_files::Line;
use junto_smp::address::ServerAddress;
use serde_json::json;

use self::kin::Fate;
use self::notes::Notes;
use crate::args::{ContactCommand, Global};
use crate::failure::{Context, Exit, Failure};
use crate::open::{END, agent_failure, open_agent};
use crate::output::Output;
use crate::profile::{Profile, Succession};
use crate::relay::parse_address;
use crate::session::no_relay;
use crate::talk::printable;
use crate::{file, way};

/// The file with the contacts' names.
const BOOK: &str = "contacts";
/// Longest name of a contact, in bytes.
const NAME_MAX: usize = 64;
/// How long relays may take where only the newest state is asked for.
const GLANCE: Duration = Duration::from_secs(3);
/// How long what waits in a full queue takes on a line with noise (decision 15), and a little more.
const BACKLOG: Duration = Duration::from_secs(15);
/// The least that a relay that is there may take, when the user's patience is over.
const MOMENT: Duration = Duration::from_millis(500);

/// Whether the file with the contacts' names can be read.
pub(crate) fn check_book(bytes: &[u8]) -> Result<(), Failure> {
    let book: Vec<notes::Entry> = serde_json::from_slice(bytes).context("it cannot be read")?;
    drop(book);
    Ok(())
}

/// The contacts of a profile in use.
pub(crate) struct Contacts {
    pub(crate) profile: Arc<Profile>,
    pub(crate) agent: Agent,
    pub(crate) events: Events,
    pub(crate) kin: Kin,
    notes: Notes,
    socks: Option<junto_agent::client::SocksServer>,
    /// How those who wait are told of something.
    output: Output,
    /// Relays that the user was told of, since they are not there.
    told: BTreeSet<String>,
    /// The agent has ended: a command had to know what became of a message.
    is_over: bool,
}

impl Contacts {
    pub(crate) async fn with(
        global: &Global,
        command: impl AsyncFnOnce(&mut Contacts) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut contacts = Self::open(global).await?;
        let result = command(&mut contacts).await;
        if !contacts.is_over {
            contacts.attend().await;
        }
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
        let routes = self.agent.routes(one(connection)).await;
        let routes = routes.map_err(agent_failure)?.into_iter();
        let relays: BTreeSet<_> = routes.map(|it| it.path.relay.to_string()).collect();
        let Self {
            agent,
            events,
            notes,
            kin,
            told,
            ..
        } = self;
        let devices = &kin.devices;
        let line = Line::new(agent, events, connection);
        Ok(line.watched(move |event| {
            notes.note(event, |tag| kin::home(devices, tag));
            if let Event::RelayDown { relay, trouble } = event
                && relays.contains(&relay.to_string())
                && told.insert(relay.to_string())
            {
                output.say(format_args!(
                    "the relay {relay} {trouble}; it is tried again and again"
                ));
            }
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
        let mut notes = Notes::new(Arc::clone(&profile), book);
        let relay = profile.config.relays.first();
        let relay = relay.and_then(|relay| relay.parse().ok());
        let kin = Kin::open(&profile, &agent, relay).await?;
        notes.remarks.extend(kin.devices.revoked_by().map(|by| {
            format!(
                "warning: this device was revoked by your device {}: it gets nothing new, and reaches nobody whom it met as a device of the profile; `junto device link` makes it one again, if you want that",
                printable(by)
            )
        }));
        Ok(Self {
            kin,
            profile,
            agent,
            events,
            notes,
            socks,
            output: global.output(),
            told: BTreeSet::new(),
            is_over: false,
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

    /// The tag of a contact, by its name.
    pub(crate) fn known(&self, name: &str) -> Result<Tag, Failure> {
        self.tag_of(name).ok_or_else(|| unknown(name))
    }

    /// The connection of a contact.
    pub(crate) async fn contact(&self, name: &str) -> Result<ConnectionView, Failure> {
        let tag = self.known(name)?;
        let connections = self.overview().await?.connections;
        let found = self.best(&connections, tag).cloned();
        found.ok_or_else(|| self.without_connection(name))
    }

    /// There is a name, and no connection.
    pub(super) fn without_connection(&self, name: &str) -> Failure {
        const AGAIN: &str =
            "`junto device link` makes it a device of the profile again, if you want that";
        let devices = &self.kin.devices;
        if let Some(by) = devices.revoked_by() {
            return Failure::refused(format_args!(
                "this device was revoked by `{}`: it has no connection with {name} any more",
                printable(by)
            ))
            .help(AGAIN);
        }
        let own = devices.own_devices();
        match own.iter().find(|it| it.is_lost) {
            Some(lost) => Failure::refused(format_args!(
                "this device has no connection with {name} any more, and your device `{}` has ended its own: it may have revoked this one",
                printable(&lost.name)
            ))
            .help(format_args!("`junto device list` tells it there; {AGAIN}")),
            None => unknown(name),
        }
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

    /// What has come from a contact's devices, and from one's own, is heard before something is sent to them: that this
    /// device is revoked, say. Who finds that the other one has ended the connection hears nothing on it any more.
    pub(crate) async fn catch_up(&mut self, contact: Tag) {
        if self.kin.devices.takes_part(ContactId(*contact.as_bytes())) {
            let devices = &self.kin.devices;
            let is_own = |tag: Tag| {
                matches!(
                    devices.line(tag.as_bytes()),
                    Some(junto_devices::Line::Own(_))
                )
            };
            self.glance(|tag| tag == contact || kin::home(devices, tag) == contact || is_own(tag))
                .await;
            self.attend().await;
        }
    }

    /// Gets what the relays have of a contact, from all its devices, if they are there.
    pub(crate) async fn glance_at(&self, contact: Tag) {
        let devices = &self.kin.devices;
        self.glance(|tag| tag == contact || kin::home(devices, tag) == contact)
            .await;
    }

    async fn glance(&self, is_meant: impl Fn(Tag) -> bool) {
        if let Ok(overview) = self.overview().await {
            let all = overview.connections.iter();
            let meant: Vec<_> = all.filter(|it| is_meant(it.tag)).collect();
            let lines = Lines {
                connections: meant.iter().map(|it| it.id).collect(),
                ..Lines::default()
            };
            let is_heard = self.settle(lines.clone(), GLANCE).await.is_ok();
            let is_slow = meant.iter().any(|it| it.noise != NoiseView::default());
            if !is_heard && is_slow && self.is_reachable(lines.clone()).await {
                let _ = self.settle(lines, BACKLOG).await;
            }
        }
    }

    /// Whether no relay of these lines is known to be away.
    async fn is_reachable(&self, lines: Lines) -> bool {
        let missing = self.missing(lines, Need::Both).await;
        missing.is_ok_and(|missing| missing.down().next().is_none())
    }

    /// Waits until relays have taken what is to leave for these. If one is not there, the user is told so.
    pub(crate) async fn settle(&self, lines: Lines, patience: Duration) -> Result<(), Failure> {
        let settling = self.agent.settle(lines.clone());
        tokio::pin!(settling);
        let soon = tokio::time::timeout(patience.min(GLANCE), &mut settling);
        if let Ok(settled) = soon.await {
            return settled.map_err(agent_failure);
        }
        let stays = || {
            Failure::new(
                Exit::Unreachable,
                "not everything could be handed to the relays yet",
            )
            .help("it is stored and goes out with the next command about contacts")
        };
        let missing = self.missing(lines.clone(), Need::Both).await?;
        let Some(rest) = patience.checked_sub(GLANCE).filter(|it| !it.is_zero()) else {
            return Err(missing.explain(stays()));
        };
        if missing.is_dead_end() {
            return Err(missing.explain(stays()));
        }
        for (_, text) in missing.down() {
            self.output
                .say(format_args!("{text}; it is tried again and again"));
        }
        match tokio::time::timeout(rest, settling).await {
            Ok(settled) => settled.map_err(agent_failure),
            Err(_) => Err(self.missing(lines, Need::Both).await?.explain(stays())),
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

    /// Why a connection cannot go on, if it cannot.
    async fn fault(&self, id: ConnectionId) -> Result<Option<ConnectionFault>, Failure> {
        let all = self.overview().await?.connections;
        Ok(all
            .iter()
            .find(|it| it.id == id)
            .and_then(|it| match it.progress {
                Progress::Failed(fault) => Some(fault),
                Progress::Inviting | Progress::Joining | Progress::Connected => None,
            }))
    }

    /// Ends the connection with a contact, if there is one, and takes its name back.
    async fn forget(&mut self, name: &str) -> Result<(), Failure> {
        if let Ok(ConnectionView { id, tag, .. }) = self.contact(name).await {
            file::forget(&self.profile, tag)?;
            self.agent.delete(id).await.map_err(agent_failure)?;
            // The queue goes when its relay is there, now or with a later command.
            let _ = self.settle(one(id), GLANCE).await;
        }
        if let Some(tag) = self.tag_of(name) {
            self.kin.devices.forget(ContactId(*tag.as_bytes()));
            self.kin.proceed()?;
        }
        self.notes.book.retain(|entry| entry.name != name);
        self.notes.save()
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

pub(crate) async fn run(
    command: ContactCommand,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    Contacts::with(global, async |contacts| match command {
        ContactCommand::Invite { new, code, wait } => {
            code.check()?;
            meeting::invite(contacts, &new, &code, wait, output).await
        }
        ContactCommand::List => shown::list(contacts, output).await,
        ContactCommand::Address(command) => address::run(contacts, command, output).await,
        ContactCommand::Requests { timeout } => address::requests(contacts, timeout, output).await,
        ContactCommand::Accept { request, new, wait } => {
            address::accept(contacts, &request, &new, wait, output).await
        }
        ContactCommand::Reject { request } => address::reject(contacts, &request, output).await,
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

async fn close(contacts: &mut Contacts, name: &str, output: Output) -> Result<(), Failure> {
    // A name that a crash left without a connection goes as well.
    contacts.known(name)?;
    contacts.forget(name).await?;
    output.result(&json!({ "closed": name }), || format!("Closed {name}."))
}
