//! The connection of a service: how it begins, and how it gets everything that waits in its queues.
//!
//! That may be a hundred thousand queues. They are looked at a few at a time, between everything else
//! that the connection does, and only while its outbox has room; so it costs no memory that grows
//! with their number, and others their turns. What comes meanwhile reaches the connection as always,
//! from the moment in which it reads for the service.

use std::sync::Arc;

use junto_smp::block::Block;
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::hello::LeafKey;
use junto_smp::id::ID_BYTES;
use junto_smp::queue::{self, ConnectionId};
use junto_smp::server::{Applicant, Authorised, ClientCertificates};
use junto_smp::service::{ServiceFault, ServiceQueues, ServiceRole};
use junto_tls::{ClientChain, PeerKey};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::mailbox::{Happened, News};
use super::outbox::{Reply, What, Whose};
use super::{Connection, Ended, Moved, now};
use crate::relay::Shared;
use crate::settings::Settings;
use crate::sources::{Act, Made, Portion, Source};
use crate::store::{Name, ServiceCell};

/// Queues that are looked at in one turn, about 0.2 µs each if nothing waits.
const PIECE: usize = 64;

/// The place of a service on its connection, which it gives up when this is dropped.
pub(super) struct Session {
    shared: Arc<Shared>,
    cell: Arc<ServiceCell>,
    connection: ConnectionId,
    /// Of the day of the source for which the service is new here.
    portion: Option<Portion>,
    /// Everything that waits is being delivered.
    bulk: Option<Bulk>,
}

/// How far that has come.
#[derive(Default)]
struct Bulk {
    last: Option<[u8; ID_BYTES]>,
}

impl Session {
    /// Lets the applicant be a service, if there is room.
    pub(super) fn enter(
        shared: &Arc<Shared>,
        settings: &Settings,
        source: &Source,
        connection: ConnectionId,
        applicant: &Applicant,
    ) -> Result<Self, ServiceFault> {
        let services = shared.store.services();
        let limits = &settings.limits;
        let now = std::time::Instant::now();
        let new = || {
            let may = source.may(Act::NewService, limits.services_per_second_per_source, now);
            let today = || source.today(Made::Service, limits.services_per_day_per_source, now);
            may.then(today).flatten()
        };
        let (cell, portion) = services.enter(applicant.role(), applicant.fingerprint(), new)?;
        Ok(Self {
            shared: Arc::clone(shared),
            cell,
            connection,
            portion,
            bulk: None,
        })
    }

    /// How many queues are the service's.
    pub(super) fn queues(&self) -> usize {
        self.cell.count()
    }

    pub(super) fn service(&self) -> &Arc<junto_smp::service::Service> {
        self.cell.service()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let services = self.shared.store.services();
        let forgotten = services.leave(&self.cell, self.connection);
        if !forgotten && let Some(portion) = self.portion.take() {
            portion.made();
        }
    }
}

/// What a client showed in TLS, as the protocol sees it.
pub(super) fn certificates(chain: &ClientChain) -> ClientCertificates {
    ClientCertificates {
        chain: chain.certificates().iter().map(|c| c.to_vec()).collect(),
        leaf: match chain.leaf_key() {
            PeerKey::Ed25519(key) => LeafKey::Ed25519(*key),
            PeerKey::Ed448(key) => LeafKey::Ed448(Box::new(*key)),
        },
    }
}

/// Tells a client that it is no service here, and closes.
pub(super) async fn refuse(
    mut stream: TlsStream<TcpStream>,
    mut block: Box<Block>,
    fault: ServiceFault,
) -> Ended {
    if Applicant::refuse(&mut block, fault).is_ok() && stream.write_all(&*block).await.is_ok() {
        // Courtesy.
        let _ = stream.shutdown().await;
    }
    Ended::Handshake
}

impl Connection {
    /// Subscribes to all queues of the service that the client is.
    pub(super) fn subscribe_service(&mut self, command: &Authorised<'_>) {
        let Some(session) = &mut self.service else {
            return self.reply(command, What::Refused(ErrorCode::Service));
        };
        let taken = session.cell.take(self.id, true);
        if taken.begins {
            session.bulk = Some(Bulk::default());
        }
        self.shared.metrics.service_subscribed.inc();
        if let Command::ServiceSub(Some(own)) | Command::NotifierServiceSub(Some(own)) =
            command.command()
            && *own != taken.queues
        {
            self.shared.metrics.service_drifts.inc();
        }
        self.tell_former_reader(taken.before, taken.queues);
        self.reply(command, What::ServiceSubscribed(taken.queues));
    }

    /// After a queue has become one of the service's: this connection reads for the service. Under
    /// the lock of the queue, so that nobody delivers to the connection before meanwhile.
    pub(super) fn read_for_service(&self) {
        if let Some(session) = &self.service {
            let taken = session.cell.take(self.id, false);
            self.tell_former_reader(taken.before, taken.queues);
        }
    }

    fn tell_former_reader(&self, before: Option<ConnectionId>, queues: ServiceQueues) {
        if let (Some(before), Some(session)) = (before, &self.service) {
            let news = News {
                queue: session.service().id.0,
                event: Happened::ServiceEnd(queues),
                position: self.shared.store.position(),
            };
            self.shared.registry.post(before, news);
        }
    }

    /// Whether the service has as many queues as it may, without this one.
    pub(super) fn is_service_full(&self, name: Option<&[u8; ID_BYTES]>) -> bool {
        let most = self.settings.limits.queues_per_service;
        let session = self.service.as_ref();
        session.is_some_and(|session| session.cell.is_full_for(name, most))
    }

    /// Moves a piece of what waits in the queues of the service into the outbox.
    pub(super) fn deliver_for_service(&mut self) -> Moved {
        let Some((session, bulk)) = self.service.as_mut().and_then(|session| {
            let bulk = session.bulk.take()?;
            Some((session, bulk))
        }) else {
            return false;
        };
        // Whoever reads for the service now has it all delivered.
        if self.closing.is_some() || !session.cell.is_read_by(self.id) {
            return true;
        }
        let limit = self.settings.limits.outgoing_bytes;
        if self.outbox.room() == 0 || self.outbox.bytes() >= limit {
            session.bulk = Some(bulk);
            return false;
        }
        let role = session.service().role;
        let names = session.cell.queues_after(bulk.last.as_ref(), PIECE);
        if names.is_empty() {
            if role == ServiceRole::Messaging {
                self.tell(What::AllDelivered);
            }
            return true;
        }
        let mut last = bulk.last;
        for name in names {
            if self.outbox.room() == 0 || self.outbox.bytes() >= limit {
                break;
            }
            self.deliver_waiting(role, &name);
            last = Some(name);
        }
        if let Some(session) = &mut self.service {
            session.bulk = Some(Bulk { last });
        }
        true
    }

    /// Moves what waits in one queue of the service into the outbox: one message or notification.
    fn deliver_waiting(&mut self, role: ServiceRole, name: &[u8; ID_BYTES]) {
        let shared = Arc::clone(&self.shared);
        let kind = match role {
            ServiceRole::Notifier => Name::Notifier,
            ServiceRole::Messaging | ServiceRole::Proxy => Name::Recipient,
        };
        let Some(cell) = shared.store.find(kind, name) else {
            return; // Deleted since.
        };
        let mut queue = cell.lock();
        if cell.is_deleted() {
            return;
        }
        let [own, notifier] = shared.store.services().readers(&queue);
        queue.follow_services(own, notifier);
        if role == ServiceRole::Notifier {
            let context = queue::Context {
                connection: self.id,
                now: now(),
                limits: self.settings.queue_limits,
            };
            if let Some(alert) = queue.notify_waiting(&context, &mut self.rng) {
                drop(queue);
                let notifier = alert.notifier;
                self.tell(What::Alert(alert));
                self.next_notification(notifier);
            }
        } else if let Some(delivery) = queue.deliver_waiting(self.id) {
            self.tell(What::Delivery(delivery));
        }
    }

    /// Says what nobody asked for, resting on everything that has happened in the store.
    fn tell(&mut self, what: What) {
        self.outbox.push(Reply {
            correlation: None,
            whose: Whose::None,
            what,
            position: self.shared.store.position(),
        });
    }
}
