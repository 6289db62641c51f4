//! `junto device`: several devices of one profile.

use std::time::{Duration, Instant};

use junto_agent::{ConnectionId, Event, Link, Tag};
use junto_devices::{Code, DeviceId, Frame, Linking, News, OwnDevice, Party, Side, Token};
use serde_json::json;
use tokio::sync::oneshot;

use crate::args::{DeviceCommand, Global, Patience};
use crate::contact::{Contacts, failed, show_link_code};
use crate::failure::{Exit, Failure};
use crate::input;
use crate::open::agent_failure;
use crate::output::Output;
use crate::random;
use crate::talk::printable;

/// Longest line that is read: a link.
const LINE_MAX: usize = 4096;
/// What stands in a device's link in the place of `simplex:`.
const SCHEME: &str = "junto:device";

pub(crate) async fn run(
    command: DeviceCommand,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    Contacts::with(global, async |contacts| match command {
        DeviceCommand::Link { name, relay, wait } => {
            let (name, relay) = (name.as_deref(), relay.as_deref());
            linking(contacts, Side::Newcomer, (name, relay), None, wait, output).await
        }
        DeviceCommand::Add {
            link,
            name,
            relay,
            wait,
        } => {
            let (name, relay) = (name.as_deref(), relay.as_deref());
            let text = match link.as_str() {
                "-" => read_line().await.unwrap_or_default(),
                link => link.to_owned(),
            };
            let link = read_link(&text)?;
            linking(
                contacts,
                Side::Host,
                (name, relay),
                Some(link),
                wait,
                output,
            )
            .await
        }
        DeviceCommand::List => list(contacts, output).await,
        DeviceCommand::Revoke { device, keep } => revoke(contacts, &device, &keep, output).await,
        DeviceCommand::Prefer { device } => prefer(contacts, &device, output).await,
    })
    .await
}

/// Reads a link that a new device shows.
fn read_link(text: &str) -> Result<Link, Failure> {
    let none = || {
        Failure::usage("that is no link of a device")
            .help("it begins with junto:device/ and is shown by `junto device link` on the new device; copy all of it, in quotes")
    };
    let rest = text.trim().strip_prefix(SCHEME).ok_or_else(none)?;
    let link = format!("simplex:{rest}").parse().map_err(|_| none())?;
    match &link {
        Link::Short(short) => match short.kind() {
            junto_agent::ShortKind::Invitation(_) => Ok(link),
            junto_agent::ShortKind::Contact(_) => Err(none()),
        },
        Link::Invitation(_) | Link::Contact(_) => Err(none()),
    }
}

/// One line of standard input, by a thread that nobody waits for.
async fn read_line() -> Option<String> {
    let (sender, line) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = sender.send(input::read_stdin_line(LINE_MAX).ok());
    });
    line.await.ok().flatten()
}

/// Links this device with another one, or gives up and keeps nothing.
async fn linking(
    contacts: &mut Contacts,
    side: Side,
    (name, relay): (Option<&str>, Option<&str>),
    link: Option<Link>,
    wait: Patience,
    output: Output,
) -> Result<(), Failure> {
    let end = Instant::now() + wait.patience();
    if contacts.kin.devices.is_full() {
        return Err(Failure::refused(format_args!(
            "a profile has at most {} devices",
            junto_devices::DEVICES_MAX
        ))
        .help("revoke one that is not used any more; `junto device list` shows them"));
    }
    let relay = contacts.relay(relay.or(contacts.kin.devices.relay()))?;
    let before = contacts.kin.devices.me().map(|me| me.name);
    let mut me = contacts.kin.devices.identify("", &mut random());
    me.name = match name
        .map(str::to_owned)
        .or(before.filter(|it| !it.is_empty()))
    {
        Some(name) => name,
        None => format!("device-{:.4}", me.id.to_string()),
    };
    if me.name.len() > junto_devices::NAME_MAX || printable(&me.name) != me.name {
        return Err(Failure::usage(
            "a device's name has at most 64 bytes of printable text",
        ));
    }
    let me = contacts.kin.devices.identify(&me.name, &mut random());
    let token = Token::random(&mut random());
    contacts.kin.devices.begin(token, &relay.to_string());
    contacts.kin.linking = Some(token.tag());
    contacts.kin.proceed()?;
    let tag = Tag::new(token.tag());
    let agreed = async {
        match &link {
            None => {
                let made = contacts.agent.publish_invitation(tag, &relay, b"", b"");
                let made = tokio::time::timeout(wait.patience(), made).await;
                let made = made.map_err(|_| late("the relay has not answered"))?;
                let (_, _, short) = made.map_err(agent_failure)?;
                let text = short.to_string().replacen("simplex:", SCHEME, 1);
                output.result(&json!({ "link": text }), || text.clone())?;
                show_link_code(
                    &text,
                    "On a device that you have: junto device add 'LINK'",
                    output,
                );
            }
            Some(link) => {
                let joined = contacts.agent.join(tag, link, &relay, b"").await;
                joined.map_err(agent_failure)?;
            }
        }
        agree(contacts, side, me, token, end, output).await
    };
    let agreed = agreed.await;
    contacts.kin.linking = None;
    let peer = match agreed {
        Ok(peer) => peer,
        Err(failure) => {
            contacts.kin.devices.abandon();
            contacts.kin.proceed()?;
            return Err(failure);
        }
    };
    contacts.meet_all().await?;
    match side {
        Side::Host => add_everywhere(contacts, &peer, end, output).await,
        Side::Newcomer => be_added(contacts, &peer, end, output).await,
    }
}

fn late(what: &str) -> Failure {
    Failure::new(Exit::Unreachable, what)
        .help("nothing is kept: begin again, on the new device with `junto device link`")
}

/// Agrees on a code with the other device, and has the user compare it.
async fn agree(
    contacts: &mut Contacts,
    side: Side,
    me: Party,
    token: Token,
    end: Instant,
    output: Output,
) -> Result<Party, Failure> {
    let progress = output.progress("waiting for the other device");
    let (connection, binding) = standing(contacts, token, end).await?;
    let mut nonce = [0; 32];
    rand_core::Rng::fill_bytes(&mut random(), &mut nonce);
    let (mut linking, says) = Linking::begin(side, me, nonce, binding);
    say(contacts, connection, says).await?;
    let (code, peer) = loop {
        if let Some((code, peer)) = linking.agreed_on() {
            break (code, peer.clone());
        }
        hear(contacts, connection, &mut linking, end).await?;
    };
    progress.done();
    if !contacts.kin.devices.may_link(peer.id) {
        return Err(Failure::refused(format_args!(
            "{} was revoked here, and has not heard of it",
            printable(&peer.name)
        ))
        .help(
            "nothing is kept. To link it as another device, begin there with a new profile folder",
        ));
    }
    if !compare(
        contacts,
        connection,
        &mut linking,
        (code, &peer),
        end,
        output,
    )
    .await?
    {
        return Err(Failure::refused("the codes differ: this is not the device that you mean, or somebody is between the two")
            .help("nothing is kept. Begin again on the new device with `junto device link`, and let nobody else see its link"));
    }
    contacts.kin.devices.confirm(&peer, linking.is_confirmed());
    contacts.kin.linking = None;
    contacts.kin.proceed()?;
    let progress = output.progress("waiting for the code to be typed on the other device");
    loop {
        let all = contacts.kin.devices.own_devices();
        if all.iter().any(|own| own.id == peer.id) {
            break;
        }
        if !contacts.kin.devices.is_linking() {
            return Err(Failure::refused(junto_devices::Fault::Cancelled)
                .help("nothing is kept. Begin again with `junto device link` on the new device"));
        }
        pump(contacts, end).await?;
    }
    progress.done();
    Ok(peer)
}

/// Waits until the connection of a linking stands; gives it and the hash of its keys.
async fn standing(
    contacts: &mut Contacts,
    token: Token,
    end: Instant,
) -> Result<(ConnectionId, [u8; 32]), Failure> {
    loop {
        match contacts.event(end).await? {
            Some(Event::Connected {
                connection,
                tag,
                binding,
                ..
            }) if *tag.as_bytes() == token.tag() => return Ok((connection, binding)),
            Some(Event::Failed { tag, error, .. }) if *tag.as_bytes() == token.tag() => {
                return Err(failed(error).help("the link is for one device, once: if nobody but you has opened it, begin again with `junto device link` on the new device"));
            }
            Some(_) => {}
            None => return Err(late("the other device has not come in time")),
        }
    }
}

async fn say(
    contacts: &Contacts,
    connection: ConnectionId,
    frame: Option<Frame>,
) -> Result<(), Failure> {
    if let Some(frame) = frame {
        let sent = contacts.agent.send(connection, &frame.encode()).await;
        sent.map_err(agent_failure)?;
    }
    Ok(())
}

/// Hears one word of the other device.
async fn hear(
    contacts: &mut Contacts,
    at: ConnectionId,
    linking: &mut Linking,
    end: Instant,
) -> Result<(), Failure> {
    match contacts.event(end).await? {
        Some(Event::Message {
            connection,
            id,
            body,
            ..
        }) if connection == at => {
            contacts.kin.acknowledge(connection, id);
            let broken = |_| Failure::new(Exit::Misbehaved, junto_devices::Fault::Broken);
            let frame = Frame::decode(&body).map_err(broken)?;
            let says = linking.hear(&frame).map_err(|fault| {
                let exit = match fault {
                    junto_devices::Fault::Cancelled => Exit::Refused,
                    junto_devices::Fault::Broken => Exit::Misbehaved,
                };
                Failure::new(exit, fault).help("nothing is kept")
            })?;
            say(contacts, at, says).await
        }
        Some(Event::Failed {
            connection, error, ..
        }) if connection == at => Err(failed(error)),
        Some(_) => Ok(()),
        None => Err(late("the other device has not answered in time")),
    }
}

/// Shows the code, and asks for the one that the other device shows.
async fn compare(
    contacts: &mut Contacts,
    at: ConnectionId,
    linking: &mut Linking,
    (code, peer): (Code, &Party),
    end: Instant,
    output: Output,
) -> Result<bool, Failure> {
    let name = printable(&peer.name);
    let value = json!({ "code": code.to_string(), "device": peer.name });
    output.result(&value, || format!("Code: {code}"))?;
    output.say(format_args!(
        "The other device calls itself {name}. Type the code that it shows:"
    ));
    let typed = read_line();
    tokio::pin!(typed);
    loop {
        tokio::select! {
            typed = &mut typed => return Ok(typed.is_some_and(|typed| code.is_typed(&typed))),
            heard = hear(contacts, at, linking, end) => heard?,
        }
    }
}

/// One event more, whatever it is.
async fn pump(contacts: &mut Contacts, end: Instant) -> Result<(), Failure> {
    // Deeds end without an event: look again now and then.
    let look = Instant::now() + Duration::from_millis(50);
    contacts.event(look.min(end)).await?;
    match Instant::now() < end {
        true => Ok(()),
        false => Err(late("the other device has not answered in time")),
    }
}

/// The new device is introduced to everybody.
async fn add_everywhere(
    contacts: &mut Contacts,
    peer: &Party,
    end: Instant,
    output: Output,
) -> Result<(), Failure> {
    contacts.kin.devices.asked_all(peer.id);
    contacts.kin.proceed()?;
    let progress = output.progress("telling your contacts");
    let (asked, answered) = loop {
        let (asked, answered) = contacts.kin.devices.introductions(peer.id);
        if asked == answered || pump(contacts, end).await.is_err() {
            break (asked, answered);
        }
    };
    contacts.attend().await;
    progress.done();
    let value =
        json!({ "linked": peer.name, "id": peer.id.to_string(), "asked": asked, "told": answered });
    output.result(&value, || {
        let name = printable(&peer.name);
        format!("Linked {name}. Told of it: {answered} of {asked}; they reach it when they have run a command.")
    })
}

/// Makes what the first device asks for.
async fn be_added(
    contacts: &mut Contacts,
    peer: &Party,
    end: Instant,
    output: Output,
) -> Result<(), Failure> {
    let progress = output.progress("taking over contacts");
    while !contacts.kin.news.contains(&News::AskedAll) || !contacts.kin.is_done() {
        if pump(contacts, end).await.is_err() {
            break;
        }
    }
    contacts.attend().await;
    progress.done();
    let count = contacts.count();
    let value = json!({ "linked": peer.name, "id": peer.id.to_string(), "contacts": count });
    output.result(&value, || {
        format!(
            "Linked with {}: {count} contacts. Each can be reached when it has run a command; `junto contact list` shows them.",
            printable(&peer.name)
        )
    })
}

async fn list(contacts: &mut Contacts, output: Output) -> Result<(), Failure> {
    contacts.settle_all().await?;
    contacts.attend().await;
    let devices = &contacts.kin.devices;
    if let Some(by) = devices.revoked_by() {
        let value = json!({ "revoked_by": by });
        return output.result(&value, || {
            format!(
                "This device was revoked by {}: it gets nothing new.",
                printable(by)
            )
        });
    }
    let all = devices.own_devices();
    if all.len() < 2 {
        output.say("No other device. `junto device link` on a new one shows a link for it.");
    }
    let preferred = devices.preferred();
    for device in &all {
        let is_preferred = preferred == Some(device.id);
        let value = json!({
            "device": device.name, "id": device.id.to_string(), "this": device.is_this,
            "state": state(device), "preferred": is_preferred,
        });
        output.result(&value, || {
            let mut line = format!("{:.8}  {}", device.id.to_string(), printable(&device.name));
            for (holds, word) in [
                (device.is_this, "this device"),
                (!device.is_ready, state(device)),
                (
                    device.is_lost,
                    "it has ended the connection and may have revoked this device: look there; else link it again, or revoke it",
                ),
                (is_preferred, "messages go here only"),
            ] {
                if holds {
                    line = format!("{line}, {word}");
                }
            }
            line
        })?;
    }
    Ok(())
}

fn state(device: &OwnDevice) -> &'static str {
    match device {
        it if it.is_ready => "linked",
        it if it.is_lost => "lost",
        _ => "connecting",
    }
}

/// The device that has this name, or an id that begins so.
fn find(contacts: &Contacts, text: &str) -> Result<OwnDevice, Failure> {
    let all = contacts.kin.devices.own_devices().into_iter();
    let is_meant = |it: &OwnDevice| {
        it.name == text || (text.len() >= 4 && it.id.to_string().starts_with(text))
    };
    let mut meant = all.filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(device), None) => Ok(device),
        (Some(_), Some(_)) => Err(Failure::usage(format_args!(
            "more than one device is called `{text}`"
        ))
        .help("give the first digits of its id, as `junto device list` shows it")),
        (None, _) => Err(Failure::usage(format_args!("there is no device `{text}`"))
            .help("`junto device list` shows the devices of this profile")),
    }
}

/// A whole id, of a device that need not be known here.
fn whole_id(text: &str) -> Option<DeviceId> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).ok()?;
    (id != [0; 16]).then_some(DeviceId(id))
}

async fn revoke(
    contacts: &mut Contacts,
    text: &str,
    keep: &[String],
    output: Output,
) -> Result<(), Failure> {
    let id = match (find(contacts, text), whole_id(text)) {
        (Ok(device), _) if device.is_this => {
            return Err(Failure::usage("a device does not revoke itself")
                .help("revoke it from another one; or remove the folder of its profile"));
        }
        (Ok(device), _) => device.id,
        (Err(_), Some(id)) => id,
        (Err(failure), None) => return Err(failure),
    };
    let keep = keep.iter().map(|text| Ok(find(contacts, text)?.id));
    let keep = keep.collect::<Result<Vec<_>, Failure>>()?;
    let revoked = contacts.kin.devices.revoke(id, &keep);
    let Some((device, with)) = revoked.split_first() else {
        return Err(Failure::usage(format_args!("`{text}` is revoked already")));
    };
    contacts.kin.proceed()?;
    contacts.attend().await;
    let introduced = with
        .iter()
        .map(|it| json!({ "device": it.name, "id": it.id.to_string() }));
    let value = json!({
        "revoked": device.name, "id": device.id.to_string(),
        "introduced": introduced.collect::<Vec<_>>(),
    });
    output.result(&value, || {
        let called = |it: &Party| match it.name.as_str() {
            "" => it.id.to_string(),
            name => printable(name),
        };
        let with: Vec<_> = with.iter().map(called).collect();
        let with = match with.is_empty() {
            true => String::new(),
            false => format!(" and what it had introduced, {} (link again what is yours)", with.join(", ")),
        };
        format!(
            "Revoked {}{with}. Your contacts and other devices hear of it with their next command, and send nothing there from then on.",
            called(device)
        )
    })
}

async fn prefer(contacts: &mut Contacts, text: &str, output: Output) -> Result<(), Failure> {
    let device = match text {
        "all" => None,
        name => Some(find(contacts, name)?),
    };
    contacts.kin.devices.prefer(device.as_ref().map(|it| it.id));
    contacts.kin.proceed()?;
    contacts.attend().await;
    let name = device.as_ref().map(|it| it.name.as_str());
    output.result(&json!({ "preferred": name }), || match name {
        Some(name) => format!("Contacts are asked to send to {} only.", printable(name)),
        None => "Contacts are asked to send to all devices.".to_owned(),
    })
}
