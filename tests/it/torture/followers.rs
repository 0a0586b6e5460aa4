//! Readers of the log who go on where they were cut.

use std::sync::mpsc::Sender;

use e2e::http::{Events, try_request};
use e2e::reader::seq;
use e2e::wait::SOON;
use e2e::websocket::{Got, Socket};
use serde_json::Value;

use super::Board;

/// Follows the log by WebSocket and goes on where it was cut; each line is handed to `heard`, too.
pub(super) fn follow_socket(board: &Board, heard: Option<Sender<String>>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    while board.again() {
        let url = board.url(&format!("events?after={}", lines.len()));
        let Some(mut socket) = Socket::try_connect(&url) else { continue };
        while let Got::Text(line) = socket.next_raw(SOON) {
            if !line.starts_with("{\"seq\":") {
                assert!(line.contains("stream.hello"), "{line}");
                continue;
            }
            assert_eq!(seq(&line), lines.len() as u64 + 1, "once and in order");
            lines.push(line.as_str().to_owned());
            if let Some(heard) = &heard {
                let _ = heard.send(line.as_str().to_owned()); // nobody listens at the very end
            }
        }
    }
    lines
}

pub(super) fn follow_sse(board: &Board) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    while board.again() {
        let last = lines.len().to_string();
        let headers = [("last-event-id", last.as_str())];
        let Ok(mut events) = Events::try_open("GET", &board.url("events"), &headers, b"") else { continue };
        while let Ok(Some(block)) = events.try_next_block() {
            let Some(id) = block.id else {
                if block.comment && !board.again() {
                    break; // nothing comes any more
                }
                continue; // the hello
            };
            assert_eq!(id, (lines.len() + 1).to_string(), "once and in order");
            lines.push(block.data);
        }
    }
    lines
}

pub(super) fn follow_pages(board: &Board) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    while board.again() {
        let url = board.url(&format!("events?after={}&limit=1000&waitMs=1000", events.len()));
        let page = try_request("GET", &url, &[], b"").ok().filter(|page| page.status == 200);
        let page = page.map(|page| page.json()["data"]["events"].take());
        events.extend(page.iter().flat_map(|page| page.as_array().unwrap()).cloned());
    }
    events
}
