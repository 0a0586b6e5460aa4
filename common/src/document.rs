//! One JSON document in a file, replaced as a whole.
//!
//! Owns the temporary file beside it and what becomes of a damaged one. Knows nothing of what documents mean.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::time::Timestamp;
use crate::trace;

/// How much a replacement must outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process: for views, which are made again from the log.
    Process,
    /// The loss of power: synced, and its folder too.
    Power,
}

/// Replaces the document at `path`; a reader sees the old one or the new one, never a part.
///
/// The file has mode 0600. Only one thread may write a given path.
///
/// # Errors
/// Any error of the file system; the old document then still stands.
pub fn write<T: Serialize>(path: &Path, value: &T, durability: Durability) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write_text(path, &text, durability)
}

/// The same with a text that is JSON already.
///
/// # Errors
/// As `write`.
pub fn write_text(path: &Path, text: &[u8], durability: Durability) -> io::Result<()> {
    let temporary = beside(path, "tmp");
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        if durability == Durability::Power {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // it may hold the very bytes that a full disk lacks
        return written;
    }
    match (durability, path.parent()) {
        (Durability::Power, Some(folder)) => sync_folder(folder),
        _ => Ok(()),
    }
}

/// Reads the document at `path`; `None` if there is none.
///
/// One that does not parse is renamed to `….damaged-<time>` beside it, with a line in the log, and reads as none:
/// it is never overwritten.
///
/// # Errors
/// Any error of the file system but a missing file.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice(&text) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let aside = set_aside(path)?;
            trace::error(
                None,
                format_args!("{} is damaged ({error}); kept as {}", path.display(), aside.display()),
            );
            Ok(None)
        }
    }
}

/// Moves a damaged file out of the way and says where it is now.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, &format!("damaged-{}", Timestamp::now().millis()));
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Keeps a damaged part of a file beside it and says where.
pub fn keep_aside(path: &Path, part: &[u8]) -> io::Result<PathBuf> {
    let aside = beside(path, &format!("damaged-{}", Timestamp::now().millis()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(part)?;
    Ok(aside)
}

/// Makes `path` and what lies above it, with mode 0700; one that exists is narrowed to it.
pub fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    if fs::metadata(path)?.permissions().mode() & 0o777 == 0o700 {
        return Ok(()); // on a read-only disk that is all one can ask for
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// The bytes of the files that stand in a folder itself.
///
/// # Errors
/// If the folder cannot be read.
pub fn bytes_in(folder: &Path) -> io::Result<u64> {
    let entries = fs::read_dir(folder)?.flatten().filter_map(|entry| entry.metadata().ok());
    Ok(entries.filter(fs::Metadata::is_file).map(|data| data.len()).sum())
}

/// Makes the names in a folder survive a loss of power.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Locks a folder, where nobody can remove the lock, for as long as the file lives; whoever has it may take `patience` to
/// be gone: a fork of a process that has ended holds it until it has become another program.
///
/// # Errors
/// `WouldBlock` if somebody else has it, or what the system says.
pub fn lock_folder(path: &Path, patience: Duration) -> io::Result<File> {
    let (file, until) = (File::open(path)?, Instant::now() + patience);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::folder;

    #[test]
    fn a_document_is_replaced_and_read_back() {
        let dir = folder("document");
        let path = dir.join("a.json");
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), None);
        write(&path, &vec![1, 2], Durability::Power).unwrap();
        write(&path, &vec![3], Durability::Process).unwrap();
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file stays");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_document_is_set_aside_not_lost() {
        let dir = folder("damaged");
        let path = dir.join("a.json");
        fs::write(&path, "{\"half\":").unwrap();
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), None);
        let kept = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
        assert!(kept.to_string_lossy().contains("a.json.damaged-"), "{kept:?}");
        assert_eq!(fs::read_to_string(kept).unwrap(), "{\"half\":");
    }
}
