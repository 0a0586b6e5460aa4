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
    let wanted = fs::read_to_string(&path).unwrap_or_default();
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
