//! A reader of events that holds codexd to its word: each number follows the one before, or a gap is told.

use std::time::Duration;

use tungstenite::Utf8Bytes;

use crate::node::Node;
use crate::wait::SOON;
use crate::websocket::{Got, Socket};

/// The most that anything in a flood may take on a loaded machine.
pub const FLOOD: Duration = Duration::from_secs(240);
/// What tells the last event of a turn.
pub const TURN_END: &str = r#""type":"app-server.turn.completed""#;

/// An open event stream, past its hello.
pub struct Reader {
    socket: Socket,
    /// The name of the log that the hello gave.
    pub log_id: String,
    /// The oldest event that could be had then.
    pub oldest: u64,
    /// The number of the last event, or of the last of a gap.
    pub last: u64,
    /// Events that came.
    pub count: u64,
    /// First and last number of each gap that was told.
    pub gaps: Vec<(u64, u64)>,
}

impl Reader {
    /// Follows a codexd from after an event, or from now on. Panics when it is refused.
    #[track_caller]
    pub fn open(node: &Node, after: Option<u64>) -> Reader {
        Reader::at(&node.url("/v1/codexd/events"), after)
    }

    /// The same at the URL of the events of any daemon.
    #[track_caller]
    pub fn at(events: &str, after: Option<u64>) -> Reader {
        let query = after.map_or(String::new(), |after| format!("?after={after}"));
        let opened = Socket::connect(&format!("{events}{query}"), &[]);
        let mut socket = opened.unwrap_or_else(|status| panic!("refused with {status}"));
        let hello = socket.text(SOON);
        assert_eq!(hello["type"], "stream.hello", "{hello}");
        let number = |name: &str| hello[name].as_u64().unwrap_or_else(|| panic!("no {name}: {hello}"));
        let last = after.unwrap_or_else(|| number("latestSeq"));
        let log_id = hello["logId"].as_str().unwrap_or_default().to_owned();
        Reader { log_id, oldest: number("oldestSeq"), last, count: 0, gaps: Vec::new(), socket }
    }

    /// The next event; `None` when codexd has closed. Panics when there is none within the time, or another than the
    /// one that follows.
    #[track_caller]
    pub fn next(&mut self, within: Duration) -> Option<Utf8Bytes> {
        loop {
            let line = match self.socket.next_raw(within) {
                Got::Text(line) => line,
                Got::Closed(..) => return None,
                Got::Nothing => panic!("nothing after {} within {within:?}", self.last),
            };
            if line.starts_with("{\"seq\":") {
                assert_eq!(seq(&line), self.last + 1, "{line}");
                self.last += 1;
                self.count += 1;
                return Some(line);
            }
            let note: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            assert_eq!(note["type"], "stream.gap", "{line}");
            assert_eq!(note["fromSeq"], self.last + 1, "{line}");
            let to = note["toSeq"].as_u64().unwrap_or_else(|| panic!("no end: {line}"));
            self.gaps.push((self.last + 1, to));
            self.last = to;
        }
    }

    /// Reads on to the end of a turn: the number of that event.
    #[track_caller]
    pub fn read_on(&mut self) -> u64 {
        while let Some(line) = self.next(FLOOD) {
            if line.contains(TURN_END) {
                return self.last;
            }
        }
        panic!("closed after {}", self.last);
    }

    /// Reads on to this event.
    #[track_caller]
    pub fn read_to(&mut self, last: u64) {
        while self.last < last {
            assert!(self.next(FLOOD).is_some(), "closed after {}", self.last);
        }
    }
}

/// The number that an event begins with; panics on anything else.
#[track_caller]
pub fn seq(line: &str) -> u64 {
    let digits = line.strip_prefix("{\"seq\":").and_then(|rest| rest.split(',').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no event: {line}"))
}
