//! The one task that owns the contacts: it hears what their agent tells, holds messages until a client has
//! acknowledged them, and answers calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use junto_agent::{
    AgentError, ConnectionId, ConnectionView, Event, Integrity, KeyState, MAX_BODY, MessageId,
    Misuse, Noise, Tag,
};
use junto_devices::{ContactId, MessageName};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::answer::notification;
use super::client::{ClientId, Outlet, Reply};
use super::desks::Desks;
use super::number;
use super::request::{Call, New};
use crate::args::NewContact;
use crate::contact::{
    Contacts, Reading, Verdict, json_of, message_json, noise_json, read_contact_link, refuse_apps,
    refuse_frame, show_json,
};
use crate::failure::{Exit, Failure};
use crate::open::{Junto, SETTLE, agent_failure};
use crate::output::Output;
use crate::session;

/// Messages to one contact that may wait for its relay before `send` is refused. The agent holds 256, and a call beyond
/// them would wait: what is left is for sends under way, and for what the agent says itself.
const UNSENT_MAX: usize = 160;
/// Calls of all clients that may be sending to one contact.
const SENDS_MAX: usize = 64;
/// How long a send may take that met neither bound: new keys may have been asked for just then.
const SEND_PATIENCE: Duration = Duration::from_secs(30);

/// What reaches the task.
pub(super) enum Input {
    /// A client has come.
    Came(ClientId, Outlet),
    /// It asks something.
    Asked(ClientId, Call, Reply),
    /// It has gone, or asks nothing more.
    Gone(ClientId),
}

/// See the module.
pub(super) struct Post {
    contacts: Contacts,
    junto: Junto,
    output: Output,
    clients: BTreeMap<ClientId, Outlet>,
    desks: Desks<Tag>,
    /// Contacts of which a connection stands.
    standing: BTreeSet<Tag>,
    /// Messages that are held and went to several devices, with their numbers: one may come on several connections.
    named: BTreeMap<(Tag, MessageName), u64>,
    /// Places for sends, by connection.
    sends: BTreeMap<ConnectionId, Arc<Semaphore>>,
    /// Calls that take their time. The first poll of each is in the order in which they came, and the agent's queue is
    /// fair: what a client sends keeps its order.
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
}

/// A call that has ended, and what is said about it.
type Done = (Reply, Result<Answer, Failure>);

/// A result, and the message that it acknowledges.
type Answer = (Value, Option<(Tag, u64)>);

/// What is left to do for an answer.
type Work = BoxFuture<'static, Result<Answer, Failure>>;

impl Post {
    pub(super) fn new(contacts: Contacts, junto: Junto, output: Output) -> Self {
        Self {
            contacts,
            junto,
            output,
            clients: BTreeMap::new(),
            desks: Desks::new(),
            standing: BTreeSet::new(),
            named: BTreeMap::new(),
            sends: BTreeMap::new(),
            calls: FuturesUnordered::new(),
        }
    }

    /// Until the agent ends, which is a failure.
    pub(super) async fn run(&mut self, inputs: &mut mpsc::Receiver<Input>) -> Result<(), Failure> {
        loop {
            tokio::select! {
                // What the agent tells comes first: a message is here before an answer says that it is acknowledged.
                biased;
                event = self.contacts.next_event() => self.event(event?),
                Some(input) = inputs.recv() => self.input(input).await,
                Some(done) = self.calls.next(), if !self.calls.is_empty() => self.done(done),
            }
        }
    }

    /// Puts everything away.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        let told = self.contacts.end().await;
        for (name, verdict) in self.contacts.take_untold() {
            self.output.say(verdict.warning(&name));
        }
        self.remark();
        self.junto.warn(self.output);
        self.junto.end().await;
        told
    }

    fn event(&mut self, event: Event) {
        let is_told = |body: &[u8]| !junto_files::frame::is_frame(body);
        let is_message = matches!(&event, Event::Message { body, .. } if is_told(body));
        for (name, verdict) in self.contacts.take_untold() {
            // What a message's own event says is told with it.
            if !is_message {
                self.warn(&name, &verdict);
            }
        }
        self.remark();
        match event {
            // Stays with the agent, for `junto file`.
            Event::Message { body, .. } if junto_files::frame::is_frame(&body) => {}
            Event::Message {
                connection,
                id,
                integrity,
                body,
            } => self.message((connection, id), integrity, &body),
            Event::Connected {
                connection, info, ..
            } => {
                // The first of those with its devices.
                if let Some((contact, name)) = self.contacts.contact_at(connection)
                    && self.standing.insert(contact)
                {
                    let says = std::str::from_utf8(&info).ok();
                    let says = json!({ "contact": name, "says": says });
                    self.desks.connected(contact, says);
                    self.hand_out(contact);
                }
            }
            Event::Delivered { connection, id } => {
                // What goes to several devices has no number of one connection.
                let contact = self.contacts.contact_at(connection);
                let devices = &self.contacts.kin.devices;
                let is_ordinary = |tag: &Tag| !devices.is_shared(ContactId(*tag.as_bytes()));
                if let Some((contact, name)) = contact.filter(|(tag, _)| is_ordinary(tag)) {
                    let params = json!({ "contact": name, "message": id.number() });
                    self.mention(contact, "delivered", &params);
                }
            }
            Event::Failed {
                connection, error, ..
            } => {
                if let Some((contact, name)) = self.contacts.contact_at(connection) {
                    let fault = json!({ "contact": name, "fault": error.to_string() });
                    self.desks.failed(contact, fault);
                    self.hand_out(contact);
                }
            }
            // Noted, or of no interest.
            _ => {}
        }
    }

    /// A message, of whichever device of a contact. A copy of what another device of ours has sent stays with the agent.
    fn message(&mut self, at: (ConnectionId, MessageId), integrity: Integrity, body: &[u8]) {
        let (connection, id) = at;
        let Some((contact, name)) = self.contacts.contact_at(connection) else {
            return;
        };
        let Reading::Theirs(named, body) = self.contacts.kin.read(body) else {
            return;
        };
        let number = self.contacts.place(contact, connection);
        let number = match number.map(|place| number::of(place, id.number())) {
            Ok(Some(number)) => number,
            Ok(None) => {
                return tracing::error!("a message has no number left: `junto recv` shows it");
            }
            Err(failure) => {
                return tracing::error!("a message is left to the next start: {}", failure.message);
            }
        };
        if let Some(named) = named {
            let key = (contact, named);
            let devices = &self.contacts.kin.devices;
            let was_told = devices.is_heard(ContactId(*contact.as_bytes()), named, false);
            if was_told || self.named.get(&key).is_some_and(|held| *held != number) {
                return self.contacts.kin.acknowledge(connection, id);
            }
            self.named.insert(key, number);
        }
        let mut message = message_json(&name, Verdict::of(integrity), &body);
        message["message"] = number.into();
        self.desks.hold(contact, number, message);
        self.hand_out(contact);
    }

    /// Gives the reader of a contact's messages what waits for it.
    fn hand_out(&mut self, contact: Tag) {
        if let Some(reader) = self.desks.reader(contact) {
            self.serve(reader);
        }
    }

    /// Gives a client what waits for it, of all its contacts, as much as it may have.
    fn serve(&mut self, client: ClientId) {
        let Some(outlet) = self.clients.get(&client) else {
            return;
        };
        while outlet.has_room()
            && let Some((method, params)) = self.desks.next_notice(client)
        {
            outlet.tell(notification(method, &params));
        }
        while let Some(message) = self.desks.next_message(client) {
            outlet.tell(notification("message", message));
        }
    }

    /// Tells the reader of a contact's messages something that it can do without, if it is not behind.
    fn mention(&mut self, contact: Tag, method: &str, params: &Value) {
        let reader = self.desks.reader(contact);
        let outlet = reader.and_then(|reader| self.clients.get(&reader));
        if let Some(outlet) = outlet.filter(|outlet| outlet.has_room()) {
            outlet.tell(notification(method, params));
        }
    }

    /// Says what there is to be said about the profile itself.
    fn remark(&mut self) {
        for remark in self.contacts.take_remarks() {
            self.output.say(remark);
        }
    }

    fn warn(&mut self, name: &str, verdict: &Verdict) {
        self.output.say(verdict.warning(name));
        if let Some(contact) = self.contacts.tag_of(name) {
            let advice = verdict.advice(name);
            let params = json!({ "contact": name, "warning": verdict, "advice": advice });
            self.mention(contact, "warning", &params);
        }
    }

    async fn input(&mut self, input: Input) {
        match input {
            Input::Came(client, outlet) => {
                self.clients.insert(client, outlet);
            }
            Input::Gone(client) => {
                self.clients.remove(&client);
                if let Some(heir) = self.desks.leave(client) {
                    self.serve(heir);
                }
            }
            Input::Asked(client, Call::Subscribe { contact }, reply) => {
                self.subscribe(client, contact, reply);
            }
            Input::Asked(client, call, reply) => {
                // It reads: what found no room before may find it now.
                self.serve(client);
                let done = match self.begin(call).await {
                    Ok(work) => work.map(|result| (reply, result)).boxed(),
                    Err(failure) => async { (reply, Err(failure)) }.boxed(),
                };
                self.calls.push(done);
            }
        }
    }

    fn done(&mut self, (reply, result): Done) {
        let (result, acked) = match result {
            Ok((value, acked)) => (Ok(value), acked),
            Err(failure) => (Err(failure), None),
        };
        reply.send(result);
        if let Some((contact, number)) = acked {
            self.desks.release(contact, number);
            self.named
                .retain(|(of, _), held| (*of, *held) != (contact, number));
            self.hand_out(contact);
        }
    }

    /// Answers first, then come the messages that wait. Who read them before is told.
    fn subscribe(&mut self, client: ClientId, contact: Option<String>, reply: Reply) {
        let before = match &contact {
            None => {
                let known = self.contacts.tags();
                self.desks.subscribe_all(client, known)
            }
            Some(name) => match self.contacts.known(name) {
                Ok(contact) => self.desks.subscribe(client, contact),
                Err(failure) => return reply.send(Err(failure)),
            },
        };
        if let Some(outlet) = before.and_then(|before| self.clients.get(&before)) {
            outlet.tell(notification("unsubscribed", &json!({ "contact": contact })));
        }
        reply.send(Ok(json!({ "subscribed": contact })));
        self.serve(client);
    }

    /// A place for a send, if it will not wait: for a relay or a peer that is away it might for ever.
    fn send_place(&mut self, contact: &ConnectionView) -> Result<OwnedSemaphorePermit, Failure> {
        let full = |what: &str| Failure::new(Exit::Unreachable, what).help("send it again later");
        if contact.keys == KeyState::Renewing {
            return Err(full(
                "new keys are being agreed, and the other side has not answered yet",
            ));
        }
        if contact.unsent >= UNSENT_MAX {
            return Err(full("too many messages to this contact wait for its relay"));
        }
        let places = self.sends.entry(contact.id);
        let places = places.or_insert_with(|| Arc::new(Semaphore::new(SENDS_MAX)));
        let place = Arc::clone(places).try_acquire_owned();
        place.map_err(|_| full("too many messages to this contact are being stored"))
    }

    /// A message is acknowledged: if it comes from another device as well, it is not told again. That is stored first.
    fn heard(&mut self, contact: Tag, number: u64) -> Result<(), Failure> {
        let mut named = self.named.iter();
        let named = named.find(|((of, _), held)| (*of, **held) == (contact, number));
        if let Some(((_, named), _)) = named {
            let id = ContactId(*contact.as_bytes());
            let devices = &mut self.contacts.kin.devices;
            if !devices.is_heard(id, *named, false) {
                devices.note(id, *named, false);
                self.contacts.kin.proceed()?;
            }
        }
        Ok(())
    }

    /// Does what can be done at once, and gives the rest.
    async fn begin(&mut self, call: Call) -> Result<Work, Failure> {
        let agent = self.contacts.agent().clone();
        Ok(match call {
            Call::Version => ready(json!({ "junto": env!("CARGO_PKG_VERSION"), "protocol": 1 })),
            Call::Invite(new) => {
                let (name, made) = self.contacts.invitation(&named(new), SETTLE).await?;
                let work = async move {
                    let (_, full, link) = made.await?;
                    let value = json!({
                        "contact": name, "link": link.to_string(), "full_link": full.to_string(),
                    });
                    Ok((value, None))
                };
                work.boxed()
            }
            Call::Connect { link, new } => {
                let link = read_contact_link(&link)?;
                let (name, joined) = self.contacts.joining(&link, &named(new)).await?;
                let work = async move {
                    joined.await?;
                    Ok((json!({ "contact": name }), None))
                };
                work.boxed()
            }
            Call::List => {
                let all = self.contacts.listed().await?;
                let all = all.iter().map(|(name, contact)| json_of(name, contact));
                ready(json!({ "contacts": all.collect::<Vec<_>>() }))
            }
            Call::Show { contact } => ready(show_json(&self.contacts, &contact).await?),
            Call::Noise { contact, noise } => {
                let view = self.contacts.contact(&contact).await?;
                if noise != Noise::Off {
                    refuse_apps(&view, &contact, "noise")?;
                }
                let id = view.id;
                let work = async move {
                    let set = agent.set_noise(id, noise).await;
                    set.map_err(agent_failure)?;
                    let overview = agent.overview().await.map_err(agent_failure)?;
                    let mut views = overview.connections.iter();
                    let view = views.find(|view| view.id == id).map(|it| it.noise);
                    let noise = noise_json(view.unwrap_or_default());
                    Ok((json!({ "contact": contact, "noise": noise }), None))
                };
                work.boxed()
            }
            Call::Send { contact, body } => {
                if body.len() > MAX_BODY {
                    return Err(Failure::usage(format_args!(
                        "a message to a contact has at most {MAX_BODY} bytes"
                    ))
                    .help("send it in parts"));
                }
                refuse_frame(&body)?;
                if let Some((id, devices)) = self.contacts.post(&contact, &body).await? {
                    return Ok(ready(json!({
                        "contact": contact, "id": id.to_string(), "bytes": body.len(), "devices": devices,
                    })));
                }
                let view = self.contacts.target(&contact).await?;
                let (id, place) = (view.id, self.send_place(&view)?);
                let work = async move {
                    let sending = agent.send(id, &body);
                    let sent = tokio::time::timeout(SEND_PATIENCE, sending).await;
                    drop(place);
                    let number = sent.map_err(|_| unsure())?.map_err(agent_failure)?;
                    let number = number.number();
                    let value =
                        json!({ "contact": contact, "message": number, "bytes": body.len() });
                    Ok((value, None))
                };
                work.boxed()
            }
            Call::Ack { contact, message } => {
                let tag = self.contacts.known(&contact)?;
                let value = json!({ "contact": contact, "acked": message });
                let (place, count) = number::parts(message);
                let Some(line) = self.contacts.line_at(tag, place) else {
                    return Ok(ready(value));
                };
                self.heard(tag, message)?;
                let work = async move {
                    match agent.ack(line, MessageId::new(count)).await {
                        // The device is revoked, and what it said has gone with its connection.
                        Ok(()) | Err(AgentError::Misuse(Misuse::NoConnection)) => {}
                        Err(error) => return Err(agent_failure(error)),
                    }
                    // An answer is a promise that it will not come again.
                    agent.stored().await.map_err(agent_failure)?;
                    Ok((value, Some((tag, message))))
                };
                work.boxed()
            }
            // Answered by `subscribe`.
            Call::Subscribe { .. } => ready(Value::Null),
            Call::Sessions => {
                self.junto.warn(self.output);
                ready(session::list_json(&self.junto).await?)
            }
        })
    }
}

/// A send that began to wait all the same.
fn unsure() -> Failure {
    Failure::new(
        Exit::Unreachable,
        "the message waits for new keys, and is not stored",
    )
    .help("it leaves if the other side answers before the daemon ends; sent again, it may arrive twice")
}

fn ready(value: Value) -> Work {
    async { Ok((value, None)) }.boxed()
}

fn named(new: New) -> NewContact {
    let New {
        name,
        nickname,
        relay,
    } = new;
    NewContact {
        name,
        nickname,
        relay,
    }
}
