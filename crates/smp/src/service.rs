//! Services: clients with a certificate, whose queues a relay keeps together, so that one command
//! subscribes to all of them (reference §4, `SUBS`).

use crate::{
    encoding::{DecodeError, Reader, Writer},
    version::Version,
};

/// XOR of the MD5 hashes of queue ids: equal sets have equal hashes. It notices drift, not malice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QueuesHash(pub [u8; 16]);

/// How many queues a service has, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceQueues {
    /// Their number.
    pub count: u64,
    /// Their hash; all zero before version 19.
    pub hash: QueuesHash,
}

impl ServiceQueues {
    /// Writes count and, from version 19 on, hash.
    pub(crate) fn encode(&self, writer: &mut Writer<'_>, version: Version) {
        writer.u64(self.count);
        if version.has_service_counts() {
            writer.short(&self.hash.0);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let count = reader.u64()?;
        let hash = if version.has_service_counts() {
            let bytes = reader.short()?.try_into();
            bytes.map_err(|_| DecodeError::Invalid("hash of queues"))?
        } else {
            [0; 16]
        };
        Ok(Self {
            count,
            hash: QueuesHash(hash),
        })
    }
}
