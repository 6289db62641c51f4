//! The same load on a server that somebody else started: another build, other settings, or another
//! implementation of the protocol.

use std::time::{Duration, Instant};

use junto_smp::address::ServerAddress;
use serde::Serialize;

use super::process::Watched;
use super::{BenchError, BenchOptions, CreationReport, MemoryReport, Quantiles, load};

/// The figures of a server that was running already.
#[derive(Clone, Debug, Serialize)]
pub struct OutsideReport {
    /// SEND → MSG → ACK of 16 KiB messages under load.
    pub message: OutsideMessages,
    /// Time from sending a message to having it opened, one at a time.
    pub latency_us: Quantiles,
    /// Time of a PING, one at a time: the same way without queue and message.
    pub ping_us: Quantiles,
    /// NEW.
    pub creation: CreationReport,
    /// Opening connections: TCP, TLS, hello, one PING.
    pub connecting: CreationReport,
    /// Memory of the server's process; at the start means before this load.
    pub memory: MemoryReport,
    /// Resident memory when all of it was done.
    pub end_bytes: u64,
}

/// Cost of messages.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OutsideMessages {
    /// Messages that were sent, delivered and acknowledged.
    pub count: u64,
    /// Per second of time, clients on the same machine included.
    pub per_second: f64,
    /// Per second of the server's CPU time.
    pub per_cpu_second: f64,
    /// The server's CPU time for one message.
    pub cpu_us: f64,
}

/// Measures the server at `address` that is the process with number `process` on this machine. It must let
/// everybody create queues. `options.threads` and `options.journal` are its own affair and not looked at.
///
/// # Errors
/// [`BenchError`]; [`BenchError::Process`] if there is no such process here.
pub async fn outside(
    address: &ServerAddress,
    process: u32,
    options: BenchOptions,
) -> Result<OutsideReport, BenchError> {
    let server = Watched(process);
    let start_bytes = server.resident_bytes()?;
    let (connecting, idle_connection_bytes) = connecting(address, server, &options).await?;
    let (creation, empty_queue_bytes) = creating(address, server, &options).await?;
    let message = messages(address, server, &options).await?;
    let pair = load::pair(address).await?;
    let latency_us = Quantiles::of(load::latency(pair, options.latency_samples).await?);
    let ping_us = Quantiles::of(load::ping(address, options.latency_samples).await?);
    Ok(OutsideReport {
        message,
        latency_us,
        ping_us,
        creation,
        connecting,
        memory: MemoryReport {
            start_bytes,
            idle_connection_bytes,
            empty_queue_bytes,
        },
        end_bytes: server.resident_bytes()?,
    })
}

/// What connections cost, and the memory of one that idles.
async fn connecting(
    address: &ServerAddress,
    server: Watched,
    options: &BenchOptions,
) -> Result<(CreationReport, f64), BenchError> {
    let count = options.idle_connections;
    let first = load::idle(address, count / 10 + 1).await?;
    let memory = server.resident_bytes()?;
    let (cpu, start) = (server.cpu()?, Instant::now());
    let idle = load::idle(address, count).await?;
    let (time, cpu) = (start.elapsed(), server.cpu()?.saturating_sub(cpu));
    let each = server.grown_since(memory)? / count.max(1) as f64;
    drop((first, idle));
    Ok((CreationReport::of(count, time, cpu), each))
}

/// What queues cost, and the memory of one that is empty.
async fn creating(
    address: &ServerAddress,
    server: Watched,
    options: &BenchOptions,
) -> Result<(CreationReport, f64), BenchError> {
    let count = options.queues;
    load::create(address, options.pairs, count / 10 + 1).await?;
    let memory = server.resident_bytes()?;
    let cpu = server.cpu()?;
    let time = load::create(address, options.pairs, count).await?;
    let cpu = server.cpu()?.saturating_sub(cpu);
    let each = server.grown_since(memory)? / count.max(1) as f64;
    Ok((CreationReport::of(count, time, cpu), each))
}

async fn messages(
    address: &ServerAddress,
    server: Watched,
    options: &BenchOptions,
) -> Result<OutsideMessages, BenchError> {
    let mut pairs = load::pairs(address, options.pairs).await?;
    load::messages(&mut pairs, options.messages / 10 + 1).await?;
    let (mut total, mut spent) = (load::Done::default(), Duration::ZERO);
    for _ in 0..options.rounds {
        let before = server.cpu()?;
        total.add(&load::messages(&mut pairs, options.messages).await?);
        spent += server.cpu()?.saturating_sub(before);
    }
    let count = total.messages.max(1) as f64;
    let cpu_us = spent.as_secs_f64() * 1e6 / count;
    Ok(OutsideMessages {
        count: total.messages,
        per_second: count / total.time.as_secs_f64(),
        per_cpu_second: 1e6 / cpu_us,
        cpu_us,
    })
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, SocketAddr};

    use junto_tls::ServerIdentity;
    use rustls::pki_types::UnixTime;

    use super::*;
    use crate::config::RelayConfig;
    use crate::folder::generator;
    use crate::relay::Relay;

    #[tokio::test]
    async fn a_running_relay_is_measured_and_an_absent_process_is_not() {
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
        let mut rng = generator().unwrap();
        let identity = ServerIdentity::ephemeral("127.0.0.1", &mut rng, UnixTime::now()).unwrap();
        let relay = Relay::start(config, identity).await.unwrap();
        let options = BenchOptions::quick();

        let report = outside(&relay.address(), std::process::id(), options)
            .await
            .unwrap();
        assert_eq!(report.message.count, options.messages);
        assert!(report.message.per_second > 0.0);
        assert!(report.memory.start_bytes > 0);
        assert!(report.latency_us.p50 <= report.latency_us.p99);

        // Above the highest number that Linux gives.
        let absent = outside(&relay.address(), 1 << 23, options).await;
        assert!(matches!(absent, Err(BenchError::Process(_))));
        relay.shutdown().await.unwrap();
    }
}
