//! Folders that go when the test has passed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A fresh folder. It is removed on drop, but stays for a look when the test panics or `BAA_KEEP` is set.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A folder of this test alone; panics if there can be none.
    #[track_caller]
    pub fn new() -> TempDir {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("baa-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path); // an older process of the same number kept it
        make(&path);
        // The system's folder may be a link (macOS), and what the peers report is the real path.
        TempDir(path.canonicalize().unwrap_or(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A new folder in it; panics if it cannot be made.
    #[track_caller]
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        make(&path);
        path
    }
}

impl Default for TempDir {
    fn default() -> TempDir {
        TempDir::new()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("BAA_KEEP").is_some() {
            return;
        }
        // A killed process's last threads may still be making a file.
        for _ in 0..100 {
            if fs::remove_dir_all(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[track_caller]
fn make(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
}
