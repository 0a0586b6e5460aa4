//! Load: one thread keeps a number of connections busy, each with one request at a time, and misses no answer.
//!
//! It does as little as it can for a request (one write, one read, a look for the end of the answer), and one thread does it
//! for all connections: a thread for each would take from the server more of two processors than it measures. The `load`
//! program runs it by hand; `http` compares it with `wrk`.

use std::cmp::Ordering;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::sys::wait_readable;

use crate::bench::samples::Samples;
use crate::http;

/// Connections at once.
pub const MOST: usize = 32;
/// A request without an answer for so long has none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of one read: more than any answer that is asked for here.
const READ_BYTES: usize = 16 * 1024;
const END: &[u8] = b"\r\n\r\n";
const LENGTH: &[u8] = b"content-length:";
/// Goes into envelopes, which thus are of one length.
const ID: (&str, &str) = ("x-request-id", "load");

/// What is asked for, and how long the body of a right answer is.
#[derive(Clone, Debug)]
pub struct Target {
    host: String,
    path: String,
    body: usize,
}

/// How it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// At once; [`MOST`] at the most.
    pub connections: usize,
    /// A new connection for each request, else each serves one after the other.
    pub fresh: bool,
    /// No request is begun later; those that were are waited for.
    pub lasts: Duration,
}

/// What came of it: each request was either answered, or counts as unanswered.
#[derive(Debug, Default)]
pub struct Tally {
    /// From a request (if `fresh`, from its connection's begin) to the last byte of the answer.
    pub times: Samples,
    /// Requests without the right answer: none in time, an end before it was whole, another status or length; or, if `fresh`,
    /// no end behind it.
    pub unanswered: usize,
    /// From the first request to the last answer.
    pub wall: Duration,
}

impl Tally {
    /// Puts another round of the same to it.
    pub fn add(&mut self, other: Tally) {
        self.times.extend(other.times);
        self.unanswered += other.unanswered;
        self.wall += other.wall;
    }

    /// Answers in a second.
    pub fn per_second(&self) -> f64 {
        self.times.count() as f64 / self.wall.as_secs_f64()
    }
}

impl Target {
    /// Asks once, and takes the length of that answer for the right one; panics if it is no 200.
    #[track_caller]
    pub fn of(url: &str) -> Target {
        let answer = http::request("GET", url, &[ID], b"");
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        Target::with_body(url, answer.body.len())
    }

    fn with_body(url: &str, body: usize) -> Target {
        let (host, path) = http::split(url);
        Target { host: host.to_owned(), path: path.to_owned(), body }
    }
}

struct Connection {
    stream: TcpStream,
    asked: Instant,
    answer: Vec<u8>,
    /// How long the whole answer took, once it is there.
    took: Option<Duration>,
}

enum Seen {
    Part,
    Whole(Duration),
    Wrong,
}

/// Asks until `load.lasts` is over, and waits for what is on its way.
pub fn run(target: &Target, load: Load) -> Tally {
    assert!((1..=MOST).contains(&load.connections), "1 to {MOST} connections");
    let close = if load.fresh { "connection: close\r\n" } else { "" };
    let (Target { host, path, body }, (name, id)) = (target, ID);
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{name}: {id}\r\n{close}\r\n");
    let begin = Instant::now();
    let mut tally = Tally::default();
    let next = |tally: &mut Tally, kept: Option<Connection>| {
        let asked = ask(host, request.as_bytes(), kept.filter(|_| !load.fresh), load.fresh);
        tally.unanswered += usize::from(asked.is_err());
        asked.ok() // where nobody listens, nobody is asked again
    };
    let mut open: [Option<Connection>; MOST] =
        std::array::from_fn(|place| (place < load.connections).then(|| next(&mut tally, None)).flatten());
    let mut scrap = [0; READ_BYTES];
    while open.iter().any(Option::is_some) {
        let files = open.each_ref().map(|one| one.as_ref().map(|one| one.stream.as_fd()));
        let ready = wait_readable(files, PATIENCE);
        let late = Instant::now().checked_sub(PATIENCE);
        for (place, ready) in open.iter_mut().zip(ready) {
            let Some(mut connection) = place.take() else { continue };
            let seen = match ready {
                true => connection.read(*body, load.fresh, &mut scrap),
                false if late.is_some_and(|late| connection.asked < late) => Seen::Wrong,
                false => Seen::Part,
            };
            let now = Instant::now();
            let kept = match seen {
                Seen::Part => {
                    *place = Some(connection);
                    continue;
                }
                Seen::Whole(took) => {
                    tally.times.push(took);
                    Some(connection)
                }
                Seen::Wrong => {
                    tally.unanswered += 1;
                    None
                }
            };
            *place = (now < begin + load.lasts).then(|| next(&mut tally, kept)).flatten();
        }
    }
    tally.wall = begin.elapsed();
    tally
}

/// Sends a request, on a connection of its own if none is `kept`. A `fresh` connection is part of what is timed.
fn ask(host: &str, request: &[u8], kept: Option<Connection>, fresh: bool) -> io::Result<Connection> {
    let begin = Instant::now();
    let mut connection = match kept {
        Some(kept) => kept,
        None => {
            Connection { stream: TcpStream::connect(host)?, asked: begin, answer: Vec::new(), took: None }
        }
    };
    if !fresh {
        connection.asked = Instant::now();
    }
    connection.answer.clear();
    connection.stream.write_all(request)?;
    Ok(connection)
}

impl Connection {
    /// A fresh connection is over when the server has closed it: who closes first waits on in the system's tables, and clients
    /// would soon run out of ports.
    fn read(&mut self, body: usize, fresh: bool, scrap: &mut [u8]) -> Seen {
        match (self.stream.read(scrap), self.took) {
            (Ok(0), Some(took)) => return Seen::Whole(took),
            (Ok(read @ 1..), _) => self.answer.extend_from_slice(&scrap[..read]),
            _ => return Seen::Wrong,
        }
        let Some(end) = self.answer.windows(END.len()).position(|part| part == END) else {
            return Seen::Part;
        };
        let head = &self.answer[..end];
        if !head.starts_with(b"HTTP/1.1 200 ") || length(head) != Some(body) {
            return Seen::Wrong;
        }
        let took = self.asked.elapsed();
        match (self.answer.len() - (end + END.len())).cmp(&body) {
            Ordering::Less => Seen::Part,
            Ordering::Equal if fresh => {
                self.took = Some(took);
                Seen::Part
            }
            Ordering::Equal => Seen::Whole(took),
            Ordering::Greater => Seen::Wrong,
        }
    }
}

fn length(head: &[u8]) -> Option<usize> {
    let is_length =
        |line: &&[u8]| line.get(..LENGTH.len()).is_some_and(|name| name.eq_ignore_ascii_case(LENGTH));
    let line = head.split(|byte| *byte == b'\n').find(is_length)?;
    std::str::from_utf8(&line[LENGTH.len()..]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const RIGHT: &[u8] = b"HTTP/1.1 200 OK\r\nConTent-Length: 2\r\n\r\nok";

    /// A server that serves connection after connection, `answers` in turn, and each request with that; with nothing it closes.
    fn serve(answers: &'static [&'static [u8]]) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        thread::spawn(move || {
            for (stream, answer) in listener.incoming().zip(answers.iter().cycle()) {
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut request = [0; 1024];
                    while stream.read(&mut request).is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(answer);
                        let last = request.windows(5).any(|part| part == b"close");
                        if last || *answer != RIGHT {
                            return;
                        }
                    }
                });
            }
        });
        Target::with_body(&url, 2)
    }

    fn counted(target: &Target, connections: usize, fresh: bool, lasts: Duration) -> (usize, usize) {
        let tally = run(target, Load { connections, fresh, lasts });
        (tally.times.count(), tally.unanswered)
    }

    #[test]
    fn every_request_is_answered_or_counted() {
        let lasts = Duration::from_millis(50);
        for fresh in [false, true] {
            let (answered, unanswered) = counted(&serve(&[RIGHT]), MOST, fresh, lasts);
            assert!(answered >= MOST && unanswered == 0, "{answered} {unanswered}");
        }
        let every_second = serve(&[RIGHT, b""]);
        let (answered, unanswered) = counted(&every_second, 1, true, lasts);
        assert!(unanswered > 0 && answered.abs_diff(unanswered) <= 1, "{answered} {unanswered}");
        let wrong: [&[u8]; 5] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\no",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!",
            b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\n\r\nok",
        ];
        for answer in wrong {
            let target = serve(Vec::leak(vec![answer]));
            assert_eq!(counted(&target, 1, false, Duration::ZERO), (0, 1), "{}", answer.escape_ascii());
        }
    }

    /// What is accepted (by the system, that is enough) and never answered, and what nobody accepts.
    #[test]
    fn silence_and_absence_are_no_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::with_body(&format!("http://{}/", listener.local_addr().unwrap()), 2);
        assert_eq!(counted(&target, 3, false, Duration::ZERO), (0, 3));
        drop(listener);
        assert_eq!(counted(&target, 3, false, Duration::from_secs(1)), (0, 3));
    }
}
