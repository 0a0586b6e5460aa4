//! Those who follow the log all along, by a WebSocket at codexd and by SSE through conductor: cut off, each goes on where it
//! was, and whatever it is not given must be told to it as a gap.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::Board;
use crate::http::Events;
use crate::reader::seq;
use crate::wait::SOON;
use crate::websocket::{Got, Socket};

/// How far one has read.
#[derive(Default)]
pub(super) struct Followed {
    /// The number of the last event, or of the last one of a gap.
    pub(super) last: u64,
    /// Events that came.
    pub(super) events: u64,
    /// Events that were told to be gone.
    pub(super) missed: u64,
}

impl Followed {
    fn take(&mut self, line: &str) {
        if line.starts_with("{\"seq\":") {
            assert_eq!(seq(line), self.last + 1, "every event once, and in order: {line}");
            self.last += 1;
            self.events += 1;
            return;
        }
        let note: Value = serde_json::from_str(line).unwrap_or_default();
        if note["type"] == "stream.gap" {
            assert_eq!(note["fromSeq"], self.last + 1, "{line}");
            let to = note["toSeq"].as_u64().unwrap_or(self.last);
            self.missed += to - self.last;
            self.last = to;
        } else {
            assert_eq!(note["type"], "stream.hello", "{line}");
        }
    }
}

/// Until the last event is there, when it is known which one that is.
fn goes_on(board: &Board, followed: &Followed) -> bool {
    followed.last < board.last_event.load(Ordering::Relaxed)
}

pub(super) fn follow_socket(board: &Board, last: u64) -> Followed {
    let mut followed = Followed { last, ..Followed::default() };
    while goes_on(board, &followed) {
        let url = format!("{}/v1/codexd/events?after={}", board.codexd, followed.last);
        let Some(mut socket) = Socket::try_connect(&url) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        while goes_on(board, &followed) {
            let Got::Text(line) = socket.next_raw(SOON) else { break };
            followed.take(&line);
        }
    }
    followed
}

pub(super) fn follow_sse(board: &Board, last: u64) -> Followed {
    let mut followed = Followed { last, ..Followed::default() };
    let url = format!("{}/v1/codex/events", board.conductor);
    while goes_on(board, &followed) {
        let last = followed.last.to_string();
        let opened = Events::try_open("GET", &url, &[("last-event-id", &last)], b"");
        let Some(mut events) = opened.ok().filter(|events| events.status == 200) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        while goes_on(board, &followed) {
            match events.try_next_block() {
                Ok(Some(block)) if !block.comment => followed.take(&block.data),
                Ok(Some(_)) => {}
                _ => break,
            }
        }
    }
    followed
}
