//! `junto bench run`: a connection of two programs, layer by layer.

use std::{io, sync::Arc, time::Duration};

use junto_agent::{Agent, ConnectionView};
use junto_session::adapters::tcp::Ways;
use junto_session::bench::{Figures, Options, loopback, programs, stream_figures};
use junto_session::{LocalError, PartyIndex};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{HEADINGS, Table, ratio, row, to_json};
use crate::failure::{Context, Failure};
use crate::open::agent_failure;
use crate::output::Output;
use crate::session::relays;

/// Between two looks whether the queues are there.
const LOOK: Duration = Duration::from_millis(20);

/// One way for the bytes.
struct Path {
    name: &'static str,
    figures: Figures,
}

/// Measures all of them; the relay is so far away.
pub(super) async fn run(
    options: Options,
    stripes: usize,
    distance: Duration,
    output: Output,
) -> Result<(), Failure> {
    let progress = output.progress("measuring plain TCP on loopback");
    let measured = async {
        let (near, far) = loopback().await?;
        stream_figures(near, far, options).await
    };
    let tcp = measured.await.context("TCP on loopback")?;
    let mut paths = Vec::new();
    for (name, table, queues) in [
        ("memory", Table::in_memory()?, 1),
        ("direct", Table::over_queues(distance).await?, 1),
        ("queues", Table::over_queues(distance).await?, 1),
        ("striped", Table::over_queues(distance).await?, stripes),
    ] {
        if name == "direct" && cfg!(not(feature = "direct")) {
            continue;
        }
        progress.step(format!("measuring a connection: {name}"));
        let [near, far] = table.seats;
        let agents = table.agents;
        let formed = async || {
            let striped = stripe(&agents, queues, options.patience).await;
            striped.map_err(|failure| LocalError::Carrier(failure.message.into()))
        };
        let ways = async |me| ways(name, me).await;
        let figures = programs(near, far, options, formed, ways).await;
        let figures = figures.map_err(Failure::failed)?;
        paths.push(Path { name, figures });
    }
    progress.done();
    let distance_ms = distance.as_secs_f64() * 1e3;
    let mut value = json!({ "tcp": to_json(&tcp), "stripes": stripes, "distance_ms": distance_ms });
    for Path { name, figures } in &paths {
        value[name] = to_json(figures);
        value[name]["hop_over_tcp"] = json!(ratio(figures.hop_p50, tcp.hop_p50));
        value[name]["bulk_over_tcp"] = json!(bulk_over(figures, &tcp));
    }
    let one = |name: &str| paths.iter().find(|path| path.name == name);
    let gain = match (one("striped"), one("queues")) {
        (Some(striped), Some(queues)) => bulk_over(&striped.figures, &queues.figures),
        _ => f64::NAN,
    };
    value["striped"]["bulk_over_queues"] = json!(gain);
    output.result(&value, || {
        let mut lines = vec![
            format!("{HEADINGS}   hop × TCP   bulk / TCP"),
            row("TCP on loopback", &tcp),
        ];
        lines.extend(paths.iter().map(|Path { name, figures }| {
            let name = match *name {
                "striped" => format!("junto run, queue×{stripes}"),
                "queues" => "junto run, queue".to_owned(),
                name => format!("junto run, {name}"),
            };
            format!(
                "{} {:>11.0} {:>10.2} %",
                row(&name, figures),
                ratio(figures.hop_p50, tcp.hop_p50),
                bulk_over(figures, &tcp) * 100.0
            )
        }));
        lines.push(format!(
            "the relay is {:.0} ms away and back; bulk over {stripes} queues is {gain:.2} times that over one",
            2.0 * distance_ms
        ));
        lines.join("\n")
    })
}

/// On loopback, whatever the distance to the relay.
#[cfg(feature = "direct")]
async fn ways(name: &str, me: PartyIndex) -> io::Result<Option<Arc<dyn Ways>>> {
    if name != "direct" {
        return Ok(None);
    }
    let direct = junto_direct::Direct::open(me, junto_direct::Reach::Loopback).await?;
    Ok(Some(Arc::new(direct)))
}

#[cfg(not(feature = "direct"))]
async fn ways(_: &str, _: PartyIndex) -> io::Result<Option<Arc<dyn Ways>>> {
    Ok(None)
}

fn bulk_over(figures: &Figures, floor: &Figures) -> f64 {
    figures.bulk_bytes_per_second / floor.bulk_bytes_per_second
}

/// Has both agents receive on so many queues, and send to as many, as `junto run --stripes` does.
async fn stripe(agents: &[Agent], queues: usize, patience: Duration) -> Result<(), Failure> {
    if queues == 1 {
        return Ok(());
    }
    for agent in agents {
        relays::add_stripes(agent, &connections(agent).await?, queues).await?;
    }
    for agent in agents {
        let all = async {
            loop {
                let views = connections(agent).await?;
                if views.iter().all(|view| view.sends.len() == queues) {
                    return relays::choose_spread(agent, &views).await;
                }
                sleep(LOOK).await;
            }
        };
        let all = timeout(patience, all).await;
        all.unwrap_or_else(|_| Err(Failure::failed("the queues did not come in time")))?;
    }
    Ok(())
}

async fn connections(agent: &Agent) -> Result<Vec<ConnectionView>, Failure> {
    let overview = agent.overview().await.map_err(agent_failure)?;
    Ok(overview.connections)
}
