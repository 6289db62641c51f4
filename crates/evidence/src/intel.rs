//! Quotes of Intel SGX (version 3) and TDX (4 and 5), by DCAP. `dcap-qvl` has Intel's rules; the cryptography is aws-lc-rs.
//!
//! Evidence is the quote with its *collateral*: Intel's lists of certificates that are revoked, of versions that are out of
//! date, and of quoting enclaves, each with the chain of who signed it. Ten parts, each behind its length:
//!
//! ```text
//! quote · root's CRL · PCK's CRL · TCB info · signature · chain · QE identity · signature · chain · PCK chain or nothing
//! ```
//!
//! Debugging, profiling, migration and service machines are refused whatever a policy says.

use dcap_qvl::{
    QuoteClaims, QuoteCollateralV3, QuotePolicy,
    config::{Config, CryptoProvider},
    quote::Report,
    signature::DerSigEncoder,
    verify::QuoteVerifier,
    x509::X509CertBackend,
};
use rustls_pki_types::SignatureVerificationAlgorithm;
use time::{Date, Month};

use crate::{
    Measurement, Node, Refusal, Seconds, Standing, Verified,
    parts::{join, split},
};

/// "Intel SGX Root CA", SHA-256 44a0196b…b674d3.
pub(crate) const ROOT: &[u8] = include_bytes!("roots/intel-sgx.der");

const PARTS: usize = 10;
/// Longest reason that is passed on.
const REASON_CHARS_MAX: usize = 200;

/// aws-lc-rs for the library's signatures.
struct AwsLc;

impl CryptoProvider for AwsLc {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        webpki::aws_lc_rs::ECDSA_P256_SHA256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        junto_crypto::hash::sha256(data)
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, data);
        let mut out = [0; 48];
        out.copy_from_slice(digest.as_ref());
        out
    }
}

struct Ours;

impl Config for Ours {
    type X509 = X509CertBackend;
    type SigEncoder = DerSigEncoder;
    type Crypto = AwsLc;
}

/// Evidence from a quote and its collateral, in the JSON form that `dcap-qvl` writes.
///
/// # Errors
/// [`Refusal::Malformed`].
pub fn pack(quote: &[u8], collateral: &str) -> Result<Vec<u8>, Refusal> {
    if collateral.len() > 2 * crate::EVIDENCE_BYTES_MAX {
        return Err(Refusal::Malformed);
    }
    let it: QuoteCollateralV3 = serde_json::from_str(collateral).map_err(|_| Refusal::Malformed)?;
    join(&[
        quote,
        &it.root_ca_crl,
        &it.pck_crl,
        it.tcb_info.as_bytes(),
        &it.tcb_info_signature,
        it.tcb_info_issuer_chain.as_bytes(),
        it.qe_identity.as_bytes(),
        &it.qe_identity_signature,
        it.qe_identity_issuer_chain.as_bytes(),
        it.pck_certificate_chain.as_deref().unwrap_or("").as_bytes(),
    ])
}

fn text(bytes: &[u8]) -> Result<String, Refusal> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Refusal::Malformed)
}

/// What the library says, fit for a terminal: parts of it may come from who sent the evidence.
fn reason(error: impl std::fmt::Debug) -> Refusal {
    // The chain of causes, without a place in the source.
    let whole = format!("{error:?}");
    let shown = whole.split("Stack backtrace").next().unwrap_or_default();
    let plain = shown
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { ' ' });
    let plain: String = plain.take(REASON_CHARS_MAX).collect();
    let words: Vec<_> = plain.split_whitespace().collect();
    Refusal::Intel(words.join(" "))
}

pub(crate) fn verify(bytes: &[u8], root: &[u8], now: Seconds) -> Result<Verified, Refusal> {
    let [
        quote,
        root_ca_crl,
        pck_crl,
        tcb_info,
        tcb_signature,
        tcb_chain,
        qe_identity,
        qe_signature,
        qe_chain,
        pck_chain,
    ] = split::<PARTS>(bytes)?;
    let collateral = QuoteCollateralV3 {
        // The library takes the issuer's chain from the certificate itself.
        pck_crl_issuer_chain: String::new(),
        root_ca_crl: root_ca_crl.to_vec(),
        pck_crl: pck_crl.to_vec(),
        tcb_info_issuer_chain: text(tcb_chain)?,
        tcb_info: text(tcb_info)?,
        tcb_info_signature: tcb_signature.to_vec(),
        qe_identity_issuer_chain: text(qe_chain)?,
        qe_identity: text(qe_identity)?,
        qe_identity_signature: qe_signature.to_vec(),
        pck_certificate_chain: (!pck_chain.is_empty())
            .then(|| text(pck_chain))
            .transpose()?,
    };
    // What is wanted is ours to say (`Policy`); the library answers whether it is true.
    let claims = QuoteVerifier::<Ours>::new_with_config(root.to_vec())
        .verify_with_policy(quote, &collateral, now.0, &QuotePolicy::claims_only(now.0))
        .map_err(reason)?;
    let issued = issued(&collateral.tcb_info)?.min(issued(&collateral.qe_identity)?);
    Ok(verified(claims, issued))
}

fn verified(claims: QuoteClaims, issued: Seconds) -> Verified {
    let (measurement, report_data) = match &claims.report {
        Report::SgxEnclave(it) => (Measurement::Sgx(it.mr_enclave), it.report_data),
        Report::TD10(it) => machine(it),
        Report::TD15(it) => machine(&it.base),
        Report::TD15Ex(it) => machine(&it.base.base),
    };
    let ppid = &claims.platform.pck.ppid;
    Verified {
        measurement,
        report_data,
        node: (ppid.len() == 16).then(|| Node::new(b"intel", ppid)),
        standing: Standing::Intel {
            status: claims.tcb.status,
            evaluation: claims.tcb.eval_data_number,
            // Of the module that runs now, too.
            advisories: {
                let now = claims.platform.current_tcb_level;
                let now = now.into_iter().flat_map(|level| level.advisory_ids);
                claims.tcb.advisory_ids.into_iter().chain(now).collect()
            },
        },
        issued: Some(issued),
    }
}

fn machine(it: &dcap_qvl::quote::TDReport10) -> (Measurement, [u8; 64]) {
    let all = [it.mr_td, it.rt_mr0, it.rt_mr1, it.rt_mr2, it.rt_mr3];
    (Measurement::Tdx(Box::new(all)), it.report_data)
}

/// When a list was issued that was found to be signed.
fn issued(list: &str) -> Result<Seconds, Refusal> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Dated {
        issue_date: String,
    }
    let dated: Dated = serde_json::from_str(list).map_err(|_| Refusal::Malformed)?;
    date(&dated.issue_date).ok_or(Refusal::Malformed)
}

/// `2026-02-18T10:58:51Z`, as Intel writes it.
fn date(text: &str) -> Option<Seconds> {
    let marks = [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'Z'),
    ];
    let bytes: &[u8; 20] = text.as_bytes().try_into().ok()?;
    if marks.iter().any(|(at, mark)| bytes[*at] != *mark) {
        return None;
    }
    let number = |at: std::ops::Range<usize>| {
        let digits = text.get(at)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let small = |at: usize| u8::try_from(number(at..at + 2)?).ok();
    let month = Month::try_from(small(5)?).ok()?;
    let day = Date::from_calendar_date(number(0..4)?.into(), month, small(8)?).ok()?;
    let at = day.with_hms(small(11)?, small(14)?, small(17)?).ok()?;
    let since = at.assume_utc().unix_timestamp();
    u64::try_from(since).ok().map(Seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_of_one_form() {
        assert_eq!(date("1970-01-01T00:00:00Z"), Some(Seconds(0)));
        assert_eq!(date("2026-02-18T10:58:51Z"), Some(Seconds(1_771_412_331)));
        for wrong in [
            "",
            "2026-02-18T10:58:51",
            "2026-02-30T10:58:51Z",
            "2026-02-18T24:58:51Z",
            "1969-12-31T23:59:59Z",
            "2026-+2-18T10:58:51Z",
            "2026-02-18 10:58:51Z",
            "2026-02-18T10:58:51+00:00",
            "2026-02-1\u{e9}T10:58:5Z",
        ] {
            assert_eq!(date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn reasons_are_fit_for_a_terminal() {
        let Refusal::Intel(text) = reason(format!("a\u{1b}[31m\n{}", "b".repeat(500))) else {
            unreachable!()
        };
        assert!(text.len() <= REASON_CHARS_MAX && text.bytes().all(|b| (32..127).contains(&b)));
    }
}
