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
use super::realm::{SETTINGS, Settings, id_of, read_key};
use crate::failure::{Context, Exit, Failure};
use crate::input;
use crate::output::{self, Output};

const JOB: &str = "move.json";
/// Room for 256 ranges and two cards.
const JOB_MAX: u64 = 64 * 1024;
/// How often an order is made anew because a group has begun another one meanwhile.
const ORDERS_MAX: usize = 5;
/// How often a parcel is looked for that the source has not got.
const LOOKS_MAX: usize = 20;

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
    let mover = Mover {
        from: Place::of(&wanted.from, &key, wanted.patience).await?,
        to: Place::of(&wanted.to, &key, wanted.patience).await?,
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
        true => mover.take_back(job, &progress).await?,
        false => mover.carry_all(job, is_resumed, &progress).await?,
    };
    progress.done();
    output.result(&report, || text(&report, &wanted))
}

fn alone(dir: &Path) -> Result<File, Failure> {
    let doing = format!("cannot lock {}", dir.display());
    let file = File::open(dir.join(SETTINGS)).context(&doing)?;
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
            if Job::card(card).as_ref() != Some(&place.card) {
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
                Ending::Moved => {
                    moved.push(job.spans.remove(0));
                    job.order = None;
                    orders = 0;
                    job.write(&self.from.dir)?;
                }
                // One of the groups has begun another order since this one was made: nothing is under way by this one.
                Ending::Never | Ending::Hindered(Side::Destination, Hindrance::Turn)
                    if orders < ORDERS_MAX =>
                {
                    orders += 1;
                    job.order = None;
                }
                Ending::Never => return Err(Failure::failed("that order was taken back")),
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
        let mut looked = 0;
        loop {
            match errand.todo() {
                Todo::Done(ending) => return Ok(ending),
                Todo::Take(side, step) => {
                    progress.step(step.name().to_owned());
                    let (moved, proof) = self.take(side, &step).await?;
                    errand.heard(side, moved, proof);
                }
                Todo::Fetch(number) => {
                    progress.step(format!("fetching parcel {number}"));
                    let id = errand.order().id();
                    let parcel = self.from.client.parcel(&id, number, self.patience).await;
                    let parcel = parcel.map_err(|error| unreached(&self.from.dir, &error))?;
                    looked += usize::from(parcel.is_none());
                    if looked > LOOKS_MAX {
                        return Err(Failure::new(
                            Exit::Misbehaved,
                            "the source does not give what it says that it has sealed",
                        ));
                    }
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
        if Job::card(&job.from).as_ref() != Some(&self.from.card) {
            // Everything that it kept is gone, and so is what it began.
            Job::remove(&self.from.dir)?;
            return self.report(&[], true).await;
        }
        let Some(order) = job.order() else {
            Job::remove(&self.from.dir)?;
            return self.report(&[], true).await;
        };
        let revocation = Revocation::sign(&self.key, &order);
        let span = in_hex(order.span());
        let ending = match Job::card(&job.to).as_ref() == Some(&self.to.card) {
            true => {
                let (from, to) = (self.from.card.clone(), self.to.card.clone());
                let mut errand = Errand::revoke(order, from, to, revocation);
                self.carry(&mut errand, progress).await?
            }
            false => self.give_up(order, revocation, progress).await?,
        };
        let moved = match ending {
            Ending::Moved => vec![span],
            Ending::Never => Vec::new(),
            Ending::Hindered(side, hindrance) => return Err(self.hindered(side, hindrance)),
        };
        Job::remove(&self.from.dir)?;
        self.report(&moved, true).await
    }

    /// The destination is gone: the source alone is told.
    async fn give_up(
        &self,
        order: Order,
        revocation: Revocation,
        progress: &output::Progress,
    ) -> Result<Ending, Failure> {
        let step = Step::revoke(order, revocation);
        progress.step(step.name().to_owned());
        match self.take(Side::Source, &step).await?.0 {
            Ok(Progress::Said(junto_vault::Word::Over { .. })) => Ok(Ending::Never),
            Ok(_) => Err(Failure::failed(
                "it has left already, for a group that is gone: what was stored in that range is lost",
            )
            .help("its users get back from the other realms, and store again")),
            Err(hindrance) => Ok(Ending::Hindered(Side::Source, hindrance)),
        }
    }

    async fn report(&self, moved: &[(String, String)], is_resumed: bool) -> Result<Value, Failure> {
        let from = self.from.ground(self.patience).await?.1;
        let to = self.to.ground(self.patience).await?.1;
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
