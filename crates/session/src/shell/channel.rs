//! Ordered messages outside any protocol run.

use bytes::Bytes;

use super::driver::{Answer, Handle};
use crate::proto::{
    channel::{ChannelMessage, Receipt},
    conduct::Room,
    error::SessionError,
    party::{Members, PartyIndex},
    statement::InstanceId,
    step::LocalId,
};

/// A channel among all parties of a session: per pair in order, nothing lost, nothing twice.
#[derive(Clone)]
pub struct Channel {
    handle: Handle,
    local: LocalId,
    id: InstanceId,
}

impl Channel {
    pub(crate) fn new(handle: Handle, local: LocalId, id: InstanceId) -> Self {
        Self { handle, local, id }
    }

    /// Sends a message; returns when it is durable here. Waits while the outbox for `to` is full.
    ///
    /// # Errors
    /// [`SessionError::NoRoom`] if `to` has taken nothing for ten minutes, [`SessionError::Peer`] if it has
    /// left, [`crate::Misuse::TooLong`] above 16 MiB.
    pub async fn send(
        &self,
        to: PartyIndex,
        payload: impl Into<Bytes>,
    ) -> Result<(), SessionError> {
        self.put(Answer::Durable, to, payload.into()).await
    }

    /// As [`Channel::send`], but returns before the message is durable: for streams whose own end
    /// is confirmed otherwise. Nothing leaves before it is durable all the same.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub async fn feed(
        &self,
        to: PartyIndex,
        payload: impl Into<Bytes>,
    ) -> Result<(), SessionError> {
        self.put(Answer::AtOnce, to, payload.into()).await
    }

    async fn put(
        &self,
        answer: Answer,
        to: PartyIndex,
        payload: Bytes,
    ) -> Result<(), SessionError> {
        let (local, id) = (self.local, self.id);
        let room = Room::ordinary(Members::NONE.with(to));
        self.handle
            .say(answer, local, room, move |node, rng, step| {
                let (said, more) = node.channel_send(&local, &id, to, payload.clone(), rng);
                step.absorb(more);
                said
            })
            .await
    }

    /// Waits for the next message. It comes again after a restart unless [`Channel::done`] was
    /// called with its receipt.
    ///
    /// # Errors
    /// [`SessionError::Misuse`] once the session is closed.
    pub async fn next(&self) -> Result<ChannelMessage, SessionError> {
        let (local, id) = (self.local, self.id);
        self.handle
            .call(Answer::AtOnce, move |node, rng, step| {
                let (next, more) = node.channel_next(&local, &id, rng);
                step.absorb(more);
                next.transpose()
            })
            .await
    }

    /// The message has been dealt with and need not come again.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn done(&self, receipt: Receipt) -> Result<(), SessionError> {
        let local = self.local;
        self.handle
            .call(Answer::AtOnce, move |node, rng, step| {
                step.absorb(node.channel_done(&local, &receipt, rng));
                Some(Ok(()))
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use junto_crypto::aead::StoreKey;

    use crate::{
        DisplayName, Kind, Members, Params, PartyCount, Persona, Policy, Session, SessionError,
        Sessions, carrier::memory::Hub, proto::limits::SMALL_BYTES_MAX,
    };
    use tokio::time::{Instant, sleep};

    const PATIENCE: Duration = Duration::from_secs(60);

    struct Two {
        _dirs: [tempfile::TempDir; 2],
        host: Sessions,
        joiner: Sessions,
        session: Session,
        other: Session,
    }

    /// Two parties, and the session of each.
    async fn two() -> Two {
        let hub = Hub::new();
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let open = |index: usize| {
            let key = StoreKey::from_bytes(&[7; 32]);
            Sessions::open(dirs[index].path(), key, hub.open(&index.to_string())).unwrap()
        };
        let persona = Persona {
            display_name: DisplayName::new("one").unwrap(),
            ..Persona::default()
        };
        let params = Params {
            name: "full".to_owned(),
            parties: PartyCount::new(2).unwrap(),
            policy: Policy::Anonymous,
        };
        let (host, joiner) = (open(0), open(1));
        let made = host.new_session(params, persona.clone(), PATIENCE);
        let (hosting, link) = made.await.unwrap();
        let joining = joiner.join(link, persona).await.unwrap();
        let (session, other) = tokio::join!(hosting.formed(PATIENCE), joining.formed(PATIENCE));
        let (session, other) = (session.unwrap(), other.unwrap());
        Two {
            _dirs: dirs,
            host,
            joiner,
            session,
            other,
        }
    }

    #[tokio::test]
    async fn whatever_comes_is_heard_and_nothing_is_known_of_who_is_not_read() {
        let two = two().await;
        let (here, there) = (&two.session, &two.other);
        let of = || async {
            match here.heard().await.unwrap()[..] {
                [(party, heard)] if party == there.me() => heard,
                ref other => panic!("{other:?}"),
            }
        };
        let says = there.channel("chat").await.unwrap();
        let end = Instant::now() + PATIENCE;
        let mut before = of().await.unwrap();
        for _ in 0..3 {
            says.send(here.me(), vec![1]).await.unwrap();
            while of().await.unwrap() == before {
                assert!(Instant::now() < end, "it is not heard");
                sleep(Duration::from_millis(5)).await;
            }
            before = of().await.unwrap();
        }
        // So much that the rest waits with its sender.
        for _ in 0..5 {
            says.feed(here.me(), vec![1; 16 * 1024 * 1024])
                .await
                .unwrap();
        }
        while of().await.is_some() {
            assert!(Instant::now() < end, "all of it was read");
            sleep(Duration::from_millis(5)).await;
        }
        let heard = here.channel("chat").await.unwrap();
        for _ in 0..8 {
            let message = heard.next().await.unwrap();
            heard.done(message.receipt).await.unwrap();
        }
        assert!(of().await.unwrap() > before);
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_for_a_party_that_takes_nothing() {
        let Two {
            _dirs,
            host: _host,
            joiner,
            session,
            other,
        } = two().await;
        let to = other.me();
        drop(other);
        joiner.end().await;
        let mut channel = session.channel("chat").await.unwrap();
        channel.handle.room = Duration::from_millis(50);
        // It is not there: 64 MiB fit, and one message more.
        let mut taken = 0;
        let error = loop {
            match channel.feed(to, vec![1; 16 * 1024 * 1024]).await {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
            assert!(taken < 10);
        };
        assert!(
            matches!(error, SessionError::NoRoom(full) if full == Members::NONE.with(to)),
            "{error}"
        );
        assert!(taken >= 4, "{taken}");
        // A run says what is small all the same.
        let run = session.execution("run").await.unwrap();
        assert_eq!(session.full().await.unwrap(), Members::NONE.with(to));
        let said = run.broadcast(0, vec![0; SMALL_BYTES_MAX]);
        tokio::time::timeout(PATIENCE, said).await.unwrap().unwrap();
        run.send_now(0, to, vec![0; SMALL_BYTES_MAX]).await.unwrap();
        let error = run.send_now(1, to, vec![0; SMALL_BYTES_MAX + 1]).await;
        assert!(matches!(error, Err(SessionError::NoRoom(_))), "{error:?}");
        // That has an end as well.
        let mut sent = 2;
        let error = loop {
            match run.send_now(sent, to, vec![0; SMALL_BYTES_MAX]).await {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            if sent % 50 == 0 {
                run.gather_from(sent, Kind::P2p, Members::NONE, Duration::ZERO)
                    .await
                    .unwrap();
            }
        };
        assert!(matches!(error, SessionError::NoRoom(_)), "{error}");
        assert!(sent <= 256, "{sent}");
    }
}
