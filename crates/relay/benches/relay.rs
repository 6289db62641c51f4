//! `cargo bench -p junto-relay`: the figures of a relay as JSON. Arguments: `threads=2`,
//! `pairs=32`, `messages=50000`, `journal=sync` or `journal=os`, `quick`.

use junto_relay::bench::{self, BenchOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    bench::child();
    let mut options = BenchOptions::default();
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("threads", n)) => options.threads = n.parse()?,
            Some(("pairs", n)) => options.pairs = n.parse()?,
            Some(("messages", n)) => options.messages = n.parse()?,
            Some(("rounds", n)) => options.rounds = n.parse()?,
            Some(("journal", how)) => options.journal = Some(how == "sync"),
            None if argument == "quick" => options = BenchOptions::quick(),
            _ => {} // What cargo adds.
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(bench::run(options))?;
    serde_json::to_writer_pretty(std::io::stdout(), &report)?;
    std::io::Write::write_all(&mut std::io::stdout(), b"\n")?;
    Ok(())
}
