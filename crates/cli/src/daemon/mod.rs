//! `junto daemon`: the profile's contacts for programs in any language, by JSON-RPC 2.0 over a Unix socket.
//!
//! | part | what |
//! |---|---|
//! | [`request`] | a client's line, parsed into narrow types; no input or output |
//! | `answer` | what a client is told |
//! | `client` | one connection, bounded in all that it may hold |
//! | `desks` | who reads which messages, and what comes next; no input or output |
//! | `number` | what a message is called, whichever of the contact's devices it is from; no input or output |
//! | `post` | the task that owns the contacts and their messages |
//!
//! For users: `docs/guides/daemon.md`. Why so: `docs/decisions/0013-the-daemon-speaks-lines-of-json-rpc.md`.

mod answer;
mod client;
mod desks;
mod number;
mod post;
pub(crate) mod request;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use self::answer::refuse;
use self::post::{Input, Post};
use self::request::{Code, Refusal};
use crate::args::Global;
use crate::contact::Contacts;
use crate::failure::{Context, Failure};
use crate::open::Junto;
use crate::output::Output;
use crate::profile::{Profile, make_private_dir, refuse_shared_dir};

/// Clients at a time: each is a program of the profile's owner.
const CLIENTS_MAX: usize = 16;
/// Calls of all clients that may be under way, those that have left among them.
const CALLS_MAX: usize = CLIENTS_MAX * client::CALLS_MAX;
/// How long a client that finds no place may take to be told so.
const REFUSING: Duration = Duration::from_secs(1);
/// What clients ask and the task has not looked at yet.
const INPUTS_MAX: usize = 64;
/// After a failure to take a client in, for want of open files say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens until Ctrl-C or SIGTERM.
pub(crate) async fn run(global: &Global, output: Output) -> Result<(), Failure> {
    let profile = Profile::open(&global.profile_dir()?, &global.passphrase())?;
    let profile = Arc::new(profile);
    let (listener, path) = listen(&profile.dir().join("daemon"))?;
    let contacts = Contacts::on(Arc::clone(&profile), global).await?;
    let junto = Junto::on(profile, global).await?;
    let mut post = Post::new(contacts, junto, output);
    let (asks, mut inputs) = mpsc::channel(INPUTS_MAX);
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let shown = path.display().to_string();
    output.result(&json!({ "socket": shown }), || shown.clone())?;
    output.say("listening there; end with Ctrl-C");
    let ended = tokio::select! {
        ended = post.run(&mut inputs) => ended,
        () = accept(&listener, &asks) => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    // Who connects from now on is told by the system that nobody is here.
    drop(listener);
    let _ = fs::remove_file(&path);
    ended.and(post.end().await)
}

/// Makes the socket, readable and writable by its owner only, in a folder that nobody else can enter.
fn listen(dir: &Path) -> Result<(UnixListener, PathBuf), Failure> {
    make_private_dir(dir)?;
    refuse_shared_dir(dir)?;
    let path = dir.join("socket");
    let reading = format!("cannot use {}", path.display());
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).context(&reading)?;
    // The profile is locked, so no other daemon listens on what is there.
    match fs::symlink_metadata(&path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(&path).context(&reading)?,
        Ok(_) => {
            return Err(
                Failure::refused(format_args!("{} is no socket", path.display()))
                    .help("move it elsewhere"),
            );
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::failed(format_args!("{reading}: {error}"))),
    }
    let listener = UnixListener::bind(&path).map_err(|error| {
        let failure = Failure::failed(format_args!("cannot listen on {}: {error}", path.display()));
        failure.help("the name of a socket has at most 107 bytes on Linux, 103 on macOS: a profile in a folder with a shorter name may do")
    })?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context(&reading)?;
    Ok((listener, path))
}

/// Takes clients in, for ever.
async fn accept(listener: &UnixListener, asks: &mpsc::Sender<Input>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let mut clients = 0;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            let refusal = Refusal {
                id: None,
                code: Code::Request,
                message: format!("there are {CLIENTS_MAX} clients already"),
            };
            tokio::spawn(async move {
                let ready = tokio::time::timeout(REFUSING, stream.writable()).await;
                if ready.is_ok() {
                    let _ = stream.try_write(format!("{}\n", refuse(&refusal)).as_bytes());
                }
            });
            continue;
        };
        clients += 1;
        let serving = client::serve(stream, clients, asks.clone(), Arc::clone(&calls));
        tokio::spawn(async move {
            serving.await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests;
