//! The files of transcripts: which there are, and where in one of them a line stands.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use common::log::{self, Seq};

/// A file of a transcript.
pub(super) struct Found {
    pub(super) session_id: String,
    /// The name of what it holds whole; `None` if it holds the lines.
    pub(super) sha1: Option<String>,
    pub(super) bytes: u64,
}

/// Every file of every transcript in `folder`; none if there is no folder.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some((session_id, sha1)) = name.to_str().and_then(parts) else { continue };
        if let Ok(data) = entry.metadata() {
            let (session_id, sha1) = (session_id.to_owned(), sha1.map(str::to_owned));
            found.push(Found { session_id, sha1, bytes: data.len() });
        }
    }
    Ok(found)
}

/// The session and the hash in a file's name.
fn parts(name: &str) -> Option<(&str, Option<&str>)> {
    if let Some(session_id) = name.strip_suffix(".jsonl") {
        return Some((session_id, None));
    }
    let (session_id, sha1) = name.strip_suffix(".json")?.rsplit_once('.')?;
    is_sha1(sha1).then_some((session_id, Some(sha1)))
}

/// Whether a text is the name of something whole. Whoever writes into an item can write anything else there.
pub(super) fn is_sha1(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Opens a session's lines; `None` if it has none.
pub(super) fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    match common::document::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => {
            let file = opened?;
            let len = file.metadata()?.len();
            Ok(Some((file, len)))
        }
    }
}

/// The number of the first line of a file, if it has one.
pub(super) fn first_seq(path: &Path) -> io::Result<Option<Seq>> {
    let mut head = Vec::new();
    if let Some((file, _)) = open(path)? {
        file.take(32).read_to_end(&mut head)?;
    }
    Ok(log::seq_of(&head))
}

/// Cuts off the line `seq`, all that follows, and whatever torn thing stands there; says how much is left.
pub(super) fn cut_from(path: &Path, seq: Seq) -> io::Result<u64> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        opened => opened?,
    };
    let len = file.metadata()?.len();
    let keep = log::offset(&file, len, seq)?;
    if keep < len {
        file.set_len(keep)?;
    }
    Ok(keep)
}

/// Hands the whole lines that stand in `range` to `take`, until it says `false`. What is no text, or has no end, is left
/// out.
pub(super) fn lines(file: &File, range: Range<u64>, mut take: impl FnMut(&str) -> bool) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    reader.seek(SeekFrom::Start(range.start))?;
    let mut reader = reader.take(range.end.saturating_sub(range.start));
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Ok(());
        }
        if let Ok(text) = std::str::from_utf8(&line)
            && !take(text)
        {
            return Ok(());
        }
    }
}
