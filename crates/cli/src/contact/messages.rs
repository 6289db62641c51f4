//! `junto send --contact` and `recv --contact`.

use std::time::Instant;

use junto_agent::{Event, MAX_BODY};
use serde_json::{Value, json};

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

/// Whoever can have us send a text must not have us speak about files.
pub(crate) fn refuse_frame(message: &[u8]) -> Result<(), Failure> {
    match junto_files::frame::is_frame(message) {
        true => Err(Failure::usage(
            "a message cannot begin as those about files do",
        )),
        false => Ok(()),
    }
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
                }) if connection == contact && junto_files::frame::is_frame(&body) => {
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
                }) if connection == contact => {
                    let text = std::str::from_utf8(&body).ok();
                    let verdict = Verdict::of(integrity);
                    let value = message_json(name, verdict, &body);
                    if let Some(verdict) = verdict {
                        output.say(verdict.warning(name));
                    }
                    output.result(&value, || match text {
                        Some(text) => format!("{name}: {}", printable(text)),
                        None => format!("{name}: {} bytes: {}", body.len(), hex::encode(&body)),
                    })?;
                    // Shown first: a crash in between shows it twice rather than never.
                    contacts
                        .agent
                        .ack(contact, id)
                        .await
                        .map_err(agent_failure)?;
                    received += 1;
                }
                Some(Event::Failed {
                    connection, error, ..
                }) if connection == contact => return Err(failed(error)),
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
