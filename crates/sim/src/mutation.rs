//! Rules broken on purpose, to see that the invariants notice.

/// A rule that a simulated shell, store or application breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// None: the system as it is.
    Faithful,
    /// Effects leave first, their delta is stored afterwards.
    SendBeforeStore,
    /// Only acknowledgements leave before what they acknowledge is stored.
    AckBeforeStore,
    /// Messages of the outbox are not in the store after a restart.
    LoseOutbox,
    /// The application does not recognise a message that it has already recorded.
    NoDedup,
    /// The carrier hands over the messages of one connection in any order.
    Shuffle,
    /// A restarted protocol says something else than before.
    ForgetSeed,
    /// Nobody compares the broadcasts: a party hears of the equivocation only by itself.
    NoEcho,
}
