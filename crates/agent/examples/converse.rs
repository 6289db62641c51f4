//! A conversation at the terminal with any agent of the protocol, ours or SimpleX's: every line read is
//! sent to the last peer that connected, every message is printed and acknowledged. Lines that ask for something else:
//!
//! | line | what it does |
//! |---|---|
//! | `/sync` | new ratchet keys |
//! | `/rotate [RELAY]` | another queue to receive on |
//! | `/queue RELAY`, `/unqueue RELAY` | one queue more to receive on, or less |
//! | `/copies`, `/stripes` | how messages go to several queues of the peer |
//! | `/noise MILLISECONDS`, `/noise off` | a message at each interval, whatever is said |
//! | `/show` | what the agent knows of the connection |
//!
//! `cargo run -p junto-agent --example converse -- FOLDER RELAY ACTION [OPTION...]`
//!
//! Actions: `invite` prints a link for one peer; `address` prints a link for everybody; `join LINK` connects
//! through one of any kind; `resume` goes on with what FOLDER has; `describe TEXT` has the address's short link say TEXT.
//! Options: `about=TEXT` makes short links, which say TEXT; `each-step` mixes post-quantum keys into every step, `never` routes nothing through other relays,
//! `via=RELAY` routes everything through that one, `echo` sends every message back.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use junto_agent::{
    Agent, AgentConfig, ConnectionId, Event, Events, Lines, Link, Noise, Pace, PostQuantum,
    RequestId, Routing, Spread, Tag,
};
use junto_crypto::aead::StoreKey;
use junto_smp::address::ServerAddress;
use tokio::io::{AsyncBufReadExt, BufReader};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// What a peer is told about us.
const INFO: &[u8] = b"converse";

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows its result")]
async fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let mut required = |what: &'static str| arguments.next().ok_or(what);
    let folder = required("which folder?")?;
    let relay: ServerAddress = required("which relay?")?.parse()?;
    let action = required("invite, address, join LINK or resume?")?;
    let link = match action.as_str() {
        "join" => Some(required("which link?")?.parse::<Link>()?),
        _ => None,
    };
    let text = match action.as_str() {
        "describe" => required("what shall it say?")?,
        _ => String::new(),
    };
    let mut config = AgentConfig::new(Path::new(&folder).join("agent.db"), key(&folder)?);
    let (mut echo, mut about) = (false, None);
    for option in arguments {
        match option.as_str() {
            "each-step" => config.post_quantum = PostQuantum::EachStep,
            "never" => config.routing = Routing::Never,
            "echo" => echo = true,
            other if other.starts_with("about=") => about = Some(other[6..].to_owned()),
            other => {
                let via = other.strip_prefix("via=").ok_or("no such option")?;
                config.routing = Routing::Always;
                config.own_relays = vec![via.parse()?];
            }
        }
    }
    let (agent, events) = Agent::open(config).await?;
    match (action.as_str(), &link) {
        ("invite", _) => {
            let tag = Tag::named(&[b"invite"]);
            match about {
                None => println!(
                    "link {}",
                    agent.create_invitation(tag, &relay, INFO).await?.1
                ),
                Some(about) => {
                    let made = agent.publish_invitation(tag, &relay, INFO, about.as_bytes());
                    let (_, link, short) = made.await?;
                    println!("link {link}\nshort {short}\nweb {}", short.web());
                }
            }
        }
        ("address", _) => {
            let tag = Tag::named(&[b"address"]);
            match about {
                None => println!("link {}", agent.create_address(tag, &relay).await?),
                Some(about) => {
                    let made = agent.publish_address(tag, &relay, about.as_bytes());
                    let (link, short) = made.await?;
                    println!("link {link}\nshort {short}\nweb {}", short.web());
                }
            }
        }
        ("describe", _) => {
            let tag = Tag::named(&[b"address"]);
            agent.describe_address(tag, text.as_bytes()).await?;
            let addresses = [tag].into();
            agent
                .settle(Lines {
                    addresses,
                    ..Lines::default()
                })
                .await?;
            println!("described");
        }
        (_, Some(link)) => {
            let tag = Tag::named(&[b"join", link.to_string().as_bytes()]);
            agent.join(tag, link, &relay, INFO).await?;
        }
        ("resume", None) => {}
        _ => return Err("no such action".into()),
    }
    let spoken_to = converse(&agent, events, &relay, echo).await?;
    agent.settle(spoken_to).await?;
    agent.close().await;
    Ok(())
}

/// Until the terminal, or the agent, ends; gives the connections that may have something to send still.
async fn converse(
    agent: &Agent,
    mut events: Events,
    relay: &ServerAddress,
    echo: bool,
) -> Fallible<Lines> {
    let mut spoken_to = Lines::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut peer = None;
    loop {
        tokio::select! {
            line = lines.next_line() => match (line?, peer) {
                (None, _) => return Ok(spoken_to),
                (Some(line), Some(peer)) => obey(agent, peer, &line).await?,
                (Some(_), None) => show("nobody is connected yet", ""),
            },
            event = events.next() => match event {
                None => return Ok(spoken_to),
                Some(Event::Request { id, info, .. }) => {
                    show("request", &String::from_utf8_lossy(&info));
                    accept(agent, id, relay).await?;
                }
                Some(Event::Opened { about, .. }) => {
                    show("about", &String::from_utf8_lossy(&about));
                }
                Some(Event::Connected { connection, info, .. }) => {
                    show("connected", &String::from_utf8_lossy(&info));
                    peer = Some(connection);
                    spoken_to.connections.insert(connection);
                }
                Some(Event::Message { connection, id, integrity, body }) => {
                    let text = String::from_utf8_lossy(&body);
                    show("message", &format!("{id} {integrity:?} {} {text}", body.len()));
                    agent.ack(connection, id).await?;
                    if echo {
                        say(agent, connection, &body).await?;
                    }
                }
                Some(other) => show("event", &format!("{other:?}")),
            },
        }
    }
}

/// A line of the terminal: a message, or one of those that ask for something else.
async fn obey(agent: &Agent, peer: ConnectionId, line: &str) -> Fallible<()> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let asked = match word {
        "/sync" => agent.resynchronise(peer).await,
        "/rotate" if rest.is_empty() => agent.rotate(peer, None).await,
        "/rotate" => agent.rotate(peer, Some(&rest.parse()?)).await,
        "/queue" => agent.add_queue(peer, &rest.parse()?).await,
        "/unqueue" => agent.remove_queue(peer, &rest.parse()?).await,
        "/copies" => agent.set_spread(peer, Spread::Copies).await,
        "/stripes" => agent.set_spread(peer, Spread::Stripes).await,
        "/noise" => agent.set_noise(peer, noise(rest)?).await,
        "/show" => {
            let overview = agent.overview().await?;
            let ours = overview.connections.iter().find(|it| it.id == peer);
            let ours = ours.ok_or("there is no such connection any more")?;
            let open = ours.receives.iter().filter(|it| it.is_open).count();
            let (all, noise) = (ours.receives.len(), ours.noise);
            show("state", &format!("open {open} of {all} {noise:?}"));
            return Ok(());
        }
        _ => return say(agent, peer, line.as_bytes()).await,
    };
    match asked {
        Ok(()) => show("done", line),
        Err(error) => show("refused", &error.to_string()),
    }
    Ok(())
}

fn noise(text: &str) -> Fallible<Noise> {
    if text == "off" {
        return Ok(Noise::Off);
    }
    if text == "answer" {
        return Ok(Noise::Answers);
    }
    let pace = Pace::new(Duration::from_millis(text.parse()?));
    Ok(Noise::Constant(pace.ok_or("too short or too long")?))
}

async fn accept(agent: &Agent, request: RequestId, relay: &ServerAddress) -> Fallible<()> {
    agent.accept(request, relay, INFO).await?;
    Ok(())
}

async fn say(agent: &Agent, peer: ConnectionId, body: &[u8]) -> Fallible<()> {
    let id = agent.send(peer, body).await?;
    show("sent", &id.to_string());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn show(what: &str, text: &str) {
    println!("{what} {text}");
}

/// The key of the folder's store, made at first use. An application asks for a passphrase instead.
fn key(folder: &str) -> Fallible<StoreKey> {
    let path = Path::new(folder).join("key");
    if !path.exists() {
        std::fs::create_dir_all(folder)?;
        let mut fresh = [0; 32];
        getrandom::fill(&mut fresh)?;
        std::fs::write(&path, fresh)?;
    }
    let bytes: [u8; 32] = std::fs::read(&path)?
        .try_into()
        .map_err(|_| "the key file is damaged")?;
    Ok(StoreKey::from_bytes(&bytes))
}
