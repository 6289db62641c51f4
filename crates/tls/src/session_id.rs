//! The session identifier of SMP: the client's TLS Finished message.
//!
//! Every SMP command authorisation covers the `verify_data` of the *client's* Finished (RFC 8446
//! §4.4.4; RFC 5929 calls the first Finished "tls-unique"). rustls 0.23 has no accessor for it, so
//! we read it where it is computed.
//!
//! # How
//!
//! RFC 8446 §4.4.4 defines
//!
//! ```text
//! finished_key = HKDF-Expand-Label(BaseKey, "finished", "", Hash.length)
//! verify_data  = HMAC(finished_key, Transcript-Hash(...))
//! BaseKey      = client_handshake_traffic_secret for the client's Finished
//! ```
//!
//! and rustls computes both Finished messages, in both roles, by
//! [`Hkdf::hmac_sign`] of the negotiated suite (`rustls/src/tls13/key_schedule.rs`,
//! `sign_verify_data`; the peer's one is computed to compare it). Two public extension points show
//! us all we need:
//!
//! * [`rustls::KeyLog`] is told the `CLIENT_HANDSHAKE_TRAFFIC_SECRET`, from which we derive the
//!   client's `finished_key` ourselves;
//! * our suite is the provider's ChaCha20-Poly1305 suite with an `hkdf_provider` that forwards
//!   everything and sees each `hmac_sign(key, transcript) -> tag`.
//!
//! The tag made with *that* key is the client's `verify_data`, whatever the order of calls; no
//! other value of the handshake is made with it. So an update of rustls that moves calls around
//! cannot give us a wrong identifier. It can only give us none.
//!
//! # Which connection
//!
//! Both hooks are shared by all connections of a process (a suite must be `'static`). What ties a
//! call to a connection is the thread: rustls is synchronous, so everything that a connection
//! computes happens inside the call that feeds it. [`Watch::during`] puts this connection's record
//! into a thread-local for exactly the duration of that call and takes it back out, also on panic.
//! Outside of `during`, both hooks forward and record nothing. Async code is no exception: one
//! `poll` is one synchronous call ([`crate::handshake`] wraps each `poll`). A `during` inside a
//! `during` (TLS in TLS) sets the outer record aside, so the two cannot mix.
//!
//! Cost: two extra HKDF expansions a handshake (about 2 µs); nothing per record. Rejected: a suite
//! per connection (must be leaked), a configuration per connection (the suite inside would still
//! have to be `'static`), a patched rustls.
//!
//! # When in doubt, no identifier
//!
//! [`Watch::session_id`] fails unless the handshake is complete, was full (not resumed), used TLS
//! 1.3 and our suite, announced exactly one handshake secret, signed exactly two Finished messages,
//! and the second was the client's, 32 bytes long. `tests/openssl.rs` compares the result with
//! OpenSSL's `SSL_get_finished` in both roles, with and without HelloRetryRequest.

use core::cell::RefCell;
use core::fmt;

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock};
use rustls::crypto::{ActiveKeyExchange, CipherSuiteCommon};
use rustls::{
    CipherSuite, CommonState, HandshakeKind, KeyLog, ProtocolVersion, SupportedCipherSuite,
    Tls13CipherSuite,
};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Bytes of a session identifier: the output of the suite's hash, SHA-256.
pub const SESSION_ID_BYTES: usize = 32;

/// Finished messages in a handshake: the server's, then the client's.
const FINISHED_MESSAGES: u32 = 2;

/// NSS key log label of the secret under the client's Finished; rustls documents it as stable.
const CLIENT_SECRET_LABEL: &str = "CLIENT_HANDSHAKE_TRAFFIC_SECRET";

/// `HkdfLabel` (RFC 8446 §7.1) for `finished_key`: length 32, "tls13 finished", empty context.
const FINISHED_LABEL: &[u8] = b"\x00\x20\x0etls13 finished\x00";

/// The client's Finished `verify_data`: names one TLS connection, the same on both ends.
///
/// It never leaves the two ends in clear. It is no key, but knowing it lets one tell which
/// connection a captured authorisation belongs to, so `Debug` does not print it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId([u8; SESSION_ID_BYTES]);

impl SessionId {
    /// The raw bytes, as they enter authorisations and key derivation.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SESSION_ID_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// Why a finished handshake gave no identifier. The connection must be closed.
///
/// Every case but [`SessionIdError::Unfinished`] means that rustls does not work as this module
/// expects; no peer can cause them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionIdError {
    /// Asked before the handshake was complete.
    #[error("the TLS handshake is not complete")]
    Unfinished,
    /// Not a full TLS 1.3 handshake with our suite.
    #[error("the TLS connection is resumed, or of another version or cipher suite")]
    Unsuitable,
    /// The hook saw other calls than the two Finished messages, or the handshake was not watched.
    #[error("the TLS library did not compute its Finished messages as expected")]
    Unobserved,
}

/// What the hooks saw of one connection's handshake.
#[derive(Default)]
struct Record {
    /// The client's finished key, once its base secret was announced.
    client_key: Option<OkmBlock>,
    /// Secrets announced; more than one is a surprise.
    secrets: u32,
    /// `hmac_sign` calls.
    signed: u32,
    /// Output made with `client_key`, and the number of the call that made it.
    finished: Option<(u32, [u8; SESSION_ID_BYTES])>,
    /// A second or malformed output with `client_key`.
    surprise: bool,
}

impl Record {
    fn client_secret(&mut self, secret: &[u8]) {
        self.secrets = self.secrets.saturating_add(1);
        if secret.len() != SESSION_ID_BYTES {
            self.surprise = true;
            return;
        }
        let expander = hash().expander_for_okm(&OkmBlock::new(secret));
        self.client_key = Some(expander.expand_block(&[FINISHED_LABEL]));
    }

    fn signed(&mut self, key: &OkmBlock, tag: &Tag) {
        self.signed = self.signed.saturating_add(1);
        let Some(client_key) = &self.client_key else {
            self.surprise = true;
            return;
        };
        if !bool::from(client_key.as_ref().ct_eq(key.as_ref())) {
            return;
        }
        match (
            <[u8; SESSION_ID_BYTES]>::try_from(tag.as_ref()),
            self.finished,
        ) {
            (Ok(tag), None) => self.finished = Some((self.signed, tag)),
            (Ok(_) | Err(_), _) => self.surprise = true,
        }
    }

    fn session_id(&self) -> Option<SessionId> {
        if self.surprise || self.secrets != 1 || self.signed != FINISHED_MESSAGES {
            return None;
        }
        match self.finished {
            Some((FINISHED_MESSAGES, tag)) => Some(SessionId(tag)),
            Some(_) | None => None,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // The key block wipes itself.
        if let Some((_, tag)) = &mut self.finished {
            tag.zeroize();
        }
    }
}

thread_local! {
    /// The record of the connection that this thread is feeding right now.
    static WATCHED: RefCell<Option<Record>> = const { RefCell::new(None) };
}

fn with_watched(f: impl FnOnce(&mut Record)) {
    WATCHED.with(|slot| {
        // Nothing that `f` does can come back here, so the borrow never fails; were it to, the
        // handshake would lack a call and give no identifier.
        if let Ok(mut slot) = slot.try_borrow_mut()
            && let Some(record) = slot.as_mut()
        {
            f(record);
        }
    });
}

/// Observes one connection's handshake. Make one per connection and wrap *every* call that may
/// process handshake messages.
#[derive(Default)]
pub struct Watch {
    record: Option<Record>,
}

impl Watch {
    /// A watch for a connection that has not exchanged anything yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            record: Some(Record::default()),
        }
    }

    /// Runs `f`, which may feed this watch's connection and no other.
    pub fn during<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let _slot = Slot::enter(self);
        f()
    }

    /// The session identifier of `connection`, which this watch observed from its start.
    ///
    /// # Errors
    /// [`SessionIdError`]; never a wrong identifier.
    pub fn session_id(self, connection: &CommonState) -> Result<SessionId, SessionIdError> {
        if connection.is_handshaking() {
            return Err(SessionIdError::Unfinished);
        }
        let suite = connection.negotiated_cipher_suite();
        let full = matches!(
            connection.handshake_kind(),
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
        );
        if !full
            || connection.protocol_version() != Some(ProtocolVersion::TLSv1_3)
            || suite.map(|s| s.suite()) != Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256)
        {
            return Err(SessionIdError::Unsuitable);
        }
        self.record
            .as_ref()
            .and_then(Record::session_id)
            .ok_or(SessionIdError::Unobserved)
    }
}

/// The time in which a watch's record sits in the thread-local.
struct Slot<'a> {
    watch: &'a mut Watch,
    outer: Option<Record>,
}

impl<'a> Slot<'a> {
    fn enter(watch: &'a mut Watch) -> Self {
        let outer = WATCHED.with(|slot| slot.replace(watch.record.take()));
        Self { watch, outer }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.watch.record = WATCHED.with(|slot| slot.replace(self.outer.take()));
    }
}

/// The provider's own suite, which ours copies. Found out while compiling.
static ORIGINAL: &Tls13CipherSuite = match &TLS13_CHACHA20_POLY1305_SHA256 {
    SupportedCipherSuite::Tls13(suite) => suite,
    #[allow(unreachable_patterns, clippy::panic)] // Compiling would fail.
    _ => panic!("its name says TLS 1.3"),
};

fn hash() -> &'static dyn Hkdf {
    ORIGINAL.hkdf_provider
}

static SUITE: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: ORIGINAL.common.suite,
        hash_provider: ORIGINAL.common.hash_provider,
        confidentiality_limit: ORIGINAL.common.confidentiality_limit,
    },
    hkdf_provider: &Watching,
    aead_alg: ORIGINAL.aead_alg,
    quic: None,
};

/// `TLS_CHACHA20_POLY1305_SHA256` whose Finished messages can be watched.
pub(crate) fn suite() -> SupportedCipherSuite {
    SupportedCipherSuite::Tls13(&SUITE)
}

/// The suite's HKDF, forwarding everything.
struct Watching;

impl Hkdf for Watching {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        hash().extract_from_zero_ikm(salt)
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        hash().extract_from_secret(salt, secret)
    }

    fn extract_from_kx_shared_secret(
        &self,
        salt: Option<&[u8]>,
        kx: Box<dyn ActiveKeyExchange>,
        peer_pub_key: &[u8],
    ) -> Result<Box<dyn HkdfExpander>, rustls::Error> {
        hash().extract_from_kx_shared_secret(salt, kx, peer_pub_key)
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        hash().expander_for_okm(okm)
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        let tag = hash().hmac_sign(key, message);
        with_watched(|record| record.signed(key, &tag));
        tag
    }
}

/// Takes the one secret that names the client's Finished; logs nothing anywhere.
#[derive(Debug)]
pub(crate) struct ClientSecret;

impl KeyLog for ClientSecret {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == CLIENT_SECRET_LABEL {
            with_watched(|record| record.client_secret(secret));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == CLIENT_SECRET_LABEL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn client_key() -> OkmBlock {
        hash()
            .expander_for_okm(&OkmBlock::new(&SECRET))
            .expand_block(&[FINISHED_LABEL])
    }

    fn server_key() -> OkmBlock {
        OkmBlock::new(&[1; 32])
    }

    /// Plays hook calls into a watch.
    fn played(calls: impl FnOnce()) -> Option<SessionId> {
        let mut watch = Watch::new();
        watch.during(calls);
        watch.record.as_ref().and_then(Record::session_id)
    }

    fn announce() {
        ClientSecret.log(CLIENT_SECRET_LABEL, &[0; 32], &SECRET);
    }

    #[test]
    fn finished_key_follows_rfc_8448() {
        // RFC 8448 §3, client Finished of the simple 1-RTT handshake.
        let secret = [
            0xb3, 0xed, 0xdb, 0x12, 0x6e, 0x06, 0x7f, 0x35, 0xa7, 0x80, 0xb3, 0xab, 0xf4, 0x5e,
            0x2d, 0x8f, 0x3b, 0x1a, 0x95, 0x07, 0x38, 0xf5, 0x2e, 0x96, 0x00, 0x74, 0x6a, 0x0e,
            0x27, 0xa5, 0x5a, 0x21,
        ];
        let finished_key = [
            0xb8, 0x0a, 0xd0, 0x10, 0x15, 0xfb, 0x2f, 0x0b, 0xd6, 0x5f, 0xf7, 0xd4, 0xda, 0x5d,
            0x6b, 0xf8, 0x3f, 0x84, 0x82, 0x1d, 0x1f, 0x87, 0xfd, 0xc7, 0xd3, 0xc7, 0x5b, 0x5a,
            0x7b, 0x42, 0xd9, 0xc4,
        ];
        let mut record = Record::default();
        record.client_secret(&secret);
        assert_eq!(record.client_key.as_ref().unwrap().as_ref(), finished_key);
    }

    #[test]
    fn takes_the_tag_made_with_the_clients_key() {
        let id = played(|| {
            announce();
            Watching.hmac_sign(&server_key(), &[2; 32]);
            Watching.hmac_sign(&client_key(), &[3; 32]);
        });
        let expected = hash().hmac_sign(&client_key(), &[3; 32]);
        assert_eq!(id.unwrap().as_bytes(), expected.as_ref());
    }

    #[test]
    fn anything_unexpected_gives_none() {
        let server = || drop(Watching.hmac_sign(&server_key(), &[2; 32]));
        let client = || drop(Watching.hmac_sign(&client_key(), &[3; 32]));
        let cases: [(&str, &dyn Fn()); 8] = [
            ("nothing", &|| {}),
            ("no secret", &|| (server(), client()).0),
            ("late secret", &|| (server(), announce(), client()).0),
            ("client first", &|| (announce(), client(), server()).0),
            ("client only", &|| (announce(), client()).0),
            ("twice", &|| (announce(), client(), client()).0),
            ("three", &|| (announce(), server(), client(), server()).0),
            ("two secrets", &|| {
                (announce(), announce(), server(), client()).0
            }),
        ];
        for (name, calls) in cases {
            assert!(played(calls).is_none(), "{name}");
        }
    }

    #[test]
    fn watches_do_not_mix() {
        let mut outer = Watch::new();
        let mut inner = Watch::new();
        outer.during(|| {
            announce();
            Watching.hmac_sign(&server_key(), &[2; 32]);
            inner.during(|| drop(Watching.hmac_sign(&client_key(), &[9; 32])));
            Watching.hmac_sign(&client_key(), &[3; 32]);
        });
        Watching.hmac_sign(&client_key(), &[4; 32]); // Outside: nobody's.
        assert!(inner.record.unwrap().session_id().is_none());
        assert!(outer.record.unwrap().session_id().is_some());
        assert!(WATCHED.with(|slot| slot.borrow().is_none()));
    }

    #[test]
    fn a_panic_takes_the_record_out_again() {
        let mut watch = Watch::new();
        let caught = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            watch.during(|| panic!("in the middle"));
        }));
        assert!(caught.is_err());
        assert!(WATCHED.with(|slot| slot.borrow().is_none()));
    }

    #[test]
    fn debug_is_silent() {
        assert_eq!(format!("{:?}", SessionId([5; 32])), "SessionId(..)");
    }
}
