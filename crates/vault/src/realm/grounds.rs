//! Which ranges a group serves, and who has the others.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Card, DecodeError, Span,
    encoding::{Reader, put_piece},
};

/// Ranges that a group tells apart at most: each costs a card.
pub(super) const SPANS_MAX: usize = 256;

/// Who has a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// This group serves it.
    Here,
    /// It comes here, and is served once all of it is here.
    Coming,
    /// It was given to that group, or came from it and went nowhere.
    Group(Arc<Card>),
    /// Not known.
    Unknown,
}

/// Everything, by where ranges begin. The first begins at 0; neighbours differ.
pub(super) struct Grounds(BTreeMap<u64, Holder>);

impl Grounds {
    pub(super) fn all(holder: Holder) -> Self {
        Self([(0, holder)].into())
    }

    pub(super) fn holder(&self, place: u64) -> &Holder {
        let below = self.0.range(..=place).next_back();
        below.map_or(&Holder::Unknown, |(_, holder)| holder)
    }

    /// Whether that is so for everything in the range.
    pub(super) fn is_all(&self, span: Span, is: impl Fn(&Holder) -> bool) -> bool {
        is(self.holder(span.first()))
            && self
                .0
                .range(span.first()..=span.last())
                .all(|(_, holder)| is(holder))
    }

    /// Whether another range can be told apart.
    pub(super) fn has_room(&self) -> bool {
        self.0.len() + 2 <= SPANS_MAX
    }

    pub(super) fn put(&mut self, span: Span, holder: Holder) {
        if let Some(after) = span.last().checked_add(1) {
            let next = self.holder(after).clone();
            self.0.insert(after, next);
        }
        self.0.retain(|begin, _| !span.contains(*begin));
        self.0.insert(span.first(), holder);
        let mut last: Option<Holder> = None;
        self.0.retain(|_, holder| {
            let differs = last.as_ref() != Some(holder);
            last = Some(holder.clone());
            differs
        });
    }

    /// The ranges that are served here.
    pub(super) fn here(&self) -> Vec<Span> {
        let mut out = Vec::new();
        let mut begins = self.0.iter().peekable();
        while let Some((first, holder)) = begins.next() {
            let last = begins.peek().map_or(u64::MAX, |(next, _)| **next - 1);
            if *holder == Holder::Here {
                out.extend(Span::new(*first, last));
            }
        }
        out
    }

    /// Those whose range begins there or behind it, and is another group's: with its card.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Arc<Card>> {
        self.0.values().filter_map(|holder| match holder {
            Holder::Group(card) => Some(card),
            Holder::Here | Holder::Coming | Holder::Unknown => None,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        // At most [`SPANS_MAX`].
        out.extend_from_slice(
            &u16::try_from(self.0.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        for (first, holder) in &self.0 {
            out.extend_from_slice(&first.to_be_bytes());
            match holder {
                Holder::Here => out.push(0),
                Holder::Coming => out.push(1),
                Holder::Group(card) => {
                    out.push(2);
                    put_piece(out, &card.to_bytes());
                }
                Holder::Unknown => out.push(3),
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = usize::from(reader.u16()?);
        if !(1..=SPANS_MAX).contains(&count) {
            return Err(DecodeError);
        }
        let mut spans = BTreeMap::<u64, Holder>::new();
        for _ in 0..count {
            let first = reader.u64()?;
            let holder = match reader.u8()? {
                0 => Holder::Here,
                1 => Holder::Coming,
                2 => {
                    let card = Card::from_bytes(reader.piece()?)?;
                    Holder::Group(Arc::new(card))
                }
                3 => Holder::Unknown,
                _ => return Err(DecodeError),
            };
            let sound = match spans.last_key_value() {
                None => first == 0,
                Some((before, last)) => first > *before && *last != holder,
            };
            if !sound {
                return Err(DecodeError);
            }
            spans.insert(first, holder);
        }
        Ok(Self(spans))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list of 64 places, of which each tells who has it.
        #[test]
        fn ranges_are_what_was_put(puts in prop::collection::vec((0..64_u64, 0..64_u64, 0..3_u8), 0..40)) {
            let holder = |kind| [Holder::Here, Holder::Coming, Holder::Unknown][usize::from(kind)].clone();
            let mut grounds = Grounds::all(Holder::Unknown);
            let mut list = [2_u8; 64];
            for (one, other, kind) in puts {
                let (first, last) = (one.min(other), one.max(other));
                // The last place is the end of everything.
                let end = if last == 63 { u64::MAX } else { last };
                grounds.put(Span::new(first, end).unwrap(), holder(kind));
                list[first as usize..=last as usize].fill(kind);
                let as_listed = |place: usize| *grounds.holder(place as u64) == holder(list[place]);
                prop_assert!((0..64).all(as_listed));
                prop_assert_eq!(grounds.holder(u64::MAX), &holder(list[63]));
                let all = |first: usize, last: usize| list[first..=last].iter().all(|kind| *kind == 0);
                let is_all = grounds.is_all(Span::new(first, last).unwrap(), |is| *is == Holder::Here);
                prop_assert_eq!(is_all, all(first as usize, last as usize));
                let here = |place: u64| grounds.here().iter().any(|span| span.contains(place));
                prop_assert!((0..64).all(|place| here(place) == (list[place as usize] == 0)));
                let mut bytes = Vec::new();
                grounds.write(&mut bytes);
                let mut reader = Reader::new(&bytes);
                prop_assert_eq!(Grounds::read(&mut reader).unwrap().0, grounds.0.clone());
                reader.finish().unwrap();
            }
        }
    }
}
