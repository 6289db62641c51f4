//! How many requests come through to the application.
//!
//! Whoever has an address can ask, so what a stranger can make the application keep is bounded, for each address and
//! in all, and so is how fast it comes. What is above stays with the relay, unacknowledged, and is asked for again when
//! there is room; the relay's own bound on the queue then holds up those who ask.

use std::time::Duration;

use super::effects::{Owner, Timer};
use super::id::{RequestId, Tag};
use super::instant::Instant;
use super::machine::Machine;
use super::queue::Subscription;
use super::step::RowKey;

/// Requests that may wait for the application: about 14 KiB each.
pub(super) const REQUESTS_MAX: usize = 256;

/// Requests of one address that may wait for the application: twice as many as a session has parties.
pub const ADDRESS_REQUESTS_MAX: usize = 128;

/// Requests that an address takes at once, after a time without any.
pub const REQUEST_BURST: u32 = 128;

/// How often an address that has taken so many takes another.
pub const REQUEST_PAUSE: Duration = Duration::from_secs(5);

const _: () = assert!(ADDRESS_REQUESTS_MAX < REQUESTS_MAX);

/// How many requests an address may take now. Kept in memory only: a stranger cannot restart us.
pub(super) struct Allowance {
    left: u32,
    /// When the last one was added.
    since: Instant,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            left: REQUEST_BURST,
            since: Instant::default(),
        }
    }
}

impl Allowance {
    /// Whether another request may come, or when.
    fn check(&mut self, now: Instant) -> Result<(), Instant> {
        let pause = REQUEST_PAUSE.as_millis() as u64;
        let passed = now.as_millis().saturating_sub(self.since.as_millis());
        let added = u32::try_from(passed / pause).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(added).min(REQUEST_BURST);
        self.since = if self.left == REQUEST_BURST {
            now
        } else {
            let whole = Duration::from_millis(u64::from(added) * pause);
            self.since.after(whole)
        };
        if self.left == 0 {
            return Err(self.since.after(REQUEST_PAUSE));
        }
        Ok(())
    }

    fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

impl Machine {
    fn requests_of(&self, address: Tag) -> usize {
        let all = self.requests.values();
        all.filter(|request| request.address == address).count()
    }

    /// Whether there is room for another request to this address. If only time is missing, it is asked for again.
    pub(super) fn admits_request(&mut self, tag: Tag) -> bool {
        let is_full =
            self.requests.len() >= REQUESTS_MAX || self.requests_of(tag) >= ADDRESS_REQUESTS_MAX;
        let Some(address) = self.addresses.get_mut(&tag) else {
            return false;
        };
        if is_full {
            return false;
        }
        // Who asked before an address is closed shall be heard, and nobody else can ask any more.
        if address.closing {
            return true;
        }
        match address.allowance.check(self.effects.now) {
            Ok(()) => true,
            Err(at) => {
                self.effects.wake_at(at, Timer::Requests(tag));
                false
            }
        }
    }

    /// A request to this address has come through.
    pub(super) fn spend_allowance(&mut self, tag: Tag) {
        if let Some(address) = self.addresses.get_mut(&tag) {
            address.allowance.spend();
        }
    }

    /// Asks the relay again for a request that was left with it: subscribing again brings it.
    pub(super) fn ask_for_requests(&mut self, tag: Tag) {
        let Some(address) = self.addresses.get_mut(&tag) else {
            return;
        };
        if address.receive.subscription == Subscription::Live {
            address.receive.subscription = Subscription::Idle;
        }
        self.effects.ready(Owner::Address(tag));
    }

    /// Accepted or rejected.
    pub(super) fn forget_request(&mut self, id: RequestId) {
        let Some(tag) = self.requests.get(&id).map(|request| request.address) else {
            return;
        };
        let all_full = self.requests.len() >= REQUESTS_MAX;
        let this_full = self.requests_of(tag) >= ADDRESS_REQUESTS_MAX;
        self.requests.remove(&id);
        self.effects.delta.delete(RowKey::Request(id));
        if all_full {
            let tags: Vec<_> = self.addresses.keys().copied().collect();
            tags.into_iter().for_each(|tag| self.ask_for_requests(tag));
        } else if this_full {
            self.ask_for_requests(tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use junto_crypto::secretbox::BoxKey;
    use junto_crypto::x25519;
    use junto_smp::id::{MessageId as QueueMessageId, RecipientId, SenderId};
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::proto::envelope::Envelope;
    use crate::proto::{
        Answer, Command, Committed, Event, MachineConfig, Operation, Output, RelayId, RelayNotice,
        Ticket, Token, layer,
    };

    const RELAY: &str = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example:5223";
    const INVITATION: &str = include_str!("../../../../vectors/agent/invitation.txt");

    /// An address of the machine, as its relay and those who ask know it.
    struct Door {
        recipient: RecipientId,
        delivery: BoxKey,
        layer: x25519::PublicKey,
    }

    /// A machine on a relay that the test plays.
    struct World {
        machine: Machine,
        rng: ChaCha20Rng,
        now: Instant,
        pending: Vec<(Token, Operation)>,
        requests: Vec<RequestId>,
        tickets: u64,
    }

    impl World {
        fn new() -> Self {
            Self {
                machine: Machine::restore(MachineConfig::default(), []).unwrap(),
                rng: ChaCha20Rng::from_seed([1; 32]),
                now: Instant::from_millis(1_000_000),
                pending: Vec::new(),
                requests: Vec::new(),
                tickets: 0,
            }
        }

        fn call(&mut self, command: Command) {
            self.tickets += 1;
            let ticket = Ticket(self.tickets);
            let (machine, rng) = (&mut self.machine, &mut self.rng);
            machine.handle_command(self.now, ticket, command, rng);
            self.settle();
        }

        fn settle(&mut self) {
            while let Some(step) = self.machine.take_step() {
                for output in step.release(Committed::promised()) {
                    match output {
                        Output::Dial { relay, .. } => self.machine.handle_relay_up(self.now, relay),
                        Output::Command {
                            token, operation, ..
                        } => self.pending.push((token, operation)),
                        Output::Event(Event::Request { id, .. }) => self.requests.push(id),
                        _ => {}
                    }
                }
            }
        }

        fn answer(&mut self, token: Token, answer: Answer) {
            let (machine, rng) = (&mut self.machine, &mut self.rng);
            machine.handle_answer(self.now, token, answer, rng);
            self.settle();
        }

        fn door(&mut self, number: u8) -> Door {
            let tag = Tag::new([number; 32]);
            let relay = RELAY.parse().unwrap();
            let about = None;
            self.call(Command::CreateAddress { tag, relay, about });
            let Some((token, Operation::Create { delivery_key, .. })) = self.pending.pop() else {
                panic!("no queue is made")
            };
            let secret = x25519::SecretKey::generate(&mut self.rng);
            let recipient_id = RecipientId([number; 24]);
            let created = Answer::Created {
                recipient_id,
                sender_id: SenderId([number; 24]),
                relay_key: secret.public_key(),
                link: None,
            };
            self.answer(token, created);
            let address = &self.machine.addresses[&tag];
            Door {
                recipient: recipient_id,
                delivery: BoxKey::from_shared(&secret.diffie_hellman(&delivery_key).unwrap()),
                layer: address.receive.address().unwrap().recipient_key,
            }
        }

        /// Somebody asks. Whether the machine acknowledges it to the relay.
        fn knock(&mut self, door: &Door, who: u16) -> bool {
            let secret = x25519::SecretKey::from_bytes(&[7; 32]);
            let key = BoxKey::from_shared(&secret.diffie_hellman(&door.layer).unwrap());
            let mut envelope = Vec::new();
            let link = Box::new(INVITATION.parse().unwrap());
            let info = &who.to_be_bytes();
            Envelope::Invitation { link, info }
                .put(&mut envelope)
                .unwrap();
            let rng = &mut ChaCha20Rng::seed_from_u64(who.into());
            let body = layer::seal(&key, Some(&secret.public_key()), &envelope, rng).unwrap();
            let plain = [b"\0\0\0\0\0\0\0\x01T ", &body[..]].concat();
            let message = QueueMessageId::random(&mut self.rng);
            let mut sealed = Vec::new();
            let boxed = door
                .delivery
                .seal_padded(&message.nonce(), &plain, 16_106, &mut sealed);
            boxed.unwrap();
            let notice = RelayNotice::Message {
                queue: door.recipient,
                message,
                sealed: sealed.into(),
            };
            let (machine, rng) = (&mut self.machine, &mut self.rng);
            machine.handle_notice(self.now, RelayId(0), notice, rng);
            self.settle();
            let taken = |(_, it): &(Token, Operation)| matches!(it, Operation::Acknowledge { .. });
            let acknowledged = self.pending.iter().any(taken);
            self.pending.retain(|it| !taken(it));
            acknowledged
        }

        /// Queues that the machine subscribes to again.
        fn subscribed(&mut self) -> usize {
            let pending = core::mem::take(&mut self.pending);
            for (token, operation) in &pending {
                assert!(matches!(operation, Operation::Subscribe { .. }));
                self.answer(*token, Answer::Done);
            }
            pending.len()
        }

        fn reject(&mut self) {
            let request = self.requests.pop().unwrap();
            self.call(Command::Reject { request });
        }
    }

    #[test]
    fn a_flood_of_requests_stays_with_the_relay() {
        let mut world = World::new();
        let (one, other) = (world.door(1), world.door(2));
        let burst = REQUEST_BURST as u16;
        assert_eq!(usize::from(burst), ADDRESS_REQUESTS_MAX);
        for who in 0..burst {
            assert!(world.knock(&one, who));
        }
        assert!(!world.knock(&one, burst), "the address is full");
        assert_eq!(world.requests.len(), ADDRESS_REQUESTS_MAX);
        // Another address is not; then all are.
        for who in 0..burst {
            assert!(world.knock(&other, who));
        }
        assert!(!world.knock(&other, burst));
        assert_eq!(world.requests.len(), REQUESTS_MAX);
        // Room for one: both are asked for what they left. But the burst is over: only time brings it.
        world.reject();
        assert_eq!(world.subscribed(), 2);
        assert!(!world.knock(&other, burst));
        let (at, timer) = world.machine.next_timeout().unwrap();
        assert_eq!(timer, Timer::Requests(Tag::new([2; 32])));
        assert!(at > world.now);
        world.now = at;
        world.machine.handle_timeout(at, &mut world.rng);
        world.settle();
        assert_eq!(world.subscribed(), 1);
        assert!(world.knock(&other, burst));
        assert_eq!(world.requests.len(), REQUESTS_MAX);
        // The flood was one second of messages; nothing of it was kept beyond the bound.
        assert_eq!(world.machine.requests.len(), REQUESTS_MAX);
    }

    #[test]
    fn whoever_asked_before_a_close_does_not_wait_for_the_allowance() {
        let mut world = World::new();
        let door = world.door(1);
        for who in 0..REQUEST_BURST as u16 {
            assert!(world.knock(&door, who));
            world.reject();
            world.subscribed();
        }
        assert!(!world.knock(&door, 999));
        let tag = Tag::new([1; 32]);
        world.call(Command::CloseAddress { tag });
        world.pending.clear();
        assert!(world.knock(&door, 999));
    }

    #[test]
    fn a_burst_comes_at_once_and_then_one_each_pause() {
        let pause = REQUEST_PAUSE.as_millis() as u64;
        let mut allowance = Allowance::default();
        let start = Instant::from_millis(100 * pause);
        for _ in 0..REQUEST_BURST {
            assert_eq!(allowance.check(start), Ok(()));
            allowance.spend();
        }
        let next = start.after(REQUEST_PAUSE);
        assert_eq!(allowance.check(start), Err(next));
        let early = Instant::from_millis(next.as_millis() - 1);
        assert_eq!(allowance.check(early), Err(next));
        assert_eq!(allowance.check(next), Ok(()));
        allowance.spend();
        assert_eq!(allowance.check(next), Err(next.after(REQUEST_PAUSE)));
        // Time without requests counts, up to a burst.
        let late = next.after(REQUEST_PAUSE * (REQUEST_BURST + 9));
        for _ in 0..REQUEST_BURST {
            assert_eq!(allowance.check(late), Ok(()));
            allowance.spend();
        }
        assert!(allowance.check(late).is_err());
    }
}
