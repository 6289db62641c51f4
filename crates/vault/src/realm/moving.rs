//! The steps of an order, at either side. Each is done once and says the same when it is taken again; the order of checks is: does
//! it concern us, is it under way, is it behind us, is it our turn, may it begin.

use std::sync::Arc;

use junto_crypto::{hash::sha256_of, kdf::hmac_sha256};

use super::{
    Holder, Realm,
    estate::{Coming, Estate, Leaving, ORDERS_MAX, Records},
    step::{Drawn, Kind, Step},
};
use crate::{Card, Certificate, Order, OrderId, Revocation, Word, transfer::ParcelSecret};

/// How far an order is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The group says this, for the other one: with the signatures of its members it proves it.
    Said(Word),
    /// That parcel is next.
    Wants(u32),
    /// All parcels are here.
    Whole,
}

/// Why a step is not taken. It changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hindrance {
    /// Not of this realm, not of this group, or not with the card of the other.
    #[error("that order concerns another group")]
    Foreign,
    /// The order names another turn than the group has.
    #[error("that order was made for another turn of this group")]
    Turn,
    /// The range is not all this group's, or some of it is already where it should go.
    #[error("that range cannot go that way")]
    Ground,
    /// Too much is under way, or the map is full.
    #[error("this group has too much under way")]
    Busy,
    /// What the other group is said to have said is not proven.
    #[error("too few members of the other group say so")]
    Uncertified,
    /// The groups have other tenants, or another secret of names.
    #[error("the two groups do not name records alike")]
    Unlike,
    /// Something comes before.
    #[error("something has to be done before")]
    Early,
    /// That is not the parcel that the source has sealed.
    #[error("that is not what the source has sealed")]
    Unsound,
}

type Taken = Result<Progress, Hindrance>;

impl Realm {
    pub(super) fn take(&mut self, step: Step) -> Taken {
        let Step { order, kind } = step;
        let group = self.estate.as_ref().map(|estate| estate.group);
        let side = match &kind {
            Kind::Prepare { .. }
            | Kind::Arrive(_)
            | Kind::Import { .. }
            | Kind::Accept
            | Kind::Close(_) => order.to().0,
            Kind::Depart { .. } | Kind::Drop(_) | Kind::Revoke(_) => order.from().0,
        };
        if *order.realm() != self.genesis.realm || group != Some(side) {
            return Err(Hindrance::Foreign);
        }
        match kind {
            Kind::Prepare { from, secret } => self.prepare(order, *from, secret),
            Kind::Depart {
                to,
                prepared,
                sealed,
            } => self.depart(order, *to, &prepared, sealed),
            Kind::Arrive(departed) => self.arrive(&order, &departed),
            Kind::Import { number, parcel } => self.import(&order, number, &parcel),
            Kind::Accept => self.accept(&order),
            Kind::Drop(accepted) => self.drop(&order, &accepted),
            Kind::Revoke(revocation) => self.revoke(&order, &revocation),
            Kind::Close(over) => self.close(&order, &over),
        }
    }

    fn estate(&mut self) -> Result<&mut Estate, Hindrance> {
        self.estate.as_deref_mut().ok_or(Hindrance::Foreign)
    }

    /// The digest of who the tenants are: their ranks are in the names of records.
    fn tenants(&self) -> [u8; 32] {
        sha256_of(&[b"junto vault tenants", &self.genesis.tenants_bytes()])
    }

    fn names(&self) -> [u8; 32] {
        *hmac_sha256(&self.genesis.secret[..], &[b"junto vault names"])
    }

    fn prepare(&mut self, order: Order, from: Card, secret: Option<Box<ParcelSecret>>) -> Taken {
        let (id, span, (group, _), (_, turn)) =
            (order.id(), order.span(), order.from(), order.to());
        if from.group() != group || from.realm() != order.realm() {
            return Err(Hindrance::Foreign);
        }
        let (tenants, names) = (self.tenants(), self.names());
        let estate = self.estate()?;
        let names = estate.named.then_some(names);
        if let Some(coming) = estate.coming.get(&id) {
            return Ok(Progress::Said(coming.says(tenants, names)));
        }
        if turn < estate.turn {
            return Ok(Progress::Said(Word::Accepted { order: id }));
        }
        if turn != estate.turn {
            return Err(Hindrance::Turn);
        }
        let free = |holder: &Holder| !matches!(holder, Holder::Here | Holder::Coming);
        if !estate.grounds.is_all(span, free) {
            return Err(Hindrance::Ground);
        }
        // Of two first ranges, the second would have to be of the same names.
        let first = !estate.named && !estate.coming.is_empty();
        if first || estate.coming.len() >= ORDERS_MAX || !estate.grounds.has_room() {
            return Err(Hindrance::Busy);
        }
        let secret = secret.ok_or(Hindrance::Early)?;
        estate.turn += 1;
        estate.grounds.put(span, Holder::Coming);
        let coming = Coming {
            order,
            from: Arc::new(from),
            secret,
            arrived: None,
        };
        let says = coming.says(tenants, names);
        estate.coming.insert(id, coming);
        Ok(Progress::Said(says))
    }

    /// Who would get a range by that step, if it was taken now: whoever lets ranges go only to some looks at that group before. None
    /// if nothing leaves by it, now or ever.
    ///
    /// # Errors
    /// [`Hindrance`], which may pass: who has not looked does not take the step.
    pub fn lets_go<'a>(&self, step: &'a Step) -> Result<Option<&'a Card>, Hindrance> {
        let Kind::Depart { to, prepared, .. } = &step.kind else {
            return Ok(None);
        };
        let order = &step.order;
        let group = self.estate.as_ref().map(|estate| estate.group);
        if *order.realm() != self.genesis.realm || group != Some(order.from().0) {
            return Err(Hindrance::Foreign);
        }
        let said = self.departs(order, to, prepared)?;
        Ok(said.is_none().then_some(to))
    }

    /// Whether the range may leave; what is said if that is behind us.
    fn departs(
        &self,
        order: &Order,
        to: &Card,
        (prepared, certificate): &(Word, Certificate),
    ) -> Result<Option<Word>, Hindrance> {
        let (id, span, (_, turn), (group, _)) =
            (order.id(), order.span(), order.from(), order.to());
        if to.group() != group || to.realm() != order.realm() {
            return Err(Hindrance::Foreign);
        }
        let estate = self.estate.as_deref().ok_or(Hindrance::Foreign)?;
        if let Some(leaving) = estate.leaving.get(&id) {
            return Ok(Some(leaving.says()));
        }
        if turn < estate.turn {
            return Ok(Some(Word::Over { order: id }));
        }
        if turn != estate.turn {
            return Err(Hindrance::Turn);
        }
        let Word::Prepared { tenants, names, .. } = prepared else {
            return Err(Hindrance::Uncertified);
        };
        if prepared.order() != id || certificate.proves(to, prepared).is_err() {
            return Err(Hindrance::Uncertified);
        }
        if *tenants != self.tenants() || names.is_some_and(|names| names != self.names()) {
            return Err(Hindrance::Unlike);
        }
        if !estate
            .grounds
            .is_all(span, |holder| *holder == Holder::Here)
        {
            return Err(Hindrance::Ground);
        }
        if estate.leaving.len() >= ORDERS_MAX || !estate.grounds.has_room() {
            return Err(Hindrance::Busy);
        }
        Ok(None)
    }

    fn depart(
        &mut self,
        order: Order,
        to: Card,
        prepared: &(Word, Certificate),
        drawn: Option<Box<Drawn>>,
    ) -> Taken {
        if let Some(said) = self.departs(&order, &to, prepared)? {
            return Ok(Progress::Said(said));
        }
        let drawn = *drawn.ok_or(Hindrance::Early)?;
        let (id, span, to) = (order.id(), order.span(), Arc::new(to));
        let when = (self.time, self.position.head);
        let estate = self.estate()?;
        estate.turn += 1;
        estate.grounds.put(span, Holder::Group(to.clone()));
        let records = self.cut_out(|place| span.contains(place));
        let names = self.genesis.secret.clone();
        let leaving = Leaving::new((order, to), records, names, drawn, when);
        let says = leaving.says();
        self.estate()?.leaving.insert(id, leaving);
        Ok(Progress::Said(says))
    }

    /// Takes records out of those that are served.
    fn cut_out(&mut self, goes: impl Fn(u64) -> bool) -> Records {
        let (gone, stay) = core::mem::take(&mut self.records)
            .into_iter()
            .partition(|(id, _)| goes(id.place()));
        self.records = stay;
        self.count_shares();
        gone
    }

    pub(super) fn count_shares(&mut self) {
        self.shares.clear();
        for id in self.records.keys() {
            *self.shares.entry(id.tenant()).or_default() += 1;
        }
    }

    /// What comes by that order.
    fn coming(&mut self, order: &Order) -> Option<&mut Coming> {
        self.estate.as_mut()?.coming.get_mut(&order.id())
    }

    /// What there is to say of an order by which nothing comes.
    fn not_coming(&mut self, order: &Order) -> Taken {
        match order.to().1 < self.estate()?.turn {
            true => Ok(Progress::Said(Word::Accepted { order: order.id() })),
            false => Err(Hindrance::Early),
        }
    }

    fn arrive(&mut self, order: &Order, (word, certificate): &(Word, Certificate)) -> Taken {
        let Some(coming) = self.coming(order) else {
            return self.not_coming(order);
        };
        if let Some(arrived) = &coming.arrived {
            return Ok(wants(arrived));
        }
        let Word::Departed {
            order: of,
            departed,
        } = word
        else {
            return Err(Hindrance::Uncertified);
        };
        if *of != order.id() || certificate.proves(&coming.from, word).is_err() {
            return Err(Hindrance::Uncertified);
        }
        let arrived = coming.arrived((**departed).clone());
        let arrived = arrived.map_err(|_| Hindrance::Unsound)?;
        let next = wants(&arrived);
        coming.arrived = Some(arrived);
        Ok(next)
    }

    fn import(&mut self, order: &Order, number: u32, parcel: &[u8]) -> Taken {
        let realm = self.genesis.realm;
        let tenants = self.genesis.tenants.len();
        let Some(coming) = self.coming(order) else {
            return self.not_coming(order);
        };
        let arrived = coming.arrived.as_mut().ok_or(Hindrance::Early)?;
        if number == arrived.next && !arrived.is_whole() {
            arrived
                .import(parcel, order, &realm, tenants)
                .map_err(|_| Hindrance::Unsound)?;
        }
        Ok(wants(arrived))
    }

    fn accept(&mut self, order: &Order) -> Taken {
        let Some(coming) = self.coming(order) else {
            return self.not_coming(order);
        };
        let whole = coming.arrived.as_ref().filter(|it| it.is_whole());
        let names = whole.ok_or(Hindrance::Early)?.names.clone();
        let known = self.genesis.secret[..] == names[..];
        let estate = self.estate()?;
        if estate.named && !known {
            return Err(Hindrance::Unlike);
        }
        estate.named = true;
        let id = order.id();
        let arrived = estate.coming.remove(&id).and_then(|it| it.arrived);
        let mut arrived = arrived.ok_or(Hindrance::Early)?;
        estate.grounds.put(order.span(), Holder::Here);
        self.genesis.secret = names;
        self.time = self.time.max(arrived.departed.time);
        self.records.append(&mut arrived.records);
        self.count_shares();
        Ok(Progress::Said(Word::Accepted { order: id }))
    }

    fn drop(&mut self, order: &Order, accepted: &Certificate) -> Taken {
        let (id, (_, turn)) = (order.id(), order.from());
        let estate = self.estate()?;
        match estate.leaving.get(&id) {
            Some(leaving) => {
                let said = Word::Accepted { order: id };
                let proven = accepted.proves(&leaving.to, &said);
                proven.map_err(|_| Hindrance::Uncertified)?;
                estate.leaving.remove(&id);
            }
            None if turn < estate.turn => {}
            None => return Err(Hindrance::Early),
        }
        Ok(Progress::Said(Word::Over { order: id }))
    }

    fn revoke(&mut self, order: &Order, revocation: &Revocation) -> Taken {
        let (id, (_, turn)) = (order.id(), order.from());
        if !revocation.revokes(order) {
            return Err(Hindrance::Uncertified);
        }
        let estate = self.estate()?;
        if let Some(leaving) = estate.leaving.get(&id) {
            return Ok(Progress::Said(leaving.says()));
        }
        match turn.cmp(&estate.turn) {
            core::cmp::Ordering::Less => {}
            core::cmp::Ordering::Equal => estate.turn += 1,
            core::cmp::Ordering::Greater => return Err(Hindrance::Turn),
        }
        Ok(Progress::Said(Word::Over { order: id }))
    }

    fn close(&mut self, order: &Order, over: &Certificate) -> Taken {
        let id = order.id();
        let Some(coming) = self.coming(order) else {
            return self.not_coming(order);
        };
        let from = coming.from.clone();
        let proven = over.proves(&from, &Word::Over { order: id });
        proven.map_err(|_| Hindrance::Uncertified)?;
        let estate = self.estate()?;
        estate.coming.remove(&id);
        estate.grounds.put(order.span(), Holder::Group(from));
        Ok(Progress::Said(Word::Accepted { order: id }))
    }

    /// A parcel of what has left, sealed: for whoever carries it. None if nothing leaves by that order.
    #[must_use]
    pub fn parcel(&self, order: &OrderId, number: u32) -> Option<Vec<u8>> {
        let estate = self.estate.as_ref()?;
        estate.leaving.get(order)?.parcel(number)
    }
}

fn wants(arrived: &super::estate::Arrived) -> Progress {
    match arrived.is_whole() {
        true => Progress::Whole,
        false => Progress::Wants(arrived.next),
    }
}

#[cfg(test)]
mod tests;
