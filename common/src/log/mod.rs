//! The durable event log: lines in segment files, committed before anyone sees them.
//!
//! Owns the files `events.jsonl` (written now) and `events-<first seq>.jsonl` (full ones), their order, rotation and
//! recovery. A line is opaque but for how it begins: `{"seq":N,`. Numbers have no gaps and are never given out twice.
//! Knows nothing of what events mean.

mod feed;
mod recovery;
mod seek;
mod syncs;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use feed::{Cursor, Feed, Got};
pub use recovery::{Replayed, replay};
pub use seek::offset;
pub use syncs::SLOW_SYNC;

use crate::{document, trace};

/// The number of an event, from 1.
pub type Seq = u64;

/// How large the log may get.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A segment that has reached this is closed.
    pub segment_bytes: u64,
    /// The oldest segments go when all together are larger, if a checkpoint covers them.
    pub total_bytes: u64,
}

/// Smaller segments would make a checkpoint of every few events.
pub const MIN_SEGMENT_BYTES: u64 = 1024 * 1024;

pub(crate) struct Segment {
    first: Seq,
    file: File,
    /// How much of the file is committed: what lies beyond does not exist for readers.
    len: AtomicU64,
}

impl Segment {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }
}

/// Why a commit did not happen.
#[derive(Debug)]
pub enum CommitError {
    /// Nothing of the batch is on disk; the next one may succeed.
    Rejected(io::Error),
    /// A sync failed, or the file is not there any more: what the disk holds is unknown, and only a new process may look.
    Unknown(io::Error),
}

/// The end of the log that appends. One per log, in the thread that owns the state.
pub struct Log {
    folder: PathBuf,
    limits: Limits,
    feed: Arc<Feed>,
    active: Arc<Segment>,
    /// The same to write; none if the disk was read-only at the start and nothing was committed since.
    out: Option<File>,
    /// Full segments, oldest first, with their paths.
    full: VecDeque<(Arc<Segment>, PathBuf)>,
    batch: Vec<u8>,
    /// The number after the last committed line, and after the last appended one.
    committed: Seq,
    next: Seq,
    covered: Seq,
}

/// A log that has just been opened.
pub struct Opened {
    /// To append.
    pub log: Log,
    /// No line was found that goes on from `after`: numbers go on, but this is another log.
    pub fresh: bool,
}

impl Log {
    /// Opens the log in `folder`, repairs its end, and hands every line after `after` to `apply`.
    ///
    /// A disk that is read-only is no error, if there is a log: it can be read, and each commit looks whether it can be
    /// written meanwhile.
    ///
    /// A torn end is cut. Files that are damaged before their end are renamed to `….damaged-<time>`, and the log starts
    /// afresh after the highest number they held.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(
        folder: &Path,
        limits: Limits,
        after: Seq,
        apply: impl FnMut(Seq, &str) -> Result<(), String>,
    ) -> io::Result<Opened> {
        let replayed = recovery::repair(folder, after, apply)?;
        let active_path = folder.join(recovery::ACTIVE);
        let fresh = replayed.next == 1 || replayed.segments.is_empty();
        let (file, out) = match open_segment(&active_path) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                trace::error(None, format_args!("{}: {error}", active_path.display()));
                (document::open(&active_path)?, None)
            }
            opened => {
                let file = opened?;
                document::sync_folder(folder)?;
                (file.try_clone()?, Some(file))
            }
        };
        let torn_at = replayed.torn_at();
        let mut full: VecDeque<_> = replayed.segments.into();
        if full.back().is_some_and(|found| found.path == active_path) {
            full.pop_back();
        }
        let len = torn_at.map_or_else(|| file.metadata().map(|data| data.len()), Ok)?;
        let first = if len == 0 {
            replayed.next
        } else {
            recovery::first_seq(&active_path)?.unwrap_or(replayed.next)
        };
        let active = Arc::new(Segment { first, file, len: AtomicU64::new(len) });
        let mut closed = VecDeque::new();
        for found in full {
            let file = document::open(&found.path)?;
            let len = AtomicU64::new(file.metadata()?.len());
            closed.push_back((Arc::new(Segment { first: found.first, file, len }), found.path));
        }
        let segments = closed.iter().map(|(segment, _)| segment.clone()).chain([active.clone()]).collect();
        let feed = Arc::new(Feed::new(segments, replayed.next));
        let (folder, next) = (folder.to_path_buf(), replayed.next);
        let log = Log {
            folder,
            limits,
            feed,
            active,
            out,
            full: closed,
            batch: Vec::new(),
            committed: next,
            next,
            covered: 0,
        };
        Ok(Opened { log, fresh })
    }

    /// What readers read.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// The number that the next line must have.
    pub fn next(&self) -> Seq {
        self.next
    }

    /// Bytes on disk, all segments together.
    pub fn bytes(&self) -> u64 {
        self.active.len() + self.full.iter().map(|(segment, _)| segment.len()).sum::<u64>()
    }

    /// Adds a line to the batch; nobody sees it before `commit`.
    pub fn append(&mut self, line: &str) {
        debug_assert!(!line.contains('\n') && seq_of(line.as_bytes()) == Some(self.next), "{line}");
        self.next += 1;
        self.batch.extend_from_slice(line.as_bytes());
        self.batch.push(b'\n');
    }

    /// Makes the batch durable with one write and one sync, then visible. `Some` number means that a segment was closed
    /// with it: time for a checkpoint.
    ///
    /// # Errors
    /// Either way the batch is dropped and no reader saw any of it.
    pub fn commit(&mut self) -> Result<Option<Seq>, CommitError> {
        if self.batch.is_empty() {
            return Ok(None);
        }
        let batch = std::mem::take(&mut self.batch);
        let next = std::mem::replace(&mut self.next, self.committed);
        let len = self.active.len();
        self.stay_in_place(len)?;
        let out = self.writer().map_err(CommitError::Rejected)?;
        if let Err(error) = out.write_all_at(&batch, len) {
            return Err(match out.set_len(len) {
                Ok(()) => CommitError::Rejected(error),
                Err(error) => CommitError::Unknown(error),
            });
        }
        let begun = Instant::now();
        out.sync_data().map_err(CommitError::Unknown)?;
        self.feed.syncs().add(begun.elapsed());
        self.active.len.store(len + batch.len() as u64, Ordering::Release);
        (self.committed, self.next) = (next, next);
        self.feed.publish(next);
        self.batch = batch;
        self.batch.clear();
        self.batch.shrink_to(64 * 1024);
        if self.active.len() < self.limits.segment_bytes {
            return Ok(None);
        }
        match self.rotate() {
            Ok(()) => Ok(Some(next - 1)),
            Err(CommitError::Rejected(error)) => {
                // The events are safe; only the segment grows past its bound until there is room for a new file.
                trace::warn(None, format_args!("the log's segment could not be closed: {error}"));
                Ok(None)
            }
            Err(unknown) => Err(unknown),
        }
    }

    /// Says that a checkpoint holds everything up to `seq`, and deletes old segments that it makes needless.
    pub fn forget_up_to(&mut self, seq: Seq) {
        self.covered = self.covered.max(seq);
        while self.bytes() > self.limits.total_bytes {
            let after_oldest = self.full.get(1).map_or(self.active.first, |(segment, _)| segment.first);
            if self.full.is_empty() || after_oldest > self.covered + 1 {
                return;
            }
            let Some((_, path)) = self.full.front() else { return };
            if let Err(error) = fs::remove_file(path) {
                trace::warn(None, format_args!("{} could not be deleted: {error}", path.display()));
                return;
            }
            self.full.pop_front();
            self.feed.drop_oldest();
        }
    }

    /// Makes sure that what is written will be found again: the file is still the one of its name, and as long as it was.
    /// Else all that is acknowledged from now on would be lost with the process, so it ends at once.
    fn stay_in_place(&self, len: u64) -> Result<(), CommitError> {
        let named = fs::metadata(self.folder.join(recovery::ACTIVE));
        let ours = self.active.file.metadata().map_err(CommitError::Rejected)?;
        match named {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) && named.len() >= len => {
                Ok(())
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CommitError::Rejected(error)),
            _ => Err(CommitError::Unknown(io::Error::other("the log's file was removed, replaced or cut"))),
        }
    }

    /// The active segment, to write. What could not be repaired at the start, since the disk was read-only, is now.
    fn writer(&mut self) -> io::Result<&File> {
        let out = match self.out.take() {
            Some(out) => out,
            None => {
                recovery::finish_rotation(&self.folder)?;
                let file = open_segment(&self.folder.join(recovery::ACTIVE))?;
                file.set_len(self.active.len())?;
                file
            }
        };
        Ok(self.out.insert(out))
    }

    /// Closes the active segment and begins a new one. `Rejected` means that all is as before; once a name has changed,
    /// anything that fails makes it unknown which file a restart would find under it.
    fn rotate(&mut self) -> Result<(), CommitError> {
        let active_path = self.folder.join(recovery::ACTIVE);
        let full_path = self.folder.join(recovery::full_name(self.active.first));
        let new_path = self.folder.join(recovery::NEW);
        let out = open_segment(&new_path).map_err(CommitError::Rejected)?;
        let file = out.try_clone().map_err(CommitError::Rejected)?;
        fs::rename(&active_path, &full_path).map_err(CommitError::Rejected)?;
        fs::rename(&new_path, &active_path)
            .and_then(|()| document::sync_folder(&self.folder))
            .map_err(CommitError::Unknown)?;
        let new = Arc::new(Segment { first: self.next, file, len: AtomicU64::new(0) });
        self.feed.add(new.clone());
        self.out = Some(out);
        self.full.push_back((std::mem::replace(&mut self.active, new), full_path));
        Ok(())
    }
}

/// Opens what a folder holds for reading, up to its last whole line.
fn look(folder: &Path) -> io::Result<(VecDeque<Arc<Segment>>, Seq)> {
    let replayed = replay(folder, 0, |_, _| Ok(()))?;
    let mut segments = VecDeque::new();
    for found in replayed.segments.iter().filter(|found| found.first < replayed.next) {
        let file = document::open(&found.path)?;
        let len = AtomicU64::new(file.metadata()?.len());
        segments.push_back(Arc::new(Segment { first: found.first, file, len }));
    }
    if let (Some(last), Some(torn_at)) = (segments.back(), replayed.torn_at()) {
        last.len.store(torn_at, Ordering::Release);
    }
    Ok((segments, replayed.next))
}

fn open_segment(path: &Path) -> io::Result<File> {
    if path.exists() {
        document::open(path)?; // what is no file would hold up whoever reads it
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The number that a line begins with.
pub fn seq_of(line: &[u8]) -> Option<Seq> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let end = digits.iter().position(|&byte| byte == b',')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
