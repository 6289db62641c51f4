//! What a client does with the realms of its set: ask all of them at the same time, and judge what they say together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use junto_realm::ClientError;
use junto_vault::{
    Answer, Attempt, AuthKey, Claims, Deposit, Evaluation, Given, GuessLimit, MasterKey, Operation,
    Part, Pin, RealmId, RecoveryError, Refusal, Roster, State, Stretched, Version, View, enrol,
};

use super::set::Set;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Output, Progress};
use crate::random;

/// What one realm said, or why it did not.
type Said = Result<Answer, ClientError>;
/// What realms told of the record, and why others did not.
pub(super) type Views = BTreeMap<RealmId, Result<View, ClientError>>;

/// The realms of a set, and how long to wait for each.
pub(super) struct Realms {
    pub(super) set: Set,
    pub(super) patience: Duration,
}

/// A secret got back.
pub(super) struct Opened {
    pub(super) master: MasterKey,
    pub(super) version: Version,
    /// Realms that were proven to lie, while enough others did not.
    pub(super) liars: BTreeSet<RealmId>,
    /// Realms that did not answer.
    pub(super) absent: Vec<RealmId>,
}

/// A secret that the realms hold ready, and nobody can get back yet.
pub(super) struct Staged {
    pub(super) master: MasterKey,
    pub(super) version: Version,
    auth: BTreeMap<RealmId, AuthKey>,
    /// In the order in which they are to activate it.
    order: Vec<RealmId>,
    pub(super) absent: Vec<RealmId>,
}

impl Realms {
    /// How a person knows a realm.
    pub(super) fn name(&self, realm: &RealmId) -> String {
        let ids = &mut self.set.realms.realms().iter();
        let place = ids.position(|id| id == realm);
        let place = place.and_then(|at| self.set.places.get(at));
        let id = hex::encode(&realm.0[..4]);
        place.map_or_else(|| id.clone(), |place| format!("{id} at {place}"))
    }

    fn names<'a>(&self, realms: impl IntoIterator<Item = &'a RealmId>) -> String {
        let names: Vec<_> = realms.into_iter().map(|realm| self.name(realm)).collect();
        names.join("; ")
    }

    /// Asks all realms for which there is a question, at the same time.
    async fn each(
        &self,
        question: impl Fn(&RealmId) -> Option<Operation>,
    ) -> BTreeMap<RealmId, Said> {
        let asked = self.set.clients.iter().filter_map(|client| {
            let operation = question(client.realm())?;
            Some(async move {
                let said = client.ask(&operation, self.patience).await;
                (*client.realm(), said)
            })
        });
        join_all(asked).await.into_iter().collect()
    }

    pub(super) async fn views(&self) -> Views {
        let said = self.each(|_| Some(Operation::View)).await;
        let view = |said: Said| match said? {
            Answer::View(view) => Ok(view),
            _ => Err(ClientError::Nonsense),
        };
        said.into_iter()
            .map(|(realm, said)| (realm, view(said)))
            .collect()
    }

    /// When the group of a realm began: what it kept before is gone.
    pub(super) async fn began(&self, realm: &RealmId) -> Option<u64> {
        let clients = &mut self.set.clients.iter();
        let client = clients.find(|client| client.realm() == realm)?;
        let card = client.card(self.patience).await.ok()?;
        Some(card.began().0)
    }

    /// What enough realms hold alike.
    pub(super) fn agreed(&self, views: &Views) -> Result<Roster, Failure> {
        let told = views.iter().filter_map(|(realm, view)| {
            let view = view.as_ref().ok()?;
            let rosters = view.versions.iter().map(|(roster, _)| roster.clone());
            Some((*realm, rosters.collect()))
        });
        let told: BTreeMap<RealmId, Vec<Roster>> = told.collect();
        if let Ok(roster) = Roster::agreed(&self.set.realms, &told) {
            return Ok(roster);
        }
        let of = |wanted: State| {
            let is = |view: &View| view.state == wanted;
            views.values().flatten().filter(|view| is(view)).count()
        };
        let needed = self.set.realms.threshold();
        let count = self.set.realms.realms().len();
        if of(State::Exhausted) > count - needed {
            return Err(Failure::new(
                Exit::Erased,
                "no guess is left: the realms have erased what they kept",
            )
            .help("what the sealed file holds is lost, unless the profile is still somewhere"));
        }
        self.enough(views)?;
        let failure = match of(State::Active) {
            0 => Failure::failed("the realms keep nothing for this set file")
                .help("`junto vault backup` stores; a realm that was started again is empty"),
            active => Failure::failed(format_args!(
                "{needed} realms must agree on what is stored, and only {active} keep something"
            ))
            .help(
                "`junto vault status` says which; if the profile is still there, back it up again",
            ),
        };
        Err(failure)
    }

    /// As many realms answer as have to agree.
    fn enough(&self, views: &Views) -> Result<(), Failure> {
        let needed = self.set.realms.threshold();
        let there = views.values().flatten().count();
        if there >= needed {
            return Ok(());
        }
        Err(self.absence(
            views,
            &format!("{needed} realms are needed, and {there} answer"),
        ))
    }

    /// Names every realm that is not there with its reason. One that is there and is not what it should be is graver.
    fn absence(&self, views: &Views, what: &str) -> Failure {
        let mut reasons = Vec::new();
        let mut exit = Exit::Unreachable;
        for (realm, view) in views {
            let Err(error) = view else { continue };
            reasons.push(format!("{}: {error}", self.name(realm)));
            exit = graver(exit, exit_of(error));
        }
        let failure = Failure::new(exit, format_args!("{what}. {}", reasons.join("; ")));
        let simulated = junto_realm::EvidenceError::Simulated;
        let is_simulated = |view: &Result<View, ClientError>| matches!(view, Err(ClientError::Evidence(it)) if *it == simulated);
        match views.values().any(is_simulated) {
            true => failure.help("for trying, `--accept-simulated` accepts that"),
            false => failure.help("try again when they are back, or with a longer `--timeout`"),
        }
    }

    /// Guesses that a client has who asks all realms.
    pub(super) fn left(&self, views: &Views, version: &Version) -> u16 {
        let mut left: Vec<u16> = views
            .values()
            .flatten()
            .filter_map(|view| left_of(view, version))
            .collect();
        left.sort_unstable_by(|a, b| b.cmp(a));
        left.get(self.set.realms.threshold() - 1)
            .copied()
            .unwrap_or(0)
    }

    /// Stretches the PIN, and has the realms hold its deposit. What they kept before stays as it is.
    pub(super) async fn stage(
        &self,
        pin: Pin,
        limit: GuessLimit,
        allow_absent: bool,
        progress: &Progress,
    ) -> Result<Staged, Failure> {
        progress.step("asking the realms what they keep");
        let views = self.views().await;
        let absent: Vec<RealmId> = absent(&views);
        self.enough(&views)?;
        if !absent.is_empty() && !allow_absent {
            let failure = self.absence(&views, "not all realms answer");
            return Err(
                failure.help("`--allow-absent` stores with the others: fewer may be lost then")
            );
        }
        progress.step("stretching the PIN");
        let (account, realms) = (self.set.account.clone(), self.set.realms.clone());
        let enrolling = tokio::task::spawn_blocking(move || {
            let cost = junto_vault::Cost::RECOMMENDED;
            enrol(&pin, &account, &realms, cost, limit, &mut random())
        });
        let enrolled = enrolling.await.context("the PIN was not stretched")?;
        let (master, parts) = enrolled.context("the PIN was not stretched")?;
        progress.step("handing each realm its part");
        let (mut deposits, mut auth) = (BTreeMap::new(), BTreeMap::new());
        for Part {
            realm,
            deposit,
            auth: key,
        } in parts
        {
            deposits.insert(realm, deposit.to_bytes());
            auth.insert(realm, key);
        }
        let Some(version) = deposits
            .iter()
            .find_map(|(realm, bytes)| Some(Deposit::from_bytes(bytes, realm).ok()?.version()))
        else {
            return Err(Failure::failed("no part was made"));
        };
        let staged = self
            .each(|realm| {
                let _ = views.get(realm)?.as_ref().ok()?;
                let deposit = Deposit::from_bytes(deposits.get(realm)?, realm).ok()?;
                Some(Operation::Stage(Box::new(deposit)))
            })
            .await;
        self.all_done(&staged, "hold the new part")?;
        Ok(Staged {
            master,
            version,
            auth,
            order: self.order(&views),
            absent,
        })
    }

    /// Realms that drop what enough of them still hold alike come last: a client that is ended in between leaves that.
    fn order(&self, views: &Views) -> Vec<RealmId> {
        let agreed = self.agreed(views).ok().map(|roster| roster.version());
        let drops = |view: &View| {
            let second = view.versions.get(1);
            second.is_some_and(|(roster, _)| Some(roster.version()) == agreed)
        };
        let there = views
            .iter()
            .filter_map(|(realm, view)| Some((drops(view.as_ref().ok()?), *realm)));
        let mut order: Vec<_> = there.collect();
        order.sort_unstable();
        order.into_iter().map(|(_, realm)| realm).collect()
    }

    /// Every realm that was asked has done it, or enough: the others are named.
    fn all_done(&self, said: &BTreeMap<RealmId, Said>, what: &str) -> Result<(), Failure> {
        let is_done = |said: &Said| matches!(said, Ok(Answer::Done));
        let undone: Vec<String> = said
            .iter()
            .filter(|(_, said)| !is_done(said))
            .map(|(realm, said)| {
                let why = match said {
                    Ok(Answer::Refused(refusal)) => refusal.to_string(),
                    Ok(_) => ClientError::Nonsense.to_string(),
                    Err(error) => error.to_string(),
                };
                format!("{}: {why}", self.name(realm))
            })
            .collect();
        if undone.is_empty() {
            return Ok(());
        }
        let spent =
            |said: &Said| matches!(said, Ok(Answer::Refused(Refusal::Spent | Refusal::Full)));
        let exit = match said.values().any(spent) {
            true => Exit::Refused,
            false => Exit::Unreachable,
        };
        Err(Failure::new(
            exit,
            format_args!("not all realms {what}. {}", undone.join("; ")),
        )
        .help("what was stored before counts still; the same command again begins anew"))
    }

    /// Makes what is staged what counts, at one realm after the other. At least t of them have done it then.
    pub(super) async fn activate(&self, staged: &Staged) -> Result<(), Failure> {
        let mut said = BTreeMap::new();
        for realm in &staged.order {
            let one = self.each(|id| {
                let auth = staged.auth.get(id).filter(|_| id == realm)?;
                Some(Operation::Activate {
                    version: staged.version,
                    auth: AuthKey::from_bytes(auth.as_bytes()),
                    former: None,
                })
            });
            said.extend(one.await);
        }
        let done = said
            .values()
            .filter(|said| matches!(said, Ok(Answer::Done)));
        if done.count() >= self.set.realms.threshold() {
            return Ok(());
        }
        self.all_done(&said, "count the new part")
    }

    /// What was stored before is dropped.
    pub(super) async fn settle(&self, staged: &Staged) {
        // Whoever does not answer keeps it until the next time.
        let _ = self
            .each(|realm| {
                Some(Operation::Settle {
                    version: staged.version,
                    auth: AuthKey::from_bytes(staged.auth.get(realm)?.as_bytes()),
                })
            })
            .await;
    }

    /// One guess: all realms charge it, and give the secret back if it was right.
    pub(super) async fn open(&self, pin: Pin, progress: &Progress) -> Result<Opened, Failure> {
        progress.step("asking the realms what they keep");
        let views = self.views().await;
        let roster = self.agreed(&views)?;
        let version = roster.version();
        let holders: BTreeSet<RealmId> = views
            .iter()
            .filter(|(_, view)| {
                view.as_ref()
                    .is_ok_and(|view| left_of(view, &version).is_some())
            })
            .map(|(realm, _)| *realm)
            .collect();
        progress.step("stretching the PIN");
        let (account, realms) = (self.set.account.clone(), self.set.realms.clone());
        let cost = roster.cost();
        let stretching = tokio::task::spawn_blocking(move || {
            Stretched::new(&pin, &account, &realms, &version, cost)
        });
        let stretched = stretching.await.context("the PIN was not stretched")?;
        let stretched = stretched.context("the PIN was not stretched")?;
        let attempt = Attempt::new(stretched, roster, &mut random());
        progress.step("guessing: the realms charge a guess");
        let (evaluated, exhausted) = self.evaluated(&attempt, version, &holders).await;
        let claims = attempt
            .claims(&evaluated)
            .map_err(|error| match exhausted {
                true => self.erased(),
                false => self.too_few(error),
            })?;
        progress.step("claiming: the realms compare");
        let mut liars: BTreeSet<RealmId> = claims.liars().iter().copied().collect();
        let sound = evaluated.keys().filter(|realm| !liars.contains(realm));
        let sound: BTreeSet<RealmId> = sound.copied().collect();
        let (given, refused) = self.given(&claims, version, &sound).await;
        let master = claims.open(&given).map_err(|error| {
            let RecoveryError::Few { liars, .. } = &error;
            match (liars.is_empty(), refused) {
                (true, Some(refused)) => refused,
                _ => self.too_few(error),
            }
        })?;
        liars.extend(claims.false_parts(&given));
        Ok(Opened {
            master,
            version,
            liars,
            absent: absent(&views),
        })
    }

    /// What the realms evaluate, and whether one of them has no guess left.
    async fn evaluated(
        &self,
        attempt: &Attempt,
        version: Version,
        holders: &BTreeSet<RealmId>,
    ) -> (BTreeMap<RealmId, Evaluation>, bool) {
        let element = attempt.element();
        let said = self
            .each(|realm| {
                holders
                    .contains(realm)
                    .then_some(Operation::Evaluate { version, element })
            })
            .await;
        let exhausted = said.values().any(is_exhausted);
        let evaluated = said.into_iter().filter_map(|(realm, said)| match said {
            Ok(Answer::Evaluation(evaluation)) => Some((realm, evaluation)),
            _ => None,
        });
        (evaluated.collect(), exhausted)
    }

    /// What the realms give, and what those say that found the PIN wrong.
    async fn given(
        &self,
        claims: &Claims,
        version: Version,
        asked: &BTreeSet<RealmId>,
    ) -> (BTreeMap<RealmId, Given>, Option<Failure>) {
        let said = self
            .each(|realm| {
                let auth = claims.auth_key(realm);
                asked
                    .contains(realm)
                    .then_some(Operation::Claim { version, auth })
            })
            .await;
        let refused = self.refused(&said);
        let given = said.into_iter().filter_map(|(realm, said)| match said {
            Ok(Answer::Given(given)) => Some((realm, given)),
            _ => None,
        });
        (given.collect(), refused)
    }

    fn erased(&self) -> Failure {
        Failure::new(
            Exit::Erased,
            "that was one guess too many: the realms have erased what they kept",
        )
        .help("what the sealed file holds is lost, unless the profile is still somewhere")
    }

    /// What the realms say of a PIN that is wrong.
    fn refused(&self, said: &BTreeMap<RealmId, Said>) -> Option<Failure> {
        let needed = self.set.realms.threshold();
        let mut left: Vec<u16> = Vec::new();
        let mut gone = 0;
        for said in said.values() {
            match said {
                Ok(Answer::Refused(Refusal::Wrong { left: some })) => left.push(*some),
                said if is_exhausted(said) => gone += 1,
                _ => {}
            }
        }
        left.sort_unstable_by(|a, b| b.cmp(a));
        if left.is_empty() && gone == 0 {
            return None;
        }
        // The realms that are left are too few for another guess.
        let Some(left) = left.get(needed - 1).filter(|left| **left > 0) else {
            return Some(
                Failure::new(
                    Exit::Erased,
                    "wrong PIN, and no guess is left: the realms erase what they kept",
                )
                .help("what the sealed file holds is lost, unless the profile is still somewhere"),
            );
        };
        let guesses = if *left == 1 {
            "guess is"
        } else {
            "guesses are"
        };
        Some(
            Failure::new(
                Exit::WrongPin,
                format_args!("wrong PIN; {left} {guesses} left"),
            )
            .help("after the last one the realms erase what they keep"),
        )
    }

    fn too_few(&self, error: RecoveryError) -> Failure {
        let RecoveryError::Few {
            needed,
            sound,
            liars,
        } = error;
        if liars.is_empty() {
            return Failure::new(
                Exit::Unreachable,
                format_args!("{needed} realms must answer, and {sound} did"),
            )
            .help("try again: if it was the right PIN, all guesses come back");
        }
        let names = self.names(&liars);
        Failure::new(
            Exit::Misbehaved,
            format_args!(
                "{needed} realms must answer truly, and {sound} did; proven to lie: {names}"
            ),
        )
        .party(names)
        .help("its operator is at fault; wait for other realms")
    }

    /// Says which realms lied or were away.
    pub(super) fn tell(&self, opened: &Opened, output: Output) {
        if !opened.liars.is_empty() {
            let names = self.names(&opened.liars);
            output.say(format_args!("proven to lie, and not needed: {names}"));
        }
        if !opened.absent.is_empty() {
            let names = self.names(&opened.absent);
            output.say(format_args!("did not answer, and was not needed: {names}"));
        }
    }

    /// Has all realms erase the record. Those that did not, with their reasons, are the failure.
    pub(super) async fn delete(&self) -> Result<usize, Failure> {
        let said = self.each(|_| Some(Operation::Delete)).await;
        let (count, needed) = (said.len(), self.set.realms.threshold());
        let mut undone = Vec::new();
        let mut exit = Exit::Unreachable;
        for (realm, said) in said {
            let (why, code) = match said {
                Ok(Answer::Done) => continue,
                Ok(Answer::Refused(refusal)) => (refusal.to_string(), Exit::Refused),
                Ok(_) => (ClientError::Nonsense.to_string(), Exit::Misbehaved),
                Err(error) => (error.to_string(), exit_of(&error)),
            };
            undone.push(format!("{}: {why}", self.name(&realm)));
            exit = graver(exit, code);
        }
        if undone.is_empty() {
            return Ok(count);
        }
        let failure = Failure::new(
            exit,
            format_args!(
                "{} of {count} realms did not erase. {}",
                undone.len(),
                undone.join("; ")
            ),
        );
        Err(match undone.len() < needed {
            true => failure.help(
                "those that are left are too few to give anything back; the same command again asks them",
            ),
            false => failure
                .help("the secret can still be got back; the same command again asks them"),
        })
    }
}

/// Whether a realm is away, is not what it should be, or says what makes no sense.
fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::Absent(_) => Exit::Unreachable,
        ClientError::Stranger | ClientError::Evidence(_) | ClientError::Unauthorised => {
            Exit::Refused
        }
        ClientError::Nonsense => Exit::Misbehaved,
    }
}

/// Of two reasons, the one that does not pass by itself.
fn graver(one: Exit, other: Exit) -> Exit {
    match (one, other) {
        (Exit::Refused, _) | (_, Exit::Refused) => Exit::Refused,
        (Exit::Unreachable, other) => other,
        (one, _) => one,
    }
}

fn is_exhausted(said: &Said) -> bool {
    matches!(said, Ok(Answer::Refused(Refusal::Exhausted)))
}

/// Guesses that a realm has left for a version.
pub(super) fn left_of(view: &View, version: &Version) -> Option<u16> {
    let versions = &mut view.versions.iter();
    let kept = versions.find(|(roster, _)| roster.version() == *version)?;
    Some(kept.1)
}

pub(super) fn absent(views: &Views) -> Vec<RealmId> {
    let absent = views.iter().filter(|(_, view)| view.is_err());
    absent.map(|(realm, _)| *realm).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use junto_realm::Accepted;

    use super::*;
    use crate::vault::set::{RealmFile, TenantFile, open, write_set};

    #[test]
    fn who_lied_is_named_and_who_was_away_is_not_blamed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.json");
        let files = (1..=3).map(|seed| {
            let key = junto_crypto::ed25519::SigningKey::from_seed(&[seed; 32]);
            let id = RealmId(*key.verifying_key().as_bytes());
            RealmFile::new(&id, vec![format!("host{seed}:1")])
        });
        write_set(&path, 2, TenantFile::new("junto").unwrap(), files.collect()).unwrap();
        let realms = Realms {
            set: open(&path, Accepted::default()).unwrap(),
            patience: Duration::from_secs(1),
        };
        let liar = realms.set.realms.realms()[1];
        let few = |liars| RecoveryError::Few {
            needed: 2,
            sound: 1,
            liars,
        };
        let blamed = realms.too_few(few(vec![liar]));
        assert_eq!(blamed.exit, Exit::Misbehaved);
        let name = realms.name(&liar);
        assert!(name.contains(":1") && blamed.message.contains(&name));
        assert_eq!(blamed.party, Some(name));
        let away = realms.too_few(few(Vec::new()));
        assert_eq!((away.exit, away.party), (Exit::Unreachable, None));
        // The t-th largest number of guesses is what a client has that asks all.
        let said = |left: &[u16]| {
            let said = left.iter().zip(realms.set.realms.realms());
            let said = said.map(|(left, realm)| {
                let refusal = match left {
                    0 => Refusal::Exhausted,
                    left => Refusal::Wrong { left: *left },
                };
                (*realm, Ok(Answer::Refused(refusal)))
            });
            realms.refused(&said.collect())
        };
        let wrong = said(&[4, 2, 3]).unwrap();
        assert_eq!(wrong.exit, Exit::WrongPin);
        assert!(wrong.message.contains("3 guesses are left"));
        assert_eq!(said(&[4, 0, 0]).unwrap().exit, Exit::Erased);
        assert!(said(&[]).is_none());
    }
}
