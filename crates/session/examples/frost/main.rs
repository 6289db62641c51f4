//! A published protocol that knows nothing of Junto, run over sessions: threshold key generation
//! and FROST signing (Ed25519) of the `givre` crate.
//!
//! `cargo run --example frost -- [PARTIES [THRESHOLD]]`

mod run;

use std::time::Duration;

use junto_crypto::aead::StoreKey;
use junto_session::{
    DisplayName, Params, PartyCount, Persona, Policy, Sessions, carrier::memory::Hub,
};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows its result")]
async fn main() -> Result<(), run::FrostError> {
    let mut arguments = std::env::args().skip(1);
    let parties: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let threshold: u16 = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let hub = Hub::new();
    let dir = tempfile::tempdir()?;
    let mut profiles = Vec::new();
    for index in 0..parties {
        let home = dir.path().join(index.to_string());
        std::fs::create_dir(&home)?;
        let key = StoreKey::from_bytes(&[1; 32]);
        profiles.push(Sessions::open(&home, key, hub.open(&index.to_string()))?);
    }
    let persona = |name: &str| -> Result<Persona, run::FrostError> {
        Ok(Persona {
            display_name: DisplayName::new(name)?,
            ..Persona::default()
        })
    };
    let params = Params {
        name: "frost".to_owned(),
        parties: PartyCount::new(parties)?,
        policy: Policy::Anonymous,
    };
    let (host, link) = profiles[0]
        .new_session(params, persona("host")?, PATIENCE)
        .await?;
    let mut forming = vec![host];
    for profile in &profiles[1..] {
        forming.push(profile.join(link.clone(), persona("joiner")?).await?);
    }
    let mut runs = tokio::task::JoinSet::new();
    for forming in forming {
        runs.spawn(async move {
            let session = forming.formed(PATIENCE).await?;
            run::run_frost_example(&session, threshold, b"hello", PATIENCE).await
        });
    }
    while let Some(outcome) = runs.join_next().await {
        let outcome = outcome??;
        println!(
            "public key {}, signature {}",
            outcome.public_key_hex(),
            outcome.signature_hex()
        );
    }
    Ok(())
}
