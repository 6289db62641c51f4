//! The first program of a newcomer, `examples/hello.rs`, over a real relay.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "../examples/hello.rs"]
#[allow(dead_code, reason = "its `main` is for people")]
mod example;
#[path = "../../relay/tests/site/place.rs"]
mod place;

use std::time::Duration;

use junto_relay::{Relay, RelayConfig};
use junto_tls::{OfflineIdentity, ServerIdentity};
use place::Place;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rustls::pki_types::UnixTime;
use tokio::sync::mpsc;

/// Far more than anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn identity(folder: &std::path::Path) -> ServerIdentity {
    let (mut rng, now) = (ChaCha20Rng::from_seed([1; 32]), UnixTime::now());
    let authority = OfflineIdentity::generate(&mut rng, now).unwrap();
    authority.create(folder).unwrap();
    let issued = authority.issue("127.0.0.1", &mut rng, now).unwrap();
    issued.create(folder).unwrap();
    ServerIdentity::load(folder, now).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_strangers_say_hello() {
    let (folder, place) = (tempfile::tempdir().unwrap(), Place::new());
    let config = RelayConfig::in_memory("127.0.0.1", place.address).unwrap();
    let relay = Relay::start(config, identity(folder.path())).await.unwrap();
    let address = relay.address().to_string();
    let (by_first, mut first) = mpsc::unbounded_channel();
    let (by_second, mut second) = mpsc::unbounded_channel();
    let both = async {
        let inviting = example::hello(&address, None, move |line| by_first.send(line).unwrap());
        let joining = async {
            let link = first.recv().await.unwrap();
            example::hello(&address, Some(&link), move |line| {
                by_second.send(line).unwrap();
            })
            .await
        };
        tokio::try_join!(inviting, joining).unwrap();
    };
    tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert_eq!(first.recv().await.unwrap(), "hello, stranger");
    assert_eq!(second.recv().await.unwrap(), "hello, stranger");
}
