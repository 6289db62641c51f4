//! Judges what a machine shows of itself: quotes of Intel SGX and TDX, and reports of AMD SEV-SNP.
//!
//! Bytes, time and a policy go in; [`Verified`] comes out, or the [`Refusal`] that says why not. Three questions, in this order:
//!
//! 1. *Did the vendor's hardware say this?* [`verify`] follows the signatures up to a root that is compiled in, with the
//!    vendor's lists of what is revoked and out of date, which whoever shows the evidence sends along ([`intel`], [`amd`]).
//! 2. *Is it this channel's?* The report has the caller's value in it ([`report_data`]).
//! 3. *Is it what we want?* A [`Policy`] names programs and chips one by one, and how old their microcode may be; a [`Floor`]
//!    says before which day nothing counts any more.
//!
//! Signatures alone admit nobody: since interposers on the memory bus read the keys of such machines, a forged quote is
//! a matter of some hundred dollars for who holds a machine in hands. So a policy has a roster of chips, too.

pub mod amd;
mod floor;
pub mod intel;
mod parts;
mod policy;

use std::{fmt, str::FromStr};

use junto_crypto::hash::sha256_of;
use serde::{Deserialize, Serialize};

pub use dcap_qvl::TcbStatus;
pub use floor::Floor;
pub use policy::{AmdPolicy, IntelPolicy, Policy};

/// Most bytes of evidence with all its collateral: what is published takes up to 20 KB.
pub const EVIDENCE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a caller's own that a report carries.
pub const REPORT_DATA_BYTES: usize = 64;

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub u64);

/// Hardware that makes evidence. The number is its kind on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// An enclave of Intel SGX.
    Sgx = 1,
    /// A virtual machine under Intel TDX.
    Tdx = 2,
    /// A virtual machine under AMD SEV-SNP.
    Snp = 3,
}

impl Kind {
    /// The kind with that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Sgx, Self::Tdx, Self::Snp]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sgx => "sgx",
            Self::Tdx => "tdx",
            Self::Snp => "snp",
        })
    }
}

/// What runs, as the hardware measured it. In text: `sgx:HEX`, `tdx:HEX.HEX.HEX.HEX.HEX`, `snp:HEX`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Measurement {
    /// MRENCLAVE.
    Sgx([u8; 32]),
    /// MRTD, then RTMR 0 to 3: the firmware, and what it and the system measured.
    Tdx(Box<[[u8; 48]; 5]>),
    /// The launch measurement.
    Snp([u8; 48]),
}

impl Measurement {
    /// Of which hardware.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sgx(_) => Kind::Sgx,
            Self::Tdx(_) => Kind::Tdx,
            Self::Snp(_) => Kind::Snp,
        }
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Sgx(one) => hex::encode(one),
            Self::Tdx(all) => all.each_ref().map(hex::encode).join("."),
            Self::Snp(one) => hex::encode(one),
        };
        write!(f, "{}:{text}", self.kind())
    }
}

/// Not a measurement, or not a node, in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no {0}")]
pub struct NotText(&'static str);

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    // One spelling for each value.
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (lower && hex::decode_to_slice(text, &mut out).is_ok()).then_some(out)
}

impl FromStr for Measurement {
    type Err = NotText;

    fn from_str(text: &str) -> Result<Self, NotText> {
        let parsed = text.split_once(':').and_then(|(kind, text)| match kind {
            "sgx" => unhex(text).map(Self::Sgx),
            "snp" => unhex(text).map(Self::Snp),
            "tdx" => {
                let all = text.split('.').map(unhex).collect::<Option<Vec<_>>>()?;
                Some(Self::Tdx(all.try_into().ok()?))
            }
            _ => None,
        });
        parsed.ok_or(NotText("measurement (KIND:HEX)"))
    }
}

/// One chip, by a digest of the number that its vendor signed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Node([u8; 32]);

impl Node {
    fn new(vendor: &[u8], chip: &[u8]) -> Self {
        Self(sha256_of(&[b"junto evidence node ", vendor, b" ", chip]))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Node {
    type Err = NotText;

    fn from_str(text: &str) -> Result<Self, NotText> {
        unhex(text)
            .map(Self)
            .ok_or(NotText("node (64 digits of hex)"))
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = NotText;
            fn try_from(text: String) -> Result<Self, NotText> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}
as_text!(Measurement, Node);

/// How well the machine is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As Intel's collateral has it.
    Intel {
        /// The worst of platform, module and quoting enclave.
        status: TcbStatus,
        /// The number of Intel's evaluation by which that was found.
        evaluation: u32,
        /// What Intel lists against it.
        advisories: Vec<String>,
    },
    /// As the report has it, and AMD's certificate for exactly that.
    Amd {
        /// Which processors.
        product: amd::Product,
        /// Versions of what runs beneath the machine.
        tcb: amd::Tcb,
    },
}

/// What hardware said: there is no other way to one of these than a check of all signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    measurement: Measurement,
    report_data: [u8; REPORT_DATA_BYTES],
    node: Option<Node>,
    standing: Standing,
    issued: Option<Seconds>,
}

impl Verified {
    /// Of which hardware.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.measurement.kind()
    }

    /// What runs.
    #[must_use]
    pub fn measurement(&self) -> &Measurement {
        &self.measurement
    }

    /// What the program had put into the report.
    #[must_use]
    pub fn report_data(&self) -> &[u8; REPORT_DATA_BYTES] {
        &self.report_data
    }

    /// On which chip; none if it does not say.
    #[must_use]
    pub fn node(&self) -> Option<Node> {
        self.node
    }

    /// How well the machine is kept.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// When the vendor signed the oldest of the lists that come out anew all the time; none if no such list was shown.
    #[must_use]
    pub fn issued(&self) -> Option<Seconds> {
        self.issued
    }
}

/// Why evidence does not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too long, or not made of the parts that it should be.
    #[error("its evidence is malformed")]
    Malformed,
    /// Of another kind than it says.
    #[error("its evidence is of another kind than it says")]
    OtherKind,
    /// Intel's rules refuse it: what the library says.
    #[error("its quote does not hold: {0}")]
    Intel(String),
    /// A certificate or list of AMD's does not hold.
    #[error("the {0} of its report does not hold")]
    Amd(amd::Link),
    /// The machine can be looked into.
    #[error("its machine is open to a debugger, or to be moved to others")]
    Debug,
    /// Not the value that was asked for: of another channel.
    #[error("its evidence is not of this channel")]
    Unbound,
    /// Not on the policy's list.
    #[error("it runs something else than the policy names: {0}")]
    Measurement(Measurement),
    /// Not on the policy's roster.
    #[error("its machine is not on the roster: {}", .0.map_or_else(|| "it does not say which it is".to_owned(), |node| node.to_string()))]
    Node(Option<Node>),
    /// The policy asks for more.
    #[error("its machine is not kept well enough: {0}")]
    Standing(String),
    /// No list of what is revoked came with it.
    #[error("no list of what is revoked came with its evidence")]
    Undated,
    /// What came with it was signed before the floor.
    #[error("what came with its evidence was signed too long ago")]
    Stale,
    /// Our own clock is before a day of which we know that it has been.
    #[error("this machine's clock is behind: its vendor has signed a later date already")]
    Clock,
}

/// The roots under which evidence counts.
#[derive(Clone)]
pub struct Roots {
    intel: Vec<u8>,
    amd: Vec<(amd::Product, Vec<u8>)>,
}

impl Roots {
    /// The vendors' own.
    #[must_use]
    pub fn vendors() -> Self {
        Self {
            intel: intel::ROOT.to_vec(),
            amd: amd::ROOTS
                .map(|(product, root)| (product, root.to_vec()))
                .to_vec(),
        }
    }

    /// Others, under which tests make evidence: a certificate each, DER. Nothing that a vendor made counts under them.
    #[must_use]
    pub fn for_tests(intel: Vec<u8>, amd: (amd::Product, Vec<u8>)) -> Self {
        Self {
            intel,
            amd: vec![amd],
        }
    }
}

/// What a report has to carry to be of a channel: its value, then zeros.
#[must_use]
pub fn report_data(bound: &[u8; 32]) -> [u8; REPORT_DATA_BYTES] {
    let mut out = [0; REPORT_DATA_BYTES];
    out[..32].copy_from_slice(bound);
    out
}

/// Whether the vendor's hardware said this, as of `now`. What it says is not judged.
///
/// # Errors
/// [`Refusal`].
pub fn verify(kind: Kind, bytes: &[u8], roots: &Roots, now: Seconds) -> Result<Verified, Refusal> {
    if bytes.len() > EVIDENCE_BYTES_MAX {
        return Err(Refusal::Malformed);
    }
    let verified = match kind {
        Kind::Sgx | Kind::Tdx => intel::verify(bytes, &roots.intel, now)?,
        Kind::Snp => amd::verify(bytes, &roots.amd, now)?,
    };
    (verified.kind() == kind)
        .then_some(verified)
        .ok_or(Refusal::OtherKind)
}

/// All three questions, and the floor as it is after the answer: to be stored before anything rests on it.
///
/// # Errors
/// [`Refusal`].
pub fn judge(
    kind: Kind,
    bytes: &[u8],
    bound: &[u8; 32],
    (policy, roots): (&Policy, &Roots),
    floor: &Floor,
    now: Seconds,
) -> Result<(Verified, Floor), Refusal> {
    floor.allows(now)?;
    let verified = verify(kind, bytes, roots, now)?;
    if verified.report_data != report_data(bound) {
        return Err(Refusal::Unbound);
    }
    policy.admit(&verified)?;
    let floor = floor.raised_by(&verified)?;
    Ok((verified, floor))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn measurements_and_nodes_have_one_spelling() {
        let all = [
            Measurement::Sgx([0xa1; 32]),
            Measurement::Tdx(Box::new([1, 2, 3, 4, 5].map(|i| [i; 48]))),
            Measurement::Snp([3; 48]),
        ];
        for one in all {
            let text = one.to_string();
            assert_eq!(text.parse::<Measurement>().unwrap(), one);
            assert!(text[..text.len() - 1].parse::<Measurement>().is_err());
            assert!(format!("{text}0").parse::<Measurement>().is_err());
            assert!(format!("x{text}").parse::<Measurement>().is_err());
        }
        let upper = Measurement::Sgx([0xa1; 32]).to_string().replace('a', "A");
        assert!(upper.parse::<Measurement>().is_err());
        assert!(
            format!("tdx:{}", ["00"; 48].concat())
                .parse::<Measurement>()
                .is_err()
        );
        let node = Node::new(b"amd", &[1]);
        assert_eq!(node.to_string().parse::<Node>().unwrap(), node);
        assert_ne!(node, Node::new(b"intel", &[1]));
        assert!("00".parse::<Node>().is_err());
    }

    #[test]
    fn kinds_have_numbers() {
        for kind in [Kind::Sgx, Kind::Tdx, Kind::Snp] {
            assert_eq!(Kind::from_number(kind as u8), Some(kind));
        }
        // 0 is what proves nothing, and no hardware.
        assert_eq!((Kind::from_number(0), Kind::from_number(4)), (None, None));
    }
}
