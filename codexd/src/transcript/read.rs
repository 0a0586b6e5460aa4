//! Answers out of transcripts: a page of turns, one turn, a turn that only the log knows.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use common::log::{self, Cursor, Feed, Got, Seq};
use serde::Deserialize;
use serde_json::Value;

use super::turns::{Builder, Opener, Turn, opens};
use super::{Transcripts, file};

/// The texts of one page: what is held whole is 16 MiB at the most, and conductor takes 64 MiB of an answer.
pub const PAGE_BYTES: usize = 28 * 1024 * 1024;
/// The lines of one page that are shown as they are; the rest of the page is for what is held whole.
const LINES_BYTES: usize = PAGE_BYTES / 2;
/// How far behind a page it is looked for what came late: a command may outlive its turn.
const LATE_BYTES: u64 = 64 * 1024 * 1024;
/// How much is read at once on the way back.
const CHUNK_BYTES: u64 = 1024 * 1024;
/// How much of a line tells what it is.
const HEAD_BYTES: usize = 256;

/// Turns of a session that follow each other.
#[derive(Debug, Default)]
pub struct Page {
    /// The turns, oldest first.
    pub turns: Vec<Value>,
    /// Where the page of older ones ends, if there are any.
    pub next_cursor: Option<Seq>,
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

impl Transcripts {
    /// The newest turns of a session that began before the event `before`, at most `limit`, and fewer where a page has
    /// no room for them. Nothing that stands before the event `from` is looked at.
    ///
    /// # Errors
    /// Any error of the file system but a missing transcript.
    pub fn page(&self, session_id: &str, from: Seq, before: Option<Seq>, limit: usize) -> io::Result<Page> {
        let Some((file, len)) = file::open(&self.lines_of(session_id))? else { return Ok(Page::default()) };
        let floor = log::offset(&file, len, from)?;
        let end = before.map_or(Ok(len), |before| log::offset(&file, len, before))?.max(floor);
        let start = back(&file, floor, end, limit)?;
        let (mut builder, mut first) = (Builder::new(LINES_BYTES), None);
        file::lines(&file, start..end, |line| {
            first = first.or(log::seq_of(line.as_bytes()));
            builder.take(line);
            true
        })?;
        file::lines(&file, end..len.min(end + LATE_BYTES), |line| {
            let ids = serde_json::from_str::<Ids>(line).ok();
            if ids.and_then(|ids| ids.detail.turn_id).is_some_and(|turn_id| builder.knows(&turn_id)) {
                builder.take(line);
            }
            true
        })?;
        let mut turns = builder.finish();
        let surplus = turns.len().saturating_sub(limit);
        turns.drain(..surplus);
        let more = start > floor || surplus > 0;
        let next_cursor = turns.first().map(|oldest| oldest.begin).or(first).filter(|_| more);
        let mut room = PAGE_BYTES - LINES_BYTES;
        for turn in turns.iter_mut().rev() {
            self.restore(session_id, turn, &mut room);
        }
        Ok(Page { turns: turns.into_iter().map(Turn::view).collect(), next_cursor })
    }

    /// One turn of a session, which the event `begin` or an earlier one named first; `None` if nothing of it is kept.
    ///
    /// # Errors
    /// As `page`.
    pub fn turn(&self, session_id: &str, turn_id: &str, begin: Seq) -> io::Result<Option<Value>> {
        let Some((file, len)) = file::open(&self.lines_of(session_id))? else { return Ok(None) };
        let start = log::offset(&file, len, begin)?;
        let (mut builder, wanted) = (Builder::brief(turn_id), wanted(turn_id));
        file::lines(&file, start..len, |line| {
            if line.contains(&wanted) {
                builder.take(line);
            }
            !builder.has_ended(turn_id)
        })?;
        Ok(self.brief(session_id, builder))
    }

    /// A turn that the log still holds, and its session. The whole log is read.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn turn_of_log(&self, feed: &Feed, turn_id: &str) -> io::Result<Option<(String, Value)>> {
        let (mut builder, wanted) = (Builder::brief(turn_id), wanted(turn_id));
        let (mut session_id, mut cursor) = (None, Cursor::after(feed.oldest() - 1));
        while !builder.has_ended(turn_id) {
            let got = feed.read(&mut cursor, CHUNK_BYTES as usize, |_, line| {
                if builder.has_ended(turn_id) || !line.contains(&wanted) {
                    return;
                }
                let Ok(Ids { detail }) = serde_json::from_str(line) else { return };
                if detail.turn_id.as_deref() == Some(turn_id) && detail.session_id.is_some() {
                    session_id = detail.session_id;
                    builder.take(line);
                }
            })?;
            if matches!(got, Got::Nothing | Got::Closed) {
                break;
            }
        }
        let Some(session_id) = session_id else { return Ok(None) };
        Ok(self.brief(&session_id, builder).map(|turn| (session_id, turn)))
    }

    fn brief(&self, session_id: &str, builder: Builder) -> Option<Value> {
        let mut turn = builder.finish().pop().filter(|turn| turn.begin > 0)?;
        let mut room = PAGE_BYTES;
        self.restore(session_id, &mut turn, &mut room);
        Some(turn.brief())
    }

    /// Puts what is held whole in its place, the last things first, as far as there is room.
    fn restore(&self, session_id: &str, turn: &mut Turn, room: &mut usize) {
        if let Some(text) = &mut turn.text
            && let Some(sha1) = &text.whole
            && let Some(mut whole) = self.load(session_id, sha1, room)
            && let Value::String(all) = whole["item"]["text"].take()
        {
            (text.text, text.whole, text.truncated) = (all, None, false);
        }
        for entry in turn.entries.iter_mut().rev() {
            if let Some(sha1) = entry.whole()
                && let Some(whole) = self.load(session_id, sha1, room)
            {
                entry.restore(whole);
            }
        }
    }

    /// What is held whole; `None` where there is no room for it, or where it has gone.
    fn load(&self, session_id: &str, sha1: &str, room: &mut usize) -> Option<Value> {
        let path = self.whole_of(session_id, sha1);
        let bytes = fs::metadata(&path).ok()?.len() as usize;
        *room = room.checked_sub(bytes)?;
        serde_json::from_slice(&common::document::bytes(&path).ok()?).ok()
    }
}

/// The bytes of every line that is about a turn: a quote inside of a JSON string is escaped, so they occur only as a key.
fn wanted(turn_id: &str) -> String {
    format!("\"turnId\":{}", Value::from(turn_id))
}

/// Where the lines of at most `limit` turns before `end` begin: with one that asks for a turn, if there is any.
fn back(file: &File, floor: u64, end: u64, limit: usize) -> io::Result<u64> {
    let (mut asked, mut started, mut count, mut at) = (None, None, 0, end);
    let fits = |start: u64| end - start <= LINES_BYTES as u64;
    let mut chunk = Vec::new();
    while at > floor {
        let from = at.saturating_sub(CHUNK_BYTES).max(floor);
        // One byte more before it tells whether a line starts there, and what follows it is the rest of a line's head.
        let before = from.saturating_sub(1).max(floor);
        chunk.resize((end.min(at + HEAD_BYTES as u64) - before) as usize, 0);
        file.read_exact_at(&mut chunk, before)?;
        for start in (from..at).rev() {
            let here = (start - before) as usize;
            if start > floor && chunk[here - 1] != b'\n' {
                continue;
            }
            let head = &chunk[here..chunk.len().min(here + HEAD_BYTES)];
            match opens(head) {
                Some(Opener::Asked) if asked.is_none() || fits(start) => {
                    (asked, count) = (Some(start), count + 1);
                    if count == limit {
                        return Ok(start);
                    }
                }
                Some(Opener::Started) if started.is_none() || fits(start) => started = Some(start),
                _ => {}
            }
        }
        if let (false, Some(start)) = (fits(from), asked.or(started)) {
            return Ok(start);
        }
        at = from;
    }
    Ok(floor)
}
