//! Questions and answers over a stream: frames with a length, every answer bound to the bytes of its question.
//!
//! ```text
//! frame    = length u32 · bytes
//! question = 16 random bytes · kind u8 · body
//! answer   = SHA-256("junto realm answer" · question) · body
//! ```
//!
//! One question at a time. An answer that names another question ends the channel: a replica whose memory was turned back,
//! its channels included, cannot take what was said to a question that it has forgotten for an answer to a new one.

use std::io;

use junto_crypto::{Zeroizing, hash::sha256_of};
use rand_core::Rng as _;
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub(crate) const DIGEST_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// What a question has before its body.
pub(crate) const QUESTION_BYTES: usize = TAG_BYTES + 1;

/// The operating system's random generator: what it gives is in no memory that could be turned back.
pub(crate) fn random() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// The next frame of at most `most` bytes.
async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = usize::try_from(stream.read_u32().await?).map_err(|_| malformed())?;
    if length > most {
        return Err(malformed());
    }
    // Sized at once: a buffer that grows leaves copies.
    let mut frame = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), parts: &[&[u8]]) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).map_err(|_| malformed())?;
    stream.write_u32(length).await?;
    for part in parts {
        stream.write_all(part).await?;
    }
    stream.flush().await
}

fn digest(question: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    sha256_of(&[&[&b"junto realm answer"[..]], question].concat())
}

/// Asks, and gives the body of the answer, of at most `most` bytes. The caller bounds the time; a channel on which this
/// did not come to its end is not used again.
pub(crate) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    kind: u8,
    body: &[u8],
    most: usize,
) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut tag = [0; TAG_BYTES];
    random().fill_bytes(&mut tag);
    let question = [&tag[..], &[kind], body];
    write(stream, &question).await?;
    let answer = read(stream, DIGEST_BYTES + most).await?;
    let (bound, body) = answer
        .split_first_chunk::<DIGEST_BYTES>()
        .ok_or_else(malformed)?;
    if !bool::from(bound.ct_eq(&digest(&question))) {
        return Err(malformed());
    }
    Ok(Zeroizing::new(body.to_vec()))
}

/// A question that has come.
pub(crate) struct Question(Zeroizing<Vec<u8>>);

impl Question {
    /// The next one, with a body of at most `most` bytes.
    pub(crate) async fn read(
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<Self> {
        let bytes = read(stream, QUESTION_BYTES + most).await?;
        (bytes.len() >= QUESTION_BYTES)
            .then_some(Self(bytes))
            .ok_or_else(malformed)
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[TAG_BYTES]
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.0[QUESTION_BYTES..]
    }

    pub(crate) async fn answer(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        body: &[u8],
    ) -> io::Result<()> {
        write(stream, &[&digest(&[&self.0]), body]).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What was said to another question, byte for byte the same but for its number, is no answer.
    #[tokio::test]
    async fn an_answer_is_for_its_question_only() {
        let (mut here, mut there) = tokio::io::duplex(1024);
        let asking = tokio::spawn(async move {
            let first = ask(&mut here, 2, b"vote for me", 10).await.unwrap();
            assert_eq!(*first, b"granted");
            let second = ask(&mut here, 2, b"vote for me", 10).await;
            second.unwrap_err().kind()
        });
        let first = Question::read(&mut there, 100).await.unwrap();
        assert_eq!((first.kind(), first.body()), (2, &b"vote for me"[..]));
        first.answer(&mut there, b"granted").await.unwrap();
        let second = Question::read(&mut there, 100).await.unwrap();
        assert_eq!(second.body(), first.body());
        first.answer(&mut there, b"granted").await.unwrap();
        assert_eq!(asking.await.unwrap(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn frames_are_bounded() {
        for (length, right) in [
            (QUESTION_BYTES + 8, true),
            (QUESTION_BYTES + 9, false),
            (QUESTION_BYTES - 1, false),
        ] {
            let (mut here, mut there) = tokio::io::duplex(1024);
            write(&mut here, &[&vec![0; length]]).await.unwrap();
            assert_eq!(
                Question::read(&mut there, 8).await.is_ok(),
                right,
                "{length}"
            );
        }
        // A length without bytes takes no memory.
        let (mut here, mut there) = tokio::io::duplex(1024);
        here.write_u32(u32::MAX).await.unwrap();
        let refused = Question::read(&mut there, 8).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
