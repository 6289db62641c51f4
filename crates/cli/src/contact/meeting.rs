//! How a peer becomes a contact: `junto contact invite` and `junto connect`.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use junto_agent::{
    ConnectionFault, ConnectionId, ConnectionView, Event, InvitationLink, Link, Progress,
    ShortLink, Tag,
};
use junto_code::Code;
use junto_smp::address::ServerAddress;
use serde_json::json;

use super::notes::Entry;
use super::reach::Need;
use super::shown::{json_of, show_link, text_of};
use super::{Contacts, NAME_MAX, address, failed, one};
use crate::args::{Connect, Global, NewContact, OfferCode, Patience};
use crate::code::{self, Offer};
use crate::failure::{Exit, Failure};
use crate::open::{SETTLE, agent_failure};
use crate::output::Output;
use crate::talk::printable;
use crate::{input, random};

/// A connection that is offered, and the two links that lead to it.
type Invitation = (ConnectionId, InvitationLink, ShortLink);

impl Contacts {
    /// A name that is fit to be typed and shown, and free: also if it stands for nothing but an attempt that failed.
    pub(super) async fn new_name(&mut self, given: Option<&str>) -> Result<String, Failure> {
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
        if let Some(tag) = self.tag_of(name) {
            if !self.is_vain(tag).await? {
                return Err(Failure::usage(format_args!("there is a contact `{name}`"))
                    .help("choose another `--name`, or end that one by `junto contact close`"));
            }
            self.forget(name).await?;
        }
        Ok(name.to_owned())
    }

    /// Whether a contact was never reached, and will not be by what there is of it.
    async fn is_vain(&self, tag: Tag) -> Result<bool, Failure> {
        let connections = self.overview().await?.connections;
        let best = self.best(&connections, tag);
        Ok(match best.map(|it| it.progress) {
            None => true,
            Some(Progress::Failed(fault)) => is_about_link(fault),
            Some(_) => false,
        })
    }

    /// Writes a name down, before the connection is made: a crash in between leaves a name without one.
    pub(super) fn enter(&mut self, name: String, tag: Tag) -> Result<(), Failure> {
        self.notes.book.push(Entry::new(name, *tag.as_bytes()));
        self.notes.save()
    }

    pub(crate) fn fresh_tag() -> Tag {
        use rand_core::Rng;
        let mut bytes = [0; 32];
        random().fill_bytes(&mut bytes);
        Tag::new(bytes)
    }

    /// Names a new contact, and gives its name and what makes the link for it. If it was invited before and has not come,
    /// it is the same link again.
    pub(crate) async fn invitation(
        &mut self,
        new: &NewContact,
        patience: Duration,
    ) -> Result<(String, BoxFuture<'static, Result<Invitation, Failure>>), Failure> {
        let (name, tag, relay) = match self.invited(new).await? {
            Some((name, waiting)) => {
                let relay = waiting.receives.into_iter().next().map(|it| it.relay);
                (name, waiting.tag, relay)
            }
            None => {
                let relay = self.relay(new.relay.as_deref())?;
                let name = self.new_name(new.name.as_deref()).await?;
                let tag = Self::fresh_tag();
                self.notes.book.push(Entry {
                    invited: true,
                    ..Entry::new(name.clone(), *tag.as_bytes())
                });
                self.notes.save()?;
                (name, tag, Some(relay))
            }
        };
        let relay = match relay {
            Some(relay) => relay,
            None => self.relay(new.relay.as_deref())?,
        };
        let (agent, info) = (self.agent.clone(), new.nickname.clone().into_bytes());
        let making = async move {
            let made = agent.publish_invitation(tag, &relay, &info, &info);
            let made = tokio::time::timeout(patience, made).await;
            made.map_err(|_| unreachable(&relay))?
                .map_err(agent_failure)
        };
        Ok((name, making.boxed()))
    }

    /// The contact of this name, if it was invited and is not connected yet.
    async fn invited(&self, new: &NewContact) -> Result<Option<(String, ConnectionView)>, Failure> {
        let Some(name) = new.name.as_deref() else {
            return Ok(None);
        };
        let entry = self.notes.book.iter().find(|it| it.name == name);
        let Some(entry) = entry.filter(|it| it.invited) else {
            return Ok(None);
        };
        let all = self.overview().await?.connections;
        let waits = |it: &ConnectionView| {
            *it.tag.as_bytes() == entry.tag
                && matches!(it.progress, Progress::Inviting | Progress::Joining)
        };
        let Some(waiting) = all.into_iter().find(waits) else {
            return Ok(None);
        };
        if let Some(given) = &new.relay {
            let given = self.relay(Some(given))?;
            let mut queues = waiting.receives.iter();
            if !queues.any(|it| it.relay.fingerprint() == given.fingerprint()) {
                return Err(Failure::usage(format_args!(
                    "there is a link for `{name}` already, on another relay"
                ))
                .help(format_args!(
                    "leave out `--relay` to have it again, or end it by `junto contact close {name}`"
                )));
            }
        }
        Ok(Some((name.to_owned(), waiting)))
    }

    /// Names a contact, and gives its name and what follows the link. Through the same link again it is the same
    /// contact, and no second request.
    pub(crate) async fn joining(
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
                let name = self.new_name(new.name.as_deref()).await?;
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
        let late = || {
            Failure::new(
                Exit::Unreachable,
                "the other side has not connected in time",
            )
            .help("nothing is lost: run this again, or `junto recv --contact NAME`, to go on waiting; `junto contact list` shows the names")
        };
        let output = self.output;
        loop {
            match self.event(end).await? {
                Some(Event::Connected { connection, .. }) if connection == id => return Ok(()),
                Some(Event::Failed {
                    connection, error, ..
                }) if connection == id => return Err(failed(error)),
                Some(Event::RelayDown { .. }) => {
                    let missing = self.missing(one(id), Need::Both).await?;
                    if missing.is_dead_end() {
                        let failure = Failure::new(Exit::Unreachable, "no connection can be made");
                        return Err(missing.explain(failure));
                    }
                    self.tell_missing(&missing, output);
                }
                Some(_) => {}
                None => return Err(self.late(id, Need::Both, late()).await),
            }
        }
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
    let (name, joining) = contacts.joining(link, &arguments.new).await?;
    let id = joining.await?;
    let met = meet(contacts, arguments, (link, &name, id), output).await;
    let Err(failure) = met else { return Ok(()) };
    let Some(fault) = contacts.fault(id).await?.filter(|it| is_about_link(*it)) else {
        return Err(failure);
    };
    // There never was a contact.
    contacts.forget(&name).await?;
    Err(failure.help(match fault {
        ConnectionFault::QueueRefused => "nothing is kept. If the relay demands a password, give it with `junto relay login ADDRESS`; then run this again: the link can still be used",
        _ => "nothing is kept; ask for another link",
    }))
}

async fn meet(
    contacts: &mut Contacts,
    arguments: &Connect,
    (link, name, id): (&Link, &str, ConnectionId),
    output: Output,
) -> Result<(), Failure> {
    let end = Instant::now() + arguments.wait.patience();
    let progress = output.progress("connecting");
    let asks = match link {
        Link::Contact(_) => true,
        Link::Invitation(_) => false,
        Link::Short(link) => matches!(link.kind(), junto_agent::ShortKind::Contact(_)),
    };
    if asks {
        contacts.settle(one(id), arguments.wait.patience()).await?;
        progress.done();
        return address::asked(contacts, (name, id), output).await;
    }
    contacts.connected(id, end).await?;
    progress.done();
    report(contacts, name, output).await
}

/// Whether a connection failed before there was one: the link, or the relay that was to receive the answer.
fn is_about_link(fault: ConnectionFault) -> bool {
    use ConnectionFault as Fault;
    match fault {
        Fault::LinkUsed | Fault::LinkGone | Fault::LinkForged | Fault::QueueRefused => true,
        Fault::PeerGone | Fault::QueueGone | Fault::Version | Fault::Restored => false,
    }
}

/// Says how far a contact is.
async fn report(contacts: &Contacts, name: &str, output: Output) -> Result<(), Failure> {
    let contact = contacts.contact(name).await?;
    if let Progress::Failed(fault) = contact.progress {
        return Err(failed(fault));
    }
    output.result(&json_of(name, &contact), || text_of(name, &contact))
}

pub(super) async fn invite(
    contacts: &mut Contacts,
    new: &NewContact,
    code: &OfferCode,
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let end = Instant::now() + wait.patience();
    let known = contacts.invited(new).await?;
    let is_known = known.is_some();
    if let Some((name, opened)) = known
        && opened.progress == Progress::Joining
    {
        output.say(format_args!("{name} has the link, and has opened it."));
        return stand(contacts, (&name, opened.id), (None, end), output).await;
    }
    let (name, making) = contacts.invitation(new, wait.patience()).await?;
    let (id, full, link) = contacts.asking(&name, making, output).await?;
    if is_known {
        output.say(format_args!("There is a link for {name} already: it is"));
    }
    let mut value = json!({
        "contact": name, "link": link.to_string(), "full_link": full.to_string(), "again": is_known,
    });
    let mut offer = None;
    if code.code {
        let relay = contacts.contact(&name).await?.receives.into_iter().next();
        let relay = match relay {
            Some(queue) => queue.relay,
            None => contacts.relay(new.relay.as_deref())?,
        };
        let relay = relay.to_string();
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
    stand(contacts, (&name, id), (offer, end), output).await
}

/// Waits until who was invited has come.
async fn stand(
    contacts: &mut Contacts,
    (name, id): (&str, ConnectionId),
    (mut offer, end): (Option<Offer>, Instant),
    output: Output,
) -> Result<(), Failure> {
    let progress = output.progress("waiting for the other side");
    let connected = tokio::select! {
        connected = contacts.connected(id, end) => connected,
        failure = code::betrayed(offer.as_mut(), output) => Err(failure.by(format_args!(
            "`junto contact invite --name {name}` goes on, with the link or `--code`"
        ))),
    };
    if let Some(offer) = offer {
        offer.close().await;
    }
    connected?;
    // Ours is the last word of the handshake.
    contacts.settle(one(id), SETTLE).await?;
    progress.done();
    report(contacts, name, output).await
}

pub(super) fn unreachable(relay: &ServerAddress) -> Failure {
    Failure::new(
        Exit::Unreachable,
        format_args!("the relay {relay} has not answered"),
    )
    .help("check it with `junto relay status ADDRESS`")
}

/// Whether a name can be typed and shown.
pub(super) fn is_fit(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.trim() == name
        && printable(name) == name
        && !name.contains('\t')
}
