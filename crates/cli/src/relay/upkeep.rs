//! What an operator does to a relay's folder while the relay runs or rests.

use std::path::Path;

use junto_relay::backup::{self, BackupError};
use junto_relay::config::Problem;
use junto_relay::simplex::{MoveError, Reference, move_reference, undelivered};
use junto_relay::{FolderError, check, rotate_certificate};
use serde_json::{Value, json};

use super::{address_of, folder_failure};
use crate::args::Import;
use crate::failure::Failure;
use crate::output::Output;

/// `junto relay check`.
pub(super) fn look(dir: &Path, output: Output) -> Result<(), Failure> {
    let checked = check(dir).map_err(folder_failure)?;
    let shown = |problems: &[Problem]| -> Vec<Value> {
        problems
            .iter()
            .map(|problem| {
                json!({
                    "line": problem.line, "message": problem.message, "remedy": problem.remedy,
                })
            })
            .collect()
    };
    let ok = checked.problems.is_empty();
    let report = json!({
        "ok": ok,
        "problems": shown(&checked.problems),
        "advice": shown(&checked.advice),
    });
    output.result(&report, || {
        let problems = checked
            .problems
            .iter()
            .map(|problem| format!("problem: {problem}"));
        let advice = checked
            .advice
            .iter()
            .map(|advice| format!("advice: {advice}"));
        let ready = ok.then(|| "ready to start".to_owned());
        problems
            .chain(advice)
            .chain(ready)
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    match checked.problems.len() {
        0 => Ok(()),
        count => Err(
            Failure::usage(format_args!("{count} problems in {}", dir.display()))
                .help("correct what is listed above and check again"),
        ),
    }
}

/// `junto relay export`.
pub(super) fn export(dir: &Path, out: &Path, output: Output) -> Result<(), Failure> {
    let contents = backup::export(dir, out).map_err(backup_failure)?;
    let report = json!({
        "file": out, "segments": contents.segments, "bytes": contents.bytes,
    });
    output.result(&report, || {
        format!(
            "{}: {} bytes, as secret as the relay itself. The offline key is not in it.",
            out.display(),
            contents.bytes
        )
    })
}

/// `junto relay import`.
pub(super) fn import(arguments: &Import, output: Output) -> Result<(), Failure> {
    let dir = &arguments.dir;
    match (
        &arguments.file,
        &arguments.from_simplex_store_log,
        &arguments.host,
    ) {
        (Some(file), _, _) => restore(dir, file, output),
        (None, Some(store_log), Some(host)) => {
            let reference = Reference {
                store_log,
                identity: &arguments.simplex_config,
                host,
                port: arguments.port,
                lenient: arguments.skip_damaged,
            };
            take_over(dir, &reference, output)
        }
        _ => Err(Failure::usage(
            "name an exported file, or a store log and the host of its server",
        )),
    }
}

fn restore(dir: &Path, file: &Path, output: Output) -> Result<(), Failure> {
    let contents = backup::import(file, dir).map_err(backup_failure)?;
    let address = address_of(dir)?;
    let report = json!({
        "address": address, "dir": dir, "segments": contents.segments, "bytes": contents.bytes,
    });
    output.result(&report, || {
        let dir = dir.display();
        format!("{address}\n\nStart it with: junto relay start --dir {dir}")
    })
}

fn take_over(dir: &Path, reference: &Reference<'_>, output: Output) -> Result<(), Failure> {
    let moved = move_reference(reference, dir).map_err(move_failure)?;
    let address = address_of(dir)?;
    if let Some(path) = undelivered(reference.store_log) {
        output.say(format_args!(
            "note: undelivered messages in {} are not taken over; see docs/operating/relay.md",
            path.display()
        ));
    }
    let report = json!({ "address": address, "dir": dir, "moved": moved });
    output.result(&report, || {
        let mut text = format!(
            "{address}\n\n{} queues ({} with a short link, {} with a notifier, {} of services, {} switched off, \
             {} blocked)\nfrom {} lines; ",
            moved.queues,
            moved.links,
            moved.notifiers,
            moved.services,
            moved.suspended,
            moved.blocked,
            moved.lines,
        );
        text.push_str(&format!(
            "not taken: {} lines that make no sense {:?}, {} queues whose name another has, \
             {} records about no queue,\n{} services that the log does not tell of{}.\n\
             Compare the address, then start it with: junto relay start --dir {}",
            moved.skipped,
            moved.skipped_lines,
            moved.conflicts,
            moved.strays,
            moved.unknown_services,
            if moved.cut { ", the last line, which is cut" } else { "" },
            dir.display()
        ));
        text
    })
}

fn move_failure(error: MoveError) -> Failure {
    match error {
        MoveError::Backup(error) => backup_failure(error),
        MoveError::Folder(error @ FolderError::Identity(_)) => Failure::failed(&error).help(
            "this relay's own key must be Ed25519; an Ed448 authority can sign one: \
             docs/operating/relay.md, \"Ed448\"",
        ),
        MoveError::Folder(error) => folder_failure(error),
        MoveError::Line { .. } => Failure::refused(&error)
            .help("nothing was made; `--skip-damaged` leaves such lines out and counts them"),
        _ => Failure::failed(&error),
    }
}

fn backup_failure(error: BackupError) -> Failure {
    match error {
        BackupError::Folder(error) => folder_failure(error),
        BackupError::NotEmpty { .. } => {
            Failure::usage(&error).help("name a folder that is empty or does not exist")
        }
        BackupError::Malformed { .. } => {
            Failure::refused(&error).help("nothing was changed; use another copy")
        }
        BackupError::Elsewhere { .. } => Failure::usage(&error).help(
            "nothing was made; let `journal` in the old relay's relay.toml name a folder inside the relay's, and export again",
        ),
        _ => Failure::failed(&error),
    }
}

/// `junto relay rotate-certificate`.
pub(super) fn rotate(dir: &Path, ca: Option<&Path>, output: Output) -> Result<(), Failure> {
    rotate_certificate(dir, ca).map_err(folder_failure)?;
    let address = address_of(dir)?;
    output.result(&json!({ "address": address }), || {
        format!(
            "new certificate, same address: {address}\n\
             A running relay shows it after SIGHUP (`systemctl reload junto-relay`)."
        )
    })
}
