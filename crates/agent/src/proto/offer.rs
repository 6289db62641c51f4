//! The maker's keys for the key agreement in the text form of links:
//! `v=…&x3dh=k1,k2[&kem_key=…]`, keys as base64url.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use junto_crypto::{kem, x448};
use junto_ratchet::{Offer, VersionRange as RatchetVersions};

use super::query::Query;
use super::version::VersionRange;
use super::wire::Malformed;

/// The text form of an offer.
pub(super) fn to_text(offer: &Offer) -> String {
    let mut query = Query::default();
    let (min, max) = (offer.versions.min(), offer.versions.max());
    let versions = VersionRange::new(min, max).map(|range| range.to_string());
    query.push("v", versions.unwrap_or_default());
    let keys = [offer.k1, offer.k2].map(|key| URL_SAFE.encode(key.to_spki()));
    query.push("x3dh", keys.join(","));
    if let Some(key) = &offer.kem {
        query.push("kem_key", URL_SAFE.encode(key.as_bytes()));
    }
    query.plain()
}

/// Reads the text form.
pub(super) fn from_text(text: &str) -> Result<Offer, Malformed> {
    let query = Query::parse_plain(text)?;
    let range: VersionRange = query.required("v")?.parse()?;
    let versions =
        RatchetVersions::new(range.min(), range.max()).map_err(|_| Malformed::Version)?;
    let (k1, k2) = query
        .required("x3dh")?
        .split_once(',')
        .ok_or(Malformed::Text)?;
    let decode = |text| URL_SAFE.decode(text).map_err(|_| Malformed::Text);
    let key = |text| x448::PublicKey::from_spki(&decode(text)?).map_err(|_| Malformed::Key);
    if query.optional("kem_ct").is_some() {
        // A link comes first: there is nothing yet that it could accept.
        return Err(Malformed::Text);
    }
    let kem = query
        .optional("kem_key")
        .map(|text| kem::PublicKey::from_bytes(&decode(text)?).map_err(|_| Malformed::Key));
    Ok(Offer {
        versions,
        k1: key(k1)?,
        k2: key(k2)?,
        kem: kem.transpose()?,
    })
}
