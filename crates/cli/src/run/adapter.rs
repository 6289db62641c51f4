//! How a program is told where its peers are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;

use junto_session::adapters::tcp::Greeting;
use serde::Deserialize;
use tempfile::NamedTempFile;

use crate::failure::{Context, Failure};

/// Longest description of a program, in bytes.
const FILE_MAX: u64 = 64 * 1024;
/// The same for MPyC: <https://mpyc.readthedocs.io>, its arguments `-P` and `-I`.
const MPYC: &str = r#"
greeting = "mpyc"
each = ["-P", "{peer}"]
arguments = ["{each}", "-I", "{id}"]
"#;
/// What stands for something in an argument.
const PLACEHOLDERS: [&str; 5] = ["{id}", "{n}", "{port}", "{peers}", "{peers_file}"];

/// What a program wants to be told, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Adapter {
    /// By what the program takes a connection for one of a certain party.
    greeting: Greets,
    /// What the program calls the first party.
    first: usize,
    /// One party, with `{host}`, `{port}` and `{id}`.
    peer: String,
    /// Between parties in `{peers}`.
    separator: String,
    /// Arguments for each party, with `{peer}` and `{id}`; together they are `{each}`.
    each: Vec<String>,
    /// Arguments that follow the command.
    arguments: Vec<String>,
    /// What is put into the program's environment.
    environment: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Greets {
    #[default]
    Unknown,
    Mpyc,
}

impl Default for Adapter {
    fn default() -> Self {
        Self {
            greeting: Greets::default(),
            first: 0,
            peer: "{host}:{port}".to_owned(),
            separator: ",".to_owned(),
            each: Vec::new(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
        }
    }
}

/// One party's view of all: its own rank, and where each is to be found, in order.
pub(crate) struct Places {
    pub(crate) me: usize,
    pub(crate) all: Vec<SocketAddr>,
}

/// A program with everything that it is told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Removed when the program has ended.
    _peers: Option<NamedTempFile>,
}

impl Adapter {
    /// The one that is named, or that suits the command.
    ///
    /// # Errors
    /// If there is no such one, or it does not suit the command.
    pub(crate) fn of(name: Option<&str>, command: &[String]) -> Result<Self, Failure> {
        let placed = command
            .iter()
            .any(|argument| PLACEHOLDERS.iter().any(|place| argument.contains(place)));
        match name {
            Some("tcp") if !placed => Err(Failure::usage(
                "nothing in the command tells the program where its peers are",
            )
            .help("put {peers} (or {peers_file}) and {id} where the program takes them; `junto run --help` lists what there is")),
            Some("tcp") => Ok(Self::default()),
            None if placed => Ok(Self::default()),
            Some("mpyc") | None => Self::parse(MPYC, "mpyc"),
            Some(file) => {
                let open = fs::File::open(file).map_err(|error| {
                    Failure::usage(format_args!("--adapter {file}: {error}"))
                        .help("it is mpyc, tcp, or a file that describes the program (docs/guides/programs.md)")
                })?;
                let mut text = String::new();
                open.take(FILE_MAX + 1)
                    .read_to_string(&mut text)
                    .context(format_args!("cannot read {file}"))?;
                if text.len() as u64 > FILE_MAX {
                    return Err(Failure::usage(format_args!("{file} is too long for a description of a program")));
                }
                Self::parse(&text, file)
            }
        }
    }

    fn parse(text: &str, name: &str) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| {
            Failure::usage(format_args!("{name}: {}", error.message()))
                .help("docs/guides/programs.md describes the format")
        })
    }

    /// What a connection has to begin with.
    pub(crate) fn greeting(&self) -> Greeting {
        match self.greeting {
            Greets::Unknown => Greeting::Unknown,
            Greets::Mpyc => Greeting::Mpyc,
        }
    }

    /// Whether the command has TLS of its own hide what its connections begin with.
    pub(crate) fn hides_greeting(&self, command: &[String]) -> bool {
        // MPyC takes the beginning of an option for the option.
        let is_ssl = |word: &String| word.len() > 2 && "--ssl".starts_with(word.as_str());
        self.greeting() == Greeting::Mpyc && command.iter().any(is_ssl)
    }

    /// The command as the program is to see it.
    ///
    /// # Errors
    /// If the file of peers cannot be written.
    pub(crate) fn tell(&self, command: &[String], places: &Places) -> Result<Told, Failure> {
        let peer = |(rank, place): (usize, &SocketAddr)| {
            fill(
                &self.peer,
                &[
                    ("{host}", &place.ip().to_string()),
                    ("{port}", &place.port().to_string()),
                    ("{id}", &self.id(rank)),
                ],
            )
        };
        let peers: Vec<String> = places.all.iter().enumerate().map(peer).collect();
        let words = command.iter().chain(&self.arguments);
        let wants_file = words
            .chain(self.environment.values())
            .any(|word| word.contains("{peers_file}"));
        let file = wants_file.then(|| peers_file(&peers)).transpose()?;
        let path = file
            .as_ref()
            .map_or_else(String::new, |file| file.path().display().to_string());
        let own = places.all.get(places.me).map_or(0, SocketAddr::port);
        let known = [
            ("{id}", &self.id(places.me)),
            ("{n}", &places.all.len().to_string()),
            ("{port}", &own.to_string()),
            ("{peers}", &peers.join(&self.separator)),
            ("{peers_file}", &path),
        ];
        let each: Vec<String> = peers
            .iter()
            .enumerate()
            .flat_map(|(rank, peer)| {
                let id = self.id(rank);
                let words = self.each.iter();
                words.map(move |word| fill(word, &[("{peer}", peer), ("{id}", &id)]))
            })
            .collect();
        let mut told: Vec<String> = command.iter().map(|word| fill(word, &known)).collect();
        for word in &self.arguments {
            match word.as_str() {
                "{each}" => told.extend_from_slice(&each),
                word => told.push(fill(word, &known)),
            }
        }
        let environment = self.environment.iter();
        Ok(Told {
            command: told,
            environment: environment
                .map(|(name, value)| (name.clone(), fill(value, &known)))
                .collect(),
            _peers: file,
        })
    }

    fn id(&self, rank: usize) -> String {
        (self.first + rank).to_string()
    }
}

fn peers_file(peers: &[String]) -> Result<NamedTempFile, Failure> {
    let write = || -> std::io::Result<NamedTempFile> {
        let mut file = NamedTempFile::with_prefix("junto-peers-")?;
        for peer in peers {
            writeln!(file, "{peer}")?;
        }
        Ok(file)
    };
    write().context("cannot write the file of peers")
}

/// Replaces each placeholder once over: what is put in is not looked at again.
fn fill(text: &str, known: &[(&str, &String)]) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        match known.iter().find(|(place, _)| rest.starts_with(place)) {
            Some((place, value)) => {
                filled.push_str(value);
                rest = &rest[place.len()..];
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            me: 1,
            all: [7000, 7001, 7002]
                .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
                .to_vec(),
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn told(name: Option<&str>, command: &str) -> Vec<String> {
        let command = words(command);
        let adapter = Adapter::of(name, &command).unwrap();
        adapter.tell(&command, &places()).unwrap().command
    }

    #[test]
    fn mpyc_gets_its_arguments_after_those_of_the_program() {
        assert_eq!(
            told(None, "python3 santa.py 4"),
            words("python3 santa.py 4 -P 127.0.0.1:7000 -P 127.0.0.1:7001 -P 127.0.0.1:7002 -I 1")
        );
    }

    #[test]
    fn who_greets_is_known_of_mpyc_alone_and_hidden_by_its_tls() {
        let of = |name, command: &str| {
            let command = words(command);
            let adapter = Adapter::of(name, &command).unwrap();
            (adapter.greeting(), adapter.hides_greeting(&command))
        };
        let mpyc = Greeting::Mpyc;
        assert_eq!(of(None, "python3 santa.py 4"), (mpyc, false));
        assert_eq!(of(None, "python3 santa.py --ssl -K"), (mpyc, true));
        assert_eq!(of(None, "python3 santa.py --ss -- -s"), (mpyc, true));
        assert_eq!(of(None, "./p {peers} --ssl"), (Greeting::Unknown, false));
    }

    #[test]
    fn placeholders_are_filled() {
        assert_eq!(
            told(None, "./p --me={id}/{n} --at {port} {peers} {json} {"),
            words("./p --me=1/3 --at 7001 127.0.0.1:7000,127.0.0.1:7001,127.0.0.1:7002 {json} {")
        );
        let wrong = Adapter::of(Some("tcp"), &words("./p")).unwrap_err();
        assert!(wrong.help.unwrap().contains("{peers}"));
    }

    #[test]
    fn a_program_is_described_in_a_file() {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(
            br#"
            first = 1
            peer = "{id}@{host}/{port}"
            separator = ";"
            each = ["--party", "{peer}"]
            arguments = ["--all", "{peers}", "{each}", "--list={peers_file}"]
            [environment]
            ME = "{id}"
            "#,
        )
        .unwrap();
        let command = words("./p");
        let adapter = Adapter::of(file.path().to_str(), &command).unwrap();
        let told = adapter.tell(&command, &places()).unwrap();
        let all = ["1@127.0.0.1/7000", "2@127.0.0.1/7001", "3@127.0.0.1/7002"];
        assert_eq!(told.command[..3], ["./p", "--all", &all.join(";")]);
        assert_eq!(told.command[3..5], ["--party", all[0]]);
        let list = told
            .command
            .last()
            .unwrap()
            .strip_prefix("--list=")
            .unwrap();
        assert_eq!(fs::read_to_string(list).unwrap(), all.join("\n") + "\n");
        assert_eq!(told.environment["ME"], "2");
        let list = list.to_owned();
        drop(told);
        assert!(!fs::exists(list).unwrap(), "it leaves nothing behind");
    }

    #[test]
    fn a_wrong_description_is_refused() {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(b"frist = 1").unwrap();
        let failure = Adapter::of(file.path().to_str(), &words("./p")).unwrap_err();
        assert!(failure.message.contains("frist"), "{}", failure.message);
        assert!(Adapter::of(Some("no such file"), &words("./p")).is_err());
        // It has no length, and no end.
        assert!(Adapter::of(Some("/dev/zero"), &words("./p")).is_err());
    }
}
