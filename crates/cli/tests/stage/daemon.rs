//! Daemons of profiles, and clients of theirs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Process, Stage};

/// Whatever takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// A client of a daemon. Its calls are numbered; what comes in between is kept.
pub(crate) struct Client {
    pub(crate) from: BufReader<UnixStream>,
    pub(crate) to: UnixStream,
    last: i64,
    pub(crate) told: Vec<Value>,
}

impl Client {
    pub(crate) fn of(stage: &Stage, profile: &str) -> Self {
        let to = UnixStream::connect(stage.path(profile).join("daemon/socket")).unwrap();
        to.set_read_timeout(Some(DEADLINE)).unwrap();
        to.set_write_timeout(Some(DEADLINE)).unwrap();
        Self {
            from: BufReader::new(to.try_clone().unwrap()),
            to,
            last: 0,
            told: Vec::new(),
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.to.write_all(line.as_bytes()).unwrap();
        self.to.write_all(b"\n").unwrap();
    }

    /// The next line; nothing at the end.
    pub(crate) fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    pub(crate) fn begin(&mut self, method: &str, params: &Value) -> i64 {
        self.last += 1;
        let call = json!({ "jsonrpc": "2.0", "id": self.last, "method": method, "params": params });
        self.say(&call.to_string());
        self.last
    }

    pub(crate) fn answer(&mut self, id: i64) -> Value {
        loop {
            let line = self.line().expect("an answer");
            if line["id"] == id {
                return line;
            }
            self.told.push(line);
        }
    }

    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Value {
        let id = self.begin(method, params);
        let answer = self.answer(id);
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, method: &str, params: &Value) -> Value {
        let id = self.begin(method, params);
        let answer = self.answer(id);
        assert!(!answer["error"].is_null(), "{method}: {answer}");
        answer["error"].clone()
    }

    /// The next notification of this kind; others are dropped.
    pub(crate) fn next(&mut self, method: &str) -> Value {
        loop {
            let line = if self.told.is_empty() {
                self.line().expect("a notification")
            } else {
                self.told.remove(0)
            };
            if line["method"] == method {
                return line["params"].clone();
            }
        }
    }

    /// Asks until the answer is as it should be.
    pub(crate) fn wait_until(
        &mut self,
        method: &str,
        params: &Value,
        is_so: impl Fn(&Value) -> bool,
    ) {
        let begun = std::time::Instant::now();
        while !is_so(&self.call(method, params)) {
            assert!(begun.elapsed() < DEADLINE, "{method} says something else");
        }
    }

    pub(crate) fn subscribe_to(&mut self, contact: &str) {
        self.call("subscribe", &json!({ "contact": contact }));
    }

    pub(crate) fn ack(&mut self, message: &Value) {
        let params = json!({ "contact": message["contact"], "message": message["message"] });
        self.call("ack", &params);
    }
}

/// Starts a profile's daemon, and waits until it listens.
pub(crate) fn daemon(stage: &Stage, profile: &str) -> Process {
    let mut daemon = stage.start(profile, &["daemon"]);
    let line = daemon.line();
    assert!(
        line["socket"].as_str().unwrap().ends_with("daemon/socket"),
        "{line}"
    );
    daemon
}
