//! Profile keys: remembered, pinned, changed, missing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

mod table;

use std::sync::Arc;

use junto_crypto::ed25519::SigningKey;
use junto_session::{
    DisplayName, Fault, IdentityFault, Misuse, Params, PartyCount, Persona, Policy, Refusal,
    Session, SessionError, Sessions, Stage, carrier::memory::Hub,
};
use table::{PATIENCE, open};

struct Person {
    name: &'static str,
    key: u8,
    sessions: Sessions,
    _dir: tempfile::TempDir,
}

impl Person {
    fn new(hub: &Hub, name: &'static str, key: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Two people may use one name; their mailboxes differ.
        let sessions = open(dir.path(), hub, &format!("{name} {key}"));
        Self {
            name,
            key,
            sessions,
            _dir: dir,
        }
    }

    fn profile(&self) -> Arc<SigningKey> {
        Arc::new(SigningKey::from_seed(&[self.key; 32]))
    }

    fn persona(&self) -> Persona {
        Persona {
            display_name: DisplayName::new(self.name).unwrap(),
            profile: Some(self.profile()),
            relay: String::new(),
            pinned: Vec::new(),
        }
    }
}

async fn meet(a: &Person, b: &Person, policy: Policy) -> [Result<Session, SessionError>; 2] {
    let params = Params {
        name: "meeting".to_owned(),
        parties: PartyCount::new(2).unwrap(),
        policy,
    };
    let (hosting, link) = a
        .sessions
        .new_session(params, a.persona(), PATIENCE)
        .await
        .unwrap();
    let joining = b.sessions.join(link, b.persona()).await.unwrap();
    let (x, y) = tokio::join!(hosting.formed(PATIENCE), joining.formed(PATIENCE));
    let _ = a.sessions.close("meeting").await;
    let _ = b.sessions.close("meeting").await;
    [x, y]
}

fn identity_fault(result: &Result<Session, SessionError>) -> Option<&IdentityFault> {
    match result {
        Err(SessionError::Peer(blame)) => match &blame.fault {
            Fault::Identity(fault) => Some(fault),
            _ => None,
        },
        _ => None,
    }
}

#[tokio::test]
async fn tofu_remembers_and_stops_on_change() {
    let hub = Hub::new();
    let (ada, bob) = (Person::new(&hub, "Ada", 1), Person::new(&hub, "Bob", 2));
    for _ in 0..2 {
        for result in meet(&ada, &bob, Policy::Tofu).await {
            result.unwrap();
        }
    }
    let known = ada.sessions.known_keys().await.unwrap();
    assert_eq!(known.key("Bob"), Some(&bob.profile().verifying_key()));
    let impostor = Person::new(&hub, "Bob", 3);
    let [at_ada, at_impostor] = meet(&ada, &impostor, Policy::Tofu).await;
    assert!(
        matches!(identity_fault(&at_ada), Some(IdentityFault::KeyChanged { name, .. }) if name == "Bob"),
        "{at_ada:?}"
    );
    at_impostor.unwrap_err();
    // The user may decide that Bob has a new profile.
    let new = impostor.profile().verifying_key();
    ada.sessions.trust("Bob", new).await.unwrap();
    for result in meet(&ada, &impostor, Policy::Tofu).await {
        result.unwrap();
    }
}

#[tokio::test]
async fn pinned_admits_the_listed_only() {
    let hub = Hub::new();
    let (ada, bob) = (Person::new(&hub, "Ada", 1), Person::new(&hub, "Bob", 2));
    let key = ada.profile().verifying_key();
    bob.sessions.trust("whatever", key).await.unwrap();
    // Bob knows Ada, and not the other way round: he hears why, and she who it was. His place stays free.
    let params = Params {
        name: "meeting".to_owned(),
        parties: PartyCount::new(2).unwrap(),
        policy: Policy::Pinned,
    };
    let opened = ada.sessions.new_session(params, ada.persona(), PATIENCE);
    let (hosting, link) = opened.await.unwrap();
    let before = hosting.summary().await.unwrap();
    let joining = bob.sessions.join(link.clone(), bob.persona()).await;
    let refused = joining.unwrap().formed(PATIENCE).await;
    assert!(
        matches!(refused, Err(SessionError::Refused(Refusal::NotPinned))),
        "{refused:?}"
    );
    let seen = hosting.changed(&before).await.unwrap();
    let [stranger] = seen.strangers.as_slice() else {
        panic!("{seen:?}");
    };
    assert_eq!(stranger.name.as_str(), "Bob");
    assert_eq!(stranger.key, bob.profile().verifying_key());
    assert_eq!((seen.stage, seen.connected), (Stage::Meeting, 1));
    for person in [&ada, &bob] {
        person.sessions.close("meeting").await.unwrap();
    }
    let key = bob.profile().verifying_key();
    ada.sessions.trust("Bob", key).await.unwrap();
    for result in meet(&ada, &bob, Policy::Pinned).await {
        result.unwrap();
    }
}

/// What a session lists is all that it admits, whatever else the profile knows.
#[tokio::test]
async fn a_session_may_list_its_parties() {
    let hub = Hub::new();
    let [ada, bob, eve] =
        [("Ada", 1), ("Bob", 2), ("Eve", 3)].map(|(name, key)| Person::new(&hub, name, key));
    let pinning = |person: &Person, others: &[&Person]| Persona {
        pinned: others
            .iter()
            .map(|other| other.profile().verifying_key())
            .collect(),
        ..person.persona()
    };
    for (name, known) in [("Eve", &eve), ("Bob", &bob)] {
        let key = known.profile().verifying_key();
        ada.sessions.trust(name, key).await.unwrap();
    }
    let params = Params {
        name: "meeting".to_owned(),
        parties: PartyCount::new(2).unwrap(),
        policy: Policy::Pinned,
    };
    let opened = ada
        .sessions
        .new_session(params, pinning(&ada, &[&bob]), PATIENCE);
    let (hosting, link) = opened.await.unwrap();
    let knocking = eve
        .sessions
        .join(link.clone(), pinning(&eve, &[&ada]))
        .await;
    let refused = knocking.unwrap().formed(PATIENCE).await;
    assert!(
        matches!(refused, Err(SessionError::Refused(Refusal::NotPinned))),
        "{refused:?}"
    );
    let joining = bob
        .sessions
        .join(link, pinning(&bob, &[&ada]))
        .await
        .unwrap();
    let (hosted, joined) = tokio::join!(hosting.formed(PATIENCE), joining.formed(PATIENCE));
    hosted.unwrap();
    joined.unwrap();
}

/// Who joins lists whom it expects, too: a host that admits somebody else does not get its session.
#[tokio::test]
async fn a_joiner_meets_nobody_whom_it_does_not_list() {
    let hub = Hub::new();
    let [ada, bob, eve] =
        [("Ada", 1), ("Bob", 2), ("Eve", 3)].map(|(name, key)| Person::new(&hub, name, key));
    let pinning = |person: &Person, other: &Person| Persona {
        pinned: vec![other.profile().verifying_key()],
        ..person.persona()
    };
    let params = Params {
        name: "meeting".to_owned(),
        parties: PartyCount::new(2).unwrap(),
        policy: Policy::Pinned,
    };
    let opened = eve
        .sessions
        .new_session(params, pinning(&eve, &bob), PATIENCE);
    let (hosting, link) = opened.await.unwrap();
    let joining = bob.sessions.join(link, pinning(&bob, &ada)).await.unwrap();
    let (hosted, joined) = tokio::join!(hosting.formed(PATIENCE), joining.formed(PATIENCE));
    assert!(
        matches!(
            identity_fault(&joined),
            Some(IdentityFault::NotPinned { .. })
        ),
        "{joined:?}"
    );
    hosted.unwrap_err();
}

#[tokio::test]
async fn one_profile_cannot_sit_twice() {
    let hub = Hub::new();
    let (ada, twin) = (Person::new(&hub, "Ada", 1), Person::new(&hub, "Eve", 1));
    let params = Params {
        name: "meeting".to_owned(),
        parties: PartyCount::new(3).unwrap(),
        policy: Policy::Tofu,
    };
    let (hosting, link) = ada
        .sessions
        .new_session(params, ada.persona(), PATIENCE)
        .await
        .unwrap();
    let bob = Person::new(&hub, "Bob", 2);
    let first = bob.sessions.join(link.clone(), bob.persona());
    let first = first.await.unwrap();
    let mut seen = hosting.summary().await.unwrap();
    while seen.connected < 2 {
        seen = hosting.changed(&seen).await.unwrap();
    }
    // The host's own profile, and one that sits already.
    let second = Person::new(&hub, "Bob again", 2);
    for double in [&twin, &second] {
        let joining = double.sessions.join(link.clone(), double.persona()).await;
        let refused = joining.unwrap().formed(PATIENCE).await;
        assert!(
            matches!(refused, Err(SessionError::Refused(Refusal::Seated))),
            "{refused:?}"
        );
    }
    // Nobody lost a place by that.
    let carol = Person::new(&hub, "Carol", 3);
    let third = carol.sessions.join(link, carol.persona()).await.unwrap();
    let (a, b, c) = tokio::join!(
        hosting.formed(PATIENCE),
        first.formed(PATIENCE),
        third.formed(PATIENCE)
    );
    for formed in [a, b, c] {
        formed.unwrap();
    }
}

#[tokio::test]
async fn two_of_one_name_cannot_be_told_apart() {
    let hub = Hub::new();
    let (ada, bob) = (Person::new(&hub, "Ada", 1), Person::new(&hub, "Bob", 2));
    let params = Params {
        name: "meeting".to_owned(),
        parties: PartyCount::new(3).unwrap(),
        policy: Policy::Tofu,
    };
    let (hosting, link) = ada
        .sessions
        .new_session(params, ada.persona(), PATIENCE)
        .await
        .unwrap();
    let first = bob
        .sessions
        .join(link.clone(), bob.persona())
        .await
        .unwrap();
    let mut seen = hosting.summary().await.unwrap();
    while seen.connected < 2 {
        seen = hosting.changed(&seen).await.unwrap();
    }
    // Another Bob, and one who takes the host's name: there is a place, but not for that name.
    for name in ["Bob", "Ada"] {
        let second = Person::new(&hub, name, 3);
        let joining = second.sessions.join(link.clone(), second.persona()).await;
        let refused = joining.unwrap().formed(PATIENCE).await;
        assert!(
            matches!(refused, Err(SessionError::Refused(Refusal::NameTaken))),
            "{refused:?}"
        );
    }
    // Under another name there is.
    let eve = Person::new(&hub, "Eve", 3);
    let third = eve.sessions.join(link, eve.persona()).await.unwrap();
    let (a, b, c) = tokio::join!(
        hosting.formed(PATIENCE),
        first.formed(PATIENCE),
        third.formed(PATIENCE)
    );
    for formed in [a, b, c] {
        formed.unwrap();
    }
    assert_eq!(ada.sessions.known_keys().await.unwrap().iter().count(), 2);
}

#[tokio::test]
async fn a_persona_must_fit_the_policy() {
    let hub = Hub::new();
    let ada = Person::new(&hub, "Ada", 1);
    let params = |policy| Params {
        name: "meeting".to_owned(),
        parties: PartyCount::new(2).unwrap(),
        policy,
    };
    for (policy, persona) in [
        (Policy::Anonymous, ada.persona()),
        (Policy::Pinned, Persona::default()),
        (
            Policy::Tofu,
            Persona {
                display_name: DisplayName::default(),
                ..ada.persona()
            },
        ),
    ] {
        let made = ada
            .sessions
            .new_session(params(policy), persona, PATIENCE)
            .await;
        assert!(matches!(
            made.err(),
            Some(SessionError::Misuse(Misuse::Policy))
        ));
    }
}
