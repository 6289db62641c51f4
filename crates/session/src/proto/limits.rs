//! Every bound of a session, with its unit and its reason (`docs/spec/session.md` §9).

/// Fewest parties of a session.
pub const PARTIES_MIN: usize = 2;
/// Most parties of a session: member sets are 64-bit masks, and the mesh has n(n-1)/2 connections.
pub const PARTIES_MAX: usize = 64;

/// Largest payload of one message, bytes. The largest known need is 212 kB (cggmp24 auxiliary
/// info); programs that share matrices send a few MB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest record: a message and its header, or formation's largest part (a roster of 64).
pub(crate) const RECORD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 1024;

/// Longest session name, bytes of UTF-8.
pub const SESSION_NAME_BYTES_MAX: usize = 64;
/// Longest display name of a party, bytes of UTF-8.
pub const DISPLAY_NAME_BYTES_MAX: usize = 32;
/// Longest address of a relay that a link may propose, bytes.
pub const RELAY_BYTES_MAX: usize = 512;
/// Longest carrier link (contact address or invitation), bytes.
pub const CARRIER_LINK_BYTES_MAX: usize = 4096;
/// Longest contact address inside a session link, bytes: keeps the whole link within one QR code.
pub const CONTACT_BYTES_MAX: usize = 1200;
/// Longest session link, characters. A QR code of version 40-L holds 2,953 bytes.
pub const LINK_CHARS_MAX: usize = 2600;
/// Longest label of an execution or channel, bytes of UTF-8.
pub const LABEL_BYTES_MAX: usize = 255;
/// Longest text of an abort, bytes of UTF-8.
pub const ABORT_TEXT_BYTES_MAX: usize = 255;

/// Bytes of segments given to the carrier on one connection but not yet acknowledged by the peer.
/// Bounds what a receiver that stops reading has to hold.
pub const WINDOW_BYTES: usize = 1024 * 1024;
/// Segments in that window: bounds it for tiny messages.
pub const WINDOW_SEGMENTS: u64 = 4096;
/// Bundles given to the carrier in one call. More of them per durable write, yet few enough that
/// small messages still coalesce behind them.
pub const BUNDLES_PER_SEND: usize = 16;
/// Received bytes after which a receiver acknowledges even without anything of its own to say.
pub const ACK_BYTES: usize = WINDOW_BYTES / 4;
/// Received segments after which it does.
pub const ACK_SEGMENTS: u64 = WINDOW_SEGMENTS / 4;
const _: () = assert!(ACK_BYTES < WINDOW_BYTES && ACK_SEGMENTS < WINDOW_SEGMENTS);

/// Bytes waiting in the outbox of one peer above which senders wait (back-pressure). One message
/// more may enter while the outbox is below it, so its true bound is this plus one message.
pub const OUTBOX_BYTES: usize = 64 * 1024 * 1024;
/// Bytes that small messages of executions may wait for beyond it: a party that takes nothing must not keep
/// the others from what a run says to all of them, nor from a part of a signature.
pub const OUTBOX_RESERVE_BYTES: usize = 16 * 1024 * 1024;
/// Largest payload of such a message, bytes. A deal for 64 parties, say, has some 10 kB.
pub const SMALL_BYTES_MAX: usize = 64 * 1024;
/// Bytes received from one peer, but asked for by nobody yet, above which the connection is not
/// read any more until the application catches up.
pub const INBOX_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of unread carrier messages of one connection held meanwhile; beyond it they are dropped, and asked
/// for again. A peer that respects the window reaches it only by repeating what it has sent.
pub const HELD_BYTES: usize = 2 * WINDOW_BYTES + 64 * 1024;
/// Channels in which messages of one peer wait, from which on its connection is not read any more until the
/// application catches up.
pub const CHANNELS_BEGUN_MAX: usize = 1024;
/// Messages asked for by nobody yet, of one peer: bounds the bookkeeping of tiny messages.
pub const INBOX_MESSAGES: usize = 65_536;

/// What a claim about a broadcast that is not here yet counts among those bytes: about what it takes in
/// memory. Such claims are of use only once the broadcast comes.
pub const EARLY_CLAIM_BYTES: usize = 4096;

/// Rounds that a program may speak in beyond what it gathered: a slip in its count shows at once. In a
/// round-synchronous protocol it is one; protocols with streaming parts need some more.
pub const ROUNDS_AHEAD: u32 = 64;
/// Executions that one peer may have begun and we have not opened; what it said in the oldest one is
/// forgotten beyond that. Parties that sign with a threshold key use one each time, and holders who
/// were not needed never open it.
pub const UNOPENED_MAX: usize = 1024;
/// Executions open at once in a session.
pub const EXECUTIONS_OPEN_MAX: usize = 1024;
/// Refusals the host still explains to late joiners; after that it stays silent.
pub const REFUSALS_MAX: usize = 64;
/// Carrier events kept for connections that no session claims yet (the claim is under way).
pub const ORPHANS_MAX: usize = 1024;
/// Profile keys that a session lists as admitted: one for each other party.
pub const PINNED_MAX: usize = PARTIES_MAX - 1;
/// Those that a host turned away, of whom it tells its user.
pub const STRANGERS_MAX: usize = 8;
/// Sessions in one profile.
pub const SESSIONS_MAX: usize = 1024;
