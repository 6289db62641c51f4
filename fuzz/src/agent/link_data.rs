//! The data behind a short link, by a maker who writes what it likes: all is sealed and signed as it should be.

use junto_agent::proto::{Link, LinkBytes, LinkError, Opened, ShortLink};
use junto_crypto::{
    ed25519::SigningKey,
    hash::sha3_256,
    kdf::hkdf_sha512,
    secretbox::{BoxKey, Nonce},
};
use junto_smp::{address::ServerAddress, id::SenderId};

use crate::{input, input::Input, seeds};

/// Padded lengths of the two parts.
const FIXED_PADDED: usize = 2_008;
const USER_PADDED: usize = 13_784;
const SENDER: SenderId = SenderId([3; 24]);

fn root() -> SigningKey {
    SigningKey::from_seed(&[6; 32])
}

fn seal(key: &BoxKey, content: &[u8], padded: usize) -> Option<Box<[u8]>> {
    let mut plain = vec![64];
    plain.extend_from_slice(root().sign(content).as_bytes());
    plain.extend_from_slice(content);
    let nonce = Nonce([1; 24]);
    let mut out = nonce.0.to_vec();
    key.seal_padded(&nonce, &plain, padded, &mut out).ok()?;
    Some(out.into())
}

/// A letter for the kind of link, what follows the key in the first part, and the second part.
pub(crate) fn link_data(bytes: &[u8]) {
    match open(bytes) {
        Some(Ok(opened)) => {
            let text = opened.link.to_string();
            assert_eq!(text.parse::<Link>().map(|link| link.to_string()), Ok(text));
        }
        Some(Err(error)) => drop(error.to_string()),
        None => {}
    }
}

/// `None` if a part is longer than what is kept.
fn open(bytes: &[u8]) -> Option<Result<Opened, LinkError>> {
    let mut input = Input(bytes);
    let contact = input.u8() != b'I';
    let request = input.piece();
    let user = input.0;
    let mut fixed = b"\0\x02\0\x07\x2c".to_vec();
    fixed.extend_from_slice(&root().verifying_key().to_spki());
    fixed.extend_from_slice(request);
    let key = sha3_256(&fixed);
    let boxes = if contact {
        let both = hkdf_sha512::<56>(b"", &key, b"SimpleXContactLink");
        BoxKey::from_symmetric(both[24..].try_into().unwrap())
    } else {
        BoxKey::from_symmetric(&hkdf_sha512(b"", &key, b"SimpleXInvLink"))
    };
    let data = LinkBytes {
        sender: SENDER,
        fixed: seal(&boxes, &fixed, FIXED_PADDED)?,
        user: seal(&boxes, user, USER_PADDED)?,
    };
    let (link, relay) = link_of(contact, &key);
    Some(link.open(&relay, &data))
}

fn link_of(contact: bool, key: &[u8; 32]) -> (ShortLink, ServerAddress) {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key);
    let relay: ServerAddress = format!("{}@relay.example", seeds::ADDRESS).parse().unwrap();
    let pin = relay.fingerprint().to_string();
    let pin = pin.trim_end_matches('=');
    let kind = if contact {
        "a#".to_owned()
    } else {
        format!("i#{}/", "A".repeat(32))
    };
    let text = format!("https://relay.example/{kind}{key}?c={pin}");
    let link: Result<ShortLink, _> = text.parse();
    (link.unwrap(), relay)
}

/// An invitation and a contact with an owner and a relay of a channel.
pub(crate) fn seeds_of_link_data(offer: &[u8]) -> Vec<Vec<u8>> {
    let (_, relay) = link_of(true, &[0; 32]);
    let mut queue = b"\0\x02\0\x07\x01\0\x01\0\x04\x01\x0drelay.example\x045223\x20".to_vec();
    queue.extend_from_slice(&relay.fingerprint().0);
    queue.push(24);
    queue.extend_from_slice(&SENDER.0);
    queue.push(44);
    let key = junto_crypto::x25519::SecretKey::from_bytes(&[5; 32]);
    queue.extend_from_slice(&key.public_key().to_spki());
    let invitation = [b"I", &queue[..], b"T0", offer].concat();
    let contact = [b"C", &queue[..], b"0"].concat();
    let owner = SigningKey::from_seed(&[7; 32]).verifying_key().to_spki();
    let vouched = [b"\x01", &owner[..]].concat();
    let signature = root().sign(&vouched);
    let owner = [b"\x01\x01\x2c", &owner[..], b"\x40", signature.as_bytes()].concat();
    let channel = [b"\x01CR\x01\x01h\0\x20", &[1; 32][..], b"\x20", &[2; 32]].concat();
    let mut described = b"C\0\x02\0\x07T\x01".to_vec();
    described.push(u8::try_from(owner.len()).unwrap());
    described.extend_from_slice(&owner);
    described.extend_from_slice(&channel);
    described.extend_from_slice(b"\x05about");
    let seed = |letter: u8, request: &[u8], user: &[u8]| {
        let mut out = vec![letter];
        input::piece(&mut out, request);
        out.extend_from_slice(user);
        out
    };
    vec![
        seed(b'I', &invitation, b"I\0\x02\0\x07\x05about"),
        seed(b'C', &contact, b"C\0\x02\0\x07T\0\0\xff\0\x05about"),
        seed(b'C', &contact, &described),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_opened() {
        let seeds = seeds::of("agent_link_data");
        assert_eq!(seeds.len(), 3);
        for seed in seeds {
            let opened = open(&seed).unwrap().unwrap();
            assert_eq!(opened.about, b"about");
        }
    }
}
