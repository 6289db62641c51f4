//! Through a SOCKS5 server (RFC 1928), Tor for instance: it resolves the names and makes the connections, so
//! neither a resolver nor a relay sees where we are.

use core::fmt::Write as _;
use core::str::FromStr;
use core::time::Duration;
use std::io;

use junto_smp::address::Host;
use rand_chacha::rand_core::Rng as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_socks::tcp::Socks5Stream;
use zeroize::Zeroizing;

use super::error::ClientError;
use crate::random::generator;

/// Bytes of a user name and of a password, before they are written in hexadecimal digits.
const CREDENTIAL_BYTES: usize = 16;

/// Where a SOCKS5 server listens: a host and a port that is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocksServer {
    host: Host,
    port: u16,
}

/// A text that is not `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SOCKS server is named by host:port, for example 127.0.0.1:9050")]
pub struct NoSocksServer;

impl FromStr for SocksServer {
    type Err = NoSocksServer;

    fn from_str(text: &str) -> Result<Self, NoSocksServer> {
        let (host, port) = text.rsplit_once(':').ok_or(NoSocksServer)?;
        let port = port.parse().ok().filter(|&port| port > 0);
        Ok(Self {
            host: host.parse().map_err(|_| NoSocksServer)?,
            port: port.ok_or(NoSocksServer)?,
        })
    }
}

impl core::fmt::Display for SocksServer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl SocksServer {
    /// A connection to `host`, under a user name and password of its own: Tor takes another circuit for each
    /// (`IsolateSOCKSAuth`, which is on unless switched off), so that relays and exits cannot tell that two
    /// connections are of one profile.
    pub(super) async fn connect(
        &self,
        host: &Host,
        port: u16,
        patience: Duration,
    ) -> Result<TcpStream, ClientError> {
        let (user, password) = (credential()?, credential()?);
        let connect = async {
            let stream = TcpStream::connect((self.host.for_resolver(), self.port)).await?;
            Socks5Stream::connect_with_password_and_socket(
                stream,
                (host.for_resolver(), port),
                &user,
                &password,
            )
            .await
        };
        let connected = timeout(patience, connect).await;
        let connected = connected.map_err(|_| ClientError::Timeout)?;
        connected
            .map(Socks5Stream::into_inner)
            .map_err(|error| io::Error::other(format!("SOCKS server {self}: {error}")).into())
    }
}

fn credential() -> Result<Zeroizing<String>, ClientError> {
    let mut rng = generator().map_err(|_| ClientError::Defect("no randomness"))?;
    let mut bytes = Zeroizing::new([0; CREDENTIAL_BYTES]);
    rng.fill_bytes(bytes.as_mut());
    let mut text = Zeroizing::new(String::with_capacity(2 * CREDENTIAL_BYTES));
    for byte in bytes.iter() {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_host_and_port() {
        for text in ["127.0.0.1:9050", "tor:1", "[::1]:65535"] {
            assert_eq!(text.parse::<SocksServer>().unwrap().to_string(), text);
        }
        for text in [
            "9050",
            "tor:0",
            "tor:65536",
            "socks5://tor:1",
            ":1",
            "tor:",
            "::1:1",
        ] {
            assert_eq!(text.parse::<SocksServer>(), Err(NoSocksServer), "{text}");
        }
    }

    #[test]
    fn credentials_differ() {
        let (one, other) = (credential().unwrap(), credential().unwrap());
        assert_ne!(*one, *other);
        assert_eq!(one.len(), 32);
    }
}
