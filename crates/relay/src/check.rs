//! A look at a relay's folder before it is started: what would go wrong, and what is unwise.

use std::path::Path;

use crate::config::{Problem, RelayConfig, Storage};
use crate::folder::{self, CONFIG_FILE, FolderError};
use crate::proxy::ProxyConfig;
use crate::sources::Made;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// What must be corrected before the relay starts.
    pub problems: Vec<Problem>,
    /// What works and may not be what the operator wants.
    pub advice: Vec<Problem>,
}

/// File descriptors that a relay needs besides those of its connections.
const SPARE_FILES: usize = 64;

/// Looks at the relay in `dir`. Changes nothing, and does not care whether the relay runs.
///
/// # Errors
/// [`FolderError::Io`] if `relay.toml` cannot be read; everything else is found.
pub fn check(dir: &Path) -> Result<Checked, FolderError> {
    let mut checked = Checked::default();
    let path = dir.join(CONFIG_FILE);
    let text = std::fs::read_to_string(&path).map_err(|source| FolderError::Io { path, source })?;
    match RelayConfig::parse(&text, dir) {
        Ok(config) => advise(&config, dir, &mut checked.advice),
        Err(error) => checked.problems.extend_from_slice(error.problems()),
    }
    if let Err(error) = folder::load_identity(dir) {
        checked.problems.push(Problem {
            line: None,
            message: error.to_string().into(),
            remedy: "restore the file, or make a new leaf with `junto relay rotate-certificate`"
                .into(),
        });
    }
    Ok(checked)
}

fn advise(config: &RelayConfig, dir: &Path, advice: &mut Vec<Problem>) {
    let mut say = |holds: bool, message: &str, remedy: &str| {
        if holds {
            advice.push(Problem {
                line: None,
                message: message.into(),
                remedy: remedy.into(),
            });
        }
    };
    say(
        config
            .timeouts
            .unused_queue_days
            .is_some_and(|days| days < 180),
        "contact addresses whose owners are away for some months are dropped",
        "set `timeouts.unused_queue_days` to 180 or more, or to 0",
    );
    say(
        config.password.is_none(),
        "everybody may create queues here",
        "set `password` if this relay is not for the public",
    );
    say(
        config
            .monitor
            .listen
            .is_some_and(|at| !at.ip().is_loopback()),
        "`monitor.listen` is open to other machines, without encryption or password",
        "listen on 127.0.0.1, or let only your monitoring reach it",
    );
    let limits = &config.limits;
    for (name, made, one, all) in [
        (
            "queues",
            Made::Queue,
            limits.queues_per_day_per_source,
            limits.queues,
        ),
        (
            "services",
            Made::Service,
            limits.services_per_day_per_source,
            limits.services,
        ),
    ] {
        let uses_up = |budget| usize::try_from(budget).is_ok_and(|budget| budget >= all);
        let site = one.saturating_mul(made.site_sources());
        let who = match uses_up(one) {
            true => "source",
            false => "IPv6 network of 48 bits",
        };
        say(
            uses_up(site),
            &format!("`limits.{name}_per_day_per_source` lets one {who} use up `limits.{name}`"),
            "set it below, to a two-hundredth for example",
        );
    }
    advise_on_proxy(&config.proxy, &mut say);
    say(
        config.storage == Storage::Memory,
        "`storage.mode` is \"memory\": a restart loses all queues",
        "set it to \"journal\" unless that is what you want",
    );
    say(
        dir.join(junto_tls::identity::AUTHORITY_KEY).exists(),
        "ca.key is on this machine: whoever breaks in can be this relay for ever",
        "move it to a safe place; only `junto relay rotate-certificate` needs it",
    );
    let needed = config.limits.connections.saturating_add(SPARE_FILES);
    let files = open_files_limit();
    say(
        files.is_some_and(|files| files < needed),
        &format!(
            "`limits.connections` needs {needed} open files, and this shell allows {}",
            files.unwrap_or_default()
        ),
        "raise the limit of the service (LimitNOFILE= in its unit), or lower `limits.connections`",
    );
}

fn advise_on_proxy(proxy: &ProxyConfig, say: &mut impl FnMut(bool, &str, &str)) {
    say(
        proxy.enabled && proxy.allow_private,
        "`proxy.allow_private` lets every user knock at what this machine can reach",
        "remove it, unless this is a closed network",
    );
    say(
        proxy.enabled && proxy.allow_own,
        "`proxy.allow_own` lets every user knock at the other services of this machine",
        "remove it, unless relays on this machine must reach each other",
    );
    let limits = &proxy.limits;
    for (name, one, all_name, all) in [
        (
            "connecting_per_source",
            limits.connecting_per_source,
            "connecting",
            limits.connecting,
        ),
        (
            "destinations_per_source",
            limits.destinations_per_source,
            "destinations",
            limits.destinations,
        ),
        (
            "forwards_per_source",
            limits.forwards_per_source,
            "forwards",
            limits.forwards,
        ),
        (
            "forwards_per_source",
            limits.forwards_per_source,
            "forwards_per_destination",
            limits.forwards_per_destination,
        ),
    ] {
        say(
            proxy.enabled && one >= all,
            &format!("`proxy.{name}` lets one source use up `proxy.{all_name}`"),
            "set it below, to a quarter for example",
        );
    }
}

/// How many files a process may open, where the system tells it as Linux does.
fn open_files_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_relay_has_no_problem_and_some_advice() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("relay");
        folder::init_dir(&dir, "relay.example", 5223).unwrap();
        let checked = check(&dir).unwrap();
        assert_eq!(checked.problems, []);
        let all = format!("{:?}", checked.advice);
        assert!(all.contains("ca.key") && all.contains("password"), "{all}");
    }

    #[test]
    fn settings_and_identity_are_looked_at_together() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("relay");
        folder::init_dir(&dir, "relay.example", 5223).unwrap();
        std::fs::write(dir.join(CONFIG_FILE), "hosts = []\nport = 0.5\n").unwrap();
        std::fs::remove_file(dir.join(junto_tls::identity::LEAF_KEY)).unwrap();
        let checked = check(&dir).unwrap();
        assert_eq!(checked.problems.len(), 3, "{checked:?}");
        assert!(checked.problems[2].message.contains("server.key"));
        assert!(check(&outer.path().join("none")).is_err());
    }

    #[test]
    fn what_lets_one_source_use_up_the_relay_is_named() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("relay");
        folder::init_dir(&dir, "relay.example", 5223).unwrap();
        for (services, named) in [(999, false), (1_000, true)] {
            let settings = format!(
                "hosts = [\"relay.example\"]\n[limits]\nservices_per_day_per_source = {services}\n"
            );
            std::fs::write(dir.join(CONFIG_FILE), settings).unwrap();
            let advice = check(&dir).unwrap().advice;
            let says = |text: &str| advice.iter().any(|it| it.message.contains(text));
            assert_eq!(says("lets one source use up `limits.services`"), named);
            assert!(!says("use up `limits.queues`"));
        }
        // Of queues, a network of 48 bits may make sixteen times as many.
        for (queues, named) in [(62, false), (63, true)] {
            let settings = format!(
                "hosts = [\"relay.example\"]\n[limits]\nqueues = 1_000\n\
                queues_per_day_per_source = {queues}\n"
            );
            std::fs::write(dir.join(CONFIG_FILE), settings).unwrap();
            let advice = check(&dir).unwrap().advice;
            let says = |text: &str| advice.iter().any(|it| it.message.contains(text));
            let network = "lets one IPv6 network of 48 bits use up `limits.queues`";
            assert_eq!(says(network), named, "{queues}");
        }
    }

    #[test]
    fn what_lets_one_source_use_up_the_proxy_is_named() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("relay");
        folder::init_dir(&dir, "relay.example", 5223).unwrap();
        let settings = "hosts = [\"relay.example\"]\n[proxy]\nallow_own = true\n\
            connecting_per_source = 64\nforwards_per_source = 128\n";
        std::fs::write(dir.join(CONFIG_FILE), settings).unwrap();
        let checked = check(&dir).unwrap();
        assert_eq!(checked.problems, []);
        let advice: Vec<_> = checked.advice.iter().map(|it| &*it.message).collect();
        let named = |text: &str| advice.iter().any(|it| it.contains(text));
        assert!(named("`proxy.allow_own`"));
        assert!(named(
            "`proxy.connecting_per_source` lets one source use up `proxy.connecting`"
        ));
        assert!(named("use up `proxy.forwards_per_destination`"));
        assert!(!named("use up `proxy.forwards`") && !named("destinations_per_source"));
        let settings = "hosts = [\"relay.example\"]\n[proxy]\nrefuse = [\"198.51.100.0/33\"]\n\
            failures_per_second_per_source = 0\n";
        std::fs::write(dir.join(CONFIG_FILE), settings).unwrap();
        let lines = check(&dir).unwrap().problems;
        let lines: Vec<_> = lines.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [Some(3), Some(4)]);
    }
}
