//! One request to codexd: the client, its deadlines, and what each of codexd's failures becomes.
//!
//! One call is one request upstream, and none is ever repeated. Alone knows the HTTP client; knows no route.

mod lasting;
mod tunnel;

use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::client::{MAX_ANSWER_BYTES, agent};
use common::config::LocalUrl;
use common::error::{
    CODEXD_INVALID_RESPONSE, CODEXD_NOT_CONFIGURED, CODEXD_UNAVAILABLE, INTERNAL_ERROR, NOT_FOUND,
};
use common::http::{Answer, Request, Writer};
use common::log::Seq;
use common::websocket;
use serde_json::{Value, json};
use ureq::{Agent, AsSendBody, Body, http};

use lasting::{Lasting, Lasts, while_there};
use tunnel::Answered;

use crate::metrics::Calls;

/// Headers that go upstream beside the request id, as the caller wrote them.
const PASSED_HEADERS: [&str; 2] = ["idempotency-key", "last-event-id"];
/// And these when it asks to become a WebSocket: codexd judges them.
const HANDSHAKE_HEADERS: [&str; 2] = ["sec-websocket-key", "sec-websocket-version"];
const EVENT_STREAM: &str = "text/event-stream";

/// How long each step of a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// codexd is on this machine: it takes the connection at once, or it is not there.
    pub connect: Duration,
    /// From the request to the head of the answer: above the 20 s that codexd gives its child. `waitMs` comes on top.
    pub response: Duration,
    /// The body of an answer, and of a request.
    pub body: Duration,
    /// A stream that is silent for so long is dead: codexd writes at least every 20 s.
    pub silence: Duration,
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
pub struct Codexd {
    base: Option<LocalUrl>,
    agent: Agent,
    /// Streams and WebSockets, so that they can be ended while calls in flight go on.
    lasting: Arc<Lasting>,
    calls: Calls,
    deadlines: Deadlines,
}

impl Codexd {
    /// codexd at `base`; without one, every call fails and says so.
    pub fn new(base: Option<LocalUrl>, deadlines: Deadlines) -> Codexd {
        Codexd { base, agent: agent(), lasting: Arc::default(), calls: Calls::default(), deadlines }
    }

    /// What came of the calls so far.
    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Streams and WebSockets that pass through.
    pub(crate) fn streams(&self) -> usize {
        self.lasting.count()
    }

    /// Ends every stream and takes no new one; calls go on. A stream has no end of its own that a stop could wait for.
    pub fn end_streams(&self) {
        self.lasting.end_all();
    }
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

/// What a request upstream asks for, as messages tell it.
struct Place<'a> {
    path: &'a str,
    /// `GET /v1/codexd/status`.
    name: String,
}

impl Place<'_> {
    fn new(writes: bool, path: &str) -> Place<'_> {
        Place { path, name: format!("{} {path}", if writes { "POST" } else { "GET" }) }
    }
}

/// How long an answer may take: to its head; and, if it is a stream, as long as it likes.
#[derive(Clone, Copy)]
struct Times {
    response: Duration,
    streams: bool,
}

impl Call<'_> {
    /// What it asks for, for messages.
    fn place(&self) -> Place<'_> {
        Place::new(self.body.is_some(), &self.path)
    }

    /// Path and query.
    fn target(&self) -> String {
        let mark = if self.query.is_empty() { "" } else { "?" };
        format!("{}{mark}{}", self.path, self.query)
    }

    fn streams(&self) -> bool {
        self.may_stream && self.request.accepts(EVENT_STREAM)
    }
}

impl Codexd {
    /// codexd's answer as it is; a stream if the caller asked for one and codexd gives one.
    pub(crate) fn pass(&self, call: &Call) -> Result<Answer, Error> {
        self.calls.count(|| self.pass_on(call))
    }

    /// codexd's status and `data`.
    pub(crate) fn call(&self, call: &Call) -> Result<(u16, Value), Error> {
        self.calls.count(|| self.ask(call))
    }

    /// A WebSocket from the caller to codexd. Until codexd has taken it, all fails like any other call.
    pub(crate) fn tunnel(&self, call: &Call) -> Result<Answer, Error> {
        self.calls.count(|| self.connect(call))
    }

    fn pass_on(&self, call: &Call) -> Result<Answer, Error> {
        if !call.streams() && call.wait.is_zero() {
            let (status, data) = self.ask(call)?;
            return Ok(Answer::Json { status, data });
        }
        // A client of its own, which can be ended alone.
        let (agent, client) = (agent(), call.request.client());
        let end = {
            let agent = agent.clone();
            move || agent.clone().shutdown()
        };
        let lasts = match call.streams() {
            true => Some(self.lasting.enter(end.clone()).ok_or_else(|| self.stopping(&call.place()))?),
            false => None,
        };
        let response = while_there(&client, &end, || self.send(&agent, call)).map_err(|error| {
            // It is no failure that nobody waits any more.
            if client.has_left() { Error { cause: None, ..error } } else { error }
        })?;
        let kind = header(&response, "content-type").unwrap_or_default();
        if let Some(lasts) =
            lasts.filter(|_| response.status().is_success() && kind.starts_with(EVENT_STREAM))
        {
            return Ok(stream(response, end, lasts));
        }
        let (status, data) = self.receive(&call.place(), response)?;
        Ok(Answer::Json { status, data })
    }

    fn ask(&self, call: &Call) -> Result<(u16, Value), Error> {
        self.receive(&call.place(), self.send(&self.agent, call)?)
    }

    fn connect(&self, call: &Call) -> Result<Answer, Error> {
        let base = self.base()?;
        let mut head = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nx-request-id: {}\r\n",
            call.target(),
            base.to_string().trim_start_matches("http://"),
            call.request.id,
        );
        for name in PASSED_HEADERS.iter().chain(&HANDSHAKE_HEADERS) {
            if let Some(value) = call.request.header(name) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str("\r\n");
        let answered = tunnel::open(base, &head, &self.deadlines);
        match answered.map_err(|error| self.unavailable(&call.place(), &error))? {
            Answered::Opened(tunnel) => {
                let codexd = tunnel.codexd.clone();
                let lasts = self.lasting.enter(move || drop(codexd.shutdown(Shutdown::Both)));
                let lasts = lasts.ok_or_else(|| self.stopping(&call.place()))?;
                websocket::upgrade(call.request, move |peer| {
                    tunnel.run(peer.into_socket());
                    drop(lasts);
                })
            }
            Answered::Refused(response) => {
                let (status, data) = self.receive(&call.place(), response)?;
                Ok(Answer::Json { status, data })
            }
        }
    }

    fn base(&self) -> Result<&LocalUrl, Error> {
        self.base.as_ref().ok_or_else(|| {
            let message = "Independent codexd local API is not configured for /v1/codex routes.";
            let details = json!({ "env_var": "BAA_CODEXD_LOCAL_API_BASE" });
            Error::new(CODEXD_NOT_CONFIGURED, message).details(details)
        })
    }

    fn send(&self, agent: &Agent, call: &Call) -> Result<http::Response<Body>, Error> {
        let mut request = http::Request::builder()
            .uri(format!("{}{}", self.base()?, call.target()))
            .header("accept", if call.streams() { EVENT_STREAM } else { "application/json" })
            .header("x-request-id", &call.request.id);
        for name in PASSED_HEADERS {
            if let Some(value) = call.request.header(name) {
                request = request.header(name, value);
            }
        }
        let (place, times) =
            (call.place(), Times { response: self.deadlines.response + call.wait, streams: call.streams() });
        match &call.body {
            None => self.run(agent, &place, times, request.body(())),
            Some(body) => {
                let request = request.method("POST").header("content-type", "application/json");
                self.run(agent, &place, times, request.body(body.as_str()))
            }
        }
    }

    fn run(
        &self,
        agent: &Agent,
        place: &Place<'_>,
        times: Times,
        request: http::Result<http::Request<impl AsSendBody>>,
    ) -> Result<http::Response<Body>, Error> {
        let unsent = || Error::new(INTERNAL_ERROR, format!("{} could not be passed on.", place.name));
        let request = request.map_err(|error| unsent().because(error))?;
        let request = agent
            .configure_request(request)
            .timeout_connect(Some(self.deadlines.connect))
            .timeout_send_request(Some(self.deadlines.body))
            .timeout_send_body(Some(self.deadlines.body))
            .timeout_recv_response(Some(times.response))
            .timeout_recv_body((!times.streams).then_some(self.deadlines.body))
            .timeout_per_read(times.streams.then_some(self.deadlines.silence));
        agent.run(request.build()).map_err(|error| self.unavailable(place, &error))
    }

    fn receive(&self, place: &Place<'_>, mut response: http::Response<Body>) -> Result<(u16, Value), Error> {
        let status = response.status();
        let retry_after = header(&response, "retry-after").map(str::to_string);
        let mut text = Vec::new();
        let read = response.body_mut().as_reader().take(MAX_ANSWER_BYTES + 1).read_to_end(&mut text);
        read.map_err(|error| self.unavailable(place, &error))?;
        let invalid = |what: &str| {
            let message = format!("Independent codexd returned {what} for {}.", place.name);
            Error::new(CODEXD_INVALID_RESPONSE, message).details(self.place(place))
        };
        let body = match text.len() as u64 {
            0 => Value::Null,
            1..=MAX_ANSWER_BYTES => {
                serde_json::from_slice(&text).map_err(|error| invalid("invalid JSON").because(error))?
            }
            _ => return Err(invalid("invalid JSON").because("the answer is over its bound")),
        };
        if !status.is_success() {
            let error = self.refused(place, status.as_u16(), &body);
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
    fn refused(&self, place: &Place<'_>, status: u16, body: &Value) -> Error {
        let mut details = self.place(place);
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
                (name, format!("Independent codexd returned HTTP {status} for {}.", place.name))
            }
        };
        Error::foreign(status, name.to_string(), message).details(details)
    }

    fn unavailable(&self, place: &Place<'_>, cause: &impl std::fmt::Display) -> Error {
        let mut details = self.place(place);
        details["cause"] = json!(cause.to_string());
        let base = &details["target_base_url"];
        let message = format!("Independent codexd is unavailable at {}.", base.as_str().unwrap_or_default());
        Error::new(CODEXD_UNAVAILABLE, message).details(details).because(cause)
    }

    fn stopping(&self, place: &Place<'_>) -> Error {
        self.unavailable(place, &"conductor stops")
    }

    fn place(&self, place: &Place<'_>) -> Value {
        json!({ "target_base_url": self.base.as_ref().map(LocalUrl::to_string), "upstream_path": place.path })
    }
}

/// What conductor asks for itself, for its runs.
impl Codexd {
    /// Whether there is one to ask.
    pub(crate) fn is_configured(&self) -> bool {
        self.base.is_some()
    }

    /// `data` of a read.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Error> {
        self.calls.count(|| self.own(path, None, None))
    }

    /// `data` of a write, done once under `key`.
    pub(crate) fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Result<Value, Error> {
        self.calls.count(|| self.own(path, Some(body), key))
    }

    fn own(&self, path: &str, body: Option<&Value>, key: Option<&str>) -> Result<Value, Error> {
        let place = Place::new(body.is_some(), path);
        let mut request = http::Request::builder().uri(format!("{}{path}", self.base()?));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let times = Times { response: self.deadlines.response, streams: false };
        let response = match body {
            None => self.run(&self.agent, &place, times, request.body(())),
            Some(body) => {
                let request = request.method("POST").header("content-type", "application/json");
                self.run(&self.agent, &place, times, request.body(body.to_string()))
            }
        }?;
        self.receive(&place, response).map(|(_, data)| data)
    }

    /// A stream of events that can be ended from elsewhere.
    pub(crate) fn stream(&self) -> Stream {
        Stream(agent())
    }
}

/// codexd's events, for conductor itself.
pub(crate) struct Stream(Agent);

impl Stream {
    /// Asks for them from behind `after`, or from now on.
    pub(crate) fn open(&self, codexd: &Codexd, after: Option<Seq>) -> Result<impl Read + use<>, Error> {
        let path = match after {
            Some(after) => format!("/v1/codexd/events?after={after}"),
            None => "/v1/codexd/events".to_owned(),
        };
        let place = Place::new(false, &path);
        let request =
            http::Request::builder().uri(format!("{}{path}", codexd.base()?)).header("accept", EVENT_STREAM);
        let times = Times { response: codexd.deadlines.response, streams: true };
        let response = codexd.run(&self.0, &place, times, request.body(()))?;
        if !response.status().is_success() {
            return Err(codexd
                .receive(&place, response)
                .err()
                .unwrap_or_else(|| codexd.unavailable(&place, &"no stream")));
        }
        Ok(response.into_body().into_reader())
    }

    /// Ends it; whoever reads it hears so.
    pub(crate) fn end(&self) {
        self.0.clone().shutdown();
    }
}

/// The bytes of a stream as they come, until either side ends.
fn stream(response: http::Response<Body>, end: impl Fn() + Send + Sync + 'static, lasts: Lasts) -> Answer {
    let status = response.status().as_u16();
    let mut headers = Vec::new();
    for name in ["content-type", "cache-control"] {
        headers.extend(header(&response, name).map(|value| (name, value.to_string())));
    }
    let mut reader = response.into_body().into_reader();
    let run = move |out: &mut Writer| {
        let copied = while_there(&out.client(), &end, || io::copy(&mut reader, out));
        drop(lasts);
        copied.map(drop)
    };
    Answer::Stream { status, headers, run: Box::new(run) }
}

fn header<'a>(response: &'a http::Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
