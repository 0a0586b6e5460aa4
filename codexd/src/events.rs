//! Readers of the log: one place in it each, shown as WebSocket messages, as server-sent events or as pages.

mod filter;
mod page;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::http::{Answer, Request};
use common::log::{Feed, Seq};
use common::{Error, error, websocket, wire};

use filter::Filter;
use stream::Stream;

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
    streams: AtomicUsize,
}

impl Readers {
    /// How many WebSockets there are.
    pub fn websockets(&self) -> usize {
        self.websockets.load(Ordering::Relaxed)
    }

    /// How many streams of server-sent events there are.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// How many pages wait for an event.
    pub fn pages(&self) -> usize {
        self.all.load(Ordering::Relaxed).saturating_sub(self.websockets() + self.streams())
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
        Ok(Seat { readers: self.clone(), lasts: None })
    }
}

/// A reader's right to be one; given back when dropped.
pub struct Seat {
    readers: Arc<Readers>,
    lasts: Option<Lasts>,
}

/// How a reader follows the log that is no page.
#[derive(Clone, Copy)]
enum Lasts {
    WebSocket,
    Sse,
}

impl Seat {
    fn lasts(&mut self, how: Lasts) {
        self.lasts = Some(how);
        self.count(how).fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, how: Lasts) -> &AtomicUsize {
        match how {
            Lasts::WebSocket => &self.readers.websockets,
            Lasts::Sse => &self.readers.streams,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.readers.all.fetch_sub(1, Ordering::SeqCst);
        if let Some(how) = self.lasts {
            self.count(how).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What a reader asks for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Where it begins: behind this number.
    pub after: Option<Seq>,
    /// Which events it wants of those.
    pub filter: Filter,
}

impl Wanted {
    /// Reads the query, and `Last-Event-ID`, which is where an SSE client was cut off.
    ///
    /// # Errors
    /// `invalid_request`, naming what is no number or no type.
    pub fn read(request: &Request) -> Result<Wanted, Error> {
        let number = |name: &str, text: &str| {
            text.parse().ok().filter(|&seq| seq <= MAX_SEQ).ok_or_else(|| {
                wire::invalid(name, format!("`{name}` must be a sequence number, not `{text}`."))
            })
        };
        let after = match request.header("last-event-id").filter(|text| !text.is_empty()) {
            Some(text) => Some(number("Last-Event-ID", text)?),
            None => request.query_value("after").map(|text| number("after", text)).transpose()?,
        };
        Ok(Wanted { after, filter: Filter::read(request)? })
    }
}

/// Serves the events in the form that the request asks for.
///
/// # Errors
/// `invalid_request` if it asks for what cannot be, `overloaded` if there are too many readers.
pub fn answer(request: &Request, feed: &Arc<Feed>, readers: &Arc<Readers>) -> Result<Answer, Error> {
    let wanted = Wanted::read(request)?;
    if request.wants_websocket() {
        let mut stream = Stream::new(feed, readers.enter()?, wanted);
        return websocket::upgrade(request, move |peer| {
            stream.seat.lasts(Lasts::WebSocket);
            peer.run("events", |_| (), |frames, until| stream.fill(frames, until));
        });
    }
    if request.accepts("text/event-stream") {
        return Ok(sse(Stream::new(feed, readers.enter()?, wanted)));
    }
    page::answer(request, feed, readers, wanted)
}

/// Streams the events of one turn from its `turn.accepted`, which is event `seq`, to its end.
pub fn turn(feed: &Arc<Feed>, seat: Seat, turn_id: String, seq: Seq) -> Answer {
    sse(Stream::of_turn(feed, seat, turn_id, seq - 1))
}

fn sse(mut stream: Stream) -> Answer {
    stream.seat.lasts(Lasts::Sse);
    let headers = vec![
        ("Content-Type", "text/event-stream; charset=utf-8".into()),
        ("Cache-Control", "no-store".into()),
    ];
    Answer::Stream { status: 200, headers, run: Box::new(move |writer| stream.run_sse(writer)) }
}
