//! The way of one order, for who carries the words between its two groups. It remembers nothing that the groups do not say again:
//! another carrier, or the same one after a crash, begins anew and goes on where they are.

use crate::{Card, Certificate, Hindrance, Order, Progress, Revocation, Step, Word};

/// Which of the two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// That has the range.
    Source,
    /// That gets it.
    Destination,
}

/// What is to be done next.
pub enum Todo {
    /// Ask that group to take a step, and tell [`Errand::heard`] what came of it.
    Take(Side, Box<Step>),
    /// Get that parcel from the source, and give it to [`Errand::fetched`].
    Fetch(u32),
    /// Nothing.
    Done(Ending),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The destination serves the range, and the source has wiped it; or the order was taken back before this errand began.
    Moved,
    /// It never left, and nobody waits for it.
    Never,
    /// That is in the way, on that side. What is under way stays so until it is carried on, or revoked.
    Hindered(Side, Hindrance),
}

enum Stage {
    Prepare,
    Depart(Word, Certificate),
    Arrive(Word, Certificate),
    Fetch(u32),
    Import(u32, Vec<u8>),
    Accept,
    Drop(Certificate),
    Revoke(Revocation),
    Close(Certificate),
    Done(Ending),
}

/// One order on its way.
pub struct Errand {
    order: Order,
    from: Card,
    to: Card,
    stage: Stage,
}

impl Errand {
    /// Carries an order out, or on.
    #[must_use]
    pub fn new(order: Order, from: Card, to: Card) -> Self {
        let stage = Stage::Prepare;
        Self {
            order,
            from,
            to,
            stage,
        }
    }

    /// Takes an order back; or carries it on, if the range has left already.
    #[must_use]
    pub fn revoke(order: Order, from: Card, to: Card, revocation: Revocation) -> Self {
        Self {
            stage: Stage::Revoke(revocation),
            ..Self::new(order, from, to)
        }
    }

    /// The next thing to do. Asked again, it is the same.
    #[must_use]
    pub fn todo(&self) -> Todo {
        let order = self.order.clone();
        let (side, step) = match &self.stage {
            Stage::Prepare => (Side::Destination, Step::prepare(order, self.from.clone())),
            Stage::Depart(word, proof) => {
                let prepared = (word.clone(), proof.clone());
                (Side::Source, Step::depart(order, self.to.clone(), prepared))
            }
            Stage::Arrive(word, proof) => {
                let step = Step::arrive(order, (word.clone(), proof.clone()));
                (Side::Destination, step)
            }
            Stage::Fetch(number) => return Todo::Fetch(*number),
            Stage::Import(number, parcel) => {
                let step = Step::import(order, *number, parcel.clone());
                (Side::Destination, step)
            }
            Stage::Accept => (Side::Destination, Step::accept(order)),
            Stage::Drop(proof) => (Side::Source, Step::drop(order, proof.clone())),
            Stage::Revoke(revocation) => (Side::Source, Step::revoke(order, *revocation)),
            Stage::Close(proof) => (Side::Destination, Step::close(order, proof.clone())),
            Stage::Done(ending) => return Todo::Done(*ending),
        };
        Todo::Take(side, Box::new(step))
    }

    /// What `side` made of the step, with the proof of what it says. Without one, the step is asked for again.
    pub fn heard(
        &mut self,
        side: Side,
        moved: Result<Progress, Hindrance>,
        proof: Option<Certificate>,
    ) {
        let moved = match moved {
            Ok(moved) => moved,
            // It was not begun there either.
            Err(Hindrance::Early) if matches!(self.stage, Stage::Close(_)) => {
                self.stage = Stage::Done(Ending::Never);
                return;
            }
            Err(hindrance) => {
                self.stage = Stage::Done(Ending::Hindered(side, hindrance));
                return;
            }
        };
        let closing = matches!(self.stage, Stage::Close(_));
        let dropping = matches!(self.stage, Stage::Drop(_));
        self.stage = match (moved, proof) {
            (Progress::Wants(number), _) => Stage::Fetch(number),
            (Progress::Whole, _) => Stage::Accept,
            (Progress::Said(_), _) if closing => Stage::Done(Ending::Never),
            (Progress::Said(_), _) if dropping => Stage::Done(Ending::Moved),
            (Progress::Said(_), None) => return,
            (Progress::Said(word @ Word::Prepared { .. }), Some(proof)) => {
                Stage::Depart(word, proof)
            }
            (Progress::Said(word @ Word::Departed { .. }), Some(proof)) => {
                Stage::Arrive(word, proof)
            }
            (Progress::Said(Word::Accepted { .. }), Some(proof)) => Stage::Drop(proof),
            (Progress::Said(Word::Over { .. }), Some(proof)) => Stage::Close(proof),
        };
    }

    /// The parcel that was to be fetched; none if the source has it no more: somebody else carried the order on.
    pub fn fetched(&mut self, parcel: Option<Vec<u8>>) {
        self.stage = match (&self.stage, parcel) {
            (Stage::Fetch(number), Some(parcel)) => Stage::Import(*number, parcel),
            _ => Stage::Prepare,
        };
    }

    /// Whose order it is.
    #[must_use]
    pub fn order(&self) -> &Order {
        &self.order
    }
}
