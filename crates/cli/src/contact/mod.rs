//! `junto connect` and `junto contact`: peers that one talks with outside of sessions, and an address where strangers ask.
//!
//! Contacts have an agent and a database of their own, apart from those of sessions: neither sees what is the other's.

mod messages;
mod notes;
mod upkeep;
mod verdict;

pub(crate) use messages::{message_json, recv, refuse_frame, send, warn};
pub(crate) use upkeep::show_json;
pub(crate) use verdict::{Noted, Verdict};

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use junto_agent::{
    Agent, ConnectionId, ConnectionView, Event, Events, InvitationLink, Lines, Link, Overview,
    Progress, RequestView, Resync, ShortLink, Tag,
};
use junto_files::Line;
use junto_smp::address::ServerAddress;
use serde_json::json;

use self::notes::{Entry, Notes};
use crate::args::{AddressCommand, Connect, ContactCommand, Global, NewContact, Patience};
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
        let told = contacts.end().await;
        for (name, verdict) in &contacts.notes.untold {
            global.output().say(verdict.warning(name));
        }
        result.and(told)
    }

    /// Stops the agent, and notes what it has told and nobody has looked at: it says such things once.
    pub(crate) async fn end(&mut self) -> Result<(), Failure> {
        let _ = tokio::time::timeout(END, self.agent.clone().close()).await;
        while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, self.events.next()).await {
            self.notes.note(&event);
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
            self.notes.tags.insert(known.id, known.tag);
        }
        let Self {
            agent,
            events,
            notes,
            ..
        } = self;
        let line = Line::new(agent, events, connection);
        Ok(line.watched(move |event| {
            notes.note(event);
            for (name, verdict) in notes.untold.drain(..) {
                let _ = warn(&name, &verdict, output);
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
        Ok(Self {
            profile,
            agent,
            events,
            notes,
            socks,
        })
    }

    fn relay(&self, given: Option<&str>) -> Result<ServerAddress, Failure> {
        let own = self.profile.config.relays.first().map(String::as_str);
        let relay = parse_address(given.or(own).ok_or_else(no_relay)?)?;
        way::check_onion(&relay, self.socks.as_ref())?;
        Ok(relay)
    }

    async fn overview(&self) -> Result<Overview, Failure> {
        self.agent.overview().await.map_err(agent_failure)
    }

    fn tag_of(&self, name: &str) -> Option<Tag> {
        let entry = self.notes.book.iter().find(|entry| entry.name == name)?;
        Some(Tag::new(entry.tag))
    }

    fn name_of(&self, tag: Tag) -> Option<&str> {
        let entry = self
            .notes
            .book
            .iter()
            .find(|entry| entry.tag == *tag.as_bytes())?;
        Some(&entry.name)
    }

    /// A name that is free, and fit to be typed and shown.
    fn new_name(&self, given: Option<&str>) -> Result<String, Failure> {
        let Some(name) = given else {
            let mut numbered = (1..).map(|number: u32| format!("contact-{number}"));
            let free = numbered.find(|name| self.tag_of(name).is_none());
            return free.ok_or_else(|| Failure::failed("no name is free"));
        };
        let fits = !name.is_empty()
            && name.len() <= NAME_MAX
            && name.trim() == name
            && printable(name) == name
            && !name.contains('\t');
        if !fits {
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
        let tag = *tag.as_bytes();
        let verdicts = Vec::new();
        self.notes.book.push(Entry {
            name,
            tag,
            verdicts,
        });
        self.notes.save()
    }

    fn fresh_tag() -> Tag {
        use rand_core::Rng;
        let mut bytes = [0; 32];
        random().fill_bytes(&mut bytes);
        Tag::new(bytes)
    }

    /// The connection of a contact.
    pub(crate) async fn contact(&self, name: &str) -> Result<ConnectionView, Failure> {
        let unknown = || {
            Failure::usage(format_args!("there is no contact `{name}`"))
                .help("`junto contact list` shows the contacts of this profile")
        };
        let tag = self.tag_of(name).ok_or_else(unknown)?;
        let connections = self.overview().await?.connections;
        let found = connections.into_iter().find(|it| it.tag == tag);
        found.ok_or_else(unknown)
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
    async fn event(&mut self, end: Instant) -> Result<Option<Event>, Failure> {
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
            tokio::select! {
                biased;
                () = saving => self.notes.save_noted(),
                event = self.events.next() => {
                    let event = event.ok_or_else(|| Failure::failed("the agent has ended"))?;
                    self.notes.note(&event);
                    return Ok(event);
                }
            }
        }
    }

    /// What was noted since the last call: the contact's name, and what was lost or altered.
    pub(crate) fn take_untold(&mut self) -> Vec<(String, Verdict)> {
        core::mem::take(&mut self.notes.untold)
    }

    /// The agent of all contacts.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Connections that stand, or cannot go on.
    pub(crate) fn connections(&self) -> Vec<ConnectionId> {
        self.notes.tags.keys().copied().collect()
    }

    /// The contact at the other end of a connection that stands, or cannot go on.
    pub(crate) fn name_at(&self, connection: ConnectionId) -> Option<&str> {
        self.name_of(*self.notes.tags.get(&connection)?)
    }

    /// The connection of a contact, if it stands, or cannot go on.
    pub(crate) fn connection_of(&self, name: &str) -> Option<ConnectionId> {
        let tag = self.tag_of(name)?;
        let mut all = self.notes.tags.iter();
        all.find(|(_, it)| **it == tag).map(|(id, _)| *id)
    }

    /// All contacts by name.
    pub(crate) async fn listed(&self) -> Result<Vec<(String, ConnectionView)>, Failure> {
        let connections = self.overview().await?.connections.into_iter();
        let named = connections.filter_map(|it| Some((self.name_of(it.tag)?.to_owned(), it)));
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

/// Shows a link, on a terminal also as QR code.
fn show_link(link: &ShortLink, hint: &str, output: Output) {
    if !output.json && std::io::stderr().is_terminal() {
        if let Some(code) = qr_code(&link.to_string()) {
            output.say(code);
        }
        output.say(hint);
    }
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
    let link = read_contact_link(&text)?;
    Contacts::with(global, async |contacts| {
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
        ContactCommand::Invite { new, wait } => invite(contacts, &new, wait, output).await,
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
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let end = Instant::now() + wait.patience();
    let (name, making) = contacts.invitation(new, wait.patience())?;
    let (id, full, link) = making.await?;
    let value = json!({ "contact": name, "link": link.to_string(), "full_link": full.to_string() });
    output.result(&value, || link.to_string())?;
    let hint = "Give this link to one peer. It runs: junto connect 'LINK'";
    show_link(&link, hint, output);
    let progress = output.progress("waiting for the other side");
    contacts.connected(id, end).await?;
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
    let all = contacts.listed().await?;
    let lines = Lines {
        connections: all.iter().map(|(_, it)| it.id).collect(),
        ..Lines::default()
    };
    // What came meanwhile, if the relays are there.
    let _ = contacts.settle(lines, GLANCE).await;
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
    let value = json!({
        "link": link.to_string(),
        "full_link": full.to_string(),
        "about": std::str::from_utf8(about).ok(),
        "requests": waiting,
    });
    output.result(&value, || link.to_string())?;
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
    contacts.notes.book.retain(|entry| entry.name != name);
    contacts.notes.save()?;
    output.result(&json!({ "closed": name }), || format!("Closed {name}."))
}
