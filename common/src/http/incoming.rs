//! The receiving side of a connection: bytes until a head or a body is complete, within bounds and deadlines.
//!
//! Owns what was read and not yet used, so pipelined requests come in order. Knows nothing of what a head says beyond
//! where it and its body end.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::request::{Framing, Head, bad, too_large};
use super::{Limits, MAX_HEAD_BYTES};
use crate::Error;
use crate::error::{HEADERS_TOO_LARGE, OVERLOADED, REQUEST_TIMEOUT};

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;
/// A chunk's size line with its extensions, which nobody uses.
const MAX_CHUNK_LINE_BYTES: usize = 256;
/// Trailers are read over; nobody sends them.
const MAX_TRAILER_BYTES: usize = 4 * 1024;
/// What a refused client may still send before the socket closes under it.
const MAX_LINGER_BYTES: usize = 4 * 1024 * 1024;

/// Why there is no request.
#[derive(Debug)]
pub(super) enum Refused {
    /// The peer left, or never said a word: nobody to answer.
    Gone,
    /// Answer, then close: what follows on the wire cannot be trusted.
    Answer(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Answer(error)
    }
}

pub(super) struct Incoming {
    stream: Arc<TcpStream>,
    /// Room for what is read; what lies behind `filled` is of no meaning.
    buffer: Vec<u8>,
    used: usize,
    filled: usize,
    /// How long the socket was told to wait.
    patience: Duration,
}

impl Incoming {
    pub(super) fn new(stream: Arc<TcpStream>) -> Incoming {
        Incoming { stream, buffer: Vec::new(), used: 0, filled: 0, patience: Duration::ZERO }
    }

    /// What was read and not yet used.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buffer[self.used..self.filled]
    }

    /// Reads one head: `wait` for its first byte, then `whole` for all of it.
    pub(super) fn head(&mut self, wait: Duration, whole: Duration) -> Result<Head, Refused> {
        if self.rest().is_empty() {
            self.more(Instant::now() + wait).map_err(|_| Refused::Gone)?;
        }
        let deadline = Instant::now() + whole;
        let mut seen = 0;
        loop {
            if let Some(end) = end_of_head(self.rest(), seen)? {
                let head = Head::parse(&self.rest()[..end]);
                self.used += end;
                return Ok(head?);
            }
            seen = self.rest().len();
            self.need("head", deadline)?;
        }
    }

    /// Reads the whole body, which `held` then counts.
    pub(super) fn body(
        &mut self,
        framing: Framing,
        within: Duration,
        limits: &Limits,
        held: &mut Held,
    ) -> Result<Vec<u8>, Refused> {
        let deadline = Instant::now() + within;
        let mut body = Body { bytes: Vec::new(), most: limits.body_bytes, all: limits.bodies_bytes, held };
        match framing {
            Framing::Empty => {}
            Framing::Length(length) => {
                body.most = length;
                self.take(length, &mut body, deadline)?;
            }
            Framing::Chunked => self.chunks(&mut body, deadline)?,
        }
        Ok(body.bytes)
    }

    fn chunks(&mut self, body: &mut Body, deadline: Instant) -> Result<(), Refused> {
        loop {
            match chunk_size(&self.line(MAX_CHUNK_LINE_BYTES, deadline)?) {
                None => return Err(bad("A chunk's size cannot be parsed.").into()),
                Some(0) => break,
                Some(size) if size > body.most - body.bytes.len() => return Err(too_large(body.most).into()),
                Some(size) => self.take(size, body, deadline)?,
            }
            self.line(0, deadline)?;
        }
        let mut left = MAX_TRAILER_BYTES;
        loop {
            match self.line(left, deadline)?.len() {
                0 => return Ok(()),
                length => left -= length,
            }
        }
    }

    /// A line of at most `most` bytes, without its CR LF.
    fn line(&mut self, most: usize, deadline: Instant) -> Result<Vec<u8>, Refused> {
        loop {
            let rest = self.rest();
            if let Some(end) = rest.iter().take(most + 2).position(|b| *b == b'\n') {
                let line =
                    rest[..end].strip_suffix(b"\r").filter(|line| !line.contains(&b'\r')).map(<[u8]>::to_vec);
                self.used += end + 1;
                return line.ok_or_else(|| bad("A line around a chunk does not end in CR LF.").into());
            }
            if rest.len() >= most + 2 {
                return Err(bad("A line around a chunk does not end where it must.").into());
            }
            self.need("body", deadline)?;
        }
    }

    fn take(&mut self, mut length: usize, body: &mut Body, deadline: Instant) -> Result<(), Refused> {
        while length > 0 {
            if self.rest().is_empty() {
                self.need("body", deadline)?;
            }
            let part = self.rest().len().min(length);
            body.push(&self.rest()[..part])?;
            self.used += part;
            length -= part;
        }
        Ok(())
    }

    /// At least one byte more; the deadline's end is an error that is told, the stream's end is nobody to tell.
    fn need(&mut self, what: &str, deadline: Instant) -> Result<(), Refused> {
        self.more(deadline).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                let message = format!("The {what} of the request did not arrive in time.");
                Refused::Answer(Error::new(REQUEST_TIMEOUT, message))
            }
            _ => Refused::Gone,
        })
    }

    fn more(&mut self, deadline: Instant) -> io::Result<()> {
        self.buffer.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        // zeroed once, not for each read
        self.buffer.resize(self.buffer.len().max(self.filled + READ_BYTES), 0);
        let room = &mut self.buffer[self.filled..][..READ_BYTES];
        let read = read_by(&self.stream, room, deadline, &mut self.patience)?;
        self.filled += read;
        if read == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Ends the sending side and reads on for a little: closing with unread bytes resets the connection, and the reset
/// overtakes what was sent last.
pub(crate) fn close_gently(stream: &TcpStream, linger: Duration) {
    let deadline = Instant::now() + linger;
    let (mut left, mut scrap, mut patience) = (MAX_LINGER_BYTES, [0; 8192], Duration::ZERO);
    let mut open = stream.shutdown(Shutdown::Write).is_ok();
    while open && left > 0 {
        let read = read_by(stream, &mut scrap, deadline, &mut patience).unwrap_or(0);
        open = read > 0;
        left = left.saturating_sub(read);
    }
}

/// One read, which fails with `WouldBlock` or `TimedOut` at the deadline. What the socket was told last (`patience`) it is not
/// told again: up to a millisecond, the wait for the next request is the same each time.
fn read_by(
    mut stream: &TcpStream,
    into: &mut [u8],
    deadline: Instant,
    patience: &mut Duration,
) -> io::Result<usize> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let millis = left.subsec_millis() + 1;
        let left = Duration::from_secs(left.as_secs()) + Duration::from_millis(millis.into());
        if left != *patience {
            stream.set_read_timeout(Some(left))?;
            *patience = left;
        }
        match stream.read(into) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Bytes that count against a bound of the node's, given back when dropped.
pub(super) struct Held {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    pub(super) fn none(all: &Arc<AtomicUsize>) -> Held {
        Held { all: all.clone(), bytes: 0 }
    }

    /// Counts `more`; past `most` the error says that too many of `what` are in flight.
    pub(super) fn grow(&mut self, more: usize, most: usize, what: &str) -> Result<(), Error> {
        self.bytes += more;
        if self.all.fetch_add(more, Ordering::Relaxed) + more > most {
            let message = format!("Too many {what} are in flight.");
            return Err(Error::new(OVERLOADED, message).header("Retry-After", "1"));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A growing body. Its capacity counts, and is at most double what has come: a promised length costs nothing.
struct Body<'a> {
    bytes: Vec<u8>,
    most: usize,
    all: usize,
    held: &'a mut Held,
}

impl Body<'_> {
    fn push(&mut self, part: &[u8]) -> Result<(), Error> {
        let (old, need) = (self.bytes.capacity(), self.bytes.len() + part.len());
        if need > old {
            let capacity = need.max(old * 2).max(READ_BYTES).min(self.most);
            self.held.grow(capacity - old, self.all, "request bodies")?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }
}

/// The end of the head, empty line included, if it is there; bytes before `seen` have been looked at.
fn end_of_head(bytes: &[u8], seen: usize) -> Result<Option<usize>, Error> {
    if !bytes.first().is_none_or(u8::is_ascii_alphabetic) {
        // an empty line, which httparse would skip, or TLS, which would wait for us
        return Err(bad("The request does not begin with a method."));
    }
    for at in seen..bytes.len().min(MAX_HEAD_BYTES) {
        if bytes[at] == b'\n' {
            if bytes[at - 1] != b'\r' {
                return Err(bad("A line of the head ends in LF without CR."));
            }
            if bytes[..at].ends_with(b"\r\n\r") {
                return Ok(Some(at + 1));
            }
        }
    }
    if bytes.len() < MAX_HEAD_BYTES {
        return Ok(None);
    }
    Err(Error::new(
        HEADERS_TOO_LARGE,
        format!("The head of the request is larger than {MAX_HEAD_BYTES} bytes."),
    ))
}

fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = str::from_utf8(line).ok()?.split(';').next()?;
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| usize::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(end_of_head(head, 0).unwrap(), Some(head.len()));
        assert_eq!(end_of_head(&head[..head.len() - 1], 0).unwrap(), None);
        let pipelined = [&head[..], b"GET /2"].concat();
        assert_eq!(end_of_head(&pipelined, 0).unwrap(), Some(head.len()));
        // arrived in two reads, cut anywhere
        for cut in 1..head.len() {
            assert_eq!(end_of_head(head, cut).unwrap(), Some(head.len()), "cut at {cut}");
        }
    }

    #[test]
    fn what_httparse_would_forgive_is_refused() {
        for bytes in ["\r\nGET / HTTP/1.1\r\n\r\n", "\nGET", "\u{16}\u{3}", "GET / HTTP/1.1\nhost: a\r\n\r\n"]
        {
            assert_eq!(
                end_of_head(bytes.as_bytes(), 0).unwrap_err().code.name,
                "invalid_request",
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_head_may_fill_its_bound_and_no_more() {
        let fits = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(MAX_HEAD_BYTES - 23));
        assert_eq!(fits.len(), MAX_HEAD_BYTES);
        assert_eq!(end_of_head(fits.as_bytes(), 0).unwrap(), Some(MAX_HEAD_BYTES));
        let over = fits.replace("yy\r", "yyy\r");
        assert_eq!(end_of_head(over.as_bytes(), 0).unwrap_err().code.status, 431);
    }

    #[test]
    fn chunk_sizes_are_plain_hex() {
        for (line, size) in [("0", 0), ("a", 10), ("1F", 31), ("ffffffff", 0xffff_ffff), ("3;x=y", 3)] {
            assert_eq!(chunk_size(line.as_bytes()), Some(size), "{line}");
        }
        for line in ["", "+5", "-5", "0x5", " 5", "5 ", "g", "100000000", ";x", "\u{e9}"] {
            assert_eq!(chunk_size(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_body_counts_while_it_is_held() {
        let all = Arc::new(AtomicUsize::new(0));
        let mut held = Held::none(&all);
        let mut body = Body { bytes: Vec::new(), most: 100_000, all: 60_000, held: &mut held };
        body.push(&[0; 20_000]).unwrap();
        assert_eq!(all.load(Ordering::Relaxed), 20_000);
        body.push(&[0; 1]).unwrap(); // doubles
        assert_eq!(all.load(Ordering::Relaxed), 40_000);
        assert_eq!(body.push(&[0; 20_001]).unwrap_err().code.name, "overloaded");
        drop(held);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
