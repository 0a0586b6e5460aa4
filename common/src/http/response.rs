//! From an `Answer` to bytes: envelopes, heads, chunks.
//!
//! A whole answer is one buffer and one write. Owns the form of every envelope and the rule that no header value ever
//! carries a line end. Knows nothing of requests beyond what shapes their answer.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use super::{Client, Limits};
use crate::error::UPGRADE_REQUIRED;
use crate::{Error, trace};

/// What a handler gives back.
pub enum Answer {
    /// `data` in the success envelope.
    Json {
        /// 2xx.
        status: u16,
        /// What stands under `data`.
        data: Value,
    },
    /// A whole body of any other type: probes, metrics, a page, a document without envelope.
    Text {
        /// Any but 1xx, 204 and 304.
        status: u16,
        /// With its charset.
        content_type: &'static str,
        /// The body.
        body: String,
    },
    /// A body that is written as it comes; the connection's thread runs `run` and ends with it.
    Stream {
        /// Any but 1xx, 204 and 304.
        status: u16,
        /// Beside date, request id and framing.
        headers: Vec<(&'static str, String)>,
        /// Writes the body; an error closes the connection without the end of the body.
        run: Run,
    },
    /// The socket itself: `run` sends the head of the answer and everything after it, and closes by returning.
    Upgrade(Box<dyn FnOnce(Socket) + Send>),
}

/// What writes the body of a stream.
pub type Run = Box<dyn FnOnce(&mut Writer) -> io::Result<()> + Send>;

/// A connection that has left HTTP.
pub struct Socket {
    /// Both directions: `&TcpStream` reads and writes. A write fails after `limits.progress` without progress.
    pub stream: Arc<TcpStream>,
    /// What the client sent right behind the head.
    pub leftover: Vec<u8>,
    /// The server's bounds.
    pub limits: Limits,
}

/// How keys of envelopes are spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `requestId`: codexd.
    Camel,
    /// `request_id`: conductor.
    Snake,
}

impl Style {
    pub(crate) fn request_id(self) -> &'static str {
        match self {
            Style::Camel => "requestId",
            Style::Snake => "request_id",
        }
    }
}

/// What of a request shapes its answer.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// 0 or 1 of `HTTP/1.x`.
    pub(super) minor: u8,
    /// The client wants no body.
    pub(super) head: bool,
    /// The connection lives on.
    pub(super) keep: bool,
    pub(super) id: String,
    pub(super) style: Style,
}

const JSON: &str = "application/json; charset=utf-8";

/// A whole answer with `data` in the success envelope.
pub(super) fn success(shape: &Shape, status: u16, data: &Value) -> Vec<u8> {
    whole(shape, status, JSON, &[], &render(&Envelope { shape, content: Ok(data) }))
}

/// A whole answer with the failure envelope.
pub(super) fn failure(shape: &Shape, error: &Error) -> Vec<u8> {
    let body = render(&Envelope { shape, content: Err(error) });
    let mut bytes = whole(shape, error.code.status, JSON, &error.headers, &body);
    if error.code == UPGRADE_REQUIRED {
        splice(&mut bytes, "Upgrade: websocket\r\n");
    }
    bytes
}

/// A whole answer.
pub(super) fn whole(
    shape: &Shape,
    status: u16,
    content_type: &str,
    headers: &[(&'static str, String)],
    body: &[u8],
) -> Vec<u8> {
    let length = body.len();
    let response = response(shape, status, headers, body, Some(length));
    print(shape, with(response, "Content-Type", content_type), shape.head, length)
}

/// The head of a stream; its body is chunked, or ends with the connection in HTTP/1.0.
pub(super) fn stream_head(shape: &Shape, status: u16, headers: &[(&'static str, String)]) -> Vec<u8> {
    let response = response(shape, status, headers, io::empty(), None);
    // printed as 1.1, since tiny_http would measure a 1.0 body by reading it
    let mut bytes = print(&Shape { minor: 1, ..shape.clone() }, response, true, 0);
    if shape.minor == 0 {
        cut(&mut bytes, b"Transfer-Encoding: chunked\r\n");
    }
    bytes
}

fn response<R: io::Read>(
    shape: &Shape,
    status: u16,
    headers: &[(&'static str, String)],
    body: R,
    length: Option<usize>,
) -> Response<R> {
    let response = Response::new(StatusCode(status), Vec::new(), body, length, None);
    let response = with(response.with_chunked_threshold(usize::MAX), "Server", "baa");
    let response = with(response, "X-Request-Id", &shape.id);
    headers.iter().fold(response, |response, (name, value)| with(response, name, value))
}

/// The response with one more header, unless its value could break out of its line.
fn with<R: io::Read>(response: Response<R>, name: &str, value: &str) -> Response<R> {
    let broken = |b: u8| b == b'\r' || b == b'\n' || b == 0;
    match Header::from_bytes(name, value) {
        Ok(header) if !value.bytes().any(broken) && !name.bytes().any(broken) => response.with_header(header),
        _ => {
            trace::warn(None, format_args!("header `{name}` is left out: its value cannot be sent"));
            response
        }
    }
}

fn print<R: io::Read>(shape: &Shape, response: Response<R>, head: bool, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512 + length);
    let version = HTTPVersion(1, shape.minor);
    // no request headers: a client's `TE` would choose the coding. Writing to a Vec cannot fail.
    if let Err(error) = response.raw_print(&mut bytes, version, &[], head, None) {
        trace::error(Some(&shape.id), format_args!("an answer could not be printed: {error}"));
    }
    let connection = match (shape.keep, shape.minor) {
        (false, _) => "Connection: close\r\n",
        (true, 0) => "Connection: keep-alive\r\n",
        (true, _) => "",
    };
    splice(&mut bytes, connection);
    bytes
}

/// Puts a line behind the status line: for headers that tiny_http drops.
fn splice(bytes: &mut Vec<u8>, line: &str) {
    if let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        bytes.splice(end + 2..end + 2, line.bytes());
    }
}

fn cut(bytes: &mut Vec<u8>, line: &[u8]) {
    if let Some(at) = bytes.windows(line.len()).position(|window| window == line) {
        bytes.drain(at..at + line.len());
    }
}

struct Envelope<'a> {
    shape: &'a Shape,
    content: Result<&'a Value, &'a Error>,
}

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ok", &self.content.is_ok())?;
        match self.content {
            Ok(data) => map.serialize_entry("data", data)?,
            Err(error) => {
                map.serialize_entry("error", &error.code.name)?;
                map.serialize_entry("message", &error.message)?;
                if let Some(details) = &error.details {
                    map.serialize_entry("details", details)?;
                }
            }
        }
        map.serialize_entry(self.shape.style.request_id(), &self.shape.id)?;
        map.end()
    }
}

fn render(envelope: &Envelope) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(envelope).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The body of a stream: each `write` goes out at once, as one chunk.
///
/// A client that takes no byte for `Limits::progress` fails the write.
pub struct Writer {
    stream: Arc<TcpStream>,
    chunked: bool,
}

impl Writer {
    pub(super) fn new(stream: Arc<TcpStream>, shape: &Shape) -> Writer {
        Writer { stream, chunked: shape.minor == 1 }
    }

    /// Who reads it.
    pub fn client(&self) -> Client {
        Client(self.stream.clone())
    }

    /// The end of the body; without it the client knows that something is missing.
    pub(super) fn finish(self) -> io::Result<()> {
        if self.chunked { (&*self.stream).write_all(b"0\r\n\r\n") } else { Ok(()) }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stream = &*self.stream;
        if bytes.is_empty() {
            return Ok(0); // a chunk of no bytes would end the body
        }
        if self.chunked {
            let mut chunk = Vec::with_capacity(bytes.len() + 12);
            write!(chunk, "{:x}\r\n", bytes.len())?;
            chunk.extend_from_slice(bytes);
            chunk.extend_from_slice(b"\r\n");
            stream.write_all(&chunk)?;
        } else {
            stream.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
