//! The log on stderr: off but for errors unless asked for, and changed while a relay runs.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

/// Changes the filter of the running log.
type Change = Box<dyn Fn(&str) + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// Begins to log. `verbose` is how often `-v` was given; `JUNTO_LOG` takes a filter for finer choice.
pub(crate) fn start(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let asked = EnvFilter::try_from_env("JUNTO_LOG").ok();
    let chosen = asked.is_some() || verbose > 0;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(asked.unwrap_or_else(|| EnvFilter::new(level)))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.init();
    if !chosen {
        let change = move |level: &str| {
            // Fails only when nothing is logged any more.
            let _ = handle.reload(EnvFilter::new(level));
        };
        let _ = CHANGE.set(Box::new(change));
    }
}

/// Takes the level of a settings file, unless the command line or the environment chose one.
pub(crate) fn level(level: &str) {
    if let Some(change) = CHANGE.get() {
        change(level);
    }
}
