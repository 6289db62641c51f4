//! Sessions: links, what parties send each other, what is stored, and a party among hostile ones.

mod net;
mod node;

use bytes::Bytes;
use junto_crypto::ed25519::SigningKey;
use junto_session::{
    Court, Evidence, SessionLink,
    proto::{fuzzing, node::Node},
};
pub(crate) use node::{node, seeds_of_node};

use crate::{
    input::{Input, piece},
    seeds,
};

/// A link: one spelling. Without a valid checksum the first byte asks for one to be made.
pub(crate) fn link(bytes: &[u8]) {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    let text = match bytes.split_first() {
        Some((0, body)) => {
            let check = &junto_crypto::hash::sha256(body)[..4];
            let encoded = URL_SAFE_NO_PAD.encode([body, check].concat());
            format!("junto:session/1/{encoded}")
        }
        _ => match core::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return,
        },
    };
    if let Ok(link) = text.parse::<SessionLink>() {
        assert_eq!(link.to_string(), text);
        assert!(link.params().check().is_ok());
        assert_eq!(text.parse(), Ok(link));
    }
}

/// Evidence, and a court that never convicts anybody on what a fuzzer invents.
pub(crate) fn evidence(bytes: &[u8]) {
    let Ok(evidence) = Evidence::decode(bytes) else {
        return;
    };
    assert_eq!(evidence.encode(), bytes);
    let (link, roster) = node::known();
    for roster in [None, Some(roster)] {
        let court = Court {
            formation: &link.formation(),
            host: link.host(),
            roster,
        };
        assert_eq!(evidence.convict(&court), None);
    }
    let stranger = SigningKey::from_seed(&[1; 32]).verifying_key();
    let court = Court {
        formation: &link.formation(),
        host: &stranger,
        roster: None,
    };
    assert_eq!(evidence.convict(&court), None);
}

/// Everything with one encoding; the first byte says what.
pub(crate) fn records(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else {
        return;
    };
    let whole = Bytes::copy_from_slice(rest);
    let encoded = match kind % 7 {
        0 => fuzzing::record(&whole),
        1 => fuzzing::bundle(&whole),
        2 => fuzzing::hello(rest),
        3 => fuzzing::welcome(rest),
        4 => fuzzing::reason(rest),
        5 => fuzzing::execution(rest),
        _ => fuzzing::key(rest),
    };
    if let Some(encoded) = encoded {
        assert_eq!(encoded, rest);
    }
}

/// Rows of a profile: pieces, key and value in turn.
pub(crate) fn rows(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut rows = Vec::new();
    while !input.is_empty() {
        let (key, value) = (input.piece().to_vec(), input.piece());
        rows.push((key, Bytes::copy_from_slice(value)));
    }
    let load = |rows| Node::load(rows, net::BODY_BYTES, &mut seeds::rng(13));
    let Ok((mut node, mut step)) = load(rows.clone()) else {
        return;
    };
    let mut rng = seeds::rng(15);
    let locals: Vec<_> = node.summaries().map(|summary| summary.local).collect();
    for local in locals {
        step.absorb(node.probe_all(&local, &mut rng));
        let _ = node.is_formed(&local);
        let _ = node.roster_signatures(&local);
        if let Ok(channel) = node.channel(&local, "chat") {
            let (_, said) = node.channel_next(&local, &channel, &mut rng);
            step.absorb(said);
        }
        if let Ok(closed) = node.close(&local, &mut rng) {
            step.absorb(closed);
        }
    }
    // What that changed can be stored and read.
    let mut stored: std::collections::BTreeMap<_, _> = rows.into_iter().collect();
    for (key, value) in step.delta().rows() {
        match value {
            Some(value) => stored.insert(key, Bytes::copy_from_slice(value)),
            None => stored.remove(&key),
        };
    }
    assert!(load(stored.into_iter().collect()).is_ok());
}

/// Messages of a party about byte streams.
pub(crate) fn streams(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut messages = Vec::new();
    while !input.is_empty() {
        messages.push(Bytes::copy_from_slice(input.piece()));
    }
    let (open, _) = fuzzing::streams(&messages);
    assert!(open <= junto_session::adapters::tcp::STREAMS_MAX);
}

/// For seeds: what an honest party says about streams, and how it begins anew.
pub(crate) fn seeds_of_streams() -> Vec<Vec<u8>> {
    let messages: [&[u8]; 7] = [
        &[1, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0, 0, 0, 2, 7, 7],
        &[2, 0, 0, 0, 0, 0, 0, 0, 1, 9, 5, 0, 0, 0, 1, 0, 0, 0, 1],
        &[3, 0, 0, 0, 1, 6],
        &[4, 0, 0, 0, 0],
        &[7, 0],
        &[&[0][..], &[3; 16], &[1; 16], &[1, 0, 0, 0, 1]].concat(),
        &[7, 3, 0, 0, 0, 0, 0, 0, 0, 2],
    ];
    let mut all = Vec::new();
    for message in messages {
        piece(&mut all, message);
    }
    let mut seeds = messages.map(|message| {
        let mut one = Vec::new();
        piece(&mut one, message);
        one
    });
    seeds[0] = all;
    seeds.into()
}

/// For seeds: the rows of a party in the middle of an execution.
pub(crate) fn seeds_of_rows() -> Vec<Vec<u8>> {
    let rows = node::rows();
    let write = |rows: &[(Vec<u8>, Bytes)]| {
        let mut out = Vec::new();
        for (key, value) in rows {
            piece(&mut out, key);
            piece(&mut out, value);
        }
        out
    };
    (1..=rows.len())
        .map(|count| write(&rows[..count]))
        .collect()
}

/// For seeds: a genuine link, and its bytes without checksum.
pub(crate) fn seeds_of_links() -> Vec<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    let text = node::known().0.to_string();
    let body = text.rsplit_once('/').unwrap().1;
    let bytes = URL_SAFE_NO_PAD.decode(body).unwrap();
    let unchecked = &bytes[..bytes.len() - 4];
    vec![text.into_bytes(), [&[0][..], unchecked].concat()]
}

/// For seeds: one of every kind, and what travelled in a genuine session.
pub(crate) fn seeds_of_records() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![vec![3, 0], vec![3, 2]];
    for body in node::travelled().step_by(4) {
        all.push([&[1][..], body].concat());
        // A record that fills one segment follows the header and the length.
        if let Some(record) = body.get(52..) {
            all.push([&[0][..], record].concat());
        }
    }
    let mut kinds = std::collections::BTreeSet::new();
    for (key, value) in node::rows() {
        if kinds.insert(key[0]) {
            all.push([&[6][..], key].concat());
        }
        if key[0] == b'E' {
            all.push([&[5][..], value].concat());
        }
    }
    let silent = [&[4, 1, 0, 0, 0, 2][..], &7_u64.to_be_bytes()].concat();
    let gave_up = [&[4, 0][..], &1_u64.to_be_bytes(), b"\x04text"].concat();
    all.extend([silent, gave_up, vec![4, 2, 1], vec![0, 5]]);
    let header = [&[3; 32][..], &[0, 0, 0, 1, 0, 1]].concat();
    let signature = [5; 64];
    all.push([&[0, 16][..], &header, b"letter"].concat());
    all.push([&[0, 17][..], &header, &signature, b"broadcast"].concat());
    let entry = [&[1][..], &[0], &[6; 32], &signature].concat();
    all.push([&[0, 18][..], &header, &signature, &entry].concat());
    all.push([&[0, 19][..], &header, &[0], &signature, &[2, 1]].concat());
    let passed_on = [&[2][..], &signature, &[1, 0, 0, 0, 0]].concat();
    all.push([&[0, 19][..], &header, &passed_on, &2_u64.to_be_bytes()].concat());
    all.push([&[0, 20][..], &header, b"chat"].concat());
    all
}
