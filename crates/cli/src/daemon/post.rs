//! The one task that owns the contacts: it hears what their agent tells, holds messages until a client has
//! acknowledged them, and answers calls.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use junto_agent::{ConnectionId, Event, MAX_BODY, MessageId};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::answer::notification;
use super::client::{ClientId, Outlet, Reply};
use super::request::{Call, New};
use crate::args::NewContact;
use crate::contact::{
    Contacts, Verdict, json_of, message_json, read_contact_link, refuse_frame, show_json,
};
use crate::failure::Failure;
use crate::open::{Junto, SETTLE, agent_failure};
use crate::output::Output;
use crate::session;

/// Messages of one contact that a client may have without having acknowledged them; the next ones come when it has.
const WINDOW: usize = 32;

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
    /// Who reads what no other client reads.
    everything: Option<ClientId>,
    desks: BTreeMap<ConnectionId, Desk>,
    /// Calls that take their time. The first poll of each is in the order in which they came, and the agent's queue is
    /// fair: what a client sends keeps its order.
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
}

/// The messages of one contact.
#[derive(Default)]
struct Desk {
    /// Those that are not acknowledged, as they are told. The agent holds as many: 256.
    held: BTreeMap<u64, Value>,
    /// Who reads them.
    reader: Option<ClientId>,
    /// The last one that the reader was given.
    given: u64,
}

/// A call that has ended, and what is said about it.
type Done = (Reply, Result<Answer, Failure>);

/// A result, and the message that it acknowledges.
type Answer = (Value, Option<(ConnectionId, u64)>);

/// What is left to do for an answer.
type Work = BoxFuture<'static, Result<Answer, Failure>>;

impl Post {
    pub(super) fn new(contacts: Contacts, junto: Junto, output: Output) -> Self {
        Self {
            contacts,
            junto,
            output,
            clients: BTreeMap::new(),
            everything: None,
            desks: BTreeMap::new(),
            calls: FuturesUnordered::new(),
        }
    }

    /// Until the agent ends, which is a failure.
    pub(super) async fn run(&mut self, inputs: &mut mpsc::Receiver<Input>) -> Result<(), Failure> {
        loop {
            tokio::select! {
                event = self.contacts.next_event() => self.event(event?)?,
                Some(input) = inputs.recv() => self.input(input).await,
                Some(done) = self.calls.next(), if !self.calls.is_empty() => self.done(done),
            }
        }
    }

    /// Puts everything away.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        let told = self.contacts.end().await;
        self.junto.warn(self.output);
        self.junto.end().await;
        told
    }

    fn event(&mut self, event: Event) -> Result<(), Failure> {
        let is_told = |body: &[u8]| !junto_files::frame::is_frame(body);
        let is_message = matches!(&event, Event::Message { body, .. } if is_told(body));
        for (name, verdict) in self.contacts.take_untold() {
            // What a message's own event says is told with it.
            if !is_message {
                self.warn(&name, &verdict);
            }
        }
        match event {
            // Stays with the agent, for `junto file`.
            Event::Message { body, .. } if junto_files::frame::is_frame(&body) => {}
            Event::Message {
                connection,
                id,
                integrity,
                body,
            } => {
                let Some(name) = self.contacts.name_at(connection) else {
                    return Ok(());
                };
                let mut message = message_json(name, Verdict::of(integrity), &body);
                message["message"] = id.number().into();
                let desk = self.desk(connection);
                desk.held.insert(id.number(), message);
                self.hand_out(connection);
            }
            Event::Connected {
                connection, info, ..
            } => self.tell(
                connection,
                "connected",
                |name| json!({ "contact": name, "says": std::str::from_utf8(&info).ok() }),
            ),
            Event::Delivered { connection, id } => self.tell(
                connection,
                "delivered",
                |name| json!({ "contact": name, "message": id.number() }),
            ),
            Event::Failed {
                connection, error, ..
            } => self.tell(
                connection,
                "failed",
                |name| json!({ "contact": name, "fault": error.to_string() }),
            ),
            // Noted, or of no interest.
            _ => {}
        }
        Ok(())
    }

    fn desk(&mut self, connection: ConnectionId) -> &mut Desk {
        let reader = self.everything;
        self.desks.entry(connection).or_insert_with(|| Desk {
            reader,
            ..Desk::default()
        })
    }

    /// Gives the reader of a contact's messages as many as it may have.
    fn hand_out(&mut self, connection: ConnectionId) {
        let Some(desk) = self.desks.get_mut(&connection) else {
            return;
        };
        let Some(outlet) = desk.reader.and_then(|reader| self.clients.get(&reader)) else {
            return;
        };
        let out = desk.held.range(..=desk.given).count();
        let next = desk.given.saturating_add(1);
        let room = WINDOW.saturating_sub(out);
        for (number, message) in desk.held.range(next..).take(room) {
            outlet.tell(notification("message", message));
            desk.given = *number;
        }
    }

    /// Tells the reader of a contact's messages something else about it.
    fn tell(&mut self, connection: ConnectionId, method: &str, params: impl FnOnce(&str) -> Value) {
        let reader = self.desk(connection).reader;
        let outlet = reader.and_then(|reader| self.clients.get(&reader));
        if let (Some(outlet), Some(name)) = (outlet, self.contacts.name_at(connection)) {
            outlet.tell(notification(method, &params(name)));
        }
    }

    fn warn(&mut self, name: &str, verdict: &Verdict) {
        self.output.say(verdict.warning(name));
        if let Some(connection) = self.contacts.connection_of(name) {
            let advice = verdict.advice(name);
            self.tell(
                connection,
                "warning",
                |name| json!({ "contact": name, "warning": verdict, "advice": advice }),
            );
        }
    }

    async fn input(&mut self, input: Input) {
        match input {
            Input::Came(client, outlet) => {
                self.clients.insert(client, outlet);
            }
            Input::Gone(client) => self.gone(client),
            Input::Asked(client, Call::Subscribe { contact }, reply) => {
                self.subscribe(client, contact, reply).await;
            }
            Input::Asked(_, call, reply) => {
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
        if let Some((connection, message)) = acked {
            self.desk(connection).held.remove(&message);
            self.hand_out(connection);
        }
    }

    /// Answers first, then come the messages that wait.
    async fn subscribe(&mut self, client: ClientId, contact: Option<String>, reply: Reply) {
        let result = json!({ "subscribed": contact });
        let Some(name) = contact else {
            reply.send(Ok(result));
            return self.give_everything_to(client);
        };
        match self.contacts.contact(&name).await {
            Ok(contact) => {
                reply.send(Ok(result));
                self.give_to(contact.id, Some(client));
            }
            Err(failure) => reply.send(Err(failure)),
        }
    }

    fn gone(&mut self, client: ClientId) {
        self.clients.remove(&client);
        if self.everything == Some(client) {
            self.everything = None;
        }
        let desks = self.desks.iter_mut();
        let left = desks.filter(|(_, desk)| desk.reader == Some(client));
        let left: Vec<_> = left.map(|(connection, _)| *connection).collect();
        for connection in left {
            self.give_to(connection, self.everything);
        }
    }

    /// From now on this client reads a contact's messages, all that are not acknowledged to begin with. Who read
    /// them before is told.
    fn give_to(&mut self, connection: ConnectionId, reader: Option<ClientId>) {
        let desk = self.desk(connection);
        let before = core::mem::replace(&mut desk.reader, reader);
        let before = before.filter(|before| Some(*before) != reader);
        let outlet = before.and_then(|before| self.clients.get(&before));
        if let (Some(outlet), Some(name)) = (outlet, self.contacts.name_at(connection)) {
            outlet.tell(notification("unsubscribed", &json!({ "contact": name })));
        }
        self.desk(connection).given = 0;
        self.hand_out(connection);
    }

    /// Does what can be done at once, and gives the rest.
    async fn begin(&mut self, call: Call) -> Result<Work, Failure> {
        let agent = self.contacts.agent().clone();
        Ok(match call {
            Call::Version => ready(json!({ "junto": env!("CARGO_PKG_VERSION"), "protocol": 1 })),
            Call::Invite(new) => {
                let (name, made) = self.contacts.invitation(&named(new), SETTLE)?;
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
                let (name, joined) = self.contacts.joining(&link, &named(new))?;
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
            Call::Send { contact, body } => {
                if body.len() > MAX_BODY {
                    return Err(Failure::usage(format_args!(
                        "a message to a contact has at most {MAX_BODY} bytes"
                    ))
                    .help("send it in parts"));
                }
                refuse_frame(&body)?;
                let id = self.contacts.contact(&contact).await?.id;
                let work = async move {
                    let number = agent.send(id, &body).await.map_err(agent_failure)?;
                    let number = number.number();
                    let value =
                        json!({ "contact": contact, "message": number, "bytes": body.len() });
                    Ok((value, None))
                };
                work.boxed()
            }
            Call::Ack { contact, message } => {
                let id = self.contacts.contact(&contact).await?.id;
                let work = async move {
                    let acked = agent.ack(id, MessageId::new(message)).await;
                    acked.map_err(agent_failure)?;
                    // An answer is a promise that it will not come again.
                    agent.stored().await.map_err(agent_failure)?;
                    let value = json!({ "contact": contact, "acked": message });
                    Ok((value, Some((id, message))))
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

    fn give_everything_to(&mut self, client: ClientId) {
        let before = self.everything.replace(client);
        if let Some(outlet) = before
            .filter(|before| *before != client)
            .and_then(|before| self.clients.get(&before))
        {
            outlet.tell(notification("unsubscribed", &json!({ "contact": null })));
        }
        for connection in self.contacts.connections() {
            // Who asked for this contact alone keeps it.
            let reader = self.desk(connection).reader;
            if reader.is_none() || reader == before || reader == Some(client) {
                self.give_to(connection, Some(client));
            }
        }
    }
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
