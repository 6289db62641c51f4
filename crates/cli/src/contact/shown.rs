//! Contacts and links as people and programs see them.

use std::io::IsTerminal;

use junto_agent::{ConnectionView, Progress, ShortLink};
use serde_json::json;

use super::Contacts;
use crate::failure::Failure;
use crate::output::{Output, qr_code};
use crate::talk::printable;

pub(super) async fn list(contacts: &mut Contacts, output: Output) -> Result<(), Failure> {
    // What came meanwhile, if the relays are there.
    contacts.settle_all().await?;
    // It may be about the list itself: a contact of another device, or word that this one is revoked.
    contacts.attend().await;
    let all = contacts.listed().await?;
    for (name, contact) in &all {
        output.result(&json_of(name, contact), || text_of(name, contact))?;
    }
    if all.is_empty() && contacts.kin.devices.revoked_by().is_none() {
        output.say("No contacts. `junto contact invite` makes a link for one, `junto connect LINK` opens one.");
    }
    Ok(())
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

pub(super) fn text_of(name: &str, contact: &ConnectionView) -> String {
    match contact.progress {
        Progress::Inviting => format!("{name}: waiting for the other side"),
        Progress::Joining => format!("{name}: connecting"),
        Progress::Connected => {
            let unread = match contact.unread {
                0 => String::new(),
                count => format!(", {count} unread"),
            };
            let says = match contact.info.is_empty() {
                true => String::new(),
                false => format!(", {}", shown(&contact.info)),
            };
            format!("{name}: connected{says}{unread}")
        }
        Progress::Failed(fault) => format!("{name}: failed, {fault}"),
    }
}

/// What a stranger says about itself, for people.
pub(super) fn shown(info: &[u8]) -> String {
    match std::str::from_utf8(info) {
        Ok("") => "(gives no name)".to_owned(),
        Ok(text) => printable(text),
        Err(_) => format!("({} bytes)", info.len()),
    }
}

pub(super) fn show_link(link: &ShortLink, hint: &str, output: Output) {
    show_link_code(&link.to_string(), hint, output);
}

/// Shows a link as QR code, on a terminal.
pub(crate) fn show_link_code(link: &str, hint: &str, output: Output) {
    if !output.json && std::io::stderr().is_terminal() {
        if let Some(code) = qr_code(link) {
            output.say(code);
        }
        output.say(hint);
    }
}
