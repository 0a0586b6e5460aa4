//! A server with a route for each thing that is tested, and a client that writes bytes as they are told.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::error::UNAUTHORIZED;
use common::http::{
    Access, Answer, Gate, Kind, Limits, Request, Route, Running, Server, Stats, Style, Writer,
};
use common::{Error, fields};
use serde_json::json;

/// However long a condition may take on a busy machine; a test that gets here has failed.
pub const LONG: Duration = Duration::from_secs(20);

/// What handlers and tests share.
#[derive(Default)]
pub struct State {
    /// `/hold` answers once this is set.
    pub release: Arc<AtomicBool>,
    /// Handlers that run.
    pub running: Arc<AtomicUsize>,
    /// Streams, holds and peers that ended.
    pub ended: Arc<AtomicUsize>,
    /// Messages that a WebSocket source has produced.
    pub produced: Arc<AtomicUsize>,
}

impl State {
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

pub struct Node {
    pub running: Option<Running>,
    pub state: Arc<State>,
    pub stats: Arc<Stats>,
    pub address: SocketAddr,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop(Duration::ZERO);
        }
    }
}

impl Node {
    pub fn start() -> Node {
        Node::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Limits)) -> Node {
        Node::on("127.0.0.1:0", change)
    }

    pub fn on(address: &str, change: impl FnOnce(&mut Limits)) -> Node {
        let mut limits = Limits::default();
        change(&mut limits);
        let (state, stats) = (Arc::new(State::default()), Stats::of(ROUTES));
        let server = Server {
            routes: ROUTES,
            state: state.clone(),
            style: Style::Camel,
            gate: Gate::default(),
            unknown_route: |method, path| format!("Unknown route {method} {path}."),
            authorize,
            limits,
            stats: stats.clone(),
        };
        let running = server.start(TcpListener::bind(address).unwrap()).unwrap();
        Node { address: running.address(), running: Some(running), state, stats }
    }

    pub fn connections(&self) -> usize {
        self.running.as_ref().unwrap().connections()()
    }

    /// The sample of that name and those labels; 0 if there is none.
    pub fn sample(&self, name: &str) -> f64 {
        let Answer::Text { body, .. } = self.stats.answer("test", "1", |_| ()) else { panic!("no text") };
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, raw: &str) -> Reply {
        let mut client = self.client();
        client.send(raw);
        client.reply()
    }

    /// The node still serves.
    pub fn assert_healthy(&self) {
        assert_eq!(self.ask(&get("/probe")).body, "ok\n");
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

pub fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Waits for a condition; panics if it does not come.
pub fn wait(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub struct Client {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The error code of the envelope.
    pub fn code(&self) -> String {
        self.json()["error"].as_str().unwrap_or("none").to_string()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub fn shut_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut part = [0; 65536];
        let read = self.stream.read(&mut part)?;
        self.buffer.extend_from_slice(&part[..read]);
        Ok(read)
    }

    /// The next head, interim ones too.
    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|it| it == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert_ne!(self.more().unwrap(), 0, "closed before an answer: {:?}", self.buffer);
        }
    }

    /// The next answer, whole.
    pub fn reply(&mut self) -> Reply {
        let reply = self.reply_to_head();
        let length: usize = match reply.header("content-length") {
            Some(length) => length.parse().unwrap(),
            None if reply.header("transfer-encoding") == Some("chunked") => {
                let body = self.chunks().concat();
                return Reply { body, ..reply };
            }
            None => {
                while self.more().unwrap() > 0 {}
                self.buffer.len()
            }
        };
        while self.buffer.len() < length {
            assert_ne!(self.more().unwrap(), 0, "closed within a body of {length}");
        }
        let body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        Reply { body, ..reply }
    }

    /// The answer to a HEAD.
    pub fn reply_to_head(&mut self) -> Reply {
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: String::new() }
    }

    /// The chunks of a body, to its proper end.
    pub fn chunks(&mut self) -> Vec<String> {
        let mut chunks = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line().unwrap(), 16).unwrap();
            while self.buffer.len() < size + 2 {
                assert_ne!(self.more().unwrap(), 0, "closed within a chunk");
            }
            let chunk: Vec<u8> = self.buffer.drain(..size + 2).collect();
            assert!(chunk.ends_with(b"\r\n"));
            if size == 0 {
                return chunks;
            }
            chunks.push(String::from_utf8(chunk[..size].to_vec()).unwrap());
        }
    }

    /// A line, or `None` at the end of the stream.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|it| it == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            if self.more().unwrap() == 0 {
                return None;
            }
        }
    }

    /// Asserts that the server closes, and sends nothing more before.
    pub fn assert_closed(&mut self) {
        let read = self.more();
        assert!(
            matches!(&read, Ok(0))
                || read.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset),
            "not closed: {read:?} {:?}",
            String::from_utf8_lossy(&self.buffer)
        );
        assert_eq!(String::from_utf8_lossy(&self.buffer), "");
    }
}

fn authorize(_: &State, route: &Route<State>, request: &Request) -> Result<(), Error> {
    if route.access == Access::Token && request.header("authorization") != Some("Bearer secret") {
        return Err(Error::new(UNAUTHORIZED, "No token."));
    }
    Ok(())
}

const ROUTE: Route<State> = Route::read("", "/", "For a test.", |_, _| Ok(text("ok\n")));
const POST: Route<State> = Route::write("", "/", "For a test.", &[], body);

pub static ROUTES: &[Route<State>] = &[
    Route { id: "probe", path: "/probe", kind: Kind::Probe, ..ROUTE },
    Route {
        id: "echo",
        path: "/echo",
        query: fields![optional "limit": integer(1, 10), "A limit.";],
        handler: echo,
        ..ROUTE
    },
    Route { id: "item", path: "/items/:id", handler: echo, ..ROUTE },
    Route { id: "body", path: "/body", ..POST },
    Route { id: "secret", path: "/secret", access: Access::Token, ..POST },
    Route { id: "large", path: "/large/:bytes", handler: large, ..ROUTE },
    Route { id: "deed", path: "/deed/:bytes", handler: large, ..POST },
    Route { id: "hold", path: "/hold", handler: hold, ..ROUTE },
    Route { id: "stream", path: "/stream/:count", handler: stream, ..ROUTE },
    Route { id: "broken", path: "/broken", handler: broken, ..ROUTE },
    Route { id: "endless", path: "/endless", handler: endless, ..ROUTE },
    Route { id: "panic", path: "/panic", handler: |_, _| panic!("as told"), ..ROUTE },
    Route { id: "inject", path: "/inject", handler: inject, ..ROUTE },
    Route { id: "ws.echo", path: "/ws/echo", handler: crate::websocket::echo, ..ROUTE },
    Route { id: "ws.send", path: "/ws/send/:count", handler: crate::websocket::send, ..ROUTE },
    Route { id: "ws.close", path: "/ws/close", handler: crate::websocket::close, ..ROUTE },
];

fn text(body: impl Into<String>) -> Answer {
    Answer::Text { status: 200, content_type: "text/plain; charset=utf-8", body: body.into() }
}

fn echo(_: &State, request: &Request) -> Result<Answer, Error> {
    let (path, query, id) = (&request.path, request.query(), request.param("id"));
    let data = json!({ "path": path, "query": query, "id": id, "head": request.head });
    Ok(Answer::Json { status: 200, data })
}

fn body(_: &State, request: &Request) -> Result<Answer, Error> {
    let text = String::from_utf8_lossy(&request.body);
    let data = json!({ "bytes": request.body.len(), "text": text.get(..100).unwrap_or(&text) });
    Ok(Answer::Json { status: 201, data })
}

fn large(_: &State, request: &Request) -> Result<Answer, Error> {
    Ok(text("x".repeat(request.param("bytes").parse().unwrap())))
}

/// Answers when it is released, or ends when nobody waits.
fn hold(state: &State, request: &Request) -> Result<Answer, Error> {
    state.running.fetch_add(1, Ordering::SeqCst);
    while !state.release.load(Ordering::SeqCst) && !request.abandoned() {
        std::thread::sleep(Duration::from_millis(1));
    }
    state.ended.fetch_add(1, Ordering::SeqCst);
    Ok(text("held\n"))
}

fn events(run: impl FnOnce(&mut Writer) -> io::Result<()> + Send + 'static) -> Result<Answer, Error> {
    let headers = vec![("Content-Type", "text/event-stream".to_string())];
    Ok(Answer::Stream { status: 200, headers, run: Box::new(run) })
}

fn stream(_: &State, request: &Request) -> Result<Answer, Error> {
    let count: usize = request.param("count").parse().unwrap();
    events(move |writer| (0..count).try_for_each(|i| writer.write_all(format!("data: {i}\n\n").as_bytes())))
}

fn broken(_: &State, _: &Request) -> Result<Answer, Error> {
    events(|writer| {
        writer.write_all(b"data: 1\n\n")?;
        Err(io::ErrorKind::Other.into())
    })
}

/// Writes until it cannot, then says so.
fn endless(state: &State, _: &Request) -> Result<Answer, Error> {
    let ended = state.ended.clone();
    events(move |writer| {
        let error = loop {
            if let Err(error) = writer.write_all(&[b'x'; 4096]) {
                break error;
            }
        };
        ended.fetch_add(1, Ordering::SeqCst);
        Err(error)
    })
}

fn inject(_: &State, _: &Request) -> Result<Answer, Error> {
    let error = Error::new(UNAUTHORIZED, "a\r\nb");
    Err(error.header("X-Evil", "a\r\nSet-Cookie: b").header("X-Nul", "a\0b").header("X-Good", "fine"))
}
