//! Results go to stdout, everything else to stderr.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// How results and messages are shown: for people or, with `--json`, for programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Output {
    /// One result: a JSON object on its own line for programs, `text` for people.
    pub(crate) fn result(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let line = if self.json {
            serde_json::to_string(value)
                .map_err(|error| Failure::failed(format_args!("cannot write JSON: {error}")))?
        } else {
            text()
        };
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            // The reader of a pipe went away: that is its choice, not our failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::failed(format_args!(
                "cannot write to stdout: {error}"
            ))),
            Ok(()) => Ok(()),
        }
    }

    /// A message for the person who watches.
    pub(crate) fn say(&self, message: impl std::fmt::Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{message}");
        }
    }

    /// Shows that something long is under way: a spinner on a terminal, one line elsewhere.
    pub(crate) fn progress(&self, message: impl Into<String>) -> Progress {
        let message = message.into();
        if self.quiet {
            return Progress {
                bar: None,
                output: *self,
            };
        }
        if !io::stderr().is_terminal() {
            self.say(&message);
            return Progress {
                bar: None,
                output: *self,
            };
        }
        let bar = ProgressBar::new_spinner().with_message(message);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress {
            bar: Some(bar),
            output: *self,
        }
    }

    /// Reports a failure and gives the exit code that goes with it.
    pub(crate) fn failure(&self, failure: &Failure) -> Exit {
        let mut stderr = io::stderr().lock();
        let _ = writeln!(stderr, "error: {}", failure.message);
        if let Some(help) = &failure.help {
            let _ = writeln!(stderr, "help: {help}");
        }
        if self.json {
            print_failure(failure);
        }
        failure.exit
    }
}

/// A failure, for programs.
pub(crate) fn print_failure(failure: &Failure) {
    let value = serde_json::json!({ "error": {
        "exit_code": failure.exit as u8,
        "message": failure.message,
        "help": failure.help,
        "party": failure.party,
    }});
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{value}").and_then(|()| stdout.flush());
}

/// A long step; ends when dropped or finished.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    output: Output,
}

impl Progress {
    /// What is happening now.
    pub(crate) fn step(&self, message: impl Into<String>) {
        match &self.bar {
            Some(bar) => bar.set_message(message.into()),
            None => self.output.say(message.into()),
        }
    }

    /// Clears the spinner.
    pub(crate) fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The QR code of a link, for a terminal with a dark background, or why it is not shown; `None` if the text is too long for one.
pub(crate) fn qr_code(text: &str) -> Option<String> {
    let columns = console::Term::stderr().size_checked();
    qr_code_in(text, columns.map(|(_, columns)| usize::from(columns)))
}

/// The same in so many columns: one that is broken into lines is of no use, and hides the link.
fn qr_code_in(text: &str, columns: Option<usize>) -> Option<String> {
    use qrcode::render::unicode::Dense1x2;
    let code = qrcode::QrCode::with_error_correction_level(text, qrcode::EcLevel::L).ok()?;
    let drawn = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    let width = drawn.lines().map(|line| line.chars().count()).max()?;
    if columns.is_some_and(|columns| columns < width) {
        return Some(format!(
            "(A terminal of {width} columns shows a QR code here.)"
        ));
    }
    Some(drawn)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_qr_code_is_shown_where_it_fits() {
        let link = "junto:session/1/".repeat(20);
        let drawn = qr_code_in(&link, None).unwrap();
        let width = drawn.lines().next().unwrap().chars().count();
        assert!(width > 60);
        assert_eq!(qr_code_in(&link, Some(width)).unwrap(), drawn);
        let narrow = qr_code_in(&link, Some(width - 1)).unwrap();
        assert!(narrow.contains(&width.to_string()) && narrow.lines().count() == 1);
    }
}
