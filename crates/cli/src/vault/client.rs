//! `junto vault backup`, `restore`, `delete` and `status`.
//!
//! The sealed file is a backup of the profile (`junto-backup`) whose passphrase is a key that the master key gives. A new
//! one lies beside the old one, under a name with its version, until enough realms count the new key: whenever a client is
//! ended, the file that fits what the realms hold is there.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use junto_realm::Accepted;
use junto_tls::files;
use junto_vault::{GuessLimit, MasterKey, Pin, RealmId, State, Version};
use serde_json::json;
use zeroize::Zeroizing;

use super::flow::{Realms, Views, absent, left_of};
use super::set;
use crate::args::{Backup, Global, PinSource, Reach, Restore};
use crate::failure::{Context, Exit, Failure};
use crate::output::Output;
use crate::profile::{self, Profile, Source};

/// What the sealed file's key is derived for.
const LABEL: &str = "junto profile backup";
/// How often a record outlives its guesses being spent and stored again, before nothing can be stored under it.
const LIVES: u16 = 8;

fn realms(reach: &Reach, output: Output) -> Result<Realms, Failure> {
    let accepted = Accepted {
        simulated: reach.accept_simulated,
    };
    if accepted.simulated {
        output.say(
            "for trying only: evidence of the realms' machines is simulated and proves nothing",
        );
    }
    Ok(Realms {
        set: set::open(&reach.set, accepted)?,
        patience: Duration::from_secs(reach.timeout),
    })
}

fn pin(source: &PinSource, is_new: bool) -> Result<Pin, Failure> {
    let typed = match &source.pin_file {
        Some(file) => profile::read_first_line(file)?,
        None if profile::can_ask() => {
            let typed = profile::ask(if is_new { "New PIN: " } else { "PIN: " })?;
            if is_new && *profile::ask("The same again: ")? != *typed {
                return Err(Failure::usage("the two PINs differ; nothing was stored"));
            }
            typed
        }
        None => {
            return Err(Failure::usage("no PIN was given")
                .help("give it with `--pin-file FILE`; on a terminal you are asked for it"));
        }
    };
    let typed = std::str::from_utf8(&typed).map_err(|_| Failure::usage("the PIN is not text"))?;
    let pin = if is_new {
        Pin::new(typed)
    } else {
        Pin::again(typed)
    };
    pin.map_err(Failure::usage)
}

fn passphrase(master: &MasterKey) -> Zeroizing<Vec<u8>> {
    let key = master.application_key(LABEL);
    Zeroizing::new(hex::encode(&key[..]).into_bytes())
}

fn beside(file: &Path, version: &Version) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", hex::encode(version.0)));
    name.into()
}

/// Nothing but an earlier backup is replaced.
fn refuse_foreign(file: &Path) -> Result<(), Failure> {
    let mut start = Vec::new();
    let most = junto_backup::MAGIC.len() as u64;
    match File::open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(found) => found.take(most).read_to_end(&mut start),
    }
    .context(format_args!("cannot read {}", file.display()))?;
    if start == junto_backup::MAGIC {
        return Ok(());
    }
    Err(Failure::failed(format_args!(
        "{} is there already, and is no backup",
        file.display()
    ))
    .help("choose another name"))
}

/// A backup that was ended in its last moment counts, if the realms hold its key.
fn finish_former(file: &Path, counts: &Version) -> Result<(), Failure> {
    let former = beside(file, counts);
    if fs::symlink_metadata(&former).is_err() {
        return Ok(());
    }
    files::rename(&former, file).context(format_args!("cannot replace {}", file.display()))
}

/// What backups into `file` left beside it that were ended.
fn left_beside(file: &Path) -> Vec<PathBuf> {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
        return Vec::new();
    };
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let is_left = |found: &str| {
        let version = found.strip_prefix(name).and_then(|it| it.strip_prefix('.'));
        let version = version.map(|it| it.strip_suffix(".partial").unwrap_or(it));
        version.is_some_and(|it| it.len() == 32 && it.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found
        .filter(|entry| entry.file_name().to_str().is_some_and(is_left))
        .map(|entry| entry.path())
        .collect()
}

/// No version counts any more but the one that `file` is of.
fn tidy(file: &Path) {
    for left in left_beside(file) {
        // What stays takes room, and opens with nothing.
        let _ = fs::remove_file(left);
    }
}

pub(super) async fn backup(
    arguments: Backup,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    let Backup {
        file,
        reach,
        pin: source,
        guesses,
        allow_absent,
    } = arguments;
    let realms = realms(&reach, output)?;
    let lifetime = guesses.saturating_mul(LIVES);
    let limit = GuessLimit::new(guesses, lifetime).map_err(Failure::usage)?;
    refuse_foreign(&file)?;
    let profile = Profile::open(&global.profile_dir()?, &global.passphrase())?;
    profile::refuse_damaged(&profile)?;
    let pin = pin(&source, true)?;
    let progress = output.progress("reading the profile");
    if let Ok(roster) = realms.agreed(&realms.views().await) {
        finish_former(&file, &roster.version())?;
    }
    let staged = realms.stage(pin, limit, allow_absent, &progress).await?;
    progress.step("writing the sealed file");
    let sealed = beside(&file, &staged.version);
    let contents = profile::write_backup(&profile, &sealed, &passphrase(&staged.master))?;
    progress.step("activating: the realms count the new part");
    realms.activate(&staged).await?;
    files::rename(&sealed, &file).context(format_args!(
        "cannot replace {}: the new one is {}",
        file.display(),
        sealed.display()
    ))?;
    tidy(&file);
    progress.step("settling: the realms forget the former part");
    realms.settle(&staged).await;
    progress.done();
    let names = named(&realms, &staged.absent);
    let threshold = realms.set.realms.threshold();
    let count = realms.set.realms.realms().len() - staged.absent.len();
    output.result(
        &json!({
            "file": file,
            "files": contents.files,
            "bytes": contents.bytes,
            "guesses": guesses,
            "threshold": threshold,
            "realms": count,
            "absent": names,
        }),
        || {
            format!(
                "{}: {} files, {} bytes. It opens with the PIN and any {threshold} of {count} realms; {guesses} wrong PINs in a row erase it.",
                file.display(),
                contents.files,
                contents.bytes
            )
        },
    )
}

fn named<'a>(realms: &Realms, all: impl IntoIterator<Item = &'a RealmId>) -> Vec<String> {
    all.into_iter().map(|realm| realms.name(realm)).collect()
}

fn other_key(sealed: &Path) -> Failure {
    Failure::failed(format_args!(
        "the PIN is right, but {} was sealed under another key than the realms hold",
        sealed.display()
    ))
    .help("use the file of the last backup; no guess was lost")
}

pub(super) async fn restore(
    arguments: Restore,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    let Restore {
        file,
        reach,
        pin: source,
    } = arguments;
    let dir = global.profile_dir()?;
    // Before a guess is spent.
    let target = fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone());
    profile::refuse_occupied(&target)?;
    let protect = match global.passphrase() {
        Source::None => None,
        source => Some(source.read()?),
    };
    refuse_foreign(&file)?;
    if !file.exists() && left_beside(&file).is_empty() {
        return Err(Failure::usage(format_args!(
            "there is no {}",
            file.display()
        )));
    }
    let realms = realms(&reach, output)?;
    let pin = pin(&source, false)?;
    let progress = output.progress("asking the realms");
    let opened = realms.open(pin, &progress).await?;
    progress.step("restoring the profile");
    let newer = beside(&file, &opened.version);
    let sealed = if newer.exists() { &newer } else { &file };
    let protect = protect.as_ref().map(|it| &it[..]);
    let restored = profile::restore_for(sealed, &dir, &passphrase(&opened.master), protect);
    let restored = restored.map_err(|failure| match failure.exit {
        Exit::Refused => other_key(sealed),
        _ => failure,
    })?;
    progress.done();
    realms.tell(&opened, output);
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
            "lied": named(&realms, &opened.liars),
            "absent": named(&realms, &opened.absent),
        }),
        || {
            format!(
                "{}: {} files, {} connections, {} sessions. All guesses are back.",
                dir.display(),
                restored.contents.files,
                restored.connections,
                restored.sessions
            )
        },
    )
}

pub(super) async fn delete(reach: &Reach, output: Output) -> Result<(), Failure> {
    let realms = realms(reach, output)?;
    let progress = output.progress("asking the realms to erase");
    let count = realms.delete().await?;
    progress.done();
    output.result(&json!({ "erased": count }), || {
        format!("{count} realms erased what they kept; the sealed file opens no more.")
    })
}

fn state(state: State) -> &'static str {
    match state {
        State::Absent => "absent",
        State::Active => "active",
        State::Exhausted => "erased",
    }
}

pub(super) async fn status(reach: &Reach, output: Output) -> Result<(), Failure> {
    let realms = realms(reach, output)?;
    let progress = output.progress("asking the realms");
    let views = realms.views().await;
    let agreed = realms.agreed(&views);
    let mut each = Vec::new();
    for (realm, view) in &views {
        let began = realms.began(realm).await;
        each.push(match view {
            Ok(view) => {
                let newest = view.versions.first().map(|(roster, _)| roster.version());
                json!({
                    "realm": hex::encode(realm.0),
                    "name": realms.name(realm),
                    "state": state(view.state),
                    "version": newest.map(|version| hex::encode(version.0)),
                    "left": newest.and_then(|version| left_of(view, &version)),
                    "began": began,
                })
            }
            Err(error) => json!({
                "realm": hex::encode(realm.0),
                "name": realms.name(realm),
                "state": "unreachable",
                "error": error.to_string(),
            }),
        });
    }
    progress.done();
    if absent(&views).len() == views.len() {
        return Err(agreed
            .err()
            .unwrap_or_else(|| Failure::failed("no realm answers")));
    }
    let left = agreed
        .as_ref()
        .map_or(0, |roster| realms.left(&views, &roster.version()));
    let report = json!({
        "threshold": realms.set.realms.threshold(),
        "recoverable": agreed.is_ok() && left > 0,
        "guesses_left": left,
        "realms": each,
    });
    output.result(&report, || text(&realms, &views, agreed.is_ok(), left))
}

fn text(realms: &Realms, views: &Views, recoverable: bool, left: u16) -> String {
    let mut lines: Vec<String> = views
        .iter()
        .map(|(realm, view)| match view {
            Ok(view) => format!("{}: {}", realms.name(realm), state(view.state)),
            Err(error) => format!("{}: {error}", realms.name(realm)),
        })
        .collect();
    lines.push(match recoverable {
        true => format!("It can be got back with the PIN; {left} guesses are left."),
        false => "It cannot be got back as things are.".to_owned(),
    });
    lines.join("\n")
}
