//! `junto vault status`: what realms keep, the same for people and for programs.

use std::collections::BTreeMap;

use junto_vault::{RealmId, State, View};
use serde_json::{Value, json};

use super::client::realms;
use super::flow::{Realms, Views, absent, guesses, left_of};
use crate::args::Reach;
use crate::failure::Failure;
use crate::output::Output;

fn state(state: State) -> &'static str {
    match state {
        State::Absent => "absent",
        State::Active => "active",
        State::Exhausted => "erased",
    }
}

pub(super) async fn status(reach: &Reach, output: Output) -> Result<(), Failure> {
    let realms = realms(reach, output)?;
    let progress = output.progress("asking the realms");
    let views = realms.views().await;
    let mut began = BTreeMap::new();
    for (realm, _) in views.iter().filter(|(_, view)| view.is_ok()) {
        began.insert(*realm, realms.began(realm).await);
    }
    progress.done();
    if absent(&views).len() == views.len() {
        let none = || Failure::failed("no realm answers");
        return Err(realms.agreed(&views).err().unwrap_or_else(none));
    }
    let report = report(&realms, &views, &began);
    output.result(&report, || text(&realms, &report))
}

fn report(realms: &Realms, views: &Views, began: &BTreeMap<RealmId, Option<u64>>) -> Value {
    let counts = realms.agreed(views).ok().map(|roster| roster.version());
    let holders = counts.map(|version| realms.holders(views, &version));
    let holders = holders.unwrap_or_default();
    let left = realms.left(&holders);
    let keeps_former = |view: &View| view.versions.len() > 1;
    let each = views.iter().map(|(realm, view)| {
        let name = realms.name(realm);
        match view {
            Ok(view) => {
                let newest = view.versions.first().map(|(roster, _)| roster.version());
                json!({
                    "realm": hex::encode(realm.0),
                    "name": name,
                    "state": state(view.state),
                    "version": newest.map(|version| hex::encode(version.0)),
                    "counts": holders.contains_key(realm),
                    "left": counts.and_then(|version| left_of(view, &version)),
                    "keeps_former": keeps_former(view),
                    "began": began.get(realm).copied().flatten(),
                })
            }
            Err(error) => json!({
                "realm": hex::encode(realm.0),
                "name": name,
                "state": "unreachable",
                "error": error.to_string(),
            }),
        }
    });
    json!({
        "threshold": realms.set.realms.threshold(),
        "version": counts.map(|version| hex::encode(version.0)),
        "holders": holders.len(),
        "recoverable": left > 0,
        "guesses_left": left,
        "realms": each.collect::<Vec<_>>(),
        "trial": realms.set.trial,
        "evidence": realms.evidence(),
    })
}

fn duration(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{end}")
}

fn line(realm: &Value) -> String {
    let name = realm["name"].as_str().unwrap_or_default();
    let text = |field: &str| realm[field].as_str().unwrap_or_default().to_owned();
    let mut line = match realm["error"].as_str() {
        Some(error) => return format!("{name}: {error}"),
        None => format!("{name}: {}", text("state")),
    };
    match (realm["state"].as_str(), realm["left"].as_u64()) {
        (_, Some(left)) => {
            line += &format!(
                ", {} left",
                guesses(u16::try_from(left).unwrap_or(u16::MAX))
            );
        }
        (Some("active"), None) => line += ", of another backup than the others",
        _ => {}
    }
    if realm["keeps_former"] == true {
        line += ", keeps the former backup, too";
    }
    if let Some(began) = realm["began"].as_u64() {
        let ago = junto_realm::now().0.saturating_sub(began);
        line += &format!(", began empty {} ago", duration(ago));
    }
    line
}

/// From the same report: nobody is told something else than programs are.
fn text(realms: &Realms, report: &Value) -> String {
    let each = report["realms"].as_array();
    let mut lines: Vec<String> = each.into_iter().flatten().map(line).collect();
    let left = report["guesses_left"].as_u64().unwrap_or(0);
    let holders = report["holders"].as_u64().unwrap_or(0);
    let threshold = report["threshold"].as_u64().unwrap_or(0);
    if report["recoverable"] == true {
        let left = guesses(u16::try_from(left).unwrap_or(u16::MAX));
        lines.push(format!("It can be got back with the PIN; {left} left."));
        let all = report["realms"].as_array().map_or(0, Vec::len) as u64;
        if holders == threshold && holders < all {
            lines.push(format!(
                "Only {holders} realms are known to hold it. If the others are gone, none may be lost any more: back it up again."
            ));
        }
    } else if holders >= threshold && report["version"].is_string() {
        lines.push("It cannot be got back: no guess is left with enough realms. Another one would erase it; `junto vault restore` goes on with one that was broken off.".to_owned());
    } else {
        lines.push("It cannot be got back as things are.".to_owned());
    }
    if each.is_some_and(|each| each.iter().any(|realm| realm["keeps_former"] == true)) {
        lines.push("Realms that keep the former backup grant guesses at its PIN as well, until the next `backup` or `restore`.".to_owned());
    }
    lines.extend(realms.warning().map(str::to_owned));
    lines.join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_unit() {
        for (seconds, text) in [
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (7200, "2 hours"),
            (172_800, "2 days"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
