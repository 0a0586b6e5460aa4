//! A reader that follows the log: as WebSocket messages or as server-sent events.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use common::http::{LOOK_EVERY, Writer};
use common::log::{Cursor, Feed, Got, Seq};
use common::websocket::{Flow, Frames};
use serde_json::json;

use super::filter::Filter;
use super::{QUIET, READ_BYTES, REST, REST_ABOVE, Seat, Wanted};
use crate::event;

/// One reader.
pub(super) struct Stream {
    feed: Arc<Feed>,
    cursor: Cursor,
    filter: Filter,
    /// It is over with the end of the turn that it tells of.
    one_turn: bool,
    /// The first message, until it is sent.
    hello: Option<String>,
    /// Something was read since it last caught up.
    moved: bool,
    pub(super) seat: Seat,
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
    pub(super) fn new(feed: &Arc<Feed>, seat: Seat, wanted: Wanted) -> Stream {
        // One look for both: the first live event is the one after the number that the hello tells.
        let latest = feed.latest();
        let hello = json!({
            "type": "stream.hello", "logId": feed.log_id(), "oldestSeq": feed.oldest(), "latestSeq": latest,
        });
        let cursor = Cursor::after(wanted.after.unwrap_or(latest));
        let (feed, hello, filter) = (feed.clone(), Some(hello.to_string()), wanted.filter);
        Stream { feed, cursor, filter, one_turn: false, hello, moved: false, seat }
    }

    /// The events of one turn from after `seq` on. What it is and where it begins, the caller knows.
    pub(super) fn of_turn(feed: &Arc<Feed>, seat: Seat, turn_id: String, after: Seq) -> Stream {
        let wanted = Wanted { after: Some(after), filter: Filter::of_turn(turn_id) };
        Stream { one_turn: true, hello: None, ..Stream::new(feed, seat, wanted) }
    }

    /// Puts out what has come, or sleeps until something may have, or `until`.
    fn next(&mut self, max: usize, until: Instant, mut put: impl FnMut(Item<'_>)) -> io::Result<Next> {
        if let Some(hello) = self.hello.take() {
            put(Item::Note(hello));
            return Ok(Next::More);
        }
        let (filter, one_turn, mut ended) = (&self.filter, self.one_turn, false);
        let got = self.feed.read(&mut self.cursor, max.clamp(1, READ_BYTES), |seq, line| {
            if !ended && filter.takes(line) {
                put(Item::Event(seq, line));
                ended = one_turn && ends_turn(line);
            }
        })?;
        match got {
            _ if ended => Ok(Next::End),
            Got::Lines => {
                self.moved = true;
                Ok(Next::More)
            }
            Got::Gap { from, to } => {
                put(Item::Note(json!({"type": "stream.gap", "fromSeq": from, "toSeq": to}).to_string()));
                // The end of a turn may have been in the gap: who waits for it must look at the session.
                Ok(if one_turn { Next::End } else { Next::More })
            }
            Got::Closed => Ok(Next::End),
            Got::Nothing => {
                if std::mem::take(&mut self.moved)
                    && self.seat.readers.all.load(Ordering::Relaxed) > REST_ABOVE
                {
                    thread::park_timeout(REST);
                }
                self.feed.sleep(self.cursor.seq, until);
                Ok(Next::Quiet)
            }
        }
    }

    pub(super) fn fill(&mut self, frames: &mut Frames, until: Instant) -> Flow {
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

    pub(super) fn run_sse(&mut self, writer: &mut Writer) -> io::Result<()> {
        let (client, mut text) = (writer.client(), Vec::with_capacity(READ_BYTES));
        let (mut silent_since, mut looked) = (Instant::now(), Instant::now());
        loop {
            let until = (silent_since + QUIET).min(looked + LOOK_EVERY);
            let next = self.next(READ_BYTES, until, |item| match item {
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
            if looked.elapsed() >= LOOK_EVERY {
                if client.has_left() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                looked = Instant::now();
            }
        }
    }
}

fn ends_turn(line: &str) -> bool {
    event::parse(line).is_ok_and(|record| record.event.ends_turn().is_some())
}
