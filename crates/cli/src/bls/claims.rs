//! How refresh and reshare begin: everybody says and proves what it holds, and all make the same of it.

use std::collections::{BTreeMap, BTreeSet};

use junto_bls::{Certificate, Holding, PartyIndex, PublicKey, Setup};
use junto_session::{Kind, Misuse, SessionError};

use super::certificate;
use super::holdings::{self, Claims, Latest, Reshared, too_few};
use super::key_file::KeyFile;
use super::run::{
    Desk, MOVED_ON, OTHER_KEY, ROUND_HOLDINGS, Run, Stop, Task, party, setup_failure,
};
use crate::failure::Failure;

/// Why all parties begin again after some lacked the latest epoch's certificate.
const BEHIND: &str = "some parties lacked the newest share's certificate; trying again with it";

impl Run {
    pub(super) async fn refresh(
        &self,
        desk: &mut Desk<'_>,
        task: &Task,
        key: &mut KeyFile,
    ) -> Result<Certificate, Stop> {
        let own = key.usable(desk.name)?.share.public().public_key();
        let claims = self.claims(desk, key).await?;
        self.same_key(desk, &claims, &own).await?;
        let occasion = self.occasion(desk.session);
        let latest = holdings::refreshed(&occasion.borrow(), &claims);
        let latest = self.or_spend(desk, latest).await?;
        if !latest.behind.is_empty() {
            return Err(self.catch_up(desk, key, &latest).await);
        }
        let holders = latest.certificate.setup().holders();
        let old = latest.certificate.key().clone();
        let setup = Setup::refresh(&occasion.borrow(), old, holders).map_err(setup_failure)?;
        self.rounds(desk, &setup, task, key).await
    }

    pub(super) async fn reshare(
        &self,
        desk: &mut Desk<'_>,
        task: &Task,
        (meant, threshold): (&PublicKey, u8),
        key: &mut KeyFile,
    ) -> Result<Certificate, Stop> {
        let claims = self.claims(desk, key).await?;
        self.same_key(desk, &claims, meant).await?;
        let occasion = self.occasion(desk.session);
        let from = holdings::reshared(&occasion.borrow(), &claims);
        let (old, dealers) = match self.or_spend(desk, from).await? {
            Reshared::From(old, holders) => (old, holders),
            Reshared::Behind(latest) => return Err(self.catch_up(desk, key, &latest).await),
            Reshared::Scattered => {
                self.spend(desk.session).await;
                let again = !core::mem::replace(&mut desk.gathered, true);
                return Err(if again {
                    Stop::Again(BEHIND)
                } else {
                    too_few().into()
                });
            }
        };
        desk.progress.step(format!(
            "resharing {}",
            hex::encode(old.public_key().to_bytes())
        ));
        let holders: BTreeSet<PartyIndex> = (0..desk.session.parties().as_usize())
            .filter_map(party)
            .collect();
        // Any t holders suffice; all take the first t, so that all mean the same.
        let required = usize::from(old.threshold().required());
        let dealers: BTreeMap<_, _> = dealers.into_iter().take(required).collect();
        let setup = Setup::reshare(&occasion.borrow(), old, dealers, holders, threshold)
            .map_err(setup_failure)?;
        self.rounds(desk, &setup, task, key).await
    }

    /// Everybody says which share of which key it holds, and proves it; all get the same answer. Whoever
    /// lacks the certificate of a share that it has confirmed may find it in there.
    async fn claims(&self, desk: &Desk<'_>, key: &mut KeyFile) -> Result<Claims, Stop> {
        let occasion = self.occasion(desk.session);
        let me = party(desk.session.me().as_usize());
        let own = key
            .held
            .as_ref()
            .zip(me)
            .map_or_else(Vec::new, |(held, me)| {
                Holding::new(&occasion.borrow(), me, &held.share, &held.certificate).encode()
            });
        match self.execution.broadcast(ROUND_HOLDINGS, own).await {
            // It was begun with the share of before.
            Err(SessionError::Misuse(Misuse::DifferentBytes(_))) => {
                self.leave(MOVED_ON).await?;
                return Err(Stop::Again(MOVED_ON));
            }
            said => said.map_err(|error| self.stopped(error))?,
        }
        let said = self.gather(ROUND_HOLDINGS, Kind::Broadcast).await?;
        let claims = holdings::hear(&occasion.borrow(), &said);
        let claims = self.or_spend(desk, claims).await?;
        for claim in claims.values() {
            certificate::adopt(desk.junto, desk.name, key, claim.certificate()).await?;
        }
        Ok(claims)
    }

    /// Whether all claims are about the key that this party means. If not, and they are about one key, only
    /// this party sees that; otherwise all do.
    async fn same_key(
        &self,
        desk: &Desk<'_>,
        claims: &Claims,
        meant: &PublicKey,
    ) -> Result<(), Stop> {
        let same = holdings::same_key(claims, meant);
        if same.is_err() && holdings::of_one_key(claims) {
            self.leave(OTHER_KEY).await?;
        }
        self.or_spend(desk, same).await
    }

    /// Some lacked the certificate of the latest epoch, and have seen it now: in the next run they have
    /// that epoch, or are lying.
    async fn catch_up(&self, desk: &mut Desk<'_>, key: &KeyFile, latest: &Latest) -> Stop {
        let lie = latest.none_stays_behind(&desk.shown);
        if let Err(stop) = self.or_spend(desk, lie).await {
            return stop;
        }
        self.spend(desk.session).await;
        desk.shown.extend(latest.shown());
        let me = party(desk.session.me().as_usize());
        let held = key.held.as_ref().map(|held| held.share.public());
        if me.is_none_or(|me| !latest.behind.contains(&me))
            || held == Some(latest.certificate.key())
        {
            return Stop::Again(BEHIND);
        }
        Failure::failed("this profile holds an older share than it has confirmed")
            .help("it must have been restored from an old backup: the others can reshare the key")
            .into()
    }
}
