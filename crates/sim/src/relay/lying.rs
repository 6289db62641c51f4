//! What a relay with [`Malice`] does in place of what it should.

use bytes::Bytes;
use junto_smp::{
    block::OutgoingBlock,
    command::Command,
    error::ErrorCode,
    id::{CorrelationId, Entity, MessageId, RecipientId},
    message::Timestamp,
    queue::{Content, Message, Queue},
    response::Response,
    server,
};

use super::{Connection, Line, Relay, restored};
use crate::malice::{Lie, Malice};

impl Relay {
    /// Handles a request as the relay's habits are.
    pub(super) fn lie_about(
        &mut self,
        line: Line,
        connection: &mut Connection,
        request: server::Request<'_>,
        now: Timestamp,
    ) {
        let lie = match &mut self.malice {
            Some(malice) => malice.lie(request.party()),
            None => None,
        };
        let Some(lie) = lie else {
            return self.request(line, connection, request, now);
        };
        let (correlation, queue) = (request.correlation(), self.named(&request));
        let entity = request.queue_id().copied();
        let entity = entity.as_ref().map_or(Entity::None, Entity::Queue);
        if let Command::Send { flags, body } = request.command()
            && let Some(queue) = queue
        {
            let content = Content::Body {
                flags: *flags,
                body: Bytes::copy_from_slice(body),
            };
            let id = MessageId::random(&mut self.rng);
            let time = now;
            let message = Message { id, time, content };
            if self.tamper(line, connection, lie, (queue, message)) {
                self.told.count(lie.name());
                return self.push(line, connection, |writer, block| {
                    writer.push(block, Some(&correlation), entity, &Response::Ok)
                });
            }
        }
        let Some(malice) = &mut self.malice else {
            return;
        };
        let excuse = malice.excuse();
        let answer = match lie {
            Lie::Ignore => {
                self.told.count(lie.name());
                return self.withheld.push(line);
            }
            Lie::Pretend => Some((Some(correlation), Response::Ok)),
            Lie::Refuse => Some((Some(correlation), Response::Error(excuse))),
            Lie::Confuse => {
                let kinds = [Response::Pong, Response::End, Response::Subscribed(None)];
                let kind = malice.one_of(&kinds).unwrap_or(Response::Pong);
                Some((Some(correlation), kind))
            }
            _ => None,
        };
        if let Some((correlation, response)) = answer {
            self.told.count(lie.name());
            return self.push(line, connection, |writer, block| {
                writer.push(block, correlation.as_ref(), entity, &response)
            });
        }
        self.request_and_lie(line, connection, request, now, (lie, queue, excuse));
    }

    /// Handles a request and lies about what came of it.
    fn request_and_lie(
        &mut self,
        line: Line,
        connection: &mut Connection,
        request: server::Request<'_>,
        now: Timestamp,
        (lie, queue, excuse): (Lie, Option<RecipientId>, ErrorCode),
    ) {
        let others: Vec<_> = self.queues.keys().copied().collect();
        let (correlation, id) = (request.correlation(), request.queue_id().copied());
        let entity = id.as_ref().map_or(Entity::None, Entity::Queue);
        let stranger = CorrelationId::random(&mut self.rng);
        // Its honest answer goes nowhere with these.
        let hides = matches!(
            lie,
            Lie::Silence | Lie::Deny | Lie::Rename | Lie::Misplace | Lie::Garble
        );
        if hides {
            self.flush(line, connection);
            let before = self.sent.len();
            self.request(line, connection, request, now);
            // What others hear of it stays.
            connection.outgoing = OutgoingBlock::new();
            let others = self.sent.split_off(before);
            self.sent
                .extend(others.into_iter().filter(|(to, _)| *to != line));
        } else {
            self.request(line, connection, request, now);
        }
        let Some(malice) = &mut self.malice else {
            return;
        };
        let other = malice.one_of(&others);
        let noise = malice.noise(300);
        let sealed = malice.noise(16_000);
        let forged = malice.name();
        let (name, entity, response) = match lie {
            Lie::Silence => {
                self.told.count(lie.name());
                return self.withheld.push(line);
            }
            Lie::Deny => (Some(correlation), entity, Response::Error(excuse)),
            Lie::Twice => (Some(correlation), entity, Response::Ok),
            Lie::Rename => (Some(stranger), entity, Response::Ok),
            Lie::Misplace => {
                let entity = other
                    .as_ref()
                    .map_or(Entity::None, |id| Entity::Queue(&id.0));
                (Some(correlation), entity, Response::Ok)
            }
            Lie::Garble => {
                self.told.count(lie.name());
                return self.push(line, connection, |_, block| {
                    block.push(|writer| {
                        // Some have a head with sense, none a sense behind it.
                        if noise.len().is_multiple_of(2) {
                            writer.u8(0);
                            writer.short(&correlation.0);
                        }
                        writer.bytes(&noise);
                    })
                });
            }
            Lie::End | Lie::Bury | Lie::Forge | Lie::Replay => {
                return self.say_unasked(
                    line,
                    connection,
                    (lie, queue.or(other)),
                    (forged, &sealed),
                );
            }
            _ => return,
        };
        self.told.count(lie.name());
        self.push(line, connection, |writer, block| {
            writer.push(block, name.as_ref(), entity, &response)
        });
    }

    /// Says something of a queue to whoever reads it.
    fn say_unasked(
        &mut self,
        line: Line,
        connection: &mut Connection,
        (lie, queue): (Lie, Option<RecipientId>),
        (id, sealed): (MessageId, &[u8]),
    ) {
        let Some(queue) = queue else { return };
        if lie == Lie::Replay {
            let past = self.malice.as_mut().and_then(Malice::recall);
            if let Some(message) = past {
                self.told.count(lie.name());
                self.deposit(line, connection, queue, message);
            }
            return;
        }
        let reader = self.queues.get(&queue).and_then(Queue::subscriber);
        let Some(reader) = reader.map(|reader| Line(reader.0)) else {
            return;
        };
        self.told.count(lie.name());
        let response = match lie {
            Lie::End => Response::End,
            Lie::Bury => Response::Deleted,
            _ => Response::Message { id, sealed },
        };
        self.push_over(line, connection, reader, |writer, block| {
            writer.push(block, None, Entity::Queue(&queue.0), &response)
        });
    }

    /// Takes a message and does something else with it than it should. False if this lie is about nothing of the kind.
    fn tamper(
        &mut self,
        line: Line,
        connection: &mut Connection,
        lie: Lie,
        (queue, mut message): (RecipientId, Message<Bytes>),
    ) -> bool {
        let others: Vec<_> = self.queues.keys().copied().collect();
        let Some(malice) = &mut self.malice else {
            return false;
        };
        match lie {
            Lie::Hold => malice.hold(queue, message),
            Lie::Alter => {
                malice.alter(&mut message);
                self.deposit(line, connection, queue, message);
            }
            Lie::Divert => {
                let other = malice.one_of(&others).unwrap_or(queue);
                self.deposit(line, connection, other, message);
            }
            Lie::Repeat => {
                let mut again = message.clone();
                if again.id.0[0] % 2 == 0 {
                    again.id = malice.name();
                }
                self.deposit(line, connection, queue, message);
                self.deposit(line, connection, queue, again);
            }
            _ => return false,
        }
        true
    }

    /// What was kept back comes, some time.
    pub(super) fn let_go(&mut self, line: Line, connection: &mut Connection) {
        if let Some((queue, message)) = self.malice.as_mut().and_then(Malice::let_go) {
            self.deposit(line, connection, queue, message);
        }
    }

    /// Puts a message into a queue without anybody's leave.
    fn deposit(
        &mut self,
        line: Line,
        connection: &mut Connection,
        queue: RecipientId,
        message: Message<Bytes>,
    ) {
        let Some(state) = self.queues.get_mut(&queue) else {
            return;
        };
        state.restore_message(message);
        let reader = state.subscriber();
        let delivery = reader.and_then(|reader| state.deliver_waiting(reader));
        if let (Some(reader), Some(delivery)) = (reader, delivery) {
            self.push_over(line, connection, Line(reader.0), |writer, block| {
                writer.push_delivery(block, None, &delivery)
            });
        }
    }

    /// Keeps a copy of its queues, sometimes.
    pub(super) fn copy_sometimes(&mut self) {
        if let Some(malice) = &mut self.malice
            && malice.copies()
        {
            let queues = self.queues.values();
            malice.copy = Some(queues.map(|queue| restored(queue, None)).collect());
        }
    }
}
