//! One connection from its first byte to its close: request after request, each through the table to its answer.
//!
//! Owns the order in which a request can be refused. Knows nothing of other connections.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::incoming::{Held, Incoming, Refused, close_gently};
use super::listener::{Connection, Shared, overloaded};
use super::request::{Framing, Head, Request, bad, new_request_id};
use super::response::{self, Answer, Run, Shape, Socket, Writer};
use super::route::{self, Found, Kind, Method, Route};
use crate::error::{INTERNAL_ERROR, METHOD_NOT_ALLOWED, NOT_FOUND};
use crate::trace::{self, Level};
use crate::{Error, wire};

/// Answers up to this do not count: a thread's stack is larger.
const COUNTED_ANSWER_BYTES: usize = 64 * 1024;

/// One connection's thread.
pub(super) struct Session<'a, S: 'static> {
    shared: &'a Shared<S>,
    connection: &'a Connection,
    /// One of the last connections: short deadlines, probes only, one request.
    reserved: bool,
    /// Since when the request is known, and which row of the table it found, for the count.
    begun: Cell<Instant>,
    row: Cell<usize>,
    /// Its method and path, for the line on stderr; none unless somebody asked for such lines.
    asked: RefCell<Option<(String, String)>>,
}

/// What becomes of the connection after an exchange.
enum Next {
    Keep,
    Close,
    /// Close, but let the client read the answer first.
    Linger,
}

impl<'a, S> Session<'a, S> {
    pub(super) fn new(shared: &'a Shared<S>, connection: &'a Connection, reserved: bool) -> Session<'a, S> {
        Session {
            shared,
            connection,
            reserved,
            begun: Cell::new(Instant::now()),
            row: Cell::new(0),
            asked: RefCell::default(),
        }
    }

    pub(super) fn serve(&self) {
        let limits = &self.shared.server.limits;
        let mut incoming = Incoming::new(self.connection.stream.clone());
        let whole = if self.reserved { limits.reserved_head } else { limits.head };
        let mut wait = whole;
        loop {
            let head = incoming.head(wait, whole);
            if self.shared.mark_busy(self.connection, true) {
                return;
            }
            match self.exchange(&mut incoming, head) {
                Next::Keep => wait = limits.idle,
                Next::Close => return,
                Next::Linger => return close_gently(&self.connection.stream, limits.linger),
            }
            if self.shared.mark_busy(self.connection, false) {
                return;
            }
        }
    }

    fn exchange(&self, incoming: &mut Incoming, head: Result<Head, Refused>) -> Next {
        let style = self.shared.server.style;
        self.begun.set(Instant::now());
        self.row.set(usize::MAX);
        self.asked.replace(trace::is_on(Level::Debug).then(|| match &head {
            Ok(head) => (head.method.clone(), head.path.clone()),
            Err(_) => ("-".to_owned(), "-".to_owned()), // it could not be read
        }));
        match head {
            Ok(head) => {
                let shape = Shape {
                    minor: head.minor,
                    head: head.method == "HEAD",
                    keep: false,
                    id: head.id(),
                    style,
                };
                self.answer(incoming, head, shape)
            }
            Err(Refused::Gone) => Next::Close,
            Err(Refused::Answer(error)) => {
                let shape = Shape { minor: 1, head: false, keep: false, id: new_request_id(), style };
                self.fail(&shape, &error)
            }
        }
    }

    fn answer(&self, incoming: &mut Incoming, head: Head, mut shape: Shape) -> Next {
        let limits = &self.shared.server.limits;
        let keeps_alive = head.keeps_alive() && !self.reserved;
        let framing = match head.framing(limits.body_bytes) {
            Ok(framing) => framing,
            Err(error) => return self.fail(&shape, &error),
        };
        // while its body is unread, nobody knows where the next request begins
        shape.keep = keeps_alive && framing == Framing::Empty;
        let admitted = caught(&shape.id, || self.admit(head, framing, &shape));
        let (route, mut request) = match admitted.and_then(|admitted| admitted) {
            Ok(admitted) => admitted,
            Err(error) => return self.fail(&shape, &error),
        };
        if framing != Framing::Empty {
            let waits =
                request.minor == 1 && request.header("expect").is_some() && incoming.rest().is_empty();
            if waits && !self.send(b"HTTP/1.1 100 Continue\r\n\r\n") {
                return Next::Close;
            }
            let within = if self.reserved { limits.reserved_head } else { limits.body };
            match incoming.body(framing, within, limits, &mut request.held) {
                Ok(body) => request.body = body,
                Err(Refused::Gone) => return Next::Close,
                Err(Refused::Answer(error)) => {
                    drop(request); // its bytes count for no longer than they are of use
                    return self.fail(&shape, &error);
                }
            }
        }
        shape.keep = keeps_alive && !self.shared.stopping();
        let answer = caught(&shape.id, || (route.handler)(&self.shared.server.state, &request));
        drop(request); // a stream may take hours, and its body counts
        match answer.and_then(|answer| answer) {
            Ok(answer) => self.deliver(incoming, &shape, route.kind == Kind::Write, answer),
            Err(error) => self.fail(&shape, &error),
        }
    }

    /// Everything that the head alone can be refused for.
    fn admit(
        &self,
        head: Head,
        framing: Framing,
        shape: &Shape,
    ) -> Result<(&'static Route<S>, Request), Error> {
        let server = &self.shared.server;
        server.gate.host(head.header("host"), self.shared.address.ip())?;
        let route = match route::find(server.routes, &head.method, &head.path) {
            Found::Route(route, row) => {
                self.row.set(row);
                route
            }
            Found::Nothing => {
                return Err(Error::new(NOT_FOUND, (server.unknown_route)(&head.method, &head.path)));
            }
            Found::Allow(allow) => {
                let message = format!("{} has no method {}.", head.path, head.method);
                return Err(Error::new(METHOD_NOT_ALLOWED, message).header("Allow", allow));
            }
        };
        if self.reserved && route.kind != Kind::Probe {
            return Err(overloaded("The node is near its bound of connections and serves probes only."));
        }
        let request = Request {
            method: route.method,
            head: shape.head,
            id: shape.id.clone(),
            peer: self.connection.peer,
            body: Vec::new(),
            minor: head.minor,
            query: head.query()?,
            params: route::params(route, &head.path)?,
            path: head.path,
            headers: head.headers,
            stream: self.connection.stream.clone(),
            held: Held::none(&server.stats.bodies),
        };
        if route.method == Method::Post || request.wants_websocket() {
            server.gate.origin(request.header("origin"), request.header("host"))?;
        }
        let fetched = (request.header("sec-fetch-site"), request.header("sec-fetch-mode"));
        server.gate.site(fetched, request.header("origin"), request.header("host"))?;
        (server.authorize)(&server.state, route, &request)?;
        wire::query(route.query, &request.query)?;
        if route.body.is_some() && framing != Framing::Empty {
            wire::media_type(request.header("content-type"))?;
        }
        if request.header("expect").is_some_and(|it| !it.eq_ignore_ascii_case("100-continue")) {
            return Err(bad("The only `expect` taken is `100-continue`."));
        }
        Ok((route, request))
    }

    fn deliver(&self, incoming: &Incoming, shape: &Shape, acted: bool, answer: Answer) -> Next {
        let (stream, stats) = (&self.connection.stream, &self.shared.server.stats);
        let delivered = match answer {
            Answer::Json { status, data } => {
                let bytes = response::success(shape, status, &data);
                drop(data); // the client may take its time with the text
                return self.send_whole(shape, acted, status, &bytes);
            }
            Answer::Text { status, content_type, body } => {
                let bytes = response::whole(shape, status, content_type, &[], body.as_bytes());
                return self.send_whole(shape, acted, status, &bytes);
            }
            Answer::Stream { status, headers, run } => {
                // the end of a 1.0 body is the end of the connection
                let shape = Shape { keep: shape.keep && shape.minor == 1, ..shape.clone() };
                self.count(&shape, status);
                let _open = Counted::new(&stats.streams);
                self.send(&response::stream_head(&shape, status, &headers))
                    && (shape.head || self.stream(&shape, run))
                    && shape.keep
            }
            Answer::Upgrade(run) => {
                let leftover = incoming.rest().to_vec();
                let socket =
                    Socket { stream: stream.clone(), leftover, limits: self.shared.server.limits.clone() };
                self.count(shape, 101);
                let _open = Counted::new(&stats.upgraded);
                let _ = caught(&shape.id, || run(socket));
                false
            }
        };
        if delivered && shape.keep { Next::Keep } else { Next::Close }
    }

    /// Sends an answer that is in memory; large ones count, since a client need not take them. One who has `acted` is told
    /// in any case: refused now, the caller would have it done again.
    fn send_whole(&self, shape: &Shape, acted: bool, status: u16, bytes: &[u8]) -> Next {
        let mut held = Held::none(&self.shared.server.stats.answers);
        if bytes.len() > COUNTED_ANSWER_BYTES
            && let Err(error) =
                held.grow(bytes.len(), self.shared.server.limits.answers_bytes, "large answers")
            && !acted
        {
            return self.fail(shape, &error);
        }
        self.count(shape, status);
        if self.send(bytes) && shape.keep { Next::Keep } else { Next::Close }
    }

    fn stream(&self, shape: &Shape, run: Run) -> bool {
        let mut writer = Writer::new(self.connection.stream.clone(), shape);
        let ran = caught(&shape.id, || run(&mut writer));
        matches!(ran, Ok(Ok(()))) && writer.finish().is_ok()
    }

    fn fail(&self, shape: &Shape, error: &Error) -> Next {
        if error.code.status >= 500 && error.cause.is_some() {
            let fields = [("status", error.code.status.into()), ("code", error.code.name.as_ref().into())];
            trace::write(Level::Error, Some(&shape.id), format_args!("{error}"), &fields);
        }
        self.count(shape, error.code.status);
        match self.send(&response::failure(shape, error)) {
            true if shape.keep => Next::Keep,
            true => Next::Linger,
            false => Next::Close,
        }
    }

    /// An answer with this status is about to go out. A line for each is for developers: nobody rotates stderr, and metrics
    /// count them all.
    fn count(&self, shape: &Shape, status: u16) {
        let took = self.begun.get().elapsed();
        self.shared.server.stats.answered(self.row.get(), status, took);
        if let Some((method, path)) = self.asked.take() {
            let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let fields = [
                ("method", method.into()),
                ("path", path.into()), // without its query, which is the caller's own
                ("status", status.into()),
                ("duration_ms", duration_ms.into()),
            ];
            trace::write(Level::Debug, Some(&shape.id), format_args!("request"), &fields);
        }
    }

    fn send(&self, bytes: &[u8]) -> bool {
        (&*self.connection.stream).write_all(bytes).is_ok()
    }
}

/// One more, as long as this lives.
struct Counted<'a>(&'a AtomicUsize);

impl Counted<'_> {
    fn new(count: &AtomicUsize) -> Counted<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs what a handler gave; a panic is a logged 500 and costs nobody else anything.
fn caught<T>(id: &str, run: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        trace::error(Some(id), format_args!("a request panicked: {text}"));
        Error::new(INTERNAL_ERROR, "The request failed by a fault of ours; the log says which.")
    })
}
