//! `cargo bench -p junto-relay`: the figures of a relay as JSON. Arguments: `threads=2`,
//! `pairs=32`, `messages=50000`, `journal=sync` or `journal=os`, `quick`; `curves`, and then
//! `connections=1000` and `queues=100000` bound them.

use junto_relay::bench::{self, BenchOptions, CurveOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    bench::child();
    let mut options = BenchOptions::default();
    let mut curve = CurveOptions::default();
    let mut curves = false;
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("threads", n)) => options.threads = n.parse()?,
            Some(("pairs", n)) => options.pairs = n.parse()?,
            Some(("messages", n)) => options.messages = n.parse()?,
            Some(("rounds", n)) => options.rounds = n.parse()?,
            Some(("journal", how)) => options.journal = Some(how == "sync"),
            Some(("connections", n)) => {
                let most = n.parse()?;
                curve.connections.retain(|&n| n <= most);
            }
            Some(("queues", n)) => {
                let most = n.parse()?;
                curve.queues.retain(|&n| n <= most);
            }
            None if argument == "curves" => curves = true,
            None if argument == "quick" => options = BenchOptions::quick(),
            _ => {} // What cargo adds.
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    if curves {
        let report = runtime.block_on(bench::curves(&curve))?;
        serde_json::to_writer_pretty(std::io::stdout(), &report)?;
    } else {
        let report = runtime.block_on(bench::run(options))?;
        serde_json::to_writer_pretty(std::io::stdout(), &report)?;
    }
    std::io::Write::write_all(&mut std::io::stdout(), b"\n")?;
    Ok(())
}
