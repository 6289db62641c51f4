//! The floor: what a message must cost.
//!
//! One connection plays the sender's part, one the recipient's. For each message the sender's side
//! receives a block, opens it, verifies a signature over 16 KiB and sends a block; the recipient's
//! side encrypts a message of 16 KiB, seals it into a block and sends it, receives a block, opens
//! it and verifies a signature over a short text. Connections share nothing.

use std::io;
use std::sync::Arc;

use junto_crypto::ed25519::{Signature, SigningKey, VerifyingKey};
use junto_crypto::secretbox::{BoxKey, Nonce};
use junto_crypto::x25519;
use junto_smp::address::ServerAddress;
use junto_smp::block::{Block, BlockChain, OutgoingBlock, Protection, SessionId, new_block};
use junto_smp::message::{BODY_BYTES_MAX, PADDED_BYTES, SEALED_BYTES};
use junto_tls::{ServerIdentity, ServerTls, handshake};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
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
}

impl Part {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Sender => b'S',
            Self::Recipient => b'R',
        }
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

/// Serves on loopback until the process ends.
pub(super) async fn serve(identity: ServerIdentity) -> io::Result<(ServerAddress, JoinHandle<()>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = loopback(&identity, listener.local_addr()?.port())?;
    let tls = ServerTls::new(&identity).map_err(io::Error::other)?;
    let sent = Arc::new(Signed::new(HEAD_BYTES + BODY_BYTES_MAX));
    let acked = Arc::new(Signed::new(HEAD_BYTES + 25));
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, sent, acked) = (tls.clone(), Arc::clone(&sent), Arc::clone(&acked));
            tokio::spawn(async move {
                // Ends when the client goes away.
                let _ = connection(&tls, stream, &sent, &acked).await;
            });
        }
    });
    Ok((address, task))
}

async fn connection(
    tls: &ServerTls,
    stream: TcpStream,
    sent: &Signed,
    acked: &Signed,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let accepted = handshake::accept(tls, stream, 2 * 16_384)
        .await
        .map_err(io::Error::other)?;
    let mut stream = accepted.stream;
    let (mut down, mut up) = chains()?;
    let mut block = new_block();
    stream.read_exact(&mut *block).await?;
    let part = block[0];
    // How many blocks to send for one message, in thousandths: what the relay really sent.
    let sends = u64::from(u16::from_be_bytes([block[1], block[2]]));
    let mut owed = 0;
    let mut outgoing = OutgoingBlock::new();
    let mut message = vec![0; PADDED_BYTES];
    let key = BoxKey::from_symmetric(&[3; 32]);
    loop {
        owed += sends;
        if part == Part::Sender.byte() {
            receive(&mut stream, &mut up, &mut block).await?;
            sent.verify()?;
        } else {
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
        }
        while owed >= 1_000 {
            owed -= 1_000;
            outgoing
                .push(|writer| writer.bytes(b"OK"))
                .map_err(io::Error::other)?;
            send(&mut stream, &mut down, &mut outgoing).await?;
        }
    }
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
