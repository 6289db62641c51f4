//! Byte streams between two parties, many over one channel of theirs (`docs/spec/session.md` §12).
//!
//! A [`Link`] is one party's end: it turns what the program does into messages, and messages of the
//! other party into [`Event`]s. Both sides prove first that they run at the same time, each by naming
//! the other's [`Life`]: what an earlier run left in the channel is passed over.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{
    party::Members,
    wire::{Malformed, Put, Reader},
};

/// Label of the channel. The number at its end is the version of this format.
pub(crate) const LABEL: &str = "junto streams 1";
/// Bytes of one stream that were sent and not yet taken by the program at the other end.
pub const WINDOW: usize = 512 * 1024;
/// Streams that one party has open towards another at once.
pub const STREAMS_MAX: usize = 128;
/// Largest piece of a stream in one frame, bytes.
pub(crate) const PIECE_MAX: usize = 64 * 1024;
/// Frames beyond this go into the next message, bytes.
const MESSAGE_BYTES: usize = 256 * 1024;
/// Longest message of an honest party, bytes: one that was not full yet, and a largest frame.
pub(crate) const MESSAGE_MAX: usize = MESSAGE_BYTES + PIECE_MAX + 9;
/// Bytes taken by the program after which the other end hears of it.
const CREDIT_STEP: usize = WINDOW / 4;

/// One run of one party: random, so that no other run has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life(pub(crate) [u8; 16]);

/// A stream between two parties: the lowest bit tells who opened it. Numbers begin again with each life.
type Number = u32;

/// A stream in the life of the other party in which it was opened: means nothing in a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamId {
    /// Lives of the other party before that one.
    era: u64,
    number: Number,
}

/// How a party's program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, and well.
    Done,
    /// By itself, with an error.
    Failed,
    /// Its user stopped it.
    Stopped,
    /// The run could not go on, and these parties are named for it: none if the cause is on that side alone.
    GaveUp(Members),
}

/// What a message of the other party means here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Both ends know each other's life.
    Met,
    /// The other party began anew: every stream is gone.
    Restarted,
    /// It opened a stream.
    Opened(StreamId),
    /// Bytes of a stream.
    Data(StreamId, Bytes),
    /// No more bytes come; we may still send.
    Ended(StreamId),
    /// The stream is gone in both directions.
    Broken(StreamId),
    /// There may be room to send again.
    Room(StreamId),
    /// Its program has ended.
    Over(Outcome),
}

struct Flow {
    /// Bytes that we may send.
    credit: usize,
    /// Bytes that the other end may send.
    window: usize,
    /// Bytes taken here that the other end has not heard of.
    taken: usize,
    ended_here: bool,
    ended_there: bool,
}

/// One party's end of all streams with another.
pub(crate) struct Link {
    life: Life,
    everybody: Members,
    theirs: Option<Life>,
    /// Lives of the other party that are over.
    era: u64,
    met: bool,
    over: Option<Outcome>,
    /// See [`Link::has_left`].
    left: bool,
    /// The lowest bit of the streams that we open.
    side: u32,
    opened_here: u32,
    opened_there: u32,
    flows: BTreeMap<Number, Flow>,
    out: VecDeque<Frame>,
}

/// One statement about a link or a stream; a message is a row of them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Frame {
    Hello { life: Life, named: Life },
    Open(Number),
    Data(Number, Bytes),
    End(Number),
    Break(Number),
    Credit(Number, u32),
    Alive,
    Over(Outcome),
}

impl Frame {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { life, named } => out.put_u8(0).put(&life.0).put(&named.0),
            Self::Open(id) => out.put_u8(1).put_u32(*id),
            Self::Data(id, piece) => {
                let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
                out.put_u8(2).put_u32(*id).put_u32(length).put(piece)
            }
            Self::End(id) => out.put_u8(3).put_u32(*id),
            Self::Break(id) => out.put_u8(4).put_u32(*id),
            Self::Credit(id, count) => out.put_u8(5).put_u32(*id).put_u32(*count),
            Self::Alive => out.put_u8(6),
            Self::Over(outcome) => outcome.put(out.put_u8(7)),
        };
    }

    fn read(
        reader: &mut Reader<'_>,
        message: &Bytes,
        everybody: Members,
    ) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            0 => Self::Hello {
                life: Life(reader.array()?),
                named: Life(reader.array()?),
            },
            1 => Self::Open(reader.u32()?),
            2 => {
                let id = reader.u32()?;
                let length = reader.u32()? as usize;
                if length == 0 || length > PIECE_MAX {
                    return Err(reader.malformed());
                }
                Self::Data(id, message.slice_ref(reader.bytes(length)?))
            }
            3 => Self::End(reader.u32()?),
            4 => Self::Break(reader.u32()?),
            5 => Self::Credit(reader.u32()?, reader.u32()?),
            6 => Self::Alive,
            7 => Self::Over(Outcome::read(reader, everybody)?),
            _ => return Err(reader.malformed()),
        })
    }

    /// Of a stream, or of the link itself.
    fn stream(&self) -> Option<Number> {
        match self {
            Self::Data(id, _) | Self::End(id) | Self::Break(id) | Self::Credit(id, _) => Some(*id),
            Self::Hello { .. } | Self::Open(_) | Self::Alive | Self::Over(_) => None,
        }
    }
}

impl Link {
    /// The end of the party with the lower index (`lower`), or of the other, in a session of `everybody`.
    pub(crate) fn new(life: Life, lower: bool, everybody: Members) -> Self {
        let mut link = Self {
            life,
            everybody,
            theirs: None,
            era: 0,
            met: false,
            over: None,
            left: false,
            side: u32::from(!lower),
            opened_here: 0,
            opened_there: 0,
            flows: BTreeMap::new(),
            out: VecDeque::new(),
        };
        link.hello();
        link
    }

    /// Whether both ends know each other's life.
    pub(crate) fn is_met(&self) -> bool {
        self.met
    }

    /// How the other party's program ended, if it has.
    pub(crate) fn over(&self) -> Option<Outcome> {
        self.over
    }

    /// Whether the other end broke off a stream, or is over, before the program here had ended what it says on it;
    /// since this was asked last.
    pub(crate) fn has_left(&mut self) -> bool {
        core::mem::take(&mut self.left)
    }

    /// Whether everything that the program here wrote is in messages that were taken.
    pub(crate) fn is_drained(&self) -> bool {
        self.is_said() && (self.over.is_some() || self.flows.values().all(|flow| flow.ended_here))
    }

    /// Whether the other end has left no room for more on a stream, which is not ended here.
    pub(crate) fn is_full(&self) -> bool {
        let full = |flow: &Flow| flow.credit == 0 && !flow.ended_here;
        self.over.is_none() && self.flows.values().any(full)
    }

    /// Whether everything said is in messages that were taken.
    pub(crate) fn is_said(&self) -> bool {
        self.out.is_empty()
    }

    /// Opens a stream; `None` before both ends have met, after the other end is over, and above [`STREAMS_MAX`].
    pub(crate) fn open(&mut self) -> Option<StreamId> {
        if !self.met || self.over.is_some() || self.open_of(self.side) >= STREAMS_MAX {
            return None;
        }
        let number = self.opened_here.checked_mul(2)? | self.side;
        self.opened_here += 1;
        self.flows.insert(number, Flow::new());
        self.say(Frame::Open(number));
        Some(self.id(number))
    }

    /// Bytes that may be sent now; `None` if the stream is gone.
    pub(crate) fn room(&self, id: StreamId) -> Option<usize> {
        let flow = self.flows.get(&self.number(id)?)?;
        // Nobody is left to read: what the program still writes goes nowhere, as with TCP.
        Some(if self.over.is_some() {
            PIECE_MAX
        } else {
            flow.credit
        })
    }

    /// Sends bytes, at most [`Link::room`] and [`PIECE_MAX`] of them.
    pub(crate) fn send(&mut self, id: StreamId, piece: Bytes) {
        if let Some((number, flow)) = self.flow(id) {
            flow.credit = flow.credit.saturating_sub(piece.len());
            self.say(Frame::Data(number, piece));
        }
    }

    /// Sends no more on this stream.
    pub(crate) fn end(&mut self, id: StreamId) {
        if let Some((number, flow)) = self.flow(id) {
            flow.ended_here = true;
            let closed = flow.ended_there;
            if closed {
                self.flows.remove(&number);
            }
            self.say(Frame::End(number));
        }
    }

    /// Gives the stream up in both directions.
    pub(crate) fn reset(&mut self, id: StreamId) {
        if let Some((number, _)) = self.flow(id) {
            self.flows.remove(&number);
            self.say(Frame::Break(number));
        }
    }

    /// The program here took `count` bytes: the other end may send as many more.
    pub(crate) fn taken(&mut self, id: StreamId, count: usize) {
        let Some((number, flow)) = self.flow(id) else {
            return;
        };
        flow.taken += count;
        if flow.taken >= CREDIT_STEP && !flow.ended_there {
            let credit = core::mem::take(&mut flow.taken);
            flow.window += credit;
            let credit = u32::try_from(credit).unwrap_or(u32::MAX);
            self.say(Frame::Credit(number, credit));
        }
    }

    /// Shows the other end that this one is there.
    pub(crate) fn alive(&mut self) {
        self.say(Frame::Alive);
    }

    /// Tells the other end that the program here has ended. Nothing follows.
    pub(crate) fn finish(&mut self, outcome: Outcome) {
        self.say(Frame::Over(outcome));
    }

    /// The next message to send, if there is anything to say.
    pub(crate) fn message(&mut self) -> Option<Bytes> {
        let mut message = Vec::new();
        self.out.pop_front()?.put(&mut message);
        while message.len() < MESSAGE_BYTES
            && let Some(next) = self.out.pop_front()
        {
            next.put(&mut message);
        }
        Some(message.into())
    }

    /// The hello that is next to be said, if one is: it belongs to no sequence of messages.
    pub(crate) fn hello_next(&mut self) -> Option<Bytes> {
        let mut message = Vec::new();
        let is_hello = |frame: &mut Frame| matches!(frame, Frame::Hello { .. });
        self.out.pop_front_if(is_hello)?.put(&mut message);
        Some(message.into())
    }

    /// How the program here has ended; what is not said by now is not any more.
    pub(crate) fn last_words(&mut self) -> Option<Bytes> {
        let mut message = Vec::new();
        let is_last = |frame: &&Frame| matches!(frame, Frame::Over(_));
        self.out.iter().find(is_last)?.put(&mut message);
        self.out.clear();
        Some(message.into())
    }

    /// A message that says that this end is there, and has no place in any order.
    pub(crate) fn sign_of_life() -> Bytes {
        let mut message = Vec::new();
        Frame::Alive.put(&mut message);
        message.into()
    }

    /// The lives of this end and of the other, as soon as they know each other's.
    pub(crate) fn lives(&self) -> Option<(Life, Life)> {
        self.theirs
            .filter(|_| self.met)
            .map(|theirs| (self.life, theirs))
    }

    /// The life of the other party that was heard of last.
    pub(crate) fn theirs(&self) -> Option<Life> {
        self.theirs
    }

    /// Takes a message of the other party.
    ///
    /// # Errors
    /// [`Malformed`]: the other party breaks the rules.
    pub(crate) fn receive(&mut self, message: &Bytes) -> Result<Vec<Event>, Malformed> {
        if message.len() > MESSAGE_MAX {
            return Err(Malformed("stream message: it is too long"));
        }
        let mut reader = Reader::new("stream frame", message);
        let mut events = Vec::new();
        let mut first = true;
        while !reader.is_empty() {
            let frame = Frame::read(&mut reader, message, self.everybody)?;
            // Nothing of one life is in a message with another.
            if matches!(frame, Frame::Hello { .. }) && !first {
                return Err(reader.malformed());
            }
            first = false;
            self.take(frame, &mut events).ok_or(reader.malformed())?;
        }
        Ok(events)
    }

    /// `None`: against the rules.
    fn take(&mut self, frame: Frame, events: &mut Vec<Event>) -> Option<()> {
        if let Frame::Hello { life, named } = frame {
            self.met_by(life, named, events);
            return Some(());
        }
        // What an earlier run left in the channel, or comes after the end, means nothing.
        if !self.met || self.over.is_some() {
            return Some(());
        }
        if let Some(number) = frame.stream()
            && !self.flows.contains_key(&number)
        {
            // What was under way when the stream was given up is late; what never was open is a lie.
            return self.was_open(number).then_some(());
        }
        match frame {
            Frame::Hello { .. } | Frame::Alive => {}
            Frame::Over(outcome) => self.end_of_peer(outcome, events),
            Frame::Open(number) => {
                self.opened(number)?;
                events.push(Event::Opened(self.id(number)));
            }
            Frame::Data(number, piece) => {
                self.filled(number, piece.len())?;
                events.push(Event::Data(self.id(number), piece));
            }
            Frame::End(number) => {
                self.ended(number)?;
                events.push(Event::Ended(self.id(number)));
            }
            Frame::Break(number) => {
                let flow = self.flows.remove(&number);
                self.left |= flow.is_some_and(|flow| !flow.ended_here);
                events.push(Event::Broken(self.id(number)));
            }
            Frame::Credit(number, count) => {
                self.credited(number, count as usize)?;
                events.push(Event::Room(self.id(number)));
            }
        }
        Some(())
    }

    fn met_by(&mut self, theirs: Life, named: Life, events: &mut Vec<Event>) {
        if self.theirs != Some(theirs) {
            if self.met {
                events.push(Event::Restarted);
            }
            self.theirs = Some(theirs);
            self.era += 1;
            (self.met, self.over, self.left) = (false, None, false);
            (self.opened_here, self.opened_there) = (0, 0);
            self.flows.clear();
            self.out.clear();
            self.hello();
        }
        if named == self.life && !self.met {
            self.met = true;
            events.push(Event::Met);
        }
    }

    fn was_open(&self, number: Number) -> bool {
        let opened = if number & 1 == self.side {
            self.opened_here
        } else {
            self.opened_there
        };
        number >> 1 < opened
    }

    fn opened(&mut self, number: Number) -> Option<()> {
        let theirs = 1 - self.side;
        let next = number & 1 == theirs && number >> 1 == self.opened_there;
        if !next || self.open_of(theirs) >= STREAMS_MAX {
            return None;
        }
        self.opened_there += 1;
        self.flows.insert(number, Flow::new());
        Some(())
    }

    fn filled(&mut self, number: Number, length: usize) -> Option<()> {
        let flow = self
            .flows
            .get_mut(&number)
            .filter(|flow| !flow.ended_there)?;
        flow.window = flow.window.checked_sub(length)?;
        Some(())
    }

    fn ended(&mut self, number: Number) -> Option<()> {
        let flow = self
            .flows
            .get_mut(&number)
            .filter(|flow| !flow.ended_there)?;
        flow.ended_there = true;
        if flow.ended_here {
            self.flows.remove(&number);
        }
        Some(())
    }

    fn credited(&mut self, number: Number, credit: usize) -> Option<()> {
        let flow = self.flows.get_mut(&number)?;
        flow.credit = Some(flow.credit + credit).filter(|sum| credit > 0 && *sum <= WINDOW)?;
        Some(())
    }

    /// What it has ended stays readable here; the rest of its streams are gone.
    fn end_of_peer(&mut self, outcome: Outcome, events: &mut Vec<Event>) {
        self.over = Some(outcome);
        self.out.clear();
        self.left |= self.flows.values().any(|flow| !flow.ended_here);
        let era = self.era;
        self.flows.retain(|&number, flow| {
            let id = StreamId { era, number };
            events.push(match flow.ended_there {
                true => Event::Room(id),
                false => Event::Broken(id),
            });
            flow.ended_there
        });
        events.push(Event::Over(outcome));
    }

    fn open_of(&self, side: u32) -> usize {
        let numbers = self.flows.keys();
        numbers.filter(|number| *number & 1 == side).count()
    }

    fn id(&self, number: Number) -> StreamId {
        let era = self.era;
        StreamId { era, number }
    }

    /// `None` in another life than the stream's.
    fn number(&self, id: StreamId) -> Option<Number> {
        (id.era == self.era).then_some(id.number)
    }

    fn flow(&mut self, id: StreamId) -> Option<(Number, &mut Flow)> {
        let number = self.number(id)?;
        self.flows.get_mut(&number).map(|flow| (number, flow))
    }

    fn hello(&mut self) {
        let named = self.theirs.unwrap_or(Life([0; 16]));
        let life = self.life;
        self.say(Frame::Hello { life, named });
    }

    fn say(&mut self, frame: Frame) {
        if self.over.is_none() {
            self.out.push_back(frame);
        }
    }
}

impl Flow {
    fn new() -> Self {
        Self {
            credit: WINDOW,
            window: WINDOW,
            taken: 0,
            ended_here: false,
            ended_there: false,
        }
    }
}

impl Outcome {
    fn put<'a>(&self, out: &'a mut Vec<u8>) -> &'a mut Vec<u8> {
        match self {
            Self::Done => out.put_u8(0),
            Self::Failed => out.put_u8(1),
            Self::Stopped => out.put_u8(2),
            Self::GaveUp(named) => out.put_u8(3).put_u64(named.bits()),
        }
    }

    fn read(reader: &mut Reader<'_>, everybody: Members) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            0 => Self::Done,
            1 => Self::Failed,
            2 => Self::Stopped,
            3 => {
                let named = Members::from_bits(reader.u64()?);
                if !everybody.covers(named) {
                    return Err(reader.malformed());
                }
                Self::GaveUp(named)
            }
            _ => return Err(reader.malformed()),
        })
    }
}

#[cfg(test)]
mod tests;
