//! What two sides of a file transfer send each other, and the halves of a transfer that hear it.

use std::path::{Component, Path};

use junto_files::frame::{Body, CHUNK_MIN, Frame, Offer, Reason};
use junto_files::incoming::{Incoming, WINDOW_CHUNKS};
use junto_files::outgoing::Outgoing;
use junto_files::{CHUNK_BYTES, TransferId, name};

const ID: TransferId = TransferId([7; 16]);

/// One encoding per value; and a name that a stranger gives is a name, whatever it is.
pub(crate) fn frame(bytes: &[u8]) {
    let Ok(frame) = Frame::decode(bytes) else {
        return;
    };
    assert_eq!(frame.encode(), bytes);
    if let Body::Offer(offer) = frame.body {
        let safe = name::safe(&offer.name);
        assert!(safe.len() <= name::SAFE_MAX && !safe.starts_with('.'));
        assert!(!safe.contains(['/', '\\', '\0', '\n']));
        let mut parts = Path::new(&safe).components();
        assert!(matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none());
        assert_eq!(name::safe(&safe), safe);
        assert_eq!(Incoming::new(&offer, 0).have(), 0);
    }
}

/// The first two bytes are the size in eighths of a chunk; then three bytes each are a step of either half, as a
/// hostile peer has it.
pub(crate) fn transfer(bytes: &[u8]) {
    let Some((size, steps)) = bytes.split_first_chunk() else {
        return;
    };
    let size = u64::from(u16::from_be_bytes(*size)) * u64::from(CHUNK_MIN) / 8;
    let chunk = u64::from(CHUNK_MIN);
    let offer = Offer {
        attempt: 1,
        size,
        chunk: CHUNK_MIN,
        sha256: [0; 32],
        name: "a".to_owned(),
    };
    let (mut incoming, mut outgoing) = (Incoming::new(&offer, 0), Outgoing::new(&offer));
    let mut allowed = 0;
    for &[kind, high, low] in steps.as_chunks().0 {
        let number = u64::from(u16::from_be_bytes([high, low]));
        match kind % 4 {
            0 => {
                let offset = number * chunk;
                let whole = chunk.min(size.saturating_sub(offset));
                let length = whole.saturating_sub(u64::from(kind > 200));
                let _ = incoming.chunk(offset, length as usize);
            }
            1 => incoming.synced(),
            2 => {
                let have = u64::from(high) * chunk;
                let until = (have + u64::from(low) * chunk).min(size);
                if outgoing.grant(1, have, until).is_ok() {
                    allowed = allowed.max(until);
                }
            }
            _ => {
                if let Some((offset, length)) = outgoing.take() {
                    assert!(offset + length as u64 <= allowed, "sent without credit");
                }
            }
        }
        let Body::Grant { have, until, .. } = incoming.grant() else {
            panic!("no grant");
        };
        assert!(have <= until && until <= size && until - have <= WINDOW_CHUNKS * chunk);
        assert!(outgoing.have() <= size);
    }
}

pub(crate) fn frames() -> Vec<Vec<u8>> {
    let offer = |name: &str| {
        Body::Offer(Offer {
            attempt: 1,
            size: 20_000,
            chunk: CHUNK_BYTES,
            sha256: [3; 32],
            name: name.to_owned(),
        })
    };
    let bodies = [
        offer("report.pdf"),
        offer("../../etc/\0passwd"),
        offer("invoice\u{202e}fdp.exe"),
        Body::Grant {
            attempt: 1,
            have: 13_312,
            until: 20_000,
        },
        Body::Chunk {
            offset: 13_312,
            data: b"some bytes of the file",
        },
        Body::Missing { attempt: 1 },
        Body::Done,
        Body::Refuse(Reason::BUSY),
        Body::Withdraw(Reason::CHANGED),
    ];
    let frames = bodies.map(|body| Frame { id: ID, body }.encode());
    frames.into()
}

pub(crate) fn transfers() -> Vec<Vec<u8>> {
    vec![
        // Two chunks and a bit, in order, with a sync; a sender with credit for two.
        vec![
            0, 17, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 2, 2, 0, 2, 3, 0, 0, 3, 0, 0, 3, 0, 0,
        ],
        // Again, behind a gap, beyond the credit and the file.
        vec![
            8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 70, 0, 255, 255, 2, 0, 255, 2, 9, 0, 3, 0, 0,
        ],
    ]
}
