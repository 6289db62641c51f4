//! The files with which clients find realms: what a realm says of itself, a tenant's key, and the set that is made of them.

use std::path::Path;
use std::sync::Arc;

use junto_crypto::ed25519::{SigningKey, VerifyingKey};
use junto_evidence::Policy;
use junto_realm::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, Accepted, Access, Judge, RealmClient, Verifier,
};
use junto_tls::files::{self, Mode};
use junto_vault::{Account, REALMS_MAX, RealmId, RealmSet};
use rand_core::Rng as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::floor;
use crate::failure::{Context, Failure};
use crate::output::Output;
use crate::{input, random};

/// Longest of these files, in bytes: 32 realms of 13 replicas.
const FILE_MAX: u64 = 256 * 1024;

/// What clients have to know of a realm: `realm.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RealmFile {
    /// Its key, which is its id, in hex.
    pub(super) realm: String,
    /// Where its replicas are reached.
    pub(super) addresses: Vec<String>,
}

/// A tenant, with its key.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantFile {
    name: String,
    /// In hex.
    key: Zeroizing<String>,
}

/// A set file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SetFile {
    junto_vault_set: u8,
    /// Its realms are for trying.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    trial: bool,
    threshold: u8,
    user: String,
    tenant: TenantFile,
    realms: Vec<RealmFile>,
    /// What the realms' machines have to be; none: what was simulated, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
}

/// Realms as a client reaches them.
pub(super) struct Set {
    /// They are processes of `junto vault realm try`.
    pub(super) trial: bool,
    pub(super) realms: RealmSet,
    pub(super) account: Account,
    /// In the order of the set.
    pub(super) clients: Vec<Arc<RealmClient>>,
    /// Where each is, in the same order.
    pub(super) places: Vec<String>,
}

fn key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).ok()?;
    Some(key)
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path, what: &str) -> Result<T, Failure> {
    let text = Zeroizing::new(input::read_short(path, FILE_MAX)?);
    serde_json::from_str(&text).map_err(|error| {
        // The error names a place, and no contents but names of fields.
        Failure::usage(format_args!("{} is no {what}: {error}", path.display()))
    })
}

/// As JSON, in a buffer that never grows: one that does leaves copies of secrets behind.
fn json_of(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_MAX as usize));
    serde_json::to_writer_pretty(&mut *text, value).context("cannot write JSON")?;
    text.push(b'\n');
    Ok(text)
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let text = json_of(value)?;
    files::create(path, &text, Mode::Private)
        .context(format_args!("cannot make {}", path.display()))
}

impl RealmFile {
    pub(super) fn new(realm: &RealmId, addresses: Vec<String>) -> Self {
        Self {
            realm: hex::encode(realm.0),
            addresses,
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        write(path, self)
    }

    fn check(self) -> Result<(RealmId, Vec<String>), Failure> {
        let wrong = || Failure::usage(format_args!("`{}` is no realm", self.realm));
        let id = key(&self.realm).ok_or_else(wrong)?;
        VerifyingKey::from_bytes(&id).map_err(|_| wrong())?;
        // They are printed: nothing in them speaks to a terminal.
        let sized = |address: &String| {
            (3..=ADDRESS_BYTES_MAX).contains(&address.len())
                && address.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let fits = (1..=ADDRESSES_MAX).contains(&self.addresses.len());
        if !fits || !self.addresses.iter().all(sized) {
            return Err(Failure::usage(format_args!(
                "the realm {} has no addresses, too many, or such as none has",
                self.realm
            )));
        }
        Ok((RealmId(id), self.addresses))
    }
}

impl TenantFile {
    pub(super) fn new(name: &str) -> Result<Self, Failure> {
        Account::new(name, "u").map_err(Failure::usage)?;
        let key = SigningKey::generate(&mut random());
        Ok(Self {
            name: name.to_owned(),
            key: Zeroizing::new(hex::encode(key.seed())),
        })
    }

    /// As realms are told of it.
    pub(super) fn public(&self) -> Result<String, Failure> {
        let key = self.key()?.verifying_key();
        Ok(format!("{}={}", self.name, hex::encode(key.as_bytes())))
    }

    fn key(&self) -> Result<SigningKey, Failure> {
        let seed = key(&self.key).map(Zeroizing::new);
        let seed = seed.ok_or_else(|| Failure::usage("the tenant's key is none"))?;
        Ok(SigningKey::from_seed(&seed))
    }
}

/// A tenant as an operator is told of it: NAME=KEY.
pub(super) fn tenant(text: &str) -> Result<(String, VerifyingKey), Failure> {
    let parsed = text.split_once('=').and_then(|(name, public)| {
        let public = VerifyingKey::from_bytes(&key(public)?).ok()?;
        Account::new(name, "u").ok()?;
        Some((name.to_owned(), public))
    });
    parsed.ok_or_else(|| {
        Failure::usage(format_args!("`{text}` is no tenant"))
            .help("it looks like NAME=KEY; `junto vault tenant` prints it")
    })
}

/// `junto vault tenant`.
pub(super) fn make_tenant(out: &Path, name: &str, output: Output) -> Result<(), Failure> {
    let tenant = TenantFile::new(name)?;
    write(out, &tenant)?;
    let public = tenant.public()?;
    output.result(&json!({ "tenant": public, "file": out }), || public.clone())
}

pub(super) fn read_realm(path: &Path) -> Result<RealmFile, Failure> {
    read(path, "realm's file")
}

pub(super) fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let policy: Policy = read(path, "policy")?;
    policy.check().map_err(Failure::usage)?;
    Ok(policy)
}

/// `junto vault set`.
pub(super) fn make(
    out: &Path,
    threshold: u8,
    tenant: &Path,
    policy: Option<&Path>,
    realms: &[std::path::PathBuf],
    output: Output,
) -> Result<(), Failure> {
    let tenant: TenantFile = read(tenant, "tenant's file")?;
    let realms = realms.iter().map(|path| read_realm(path));
    let realms = realms.collect::<Result<Vec<RealmFile>, _>>()?;
    let policy = policy.map(|path| read(path, "policy")).transpose()?;
    write_set_for(out, threshold, tenant, realms, policy, false)?;
    let set = open(out, Accepted::default())?;
    let count = set.realms.realms().len();
    output.result(
        &json!({ "set": out, "threshold": threshold, "realms": count }),
        || {
            format!(
                "{}: any {threshold} of {count} realms give back. It is for one user; keep it apart from this machine, too.",
                out.display()
            )
        },
    )
}

/// Makes a set file for a user who has no name yet.
pub(super) fn write_set(
    out: &Path,
    threshold: u8,
    tenant: TenantFile,
    realms: Vec<RealmFile>,
    trial: bool,
) -> Result<(), Failure> {
    write_set_for(out, threshold, tenant, realms, None, trial)
}

fn write_set_for(
    out: &Path,
    threshold: u8,
    tenant: TenantFile,
    realms: Vec<RealmFile>,
    policy: Option<Policy>,
    trial: bool,
) -> Result<(), Failure> {
    let mut user = [0; 16];
    random().fill_bytes(&mut user);
    let file = SetFile {
        junto_vault_set: 1,
        trial,
        threshold,
        user: hex::encode(user),
        tenant,
        realms,
        policy,
    };
    // What cannot be read again is not written.
    let again = serde_json::from_slice(&json_of(&file)?).context("cannot read JSON")?;
    check(again, Accepted::default(), out)?;
    write(out, &file)
}

/// Reads a set file.
pub(super) fn open(path: &Path, accepted: Accepted) -> Result<Set, Failure> {
    check(read(path, "set file")?, accepted, path)
}

fn check(file: SetFile, accepted: Accepted, path: &Path) -> Result<Set, Failure> {
    if file.junto_vault_set != 1 || file.realms.len() > REALMS_MAX {
        return Err(Failure::usage(
            "that set file is of a later version, or none",
        ));
    }
    let account = Account::new(&file.tenant.name, &file.user).map_err(Failure::usage)?;
    let access = Arc::new(Access {
        account: account.clone(),
        tenant: file.tenant.key()?,
    });
    let realms = file.realms.into_iter().map(RealmFile::check);
    let mut realms = realms.collect::<Result<Vec<_>, _>>()?;
    realms.sort_unstable_by_key(|(id, _)| *id);
    let ids = realms.iter().map(|(id, _)| *id).collect();
    let set = RealmSet::new(ids, file.threshold).map_err(Failure::usage)?;
    let places = realms.iter().map(|(_, addresses)| addresses.join(", "));
    let places = places.collect();
    let verifier = verifier(file.policy, accepted, path)?;
    let clients = realms.into_iter().map(|(id, addresses)| {
        let client = RealmClient::new(id, addresses, accepted, access.clone());
        let client = client.map(|client| client.judged_by(verifier.clone()));
        client.map(Arc::new).context("TLS")
    });
    Ok(Set {
        trial: file.trial,
        realms: set,
        account,
        clients: clients.collect::<Result<_, _>>()?,
        places,
    })
}

/// Who judges what the realms of a set show.
fn verifier(
    policy: Option<Policy>,
    accepted: Accepted,
    set: &Path,
) -> Result<Arc<dyn Verifier>, Failure> {
    let Some(policy) = policy else {
        return Ok(Arc::new(accepted));
    };
    policy.check().map_err(Failure::usage)?;
    let (floor, keep) = floor::of(set)?;
    Ok(Arc::new(Judge::new(policy, floor, keep).or(accepted)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn realm(seed: u8) -> RealmFile {
        let key = SigningKey::from_seed(&[seed; 32]).verifying_key();
        RealmFile::new(&RealmId(*key.as_bytes()), vec!["127.0.0.1:1".to_owned()])
    }

    #[test]
    fn a_set_file_is_read_as_it_was_written_and_wrong_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.json");
        let tenant = || TenantFile::new("junto").unwrap();
        write_set(&path, 2, tenant(), (1..=3).map(realm).collect(), true).unwrap();
        let set = open(&path, Accepted::default()).unwrap();
        assert_eq!((set.realms.threshold(), set.clients.len()), (2, 3));
        assert!(set.trial);
        for (client, realm) in set.clients.iter().zip(set.realms.realms()) {
            assert_eq!(client.realm(), realm);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let other = dir.path().join("other.json");
        for (from, to) in [
            ("\"threshold\": 2", "\"threshold\": 1"),
            ("\"threshold\": 2", "\"threshold\": 4"),
            ("\"junto_vault_set\": 1", "\"junto_vault_set\": 2"),
            ("\"key\": \"", "\"key\": \"0"),
            ("127.0.0.1:1", ""),
            ("127.0.0.1:1", "\\u001b[2J:1"),
            ("\"user\"", "\"usher\""),
            (&realm(1).realm, &realm(2).realm),
        ] {
            assert!(text.contains(from), "{from}");
            std::fs::write(&other, text.replacen(from, to, 1)).unwrap();
            assert!(open(&other, Accepted::default()).is_err(), "{from} -> {to}");
        }
        assert!(write_set(&other, 1, tenant(), (1..=3).map(realm).collect(), true).is_err());
    }

    #[test]
    fn a_set_file_may_say_what_machines_have_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.json");
        let realms = (1..=3).map(realm).collect();
        let tenant = TenantFile::new("junto").unwrap();
        let policy: Policy = serde_json::from_value(json!({
            "measurements": [format!("snp:{}", "07".repeat(48))], "nodes": ["0b".repeat(32)],
        }))
        .unwrap();
        write_set_for(&path, 2, tenant, realms, Some(policy.clone()), false).unwrap();
        let file: SetFile = read(&path, "set file").unwrap();
        assert_eq!(file.policy, Some(policy));
        assert!(open(&path, Accepted::default()).is_ok());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"nodes\"", "\"notes\"")).unwrap();
        assert!(open(&path, Accepted::default()).is_err());
        // What cannot be read of the days is not passed over.
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("set.json.floor"), "long ago").unwrap();
        assert!(open(&path, Accepted::default()).is_err());
    }

    #[test]
    fn a_tenant_is_told_by_name_and_public_key() {
        let file = TenantFile::new("junto").unwrap();
        let (name, key) = tenant(&file.public().unwrap()).unwrap();
        assert_eq!(name, "junto");
        assert!(key == file.key().unwrap().verifying_key());
        for wrong in ["", "junto", "junto=", "=00", "junto=00"] {
            assert!(tenant(wrong).is_err(), "{wrong}");
        }
    }
}
