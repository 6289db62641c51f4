//! Figures of a session over the carrier in memory: what the session itself costs.
//!
//! `cargo run --release --example figures`

use junto_session::{
    bench::{Options, Seat, run},
    carrier::memory::Hub,
};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows its result")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hub = Hub::new();
    let (a, b) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let report = run(seat(&hub, "a", &a), seat(&hub, "b", &b), Options::default()).await?;
    println!("{report:#?}");
    Ok(())
}

fn seat(hub: &Hub, name: &str, dir: &tempfile::TempDir) -> Seat {
    Seat {
        carriage: hub.open(name),
        relay: String::new(),
        dir: dir.path().to_owned(),
    }
}
