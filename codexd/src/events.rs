//! Readers of the log: one place in it each, shown as WebSocket messages or as server-sent events.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::http::{Answer, Request, Writer};
use common::log::{Cursor, Feed, Got, Seq};
use common::websocket::{self, Flow, Frames};
use common::{Error, error};
use serde::Deserialize;
use serde_json::json;

/// Readers at once: each costs a thread or two, and a wake-up at every commit.
pub const MAX_READERS: usize = 64;
/// A reader that has caught up rests so long after a write while there are many: batches instead of wake-ups.
pub const REST: Duration = Duration::from_millis(5);
/// How many are many.
pub const REST_ABOVE: usize = 8;
/// After so much quiet an SSE reader gets a comment, so that proxies and clients see life.
pub const QUIET: Duration = Duration::from_secs(20);
/// The largest number that a position may have: no log gets there.
const MAX_SEQ: Seq = i64::MAX as Seq;
/// How much is read from the log at once.
const READ_BYTES: usize = 64 * 1024;

/// How many readers there are, of each kind.
#[derive(Default)]
pub struct Readers {
    all: AtomicUsize,
    websockets: AtomicUsize,
}

impl Readers {
    /// How many WebSockets there are.
    pub fn websockets(&self) -> usize {
        self.websockets.load(Ordering::Relaxed)
    }

    /// Takes one of the seats.
    ///
    /// # Errors
    /// `overloaded` if all are taken.
    pub fn enter(self: &Arc<Readers>) -> Result<Seat, Error> {
        if self.all.fetch_add(1, Ordering::SeqCst) >= MAX_READERS {
            self.all.fetch_sub(1, Ordering::SeqCst);
            let message = format!("There are {MAX_READERS} readers of events already.");
            return Err(Error::new(error::OVERLOADED, message).header("Retry-After", "5"));
        }
        Ok(Seat { readers: self.clone(), websocket: false })
    }
}

/// A reader's right to be one; given back when dropped.
pub struct Seat {
    readers: Arc<Readers>,
    websocket: bool,
}

impl Seat {
    fn is_websocket(&mut self) {
        self.websocket = true;
        self.readers.websockets.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.readers.all.fetch_sub(1, Ordering::SeqCst);
        if self.websocket {
            self.readers.websockets.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Which events a reader wants.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Those after this number; only new ones without.
    pub after: Option<Seq>,
    /// Those of this session.
    pub session_id: Option<String>,
}

impl Wanted {
    /// Reads the query, and `Last-Event-ID`, which is where an SSE client was cut off.
    ///
    /// # Errors
    /// `invalid_request`, naming what is no number.
    pub fn read(request: &Request) -> Result<Wanted, Error> {
        let number = |name: &str, text: &str| {
            text.parse().ok().filter(|&seq| seq <= MAX_SEQ).ok_or_else(|| {
                let message = format!("`{name}` must be a sequence number, not `{text}`.");
                Error::new(error::INVALID_REQUEST, message).details(json!({ "field": name }))
            })
        };
        let after = match request.header("last-event-id").filter(|text| !text.is_empty()) {
            Some(text) => Some(number("Last-Event-ID", text)?),
            None => request.query_value("after").map(|text| number("after", text)).transpose()?,
        };
        Ok(Wanted { after, session_id: request.query_value("sessionId").map(str::to_owned) })
    }
}

/// Serves the stream in the form that the request asks for.
///
/// # Errors
/// `overloaded` if there are too many readers, `upgrade_required` if it asks for no form.
pub fn answer(request: &Request, feed: &Arc<Feed>, readers: &Arc<Readers>) -> Result<Answer, Error> {
    let wanted = Wanted::read(request)?;
    if request.accepts("text/event-stream") && !request.wants_websocket() {
        let mut stream = Stream::new(feed, readers.enter()?, wanted);
        return Ok(sse(move |writer| stream.run_sse(writer)));
    }
    if !request.wants_websocket() {
        let message =
            "Ask for the events as SSE (Accept: text/event-stream) or as a WebSocket (Upgrade: websocket).";
        return Err(Error::new(error::UPGRADE_REQUIRED, message));
    }
    let mut stream = Stream::new(feed, readers.enter()?, wanted);
    websocket::upgrade(request, move |peer| {
        stream.seat.is_websocket();
        peer.run("events", |_| (), |frames, until| stream.fill(frames, until));
    })
}

/// Streams the events of one turn from its `turn.accepted`, which is event `seq`, to its end.
pub fn turn(feed: &Arc<Feed>, seat: Seat, turn_id: String, seq: Seq) -> Answer {
    let mut stream = Stream::new(feed, seat, Wanted { after: Some(seq - 1), session_id: None });
    stream.hello = None; // what it is and where it begins, the caller knows
    stream.turn_id = Some(turn_id);
    sse(move |writer| stream.run_sse(writer))
}

fn sse(run: impl FnOnce(&mut Writer) -> io::Result<()> + Send + 'static) -> Answer {
    let headers = vec![
        ("Content-Type", "text/event-stream; charset=utf-8".into()),
        ("Cache-Control", "no-store".into()),
    ];
    Answer::Stream { status: 200, headers, run: Box::new(run) }
}

/// One reader.
struct Stream {
    feed: Arc<Feed>,
    cursor: Cursor,
    session_id: Option<String>,
    turn_id: Option<String>,
    /// The first message, until it is sent.
    hello: Option<String>,
    /// Something was sent since it last caught up.
    wrote: bool,
    seat: Seat,
}

/// What a reader is sent.
enum Item<'a> {
    /// What no event is: `stream.hello`, `stream.gap`.
    Note(String),
    Event(Seq, &'a str),
}

#[derive(PartialEq)]
enum Next {
    /// Something was put out, or may be at once.
    More,
    /// Nothing came until the time was up or somebody woke the thread.
    Quiet,
    /// Nothing will come.
    End,
}

impl Stream {
    fn new(feed: &Arc<Feed>, seat: Seat, wanted: Wanted) -> Stream {
        // One look for both: the first live event is the one after the number that the hello tells.
        let latest = feed.latest();
        let hello = json!({
            "type": "stream.hello", "logId": feed.log_id(), "oldestSeq": feed.oldest(), "latestSeq": latest,
        });
        let cursor = Cursor::after(wanted.after.unwrap_or(latest));
        let (feed, hello, session_id) = (feed.clone(), Some(hello.to_string()), wanted.session_id);
        Stream { feed, cursor, session_id, turn_id: None, hello, wrote: false, seat }
    }

    /// Puts out what has come, or sleeps until something may have, or `until`.
    fn next(&mut self, max: usize, until: Instant, mut put: impl FnMut(Item<'_>)) -> io::Result<Next> {
        if let Some(hello) = self.hello.take() {
            put(Item::Note(hello));
            return Ok(Next::More);
        }
        let (session_id, turn_id) = (self.session_id.as_deref(), self.turn_id.as_deref());
        let (mut put_any, mut ended) = (false, false);
        let got = self.feed.read(&mut self.cursor, max.clamp(1, READ_BYTES), |seq, line| {
            if !ended && matches(line, "sessionId", session_id) && matches(line, "turnId", turn_id) {
                put(Item::Event(seq, line));
                put_any = true;
                ended = turn_id.is_some() && ends_turn(line);
            }
        })?;
        self.wrote |= put_any;
        match got {
            _ if ended => Ok(Next::End),
            Got::Lines => Ok(Next::More),
            Got::Gap { from, to } => {
                put(Item::Note(json!({"type": "stream.gap", "fromSeq": from, "toSeq": to}).to_string()));
                // The end of a turn may have been in the gap: who waits for it must look at the session.
                Ok(if turn_id.is_some() { Next::End } else { Next::More })
            }
            Got::Closed => Ok(Next::End),
            Got::Nothing => {
                if std::mem::take(&mut self.wrote)
                    && self.seat.readers.all.load(Ordering::Relaxed) > REST_ABOVE
                {
                    thread::park_timeout(REST);
                }
                self.feed.sleep(self.cursor.seq, until);
                Ok(Next::Quiet)
            }
        }
    }

    fn fill(&mut self, frames: &mut Frames, until: Instant) -> Flow {
        let room = frames.room();
        let next = self.next(room, until, |item| match item {
            Item::Note(text) => frames.text(&text),
            Item::Event(_, line) => frames.text(line),
        });
        match next {
            Ok(Next::More | Next::Quiet) => Flow::Go,
            Ok(Next::End) => Flow::Close(1001, "codexd stops".into()),
            Err(error) => Flow::Close(1011, format!("the log cannot be read: {}", error.kind())),
        }
    }

    fn run_sse(&mut self, writer: &mut Writer) -> io::Result<()> {
        let (mut text, mut silent_since) = (Vec::with_capacity(READ_BYTES), Instant::now());
        loop {
            let next = self.next(READ_BYTES, silent_since + QUIET, |item| match item {
                Item::Note(note) => text.extend_from_slice(format!("data: {note}\n\n").as_bytes()),
                Item::Event(seq, line) => {
                    text.extend_from_slice(format!("id: {seq}\ndata: ").as_bytes());
                    text.extend_from_slice(line.as_bytes());
                    text.extend_from_slice(b"\n\n");
                }
            })?;
            if text.is_empty() && silent_since.elapsed() >= QUIET {
                text.extend_from_slice(b": quiet\n\n");
            }
            if !text.is_empty() {
                writer.write_all(&text)?;
                text.clear();
                silent_since = Instant::now();
            }
            if next == Next::End {
                return Ok(());
            }
        }
    }
}

#[derive(Deserialize)]
struct Ids {
    detail: Detail,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    session_id: Option<String>,
    turn_id: Option<String>,
}

/// Whether a line's detail has this id. The bytes are looked for first: a quote inside of a JSON string is escaped, so
/// they occur only as a real key, if perhaps a deeper one.
fn matches(line: &str, key: &str, id: Option<&str>) -> bool {
    let Some(id) = id else { return true };
    if !line.contains(&format!("\"{key}\":\"{id}\"")) {
        return false;
    }
    let Ok(Ids { detail }) = serde_json::from_str(line) else { return false };
    let found = if key == "turnId" { detail.turn_id } else { detail.session_id };
    found.as_deref() == Some(id)
}

fn ends_turn(line: &str) -> bool {
    #[derive(Deserialize)]
    struct Type {
        r#type: String,
    }
    serde_json::from_str::<Type>(line).is_ok_and(|line| {
        matches!(line.r#type.as_str(), "app-server.turn.completed" | "turn.interrupted" | "turn.settled")
    })
}
