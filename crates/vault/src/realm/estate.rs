//! A group among the groups of its realm: what it serves, what leaves it, what comes.

use std::{collections::BTreeMap, sync::Arc};

use junto_crypto::Zeroizing;

use super::{Holder, RecordId, grounds::Grounds, step::PARCEL_BYTES_MAX};
use crate::{
    Card, DecodeError, GroupId, Order, OrderId, RealmId, Record, Seconds, Word,
    encoding::{Reader, put_piece},
    transfer::{Departed, ParcelSecret, SealKey, Sealed, digest},
};

/// Orders of one side that are under way at a time, at most.
pub(super) const ORDERS_MAX: usize = 8;

pub(super) type Records = BTreeMap<RecordId, Box<Record>>;

pub(super) struct Estate {
    /// Which group this is.
    pub(super) group: GroupId,
    /// Orders that it has begun, on either side.
    pub(super) turn: u64,
    /// Whether it has the secret of the names: a group that began with nothing gets it with its first range.
    pub(super) named: bool,
    pub(super) grounds: Grounds,
    pub(super) leaving: BTreeMap<OrderId, Leaving>,
    pub(super) coming: BTreeMap<OrderId, Coming>,
}

/// What has left, until the destination has it.
pub(super) struct Leaving {
    pub(super) order: Order,
    pub(super) to: Arc<Card>,
    /// As they were when they left. Nobody changes them.
    pub(super) records: Records,
    /// The names' secret, which goes with them.
    names: Zeroizing<[u8; 32]>,
    secret: Zeroizing<[u8; 64]>,
    key: SealKey,
    pub(super) departed: Departed,
    /// Where each parcel begins, and the digest of the one behind it.
    parcels: Vec<(Option<RecordId>, [u8; 32])>,
}

/// What comes, until all of it is here.
pub(super) struct Coming {
    pub(super) order: Order,
    pub(super) from: Arc<Card>,
    pub(super) secret: Box<ParcelSecret>,
    pub(super) arrived: Option<Arrived>,
}

/// What has come so far of a range that has left its source.
pub(super) struct Arrived {
    pub(super) departed: Departed,
    key: SealKey,
    /// The next parcel, and its digest.
    pub(super) next: u32,
    expected: [u8; 32],
    pub(super) names: Zeroizing<[u8; 32]>,
    pub(super) records: Records,
}

impl Leaving {
    /// Seals the range for the state that the source is in.
    pub(super) fn new(
        (order, to): (Order, Arc<Card>),
        records: Records,
        names: Zeroizing<[u8; 32]>,
        (sealed, secret): (Sealed, Zeroizing<[u8; 64]>),
        (time, head): (Seconds, [u8; 32]),
    ) -> Self {
        let key = SealKey::new(&secret, order.id(), &head);
        let departed = Departed {
            time,
            head,
            sealed,
            parcels: 0,
            first: [0; 32],
        };
        let parcels = cut(&records);
        let mut leaving = Self {
            order,
            to,
            records,
            names,
            secret,
            key,
            departed,
            parcels,
        };
        // No memory holds more.
        leaving.departed.parcels = u32::try_from(leaving.parcels.len()).unwrap_or(u32::MAX);
        let mut behind = [0; 32];
        for (number, at) in (0..leaving.departed.parcels)
            .zip(0..leaving.parcels.len())
            .rev()
        {
            leaving.parcels[at].1 = behind;
            behind = digest(&leaving.parcel(number).unwrap_or_default());
        }
        leaving.departed.first = behind;
        leaving
    }

    pub(super) fn parcel(&self, number: u32) -> Option<Vec<u8>> {
        let at = usize::try_from(number).ok()?;
        let (begin, behind) = self.parcels.get(at)?;
        let mut out = Zeroizing::new(Vec::with_capacity(96 + PARCEL_BYTES_MAX));
        out.extend_from_slice(behind);
        if number == 0 {
            out.extend_from_slice(&self.names[..]);
        }
        if let Some(begin) = begin {
            let end = self.parcels.get(at + 1).and_then(|(end, _)| *end);
            let records = self.records.range(*begin..);
            for (id, record) in records.take_while(|(id, _)| end.is_none_or(|end| **id < end)) {
                out.extend_from_slice(&id.0);
                record.write(&mut out);
            }
        }
        self.key.seal(number, out)
    }

    pub(super) fn says(&self) -> Word {
        Word::Departed {
            order: self.order.id(),
            departed: Box::new(self.departed.clone()),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.order.to_bytes());
        put_piece(out, &self.to.to_bytes());
        out.extend_from_slice(&self.names[..]);
        self.departed.sealed.write(out);
        out.extend_from_slice(&self.secret[..]);
        out.extend_from_slice(&self.departed.time.0.to_be_bytes());
        out.extend_from_slice(&self.departed.head);
        write_records(&self.records, out);
    }

    fn read(reader: &mut Reader<'_>, realm: &RealmId) -> Result<Self, DecodeError> {
        let order = Order::from_bytes(reader.bytes(Order::BYTES)?)?;
        let to = Arc::new(Card::from_bytes(reader.piece()?)?);
        let names = Zeroizing::new(reader.array()?);
        let sealed = Sealed::read(reader)?;
        let secret = Zeroizing::new(reader.array()?);
        let when = (Seconds(reader.u64()?), reader.array()?);
        let records = read_records(reader, realm)?;
        if to.group() != order.to().0 || !in_span(&records, &order) {
            return Err(DecodeError);
        }
        Ok(Self::new(
            (order, to),
            records,
            names,
            (sealed, secret),
            when,
        ))
    }
}

/// Where parcels begin. There is always one, which has the names' secret.
fn cut(records: &Records) -> Vec<(Option<RecordId>, [u8; 32])> {
    let mut parcels = vec![(records.keys().next().copied(), [0; 32])];
    let (mut size, mut record) = (0, Zeroizing::new(Vec::with_capacity(Record::BYTES_MAX)));
    for (id, kept) in records {
        record.clear();
        kept.write(&mut record);
        let more = id.0.len() + record.len();
        if size > 0 && size + more > PARCEL_BYTES_MAX - 64 {
            parcels.push((Some(*id), [0; 32]));
            size = 0;
        }
        size += more;
    }
    parcels
}

const _: () = assert!(32 + Record::BYTES_MAX <= PARCEL_BYTES_MAX - 64);

impl Coming {
    pub(super) fn says(&self, tenants: [u8; 32], names: Option<[u8; 32]>) -> Word {
        Word::Prepared {
            order: self.order.id(),
            key: self.secret.public(),
            tenants,
            names,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.order.to_bytes());
        put_piece(out, &self.from.to_bytes());
        self.secret.write(out);
        out.push(u8::from(self.arrived.is_some()));
        if let Some(arrived) = &self.arrived {
            let departed = Box::new(arrived.departed.clone());
            let order = self.order.id();
            put_piece(out, &Word::Departed { order, departed }.to_bytes());
            out.extend_from_slice(&arrived.next.to_be_bytes());
            out.extend_from_slice(&arrived.expected);
            out.extend_from_slice(&arrived.names[..]);
            write_records(&arrived.records, out);
        }
    }

    fn read(reader: &mut Reader<'_>, realm: &RealmId) -> Result<Self, DecodeError> {
        let order = Order::from_bytes(reader.bytes(Order::BYTES)?)?;
        let from = Arc::new(Card::from_bytes(reader.piece()?)?);
        let secret = Box::new(ParcelSecret::read(reader)?);
        let mut coming = Self {
            order,
            from,
            secret,
            arrived: None,
        };
        if reader.flag()? {
            let Word::Departed { order, departed } = Word::from_bytes(reader.piece()?)? else {
                return Err(DecodeError);
            };
            let mut arrived = coming.arrived(*departed)?;
            arrived.next = reader.u32()?;
            arrived.expected = reader.array()?;
            arrived.names = Zeroizing::new(reader.array()?);
            arrived.records = read_records(reader, realm)?;
            let sound = order == coming.order.id()
                && arrived.next <= arrived.departed.parcels
                && in_span(&arrived.records, &coming.order);
            if !sound {
                return Err(DecodeError);
            }
            coming.arrived = Some(arrived);
        }
        let sound = coming.from.group() == coming.order.from().0;
        sound.then_some(coming).ok_or(DecodeError)
    }

    /// Ready for the first parcel.
    pub(super) fn arrived(&self, departed: Departed) -> Result<Arrived, DecodeError> {
        if departed.parcels == 0 {
            return Err(DecodeError);
        }
        let secret = self.secret.open(&departed.sealed)?;
        Ok(Arrived {
            key: SealKey::new(&secret, self.order.id(), &departed.head),
            next: 0,
            expected: departed.first,
            names: Zeroizing::new([0; 32]),
            records: Records::new(),
            departed,
        })
    }
}

impl Arrived {
    pub(super) fn is_whole(&self) -> bool {
        self.next == self.departed.parcels
    }

    /// Takes the next parcel in. What is not exactly that changes nothing.
    pub(super) fn import(
        &mut self,
        parcel: &[u8],
        order: &Order,
        realm: &RealmId,
        tenants: usize,
    ) -> Result<(), DecodeError> {
        if self.is_whole() || digest(parcel) != self.expected {
            return Err(DecodeError);
        }
        let contents = self.key.open(self.next, parcel)?;
        let mut reader = Reader::new(&contents);
        let expected = reader.array()?;
        let mut names = None;
        if self.next == 0 {
            names = Some(Zeroizing::new(reader.array()?));
        }
        let mut more = Records::new();
        while !reader.is_empty() {
            let id = RecordId(reader.array()?);
            let last = more.last_key_value().or(self.records.last_key_value());
            if last.is_some_and(|(last, _)| *last >= id) {
                return Err(DecodeError);
            }
            more.insert(id, Box::new(Record::read(&mut reader, realm)?));
        }
        let mut ranks = more.keys().map(RecordId::rank);
        if !in_span(&more, order) || !ranks.all(|rank| usize::from(rank) < tenants) {
            return Err(DecodeError);
        }
        self.records.append(&mut more);
        self.names = names.unwrap_or_else(|| core::mem::take(&mut self.names));
        self.expected = expected;
        self.next += 1;
        Ok(())
    }
}

fn in_span(records: &Records, order: &Order) -> bool {
    let mut places = records.keys().map(RecordId::place);
    places.all(|place| order.span().contains(place))
}

impl Estate {
    pub(super) fn new(group: GroupId, whole: bool) -> Self {
        let holder = match whole {
            true => Holder::Here,
            false => Holder::Unknown,
        };
        Self {
            group,
            turn: 0,
            named: whole,
            grounds: Grounds::all(holder),
            leaving: BTreeMap::new(),
            coming: BTreeMap::new(),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.group.0);
        out.extend_from_slice(&self.turn.to_be_bytes());
        out.push(u8::from(self.named));
        self.grounds.write(out);
        // At most [`ORDERS_MAX`].
        out.push(u8::try_from(self.leaving.len()).unwrap_or(u8::MAX));
        self.leaving.values().for_each(|leaving| leaving.write(out));
        out.push(u8::try_from(self.coming.len()).unwrap_or(u8::MAX));
        self.coming.values().for_each(|coming| coming.write(out));
    }

    pub(super) fn read(reader: &mut Reader<'_>, realm: &RealmId) -> Result<Self, DecodeError> {
        let mut estate = Self::new(GroupId(reader.array()?), false);
        estate.turn = reader.u64()?;
        estate.named = reader.flag()?;
        estate.grounds = Grounds::read(reader)?;
        for _ in 0..few(reader)? {
            let leaving = Leaving::read(reader, realm)?;
            let id = leaving.order.id();
            let last = estate.leaving.last_key_value();
            if leaving.order.from().0 != estate.group || last.is_some_and(|(last, _)| *last >= id) {
                return Err(DecodeError);
            }
            estate.leaving.insert(id, leaving);
        }
        for _ in 0..few(reader)? {
            let coming = Coming::read(reader, realm)?;
            let id = coming.order.id();
            let last = estate.coming.last_key_value();
            if coming.order.to().0 != estate.group || last.is_some_and(|(last, _)| *last >= id) {
                return Err(DecodeError);
            }
            estate.coming.insert(id, coming);
        }
        Ok(estate)
    }
}

fn few(reader: &mut Reader<'_>) -> Result<u8, DecodeError> {
    let count = reader.u8()?;
    let few = usize::from(count) <= ORDERS_MAX;
    few.then_some(count).ok_or(DecodeError)
}

/// How many, then each with its name. Full of secrets: the caller sizes `out` by [`records_room`].
pub(super) fn write_records(records: &Records, out: &mut Vec<u8>) {
    let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    for (id, kept) in records {
        out.extend_from_slice(&id.0);
        kept.write(out);
    }
}

/// Bytes that [`write_records`] takes.
pub(super) fn records_room(records: &Records) -> usize {
    let mut record = Zeroizing::new(Vec::with_capacity(Record::BYTES_MAX));
    let mut size = 4;
    for (id, kept) in records {
        record.clear();
        kept.write(&mut record);
        size += id.0.len() + record.len();
    }
    size
}

pub(super) fn read_records(
    reader: &mut Reader<'_>,
    realm: &RealmId,
) -> Result<Records, DecodeError> {
    let mut records = Records::new();
    for _ in 0..reader.u32()? {
        let id = RecordId(reader.array()?);
        let last = records.last_key_value();
        if last.is_some_and(|(last, _)| *last >= id) {
            return Err(DecodeError);
        }
        records.insert(id, Box::new(Record::read(reader, realm)?));
    }
    Ok(records)
}

impl Estate {
    /// Bytes that [`write`](Self::write) takes at most.
    pub(super) fn room(&self) -> usize {
        let each = 8 * 1024;
        let cards = self.grounds.groups().count() + self.leaving.len() + self.coming.len();
        let leaving = self.leaving.values().map(|it| records_room(&it.records));
        let arrived = self.coming.values().filter_map(|it| it.arrived.as_ref());
        let coming = arrived.map(|it| records_room(&it.records));
        each * (1 + cards) + 16 * super::grounds::SPANS_MAX + leaving.chain(coming).sum::<usize>()
    }
}
