//! A WebSocket through conductor: codexd's answer to the handshake, then the bytes of both sides as they are.
//!
//! Nothing waits here but the one piece that is on its way: a client that reads slowly fills the sockets' buffers, and
//! then codexd waits. Whichever side ends, both are closed, and no thread stays.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::config::LocalUrl;
use common::http::{Limits, Socket};
use common::trace;
use ureq::{Body, http};

use common::client::MAX_ANSWER_BYTES;

use super::Deadlines;

/// The head of an answer to a handshake; codexd's have 300 bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Headers of it; codexd's have 8.
const MAX_HEADERS: usize = 64;
/// One piece of what codexd sends: it writes so much at once.
const DOWN_BYTES: usize = 64 * 1024;
/// One piece of what a client sends: pongs, and a close.
const UP_BYTES: usize = 4 * 1024;
/// Reads and writes, and nothing deep.
const STACK_BYTES: usize = 128 * 1024;

/// What codexd says to a handshake.
pub(super) enum Answered {
    Opened(Tunnel),
    Refused(http::Response<Body>),
}

/// Codexd's end of a WebSocket whose handshake is done.
pub(super) struct Tunnel {
    pub(super) codexd: Arc<TcpStream>,
    /// What came right behind the head.
    rest: Vec<u8>,
}

/// Sends the head of a request to codexd and reads what it answers.
///
/// # Errors
/// No connection, no answer in time, or none that is HTTP.
pub(super) fn open(base: &LocalUrl, head: &str, deadlines: &Deadlines) -> io::Result<Answered> {
    let address = base.address().ok_or_else(|| invalid("the host has no address"))?;
    let address = SocketAddr::new(address, base.port);
    let mut codexd = TcpStream::connect_timeout(&address, deadlines.connect)?;
    codexd.set_nodelay(true)?;
    codexd.set_write_timeout(Some(deadlines.body))?;
    codexd.write_all(head.as_bytes())?;
    let (mut bytes, end) = (Vec::new(), Instant::now() + deadlines.response);
    let (mut response, length) = loop {
        if let Some(parsed) = parse(&mut bytes)? {
            break parsed;
        }
        if bytes.len() >= MAX_HEAD_BYTES || !read_more(&codexd, &mut bytes, MAX_HEAD_BYTES, end)? {
            return Err(invalid("the answer ends in its head"));
        }
    };
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        codexd.set_read_timeout(Some(deadlines.silence))?;
        return Ok(Answered::Opened(Tunnel { codexd: Arc::new(codexd), rest: bytes }));
    }
    let most = length.unwrap_or(usize::MAX).min(MAX_ANSWER_BYTES as usize + 1);
    let end = Instant::now() + deadlines.body;
    while bytes.len() < most {
        if !read_more(&codexd, &mut bytes, most, end)? {
            match length {
                Some(_) => return Err(invalid("the answer ends in its body")),
                None => break,
            }
        }
    }
    bytes.truncate(most);
    *response.body_mut() = Body::builder().data(bytes);
    Ok(Answered::Refused(response))
}

/// Reads at least a byte more, up to `most` in all; false at the end of the stream.
fn read_more(mut from: &TcpStream, bytes: &mut Vec<u8>, most: usize, end: Instant) -> io::Result<bool> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    from.set_read_timeout(Some(left))?;
    let old = bytes.len();
    bytes.resize(most.min(old + DOWN_BYTES), 0);
    let read = retried(|| from.read(&mut bytes[old..]));
    bytes.truncate(old + read.as_ref().copied().unwrap_or(0));
    match read {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
        read => Ok(read? > 0),
    }
}

/// Takes a whole head off the bytes: an answer without its body, and how long that is. `None` for the length leaves it to
/// the end of the connection; a body in chunks, which codexd never sends, is left away.
fn parse(bytes: &mut Vec<u8>) -> io::Result<Option<(http::Response<Body>, Option<usize>)>> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut slots);
    let head = match parsed.parse(bytes).map_err(|error| invalid(&error.to_string()))? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let mut builder = http::Response::builder().status(parsed.code.unwrap_or_default());
    for header in parsed.headers.iter() {
        builder = builder.header(header.name, header.value);
    }
    let response = builder.body(Body::builder().data(Vec::new())).map_err(io::Error::other)?;
    let length = match response.headers().get("content-length") {
        _ if response.headers().contains_key("transfer-encoding") => Some(0),
        None => None,
        Some(length) => {
            let length = length.to_str().ok().and_then(|length| length.parse().ok());
            Some(length.ok_or_else(|| invalid("the answer has no length"))?)
        }
    };
    bytes.drain(..head);
    Ok(Some((response, length)))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl Tunnel {
    /// Passes bytes on until either side ends: this thread what codexd says, one more what the client says.
    pub(super) fn run(self, client: Socket) {
        let Socket { stream: client, leftover, limits } = client;
        let every = limits.progress / 4; // a look at the clock while the client takes nothing
        let (codexd, start, alive) = (&*self.codexd, Instant::now(), AtomicU64::new(0));
        let line = Line { client: &client, codexd, limits: &limits, start, alive };
        let timed = client.set_read_timeout(None).and_then(|()| client.set_write_timeout(Some(every)));
        if timed.and_then(|()| codexd.set_write_timeout(Some(limits.progress))).is_err() {
            return;
        }
        let (over, ended) = mpsc::channel::<()>();
        let (line, leftover) = (&line, &leftover);
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("tunnel".to_string()).stack_size(STACK_BYTES);
            let up = builder.spawn_scoped(scope, move || {
                let _over = over;
                line.up(leftover);
            });
            match up {
                Ok(_) => drop(line.down(&self.rest)),
                Err(error) => trace::warn(None, format_args!("no thread for a WebSocket: {error}")),
            }
            // The client reads to the end before it is cut off: with bytes of its own unread the close is a reset, and
            // the reset overtakes what was sent last.
            let _ = (codexd.shutdown(Shutdown::Both), client.shutdown(Shutdown::Write));
            let _ = ended.recv_timeout(limits.linger);
            let _ = client.shutdown(Shutdown::Both);
        });
    }
}

/// What both threads of a tunnel share.
struct Line<'a> {
    client: &'a TcpStream,
    codexd: &'a TcpStream,
    limits: &'a Limits,
    start: Instant,
    /// Milliseconds from `start` to the last byte that the client sent or took.
    alive: AtomicU64,
}

impl Line<'_> {
    /// From the client to codexd, until the client ends.
    fn up(&self, leftover: &[u8]) {
        let (mut client, mut codexd) = (self.client, self.codexd);
        let mut buffer = vec![0; UP_BYTES];
        let mut heard = codexd.write_all(leftover).is_ok();
        while let Ok(bytes @ 1..) = retried(|| client.read(&mut buffer)) {
            self.touch();
            heard = heard && codexd.write_all(&buffer[..bytes]).is_ok();
            if !heard {
                let _ = codexd.shutdown(Shutdown::Both);
            }
        }
        let _ = (codexd.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
    }

    /// From codexd to the client, until either ends.
    fn down(&self, rest: &[u8]) -> io::Result<()> {
        let mut codexd = self.codexd;
        let mut buffer = vec![0; DOWN_BYTES];
        self.put(rest)?;
        while let bytes @ 1.. = retried(|| codexd.read(&mut buffer))? {
            self.put(&buffer[..bytes])?;
        }
        Ok(())
    }

    /// A client that neither takes nor sends a byte for `limits.progress` is taken for dead.
    fn put(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut client = self.client;
        self.touch(); // only while there is something for it
        while !bytes.is_empty() {
            match retried(|| client.write(bytes)) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.touch();
                    bytes = &bytes[written..];
                }
                Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(error);
                }
                Err(error) if self.silent_for() >= self.limits.progress => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn touch(&self) {
        self.alive.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.alive.load(Ordering::Relaxed)))
    }
}

fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// A tunnel under way, with the far ends of both sides; it tells how long it lasted.
    fn running() -> (TcpStream, TcpStream, thread::JoinHandle<Duration>) {
        let ((client, their_client), (codexd, their_codexd)) = (pair(), pair());
        let limits = Limits {
            progress: Duration::from_millis(400),
            linger: Duration::from_millis(100),
            ..Limits::default()
        };
        let socket = Socket { stream: Arc::new(client), leftover: b"left over".to_vec(), limits };
        let running = thread::spawn(move || {
            let start = Instant::now();
            Tunnel { codexd: Arc::new(codexd), rest: Vec::new() }.run(socket);
            start.elapsed()
        });
        (their_client, their_codexd, running)
    }

    #[test]
    fn a_client_that_neither_takes_nor_sends_is_dead_and_one_that_sends_is_not() {
        let lives = Duration::from_millis(1500);
        for (sends, shortest, longest) in
            [(false, Duration::from_millis(400), lives), (true, lives, Duration::from_secs(20))]
        {
            let (mut client, mut codexd, running) = running();
            let mut left_over = [0; 9];
            codexd.read_exact(&mut left_over).unwrap();
            assert_eq!(&left_over, b"left over");
            let mut hears = codexd.try_clone().unwrap();
            let hearing = thread::spawn(move || while matches!(hears.read(&mut [0; 64]), Ok(1..)) {});
            let start = Instant::now();
            let talking = thread::spawn(move || {
                while sends && start.elapsed() < lives {
                    client.write_all(b"pong").unwrap();
                    thread::sleep(Duration::from_millis(50));
                }
                client // open to the end, and never read
            });
            while codexd.write_all(&[0; 64 * 1024]).is_ok() {}
            let lasted = running.join().unwrap();
            assert!(lasted >= shortest && lasted < longest, "{sends}: {lasted:?}");
            hearing.join().unwrap();
            drop(talking.join().unwrap());
        }
    }
}
