//! Codes in the local network, for those who ask for it: which numbers can be used here, and on which relay
//! (`docs/decisions/0021-lan-discovery.md`). Multicast DNS, so that nothing has to be set up.

use std::collections::BTreeSet;
use std::time::Duration;

use junto_code::Number;
use junto_code::nearby::{Nearby, SERVICE};
use mdns_sd::{ServiceDaemon, ServiceEvent, ServiceInfo};
use rand_core::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use crate::failure::{Context, Exit, Failure};
use crate::random;

/// How long to look: a second question goes out after the first second.
const LOOK: Duration = Duration::from_secs(3);
/// Most announcements that are looked at. Anybody in the network can make any number of them.
const MOST: usize = 32;
/// How long taking an announcement back may take. What is left of it leads nowhere, and is forgotten after two minutes.
const FAREWELL: Duration = Duration::from_secs(1);
/// An announcement has to name a port; nobody is to connect there (RFC 863).
const NO_PORT: u16 = 9;

/// The announcement of a code, as long as it can be used.
pub(crate) struct Announcement {
    daemon: ServiceDaemon,
    name: String,
}

impl Announcement {
    /// Tells everybody in the local network that a code can be used here. Nothing in it names this machine or its user; where
    /// it comes from, the network sees as with every packet.
    pub(crate) fn make(near: &Nearby) -> Result<Self, Failure> {
        const DOING: &str = "cannot announce the code in the local network";
        let mut name = [0; 8];
        random().fill_bytes(&mut name);
        let name = hex::encode(name);
        let host = format!("{name}.local.");
        let attributes = near.attributes();
        let service = service();
        let info = ServiceInfo::new(&service, &name, &host, "", NO_PORT, &attributes[..]);
        let info = info.context(DOING)?.enable_addr_auto();
        let name = info.get_fullname().to_owned();
        let daemon = ServiceDaemon::new().context(DOING)?;
        daemon.register(info).context(DOING)?;
        Ok(Self { daemon, name })
    }

    /// Takes it back, whenever that gets done.
    pub(crate) fn recall(&self) {
        let _ = self.daemon.unregister(&self.name);
    }

    /// Takes it back, and waits until that is done.
    pub(crate) async fn withdraw(self) {
        self.recall();
        end(&self.daemon).await;
    }
}

fn service() -> String {
    format!("{SERVICE}.local.")
}

async fn end(daemon: &ServiceDaemon) {
    if let Ok(ended) = daemon.shutdown() {
        let _ = timeout(FAREWELL, ended.recv_async()).await;
    }
}

/// The codes that can be used near here: their numbers and relays, as whoever announces them says.
pub(crate) async fn look() -> Result<BTreeSet<Nearby>, Failure> {
    const DOING: &str = "cannot look into the local network";
    let daemon = ServiceDaemon::new().context(DOING)?;
    let heard = daemon.browse(&service()).context(DOING)?;
    let end_of_look = Instant::now() + LOOK;
    let mut near = BTreeSet::new();
    while near.len() < MOST {
        match timeout_at(end_of_look, heard.recv_async()).await {
            Ok(Ok(ServiceEvent::ServiceResolved(found))) => {
                let attribute = |name: &str| found.get_property_val(name).flatten();
                near.extend(Nearby::read(attribute));
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    end(&daemon).await;
    Ok(near)
}

/// The relay of the code with this number.
pub(crate) fn relay_of(number: Number, near: &BTreeSet<Nearby>) -> Result<String, Failure> {
    // Who announces so many may hide the one that is meant.
    if near.len() >= MOST {
        return Err(Failure::refused(format_args!(
            "too many codes are announced in the local network to tell which is meant"
        ))
        .help("name the relay of the code with `--relay`; somebody may want to get between you"));
    }
    let mut relays = near.iter().filter(|near| near.number() == number);
    let first = relays.next().ok_or_else(|| {
        Failure::new(
            Exit::Unreachable,
            format_args!("nobody in the local network announces a code with the number {number}"),
        )
        .help("ask whether the command with `--lan` still runs, and in the same network; or name the relay of the code with `--relay`")
    })?;
    // Each relay could take the one guess that the other's host allows.
    if let Some(other) = relays.next() {
        return Err(Failure::refused(format_args!(
            "codes with the number {number} are announced on several relays: {}, {}",
            first.relay(),
            other.relay()
        ))
        .help("ask the one who gave you the code which one it is, and name that with `--relay`; somebody may want to get between you"));
    }
    Ok(first.relay().to_string())
}

/// For programs.
pub(crate) fn json_of(near: &BTreeSet<Nearby>) -> Value {
    let one = |near: &Nearby| {
        let number: Option<u16> = near.number().to_string().parse().ok();
        json!({ "number": number, "relay": near.relay().to_string() })
    };
    json!({ "near": near.iter().map(one).collect::<Vec<_>>() })
}

/// For people.
pub(crate) fn text_of(near: &BTreeSet<Nearby>) -> String {
    if near.is_empty() {
        return "Nobody in the local network announces a code.".to_owned();
    }
    let line = |near: &Nearby| format!("{}-…  on {}", near.number(), near.relay());
    near.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=";

    fn near(all: &[(&str, &str)]) -> BTreeSet<Nearby> {
        let one = |(number, host): &(&str, &str)| {
            let relay = format!("smp://{PIN}@{host}:5223").parse().unwrap();
            Nearby::new(number.parse().unwrap(), relay).unwrap()
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn a_number_that_two_relays_are_announced_for_is_asked_of_neither() {
        let seven: Number = "7".parse().unwrap();
        let one = near(&[("7", "a.example"), ("8", "b.example"), ("7", "a.example")]);
        let relay = relay_of(seven, &one).unwrap();
        assert_eq!(relay, format!("smp://{PIN}@a.example:5223"));
        let two = near(&[("7", "a.example"), ("7", "b.example")]);
        let refused = relay_of(seven, &two).unwrap_err();
        assert_eq!(refused.exit, Exit::Refused);
        assert!(refused.message.contains("b.example"), "{}", refused.message);
        let names: Vec<_> = (0..MOST).map(|it| format!("r{it}.example")).collect();
        let others = names.iter().skip(1).map(|host| ("8", host.as_str()));
        let crowd: Vec<_> = others.chain([("7", "a.example")]).collect();
        let hidden = relay_of(seven, &near(&crowd));
        assert_eq!(hidden.unwrap_err().exit, Exit::Refused);
        let nobody = relay_of(seven, &near(&[("77", "a.example")])).unwrap_err();
        assert_eq!(nobody.exit, Exit::Unreachable);
    }
}
