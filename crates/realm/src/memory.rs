//! What keeps a realm's memory off disks, as far as a process can see to it.

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
};

/// What could not be done, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// The process may leave a core file.
    Dumps,
    /// Other processes of the same user may read its memory.
    Readable,
    /// Its memory may be swapped to a disk.
    Swap,
}

impl Shortfall {
    /// For the operator.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Dumps => "a crash may write the realm's memory to a disk: set `ulimit -c 0`",
            Self::Readable => {
                "other processes of this user may read the realm's memory: give it a user of its own"
            }
            Self::Swap => {
                "the realm's memory may be swapped to a disk: switch swap off, or allow locking it (`ulimit -l unlimited`, LimitMEMLOCK=infinity)"
            }
        }
    }
}

/// Switches core files and debuggers off for this process, and keeps its memory from being swapped. Says what it could not.
#[must_use]
pub fn keep() -> Vec<Shortfall> {
    let nothing = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let mut short = Vec::new();
    if setrlimit(Resource::Core, nothing).is_err() {
        short.push(Shortfall::Dumps);
    }
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        short.push(Shortfall::Readable);
    }
    let everything = Rlimit {
        current: None,
        maximum: None,
    };
    // With a limit, a lock on what comes would end the process in the middle of its work.
    let unlimited = setrlimit(Resource::Memlock, everything).is_ok()
        || getrlimit(Resource::Memlock).current.is_none();
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if !unlimited || mlockall(flags).is_err() {
        short.push(Shortfall::Swap);
    }
    short
}
