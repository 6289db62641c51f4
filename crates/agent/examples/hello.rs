//! Two strangers exchange a message over a relay, any SMP server:
//!
//! ```sh
//! cargo run -p junto-agent --example hello -- RELAY         # prints a link for the other one, and waits
//! cargo run -p junto-agent --example hello -- RELAY 'LINK'  # on another machine
//! ```

use junto_agent::store::MemoryStore;
use junto_agent::{Agent, Event, Lines, Reconnect, Tag};

type Fallible = Result<(), Box<dyn std::error::Error + Send + Sync>>;

pub(crate) async fn hello(relay: &str, link: Option<&str>, show: impl Fn(String)) -> Fallible {
    // An agent that forgets everything when it ends; `Agent::open` keeps it in an encrypted file.
    let store = Box::new(MemoryStore::default());
    let (agent, mut events) = Agent::open_with(store, true, Reconnect::default()).await?;
    let (relay, tag) = (relay.parse()?, Tag::named(&[b"hello"]));
    let peer = match link {
        Some(link) => agent.join(tag, &link.parse()?, &relay, b"").await?,
        None => {
            let (peer, link) = agent.create_invitation(tag, &relay, b"").await?;
            show(link.to_string());
            peer
        }
    };
    while let Some(event) = events.next().await {
        match event {
            Event::Connected { .. } => drop(agent.send(peer, b"hello, stranger").await?),
            Event::Message { id, body, .. } => {
                show(String::from_utf8_lossy(&body).into_owned());
                agent.ack(peer, id).await?;
                break;
            }
            Event::Failed { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
    // Ours is on the relay when this returns: the other side gets it even if we are gone.
    let connections = [peer].into();
    let addresses = [].into();
    agent
        .settle(Lines {
            addresses,
            connections,
        })
        .await?;
    agent.close().await;
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows its result")]
async fn main() -> Fallible {
    let mut arguments = std::env::args().skip(1);
    let relay = arguments.next().ok_or("which relay?")?;
    let link = arguments.next();
    hello(&relay, link.as_deref(), |line| println!("{line}")).await
}
