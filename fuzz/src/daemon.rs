//! What clients ask the daemon. Its parser stands alone, so it is taken as it is.

#[path = "../../crates/cli/src/daemon/request.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "its users are in the command line's crate"
)]
mod request;

use request::{Call, Code, Id, LINE_MAX, parse};

/// A line of JSON-RPC: read into something bounded, or refused with a code and a reason.
pub(crate) fn line(bytes: &[u8]) {
    match parse(bytes) {
        Ok(request) => {
            assert!(bytes.len() <= LINE_MAX);
            if let Some(Id::Text(id)) = request.id {
                assert!(id.len() <= 64);
            }
            if let Call::Send { body, .. } = request.call {
                assert!(body.len() <= bytes.len());
            }
        }
        Err(refusal) => {
            assert!(!refusal.message.is_empty());
            let is_json = serde_json::from_slice::<serde_json::Value>(bytes).is_ok();
            assert_eq!(
                refusal.code == Code::Parse,
                !is_json && bytes.len() <= LINE_MAX
            );
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        r#"{"jsonrpc":"2.0","id":1,"method":"version","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":"a","method":"contact.invite","params":{"name":"bob","as":"ada","relay":"smp://x"}}"#,
        r#"{"jsonrpc":"2.0","id":-1,"method":"contact.connect","params":{"link":"simplex:/i#x","name":null}}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"contact.list"}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"contact.show","params":{"contact":"bob"}}"#,
        r#"{"jsonrpc":"2.0","id":4,"method":"send","params":{"contact":"bob","text":"\u00e9\n"}}"#,
        r#"{"jsonrpc":"2.0","id":5,"method":"send","params":{"contact":"bob","hex":"00ff"}}"#,
        r#"{"jsonrpc":"2.0","id":6,"method":"subscribe","params":{"contact":"bob"}}"#,
        r#"{"jsonrpc":"2.0","method":"ack","params":{"contact":"bob","message":18446744073709551615}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"session.list"}"#,
        r#"[{"jsonrpc":"2.0","id":8,"method":"version"}]"#,
        r#"{"jsonrpc":"2.0","id":9,"method":"contact.noise","params":{"contact":"bob","noise":"random","interval_ms":2000}}"#,
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec()
}
