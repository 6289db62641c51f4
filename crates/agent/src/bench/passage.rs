//! Two cores with their stores and a relay that only passes on.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use junto_crypto::secretbox::BoxKey;
use junto_crypto::x25519;
use junto_smp::id::{MessageId as QueueMessageId, RecipientId, SenderId};
use rand_chacha::ChaCha20Rng;

use super::BenchError;
use crate::proto::{
    Answer, Command, ConnectionId, Event, Instant, Link, Machine, MachineConfig, MessageId,
    Operation, Output, RelayId, RelayNotice, Reply, Tag, Ticket, Token,
};
use crate::store::Store;

struct Queue {
    recipient: RecipientId,
    owner: usize,
    key: BoxKey,
}

struct End {
    machine: Machine,
    store: Box<dyn Store>,
    connection: Option<ConnectionId>,
    received: Vec<MessageId>,
    link: Option<Link>,
}

/// See the module.
pub(super) struct Passage {
    ends: [End; 2],
    queues: BTreeMap<SenderId, Queue>,
    /// What the relay has for each end.
    waiting: [VecDeque<FromRelay>; 2],
    tickets: u64,
}

enum FromRelay {
    Up(RelayId),
    Answer(Token, Answer),
    Notice(RelayId, RelayNotice),
}

const NOW: Instant = Instant::from_millis(0);

impl Passage {
    /// Two connected ends.
    pub(super) fn new(
        stores: [Box<dyn Store>; 2],
        rng: &mut ChaCha20Rng,
    ) -> Result<Self, BenchError> {
        let end = |mut store: Box<dyn Store>| -> Result<End, BenchError> {
            let machine = Machine::restore(MachineConfig::default(), store.load()?)
                .map_err(|_| BenchError::Defect("restore"))?;
            Ok(End {
                machine,
                store,
                connection: None,
                received: Vec::new(),
                link: None,
            })
        };
        let [first, second] = stores;
        let mut passage = Self {
            ends: [end(first)?, end(second)?],
            queues: BTreeMap::new(),
            waiting: [VecDeque::new(), VecDeque::new()],
            tickets: 0,
        };
        let relay = "smp://AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=@relay.example:5223"
            .parse::<junto_smp::address::ServerAddress>()
            .map_err(|_| BenchError::Defect("address"))?;
        let tag = Tag::new([0; 32]);
        let invite = Command::CreateInvitation {
            tag,
            relay: relay.clone(),
            info: Vec::new(),
            about: None,
        };
        passage.call(0, invite, rng);
        passage.settle(rng)?;
        let link = passage.ends[0]
            .link
            .take()
            .ok_or(BenchError::Defect("no link"))?;
        passage.call(
            1,
            Command::Join {
                tag,
                link,
                relay,
                info: Vec::new(),
            },
            rng,
        );
        passage.settle(rng)?;
        passage.carry(0, b"first", 1, rng)?;
        passage.carry(1, b"second", 1, rng)?;
        Ok(passage)
    }

    fn call(&mut self, end: usize, command: Command, rng: &mut ChaCha20Rng) {
        self.tickets += 1;
        self.ends[end]
            .machine
            .handle_command(NOW, Ticket(self.tickets), command, rng);
    }

    /// Lets everything happen that is due.
    fn settle(&mut self, rng: &mut ChaCha20Rng) -> Result<(), BenchError> {
        loop {
            let mut busy = false;
            for end in 0..2 {
                busy |= self.store_and_release(end, rng)?;
                busy |= self.hear(end, rng);
            }
            if !busy {
                return Ok(());
            }
        }
    }

    /// Makes keys ahead, as the engine does when nothing is due.
    pub(super) fn prepare(&mut self, rng: &mut ChaCha20Rng) {
        for end in &mut self.ends {
            while end.machine.prepare(rng) {}
        }
    }

    /// Carries `count` messages from one end to the other; how long the sender and the receiver
    /// worked.
    pub(super) fn carry(
        &mut self,
        from: usize,
        body: &[u8],
        count: usize,
        rng: &mut ChaCha20Rng,
    ) -> Result<[Duration; 2], BenchError> {
        let to = 1 - from;
        let connection = self.ends[from]
            .connection
            .ok_or(BenchError::Defect("not connected"))?;
        let mut times = [Duration::ZERO; 2];
        let start = Clock::now();
        for _ in 0..count {
            self.call(
                from,
                Command::Send {
                    connection,
                    body: body.to_vec(),
                },
                rng,
            );
        }
        times[0] += start.elapsed();
        let mut received = 0;
        while received < count {
            times[0] += self.timed(from, rng)?;
            times[1] += self.timed(to, rng)?;
            let messages = core::mem::take(&mut self.ends[to].received);
            received += messages.len();
            let connection = self.ends[to]
                .connection
                .ok_or(BenchError::Defect("not connected"))?;
            let start = Clock::now();
            for message in messages {
                self.call(
                    to,
                    Command::Acknowledge {
                        connection,
                        message,
                    },
                    rng,
                );
            }
            times[1] += start.elapsed();
        }
        times[1] += self.timed(to, rng)?;
        times[0] += self.timed(from, rng)?;
        self.settle(rng)?;
        Ok(times)
    }

    /// Everything that one end has to do now, without what the relay does.
    fn timed(&mut self, end: usize, rng: &mut ChaCha20Rng) -> Result<Duration, BenchError> {
        let start = Clock::now();
        self.hear(end, rng);
        let node = &mut self.ends[end];
        let Some(step) = node.machine.take_step() else {
            return Ok(start.elapsed());
        };
        let proof = node.store.commit(step.delta())?;
        let outputs = step.release(proof);
        let time = start.elapsed();
        self.release(end, outputs, rng)?;
        Ok(time)
    }

    fn hear(&mut self, end: usize, rng: &mut ChaCha20Rng) -> bool {
        let machine = &mut self.ends[end].machine;
        let mut heard = false;
        while let Some(input) = self.waiting[end].pop_front() {
            heard = true;
            match input {
                FromRelay::Up(relay) => machine.handle_relay_up(NOW, relay),
                FromRelay::Answer(token, answer) => machine.handle_answer(NOW, token, answer, rng),
                FromRelay::Notice(relay, notice) => machine.handle_notice(NOW, relay, notice, rng),
            }
        }
        heard
    }

    fn store_and_release(&mut self, end: usize, rng: &mut ChaCha20Rng) -> Result<bool, BenchError> {
        let node = &mut self.ends[end];
        let Some(step) = node.machine.take_step() else {
            return Ok(false);
        };
        let proof = node.store.commit(step.delta())?;
        let outputs = step.release(proof);
        self.release(end, outputs, rng)?;
        Ok(true)
    }

    fn release(
        &mut self,
        end: usize,
        outputs: Vec<Output>,
        rng: &mut ChaCha20Rng,
    ) -> Result<(), BenchError> {
        for output in outputs {
            match output {
                Output::Dial { relay, .. } => self.waiting[end].push_back(FromRelay::Up(relay)),
                Output::Hang { .. } => {}
                Output::Command {
                    relay,
                    token,
                    operation,
                } => {
                    let answer = self.pass_on(end, relay, operation, rng)?;
                    self.waiting[end].push_back(FromRelay::Answer(token, answer));
                }
                Output::Event(Event::Connected { connection, .. }) => {
                    self.ends[end].connection = Some(connection);
                }
                Output::Event(Event::Message { id, .. }) => self.ends[end].received.push(id),
                Output::Event(_) => {}
                Output::Answer {
                    answer: Ok(Reply::Invitation(_, link, _)),
                    ..
                } => {
                    self.ends[end].link = Some((*link).into());
                }
                Output::Answer { answer, .. } => {
                    answer.map_err(|_| BenchError::Defect("refused"))?;
                }
            }
        }
        Ok(())
    }

    fn pass_on(
        &mut self,
        end: usize,
        relay: RelayId,
        operation: Operation,
        rng: &mut ChaCha20Rng,
    ) -> Result<Answer, BenchError> {
        match operation {
            Operation::Create { delivery_key, .. } => {
                let secret = x25519::SecretKey::generate(rng);
                let shared = secret
                    .diffie_hellman(&delivery_key)
                    .map_err(|_| BenchError::Defect("delivery key"))?;
                let (recipient, sender) = (RecipientId::random(rng), SenderId::random(rng));
                let queue = Queue {
                    recipient,
                    owner: end,
                    key: BoxKey::from_shared(&shared),
                };
                self.queues.insert(sender, queue);
                let relay_key = secret.public_key();
                Ok(Answer::Created {
                    recipient_id: recipient,
                    sender_id: sender,
                    relay_key,
                    link: None,
                })
            }
            Operation::Send { queue, body, .. } => {
                let queue = self
                    .queues
                    .get(&queue)
                    .ok_or(BenchError::Defect("no queue"))?;
                let message = QueueMessageId::random(rng);
                let plain = [&b"\0\0\0\0\0\0\0\x01T "[..], &body].concat();
                let mut sealed = Vec::with_capacity(16_122);
                queue
                    .key
                    .seal_padded(&message.nonce(), &plain, 16_106, &mut sealed)
                    .map_err(|_| BenchError::Defect("too long"))?;
                let notice = RelayNotice::Message {
                    queue: queue.recipient,
                    message,
                    sealed: Bytes::from(sealed),
                };
                self.waiting[queue.owner].push_back(FromRelay::Notice(relay, notice));
                Ok(Answer::Done)
            }
            Operation::Subscribe { .. }
            | Operation::Secure { .. }
            | Operation::ReadLink { .. }
            | Operation::SecureByLink { .. }
            | Operation::SetLink { .. }
            | Operation::Allow { .. }
            | Operation::Acknowledge { .. }
            | Operation::Suspend { .. }
            | Operation::Delete { .. } => Ok(Answer::Done),
        }
    }
}
