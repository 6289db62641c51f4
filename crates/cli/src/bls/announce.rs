//! Signers who wait tell the others for which message: parties that mean different ones, by a slip,
//! would wait for each other in vain.

use std::collections::BTreeMap;
use std::time::Duration;

use junto_bls::KeyPublic;
use junto_session::{Members, PartyIndex, Session, SessionError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::failure::{Exit, Failure};

/// How long a signer waits before it tells: whoever meets the others at once has nothing to tell.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// SHA-256 of a message.
pub(crate) type Digest = [u8; 32];

/// How often a party that signs something else is mentioned in a command.
const SAID_MAX: usize = 3;
/// One channel for all keys and epochs: whoever signs anything reads, and so forgets, what was said of all.
pub(crate) const CHANNEL: &str = "bls signing";
/// Bytes of a key's digest in an announcement.
const KEY_BYTES: usize = 16;

/// Tells the others which message this party signs, and hears which ones they do.
pub(crate) struct Announcements {
    own: Digest,
    heard: mpsc::Receiver<(PartyIndex, Digest)>,
    others: Others,
    /// Ends with it.
    _task: JoinSet<()>,
}

/// What others sign, as far as it is not what this party signs.
#[derive(Default)]
struct Others {
    latest: BTreeMap<PartyIndex, Digest>,
    /// How often each was mentioned.
    said: BTreeMap<PartyIndex, usize>,
}

impl Others {
    /// Whether it is to be mentioned that a party signs this.
    fn hear(&mut self, own: &Digest, party: PartyIndex, digest: Digest) -> bool {
        if digest == *own {
            self.latest.remove(&party);
            return false;
        }
        if self.latest.insert(party, digest) == Some(digest) {
            return false;
        }
        let times = self.said.entry(party).or_insert(0);
        *times = times.saturating_add(1);
        *times <= SAID_MAX
    }
}

impl Announcements {
    /// Begins to tell `holders` of the key, and to listen.
    ///
    /// # Errors
    /// If the session has ended.
    pub(crate) async fn begin(
        session: &Session,
        key: &KeyPublic,
        own: Digest,
        holders: Members,
    ) -> Result<Self, SessionError> {
        let channel = session.channel(CHANNEL).await?;
        let key = key.digest()[..KEY_BYTES].to_vec();
        let (told, heard) = mpsc::channel(1);
        let mut task = JoinSet::new();
        for holder in holders.iter() {
            let (channel, said) = (channel.clone(), [&key[..], &own].concat());
            task.spawn(async move {
                tokio::time::sleep(TELL_AFTER).await;
                // It is advice: whoever does not get it waits, as without it.
                if let Err(error) = channel.send(holder, said).await {
                    tracing::debug!(party = holder.as_usize(), %error, "cannot announce");
                }
            });
        }
        task.spawn(async move {
            while let Ok(message) = channel.next().await {
                let digest = message.payload.strip_prefix(&key[..]);
                let digest = digest.and_then(|digest| Digest::try_from(digest).ok());
                if let Some(digest) = digest
                    && told.send((message.from, digest)).await.is_err()
                {
                    return;
                }
                if channel.done(message.receipt).await.is_err() {
                    return;
                }
            }
        });
        Ok(Announcements {
            own,
            heard,
            others: Others::default(),
            _task: task,
        })
    }

    /// The next party that means another message, to be mentioned. It may be from an earlier attempt.
    pub(crate) async fn next(&mut self) -> (PartyIndex, Digest) {
        while let Some((party, digest)) = self.heard.recv().await {
            if self.others.hear(&self.own, party, digest) {
                return (party, digest);
            }
        }
        std::future::pending().await
    }

    /// Adds to why too few have signed who means another message.
    pub(crate) fn explain(&self, mut failure: Failure) -> Failure {
        if failure.exit == Exit::Unreachable {
            failure.message.push_str(&self.others());
        }
        failure
    }

    /// Who means which other message, as far as this party knows.
    pub(crate) fn others(&self) -> String {
        let others = self.others.latest.iter();
        let others = others.map(|(party, digest)| format!("; {}", describe(*party, digest)));
        others.collect()
    }
}

/// What a party means.
pub(crate) fn describe(party: PartyIndex, digest: &Digest) -> String {
    format!(
        "party {party} signs, or has tried to, a message with SHA-256 {}",
        hex::encode(digest)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_party_that_changes_its_mind_is_mentioned_so_often_and_no_more() {
        let own = [0; 32];
        let [one, other] = [0, 1].map(|party| PartyIndex::new(party).unwrap());
        let mut others = Others::default();
        let mentioned = (1..=100).filter(|n| others.hear(&own, one, [*n; 32]));
        assert_eq!(mentioned.collect::<Vec<_>>(), [1, 2, 3]);
        // What it means now is known all the same, and another one is mentioned as before.
        assert_eq!(others.latest[&one], [100; 32]);
        assert!(others.hear(&own, other, [1; 32]));
        assert!(!others.hear(&own, other, [1; 32]), "the same again");
        assert!(!others.hear(&own, one, own));
        assert_eq!(others.latest.keys().collect::<Vec<_>>(), [&other]);
    }
}
