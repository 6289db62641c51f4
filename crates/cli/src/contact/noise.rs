//! `junto contact noise`: messages go at times that have nothing to do with what is said.

use std::time::Duration;

use junto_agent::{Noise, NoiseView};
use serde_json::{Value, json};

use super::{Contacts, GLANCE, one, refuse_apps};
use crate::args::NoiseCommand;
use crate::failure::Failure;
use crate::open::agent_failure;
use crate::output::Output;

impl From<&NoiseCommand> for Noise {
    fn from(how: &NoiseCommand) -> Self {
        match how {
            NoiseCommand::Constant { every } => Self::Constant(*every),
            NoiseCommand::Random { mean } => Self::Random(*mean),
            NoiseCommand::Answer => Self::Answers,
            NoiseCommand::Off => Self::Off,
        }
    }
}

pub(super) async fn choose(
    contacts: &mut Contacts,
    name: &str,
    how: &NoiseCommand,
    output: Output,
) -> Result<(), Failure> {
    let contact = contacts.contact(name).await?;
    let noise = Noise::from(how);
    if noise != Noise::Off {
        refuse_apps(&contact, name, "noise")?;
    }
    let id = contact.id;
    let set = contacts.agent.set_noise(id, noise).await;
    set.map_err(agent_failure)?;
    // The contact is told now, if the relays are there, or with a later command.
    let _ = contacts.settle(one(id), GLANCE).await;
    let noise = contacts.contact(name).await?.noise;
    let value = json!({ "contact": name, "noise": noise_json(noise) });
    output.result(&value, || format!("{name}: {}", noise_text(name, noise)))
}

fn interval(noise: Noise) -> Option<Duration> {
    match noise {
        Noise::Off | Noise::Answers => None,
        Noise::Constant(pace) | Noise::Random(pace) => Some(pace.interval()),
    }
}

/// When both sides send, for programs.
pub(crate) fn noise_json(noise: NoiseView) -> Value {
    json!({
        "kind": match noise.ours {
            Noise::Off => "off",
            Noise::Answers => "answer",
            Noise::Constant(_) => "constant",
            Noise::Random(_) => "random",
        },
        "interval_ms": interval(noise.ours).map(|it| it.as_millis()),
        "running": noise.is_running,
        "peer": noise.is_peers,
    })
}

/// The same for people.
pub(super) fn noise_text(name: &str, noise: NoiseView) -> String {
    let ours = match noise.ours {
        Noise::Off | Noise::Answers => "what you send goes at once, and relays see when".to_owned(),
        Noise::Constant(pace) => format!("a message goes every {:?}", pace.interval()),
        Noise::Random(pace) => format!("a message goes every {:?} on average", pace.interval()),
    };
    let is_chosen = interval(noise.ours).is_some();
    let state = match (is_chosen, noise.is_running, noise.is_peers) {
        (true, false, _) => format!(
            ", as soon as {name} chooses noise as well, or `junto contact noise … answer`; until then what you send goes at once"
        ),
        (false, ..) if noise.ours == Noise::Answers => match noise.is_peers {
            true => format!("; {name} has noise, and gets an answer to each message"),
            false => format!("; noise of {name} is answered, once it has some"),
        },
        (true, true, false) => {
            format!(", while something runs; {name} has none: when it writes can be seen")
        }
        (true, true, true) => format!(", while something runs, and from {name} likewise"),
        (false, _, true) => format!(
            "; {name} wants noise, which begins when you choose some, or `junto contact noise {name} answer`"
        ),
        (false, _, false) => String::new(),
    };
    format!("{ours}{state}")
}
