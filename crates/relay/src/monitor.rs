//! What the operator sees: metrics for Prometheus, and a page about health. Plain HTTP/1.1, one
//! request per connection, nothing but `GET` and `HEAD`; meant for this machine or a private network.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | all metrics, OpenMetrics text |
//! | `/health`, `/health/ready` | 200 if the relay serves, 503 if it stops or cannot write; JSON says which |
//! | `/health/live` | 200 as long as the process answers |

use core::time::Duration;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::relay::{Health, Shared};

/// Longest request head: 4 KiB.
const HEAD_BYTES_MAX: usize = 4 << 10;
/// Fields in a request's head.
const FIELDS_MAX: usize = 32;
/// Requests at a time. Further connections are closed at once.
const REQUESTS_MAX: usize = 16;
/// For one request, from its connection to its answer.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// After the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers requests until it is dropped.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                    let shared = Arc::clone(&shared);
                    requests.spawn(async move {
                        // Whoever asked is gone or slow: nothing to do about it.
                        let _ = tokio::time::timeout(REQUEST_TIME, answer(stream, &shared)).await;
                        drop(slot);
                    });
                }
            }
            Some(_) = requests.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut head = Vec::with_capacity(1_024);
    let answer = loop {
        let room = HEAD_BYTES_MAX - head.len();
        if (&mut stream).take(room as u64).read_buf(&mut head).await? == 0 {
            break Answer::plain("400 Bad Request", "bad request\n");
        }
        if let Some(answer) = respond(&head, shared) {
            break answer;
        }
    };
    stream.write_all(answer.head().as_bytes()).await?;
    if !answer.head_only {
        stream.write_all(answer.body.as_bytes()).await?;
    }
    stream.shutdown().await
}

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
    head_only: bool,
}

impl Answer {
    fn plain(status: &'static str, body: &str) -> Self {
        Self {
            status,
            kind: TEXT,
            body: body.to_owned(),
            head_only: false,
        }
    }

    fn head(&self) -> String {
        let Self {
            status, kind, body, ..
        } = self;
        let allow = if status.starts_with("405") {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
            body.len()
        )
    }
}

/// The answer to `head`; `None` if more of it has to come.
fn respond(head: &[u8], shared: &Shared) -> Option<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => return None,
        Ok(httparse::Status::Partial) => {
            return Some(Answer::plain(
                "431 Request Header Fields Too Large",
                "too long\n",
            ));
        }
        Err(_) => return Some(Answer::plain("400 Bad Request", "bad request\n")),
    }
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => {
            return Some(Answer::plain(
                "405 Method Not Allowed",
                "only GET and HEAD\n",
            ));
        }
    };
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let mut answer = match path {
        "/metrics" => metrics(shared),
        "/health" | "/health/ready" => health(shared.health()),
        "/health/live" => Answer {
            kind: JSON,
            ..Answer::plain("200 OK", "{\"live\":true}\n")
        },
        _ => Answer::plain("404 Not Found", "there are /metrics and /health\n"),
    };
    answer.head_only = head_only;
    Some(answer)
}

fn metrics(shared: &Shared) -> Answer {
    match shared.metrics.text(&*shared.store) {
        Ok(body) => Answer {
            status: "200 OK",
            kind: OPEN_METRICS,
            body,
            head_only: false,
        },
        Err(_) => Answer::plain("500 Internal Server Error", "cannot be written\n"),
    }
}

fn health(health: Health) -> Answer {
    let (status, body) = match health {
        Health::Ready => ("200 OK", "{\"live\":true,\"ready\":true}\n"),
        Health::Stopping => (
            "503 Service Unavailable",
            "{\"live\":true,\"ready\":false,\"reason\":\"stopping\"}\n",
        ),
        Health::StoreFailed => (
            "503 Service Unavailable",
            "{\"live\":true,\"ready\":false,\"reason\":\"the store cannot write\"}\n",
        ),
    };
    Answer {
        kind: JSON,
        ..Answer::plain(status, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_relay_that_serves_is_ready() {
        for (state, status, ready) in [
            (Health::Ready, "200 OK", true),
            (Health::Stopping, "503 Service Unavailable", false),
            (Health::StoreFailed, "503 Service Unavailable", false),
        ] {
            let answer = health(state);
            assert_eq!(answer.status, status);
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(
                (&body["live"], &body["ready"]),
                (&true.into(), &ready.into())
            );
            assert!(
                answer
                    .head()
                    .contains(&format!("Content-Length: {}\r\n", answer.body.len()))
            );
        }
    }
}
