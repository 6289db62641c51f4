//! A contact that lies about its devices, and a stolen device.

#![allow(clippy::unwrap_used, clippy::panic)]

use junto_devices::{
    COPIES_MAX, ContactId, DEVICES_MAX, Deed, DeviceId, Devices, Frame, KNOWN_MAX, Line, News,
    Party, STRANGERS_MAX, Token, Whom,
};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const MALLORY: ContactId = ContactId([1; 32]);
const BOB: ContactId = ContactId([2; 32]);
const HERSELF: DeviceId = DeviceId([10; 16]);

fn here(device: u16, token: u16) -> Frame {
    Frame::Here {
        from: HERSELF,
        device: id(device),
        name: String::new(),
        token: Token(id(token).0),
        link: "link".to_owned(),
    }
}

fn id(number: u16) -> DeviceId {
    let mut bytes = [200; 16];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    DeviceId(bytes)
}

fn gone(device: u16) -> Frame {
    let (device, kept) = (id(device), vec![HERSELF]);
    Frame::Gone { device, kept }
}

fn base(contact: ContactId) -> Line {
    Line::Contact(contact, None)
}

/// Hears that there is a device, connects, and hears it.
fn join(devices: &mut Devices, contact: ContactId, device: u16) {
    devices.hear(base(contact), &here(device, device));
    let token = Token(id(device).0);
    devices.hear(Line::Contact(contact, Some(token)), &Frame::Hello { token });
}

#[test]
fn a_thousand_devices_are_eight_and_the_rest_is_nothing() {
    let mut devices = Devices::default();
    for number in 0..1000 {
        join(&mut devices, MALLORY, number);
    }
    assert_eq!(devices.targets(MALLORY).len(), DEVICES_MAX);
    let joins = devices
        .due()
        .iter()
        .filter(|it| matches!(it.deed, Deed::Join(..)));
    assert_eq!(joins.count(), DEVICES_MAX - 1);
    // Coming and going does not help either.
    for number in 0..1000 {
        devices.hear(base(MALLORY), &gone(number));
        join(&mut devices, MALLORY, number + 1000);
    }
    let joins = devices
        .due()
        .iter()
        .filter(|it| matches!(it.deed, Deed::Join(..)));
    assert!(joins.count() <= KNOWN_MAX);
    assert!(devices.to_bytes().unwrap().len() < 64 * 1024);
    assert_eq!(devices.targets(BOB), [BOB.0]);
}

#[test]
fn a_contact_speaks_for_itself_only() {
    let mut devices = Devices::default();
    join(&mut devices, BOB, 7);
    let before = devices.targets(BOB);
    assert_eq!(before.len(), 2);
    // Another contact names devices, tokens and revocations of the first one.
    devices.hear(base(MALLORY), &here(7, 7));
    devices.hear(base(MALLORY), &gone(7));
    let kept = Vec::new();
    let device = HERSELF;
    devices.hear(base(MALLORY), &Frame::Gone { device, kept });
    assert_eq!(devices.targets(BOB), before);
    // Words of own devices, from a contact: it is none.
    for frame in [
        Frame::Make {
            token: Token([3; 16]),
            whom: Whom::Own {
                device: id(9),
                name: "mine".to_owned(),
            },
        },
        Frame::Made {
            token: Token([3; 16]),
            link: "link".to_owned(),
        },
        Frame::Confirm,
        Frame::All,
    ] {
        assert_eq!(devices.hear(base(BOB), &frame), []);
    }
    assert!(devices.own_devices().is_empty());
}

#[test]
fn who_is_introduced_is_heard_only_when_it_says_so() {
    let mut devices = Devices::default();
    devices.hear(base(BOB), &here(7, 7));
    let token = Token(id(7).0);
    let line = Line::Contact(BOB, Some(token));
    devices.connected(line);
    assert!(!devices.is_open(line));
    // Somebody else's link: at its end nobody knows the token.
    let other = Token([9; 16]);
    assert_eq!(devices.hear(line, &Frame::Hello { token: other }), []);
    assert_eq!(devices.hear(line, &gone(5)), []);
    assert!(!devices.is_open(line));
    assert_eq!(devices.targets(BOB), [BOB.0]);
    let joined = devices.hear(line, &Frame::Hello { token });
    assert_eq!(joined, [News::Joined(BOB, id(7))]);
    assert!(devices.is_open(line));
}

#[test]
fn a_device_that_was_revoked_does_not_come_back() {
    let mut devices = Devices::default();
    join(&mut devices, BOB, 7);
    assert_eq!(devices.hear(base(BOB), &gone(7)), [News::Left(BOB, id(7))]);
    assert_eq!(devices.targets(BOB), [BOB.0]);
    let due = devices.due().len();
    // The old word again, and a new one about the same device.
    for frame in [here(7, 7), here(7, 8)] {
        assert_eq!(devices.hear(base(BOB), &frame), []);
    }
    assert_eq!(
        (devices.targets(BOB), devices.due().len()),
        (vec![BOB.0], due)
    );
    // Before it was ever there.
    devices.hear(base(BOB), &gone(9));
    join(&mut devices, BOB, 9);
    assert_eq!(devices.targets(BOB), [BOB.0]);
}

#[test]
fn what_a_stolen_device_has_brought_goes_with_it() {
    let mut devices = Devices::default();
    join(&mut devices, BOB, 7);
    let line = Line::Contact(BOB, Some(Token(id(7).0)));
    let accomplice = Frame::Here {
        from: id(7),
        device: id(8),
        name: String::new(),
        token: Token(id(8).0),
        link: "link".to_owned(),
    };
    devices.hear(line, &accomplice);
    let token = Token(id(8).0);
    devices.hear(Line::Contact(BOB, Some(token)), &Frame::Hello { token });
    assert_eq!(devices.targets(BOB).len(), 3);
    let left = devices.hear(base(BOB), &gone(7));
    assert_eq!(left, [News::Left(BOB, id(7)), News::Left(BOB, id(8))]);
    assert_eq!(devices.targets(BOB), [BOB.0]);
    // It does not speak any more.
    assert_eq!(devices.hear(line, &gone(200)), []);
    assert_eq!(devices.line(&Token(id(7).0).tag()), None);
}

#[test]
fn one_connection_is_one_device() {
    let mut devices = Devices::default();
    join(&mut devices, BOB, 7);
    // The first device, which called itself one thing, calls itself another.
    let other = Frame::Here {
        from: id(99),
        device: id(8),
        name: String::new(),
        token: Token(id(8).0),
        link: "link".to_owned(),
    };
    devices.hear(base(BOB), &other);
    assert_eq!(devices.targets(BOB).len(), 2);
    assert!(devices.line(&Token(id(8).0).tag()).is_none());
}

#[test]
fn a_linking_that_died_unconfirmed_leaves_nothing_and_a_confirmed_one_goes_on() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for confirmed in [false, true] {
        let mut devices = Devices::default();
        devices.identify("phone", &mut rng);
        let token = Token([5; 16]);
        devices.begin(token, "relay");
        let (id, name) = (id(1), "laptop".to_owned());
        if confirmed {
            devices.confirm(&Party { id, name }, false);
        }
        let mut devices = Devices::open(&devices.to_bytes().unwrap()).unwrap();
        devices.tidy();
        assert_eq!(devices.is_linking(), confirmed);
        devices.hear(Line::Linking(token), &Frame::Confirm);
        assert_eq!(devices.own_devices().len(), 1 + usize::from(confirmed));
        let closes = devices
            .due()
            .iter()
            .any(|it| matches!(it.deed, Deed::Close(_)));
        assert_eq!(closes, !confirmed);
    }
}

#[test]
fn a_confirmation_without_our_users_is_none() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut devices = Devices::default();
    devices.identify("phone", &mut rng);
    let token = Token([5; 16]);
    devices.begin(token, "relay");
    assert_eq!(devices.hear(Line::Linking(token), &Frame::Confirm), []);
    assert_eq!(devices.own_devices().len(), 1);
}

#[test]
fn the_same_message_is_noted_and_forgotten_with_bounds() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut devices = Devices::default();
    join(&mut devices, BOB, 7);
    let message = devices.post(BOB, b"hello", &mut rng).unwrap();
    assert!(!devices.is_heard(BOB, message, false));
    devices.note(BOB, message, false);
    assert!(devices.is_heard(BOB, message, false) && !devices.is_heard(MALLORY, message, false));
    // What we said ourselves elsewhere is not theirs to name.
    assert!(!devices.is_heard(BOB, message, true));
    for _ in 0..junto_devices::HEARD_MAX {
        devices.note(BOB, junto_devices::MessageName::random(&mut rng), false);
    }
    assert!(!devices.is_heard(BOB, message, false));
    // To one device, and with none of ours: an ordinary message.
    assert_eq!(devices.post(MALLORY, b"hello", &mut rng), None);
}

/// A device of ours on which the user has linked the thief's, and its line.
fn with_thief() -> (Devices, Line, ChaCha20Rng) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut devices = Devices::default();
    devices.identify("phone", &mut rng);
    let token = Token([5; 16]);
    devices.begin(token, "relay");
    let (id, name) = (THIEF, "laptop".to_owned());
    devices.confirm(&Party { id, name }, true);
    devices.meet(BOB);
    (devices, Line::Own(token), rng)
}

const THIEF: DeviceId = DeviceId([66; 16]);

/// What Bob was told of revocations.
fn told_bob(devices: &Devices) -> Vec<DeviceId> {
    let said = devices.due().iter().filter_map(|due| match &due.deed {
        Deed::Send(BOB, body) => Frame::decode(&body.0).ok(),
        _ => None,
    });
    said.filter_map(|frame| match frame {
        Frame::Gone { device, .. } => Some(device),
        _ => None,
    })
    .collect()
}

#[test]
fn a_thief_that_ends_its_line_is_revoked_all_the_same() {
    let (mut devices, line, _) = with_thief();
    devices.failed(line);
    let mut devices = Devices::open(&devices.to_bytes().unwrap()).unwrap();
    let own = devices.own_devices();
    assert!(own.iter().any(|it| it.id == THIEF && it.is_lost));
    assert!(!devices.is_open(line));
    let revoked = devices.revoke(THIEF, &[]);
    assert_eq!(revoked[0].id, THIEF);
    assert_eq!(told_bob(&devices), [THIEF]);
    assert_eq!(devices.own_devices().len(), 1);
    // One that nothing is known of here may be named as well, and nobody twice.
    assert_eq!(devices.revoke(id(9), &[]).len(), 1);
    assert_eq!(told_bob(&devices), [THIEF, id(9)]);
    assert_eq!(devices.revoke(THIEF, &[]), []);
}

#[test]
fn nothing_waits_for_a_line_that_is_lost() {
    let (mut devices, line, _) = with_thief();
    devices.asked_all(THIEF);
    let Line::Own(token) = line else {
        unreachable!()
    };
    devices.failed(line);
    devices.asked_all(THIEF);
    let at = devices
        .due()
        .iter()
        .filter(|due| due.deed.tag() == token.tag());
    let at: Vec<_> = at.map(|due| due.deed.clone()).collect();
    assert_eq!(at, [Deed::Cut(ContactId(token.tag()))]);
}

#[test]
fn what_waits_for_a_device_does_not_go_there_once_it_is_revoked() {
    let at = |devices: &Devices, tag: [u8; 32]| -> Vec<Deed> {
        let due = devices.due();
        let there = due.iter().filter(|due| due.deed.tag() == tag);
        there.map(|due| due.deed.clone()).collect()
    };
    // A device of one's own is told that it was revoked, and nothing else.
    let (mut devices, line, mut rng) = with_thief();
    let Line::Own(token) = line else { panic!() };
    for _ in 0..10 {
        devices.post(BOB, b"hello", &mut rng).unwrap();
    }
    assert!(at(&devices, token.tag()).len() >= 10);
    devices.revoke(THIEF, &[]);
    let left = at(&devices, token.tag());
    let [Deed::Leave(_, word)] = left.as_slice() else {
        panic!("{} wait", left.len());
    };
    let word = Frame::decode(&word.0).unwrap();
    assert!(
        matches!(word, Frame::Gone { device: THIEF, .. }),
        "{word:?}"
    );
    assert!(devices.ends(&token.tag()));
    // A contact's gets nothing at all.
    let mut devices = Devices::default();
    join(&mut devices, BOB, 7);
    let line = Token(id(7).0).tag();
    for _ in 0..10 {
        devices.post(BOB, b"hello", &mut rng).unwrap();
    }
    assert!(at(&devices, line).len() >= 10);
    devices.hear(base(BOB), &gone(7));
    let left = at(&devices, line);
    assert!(!left.iter().any(|it| matches!(it, Deed::Send(_, _))));
    // Nor what the agent has taken for it: that is not waited for.
    assert_eq!(left.last(), Some(&Deed::Cut(ContactId(line))));
}

#[test]
fn a_device_that_is_away_for_long_is_left_without_further_copies() {
    let (mut devices, line, mut rng) = with_thief();
    let Line::Own(token) = line else { panic!() };
    let said = COPIES_MAX + 10;
    for _ in 0..said {
        devices.post(BOB, b"hello", &mut rng).unwrap();
    }
    assert_eq!(devices.waiting(&token.tag()), COPIES_MAX);
    assert!(devices.waiting(&BOB.0) >= said, "the contact gets all");
    // What reached it makes room.
    let next = devices
        .due()
        .iter()
        .find(|due| due.deed.tag() == token.tag());
    let next = next.unwrap().serial;
    devices.done(next);
    devices.post(BOB, b"hello", &mut rng).unwrap();
    assert_eq!(devices.waiting(&token.tag()), COPIES_MAX);
}

#[test]
fn names_that_a_thief_invents_do_not_keep_it_from_being_revoked() {
    let (mut devices, line, _) = with_thief();
    for number in 0..1000 {
        assert_eq!(devices.hear(line, &gone(number)), []);
    }
    // What contacts are told is bounded: they remember few.
    assert_eq!(told_bob(&devices).len(), usize::from(STRANGERS_MAX));
    let revoked = devices.revoke(THIEF, &[]);
    assert_eq!(revoked.len(), 1);
    assert_eq!(told_bob(&devices).last(), Some(&THIEF));
    assert_eq!(devices.own_devices().len(), 1);
}

#[test]
fn a_thief_and_all_its_helpers_do_not_use_up_the_places() {
    let (mut devices, line, _) = with_thief();
    for number in 0..200 {
        let helper = id(number);
        let token = Token(helper.0);
        let here = Frame::Here {
            from: THIEF,
            device: helper,
            name: "helper".to_owned(),
            token,
            link: "link".to_owned(),
        };
        devices.hear(line, &here);
        devices.hear(Line::Own(token), &Frame::Hello { token });
        for invented in 0..20 {
            devices.hear(Line::Own(token), &gone(1000 + number * 20 + invented));
        }
        devices.hear(line, &gone(number));
    }
    assert!(told_bob(&devices).len() <= KNOWN_MAX + DEVICES_MAX);
    assert_eq!(devices.revoke(THIEF, &[])[0].id, THIEF);
    assert_eq!(told_bob(&devices).last(), Some(&THIEF));
}

#[test]
fn who_revokes_a_thief_does_not_vouch_for_its_accomplice() {
    for keeps in [false, true] {
        let (mut devices, line, _) = with_thief();
        let accomplice = id(8);
        let token = Token(accomplice.0);
        let here = Frame::Here {
            from: THIEF,
            device: accomplice,
            name: "mine".to_owned(),
            token,
            link: "link".to_owned(),
        };
        devices.hear(line, &here);
        devices.hear(Line::Own(token), &Frame::Hello { token });
        assert_eq!(devices.own_devices().len(), 3);
        let keep = [accomplice];
        let keep = if keeps { &keep[..] } else { &[] };
        let revoked = devices.revoke(THIEF, keep);
        let gone: Vec<_> = revoked.iter().map(|it| it.id).collect();
        if keeps {
            assert_eq!(gone, [THIEF]);
        } else {
            assert_eq!(gone, [THIEF, accomplice]);
        }
        assert_eq!(told_bob(&devices), gone);
        let vouched = devices
            .due()
            .iter()
            .filter_map(|due| match &due.deed {
                Deed::Send(BOB, body) => Frame::decode(&body.0).ok(),
                _ => None,
            })
            .any(|frame| matches!(frame, Frame::Gone { kept, .. } if kept.contains(&accomplice)));
        assert_eq!(vouched, keeps);
    }
}

#[test]
fn a_device_that_leaves_does_not_vouch_for_what_it_brought() {
    let mut devices = Devices::default();
    join(&mut devices, BOB, 7);
    let line = Line::Contact(BOB, Some(Token(id(7).0)));
    let accomplice = Frame::Here {
        from: id(7),
        device: id(8),
        name: String::new(),
        token: Token(id(8).0),
        link: "link".to_owned(),
    };
    devices.hear(line, &accomplice);
    let leaves = Frame::Gone {
        device: id(7),
        kept: vec![id(8)],
    };
    devices.hear(line, &leaves);
    assert!(devices.line(&Token(id(8).0).tag()).is_none());
}

#[test]
fn a_device_whose_line_was_lost_is_linked_again() {
    let (mut devices, line, _) = with_thief();
    devices.failed(line);
    assert!(devices.may_link(THIEF));
    let token = Token([6; 16]);
    devices.begin(token, "relay");
    let (id, name) = (THIEF, "laptop".to_owned());
    devices.confirm(&Party { id, name }, true);
    let own = devices.own_devices();
    assert_eq!(own.len(), 2);
    assert!(own.iter().all(|it| it.is_ready && !it.is_lost));
    assert!(devices.is_open(Line::Own(token)) && !devices.is_open(line));
}

#[test]
fn a_contact_that_takes_no_part_is_sent_ordinary_messages_and_nothing_is_copied() {
    let (mut devices, _, mut rng) = with_thief();
    let due = devices.due().len();
    assert_eq!(devices.post(MALLORY, b"hello", &mut rng), None);
    assert_eq!(devices.due().len(), due);
    assert!(devices.post(BOB, b"hello", &mut rng).is_some());
}

proptest! {
    /// Additions and revocations in any order, any number of times: the revoked ones are never among the devices.
    #[test]
    fn a_revocation_wins_in_any_order(words in prop::collection::vec((0..12_u16, any::<bool>()), 0..200)) {
        let mut devices = Devices::default();
        let mut revoked = Vec::new();
        for (device, comes) in words {
            if comes {
                join(&mut devices, BOB, device);
            } else {
                devices.hear(base(BOB), &gone(device));
                revoked.push(device);
            }
            for device in &revoked {
                let tag = Token(id(*device).0).tag();
                prop_assert!(!devices.targets(BOB).contains(&tag));
                prop_assert!(devices.line(&tag).is_none());
            }
        }
    }
}
