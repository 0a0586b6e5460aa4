//! What commands ask of a daemon on this machine, over HTTP.
//!
//! Owns the client's settings, and what a failed call says to somebody at a terminal. Nothing is ever asked twice.

use std::fmt::Display;
use std::io::BufReader;
use std::ops::ControlFlow;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use ureq::{Agent, http};

use crate::child::{self, Line};
use crate::cli::Failure;
use crate::config::{EXIT_FAILED, EXIT_UNAVAILABLE, LocalUrl};

/// Connections that wait for the next call, some 30 KB each. More at once are made and closed again.
pub const MAX_IDLE_CONNECTIONS: usize = 8;
/// Below the 60 s after which a daemon closes an idle connection, so that nothing is written into a closing one.
const MAX_IDLE_AGE: Duration = Duration::from_secs(30);
/// Each connection holds two; the body of a large answer passes through in pieces.
const BUFFER_BYTES: usize = 16 * 1024;
/// A daemon on this machine takes the connection at once, or it is not there.
const CONNECT: Duration = Duration::from_millis(500);
/// How long a daemon has for an answer; it takes 30 s at most for what does not wait.
const ANSWER: Duration = Duration::from_secs(35);
/// One answer. The largest are pages of events and transcripts; beyond this one has to page.
pub const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// One event of a stream: a detail of the child's has 256 KiB, and each byte of it may be escaped.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;
/// Events that are read ahead of whoever looks at them.
const EVENTS_AHEAD: usize = 16;
/// A stream has a comment after 20 s of quiet; without three of them the daemon is frozen.
const SILENCE: Duration = Duration::from_secs(60);

/// A client for daemons on this machine: no proxy, no redirects, every status an answer, connections kept.
pub fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .user_agent(concat!("baa-conductor/", env!("CARGO_PKG_VERSION")))
        .input_buffer_size(BUFFER_BYTES)
        .output_buffer_size(BUFFER_BYTES)
        .max_idle_connections(MAX_IDLE_CONNECTIONS)
        .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS)
        .max_idle_age(MAX_IDLE_AGE);
    Agent::new_with_config(config.build())
}

/// A daemon, as commands call it.
pub struct Client {
    agent: Agent,
    /// `codexd`, for messages.
    name: &'static str,
    base: LocalUrl,
    /// Of each call.
    headers: Vec<(&'static str, String)>,
}

impl Client {
    /// The daemon `name` at `base`.
    pub fn new(name: &'static str, base: LocalUrl) -> Client {
        Client { agent: agent(), name, base, headers: Vec::new() }
    }

    /// The same, with this header on each call, if there is a value.
    pub fn with(mut self, header: &'static str, value: Option<String>) -> Client {
        self.headers.extend(value.map(|value| (header, value)));
        self
    }

    /// `data` of the answer; with a body the call is a `POST`.
    ///
    /// # Errors
    /// No daemon there ([`EXIT_UNAVAILABLE`]); else what it said, with its code.
    pub fn call(&self, target: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.wait(target, body, Duration::ZERO)
    }

    /// The same of a call that itself waits so long.
    ///
    /// # Errors
    /// Those of [`call`](Client::call).
    pub fn wait(&self, target: &str, body: Option<&Value>, wait: Duration) -> Result<Value, Failure> {
        let response = self.send(target, body, "application/json", ANSWER + wait)?;
        self.answer(target, response)
    }

    /// Hands the data of each server-sent event to `each`, until that says to break or the stream ends.
    ///
    /// # Errors
    /// Those of [`call`](Client::call), and of `each`; a stream that was cut off or is silent is no daemon there.
    pub fn stream(
        &self,
        target: &str,
        body: Option<&Value>,
        mut each: impl FnMut(&str) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let response = self.send(target, body, "text/event-stream", ANSWER)?;
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            self.answer(target, response)?;
            return Err(Failure(EXIT_FAILED, format!("{}{target} answered with no stream", self.base)));
        }
        let (sender, lines) = sync_channel(EVENTS_AHEAD);
        // A read has no deadline of its own, so it has a thread; whoever no longer listens ends with the process.
        let read = move || {
            let body = BufReader::with_capacity(BUFFER_BYTES, response.into_body().into_reader());
            let read = child::lines(body, MAX_EVENT_BYTES, |line| {
                let _ = sender.send(match line {
                    Line::Whole(line) => Ok(String::from_utf8_lossy(line).into_owned()),
                    Line::TooLong(bytes) => Err(format!("it sent a line of {bytes} bytes")),
                });
            });
            if let Err(error) = read {
                let _ = sender.send(Err(error.to_string()));
            }
        };
        let started = thread::Builder::new().name("stream".into()).spawn(read);
        started.map_err(|error| Failure::new("cannot read a stream", &error))?;
        loop {
            match lines.recv_timeout(SILENCE) {
                Ok(Ok(line)) => {
                    let data = line.strip_prefix("data:").map(|data| data.trim_start_matches(' '));
                    if data.map(&mut each).transpose()?.is_some_and(|flow| flow.is_break()) {
                        return Ok(());
                    }
                }
                Ok(Err(why)) => return Err(self.unavailable(&why)),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.unavailable(&format!("it says nothing for {} s", SILENCE.as_secs())));
                }
            }
        }
    }

    fn answer(&self, target: &str, mut response: http::Response<ureq::Body>) -> Result<Value, Failure> {
        let status = response.status();
        let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string();
        let text = text.map_err(|error| self.unavailable(&error))?;
        let mut answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if answer["ok"] == true {
            return Ok(answer["data"].take());
        }
        match (answer["message"].as_str(), answer["error"].as_str()) {
            (Some(message), Some(code)) => {
                Err(Failure(EXIT_FAILED, format!("{message} ({code}, request {})", request_id(&answer))))
            }
            _ => Err(Failure(
                EXIT_FAILED,
                format!("{}{target} answered HTTP {status} and no envelope", self.base),
            )),
        }
    }

    fn send(
        &self,
        target: &str,
        body: Option<&Value>,
        accept: &str,
        wait: Duration,
    ) -> Result<http::Response<ureq::Body>, Failure> {
        let mut request = http::Request::builder().uri(format!("{}{target}", self.base));
        request = request.header("accept", accept);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let sent = match body {
            None => request.body(()).map_err(ureq::Error::from).and_then(|request| self.run(request, wait)),
            Some(body) => {
                let request = request.method("POST").header("content-type", "application/json");
                let request = request.body(body.to_string()).map_err(ureq::Error::from);
                request.and_then(|request| self.run(request, wait))
            }
        };
        sent.map_err(|error| self.unavailable(&error))
    }

    fn run(
        &self,
        request: http::Request<impl ureq::AsSendBody>,
        wait: Duration,
    ) -> Result<http::Response<ureq::Body>, ureq::Error> {
        let request = self.agent.configure_request(request);
        let request = request.timeout_connect(Some(CONNECT)).timeout_recv_response(Some(wait));
        self.agent.run(request.build())
    }

    fn unavailable(&self, why: &dyn Display) -> Failure {
        Failure(EXIT_UNAVAILABLE, format!("no {} at {}: {why}", self.name, self.base))
    }
}

/// By which the daemon's own lines can be found.
fn request_id(answer: &Value) -> &str {
    let id = answer["request_id"].as_str().or_else(|| answer["requestId"].as_str());
    id.unwrap_or("unknown")
}
