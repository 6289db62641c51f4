//! Many runs, one for each seed.

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    dice::Seed,
    verdict::{Run, Tally, Violation},
};

/// Seeds of a campaign when the environment does not say.
const SEEDS_DEFAULT: u64 = 50;

/// Which seeds to run: `JUNTO_SIM_SEED=n` that one, `JUNTO_SIM_SEEDS=n` the first n, otherwise the
/// first [`SEEDS_DEFAULT`] divided by `share`. Campaigns of expensive runs take a smaller share.
fn seeds(share: u64) -> (u64, u64) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("JUNTO_SIM_SEED") {
        return (seed, seed + 1);
    }
    let all = number("JUNTO_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT);
    (0, all.div_ceil(share))
}

/// Runs `run` for the seeds of the environment, on all processors. `run` gets the seed and whether
/// to keep the lines of its trace.
///
/// # Panics
/// With the seed, the violation and the last events, if a run violates an invariant or panics.
pub fn campaign(name: &str, share: u64, run: impl Fn(Seed, bool) -> Run + Sync) -> Tally {
    let (first, end) = seeds(share);
    let next = AtomicU64::new(first);
    let failed: Mutex<Option<(Seed, Violation)>> = Mutex::new(None);
    let total = Mutex::new(Tally::default());
    let worker = || {
        loop {
            let seed = Seed(next.fetch_add(1, Ordering::Relaxed));
            if seed.0 >= end {
                return;
            }
            match guarded(&run, seed, false) {
                Ok(tally) => total
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(&tally),
                Err(violation) => {
                    next.store(end, Ordering::Relaxed);
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    if failed.as_ref().is_none_or(|(other, _)| seed < *other) {
                        *failed = Some((seed, violation));
                    }
                    return;
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(worker);
        }
    });
    if let Some((seed, violation)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        panic!("{}", report(name, seed, &violation, &run));
    }
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn guarded(run: &impl Fn(Seed, bool) -> Run, seed: Seed, keep: bool) -> Result<Tally, Violation> {
    match catch_unwind(AssertUnwindSafe(|| run(seed, keep))) {
        Ok(run) => run.result.map(|()| run.tally),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            Err(Violation::new("nothing_panics", text))
        }
    }
}

/// Runs the seed again, this time with its trace.
fn report(
    name: &str,
    seed: Seed,
    violation: &Violation,
    run: &impl Fn(Seed, bool) -> Run,
) -> String {
    let mut text = String::new();
    if let Ok(again) = catch_unwind(AssertUnwindSafe(|| run(seed, true))) {
        for line in &again.lines {
            let _ = writeln!(text, "{line}");
        }
        if again.result.as_ref() != Err(violation) {
            let _ = writeln!(text, "NOT DETERMINISTIC: this time {:?}", again.result);
        }
    }
    let _ = write!(
        text,
        "{name}: seed {seed} violates {violation}\nreplay: JUNTO_SIM_SEED={seed} cargo test -p junto-sim {name}"
    );
    text
}
