//! Reading the log: positions, not queues.
//!
//! A reader `pread`s the segment files up to the committed end, from its own position, at its own pace; the page cache
//! is the only buffer. The lock is held for moves only, never for I/O. A segment that is deleted under a reader stays
//! readable through its open file.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Instant;

use super::syncs::Syncs;
use super::{Segment, Seq, seek, seq_of};

/// What is read at once for single lines: those that are wanted tend to stand close together.
const LINES_BYTES: usize = 64 * 1024;

/// What readers share with the one writer.
pub struct Feed {
    published: Mutex<Published>,
    syncs: Syncs,
}

struct Published {
    segments: VecDeque<Arc<Segment>>,
    next: Seq,
    sleepers: Vec<Thread>,
    closed: bool,
    log_id: String,
}

/// A reader's place in the log.
pub struct Cursor {
    /// The last number that was delivered.
    pub seq: Seq,
    at: Option<(Arc<Segment>, u64)>,
    buffer: Vec<u8>,
}

impl Cursor {
    /// A place right after `seq`.
    pub fn after(seq: Seq) -> Cursor {
        Cursor { seq, at: None, buffer: Vec::new() }
    }
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// Lines were delivered.
    Lines,
    /// The reader has caught up.
    Nothing,
    /// These numbers cannot be had; the cursor stands after them.
    Gap {
        /// The first of them.
        from: Seq,
        /// The last of them.
        to: Seq,
    },
    /// The reader has caught up, and nothing will follow.
    Closed,
}

impl Feed {
    pub(super) fn new(segments: VecDeque<Arc<Segment>>, next: Seq) -> Feed {
        let log_id = String::new();
        let published = Published { segments, next, sleepers: Vec::new(), closed: false, log_id };
        Feed { published: Mutex::new(published), syncs: Syncs::default() }
    }

    /// The files in `folder` as they are now, for a process that only looks: nothing will follow.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(folder: &Path) -> io::Result<Feed> {
        let (segments, next) = if folder.exists() { super::look(folder)? } else { (VecDeque::new(), 1) };
        let feed = Feed::new(segments, next);
        feed.close();
        Ok(feed)
    }

    /// Bytes that are retained.
    pub fn bytes(&self) -> u64 {
        self.lock().segments.iter().map(|segment| segment.len()).sum()
    }

    /// The name of this log; empty until the first record that names it is committed.
    pub fn log_id(&self) -> String {
        self.lock().log_id.clone()
    }

    /// Says what this log is called.
    pub fn set_log_id(&self, log_id: &str) {
        self.lock().log_id = log_id.to_owned();
    }

    /// The oldest number that can be had; one past the newest if there is none.
    pub fn oldest(&self) -> Seq {
        self.lock().oldest()
    }

    /// The newest number that can be had; 0 if there never was one.
    pub fn latest(&self) -> Seq {
        self.lock().next - 1
    }

    /// Hands the lines that follow the cursor to `sink`, about `max` bytes of them at once (a longer line whole).
    ///
    /// # Errors
    /// If the files cannot be read, or do not hold what was committed.
    pub fn read(&self, cursor: &mut Cursor, max: usize, mut sink: impl FnMut(Seq, &str)) -> io::Result<Got> {
        loop {
            let (segment, offset) = match cursor.at.take() {
                Some(at) => at,
                None => match self.place(cursor.seq) {
                    Place::At(segment) => {
                        let offset = find(&segment, cursor.seq + 1)?;
                        (segment, offset)
                    }
                    Place::Gap { from, to, seq } => {
                        cursor.seq = seq;
                        return Ok(Got::Gap { from, to });
                    }
                },
            };
            let available = segment.len() - offset;
            if available == 0 {
                match self.after(&segment, cursor.seq) {
                    After::Next => continue, // seeks again from the number, in the segment that follows
                    After::More => cursor.at = Some((segment, offset)),
                    After::End { closed } => {
                        cursor.at = Some((segment, offset));
                        return Ok(if closed { Got::Closed } else { Got::Nothing });
                    }
                }
                continue;
            }
            let used = deliver(cursor, &segment, offset, available, max, &mut sink)?;
            cursor.at = Some((segment, offset + used));
            return Ok(Got::Lines);
        }
    }

    /// Hands the retained ones of these lines, in ascending order, to `sink`.
    ///
    /// # Errors
    /// As `read`.
    pub fn lines(&self, seqs: &[Seq], mut sink: impl FnMut(&str)) -> io::Result<()> {
        let (oldest, latest) = (self.oldest(), self.latest());
        let mut wanted = seqs.iter().copied().filter(|&seq| seq >= oldest && seq <= latest).peekable();
        while let Some(&first) = wanted.peek() {
            let mut cursor = Cursor::after(first - 1);
            let got = self.read(&mut cursor, LINES_BYTES, |seq, line| {
                if wanted.next_if_eq(&seq).is_some() {
                    sink(line);
                }
            })?;
            if got != Got::Lines || wanted.peek() == Some(&first) {
                wanted.next(); // deleted since we looked
            }
        }
        Ok(())
    }

    /// Sleeps until there is more than `after`, the feed is closed, somebody unparks this thread, or `until`.
    pub fn sleep(&self, after: Seq, until: Instant) {
        {
            let mut published = self.lock();
            if published.closed || published.next - 1 > after {
                return;
            }
            let me = thread::current();
            if !published.sleepers.iter().any(|sleeper| sleeper.id() == me.id()) {
                published.sleepers.push(me);
            }
        }
        thread::park_timeout(until.saturating_duration_since(Instant::now()));
        // Who was not woken would stay on the list until the next commit, which may be days away, and others after it.
        let me = thread::current().id();
        self.lock().sleepers.retain(|sleeper| sleeper.id() != me);
    }

    /// Ends every reader that has caught up.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    pub(super) fn syncs(&self) -> &Syncs {
        &self.syncs
    }

    pub(super) fn publish(&self, next: Seq) {
        self.lock().next = next;
        self.wake();
    }

    pub(super) fn add(&self, segment: Arc<Segment>) {
        self.lock().segments.push_back(segment);
    }

    pub(super) fn drop_oldest(&self) {
        self.lock().segments.pop_front();
    }

    fn wake(&self) {
        let sleepers = std::mem::take(&mut self.lock().sleepers);
        for sleeper in sleepers {
            sleeper.unpark();
        }
    }

    /// In which segment the line after `seq` is, or will be.
    fn place(&self, seq: Seq) -> Place {
        let published = self.lock();
        let (oldest, next) = (published.oldest(), published.next);
        if seq.saturating_add(1) < oldest {
            return Place::Gap { from: seq + 1, to: oldest - 1, seq: oldest - 1 };
        }
        if seq >= next {
            return Place::Gap { from: next, to: seq, seq: next - 1 };
        }
        let index = published.segments.partition_point(|segment| segment.first <= seq + 1);
        Place::At(published.segments[index.max(1) - 1].clone())
    }

    fn after(&self, segment: &Arc<Segment>, seq: Seq) -> After {
        let published = self.lock();
        if published.segments.back().is_some_and(|last| last.first > segment.first) {
            return After::Next;
        }
        if published.next - 1 > seq {
            return After::More; // committed between our two looks
        }
        After::End { closed: published.closed }
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        // Nothing panics while it is held; were it so, the numbers in it would still be whole.
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Published {
    fn oldest(&self) -> Seq {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }
}

enum Place {
    At(Arc<Segment>),
    Gap { from: Seq, to: Seq, seq: Seq },
}

enum After {
    Next,
    More,
    End { closed: bool },
}

/// Reads whole lines from `offset`, about `max` bytes, and hands them on; says how many bytes they were.
fn deliver(
    cursor: &mut Cursor,
    segment: &Segment,
    offset: u64,
    available: u64,
    max: usize,
    sink: &mut impl FnMut(Seq, &str),
) -> io::Result<u64> {
    let mut want = (max as u64).clamp(4096, available.max(4096));
    let end = loop {
        let size = want.min(available) as usize;
        cursor.buffer.resize(size, 0);
        segment.file.read_exact_at(&mut cursor.buffer, offset)?;
        match cursor.buffer.iter().rposition(|&byte| byte == b'\n') {
            Some(last) => break last + 1,
            None if size as u64 == available => return Err(damaged("a line without an end")),
            None => want *= 2,
        }
    };
    let text = std::str::from_utf8(&cursor.buffer[..end]).map_err(|_| damaged("a line that is not UTF-8"))?;
    for line in text.split_terminator('\n') {
        let seq = seq_of(line.as_bytes()).ok_or_else(|| damaged("a line without a number"))?;
        sink(seq, line);
        cursor.seq = seq;
    }
    cursor.buffer.clear();
    cursor.buffer.shrink_to(256 * 1024); // one long line must not stay in memory for the life of a reader
    Ok(end as u64)
}

fn find(segment: &Segment, seq: Seq) -> io::Result<u64> {
    if seq <= segment.first { Ok(0) } else { seek::offset(&segment.file, segment.len(), seq) }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log holds {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_that_nobody_woke_is_not_remembered() {
        let feed = Feed::new(VecDeque::new(), 1);
        feed.sleep(0, Instant::now());
        assert!(feed.lock().sleepers.is_empty());
    }
}
