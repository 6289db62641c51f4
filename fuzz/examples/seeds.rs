//! Writes the seeds of every target into its corpus.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, _) in junto_fuzz::TARGETS {
        let dir = corpus.join(name);
        fs::create_dir_all(&dir)?;
        for (number, seed) in junto_fuzz::seeds::of(name).iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
