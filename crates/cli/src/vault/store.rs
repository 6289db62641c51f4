//! Storing with the realms: all of them hold the new part ready, count it one after the other, then forget the former one.

use std::collections::BTreeMap;

use junto_vault::{
    Answer, AuthKey, Deposit, GuessLimit, MasterKey, Operation, Part, Pin, RealmId, Refusal,
    Version, View, enrol,
};

use super::flow::{Realms, Said, Views, absent, is_done, why_not};
use crate::failure::{Context, Exit, Failure};
use crate::output::Progress;
use crate::random;

/// How often realms are asked to forget the former part, each time as long as a realm is waited for.
const SETTLE_ROUNDS: usize = 2;

/// A secret that the realms hold ready, and nobody can get back yet.
pub(super) struct Staged {
    pub(super) master: MasterKey,
    pub(super) version: Version,
    auth: BTreeMap<RealmId, AuthKey>,
    /// In the order in which they are to activate it.
    order: Vec<RealmId>,
    /// Realms that did not answer before.
    absent: Vec<RealmId>,
}

/// Which realms count a new part, at least t of them.
pub(super) struct Activated {
    /// Of the others, why.
    pub(super) missing: BTreeMap<RealmId, String>,
}

impl Staged {
    /// With what a realm lets its part be activated and settled.
    pub(super) fn auth(&self, realm: &RealmId) -> Option<AuthKey> {
        let key = self.auth.get(realm)?;
        Some(AuthKey::from_bytes(key.as_bytes()))
    }
}

impl Realms {
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

    /// Every realm that was asked has done it: the others are named. Nothing has changed for anybody then.
    fn all_done(&self, said: &BTreeMap<RealmId, Said>, what: &str) -> Result<(), Failure> {
        let undone = said.iter().filter(|(_, said)| !is_done(said));
        let undone: Vec<_> = undone
            .map(|(realm, said)| format!("{}: {}", self.name(realm), why_not(said)))
            .collect();
        if undone.is_empty() {
            return Ok(());
        }
        let undone = format!("not all realms {what}. {}", undone.join("; "));
        let said = |wanted: Refusal| {
            let is = |said: &Said| matches!(said, Ok(Answer::Refused(it)) if *it == wanted);
            said.values().any(is)
        };
        Err(if said(Refusal::Spent) {
            Failure::new(Exit::Refused, undone).help(
                "what was stored before counts still; with this set file nothing more can be stored: have another one made (`junto vault set`)",
            )
        } else if said(Refusal::Full) {
            Failure::new(Exit::Refused, undone)
                .help("what was stored before counts still; ask the realm's operator for room")
        } else {
            Failure::new(Exit::Unreachable, undone)
                .help("what was stored before counts still; the same command again begins anew")
        })
    }

    /// Makes what is staged what counts, at one realm after the other. Whoever does not say so may have done it all the same:
    /// it is asked what it keeps, and once more to do it. At least t of them have done it then.
    ///
    /// # Errors
    /// Fewer than t are known to have done it: it is not known which version counts.
    pub(super) async fn activate(&self, staged: &Staged) -> Result<Activated, Failure> {
        let activate = |realm: &RealmId| {
            Some(Operation::Activate {
                version: staged.version,
                auth: staged.auth(realm)?,
                former: None,
            })
        };
        let mut missing = BTreeMap::new();
        for realm in &staged.order {
            let said = self.each(|id| activate(id).filter(|_| id == realm)).await;
            for (realm, said) in said.into_iter().filter(|(_, said)| !is_done(said)) {
                missing.insert(realm, why_not(&said));
            }
        }
        if !missing.is_empty() {
            let views = self.views_of(|realm| missing.contains_key(realm)).await;
            let has = |view: &View| {
                let newest = view.versions.first();
                newest.is_some_and(|(roster, _)| roster.version() == staged.version)
            };
            let answers = |realm: &RealmId| matches!(views.get(realm), Some(Ok(_)));
            missing.retain(|realm, _| !matches!(views.get(realm), Some(Ok(view)) if has(view)));
            let again = self
                .each(|realm| {
                    let is_asked = missing.contains_key(realm) && answers(realm);
                    activate(realm).filter(|_| is_asked)
                })
                .await;
            missing.retain(|realm, _| !again.get(realm).is_some_and(is_done));
        }
        let done = staged.order.len() - missing.len();
        let needed = self.set.realms.threshold();
        for realm in &staged.absent {
            missing.insert(*realm, "it did not answer".to_owned());
        }
        if done >= needed {
            return Ok(Activated { missing });
        }
        Err(Failure::new(
            Exit::Unreachable,
            format_args!(
                "{needed} realms must count the new part, and {done} are known to. {}",
                self.reasons(&missing)
            ),
        ))
    }

    /// Realms with their reasons.
    pub(super) fn reasons(&self, missing: &BTreeMap<RealmId, String>) -> String {
        let missing = missing.iter();
        let reasons = missing.map(|(realm, why)| format!("{}: {why}", self.name(realm)));
        reasons.collect::<Vec<_>>().join("; ")
    }

    /// Has the realms for which there is a key forget what was stored before this version. Those that may keep it still.
    pub(super) async fn settle(
        &self,
        version: Version,
        auth: impl Fn(&RealmId) -> Option<AuthKey>,
    ) -> Vec<RealmId> {
        let ids = self.set.realms.realms().iter();
        let mut unsettled: Vec<RealmId> = ids.filter(|id| auth(id).is_some()).copied().collect();
        for _ in 0..SETTLE_ROUNDS {
            let said = self
                .each(|realm| {
                    let auth = auth(realm).filter(|_| unsettled.contains(realm))?;
                    Some(Operation::Settle { version, auth })
                })
                .await;
            unsettled.retain(|realm| !said.get(realm).is_some_and(is_done));
            if unsettled.is_empty() {
                break;
            }
        }
        unsettled
    }
}
