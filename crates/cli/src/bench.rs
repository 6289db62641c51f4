//! `junto bench`: figures beside a floor measured in the same run.

use crate::args::BenchCommand;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(command: BenchCommand, output: Output) -> Result<(), Failure> {
    match command {
        BenchCommand::Bls { rounds } => bls(rounds, output),
        BenchCommand::Relay { .. } | BenchCommand::Session { .. } => Err(Failure::failed("x")),
    }
}

fn bls(rounds: u32, output: Output) -> Result<(), Failure> {
    let progress = output.progress("measuring threshold BLS against bare blst");
    let options = junto_bls::bench::Options {
        rounds,
        ..Default::default()
    };
    let report = junto_bls::bench::run(&options).map_err(Failure::failed)?;
    progress.done();
    output.result(&report, || {
        let mut lines = vec![format!(
            "{:<14} {:>7} {:>12} {:>12} {:>6}  floor",
            "operation", "t of n", "µs", "floor µs", "ratio"
        )];
        lines.extend(report.figures.iter().map(|f| {
            let shape = format!("{} of {}", f.required, f.holders);
            format!(
                "{:<14} {:>7} {:>12.0} {:>12.0} {:>6.2}  {}",
                f.operation, shape, f.microseconds, f.floor_microseconds, f.ratio, f.floor
            )
        }));
        lines.join("\n")
    })
}
