//! Moving from the reference server: its queues and its identity, so that the address and every queue
//! stay as they are.
//!
//! Its store log is text, one record a line, words separated by single spaces; binary values are
//! base64url, optionals and lists of keys as noted. Facts, from the reference server's sources:
//!
//! ```text
//! CREATE rid=ID rk=KEY[,KEY…] rdh=SECRET sid=ID sk=[KEY] [sndSecure=T|F | queue_mode=M|C]
//!        [link_id=ID queue_data=FIXED USER] [notifier=ID KEY SECRET [nsrv=ID]]
//!        [updated_at=SECONDS] [status=active|off|blocked,INFO] [rsrv=ID]
//! LINK ID ID FIXED USER     LDELETE ID      SECURE ID KEY     KEYS ID KEY[,KEY…]
//! NOTIFIER ID ID KEY SECRET [nsrv=ID]       NDELETE ID        SUSPEND ID
//! BLOCK ID INFO             UNBLOCK ID      DELETE ID         TIME ID SECONDS
//! NEW_SERVICE service_id=ID role=M|N|P cert=CHAIN cert_hash=HASH created_at=SECONDS
//! QUEUE_SERVICE ID R|N [ID]                                (R: the queue; N: its notifier)
//! INFO = reason=spam|content[,notice=JSON]
//! ```
//!
//! The first ID of a record is the recipient's; a secret is a raw X25519 agreement. Records about
//! queues that are not there mean nothing. Dates of queues are left out. A service keeps its id and its
//! queues: it is known by the hash of its certificate (SHA-256), so the certificate itself is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use junto_smp::address::Fingerprint;
use junto_smp::blocking::{Blocking, BlockingReason, ClientNotice};
use junto_smp::command::QueueMode;
use junto_smp::id::{ID_BYTES, LinkId, NotifierId, RecipientId, SenderId, ServiceId};
use junto_smp::key::AuthKey;
use junto_smp::link::LinkBlobs;
use junto_smp::message::DeliveryKey;
use junto_smp::notification::NotificationKey;
use junto_smp::queue::{Link, NotifierParts, QueueParts, RECIPIENT_KEYS_MAX};
use junto_smp::service::{Service, ServiceRole};
use junto_tls::files::{self, Mode};
use junto_tls::identity::{AUTHORITY_CERTIFICATE, LEAF_CERTIFICATE, LEAF_KEY};
use zeroize::Zeroizing;

use crate::backup::{self, BackupError};
use crate::connection::now;
use crate::folder::{self, FolderError};
use crate::store::{Body, JournalError, JournalStore, Memory, Queue, Store as _};

/// Longest line: a queue with all of its link data in base64 has some 23,000 bytes.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Lines that are named in a report.
const NAMED_MAX: usize = 10;

/// With padding, as it is written, or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a reference server cannot be moved. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The new folder cannot be made.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The identity or the settings cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The new journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The new journal cannot be written to its end.
    #[error("the new journal cannot be written")]
    Store,
    /// A file of the reference server cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the store log makes no sense.
    #[error("{}, line {line}: {what}", path.display())]
    Line {
        /// The store log.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it. Never what stands in it.
        what: &'static str,
    },
}

/// What was moved, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// Lines of the store log.
    pub lines: u64,
    /// Queues in the new relay.
    pub queues: u64,
    /// Of these: with a short link.
    pub links: u64,
    /// Of these: with a notifier.
    pub notifiers: u64,
    /// Of these: switched off.
    pub suspended: u64,
    /// Of these: blocked by the operator.
    pub blocked: u64,
    /// Of these: one of a service's, or with a notifier that is. They stay so.
    pub services: u64,
    /// Services that the log does not tell of, or tells of twice, and that queues name: these belong
    /// to none now, until the service subscribes to them again.
    pub unknown_services: u64,
    /// Queues that were left out because another one has one of their names.
    pub conflicts: u64,
    /// Records about queues that were not there.
    pub strays: u64,
    /// Lines that make no sense, left out on request.
    pub skipped: u64,
    /// The first of them.
    pub skipped_lines: Vec<u64>,
    /// The last line was cut, as a crash leaves it, and left out.
    pub cut: bool,
}

/// Where a reference server is, and how the relay shall be.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// Its store log, usually `/var/opt/simplex/smp-server-store.log`.
    pub store_log: &'a Path,
    /// Its folder with `ca.crt`, `server.crt` and `server.key`, usually `/etc/opt/simplex`.
    pub identity: &'a Path,
    /// The name in its address.
    pub host: &'a str,
    /// The port in its address.
    pub port: u16,
    /// Leave out lines that make no sense instead of giving up.
    pub lenient: bool,
}

/// Makes a relay in `dir`, which must be absent or empty, from a reference server that does not run.
/// Only reads what is the reference server's. Undelivered messages are not in its store log.
///
/// # Errors
/// [`MoveError`]; `dir` is empty then, if it was made at all.
pub fn move_reference(reference: &Reference<'_>, dir: &Path) -> Result<Moved, MoveError> {
    // Before anything is made.
    let path = reference.store_log;
    let file = File::open(path).map_err(|source| MoveError::Io {
        path: path.into(),
        source,
    })?;
    let (log, mut moved) = read_log(BufReader::new(file), path, reference.lenient)?;
    backup::prepare_empty(dir)?;
    let made = take_identity(reference, dir).and_then(|()| store(log, dir, &mut moved));
    if made.is_err() {
        backup::clear(dir);
    }
    made.map(|()| moved)
}

fn take_identity(reference: &Reference<'_>, dir: &Path) -> Result<(), MoveError> {
    for (name, mode) in [
        (AUTHORITY_CERTIFICATE, Mode::Public),
        (LEAF_CERTIFICATE, Mode::Public),
        (LEAF_KEY, Mode::Private),
    ] {
        let path = reference.identity.join(name);
        let failed = |source| MoveError::Io {
            path: path.clone(),
            source,
        };
        let mut content = Zeroizing::new(Vec::with_capacity(64 << 10));
        let file = File::open(&path).map_err(failed)?;
        file.take(64 << 10)
            .read_to_end(&mut content)
            .map_err(failed)?;
        let path = dir.join(name);
        files::create(&path, &content, mode).map_err(|source| MoveError::Io { path, source })?;
    }
    folder::write_config(dir, reference.host, reference.port)?;
    folder::load_dir(dir)?;
    Ok(())
}

fn store(log: Log, dir: &Path, moved: &mut Moved) -> Result<(), MoveError> {
    let memory = Memory::new(usize::MAX);
    let store = JournalStore::open(&dir.join("journal"), true, usize::MAX, memory, now())?;
    let mut unknown = BTreeSet::new();
    let mut find = |id: Option<ServiceId>| {
        let known = log.services.get(&id?);
        let service = known.and_then(|service| store.services().intern(service.clone()));
        if service.is_none() {
            unknown.extend(id);
        }
        service
    };
    for (recipient, record) in log.queues {
        let (link, notifier) = (record.link.is_some(), record.notifier.is_some());
        let told = record.notifier.as_ref().and_then(|n| n.service);
        let (own, told) = (find(record.service), find(told));
        let service = own.is_some() || told.is_some();
        let status = record.status;
        let mut queue = record.into_queue(recipient, |bytes| store.memory().store(bytes));
        if let Some(queue) = &mut queue {
            queue.restore_service(own);
            queue.restore_notifier_service(told);
        }
        match queue.map(|queue| store.create(queue)) {
            Some(Ok(_)) => {
                moved.queues += 1;
                moved.links += u64::from(link);
                moved.notifiers += u64::from(notifier);
                moved.services += u64::from(service);
                moved.suspended += u64::from(matches!(status, Status::Off));
                moved.blocked += u64::from(matches!(status, Status::Blocked(_)));
            }
            Some(Err(_)) | None => moved.conflicts += 1,
        }
    }
    moved.unknown_services = unknown.len() as u64;
    store.close().map_err(|_| MoveError::Store)
}

/// What a store log says, put together.
#[derive(Default)]
struct Log {
    queues: Queues,
    services: BTreeMap<ServiceId, Service>,
}

type Queues = BTreeMap<RecipientId, Record>;

/// What a store log holds, without making anything of it.
///
/// # Errors
/// [`MoveError::Line`], unless `lenient`; [`MoveError::Io`].
pub fn survey(lines: impl BufRead, path: &Path, lenient: bool) -> Result<Moved, MoveError> {
    read_log(lines, path, lenient).map(|(log, mut moved)| {
        moved.queues = log.queues.len() as u64;
        moved
    })
}

/// Reads the whole log, whose name is `path`.
fn read_log(
    mut lines: impl BufRead,
    path: &Path,
    lenient: bool,
) -> Result<(Log, Moved), MoveError> {
    let failed = |source| MoveError::Io {
        path: path.into(),
        source,
    };
    let (mut log, mut moved) = (Log::default(), Moved::default());
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX + 1));
    loop {
        line.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut lines).take(limit).read_until(b'\n', &mut line);
        if read.map_err(failed)? == 0 {
            return Ok((log, moved));
        }
        moved.lines += 1;
        let whole = line.last() == Some(&b'\n');
        let applied = match core::str::from_utf8(&line) {
            _ if !whole && line.len() > LINE_BYTES_MAX => Err("it is too long"),
            Ok(_) if !whole && lines.fill_buf().map_err(failed)?.is_empty() => {
                moved.cut = true;
                Ok(true)
            }
            Ok(text) => apply(text.trim_end_matches(['\n', '\r']), &mut log),
            Err(_) => Err("it is no text"),
        };
        match applied {
            Ok(true) => {}
            Ok(false) => moved.strays += 1,
            Err(_) if lenient => {
                moved.skipped += 1;
                if moved.skipped_lines.len() < NAMED_MAX {
                    moved.skipped_lines.push(moved.lines);
                }
                if !whole {
                    lines.skip_until(b'\n').map_err(failed)?;
                }
            }
            Err(what) => {
                return Err(MoveError::Line {
                    path: path.into(),
                    line: moved.lines,
                    what,
                });
            }
        }
    }
}

/// What the log says of one queue.
struct Record {
    recipient_keys: Vec<AuthKey>,
    delivery: Zeroizing<[u8; 32]>,
    sender: SenderId,
    sender_key: Option<AuthKey>,
    mode: Option<QueueMode>,
    link: Option<(LinkId, Blobs)>,
    notifier: Option<Notifier>,
    status: Status,
    service: Option<ServiceId>,
}

struct Blobs {
    fixed: Vec<u8>,
    user: Vec<u8>,
}

struct Notifier {
    id: NotifierId,
    key: AuthKey,
    secret: Zeroizing<[u8; 32]>,
    service: Option<ServiceId>,
}

#[derive(Clone, Copy)]
enum Status {
    Active,
    Off,
    Blocked(Blocking),
}

impl Record {
    /// `None` if it has no key, which the reader refuses.
    fn into_queue(self, recipient: RecipientId, keep: impl FnOnce(&[u8]) -> Body) -> Option<Queue> {
        let mut queue = Queue::restore(QueueParts {
            recipient,
            sender: self.sender,
            mode: self.mode,
            recipient_key: self.recipient_keys.first()?.clone(),
            sender_key: self.sender_key,
            delivery_key: DeliveryKey::from_bytes(&self.delivery),
            suspended: matches!(self.status, Status::Off),
        });
        queue.restore_recipient_keys(&self.recipient_keys);
        if let Some((id, blobs)) = self.link {
            let blobs = LinkBlobs::new(&blobs.fixed, &blobs.user).ok()?;
            queue.restore_link(Some(Link::new(id, &blobs, keep)));
        }
        queue.restore_notifier(self.notifier.map(|notifier| NotifierParts {
            id: notifier.id,
            auth_key: notifier.key,
            key: NotificationKey::from_bytes(&notifier.secret),
        }));
        if let Status::Blocked(blocking) = self.status {
            // Nothing to record: the queue is not in a store yet.
            let _ = queue.set_blocking(Some(blocking));
        }
        Some(queue)
    }
}

/// Why a line makes no sense; never what stands in it.
type Fault = &'static str;

/// Carries one line out. `false`: it is about a queue that is not there.
fn apply(line: &str, log: &mut Log) -> Result<bool, Fault> {
    let queues = &mut log.queues;
    let mut words = Words(line.split(' ').peekable());
    let tag = words.next()?;
    match tag {
        "CREATE" => {
            let recipient = RecipientId(words.id_after("rid=")?);
            let record = create(&mut words)?;
            words.end()?;
            // As the reference: the first one stays.
            let new = !queues.contains_key(&recipient);
            if new {
                queues.insert(recipient, record);
            }
            return Ok(new);
        }
        "NEW_SERVICE" => {
            let service = words.service()?;
            // As the reference: the first one stays.
            log.services.entry(service.id).or_insert(service);
            return Ok(true);
        }
        _ => {}
    }
    let recipient = RecipientId(id(words.next()?)?);
    let record = queues.get_mut(&recipient);
    // The rest is read also if there is no such queue: a log that is damaged is damaged.
    let known = record.is_some();
    let change: Box<dyn FnOnce(&mut Record)> = match tag {
        "LINK" => {
            let link = words.link()?;
            Box::new(|record| record.link = Some(link))
        }
        "LDELETE" => Box::new(|record| record.link = None),
        "SECURE" => {
            let key = key(words.next()?)?;
            Box::new(|record| _ = record.sender_key.get_or_insert(key))
        }
        "KEYS" => {
            let keys = keys(words.next()?)?;
            Box::new(|record| record.recipient_keys = keys)
        }
        "NOTIFIER" => {
            let notifier = words.notifier()?;
            Box::new(|record| record.notifier = Some(notifier))
        }
        "NDELETE" => Box::new(|record| record.notifier = None),
        "SUSPEND" => Box::new(|record| record.status = Status::Off),
        "BLOCK" => {
            let blocking = blocking(&words.rest())?;
            Box::new(move |record| record.status = Status::Blocked(blocking))
        }
        "UNBLOCK" => Box::new(|record| record.status = Status::Active),
        "DELETE" => {
            words.end()?;
            queues.remove(&recipient);
            return Ok(known);
        }
        "TIME" => {
            seconds(words.next()?)?;
            Box::new(|_| {})
        }
        "QUEUE_SERVICE" => {
            let (party, service) = (words.next()?, words.next()?);
            let service = match service {
                "" => None,
                text => Some(ServiceId(id(text)?)),
            };
            match party {
                "R" => Box::new(move |record| record.service = service),
                "N" => Box::new(move |record| {
                    if let Some(notifier) = &mut record.notifier {
                        notifier.service = service;
                    }
                }),
                _ => return Err("its kind of service is unknown"),
            }
        }
        _ => return Err("it begins with an unknown word"),
    };
    words.end()?;
    if let Some(record) = record {
        change(record);
    }
    Ok(known)
}

fn create(words: &mut Words<'_>) -> Result<Record, Fault> {
    let recipient_keys = keys(words.after("rk=")?)?;
    let delivery = secret(words.after("rdh=")?)?;
    let sender = SenderId(words.id_after("sid=")?);
    let sender_key = match words.after("sk=")? {
        "" => None,
        text => Some(key(text)?),
    };
    let mode = match (words.optional("sndSecure="), words.optional("queue_mode=")) {
        (None, None) => None,
        (Some("T"), None) | (None, Some("M")) => Some(QueueMode::Messaging),
        (Some("F"), None) | (None, Some("C")) => Some(QueueMode::Contact),
        _ => return Err("the mode of its queue is unknown"),
    };
    let link = match words.optional("link_id=") {
        None => None,
        Some(text) => {
            let fixed = words.after("queue_data=")?;
            Some((LinkId(id(text)?), blobs(fixed, words.next()?)?))
        }
    };
    let notifier = match words.optional("notifier=") {
        None => None,
        Some(text) => Some(words.notifier_named(text)?),
    };
    if let Some(text) = words.optional("updated_at=") {
        seconds(text)?;
    }
    let status = match words.optional("status=") {
        None | Some("active") => Status::Active,
        Some("off") => Status::Off,
        Some(text) => match text.strip_prefix("blocked,") {
            Some(text) => Status::Blocked(blocking(text)?),
            None => return Err("the status of its queue is unknown"),
        },
    };
    let service = words.optional_service("rsrv=")?;
    Ok(Record {
        recipient_keys,
        delivery,
        sender,
        sender_key,
        mode,
        link,
        notifier,
        status,
        service,
    })
}

/// The words of a line.
struct Words<'a>(core::iter::Peekable<core::str::Split<'a, char>>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, Fault> {
        self.0.next().ok_or("a word is missing")
    }

    fn after(&mut self, name: &str) -> Result<&'a str, Fault> {
        self.optional(name).ok_or("a named value is missing")
    }

    fn id_after(&mut self, name: &str) -> Result<[u8; ID_BYTES], Fault> {
        id(self.after(name)?)
    }

    /// The value `name`, if it comes next.
    fn optional(&mut self, name: &str) -> Option<&'a str> {
        let value = self.0.peek()?.strip_prefix(name)?;
        self.0.next();
        Some(value)
    }

    fn link(&mut self) -> Result<(LinkId, Blobs), Fault> {
        let link = LinkId(id(self.next()?)?);
        let fixed = self.next()?;
        Ok((link, blobs(fixed, self.next()?)?))
    }

    fn notifier(&mut self) -> Result<Notifier, Fault> {
        let name = self.next()?;
        self.notifier_named(name)
    }

    fn notifier_named(&mut self, name: &str) -> Result<Notifier, Fault> {
        let notifier = Notifier {
            id: NotifierId(id(name)?),
            key: key(self.next()?)?,
            secret: secret(self.next()?)?,
            service: None,
        };
        let service = self.optional_service("nsrv=")?;
        Ok(Notifier {
            service,
            ..notifier
        })
    }

    fn optional_service(&mut self, name: &str) -> Result<Option<ServiceId>, Fault> {
        match self.optional(name) {
            Some(text) => id(text).map(|id| Some(ServiceId(id))),
            None => Ok(None),
        }
    }

    fn service(&mut self) -> Result<Service, Fault> {
        let service = ServiceId(self.id_after("service_id=")?);
        let role = match self.after("role=")?.as_bytes() {
            [role] => ServiceRole::from_byte(*role),
            _ => None,
        };
        self.after("cert=")?;
        let hash = bytes(self.after("cert_hash=")?)?;
        let fingerprint = hash.as_slice().try_into().map(Fingerprint);
        self.after("created_at=")?;
        self.end()?;
        Ok(Service {
            id: service,
            role: role.ok_or("the role of its service is unknown")?,
            fingerprint: fingerprint.map_err(|_| "the hash of a certificate is none")?,
        })
    }

    fn rest(&mut self) -> String {
        self.0.by_ref().collect::<Vec<_>>().join(" ")
    }

    fn end(&mut self) -> Result<(), Fault> {
        match self.0.next() {
            None => Ok(()),
            Some(_) => Err("something follows its end"),
        }
    }
}

fn bytes(text: &str) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let decoded = BASE64
        .decode(text)
        .map_err(|_| "a value is not base64url")?;
    Ok(Zeroizing::new(decoded))
}

fn id(text: &str) -> Result<[u8; ID_BYTES], Fault> {
    bytes(text)?
        .as_slice()
        .try_into()
        .map_err(|_| "an id has another length than 24 bytes")
}

fn secret(text: &str) -> Result<Zeroizing<[u8; 32]>, Fault> {
    let bytes = bytes(text)?;
    let secret = bytes.as_slice().try_into();
    secret
        .map(Zeroizing::new)
        .map_err(|_| "a secret is not of X25519")
}

fn key(text: &str) -> Result<AuthKey, Fault> {
    AuthKey::from_spki(&bytes(text)?).map_err(|_| "a key is of an unknown kind")
}

fn keys(text: &str) -> Result<Vec<AuthKey>, Fault> {
    if text.split(',').count() > RECIPIENT_KEYS_MAX {
        return Err("it has too many keys");
    }
    text.split(',').map(key).collect()
}

fn blobs(fixed: &str, user: &str) -> Result<Blobs, Fault> {
    let (fixed, user) = (bytes(fixed)?.to_vec(), bytes(user)?.to_vec());
    LinkBlobs::new(&fixed, &user).map_err(|_| "the data of a link is too long")?;
    Ok(Blobs { fixed, user })
}

fn seconds(text: &str) -> Result<i64, Fault> {
    text.parse().map_err(|_| "a time is no number")
}

fn blocking(text: &str) -> Result<Blocking, Fault> {
    const UNKNOWN: Fault = "the reason of a block is unknown";
    let text = text.strip_prefix("reason=").ok_or(UNKNOWN)?;
    let (reason, notice) = match text.split_once(",notice=") {
        Some((reason, notice)) => (reason, Some(notice)),
        None => (text, None),
    };
    let reason = match reason {
        "spam" => BlockingReason::Spam,
        "content" => BlockingReason::Content,
        _ => return Err(UNKNOWN),
    };
    let notice = match notice {
        None => None,
        Some(json) => {
            let notice: Notice = serde_json::from_str(json).map_err(|_| "a notice is no JSON")?;
            let ttl_seconds = notice.ttl;
            Some(ClientNotice { ttl_seconds })
        }
    };
    Ok(Blocking { reason, notice })
}

#[derive(serde::Deserialize)]
struct Notice {
    ttl: Option<u64>,
}

/// Where the reference server keeps messages, if they are beside its store log: for the report.
#[must_use]
pub fn undelivered(store_log: &Path) -> Option<PathBuf> {
    let dir = store_log.parent()?;
    ["smp-server-messages.log", "messages"]
        .into_iter()
        .map(|name| dir.join(name))
        .find(|path| fs::metadata(path).is_ok_and(|found| found.is_dir() || found.len() > 0))
}
