//! Who leads: one file lock decides, one document tells.
//!
//! The lock is held by the process that leads, for as long as it lives, frozen or not; so two never lead. The document
//! says who that is and until when that was known. This file is all that knows how a lease is kept: on several machines it
//! would be kept elsewhere.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::document::{self, Durability};
use common::time::Timestamp;
use common::trace;
use serde::{Deserialize, Serialize};

use crate::config::{Config, millis};

/// More than a lease can be taken in the life of a machine; beyond it a document is nonsense.
const MAX_TERM: u64 = 1 << 53;
/// The largest of the documents that are looked at: a result that is kept.
const MAX_DOCUMENT_BYTES: u64 = 4 * 1024 * 1024;

/// What `lease.json` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) holder_id: String,
    pub(crate) holder_host: String,
    /// How often the lead has been taken: a higher one is a later one.
    pub(crate) term: u64,
    pub(crate) pid: u32,
    pub(crate) renewed_at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

/// How this node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseState {
    Leader,
    Standby,
    /// It leads, and cannot say so: its lease could not be renewed.
    Degraded,
}

impl LeaseState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LeaseState::Leader => "leader",
            LeaseState::Standby => "standby",
            LeaseState::Degraded => "degraded",
        }
    }
}

/// The lease as this node has it.
pub(crate) struct Lease {
    folder: PathBuf,
    ttl: Duration,
    /// A renewal that is late for so long has not merely failed: whoever should make it hangs.
    overdue: Duration,
    threshold: u64,
    standing: Mutex<Standing>,
    /// Held while the document is written, so that what is released stays so.
    writing: Mutex<()>,
}

/// Where this process is on its way to the lead.
enum Standing {
    /// It has not tried yet.
    Starting,
    Waiting,
    Leading(Leading),
}

struct Leading {
    document: Document,
    /// When the document was last written.
    renewed: Instant,
    failures: u64,
}

impl Lease {
    pub(crate) fn new(config: &Config) -> Lease {
        let attempts = u32::try_from(config.renew_failure_threshold).unwrap_or(u32::MAX).saturating_add(1);
        Lease {
            folder: config.state_dir.clone(),
            ttl: config.lease_ttl,
            overdue: config.lease_ttl.max(config.lease_renew_interval.saturating_mul(attempts)),
            threshold: config.renew_failure_threshold,
            standing: Mutex::new(Standing::Starting),
            writing: Mutex::default(),
        }
    }

    /// Opens the locks, which are not taken yet.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(crate) fn open(&self) -> io::Result<Locks> {
        let path = self.folder.join("lease.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        Ok(Locks([file, File::open(&self.folder)?]))
    }

    /// Says that somebody else holds the lock.
    pub(crate) fn wait(&self) {
        *self.standing() = Standing::Waiting;
    }

    /// The newest term that the document tells of; 0 if it tells of none that makes sense.
    pub(crate) fn last_term(&self) -> u64 {
        let document: Document = match document::read(&self.path()) {
            Ok(document) => document.unwrap_or_default(),
            Err(error) => {
                trace::warn(None, format_args!("{} cannot be read: {error}", self.path().display()));
                Document::default()
            }
        };
        if document.term > MAX_TERM { 0 } else { document.term }
    }

    /// Says that this process holds the lock and has written down that it leads.
    pub(crate) fn lead(&self, holder: Document) {
        let leading = Leading { document: holder, renewed: Instant::now(), failures: 0 };
        *self.standing() = Standing::Leading(leading);
    }

    /// Writes the document anew, if this process leads. What fails is counted, and returned when it changes how this node
    /// stands.
    pub(crate) fn renew(&self) -> Option<io::Error> {
        // A disk may take its time; nobody waits for the lock of `standing` meanwhile.
        let _writing = lock(&self.writing);
        let mut document = self.leading(|leading| leading.document.clone())?;
        document.renewed_at = Timestamp::now();
        document.expires_at = Timestamp::from_millis(document.renewed_at.millis() + millis(self.ttl));
        let written = document::write(&self.path(), &document, Durability::Process);
        self.leading(|leading| match written {
            Ok(()) => {
                *leading = Leading { document, renewed: Instant::now(), failures: 0 };
                None
            }
            Err(error) => {
                leading.failures += 1;
                (leading.failures == self.threshold).then_some(error)
            }
        })?
    }

    /// Lets the document expire, so that nobody takes a node that has ended for one that leads.
    pub(crate) fn release(&self) {
        let _writing = lock(&self.writing);
        if let Some(document) = self.leading(|leading| leading.document.clone()) {
            self.wait();
            let document = Document { expires_at: Timestamp::now(), ..document };
            let _ = document::write(&self.path(), &document, Durability::Process); // it expires by itself, too
        }
    }

    fn leading<T>(&self, look: impl FnOnce(&mut Leading) -> T) -> Option<T> {
        match &mut *self.standing() {
            Standing::Leading(leading) => Some(look(leading)),
            Standing::Starting | Standing::Waiting => None,
        }
    }

    /// Whether it is known who leads.
    pub(crate) fn has_started(&self) -> bool {
        !matches!(*self.standing(), Standing::Starting)
    }

    pub(crate) fn state(&self) -> LeaseState {
        match &*self.standing() {
            Standing::Leading(leading)
                if leading.failures >= self.threshold || leading.renewed.elapsed() > self.overdue =>
            {
                LeaseState::Degraded
            }
            Standing::Leading(_) => LeaseState::Leader,
            Standing::Starting | Standing::Waiting => LeaseState::Standby,
        }
    }

    /// Who holds the lease, by this process if it leads, else by the document; `None` if there is none that can be read.
    pub(crate) fn document(&self) -> Option<Document> {
        self.leading(|leading| leading.document.clone()).or_else(|| look(&self.path()))
    }

    fn path(&self) -> PathBuf {
        self.folder.join("lease.json")
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
    }
}

/// What it guards is whole whoever panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What decides who leads: the lock's file, and the folder of the state, since a file can be removed.
pub(crate) struct Locks([File; 2]);

impl Locks {
    /// Takes both if nobody has one of them.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn try_take(&self) -> io::Result<bool> {
        for lock in &self.0 {
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(false),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Waits for both.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn take(&self) -> io::Result<()> {
        self.0.iter().try_for_each(File::lock)
    }
}

/// A document of another process, as it stands; a damaged one is left to its owner. Never waits for what is no file.
pub(crate) fn look<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    document::open(path).ok()?.take(MAX_DOCUMENT_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(folder: &str) -> Lease {
        let folder = std::env::temp_dir().join(format!("baa-lease-{folder}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let (ttl, overdue) = (Duration::from_secs(30), Duration::from_secs(60));
        Lease {
            folder,
            ttl,
            overdue,
            threshold: 2,
            standing: Mutex::new(Standing::Starting),
            writing: Mutex::default(),
        }
    }

    fn holder(term: u64) -> Document {
        Document { holder_id: "a".into(), holder_host: "h".into(), term, pid: 1, ..Document::default() }
    }

    #[test]
    fn a_lease_that_cannot_be_renewed_degrades_at_the_threshold_and_recovers() {
        let lease = lease("renewed");
        assert!(!lease.has_started() && lease.renew().is_none() && lease.document().is_none());
        lease.wait();
        assert!(lease.has_started());
        assert_eq!((lease.state(), lease.last_term()), (LeaseState::Standby, 0));
        lease.lead(holder(7));
        assert!(lease.renew().is_none());
        assert_eq!((lease.state(), lease.last_term()), (LeaseState::Leader, 7));
        let document = lease.document().unwrap();
        assert_eq!(document.expires_at.millis() - document.renewed_at.millis(), 30_000);
        std::fs::remove_file(lease.path()).unwrap();
        std::fs::create_dir_all(lease.path().join("in-the-way")).unwrap();
        assert!(lease.renew().is_none());
        assert_eq!(lease.state(), LeaseState::Leader, "once is no pattern");
        assert!(lease.renew().is_some(), "it is told");
        assert_eq!(lease.state(), LeaseState::Degraded);
        assert!(lease.renew().is_none(), "once");
        std::fs::remove_dir_all(lease.path()).unwrap();
        assert!(lease.renew().is_none());
        assert_eq!(lease.state(), LeaseState::Leader);
        lease.release();
        assert!(look::<Document>(&lease.path()).unwrap().expires_at <= Timestamp::now());
    }

    #[test]
    fn a_document_that_makes_no_sense_tells_no_term() {
        let lease = lease("nonsense");
        for term in [MAX_TERM + 1, u64::MAX] {
            document::write(&lease.path(), &holder(term), Durability::Process).unwrap();
            assert_eq!(lease.last_term(), 0, "{term}");
        }
        std::fs::remove_file(lease.path()).unwrap();
        std::fs::create_dir(lease.path()).unwrap();
        assert_eq!((lease.last_term(), lease.document()), (0, None));
    }

    #[test]
    fn a_renewal_that_hangs_degrades_too() {
        let lease = Lease { overdue: Duration::ZERO, ..lease("overdue") };
        lease.lead(holder(1));
        assert_eq!(lease.state(), LeaseState::Degraded);
    }

    #[test]
    fn one_has_the_lock_and_the_next_gets_it_when_it_goes() {
        let lease = lease("lock");
        let (first, second) = (lease.open().unwrap(), lease.open().unwrap());
        assert!(first.try_take().unwrap() && !second.try_take().unwrap());
        std::fs::remove_file(lease.folder.join("lease.lock")).unwrap();
        let third = lease.open().unwrap();
        assert!(!third.try_take().unwrap(), "a lock whose file is removed holds");
        drop((first, third));
        assert!(second.try_take().unwrap());
    }
}
