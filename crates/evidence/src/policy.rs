//! What is wanted of a machine. There is no policy that lets everything in.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    Measurement, Node, Refusal, Standing, TcbStatus, Verified,
    amd::{Product, Tcb},
};

/// Entries of each list at most.
const ENTRIES_MAX: usize = 4096;

/// What is wanted of a machine: in JSON, fields that are not known are refused. A kind of hardware is accepted if one of its
/// measurements is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Programs that may run.
    pub measurements: BTreeSet<Measurement>,
    /// The roster: chips that may run them.
    pub nodes: BTreeSet<Node>,
    /// For SGX and TDX.
    #[serde(default)]
    pub intel: IntelPolicy,
    /// For SEV-SNP.
    #[serde(default)]
    pub amd: AmdPolicy,
}

/// For SGX and TDX.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntelPolicy {
    /// What Intel may say of the machine, by Intel's words: `UpToDate` only, unless others are named.
    pub statuses: Vec<TcbStatus>,
    /// Advisories that may stand against it. Any other one refuses it, whatever the status.
    pub advisories: BTreeSet<String>,
    /// Least number of Intel's evaluation: older lists do not know what was found since.
    pub evaluation: u32,
}

impl Default for IntelPolicy {
    fn default() -> Self {
        Self {
            statuses: vec![TcbStatus::UpToDate],
            advisories: BTreeSet::new(),
            evaluation: 0,
        }
    }
}

/// For SEV-SNP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AmdPolicy {
    /// Least versions, for each product that may be used.
    pub least: BTreeMap<Product, Tcb>,
}

impl Policy {
    /// # Errors
    /// What is wrong with the text, in JSON.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let policy: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        policy.check()?;
        Ok(policy)
    }

    /// # Errors
    /// A list is too long.
    pub fn check(&self) -> Result<(), String> {
        let lengths = [
            self.measurements.len(),
            self.nodes.len(),
            self.intel.statuses.len(),
            self.intel.advisories.len(),
        ];
        match lengths.into_iter().max() > Some(ENTRIES_MAX) {
            true => Err(format!("a list of it has more than {ENTRIES_MAX} entries")),
            false => Ok(()),
        }
    }

    /// Whether this machine will do.
    ///
    /// # Errors
    /// [`Refusal::Measurement`], [`Refusal::Node`], [`Refusal::Standing`].
    pub fn admit(&self, verified: &Verified) -> Result<(), Refusal> {
        let measurement = verified.measurement();
        if !self.measurements.contains(measurement) {
            return Err(Refusal::Measurement(measurement.clone()));
        }
        let node = verified.node();
        if !node.is_some_and(|node| self.nodes.contains(&node)) {
            return Err(Refusal::Node(node));
        }
        match verified.standing() {
            Standing::Intel {
                status,
                evaluation,
                advisories,
            } => self.intel.admit(*status, *evaluation, advisories),
            Standing::Amd { product, tcb } => self.amd.admit(*product, tcb),
        }
        .map_err(Refusal::Standing)
    }
}

impl IntelPolicy {
    fn admit(
        &self,
        status: TcbStatus,
        evaluation: u32,
        advisories: &[String],
    ) -> Result<(), String> {
        if status == TcbStatus::Revoked || !self.statuses.contains(&status) {
            return Err(format!("{status}"));
        }
        if evaluation < self.evaluation {
            return Err(format!("evaluation {evaluation}"));
        }
        let other = advisories.iter().find(|id| !self.advisories.contains(*id));
        other.map_or(Ok(()), |id| Err(format!("{status}, {id}")))
    }
}

impl AmdPolicy {
    fn admit(&self, product: Product, tcb: &Tcb) -> Result<(), String> {
        match self.least.get(&product) {
            Some(least) if tcb.reaches(least) => Ok(()),
            Some(least) => Err(format!("{tcb} on {product}, and the least is {least}")),
            None => Err(format!("the policy does not name {product}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_text_and_what_it_does_not_name_is_refused() {
        let node = Node::new(b"amd", &[1]).to_string();
        let text = format!(
            r#"{{"measurements": ["snp:{}"], "nodes": ["{node}"], "amd": {{"least": {{"milan":
            {{"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}}}}}}}}"#,
            "07".repeat(48)
        );
        let policy = Policy::from_json(&text).unwrap();
        assert_eq!(policy.intel.statuses, [TcbStatus::UpToDate]);
        let again = serde_json::to_string(&policy).unwrap();
        assert_eq!(Policy::from_json(&again).unwrap(), policy);
        for (from, to) in [
            ("snp:07", "snp:7"),
            ("nodes", "node"),
            ("milan", "rome"),
            ("115", "256"),
            ("\"tee\": 0,", ""),
            ("tee", "tea"),
        ] {
            assert!(
                Policy::from_json(&text.replace(from, to)).is_err(),
                "{from}"
            );
        }
        assert!(Policy::from_json("{}").is_err());
        let many = (0..=ENTRIES_MAX).map(|i| Node::new(b"amd", &i.to_be_bytes()));
        let long = Policy {
            nodes: many.collect(),
            ..policy
        };
        assert!(Policy::from_json(&serde_json::to_string(&long).unwrap()).is_err());
    }

    #[test]
    fn a_machine_is_as_well_kept_as_the_policy_asks() {
        let intel = IntelPolicy::default();
        assert_eq!(intel.admit(TcbStatus::UpToDate, 0, &[]), Ok(()));
        let listed = ["INTEL-SA-00615".to_owned()];
        assert!(intel.admit(TcbStatus::UpToDate, 0, &listed).is_err());
        assert!(intel.admit(TcbStatus::SWHardeningNeeded, 0, &[]).is_err());
        let lenient = IntelPolicy {
            statuses: vec![TcbStatus::SWHardeningNeeded, TcbStatus::Revoked],
            advisories: listed.clone().into(),
            evaluation: 17,
        };
        assert_eq!(
            lenient.admit(TcbStatus::SWHardeningNeeded, 17, &listed),
            Ok(())
        );
        assert!(
            lenient
                .admit(TcbStatus::SWHardeningNeeded, 16, &listed)
                .is_err()
        );
        assert!(lenient.admit(TcbStatus::UpToDate, 17, &listed).is_err());
        // Nothing makes up for a key that is known to be out.
        assert!(lenient.admit(TcbStatus::Revoked, 17, &[]).is_err());
        let tcb = |microcode| Tcb {
            fmc: 0,
            bootloader: 3,
            tee: 0,
            snp: 8,
            microcode,
        };
        let amd = AmdPolicy {
            least: [(Product::Milan, tcb(115))].into(),
        };
        assert_eq!(amd.admit(Product::Milan, &tcb(115)), Ok(()));
        assert!(amd.admit(Product::Milan, &tcb(114)).is_err());
        assert!(amd.admit(Product::Genoa, &tcb(255)).is_err());
    }
}
