//! Rules of moving that are broken on purpose, each of which the search has to find.

use std::cell::Cell;

use super::{super::Holder, *};

/// A rule of moving that a test breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The source serves what has left.
    NoFreeze,
    /// What comes has all its guesses.
    ArrivalResets,
    /// What is accepted may be taken in again.
    AcceptedTwice,
    /// The source wipes before the destination has accepted.
    DropsEarly,
    /// The destination gives up what may have left.
    ClosesEarly,
    /// The destination believes whoever says that the source has let go.
    NothingToProve,
    /// An order may be begun again.
    TurnsIgnored,
}

thread_local! {
    pub(super) static BROKEN: Cell<Option<Broken>> = const { Cell::new(None) };
}

pub(super) fn break_it(realm: &mut Realm, entry: Entry, broken: Broken) -> Pending {
    let Asked::Step(step) = &entry.asked else {
        return realm.apply(entry);
    };
    let (order, id) = (step.order.clone(), step.order.id());
    let before = Realm::restore(&realm.snapshot()).unwrap();
    let estate = realm.estate.as_mut().unwrap();
    let mut kept = None;
    match (&step.kind, broken) {
        (Kind::Drop(_), Broken::DropsEarly) => drop(estate.leaving.remove(&id)),
        (Kind::Close(_), Broken::ClosesEarly) => {
            if let Some(coming) = estate.coming.remove(&id) {
                let from = Holder::Group(coming.from);
                estate.grounds.put(order.span(), from);
            }
        }
        (Kind::Accept, Broken::AcceptedTwice) => {
            let mut again = Realm::restore(&before.snapshot()).unwrap();
            kept = again.estate.as_mut().and_then(|it| it.coming.remove(&id));
        }
        (Kind::Arrive(said), Broken::NothingToProve) => {
            if let (
                Word::Departed {
                    order: of,
                    departed,
                },
                Some(coming),
            ) = (&said.0, estate.coming.get_mut(&id))
                && *of == id
                && coming.arrived.is_none()
            {
                coming.arrived = coming.arrived((**departed).clone()).ok();
            }
        }
        (Kind::Prepare { .. }, Broken::TurnsIgnored)
            if !estate.coming.contains_key(&id) && order.to().1 < estate.turn =>
        {
            estate.turn = order.to().1;
        }
        (Kind::Depart { .. }, Broken::TurnsIgnored)
            if !estate.leaving.contains_key(&id) && order.from().1 < estate.turn =>
        {
            estate.turn = order.from().1;
        }
        _ => {}
    }
    let is_depart = matches!(step.kind, Kind::Depart { .. });
    let is_accept = matches!(step.kind, Kind::Accept);
    let pending = realm.apply(entry);
    let estate = realm.estate.as_mut().unwrap();
    let began = before.estate.as_ref().unwrap();
    if broken == Broken::NoFreeze
        && is_depart
        && estate.leaving.contains_key(&id)
        && !began.leaving.contains_key(&id)
    {
        estate.grounds.put(order.span(), Holder::Here);
        let span = order.span();
        let mut records = before.records;
        records.retain(|id, _| span.contains(id.place()));
        realm.records.append(&mut records);
        return pending;
    }
    if let Some(coming) = kept {
        estate.coming.insert(id, coming);
    }
    if broken == Broken::AcceptedTwice {
        // Closing it then leaves records behind that are not served.
        let here = |place| *estate.grounds.holder(place) == Holder::Here;
        realm.records.retain(|id, _| here(id.place()));
    }
    if broken == Broken::ArrivalResets && is_accept && began.coming.contains_key(&id) {
        for (record, kept) in &mut realm.records {
            if order.span().contains(record.place()) {
                let mut fresh = crate::Record::default();
                fresh.stage(deposit(0)).unwrap();
                fresh.activate(&version(0), &auth(0), None).unwrap();
                **kept = fresh;
            }
        }
    }
    pending
}

/// Two more are found by ways that are walked. The search of seeds finds each rule that is broken, so it would find that rule missing.
#[test]
fn every_broken_rule_of_moving_is_noticed() {
    for broken in [
        Broken::NoFreeze,
        Broken::ArrivalResets,
        Broken::AcceptedTwice,
        Broken::DropsEarly,
        Broken::ClosesEarly,
    ] {
        let found = (0..60).find_map(|seed| Some((seed, run(seed, 250, Some(broken)).err()?)));
        eprintln!("{broken:?}: {found:?}");
        assert!(found.is_some(), "{broken:?}");
    }
}
