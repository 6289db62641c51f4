//! `junto vault backup`, `restore` and `delete`.
//!
//! The sealed file holds a backup of the profile (`junto-backup`) whose passphrase is a key that the master key gives, and says
//! which version it is of. A new one lies beside the old one, under a name with its version, until enough realms count the new
//! key; and the old one beside the new one, until all of them do. Whenever a client is ended, the file that fits what the
//! realms hold is there, and `restore` finds it.

use std::path::Path;
use std::time::Duration;

use junto_realm::Accepted;
use junto_tls::files;
use junto_vault::{GuessLimit, Pin, RealmId};
use serde_json::{Value, json};

use super::flow::{Realms, guesses};
use super::guess::{Chosen, Opened};
use super::sealed::{self, HEAD_BYTES, Head, KeptSeed, beside};
use super::set;
use super::store::{Activated, Staged};
use crate::args::{Backup, Global, PinSource, Reach, Restore};
use crate::failure::{Context, Exit, Failure};
use crate::output::{Output, Progress};
use crate::profile::{self, Profile, Source};

/// How often a record outlives its guesses being spent and stored again, before nothing can be stored under it.
const LIVES: u16 = 8;

pub(super) fn realms(reach: &Reach, output: Output) -> Result<Realms, Failure> {
    // A PIN and what comes from it stay in this memory. What the system does not allow is the operators' concern, not a user's.
    let _ = super::keep_in_memory();
    let realms = Realms {
        set: set::open(
            &reach.set,
            Accepted {
                simulated: reach.accept_simulated,
            },
        )?,
        patience: Duration::from_secs(reach.timeout),
        simulated: reach.accept_simulated,
    };
    if let Some(warning) = realms.warning() {
        output.say(format_args!("for trying only. {warning}"));
    }
    Ok(realms)
}

fn read_pin(file: &Path, output: Output) -> Result<zeroize::Zeroizing<Vec<u8>>, Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(file).map(|found| found.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            output.say(format_args!(
                "other users of this machine may read {}: `chmod 600` it, or remove it",
                file.display()
            ));
        }
    }
    profile::read_secret_line(file, "PIN")
}

/// Fails where there is neither a file nor a person to ask.
fn pin(source: &PinSource, is_new: bool, output: Output) -> Result<Pin, Failure> {
    let typed = match &source.pin_file {
        Some(file) => read_pin(file, output)?,
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
        replace,
        allow_absent,
    } = arguments;
    let realms = realms(&reach, output)?;
    let lifetime = guesses.saturating_mul(LIVES);
    let limit = GuessLimit::new(guesses, lifetime).map_err(Failure::usage)?;
    let file = sealed::resolved(&file);
    let owner = realms.set.realms.owner(&realms.set.account);
    sealed::refuse_foreign(&file, &owner, replace)?;
    let profile = Profile::open(&global.profile_dir()?, &global.passphrase())?;
    profile::refuse_damaged(&profile)?;
    let pin = pin(&source, true, output)?;
    let progress = output.progress("reading the profile");
    let staged = realms.stage(pin, limit, allow_absent, &progress).await?;
    progress.step("writing the sealed file");
    let head = Head {
        version: staged.version,
        owner,
        protected: profile::is_protected(profile.dir()),
    };
    let new = beside(&file, &staged.version);
    let passphrase = head.passphrase(&staged.master);
    let contents = profile::write_behind(&profile, &new, &head.to_bytes(), &passphrase)?;
    let counted = count(&realms, &staged, &file, &owner, allow_absent, &progress).await?;
    progress.done();
    let stored = Stored {
        realms: &realms,
        file: &file,
        staged: &staged,
        counted: &counted,
        guesses,
    };
    output.result(&stored.report(contents), || stored.text(contents))?;
    match counted.is_whole {
        true => Ok(()),
        false => Err(stored.too_few()),
    }
}

/// What realms made of a new part.
struct Counted {
    activated: Activated,
    /// As many realms count it as were asked for.
    is_whole: bool,
    /// Realms that may keep the former part.
    unsettled: Vec<RealmId>,
}

/// The realms count the new part, its file takes its place, and what was before is forgotten: by the realms if none is behind.
async fn count(
    realms: &Realms,
    staged: &Staged,
    file: &Path,
    owner: &[u8; 32],
    allow_absent: bool,
    progress: &Progress,
) -> Result<Counted, Failure> {
    let new = beside(file, &staged.version);
    progress.step(format!(
        "activating: the realms count the new part. If this ends here, keep {} and {}",
        file.display(),
        new.display()
    ));
    let activated = realms.activate(staged).await;
    let activated = activated.map_err(|failure| unknown(failure, file, &new))?;
    let is_whole = activated.missing.is_empty() || allow_absent;
    put_in_place(file, &new, owner, is_whole)?;
    let mut unsettled = Vec::new();
    if is_whole {
        sealed::tidy(file, owner);
        progress.step("settling: the realms forget the former part");
        let has = |realm: &RealmId| !activated.missing.contains_key(realm);
        let auth = |realm: &RealmId| staged.auth(realm).filter(|_| has(realm));
        unsettled = realms.settle(staged.version, auth).await;
    }
    Ok(Counted {
        activated,
        is_whole,
        unsettled,
    })
}

/// The new file takes the former one's place. That stays beside it until all realms count the new part: what is lost
/// meanwhile may be a realm that does.
fn put_in_place(file: &Path, new: &Path, owner: &[u8; 32], is_whole: bool) -> Result<(), Failure> {
    let replacing = format!(
        "cannot replace {}: the new one is {}",
        file.display(),
        new.display()
    );
    if !is_whole && let Ok(Some(former)) = sealed::look(file, owner) {
        let kept = beside(file, &former.head.version);
        files::rename(file, &kept).context(&replacing)?;
    }
    files::rename(new, file).context(&replacing)
}

/// It is not known whether the new part counts or the former one.
fn unknown(failure: Failure, file: &Path, new: &Path) -> Failure {
    failure.help(format_args!(
        "whether the former backup counts or the new one is not known: keep {} and {}, and both PINs; `restore` takes the file that fits. The same command again begins anew",
        file.display(),
        new.display()
    ))
}

/// What a backup came to.
struct Stored<'a> {
    realms: &'a Realms,
    file: &'a Path,
    staged: &'a Staged,
    counted: &'a Counted,
    guesses: u16,
}

impl Stored<'_> {
    fn counts(&self) -> (usize, usize) {
        let all = self.realms.set.realms.realms().len();
        let threshold = self.realms.set.realms.threshold();
        (threshold, all - self.counted.activated.missing.len())
    }

    fn report(&self, contents: profile::Contents) -> Value {
        let (threshold, count) = self.counts();
        json!({
            "file": self.file,
            "version": hex::encode(self.staged.version.0),
            "files": contents.files,
            "bytes": contents.bytes,
            "guesses": self.guesses,
            "threshold": threshold,
            "realms": count,
            "absent": named(self.realms, self.counted.activated.missing.keys()),
            "unsettled": named(self.realms, &self.counted.unsettled),
            "trial": self.realms.set.trial,
            "evidence": self.realms.evidence(),
        })
    }

    fn text(&self, contents: profile::Contents) -> String {
        let (threshold, count) = self.counts();
        let mut text = format!(
            "{}: {} files, {} bytes. It opens with the PIN and any {threshold} of {count} realms; {} wrong PINs in a row erase it. \
             Copies of a former file open no more: copy this one. Realms keep their parts in memory only: see `junto vault status` from time to time.",
            self.file.display(),
            contents.files,
            contents.bytes,
            self.guesses
        );
        if threshold == count {
            text += "\nNo realm may be lost: with one less it cannot be got back. Back up again when all are there.";
        }
        if !self.counted.unsettled.is_empty() {
            text += &format!(
                "\nThe former backup is kept, too, with guesses of its own at its PIN, until the next one: {}",
                self.realms.names(&self.counted.unsettled)
            );
        }
        if let Some(warning) = self.realms.warning() {
            text += "\n";
            text += warning;
        }
        text
    }

    /// It is stored, and less safely than was asked for.
    fn too_few(&self) -> Failure {
        let all = self.realms.set.realms.realms().len();
        let (_, count) = self.counts();
        Failure::new(
            Exit::Unreachable,
            format_args!(
                "stored with {count} of {all} realms. {}",
                self.realms.reasons(&self.counted.activated.missing)
            ),
        )
        .help("run it again when all realms are there; until then the former backup is kept as well, its file beside the new one")
    }
}

pub(super) fn named<'a>(
    realms: &Realms,
    all: impl IntoIterator<Item = &'a RealmId>,
) -> Vec<String> {
    all.into_iter().map(|realm| realms.name(realm)).collect()
}

/// How many guesses there are, before the PIN is asked for.
fn announce(realms: &Realms, chosen: &Chosen, file: &Path, output: Output) -> Result<(), Failure> {
    let left = realms.left(&chosen.holders);
    let is_pending = KeptSeed::is_there(file, &chosen.sealed.head.version);
    if chosen.is_former {
        output.say(format_args!(
            "the realms count a newer backup than {}, and hold this one's key as well: its PIN is the one of then",
            chosen.sealed.path.display()
        ));
    }
    match (left, is_pending) {
        (0, false) => Err(Failure::refused(
            "no guess is left with enough realms: with another one they would erase what they keep",
        )
        .help("the PIN was not asked for. If realms are away, wait for them; a guess that was broken off goes on where its file `FILE.VERSION.guess` is")),
        (0, true) => {
            output.say(
                "NO GUESS IS LEFT but the one that was broken off: with the same PIN as then it goes on, with any other the realms erase what they keep",
            );
            Ok(())
        }
        (left, true) => {
            output.say(format_args!(
                "{} left. A guess was broken off: with the same PIN as then it goes on, and costs nothing",
                guesses(left)
            ));
            Ok(())
        }
        (1, false) => {
            output.say("THE LAST GUESS: with a wrong PIN the realms erase what they keep");
            Ok(())
        }
        (left, false) => {
            output.say(format_args!("{} left", guesses(left)));
            Ok(())
        }
    }
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
    let target = std::fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone());
    profile::refuse_occupied(&target)?;
    let protect = match global.passphrase() {
        Source::None => None,
        source => Some(source.read()?),
    };
    let realms = realms(&reach, output)?;
    let (chosen, opened) = open(&realms, &file, &source, output).await?;
    let progress = output.progress("restoring the profile");
    let head = chosen.sealed.head;
    let passphrase = head.passphrase(&opened.master);
    let protect = protect.as_ref().map(|it| &it[..]);
    let path = &chosen.sealed.path;
    let restored = profile::restore_for(path, HEAD_BYTES, &dir, &passphrase, protect);
    let restored = restored.map_err(|failure| changed(failure, path))?;
    progress.step("settling: the realms forget what was before");
    let unsettled = match chosen.is_former {
        false => {
            let auth = |realm: &RealmId| opened.auth(realm);
            realms.settle(head.version, auth).await
        }
        true => Vec::new(),
    };
    let after = realms.views().await;
    let left = realms.left(&realms.holders(&after, &head.version));
    progress.done();
    realms.tell(&opened, output);
    output.say(
        "Use it only if the original is gone. Connections send again when their peer has answered with fresh keys; \
         sessions can only be looked at and closed: make new ones, and take keys there with `junto bls reshare`.",
    );
    let back = Back {
        realms: &realms,
        dir: &dir,
        head,
        opened: &opened,
        unsettled: &unsettled,
        left,
        is_protected: protect.is_some(),
    };
    output.result(&back.report(&restored), || back.text(&restored))
}

fn changed(failure: Failure, path: &Path) -> Failure {
    match failure.exit {
        Exit::Refused => Failure::failed(format_args!(
            "the PIN is right, but {} does not open with what the realms keep for it: it was changed",
            path.display()
        ))
        .help("use another copy of it; no guess was lost"),
        _ => failure,
    }
}

/// The guess: which file it is for, how many there are, then the PIN.
async fn open(
    realms: &Realms,
    file: &Path,
    source: &PinSource,
    output: Output,
) -> Result<(Chosen, Opened), Failure> {
    let owner = realms.set.realms.owner(&realms.set.account);
    let files = sealed::all(file, &owner)?;
    if files.is_empty() {
        return Err(Failure::usage(format_args!(
            "there is no {}",
            file.display()
        )));
    }
    let known = match source.pin_file.is_some() || !profile::can_ask() {
        true => Some(pin(source, false, output)?),
        false => None,
    };
    let progress = output.progress("asking the realms");
    let views = realms.views().await;
    let chosen = realms.choose(&views, files)?;
    progress.done();
    announce(realms, &chosen, file, output)?;
    let pin = match known {
        Some(pin) => pin,
        None => pin(source, false, output)?,
    };
    let kept = KeptSeed::take(file, &chosen.sealed.head.version);
    if !kept.is_kept {
        output.say(format_args!(
            "{} cannot be written: if this is ended before the realms have answered, that costs a guess",
            kept.path().display()
        ));
    }
    let progress = output.progress("guessing");
    let opened = realms.open(&views, &chosen, pin, &kept, &progress).await;
    progress.done();
    match opened {
        Ok(opened) => {
            kept.forget();
            Ok((chosen, opened))
        }
        Err(refused) => {
            if refused.is_judged {
                kept.forget();
            }
            Err(refused.failure)
        }
    }
}

/// What a restore came to.
struct Back<'a> {
    realms: &'a Realms,
    dir: &'a Path,
    head: Head,
    opened: &'a Opened,
    unsettled: &'a [RealmId],
    left: u16,
    is_protected: bool,
}

impl Back<'_> {
    fn report(&self, restored: &profile::Restored) -> Value {
        json!({
            "profile": self.dir,
            "version": hex::encode(self.head.version.0),
            "files": restored.contents.files,
            "bytes": restored.contents.bytes,
            "connections": restored.connections,
            "sessions": restored.sessions,
            "protected": self.is_protected,
            "was_protected": self.head.protected,
            "guesses_left": self.left,
            "lied": named(self.realms, &self.opened.liars),
            "absent": named(self.realms, &self.opened.absent),
            "unproven": named(self.realms, &self.opened.unproven),
            "unsettled": named(self.realms, self.unsettled),
            "trial": self.realms.set.trial,
            "evidence": self.realms.evidence(),
        })
    }

    fn text(&self, restored: &profile::Restored) -> String {
        let mut text = format!(
            "{}: {} files, {} connections, {} sessions. {} left.",
            self.dir.display(),
            restored.contents.files,
            restored.connections,
            restored.sessions,
            guesses(self.left)
        );
        if self.head.protected && !self.is_protected {
            text += "\nThe original had a passphrase, and this profile has none: who reads its files reads everything in it. `junto profile passphrase` gives it one.";
        }
        if let Some(warning) = self.realms.warning() {
            text += "\n";
            text += warning;
        }
        text
    }
}

pub(super) async fn delete(reach: &Reach, output: Output) -> Result<(), Failure> {
    let realms = realms(reach, output)?;
    let progress = output.progress("asking the realms to erase");
    let count = realms.delete().await?;
    progress.done();
    output.result(
        &json!({ "erased": count, "trial": realms.set.trial, "evidence": realms.evidence() }),
        || format!("{count} realms erased what they kept; the sealed file opens no more."),
    )
}
