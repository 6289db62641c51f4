//! The sender's shell: reads the file, and sends what there is credit for.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use junto_crypto::hash::Sha256;
use rand_core::Rng as _;

use crate::book::{Book, Offered, Outgoing as Entry};
use crate::error::{FilesError, Step, check_text};
use crate::frame::{Body, CHUNK_BYTES, Frame, NAME_MAX, Reason, TransferId};
use crate::incoming::Fault;
use crate::line::{Line, Message, TOGETHER};
use crate::outgoing::Outgoing;
use crate::{Report, name};

/// How often in a call a receiver may say that something is missing, and be offered the file again.
const MISSING_MAX: u32 = 64;

/// A file that the other side has, whole and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The transfer.
    pub id: TransferId,
    /// What the file is called there, unless that name was taken.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Their hash.
    pub sha256: [u8; 32],
    /// Whether it was there before this call, which has sent nothing then.
    pub before: bool,
}

impl Sent {
    fn of(offer: Offered, before: bool) -> Self {
        Self {
            id: offer.id(),
            name: offer.name,
            size: offer.size,
            sha256: offer.sha256,
            before,
        }
    }
}

/// Sends a file: goes on with it if it was being sent to this peer before and has not changed. Returns when the other
/// side has all of it; at once if it had it before, by what the book remembers, and the file has not changed
/// ([`Book::send_again`]). `patience` is how long to wait without progress.
///
/// Dropping the future leaves everything as a crash would: the next call goes on.
///
/// # Errors
/// [`FilesError`]; each variant says whether the transfer is over.
pub async fn send(
    line: &mut Line<'_>,
    book: &mut Book<'_>,
    path: &Path,
    patience: Duration,
    mut report: impl FnMut(Report) + Send,
) -> Result<Sent, FilesError> {
    let path = path.canonicalize().map_err(Step::Read.failed())?;
    check_text(&path, Step::Read)?;
    if let Some(known) = arrived(book, &path)? {
        return Ok(Sent::of(known, true));
    }
    let entry = begin(line, book, path, patience).await?;
    line.begin();
    let mut sending = Sending {
        file: File::open(&entry.path).map_err(Step::Read.failed())?,
        machine: Outgoing::new(&entry.offer.offer()),
        entry,
        highest: 0,
        missing: 0,
        end: Instant::now() + patience,
        patience,
    };
    report(Report::Offering(sending.entry.offer.progress(0)));
    sending.offer(line).await?;
    loop {
        sending.send_credit(line, book).await?;
        let message = match line.try_next().await? {
            Some(message) => message,
            None => line.next(sending.end).await?,
        };
        if sending.take(line, book, message, &mut report).await? {
            return Ok(Sent::of(sending.entry.offer, false));
        }
    }
}

/// A file that has arrived and is the same, as far as its length and time of change say.
fn arrived(book: &Book<'_>, path: &Path) -> Result<Option<Offered>, FilesError> {
    let Some(known) = book.sent(path).filter(|it| it.modified > 0) else {
        return Ok(None);
    };
    let found = std::fs::metadata(path).map_err(Step::Read.failed())?;
    let same = (known.offer.size, known.modified) == (found.len(), modified(&found));
    Ok((same && book.outgoing_of(path).is_none()).then(|| known.offer.clone()))
}

/// A file on its way.
struct Sending {
    entry: Entry,
    file: File,
    machine: Outgoing,
    /// Bytes that the receiver has said that it has, in whichever attempt: only more than that is progress.
    highest: u64,
    /// How often it has said that something is missing.
    missing: u32,
    end: Instant,
    patience: Duration,
}

/// What is known of the file, with one more attempt: recorded before it is offered.
async fn begin(
    line: &Line<'_>,
    book: &mut Book<'_>,
    path: PathBuf,
    patience: Duration,
) -> Result<Entry, FilesError> {
    let found = std::fs::metadata(&path).map_err(Step::Read.failed())?;
    if !found.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is no ordinary file");
        return Err(Step::Read.failed()(error));
    }
    if let Some(known) = book.outgoing_of(&path).cloned() {
        let id = known.offer.id();
        if (known.offer.size, known.modified) == (found.len(), modified(&found)) {
            return next_attempt(book, id);
        }
        line.say(id, Body::Withdraw(Reason::CHANGED), patience)
            .await?;
        book.drop_outgoing(id);
    }
    let hashed = path.clone();
    let sha256 = tokio::task::spawn_blocking(move || sha256(&hashed)).await;
    let sha256 = sha256
        .map_err(io::Error::other)
        .flatten()
        .map_err(Step::Read.failed())?;
    let mut id = [0; TransferId::BYTES];
    rand_core::UnwrapErr(getrandom::SysRng).fill_bytes(&mut id);
    let called = path.file_name().unwrap_or_default().to_string_lossy();
    const { assert!(name::SAFE_MAX <= NAME_MAX) };
    book.add_outgoing(Entry {
        offer: Offered {
            id,
            name: name::safe(&called),
            size: found.len(),
            chunk: CHUNK_BYTES,
            sha256,
            attempt: 0,
        },
        modified: modified(&found),
        path,
    });
    next_attempt(book, TransferId(id))
}

fn next_attempt(book: &mut Book<'_>, id: TransferId) -> Result<Entry, FilesError> {
    let entry = book.outgoing(id).map(|entry| {
        entry.offer.attempt = entry.offer.attempt.saturating_add(1);
        entry.clone()
    });
    book.save()?;
    // It was there a line ago.
    entry.ok_or(FilesError::Changed)
}

impl Sending {
    async fn offer(&self, line: &Line<'_>) -> Result<(), FilesError> {
        let offer = Body::Offer(self.entry.offer.offer());
        line.say(self.entry.offer.id(), offer, self.patience).await
    }

    /// Sends the chunks that there is credit for.
    async fn send_credit(
        &mut self,
        line: &Line<'_>,
        book: &mut Book<'_>,
    ) -> Result<(), FilesError> {
        loop {
            let mut frames = Vec::new();
            while frames.len() < TOGETHER
                && let Some((offset, length)) = self.machine.take()
            {
                let mut data = vec![0; length];
                let read = self.file.seek(SeekFrom::Start(offset));
                match read.and_then(|_| self.file.read_exact(&mut data)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return self.changed(line, book).await;
                    }
                    Err(error) => return Err(Step::Read.failed()(error)),
                }
                let (id, data) = (self.entry.offer.id(), &data[..]);
                let body = Body::Chunk { offset, data };
                frames.push(Frame { id, body }.encode());
            }
            if frames.is_empty() {
                return Ok(());
            }
            line.send(&frames, self.patience).await?;
            if self.machine.is_sent() {
                let now = self.file.metadata().map_err(Step::Read.failed())?;
                if (now.len(), modified(&now)) != (self.entry.offer.size, self.entry.modified) {
                    return self.changed(line, book).await;
                }
            }
        }
    }

    async fn changed(&self, line: &Line<'_>, book: &mut Book<'_>) -> Result<(), FilesError> {
        self.withdraw(line, book, Reason::CHANGED).await?;
        Err(FilesError::Changed)
    }

    async fn withdraw(
        &self,
        line: &Line<'_>,
        book: &mut Book<'_>,
        reason: Reason,
    ) -> Result<(), FilesError> {
        let id = self.entry.offer.id();
        line.say(id, Body::Withdraw(reason), self.patience).await?;
        book.drop_outgoing(id);
        book.save()
    }

    /// Takes a message; whether the other side has all of the file.
    async fn take(
        &mut self,
        line: &mut Line<'_>,
        book: &mut Book<'_>,
        message: Message,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<bool, FilesError> {
        let frame = match Frame::decode(&message.body) {
            Ok(frame) => frame,
            Err(error) => {
                line.reject(message.id, error, self.patience).await?;
                return Ok(false);
            }
        };
        let (id, is_ours) = (frame.id, frame.id == self.entry.offer.id());
        match frame.body {
            // For whoever receives files.
            Body::Offer(_) | Body::Chunk { .. } | Body::Withdraw(_) => {
                line.hold(message);
                return Ok(false);
            }
            Body::Grant {
                attempt,
                have,
                until,
            } if is_ours => {
                if let Err(fault) = self.machine.grant(attempt, have, until) {
                    return Err(self.blame(line, book, message, fault).await?);
                }
                if self.machine.have() > self.highest {
                    self.highest = self.machine.have();
                    self.end = Instant::now() + self.patience;
                    report(Report::Moved(self.entry.offer.progress(have)));
                }
            }
            Body::Missing { attempt } if is_ours && attempt == self.entry.offer.attempt => {
                self.missing += 1;
                if self.missing > MISSING_MAX {
                    let fault = Fault::Flood;
                    return Err(self.blame(line, book, message, fault).await?);
                }
                self.entry = next_attempt(book, id)?;
                self.machine = Outgoing::new(&self.entry.offer.offer());
                self.offer(line).await?;
            }
            Body::Grant { .. } | Body::Missing { .. } => {
                if book.outgoing(id).is_none() {
                    // Of a transfer that has ended here: who waits for it is to know.
                    let body = Body::Withdraw(Reason::CANCELLED);
                    line.say(id, body, self.patience).await?;
                }
            }
            Body::Done | Body::Refuse(_) => {
                let known = match frame.body {
                    Body::Done => book.end_outgoing(id),
                    _ => book.drop_outgoing(id),
                };
                if known {
                    book.save()?;
                }
                line.ack([message.id]).await?;
                return match frame.body {
                    Body::Refuse(reason) if is_ours => Err(FilesError::Refused(reason)),
                    _ => Ok(is_ours),
                };
            }
        }
        line.ack([message.id]).await?;
        Ok(false)
    }

    async fn blame(
        &self,
        line: &Line<'_>,
        book: &mut Book<'_>,
        message: Message,
        fault: Fault,
    ) -> Result<FilesError, FilesError> {
        self.withdraw(line, book, Reason::FAULTY).await?;
        line.ack([message.id]).await?;
        Ok(FilesError::Peer(fault))
    }
}

/// When a file was changed last, as far as the system says.
fn modified(file: &Metadata) -> u64 {
    let since = file.modified().ok();
    let since = since.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// The hash of a file's content.
pub(crate) fn sha256(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::default();
    let mut piece = vec![0; 128 * 1024];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hash.finish()),
            Ok(length) => hash.update(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
