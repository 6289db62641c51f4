//! A relay that lies: in what it answers, in what it says unasked, and in what it does with what it carries.
//!
//! It keeps the protocol's form up to where a lie breaks it: its blocks are sealed with the right keys, for a relay has those.

use std::collections::VecDeque;

use bytes::Bytes;
use junto_smp::{
    command::Party,
    error::ErrorCode,
    id::{MessageId, RecipientId},
    queue::{Content, Message, Queue},
};

use crate::dice::Dice;

/// Messages of the past that a relay remembers, to bring them again.
const PAST_MAX: usize = 64;

/// Something that an honest relay does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Does nothing and does not answer.
    Ignore,
    /// Does it and does not answer.
    Silence,
    /// Does nothing and says that it did.
    Pretend,
    /// Does nothing and says why not, falsely.
    Refuse,
    /// Does it and says that it did not.
    Deny,
    /// Answers twice.
    Twice,
    /// Answers a question that nobody asked.
    Rename,
    /// Answers about another queue.
    Misplace,
    /// Answers with what is no answer to such a command.
    Confuse,
    /// Answers with what is cut short or has no meaning.
    Garble,
    /// Says that somebody else reads the queue now.
    End,
    /// Says that the queue is gone.
    Bury,
    /// Delivers what nobody sent.
    Forge,
    /// Delivers an old message again.
    Replay,
    /// Takes a message and keeps it back, until others are through.
    Hold,
    /// Changes a message.
    Alter,
    /// Puts a message into another queue.
    Divert,
    /// Puts a message into its queue twice.
    Repeat,
    /// Stops, and starts from an old copy of itself.
    GoBack,
}

impl Lie {
    const ALL: [Self; 19] = [
        Self::Ignore,
        Self::Silence,
        Self::Pretend,
        Self::Refuse,
        Self::Deny,
        Self::Twice,
        Self::Rename,
        Self::Misplace,
        Self::Confuse,
        Self::Garble,
        Self::End,
        Self::Bury,
        Self::Forge,
        Self::Replay,
        Self::Hold,
        Self::Alter,
        Self::Divert,
        Self::Repeat,
        Self::GoBack,
    ];

    /// For the tally.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignored commands",
            Self::Silence => "withheld answers",
            Self::Pretend => "false successes",
            Self::Refuse => "false refusals",
            Self::Deny => "denied successes",
            Self::Twice => "answers given twice",
            Self::Rename => "answers to nothing",
            Self::Misplace => "answers about another queue",
            Self::Confuse => "answers of another kind",
            Self::Garble => "garbled answers",
            Self::End => "false ends",
            Self::Bury => "false burials",
            Self::Forge => "forged messages",
            Self::Replay => "replayed messages",
            Self::Hold => "messages kept back",
            Self::Alter => "altered messages",
            Self::Divert => "diverted messages",
            Self::Repeat => "repeated messages",
            Self::GoBack => "relays gone back in time",
        }
    }
}

/// To whom a relay lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Everybody,
    Recipients,
    Senders,
}

/// What is wrong with a relay.
pub struct Malice {
    dice: Dice,
    habits: Vec<Lie>,
    /// How many of a thousand commands it lies about.
    rate: u64,
    side: Side,
    past: VecDeque<Message<Bytes>>,
    held: Vec<(RecipientId, Message<Bytes>)>,
    /// An old copy of its queues.
    pub(crate) copy: Option<Vec<Queue>>,
}

impl Malice {
    /// A relay with a few habits.
    #[must_use]
    pub fn draw(mut dice: Dice) -> Self {
        let share = dice.between(100, 900);
        let mut habits: Vec<_> = Lie::ALL
            .into_iter()
            .filter(|_| dice.chance(share))
            .collect();
        if habits.is_empty() {
            habits.push(Lie::ALL[dice.index(Lie::ALL.len())]);
        }
        let side = match dice.below(4) {
            0 => Side::Recipients,
            1 => Side::Senders,
            _ => Side::Everybody,
        };
        Self {
            habits,
            rate: dice.between(10, 250),
            side,
            past: VecDeque::new(),
            held: Vec::new(),
            copy: None,
            dice,
        }
    }

    /// A relay with one habit, towards everybody.
    #[must_use]
    pub fn only(lie: Lie, rate: u64, dice: Dice) -> Self {
        Self {
            habits: vec![lie],
            rate,
            side: Side::Everybody,
            past: VecDeque::new(),
            held: Vec::new(),
            copy: None,
            dice,
        }
    }

    /// Whether it lies about a command, and how.
    pub(crate) fn lie(&mut self, party: Party) -> Option<Lie> {
        let (lies, habit) = (
            self.dice.chance(self.rate),
            self.dice.index(self.habits.len()),
        );
        let is_victim = match (self.side, party) {
            (Side::Everybody, _) | (Side::Recipients, Party::Recipient | Party::Creator) => true,
            (Side::Recipients, _) => false,
            (Side::Senders, party) => matches!(party, Party::Sender | Party::LinkReader),
        };
        (lies && is_victim).then(|| self.habits[habit])
    }

    /// A reason that is none.
    pub(crate) fn excuse(&mut self) -> ErrorCode {
        let excuses = [
            ErrorCode::Auth,
            ErrorCode::Quota,
            ErrorCode::NoMessage,
            ErrorCode::Internal,
            ErrorCode::LargeMessage,
            ErrorCode::Block,
            ErrorCode::Expired,
            ErrorCode::SYNTAX,
        ];
        excuses[self.dice.index(excuses.len())]
    }

    /// One of several.
    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let place = self.dice.index(choices.len());
        choices.get(place).copied()
    }

    /// Bytes without a meaning, of any length up to this one.
    pub(crate) fn noise(&mut self, most: u64) -> Vec<u8> {
        let len = self.dice.below(most + 1);
        (0..len).map(|_| self.dice.below(256) as u8).collect()
    }

    /// A message as its sender gave it, under a new name: what is remembered of it.
    pub(crate) fn remember(&mut self, message: Message<Bytes>) {
        if self.past.len() == PAST_MAX {
            let place = self.dice.index(PAST_MAX);
            self.past.remove(place);
        }
        self.past.push_back(message);
    }

    /// Some message of the past, sometimes under another name.
    pub(crate) fn recall(&mut self) -> Option<Message<Bytes>> {
        let place = self.dice.index(self.past.len());
        let mut message = self.past.get(place)?.clone();
        if self.dice.chance(500) {
            message.id = self.name();
        }
        Some(message)
    }

    /// A name for a message.
    pub(crate) fn name(&mut self) -> MessageId {
        let mut id = MessageId([0; 24]);
        id.0.fill_with(|| self.dice.below(256) as u8);
        id
    }

    /// The message with a wrong byte.
    pub(crate) fn alter(&mut self, message: &mut Message<Bytes>) {
        if let Content::Body { body, .. } = &mut message.content {
            let mut bytes = body.to_vec();
            if self.dice.chance(200) {
                bytes.truncate(self.dice.index(bytes.len() + 1));
            } else if !bytes.is_empty() {
                let place = self.dice.index(bytes.len());
                bytes[place] ^= 1 << self.dice.below(8);
            }
            *body = Bytes::from(bytes);
        }
    }

    /// Keeps a message back.
    pub(crate) fn hold(&mut self, queue: RecipientId, message: Message<Bytes>) {
        self.held.push((queue, message));
    }

    /// What it has kept back for long enough.
    pub(crate) fn let_go(&mut self) -> Option<(RecipientId, Message<Bytes>)> {
        let goes = self.dice.chance(200);
        let place = self.dice.index(self.held.len());
        (goes && !self.held.is_empty()).then(|| self.held.swap_remove(place))
    }

    /// Whether it stops now, to go back in time.
    pub(crate) fn goes_back(&mut self) -> bool {
        let goes = self.dice.chance(self.rate / 4);
        self.habits.contains(&Lie::GoBack) && goes
    }

    /// Whether it makes a copy of itself now, to go back to.
    pub(crate) fn copies(&mut self) -> bool {
        self.dice.chance(30)
    }
}
