//! What messages are counted with is what they take, as the allocator sees it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

use junto_crypto::ed25519;
use junto_relay::store::{Memory, Queue};
use junto_smp::id::{MessageId, RecipientId, SenderId};
use junto_smp::key::AuthSecret;
use junto_smp::message::{BODY_BYTES_MAX, DeliveryKey, MessageFlags, Timestamp};
use junto_smp::queue::{Content, Message, QueueParts};

/// What the allocator adds to each allocation, at most: its own head, and rounding up to 16.
const ALLOCATION_BYTES: i64 = 8 + 15;

fn queue() -> Queue {
    let key = AuthSecret::Ed25519(ed25519::SigningKey::from_seed(&[1; 32])).public_key();
    Queue::restore(QueueParts {
        recipient: RecipientId([1; 24]),
        sender: SenderId([2; 24]),
        mode: None,
        recipient_key: key,
        sender_key: None,
        delivery_key: DeliveryKey::from_bytes(&[3; 32]),
        suspended: false,
    })
}

/// Bytes that `count` messages of `length` bytes take, and are counted with.
fn taken_and_counted(count: usize, length: usize) -> (i64, i64) {
    let memory = Memory::new(usize::MAX);
    let mut queue = queue();
    let body = vec![7; length];
    let id = MessageId([9; 24]);
    let info = allocation_counter::measure(|| {
        for _ in 0..count {
            queue.restore_message(Message {
                id,
                time: Timestamp(1),
                content: Content::Body {
                    flags: MessageFlags::default(),
                    body: memory.store(&body),
                },
            });
        }
    });
    assert_eq!(queue.messages().len(), count);
    let taken = info.bytes_current + ALLOCATION_BYTES * info.count_current;
    (taken, i64::try_from(memory.used_bytes()).unwrap())
}

#[test]
fn a_message_is_counted_with_what_it_takes() {
    for count in [1, 2, 4, 5, 9, 17, 65, 128, 129] {
        for length in [0, 1, 100, 1_000, 8_000, 8_008, BODY_BYTES_MAX] {
            let (taken, counted) = taken_and_counted(count, length);
            let case = format!("{count} of {length} bytes: {taken} taken, {counted} counted");
            assert!(counted >= taken, "{case}");
            // Nor with very much more: a queue with many messages has fewer slots for each.
            let spare = 250 * i64::try_from(count).unwrap();
            assert!(counted <= taken + spare, "{case}");
        }
    }
}
