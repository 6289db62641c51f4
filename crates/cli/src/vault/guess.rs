//! One guess: the realms charge it and evaluate, then compare and give. What they say together is judged here.

use std::collections::{BTreeMap, BTreeSet};

use junto_realm::ClientError;
use junto_vault::{
    Answer, Attempt, AuthKey, Claims, Evaluation, Given, MasterKey, Operation, Pin, RealmId,
    RecoveryError, Refusal, Roster, State, Stretched, Version, View,
};
use tokio::time::Instant;

use super::flow::{Realms, Views, absent, erased, guesses, told};
use super::sealed::{KeptSeed, Sealed};
use crate::failure::{Context, Exit, Failure};
use crate::output::{Output, Progress};

/// How much longer than usual realms are waited for once a guess is charged.
const STUBBORN: u32 = 6;

/// A secret got back.
pub(super) struct Opened {
    pub(super) master: MasterKey,
    claims: Claims,
    /// Realms that were proven to lie, while enough others did not.
    pub(super) liars: BTreeSet<RealmId>,
    /// Realms that did not answer before the guess.
    pub(super) absent: Vec<RealmId>,
    /// Realms that keep this version, and did not confirm that they know of the right PIN.
    pub(super) unproven: Vec<RealmId>,
    /// Realms that do.
    proven: BTreeSet<RealmId>,
}

impl Opened {
    /// With what a realm that gave its part forgets what was stored before.
    pub(super) fn auth(&self, realm: &RealmId) -> Option<AuthKey> {
        let knows = self.proven.contains(realm);
        knows.then(|| self.claims.auth_key(realm))
    }
}

/// A guess that gave nothing back.
pub(super) struct Refused {
    pub(super) failure: Failure,
    /// The realms have judged it: asking the same again makes no sense.
    pub(super) is_judged: bool,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            is_judged: false,
        }
    }
}

/// Which of the sealed files is to be opened, and what the realms hold for it.
pub(super) struct Chosen {
    pub(super) sealed: Sealed,
    pub(super) roster: Roster,
    /// Realms that hold it, with the guesses left.
    pub(super) holders: BTreeMap<RealmId, u16>,
    /// The realms count another version, and hold this one as well.
    pub(super) is_former: bool,
}

/// What realms say of one guess.
#[derive(Default)]
struct Heard {
    given: BTreeMap<RealmId, Given>,
    /// With the guesses left.
    wrong: BTreeMap<RealmId, u16>,
    exhausted: BTreeSet<RealmId>,
}

/// What they say together, if fewer than t of them lie.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    Wrong,
    Erased,
    /// Too few have spoken, or one lies and it is not known which.
    Undecided,
}

/// `sound`: realms that gave what they are bound to. One alone proves nothing: it can give its part to whoever asks. So can one
/// alone say "wrong". What t say, an honest one says.
fn judge(needed: usize, count: usize, sound: usize, wrong: usize, exhausted: usize) -> Verdict {
    if sound >= needed {
        Verdict::Right
    } else if exhausted > count - needed {
        Verdict::Erased
    } else if wrong >= needed || (sound == 0 && wrong > 0) {
        Verdict::Wrong
    } else {
        Verdict::Undecided
    }
}

impl Realms {
    /// The file whose version counts; else the one that was named, if enough realms still hold its version; else another one.
    pub(super) fn choose(&self, views: &Views, files: Vec<Sealed>) -> Result<Chosen, Failure> {
        let agreed = self.agreed(views);
        let told = told(views);
        let counts = agreed.as_ref().ok().map(Roster::version);
        let rank = |sealed: &Sealed| Some(sealed.head.version) != counts;
        let mut ranked = files.clone();
        ranked.sort_by_key(rank);
        for sealed in ranked {
            let version = sealed.head.version;
            if let Some(roster) = Roster::held(&self.set.realms, &told, &version) {
                return Ok(Chosen {
                    holders: self.holders(views, &version),
                    is_former: Some(version) != counts,
                    sealed,
                    roster,
                });
            }
        }
        let counts = agreed?.version();
        let names: Vec<_> = files
            .iter()
            .map(|it| it.path.display().to_string())
            .collect();
        Err(Failure::failed(format_args!(
            "the realms hold the key of another backup than {}: of the one whose version is {}",
            names.join(", "),
            hex::encode(counts.0)
        ))
        .help("no guess was spent; use the file of that backup. If the last one did not come to its end, its file lies beside the former one, under a name with that version"))
    }

    /// All realms that may be asked charge the guess, and give the secret back if it was right.
    pub(super) async fn open(
        &self,
        views: &Views,
        chosen: &Chosen,
        pin: Pin,
        kept: &KeptSeed,
        progress: &Progress,
    ) -> Result<Opened, Refused> {
        let version = chosen.roster.version();
        let asked = self.asked(&chosen.holders, kept.is_old);
        progress.step("stretching the PIN");
        let stretched = self.stretched(pin, &chosen.roster).await?;
        let attempt = Attempt::again(stretched, chosen.roster.clone(), &kept.seed);
        progress.step("guessing: the realms charge a guess");
        let until = Instant::now() + self.patience * STUBBORN;
        let is_exhausted = |view: &Result<View, ClientError>| matches!(view, Ok(view) if view.state == State::Exhausted);
        let exhausted = views.iter().filter(|(_, view)| is_exhausted(view));
        let mut heard = Heard {
            exhausted: exhausted.map(|(realm, _)| *realm).collect(),
            ..Heard::default()
        };
        let evaluated = self.evaluated(&attempt, version, &asked, until, &mut heard);
        let evaluated = evaluated.await;
        let claims =
            attempt
                .claims(&evaluated)
                .map_err(|RecoveryError::Few { sound, liars, .. }| {
                    self.refused(&chosen.holders, &heard, sound, &liars, kept)
                })?;
        progress.step("claiming: the realms compare");
        let mut liars: BTreeSet<RealmId> = claims.liars().iter().copied().collect();
        let sound: BTreeSet<RealmId> = evaluated.into_keys().collect();
        let sound = sound.difference(&liars).copied().collect();
        self.claimed(chosen, &claims, &sound, until, &mut heard)
            .await;
        let master = claims.open(&heard.given).map_err(
            |RecoveryError::Few {
                 sound,
                 liars: false_parts,
                 ..
             }| {
                liars.extend(false_parts);
                let liars: Vec<_> = liars.iter().copied().collect();
                self.refused(&chosen.holders, &heard, sound, &liars, kept)
            },
        )?;
        self.spread(chosen, &claims, &mut liars, &mut heard).await;
        let proven: BTreeSet<RealmId> = heard.given.into_keys().collect();
        let holders = chosen.holders.keys();
        Ok(Opened {
            master,
            claims,
            liars,
            absent: absent(views),
            unproven: holders.filter(|it| !proven.contains(it)).copied().collect(),
            proven,
        })
    }

    /// It was the right PIN: whoever found it wrong lies. All who hold a part are to know of it, and give their guesses back.
    async fn spread(
        &self,
        chosen: &Chosen,
        claims: &Claims,
        liars: &mut BTreeSet<RealmId>,
        heard: &mut Heard,
    ) {
        liars.extend(heard.wrong.keys());
        let others = chosen.holders.keys();
        let others = others.filter(|it| !heard.given.contains_key(it) && !liars.contains(it));
        let others = others.copied().collect();
        let version = chosen.roster.version();
        self.claim_at(claims, version, &others, heard).await;
        liars.extend(claims.false_parts(&heard.given));
    }

    async fn stretched(&self, pin: Pin, roster: &Roster) -> Result<Stretched, Failure> {
        let (account, realms) = (self.set.account.clone(), self.set.realms.clone());
        let (version, cost) = (roster.version(), roster.cost());
        let stretching = tokio::task::spawn_blocking(move || {
            Stretched::new(&pin, &account, &realms, &version, cost)
        });
        let stretched = stretching.await.context("the PIN was not stretched")?;
        stretched.context("the PIN was not stretched")
    }

    /// A realm without guesses erases what it keeps when another guess comes. It is asked only for a guess that was charged
    /// already and broken off, and only if without it there are too few.
    fn asked(&self, holders: &BTreeMap<RealmId, u16>, is_old: bool) -> BTreeSet<RealmId> {
        let with = holders.iter();
        let with: BTreeSet<_> = with
            .filter(|(_, left)| **left > 0)
            .map(|(it, _)| *it)
            .collect();
        match with.len() < self.set.realms.threshold() && is_old {
            true => holders.keys().copied().collect(),
            false => with,
        }
    }

    /// What the realms evaluate: those that do not answer are asked again for the same, which costs no further guess.
    async fn evaluated(
        &self,
        attempt: &Attempt,
        version: Version,
        asked: &BTreeSet<RealmId>,
        until: Instant,
        heard: &mut Heard,
    ) -> BTreeMap<RealmId, Evaluation> {
        let element = attempt.element();
        let mut open = asked.clone();
        let mut evaluated = BTreeMap::new();
        loop {
            let said = self
                .each(|realm| {
                    let is_open = open.contains(realm);
                    is_open.then_some(Operation::Evaluate { version, element })
                })
                .await;
            for (realm, said) in said {
                match said {
                    Err(ClientError::Absent(_)) => continue,
                    Ok(Answer::Evaluation(evaluation)) => {
                        evaluated.insert(realm, evaluation);
                    }
                    Ok(Answer::Refused(Refusal::Exhausted)) => {
                        heard.exhausted.insert(realm);
                    }
                    Ok(_) | Err(_) => {}
                }
                open.remove(&realm);
            }
            let is_enough = attempt.sound(&evaluated) >= self.set.realms.threshold();
            if is_enough || open.is_empty() || Instant::now() >= until {
                return evaluated;
            }
        }
    }

    /// Claims where the guess was evaluated; and if that leaves it open, wherever a wrong claim erases nothing.
    async fn claimed(
        &self,
        chosen: &Chosen,
        claims: &Claims,
        evaluated: &BTreeSet<RealmId>,
        until: Instant,
        heard: &mut Heard,
    ) {
        let version = chosen.roster.version();
        self.claim_at(claims, version, evaluated, heard).await;
        while self.verdict(claims, heard) == Verdict::Undecided && Instant::now() < until {
            let has_guesses = chosen.holders.iter().filter(|(_, left)| **left > 0);
            let mut open: BTreeSet<_> = has_guesses.map(|(realm, _)| *realm).collect();
            open.extend(evaluated);
            open.retain(|realm| !heard.has(realm));
            if open.is_empty() {
                break;
            }
            let before = open.len();
            let unclear = self.claim_at(claims, version, &open, heard).await;
            // Those that answer what makes no sense are not asked for ever.
            if unclear == before {
                break;
            }
        }
    }

    /// Gives how many answered what is no answer.
    async fn claim_at(
        &self,
        claims: &Claims,
        version: Version,
        asked: &BTreeSet<RealmId>,
        heard: &mut Heard,
    ) -> usize {
        let said = self
            .each(|realm| {
                let auth = claims.auth_key(realm);
                let is_asked = asked.contains(realm);
                is_asked.then_some(Operation::Claim { version, auth })
            })
            .await;
        let mut unclear = 0;
        for (realm, said) in said {
            match said {
                Ok(Answer::Given(given)) => {
                    heard.given.insert(realm, given);
                }
                Ok(Answer::Refused(Refusal::Wrong { left })) => {
                    heard.wrong.insert(realm, left);
                }
                Ok(Answer::Refused(Refusal::Exhausted)) => {
                    heard.exhausted.insert(realm);
                }
                Err(ClientError::Absent(_)) => {}
                Ok(_) | Err(_) => unclear += 1,
            }
        }
        unclear
    }

    fn verdict(&self, claims: &Claims, heard: &Heard) -> Verdict {
        let sound = claims.true_parts(&heard.given).len();
        self.judged(sound, heard)
    }

    fn judged(&self, sound: usize, heard: &Heard) -> Verdict {
        let (needed, count) = (self.set.realms.threshold(), self.set.realms.realms().len());
        judge(
            needed,
            count,
            sound,
            heard.wrong.len(),
            heard.exhausted.len(),
        )
    }

    /// What is left after this guess, for all that is known: who did not say may have charged it.
    fn left_after(&self, holders: &BTreeMap<RealmId, u16>, heard: &Heard) -> u16 {
        let holders = holders.iter().map(|(realm, left)| {
            let left = match heard.wrong.get(realm) {
                Some(left) => *left,
                None if heard.exhausted.contains(realm) => 0,
                None => left.saturating_sub(1),
            };
            (*realm, left)
        });
        self.left(&holders.collect())
    }

    /// Why a guess gave nothing back. `sound` realms said what they are bound to, in the step that it came to.
    fn refused(
        &self,
        holders: &BTreeMap<RealmId, u16>,
        heard: &Heard,
        sound: usize,
        liars: &[RealmId],
        kept: &KeptSeed,
    ) -> Refused {
        let given = if heard.given.is_empty() { 0 } else { sound };
        let verdict = self.judged(given, heard);
        let left = self.left_after(holders, heard);
        let failure = match verdict {
            Verdict::Erased => erased("no guess is left: the realms have erased what they kept"),
            Verdict::Wrong
                if liars.is_empty() || heard.wrong.len() >= self.set.realms.threshold() =>
            {
                wrong_pin(left)
            }
            _ if !liars.is_empty() => self.lied(sound, liars),
            _ => self.undecided(heard, sound, given, left, kept),
        };
        Refused {
            is_judged: matches!(failure.exit, Exit::Erased | Exit::WrongPin),
            failure,
        }
    }

    fn lied(&self, sound: usize, liars: &[RealmId]) -> Failure {
        let (names, needed) = (self.names(liars), self.set.realms.threshold());
        Failure::new(
            Exit::Misbehaved,
            format_args!(
                "{needed} realms must answer truly, and {sound} did; proven to lie: {names}"
            ),
        )
        .party(names)
        .help("its operator is at fault; wait for other realms")
    }

    fn undecided(
        &self,
        heard: &Heard,
        sound: usize,
        given: usize,
        left: u16,
        kept: &KeptSeed,
    ) -> Failure {
        let needed = self.set.realms.threshold();
        let mut what = format!("{needed} realms must answer, and {sound} did");
        if given > 0 && !heard.wrong.is_empty() {
            let (gave, wrong) = (
                self.names(heard.given.keys()),
                self.names(heard.wrong.keys()),
            );
            what += &format!(
                "; the PIN is right for {gave}, and wrong for {wrong}: one of them lies, and the others will tell"
            );
        }
        if !heard.exhausted.is_empty() {
            let names = self.names(&heard.exhausted);
            what += &format!("; nothing is left at {names}");
        }
        let failure = Failure::new(Exit::Unreachable, what);
        match kept.is_kept {
            true => failure.help(format_args!(
                "try again with the same PIN: as long as {} is there, it is the same guess and costs no further one; with another PIN it is another guess",
                kept.path().display()
            )),
            false if left > 0 => failure.help(format_args!(
                "trying again costs another guess; {} left",
                guesses(left)
            )),
            false => failure.help("no guess is left with enough realms: wait for the others"),
        }
    }

    /// Says which realms lied or were away.
    pub(super) fn tell(&self, opened: &Opened, output: Output) {
        for (who, what) in [
            (self.names(&opened.liars), "proven to lie, and not needed"),
            (
                self.names(&opened.absent),
                "did not answer, and was not needed",
            ),
            (
                self.names(&opened.unproven),
                "did not give its guesses back",
            ),
        ] {
            if !who.is_empty() {
                output.say(format_args!("{what}: {who}"));
            }
        }
    }
}

impl Heard {
    fn has(&self, realm: &RealmId) -> bool {
        self.given.contains_key(realm)
            || self.wrong.contains_key(realm)
            || self.exhausted.contains(realm)
    }
}

fn wrong_pin(left: u16) -> Failure {
    match left {
        0 => Failure::new(
            Exit::WrongPin,
            "wrong PIN; no guess is left with the realms that answered",
        )
        .help("`junto vault status` tells what the others have"),
        left => Failure::new(
            Exit::WrongPin,
            format_args!("wrong PIN; {} left", guesses(left)),
        )
        .help("after the last one the realms erase what they keep"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use junto_realm::Accepted;

    use super::*;
    use crate::vault::set::{RealmFile, TenantFile, open, write_set};

    fn realms(dir: &std::path::Path) -> Realms {
        let path = dir.join("set.json");
        let files = (1..=3).map(|seed| {
            let key = junto_crypto::ed25519::SigningKey::from_seed(&[seed; 32]);
            let id = RealmId(*key.verifying_key().as_bytes());
            RealmFile::new(&id, vec![format!("host{seed}:1")])
        });
        let tenant = TenantFile::new("junto").unwrap();
        write_set(&path, 2, tenant, files.collect(), false).unwrap();
        Realms {
            set: open(&path, Accepted::default()).unwrap(),
            patience: Duration::from_secs(1),
            simulated: false,
        }
    }

    fn holders(realms: &Realms, left: [u16; 3]) -> BTreeMap<RealmId, u16> {
        let ids = realms.set.realms.realms().iter().copied();
        ids.zip(left).collect()
    }

    /// Nothing is called erased that fewer than n - t + 1 realms call so; nobody alone says what the PIN is; t are believed.
    #[test]
    fn what_realms_say_together_is_judged() {
        use Verdict::{Erased, Right, Undecided, Wrong};
        // Of three, two needed: true parts, "wrong", "exhausted".
        for (sound, wrong, exhausted, verdict) in [
            (3, 0, 0, Right),
            (2, 1, 0, Right),
            (2, 0, 1, Right),
            // One typo, and the others are away.
            (0, 1, 0, Wrong),
            (0, 2, 0, Wrong),
            (0, 1, 1, Wrong),
            // One of both lies, and it is not known which.
            (1, 1, 0, Undecided),
            (1, 0, 0, Undecided),
            (1, 0, 1, Undecided),
            (1, 1, 1, Undecided),
            // Two say so: then an honest one does.
            (1, 2, 0, Wrong),
            (0, 0, 1, Undecided),
            (0, 0, 2, Erased),
            (0, 1, 2, Erased),
            (1, 0, 2, Erased),
            (0, 0, 0, Undecided),
        ] {
            let said = (sound, wrong, exhausted);
            assert_eq!(judge(2, 3, sound, wrong, exhausted), verdict, "{said:?}");
        }
        assert_eq!(judge(1, 1, 0, 0, 1), Erased);
        assert_eq!(judge(3, 3, 0, 0, 1), Erased);
    }

    #[test]
    fn who_lied_is_named_and_who_was_away_is_not_blamed() {
        let dir = tempfile::tempdir().unwrap();
        let realms = realms(dir.path());
        let ids = realms.set.realms.realms().to_vec();
        let left = holders(&realms, [5, 5, 5]);
        let kept = KeptSeed::take(&dir.path().join("f"), &Version([1; 16]));
        let refused = |heard: &Heard, sound, liars: &[RealmId]| {
            let refused = realms.refused(&left, heard, sound, liars, &kept);
            (refused.failure, refused.is_judged)
        };
        let (blamed, is_judged) = refused(&Heard::default(), 1, &[ids[1]]);
        assert_eq!((blamed.exit, is_judged), (Exit::Misbehaved, false));
        let name = realms.name(&ids[1]);
        assert!(name.contains(":1") && blamed.message.contains(&name));
        assert_eq!(blamed.party, Some(name));
        let (away, is_judged) = refused(&Heard::default(), 1, &[]);
        assert_eq!((away.exit, away.party), (Exit::Unreachable, None));
        assert!(!is_judged && away.help.unwrap().contains("the same guess"));
        // One typo while two are away: what the others have is known from before, but for the guess that they may have charged.
        let said = |said: &[(usize, u16)]| {
            let mut heard = Heard::default();
            for (realm, left) in said {
                match left {
                    0 => drop(heard.exhausted.insert(ids[*realm])),
                    left => drop(heard.wrong.insert(ids[*realm], *left)),
                }
            }
            refused(&heard, 0, &[])
        };
        for (heard, exit, text) in [
            (&[(0, 4)][..], Exit::WrongPin, "4 guesses are left"),
            (
                &[(0, 4), (1, 2), (2, 3)],
                Exit::WrongPin,
                "3 guesses are left",
            ),
            (&[(0, 1), (1, 1), (2, 3)], Exit::WrongPin, "1 guess is left"),
            (&[(0, 2), (1, 0)], Exit::WrongPin, "2 guesses are left"),
            (&[(0, 4), (1, 0), (2, 0)], Exit::Erased, "erased"),
        ] {
            let (failure, is_judged) = said(heard);
            assert_eq!((failure.exit, is_judged), (exit, true), "{heard:?}");
            assert!(failure.message.contains(text), "{}", failure.message);
        }
        // "Nothing is left", says one alone; the others are away.
        let (alone, is_judged) = said(&[(0, 0)]);
        assert_eq!((alone.exit, is_judged), (Exit::Unreachable, false));
    }

    /// A realm at its end is not asked for a new guess, for it would erase; for the one that was broken off it is.
    #[test]
    fn a_realm_without_guesses_is_not_asked_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let realms = realms(dir.path());
        for (left, is_old, asked) in [
            ([5, 5, 5], false, 3),
            ([5, 0, 5], false, 2),
            ([5, 0, 5], true, 2),
            ([0, 0, 5], false, 1),
            ([0, 0, 5], true, 3),
            ([0, 0, 0], true, 3),
        ] {
            let left_of = holders(&realms, left);
            let found = realms.asked(&left_of, is_old).len();
            assert_eq!(found, asked, "{left:?} {is_old}");
        }
    }
}
