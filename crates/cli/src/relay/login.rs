//! `junto relay login`: the passwords that relays demand of who creates queues, sealed in the profile.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::Path;
use std::sync::Arc;

use junto_agent::{Passwords, client::Password};
use serde_json::json;
use zeroize::Zeroizing;

use super::parse_address;
use crate::args::Global;
use crate::failure::{Context, Failure};
use crate::output::Output;
use crate::profile::{Profile, read_first_line};

/// Sealed: a line of address, space and password for each relay.
const FILE: &str = "relay-passwords";
/// Longest password of a relay, in bytes.
const PASSWORD_MAX: u64 = 255;

pub(super) fn run(
    address: &str,
    file: Option<&Path>,
    forget: bool,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    let relay = parse_address(address)?;
    let password = match (forget, file) {
        (true, _) => None,
        (false, Some(file)) => Some(read_first_line(file)?),
        (false, None) => Some(ask(output)?),
    };
    let profile = Profile::open(&global.profile_dir()?, &global.passphrase())?;
    let stored = profile.read_sealed(FILE)?.unwrap_or_default();
    // As long as all of it, so that no copy of a password is left behind by growing.
    let room = stored.len() + address.len() + 2 + password.as_ref().map_or(0, |it| it.len());
    let mut lines = Zeroizing::new(Vec::with_capacity(room));
    for (other, _, line) in entries(&stored) {
        if other != relay {
            lines.extend_from_slice(line);
            lines.push(b'\n');
        }
    }
    if let Some(password) = &password {
        let text = core::str::from_utf8(password).ok();
        text.and_then(Password::new)
            .ok_or_else(|| Failure::usage("a relay's password is 1 to 255 bytes of text"))?;
        lines.extend_from_slice(relay.to_string().as_bytes());
        lines.push(b' ');
        lines.extend_from_slice(password);
        lines.push(b'\n');
    }
    profile.write_sealed(FILE, &lines)?;
    let known = password.is_some();
    output.result(
        &json!({ "relay": address, "password": known }),
        || match known {
            true => "The profile knows the relay's password.".to_owned(),
            false => "The profile knows no password for the relay.".to_owned(),
        },
    )
}

/// The passwords of a profile.
pub(crate) fn passwords(profile: &Profile) -> Result<Passwords, Failure> {
    let stored = profile.read_sealed(FILE)?.unwrap_or_default();
    Ok(entries(&stored)
        .filter_map(|(relay, password, _)| Some((relay, Arc::new(Password::new(password)?))))
        .collect())
}

/// Relay, password, and the line that says so.
fn entries(
    stored: &[u8],
) -> impl Iterator<Item = (junto_smp::address::ServerAddress, &str, &[u8])> {
    stored.split(|byte| *byte == b'\n').filter_map(|line| {
        let (relay, password) = core::str::from_utf8(line).ok()?.split_once(' ')?;
        Some((relay.parse().ok()?, password, line))
    })
}

fn ask(output: Output) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        output.say("The relay's password (it shows as you type), then Enter:");
    }
    let mut line = Zeroizing::new(Vec::with_capacity(PASSWORD_MAX as usize + 2));
    stdin
        .lock()
        .take(PASSWORD_MAX + 2)
        .read_until(b'\n', &mut line)
        .context("cannot read standard input")?;
    while line
        .last()
        .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
    {
        line.pop();
    }
    Ok(line)
}
