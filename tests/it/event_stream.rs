//! The event stream over WebSocket and SSE: one log, whoever reads it, from wherever.

use std::time::Duration;

use e2e::codex::Codex;
use e2e::http::Events;
use e2e::websocket::{Got, Socket};
use serde_json::{Value, json};

use crate::codexd::Codexd;
use crate::driver::Driver;
use crate::scenarios::completed;

/// A codexd after one turn, with all its events heard.
fn after_a_turn() -> (Codexd, String) {
    let mut codexd = Codexd::start(Codex::Fake);
    let session = codexd.open(json!({}));
    let turn = codexd.say(&session, "hello", json!({}));
    completed(&mut codexd, &turn);
    codexd.hear_all();
    (codexd, session)
}

/// The events of an event stream up to this number, and what came before the first.
fn read_sse(
    codexd: &Codexd,
    query: &str,
    headers: &[(&str, &str)],
    last: &Value,
) -> (Vec<Value>, Vec<Value>) {
    let mut stream = Events::open("GET", &codexd.url(&format!("events{query}")), headers, b"");
    assert_eq!(stream.status, 200);
    let kind = stream.headers.iter().find(|(name, _)| name == "content-type").unwrap();
    assert!(kind.1.starts_with("text/event-stream"), "{}", kind.1);
    let (mut notes, mut events) = (Vec::new(), Vec::new());
    while let Some(block) = stream.next_data() {
        let data = block.json();
        assert_eq!(block.event, None);
        match &block.id {
            Some(id) => {
                assert_eq!(*id, data["seq"].to_string());
                events.push(data.clone());
                if data["seq"] == *last {
                    return (notes, events);
                }
            }
            None => notes.push(data),
        }
    }
    panic!("the stream ended before {last}");
}

#[test]
fn sse_tells_what_the_websocket_tells() {
    let (codexd, session) = after_a_turn();
    let all = codexd.log();
    let last = all.last().unwrap()["seq"].clone();
    let (notes, events) = read_sse(&codexd, "?after=0", &[], &last);
    assert_eq!(events, all);
    assert_eq!(notes[0]["type"], "stream.hello");
    assert_eq!((&notes[0]["oldestSeq"], &notes[0]["latestSeq"]), (&json!(1), &last));
    let (_, events) = read_sse(&codexd, "", &[("last-event-id", "5")], &last);
    assert_eq!(events, all[5..]);
    let (_, events) = read_sse(&codexd, &format!("?after=0&sessionId={session}"), &[], &last);
    let own = all
        .iter()
        .filter(|event| event["detail"]["sessionId"] == session.as_str())
        .cloned()
        .collect::<Vec<_>>();
    assert_eq!(events, own);
}

#[test]
fn a_position_that_is_not_there_is_a_gap() {
    let (codexd, _) = after_a_turn();
    let mut socket = Socket::connect(&codexd.url("events?after=100000"), &[]).unwrap();
    let within = Duration::from_secs(5);
    assert_eq!(socket.text(within)["type"], "stream.hello");
    let gap = socket.text(within);
    assert_eq!(gap["type"], "stream.gap", "{gap}");
}

#[test]
fn without_a_position_a_stream_is_live_only() {
    let (mut codexd, session) = after_a_turn();
    let mut socket = Socket::connect(&codexd.url("events"), &[]).unwrap();
    assert_eq!(socket.text(Duration::from_secs(5))["type"], "stream.hello");
    assert_eq!(socket.next(Duration::from_millis(100)), Got::Nothing);
    let before = codexd.log().len();
    let turn = codexd.say(&session, "again", json!({}));
    completed(&mut codexd, &turn);
    let first = socket.text(Duration::from_secs(5));
    assert_eq!(first, codexd.log()[before], "the first event after it came");
}

#[test]
fn a_closing_codexd_says_goodbye() {
    let (mut codexd, _) = after_a_turn();
    let mut socket = Socket::connect(&codexd.url("events"), &[]).unwrap();
    socket.text(Duration::from_secs(5));
    let status = codexd.daemon.terminate(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0));
    let mut told = Vec::new();
    let code = loop {
        match socket.next(Duration::from_secs(5)) {
            Got::Text(event) => told.push(event["type"].clone()),
            Got::Closed(code, _) => break code,
            Got::Nothing => panic!("neither an event nor a close"),
        }
    };
    assert!(told.contains(&json!("daemon.stopping")), "{told:?}");
    assert!(code == 1001 || code == 1000, "a close in order, not {code}");
}
