//! Prints the figures: `cargo bench -p junto-bls --features bench`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

fn main() {
    let report = junto_bls::bench::run(&junto_bls::bench::Options::default()).unwrap();
    for figure in report.figures {
        println!(
            "{:32} {:>2}/{:<2} {:>10.1} us  floor {:>10.1} us  ratio {:.2}",
            figure.operation,
            figure.required,
            figure.holders,
            figure.microseconds,
            figure.floor_microseconds,
            figure.ratio
        );
    }
}
