//! `junto send`, `recv` and `chat`: plain messages over a session (to a contact: `contact`).

use std::io::IsTerminal;
use std::time::Instant;

use junto_session::{Channel, ChannelMessage, PartyIndex, Session};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::args::{Chat, Global, Recv, Send};
use crate::contact;
use crate::failure::{Context, Exit, Failure};
use crate::input;
use crate::open::{Junto, SETTLE, session_failure};
use crate::output::Output;

/// The channel that all three commands share.
const CHANNEL: &str = "junto talk";

/// Longest line of a chat, in bytes.
const LINE_MAX: usize = 64 * 1024;

pub(crate) async fn send(arguments: Send, global: &Global, output: Output) -> Result<(), Failure> {
    let message = match &arguments.message {
        // A variable of the shell that is not set. What comes from standard input may be nothing.
        Some(text) if text.is_empty() => {
            return Err(Failure::usage(
                "there is nothing to send: the message is empty",
            ));
        }
        Some(text) => text.clone().into_bytes(),
        None => input::read_stdin()?,
    };
    if let Some(name) = &arguments.whom.contact {
        return contact::send(name, &message, arguments.wait, global, output).await;
    }
    Junto::with(global, async |junto| {
        send_with(junto, &arguments, message, output).await
    })
    .await
}

async fn send_with(
    junto: &Junto,
    arguments: &Send,
    message: Vec<u8>,
    output: Output,
) -> Result<(), Failure> {
    let session = junto
        .session(arguments.whom.session(), arguments.wait.patience())
        .await?;
    let channel = session.channel(CHANNEL).await.map_err(session_failure)?;
    let to = receivers(&session, arguments.to.as_deref())?;
    for party in &to {
        channel
            .send(*party, message.clone())
            .await
            .map_err(session_failure)?;
    }
    // More than the window takes the receiver's answers to leave, so this is the user's patience.
    junto.settle(arguments.wait.patience()).await?;
    let to: Vec<usize> = to.iter().map(|party| party.as_usize()).collect();
    let report = json!({ "session": session.name(), "to": to, "bytes": message.len() });
    output.result(&report, || {
        let parties = if to.len() == 1 { "party" } else { "parties" };
        format!("Sent {} bytes to {} {parties}.", message.len(), to.len())
    })
}

/// All others, or the one of that number, or else of that name if only one has it.
fn receivers(session: &Session, to: Option<&str>) -> Result<Vec<PartyIndex>, Failure> {
    let others = session.everybody().without(session.me());
    match to {
        None => Ok(others.iter().collect()),
        Some(to) => to
            .parse()
            .ok()
            .and_then(PartyIndex::new)
            .or_else(|| named(session, to))
            .filter(|party| others.contains(*party))
            .map(|party| vec![party])
            .ok_or_else(|| {
                Failure::usage(format_args!(
                    "there is no other party {to} in session {}, or more than one",
                    session.name()
                ))
                .help("`junto session show` lists the parties")
            }),
    }
}

fn named(session: &Session, name: &str) -> Option<PartyIndex> {
    let mut all = session.roster().iter();
    let mut same = all
        .by_ref()
        .filter(|(_, entry)| entry.name.as_str() == name);
    let (party, _) = same.next()?;
    same.next().is_none().then_some(party)
}

pub(crate) async fn recv(arguments: Recv, global: &Global, output: Output) -> Result<(), Failure> {
    if let Some(name) = &arguments.whom.contact {
        return contact::recv(name, arguments.count, arguments.wait, global, output).await;
    }
    Junto::with(global, async |junto| {
        recv_with(junto, &arguments, output).await
    })
    .await
}

async fn recv_with(junto: &Junto, arguments: &Recv, output: Output) -> Result<(), Failure> {
    let end = Instant::now() + arguments.wait.patience();
    let session = junto
        .session(arguments.whom.session(), arguments.wait.patience())
        .await?;
    let channel = session.channel(CHANNEL).await.map_err(session_failure)?;
    for received in 0..arguments.count {
        let left = end.saturating_duration_since(Instant::now());
        let message = match tokio::time::timeout(left, channel.next()).await {
            Ok(message) => message.map_err(session_failure)?,
            Err(_) => {
                let count = arguments.count;
                return Err(Failure::new(
                    Exit::Unreachable,
                    format_args!("{received} of {count} messages came in time"),
                ));
            }
        };
        junto.warn(output);
        show(&session, &message, output)?;
        // Shown first: a crash in between shows it twice rather than never.
        channel
            .done(message.receipt)
            .await
            .map_err(session_failure)?;
    }
    // Only acknowledgements are left.
    junto.part().await;
    Ok(())
}

fn show(session: &Session, message: &ChannelMessage, output: Output) -> Result<(), Failure> {
    let from = message.from.as_usize();
    let text = std::str::from_utf8(&message.payload).ok();
    let name = session
        .roster()
        .iter()
        .find(|(party, _)| *party == message.from)
        .map_or("", |(_, entry)| entry.name.as_str());
    let report =
        json!({ "from": from, "name": name, "text": text, "hex": hex::encode(&message.payload) });
    let from = match name {
        "" => from.to_string(),
        name => format!("{from} {}", printable(name)),
    };
    output.result(&report, || match text {
        Some(text) => format!("{from}: {}", printable(text)),
        None => format!(
            "{from}: {} bytes: {}",
            message.payload.len(),
            hex::encode(&message.payload)
        ),
    })
}

/// What a peer sent is shown without what would steer the terminal or reorder a line, and with its
/// further lines set in, so that none of them passes for the message of another party.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\n    "),
            '\t' => shown.push(c),
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' => shown.push('\u{fffd}'),
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

pub(crate) async fn chat(arguments: Chat, global: &Global, output: Output) -> Result<(), Failure> {
    Junto::with(global, async |junto| {
        chat_with(junto, &arguments, output).await
    })
    .await
}

async fn chat_with(junto: &Junto, arguments: &Chat, output: Output) -> Result<(), Failure> {
    let session = junto
        .session(&arguments.session, std::time::Duration::from_secs(60))
        .await?;
    let channel = session.channel(CHANNEL).await.map_err(session_failure)?;
    let to = receivers(&session, None)?;
    if std::io::stdin().is_terminal() {
        output.say(format_args!(
            "You are party {}. Lines go to all others; end with Ctrl-D.",
            session.me()
        ));
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            message = channel.next() => {
                let message = message.map_err(session_failure)?;
                junto.warn(output);
                show(&session, &message, output)?;
                channel.done(message.receipt).await.map_err(session_failure)?;
            }
            line = lines.next_line() => {
                let Some(line) = line.context("cannot read standard input")? else { break };
                say(&channel, &to, line).await?;
            }
        }
    }
    junto.settle(SETTLE).await
}

async fn say(channel: &Channel, to: &[PartyIndex], line: String) -> Result<(), Failure> {
    if line.len() > LINE_MAX {
        return Err(Failure::usage("a line of a chat is at most 64 KiB long")
            .help("use `junto send` for more"));
    }
    for party in to {
        channel
            .send(*party, line.clone())
            .await
            .map_err(session_failure)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\r"), "a\u{fffd}[2Jb\tc\u{fffd}");
        assert_eq!(printable("a\u{202e}b"), "a\u{fffd}b");
    }

    #[test]
    fn a_message_cannot_speak_for_another_party() {
        let shown = printable("hello\n2: I agree\u{2028}2: so do I");
        assert!(shown.lines().skip(1).all(|line| line.starts_with(' ')));
        assert!(!shown.contains('\u{2028}'));
    }
}
