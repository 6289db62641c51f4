//! A realm on this machine: its folder, its replicas as processes, and three of them for trying.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use futures::future::{join_all, select_all};
use junto_crypto::ed25519::SigningKey;
use junto_evidence::Policy;
use junto_realm::{ADDRESSES_MAX, Card, Member, now};
use junto_tls::files::{self, Mode};
use junto_vault::{Quorum, RealmId, ReplicaId};
use rand_core::Rng as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::frontend::Doors;
use super::process::{Running, asked_to_end};
use super::replica::{Begin, Born, Ready};
use super::set::{self, RealmFile, TenantFile};
use crate::failure::{Context, Failure};
use crate::input;
use crate::output::Output;
use crate::random;

const SETTINGS: &str = "realm.toml";
const KEY: &str = "realm.key";
const PUBLIC: &str = "realm.json";
const POLICY: &str = "policy.json";
const POLICY_MAX: u64 = 1024 * 1024;
/// There once records have left for another group of the realm: a group that is started again must not serve their names, too.
const LEFT: &str = "records-have-left.txt";
const LEFT_TEXT: &str = "\
Records of this realm have moved from here to another group, so `junto vault realm start` begins with none here.
Two groups that both begin with all records would count guesses twice.
Remove this file only if no other group of the realm runs: then this one begins with all records, empty.
";
/// Records of all tenants together: a replica that was away gets all of them in one piece, of at most 64 MiB.
const RECORDS_MAX: usize = 4096;
/// Records of each tenant unless the settings say otherwise, or there are too many tenants for that.
const RECORDS_EACH: u32 = 1000;

/// `realm.toml`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    host: String,
    /// The address that the replicas listen on.
    bind: IpAddr,
    /// Of the first replica; 0 takes whichever is free.
    port: u16,
    replicas: u8,
    rollbacks: u8,
    /// Processes before the replicas, at the ports behind theirs.
    #[serde(default)]
    frontends: u8,
    records_max: u32,
    /// It begins with all records of the realm; otherwise with none, until a range moves here.
    #[serde(default = "yes")]
    everything: bool,
    /// What every member of a group has to show before a range goes there: a file beside this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<PathBuf>,
    tenants: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// The address itself, or all of this machine's.
fn bind(host: &str) -> IpAddr {
    host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

impl Settings {
    pub(super) fn new(
        host: String,
        port: u16,
        replicas: u8,
        rollbacks: u8,
        tenants: &[String],
    ) -> Result<Self, Failure> {
        let named = tenants.iter().map(|text| {
            let (name, public) = set::tenant(text)?;
            Ok((name, hex::encode(public.as_bytes())))
        });
        let most = u32::try_from(RECORDS_MAX).unwrap_or(u32::MAX);
        let settings = Self {
            bind: bind(&host),
            host,
            port,
            replicas,
            rollbacks,
            frontends: 0,
            records_max: RECORDS_EACH
                .min(most / u32::try_from(tenants.len()).unwrap_or(most).max(1)),
            everything: true,
            policy: None,
            tenants: named.collect::<Result<_, Failure>>()?,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Another group of the realm of `dir`: what is not said here is as it is there.
    pub(super) fn group_of(
        dir: &Path,
        host: String,
        port: u16,
        replicas: u8,
        rollbacks: u8,
    ) -> Result<Self, Failure> {
        let mut settings = Self {
            bind: bind(&host),
            host,
            port,
            replicas,
            rollbacks,
            everything: false,
            ..Self::read(dir)?
        };
        // Its file is copied to there.
        settings.policy = settings.policy.map(|_| POLICY.into());
        settings.check()?;
        Ok(settings)
    }

    pub(super) fn with_frontends(self, frontends: u8) -> Result<Self, Failure> {
        let settings = Self { frontends, ..self };
        settings.check()?;
        Ok(settings)
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn bind(&self) -> IpAddr {
        self.bind
    }

    pub(super) fn policy(&self, dir: &Path) -> Result<Option<Policy>, Failure> {
        let Some(name) = &self.policy else {
            return Ok(None);
        };
        let policy = set::read_policy(&dir.join(name))?;
        Ok(Some(policy))
    }

    /// As it stands in its file.
    fn policy_text(&self, dir: &Path) -> Result<Option<String>, Failure> {
        let Some(name) = &self.policy else {
            return Ok(None);
        };
        self.policy(dir)?;
        input::read_short(&dir.join(name), POLICY_MAX).map(Some)
    }

    fn check(&self) -> Result<Quorum, Failure> {
        for (name, public) in &self.tenants {
            set::tenant(&format!("{name}={public}"))?;
        }
        let most = usize::try_from(self.records_max).unwrap_or(usize::MAX);
        let most = most.saturating_mul(self.tenants.len());
        if !(1..=RECORDS_MAX).contains(&most) {
            return Err(Failure::usage(format_args!(
                "`records_max` times the tenants must be 1 to {RECORDS_MAX}"
            )));
        }
        let last = u32::from(self.port) + u32::from(self.replicas) + u32::from(self.frontends);
        if self.host.is_empty() || self.host.len() > 240 || last > 1 + u32::from(u16::MAX) {
            return Err(Failure::usage("the host or the port is none"));
        }
        Quorum::new(self.replicas, self.rollbacks).map_err(Failure::usage)
    }

    pub(super) fn read(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(SETTINGS);
        let text = input::read_short(&path, 1024 * 1024)?;
        let settings: Self = toml::from_str(&text)
            .map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))?;
        settings.check()?;
        Ok(settings)
    }

    fn text(&self) -> String {
        let tenants = self
            .tenants
            .iter()
            .map(|(name, public)| format!("{} = \"{public}\"\n", Value::from(name.as_str())));
        format!(
            "# Junto vault realm. Everything that it keeps is in the memory of its replicas, and gone when they end.\n\n\
             # Where clients reach it: the first replica at this port, the others at the next ones.\n\
             host = {}\nport = {}\n\
             # The address of this machine that they listen on.\n\
             bind = \"{}\"\n\n\
             # Any minority of the replicas may be lost. `rollbacks` of them may have their memory turned back by who runs\n\
             # the machine without a guess more; then more of them have to hold each answer.\n\
             replicas = {}\nrollbacks = {}\n\n\
             # Frontends: processes that keep nothing and stand before the replicas, at the ports behind theirs. Clients are told of these alone\n\
             # (`realm.json`), and the replicas' ports need not be open to anybody else.\n\
             frontends = {}\n\n\
             # Records kept for each tenant; for all tenants together at most {RECORDS_MAX}.\n\
             records_max = {}\n\n\
             # Whether it begins with all records of the realm, or with none until `junto vault realm move` brings some.\n\
             everything = {}\n\n\
             # What every member of a group has to show before a range moves there, and every replica before a frontend passes anything on\n\
             # to it: a policy beside this file, as for `junto vault set`.\n\
             {}policy = {}\n\n\
             # Who answers for users: names and public keys, as `junto vault tenant` prints them.\n\
             [tenants]\n{}",
            Value::from(self.host.as_str()),
            self.port,
            self.bind,
            self.replicas,
            self.rollbacks,
            self.frontends,
            self.records_max,
            self.everything,
            if self.policy.is_some() { "" } else { "# " },
            Value::from(
                self.policy
                    .as_ref()
                    .map_or(POLICY.into(), |it| it.to_string_lossy())
            ),
            tenants.collect::<String>(),
        )
    }

    /// One after the other, at `host`.
    fn places(&self, host: &str, first: u8, count: u8) -> Vec<String> {
        let ports = (0..u16::from(count)).map(|number| match self.port {
            0 => 0,
            port => port + u16::from(first) + number,
        });
        ports.map(|port| place(host, port)).collect()
    }

    /// Where clients reach the replicas.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.places(&self.host, 0, self.replicas)
    }

    /// What clients are told.
    fn for_clients(&self) -> Vec<String> {
        match self.frontends {
            0 => self.addresses(),
            count => self.places(&self.host, self.replicas, count),
        }
    }

    /// Of each frontend: where it listens, and where clients reach it, if that is not known when it runs only.
    fn doors(&self) -> Vec<(String, Option<String>)> {
        let listen = self.places(&self.bind.to_string(), self.replicas, self.frontends);
        let known = self.places(&self.host, self.replicas, self.frontends);
        let known = known
            .into_iter()
            .map(|it| Some(it).filter(|_| self.port != 0));
        listen.into_iter().zip(known).collect()
    }
}

pub(super) fn place(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Before records may leave the group of that folder: durably.
pub(super) fn leave(dir: &Path) -> Result<(), Failure> {
    let path = dir.join(LEFT);
    files::replace(&path, LEFT_TEXT.as_bytes(), Mode::Private)
        .context(format_args!("cannot write {}", path.display()))
}

/// Nothing is anywhere else: the group serves all names of the realm.
pub(super) fn stay(dir: &Path) -> Result<(), Failure> {
    let path = dir.join(LEFT);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(format_args!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn has_left(dir: &Path) -> Result<bool, Failure> {
    let path = dir.join(LEFT);
    std::fs::exists(&path).context(format_args!("cannot read {}", path.display()))
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    let making = format!("cannot make {}", dir.display());
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(dir).context(&making)?;
    if std::fs::read_dir(dir).context(&making)?.next().is_some() {
        return Err(
            Failure::usage(format_args!("{} is not empty", dir.display()))
                .help("name another folder"),
        );
    }
    Ok(())
}

/// The first of a group's own addresses, and of those of the groups before it: as many as clients are told, some of each.
fn both(mut own: Vec<String>, others: Vec<String>) -> Vec<String> {
    own.truncate(ADDRESSES_MAX - others.len().min(ADDRESSES_MAX / 2));
    own.extend(others);
    own.truncate(ADDRESSES_MAX);
    own
}

/// Makes the folder of a realm, or of another group of the realm of `first`.
fn make(dir: &Path, settings: &Settings, first: Option<&Path>) -> Result<RealmFile, Failure> {
    let (key, others) = match first {
        Some(first) => (
            read_key(first)?,
            set::read_realm(&first.join(PUBLIC))?.addresses,
        ),
        None => (SigningKey::generate(&mut random()), Vec::new()),
    };
    // What the first group lets go, this one does not let go more easily.
    let policy = match first {
        Some(first) => Settings::read(first)?.policy_text(first)?,
        None => None,
    };
    make_dir(dir)?;
    // Whoever is told of this group is told of the first one, too: either sends clients to where their records are.
    let public = RealmFile::new(&id_of(&key), both(settings.for_clients(), others));
    let seed = Zeroizing::new(hex::encode(key.seed()) + "\n");
    let writing = format!("cannot write into {}", dir.display());
    files::create(&dir.join(KEY), seed.as_bytes(), Mode::Private).context(&writing)?;
    public.write(&dir.join(PUBLIC))?;
    if let Some(policy) = policy {
        files::create(&dir.join(POLICY), policy.as_bytes(), Mode::Private).context(&writing)?;
    }
    // Last: a folder with settings is whole.
    let text = settings.text();
    files::create(&dir.join(SETTINGS), text.as_bytes(), Mode::Private).context(&writing)?;
    Ok(public)
}

pub(super) fn read_key(dir: &Path) -> Result<SigningKey, Failure> {
    let text = Zeroizing::new(input::read_short(&dir.join(KEY), 100)?);
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), &mut seed[..])
        .map_err(|_| Failure::failed("the realm's key is damaged"))?;
    Ok(SigningKey::from_seed(&seed))
}

pub(super) fn id_of(key: &SigningKey) -> RealmId {
    RealmId(*key.verifying_key().as_bytes())
}

/// `junto vault realm init`.
pub(super) fn init(
    dir: &Path,
    settings: &Settings,
    first: Option<&Path>,
    output: Output,
) -> Result<(), Failure> {
    let public = make(dir, settings, first)?;
    let file = dir.join(PUBLIC);
    output.result(
        &json!({ "realm": public.realm, "addresses": public.addresses, "file": file }),
        || {
            format!(
                "{}\n\nFor clients: {}. Start it with: junto vault realm start --dir {}",
                public.realm,
                file.display(),
                dir.display()
            )
        },
    )
}

/// A realm whose replicas run.
struct Group {
    realm: RealmId,
    addresses: Vec<String>,
    quorum: Quorum,
    replicas: Vec<Running>,
    frontends: Doors,
}

impl Group {
    async fn start(dir: &Path, settings: &Settings, output: Output) -> Result<Self, Failure> {
        let quorum = settings.check()?;
        let key = read_key(dir)?;
        let mut replicas = Vec::new();
        let mut born: Vec<Born> = Vec::new();
        for listen in settings.places(&settings.bind.to_string(), 0, settings.replicas) {
            replicas.push(Running::start("replica", &listen)?);
        }
        for replica in &mut replicas {
            born.push(replica.line().await?);
        }
        for advice in born.first().iter().flat_map(|born| &born.short) {
            output.say(format_args!("not as it should be: {advice}"));
        }
        let addresses: Vec<String> = match settings.port {
            0 => born.iter().map(|born| born.address.clone()).collect(),
            _ => settings.addresses(),
        };
        let mut members = Vec::new();
        for (born, address) in born.iter().zip(&addresses) {
            let mut id = [0; 32];
            hex::decode_to_slice(&born.id, &mut id).context("a replica has no key")?;
            members.push(Member {
                id: ReplicaId(id),
                address: address.clone(),
            });
        }
        members.sort_by_key(|member| member.id);
        let card = Card::sign(&key, now(), quorum, members).context("the group makes no sense")?;
        let realm = id_of(&key);
        let mut secret = Zeroizing::new([0; 32]);
        random().fill_bytes(&mut secret[..]);
        let begin = Begin {
            secret: Zeroizing::new(hex::encode(&secret[..])),
            tenants: settings.tenants.clone(),
            records_max: settings.records_max,
            everything: settings.everything,
            policy: settings.policy(dir)?,
            members: born.into_iter().map(|born| (born.id, born.peers)).collect(),
            card: hex::encode(card.to_bytes()),
        };
        let line = begin.line()?;
        for replica in &mut replicas {
            replica.tell(&line).await?;
        }
        for replica in &mut replicas {
            let Ready { .. } = replica.line().await?;
        }
        drop(key);
        let (doors, known) = (settings.doors(), addresses.clone());
        Ok(Self {
            realm,
            addresses,
            quorum,
            replicas,
            frontends: Doors::start(dir, settings, known, doors, output).await?,
        })
    }

    fn report(&self) -> Value {
        let pids: Vec<u32> = self.replicas.iter().map(|replica| replica.pid).collect();
        json!({
            "realm": hex::encode(self.realm.0),
            "addresses": self.addresses,
            "replicas": pids,
            "frontends": self.frontends.report(),
            "needed": self.needed(),
            "evidence": "simulated",
        })
    }

    /// Replicas without which nothing is answered.
    fn needed(&self) -> usize {
        self.quorum.release().max(self.quorum.majority())
    }

    /// Where clients reach it.
    fn for_clients(&self) -> Vec<String> {
        let frontends = self.frontends.addresses();
        match frontends.is_empty() {
            true => self.addresses.clone(),
            false => frontends,
        }
    }

    /// Watches until so many replicas have ended that it can never answer again.
    async fn lost(&mut self, output: Output) -> Failure {
        let (quorum, needed) = (self.quorum, self.needed());
        let Self {
            replicas,
            frontends,
            ..
        } = self;
        tokio::select! {
            lost = Self::watch(replicas, quorum, needed, output) => lost,
            never = frontends.keep(output) => match never {},
        }
    }

    async fn watch(
        replicas: &mut Vec<Running>,
        quorum: Quorum,
        needed: usize,
        output: Output,
    ) -> Failure {
        loop {
            let waits = replicas
                .iter_mut()
                .map(|replica| Box::pin(replica.child.wait()));
            let (_, at, _) = select_all(waits).await;
            let gone = replicas.remove(at);
            let (left, of) = (replicas.len(), quorum.replicas());
            if left < needed {
                return Failure::failed(format_args!(
                    "{left} of {of} replicas are left: the realm is lost, with everything that it kept"
                ))
                .help("start it again, empty; its users store again, and get back from other realms until then");
            }
            output.say(format_args!(
                "replica {} has ended; {left} of {of} are left, and {needed} are needed. Start the realm anew before that: none comes back",
                gone.pid
            ));
        }
    }

    async fn end(self) {
        self.frontends.end().await;
        join_all(self.replicas.into_iter().map(Running::end)).await;
    }
}

/// `junto vault realm start`.
pub(super) async fn start(dir: &Path, output: Output) -> Result<(), Failure> {
    super::keep_in_memory();
    let mut settings = Settings::read(dir)?;
    let left = settings.everything && has_left(dir)?;
    settings.everything &= !left;
    let progress = output.progress("starting the replicas");
    let mut group = Group::start(dir, &settings, output).await?;
    progress.done();
    let asked = asked_to_end()?;
    output.result(&group.report(), || group.for_clients().join("\n"))?;
    if left {
        output.say(format_args!(
            "records have moved from here to another group, which may serve them: so this one begins with none. If no other group of the realm runs, remove {} and start again",
            dir.join(LEFT).display()
        ));
    }
    output.say(match settings.everything {
        true => "It begins empty: what it kept before is gone. Evidence of its machine is simulated: it proves nothing. End with Ctrl-C",
        false => "It serves nothing until `junto vault realm move` brings records. Evidence of its machine is simulated: it proves nothing. End with Ctrl-C",
    });
    let ended = tokio::select! {
        lost = group.lost(output) => Err(lost),
        () = asked => Ok(()),
    };
    output.say("ending: everything that was kept is forgotten");
    group.end().await;
    ended
}

/// `junto vault realm try`.
pub(super) async fn try_out(
    dir: &Path,
    replicas: u8,
    frontends: u8,
    output: Output,
) -> Result<(), Failure> {
    super::keep_in_memory();
    make_dir(dir)?;
    output.say(
        "FOR TRYING ONLY: three realms on one machine of one operator, with evidence that proves nothing; all is forgotten at the end.",
    );
    let tenant = TenantFile::new("trial")?;
    let settings = Settings::new("127.0.0.1".to_owned(), 0, replicas, 0, &[tenant.public()?])?;
    let settings = settings.with_frontends(frontends)?;
    let progress = output.progress("starting the realms");
    let mut groups = Vec::new();
    for number in 1..=3 {
        progress.step(format!("starting realm {number} of 3"));
        let folder: PathBuf = dir.join(format!("realm-{number}"));
        make(&folder, &settings, None)?;
        groups.push(Group::start(&folder, &settings, output).await?);
    }
    let realms = groups
        .iter()
        .map(|group| RealmFile::new(&group.realm, group.for_clients()));
    let set = dir.join("set.json");
    set::write_set(&set, 2, tenant, realms.collect(), true)?;
    progress.done();
    let asked = asked_to_end()?;
    let reports: Vec<_> = groups.iter().map(Group::report).collect();
    output.result(
        &json!({ "trial": true, "set": set, "realms": reports }),
        || {
            let set = set.display();
            format!(
                "{set}\n\nTRIAL. Any 2 of the 3 realms give back. In another terminal:\n\
             junto vault backup --set {set} --accept-simulated FILE\n\
             junto --profile NEW vault restore --set {set} --accept-simulated FILE"
            )
        },
    )?;
    output.say("End with Ctrl-C");
    let (end, ended) = tokio::sync::watch::channel(());
    let watched = groups.into_iter().map(|mut group| {
        let mut ended = ended.clone();
        async move {
            tokio::select! {
                failure = group.lost(output) => output.say(format_args!(
                    "realm {}: {}", hex::encode(&group.realm.0[..4]), failure.message
                )),
                _ = ended.changed() => {}
            }
            group.end().await;
        }
    });
    let watching = tokio::spawn(join_all(watched));
    // Realms that are lost do not end the others: that is what there are three for.
    asked.await;
    output.say("ending: everything that was kept is forgotten");
    let _ = end.send(());
    watching.await.context("the realms did not end")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_of_both_groups_whatever_their_size() {
        let some = |what: &str, count| (0..count).map(|it| format!("{what}{it}")).collect();
        for (own, others, told) in [
            (3, 3, (3, 3)),
            (7, 7, (7, 6)),
            (13, 13, (7, 6)),
            (13, 1, (12, 1)),
            (1, 20, (1, 12)),
        ] {
            let all = both(some("own", own), some("other", others));
            let wanted: Vec<String> = [some("own", told.0), some("other", told.1)].concat();
            assert_eq!(all, wanted, "{own} {others}");
        }
    }
}
