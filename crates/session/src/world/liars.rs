//! One party lies, in every step there is to lie in: the honest ones stop and name it.
//!
//! Where the lie is signed, all honest parties name the liar, with evidence that convinces an
//! outsider. Where it is not, whoever saw it names the liar, and the others name both.

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use junto_crypto::{hash, x25519};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use super::{BODY_BYTES, Lie, World, persona};
use crate::{
    Blame, Court, Culprit, DisplayName, Evidence, Fault, Members, PartyIndex, Reason, Round,
    SessionLink,
    carrier::{Carriage, ConnectionId, Event, Tag},
    proto::{
        convicts_host,
        execution::Purpose,
        machine::Machine,
        pipe::{Bundle, Pipe},
        record::{Hello, Offer, Record, Welcome},
        roster::{Entry, Roster, SessionKeys},
        statement::{self, Slot},
        step::{Delta, Effect, LocalId},
    },
    shell::driver::once,
};

use super::aborts::abort;

/// A world in which `liar` (by place, 0 is the host) lies.
fn lying(parties: usize, liar: usize, lie: Lie) -> World {
    let mut world = World::new(parties, 5);
    world.parties[liar].lie = Some(lie);
    world.invite();
    world.run();
    world
}

fn index(world: &World, place: usize) -> PartyIndex {
    world.summary(place).me.unwrap()
}

fn honest(world: &World, liar: usize) -> Vec<usize> {
    (0..world.parties.len())
        .filter(|&place| place != liar)
        .collect()
}

/// All honest parties name the liar, and hold the same kind of proof.
fn assert_convicted(world: &World, liar: usize, proof: impl Fn(&Evidence) -> bool) {
    let culprit = Culprit::Party(index(world, liar));
    for place in honest(world, liar) {
        let blame = world.blame(place).unwrap_or_else(|| {
            panic!(
                "party {place} names nobody: {:?}",
                world.parties[place].error
            )
        });
        assert_eq!(blame.culprit, culprit, "party {place}: {:?}", blame.fault);
        let Fault::Proven(evidence) = &blame.fault else {
            panic!("party {place} has no proof: {:?}", blame.fault);
        };
        assert!(proof(evidence), "party {place}: {evidence:?}");
        // An outsider with the roster comes to the same verdict, from bytes.
        let machine = machine(world, place);
        let formation = machine.link.formation();
        let court = Court {
            formation: &formation,
            host: &machine.link.host,
            roster: machine.agreed.as_ref().map(|agreed| &agreed.roster),
        };
        let evidence = Evidence::decode(&evidence.encode()).unwrap();
        assert_eq!(evidence.convict(&court), Some(culprit));
    }
}

/// Everybody honest stops; who saw the lie names the liar alone, the others name it among others.
fn assert_seen(world: &World, liar: usize, fault: &Fault) {
    let culprit = index(world, liar);
    let mut seen = 0;
    for place in honest(world, liar) {
        let blame = world.blame(place).unwrap_or_else(|| {
            panic!(
                "party {place} names nobody: {:?}",
                world.parties[place].error
            )
        });
        assert!(
            blame.parties().contains(culprit),
            "party {place}: {blame:?}"
        );
        // A liar may also pass on, truthfully, that somebody else gave up.
        let hearsay = matches!(blame.fault, Fault::GaveUp(_));
        if blame.culprit == Culprit::Party(culprit) && !hearsay {
            assert_eq!(blame.fault, *fault, "party {place}");
            seen += 1;
        }
    }
    assert!(seen > 0, "nobody saw it");
}

fn machine(world: &World, place: usize) -> &Machine {
    let party = &world.parties[place];
    party.node.machine_of(&party.local.unwrap())
}

fn slot(machine: &Machine, header: &crate::proto::record::Header) -> Slot {
    Slot {
        session: machine.agreed.as_ref().unwrap().id,
        instance: header.instance,
        round: header.round,
        sender: header.from,
    }
}

/// The first other party by index: somebody to lie to.
fn victim(machine: &Machine) -> Option<PartyIndex> {
    machine.others().iter().next()
}

#[test]
fn an_equivocating_broadcast_convicts_its_sender() {
    for parties in [3, 5] {
        let world = lying(
            parties,
            1,
            Box::new(|machine, to, record| match record {
                Record::Broadcast { header, .. }
                    if to == victim(machine) && header.round == Round(1) =>
                {
                    let payload = Bytes::from_static(b"something else");
                    let digest = statement::payload(&payload);
                    let signature = machine
                        .keys
                        .signing
                        .sign(&slot(machine, &header).broadcast(&digest));
                    Record::Broadcast {
                        header,
                        signature,
                        payload,
                    }
                }
                record => record,
            }),
        );
        assert_convicted(&world, 1, |evidence| {
            matches!(evidence, Evidence::Equivocation { .. })
        });
    }
}

#[test]
fn a_made_up_echo_convicts_its_echoer() {
    let world = lying(
        4,
        2,
        Box::new(|machine, _, record| match record {
            Record::Echo {
                header,
                mut entries,
                ..
            } => {
                entries[0].payload = [9; 32];
                let bytes = crate::proto::EchoEntry::encode_all(&entries);
                let signature = machine
                    .keys
                    .signing
                    .sign(&slot(machine, &header).echo(&bytes));
                Record::Echo {
                    header,
                    signature,
                    entries,
                }
            }
            record => record,
        }),
    );
    assert_convicted(&world, 2, |evidence| {
        matches!(evidence, Evidence::FalseEcho { .. })
    });
}

#[test]
fn an_echo_that_is_not_signed_by_its_sender_is_seen() {
    let world = lying(
        3,
        1,
        Box::new(|_, _, record| match record {
            Record::Echo {
                header,
                mut signature,
                entries,
            } => {
                signature.0[5] ^= 1;
                Record::Echo {
                    header,
                    signature,
                    entries,
                }
            }
            record => record,
        }),
    );
    assert_seen(&world, 1, &Fault::BadSignature("echo"));
}

#[test]
fn an_echo_that_leaves_somebody_out_is_seen() {
    let world = lying(
        4,
        1,
        Box::new(|machine, _, record| match record {
            Record::Echo {
                header,
                mut entries,
                ..
            } => {
                entries.pop();
                let bytes = crate::proto::EchoEntry::encode_all(&entries);
                let signature = machine
                    .keys
                    .signing
                    .sign(&slot(machine, &header).echo(&bytes));
                Record::Echo {
                    header,
                    signature,
                    entries,
                }
            }
            record => record,
        }),
    );
    assert_seen(&world, 1, &Fault::Malformed("echo"));
}

#[test]
fn a_broadcast_replayed_from_another_round_is_seen() {
    let mut earlier = None;
    let world = lying(
        3,
        2,
        Box::new(move |_, _, record| match record {
            Record::Broadcast {
                header,
                signature,
                payload,
            } if header.round == Round(0) => {
                earlier = Some((signature, payload.clone()));
                Record::Broadcast {
                    header,
                    signature,
                    payload,
                }
            }
            Record::Broadcast { header, .. } => {
                let (signature, payload) = earlier.clone().unwrap();
                Record::Broadcast {
                    header,
                    signature,
                    payload,
                }
            }
            record => record,
        }),
    );
    assert_seen(&world, 2, &Fault::BadSignature("broadcast"));
}

/// Alters the header of the liar's letters in round 1.
fn lying_letter(alter: impl Fn(&mut crate::proto::record::Header) + 'static) -> World {
    lying(
        3,
        1,
        Box::new(move |_, _, record| match record {
            Record::P2p {
                mut header,
                payload,
            } => {
                if header.round == Round(1) {
                    alter(&mut header);
                }
                Record::P2p { header, payload }
            }
            record => record,
        }),
    )
}

#[test]
fn a_letter_under_another_number_is_seen() {
    let world = lying_letter(|header| {
        header.from = PartyIndex::new((header.from.as_usize() + 1) % 3).unwrap();
    });
    assert_seen(&world, 1, &Fault::WrongParty);
    let world = lying_letter(|header| {
        header.to = PartyIndex::new((header.to.as_usize() + 1) % 3).unwrap();
    });
    assert_seen(&world, 1, &Fault::WrongParty);
}

#[test]
fn a_second_letter_in_one_place_is_seen() {
    let world = lying_letter(|header| header.round = Round(0));
    assert_seen(&world, 1, &Fault::Conflict { round: Round(0) });
}

#[test]
fn an_accusation_without_proof_falls_back() {
    let world = lying(
        3,
        1,
        Box::new(|machine, to, record| match record {
            Record::P2p { mut header, .. } => {
                let other = machine.others().without(to.unwrap()).iter().next().unwrap();
                let place = Slot {
                    sender: other,
                    ..slot(machine, &header)
                };
                let forged = |payload: [u8; 32]| {
                    (
                        payload,
                        machine.keys.signing.sign(&place.broadcast(&payload)),
                    )
                };
                let reason = Reason::Proven(Box::new(Evidence::Equivocation {
                    slot: place,
                    first: forged([1; 32]),
                    second: forged([2; 32]),
                }));
                header.round = Round::CONFIRM;
                Record::Abort {
                    header,
                    abort: abort(machine, &header.instance, reason),
                }
            }
            record => record,
        }),
    );
    for place in honest(&world, 1) {
        let blame = world.blame(place).unwrap();
        assert_eq!(
            *blame,
            Blame::party(index(&world, 1), Fault::FalseAccusation)
        );
    }
}

#[test]
fn a_wrong_binding_is_seen() {
    let world = lying(
        4,
        2,
        Box::new(|machine, to, record| match record {
            Record::Bind(mut bind) => {
                let agreed = machine.agreed.as_ref().unwrap();
                let peer = agreed.roster.entry(to.unwrap()).unwrap().key;
                bind.bind = machine.keys.signing.sign(&statement::bind(
                    &agreed.id,
                    &[0; 32],
                    &machine.keys.signing.verifying_key(),
                    &peer,
                ));
                Record::Bind(bind)
            }
            record => record,
        }),
    );
    assert_seen(&world, 2, &Fault::WrongBinding);
}

#[test]
fn a_changed_reveal_is_seen() {
    let world = lying(
        3,
        1,
        Box::new(|_, _, record| match record {
            Record::Bind(mut bind) => {
                bind.reveal[0] ^= 1;
                Record::Bind(bind)
            }
            record => record,
        }),
    );
    assert_seen(&world, 1, &Fault::BadReveal);
}

#[test]
fn a_verification_before_its_time_is_seen() {
    let world = lying(
        3,
        1,
        Box::new(|_, _, record| match record {
            Record::Ready => Record::Verified(true),
            record => record,
        }),
    );
    assert_seen(&world, 1, &Fault::OutOfPlace("verification"));
}

#[test]
fn a_false_roster_signature_is_seen() {
    let world = lying(
        3,
        0,
        Box::new(|_, _, record| match record {
            Record::Bind(mut bind) => {
                bind.roster.0[0] ^= 1;
                Record::Bind(bind)
            }
            record => record,
        }),
    );
    assert_seen(&world, 0, &Fault::BadSignature("roster signature"));
}

#[test]
fn another_session_in_a_binding_is_seen() {
    let world = lying(
        3,
        1,
        Box::new(|_, _, record| match record {
            Record::Bind(mut bind) => {
                bind.session.0[0] ^= 1;
                Record::Bind(bind)
            }
            record => record,
        }),
    );
    assert_seen(&world, 1, &Fault::BadSignature("binding"));
}

#[test]
fn payload_before_the_binding_is_seen() {
    let world = lying(
        3,
        1,
        Box::new(|machine, to, record| match record {
            Record::Bind(_) => Record::P2p {
                header: crate::proto::record::Header {
                    instance: crate::InstanceId([1; 32]),
                    round: Round(0),
                    from: machine.agreed.as_ref().unwrap().me,
                    to: to.unwrap(),
                },
                payload: Bytes::from_static(b"too early"),
            },
            record => record,
        }),
    );
    assert_seen(&world, 1, &Fault::OutOfPlace("message"));
}

/// Of the joiners, the one that invites all others: lowest key.
fn first_joiner(world: &World) -> usize {
    (1..world.parties.len())
        .min_by_key(|&place| index(world, place))
        .unwrap()
}

#[test]
fn a_sealed_nothing_is_its_authors_fault() {
    // Who invites depends on the keys, which depend on the seed alone.
    let calm = lying(4, 1, Box::new(|_, _, record| record));
    let liar = first_joiner(&calm);
    let world = lying(
        4,
        liar,
        Box::new(|machine, _, record| match record {
            Record::Introduction(mut introduction) => {
                introduction.sealed[30] ^= 1;
                introduction.signature = machine.keys.signing.sign(&statement::introduction(
                    &introduction.session,
                    &introduction.from,
                    &introduction.to,
                    &introduction.sealed,
                ));
                Record::Introduction(introduction)
            }
            record => record,
        }),
    );
    assert_seen(&world, liar, &Fault::Malformed("introduction"));
}

#[test]
fn a_host_that_alters_introductions_is_seen() {
    let world = lying(
        4,
        0,
        Box::new(|_, _, record| match record {
            Record::Introduction(mut introduction) => {
                introduction.sealed[30] ^= 1;
                Record::Introduction(introduction)
            }
            record => record,
        }),
    );
    assert_seen(&world, 0, &Fault::BadSignature("introduction"));
}

#[test]
fn a_host_that_renames_a_joiner_is_seen_by_it() {
    let world = lying(
        3,
        0,
        Box::new(|machine, _, record| match record {
            Record::Offer(offer) => {
                let entries = offer
                    .roster
                    .iter()
                    .map(|(_, entry)| Entry {
                        name: DisplayName::new("somebody else").unwrap(),
                        ..entry.clone()
                    })
                    .collect();
                let roster = Roster::new(entries).unwrap();
                let formation = machine.link.formation();
                let signature = machine.keys.signing.sign(&statement::offer(
                    &formation,
                    &roster.session_id(&formation),
                ));
                Record::Offer(Offer { roster, signature })
            }
            record => record,
        }),
    );
    for place in [1, 2] {
        let blame = world.blame(place).unwrap();
        assert_eq!(blame.culprit, Culprit::Host);
        assert!(matches!(blame.fault, Fault::BadRoster(_)));
    }
}

/// A host driven by hand, which does what the core would never do.
struct ByHand {
    carriage: Carriage,
    keys: SessionKeys,
    link: SessionLink,
    joiners: Vec<(ConnectionId, Entry, Pipe)>,
    requests: Vec<Entry>,
}

impl ByHand {
    fn new(world: &World) -> Self {
        let mut rng = ChaCha20Rng::from_seed([200; 32]);
        let carriage = world.hub.open("host by hand");
        let keys = SessionKeys::generate(&mut rng);
        let contact = carriage
            .carrier
            .create_address(Tag([1; 32]), "")
            .now_or_never()
            .unwrap()
            .unwrap();
        let link = SessionLink {
            params: crate::Params {
                name: "by hand".to_owned(),
                parties: crate::PartyCount::new(world.parties.len() + 1).unwrap(),
                policy: crate::Policy::Anonymous,
            },
            nonce: [4; 32],
            host: keys.signing.verifying_key(),
            relay: String::new(),
            contact,
        };
        Self {
            carriage,
            keys,
            link,
            joiners: Vec::new(),
            requests: Vec::new(),
        }
    }

    fn tell(&mut self, joiner: usize, record: &Record) {
        let (connection, _, pipe) = &mut self.joiners[joiner];
        pipe.push(record.encode(), &mut Delta::default());
        pipe.sent();
        let effect = pipe.pump(&self.link.formation(), *connection).unwrap();
        once(&*self.carriage.carrier, &effect)
            .now_or_never()
            .unwrap()
            .unwrap();
    }

    /// What the joiners said, with who said it.
    fn hear(&mut self) -> Vec<(usize, Record)> {
        let mut heard = Vec::new();
        while let Some(Some(event)) = self.carriage.events.next().now_or_never() {
            match event {
                Event::Request { id, info, .. } => {
                    self.requests.push(Hello::decode(&info).unwrap().entry);
                    let accept = Effect::Accept {
                        request: id,
                        relay: String::new(),
                        info: Welcome::Admitted.encode(),
                    };
                    once(&*self.carriage.carrier, &accept)
                        .now_or_never()
                        .unwrap()
                        .unwrap();
                }
                Event::Connected { connection, .. } => {
                    let pipe = Pipe::new(LocalId([0; 16]), 0, BODY_BYTES);
                    let entry = self.requests[self.joiners.len()].clone();
                    self.joiners.push((connection, entry, pipe));
                }
                Event::Message {
                    connection, body, ..
                } => {
                    let who = self
                        .joiners
                        .iter()
                        .position(|(other, _, _)| *other == connection)
                        .unwrap();
                    let bundle = Bundle::decode(&body).unwrap();
                    let formation = self.link.formation();
                    let arrived = self.joiners[who]
                        .2
                        .receive(&formation, bundle, &mut Delta::default())
                        .unwrap();
                    for arrived in arrived {
                        heard.push((who, Record::decode(&arrived.record).unwrap()));
                    }
                }
                Event::Relay { .. } | Event::Irregular { .. } | Event::Failed { .. } => {}
            }
        }
        heard
    }

    fn offer(&self, entries: Vec<Entry>) -> Record {
        let roster = Roster::new(entries).unwrap();
        let formation = self.link.formation();
        let signature = self.keys.signing.sign(&statement::offer(
            &formation,
            &roster.session_id(&formation),
        ));
        Record::Offer(Offer { roster, signature })
    }
}

#[test]
fn a_host_that_splits_the_roster_is_convicted_by_all() {
    let mut world = World::new(3, 6);
    let mut host = ByHand::new(&world);
    for party in &mut world.parties {
        let (local, step) = party
            .node
            .join(host.link.clone(), &persona("joiner"), &mut party.rng)
            .unwrap();
        party.local = Some(local);
        assert!(!step.is_empty());
        let proof = crate::proto::step::Store::commit(&mut party.store, step.delta()).unwrap();
        for effect in step.release(proof) {
            let outcome = once(&*party.carriage.carrier, &effect)
                .now_or_never()
                .unwrap()
                .unwrap();
            let step = party
                .node
                .outcome(outcome.unwrap(), &mut party.rng)
                .unwrap();
            let _ = crate::proto::step::Store::commit(&mut party.store, step.delta()).unwrap();
        }
    }
    while host.joiners.len() < 3 {
        assert!(host.hear().is_empty());
    }
    // A puppet takes the third joiner's place in the roster of the first.
    let own = host
        .keys
        .entry(&host.link.formation(), DisplayName::default(), None);
    let puppet = SessionKeys::generate(&mut ChaCha20Rng::from_seed([201; 32])).entry(
        &host.link.formation(),
        DisplayName::default(),
        None,
    );
    let entries: Vec<Entry> = host.joiners.iter().map(|(_, e, _)| e.clone()).collect();
    let honest = host.offer(vec![
        own.clone(),
        entries[0].clone(),
        entries[1].clone(),
        entries[2].clone(),
    ]);
    let split = host.offer(vec![own, entries[0].clone(), entries[1].clone(), puppet]);
    host.tell(0, &split);
    host.tell(1, &honest);
    host.tell(2, &honest);
    for _ in 0..20 {
        world.run();
        for (_, record) in host.hear() {
            if let Record::Introduction(introduction) = &record {
                let to = entries.iter().position(|e| e.key == introduction.to);
                if let Some(to) = to {
                    host.tell(to, &record);
                }
            }
        }
    }
    for place in 0..3 {
        let blame = world
            .blame(place)
            .unwrap_or_else(|| panic!("joiner {place}: {:?}", world.parties[place].error));
        let roster = &machine(&world, place).agreed.as_ref().unwrap().roster;
        assert_eq!(
            blame.culprit,
            Culprit::Party(roster.index_of(&host.link.host).unwrap())
        );
        let Fault::Proven(evidence) = &blame.fault else {
            panic!("joiner {place}: {:?}", blame.fault)
        };
        assert!(convicts_host(
            evidence,
            &host.link.formation(),
            &host.link.host
        ));
    }
}

#[test]
fn a_man_in_the_middle_shows_in_the_safety_code() {
    // Two sessions that a host could set up between two victims: everything alike but its own
    // parts. It cannot choose what the victims reveal later.
    let code = |seed: u8| {
        let mut world = World::new(2, seed);
        world.invite();
        world.run();
        world.summary(0).safety_code.unwrap()
    };
    assert_ne!(code(1), code(2));
}

#[test]
fn an_outsider_of_an_execution_is_seen() {
    let mut world = World::new(3, 7);
    world.idle = vec![0, 1, 2];
    world.invite();
    world.run();
    let order = world.by_rank();
    let members: Members = [0, 1].into_iter().filter_map(PartyIndex::new).collect();
    let purpose = Purpose {
        label: "of two".to_owned(),
        members,
        mode: crate::Mode::Rounds,
    };
    let target = order[0];
    let local = world.parties[target].local.unwrap();
    let party = &mut world.parties[target];
    let (id, step) = party.node.open_execution(&local, purpose, &mut party.rng);
    let id = id.unwrap();
    world.settle(target, step);
    // The third party opens something, and its letter is redirected into that execution.
    let outsider = order[2];
    world.parties[outsider].lie = Some(Box::new(move |_, _, record| match record {
        Record::P2p {
            mut header,
            payload,
        } => {
            header.instance = id;
            Record::P2p { header, payload }
        }
        record => record,
    }));
    let local = world.parties[outsider].local.unwrap();
    let purpose = Purpose {
        label: "of three".to_owned(),
        members: [0, 1, 2].into_iter().filter_map(PartyIndex::new).collect(),
        mode: crate::Mode::Rounds,
    };
    let party = &mut world.parties[outsider];
    let (other, step) = party.node.open_execution(&local, purpose, &mut party.rng);
    world.settle(outsider, step);
    let party = &mut world.parties[outsider];
    let (said, step) = party.node.send(
        &local,
        &other.unwrap(),
        Round(0),
        PartyIndex::new(0).unwrap(),
        &Bytes::from_static(b"hello"),
        &mut party.rng,
    );
    said.unwrap();
    world.settle(outsider, step);
    world.run();
    // What it has no part in goes on without it; with it there is nothing any more.
    let local = world.parties[target].local.unwrap();
    let party = &mut world.parties[target];
    assert!(party.node.seed(&local, &id).is_ok());
    let purpose = Purpose {
        label: "of three, later".to_owned(),
        members: [0, 1, 2].into_iter().filter_map(PartyIndex::new).collect(),
        mode: crate::Mode::Rounds,
    };
    let (opened, _) = party.node.open_execution(&local, purpose, &mut party.rng);
    let opened = opened.and_then(|id| party.node.seed(&local, &id));
    assert_eq!(
        opened.err().unwrap().blamed().iter().collect::<Vec<_>>(),
        [PartyIndex::new(2).unwrap()]
    );
}

#[test]
fn exchange_keys_of_small_order_are_refused() {
    let secret = x25519::SecretKey::from_bytes(&hash::sha256(b"x"));
    assert!(
        secret
            .diffie_hellman(&x25519::PublicKey::from_bytes(&[0; 32]))
            .is_err()
    );
}

#[test]
fn a_place_stays_with_who_asked_first() {
    let mut world = World::new(3, 9);
    world.invite_some(1);
    // Somebody asks to join and is never seen again.
    let link = world.summary(0).link.unwrap();
    let ghost = world.hub.open("ghost");
    let formation = link.formation();
    let keys = SessionKeys::generate(&mut ChaCha20Rng::from_seed([77; 32]));
    let entry = keys.entry(&formation, DisplayName::default(), None);
    let signature = keys
        .signing
        .sign(&statement::hello(&formation, &entry.encode()));
    world.hub.absent("ghost");
    ghost
        .carrier
        .join(
            Tag([8; 32]),
            link.contact(),
            "",
            &Hello { entry, signature }.encode(),
        )
        .now_or_never()
        .unwrap()
        .unwrap();
    world.turn(0);
    assert_eq!(world.summary(0).stage, crate::Stage::Meeting);
    world.join_rest(2);
    world.run();
    // Whoever is in the middle of connecting is not robbed of its place; who comes after is told so.
    assert_eq!(world.summary(0).stage, crate::Stage::Meeting);
    assert_eq!(world.summary(2).stage, crate::Stage::Failed);
    // Until the host turns the one away that never came.
    let joiners = world.summary(0).joiners;
    let there: Vec<_> = joiners.iter().map(|joiner| joiner.connected).collect();
    assert_eq!(there, [true, false]);
    let turn_away = |world: &mut World, place: usize, number: u8| {
        let party = &mut world.parties[place];
        let local = party.local.unwrap();
        let (done, step) = party.node.turn_away(&local, number, &mut party.rng);
        world.settle(place, step);
        done
    };
    assert!(turn_away(&mut world, 0, 9).is_err());
    assert!(turn_away(&mut world, 1, 0).is_err());
    turn_away(&mut world, 0, joiners[1].number).unwrap();
    world.parties[2].error = None;
    world.join(2);
    world.reboot(0);
    world.run();
    world.assert_all_succeeded("the ghost is gone");
    assert!(turn_away(&mut world, 0, joiners[0].number).is_err());
}
