//! How often a peer's offers of queues are taken up: what waits for it may have to be sealed anew for each, up to 512
//! messages of 16 KiB. An offer that comes too soon waits.

use std::time::Duration;

use junto_crypto::CryptoRng;

use super::address::{QueueAddress, QueueName, QueueUri};
use super::connection::{Connection, Stage};
use super::effects::{Effects, Timer};
use super::instant::Instant;
use super::parallel::QUEUES_MAX;

/// How many are taken up at once: all queues that a peer may have.
const AT_ONCE: u32 = QUEUES_MAX as u32;

/// How much later than the one before each further one is.
const PAUSE: Duration = Duration::from_secs(60);

/// A queue of the peer, and the one that it replaces if any.
pub(super) type Offer = (QueueUri, Option<QueueName>);

/// What is kept of it, in memory only: a peer that hears nothing offers again, and cannot make us start anew.
#[derive(Default)]
pub(super) struct Offers {
    /// When all that were taken up have had their pause.
    until: Instant,
    /// Those that wait, oldest first.
    waiting: Vec<Offer>,
}

impl Offers {
    /// Those that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &QueueAddress> {
        self.waiting.iter().map(|(uri, _)| &uri.address)
    }

    /// From when on one may be taken up.
    fn opens(&self) -> Instant {
        let ahead = PAUSE.saturating_mul(AT_ONCE - 1).as_millis();
        let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
        Instant::from_millis(self.until.as_millis().saturating_sub(ahead))
    }

    /// Takes a new one up, or lets it wait; then says when to look again, unless others wait for the same.
    fn admit(&mut self, offer: &Offer, now: Instant) -> Result<(), Option<Instant>> {
        // None passes those that wait.
        if self.waiting.is_empty() && self.opens() <= now {
            self.until = self.until.max(now).after(PAUSE);
            return Ok(());
        }
        let is_first = self.waiting.is_empty();
        let name = QueueName::of(&offer.0.address);
        // Of several that are to replace the same queue the peer means the last one.
        let is_other = |(uri, replaced): &Offer| {
            !name.names(&uri.address) && (replaced.is_none() || *replaced != offer.1)
        };
        self.waiting.retain(is_other);
        if self.waiting.len() >= QUEUES_MAX {
            self.waiting.remove(0);
        }
        self.waiting.push(offer.clone());
        Err(is_first.then(|| self.opens()))
    }
}

impl Connection {
    /// The peer has told us of all of its queues: what it does not name it offers no longer.
    pub(super) fn keep_offers(&mut self, is_named: impl Fn(&QueueAddress) -> bool) {
        self.offers
            .waiting
            .retain(|(uri, _)| is_named(&uri.address));
    }

    /// Whether a new offer is taken up now; it waits otherwise.
    pub(super) fn admits_offer(&mut self, offer: &Offer, effects: &mut Effects) -> bool {
        match self.offers.admit(offer, effects.now) {
            Ok(()) => true,
            Err(opens) => {
                if let Some(at) = opens {
                    effects.wake_at(at, Timer::Offers(self.id));
                }
                false
            }
        }
    }

    /// Takes up what waited.
    pub(super) fn offers_due(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if self.stage != Stage::Active {
            return;
        }
        for offer in core::mem::take(&mut self.offers.waiting) {
            self.take_queue(&[offer], effects, rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::proto::message::Body;
    use crate::proto::parallel::tests::{active, offer, used};

    #[test]
    fn a_peer_that_replaces_its_queues_for_ever_has_little_sealed_anew() {
        let (mut connection, mut effects, mut rng) = active();
        for number in [1, 2] {
            used(&mut connection, number, (&mut effects, &mut rng));
        }
        for _ in 0..50 {
            let body = Body::Message(b"waits");
            connection.enqueue(&body, &mut effects, &mut rng).unwrap();
        }
        let (&row, sealed) = connection.outbox.first_key_value().unwrap();
        let (mut sealed, mut count) = (sealed.clone(), 0);
        let began = effects.now;
        for second in 0..600_u64 {
            effects.now = began.after(Duration::from_secs(second));
            // Always one behind the first.
            let replaced = connection
                .sends()
                .last()
                .map(|it| QueueName::of(&it.address));
            let uri = offer(&connection, 9, &mut rng);
            connection.take_queue(&[(uri, replaced)], &mut effects, &mut rng);
            while let Some(timer) = effects.take_due() {
                if timer == Timer::Offers(connection.id) {
                    connection.offers_due(&mut effects, &mut rng);
                }
            }
            let now = &connection.outbox[&row];
            count += usize::from(*now != sealed);
            sealed = now.clone();
            assert!(connection.offers.waiting.len() <= QUEUES_MAX);
        }
        assert!((1..=2 + 10).contains(&count), "{count} in 600 s");
    }

    fn look_again(connection: &mut Connection, effects: &mut Effects, rng: &mut ChaCha20Rng) {
        while let Some(timer) = effects.take_due() {
            if timer == Timer::Offers(connection.id) {
                connection.offers_due(effects, rng);
            }
        }
    }

    #[test]
    fn no_offer_passes_those_that_wait() {
        let (mut connection, mut effects, mut rng) = active();
        connection.parallel.understood = true;
        let replaced = QueueName::of(&connection.send.as_ref().unwrap().address);
        for _ in 0..AT_ONCE {
            let uri = offer(&connection, 9, &mut rng);
            connection.take_queue(&[(uri, Some(replaced.clone()))], &mut effects, &mut rng);
        }
        let beside = offer(&connection, 8, &mut rng);
        let names = [&replaced, &QueueName::of(&beside.address)].map(QueueName::clone);
        connection.take_queue(&[(beside, None)], &mut effects, &mut rng);
        let given_up = offer(&connection, 9, &mut rng);
        connection.take_queue(
            &[(given_up, Some(replaced.clone()))],
            &mut effects,
            &mut rng,
        );
        let before = connection.outbox.len();
        assert_eq!(connection.offers.waiting.len(), 2);
        // It comes just before those that wait are looked at again.
        effects.now = effects.now.after(PAUSE);
        let last = offer(&connection, 9, &mut rng);
        let name = QueueName::of(&last.address);
        connection.take_queue(&[(last, Some(replaced))], &mut effects, &mut rng);
        assert_eq!(connection.outbox.len(), before, "it waits, too");
        for _ in 0..5 {
            look_again(&mut connection, &mut effects, &mut rng);
            effects.now = effects.now.after(PAUSE);
        }
        assert_eq!(connection.outbox.len(), before + 2, "QK for one of each");
        let offered = connection.rotation.offered().unwrap();
        assert!(name.names(&offered.address));
        assert!(connection.parallel.is_offered(&names[1]));
    }

    #[test]
    fn what_waits_is_forgotten_when_the_peer_names_it_no_more() {
        let (mut connection, mut effects, mut rng) = active();
        let replaced = QueueName::of(&connection.send.as_ref().unwrap().address);
        for _ in 0..=AT_ONCE {
            let uri = offer(&connection, 9, &mut rng);
            connection.take_queue(&[(uri, Some(replaced.clone()))], &mut effects, &mut rng);
        }
        assert_eq!(connection.offers.waiting.len(), 1);
        connection.take_list(&[replaced], &mut effects, &mut rng);
        assert!(connection.offers.waiting.is_empty());
        assert!(connection.rotation.offered().is_none());
    }

    #[test]
    fn an_offer_that_comes_too_soon_is_taken_up_later() {
        let (mut connection, mut effects, mut rng) = active();
        let mut last = None;
        for _ in 0..2 * AT_ONCE {
            let replaced = QueueName::of(&connection.send.as_ref().unwrap().address);
            let uri = offer(&connection, 9, &mut rng);
            last = Some(QueueName::of(&uri.address));
            connection.take_queue(&[(uri, Some(replaced))], &mut effects, &mut rng);
        }
        let before = connection.outbox.len();
        assert_eq!(before, AT_ONCE as usize, "one answer for each");
        let began = effects.now;
        for minute in 1..10 {
            effects.now = began.after(PAUSE.saturating_mul(minute));
            look_again(&mut connection, &mut effects, &mut rng);
        }
        assert!(connection.offers.waiting.is_empty());
        // The last one is what counts.
        assert_eq!(connection.outbox.len(), 1 + AT_ONCE as usize);
        let name = last.unwrap();
        connection.use_queue(&[(name.clone(), true)], &mut effects, &mut rng);
        connection.leave_for_offered(&mut effects, &mut rng);
        assert!(name.names(&connection.send.as_ref().unwrap().address));
    }
}
