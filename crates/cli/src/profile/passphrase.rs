//! Where passphrases come from: a file, an open file descriptor, or the person at the terminal. Never the command
//! line or the environment, which other processes and logs see.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use console::Term;
use zeroize::Zeroizing;

use crate::failure::{Context, Failure};

/// Longest passphrase accepted, in bytes.
const LONGEST: u64 = 1024;

/// Where to read a passphrase that was not typed.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Nowhere: ask, or there is none.
    None,
    /// The first line of a file.
    File(PathBuf),
    /// The first line of what an open file descriptor gives.
    Descriptor(u32),
}

impl Source {
    /// The passphrase.
    ///
    /// # Errors
    /// If it cannot be read, is empty or too long; usage if there is no source.
    pub(crate) fn read(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        match self {
            Source::None => Err(Failure::usage("no passphrase was given")),
            Source::File(path) => read_first_line(path),
            // Both Linux and the BSDs, macOS among them, have it.
            Source::Descriptor(number) if cfg!(unix) => {
                read_first_line(&PathBuf::from(format!("/dev/fd/{number}")))
            }
            Source::Descriptor(_) => Err(Failure::usage(
                "this system has no file descriptors to read from",
            )
            .help("use `--passphrase-file FILE`")),
        }
    }
}

/// The first line of a file, without its end.
pub(crate) fn read_first_line(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    read_secret_line(path, "passphrase")
}

/// The same, called what it is.
pub(crate) fn read_secret_line(path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    let name = path.display();
    let file = File::open(path).context(format_args!("cannot open the {what} file {name}"))?;
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .context(format_args!("cannot read the {what} file {name}"))?;
    let end = bytes
        .iter()
        .position(|&b| b == b'\n' || b == b'\r')
        .unwrap_or(bytes.len());
    bytes.truncate(end);
    check(bytes, &name.to_string(), what)
}

fn check(bytes: Zeroizing<Vec<u8>>, from: &str, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if bytes.is_empty() || bytes.len() as u64 > LONGEST {
        return Err(Failure::usage(format_args!(
            "{from} must hold a {what} of 1 to {LONGEST} bytes"
        )));
    }
    Ok(bytes)
}

/// Whether there is a person to ask.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && Term::stderr().is_term()
}

/// Asks on the terminal, without showing what is typed.
pub(crate) fn ask(question: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let terminal = Term::stderr();
    let answer = terminal
        .write_str(question)
        .and_then(|()| terminal.read_secure_line());
    let answer = Zeroizing::new(answer.context("cannot ask on the terminal")?);
    let answer = Zeroizing::new(answer.as_bytes().to_vec());
    check(answer, "the answer", "text")
}

/// A new passphrase: from a file, or asked for twice.
pub(super) fn new(
    file: Option<&Path>,
    of: &str,
    option: &str,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if let Some(file) = file {
        return read_first_line(file);
    }
    if !can_ask() {
        return Err(
            Failure::usage(format_args!("no passphrase for the {of} was given")).help(
                format_args!("give it with `{option} FILE`; on a terminal you are asked for it"),
            ),
        );
    }
    let first = ask(&format!("New passphrase of the {of}: "))?;
    let second = ask("The same again: ")?;
    if *first != *second {
        return Err(Failure::usage(
            "the two passphrases differ; nothing was changed",
        ));
    }
    Ok(first)
}
