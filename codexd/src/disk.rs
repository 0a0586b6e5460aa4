//! What codexd and its child hold on disk, for whoever reads the status.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::document;
use common::log::Feed;
use serde_json::{Value, json};

use crate::transcript::Transcripts;

/// How long the size of the child's home stands before it is looked at again: it may have many files.
pub const HOME_EVERY: Duration = Duration::from_secs(60);
/// Files and folders of the child's home that are looked at. It has two or three a thread; a look at so many takes half a
/// second. The size of one with more is not known.
pub const MAX_HOME_ENTRIES: usize = 200_000;

/// Where to look, and what was found when somebody last did.
pub struct Disk {
    state: PathBuf,
    transcripts: Arc<Transcripts>,
    home: Option<PathBuf>,
    home_bytes: Mutex<Option<(Instant, Option<u64>)>>,
}

impl Disk {
    /// A state directory, and the home of a child that is codexd's own; `None` if it is somebody else's.
    pub fn new(state: PathBuf, transcripts: Arc<Transcripts>, home: Option<PathBuf>) -> Disk {
        Disk { state, transcripts, home, home_bytes: Mutex::new(None) }
    }

    /// The transcripts.
    pub fn transcripts(&self) -> &Transcripts {
        &self.transcripts
    }

    /// `disk` of the snapshot.
    pub fn view(&self, feed: &Feed) -> Value {
        let transcripts_bytes = self.transcripts.bytes();
        json!({
            "logBytes": feed.bytes(),
            "oldestSeq": feed.oldest(),
            "latestSeq": feed.latest(),
            "transcriptsBytes": transcripts_bytes,
            "stateBytes": document::bytes_in(&self.state).map(|bytes| bytes + transcripts_bytes).ok(),
            "codexHomeBytes": self.home_bytes(),
        })
    }

    /// One looks, and whoever asks meanwhile waits for what it finds.
    fn home_bytes(&self) -> Option<u64> {
        let home = self.home.as_ref()?;
        let mut found = self.home_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        match *found {
            Some((at, bytes)) if at.elapsed() < HOME_EVERY => bytes,
            _ => {
                let bytes = tree(home, MAX_HOME_ENTRIES).ok().flatten();
                *found = Some((Instant::now(), bytes));
                bytes
            }
        }
    }
}

/// The home of a child that is started with the environment of this process.
pub fn codex_home() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CODEX_HOME").or_else(|| Some(set("HOME")?.join(".codex")))
}

/// The bytes of all files below a folder, links not followed; `None` if it has more than `most` entries. What vanishes
/// meanwhile is nothing.
fn tree(folder: &Path, most: usize) -> io::Result<Option<u64>> {
    let (mut ahead, mut bytes, mut entries) = (vec![fs::read_dir(folder)?], 0, 0);
    while let Some(here) = ahead.pop() {
        for entry in here.flatten() {
            entries += 1;
            if entries > most {
                return Ok(None);
            }
            match entry.metadata() {
                Ok(data) if data.is_dir() => ahead.extend(fs::read_dir(entry.path())),
                Ok(data) if data.is_file() => bytes += data.len(),
                _ => {}
            }
        }
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_is_measured_once_without_its_links_and_up_to_a_bound() {
        let folder = std::env::temp_dir().join(format!("baa-disk-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("a/b")).unwrap();
        for (name, bytes) in [("one", 10), ("a/two", 200), ("a/b/three", 3000)] {
            fs::write(folder.join(name), vec![0; bytes]).unwrap();
        }
        symlink(&folder, folder.join("a/loop")).unwrap();
        symlink("/nowhere", folder.join("a/dangling")).unwrap();
        assert_eq!(tree(&folder, 7).unwrap(), Some(3210));
        assert_eq!(tree(&folder, 6).unwrap(), None, "more than may be looked at");
        assert!(tree(&folder.join("none"), 7).is_err());

        let transcripts = Arc::new(Transcripts::look(&folder).unwrap());
        let disk = Disk::new(folder.clone(), transcripts.clone(), Some(folder.clone()));
        assert_eq!((disk.home_bytes(), document::bytes_in(&folder).unwrap()), (Some(3210), 10));
        fs::write(folder.join("four"), [0; 4]).unwrap();
        assert_eq!(disk.home_bytes(), Some(3210), "it was looked at a moment ago");
        assert_eq!(Disk::new(folder.clone(), transcripts, None).home_bytes(), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
