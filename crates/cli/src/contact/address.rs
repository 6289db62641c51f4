//! `junto contact address`, `requests`, `accept` and `reject`: a link with which anybody can ask, and what becomes of it.

use std::time::{Duration, Instant};

use junto_agent::{ConnectionId, ConnectionView, Event, Lines, Progress, RequestView, Tag};
use serde_json::json;

use super::meeting::{is_fit, unreachable};
use super::reach::Need;
use super::shown::{json_of, show_link, shown, text_of};
use super::{Contacts, GLANCE, MOMENT, failed, one};
use crate::args::{AddressCommand, NewContact, Patience};
use crate::failure::Failure;
use crate::open::{SETTLE, agent_failure};
use crate::output::Output;

/// What the profile's one address is called within its agent.
const ADDRESS: &[u8] = b"junto contact address";

fn address_lines() -> Lines {
    Lines {
        addresses: [Tag::named(&[ADDRESS])].into(),
        ..Lines::default()
    }
}

pub(super) async fn run(
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
        AddressCommand::New {
            about,
            relay,
            timeout,
        } => publish(contacts, &about, relay.as_deref(), timeout, output).await?,
        AddressCommand::Show => {}
        AddressCommand::Describe { about, said } => {
            let about = about.or(said).unwrap_or_default();
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
    if !output.json {
        output.say(says("It", about));
    }
    if has_moved {
        // What has changed stands in the remark that the event makes.
        let seen = contacts.agent.address_seen(tag).await;
        seen.map_err(agent_failure)?;
    }
    let hint = "Give this link to anybody. They run: junto connect 'LINK'; you see them by: junto contact requests";
    show_link(link, hint, output);
    Ok(())
}

/// Makes the address, unless there is one.
async fn publish(
    contacts: &Contacts,
    about: &str,
    relay: Option<&str>,
    timeout: u64,
    output: Output,
) -> Result<(), Failure> {
    let end = Instant::now() + Duration::from_secs(timeout);
    let relay = contacts.relay(relay)?;
    let tag = Tag::named(&[ADDRESS]);
    let made = contacts
        .agent
        .publish_address(tag, &relay, about.as_bytes());
    let progress = output.progress(format!("asking {relay}"));
    let made = match tokio::time::timeout_at(end.into(), made).await {
        Ok(made) => made.map_err(agent_failure).map(drop),
        Err(_) => {
            let missing = contacts.missing(address_lines(), Need::Receiving).await?;
            Err(missing.explain(unreachable(&relay)))
        }
    };
    made?;
    let left = end.saturating_duration_since(Instant::now());
    contacts.settle(address_lines(), left.max(MOMENT)).await?;
    progress.done();
    Ok(())
}

pub(super) async fn requests(
    contacts: &mut Contacts,
    timeout: u64,
    output: Output,
) -> Result<(), Failure> {
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

pub(super) async fn accept(
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
            let said = said.filter(|said| is_fit(said) && contacts.tag_of(said).is_none());
            let name = contacts.new_name(new.name.as_deref().or(said)).await?;
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
    let contact = standing(contacts, &name).await?;
    let mut value = json_of(&name, &contact);
    value["accepted"] = true.into();
    let is_through = contact.progress == Progress::Connected;
    output.result(&value, || match is_through {
        true => text_of(&name, &contact),
        false => format!("{name}: accepted, and connected as soon as {name} runs a command"),
    })?;
    if !is_through && !output.json {
        output.say(format_args!(
            "`junto recv --contact {name}` waits for that, and for what {name} says then."
        ));
    }
    Ok(())
}

/// A contact that can go on.
async fn standing(contacts: &Contacts, name: &str) -> Result<ConnectionView, Failure> {
    let contact = contacts.contact(name).await?;
    match contact.progress {
        Progress::Failed(fault) => Err(failed(fault)),
        Progress::Inviting | Progress::Joining | Progress::Connected => Ok(contact),
    }
}

/// Who has opened an address learns that it is one, what it says, and that its owner decides.
pub(super) async fn asked(
    contacts: &mut Contacts,
    (name, id): (&str, ConnectionId),
    output: Output,
) -> Result<(), Failure> {
    // It is told when the link is opened, which is over.
    let mut about = None;
    while about.is_none()
        && let Some(event) = contacts.event(Instant::now()).await?
    {
        about = match event {
            Event::Opened {
                connection, about, ..
            } if connection == id => Some(about),
            _ => None,
        };
    }
    let contact = standing(contacts, name).await?;
    let is_through = contact.progress == Progress::Connected;
    let mut value = json_of(name, &contact);
    value["asked"] = (!is_through).into();
    value["address_says"] = about
        .as_deref()
        .and_then(|about| std::str::from_utf8(about).ok())
        .into();
    if !output.json
        && let Some(about) = &about
    {
        output.say(says("This is a contact address. It", about));
    }
    output.result(&value, || match is_through {
        true => text_of(name, &contact),
        false => format!("{name}: asked; the owner of the address has to accept"),
    })?;
    if !is_through && !output.json {
        output.say(format_args!(
            "`junto recv --contact {name}` waits for that, and for what comes then."
        ));
    }
    Ok(())
}

/// What the link of an address says, for people.
fn says(who: &str, about: &[u8]) -> String {
    match about {
        [] => format!("{who} says nothing about its owner."),
        about => format!("{who} says: {}", shown(about)),
    }
}

pub(super) async fn reject(
    contacts: &Contacts,
    request: &str,
    output: Output,
) -> Result<(), Failure> {
    let request = find_request(contacts, request).await?;
    let rejected = contacts.agent.reject(request.id).await;
    rejected.map_err(agent_failure)?;
    let id = request.id.to_string();
    output.result(&json!({ "rejected": id }), || format!("Rejected {id}."))
}
