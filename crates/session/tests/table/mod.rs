//! Parties around a table, each with a profile folder of its own.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "part of a test; each test file uses some of it"
)]

use std::{path::Path, time::Duration};

use junto_crypto::aead::StoreKey;
use junto_session::{
    DisplayName, Forming, Params, PartyCount, Persona, Policy, Session, SessionLink, Sessions,
    carrier::memory::Hub,
};

/// Long enough for a machine that does seven other things; tests do not wait for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Home {
    pub dir: tempfile::TempDir,
    pub sessions: Sessions,
}

pub struct Table {
    pub homes: Vec<Home>,
    pub forming: Vec<Forming>,
    pub sessions: Vec<Session>,
    pub link: SessionLink,
}

pub fn open(dir: &Path, hub: &Hub, name: &str) -> Sessions {
    Sessions::open(dir, StoreKey::from_bytes(&[7; 32]), hub.open(name)).unwrap()
}

pub fn params(parties: usize) -> Params {
    Params {
        name: "test".to_owned(),
        parties: PartyCount::new(parties).unwrap(),
        policy: Policy::Anonymous,
    }
}

pub fn persona(name: &str) -> Persona {
    Persona {
        display_name: DisplayName::new(name).unwrap(),
        profile: None,
        relay: "memory".to_owned(),
        pinned: Vec::new(),
    }
}

impl Table {
    pub async fn prepared(parties: usize, hub: &Hub) -> Self {
        let mut homes = Vec::new();
        for index in 0..parties {
            let dir = tempfile::tempdir().unwrap();
            let sessions = open(dir.path(), hub, &format!("party {index}"));
            homes.push(Home { dir, sessions });
        }
        let (host, link) = homes[0]
            .sessions
            .new_session(params(parties), persona("host"), PATIENCE)
            .await
            .unwrap();
        let mut forming = vec![host];
        for (index, home) in homes.iter().enumerate().skip(1) {
            let joiner = home
                .sessions
                .join(link.clone(), persona(&format!("joiner {index}")))
                .await
                .unwrap();
            forming.push(joiner);
        }
        Self {
            homes,
            forming,
            sessions: Vec::new(),
            link,
        }
    }

    pub async fn of(parties: usize, hub: &Hub) -> Self {
        let mut table = Self::prepared(parties, hub).await;
        let formed = futures::future::join_all(table.forming.iter().map(|f| f.formed(PATIENCE)));
        table.sessions = formed.await.into_iter().map(Result::unwrap).collect();
        table
    }

    pub async fn latecomer(&mut self, hub: &Hub, name: &str) -> Forming {
        let dir = tempfile::tempdir().unwrap();
        let sessions = open(dir.path(), hub, name);
        let forming = sessions
            .join(self.link.clone(), persona(name))
            .await
            .unwrap();
        self.homes.push(Home { dir, sessions });
        forming
    }

    /// In order of party index.
    pub fn by_rank(&self) -> Vec<&Session> {
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_by_key(|session| session.me());
        sessions
    }

    /// Ends a party's process, as far as one can from inside, and starts it again.
    pub async fn reopen(&mut self, index: usize, hub: &Hub) -> Session {
        let Home { dir, sessions } = self.homes.remove(index);
        self.sessions.remove(index);
        self.forming.remove(index);
        drop(sessions);
        // The task ends once its last handle is gone; the file lock tells when.
        let opened = async {
            loop {
                let key = StoreKey::from_bytes(&[7; 32]);
                match Sessions::open(dir.path(), key, hub.open(&format!("party {index}"))) {
                    Ok(sessions) => return sessions,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let sessions = tokio::time::timeout(PATIENCE, opened).await.unwrap();
        let forming = sessions.resume("test").await.unwrap();
        let session = forming.formed(PATIENCE).await.unwrap();
        self.homes.insert(index, Home { dir, sessions });
        self.forming.insert(index, forming);
        self.sessions.insert(index, session.clone());
        session
    }
}
