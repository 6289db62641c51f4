//! Core: TLS 1.3 as SMP needs it: offline certificate identity, fingerprint pin, session identifier.
