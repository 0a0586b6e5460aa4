//! A server that answers what a test tells it to: a page of another origin, or a daemon that says odd things.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};

/// Content type and policy of a page without an origin.
const SANDBOXED: &str =
    "text/html; charset=utf-8\r\ncontent-security-policy: sandbox allow-scripts allow-forms";

/// What is answered to one path.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A page.
    Html(String),
    /// A page that its own server has taken its origin from, so that it says `null`.
    Sandboxed(String),
    /// `data` in the envelope of success.
    Data(Value),
    /// Server-sent events.
    Events(String),
    /// The envelope of failure, with this status.
    Failure(u16),
    /// Nothing, ever: the connection stays open.
    Silence,
}

/// The running server; it lives as long as the test program.
pub struct Stub {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    /// Starts it on a free port of 127.0.0.1; `reply` is given path and query.
    #[track_caller]
    pub fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("no port: {error}"));
        let port = listener.local_addr().map_or(0, |address| address.port());
        let (asked, reply) = (Arc::new(Mutex::new(Vec::new())), Arc::new(reply));
        let kept = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, reply) = (Arc::clone(&kept), Arc::clone(&reply));
                thread::spawn(move || drop(serve(stream, &asked, &*reply)));
            }
        });
        Stub { port, asked }
    }

    /// Its base by its address.
    pub fn url(&self) -> String {
        self.by_name("127.0.0.1")
    }

    /// Its base by this name.
    pub fn by_name(&self, name: &str) -> String {
        format!("http://{name}:{}", self.port)
    }

    /// The paths that it was asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(
    stream: TcpStream,
    asked: &Mutex<Vec<String>>,
    reply: &dyn Fn(&str) -> Reply,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = first.split(' ').nth(1).unwrap_or_default();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
    let (status, kind, body) = match reply(path) {
        Reply::Html(page) => (200, "text/html; charset=utf-8", page),
        Reply::Sandboxed(page) => (200, SANDBOXED, page),
        Reply::Events(text) => (200, "text/event-stream", text),
        Reply::Data(data) => (200, "application/json", json!({"ok": true, "data": data}).to_string()),
        Reply::Failure(status) => {
            let body = json!({"ok": false, "error": "stub", "message": "The stub says no."});
            (status, "application/json", body.to_string())
        }
        Reply::Silence => {
            thread::park(); // to the end of the test program
            return Ok(());
        }
    };
    let length = body.len();
    write!(
        &stream,
        "HTTP/1.1 {status} Stub\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}
