//! How fast records move from one group to another.

use std::time::{Duration, Instant};

use futures::future::join_all;
use junto_crypto::ed25519::SigningKey;
use junto_vault::{Ending, Errand, Order, Realm, RealmId, Side, Span, Todo};
use serde::Serialize;

use super::{
    Alone, BenchError, Group, PATIENCE, commits, genesis,
    memory::{fill, stored},
    rng,
};
use crate::{GroupClient, now};

const REPLICAS: u8 = 3;

/// All records of a group on their way.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Moved {
    /// So many.
    pub records: u32,
    /// In so many parcels: each is sealed, carried, opened, and committed by the destination.
    pub parcels: usize,
    /// Records a second, from the first step of the order to its last.
    pub per_second: f64,
    /// Neither group serves them, in milliseconds: from asking the source to let go until the destination has accepted.
    pub unserved_ms: f64,
    /// Floor: openraft alone at the destination, as many bytes in as many entries, in records a second.
    pub floor_per_second: f64,
    /// The rate over the floor's.
    pub rate_over_floor: f64,
}

/// What was seen of one order.
struct Carried {
    all: Duration,
    unserved: Duration,
    parcels: Vec<usize>,
}

pub(super) async fn moved(records: u32) -> Result<Moved, BenchError> {
    let records = records.max(1);
    let key = SigningKey::generate(&mut rng());
    let id = RealmId(*key.verifying_key().as_bytes());
    let (tenant, began) = (SigningKey::generate(&mut rng()), now());
    let empty = |group, everything| {
        let genesis = genesis(id, &tenant, records, began);
        let realm = Realm::of_group(genesis, group, everything);
        realm.map_err(|_| BenchError::Answer("a genesis is one"))
    };
    let stored = stored(id)?;
    let source = Group::beginning(&key, REPLICAS, began, |group| {
        let mut alone = Alone {
            id,
            tenant: SigningKey::from_seed(tenant.seed()),
            realm: empty(group, true)?,
            began,
        };
        fill(&mut alone, &stored, records)?;
        Ok(alone.realm.snapshot())
    });
    let source = source.await?;
    let destination = Group::beginning(&key, REPLICAS, began, |group| {
        Ok(empty(group, false)?.snapshot())
    });
    let destination = destination.await?;
    let carried = carry(&key, &source, &destination).await?;
    let parcels = carried.parcels.len();
    let bytes = carried
        .parcels
        .iter()
        .sum::<usize>()
        .div_ceil(parcels.max(1));
    let times = commits(&destination, (1, parcels), bytes).await?.0;
    join_all([source, destination].map(Group::end)).await;
    let rate = |time: Duration| f64::from(records) / time.as_secs_f64();
    let (per_second, floor_per_second) = (rate(carried.all), rate(times.iter().sum()));
    Ok(Moved {
        records,
        parcels,
        per_second,
        unserved_ms: carried.unserved.as_secs_f64() * 1e3,
        floor_per_second,
        rate_over_floor: per_second / floor_per_second,
    })
}

async fn carry(
    key: &SigningKey,
    source: &Group,
    destination: &Group,
) -> Result<Carried, BenchError> {
    let clients: [GroupClient; 2] = [source.reached()?, destination.reached()?];
    let mut turns = [0; 2];
    // Opens the channels to who leads.
    for (turn, client) in turns.iter_mut().zip(&clients) {
        *turn = client.ground(PATIENCE).await?.0;
    }
    let cards = [source.card(), destination.card()];
    let sides = [0, 1].map(|side: usize| (cards[side].group(), turns[side]));
    let order = Order::sign(key, sides[0], sides[1], Span::WHOLE);
    let order = order.map_err(|_| BenchError::Answer("an order is one"))?;
    let mut errand = Errand::new(order, cards[0].clone(), cards[1].clone());
    let (begun, mut left, mut parcels) = (Instant::now(), None, Vec::new());
    let mut unserved = Duration::ZERO;
    loop {
        match errand.todo() {
            Todo::Done(Ending::Moved) => break,
            Todo::Done(_) => return Err(BenchError::Answer("a range moves")),
            Todo::Take(side, step) => {
                if step.lets_go_to().is_some() {
                    left = Some(Instant::now());
                }
                let client = match side {
                    Side::Source => &clients[0],
                    Side::Destination => &clients[1],
                };
                let accepts = step.name() == ACCEPTS;
                let (said, proof) = client.take(&step, PATIENCE).await?;
                if let Some(left) = left.filter(|_| accepts) {
                    unserved = left.elapsed();
                }
                errand.heard(side, said, proof);
            }
            Todo::Fetch(number) => {
                let id = errand.order().id();
                let parcel = clients[0].parcel(&id, number, PATIENCE).await?;
                let parcel = parcel.ok_or(BenchError::Answer("what has left is there"))?;
                parcels.push(parcel.len());
                errand.fetched(Some(parcel));
            }
        }
    }
    Ok(Carried {
        all: begun.elapsed(),
        unserved,
        parcels,
    })
}

/// The step after which the destination serves.
const ACCEPTS: &str = "accepting at the destination";
