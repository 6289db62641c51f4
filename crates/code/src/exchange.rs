//! The exchange of a code for a link: SPAKE2 under the words, confirmed by both sides before anything is given
//! (`docs/spec/code.md` §4).
//!
//! The joiner confirms first, so a host tells nothing about the words to who only asks; and the first wrong
//! confirmation is the last one that it looks at. A joiner that was lured to somebody else gives that one a single guess.

use core::fmt;
use core::num::NonZeroU8;
use core::time::Duration;
use std::collections::BTreeMap;

use junto_crypto::CryptoRng;
use junto_crypto::aead::StoreKey;
use junto_crypto::kdf::hkdf_sha256;
use junto_smp::address::Fingerprint;
use junto_smp::id::SenderId;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::code::Code;
use crate::frame::{Frame, LINK_BYTES_MAX, Refusal, SEALED_BYTES, SHARE_BYTES, TAG_BYTES};

/// Exchanges that a host has under way at a time, at 160 bytes each. Further joiners are told to come again.
pub const ATTEMPTS_MAX: usize = 16;
/// After so long without a confirmation an exchange gives its place up.
pub const ATTEMPT_LIFE: Duration = Duration::from_secs(60);
/// Messages of any kind that a host looks at for one code, at most two point multiplications and one answer each. Whoever
/// sends more is no friend who slipped.
pub const HEARD_MAX: u16 = 256;

/// The host's side of a code.
pub struct Host {
    password: Zeroizing<Vec<u8>>,
    link: Zeroizing<String>,
    /// Joiners that may still have the link; none once the code is dead.
    left: u8,
    heard: u16,
    crowded: bool,
    attempts: BTreeMap<SenderId, Attempt>,
}

struct Attempt {
    since: Duration,
    keys: Keys,
}

/// What a frame leads to.
#[derive(Debug, Default)]
pub struct Heard {
    /// To be sent, in this order.
    pub replies: Vec<Reply>,
    /// What the user has to know.
    pub verdict: Option<Verdict>,
}

/// A frame for a joiner.
#[derive(Debug)]
pub struct Reply {
    /// The joiner's queue, on the relay of the mailbox.
    pub to: SenderId,
    /// The frame.
    pub frame: Vec<u8>,
}

/// What became of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A joiner that knows the words gets the link.
    Admitted {
        /// How many more may have it; the code is used up at 0.
        left: u8,
    },
    /// Somebody confirmed another key: a slip, a guess, or a relay that changed what passed. The code is dead.
    Wrong,
    /// [`HEARD_MAX`] messages came. The code is dead.
    Flooded,
    /// [`ATTEMPTS_MAX`] have begun and not confirmed, so that others are told to come again. Told once.
    Crowded,
}

/// The keys that both sides have if their words are the same.
struct Keys {
    tag: Zeroizing<[u8; TAG_BYTES]>,
    seal: StoreKey,
}

impl Keys {
    /// Bound to both messages and so to the joiner's queue.
    fn new(key: &[u8], hello: &[u8], answer: &[u8]) -> Self {
        let info = [hello, answer].concat();
        let okm = hkdf_sha256::<64>(b"junto code 1 keys", key, &info);
        let mut tag = Zeroizing::new([0; TAG_BYTES]);
        let mut seal = Zeroizing::new([0; 32]);
        tag.copy_from_slice(&okm[..TAG_BYTES]);
        seal.copy_from_slice(&okm[TAG_BYTES..]);
        let seal = StoreKey::from_bytes(&seal);
        Self { tag, seal }
    }
}

const SEAL_CONTEXT: &[u8] = b"junto code 1 link";

fn identities() -> (Identity, Identity) {
    (
        Identity::new(b"junto code 1 host"),
        Identity::new(b"junto code 1 joiner"),
    )
}

/// Randomness of our generation of the traits, for `spake2`'s.
struct Draw<'a, R>(&'a mut R);

impl<R: CryptoRng> rand_core_06::RngCore for Draw<'_, R> {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core_06::Error> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

impl<R: CryptoRng> rand_core_06::CryptoRng for Draw<'_, R> {}

impl Host {
    /// A code on the relay of this fingerprint that `uses` joiners may exchange for the link; `None` for a link longer
    /// than [`LINK_BYTES_MAX`].
    #[must_use]
    pub fn new(code: &Code, relay: &Fingerprint, link: &str, uses: NonZeroU8) -> Option<Self> {
        (link.len() <= LINK_BYTES_MAX).then(|| Self {
            password: code.password(relay),
            link: Zeroizing::new(link.to_owned()),
            left: uses.get(),
            heard: 0,
            crowded: false,
            attempts: BTreeMap::new(),
        })
    }

    /// Whether nobody gets the link any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Takes what came to the mailbox; `now`: since any moment in the past, the same at each call. What is no frame of a joiner
    /// is nothing.
    pub fn hear(&mut self, now: Duration, bytes: &[u8], rng: &mut impl CryptoRng) -> Heard {
        if self.heard >= HEARD_MAX && !self.is_over() {
            return self.die(Verdict::Flooded, None);
        }
        self.heard = self.heard.saturating_add(1);
        match Frame::decode(bytes) {
            Ok(Frame::Hello { reply, share }) => self.hello(now, (bytes, reply, share), rng),
            Ok(Frame::Confirm { reply, tag }) => self.confirm(now, (reply, tag), rng),
            Ok(Frame::Answer { .. } | Frame::Link { .. } | Frame::Refused(_)) | Err(_) => {
                Heard::default()
            }
        }
    }

    fn hello(
        &mut self,
        now: Duration,
        (hello, reply, share): (&[u8], SenderId, &[u8; SHARE_BYTES]),
        rng: &mut impl CryptoRng,
    ) -> Heard {
        if self.is_over() {
            return refused(reply, Refusal::Spent);
        }
        if self.attempts.contains_key(&reply) {
            return Heard::default(); // said twice
        }
        self.attempts
            .retain(|_, attempt| now.saturating_sub(attempt.since) < ATTEMPT_LIFE);
        if self.attempts.len() >= ATTEMPTS_MAX {
            let first = !core::mem::replace(&mut self.crowded, true);
            return Heard {
                verdict: first.then_some(Verdict::Crowded),
                ..refused(reply, Refusal::Busy)
            };
        }
        let (host, joiner) = identities();
        let password = Password::new(&*self.password);
        let (state, own) =
            Spake2::<Ed25519Group>::start_a_with_rng(&password, &host, &joiner, Draw(rng));
        let (Ok(own), Ok(key)) = (own.as_slice().try_into(), state.finish(share)) else {
            return Heard::default(); // no point
        };
        let key = Zeroizing::new(key);
        let frame = Frame::Answer { share: own }.encode();
        let keys = Keys::new(&key, hello, &frame);
        self.attempts.insert(reply, Attempt { since: now, keys });
        Heard {
            replies: vec![Reply { to: reply, frame }],
            verdict: None,
        }
    }

    fn confirm(
        &mut self,
        now: Duration,
        (reply, tag): (SenderId, &[u8; TAG_BYTES]),
        rng: &mut impl CryptoRng,
    ) -> Heard {
        let attempt = self.attempts.remove(&reply);
        let in_time = |attempt: &Attempt| now.saturating_sub(attempt.since) < ATTEMPT_LIFE;
        let Some(attempt) = attempt.filter(in_time) else {
            return Heard::default(); // said twice, or too late
        };
        if !bool::from(attempt.keys.tag.as_slice().ct_eq(tag)) {
            let frame = Frame::Refused(Refusal::Wrong).encode();
            return self.die(Verdict::Wrong, Some(Reply { to: reply, frame }));
        }
        let Some(sealed) = seal(&attempt.keys.seal, &self.link, rng) else {
            return Heard::default(); // never: its length was checked
        };
        self.left -= 1;
        let frame = Frame::Link { sealed: &sealed }.encode();
        let mut replies = vec![Reply { to: reply, frame }];
        if self.left == 0 {
            replies.extend(self.turn_away());
        }
        Heard {
            replies,
            verdict: Some(Verdict::Admitted { left: self.left }),
        }
    }

    /// The code's life is over: who has begun an exchange is told.
    pub fn expire(&mut self) -> Vec<Reply> {
        self.left = 0;
        self.turn_away()
    }

    /// The end of the code for all; the first reply is for who brought it about.
    fn die(&mut self, verdict: Verdict, first: Option<Reply>) -> Heard {
        self.left = 0;
        let mut replies = Vec::from_iter(first);
        replies.extend(self.turn_away());
        Heard {
            replies,
            verdict: Some(verdict),
        }
    }

    fn turn_away(&mut self) -> Vec<Reply> {
        let attempts = core::mem::take(&mut self.attempts);
        let frame = Frame::Refused(Refusal::Spent).encode();
        let reply = |to| Reply {
            to,
            frame: frame.clone(),
        };
        attempts.into_keys().map(reply).collect()
    }
}

fn refused(to: SenderId, refusal: Refusal) -> Heard {
    let frame = Frame::Refused(refusal).encode();
    Heard {
        replies: vec![Reply { to, frame }],
        verdict: None,
    }
}

/// The link, padded so that its length says nothing.
fn seal(key: &StoreKey, link: &str, rng: &mut impl CryptoRng) -> Option<Box<[u8; SEALED_BYTES]>> {
    let length = u16::try_from(link.len()).ok()?;
    let mut padded = Zeroizing::new(vec![0; 2 + LINK_BYTES_MAX]);
    padded[..2].copy_from_slice(&length.to_be_bytes());
    padded
        .get_mut(2..2 + link.len())?
        .copy_from_slice(link.as_bytes());
    let sealed = key.seal(SEAL_CONTEXT, &padded, rng).ok()?;
    sealed.into_boxed_slice().try_into().ok()
}

fn open(key: &StoreKey, sealed: &[u8; SEALED_BYTES]) -> Option<Zeroizing<String>> {
    let padded = key.open(SEAL_CONTEXT, sealed).ok()?;
    let (length, rest) = padded.split_first_chunk::<2>()?;
    let link = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    core::str::from_utf8(link)
        .ok()
        .map(|link| Zeroizing::new(link.to_owned()))
}

/// The joiner's side of a code, before the host's answer.
pub struct Joiner {
    state: Spake2<Ed25519Group>,
    hello: Vec<u8>,
    reply: SenderId,
}

/// The joiner's side of a code, once it has confirmed.
pub struct Asking(Keys);

/// Why a joiner gets no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// The host says so, or the relay does in its name.
    Refused(Refusal),
    /// What came is nothing that a host with the same words sends.
    Altered(Altered),
}

/// See [`Turned::Altered`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Altered {
    /// In place of an answer.
    Answer,
    /// In place of the link.
    Link,
}

impl Joiner {
    /// Begins an exchange; answers are to go to `reply`, a queue on the relay of this fingerprint. Gives the frame for
    /// the mailbox.
    #[must_use]
    pub fn start(
        code: &Code,
        relay: &Fingerprint,
        reply: SenderId,
        rng: &mut impl CryptoRng,
    ) -> Option<(Self, Vec<u8>)> {
        let (host, joiner) = identities();
        let password = Password::new(&*code.password(relay));
        let (state, own) =
            Spake2::<Ed25519Group>::start_b_with_rng(&password, &host, &joiner, Draw(rng));
        let share = own.as_slice().try_into().ok()?;
        let hello = Frame::Hello { reply, share }.encode();
        let frame = hello.clone();
        Some((
            Self {
                state,
                hello,
                reply,
            },
            frame,
        ))
    }

    /// Takes the host's answer. Gives the frame for the mailbox: with it goes our only guess.
    ///
    /// # Errors
    /// [`Turned`].
    pub fn answer(self, bytes: &[u8]) -> Result<(Asking, Vec<u8>), Turned> {
        let share = match Frame::decode(bytes) {
            Ok(Frame::Answer { share }) => share,
            Ok(Frame::Refused(refusal)) => return Err(Turned::Refused(refusal)),
            Ok(Frame::Hello { .. } | Frame::Confirm { .. } | Frame::Link { .. }) | Err(_) => {
                return Err(Turned::Altered(Altered::Answer));
            }
        };
        let key = self.state.finish(share);
        let key = Zeroizing::new(key.map_err(|_| Turned::Altered(Altered::Answer))?);
        let keys = Keys::new(&key, &self.hello, bytes);
        let frame = Frame::Confirm {
            reply: self.reply,
            tag: &keys.tag,
        }
        .encode();
        Ok((Asking(keys), frame))
    }
}

impl Asking {
    /// Takes the link.
    ///
    /// # Errors
    /// [`Turned`].
    pub fn link(&self, bytes: &[u8]) -> Result<Zeroizing<String>, Turned> {
        let sealed = match Frame::decode(bytes) {
            Ok(Frame::Link { sealed }) => sealed,
            // A host that has taken our place says no more that it has none; another one would have us try again.
            Ok(Frame::Refused(refusal)) if refusal != Refusal::Busy => {
                return Err(Turned::Refused(refusal));
            }
            Ok(
                Frame::Refused(_)
                | Frame::Hello { .. }
                | Frame::Confirm { .. }
                | Frame::Answer { .. },
            )
            | Err(_) => return Err(Turned::Altered(Altered::Link)),
        };
        open(&self.0.seal, sealed).ok_or(Turned::Altered(Altered::Link))
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("left", &self.left)
            .field("attempts", &self.attempts.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joiner").finish_non_exhaustive()
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").finish_non_exhaustive()
    }
}
