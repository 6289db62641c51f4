//! A profile with one session and one run in it, as Python sees them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use junto_cli::{Embedded, Exit, Failure, NewSession};
use junto_session::proto::limits::MESSAGE_BYTES_MAX;
use junto_session::{Entry, Kind, LocalId, PartyIndex, Session};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::awaited::future_into_py;
use crate::life::OVERDUE;
use crate::mail::{Run, Taken, closed, decline, usage};
use crate::outbox::emptied;

/// How long the profile may still be in use by calls that were cancelled this moment.
const CANCELLED: Duration = Duration::from_secs(5);

/// Any number of seconds means at most this many: clocks have an end.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A session as Python is told of it: our number, names of all by number, safety code, whether it was compared, name, identifier.
type Facts = (usize, Vec<String>, String, bool, String, String);

#[derive(Default)]
struct State {
    desk: Option<Arc<Embedded>>,
    local: Option<LocalId>,
    session: Option<Session>,
    beginning: Option<Beginning>,
    run: Option<Arc<Run>>,
    /// Why what begins is not to begin any more.
    aborted: Option<String>,
}

/// The run that begins here, or has begun. It does so whoever waits for it: one that has begun, and that nobody knows of, would be
/// an abandoned one.
#[derive(Clone)]
struct Beginning {
    name: String,
    outcome: watch::Receiver<Option<Result<(), Failure>>>,
}

impl Beginning {
    fn new(
        desk: Arc<Embedded>,
        session: Session,
        state: &Arc<Mutex<State>>,
        (name, silence): (&str, Duration),
    ) -> Self {
        let (told, outcome) = watch::channel(None);
        let (state, of) = (Arc::clone(state), name.to_owned());
        tokio::spawn(async move {
            let begun = Run::begin(&desk, &session, &of, silence).await;
            drop((desk, session));
            let result = keep(&state, begun).await;
            told.send_replace(Some(result));
        });
        let name = name.to_owned();
        Self { name, outcome }
    }

    async fn ended(mut self) -> Result<(), Failure> {
        let outcome = self.outcome.wait_for(Option::is_some).await;
        let outcome = outcome.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(closed()))
    }
}

/// Puts a run that has begun where its program finds it, unless that has ended meanwhile.
async fn keep(state: &Mutex<State>, begun: Result<Run, Failure>) -> Result<(), Failure> {
    let (homeless, why) = {
        let mut state = lock(state);
        match begun {
            Ok(run) if state.desk.is_some() => {
                state.run = Some(Arc::new(run));
                return Ok(());
            }
            Ok(run) => (run, state.aborted.take()),
            Err(failure) => {
                // It may be tried again.
                state.beginning = None;
                return Err(failure);
            }
        }
    };
    let why = why.as_deref().unwrap_or("its program has ended");
    homeless.abort(why).await;
    Err(closed())
}

/// A profile with one session and one run in it. What returns an awaitable may be cancelled.
#[pyclass(frozen, module = "junto._native")]
pub(crate) struct Core {
    state: Arc<Mutex<State>>,
    /// Whether all that waits is to let go of the profile.
    ended: watch::Sender<bool>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn desk(state: &Mutex<State>) -> Result<Arc<Embedded>, Failure> {
    let desk = lock(state).desk.clone();
    desk.ok_or_else(closed)
}

fn begun<T>(
    state: &Mutex<State>,
    of: impl FnOnce(&Run) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let state = lock(state);
    if state.desk.is_none() {
        return Err(closed());
    }
    let run = state.run.as_ref();
    of(run.ok_or_else(|| usage("no run is under way: `await session.begin()` first"))?)
}

/// The exception for a failure: `junto.errors` knows which.
fn raised(failure: Failure) -> PyErr {
    Python::attach(|py| {
        let parties: Vec<usize> = failure.party.as_deref().map_or_else(Vec::new, |party| {
            let numbers = party.split(", ");
            numbers.filter_map(|number| number.parse().ok()).collect()
        });
        // What to do when somebody is not there is told to people with a command line.
        let help = failure.help.filter(|_| failure.exit != Exit::Unreachable);
        let arguments = (failure.exit as u8, &failure.message, help, parties);
        let made = py
            .import("junto.errors")
            .and_then(|errors| errors.getattr("of_failure")?.call1(arguments));
        match made {
            Ok(error) => PyErr::from_value(error),
            Err(_) => PyException::new_err(failure.message),
        }
    })
}

fn party(number: Option<usize>) -> Result<Option<PartyIndex>, Failure> {
    let index = |number| PartyIndex::new(number).ok_or_else(|| usage("there is no such party"));
    number.map(index).transpose()
}

fn late() -> Failure {
    Failure {
        exit: Exit::Unreachable,
        ..usage("the relays did not take all of it in time")
    }
}

fn kind(broadcast: bool) -> Kind {
    if broadcast {
        Kind::Broadcast
    } else {
        Kind::P2p
    }
}

fn seconds(seconds: f64) -> Result<Duration, Failure> {
    // Whatever is longer, infinity among it.
    let seconds = if seconds > 0.0 {
        seconds.min(LONGEST.as_secs_f64())
    } else {
        seconds
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| usage("that is no number of seconds"))
}

impl Core {
    /// An awaitable for something that needs the profile, and ends with its use.
    fn call<'py, T, F>(
        &self,
        py: Python<'py>,
        act: impl FnOnce(Arc<Embedded>, Arc<Mutex<State>>) -> F + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        T: for<'any> IntoPyObject<'any> + Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let desk = desk(&self.state).map_err(raised)?;
        let state = Arc::clone(&self.state);
        let mut ended = self.ended.subscribe();
        future_into_py(py, async move {
            let result = tokio::select! {
                result = act(desk, state) => result,
                _ = ended.wait_for(|ended| *ended) => Err(closed()),
            };
            result.map_err(raised)
        })
    }
}

#[pymethods]
impl Core {
    /// Opens a profile.
    #[staticmethod]
    fn open(
        py: Python<'_>,
        profile: Option<PathBuf>,
        passphrase_file: Option<PathBuf>,
    ) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            let desk = Embedded::open(profile, passphrase_file).await;
            let state = State {
                desk: Some(Arc::new(desk.map_err(raised)?)),
                ..State::default()
            };
            Ok(Self {
                state: Arc::new(Mutex::new(state)),
                ended: watch::channel(false).0,
            })
        })
    }

    /// Opens a session and gives its link.
    fn host<'py>(
        &self,
        py: Python<'py>,
        session: (u16, Option<String>, Option<String>),
        relay: Option<String>,
        nickname: String,
        timeout: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (parties, name, policy) = session;
        let new = NewSession {
            parties,
            name,
            policy,
            patience: seconds(timeout).map_err(raised)?,
        };
        self.call(py, |desk, state| async move {
            let (local, link) = desk.new_session(new, relay, nickname).await?;
            lock(&state).local = Some(local);
            Ok(link)
        })
    }

    /// Joins a session by its link.
    fn join<'py>(
        &self,
        py: Python<'py>,
        link: String,
        relay: Option<String>,
        nickname: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.call(py, |desk, state| async move {
            let joined = desk.join(&link, relay, nickname).await?;
            lock(&state).local = Some(joined);
            Ok(())
        })
    }

    /// Takes up a session of the profile.
    fn find<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        self.call(py, |desk, state| async move {
            let found = desk.find(&name).await?;
            lock(&state).local = Some(found);
            Ok(())
        })
    }

    /// Waits until the session has formed.
    fn formed<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
        let patience = seconds(timeout).map_err(raised)?;
        self.call(py, move |desk, state| async move {
            let local = lock(&state).local;
            let local = local.ok_or_else(|| usage("there is no session yet"))?;
            let (session, summary) = desk.formed(local, patience).await?;
            let name = |(_, entry): (PartyIndex, &Entry)| entry.name.as_str().to_owned();
            let facts: Facts = (
                session.me().as_usize(),
                session.roster().iter().map(name).collect(),
                session.safety_code().to_string(),
                summary.verified,
                session.name().to_owned(),
                session.id().to_string(),
            );
            let mut state = lock(&state);
            if state.desk.is_some() {
                state.session = Some(session);
            }
            Ok(facts)
        })
    }

    /// Begins the run of that name, or waits until it has begun. Whoever was there and is silent for longer than `silence` ends it.
    #[pyo3(signature = (name, silence = 300.0))]
    fn begin<'py>(
        &self,
        py: Python<'py>,
        name: String,
        silence: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let silence = seconds(silence).map_err(raised)?.max(OVERDUE);
        self.call(py, move |desk, state| async move {
            let beginning = {
                let mut of = lock(&state);
                match (&of.beginning, &of.session) {
                    (Some(beginning), _) if beginning.name == name => beginning.clone(),
                    (Some(_), _) => return Err(usage("another run has begun in this session")),
                    (None, None) => return Err(usage("the session has not formed")),
                    (None, Some(session)) => {
                        let beginning =
                            Beginning::new(desk, session.clone(), &state, (&name, silence));
                        of.beginning = Some(beginning.clone());
                        beginning
                    }
                }
            };
            beginning.ended().await
        })
    }

    /// Waits until `put` takes something for that party or, without a number, for all.
    fn room<'py>(&self, py: Python<'py>, to: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
        let to = party(to).map_err(raised)?;
        let outbox = begun(&self.state, |run| {
            let outbox = run.outbox(to).cloned();
            outbox.ok_or_else(|| usage("that is no other party of this session"))
        });
        let outbox = outbox.map_err(raised)?;
        future_into_py(py, async move {
            outbox.has_room().await;
            Ok(())
        })
    }

    /// Takes a message over, unless there is no room.
    fn put(&self, to: Option<usize>, payload: &Bound<'_, PyBytes>) -> PyResult<bool> {
        let to = party(to).map_err(raised)?;
        let payload = payload.as_bytes();
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(raised(usage("the message is longer than 16 MiB")));
        }
        let payload = Bytes::copy_from_slice(payload);
        let put = begun(&self.state, |run| {
            let outbox = run.outbox(to);
            let outbox = outbox.ok_or_else(|| usage("that is no other party of this session"))?;
            outbox.put(payload)
        });
        put.map_err(raised)
    }

    /// Waits until `take` gives something of that party or, without a number, of any.
    fn arrival<'py>(
        &self,
        py: Python<'py>,
        sender: Option<usize>,
        broadcast: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let from = party(sender).map_err(raised)?;
        let table = begun(&self.state, |run| Ok(Arc::clone(&run.table))).map_err(raised)?;
        future_into_py(py, async move {
            table.arrival(from, kind(broadcast)).await;
            Ok(())
        })
    }

    /// The oldest message of that party, or of any; none if there is none.
    fn take<'py>(
        &self,
        py: Python<'py>,
        sender: Option<usize>,
        broadcast: bool,
    ) -> PyResult<Option<(usize, Bound<'py, PyBytes>)>> {
        let from = party(sender).map_err(raised)?;
        let taken = begun(&self.state, |run| {
            if from.is_some() && run.outbox(from).is_none() {
                return Err(usage("that is no other party of this session"));
            }
            run.table.take(from, kind(broadcast))
        });
        Ok(match taken.map_err(raised)? {
            Taken::Message(party, payload) => Some((party.as_usize(), PyBytes::new(py, &payload))),
            Taken::Nothing => None,
        })
    }

    /// Waits until the relays have what was put.
    fn flush<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let patience = timeout.map_or(Ok(LONGEST), seconds).map_err(raised)?;
        let (outboxes, table) = begun(&self.state, |run| {
            Ok((run.all_outboxes(), Arc::clone(&run.table)))
        })
        .map_err(raised)?;
        self.call(py, move |desk, _| async move {
            let given = async {
                emptied(outboxes).await?;
                loop {
                    match desk.settle().await {
                        // It comes back some time; but the run may end.
                        Err(failure) if failure.exit == Exit::Unreachable => {
                            table.failure().map_or(Ok(()), Err)?;
                        }
                        settled => return settled,
                    }
                }
            };
            let given = timeout_at(Instant::now() + patience, given).await;
            given.unwrap_or_else(|_| Err(late()))
        })
    }

    /// Ends the run together with all others, if it has begun.
    fn finish<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
        let patience = seconds(timeout).map_err(raised)?;
        self.call(py, move |desk, state| async move {
            let run = lock(&state).run.clone();
            match run {
                Some(run) => run.finish(&desk, patience).await,
                None => Ok(()),
            }
        })
    }

    /// Ends the run as a failure, and tells the others; also one of that name that was about to begin.
    fn abort<'py>(
        &self,
        py: Python<'py>,
        reason: String,
        name: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let state = Arc::clone(&self.state);
        future_into_py(py, async move {
            let beginning = lock(&state).beginning.clone();
            if let Some(beginning) = beginning {
                lock(&state).aborted = Some(reason.clone());
                let _ = timeout(CANCELLED, beginning.ended()).await;
            }
            let (run, session) = {
                let state = lock(&state);
                (state.run.clone(), state.session.clone())
            };
            match (run, session, name) {
                (Some(run), _, _) => run.abort(&reason).await,
                (None, Some(session), Some(name)) => decline(&session, &name, &reason).await,
                (None, _, _) => {}
            }
            Ok(())
        })
    }

    /// Lets go of the profile.
    fn end<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let State { desk, run, .. } = {
            let mut state = lock(&self.state);
            // What begins still ends with that word.
            let left = State {
                aborted: state.aborted.clone(),
                ..State::default()
            };
            std::mem::replace(&mut *state, left)
        };
        self.ended.send_replace(true);
        future_into_py(py, async move {
            let Some(mut desk) = desk else {
                return Ok(());
            };
            if let Some(run) = run {
                run.abandon().await;
            }
            let deadline = Instant::now() + CANCELLED;
            loop {
                match Arc::try_unwrap(desk) {
                    Ok(desk) => {
                        desk.end().await;
                        return Ok(());
                    }
                    // A call that was cancelled this moment: whoever lets go last closes the profile.
                    Err(_) if Instant::now() > deadline => return Ok(()),
                    Err(shared) => desk = shared,
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    /// What was lost or altered on its way since the last call.
    fn warnings(&self) -> Vec<String> {
        desk(&self.state).map_or_else(|_| Vec::new(), |desk| desk.warnings())
    }
}
