//! `POST /v1/files/read` and `POST /v1/files/write`: whole files, never waited for, never seen half written.
//!
//! A link is followed: what it leads to is read, or replaced, and the link stays; one that leads nowhere is not written
//! through. A replaced file keeps its mode, and its owner where the system allows it; other hard links of it keep the old content.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::time::Timestamp;
use common::wire::Object;
use common::{document, sys};
use serde_json::{Value, json};

use super::{Fault, Host, MAX_PATH_BYTES, Union};

/// What is read in one answer; JSON makes up to six times as much of it, which is just what one answer may have.
const MAX_READ_BYTES: usize = 10 * 1024 * 1024;
/// `encoding` if nothing is said.
const UTF8: &str = "utf8";
const BASE64: &str = "base64";

/// What the unions call them.
pub(super) const READ: &str = "files/read";
pub(super) const WRITE: &str = "files/write";

common::body! {
    /// Body of `POST /v1/files/read`.
    pub(crate) struct ReadFile {
        required path "path": string(MAX_PATH_BYTES), "The file.";
        optional cwd "cwd": string(MAX_PATH_BYTES), "The folder that a relative path begins in; else that of the daemon.";
        optional encoding "encoding": one_of("utf8", "base64"), "How the content is given: as text (utf8), or as base64.";
    }
}

common::body! {
    /// Body of `POST /v1/files/write`.
    pub(crate) struct WriteFile {
        required path "path": string(MAX_PATH_BYTES), "The file.";
        required content "content": string, "All that it shall hold.";
        optional cwd "cwd": string(MAX_PATH_BYTES), "The folder that a relative path begins in; else that of the daemon.";
        optional overwrite "overwrite": boolean, "Whether a file that is there is replaced (true).";
        optional create_parents "createParents": boolean, "Whether missing folders are made (false).";
        optional encoding "encoding": one_of("utf8", "base64"), "How the content is given: as text (utf8), or as base64.";
    }
}

impl ReadFile {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it, as `INVALID_INPUT`.
    pub(super) fn read(given: &Object) -> Result<ReadFile, Fault> {
        let read = ReadFile::parse(given)?;
        super::plain("path", Some(&read.path))?;
        super::plain("cwd", read.cwd.as_deref())?;
        Ok(read)
    }

    fn encoding(&self) -> &str {
        self.encoding.as_deref().unwrap_or(UTF8)
    }
}

impl WriteFile {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it, as `INVALID_INPUT`.
    pub(super) fn read(given: &Object) -> Result<WriteFile, Fault> {
        let write = WriteFile::parse(given)?;
        super::plain("path", Some(&write.path))?;
        super::plain("cwd", write.cwd.as_deref())?;
        Ok(write)
    }

    fn input(&self) -> Value {
        json!({
            "path": self.path,
            "cwd": self.cwd,
            "contentBytes": self.content.len(),
            "overwrite": self.overwrite.unwrap_or(true),
            "createParents": self.create_parents.unwrap_or(false),
            "encoding": self.encoding.as_deref().unwrap_or(UTF8),
        })
    }

    fn bytes(&self) -> Result<Vec<u8>, Fault> {
        match self.encoding.as_deref() {
            Some(BASE64) => {
                STANDARD.decode(&self.content).map_err(|_| Fault::invalid("content", "is no base64"))
            }
            _ => Ok(self.content.as_bytes().to_vec()),
        }
    }
}

/// Reads a whole file.
pub(super) fn read(host: &Host, read: &ReadFile) -> Union {
    let input = json!({ "path": read.path, "cwd": read.cwd, "encoding": read.encoding() });
    let mut result = empty_read();
    result.insert("encoding".into(), json!(read.encoding()));
    let found = Place::of(host, &read.path, read.cwd.as_deref()).and_then(|place| {
        result.insert("absolutePath".into(), json!(place.path));
        let bytes = place.content()?;
        let length = bytes.len();
        Ok((place.shown(bytes, read.encoding())?, length))
    });
    let error = match found {
        Err(fault) => Some(fault),
        Ok((content, bytes)) => {
            result.insert("content".into(), Value::String(content));
            result.insert("bytes".into(), json!(bytes));
            None
        }
    };
    Union { operation: READ, input, result, error }
}

/// Writes a whole file: until it is there as a whole, what was there before is.
pub(super) fn write(host: &Host, write: &WriteFile) -> Union {
    let mut result = empty_write();
    let written = Place::of(host, &write.path, write.cwd.as_deref()).and_then(|place| {
        result.insert("absolutePath".into(), json!(place.path));
        let bytes = write.bytes()?;
        if write.create_parents.unwrap_or(false) {
            place.make_parents()?;
        }
        let overwritten = match write.overwrite.unwrap_or(true) {
            true => place.put(&bytes)?,
            false => place.add(&bytes)?,
        };
        Ok((bytes.len(), overwritten))
    });
    let error = match written {
        Err(fault) => Some(fault),
        Ok((bytes, overwritten)) => {
            result.insert("bytesWritten".into(), json!(bytes));
            result.insert("created".into(), json!(!overwritten));
            result.insert("overwritten".into(), json!(overwritten));
            None
        }
    };
    Union { operation: WRITE, input: write.input(), result, error }
}

/// The result of what was not read.
pub(super) fn empty_read() -> Object {
    let result = json!({ "absolutePath": null, "content": "", "bytes": 0, "encoding": UTF8 });
    result.as_object().cloned().unwrap_or_default()
}

/// The result of what was not written.
pub(super) fn empty_write() -> Object {
    let result = json!({ "absolutePath": null, "bytesWritten": 0, "created": false, "overwritten": false });
    result.as_object().cloned().unwrap_or_default()
}

/// A path, and what it takes to say why something cannot be done with it.
struct Place<'a> {
    host: &'a Host,
    path: PathBuf,
    cwd: PathBuf,
}

impl<'a> Place<'a> {
    fn of(host: &'a Host, path: &str, cwd: Option<&str>) -> Result<Place<'a>, Fault> {
        let cwd = super::folder(cwd)?;
        let path = cwd.join(path);
        Ok(Place { host, path: std::path::absolute(&path).unwrap_or(path), cwd })
    }

    fn fault(&self, error: io::Error) -> Fault {
        self.host.fault_of(&error, &self.path, &self.cwd)
    }

    fn not_a_file(&self) -> Fault {
        let message = format!("{} is no regular file.", self.path.display());
        Fault::new("NOT_A_FILE", message).with(json!({ "path": self.path }))
    }

    /// All that is in the file.
    fn content(&self) -> Result<Vec<u8>, Fault> {
        // Asked before it is opened, since opening a device may do something; and after, since it may be another by then.
        let data = fs::metadata(&self.path).map_err(|error| self.fault(error))?;
        let file = if data.is_file() { self.open(OpenOptions::new().read(true)) } else { Ok(None) };
        let file = file.map_err(|error| self.fault(error))?.ok_or_else(|| self.not_a_file())?;
        let mut bytes = Vec::new();
        if data.len() <= MAX_READ_BYTES as u64 {
            let mut most = file.take(MAX_READ_BYTES as u64 + 1); // it may grow, and the system's own say they are empty
            most.read_to_end(&mut bytes).map_err(|error| self.fault(error))?;
        }
        if bytes.len().max(data.len().try_into().unwrap_or(usize::MAX)) <= MAX_READ_BYTES {
            return Ok(bytes);
        }
        let message = format!("{} has more than {MAX_READ_BYTES} bytes.", self.path.display());
        let details = json!({ "path": self.path, "maxBytes": MAX_READ_BYTES, "bytes": data.len() });
        Err(Fault::new("FILE_TOO_LARGE", message).with(details))
    }

    /// Opens the file without waiting for anybody; `None` if it is no regular one.
    fn open(&self, options: &mut OpenOptions) -> io::Result<Option<File>> {
        let file = options.custom_flags(sys::OPEN_AT_ONCE).open(&self.path)?;
        Ok(if file.metadata()?.is_file() { Some(file) } else { None })
    }

    fn shown(&self, bytes: Vec<u8>, encoding: &str) -> Result<String, Fault> {
        if encoding == BASE64 {
            return Ok(STANDARD.encode(bytes));
        }
        String::from_utf8(bytes).map_err(|error| {
            let message = format!("{} is not UTF-8; base64 shows it.", self.path.display());
            let details = json!({ "path": self.path, "validBytes": error.utf8_error().valid_up_to() });
            Fault::new("NOT_UTF8", message).with(details)
        })
    }

    /// Makes the folders that are missing above the file, to stay.
    fn make_parents(&self) -> Result<(), Fault> {
        let missing: Vec<_> = self.path.ancestors().skip(1).take_while(|folder| !folder.exists()).collect();
        let Some(parent) = missing.first() else { return Ok(()) };
        let made = fs::create_dir_all(parent).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => ErrorKind::NotADirectory.into(), // something else has the name
            _ => error,
        });
        let settled =
            made.and_then(|()| missing.iter().filter_map(|folder| folder.parent()).try_for_each(settle));
        settled.map_err(|error| self.fault(error))
    }

    /// Puts a new file there, if there is nothing of that name.
    fn add(&self, bytes: &[u8]) -> Result<bool, Fault> {
        if fs::symlink_metadata(&self.path).is_ok() {
            return Err(self.fault(ErrorKind::AlreadyExists.into()));
        }
        let temporary = self.fill(&self.path, bytes, None)?;
        // Unlike a renaming, a link is refused where something has the name by now.
        let linked = fs::hard_link(&temporary.0, &self.path);
        linked.and_then(|()| settle(folder_of(&self.path))).map_err(|error| self.fault(error))?;
        Ok(false)
    }

    /// Puts the file there in place of what has its name, and says whether something had.
    fn put(&self, bytes: &[u8]) -> Result<bool, Fault> {
        let target = match fs::symlink_metadata(&self.path) {
            Ok(data) if data.is_symlink() => fs::canonicalize(&self.path),
            Ok(data) if data.is_file() => Ok(self.path.clone()),
            Ok(_) => return Err(self.not_a_file()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(self.path.clone()),
            Err(error) => Err(error),
        };
        let target = target.map_err(|error| self.fault(error))?;
        let old = match fs::metadata(&target) {
            Ok(data) if data.is_file() => Some(data),
            Ok(_) => return Err(self.not_a_file()),
            Err(_) => None,
        };
        // Replacing a file asks for no right to it; writing does.
        let denied = |error: &io::Error| {
            matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
        };
        if old.is_some()
            && let Err(error) = self.open(OpenOptions::new().write(true))
            && denied(&error)
        {
            return Err(self.fault(error));
        }
        let temporary = self.fill(&target, bytes, old.as_ref())?;
        let renamed = fs::rename(&temporary.0, &target);
        renamed.and_then(|()| settle(folder_of(&target))).map_err(|error| self.fault(error))?;
        Ok(old.is_some())
    }

    /// A file beside `target` that holds this and can take its name.
    fn fill(&self, target: &Path, bytes: &[u8], old: Option<&Metadata>) -> Result<Temporary, Fault> {
        if target.file_name().is_none() || target.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(self.not_a_file());
        }
        let (temporary, mut file) =
            Temporary::beside(target, old.is_some()).map_err(|error| self.fault(error))?;
        let filled = match old {
            Some(old) => keep_rights(&file, old),
            None => Ok(()),
        };
        let filled = filled.and_then(|()| file.write_all(bytes)).and_then(|()| file.sync_all());
        filled.map_err(|error| self.fault(error))?;
        Ok(temporary)
    }
}

/// A file that is there until its content has the name it is meant for; a process that is killed leaves it.
struct Temporary(PathBuf);

impl Temporary {
    /// One that nobody else may look into, if what it replaces may have to be kept from others.
    fn beside(target: &Path, private: bool) -> io::Result<(Temporary, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".baa-write-{}-{number}-{}", std::process::id(), Timestamp::now().millis());
        let path = folder_of(target).join(name);
        let mode = if private { 0o600 } else { 0o666 };
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        Ok((Temporary(path), file))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // after a renaming there is none
    }
}

/// Gives a file the owner, as far as that is allowed, and the mode of the one that it replaces.
fn keep_rights(file: &File, old: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    let same = (new.uid(), new.gid()) == (old.uid(), old.gid());
    let kept = same || fchown(file, Some(old.uid()), Some(old.gid())).is_ok();
    // A file that runs as its owner must not do so as another one.
    let mode = if kept { old.mode() & 0o7777 } else { old.mode() & 0o777 };
    file.set_permissions(Permissions::from_mode(mode))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Makes the names in a folder outlive the loss of power, if its rights allow that.
fn settle(folder: &Path) -> io::Result<()> {
    match document::sync_folder(folder) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
