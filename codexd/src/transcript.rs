//! Transcripts: what is kept of a session's turns when the log has forgotten them.
//!
//! One append-only file a session, `transcripts/<session id>.jsonl`, holds those lines of the log that tell what turns were
//! asked and what they came to, byte for byte; beside it, `<session id>.<hash>.json` holds whole what a line holds cut. The
//! lines are written after the log's commit and synced before the checkpoint that covers them, so what a crash takes is
//! written again from the log. What is held whole is synced before its line is committed, since it is nowhere else.
//!
//! `keeper` writes, `file` finds its way in the files, `turns` makes turns of lines, `read` answers.

mod entry;
mod file;
mod keeper;
mod read;
mod turns;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use common::document;

pub use keeper::Keeper;

/// What all threads share of the transcripts.
pub struct Transcripts {
    folder: PathBuf,
    /// What all files hold together.
    bytes: AtomicU64,
    /// Files with lines that no sync has covered.
    unsynced: Mutex<BTreeSet<PathBuf>>,
}

impl Transcripts {
    fn new(folder: PathBuf) -> Transcripts {
        Transcripts { folder, bytes: AtomicU64::new(0), unsynced: Mutex::default() }
    }

    /// The transcripts below a state directory, for a process that only looks.
    ///
    /// # Errors
    /// Any error of the file system but a missing folder.
    pub fn look(state: &Path) -> io::Result<Transcripts> {
        let transcripts = Transcripts::new(folder(state));
        let found = file::list(&transcripts.folder)?;
        let bytes = found.into_iter().map(|found| found.bytes).sum();
        transcripts.bytes.store(bytes, Ordering::Relaxed);
        Ok(transcripts)
    }

    /// What all files hold together.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Makes everything that was written before the call survive a loss of power.
    ///
    /// # Errors
    /// Any error of the file system; the next call tries the same again.
    pub fn sync(&self) -> io::Result<()> {
        let unsynced = std::mem::take(&mut *self.lock());
        let synced = (|| {
            // What is gone needs no sync.
            let there = |synced: io::Result<()>| match synced {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                synced => synced,
            };
            for path in &unsynced {
                there(File::open(path).and_then(|file| file.sync_data()))?;
            }
            there(document::sync_folder(&self.folder))
        })();
        if synced.is_err() {
            self.lock().extend(unsynced);
        }
        synced
    }

    fn lines_of(&self, session_id: &str) -> PathBuf {
        self.folder.join(format!("{session_id}.jsonl"))
    }

    fn whole_of(&self, session_id: &str, sha1: &str) -> PathBuf {
        self.folder.join(format!("{session_id}.{sha1}.json"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        // Nothing panics while it is held; were it so, the paths in it would still be whole.
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn folder(state: &Path) -> PathBuf {
    state.join("transcripts")
}
