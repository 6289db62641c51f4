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
    /// A restarted protocol says something else than before.
    ForgetSeed,
    /// The application passes over what it is told of losses.
    DeafToLosses,
    /// No relay is honest, where one should be.
    AllRelaysLie,
    /// An application puts its result away before the step is stored that it came out of.
    ResultBeforeStore,
}
