//! What getting back costs beside its parts, in the same run: realms whose replicas talk over TCP on this machine.

mod group;
mod memory;
mod moving;

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{join_all, try_join_all};
use junto_crypto::{CryptoRng, Zeroizing, ed25519::SigningKey};
use junto_vault::{
    Account, Answer, Attempt, Claims, Cost, CostError, Deposit, Evaluation, Genesis, Given,
    GuessLimit, Holders, Operation, Part, Pin, Quorum, Realm, RealmId, RealmSet, ReplicaId, Roster,
    Seconds, Stretched, Token, enrol,
};
use rand_core::Rng as _;
use serde::Serialize;

use crate::{Access, ClientError, Proposal, RealmClient, StartError, now};
use group::Group;
use memory::memory;
pub use moving::Moved;

/// It only turns what hangs into a failure.
const PATIENCE: Duration = Duration::from_secs(60);
const TENANT: &str = "bench";
const PIN: &str = "2841";
/// Entries that one recovery puts into each realm's log: a view, a guess, a claim.
const ENTRIES: u32 = 3;
/// Records that move: as many as a group of `junto vault realm` has.
const MOVED_MAX: u32 = 4096;
/// An entry with a guess has about as many.
const GUESS_BYTES: usize = 150;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Recoveries of each client and shape.
    pub recoveries: usize,
    /// Clients at once, where the rate is measured.
    pub clients: usize,
    /// Records, for the memory that one takes.
    pub records: u32,
    /// Leaders that are killed.
    pub failovers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            recoveries: 40,
            clients: 16,
            records: 20_000,
            failovers: 5,
        }
    }
}

/// Realms of a set, threshold of it, replicas of each realm.
const SHAPES: [(usize, u8, u8); 5] = [(1, 1, 1), (1, 1, 3), (1, 1, 5), (3, 2, 3), (5, 3, 3)];

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A realm does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A group does not begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Sockets, or what this system says of itself.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// TLS does not start.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// No memory for the PIN.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// An answer that is none to what was asked: a defect.
    #[error("a realm answered something else than it was asked: {0}")]
    Answer(&'static str),
}

/// Time from one request to its end, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Half take no longer.
    pub p50: f64,
    /// 99 of 100 take no longer.
    pub p99: f64,
}

/// Figures of one shape.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shape {
    /// Realms of the set, all of which are asked.
    pub realms: usize,
    /// How many of them give a secret back.
    pub threshold: u8,
    /// Replicas of each.
    pub replicas: u8,
    /// One recovery, one after the other: view, guess and claim at all realms, without Argon2id, on open channels.
    pub recovery_us: Latency,
    /// Recoveries a second, of all clients at once.
    pub per_second: f64,
    /// Floor: the processor for one recovery with no network and no replicas, at the client and at all realms.
    pub bare_us: f64,
    /// Floor: openraft alone, one entry after the other, over the same links.
    pub commit_us: Latency,
    /// Floor: openraft alone, as many entries at once as there are clients, a second.
    pub commits_per_second: f64,
    /// The floors' time (`bare_us` and three commits) over that of a recovery.
    pub floor_over_latency: f64,
    /// The rate over that of who only commits a recovery's three entries at each realm, on this machine.
    pub rate_over_floor: f64,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What each recovery takes besides, on the client alone: Argon2id as recommended, in milliseconds.
    pub argon2_ms: f64,
    /// By shape.
    pub shapes: Vec<Shape>,
    /// From killing a leader of three until the next answer, in milliseconds: the median and the longest.
    pub failover_ms: (f64, f64),
    /// Resident memory that one record takes, in bytes; none where the system does not tell.
    pub record_bytes: Option<f64>,
    /// Bytes of one record on its way to a replica that has fallen behind.
    pub snapshot_record_bytes: f64,
    /// Records a second into a snapshot, and out of it, on one core.
    pub snapshot_per_second: (f64, f64),
    /// All records of a group of three on their way to another one.
    pub moved: Moved,
}

/// Measures everything. `told` hears what comes next.
///
/// # Errors
/// [`BenchError`].
pub async fn run(options: Options, mut told: impl FnMut(&str)) -> Result<Report, BenchError> {
    // First, while nothing that was given back lies about to be used again.
    told("memory");
    let memory = memory(options.records)?;
    told("Argon2id");
    let argon2_ms = argon2()?;
    let mut shapes = Vec::new();
    for (realms, threshold, replicas) in SHAPES {
        told(&format!(
            "{threshold} of {realms} realms, {replicas} replicas each"
        ));
        shapes.push(shape(realms, threshold, replicas, options).await?);
    }
    told("leaders that are killed");
    let failover_ms = failover(options.failovers).await?;
    told("records that move");
    let moved = moving::moved(options.records.min(MOVED_MAX)).await?;
    Ok(Report {
        argon2_ms,
        shapes,
        failover_ms,
        record_bytes: memory.record_bytes,
        snapshot_record_bytes: memory.snapshot_bytes,
        snapshot_per_second: memory.per_second,
        moved,
    })
}

fn rng() -> impl CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// The cheapest that is allowed: what is measured is the realms.
fn cost() -> Result<Cost, CostError> {
    Cost::new(16 * 1024, 12, 1)
}

fn pin() -> Result<Pin, BenchError> {
    Pin::again(PIN).map_err(|_| BenchError::Answer("the PIN of the bench is one"))
}

fn account(user: usize) -> Result<Account, BenchError> {
    let user = format!("user {user}");
    Account::new(TENANT, &user).map_err(|_| BenchError::Answer("an account's name is one"))
}

fn limit() -> Result<GuessLimit, BenchError> {
    GuessLimit::new(10, 1000).map_err(|_| BenchError::Answer("a limit is one"))
}

fn argon2() -> Result<f64, BenchError> {
    let set = set(&[RealmId([1; 32])], 1)?;
    let version = junto_vault::Version([0; 16]);
    let begun = Instant::now();
    for _ in 0..3 {
        Stretched::new(&pin()?, &account(0)?, &set, &version, Cost::RECOMMENDED)?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3 / 3.0)
}

fn set(realms: &[RealmId], threshold: u8) -> Result<RealmSet, BenchError> {
    RealmSet::new(realms.to_vec(), threshold).map_err(|_| BenchError::Answer("a set is one"))
}

fn genesis(id: RealmId, tenant: &SigningKey, records_max: u32, time: Seconds) -> Genesis {
    let mut secret = Zeroizing::new([0; 32]);
    rng().fill_bytes(&mut secret[..]);
    Genesis {
        realm: id,
        secret,
        tenants: BTreeMap::from([(TENANT.to_owned(), tenant.verifying_key())]),
        records_max,
        time,
    }
}

fn realm(
    id: RealmId,
    tenant: &SigningKey,
    records_max: u32,
    time: Seconds,
) -> Result<Realm, BenchError> {
    let genesis = genesis(id, tenant, records_max, time);
    Realm::new(genesis).map_err(|_| BenchError::Answer("a genesis is one"))
}

async fn shape(
    realms: usize,
    threshold: u8,
    replicas: u8,
    options: Options,
) -> Result<Shape, BenchError> {
    let tenant = SigningKey::generate(&mut rng());
    let mut groups = Vec::new();
    for _ in 0..realms {
        groups.push(Group::start(replicas, &tenant).await?);
    }
    let ids: Vec<_> = groups.iter().map(Group::id).collect();
    let set = set(&ids, threshold)?;
    let bare_us = bare(&set, options.recoveries.max(20))?;
    let mut clients = Vec::new();
    for user in 0..options.clients.max(1) {
        clients.push(Client::enrolled(&groups, &set, &tenant, user).await?);
    }
    let Some(first) = clients.first() else {
        return Err(BenchError::Answer("there is a client"));
    };
    let recovery_us = latency(first.recover(options.recoveries).await?);
    let rounds = options.recoveries.div_ceil(4);
    let stretched = clients.iter().map(|client| client.stretched(rounds));
    let stretched: Vec<_> = stretched.collect::<Result<_, _>>()?;
    let begun = Instant::now();
    let all = clients.iter().zip(stretched);
    try_join_all(all.map(|(client, stretched)| client.recover_all(stretched))).await?;
    let per_second = (clients.len() * rounds) as f64 / begun.elapsed().as_secs_f64();
    let group = groups
        .first()
        .ok_or(BenchError::Answer("there is a realm"))?;
    let commit_us = latency(
        commits(group, (1, options.recoveries * 5), GUESS_BYTES)
            .await?
            .0,
    );
    let commits_per_second = commits(group, (clients.len(), rounds * 20), GUESS_BYTES)
        .await?
        .1;
    let floor_rate = commits_per_second / (f64::from(ENTRIES) * realms as f64);
    drop(clients);
    join_all(groups.into_iter().map(Group::end)).await;
    let floor_us = bare_us + f64::from(ENTRIES) * commit_us.p50;
    Ok(Shape {
        realms,
        threshold,
        replicas,
        recovery_us,
        per_second,
        bare_us,
        commit_us,
        commits_per_second,
        floor_over_latency: floor_us / recovery_us.p50,
        rate_over_floor: per_second / floor_rate,
    })
}

fn latency(mut times: Vec<Duration>) -> Latency {
    times.sort_unstable();
    let at = |share: f64| {
        let last = times.len().saturating_sub(1);
        let place = (last as f64 * share).round() as usize;
        times
            .get(place)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    Latency {
        p50: at(0.5),
        p99: at(0.99),
    }
}

/// What a group's openraft takes for so many entries of that size that nobody reads, so many writers at once.
async fn commits(
    group: &Group,
    (writers, entries): (usize, usize),
    bytes: usize,
) -> Result<(Vec<Duration>, f64), BenchError> {
    let leader = group.leader().await;
    let each = entries.div_ceil(writers);
    let begun = Instant::now();
    let writing = (0..writers).map(|_| {
        let raft = leader.raft().clone();
        async move {
            let mut times = Vec::with_capacity(each);
            for _ in 0..each {
                let begun = Instant::now();
                // No entry of a realm.
                let proposal = Proposal(Arc::new(Zeroizing::new(vec![0xff; bytes])));
                let written = raft.client_write(proposal).await;
                written.map_err(|_| BenchError::Answer("the leader commits"))?;
                times.push(begun.elapsed());
            }
            Ok::<_, BenchError>(times)
        }
    });
    let times = try_join_all(writing).await?.concat();
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    Ok((times, rate))
}

/// One recovery's work, at the client and at all realms, with nothing in between.
fn bare(set: &RealmSet, rounds: usize) -> Result<f64, BenchError> {
    let mut realms = Vec::new();
    for id in set.realms() {
        realms.push(Alone::new(*id)?);
    }
    let (_, parts) = enrol(&pin()?, &account(0)?, set, cost()?, limit()?, &mut rng())?;
    for (realm, part) in realms.iter_mut().zip(parts) {
        for operation in storing(part)? {
            done(realm.ask(operation)?)?;
        }
    }
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        let first = realms.first_mut();
        let first = first.ok_or(BenchError::Answer("a set has realms"))?;
        let roster = roster(first.ask(Operation::View)?)?;
        let stretched = Stretched::new(&pin()?, &account(0)?, set, &roster.version(), cost()?)?;
        let begun = Instant::now();
        for realm in &mut realms {
            self::roster(realm.ask(Operation::View)?)?;
        }
        let attempt = Attempt::new(stretched, roster.clone(), &mut rng());
        let mut evaluations = BTreeMap::new();
        for realm in &mut realms {
            let answer = realm.ask(guess(&attempt, &roster))?;
            evaluations.insert(realm.id, evaluation(answer)?);
        }
        let claims = claims(attempt, &evaluations)?;
        let mut parts = BTreeMap::new();
        for realm in &mut realms {
            let answer = realm.ask(claim(&claims, &realm.id, &roster))?;
            parts.insert(realm.id, given(answer)?);
        }
        open(&claims, &parts)?;
        spent += begun.elapsed();
    }
    Ok(spent.as_secs_f64() * 1e6 / rounds as f64)
}

/// A realm with nothing around it.
struct Alone {
    id: RealmId,
    tenant: SigningKey,
    realm: Realm,
    began: Seconds,
}

impl Alone {
    fn new(id: RealmId) -> Result<Self, BenchError> {
        Self::with_room(id, 1)
    }

    fn with_room(id: RealmId, records: u32) -> Result<Self, BenchError> {
        let (tenant, began) = (SigningKey::generate(&mut rng()), now());
        let realm = realm(id, &tenant, records, began)?;
        Ok(Self {
            id,
            tenant,
            realm,
            began,
        })
    }

    fn ask(&mut self, operation: Operation) -> Result<Answer, BenchError> {
        self.ask_for(account(0)?, operation)
    }

    fn ask_for(&mut self, account: Account, operation: Operation) -> Result<Answer, BenchError> {
        let expires = Seconds(self.began.0.saturating_add(Token::LIFE_MAX));
        let token = Token::issue(account, &self.id, expires, &self.tenant);
        let admitted = self.realm.admit(&token, operation, self.began);
        let entry = admitted.map_err(|_| BenchError::Answer("a token admits"))?;
        let pending = self.realm.apply(entry);
        let (here, me) = (pending.position(), ReplicaId([0; 32]));
        let alone = || BenchError::Answer("one replica is enough for itself");
        let quorum = Quorum::new(1, 0).map_err(|_| alone())?;
        let mut holders = Holders::new(quorum, &[me], me, here).map_err(|_| alone())?;
        holders.applied(here);
        let released = holders.released(&here).ok_or_else(alone)?;
        let answer = self.realm.answer(pending, &released, &mut rng());
        answer.ok_or_else(alone)
    }
}

/// What stores a part at its realm.
fn storing(part: Part) -> Result<[Operation; 2], BenchError> {
    let version = part.deposit.version();
    let deposit = Deposit::from_bytes(&part.deposit.to_bytes(), &part.realm);
    let deposit = deposit.map_err(|_| BenchError::Answer("a deposit is one"))?;
    Ok([
        Operation::Stage(Box::new(deposit)),
        Operation::Activate {
            version,
            auth: part.auth,
            former: None,
        },
    ])
}

fn guess(attempt: &Attempt, roster: &Roster) -> Operation {
    Operation::Evaluate {
        version: roster.version(),
        element: attempt.element(),
    }
}

fn claim(claims: &Claims, realm: &RealmId, roster: &Roster) -> Operation {
    Operation::Claim {
        version: roster.version(),
        auth: claims.auth_key(realm),
    }
}

fn done(answer: Answer) -> Result<(), BenchError> {
    match answer {
        Answer::Done => Ok(()),
        _ => Err(BenchError::Answer("what is stored is taken")),
    }
}

fn roster(answer: Answer) -> Result<Roster, BenchError> {
    let newest = match answer {
        Answer::View(view) => view.versions.into_iter().next(),
        _ => None,
    };
    let (roster, _) = newest.ok_or(BenchError::Answer("a view shows what is stored"))?;
    Ok(roster)
}

fn evaluation(answer: Answer) -> Result<Evaluation, BenchError> {
    match answer {
        Answer::Evaluation(evaluation) => Ok(evaluation),
        _ => Err(BenchError::Answer("a guess is evaluated")),
    }
}

fn given(answer: Answer) -> Result<Given, BenchError> {
    match answer {
        Answer::Given(given) => Ok(given),
        _ => Err(BenchError::Answer("the right PIN gets a part")),
    }
}

fn claims(attempt: Attempt, answers: &BTreeMap<RealmId, Evaluation>) -> Result<Claims, BenchError> {
    let claims = attempt.claims(answers);
    claims.map_err(|_| BenchError::Answer("evaluations are sound"))
}

fn open(claims: &Claims, parts: &BTreeMap<RealmId, Given>) -> Result<(), BenchError> {
    let key = claims.open(parts);
    key.map(drop)
        .map_err(|_| BenchError::Answer("parts are sound"))
}

/// Somebody who has stored something, with an open channel to each realm.
struct Client {
    account: Account,
    realms: Vec<RealmClient>,
    roster: Roster,
}

impl Client {
    async fn enrolled(
        groups: &[Group],
        set: &RealmSet,
        tenant: &SigningKey,
        user: usize,
    ) -> Result<Self, BenchError> {
        let account = account(user)?;
        let access = Arc::new(Access {
            account: account.clone(),
            tenant: SigningKey::from_seed(tenant.seed()),
        });
        let (_, parts) = enrol(&pin()?, &account, set, cost()?, limit()?, &mut rng())?;
        let mut realms = Vec::new();
        let mut roster = None;
        for part in parts {
            let group = groups.iter().find(|group| group.id() == part.realm);
            let group = group.ok_or(BenchError::Answer("a set's realms are there"))?;
            let realm = group.client(access.clone())?;
            for operation in storing(part)? {
                done(realm.ask(&operation, PATIENCE).await?)?;
            }
            roster = Some(self::roster(realm.ask(&Operation::View, PATIENCE).await?)?);
            realms.push(realm);
        }
        let roster = roster.ok_or(BenchError::Answer("a set has realms"))?;
        Ok(Self {
            account,
            realms,
            roster,
        })
    }

    /// The PIN after Argon2id, so many times: before time is taken.
    fn stretched(&self, rounds: usize) -> Result<Vec<Stretched>, BenchError> {
        let (set, version) = (self.roster.set(), self.roster.version());
        let once = || {
            let stretched = Stretched::new(&pin()?, &self.account, set, &version, cost()?);
            Ok(stretched?)
        };
        (0..rounds).map(|_| once()).collect()
    }

    /// One after the other.
    async fn recover(&self, rounds: usize) -> Result<Vec<Duration>, BenchError> {
        self.recover_all(self.stretched(rounds)?).await
    }

    async fn recover_all(&self, stretched: Vec<Stretched>) -> Result<Vec<Duration>, BenchError> {
        let mut times = Vec::with_capacity(stretched.len());
        for stretched in stretched {
            let begun = Instant::now();
            self.once(stretched).await?;
            times.push(begun.elapsed());
        }
        Ok(times)
    }

    /// As the command does it: all realms at once, step by step.
    async fn once(&self, stretched: Stretched) -> Result<(), BenchError> {
        for answer in self.each(|_| Operation::View).await? {
            roster(answer.1)?;
        }
        let attempt = Attempt::new(stretched, self.roster.clone(), &mut rng());
        let answers = self.each(|_| guess(&attempt, &self.roster)).await?;
        let evaluations = answers
            .into_iter()
            .map(|(id, it)| Ok((id, evaluation(it)?)));
        let claims = claims(attempt, &evaluations.collect::<Result<_, BenchError>>()?)?;
        let answers = self.each(|id| claim(&claims, id, &self.roster)).await?;
        let parts = answers.into_iter().map(|(id, it)| Ok((id, given(it)?)));
        open(&claims, &parts.collect::<Result<_, BenchError>>()?)
    }

    async fn each(
        &self,
        operation: impl Fn(&RealmId) -> Operation,
    ) -> Result<Vec<(RealmId, Answer)>, BenchError> {
        let asking = self.realms.iter().map(|realm| {
            let operation = operation(realm.realm());
            async move {
                let answer = realm.ask(&operation, PATIENCE).await?;
                Ok((*realm.realm(), answer))
            }
        });
        try_join_all(asking).await
    }
}

/// Milliseconds without an answer after a leader of three is killed: the median and the longest.
async fn failover(times: usize) -> Result<(f64, f64), BenchError> {
    let mut taken = Vec::new();
    for _ in 0..times.max(1) {
        let tenant = SigningKey::generate(&mut rng());
        let mut groups = [Group::start(3, &tenant).await?];
        let set = set(&[groups[0].id()], 1)?;
        let client = Client::enrolled(&groups, &set, &tenant, 0).await?;
        groups[0].kill_leader().await;
        let begun = Instant::now();
        for answer in client.each(|_| Operation::View).await? {
            roster(answer.1)?;
        }
        taken.push(begun.elapsed());
        join_all(groups.into_iter().map(Group::end)).await;
    }
    taken.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    Ok((ms(taken.get(taken.len() / 2)), ms(taken.last())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::links::CHANNELS_MAX;

    /// Many clients at once wait for questions between members that share a few channels: none is given up for being late.
    #[tokio::test(flavor = "multi_thread")]
    async fn many_clients_at_once_share_the_channels_between_members() {
        let tenant = SigningKey::generate(&mut rng());
        let group = [Group::start(3, &tenant).await.unwrap()];
        let set = set(&[group[0].id()], 1).unwrap();
        let enrolling = (0..16).map(|user| Client::enrolled(&group, &set, &tenant, user));
        let clients = try_join_all(enrolling).await.unwrap();
        let asking = clients.iter().map(|client| async move {
            for _ in 0..20 {
                client.each(|_| Operation::View).await?;
            }
            Ok::<_, BenchError>(())
        });
        try_join_all(asking).await.unwrap();
        let wire = group[0].leader().await.wire().unwrap();
        assert!(wire.dialled() <= 2 * CHANNELS_MAX, "{}", wire.dialled());
        let [group] = group;
        group.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_figure_is_one() {
        let options = Options {
            recoveries: 2,
            clients: 2,
            records: 50,
            failovers: 1,
        };
        let mut steps = 0;
        let report = run(options, |_| steps += 1).await.unwrap();
        assert_eq!(report.shapes.len(), SHAPES.len());
        assert_eq!(steps, SHAPES.len() + 4);
        let mut figures = vec![
            report.argon2_ms,
            report.failover_ms.0,
            report.snapshot_record_bytes,
            report.moved.per_second,
            report.moved.floor_per_second,
            report.moved.rate_over_floor,
        ];
        for shape in &report.shapes {
            figures.extend([shape.per_second, shape.bare_us, shape.commits_per_second]);
            figures.extend([shape.recovery_us.p50, shape.commit_us.p99]);
            figures.extend([shape.floor_over_latency, shape.rate_over_floor]);
        }
        assert!(
            figures.iter().all(|it| it.is_finite() && *it > 0.0),
            "{report:?}"
        );
    }
}
