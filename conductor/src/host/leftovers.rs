//! Commands that a killed process of ours left running: each that runs has a file that names it and who started it.
//!
//! A process that starts, or takes the lead, ends those whose starter is gone. What is started in the moment of the kill, or
//! leaves its group, is not found.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use common::document::{self, Durability};
use common::{child, trace};
use serde::{Deserialize, Serialize};

use crate::lease;

/// The folder of these files.
#[derive(Clone)]
pub(crate) struct Leftovers(PathBuf);

/// A process group that runs for us.
#[derive(Serialize, Deserialize)]
struct Running {
    pgid: u32,
    process_mark: String,
    starter: u32,
    starter_mark: String,
}

/// The file of a command, for as long as that runs.
pub(super) struct Note(PathBuf);

impl Leftovers {
    pub(crate) fn new(state_dir: &Path) -> Leftovers {
        Leftovers(state_dir.join("execs"))
    }

    /// Names a group that was just started. Without a file it runs all the same, and is not found if we are killed.
    pub(super) fn note(&self, pgid: u32) -> Option<Note> {
        let path = self.0.join(format!("{pgid}.json"));
        let starter = std::process::id();
        let marks = child::start_mark(pgid).zip(child::start_mark(starter));
        let (process_mark, starter_mark) = marks?; // it has ended already
        let running = Running { pgid, process_mark, starter, starter_mark };
        let written = document::make_folder(&self.0)
            .and_then(|()| document::write(&path, &running, Durability::Process));
        if let Err(error) = written {
            trace::warn(None, format_args!("{} could not be written: {error}", path.display()));
        }
        Some(Note(path))
    }

    /// Ends every group whose starter is gone.
    pub(crate) fn end(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let running: Option<Running> = lease::look(&entry.path());
            if let Some(Running { pgid, process_mark, starter, starter_mark }) = running {
                if child::is_alive(starter, &starter_mark) {
                    continue;
                }
                if child::end_leftover(pgid, &process_mark) {
                    trace::warn(
                        None,
                        format_args!("command {pgid} of a conductor that died still ran, and is ended"),
                    );
                }
            }
            remove(&entry.path());
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            trace::warn(None, format_args!("{} could not be removed: {error}", path.display()));
        }
        _ => {}
    }
}
