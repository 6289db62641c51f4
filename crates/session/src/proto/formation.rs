//! How a session forms: host link, introductions, bound pairs, agreed roster
//! (`docs/spec/session.md` §5).

use junto_crypto::secretbox::{BoxKey, NONCE_BYTES, Nonce};

use super::{
    endpoint::{ConnectionId, RequestId},
    error::Misuse,
    evidence::{Court, Culprit, Evidence},
    fault::{Blame, Fault, Reason},
    identity::{self, KnownKeys, Policy},
    limits::{CARRIER_LINK_BYTES_MAX, CONTACT_BYTES_MAX, REFUSALS_MAX, STRANGERS_MAX},
    machine::{Agreed, Failure, Machine, Peer, Phase, Role, Work},
    node::Stranger,
    party::Members,
    record::{Bind, Hello, Introduction, Offer, Record, Refusal, Welcome},
    roster::{FormationId, Roster},
    statement,
    step::{Effect, PeerSlot, Step},
};

/// The host, in a joiner's numbering.
const HOST_SLOT: PeerSlot = 0;

impl Machine {
    /// Starts, or starts again after a restart: whatever is still to be done by the carrier.
    pub(crate) fn begin(&self, step: &mut Step) {
        if self.is_retired() {
            return;
        }
        if self.role == Role::Host {
            match &self.phase {
                Phase::Meeting if self.link.contact.is_empty() => {
                    step.effects.push(Effect::Address {
                        tag: self.tag_address(),
                        relay: self.relay.clone(),
                    });
                }
                Phase::Meeting | Phase::Binding => {}
                Phase::Formed | Phase::Failed(_) | Phase::Closing => {
                    step.effects.push(Effect::CloseAddress {
                        tag: self.tag_address(),
                    });
                }
            }
        }
        if matches!(self.phase, Phase::Closing) {
            return;
        }
        for slot in self.peers.keys() {
            self.connect(*slot, step);
        }
    }

    /// What a peer without a connection needs from the carrier.
    fn connect(&self, slot: PeerSlot, step: &mut Step) {
        let Some(peer) = self.peers.get(&slot) else {
            return;
        };
        let tag = self.tag_peer(slot);
        let relay = self.relay.clone();
        if self.role == Role::Host {
            if let (Some(request), None) = (peer.request, peer.connection) {
                step.effects.push(Effect::Accept {
                    request,
                    relay,
                    info: Welcome::Admitted.encode(),
                });
            }
        } else if slot == HOST_SLOT {
            if peer.connection.is_none() {
                step.effects.push(Effect::Join {
                    tag,
                    link: self.link.contact.clone(),
                    relay,
                    info: self.hello().encode(),
                });
            }
        } else if self.invites(slot) {
            if !peer.introduced {
                step.effects.push(Effect::Invite { tag, relay });
            }
        } else if let (Some(link), None) = (&peer.invitation, peer.connection) {
            step.effects.push(Effect::Join {
                tag,
                link: link.clone(),
                relay,
                info: Vec::new(),
            });
        }
    }

    /// Of two joiners, the one with the lower session key invites the other.
    fn invites(&self, slot: PeerSlot) -> bool {
        self.peers
            .get(&slot)
            .is_some_and(|peer| self.keys.signing.verifying_key() < peer.key)
    }

    fn hello(&self) -> Hello {
        let formation = self.link.formation();
        let entry = self
            .keys
            .entry(&formation, self.display_name.clone(), self.profile.clone());
        let signature = self
            .keys
            .signing
            .sign(&statement::hello(&formation, &entry.encode()));
        Hello { entry, signature }
    }

    /// The carrier made the contact address: the link is complete.
    pub(crate) fn address(&mut self, contact: String, step: &mut Step) -> Result<(), &'static str> {
        if self.role != Role::Host || !self.link.contact.is_empty() {
            return Ok(()); // repeated after a restart
        }
        if contact.is_empty() || contact.len() > CONTACT_BYTES_MAX {
            return Err("the carrier's contact address does not fit a session link");
        }
        self.link.contact = contact;
        if self.link.check().is_err() {
            self.link.contact.clear();
            return Err("the carrier's contact address is no plain URI");
        }
        self.store(&mut step.delta);
        Ok(())
    }

    /// Somebody came through the link.
    pub(crate) fn request(&mut self, request: RequestId, info: &[u8], work: &mut Work<'_>) {
        let step = &mut *work.step;
        if self.refused.contains_key(&request)
            || self
                .peers
                .values()
                .any(|peer| peer.request == Some(request))
        {
            return; // under way
        }
        if self.phase == Phase::Closing {
            // Nothing of the session will be left to say no.
            step.effects.push(Effect::Reject { request });
            return;
        }
        let answer = match Hello::decode(info) {
            Err(_) => Welcome::Refused(Refusal::Unfit),
            Ok(hello) => self.judge(&hello, work.known),
        };
        if let (Welcome::Admitted, Ok(hello)) = (answer, Hello::decode(info)) {
            let Some(slot) = (0..PeerSlot::MAX).find(|slot| !self.peers.contains_key(slot)) else {
                return;
            };
            let mut peer = self.new_peer(slot, hello.entry.key);
            peer.entry = Some(hello.entry);
            peer.request = Some(request);
            self.peers.insert(slot, peer);
            self.store_peer(slot, &mut step.delta);
            self.connect(slot, step);
            return;
        }
        if self.refusals >= REFUSALS_MAX {
            step.effects.push(Effect::Reject { request });
            return;
        }
        self.refusals += 1;
        self.refused.insert(request, None);
        step.effects.push(Effect::Accept {
            request,
            relay: self.relay.clone(),
            info: answer.encode(),
        });
    }

    /// At the host: frees the place of a joiner that never comes. Once the roster stands nobody can take its
    /// place, since all have shown their shares of the safety code: the formation fails, and all hear why.
    pub(crate) fn turn_away(
        &mut self,
        joiner: PeerSlot,
        work: &mut Work<'_>,
    ) -> Result<(), Misuse> {
        if self.role != Role::Host || !matches!(self.phase, Phase::Meeting | Phase::Binding) {
            return Err(Misuse::NotMeeting);
        }
        let Some(peer) = self.peers.get(&joiner) else {
            return Err(Misuse::NoJoiner(joiner));
        };
        if self.phase == Phase::Binding {
            self.fault(joiner, Fault::Unreachable, work);
            return Ok(());
        }
        if let (Some(request), None) = (peer.request, peer.connection) {
            work.step.effects.push(Effect::Reject { request });
        }
        self.remove_peer(joiner, work.step);
        Ok(())
    }

    fn judge(&mut self, hello: &Hello, known: &KnownKeys) -> Welcome {
        let formation = self.link.formation();
        let statement = statement::hello(&formation, &hello.entry.encode());
        let own = self.keys.signing.verifying_key();
        let taken =
            hello.entry.key == own || self.peers.values().any(|peer| peer.key == hello.entry.key);
        if hello
            .entry
            .key
            .verify(&statement, &hello.signature)
            .is_err()
            || !hello.entry.satisfies(&self.link)
            || taken
        {
            return Welcome::Refused(Refusal::Unfit);
        }
        let full = self.peers.len() + 1 >= self.link.params.parties.as_usize();
        if self.phase != Phase::Meeting || full {
            return Welcome::Refused(Refusal::Full);
        }
        let mut met = self.peers.values().filter_map(|peer| peer.entry.as_ref());
        let name_taken = hello.entry.name == self.display_name
            || met.any(|entry| entry.name == hello.entry.name);
        if name_taken && self.link.params.policy.remembers_names() {
            return Welcome::Refused(Refusal::NameTaken);
        }
        if let (Policy::Pinned, Some(profile)) = (self.link.params.policy, &hello.entry.profile)
            && !identity::is_pinned(&profile.key, &self.pinned, known)
        {
            if self.strangers.len() >= STRANGERS_MAX {
                self.strangers.pop_front();
            }
            self.strangers.push_back(Stranger {
                name: hello.entry.name.clone(),
                key: profile.key,
            });
            return Welcome::Refused(Refusal::NotPinned);
        }
        if let Some(profile) = &hello.entry.profile {
            let own = self.profile.as_ref().map(|own| own.key);
            let met = self.peers.values().filter_map(|peer| peer.entry.as_ref());
            let mut keys = met.filter_map(|entry| Some(entry.profile.as_ref()?.key));
            if own == Some(profile.key) || keys.any(|key| key == profile.key) {
                return Welcome::Refused(Refusal::Seated);
            }
        }
        Welcome::Admitted
    }

    /// The carrier accepted a request. Returns whose connection it is; `None` for a refused one.
    pub(crate) fn accepted(
        &mut self,
        request: RequestId,
        connection: ConnectionId,
        step: &mut Step,
    ) -> Option<PeerSlot> {
        if let Some(refused) = self.refused.get_mut(&request) {
            *refused = Some(connection);
            return None;
        }
        let slot = self
            .peers
            .iter()
            .find(|(_, peer)| peer.request == Some(request))
            .map(|(&slot, _)| slot)?;
        self.attach(slot, connection, step);
        Some(slot)
    }

    /// The connection of `slot` has a name now.
    pub(crate) fn attach(&mut self, slot: PeerSlot, connection: ConnectionId, step: &mut Step) {
        if let Some(peer) = self.peers.get_mut(&slot)
            && peer.connection.is_none()
        {
            peer.connection = Some(connection);
            self.store_peer(slot, &mut step.delta);
        }
    }

    /// The carrier made an invitation for `slot`: seal it and give it to the host.
    pub(crate) fn invitation(
        &mut self,
        slot: PeerSlot,
        connection: ConnectionId,
        link: &str,
        work: &mut Work<'_>,
    ) -> Result<(), &'static str> {
        self.attach(slot, connection, work.step);
        let (Some(agreed), Some(peer)) = (&self.agreed, self.peers.get(&slot)) else {
            return Ok(());
        };
        if peer.introduced {
            return Ok(()); // repeated after a restart
        }
        if link.len() > CARRIER_LINK_BYTES_MAX {
            return Err("the carrier's invitation is too long");
        }
        let Some(exchange) = agreed
            .roster
            .index_of(&peer.key)
            .and_then(|party| agreed.roster.entry(party))
            .map(|entry| entry.exchange)
        else {
            return Err("an invitation for a party outside the roster");
        };
        let Ok(shared) = self.keys.exchange.diffie_hellman(&exchange) else {
            // A key of small order keeps nothing secret: its owner is to blame, nobody else.
            self.fault(slot, Fault::Malformed("exchange key"), work);
            return Ok(());
        };
        let mut nonce = [0; NONCE_BYTES];
        work.rng.fill_bytes(&mut nonce);
        let mut sealed = nonce.to_vec();
        BoxKey::from_shared(&shared).seal(&Nonce(nonce), link.as_bytes(), &mut sealed);
        let from = self.keys.signing.verifying_key();
        let introduction = Introduction {
            session: agreed.id,
            offer: agreed.offer,
            from,
            to: peer.key,
            signature: self.keys.signing.sign(&statement::introduction(
                &agreed.id, &from, &peer.key, &sealed,
            )),
            sealed,
        };
        self.push(
            HOST_SLOT,
            &Record::Introduction(Box::new(introduction)),
            work.step,
        );
        if let Some(peer) = self.peers.get_mut(&slot) {
            peer.introduced = true;
        }
        self.store_peer(slot, &mut work.step.delta);
        Ok(())
    }

    /// A connection stands.
    pub(crate) fn connected(
        &mut self,
        slot: PeerSlot,
        binding: [u8; 32],
        info: &[u8],
        work: &mut Work<'_>,
    ) {
        let Some(peer) = self.peers.get_mut(&slot) else {
            return;
        };
        if peer.binding.is_some() {
            return; // repeated after a restart
        }
        peer.binding = Some(binding);
        self.store_peer(slot, &mut work.step.delta);
        if self.role == Role::Joiner && slot == HOST_SLOT {
            match Welcome::decode(info) {
                Ok(Welcome::Admitted) => {}
                Ok(Welcome::Refused(refusal)) => {
                    self.fail(Failure::Refused(refusal), work);
                    return;
                }
                Err(malformed) => {
                    self.fault(slot, malformed.into(), work);
                    return;
                }
            }
        }
        match &self.phase {
            Phase::Failed(Failure::Blamed(blame)) => {
                let record = Record::Failed(blame.reason());
                self.push(slot, &record, work.step);
            }
            Phase::Binding => self.push_bind(slot, work.step),
            Phase::Meeting if self.role == Role::Host => self.offer_when_complete(work),
            Phase::Meeting
            | Phase::Formed
            | Phase::Failed(Failure::Refused(_) | Failure::Restored) => {}
            Phase::Closing => {
                self.push(slot, &Record::Closed, work.step);
            }
        }
    }

    /// At the host: once all joiners are connected, the roster stands.
    fn offer_when_complete(&mut self, work: &mut Work<'_>) {
        let complete = self.peers.len() + 1 == self.link.params.parties.as_usize()
            && self.peers.values().all(|peer| peer.binding.is_some());
        if !complete {
            return;
        }
        let formation = self.link.formation();
        let mut entries = vec![self.hello().entry];
        entries.extend(self.peers.values().filter_map(|peer| peer.entry.clone()));
        let Ok(roster) = Roster::new(entries) else {
            return; // joiners' keys are distinct and their number is right: `judge`
        };
        let id = roster.session_id(&formation);
        let offer = self.keys.signing.sign(&statement::offer(&formation, &id));
        let record = Record::Offer(Offer {
            roster: roster.clone(),
            signature: offer,
        });
        let slots: Vec<_> = self.peers.keys().copied().collect();
        for slot in slots {
            self.push(slot, &record, work.step);
        }
        self.agree(roster, offer, work);
    }

    fn agree(
        &mut self,
        roster: Roster,
        offer: junto_crypto::ed25519::Signature,
        work: &mut Work<'_>,
    ) {
        let formation = self.link.formation();
        let Some(me) = roster.index_of(&self.keys.signing.verifying_key()) else {
            return; // checked by both callers
        };
        let policy = self.link.params.policy;
        let checked = identity::check(policy, (work.known, &self.pinned), &roster, me);
        self.agreed = Some(Agreed {
            id: roster.session_id(&formation),
            roster,
            offer,
            me,
        });
        self.phase = Phase::Binding;
        if let Err(fault) = checked {
            let blame = Blame::party(fault.party(), Fault::Identity(fault));
            self.fail(Failure::Blamed(blame), work);
            return;
        }
        self.store(&mut work.step.delta);
        if self.role == Role::Joiner {
            self.add_pairs(work);
        }
        let slots: Vec<_> = self.peers.keys().copied().collect();
        for slot in slots {
            if self
                .peers
                .get(&slot)
                .is_some_and(|peer| peer.binding.is_some())
            {
                self.push_bind(slot, work.step);
            }
        }
    }

    /// At a joiner: a place for each other joiner, and invitations for those we invite.
    fn add_pairs(&mut self, work: &mut Work<'_>) {
        let Some(agreed) = &self.agreed else { return };
        let own = self.keys.signing.verifying_key();
        let keys: Vec<_> = agreed
            .roster
            .iter()
            .filter(|(_, entry)| entry.key != own && entry.key != self.link.host)
            .map(|(party, entry)| (party.as_u8() + 1, entry.key))
            .collect();
        for (slot, key) in keys {
            let peer = self.new_peer(slot, key);
            self.peers.insert(slot, peer);
            self.store_peer(slot, &mut work.step.delta);
            self.connect(slot, work.step);
        }
    }

    fn push_bind(&mut self, slot: PeerSlot, step: &mut Step) {
        let (Some(agreed), Some(peer)) = (&self.agreed, self.peers.get(&slot)) else {
            return;
        };
        let Some(binding) = &peer.binding else { return };
        let signing = &self.keys.signing;
        let bind = Bind {
            session: agreed.id,
            offer: agreed.offer,
            bind: signing.sign(&statement::bind(
                &agreed.id,
                binding,
                &signing.verifying_key(),
                &peer.key,
            )),
            roster: signing.sign(&statement::roster(&agreed.id)),
            reveal: self.keys.reveal.0,
        };
        self.push(slot, &Record::Bind(Box::new(bind)), step);
    }

    /// Records that make or end a session. An error is the fault of the peer at `slot`.
    pub(crate) fn formation_record(
        &mut self,
        slot: PeerSlot,
        record: Record,
        work: &mut Work<'_>,
    ) -> Result<(), Fault> {
        match record {
            Record::Offer(offer) => self.receive_offer(slot, offer, work),
            Record::Introduction(introduction) if self.role == Role::Host => {
                self.forward(slot, *introduction, work)
            }
            Record::Introduction(introduction) => {
                self.receive_introduction(slot, &introduction, work)
            }
            Record::Bind(bind) => self.receive_bind(slot, &bind, work),
            Record::Ready => self.receive_ready(slot, work),
            Record::Failed(reason) => self.receive_failed(slot, reason, work),
            Record::Unformed(reason) if matches!(self.phase, Phase::Meeting | Phase::Binding) => {
                self.receive_failed(slot, reason, work)
            }
            Record::Unformed(_) => Ok(()),
            Record::Verified(verified) => self.receive_verified(slot, verified, work),
            Record::Closed => Err(Fault::Left),
            Record::P2p { .. }
            | Record::Broadcast { .. }
            | Record::Echo { .. }
            | Record::Abort { .. }
            | Record::Channel { .. } => Err(Fault::OutOfPlace("message")),
        }
    }

    fn receive_offer(
        &mut self,
        slot: PeerSlot,
        offer: Offer,
        work: &mut Work<'_>,
    ) -> Result<(), Fault> {
        if self.role == Role::Host || slot != HOST_SLOT {
            return Err(Fault::OutOfPlace("roster"));
        }
        let formation = self.link.formation();
        let id = offer.roster.session_id(&formation);
        let statement = statement::offer(&formation, &id);
        if self.link.host.verify(&statement, &offer.signature).is_err() {
            return Err(Fault::BadSignature("roster"));
        }
        if let Some(agreed) = &self.agreed {
            if agreed.id == id {
                return Ok(());
            }
            let evidence = Evidence::SplitRoster {
                first: (agreed.id, agreed.offer),
                second: (id, offer.signature),
            };
            return Err(Fault::Proven(Box::new(evidence)));
        }
        if self.phase != Phase::Meeting {
            return Ok(()); // failed before
        }
        self.check_roster(&offer.roster)?;
        self.agree(offer.roster, offer.signature, work);
        Ok(())
    }

    fn check_roster(&self, roster: &Roster) -> Result<(), Fault> {
        if roster.count() != self.link.params.parties {
            return Err(Fault::BadRoster("has the wrong number of parties"));
        }
        if roster.index_of(&self.link.host).is_none() {
            return Err(Fault::BadRoster("leaves out the host"));
        }
        let own = self.hello().entry;
        let listed = roster
            .index_of(&own.key)
            .and_then(|party| roster.entry(party));
        if listed != Some(&own) {
            return Err(Fault::BadRoster("leaves us out or changes us"));
        }
        if !roster.iter().all(|(_, entry)| entry.satisfies(&self.link)) {
            return Err(Fault::BadRoster("does not satisfy the policy"));
        }
        if self.link.params.policy.remembers_names() && !roster.names_are_distinct() {
            return Err(Fault::BadRoster("has two parties of one name"));
        }
        Ok(())
    }

    /// At the host: passes a sound introduction on.
    fn forward(
        &mut self,
        slot: PeerSlot,
        introduction: Introduction,
        work: &mut Work<'_>,
    ) -> Result<(), Fault> {
        let (Some(agreed), Some(from)) = (&self.agreed, self.party_of(slot)) else {
            return Err(Fault::OutOfPlace("introduction"));
        };
        let to = agreed
            .roster
            .index_of(&introduction.to)
            .filter(|&to| to > from && to != agreed.me);
        let (Some(to), true) = (to, agreed.roster.index_of(&introduction.from) == Some(from))
        else {
            return Err(Fault::WrongParty);
        };
        let statement = statement::introduction(
            &introduction.session,
            &introduction.from,
            &introduction.to,
            &introduction.sealed,
        );
        if introduction.session != agreed.id
            || introduction.offer != agreed.offer
            || !agreed
                .roster
                .verify(from, &statement, &introduction.signature)
        {
            return Err(Fault::BadSignature("introduction"));
        }
        if self.forwarded.insert((from, to)) {
            self.push_to(to, &Record::Introduction(Box::new(introduction)), work.step);
        }
        Ok(())
    }

    /// At a joiner: another joiner's invitation, through the host. What the host should not have
    /// passed on is the host's fault; what its author alone could have made is the author's.
    fn receive_introduction(
        &mut self,
        slot: PeerSlot,
        introduction: &Introduction,
        work: &mut Work<'_>,
    ) -> Result<(), Fault> {
        let own = self.keys.signing.verifying_key();
        let Some(agreed) = self.agreed.as_ref().filter(|_| slot == HOST_SLOT) else {
            return Err(Fault::OutOfPlace("introduction"));
        };
        let statement = statement::introduction(
            &introduction.session,
            &introduction.from,
            &introduction.to,
            &introduction.sealed,
        );
        if introduction.to != own
            || introduction
                .from
                .verify(&statement, &introduction.signature)
                .is_err()
        {
            return Err(Fault::BadSignature("introduction"));
        }
        let same_session = introduction.session == agreed.id;
        let split = Evidence::SplitRoster {
            first: (agreed.id, agreed.offer),
            second: (introduction.session, introduction.offer),
        };
        let formation = self.link.formation();
        let host_signed_both = split.convict(&self.court(&formation)).is_some();
        let author = agreed
            .roster
            .index_of(&introduction.from)
            .and_then(|party| self.slot_of(party));
        let Some(author) = author else {
            return Err(if host_signed_both {
                Fault::Proven(Box::new(split))
            } else {
                Fault::OutOfPlace("introduction")
            });
        };
        // Even in a split session the pair connects, so that the evidence reaches the author.
        let opened = self.open_introduction(author, introduction);
        if let (Ok(link), Some(peer)) = (&opened, self.peers.get_mut(&author))
            && peer.invitation.is_none()
        {
            peer.invitation = Some(link.clone());
            self.store_peer(author, &mut work.step.delta);
            self.connect(author, work.step);
        }
        match (same_session, host_signed_both, opened) {
            (true, _, Ok(_)) => Ok(()),
            (true, _, Err(fault)) => {
                self.fault(author, fault, work);
                Ok(())
            }
            (false, true, _) => Err(Fault::Proven(Box::new(split))),
            (false, false, _) => {
                self.fault(author, Fault::BadSignature("introduction"), work);
                Ok(())
            }
        }
    }

    fn open_introduction(
        &self,
        author: PeerSlot,
        introduction: &Introduction,
    ) -> Result<String, Fault> {
        const BAD: Fault = Fault::Malformed("introduction");
        if self.invites(author) {
            return Err(Fault::OutOfPlace("introduction"));
        }
        let exchange = self
            .agreed
            .as_ref()
            .and_then(|agreed| {
                let party = agreed.roster.index_of(&introduction.from)?;
                agreed.roster.entry(party)
            })
            .ok_or(BAD)?
            .exchange;
        let shared = self
            .keys
            .exchange
            .diffie_hellman(&exchange)
            .map_err(|_| BAD)?;
        let (nonce, boxed) = introduction
            .sealed
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(BAD)?;
        let link = BoxKey::from_shared(&shared)
            .open(&Nonce(*nonce), boxed)
            .map_err(|_| BAD)?;
        let link = core::str::from_utf8(&link).map_err(|_| BAD)?;
        if link.is_empty() || link.len() > CARRIER_LINK_BYTES_MAX {
            return Err(BAD);
        }
        Ok(link.to_owned())
    }

    fn receive_bind(
        &mut self,
        slot: PeerSlot,
        bind: &Bind,
        work: &mut Work<'_>,
    ) -> Result<(), Fault> {
        let formation = self.link.formation();
        let (Some(agreed), Some(peer)) = (&self.agreed, self.peers.get(&slot)) else {
            return Err(Fault::OutOfPlace("binding"));
        };
        let Some(binding) = peer.binding else {
            return Err(Fault::OutOfPlace("binding"));
        };
        if bind.session != agreed.id {
            let split = Evidence::SplitRoster {
                first: (agreed.id, agreed.offer),
                second: (bind.session, bind.offer),
            };
            let Some(culprit) = split.convict(&self.court(&formation)) else {
                return Err(Fault::BadSignature("binding"));
            };
            let blame = Blame {
                culprit,
                fault: Fault::Proven(Box::new(split)),
            };
            self.fail(Failure::Blamed(blame), work);
            return Ok(());
        }
        let own = self.keys.signing.verifying_key();
        let statement = statement::bind(&agreed.id, &binding, &peer.key, &own);
        if peer.key.verify(&statement, &bind.bind).is_err() {
            return Err(Fault::WrongBinding);
        }
        if peer
            .key
            .verify(&statement::roster(&agreed.id), &bind.roster)
            .is_err()
        {
            return Err(Fault::BadSignature("roster signature"));
        }
        let committed = agreed
            .roster
            .index_of(&peer.key)
            .and_then(|party| agreed.roster.entry(party))
            .map(|entry| entry.commitment);
        if committed != Some(statement::commitment(&formation, &peer.key, &bind.reveal)) {
            return Err(Fault::BadReveal);
        }
        let was_bound = self.is_bound();
        if let Some(peer) = self.peers.get_mut(&slot) {
            peer.bound = Some((bind.roster, bind.reveal));
        }
        self.store_peer(slot, &mut work.step.delta);
        if !was_bound && self.is_bound() {
            let slots: Vec<PeerSlot> = self.peers.keys().copied().collect();
            for slot in slots {
                self.push(slot, &Record::Ready, work.step);
            }
        }
        self.form_when_ready(work);
        Ok(())
    }

    /// The peer is bound with everybody, so nobody needs the host for an introduction to it.
    fn receive_ready(&mut self, slot: PeerSlot, work: &mut Work<'_>) -> Result<(), Fault> {
        match self.peers.get_mut(&slot) {
            Some(peer) if peer.bound.is_some() => peer.ready = true,
            _ => return Err(Fault::OutOfPlace("readiness")),
        }
        self.store_peer(slot, &mut work.step.delta);
        self.form_when_ready(work);
        Ok(())
    }

    /// The user here compared the safety code, or takes that back: the others are told.
    pub(crate) fn verify(&mut self, verified: bool, step: &mut Step) {
        if self.verified == verified {
            return;
        }
        self.verified = verified;
        self.store(&mut step.delta);
        let heard = |peer: &Peer| peer.broken.is_none() && peer.binding.is_some();
        let peers = self.peers.iter().filter(|(_, peer)| heard(peer));
        let slots: Vec<_> = peers.map(|(slot, _)| *slot).collect();
        for slot in slots {
            self.push(slot, &Record::Verified(verified), step);
        }
    }

    /// The peer's user compared the safety code: its word, for its own part.
    fn receive_verified(
        &mut self,
        slot: PeerSlot,
        verified: bool,
        work: &mut Work<'_>,
    ) -> Result<(), Fault> {
        match self.peers.get_mut(&slot) {
            Some(peer) if peer.ready => peer.verified = verified,
            _ => return Err(Fault::OutOfPlace("verification")),
        }
        self.store_peer(slot, &mut work.step.delta);
        Ok(())
    }

    /// Who said that its user compared the safety code, of the others.
    pub(crate) fn verified_by(&self) -> Members {
        let verified = self.peers.iter().filter(|(_, peer)| peer.verified);
        verified
            .filter_map(|(slot, _)| self.party_of(*slot))
            .collect()
    }

    /// Whether we are bound with everybody.
    fn is_bound(&self) -> bool {
        self.peers.len() + 1 == self.link.params.parties.as_usize()
            && self.peers.values().all(|peer| peer.bound.is_some())
    }

    fn form_when_ready(&mut self, work: &mut Work<'_>) {
        let ready = self.phase == Phase::Binding
            && self.is_bound()
            && self.peers.values().all(|peer| peer.ready);
        if !ready {
            return;
        }
        self.phase = Phase::Formed;
        self.remember_keys(work);
        self.store(&mut work.step.delta);
        if self.role == Role::Host {
            // The host's special part is over.
            work.step.effects.push(Effect::CloseAddress {
                tag: self.tag_address(),
            });
        }
    }

    /// `tofu`: whom we met, we shall know again.
    fn remember_keys(&self, work: &mut Work<'_>) {
        let Some(agreed) = &self.agreed else { return };
        if let Ok(new) = identity::check(
            self.link.params.policy,
            (work.known, &self.pinned),
            &agreed.roster,
            agreed.me,
        ) {
            for (name, key) in new.iter() {
                super::node::remember(work.known, name, *key, &mut work.step.delta);
            }
        }
    }

    fn receive_failed(
        &mut self,
        slot: PeerSlot,
        reason: Reason,
        work: &mut Work<'_>,
    ) -> Result<(), Fault> {
        if matches!(self.phase, Phase::Failed(_) | Phase::Closing) {
            return Ok(());
        }
        let formation = self.link.formation();
        let convicted = match &reason {
            Reason::Proven(evidence) => match evidence.convict(&self.court(&formation)) {
                Some(culprit) => Some((culprit, evidence.clone())),
                None => return Err(Fault::FalseAccusation),
            },
            Reason::GaveUp { .. }
            | Reason::Silent { .. }
            | Reason::Observed { .. }
            | Reason::Gone { .. } => None,
        };
        if self.phase == Phase::Formed {
            // Our part is done, and subsets without that party can go on; but who still forms would
            // wait in vain.
            self.pass_on_failure(slot, &reason, work);
            return Err(Fault::GaveUp(Box::new(reason)));
        }
        match convicted {
            Some((culprit, evidence)) => {
                let blame = Blame {
                    culprit,
                    fault: Fault::Proven(evidence),
                };
                self.fail(Failure::Blamed(blame), work);
                Ok(())
            }
            None => Err(Fault::GaveUp(Box::new(reason))),
        }
    }

    fn pass_on_failure(&mut self, from: PeerSlot, reason: &Reason, work: &mut Work<'_>) {
        let reason = match (reason, self.party_of(from)) {
            (Reason::Proven(_) | Reason::Gone { .. }, _) | (_, None) => reason.clone(),
            (_, Some(accused)) => Reason::Observed { accused },
        };
        let others: Vec<_> = self
            .peers
            .iter()
            .filter(|(slot, peer)| **slot != from && peer.broken.is_none())
            .map(|(&slot, _)| slot)
            .collect();
        for slot in others {
            self.push(slot, &Record::Unformed(reason.clone()), work.step);
        }
    }

    /// The session will not form. Everybody we can reach learns why.
    pub(crate) fn fail(&mut self, failure: Failure, work: &mut Work<'_>) {
        if !matches!(self.phase, Phase::Meeting | Phase::Binding) {
            return;
        }
        if let Failure::Blamed(blame) = &failure {
            let record = Record::Failed(blame.reason());
            let slots: Vec<_> = self
                .peers
                .iter()
                .filter(|(_, peer)| peer.binding.is_some())
                .map(|(&slot, _)| slot)
                .collect();
            for slot in slots {
                self.push(slot, &record, work.step);
            }
        }
        self.phase = Phase::Failed(failure);
        self.store(&mut work.step.delta);
        if self.role == Role::Host {
            work.step.effects.push(Effect::CloseAddress {
                tag: self.tag_address(),
            });
        }
    }

    /// For a caller that waited: who is missing.
    pub(crate) fn unbound(&self) -> (usize, Members) {
        let bound = self
            .peers
            .values()
            .filter(|peer| match self.phase {
                Phase::Meeting => peer.binding.is_some(),
                Phase::Binding | Phase::Formed | Phase::Failed(_) | Phase::Closing => {
                    peer.bound.is_some()
                }
            })
            .count();
        let missing = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.bound.is_none())
            .filter_map(|(slot, _)| self.party_of(*slot))
            .collect();
        (bound + 1, missing)
    }
}

/// Whether `evidence` convicts the host of this formation, for tests and outsiders.
#[must_use]
pub fn convicts_host(
    evidence: &Evidence,
    formation: &FormationId,
    host: &junto_crypto::ed25519::VerifyingKey,
) -> bool {
    evidence.convict(&Court {
        formation,
        host,
        roster: None,
    }) == Some(Culprit::Host)
}
