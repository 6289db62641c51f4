//! What a file costs beside the same bytes as bare messages of an agent, in the same run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use junto_agent::{Agent, AgentError, ConnectionId, Event, Events, Link, MAX_BODY, MessageId, Tag};
use junto_smp::address::ServerAddress;
use junto_tls::files::{self, Mode};
use serde::Serialize;

use crate::error::{FilesError, Step};
use crate::line::{Line, TOGETHER};
use crate::receive::Limits;
use crate::{Book, receive, send};

/// How long each single wait may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rounds of each, by turns.
const ROUNDS: u32 = 3;

/// One of the two ends: an agent of its own, and an empty folder.
pub struct Seat {
    /// Not connected yet.
    pub agent: Agent,
    /// What it tells.
    pub events: Events,
    /// For files and books.
    pub dir: PathBuf,
}

/// The figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// Bytes of each file.
    pub bytes: u64,
    /// Megabytes a second of the file: from the offer, hashed before, to the receiver's word that it has all of it.
    pub file_mb_per_second: f64,
    /// The same bytes as bare messages, each as long as it may be, until the last is acknowledged.
    pub bare_mb_per_second: f64,
    /// File over bare.
    pub ratio: f64,
}

/// Connects the two through the relay and sends a file of so many bytes from one to the other.
///
/// # Errors
/// [`FilesError`].
pub async fn run(
    relay: &ServerAddress,
    mut sender: Seat,
    mut receiver: Seat,
    bytes: u64,
) -> Result<Figures, FilesError> {
    let tag = Tag::named(&[b"bench"]);
    let (near, link) = sender.agent.create_invitation(tag, relay, b"").await?;
    let link = Link::from(link);
    let far = receiver.agent.join(tag, &link, relay, b"").await?;
    connected(&mut sender.events).await?;
    connected(&mut receiver.events).await?;
    let (mut bare, mut file) = (Duration::ZERO, Duration::ZERO);
    for round in 0..ROUNDS {
        bare += bare_messages((&sender, near), (&mut receiver, far), bytes).await?;
        file += one_file((&mut sender, near), (&mut receiver, far), bytes, round).await?;
    }
    let speed = |time: Duration| bytes as f64 * f64::from(ROUNDS) / time.as_secs_f64() / 1e6;
    Ok(Figures {
        bytes,
        file_mb_per_second: speed(file),
        bare_mb_per_second: speed(bare),
        ratio: bare.as_secs_f64() / file.as_secs_f64(),
    })
}

async fn connected(events: &mut Events) -> Result<(), FilesError> {
    let connected = async {
        while let Some(event) = events.next().await {
            if let Event::Connected { .. } = event {
                return Ok(());
            }
        }
        Err(AgentError::Closed.into())
    };
    let connected = tokio::time::timeout(PATIENCE, connected).await;
    connected.unwrap_or(Err(FilesError::Silence { unread: false }))
}

async fn bare_messages(
    (sender, near): (&Seat, ConnectionId),
    (receiver, far): (&mut Seat, ConnectionId),
    bytes: u64,
) -> Result<Duration, FilesError> {
    let begun = Instant::now();
    let body = vec![7; MAX_BODY];
    let count = bytes.div_ceil(MAX_BODY as u64);
    let sending = async {
        let mut left = count;
        while left > 0 {
            let together = left.min(TOGETHER as u64);
            let sends = (0..together).map(|_| sender.agent.send(near, &body));
            try_join_all(sends).await?;
            left -= together;
        }
        Ok(())
    };
    let receiving = async {
        for _ in 0..count {
            let message = next_message(&mut receiver.events).await?;
            receiver.agent.ack(far, message).await?;
        }
        Ok::<_, FilesError>(())
    };
    tokio::try_join!(sending, receiving)?;
    Ok(begun.elapsed())
}

async fn next_message(events: &mut Events) -> Result<MessageId, FilesError> {
    loop {
        let next = tokio::time::timeout(PATIENCE, events.next()).await;
        match next.map_err(|_| FilesError::Silence { unread: false })? {
            Some(Event::Message { id, .. }) => return Ok(id),
            Some(_) => {}
            None => return Err(AgentError::Closed.into()),
        }
    }
}

async fn one_file(
    (sender, near): (&mut Seat, ConnectionId),
    (receiver, far): (&mut Seat, ConnectionId),
    bytes: u64,
    round: u32,
) -> Result<Duration, FilesError> {
    let path = sender.dir.join(format!("file-{round}"));
    let written = std::fs::File::create(&path).and_then(|file| file.set_len(bytes));
    written.map_err(Step::Write.failed())?;
    let mut books = [book(&sender.dir)?, book(&receiver.dir)?];
    let [near_book, far_book] = &mut books;
    let mut from = Line::new(&sender.agent, &mut sender.events, near);
    let mut to = Line::new(&receiver.agent, &mut receiver.events, far);
    let limits = Limits {
        size: bytes,
        patience: PATIENCE,
    };
    let mut offered = None;
    let note = |_| {
        offered.get_or_insert_with(Instant::now);
    };
    tokio::try_join!(
        send(&mut from, near_book, &path, PATIENCE, note),
        receive(&mut to, far_book, &receiver.dir, limits, |_| {}),
    )?;
    Ok(offered.map_or(Duration::ZERO, |offered| offered.elapsed()))
}

/// Kept durably, as a profile does.
fn book(dir: &std::path::Path) -> Result<Book<'static>, FilesError> {
    let path = dir.join("book");
    Book::open(None, move |bytes| {
        files::replace(&path, bytes, Mode::Private)
    })
    .map_err(Step::Record.failed())
}
