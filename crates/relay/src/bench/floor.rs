//! The floor: what a message must cost.
//!
//! One connection plays the sender's part, one the recipient's. For each message the sender's side
//! receives a block, opens it, verifies a signature over 16 KiB and sends a block; the recipient's
//! side encrypts a message of 16 KiB, seals it into a block and sends it, receives a block, opens
//! it and verifies a signature over a short text. Connections share nothing.
//!
//! For a message through a proxy, the proxy's floor opens a sender's block, makes a box of 16 KiB and sends
//! it on, opens the box that comes back, and seals it into a block. In the sender's part at the relay there are
//! then two boxes to open, with one key agreement, and two to make, around the same signature.

use std::io;
use std::sync::Arc;

use junto_crypto::ed25519::{Signature, SigningKey, VerifyingKey};
use junto_crypto::secretbox::{BoxKey, Nonce, Tag};
use junto_crypto::x25519;
use junto_smp::address::ServerAddress;
use junto_smp::block::{Block, BlockChain, OutgoingBlock, Protection, SessionId, new_block};
use junto_smp::message::{BODY_BYTES_MAX, PADDED_BYTES, SEALED_BYTES};
use junto_smp::proxy::FORWARDED_BYTES;
use junto_tls::{ServerIdentity, ServerTls, handshake};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::process::loopback;

/// Bytes that the signature of a SEND covers besides the message: session, correlation and queue
/// ids, and the command.
const HEAD_BYTES: usize = 33 + 25 + 25 + 7;

/// Which part a connection plays; the first byte of its first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Sender,
    Recipient,
    /// A sender at a proxy.
    Near,
    /// The relay that such a proxy sends to.
    Far,
    /// A proxy.
    Forwarded,
}

impl Part {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Sender => b'S',
            Self::Recipient => b'R',
            Self::Near => b'N',
            Self::Far => b'F',
            Self::Forwarded => b'P',
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Sender,
            Self::Recipient,
            Self::Near,
            Self::Far,
            Self::Forwarded,
        ]
        .into_iter()
        .find(|part| part.byte() == byte)
    }
}

/// The chains of both directions: to the client, to the server. Fixed keys: they cost the same.
pub(super) fn chains() -> io::Result<(Protection, Protection)> {
    let secret = x25519::SecretKey::from_bytes(&[1; 32]);
    let other = x25519::SecretKey::from_bytes(&[2; 32]).public_key();
    let shared = secret.diffie_hellman(&other).map_err(io::Error::other)?;
    let (down, up) = BlockChain::pair(&SessionId([0; 32]), &shared);
    Ok((Protection::Sealed(down), Protection::Sealed(up)))
}

/// What the floor verifies again and again.
struct Signed {
    key: VerifyingKey,
    message: Vec<u8>,
    signature: Signature,
}

impl Signed {
    fn new(bytes: usize) -> Self {
        let key = SigningKey::from_seed(&[7; 32]);
        let message = vec![5; bytes];
        Self {
            signature: key.sign(&message),
            key: key.verifying_key(),
            message,
        }
    }

    fn verify(&self) -> io::Result<()> {
        self.key
            .verify(&self.message, &self.signature)
            .map_err(io::Error::other)
    }
}

/// A box that is opened, and one that is made, again and again.
struct Boxed {
    key: BoxKey,
    sealed: Vec<u8>,
    tag: Tag,
    room: Vec<u8>,
}

impl Boxed {
    const NONCE: Nonce = Nonce([4; 24]);

    fn new() -> Self {
        let key = BoxKey::from_symmetric(&[3; 32]);
        let mut sealed = vec![0; FORWARDED_BYTES];
        Self {
            tag: key.seal_in_place(&Self::NONCE, &mut sealed),
            room: sealed.clone(),
            key,
            sealed,
        }
    }

    fn open(&mut self) -> io::Result<()> {
        self.room.copy_from_slice(&self.sealed);
        let opened = self
            .key
            .open_in_place(&Self::NONCE, &mut self.room, &self.tag);
        opened.map_err(io::Error::other)
    }

    fn seal(&mut self) -> Tag {
        self.key.seal_in_place(&Self::NONCE, &mut self.room)
    }
}

/// What all connections have in common.
struct Shared {
    tls: ServerTls,
    sent: Signed,
    acked: Signed,
    /// Far sides that no sender goes to yet.
    far: (mpsc::Sender<Stream>, Mutex<mpsc::Receiver<Stream>>),
}

/// Serves on loopback until the process ends.
pub(super) async fn serve(identity: ServerIdentity) -> io::Result<(ServerAddress, JoinHandle<()>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = loopback(&identity, listener.local_addr()?.port())?;
    let (far, taken) = mpsc::channel(1_000);
    let shared = Arc::new(Shared {
        tls: ServerTls::new(&identity).map_err(io::Error::other)?,
        sent: Signed::new(HEAD_BYTES + BODY_BYTES_MAX),
        acked: Signed::new(HEAD_BYTES + 25),
        far: (far, Mutex::new(taken)),
    });
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                // Ends when the client goes away.
                let _ = connection(&shared, stream).await;
            });
        }
    });
    Ok((address, task))
}

async fn connection(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let accepted = handshake::accept(&shared.tls, stream, 2 * 16_384)
        .await
        .map_err(io::Error::other)?;
    let mut stream = accepted.stream;
    let mut block = new_block();
    stream.read_exact(&mut *block).await?;
    let part = Part::from_byte(block[0]).ok_or(io::ErrorKind::InvalidData)?;
    // How many blocks to send for one message, in thousandths: what the relay really sent.
    let sends = u64::from(u16::from_be_bytes([block[1], block[2]]));
    match part {
        Part::Sender => sender(stream, &shared.sent, sends).await,
        Part::Recipient => recipient(stream, &shared.acked, sends).await,
        Part::Near => near(stream, shared).await,
        Part::Far => shared.far.0.send(stream).await.map_err(io::Error::other),
        Part::Forwarded => forwarded(stream, &shared.sent).await,
    }
}

async fn sender(mut stream: Stream, sent: &Signed, sends: u64) -> io::Result<()> {
    let (mut down, mut up) = chains()?;
    let (mut block, mut outgoing, mut owed) = (new_block(), OutgoingBlock::new(), 0);
    loop {
        owed += sends;
        receive(&mut stream, &mut up, &mut block).await?;
        sent.verify()?;
        owed = answer(&mut stream, &mut down, &mut outgoing, owed).await?;
    }
}

async fn recipient(mut stream: Stream, acked: &Signed, sends: u64) -> io::Result<()> {
    let (mut down, mut up) = chains()?;
    let (mut block, mut outgoing, mut owed) = (new_block(), OutgoingBlock::new(), 0_u64);
    let mut message = vec![0; PADDED_BYTES];
    let key = BoxKey::from_symmetric(&[3; 32]);
    loop {
        owed += sends;
        let tag = key.seal_in_place(&Nonce([4; 24]), &mut message);
        let full = outgoing.push(|writer| {
            writer.bytes(&[0; HEAD_BYTES]);
            writer.bytes(&tag);
            writer.bytes(&message);
        });
        full.map_err(io::Error::other)?;
        send(&mut stream, &mut down, &mut outgoing).await?;
        owed = owed.saturating_sub(1_000);
        receive(&mut stream, &mut up, &mut block).await?;
        acked.verify()?;
        owed = answer(&mut stream, &mut down, &mut outgoing, owed).await?;
    }
}

/// Sends the blocks that are owed, in thousandths; gives what is left.
async fn answer(
    stream: &mut Stream,
    down: &mut Protection,
    outgoing: &mut OutgoingBlock,
    mut owed: u64,
) -> io::Result<u64> {
    while owed >= 1_000 {
        owed -= 1_000;
        outgoing
            .push(|writer| writer.bytes(b"OK"))
            .map_err(io::Error::other)?;
        send(stream, down, outgoing).await?;
    }
    Ok(owed)
}

/// What a proxy does: two blocks in, two out, a box made and a box opened.
async fn near(mut near: Stream, shared: &Shared) -> io::Result<()> {
    let far = shared.far.1.lock().await.recv().await;
    let mut far = far.ok_or(io::ErrorKind::BrokenPipe)?;
    let (mut down, mut up) = chains()?;
    let (mut block, mut outgoing) = (new_block(), OutgoingBlock::new());
    let mut boxed = Boxed::new();
    loop {
        receive(&mut near, &mut up, &mut block).await?;
        let tag = boxed.seal();
        push(&mut outgoing, &tag, &boxed)?;
        send(&mut far, &mut Protection::Plain, &mut outgoing).await?;
        receive(&mut far, &mut Protection::Plain, &mut block).await?;
        boxed.open()?;
        push(&mut outgoing, &tag, &boxed)?;
        send(&mut near, &mut down, &mut outgoing).await?;
    }
}

/// What a destination does with what a proxy passes on: the proxy's box and the sender's, the signature,
/// and the way back.
async fn forwarded(mut stream: Stream, sent: &Signed) -> io::Result<()> {
    let (mut block, mut outgoing) = (new_block(), OutgoingBlock::new());
    let mut boxed = Boxed::new();
    let own = x25519::SecretKey::from_bytes(&[1; 32]);
    let sender = x25519::SecretKey::from_bytes(&[2; 32]).public_key();
    loop {
        receive(&mut stream, &mut Protection::Plain, &mut block).await?;
        boxed.open()?;
        let shared = own.diffie_hellman(&sender).map_err(io::Error::other)?;
        let _key = BoxKey::from_shared(&shared);
        boxed.open()?;
        sent.verify()?;
        boxed.seal();
        let tag = boxed.seal();
        push(&mut outgoing, &tag, &boxed)?;
        send(&mut stream, &mut Protection::Plain, &mut outgoing).await?;
    }
}

fn push(outgoing: &mut OutgoingBlock, tag: &Tag, boxed: &Boxed) -> io::Result<()> {
    let full = outgoing.push(|writer| {
        writer.bytes(tag);
        writer.bytes(&boxed.room);
    });
    full.map_err(io::Error::other)
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

async fn receive(stream: &mut Stream, up: &mut Protection, block: &mut Block) -> io::Result<()> {
    stream.read_exact(block).await?;
    up.open(block).map(drop).map_err(io::Error::other)
}

async fn send(
    stream: &mut Stream,
    down: &mut Protection,
    outgoing: &mut OutgoingBlock,
) -> io::Result<()> {
    if let Some(block) = outgoing.seal(down) {
        stream.write_all(block).await?;
        stream.flush().await?;
    }
    Ok(())
}

const _: () = assert!(SEALED_BYTES == PADDED_BYTES + 16);
