//! Makes evidence under roots of its own: what only a vendor could sign, with each thing wrong that can be.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

pub mod amd;
pub mod der;
pub mod intel;

use std::sync::LazyLock;

use junto_evidence::{Roots, Seconds, amd::Product};

/// 2026-01-15, at which what is made here is good.
pub const NOW: Seconds = Seconds(1_768_435_200);
/// 2026-01-10, when the lists were issued that come out anew.
pub const ISSUED: &str = "260110000000Z";
pub const ISSUED_AT: Seconds = Seconds(1_768_003_200);
pub const UNTIL: &str = "260210000000Z";
/// Of certificates.
pub const VALID: [&str; 2] = ["250101000000Z", "350101000000Z"];

/// Keys take long to make.
pub static AMD: LazyLock<amd::Mint> = LazyLock::new(amd::Mint::new);
pub static INTEL: LazyLock<intel::Mint> = LazyLock::new(intel::Mint::new);

pub fn roots() -> Roots {
    Roots::for_tests(INTEL.root(), (Product::Milan, AMD.root()))
}
