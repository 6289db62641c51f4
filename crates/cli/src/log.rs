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
        .with_env_filter(asked.unwrap_or_else(|| filter(level)))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.init();
    if !chosen {
        let change = move |level: &str| {
            // Fails only when nothing is logged any more.
            let _ = handle.reload(filter(level));
        };
        let _ = CHANGE.set(Box::new(change));
    }
}

/// All of a level, but what the library of QUIC says: it names addresses. `JUNTO_LOG` can ask for that.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::new(format!("{level},noq=off,noq_proto=off,noq_udp=off"))
}

/// Takes the level of a settings file, unless the command line or the environment chose one.
pub(crate) fn level(level: &str) {
    if let Some(change) = CHANGE.get() {
        change(level);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_level_lets_the_library_of_quic_name_addresses() {
        for level in ["debug", "trace"] {
            let page = Page::default();
            let writer = page.clone();
            let log = tracing_subscriber::fmt()
                .with_env_filter(filter(level))
                .with_writer(move || writer.clone())
                .finish();
            tracing::subscriber::with_default(log, || {
                tracing::error!(target: "noq_proto::endpoint", "192.0.2.1");
                tracing::error!(target: "noq::connection", "192.0.2.1");
                tracing::debug!(target: "junto_relay", "ours");
            });
            let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
            assert!(
                text.contains("ours") && !text.contains("192.0.2.1"),
                "{text}"
            );
        }
    }
}
