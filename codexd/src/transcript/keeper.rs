//! The one that writes transcripts, on the main thread.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::document::{self, Durability};
use common::engine::STORAGE_RETRY;
use common::log::{self, Cursor, Feed, Got, Seq};
use common::trace;

use super::{Transcripts, file, folder};
use crate::cut::{MAX_WHOLE_BYTES, Whole};
use crate::event::{self, Event, Record};
use crate::sessions::MAX_RUNNING_TRANSCRIPT_BYTES;
use crate::state::State;

/// Lines that a repair holds before it writes them: many of one file at once, and no more memory than this.
const HELD_BYTES: usize = 4 * 1024 * 1024;
/// Transcripts that go at once: each is an event, and a batch is to stay small.
const MAX_CHOSEN: usize = 256;
/// What goes beyond the bound, as a part of it, so that not every line that follows lets another one go.
const SLACK: u64 = 16;

/// What writes transcripts. Nothing that goes wrong with them stops the daemon: what could not be written is taken from
/// the log again a little later.
pub struct Keeper {
    shared: Arc<Transcripts>,
    total_bytes: u64,
    kept: HashMap<String, Kept>,
    /// The file that was last written: items of one turn tend to follow each other.
    open: Option<(String, File)>,
    /// The first line that is not where it belongs; none is written until it is.
    behind: Option<Seq>,
    /// When what is behind is tried again.
    retry_at: Duration,
    /// When the core was last asked to let transcripts go.
    asked_at: Option<Duration>,
}

/// The files of one session.
#[derive(Default)]
struct Kept {
    lines: u64,
    wholes: BTreeMap<String, u64>,
}

impl Kept {
    fn bytes(&self) -> u64 {
        self.lines + self.wholes.values().sum::<u64>()
    }
}

impl Keeper {
    /// Takes up the transcripts below a state directory, which may hold `total_bytes` together.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(state: &Path, total_bytes: u64) -> io::Result<Keeper> {
        let folder = folder(state);
        if let Err(error) = document::make_folder(&folder) {
            trace::warn(None, format_args!("{} cannot be made: {error}", folder.display()));
        }
        let mut kept: HashMap<String, Kept> = HashMap::new();
        for found in file::list(&folder)? {
            let of_it = kept.entry(found.session_id).or_default();
            match found.sha1 {
                None => of_it.lines = found.bytes,
                Some(sha1) => drop(of_it.wholes.insert(sha1, found.bytes)),
            }
        }
        let keeper = Keeper {
            shared: Arc::new(Transcripts::new(folder)),
            total_bytes,
            kept,
            open: None,
            behind: None,
            retry_at: Duration::ZERO,
            asked_at: None,
        };
        let bytes = keeper.kept.values().map(Kept::bytes).sum();
        keeper.shared.bytes.store(bytes, Ordering::Relaxed);
        Ok(keeper)
    }

    /// What other threads need.
    pub fn shared(&self) -> &Arc<Transcripts> {
        &self.shared
    }

    /// Adds a line of the log, which is committed, to a session's transcript.
    pub fn append(&mut self, session_id: &str, line: &str) {
        if self.behind.is_some() {
            return; // it is taken from the log in its turn
        }
        if let Err(error) = self.write(session_id, format!("{line}\n").as_bytes()) {
            self.fall_behind(log::seq_of(line.as_bytes()).unwrap_or_default(), &error);
        }
    }

    /// Makes durable what a line that is to be committed holds cut.
    ///
    /// # Errors
    /// That the disk takes no more: the line must not be committed then. What else is wrong with the folder is told, and
    /// costs this one whole; so does one for which there is no room among the others.
    pub fn keep_whole(&mut self, session_id: &str, whole: &Whole) -> io::Result<()> {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        if self.shared.bytes() + whole.text.len() as u64 > self.total_bytes + MAX_WHOLE_BYTES as u64 {
            return Ok(()); // turns that run hold it all, and none of them can be let go of
        }
        match self.write_whole(session_id, whole) {
            Err(error) if !matches!(error.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull) => {
                trace::error(None, format_args!("an item cannot be kept whole: {error}"));
                Ok(())
            }
            written => written,
        }
    }

    fn write_whole(&mut self, session_id: &str, whole: &Whole) -> io::Result<()> {
        document::make_folder(&self.shared.folder)?;
        let path = self.shared.whole_of(session_id, &whole.sha1);
        document::write_text(&path, &whole.text, Durability::Power)?;
        self.change(session_id, |kept| {
            kept.wholes.insert(whole.sha1.clone(), whole.text.len() as u64);
        });
        Ok(())
    }

    /// Lets go of all that is kept of a session's turns.
    pub fn forget(&mut self, session_id: &str) {
        self.asked_at = None;
        self.open = None;
        let Some(kept) = self.kept.get(session_id) else { return };
        // The lines last: while they are there, nobody takes what is left for a transcript that has begun anew.
        let wholes = kept.wholes.keys().map(|sha1| self.shared.whole_of(session_id, sha1));
        let paths: Vec<_> = wholes.chain([self.shared.lines_of(session_id)]).collect();
        for path in paths {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return trace::warn(
                        None,
                        format_args!("{} could not be deleted: {error}", path.display()),
                    );
                }
                _ => {}
            }
        }
        self.change(session_id, |kept| *kept = Kept::default());
        self.kept.remove(session_id);
    }

    /// Takes lines that may be in their transcripts already, wholly or in part; `done` must follow.
    pub fn repair(&mut self) -> Repair<'_> {
        self.open = None;
        let _ = document::make_folder(&self.shared.folder); // without it, what is written fails, and says so
        Repair {
            keeper: self,
            from: None,
            begun: BTreeSet::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            failed: None,
        }
    }

    /// Writes what could not be written when it was time, if that is due, or if it is needed `at_once`.
    pub fn catch_up(&mut self, feed: &Feed, now: Duration, at_once: bool) {
        let Some(behind) = self.behind.filter(|_| at_once || now >= self.retry_at) else { return };
        self.retry_at = now + STORAGE_RETRY;
        let mut repair = self.repair();
        repair.from = Some(behind);
        let mut cursor = Cursor::after(behind.saturating_sub(1));
        loop {
            let got = feed.read(&mut cursor, HELD_BYTES, |_, line| {
                if let Ok(record) = event::parse(line) {
                    repair.take(&record, line);
                }
            });
            match got {
                Ok(Got::Lines) if repair.failed.is_none() => {}
                Ok(Got::Gap { from, to }) => trace::error(
                    None,
                    format_args!("events {from} to {to} are in no transcript: the log has forgotten them"),
                ),
                Ok(_) => break,
                Err(error) => {
                    repair.failed = Some(error);
                    break;
                }
            }
        }
        if repair.done() {
            self.behind = None;
            trace::info(None, format_args!("the transcripts hold everything again"));
        }
    }

    /// The transcripts that go first, each with its bytes: of the oldest closed session, then of the one that has been
    /// idle for the longest, and at last, if it alone is far too large, of one whose turn runs. None while there is room, or while the core was asked a moment ago.
    pub fn over(&mut self, state: &State, now: Duration) -> Vec<(String, u64)> {
        if self.shared.bytes() <= self.total_bytes || self.asked_at.is_some_and(|at| now < at + STORAGE_RETRY)
        {
            return Vec::new();
        }
        let of_nobody =
            self.kept.keys().filter(|id| state.session(id).is_none()).cloned().collect::<Vec<_>>();
        for session_id in of_nobody {
            self.forget(&session_id);
        }
        self.asked_at = Some(now);
        let mut left = self.shared.bytes();
        let aim = self.total_bytes - self.total_bytes / SLACK;
        let closed = state.sessions().filter(|session| !session.open);
        let mut idle: Vec<_> = state.sessions().filter(|session| session.open).collect();
        idle.sort_by_key(|session| session.updated_at);
        let mut chosen = Vec::new();
        let large =
            |id: &str| self.kept.get(id).is_some_and(|kept| kept.bytes() > MAX_RUNNING_TRANSCRIPT_BYTES);
        let at_last = state.sessions().filter(|session| session.turn.is_some() && large(&session.id));
        let resting = closed.chain(idle).filter(|session| session.turn.is_none());
        for session in resting.chain(at_last) {
            if left <= aim || chosen.len() == MAX_CHOSEN {
                break;
            }
            if let Some(bytes) = self.kept.get(&session.id).map(Kept::bytes) {
                left = left.saturating_sub(bytes);
                chosen.push((session.id.clone(), bytes));
            }
        }
        chosen
    }

    /// When there is something to do that no event will bring.
    pub fn wake_at(&self) -> Option<Duration> {
        let over =
            self.asked_at.filter(|_| self.shared.bytes() > self.total_bytes).map(|at| at + STORAGE_RETRY);
        self.behind.map(|_| self.retry_at).into_iter().chain(over).min()
    }

    /// Adds lines to a file; one that took only a part of them is as it was.
    fn write(&mut self, session_id: &str, lines: &[u8]) -> io::Result<()> {
        let path = self.shared.lines_of(session_id);
        let mut file = match self.open.take().filter(|(open, _)| open == session_id) {
            // Somebody may have deleted it: what is written to it then would be nowhere.
            Some((_, file)) if file.metadata().is_ok_and(|known| known.nlink() > 0) => file,
            _ => {
                let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
                let found = file.metadata()?.len();
                self.change(session_id, |kept| kept.lines = found);
                file
            }
        };
        if let Err(error) = file.write_all(lines) {
            let before = self.kept.get(session_id).map_or(0, |kept| kept.lines);
            let _ = file.set_len(before); // a repair cuts what this leaves
            return Err(error);
        }
        self.open = Some((session_id.to_owned(), file));
        self.change(session_id, |kept| kept.lines += lines.len() as u64);
        let mut unsynced = self.shared.lock();
        if !unsynced.contains(&path) {
            unsynced.insert(path);
        }
        Ok(())
    }

    fn fall_behind(&mut self, seq: Seq, error: &io::Error) {
        self.open = None;
        if self.behind.is_none() {
            trace::error(None, format_args!("a transcript cannot be written, and is left behind: {error}"));
        }
        self.behind = Some(self.behind.map_or(seq, |behind| behind.min(seq)));
    }

    /// Changes what is known of a session's files, and the sum of all with it.
    fn change(&mut self, session_id: &str, change: impl FnOnce(&mut Kept)) {
        if !self.kept.contains_key(session_id) {
            self.kept.insert(session_id.to_owned(), Kept::default());
        }
        let Some(kept) = self.kept.get_mut(session_id) else { return };
        let before = kept.bytes();
        change(kept);
        let after = kept.bytes();
        // Only this thread changes it.
        let bytes = self.shared.bytes() + after - before;
        self.shared.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// Writes again what the log holds, where the transcripts do not: after a crash, or after a disk that was full.
pub struct Repair<'a> {
    keeper: &'a mut Keeper,
    /// The first line that was taken.
    from: Option<Seq>,
    /// Transcripts that hold nothing of what was taken but what this wrote.
    begun: BTreeSet<String>,
    held: BTreeMap<String, Vec<u8>>,
    held_bytes: usize,
    failed: Option<io::Error>,
}

impl Repair<'_> {
    /// Takes the next line of the log.
    pub fn take(&mut self, record: &Record, line: &str) {
        if self.failed.is_some() {
            return;
        }
        self.from.get_or_insert(record.seq);
        self.failed = self.put(record, line).err();
    }

    fn put(&mut self, record: &Record, line: &str) -> io::Result<()> {
        match &record.event {
            Event::SessionRemoved { session_id, .. } => {
                self.held.remove(session_id);
                self.keeper.forget(session_id);
            }
            Event::TranscriptRemoved { session_id, .. } => {
                self.held.remove(session_id);
                let first = file::first_seq(&self.keeper.shared.lines_of(session_id))?;
                if first.is_some_and(|first| first < record.seq) {
                    self.keeper.forget(session_id); // else it has begun anew already
                }
            }
            event => {
                let Some(session_id) = event.transcribed() else { return Ok(()) };
                if !self.begun.contains(session_id) {
                    let left = file::cut_from(&self.keeper.shared.lines_of(session_id), record.seq)?;
                    self.keeper.change(session_id, |kept| kept.lines = left);
                    self.begun.insert(session_id.to_owned());
                }
                let held = self.held.entry(session_id.to_owned()).or_default();
                held.extend_from_slice(line.as_bytes());
                held.push(b'\n');
                self.held_bytes += line.len();
                if self.held_bytes >= HELD_BYTES {
                    return self.flush();
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.held_bytes = 0;
        for (session_id, lines) in std::mem::take(&mut self.held) {
            self.keeper.write(&session_id, &lines)?;
        }
        Ok(())
    }

    /// Writes what is left; `false` if not all could be written, which is tried again later.
    pub fn done(mut self) -> bool {
        if self.failed.is_none() {
            self.failed = self.flush().err();
        }
        if let (Some(error), Some(from)) = (&self.failed, self.from) {
            self.keeper.fall_behind(from, error);
        }
        self.failed.is_none()
    }
}
