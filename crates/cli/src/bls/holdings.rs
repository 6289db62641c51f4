//! Who holds what, when a run starts from a key: what each party claims, and what all make of it.
//!
//! All hear the same claims, so all honest parties come to the same end.

use std::collections::{BTreeMap, BTreeSet};

use junto_bls::{
    Certificate, Holding, Inbox, KeyPublic, Occasion, PartyIndex, PublicKey, ShareIndex,
};

use super::order::place;
use crate::failure::{Exit, Failure};

/// The claims of those who claim something.
pub(crate) type Claims = BTreeMap<PartyIndex, Holding>;

/// Which party is which holder.
pub(crate) type Holders = BTreeMap<PartyIndex, ShareIndex>;

/// Names parties that break the protocol.
fn liars(parties: &BTreeSet<PartyIndex>, what: &str) -> Result<(), Failure> {
    named(parties, Exit::Misbehaved, what)
}

fn named(parties: &BTreeSet<PartyIndex>, exit: Exit, what: &str) -> Result<(), Failure> {
    if parties.is_empty() {
        return Ok(());
    }
    let numbers: Vec<String> = parties.iter().map(|it| it.value().to_string()).collect();
    let numbers = numbers.join(", ");
    Err(Failure::new(exit, format_args!("party {numbers} {what}")).party(numbers))
}

/// Whether all claims are about one key.
pub(crate) fn of_one_key(claims: &Claims) -> bool {
    claims.values().map(hex_key).collect::<BTreeSet<_>>().len() == 1
}

/// Whether all claims are about the key `own`.
///
/// # Errors
/// Names those whose share is of another key. They prove it, so it is no lie: one name stands for two
/// keys.
pub(crate) fn same_key(claims: &Claims, own: &PublicKey) -> Result<(), Failure> {
    let other = |claim: &Holding| claim.certificate().key().public_key() != *own;
    let others = those(claims, other);
    let theirs: BTreeSet<String> = claims
        .values()
        .filter(|claim| other(claim))
        .map(hex_key)
        .collect();
    let theirs: Vec<String> = theirs.into_iter().collect();
    let what = format!(
        "holds another key under this name: {}, while this party means {}",
        theirs.join(", "),
        hex::encode(own.to_bytes())
    );
    named(&others, Exit::Refused, &what).map_err(|failure| {
        failure.help("find out by another way which of them you all mean; whoever has the wrong one under this name needs another profile")
    })
}

fn hex_key(claim: &Holding) -> String {
    hex::encode(claim.certificate().key().public_key().to_bytes())
}

/// The parties in `claims` that `wrong` is true of.
fn those(claims: &Claims, wrong: impl Fn(&Holding) -> bool) -> BTreeSet<PartyIndex> {
    let found = claims.iter().filter(|(_, claim)| wrong(claim));
    found.map(|(party, _)| *party).collect()
}

/// Reads what the parties say.
///
/// # Errors
/// Names whoever claims a share that it does not hold.
pub(crate) fn hear(occasion: &Occasion<'_>, said: &Inbox) -> Result<Claims, Failure> {
    let (mut claims, mut wrong) = (Claims::new(), BTreeSet::new());
    for (party, bytes) in said.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        match Holding::decode(bytes) {
            Ok(claim) if claim.verify(occasion, *party).is_ok() => {
                drop(claims.insert(*party, claim))
            }
            _ => drop(wrong.insert(*party)),
        }
    }
    liars(&wrong, "claims a share of the key that it does not hold")?;
    Ok(claims)
}

/// The latest epoch that this session has certified, and who claims an older one.
pub(crate) struct Latest {
    pub(crate) certificate: Certificate,
    pub(crate) behind: BTreeSet<PartyIndex>,
}

impl Latest {
    fn of(occasion: &Occasion<'_>, claims: &Claims) -> Option<Self> {
        let here = |claim: &&Holding| *claim.certificate().setup().session() == occasion.session;
        let order = |claim: &&Holding| place(claim.certificate().setup());
        let latest = claims.values().filter(here).max_by_key(order)?;
        let certificate = latest.certificate().clone();
        let older = |claim: &Holding| claim.certificate().key() != certificate.key();
        Some(Latest {
            behind: those(claims, older),
            certificate,
        })
    }

    /// Who is behind, and the epoch that it has been shown by this.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (PartyIndex, [u8; 32])> {
        let epoch = self.certificate.key().digest();
        self.behind.iter().map(move |party| (*party, epoch))
    }

    /// Whoever was shown this very epoch before, and has certified it, has it. Another one may come to
    /// light each time: a party that keeps certificates to itself shows them when it likes.
    ///
    /// # Errors
    /// Names those who still claim an older one.
    pub(crate) fn none_stays_behind(
        &self,
        shown: &BTreeSet<(PartyIndex, [u8; 32])>,
    ) -> Result<(), Failure> {
        let again = self.shown().filter(|seen| shown.contains(seen));
        let liars_found = again.map(|(party, _)| party).collect();
        liars(
            &liars_found,
            "holds on to an older share than it has confirmed",
        )
    }
}

/// For a refresh all parties must hold the latest epoch of the key.
///
/// # Errors
/// Names who claims nothing, or a share of another session.
pub(crate) fn refreshed(occasion: &Occasion<'_>, claims: &Claims) -> Result<Latest, Failure> {
    let elsewhere = |claim: &Holding| *claim.certificate().setup().session() != occasion.session;
    let mut wrong = those(claims, elsewhere);
    let all = (0..).map_while(PartyIndex::new).take(occasion.roster.len());
    wrong.extend(all.filter(|party| !claims.contains_key(party)));
    liars(&wrong, "does not say that it holds a share of this key")?;
    Latest::of(occasion, claims).ok_or_else(|| Failure::failed("nobody holds the key"))
}

/// What a reshare starts from.
pub(crate) enum Reshared {
    /// The key, and enough holders of it.
    From(KeyPublic, Holders),
    /// There would be enough if some were not behind: who must have caught up in the next run.
    Behind(Box<Latest>),
    /// There may be enough once those who can have caught up with what they were shown.
    Scattered,
}

/// For a reshare enough parties must hold the same epoch of the key.
///
/// # Errors
/// If too few do.
pub(crate) fn reshared(occasion: &Occasion<'_>, claims: &Claims) -> Result<Reshared, Failure> {
    // By epoch: the parties that hold different shares of it.
    let mut epochs: BTreeMap<[u8; 32], (KeyPublic, BTreeMap<ShareIndex, PartyIndex>)> =
        BTreeMap::new();
    for (party, claim) in claims {
        let key = claim.certificate().key();
        let epoch = epochs.entry(key.digest());
        let (_, holders) = epoch.or_insert_with(|| (key.clone(), BTreeMap::new()));
        holders.entry(claim.index()).or_insert(*party);
    }
    let several = epochs.len() > 1;
    let enough = |(key, holders): &(KeyPublic, BTreeMap<_, _>)| {
        holders.len() >= usize::from(key.threshold().required())
    };
    let best = epochs.into_values().filter(|epoch| enough(epoch));
    if let Some((key, holders)) = best.max_by_key(|(key, holders)| (key.epoch(), holders.len())) {
        let holders = holders.into_iter().map(|(index, party)| (party, index));
        return Ok(Reshared::From(key, holders.collect()));
    }
    match Latest::of(occasion, claims) {
        Some(latest) if !latest.behind.is_empty() => Ok(Reshared::Behind(Box::new(latest))),
        _ if several => Ok(Reshared::Scattered),
        _ => Err(too_few()),
    }
}

pub(crate) fn too_few() -> Failure {
    Failure::failed("too few parties of this session hold the key").help(
        "enough of its holders must be in the session; `junto bls list` shows what each holds",
    )
}
