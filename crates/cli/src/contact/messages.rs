//! `junto send --contact` and `recv --contact`.

use std::time::Instant;

use futures::FutureExt;
use junto_agent::{ConnectionId, Event, Integrity, MAX_BODY, Tag};
use junto_devices::{ContactId, MessageName};
use serde_json::{Value, json};

use super::kin::Reading;
use super::verdict::Verdict;
use super::{Contacts, failed, one};
use crate::args::{Global, Patience};
use crate::failure::{Exit, Failure};
use crate::open::agent_failure;
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
        let id = contacts.contact(name).await?.id;
        contacts.connected(id, end).await?;
        let tag = contacts.known(name)?;
        contacts.catch_up(tag).await;
        if let Some((posted, _)) = contacts.post(name, message).await? {
            return sent_to_all(contacts, (name, tag), (posted, message.len()), wait, output).await;
        }
        // It may be another one by now.
        let id = contacts.target(name).await?.id;
        let sent = contacts.agent.send(id, message).await;
        let number = sent.map_err(agent_failure)?;
        contacts.settle(one(id), wait.patience()).await?;
        let value = json!({ "contact": name, "message": number.number(), "bytes": message.len() });
        output.result(&value, || {
            format!("Sent {} bytes to {name}.", message.len())
        })
    })
    .await
}

/// A message that goes to several devices, the contact's or one's own: it is stored, and leaves.
async fn sent_to_all(
    contacts: &mut Contacts,
    (name, tag): (&str, Tag),
    (message, bytes): (MessageName, usize),
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let targets = contacts.kin.targets(ContactId(*tag.as_bytes()));
    contacts.attend().await;
    // One relay that has it will do: those that are away get it with a later command.
    let agent = contacts.agent.clone();
    let settling = targets.iter().map(|id| agent.settle(one(*id)).boxed());
    if !targets.is_empty() {
        let any = futures::future::select_ok(settling);
        let any = tokio::time::timeout(wait.patience(), any).await;
        let any = any.map_err(|_| {
            Failure::new(Exit::Unreachable, "no relay has taken it in time")
                .help("it is stored and goes out with the next command about contacts")
        })?;
        any.map_err(agent_failure)?;
    }
    let lines = junto_agent::Lines {
        connections: targets.iter().copied().collect(),
        ..junto_agent::Lines::default()
    };
    let _ = contacts.settle(lines, super::GLANCE).await;
    let devices = targets.len();
    let value = json!({
        "contact": name, "id": message.to_string(), "bytes": bytes, "devices": devices,
    });
    output.result(&value, || match devices {
        1 => format!("Sent {bytes} bytes to {name}."),
        _ => format!("Sent {bytes} bytes to {devices} devices of {name}."),
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
                    return Err(Failure::new(
                        Exit::Unreachable,
                        format_args!("{received} of {count} messages came in time"),
                    ));
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
