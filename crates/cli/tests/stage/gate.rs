//! A gate before one realm: clients go through it, and it ends for them at an exact question, before it or before its answer.
//!
//! It counts TLS records, which is all that it sees: a question begins with the four bytes of its length in a record of their own.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The record with the length of a question: four bytes, their type, a tag of 16.
const BEGINS: usize = 4 + 1 + 16;

/// Which question is the last one: the first is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The realm never gets this question.
    Question(usize),
    /// It does, and does what it asks, and nobody hears of it.
    Answer(usize),
}

#[derive(Default)]
struct State {
    /// Questions about records so far. The hello of each connection does not count.
    asked: usize,
    cut: Option<Cut>,
    /// The question whose answer is lost is on its way.
    is_last: bool,
    is_shut: bool,
}

pub(crate) struct Gate {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

impl Gate {
    /// Leads to `to`.
    pub(crate) fn new(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<Mutex<State>>::default();
        let (inner, to) = (state.clone(), to.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if inner.lock().unwrap().is_shut {
                    continue;
                }
                let Ok(realm) = TcpStream::connect(&to) else {
                    continue;
                };
                let ends = || (client.try_clone().unwrap(), realm.try_clone().unwrap());
                let (there, back) = (ends(), ends());
                let (one, other) = (inner.clone(), inner.clone());
                std::thread::spawn(move || questions(there, &one));
                std::thread::spawn(move || answers(back, &other));
            }
        });
        Self { address, state }
    }

    /// From now on counts anew, and shuts there.
    pub(crate) fn cut(&self, cut: Cut) {
        *self.state.lock().unwrap() = State {
            cut: Some(cut),
            ..State::default()
        };
    }

    /// Whether it shuts, or has.
    pub(crate) fn is_cut(&self) -> bool {
        self.state.lock().unwrap().cut.is_some()
    }

    /// Lets everything through; gives whether it had been shut.
    pub(crate) fn open(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let was_shut = state.is_shut;
        *state = State::default();
        was_shut
    }
}

fn shut(streams: &(TcpStream, TcpStream)) {
    let _ = streams.0.shutdown(Shutdown::Both);
    let _ = streams.1.shutdown(Shutdown::Both);
}

/// From the client to the realm, one TLS record after the other.
fn questions(mut streams: (TcpStream, TcpStream), state: &Mutex<State>) {
    let mut seen = 0;
    loop {
        let mut record = vec![0; 5];
        if streams.0.read_exact(&mut record).is_err() {
            break;
        }
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        let is_data = record[0] == 23;
        record.resize(5 + length, 0);
        if streams.0.read_exact(&mut record[5..]).is_err() {
            break;
        }
        if is_data && length == BEGINS {
            seen += 1;
            // The first is the hello.
            if seen > 1 {
                let mut state = state.lock().unwrap();
                match state.cut {
                    Some(Cut::Question(at)) if state.asked == at => {
                        state.is_shut = true;
                        break;
                    }
                    Some(Cut::Answer(at)) if state.asked == at => state.is_last = true,
                    _ => {}
                }
                state.asked += 1;
            }
        }
        if state.lock().unwrap().is_shut || streams.1.write_all(&record).is_err() {
            break;
        }
    }
    shut(&streams);
}

/// From the realm to the client. An answer is there when what it is for has been done.
fn answers(mut streams: (TcpStream, TcpStream), state: &Mutex<State>) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(read @ 1..) = streams.1.read(&mut bytes) {
        {
            let mut state = state.lock().unwrap();
            state.is_shut |= state.is_last;
            if state.is_shut {
                break;
            }
        }
        if streams.0.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    shut(&streams);
}
