//! `junto profile`: protect, back up, restore and check a profile.

use std::path::Path;

use serde_json::json;

use super::{Profile, backup, check, key, passphrase};
use crate::args::{BackupPassphrase, Global, ProfileCommand};
use crate::failure::Failure;
use crate::output::Output;

/// Runs one of the commands.
pub(crate) fn run(command: ProfileCommand, global: &Global, output: Output) -> Result<(), Failure> {
    match command {
        ProfileCommand::Passphrase {
            new_passphrase_file,
            remove,
        } => protect(global, new_passphrase_file.as_deref(), remove, output),
        ProfileCommand::Backup { file, passphrase } => back_up(global, &file, &passphrase, output),
        ProfileCommand::Restore { file, passphrase } => restore(global, &file, &passphrase, output),
        ProfileCommand::Key => show_key(global, output),
        ProfileCommand::Check => look(global, output),
    }
}

/// Opens a profile that is there: what looks at one makes none, under a name with a slip, say.
fn open_present(global: &Global) -> Result<Profile, Failure> {
    let dir = global.profile_dir()?;
    if !key::is_profile(&dir) {
        return Err(
            Failure::usage(format_args!("there is no profile in {}", dir.display())).help(
                "name the folder of the one that you mean with `--profile DIR`; the first other command that is run with it makes one",
            ),
        );
    }
    open(global)
}

fn open(global: &Global) -> Result<Profile, Failure> {
    Profile::open(&global.profile_dir()?, &global.passphrase())
}

fn show_key(global: &Global, output: Output) -> Result<(), Failure> {
    let key = open(global)?.identity()?.verifying_key();
    let key = hex::encode(key.as_bytes());
    output.result(&json!({ "key": key }), || key.clone())
}

fn protect(
    global: &Global,
    file: Option<&Path>,
    remove: bool,
    output: Output,
) -> Result<(), Failure> {
    let profile = open(global)?;
    if remove {
        key::expose(profile.dir(), &profile.key)?;
    } else {
        let new = passphrase::new(file, "profile", "--new-passphrase-file")?;
        key::protect(profile.dir(), &profile.key, &new)?;
    }
    let protected = key::is_protected(profile.dir());
    output.result(&json!({ "protected": protected }), || match protected {
        true => {
            "The profile is protected by the new passphrase. Copies made before open as they did."
                .to_owned()
        }
        false => {
            "The profile has no passphrase any more: who reads its files reads everything in it."
                .to_owned()
        }
    })
}

fn back_up(
    global: &Global,
    file: &Path,
    given: &BackupPassphrase,
    output: Output,
) -> Result<(), Failure> {
    let profile = open_present(global)?;
    // A damaged profile is not to replace a good backup; and this closes the databases.
    if let Some(failure) = check::look(&profile).failure() {
        return Err(failure);
    }
    let given = given.backup_passphrase_file.as_deref();
    let passphrase = passphrase::new(given, "backup", "--backup-passphrase-file")?;
    let contents = backup::write(&profile, file, &passphrase)?;
    output.result(
        &json!({ "backup": file, "files": contents.files, "bytes": contents.bytes }),
        || {
            format!(
                "{}: {} files, {} bytes. What comes after is not in it.",
                file.display(),
                contents.files,
                contents.bytes
            )
        },
    )
}

fn restore(
    global: &Global,
    file: &Path,
    given: &BackupPassphrase,
    output: Output,
) -> Result<(), Failure> {
    let dir = global.profile_dir()?;
    let passphrase = match &given.backup_passphrase_file {
        Some(file) => passphrase::read_first_line(file)?,
        None if passphrase::can_ask() => passphrase::ask("Passphrase of the backup: ")?,
        None => {
            return Err(Failure::refused("the backup is encrypted under a passphrase")
                .help("give it with `--backup-passphrase-file FILE`; on a terminal you are asked for it"));
        }
    };
    let restored = backup::restore(file, &dir, &passphrase)?;
    output.say(
        "Use it only if the original is gone. Connections send again when their peer has answered with fresh keys; \
         sessions can only be looked at and closed: make new ones, and take keys there with `junto bls reshare`.",
    );
    output.result(
        &json!({
            "profile": dir,
            "files": restored.contents.files,
            "bytes": restored.contents.bytes,
            "connections": restored.connections,
            "sessions": restored.sessions,
        }),
        || {
            format!(
                "{}: {} files, {} connections, {} sessions. Its passphrase is the backup's.",
                dir.display(),
                restored.contents.files,
                restored.connections,
                restored.sessions
            )
        },
    )
}

fn look(global: &Global, output: Output) -> Result<(), Failure> {
    let profile = open_present(global)?;
    let report = check::look(&profile);
    if let Some(failure) = report.failure() {
        if output.json {
            output.result(&report, String::new)?;
        }
        for problem in &report.problems {
            output.say(format_args!(
                "{}: {}; {}",
                problem.file, problem.what, problem.advice
            ));
        }
        return Err(failure);
    }
    output.result(&report, || {
        format!(
            "{} connections, {} sessions, {} keys, {} records with {} bytes: all is well.",
            report.connections, report.sessions, report.keys, report.records, report.bytes
        )
    })
}
