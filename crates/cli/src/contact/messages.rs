//! `junto send --contact` and `recv --contact`.

use std::time::{Duration, Instant};

use futures::FutureExt;
use junto_agent::{ConnectionId, Event, Integrity, KeyState, MAX_BODY, MessageId, Tag};
use junto_devices::{ContactId, MessageName};
use serde_json::{Value, json};

use super::kin::Reading;
use super::reach::Need;
use super::verdict::Verdict;
use super::{Contacts, failed, one};
use crate::args::{Global, Patience};
use crate::failure::{Exit, Failure};
use crate::open::{END, agent_failure};
use crate::output::Output;
use crate::talk::printable;

/// Sends one message to a contact.
pub(crate) async fn send(
    name: &str,
    message: &[u8],
    wait: Patience,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    if message.len() > MAX_BODY {
        return Err(Failure::usage(format_args!(
            "a message to a contact has at most {MAX_BODY} bytes"
        ))
        .help("send it as a file, with `junto file send`; over a session, `junto send` takes up to 16 MiB"));
    }
    refuse_frame(message)?;
    Contacts::with(global, async |contacts| {
        let end = Instant::now() + wait.patience();
        let tag = contacts.known(name)?;
        // There may be no connection any more: then it is one's own devices that say why.
        contacts.catch_up(tag).await;
        let id = contacts.contact(name).await?.id;
        contacts.connected(id, end).await?;
        if let Some((posted, _)) = contacts.post(name, message).await? {
            return sent_to_all(contacts, (name, tag), (posted, message.len()), wait, output).await;
        }
        // It may be another one by now.
        let id = contacts.target(name).await?.id;
        let number = hand_over(contacts, (name, id), message, end)
            .await?
            .number();
        contacts.settle(one(id), left(end)).await?;
        // The relay may have said that there is nobody to give it to.
        if let Some(fault) = contacts.fault(id).await? {
            return Err(failed(fault));
        }
        // With several, one that has it will do, and the other may be gone.
        let missing = contacts.missing(one(id), Need::Both).await?;
        contacts.tell_missing(&missing, output);
        let value = json!({ "contact": name, "message": number, "bytes": message.len() });
        output.result(&value, || {
            format!(
                "Sent {} bytes to {name}: a relay keeps them until {name} takes them.",
                message.len()
            )
        })
    })
    .await
}

/// What is left of the user's patience, but for a moment at least.
fn left(end: Instant) -> Duration {
    let left = end.saturating_duration_since(Instant::now());
    left.max(super::MOMENT)
}

/// Gives a message to the agent, which may have to wait before it can take it. If that is too long, the message is not
/// sent, now or later.
async fn hand_over(
    contacts: &mut Contacts,
    (name, id): (&str, ConnectionId),
    message: &[u8],
    end: Instant,
) -> Result<MessageId, Failure> {
    let agent = contacts.agent.clone();
    let sending = agent.send(id, message);
    tokio::pin!(sending);
    let output = contacts.output;
    let soon = tokio::time::timeout(left(end).min(super::GLANCE), &mut sending);
    let sent = match soon.await {
        Ok(sent) => Ok(sent),
        Err(_) => {
            let view = contacts.contact(name).await?;
            let why = match view.keys {
                KeyState::Renewing => format!(
                    "new keys are being agreed with {name}, which has to run a command for that"
                ),
                _ => format!("{} messages to {name} wait already", view.unsent),
            };
            let _progress = output.progress(format!("waiting: {why}"));
            let sent = tokio::time::timeout(left(end), &mut sending).await;
            sent.map_err(|_| why)
        }
    };
    let why = match sent {
        Ok(sent) => return sent.map_err(agent_failure),
        Err(why) => why,
    };
    let unsent = Failure::new(Exit::Unreachable, format_args!("nothing is sent: {why}"));
    let unsent = contacts.late(id, Need::Both, unsent).await;
    // Once the agent has ended it is certain what became of it.
    contacts.is_over = true;
    let _ = tokio::time::timeout(END, agent.clone().close()).await;
    match tokio::time::timeout(END, sending).await {
        Ok(Ok(_)) => Err(Failure::new(
            Exit::Unreachable,
            "not everything could be handed to the relays yet",
        )
        .help("it is stored and goes out with the next command about contacts")),
        Ok(Err(_)) => Err(unsent.help(format_args!(
            "what you wrote is not stored: run this again, while {name} runs `junto recv --count 9` say; `junto contact show {name}` tells how far it is"
        ))),
        Err(_) => Err(Failure::failed(
            "the agent does not end: it is not known whether the message is stored",
        )),
    }
}

/// A message that goes to several devices, the contact's or one's own: it is stored, and leaves.
async fn sent_to_all(
    contacts: &mut Contacts,
    (name, tag): (&str, Tag),
    (message, bytes): (MessageName, usize),
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let contact = ContactId(*tag.as_bytes());
    let end = Instant::now() + wait.patience();
    let targets = contacts.kin.targets(contact);
    let lines = junto_agent::Lines {
        connections: targets.iter().copied().collect(),
        ..junto_agent::Lines::default()
    };
    let stays = |what: &str| {
        Failure::new(Exit::Unreachable, what)
            .help("it is stored and goes out with the next command about contacts")
    };
    contacts.attend().await;
    while contacts.kin.is_held(contact) && Instant::now() < end {
        let look = Instant::now() + super::MOMENT;
        contacts.event(look.min(end)).await?;
    }
    if contacts.kin.is_held(contact) {
        let stays =
            stays("no device can be written to yet: new keys are agreed first, or too much waits");
        return Err(contacts.missing(lines, Need::Both).await?.explain(stays));
    }
    // One relay that has it will do: those that are away get it with a later command.
    let agent = contacts.agent.clone();
    let settling = targets.iter().map(|id| agent.settle(one(*id)).boxed());
    if !targets.is_empty() {
        let any = futures::future::select_ok(settling);
        match tokio::time::timeout(left(end), any).await {
            Ok(any) => any.map_err(agent_failure).map(drop)?,
            Err(_) => {
                let stays = stays("no relay has taken it in time");
                return Err(contacts.missing(lines, Need::Both).await?.explain(stays));
            }
        }
    }
    let _ = contacts.settle(lines, super::GLANCE).await;
    contacts.attend().await;
    // What stood in the way may have been heard only now.
    if contacts.kin.devices.revoked_by().is_some() {
        return Err(contacts.without_connection(name));
    }
    let mut faults = Vec::new();
    for target in &targets {
        faults.extend(contacts.fault(*target).await?);
    }
    let is_all = faults.len() == targets.len();
    if let Some(fault) = faults.pop().filter(|_| is_all) {
        return Err(failed(fault));
    }
    let devices = targets.len();
    let value = json!({
        "contact": name, "id": message.to_string(), "bytes": bytes, "devices": devices,
    });
    output.result(&value, || match devices {
        1 => format!("Sent {bytes} bytes to {name}: a relay keeps them until {name} takes them."),
        _ => format!("Sent {bytes} bytes to {devices} devices of {name}: relays keep them until they take them."),
    })
}

/// Whoever can have us send a text must not have us speak about files or devices.
pub(crate) fn refuse_frame(message: &[u8]) -> Result<(), Failure> {
    let about = match () {
        () if junto_files::frame::is_frame(message) => "files",
        () if junto_devices::is_device_frame(message) => "devices",
        () => return Ok(()),
    };
    Err(Failure::usage(format_args!(
        "a message cannot begin as those about {about} do"
    )))
}

/// Waits for messages of a contact.
pub(crate) async fn recv(
    name: &str,
    count: u64,
    wait: Patience,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    Contacts::with(global, async |contacts| {
        let end = Instant::now() + wait.patience();
        let contact = contacts.contact(name).await?.id;
        let tag = contacts.known(name)?;
        let mut received = 0;
        let mut files = false;
        while received < count {
            let event = contacts.event(end).await?;
            if let Some(event) = &event {
                contacts.notice(event, contact, Need::Receiving, output).await?;
            }
            let is_shown = |body: &[u8]| !junto_files::frame::is_frame(body);
            let is_message = matches!(&event, Some(Event::Message { body, .. }) if is_shown(body));
            for (of, verdict) in contacts.notes.untold.drain(..) {
                // What a message's own event says is shown with it.
                if !is_message {
                    warn(&of, &verdict, output)?;
                }
            }
            match event {
                Some(Event::Message {
                    connection, body, ..
                }) if contacts.is_with(connection, tag) && junto_files::frame::is_frame(&body) => {
                    // Stays with the agent, for `junto file`.
                    if !std::mem::replace(&mut files, true) {
                        output.say(format_args!(
                            "{name} says something about files: run `junto file recv --contact {name} --into DIR`"
                        ));
                    }
                }
                Some(Event::Message {
                    connection,
                    id,
                    integrity,
                    body,
                }) => {
                    let shown = show(contacts, (name, tag), connection, integrity, &body, output)?;
                    if shown != Shown::Elsewhere {
                        // Shown first: a crash in between shows it twice rather than never.
                        contacts.kin.shown(connection, id);
                        let acked = contacts.agent.ack(connection, id).await;
                        acked.map_err(agent_failure)?;
                    }
                    received += u64::from(shown == Shown::Theirs);
                }
                Some(Event::Failed {
                    connection, error, ..
                }) if contacts.is_with(connection, tag) => return Err(failed(error)),
                Some(_) => {}
                None => {
                    let late = Failure::new(
                        Exit::Unreachable,
                        format_args!("{received} of {count} messages came in time"),
                    );
                    return Err(contacts.late(contact, Need::Receiving, late).await);
                }
            }
        }
        let _ = contacts.settle(one(contact), super::GLANCE).await;
        Ok(())
    })
    .await
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// It is the contact's.
    Theirs,
    /// It was said by the user on another device, or shown before.
    Besides,
    /// It is of or to somebody else.
    Elsewhere,
}

/// Shows a message of the contact, or to it from another device of the user.
fn show(
    contacts: &mut Contacts,
    (name, tag): (&str, Tag),
    connection: ConnectionId,
    integrity: Integrity,
    body: &[u8],
    output: Output,
) -> Result<Shown, Failure> {
    let contact = ContactId(*tag.as_bytes());
    let is_theirs = contacts.is_with(connection, tag);
    let (message, body, sent) = match contacts.kin.read(body) {
        Reading::Theirs(message, body) if is_theirs => (message, body, false),
        Reading::Ours(to, message, body) if to == contact => (Some(message), body, true),
        Reading::Theirs(..) | Reading::Ours(..) => return Ok(Shown::Elsewhere),
    };
    let devices = &contacts.kin.devices;
    if message.is_some_and(|message| devices.is_heard(contact, message, sent)) {
        return Ok(Shown::Besides);
    }
    let text = std::str::from_utf8(&body).ok();
    let verdict = Verdict::of(integrity);
    let mut value = message_json(name, verdict, &body);
    if sent {
        value["sent"] = true.into();
    }
    if let Some(verdict) = verdict {
        output.say(verdict.warning(name));
    }
    let who = match sent {
        true => format!("you to {name}"),
        false => name.to_owned(),
    };
    output.result(&value, || match text {
        Some(text) => format!("{who}: {}", printable(text)),
        None => format!("{who}: {} bytes: {}", body.len(), hex::encode(&body)),
    })?;
    if let Some(message) = message {
        contacts.kin.devices.note(contact, message, sent);
        contacts.kin.proceed()?;
    }
    Ok(match sent {
        true => Shown::Besides,
        false => Shown::Theirs,
    })
}

/// A message, for programs.
pub(crate) fn message_json(name: &str, verdict: Option<Verdict>, body: &[u8]) -> Value {
    json!({
        "contact": name, "text": std::str::from_utf8(body).ok(), "hex": hex::encode(body),
        "intact": verdict.is_none(), "verdict": verdict,
    })
}

/// Tells people and programs of something lost or altered, beside the messages.
pub(crate) fn warn(name: &str, verdict: &Verdict, output: Output) -> Result<(), Failure> {
    output.say(verdict.warning(name));
    if output.json {
        let value = json!({ "contact": name, "warning": verdict, "advice": verdict.advice(name) });
        output.result(&value, String::new)?;
    }
    Ok(())
}
