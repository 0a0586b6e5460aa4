//! What a request is: the head and what it says, strictly read.
//!
//! Where two parsers could read a message in two ways, it is refused, so a proxy before us never disagrees with us
//! about where a request ends. Knows nothing of reading from sockets, of routes or of answers.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::MAX_HEADERS;
use super::incoming::Held;
use super::route::{Method, decode};
use crate::Error;
use crate::error::{HEADERS_TOO_LARGE, HTTP_VERSION_NOT_SUPPORTED, INVALID_REQUEST, PAYLOAD_TOO_LARGE};
use crate::{sys, wire};

/// Two of these could mean two things to two readers.
const SINGLE: [&str; 8] = [
    "host",
    "content-length",
    "transfer-encoding",
    "content-type",
    "origin",
    "authorization",
    "expect",
    "idempotency-key",
];

/// A complete request: head parsed, parameters and query decoded, body read.
pub struct Request {
    /// The route's method; `HEAD` arrives as `Get` with `head` set.
    pub method: Method,
    /// The client wants no body.
    pub head: bool,
    /// The path as it was sent, without the query.
    pub path: String,
    /// The request id, for the log and for calls upstream.
    pub id: String,
    /// Who asks.
    pub peer: SocketAddr,
    /// The whole body, decoded from chunks.
    pub body: Vec<u8>,
    pub(super) minor: u8,
    pub(super) headers: Vec<(String, String)>,
    pub(super) query: Vec<(String, String)>,
    pub(super) params: Vec<(&'static str, String)>,
    pub(super) stream: Arc<TcpStream>,
    pub(super) held: Held,
}

impl Request {
    /// The first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Every header in the order it came, for those who pass a request on.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// Whether an `Accept` header names this media type itself; `*/*` is not enough.
    pub fn accepts(&self, media: &str) -> bool {
        let essence =
            |item: &str| item.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media);
        self.headers
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case("accept") && value.split(',').any(essence))
    }

    /// The query string, decoded, in its order.
    pub fn query(&self) -> &[(String, String)] {
        &self.query
    }

    /// The first value of that name in the query string.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The decoded path parameter of that name; empty if the route has none such.
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    /// 0 or 1 of `HTTP/1.x`.
    pub fn minor_version(&self) -> u8 {
        self.minor
    }

    /// Whether this asks to become a WebSocket.
    pub fn wants_websocket(&self) -> bool {
        self.method == Method::Get && !self.head && has_token(&self.headers, "upgrade", "websocket")
    }

    /// The body as a JSON object; an empty one is an empty object.
    ///
    /// # Errors
    /// `unsupported_media_type`, `invalid_json`.
    pub fn object(&self) -> Result<wire::Object, Error> {
        wire::object(&self.body, self.header("content-type"))
    }

    /// Whether the client has left. For handlers that work long for one client and should stop when nobody waits.
    pub fn abandoned(&self) -> bool {
        sys::has_left(&self.stream)
    }

    /// Who asked, for those who work for them when the request is gone.
    pub fn client(&self) -> Client {
        Client(self.stream.clone())
    }
}

/// The client of a request.
#[derive(Clone)]
pub struct Client(pub(super) Arc<TcpStream>);

impl Client {
    /// Whether it is gone, or has at least closed its sending half. One that has sent more than its request is taken to
    /// be there.
    pub fn has_left(&self) -> bool {
        sys::has_left(&self.0)
    }
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    Length(usize),
    Chunked,
}

/// A head that parsed; `framing` says whether it makes sense.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: String,
    /// The path as it was sent.
    pub(super) path: String,
    pub(super) query: String,
    /// 0 or 1 of `HTTP/1.x`.
    pub(super) minor: u8,
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    /// Reads the bytes up to and including the empty line.
    ///
    /// # Errors
    /// `http_version_not_supported`, `headers_too_large`, `invalid_request`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Head, Error> {
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut slots);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(bad("The head of the request ends in the middle.")),
            Err(httparse::Error::TooManyHeaders) => {
                let message = format!("The request has more than {MAX_HEADERS} headers.");
                return Err(Error::new(HEADERS_TOO_LARGE, message));
            }
            Err(httparse::Error::Version) => {
                return Err(Error::new(
                    HTTP_VERSION_NOT_SUPPORTED,
                    "Only HTTP/1.1 and HTTP/1.0 are spoken here.",
                ));
            }
            Err(error) => return Err(bad(format!("The head of the request cannot be parsed: {error}."))),
        }
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(bad("The request line is incomplete."));
        };
        if !target.starts_with('/') {
            return Err(bad("The request target must be a path."));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = parsed.headers.iter().map(|header| match str::from_utf8(header.value) {
            Ok(value) => Ok((header.name.to_string(), value.to_string())),
            Err(_) => Err(bad(format!("Header `{}` is not UTF-8.", header.name))),
        });
        Ok(Head {
            method: method.to_string(),
            path: path.to_string(),
            query: query.to_string(),
            minor,
            headers: headers.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Where the body ends, if that is beyond doubt.
    ///
    /// # Errors
    /// `invalid_request`; `payload_too_large` for a length over `body_bytes`.
    pub(super) fn framing(&self, body_bytes: usize) -> Result<Framing, Error> {
        for name in SINGLE {
            if self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).count() > 1 {
                return Err(bad(format!("Header `{name}` is there twice.")));
            }
        }
        if self.minor == 1 && self.header("host").is_none() {
            return Err(bad("Header `host` is missing."));
        }
        match (self.header("transfer-encoding"), self.header("content-length")) {
            (None, None) => Ok(Framing::Empty),
            (Some(_), Some(_)) => Err(bad("Both `transfer-encoding` and `content-length` are given.")),
            (Some(_), None) if self.minor == 0 => Err(bad("HTTP/1.0 knows no `transfer-encoding`.")),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            (Some(_), None) => Err(bad("The only `transfer-encoding` taken is `chunked`.")),
            (None, Some(text)) => match length(text) {
                None => Err(bad("Header `content-length` is no length.")),
                Some(0) => Ok(Framing::Empty),
                Some(length) if length <= body_bytes => Ok(Framing::Length(length)),
                Some(_) => Err(too_large(body_bytes)),
            },
        }
    }

    /// The caller's own id if it is well-formed, else a new one.
    pub(super) fn id(&self) -> String {
        let taken = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        match self.header("x-request-id") {
            Some(id) if (1..=64).contains(&id.len()) && id.bytes().all(taken) => id.to_string(),
            _ => new_request_id(),
        }
    }

    /// Whether the client wants the connection to live on.
    pub(super) fn keeps_alive(&self) -> bool {
        let says = |token| has_token(&self.headers, "connection", token);
        if self.minor == 0 { says("keep-alive") && !says("close") } else { !says("close") }
    }

    /// The query, decoded; `+` is a space.
    ///
    /// # Errors
    /// `invalid_request` for a name or value that is no percent-encoded UTF-8.
    pub(super) fn query(&self) -> Result<Vec<(String, String)>, Error> {
        let part = |raw: &str| {
            decode(&raw.replace('+', " "))
                .ok_or_else(|| bad(format!("The query string is not percent-encoded UTF-8: `{raw}`.")))
        };
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(k, v)| Ok((part(k)?, part(v)?)))
            .collect()
    }
}

/// An id for a request that brought none: unique on this node, short enough to read out.
pub(super) fn new_request_id() -> String {
    static START: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let start = START.get_or_init(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
    });
    format!("req-{start:x}-{:x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Digits alone; anything that overflows is as good as the largest.
fn length(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(usize::MAX))
}

pub(super) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Whether a header that is a list of words has this one.
pub(super) fn has_token(headers: &[(String, String)], name: &str, token: &str) -> bool {
    let mut lists = headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
    lists.any(|(_, list)| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
}

pub(super) fn bad(message: impl Into<String>) -> Error {
    Error::new(INVALID_REQUEST, message)
}

pub(super) fn too_large(most: usize) -> Error {
    Error::new(PAYLOAD_TOO_LARGE, format!("The request body is larger than {most} bytes."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> Head {
        Head::parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn framing_is_beyond_doubt_or_refused() {
        let framing = |lines: &str| head(lines).framing(10).map_err(|error| error.code.status);
        assert_eq!(framing(""), Ok(Framing::Empty));
        assert_eq!(framing("Content-Length: 0\r\n"), Ok(Framing::Empty));
        assert_eq!(framing("content-length: 010\r\n"), Ok(Framing::Length(10)));
        assert_eq!(framing("Content-Length: 11\r\n"), Err(413));
        assert_eq!(framing("Content-Length: 340282366920938463463374607431768211456\r\n"), Err(413));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for lines in [
            "Content-Length: 1,1",
            "Content-Length: +1",
            "Transfer-Encoding: gzip",
            "Host: a",
            "Expect: x\r\nExpect: x",
        ] {
            assert_eq!(framing(&format!("{lines}\r\n")), Err(400), "{lines}");
        }
        assert_eq!(framing("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), Err(400));
    }

    #[test]
    fn ids_of_our_own_are_unique_and_well_formed() {
        let ids: std::collections::BTreeSet<_> = (0..100).map(|_| new_request_id()).collect();
        assert_eq!(ids.len(), 100);
        for id in ids {
            assert_eq!(
                head(&format!("X-Request-Id: {id}\r\n")).id(),
                id,
                "ours would be taken from a caller"
            );
        }
    }

    #[test]
    fn a_query_is_pairs_in_their_order() {
        let query =
            |raw: &str| {
                let raw = format!("GET /?{raw} HTTP/1.1\r\n\r\n");
                Head::parse(raw.as_bytes()).unwrap().query().ok().map(|pairs| {
                    pairs.iter().map(|(key, value)| format!("[{key}][{value}]")).collect::<String>()
                })
            };
        assert_eq!(query("a=1&b=2&a=3").as_deref(), Some("[a][1][b][2][a][3]"));
        assert_eq!(query("a+b=%2B%26&&c&=d&e=f=g?h").as_deref(), Some("[a b][+&][c][][][d][e][f=g?h]"));
        assert_eq!((query("a=%"), query("%f=1"), query("a=%ff")), (None, None, None));
    }
}
