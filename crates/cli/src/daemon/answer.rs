//! What a client is told: answers, and notifications of what happens.

use serde_json::{Value, json};

use super::request::{Id, Refusal};
use crate::failure::Failure;

/// The error code of a failure is this minus its exit code, -32001 to -32005.
const FAILURES: i32 = -32000;

/// The answer to a call.
pub(super) fn answer(id: &Id, result: Result<Value, Failure>) -> String {
    let id = json_of(Some(id));
    match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string(),
        Err(failure) => {
            let code = FAILURES - i32::from(failure.exit as u8);
            let data = json!({
                "exit_code": failure.exit as u8,
                "help": failure.help,
                "party": failure.party,
            });
            let error = json!({ "code": code, "message": failure.message, "data": data });
            json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
        }
    }
}

/// The answer to a line that is no request.
pub(super) fn refuse(refusal: &Refusal) -> String {
    let id = json_of(refusal.id.as_ref());
    let error = json!({ "code": refusal.code as i32, "message": refusal.message });
    json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
}

/// Something that happened.
pub(super) fn notification(method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
}

fn json_of(id: Option<&Id>) -> Value {
    match id {
        None => Value::Null,
        Some(Id::Number(number)) => (*number).into(),
        Some(Id::Text(text)) => text.as_str().into(),
    }
}
