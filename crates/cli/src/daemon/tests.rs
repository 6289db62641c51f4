//! The request parser, and lines as they come.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use junto_agent::{Noise, Pace};
use proptest::prelude::*;

use super::request::{Call, Code, Id, LINE_MAX, New, parse};

#[test]
fn each_method_is_read() {
    let new = |name: &str| New {
        name: Some(name.to_owned()),
        ..New::default()
    };
    let contact = || "bob".to_owned();
    let cases = [
        (r#""version""#, "{}", Call::Version),
        (
            r#""contact.invite""#,
            r#"{"name":"bob"}"#,
            Call::Invite(new("bob")),
        ),
        (
            r#""contact.connect""#,
            r#"{"link":"simplex:/i#x","name":"bob"}"#,
            Call::Connect {
                link: "simplex:/i#x".to_owned(),
                new: new("bob"),
            },
        ),
        (r#""contact.list""#, "{}", Call::List),
        (
            r#""contact.show""#,
            r#"{"contact":"bob"}"#,
            Call::Show { contact: contact() },
        ),
        (
            r#""contact.noise""#,
            r#"{"contact":"bob","noise":"random","interval_ms":250}"#,
            Call::Noise {
                contact: contact(),
                noise: Noise::Random(Pace::new(Duration::from_millis(250)).unwrap()),
            },
        ),
        (
            r#""contact.noise""#,
            r#"{"contact":"bob","noise":"off"}"#,
            Call::Noise {
                contact: contact(),
                noise: Noise::Off,
            },
        ),
        (
            r#""send""#,
            r#"{"contact":"bob","text":"\u00e9"}"#,
            Call::Send {
                contact: contact(),
                body: "é".as_bytes().to_vec(),
            },
        ),
        (
            r#""send""#,
            r#"{"contact":"bob","hex":"00ff"}"#,
            Call::Send {
                contact: contact(),
                body: vec![0, 255],
            },
        ),
        (
            r#""subscribe""#,
            r#"{"contact":"bob"}"#,
            Call::Subscribe {
                contact: Some(contact()),
            },
        ),
        (r#""subscribe""#, "{}", Call::Subscribe { contact: None }),
        (
            r#""ack""#,
            r#"{"contact":"bob","message":18446744073709551615}"#,
            Call::Ack {
                contact: contact(),
                message: u64::MAX,
            },
        ),
        (r#""session.list""#, "{}", Call::Sessions),
    ];
    for (method, params, call) in cases {
        let line = format!(r#"{{"jsonrpc":"2.0","id":7,"method":{method},"params":{params}}}"#);
        let request = parse(line.as_bytes()).unwrap();
        assert_eq!((request.id, request.call), (Some(Id::Number(7)), call));
    }
}

#[test]
fn what_is_no_request_is_refused_with_the_code_that_the_protocol_has_for_it() {
    let long = format!(
        r#"{{"jsonrpc":"2.0","method":"version","id":"{}"}}"#,
        "x".repeat(65)
    );
    let name = "n".repeat(20_000);
    let long_name =
        format!(r#"{{"jsonrpc":"2.0","method":"contact.show","params":{{"contact":"{name}"}}}}"#);
    let deep = "[".repeat(LINE_MAX);
    let cases = [
        ("", Code::Parse),
        ("{", Code::Parse),
        ("\u{0}", Code::Parse),
        (&deep, Code::Parse),
        ("[]", Code::Request),
        ("null", Code::Request),
        (r#"[{"jsonrpc":"2.0","method":"version"}]"#, Code::Request),
        (r#"{"method":"version"}"#, Code::Request),
        (r#"{"jsonrpc":"1.0","method":"version"}"#, Code::Request),
        (r#"{"jsonrpc":"2.0"}"#, Code::Request),
        (r#"{"jsonrpc":"2.0","method":7}"#, Code::Request),
        (
            r#"{"jsonrpc":"2.0","method":"version","more":1}"#,
            Code::Request,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"version","id":null}"#,
            Code::Request,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"version","id":1.5}"#,
            Code::Request,
        ),
        (&long, Code::Request),
        (
            r#"{"jsonrpc":"2.0","method":"contact.erase"}"#,
            Code::Method,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"version","params":[]}"#,
            Code::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"version","params":{"x":1}}"#,
            Code::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"send","params":{"contact":"b"}}"#,
            Code::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"send","params":{"contact":"b","hex":"0"}}"#,
            Code::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"send","params":{"contact":"b","hex":"00","text":""}}"#,
            Code::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"ack","params":{"contact":"b","message":-1}}"#,
            Code::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"contact.noise","params":{"contact":"b","noise":"constant"}}"#,
            Code::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"contact.noise","params":{"contact":"b","noise":"random","interval_ms":249}}"#,
            Code::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"contact.noise","params":{"contact":"b","noise":"off","interval_ms":250}}"#,
            Code::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"contact.noise","params":{"contact":"b","noise":"loud","interval_ms":250}}"#,
            Code::Params,
        ),
        (&long_name, Code::Params),
    ];
    for (line, code) in cases {
        let refusal = parse(line.as_bytes()).unwrap_err();
        assert_eq!(refusal.code, code, "{:.80}: {}", line, refusal.message);
    }
    let named = r#"{"jsonrpc":"2.0","id":"a","method":"nothing"}"#;
    let refusal = parse(named.as_bytes()).unwrap_err();
    assert_eq!(refusal.id, Some(Id::Text("a".to_owned())));
    assert!(refusal.is_answered());
    assert_eq!(
        parse(&vec![b' '; LINE_MAX + 1]).unwrap_err().code,
        Code::Request
    );
}

#[test]
fn a_notification_gets_no_answer() {
    let cases = [
        (r#"{"jsonrpc":"2.0","method":"nothing"}"#, false),
        (
            r#"{"jsonrpc":"2.0","method":"send","params":{"contact":"b"}}"#,
            false,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"send","params":{}}"#,
            true,
        ),
        // Nobody can tell whether these are notifications.
        (r#"{"method":"version"}"#, true),
        ("{", true),
    ];
    for (line, is_answered) in cases {
        let refusal = parse(line.as_bytes()).unwrap_err();
        assert_eq!(refusal.is_answered(), is_answered, "{line}");
    }
}

proptest! {
    #[test]
    fn no_line_brings_the_parser_down(line: Vec<u8>) {
        let _ = parse(&line);
    }

    #[test]
    fn nearly_requests_are_read_or_refused(
        method in "[a-z.]{0,14}|version|contact\\.(invite|connect|list|show)|send|subscribe|ack|session\\.list",
        key in "contact|text|hex|message|name|as|relay|link|[a-z]{0,6}",
        value in "\"\\PC{0,12}\"|-?[0-9]{1,24}|null|true|\\{\\}|\\[\\]|1e400",
        cut in 0..200_usize,
    ) {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"{key}":{value}}}}}"#);
        let end = line.floor_char_boundary(cut.max(1));
        if let Err(refusal) = parse(line.as_bytes()) {
            prop_assert!(!refusal.message.is_empty());
        }
        if end < line.len() {
            prop_assert_eq!(parse(&line.as_bytes()[..end]).unwrap_err().code, Code::Parse);
        }
    }

    #[test]
    fn what_a_client_sends_is_what_is_sent(contact in "\\PC{1,40}", body: Vec<u8>) {
        let line = serde_json::json!({
            "jsonrpc": "2.0", "method": "send", "params": { "contact": contact, "hex": hex::encode(&body) },
        });
        let request = parse(line.to_string().as_bytes()).unwrap();
        prop_assert_eq!(request.id, None);
        prop_assert_eq!(request.call, Call::Send { contact, body });
    }
}
