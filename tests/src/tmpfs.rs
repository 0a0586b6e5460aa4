//! A small disk of a test's own, which can be full or read-only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs. It is unmounted on drop, also when the test panics; should the test be killed, the watchdog of
/// [`crate::process`] does it.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one of `size` (`4m`) at a new folder. Where that is not allowed, says so in one line; with `CI=true` that is
    /// a panic.
    #[track_caller]
    pub fn mount(path: &Path, size: &str) -> Option<Tmpfs> {
        crate::process::watchdog();
        let made = fs::create_dir_all(path);
        let options = format!("size={size},mode=700");
        let mounted = made
            .map_err(|error| error.to_string())
            .and_then(|()| run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], path));
        match mounted {
            Ok(()) => Some(Tmpfs(path.to_owned())),
            Err(why) => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "no tmpfs can be mounted: {why}");
                crate::figures::print(&format!("skipped a disk that is full or read-only: {why}"));
                None
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Nobody can write there any more; panics if somebody has a file open to write.
    #[track_caller]
    pub fn read_only(&self) {
        run("mount", &["-o", "remount,ro"], &self.0).unwrap_or_else(|why| panic!("{why}"));
    }

    /// Everybody can again.
    #[track_caller]
    pub fn writable(&self) {
        run("mount", &["-o", "remount,rw"], &self.0).unwrap_or_else(|why| panic!("{why}"));
    }

    /// Takes all room that is left.
    #[track_caller]
    pub fn fill(&self) {
        let opened = OpenOptions::new().create(true).append(true).open(self.ballast());
        let mut file = opened.unwrap_or_else(|error| panic!("ballast: {error}"));
        // Ever smaller pieces, so that not even a part of a page is left.
        for size in [64 * 1024, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    /// Gives it back.
    #[track_caller]
    pub fn free(&self) {
        let freed = File::create(self.ballast());
        freed.unwrap_or_else(|error| panic!("ballast: {error}"));
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: whoever still has a file there open keeps nothing but that file.
        if let Err(why) = run("umount", &["-l"], &self.0) {
            let _ = writeln!(io::stderr(), "{why}");
        }
    }
}

fn run(program: &str, args: &[&str], path: &Path) -> Result<(), String> {
    let ran = Command::new(program).args(args).arg(path).output();
    let output = ran.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}
