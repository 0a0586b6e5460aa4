//! One request to codexd: the client, its deadlines, and what each of codexd's failures becomes.
//!
//! One call is one request upstream, and none is ever repeated. Alone knows the HTTP client; knows no route.

use std::io::{self, Read};
use std::time::Duration;

use common::Error;
use common::config::LocalUrl;
use common::error::{
    CODEXD_INVALID_RESPONSE, CODEXD_NOT_CONFIGURED, CODEXD_UNAVAILABLE, INTERNAL_ERROR, NOT_FOUND,
};
use common::http::{Answer, Request};
use serde_json::{Value, json};
use ureq::{Agent, AsSendBody, Body, http};

/// Connections that wait for the next call, some 30 KB each. More at once are made and closed again.
pub(crate) const MAX_IDLE_CONNECTIONS: usize = 8;
/// Below the 60 s after which codexd closes an idle connection, so that we never write into a closing one.
const MAX_IDLE_AGE: Duration = Duration::from_secs(30);
/// Each connection holds two; the body of a large answer passes through in pieces.
const BUFFER_BYTES: usize = 16 * 1024;
/// One answer of codexd. The largest are pages of events and transcripts; beyond this one has to page.
pub(crate) const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// Headers that go upstream beside the request id, as the caller wrote them.
const PASSED_HEADERS: [&str; 2] = ["idempotency-key", "last-event-id"];
const EVENT_STREAM: &str = "text/event-stream";

/// How long each step of a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// codexd is on this machine: it takes the connection at once, or it is not there.
    pub(crate) connect: Duration,
    /// From the request to the head of the answer: above the 20 s that codexd gives its child. `waitMs` comes on top.
    pub(crate) response: Duration,
    /// The body of an answer, and of a request.
    pub(crate) body: Duration,
    /// A stream that is silent for so long is dead: codexd writes at least every 20 s.
    pub(crate) silence: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            connect: Duration::from_millis(500),
            response: Duration::from_secs(30),
            body: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

/// codexd, as far as conductor knows it.
pub(crate) struct Codexd {
    base: Option<LocalUrl>,
    agent: Agent,
    /// A client of its own, so that streams can be ended while calls in flight go on.
    streams: Agent,
    deadlines: Deadlines,
}

impl Codexd {
    /// codexd at `base`; without one, every call fails and says so.
    pub(crate) fn new(base: Option<LocalUrl>, deadlines: Deadlines) -> Codexd {
        Codexd { base, agent: agent(), streams: agent(), deadlines }
    }

    /// Ends every stream and takes no new one; calls go on. A stream has no end of its own that a stop could wait for.
    pub(crate) fn end_streams(&self) {
        self.streams.clone().shutdown();
    }
}

/// A client for daemons on this machine: no proxy, no redirects, every status an answer, connections kept.
pub(crate) fn agent() -> Agent {
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

/// One request upstream, made from one of ours.
pub(crate) struct Call<'a> {
    pub(crate) request: &'a Request,
    pub(crate) path: String,
    /// Encoded, without the `?`.
    pub(crate) query: String,
    /// JSON; with it the call is a `POST`.
    pub(crate) body: Option<String>,
    /// The route has a stream for those who ask for one.
    pub(crate) may_stream: bool,
    /// How long codexd may wait before it answers.
    pub(crate) wait: Duration,
}

impl Call<'_> {
    fn name(&self) -> String {
        format!("{} {}", if self.body.is_some() { "POST" } else { "GET" }, self.path)
    }

    fn streams(&self) -> bool {
        self.may_stream && self.request.accepts(EVENT_STREAM)
    }
}

impl Codexd {
    /// codexd's answer as it is; a stream if the caller asked for one and codexd gives one.
    pub(crate) fn pass(&self, call: &Call) -> Result<Answer, Error> {
        let response = self.send(call)?;
        let kind = header(&response, "content-type").unwrap_or_default();
        if call.streams() && response.status().is_success() && kind.starts_with(EVENT_STREAM) {
            return Ok(stream(response));
        }
        let (status, data) = self.receive(call, response)?;
        Ok(Answer::Json { status, data })
    }

    /// codexd's status and `data`.
    pub(crate) fn call(&self, call: &Call) -> Result<(u16, Value), Error> {
        self.receive(call, self.send(call)?)
    }

    fn send(&self, call: &Call) -> Result<http::Response<Body>, Error> {
        let Some(base) = &self.base else {
            let message = "Independent codexd local API is not configured for /v1/codex routes.";
            let details = json!({ "env_var": "BAA_CODEXD_LOCAL_API_BASE" });
            return Err(Error::new(CODEXD_NOT_CONFIGURED, message).details(details));
        };
        let mark = if call.query.is_empty() { "" } else { "?" };
        let mut request = http::Request::builder()
            .uri(format!("{base}{}{mark}{}", call.path, call.query))
            .header("accept", if call.streams() { EVENT_STREAM } else { "application/json" })
            .header("x-request-id", &call.request.id);
        for name in PASSED_HEADERS {
            if let Some(value) = call.request.header(name) {
                request = request.header(name, value);
            }
        }
        match &call.body {
            None => self.run(call, request.body(())),
            Some(body) => {
                let request = request.method("POST").header("content-type", "application/json");
                self.run(call, request.body(body.as_str()))
            }
        }
    }

    fn run(
        &self,
        call: &Call,
        request: http::Result<http::Request<impl AsSendBody>>,
    ) -> Result<http::Response<Body>, Error> {
        let unsent = || Error::new(INTERNAL_ERROR, format!("{} could not be passed on.", call.name()));
        let request = request.map_err(|error| unsent().because(error))?;
        let agent = if call.streams() { &self.streams } else { &self.agent };
        let request = agent
            .configure_request(request)
            .timeout_connect(Some(self.deadlines.connect))
            .timeout_send_request(Some(self.deadlines.body))
            .timeout_send_body(Some(self.deadlines.body))
            .timeout_recv_response(Some(self.deadlines.response + call.wait))
            .timeout_recv_body((!call.streams()).then_some(self.deadlines.body))
            .timeout_per_read(call.streams().then_some(self.deadlines.silence));
        agent.run(request.build()).map_err(|error| self.unavailable(call, &error))
    }

    fn receive(&self, call: &Call, mut response: http::Response<Body>) -> Result<(u16, Value), Error> {
        let status = response.status();
        let retry_after = header(&response, "retry-after").map(str::to_string);
        let mut text = Vec::new();
        let read = response.body_mut().as_reader().take(MAX_ANSWER_BYTES + 1).read_to_end(&mut text);
        read.map_err(|error| self.unavailable(call, &error))?;
        let invalid = |what: &str| {
            let message = format!("Independent codexd returned {what} for {}.", call.name());
            Error::new(CODEXD_INVALID_RESPONSE, message).details(self.place(call))
        };
        let body = match text.len() as u64 {
            0 => Value::Null,
            1..=MAX_ANSWER_BYTES => {
                serde_json::from_slice(&text).map_err(|error| invalid("invalid JSON").because(error))?
            }
            _ => return Err(invalid("invalid JSON").because("the answer is over its bound")),
        };
        if !status.is_success() {
            let error = self.refused(call, status.as_u16(), &body);
            return Err(match retry_after {
                Some(after) => error.header("Retry-After", after),
                None => error,
            });
        }
        let data = match body {
            Value::Object(mut body) if body.get("ok") == Some(&Value::Bool(true)) => body.remove("data"),
            _ => None,
        };
        Ok((status.as_u16(), data.ok_or_else(|| invalid("an unexpected payload"))?))
    }

    /// An answer that is not 2xx, as ours.
    fn refused(&self, call: &Call, status: u16, body: &Value) -> Error {
        let mut details = self.place(call);
        let (name, message) = match (&body["ok"], &body["error"], &body["message"]) {
            (Value::Bool(false), Value::String(name), Value::String(message)) => {
                details["upstream_error"] = json!(name);
                if !body["details"].is_null() {
                    details["upstream_details"] = body["details"].clone();
                }
                (if status == 404 { NOT_FOUND.name.as_ref() } else { name.as_str() }, message.clone())
            }
            _ => {
                let name =
                    if status >= 500 { CODEXD_UNAVAILABLE.name.as_ref() } else { "codexd_proxy_error" };
                (name, format!("Independent codexd returned HTTP {status} for {}.", call.name()))
            }
        };
        Error::foreign(status, name.to_string(), message).details(details)
    }

    fn unavailable(&self, call: &Call, cause: &impl std::fmt::Display) -> Error {
        let mut details = self.place(call);
        details["cause"] = json!(cause.to_string());
        let base = &details["target_base_url"];
        let message = format!("Independent codexd is unavailable at {}.", base.as_str().unwrap_or_default());
        Error::new(CODEXD_UNAVAILABLE, message).details(details).because(cause)
    }

    fn place(&self, call: &Call) -> Value {
        json!({ "target_base_url": self.base.as_ref().map(LocalUrl::to_string), "upstream_path": call.path })
    }
}

/// The bytes of a stream as they come, until either side ends.
fn stream(response: http::Response<Body>) -> Answer {
    let status = response.status().as_u16();
    let mut headers = Vec::new();
    for name in ["content-type", "cache-control"] {
        headers.extend(header(&response, name).map(|value| (name, value.to_string())));
    }
    let mut reader = response.into_body().into_reader();
    Answer::Stream { status, headers, run: Box::new(move |out| io::copy(&mut reader, out).map(drop)) }
}

fn header<'a>(response: &'a http::Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
