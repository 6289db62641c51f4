//! `junto vault realm move`: carries ranges of records from one group of a realm to another. What is to be carried stands in the
//! source's folder before anything is asked of anybody: the same command goes on from there, whatever ended the last one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use junto_crypto::ed25519::SigningKey;
use junto_realm::{Card, ClientError, GroupClient};
use junto_tls::files::{self, Mode};
use junto_vault::{Ending, Errand, Hindrance, Order, Progress, Revocation, Side, Span, Step, Todo};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::flow::exit_of;
use super::realm::{self, Settings, id_of, read_key};
use crate::failure::{Context, Exit, Failure};
use crate::input;
use crate::output::{self, Output};

const JOB: &str = "move.json";
/// Empty. Who carries from this folder has it locked; no editor puts another file in its place.
const LOCK: &str = "move.lock";
/// Room for 256 ranges and two cards.
const JOB_MAX: u64 = 64 * 1024;
/// How often an order is made anew because a group has begun another one meanwhile.
const ORDERS_MAX: usize = 5;
/// How often a parcel brings an order no further before that is given up.
const LOOKS_MAX: usize = 20;
/// Until it is looked for again: a group may have lost its leader.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// What the command is asked to do.
pub(super) struct Wanted {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
    /// Of what the source serves.
    pub(super) percent: u8,
    pub(super) take_back: bool,
    pub(super) patience: Duration,
}

/// `move.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Job {
    /// Cards, in hex.
    from: String,
    to: String,
    /// What is still to move: first and last place of each range, in hex.
    spans: Vec<(String, String)>,
    /// The order for the first of them, in hex, once it is made.
    order: Option<String>,
}

/// Parcels that were looked for, and brought the order no further.
#[derive(Default)]
struct Looks {
    furthest: Option<u32>,
    in_vain: usize,
}

impl Looks {
    /// How long to wait now that the destination has asked for that parcel, and the source has it or not.
    fn look(&mut self, number: u32, is_there: bool) -> Result<Duration, Failure> {
        let is_further = self.furthest.is_none_or(|it| number > it);
        self.furthest = self.furthest.max(Some(number));
        if is_further && is_there {
            return Ok(Duration::ZERO);
        }
        self.in_vain += 1;
        if self.in_vain <= LOOKS_MAX {
            return Ok(LOOK_PAUSE);
        }
        let said = match is_there {
            true => "the destination asks for what it was given again and again",
            false => "the source does not give what it says that it has sealed",
        };
        Err(Failure::new(Exit::Misbehaved, said))
    }
}

/// A group and its folder.
struct Place {
    dir: PathBuf,
    client: GroupClient,
    card: Card,
}

struct Mover {
    key: SigningKey,
    from: Place,
    to: Place,
    patience: Duration,
    /// No other command carries from this folder.
    _alone: File,
}

fn place_of(text: &str) -> Option<u64> {
    let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn in_hex(span: Span) -> (String, String) {
    (
        format!("{:016x}", span.first()),
        format!("{:016x}", span.last()),
    )
}

impl Job {
    fn read(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join(JOB);
        match fs::exists(&path) {
            Ok(false) => return Ok(None),
            found => found.context(format_args!("cannot read {}", path.display()))?,
        };
        let text = input::read_short(&path, JOB_MAX)?;
        let job = serde_json::from_str(&text);
        job.map(Some).map_err(|error| damaged(&path, &error))
    }

    fn write(&self, dir: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).context("cannot write JSON")? + "\n";
        let path = dir.join(JOB);
        files::replace(&path, text.as_bytes(), Mode::Private)
            .context(format_args!("cannot write {}", path.display()))
    }

    fn remove(dir: &Path) -> Result<(), Failure> {
        let path = dir.join(JOB);
        fs::remove_file(&path).context(format_args!("cannot remove {}", path.display()))
    }

    fn span(&self) -> Option<Span> {
        let (first, last) = self.spans.first()?;
        Span::new(place_of(first)?, place_of(last)?).ok()
    }

    fn order(&self) -> Option<Order> {
        Order::from_bytes(&hex::decode(self.order.as_ref()?).ok()?).ok()
    }

    fn card(text: &str) -> Option<Card> {
        Card::from_bytes(&hex::decode(text).ok()?).ok()
    }
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format_args!("{} is damaged: {why}", path.display()))
}

/// The last part of a range, so many in a hundred of it; at least one place.
fn part(span: Span, percent: u8) -> Option<Span> {
    let places = u128::from(span.last() - span.first()) + 1;
    let stay = places - (places * u128::from(percent)).div_ceil(100);
    Span::new(span.first() + u64::try_from(stay).ok()?, span.last()).ok()
}

impl Place {
    async fn of(dir: &Path, key: &SigningKey, patience: Duration) -> Result<Self, Failure> {
        let addresses = Settings::read(dir)?.addresses();
        let client = GroupClient::new(id_of(key), addresses).context("TLS")?;
        let card = client.card(patience).await;
        Ok(Self {
            card: card.map_err(|error| unreached(dir, &error))?,
            dir: dir.to_owned(),
            client,
        })
    }

    async fn ground(&self, patience: Duration) -> Result<(u64, Vec<Span>), Failure> {
        let ground = self.client.ground(patience).await;
        ground.map_err(|error| unreached(&self.dir, &error))
    }

    async fn serves(&self, span: Span, patience: Duration) -> Result<bool, Failure> {
        Ok(covers(&self.ground(patience).await?.1, span))
    }

    /// Whether that card, as it stands in a job, is this group's.
    fn is_that(&self, card: &str) -> bool {
        Job::card(card).as_ref() == Some(&self.card)
    }

    /// Has it serve what the order brought, if all of that is here: it needs nothing of the source for it.
    async fn accepts(&self, job: &Job, patience: Duration) -> Result<bool, Failure> {
        let Some(order) = job.order().filter(|_| self.is_that(&job.to)) else {
            return Ok(false);
        };
        let span = order.span();
        let taken = self.client.take(&Step::accept(order), patience).await;
        let (said, _) = taken.map_err(|error| unreached(&self.dir, &error))?;
        // An order that was taken back is said to be accepted, too.
        Ok(said.is_ok() && self.serves(span, patience).await?)
    }
}

/// Whether ranges, in order, have all of that one.
fn covers(spans: &[Span], span: Span) -> bool {
    let mut next = Some(span.first());
    for held in spans {
        if next.is_some_and(|place| held.contains(place)) {
            next = held.last().checked_add(1);
        }
    }
    next.is_none_or(|place| place > span.last())
}

/// The source is away: what has arrived need not wait for it.
async fn without_source(
    failure: Failure,
    to: &Place,
    job: Option<Job>,
    patience: Duration,
) -> Failure {
    let Some(job) = job else {
        return failure;
    };
    match to.accepts(&job, patience).await {
        Ok(true) => failure.help(
            "what had left it is served by the other group now. When this one is back, the same command goes on; if it is gone for ever, nothing is left to do for that range",
        ),
        Ok(false) => failure,
        Err(other) => other,
    }
}

fn unreached(dir: &Path, error: &ClientError) -> Failure {
    let exit = exit_of(error);
    let failure = Failure::new(
        exit,
        format_args!("the group of {}: {error}", dir.display()),
    );
    match error {
        ClientError::Unproven => failure.help(
            "each of its members has to be there and to show what the policy of the group that has the records wants; nothing has left. `--take-back` gives up",
        ),
        _ => failure.help("when it is back, the same command goes on where this one ended"),
    }
}

/// `junto vault realm move`.
pub(super) async fn run(wanted: Wanted, output: Output) -> Result<(), Failure> {
    // Whose destination is gone takes back without one.
    if wanted.from == wanted.to && !wanted.take_back {
        return Err(Failure::usage("a range moves to another group"));
    }
    let key = read_key(&wanted.from)?;
    if id_of(&key) != id_of(&read_key(&wanted.to)?) {
        return Err(Failure::usage("those are groups of two realms")
            .help("`junto vault realm init --group-of` makes another group of the same one"));
    }
    let alone = alone(&wanted.from)?;
    let progress = output.progress("asking both groups");
    let job = Job::read(&wanted.from)?;
    if job.is_none() && wanted.take_back {
        return Err(Failure::usage("nothing is on its way from there"));
    }
    let to = Place::of(&wanted.to, &key, wanted.patience).await?;
    let from = match Place::of(&wanted.from, &key, wanted.patience).await {
        Ok(from) => from,
        Err(failure) => return Err(without_source(failure, &to, job, wanted.patience).await),
    };
    let mover = Mover {
        from,
        to,
        key,
        patience: wanted.patience,
        _alone: alone,
    };
    let is_resumed = job.is_some();
    let job = match job {
        Some(job) => job,
        None => mover.plan(wanted.percent).await?,
    };
    let report = match wanted.take_back {
        _ if !mover.from.is_that(&job.from) => mover.orphaned(&job, wanted.take_back).await?,
        true => mover.take_back(job, &progress).await?,
        false => mover.carry_all(job, is_resumed, &progress).await?,
    };
    progress.done();
    output.result(&report, || text(&report, &wanted))
}

fn alone(dir: &Path) -> Result<File, Failure> {
    let doing = format!("cannot lock {}", dir.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(LOCK))
        .context(&doing)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(Failure::failed("another command moves ranges from there"))
        }
        Err(fs::TryLockError::Error(error)) => Err(error).context(&doing),
    }
}

impl Mover {
    /// What is to move, on the disk.
    async fn plan(&self, percent: u8) -> Result<Job, Failure> {
        let (_, spans) = self.from.ground(self.patience).await?;
        let spans = spans.into_iter().filter_map(|span| part(span, percent));
        let spans: Vec<_> = spans.map(in_hex).collect();
        let job = Job {
            from: hex::encode(self.from.card.to_bytes()),
            to: hex::encode(self.to.card.to_bytes()),
            spans,
            order: None,
        };
        job.write(&self.from.dir)?;
        Ok(job)
    }

    /// Both groups are still those for which the job was made: one that was started again is another one.
    fn check(&self, job: &Job) -> Result<(), Failure> {
        for (place, card) in [(&self.from, &job.from), (&self.to, &job.to)] {
            if !place.is_that(card) {
                return Err(Failure::failed(format_args!(
                    "what is on its way from {} is not for the group that runs in {} now",
                    self.from.dir.display(),
                    place.dir.display()
                ))
                .help("name the groups of the command that was broken off; if one of them is gone, `--take-back` gives up, as long as nothing has left"));
            }
        }
        Ok(())
    }

    async fn carry_all(
        &self,
        mut job: Job,
        is_resumed: bool,
        progress: &output::Progress,
    ) -> Result<Value, Failure> {
        self.check(&job)?;
        let (mut moved, mut orders) = (Vec::new(), 0);
        while !job.spans.is_empty() {
            let span = job.span();
            let span = span.ok_or_else(|| damaged(&self.from.dir.join(JOB), &"no range"))?;
            let order = match job.order() {
                Some(order) => order,
                None => self.order(&mut job, span).await?,
            };
            let mut errand = Errand::new(order, self.from.card.clone(), self.to.card.clone());
            match self.carry(&mut errand, progress).await? {
                // Both say so of an order that is behind them and never began, too.
                Ending::Moved if !self.from.serves(span, self.patience).await? => {
                    let done = job.spans.remove(0);
                    if self.to.serves(span, self.patience).await? {
                        moved.push(done);
                    }
                    job.order = None;
                    orders = 0;
                    job.write(&self.from.dir)?;
                }
                // One of the groups has begun another order since this one was made: nothing is under way by this one.
                Ending::Moved
                | Ending::Never
                | Ending::Hindered(Side::Destination, Hindrance::Turn)
                | Ending::Hindered(Side::Source, Hindrance::Early)
                    if orders < ORDERS_MAX =>
                {
                    orders += 1;
                    job.order = None;
                }
                Ending::Moved | Ending::Never => {
                    return Err(Failure::failed("that order was taken back"));
                }
                Ending::Hindered(side, hindrance) => return Err(self.hindered(side, hindrance)),
            }
        }
        Job::remove(&self.from.dir)?;
        self.report(&moved, is_resumed).await
    }

    async fn order(&self, job: &mut Job, span: Span) -> Result<Order, Failure> {
        let from = self.from.ground(self.patience).await?.0;
        let to = self.to.ground(self.patience).await?.0;
        let sides = [(&self.from, from), (&self.to, to)];
        let [from, to] = sides.map(|(place, turn)| (place.card.group(), turn));
        let order = Order::sign(&self.key, from, to, span).map_err(Failure::usage)?;
        job.order = Some(hex::encode(order.to_bytes()));
        // Before anybody hears of it: the same order is carried on, not another one made.
        job.write(&self.from.dir)?;
        Ok(order)
    }

    fn place(&self, side: Side) -> &Place {
        match side {
            Side::Source => &self.from,
            Side::Destination => &self.to,
        }
    }

    async fn take(
        &self,
        side: Side,
        step: &Step,
    ) -> Result<
        (
            Result<Progress, Hindrance>,
            Option<junto_vault::Certificate>,
        ),
        Failure,
    > {
        let place = self.place(side);
        let taken = place.client.take(step, self.patience).await;
        taken.map_err(|error| match error {
            // The source says so, of the other one.
            ClientError::Unproven => unreached(&self.to.dir, &error),
            _ => unreached(&place.dir, &error),
        })
    }

    async fn carry(
        &self,
        errand: &mut Errand,
        progress: &output::Progress,
    ) -> Result<Ending, Failure> {
        let mut looks = Looks::default();
        loop {
            match errand.todo() {
                Todo::Done(ending) => return Ok(ending),
                Todo::Take(side, step) => {
                    progress.step(step.name().to_owned());
                    if step.lets_go_to().is_some() {
                        realm::leave(&self.from.dir)?;
                    }
                    let (moved, proof) = self.take(side, &step).await?;
                    errand.heard(side, moved, proof);
                }
                Todo::Fetch(number) => {
                    progress.step(format!("fetching parcel {number}"));
                    let id = errand.order().id();
                    let parcel = self.from.client.parcel(&id, number, self.patience).await;
                    let parcel = parcel.map_err(|error| unreached(&self.from.dir, &error))?;
                    tokio::time::sleep(looks.look(number, parcel.is_some())?).await;
                    errand.fetched(parcel);
                }
            }
        }
    }

    fn hindered(&self, side: Side, hindrance: Hindrance) -> Failure {
        let dir = self.place(side).dir.display();
        let failure = Failure::failed(format_args!("the group of {dir}: {hindrance}"));
        failure.help("`--take-back` gives up, as long as nothing has left")
    }

    /// Nothing moves that has not left yet; what has left is carried on.
    async fn take_back(&self, job: Job, progress: &output::Progress) -> Result<Value, Failure> {
        let Some(order) = job.order() else {
            Job::remove(&self.from.dir)?;
            return self.report(&[], true).await;
        };
        let revocation = Revocation::sign(&self.key, &order);
        let span = order.span();
        let is_there = self.to.is_that(&job.to);
        if !is_there && self.from.card != self.to.card {
            self.check(&job)?;
        }
        let ending = match is_there {
            true => {
                let (from, to) = (self.from.card.clone(), self.to.card.clone());
                let mut errand = Errand::revoke(order, from, to, revocation);
                self.carry(&mut errand, progress).await?
            }
            false => self.give_up(&job, order, revocation, progress).await?,
        };
        if let Ending::Hindered(side, hindrance) = ending {
            return Err(self.hindered(side, hindrance));
        }
        // An order that is behind both groups looks the same whether it was carried out or taken back.
        let has_moved = is_there
            && self.to.serves(span, self.patience).await?
            && !self.from.serves(span, self.patience).await?;
        let moved: Vec<_> = has_moved.then(|| in_hex(span)).into_iter().collect();
        Job::remove(&self.from.dir)?;
        self.report(&moved, true).await
    }

    /// The source was started again: what it had is gone, but for what the destination has got.
    async fn orphaned(&self, job: &Job, take_back: bool) -> Result<Value, Failure> {
        let is_there = self.to.is_that(&job.to);
        if self.to.accepts(job, self.patience).await? {
            let moved: Vec<_> = job
                .order()
                .map(|it| in_hex(it.span()))
                .into_iter()
                .collect();
            Job::remove(&self.from.dir)?;
            return self.report(&moved, true).await;
        }
        if !take_back || !(is_there || self.from.card == self.to.card) {
            self.check(job)?;
        }
        Job::remove(&self.from.dir)?;
        if !is_there || job.order.is_none() {
            return self.report(&[], true).await;
        }
        Err(Failure::failed(
            "the group that had the range was started again before all of it was there: what was stored in it is lost",
        )
        .help("the other group may wait for that range for ever: it serves it only if it is started again, too, which loses what it keeps by now"))
    }

    /// The destination is gone: the source alone is told.
    async fn give_up(
        &self,
        job: &Job,
        order: Order,
        revocation: Revocation,
        progress: &output::Progress,
    ) -> Result<Ending, Failure> {
        if let Some(card) = Job::card(&job.to) {
            let addresses = card.members().iter().map(|it| it.address.clone()).collect();
            let client = GroupClient::new(id_of(&self.key), addresses).context("TLS")?;
            if client.card(self.patience).await.is_ok_and(|it| it == card) {
                return Err(Failure::usage("the group that it should go to is there")
                    .help("name its folder with `--to`: it has to be told, too"));
            }
        }
        let step = Step::revoke(order, revocation);
        progress.step(step.name().to_owned());
        match self.take(Side::Source, &step).await?.0 {
            Ok(Progress::Said(junto_vault::Word::Over { .. })) => Ok(Ending::Never),
            Ok(_) => {
                // No command can do more for it.
                Job::remove(&self.from.dir)?;
                Err(Failure::failed(
                    "it has left already, for a group that is gone: what was stored in that range is lost",
                )
                .help("its users get back from the other realms. They cannot store here before all groups of this realm are started again, empty; what is left here can move on to another group"))
            }
            Err(hindrance) => Ok(Ending::Hindered(Side::Source, hindrance)),
        }
    }

    async fn report(&self, moved: &[(String, String)], is_resumed: bool) -> Result<Value, Failure> {
        let from = self.from.ground(self.patience).await?.1;
        let to = self.to.ground(self.patience).await?.1;
        if from == [Span::WHOLE] {
            realm::stay(&self.from.dir)?;
        }
        let spans = |spans: Vec<Span>| spans.into_iter().map(in_hex).collect::<Vec<_>>();
        Ok(json!({
            "realm": hex::encode(self.from.card.realm().0),
            "moved": moved,
            "resumed": is_resumed,
            "from_serves": spans(from),
            "to_serves": spans(to),
        }))
    }
}

fn text(report: &Value, wanted: &Wanted) -> String {
    let each = |field: &str| {
        let spans = report[field].as_array();
        let spans = spans.into_iter().flatten().map(|span| {
            let end = |at: usize| span[at].as_str().unwrap_or_default();
            format!("{}-{}", end(0), end(1))
        });
        spans.collect::<Vec<_>>().join(" ")
    };
    let or_nothing = |spans: String| match spans.is_empty() {
        true => "nothing".to_owned(),
        false => spans,
    };
    let mut lines = vec![format!("moved: {}", or_nothing(each("moved")))];
    for (dir, field) in [(&wanted.from, "from_serves"), (&wanted.to, "to_serves")] {
        lines.push(format!(
            "{} serves {}",
            dir.display(),
            or_nothing(each(field))
        ));
    }
    if each("from_serves").is_empty() {
        lines.push(format!(
            "Keep {} running until all clients know the other group's addresses: it sends them on.",
            wanted.from.display()
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_so_many_in_a_hundred_and_never_nothing() {
        let span = |first, last| Span::new(first, last).unwrap();
        assert_eq!(part(Span::WHOLE, 100), Some(Span::WHOLE));
        assert_eq!(part(Span::WHOLE, 50), Some(span(1 << 63, u64::MAX)));
        assert_eq!(part(span(0, 99), 25), Some(span(75, 99)));
        assert_eq!(part(span(7, 7), 1), Some(span(7, 7)));
        assert_eq!(part(span(0, 9), 1), Some(span(9, 9)));
    }

    #[test]
    fn parcels_that_bring_nothing_are_not_looked_for_without_end() {
        let mut looks = Looks::default();
        for number in 0..1000 {
            assert_eq!(looks.look(number, true).unwrap(), Duration::ZERO);
        }
        // Neither one that is asked for again, nor one after the other that is not there.
        for (again, is_there) in [(0, true), (1, false)] {
            let mut looks = Looks::default();
            let _ = looks.look(0, true).unwrap();
            for number in 1..=20 {
                let pause = looks.look(number * again, is_there);
                assert_eq!(pause.unwrap(), LOOK_PAUSE, "{number}");
            }
            assert!(looks.look(21 * again, is_there).is_err());
        }
    }

    #[test]
    fn a_range_is_there_only_if_all_of_it_is() {
        let span = |first, last| Span::new(first, last).unwrap();
        let spans = [span(0, 4), span(5, 9), span(11, u64::MAX)];
        for (there, first, last) in [
            (true, 0, 9),
            (true, 3, 6),
            (true, 12, u64::MAX),
            (false, 9, 11),
            (false, 10, 10),
        ] {
            assert_eq!(covers(&spans, span(first, last)), there, "{first}-{last}");
        }
        assert!(covers(&[Span::WHOLE], Span::WHOLE) && !covers(&[], span(0, 0)));
    }

    #[test]
    fn a_job_is_read_as_it_was_written_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Job::read(dir.path()).unwrap().is_none());
        let job = Job {
            from: "00".to_owned(),
            to: "01".to_owned(),
            spans: vec![in_hex(Span::new(3, 9).unwrap())],
            order: None,
        };
        job.write(dir.path()).unwrap();
        let read = Job::read(dir.path()).unwrap().unwrap();
        assert_eq!(read.span(), Some(Span::new(3, 9).unwrap()));
        assert!(read.order().is_none() && Job::card(&read.from).is_none());
        fs::write(dir.path().join(JOB), "{}").unwrap();
        assert!(Job::read(dir.path()).is_err());
        for text in [
            "3",
            "+000000000000003",
            "00000000000000000",
            "g000000000000003",
        ] {
            assert_eq!(place_of(text), None, "{text}");
        }
    }
}
