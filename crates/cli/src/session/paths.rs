//! What each choice of `junto run --paths` tells whom.

use serde_json::{Value, json};

/// A choice, what the other parties learn by it, what networks and relays see.
const POLICIES: [[&str; 3]; 3] = [
    [
        "relay-only",
        "parties learn no address of yours",
        "relays see how much goes when",
    ],
    [
        "prefer-direct",
        "parties learn the addresses of this machine and of its NAT, and may name hosts that see the latter; networks in between see which of you talk, when and how much",
        "relays see what goes before there is a direct path, and while there is none; the one that you receive on learns that you want one",
    ],
    [
        "direct-only",
        "as prefer-direct",
        "relays see who is there, that addresses are told, and the end, and nothing that this party's program writes; the one that you receive on, as above",
    ],
];

pub(super) fn json() -> Value {
    let policy = |[name, parties, relays]: [&str; 3]| json!({ "policy": name, "parties": parties, "relays": relays });
    json!({ "default": POLICIES[0][0], "policies": POLICIES.map(policy) })
}

pub(super) fn text() -> Vec<String> {
    let head = "`junto run --paths` (relay-only unless you say otherwise; a direct path needs both ends to want it):";
    let policy = |[name, parties, relays]: [&str; 3]| format!("  {name}: {parties}; {relays}");
    let mut lines = vec![head.to_owned()];
    lines.extend(POLICIES.map(policy));
    lines
}
