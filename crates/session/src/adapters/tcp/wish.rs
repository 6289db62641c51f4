//! Who takes direct paths alone, and who takes none: the two cannot meet, and all hear of it before their programs run.
//!
//! Nobody says what it wants where that makes no difference: in a run in which nobody takes direct paths alone, nothing
//! of this is said.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::timeout;

use super::{
    mesh::{Hub, MeshError, State},
    path::Policy,
};
use crate::{
    Channel, Members, PartyIndex, Session, SessionError,
    proto::paths::{Told, WISH_LABEL, Wish},
};

/// So long whoever knows that two cannot meet waits for the others, so that these know it as well when it ends.
const ALL_KNOW: Duration = Duration::from_secs(3);

/// What this party wants, and where it says so.
pub(super) struct Wishes {
    me: PartyIndex,
    policy: Policy,
    pub(super) channel: Channel,
    /// Somebody takes direct paths alone: it matters who takes none.
    matters: AtomicBool,
}

impl Wishes {
    pub(super) async fn open(session: &Session, policy: Policy) -> Result<Self, SessionError> {
        Ok(Self {
            me: session.me(),
            policy,
            channel: session.channel(WISH_LABEL).await?,
            matters: AtomicBool::new(false),
        })
    }

    /// What others have to know of us.
    pub(super) fn own(&self) -> Option<Wish> {
        match self.policy {
            Policy::DirectOnly => Some(Wish::DirectOnly),
            Policy::RelayOnly => self
                .matters
                .load(Ordering::Relaxed)
                .then_some(Wish::RelayOnly),
            Policy::PreferDirect => None,
        }
    }
}

impl State {
    /// What the other party wants in its present life, as far as it has said so.
    fn wish(&self) -> Option<Wish> {
        let (_, theirs) = self.link.lives()?;
        let told = self.wish.as_ref()?;
        (told.life == theirs).then_some(told.wish)
    }
}

impl Hub {
    /// Who takes direct paths alone and who takes none, if there are both among us and those who are met.
    pub(super) fn apart(&self) -> Option<MeshError> {
        let who = |wish| {
            let others = self.members(|state| state.wish() == Some(wish));
            match self.wishes.own() == Some(wish) {
                true => others.with(self.wishes.me),
                false => others,
            }
        };
        let (direct, relays) = (who(Wish::DirectOnly), who(Wish::RelayOnly));
        let both = direct != Members::NONE && relays != Members::NONE;
        both.then_some(MeshError::Apart { direct, relays })
    }
}

/// Takes what `party` says that it wants.
pub(super) fn hear(hub: &Hub, party: PartyIndex, payload: &Bytes) {
    let Some(peer) = hub.peer(party) else { return };
    let told = match Told::decode(payload) {
        Ok(told) => told,
        Err(what) => return hub.lied(party, what),
    };
    let asks = told.wish == Wish::DirectOnly && hub.wishes.policy == Policy::RelayOnly;
    peer.with(|state| state.wish = Some(told));
    // Once in a run: it is said again only to who begins anew.
    if asks && !hub.wishes.matters.swap(true, Ordering::Relaxed) {
        for peer in hub.peers() {
            peer.with(|state| state.owes_wish = true);
            peer.woken.notify_one();
        }
    }
    hub.touch();
}

/// Ends the mesh if two cannot meet.
pub(super) async fn look(hub: Arc<Hub>) {
    let mut changed = hub.changed.subscribe();
    loop {
        if hub.apart().is_some() {
            let known =
                |state: &mut State| state.link.is_met() && !state.owes_wish && !state.sending;
            let _ = timeout(ALL_KNOW, hub.until(known)).await;
            // Whoever said so may have begun anew, and want something else.
            if let Some(error) = hub.apart() {
                return hub.fail(error);
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}
