//! Messages of senders that go through a proxy: two relays, each in a process of its own, and the floor of each
//! in one of its own, by turns.

use core::time::Duration;

use serde::Serialize;

use super::process::{Kind, Process};
use super::{BenchError, BenchOptions, Quantiles, load};

/// The figures of private routing.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyReport {
    /// Threads of each relay.
    pub threads: usize,
    /// Messages of 16 KiB that were sent through the proxy, delivered and acknowledged.
    pub count: u64,
    /// Per second of time, clients on the same machine included.
    pub per_second: f64,
    /// What the proxy has to do with it: PFWD → RFWD, and the answer.
    pub proxy: Share,
    /// What the destination has: RFWD, MSG, ACK.
    pub destination: Share,
    /// Time from sending a message to having it opened, one at a time.
    pub latency_us: Quantiles,
    /// The same to the same relay directly.
    pub direct_us: Quantiles,
}

/// One relay's part.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    /// Its CPU time for one message.
    pub cpu_us: f64,
    /// The floor's: the same blocks, TLS and cryptography.
    pub floor_cpu_us: f64,
    /// Floor over relay: 1 would mean that everything but the necessary is free.
    pub floor_ratio: f64,
}

impl Share {
    fn of(cpu: Duration, floor: Duration, count: f64) -> Self {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count;
        Self {
            cpu_us: each(cpu),
            floor_cpu_us: each(floor),
            floor_ratio: each(floor) / each(cpu),
        }
    }
}

/// Measures. `options.journal` is not looked at: a proxy stores nothing.
///
/// # Errors
/// [`BenchError`].
pub async fn proxy(options: BenchOptions) -> Result<ProxyReport, BenchError> {
    let options = BenchOptions {
        journal: None,
        ..options
    };
    let relays = two(Kind::Relay, &options).await?;
    let floors = two(Kind::Floor, &options).await?;
    let mut pairs = Vec::new();
    for _ in 0..options.pairs.max(1) {
        pairs.push(load::pair_through(&relays[0].address, &relays[1].address).await?);
    }
    let (mut spent, mut least) = ([Duration::ZERO; 2], [Duration::ZERO; 2]);
    let mut total = load::Done::default();
    // All have met their code and memory before it counts.
    let warm_up = load::messages(&mut pairs, options.messages / 10 + 1).await?;
    let [near, far] = &floors;
    load::floors_through(&near.address, &far.address, pairs.len(), &warm_up).await?;
    for _ in 0..options.rounds {
        let before = cpu(&relays)?;
        let done = load::messages(&mut pairs, options.messages).await?;
        add(&mut spent, before, cpu(&relays)?);
        let before = cpu(&floors)?;
        load::floors_through(&near.address, &far.address, pairs.len(), &done).await?;
        add(&mut least, before, cpu(&floors)?);
        total.add(&done);
    }
    let count = total.messages.max(1) as f64;
    let [through, relay] = &relays;
    let pair = load::pair_through(&through.address, &relay.address).await?;
    let latency = load::latency(pair, options.latency_samples).await?;
    let pair = load::pair(&relay.address).await?;
    let direct = load::latency(pair, options.latency_samples).await?;
    Ok(ProxyReport {
        threads: options.threads,
        count: total.messages,
        per_second: count / total.time.as_secs_f64(),
        proxy: Share::of(spent[0], least[0], count),
        destination: Share::of(spent[1], least[1], count),
        latency_us: Quantiles::of(latency),
        direct_us: Quantiles::of(direct),
    })
}

/// The proxy's, and the destination's.
async fn two(kind: Kind, options: &BenchOptions) -> Result<[Process; 2], BenchError> {
    Ok([
        Process::start(kind, options).await?,
        Process::start(kind, options).await?,
    ])
}

fn cpu(processes: &[Process; 2]) -> Result<[Duration; 2], BenchError> {
    Ok([processes[0].cpu()?, processes[1].cpu()?])
}

fn add(to: &mut [Duration; 2], before: [Duration; 2], after: [Duration; 2]) {
    for ((to, before), after) in to.iter_mut().zip(before).zip(after) {
        *to += after.saturating_sub(before);
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, SocketAddr};

    use junto_tls::ServerIdentity;
    use rustls::pki_types::UnixTime;

    use super::super::floor;
    use super::*;
    use crate::config::RelayConfig;
    use crate::folder::generator;
    use crate::relay::Relay;

    fn identity() -> ServerIdentity {
        let mut rng = generator().unwrap();
        ServerIdentity::ephemeral("127.0.0.1", &mut rng, UnixTime::now()).unwrap()
    }

    #[tokio::test]
    async fn every_message_passes_the_proxy_and_as_many_blocks_the_floors() {
        let config = || {
            let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let mut config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
            config.proxy.allow_private = true;
            config.proxy.allow_own = true;
            config
        };
        let proxy = Relay::start(config(), identity()).await.unwrap();
        let relay = Relay::start(config(), identity()).await.unwrap();
        let pair = load::pair_through(&proxy.address(), &relay.address()).await;
        let mut pairs = vec![pair.unwrap()];
        let done = load::messages(&mut pairs, 20).await.unwrap();
        assert_eq!(done.messages, 20);
        assert_eq!(done.received_by_senders, 20, "an answer takes a block");
        assert_eq!(relay.stats().messages_received, 20);
        assert_eq!(relay.stats().forwarded_received, 20);
        assert_eq!(proxy.stats().messages_received, 0);

        let (near, _) = floor::serve(identity()).await.unwrap();
        let (far, _) = floor::serve(identity()).await.unwrap();
        let through = load::floors_through(&near, &far, 2, &done);
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, through).await.unwrap().unwrap();
    }
}
