//! The receiver's shell: writes what comes beside its place, makes it durable before it acknowledges it, and gives the
//! file its name when all of it is there and verified.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use junto_agent::MessageId;
use junto_tls::files::{self, Mode};
use rand_core::Rng as _;
use tempfile::TempPath;

use crate::book::{Book, Incoming as Entry, Offered};
use crate::error::{FilesError, Step, check_text};
use crate::frame::{Body, Frame, Offer, Reason, TransferId};
use crate::incoming::{Arrival, Fault, Incoming};
use crate::line::{Line, Message};
use crate::{Progress, Report, name};

/// Unfinished files of one peer that are kept: each has a partial file.
pub const PENDING_MAX: usize = 16;
/// Room that is left on a disk, in bytes: 64 MiB.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;
/// Names that are tried where others are taken.
const NAMES_MAX: u32 = 1_000;

/// What to take, and how long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the largest file.
    pub size: u64,
    /// How long to wait without progress.
    pub patience: Duration,
}

/// A file that is here, whole and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The transfer.
    pub id: TransferId,
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// Their hash.
    pub sha256: [u8; 32],
}

/// Receives one file into a folder: the next one that the peer offers, or one that was begun before (that one into the
/// folder of then, if anything of it is there). An existing file is never overwritten; only the owner can read the new one.
///
/// Dropping the future leaves everything as a crash would: the next call goes on.
///
/// # Errors
/// [`FilesError`]; each variant says whether a transfer is over. A file that is too large, or finds no room, is refused
/// and reported, and the call goes on.
pub async fn receive(
    line: &mut Line<'_>,
    book: &mut Book<'_>,
    into: &Path,
    limits: Limits,
    mut report: impl FnMut(Report) + Send,
) -> Result<Received, FilesError> {
    let into = into.canonicalize().map_err(Step::Write.failed_at(into))?;
    check_text(&into, Step::Write)?;
    line.begin();
    let mut receiving = Receiving {
        line,
        book,
        into,
        limits,
        report: &mut report,
        active: None,
        end: Instant::now() + limits.patience,
    };
    let received = receiving.run().await;
    if received.is_err() {
        // What is written counts if it can be made durable; else it comes again.
        let _ = receiving.sync().await;
    }
    received
}

struct Receiving<'l, 'a, 'b> {
    line: &'l mut Line<'a>,
    book: &'l mut Book<'b>,
    into: PathBuf,
    limits: Limits,
    report: &'l mut (dyn FnMut(Report) + Send),
    active: Option<Active>,
    end: Instant,
}

/// The transfer that has credit.
struct Active {
    id: TransferId,
    machine: Incoming,
    file: File,
    /// Messages whose chunks are written and not yet durable.
    unsynced: Vec<MessageId>,
}

impl Receiving<'_, '_, '_> {
    async fn run(&mut self) -> Result<Received, FilesError> {
        if let Some(received) = self.resume().await? {
            return Ok(received);
        }
        loop {
            let message = self.line.next(self.end).await?;
            if let Some(received) = self.take(message).await? {
                return Ok(received);
            }
        }
    }

    /// Goes on where an earlier call has stopped.
    async fn resume(&mut self) -> Result<Option<Received>, FilesError> {
        let all = self.book.all_incoming().to_vec();
        let last = all.len().saturating_sub(1);
        for (place, entry) in all.into_iter().enumerate() {
            let progress = entry.offer.progress(entry.have);
            let done = if entry.target.is_some() {
                self.finish(entry).await
            } else if entry.have == entry.offer.size || place == last {
                // Of the last one the grant may not have left.
                self.activate(entry).await
            } else {
                continue;
            };
            if let Some(received) = self.unless_stuck(progress, done)? {
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    /// What this machine prevents is told, and stands in no other transfer's way. If nothing can be recorded, nothing
    /// goes on.
    fn unless_stuck(
        &mut self,
        progress: Progress,
        done: Result<Option<Received>, FilesError>,
    ) -> Result<Option<Received>, FilesError> {
        match done {
            Err(FilesError::Local { step, error }) if step != Step::Record => {
                let why = FilesError::Local { step, error }.to_string();
                (self.report)(Report::Stuck(progress, why));
                Ok(None)
            }
            done => done,
        }
    }

    async fn take(&mut self, message: Message) -> Result<Option<Received>, FilesError> {
        let patience = self.limits.patience;
        let frame = match Frame::decode(&message.body) {
            Ok(frame) => frame,
            Err(error) => {
                let of = self.line.reject(message.id, error, patience).await?;
                return match of.filter(|id| self.is_active(*id)) {
                    Some(id) => Err(self.blame(id, Fault::Malformed).await?),
                    None => Ok(None),
                };
            }
        };
        let id = frame.id;
        match frame.body {
            Body::Offer(offer) => {
                let received = self.offered(id, offer).await;
                if !matches!(received, Err(FilesError::Local { .. })) {
                    self.line.ack([message.id]).await?;
                }
                received
            }
            Body::Chunk { offset, data } => self.chunk(message.id, id, offset, data).await,
            Body::Withdraw(reason) => {
                let waits_for_it = self.is_active(id) || self.active.is_none();
                let known = self.forget(id, reason)?;
                self.line.ack([message.id]).await?;
                match known && waits_for_it {
                    true => Err(FilesError::Withdrawn(reason)),
                    false => Ok(None),
                }
            }
            // For whoever sends files.
            _ if self.book.outgoing(id).is_some() => {
                self.line.hold(message);
                Ok(None)
            }
            Body::Grant { .. } | Body::Missing { .. } => {
                self.say(id, Body::Withdraw(Reason::CANCELLED)).await?;
                self.line.ack([message.id]).await?;
                Ok(None)
            }
            Body::Done | Body::Refuse(_) => {
                self.line.ack([message.id]).await?;
                Ok(None)
            }
        }
    }

    fn is_active(&self, id: TransferId) -> bool {
        self.active.as_ref().is_some_and(|active| active.id == id)
    }

    async fn say(&self, id: TransferId, body: Body<'_>) -> Result<(), FilesError> {
        self.line.say(id, body, self.limits.patience).await
    }

    async fn offered(
        &mut self,
        id: TransferId,
        offer: Offer,
    ) -> Result<Option<Received>, FilesError> {
        self.sync().await?;
        if let Some(ended) = self.book.ended(id) {
            let answer = ended.map_or(Body::Done, Body::Refuse);
            self.say(id, answer).await?;
            return Ok(None);
        }
        if let Some(known) = self.book.incoming(id) {
            let before = &mut known.offer;
            if (before.size, before.chunk, before.sha256) != (offer.size, offer.chunk, offer.sha256)
            {
                return Err(self.blame(id, Fault::Changed).await?);
            }
            // The last word counts: a sender that came back from a backup counts from there.
            known.lost &= before.attempt == offer.attempt;
            before.attempt = offer.attempt;
            let entry = known.clone();
            // Last in the book: that is the one with credit.
            self.book.drop_incoming(id);
            self.book.put_incoming(entry.clone());
            let progress = entry.offer.progress(entry.have);
            let done = match entry.target {
                Some(_) => self.finish(entry).await,
                None => self.activate(entry).await,
            };
            return self.unless_stuck(progress, done);
        }
        let entry = Entry {
            part: self.new_part(),
            offer: Offered {
                id: id.0,
                name: name::safe(&offer.name),
                size: offer.size,
                chunk: offer.chunk,
                sha256: offer.sha256,
                attempt: offer.attempt,
            },
            have: 0,
            target: None,
            lost: false,
        };
        if let Some(reason) = self.objection(&offer)? {
            let progress = entry.offer.progress(0);
            (self.report)(Report::Refused(progress, reason));
            // It may come again before it is acknowledged: the sender has only one answer to hear.
            self.book.end_incoming(id, Some(reason));
            self.book.save()?;
            self.say(id, Body::Refuse(reason)).await?;
            return Ok(None);
        }
        self.end = Instant::now() + self.limits.patience;
        let done = self.activate(entry).await;
        if let Err(FilesError::Local {
            step: Step::Write, ..
        }) = done
        {
            // Nothing of it is here. The offer comes again, perhaps when there is another folder.
            if let Some(made) = self.book.incoming(id) {
                let _ = std::fs::remove_file(&made.part);
            }
            self.book.drop_incoming(id);
            self.book.save()?;
        }
        done
    }

    fn new_part(&self) -> PathBuf {
        self.into.join(format!(".junto-{}.part", random_hex()))
    }

    /// Why an offer is not taken.
    fn objection(&self, offer: &Offer) -> Result<Option<Reason>, FilesError> {
        if offer.size > self.limits.size {
            return Ok(Some(Reason::TOO_LARGE));
        }
        let pending = self.book.all_incoming();
        if pending.len() >= PENDING_MAX {
            return Ok(Some(Reason::BUSY));
        }
        let room = fs4::available_space(&self.into).map_err(Step::Write.failed())?;
        let promised = pending.iter().map(|it| it.offer.size - it.have);
        let needed = promised.fold(SPARE_BYTES, u64::saturating_add);
        let fits = needed.saturating_add(offer.size) <= room;
        Ok((!fits).then_some(Reason::NO_ROOM))
    }

    /// Gives a transfer the credit: what it has beyond its record does not count.
    async fn activate(&mut self, mut entry: Entry) -> Result<Option<Received>, FilesError> {
        self.active = None;
        // On record before it is there: nothing is left behind that nobody knows of.
        self.book.put_incoming(entry.clone());
        self.book.save()?;
        let had = entry.have;
        let file = self.open(&mut entry)?;
        entry.lost |= entry.have < had;
        self.book.put_incoming(entry.clone());
        if entry.lost {
            self.book.save()?;
        }
        let machine = Incoming::new(&entry.offer.offer(), entry.have);
        let id = entry.offer.id();
        let progress = entry.offer.progress(entry.have);
        (self.report)(Report::Accepted(progress));
        if machine.is_complete() {
            return self.finish(entry).await;
        }
        if entry.lost {
            // What is under way continues what is gone. Without credit it is taken for nothing, until the next attempt.
            self.say(id, machine.missing()).await?;
            return Ok(None);
        }
        check_room(&entry.part)?;
        self.say(id, machine.grant()).await?;
        self.active = Some(Active {
            id,
            machine,
            file,
            unsynced: Vec::new(),
        });
        Ok(None)
    }

    /// Opens the partial file. One of which nothing is durable may as well be in the folder of this call.
    fn open(&mut self, entry: &mut Entry) -> Result<File, FilesError> {
        let failed = match open_part(entry) {
            Ok(file) => return Ok(file),
            Err(failed) => failed,
        };
        if entry.have > 0 || entry.part.parent() == Some(&self.into) {
            return Err(Step::Write.failed_at(&entry.part)(failed));
        }
        entry.part = self.new_part();
        self.book.put_incoming(entry.clone());
        self.book.save()?;
        open_part(entry).map_err(Step::Write.failed_at(&entry.part))
    }

    async fn chunk(
        &mut self,
        message: MessageId,
        id: TransferId,
        offset: u64,
        data: &[u8],
    ) -> Result<Option<Received>, FilesError> {
        let Some(active) = self.active.as_mut().filter(|active| active.id == id) else {
            // Of a transfer that has ended, or has no credit: its sender sends another one now.
            self.line.ack([message]).await?;
            return Ok(None);
        };
        match active.machine.chunk(offset, data.len()) {
            Ok(Arrival::Next) => {
                if let Err(error) = active.file.write_all(data) {
                    // It counts as written: nothing of this must be recorded.
                    self.active = None;
                    let part = self.book.incoming(id).map(|it| it.part.clone());
                    return Err(Step::Write.failed_at(&part.unwrap_or_default())(error));
                }
                active.unsynced.push(message);
                self.end = Instant::now() + self.limits.patience;
            }
            // Perhaps of what is not durable yet.
            Ok(Arrival::Known) => active.unsynced.push(message),
            Ok(Arrival::Gap { ask }) => {
                let missing = active.machine.missing();
                if ask {
                    self.say(id, missing).await?;
                }
                self.line.ack([message]).await?;
                return Ok(None);
            }
            Err(fault) => {
                let error = self.blame(id, fault).await?;
                self.line.ack([message]).await?;
                return Err(error);
            }
        }
        if !active.machine.is_due() {
            return Ok(None);
        }
        self.sync().await?;
        let Some(active) = &self.active else {
            return Ok(None);
        };
        if active.machine.is_complete()
            && let Some(entry) = self.book.incoming(id).cloned()
        {
            self.active = None;
            return self.finish(entry).await;
        }
        let grant = active.machine.grant();
        self.say(id, grant).await?;
        Ok(None)
    }

    /// Makes what is written durable, then its record, and only then acknowledges it.
    async fn sync(&mut self) -> Result<(), FilesError> {
        let Some(active) = self.active.as_mut() else {
            return Ok(());
        };
        if active.unsynced.is_empty() {
            return Ok(());
        }
        let part = self.book.incoming(active.id).map(|it| it.part.clone());
        let part = part.unwrap_or_default();
        let durable = active.file.sync_data();
        let durable = durable.map_err(Step::Write.failed_at(&part));
        if let Err(error) = durable.and_then(|()| check_room(&part)) {
            // Nobody knows what is on the disk: what is not recorded is written again.
            self.active = None;
            return Err(error);
        }
        active.machine.synced();
        if let Some(entry) = self.book.incoming(active.id) {
            entry.have = active.machine.have();
            let moved = Report::Moved(entry.offer.progress(entry.have));
            self.book.save()?;
            (self.report)(moved);
        }
        self.line.ack(active.unsynced.drain(..)).await
    }

    /// Verifies a file that is complete and gives it its name; whatever is interrupted here is done again.
    async fn finish(&mut self, mut entry: Entry) -> Result<Option<Received>, FilesError> {
        let id = entry.offer.id();
        let there = match std::fs::symlink_metadata(&entry.part) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(Step::Read.failed_at(&entry.part)(error)),
        };
        let path = match entry.target.clone() {
            Some(target) if !there => is_named(&entry, target).await?,
            _ => {
                if hash(&entry.part).await? != entry.offer.sha256 {
                    return Err(self.blame(id, Fault::Hash).await?);
                }
                self.install(&mut entry)?
            }
        };
        self.say(id, Body::Done).await?;
        self.book.end_incoming(id, None);
        self.book.save()?;
        Ok(Some(Received {
            id,
            path,
            size: entry.offer.size,
            sha256: entry.offer.sha256,
        }))
    }

    fn install(&mut self, entry: &mut Entry) -> Result<PathBuf, FilesError> {
        let folder = entry.part.parent().map(Path::to_owned).unwrap_or_default();
        for number in 1..=NAMES_MAX {
            let target = folder.join(name::numbered(&entry.offer.name, number));
            if std::fs::symlink_metadata(&target).is_ok() {
                continue;
            }
            entry.target = Some(target.clone());
            self.book.put_incoming(entry.clone());
            self.book.save()?;
            let mut part = TempPath::try_from_path(&entry.part).map_err(Step::Name.failed())?;
            part.disable_cleanup(true);
            match part.persist_noclobber(&target) {
                Ok(()) => {
                    files::sync_parent(&target).map_err(Step::Name.failed())?;
                    return Ok(target);
                }
                Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(failed) => return Err(Step::Name.failed()(failed.error)),
            }
        }
        let error = io::Error::new(io::ErrorKind::AlreadyExists, "all names are taken");
        Err(Step::Name.failed()(error))
    }

    /// Ends a transfer whose sender broke the rules.
    async fn blame(&mut self, id: TransferId, fault: Fault) -> Result<FilesError, FilesError> {
        let unsynced = self.active.take_if(|active| active.id == id);
        self.say(id, Body::Refuse(Reason::FAULTY)).await?;
        self.forget(id, Reason::FAULTY)?;
        let unsynced = unsynced.map(|active| active.unsynced).unwrap_or_default();
        self.line.ack(unsynced).await?;
        Ok(FilesError::Peer(fault))
    }

    /// Drops what there is of a transfer, and whether there was any.
    fn forget(&mut self, id: TransferId, reason: Reason) -> Result<bool, FilesError> {
        if self.is_active(id) {
            self.active = None;
        }
        forget(self.book, id, reason)
    }
}

/// Whether a file with a name on record, and without its partial one, is what it was when it got that name.
async fn is_named(entry: &Entry, target: PathBuf) -> Result<PathBuf, FilesError> {
    let gone = |kind| {
        let what = "it was here whole, and is no more what it was, nor is the partial file there: give the transfer up, \
                    and ask for the file again";
        Step::Name.failed_at(&target)(io::Error::new(kind, what))
    };
    match std::fs::symlink_metadata(&target) {
        Ok(found) if found.is_file() && found.len() == entry.offer.size => {}
        Ok(_) => return Err(gone(io::ErrorKind::InvalidData)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone(error.kind())),
        Err(error) => return Err(Step::Name.failed_at(&target)(error)),
    }
    match hash(&target).await? == entry.offer.sha256 {
        true => Ok(target),
        false => Err(gone(io::ErrorKind::InvalidData)),
    }
}

async fn hash(path: &Path) -> Result<[u8; 32], FilesError> {
    let read = path.to_owned();
    let sha256 = tokio::task::spawn_blocking(move || crate::send::sha256(&read)).await;
    let sha256 = sha256.map_err(io::Error::other).flatten();
    sha256.map_err(Step::Read.failed_at(path))
}

/// Others use the disk as well.
fn check_room(part: &Path) -> Result<(), FilesError> {
    let folder = part.parent().unwrap_or(part);
    let room = fs4::available_space(folder).map_err(Step::Write.failed_at(folder))?;
    if room < SPARE_BYTES {
        let error = io::Error::new(io::ErrorKind::StorageFull, "less than 64 MiB are left");
        return Err(Step::Write.failed_at(folder)(error));
    }
    Ok(())
}

fn forget(book: &mut Book<'_>, id: TransferId, reason: Reason) -> Result<bool, FilesError> {
    let Some(part) = book.incoming(id).map(|entry| entry.part.clone()) else {
        return Ok(false);
    };
    match std::fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Step::Write.failed()(error));
        }
        Ok(()) | Err(_) => {}
    }
    book.end_incoming(id, Some(reason));
    book.save()?;
    Ok(true)
}

/// Ends a transfer, in whichever direction: the other side is told, and what was received of it is removed. Gives
/// whether there was such a one.
///
/// # Errors
/// [`FilesError`].
pub async fn cancel(
    line: &Line<'_>,
    book: &mut Book<'_>,
    id: TransferId,
    patience: Duration,
) -> Result<bool, FilesError> {
    let reason = Reason::CANCELLED;
    if book.outgoing(id).is_some() {
        line.say(id, Body::Withdraw(reason), patience).await?;
        book.drop_outgoing(id);
        book.save()?;
        return Ok(true);
    }
    if book.incoming(id).is_some() {
        line.say(id, Body::Refuse(reason), patience).await?;
        return forget(book, id, reason);
    }
    Ok(false)
}

/// Opens the partial file, at the end of what is durable in it. If there is less, the transfer begins anew.
fn open_part(entry: &mut Entry) -> io::Result<File> {
    let existing = match std::fs::symlink_metadata(&entry.part) {
        Ok(found) if found.is_file() && found.len() >= entry.have => true,
        Ok(found) if !found.is_file() => {
            let what = "something else is where the partial file was";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(_) => {
            std::fs::remove_file(&entry.part)?;
            false
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    let mut file = if existing {
        OpenOptions::new().write(true).open(&entry.part)?
    } else {
        entry.have = 0;
        let file = files::open_new(&entry.part, Mode::Private)?;
        files::sync_parent(&entry.part)?;
        file
    };
    file.set_len(entry.have)?;
    file.seek(SeekFrom::Start(entry.have))?;
    Ok(file)
}

fn random_hex() -> String {
    let mut bytes = [0; 8];
    rand_core::UnwrapErr(getrandom::SysRng).fill_bytes(&mut bytes);
    hex::encode(bytes)
}
