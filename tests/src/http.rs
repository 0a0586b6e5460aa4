//! A plain HTTP/1.1 client, strict about nothing: one connection for each request, so that tests see what the server
//! did and not what a pool made of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A client waits so long for each byte; longer than any deadline of the daemons for an answer.
const PATIENCE: Duration = Duration::from_secs(40);

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, values trimmed, in order.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name (given in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics if it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// `data` of a success envelope with this status; panics on anything else.
    #[track_caller]
    pub fn data(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let mut body = self.json();
        assert_eq!(body["ok"], true, "{body}");
        body["data"].take()
    }

    /// The failure envelope with this status and code; panics on anything else.
    #[track_caller]
    pub fn failure(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!((self.status, body["error"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(body["ok"], false, "{body}");
        body
    }
}

/// `GET url`.
#[track_caller]
pub fn get(url: &str) -> Response {
    request("GET", url, &[], b"")
}

/// `POST url` with a JSON body.
#[track_caller]
pub fn post(url: &str, body: &Value) -> Response {
    request("POST", url, &[("content-type", "application/json")], body.to_string().as_bytes())
}

/// The number that `GET /metrics` of the daemon at `base` shows for a sample (`name`, or `name{label="value"}`); none if it
/// shows no such sample.
#[track_caller]
pub fn metric(base: &str, sample: &str) -> Option<f64> {
    let page = get(&format!("{base}/metrics"));
    assert_eq!(page.status, 200, "{}", page.text());
    let text = page.text();
    let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(value.parse().unwrap_or_else(|error| panic!("no number ({error}): {sample} {value}")))
}

/// Any request; panics if there is no whole answer.
#[track_caller]
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    try_request(method, url, headers, body).unwrap_or_else(|error| panic!("{method} {url}: {error}"))
}

/// Any request.
///
/// # Errors
/// Connection refused or broken, no answer in time, or an answer that is no HTTP.
pub fn try_request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
    let mut stream = send(method, url, headers, body)?;
    let (status, headers) = read_head(&mut stream)?;
    let mut body = Vec::new();
    if method != "HEAD" {
        read_body(&mut stream, &headers, &mut body)?;
    }
    Ok(Response { status, headers, body })
}

/// Sends a `GET` and waits for nothing; the connection lasts as long as what it gives back. Panics if nobody listens.
#[track_caller]
pub fn send_only(url: &str) -> impl Sized + use<> {
    send("GET", url, &[], b"").unwrap_or_else(|error| panic!("GET {url}: {error}"))
}

/// Sends these bytes and reads until the server closes; panics if nobody listens.
#[track_caller]
pub fn raw(url: &str, bytes: &[u8]) -> Vec<u8> {
    let (host, _) = split(url);
    let mut stream = connect(host).unwrap_or_else(|error| panic!("{host}: {error}"));
    let _ = stream.write_all(bytes); // it may have answered and closed before the end
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // a reset after the answer is no matter here
    answer
}

/// Sends these bytes and reads the head of the answer, then closes; panics if nobody listens or no head comes.
#[track_caller]
pub fn raw_head(url: &str, bytes: &[u8]) -> String {
    let (host, _) = split(url);
    let mut stream = connect(host).unwrap_or_else(|error| panic!("{host}: {error}"));
    let (mut head, mut byte) = (Vec::new(), [0]);
    let _ = stream.write_all(bytes); // it may have answered and closed before the end
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{host}: no head: {error}"));
        head.extend(byte);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A connection that stays open from one request to the next.
pub struct KeptAlive(BufReader<TcpStream>);

impl KeptAlive {
    /// Connects to `http://HOST`.
    ///
    /// # Errors
    /// Nobody listens, or nobody accepts.
    pub fn open(url: &str) -> io::Result<KeptAlive> {
        connect(split(url).0).map(BufReader::new).map(KeptAlive)
    }

    /// Sends a `GET` with this request id, and does not wait for its answer.
    ///
    /// # Errors
    /// The server has closed.
    pub fn ask(&mut self, path: &str, id: &str) -> io::Result<()> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-request-id: {id}\r\n\r\n");
        self.0.get_mut().write_all(head.as_bytes())
    }

    /// Sends a `GET`, and waits for its answer.
    ///
    /// # Errors
    /// As of [`answer`](KeptAlive::answer).
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.ask(path, "get")?;
        self.answer()
    }

    /// Sends a `POST` with this JSON body, and waits for its answer.
    ///
    /// # Errors
    /// As of [`answer`](KeptAlive::answer).
    pub fn post(&mut self, path: &str, body: &str) -> io::Result<Response> {
        self.send("POST", path, &[], body.as_bytes())
    }

    /// Sends a request with a JSON body, and waits for its answer.
    ///
    /// # Errors
    /// As of [`answer`](KeptAlive::answer).
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        self.0.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        self.answer()
    }

    /// The answer to the oldest request that has none yet.
    ///
    /// # Errors
    /// The server has closed, or does not answer in time, or not in HTTP.
    pub fn answer(&mut self) -> io::Result<Response> {
        let (status, headers) = read_head(&mut self.0)?;
        let mut body = Vec::new();
        read_body(&mut self.0, &headers, &mut body)?;
        Ok(Response { status, headers, body })
    }
}

/// One block of an event stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// `id:`.
    pub id: Option<String>,
    /// `event:`.
    pub event: Option<String>,
    /// The `data:` lines.
    pub data: String,
    /// Whether it was a comment alone.
    pub comment: bool,
}

impl Block {
    /// `data:` as JSON; panics if it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.data))
    }
}

/// An open event stream.
pub struct Events {
    /// The status code; other than 200 there are no blocks.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    source: Body,
}

impl Events {
    /// Opens it by any request; `accept: text/event-stream` is added. Panics if nobody answers.
    #[track_caller]
    pub fn open(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Events {
        let opened = Events::try_open(method, url, headers, body);
        opened.unwrap_or_else(|error| panic!("{method} {url}: {error}"))
    }

    /// The same with a server that may be gone at any moment.
    ///
    /// # Errors
    /// Connection refused or broken, no answer in time, or an answer that is no HTTP.
    pub fn try_open(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Events> {
        let headers = [&[("accept", "text/event-stream")], headers].concat();
        send(method, url, &headers, body).and_then(|mut stream| {
            let (status, headers) = read_head(&mut stream)?;
            Ok(Events { status, source: Body::new(stream, &headers), headers })
        })
    }

    /// The next block, comments too; `None` at the end. Panics when none comes within 40 s.
    #[track_caller]
    pub fn next_block(&mut self) -> Option<Block> {
        self.try_next_block().unwrap_or_else(|error| panic!("event stream: {error}"))
    }

    /// The same with a server that may be gone at any moment.
    ///
    /// # Errors
    /// The connection broke, or nothing came within 40 s.
    pub fn try_next_block(&mut self) -> io::Result<Option<Block>> {
        let mut block = Block::default();
        let mut any = false;
        loop {
            let Some(line) = self.source.line()? else { return Ok(None) };
            if line.is_empty() && any {
                return Ok(Some(block));
            }
            any |= !line.is_empty();
            match line.split_once(':').map(|(name, value)| (name, value.strip_prefix(' ').unwrap_or(value))) {
                Some(("", _)) => block.comment = true,
                Some(("id", value)) => block.id = Some(value.to_owned()),
                Some(("event", value)) => block.event = Some(value.to_owned()),
                Some(("data", value)) => block.data += value,
                _ => {}
            }
        }
    }

    /// The next block with data; `None` at the end.
    #[track_caller]
    pub fn next_data(&mut self) -> Option<Block> {
        loop {
            let block = self.next_block()?;
            if !block.comment {
                return Some(block);
            }
        }
    }
}

fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<BufReader<TcpStream>> {
    let (host, path) = split(url);
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if method == "POST" || !body.is_empty() {
        head += &format!("content-length: {}\r\n", body.len());
    }
    let mut stream = connect(host)?;
    stream.write_all(&[head.as_bytes(), b"\r\n", body].concat())?;
    Ok(BufReader::new(stream))
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// `127.0.0.1:1`, `/path?query`.
pub(crate) fn split(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

fn read_head(stream: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let first = read_line(stream)?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no status line: {first}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        match line.split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Ok((status, headers)),
        }
    }
}

fn read_body(
    stream: &mut BufReader<TcpStream>,
    headers: &[(String, String)],
    body: &mut Vec<u8>,
) -> io::Result<()> {
    if find(headers, "transfer-encoding").is_some() {
        while let Some(length) = read_chunk_head(stream)? {
            let before = body.len();
            body.resize(before + length, 0);
            stream.read_exact(&mut body[before..])?;
            read_line(stream)?;
        }
        return Ok(());
    }
    if let Some(length) = find(headers, "content-length").and_then(|value| value.parse().ok()) {
        body.resize(length, 0);
        return stream.read_exact(body);
    }
    stream.read_to_end(body).map(drop)
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The length of the next chunk; the last one and the trailer are `None`.
fn read_chunk_head(stream: &mut impl BufRead) -> io::Result<Option<usize>> {
    let line = read_line(stream)?;
    let length = usize::from_str_radix(line.trim(), 16);
    let length =
        length.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("no chunk: {line}")))?;
    if length > 0 {
        return Ok(Some(length));
    }
    while !read_line(stream)?.is_empty() {}
    Ok(None)
}

/// A body read line by line as it comes.
struct Body {
    stream: BufReader<TcpStream>,
    chunked: bool,
    pending: Vec<u8>,
    ended: bool,
}

impl Body {
    fn new(stream: BufReader<TcpStream>, headers: &[(String, String)]) -> Body {
        let chunked = find(headers, "transfer-encoding").is_some();
        Body { stream, chunked, pending: Vec::new(), ended: false }
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.drain(..=at).collect::<Vec<_>>();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()));
            }
            if self.ended {
                return Ok(None);
            }
            if Instant::now() > end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> io::Result<()> {
        if !self.chunked {
            let read = self.stream.read_until(b'\n', &mut self.pending)?;
            self.ended = read == 0;
            return Ok(());
        }
        let Some(length) = read_chunk_head(&mut self.stream)? else {
            self.ended = true;
            return Ok(());
        };
        let before = self.pending.len();
        self.pending.resize(before + length, 0);
        self.stream.read_exact(&mut self.pending[before..])?;
        read_line(&mut self.stream).map(drop)
    }
}
