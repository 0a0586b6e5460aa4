//! Who did what on this machine: a line for each call of a host operation, in a file that several processes append to.
//!
//! Owns the file's bound and its one older file. Never sees what is in files or what a command prints.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::error::STORAGE_FAILED;
use common::time::Timestamp;
use common::trace::{self, Level};
use common::{Error, document};
use serde::Serialize;

use crate::config::millis;

const FILE: &str = "audit.jsonl";
/// Some 60 000 calls, and as many in the older file.
const MAX_AUDIT_BYTES: u64 = 16 * 1024 * 1024;
/// Both files.
pub(crate) const MAX_AUDITS_BYTES: u64 = 2 * MAX_AUDIT_BYTES;
/// The file is held for one write; who holds it longer is stopped, and nobody waits for that.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
/// The largest command and the largest path fit; of what is refused anyway this much is kept.
const MAX_WHAT_BYTES: usize = 128 * 1024;

/// The outcome of a call that has only begun.
const STARTED: &str = "started";

/// The file.
pub(super) struct Audit {
    path: PathBuf,
    max_bytes: u64,
}

/// Who asks.
pub(crate) struct Caller<'a> {
    pub(crate) request_id: &'a str,
    /// An address, or a part of this daemon.
    pub(crate) peer: String,
}

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    at: Timestamp,
    request_id: &'a str,
    peer: &'a str,
    operation: &'a str,
    what: &'a str,
    #[serde(rename = "where")]
    place: Option<&'a Path>,
    outcome: &'a str,
    duration_ms: Option<u64>,
}

/// A call on its way.
pub(super) struct Call<'a> {
    audit: &'a Audit,
    caller: &'a Caller<'a>,
    operation: &'static str,
    what: &'a str,
    place: Option<&'a Path>,
    since: Instant,
}

impl Audit {
    /// The audit in this folder; neither needs to be there yet.
    pub(super) fn new(folder: &Path) -> Audit {
        Audit { path: folder.join(FILE), max_bytes: MAX_AUDIT_BYTES }
    }

    /// A call that begins now: a command or a path, and the folder that it is meant in.
    pub(super) fn call<'a>(
        &'a self,
        caller: &'a Caller<'a>,
        operation: &'static str,
        what: &'a str,
        place: Option<&'a Path>,
    ) -> Call<'a> {
        let what = &what[..what.floor_char_boundary(MAX_WHAT_BYTES)];
        Call { audit: self, caller, operation, what, place, since: Instant::now() }
    }

    /// Appends a line; `durable` outlives the loss of power.
    fn append(&self, line: &Line<'_>, durable: bool) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let folder = self.path.parent().unwrap_or(Path::new("."));
        document::make_folder(folder)?;
        let deadline = Instant::now() + LOCK_WITHIN;
        loop {
            let file =
                OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
            lock(&file, deadline)?;
            let data = file.metadata()?;
            if !self.is_at_its_path(&data) {
                continue; // another process has begun a new one
            }
            if data.len() > 0 && data.len() + text.len() as u64 > self.max_bytes {
                fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
                continue;
            }
            if data.mode() & 0o077 != 0 {
                file.set_permissions(Permissions::from_mode(0o600))?;
            }
            write(&file, data.len(), &text)?;
            file.unlock()?;
            return match (durable, data.len()) {
                (false, _) => Ok(()),
                (true, 0) => file.sync_data().and_then(|()| document::sync_folder(folder)),
                (true, _) => file.sync_data(),
            };
        }
    }

    fn is_at_its_path(&self, data: &fs::Metadata) -> bool {
        fs::metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == (data.dev(), data.ino()))
    }
}

impl Call<'_> {
    /// Says that it begins; when this returns, no crash can hide it.
    ///
    /// # Errors
    /// `storage_failed`: nothing may be done that would leave no trace.
    pub(super) fn begin(&self) -> Result<(), Error> {
        self.audit.append(&self.line(STARTED, None), true).map_err(|error| self.untold(error))
    }

    /// Says how a call ended that changes nothing, and so left no line before.
    ///
    /// # Errors
    /// `storage_failed`: nothing may be given out that would leave no trace.
    pub(super) fn tell(&self, outcome: &str) -> Result<(), Error> {
        let line = self.line(outcome, Some(millis(self.since.elapsed())));
        self.audit.append(&line, false).map_err(|error| self.untold(error))
    }

    fn untold(&self, error: io::Error) -> Error {
        let message = "The audit cannot be written, so nothing was done.";
        Error::new(STORAGE_FAILED, message).because(format!("{}: {error}", self.audit.path.display()))
    }

    /// Says how it ended: `ok`, or a code.
    pub(super) fn end(&self, outcome: &str) {
        let line = self.line(outcome, Some(millis(self.since.elapsed())));
        if let Err(error) = self.audit.append(&line, false) {
            let (operation, path) = (self.operation, self.audit.path.display());
            trace::write(
                Level::Error,
                Some(self.caller.request_id),
                format_args!("{operation} ended, and {path} cannot be written: {error}"),
                &[("outcome", outcome.into())],
            );
        }
    }

    fn line<'a>(&'a self, outcome: &'a str, duration_ms: Option<u64>) -> Line<'a> {
        let Call { caller, operation, what, place, .. } = *self;
        let (at, peer, request_id) = (Timestamp::now(), &caller.peer, caller.request_id);
        Line { at, request_id, peer, operation, what, place, outcome, duration_ms }
    }
}

/// Waits for the lock, which goes with the file; not for ever, as `File::lock` would for a holder that was stopped.
fn lock(file: &File, deadline: Instant) -> io::Result<()> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::Error(error)) => return Err(error),
            Err(fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(io::Error::new(ErrorKind::TimedOut, "another process holds it"));
            }
            Err(fs::TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Writes a whole line or none, on a line of its own: a process that was killed may have left half of one.
fn write(file: &File, length: u64, text: &[u8]) -> io::Result<()> {
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    let whole = if last == [b'\n'] { text.to_vec() } else { [b"\n", text].concat() };
    let mut file = file;
    file.write_all(&whole).inspect_err(|_| {
        let _ = file.set_len(length); // the part of it that is there says nothing
    })
}

#[cfg(test)]
mod tests;
