//! What Python awaits, counted: a thread of ours that still has something to say to an interpreter which takes itself down is
//! ended by it in the middle, and the process with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;
use pyo3_async_runtimes::tokio::future_into_py as into_py;

/// How long the interpreter's end waits for calls that were given up, at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after its end a call's answer may take to come to Python.
const ANSWERED: Duration = Duration::from_millis(250);

/// Whether threads of ours run, and whether this is a process forked off one where they did: it has none.
static IN_USE: AtomicBool = AtomicBool::new(false);
static ORPHAN: AtomicBool = AtomicBool::new(false);

struct Calls {
    under_way: usize,
    ended: Option<Instant>,
}

static CALLS: Mutex<Calls> = Mutex::new(Calls {
    under_way: 0,
    ended: None,
});

fn calls<T>(act: impl FnOnce(&mut Calls) -> T) -> T {
    act(&mut CALLS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A call that has not ended, or been given up.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        calls(|calls| calls.under_way += 1);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        calls(|calls| {
            calls.under_way -= 1;
            calls.ended = Some(Instant::now());
        });
    }
}

/// An awaitable of Python's for `future`, which is dropped when that is cancelled.
///
/// # Errors
/// If no event loop runs.
pub(crate) fn future_into_py<'py, T>(
    py: Python<'py>,
    future: impl Future<Output = PyResult<T>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>>
where
    T: for<'any> IntoPyObject<'any> + Send + 'static,
{
    if ORPHAN.load(Ordering::Relaxed) {
        return Err(orphaned(py));
    }
    IN_USE.store(true, Ordering::Relaxed);
    let under_way = UnderWay::begin();
    into_py(py, async move {
        let _under_way = under_way;
        future.await
    })
}

fn orphaned(py: Python<'_>) -> PyErr {
    let message = "this process was forked off one that has used junto: nothing of it works here (start it with `spawn` or `forkserver`)";
    let made = py
        .import("junto.errors")
        .and_then(|errors| errors.getattr("UsageError")?.call1((message,)));
    made.map_or_else(|_| PyRuntimeError::new_err(message), PyErr::from_value)
}

/// Python calls this in a process that was forked off.
#[pyfunction]
fn forked() {
    ORPHAN.fetch_or(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Waits until nothing of ours has anything more to say to Python. It calls this before it takes itself down.
#[pyfunction]
fn settle(py: Python<'_>) {
    if ORPHAN.load(Ordering::Relaxed) {
        return;
    }
    py.detach(|| {
        let begun = Instant::now();
        let is_quiet = || {
            calls(|calls| {
                let answered = calls.ended.is_none_or(|ended| ended.elapsed() > ANSWERED);
                calls.under_way == 0 && answered
            })
        };
        while !is_quiet() && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(5));
        }
    });
}

/// Has Python call [`settle`] at its end, and [`forked`] where it forks.
///
/// # Errors
/// If Python cannot be told so.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let settle = wrap_pyfunction!(settle, module)?;
    let atexit = module.py().import("atexit")?;
    atexit.call_method1("register", (settle,))?;
    let os = module.py().import("os")?;
    // Windows has no `fork`.
    if os.hasattr("register_at_fork")? {
        let after = [("after_in_child", wrap_pyfunction!(forked, module)?)];
        os.call_method(
            "register_at_fork",
            (),
            Some(&after.into_py_dict(module.py())?),
        )?;
    }
    Ok(())
}
