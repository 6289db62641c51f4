//! Signers who wait tell the others for which message: parties that mean different ones, by a slip,
//! would wait for each other in vain.

use std::collections::BTreeMap;
use std::time::Duration;

use junto_bls::KeyPublic;
use junto_session::{Members, PartyIndex, Session, SessionError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long a signer waits before it tells: whoever meets the others at once has nothing to tell.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// SHA-256 of a message.
pub(crate) type Digest = [u8; 32];

/// Tells the others which message this party signs, and hears which ones they do.
pub(crate) struct Announcements {
    heard: mpsc::Receiver<(PartyIndex, Digest)>,
    others: BTreeMap<PartyIndex, Digest>,
    /// Ends with it.
    _task: JoinSet<()>,
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
        let label = format!("bls signing {}", hex::encode(&key.digest()[..16]));
        let channel = session.channel(&label).await?;
        let (told, heard) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let tell = async {
                tokio::time::sleep(TELL_AFTER).await;
                for holder in holders.iter() {
                    // It is advice: whoever does not get it waits, as without it.
                    if let Err(error) = channel.send(holder, own.to_vec()).await {
                        tracing::debug!(party = holder.as_usize(), %error, "cannot announce");
                    }
                }
            };
            let hear = async {
                while let Ok(message) = channel.next().await {
                    let digest = Digest::try_from(&message.payload[..]);
                    if let Ok(digest) = digest
                        && told.send((message.from, digest)).await.is_err()
                    {
                        return;
                    }
                    if channel.done(message.receipt).await.is_err() {
                        return;
                    }
                }
            };
            tokio::join!(tell, hear);
        });
        Ok(Announcements {
            heard,
            others: BTreeMap::new(),
            _task: task,
        })
    }

    /// The next one that means another message than `own`. It may be from an earlier attempt.
    pub(crate) async fn next(&mut self, own: &Digest) -> (PartyIndex, Digest) {
        while let Some((party, digest)) = self.heard.recv().await {
            let before = self.others.insert(party, digest);
            if digest == *own {
                self.others.remove(&party);
            } else if before != Some(digest) {
                return (party, digest);
            }
        }
        std::future::pending().await
    }

    /// Who means which other message, as far as this party knows.
    pub(crate) fn others(&self) -> String {
        let others = self.others.iter();
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
