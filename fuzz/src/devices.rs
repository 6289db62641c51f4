//! What devices say to each other, and what one makes of it.

use junto_devices::{
    ContactId, DEVICES_MAX, DeviceId, Devices, Frame, Line, MessageName, Token, Whom,
};

const CONTACT: ContactId = ContactId([4; 32]);

/// One encoding per value.
pub(crate) fn frame(bytes: &[u8]) {
    if let Ok(frame) = Frame::decode(bytes) {
        assert_eq!(frame.encode(), bytes);
    }
}

/// Words of a hostile contact, each with a byte that says on which of its lines, and two for its length: nothing else
/// is touched, and nothing grows without bound.
pub(crate) fn words(mut bytes: &[u8]) {
    let mut devices = Devices::default();
    let mut tokens: Vec<Token> = Vec::new();
    while let [line, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        bytes = rest;
        let at = usize::from(*line)
            .checked_sub(1)
            .and_then(|at| tokens.get(at));
        let line = Line::Contact(CONTACT, at.copied());
        let Ok(frame) = Frame::decode(body) else {
            continue;
        };
        devices.hear(line, &frame);
        if let Frame::Here { token, .. } = frame {
            tokens.push(token);
        }
        let targets = devices.targets(CONTACT);
        assert!(targets.len() <= DEVICES_MAX);
        let other = ContactId([5; 32]);
        assert_eq!(devices.targets(other), [other.0]);
        assert!(devices.own_devices().is_empty());
    }
    let stored = devices.to_bytes().expect("it can be stored");
    let again = Devices::open(&stored).expect("it comes back");
    assert_eq!(again.targets(CONTACT), devices.targets(CONTACT));
}

pub(crate) fn frames() -> Vec<Vec<u8>> {
    let (one, other) = (DeviceId([1; 16]), DeviceId([2; 16]));
    let (token, message) = (Token([3; 16]), MessageName([6; 16]));
    let name = "laptop".to_owned();
    let link = "simplex:/invitation#/?v=2-7&smp=x".to_owned();
    let contact = Whom::Contact {
        contact: CONTACT,
        peer: Some(other),
        name: name.clone(),
    };
    let own = Whom::Own {
        device: other,
        name: name.clone(),
    };
    let frames = [
        Frame::Commit {
            device: one,
            name: name.clone(),
            commitment: [7; 32],
        },
        Frame::Nonce {
            device: other,
            name: name.clone(),
            nonce: [8; 32],
        },
        Frame::Reveal { nonce: [9; 32] },
        Frame::Confirm,
        Frame::Make {
            token,
            whom: contact,
        },
        Frame::Make { token, whom: own },
        Frame::Made {
            token,
            link: link.clone(),
        },
        Frame::Here {
            from: one,
            device: other,
            name,
            token,
            link,
        },
        Frame::Hello { token },
        Frame::Gone {
            device: one,
            kept: vec![other],
        },
        Frame::Prefer { device: Some(one) },
        Frame::Text {
            message,
            body: b"hello".to_vec(),
        },
        Frame::Sent {
            message,
            contact: CONTACT,
            body: b"hello".to_vec(),
        },
    ];
    frames.iter().map(Frame::encode).collect()
}

pub(crate) fn conversations() -> Vec<Vec<u8>> {
    let said = |line: u8, frame: &Frame| {
        let body = frame.encode();
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        [&[line][..], &length.to_be_bytes(), &body].concat()
    };
    let here = |number: u8| Frame::Here {
        from: DeviceId([1; 16]),
        device: DeviceId([number; 16]),
        name: String::new(),
        token: Token([number; 16]),
        link: "link".to_owned(),
    };
    let hello = |number: u8| Frame::Hello {
        token: Token([number; 16]),
    };
    let gone = |number: u8| Frame::Gone {
        device: DeviceId([number; 16]),
        kept: Vec::new(),
    };
    vec![
        [
            said(0, &here(2)),
            said(1, &hello(2)),
            said(0, &gone(2)),
            said(0, &here(2)),
        ]
        .concat(),
        [
            said(0, &here(2)),
            said(0, &here(3)),
            said(2, &hello(3)),
            said(2, &gone(1)),
        ]
        .concat(),
    ]
}
