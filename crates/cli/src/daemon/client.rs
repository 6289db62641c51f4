//! One client: lines in, lines out. It can hold up or crowd out nobody: what it may have under way and what may wait for
//! it are bounded, and if it does not read it is cut off.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortHandle, Abortable};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::answer::{answer, refuse};
use super::desks::CLIENT_WINDOW;
use super::post::Input;
use super::request::{Code, Id, LINE_MAX, Refusal, parse};
use crate::failure::{Exit, Failure};

/// Calls of one client that may be under way; further lines stay unread.
pub(super) const CALLS_MAX: usize = 16;
/// Lines that may wait for one client to read them. Those of messages have up to some 120 KiB, and are bounded by
/// what a client may have without having acknowledged it; most others have some hundred bytes.
const LINES_MAX: usize = 512;
/// Whether there is room for what a client can do without, or may get later: it never takes that of messages.
const LINES_FREE_MIN: usize = LINES_MAX / 2;
const _: () = assert!(LINES_FREE_MIN > CLIENT_WINDOW + CALLS_MAX);
/// How long a client may take to read what is written, and answers may take after it has ended its input.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers clients.
pub(super) type ClientId = u64;

/// Where lines for a client go.
#[derive(Clone)]
pub(super) struct Outlet {
    lines: mpsc::Sender<Line>,
    cut: AbortHandle,
}

/// A line on its way to a client, and the place of the call that it answers.
struct Line {
    text: String,
    _place: Option<OwnedSemaphorePermit>,
}

impl Outlet {
    /// A notification.
    pub(super) fn tell(&self, text: String) {
        self.put(text, None);
    }

    /// Whether the client is not far behind.
    pub(super) fn has_room(&self) -> bool {
        self.lines.capacity() > LINES_FREE_MIN
    }

    fn put(&self, text: String, place: Option<OwnedSemaphorePermit>) {
        let line = Line {
            text,
            _place: place,
        };
        // Nothing waits for a client: one that is that far behind has to begin anew.
        if self.lines.try_send(line).is_err() {
            self.cut.abort();
        }
    }
}

/// Where the answer to one call goes.
pub(super) struct Reply {
    outlet: Outlet,
    id: Option<Id>,
    place: OwnedSemaphorePermit,
    /// Its place among the calls of all clients, those that have left among them.
    _place_of_all: OwnedSemaphorePermit,
}

impl Reply {
    pub(super) fn send(self, result: Result<Value, Failure>) {
        if let Some(id) = &self.id {
            self.outlet.put(answer(id, result), Some(self.place));
        }
    }
}

/// Serves a client until it leaves or is cut off. `calls` has the places for calls of all clients.
pub(super) async fn serve(
    stream: UnixStream,
    id: ClientId,
    inputs: mpsc::Sender<Input>,
    calls: Arc<Semaphore>,
) {
    let (cut, registration) = AbortHandle::new_pair();
    let (lines, waiting) = mpsc::channel(LINES_MAX);
    let outlet = Outlet { lines, cut };
    let conversation = async {
        if inputs.send(Input::Came(id, outlet.clone())).await.is_err() {
            return;
        }
        let (from, to) = stream.into_split();
        let writing = write(to, waiting);
        let reading = async {
            read(from, id, outlet, &inputs, &calls).await;
            // It asks nothing more; what it asked is answered.
            let _ = inputs.send(Input::Gone(id)).await;
        };
        tokio::pin!(writing);
        tokio::select! {
            () = &mut writing => {}
            () = reading => {
                let _ = tokio::time::timeout(PATIENCE, writing).await;
            }
        }
    };
    let _ = Abortable::new(conversation, registration).await;
    let _ = inputs.send(Input::Gone(id)).await;
}

async fn write(mut to: OwnedWriteHalf, mut waiting: mpsc::Receiver<Line>) {
    while let Some(mut line) = waiting.recv().await {
        line.text.push('\n');
        let written = tokio::time::timeout(PATIENCE, to.write_all(line.text.as_bytes())).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read(
    from: impl AsyncRead + Unpin,
    client: ClientId,
    outlet: Outlet,
    inputs: &mpsc::Sender<Input>,
    calls: &Arc<Semaphore>,
) {
    let places = Arc::new(Semaphore::new(CALLS_MAX));
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match next_line(&mut from, &mut line).await {
            Next::Line => {}
            Next::End => return,
            Next::TooLong => {
                let refusal = Refusal {
                    id: None,
                    code: Code::Request,
                    message: format!("a line has at most {LINE_MAX} bytes; this was the last one"),
                };
                return outlet.put(refuse(&refusal), None);
            }
        }
        let request = match parse(&line) {
            Ok(request) => request,
            Err(refusal) => {
                if refusal.is_answered() {
                    outlet.put(refuse(&refusal), Some(place));
                }
                continue;
            }
        };
        let Ok(place_of_all) = Arc::clone(calls).try_acquire_owned() else {
            // Those of clients that have left: what is here leaves places for all.
            if let Some(id) = &request.id {
                let failure = Failure::new(Exit::Unreachable, "too many calls are under way");
                outlet.put(
                    answer(id, Err(failure.help("call again later"))),
                    Some(place),
                );
            }
            continue;
        };
        let reply = Reply {
            outlet: outlet.clone(),
            id: request.id,
            place,
            _place_of_all: place_of_all,
        };
        if inputs
            .send(Input::Asked(client, request.call, reply))
            .await
            .is_err()
        {
            return;
        }
    }
}

enum Next {
    Line,
    TooLong,
    End,
}

/// Reads up to the next line end, which is left out. What comes without one is no line.
async fn next_line(from: &mut (impl AsyncBufReadExt + Unpin), line: &mut Vec<u8>) -> Next {
    line.clear();
    loop {
        let Ok(bytes) = from.fill_buf().await else {
            return Next::End;
        };
        if bytes.is_empty() {
            return Next::End;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = end.unwrap_or(bytes.len());
        if line.len() + part > LINE_MAX {
            return Next::TooLong;
        }
        line.extend_from_slice(&bytes[..part]);
        from.consume(end.map_or(part, |end| end + 1));
        if end.is_some() {
            return Next::Line;
        }
    }
}
