//! `junto contact show`, `rotate` and `resync`: the state of a connection, another queue to receive on, new keys.

use std::time::{Duration, Instant};

use junto_agent::{
    AgentError, ConnectionId, ConnectionView, Event, KeyState, Misuse, NoiseView, Progress, Spread,
};
use junto_devices::ContactId;
use serde_json::{Value, json};

use super::noise::{noise_json, noise_text};
use super::reach::Need;
use super::shown::{json_of, text_of};
use super::verdict::Noted;
use super::{Contacts, GLANCE, failed, one, refuse_apps};
use crate::args::{Patience, QueueCommand, Spreading};
use crate::failure::{Exit, Failure};
use crate::open::agent_failure;
use crate::output::Output;
use crate::way::Views;

/// How often it is looked whether a new queue is open: no event says so.
const LOOK: Duration = Duration::from_millis(100);

fn keys_name(keys: KeyState) -> &'static str {
    match keys {
        KeyState::Agreeing => "agreeing",
        KeyState::InStep => "in-step",
        KeyState::Broken => "broken",
        KeyState::Renewing => "renewing",
    }
}

/// What is to be done about the keys, if anything.
fn keys_text(keys: KeyState, name: &str) -> String {
    match keys {
        KeyState::Agreeing => "not agreed yet".to_owned(),
        KeyState::InStep => "in step with the other side".to_owned(),
        KeyState::Broken => format!(
            "NOT in step: what {name} sends cannot be read; `junto contact resync {name}` agrees new ones"
        ),
        KeyState::Renewing => {
            format!("new ones are being agreed; what you send waits until {name} answers")
        }
    }
}

pub(super) async fn show(
    contacts: &mut Contacts,
    name: &str,
    output: Output,
) -> Result<(), Failure> {
    let tag = contacts
        .contact(name)
        .await
        .map(|_| contacts.tag_of(name))?;
    // What came meanwhile, if the relays are there.
    if let Some(tag) = tag {
        contacts.glance_at(tag).await;
    }
    // What the agent has told so far is noted.
    contacts.attend().await;
    contacts.notes.untold.retain(|(of, _)| of != name);
    let contact = contacts.contact(name).await?;
    let relays = views(contacts, &contact).await?;
    let verdicts = verdicts(contacts, name);
    let mut value = state(name, &contact, &relays, verdicts);
    let devices = devices(contacts, name);
    value["devices"] = devices.into();
    let hidden = contacts.socks.is_some();
    output.result(&value, || {
        let mut lines = vec![text_of(name, &contact)];
        lines.extend(details(name, &contact));
        if devices > 1 {
            lines.push(format!("devices      {devices}: what you send goes to all"));
        }
        lines.extend(relays.text(hidden));
        lines.extend(verdicts.iter().map(|noted| past(name, noted)));
        lines.join("\n")
    })
}

/// The state of a connection, for programs.
pub(crate) async fn show_json(contacts: &Contacts, name: &str) -> Result<Value, Failure> {
    let contact = contacts.contact(name).await?;
    let relays = views(contacts, &contact).await?;
    let verdicts = verdicts(contacts, name);
    let devices = devices(contacts, name);
    let mut value = state(name, &contact, &relays, verdicts);
    value["devices"] = devices.into();
    Ok(value)
}

/// How many devices a contact has, as far as we reach them.
fn devices(contacts: &Contacts, name: &str) -> usize {
    let tag = contacts.tag_of(name);
    tag.map_or(0, |tag| {
        contacts.kin.devices.devices_of(ContactId(*tag.as_bytes()))
    })
}

async fn views(contacts: &Contacts, contact: &ConnectionView) -> Result<Views, Failure> {
    let routes = contacts.agent.routes(one(contact.id)).await;
    routes.map(Views::of).map_err(agent_failure)
}

fn verdicts<'a>(contacts: &'a Contacts, name: &str) -> &'a [Noted] {
    let entry = contacts.notes.book.iter().find(|entry| entry.name == name);
    entry.map_or(&[], |entry| &entry.verdicts)
}

fn state(name: &str, contact: &ConnectionView, relays: &Views, verdicts: &[Noted]) -> Value {
    let mut value = json_of(name, contact);
    value["unsent"] = contact.unsent.into();
    value["keys"] = keys_name(contact.keys).into();
    value["post_quantum"] = contact.post_quantum.into();
    value["rotating"] = contact.rotating.into();
    value["retired"] = contact.retired.into();
    value["queues"] = queues(contact);
    value["noise"] = noise_json(contact.noise);
    value["relays"] = relays.json();
    value["verdicts"] = json!(verdicts);
    value
}

fn details(name: &str, contact: &ConnectionView) -> Vec<String> {
    let mut lines = vec![format!("keys         {}", keys_text(contact.keys, name))];
    if contact.keys != KeyState::Agreeing {
        let post_quantum = if contact.post_quantum {
            "yes: recorded traffic stays closed to a quantum computer"
        } else {
            "no: the other side has not taken part in it so far"
        };
        lines.push(format!("post-quantum {post_quantum}"));
    }
    if contact.noise != NoiseView::default() {
        lines.push(format!("noise        {}", noise_text(name, contact.noise)));
    }
    if contact.unsent > 0 {
        lines.push(format!(
            "unsent       {} messages wait for a relay, for new keys, or for their time among noise",
            contact.unsent
        ));
    }
    let waiting = contact.receives.iter().filter(|it| !it.is_open);
    lines.extend(waiting.map(|it| {
        format!(
            "queue        one more on {}, as soon as {name} says that it understands",
            it.relay
        )
    }));
    if contact.rotating {
        lines.push(format!(
            "queue        another one is to be used as soon as {name} answers; nothing to do"
        ));
    }
    if contact.retired > 0 {
        lines.push(format!(
            "queue        {} that you received on before, until the relay has deleted it; nothing to do",
            contact.retired
        ));
    }
    lines
}

/// A verdict of before: how long ago, what, and what to do.
fn past(name: &str, noted: &Noted) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let minutes = now.unwrap_or_default().as_secs().saturating_sub(noted.at) / 60;
    let ago = match minutes {
        0..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 60 / 24),
    };
    let times = match noted.times {
        0 | 1 => String::new(),
        times => format!(", {times} times"),
    };
    format!(
        "noticed      {ago} ago{times}: {}\n             {}",
        noted.verdict.text(),
        noted.verdict.advice(name)
    )
}

/// The next event that ends a change of this connection; nothing if the other side was not there in time.
async fn outcome<T>(
    contacts: &mut Contacts,
    (id, end): (ConnectionId, Instant),
    ends: impl Fn(Event) -> Option<Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    let output = contacts.output;
    while let Some(event) = contacts.event(end).await? {
        contacts.notice(&event, id, Need::Both, output).await?;
        if let Some(result) = ends(event) {
            return result.map(Some);
        }
    }
    Ok(None)
}

async fn unanswered(contacts: &Contacts, (name, id): (&str, ConnectionId), what: &str) -> Failure {
    let failure = Failure::new(
        Exit::Unreachable,
        format_args!("{name} has not answered in time"),
    )
    .help(format_args!(
        "{what} is stored and goes on with each command about contacts. It takes some words in both directions: it is done soonest while both of you run something at the same time, `junto recv --count 99` say; `junto contact show {name}` tells how far it is"
    ));
    contacts.late(id, Need::Both, failure).await
}

pub(super) async fn rotate(
    contacts: &mut Contacts,
    name: &str,
    relay: Option<&str>,
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let end = Instant::now() + wait.patience();
    let relay = relay.map(|relay| contacts.relay(Some(relay))).transpose()?;
    let id = contacts.contact(name).await?.id;
    contacts.connected(id, end).await?;
    let begun = contacts.agent.rotate(id, relay.as_ref()).await;
    begun.map_err(agent_failure)?;
    let progress = output.progress(format!("waiting for {name} to use the new queue"));
    let rotated = outcome(contacts, (id, end), |event| {
        match event {
        Event::Rotated {
            connection,
            receives: true,
            relay,
        } if connection == id => Some(Ok(relay.to_string())),
        Event::RotationFailed { connection, relay } if connection == id => Some(Err(Failure::failed(
            format_args!("the relay {relay} made no queue, or lost it; the old one stays"),
        )
        .help("check it with `junto relay status ADDRESS`; if it demands a password, `junto relay login ADDRESS`"))),
        Event::Failed {
            connection, error, ..
        } if connection == id => Some(Err(failed(error))),
        _ => None,
    }
    });
    let relay = match rotated.await? {
        Some(relay) => relay,
        None => return Err(unanswered(contacts, (name, id), "the change").await),
    };
    // The old queue is emptied and deleted, now or with a later command.
    let tidy = async {
        while contacts.contact(name).await?.retired > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, Failure>(())
    };
    let _ = tokio::time::timeout(GLANCE, tidy).await;
    progress.done();
    let value = json!({ "contact": name, "rotated": true, "relay": relay });
    output.result(&value, || {
        format!("{name}: you receive on another queue now, on {relay}.")
    })
}

/// Adds or takes away a queue to receive on, or chooses how to send to several.
pub(super) async fn queue(
    contacts: &mut Contacts,
    command: QueueCommand,
    output: Output,
) -> Result<(), Failure> {
    match command {
        QueueCommand::Add { name, relay, wait } => add(contacts, &name, &relay, wait, output).await,
        QueueCommand::Remove { name, relay } => {
            let relay = contacts.relay(Some(&relay))?;
            let id = contacts.contact(&name).await?.id;
            let removed = contacts.agent.remove_queue(id, &relay).await;
            removed.map_err(agent_failure)?;
            // The contact hears of it, and the relay, now or with a later command.
            let _ = contacts.settle(one(id), GLANCE).await;
            report_queues(contacts, &name, output).await
        }
        QueueCommand::Spread { name, how } => {
            let spread = match how {
                Spreading::Copies => Spread::Copies,
                Spreading::Stripes => Spread::Stripes,
            };
            let id = contacts.contact(&name).await?.id;
            let set = contacts.agent.set_spread(id, spread).await;
            set.map_err(agent_failure)?;
            let how = format!("{how:?}").to_lowercase();
            output.result(&json!({ "contact": name, "spread": how }), || {
                format!("{name}: what you send goes to its queues in {how}.")
            })
        }
    }
}

async fn add(
    contacts: &mut Contacts,
    name: &str,
    relay: &str,
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let end = Instant::now() + wait.patience();
    let relay = contacts.relay(Some(relay))?;
    let id = contacts.contact(name).await?.id;
    contacts.connected(id, end).await?;
    refuse_apps(&contacts.contact(name).await?, name, "several queues")?;
    let open = |contact: &ConnectionView| {
        let queues = contact.receives.iter();
        queues.filter(|it| it.is_open && it.relay == relay).count()
    };
    let before = open(&contacts.contact(name).await?);
    let added = contacts.agent.add_queue(id, &relay).await;
    added.map_err(agent_failure)?;
    let progress = output.progress(format!("waiting for {name} to learn of the new queue"));
    while open(&contacts.contact(name).await?) <= before {
        if Instant::now() >= end {
            let waits = unanswered(contacts, (name, id), "the new queue").await;
            let help = waits.help.clone().unwrap_or_default();
            return Err(waits.help(format_args!(
                "{help}; a program that speaks SimpleX's protocol and is not Junto never answers: `junto contact queue remove {name} --relay …` takes it back"
            )));
        }
        let look = Instant::now() + LOOK;
        if let Some(event) = contacts.event(look.min(end)).await? {
            contacts.notice(&event, id, Need::Both, output).await?;
        }
    }
    // The contact is to hear that it may send there.
    let _ = contacts.settle(one(id), GLANCE).await;
    progress.done();
    report_queues(contacts, name, output).await
}

async fn report_queues(contacts: &Contacts, name: &str, output: Output) -> Result<(), Failure> {
    let contact = contacts.contact(name).await?;
    let value = json!({ "contact": name, "queues": queues(&contact) });
    output.result(&value, || {
        let mut lines = vec![format!("{name}: you receive on")];
        lines.extend(contact.receives.iter().map(|it| format!("  {}", it.relay)));
        lines.join("\n")
    })
}

/// The queues that we receive on, for programs.
fn queues(contact: &ConnectionView) -> Value {
    let queues = contact.receives.iter();
    let queues = queues.map(|it| json!({ "relay": it.relay.to_string(), "open": it.is_open }));
    queues.collect()
}

pub(super) async fn resync(
    contacts: &mut Contacts,
    name: &str,
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let end = Instant::now() + wait.patience();
    let contact = contacts.contact(name).await?;
    if let Progress::Failed(fault) = contact.progress {
        return Err(failed(fault));
    }
    let id = contact.id;
    contacts.connected(id, end).await?;
    let is_awaited = match contacts.agent.resynchronise(id).await {
        // There are new keys: one of the two has asked before.
        Err(AgentError::Misuse(Misuse::Renewing)) => true,
        asked => asked.map(|()| false).map_err(agent_failure)?,
    };
    let progress = output.progress(format!("waiting for {name} to answer with its keys"));
    let agreed = outcome(contacts, (id, end), |event| match event {
        Event::Synchronised {
            connection,
            missing,
        } if connection == id => Some(Ok(missing)),
        Event::Failed {
            connection, error, ..
        } if connection == id => Some(Err(failed(error))),
        _ => None,
    });
    let missing = match agreed.await? {
        Some(missing) => missing,
        None if is_awaited => {
            let failure = Failure::new(
                Exit::Unreachable,
                format_args!("there are new keys for {name}, but its first word in them has not come"),
            )
            .help(format_args!(
                "nothing was asked for now: it comes when {name} runs something. If a relay has lost it, ask again in a minute, or have {name} ask (`junto contact resync`; in SimpleX, renegotiate the encryption)"
            ));
            return Err(contacts.late(id, Need::Both, failure).await);
        }
        None => return Err(unanswered(contacts, (name, id), "the request").await),
    };
    // Ours may be the last word, without which the other side goes on waiting.
    contacts.settle(one(id), GLANCE).await?;
    progress.done();
    contacts.notes.untold.retain(|(of, _)| of != name);
    let value = json!({ "contact": name, "resynchronised": true, "missing": missing });
    output.result(&value, || match missing {
        0 => format!("{name}: new keys are agreed, and nothing is lost."),
        _ => format!(
            "{name}: new keys are agreed; {missing} of its messages are lost: ask for them again."
        ),
    })
}
