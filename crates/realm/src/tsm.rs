//! Evidence from Linux: the folder `configfs-tsm` of the kernel (6.7 and later), which TDX and SEV-SNP have in common.
//!
//! Whoever makes a folder in it gets files: what is to be in the report goes into `inblob`, the report comes out of `outblob`, and
//! `generation` counts what was written, so that two that use one folder notice. What the vendor signs besides, and a client
//! wants to see, is fetched by whoever runs the machine, into a folder of its own:
//!
//! | machine | files |
//! |---|---|
//! | TDX | `intel.json`: quote's collateral as `dcap-qvl` writes it |
//! | SEV-SNP | `key.der` (VCEK or VLEK), `ask.der` (ASK or ASVK), `crl.der`: from AMD's key server |

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use junto_evidence::{EVIDENCE_BYTES_MAX, Kind, amd, intel, report_data};

use crate::{Attestation, Bound, Evidence};

/// Makes evidence by the kernel.
///
/// Nobody of us has such a machine: this was tested with a folder that a test made, and never with a kernel's.
pub struct Tsm {
    folder: PathBuf,
    collateral: PathBuf,
    /// One report at a time.
    busy: Mutex<()>,
}

impl Tsm {
    /// Where the kernel has it.
    pub const FOLDER: &str = "/sys/kernel/config/tsm/report";

    /// `folder` is [`Self::FOLDER`].
    #[must_use]
    pub fn new(folder: PathBuf, collateral: PathBuf) -> Self {
        Self {
            folder,
            collateral,
            busy: Mutex::new(()),
        }
    }

    /// The folder in it that this process uses.
    #[must_use]
    pub fn entry(&self) -> PathBuf {
        self.folder.join(format!("junto-{}", std::process::id()))
    }

    fn report(&self, entry: &Path, bound: &Bound) -> io::Result<Evidence> {
        let provider = read(&entry.join("provider"))?;
        let kind = match provider.trim_ascii() {
            b"tdx_guest" => Kind::Tdx,
            b"sev_guest" => Kind::Snp,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        // The file is the kernel's, and takes all at once.
        let mut inblob = OpenOptions::new().write(true).open(entry.join("inblob"))?;
        inblob.write_all(&report_data(&bound.0))?;
        drop(inblob);
        let generation = read(&entry.join("generation"))?;
        let report = read(&entry.join("outblob"))?;
        if read(&entry.join("generation"))? != generation {
            return Err(io::Error::other(
                "somebody else asks for reports in our name",
            ));
        }
        let beside = |name: &str| read(&self.collateral.join(name));
        let packed = match kind {
            Kind::Snp => amd::pack(
                &report,
                &beside("key.der")?,
                &beside("ask.der")?,
                Some(&beside("crl.der")?),
            ),
            Kind::Tdx | Kind::Sgx => {
                let text = String::from_utf8(beside("intel.json")?).map_err(io::Error::other)?;
                intel::pack(&report, &text)
            }
        };
        Ok(Evidence::of(kind, packed.map_err(io::Error::other)?))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let most = 2 * EVIDENCE_BYTES_MAX;
    File::open(path)?
        .take(most as u64 + 1)
        .read_to_end(&mut out)?;
    match out.len() > most {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(out),
    }
}

impl Attestation for Tsm {
    fn prove(&self, bound: &Bound) -> io::Result<Evidence> {
        let _one = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = self.entry();
        match fs::create_dir(&entry) {
            // Of a start before ours that ended in the middle.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        let made = self.report(&entry, bound);
        // The kernel's files go with their folder.
        let _ = fs::remove_dir(&entry);
        made
    }
}
