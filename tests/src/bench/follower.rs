//! A reader of events that costs little, so that 64 of them leave the machine to the daemon that is measured: it copies each
//! event once and parses none. It holds the daemon to its word, too: each number follows the one before.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::log::{Seq, seq_of};

use crate::http::split;
use crate::wait::SOON;

/// What a busy reader reads at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// What the fake notes on each of its items.
const SENT: &[u8] = br#""sentAtNs":"#;
/// A pong without a payload, masked as a client's frames are.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

/// In which form the events come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// One text message each.
    WebSocket,
    /// One block of `id:` and `data:` each.
    Sse,
}

/// An open stream of events.
pub struct Follower {
    source: Source,
    line: Vec<u8>,
    /// The last number that came; none before the first.
    pub last: Option<Seq>,
}

enum Source {
    WebSocket(BufReader<TcpStream>),
    Sse(BufReader<Chunks>),
}

impl Follower {
    /// Follows the events at this URL, from after an event or from now on; returns once the daemon has taken it. Panics if
    /// it does not.
    #[track_caller]
    pub fn open(events: &str, after: Option<Seq>, form: Form) -> Follower {
        let opened = open(events, after, form).and_then(|source| {
            let mut follower = Follower { source, line: Vec::new(), last: after };
            follower.read()?;
            Ok(follower)
        });
        let follower = opened.unwrap_or_else(|error| panic!("{events}: {error}"));
        let hello = String::from_utf8_lossy(&follower.line);
        assert!(hello.contains("stream.hello"), "{hello}");
        follower
    }

    /// The next event, as its line in the log. Panics when none comes, or another than the one that follows.
    #[track_caller]
    pub fn next_event(&mut self) -> &[u8] {
        let read = self.read();
        read.unwrap_or_else(|error| panic!("no event after {:?}: {error}", self.last));
        let seq = seq_of(&self.line);
        let follows = seq.is_some() && self.last.is_none_or(|last| seq == Some(last + 1));
        assert!(follows, "after {:?}: {}", self.last, String::from_utf8_lossy(&self.line));
        self.last = seq;
        &self.line
    }

    /// Reads the next message or the next `data:` into `line`.
    fn read(&mut self) -> io::Result<()> {
        match &mut self.source {
            Source::WebSocket(stream) => while !read_frame(stream, &mut self.line)? {},
            Source::Sse(chunks) => loop {
                self.line.clear();
                if chunks.read_until(b'\n', &mut self.line)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if self.line.starts_with(b"data: ") {
                    self.line.drain(..6);
                    break;
                }
            },
        }
        Ok(())
    }
}

/// How long ago the fake sent the line that became this event, if it is an item of `[[items]]`.
pub fn age(event: &[u8]) -> Option<Duration> {
    let at = event.windows(SENT.len()).rposition(|part| part == SENT)? + SENT.len();
    let digits = event[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let sent = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(now.saturating_sub(Duration::from_nanos(sent)))
}

fn open(events: &str, after: Option<Seq>, form: Form) -> io::Result<Source> {
    let (host, path) = split(events);
    let query = after.map_or(String::new(), |after| format!("?after={after}"));
    let wanted = match form {
        Form::WebSocket => {
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        }
        Form::Sse => "accept: text/event-stream\r\n",
    };
    let mut stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(format!("GET {path}{query} HTTP/1.1\r\nhost: {host}\r\n{wanted}\r\n").as_bytes())?;
    let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let (status, source) = match form {
        Form::WebSocket => ("HTTP/1.1 101 ", Source::WebSocket(stream)),
        Form::Sse => {
            let chunks = Chunks { stream, left: 0 };
            ("HTTP/1.1 200 ", Source::Sse(BufReader::with_capacity(BUFFER_BYTES, chunks)))
        }
    };
    if head.starts_with(status) { Ok(source) } else { Err(io::Error::other(head)) }
}

/// Reads one frame; whether it was a text. A ping is answered.
fn read_frame(stream: &mut BufReader<TcpStream>, payload: &mut Vec<u8>) -> io::Result<bool> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            u16::from_be_bytes(length).into()
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        }
        length => length.into(),
    };
    payload.resize(length as usize, 0);
    stream.read_exact(payload)?;
    match head[0] {
        0x81 => Ok(true),
        0x89 => stream.get_mut().write_all(&PONG).map(|()| false),
        other => Err(io::Error::other(format!("a frame {other:#x}: {}", String::from_utf8_lossy(payload)))),
    }
}

/// A chunked body, without its framing.
struct Chunks {
    stream: BufReader<TcpStream>,
    left: usize,
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let mut head = String::new();
            if self.stream.read_line(&mut head)? == 0 {
                return Ok(0);
            }
            match head.trim_end() {
                "" => {} // what ends the chunk before
                "0" => return Ok(0),
                length => self.left = usize::from_str_radix(length, 16).map_err(io::Error::other)?,
            }
        }
        let most = self.left.min(into.len());
        let read = self.stream.read(&mut into[..most])?;
        self.left -= read;
        Ok(read)
    }
}
