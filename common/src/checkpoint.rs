//! What recovery starts from: the state as of a number of the log, in `checkpoint.json`, and the one before it beside it.
//!
//! Owns the two files and their form. Knows nothing of what a state holds.

use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::document::{self, Durability};
use crate::log::Seq;

/// The newest checkpoint.
pub const NEWEST: &str = "checkpoint.json";
const OLDER: &str = "checkpoint.1.json";
/// The form of a checkpoint; another is not read.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Checkpoint<'a, S> {
    version: u32,
    seq: Seq,
    state: &'a S,
}

#[derive(Deserialize)]
struct Saved<S> {
    version: u32,
    state: S,
}

#[derive(Deserialize)]
struct SavedSeq {
    version: u32,
    seq: Seq,
}

/// The number up to which the older checkpoint in `folder` holds everything; 0 without one. The log may forget that much.
pub fn covered(folder: &Path) -> Seq {
    let older = document::bytes(&folder.join(OLDER)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    older.filter(|saved: &SavedSeq| saved.version == VERSION).map_or(0, |saved| saved.seq)
}

/// The newest checkpoint in `folder` that can be read. With `repair`, one that is damaged is set aside.
///
/// # Errors
/// Any error of the file system.
pub fn read<S: DeserializeOwned>(folder: &Path, repair: bool) -> io::Result<Option<S>> {
    for name in [NEWEST, OLDER] {
        let path = folder.join(name);
        let saved: Option<Saved<S>> = match repair {
            true => document::read(&path)?,
            false => document::bytes(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()),
        };
        if let Some(saved) = saved.filter(|saved| saved.version == VERSION) {
            return Ok(Some(saved.state));
        }
    }
    Ok(None)
}

/// Writes a checkpoint of everything up to `seq`. Two are kept: the newer replaces the older one only when it is whole on
/// disk.
///
/// # Errors
/// Any error of the file system.
pub fn write<S: Serialize>(folder: &Path, seq: Seq, state: &S) -> io::Result<()> {
    let newest = folder.join(NEWEST);
    if newest.exists() {
        fs::rename(&newest, folder.join(OLDER))?;
    }
    document::write(&newest, &Checkpoint { version: VERSION, seq, state }, Durability::Power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::folder;

    #[test]
    fn the_newest_that_can_be_read_is_taken_and_the_older_one_says_what_is_covered() {
        let dir = folder("checkpoint");
        assert_eq!((read::<u32>(&dir, true).unwrap(), covered(&dir)), (None, 0));
        write(&dir, 7, &70).unwrap();
        assert_eq!((read::<u32>(&dir, false).unwrap(), covered(&dir)), (Some(70), 0));
        write(&dir, 8, &80).unwrap();
        assert_eq!((read::<u32>(&dir, false).unwrap(), covered(&dir)), (Some(80), 7));
        fs::write(dir.join(NEWEST), "{\"version\":1,").unwrap();
        assert_eq!(read::<u32>(&dir, false).unwrap(), Some(70), "a look leaves the damaged one where it is");
        assert_eq!(read::<u32>(&dir, true).unwrap(), Some(70));
        assert!(!dir.join(NEWEST).exists(), "a repair sets it aside");
        fs::write(dir.join(NEWEST), r#"{"version":2,"seq":9,"state":90}"#).unwrap();
        assert_eq!(read::<u32>(&dir, false).unwrap(), Some(70), "of another form");
    }
}
