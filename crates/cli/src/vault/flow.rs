//! The realms of a set, asked all at the same time, and what they say of what they keep.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use junto_realm::ClientError;
use junto_vault::{Answer, Operation, RealmId, Roster, State, Version, View};

use super::set::Set;
use crate::failure::{Exit, Failure};

/// What one realm said, or why it did not.
pub(super) type Said = Result<Answer, ClientError>;
/// What realms told of the record, and why others did not.
pub(super) type Views = BTreeMap<RealmId, Result<View, ClientError>>;
/// Which rosters each realm tells, the newest first.
pub(super) type Told = BTreeMap<RealmId, Vec<Roster>>;

/// The realms of a set, and how long to wait for each.
pub(super) struct Realms {
    pub(super) set: Set,
    pub(super) patience: Duration,
    /// Evidence that proves nothing is accepted.
    pub(super) simulated: bool,
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

    pub(super) fn names<'a>(&self, realms: impl IntoIterator<Item = &'a RealmId>) -> String {
        let names: Vec<_> = realms.into_iter().map(|realm| self.name(realm)).collect();
        names.join("; ")
    }

    /// Asks all realms for which there is a question, at the same time.
    pub(super) async fn each(
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
        self.views_of(|_| true).await
    }

    /// The same of some realms only.
    pub(super) async fn views_of(&self, wanted: impl Fn(&RealmId) -> bool) -> Views {
        let said = self
            .each(|realm| wanted(realm).then_some(Operation::View))
            .await;
        let view = |said: Said| match said? {
            Answer::View(view) => Ok(view),
            // Such as for a token that ended on its way.
            Answer::Refused(refusal) => Err(ClientError::Absent(refusal.to_string())),
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
        let told = told(views);
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
            return Err(erased(
                "no guess is left: the realms have erased what they kept",
            ));
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
    pub(super) fn enough(&self, views: &Views) -> Result<(), Failure> {
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
    pub(super) fn absence(&self, views: &Views, what: &str) -> Failure {
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

    /// Realms that keep this version, and the guesses that each has left for it.
    pub(super) fn holders(&self, views: &Views, version: &Version) -> BTreeMap<RealmId, u16> {
        let held = views.iter().filter_map(|(realm, view)| {
            let left = left_of(view.as_ref().ok()?, version)?;
            Some((*realm, left))
        });
        held.collect()
    }

    /// Guesses that a client has who asks all of these realms: the t-th largest number.
    pub(super) fn left(&self, holders: &BTreeMap<RealmId, u16>) -> u16 {
        let mut left: Vec<u16> = holders.values().copied().collect();
        left.sort_unstable_by(|a, b| b.cmp(a));
        left.get(self.set.realms.threshold() - 1)
            .copied()
            .unwrap_or(0)
    }

    /// What nobody may overlook in the result of any command with these realms.
    pub(super) fn warning(&self) -> Option<&'static str> {
        match (self.set.trial, self.simulated) {
            (true, _) => Some(
                "TRIAL: these realms are processes of one machine that forget everything when `junto vault realm try` ends.",
            ),
            (false, true) => {
                Some("Evidence of the realms' machines is simulated: it proves nothing.")
            }
            (false, false) => None,
        }
    }

    /// The same for programs.
    pub(super) fn evidence(&self) -> &'static str {
        match self.simulated {
            true => "simulated",
            false => "real",
        }
    }

    /// Has all realms erase the record. Those that did not, with their reasons, are the failure.
    pub(super) async fn delete(&self) -> Result<usize, Failure> {
        let said = self.each(|_| Some(Operation::Delete)).await;
        let (count, needed) = (said.len(), self.set.realms.threshold());
        let mut undone = Vec::new();
        let mut exit = Exit::Unreachable;
        for (realm, said) in said {
            let code = match &said {
                Ok(Answer::Done) => continue,
                Ok(Answer::Refused(_)) => Exit::Refused,
                Ok(_) => Exit::Misbehaved,
                Err(error) => exit_of(error),
            };
            undone.push(format!("{}: {}", self.name(&realm), why_not(&said)));
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

/// Which rosters each realm tells.
pub(super) fn told(views: &Views) -> Told {
    let told = views.iter().filter_map(|(realm, view)| {
        let view = view.as_ref().ok()?;
        let rosters = view.versions.iter().map(|(roster, _)| roster.clone());
        Some((*realm, rosters.collect()))
    });
    told.collect()
}

/// Nothing can be got back any more.
pub(super) fn erased(what: &str) -> Failure {
    Failure::new(Exit::Erased, what)
        .help("what the sealed file holds is lost, unless the profile is still somewhere")
}

/// Why a realm has not done it.
pub(super) fn why_not(said: &Said) -> String {
    match said {
        Ok(Answer::Refused(refusal)) => refusal.to_string(),
        Ok(_) => ClientError::Nonsense.to_string(),
        Err(error) => error.to_string(),
    }
}

pub(super) fn is_done(said: &Said) -> bool {
    matches!(said, Ok(Answer::Done))
}

/// `1 guess is`, `2 guesses are`.
pub(super) fn guesses(left: u16) -> String {
    match left {
        1 => "1 guess is".to_owned(),
        left => format!("{left} guesses are"),
    }
}

/// Whether a realm is away, is not what it should be, or says what makes no sense.
pub(super) fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::Absent(_) => Exit::Unreachable,
        ClientError::Stranger
        | ClientError::Evidence(_)
        | ClientError::Unauthorised
        | ClientError::Unproven => Exit::Refused,
        ClientError::Nonsense => Exit::Misbehaved,
    }
}

/// Of two reasons, the one that does not pass by itself.
pub(super) fn graver(one: Exit, other: Exit) -> Exit {
    match (one, other) {
        (Exit::Refused, _) | (_, Exit::Refused) => Exit::Refused,
        (Exit::Unreachable, other) => other,
        (one, _) => one,
    }
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
