//! The smallest client of an app-server: JSON lines over the pipes of a process.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Launch, Process};
use crate::wait::SOON;

/// A started app-server and all that it has said.
pub struct Lines {
    /// The process.
    pub process: Process,
    stdin: Option<ChildStdin>,
    heard: Arc<Heard>,
    last_id: u64,
}

#[derive(Default)]
struct Heard {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    messages: Vec<Value>,
    ended: bool,
}

impl Lines {
    /// Starts it; panics if it cannot be started.
    #[track_caller]
    pub fn start(launch: &Launch) -> Lines {
        let (process, stdin, stdout) = Process::start_piped(launch);
        let heard = Arc::new(Heard::default());
        let for_reader = Arc::clone(&heard);
        thread::spawn(move || for_reader.read(stdout));
        Lines { process, stdin: Some(stdin), heard, last_id: 0 }
    }

    /// The handshake of a client that knows the experimental methods.
    #[track_caller]
    pub fn handshake(&mut self) -> Value {
        let client = json!({"name": "codexd", "title": "codexd", "version": "0.1.0"});
        let params = json!({"clientInfo": client, "capabilities": {"experimentalApi": true}});
        let result = self.request("initialize", params).unwrap_or_else(|error| panic!("initialize: {error}"));
        self.send(&json!({"method": "initialized"}));
        result
    }

    /// Sends one message as a line.
    #[track_caller]
    pub fn send(&mut self, message: &Value) {
        self.send_raw(&message.to_string());
    }

    /// Sends one line as it is; a peer that is gone is no error.
    pub fn send_raw(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(format!("{line}\n").as_bytes());
        }
    }

    /// Sends a request and waits for its answer: the result, or the error object.
    #[track_caller]
    pub fn request(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.ask(method, params);
        self.answer(id)
    }

    /// Sends a request without waiting, and says its id.
    #[track_caller]
    pub fn ask(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        self.send(&json!({"id": self.last_id, "method": method, "params": params}));
        self.last_id
    }

    /// Waits for the answer to a request.
    #[track_caller]
    pub fn answer(&self, id: u64) -> Result<Value, Value> {
        let is_answer = |message: &Value| message["id"] == id && message.get("method").is_none();
        let answer = self.wait_for(&format!("the answer to request {id}"), 0, is_answer).1;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(answer["error"].clone()),
        }
    }

    /// Waits for a message from position `from` on that `wanted` accepts: the position after it, and the message.
    #[track_caller]
    pub fn wait_for(&self, what: &str, from: usize, wanted: impl Fn(&Value) -> bool) -> (usize, Value) {
        let end = Instant::now() + SOON;
        let mut state = self.heard.lock();
        let mut at = from;
        loop {
            while let Some(message) = state.messages.get(at) {
                at += 1;
                if wanted(message) {
                    return (at, message.clone());
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            let said = || state.messages[from..].iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
            assert!(!state.ended, "it ended before {what}; it said\n{}", said());
            assert!(!left.is_zero(), "not within {SOON:?}: {what}; it said\n{}", said());
            state = self.heard.wait(state, left);
        }
    }

    /// All that was heard, in order; a line that is no JSON is a string.
    pub fn messages(&self) -> Vec<Value> {
        self.heard.lock().messages.clone()
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until its stdout ends, and says whether it did in time.
    pub fn ended(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        let mut state = self.heard.lock();
        while !state.ended && Instant::now() < end {
            state = self.heard.wait(state, end.saturating_duration_since(Instant::now()));
        }
        state.ended
    }
}

impl Heard {
    fn read(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let message = serde_json::from_str(&line).unwrap_or(Value::String(line));
            self.lock().messages.push(message);
            self.more.notify_all();
        }
        self.lock().ended = true;
        self.more.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.more.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }
}
