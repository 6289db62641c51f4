//! `junto file`: files to and from contacts.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use junto_agent::{ConnectionId, ConnectionView, Tag};
use junto_files::{Book, Direction, FilesError, Limits, Progress, Reason, Report, TransferId};
use serde_json::{Value, json};

use crate::args::{FileCommand, Global, Stall};
use crate::contact::{self, Contacts, Need};
use crate::failure::{Context, Exit, Failure};
use crate::open::{SETTLE, agent_failure};
use crate::output::{self, Output};
use crate::profile::Profile;

/// How long the relay may take where a file depends on nothing that is left to say.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Where a profile keeps what it knows of files on their way, in a file for each contact.
pub(crate) const FOLDER: &str = "files";

pub(crate) async fn run(
    command: FileCommand,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    Contacts::with(global, async |contacts| match command {
        FileCommand::Send {
            contact,
            files,
            again,
            wait,
        } => send(contacts, &contact, (&files, again), wait, output).await,
        FileCommand::Recv {
            contact,
            into,
            count,
            max_size,
            wait,
        } => {
            let limits = Limits {
                size: max_size,
                patience: wait.patience(),
            };
            recv(contacts, &contact, &into, count, limits, output).await
        }
        FileCommand::List { contact } => list(contacts, &contact, output).await,
        FileCommand::Cancel { contact, transfer } => {
            cancel(contacts, &contact, &transfer, output).await
        }
    })
    .await
}

fn file_of(tag: Tag) -> String {
    format!("{FOLDER}/{}", hex::encode(&tag.as_bytes()[..16]))
}

fn book(profile: &Profile, tag: Tag) -> Result<Book<'_>, Failure> {
    let name = file_of(tag);
    let stored = profile.read_sealed(&name)?;
    let keep = move |bytes: &[u8]| {
        let written = profile.write_sealed(&name, bytes);
        written.map_err(|failure| std::io::Error::other(failure.message))
    };
    Book::open(stored.as_ref().map(|stored| stored.as_slice()), keep)
        .context("what is known of files on their way")
}

/// Forgets all of a contact, with the partial files.
pub(crate) fn forget(profile: &Profile, tag: Tag) -> Result<(), Failure> {
    for pending in book(profile, tag)?.pending() {
        if pending.direction == Direction::Incoming {
            // It may be gone.
            let _ = std::fs::remove_file(pending.path);
        }
    }
    profile.remove_sealed(&file_of(tag))
}

async fn send(
    contacts: &mut Contacts,
    name: &str,
    (files, again): (&[PathBuf], bool),
    wait: Stall,
    output: Output,
) -> Result<(), Failure> {
    let patience = wait.patience();
    let id = connected(contacts, name, patience).await?;
    contact::refuse_apps(&id, name, "files of Junto")?;
    let profile = Arc::clone(&contacts.profile);
    let mut book = book(&profile, id.tag)?;
    let mut line = contacts.line(id.id, output).await?;
    let mut result = Ok(());
    for path in files {
        if again && let Ok(path) = path.canonicalize() {
            book.send_again(&path);
        }
        let mut teller = Teller::new(name, output);
        let sending = junto_files::send(&mut line, &mut book, path, patience, |report| {
            teller.tell(&report);
        });
        let sent = match sending.await {
            Ok(sent) => sent,
            Err(error) => {
                result = Err(failure(error, name, &path.display().to_string()));
                break;
            }
        };
        teller.done();
        let value = json!({
            "event": "sent", "contact": name, "transfer": sent.id.to_string(), "file": sent.name,
            "bytes": sent.size, "sha256": hex::encode(sent.sha256), "before": sent.before,
        });
        output.result(&value, || match sent.before {
            true => format!(
                "{name} had {} before; `--again` sends it once more.",
                sent.name
            ),
            false => format!("{name} has {}, {}.", sent.name, bytes(sent.size)),
        })?;
    }
    drop((line, book));
    let result = explained(contacts, id.id, result).await;
    // Acknowledgements, or why it goes no further; nothing of a file depends on them.
    let _ = contacts
        .settle(contact::one(id.id), LAST_WORDS.min(patience))
        .await;
    result
}

/// Who hears nothing because a relay is not there is told that.
async fn explained(
    contacts: &Contacts,
    id: ConnectionId,
    result: Result<(), Failure>,
) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.exit == Exit::Unreachable => {
            Err(contacts.late(id, Need::Both, failure).await)
        }
        result => result,
    }
}

async fn recv(
    contacts: &mut Contacts,
    name: &str,
    into: &Path,
    count: u64,
    limits: Limits,
    output: Output,
) -> Result<(), Failure> {
    if !into.is_dir() {
        return Err(
            Failure::usage(format_args!("there is no folder {}", into.display()))
                .help("make it first, or name another one with `--into DIR`"),
        );
    }
    let id = connected(contacts, name, limits.patience).await?;
    let profile = Arc::clone(&contacts.profile);
    let mut book = book(&profile, id.tag)?;
    let mut line = contacts.line(id.id, output).await?;
    let mut result = Ok(());
    for _ in 0..count {
        let mut teller = Teller::new(name, output);
        let receiving = junto_files::receive(&mut line, &mut book, into, limits, |report| {
            teller.tell(&report);
        });
        let received = match receiving.await {
            Ok(received) => received,
            Err(error) => {
                result = Err(failure(error, name, "a file"));
                break;
            }
        };
        teller.done();
        let path = received.path.display().to_string();
        let value = json!({
            "event": "received", "contact": name, "transfer": received.id.to_string(), "path": path,
            "bytes": received.size, "sha256": hex::encode(received.sha256),
        });
        output.result(&value, || {
            format!("{path}: {} of {name}.", bytes(received.size))
        })?;
    }
    drop((line, book));
    // The word that it is here, or why not: it is stored, and goes out with the next command if the relay is away now.
    let result = explained(contacts, id.id, result).await;
    let last_words = LAST_WORDS.min(limits.patience);
    let patience = result.as_ref().map_or(last_words, |()| limits.patience);
    let settled = contacts.settle(contact::one(id.id), patience).await;
    result.and(settled)
}

async fn connected(
    contacts: &mut Contacts,
    name: &str,
    patience: Duration,
) -> Result<ConnectionView, Failure> {
    let end = Instant::now() + patience;
    let id = contacts.contact(name).await?.id;
    contacts.connected(id, end).await?;
    contacts.contact(name).await
}

async fn list(contacts: &Contacts, name: &str, output: Output) -> Result<(), Failure> {
    let contact = contacts.contact(name).await?;
    let pending = book(&contacts.profile, contact.tag)?.pending();
    for file in &pending {
        let Progress {
            id,
            name: file_name,
            bytes: have,
            size,
        } = &file.progress;
        let (direction, from) = match file.direction {
            Direction::Outgoing => ("outgoing", "to"),
            Direction::Incoming => ("incoming", "from"),
        };
        let value = json!({
            "contact": name, "transfer": id.to_string(), "direction": direction, "file": file_name,
            "bytes": have, "size": size, "path": file.path.display().to_string(),
        });
        output.result(&value, || match file.direction {
            Direction::Outgoing => format!("{id}  {from} {name}: {file_name}, {}", bytes(*size)),
            Direction::Incoming => format!(
                "{id}  {from} {name}: {file_name}, {} of {}",
                bytes(*have),
                bytes(*size)
            ),
        })?;
    }
    if pending.is_empty() {
        output.say("No files are on their way.");
    }
    Ok(())
}

async fn cancel(
    contacts: &mut Contacts,
    name: &str,
    text: &str,
    output: Output,
) -> Result<(), Failure> {
    let contact = contacts.contact(name).await?;
    let profile = Arc::clone(&contacts.profile);
    let mut book = book(&profile, contact.tag)?;
    let id = find(&book, text)?;
    let line = contacts.line(contact.id, output).await?;
    let cancelled = junto_files::cancel(&line, &mut book, id, SETTLE).await;
    cancelled.map_err(|error| failure(error, name, "the file"))?;
    drop((line, book));
    contacts.settle(contact::one(contact.id), SETTLE).await?;
    let id = id.to_string();
    output.result(&json!({ "cancelled": id }), || format!("Cancelled {id}."))
}

/// The transfer whose name begins so.
fn find(book: &Book<'_>, text: &str) -> Result<TransferId, Failure> {
    let pending = book.pending().into_iter().map(|file| file.progress.id);
    let mut meant = pending.filter(|id| !text.is_empty() && id.to_string().starts_with(text));
    match (meant.next(), meant.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(Failure::usage(format_args!(
            "more than one transfer begins with `{text}`"
        ))),
        (None, _) => Err(
            Failure::usage(format_args!("there is no transfer `{text}`"))
                .help("`junto file list --contact NAME` shows those that are not through"),
        ),
    }
}

/// Tells how far a file is: each hundredth as an event for programs or on a terminal, each tenth elsewhere.
struct Teller<'a> {
    contact: &'a str,
    output: Output,
    progress: Option<output::Progress>,
    told: u64,
}

impl<'a> Teller<'a> {
    fn new(contact: &'a str, output: Output) -> Self {
        Self {
            contact,
            output,
            progress: None,
            told: 0,
        }
    }

    fn tell(&mut self, report: &Report) {
        let contact = self.contact;
        match report {
            Report::Offering(file) => self.show("offered", file, || {
                format!("{contact} is offered {}", file.name)
            }),
            Report::Accepted(file) => self.show("accepted", file, || {
                format!("{contact} sends {}, {}", file.name, bytes(file.size))
            }),
            Report::Refused(file, reason) => {
                let value = event("refused", contact, file);
                let text = format!("refused {} of {contact}: {reason}", file.name);
                self.print(&value, &text);
            }
            Report::Stuck(file, why) => {
                let mut value = event("stuck", contact, file);
                value["message"] = why.as_str().into();
                let transfer = file.id;
                let text = format!(
                    "{} of {contact} cannot go on: {why}; mend that and run the command again, or give it up by `junto file cancel --contact {contact} {transfer}`. Waiting for others",
                    file.name
                );
                self.print(&value, &text);
            }
            Report::Moved(file) => {
                let parts = match self.output.json || std::io::stderr().is_terminal() {
                    true => 100,
                    false => 10,
                };
                if file.bytes < file.size
                    && file.bytes - self.told.min(file.bytes) < file.size / parts
                {
                    return;
                }
                self.told = file.bytes;
                self.show("progress", file, || {
                    format!(
                        "{}: {} of {}",
                        file.name,
                        bytes(file.bytes),
                        bytes(file.size)
                    )
                });
            }
        }
    }

    fn show(&mut self, what: &str, file: &Progress, text: impl FnOnce() -> String) {
        if self.output.json {
            self.print(&event(what, self.contact, file), "");
            return;
        }
        match &self.progress {
            Some(progress) => progress.step(text()),
            None => self.progress = Some(self.output.progress(text())),
        }
    }

    fn print(&self, value: &Value, text: &str) {
        if self.output.json {
            // What it is about goes on whoever reads.
            let _ = self.output.result(value, String::new);
        } else {
            self.output.say(text);
        }
    }

    fn done(self) {
        if let Some(progress) = self.progress {
            progress.done();
        }
    }
}

fn event(what: &str, contact: &str, file: &Progress) -> Value {
    json!({
        "event": what, "contact": contact, "transfer": file.id.to_string(), "file": file.name,
        "bytes": file.bytes, "size": file.size,
    })
}

/// A size for people.
fn bytes(count: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} bytes"),
    }
}

/// What an error about files means for the exit code.
fn failure(error: FilesError, contact: &str, file: &str) -> Failure {
    let message = format!("{file}: {error}");
    match error {
        FilesError::Refused(Reason::TOO_LARGE) => Failure::refused(message)
            .help(format_args!("{contact} can take larger ones: `junto file recv --max-size`")),
        FilesError::Refused(_) => Failure::refused(message),
        FilesError::Withdrawn(_) => Failure::failed(message),
        FilesError::Changed => {
            Failure::failed(message).help("run the command again: it sends what the file is now")
        }
        FilesError::Peer(_) => Failure::new(Exit::Misbehaved, message)
            .party(contact)
            .help("nothing of it is kept; ask them what happened"),
        FilesError::Silence { unread: true } => Failure::new(Exit::Unreachable, message).help(
            format_args!("too many messages wait unread in between: `junto recv --contact {contact}` shows them"),
        ),
        FilesError::Silence { unread: false } => Failure::new(Exit::Unreachable, message).help(
            format_args!("nothing is lost: run this again while {contact} runs `junto file recv` (or `send`)"),
        ),
        FilesError::Local { .. } => {
            Failure::failed(message).help(format_args!(
                "mend that and run the command again: it goes on from there; or give the file up: `junto file list --contact {contact}` shows its TRANSFER, `junto file cancel --contact {contact} TRANSFER` ends it"
            ))
        }
        FilesError::Agent(error) => agent_failure(error),
        FilesError::Connection(fault) => contact::failed(fault),
        error => Failure::failed(error),
    }
}
