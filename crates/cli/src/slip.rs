//! A slip of the command line: what was meant, for people, and as JSON for programs that ask for it.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Error, Parser};

use crate::args::Cli;
use crate::failure::{Exit, Failure};
use crate::output::print_failure;

/// The command line; or the exit code, once it has been told what is wrong with it or what was asked of it.
pub(crate) fn read() -> Result<Cli, ExitCode> {
    let words: Vec<OsString> = std::env::args_os().collect();
    Cli::try_parse_from(&words).map_err(|mut error| {
        if !error.use_stderr() {
            // Help, or the version.
            error.exit();
        }
        hint(&mut error, &words);
        let _ = error.print();
        if before_program(&words).any(|word| word == "--json") {
            print_failure(&failure(&error));
        }
        ExitCode::from(Exit::Usage as u8)
    })
}

/// The words that are for us.
fn before_program(words: &[OsString]) -> impl Iterator<Item = &OsString> {
    words.iter().skip(1).take_while(|word| *word != "--")
}

/// Adds what clap does not guess.
fn hint(error: &mut Error, words: &[OsString]) {
    let text = |error: &Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand if error.get(ContextKind::SuggestedSubcommand).is_none() => {
            let word = text(error, ContextKind::InvalidSubcommand);
            if let Some(meant) = meant(&word, words) {
                error.insert(
                    ContextKind::SuggestedSubcommand,
                    ContextValue::Strings(vec![meant]),
                );
            }
        }
        ErrorKind::UnknownArgument => {
            let word = text(error, ContextKind::InvalidArg);
            let runs = before_program(words).any(|word| word == "run");
            if runs && !word.starts_with('-') && !words.iter().any(|word| word == "--") {
                let tip = format!("the program comes after two dashes: -- {word} …");
                error.insert(
                    ContextKind::Suggested,
                    ContextValue::StyledStrs(vec![StyledStr::from(tip)]),
                );
            }
        }
        _ => {}
    }
}

/// The command whose name is nearly that word, among those that could stand in its place.
fn meant(word: &str, words: &[OsString]) -> Option<String> {
    let mut command = &Cli::command();
    for name in before_program(words).take_while(|other| *other != word) {
        command = command.find_subcommand(name).unwrap_or(command);
    }
    let names = command.get_subcommands().flat_map(names);
    let far = |name: &&str| distance(word, name);
    let nearest = names.min_by_key(far)?;
    let is_near = far(&nearest) <= word.chars().count().div_ceil(4);
    is_near.then(|| nearest.to_owned())
}

fn names(command: &Command) -> impl Iterator<Item = &str> {
    std::iter::once(command.get_name()).chain(command.get_visible_aliases())
}

/// How many slips lead from one word to the other: a letter too many, too few, or another one, or two that are exchanged.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (at, letter) in from.iter().enumerate() {
        let above = &rows[at];
        let mut row = vec![at + 1];
        for (place, other) in to.iter().enumerate() {
            let changed = above[place] + usize::from(letter != other);
            let mut best = changed.min(above[place + 1] + 1).min(row[place] + 1);
            let exchanged =
                at > 0 && place > 0 && from[at - 1] == *other && to[place - 1] == *letter;
            if exchanged {
                best = best.min(rows[at - 1][place - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

/// The same for programs: the first paragraph is what is wrong, the others say what to do.
fn failure(error: &Error) -> Failure {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage("the command is not complete")
            .help("`--help` behind it lists what can follow");
    }
    let text = error.render().to_string();
    let (what, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let lines = rest.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("For more"));
    let help = lines.collect::<Vec<_>>().join("; ");
    Failure::usage(what.trim_start_matches("error: ").trim_end()).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_command_that_is_nearly_one_is_told() {
        for (line, word, name) in [
            ("junto rnu", "rnu", Some("run")),
            ("junto --json sesion", "sesion", Some("session")),
            ("junto session shwo", "shwo", Some("show")),
            ("junto relay strat", "strat", Some("start")),
            ("junto frobnicate", "frobnicate", None),
            ("junto x", "x", None),
        ] {
            assert_eq!(meant(word, &words(line)).as_deref(), name, "{line}");
        }
    }

    #[test]
    fn slips_are_counted() {
        for (from, to, count) in [
            ("", "", 0),
            ("run", "run", 0),
            ("rnu", "run", 1),
            ("ru", "run", 1),
            ("runs", "run", 1),
            ("ran", "run", 1),
            ("", "run", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), count, "{from} {to}");
            assert_eq!(distance(to, from), count, "{to} {from}");
        }
    }
}
