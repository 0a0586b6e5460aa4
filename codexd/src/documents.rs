//! What is written beside the log: the checkpoint that recovery starts from, and the documents that people read.
//!
//! One thread writes both, from snapshots; the loop never waits for it. The documents are views: recovery reads the
//! checkpoint and the log alone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::document::{self, Durability};
use common::log::{self, Feed};
use common::{checkpoint, trace};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::core::{Input, Snapshot};
use crate::event;
use crate::state::State;
use crate::transcript::Transcripts;
use crate::views::{self, Place};

/// How far apart the documents are written at the least.
pub const VIEWS_EVERY: Duration = Duration::from_millis(100);
/// How far behind the first change they are written.
pub const VIEWS_LAG: Duration = Duration::from_millis(50);
/// After documents took so long, they rest this many times as long, so that many sessions cost a twentieth at most.
pub const VIEWS_PAUSE: u32 = 19;

/// Where everything of codexd lies.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `state/codexd`.
    pub state: PathBuf,
    /// `logs/codexd`.
    pub logs: PathBuf,
}

impl Paths {
    /// A file of the state directory.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// A file of the logs directory.
    pub fn logs(&self, name: &str) -> PathBuf {
        self.logs.join(name)
    }
}

/// The newest checkpoint that can be read, else an empty state. With `repair`, one that is damaged is set aside.
///
/// # Errors
/// Any error of the file system.
pub fn read_checkpoint(paths: &Paths, repair: bool) -> io::Result<State> {
    Ok(checkpoint::read(&paths.state, repair)?.map(State::index).unwrap_or_default())
}

/// What the directories hold, as a daemon would take it up; nothing is written.
///
/// # Errors
/// Any error of the file system; `InvalidData` if the log is damaged, so that not all of it could be taken up.
pub fn replay(paths: &Paths) -> io::Result<State> {
    let mut state = read_checkpoint(paths, false)?;
    let after = state.seq();
    if paths.logs.exists() {
        let replayed =
            log::replay(&paths.logs, after, |_, line| event::parse(line).map(|record| state.apply(&record)))?;
        if let Some(why) = replayed.damage() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the log is damaged: {why}")));
        }
    }
    Ok(state)
}

enum Job {
    Views(Box<Snapshot>),
    Checkpoint(Box<State>),
}

/// The end that offers.
pub struct Documents {
    views: Sender<Job>,
    checkpoints: Sender<Job>,
    last_took: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Documents {
    /// Starts the thread. `inbox` learns of each checkpoint that is safe on disk, as the number it covers.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        paths: Paths,
        place: Place,
        feed: Arc<Feed>,
        transcripts: Arc<Transcripts>,
        inbox: Sender<Input>,
    ) -> io::Result<Documents> {
        let (views, view_jobs) = bounded(1);
        let (checkpoints, checkpoint_jobs) = bounded(1);
        let last_took = Arc::new(AtomicU64::new(0));
        let writer = Writer { paths, place, feed, transcripts, inbox, last_took: last_took.clone() };
        let thread = thread::Builder::new()
            .name("documents".into())
            .spawn(move || writer.run(&view_jobs, &checkpoint_jobs))?;
        Ok(Documents { views, checkpoints, last_took, thread })
    }

    /// Offers what the documents should say now; `false` if the thread is still at the last ones.
    pub fn offer(&self, snapshot: Snapshot) -> bool {
        self.views.try_send(Job::Views(Box::new(snapshot))).is_ok()
    }

    /// How long the documents took when they were last written.
    pub fn last_took(&self) -> Duration {
        Duration::from_micros(self.last_took.load(Ordering::Relaxed))
    }

    /// Offers a checkpoint; it is skipped if the thread is still at the last one.
    pub fn checkpoint(&self, state: State) {
        if let Err(TrySendError::Full(_)) = self.checkpoints.try_send(Job::Checkpoint(Box::new(state))) {
            trace::debug(None, format_args!("a checkpoint is skipped: the last one is still being written"));
        }
    }

    /// Writes the last documents and the last checkpoint, and waits for both, at most `patience`.
    pub fn finish(self, snapshot: Snapshot, state: State, patience: Duration) {
        let until = Instant::now() + patience;
        let _ = self.views.send_deadline(Job::Views(Box::new(snapshot)), until);
        let _ = self.checkpoints.send_deadline(Job::Checkpoint(Box::new(state)), until);
        drop((self.views, self.checkpoints));
        while !self.thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Writer {
    paths: Paths,
    place: Place,
    feed: Arc<Feed>,
    transcripts: Arc<Transcripts>,
    inbox: Sender<Input>,
    /// In microseconds.
    last_took: Arc<AtomicU64>,
}

impl Writer {
    fn run(&self, views: &Receiver<Job>, checkpoints: &Receiver<Job>) {
        // It never changes, so it is not written with the others.
        let runs =
            document::write(&self.paths.state("run-registry.json"), &views::runs(), Durability::Process);
        tell(runs);
        let (mut views_open, mut checkpoints_open) = (true, true);
        let never = crossbeam_channel::never();
        while views_open || checkpoints_open {
            let (views, checkpoints) = (
                if views_open { views } else { &never },
                if checkpoints_open { checkpoints } else { &never },
            );
            crossbeam_channel::select! {
                recv(views) -> job => match job {
                    Ok(job) => self.work(&job),
                    Err(_) => views_open = false,
                },
                recv(checkpoints) -> job => match job {
                    Ok(job) => self.work(&job),
                    Err(_) => checkpoints_open = false,
                },
            }
        }
    }

    fn work(&self, job: &Job) {
        let written = match job {
            Job::Views(snapshot) => {
                let started = Instant::now();
                let written = write_views(&self.paths, &self.place, snapshot, &self.feed);
                let took = started.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
                self.last_took.store(took, Ordering::Relaxed);
                written
            }
            // What a checkpoint covers is never taken from the log again, so it must stand in the transcripts first.
            Job::Checkpoint(state) => self
                .transcripts
                .sync()
                .and_then(|()| checkpoint::write(&self.paths.state, state.seq(), &**state))
                .map(|()| {
                    let _ = self.inbox.send(Input::Checkpointed(state.seq()));
                }),
        };
        tell(written);
    }
}

fn tell(written: io::Result<()>) {
    if let Err(error) = written {
        trace::warn(None, format_args!("a document could not be written: {error}"));
    }
}

fn write_views(paths: &Paths, place: &Place, snapshot: &Snapshot, feed: &Feed) -> io::Result<()> {
    let write = |name: &str, value: &serde_json::Value| {
        document::write(&paths.state(name), value, Durability::Process)
    };
    write("daemon-state.json", &views::daemon(snapshot, place))?;
    write("session-registry.json", &views::registry(snapshot, place, views::MAX_REGISTRY_BYTES))?;
    write("recent-events.json", &views::recent(snapshot, feed)?)
}

/// Reads or draws the daemon's own name, which stays with its state directory.
///
/// # Errors
/// Any error of the file system.
pub fn identity(path: &Path, place: &mut Place, version: &str) -> io::Result<()> {
    let known: Option<serde_json::Value> = document::read(path)?;
    place.daemon_id = match known.as_ref().and_then(|known| known["daemonId"].as_str()) {
        Some(daemon_id) => daemon_id.to_owned(),
        None => format!("codexd-{}", &common::random_id()?[..16]),
    };
    let identity = views::identity(place, version);
    if known.as_ref() == Some(&identity) {
        return Ok(()); // a disk without room is no reason not to start
    }
    document::write(path, &identity, Durability::Power)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::transcript::Keeper;

    #[test]
    fn no_checkpoint_covers_what_the_transcripts_may_lose() {
        let folder = std::env::temp_dir().join(format!("baa-documents-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let paths = Paths { state: folder.clone(), logs: folder.join("logs") };
        let place = Place {
            daemon_id: String::new(),
            node_id: String::new(),
            repo_root: String::new(),
            endpoint: String::new(),
            strategy: "spawn",
        };
        let mut keeper = Keeper::open(&folder, 1 << 20).unwrap();
        keeper.append("session-a-1", r#"{"seq":1}"#);
        let (here, aside) = (folder.join("transcripts"), folder.join("aside"));
        fs::rename(&here, &aside).unwrap();
        fs::write(&here, "in the way").unwrap();
        for expected in [false, true] {
            let feed = Arc::new(Feed::open(&paths.logs).unwrap());
            let ((inbox, told), shared) = (bounded(8), keeper.shared().clone());
            let documents = Documents::start(paths.clone(), place.clone(), feed, shared, inbox).unwrap();
            let state = State::default();
            documents.finish(Snapshot::new(&state, 1), state, Duration::from_secs(20));
            assert_eq!((paths.state("checkpoint.json").exists(), told.len() == 1), (expected, expected));
            if !expected {
                fs::remove_file(&here).unwrap();
                fs::rename(&aside, &here).unwrap();
            }
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
