//! The results of commands that ran under an idempotency key, a file each, for as long as the key is remembered.
//!
//! Written whole by the thread that ran the command, before the log says that it ended; recovery needs none of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use common::document::{self, Durability};
use common::trace;
use serde_json::Value;

use crate::lease;
use crate::state::{Exec, State};

/// Keeps a result: how many bytes it takes.
///
/// # Errors
/// Any error of the file system.
pub(crate) fn keep(state_dir: &Path, hash: &str, result: &Value) -> io::Result<u64> {
    document::make_folder(&folder(state_dir))?;
    let path = path(state_dir, hash);
    document::write(&path, result, Durability::Power)?;
    Ok(fs::metadata(&path)?.len())
}

/// A result that is kept; `None` if somebody has removed it.
pub(crate) fn read(state_dir: &Path, hash: &str) -> Option<Value> {
    lease::look(&path(state_dir, hash))
}

/// Removes a result.
pub(crate) fn forget(state_dir: &Path, hash: &str) {
    let path = path(state_dir, hash);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            trace::warn(None, format_args!("{} could not be removed: {error}", path.display()));
        }
        _ => {}
    }
}

/// Removes what no key names: a process that was killed leaves some.
pub(crate) fn sweep(state_dir: &Path, state: &State) {
    let keys: std::collections::BTreeSet<String> = state
        .execs()
        .all()
        .filter(|(_, keyed)| matches!(keyed.outcome, Exec::Finished(_)))
        .map(|(hash, _)| format!("{hash}.json"))
        .collect();
    for entry in fs::read_dir(folder(state_dir)).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| keys.contains(name)) {
            let _ = fs::remove_file(entry.path()); // the next start tries again
        }
    }
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("exec-results")
}

fn path(state_dir: &Path, hash: &str) -> PathBuf {
    folder(state_dir).join(format!("{hash}.json"))
}
