//! Reading what a user names: files and standard input, never more than the limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::failure::{Context, Failure};

/// Most bytes of a message to sign or send: 16 MiB, the session's limit for one message.
pub(crate) const MESSAGE_MAX: u64 = 16 * 1024 * 1024;

/// The content of `path`, or of standard input for `-`.
///
/// # Errors
/// If it cannot be read, or is longer than [`MESSAGE_MAX`].
pub(crate) fn read_message(path: &Path) -> Result<Vec<u8>, Failure> {
    if path.as_os_str() == "-" {
        read_stdin()
    } else {
        let file = File::open(path).map_err(|error| {
            Failure::usage(format_args!("cannot open {}: {error}", path.display()))
        })?;
        read_bounded(file, &path.display().to_string())
    }
}

/// All of standard input.
///
/// # Errors
/// If it cannot be read, or is longer than [`MESSAGE_MAX`].
pub(crate) fn read_stdin() -> Result<Vec<u8>, Failure> {
    read_bounded(io::stdin().lock(), "standard input")
}

/// The first line of standard input that is not empty, without the white space around it. What follows stays there, for
/// a program that is run.
///
/// # Errors
/// If it cannot be read, is longer than `max` bytes, or not text.
pub(crate) fn read_stdin_line(max: usize) -> Result<String, Failure> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    // Byte by byte: the library's reader would take more than the line.
    while rustix::io::read(io::stdin(), &mut byte).context("cannot read standard input")? == 1 {
        match byte[0] {
            b'\n' if line.is_empty() => {}
            b'\n' => break,
            space if line.is_empty() && space.is_ascii_whitespace() => {}
            other if line.len() < max => line.push(other),
            _ => return Err(Failure::usage("the line on standard input is too long")),
        }
    }
    let line = String::from_utf8(line)
        .map_err(|_| Failure::usage("the line on standard input is not text"))?;
    Ok(line.trim().to_owned())
}

/// The text of a file of at most `max` bytes.
///
/// # Errors
/// If it cannot be read, is longer, or not text.
pub(crate) fn read_short(path: &Path, max: u64) -> Result<String, Failure> {
    let name = path.display();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(max + 1).read_to_string(&mut text));
    read.map_err(|error| Failure::usage(format_args!("cannot read {name}: {error}")))?;
    if text.len() as u64 > max {
        return Err(Failure::usage(format_args!(
            "{name} is longer than {max} bytes"
        )));
    }
    Ok(text)
}

fn read_bounded(source: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    source
        .take(MESSAGE_MAX + 1)
        .read_to_end(&mut bytes)
        .context(format_args!("cannot read {name}"))?;
    if bytes.len() as u64 > MESSAGE_MAX {
        return Err(Failure::usage(format_args!("{name} is longer than 16 MiB"))
            .help("sign or send a hash of it instead"));
    }
    Ok(bytes)
}

/// Bytes given in hex on the command line.
///
/// # Errors
/// A usage error that names `what`.
pub(crate) fn hex_argument(what: &str, text: &str) -> Result<Vec<u8>, Failure> {
    hex::decode(text.trim())
        .map_err(|error| Failure::usage(format_args!("the {what} is not hexadecimal: {error}")))
}
