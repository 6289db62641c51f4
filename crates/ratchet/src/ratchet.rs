//! The double ratchet of one conversation.

use core::fmt;

use junto_crypto::{CryptoRng, hash, kem, pad, x448};
use zeroize::Zeroizing;

use crate::{
    HEADER_BYTES, HEADER_PQ_BYTES, Options, RatchetError, SKIPPED_MAX, SkippedDelta, SkippedId,
    Version,
    agreement::Agreed,
    chain::{ChainKey, HeaderKey, MessageKey, RootKey},
    header::{Envelope, Header, write_sized},
    skipped::{Gap, Skipped},
    step::{NextKem, OwnKem, Pace, StepInput},
};

/// Bytes of the associated data: two raw X448 keys.
pub(crate) const AD_BYTES: usize = 2 * x448::KEY_BYTES;

/// Our current Diffie-Hellman key; the public half is in every header, so it is computed once.
pub(crate) struct OwnKey {
    pub(crate) secret: x448::SecretKey,
    pub(crate) public: x448::PublicKey,
}

impl OwnKey {
    pub(crate) fn new(secret: x448::SecretKey) -> Self {
        Self {
            public: secret.public_key(),
            secret,
        }
    }
}

/// A chain with the key of its headers.
pub(crate) struct Chain {
    pub(crate) key: ChainKey,
    pub(crate) header: HeaderKey,
    /// Messages sent or received in it, skipped ones included.
    pub(crate) count: u32,
}

/// One side of a conversation.
pub struct Ratchet {
    pub(crate) ad: [u8; AD_BYTES],
    pub(crate) version: Version,
    pub(crate) max_version: Version,
    pub(crate) own: OwnKey,
    pub(crate) root: RootKey,
    pub(crate) sending: Option<Chain>,
    pub(crate) receiving: Option<Chain>,
    pub(crate) next_header_send: HeaderKey,
    pub(crate) next_header_receive: HeaderKey,
    /// Messages in the sending chain before this one.
    pub(crate) previous: u32,
    /// Counts receiving chains; names the keys of late messages.
    pub(crate) epoch: u32,
    pub(crate) kem: Option<OwnKem>,
    /// When our user wants key encapsulation.
    pub(crate) pace: Pace,
    /// Whether headers are large; never false again, so that the size tells nothing new.
    pub(crate) large_header: bool,
    pub(crate) pq_sending: bool,
    pub(crate) pq_receiving: bool,
    /// Whether an encapsulated secret is in the root, and so in every later key; never false again.
    pub(crate) hybrid: bool,
    pub(crate) skipped: Skipped,
    /// A key for the next step, made ahead of time; not stored.
    pub(crate) spare: Option<kem::SecretKey>,
}

/// A decrypted message.
#[must_use]
pub struct Decrypted {
    /// What the peer encrypted, without padding.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// What to change among the stored keys of late messages, together with the state.
    pub delta: SkippedDelta,
}

impl Ratchet {
    /// The joiner's side: it sends first.
    pub(crate) fn sender(
        agreed: Agreed,
        own: OwnKey,
        peer: &x448::PublicKey,
        kem: Option<OwnKem>,
        version: Version,
        options: Options,
    ) -> Result<Self, RatchetError> {
        let shared = own.secret.diffie_hellman(peer)?;
        let secret = kem.as_ref().and_then(OwnKem::secret);
        let pq_sending = secret.is_some();
        let (root, key, next_header_send) = agreed.root.step(&shared, secret);
        Ok(Self {
            sending: Some(Chain {
                key,
                header: agreed.header,
                count: 0,
            }),
            large_header: kem.is_some(),
            pq_sending,
            hybrid: pq_sending,
            ..Self::start(
                agreed.ad,
                root,
                own,
                [next_header_send, agreed.next_header],
                kem,
                version,
                options,
            )
        })
    }

    /// The maker's side: it receives first.
    pub(crate) fn receiver(
        agreed: Agreed,
        own: OwnKey,
        kem: Option<OwnKem>,
        version: Version,
        options: Options,
    ) -> Self {
        Self::start(
            agreed.ad,
            agreed.root,
            own,
            [agreed.next_header, agreed.header],
            kem,
            version,
            options,
        )
    }

    fn start(
        ad: [u8; AD_BYTES],
        root: RootKey,
        own: OwnKey,
        [next_header_send, next_header_receive]: [HeaderKey; 2],
        kem: Option<OwnKem>,
        version: Version,
        options: Options,
    ) -> Self {
        Self {
            ad,
            version,
            max_version: options.max_version,
            own,
            root,
            sending: None,
            receiving: None,
            next_header_send,
            next_header_receive,
            previous: 0,
            epoch: 0,
            kem,
            pace: if options.pq {
                Pace::Always
            } else {
                Pace::Never
            },
            large_header: options.pq && version >= Version::V3,
            pq_sending: false,
            pq_receiving: false,
            hybrid: false,
            skipped: Skipped::default(),
            spare: None,
        }
    }

    /// The version that our messages have now; rises with what the peer announces.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether our messages have the large header, so that bodies must be padded to less.
    #[must_use]
    pub fn has_large_header(&self) -> bool {
        self.version >= Version::V3 && (self.large_header || self.pace != Pace::Never)
    }

    /// Bytes that a message is longer than its padded body.
    #[must_use]
    pub fn overhead_bytes(&self) -> usize {
        // Two length prefixes, version, two vectors' worth of tag and IV for the header, body tag.
        match (self.version, self.has_large_header()) {
            (Version::V2, _) => 1 + (2 + 16 + 16 + 1 + HEADER_BYTES) + 16,
            (Version::V3, false) => 2 + (2 + 16 + 16 + 2 + HEADER_BYTES) + 16,
            (Version::V3, true) => 2 + (2 + 16 + 16 + 2 + HEADER_PQ_BYTES) + 16,
        }
    }

    /// Whether what we send now is protected by an encapsulated secret of its own.
    #[must_use]
    pub fn is_pq_sending(&self) -> bool {
        self.pq_sending
    }

    /// Whether what we received last was.
    #[must_use]
    pub fn is_pq_receiving(&self) -> bool {
        self.pq_receiving
    }

    /// Whether an encapsulated secret was mixed into the root at some time, so that a quantum computer of tomorrow
    /// reads nothing of what is sent today. States stored before this was noted say so after the next such step.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        self.hybrid || self.pq_sending || self.pq_receiving
    }

    /// Turns key encapsulation on or off. It takes effect over the next steps; on needs the peer's
    /// will as well.
    ///
    /// Each step with it costs both sides milliseconds. Off right after [`crate::join`] and
    /// [`crate::MakerKeys::accept`] with [`Options::pq`] is the cheap middle way: the secret
    /// encapsulated at the start stays mixed into the root and so into every later key, which
    /// protects recorded traffic against a quantum computer. Only healing after a theft of keys is
    /// classical then; turning it on for two round trips now and then heals against both.
    pub fn set_pq(&mut self, pq: bool) {
        self.pace = if pq { Pace::Always } else { Pace::Never };
        if !pq {
            self.spare = None;
        }
    }

    /// Encapsulates sparingly from now on: once for each [`Ratchet::heal`], and in answer to the
    /// peer's proposals. Headers keep their large size, so that nobody sees when.
    pub fn set_pq_sparing(&mut self) {
        self.pace = Pace::Sparing { due: false };
    }

    /// Proposes a fresh encapsulation with the next step. When the peer has answered, both attackers
    /// of today and of tomorrow who stole keys before are shut out again. Nothing happens unless
    /// [`Ratchet::set_pq_sparing`] was called.
    pub fn heal(&mut self) {
        if let Pace::Sparing { due } = &mut self.pace {
            *due = true;
        }
    }

    /// Makes the next step's encapsulation key now, which takes some milliseconds that the answer to
    /// the next message would wait for otherwise. Optional; changes nothing that is stored.
    pub fn prepare(&mut self, rng: &mut impl CryptoRng) {
        let wanted = matches!(self.pace, Pace::Always | Pace::Sparing { due: true });
        if wanted && self.version >= Version::V3 && self.spare.is_none() {
            self.spare = Some(kem::SecretKey::generate(rng));
        }
    }

    /// Gives the sending chain up: for a state that came back from a backup, as its original may have used
    /// the keys that would come next. The next chain begins with a Diffie-Hellman key drawn then, in answer to
    /// the next key of the peer, so it has no key that any other copy of this state has; until that
    /// comes, there is nothing to encrypt with. Decryption goes on.
    pub fn retire_sending(&mut self) {
        if let Some(chain) = self.sending.take() {
            self.previous = chain.count;
            self.pq_sending = false;
        }
    }

    /// A value that both sides, and nobody else's conversation, have: for binding what is agreed
    /// inside to this channel.
    #[must_use]
    pub fn binding(&self) -> [u8; 32] {
        hash::sha256_of(&[b"junto ratchet binding", &self.ad])
    }

    /// Whether there is a chain to send in: not for who receives first, before the first decryption,
    /// nor after [`Ratchet::retire_sending`].
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.sending.is_some()
    }

    /// Keys of late messages that are kept.
    #[must_use]
    pub fn skipped_count(&self) -> usize {
        self.skipped.count()
    }

    /// Encrypts `plaintext`, padded to `padded_bytes`, into one message of `padded_bytes` +
    /// [`Ratchet::overhead_bytes`]. Store the state before sending it.
    ///
    /// # Errors
    /// [`RatchetError::NotReady`] on the maker's side before the first decryption and after
    /// [`Ratchet::retire_sending`],
    /// [`RatchetError::TooLong`] if `plaintext` exceeds `padded_bytes` - 2,
    /// [`RatchetError::Exhausted`] after 2^32 - 1 messages without an answer.
    pub fn encrypt(
        &mut self,
        plaintext: &[u8],
        padded_bytes: usize,
    ) -> Result<Vec<u8>, RatchetError> {
        let large = self.has_large_header();
        let overhead = self.overhead_bytes();
        let chain = self.sending.as_mut().ok_or(RatchetError::NotReady)?;
        let number = chain.count;
        let count = number.checked_add(1).ok_or(RatchetError::Exhausted)?;
        let step = chain.key.step();
        let header = Header {
            max_version: self.max_version.number(),
            key: self.own.public,
            kem: self.kem.as_ref().map(OwnKem::params),
            previous: self.previous,
            number,
        };
        let padded_header = if large { HEADER_PQ_BYTES } else { HEADER_BYTES };
        let header = header.seal(
            self.version,
            padded_header,
            &chain.header,
            &step.header_iv,
            &self.ad,
        )?;

        let mut out = Vec::with_capacity(overhead + padded_bytes);
        write_sized(self.version, &header, &mut out)?;
        let tag_at = out.len();
        out.extend_from_slice(&[0; 16]);
        let body_at = out.len();
        pad::pad(plaintext, &mut out, padded_bytes)?;
        let ad = [&self.ad[..], &header].concat();
        let tag = step.message.seal(&ad, &mut out[body_at..])?;
        out[tag_at..body_at].copy_from_slice(&tag);

        chain.key = step.next;
        chain.count = count;
        self.large_header |= large;
        Ok(out)
    }

    /// Decrypts a message of the peer. Store the state and the delta before acting on it.
    ///
    /// # Errors
    /// [`RatchetError::Malformed`], [`RatchetError::UnknownHeader`], [`RatchetError::Forged`], [`RatchetError::Duplicate`],
    /// [`RatchetError::TooManySkipped`], [`RatchetError::WeakKey`] or
    /// [`RatchetError::KemNotOffered`]; nothing changed then.
    pub fn decrypt(
        &mut self,
        message: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Decrypted, RatchetError> {
        let envelope = Envelope::parse(message)?;
        if let Some(chain) = &self.receiving
            && let Some(header) = envelope.open_header(&chain.header, &self.ad)?
        {
            return self.decrypt_in_chain(&envelope, &header);
        }
        if let Some(header) = envelope.open_header(&self.next_header_receive, &self.ad)? {
            return self.decrypt_after_step(&envelope, &header, rng);
        }
        let mut found = None;
        for (epoch, key) in self.skipped.header_keys() {
            // The current chain's key was tried above.
            if epoch != self.epoch
                && let Some(header) = envelope.open_header(key, &self.ad)?
            {
                found = Some((epoch, header.number));
                break;
            }
        }
        let (epoch, number) = found.ok_or(RatchetError::UnknownHeader)?;
        self.decrypt_late(&envelope, SkippedId { epoch, number })
    }

    /// A message whose key was kept when later ones overtook it.
    fn decrypt_late(
        &mut self,
        envelope: &Envelope<'_>,
        id: SkippedId,
    ) -> Result<Decrypted, RatchetError> {
        let key = self.skipped.key(id).ok_or(RatchetError::Duplicate)?;
        let plaintext = self.open(key, envelope)?;
        let delta = self.skipped.remove(id);
        Ok(Decrypted { plaintext, delta })
    }

    fn decrypt_in_chain(
        &mut self,
        envelope: &Envelope<'_>,
        header: &Header,
    ) -> Result<Decrypted, RatchetError> {
        let chain = self.receiving.as_ref().ok_or(RatchetError::Forged)?;
        if header.number < chain.count {
            let (epoch, number) = (self.epoch, header.number);
            return self.decrypt_late(envelope, SkippedId { epoch, number });
        }
        let count = header
            .number
            .checked_add(1)
            .ok_or(RatchetError::Exhausted)?;
        let (gap, key) = skip(&chain.key, chain.count, header.number)?;
        let step = key.as_ref().unwrap_or(&chain.key).step();
        let plaintext = self.open(&step.message, envelope)?;

        self.version = self.risen(header);
        let mut delta = SkippedDelta::default();
        if let Some(chain) = &mut self.receiving {
            chain.key = step.next;
            chain.count = count;
            self.skipped
                .insert(self.epoch, &chain.header, gap, &mut delta);
        }
        Ok(Decrypted { plaintext, delta })
    }

    /// A message of the peer's next chain: the first that answers our newest key.
    fn decrypt_after_step(
        &mut self,
        envelope: &Envelope<'_>,
        header: &Header,
        rng: &mut impl CryptoRng,
    ) -> Result<Decrypted, RatchetError> {
        let epoch = self.epoch.checked_add(1).ok_or(RatchetError::Exhausted)?;
        let count = header
            .number
            .checked_add(1)
            .ok_or(RatchetError::Exhausted)?;
        let ended = match &self.receiving {
            Some(chain) => Some(skip(&chain.key, chain.count, header.previous)?.0),
            None => None,
        };
        let version = self.risen(header);
        let input = StepInput {
            root: &self.root,
            own: &self.own,
            kem: self.kem.as_ref(),
            version,
            pace: self.pace,
            spare: self.spare.as_ref(),
        };
        let step = input.step(header, rng)?;
        let (gap, key) = skip(&step.receive, 0, header.number)?;
        let message = key.as_ref().unwrap_or(&step.receive).step();
        let plaintext = self.open(&message.message, envelope)?;

        self.version = version;
        let mut delta = SkippedDelta::default();
        if let (Some(chain), Some(ended)) = (&self.receiving, ended) {
            self.skipped
                .insert(self.epoch, &chain.header, ended, &mut delta);
        }
        self.epoch = epoch;
        self.root = step.root;
        self.own = step.own;
        let header = core::mem::replace(&mut self.next_header_receive, step.next_header_receive);
        self.skipped.insert(epoch, &header, gap, &mut delta);
        self.receiving = Some(Chain {
            key: message.next,
            header,
            count,
        });
        if let Some(chain) = &self.sending {
            self.previous = chain.count;
        }
        self.sending = Some(Chain {
            key: step.send,
            header: core::mem::replace(&mut self.next_header_send, step.next_header_send),
            count: 0,
        });
        self.pq_sending = step.pq_sending;
        self.pq_receiving = step.pq_receiving;
        self.hybrid |= step.pq_sending || step.pq_receiving;
        match step.kem {
            NextKem::Keep => {}
            NextKem::Drop => self.kem = None,
            NextKem::Replace(kem) => {
                self.kem = Some(*kem);
                self.spare = None;
                if let Pace::Sparing { due } = &mut self.pace {
                    *due = false;
                }
            }
        }
        Ok(Decrypted { plaintext, delta })
    }

    fn open(
        &self,
        key: &MessageKey,
        envelope: &Envelope<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, RatchetError> {
        let ad = [&self.ad[..], envelope.header].concat();
        Ok(key.open(&ad, envelope.body, envelope.tag)?)
    }

    /// Our version after a header: it follows the peer's maximum up, never down.
    fn risen(&self, header: &Header) -> Version {
        Version::at_most(header.max_version.min(self.max_version.number()))
            .map_or(self.version, |version| version.max(self.version))
    }
}

/// Moves from message `from` of the chain at `key` to message `to`: the keys in between, and the
/// chain key at `to` unless that is `key` itself.
fn skip(key: &ChainKey, from: u32, to: u32) -> Result<(Gap, Option<ChainKey>), RatchetError> {
    // The peer claims to have sent less than we received: not possible for an honest one.
    let missing = to.checked_sub(from).ok_or(RatchetError::Malformed)?;
    if missing > SKIPPED_MAX {
        return Err(RatchetError::TooManySkipped);
    }
    let mut keys = Vec::new();
    let mut at = None;
    for _ in 0..missing {
        let step = at.as_ref().unwrap_or(key).step();
        keys.push(step.message);
        at = Some(step.next);
    }
    Ok((Gap { first: from, keys }, at))
}

impl fmt::Debug for Ratchet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ratchet")
            .field("version", &self.version)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}
