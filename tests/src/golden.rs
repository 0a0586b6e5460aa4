//! Texts that are compared with files in `tests/golden/`; `UPDATE_GOLDEN=1` writes them anew.

use std::fs;
use std::path::Path;

/// Panics if `text` differs from the golden file of that name, showing the first line that does.
#[track_caller]
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let folder = path.parent().unwrap_or(&path);
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, text));
        written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        return;
    }
    compare(name, text, &fs::read_to_string(&path).unwrap_or_default());
}

/// The same for a text that is not the one that the file is written from, and lacks the lines that begin with one of
/// `left_out`.
#[track_caller]
pub fn same_as_golden(name: &str, text: &str, left_out: &[&str]) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return; // it may be written anew at this moment
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    let stays = |line: &&str| !left_out.iter().any(|start| line.starts_with(start));
    let mut lines: Vec<_> = wanted.lines().filter(stays).collect();
    lines.dedup();
    compare(name, text, &lines.join("\n"));
}

#[track_caller]
fn compare(name: &str, text: &str, wanted: &str) {
    let (mut got_lines, mut wanted_lines) = (text.lines(), wanted.lines());
    for number in 1.. {
        let (got, want) = (got_lines.next(), wanted_lines.next());
        assert!(
            got == want,
            "{name} differs in line {number}\n  golden: {}\n  now:    {}\n(UPDATE_GOLDEN=1 accepts)\n--- now\n{text}",
            want.unwrap_or("(end)"),
            got.unwrap_or("(end)")
        );
        if got.is_none() {
            return;
        }
    }
}
