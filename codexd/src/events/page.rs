//! Events as a page of JSON, at once or when there are some.
//!
//! What a page costs is bounded whatever is asked for: in events, in the bytes that it shows and in the log that is read
//! for it. It says where it got, so that the next one begins there.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::codexd_api::EVENTS_PAGE;
use common::http::{Answer, LOOK_EVERY, Request};
use common::log::{Cursor, Feed, Got, Seq};
use common::wire::{self, Extent};
use common::{Error, error};
use serde_json::{Value, json};

use super::filter::Filter;
use super::{READ_BYTES, Readers, Wanted};

/// What a page shows, in bytes of its text; one larger event goes alone. Twice what 1000 ordinary events take, and far
/// below what conductor takes from us.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// How much of the log is read for one page while nobody waits: a tenth of a second of a search for
/// what is rare, on a slow machine.
pub const MAX_SCAN_BYTES: usize = 32 * 1024 * 1024;

/// Answers with a page: what there is, or with `waitMs` what comes first.
///
/// # Errors
/// `overloaded` if it has to wait and there are too many readers; `internal_error` if the log cannot be read.
pub fn answer(
    request: &Request,
    feed: &Feed,
    readers: &Arc<Readers>,
    wanted: Wanted,
) -> Result<Answer, Error> {
    let number = |name| request.query_value(name).and_then(|text| text.parse::<u64>().ok());
    let limit = number("limit").unwrap_or(EVENTS_PAGE.unsigned_abs());
    let after = wanted.after.unwrap_or(feed.oldest() - 1);
    let (mut page, mut cursor) = (Page::new(after, wanted.filter, limit as usize), Cursor::after(after));
    let unreadable = |error| Error::new(error::INTERNAL_ERROR, "The log could not be read.").because(error);
    page.read_on(feed, &mut cursor, None, || false).map_err(unreadable)?;
    if let Some(wait) = number("waitMs").filter(|wait| *wait > 0 && page.has_nothing()) {
        let _seat = readers.enter()?;
        let until = Instant::now() + Duration::from_millis(wait);
        page.read_on(feed, &mut cursor, Some(until), || request.abandoned()).map_err(unreadable)?;
    }
    Ok(Answer::Json { status: 200, data: page.show(feed).map_err(unreadable)? })
}

struct Page {
    filter: Filter,
    limit: usize,
    /// Where it began, and the last number that was looked at.
    after: Seq,
    reached: Seq,
    lines: Vec<String>,
    /// What the lines will take as text of the answer.
    bytes: usize,
    /// How much was read since `read_on` began.
    scanned: usize,
    full: bool,
    gap: Option<(Seq, Seq)>,
}

impl Page {
    fn new(after: Seq, filter: Filter, limit: usize) -> Page {
        let (lines, reached) = (Vec::new(), after);
        Page { filter, limit, after, reached, lines, bytes: 0, scanned: 0, full: false, gap: None }
    }

    /// Nothing to tell: neither an event, nor that some cannot be had.
    fn has_nothing(&self) -> bool {
        self.lines.is_empty() && self.gap.is_none()
    }

    /// Reads until the page is full or there is no more; with an instant until there is something, or until then, or
    /// until nobody waits for it.
    fn read_on(
        &mut self,
        feed: &Feed,
        cursor: &mut Cursor,
        until: Option<Instant>,
        gone: impl Fn() -> bool,
    ) -> io::Result<()> {
        self.scanned = 0;
        let mut next_look = Instant::now() + LOOK_EVERY;
        loop {
            let got = feed.read(cursor, READ_BYTES, |seq, line| self.look_at(seq, line))?;
            let waits = until.is_some_and(|until| self.has_nothing() && Instant::now() < until);
            match (got, until) {
                (Got::Gap { from, to }, _) if self.reached == self.after => {
                    (self.gap, self.reached) = (Some((from, to)), cursor.seq);
                }
                (Got::Gap { .. } | Got::Closed, _) => return Ok(()), // the next page tells of the gap
                (Got::Nothing, Some(until)) if waits => feed.sleep(cursor.seq, until.min(next_look)),
                (Got::Nothing, _) => return Ok(()),
                (Got::Lines, _) if self.full || (self.scanned >= MAX_SCAN_BYTES && !waits) => return Ok(()),
                (Got::Lines, _) => {}
            }
            if Instant::now() >= next_look {
                if gone() {
                    return Ok(());
                }
                next_look = Instant::now() + LOOK_EVERY;
            }
        }
    }

    fn look_at(&mut self, seq: Seq, line: &str) {
        if self.full {
            return;
        }
        self.scanned += line.len();
        if self.filter.takes(line) {
            let bytes = shown_bytes(line);
            if !self.lines.is_empty() && self.bytes + bytes > MAX_PAGE_BYTES {
                self.full = true;
                return;
            }
            self.bytes += bytes;
            self.lines.push(line.to_owned());
            self.full = self.lines.len() >= self.limit;
        }
        self.reached = seq;
    }

    fn show(&self, feed: &Feed) -> io::Result<Value> {
        let events = self.lines.iter().map(|line| serde_json::from_str(line));
        Ok(json!({
            "logId": feed.log_id(),
            "oldestSeq": feed.oldest(),
            "latestSeq": feed.latest(),
            "gap": self.gap.map(|(from, to)| json!({ "fromSeq": from, "toSeq": to })),
            "events": events.collect::<Result<Vec<Value>, _>>()?,
            "nextAfter": self.reached,
        }))
    }
}

/// At most so many bytes are what this line becomes in an indented answer: each bracket and comma may begin two lines,
/// each two spaces deeper than the one around it, and each member has a space.
fn shown_bytes(line: &str) -> usize {
    /// An event stands in the list in `data` in the envelope.
    const LEVELS_ABOVE: usize = 3;
    let Extent { depth, elements } = wire::extent(line.as_bytes());
    line.len() + (elements + 1) * (2 * (1 + 2 * (depth + LEVELS_ABOVE)) + 1)
}

#[cfg(test)]
mod tests;
