//! What a machine shows of itself, and the policy by which it is judged.

use junto_evidence::{
    EVIDENCE_BYTES_MAX, Kind, Measurement, Node, Policy, Roots, Seconds, amd, intel, verify,
};

macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("../../vectors/evidence/", $name))
    };
}

/// A day on which all of the samples were good.
const DAY: Seconds = Seconds(1_750_334_400);

/// The first byte tells which kind, or that it is a policy's text.
///
/// Nobody here has a vendor's key: whatever holds says what the samples say.
pub(crate) fn shown(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    if let Some(kind) = Kind::from_number(*kind) {
        if let Ok(held) = verify(kind, bytes, &Roots::vendors(), DAY) {
            let said: &[&[u8]] = match kind {
                Kind::Sgx => &[&vector!("sgx_quote")[368..432]],
                Kind::Tdx => &[&vector!("tdx_quote")[568..632]],
                Kind::Snp => &[&report()[0x50..0x90]],
            };
            assert!(said.contains(&&held.report_data()[..]));
            assert!(bytes.len() <= EVIDENCE_BYTES_MAX);
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(policy) = Policy::from_json(text) {
        let again = serde_json::to_string(&policy).unwrap();
        assert_eq!(Policy::from_json(&again).unwrap(), policy);
    }
    if let Ok(measurement) = text.parse::<Measurement>() {
        assert_eq!(measurement.to_string(), text);
    }
    if let Ok(node) = text.parse::<Node>() {
        assert_eq!(node.to_string(), text);
    }
}

fn report() -> Vec<u8> {
    hex::decode(vector!("report_milan.hex").trim_ascii()).unwrap()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let quote = |kind: Kind, quote: &[u8], collateral: &[u8]| {
        let collateral = std::str::from_utf8(collateral).unwrap();
        [&[kind as u8][..], &intel::pack(quote, collateral).unwrap()].concat()
    };
    let (key, ask) = (vector!("vcek_milan.der"), vector!("ask_milan.der"));
    // Any list at all: that of somebody else.
    let crl = &[0x30, 0x03, 0x30, 0x01, 0x02];
    let snp = |crl| {
        let packed = amd::pack(&report(), key, ask, crl).unwrap();
        [&[Kind::Snp as u8][..], &packed].concat()
    };
    let node = "0b".repeat(32);
    let measurement = format!("snp:{}", "07".repeat(48));
    let policy = format!(
        r#"{{"measurements": ["{measurement}"], "nodes": ["{node}"], "intel": {{"statuses": ["SWHardeningNeeded"],
        "advisories": ["INTEL-SA-00615"], "evaluation": 17}}, "amd": {{"least": {{"turin":
        {{"fmc": 1, "bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}}}}}}}}"#
    );
    let text = |text: &str| [b"t", text.as_bytes()].concat();
    vec![
        quote(
            Kind::Sgx,
            vector!("sgx_quote"),
            vector!("sgx_quote_collateral.json"),
        ),
        quote(
            Kind::Tdx,
            vector!("tdx_quote"),
            vector!("tdx_quote_collateral.json"),
        ),
        snp(None),
        snp(Some(crl)),
        text(&policy),
        text(&measurement),
        text(&format!("tdx:{}", vec!["0c".repeat(48); 5].join("."))),
        text(&node),
    ]
}
