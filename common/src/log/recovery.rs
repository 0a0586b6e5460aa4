//! What a log's files hold after any end of the process, and their repair.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Seq, seq_of};
use crate::{document, trace};

/// Of a damaged last line so much is kept; ours have some hundred KB at the most.
const MAX_KEPT_BYTES: u64 = 16 * 1024 * 1024;
/// The segment that is being written.
pub(super) const ACTIVE: &str = "events.jsonl";
/// The next one, before it takes that name.
pub(super) const NEW: &str = "events.jsonl.new";

/// The name of a full segment, so that names sort as numbers do.
pub(super) fn full_name(first: Seq) -> String {
    format!("events-{first:020}.jsonl")
}

/// A segment on disk.
pub(super) struct Found {
    pub(super) first: Seq,
    pub(super) path: PathBuf,
}

/// What a replay of the files found.
pub struct Replayed {
    /// The number after the last line.
    pub next: Seq,
    pub(super) segments: Vec<Found>,
    end: End,
}

impl Replayed {
    /// What is wrong with the files before their end; what was replayed then lacks all that follows.
    pub fn damage(&self) -> Option<&str> {
        if let End::Damaged(why) = &self.end { Some(why) } else { None }
    }

    /// Where the whole lines of the last segment end, if something torn follows them.
    pub(super) fn torn_at(&self) -> Option<u64> {
        if let End::Torn(len) = self.end { Some(len) } else { None }
    }
}

enum End {
    Whole,
    /// The last segment holds whole lines up to this offset, and a torn one after it.
    Torn(u64),
    Damaged(String),
}

/// Hands every line after `after` to `apply`, without writing anything: a daemon may be at work in the same folder.
///
/// Stops at a torn or damaged line; `Replayed::damage` says which it was.
///
/// # Errors
/// Any error of the file system but files that vanish meanwhile.
pub fn replay(
    folder: &Path,
    after: Seq,
    apply: impl FnMut(Seq, &str) -> Result<(), String>,
) -> io::Result<Replayed> {
    scan(segments(folder)?, after, apply)
}

/// As `replay`, then cuts a torn end and sets damaged files aside.
pub(super) fn repair(
    folder: &Path,
    after: Seq,
    apply: impl FnMut(Seq, &str) -> Result<(), String>,
) -> io::Result<Replayed> {
    let repaired = finish_rotation(folder);
    let mut replayed = replay(folder, after, apply)?;
    if let Err(error) = repaired {
        let as_it_is = error.kind() == io::ErrorKind::ReadOnlyFilesystem && replayed.damage().is_none();
        return if as_it_is { Ok(replayed) } else { Err(error) };
    }
    match std::mem::replace(&mut replayed.end, End::Whole) {
        End::Whole => {}
        End::Torn(len) => {
            if let Some(last) = replayed.segments.last() {
                trace::warn(
                    None,
                    format_args!("{}: a torn line after byte {len} is cut", last.path.display()),
                );
                let file = OpenOptions::new().read(true).write(true).open(&last.path)?;
                keep_whole_line(&last.path, &file, len)?;
                file.set_len(len)?;
                file.sync_all()?;
            }
        }
        End::Damaged(why) => {
            let highest = replayed
                .segments
                .iter()
                .map(|found| last_seq(&found.path))
                .collect::<io::Result<Vec<_>>>()?;
            let highest = highest.into_iter().flatten().max().unwrap_or(0);
            for found in replayed.segments.drain(..) {
                let aside = document::set_aside(&found.path)?;
                trace::error(None, format_args!("the log is damaged ({why}); kept as {}", aside.display()));
            }
            replayed.next = replayed.next.max(highest + 1);
        }
    }
    Ok(replayed)
}

/// Keeps what is to be cut off if it is no torn line but a whole one that is no good: somebody may want to know what it was.
fn keep_whole_line(path: &Path, mut file: &File, from: u64) -> io::Result<()> {
    let mut cut = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(MAX_KEPT_BYTES).read_to_end(&mut cut)?;
    if cut.ends_with(b"\n") {
        let aside = document::keep_aside(path, &cut)?;
        trace::error(None, format_args!("the last line of the log is damaged; kept as {}", aside.display()));
    }
    Ok(())
}

/// A rotation that was cut off between its two renames is completed; its new, empty file is made again.
pub(super) fn finish_rotation(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(NEW)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn segments(folder: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let first = match name.strip_prefix("events-").and_then(|rest| rest.strip_suffix(".jsonl")) {
            Some(digits) => digits.parse().ok().filter(|&first| first > 0),
            None if name == ACTIVE => Some(first_seq(&path)?.unwrap_or(Seq::MAX)),
            None => None,
        };
        if let Some(first) = first {
            found.push(Found { first, path });
        }
    }
    found.sort_by_key(|found| found.first);
    Ok(found)
}

fn scan(
    segments: Vec<Found>,
    after: Seq,
    mut apply: impl FnMut(Seq, &str) -> Result<(), String>,
) -> io::Result<Replayed> {
    let damaged = |segments, next, why: String| Ok(Replayed { next, segments, end: End::Damaged(why) });
    let oldest = segments.first().map_or(Seq::MAX, |found| found.first);
    if oldest == Seq::MAX {
        let end = end_without_lines(&segments)?;
        return Ok(Replayed { next: after + 1, segments, end });
    }
    if after > 0 && oldest > after + 1 {
        return damaged(segments, after + 1, gone(after + 1, oldest - 1));
    }
    let mut next = oldest;
    for index in 0..segments.len() {
        let last = index + 1 == segments.len();
        if !last && segments[index + 1].first <= after + 1 {
            next = segments[index + 1].first;
            continue; // the checkpoint holds all of it
        }
        if segments[index].first == Seq::MAX {
            let end = end_without_lines(&segments)?;
            return if next > after {
                Ok(Replayed { next, segments, end })
            } else {
                damaged(segments, after + 1, gone(next, after))
            };
        }
        if segments[index].first != next {
            let first = segments[index].first;
            return damaged(segments, next, format!("event {first} follows {}", next - 1));
        }
        match read_segment(&segments[index].path, &mut next, after, &mut apply)? {
            Read::Whole => {}
            Read::Bad { offset, at_end: true, .. } if last => {
                let end = End::Torn(offset);
                return if next > after {
                    Ok(Replayed { next, segments, end })
                } else {
                    damaged(segments, after + 1, gone(next, after))
                };
            }
            Read::Bad { why, .. } => {
                let why = format!("{}: {why}", segments[index].path.display());
                return damaged(segments, next.max(after + 1), why);
            }
        }
    }
    if next <= after {
        return damaged(segments, after + 1, gone(next, after));
    }
    Ok(Replayed { next, segments, end: End::Whole })
}

fn gone(from: Seq, to: Seq) -> String {
    format!("events {from} to {to} are missing")
}

/// The end of a log whose last segment begins with no number: it is empty, torn from its start, or damaged there, which
/// whole lines behind it tell.
fn end_without_lines(segments: &[Found]) -> io::Result<End> {
    match segments.last() {
        Some(last) if fs::metadata(&last.path)?.len() > 0 => Ok(match last_seq(&last.path)? {
            None => End::Torn(0),
            Some(seq) => End::Damaged(format!(
                "{}: no event at its begin, and event {seq} behind it",
                last.path.display()
            )),
        }),
        _ => Ok(End::Whole),
    }
}

enum Read {
    Whole,
    /// The line at `offset` is no good; `at_end` says that nothing follows it.
    Bad {
        offset: u64,
        at_end: bool,
        why: String,
    },
}

fn read_segment(
    path: &Path,
    next: &mut Seq,
    after: Seq,
    apply: &mut impl FnMut(Seq, &str) -> Result<(), String>,
) -> io::Result<Read> {
    let mut reader = BufReader::with_capacity(256 * 1024, document::open(path)?);
    let (mut line, mut offset) = (Vec::new(), 0);
    loop {
        line.clear();
        let size = reader.read_until(b'\n', &mut line)? as u64;
        if size == 0 {
            return Ok(Read::Whole);
        }
        let judged = match line.pop() {
            Some(b'\n') => judge(&line, *next, after, apply),
            _ => Err("a line without an end".to_owned()),
        };
        if let Err(why) = judged {
            let at_end = reader.fill_buf()?.is_empty();
            return Ok(Read::Bad { offset, at_end, why: format!("at byte {offset}: {why}") });
        }
        offset += size;
        *next += 1;
    }
}

fn judge(
    line: &[u8],
    expected: Seq,
    after: Seq,
    apply: &mut impl FnMut(Seq, &str) -> Result<(), String>,
) -> Result<(), String> {
    match seq_of(line) {
        Some(seq) if seq == expected => {}
        Some(seq) => return Err(format!("event {seq} where {expected} belongs")),
        None => return Err("a line without a number".to_owned()),
    }
    if expected <= after {
        return Ok(());
    }
    let text = std::str::from_utf8(line).map_err(|_| "a line that is not UTF-8".to_owned())?;
    apply(expected, text)
}

/// The number of a file's first line, if it has a whole one.
pub(super) fn first_seq(path: &Path) -> io::Result<Option<Seq>> {
    let mut head = Vec::new();
    let file = match document::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    io::Read::read_to_end(&mut io::Read::take(file, 32), &mut head)?;
    Ok(seq_of(&head))
}

/// The highest number that any line of a file begins with.
fn last_seq(path: &Path) -> io::Result<Option<Seq>> {
    let mut reader = BufReader::with_capacity(256 * 1024, document::open(path)?);
    let (mut line, mut highest) = (Vec::new(), None);
    while {
        line.clear();
        reader.read_until(b'\n', &mut line)? > 0
    } {
        highest = highest.max(seq_of(&line));
    }
    Ok(highest)
}
